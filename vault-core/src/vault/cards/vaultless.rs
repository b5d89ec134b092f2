//! Vaultless tokens among the verbs that begin with a token: what one without a row stands for, and the verb that turns
//! one of an old slot into the current one.

use super::{Decided, Deed, Done, Name, Round, Want, one};
use crate::error::Error;
use crate::journal::Filing;
use crate::keyring::merchant_row;
use crate::mask::Mask;
use crate::policy::Caller;
use crate::record::{Card, Row, Standing, SubjectId};
use crate::rows;
use crate::store::{Key, Part};
use crate::time::Timestamp;
use crate::token::Token;
use crate::vault::Vault;
use crate::vault::request::{Header, UpgradedToken};
use crate::vault::tokenize::vaultless::usual_grants;
use crate::words::{Action, Refusal, Show};

impl Vault {
    /// Turns one vaultless token into the one that the current slot has for the same card.
    pub async fn upgrade(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
    ) -> Result<UpgradedToken, Error> {
        one(self.upgrade_batch(caller, header, vec![token]).await?)
    }

    /// Turns up to 1,000 vaultless tokens into those of the current slots, each with its own answer: no card number goes
    /// out. A token that needs no change is answered as it is, so that a list may be sent whole. Restrictions go with the
    /// card; the old token still opens.
    pub async fn upgrade_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<Token>,
    ) -> Result<Vec<Result<UpgradedToken, Error>>, Error> {
        let wants = tokens
            .into_iter()
            .map(|token| Want { token, show: Show::Nothing, deed: Deed::Upgrade })
            .collect();
        self.on_cards(caller, header, Action::Upgrade, wants, |round, want, done: Done| {
            let token = round.current(&want.token);
            let changed = !token.same_as(&want.token);
            Ok(UpgradedToken { token, changed, receipt: done.filed.receipt })
        })
        .await
    }
}

impl Round<'_> {
    /// What a token without a row stands for, if it is vaultless and opens to a number of an issuer's range.
    pub(super) fn vaultless_card(&self, token: &Token, name: Name) -> Option<Card> {
        let found = self.state.keyring.vaultless_card(self.merchant.id, token, &self.vault.inner.networks)?;
        let row = Row {
            version: 0,
            record: name.record,
            format: found.served.format,
            mask: Mask::Card(found.mask),
            network: found.network,
            card_expiry: None,
            made_at: self.now,
            valid_until: None,
            grants: usual_grants(found.served),
            subject: SubjectId::NONE,
            restrictions: crate::restrictions::Restrictions::default(),
            standing: Standing::default(),
            attributes: crate::attributes::Attributes::default(),
            generation: 0,
            since: Timestamp(0),
            earlier: Vec::new(),
            inner: None,
            vaultless: true,
        };
        Some(Card { merchant: self.merchant.id, row })
    }

    /// The token that takes this one's place: itself, if it is current or has a row.
    fn current(&self, token: &Token) -> Token {
        self.state.keyring.upgraded(self.merchant.id, token).unwrap_or_else(|| token.copy())
    }

    /// The rows of the tokens that take the asked ones' places.
    pub(super) fn current_rows(&self, open: &[usize]) -> Result<Vec<Key>, Error> {
        let (id, keyring) = (self.merchant.id, &self.state.keyring);
        let tokens = open.iter().filter_map(|place| self.wants.get(*place)).map(|w| self.current(&w.token));
        tokens.map(|token| Ok(merchant_row(rows::CARD, id, &keyring.row_key(id, &token)?.0))).collect()
    }

    pub(super) fn decide_upgrade(&mut self, old: &Token, card: Card, key: &Key, again: bool) -> Decided {
        let (id, from) = (self.merchant.id, card.row.record);
        let presented = self.presented(&card, Show::Nothing, again);
        let mut part = Part::default();
        self.view.rely(&mut part, key);
        let token = self.current(old);
        if token.same_as(old) {
            let permit = self.admitted.permit_upgrade(&card, &presented, (from, 0))?;
            return Ok((Filing::Enact(permit, part, None), card, Show::Nothing));
        }
        // Two tokens of one card would be two uses. Its card is stored again instead.
        if card.row.restrictions.single_use {
            return Err(self.admitted.deny(Refusal::Foreign, Some(from)).into());
        }
        let unreadable = |_| self.unreadable(from);
        let row_key = self.state.keyring.row_key(id, &token).map_err(unreadable)?;
        let record = self.state.keyring.reference(id, &token).map_err(unreadable)?;
        let newest = self.vault.inner.recent.newest(id, row_key);
        let new_key = merchant_row(rows::CARD, id, &row_key.0);
        let standing = match self.view.get(&new_key) {
            Some(bytes) => {
                Some(self.state.keyring.card(id, row_key, bytes).map_err(|_| self.unreadable(from))?)
            }
            None if newest.is_some() => return Err(self.unreadable(from).into()),
            None => None,
        };
        let has_row = card.row.version > 0;
        if let Some(standing) = standing {
            if newest.is_some_and(|newest| standing.row.version < newest) {
                return Err(self.unreadable(from).into());
            }
            // Made for this card in the current slot already: it must not be the freer of the two.
            if standing.is_revoked() || (has_row && !alike(&standing.row, &card.row)) {
                return Err(self.admitted.deny(Refusal::Foreign, Some(from)).into());
            }
            let permit = self.admitted.permit_upgrade(&card, &presented, (record, standing.row.version))?;
            self.view.rely(&mut part, &new_key);
            return Ok((Filing::Enact(permit, part, None), card, Show::Nothing));
        }
        if !has_row {
            let permit = self.admitted.permit_upgrade(&card, &presented, (record, 0))?;
            self.view.rely(&mut part, &new_key);
            return Ok((Filing::Enact(permit, part, None), card, Show::Nothing));
        }
        let permit = self.admitted.permit_upgrade(&card, &presented, (record, 1))?;
        let row = Row { record, version: 0, ..card.row.clone() };
        let (changed, _) = self.put_row(&mut part, (&new_key, row_key), row)?;
        Ok((Filing::Enact(permit, part, changed), card, Show::Nothing))
    }
}

/// Whether two tokens of one card are bound alike.
fn alike(one: &Row, other: &Row) -> bool {
    one.valid_until == other.valid_until
        && one.grants == other.grants
        && one.restrictions == other.restrictions
        && one.subject == other.subject
        && one.standing == other.standing
}
