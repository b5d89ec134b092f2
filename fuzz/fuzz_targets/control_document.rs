//! The Control document's JSON, as it lies sealed in its row.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::control::Control;
use vault_core::envelope::{Ctl, KeyId, KeyMaterial as _};
use vault_core::secret::Secret32;

fuzz_target!(|json: &[u8]| {
    let Ok(control) = serde_json::from_slice::<Control>(json) else { return };
    let written = serde_json::to_vec(&control).expect("what was read can be written");
    let ctl = Ctl::from_secret(Secret32::filled_by(|bytes| bytes.fill(7)));
    let (row, epoch) = control.seal(&[1; 16], KeyId(3), &ctl).unwrap_or_else(|e| panic!("{e}"));
    match Control::open(&row, &epoch, &[1; 16], KeyId(3), &ctl) {
        Ok(back) => assert!(serde_json::to_vec(&back).is_ok_and(|again| again == written)),
        // One of another format is damage, and nothing else is.
        Err(_) => assert_ne!(control.format, Control::first(control.made_at).format),
    }
    // A row of another vault, of another key or with a byte changed is none.
    assert!(Control::open(&row, &epoch, &[2; 16], KeyId(3), &ctl).is_err());
    assert!(Control::open(&row, &epoch, &[1; 16], KeyId(4), &ctl).is_err());
    let _ = control.policy.check();
    let _ = control.policy.doubts();
});
