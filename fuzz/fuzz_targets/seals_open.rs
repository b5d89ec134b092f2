//! What was sealed to a public key (HPKE) or under a key (XAES-256-GCM, AES-256-GCM), and changed; and any bytes instead.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vault_core::aead::{Xaes, open_once, seal_once};
use vault_core::hpke::{PrivateKey, PublicKey};
use vault_core::secret::Secret32;

#[derive(Debug, Arbitrary)]
struct Case<'a> {
    key: [u8; 32],
    public: &'a [u8],
    info: &'a [u8],
    plain: &'a [u8],
    enc: &'a [u8],
    ciphertext: &'a [u8],
    at: u16,
    by: u8,
}

impl Case<'_> {
    /// These bytes with one of them changed.
    fn changed(&self, bytes: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        let at = usize::from(self.at) % bytes.len().max(1);
        if let Some(byte) = changed.get_mut(at) {
            *byte ^= self.by.max(1);
        }
        changed
    }
}

fuzz_target!(|case: Case<'_>| {
    let secret = || Secret32::filled_by(|bytes| bytes.copy_from_slice(&case.key));
    let private = PrivateKey::derive(&secret());
    assert!(private.open(case.info, case.enc, case.ciphertext).is_err(), "bytes that nobody sealed");
    if let Ok(strange) = PublicKey::parse(case.public) {
        assert!(strange.as_bytes() == case.public && strange.seal(case.info, case.plain).is_ok());
    }
    let Ok(sealed) = private.public_key().seal(case.info, case.plain) else { panic!("a key of ours") };
    let opens = |info: &[u8], enc: &[u8], ciphertext: &[u8]| private.open(info, enc, ciphertext);
    assert!(opens(case.info, &sealed.enc, &sealed.ciphertext).is_ok_and(|plain| *plain == case.plain));
    assert!(opens(case.info, &sealed.enc, &case.changed(&sealed.ciphertext)).is_err());
    assert!(opens(&[case.info, &[0]].concat(), &sealed.enc, &sealed.ciphertext).is_err());
    // The highest bit of an X25519 point is not looked at (RFC 7748, 5), and HPKE's key is bound to the bytes all the same.
    assert!(opens(case.info, &case.changed(&sealed.enc), &sealed.ciphertext).is_err());

    let xaes = Xaes::new(&secret());
    assert!(
        xaes.open(case.info, case.ciphertext).is_err()
            && open_once(&secret(), case.info, case.ciphertext).is_err()
    );
    let Ok(row) = xaes.seal(case.info, case.plain) else { panic!("randomness") };
    assert!(xaes.open(case.info, &row).is_ok_and(|plain| *plain == case.plain));
    assert!(xaes.open(case.info, &case.changed(&row)).is_err());
    let once = seal_once(&secret(), case.info, case.plain);
    assert!(open_once(&secret(), case.info, &once).is_ok_and(|plain| *plain == case.plain));
    assert!(open_once(&secret(), case.info, &case.changed(&once)).is_err());
});
