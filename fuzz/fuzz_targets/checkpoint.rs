//! A log's signed head, changed by whoever carried it; and a verifier's key and an origin as somebody wrote them.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vault_core::audit::checkpoint::{Checkpoint, SignedCheckpoint};
use vault_core::audit::note::{LogSigner, LogVerifier, Origin};
use vault_core::audit::tree::{Hash, MAX_SIZE};
use vault_core::secret::Secret32;
use vault_core::time::Timestamp;

#[derive(Debug, Arbitrary)]
struct Case<'a> {
    size: u64,
    root: [u8; 32],
    epoch: u64,
    control: [u8; 32],
    time: u64,
    /// From here, so many bytes are replaced by these.
    at: u16,
    cut: u8,
    by: &'a str,
    text: &'a str,
}

fuzz_target!(|case: Case<'_>| {
    if let Ok(verifier) = LogVerifier::parse(case.text) {
        assert_eq!(verifier.to_string(), case.text);
    }
    let named = Origin::parse(case.text);
    assert!(named.as_ref().is_ok_and(|origin| origin.as_str() == case.text) || named.is_err());
    let origin = named.unwrap_or_else(|_| Origin::parse("vault.example/log/0").unwrap());
    let Ok(signer) = LogSigner::from_seed(origin, &Secret32::filled_by(|bytes| bytes.fill(7))) else {
        return;
    };
    let verifier = signer.verifier();
    assert!(LogVerifier::parse(&verifier.to_string()).is_ok_and(|read| read == *verifier));
    assert!(SignedCheckpoint::open(case.text, verifier).is_err(), "a text that the log did not sign");
    let checkpoint = Checkpoint {
        size: case.size % (MAX_SIZE + 1),
        root: Hash(case.root),
        epoch: case.epoch,
        control: Hash(case.control),
        time: Timestamp(case.time),
    };
    let signed = checkpoint.sign(&signer);
    assert!(SignedCheckpoint::open(signed.note(), verifier).is_ok_and(|read| read == signed));
    let mut changed = signed.note().to_owned();
    let at = usize::from(case.at) % (changed.len() + 1);
    let end = changed.len().min(at + usize::from(case.cut));
    if !changed.is_char_boundary(at) || !changed.is_char_boundary(end) {
        return;
    }
    changed.replace_range(at..end, case.by);
    // Others may sign beside the log. What the log says is what it signed.
    if let Ok(read) = SignedCheckpoint::open(&changed, verifier) {
        assert_eq!(read.checkpoint(), &checkpoint);
    }
});
