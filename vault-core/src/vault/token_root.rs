//! What is left of a token root key (TRK) after its rotation: tokens that holders bring are wrapped under the key of now, what
//! still needs an older one is counted, and one that nothing needs is drained, which the log certifies.
//!
//! A card's record key is wrapped under a key that its token goes into, so nobody but who has the token can move it. New
//! tokens are under the new key, older ones once they are used. No card is opened here.

use std::collections::{BTreeMap, HashMap};

use super::amend::Amendment;
use super::view::View;
use super::{MAX_BATCH, MAX_ROUNDS, State, Vault};
use crate::aead::Unopened;
use crate::audit::entry::{ControlChange, Event, Who};
use crate::chain::Places;
use crate::envelope::{KeyId, KeyKind};
use crate::error::Error;
use crate::journal::{Filing, NotFiled};
use crate::keyring::{SubjectSecret, merchant_row};
use crate::name::{MerchantName, PrincipalName};
use crate::policy::Statement;
use crate::record::{MerchantId, SubjectId};
use crate::rows;
use crate::store::{Key, Part};
use crate::token::Token;

/// How many rows are looked at at once: one page of a store.
const PAGE: usize = 1_000;

/// How long after a rotation an older key may still be needed by answers that are kept for a retry: they live a day, and
/// the day that it begins in may be another one's.
const KEPT_DAYS: u32 = 2;

/// What became of tokens that were brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokensUpgraded {
    /// Wrapped under the key of now.
    pub upgraded: u64,
    /// Under it already, or under none any more, or never: vaultless, ended and shredded tokens.
    pub current: u64,
    /// No token of the merchant.
    pub unknown: u64,
    /// Rows that do not open, or were put back. `store verify` names them.
    pub unreadable: u64,
}

/// What needs which token root key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRoots {
    /// Card rows by key. One that holds an earlier card under another key counts for both.
    pub cards: BTreeMap<KeyId, u64>,
    /// Fingerprints by key: each is under the key of now once its card is brought again.
    pub fingerprints: BTreeMap<KeyId, u64>,
    /// Rows that do not open, and may need any.
    pub unreadable: u64,
    /// The older keys that nothing needs: by now the log certifies it, and they can be destroyed.
    pub drained: Vec<KeyId>,
}

/// What one token comes to.
enum Standing {
    Upgraded,
    Current,
    Unknown,
    Unreadable,
}

impl Vault {
    /// Wraps the record keys of these tokens, at most [`MAX_BATCH`], under the merchant's token root key of now. They are
    /// neither opened nor told of but by number. The log has how many, in the operator's name.
    pub async fn upgrade_tokens(
        &self,
        by: &PrincipalName,
        merchant: &MerchantName,
        tokens: &[Token],
    ) -> Result<TokensUpgraded, Error> {
        if tokens.len() > MAX_BATCH {
            return Err(Error::malformed("tokens", "must be at most 1,000"));
        }
        for _ in 0..MAX_ROUNDS {
            let state = self.state();
            let (id, mut part) = (number(&state, merchant)?, Part::default());
            let told = self.renewed(&state, id, tokens, &mut part).await?;
            let key = state.control.active(KeyKind::Trk, Some(merchant)).ok_or_else(Error::internal)?.id.0;
            let rows = u32::try_from(told.upgraded).unwrap_or(u32::MAX);
            let statement = Statement {
                who: Who::Listed(by.clone()),
                merchant: Some(merchant.clone()),
                channel: None,
                event: Event::Rewrapped { key, rows },
                epoch: state.epoch.version,
            };
            let filings = vec![Filing::Upkeep(statement, part, None)];
            match self.inner.journal.file(filings, None, None).await?.pop() {
                Some(Ok(_)) => return Ok(told),
                // Somebody used one of them meanwhile, or the epoch is another.
                Some(Err(NotFiled::Stale)) | None => {}
                Some(Err(why)) => return Err(why.into()),
            }
        }
        Err(Error::Overloaded)
    }

    /// Counts what needs which of a merchant's token root keys, and notes of each older one that nothing needs that it is
    /// drained. Reads all cards and fingerprints, and opens their outer seals alone.
    pub async fn token_roots(&self, merchant: &MerchantName) -> Result<TokenRoots, Error> {
        let state = self.state();
        let id = number(&state, merchant)?;
        let mut told = TokenRoots::default();
        for kind in [rows::CARD, rows::FINGERPRINT] {
            self.count_trks(&state, (kind, id), &mut told).await?;
        }
        let drained = self.unneeded(&state, merchant, &told);
        if drained.is_empty() {
            return Ok(told);
        }
        // Only if nothing was rotated since: then names and keys were the same all the while.
        let noted = self.change_by(&Who::Vault, Some(state.epoch.version), |premise, control| {
            control.drain(&drained, premise.now);
            let of = |key: &KeyId| ControlChange::KeyDrained { key: key.0 };
            let ended = control.end_compromised(&drained, premise.now);
            Ok(Amendment::of(drained.iter().map(of).chain(ended).collect(), ()))
        });
        match noted.await {
            Ok(_) => Ok(TokenRoots { drained, ..told }),
            Err(Error::EpochMismatch { .. }) => Ok(told),
            Err(e) => Err(e),
        }
    }

    /// The older keys that by these counts nothing needs.
    fn unneeded(&self, state: &State, merchant: &MerchantName, told: &TokenRoots) -> Vec<KeyId> {
        let control = &state.control;
        let renaming = |kind| control.undrained(merchant, kind).next().is_some();
        // A row that is given another name meanwhile may have been passed over.
        if renaming(KeyKind::Idx) || renaming(KeyKind::Fpr) || told.unreadable > 0 {
            return Vec::new();
        }
        let now = self.now();
        let all = || {
            control.keys.iter().filter(|k| k.kind == KeyKind::Trk && k.merchant.as_ref() == Some(merchant))
        };
        let over = |key: &KeyId| {
            all().find(|next| next.id > *key).is_some_and(|next| next.made_at.plus_days(KEPT_DAYS) <= now)
        };
        let needed = |key: &KeyId| told.cards.contains_key(key) || told.fingerprints.contains_key(key);
        control.undrained(merchant, KeyKind::Trk).filter(|key| over(key) && !needed(key)).collect()
    }

    async fn count_trks(
        &self,
        state: &State,
        (kind, merchant): (u8, MerchantId),
        told: &mut TokenRoots,
    ) -> Result<(), Error> {
        let [a, b, c, d] = merchant.0.to_be_bytes();
        let mut after: Option<Key> = None;
        loop {
            let page = self.inner.store.scan(&[kind, a, b, c, d], after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (key, bytes) in page {
                // What was left under a destroyed key needs no other one either.
                if state.keyring.is_shredded(merchant, &bytes) {
                    continue;
                }
                let name = key.last_chunk();
                let trks = name.and_then(|name| state.keyring.trks_of(merchant, kind, name, &bytes).ok());
                let by_key = if kind == rows::CARD { &mut told.cards } else { &mut told.fingerprints };
                match trks {
                    Some(trks) => trks.into_iter().for_each(|trk| *by_key.entry(trk).or_insert(0) += 1),
                    None => told.unreadable += 1,
                }
            }
        }
    }

    /// Looks at each token, and lets `part` put those rows that change.
    async fn renewed(
        &self,
        state: &State,
        id: MerchantId,
        tokens: &[Token],
        part: &mut Part,
    ) -> Result<TokensUpgraded, Error> {
        let (mut view, mut told) = (View::default(), TokensUpgraded::default());
        let mut places = Vec::with_capacity(tokens.len());
        for token in tokens {
            let row_key = state.keyring.row_key(id, token)?;
            places.push((row_key, state.keyring.card_places(id, row_key)?));
        }
        // What changed last is asked before the rows are read: then a row of before is known as such.
        let newest = places.iter().map(|(row, _)| (*row, self.inner.recent.newest(id, *row)));
        let newest: HashMap<_, _> = newest.collect();
        let keys = places.iter().flat_map(|(_, places)| places.keys()).collect();
        view.read(self.inner.store.as_ref(), keys).await?;
        let subjects = places.iter().filter_map(|(_, places)| {
            let place = view.at(places).ok()?;
            let card = state.keyring.card(id, &place, view.get(&place.key)?).ok()?;
            let subject = card.row.subject;
            (subject != SubjectId::NONE).then(|| merchant_row(rows::SUBJECT, id, &subject.0))
        });
        let subjects: Vec<Key> = subjects.collect();
        view.read(self.inner.store.as_ref(), subjects).await?;
        for (token, (row_key, places)) in tokens.iter().zip(&places) {
            let looked = (token, newest.get(row_key).copied().flatten(), places);
            match renew(state, id, looked, (&mut view, part)).unwrap_or(Standing::Unreadable) {
                Standing::Upgraded => told.upgraded += 1,
                Standing::Current => told.current += 1,
                Standing::Unknown => told.unknown += 1,
                Standing::Unreadable => told.unreadable += 1,
            }
        }
        Ok(told)
    }
}

fn renew(
    state: &State,
    id: MerchantId,
    (token, newest, places): (&Token, Option<u32>, &Places),
    (view, part): (&mut View, &mut Part),
) -> Result<Standing, Unopened> {
    let keyring = &state.keyring;
    let place = view.at(places)?;
    let Some(bytes) = view.get(&place.key) else { return Ok(Standing::Unknown) };
    // Nobody opens it again, under whatever key.
    if keyring.is_shredded(id, bytes) {
        return Ok(Standing::Current);
    }
    let mut row = keyring.card(id, &place, bytes)?.row;
    if newest.is_some_and(|newest| row.version < newest) {
        return Err(Unopened);
    }
    if row.vaultless || row.inner.is_none() {
        return Ok(Standing::Current);
    }
    let secret = if row.subject == SubjectId::NONE {
        SubjectSecret::none()
    } else {
        let bytes = view.get(&merchant_row(rows::SUBJECT, id, &row.subject.0)).ok_or(Unopened)?;
        let index = keyring.open_subject(id, row.subject, bytes)?;
        keyring.subject_secret(id, row.subject, &index)?
    };
    if !keyring.renew_record_keys(id, token, &secret, &mut row)? {
        return Ok(Standing::Current);
    }
    let sealed = keyring.seal_row(id, &place, &row).map_err(|_| Unopened)?;
    view.put(part, place.key, sealed);
    Ok(Standing::Upgraded)
}

fn number(state: &State, merchant: &MerchantName) -> Result<MerchantId, Error> {
    let unknown = || Error::malformed("merchant", "names no merchant");
    Ok(state.control.numbers.get(merchant).ok_or_else(unknown)?.id)
}
