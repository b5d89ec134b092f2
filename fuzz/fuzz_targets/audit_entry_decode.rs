//! An entry of the audit log.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::audit::entry::{AuditEntry, MAX_ENTRY};

fuzz_target!(|bytes: &[u8]| {
    let Ok(entry) = AuditEntry::decode(bytes) else { return };
    assert!(bytes.len() <= MAX_ENTRY);
    assert_eq!(entry.encode(), bytes);
    assert!(!entry.line().contains('\n'));
});
