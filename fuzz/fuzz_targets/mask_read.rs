//! A mask and a sealed value's plaintext in a row that somebody wrote to: the first byte says of which kind.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::codec::{Reader, Writer};
use vault_core::mask::Mask;
use vault_core::value::Value;
use vault_core::words::Kind;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    let mut reader = Reader::new(bytes);
    if let Ok(mask) = Mask::read(&mut reader, kind) {
        let mut writer = Writer::default();
        mask.write(&mut writer);
        assert!(bytes.starts_with(&writer.done()) && mask.kind() == kind);
        let _ = (mask.to_string(), mask.last_four_only().to_string());
    }
    if let Ok(value) = Value::from_padded(kind, bytes) {
        assert!(value.expose_padded().as_slice() == bytes && value.kind() == kind);
    }
});
