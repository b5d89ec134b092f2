//! Tokens: what stands in for a card number or another value, how one is drawn, and how many there can be.
//!
//! Refused: a token that passes the Luhn check (but inside the prefix that nobody issues) or is an IBAN, a format that
//! keeps more than may be shown, and any token drawn without randomness. Whether a drawn token is still free is for the
//! store to say; nothing here remembers one. Tokens of other data than cards are drawn in pattern.rs.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::account::{MAX_ACCOUNT, ROUTING_DIGITS};
use crate::digits::{MAX_DIGIT_STRING, MIN_DIGIT_STRING};
use crate::email::is_domain;
use crate::iban::{self, Iban, MAX_IBAN, MIN_IBAN};
pub use crate::pan::{Keep, KeepError, keep_allowed};
use crate::pan::{MAX_DIGITS, MIN_DIGITS, MaskedPan, Pan, holds_card_number, luhn_sum, luhn_valid};
use crate::pattern::{EMAIL_HIDDEN, LuhnPrefix, MAX_KEPT_DOMAIN, MIN_ACCOUNT_HIDDEN};
use crate::phone::{MAX_PHONE, MIN_PHONE};
use crate::random::NoRandomness;
use crate::secret::same_bytes;
use crate::words::Kind;

/// The longest token, in bytes: one of an e-mail address that keeps the longest domain. One of a card has 26 at most.
pub const MAX_TOKEN: usize = 1 + EMAIL_HIDDEN + 1 + MAX_KEPT_DOMAIN;
/// How often a token that is taken is drawn again before its space is walked. At nine tenths full, 32 draws in a row
/// fail three times in a hundred; a walk then finds the rest.
pub const REDRAWS: u32 = 32;
/// How often a token is drawn in a space too large to walk. That many misses mean a space that is all but full.
pub const MAX_REDRAWS: u32 = 1_024;
/// The largest space that is walked to its end, in tokens: a million look-ups take seconds, not hours.
pub const MAX_WALK: u64 = 1_000_000;

/// The fewest digits that a vaultless token hides: one is spent on the slot's sum, and FF1 needs six (a million inputs).
pub const LEAST_FF1_HIDDEN: usize = 7;

/// The longest token from elsewhere that is kept, in bytes: the longest in use are UUIDs with a word in front.
pub const MAX_ELSEWHERE: usize = 64;

const OPAQUE_PREFIX: &str = "tok_";
/// 22 characters of 62 hold 130 bits: none is ever drawn twice.
const OPAQUE_CHARACTERS: usize = 22;
const DIGITS: u64 = 10;
const BASE36: u64 = 36;
const BASE62: u64 = 62;
/// The fewest characters of a value that stay hidden.
const LEAST_HIDDEN: usize = 4;
/// How often characters are drawn again that make no token. A mixed token fails one time in 150 at most, so that 64
/// failures in a row are no chance: the randomness is broken.
const MAX_ATTEMPTS: u32 = 64;

/// A token: 6 to 226 ASCII characters, in the heap and wiped when dropped.
///
/// It has no Debug and no Display: with the vault's answer to it a token is a card number, so it is shown on purpose or
/// not at all.
// INVARIANT: ASCII, and one of the shapes that parse() tells apart.
pub struct Token(Zeroizing<Vec<u8>>);

/// Why a text is no token. It never carries the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// No token that begins so has as many characters.
    Length,
    /// A character that no token of that shape has.
    Alphabet,
    /// Digits that pass the Luhn check: no token does, so this may be a card number.
    LooksLikeCard,
    /// An IBAN, right modulo 97: no token is.
    LooksLikeIban,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "must have 6 to 32 characters, 22 after tok_, or what a token of its look has",
            Self::Alphabet => "has characters that no token of its shape has",
            Self::LooksLikeCard => "must not look like a card number",
            Self::LooksLikeIban => "must not be an account number",
        })
    }
}

impl std::error::Error for TokenError {}

impl Token {
    /// Reads a token of any scheme and kind. They are told apart by how they begin:
    ///
    /// | begins with | of | then |
    /// |---|---|---|
    /// | `tok_` | anything, opaque | 22 of `0-9A-Za-z` |
    /// | `+` | a telephone number | 7 to 15 of `0-9a-z`, a letter among them |
    /// | two of `A-Z` | an IBAN | two digits and 11 to 30 of `0-9A-Z`; not right modulo 97 |
    /// | `t`, with an `@` later | an e-mail address | 24 of `0-9a-z`, `@`, a domain |
    /// | nine digits and `-` | an account | 8 to 17 of `0-9a-z`, a letter among them |
    /// | all else | a card number, digits | 6 to 32 of `0-9a-z`; if all are digits, failing the Luhn check |
    ///
    /// Digits that pass the Luhn check are taken at 12 to 19 of them behind `99`, where nobody issues card numbers.
    ///
    /// What is none of these may be a token from elsewhere that an import kept: 6 to 64 of `0-9A-Za-z_-`, a letter among
    /// them, no card number in it, and no IBAN in letters of whatever case.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        match Self::parse_own(text) {
            Err(TokenError::Length | TokenError::Alphabet) if is_from_elsewhere(text) => {
                Ok(Self(Zeroizing::new(text.as_bytes().to_vec())))
            }
            read => read,
        }
    }

    fn parse_own(text: &str) -> Result<Self, TokenError> {
        let bytes = text.as_bytes();
        if let Some(opaque) = text.strip_prefix(OPAQUE_PREFIX) {
            counted(opaque.len(), OPAQUE_CHARACTERS..=OPAQUE_CHARACTERS)?;
            of(opaque.bytes().all(|b| b.is_ascii_alphanumeric()))?;
        } else if let Some(phone) = text.strip_prefix('+') {
            counted(phone.len(), MIN_PHONE..=MAX_PHONE)?;
            of(is_mixed(phone.as_bytes()))?;
        } else if let Some((local, domain)) = text.split_once('@') {
            counted(local.len(), 1 + EMAIL_HIDDEN..=1 + EMAIL_HIDDEN)?;
            counted(domain.len(), 3..=MAX_KEPT_DOMAIN)?;
            let lower = domain.bytes().all(|b| !b.is_ascii_uppercase());
            of(local.starts_with('t')
                && is_mixed(local.as_bytes())
                && lower
                && is_domain(domain.as_bytes()))?;
        } else if let Some((routing, account)) = text.split_once('-') {
            counted(routing.len(), ROUTING_DIGITS..=ROUTING_DIGITS)?;
            counted(account.len(), MIN_ACCOUNT_HIDDEN..=MAX_ACCOUNT)?;
            of(routing.bytes().all(|b| b.is_ascii_digit()) && is_mixed(account.as_bytes()))?;
        } else if let [b'A'..=b'Z', b'A'..=b'Z', rest @ ..] = bytes {
            counted(bytes.len(), MIN_IBAN..=MAX_IBAN)?;
            let (check, bban) = rest.split_at_checked(2).unwrap_or_default();
            let plain = |b: &u8| b.is_ascii_digit() || b.is_ascii_uppercase();
            of(check.iter().all(u8::is_ascii_digit) && bban.iter().all(plain))?;
            if iban::remainder(bytes) == 1 {
                return Err(TokenError::LooksLikeIban);
            }
        } else {
            counted(bytes.len(), MIN_DIGIT_STRING..=MAX_DIGIT_STRING)?;
            of(bytes.iter().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()))?;
            let nobodys = (MIN_DIGITS..=MAX_DIGITS).contains(&bytes.len()) && bytes.starts_with(b"99");
            if !nobodys && bytes.iter().all(u8::is_ascii_digit) && luhn_valid(bytes) {
                return Err(TokenError::LooksLikeCard);
            }
        }
        Ok(Self(Zeroizing::new(bytes.to_vec())))
    }

    /// A token that was drawn.
    pub(crate) fn made(text: Zeroizing<Vec<u8>>) -> Self {
        Self(text)
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

fn counted(length: usize, allowed: std::ops::RangeInclusive<usize>) -> Result<(), TokenError> {
    if allowed.contains(&length) { Ok(()) } else { Err(TokenError::Length) }
}

fn of(its_alphabet: bool) -> Result<(), TokenError> {
    if its_alphabet { Ok(()) } else { Err(TokenError::Alphabet) }
}

/// `0-9a-z`, a letter among them.
fn is_mixed(text: &[u8]) -> bool {
    text.iter().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()) && !text.iter().all(u8::is_ascii_digit)
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
        /// Digits, as many as the card number has, made of it by a key alone: no row, and reversible by that key.
        Ff1 = "ff1",
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
/// [`Scheme::Ff1`] on disk: vaultless tokens (NIST SP 800-38G).
pub const SCHEME_FF1: u8 = 4;

impl Scheme {
    /// The number that stands for it on disk; it never changes.
    #[must_use]
    pub fn id(self) -> u8 {
        match self {
            Self::Random => SCHEME_RANDOM,
            Self::Mixed => SCHEME_MIXED,
            Self::Opaque => SCHEME_OPAQUE,
            Self::Ff1 => SCHEME_FF1,
        }
    }

    /// The scheme that a number on disk stands for. `None` for one that this version does not know.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        match id {
            SCHEME_RANDOM => Some(Self::Random),
            SCHEME_MIXED => Some(Self::Mixed),
            SCHEME_OPAQUE => Some(Self::Opaque),
            SCHEME_FF1 => Some(Self::Ff1),
            _ => None,
        }
    }
}

/// Whether a vaultless token of a number of `length` digits may keep so many: what any token may keep, and seven digits
/// hidden at the least.
pub fn vaultless_keep_allowed(length: usize, keep: Keep) -> Result<(), KeepError> {
    keep_allowed(length, keep)?;
    if keep.hidden(length) < LEAST_FF1_HIDDEN { Err(KeepError::TooMany) } else { Ok(()) }
}

/// What a vaultless token keeps where nobody says otherwise: the last four, and from 17 digits on the first six too.
#[must_use]
pub fn default_vaultless_keep(length: usize) -> Keep {
    let keep = Keep::default_for(length);
    if keep.hidden(length) < LEAST_FF1_HIDDEN { keep.without_first() } else { keep }
}

/// Whether all that a merchant's formats and masks show of one number, taken together, may be shown.
///
/// Two answers about one card can be laid side by side, so the longest front and the longest end count as one keep.
pub fn union_allowed(length: usize, keeps: &[Keep]) -> Result<(), KeepError> {
    let first = keeps.iter().map(|k| k.first()).max().unwrap_or(0);
    let last = keeps.iter().map(|k| k.last()).max().unwrap_or(0);
    keep_allowed(length, Keep::new(first, last)?)
}

/// Why a format of another kind than cards cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatError {
    /// The kind has no tokens of this scheme.
    Scheme,
    /// Only digits name lengths, only e-mail keeps a domain, only `random` tokens of cards have a prefix.
    NotOfThisKind,
    /// A length that is not 6 to 32, or named twice.
    Length,
    /// The last 4 digits or none are kept, and at least four others stay hidden.
    Keep,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "this kind has no tokens of this scheme; see docs/methods.md",
            Self::NotOfThisKind => "keep, domain or luhn_prefix is not for this kind and scheme",
            Self::Length => "keep must name lengths of 6 to 32 digits, each once",
            Self::Keep => "keep must be 0+0 or 0+4, and leave four digits hidden",
        })
    }
}

impl std::error::Error for FormatError {}

/// Which schemes a kind of value has. `ff1` tokens are for card numbers alone, whose check digit makes room for a slot.
#[must_use]
pub fn schemes_of(kind: Kind) -> &'static [Scheme] {
    match kind {
        Kind::Card => &[Scheme::Random, Scheme::Mixed, Scheme::Opaque, Scheme::Ff1],
        Kind::NetworkToken | Kind::Digits => &[Scheme::Random, Scheme::Mixed, Scheme::Opaque],
        Kind::Iban => &[Scheme::Random, Scheme::Opaque],
        Kind::UsAccount | Kind::Phone | Kind::Email => &[Scheme::Mixed, Scheme::Opaque],
        Kind::Reference | Kind::Bytes => &[Scheme::Opaque],
    }
}

/// How tokens are made: for which kind of value, scheme, reuse, scope, and what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenFormat {
    kind: Kind,
    scheme: Scheme,
    reuse: Reuse,
    scope: Scope,
    // INVARIANT: entry n is for MIN_DIGITS + n digits, and allowed there.
    keeps: [Option<Keep>; MAX_DIGITS - MIN_DIGITS + 1],
    /// Of digits: entry n is for `MIN_DIGIT_STRING` + n of them, and says how many of the last are kept.
    digits: [Option<u8>; MAX_DIGIT_STRING - MIN_DIGIT_STRING + 1],
    domain: bool,
    prefix: Option<LuhnPrefix>,
}

impl TokenFormat {
    /// A format for cards that accepts the lengths named in `keeps`, 12 to 19, each at most once and with an allowed keep.
    /// Opaque tokens keep nothing: there the keeps only say which lengths are accepted.
    pub fn new(
        scheme: Scheme,
        reuse: Reuse,
        scope: Scope,
        keeps: &[(usize, Keep)],
    ) -> Result<Self, KeepError> {
        let mut format = Self::bare(Kind::Card, scheme, reuse, scope);
        for &(length, keep) in keeps {
            match scheme {
                Scheme::Ff1 => vaultless_keep_allowed(length, keep)?,
                Scheme::Random | Scheme::Mixed | Scheme::Opaque => keep_allowed(length, keep)?,
            }
            let keep = match scheme {
                Scheme::Random | Scheme::Mixed | Scheme::Ff1 => keep,
                Scheme::Opaque => Keep::NOTHING,
            };
            let entry = length.checked_sub(MIN_DIGITS).and_then(|n| format.keeps.get_mut(n));
            if entry.ok_or(KeepError::Length)?.replace(keep).is_some() {
                return Err(KeepError::Twice);
            }
        }
        Ok(format)
    }

    /// A format for another kind of value. `digits` is for digits alone: the lengths it accepts, 6 to 32, each at most
    /// once, and how many of the last are kept, 0 or 4. `domain` is for e-mail alone: whether the domain is kept.
    pub fn of_kind(
        kind: Kind,
        scheme: Scheme,
        reuse: Reuse,
        scope: Scope,
        digits: &[(usize, u8)],
        domain: bool,
    ) -> Result<Self, FormatError> {
        if !schemes_of(kind).contains(&scheme) || kind == Kind::Card {
            return Err(FormatError::Scheme);
        }
        let domain_allowed = kind == Kind::Email && scheme == Scheme::Mixed;
        if (kind != Kind::Digits && !digits.is_empty()) || (domain && !domain_allowed) {
            return Err(FormatError::NotOfThisKind);
        }
        let mut format = Self { domain, ..Self::bare(kind, scheme, reuse, scope) };
        for &(length, keep) in digits {
            let entry = length.checked_sub(MIN_DIGIT_STRING).and_then(|n| format.digits.get_mut(n));
            let entry = entry.ok_or(FormatError::Length)?;
            if !matches!(keep, 0 | 4) || length < usize::from(keep) + LEAST_HIDDEN {
                return Err(FormatError::Keep);
            }
            if entry.replace(keep).is_some() {
                return Err(FormatError::Length);
            }
        }
        Ok(format)
    }

    /// The same format for network tokens, whose numbers look like a card's.
    #[must_use]
    pub fn for_network_tokens(self) -> Self {
        Self { kind: Kind::NetworkToken, ..self }
    }

    /// The same format with tokens that pass the Luhn check, inside this prefix. Only `random` formats have such tokens,
    /// and only those that keep none of the first digits.
    pub fn inside(self, prefix: LuhnPrefix) -> Result<Self, FormatError> {
        let plain = self.scheme == Scheme::Random && matches!(self.kind, Kind::Card | Kind::NetworkToken);
        if !plain || self.keeps.iter().flatten().any(|keep| keep.first() != 0) {
            return Err(FormatError::NotOfThisKind);
        }
        Ok(Self { prefix: Some(prefix), ..self })
    }

    fn bare(kind: Kind, scheme: Scheme, reuse: Reuse, scope: Scope) -> Self {
        Self {
            kind,
            scheme,
            reuse,
            scope,
            keeps: Default::default(),
            digits: [None; MAX_DIGIT_STRING - MIN_DIGIT_STRING + 1],
            domain: false,
            prefix: None,
        }
    }

    /// For which kind of value.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many of the last digits of a number of `length` digits are kept. `None`: such a number is refused.
    #[must_use]
    pub fn digits_keep(&self, length: usize) -> Option<u8> {
        self.digits.get(length.checked_sub(MIN_DIGIT_STRING)?).copied().flatten()
    }

    /// Whether tokens of an e-mail address keep its domain.
    #[must_use]
    pub fn keeps_domain(&self) -> bool {
        self.domain
    }

    /// The prefix of tokens that pass the Luhn check; none: they fail it.
    #[must_use]
    pub fn luhn_prefix(&self) -> Option<LuhnPrefix> {
        self.prefix
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
    /// `mixed` 36^h - 10^h; `opaque` 62^22, which is more than fits and so is `u128::MAX`; `ff1`
    /// 10^(h-1) in each slot, one for each card number.
    #[must_use]
    pub fn space(&self) -> u128 {
        let hidden = u32::try_from(self.hidden()).unwrap_or(0);
        match self.scheme {
            Scheme::Random => 10_u128.pow(hidden.saturating_sub(1)) * u128::from(self.sums()),
            Scheme::Mixed => 36_u128.pow(hidden) - 10_u128.pow(hidden),
            Scheme::Opaque => u128::MAX,
            Scheme::Ff1 => 10_u128.pow(hidden.saturating_sub(1)),
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
            Scheme::Opaque => opaque(draw),
            // Made of its card by a slot, never drawn.
            Scheme::Ff1 => Err(NoRandomness),
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
            Scheme::Random | Scheme::Mixed | Scheme::Opaque | Scheme::Ff1 => None,
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
        token.extend_from_slice(self.mask.first().as_bytes());
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

/// Draws an opaque token, each as likely as any other; passed over are those that [`Shape::draw`] passes over.
pub(crate) fn opaque(draw: &mut impl FnMut(u64) -> Result<u64, NoRandomness>) -> Result<Token, NoRandomness> {
    attempt(|| {
        let mut token = Zeroizing::new(Vec::with_capacity(MAX_TOKEN));
        token.extend_from_slice(OPAQUE_PREFIX.as_bytes());
        spell_drawn(BASE62, OPAQUE_CHARACTERS, &mut token, draw)?;
        Ok(token)
    })
}

/// Whether a text may be a token of another vault: of the shapes of none of ours, and nothing that could be a card number, or an
/// IBAN in letters of whatever case.
fn is_from_elsewhere(text: &str) -> bool {
    let bytes = text.as_bytes();
    (MIN_DIGIT_STRING..=MAX_ELSEWHERE).contains(&bytes.len())
        && !text.starts_with(OPAQUE_PREFIX)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        && bytes.iter().any(u8::is_ascii_alphabetic)
        && !holds_card_number(text)
        && Iban::parse(bytes).is_err()
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

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    /// Dice that a seed makes (`SplitMix64`), so that a failure can be repeated.
    fn dice(seed: u64) -> impl FnMut(u64) -> Result<u64, NoRandomness> {
        let mut state = seed;
        move |bound| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            Ok(u64::try_from((u128::from(z ^ (z >> 31)) * u128::from(bound)) >> 64).unwrap())
        }
    }

    fn pan(length: usize) -> Pan {
        let body = &b"4929123456789012345"[..length - 1];
        (b'0'..=b'9').find_map(|check| Pan::parse(&[body, &[check]].concat()).ok()).unwrap()
    }

    fn format(scheme: Scheme, length: usize, keep: &str) -> TokenFormat {
        let keep = Keep::parse(keep).unwrap();
        TokenFormat::new(scheme, Reuse::Reuse, Scope::Merchant, &[(length, keep)]).unwrap()
    }

    fn shape(scheme: Scheme, length: usize, keep: &str, slots: u8) -> Shape {
        Shape::of(&format(scheme, length, keep), &pan(length), slots).unwrap()
    }

    fn every_allowed() -> impl Iterator<Item = (usize, &'static str)> {
        let keeps = ["0+0", "0+4", "6+0", "6+4", "8+0", "8+4"];
        (12..=19)
            .flat_map(move |length| keeps.map(|keep| (length, keep)))
            .filter(|(length, keep)| keep_allowed(*length, Keep::parse(keep).unwrap()).is_ok())
    }

    #[test]
    fn a_token_has_one_of_six_looks() {
        for good in [
            "4111111111111112",
            "000000000001",
            "9999999999999999999",
            "411111abcdef1111",
            "aaaaaaaaaaaa",
            "zzzzzzzzzzzzzzzzzzz",
            "41111111111111a",
            "tok_0123456789ABCDEFabcdef",
            "tok_zzzzzzzzzzzzzzzzzzzzZZ",
            "123456",
            "00000000000000000001",
            "aaaaaaaaaaaaaaaaaaaa",
            "9900000000000002", // right by Luhn, where nobody issues
            "DE88370400440532013000",
            "+4915123a56789",
            "021000021-0a345678",
            "t0123456789abcdefghijklmn@example.com",
        ] {
            let token = Token::parse(good).map_err(|e| e.to_string()).unwrap();
            assert_eq!((token.as_str(), token.as_bytes()), (good, good.as_bytes()));
            assert!(token.same_as(&token.copy()));
            assert!(!token.same_as(&Token::parse("000000000001x").map_err(|e| e.to_string()).unwrap()));
        }
        for (bad, why) in [
            ("", TokenError::Length),
            ("00001", TokenError::Length),
            (&*"1".repeat(33), TokenError::Length),
            ("00000000000000000000", TokenError::LooksLikeCard),
            ("0000000", TokenError::LooksLikeCard),
            ("DE89370400440532013000", TokenError::LooksLikeIban),
            ("+4915123456789", TokenError::Alphabet),
            ("+49151a", TokenError::Length),
            ("+49151A2345", TokenError::Alphabet),
            ("021000021-012345678", TokenError::Alphabet),
            ("x0123456789abcdefghijklmn@example.com", TokenError::Alphabet),
            ("t0123456789abcdefghijklmn@Example.com", TokenError::Alphabet),
            ("t0123456789abcdefghijklmn@example", TokenError::Alphabet),
            ("t0123456789abcdefghijklm@example.com", TokenError::Length),
            ("tok_", TokenError::Length),
            ("tok_0123456789ABCDEFabcde", TokenError::Length),
            ("tok_0123456789ABCDEFabcdefg", TokenError::Length),
            ("tok_0123456789ABCDEFabcde-", TokenError::Alphabet),
            ("tok_0123456789ABCDEFabcdé", TokenError::Alphabet),
            ("4111 1111 1111 1112", TokenError::Alphabet),
            ("411111*****1112", TokenError::Alphabet),
            ("41111111111é", TokenError::Alphabet),
            ("4111111111111111", TokenError::LooksLikeCard),
            ("000000000000", TokenError::LooksLikeCard),
            ("card_4111111111111111", TokenError::Alphabet),
            ("card_4111-1111-1111-1111", TokenError::Alphabet),
            ("card_", TokenError::Length),
            ("Card 12345", TokenError::Alphabet),
            (&*"A".repeat(65), TokenError::Length),
        ] {
            assert_eq!(Token::parse(bad).map(|_| ()), Err(why), "{bad}");
        }
        // Kept from elsewhere by an import: what is of none of our shapes.
        for elsewhere in [
            "card_1N4ABCdef2eZvKYlo2C",
            "56wyNnSmuA6CWYP7w0MiYCVIbW6",
            "d2cbc1a2-7a3b-4e5f-8a9b-0c1d2e3f4a5b",
            "411111ABCDEF1111",
            "TOK_00000000",
            "DE883704004405",
            "021000021-a234567",
        ] {
            assert!(Token::parse_own(elsewhere).is_err(), "{elsewhere}");
            assert!(Token::parse(elsewhere).is_ok_and(|token| token.as_str() == elsewhere), "{elsewhere}");
        }
        // An IBAN is read in letters of whatever case, so it is no token in any.
        for iban in ["gB29NWBK60161331926819", "Gb29nwbk60161331926819", "aD837937933456789abzlmnm"] {
            assert!(Token::parse(iban).is_err(), "{iban}");
        }
    }

    #[test]
    fn words_are_the_same_in_a_policy_and_on_a_screen() {
        for scheme in [Scheme::Random, Scheme::Mixed, Scheme::Opaque, Scheme::Ff1] {
            assert_eq!(serde_json::to_value(scheme).unwrap(), scheme.as_str());
            assert_eq!(Scheme::from_id(scheme.id()), Some(scheme));
        }
        for reuse in [Reuse::Reuse, Reuse::Fresh] {
            assert_eq!(serde_json::to_value(reuse).unwrap(), reuse.to_string());
        }
        for scope in [Scope::Merchant, Scope::Channel] {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.to_string());
        }
        assert_eq!((Reuse::default(), Scope::default()), (Reuse::Reuse, Scope::Merchant));
        assert!([0, 5, u8::MAX].iter().all(|id| Scheme::from_id(*id).is_none()));
    }

    #[test]
    fn all_that_is_shown_of_a_number_counts_together() {
        let keeps = ["0+0", "0+4", "6+0", "6+4", "8+0", "8+4"].map(|k| Keep::parse(k).unwrap());
        for length in 12..=19 {
            assert_eq!(union_allowed(length, &[]), Ok(()));
            for one in keeps {
                assert_eq!(union_allowed(length, &[one]), keep_allowed(length, one));
                for other in keeps {
                    let (first, last) = (one.first().max(other.first()), one.last().max(other.last()));
                    let hidden = length - usize::from(first + last);
                    let allowed = match length {
                        16 => hidden >= 4,
                        15 => hidden >= 5,
                        17.. => (first, last) != (8, 4),
                        _ => first != 8 && (first, last) != (6, 4),
                    };
                    assert_eq!(
                        union_allowed(length, &[one, other]).is_ok(),
                        allowed,
                        "{one} {other} at {length}"
                    );
                }
            }
        }
        assert_eq!(union_allowed(11, &[]), Err(KeepError::Length));
    }

    #[test]
    fn a_format_names_a_keep_for_each_length_it_accepts() {
        let new = |scheme, keeps: &[(usize, &str)]| {
            let keeps: Vec<_> = keeps.iter().map(|(n, k)| (*n, Keep::parse(k).unwrap())).collect();
            TokenFormat::new(scheme, Reuse::Fresh, Scope::Channel, &keeps)
        };
        let format = new(Scheme::Mixed, &[(16, "6+4"), (12, "0+4"), (19, "8+0")]).unwrap();
        assert_eq!(
            (format.scheme(), format.reuse(), format.scope()),
            (Scheme::Mixed, Reuse::Fresh, Scope::Channel)
        );
        let kept = |n| format.keep(n).map(|k| k.to_string());
        assert_eq!([12, 16, 19].map(kept), ["0+4", "6+4", "8+0"].map(|k| Some(k.to_owned())));
        assert!([0, 11, 13, 15, 17, 20, usize::MAX].iter().all(|n| format.keep(*n).is_none()));
        assert_eq!(new(Scheme::Random, &[(16, "6+4"), (16, "0+4")]), Err(KeepError::Twice));
        assert_eq!(new(Scheme::Opaque, &[(16, "6+4"), (16, "6+4")]), Err(KeepError::Twice));
        assert_eq!(new(Scheme::Random, &[(15, "8+4")]), Err(KeepError::TooMany));
        assert_eq!(new(Scheme::Random, &[(20, "0+4")]), Err(KeepError::Length));
        assert_eq!(new(Scheme::Opaque, &[(16, "6+4")]).unwrap().keep(16), Some(Keep::NOTHING));
        assert!(Shape::of(&format, &pan(15), 0).is_none());
        assert!(Shape::of(&format, &pan(16), 9).is_none());
        assert!(Shape::of(&format, &pan(16), 8).is_some());
    }

    #[test]
    fn a_space_is_as_large_as_the_design_says() {
        for (scheme, length, keep, slots, space) in [
            (Scheme::Random, 16, "8+4", 0, 9_000),
            (Scheme::Random, 16, "8+4", 5, 4_000),
            (Scheme::Random, 15, "6+4", 0, 90_000),
            (Scheme::Random, 16, "6+4", 0, 900_000),
            (Scheme::Random, 16, "6+4", 5, 400_000),
            (Scheme::Random, 19, "0+0", 0, 9_000_000_000_000_000_000),
            (Scheme::Mixed, 16, "8+4", 0, 36 * 36 * 36 * 36 - 10_000),
            (Scheme::Mixed, 16, "6+4", 5, 2_176_782_336 - 1_000_000),
            (Scheme::Opaque, 16, "6+4", 0, u128::MAX),
        ] {
            assert_eq!(shape(scheme, length, keep, slots).space(), space, "{scheme} {keep} at {length}");
        }
    }

    #[test]
    fn a_small_space_is_numbered_without_gap_or_double() {
        for (length, keep, slots) in
            [(16, "8+4", 0), (16, "8+4", 5), (16, "8+4", 8), (15, "6+4", 0), (15, "6+4", 5)]
        {
            let shape = shape(Scheme::Random, length, keep, slots);
            let space = u64::try_from(shape.space()).unwrap();
            let mask = pan(length).mask(shape.keep());
            let mut seen = HashSet::new();
            for index in 0..space {
                let token = shape.nth(index).unwrap();
                let sum = luhn_sum(token.as_bytes());
                assert!(sum > slots, "{sum} is not for rows");
                assert_eq!(token.as_bytes().len(), length);
                assert!(token.as_str().starts_with(mask.first()));
                assert!(token.as_str().ends_with(mask.last()));
                assert!(Token::parse(token.as_str()).is_ok());
                assert!(seen.insert(token.as_str().to_owned()), "{index} comes twice");
            }
            assert!(shape.nth(space).is_none() && shape.nth(u64::MAX).is_none());
            // Every number that looks so is in it: so it is the whole space.
            if length == 16 && keep == "8+4" {
                let all = (0..10_000).map(|n| format!("{}{n:04}{}", mask.first(), mask.last()));
                let want: HashSet<_> = all.filter(|t| luhn_sum(t.as_bytes()) > slots).collect();
                assert_eq!(seen, want);
            }
        }
    }

    #[test]
    fn a_large_space_is_not_numbered_or_walked() {
        for shape in [
            shape(Scheme::Random, 17, "6+4", 0),
            shape(Scheme::Mixed, 16, "8+4", 0),
            shape(Scheme::Opaque, 16, "8+4", 0),
        ] {
            assert!(shape.nth(0).is_none());
            assert_eq!(shape.walk(&mut dice(1)).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_walk_visits_every_index_once_and_no_walk_is_like_the_last() {
        for space in [0_u64, 1, 2, 3, 4, 6, 10, 97, 4_000, 9_000, 90_000, 900_000, MAX_WALK] {
            for seed in 0..if space > 10_000 { 2 } else { 20 } {
                let walk = Walk::over(space, &mut dice(seed)).unwrap();
                assert_eq!(walk.size_hint().1, usize::try_from(space).ok());
                let mut seen = vec![false; usize::try_from(space).unwrap()];
                for index in walk {
                    let seen = &mut seen[usize::try_from(index).unwrap()];
                    assert!(!*seen, "{index} of {space} comes twice");
                    *seen = true;
                }
                assert!(seen.iter().all(|s| *s), "{space}");
            }
        }
        assert_eq!(Walk::over(MAX_WALK + 1, &mut dice(0)).unwrap().count(), 0);
        let shape = shape(Scheme::Random, 16, "8+4", 0);
        let starts: HashSet<Vec<u64>> =
            (0..50).map(|seed| shape.walk(&mut dice(seed)).unwrap().take(3).collect()).collect();
        assert!(starts.len() > 45, "{}", starts.len());
        assert_eq!(shape.walk(&mut dice(7)).unwrap().filter_map(|n| shape.nth(n)).count(), 9_000);
    }

    #[test]
    fn a_draw_keeps_what_the_format_says_and_is_never_taken_for_a_card() {
        let mut dice = dice(2);
        for scheme in [Scheme::Random, Scheme::Mixed, Scheme::Opaque] {
            for (length, keep) in every_allowed() {
                for slots in [0, 5] {
                    let shape = shape(scheme, length, keep, slots);
                    assert_eq!((shape.scheme(), shape.length()), (scheme, length));
                    for _ in 0..200 {
                        let token = shape.draw(&mut dice).unwrap();
                        let text = token.as_str();
                        assert!(Token::parse(text).is_ok_and(|t| t.same_as(&token)));
                        assert!(!holds_card_number(text), "{text}");
                        if scheme == Scheme::Opaque {
                            assert!(shape.kept().is_empty() && text.starts_with("tok_"));
                            continue;
                        }
                        let mask = pan(length).mask(Keep::parse(keep).unwrap());
                        assert_eq!(text.len(), length);
                        assert!(text.starts_with(mask.first()) && text.ends_with(mask.last()), "{text}");
                        assert_eq!(shape.kept(), mask.kept());
                        let hidden = &text[mask.first().len()..length - mask.last().len()];
                        if scheme == Scheme::Mixed {
                            assert!(hidden.bytes().any(|b| b.is_ascii_lowercase()), "{text}");
                        } else {
                            assert!(luhn_sum(text.as_bytes()) > slots, "{text}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_token_of_a_space_is_drawn_about_as_often() {
        let mut dice = dice(3);
        for slots in [0, 5] {
            let shape = shape(Scheme::Random, 16, "8+4", slots);
            let cells = usize::try_from(shape.space()).unwrap();
            let mut drawn: HashMap<String, u32> = HashMap::new();
            for _ in 0..cells * 20 {
                *drawn.entry(shape.draw(&mut dice).unwrap().as_str().to_owned()).or_default() += 1;
            }
            assert_eq!(
                drawn.len(),
                cells,
                "at twenty draws each none is missed but one time in fifty thousand"
            );
            // Chi-square: mean cells - 1, variance twice that; five standard deviations either way.
            let square: f64 = drawn.values().map(|n| (f64::from(*n) - 20.0).powi(2) / 20.0).sum();
            let mean = f64::from(u32::try_from(cells - 1).unwrap());
            assert!((square - mean).abs() < 5.0 * (2.0 * mean).sqrt(), "{square} for {mean}");
        }
    }

    #[test]
    fn every_character_is_drawn_about_as_often_at_every_place() {
        let mut dice = dice(4);
        for (scheme, length, from, to, alphabet) in
            [(Scheme::Mixed, 16, 0, 16, 36_u32), (Scheme::Opaque, 16, 4, 26, 62)]
        {
            let shape = shape(scheme, length, "0+0", 0);
            let mut counts: HashMap<(usize, u8), u32> = HashMap::new();
            for _ in 0..alphabet * 200 {
                let token = shape.draw(&mut dice).unwrap();
                for (place, byte) in token.as_bytes().iter().enumerate().take(to).skip(from) {
                    *counts.entry((place, *byte)).or_default() += 1;
                }
            }
            assert_eq!(counts.len(), (to - from) * usize::try_from(alphabet).unwrap());
            // 200 expected, about 14 the standard deviation: six of them either way.
            assert!(counts.values().all(|n| (115..285).contains(n)), "{scheme}");
        }
    }

    #[test]
    fn without_randomness_there_is_no_token() {
        for scheme in [Scheme::Random, Scheme::Mixed, Scheme::Opaque] {
            let shape = shape(scheme, 16, "6+4", 0);
            assert_eq!(shape.draw(&mut |_| Err(NoRandomness)).map(|_| ()), Err(NoRandomness));
        }
        // Dice that always fall on zero spell digits only: no mixed token, and no endless search for one.
        let stuck = shape(Scheme::Mixed, 16, "6+4", 0).draw(&mut |_| Ok(0));
        assert_eq!(stuck.map(|_| ()), Err(NoRandomness));
        assert!(shape(Scheme::Random, 16, "8+4", 0).walk(&mut |_| Err(NoRandomness)).is_err());
    }

    proptest! {
        #[test]
        fn what_is_drawn_is_read_back(seed in any::<u64>(), which in 0..3_usize, length in 12..=19_usize) {
            let scheme = [Scheme::Random, Scheme::Mixed, Scheme::Opaque][which];
            let keep = Keep::default_for(length).to_string();
            let token = shape(scheme, length, &keep, 5).draw(&mut dice(seed)).unwrap();
            let read = Token::parse(token.as_str()).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(read.same_as(&token));
            prop_assert!(token.as_bytes().len() <= MAX_TOKEN);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,30}") {
            if let Ok(token) = Token::parse(&text) {
                prop_assert_eq!(token.as_str(), text);
            }
        }
    }
}
