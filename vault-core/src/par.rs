//! Payment account references (EMVCo, PAR): what a card and all network tokens made for it have in common, and no number.
//!
//! Refused: anything but 29 digits and upper-case letters. It cannot be used to pay, but it ties purchases to one account:
//! it has no Debug, and is shown where a mask is.

use std::fmt;

/// Characters of a reference.
pub const PAR_LENGTH: usize = 29;
/// How many of them, in front, name who controls the BIN.
const CONTROLLER: usize = 4;

/// A payment account reference: 29 digits and upper-case letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Par([u8; PAR_LENGTH]);

/// Why a text is no payment account reference. It never carries the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParError;

impl ParError {
    /// The rule that was broken, as a sentence behind a field's name.
    #[must_use]
    pub fn rule(self) -> &'static str {
        "must be a payment account reference of 29 digits and upper-case letters"
    }
}

impl fmt::Display for ParError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

impl std::error::Error for ParError {}

impl Par {
    /// Reads 29 digits and upper-case letters.
    pub fn parse(text: &str) -> Result<Self, ParError> {
        let bytes: [u8; PAR_LENGTH] = text.as_bytes().try_into().map_err(|_| ParError)?;
        let plain = bytes.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
        if plain { Ok(Self(bytes)) } else { Err(ParError) }
    }

    /// The reference as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The first four characters: who controls the BIN that the account's cards have.
    #[must_use]
    pub fn bin_controller(&self) -> &str {
        self.as_str().get(..CONTROLLER).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_29_characters_and_its_first_four_name_the_controller() {
        let text = "V0010013019326471230984710234";
        let par = Par::parse(text).unwrap();
        assert_eq!((par.as_str(), par.bin_controller()), (text, "V001"));
        for bad in ["", &text[1..], &format!("{text}0"), &text.to_lowercase(), &text.replace('9', "-")] {
            assert!(Par::parse(bad).is_err(), "{bad}");
        }
    }
}
