//! Card numbers for tests.

use vault_core::pan::Pan;
use vault_core::vault::NewCard;

/// Visa's test number.
pub const VISA: &str = "4111111111111111";
/// Mastercard's.
pub const MASTERCARD: &str = "5555555555554444";
/// American Express's: 15 digits.
pub const AMEX: &str = "378282246310005";

/// Parses a number that must be one.
pub fn pan(digits: &str) -> Pan {
    Pan::parse(digits.as_bytes()).unwrap_or_else(|e| panic!("a card number of the suite {e}"))
}

/// A card with nothing but its number.
pub fn card(digits: &str) -> NewCard {
    NewCard::new(pan(digits))
}

/// The `n`-th card number of `length` digits that begins with `prefix`. Its Luhn digit is worked out here, not by the
/// code under test (ISO/IEC 7812-1, annex B).
pub fn number(prefix: &str, length: usize, n: u32) -> String {
    let fill = length - prefix.len() - 1;
    let mut digits = format!("{prefix}{n:0fill$}");
    assert_eq!(digits.len(), length - 1, "{n} does not fit {length} digits behind {prefix}");
    let doubled = |digit: u32| if digit < 5 { digit * 2 } else { digit * 2 - 9 };
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, byte)| {
            let digit = u32::from(byte - b'0');
            if place % 2 == 0 { doubled(digit) } else { digit }
        })
        .sum();
    digits.push_str(&((10 - sum % 10) % 10).to_string());
    digits
}

/// The Luhn sum of digits modulo ten, worked out here: zero for a card number.
pub fn luhn(digits: &str) -> u32 {
    let doubled = |digit: u32| if digit < 5 { digit * 2 } else { digit * 2 - 9 };
    let value = |(place, digit): (usize, char)| {
        let digit = digit.to_digit(10).expect("a digit");
        if place % 2 == 1 { doubled(digit) } else { digit }
    };
    digits.chars().rev().enumerate().map(value).sum::<u32>() % 10
}
