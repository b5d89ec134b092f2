//! A certificate's one name and its key's fingerprint.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use vault_core::pan::holds_card_number;
use vault_server::identity::{Fingerprint, PeerName};

fuzz_target!(|der: &[u8]| {
    let certificate = CertificateDer::from(der);
    let key = Fingerprint::of(&certificate);
    let Ok(name) = PeerName::of(&certificate) else { return };
    assert!(key.is_ok(), "a certificate with a name has a key");
    let text = name.as_str();
    assert!((1..=200).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'*'));
    assert!(!holds_card_number(text));
    assert_eq!(matches!(name, PeerName::Uri(_)), name.to_string().starts_with("uri:"));
});
