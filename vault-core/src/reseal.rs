//! Moves a merchant's rows from older data encryption keys to the one that seals now, while they are in use.
//!
//! It opens outer seals and makes them anew. It has no key that opens a card and no name for one: a test compiles this
//! file where there is neither card number, token root key nor proof of disclosure to be named. A walk keeps nothing on
//! disk: begun again, it passes over the rows that are done, which their first bytes tell.

use crate::envelope::KeyId;
use crate::error::Error;
use crate::outer::{OuterKeys, key_of};
use crate::record::MerchantId;
use crate::rows;
use crate::store::{Expect, Key, Part, Store, StoreError, Value, Write};

/// The kinds of rows that lie under a DEK, in the order in which they are walked.
pub const KINDS: [u8; 3] = [rows::CARD, rows::FINGERPRINT, rows::SUBJECT];

/// How many rows of a customer's index are read at once at the most: they have up to 100 KiB each, all others less than one.
pub const LARGE_PAGE: usize = 64;

/// How many rows of a kind are read at once where `most` may be.
#[must_use]
pub fn page_of(kind: u8, most: usize) -> usize {
    if kind == rows::SUBJECT { most.min(LARGE_PAGE) } else { most }
}

/// Where a walk over one merchant's rows is.
#[derive(Default)]
pub struct Walk {
    /// How many of [`KINDS`] are done.
    kinds: usize,
    /// The last row of the page before, in the kind under way.
    after: Option<Key>,
}

/// A page of a walk.
#[derive(Default)]
pub struct Page {
    /// How many rows were looked at.
    pub seen: usize,
    /// The rows to seal anew: as one part, which expects each of them as it was read.
    pub part: Part,
    /// How many rows do not open under the key that they name. They stay as they are, and keep their key needed.
    pub unreadable: u64,
}

impl Walk {
    /// The next page, of `most` rows at the most, and the walk as it is once that page is on disk; none once all rows were
    /// seen. Asked again, it gives the page again, as its rows are by then.
    pub async fn next(
        &self,
        store: &dyn Store,
        merchant: MerchantId,
        keys: &OuterKeys,
        most: usize,
    ) -> Result<Option<(Page, Self)>, Error> {
        let Some((kinds, found)) = self.page(store, merchant, most).await? else { return Ok(None) };
        let kind = KINDS.get(kinds).copied().unwrap_or_default();
        let next = Self { kinds, after: found.last().map(|(key, _)| key.clone()) };
        let mut page = Page { seen: found.len(), ..Page::default() };
        for (key, bytes) in found {
            if key_of(&bytes) == Some(keys.active()) {
                continue;
            }
            if key_of(&bytes).is_some_and(|id| keys.is_destroyed(id)) {
                continue;
            }
            match resealed(keys, kind, &key, &bytes)? {
                Some(sealed) => {
                    page.part.expects.push(Expect::Is(key.clone(), bytes));
                    page.part.writes.push(Write::Put(key, sealed));
                }
                None => page.unreadable += 1,
            }
        }
        Ok(Some((page, next)))
    }

    /// The keys that the next rows are under, none of a row that names none, and the walk behind them.
    pub async fn count(
        &self,
        store: &dyn Store,
        merchant: MerchantId,
        most: usize,
    ) -> Result<Option<(Vec<Option<KeyId>>, Self)>, StoreError> {
        let Some((kinds, found)) = self.page(store, merchant, most).await? else { return Ok(None) };
        let after = found.last().map(|(key, _)| key.clone());
        let keys = found.iter().map(|(_, bytes)| key_of(bytes)).collect();
        Ok(Some((keys, Self { kinds, after })))
    }

    /// The next rows, and the kind under way.
    async fn page(
        &self,
        store: &dyn Store,
        merchant: MerchantId,
        most: usize,
    ) -> Result<Option<(usize, Vec<(Key, Value)>)>, StoreError> {
        let (mut at, mut after) = (self.kinds, self.after.as_deref());
        while let Some(kind) = KINDS.get(at) {
            let found = store.scan(&prefix(*kind, merchant), after, page_of(*kind, most)).await?;
            if !found.is_empty() {
                return Ok(Some((at, found)));
            }
            (at, after) = (at + 1, None);
        }
        Ok(None)
    }
}

/// A row under the key that seals; none if it does not open.
fn resealed(keys: &OuterKeys, kind: u8, key: &[u8], bytes: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let Some(name) = key.last_chunk::<16>() else { return Ok(None) };
    let Ok(plain) = keys.open(kind, name, bytes) else { return Ok(None) };
    keys.seal(kind, name, &plain).map(Some)
}

/// What the keys of a merchant's rows of a kind begin with: kind u8, merchant u32.
fn prefix(kind: u8, merchant: MerchantId) -> [u8; 5] {
    let [a, b, c, d] = merchant.0.to_be_bytes();
    [kind, a, b, c, d]
}
