//! Tokenize in a vaultless format: the token is made of the card by its slot's key. A row is written only where there is
//! something to keep beside: a restriction, an end, attributes.

use super::{Answer, Changed, Item, Round, Undecided};
use crate::audit::entry::Minting;
use crate::error::Error;
use crate::mask::Mask;
use crate::pan::Pan;
use crate::record::{Grants, Row, RowKey};
use crate::restrictions::Restrictions;
use crate::store::Part;
use crate::time::Timestamp;
use crate::token::{Scheme, Token};
use crate::value::Value;
use crate::vaultless::Served;

impl Round<'_> {
    /// What slot serves an item; none for formats whose tokens have rows.
    pub(super) fn served(&self, item: &Item<'_>) -> Option<Served> {
        let format = &item.format;
        let served = Served::of(format.id, format.format.scope(), self.admitted.channel_id());
        (format.format.scheme() == Scheme::Ff1).then_some(served)
    }

    /// An item's vaultless token. No slot for it: none was left when its channel came, or when the key of its last one was
    /// noted as compromised.
    ///
    /// Errors: [`Error::SpaceExhausted`]; malformed for a number of no issuer's range, since nothing else tells a token
    /// that was made from a text that was made up.
    pub(super) fn vaultless_token(&self, item: &Item<'_>, served: Served) -> Result<Token, Error> {
        let pan = number(item)?;
        if self.vault.inner.networks.find(pan).is_none() {
            return Err(Error::malformed(
                "item.plain.pan",
                "is in no issuer's range, which an ff1 token needs; use a format of another scheme",
            ));
        }
        if self.state.keyring.is_closed(self.merchant.id, served) {
            return Err(Error::SpaceExhausted);
        }
        let token = self.state.keyring.vaultless_token(self.merchant.id, served, pan)?;
        token.ok_or(Error::SpaceExhausted)
    }

    /// Decides on an item of a vaultless format.
    pub(super) fn vaultless(
        &mut self,
        item: &Item<'_>,
        served: Served,
        token: Token,
        part: &mut Part,
    ) -> Result<(Answer, Changed), Undecided> {
        let (id, state) = (self.merchant.id, self.state.clone());
        let row_key = state.keyring.row_key(id, &token)?;
        let newest = self.vault.inner.recent.newest(id, row_key);
        let places = state.keyring.card_places(id, row_key)?;
        let place = self.view.at(&places).map_err(|_| Undecided::Unreadable)?;
        let before = match self.view.get(&place.key) {
            None if newest.is_some() => return Err(Undecided::Unreadable),
            None => None,
            Some(bytes) => {
                let card = state.keyring.card(id, &place, bytes).map_err(|_| Undecided::Unreadable)?;
                if newest.is_some_and(|newest| card.row.version < newest) {
                    return Err(Undecided::Unreadable);
                }
                // A card has one token here: where that works no more, there is none left.
                let standing = card.row.standing;
                let spent = card.row.restrictions.single_use && standing.spent.is_some();
                if card.is_revoked() || card.is_expired(self.now) || standing.disabled || spent {
                    return Err(Undecided::Told(Error::SpaceExhausted));
                }
                Some(card.row)
            }
        };
        let after = self.kept_beside(item, served, &token, before.clone())?;
        if before.is_none() && after.is_some() {
            self.note_subject(item, row_key, part)?;
        }
        let version = after.as_ref().map_or(0, |row| row.version);
        let changed = after.as_ref().filter(|row| before.as_ref().is_none_or(|b| b.version != row.version));
        let changed: Option<(RowKey, u32)> = changed.map(|row| (row_key, row.version));
        match (&after, changed) {
            (Some(row), Some(_)) => {
                let sealed = state.keyring.seal_row(id, &place, row)?;
                self.view.put(part, place.key, sealed);
            }
            _ => self.view.rely(part, &place.key),
        }
        let network = self.vault.inner.networks.find(number(item)?).map(|n| n.id().to_owned());
        let answer = Answer {
            record: state.keyring.reference(id, &token)?,
            token,
            version,
            minting: Minting::Vaultless,
            format: item.format.name.clone(),
            network: network.unwrap_or_default(),
            card_expiry: item.card.card_expiry,
            valid_until: after.and_then(|row| row.valid_until),
        };
        Ok((answer, changed))
    }

    /// The token's row as it will stand; none where there was none and nothing is asked to be kept.
    fn kept_beside(
        &self,
        item: &Item<'_>,
        served: Served,
        token: &Token,
        before: Option<Row>,
    ) -> Result<Option<Row>, Error> {
        let card = item.card;
        let restricts = card.valid_until.is_some()
            || card.restrictions != Restrictions::default()
            || item.grants != usual_grants(served);
        let Some(mut row) = before else {
            if !restricts && card.attributes.is_empty() {
                return Ok(None);
            }
            return Ok(Some(self.row_beside(item, token)?));
        };
        let alike = row.valid_until == card.valid_until
            && row.restrictions == card.restrictions
            && (!row.restrictions.bound_to_customer || row.subject == item.subject)
            && row.grants == item.grants;
        if restricts && !alike {
            return Err(Error::malformed(
                "item.restrictions",
                "differ from those of this card's token: a card has one ff1 token, whose restrictions stay as they are",
            ));
        }
        let mut attributes = row.attributes.clone();
        attributes.change(card.attributes.clone(), &[])?;
        if attributes != row.attributes {
            row.attributes = attributes;
            row.version = row.version.saturating_add(1);
        }
        Ok(Some(row))
    }

    fn row_beside(&self, item: &Item<'_>, token: &Token) -> Result<Row, Error> {
        let card = item.card;
        let pan = number(item)?;
        let keep = item.format.format.keep(pan.len()).ok_or_else(Error::internal)?;
        Ok(Row {
            version: 1,
            record: self.state.keyring.reference(self.merchant.id, token)?,
            format: item.format.id,
            mask: Mask::Card(pan.mask(keep)),
            network: self.vault.inner.networks.find(pan).map_or_else(String::new, |n| n.id().to_owned()),
            card_expiry: card.card_expiry,
            made_at: self.now,
            valid_until: card.valid_until,
            grants: item.grants.clone(),
            subject: item.subject,
            restrictions: card.restrictions,
            standing: crate::record::Standing::default(),
            attributes: card.attributes.clone(),
            generation: 0,
            since: Timestamp(0),
            earlier: Vec::new(),
            inner: None,
            vaultless: true,
        })
    }
}

/// The card number of an item: no other kind of value has vaultless tokens.
fn number<'i>(item: &'i Item<'_>) -> Result<&'i Pan, Error> {
    match &item.card.value {
        Value::Card(pan) => Ok(pan),
        _ => Err(Error::internal()),
    }
}

/// Where a slot's tokens work that have no row: on its one channel, or on all.
pub(in crate::vault) fn usual_grants(served: Served) -> Grants {
    match served.channel {
        Some(channel) => Grants::Only(vec![channel]),
        None => Grants::AllBut(Vec::new()),
    }
}
