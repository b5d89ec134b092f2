//! Vaultless tokens among the verbs that begin with a token: what one without a row stands for, and the verb that turns
//! one of an old slot into the current one.

use super::round::Name;
use super::{Decided, Deed, Done, Refused, Round, Want, one};
use crate::error::Error;
use crate::guard;
use crate::journal::Filing;
use crate::keyring::day_row;
use crate::mask::Mask;
use crate::policy::{Admitted, Caller, MerchantInForce};
use crate::record::{Card, Row, Standing, SubjectId};
use crate::rows;
use crate::store::{Key, Part, Write};
use crate::time::Timestamp;
use crate::token::Token;
use crate::vault::request::{Header, UpgradedToken};
use crate::vault::tokenize::vaultless::usual_grants;
use crate::vault::view::View;
use crate::vault::{State, Vault};
use crate::vaultless::slot_of;
use crate::words::{Action, Ref, Refusal, Show};

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

/// How many vaultless tokens a principal opened today, and how many it sent that open to no card: those of others are not
/// told apart from what is made up, so whoever sends many is stopped for the day.
pub(super) struct Tried {
    opened: (Key, u64),
    missed: (Key, u64),
}

impl Tried {
    pub(super) fn of(
        state: &State,
        admitted: &Admitted,
        merchant: &MerchantInForce,
        today: u32,
    ) -> Result<Option<Self>, Error> {
        if merchant.ff1_slots == 0 || !admitted.is_vaultless() {
            return Ok(None);
        }
        let names = state.keyring.vaultless_counters(merchant.id, admitted.principal())?;
        let [opened, missed] = names.map(|name| (day_row(rows::VOLUME, today, merchant.id, &name), 0));
        Ok(Some(Self { opened, missed }))
    }

    pub(super) fn keys(&self) -> [Key; 2] {
        [self.opened.0.clone(), self.missed.0.clone()]
    }

    pub(super) fn learn(&mut self, view: &View) {
        for (key, count) in [&mut self.opened, &mut self.missed] {
            *count = view.get(key).and_then(|v| v.try_into().ok()).map_or(0, u64::from_be_bytes);
        }
    }
}

impl Round<'_> {
    /// Refuses a token that has no row, and may be vaultless, to who has sent too many that open to no card.
    pub(super) fn check_misses(&self, token: &Token, record: Ref) -> Result<(), Box<Refused>> {
        let shaped = slot_of(token, self.merchant.ff1_slots).is_some();
        let Some(tried) = self.tried.as_ref().filter(|_| shaped) else { return Ok(()) };
        if tried.missed.1 < guard::misses_allowed(tried.opened.1) {
            return Ok(());
        }
        let midnight = Timestamp(0).plus_days(self.now.day().saturating_add(1));
        let told = Error::Budget { retry_after_ms: midnight.ms_since(self.now) };
        Err(Box::new(Refused(self.admitted.deny(Refusal::BudgetSpent, Some(record)), told)))
    }

    /// Counts a token that opens to no card and has no row.
    pub(super) fn count_miss(&mut self, want: &Want, name: &Name, part: &mut Part) {
        let shaped = slot_of(&want.token, self.merchant.ff1_slots).is_some();
        let nobodys = || self.vaultless_card(&want.token, name).is_none();
        let missed = shaped && name.newest.is_none() && self.card_of(name).is_none() && nobodys();
        if let Some(Tried { missed: (key, count), .. }) = self.tried.as_mut().filter(|_| missed) {
            *count = count.saturating_add(1);
            // Not added: who asks in many requests at once is counted one after the other, or the bound would be none.
            self.view.put(part, key.clone(), count.to_be_bytes().to_vec());
        }
    }

    /// Counts a vaultless token whose card goes out.
    pub(super) fn count_opening(&self, card: &Card, filing: &mut Filing) {
        let Some(tried) = self.tried.as_ref().filter(|_| card.row.vaultless) else { return };
        if let Filing::Disclose(_, _, part, _) = filing {
            part.writes.push(Write::Add(tried.opened.0.clone(), 1));
        }
    }

    /// What a token without a row stands for, if it is vaultless and opens to a number of an issuer's range.
    pub(super) fn vaultless_card(&self, token: &Token, name: &Name) -> Option<Card> {
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
