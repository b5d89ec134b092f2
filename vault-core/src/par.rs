//! Payment account references (`EMVCo`, PAR): what a card and all network tokens made for it have in common, and no number.
//!
//! Refused: anything but 29 digits and upper-case letters. It cannot be used to pay, but it ties purchases to one account:
//! it has no Debug, and is shown where a mask is.

use std::fmt;

use crate::pan::holds_card_number;

/// Characters of a reference.
pub const PAR_LENGTH: usize = 29;
/// How many of them, in front, name who controls the BIN.
const CONTROLLER: usize = 4;

/// A payment account reference: 29 digits and upper-case letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Par([u8; PAR_LENGTH]);

/// Why a text is no payment account reference. It never carries the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParError {
    /// Not 29 digits and upper-case letters.
    Form,
    /// A card number stands in it.
    HoldsCard,
}

impl ParError {
    /// The rule that was broken, as a sentence behind a field's name.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Form => "must have 29 capital letters and digits",
            Self::HoldsCard => "must not hold a card number",
        }
    }
}

impl fmt::Display for ParError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

impl std::error::Error for ParError {}

impl Par {
    /// Reads 29 digits and upper-case letters, in which no 12 to 19 digits beside each other are a card number.
    pub fn parse(text: &str) -> Result<Self, ParError> {
        let bytes: [u8; PAR_LENGTH] = text.as_bytes().try_into().map_err(|_| ParError::Form)?;
        if !bytes.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()) {
            return Err(ParError::Form);
        }
        if holds_card_number(text) { Err(ParError::HoldsCard) } else { Ok(Self(bytes)) }
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
            assert_eq!(Par::parse(bad).err(), Some(ParError::Form), "{bad}");
        }
        assert_eq!(Par::parse("V001ABCD4111111111111111ABCDE").err(), Some(ParError::HoldsCard));
    }
}
