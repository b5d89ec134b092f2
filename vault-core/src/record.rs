//! A card at rest: what stands in a card row, and what of it may be seen.
//!
//! A row has two seals. Who opens the outer one (under the DEK) has a [`Card`]: mask, network, expiry, grants, but no
//! card number. The inner one holds the card number alone, under a key of its own, and travels as a [`SealedRecord`]
//! that only the keyring can open, and only from a `Disclosed`. docs/format.md has the bytes. Rows of version 1 are read;
//! version 2 is written, whenever a row changes. Refused: other versions, kinds and words, and anything over its bound.

use crate::attributes::Attributes;
use crate::codec::{Reader, Torn, Writer};
use crate::envelope::KeyId;
use crate::mask::Mask;
use crate::pan::{CardExpiry, MaskedPan, PADDED};
use crate::restrictions::Restrictions;
use crate::time::Timestamp;
use crate::value::padded_length_allowed;
use crate::words::{Kind, Ref, ReplaceReason};

/// Version of the outer plaintext that is written.
const FORMAT: u8 = 2;

/// The one before it, which is read.
const FORMAT_BEFORE: u8 = 1;

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

/// A row's key: 16 bytes of HMAC under the first IDX, which stay its own wherever it comes to lie.
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

/// A card number, padded to 19 bytes and sealed.
const SEALED_PAN: usize = PADDED + SEAL_OVERHEAD;

/// By how much the inner seal is longer than what is in it: the tag of AES-256-GCM.
const SEAL_OVERHEAD: usize = 16;

/// The inner seal as it lies in the row: neither part can be opened by who has the DEK alone.
#[derive(Clone, PartialEq, Eq)]
pub struct InnerSeal {
    /// Under which token root key the record key is wrapped.
    pub trk: KeyId,
    /// The record key, wrapped: XAES, 72 bytes.
    pub wrapped_key: [u8; 72],
    /// The value, padded by its kind and sealed: AES-256-GCM, 16 bytes longer. Of a card 35 bytes.
    pub sealed: Box<[u8]>,
}

impl InnerSeal {
    fn write(&self, w: &mut Writer) {
        w.u32(self.trk.0).fixed(&self.wrapped_key).e(&self.sealed);
    }

    fn read(r: &mut Reader<'_>, kind: Kind) -> Result<Self, Torn> {
        let seal = Self { trk: KeyId(r.u32()?), wrapped_key: r.array()?, sealed: r.e()?.into() };
        let padded = seal.sealed.len().checked_sub(SEAL_OVERHEAD).ok_or(Torn)?;
        if padded_length_allowed(kind, padded) { Ok(seal) } else { Err(Torn) }
    }

    /// Version 1 had cards alone, and their seals without a length.
    fn read_before(r: &mut Reader<'_>) -> Result<Self, Torn> {
        Ok(Self { trk: KeyId(r.u32()?), wrapped_key: r.array()?, sealed: r.fixed(SEALED_PAN)?.into() })
    }
}

/// The disclosure that used a single-use token up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// The keyed hash of the request: the same principal and request id may read once more within a minute.
    pub by: [u8; 32],
    /// When.
    pub at: Timestamp,
}

/// Whether a token is at work, as far as it is not told by its time and its inner seal.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Whether it was stopped for now.
    pub disabled: bool,
    /// Whether it was used up.
    pub spent: Option<Spent>,
}

/// What stands for the inner seal of a vaultless token's row.
const VAULTLESS: u8 = 2;

const DISABLED: u8 = 1;
const SPENT: u8 = 2;

impl Standing {
    fn write(&self, w: &mut Writer) {
        let disabled = if self.disabled { DISABLED } else { 0 };
        match self.spent {
            None => w.u8(disabled),
            Some(Spent { by, at }) => w.u8(disabled | SPENT).fixed(&by).u64(at.0),
        };
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Torn> {
        let flags = r.u8()?;
        if flags & !(DISABLED | SPENT) != 0 {
            return Err(Torn);
        }
        let spent =
            if flags & SPENT == 0 { None } else { Some(Spent { by: r.array()?, at: Timestamp(r.u64()?) }) };
        Ok(Self { disabled: flags & DISABLED != 0, spent })
    }
}

/// The most cards that a token stood for before its own and that are kept: bounds a row. With as many, none takes its card's
/// place until the oldest one's retention is over.
pub const MAX_EARLIER: usize = 8;

/// A token has as many earlier cards within their retention as are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowded;

/// A card that a token stood for until another took its place: still there for refunds and disputes.
#[derive(Clone, PartialEq, Eq)]
pub struct Earlier {
    /// What may be shown of it.
    pub mask: MaskedPan,
    /// Its network's id; empty if no prefix matched.
    pub network: String,
    /// Its own expiry.
    pub card_expiry: Option<CardExpiry>,
    /// Since when it was the token's card; zero of the first one.
    pub since: Timestamp,
    /// Why it was replaced.
    pub reason: ReplaceReason,
    /// The keyed hash of the request that replaced it, cut: a retry finds it done.
    pub by: [u8; 16],
    /// When it was replaced.
    pub replaced_at: Timestamp,
    /// Until when it is kept.
    pub kept_until: Timestamp,
    /// Its number.
    pub inner: InnerSeal,
}

impl Earlier {
    fn write(&self, w: &mut Writer) {
        self.mask.write(w);
        w.e(self.network.as_bytes());
        write_expiry(w, self.card_expiry);
        w.u64(self.since.0).u8(self.reason.id()).fixed(&self.by);
        w.u64(self.replaced_at.0).u64(self.kept_until.0);
        self.inner.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Torn> {
        Ok(Self {
            mask: MaskedPan::read(r)?,
            network: r.text()?.to_owned(),
            card_expiry: read_expiry(r)?,
            since: Timestamp(r.u64()?),
            reason: ReplaceReason::from_id(r.u8()?).ok_or(Torn)?,
            by: r.array()?,
            replaced_at: Timestamp(r.u64()?),
            kept_until: Timestamp(r.u64()?),
            inner: InnerSeal::read(r, Kind::Card)?,
        })
    }
}

/// How long a card is kept that another one replaced, in days: the longest time from a payment to its dispute in the
/// networks' rules.
pub const RETENTION_DAYS: u32 = 540;

/// A card that takes another one's place.
pub struct NewFace {
    /// What may be shown of it.
    pub mask: MaskedPan,
    /// Its network's id; empty if no prefix matched.
    pub network: String,
    /// Its own expiry.
    pub card_expiry: Option<CardExpiry>,
    /// Its number.
    pub inner: InnerSeal,
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
    /// What may be shown of the value, and so of what kind it is.
    pub mask: Mask,
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
    /// What it may be used for.
    pub restrictions: Restrictions,
    /// Whether it is at work.
    pub standing: Standing,
    /// What is known around the card.
    pub attributes: Attributes,
    /// How often another card took its card's place. The fingerprint of a card that was replaced is of an older generation,
    /// and so gives this token no more.
    pub generation: u32,
    /// Since when it stands for its card; zero for the first one, which may be older than the token.
    pub since: Timestamp,
    /// The cards that it stood for before, the newest first.
    pub earlier: Vec<Earlier>,
    /// The card number; gone once the token is revoked, when the row is a tombstone.
    pub inner: Option<InnerSeal>,
    /// Whether the token is vaultless: its slot's key makes the card number, and the row holds restrictions alone.
    pub vaultless: bool,
}

impl Row {
    /// The outer plaintext, version 2.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(512);
        w.u8(FORMAT).u32(self.version).fixed(&self.record.0).u16(self.format.0).u8(self.kind().id());
        self.mask.write(&mut w);
        w.e(self.network.as_bytes());
        write_expiry(&mut w, self.card_expiry);
        w.u64(self.made_at.0).u64(self.valid_until.map_or(0, |t| t.0));
        self.grants.write(&mut w);
        w.fixed(&self.subject.0);
        self.restrictions.write(&mut w);
        self.standing.write(&mut w);
        self.attributes.write(&mut w);
        w.u32(self.generation).u64(self.since.0).u8(u8::try_from(self.earlier.len()).unwrap_or(u8::MAX));
        self.earlier.iter().for_each(|earlier| earlier.write(&mut w));
        match &self.inner {
            None => {
                w.u8(if self.vaultless { VAULTLESS } else { 0 });
            }
            Some(inner) => inner.write(w.u8(1)),
        }
        // Padded to a bucket, so that a ciphertext's length tells little of network and grants.
        let mut plain = w.done();
        plain.resize(plain.len().next_multiple_of(BUCKET), 0);
        plain
    }

    /// Reads an outer plaintext of either version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Torn> {
        let mut r = Reader::new(bytes);
        let row = match r.u8()? {
            FORMAT => Self::read(&mut r)?,
            FORMAT_BEFORE => Self::read_before(&mut r)?,
            _ => return Err(Torn),
        };
        let padding = r.rest();
        if padding.len() >= BUCKET || padding.iter().any(|b| *b != 0) || !bytes.len().is_multiple_of(BUCKET) {
            return Err(Torn);
        }
        Ok(row)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Torn> {
        let (version, record, format) = (r.u32()?, Ref(r.array()?), FormatId(r.u16()?));
        let kind = Kind::from_id(r.u8()?).ok_or(Torn)?;
        let mut row = Self {
            version,
            record,
            format,
            mask: Mask::read(r, kind)?,
            network: r.text()?.to_owned(),
            card_expiry: read_expiry(r)?,
            made_at: Timestamp(r.u64()?),
            valid_until: Some(r.u64()?).filter(|t| *t != 0).map(Timestamp),
            grants: Grants::read(r)?,
            subject: SubjectId(r.array()?),
            restrictions: Restrictions::read(r)?,
            standing: Standing::read(r)?,
            attributes: Attributes::read(r)?,
            generation: r.u32()?,
            since: Timestamp(r.u64()?),
            earlier: {
                let count = usize::from(r.u8()?);
                if count > MAX_EARLIER {
                    return Err(Torn);
                }
                (0..count).map(|_| Earlier::read(r)).collect::<Result<_, _>>()?
            },
            inner: None,
            vaultless: false,
        };
        match r.u8()? {
            0 => {}
            1 => row.inner = Some(InnerSeal::read(r, kind)?),
            VAULTLESS => row.vaultless = true,
            _ => return Err(Torn),
        }
        Ok(row)
    }

    /// Version 1: cards without restrictions, standing, attributes and earlier cards.
    fn read_before(r: &mut Reader<'_>) -> Result<Self, Torn> {
        Ok(Self {
            version: r.u32()?,
            record: Ref(r.array()?),
            format: FormatId(r.u16()?),
            mask: Mask::read(r, Kind::Card)?,
            network: r.text()?.to_owned(),
            card_expiry: read_expiry(r)?,
            made_at: Timestamp(r.u64()?),
            valid_until: Some(r.u64()?).filter(|t| *t != 0).map(Timestamp),
            grants: Grants::read(r)?,
            subject: SubjectId(r.array()?),
            restrictions: Restrictions::default(),
            standing: Standing::default(),
            attributes: Attributes::default(),
            generation: 0,
            since: Timestamp(0),
            earlier: Vec::new(),
            inner: {
                if r.u32()? != 0 {
                    return Err(Torn);
                }
                match r.u8()? {
                    0 => None,
                    1 => Some(InnerSeal::read_before(r)?),
                    _ => return Err(Torn),
                }
            },
            vaultless: false,
        })
    }

    /// Puts another card in the place of its card, which is kept as an earlier one until its retention ends.
    ///
    /// Errors: [`Crowded`], with the row as it was.
    pub fn replace(
        &mut self,
        by: [u8; 16],
        reason: ReplaceReason,
        now: Timestamp,
        new: NewFace,
    ) -> Result<(), Crowded> {
        let kept_until = now.plus_days(RETENTION_DAYS);
        let NewFace { mask, network, card_expiry, inner } = new;
        if self.earlier.iter().filter(|earlier| now < earlier.kept_until).count() >= MAX_EARLIER {
            return Err(Crowded);
        }
        // Of cards alone: the caller has looked.
        let (Mask::Card(before), Some(_)) = (&mut self.mask, &self.inner) else { return Ok(()) };
        let before = std::mem::replace(before, mask);
        if let Some(old) = self.inner.replace(inner) {
            let before = Earlier {
                mask: before,
                network: std::mem::replace(&mut self.network, network),
                card_expiry: std::mem::replace(&mut self.card_expiry, card_expiry),
                since: std::mem::replace(&mut self.since, now),
                reason,
                by,
                replaced_at: now,
                kept_until,
                inner: old,
            };
            self.earlier.retain(|earlier| now < earlier.kept_until);
            self.earlier.insert(0, before);
            self.generation = self.generation.saturating_add(1);
        }
        Ok(())
    }

    /// Of what kind the value is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.mask.kind()
    }

    /// Makes it a tombstone: what is left keeps the token from being minted again, and says what it was.
    pub fn bury(&mut self) {
        self.inner = None;
        self.vaultless = false;
        self.earlier.clear();
        self.attributes = Attributes::default();
    }
}

fn write_expiry(w: &mut Writer, expiry: Option<CardExpiry>) {
    let (year, month) = expiry.map_or((0, 0), |e| (e.year(), e.month()));
    w.u16(year).u8(month);
}

fn read_expiry(r: &mut Reader<'_>) -> Result<Option<CardExpiry>, Torn> {
    match (r.u16()?, r.u8()?) {
        (0, 0) => Ok(None),
        (year, month) => CardExpiry::new(year, month).map(Some).map_err(|_| Torn),
    }
}

/// The token stood for no card at that time, or the card is kept no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotKept;

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
        self.row.inner.is_none() && !self.row.vaultless
    }

    /// Whether the token's own time is over.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.row.valid_until.is_some_and(|until| until <= now)
    }

    /// The card as it was at `then`, if it was another one: what stood for it, and when it was replaced. `None` where it
    /// is the card of now; `NotKept` where that card is kept no more.
    pub fn as_of(&self, then: Timestamp, now: Timestamp) -> Result<Option<(Self, Timestamp)>, NotKept> {
        if then >= self.row.since {
            return Ok(None);
        }
        let of_then = |e: &&Earlier| (e.since..e.replaced_at).contains(&then) && now < e.kept_until;
        let earlier = self.row.earlier.iter().find(of_then).ok_or(NotKept)?.clone();
        let Earlier { mask, network, card_expiry, replaced_at, inner, .. } = earlier;
        let row =
            Row { mask: Mask::Card(mask), network, card_expiry, inner: Some(inner), ..self.row.clone() };
        Ok(Some((Self { merchant: self.merchant, row }, replaced_at)))
    }

    /// The card number, still sealed; `None` for a tombstone.
    #[must_use]
    pub fn sealed(&self) -> Option<SealedRecord> {
        let seal = match self.row.inner.clone() {
            Some(inner) => Seal::Inner(inner),
            None if self.row.vaultless => Seal::Vaultless,
            None => return None,
        };
        Some(SealedRecord {
            merchant: self.merchant,
            record: self.row.record,
            mask: self.row.mask.clone(),
            seal,
        })
    }
}

/// A card number, sealed. It goes nowhere but through the journal, which makes a `Disclosed` of it.
pub struct SealedRecord {
    /// Whose.
    pub(crate) merchant: MerchantId,
    /// Its name in the log.
    pub(crate) record: Ref,
    /// What the value must look like once it is open: XAES does not commit to its key, so this is checked.
    pub(crate) mask: Mask,
    /// The seal.
    pub(crate) seal: Seal,
}

/// Where a card number is.
pub(crate) enum Seal {
    /// In its row, under the inner seal.
    Inner(InnerSeal),
    /// In its token, under its slot's key.
    Vaultless,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes;
    use crate::pan::Pan;
    use crate::restrictions::Purposes;
    use crate::token::Keep;
    use crate::words::Purpose;

    fn mask() -> MaskedPan {
        let pan = Pan::parse(b"4111111111111111").map_err(|e| e.to_string()).unwrap();
        pan.mask(Keep::new(6, 4).unwrap())
    }

    fn seal() -> InnerSeal {
        InnerSeal { trk: KeyId(1), wrapped_key: [2; 72], sealed: [3; 35].into() }
    }

    /// A row as version 1 could have it.
    fn plain(inner: bool) -> Row {
        Row {
            version: 3,
            record: Ref([9; 16]),
            format: FormatId(2),
            mask: Mask::Card(mask()),
            network: "visa".into(),
            card_expiry: Some(CardExpiry::new(2030, 12).unwrap()),
            made_at: Timestamp(5),
            valid_until: Some(Timestamp(6)),
            grants: Grants::AllBut(vec![ChannelId(4)]),
            subject: SubjectId([8; 16]),
            restrictions: Restrictions::default(),
            standing: Standing::default(),
            attributes: Attributes::default(),
            generation: 0,
            since: Timestamp(0),
            earlier: Vec::new(),
            inner: inner.then(seal),
            vaultless: false,
        }
    }

    /// The same with all that version 2 can say.
    fn full() -> Row {
        let earlier = Earlier {
            mask: mask(),
            network: "visa".into(),
            card_expiry: None,
            since: Timestamp(0),
            reason: ReplaceReason::Lost,
            by: [6; 16],
            replaced_at: Timestamp(7),
            kept_until: Timestamp(9),
            inner: seal(),
        };
        Row {
            restrictions: Restrictions {
                purposes: Purposes::of([Purpose::Authorization]),
                bound_to_customer: true,
                single_use: true,
            },
            standing: Standing { disabled: true, spent: Some(Spent { by: [4; 32], at: Timestamp(8) }) },
            attributes: attributes::tests::full(),
            generation: 5,
            since: Timestamp(7),
            earlier: vec![earlier; MAX_EARLIER],
            ..plain(true)
        }
    }

    /// The bytes that version 1 wrote, field by field.
    fn version_1(inner: bool) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(1).u32(3).fixed(&[9; 16]).u16(2);
        w.u8(16).u8(6).fixed(b"411111").u8(4).fixed(b"1111").e(b"visa").u16(2030).u8(12).u64(5).u64(6);
        w.u8(0).u8(1).u32(4).fixed(&[8; 16]).u32(0).u8(inner.into());
        if inner {
            w.u32(1).fixed(&[2; 72]).fixed(&[3; 35]);
        }
        let mut bytes = w.done();
        bytes.resize(bytes.len().next_multiple_of(BUCKET), 0);
        bytes
    }

    #[test]
    fn a_row_is_read_back_and_every_cut_or_longer_one_is_torn() {
        for row in [plain(true), plain(false), full()] {
            let bytes = row.encode();
            assert!(Row::decode(&bytes).is_ok_and(|back| back == row));
            for cut in 0..bytes.len() {
                assert!(Row::decode(&bytes[..cut]).is_err());
            }
            assert!(Row::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn a_row_of_version_1_is_read_and_written_as_version_2() {
        for inner in [true, false] {
            let bytes = version_1(inner);
            let row = Row::decode(&bytes).unwrap_or_else(|Torn| panic!("version 1 is torn"));
            assert!(row == plain(inner));
            let rewritten = row.encode();
            assert!(rewritten[0] == 2 && Row::decode(&rewritten).is_ok_and(|back| back == row));
            for cut in 0..bytes.len() {
                assert!(Row::decode(&bytes[..cut]).is_err());
            }
        }
    }

    #[test]
    fn no_byte_of_a_row_says_what_no_release_knows() {
        let bytes = plain(true).encode();
        for (at, to) in [(0, 0), (0, 3), (23, 0), (23, 10)] {
            let mut changed = bytes.clone();
            changed[at] = to;
            assert!(Row::decode(&changed).is_err(), "{to} at {at}");
        }
        let longer = Row { inner: Some(InnerSeal { sealed: [3; 36].into(), ..seal() }), ..plain(true) };
        assert!(Row::decode(&longer.encode()).is_err(), "a card's seal has 35 bytes");
        let crowded = Row { earlier: vec![full().earlier[0].clone(); MAX_EARLIER + 1], ..plain(true) };
        assert!(Row::decode(&crowded.encode()).is_err());
    }

    #[test]
    fn a_tombstone_keeps_no_card_and_nothing_known_around_one() {
        let mut row = full();
        row.bury();
        assert!(row.inner.is_none() && row.earlier.is_empty() && row.attributes.is_empty());
        let card = Card { merchant: MerchantId(1), row };
        assert!(card.is_revoked() && card.sealed().is_none());
    }

    #[test]
    fn a_token_knows_which_card_it_stood_for_when_and_for_how_long_each_is_kept() {
        let mut row = plain(true);
        let face = |byte: u8| NewFace {
            mask: mask(),
            network: "visa".into(),
            card_expiry: None,
            inner: InnerSeal { sealed: [byte; 35].into(), ..seal() },
        };
        let day = |n| Timestamp(0).plus_days(n);
        for n in 1..=8_u8 {
            let now = day(u32::from(n) * 10);
            assert_eq!(row.replace([n; 16], ReplaceReason::Lost, now, face(n)), Ok(()));
        }
        assert_eq!((row.earlier.len(), row.generation), (MAX_EARLIER, 8));
        // No card is dropped before its time: there is no place for a ninth until the first one's retention is over.
        let mut ninth = row.clone();
        let mut replace = |at| ninth.replace([9; 16], ReplaceReason::Lost, at, face(9));
        assert_eq!((replace(day(90)), replace(day(549))), (Err(Crowded), Err(Crowded)));
        assert_eq!(replace(day(550)), Ok(()));
        assert_eq!((ninth.earlier.len(), ninth.generation), (MAX_EARLIER, 9));
        let card = Card { merchant: MerchantId(1), row };
        for (then, now, found) in [
            (80, 90, Ok(8)),
            (79, 90, Ok(7)),
            (50, 90, Ok(5)),
            (49, 90, Ok(4)),
            (20, 90, Ok(2)),
            (10, 90, Ok(1)),
            (9, 90, Ok(seal().sealed[0])),
            (10, 20 + 540, Err(NotKept)),
            (20, 20 + 540, Ok(2)),
            (49, 50 + 540, Err(NotKept)),
        ] {
            let seen = card.as_of(day(then), day(now)).map(|earlier| {
                let sealed = earlier.map_or_else(|| card.sealed(), |(earlier, _)| earlier.sealed());
                sealed.map_or(0, |sealed| match sealed.seal {
                    Seal::Inner(inner) => inner.sealed[0],
                    Seal::Vaultless => 0,
                })
            });
            assert_eq!(seen, found, "day {then} seen from day {now}");
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
