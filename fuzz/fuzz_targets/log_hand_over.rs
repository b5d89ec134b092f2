//! Hand-overs of a log from one key to the next, as somebody brought them: without the keys' signatures they lead nowhere.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::audit::handover::HandOver;
use vault_core::audit::note::{LogSigner, Origin};
use vault_core::secret::Secret32;

fuzz_target!(|text: &str| {
    let Ok(read) = HandOver::parse(text) else { return };
    let written = read.text();
    let again = HandOver::parse(&written).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again.text(), written);
    let origin = Origin::parse("vault.example/log/0").unwrap_or_else(|e| panic!("{e}"));
    let Ok(signer) = LogSigner::from_seed(origin, &Secret32::filled_by(|bytes| bytes.fill(7))) else { return };
    assert!(signer.verifier().follow(&[read, again]).is_err());
});
