//! Security codes (CVV2, CVC2, CID): each in a cell in memory that is read once, and never in the store or in the log.
//!
//! PCI DSS 4.0.1, 3.3.1: a code is not kept after authorization, not even sealed. A cell is gone after it was read, after
//! the authorization, after an hour, and with the process; and none is given with another card than it came with. What is
//! then asked for is told by an error of its own, so that a checkout knows to ask the shopper again. A retry of a holding
//! has the ticket that it had. Refused: a code of the wrong length for the card's network.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret, SecretBox};

use super::cards::{Deed, Round, Want, one};
use super::request::{CodeHeld, CodeRead, Header};
use super::{FIRST_LOG, Vault};
use crate::error::Error;
use crate::policy::Caller;
use crate::record::{Card, MerchantId};
use crate::time::Timestamp;
use crate::token::Token;
use crate::words::{Action, Ref, Show};

/// The most codes held at once: some 20 MiB. A merchant may hold as many as are still free for all, so half of them if it is
/// alone: eighteen new ones a second for an hour.
pub const MAX_CODES: usize = 131_072;

/// How long a code is held, in milliseconds: longer than any checkout takes.
pub const CODE_LIFE_MS: u64 = 3_600_000;

/// A security code: 3 digits, of American Express 4.
pub struct SecurityCode(SecretBox<[u8; 5]>);

impl SecurityCode {
    /// Takes 3 or 4 ASCII digits.
    pub fn parse(digits: &[u8]) -> Result<Self, Error> {
        if !matches!(digits.len(), 3 | 4) || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Error::malformed("item.code", RULE));
        }
        Ok(Self(SecretBox::init_with_mut(|kept: &mut [u8; 5]| {
            let [length, room @ ..] = kept;
            *length = u8::try_from(digits.len()).unwrap_or(0);
            room.iter_mut().zip(digits).for_each(|(to, from)| *to = *from);
        })))
    }

    /// The digits in ASCII: for the one answer that may carry them.
    #[must_use]
    pub fn expose_digits(&self) -> &[u8] {
        let [length, digits @ ..] = self.0.expose_secret();
        digits.get(..usize::from(*length)).unwrap_or_default()
    }

    fn copy(&self) -> Self {
        Self(SecretBox::init_with_mut(|kept: &mut [u8; 5]| *kept = *self.0.expose_secret()))
    }

    /// Whether it is as long as the codes of this network.
    pub(super) fn fits(&self, network: &str) -> Result<(), Error> {
        let length = if network == "amex" { 4 } else { 3 };
        if self.expose_digits().len() == length { Ok(()) } else { Err(Error::malformed("item.code", RULE)) }
    }
}

const RULE: &str = "must have 3 digits, of American Express 4";

/// What a code is asked for with: a keyed hash of the request that brought it, which nobody can guess, and the number of
/// the node that holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CodeTicket {
    node: u32,
    cell: [u8; 16],
}

impl CodeTicket {
    /// Reads `code-`, the node's number, `-`, and 32 letters from a to p.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || Error::malformed("item.ticket", "is none that this vault gave");
        let (node, letters) = text.strip_prefix("code-").and_then(|t| t.split_once('-')).ok_or_else(wrong)?;
        let canonical = !node.is_empty() && node.len() <= 10 && (node == "0" || !node.starts_with('0'));
        let node = Some(node).filter(|n| canonical && n.bytes().all(|b| b.is_ascii_digit()));
        let node = node.and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
        let (pairs, rest) = letters.as_bytes().as_chunks::<2>();
        if pairs.len() != 16 || !rest.is_empty() || !letters.bytes().all(|b| (b'a'..=b'p').contains(&b)) {
            return Err(wrong());
        }
        let mut cell = [0; 16];
        cell.iter_mut().zip(pairs).for_each(|(byte, [high, low])| *byte = (high - b'a') << 4 | (low - b'a'));
        Ok(Self { node, cell })
    }

    /// The bytes that tell it from any other.
    pub(super) fn bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes
            .iter_mut()
            .zip(self.node.to_be_bytes().iter().chain(&self.cell))
            .for_each(|(to, from)| *to = *from);
        bytes
    }
}

impl fmt::Display for CodeTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code-{}-", self.node)?;
        // Letters alone, so that no scanner ever takes a ticket for a card number.
        self.cell.iter().try_for_each(|byte| {
            write!(f, "{}{}", char::from(b'a' + (byte >> 4)), char::from(b'a' + (byte & 15)))
        })
    }
}

/// What is asked of a cell.
pub(super) enum CodeDeed {
    /// A code comes in.
    Hold(SecurityCode),
    /// It goes out, once.
    Read(CodeTicket),
    /// The authorization is over: it goes.
    Drop(CodeTicket),
}

impl CodeDeed {
    fn of(self, token: Token) -> Want {
        Want { token, show: Show::Nothing, deed: Deed::Code(self) }
    }
}

impl Vault {
    /// Holds the security code of one token's card, in memory, until it is read, dropped or an hour old.
    pub async fn hold_code(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        code: SecurityCode,
    ) -> Result<CodeHeld, Error> {
        one(self.hold_code_batch(caller, header, vec![(token, code)]).await?)
    }

    /// Holds up to 1,000 codes, each with its own ticket.
    pub async fn hold_code_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        codes: Vec<(Token, SecurityCode)>,
    ) -> Result<Vec<Result<CodeHeld, Error>>, Error> {
        let wants = codes.into_iter().map(|(token, code)| CodeDeed::Hold(code).of(token)).collect();
        self.on_cards(caller, header, Action::HoldCode, wants, |round, want, done| {
            let Deed::Code(CodeDeed::Hold(code)) = &want.deed else { return Err(Error::internal()) };
            let cell = round.item_hash(done.place)?;
            let codes = &round.vault.inner.codes;
            let (ticket, until) = codes.hold(cell, Owner::of(&done.card), code.copy(), round.now)?;
            Ok(CodeHeld { ticket, held_until: until, receipt: done.filed.receipt })
        })
        .await
    }

    /// Gives one code back, once: for an authorization that the cardholder began, and for nothing else.
    pub async fn read_code(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        ticket: CodeTicket,
    ) -> Result<CodeRead, Error> {
        one(self.read_code_batch(caller, header, vec![(token, ticket)]).await?)
    }

    /// Gives up to 1,000 codes back, each once. One that is gone is told as [`Error::CodeGone`].
    pub async fn read_code_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tickets: Vec<(Token, CodeTicket)>,
    ) -> Result<Vec<Result<CodeRead, Error>>, Error> {
        let wants = tickets.into_iter().map(|(token, ticket)| CodeDeed::Read(ticket).of(token)).collect();
        self.on_cards(caller, header, Action::ReadCode, wants, |round, want, done| {
            let Deed::Code(CodeDeed::Read(ticket)) = &want.deed else { return Err(Error::internal()) };
            // Whoever was first between the log and here has it: nobody gets it twice.
            let code = round.vault.inner.codes.take(ticket, Owner::of(&done.card), round.now);
            Ok(CodeRead { code: code.ok_or(Error::CodeGone)?, receipt: done.filed.receipt })
        })
        .await
    }

    /// Says that one authorization is over: its code is gone from here on, read or not.
    pub async fn complete_authorization(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        ticket: CodeTicket,
    ) -> Result<super::request::Completed, Error> {
        one(self.complete_authorization_batch(caller, header, vec![(token, ticket)]).await?)
    }

    /// Says that up to 1,000 authorizations are over.
    pub async fn complete_authorization_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tickets: Vec<(Token, CodeTicket)>,
    ) -> Result<Vec<Result<super::request::Completed, Error>>, Error> {
        let wants = tickets.into_iter().map(|(token, ticket)| CodeDeed::Drop(ticket).of(token)).collect();
        self.on_cards(caller, header, Action::CompleteAuthorization, wants, |round, want, done| {
            let Deed::Code(CodeDeed::Drop(ticket)) = &want.deed else { return Err(Error::internal()) };
            round.vault.inner.codes.drop_of(ticket, Owner::of(&done.card));
            Ok(super::request::Completed { receipt: done.filed.receipt })
        })
        .await
    }

    /// Wipes the codes whose hour is over. Call it every second or so: until then they are only out of reach.
    pub fn forget_codes(&self) {
        self.inner.codes.forget(self.now());
    }

    /// How many codes are held.
    #[must_use]
    pub fn held_codes(&self) -> usize {
        self.inner.codes.lock().cells.len()
    }
}

impl Round<'_> {
    /// Whether this node holds a code of this card under the ticket.
    pub(super) fn holds_code(&self, ticket: &CodeTicket, card: &Card) -> bool {
        self.vault.inner.codes.holds(ticket, Owner::of(card), self.now)
    }

    /// Whether this node held the code that this very item brought before, and holds it no more: it was read, or its
    /// authorization is over. A request that is sent again does not bring it back.
    pub(super) fn held_before(&self, place: usize, card: &Card) -> Result<bool, Error> {
        let ticket = CodeTicket { node: FIRST_LOG, cell: self.item_hash(place)? };
        let seen = self.vault.inner.codes.has_seen(&ticket);
        Ok(seen && !self.holds_code(&ticket, card))
    }
}

/// Whose code it is: of which of a token's cards, since a token outlives its card.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Owner {
    merchant: MerchantId,
    record: Ref,
    generation: u32,
}

impl Owner {
    fn of(card: &Card) -> Self {
        let Card { merchant, row } = card;
        Self { merchant: *merchant, record: row.record, generation: row.generation }
    }

    /// Whichever of the token's cards it is.
    fn token(&self) -> (MerchantId, Ref) {
        (self.merchant, self.record)
    }
}

struct Cell {
    owner: Owner,
    code: SecurityCode,
    until: Timestamp,
}

impl Cell {
    fn is_of(&self, owner: Owner, now: Timestamp) -> bool {
        self.owner == owner && now < self.until
    }
}

#[derive(Default)]
struct Shelf {
    cells: HashMap<[u8; 16], Cell>,
    /// How many of them are whose.
    shares: HashMap<MerchantId, usize>,
    /// Which of them are of one token.
    of_token: HashMap<(MerchantId, Ref), HashSet<[u8; 16]>>,
    /// Those that were held within the hour, and until when: what was taken is not to come again.
    seen: HashMap<[u8; 16], Timestamp>,
    /// In the order in which their hours end; also those that were taken since.
    order: VecDeque<(Timestamp, [u8; 16])>,
}

impl Shelf {
    /// Whether one more of this merchant's leaves as many free as it holds.
    fn has_room_for(&self, merchant: MerchantId) -> bool {
        let own = self.shares.get(&merchant).copied().unwrap_or(0);
        own < MAX_CODES.saturating_sub(self.cells.len())
    }

    /// Bounds what is remembered of codes that were taken: above some forty of them a second, it is less than an hour.
    fn forget_older_half_of_taken(&mut self) {
        let Self { cells, order, seen, .. } = self;
        let (mut passed, half) = (0_usize, order.len() / 2);
        order.retain(|(until, at)| {
            passed += 1;
            let held = cells.get(at).is_some_and(|held| held.until == *until);
            let kept = held || passed > half;
            if !kept && seen.get(at) == Some(until) {
                seen.remove(at);
            }
            kept
        });
    }

    fn put(&mut self, at: [u8; 16], cell: Cell) {
        drop(self.remove(&at));
        let share = self.shares.entry(cell.owner.merchant).or_insert(0);
        *share = share.saturating_add(1);
        self.of_token.entry(cell.owner.token()).or_default().insert(at);
        self.cells.insert(at, cell);
    }

    fn remove(&mut self, at: &[u8; 16]) -> Option<Cell> {
        let cell = self.cells.remove(at)?;
        if let Some(share) = self.shares.get_mut(&cell.owner.merchant) {
            *share = share.saturating_sub(1);
            if *share == 0 {
                self.shares.remove(&cell.owner.merchant);
            }
        }
        if let Some(cells) = self.of_token.get_mut(&cell.owner.token()) {
            cells.remove(at);
            if cells.is_empty() {
                self.of_token.remove(&cell.owner.token());
            }
        }
        Some(cell)
    }
}

/// The codes that this node holds. Each wipes itself when it goes.
#[derive(Default)]
pub(super) struct Cells(Mutex<Shelf>);

impl Cells {
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the cell held before, a retry puts in anew.
    fn hold(
        &self,
        at: [u8; 16],
        owner: Owner,
        code: SecurityCode,
        now: Timestamp,
    ) -> Result<(CodeTicket, Timestamp), Error> {
        let until = now.plus_ms(CODE_LIFE_MS);
        self.forget(now);
        let mut shelf = self.lock();
        if !shelf.cells.contains_key(&at) && !shelf.has_room_for(owner.merchant) {
            return Err(Error::Overloaded);
        }
        if shelf.order.len() >= MAX_CODES.saturating_mul(2) {
            shelf.forget_older_half_of_taken();
        }
        shelf.put(at, Cell { owner, code, until });
        shelf.seen.insert(at, until);
        shelf.order.push_back((until, at));
        Ok((CodeTicket { node: FIRST_LOG, cell: at }, until))
    }

    fn holds(&self, ticket: &CodeTicket, owner: Owner, now: Timestamp) -> bool {
        let shelf = self.lock();
        let cell = shelf.cells.get(&ticket.cell).filter(|_| ticket.node == FIRST_LOG);
        cell.is_some_and(|cell| cell.is_of(owner, now))
    }

    fn has_seen(&self, ticket: &CodeTicket) -> bool {
        self.lock().seen.contains_key(&ticket.cell)
    }

    fn take(&self, ticket: &CodeTicket, owner: Owner, now: Timestamp) -> Option<SecurityCode> {
        if !self.holds(ticket, owner, now) {
            return None;
        }
        self.lock().remove(&ticket.cell).map(|cell| cell.code)
    }

    /// Drops what one ticket of this token holds, whichever of its cards it was for.
    fn drop_of(&self, ticket: &CodeTicket, owner: Owner) {
        let mut shelf = self.lock();
        let own = shelf.cells.get(&ticket.cell).is_some_and(|cell| cell.owner.token() == owner.token());
        if own && ticket.node == FIRST_LOG {
            shelf.remove(&ticket.cell);
        }
    }

    /// Drops all that is held of one token: it has ended.
    pub(super) fn drop_all_of(&self, merchant: MerchantId, record: Ref) {
        self.drop_before(merchant, record, u32::MAX);
    }

    /// Drops what is held of one token's cards before the one of that generation: it has another card.
    pub(super) fn drop_before(&self, merchant: MerchantId, record: Ref, generation: u32) {
        let mut shelf = self.lock();
        let cells = shelf.of_token.get(&(merchant, record)).cloned().unwrap_or_default();
        for at in cells {
            if shelf.cells.get(&at).is_some_and(|cell| cell.owner.generation < generation) {
                shelf.remove(&at);
            }
        }
    }

    fn forget(&self, now: Timestamp) {
        let mut shelf = self.lock();
        while let Some((_, at)) = shelf.order.pop_front_if(|(until, _)| *until <= now) {
            if shelf.seen.get(&at).is_some_and(|until| *until <= now) {
                shelf.seen.remove(&at);
            }
            // One that a retry put in again has its own hour.
            if shelf.cells.get(&at).is_some_and(|held| held.until <= now) {
                shelf.remove(&at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(digits: &str) -> SecurityCode {
        SecurityCode::parse(digits.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
    }

    const ACME: Owner = Owner { merchant: MerchantId(1), record: Ref([7; 16]), generation: 0 };
    const ZENITH: Owner = Owner { merchant: MerchantId(2), ..ACME };

    #[test]
    fn a_code_has_the_length_of_its_network() {
        for bad in ["", "12", "12345", "12a", " 123", "１２３"] {
            assert!(SecurityCode::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(code("0123").expose_digits(), b"0123");
        for (digits, network, fits) in
            [("123", "visa", true), ("1234", "visa", false), ("1234", "amex", true), ("123", "amex", false)]
        {
            assert_eq!(code(digits).fits(network).is_ok(), fits, "{digits} {network}");
        }
    }

    #[test]
    fn a_ticket_reads_back_from_its_own_text_alone() {
        let ticket = CodeTicket { node: 0, cell: *b"0123456789abcdef" };
        let text = ticket.to_string();
        assert_eq!(text, "code-0-dadbdcdddedfdgdhdidjgbgcgdgegfgg");
        assert!(CodeTicket::parse(&text).is_ok_and(|read| read == ticket));
        for bad in [
            "",
            "code-0-",
            "code--dadbdcdddedfdgdhdidjgbgcgdgegfgg",
            "code-00-dadbdcdddedfdgdhdidjgbgcgdgegfgg",
            "code-+0-dadbdcdddedfdgdhdidjgbgcgdgegfgg",
            "code-0-dadbdcdddedfdgdhdidjgbgcgdgegfg",
            "code-0-dadbdcdddedfdgdhdidjgbgcgdgegfgq",
            "code-99999999999-dadbdcdddedfdgdhdidjgbgcgdgegfgg",
            "4111111111111111",
        ] {
            assert!(CodeTicket::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cell_is_read_once_by_its_own_card_within_its_hour() {
        let (cells, now) = (Cells::default(), Timestamp(5));
        let hold = || cells.hold([1; 16], ACME, code("123"), now).unwrap_or_else(|e| panic!("{e}"));
        let (ticket, until) = hold();
        assert_eq!(until, now.plus_ms(CODE_LIFE_MS));
        let others = [ZENITH, Owner { record: Ref([8; 16]), ..ACME }, Owner { generation: 1, ..ACME }];
        assert!(others.into_iter().all(|other| cells.take(&ticket, other, now).is_none()));
        assert!(cells.take(&CodeTicket { node: 1, ..ticket }, ACME, now).is_none());
        assert!(cells.take(&ticket, ACME, until).is_none(), "its hour is over");
        assert!(cells.take(&ticket, ACME, now).is_some_and(|code| code.expose_digits() == b"123"));
        assert!(cells.take(&ticket, ACME, now).is_none());
        let (other, _) = hold();
        cells.forget(until);
        assert!(cells.lock().cells.is_empty() && !cells.holds(&other, ACME, now), "wiped");
    }

    #[test]
    fn a_retry_has_the_same_cell_and_an_hour_of_its_own() {
        let (cells, first, again) = (Cells::default(), Timestamp(5), Timestamp(9));
        let hold = |digits, at| cells.hold([1; 16], ACME, code(digits), at).map(|(ticket, _)| ticket);
        let (once, twice) = (hold("123", first).unwrap(), hold("456", again).unwrap());
        assert!(once == twice);
        assert_eq!(cells.lock().cells.len(), 1, "no second code");
        cells.forget(first.plus_ms(CODE_LIFE_MS));
        assert!(cells.take(&twice, ACME, again).is_some_and(|code| code.expose_digits() == b"456"));
        assert!(cells.take(&once, ACME, again).is_none());
    }

    #[test]
    fn what_is_held_of_a_token_goes_with_its_card() {
        let (cells, now) = (Cells::default(), Timestamp(5));
        let other = Owner { record: Ref([8; 16]), ..ACME };
        let hold =
            |n: u8, owner| cells.hold([n; 16], owner, code("123"), now).map(|(ticket, _)| ticket).unwrap();
        let (first, _second, others) = (hold(1, ACME), hold(2, ACME), hold(3, other));
        // The end of an authorization reaches the code, though the token has another card by then.
        cells.drop_of(&first, Owner { generation: 1, ..ACME });
        cells.drop_of(&others, ACME);
        assert_eq!(cells.lock().cells.len(), 2, "none of another token");
        hold(4, Owner { generation: 1, ..ACME });
        cells.drop_before(ACME.merchant, ACME.record, 1);
        assert_eq!(cells.lock().cells.len(), 2, "that of the card that it has now");
        cells.drop_all_of(ACME.merchant, ACME.record);
        assert!(cells.lock().cells.len() == 1 && cells.holds(&others, other, now));
    }

    #[test]
    fn what_was_taken_is_remembered_and_that_is_bounded() {
        let (cells, now) = (Cells::default(), Timestamp(5));
        let cell = |n: usize| u128::try_from(n).unwrap().to_be_bytes();
        let mut last = None;
        for n in 0..4 * MAX_CODES {
            let (ticket, _) =
                cells.hold(cell(n), ACME, code("123"), now).unwrap_or_else(|e| panic!("{n}: {e}"));
            assert!(cells.take(&ticket, ACME, now).is_some() && cells.has_seen(&ticket));
            // Those of late are known, however many there were.
            assert!(last.replace(ticket).is_none_or(|before| cells.has_seen(&before)));
        }
        let shelf = cells.lock();
        assert!(shelf.order.len() <= 2 * MAX_CODES && shelf.seen.len() <= shelf.order.len());
        drop(shelf);
        cells.forget(now.plus_ms(CODE_LIFE_MS));
        assert!(cells.lock().seen.is_empty() && cells.lock().order.is_empty());
    }

    #[test]
    fn cells_are_bounded_and_what_was_taken_makes_room() {
        let (cells, now) = (Cells::default(), Timestamp(5));
        let cell = |n: usize| u128::try_from(n).unwrap().to_be_bytes();
        let hold = |n: usize, owner| cells.hold(cell(n), owner, code("123"), now);
        let (first, _) = hold(0, ACME).unwrap_or_else(|e| panic!("{e}"));
        for n in 1..MAX_CODES / 2 {
            hold(n, ACME).unwrap_or_else(|e| panic!("{n}: {e}"));
        }
        // A merchant leaves as much as it takes, so that nobody fills the shelf alone.
        assert!(matches!(hold(MAX_CODES, ACME), Err(Error::Overloaded)));
        assert!(hold(0, ACME).is_ok(), "a retry takes no other place");
        for n in 0..MAX_CODES / 4 {
            hold(MAX_CODES + n, ZENITH).unwrap_or_else(|e| panic!("{n}: {e}"));
        }
        assert!(matches!(hold(3 * MAX_CODES, ZENITH), Err(Error::Overloaded)));
        assert!(cells.lock().cells.len() < MAX_CODES);
        // What is read makes room; with nothing held nothing is counted.
        assert!(cells.take(&first, ACME, now).is_some());
        assert!(hold(3 * MAX_CODES, ZENITH).is_ok());
        cells.forget(now.plus_ms(CODE_LIFE_MS));
        let shelf = cells.lock();
        assert!(shelf.cells.is_empty() && shelf.shares.is_empty() && shelf.of_token.is_empty());
    }
}
