//! A token as somebody sent it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::iban::Iban;
use vault_core::pan::Pan;
use vault_core::token::Token;

fuzz_target!(|text: &str| {
    let Ok(token) = Token::parse(text) else { return };
    assert_eq!(token.as_str(), text);
    // Behind 99 nobody issues card numbers.
    assert!(text.starts_with("99") || Pan::parse(text.as_bytes()).is_err(), "a token that is a card number");
    // An IBAN is read in small letters, too; as it is written on paper and in messages, in capitals, no token is one.
    let small = text.bytes().all(|b| !b.is_ascii_uppercase());
    assert!(small || Iban::parse(text.as_bytes()).is_err(), "a token that is an account number");
    assert!(token.copy().same_as(&token));
});
