//! Bank accounts of the United States: a routing number, which is public, and an account number, which is not.
//!
//! Refused: a routing number whose check digit is wrong or that no bank can have (ABA), an account number of other than
//! 1 to 17 letters and digits (Nacha Operating Rules, entry detail record, field 6). A [`UsAccount`] has no Debug,
//! Display, Clone, `PartialEq` or Serialize.

use std::fmt;

use crate::secret::SecretBytes;

/// Digits of a routing number.
pub const ROUTING_DIGITS: usize = 9;
/// The most characters of an account number: what an entry of an ACH file has room for.
pub const MAX_ACCOUNT: usize = 17;

/// A routing number as people may write it: every digit, and one separator between any two.
const MAX_ROUTING_WRITTEN: usize = 2 * ROUTING_DIGITS - 1;
/// An account number as people may write it.
const MAX_ACCOUNT_WRITTEN: usize = 2 * MAX_ACCOUNT - 1;

/// Which bank: nine digits with a right check digit. It is public, and kept as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoutingNumber([u8; ROUTING_DIGITS]);

impl RoutingNumber {
    /// Reads nine digits; single spaces and hyphens between two of them are dropped.
    pub fn parse(written: &[u8]) -> Result<Self, AccountError> {
        if written.len() > MAX_ROUTING_WRITTEN {
            return Err(AccountError::Routing);
        }
        let mut digits = [0; ROUTING_DIGITS];
        let mut count = 0;
        let mut after_digit = false;
        for &byte in written {
            match byte {
                b'0'..=b'9' => {
                    *digits.get_mut(count).ok_or(AccountError::Routing)? = byte;
                    (count, after_digit) = (count + 1, true);
                }
                b' ' | b'-' if after_digit => after_digit = false,
                _ => return Err(AccountError::Routing),
            }
        }
        if count != ROUTING_DIGITS || !after_digit {
            return Err(AccountError::Routing);
        }
        let number = Self(digits);
        if number.check() != 0 || !number.is_some_banks() {
            return Err(AccountError::RoutingCheck);
        }
        Ok(number)
    }

    /// Nine ASCII digits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; ROUTING_DIGITS] {
        &self.0
    }

    /// The weighted sum modulo ten: weights 3, 7 and 1 from the left. Of a right number it is zero.
    fn check(self) -> u32 {
        self.0
            .iter()
            .zip([3, 7, 1].iter().cycle())
            .map(|(d, weight)| u32::from(d & 0x0f) * weight)
            .sum::<u32>()
            % 10
    }

    /// Whether the first two digits were ever given: the twelve districts, their thrift and electronic ranges, the
    /// government's (00) and traveller's checks (80).
    fn is_some_banks(self) -> bool {
        let [tens, ones, ..] = self.0;
        let district = (tens & 0x0f) * 10 + (ones & 0x0f);
        matches!(district, 0..=12 | 21..=32 | 61..=72 | 80) && self.0 != [b'0'; ROUTING_DIGITS]
    }
}

impl fmt::Display for RoutingNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

/// An account at a bank of the United States.
// INVARIANT: `number` is 1 to 17 digits and upper-case letters.
pub struct UsAccount {
    routing: RoutingNumber,
    number: SecretBytes,
}

/// Why bytes are no account. It reads after a field's name and never carries a character of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountError {
    /// The routing number is not nine digits.
    Routing,
    /// The routing number's check digit is wrong, or no bank has its first two digits.
    RoutingCheck,
    /// The account number has none or more than 17 characters.
    Length,
    /// The account number holds something besides ASCII letters and digits, single spaces and hyphens between them.
    Alphabet,
}

impl AccountError {
    /// The rule that was broken, as a sentence behind a field's name.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Routing => "must have a routing number of 9 digits",
            Self::RoutingCheck => "must have a routing number with a right check digit",
            Self::Length => "must have an account number of 1 to 17 characters",
            Self::Alphabet => {
                "must have an account number of letters and digits, with single spaces or hyphens between them"
            }
        }
    }
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

impl std::error::Error for AccountError {}

impl UsAccount {
    /// Reads 1 to 17 letters and digits; lower case is raised, single spaces and hyphens between two are dropped.
    /// Leading zeros are kept: to a bank they are part of the number.
    pub fn parse(routing: RoutingNumber, written: &[u8]) -> Result<Self, AccountError> {
        if written.len() > MAX_ACCOUNT_WRITTEN {
            return Err(AccountError::Length);
        }
        let mut number = SecretBytes::with_room(MAX_ACCOUNT);
        let mut after_character = false;
        for &byte in written {
            match byte {
                _ if byte.is_ascii_alphanumeric() => {
                    number.push(byte.to_ascii_uppercase()).ok_or(AccountError::Length)?;
                    after_character = true;
                }
                b' ' | b'-' if after_character => after_character = false,
                _ => return Err(AccountError::Alphabet),
            }
        }
        match (number.is_empty(), after_character) {
            (true, _) => Err(AccountError::Length),
            (false, false) => Err(AccountError::Alphabet),
            (false, true) => Ok(Self { routing, number }),
        }
    }

    /// Which bank.
    #[must_use]
    pub fn routing(&self) -> RoutingNumber {
        self.routing
    }

    /// The account number, 1 to 17 characters: for a cipher, a MAC or the one answer that may carry it.
    #[must_use]
    pub fn expose_number(&self) -> &[u8] {
        self.number.expose_bytes()
    }

    /// Whether both are the same account, in a time that does not tell where they differ.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.routing == other.routing && self.number.same_as(&other.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(text: &str) -> Result<RoutingNumber, AccountError> {
        RoutingNumber::parse(text.as_bytes())
    }

    #[test]
    fn a_routing_number_has_nine_digits_a_right_check_digit_and_a_district() {
        for good in
            ["021000021", "011401533", "091000019", "122105155", "267084131", "0210-0002-1", "021 000 021"]
        {
            let digits: String = good.chars().filter(char::is_ascii_digit).collect();
            assert_eq!(routing(good).map(|r| r.to_string()), Ok(digits), "{good}");
        }
        for (bad, why) in [
            ("", AccountError::Routing),
            ("02100002", AccountError::Routing),
            ("0210000210", AccountError::Routing),
            ("02100002x", AccountError::Routing),
            ("-021000021", AccountError::Routing),
            ("021000021-", AccountError::Routing),
            ("0210--00021", AccountError::Routing),
            ("021000022", AccountError::RoutingCheck),
            ("120000021", AccountError::RoutingCheck),
            ("000000000", AccountError::RoutingCheck),
            ("500000005", AccountError::RoutingCheck),
            ("990000003", AccountError::RoutingCheck),
        ] {
            assert_eq!(routing(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn one_check_digit_in_ten_is_right() {
        let right = |body: u32| (0..10).filter(|d| routing(&format!("02{body:06}{d}")).is_ok()).count();
        assert!((0..500).map(|n| n * 1_999).all(|body| right(body) == 1));
    }

    #[test]
    fn an_account_number_has_up_to_seventeen_characters_and_keeps_its_zeros() {
        let bank = routing("021000021").unwrap();
        let account = |text: &str| UsAccount::parse(bank, text.as_bytes());
        for (written, number) in [
            ("0012345678", "0012345678"),
            ("1", "1"),
            ("ab-12 cd", "AB12CD"),
            ("12345678901234567", "12345678901234567"),
        ] {
            let read = account(written).map_err(|e| e.to_string()).unwrap();
            assert_eq!(read.expose_number(), number.as_bytes());
            assert!(
                read.routing() == bank && read.same_as(&account(number).map_err(|e| e.to_string()).unwrap())
            );
        }
        assert!(!account("1").ok().unwrap().same_as(&account("01").ok().unwrap()));
        for (bad, why) in [
            ("", AccountError::Length),
            ("123456789012345678", AccountError::Length),
            ("-1", AccountError::Alphabet),
            ("1-", AccountError::Alphabet),
            ("1  2", AccountError::Alphabet),
            ("12.3", AccountError::Alphabet),
            ("é", AccountError::Alphabet),
        ] {
            assert_eq!(account(bad).err(), Some(why), "{bad}");
        }
    }
}
