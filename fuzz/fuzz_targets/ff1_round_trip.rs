//! FF1: any key, radix, length, tweak and digits, one at a time and eight in flight.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vault_core::ff1::{Alphanumeric, Decimal, Ff1, Ff1Error, LANES, MAX_LENGTH, MAX_TWEAK, Work, schedule};

#[derive(Debug, Arbitrary)]
struct Case {
    key: [u8; 32],
    alphanumeric: bool,
    /// Taken as they are, so that lengths and values that must be refused come, too.
    digits: Vec<u8>,
    wrapped: bool,
    tweak: Vec<u8>,
    more: u8,
}

macro_rules! round_trip {
    ($cipher:ty, $radix:expr, $case:expr) => {{
        let case: &Case = $case;
        let new = <$cipher>::new(schedule(&case.key.into()), case.digits.len(), case.tweak.len());
        let (length, tweak) = (case.digits.len(), case.tweak.len());
        let few = u64::saturating_pow($radix, u32::try_from(length).unwrap()) < 1_000_000;
        let Ok(cipher) = new else {
            let told = new.err().unwrap();
            assert_eq!(told, if few || length > MAX_LENGTH { Ff1Error::Domain } else { Ff1Error::Tweak });
            return;
        };
        assert!(!few && length <= MAX_LENGTH && tweak <= MAX_TWEAK && cipher.length() == length);
        tried(&cipher, $radix, case);
    }};
}

fn tried<const RADIX: u32>(cipher: &Ff1<aes::Aes256, RADIX>, radix: u64, case: &Case) {
    let plain: Vec<u8> = if case.wrapped {
        case.digits.iter().map(|digit| digit % u8::try_from(radix).unwrap()).collect()
    } else {
        case.digits.clone()
    };
    let mut one = plain.clone();
    let told = cipher.encrypt(&case.tweak, &mut one);
    if plain.iter().any(|digit| u64::from(*digit) >= radix) {
        assert!(told == Err(Ff1Error::Digit) && one == plain);
        return;
    }
    assert!(told.is_ok() && one.iter().all(|digit| u64::from(*digit) < radix));
    // Each item of the batch has a tweak of its own.
    let count = usize::from(case.more) % (2 * LANES + 3);
    let tweaks: Vec<Vec<u8>> = (0..count)
        .map(|nth| case.tweak.iter().map(|byte| byte.wrapping_add(u8::try_from(nth).unwrap())).collect())
        .collect();
    let mut many = vec![plain.clone(); count];
    let work = |many: &mut [Vec<u8>], turn: &dyn Fn(&mut [Work<'_>]) -> Result<(), Ff1Error>| {
        let items = many.iter_mut().zip(&tweaks);
        let mut work: Vec<Work<'_>> = items.map(|(digits, tweak)| Work { tweak, digits }).collect();
        assert!(turn(&mut work).is_ok());
    };
    work(&mut many, &|work| cipher.encrypt_batch(work));
    for (digits, tweak) in many.iter().zip(&tweaks) {
        let mut alone = plain.clone();
        assert!(cipher.encrypt(tweak, &mut alone).is_ok() && alone == *digits);
        assert!(cipher.decrypt(tweak, &mut alone).is_ok() && alone == plain);
    }
    work(&mut many, &|work| cipher.decrypt_batch(work));
    assert!(many.iter().all(|digits| *digits == plain));
    assert!(cipher.decrypt(&case.tweak, &mut one).is_ok() && one == plain);
}

fuzz_target!(|case: Case| {
    if case.alphanumeric { round_trip!(Alphanumeric, 36, &case) } else { round_trip!(Decimal, 10, &case) }
});
