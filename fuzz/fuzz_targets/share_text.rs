//! A share as its holder types it. What is read is shown as one text, and that is read as the same share.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::custody::Share;

fuzz_target!(|typed: &[u8]| {
    let Ok(share) = Share::parse(typed) else { return };
    let shown = share.expose_text();
    let otherwise = shown.replace('-', " ").to_uppercase();
    for text in [shown.as_str(), &otherwise] {
        let again = Share::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        assert!(again.expose_text() == shown && again.number() == share.number());
    }
    // A typing error in any one character is found.
    for (at, _) in shown.char_indices().skip(5) {
        let mut wrong = shown.as_bytes().to_vec();
        wrong[at] = if wrong[at] == b'7' { b'8' } else { b'7' };
        assert!(Share::parse(&wrong).is_err(), "at {at}");
    }
});
