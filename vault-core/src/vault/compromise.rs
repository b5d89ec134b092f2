//! Keys that somebody else may have, and keys that are destroyed with what is under them.
//!
//! A compromise is one commit: from its epoch on nothing new is protected by the key, and where there is a next version it is
//! there at once. What was under the key is counted before any of it moves, by outer seals alone: no card is opened. What is
//! destroyed is gone here; a copy that somebody took before stays what it is.

use std::collections::{BTreeMap, HashSet};

use super::amend::{Amendment, Premise};
use super::keys::{KeyLine, line};
use super::operate::{checked_note, note_key};
use super::rotate::{draw_link, draw_next, replace_adm, replace_ctl, replace_log, superseded};
use super::{State, Vault};
use crate::audit::entry::{ControlChange, Who};
use crate::audit::receipt::Receipt;
use crate::audit::tree::Hash;
use crate::chain::Name;
use crate::codec::Reader;
use crate::control::{Control, KeyRecord};
use crate::custody::Custodian;
use crate::envelope::{Dek, Fpr, Idx, KeyId, KeyKind, Rcv, Trk};
use crate::error::Error;
use crate::name::{ChannelName, MerchantName, PrincipalName};
use crate::record::{Grants, MerchantId, Row, SubjectId};
use crate::reseal::{KINDS, page_of};
use crate::rows;
use crate::store::{Key, Value, Write};
use crate::time::Timestamp;
use crate::words::{CompromiseReason, KeyState};

/// How many rows are read at once where what is under a key is counted: one page of a store.
const CENSUS_PAGE: usize = 1_000;

/// How many customers of what is under a key are told apart: 16 bytes each. Beyond it the count says "at least".
pub const MAX_COUNTED_CUSTOMERS: usize = 1_000_000;

/// What is under a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Under {
    /// Rows of all kinds: cards, fingerprints, customers' indexes.
    pub rows: u64,
    /// Rows of cards and other values; those of ended tokens, which hold none, are among them.
    pub cards: u64,
    /// For each channel how many of those work there; one that works on several counts at each.
    pub channels: BTreeMap<ChannelName, u64>,
    /// How many work on every channel, or on all but some.
    pub everywhere: u64,
    /// When the first of them was made.
    pub first: Option<Timestamp>,
    /// When the last of them was made.
    pub last: Option<Timestamp>,
    /// How many customers they are of; at [`MAX_COUNTED_CUSTOMERS`] it may be more.
    pub customers: u64,
    /// Rows that do not open: whether they are under the key cannot be told, unless they name it themselves.
    pub unreadable: u64,
}

/// What a compromise came to.
#[derive(Debug)]
pub struct Compromise {
    /// The key.
    pub key: KeyLine,
    /// The one that took its place in the same commit; none if it protected nothing new any more, or cannot be replaced.
    pub next: Option<KeyLine>,
    /// What was under it; none where the store could not be read for that: [`Vault::under`] counts it later.
    pub under: Option<Under>,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// What a key's destruction with its rows came to.
#[derive(Debug)]
pub struct Shredded {
    /// The key.
    pub key: KeyLine,
    /// What was under it, and opens no more.
    pub under: Under,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

impl Vault {
    /// Notes that somebody else may have a key (`expected` as at [`apply_policy`](Self::apply_policy)): from this commit on it
    /// protects nothing new, and the next version is in its place. `note` is sealed; the log has its hash. For the root,
    /// `custodians` must open every custody block, as at [`rotate_root`](Self::rotate_root).
    ///
    /// REF and IDM have no next version: they go on, and that they are known is written down. So does a key that cannot be
    /// replaced now: one of names while rows are still being renamed gets its successor once they are
    /// ([`replace_used_keys`](Self::replace_used_keys)), an erasure epoch key once customers have moved
    /// ([`erasing`](Self::erasing)), the root without `custodians` by whoever has them. In a merchant's last slot no token is
    /// made any more.
    ///
    /// Errors: malformed for a key that is not there or is gone, or was noted before.
    pub async fn compromise_key(
        &self,
        by: &PrincipalName,
        key: KeyId,
        (reason, note): (CompromiseReason, Option<&str>),
        custodians: &[&dyn Custodian],
        expected: Option<u64>,
    ) -> Result<Compromise, Error> {
        let note = note.map(checked_note).transpose()?;
        // What was under it is counted before any of it moves.
        let _no_row_moves = self.inner.resealing.lock().await;
        let told = |premise: &Premise<'_>, control: &mut Control, made: Amendment<Option<KeyId>>| {
            note_compromise(premise, control, key, (reason, note), made)
        };
        let record = known(&self.state().control, key)?.clone();
        let held = |premise: &Premise<'_>, control: &mut Control, made: Amendment<KeyId>| {
            told(premise, control, made.map(Some))
        };
        let is_active = record.state == KeyState::Active;
        let customers = (record.kind == KeyKind::Esk).then(|| self.inner.erasing.lock());
        let _no_customer_moves = match customers {
            Some(moves) => Some(moves.await),
            None => None,
        };
        let there = !custodians.is_empty();
        let (receipt, next) = if record.kind == KeyKind::Root && there {
            let (next, receipt) = self.rotate_root_with(by, custodians, expected, held).await?;
            (receipt, next)
        } else if record.kind == KeyKind::Esk && is_active && there && !self.moves_customers() {
            let by = Who::Listed(by.clone());
            let (next, receipt) = self.next_esk_with(&by, custodians, expected, held).await?;
            (receipt, next)
        } else {
            self.change(by, expected, |premise, control| {
                let record = known(control, key)?.clone();
                let made = replaced(premise, control, &record)?;
                told(premise, control, made)
            })
            .await?
        };
        // It is noted by now, whatever the count comes to.
        let under = self.under(key).await.ok();
        let state = self.state();
        let lined = |id: KeyId| state.control.keys.iter().find(|k| k.id == id).map(|k| line(&state, k));
        let noted = lined(key).ok_or_else(Error::internal)?;
        Ok(Compromise { key: noted, next: next.and_then(lined), under, receipt })
    }

    fn moves_customers(&self) -> bool {
        self.state().control.older_esk().is_some()
    }

    /// Destroys a key with what is under it (`expected` as at [`apply_policy`](Self::apply_policy)): those rows open no more,
    /// here or from a copy that has the keys of here. What they were is not looked at. Customers' indexes are sealed anew
    /// before: a customer's secret opens cards under later keys too, and erasing needs the index.
    ///
    /// Errors: as [`Control::check_shred`].
    pub async fn shred_key(
        &self,
        by: &PrincipalName,
        key: KeyId,
        expected: Option<u64>,
    ) -> Result<Shredded, Error> {
        let _nothing_moves = self.inner.resealing.lock().await;
        let record = self.state().control.check_shred(key)?.clone();
        if let (KeyKind::Dek, Some(merchant)) = (record.kind, &record.merchant) {
            self.keep_customers(merchant).await?;
        }
        let under = self.under(key).await?;
        let rows = under.rows;
        let shredded = self.change(by, expected, |_, control| {
            control.shred(key)?;
            Ok(Amendment::of(vec![ControlChange::KeyShredded { key: key.0, rows }], ()))
        });
        let (receipt, ()) = shredded.await?;
        let state = self.state();
        let record = state.control.keys.iter().find(|k| k.id == key).ok_or_else(Error::internal)?;
        Ok(Shredded { key: line(&state, record), under, receipt })
    }

    /// What is under a key: of the kinds that seal rows those that it sealed, of those that name or wrap what they named or
    /// what lies below them. Reads all rows that it may be.
    pub async fn under(&self, key: KeyId) -> Result<Under, Error> {
        let state = self.state();
        let record = state
            .control
            .keys
            .iter()
            .find(|k| k.id == key)
            .ok_or_else(|| Error::malformed("key", "names no key"))?;
        let (mut under, mut customers) = (Under::default(), HashSet::new());
        let own = |name: &MerchantName| record.merchant.as_ref().is_none_or(|m| m == name);
        for (name, numbers) in state.control.numbers.iter().filter(|(name, _)| own(name)) {
            for kind in KINDS {
                self.under_of(&state, record, (name, numbers.id, kind), (&mut under, &mut customers)).await?;
            }
        }
        under.customers = u64::try_from(customers.len()).unwrap_or(u64::MAX);
        Ok(under)
    }

    async fn under_of(
        &self,
        state: &State,
        key: &KeyRecord,
        (name, merchant, kind): (&MerchantName, MerchantId, u8),
        (under, customers): (&mut Under, &mut HashSet<SubjectId>),
    ) -> Result<(), Error> {
        let prefix = crate::codec::Writer::with_capacity(5).u8(kind).u32(merchant.0).done();
        let mut after: Option<Key> = None;
        loop {
            let most = page_of(kind, CENSUS_PAGE);
            let page = self.inner.store.scan(&prefix, after.as_deref(), most).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for found in &page {
                match standing(state, key, (merchant, kind), found) {
                    Some(Stands::Apart) => {}
                    Some(Stands::Under(row)) => under.note(state, name, row.as_deref(), customers),
                    None => under.unreadable = under.unreadable.saturating_add(1),
                }
            }
        }
    }
}

impl Under {
    fn note(
        &mut self,
        state: &State,
        merchant: &MerchantName,
        row: Option<&Row>,
        customers: &mut HashSet<SubjectId>,
    ) {
        self.rows = self.rows.saturating_add(1);
        let Some(row) = row else { return };
        self.cards = self.cards.saturating_add(1);
        self.first = Some(self.first.map_or(row.made_at, |first| first.min(row.made_at)));
        self.last = Some(self.last.map_or(row.made_at, |last| last.max(row.made_at)));
        match &row.grants {
            Grants::AllBut(_) => self.everywhere = self.everywhere.saturating_add(1),
            Grants::Only(these) => {
                let numbers = state.control.numbers.get(merchant);
                let named = numbers.into_iter().flat_map(|n| &n.channels);
                for (channel, _) in named.filter(|(_, id)| these.contains(id)) {
                    let count = self.channels.entry(channel.clone()).or_insert(0);
                    *count = count.saturating_add(1);
                }
            }
        }
        if row.subject != SubjectId::NONE && customers.len() < MAX_COUNTED_CUSTOMERS {
            customers.insert(row.subject);
        }
    }
}

/// How a row stands to a key.
enum Stands {
    /// It is under it; of a card's row, what its outer seal holds.
    Under(Option<Box<Row>>),
    /// It is not.
    Apart,
}

/// Whether a row is under a key; none if it does not open and so cannot tell.
fn standing(
    state: &State,
    key: &KeyRecord,
    (merchant, kind): (MerchantId, u8),
    (name, bytes): &(Key, Value),
) -> Option<Stands> {
    let outer = state.keyring.outer(merchant).ok()?;
    // Of another DEK's rows nothing need be opened.
    if key.kind == KeyKind::Dek && outer.under(kind, bytes).dek != Some(key.id) {
        return Some(Stands::Apart);
    }
    let plain = outer.open(kind, name.last_chunk::<{ size_of::<Name>() }>()?, bytes).ok()?;
    if kind == rows::CARD {
        let row = Row::decode(&plain).ok()?;
        let stands = hangs_on(key, kind, |trk| {
            let inner = row.inner.iter().chain(row.earlier.iter().map(|earlier| &earlier.inner));
            inner.into_iter().any(|inner| inner.trk == trk)
        });
        return Some(if stands { Stands::Under(Some(Box::new(row))) } else { Stands::Apart });
    }
    // A fingerprint's first bytes are its TRK, an index's its ESK.
    let first = KeyId(Reader::new(&plain).u32().ok()?);
    let stands = hangs_on(key, kind, |key| first == key);
    Some(if stands { Stands::Under(None) } else { Stands::Apart })
}

/// Whether a row of this kind is under a key, where `names` says whether it names a key of its own kind's.
fn hangs_on(key: &KeyRecord, kind: u8, names: impl Fn(KeyId) -> bool) -> bool {
    match key.kind {
        // Every row of the merchant, or of all, hangs on the upper ones; of a DEK's rows no others come this far.
        KeyKind::Root | KeyKind::Kek | KeyKind::Ref | KeyKind::Dek => true,
        KeyKind::Trk => kind != rows::SUBJECT && names(key.id),
        KeyKind::Esk => kind == rows::SUBJECT && names(key.id),
        KeyKind::Idx => kind == rows::CARD,
        KeyKind::Fpr => kind == rows::FINGERPRINT,
        // None of these rows.
        KeyKind::Ctl | KeyKind::Log | KeyKind::Adm | KeyKind::Idm | KeyKind::Rcv | KeyKind::Fpk => false,
    }
}

/// A key that may be noted as compromised.
fn known(control: &Control, key: KeyId) -> Result<&KeyRecord, Error> {
    let refused = |rule| Err(Error::malformed("key", rule));
    match control.keys.iter().find(|k| k.id == key) {
        None => refused("names no key"),
        Some(key) if key.compromised.is_some() => refused("is noted as compromised already"),
        Some(key) if key.state == KeyState::Destroyed => {
            refused("is destroyed already: name the active version of its kind if that may be known too")
        }
        Some(key) => Ok(key),
    }
}

/// Puts the next version in the place of a key that is active; what protects nothing new any more has none.
fn replaced(
    premise: &Premise<'_>,
    control: &mut Control,
    key: &KeyRecord,
) -> Result<Amendment<Option<KeyId>>, Error> {
    if key.state != KeyState::Active || control.not_followed(key).is_some() {
        return Ok(Amendment::of(Vec::new(), None));
    }
    let merchant = || key.merchant.as_ref().ok_or_else(Error::internal);
    let made = match key.kind {
        KeyKind::Dek => draw_next::<Dek>(premise, control, merchant()?),
        KeyKind::Rcv => draw_next::<Rcv>(premise, control, merchant()?),
        KeyKind::Kek => {
            Ok(superseded(&control.replace_kek(merchant()?, premise.state.top.root(), premise.now)?))
        }
        KeyKind::Ctl => replace_ctl(premise, control),
        KeyKind::Fpk => next_slot(premise, control, key, merchant()?),
        // These have none ever; those are their custodians', who are not there.
        KeyKind::Ref | KeyKind::Idm | KeyKind::Root | KeyKind::Esk => {
            return Ok(Amendment::of(Vec::new(), None));
        }
        KeyKind::Log => replace_log(premise, control),
        KeyKind::Adm => replace_adm(premise, control),
        KeyKind::Idx => draw_link::<Idx>(premise, control, merchant()?),
        KeyKind::Fpr => draw_link::<Fpr>(premise, control, merchant()?),
        KeyKind::Trk => draw_next::<Trk>(premise, control, merchant()?),
    }?;
    Ok(made.map(Some))
}

/// Opens the next slot for what a slot served.
fn next_slot(
    premise: &Premise<'_>,
    control: &mut Control,
    key: &KeyRecord,
    merchant: &MerchantName,
) -> Result<Amendment<KeyId>, Error> {
    let numbers = control.numbers.get(merchant).ok_or_else(Error::internal)?;
    let slot = numbers.slots.iter().find(|slot| slot.key == key.id).ok_or_else(Error::internal)?;
    let next = control.open_slot(merchant, slot.served(), premise.state.top.root(), premise.now)?;
    Ok(Amendment::of(vec![ControlChange::KeyAdded { key: next.0 }], next))
}

fn note_compromise(
    premise: &Premise<'_>,
    control: &mut Control,
    key: KeyId,
    (reason, note): (CompromiseReason, Option<&str>),
    made: Amendment<Option<KeyId>>,
) -> Result<Amendment<Option<KeyId>>, Error> {
    let sealed = note.map(|text| premise.state.keyring.seal_note(text)).transpose()?;
    let hash = sealed.as_deref().map(Hash::of);
    control.compromise(key, reason, hash, premise.now);
    let mut made = made;
    // What became of the old version is said once, by this.
    made.changes.retain(|change| !matches!(change, ControlChange::KeyState { key: of, state } if *of == key.0 && *state == KeyState::Deactivated));
    made.changes.push(ControlChange::KeyCompromised { key: key.0, reason, note: hash });
    // A hand-over of the log is the last of its batch: a proof of it is a proof that nothing stands behind it.
    made.changes.sort_by_key(|change| matches!(change, ControlChange::LogHandedOver { .. }));
    made.writes.extend(hash.zip(sealed).map(|(hash, sealed)| Write::Put(note_key(&hash), sealed)));
    Ok(made)
}

/// What a new version of a key heals, and what it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Healing {
    /// What whoever has the old version cannot do with what is made from now on.
    pub healed: &'static str,
    /// What stays as it is: a copy that was taken before is not healed by anything that happens here.
    pub remains: &'static str,
}

/// What a new version of a key of this kind heals. SECURITY.md has the same words in a table.
#[must_use]
pub fn healing(kind: KeyKind) -> Healing {
    let (healed, remains) = match kind {
        KeyKind::Root => (
            "the keys below are wrapped anew: with a later copy of the store the old root opens nothing",
            "with a copy of the store from before it opens every key there was: note the active keys below it too",
        ),
        KeyKind::Kek => (
            "the merchant's keys are wrapped anew: with a later Control the old KEK opens nothing",
            "with a Control from before it opens the merchant's keys, which stay the same: note DEK, TRK and the others too",
        ),
        KeyKind::Ctl => (
            "later versions of Control are sealed anew",
            "earlier versions stay readable with it: policy, key states and wraps, not the keys themselves",
        ),
        KeyKind::Dek => (
            "rows are sealed anew, first of all, and the key is destroyed once none is left: later copies of the store are closed to it",
            "in a copy from before it opens masks, names and what is known around a card, not card numbers",
        ),
        KeyKind::Trk => (
            "new tokens and those that are used again are sealed under the next version",
            "in a copy from before, with the DEK, card numbers of format-preserving tokens are found by search",
        ),
        KeyKind::Idx => (
            "rows get names that the old version alone does not make",
            "in a copy from before, with the DEK, format-preserving tokens are found by search",
        ),
        KeyKind::Fpr => (
            "fingerprint rows get names that the old version alone does not make",
            "in a copy from before fingerprinted card numbers are found by search",
        ),
        KeyKind::Ref => (
            "nothing: REF cannot be healed, and its names go on",
            "format-preserving tokens in the log, and card numbers whose public fingerprint is known, are found by search, before and after",
        ),
        KeyKind::Idm => (
            "nothing: IDM has no next version, and its names go on",
            "card numbers among the guesses of the last day, and requests of the kept days, are found by search",
        ),
        KeyKind::Rcv => (
            "cards are sealed to the next version at once, and this one opens no card here any more",
            "sealed cards that were recorded on their way open with it",
        ),
        KeyKind::Fpk => (
            "new vaultless tokens are made in the next slot",
            "every token of its slot opens with it, wherever it is, for as long as its card is good",
        ),
        KeyKind::Log => (
            "later checkpoints are signed by the next version",
            "it can sign another past for whoever kept no checkpoint of their own",
        ),
        KeyKind::Adm => (
            "later notes and secrets are sealed under the next version",
            "what it sealed in a copy from before opens with it: change those secrets where they are used",
        ),
        KeyKind::Esk => (
            "customers' secrets are wrapped under the next version",
            "in a copy from before it opens the secrets of customers, erased ones too: who has the copy's other keys can read on",
        ),
    };
    Healing { healed, remains }
}
