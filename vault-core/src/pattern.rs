//! Tokens of other data than cards: what they look like place by place, how one is drawn, and how many there can be.
//!
//! Refused: a token that is an IBAN, digits that pass the Luhn check, and all-digit tokens of what has no check digit to
//! fail: an account or telephone number of digits alone could be somebody else's. The one exception is asked for by name:
//! card tokens that pass the Luhn check, inside a prefix that nobody issues (see [`LuhnPrefix`]).

use zeroize::Zeroizing;

use crate::iban::{self, Class, Iban};
use crate::network::Networks;
use crate::pan::{Pan, holds_card_number, luhn_sum};
use crate::random::NoRandomness;
use crate::token::{MAX_TOKEN, MAX_WALK, Scheme, Shape, Token, TokenFormat, Walk, opaque};
use crate::value::Value;
use crate::words::Kind;

/// The fewest characters behind the routing number in a token of an account: 36^8 of them, however short the number was.
pub const MIN_ACCOUNT_HIDDEN: usize = 8;
/// Characters in front of the `@` in a token of an address, behind the `t` that it begins with: 36^24 of them.
pub const EMAIL_HIDDEN: usize = 24;
/// The longest domain that a token of an address keeps, in bytes; one that is longer is refused by such a format.
pub const MAX_KEPT_DOMAIN: usize = 200;
/// The domain of tokens that keep none: no mail goes there (RFC 2606, 2).
pub const NO_DOMAIN: &str = "token.invalid";

/// Check digits of an IBAN are 02 to 98 (ISO 13616-1, 7): of these 97 one is right for each account.
const FIRST_CHECK: u64 = 2;
const CHECKS: u64 = 97;
const LETTERS_AND_DIGITS: u64 = 36;
/// How often characters are drawn again that make no token.
const MAX_ATTEMPTS: u32 = 64;

/// A prefix of 4 to 8 digits whose numbers nobody issues: it begins with `99`.
///
/// ISO/IEC 7812-1 gives numbers that begin with 9 to national standards bodies, each behind its three-digit country code
/// (ISO 3166-1). No country has a code from 900 on: these are left to users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LuhnPrefix {
    digits: [u8; Self::MOST],
    length: u8,
}

impl LuhnPrefix {
    /// The most digits of a prefix.
    const MOST: usize = 8;

    /// Reads 4 to 8 digits, 99 in front.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let bytes = text.as_bytes();
        if !(4..=Self::MOST).contains(&bytes.len()) || !bytes.iter().all(u8::is_ascii_digit) {
            return Err("must have 4 to 8 digits");
        }
        if !bytes.starts_with(b"99") {
            return Err("must begin with 99: ISO/IEC 7812-1 has no issuer there");
        }
        let mut digits = [0; Self::MOST];
        digits.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Ok(Self { digits, length: u8::try_from(bytes.len()).unwrap_or(0) })
    }

    /// The digits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.digits.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// Whether the operator's list of networks has numbers in it after all.
    #[must_use]
    pub fn is_issued(&self, networks: &Networks) -> bool {
        networks.any_within(std::str::from_utf8(self.as_bytes()).unwrap_or_default())
    }

    /// Whether a card number lies in it: then it is one of the tokens.
    #[must_use]
    pub fn holds(&self, pan: &Pan) -> bool {
        pan.expose_digits().starts_with(self.as_bytes())
    }
}

/// What stands at one place of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// This, kept of the value or the same in all tokens of the pattern.
    Kept(u8),
    /// One of a class, drawn.
    Drawn(Class),
    /// One of `0-9a-z`, drawn.
    Mixed,
}

/// What a token as a whole must be, or must not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Its Luhn sum is above this many: the sums up to it belong to vaultless tokens, and zero to card numbers.
    LuhnAbove(u8),
    /// Its Luhn sum is zero.
    LuhnRight,
    /// It is no IBAN.
    NoIban,
    /// A letter is among the mixed places, and no card number in it.
    WithLetter,
}

/// The space that tokens of one format and one look are drawn from: a place for each character.
///
/// It holds what the token itself will show, and no more of the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    kind: Kind,
    scheme: Scheme,
    places: Vec<Place>,
    rule: Rule,
}

/// Where a format's tokens of one value come from.
pub enum Space {
    /// Tokens of a card or network token that look like its number.
    Number(Shape),
    /// Tokens by a pattern.
    Pattern(Pattern),
    /// Tokens that tell nothing, of values of this kind.
    Opaque(Kind),
}

impl Space {
    /// The space of `value`'s tokens in this format. `ff1_slots` is how many Luhn sums, from 1 on, belong to the
    /// merchant's vaultless tokens and are never drawn here. `None`: the format takes no such value.
    #[must_use]
    pub fn of(format: &TokenFormat, value: &Value, ff1_slots: u8) -> Option<Self> {
        if value.kind() != format.kind() || ff1_slots > 8 {
            return None;
        }
        let pattern = match value {
            Value::Card(pan) => return Self::of_number(format, pan, ff1_slots),
            Value::NetworkToken(token) => return Self::of_number(format, token.number(), ff1_slots),
            Value::Digits(digits) => {
                let keep = format.digits_keep(digits.len())?;
                match format.scheme() {
                    Scheme::Opaque => return Some(Self::Opaque(Kind::Digits)),
                    scheme => Pattern::digits(scheme, digits.expose_digits(), keep.into(), ff1_slots)?,
                }
            }
            Value::Reference(_) | Value::Bytes(_) => return Some(Self::Opaque(value.kind())),
            Value::Iban(_) | Value::UsAccount(_) | Value::Phone(_) | Value::Email(_)
                if format.scheme() == Scheme::Opaque =>
            {
                return Some(Self::Opaque(value.kind()));
            }
            Value::Iban(iban) => Pattern::iban(iban),
            Value::UsAccount(account) => {
                let hidden = account.expose_number().len().max(MIN_ACCOUNT_HIDDEN);
                let front = [account.routing().as_bytes().as_slice(), b"-"].concat();
                Pattern::mixed(Kind::UsAccount, &front, hidden, b"")
            }
            Value::Phone(phone) => {
                let front = [b"+", phone.country_code()].concat();
                Pattern::mixed(Kind::Phone, &front, phone.national_digits(), b"")
            }
            Value::Email(email) => {
                let domain = if format.keeps_domain() { email.domain() } else { NO_DOMAIN };
                if domain.len() > MAX_KEPT_DOMAIN {
                    return None;
                }
                Pattern::mixed(Kind::Email, b"t", EMAIL_HIDDEN, format!("@{domain}").as_bytes())
            }
        };
        Some(Self::Pattern(pattern))
    }

    fn of_number(format: &TokenFormat, pan: &Pan, ff1_slots: u8) -> Option<Self> {
        match format.luhn_prefix() {
            None => Shape::of(format, pan, ff1_slots).map(Self::Number),
            Some(prefix) => Pattern::luhn_valid(format, prefix, pan).map(Self::Pattern),
        }
    }

    /// How many tokens there are; `u128::MAX` where they are more than that holds.
    #[must_use]
    pub fn size(&self) -> u128 {
        match self {
            Self::Number(shape) => shape.space(),
            Self::Pattern(pattern) => pattern.size(),
            Self::Opaque(_) => u128::MAX,
        }
    }

    /// Characters of its tokens; 0 of opaque ones, which are all of one length.
    #[must_use]
    pub fn length(&self) -> usize {
        match self {
            Self::Number(shape) if shape.scheme() != Scheme::Opaque => shape.length(),
            Self::Pattern(pattern) => pattern.places.len(),
            Self::Number(_) | Self::Opaque(_) => 0,
        }
    }

    /// Draws a token, each as likely as any other; `draw` as for [`Shape::draw`].
    pub fn draw(
        &self,
        draw: &mut impl FnMut(u64) -> Result<u64, NoRandomness>,
    ) -> Result<Token, NoRandomness> {
        match self {
            Self::Number(shape) => shape.draw(draw),
            Self::Pattern(pattern) => pattern.draw(draw),
            Self::Opaque(_) => opaque(draw),
        }
    }

    /// The token at `index`, a bijection from 0 to [`size`](Self::size) - 1, where that is at most [`MAX_WALK`].
    #[must_use]
    pub fn nth(&self, index: u64) -> Option<Token> {
        match self {
            Self::Number(shape) => shape.nth(index),
            Self::Pattern(pattern) => pattern.nth(index),
            Self::Opaque(_) => None,
        }
    }

    /// Every index of [`nth`](Self::nth) once, from a random one on; none where the space is too large to walk.
    pub fn walk(
        &self,
        draw: &mut impl FnMut(u64) -> Result<u64, NoRandomness>,
    ) -> Result<Walk, NoRandomness> {
        match self {
            Self::Number(shape) => shape.walk(draw),
            Self::Pattern(pattern) => pattern.walk(draw),
            Self::Opaque(_) => Walk::over(0, draw),
        }
    }
}

impl Pattern {
    /// Country, two check digits, and a BBAN of the country's form; never right modulo 97.
    fn iban(iban: &Iban) -> Self {
        let country = iban.country();
        let places = country.as_bytes().iter().map(|b| Place::Kept(*b));
        let checks = [Place::Drawn(Class::Digit); 2];
        let bban = country.places().into_iter().map(Place::Drawn);
        let places = places.chain(checks).chain(bban).collect();
        Self { kind: Kind::Iban, scheme: Scheme::Random, places, rule: Rule::NoIban }
    }

    /// Digits, as many as the number has, or letters among them; the last `keep` stay.
    fn digits(scheme: Scheme, digits: &[u8], keep: usize, slots: u8) -> Option<Self> {
        let (hidden, last) = digits.split_at_checked(digits.len().checked_sub(keep)?)?;
        match scheme {
            Scheme::Mixed => Some(Self::mixed(Kind::Digits, b"", hidden.len(), last)),
            Scheme::Random => {
                let places = hidden.iter().map(|_| Place::Drawn(Class::Digit));
                let places = places.chain(last.iter().map(|b| Place::Kept(*b))).collect();
                Some(Self { kind: Kind::Digits, scheme, places, rule: Rule::LuhnAbove(slots) })
            }
            // No slot serves other numbers than cards.
            Scheme::Opaque | Scheme::Ff1 => None,
        }
    }

    /// `front`, then `hidden` of `0-9a-z` with a letter among them, then `back`.
    fn mixed(kind: Kind, front: &[u8], hidden: usize, back: &[u8]) -> Self {
        let places = front.iter().map(|b| Place::Kept(*b));
        let places = places.chain(std::iter::repeat_n(Place::Mixed, hidden));
        let places = places.chain(back.iter().map(|b| Place::Kept(*b))).collect();
        Self { kind, scheme: Scheme::Mixed, places, rule: Rule::WithLetter }
    }

    /// The prefix, digits, and the last digits that the format keeps: right by Luhn. `None` where fewer than four are
    /// drawn, or the format takes no such number.
    fn luhn_valid(format: &TokenFormat, prefix: LuhnPrefix, pan: &Pan) -> Option<Self> {
        let keep = usize::from(format.keep(pan.len())?.last());
        let last = pan.expose_digits().get(pan.len().checked_sub(keep)?..)?;
        let hidden = pan.len().checked_sub(prefix.as_bytes().len() + keep).filter(|hidden| *hidden >= 4)?;
        let places = prefix.as_bytes().iter().map(|b| Place::Kept(*b));
        let places = places.chain(std::iter::repeat_n(Place::Drawn(Class::Digit), hidden));
        let places = places.chain(last.iter().map(|b| Place::Kept(*b))).collect();
        Some(Self { kind: format.kind(), scheme: Scheme::Random, places, rule: Rule::LuhnRight })
    }

    /// Of what kind of value.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How the tokens look.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// What all tokens of this pattern have in common, place by place: what is kept as it is, and `?` for what is drawn.
    #[must_use]
    pub fn outline(&self) -> Zeroizing<Vec<u8>> {
        let shown = |place: &Place| match place {
            Place::Kept(byte) => *byte,
            Place::Drawn(_) | Place::Mixed => b'?',
        };
        Zeroizing::new(self.places.iter().map(shown).collect())
    }

    fn drawn(&self) -> usize {
        self.places.iter().filter(|p| !matches!(p, Place::Kept(_))).count()
    }

    /// How many tokens there are, exactly; `u128::MAX` where they are more than that holds. With h places drawn: digits
    /// 10^(h-1) times the Luhn sums that are free; mixed 36^h - 10^h; IBANs 96 check digits for each BBAN.
    #[must_use]
    pub fn size(&self) -> u128 {
        let hidden = u32::try_from(self.drawn()).unwrap_or(u32::MAX);
        let tens = |n: u32| 10_u128.saturating_pow(n);
        match self.rule {
            Rule::LuhnAbove(slots) => {
                tens(hidden.saturating_sub(1)).saturating_mul(9_u128.saturating_sub(slots.into()))
            }
            Rule::LuhnRight => tens(hidden.saturating_sub(1)),
            Rule::WithLetter => {
                u128::from(LETTERS_AND_DIGITS).saturating_pow(hidden).saturating_sub(tens(hidden))
            }
            Rule::NoIban => self
                .bban()
                .fold(u128::from(CHECKS - 1), |size, class| size.saturating_mul(class.size().into())),
        }
    }

    fn bban(&self) -> impl Iterator<Item = Class> {
        let class = |place: &Place| match place {
            Place::Drawn(class) => Some(*class),
            Place::Kept(_) | Place::Mixed => None,
        };
        self.places.iter().skip(4).filter_map(class)
    }

    fn draw(&self, draw: &mut impl FnMut(u64) -> Result<u64, NoRandomness>) -> Result<Token, NoRandomness> {
        match self.rule {
            Rule::LuhnAbove(slots) => {
                let sums = u64::from(9_u8.saturating_sub(slots)).max(1);
                let sum = slots + 1 + u8::try_from(draw(sums)?).unwrap_or(0);
                Ok(self.with_sum(self.filled(draw)?, sum))
            }
            Rule::LuhnRight => Ok(self.with_sum(self.filled(draw)?, 0)),
            Rule::NoIban => {
                for _ in 0..MAX_ATTEMPTS {
                    let index = draw(CHECKS - 1)?;
                    let token = with_wrong_check(self.filled(draw)?, index);
                    // In many countries all that follows the letters are digits, one in ten of which pass the Luhn check.
                    if !holds(token.as_bytes()) {
                        return Ok(token);
                    }
                }
                Err(NoRandomness)
            }
            Rule::WithLetter => {
                for _ in 0..MAX_ATTEMPTS {
                    let text = self.filled(draw)?;
                    if self.has_letter(&text) && !holds(&text) {
                        return Ok(Token::made(text));
                    }
                }
                Err(NoRandomness)
            }
        }
    }

    fn nth(&self, index: u64) -> Option<Token> {
        let small = self.size() <= u128::from(MAX_WALK) && u128::from(index) < self.size();
        let (index, sum) = match self.rule {
            Rule::LuhnAbove(slots) => {
                let sums = u64::from(9_u8.saturating_sub(slots)).max(1);
                (index / sums, slots + 1 + u8::try_from(index % sums).unwrap_or(0))
            }
            Rule::LuhnRight => (index, 0),
            // None of these is so small.
            Rule::WithLetter | Rule::NoIban => return None,
        };
        if !small {
            return None;
        }
        let mut left = index;
        let spelled = self.filled(&mut |bound| {
            let digit = left % bound;
            left /= bound;
            Ok(digit)
        });
        spelled.ok().map(|text| self.with_sum(text, sum))
    }

    fn walk(&self, draw: &mut impl FnMut(u64) -> Result<u64, NoRandomness>) -> Result<Walk, NoRandomness> {
        let walked = match self.rule {
            Rule::LuhnAbove(_) | Rule::LuhnRight => u64::try_from(self.size()).unwrap_or(u64::MAX),
            Rule::WithLetter | Rule::NoIban => 0,
        };
        Walk::over(if walked <= MAX_WALK { walked } else { 0 }, draw)
    }

    /// Every place filled, those that are drawn by `draw`; the first one drawn is the last one asked for.
    fn filled(
        &self,
        draw: &mut impl FnMut(u64) -> Result<u64, NoRandomness>,
    ) -> Result<Zeroizing<Vec<u8>>, NoRandomness> {
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_TOKEN));
        for place in &self.places {
            text.push(match place {
                Place::Kept(byte) => *byte,
                Place::Drawn(class) => character(*class, draw(class.size())?),
                Place::Mixed => match character(Class::Either, draw(LETTERS_AND_DIGITS)?) {
                    letter @ b'A'..=b'Z' => letter.to_ascii_lowercase(),
                    digit => digit,
                },
            });
        }
        Ok(text)
    }

    /// The text with its last drawn digit set so that the whole has this Luhn sum. What that digit was is lost: so all
    /// sums have equally many texts.
    fn with_sum(&self, mut text: Zeroizing<Vec<u8>>, sum: u8) -> Token {
        if let Some(at) = self.places.iter().rposition(|place| matches!(place, Place::Drawn(_))) {
            // None or four digits follow, so this one counts once, and adding to it adds as much to the sum.
            if let Some(digit) = text.get_mut(at) {
                *digit = b'0';
            }
            let missing = (10 + sum - luhn_sum(&text)) % 10;
            if let Some(digit) = text.get_mut(at) {
                *digit += missing;
            }
        }
        Token::made(text)
    }

    fn has_letter(&self, text: &[u8]) -> bool {
        self.places.iter().zip(text).any(|(place, byte)| *place == Place::Mixed && byte.is_ascii_lowercase())
    }
}

/// The text with check digits of 02 to 98 that are wrong: the one at `index`, 0 to 95, of the 96 that are.
fn with_wrong_check(mut text: Zeroizing<Vec<u8>>, index: u64) -> Token {
    put_check(&mut text, 0);
    // With 98 less what the number leaves with check digits 00, it leaves 1 (ISO 13616-1, 7).
    let right = u64::from(98_u32.saturating_sub(iban::remainder(&text)));
    let check = FIRST_CHECK + index;
    put_check(&mut text, if check >= right { check + 1 } else { check });
    Token::made(text)
}

fn put_check(text: &mut [u8], check: u64) {
    let digits = [check / 10, check % 10].map(|d| character(Class::Digit, d));
    text.iter_mut().skip(2).zip(digits).for_each(|(to, digit)| *to = digit);
}

fn holds(text: &[u8]) -> bool {
    holds_card_number(std::str::from_utf8(text).unwrap_or_default())
}

/// The character of a class at `index`, below the class's size.
fn character(class: Class, index: u64) -> u8 {
    let index = u8::try_from(index).unwrap_or(0);
    match (class, index) {
        (Class::Letter, n) => b'A' + n.min(25),
        (Class::Either, n @ 10..) => b'A' + (n - 10).min(25),
        (Class::Digit | Class::Either, n) => b'0' + n.min(9),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::account::{RoutingNumber, UsAccount};
    use crate::digits::DigitString;
    use crate::email::Email;
    use crate::iban::Country;
    use crate::pan::{Keep, luhn_valid};
    use crate::phone::Phone;
    use crate::token::{Reuse, Scope, schemes_of};
    use crate::value::tests::one_of_each;

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

    fn format(kind: Kind, scheme: Scheme, digits: &[(usize, u8)], domain: bool) -> TokenFormat {
        match kind {
            Kind::Card | Kind::NetworkToken => {
                let keeps: Vec<_> = (12..=19).map(|n| (n, Keep::default_for(n))).collect();
                let cards = TokenFormat::new(scheme, Reuse::Reuse, Scope::Merchant, &keeps).unwrap();
                if kind == Kind::Card { cards } else { cards.for_network_tokens() }
            }
            _ => TokenFormat::of_kind(kind, scheme, Reuse::Reuse, Scope::Merchant, digits, domain).unwrap(),
        }
    }

    fn digits(number: &str) -> Value {
        Value::Digits(DigitString::parse(number.as_bytes()).map_err(|e| e.to_string()).unwrap())
    }

    fn draws(space: &Space, count: usize) -> Vec<String> {
        let mut dice = dice(7);
        (0..count).map(|_| space.draw(&mut dice).unwrap().as_str().to_owned()).collect()
    }

    #[test]
    fn an_ibans_token_whose_digits_would_be_a_card_number_is_drawn_again() {
        // All digits behind the country: sixteen of them, one in ten of which pass the Luhn check.
        let value = Value::Iban(Iban::parse(b"FI2112345600000785").unwrap_or_else(|e| panic!("{e}")));
        let space = Space::of(&format(Kind::Iban, Scheme::Random, &[], false), &value, 0).unwrap();
        let tokens = draws(&space, 500);
        assert!(tokens.len() > 400 && tokens.iter().all(|token| !holds_card_number(token)));
    }

    #[test]
    fn every_kind_has_tokens_of_its_schemes_that_are_read_back_and_are_neither_card_nor_iban() {
        for value in one_of_each() {
            for &scheme in schemes_of(value.kind()).iter().filter(|s| **s != Scheme::Ff1) {
                let lengths = [(16, 4)];
                let lengths = if value.kind() == Kind::Digits { &lengths[..] } else { &[] };
                let format = format(value.kind(), scheme, lengths, false);
                for slots in [0, 5] {
                    let space = Space::of(&format, &value, slots).unwrap();
                    let tokens = draws(&space, 300);
                    for token in &tokens {
                        assert!(Token::parse(token).is_ok_and(|t| t.as_str() == token), "{token}");
                        assert!(!holds_card_number(token), "{token}");
                        assert!(
                            Iban::parse(token.as_bytes()).is_err() && Phone::parse(token.as_bytes()).is_err()
                        );
                        assert!(token.len() <= MAX_TOKEN);
                    }
                    assert!(tokens.iter().collect::<HashSet<_>>().len() > 290, "{} {scheme}", value.kind());
                    assert!(space.size() > 100_000);
                }
            }
        }
    }

    #[test]
    fn a_format_makes_tokens_of_its_own_kind_only() {
        for value in one_of_each() {
            for &kind in Kind::ALL {
                let lengths = [(16, 4)];
                let lengths = if kind == Kind::Digits { &lengths[..] } else { &[] };
                let made = Space::of(&format(kind, Scheme::Opaque, lengths, false), &value, 0);
                assert_eq!(made.is_some(), kind == value.kind(), "{kind} of {}", value.kind());
            }
        }
    }

    #[test]
    fn tokens_keep_what_their_kind_says() {
        let first =
            |value: &Value, format: &TokenFormat| draws(&Space::of(format, value, 0).unwrap(), 1).remove(0);
        let iban = Value::Iban(Iban::parse(b"GB29NWBK60161331926819").ok().unwrap());
        let token = first(&iban, &format(Kind::Iban, Scheme::Random, &[], false));
        let (check, bban) = token[2..].split_at(2);
        assert!(token.starts_with("GB") && check.parse::<u8>().is_ok_and(|c| (2..=98).contains(&c)));
        let places = Country::parse("GB").unwrap().places();
        assert!(bban.len() == 18 && bban.bytes().zip(places).all(|(b, class)| class.takes(b)));

        let bank = RoutingNumber::parse(b"021000021").unwrap();
        for (number, hidden) in [("1", 8), ("123456789", 9), ("12345678901234567", 17)] {
            let account = Value::UsAccount(UsAccount::parse(bank, number.as_bytes()).ok().unwrap());
            let token = first(&account, &format(Kind::UsAccount, Scheme::Mixed, &[], false));
            assert!(token.starts_with("021000021-") && token.len() == 10 + hidden, "{token}");
        }
        let phone = Value::Phone(Phone::parse(b"+353 1 234 5678").ok().unwrap());
        let token = first(&phone, &format(Kind::Phone, Scheme::Mixed, &[], false));
        assert!(token.starts_with("+353") && token.len() == 12, "{token}");

        let email = Value::Email(Email::parse(b"ada@example.com").ok().unwrap());
        for (keeps, end) in [(false, "@token.invalid"), (true, "@example.com")] {
            let token = first(&email, &format(Kind::Email, Scheme::Mixed, &[], keeps));
            assert!(token.starts_with('t') && token.ends_with(end) && !token.contains("ada"), "{token}");
        }
        let far =
            Value::Email(Email::parse(format!("a@{}example", "b.".repeat(100)).as_bytes()).ok().unwrap());
        assert!(Space::of(&format(Kind::Email, Scheme::Mixed, &[], true), &far, 0).is_none());
        assert!(Space::of(&format(Kind::Email, Scheme::Mixed, &[], false), &far, 0).is_some());

        let kept = format(Kind::Digits, Scheme::Random, &[(16, 4), (8, 0)], false);
        let token = first(&digits("6006491234567890"), &kept);
        assert!(token.len() == 16 && token.ends_with("7890") && !luhn_valid(token.as_bytes()));
        assert!(first(&digits("12345678"), &kept).len() == 8);
        assert!(Space::of(&kept, &digits("123456789"), 0).is_none());
    }

    #[test]
    fn a_space_is_as_large_as_it_says_and_a_small_one_is_numbered_without_gap_or_double() {
        for (number, keep, slots, size) in [
            ("123456", 0, 0, 900_000),
            ("123456", 0, 5, 400_000),
            ("12345678", 4, 0, 9_000),
            ("12345678", 4, 5, 4_000),
        ] {
            let format = format(Kind::Digits, Scheme::Random, &[(number.len(), keep)], false);
            let space = Space::of(&format, &digits(number), slots).unwrap();
            assert_eq!(space.size(), size);
            let size = u64::try_from(size).unwrap();
            let mut seen = HashSet::new();
            for index in 0..size {
                let token = space.nth(index).unwrap();
                assert!(luhn_sum(token.as_bytes()) > slots);
                assert!(seen.insert(token.as_str().to_owned()), "{index} comes twice");
            }
            assert!(space.nth(size).is_none());
            assert_eq!(space.walk(&mut dice(1)).unwrap().count(), usize::try_from(size).unwrap());
        }
        let iban = |text: &[u8]| Value::Iban(Iban::parse(text).ok().unwrap());
        let size = |value: &Value, kind, scheme| {
            Space::of(&format(kind, scheme, &[], false), value, 0).unwrap().size()
        };
        assert_eq!(size(&iban(b"NO9386011117947"), Kind::Iban, Scheme::Random), 96 * 10_u128.pow(11));
        assert_eq!(
            size(&iban(b"GB29NWBK60161331926819"), Kind::Iban, Scheme::Random),
            96 * 26_u128.pow(4) * 10_u128.pow(14)
        );
        let phone = Value::Phone(Phone::parse(b"+2904321").ok().unwrap());
        assert_eq!(size(&phone, Kind::Phone, Scheme::Mixed), 36_u128.pow(4) - 10_u128.pow(4));
    }

    #[test]
    fn of_each_account_number_every_wrong_check_is_drawn_and_the_right_one_never() {
        let mut checks = HashSet::new();
        for index in 0..96 {
            let text = Zeroizing::new(b"NO0086011117947".to_vec());
            let token = with_wrong_check(text, index);
            assert!(Iban::parse(token.as_bytes()).is_err() && Token::parse(token.as_str()).is_ok());
            checks.insert(token.as_str()[2..4].parse::<u8>().unwrap());
        }
        assert!(checks.len() == 96 && checks.iter().all(|c| (2..=98).contains(c) && *c != 93));
    }

    #[test]
    fn tokens_inside_a_prefix_that_nobody_issues_pass_the_luhn_check_and_keep_the_last_four() {
        let networks = Networks::builtin();
        for (bad, why) in
            [("411111", "99"), ("9792", "99"), ("990", "4 to 8"), ("990000000", "4 to 8"), ("99x0", "4 to 8")]
        {
            assert!(LuhnPrefix::parse(bad).unwrap_err().contains(why), "{bad}");
        }
        let prefix = LuhnPrefix::parse("990001").unwrap();
        assert!(!prefix.is_issued(&networks));
        let taken = "version = 1\n[[network]]\nid = \"x\"\nname = \"X\"\nranges = [{ prefixes = [\"9900\"], lengths = [\"16\"] }]";
        assert!(prefix.is_issued(&Networks::parse(taken).unwrap()));
        let cards = |keep: &str| {
            let keeps = [(16, Keep::parse(keep).unwrap())];
            TokenFormat::new(Scheme::Random, Reuse::Reuse, Scope::Merchant, &keeps).unwrap()
        };
        assert!(cards("6+4").inside(prefix).is_err());
        let card = || Pan::parse(b"4111111111111111").ok().unwrap();
        let space = Space::of(&cards("0+4").inside(prefix).unwrap(), &Value::Card(card()), 5).unwrap();
        assert_eq!(space.size(), 100_000);
        for token in draws(&space, 200) {
            assert!(token.starts_with("990001") && token.ends_with("1111") && luhn_valid(token.as_bytes()));
            assert!(
                Token::parse(&token).is_ok() && prefix.holds(&Pan::parse(token.as_bytes()).ok().unwrap())
            );
        }
        assert!(!prefix.holds(&card()));
        let all: HashSet<String> = (0..100_000).map(|n| space.nth(n).unwrap().as_str().to_owned()).collect();
        assert_eq!(all.len(), 100_000);
    }

    #[test]
    fn without_randomness_there_is_no_token() {
        for value in one_of_each() {
            for &scheme in schemes_of(value.kind()).iter().filter(|s| **s != Scheme::Ff1) {
                let lengths = if value.kind() == Kind::Digits { &[(16, 4)][..] } else { &[] };
                let space = Space::of(&format(value.kind(), scheme, lengths, false), &value, 0).unwrap();
                assert!(space.draw(&mut |_| Err(NoRandomness)).is_err());
            }
        }
        // Dice that always fall on zero spell digits only: no mixed token, and no endless search for one.
        let phone = Value::Phone(Phone::parse(b"+2904321").ok().unwrap());
        let space = Space::of(&format(Kind::Phone, Scheme::Mixed, &[], false), &phone, 0).unwrap();
        assert!(space.draw(&mut |_| Ok(0)).is_err());
    }
}
