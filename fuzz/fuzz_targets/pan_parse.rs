//! A card number as somebody wrote it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::pan::{Keep, Pan, holds_card_number, keep_allowed};

fuzz_target!(|written: &[u8]| {
    if let Ok(text) = std::str::from_utf8(written) {
        let _ = holds_card_number(text);
    }
    let Ok(pan) = Pan::parse(written) else { return };
    let digits: Vec<u8> = written.iter().copied().filter(u8::is_ascii_digit).collect();
    assert!(pan.expose_digits() == digits && (12..=19).contains(&pan.len()));
    assert!(Pan::from_padded(pan.padded()).is_ok_and(|back| back.same_as(&pan)));
    assert!(holds_card_number(std::str::from_utf8(pan.expose_digits()).unwrap_or_default()));
    for (first, last) in [(0, 0), (0, 4), (6, 0), (8, 0), (6, 4), (8, 4)] {
        let keep = Keep::new(first, last).unwrap_or(Keep::NOTHING);
        let mask = pan.mask(keep);
        assert!(keep_allowed(pan.len(), mask.keep()).is_ok() && mask.fits(&pan));
        let shown = mask.to_string();
        assert_eq!(shown.len(), pan.len());
        assert!(shown.bytes().filter(|b| *b == b'*').count() >= 4);
    }
});
