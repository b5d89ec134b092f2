//! Bytes of any kind: a mandate, a document number, another system's token.
//!
//! Refused: none at all, and more than 4 KiB. That they hold no card number is for who takes them in to say (see
//! [`holds_issued_card`](crate::network::holds_issued_card)). [`FreeBytes`] have no Debug, Display, Clone, `PartialEq` or
//! Serialize.

use std::fmt;

use crate::secret::SecretBytes;

/// The most bytes: what one text value of the contract may have.
pub const MAX_FREE_BYTES: usize = 4_096;

/// 1 to 4,096 bytes.
pub struct FreeBytes(SecretBytes);

/// There were no bytes, or more than 4,096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeBytesError;

impl FreeBytesError {
    /// The rule that was broken, as a sentence behind a field's name.
    #[must_use]
    pub fn rule(self) -> &'static str {
        "must have 1 to 4,096 bytes"
    }
}

impl fmt::Display for FreeBytesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

impl std::error::Error for FreeBytesError {}

impl FreeBytes {
    /// Takes 1 to 4,096 bytes as they are.
    pub fn parse(bytes: &[u8]) -> Result<Self, FreeBytesError> {
        let bounded = (1..=MAX_FREE_BYTES).contains(&bytes.len());
        if bounded { Ok(Self(SecretBytes::of(bytes))) } else { Err(FreeBytesError) }
    }

    /// The bytes: for a cipher, a MAC or the one answer that may carry them.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8] {
        self.0.expose_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_as_they_are_up_to_four_kibibytes() {
        for good in [&b"\0"[..], b"\xff\xfe a\n", &[7; MAX_FREE_BYTES]] {
            assert!(FreeBytes::parse(good).is_ok_and(|b| b.expose_bytes() == good));
        }
        assert!(FreeBytes::parse(b"").is_err() && FreeBytes::parse(&[7; MAX_FREE_BYTES + 1]).is_err());
    }
}
