//! A policy file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::network::Networks;
use vault_core::pan::holds_card_number;
use vault_core::policy::Policy;

fuzz_target!(|text: &str| {
    // The other TOML that an operator brings.
    assert!(Networks::parse(text).err().is_none_or(|told| !holds_card_number(&told.to_string())));
    let policy = match Policy::from_toml(text) {
        Ok(policy) => policy,
        Err(told) => return assert!(!holds_card_number(&told.to_string())),
    };
    let shown = policy.to_toml().expect("what was read can be shown");
    let again = Policy::from_toml(&shown).expect("what is shown can be read");
    assert!(again == policy);
});
