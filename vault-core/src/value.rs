//! What is kept under a token: a card number, or another thing that a payment is made with.
//!
//! One type for all, so that one way leads in and one way out. Refused: a sealed value of another kind or form than its
//! row says. A [`Value`] has no Debug, Display, Clone, `PartialEq` or Serialize.

use zeroize::Zeroizing;

use crate::account::{ROUTING_DIGITS, RoutingNumber, UsAccount};
use crate::codec::{Reader, Torn, Writer};
use crate::digits::DigitString;
use crate::email::Email;
use crate::free_bytes::{FreeBytes, MAX_FREE_BYTES};
use crate::iban::Iban;
use crate::mask::{Ends, Mask};
use crate::network::{Networks, holds_issued_card};
use crate::network_token::NetworkToken;
use crate::pan::{Keep, MIN_DIGITS, MaskedPan, PADDED, Pan};
use crate::payment_reference::PaymentReference;
use crate::phone::Phone;
use crate::words::Kind;

/// What other values than card numbers are padded to a multiple of before they are sealed, in bytes: so that a
/// ciphertext's length tells little.
pub const VALUE_BUCKET: usize = 64;

/// The fewest digits of a card number that is looked for in a telephone number. Those of 12 and 13 digits are common, and
/// no network issues cards that short any more; one of 16 and more is no telephone number.
const SHORTEST_IN_PHONE: usize = 14;
/// The fewest digits of a card number that is looked for in an account number, for the same reason.
const SHORTEST_IN_ACCOUNT: usize = 15;

/// What is kept under a token.
pub enum Value {
    /// A card number.
    Card(Pan),
    /// A network token.
    NetworkToken(NetworkToken),
    /// A processor's reference.
    Reference(PaymentReference),
    /// An international bank account number.
    Iban(Iban),
    /// A bank account of the United States.
    UsAccount(UsAccount),
    /// A number of digits alone.
    Digits(DigitString),
    /// A telephone number.
    Phone(Phone),
    /// An electronic mail address.
    Email(Email),
    /// Bytes.
    Bytes(FreeBytes),
}

impl From<Pan> for Value {
    fn from(pan: Pan) -> Self {
        Self::Card(pan)
    }
}

impl Value {
    /// Of what kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Card(_) => Kind::Card,
            Self::NetworkToken(_) => Kind::NetworkToken,
            Self::Reference(_) => Kind::Reference,
            Self::Iban(_) => Kind::Iban,
            Self::UsAccount(_) => Kind::UsAccount,
            Self::Digits(_) => Kind::Digits,
            Self::Phone(_) => Kind::Phone,
            Self::Email(_) => Kind::Email,
            Self::Bytes(_) => Kind::Bytes,
        }
    }

    /// The number of a card or network token.
    #[must_use]
    pub fn number(&self) -> Option<&Pan> {
        match self {
            Self::Card(pan) => Some(pan),
            Self::NetworkToken(token) => Some(token.number()),
            Self::Reference(_)
            | Self::Iban(_)
            | Self::UsAccount(_)
            | Self::Digits(_)
            | Self::Phone(_)
            | Self::Email(_)
            | Self::Bytes(_) => None,
        }
    }

    /// What makes it the same value as another of its kind: for a MAC. Of a card and a network token the digits; of a
    /// reference the processor's text; of an account routing number and account number; of all else the text as it is
    /// kept.
    #[must_use]
    pub fn expose_identity(&self) -> Zeroizing<Vec<u8>> {
        let bytes = match self {
            Self::Card(pan) => pan.expose_digits(),
            Self::NetworkToken(token) => token.number().expose_digits(),
            Self::Reference(reference) => reference.expose_text(),
            Self::UsAccount(account) => return joined(account),
            Self::Iban(iban) => iban.expose_text(),
            Self::Digits(digits) => digits.expose_digits(),
            Self::Phone(phone) => phone.expose_text(),
            Self::Email(email) => email.expose_text(),
            Self::Bytes(bytes) => bytes.expose_bytes(),
        };
        Zeroizing::new(bytes.to_vec())
    }

    /// What is sealed: of a card its 19 padded bytes; of all else `e(bytes)` and zeros up to a multiple of
    /// [`VALUE_BUCKET`], the bytes being the identity, for a network token and a reference with what stands beside it.
    #[must_use]
    pub fn expose_padded(&self) -> Zeroizing<Vec<u8>> {
        let bytes = match self {
            Self::Card(pan) => return Zeroizing::new(pan.padded().to_vec()),
            Self::NetworkToken(token) => token.expose_encoded(),
            Self::Reference(reference) => reference.expose_encoded(),
            Self::Iban(_)
            | Self::UsAccount(_)
            | Self::Digits(_)
            | Self::Phone(_)
            | Self::Email(_)
            | Self::Bytes(_) => self.expose_identity(),
        };
        let whole = (2 + bytes.len()).next_multiple_of(VALUE_BUCKET);
        let mut padded = Zeroizing::new(Writer::with_capacity(whole).e(&bytes).done());
        padded.resize(whole, 0);
        padded
    }

    /// Reads what [`expose_padded`](Self::expose_padded) gave for a value of this kind, by the rules of the door.
    pub fn from_padded(kind: Kind, padded: &[u8]) -> Result<Self, Torn> {
        if kind == Kind::Card {
            return Pan::from_padded(padded).map(Self::Card).map_err(|_| Torn);
        }
        let mut r = Reader::new(padded);
        let bytes = r.e()?;
        let fill = r.rest();
        if fill.len() >= VALUE_BUCKET
            || !padded.len().is_multiple_of(VALUE_BUCKET)
            || fill.iter().any(|b| *b != 0)
        {
            return Err(Torn);
        }
        Ok(match kind {
            Kind::Card => return Err(Torn),
            Kind::NetworkToken => Self::NetworkToken(NetworkToken::decode(bytes)?),
            Kind::Reference => Self::Reference(PaymentReference::decode(bytes)?),
            Kind::Iban => Self::Iban(Iban::parse(bytes).map_err(|_| Torn)?),
            Kind::UsAccount => {
                let (routing, number) = bytes.split_at_checked(ROUTING_DIGITS).ok_or(Torn)?;
                let routing = RoutingNumber::parse(routing).map_err(|_| Torn)?;
                Self::UsAccount(UsAccount::parse(routing, number).map_err(|_| Torn)?)
            }
            Kind::Digits => Self::Digits(DigitString::parse(bytes).map_err(|_| Torn)?),
            Kind::Phone => Self::Phone(Phone::parse(bytes).map_err(|_| Torn)?),
            Kind::Email => Self::Email(Email::parse(bytes).map_err(|_| Torn)?),
            Kind::Bytes => Self::Bytes(FreeBytes::parse(bytes).map_err(|_| Torn)?),
        })
    }

    /// What may be shown of it. `keep` is what the merchant shows of a card number of that many digits.
    #[must_use]
    pub fn mask(&self, keep: impl Fn(usize) -> Keep) -> Mask {
        match self {
            Self::Card(pan) => Mask::Card(pan.mask(keep(pan.len()))),
            Self::NetworkToken(token) => {
                let number = token.number();
                Mask::NetworkToken(number.mask(keep(number.len())), *token.beside())
            }
            Self::Reference(reference) => Mask::Reference(reference.par().copied()),
            Self::Iban(iban) => {
                let (country, last) = (iban.country(), iban.last_four());
                Mask::Ends(Ends::new(Kind::Iban, country.as_bytes(), iban.len() - 2 - last.len(), last))
            }
            Self::UsAccount(account) => {
                let front = [account.routing().as_bytes().as_slice(), b"-"].concat();
                let (hidden, last) = last_four_of(account.expose_number());
                Mask::Ends(Ends::new(Kind::UsAccount, &front, hidden, last))
            }
            Self::Digits(digits) => {
                let (hidden, last) = last_four_of(digits.expose_digits());
                Mask::Ends(Ends::new(Kind::Digits, &[], hidden, last))
            }
            Self::Phone(phone) => {
                let front = [b"+", phone.country_code()].concat();
                Mask::Ends(Ends::new(
                    Kind::Phone,
                    &front,
                    phone.national_digits().saturating_sub(2),
                    phone.last(2),
                ))
            }
            Self::Email(email) => {
                Mask::Ends(Ends::untold(Kind::Email, format!("@{}", email.domain()).as_bytes()))
            }
            Self::Bytes(_) => Mask::Ends(Ends::untold(Kind::Bytes, b"")),
        }
    }

    /// Whether `mask` is this value's, as it was made when it came in.
    #[must_use]
    pub fn has(&self, mask: &Mask) -> bool {
        // A mask keeps what its merchant showed then: the value is masked anew by the mask's own keep.
        self.mask(|length| mask.number().map_or(Keep::default_for(length), MaskedPan::keep)) == *mask
    }

    /// Whether a card number stands in a value that is none. A network token looks like one and is none, and an IBAN
    /// proves by its own check digits what it is; the others are searched (see [`holds_issued_card`]).
    #[must_use]
    pub fn smuggles_card(&self, networks: &Networks) -> bool {
        let (bytes, shortest) = match self {
            Self::Card(_) | Self::NetworkToken(_) | Self::Iban(_) => return false,
            Self::Reference(reference) => (reference.expose_text(), MIN_DIGITS),
            Self::UsAccount(account) => (account.expose_number(), SHORTEST_IN_ACCOUNT),
            Self::Digits(digits) => (digits.expose_digits(), MIN_DIGITS),
            Self::Phone(phone) => (phone.expose_text(), SHORTEST_IN_PHONE),
            Self::Email(email) => (email.expose_text(), MIN_DIGITS),
            Self::Bytes(bytes) => (bytes.expose_bytes(), MIN_DIGITS),
        };
        holds_issued_card(bytes, shortest, networks)
    }
}

/// How many bytes a padded value of this kind may have, before it is sealed.
#[must_use]
pub fn padded_length_allowed(kind: Kind, length: usize) -> bool {
    match kind {
        Kind::Card => length == PADDED,
        Kind::NetworkToken
        | Kind::Reference
        | Kind::Iban
        | Kind::UsAccount
        | Kind::Digits
        | Kind::Phone
        | Kind::Email
        | Kind::Bytes => {
            length > 0
                && length.is_multiple_of(VALUE_BUCKET)
                && length <= (2 + MAX_FREE_BYTES).next_multiple_of(VALUE_BUCKET)
        }
    }
}

/// The last four characters, and how many stand before them; none where fewer than four would stay hidden.
fn last_four_of(text: &[u8]) -> (usize, &[u8]) {
    match text.len().checked_sub(4).filter(|hidden| *hidden >= 4) {
        None => (text.len(), &[]),
        Some(hidden) => (hidden, text.get(hidden..).unwrap_or_default()),
    }
}

fn joined(account: &UsAccount) -> Zeroizing<Vec<u8>> {
    let number = account.expose_number();
    let mut joined = Zeroizing::new(Vec::with_capacity(ROUTING_DIGITS + number.len()));
    joined.extend_from_slice(account.routing().as_bytes());
    joined.extend_from_slice(number);
    joined
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::network_token::Beside;
    use crate::par::Par;

    fn told<T>(result: Result<T, impl std::fmt::Display>) -> T {
        result.map_err(|e| e.to_string()).unwrap()
    }

    /// One value of each kind.
    pub(crate) fn one_of_each() -> Vec<Value> {
        let par = told(Par::parse("V0010013019326471230984710234"));
        let beside = told(Beside::parse("40010030273", "4242", Some(par)));
        let routing = told(RoutingNumber::parse(b"021000021"));
        vec![
            Value::Card(told(Pan::parse(b"4111111111111111"))),
            Value::NetworkToken(NetworkToken::new(told(Pan::parse(b"4895370012003478")), beside)),
            Value::Reference(told(PaymentReference::parse(b"8535296650153317", Some(par)))),
            Value::Iban(told(Iban::parse(b"DE89370400440532013000"))),
            Value::UsAccount(told(UsAccount::parse(routing, b"000123456789"))),
            Value::Digits(told(DigitString::parse(b"6006491234567890"))),
            Value::Phone(told(Phone::parse(b"+4915123456789"))),
            Value::Email(told(Email::parse(b"ada@example.com"))),
            Value::Bytes(told(FreeBytes::parse(&[0xff; 130]))),
        ]
    }

    #[test]
    fn there_is_one_of_each_kind() {
        let kinds: Vec<Kind> = one_of_each().iter().map(Value::kind).collect();
        assert_eq!(kinds, Kind::ALL);
    }

    #[test]
    fn a_value_is_read_back_as_its_own_kind_and_as_no_other() {
        for value in one_of_each() {
            let padded = value.expose_padded();
            assert!(padded_length_allowed(value.kind(), padded.len()));
            let Ok(back) = Value::from_padded(value.kind(), &padded) else { panic!("{}", value.kind()) };
            assert!(back.expose_identity() == value.expose_identity() && back.expose_padded() == padded);
            assert!(back.mask(Keep::default_for) == value.mask(Keep::default_for));
            for cut in 0..padded.len() {
                assert!(Value::from_padded(value.kind(), &padded[..cut]).is_err(), "{} {cut}", value.kind());
            }
            let mut filled = padded.to_vec();
            if value.kind() != Kind::Card {
                *filled.last_mut().unwrap() = 1;
                assert!(Value::from_padded(value.kind(), &filled).is_err());
            }
        }
    }

    #[test]
    fn a_mask_is_its_values_and_no_others() {
        let others = || -> Vec<Value> {
            vec![
                Value::Card(told(Pan::parse(b"378282246310005"))),
                Value::Iban(told(Iban::parse(b"GB29NWBK60161331926819"))),
                Value::Phone(told(Phone::parse(b"+12125550100"))),
                Value::Email(told(Email::parse(b"ada@example.org"))),
                Value::Digits(told(DigitString::parse(b"123456"))),
            ]
        };
        let keep = |n| if n == 16 { Keep::new(0, 4).unwrap() } else { Keep::default_for(n) };
        for value in one_of_each() {
            let mask = value.mask(keep);
            assert!(value.has(&mask) && mask.kind() == value.kind());
            assert!(others().iter().all(|other| !other.has(&mask)));
        }
    }

    #[test]
    fn a_mask_shows_what_the_kind_allows_and_little_of_a_short_value() {
        let routing = told(RoutingNumber::parse(b"021000021"));
        let account = |number: &[u8]| Value::UsAccount(told(UsAccount::parse(routing, number)));
        let digits = |number: &[u8]| Value::Digits(told(DigitString::parse(number)));
        for (value, shown) in [
            (account(b"12345678"), "021000021-****5678"),
            (account(b"1234567"), "021000021-*******"),
            (digits(b"12345678"), "****5678"),
            (digits(b"123456"), "******"),
            (Value::Phone(told(Phone::parse(b"+2904321"))), "+290**21"),
            (Value::Iban(told(Iban::parse(b"NO9386011117947"))), "NO*********7947"),
        ] {
            assert_eq!(value.mask(Keep::default_for).to_string(), shown);
        }
    }

    #[test]
    fn no_card_number_comes_in_as_something_else() {
        let networks = Networks::builtin();
        let routing = told(RoutingNumber::parse(b"021000021"));
        for (value, smuggles) in [
            (Value::Digits(told(DigitString::parse(b"4111111111111111"))), true),
            (Value::Digits(told(DigitString::parse(b"4111111111111112"))), false),
            (Value::Digits(told(DigitString::parse(b"1000000000000008"))), false),
            (Value::Digits(told(DigitString::parse(b"41111111111111110000"))), false),
            (Value::Reference(told(PaymentReference::parse(b"acq:4111-1111-1111-1111", None))), true),
            (Value::Email(told(Email::parse(b"4111111111111111@example.com"))), true),
            (Value::Email(told(Email::parse(b"a@4111111111111111.example"))), true),
            (Value::Bytes(told(FreeBytes::parse(b"\x00\xff4111 1111 1111 1111\x00"))), true),
            (Value::UsAccount(told(UsAccount::parse(routing, b"4111111111111111"))), true),
            (Value::UsAccount(told(UsAccount::parse(routing, b"500000000009"))), false),
            (Value::Phone(told(Phone::parse(b"+378282246310005"))), true),
            (Value::Phone(told(Phone::parse(b"+4915123456789"))), false),
            // A number that is right as an IBAN is one, whatever its digits say.
            (Value::Iban(told(Iban::parse(b"DE89370400440532013000"))), false),
        ] {
            assert_eq!(value.smuggles_card(&networks), smuggles, "{}", value.kind());
        }
        assert!(one_of_each().iter().all(|value| !value.smuggles_card(&networks)));
    }
}
