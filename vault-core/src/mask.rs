//! What may be shown of a value, for each kind of it.
//!
//! A mask is made once, when the value comes in, and lies in its row; nothing shows more later. Refused: a mask in a row
//! that no value of its kind can have.

use std::fmt;

use crate::codec::{Reader, Torn, Writer};
use crate::email::MAX_EMAIL;
use crate::iban::MAX_IBAN;
use crate::network_token::Beside;
use crate::pan::{Keep, MaskedPan};
use crate::par::Par;
use crate::words::Kind;

/// Stars that stand for a hidden part whose length is not told.
const UNTOLD: u8 = 3;

/// What may be shown of a value.
#[derive(Clone, PartialEq, Eq)]
pub enum Mask {
    /// Of a card number: its length, and the digits that the merchant's mask keeps.
    Card(MaskedPan),
    /// Of a network token: the same of its number, and what stands beside it.
    NetworkToken(MaskedPan, Beside),
    /// Of a reference: the payment account reference.
    Reference(Option<Par>),
    /// Of all else: both ends.
    Ends(Ends),
}

/// Both ends of a value, and how many characters between them are hidden.
#[derive(Clone, PartialEq, Eq)]
pub struct Ends {
    kind: Kind,
    front: String,
    hidden: u8,
    back: String,
}

impl Ends {
    /// What is readable in front, how many characters are not, and what is readable behind them.
    pub(crate) fn new(kind: Kind, front: &[u8], hidden: usize, back: &[u8]) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let hidden = u8::try_from(hidden).unwrap_or(UNTOLD);
        Self { kind, front: text(front), hidden, back: text(back) }
    }

    /// The same where not even the length of the hidden part is told.
    pub(crate) fn untold(kind: Kind, back: &[u8]) -> Self {
        Self::new(kind, &[], UNTOLD.into(), back)
    }

    /// What is readable in front: a country, a country code, a routing number, or nothing.
    #[must_use]
    pub fn front(&self) -> &str {
        &self.front
    }

    /// What is readable at the end: of an account its last four characters, of a telephone number two, of an address the
    /// domain behind its `@`, or nothing.
    #[must_use]
    pub fn back(&self) -> &str {
        &self.back
    }

    /// Without what is in front, and of an address without its domain.
    fn last_only(&self) -> Self {
        let front = u8::try_from(self.front.len()).unwrap_or(0);
        match self.kind {
            Kind::Email => Self::untold(self.kind, b""),
            Kind::Card
            | Kind::NetworkToken
            | Kind::Reference
            | Kind::Iban
            | Kind::UsAccount
            | Kind::Digits
            | Kind::Phone
            | Kind::Bytes => {
                let hidden = self.hidden.saturating_add(front);
                Self { kind: self.kind, front: String::new(), hidden, back: self.back.clone() }
            }
        }
    }
}

impl Mask {
    /// Of what kind of value.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Card(_) => Kind::Card,
            Self::NetworkToken(..) => Kind::NetworkToken,
            Self::Reference(_) => Kind::Reference,
            Self::Ends(ends) => ends.kind,
        }
    }

    /// Of a number that looks like a card's: its mask.
    #[must_use]
    pub fn number(&self) -> Option<&MaskedPan> {
        match self {
            Self::Card(mask) | Self::NetworkToken(mask, _) => Some(mask),
            Self::Reference(_) | Self::Ends(_) => None,
        }
    }

    /// The same showing the last characters only: of a network token also those of the card behind it.
    #[must_use]
    pub fn last_four_only(&self) -> Self {
        match self {
            Self::Card(mask) => Self::Card(mask.last_four_only()),
            Self::NetworkToken(mask, beside) => {
                let beside = Beside { funding_last_four: beside.funding_last_four, ..Beside::default() };
                Self::NetworkToken(mask.last_four_only(), beside)
            }
            Self::Reference(_) => Self::Reference(None),
            Self::Ends(ends) => Self::Ends(ends.last_only()),
        }
    }

    /// The same showing no more of a card's or network token's number than `keep` says for its length.
    #[must_use]
    pub fn narrowed(&self, keep: impl Fn(usize) -> Keep) -> Self {
        match self {
            Self::Card(mask) => Self::Card(mask.narrowed(keep(mask.length()))),
            Self::NetworkToken(mask, beside) => {
                Self::NetworkToken(mask.narrowed(keep(mask.length())), *beside)
            }
            Self::Reference(_) | Self::Ends(_) => self.clone(),
        }
    }

    /// Of a card: as [`MaskedPan::write`]. Of a network token the same, then [`Beside::write`]. Of a reference `e(PAR)`,
    /// empty without one. Of all else `e(front)`, hidden u8, `e(back)`.
    pub fn write(&self, w: &mut Writer) {
        match self {
            Self::Card(mask) => mask.write(w),
            Self::NetworkToken(mask, beside) => {
                mask.write(w);
                beside.write(w);
            }
            Self::Reference(par) => {
                w.e(par.as_ref().map_or("", Par::as_str).as_bytes());
            }
            Self::Ends(Ends { kind: _, front, hidden, back }) => {
                w.e(front.as_bytes()).u8(*hidden).e(back.as_bytes());
            }
        }
    }

    /// Reads what [`write`](Self::write) wrote for a value of this kind.
    pub fn read(r: &mut Reader<'_>, kind: Kind) -> Result<Self, Torn> {
        match kind {
            Kind::Card => MaskedPan::read(r).map(Self::Card),
            Kind::NetworkToken => Ok(Self::NetworkToken(MaskedPan::read(r)?, Beside::read(r)?)),
            Kind::Reference => match r.text()? {
                "" => Ok(Self::Reference(None)),
                par => Par::parse(par).map(|par| Self::Reference(Some(par))).map_err(|_| Torn),
            },
            Kind::Iban | Kind::UsAccount | Kind::Digits | Kind::Phone | Kind::Email | Kind::Bytes => {
                let (front, hidden, back) = (r.text()?, r.u8()?, r.text()?);
                let shown = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
                if front.len() > MAX_IBAN || back.len() > MAX_EMAIL || !shown(front) || !shown(back) {
                    return Err(Torn);
                }
                Ok(Self::Ends(Ends { kind, front: front.to_owned(), hidden, back: back.to_owned() }))
            }
        }
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Card(mask) | Self::NetworkToken(mask, _) => mask.fmt(f),
            Self::Reference(_) => f.write_str("***"),
            Self::Ends(Ends { kind: _, front, hidden, back }) => {
                write!(f, "{front}{}{back}", "*".repeat(usize::from(*hidden)))
            }
        }
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pan::Pan;

    fn masks() -> Vec<Mask> {
        let number = Pan::parse(b"4895370012003478").map_err(|e| e.to_string()).unwrap();
        let number = number.mask(Keep::new(6, 4).unwrap());
        let par = Par::parse("V0010013019326471230984710234").unwrap();
        let beside = Beside::parse("40010030273", "4242", Some(par)).unwrap();
        vec![
            Mask::Card(number),
            Mask::NetworkToken(number, beside),
            Mask::Reference(None),
            Mask::Reference(Some(par)),
            Mask::Ends(Ends::new(Kind::Iban, b"DE", 16, b"3000")),
            Mask::Ends(Ends::new(Kind::UsAccount, b"021000021-", 6, b"6789")),
            Mask::Ends(Ends::new(Kind::Digits, b"", 10, b"")),
            Mask::Ends(Ends::new(Kind::Phone, b"+49", 9, b"89")),
            Mask::Ends(Ends::untold(Kind::Email, b"@example.com")),
            Mask::Ends(Ends::untold(Kind::Bytes, b"")),
        ]
    }

    #[test]
    fn a_mask_is_read_back_as_its_kind_and_every_cut_is_torn() {
        for mask in masks() {
            let mut w = Writer::default();
            mask.write(&mut w);
            let bytes = w.done();
            let read = |bytes: &[u8]| {
                let mut r = Reader::new(bytes);
                let mask = Mask::read(&mut r, mask.kind())?;
                r.end().map(|()| mask)
            };
            assert!(read(&bytes).is_ok_and(|back| back == mask));
            assert!((0..bytes.len()).all(|cut| read(&bytes[..cut]).is_err()));
        }
        let mut w = Writer::default();
        Mask::Ends(Ends::new(Kind::Iban, &[b'D'; 35], 1, b"")).write(&mut w);
        assert!(Mask::read(&mut Reader::new(&w.done()), Kind::Iban).is_err());
    }

    #[test]
    fn what_a_person_sees_and_what_is_left_of_it_for_last_four() {
        let shown: Vec<String> = masks().iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "489537******3478",
                "489537******3478",
                "***",
                "***",
                "DE****************3000",
                "021000021-******6789",
                "**********",
                "+49*********89",
                "***@example.com",
                "***"
            ]
        );
        let last: Vec<String> = masks().iter().map(|m| m.last_four_only().to_string()).collect();
        assert_eq!(
            last,
            [
                "************3478",
                "************3478",
                "***",
                "***",
                "******************3000",
                "****************6789",
                "**********",
                "************89",
                "***",
                "***"
            ]
        );
        let narrow = |_| Keep::NOTHING;
        assert_eq!(masks()[1].narrowed(narrow).to_string(), "****************");
        assert!(masks()[4].narrowed(narrow) == masks()[4]);
    }
}
