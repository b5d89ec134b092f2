//! What a till with point-to-point encryption has of a payment: references, and no card number.
//!
//! Such a till hands out what the processor calls the payment and the account; the vault keeps it under a token, so that
//! refunds and loyalty work across channels. Refused: more than 128 bytes, characters that do not print. A
//! [`PaymentReference`] has no Debug, Display, Clone, `PartialEq` or Serialize.

use std::fmt;

use zeroize::Zeroizing;

use crate::codec::{Reader, Torn, Writer};
use crate::par::{PAR_LENGTH, Par};
use crate::secret::SecretBytes;

/// The longest reference of a processor, in bytes: four times a UUID's text.
pub const MAX_PAYMENT_REFERENCE: usize = 128;

/// A processor's reference to a payment or an account, and the payment account reference if the processor tells it.
// INVARIANT: `text` is 1 to 128 printable ASCII characters, none of them a space.
pub struct PaymentReference {
    text: SecretBytes,
    par: Option<Par>,
}

/// Why bytes are no reference. It never carries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaymentReferenceError;

impl PaymentReferenceError {
    /// The rule that was broken, as a sentence behind a field's name.
    #[must_use]
    pub fn rule(self) -> &'static str {
        "must have 1 to 128 printable ASCII characters without spaces"
    }
}

impl fmt::Display for PaymentReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

impl std::error::Error for PaymentReferenceError {}

impl PaymentReference {
    /// Reads 1 to 128 printable ASCII characters, none of them a space.
    pub fn parse(text: &[u8], par: Option<Par>) -> Result<Self, PaymentReferenceError> {
        let plain =
            (1..=MAX_PAYMENT_REFERENCE).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        if plain { Ok(Self { text: SecretBytes::of(text), par }) } else { Err(PaymentReferenceError) }
    }

    /// The processor's reference: for a cipher, a MAC or the one answer that may carry it.
    #[must_use]
    pub fn expose_text(&self) -> &[u8] {
        self.text.expose_bytes()
    }

    /// The reference that all cards and network tokens of the account share.
    #[must_use]
    pub fn par(&self) -> Option<&Par> {
        self.par.as_ref()
    }

    /// `e(reference) e(payment account reference, or empty)`: what is sealed.
    #[must_use]
    pub fn expose_encoded(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::with_capacity(2 + MAX_PAYMENT_REFERENCE + 2 + PAR_LENGTH);
        w.e(self.expose_text()).e(self.par.as_ref().map_or("", Par::as_str).as_bytes());
        Zeroizing::new(w.done())
    }

    /// Reads what [`expose_encoded`](Self::expose_encoded) gave.
    pub fn decode(bytes: &[u8]) -> Result<Self, Torn> {
        let mut r = Reader::new(bytes);
        let (text, par) = (r.e()?, r.text()?);
        r.end()?;
        let par = if par.is_empty() { None } else { Some(Par::parse(par).map_err(|_| Torn)?) };
        Self::parse(text, par).map_err(|_| Torn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_back_and_what_does_not_print_is_refused() {
        let par = Par::parse("V0010013019326471230984710234").unwrap();
        for (text, par) in
            [("8535296650153317", None), ("acq:/pay/0001?x=1", Some(par)), (&*"x".repeat(128), None)]
        {
            let reference = PaymentReference::parse(text.as_bytes(), par).unwrap_or_else(|e| panic!("{e}"));
            let back = PaymentReference::decode(&reference.expose_encoded()).unwrap_or_else(|_| panic!());
            assert!(back.expose_text() == text.as_bytes() && back.par() == par.as_ref());
        }
        for bad in ["", "a b", "a\n", "é", &"x".repeat(129)] {
            assert!(PaymentReference::parse(bad.as_bytes(), None).is_err(), "{bad}");
        }
        assert!(PaymentReference::decode(b"\x00\x01a").is_err() && PaymentReference::decode(b"").is_err());
    }
}
