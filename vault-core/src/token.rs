//! Tokens: what stands in for a card number, how one is drawn, and how many there can be.
//!
//! Refused: a token that passes the Luhn check, a format that keeps more digits than may be shown, and any token drawn
//! without randomness. Whether a drawn token is still free is for the store to say; nothing here remembers one.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use crate::pan::{Keep, KeepError, keep_allowed};
use crate::pan::{MAX_DIGITS, MIN_DIGITS, MaskedPan, Pan, holds_card_number, luhn_sum, luhn_valid};
use crate::random::NoRandomness;
use crate::secret::same_bytes;

/// The longest token, in bytes: an opaque one.
pub const MAX_TOKEN: usize = OPAQUE_PREFIX.len() + OPAQUE_CHARACTERS;
/// How often a token that is taken is drawn again before its space is walked. At nine tenths full, 32 draws in a row
/// fail three times in a hundred; a walk then finds the rest.
pub const REDRAWS: u32 = 32;
/// How often a token is drawn in a space too large to walk. That many misses mean a space that is all but full.
pub const MAX_REDRAWS: u32 = 1_024;
/// The largest space that is walked to its end, in tokens: a million look-ups take seconds, not hours.
pub const MAX_WALK: u64 = 1_000_000;

const OPAQUE_PREFIX: &str = "tok_";
/// 22 characters of 62 hold 130 bits: none is ever drawn twice.
const OPAQUE_CHARACTERS: usize = 22;
const DIGITS: u64 = 10;
const BASE36: u64 = 36;
const BASE62: u64 = 62;
/// How often characters are drawn again that make no token. A mixed token fails one time in 150 at most, so that 64
/// failures in a row are no chance: the randomness is broken.
const MAX_ATTEMPTS: u32 = 64;

/// A token: 12 to 26 ASCII characters, in the heap and wiped when dropped.
///
/// It has no Debug and no Display: with the vault's answer to it a token is a card number, so it is shown on purpose or
/// not at all.
// INVARIANT: ASCII, and one of the three shapes that parse() tells apart.
pub struct Token(Zeroizing<Vec<u8>>);

/// Why a text is no token. It never carries the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// Not 12 to 19 characters, nor 26 behind `tok_`.
    Length,
    /// A character that no token of that length has.
    Alphabet,
    /// Digits that pass the Luhn check: no token does, so this may be a card number.
    LooksLikeCard,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "must have 12 to 19 characters, or tok_ and 22",
            Self::Alphabet => "may hold only 0-9 and a-z, or letters and digits after tok_",
            Self::LooksLikeCard => "must not look like a card number",
        })
    }
}

impl std::error::Error for TokenError {}

impl Token {
    /// Reads a token of any scheme: 12 to 19 digits that fail the Luhn check; 12 to 19 of `0-9a-z`, a letter among
    /// them; or `tok_` and 22 of `0-9A-Za-z`.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let bytes = text.as_bytes();
        if let Some(opaque) = text.strip_prefix(OPAQUE_PREFIX) {
            if opaque.len() != OPAQUE_CHARACTERS {
                return Err(TokenError::Length);
            }
            if !opaque.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(TokenError::Alphabet);
            }
        } else {
            if !(MIN_DIGITS..=MAX_DIGITS).contains(&bytes.len()) {
                return Err(TokenError::Length);
            }
            if !bytes.iter().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()) {
                return Err(TokenError::Alphabet);
            }
            if bytes.iter().all(u8::is_ascii_digit) && luhn_valid(bytes) {
                return Err(TokenError::LooksLikeCard);
            }
        }
        Ok(Self(Zeroizing::new(bytes.to_vec())))
    }

    /// The token as it is shown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The same in ASCII: what enters a MAC.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether both are the same, in a time that depends on their lengths only.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        same_bytes(&self.0, &other.0)
    }

    /// A second one. Spelled out because each copy is one more place to wipe.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(self.0.clone())
    }
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $text:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$about])* $variant,)+
        }

        impl $name {
            /// The word that policies and answers use.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    )+};
}

words! {
    /// How a token looks and where its card lies.
    Scheme {
        /// Digits, as many as the card number has; fails the Luhn check.
        Random = "random",
        /// As long as the card number; hidden digits become `0-9a-z`, a letter among them.
        Mixed = "mixed",
        /// `tok_` and 22 characters that tell nothing.
        Opaque = "opaque",
    }
    /// Whether the same card gets the same token again.
    #[derive(Default)]
    Reuse {
        /// The same card number, scope, format, subject and restrictions give the same token.
        #[default]
        Reuse = "reuse",
        /// Every call draws a new token.
        Fresh = "fresh",
    }
    /// Who shares a reused token, and where it works unless that is narrowed.
    #[derive(Default)]
    Scope {
        /// All channels of the merchant.
        #[default]
        Merchant = "merchant",
        /// The channel it was made in.
        Channel = "channel",
    }
}

/// [`Scheme::Random`] on disk.
pub const SCHEME_RANDOM: u8 = 1;
/// [`Scheme::Mixed`] on disk.
pub const SCHEME_MIXED: u8 = 2;
/// [`Scheme::Opaque`] on disk.
pub const SCHEME_OPAQUE: u8 = 3;
/// `ff1` on disk: reserved for vaultless tokens (NIST SP 800-38G), given to no other scheme.
pub const SCHEME_FF1: u8 = 4;

impl Scheme {
    /// The number that stands for it on disk; it never changes.
    #[must_use]
    pub fn id(self) -> u8 {
        match self {
            Self::Random => SCHEME_RANDOM,
            Self::Mixed => SCHEME_MIXED,
            Self::Opaque => SCHEME_OPAQUE,
        }
    }

    /// The scheme that a number on disk stands for. `None` for one that this version does not know.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        match id {
            SCHEME_RANDOM => Some(Self::Random),
            SCHEME_MIXED => Some(Self::Mixed),
            SCHEME_OPAQUE => Some(Self::Opaque),
            _ => None,
        }
    }
}

/// Whether all that a merchant's formats and masks show of one number, taken together, may be shown.
///
/// Two answers about one card can be laid side by side, so the longest front and the longest end count as one keep.
pub fn union_allowed(length: usize, keeps: &[Keep]) -> Result<(), KeepError> {
    let first = keeps.iter().map(|k| k.first()).max().unwrap_or(0);
    let last = keeps.iter().map(|k| k.last()).max().unwrap_or(0);
    keep_allowed(length, Keep::new(first, last)?)
}

/// How tokens are made: scheme, reuse, scope, and which digits are kept at each length of card number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenFormat {
    scheme: Scheme,
    reuse: Reuse,
    scope: Scope,
    // INVARIANT: entry n is for MIN_DIGITS + n digits, and allowed there.
    keeps: [Option<Keep>; MAX_DIGITS - MIN_DIGITS + 1],
}

impl TokenFormat {
    /// A format that accepts the lengths named in `keeps`, 12 to 19, each at most once and with an allowed keep. Opaque
    /// tokens keep nothing: there the keeps only say which lengths are accepted.
    pub fn new(
        scheme: Scheme,
        reuse: Reuse,
        scope: Scope,
        keeps: &[(usize, Keep)],
    ) -> Result<Self, KeepError> {
        let mut format = Self { scheme, reuse, scope, keeps: Default::default() };
        for &(length, keep) in keeps {
            keep_allowed(length, keep)?;
            let keep = match scheme {
                Scheme::Random | Scheme::Mixed => keep,
                Scheme::Opaque => Keep::NOTHING,
            };
            let entry = length.checked_sub(MIN_DIGITS).and_then(|n| format.keeps.get_mut(n));
            if entry.ok_or(KeepError::Length)?.replace(keep).is_some() {
                return Err(KeepError::Twice);
            }
        }
        Ok(format)
    }

    /// What tokens of cards this long keep. `None`: a card number this long is refused.
    #[must_use]
    pub fn keep(&self, length: usize) -> Option<Keep> {
        self.keeps.get(length.checked_sub(MIN_DIGITS)?).copied().flatten()
    }

    /// How the tokens look.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether the same card gets the same token again.
    #[must_use]
    pub fn reuse(&self) -> Reuse {
        self.reuse
    }

    /// Who shares a reused token.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }
}

/// The space that a token is drawn from: all that tokens of one format and one look have in common.
///
/// It holds what the token itself will show, and no more of the card number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    scheme: Scheme,
    slots: u8,
    mask: MaskedPan,
}

impl Shape {
    /// The shape of `pan`'s tokens in this format. `ff1_slots`, 0 to 8, is how many Luhn sums, from 1 on, belong to the
    /// merchant's vaultless tokens and are never drawn here. `None` if the format names no keep for this length, or if
    /// more slots are asked for than leave a sum over.
    #[must_use]
    pub fn of(format: &TokenFormat, pan: &Pan, ff1_slots: u8) -> Option<Self> {
        let keep = format.keep(pan.len())?;
        (ff1_slots < 9).then(|| Self { scheme: format.scheme(), slots: ff1_slots, mask: pan.mask(keep) })
    }

    /// How the tokens look.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Digits of the card number.
    #[must_use]
    pub fn length(&self) -> usize {
        self.mask.length()
    }

    /// Which digits the tokens keep.
    #[must_use]
    pub fn keep(&self) -> Keep {
        self.mask.keep()
    }

    /// The digits that the tokens keep, first and then last, in ASCII; empty for opaque ones.
    #[must_use]
    pub fn kept(&self) -> &[u8] {
        self.mask.kept()
    }

    /// How many tokens of this shape there are: `random` 10^(h-1) times the Luhn sums left over, with h hidden digits;
    /// `mixed` 36^h - 10^h; `opaque` 62^22, which is more than fits and so is `u128::MAX`.
    #[must_use]
    pub fn space(&self) -> u128 {
        let hidden = u32::try_from(self.hidden()).unwrap_or(0);
        match self.scheme {
            Scheme::Random => 10_u128.pow(hidden.saturating_sub(1)) * u128::from(self.sums()),
            Scheme::Mixed => 36_u128.pow(hidden) - 10_u128.pow(hidden),
            Scheme::Opaque => u128::MAX,
        }
    }

    /// Draws a token, each as likely as any other. `draw` is given a bound and answers 0 to bound - 1, each as likely
    /// (see [`random::below`](crate::random::below)).
    ///
    /// Of `mixed` and `opaque` tokens those are passed over that hold a card number in a row of digits: a scanner, or a
    /// free-text field of ours, would take them for one. They are fewer than one in a thousand.
    pub fn draw(
        &self,
        draw: &mut impl FnMut(u64) -> Result<u64, NoRandomness>,
    ) -> Result<Token, NoRandomness> {
        match self.scheme {
            Scheme::Random => Ok(self.digits(draw(u64::try_from(self.space()).unwrap_or(u64::MAX))?)),
            Scheme::Mixed => attempt(|| {
                let mut token = self.begun();
                spell_drawn(BASE36, self.hidden(), &mut token, draw)?;
                token.extend_from_slice(self.mask.last().as_bytes());
                Ok(token)
            }),
            Scheme::Opaque => attempt(|| {
                let mut token = self.begun();
                spell_drawn(BASE62, OPAQUE_CHARACTERS, &mut token, draw)?;
                Ok(token)
            }),
        }
    }

    /// The token at `index`, a bijection from 0 to [`space`](Self::space) - 1, where that is at most [`MAX_WALK`].
    /// `None` beyond the end and in larger spaces: those of `mixed` and `opaque` always are, with four digits hidden at
    /// the least.
    #[must_use]
    pub fn nth(&self, index: u64) -> Option<Token> {
        let small = self.space() <= u128::from(MAX_WALK) && u128::from(index) < self.space();
        match self.scheme {
            Scheme::Random if small => Some(self.digits(index)),
            Scheme::Random | Scheme::Mixed | Scheme::Opaque => None,
        }
    }

    /// Every index of [`nth`](Self::nth) once, from a random one on; none where the space is too large to walk.
    pub fn walk(
        &self,
        draw: &mut impl FnMut(u64) -> Result<u64, NoRandomness>,
    ) -> Result<Walk, NoRandomness> {
        let space = u64::try_from(self.space()).ok().filter(|space| *space <= MAX_WALK).unwrap_or(0);
        Walk::over(space, draw)
    }

    /// How many Luhn sums tokens may have here: 1 to 9 without the slots. Zero is a card number's.
    fn sums(&self) -> u8 {
        9_u8.saturating_sub(self.slots)
    }

    fn hidden(&self) -> usize {
        self.keep().hidden(self.length())
    }

    /// What stands in front of the hidden part, in a buffer that will not grow: growth leaves copies behind.
    fn begun(&self) -> Zeroizing<Vec<u8>> {
        let mut token = Zeroizing::new(Vec::with_capacity(MAX_TOKEN));
        token.extend_from_slice(match self.scheme {
            Scheme::Random | Scheme::Mixed => self.mask.first().as_bytes(),
            Scheme::Opaque => OPAQUE_PREFIX.as_bytes(),
        });
        token
    }

    /// The `random` token of an index below the space: which Luhn sum, and which digits before the last hidden one.
    fn digits(&self, index: u64) -> Token {
        let sums = u64::from(self.sums()).max(1);
        let sum = u8::try_from(index % sums).unwrap_or(0) + self.slots + 1;
        let mut token = self.begun();
        spell(index / sums, DIGITS, self.hidden().saturating_sub(1), &mut token);
        let place = token.len();
        token.push(b'0');
        token.extend_from_slice(self.mask.last().as_bytes());
        // No digit or four digits follow, so this one counts once, and adding to it adds as much to the sum.
        let missing = (10 + sum - luhn_sum(&token)) % 10;
        if let Some(last_hidden) = token.get_mut(place) {
            *last_hidden += missing;
        }
        Token(token)
    }
}

/// Spells until it is a token that nobody takes for a card number.
fn attempt(
    mut spelled: impl FnMut() -> Result<Zeroizing<Vec<u8>>, NoRandomness>,
) -> Result<Token, NoRandomness> {
    for _ in 0..MAX_ATTEMPTS {
        let token = Token(spelled()?);
        let all_digits = token.0.iter().all(u8::is_ascii_digit);
        if !all_digits && !holds_card_number(token.as_str()) {
            return Ok(token);
        }
    }
    Err(NoRandomness)
}

/// Draws `count` characters of an alphabet of `radix`, as many at a time as one number holds.
fn spell_drawn(
    radix: u64,
    count: usize,
    out: &mut Vec<u8>,
    draw: &mut impl FnMut(u64) -> Result<u64, NoRandomness>,
) -> Result<(), NoRandomness> {
    let mut left = u32::try_from(count).unwrap_or(0);
    while left > 0 {
        let some = left.min(u64::MAX.ilog(radix));
        spell(draw(radix.pow(some))?, radix, usize::try_from(some).unwrap_or(0), out);
        left -= some;
    }
    Ok(())
}

/// Appends the `count` lowest places of `value`, each as one of the first `radix` of `0-9a-zA-Z`.
fn spell(mut value: u64, radix: u64, count: usize, out: &mut Vec<u8>) {
    for _ in 0..count {
        out.push(match u8::try_from(value % radix).unwrap_or(0) {
            digit @ 0..10 => b'0' + digit,
            small @ 10..36 => b'a' + (small - 10),
            large => b'A' + (large - 36).min(25),
        });
        value /= radix;
    }
}

/// Visits each index from 0 to `space` - 1 once, in an order that the next walk does not repeat.
///
/// An affine permutation: a step without a common factor with the space comes by everywhere before it comes back.
pub struct Walk {
    next: u64,
    step: u64,
    space: u64,
    left: u64,
}

impl Walk {
    /// A walk over `space` indices, [`MAX_WALK`] at most, from a random one and in random steps. Larger spaces are not
    /// walked at all.
    pub fn over(
        space: u64,
        draw: &mut impl FnMut(u64) -> Result<u64, NoRandomness>,
    ) -> Result<Self, NoRandomness> {
        if space == 0 || space > MAX_WALK {
            return Ok(Self { next: 0, step: 0, space: 1, left: 0 });
        }
        let least = draw(space)?;
        // One is coprime to all, so that there is a step whatever was drawn.
        let step = (least..space).find(|step| gcd(*step, space) == 1).unwrap_or(1);
        Ok(Self { next: draw(space)?, step, space, left: space })
    }
}

impl Iterator for Walk {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let index = self.next;
        self.next = (index + self.step) % self.space;
        Some(index)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
