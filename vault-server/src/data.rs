//! Values of other kinds than card numbers, between messages and the core's types: parsed at the door.
//!
//! Refused, by the field's path: everything that its kind does not take. No refusal repeats what it refused.

use vault_core::account::{AccountError, RoutingNumber, UsAccount};
use vault_core::digits::DigitString;
use vault_core::email::Email;
use vault_core::error::Error;
use vault_core::free_bytes::FreeBytes;
use vault_core::iban::Iban;
use vault_core::mask::Mask;
use vault_core::network_token::{Beside, BesideError, NetworkToken};
use vault_core::pan::{CardExpiry, Pan};
use vault_core::par::Par;
use vault_core::payment_reference::PaymentReference;
use vault_core::phone::Phone;
use vault_core::value::Value;
use vault_core::words::Kind;
use vault_proto::{BesideToken, v1};

use crate::wire;

/// A value that has no message of its own.
pub fn plain(mut data: v1::PlainData) -> Result<Value, Error> {
    let (kind, value) = (data.kind(), data.take_value());
    let wrong = |rule| Error::malformed("item.data.value", rule);
    if kind != v1::DataKind::UsAccount && !data.routing_number.is_empty() {
        return Err(Error::malformed("item.data.routing_number", "goes with kind US_ACCOUNT only"));
    }
    match kind {
        v1::DataKind::Unspecified => Err(Error::malformed("item.data.kind", "is required")),
        v1::DataKind::Card | v1::DataKind::NetworkToken | v1::DataKind::Reference => {
            Err(Error::malformed("item.data.kind", "has a message of its own"))
        }
        v1::DataKind::Iban => Iban::parse(&value).map(Value::Iban).map_err(|e| wrong(e.rule())),
        v1::DataKind::UsAccount => account(&data.routing_number, &value),
        v1::DataKind::Digits => DigitString::parse(&value).map(Value::Digits).map_err(|e| wrong(e.rule())),
        v1::DataKind::Phone => Phone::parse(&value).map(Value::Phone).map_err(|e| wrong(e.rule())),
        v1::DataKind::Email => Email::parse(&value).map(Value::Email).map_err(|e| wrong(e.rule())),
        v1::DataKind::Bytes => FreeBytes::parse(&value).map(Value::Bytes).map_err(|e| wrong(e.rule())),
    }
}

fn account(routing: &str, number: &[u8]) -> Result<Value, Error> {
    let parsed =
        RoutingNumber::parse(routing.as_bytes()).and_then(|routing| UsAccount::parse(routing, number));
    parsed.map(Value::UsAccount).map_err(|e| {
        let field = match e {
            AccountError::Routing | AccountError::RoutingCheck => "item.data.routing_number",
            AccountError::Length | AccountError::Alphabet => "item.data.value",
        };
        Error::malformed(field, e.rule())
    })
}

/// A network token, and its own expiry.
pub fn network_token(mut token: v1::NetworkToken) -> Result<(Value, Option<CardExpiry>), Error> {
    let number = Pan::parse(&token.take_number());
    let number = number.map_err(|e| Error::malformed("item.network_token.number", wire::pan_rule(e)))?;
    let par = par(&token.payment_account_reference, "item.network_token.payment_account_reference")?;
    let beside = Beside::parse(&token.requestor_id, &token.funding_last_four, par).map_err(|e| {
        let field = match e {
            BesideError::Requestor => "item.network_token.requestor_id",
            BesideError::FundingLastFour => "item.network_token.funding_last_four",
        };
        Error::malformed(field, e.rule())
    })?;
    let expiry = token.expiry.map(|e| wire::expiry(e, "item.network_token.expiry")).transpose()?;
    Ok((Value::NetworkToken(NetworkToken::new(number, beside)), expiry))
}

/// A processor's reference.
pub fn payment_reference(mut reference: v1::PaymentReference) -> Result<Value, Error> {
    let par = par(&reference.payment_account_reference, "item.payment_reference.payment_account_reference")?;
    PaymentReference::parse(&reference.take_reference(), par)
        .map(Value::Reference)
        .map_err(|e| Error::malformed("item.payment_reference.reference", e.rule()))
}

fn par(text: &str, field: &'static str) -> Result<Option<Par>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    Par::parse(text).map(Some).map_err(|e| Error::malformed(field, e.rule()))
}

/// A value that leaves in the clear. A card number has another way out.
#[must_use]
pub fn revealed(value: &Value, expiry: Option<CardExpiry>) -> Option<v1::detokenize_result::Reveal> {
    use v1::detokenize_result::Reveal;
    let data = |kind, value: &[u8], routing: &str| {
        Some(Reveal::Data(v1::PlainData::new(kind, value.to_vec(), routing)))
    };
    match value {
        Value::Card(_) => None,
        Value::NetworkToken(token) => {
            let beside = beside(token.beside());
            let number = token.number().expose_digits().to_vec();
            Some(Reveal::NetworkToken(v1::NetworkToken::new(number, wire::card_expiry(expiry), beside)))
        }
        Value::Reference(reference) => {
            let par = reference.par().map_or("", Par::as_str);
            let text = reference.expose_text().to_vec();
            Some(Reveal::PaymentReference(v1::PaymentReference::new(text, par)))
        }
        Value::Iban(iban) => data(v1::DataKind::Iban, iban.expose_text(), ""),
        Value::UsAccount(account) => {
            data(v1::DataKind::UsAccount, account.expose_number(), &account.routing().to_string())
        }
        Value::Digits(digits) => data(v1::DataKind::Digits, digits.expose_digits(), ""),
        Value::Phone(phone) => data(v1::DataKind::Phone, phone.expose_text(), ""),
        Value::Email(email) => data(v1::DataKind::Email, email.expose_text(), ""),
        Value::Bytes(bytes) => data(v1::DataKind::Bytes, bytes.expose_bytes(), ""),
    }
}

fn beside(beside: &Beside) -> BesideToken {
    BesideToken {
        requestor_id: beside.requestor.as_ref().map_or("", |r| r.as_str()).to_owned(),
        funding_last_four: beside.funding_last_four().to_owned(),
        payment_account_reference: beside.par.as_ref().map_or("", Par::as_str).to_owned(),
    }
}

/// What may be shown of a value of another kind than card numbers.
#[must_use]
pub fn masked(mask: &Mask, network: String, expiry: Option<CardExpiry>) -> v1::MaskedData {
    let (last, beside) = match mask {
        Mask::Card(number) => (number.last(), BesideToken::default()),
        Mask::NetworkToken(number, known) => (number.last(), beside(known)),
        Mask::Reference(par) => ("", beside(&Beside { par: *par, ..Beside::default() })),
        Mask::Ends(ends) => {
            (if mask.kind() == Kind::Email { "" } else { ends.back() }, BesideToken::default())
        }
    };
    v1::MaskedData {
        kind: kind(mask.kind()).into(),
        masked_value: mask.to_string(),
        last_characters: last.to_owned(),
        requestor_id: beside.requestor_id,
        funding_last_four: beside.funding_last_four,
        payment_account_reference: beside.payment_account_reference,
        network,
        expiry: wire::card_expiry(expiry),
    }
}

fn kind(kind: Kind) -> v1::DataKind {
    match kind {
        Kind::Card => v1::DataKind::Card,
        Kind::NetworkToken => v1::DataKind::NetworkToken,
        Kind::Reference => v1::DataKind::Reference,
        Kind::Iban => v1::DataKind::Iban,
        Kind::UsAccount => v1::DataKind::UsAccount,
        Kind::Digits => v1::DataKind::Digits,
        Kind::Phone => v1::DataKind::Phone,
        Kind::Email => v1::DataKind::Email,
        Kind::Bytes => v1::DataKind::Bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(kind: v1::DataKind, value: &str, routing: &str) -> Result<Value, Error> {
        plain(v1::PlainData::new(kind, value.as_bytes().to_vec(), routing))
    }

    #[test]
    fn every_kind_of_the_core_is_one_of_the_contract_with_the_same_number_and_name() {
        for &known in Kind::ALL {
            let told = kind(known);
            assert_eq!(i32::from(told), i32::from(known.id()));
            assert_eq!(told.as_str_name().to_ascii_lowercase(), format!("data_kind_{known}"));
        }
        assert!(v1::DataKind::try_from(i32::try_from(Kind::ALL.len()).unwrap() + 1).is_err());
    }

    #[test]
    fn a_value_goes_in_and_comes_out_as_it_is_kept() {
        use v1::detokenize_result::Reveal;
        for (kind, written, routing, kept) in [
            (v1::DataKind::Iban, "de89 3704 0044 0532 0130 00", "", "DE89370400440532013000"),
            (v1::DataKind::UsAccount, "12-34", "021000021", "1234"),
            (v1::DataKind::Digits, "1234 5678", "", "12345678"),
            (v1::DataKind::Phone, "+49 1512 3456789", "", "+4915123456789"),
            (v1::DataKind::Email, "ada@Example.com", "", "ada@example.com"),
            (v1::DataKind::Bytes, "\u{e9}\0", "", "\u{e9}\0"),
        ] {
            let value = data(kind, written, routing).unwrap_or_else(|e| panic!("{e}"));
            let Some(Reveal::Data(mut out)) = revealed(&value, None) else { panic!("{written}") };
            assert_eq!((out.kind(), out.routing_number.as_str()), (kind, routing));
            assert_eq!(out.take_value().as_slice(), kept.as_bytes());
        }
        let par = "V0010013019326471230984710234";
        let sent = || {
            let beside = BesideToken {
                requestor_id: "40010030273".into(),
                funding_last_four: "4242".into(),
                payment_account_reference: par.into(),
            };
            let expiry = Some(v1::CardExpiry { month: 12, year: 2030 });
            v1::NetworkToken::new(b"4895370012003478".to_vec(), expiry, beside)
        };
        let (value, expiry) = network_token(sent()).unwrap_or_else(|e| panic!("{e}"));
        let Some(Reveal::NetworkToken(out)) = revealed(&value, expiry) else { panic!() };
        assert!(out == sent());
        let sent = || v1::PaymentReference::new(b"8535296650153317".to_vec(), par);
        let value = payment_reference(sent()).unwrap_or_else(|e| panic!("{e}"));
        let Some(Reveal::PaymentReference(out)) = revealed(&value, None) else { panic!() };
        assert!(out == sent());
        let card = Value::Card(Pan::parse(b"4111111111111111").unwrap_or_else(|e| panic!("{e}")));
        assert!(revealed(&card, None).is_none());
    }

    #[test]
    fn what_a_kind_does_not_take_is_refused_by_its_field_and_not_repeated() {
        let token = |requestor: &str, four: &str, par: &str| {
            let beside = BesideToken {
                requestor_id: requestor.into(),
                funding_last_four: four.into(),
                payment_account_reference: par.into(),
            };
            network_token(v1::NetworkToken::new(b"4895370012003478".to_vec(), None, beside)).err()
        };
        for (error, field) in [
            (data(v1::DataKind::Unspecified, "1", "").err(), "item.data.kind"),
            (data(v1::DataKind::Card, "4111111111111111", "").err(), "item.data.kind"),
            (data(v1::DataKind::Iban, "DE88370400440532013000", "").err(), "item.data.value"),
            (
                data(v1::DataKind::Iban, "DE89370400440532013000", "021000021").err(),
                "item.data.routing_number",
            ),
            (data(v1::DataKind::UsAccount, "1234", "021000022").err(), "item.data.routing_number"),
            (data(v1::DataKind::UsAccount, "", "021000021").err(), "item.data.value"),
            (data(v1::DataKind::Phone, "4915123456789", "").err(), "item.data.value"),
            (data(v1::DataKind::Bytes, "", "").err(), "item.data.value"),
            (token("4001", "", ""), "item.network_token.requestor_id"),
            (token("", "42", ""), "item.network_token.funding_last_four"),
            (token("", "", "V001"), "item.network_token.payment_account_reference"),
            (
                network_token(v1::NetworkToken::new(b"489537".to_vec(), None, BesideToken::default())).err(),
                "item.network_token.number",
            ),
            (
                payment_reference(v1::PaymentReference::new(b"a b".to_vec(), "")).err(),
                "item.payment_reference.reference",
            ),
        ] {
            let Some(Error::Malformed { field: named, rule }) = error else { panic!("{field}") };
            assert!(named == field && !rule.contains("3704"), "{named} {rule}");
        }
    }
}
