//! Replace: another card takes the place of a token's card. The token stays, and so does everything that has it; the old
//! card number can be had for refunds and disputes until its retention ends.

use super::Vault;
use super::cards::{At, Decided, Deed, Done, Refused, Round, Want, one};
use super::request::{Header, Replaced, Replacement};
use super::seal::OpenedCard;
use super::tokenize::{OWN_TOKEN, restrictions};
use crate::aead::Unopened;
use crate::error::Error;
use crate::journal::Filing;
use crate::keyring::{Fingerprint, Likeness, MAX_SUBJECT_FINGERPRINTS, SubjectSecret, day_row, merchant_row};
use crate::pan::CardExpiry;
use crate::policy::{Caller, Presented};
use crate::record::{Card, Crowded, Grants, NewFace, Row, RowKey, SubjectId};
use crate::rows;
use crate::store::{Part, Write};
use crate::token::{Reuse, Scope, Token};
use crate::value::Value;
use crate::words::{Action, Refusal, ReplaceReason, Show};

impl Vault {
    /// Puts another card in the place of one token's card.
    pub async fn replace(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        replacement: Replacement,
    ) -> Result<Replaced, Error> {
        one(self.replace_batch(caller, header, vec![(token, replacement)]).await?)
    }

    /// Puts other cards in the place of up to 1,000 tokens' cards, each with its own answer.
    ///
    /// The cards that come in count in the guess budget, as those of a tokenize do. From then on a card that comes in again
    /// is given this token, where its format reuses tokens; the card that it stood for before is not.
    pub async fn replace_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        replacements: Vec<(Token, Replacement)>,
    ) -> Result<Vec<Result<Replaced, Error>>, Error> {
        let items =
            replacements.into_iter().map(|(token, Replacement { card, reason })| (card, (token, reason)));
        let (asked, places) = self.given(caller, header, Action::Replace, items).await?.split();
        let want = |(OpenedCard { pan, card_expiry }, (token, reason))| {
            let deed = Deed::Replace(InPlace { value: Value::Card(pan), card_expiry, reason });
            Want { token, show: Show::Nothing, deed }
        };
        let wants: Vec<Want> = asked.into_iter().map(want).collect();
        if wants.is_empty() {
            return Ok(places.put_back(Vec::new()));
        }
        Ok(places.put_back(self.on_cards(caller, header, Action::Replace, wants, replaced).await?))
    }
}

/// What is said of a token that has had too many cards.
const CROWDED: &str = "has eight earlier cards within their retention; store this card under a new token";

/// A replacement on its way: its number as the value that is sealed.
pub(super) struct InPlace {
    pub(super) value: Value,
    pub(super) card_expiry: Option<CardExpiry>,
    pub(super) reason: ReplaceReason,
}

#[allow(clippy::unnecessary_wraps, reason = "it finishes a verb as others do, which may fail")]
fn replaced(round: &Round<'_>, _: &Want, done: Done) -> Result<Replaced, Error> {
    let (merchant, row) = (done.card.merchant, done.card.row);
    round.vault.inner.codes.drop_before(merchant, row.record, row.generation);
    Ok(Replaced {
        mask: round.shown(&row),
        kept_until: row.earlier.first().map(|earlier| earlier.kept_until),
        network: row.network,
        card_expiry: row.card_expiry,
        receipt: done.filed.receipt,
    })
}

impl Round<'_> {
    pub(super) fn decide_replace(
        &mut self,
        replacement: &InPlace,
        token: &Token,
        card: Card,
        (at, place): (&At, usize),
        mut part: Part,
    ) -> Decided {
        let record = card.row.record;
        let by = self.item_hash(place).map_err(|_| self.unreadable(record))?;
        // A retry finds it done by the very same request, though others came after it: that is its answer.
        let done = card.row.earlier.iter().any(|earlier| earlier.by == by);
        let presented = self.presented(&card, Show::Nothing, false);
        let version = if done { card.row.version } else { presented.version };
        let presented = Presented { version, replaced: Some(replacement.reason), ..presented };
        let permit = self.admitted.permit_card(&card, &presented, None)?;
        if replacement.value.number().is_some_and(|number| self.merchant.is_own_token(number)) {
            let told = Error::malformed("item.plain.pan", OWN_TOKEN);
            return Err(Box::new(Refused(self.admitted.deny(Refusal::Malformed, Some(record)), told)));
        }
        if done {
            self.view.rely(&mut part, &at.place.key);
            return Ok((Filing::Enact(permit, part, None), card, Show::Nothing));
        }
        let row = self.replaced_row(replacement, token, card.row, by, (at.row_key, &mut part));
        let row = row.map_err(|e| match e {
            e @ Error::Malformed { .. } => {
                Box::new(Refused(self.admitted.deny(Refusal::Malformed, Some(record)), e))
            }
            _ => self.unreadable(record).into(),
        })?;
        let (changed, row) = self.put_row(&mut part, at, row)?;
        let card = Card { merchant: card.merchant, row };
        Ok((Filing::Enact(permit, part, changed), card, Show::Nothing))
    }

    /// The row with the new card in it; `part` puts what goes with it: fingerprint, subject's index, retention.
    fn replaced_row(
        &mut self,
        replacement: &InPlace,
        token: &Token,
        mut row: Row,
        by: [u8; 16],
        (row_key, part): (RowKey, &mut Part),
    ) -> Result<Row, Error> {
        let id = self.merchant.id;
        let InPlace { value, card_expiry, reason } = replacement;
        let pan = value.number().ok_or_else(Error::internal)?;
        let secret = self.secret_of(&row).map_err(|_| Error::internal())?;
        let inner = self.state.keyring.seal_value(id, token, &secret, row.record, value)?;
        let network = self.vault.inner.networks.find(pan).map_or_else(String::new, |n| n.id().to_owned());
        let mask = pan.mask(self.merchant.mask(pan.len()));
        let face = NewFace { mask, network, card_expiry: *card_expiry, inner };
        row.replace(by, *reason, self.now, face)
            .map_err(|Crowded| Error::malformed("item.token", CROWDED))?;
        if let Some(fingerprint) = self.fingerprint_of(&row, value)? {
            let places = self.state.keyring.fingerprint_places(id, fingerprint)?;
            let place = self.view.at(&places).map_err(|Unopened| Error::internal())?;
            let sealed = self.with_likeness(&row, &secret, |like| {
                self.state.keyring.seal_reuse(id, &place, like, value, (token, row.generation))
            })?;
            if let Some(sealed) = sealed {
                self.view.put(part, place.key, sealed);
                self.note_fingerprint(row.subject, fingerprint, part)?;
            }
        }
        let over = row.earlier.first().map_or(self.now, |earlier| earlier.kept_until);
        let day = over.day().saturating_add(1);
        part.writes.push(Write::Put(day_row(rows::RETENTION, day, id, &row_key.0), vec![1]));
        Ok(row)
    }

    /// The fingerprint under which this card is given this row's token, if its format reuses tokens.
    pub(super) fn fingerprint_of(&self, row: &Row, value: &Value) -> Result<Option<Fingerprint>, Error> {
        let Ok(secret) = self.secret_of(row) else { return Ok(None) };
        self.with_likeness(row, &secret, |like| self.state.keyring.fingerprint(self.merchant.id, like, value))
    }

    /// What makes a card alike to this row's: none where its token is never given to a card that comes in.
    fn with_likeness<T>(
        &self,
        row: &Row,
        subject: &SubjectSecret,
        then: impl FnOnce(&Likeness<'_>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let Some(format) = self.merchant.format_by_id(row.format) else { return Ok(None) };
        let fresh = format.format.reuse() == Reuse::Fresh;
        if fresh || row.valid_until.is_some() || row.restrictions.single_use {
            return Ok(None);
        }
        let scope = match (format.format.scope(), &row.grants) {
            (Scope::Merchant, _) => None,
            (Scope::Channel, Grants::Only(own)) => match own.as_slice() {
                [own] => Some(self.merchant.channel_name(*own).ok_or_else(Error::internal)?),
                _ => return Ok(None),
            },
            (Scope::Channel, Grants::AllBut(_)) => return Ok(None),
        };
        let restrictions = restrictions(&row.grants, row.restrictions);
        let like = Likeness { scope, format: &format.name, subject, restrictions: &restrictions };
        then(&like).map(Some)
    }

    /// Puts a new fingerprint into its subject's index, so that it goes when the subject does.
    fn note_fingerprint(
        &mut self,
        subject: SubjectId,
        fingerprint: Fingerprint,
        part: &mut Part,
    ) -> Result<(), Error> {
        if subject == SubjectId::NONE {
            return Ok(());
        }
        let (id, state) = (self.merchant.id, self.state.clone());
        let key = merchant_row(rows::SUBJECT, id, &subject.0);
        let row = self.view.get(&key).ok_or_else(Error::internal)?;
        let mut index = state.keyring.open_subject(id, subject, row).map_err(|_| Error::internal())?;
        if index.fingerprints.contains(&fingerprint) {
            self.view.rely(part, &key);
            return Ok(());
        }
        if index.fingerprints.len() >= MAX_SUBJECT_FINGERPRINTS {
            return Err(Error::malformed("item.token", "is of a customer with 5,000 fingerprints"));
        }
        index.fingerprints.push(fingerprint);
        let sealed = state.keyring.seal_subject(id, subject, &index)?;
        self.view.put(part, key, sealed);
        Ok(())
    }
}
