//! Tokenize: a card comes in, a token goes out.

use std::collections::HashMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::request::{Context, Header, MAX_BATCH, NewCard, Tokenized};
use super::view::View;
use super::{MAX_ROUNDS, State, Vault};
use crate::audit::entry::Minting;
use crate::audit::receipt::Receipt;
use crate::codec::{Reader, Torn, Writer};
use crate::error::Error;
use crate::guard::{self, GuessCell};
use crate::journal::{Filing, NotFiled};
use crate::keyring::{
    Likeness, MAX_SUBJECT_ROWS, RequestKey, SubjectIndex, SubjectSecret, day_row, merchant_row, same_request,
};
use crate::name::{ChannelName, FormatName};
use crate::pan::CardExpiry;
use crate::policy::{Admitted, Asked, Caller, FormatInForce, MerchantInForce};
use crate::random;
use crate::record::{ChannelId, Grants, Row, RowKey, SubjectId};
use crate::rows;
use crate::store::{Key, Part, Write};
use crate::time::Timestamp;
use crate::token::{MAX_REDRAWS, MAX_WALK, REDRAWS, Reuse, Scope, Shape, Token};
use crate::words::{Action, Ref, Refusal, Show};

/// Version of a kept answer and of an idempotency row.
const FORMAT: u8 = 1;

/// How long an answer is kept for a retry, in days: at least 24 hours, so a row is looked for on two days.
const KEPT_DAYS: u32 = 1;

impl Vault {
    /// Swaps one card for a token.
    pub async fn tokenize(
        &self,
        caller: Caller<'_>,
        header: &Header,
        card: NewCard,
    ) -> Result<Tokenized, Error> {
        let mut answers = self.tokenize_batch(caller, header, vec![card]).await?;
        answers.pop().unwrap_or_else(|| Err(Error::internal()))
    }

    /// Swaps up to 1,000 cards for tokens, each with its own answer, in one commit.
    ///
    /// The outer error is of the whole request (not admitted, guess budget, request id used before): then nothing was
    /// done. The same request with the same id gives the same tokens again for 24 hours.
    pub async fn tokenize_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        cards: Vec<NewCard>,
    ) -> Result<Vec<Result<Tokenized, Error>>, Error> {
        within_batch(cards.len())?;
        let asked = Asked {
            caller,
            merchant: header.merchant.as_ref(),
            channel: header.channel.as_ref(),
            action: Action::Tokenize,
            purpose: header.purpose,
            initiator: header.initiator,
            show: Show::Nothing,
        };
        let mut answers: Vec<Option<Result<Tokenized, Error>>> = cards.iter().map(|_| None).collect();
        let mut run = None;
        for _ in 0..MAX_ROUNDS {
            let state = self.state();
            let admitted = match state.rules.admit(&asked) {
                Ok(admitted) => admitted,
                Err(denial) => return Err(self.inner.journal.refuse(denial, header.deadline).await),
            };
            if run.is_none() {
                run = Some(self.inner.running.begin(admitted.principal(), header.request_id)?);
            }
            let round = Round::new(self, state, admitted, header, &cards)?;
            round.go(&mut answers).await?;
            if answers.iter().all(Option::is_some) {
                return Ok(answers
                    .into_iter()
                    .map(|a| a.unwrap_or_else(|| Err(Error::internal())))
                    .collect());
            }
        }
        Ok(answers.into_iter().map(|a| a.unwrap_or(Err(Error::Overloaded))).collect())
    }
}

pub(super) fn within_batch(items: usize) -> Result<(), Error> {
    if items == 0 || items > MAX_BATCH {
        return Err(Error::malformed("items", "must have 1 to 1,000"));
    }
    Ok(())
}

/// One try at what is still open of a request, under one version of Control.
struct Round<'a> {
    vault: &'a Vault,
    state: Arc<State>,
    admitted: Admitted,
    merchant: Arc<MerchantInForce>,
    channel: ChannelName,
    header: &'a Header,
    cards: &'a [NewCard],
    now: Timestamp,
    view: View,
}

/// An item whose names are all worked out.
struct Item<'a> {
    place: usize,
    card: &'a NewCard,
    format: Arc<FormatInForce>,
    shape: Shape,
    grants: Grants,
    subject: SubjectId,
    bytes: Zeroizing<Vec<u8>>,
    hash: [u8; 32],
    requests: [Key; 2],
    fingerprint: Option<[u8; 16]>,
    guess: Option<Guess>,
}

struct Guess {
    cell: Key,
    member: [u8; 8],
    volume: [u8; 16],
}

/// What an item comes to, before it is on disk.
struct Outcome {
    place: usize,
    answer: Answer,
    changed: Option<(RowKey, u32)>,
}

/// What a tokenize answers, and what is kept of it for a retry.
struct Answer {
    token: Token,
    record: Ref,
    version: u32,
    minting: Minting,
    format: FormatName,
    network: String,
    card_expiry: Option<CardExpiry>,
    valid_until: Option<Timestamp>,
}

impl<'a> Round<'a> {
    fn new(
        vault: &'a Vault,
        state: Arc<State>,
        admitted: Admitted,
        header: &'a Header,
        cards: &'a [NewCard],
    ) -> Result<Self, Error> {
        let merchant = state.rules.merchant(admitted.merchant()).ok_or_else(Error::internal)?.clone();
        let channel = merchant.channel_name(admitted.channel_id()).ok_or_else(Error::internal)?.clone();
        let now = vault.inner.clock.now();
        let view = View::default();
        Ok(Self { vault, state, admitted, merchant, channel, header, cards, now, view })
    }

    async fn go(mut self, answers: &mut [Option<Result<Tokenized, Error>>]) -> Result<(), Error> {
        let items = self.items(answers)?;
        self.read_for(&items).await?;
        self.check_guesses(&items).await?;
        let (mut filings, mut outcomes) = (Vec::new(), Vec::new());
        let mut fresh = Vec::with_capacity(items.len());
        for item in items {
            match self.kept(&item).await? {
                Some(answer) => {
                    self.settle(&item, answer, Part::default(), true, None, &mut filings, &mut outcomes)?
                }
                None => fresh.push(item),
            }
        }
        let drawn = self.read_candidates(&fresh).await?;
        for (item, first) in fresh.iter().zip(drawn) {
            match self.decide(item, first).await {
                Ok((answer, part, changed)) => {
                    self.settle(item, answer, part, false, changed, &mut filings, &mut outcomes)?;
                }
                Err(Error::SpaceExhausted) => {
                    let denial = self.admitted.deny(Refusal::SpaceExhausted, None);
                    let told = self.vault.inner.journal.refuse(denial, self.header.deadline).await;
                    self.answer(answers, item.place, Err(told));
                }
                Err(e) => self.answer(answers, item.place, Err(e)),
            }
        }
        let filed = self.vault.inner.journal.file(filings, self.header.deadline).await?;
        for (outcome, filed) in outcomes.into_iter().zip(filed) {
            let Outcome { place, answer, changed } = outcome;
            match filed {
                Ok(filed) => {
                    if let Some((row, version)) = changed {
                        self.vault.inner.recent.changed(self.merchant.id, row, version);
                    }
                    let tokenized = self.tokenized(place, answer, filed.receipt)?;
                    self.answer(answers, place, Ok(tokenized));
                }
                Err(NotFiled::Stale) => {}
                Err(e) => self.answer(answers, place, Err(e.into())),
            }
        }
        Ok(())
    }

    #[allow(clippy::unused_self, reason = "reads as what it is: this round's answer")]
    fn answer(
        &self,
        answers: &mut [Option<Result<Tokenized, Error>>],
        place: usize,
        answer: Result<Tokenized, Error>,
    ) {
        if let Some(slot) = answers.get_mut(place) {
            *slot = Some(answer);
        }
    }

    /// The open items with their names; a malformed one is answered at once.
    fn items(&self, answers: &mut [Option<Result<Tokenized, Error>>]) -> Result<Vec<Item<'a>>, Error> {
        let mut items = Vec::with_capacity(self.cards.len());
        for (place, card) in self.cards.iter().enumerate() {
            if answers.get(place).is_some_and(Option::is_some) {
                continue;
            }
            match self.item(place, card) {
                Ok(item) => items.push(item),
                Err(e @ Error::Internal { .. }) => return Err(e),
                Err(e) => self.answer(answers, place, Err(e)),
            }
        }
        Ok(items)
    }

    fn item(&self, place: usize, card: &'a NewCard) -> Result<Item<'a>, Error> {
        let keyring = &self.state.keyring;
        let (id, principal) = (self.merchant.id, self.admitted.principal());
        let format = self
            .merchant
            .format(card.format.as_ref(), &self.channel)
            .ok_or_else(|| Error::malformed("item.format", "names no format of the merchant"))?
            .clone();
        if card.valid_until.is_some_and(|until| until <= self.now) {
            return Err(Error::malformed("item.valid_until", "must be in the future"));
        }
        let shape = Shape::of(&format.format, &card.pan, self.merchant.ff1_slots).ok_or_else(|| {
            Error::malformed("item.plain.pan", "has a length that this token format does not take")
        })?;
        let grants = self.grants(card, &format)?;
        let restrictions = restrictions(&grants);
        let context = card.context.as_ref().unwrap_or(&self.header.context);
        let subject = match context.customer_reference.as_str() {
            "" => SubjectId::NONE,
            reference => keyring.subject(id, reference)?,
        };
        let bytes = self.request_bytes(card, context, &restrictions);
        let item = u32::try_from(place).map_err(|_| Error::internal())?;
        let request = RequestKey { principal, request_id: &self.header.request_id.0, item };
        let name = keyring.request_row(id, &request)?;
        let today = self.now.day();
        let reusable = format.format.reuse() == Reuse::Reuse && card.valid_until.is_none();
        let fingerprint = if reusable {
            let scope = self.scope(&format);
            let like = Likeness { scope, format: &format.name, subject, restrictions: &restrictions };
            Some(keyring.fingerprint(id, &like, &card.pan)?)
        } else {
            None
        };
        let guess = if self.admitted.is_import() {
            None
        } else {
            Some(Guess {
                cell: day_row(rows::GUESS, today, id, &keyring.guess_cell(id, principal, &card.pan)?),
                member: keyring.guess_member(id, today, principal, &card.pan)?,
                volume: keyring.volume(id, principal, &card.pan)?,
            })
        };
        Ok(Item {
            place,
            card,
            shape,
            grants,
            subject,
            hash: keyring.request_hash(id, &request, &bytes)?,
            bytes,
            requests: [today, today.saturating_sub(KEPT_DAYS)]
                .map(|d| day_row(rows::IDEMPOTENCY, d, id, &name)),
            fingerprint,
            guess,
            format,
        })
    }

    fn scope(&self, format: &FormatInForce) -> Option<&ChannelName> {
        match format.format.scope() {
            Scope::Merchant => None,
            Scope::Channel => Some(&self.channel),
        }
    }

    /// Scope decides the default: merchant scope works on all channels unless narrowed, channel scope on its own only.
    fn grants(&self, card: &NewCard, format: &FormatInForce) -> Result<Grants, Error> {
        if card.channels.len() > crate::record::MAX_GRANTS {
            return Err(Error::malformed("item.channels", "must name at most 64 channels"));
        }
        let mut named = Vec::with_capacity(card.channels.len());
        for name in &card.channels {
            let known = self.merchant.channel(name);
            named.push(
                known.ok_or_else(|| Error::malformed("item.channels", "names no channel of the merchant"))?,
            );
        }
        named.sort_unstable();
        named.dedup();
        let own = self.admitted.channel_id();
        match (format.format.scope(), named.is_empty()) {
            (Scope::Merchant, true) => Ok(Grants::AllBut(Vec::new())),
            (Scope::Merchant, false) => Ok(Grants::Only(named)),
            (Scope::Channel, true) => Ok(Grants::Only(vec![own])),
            (Scope::Channel, false) if named == [own] => Ok(Grants::Only(named)),
            (Scope::Channel, false) => Err(Error::malformed(
                "item.channels",
                "may name only the request's own channel: the format has channel scope",
            )),
        }
    }

    /// The request's bytes, canonically: what the idempotency hash and the kept answer's key are made over.
    fn request_bytes(&self, card: &NewCard, context: &Context, restrictions: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::with_capacity(512);
        w.u8(Action::Tokenize.id()).u32(u32::try_from(self.cards.len()).unwrap_or(u32::MAX));
        w.u32(self.admitted.channel_id().0).u8(self.header.purpose.id()).u8(self.header.initiator.id());
        w.e(context.customer_reference.as_bytes()).e(context.session.as_bytes());
        w.e(context.client_address.as_bytes());
        w.e(card.pan.expose_digits());
        w.u16(card.card_expiry.map_or(0, |e| e.year())).u8(card.card_expiry.map_or(0, |e| e.month()));
        w.e(card.format.as_ref().map_or("", |f| f.as_str()).as_bytes());
        w.u64(card.valid_until.map_or(0, |t| t.0)).e(restrictions);
        Zeroizing::new(w.done())
    }

    async fn read_for(&mut self, items: &[Item<'_>]) -> Result<(), Error> {
        let id = self.merchant.id;
        let mut keys = Vec::with_capacity(items.len() * 4 + 1);
        for item in items {
            keys.extend(item.requests.iter().cloned());
            keys.extend(item.fingerprint.iter().map(|f| merchant_row(rows::FINGERPRINT, id, f)));
            keys.extend(item.guess.iter().map(|g| g.cell.clone()));
            if item.subject != SubjectId::NONE {
                keys.push(merchant_row(rows::SUBJECT, id, &item.subject.0));
            }
        }
        Ok(self.view.read(self.vault.inner.store.as_ref(), keys).await?)
    }

    /// The guess budget, over the whole batch before any item commits.
    async fn check_guesses(&self, items: &[Item<'_>]) -> Result<(), Error> {
        let mut cells: HashMap<&Key, (GuessCell, &Guess)> = HashMap::new();
        for item in items {
            let Some(guess) = &item.guess else { continue };
            if self.kept_row(item).is_some() {
                continue;
            }
            let read = || (GuessCell::read(self.view.get(&guess.cell)), guess);
            let (cell, _) = cells.entry(&guess.cell).or_insert_with(read);
            if !cell.knows(guess.member) {
                cell.add(guess.member);
            }
        }
        for (key, (cell, guess)) in cells {
            let before = GuessCell::read(self.view.get(key)).count();
            let grows = cell.count() > before;
            if grows && cell.count() > guard::GUESSES_A_DAY && cell.count() > self.allowance(guess).await? {
                let denial = self.admitted.deny(Refusal::GuessBudgetSpent, None);
                let told = self.vault.inner.journal.refuse(denial, self.header.deadline).await;
                let midnight = Timestamp(0).plus_days(self.now.day().saturating_add(1));
                return Err(match told {
                    Error::Budget { .. } => Error::Budget { retry_after_ms: midnight.ms_since(self.now) },
                    other => other,
                });
            }
        }
        Ok(())
    }

    /// What thirty days of this principal's cards of the BIN allow. Read only where five are not enough.
    async fn allowance(&self, guess: &Guess) -> Result<usize, Error> {
        let today = self.now.day();
        let days = (1..=guard::MEAN_DAYS).map(|back| today.saturating_sub(back));
        let keys: Vec<Key> =
            days.map(|d| day_row(rows::VOLUME, d, self.merchant.id, &guess.volume)).collect();
        let counts = self.vault.inner.store.get(&keys).await?;
        let count = |v: &Vec<u8>| v.as_slice().try_into().map_or(0, u64::from_be_bytes);
        let total = counts.iter().flatten().map(count).fold(0, u64::saturating_add);
        Ok(guard::allowance(total))
    }

    fn kept_row(&self, item: &Item<'_>) -> Option<(Timestamp, [u8; 32], Vec<u8>)> {
        let read = |bytes: &[u8]| -> Result<(Timestamp, [u8; 32], Vec<u8>), Torn> {
            let mut r = Reader::new(bytes);
            if r.u8()? != FORMAT {
                return Err(Torn);
            }
            Ok((Timestamp(r.u64()?), r.array()?, r.rest().to_vec()))
        };
        let found =
            item.requests.iter().find_map(|key| self.view.get(key)).and_then(|bytes| read(bytes).ok())?;
        (self.now < found.0.plus_days(KEPT_DAYS)).then_some(found)
    }

    /// The answer kept of an earlier request with this id; an error if that was another request.
    async fn kept(&self, item: &Item<'_>) -> Result<Option<Answer>, Error> {
        let Some((_, hash, sealed)) = self.kept_row(item) else { return Ok(None) };
        let place = u32::try_from(item.place).map_err(|_| Error::internal())?;
        let request = RequestKey {
            principal: self.admitted.principal(),
            request_id: &self.header.request_id.0,
            item: place,
        };
        if !same_request(&hash, &item.hash) {
            let denial = self.admitted.deny(Refusal::IdempotencyMismatch, None);
            return Err(self.vault.inner.journal.refuse(denial, self.header.deadline).await);
        }
        let opened = self.state.keyring.open_answer(self.merchant.id, &request, &item.bytes, &sealed);
        let answer = opened.ok().and_then(|bytes| Answer::decode(&bytes).ok());
        answer.map(Some).ok_or_else(Error::internal)
    }

    /// A first candidate for each item, and the rows of it and of the token that might be reused, read together.
    async fn read_candidates(&mut self, items: &[Item<'_>]) -> Result<Vec<(Option<Token>, Token)>, Error> {
        let (id, keyring) = (self.merchant.id, &self.state.keyring);
        let mut drawn = Vec::with_capacity(items.len());
        let mut keys = Vec::with_capacity(items.len() * 2);
        for item in items {
            let known = self.known_token(item)?;
            let candidate = item.shape.draw(&mut random::below)?;
            for token in known.iter().chain([&candidate]) {
                keys.push(merchant_row(rows::CARD, id, &keyring.row_key(id, token)?.0));
            }
            drawn.push((known, candidate));
        }
        self.view.read(self.vault.inner.store.as_ref(), keys).await?;
        Ok(drawn)
    }

    /// The token that this card already has, as its fingerprint row says.
    fn known_token(&self, item: &Item<'_>) -> Result<Option<Token>, Error> {
        let Some(fingerprint) = &item.fingerprint else { return Ok(None) };
        let id = self.merchant.id;
        let Some(row) = self.view.get(&merchant_row(rows::FINGERPRINT, id, fingerprint)) else {
            return Ok(None);
        };
        let scope = self.scope(&item.format);
        let opened = self.state.keyring.open_reuse(id, fingerprint, scope, &item.card.pan, row);
        opened.map(Some).map_err(|_| Error::internal())
    }

    /// Reuses the card's token where there is a working one, mints one where there is not.
    async fn decide(
        &mut self,
        item: &Item<'_>,
        (_, candidate): (Option<Token>, Token),
    ) -> Result<(Answer, Part, Option<(RowKey, u32)>), Error> {
        let mut part = Part::default();
        self.count_guess(item, &mut part);
        // Read again, since an item before this one may be of the same card.
        if let Some(known) = self.known_token(item)? {
            if let Some((answer, changed)) = self.reuse(item, known, &mut part)? {
                return Ok((answer, part, changed));
            }
        }
        let (answer, row) = self.mint(item, candidate, &mut part).await?;
        Ok((answer, part, Some((row, 1))))
    }

    fn count_guess(&mut self, item: &Item<'_>, part: &mut Part) {
        let Some(guess) = &item.guess else { return };
        let mut cell = GuessCell::read(self.view.get(&guess.cell));
        if !cell.knows(guess.member) {
            cell.add(guess.member);
            self.view.put(part, guess.cell.clone(), cell.into_row());
            let volume = day_row(rows::VOLUME, self.now.day(), self.merchant.id, &guess.volume);
            part.writes.push(Write::Add(volume, 1));
        }
    }

    /// The same token again, unless it is revoked, expired or narrowed since. A later card expiry updates the record.
    fn reuse(
        &mut self,
        item: &Item<'_>,
        token: Token,
        part: &mut Part,
    ) -> Result<Option<(Answer, Option<(RowKey, u32)>)>, Error> {
        let (id, state) = (self.merchant.id, self.state.clone());
        let row_key = state.keyring.row_key(id, &token)?;
        let store_key = merchant_row(rows::CARD, id, &row_key.0);
        let Some(bytes) = self.view.get(&store_key) else {
            return if self.vault.inner.recent.is_older(id, row_key, None) {
                Err(Error::internal())
            } else {
                Ok(None)
            };
        };
        let card = state.keyring.card(id, row_key, bytes).map_err(|_| Error::internal())?;
        if self.vault.inner.recent.is_older(id, row_key, Some(card.row.version)) {
            return Err(Error::internal());
        }
        let works = !card.is_revoked() && card.row.valid_until.is_none() && card.row.grants == item.grants;
        if !works || card.row.subject != item.subject {
            return Ok(None);
        }
        let later = item.card.card_expiry.filter(|given| card.row.card_expiry.is_none_or(|had| *given > had));
        let mut changed = None;
        let mut row = card.row;
        if let Some(expiry) = later {
            row.card_expiry = Some(expiry);
            row.version = row.version.saturating_add(1);
            let sealed = state.keyring.seal_row(id, row_key, &row)?;
            self.view.put(part, store_key, sealed);
            changed = Some((row_key, row.version));
        } else {
            self.view.rely(part, &store_key);
        }
        let answer = Answer {
            token,
            record: row.record,
            version: row.version,
            minting: Minting::Reused,
            format: item.format.name.clone(),
            network: row.network,
            card_expiry: item.card.card_expiry,
            valid_until: None,
        };
        Ok(Some((answer, changed)))
    }

    async fn mint(
        &mut self,
        item: &Item<'_>,
        first: Token,
        part: &mut Part,
    ) -> Result<(Answer, RowKey), Error> {
        let (id, state) = (self.merchant.id, self.state.clone());
        let (token, row_key) = self.unused(item, first).await?;
        let record = state.keyring.reference(id, &token)?;
        let secret = self.subject_row(item, row_key, part)?;
        let inner = state.keyring.seal_pan(id, &token, &secret, record, &item.card.pan)?;
        let network =
            self.vault.inner.networks.find(&item.card.pan).map_or_else(String::new, |n| n.id().to_owned());
        let row = Row {
            version: 1,
            record,
            format: item.format.id,
            mask: item.card.pan.mask(self.merchant.mask(item.card.pan.len())),
            network: network.clone(),
            card_expiry: item.card.card_expiry,
            made_at: self.now,
            valid_until: item.card.valid_until,
            grants: item.grants.clone(),
            subject: item.subject,
            inner: Some(inner),
        };
        let sealed = state.keyring.seal_row(id, row_key, &row)?;
        self.view.put(part, merchant_row(rows::CARD, id, &row_key.0), sealed);
        if let Some(fingerprint) = &item.fingerprint {
            let scope = self.scope(&item.format);
            let sealed = state.keyring.seal_reuse(id, fingerprint, scope, &item.card.pan, &token)?;
            self.view.put(part, merchant_row(rows::FINGERPRINT, id, fingerprint), sealed);
        }
        part.writes.push(Write::Add(self.space_key(item)?, 1));
        let answer = Answer {
            token,
            record,
            version: 1,
            minting: Minting::Minted,
            format: item.format.name.clone(),
            network,
            card_expiry: item.card.card_expiry,
            valid_until: item.card.valid_until,
        };
        Ok((answer, row_key))
    }

    /// The subject's secret; the subject's index gets the new rows.
    fn subject_row(&mut self, item: &Item<'_>, row: RowKey, part: &mut Part) -> Result<SubjectSecret, Error> {
        if item.subject == SubjectId::NONE {
            return Ok(SubjectSecret::none());
        }
        let (id, subject, state) = (self.merchant.id, item.subject, self.state.clone());
        let key = merchant_row(rows::SUBJECT, id, &subject.0);
        let mut index: SubjectIndex = match self.view.get(&key) {
            None => state.keyring.new_subject(id, subject, &SubjectSecret::random()?)?,
            Some(bytes) => state.keyring.open_subject(id, subject, bytes).map_err(|_| Error::internal())?,
        };
        if index.cards.len() >= MAX_SUBJECT_ROWS {
            return Err(Error::malformed("context.customer_reference", "already has 2,000 tokens"));
        }
        let secret = state.keyring.subject_secret(id, subject, &index).map_err(|_| Error::internal())?;
        index.cards.push(row);
        if let Some(fingerprint) = item.fingerprint.filter(|f| !index.fingerprints.contains(f)) {
            index.fingerprints.push(fingerprint);
        }
        let sealed = state.keyring.seal_subject(id, subject, &index)?;
        self.view.put(part, key, sealed);
        Ok(secret)
    }

    /// A token that no row has: the first candidate, 31 more, then the walk where the space is small, else 992 more.
    async fn unused(&mut self, item: &Item<'_>, first: Token) -> Result<(Token, RowKey), Error> {
        if let Some(found) = self.if_unused(first).await? {
            return Ok(found);
        }
        let small = item.shape.space() <= u128::from(MAX_WALK);
        let draws = if small { REDRAWS } else { MAX_REDRAWS };
        for _ in 1..draws {
            let token = item.shape.draw(&mut random::below)?;
            if let Some(found) = self.if_unused(token).await? {
                return Ok(found);
            }
        }
        if small && !self.is_used_up(item).await? {
            for index in item.shape.walk(&mut random::below)? {
                let Some(token) = item.shape.nth(index) else { continue };
                if let Some(found) = self.if_unused(token).await? {
                    return Ok(found);
                }
            }
        }
        Err(Error::SpaceExhausted)
    }

    /// Whether the counter says that every token of this shape is taken: tombstones count too, so it never falls.
    async fn is_used_up(&self, item: &Item<'_>) -> Result<bool, Error> {
        let key = self.space_key(item)?;
        let row = self.vault.inner.store.get(&[key]).await?.into_iter().next().flatten();
        let used = row.and_then(|v| v.try_into().ok()).map_or(0, u64::from_be_bytes);
        Ok(u128::from(used) >= item.shape.space())
    }

    fn space_key(&self, item: &Item<'_>) -> Result<Key, Error> {
        let length = u8::try_from(item.card.pan.len()).map_err(|_| Error::internal())?;
        let name = &item.format.name;
        let space = self.state.keyring.space(self.merchant.id, name, length, item.shape.kept())?;
        Ok(merchant_row(rows::SPACE, self.merchant.id, &space))
    }

    async fn if_unused(&mut self, token: Token) -> Result<Option<(Token, RowKey)>, Error> {
        let id = self.merchant.id;
        let row_key = self.state.keyring.row_key(id, &token)?;
        let key = merchant_row(rows::CARD, id, &row_key.0);
        self.view.read(self.vault.inner.store.as_ref(), vec![key.clone()]).await?;
        // A row that this node wrote and that is gone is not free: somebody took it away.
        let taken = self.view.get(&key).is_some() || self.vault.inner.recent.is_older(id, row_key, None);
        Ok((!taken).then_some((token, row_key)))
    }

    /// Asks for the permit, and puts the item's filing and its kept answer together.
    #[allow(clippy::too_many_arguments, reason = "what one item comes to, said once")]
    fn settle(
        &mut self,
        item: &Item<'_>,
        answer: Answer,
        mut part: Part,
        again: bool,
        changed: Option<(RowKey, u32)>,
        filings: &mut Vec<Filing>,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Error> {
        let filing = match self.admitted.permit_token(answer.record, answer.minting, answer.version, again) {
            Err(denial) => Filing::Refuse(denial),
            Ok(permit) => {
                if !again {
                    let row = self.kept_bytes(item, &answer)?;
                    let [today, _] = &item.requests;
                    self.view.put(&mut part, today.clone(), row);
                }
                Filing::Enact(permit, part)
            }
        };
        filings.push(filing);
        outcomes.push(Outcome { place: item.place, answer, changed });
        Ok(())
    }

    fn kept_bytes(&self, item: &Item<'_>, answer: &Answer) -> Result<Vec<u8>, Error> {
        let place = u32::try_from(item.place).map_err(|_| Error::internal())?;
        let request = RequestKey {
            principal: self.admitted.principal(),
            request_id: &self.header.request_id.0,
            item: place,
        };
        let plain = Zeroizing::new(answer.encode());
        let sealed = self.state.keyring.seal_answer(self.merchant.id, &request, &item.bytes, &plain)?;
        Ok(Writer::default().u8(FORMAT).u64(self.now.0).fixed(&item.hash).fixed(&sealed).done())
    }

    fn tokenized(&self, place: usize, answer: Answer, receipt: Receipt) -> Result<Tokenized, Error> {
        let pan = &self.cards.get(place).ok_or_else(Error::internal)?.pan;
        Ok(Tokenized {
            mask: pan.mask(self.merchant.mask(pan.len())),
            token: answer.token,
            format: answer.format,
            network: answer.network,
            card_expiry: answer.card_expiry,
            valid_until: answer.valid_until,
            minting: self.admitted.tells_reuse().then_some(answer.minting),
            receipt,
        })
    }
}

/// The restrictions asked for, canonically: kind u8, then each channel u32.
fn restrictions(grants: &Grants) -> Vec<u8> {
    let (kind, channels): (u8, &[ChannelId]) = match grants {
        Grants::AllBut(channels) => (0, channels),
        Grants::Only(channels) => (1, channels),
    };
    let mut w = Writer::default();
    w.u8(kind);
    for channel in channels {
        w.u32(channel.0);
    }
    w.done()
}

impl Answer {
    /// What is kept for a retry: version u8, token, record 16, version u32, minting u8, format, network, expiry, valid until.
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(128);
        w.u8(FORMAT).e(self.token.as_bytes()).fixed(&self.record.0).u32(self.version);
        w.u8(match self.minting {
            Minting::Minted => 1,
            Minting::Reused => 2,
        });
        w.e(self.format.as_str().as_bytes()).e(self.network.as_bytes());
        w.u16(self.card_expiry.map_or(0, |e| e.year())).u8(self.card_expiry.map_or(0, |e| e.month()));
        w.u64(self.valid_until.map_or(0, |t| t.0)).done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Torn> {
        let mut r = Reader::new(bytes);
        if r.u8()? != FORMAT {
            return Err(Torn);
        }
        let answer = Self {
            token: Token::parse(r.text()?).map_err(|_| Torn)?,
            record: Ref(r.array()?),
            version: r.u32()?,
            minting: match r.u8()? {
                1 => Minting::Minted,
                2 => Minting::Reused,
                _ => return Err(Torn),
            },
            format: FormatName::parse(r.text()?).map_err(|_| Torn)?,
            network: r.text()?.to_owned(),
            card_expiry: match (r.u16()?, r.u8()?) {
                (0, 0) => None,
                (year, month) => Some(CardExpiry::new(year, month).map_err(|_| Torn)?),
            },
            valid_until: Some(r.u64()?).filter(|t| *t != 0).map(Timestamp),
        };
        r.end()?;
        Ok(answer)
    }
}
