//! Values of other kinds than card numbers, as people write them in lines, and as they are sent and told.
//!
//! They are read where a card is read: from standard input, a file or a hidden prompt, and never from the command line. A
//! bad line is told by its number and the rule that it breaks, never by its content.

use std::path::Path;

use serde::Serialize;
use vault_client::{BesideToken, ask, v1};
use vault_core::account::{RoutingNumber, UsAccount};
use vault_core::digits::DigitString;
use vault_core::email::Email;
use vault_core::free_bytes::FreeBytes;
use vault_core::iban::Iban;
use vault_core::network_token::{Beside, NetworkToken};
use vault_core::pan::{CardExpiry, Pan};
use vault_core::par::Par;
use vault_core::payment_reference::PaymentReference;
use vault_core::phone::Phone;
use vault_core::value::Value;
use zeroize::Zeroizing;

use crate::fail::Failure;
use crate::input::{self, Card, Line};
use crate::wire::{self, Words as _};

/// A value as it was given.
pub struct Given {
    value: Value,
    /// Of a card or network token.
    expiry: Option<CardExpiry>,
}

impl From<Card> for Given {
    fn from(Card { pan, expiry }: Card) -> Self {
        Self { value: Value::Card(pan), expiry }
    }
}

/// The values of a file, of standard input, or one asked for at a hidden prompt. `expiry` is of those that come without.
pub(crate) fn read(
    kind: v1::DataKind,
    file: Option<&Path>,
    expiry: Option<CardExpiry>,
) -> Result<Vec<Line<Given>>, Failure> {
    match kind {
        v1::DataKind::Unspecified | v1::DataKind::Card => {
            let cards = input::cards(file, expiry)?;
            let given = |line: Line<Card>| Line { number: line.number, read: line.read.map(Given::from) };
            Ok(cards.into_iter().map(given).collect())
        }
        v1::DataKind::Bytes => {
            let bytes = input::whole(file)?;
            let read = FreeBytes::parse(&bytes).map_err(|e| format!("the input {e}"));
            let given = read.map(|bytes| Given { value: Value::Bytes(bytes), expiry: None });
            Ok(vec![Line { number: 1, read: given }])
        }
        v1::DataKind::NetworkToken
        | v1::DataKind::Reference
        | v1::DataKind::Iban
        | v1::DataKind::UsAccount
        | v1::DataKind::Digits
        | v1::DataKind::Phone
        | v1::DataKind::Email => {
            input::lines(file, "Value (not shown): ", |fields| line(kind, fields, expiry))
        }
    }
}

/// One line's fields, as its kind has them. The error is the rule that they break.
pub fn line(kind: v1::DataKind, fields: &[&[u8]], expiry: Option<CardExpiry>) -> Result<Given, String> {
    let field = |at: usize| fields.get(at).copied().unwrap_or_default();
    let text = |at: usize, what: &str| {
        std::str::from_utf8(field(at)).map_err(|_| format!("the {what} must be text"))
    };
    let par = |at: usize| match text(at, "payment account reference")? {
        "" => Ok(None),
        par => Par::parse(par).map(Some).map_err(|e| format!("the payment account reference {e}")),
    };
    let first = field(0);
    let mut own_expiry = None;
    let value = match kind {
        v1::DataKind::NetworkToken => {
            let number = Pan::parse(first).map_err(|e| format!("the number {e}"))?;
            own_expiry = match text(1, "expiry")? {
                "" => expiry,
                date => Some(CardExpiry::parse(date).map_err(|e| format!("the expiry {e}"))?),
            };
            if own_expiry.is_none() {
                return Err("the network token must have an expiry".to_owned());
            }
            let beside = Beside::parse(text(2, "requestor id")?, text(3, "last four")?, par(4)?);
            Value::NetworkToken(NetworkToken::new(number, beside.map_err(|e| format!("the token {e}"))?))
        }
        v1::DataKind::Reference => {
            let reference = PaymentReference::parse(first, par(1)?);
            Value::Reference(reference.map_err(|e| format!("the reference {e}"))?)
        }
        v1::DataKind::Iban => Value::Iban(Iban::parse(first).map_err(|e| format!("the IBAN {e}"))?),
        v1::DataKind::UsAccount => {
            let routing = RoutingNumber::parse(first);
            let account = routing.and_then(|routing| UsAccount::parse(routing, field(1)));
            Value::UsAccount(account.map_err(|e| format!("the account {e}"))?)
        }
        v1::DataKind::Digits => {
            Value::Digits(DigitString::parse(first).map_err(|e| format!("the number {e}"))?)
        }
        v1::DataKind::Phone => {
            Value::Phone(Phone::parse(first).map_err(|e| format!("the telephone number {e}"))?)
        }
        v1::DataKind::Email => Value::Email(Email::parse(first).map_err(|e| format!("the address {e}"))?),
        v1::DataKind::Unspecified | v1::DataKind::Card | v1::DataKind::Bytes => {
            return Err("the line is not of this kind".to_owned());
        }
    };
    Ok(Given { value, expiry: own_expiry })
}

/// What is sent of it.
pub(crate) fn item(given: &Given) -> v1::TokenizeItem {
    let date = |e: CardExpiry| v1::CardExpiry { month: e.month().into(), year: e.year().into() };
    let data = |kind, value: &[u8]| ask::data(kind, Zeroizing::new(value.to_vec()), "");
    match &given.value {
        Value::Card(pan) => ask::card(Zeroizing::new(pan.expose_digits().to_vec()), given.expiry.map(date)),
        Value::NetworkToken(token) => {
            let beside = token.beside();
            let beside = BesideToken {
                requestor_id: beside.requestor.as_ref().map_or("", |r| r.as_str()).to_owned(),
                funding_last_four: beside.funding_last_four().to_owned(),
                payment_account_reference: beside.par.as_ref().map_or("", Par::as_str).to_owned(),
            };
            let number = Zeroizing::new(token.number().expose_digits().to_vec());
            ask::network_token(number, given.expiry.map(date).unwrap_or_default(), beside)
        }
        Value::Reference(reference) => {
            let par = reference.par().map_or("", Par::as_str);
            ask::payment_reference(Zeroizing::new(reference.expose_text().to_vec()), par)
        }
        Value::UsAccount(account) => {
            let number = Zeroizing::new(account.expose_number().to_vec());
            ask::data(v1::DataKind::UsAccount, number, &account.routing().to_string())
        }
        Value::Iban(iban) => data(v1::DataKind::Iban, iban.expose_text()),
        Value::Digits(digits) => data(v1::DataKind::Digits, digits.expose_digits()),
        Value::Phone(phone) => data(v1::DataKind::Phone, phone.expose_text()),
        Value::Email(email) => data(v1::DataKind::Email, email.expose_text()),
        Value::Bytes(bytes) => data(v1::DataKind::Bytes, bytes.expose_bytes()),
    }
}

/// What may be shown of a value of another kind than card numbers.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ShownData {
    kind: String,
    masked_value: String,
    last_characters: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    requestor_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    funding_last_four: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    payment_account_reference: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    network: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<String>,
}

impl ShownData {
    /// As the vault told it.
    pub(crate) fn of(data: v1::MaskedData) -> Self {
        Self {
            kind: data.kind().word(),
            masked_value: data.masked_value,
            last_characters: data.last_characters,
            requestor_id: data.requestor_id,
            funding_last_four: data.funding_last_four,
            payment_account_reference: data.payment_account_reference,
            network: data.network,
            expiry: wire::expiry(data.expiry.as_ref()),
        }
    }

    /// For people: kind and mask, then what stands beside it.
    pub(crate) fn words(&self) -> String {
        let beside = [
            ("network", &self.network),
            ("requestor", &self.requestor_id),
            ("card", &self.funding_last_four),
            ("par", &self.payment_account_reference),
        ];
        let beside = beside.iter().filter(|(_, text)| !text.is_empty());
        let beside: Vec<String> = beside.map(|(what, text)| format!("  {what} {text}")).collect();
        let expiry = self.expiry.as_ref().map_or_else(String::new, |e| format!("  {e}"));
        let mask = if self.masked_value.is_empty() { "-" } else { &self.masked_value };
        format!("{}  {mask}{expiry}{}", self.kind, beside.concat())
    }
}

/// A value on its way to a terminal.
#[derive(Serialize)]
pub(crate) struct PlainValue {
    kind: String,
    /// Text as it is; bytes that are no text that prints, in base64.
    value: Secret,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<bool>,
    #[serde(skip_serializing_if = "String::is_empty")]
    routing_number: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    requestor_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    funding_last_four: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    payment_account_reference: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<String>,
}

/// Text that is wiped when it has been told.
struct Secret(Zeroizing<String>);

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl PlainValue {
    fn new(kind: v1::DataKind, value: &[u8]) -> Self {
        let text = std::str::from_utf8(value).ok().filter(|text| !text.chars().any(char::is_control));
        Self {
            kind: kind.word(),
            base64: text.is_none().then_some(true),
            value: Secret(Zeroizing::new(
                text.map_or_else(|| data_encoding::BASE64.encode(value), str::to_owned),
            )),
            routing_number: String::new(),
            requestor_id: String::new(),
            funding_last_four: String::new(),
            payment_account_reference: String::new(),
            expiry: None,
        }
    }

    /// A value that has no message of its own.
    pub(crate) fn data(mut data: v1::PlainData) -> Self {
        let value = data.take_value();
        Self { routing_number: std::mem::take(&mut data.routing_number), ..Self::new(data.kind(), &value) }
    }

    /// A network token.
    pub(crate) fn network_token(mut token: v1::NetworkToken) -> Self {
        let number = token.take_number();
        Self {
            requestor_id: std::mem::take(&mut token.requestor_id),
            funding_last_four: std::mem::take(&mut token.funding_last_four),
            payment_account_reference: std::mem::take(&mut token.payment_account_reference),
            expiry: wire::expiry(token.expiry.as_ref()),
            ..Self::new(v1::DataKind::NetworkToken, &number)
        }
    }

    /// A processor's reference.
    pub(crate) fn reference(mut reference: v1::PaymentReference) -> Self {
        let text = reference.take_reference();
        Self {
            payment_account_reference: std::mem::take(&mut reference.payment_account_reference),
            ..Self::new(v1::DataKind::Reference, &text)
        }
    }

    /// For people: the value, and what stands beside it.
    pub(crate) fn words(&self) -> String {
        let beside = [
            self.expiry.as_deref().unwrap_or_default(),
            &self.routing_number,
            &self.requestor_id,
            &self.funding_last_four,
            &self.payment_account_reference,
        ];
        let all: Vec<&str> =
            [self.value.0.as_str()].into_iter().chain(beside).filter(|text| !text.is_empty()).collect();
        all.join("  ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(kind: v1::DataKind, text: &str) -> Result<Given, String> {
        let fields: Vec<&[u8]> = text.split(',').map(str::as_bytes).collect();
        line(kind, &fields, None)
    }

    #[test]
    fn a_line_of_each_kind_is_sent_as_that_kind() {
        for (kind, text) in [
            (v1::DataKind::Iban, "DE89 3704 0044 0532 0130 00"),
            (v1::DataKind::UsAccount, "021000021,000123456789"),
            (v1::DataKind::Digits, "6006-4912 3456"),
            (v1::DataKind::Phone, "+49 1512 3456789"),
            (v1::DataKind::Email, "ada@example.com,Ada"),
        ] {
            let given = given(kind, text).unwrap_or_else(|e| panic!("{e}"));
            let Some(v1::tokenize_item::Card::Data(data)) = item(&given).card else { panic!("{text}") };
            assert_eq!(data.kind(), kind);
        }
        let token = given(
            v1::DataKind::NetworkToken,
            "4895370012003478,12/30,40010030273,4242,V0010013019326471230984710234",
        );
        let Some(v1::tokenize_item::Card::NetworkToken(token)) = token.map_or(None, |t| item(&t).card) else {
            panic!("a network token")
        };
        assert_eq!((token.funding_last_four.as_str(), token.expiry.unwrap().year), ("4242", 2030));
        let reference = given(v1::DataKind::Reference, "8535296650153317,V0010013019326471230984710234");
        assert!(
            reference
                .is_ok_and(|r| matches!(item(&r).card, Some(v1::tokenize_item::Card::PaymentReference(_))))
        );
    }

    #[test]
    fn a_bad_line_is_told_by_its_rule_and_never_by_its_content() {
        for (kind, text, said) in [
            (v1::DataKind::Iban, "DE88370400440532013000", "check digits"),
            (v1::DataKind::UsAccount, "021000021", "1 to 17"),
            (v1::DataKind::UsAccount, "021000022,1", "check digit"),
            (v1::DataKind::NetworkToken, "4895370012003478", "expiry"),
            (v1::DataKind::NetworkToken, "4895370012003478,12/30,4001", "requestor"),
            (v1::DataKind::Reference, "abc,V001", "29"),
            (v1::DataKind::Phone, "4915123456789", "begin with +"),
            (v1::DataKind::Email, "ada", "@"),
        ] {
            let Err(rule) = given(kind, text) else { panic!("{text}") };
            assert!(rule.contains(said) && !rule.contains("4895") && !rule.contains("3704"), "{rule}");
        }
    }

    #[test]
    fn what_is_shown_is_told_for_people() {
        let masked = v1::MaskedData {
            kind: v1::DataKind::NetworkToken.into(),
            masked_value: "489537******3478".into(),
            last_characters: "3478".into(),
            funding_last_four: "4242".into(),
            expiry: Some(v1::CardExpiry { month: 12, year: 2030 }),
            ..v1::MaskedData::default()
        };
        assert_eq!(ShownData::of(masked).words(), "network_token  489537******3478  12/2030  card 4242");
        let bytes = PlainValue::data(v1::PlainData::new(v1::DataKind::Bytes, vec![0xff, 0], ""));
        assert!(bytes.words() == "/wA=" && bytes.base64 == Some(true));
        let text =
            PlainValue::data(v1::PlainData::new(v1::DataKind::UsAccount, b"1234".to_vec(), "021000021"));
        assert_eq!(text.words(), "1234  021000021");
    }
}
