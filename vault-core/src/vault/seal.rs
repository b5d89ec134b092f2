//! Sealed cards: the key that they are sealed to, and opening those that come in.

use std::future::poll_fn;
use std::task::Poll;

use super::request::{Brought, Header, NewCard, SealedNewCard, SealingKey, Tokenized};
use super::{State, Vault};
use crate::aead::Unopened;
use crate::error::Error;
use crate::journal::Filing;
use crate::name::{ChannelName, MerchantName};
use crate::policy::{Admitted, Caller};
use crate::sealed::{self, MAX_SEALED, OVERLAP_DAYS};
use crate::store::Part;
use crate::words::Refusal;

/// How many cards are opened or sealed before others get their turn: each takes some hundred microseconds.
pub(super) const TURN: usize = 16;

impl Vault {
    /// The key that cards for a channel are sealed to: for whoever may tokenize there. No card is touched and nothing is
    /// logged but a refusal.
    pub async fn sealing_key(
        &self,
        caller: Caller<'_>,
        merchant: Option<&MerchantName>,
        channel: Option<&ChannelName>,
    ) -> Result<SealingKey, Error> {
        let state = self.state();
        let (merchant, channel) = match state.rules.may_seal(caller, merchant, channel) {
            Ok(place) => place,
            Err(denial) => return Err(self.inner.journal.refuse(denial, None).await),
        };
        let (id, public_key) = state.keyring.sealing_key(merchant.id)?;
        let info = sealed::info_in(&merchant.name, &channel, id);
        Ok(SealingKey { id, public_key, info, valid_until: self.now().plus_days(OVERLAP_DAYS) })
    }

    /// The cards by place. One that does not open is answered, and logged as refused: once, before the others are looked at.
    pub(super) async fn opened(
        &self,
        state: &State,
        admitted: &Admitted,
        header: &Header,
        brought: Vec<Brought>,
        answers: &mut [Option<Result<Tokenized, Error>>],
    ) -> Result<Vec<Option<NewCard>>, Error> {
        let mut cards = Vec::with_capacity(brought.len());
        let (mut refusals, mut worked) = (Vec::new(), 0_usize);
        for (brought, answer) in brought.into_iter().zip(answers) {
            let card = match brought {
                Brought::Plain(card) => Ok(card),
                Brought::Sealed(card) => {
                    worked += 1;
                    if worked.is_multiple_of(TURN) {
                        others_turn().await;
                    }
                    self.open_card(state, admitted, header, card)
                }
            };
            if card.is_err() {
                *answer = Some(Err(unreadable_card()));
                refusals.push(Filing::Refuse(admitted.deny(Refusal::Malformed, None), Part::default()));
            }
            cards.push(card.ok());
        }
        if !refusals.is_empty() {
            let filed = self.inner.journal.file(refusals, header.deadline, None).await?;
            filed.into_iter().try_for_each(|f| f.map(|_| ()).map_err(Error::from))?;
        }
        Ok(cards)
    }

    fn open_card(
        &self,
        state: &State,
        admitted: &Admitted,
        header: &Header,
        card: SealedNewCard,
    ) -> Result<NewCard, Unopened> {
        if card.card.ciphertext.len() > MAX_SEALED {
            return Err(Unopened);
        }
        let merchant = state.rules.merchant(admitted.merchant()).ok_or(Unopened)?;
        let channel = merchant.channel_name(admitted.channel_id()).ok_or(Unopened)?;
        let now = self.now();
        let plain = state.keyring.open_sealed(merchant.id, channel, &card.card, now)?;
        let session = &card.context.as_ref().unwrap_or(&header.context).session;
        let (pan, expiry) = sealed::read(&plain, now, session)?;
        Ok(card.opened(pan, expiry))
    }
}

/// What is told of every sealed card that is not taken.
pub(super) fn unreadable_card() -> Error {
    Error::malformed(
        "item.sealed",
        "must be a card sealed to a key of the vault, for this channel and moment",
    )
}

/// Lets whatever else waits for this thread go first, once.
pub(super) async fn others_turn() {
    let mut waited = false;
    poll_fn(|cx| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
