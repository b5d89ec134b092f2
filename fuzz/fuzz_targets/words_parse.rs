//! Short texts that callers and operators write: names, words, dates, ids, tickets, codes, countries, keeps, prefixes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::attributes::{self, Attribute, HolderName, ProcessorReference, TransactionId};
use vault_core::hpke::PublicKey;
use vault_core::iban;
use vault_core::name::{
    AuthorityName, ChannelName, DestinationName, FormatName, MerchantName, NetworkName, PrincipalName,
    ProcessorName, RecipientName, RuleName,
};
use vault_core::pan::{CardExpiry, Keep, holds_card_number};
use vault_core::par::Par;
use vault_core::pattern::LuhnPrefix;
use vault_core::plan::Method;
use vault_core::vault::{CodeTicket, Context, RequestId, SecurityCode};
use vault_core::words::{
    Action, AgreementKind, Initiator, Kind, LockReason, Purpose, Ref, Refusal, ReplaceReason, Show,
};

macro_rules! comes_out_as_it_went_in {
    ($text:expr, $($name:ident),+) => {$(
        if let Ok(read) = $name::parse($text) {
            assert!(read.as_str() == $text, stringify!($name));
        }
    )+};
}

fuzz_target!(|text: &str| {
    comes_out_as_it_went_in!(
        text,
        AuthorityName,
        ChannelName,
        DestinationName,
        FormatName,
        MerchantName,
        NetworkName,
        PrincipalName,
        ProcessorName,
        RecipientName,
        RuleName,
        Action,
        AgreementKind,
        Initiator,
        Kind,
        LockReason,
        Purpose,
        Refusal,
        ReplaceReason,
        Show,
        HolderName,
        ProcessorReference,
        Par
    );
    for kept in [
        MerchantName::parse(text).is_ok(),
        HolderName::parse(text).is_ok(),
        ProcessorReference::parse(text).is_ok(),
        Par::parse(text).is_ok(),
        Context::new(text, "", "").is_ok(),
        TransactionId::parse(&NetworkName::parse("mastercard").unwrap(), text).is_ok(),
    ] {
        assert!(!kept || !holds_card_number(text), "a card number where none belongs");
    }
    let _ = TransactionId::parse(&NetworkName::parse("visa").unwrap(), text);
    if let Ok(country) = attributes::Country::parse(text) {
        assert_eq!(country.as_str(), text);
    }
    if let Some(country) = iban::Country::parse(text) {
        assert!(country.as_bytes() == text.as_bytes() && country.places().len() > 4);
    }
    assert!(Attribute::parse(text).is_none_or(|field| field.as_str() == text));
    assert!(Method::parse(text).is_none_or(|method| method.as_str() == text));
    if let Ok(expiry) = CardExpiry::parse(text) {
        assert!(CardExpiry::parse(&expiry.to_string()).is_ok_and(|again| again == expiry));
        assert!((2000..=2099).contains(&expiry.year()) && (1..=12).contains(&expiry.month()));
    }
    if let Ok(keep) = Keep::parse(text) {
        assert_eq!(keep.to_string(), text);
    }
    if let Ok(id) = RequestId::parse(text) {
        assert!(id.to_string().eq_ignore_ascii_case(text));
    }
    if let Ok(name) = Ref::parse(text) {
        assert_eq!(name.to_string(), text);
    }
    if let Ok(ticket) = CodeTicket::parse(text) {
        assert!(ticket.to_string() == text && !holds_card_number(text));
    }
    if let Ok(code) = SecurityCode::parse(text.as_bytes()) {
        assert!(code.expose_digits() == text.as_bytes() && matches!(text.len(), 3 | 4));
    }
    if let Ok(prefix) = LuhnPrefix::parse(text) {
        assert!(prefix.as_bytes() == text.as_bytes() && text.starts_with("99"));
    }
    if let Ok(key) = PublicKey::parse(text.as_bytes()) {
        assert_eq!(key.as_bytes(), text.as_bytes());
    }
});
