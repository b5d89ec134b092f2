//! Values of every kind but cards, as somebody wrote them: the first byte says which kind.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::account::{RoutingNumber, UsAccount};
use vault_core::digits::DigitString;
use vault_core::email::Email;
use vault_core::free_bytes::FreeBytes;
use vault_core::iban::{Iban, remainder};
use vault_core::network::Networks;
use vault_core::network_token::{Beside, NetworkToken};
use vault_core::pan::{Keep, Pan};
use vault_core::par::Par;
use vault_core::payment_reference::PaymentReference;
use vault_core::phone::Phone;
use vault_core::value::{Value, padded_length_allowed};

fn value(kind: u8, bytes: &[u8]) -> Option<Value> {
    let half = bytes.len().min(9);
    Some(match kind % 8 {
        0 => {
            let iban = Iban::parse(bytes).ok()?;
            assert!(remainder(iban.expose_text()) == 1 && iban.last_four().len() == 4);
            Value::Iban(iban)
        }
        1 => {
            let (routing, number) = bytes.split_at(half);
            Value::UsAccount(UsAccount::parse(RoutingNumber::parse(routing).ok()?, number).ok()?)
        }
        2 => Value::Digits(DigitString::parse(bytes).ok()?),
        3 => {
            let phone = Phone::parse(bytes).ok()?;
            assert!(phone.country_code().len() + phone.national_digits() + 1 == phone.expose_text().len());
            Value::Phone(phone)
        }
        4 => {
            let email = Email::parse(bytes).ok()?;
            assert!(email.domain().contains('.') && !email.domain().contains('@'));
            Value::Email(email)
        }
        5 => Value::Bytes(FreeBytes::parse(bytes).ok()?),
        6 => {
            let par = std::str::from_utf8(bytes).ok().and_then(|text| Par::parse(text.get(..29)?).ok());
            Value::Reference(PaymentReference::parse(bytes, par).ok()?)
        }
        _ => {
            let (beside, number) = bytes.split_at(bytes.len().min(15));
            let text = std::str::from_utf8(beside).ok()?;
            let beside = Beside::parse(text.get(..11)?, text.get(11..)?, None).ok()?;
            Value::NetworkToken(NetworkToken::new(Pan::parse(number).ok()?, beside))
        }
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, written)) = bytes.split_first() else { return };
    let Some(value) = value(*kind, written) else { return };
    // What is sealed is read back as it was, and looks as it did.
    let padded = value.expose_padded();
    assert!(padded_length_allowed(value.kind(), padded.len()));
    let Ok(back) = Value::from_padded(value.kind(), &padded) else { panic!("{}", value.kind()) };
    assert!(back.expose_identity() == value.expose_identity() && back.expose_padded() == padded);
    let mask = value.mask(Keep::default_for);
    assert!(back.has(&mask) && mask.kind() == value.kind());
    // A mask hides something of all but a reference.
    assert!(mask.to_string().contains('*'));
    let _ = value.smuggles_card(&Networks::default());
});
