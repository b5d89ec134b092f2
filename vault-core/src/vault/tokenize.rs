//! Tokenize: a card comes in, a token goes out.

pub(super) mod vaultless;

use std::collections::HashMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::guesses::{self, Guess};
use super::kept::{KEPT_DAYS, Kept, Request};
use super::request::{Brought, Context, Header, MAX_BATCH, NewCard, Tokenized};
use super::running::Run;
use super::seal::told_of_sealed;
use super::space::{self, MintedSpaces};
use super::view::View;
use super::{MAX_ROUNDS, State, Vault};
use crate::aead::Unopened;
use crate::audit::entry::Minting;
use crate::audit::receipt::Receipt;
use crate::chain::Place;
use crate::codec::{Reader, Torn, Writer};
use crate::error::Error;
use crate::journal::{Filing, NotFiled};
use crate::keyring::{
    Fingerprint, Likeness, MAX_SUBJECT_ROWS, RequestKey, SubjectIndex, SubjectSecret, day_row, merchant_row,
};
use crate::name::{ChannelName, FormatName};
use crate::pan::CardExpiry;
use crate::pattern::Space;
use crate::policy::{Admitted, Asked, Caller, Denial, FormatInForce, MerchantInForce, Rules};
use crate::random;
use crate::record::{ChannelId, Grants, Row, RowKey, Standing, SubjectId};
use crate::restrictions::Restrictions;
use crate::rows;
use crate::store::{Key, Part, Write};
use crate::time::Timestamp;
use crate::token::{MAX_REDRAWS, MAX_WALK, REDRAWS, Reuse, Scheme, Scope, Token};
use crate::value::Value;
use crate::words::{Action, Kind, Ref, Refusal, Show};

/// Version of a kept answer.
const FORMAT: u8 = 1;

/// How many cards of one data subject are worked on in one commit.
const SUBJECT_STRIDE: usize = 64;

/// What stands before an existing token in a request's bytes.
const EXISTING: &[u8] = b"existing";

/// How many tokens of a walk are looked up at once.
const STRIDE: usize = 256;

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
        self.tokenize_brought(caller, header, cards.into_iter().map(Brought::Plain).collect()).await
    }

    /// The same for cards of which some or all came sealed. One that does not open, or opens to no card for this channel,
    /// is one error, `item.sealed`, whatever the reason.
    pub async fn tokenize_brought(
        &self,
        caller: Caller<'_>,
        header: &Header,
        brought: Vec<Brought>,
    ) -> Result<Vec<Result<Tokenized, Error>>, Error> {
        within_batch(brought.len())?;
        let sealed: Vec<bool> = brought.iter().map(|b| matches!(b, Brought::Sealed(_))).collect();
        let answers = self.tokenize_rounds(caller, header, brought).await?;
        let told = answers.into_iter().zip(sealed);
        let told = told.map(|(answer, sealed)| if sealed { answer.map_err(told_of_sealed) } else { answer });
        Ok(told.collect())
    }

    async fn tokenize_rounds(
        &self,
        caller: Caller<'_>,
        header: &Header,
        brought: Vec<Brought>,
    ) -> Result<Vec<Result<Tokenized, Error>>, Error> {
        let asked = Asked {
            caller,
            merchant: header.merchant.as_ref(),
            channel: header.channel.as_ref(),
            action: Action::Tokenize,
            purpose: header.purpose,
            initiator: header.initiator,
            show: Show::Nothing,
        };
        self.tokenize_admitted(|rules| rules.admit(&asked), header, brought).await
    }

    /// The same for whoever `admit` lets in: a translation brings cards by another door.
    pub(super) async fn tokenize_admitted(
        &self,
        admit: impl Fn(&Rules) -> Result<Admitted, Denial>,
        header: &Header,
        brought: Vec<Brought>,
    ) -> Result<Vec<Result<Tokenized, Error>>, Error> {
        let mut answers: Vec<Option<Result<Tokenized, Error>>> = brought.iter().map(|_| None).collect();
        let (mut run, mut brought, mut cards) = (None, Some(brought), Vec::new());
        for _ in 0..MAX_ROUNDS {
            let state = self.state();
            let admitted = admit(&state.rules).and_then(|a| a.may_tokenize().map(|()| a));
            let admitted = match admitted {
                Ok(admitted) => admitted,
                Err(denial) => {
                    let told = self.inner.journal.refuse(denial, header.deadline).await;
                    return told_to_the_rest(answers, told);
                }
            };
            if run.is_none() {
                run = Some(Arc::new(self.inner.running.begin(admitted.principal(), header.request_id)?));
            }
            if let Some(brought) = brought.take() {
                cards = self.opened(&state, &admitted, header, brought, &mut answers).await?;
            }
            if answers.iter().all(Option::is_some) {
                break;
            }
            let round = match Round::new(self, state.clone(), admitted, header, &cards) {
                Ok(round) => Round { hold: run.clone(), ..round },
                Err(e) => return told_to_the_rest(answers, e),
            };
            match round.go(&mut answers).await {
                Err(e) if !self.is_over(&state, &e) => return told_to_the_rest(answers, e),
                _ => {}
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

/// An error of a whole request. Items of it that an earlier round put on disk keep their answers: it is theirs that are
/// still open.
pub(super) fn told_to_the_rest<T>(
    answers: Vec<Option<Result<T, Error>>>,
    error: Error,
) -> Result<Vec<Result<T, Error>>, Error> {
    if answers.iter().any(|a| matches!(a, Some(Ok(_)))) {
        return Ok(answers.into_iter().map(|a| a.unwrap_or_else(|| Err(error.clone()))).collect());
    }
    Err(error)
}

/// One try at what is still open of a request, under one version of Control.
struct Round<'a> {
    vault: &'a Vault,
    state: Arc<State>,
    admitted: Admitted,
    merchant: Arc<MerchantInForce>,
    channel: ChannelName,
    header: &'a Header,
    /// By place; none where a sealed card did not open.
    cards: &'a [Option<NewCard>],
    now: Timestamp,
    view: View,
    /// The data subjects of the request, found or about to be made.
    subjects: HashMap<SubjectId, Subject>,
    /// What this node knew of the rows of tokens that may be reused, before it read them.
    newest: HashMap<RowKey, u32>,
    /// The spaces that it drew from.
    spaces: MintedSpaces,
    /// Keeps the request's id taken until the journal has answered.
    hold: Option<Arc<Run>>,
}

/// A data subject: its secret, and its index as it will stand.
struct Subject {
    secret: SubjectSecret,
    /// None for cards without a subject.
    index: Option<SubjectIndex>,
}

/// An item whose names are all worked out.
struct Item<'a> {
    place: usize,
    card: &'a NewCard,
    format: Arc<FormatInForce>,
    space: Space,
    grants: Grants,
    subject: SubjectId,
    bytes: Zeroizing<Vec<u8>>,
    hash: [u8; 32],
    requests: [Key; 2],
    restrictions: Vec<u8>,
    fingerprint: Option<Fingerprint>,
    guess: Option<Guess>,
}

/// Which row an item changes, and to what version.
type Changed = Option<(RowKey, u32)>;

/// What an item comes to, before it is on disk.
struct Outcome {
    place: usize,
    told: Result<Answer, Error>,
}

/// Why an item gets no token.
enum Undecided {
    /// A row that it needs does not open, or was put back or taken away.
    Unreadable,
    /// This.
    Told(Error),
}

impl<E: Into<Error>> From<E> for Undecided {
    fn from(e: E) -> Self {
        Self::Told(e.into())
    }
}

/// What a round files, and what each filing comes to.
#[derive(Default)]
struct Work {
    filings: Vec<Filing>,
    outcomes: Vec<Outcome>,
}

impl Work {
    fn refuse(&mut self, place: usize, denial: Denial, counted: Part) {
        let told = denial.error();
        self.filings.push(Filing::RefuseFound(denial, counted));
        self.outcomes.push(Outcome { place, told: Err(told) });
    }
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
        cards: &'a [Option<NewCard>],
    ) -> Result<Self, Error> {
        let merchant = state.rules.merchant(admitted.merchant()).ok_or_else(Error::internal)?.clone();
        let channel = merchant.channel_name(admitted.channel_id()).ok_or_else(Error::internal)?.clone();
        let now = vault.now();
        let view = View::default();
        let (subjects, newest) = (HashMap::new(), HashMap::new());
        Ok(Self {
            vault,
            state,
            admitted,
            merchant,
            channel,
            header,
            cards,
            now,
            view,
            subjects,
            newest,
            spaces: MintedSpaces::default(),
            hold: None,
        })
    }

    async fn go(mut self, answers: &mut [Option<Result<Tokenized, Error>>]) -> Result<(), Error> {
        self.read_subjects(answers).await?;
        let items = self.items(answers)?;
        self.read_for(&items).await?;
        self.check_guesses(&items).await?;
        let mut work = Work::default();
        let mut fresh = Vec::with_capacity(items.len());
        for item in items {
            if item.card.existing.is_some() && !self.admitted.is_import() {
                work.refuse(item.place, self.admitted.deny(Refusal::ActionNotAllowed, None), Part::default());
                continue;
            }
            if self.served(&item).is_some() && !self.admitted.is_vaultless() {
                let mut counted = Part::default();
                self.count_guess(&item, &mut counted);
                work.refuse(item.place, self.admitted.deny(Refusal::VaultlessNotAllowed, None), counted);
                continue;
            }
            match self.kept(&item).await? {
                Ok(Some(answer)) => self.settle(&item, answer, Part::default(), true, None, &mut work)?,
                Ok(None) => fresh.push(item),
                Err(Unopened) => {
                    let mut counted = Part::default();
                    self.count_guess(&item, &mut counted);
                    work.refuse(item.place, self.admitted.deny(Refusal::Unreadable, None), counted);
                }
            }
        }
        let drawn = self.read_candidates(&fresh).await?;
        for (item, candidate) in fresh.iter().zip(drawn) {
            let mut counted = Part::default();
            self.count_guess(item, &mut counted);
            let mut part = counted.clone();
            match self.decide(item, candidate, &mut part).await {
                Ok((answer, changed)) => self.settle(item, answer, part, false, changed, &mut work)?,
                // The guess counts all the same: a card that is known here would have been answered.
                Err(Undecided::Unreadable) => {
                    work.refuse(item.place, self.admitted.deny(Refusal::Unreadable, None), counted);
                }
                Err(Undecided::Told(Error::SpaceExhausted)) => {
                    work.refuse(item.place, self.admitted.deny(Refusal::SpaceExhausted, None), counted);
                }
                Err(Undecided::Told(e @ Error::Malformed { .. })) => {
                    let denial = self.admitted.deny(Refusal::Malformed, None);
                    work.filings.push(Filing::RefuseFound(denial, counted));
                    work.outcomes.push(Outcome { place: item.place, told: Err(e) });
                }
                Err(Undecided::Told(e)) => self.answer(answers, item.place, Err(e)),
            }
        }
        let Work { filings, outcomes } = work;
        let hold = self.hold.clone().map(|run| run as Arc<dyn Send + Sync>);
        let filed = self.vault.inner.journal.file(filings, self.header.deadline, hold).await;
        // Only now do their counters tell of these tokens.
        self.vault.inner.spaces.note(std::mem::take(&mut self.spaces));
        for (outcome, filed) in outcomes.into_iter().zip(filed?) {
            let Outcome { place, told } = outcome;
            match (filed, told) {
                (Ok(filed), Ok(answer)) => {
                    let tokenized = self.tokenized(place, answer, filed.receipt)?;
                    self.answer(answers, place, Ok(tokenized));
                }
                (Ok(_), Err(told)) => self.answer(answers, place, Err(told)),
                (Err(NotFiled::Stale), _) => {}
                (Err(e), _) => self.answer(answers, place, Err(e.into())),
            }
        }
        Ok(())
    }

    /// The request's data subjects: fingerprints are made with their secrets, so they come first. One that is new gets
    /// its secret here, and its row with its first card.
    async fn read_subjects(&mut self, answers: &[Option<Result<Tokenized, Error>>]) -> Result<(), Error> {
        let (id, state) = (self.merchant.id, self.state.clone());
        let mut wanted = Vec::new();
        for (card, answer) in self.cards.iter().zip(answers) {
            let Some(card) = card else { continue };
            let reference = self.context(card).customer_reference.as_str();
            if answer.is_none() && !reference.is_empty() {
                wanted.push(state.keyring.subject(id, reference)?);
            }
        }
        let keys = wanted.iter().map(|subject| merchant_row(rows::SUBJECT, id, &subject.0)).collect();
        self.view.read(self.vault.inner.store.as_ref(), keys).await?;
        for subject in wanted {
            if self.subjects.contains_key(&subject) {
                continue;
            }
            let row = self.view.get(&merchant_row(rows::SUBJECT, id, &subject.0));
            let found = if let Some(bytes) = row.filter(|row| !state.keyring.is_shredded(id, row)) {
                let index = state.keyring.open_subject(id, subject, bytes).map_err(|_| Error::internal())?;
                let secret =
                    state.keyring.subject_secret(id, subject, &index).map_err(|_| Error::internal())?;
                Subject { secret, index: Some(index) }
            } else {
                let secret = SubjectSecret::random()?;
                let index = state.keyring.new_subject(id, subject, &secret)?;
                Subject { secret, index: Some(index) }
            };
            self.subjects.insert(subject, found);
        }
        self.subjects.insert(SubjectId::NONE, Subject { secret: SubjectSecret::none(), index: None });
        Ok(())
    }

    fn context<'c>(&self, card: &'c NewCard) -> &'c Context
    where
        'a: 'c,
    {
        card.context.as_ref().unwrap_or(&self.header.context)
    }

    fn likeness<'l>(&'l self, item: &'l Item<'_>) -> Result<Likeness<'l>, Error> {
        self.like(&item.format, item.subject, &item.restrictions)
    }

    fn like<'l>(
        &'l self,
        format: &'l FormatInForce,
        subject: SubjectId,
        restrictions: &'l [u8],
    ) -> Result<Likeness<'l>, Error> {
        let subject = &self.subjects.get(&subject).ok_or_else(Error::internal)?.secret;
        Ok(Likeness { scope: self.scope(format), format: &format.name, subject, restrictions })
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
        let mut of_subject: HashMap<&str, usize> = HashMap::new();
        for (place, card) in self.cards.iter().enumerate() {
            let Some(card) = card.as_ref().filter(|_| answers.get(place).is_some_and(Option::is_none)) else {
                continue;
            };
            let subject = self.context(card).customer_reference.as_str();
            if !subject.is_empty() {
                let count = of_subject.entry(subject).or_insert(0);
                *count += 1;
                // The rest of them in the next round: each item rewrites its subject's index.
                if *count > SUBJECT_STRIDE {
                    continue;
                }
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
            .format(card.value.kind(), card.format.as_ref(), &self.channel)
            .ok_or_else(|| {
                Error::malformed(
                    "item.format",
                    "names no format of the merchant for such values on this channel",
                )
            })?
            .clone();
        self.check_value(card)?;
        if card.valid_until.is_some_and(|until| until <= self.now) {
            return Err(Error::malformed("item.valid_until", "must be in the future"));
        }
        let space = Space::of(&format.format, &card.value, self.merchant.ff1_slots).ok_or_else(|| {
            let field = field_of(card.value.kind());
            Error::malformed(field, "has a length that this token format does not take")
        })?;
        let grants = self.grants(card, &format)?;
        let restrictions = restrictions(&grants, card.restrictions);
        let context = self.context(card);
        if card.restrictions.bound_to_customer && context.customer_reference.is_empty() {
            return Err(Error::malformed(
                "item.restrictions.bound_to_customer",
                "needs a customer reference in the context",
            ));
        }
        card.attributes.check()?;
        self.check_existing(card, &format)?;
        let subject = match context.customer_reference.as_str() {
            "" => SubjectId::NONE,
            reference => keyring.subject(id, reference)?,
        };
        let bytes = self.request_bytes(card, context, &restrictions);
        let item = u32::try_from(place).map_err(|_| Error::internal())?;
        let request = RequestKey { principal, request_id: &self.header.request_id.0, item };
        let name = keyring.request_row(id, &request)?;
        let today = self.now.day();
        let reusable = format.format.reuse() == Reuse::Reuse
            && format.format.scheme() != Scheme::Ff1
            && card.valid_until.is_none()
            && !card.restrictions.single_use;
        let fingerprint = if reusable {
            Some(keyring.fingerprint(id, &self.like(&format, subject, &restrictions)?, &card.value)?)
        } else {
            None
        };
        Ok(Item {
            place,
            card,
            space,
            grants,
            subject,
            restrictions,
            hash: keyring.request_hash(id, &request, &bytes)?,
            bytes,
            requests: [today, today.saturating_sub(KEPT_DAYS)]
                .map(|d| day_row(rows::IDEMPOTENCY, d, id, &name)),
            fingerprint,
            guess: Guess::of(keyring, &self.admitted, &card.value, today)?,
            format,
        })
    }

    /// What a value may not be although it is well formed.
    fn check_value(&self, card: &NewCard) -> Result<(), Error> {
        let kind = card.value.kind();
        if card.value.number().is_some_and(|number| self.merchant.is_own_token(number)) {
            return Err(Error::malformed(field_of(kind), OWN_TOKEN));
        }
        if card.value.smuggles_card(&self.vault.inner.networks) {
            return Err(Error::malformed(field_of(kind), HOLDS_CARD));
        }
        match (kind, card.card_expiry) {
            (Kind::NetworkToken, None) => {
                Err(Error::malformed("item.network_token.expiry", "is required: a network token has its own"))
            }
            (Kind::Card | Kind::NetworkToken, _) | (_, None) => Ok(()),
            (_, Some(_)) => Err(Error::malformed("item.card_expiry", "is for cards and network tokens only")),
        }
    }

    /// A token from elsewhere must not be one that this merchant's slots could make.
    fn check_existing(&self, card: &NewCard, format: &FormatInForce) -> Result<(), Error> {
        let Some(existing) = &card.existing else { return Ok(()) };
        let wrong = |rule| Err(Error::malformed("item.existing_token", rule));
        if format.format.scheme() == Scheme::Ff1 {
            return wrong("cannot be kept in an ff1 format, which makes the token of the card");
        }
        if crate::vaultless::slot_of(existing, self.merchant.ff1_slots).is_some() {
            return wrong("could be an ff1 token of this merchant; let the card have a new one");
        }
        if luhn_valid_digits(existing) || crate::pan::holds_card_number(existing.as_str()) {
            return wrong("must not pass the Luhn check, nor hold a card number");
        }
        Ok(())
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
        let identity = card.value.expose_padded();
        let mut w = Writer::with_capacity(8_192 + identity.len()); // never outgrown: a card number is written into it
        w.u8(Action::Tokenize.id()).u32(u32::try_from(self.cards.len()).unwrap_or(u32::MAX));
        w.u32(self.admitted.channel_id().0).u8(self.header.purpose.id()).u8(self.header.initiator.id());
        w.e(context.customer_reference.as_bytes()).e(context.session.as_bytes());
        w.e(context.client_address.as_bytes());
        match &card.value {
            Value::Card(pan) => w.e(pan.expose_digits()),
            _ => w.e(&identity),
        };
        w.u16(card.card_expiry.map_or(0, CardExpiry::year)).u8(card.card_expiry.map_or(0, CardExpiry::month));
        w.e(card.format.as_ref().map_or("", |f| f.as_str()).as_bytes());
        w.u64(card.valid_until.map_or(0, |t| t.0)).e(restrictions);
        if card.value.kind() != Kind::Card {
            w.u8(card.value.kind().id());
        }
        if let Some(existing) = &card.existing {
            w.fixed(EXISTING).e(existing.as_bytes());
        }
        // Only where there are any: the bytes of a request without are those of every release.
        if !card.attributes.is_empty() {
            card.attributes.write(&mut w);
        }
        Zeroizing::new(w.done())
    }

    async fn read_for(&mut self, items: &[Item<'_>]) -> Result<(), Error> {
        let id = self.merchant.id;
        let mut keys = Vec::with_capacity(items.len() * 4 + 1);
        for item in items {
            keys.extend(item.requests.iter().cloned());
            if let Some(fingerprint) = item.fingerprint {
                keys.extend(self.state.keyring.fingerprint_places(id, fingerprint)?.keys());
            }
            keys.extend(item.guess.iter().map(|g| g.cell.clone()));
            if item.subject != SubjectId::NONE {
                keys.push(merchant_row(rows::SUBJECT, id, &item.subject.0));
            }
        }
        Ok(self.view.read(self.vault.inner.store.as_ref(), keys).await?)
    }

    /// The guess budget, over the whole batch before any item commits.
    async fn check_guesses(&self, items: &[Item<'_>]) -> Result<(), Error> {
        let mut counted = Vec::with_capacity(items.len());
        for item in items {
            let Some(guess) = &item.guess else { continue };
            // A retry of this very request is no new guess; the same id with another card is one.
            let request = self.request(item)?;
            if !self.kept_row(item).is_ok_and(|kept| kept.is_some_and(|k| request.is(&k))) {
                counted.push(guess);
            }
        }
        let when = (self.now, self.header.deadline);
        guesses::check(self.vault, &self.view, &self.admitted, when, counted.into_iter()).await
    }

    fn request(&self, item: &Item<'_>) -> Result<Request<'_>, Error> {
        let place = u32::try_from(item.place).map_err(|_| Error::internal())?;
        let (principal, request_id) = (self.admitted.principal(), &self.header.request_id.0);
        let key = RequestKey { principal, request_id, item: place };
        Ok(Request { merchant: self.merchant.id, key, hash: item.hash })
    }

    /// The row of an earlier request with this id, unless its time is over.
    fn kept_row(&self, item: &Item<'_>) -> Result<Option<Kept<'_>>, Unopened> {
        let Some(row) = item.requests.iter().find_map(|key| self.view.get(key)) else { return Ok(None) };
        let kept = self.request(item).map_err(|_| Unopened)?.read(&self.state.keyring, row)?;
        Ok(kept.counts(self.now).then_some(kept))
    }

    /// The answer kept of an earlier request with this id. The outer error is of the whole request: the earlier one was
    /// another. Then the card counts as a guess, since the answer tells that it is not the earlier one's.
    async fn kept(&mut self, item: &Item<'_>) -> Result<Result<Option<Answer>, Unopened>, Error> {
        let request = self.request(item)?;
        match self.kept_row(item) {
            Err(Unopened) => return Ok(Err(Unopened)),
            Ok(None) => return Ok(Ok(None)),
            Ok(Some(kept)) if request.is(&kept) => {
                let keyring = &self.state.keyring;
                let opened = keyring.open_answer(request.merchant, &request.key, &item.bytes, kept.answer);
                return Ok(opened
                    .and_then(|bytes| Answer::decode(&bytes).map_err(|Torn| Unopened))
                    .map(Some));
            }
            Ok(Some(_)) => {}
        }
        let mut counted = Part::default();
        self.count_guess(item, &mut counted);
        let denial = self.admitted.deny(Refusal::IdempotencyMismatch, None);
        Err(self.vault.inner.journal.refuse_found(denial, counted, self.header.deadline).await)
    }

    /// A first candidate for each item, and the rows of it and of the token that might be reused, read together.
    async fn read_candidates(&mut self, items: &[Item<'_>]) -> Result<Vec<Result<Token, Error>>, Error> {
        let (id, keyring) = (self.merchant.id, &self.state.keyring);
        let mut drawn = Vec::with_capacity(items.len());
        let mut keys = Vec::with_capacity(items.len() * 2);
        for item in items {
            // One that does not open is told when its item is decided.
            let known = self.known_token(item).unwrap_or_default();
            let candidate = match (self.served(item), &item.card.existing) {
                (Some(served), _) => self.vaultless_token(item, served),
                (None, Some(existing)) => Ok(existing.copy()),
                (None, None) => Ok(item.space.draw(&mut random::below)?),
            };
            for token in known.iter().map(|(token, _)| token).chain(&candidate) {
                keys.extend(keyring.card_places(id, keyring.row_key(id, token)?)?.keys());
            }
            if let Some((token, _)) = &known {
                let row_key = keyring.row_key(id, token)?;
                self.newest
                    .extend(self.vault.inner.recent.newest(id, row_key).map(|version| (row_key, version)));
            }
            drawn.push(candidate);
        }
        self.view.read(self.vault.inner.store.as_ref(), keys).await?;
        Ok(drawn)
    }

    /// The token that this card already has, as its fingerprint row says, and which of the token's cards it was.
    fn known_token(&self, item: &Item<'_>) -> Result<Option<(Token, u32)>, Unopened> {
        let Some(fingerprint) = item.fingerprint else { return Ok(None) };
        let place = self.place_of(fingerprint)?;
        let row = self.view.get(&place.key);
        let Some(row) = row.filter(|row| !self.state.keyring.is_shredded(self.merchant.id, row)) else {
            return Ok(None);
        };
        let like = self.likeness(item).map_err(|_| Unopened)?;
        self.state.keyring.open_reuse(self.merchant.id, &place, &like, &item.card.value, row).map(Some)
    }

    /// Where the row of a fingerprint lies that was looked for before, or will.
    fn place_of(&self, fingerprint: Fingerprint) -> Result<Place, Unopened> {
        let places = self.state.keyring.fingerprint_places(self.merchant.id, fingerprint);
        self.view.at(&places.map_err(|_| Unopened)?)
    }

    /// Reuses the card's token where there is a working one, mints one where there is not.
    async fn decide(
        &mut self,
        item: &Item<'_>,
        candidate: Result<Token, Error>,
        part: &mut Part,
    ) -> Result<(Answer, Changed), Undecided> {
        let candidate = candidate?;
        if let Some(served) = self.served(item) {
            return self.vaultless(item, served, candidate, part);
        }
        // Looked up here, not with the candidates: an item before this one may be of the same card.
        let known = self.known_token(item).map_err(|Unopened| Undecided::Unreadable)?;
        let other = |(token, _): &(Token, u32)| {
            item.card.existing.as_ref().is_some_and(|existing| !existing.same_as(token))
        };
        if let Some(known) = known.filter(|known| !other(known))
            && let Some(reused) = self.reuse(item, known, part)?
        {
            return Ok(reused);
        }
        let (answer, row) = self.mint(item, candidate, part).await?;
        Ok((answer, Some((row, 1))))
    }

    fn count_guess(&mut self, item: &Item<'_>, part: &mut Part) {
        if let Some(guess) = &item.guess {
            guess.count(&mut self.view, part);
        }
    }

    /// The same token again, unless it is revoked, expired, disabled or narrowed since, or stands for another card by now.
    /// A later card expiry updates the record, and so do attributes.
    fn reuse(
        &mut self,
        item: &Item<'_>,
        (token, generation): (Token, u32),
        part: &mut Part,
    ) -> Result<Option<(Answer, Changed)>, Undecided> {
        let (id, state) = (self.merchant.id, self.state.clone());
        let row_key = state.keyring.row_key(id, &token)?;
        let places = state.keyring.card_places(id, row_key)?;
        let place = self.view.at(&places).map_err(|Unopened| Undecided::Unreadable)?;
        let newest = self.newest.get(&row_key);
        let Some(bytes) = self.view.get(&place.key) else {
            return if newest.is_some() { Err(Undecided::Unreadable) } else { Ok(None) };
        };
        if state.keyring.is_shredded(id, bytes) {
            return Ok(None);
        }
        let card = state.keyring.card(id, &place, bytes).map_err(|Unopened| Undecided::Unreadable)?;
        if newest.is_some_and(|newest| card.row.version < *newest) {
            return Err(Undecided::Unreadable);
        }
        let works = !card.is_revoked() && card.row.valid_until.is_none() && card.row.grants == item.grants;
        let alike = card.row.subject == item.subject && card.row.restrictions == item.card.restrictions;
        let stands = !card.row.standing.disabled && card.row.generation == generation;
        if !works || !alike || !stands {
            return Ok(None);
        }
        self.renew_fingerprint(item, (&token, generation), part)?;
        let later = item.card.card_expiry.filter(|given| card.row.card_expiry.is_none_or(|had| *given > had));
        let mut changed = None;
        let mut row = card.row;
        let mut attributes = row.attributes.clone();
        attributes.change(item.card.attributes.clone(), &[])?;
        if later.is_some() || attributes != row.attributes {
            row.card_expiry = later.or(row.card_expiry);
            row.attributes = attributes;
            row.version = row.version.saturating_add(1);
            let sealed = state.keyring.seal_row(id, &place, &row)?;
            self.view.put(part, place.key, sealed);
            changed = Some((row_key, row.version));
        } else {
            self.view.rely(part, &place.key);
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

    /// Seals what leads from a card to its token anew where that is under an older token root key: who brings the card has
    /// what that takes.
    fn renew_fingerprint(
        &mut self,
        item: &Item<'_>,
        known: (&Token, u32),
        part: &mut Part,
    ) -> Result<(), Undecided> {
        let (id, state) = (self.merchant.id, self.state.clone());
        let Some(fingerprint) = item.fingerprint else { return Ok(()) };
        let place = self.place_of(fingerprint).map_err(|Unopened| Undecided::Unreadable)?;
        let older =
            self.view.get(&place.key).is_some_and(|row| state.keyring.is_of_older_trk(id, &place, row));
        if older {
            let like = self.likeness(item)?;
            let sealed = state.keyring.seal_reuse(id, &place, &like, &item.card.value, known)?;
            self.view.put(part, place.key, sealed);
        }
        Ok(())
    }

    async fn mint(
        &mut self,
        item: &Item<'_>,
        first: Token,
        part: &mut Part,
    ) -> Result<(Answer, RowKey), Error> {
        let (id, state) = (self.merchant.id, self.state.clone());
        let (token, row_key) = match &item.card.existing {
            None => self.drawn(item, first, part).await?,
            // A token from elsewhere is of no space that is drawn from, or taken in it without having been drawn.
            Some(_) => self.if_unused(first).await?.ok_or_else(|| {
                Error::malformed("item.existing_token", "is another card's here already, or was")
            })?,
        };
        let record = state.keyring.reference(id, &token)?;
        self.note_subject(item, row_key, part)?;
        let secret = &self.subjects.get(&item.subject).ok_or_else(Error::internal)?.secret;
        let inner = state.keyring.seal_value(id, &token, secret, record, &item.card.value)?;
        let network = item.card.value.number().and_then(|number| self.vault.inner.networks.find(number));
        let network = network.map_or_else(String::new, |n| n.id().to_owned());
        let row = Row {
            version: 1,
            record,
            format: item.format.id,
            mask: item.card.value.mask(|length| self.merchant.mask(length)),
            network: network.clone(),
            card_expiry: item.card.card_expiry,
            made_at: self.now,
            valid_until: item.card.valid_until,
            grants: item.grants.clone(),
            subject: item.subject,
            restrictions: item.card.restrictions,
            standing: Standing::default(),
            attributes: item.card.attributes.clone(),
            generation: 0,
            since: Timestamp(0),
            earlier: Vec::new(),
            inner: Some(inner),
            vaultless: false,
        };
        let place = state.keyring.card_places(id, row_key)?.now;
        let sealed = state.keyring.seal_row(id, &place, &row)?;
        self.view.put(part, place.key, sealed);
        if let Some(fingerprint) = item.fingerprint {
            let place = self.place_of(fingerprint).map_err(|Unopened| Error::internal())?;
            let like = self.likeness(item)?;
            let sealed = state.keyring.seal_reuse(id, &place, &like, &item.card.value, (&token, 0))?;
            self.view.put(part, place.key, sealed);
        }
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

    /// Puts a new card into its subject's index.
    fn note_subject(&mut self, item: &Item<'_>, row: RowKey, part: &mut Part) -> Result<(), Error> {
        let (id, subject) = (self.merchant.id, item.subject);
        let Some(Subject { index: Some(index), .. }) = self.subjects.get_mut(&subject) else { return Ok(()) };
        if index.cards.len() >= MAX_SUBJECT_ROWS {
            return Err(Error::malformed("context.customer_reference", "already has 1,000 tokens"));
        }
        index.cards.push(row);
        if let Some(fingerprint) = item.fingerprint.filter(|f| !index.fingerprints.contains(f)) {
            index.fingerprints.push(fingerprint);
        }
        let sealed = self.state.keyring.seal_subject(id, subject, index)?;
        self.view.put(part, merchant_row(rows::SUBJECT, id, &subject.0), sealed);
        Ok(())
    }

    /// A token that no row has, counted as used of its space, which is looked at once that is on disk.
    async fn drawn(
        &mut self,
        item: &Item<'_>,
        first: Token,
        part: &mut Part,
    ) -> Result<(Token, RowKey), Error> {
        let id = self.state.keyring.space(self.merchant.id, &item.space)?;
        let found = self.unused(item, first).await;
        let refused = matches!(found, Err(Error::SpaceExhausted));
        self.spaces.note((&self.merchant, &item.format), (id, &item.space), refused);
        let found = found?;
        part.writes.push(Write::Add(merchant_row(rows::SPACE, self.merchant.id, &id), 1));
        Ok(found)
    }

    /// A token that no row has: the first candidate, 31 more, then the walk where the space is small, else 992 more.
    async fn unused(&mut self, item: &Item<'_>, first: Token) -> Result<(Token, RowKey), Error> {
        if let Some(found) = self.if_unused(first).await? {
            return Ok(found);
        }
        let small = item.space.size() <= u128::from(MAX_WALK);
        let draws = if small { REDRAWS } else { MAX_REDRAWS };
        for _ in 1..draws {
            let token = item.space.draw(&mut random::below)?;
            if let Some(found) = self.if_unused(token).await? {
                return Ok(found);
            }
        }
        if small && !self.is_used_up(item).await? {
            let mut walk = item.space.walk(&mut random::below)?;
            loop {
                let tokens: Vec<Token> =
                    walk.by_ref().take(STRIDE).filter_map(|i| item.space.nth(i)).collect();
                if tokens.is_empty() {
                    break;
                }
                // A walk may look at a million: not past the time at which nobody waits any more.
                if self.header.deadline.is_some_and(|deadline| deadline <= self.vault.now()) {
                    return Err(Error::DeadlineExceeded);
                }
                if let Some(found) = self.first_unused(tokens).await? {
                    return Ok(found);
                }
            }
        }
        Err(Error::SpaceExhausted)
    }

    /// Whether the counter says that every token of this shape is taken: tombstones count too, so it never falls.
    async fn is_used_up(&self, item: &Item<'_>) -> Result<bool, Error> {
        let id = self.state.keyring.space(self.merchant.id, &item.space)?;
        let row = self.vault.inner.store.get(&[merchant_row(rows::SPACE, self.merchant.id, &id)]).await?;
        Ok(u128::from(space::count(row.into_iter().next().flatten())) >= item.space.size())
    }

    /// The first of these tokens that no row has. What is looked at is not kept: a walk may look at a million.
    async fn first_unused(&self, tokens: Vec<Token>) -> Result<Option<(Token, RowKey)>, Error> {
        let (id, keyring) = (self.merchant.id, &self.state.keyring);
        let mut places = Vec::with_capacity(tokens.len());
        for token in &tokens {
            let row_key = keyring.row_key(id, token)?;
            places.push((row_key, keyring.card_places(id, row_key)?));
        }
        let keys: Vec<Key> = places.iter().flat_map(|(_, places)| places.keys()).collect();
        let mut rows = self.vault.inner.store.get(&keys).await?.into_iter();
        for (token, (row_key, places)) in tokens.into_iter().zip(places) {
            // All of its places are passed over, whatever the first one holds.
            let taken = places
                .keys()
                .filter(|key| rows.next().flatten().is_some() || self.view.get(key).is_some())
                .count();
            if taken == 0 && self.vault.inner.recent.newest(id, row_key).is_none() {
                return Ok(Some((token, row_key)));
            }
        }
        Ok(None)
    }

    async fn if_unused(&mut self, token: Token) -> Result<Option<(Token, RowKey)>, Error> {
        let id = self.merchant.id;
        let row_key = self.state.keyring.row_key(id, &token)?;
        let places = self.state.keyring.card_places(id, row_key)?;
        self.view.read(self.vault.inner.store.as_ref(), places.keys().collect()).await?;
        // A row that this node wrote and that is gone is not free: somebody took it away.
        let taken = places.keys().any(|key| self.view.get(&key).is_some())
            || self.vault.inner.recent.newest(id, row_key).is_some();
        Ok((!taken).then_some((token, row_key)))
    }

    /// Asks for the permit, and puts the item's filing and its kept answer together.
    fn settle(
        &mut self,
        item: &Item<'_>,
        answer: Answer,
        mut part: Part,
        again: bool,
        changed: Changed,
        work: &mut Work,
    ) -> Result<(), Error> {
        match self.admitted.permit_token(answer.record, answer.minting, answer.version, again) {
            Err(denial) => {
                work.refuse(item.place, denial, Part::default());
            }
            Ok(permit) => {
                if !again {
                    let row = self.kept_bytes(item, &answer)?;
                    let [today, _] = &item.requests;
                    self.view.put(&mut part, today.clone(), row);
                }
                work.filings.push(Filing::Enact(
                    permit,
                    part,
                    changed.map(|(row, version)| (self.merchant.id, row, version)),
                ));
                work.outcomes.push(Outcome { place: item.place, told: Ok(answer) });
            }
        }
        Ok(())
    }

    fn kept_bytes(&self, item: &Item<'_>, answer: &Answer) -> Result<Vec<u8>, Error> {
        let request = self.request(item)?;
        let plain = Zeroizing::new(answer.encode());
        let sealed = self.state.keyring.seal_answer(request.merchant, &request.key, &item.bytes, &plain)?;
        request.row(&self.state.keyring, self.now, &sealed)
    }

    fn tokenized(&self, place: usize, answer: Answer, receipt: Receipt) -> Result<Tokenized, Error> {
        let value = &self.cards.get(place).and_then(Option::as_ref).ok_or_else(Error::internal)?.value;
        Ok(Tokenized {
            mask: value.mask(|length| self.merchant.mask(length)),
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

/// What is said of a number that is a token.
pub(super) const OWN_TOKEN: &str = "is a token of this merchant's, not a card number";

/// What is said of a value that holds a card number and is none.
const HOLDS_CARD: &str = "must not hold a card number; cards come in as item.plain.pan";

/// Where a value of this kind stands in a request.
pub(super) fn field_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Card => "item.plain.pan",
        Kind::NetworkToken => "item.network_token.number",
        Kind::Reference => "item.payment_reference.reference",
        Kind::Iban | Kind::UsAccount | Kind::Digits | Kind::Phone | Kind::Email | Kind::Bytes => {
            "item.data.value"
        }
    }
}

/// The restrictions asked for, canonically: kind u8, then each channel u32; then, if there are any, purposes u32 and flags
/// u8, which no number of channels can be taken for.
pub(super) fn restrictions(grants: &Grants, narrower: Restrictions) -> Vec<u8> {
    let (kind, channels): (u8, &[ChannelId]) = match grants {
        Grants::AllBut(channels) => (0, channels),
        Grants::Only(channels) => (1, channels),
    };
    let mut w = Writer::default();
    w.u8(kind);
    for channel in channels {
        w.u32(channel.0);
    }
    if !narrower.is_none() {
        narrower.write(&mut w);
    }
    w.done()
}

impl Answer {
    /// What is kept for a retry: version u8, token, record 16, version u32, minting u8, format, network, expiry, valid until.
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(512); // never outgrown: a token is written into it
        w.u8(FORMAT).e(self.token.as_bytes()).fixed(&self.record.0).u32(self.version);
        w.u8(match self.minting {
            Minting::Minted => 1,
            Minting::Reused => 2,
            Minting::Vaultless => 3,
        });
        w.e(self.format.as_str().as_bytes()).e(self.network.as_bytes());
        w.u16(self.card_expiry.map_or(0, CardExpiry::year)).u8(self.card_expiry.map_or(0, CardExpiry::month));
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
                3 => Minting::Vaultless,
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

/// Whether a token is digits that pass the Luhn check, which those behind a prefix that nobody issues may.
fn luhn_valid_digits(token: &Token) -> bool {
    token.as_bytes().iter().all(u8::is_ascii_digit) && crate::pan::luhn_valid(token.as_bytes())
}
