//! A format of any kind, a value of it, and dice: the token that is drawn.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vault_core::iban::{Country, Iban};
use vault_core::name::FormatName;
use vault_core::pan::{Pan, holds_card_number, luhn_sum};
use vault_core::pattern::Space;
use vault_core::phone::Phone;
use vault_core::plan::{Kept, sample};
use vault_core::policy::Format;
use vault_core::token::{MAX_TOKEN, Reuse, Scheme, Scope, Token};
use vault_core::words::Kind;

#[derive(Debug, Arbitrary)]
struct Case {
    kind: u8,
    scheme: u8,
    length: u8,
    country: u8,
    keep: (u8, u8),
    keep_domain: bool,
    prefix: Option<u32>,
    slots: bool,
    first: u32,
    last: u16,
    dice: u64,
}

fuzz_target!(|case: Case| {
    let kind = Kind::ALL[usize::from(case.kind) % Kind::ALL.len()];
    let scheme = [Scheme::Random, Scheme::Mixed, Scheme::Opaque][usize::from(case.scheme) % 3];
    let length = usize::from(case.length) % 40;
    let keep = [(length.to_string(), format!("{}+{}", case.keep.0 % 9, case.keep.1 % 5))];
    let number = matches!(kind, Kind::Card | Kind::NetworkToken | Kind::Digits);
    let format = Format {
        id: FormatName::parse("f").unwrap(),
        kind,
        scheme,
        mode: Reuse::Reuse,
        scope: Scope::Merchant,
        keep: if number { keep.into() } else { [].into() },
        keep_domain: case.keep_domain,
        luhn_prefix: case.prefix.map(|p| format!("99{}", p % 1_000_000)),
    };
    let Ok(built) = format.build() else { return };
    let country = Country::all().nth(usize::from(case.country) % 89);
    let (first, last) = (format!("{}", case.first % 1_000_000), format!("{:04}", case.last % 10_000));
    let kept = match kind {
        Kind::Phone => Kept { first: &first[..first.len().min(3)], last: "" },
        Kind::UsAccount => Kept::default(),
        _ => Kept { first: &first, last: &last },
    };
    let Ok(value) = sample(kind, length, country, kept) else { return };
    let slots = if case.slots { 5 } else { 0 };
    let Some(space) = Space::of(&built, &value, slots) else { return };
    assert!(space.size() > 0);
    let mut state = case.dice;
    let mut dice = |bound: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^= z >> 27;
        Ok(u64::try_from((u128::from(z) * u128::from(bound)) >> 64).unwrap())
    };
    let nth = space.nth(case.dice % 1_000).map(|token| token.as_str().to_owned());
    let drawn = space.draw(&mut dice).map(|token| token.as_str().to_owned()).ok();
    for text in nth.into_iter().chain(drawn) {
        assert!(Token::parse(&text).is_ok_and(|token| token.as_str() == text), "{text}");
        assert!(text.len() <= MAX_TOKEN);
        assert!(Iban::parse(text.as_bytes()).is_err() && Phone::parse(text.as_bytes()).is_err(), "{text}");
        if built.luhn_prefix().is_some() {
            assert!(text.starts_with("99") && luhn_sum(text.as_bytes()) == 0, "{text}");
        } else {
            assert!(Pan::parse(text.as_bytes()).is_err() && !holds_card_number(&text), "{text}");
        }
        if text.bytes().all(|b| b.is_ascii_digit()) && built.luhn_prefix().is_none() {
            assert!(luhn_sum(text.as_bytes()) > slots, "{text}");
        }
        // Digits that fail Luhn can be drawn for themselves: once in as many times as there are tokens.
        let itself = text.as_bytes() == value.expose_identity().as_slice();
        assert!(!itself || kind == Kind::Digits, "{text}");
    }
});
