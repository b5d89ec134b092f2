//! What a token format can do, worked out before anybody depends on it: a format never changes once it is in force.
//!
//! Pure: what is asked comes in as numbers, the answer goes out as numbers. Refused, with the reason and what would work:
//! formats that the vault would refuse, lengths and countries that they do not take, FF1 where NIST's domain is not there.

use std::fmt;

use serde::Serialize;

use crate::account::{MAX_ACCOUNT, RoutingNumber, UsAccount};
use crate::digits::DigitString;
use crate::email::Email;
use crate::free_bytes::FreeBytes;
use crate::guard::GUESSES_A_DAY;
use crate::iban::{Class, Country, Iban, remainder};
use crate::network_token::{Beside, NetworkToken};
use crate::pan::{Keep, Pan, keep_allowed};
use crate::pattern::Space;
use crate::payment_reference::PaymentReference;
use crate::phone::Phone;
use crate::table::Format;
use crate::token::{MAX_WALK, Reuse, Scheme};
use crate::value::Value;
use crate::words::Kind;

/// The fewest hidden digits that FF1 tokens need: one of them makes room for the slot, and six others are the million
/// inputs of NIST SP 800-38G Rev. 1, 5.
pub const FF1_HIDDEN: usize = crate::token::LEAST_FF1_HIDDEN;
/// The fewest guesses that are no warning: about what a principal may try of one cell in ten years.
pub const FEW_GUESSES: u128 = 20_000;
/// How many days ahead an exhausted space is no warning: ten years, longer than most cards and contracts live.
pub const FAR_DAYS: u128 = 3_650;

/// How tokens would be made: the schemes of a format, and FF1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// `random`.
    Random,
    /// `mixed`.
    Mixed,
    /// `opaque`.
    Opaque,
    /// Vaultless, by format-preserving encryption (NIST SP 800-38G, FF1).
    Ff1,
}

impl Method {
    /// Reads the word of a policy.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Random, Self::Mixed, Self::Opaque, Self::Ff1].into_iter().find(|m| m.as_str() == text)
    }

    /// The word of a policy.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Mixed => "mixed",
            Self::Opaque => "opaque",
            Self::Ff1 => "ff1",
        }
    }
}

impl From<Scheme> for Method {
    fn from(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Random => Self::Random,
            Scheme::Mixed => Self::Mixed,
            Scheme::Opaque => Self::Opaque,
            Scheme::Ff1 => Self::Ff1,
        }
    }
}

/// What is asked of a plan.
pub struct Asked<'a> {
    /// The format, as a policy would have it. Its `scheme` counts unless `method` is FF1.
    pub format: &'a Format,
    /// How tokens are made.
    pub method: Method,
    /// Characters of the values: digits of a card number, a network token or a number of digits, characters of an account
    /// number, digits of a telephone number behind its country code. Of other kinds it is not looked at.
    pub length: usize,
    /// Of IBANs: whose.
    pub country: Option<Country>,
    /// The characters that the space's tokens keep, where one space is meant and not any.
    pub kept: Kept<'a>,
    /// What the merchant's masks show of a card number of that length.
    pub mask: Keep,
    /// 0 or 5.
    pub ff1_slots: u8,
    /// Tokens that the space has given out, where it is known.
    pub used: Option<u64>,
    /// New tokens a day, over all spaces of the format.
    pub per_day: Option<u64>,
    /// Over how many BINs, banks or countries these are spread: 1 or more.
    pub groups: u64,
}

/// What all values have in common whose tokens come from one space.
#[derive(Clone, Copy, Default)]
pub struct Kept<'a> {
    /// The first characters: a card's first digits, a bank's routing number, a telephone number's country code.
    pub first: &'a str,
    /// The last digits of a card number, a network token or a number of digits.
    pub last: &'a str,
}

/// What a format can do with values of one length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Of what kind the values are.
    pub kind: Kind,
    /// How tokens are made.
    pub method: Method,
    /// As asked; zero where the kind has no length.
    pub length: usize,
    /// Tokens of one space: of all values that the same characters are kept of, such as one BIN and last four.
    pub tokens: Count,
    /// How many spaces there are for one group (a BIN, a bank, a country): 10,000 where the last four are kept.
    pub spaces: u64,
    /// Tokens of one space that are left.
    pub left: Option<Count>,
    /// The inputs of FF1, or why there can be none.
    pub ff1: Ff1,
    /// Values that a token and its mask leave possible: who may tokenize can try them one by one, if tokens are reused.
    /// None: as many as there are candidates on a list.
    pub guesses: Option<Count>,
    /// Days that one principal needs for all of them within the default guess budget. None: tokens are no oracle, or the
    /// number of candidates is not known.
    pub guess_days: Option<u128>,
    /// Days until the first space is used up at the volume asked for, if that is evenly spread. None: never.
    pub full_in_days: Option<u128>,
    /// Whether what a token stands for can be erased by data subject.
    pub erasable_by_subject: bool,
    /// What to think about first.
    pub warnings: Vec<Warning>,
}

/// A number of tokens or values, exact up to the largest that there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u128);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u128::MAX => f.write_str("more than 10^38"),
            large if large >= 1_000_000_000_000 => write!(f, "about 10^{}", large.ilog10()),
            exact => {
                let digits = exact.to_string();
                for (place, digit) in digits.chars().enumerate() {
                    if place > 0 && (digits.len() - place).is_multiple_of(3) {
                        f.write_str(",")?;
                    }
                    write!(f, "{digit}")?;
                }
                Ok(())
            }
        }
    }
}

impl Serialize for Count {
    /// As a decimal text: JSON's numbers end at 2^53.
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0.to_string())
    }
}

/// Whether FF1 is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "ff1")]
pub enum Ff1 {
    /// It is: so many inputs, all digits of the number but the kept ones and one.
    Allowed {
        /// 10^(h-1) for h hidden digits, at least a million.
        domain: Count,
    },
    /// It is not.
    Refused {
        /// Why.
        why: NoFf1,
    },
}

/// Why there can be no FF1 tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoFf1 {
    /// Only numbers with a check digit have room for a slot.
    Kind,
    /// Fewer than seven digits are hidden.
    TooFewHidden,
    /// The merchant has no slots, and never will: `ff1_slots` is fixed when it is made.
    NoSlots,
}

impl fmt::Display for NoFf1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "only card numbers and network tokens have a check digit that makes room for a slot",
            Self::TooFewHidden => {
                "fewer than 7 digits are hidden, and FF1 needs a million inputs (NIST SP 800-38G Rev. 1); keep less"
            }
            Self::NoSlots => "the merchant has no slots, and ff1_slots is fixed when it is made",
        })
    }
}

/// What to think about before a format is put in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Warning {
    /// A dictionary of candidates finds the value: see docs/methods.md.
    Dictionary,
    /// Few values share what the token shows.
    FewGuesses,
    /// The space is used up within ten years at the volume asked for.
    FullSoon,
    /// The space is so small that it is walked to its end.
    SmallSpace,
    /// Tokens pass the Luhn check: scanners and people take them for card numbers.
    PassesLuhn,
    /// Not erasable by data subject, without expiry of its own, and five slots are a merchant's whole life.
    Vaultless,
    /// Anybody with the merchant's keys can read these tokens without a store.
    NothingStored,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dictionary => {
                "whoever may tokenize finds the value with a list of candidates; consider mode = \"fresh\""
            }
            Self::FewGuesses => {
                "few values share what token and mask show; consider mode = \"fresh\", or keep less"
            }
            Self::FullSoon => {
                "the space is used up within ten years at this volume; keep less, or choose mixed"
            }
            Self::SmallSpace => "the space is small: near its end each token takes up to a million look-ups",
            Self::PassesLuhn => {
                "tokens pass the Luhn check: scanners and people will take them for card numbers"
            }
            Self::Vaultless => {
                "tokens cannot be erased by data subject, and a merchant has five slots for life"
            }
            Self::NothingStored => {
                "every string of the shape opens to some card number: never where people type tokens"
            }
        })
    }
}

/// Why a plan cannot work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unworkable {
    /// The vault would refuse the format: why.
    Format(String),
    /// The format takes no values of this length.
    Length(usize),
    /// Of IBANs the country is missing.
    Country,
    /// What is said to be kept are no digits, no bank or no country code.
    Kept,
    /// FF1 cannot be.
    Ff1(NoFf1),
    /// More are used than there are.
    Used,
}

impl fmt::Display for Unworkable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(why) => f.write_str(why),
            Self::Length(length) => write!(f, "the format takes no values of length {length}"),
            Self::Country => f.write_str("of IBANs the country must be named: their forms differ"),
            Self::Kept => f.write_str("what is kept must be digits, a routing number or a country code"),
            Self::Ff1(why) => why.fmt(f),
            Self::Used => f.write_str("more tokens are used than the space has"),
        }
    }
}

impl std::error::Error for Unworkable {}

/// Works out what a format can do.
pub fn plan(asked: &Asked<'_>) -> Result<Plan, Unworkable> {
    let format = asked.format;
    let built = match asked.method {
        // A format of FF1 tokens keeps and refuses what a random one does, and a little more.
        Method::Ff1 => Format { scheme: Scheme::Random, ..format.clone() }.build(),
        Method::Random | Method::Mixed | Method::Opaque => format.build(),
    };
    let built = built.map_err(Unworkable::Format)?;
    let sample = sample(format.kind, asked.length, asked.country, asked.kept)?;
    let keep = built.keep(asked.length).unwrap_or(Keep::NOTHING);
    let space = Space::of(&built, &sample, asked.ff1_slots).ok_or(Unworkable::Length(asked.length))?;
    let ff1 = ff1(asked, keep);
    let tokens = match (asked.method, ff1) {
        (Method::Ff1, Ff1::Refused { why }) => return Err(Unworkable::Ff1(why)),
        (Method::Ff1, Ff1::Allowed { domain }) => domain,
        (Method::Random | Method::Mixed | Method::Opaque, _) => Count(space.size()),
    };
    let used = u128::from(asked.used.unwrap_or(0));
    let left = tokens.0.checked_sub(used).ok_or(Unworkable::Used)?;
    let last_kept = match (asked.method, format.kind) {
        (Method::Opaque, _)
        | (_, Kind::Reference | Kind::Iban | Kind::UsAccount | Kind::Phone | Kind::Email | Kind::Bytes) => 0,
        (_, Kind::Card | Kind::NetworkToken) => keep.last(),
        (_, Kind::Digits) => built.digits_keep(asked.length).unwrap_or(0),
    };
    let spaces = 10_u64.pow(last_kept.into());
    let guesses = guesses(asked, keep);
    let mut plan = Plan {
        kind: format.kind,
        method: asked.method,
        length: if has_length(format.kind) { asked.length } else { 0 },
        tokens,
        spaces,
        left: asked.used.map(|_| Count(left)),
        ff1,
        guesses: guesses.map(Count),
        guess_days: guesses.filter(|_| is_oracle(asked)).map(|g| g.div_ceil(GUESSES_A_DAY as u128)),
        full_in_days: full_in_days(asked, left, spaces),
        erasable_by_subject: asked.method != Method::Ff1,
        warnings: Vec::new(),
    };
    plan.warnings = warnings(asked, &plan);
    Ok(plan)
}

/// Whether values of this kind have lengths of their own to plan for.
#[must_use]
pub fn has_length(kind: Kind) -> bool {
    match kind {
        Kind::Card | Kind::NetworkToken | Kind::UsAccount | Kind::Digits | Kind::Phone => true,
        Kind::Reference | Kind::Iban | Kind::Email | Kind::Bytes => false,
    }
}

fn is_oracle(asked: &Asked<'_>) -> bool {
    asked.method == Method::Ff1 || asked.format.mode == Reuse::Reuse
}

fn ff1(asked: &Asked<'_>, keep: Keep) -> Ff1 {
    let why = match asked.format.kind {
        Kind::Card | Kind::NetworkToken if asked.format.luhn_prefix.is_some() => NoFf1::Kind,
        Kind::Card | Kind::NetworkToken => {
            let hidden = keep.hidden(asked.length);
            if hidden < FF1_HIDDEN || keep_allowed(asked.length, keep).is_err() {
                NoFf1::TooFewHidden
            } else if asked.ff1_slots == 0 {
                NoFf1::NoSlots
            } else {
                let places = u32::try_from(hidden - 1).unwrap_or(0);
                return Ff1::Allowed { domain: Count(10_u128.pow(places)) };
            }
        }
        Kind::Reference
        | Kind::Iban
        | Kind::UsAccount
        | Kind::Digits
        | Kind::Phone
        | Kind::Email
        | Kind::Bytes => NoFf1::Kind,
    };
    Ff1::Refused { why }
}

/// How many values a token and its mask leave possible.
fn guesses(asked: &Asked<'_>, keep: Keep) -> Option<u128> {
    let tens = |digits: usize| 10_u128.saturating_pow(u32::try_from(digits).unwrap_or(u32::MAX));
    let length = asked.length;
    match asked.format.kind {
        Kind::Card | Kind::NetworkToken => {
            let kept = if asked.method == Method::Opaque { Keep::NOTHING } else { keep };
            let first = kept.first().max(asked.mask.first());
            let last = kept.last().max(asked.mask.last());
            // The check digit tells one of the hidden ones.
            Some(tens(length.saturating_sub(usize::from(first + last) + 1)))
        }
        Kind::Iban => {
            let places = asked.country.map(Country::places).unwrap_or_default();
            let hidden = places.len().saturating_sub(4);
            Some(places.iter().take(hidden).fold(1, |n, class: &Class| n.saturating_mul(class.size().into())))
        }
        Kind::UsAccount | Kind::Digits => Some(tens(if length >= 8 { length - 4 } else { length })),
        Kind::Phone => Some(tens(length.saturating_sub(2))),
        Kind::Reference | Kind::Email | Kind::Bytes => None,
    }
}

/// Days until a space is used up. FF1 tokens and opaque ones never are.
fn full_in_days(asked: &Asked<'_>, left: u128, spaces: u64) -> Option<u128> {
    let per_day = u128::from(asked.per_day?);
    match asked.method {
        Method::Ff1 | Method::Opaque => None,
        Method::Random | Method::Mixed if per_day == 0 => None,
        Method::Random | Method::Mixed => {
            let all = left.saturating_mul(spaces.into()).saturating_mul(asked.groups.max(1).into());
            Some(all / per_day)
        }
    }
}

fn warnings(asked: &Asked<'_>, plan: &Plan) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let dictionary = match asked.format.kind {
        Kind::Iban | Kind::UsAccount | Kind::Digits | Kind::Phone | Kind::Email => true,
        Kind::Card | Kind::NetworkToken | Kind::Reference | Kind::Bytes => false,
    };
    let oracle = is_oracle(asked);
    let few = plan.guesses.is_some_and(|guesses| guesses.0 < FEW_GUESSES);
    let vaultless = asked.method == Method::Ff1;
    let small = matches!(asked.method, Method::Random | Method::Mixed) && plan.tokens.0 <= MAX_WALK.into();
    for (warning, here) in [
        (Warning::Dictionary, oracle && dictionary),
        (Warning::FewGuesses, oracle && few),
        (Warning::FullSoon, plan.full_in_days.is_some_and(|days| days < FAR_DAYS)),
        (Warning::SmallSpace, small),
        (Warning::PassesLuhn, asked.format.luhn_prefix.is_some()),
        (Warning::Vaultless, vaultless),
        (Warning::NothingStored, vaultless),
    ] {
        if here {
            warnings.push(warning);
        }
    }
    warnings
}

/// A value of the kind and length that begins and ends so. It stands for all whose tokens come from the same space; of what
/// the space does not depend on, a country code or a bank, any will do.
pub fn sample(
    kind: Kind,
    length: usize,
    country: Option<Country>,
    kept: Kept<'_>,
) -> Result<Value, Unworkable> {
    let wrong = || Unworkable::Length(length);
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(kept.first) || !digits(kept.last) {
        return Err(Unworkable::Kept);
    }
    let zeros = |n: usize| vec![b'0'; n.min(64)];
    let fixed = kept.first.len() + kept.last.len() + 1;
    let between = zeros(length.saturating_sub(fixed));
    // The digit behind the first ones sets the sum right.
    let number = |set: u8| [kept.first.as_bytes(), &[set], &between, kept.last.as_bytes()].concat();
    let card = || (b'0'..=b'9').find_map(|set| Pan::parse(&number(set)).ok()).ok_or_else(wrong);
    let has_room = fixed <= length || !matches!(kind, Kind::Card | Kind::NetworkToken | Kind::Digits);
    if !has_room {
        return Err(wrong());
    }
    Ok(match kind {
        Kind::Card => Value::Card(card()?),
        Kind::NetworkToken => Value::NetworkToken(NetworkToken::new(card()?, Beside::default())),
        Kind::Reference => Value::Reference(PaymentReference::parse(b"r", None).map_err(|_| wrong())?),
        Kind::Iban => Value::Iban(sample_iban(country.ok_or(Unworkable::Country)?).ok_or_else(wrong)?),
        Kind::UsAccount => {
            let routing = if kept.first.is_empty() { "021000021" } else { kept.first };
            let routing = RoutingNumber::parse(routing.as_bytes()).map_err(|_| Unworkable::Kept)?;
            if length > MAX_ACCOUNT {
                return Err(wrong());
            }
            Value::UsAccount(UsAccount::parse(routing, &zeros(length)).map_err(|_| wrong())?)
        }
        Kind::Digits => Value::Digits(DigitString::parse(&number(b'0')).map_err(|_| wrong())?),
        Kind::Phone => {
            let code = if kept.first.is_empty() { "1" } else { kept.first };
            let text = [b"+", code.as_bytes(), &zeros(length)].concat();
            let phone = Phone::parse(&text).map_err(|_| wrong())?;
            if phone.country_code() != code.as_bytes() {
                return Err(Unworkable::Kept);
            }
            Value::Phone(phone)
        }
        Kind::Email => Value::Email(Email::parse(b"a@example.com").map_err(|_| wrong())?),
        Kind::Bytes => Value::Bytes(FreeBytes::parse(b"b").map_err(|_| wrong())?),
    })
}

fn sample_iban(country: Country) -> Option<Iban> {
    let mut text = [country.as_bytes().as_slice(), b"00"].concat();
    text.extend(country.places().into_iter().map(|class| if class == Class::Letter { b'A' } else { b'0' }));
    let check = 98_u32.checked_sub(remainder(&text))?;
    let digits = format!("{check:02}");
    text.iter_mut().skip(2).zip(digits.bytes()).for_each(|(to, digit)| *to = digit);
    Iban::parse(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::FormatName;
    use crate::token::{Scope, schemes_of};

    fn format(kind: Kind, scheme: Scheme, keep: &[(usize, &str)]) -> Format {
        Format {
            id: FormatName::parse("f").unwrap(),
            kind,
            scheme,
            mode: Reuse::Reuse,
            scope: Scope::Merchant,
            keep: keep.iter().map(|(n, k)| (n.to_string(), (*k).to_owned())).collect(),
            keep_domain: false,
            luhn_prefix: None,
        }
    }

    fn asked(format: &Format, method: Method, length: usize) -> Asked<'_> {
        Asked {
            format,
            method,
            length,
            country: Country::parse("DE"),
            kept: Kept::default(),
            mask: Keep::default_for(length),
            ff1_slots: 5,
            used: None,
            per_day: None,
            groups: 1,
        }
    }

    #[test]
    fn every_number_is_what_arithmetic_on_paper_says() {
        let cards = format(Kind::Card, Scheme::Random, &[(16, "6+4")]);
        let planned = plan(&Asked { used: Some(399_000), ..asked(&cards, Method::Random, 16) }).unwrap();
        assert_eq!(
            (planned.tokens, planned.left, planned.spaces),
            (Count(400_000), Some(Count(1_000)), 10_000)
        );
        // Six hidden digits, one of them the check digit's.
        assert_eq!((planned.guesses, planned.guess_days), (Some(Count(100_000)), Some(20_000)));
        assert_eq!(planned.ff1, Ff1::Refused { why: NoFf1::TooFewHidden });
        assert!(planned.erasable_by_subject && planned.warnings == [Warning::SmallSpace]);

        let without = plan(&Asked { ff1_slots: 0, ..asked(&cards, Method::Random, 16) }).unwrap();
        assert_eq!((without.tokens, without.left, without.full_in_days), (Count(900_000), None, None));

        // 400,000 tokens for each of 10,000 last fours of 20 BINs, a million a day.
        let busy = Asked { per_day: Some(1_000_000), groups: 20, ..asked(&cards, Method::Random, 16) };
        assert_eq!(plan(&busy).unwrap().full_in_days, Some(80_000));
        let busier = Asked { per_day: Some(1_000_000), ..asked(&cards, Method::Random, 16) };
        assert_eq!(plan(&busier).unwrap().full_in_days, Some(4_000));
        let busiest = Asked { per_day: Some(2_000_000), ..asked(&cards, Method::Random, 16) };
        assert!(plan(&busiest).unwrap().warnings.contains(&Warning::FullSoon));

        let tight = format(Kind::Card, Scheme::Mixed, &[(16, "8+4")]);
        let tight = plan(&asked(&tight, Method::Mixed, 16)).unwrap();
        assert_eq!((tight.tokens, tight.guesses), (Count(1_669_616), Some(Count(1_000))));
        assert!(tight.warnings.contains(&Warning::FewGuesses));
        let fresh = Format { mode: Reuse::Fresh, ..format(Kind::Card, Scheme::Mixed, &[(16, "8+4")]) };
        let fresh = plan(&asked(&fresh, Method::Mixed, 16)).unwrap();
        assert_eq!((fresh.guess_days, fresh.warnings), (None, vec![]));
    }

    #[test]
    fn ff1_is_allowed_exactly_where_seven_digits_are_hidden() {
        // Design section 6, word by word.
        let allowed = |length: usize| match length {
            12 => &["0+0", "0+4"][..],
            13 | 14 => &["0+0", "0+4", "6+0"],
            15 | 16 => &["0+0", "0+4", "6+0", "8+0"],
            _ => &["0+0", "0+4", "6+0", "8+0", "6+4"],
        };
        for length in 12..=19 {
            for keep in ["0+0", "0+4", "6+0", "6+4", "8+0", "8+4"] {
                let format = format(Kind::Card, Scheme::Random, &[(length, keep)]);
                match plan(&asked(&format, Method::Ff1, length)) {
                    Ok(plan) => {
                        assert!(allowed(length).contains(&keep), "{keep} at {length}");
                        let hidden = Keep::parse(keep).unwrap().hidden(length);
                        assert_eq!(plan.tokens.0, 10_u128.pow(u32::try_from(hidden - 1).unwrap()));
                        assert!(plan.tokens.0 >= 1_000_000 && !plan.erasable_by_subject);
                        assert!(plan.warnings.contains(&Warning::Vaultless));
                    }
                    Err(Unworkable::Ff1(NoFf1::TooFewHidden) | Unworkable::Format(_)) => {
                        assert!(!allowed(length).contains(&keep), "{keep} at {length}");
                    }
                    Err(other) => panic!("{keep} at {length}: {other}"),
                }
            }
        }
        let format = format(Kind::Card, Scheme::Random, &[(16, "0+4")]);
        let slotless = Asked { ff1_slots: 0, ..asked(&format, Method::Ff1, 16) };
        assert_eq!(plan(&slotless).err(), Some(Unworkable::Ff1(NoFf1::NoSlots)));
    }

    #[test]
    fn every_kind_has_a_plan_in_each_of_its_schemes_and_none_in_others() {
        for &kind in Kind::ALL {
            let length = if kind == Kind::Phone { 10 } else { 16 };
            for scheme in [Scheme::Random, Scheme::Mixed, Scheme::Opaque] {
                let keep = if matches!(kind, Kind::Card | Kind::NetworkToken | Kind::Digits) {
                    &[(16, "0+4")][..]
                } else {
                    &[]
                };
                let format = format(kind, scheme, keep);
                let planned = plan(&asked(&format, scheme.into(), length));
                assert_eq!(planned.is_ok(), schemes_of(kind).contains(&scheme), "{kind} {scheme}");
                let Ok(planned) = planned else { continue };
                assert_eq!(planned.length != 0, has_length(kind));
                assert!(planned.tokens.0 > 1_000_000 && planned.erasable_by_subject);
                assert_eq!(
                    planned.guesses.is_none(),
                    matches!(kind, Kind::Reference | Kind::Email | Kind::Bytes)
                );
                assert!(!matches!(planned.ff1, Ff1::Allowed { .. }) || kind.id() <= 2);
            }
            let format = format(kind, Scheme::Opaque, &[]);
            let vaultless = plan(&asked(&format, Method::Ff1, length));
            assert!(vaultless.is_err() || kind.id() <= 2, "{kind}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        let iban = format(Kind::Iban, Scheme::Random, &[]);
        let nowhere = Asked { country: None, ..asked(&iban, Method::Random, 0) };
        assert_eq!(plan(&nowhere).err(), Some(Unworkable::Country));
        let gifts = format(Kind::Digits, Scheme::Random, &[(16, "0+4")]);
        assert_eq!(plan(&asked(&gifts, Method::Random, 12)).err(), Some(Unworkable::Length(12)));
        assert_eq!(plan(&asked(&gifts, Method::Random, 5)).err(), Some(Unworkable::Length(5)));
        let phones = format(Kind::Phone, Scheme::Random, &[]);
        assert!(matches!(plan(&asked(&phones, Method::Random, 10)), Err(Unworkable::Format(_))));
        let cards = format(Kind::Card, Scheme::Random, &[(16, "8+4")]);
        let over = Asked { used: Some(4_001), ..asked(&cards, Method::Random, 16) };
        assert_eq!(plan(&over).err(), Some(Unworkable::Used));
        let kept = |first, last| Asked { kept: Kept { first, last }, ..asked(&cards, Method::Random, 16) };
        assert!(plan(&kept("41111111", "1111")).is_ok());
        for (first, last) in [("4111x", ""), ("", "11 1"), ("411111111", "11111111")] {
            assert!(plan(&kept(first, last)).is_err(), "{first} {last}");
        }
        let account = format(Kind::UsAccount, Scheme::Mixed, &[]);
        assert_eq!(plan(&asked(&account, Method::Mixed, 18)).err(), Some(Unworkable::Length(18)));
        for country in Country::all() {
            assert!(
                plan(&Asked { country: Some(country), ..asked(&iban, Method::Random, 0) }).is_ok(),
                "{country}"
            );
        }
    }

    #[test]
    fn a_count_is_exact_while_people_can_read_it() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (4_000, "4,000"),
            (1_669_616, "1,669,616"),
            (999_999_999_999, "999,999,999,999"),
            (1_000_000_000_000, "about 10^12"),
            (u128::MAX, "more than 10^38"),
        ] {
            assert_eq!(Count(count).to_string(), text);
        }
        assert_eq!(serde_json::to_string(&Count(u128::MAX)).unwrap().len(), 41);
    }
}
