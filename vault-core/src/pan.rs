//! Card numbers: taken in once, checked, and from then on on the heap, wiped when dropped and never shown whole.
//!
//! Refused: anything that is not 12 to 19 digits with a right check digit (ISO/IEC 7812-1). A [`Pan`] has no Debug,
//! Display, Clone, `PartialEq` or Serialize; no error here carries a digit. What may be shown is a [`MaskedPan`].

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use crate::codec::{Reader, Torn, Writer};
use crate::secret::same_bytes;

/// The most digits of a card number (ISO/IEC 7812-1, 4.1).
pub const MAX_DIGITS: usize = 19;
/// The fewest digits of a card number that is in use (Maestro); ISO/IEC 7812-1 itself begins at 10.
pub const MIN_DIGITS: usize = 12;
/// Bytes of a card number before it is sealed: all are the same, so that a ciphertext does not tell the length.
pub const PADDED: usize = 19;

/// A card number as people may write it: every digit, and one separator between any two.
const MAX_WRITTEN: usize = 2 * MAX_DIGITS - 1;
/// The most digits any mask keeps: the first 8 and the last 4.
const MAX_KEPT: usize = 12;

/// A card number: 12 to 19 digits whose Luhn sum is a multiple of ten.
///
/// One byte of length, then the digits in ASCII, then zero bytes.
// INVARIANT: the first byte is the number of digits, 12 to 19. Only parse() and from_padded() write here.
pub struct Pan(Box<[u8; 1 + PADDED]>);

/// Why bytes are no card number. It reads after a field's name and never carries a digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PanError {
    /// Fewer than 12 or more than 19 digits.
    Length,
    /// Something besides ASCII digits with single spaces or hyphens between them.
    NotDigits,
    /// The Luhn sum is no multiple of ten (ISO/IEC 7812-1, annex B).
    CheckDigit,
    /// The magnetic stripe's or chip's whole track (ISO/IEC 7813), not the number alone.
    TrackData,
    /// A PIN block (ISO 9564-1).
    PinBlock,
}

impl fmt::Display for PanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "must have 12 to 19 digits",
            Self::NotDigits => "may hold only digits, with single spaces or hyphens between them",
            Self::CheckDigit => "must have a right check digit",
            Self::TrackData => "must be a card number alone, not track data",
            Self::PinBlock => "must be a card number, not a PIN block",
        })
    }
}

impl std::error::Error for PanError {}

impl Pan {
    /// Reads 12 to 19 ASCII digits; single spaces and hyphens between two digits are dropped.
    pub fn parse(written: &[u8]) -> Result<Self, PanError> {
        // PCI DSS 3.3: neither is kept by anybody, so who sends one is told what is wrong, and nothing of it is read.
        if is_track_data(written) {
            return Err(PanError::TrackData);
        }
        if is_pin_block(written) {
            return Err(PanError::PinBlock);
        }
        if written.len() > MAX_WRITTEN {
            return Err(PanError::Length);
        }
        let mut pan = Self(Box::new([0; 1 + PADDED]));
        let mut count = 0_u8;
        let mut after_digit = false;
        for &byte in written {
            match byte {
                b'0'..=b'9' => {
                    count += 1;
                    *pan.0.get_mut(usize::from(count)).ok_or(PanError::Length)? = byte;
                    after_digit = true;
                }
                b' ' | b'-' if after_digit => after_digit = false,
                _ => return Err(PanError::NotDigits),
            }
        }
        if count > 0 && !after_digit {
            return Err(PanError::NotDigits);
        }
        pan.counted(count)
    }

    /// Reads what [`padded`](Self::padded) gave: exactly 19 bytes, digits and then only zero bytes.
    pub fn from_padded(padded: &[u8]) -> Result<Self, PanError> {
        let padded: &[u8; PADDED] = padded.try_into().map_err(|_| PanError::Length)?;
        let count = padded.iter().position(|&b| b == 0).unwrap_or(PADDED);
        let (digits, fill) = padded.split_at_checked(count).ok_or(PanError::Length)?;
        let odd_digits = digits.iter().fold(0, |odd, b| odd | u8::from(!b.is_ascii_digit()));
        let odd_fill = fill.iter().fold(0, |odd, b| odd | b);
        if odd_digits | odd_fill != 0 {
            return Err(PanError::NotDigits);
        }
        let mut pan = Self(Box::new([0; 1 + PADDED]));
        let [_, room @ ..] = &mut *pan.0;
        room.copy_from_slice(padded);
        pan.counted(u8::try_from(count).map_err(|_| PanError::Length)?)
    }

    /// The digits in ASCII, 12 to 19 of them: for a cipher, a MAC or the one answer that may carry them.
    #[must_use]
    pub fn expose_digits(&self) -> &[u8] {
        self.padded().get(..self.len()).unwrap_or_default()
    }

    /// The digits in ASCII and then zero bytes, always 19 in all: what is sealed. Lent, not copied.
    #[must_use]
    pub fn padded(&self) -> &[u8; PADDED] {
        let [_, padded @ ..] = &*self.0;
        padded
    }

    /// How many digits, 12 to 19.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no card number is empty")]
    pub fn len(&self) -> usize {
        let [length, ..] = &*self.0;
        usize::from(*length)
    }

    /// The first six digits.
    #[must_use]
    pub fn bin6(&self) -> Bin {
        Bin(self.expose_digits().first_chunk().copied().unwrap_or_default())
    }

    /// The last four digits.
    #[must_use]
    pub fn last_four(&self) -> LastFour {
        LastFour(self.expose_digits().last_chunk().copied().unwrap_or_default())
    }

    /// What may be shown. A keep that this length does not allow (see [`keep_allowed`]) shows its last digits only.
    #[must_use]
    pub fn mask(&self, keep: Keep) -> MaskedPan {
        let keep = if keep_allowed(self.len(), keep).is_ok() { keep } else { keep.without_first() };
        let digits = self.expose_digits();
        let first = digits.get(..usize::from(keep.first)).unwrap_or_default();
        let last = digits.get(digits.len() - usize::from(keep.last)..).unwrap_or_default();
        MaskedPan { length: self.counted_digits(), keep, kept: kept(first, last) }
    }

    /// Whether both are the same number, in a time that does not tell where they differ.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        same_bytes(&*self.0, &*other.0)
    }

    fn counted_digits(&self) -> u8 {
        let [length, ..] = &*self.0;
        *length
    }

    fn counted(mut self, count: u8) -> Result<Self, PanError> {
        if !(MIN_DIGITS..=MAX_DIGITS).contains(&usize::from(count)) {
            return Err(PanError::Length);
        }
        let [length, ..] = &mut *self.0;
        *length = count;
        if luhn_valid(self.expose_digits()) { Ok(self) } else { Err(PanError::CheckDigit) }
    }
}

impl Drop for Pan {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}

/// Whether it is a track of ISO/IEC 7813: with its start sentinel, or a number and what only a track has behind it (`=`, `^`,
/// or the `D` of a chip's track 2 equivalent).
fn is_track_data(written: &[u8]) -> bool {
    let sentinel = matches!(written.first(), Some(b'%' | b';'));
    let number = written.strip_prefix(b"B").unwrap_or(written);
    let digits = number.iter().take_while(|b| b.is_ascii_digit()).count();
    let separated = matches!(number.get(digits), Some(b'=' | b'^' | b'D' | b'd'));
    sentinel || (digits >= MIN_DIGITS && separated)
}

/// Whether it is a PIN block of ISO 9564-1 in hexadecimal: 16 digits, or 32 of format 4. With fewer than three letters it is
/// taken for a mistyped number: of a hundred enciphered blocks, hardly one has so few.
fn is_pin_block(written: &[u8]) -> bool {
    matches!(written.len(), 16 | 32)
        && written.iter().all(u8::is_ascii_hexdigit)
        && written.iter().filter(|b| b.is_ascii_alphabetic()).count() >= 3
}

/// The first six digits of a card number: the issuer, as ranges were given until ISO/IEC 7812-1:2017.
///
/// It has no Debug: beside the last four digits of a short number it tells almost all of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bin([u8; 6]);

impl Bin {
    /// Six ASCII digits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The last four digits of a card number. It has no Debug, for the reason [`Bin`] has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LastFour([u8; 4]);

impl LastFour {
    /// Four ASCII digits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// How many digits stay readable at each end of a card number: the first 0, 6 or 8 and the last 0 or 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keep {
    first: u8,
    last: u8,
}

/// Why so many digits may not be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepError {
    /// Not written as `first+last`, such as `6+4`.
    Text,
    /// Only the first 0, 6 or 8 and the last 0 or 4 digits are ever kept.
    Count,
    /// A card number has 12 to 19 digits.
    Length,
    /// Too few digits of a number this long would stay hidden (PCI SSC FAQ 1091).
    TooMany,
    /// The same length is named twice.
    Twice,
}

impl fmt::Display for KeepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "must be written as first+last, such as 6+4",
            Self::Count => "may keep only the first 0, 6 or 8 digits and the last 0 or 4",
            Self::Length => "must be for a length of 12 to 19 digits",
            Self::TooMany => "keeps more digits than a card number of this length allows",
            Self::Twice => "names a length twice",
        })
    }
}

impl std::error::Error for KeepError {}

impl Keep {
    /// No digit at all: allowed at every length.
    pub const NOTHING: Self = Self { first: 0, last: 0 };

    /// The first 0, 6 or 8 digits and the last 0 or 4.
    pub fn new(first: u8, last: u8) -> Result<Self, KeepError> {
        if matches!(first, 0 | 6 | 8) && matches!(last, 0 | 4) {
            Ok(Self { first, last })
        } else {
            Err(KeepError::Count)
        }
    }

    /// Reads `first+last`, one digit each, such as `6+4`.
    pub fn parse(text: &str) -> Result<Self, KeepError> {
        match *text.as_bytes() {
            [first @ b'0'..=b'9', b'+', last @ b'0'..=b'9'] => Self::new(first - b'0', last - b'0'),
            _ => Err(KeepError::Text),
        }
    }

    /// What is kept where nobody says otherwise: 6+4 from 15 digits on, the last four of shorter numbers.
    #[must_use]
    pub fn default_for(length: usize) -> Self {
        Self { first: if length >= 15 { 6 } else { 0 }, last: 4 }
    }

    /// How many of the first digits are kept: 0, 6 or 8.
    #[must_use]
    pub fn first(self) -> u8 {
        self.first
    }

    /// How many of the last digits are kept: 0 or 4.
    #[must_use]
    pub fn last(self) -> u8 {
        self.last
    }

    /// How many digits of a number of `length` digits stay hidden.
    #[must_use]
    pub fn hidden(self, length: usize) -> usize {
        length.saturating_sub(usize::from(self.first) + usize::from(self.last))
    }

    pub(crate) fn without_first(self) -> Self {
        Self { first: 0, last: self.last }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.first, self.last)
    }
}

/// Whether a token or a mask of a number of `length` digits may keep so many.
///
/// After PCI SSC FAQ 1091: at least four digits of 16 stay hidden, and five of 15. Numbers of 17 to 19 digits are
/// treated as those of 15 here, and numbers of 12 to 14 show one end only.
pub fn keep_allowed(length: usize, keep: Keep) -> Result<(), KeepError> {
    let allowed = match (keep.first, keep.last) {
        (0, 0 | 4) | (6, 0) => true,
        (6, 4) | (8, 0) => length >= 15,
        (8, 4) => length == 16,
        _ => false,
    };
    match (MIN_DIGITS..=MAX_DIGITS).contains(&length) {
        false => Err(KeepError::Length),
        true if allowed => Ok(()),
        true => Err(KeepError::TooMany),
    }
}

/// What may be shown of a card number: its length and the digits that a [`Keep`] leaves readable.
// INVARIANT: `keep` is allowed for `length`; `kept` is its digits, first then last, then zero bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MaskedPan {
    length: u8,
    keep: Keep,
    kept: [u8; MAX_KEPT],
}

impl MaskedPan {
    /// How many digits the number has, 12 to 19.
    #[must_use]
    pub fn length(&self) -> usize {
        usize::from(self.length)
    }

    /// Which digits are readable.
    #[must_use]
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// The readable digits, first and then last, 0 to 12 of them in ASCII.
    #[must_use]
    pub fn kept(&self) -> &[u8] {
        self.kept.get(..usize::from(self.keep.first) + usize::from(self.keep.last)).unwrap_or_default()
    }

    /// The readable digits in front: none, 6 or 8.
    #[must_use]
    pub fn first(&self) -> &str {
        self.ends().0
    }

    /// The readable digits at the end: none or 4.
    #[must_use]
    pub fn last(&self) -> &str {
        self.ends().1
    }

    /// Whether this is what `pan` looks like under the same keep.
    #[must_use]
    pub fn fits(&self, pan: &Pan) -> bool {
        pan.mask(self.keep) == *self
    }

    /// The same without its first digits.
    #[must_use]
    pub fn last_four_only(&self) -> Self {
        Self { length: self.length, keep: self.keep.without_first(), kept: kept(&[], self.last().as_bytes()) }
    }

    /// The same showing no more than `keep` says: each end the shorter of the two.
    #[must_use]
    pub fn narrowed(&self, keep: Keep) -> Self {
        match (keep.first < self.keep.first, keep.last < self.keep.last) {
            (false, false) => *self,
            (true, false) if keep.first == 0 => self.last_four_only(),
            (true, false) => {
                let first = self.first().get(..usize::from(keep.first)).unwrap_or_default();
                let narrower = Keep { first: keep.first, last: self.keep.last };
                Self {
                    length: self.length,
                    keep: narrower,
                    kept: kept(first.as_bytes(), self.last().as_bytes()),
                }
            }
            (narrow, true) => {
                let count = if narrow { keep.first } else { self.keep.first };
                let first = self.first().get(..usize::from(count)).unwrap_or_default();
                let narrower = Keep { first: count, last: 0 };
                Self { length: self.length, keep: narrower, kept: kept(first.as_bytes(), b"") }
            }
        }
    }

    /// Length u8, count of first digits u8, these, count of last digits u8, these.
    pub fn write(&self, w: &mut Writer) {
        w.u8(self.length).u8(self.keep.first).fixed(self.first().as_bytes());
        w.u8(self.keep.last).fixed(self.last().as_bytes());
    }

    /// Reads what [`write`](Self::write) wrote; torn where the length allows no such keep or a byte is no digit.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Torn> {
        let length = r.u8()?;
        let front = r.u8()?;
        let first = r.fixed(usize::from(front))?;
        let back = r.u8()?;
        let last = r.fixed(usize::from(back))?;
        let keep = Keep::new(front, back).map_err(|_| Torn)?;
        keep_allowed(usize::from(length), keep).map_err(|_| Torn)?;
        if first.iter().chain(last).all(u8::is_ascii_digit) {
            Ok(Self { length, keep, kept: kept(first, last) })
        } else {
            Err(Torn)
        }
    }

    fn ends(&self) -> (&str, &str) {
        let text = std::str::from_utf8(self.kept()).unwrap_or_default();
        text.split_at_checked(usize::from(self.keep.first)).unwrap_or_default()
    }
}

impl fmt::Display for MaskedPan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.first())?;
        for _ in 0..self.keep.hidden(self.length()) {
            f.write_str("*")?;
        }
        f.write_str(self.last())
    }
}

impl fmt::Debug for MaskedPan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn kept(first: &[u8], last: &[u8]) -> [u8; MAX_KEPT] {
    let mut kept = [0; MAX_KEPT];
    kept.iter_mut().zip(first.iter().chain(last)).for_each(|(to, from)| *to = *from);
    kept
}

/// The month in whose course a card expires (ISO/IEC 7813 holds it as YYMM).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CardExpiry {
    year: u16,
    month: u8,
}

/// Why a text or a pair of numbers is no card expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryError {
    /// Not written as `MM/YY`, `MM/YYYY` or `YYYY-MM`.
    Text,
    /// Not a year from 2000 to 2099: a card carries two digits of it.
    Year,
    /// Not a month from 1 to 12.
    Month,
}

impl fmt::Display for ExpiryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "must be written as MM/YY, MM/YYYY or YYYY-MM",
            Self::Year => "must have a year from 2000 to 2099",
            Self::Month => "must have a month from 1 to 12",
        })
    }
}

impl std::error::Error for ExpiryError {}

impl CardExpiry {
    /// A year from 2000 to 2099 and a month from 1 to 12.
    pub fn new(year: u16, month: u8) -> Result<Self, ExpiryError> {
        if !(2000..=2099).contains(&year) {
            return Err(ExpiryError::Year);
        }
        if !(1..=12).contains(&month) {
            return Err(ExpiryError::Month);
        }
        Ok(Self { year, month })
    }

    /// Reads `MM/YY` (of this century), `MM/YYYY` or `YYYY-MM`.
    pub fn parse(text: &str) -> Result<Self, ExpiryError> {
        let (century, year, month) = match (text.split_once('/'), text.split_once('-')) {
            (Some((month, year)), None) if month.len() == 2 && year.len() == 2 => (2000, year, month),
            (Some((month, year)), None) | (None, Some((year, month)))
                if month.len() == 2 && year.len() == 4 =>
            {
                (0, year, month)
            }
            _ => return Err(ExpiryError::Text),
        };
        let month = u8::try_from(number(month)?).map_err(|_| ExpiryError::Month)?;
        Self::new(century + number(year)?, month)
    }

    /// The year, 2000 to 2099.
    #[must_use]
    pub fn year(self) -> u16 {
        self.year
    }

    /// The month, 1 to 12.
    #[must_use]
    pub fn month(self) -> u8 {
        self.month
    }
}

impl fmt::Display for CardExpiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}/{}", self.month, self.year)
    }
}

/// The Luhn sum of ASCII digits, modulo ten (ISO/IEC 7812-1, annex B). The last digit counts once, the one before it
/// twice, and so on; zero means that the check digit is right.
#[must_use]
pub fn luhn_sum(digits: &[u8]) -> u8 {
    digits.iter().fold(Luhn::default(), |luhn, &digit| luhn.then(digit)).sum
}

/// Whether the check digit of ASCII digits is right. No digits at all count as right: ask for a length first.
#[must_use]
pub fn luhn_valid(digits: &[u8]) -> bool {
    luhn_sum(digits) == 0
}

/// Whether a free text holds a card number: 12 to 19 digits between two group boundaries that pass the Luhn check, see
/// [`any_digits`].
#[must_use]
pub fn holds_card_number(text: &str) -> bool {
    any_digits(text.as_bytes(), luhn_valid)
}

/// Whether some digits of a text are what is looked for: 12 to 19 of them between two group boundaries. Groups are digits,
/// joined by a single space or hyphen between two. So neither a date behind a number nor another number beside it hides
/// it; of a longer group no part is taken.
pub(crate) fn any_digits(text: &[u8], mut sought: impl FnMut(&[u8]) -> bool) -> bool {
    if text.iter().filter(|byte| byte.is_ascii_digit()).count() < MIN_DIGITS {
        return false;
    }
    let mut digits = Zeroizing::new(Vec::with_capacity(text.len())); // never outgrown: it may hold a card number
    let mut groups: Vec<usize> = Vec::new();
    let mut within = false;
    for byte in text.iter().chain(&[0]) {
        if byte.is_ascii_digit() {
            if !within {
                groups.push(digits.len());
            }
            digits.push(*byte);
            within = true;
            continue;
        }
        let ended = std::mem::take(&mut within);
        let near = groups.iter().rev().filter_map(|from| digits.get(*from..));
        let mut near = near.take_while(|run| run.len() <= MAX_DIGITS).filter(|run| run.len() >= MIN_DIGITS);
        if ended && near.any(&mut sought) {
            return true;
        }
        if !ended || !matches!(byte, b' ' | b'-') {
            digits.zeroize();
            groups.clear();
        }
    }
    false
}

/// A Luhn sum that grows from the left: the sum if the digit just added is the last, and if it is the one before that.
#[derive(Default, Clone, Copy)]
struct Luhn {
    sum: u8,
    doubled: u8,
}

impl Luhn {
    /// One more ASCII digit. No branch and no table look-up depends on it.
    fn then(self, digit: u8) -> Self {
        let once = digit & 0x0f;
        let twice = 2 * once;
        // Ten to eighteen reach the next multiple of sixteen when six is added: then the two digits' sum is nine less.
        let twice = twice - 9 * ((twice + 6) >> 4);
        Self { sum: (self.doubled + once) % 10, doubled: (self.sum + twice) % 10 }
    }
}

/// At most four digits; a sign is no digit.
fn number(digits: &str) -> Result<u16, ExpiryError> {
    digits.bytes().try_fold(0_u16, |number, digit| match digit {
        b'0'..=b'9' => Ok(number * 10 + u16::from(digit - b'0')),
        _ => Err(ExpiryError::Text),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pan(digits: &str) -> Pan {
        Pan::parse(digits.as_bytes()).map_err(|e| e.to_string()).unwrap()
    }

    fn keep(text: &str) -> Keep {
        Keep::parse(text).unwrap()
    }

    /// Any digits, with the one check digit behind them that is right.
    fn checked(body: &[u8]) -> Vec<u8> {
        let right = |check: &u8| by_the_book(&[body, &[*check]].concat()) == 0;
        [body, &[(b'0'..=b'9').find(right).unwrap()]].concat()
    }

    /// ISO/IEC 7812-1, annex B, word by word: from the right, double every second digit and add all digits up.
    fn by_the_book(digits: &[u8]) -> u32 {
        let mut sum = 0;
        for (place, digit) in digits.iter().rev().enumerate() {
            let product = u32::from(digit - b'0') * if place % 2 == 0 { 1 } else { 2 };
            sum += product / 10 + product % 10;
        }
        sum % 10
    }

    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(b'0'..=b'9', MIN_DIGITS - 1..MAX_DIGITS)
    }

    #[test]
    fn track_data_and_pin_blocks_are_told_as_such() {
        for track in [
            "%B4111111111111111^DOE/JOHN^3012101100000000000000000000000?",
            ";4111111111111111=30121011000012300000?",
            "4111111111111111=3012101",
            "4111111111111111D3012101",
            "B4111111111111111^DOE/JOHN^3012101",
            ";",
            "%",
        ] {
            assert_eq!(Pan::parse(track.as_bytes()).err(), Some(PanError::TrackData), "{track}");
        }
        for block in ["0412AC89ABCDEF67", "2412345affffffff", "44C4A1C7B6A4B64C2C60D5A8B0C3D1E2"] {
            assert_eq!(Pan::parse(block.as_bytes()).err(), Some(PanError::PinBlock), "{block}");
        }
        for other in ["4111a11111111111x", "=", "411=", "DEADBEEF"] {
            assert_eq!(Pan::parse(other.as_bytes()).err(), Some(PanError::NotDigits), "{other}");
        }
    }

    #[test]
    fn a_card_number_is_12_to_19_digits_with_a_right_check_digit() {
        for (written, digits) in [
            ("4111111111111111", "4111111111111111"),
            ("4111 1111 1111 1111", "4111111111111111"),
            ("4111-1111-1111-1111", "4111111111111111"),
            ("4111-1111 11111111", "4111111111111111"),
            ("3-7-8-2-8-2-2-4-6-3-1-0-0-0-5", "378282246310005"),
            ("501800000009", "501800000009"),
            ("6304000000000000000", "6304000000000000000"),
            ("6 3 0 4 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0", "6304000000000000000"),
            ("30569309025904", "30569309025904"),
            ("000000000000", "000000000000"),
        ] {
            let pan = pan(written);
            assert_eq!(pan.expose_digits(), digits.as_bytes());
            assert_eq!(pan.len(), digits.len());
        }
        for (written, why) in [
            ("", PanError::Length),
            ("0", PanError::Length),
            ("50180000000", PanError::Length),
            ("00000000000000000000", PanError::Length),
            ("0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0", PanError::Length),
            ("4111111111111112", PanError::CheckDigit),
            ("1411111111111111", PanError::CheckDigit),
            (" 4111111111111111", PanError::NotDigits),
            ("4111111111111111 ", PanError::NotDigits),
            ("-4111111111111111", PanError::NotDigits),
            ("4111111111111111-", PanError::NotDigits),
            ("4111  111111111111", PanError::NotDigits),
            ("4111--111111111111", PanError::NotDigits),
            ("4111 -111111111111", PanError::NotDigits),
            ("4111\t111111111111", PanError::NotDigits),
            ("4111.1111.1111.1111", PanError::NotDigits),
            ("4111\u{a0}111111111111", PanError::NotDigits),
            ("\u{0664}111111111111111", PanError::NotDigits),
            ("411111111111111a", PanError::NotDigits),
            ("411111111111111\0", PanError::NotDigits),
            ("-", PanError::NotDigits),
        ] {
            assert_eq!(Pan::parse(written.as_bytes()).map(|_| ()), Err(why), "{written:?}");
        }
        assert_eq!(Pan::parse(&vec![b' '; 1 << 20]).map(|_| ()), Err(PanError::Length), "refused unread");
        assert_eq!(Pan::parse(&[0xff; 16]).map(|_| ()), Err(PanError::NotDigits));
    }

    #[test]
    fn a_padded_number_is_digits_and_then_nothing_else() {
        let with = |f: &dyn Fn(&mut Vec<u8>)| {
            let mut padded = pan("4111111111111111").padded().to_vec();
            f(&mut padded);
            Pan::from_padded(&padded).map(|_| ())
        };
        assert_eq!(with(&|_| ()), Ok(()));
        assert_eq!(with(&|p| p.push(0)), Err(PanError::Length));
        assert_eq!(with(&|p| p.truncate(18)), Err(PanError::Length));
        assert_eq!(with(&|p| p.truncate(16)), Err(PanError::Length));
        assert_eq!(with(&|p| p[18] = 1), Err(PanError::NotDigits));
        assert_eq!(with(&|p| p[17] = b'1'), Err(PanError::NotDigits));
        assert_eq!(with(&|p| p[3] = b' '), Err(PanError::NotDigits));
        assert_eq!(with(&|p| p[3] = 0), Err(PanError::NotDigits));
        assert_eq!(with(&|p| p[15] = b'2'), Err(PanError::CheckDigit));
        assert_eq!(with(&|p| p[11..].fill(0)), Err(PanError::Length));
        assert_eq!(with(&|p| p.fill(0)), Err(PanError::Length));
    }

    #[test]
    fn a_mask_shows_what_is_kept_and_a_star_for_the_rest() {
        for (digits, kept, shown) in [
            ("4111111111111111", "0+0", "****************"),
            ("4111111111111111", "0+4", "************1111"),
            ("4111111111111111", "6+0", "411111**********"),
            ("4111111111111111", "6+4", "411111******1111"),
            ("4111111111111111", "8+0", "41111111********"),
            ("4111111111111111", "8+4", "41111111****1111"),
            ("378282246310005", "6+4", "378282*****0005"),
            ("30569309025904", "6+0", "305693********"),
            ("501800000009", "0+4", "********0009"),
            ("6304000000000000000", "6+4", "630400*********0000"),
            // More than the length allows: the first digits are not shown.
            ("378282246310005", "8+4", "***********0005"),
            ("501800000009", "8+4", "********0009"),
            ("501800000009", "8+0", "************"),
            ("6304000000000000000", "8+4", "***************0000"),
        ] {
            let mask = pan(digits).mask(keep(kept));
            assert_eq!(mask.to_string(), shown, "{kept}");
            assert_eq!(format!("{mask:?}"), shown);
            assert_eq!(mask.length(), digits.len());
            assert!(mask.fits(&pan(digits)));
            assert_eq!(format!("{}{}", mask.first(), mask.last()).as_bytes(), mask.kept());
        }
        let pan = pan("4242424242424242");
        assert_eq!((pan.bin6().as_bytes(), pan.last_four().as_bytes()), (&b"424242"[..], &b"4242"[..]));
        let mask = pan.mask(keep("6+4"));
        assert_eq!((mask.first(), mask.last()), ("424242", "4242"));
        assert_eq!(mask.last_four_only().to_string(), "************4242");
        assert_eq!(mask.last_four_only(), pan.mask(keep("0+4")));
        let wide = pan.mask(keep("8+4"));
        for narrower in ["8+4", "8+0", "6+4", "6+0", "0+4", "0+0"] {
            assert_eq!(wide.narrowed(keep(narrower)), pan.mask(keep(narrower)), "{narrower}");
            assert_eq!(
                pan.mask(keep(narrower)).narrowed(keep("8+4")),
                pan.mask(keep(narrower)),
                "{narrower}"
            );
        }
        assert_eq!(pan.mask(keep("8+0")).narrowed(keep("6+4")), pan.mask(keep("6+0")));
    }

    #[test]
    fn a_mask_fits_only_numbers_that_look_the_same() {
        let mask = pan("4111111111111111").mask(keep("6+4"));
        for (other, fits) in [
            ("4111111111111111", true),
            // Other hidden digits; a digit in front, at the end, and one more or fewer.
            ("4111119181191111", true),
            ("5111119111111111", false),
            ("4111111193111112", false),
            ("41111111451111111", false),
            ("411111111111116", false),
        ] {
            assert_eq!(mask.fits(&pan(other)), fits, "{other}");
        }
    }

    #[test]
    fn a_mask_is_read_back_and_every_other_writing_is_torn() {
        let read = |bytes: &[u8]| {
            let mut r = Reader::new(bytes);
            let mask = MaskedPan::read(&mut r)?;
            r.end().map(|()| mask.to_string())
        };
        let mut w = Writer::default();
        pan("4111111111111111").mask(keep("6+4")).write(&mut w);
        let bytes = w.done();
        assert_eq!(bytes, b"\x10\x06411111\x041111");
        assert_eq!(read(&bytes), Ok("411111******1111".to_owned()));
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Err(Torn), "{cut}");
        }
        for torn in [
            &b"\x0f\x0841111111\x041111"[..],
            b"\x0c\x06411111\x041111",
            b"\x0b\x00\x041111",
            b"\x14\x00\x041111",
            b"\x10\x0541111\x041111",
            b"\x10\x06411111\x03111",
            b"\x10\x0641111*\x041111",
            b"\x10\x06411111\x04111\xff",
            b"\x10\x104111111111111111\x00",
        ] {
            assert_eq!(read(torn), Err(Torn), "{torn:?}");
        }
    }

    #[test]
    fn no_length_keeps_more_than_the_table_of_the_design_says() {
        let short: &[_] = &["0+0", "0+4", "6+0"];
        let long: &[_] = &["0+0", "0+4", "6+0", "8+0", "6+4"];
        let table: &[(usize, &[&str])] = &[
            (12, short),
            (13, short),
            (14, short),
            (15, long),
            (16, &["0+0", "0+4", "6+0", "8+0", "6+4", "8+4"]),
            (17, long),
            (18, long),
            (19, long),
        ];
        for first in 0..=u8::MAX {
            for last in 0..=u8::MAX {
                let possible = [0, 6, 8].contains(&first) && [0, 4].contains(&last);
                assert_eq!(Keep::new(first, last).is_ok(), possible, "{first}+{last}");
                let Ok(keep) = Keep::new(first, last) else { continue };
                for &(length, allowed) in table {
                    let allowed = allowed.contains(&keep.to_string().as_str());
                    let want = if allowed { Ok(()) } else { Err(KeepError::TooMany) };
                    assert_eq!(keep_allowed(length, keep), want, "{keep} at {length}");
                    // PCI SSC FAQ 1091, whatever the table says.
                    assert!(!allowed || keep.hidden(length) >= if length == 15 { 5 } else { 4 });
                }
                for length in [0, 11, 20, usize::MAX] {
                    assert_eq!(keep_allowed(length, keep), Err(KeepError::Length));
                }
            }
        }
        for length in MIN_DIGITS..=MAX_DIGITS {
            assert_eq!(keep_allowed(length, Keep::default_for(length)), Ok(()));
            let default = if length < 15 { "0+4" } else { "6+4" };
            assert_eq!(Keep::default_for(length).to_string(), default);
        }
    }

    #[test]
    fn a_keep_is_written_first_plus_last() {
        for good in ["0+0", "0+4", "6+0", "6+4", "8+0", "8+4"] {
            assert_eq!(keep(good).to_string(), good);
        }
        assert_eq!((keep("6+4").first(), keep("6+4").last(), keep("6+4").hidden(16)), (6, 4, 6));
        for (bad, why) in [
            ("", KeepError::Text),
            ("6", KeepError::Text),
            ("6-4", KeepError::Text),
            ("6+4 ", KeepError::Text),
            ("06+4", KeepError::Text),
            ("6++4", KeepError::Text),
            ("a+4", KeepError::Text),
            ("6+5", KeepError::Count),
            ("4+4", KeepError::Count),
        ] {
            assert_eq!(Keep::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn an_expiry_is_a_month_of_this_century() {
        for (text, shown) in
            [("01/30", "01/2030"), ("12/2099", "12/2099"), ("2000-01", "01/2000"), ("09/00", "09/2000")]
        {
            assert_eq!(CardExpiry::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for (text, why) in [
            ("", ExpiryError::Text),
            ("1/30", ExpiryError::Text),
            ("01-30", ExpiryError::Text),
            ("0130", ExpiryError::Text),
            ("01/030", ExpiryError::Text),
            ("+1/30", ExpiryError::Text),
            ("01/+30", ExpiryError::Text),
            ("2030/01", ExpiryError::Text),
            ("01-2030", ExpiryError::Text),
            ("2030-1-", ExpiryError::Text),
            ("01/3-1", ExpiryError::Text),
            ("é/30", ExpiryError::Text),
            ("0é/3", ExpiryError::Text),
            ("00/30", ExpiryError::Month),
            ("13/30", ExpiryError::Month),
            ("2030-99", ExpiryError::Month),
            ("01/1999", ExpiryError::Year),
            ("01/2100", ExpiryError::Year),
            ("9999-01", ExpiryError::Year),
        ] {
            assert_eq!(CardExpiry::parse(text), Err(why), "{text}");
        }
        let ordered = [(2029, 12), (2030, 1), (2030, 2)].map(|(y, m)| CardExpiry::new(y, m).unwrap());
        assert!(ordered.is_sorted());
        assert_eq!((ordered[0].year(), ordered[0].month()), (2029, 12));
    }

    #[test]
    fn a_card_number_in_free_text_is_noticed() {
        for card in [
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "order 4111111111111111, paid",
            "x4111111111111111x",
            "é4111111111111111é",
            "1  4111111111111111",
            "4111111111111112/4111111111111111",
            "1 -4111111111111111- 1",
            "501800000009",
            "6304000000000000000",
            "- 4111111111111111 -",
            // Digits beside it do not hide it.
            "4111111111111111 1111",
            "4111111111111111-5",
            "12-4111111111111111",
            // Nor does a date, a code or another number.
            "4111 1111 1111 1111 12/27",
            "4111111111111111 1227 123",
            "12 27 4111-1111-1111-1111",
            "4111111111111112 4111111111111111 4111111111111112",
        ] {
            assert!(holds_card_number(card), "{card}");
        }
        for none in [
            "",
            "-",
            "4111111111111112",
            "411111111111111",
            "50180000000",
            "00000000000000000000",
            // The run is longer than any card.
            "4111.1111.1111.1111",
            "4111  1111  1111  1111",
            "4111111111111111".repeat(2).as_str(),
        ] {
            assert!(!holds_card_number(none), "{none}");
        }
    }

    #[test]
    fn same_means_same_digits_and_same_length() {
        assert!(pan("4111111111111111").same_as(&pan("4111 1111 1111 1111")));
        assert!(!pan("4111111111111111").same_as(&pan("4242424242424242")));
        assert!(!pan("000000000000").same_as(&pan("0000000000000")));
    }

    proptest! {
        #[test]
        fn the_luhn_sum_is_that_of_the_book(digits in prop::collection::vec(b'0'..=b'9', 0..40)) {
            prop_assert_eq!(u32::from(luhn_sum(&digits)), by_the_book(&digits));
            prop_assert_eq!(luhn_valid(&digits), by_the_book(&digits) == 0);
        }

        #[test]
        fn digits_go_in_and_come_out(body in bodies(), separated in any::<[bool; 19]>()) {
            let digits = checked(&body);
            let mut written = Vec::new();
            for (n, digit) in digits.iter().enumerate() {
                if n > 0 && separated[n] {
                    written.push(if n % 2 == 0 { b' ' } else { b'-' });
                }
                written.push(*digit);
            }
            let pan = Pan::parse(&written).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(pan.expose_digits(), &digits[..]);
            let again = Pan::from_padded(pan.padded().as_slice()).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(again.same_as(&pan));
            prop_assert!(holds_card_number(std::str::from_utf8(&written).unwrap()));
            for first in [0, 6, 8] {
                for last in [0, 4] {
                    let mask = pan.mask(Keep::new(first, last).unwrap());
                    let mut w = Writer::default();
                    mask.write(&mut w);
                    prop_assert_eq!(MaskedPan::read(&mut Reader::new(&w.done())), Ok(mask));
                    prop_assert!(mask.fits(&again));
                    prop_assert!(keep_allowed(pan.len(), mask.keep()).is_ok());
                }
            }
        }

        #[test]
        fn one_wrong_digit_is_always_noticed(body in bodies(), place in 0..19_usize, by in 1..10_u8) {
            let mut digits = checked(&body);
            let place = place % digits.len();
            digits[place] = b'0' + (digits[place] - b'0' + by) % 10;
            prop_assert_eq!(Pan::parse(&digits).map(|_| ()), Err(PanError::CheckDigit));
        }

        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Pan::parse(&bytes);
            let _ = Pan::from_padded(&bytes);
            let _ = MaskedPan::read(&mut Reader::new(&bytes));
            let text = String::from_utf8_lossy(&bytes);
            let _ = CardExpiry::parse(&text);
            let _ = Keep::parse(&text);
            let _ = holds_card_number(&text);
        }

        #[test]
        fn the_scan_finds_what_a_plain_search_finds(text in "[0-2 x-]{0,40}") {
            // Join groups over single separators, then look at all groups that stand side by side.
            let card = |run: &str| (12..=19).contains(&run.len()) && by_the_book(run.as_bytes()) == 0;
            let apart = text.split('x').flat_map(|part| {
                let mut lists = vec![Vec::new()];
                for (n, group) in part.split([' ', '-']).enumerate() {
                    // Nothing between two separators: they are not single.
                    if group.is_empty() && n > 0 {
                        lists.push(Vec::new());
                    }
                    lists.last_mut().unwrap().extend((!group.is_empty()).then_some(group));
                }
                lists
            });
            let plain = apart.into_iter().any(|groups: Vec<&str>| {
                (0..groups.len()).any(|from| (from..groups.len()).any(|to| card(&groups[from..=to].concat())))
            });
            prop_assert_eq!(holds_card_number(&text), plain);
        }
    }
}
