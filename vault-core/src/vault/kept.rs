//! What is kept of a request for 24 hours, so that a retry is known as one.
//!
//! Bytes: version u8, time u64, request hash 32, tag 16, then (of a tokenize only) the sealed answer. The tag is made
//! under IDM over the request's name, the time and the hash: a row that was changed is told from one of another request,
//! and from none.

use crate::aead::Unopened;
use crate::codec::{Reader, Torn, Writer};
use crate::error::Error;
use crate::keyring::{Keyring, RequestKey, same_request};
use crate::record::MerchantId;
use crate::secret::same_bytes;
use crate::time::Timestamp;

/// Version of the row.
const FORMAT: u8 = 1;

/// How long a request is kept, in days: at least 24 hours, so a row is looked for on two days.
pub(super) const KEPT_DAYS: u32 = 1;

/// A kept request, as its row says.
pub(super) struct Kept<'a> {
    at: Timestamp,
    hash: [u8; 32],
    /// The sealed answer of a tokenize; empty for the other verbs.
    pub(super) answer: &'a [u8],
}

/// A request's name and hash, on the way into or out of its row.
pub(super) struct Request<'a> {
    /// Whose keys.
    pub(super) merchant: MerchantId,
    /// Its name.
    pub(super) key: RequestKey<'a>,
    /// Its keyed hash.
    pub(super) hash: [u8; 32],
}

impl Request<'_> {
    /// The row of this request, asked at `at`.
    pub(super) fn row(&self, keyring: &Keyring, at: Timestamp, answer: &[u8]) -> Result<Vec<u8>, Error> {
        let tag = keyring.request_tag(self.merchant, &self.key, at, &self.hash)?;
        let mut w = Writer::with_capacity(57 + answer.len());
        Ok(w.u8(FORMAT).u64(at.0).fixed(&self.hash).fixed(&tag).fixed(answer).done())
    }

    /// Reads the row that lies under this request's name.
    pub(super) fn read<'b>(&self, keyring: &Keyring, row: &'b [u8]) -> Result<Kept<'b>, Unopened> {
        let (kept, tag) = parse(row).map_err(|Torn| Unopened)?;
        let right =
            keyring.request_tag(self.merchant, &self.key, kept.at, &kept.hash).map_err(|_| Unopened)?;
        if same_bytes(&tag, &right) { Ok(kept) } else { Err(Unopened) }
    }

    /// Whether the kept request is this very one.
    pub(super) fn is(&self, kept: &Kept<'_>) -> bool {
        same_request(&kept.hash, &self.hash)
    }
}

impl Kept<'_> {
    /// Whether its time is not over.
    pub(super) fn counts(&self, now: Timestamp) -> bool {
        now < self.at.plus_days(KEPT_DAYS)
    }
}

fn parse(row: &[u8]) -> Result<(Kept<'_>, [u8; 16]), Torn> {
    let mut r = Reader::new(row);
    if r.u8()? != FORMAT {
        return Err(Torn);
    }
    let (at, hash, tag) = (Timestamp(r.u64()?), r.array()?, r.array()?);
    Ok((Kept { at, hash, answer: r.rest() }, tag))
}
