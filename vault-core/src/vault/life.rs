//! What happens to a token between its first day and its last: it is stopped for a while, works again, and what is known
//! around its card changes. No verb here makes a token, and none sees a card number.

use super::Vault;
use super::cards::{Deed, Done, Round, Want, one};
use super::request::{AttributesUpdate, ChangedToken, Header};
use crate::attributes::Attribute;
use crate::codec::Writer;
use crate::error::Error;
use crate::pan::CardExpiry;
use crate::policy::Caller;
use crate::record::Row;
use crate::token::Token;
use crate::words::{Action, Show};

impl Vault {
    /// Stops one token from working until it is enabled.
    pub async fn disable(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
    ) -> Result<ChangedToken, Error> {
        one(self.disable_batch(caller, header, vec![token]).await?)
    }

    /// Stops up to 1,000 tokens from working until they are enabled, each with its own answer.
    pub async fn disable_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<Token>,
    ) -> Result<Vec<Result<ChangedToken, Error>>, Error> {
        let wants = tokens.into_iter().map(|token| Change::Disable.of(token)).collect();
        self.on_cards(caller, header, Action::Disable, wants, changed).await
    }

    /// Lets one token work again that was disabled.
    pub async fn enable(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
    ) -> Result<ChangedToken, Error> {
        one(self.enable_batch(caller, header, vec![token]).await?)
    }

    /// Lets up to 1,000 tokens work again, each with its own answer.
    pub async fn enable_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<Token>,
    ) -> Result<Vec<Result<ChangedToken, Error>>, Error> {
        let wants = tokens.into_iter().map(|token| Change::Enable.of(token)).collect();
        self.on_cards(caller, header, Action::Enable, wants, changed).await
    }

    /// Changes what is known around one card: no new token, and no card number touched.
    pub async fn update_attributes(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        update: AttributesUpdate,
    ) -> Result<ChangedToken, Error> {
        one(self.update_attributes_batch(caller, header, vec![(token, update)]).await?)
    }

    /// Changes what is known around up to 1,000 cards, each with its own answer.
    pub async fn update_attributes_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        updates: Vec<(Token, AttributesUpdate)>,
    ) -> Result<Vec<Result<ChangedToken, Error>>, Error> {
        let want = |(token, update)| Change::Attributes(Box::new(update)).of(token);
        let wants = updates.into_iter().map(want).collect();
        self.on_cards(caller, header, Action::UpdateAttributes, wants, changed).await
    }
}

#[allow(clippy::unnecessary_wraps, reason = "it finishes a verb as others do, which may fail")]
fn changed(round: &Round<'_>, _: &Want, done: Done) -> Result<ChangedToken, Error> {
    let row = &done.card.row;
    Ok(ChangedToken {
        disabled: row.standing.disabled,
        channels: round.merchant.granted(&row.grants),
        receipt: done.filed.receipt,
    })
}

/// A change of a row that keeps its token and its card number.
pub(super) enum Change {
    /// It stops working for now.
    Disable,
    /// It works again.
    Enable,
    /// What is known around the card.
    Attributes(Box<AttributesUpdate>),
}

impl Change {
    fn of(self, token: Token) -> Want {
        Want { token, show: Show::Nothing, deed: Deed::Change(self) }
    }

    /// Makes the change, or none of it.
    pub(super) fn apply(&self, row: &mut Row) -> Result<(), Error> {
        match self {
            Self::Disable => row.standing.disabled = true,
            Self::Enable => row.standing.disabled = false,
            Self::Attributes(update) => {
                let AttributesUpdate { card_expiry, set, clear } = update.as_ref();
                row.attributes.change(set.clone(), clear)?;
                let kept = row.card_expiry.filter(|_| !clear.contains(&Attribute::CardExpiry));
                row.card_expiry = card_expiry.or(kept);
            }
        }
        Ok(())
    }

    /// What of it goes into a request's bytes: the action says the rest.
    pub(super) fn write(&self, w: &mut Writer) {
        match self {
            Self::Disable | Self::Enable => {}
            Self::Attributes(update) => {
                let AttributesUpdate { card_expiry, set, clear } = update.as_ref();
                w.u16(card_expiry.map_or(0, CardExpiry::year)).u8(card_expiry.map_or(0, CardExpiry::month));
                set.write(w);
                w.u8(u8::try_from(clear.len()).unwrap_or(u8::MAX));
                for field in clear {
                    w.e(field.as_str().as_bytes());
                }
            }
        }
    }
}
