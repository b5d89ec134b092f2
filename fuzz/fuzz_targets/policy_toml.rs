//! A policy file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::network::Networks;
use vault_core::policy::Policy;

fuzz_target!(|text: &str| {
    // The other TOML that an operator brings.
    let _ = Networks::parse(text);
    let Ok(policy) = Policy::from_toml(text) else { return };
    let shown = policy.to_toml().expect("what was read can be shown");
    let again = Policy::from_toml(&shown).expect("what is shown can be read");
    assert!(again == policy);
});
