//! Network tokens and the device numbers of wallets (`EMVCo` Payment Tokenisation): numbers that look like card numbers and
//! are paid with in their place.
//!
//! One has an expiry of its own, belongs to the requestor that asked for it, and is tied to its card by the last four
//! digits that people know and by the payment account reference. Refused: one without an expiry. A [`NetworkToken`] has no
//! Debug, Display, Clone, `PartialEq` or Serialize.

use std::fmt;

use zeroize::Zeroizing;

use crate::codec::{Reader, Torn, Writer};
use crate::pan::{PADDED, Pan};
use crate::par::{PAR_LENGTH, Par};

/// Digits of a token requestor id.
pub const REQUESTOR_DIGITS: usize = 11;

/// Who asked for a network token: three digits of the token service provider, eight of the requestor. It is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestorId([u8; REQUESTOR_DIGITS]);

/// Why a text is none of the things that stand beside a network token. It never carries the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BesideError {
    /// No requestor id of 11 digits.
    Requestor,
    /// No four digits.
    FundingLastFour,
}

impl BesideError {
    /// The rule that was broken, as a sentence behind a field's name.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Requestor => "must be a token requestor id of 11 digits",
            Self::FundingLastFour => "must be the last four digits of the card behind the token",
        }
    }
}

impl fmt::Display for BesideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

impl std::error::Error for BesideError {}

impl RequestorId {
    /// Reads 11 digits.
    pub fn parse(text: &str) -> Result<Self, BesideError> {
        digits(text).map(Self).ok_or(BesideError::Requestor)
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// What stands beside a network token, and may be shown with its mask.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Beside {
    /// Who asked for it.
    pub requestor: Option<RequestorId>,
    /// The last four digits of the card behind it: those that the cardholder knows.
    pub funding_last_four: Option<[u8; 4]>,
    /// The reference that it shares with the card and the card's other tokens.
    pub par: Option<Par>,
}

impl Beside {
    /// Reads each, empty where it is not known.
    pub fn parse(requestor: &str, funding_last_four: &str, par: Option<Par>) -> Result<Self, BesideError> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let last_four = |text: String| digits(&text).ok_or(BesideError::FundingLastFour);
        Ok(Self {
            requestor: some(requestor).map(|text| RequestorId::parse(&text)).transpose()?,
            funding_last_four: some(funding_last_four).map(last_four).transpose()?,
            par,
        })
    }

    /// The last four digits of the card behind the token; empty where they are not known.
    #[must_use]
    pub fn funding_last_four(&self) -> &str {
        self.funding_last_four.as_ref().and_then(|four| std::str::from_utf8(four).ok()).unwrap_or_default()
    }

    /// Each as `e(text)`, empty where it is not known: requestor id, last four, payment account reference.
    pub fn write(&self, w: &mut Writer) {
        w.e(self.requestor.as_ref().map_or("", RequestorId::as_str).as_bytes());
        w.e(self.funding_last_four().as_bytes());
        w.e(self.par.as_ref().map_or("", Par::as_str).as_bytes());
    }

    /// Reads what [`write`](Self::write) wrote.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Torn> {
        let (requestor, last_four, par) = (r.text()?, r.text()?, r.text()?);
        let par = if par.is_empty() { None } else { Some(Par::parse(par).map_err(|_| Torn)?) };
        Self::parse(requestor, last_four, par).map_err(|_| Torn)
    }
}

fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes: [u8; N] = text.as_bytes().try_into().ok()?;
    bytes.iter().all(u8::is_ascii_digit).then_some(bytes)
}

/// The most bytes that a network token takes where it is sealed.
const MOST: usize = PADDED + 2 + REQUESTOR_DIGITS + 2 + 4 + 2 + PAR_LENGTH;

/// A network token, with what stands beside it.
pub struct NetworkToken {
    number: Pan,
    beside: Beside,
}

impl NetworkToken {
    /// A token's number (12 to 19 digits that pass the Luhn check, as a card number's do) and what stands beside it.
    #[must_use]
    pub fn new(number: Pan, beside: Beside) -> Self {
        Self { number, beside }
    }

    /// The number itself, which a payment is made with. It is guarded as a card number is.
    #[must_use]
    pub fn number(&self) -> &Pan {
        &self.number
    }

    /// What stands beside it.
    #[must_use]
    pub fn beside(&self) -> &Beside {
        &self.beside
    }

    /// Number, padded to 19 bytes, and what stands beside it: what is sealed.
    #[must_use]
    pub fn expose_encoded(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::with_capacity(MOST);
        w.fixed(self.number.padded());
        self.beside.write(&mut w);
        Zeroizing::new(w.done())
    }

    /// Reads what [`expose_encoded`](Self::expose_encoded) gave.
    pub fn decode(bytes: &[u8]) -> Result<Self, Torn> {
        let mut r = Reader::new(bytes);
        let number = Pan::from_padded(r.fixed(PADDED)?).map_err(|_| Torn)?;
        let beside = Beside::read(&mut r)?;
        r.end()?;
        Ok(Self { number, beside })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn par() -> Par {
        Par::parse("V0010013019326471230984710234").unwrap()
    }

    #[test]
    fn what_stands_beside_a_token_is_read_or_refused_by_name() {
        let beside = Beside::parse("40010030273", "4242", Some(par())).unwrap();
        assert_eq!(beside.requestor.unwrap().as_str(), "40010030273");
        assert_eq!((beside.funding_last_four(), beside.par.unwrap().bin_controller()), ("4242", "V001"));
        assert!(Beside::parse("", "", None).unwrap() == Beside::default());
        assert_eq!(Beside::parse("4001003027", "", None).err(), Some(BesideError::Requestor));
        assert_eq!(Beside::parse("4001003027x", "", None).err(), Some(BesideError::Requestor));
        assert_eq!(Beside::parse("", "424", None).err(), Some(BesideError::FundingLastFour));
        assert_eq!(Beside::parse("", "42 4", None).err(), Some(BesideError::FundingLastFour));
    }

    #[test]
    fn a_token_is_read_back_and_every_cut_is_torn() {
        for beside in [Beside::default(), Beside::parse("40010030273", "4242", Some(par())).unwrap()] {
            let number = Pan::parse(b"4895370012003478").map_err(|e| e.to_string()).unwrap();
            let bytes = NetworkToken::new(number, beside).expose_encoded();
            assert!(bytes.len() <= MOST);
            let back = NetworkToken::decode(&bytes).unwrap();
            assert!(back.number().expose_digits() == b"4895370012003478" && *back.beside() == beside);
            for cut in 0..bytes.len() {
                assert!(NetworkToken::decode(&bytes[..cut]).is_err());
            }
            assert!(NetworkToken::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }
}
