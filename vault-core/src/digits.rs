//! Gift card, loyalty and other numbers that are digits and nothing more.
//!
//! Refused: anything but 6 to 32 digits. That such a number is no card number is for who takes it in to say: it needs the
//! networks' prefixes (see [`holds_issued_card`](crate::network::holds_issued_card)). A [`DigitString`] has no Debug,
//! Display, Clone, `PartialEq` or Serialize.

use std::fmt;

use crate::secret::SecretBytes;

/// The fewest digits: with less there are not enough tokens to hide among.
pub const MIN_DIGIT_STRING: usize = 6;
/// The most digits.
pub const MAX_DIGIT_STRING: usize = 32;

/// A number as people may write it: every digit, and one separator between any two.
const MAX_WRITTEN: usize = 2 * MAX_DIGIT_STRING - 1;

/// 6 to 32 digits.
// INVARIANT: ASCII digits alone.
pub struct DigitString(SecretBytes);

/// Why bytes are no such number. It reads after a field's name and never carries a digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigitsError {
    /// Fewer than 6 or more than 32 digits.
    Length,
    /// Something besides ASCII digits with single spaces or hyphens between them.
    NotDigits,
}

impl DigitsError {
    /// The rule that was broken, as a sentence behind a field's name.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Length => "must have 6 to 32 digits",
            Self::NotDigits => "may hold only digits, with single spaces or hyphens between them",
        }
    }
}

impl fmt::Display for DigitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

impl std::error::Error for DigitsError {}

impl DigitString {
    /// Reads 6 to 32 ASCII digits; single spaces and hyphens between two digits are dropped. Leading zeros are kept.
    pub fn parse(written: &[u8]) -> Result<Self, DigitsError> {
        if written.len() > MAX_WRITTEN {
            return Err(DigitsError::Length);
        }
        let mut digits = SecretBytes::with_room(MAX_DIGIT_STRING);
        let mut after_digit = false;
        for &byte in written {
            match byte {
                b'0'..=b'9' => {
                    digits.push(byte).ok_or(DigitsError::Length)?;
                    after_digit = true;
                }
                b' ' | b'-' if after_digit => after_digit = false,
                _ => return Err(DigitsError::NotDigits),
            }
        }
        if !digits.is_empty() && !after_digit {
            return Err(DigitsError::NotDigits);
        }
        if digits.len() < MIN_DIGIT_STRING {
            return Err(DigitsError::Length);
        }
        Ok(Self(digits))
    }

    /// The digits in ASCII: for a cipher, a MAC or the one answer that may carry them.
    #[must_use]
    pub fn expose_digits(&self) -> &[u8] {
        self.0.expose_bytes()
    }

    /// How many digits, 6 to 32.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no number is empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The last four digits.
    #[must_use]
    pub fn last_four(&self) -> &[u8] {
        let digits = self.0.expose_bytes();
        digits.get(digits.len().saturating_sub(4)..).unwrap_or_default()
    }

    /// Whether both are the same number, in a time that does not tell where they differ.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.same_as(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digit_string_has_6_to_32_digits_and_keeps_its_zeros() {
        let most = "0".repeat(32);
        for (written, digits) in
            [("000123", "000123"), ("6006-4912 3456", "600649123456"), (most.as_str(), most.as_str())]
        {
            let read = DigitString::parse(written.as_bytes()).map_err(|e| e.to_string()).unwrap();
            assert_eq!(read.expose_digits(), digits.as_bytes());
            assert_eq!(
                (read.len(), read.last_four()),
                (digits.len(), &digits.as_bytes()[digits.len() - 4..])
            );
            assert!(read.same_as(&DigitString::parse(digits.as_bytes()).ok().unwrap()));
        }
        for (bad, why) in [
            ("", DigitsError::Length),
            ("12345", DigitsError::Length),
            (&*"1".repeat(33), DigitsError::Length),
            (&*"1 ".repeat(32), DigitsError::Length),
            ("123456-", DigitsError::NotDigits),
            ("-123456", DigitsError::NotDigits),
            ("123--456", DigitsError::NotDigits),
            ("12345a", DigitsError::NotDigits),
            ("１２３４５６", DigitsError::NotDigits),
        ] {
            assert_eq!(DigitString::parse(bad.as_bytes()).err(), Some(why), "{bad}");
        }
    }
}
