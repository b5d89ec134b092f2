//! Vaultless tokens among the verbs that begin with a token: what one without a row stands for, and the verb that turns
//! one of an old slot into the current one.

use super::{Decided, Deed, Done, Name, Round, Want, one};
use crate::error::Error;
use crate::journal::Filing;
use crate::mask::Mask;
use crate::policy::Caller;
use crate::record::{Card, Row, Standing, SubjectId};
use crate::store::{Key, Part};
use crate::time::Timestamp;
use crate::token::Token;
use crate::vault::Vault;
use crate::vault::request::{Header, UpgradedToken};
use crate::vault::tokenize::vaultless::usual_grants;
use crate::words::{Action, Show};

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
    /// out. A token that needs no change is answered as it is, so that a list may be sent whole. The old token still opens,
    /// and both are bound by the same row: whatever restricts, disables or revokes one does it to the other.
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

    /// No row is written: the record of the card has one name, whichever slot its token is of, and is asked as for every
    /// other verb. So a single use stays one, and what is ended stays ended.
    pub(super) fn decide_upgrade(&mut self, card: Card, key: &Key, again: bool) -> Decided {
        let presented = self.presented(&card, Show::Nothing, again);
        let permit = self.admitted.permit_upgrade(&card, &presented)?;
        let mut part = Part::default();
        self.view.rely(&mut part, key);
        Ok((Filing::Enact(permit, part, None), card, Show::Nothing))
    }
}
