//! A slot of any key and format, and two card numbers: their `ff1` tokens.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vault_core::envelope::{Fpk, KeyId, KeyMaterial as _};
use vault_core::name::FormatName;
use vault_core::pan::{Pan, luhn_sum};
use vault_core::policy::Format;
use vault_core::record::{ChannelId, FormatId};
use vault_core::secret::Secret32;
use vault_core::token::{LEAST_FF1_HIDDEN, Reuse, Scheme, Scope};
use vault_core::vaultless::{SLOTS, Served, Slot, slot_of};
use vault_core::words::Kind;

#[derive(Debug, Arbitrary)]
struct Case {
    key: [u8; 32],
    number: u8,
    id: u32,
    format: u16,
    channel: Option<u32>,
    length: u8,
    keep: Option<(u8, u8)>,
    one: u64,
    other: u64,
}

/// The card number of `length` digits that begins with these of `n` and has a right check digit.
fn pan(n: u64, length: usize) -> Pan {
    let mut digits = format!("{n:020}").into_bytes().split_off(21 - length);
    digits.push(b'0');
    *digits.last_mut().unwrap() += (10 - luhn_sum(&digits)) % 10;
    let Ok(pan) = Pan::parse(&digits) else { panic!("digits with a check digit") };
    pan
}

fuzz_target!(|case: Case| {
    let length = 12 + usize::from(case.length) % 8;
    let keep = case.keep.map(|(first, last)| (length.to_string(), format!("{}+{}", first % 9, last % 5)));
    let format = Format {
        id: FormatName::parse("f").unwrap(),
        kind: Kind::Card,
        scheme: Scheme::Ff1,
        mode: Reuse::Reuse,
        scope: Scope::Merchant,
        keep: keep.into_iter().collect(),
        keep_domain: false,
        luhn_prefix: None,
    };
    let Ok(built) = format.build() else { return };
    let fpk = Fpk::from_secret(Secret32::filled_by(|bytes| bytes.copy_from_slice(&case.key)));
    let served = Served { format: FormatId(case.format), channel: case.channel.map(ChannelId) };
    let Ok(slot) = Slot::new(case.number, (KeyId(case.id), &fpk), served, &built) else {
        assert!(!(1..=SLOTS).contains(&case.number), "a format that can be built and a number that is one");
        return;
    };
    let (one, other) = (pan(case.one, length), pan(case.other, length));
    let (Some(token), Some(second)) = (slot.token(&one), slot.token(&other)) else {
        assert!(built.keep(length).is_none());
        return;
    };
    let keep = slot.keep(length).unwrap();
    assert!(keep.hidden(length) >= LEAST_FF1_HIDDEN);
    for (pan, token) in [(&one, &token), (&other, &second)] {
        let (digits, first, last) = (token.as_bytes(), usize::from(keep.first()), usize::from(keep.last()));
        assert!(digits.len() == length && digits[..first] == pan.expose_digits()[..first]);
        assert!(digits[length - last..] == pan.expose_digits()[length - last..]);
        assert!(luhn_sum(digits) == case.number && slot_of(token, SLOTS) == Some(case.number));
        assert!(slot.token(pan).is_some_and(|again| again.same_as(token)));
    }
    assert!(one.same_as(&other) == token.same_as(&second), "two cards of one token");
});
