//! What a card number itself is asked about: its fingerprint, and the end of the tokens that it has. Both tell whether a
//! card is known, or the same as another, so the cards that come in count in the guess budget.
//!
//! Neither keeps its request: a fingerprint asked for again is the same, a deletion asked for again finds nothing left.

use super::guesses::{self, Guess};
use super::request::{CardToDelete, Deleted, Fingerprinted, GivenCard, Header};
use super::seal::OpenedCard;
use super::tokenize::restrictions;
use super::view::View;
use super::{MAX_ROUNDS, State, Vault};
use crate::aead::Unopened;
use crate::error::Error;
use crate::journal::{Filing, NotFiled};
use crate::keyring::{Likeness, SubjectSecret, merchant_row};
use crate::name::ChannelName;
use crate::policy::{Admitted, Caller, FormatInForce};
use crate::record::{Grants, RowKey, SubjectId};
use crate::restrictions::Restrictions;
use crate::rows;
use crate::store::Part;
use crate::token::{Reuse, Scheme, Scope, Token};
use crate::value::Value;
use crate::vaultless::Served;
use crate::words::{Action, Refusal, Show};

/// A card whose tokens are looked for.
struct Sought {
    value: Value,
    restrictions: Restrictions,
}

impl Vault {
    /// The public fingerprint of one card: 16 bytes that are the same for the same number of this merchant, for good.
    pub async fn fingerprint(
        &self,
        caller: Caller<'_>,
        header: &Header,
        card: GivenCard,
    ) -> Result<Fingerprinted, Error> {
        super::cards::one(self.fingerprint_batch(caller, header, vec![card]).await?)
    }

    /// The public fingerprints of up to 1,000 cards, in one commit.
    pub async fn fingerprint_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        cards: Vec<GivenCard>,
    ) -> Result<Vec<Result<Fingerprinted, Error>>, Error> {
        let items = cards.into_iter().map(|card| (card, ()));
        let (asked, places) = self.given(caller, header, Action::Fingerprint, items).await?.split();
        let cards: Vec<Value> = asked.into_iter().map(|(card, ())| Value::Card(card.pan)).collect();
        if cards.is_empty() {
            return Ok(places.put_back(Vec::new()));
        }
        Ok(places.put_back(self.fingerprint_opened(caller, header, cards).await?))
    }

    async fn fingerprint_opened(
        &self,
        caller: Caller<'_>,
        header: &Header,
        cards: Vec<Value>,
    ) -> Result<Vec<Result<Fingerprinted, Error>>, Error> {
        for _ in 0..MAX_ROUNDS {
            let state = self.state();
            let admitted = self.admit(&state, caller, header, Action::Fingerprint, Show::Nothing).await?;
            let (mut view, guesses) = self.guessed(&state, &admitted, header, cards.iter()).await?;
            let mut filings = Vec::with_capacity(cards.len());
            for guess in &guesses {
                let mut part = Part::default();
                if let Some(guess) = guess {
                    guess.count(&mut view, &mut part);
                }
                match admitted.permit_fingerprint() {
                    Ok(permit) => filings.push(Filing::Enact(permit, part, None)),
                    Err(denial) => return Err(self.inner.journal.refuse(denial, header.deadline).await),
                }
            }
            let filed = self.inner.journal.file(filings, header.deadline, None).await?;
            // Parts that build on each other go stale together; all of it is asked anew.
            if filed.iter().any(|filed| matches!(filed, Err(NotFiled::Stale))) {
                continue;
            }
            let answers = cards.iter().zip(filed).map(|(card, filed)| {
                let pan = card.number().ok_or_else(Error::internal)?;
                let fingerprint = state.keyring.public_fingerprint(admitted.merchant_id(), pan)?;
                Ok(Fingerprinted { fingerprint, receipt: filed?.receipt })
            });
            return Ok(answers.collect());
        }
        Err(Error::Overloaded)
    }

    /// Ends every token that one card has: see [`Vault::delete_card_batch`].
    pub async fn delete_card(
        &self,
        caller: Caller<'_>,
        header: &Header,
        card: CardToDelete,
    ) -> Result<Deleted, Error> {
        super::cards::one(self.delete_card_batch(caller, header, vec![card]).await?)
    }

    /// Ends every token that each of up to 1,000 cards would be given on this channel: of each format that reuses tokens,
    /// under the customer that the header names or none, and under the restrictions that the item names or none; and of each
    /// vaultless format, where something was kept beside the token. Tokens that are never given twice (fresh ones, expiring
    /// ones, those for a single use) are found by token or by customer only: no fingerprint leads to them.
    pub async fn delete_card_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        cards: Vec<CardToDelete>,
    ) -> Result<Vec<Result<Deleted, Error>>, Error> {
        let items = cards.into_iter().map(|CardToDelete { card, restrictions }| (card, restrictions));
        let (asked, places) = self.given(caller, header, Action::DeleteCard, items).await?.split();
        let sought =
            |(OpenedCard { pan, .. }, restrictions)| Sought { value: Value::Card(pan), restrictions };
        let cards: Vec<Sought> = asked.into_iter().map(sought).collect();
        if cards.is_empty() {
            return Ok(places.put_back(Vec::new()));
        }
        let state = self.state();
        let admitted = self.admit(&state, caller, header, Action::DeleteCard, Show::Nothing).await?;
        self.guessed(&state, &admitted, header, cards.iter().map(|card| &card.value)).await?;
        let mut answers = Vec::with_capacity(cards.len());
        for card in &cards {
            answers.push(self.delete_one(caller, header, card).await);
        }
        Ok(places.put_back(answers))
    }

    async fn delete_one(&self, caller: Caller<'_>, header: &Header, card: &Sought) -> Result<Deleted, Error> {
        let mut ended = 0_u32;
        for _ in 0..MAX_ROUNDS {
            let state = self.state();
            match self.delete_round(&state, caller, header, card, &mut ended).await {
                Ok(Some(deleted)) => return Ok(deleted),
                Ok(None) => {}
                Err(e) if self.is_over(&state, &e) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::Overloaded)
    }

    /// Ends what is found alive; tells once nothing is.
    async fn delete_round(
        &self,
        state: &State,
        caller: Caller<'_>,
        header: &Header,
        card: &Sought,
        ended: &mut u32,
    ) -> Result<Option<Deleted>, Error> {
        let admitted = self.admit(state, caller, header, Action::DeleteCard, Show::Nothing).await?;
        let (mut view, guesses) = self.guessed(state, &admitted, header, [&card.value].into_iter()).await?;
        let mut counted = Part::default();
        if let Some(Some(guess)) = guesses.first() {
            guess.count(&mut view, &mut counted);
        }
        let tokens = self.known_tokens(state, &admitted, header, card, &mut view).await?;
        let keys: Vec<RowKey> = tokens.iter().map(|(key, _)| *key).collect();
        let mut living = self.cards_of(state, &admitted, &keys, &mut view).await?;
        living.retain(|(at, card)| {
            let reaches = card.row.grants.include(admitted.channel_id());
            let of_now = tokens.contains(&(at.row_key, card.row.generation));
            of_now && reaches && !card.is_revoked()
        });
        if !living.is_empty() {
            let now = self.end_all(state, &admitted, header, living, &mut view).await?;
            *ended = ended.saturating_add(now);
            return Ok(None);
        }
        // What was there is ended and logged, each as revoked. The last entry counts the guess, and tells if none was.
        let filing = if *ended == 0 {
            Filing::RefuseFound(admitted.deny(Refusal::Unknown, None), counted)
        } else {
            match admitted.permit_fingerprint() {
                Ok(permit) => Filing::Enact(permit, counted, None),
                Err(denial) => Filing::RefuseFound(denial, counted),
            }
        };
        match self.inner.journal.file(vec![filing], header.deadline, None).await?.pop() {
            Some(Ok(_)) if *ended == 0 => Err(Error::NotFound),
            Some(Ok(filed)) => Ok(Some(Deleted { tokens: *ended, receipt: filed.receipt })),
            Some(Err(NotFiled::Stale)) | None => Ok(None),
            Some(Err(why)) => Err(why.into()),
        }
    }

    /// Where these cards count, checked, with their cells read.
    async fn guessed<'p>(
        &self,
        state: &State,
        admitted: &Admitted,
        header: &Header,
        values: impl Iterator<Item = &'p Value>,
    ) -> Result<(View, Vec<Option<Guess>>), Error> {
        let now = self.now();
        let guesses: Vec<Option<Guess>> = values
            .map(|value| Guess::of(&state.keyring, admitted, value, now.day()))
            .collect::<Result<_, _>>()?;
        let mut view = View::default();
        let cells = guesses.iter().flatten().map(|guess| guess.cell.clone()).collect();
        view.read(self.inner.store.as_ref(), cells).await?;
        guesses::check(self, &view, admitted, (now, header.deadline), guesses.iter().flatten()).await?;
        Ok((view, guesses))
    }

    /// The rows of the tokens that a fingerprint of this card leads to, each with the generation that it is of.
    async fn known_tokens(
        &self,
        state: &State,
        admitted: &Admitted,
        header: &Header,
        card: &Sought,
        view: &mut View,
    ) -> Result<Vec<(RowKey, u32)>, Error> {
        let id = admitted.merchant_id();
        let merchant = state.rules.merchant(admitted.merchant()).ok_or_else(Error::internal)?;
        let channel = merchant.channel_name(admitted.channel_id()).ok_or_else(Error::internal)?;
        let mut secrets = vec![SubjectSecret::none()];
        let reference = header.context.customer_reference.as_str();
        if !reference.is_empty() {
            let subject = state.keyring.subject(id, reference)?;
            secrets.extend(self.secret_of_subject(state, admitted, subject, view).await?);
        }
        let mut found = self.known_vaultless(state, admitted, card, view).await?;
        let with_fingerprints =
            |f: &&FormatInForce| f.format.reuse() == Reuse::Reuse && f.format.scheme() != Scheme::Ff1;
        for format in merchant.formats().filter(|f| with_fingerprints(&f.as_ref())) {
            for profile in profiles(format, admitted, card) {
                for subject in &secrets {
                    let scope: Option<&ChannelName> = match format.format.scope() {
                        Scope::Merchant => None,
                        Scope::Channel => Some(channel),
                    };
                    let like = Likeness { scope, format: &format.name, subject, restrictions: &profile };
                    let fingerprint = state.keyring.fingerprint(id, &like, &card.value)?;
                    let places = state.keyring.fingerprint_places(id, fingerprint)?;
                    view.read(self.inner.store.as_ref(), places.keys().collect()).await?;
                    let place = view.at(&places).map_err(|Unopened| Error::internal())?;
                    let row = view.get(&place.key).filter(|row| !state.keyring.is_shredded(id, row));
                    let Some(bytes) = row else { continue };
                    let opened = state.keyring.open_reuse(id, &place, &like, &card.value, bytes);
                    let (token, generation): (Token, u32) = opened.map_err(|_| Error::internal())?;
                    let known = (state.keyring.row_key(id, &token)?, generation);
                    if !found.contains(&known) {
                        found.push(known);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The rows beside this card's vaultless tokens, of the merchant's formats and of this channel's, for whoever has the
    /// right to them. A vaultless token without a row has nothing here that could be deleted.
    async fn known_vaultless(
        &self,
        state: &State,
        admitted: &Admitted,
        card: &Sought,
        view: &mut View,
    ) -> Result<Vec<(RowKey, u32)>, Error> {
        let (id, keyring) = (admitted.merchant_id(), &state.keyring);
        let merchant = state.rules.merchant(admitted.merchant()).ok_or_else(Error::internal)?;
        let Some(pan) = card.value.number().filter(|_| admitted.is_vaultless()) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for format in merchant.formats().filter(|f| f.format.scheme() == Scheme::Ff1) {
            let served = Served::of(format.id, format.format.scope(), admitted.channel_id());
            if let Some(token) = keyring.vaultless_token(id, served, pan)? {
                let row_key = keyring.row_key(id, &token)?;
                let places = keyring.card_places(id, row_key)?;
                view.read(self.inner.store.as_ref(), places.keys().collect()).await?;
                if places.keys().any(|key| view.get(&key).is_some()) {
                    found.push((row_key, 0));
                }
            }
        }
        Ok(found)
    }

    async fn secret_of_subject(
        &self,
        state: &State,
        admitted: &Admitted,
        subject: SubjectId,
        view: &mut View,
    ) -> Result<Option<SubjectSecret>, Error> {
        let id = admitted.merchant_id();
        let key = merchant_row(rows::SUBJECT, id, &subject.0);
        view.read(self.inner.store.as_ref(), vec![key.clone()]).await?;
        let row = view.get(&key).filter(|row| !state.keyring.is_shredded(id, row));
        let Some(bytes) = row else { return Ok(None) };
        let index = state.keyring.open_subject(id, subject, bytes).map_err(|_| Error::internal())?;
        state.keyring.subject_secret(id, subject, &index).map(Some).map_err(|_| Error::internal())
    }
}

/// The restrictions under which a card's tokens are looked for: those of the format itself, and those that were named.
fn profiles(format: &FormatInForce, admitted: &Admitted, card: &Sought) -> Vec<Vec<u8>> {
    let own = match format.format.scope() {
        Scope::Merchant => Grants::AllBut(Vec::new()),
        Scope::Channel => Grants::Only(vec![admitted.channel_id()]),
    };
    let bound = Restrictions { bound_to_customer: true, ..Restrictions::default() };
    let mut profiles: Vec<Vec<u8>> =
        [Restrictions::default(), bound, card.restrictions].map(|r| restrictions(&own, r)).into();
    profiles.sort_unstable();
    profiles.dedup();
    profiles
}
