//! Sealed cards: the key that they are sealed to, and opening those that come in.

use std::future::poll_fn;
use std::task::Poll;

use super::request::{Brought, GivenCard, Header, NewCard, SealingKey, Tokenized};
use super::tokenize::within_batch;
use super::{State, Vault};
use crate::aead::Unopened;
use crate::error::Error;
use crate::journal::Filing;
use crate::name::{ChannelName, MerchantName};
use crate::pan::{CardExpiry, Pan};
use crate::policy::{Admitted, Caller};
use crate::sealed::{self, MAX_SEALED, OVERLAP_DAYS, SealedCard};
use crate::store::Part;
use crate::words::{Action, Refusal, Show};

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
                    let session = &card.context.as_ref().unwrap_or(&header.context).session;
                    let opened = self.open_card(state, admitted, session, &card.card);
                    opened.map(|OpenedCard { pan, card_expiry }| card.opened(pan, card_expiry))
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

    /// Opens what came sealed of these cards, for whoever may do this there. One that does not open is logged as refused.
    pub(super) async fn given<T>(
        &self,
        caller: Caller<'_>,
        header: &Header,
        action: Action,
        items: impl ExactSizeIterator<Item = (GivenCard, T)> + Send,
    ) -> Result<Given<T>, Error>
    where
        T: Send,
    {
        within_batch(items.len())?;
        let mut given =
            Given { asked: Vec::with_capacity(items.len()), places: Vec::with_capacity(items.len()) };
        let (mut door, mut refusals) = (None, Vec::new());
        for (card, with) in items {
            let (opened, came) = match card {
                GivenCard::Plain(pan, card_expiry) => (Ok(OpenedCard { pan, card_expiry }), Came::Plain),
                GivenCard::Sealed(card) => {
                    if door.is_none() {
                        let state = self.state();
                        let admitted = self.admit(&state, caller, header, action, Show::Nothing).await?;
                        door = Some((state, admitted));
                    }
                    others_turn().await;
                    let (state, admitted) = door.as_ref().ok_or_else(Error::internal)?;
                    let opened = self.open_card(state, admitted, &header.context.session, &card);
                    if opened.is_err() {
                        let denial = admitted.deny(Refusal::Malformed, None);
                        refusals.push(Filing::Refuse(denial, Part::default()));
                    }
                    (opened, Came::Sealed)
                }
            };
            match opened {
                Ok(card) => {
                    given.asked.push((card, with));
                    given.places.push(came);
                }
                Err(Unopened) => given.places.push(Came::Unread),
            }
        }
        if !refusals.is_empty() {
            let filed = self.inner.journal.file(refusals, header.deadline, None).await?;
            filed.into_iter().try_for_each(|f| f.map(|_| ()).map_err(Error::from))?;
        }
        Ok(given)
    }

    fn open_card(
        &self,
        state: &State,
        admitted: &Admitted,
        session: &str,
        card: &SealedCard,
    ) -> Result<OpenedCard, Unopened> {
        if card.ciphertext.len() > MAX_SEALED {
            return Err(Unopened);
        }
        let merchant = state.rules.merchant(admitted.merchant()).ok_or(Unopened)?;
        let channel = merchant.channel_name(admitted.channel_id()).ok_or(Unopened)?;
        let now = self.now();
        let plain = state.keyring.open_sealed(merchant.id, channel, card, now)?;
        let (pan, card_expiry) = sealed::read(&plain, now, session)?;
        Ok(OpenedCard { pan, card_expiry })
    }
}

/// A card that came in, in whichever form.
pub(super) struct OpenedCard {
    pub(super) pan: Pan,
    pub(super) card_expiry: Option<CardExpiry>,
}

enum Came {
    Plain,
    Sealed,
    /// Sealed, and did not open.
    Unread,
}

/// Cards that came with a verb which makes no token of them.
pub(super) struct Given<T> {
    /// Those that can be asked for, in their order.
    pub(super) asked: Vec<(OpenedCard, T)>,
    places: Vec<Came>,
}

impl<T> Given<T> {
    /// What is asked, and where its answers go.
    pub(super) fn split(self) -> (Vec<(OpenedCard, T)>, Places) {
        (self.asked, Places(self.places))
    }
}

/// Where the answers to what was asked stand among the request's items.
pub(super) struct Places(Vec<Came>);

impl Places {
    /// Every item's answer: what is wrong with a card that the caller cannot read is not the caller's to know.
    pub(super) fn put_back<A>(self, answers: Vec<Result<A, Error>>) -> Vec<Result<A, Error>> {
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Err(Error::internal()));
        let place = |came| match came {
            Came::Unread => Err(unreadable_card()),
            Came::Plain => next(),
            Came::Sealed => next().map_err(told_of_sealed),
        };
        self.0.into_iter().map(place).collect()
    }
}

/// What is said of a card that came sealed, where something is wrong with its number.
pub(super) fn told_of_sealed(e: Error) -> Error {
    match e {
        Error::Malformed { field: "item.plain.pan", .. } => unreadable_card(),
        other => other,
    }
}

/// What is told of every sealed card that is not taken.
fn unreadable_card() -> Error {
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
