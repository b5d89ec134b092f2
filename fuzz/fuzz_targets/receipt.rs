//! A receipt and a proof as a caller kept them, changed by whoever kept them; and any text in their place.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vault_cli::files::ReceiptText;
use vault_core::audit::checkpoint::{Checkpoint, SignedCheckpoint};
use vault_core::audit::note::{LogSigner, Origin};
use vault_core::audit::receipt::{Proof, ProofError, Receipt};
use vault_core::audit::tree::{Hash, leaf_hash};
use vault_core::audit::verify::verify_export;
use vault_core::secret::Secret32;
use vault_core::time::Timestamp;

#[derive(Debug, Arbitrary)]
struct Case<'a> {
    entry: &'a [u8],
    log: u32,
    at: u16,
    cut: u8,
    by: &'a str,
    text: &'a str,
}

fn changed(text: &str, case: &Case<'_>) -> Option<String> {
    let at = usize::from(case.at) % (text.len() + 1);
    let end = text.len().min(at + usize::from(case.cut));
    let mut changed = text.to_owned();
    (text.is_char_boundary(at) && text.is_char_boundary(end))
        .then(|| changed.replace_range(at..end, case.by))?;
    Some(changed)
}

fuzz_target!(|case: Case<'_>| {
    let origin = Origin::parse("vault.example/log/0").unwrap();
    let signer = LogSigner::from_seed(origin, &Secret32::filled_by(|bytes| bytes.fill(7))).unwrap();
    let verifier = signer.verifier();
    assert!(Receipt::open(case.text, verifier).is_err(), "a text that the log did not sign");
    if let Ok(proof) = Proof::parse(case.text) {
        assert!(Proof::parse(&proof.text()).is_ok_and(|again| again == proof));
        assert!(proof.check(verifier).is_err(), "a text that the log did not sign");
    }
    if let Ok(kept) = ReceiptText::parse(case.text) {
        assert!(ReceiptText::parse(&kept.text()).is_ok_and(|again| again == kept));
        let _ = kept.to_wire();
    }

    // A log of one entry: its hash is the root.
    let leaf = leaf_hash(case.entry);
    let checkpoint = Checkpoint {
        size: 1,
        root: leaf,
        epoch: 1,
        control: Hash([2; 32]),
        time: Timestamp(1_790_000_000_000),
    };
    let head = checkpoint.sign(&signer);
    let receipt = Receipt { log: case.log, index: 0, leaf, checkpoint: head.clone() };
    assert!(Receipt::open(&receipt.text(), verifier).is_ok_and(|read| read == receipt));
    assert!(ReceiptText::parse(&receipt.text()).is_ok_and(|kept| kept.to_wire().is_ok()));
    if let Some(Ok(read)) = changed(&receipt.text(), &case).map(|text| Receipt::open(&text, verifier)) {
        assert_eq!(read.checkpoint.checkpoint(), &checkpoint);
    }
    let text = proof_text(case.entry, case.log, &head);
    let Ok(proof) = Proof::parse(&text) else {
        assert!(case.entry.len() > vault_core::audit::entry::MAX_ENTRY);
        return;
    };
    match proof.check_receipt(&receipt, verifier) {
        Ok(proven) => assert!(proven.entry.encode() == case.entry && proven.checkpoint == checkpoint),
        Err(told) => assert_eq!(told, ProofError::Entry),
    }
    if let Some(Ok(other)) = changed(&text, &case).map(|text| Proof::parse(&text)) {
        // Only what the log has is proven, whatever was changed around it.
        if let Ok(proven) = other.check(verifier) {
            assert!(proven.entry.encode() == case.entry && proven.checkpoint == checkpoint);
        }
    }

    // The same log as a file, and that file changed.
    let export = export_text(case.entry, &signer, &head);
    let whole = verify_export(&mut export.as_bytes(), verifier, &mut |_, _| {}).unwrap();
    let known = vault_core::audit::entry::AuditEntry::decode(case.entry).is_ok();
    assert!(whole.size == 1 && (known || whole.fault.is_some()), "an entry that is none");
    if let Some(other) = changed(&export, &case) {
        let found = verify_export(&mut other.as_bytes(), verifier, &mut |_, _| {}).unwrap();
        assert!(found.fault.is_some() || (found.size == 1 && found.root == leaf));
    }
});

fn proof_text(entry: &[u8], log: u32, head: &SignedCheckpoint) -> String {
    let entry = data_encoding::BASE64.encode(entry);
    serde_json::json!({
        "version": 1, "log": log, "index": 0, "entry": entry, "path": [], "checkpoint": head.note(),
    })
    .to_string()
}

fn export_text(entry: &[u8], signer: &LogSigner, head: &SignedCheckpoint) -> String {
    let verifier = signer.verifier();
    let first = serde_json::json!({
        "version": 1, "origin": verifier.origin().as_str(), "vkey": verifier.to_string(), "checkpoint": head.note(),
    });
    let leaf = leaf_hash(entry);
    let line = serde_json::json!({ "index": 0, "leaf": leaf, "entry": data_encoding::BASE64.encode(entry) });
    format!("{first}\n{line}\n")
}
