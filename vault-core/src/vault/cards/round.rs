//! One try at a request on cards: its rows are read, each token is decided on, and what was decided is filed in one piece.
//! Where another was faster, the next try begins from the rows as they are then.
//!
//! Refused: an answer about a card whose filing is not on disk.

use std::sync::Arc;

use super::vaultless::Tried;
use super::{Deed, Done, Sending, Want};
use crate::aead::Unopened;
use crate::audit::entry::Outlet;
use crate::chain::{Place, Places};
use crate::codec::Writer;
use crate::error::Error;
use crate::journal::{Changed, Filing, NotFiled};
use crate::keyring::{RequestKey, SubjectSecret, day_row, merchant_row};
use crate::mask::Mask;
use crate::name::{ChannelName, MerchantName};
use crate::pan::{CardExpiry, Pan};
use crate::policy::{Admitted, Denial, MerchantInForce, Presented, Way};
use crate::record::{Card, Grants, NotKept, Row, RowKey, Spent, SubjectId};
use crate::rows;
use crate::sealed;
use crate::store::{Key, Part};
use crate::time::Timestamp;
use crate::token::Token;
use crate::vault::codes::CodeDeed;
use crate::vault::guesses::{self, Guess};
use crate::vault::kept::{KEPT_DAYS, Request};
use crate::vault::life::Change;
use crate::vault::replace::InPlace;
use crate::vault::request::{Header, Revealed};
use crate::vault::running::Run;
use crate::vault::view::View;
use crate::vault::{State, Vault};
use crate::words::{Action, Kind, Ref, Refusal, Show};

/// One token's names, and the version of its row that this node knew of before it read it.
#[derive(Clone)]
pub(super) struct Name {
    row_key: RowKey,
    places: Places,
    pub(super) record: Ref,
    pub(super) newest: Option<u32>,
}

/// Where a row lies, and its key.
#[derive(Clone)]
pub(in crate::vault) struct At {
    pub(in crate::vault) place: Place,
    pub(in crate::vault) row_key: RowKey,
}

/// One try at what is still open of a request, under one version of Control.
pub(in crate::vault) struct Round<'a> {
    pub(in crate::vault) vault: &'a Vault,
    pub(in crate::vault) state: Arc<State>,
    pub(in crate::vault) admitted: Admitted,
    pub(in crate::vault) merchant: Arc<MerchantInForce>,
    header: &'a Header,
    action: Action,
    wants: &'a [Want],
    pub(in crate::vault) now: Timestamp,
    /// Whose customer the request names.
    customer: SubjectId,
    names: Vec<Name>,
    requests: [Key; 2],
    hash: [u8; 32],
    /// How each card that comes in counts in the guess budget.
    guesses: Vec<Option<Guess>>,
    /// How many vaultless tokens the principal opened and missed; none where it may open none.
    pub(super) tried: Option<Tried>,
    pub(in crate::vault) view: View,
}

type Found = Result<Done, Error>;
/// A card and what is shown of it, before that is on disk; or what the caller is told.
type Decision = Result<(Card, Show), Error>;
pub(in crate::vault) type Decided = Result<(Filing, Card, Show), Box<Refused>>;

/// A refusal, and what the caller is told of it.
pub(in crate::vault) struct Refused(pub(in crate::vault) Denial, pub(in crate::vault) Error);

impl From<Denial> for Box<Refused> {
    fn from(denial: Denial) -> Self {
        let told = denial.error();
        Self::new(Refused(denial, told))
    }
}

impl<'a> Round<'a> {
    pub(super) fn new(
        vault: &'a Vault,
        state: Arc<State>,
        admitted: Admitted,
        header: &'a Header,
        action: Action,
        wants: &'a [Want],
    ) -> Result<Self, Error> {
        let id = admitted.merchant_id();
        let merchant = state.rules.merchant(admitted.merchant()).ok_or_else(Error::internal)?.clone();
        let now = vault.now();
        let mut names = Vec::with_capacity(wants.len());
        for Want { token, .. } in wants {
            let (row_key, record) = (state.keyring.row_key(id, token)?, state.keyring.reference(id, token)?);
            let places = state.keyring.card_places(id, row_key)?;
            names.push(Name { row_key, places, record, newest: vault.inner.recent.newest(id, row_key) });
        }
        let customer = match header.context.customer_reference.as_str() {
            "" => SubjectId::NONE,
            reference => state.keyring.subject(id, reference)?,
        };
        let request =
            RequestKey { principal: admitted.principal(), request_id: &header.request_id.0, item: 0 };
        let name = state.keyring.request_row(id, &request)?;
        let hash = state.keyring.request_hash(
            id,
            &request,
            &request_bytes(&state, &admitted, header, action, wants)?,
        )?;
        let today = now.day();
        let requests =
            [today, today.saturating_sub(KEPT_DAYS)].map(|d| day_row(rows::IDEMPOTENCY, d, id, &name));
        let guess = |want: &Want| {
            let card = want.deed.card();
            card.map_or(Ok(None), |card| Guess::of(&state.keyring, &admitted, card, today))
        };
        let guesses = wants.iter().map(guess).collect::<Result<_, Error>>()?;
        let tried = Tried::of(&state, &admitted, &merchant, today)?;
        let view = View::default();
        Ok(Self {
            vault,
            state,
            admitted,
            merchant,
            header,
            action,
            wants,
            now,
            customer,
            names,
            requests,
            hash,
            guesses,
            tried,
            view,
        })
    }

    /// An item that names a channel that is not the merchant's fails by itself, before anything is looked up.
    pub(super) fn answer_malformed<T>(&self, answers: &mut [Option<Result<T, Error>>]) {
        for (want, answer) in self.wants.iter().zip(answers) {
            if want.deed.channel().is_some_and(|channel| self.merchant.channel(channel).is_none()) {
                *answer = Some(Err(Error::malformed("item.channel", "names no channel of the merchant")));
            }
        }
    }

    /// All rows that the open items need: the same number of look-ups whether a token exists or not.
    pub(super) async fn read(&mut self, open: &[usize]) -> Result<(), Error> {
        let id = self.merchant.id;
        let store = self.vault.inner.store.as_ref();
        let mut keys: Vec<Key> = self.requests.to_vec();
        let named = || open.iter().filter_map(|place| self.names.get(*place));
        keys.extend(named().flat_map(|name| name.places.keys()));
        keys.extend(self.tried.iter().flat_map(Tried::keys));
        self.view.read(store, keys).await?;
        if let Some(tried) = &mut self.tried {
            tried.learn(&self.view);
        }
        if matches!(self.action, Action::Detokenize | Action::Replace) {
            let subjects = named().map(|name| {
                let subject = self.card_of(name).map_or(SubjectId::NONE, |card| card.row.subject);
                merchant_row(rows::SUBJECT, id, &subject.0)
            });
            let keys = subjects.collect();
            self.view.read(store, keys).await?;
        }
        if self.action == Action::Replace {
            let keys = self.replacement_keys(open)?;
            self.view.read(store, keys).await?;
        }
        Ok(())
    }

    /// The rows of the guess cells of the cards that come in, and of their fingerprints.
    fn replacement_keys(&self, open: &[usize]) -> Result<Vec<Key>, Error> {
        let id = self.merchant.id;
        let mut keys: Vec<Key> = self.guesses.iter().flatten().map(|guess| guess.cell.clone()).collect();
        for place in open {
            let (Some(want), Some(name)) = (self.wants.get(*place), self.names.get(*place)) else { continue };
            let Some(value) = want.deed.card() else { continue };
            let fingerprint =
                self.card_of(name).map_or(Ok(None), |card| self.fingerprint_of(&card.row, value))?;
            if let Some(fingerprint) = fingerprint {
                keys.extend(self.state.keyring.fingerprint_places(id, fingerprint)?.keys());
            }
        }
        Ok(keys)
    }

    /// A token's card, if its row was read and opens.
    pub(super) fn card_of(&self, name: &Name) -> Option<Card> {
        let place = self.view.at(&name.places).ok()?;
        self.state.keyring.card(self.merchant.id, &place, self.view.get(&place.key)?).ok()
    }

    /// The budget for cards that come in, before anything is decided. A retry brings no new one.
    pub(super) async fn check_guesses(&self, again: bool) -> Result<(), Error> {
        if again {
            return Ok(());
        }
        let (when, guesses) = ((self.now, self.header.deadline), self.guesses.iter().flatten());
        guesses::check(self.vault, &self.view, &self.admitted, when, guesses).await
    }

    /// The keyed hash of one item of the request.
    pub(in crate::vault) fn item_hash(&self, place: usize) -> Result<[u8; 16], Error> {
        let item = u32::try_from(place).map_err(|_| Error::internal())?;
        let key = RequestKey { item, ..self.request().key };
        let hash = self.state.keyring.request_hash(self.merchant.id, &key, &self.hash)?;
        Ok(hash.first_chunk().copied().unwrap_or_default())
    }

    fn request(&self) -> Request<'_> {
        let (principal, request_id) = (self.admitted.principal(), &self.header.request_id.0);
        Request {
            merchant: self.merchant.id,
            key: RequestKey { principal, request_id, item: 0 },
            hash: self.hash,
        }
    }

    /// Whether this very request was answered before; an error if its id was used for another one.
    pub(super) async fn was_asked_before(&mut self) -> Result<bool, Error> {
        let Some(row) = self.requests.iter().find_map(|key| self.view.get(key)) else { return Ok(false) };
        let request = self.request();
        let why = match request.read(&self.state.keyring, row) {
            Ok(kept) if !kept.counts(self.now) => return Ok(false),
            Ok(kept) if !request.is(&kept) => Refusal::IdempotencyMismatch,
            Ok(kept) if kept.answer.is_empty() => return Ok(true),
            Ok(_) | Err(Unopened) => Refusal::Unreadable,
        };
        let denial = self.admitted.deny(why, None);
        // Whether a card is the one that was sent before is a guess, too: answered within the budget, and counted.
        self.check_guesses(false).await?;
        let mut counted = Part::default();
        for guess in self.guesses.iter().flatten() {
            guess.count(&mut self.view, &mut counted);
        }
        Err(self.vault.inner.journal.refuse_found(denial, counted, self.header.deadline).await)
    }

    /// Decides on every open item and writes all of it down in one commit. What went stale is left out. Also tells whether
    /// the request is kept by now.
    pub(super) async fn file(
        &mut self,
        open: &[usize],
        again: bool,
        hold: Option<Arc<Run>>,
    ) -> Result<(Vec<(usize, Found)>, bool), Error> {
        let (mut filings, mut cards) = (Vec::with_capacity(open.len()), Vec::with_capacity(open.len()));
        for &place in open {
            let Some(name) = self.names.get(place).cloned() else { continue };
            let Some(want) = self.wants.get(place) else { continue };
            let mut counted = Part::default();
            if let Some(guess) = self.guesses.get(place).and_then(Option::as_ref).filter(|_| !again) {
                guess.count(&mut self.view, &mut counted);
            }
            let (filing, card) = match self.decide(want, (place, &name), again, counted.clone()) {
                Ok((mut filing, card, shown)) => {
                    self.count_opening(&card, &mut filing);
                    (filing, Ok((card, shown)))
                }
                Err(refused) => {
                    let Refused(denial, told) = *refused;
                    self.count_miss(want, &name, &mut counted);
                    // The guess counts all the same.
                    (Filing::RefuseFound(denial, counted), Err(told))
                }
            };
            filings.push(filing);
            cards.push((place, card));
        }
        let left_out = self.leave_out(&mut filings, &mut cards);
        let carrier = if again { None } else { self.keep_request(&mut filings)? };
        let hold = hold.map(|run| run as Arc<dyn Send + Sync>);
        let (journal, deadline) = (&self.vault.inner.journal, self.header.deadline);
        // What goes all or none is stale all or none, too: then all of it is decided on anew.
        let filed = if self.wants.iter().any(|want| want.deed.is_of_a_whole()) {
            journal.file_together(filings, deadline, hold).await?
        } else {
            journal.file(filings, deadline, hold).await?
        };
        let keeps = carrier.is_some_and(|at| filed.get(at).is_some_and(Result::is_ok));
        let mut found: Vec<(usize, Found)> = left_out;
        for ((place, card), filed) in cards.into_iter().zip(filed) {
            let answer = match (card, filed) {
                (_, Err(NotFiled::Stale)) => continue,
                (_, Err(e)) => Err(e.into()),
                (Err(told), Ok(_)) => Err(told),
                (Ok((card, shown)), Ok(filed)) => Ok(Done { card, filed, shown, place }),
            };
            found.push((place, answer));
        }
        Ok((found, keeps))
    }

    /// Where the cards of a request go all or none and one is refused: takes the others out again, and tells what they are
    /// told, which is what the first refused one is.
    fn leave_out(
        &self,
        filings: &mut Vec<Filing>,
        cards: &mut Vec<(usize, Decision)>,
    ) -> Vec<(usize, Found)> {
        let whole = self.wants.iter().any(|want| want.deed.is_of_a_whole());
        let refused = cards.iter().find_map(|(_, card)| card.as_ref().err().cloned());
        let Some(told) = refused.filter(|_| whole) else { return Vec::new() };
        filings.retain(|filing| matches!(filing, Filing::RefuseFound(..)));
        let (out, refused): (Vec<_>, Vec<_>) =
            std::mem::take(cards).into_iter().partition(|(_, card)| card.is_ok());
        *cards = refused;
        out.into_iter().map(|(place, _)| (place, Err(told.clone()))).collect()
    }

    fn decide(&mut self, want: &Want, (place, name): (usize, &Name), again: bool, part: Part) -> Decided {
        let (id, Name { row_key, record, newest, .. }) = (self.merchant.id, name);
        let (row_key, record, newest) = (*row_key, *record, *newest);
        // Where it goes is decided before it is looked at: that refusal tells nothing of the token.
        let way = match &want.deed {
            Deed::Send(Sending { to, .. }) => {
                Some(self.admitted.way_to(to, &self.merchant, self.now, Some(record))?)
            }
            Deed::Show(_) if want.show == Show::Full => {
                self.admitted.may_show_clear(Some(record)).map(|()| None)?
            }
            Deed::Show(_)
            | Deed::Code(_)
            | Deed::Replace(_)
            | Deed::Revoke(_)
            | Deed::Change(_)
            | Deed::Upgrade => None,
        };
        let lies = self.view.at(&name.places).map_err(|Unopened| self.unreadable(record))?;
        let at = At { place: lies, row_key };
        let vaultless = if self.view.get(&at.place.key).is_none() && newest.is_none() {
            self.check_misses(&want.token, record)?;
            self.vaultless_card(&want.token, name)
        } else {
            None
        };
        if let Some(card) = vaultless {
            return self.decide_card((want, way), card, (&at, place), again, part);
        }
        let Some(bytes) = self.view.get(&at.place.key) else {
            let why = if newest.is_some() { Refusal::Unreadable } else { Refusal::Unknown };
            return Err(self.admitted.deny(why, Some(record)).into());
        };
        if self.state.keyring.is_shredded(id, bytes) {
            return Err(self.admitted.deny(Refusal::Shredded, Some(record)).into());
        }
        let card = self.state.keyring.card(id, &at.place, bytes).map_err(|_| self.unreadable(record))?;
        if card.row.record != record || newest.is_some_and(|newest| card.row.version < newest) {
            return Err(self.unreadable(record).into());
        }
        self.decide_card((want, way), card, (&at, place), again, part)
    }

    fn decide_card(
        &mut self,
        (want, way): (&Want, Option<Way>),
        card: Card,
        (at, place): (&At, usize),
        again: bool,
        part: Part,
    ) -> Decided {
        match &want.deed {
            // A vaultless token is made of its card, and what is no card has no other in its place.
            Deed::Replace(_) if card.row.vaultless || card.row.kind() != Kind::Card => {
                Err(self.admitted.deny(Refusal::VaultlessNotAllowed, Some(card.row.record)).into())
            }
            Deed::Show(as_of) | Deed::Send(Sending { as_of, .. }) => {
                self.decide_show((want, *as_of, way), card, at, again)
            }
            Deed::Replace(replacement) => {
                self.decide_replace(replacement, &want.token, card, (at, place), part)
            }
            Deed::Code(deed) => self.decide_code(deed, card, (&at.place.key, place), again),
            Deed::Revoke(only) => self.decide_revoke(only.as_ref(), card, at, again),
            Deed::Change(change) => self.decide_change(change, card, at, again),
            Deed::Upgrade => self.decide_upgrade(card, &at.place.key, again),
        }
    }

    pub(in crate::vault) fn merchant_name(&self) -> &MerchantName {
        self.admitted.merchant()
    }

    pub(in crate::vault) fn unreadable(&self, record: Ref) -> Denial {
        self.admitted.deny(Refusal::Unreadable, Some(record))
    }

    /// What the request brings to a token whose row, if it changes, has the next version.
    pub(in crate::vault) fn presented(&self, card: &Card, wanted: Show, again: bool) -> Presented {
        Presented {
            wanted,
            customer: self.customer,
            request: self.hash,
            again,
            version: card.row.version.saturating_add(1),
            earlier: None,
            replaced: None,
            now: self.now,
        }
    }

    fn decide_show(
        &mut self,
        (want, as_of, way): (&Want, Option<Timestamp>, Option<Way>),
        card: Card,
        at: &At,
        again: bool,
    ) -> Decided {
        let record = card.row.record;
        let not_kept = |NotKept| self.admitted.deny(Refusal::NotKept, Some(record));
        let earlier = match as_of {
            None => None,
            // A tombstone has no card of any time: the policy says why.
            Some(_) if card.is_revoked() => None,
            Some(then) => card.as_of(then, self.now).map_err(not_kept)?,
        };
        let presented = self.presented(&card, want.show, again);
        let presented = Presented { earlier: earlier.as_ref().map(|(_, at)| *at), ..presented };
        // What is sealed to somebody is a card.
        if way.is_some() && card.row.kind() != Kind::Card {
            return Err(self.admitted.deny(Refusal::Foreign, Some(record)).into());
        }
        let permit = self.admitted.permit_card(&card, &presented, way)?;
        let shown = permit.show();
        let mut part = Part::default();
        if let Some((earlier, _)) = earlier {
            self.view.rely(&mut part, &at.place.key);
            let filing = match (shown, earlier.sealed()) {
                (Show::Full, Some(sealed)) => {
                    self.secret_of(&card.row).map_err(|Unopened| self.unreadable(record))?;
                    Filing::Disclose(permit, sealed, part, None)
                }
                _ => Filing::Enact(permit, part, None),
            };
            return Ok((filing, earlier, shown));
        }
        match (shown, card.sealed()) {
            (Show::Full, Some(sealed)) => {
                // Before the log says that the card went out.
                let secret = self.secret_of(&card.row).map_err(|Unopened| self.unreadable(record))?;
                let spends = card.row.restrictions.single_use && card.row.standing.spent.is_none();
                if !spends {
                    self.renew(&mut part, at, &card.row, (&want.token, &secret))?;
                    return Ok((Filing::Disclose(permit, sealed, part, None), card, shown));
                }
                // Whoever else read the row as it was finds it changed, and decides anew.
                let mut row = card.row;
                row.standing.spent = Some(Spent { by: self.hash, at: self.now });
                let (changed, row) = self.put_row(&mut part, at, row)?;
                let card = Card { merchant: card.merchant, row };
                Ok((Filing::Disclose(permit, sealed, part, changed), card, shown))
            }
            (Show::Full, None) => Err(self.unreadable(record).into()),
            (Show::Masked | Show::LastFour | Show::Nothing, _) => {
                self.view.rely(&mut part, &at.place.key);
                Ok((Filing::Enact(permit, part, None), card, shown))
            }
        }
    }

    /// A code is in memory alone: the row is only looked at, and the log says what was done.
    fn decide_code(
        &mut self,
        deed: &CodeDeed,
        card: Card,
        (key, place): (&Key, usize),
        again: bool,
    ) -> Decided {
        let record = card.row.record;
        let permit = self.admitted.permit_card(&card, &self.presented(&card, Show::Nothing, again), None)?;
        match deed {
            CodeDeed::Hold(_) if again && self.held_before(place, &card).unwrap_or(true) => {
                return Err(self.admitted.deny(Refusal::CodeGone, Some(record)).into());
            }
            CodeDeed::Hold(code) => code
                .fits(&card.row.network)
                .map_err(|e| Box::new(Refused(self.admitted.deny(Refusal::Malformed, Some(record)), e)))?,
            CodeDeed::Read(ticket) if !self.holds_code(ticket, &card) => {
                return Err(self.admitted.deny(Refusal::CodeGone, Some(record)).into());
            }
            CodeDeed::Read(_) | CodeDeed::Drop(_) => {}
        }
        let mut part = Part::default();
        self.view.rely(&mut part, key);
        Ok((Filing::Enact(permit, part, None), card, Show::Nothing))
    }

    fn decide_revoke(&mut self, only: Option<&ChannelName>, card: Card, at: &At, again: bool) -> Decided {
        let record = card.row.record;
        let mut part = Part::default();
        // A retry of a revocation that was done finds it done: that is its answer.
        let done = match only.and_then(|only| self.merchant.channel(only)) {
            _ if card.is_revoked() => true,
            Some(only) => !card.row.grants.include(only),
            None => false,
        };
        if again && done {
            let permit = self.admitted.permit_revoked_again(&card, only.cloned())?;
            self.view.rely(&mut part, &at.place.key);
            return Ok((Filing::Enact(permit, part, None), card, Show::Nothing));
        }
        let mut permit =
            self.admitted.permit_card(&card, &self.presented(&card, Show::Nothing, again), None)?;
        let mut row: Row = card.row;
        match only {
            None => row.bury(),
            Some(only) => {
                let channel = self.merchant.channel(only).ok_or_else(|| self.unreadable(record))?;
                row.grants = row.grants.without(channel).unwrap_or(Grants::Only(Vec::new()));
                if row.grants.none_left() {
                    row.bury();
                }
                permit = permit.on_channel(only.clone());
            }
        }
        let (changed, row) = self.put_row(&mut part, at, row)?;
        let card = Card { merchant: card.merchant, row };
        Ok((Filing::Enact(permit, part, changed), card, Show::Nothing))
    }

    /// A change that changes nothing, such as a retry of one that was done, leaves the row and its version alone.
    fn decide_change(&mut self, change: &Change, card: Card, at: &At, again: bool) -> Decided {
        let mut row = card.row.clone();
        let applied = change.apply(&mut row);
        let presented = self.presented(&card, Show::Nothing, again);
        let same = row == card.row;
        let version = if same { card.row.version } else { presented.version };
        let permit = self.admitted.permit_card(&card, &Presented { version, ..presented }, None)?;
        if let Err(e) = applied {
            let denial = self.admitted.deny(Refusal::Malformed, Some(card.row.record));
            return Err(Box::new(Refused(denial, e)));
        }
        let mut part = Part::default();
        if same {
            self.view.rely(&mut part, &at.place.key);
            return Ok((Filing::Enact(permit, part, None), card, Show::Nothing));
        }
        let (changed, row) = self.put_row(&mut part, at, row)?;
        let card = Card { merchant: card.merchant, row };
        Ok((Filing::Enact(permit, part, changed), card, Show::Nothing))
    }

    /// Lets `part` rest on the row, and put it with its record keys under the token root key of now if they are under an older
    /// one: whoever uses a token has what that takes. The record is the same, and so is its version.
    fn renew(
        &mut self,
        part: &mut Part,
        at: &At,
        row: &Row,
        (token, secret): (&Token, &SubjectSecret),
    ) -> Result<(), Box<Refused>> {
        let (id, keyring) = (self.merchant.id, &self.state.keyring);
        let mut row = row.clone();
        let record = row.record;
        let renewed = keyring.renew_record_keys(id, token, secret, &mut row);
        if !renewed.map_err(|Unopened| self.unreadable(record))? {
            self.view.rely(part, &at.place.key);
            return Ok(());
        }
        let sealed = keyring.seal_row(id, &at.place, &row).map_err(|_| self.unreadable(record))?;
        self.view.put(part, at.place.key.clone(), sealed);
        Ok(())
    }

    /// Lets `part` put the row in its next version.
    pub(in crate::vault) fn put_row(
        &mut self,
        part: &mut Part,
        at: &At,
        mut row: Row,
    ) -> Result<(Changed, Row), Box<Refused>> {
        row.version = row.version.saturating_add(1);
        let sealed = self.state.keyring.seal_row(self.merchant.id, &at.place, &row);
        let sealed = sealed.map_err(|_| self.unreadable(row.record))?;
        self.view.put(part, at.place.key.clone(), sealed);
        Ok((Some((self.merchant.id, at.row_key, row.version)), row))
    }

    /// Keeps the request with the first filing that can carry it, so that a retry is known as one.
    fn keep_request(&mut self, filings: &mut [Filing]) -> Result<Option<usize>, Error> {
        let request = self.request();
        let (keyring, [today, _]) = (&self.state.keyring, &self.requests);
        // An earlier round of this request has kept it already.
        let kept = self.view.get(today).and_then(|row| request.read(keyring, row).ok());
        if kept.is_some_and(|kept| kept.counts(self.now) && request.is(&kept)) {
            return Ok(None);
        }
        let row = request.row(keyring, self.now, &[])?;
        let carrier = filings.iter_mut().enumerate().find_map(|(at, filing)| match filing {
            Filing::Enact(_, part, _) | Filing::Disclose(_, _, part, _) => Some((at, part)),
            Filing::Refuse(..) | Filing::RefuseFound(..) | Filing::State(..) | Filing::Upkeep(..) => None,
        });
        let Some((at, part)) = carrier else { return Ok(None) };
        let today = today.clone();
        self.view.put(part, today, row);
        Ok(Some(at))
    }

    /// What may be shown of a card by the policy as it is now: a mask that was narrowed since narrows old rows too.
    pub(in crate::vault) fn shown(&self, row: &Row) -> Mask {
        row.mask.narrowed(|length| self.merchant.mask(length))
    }

    /// The card in the form in which it goes where the log says.
    pub(super) fn sent(&self, way: &Way, pan: Pan, expiry: Option<CardExpiry>) -> Result<Revealed, Error> {
        match (way.outlet(), way.key()) {
            (Outlet::Recipient(name), Some(key)) => {
                let info = sealed::info_out(&self.merchant.name, name);
                let card = key.seal(&info, &sealed::write(&pan, expiry))?;
                Ok(Revealed::Sealed { key_id: key.id(), card })
            }
            (Outlet::Destination(_), None) => Ok(Revealed::Plain(pan)),
            (Outlet::Recipient(_), None) | (Outlet::Destination(_), Some(_)) => Err(Error::internal()),
        }
    }

    pub(in crate::vault) fn secret_of(&self, row: &Row) -> Result<SubjectSecret, Unopened> {
        let subject = row.subject;
        // A vaultless token's card is under its slot's key alone: that is why no subject's erasure reaches it.
        if subject == SubjectId::NONE || row.vaultless {
            return Ok(SubjectSecret::none());
        }
        let (id, keyring) = (self.merchant.id, &self.state.keyring);
        let row = self.view.get(&merchant_row(rows::SUBJECT, id, &subject.0)).ok_or(Unopened)?;
        let index = keyring.open_subject(id, subject, row)?;
        keyring.subject_secret(id, subject, &index)
    }
}

/// The request's bytes, canonically.
fn request_bytes(
    state: &State,
    admitted: &Admitted,
    header: &Header,
    action: Action,
    wants: &[Want],
) -> Result<Vec<u8>, Error> {
    let context = &header.context;
    let mut w = Writer::with_capacity(256 + wants.len() * 32);
    w.u8(action.id()).u32(admitted.channel_id().0).u8(header.purpose.id()).u8(header.initiator.id());
    w.e(context.customer_reference.as_bytes())
        .e(context.session.as_bytes())
        .e(context.client_address.as_bytes());
    w.u32(u32::try_from(wants.len()).unwrap_or(u32::MAX));
    for want in wants {
        w.e(want.token.as_bytes()).u8(want.show.id());
        w.e(want.deed.channel().map_or("", ChannelName::as_str).as_bytes());
        match &want.deed {
            // Nothing of a security code: what is kept of a request outlives it.
            Deed::Show(None) | Deed::Revoke(_) | Deed::Upgrade | Deed::Code(CodeDeed::Hold(_)) => {}
            Deed::Show(Some(then)) => drop(w.u64(then.0)),
            Deed::Send(Sending { to, as_of, request }) => {
                // Kinds that no other deed has in this place.
                match to {
                    Outlet::Recipient(name) => w.u8(1).e(name.as_str().as_bytes()),
                    Outlet::Destination(name) => w.u8(2).e(name.as_str().as_bytes()),
                };
                w.u64(as_of.map_or(0, |t| t.0)).fixed(request.as_ref().map_or(&[][..], |hash| hash));
            }
            Deed::Change(change) => change.write(&mut w),
            Deed::Code(CodeDeed::Read(ticket) | CodeDeed::Drop(ticket)) => drop(w.fixed(&ticket.bytes())),
            Deed::Replace(InPlace { value, card_expiry, reason }) => {
                // Its fingerprint stands for the number, which these bytes are not to hold.
                let pan = value.number().ok_or_else(Error::internal)?;
                w.fixed(&state.keyring.public_fingerprint(admitted.merchant_id(), pan)?).u8(reason.id());
                w.u16(card_expiry.map_or(0, CardExpiry::year)).u8(card_expiry.map_or(0, CardExpiry::month));
            }
        }
    }
    Ok(w.done())
}
