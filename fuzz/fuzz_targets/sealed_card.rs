//! What stood in a sealed card: written by a page that nobody of ours wrote, and opened by the vault.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::pan::Pan;
use vault_core::sealed::{read, write};
use vault_core::time::Timestamp;

fuzz_target!(|plain: &[u8]| {
    let now = Timestamp(1_790_000_000_000);
    let Ok((pan, expiry)) = read(plain, now, "s") else { return };
    // The number is one that stands there: its digits in their order, and a check digit.
    let mut digits = pan.expose_digits().iter();
    let mut next = digits.next();
    for byte in plain {
        if next == Some(byte) {
            next = digits.next();
        }
    }
    assert!(next.is_none() && Pan::parse(pan.expose_digits()).is_ok());
    // What is taken at the end of time is taken at its beginning.
    if read(plain, Timestamp(u64::MAX), "").is_ok() {
        assert!(read(plain, Timestamp(0), "").is_ok());
    }
    let out = write(&pan, expiry);
    assert_eq!(out.len(), 128);
    let Ok((back, same)) = read(&out, Timestamp(u64::MAX), "") else { panic!("what goes out reads back") };
    assert!(back.same_as(&pan) && same == expiry);
});
