//! Rows of a store that somebody else wrote to.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::codec::{Reader, Writer};
use vault_core::control::{Epoch, Header};
use vault_core::custody::CustodyBlock;
use vault_core::record::Row;
use vault_core::uses;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(row) = Row::decode(bytes) {
        // A row of the version before is written as one of this version.
        let written = row.encode();
        assert!(written == bytes || bytes.first() == Some(&1));
        assert!(Row::decode(&written).is_ok_and(|again| again == row));
    }
    if let Ok(header) = Header::decode(bytes) {
        assert!(header.encode() == bytes);
    }
    if let Ok(epoch) = Epoch::decode(bytes) {
        assert!(epoch.encode() == bytes);
    }
    // Rows of keys' uses, whatever lies in them.
    if let Some((key, value)) = bytes.split_at_checked(16) {
        let _ = uses::read_row(key, value);
    }
    let mut reader = Reader::new(bytes);
    if let Ok(block) = CustodyBlock::read(&mut reader) {
        let mut writer = Writer::default();
        block.write(&mut writer);
        assert!(bytes.starts_with(&writer.done()));
    }
});
