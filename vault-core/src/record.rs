//! A card at rest: what stands in a card row, and what of it may be seen.
//!
//! A row has two seals. Who opens the outer one (under the DEK) has a [`Card`]: mask, network, expiry, grants, but no
//! card number. The inner one holds the card number alone, under a key of its own, and travels as a [`SealedRecord`]
//! that only the keyring can open, and only from a `Disclosed`. docs/format.md has the bytes.

use crate::codec::{Reader, Torn, Writer};
use crate::envelope::KeyId;
use crate::pan::{CardExpiry, MaskedPan};
use crate::time::Timestamp;
use crate::words::Ref;

/// Version of the outer plaintext.
const FORMAT: u8 = 1;

/// Outer plaintexts are padded with zeros to a multiple of this, in bytes.
const BUCKET: usize = 32;

/// A merchant's number in row keys: given once, never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct MerchantId(pub u32);

/// A channel's number in grants: unique in its merchant, given once, never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ChannelId(pub u32);

/// A token format's number: unique in its merchant, given once, never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct FormatId(pub u16);

/// A row's key: 16 bytes of HMAC under IDX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowKey(pub [u8; 16]);

/// A data subject's id: 16 bytes of HMAC under REF; all zero where the card has no subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubjectId(pub [u8; 16]);

impl SubjectId {
    /// No subject was given.
    pub const NONE: Self = Self([0; 16]);
}

/// The most channels that one grant names: a bound on the row's size. A merchant with more uses "all but".
pub const MAX_GRANTS: usize = 64;

/// On which of its merchant's channels a token works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grants {
    /// On all, but these.
    AllBut(Vec<ChannelId>),
    /// On these.
    Only(Vec<ChannelId>),
}

impl Grants {
    /// Whether the token works on this channel.
    #[must_use]
    pub fn include(&self, channel: ChannelId) -> bool {
        match self {
            Self::AllBut(these) => !these.contains(&channel),
            Self::Only(these) => these.contains(&channel),
        }
    }

    /// The same without one channel; `None` if more than [`MAX_GRANTS`] would have to be named.
    #[must_use]
    pub fn without(&self, channel: ChannelId) -> Option<Self> {
        match self {
            Self::AllBut(these) if these.contains(&channel) => Some(self.clone()),
            Self::AllBut(these) if these.len() >= MAX_GRANTS => None,
            Self::AllBut(these) => Some(Self::AllBut(these.iter().copied().chain([channel]).collect())),
            Self::Only(these) => Some(Self::Only(these.iter().copied().filter(|c| *c != channel).collect())),
        }
    }

    /// Whether it works nowhere any more.
    #[must_use]
    pub fn none_left(&self) -> bool {
        matches!(self, Self::Only(these) if these.is_empty())
    }

    fn write(&self, w: &mut Writer) {
        let (kind, these) = match self {
            Self::AllBut(these) => (0, these),
            Self::Only(these) => (1, these),
        };
        w.u8(kind).u8(u8::try_from(these.len()).unwrap_or(u8::MAX));
        for channel in these {
            w.u32(channel.0);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Torn> {
        let kind = r.u8()?;
        let count = usize::from(r.u8()?);
        if count > MAX_GRANTS {
            return Err(Torn);
        }
        let these = (0..count).map(|_| r.u32().map(ChannelId)).collect::<Result<Vec<_>, _>>()?;
        match kind {
            0 => Ok(Self::AllBut(these)),
            1 => Ok(Self::Only(these)),
            _ => Err(Torn),
        }
    }
}

/// The inner seal as it lies in the row: neither part can be opened by who has the DEK alone.
#[derive(Clone, PartialEq, Eq)]
pub struct InnerSeal {
    /// Under which token root key the record key is wrapped.
    pub trk: KeyId,
    /// The record key, wrapped: XAES, 72 bytes.
    pub wrapped_key: [u8; 72],
    /// The card number, padded to 19 bytes and sealed: AES-256-GCM, 35 bytes.
    pub pan: [u8; 35],
}

/// What stands under the outer seal.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// Grows by one with every logged change of this record: a row put back to older bytes is found by it.
    pub version: u32,
    /// The record's name in the log.
    pub record: Ref,
    /// Which format made the token.
    pub format: FormatId,
    /// What may be shown of the card number.
    pub mask: MaskedPan,
    /// The card network's id, such as `visa`; empty if no prefix matched.
    pub network: String,
    /// The card's own expiry.
    pub card_expiry: Option<CardExpiry>,
    /// When the token was made.
    pub made_at: Timestamp,
    /// Until when the token works.
    pub valid_until: Option<Timestamp>,
    /// Where it works.
    pub grants: Grants,
    /// The data subject.
    pub subject: SubjectId,
    /// The card number; gone once the token is revoked, when the row is a tombstone.
    pub inner: Option<InnerSeal>,
}

impl Row {
    /// The outer plaintext.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(320);
        w.u8(FORMAT).u32(self.version).fixed(&self.record.0).u16(self.format.0);
        self.mask.write(&mut w);
        w.e(self.network.as_bytes());
        let (year, month) = self.card_expiry.map_or((0, 0), |e| (e.year(), e.month()));
        w.u16(year).u8(month);
        w.u64(self.made_at.0).u64(self.valid_until.map_or(0, |t| t.0));
        self.grants.write(&mut w);
        w.fixed(&self.subject.0);
        // Restrictions to purposes and single use come with a later format version; these bytes are theirs, zero now.
        w.u32(0);
        match &self.inner {
            None => w.u8(0),
            Some(inner) => w.u8(1).u32(inner.trk.0).fixed(&inner.wrapped_key).fixed(&inner.pan),
        };
        // Padded to a bucket, so that a ciphertext's length tells little of network and grants.
        let mut plain = w.done();
        plain.resize(plain.len().next_multiple_of(BUCKET), 0);
        plain
    }

    /// Reads an outer plaintext.
    pub fn decode(bytes: &[u8]) -> Result<Self, Torn> {
        let mut r = Reader::new(bytes);
        if r.u8()? != FORMAT {
            return Err(Torn);
        }
        let row = Self {
            version: r.u32()?,
            record: Ref(r.array()?),
            format: FormatId(r.u16()?),
            mask: MaskedPan::read(&mut r)?,
            network: r.text()?.to_owned(),
            card_expiry: match (r.u16()?, r.u8()?) {
                (0, 0) => None,
                (year, month) => Some(CardExpiry::new(year, month).map_err(|_| Torn)?),
            },
            made_at: Timestamp(r.u64()?),
            valid_until: Some(r.u64()?).filter(|t| *t != 0).map(Timestamp),
            grants: Grants::read(&mut r)?,
            subject: SubjectId(r.array()?),
            inner: {
                if r.u32()? != 0 {
                    return Err(Torn);
                }
                match r.u8()? {
                    0 => None,
                    1 => Some(InnerSeal { trk: KeyId(r.u32()?), wrapped_key: r.array()?, pan: r.array()? }),
                    _ => return Err(Torn),
                }
            },
        };
        let padding = r.rest();
        if padding.len() >= BUCKET || padding.iter().any(|b| *b != 0) || !bytes.len().is_multiple_of(BUCKET) {
            return Err(Torn);
        }
        Ok(row)
    }
}

/// A row whose outer seal was opened. There is no card number in it.
pub struct Card {
    /// The merchant whose token it is.
    pub merchant: MerchantId,
    /// What stood under the outer seal.
    pub row: Row,
}

impl Card {
    /// Whether the token was revoked everywhere: what is left is its tombstone.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.row.inner.is_none()
    }

    /// Whether the token's own time is over.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.row.valid_until.is_some_and(|until| until <= now)
    }

    /// The card number, still sealed; `None` for a tombstone.
    #[must_use]
    pub fn sealed(&self) -> Option<SealedRecord> {
        let inner = self.row.inner.clone()?;
        Some(SealedRecord { merchant: self.merchant, record: self.row.record, mask: self.row.mask, inner })
    }
}

/// A card number, sealed. It goes nowhere but through the journal, which makes a `Disclosed` of it.
pub struct SealedRecord {
    /// Whose.
    pub(crate) merchant: MerchantId,
    /// Its name in the log.
    pub(crate) record: Ref,
    /// What the card number must look like once it is open: XAES does not commit to its key, so this is checked.
    pub(crate) mask: MaskedPan,
    /// The seal.
    pub(crate) inner: InnerSeal,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pan::Pan;
    use crate::token::Keep;

    fn row(inner: bool) -> Row {
        let pan = Pan::parse(b"4111111111111111").map_err(|e| e.to_string()).unwrap();
        Row {
            version: 3,
            record: Ref([9; 16]),
            format: FormatId(2),
            mask: pan.mask(Keep::new(6, 4).unwrap()),
            network: "visa".into(),
            card_expiry: Some(CardExpiry::new(2030, 12).unwrap()),
            made_at: Timestamp(5),
            valid_until: Some(Timestamp(6)),
            grants: Grants::AllBut(vec![ChannelId(4)]),
            subject: SubjectId([8; 16]),
            inner: inner.then_some(InnerSeal { trk: KeyId(1), wrapped_key: [2; 72], pan: [3; 35] }),
        }
    }

    #[test]
    fn a_row_is_read_back_and_every_cut_or_longer_one_is_torn() {
        for inner in [true, false] {
            let bytes = row(inner).encode();
            assert!(Row::decode(&bytes).is_ok_and(|back| back == row(inner)));
            for cut in 0..bytes.len() {
                assert!(Row::decode(&bytes[..cut]).is_err());
            }
            assert!(Row::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn a_grant_is_narrowed_and_never_widened() {
        let (one, two) = (ChannelId(1), ChannelId(2));
        let all = Grants::AllBut(vec![]);
        let but_one = all.without(one).unwrap();
        assert!(all.include(one) && !but_one.include(one) && but_one.include(two));
        let none = Grants::Only(vec![one]).without(one).unwrap();
        assert!(none.none_left() && !none.include(one) && !but_one.none_left());
        let full = Grants::AllBut((0..64).map(ChannelId).collect());
        assert!(full.without(ChannelId(99)).is_none() && full.without(ChannelId(1)).is_some());
    }
}
