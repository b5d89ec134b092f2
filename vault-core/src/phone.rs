//! Telephone numbers (ITU-T E.164): a plus sign, a country code, a national number; 7 to 15 digits in all.
//!
//! Refused: a number without the plus sign (only its country knows what it means), and one whose country code was never
//! given. A [`Phone`] has no Debug, Display, Clone, `PartialEq` or Serialize.

use std::fmt;

use crate::secret::SecretBytes;

/// The most digits of a number, its country code among them (ITU-T E.164, 6.2.1).
pub const MAX_PHONE: usize = 15;
/// The fewest digits: the shortest numbers in use have a country code of three and a national number of four.
pub const MIN_PHONE: usize = 7;
/// The fewest digits of a national number.
const MIN_NATIONAL: usize = 4;

/// A number as people may write it: the plus sign, every digit, and one separator between any two.
const MAX_WRITTEN: usize = 2 * MAX_PHONE;

/// Country codes of two digits. Source: the list of assigned codes in the annex to ITU Operational Bulletin 1114, and the
/// zones of ITU-T E.164.
const TWO: &[u8] = &[
    20, 27, 30, 31, 32, 33, 34, 36, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, 51, 52, 53, 54, 55, 56, 57, 58,
    60, 61, 62, 63, 64, 65, 66, 81, 82, 84, 86, 90, 91, 92, 93, 94, 95, 98,
];
/// Country codes of three digits, by their first two: which third digits are given. Same source.
const THREE: &[(u8, &[u8])] = &[
    (21, &[1, 2, 3, 6, 8]),
    (22, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (23, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (24, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (25, &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
    (26, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (29, &[0, 1, 7, 8, 9]),
    (35, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (37, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (38, &[0, 1, 2, 3, 5, 6, 7, 9]),
    (42, &[0, 1, 3]),
    (50, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (59, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (67, &[0, 2, 3, 4, 5, 6, 7, 8, 9]),
    (68, &[0, 1, 2, 3, 5, 6, 7, 8, 9]),
    (69, &[0, 1, 2]),
    (80, &[0, 8]),
    (85, &[0, 2, 3, 5, 6]),
    (87, &[0, 8]),
    (88, &[0, 1, 2, 3, 6, 8]),
    (96, &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
    (97, &[0, 1, 2, 3, 4, 5, 6, 7, 9]),
    (99, &[2, 3, 4, 5, 6, 8]),
];

/// A telephone number in international form.
// INVARIANT: `text` is a plus sign and 7 to 15 digits, `code` of which, 1 to 3, are the country's.
pub struct Phone {
    text: SecretBytes,
    code: usize,
}

/// Why bytes are no telephone number. It reads after a field's name and never carries a digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhoneError {
    /// Fewer than 7 or more than 15 digits, or fewer than 4 behind the country code.
    Length,
    /// No plus sign in front, or something besides digits with single spaces, hyphens, dots or brackets between them.
    Form,
    /// A country code that was never given.
    CountryCode,
}

impl PhoneError {
    /// The rule that was broken, as a sentence behind a field's name.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Length => "must have 7 to 15 digits, 4 of them behind the country code",
            Self::Form => {
                "must begin with + and hold only digits, with single spaces, hyphens or dots between them"
            }
            Self::CountryCode => "must begin with a country code of ITU-T E.164",
        }
    }
}

impl fmt::Display for PhoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

impl std::error::Error for PhoneError {}

impl Phone {
    /// Reads a plus sign and 7 to 15 digits; single spaces, hyphens and dots between two digits are dropped.
    pub fn parse(written: &[u8]) -> Result<Self, PhoneError> {
        if written.len() > MAX_WRITTEN {
            return Err(PhoneError::Length);
        }
        let mut text = SecretBytes::with_room(1 + MAX_PHONE);
        let mut after_digit = false;
        for (place, &byte) in written.iter().enumerate() {
            match byte {
                b'+' if place == 0 => text.push(byte).ok_or(PhoneError::Length)?,
                b'0'..=b'9' if place > 0 => {
                    text.push(byte).ok_or(PhoneError::Length)?;
                    after_digit = true;
                }
                b' ' | b'-' | b'.' if after_digit => after_digit = false,
                _ => return Err(PhoneError::Form),
            }
        }
        let digits = text.expose_bytes().get(1..).unwrap_or_default();
        if !digits.is_empty() && !after_digit {
            return Err(PhoneError::Form);
        }
        if digits.len() < MIN_PHONE {
            return Err(PhoneError::Length);
        }
        let code = code_digits(digits).ok_or(PhoneError::CountryCode)?;
        if digits.len() < code + MIN_NATIONAL {
            return Err(PhoneError::Length);
        }
        Ok(Self { text, code })
    }

    /// The number, with its plus sign: for a cipher, a MAC or the one answer that may carry it.
    #[must_use]
    pub fn expose_text(&self) -> &[u8] {
        self.text.expose_bytes()
    }

    /// The country code without the plus sign, 1 to 3 ASCII digits.
    #[must_use]
    pub fn country_code(&self) -> &[u8] {
        self.text.expose_bytes().get(1..=self.code).unwrap_or_default()
    }

    /// How many digits there are behind the country code, 4 to 14.
    #[must_use]
    pub fn national_digits(&self) -> usize {
        self.text.len().saturating_sub(1 + self.code)
    }

    /// The last `count` digits.
    #[must_use]
    pub fn last(&self, count: usize) -> &[u8] {
        let text = self.text.expose_bytes();
        text.get(text.len().saturating_sub(count)..).unwrap_or_default()
    }

    /// Whether both are the same number, in a time that does not tell where they differ.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.text.same_as(&other.text)
    }
}

/// How many of the digits are the country code. `None`: no such code was given.
fn code_digits(digits: &[u8]) -> Option<usize> {
    let mut values = digits.iter().map(|d| d & 0x0f);
    let (first, second, third) = (values.next()?, values.next()?, values.next()?);
    let two = first * 10 + second;
    if matches!(first, 1 | 7) {
        return Some(1);
    }
    if TWO.contains(&two) {
        return Some(2);
    }
    THREE.iter().any(|(front, thirds)| *front == two && thirds.contains(&third)).then_some(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_told_apart_into_country_code_and_national_number() {
        for (written, text, code, national) in [
            ("+1 212-555-0100", "+12125550100", "1", 10),
            ("+7.495.123.4567", "+74951234567", "7", 10),
            ("+49 1512 3456789", "+4915123456789", "49", 11),
            ("+44 20 7946 0018", "+442079460018", "44", 10),
            ("+353 1 234 5678", "+35312345678", "353", 8),
            ("+2904321", "+2904321", "290", 4),
            ("+883123456789012", "+883123456789012", "883", 12),
        ] {
            let read = Phone::parse(written.as_bytes()).map_err(|e| e.to_string()).unwrap();
            assert_eq!(read.expose_text(), text.as_bytes());
            assert_eq!((read.country_code(), read.national_digits()), (code.as_bytes(), national));
            assert_eq!(read.last(2), &text.as_bytes()[text.len() - 2..]);
            assert!(read.same_as(&Phone::parse(text.as_bytes()).ok().unwrap()));
        }
    }

    #[test]
    fn a_number_with_one_thing_wrong_is_refused_by_that_thing() {
        for (bad, why) in [
            ("", PhoneError::Length),
            ("+", PhoneError::Length),
            ("+123456", PhoneError::Length),
            ("+290432", PhoneError::Length),
            ("+1234567890123456", PhoneError::Length),
            ("12125550100", PhoneError::Form),
            ("0049151234567", PhoneError::Form),
            ("++12125550100", PhoneError::Form),
            ("+1 (212) 5550100", PhoneError::Form),
            ("+1  2125550100", PhoneError::Form),
            ("+12125550100 ", PhoneError::Form),
            ("+1212555010a", PhoneError::Form),
            ("+0123456789", PhoneError::CountryCode),
            ("+2101234567", PhoneError::CountryCode),
            ("+2801234567", PhoneError::CountryCode),
            ("+9991234567", PhoneError::CountryCode),
        ] {
            assert_eq!(Phone::parse(bad.as_bytes()).err(), Some(why), "{bad}");
        }
    }

    #[test]
    fn no_country_code_is_the_beginning_of_another() {
        assert!(
            TWO.iter().all(|two| !matches!(two / 10, 1 | 7) && THREE.iter().all(|(front, _)| front != two))
        );
        assert!(THREE.is_sorted() && TWO.is_sorted());
    }
}
