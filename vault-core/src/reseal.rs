//! Moves a merchant's rows to where they would be put now, and under the key that seals now, while they are in use.
//!
//! It opens outer seals and makes them anew, and makes a row's next name of its last. It has no key that opens a card and
//! no name for one: a test compiles this file where there is neither card number, token root key nor proof of disclosure to
//! be named. A walk keeps nothing on disk: begun again, it passes over the rows that are done, which their first bytes tell.

use std::collections::HashSet;

use crate::chain::{Name, merchant_row};
use crate::error::Error;
use crate::outer::{OuterKeys, Under};
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
    /// How many of them move.
    pub moved: usize,
    /// What moves them: one part, which expects each of them as it was read, and nothing where it goes to.
    pub part: Part,
    /// How many rows do not open under the key that they name, or find another in their new place. They stay as they are,
    /// and keep their keys needed.
    pub unreadable: u64,
}

/// A row that is to move: where it is, as it is there, and where it goes, as it will be.
struct Move {
    from: (Key, Value),
    to: (Key, Value),
}

impl Walk {
    /// A walk over customers' indexes alone, which are the last of [`KINDS`].
    #[must_use]
    pub fn of_customers() -> Self {
        Self { kinds: KINDS.len().saturating_sub(1), after: None }
    }

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
        let mut moves = Vec::with_capacity(found.len());
        for (key, bytes) in found {
            let under = keys.under(kind, &bytes);
            if under == keys.now(kind, under) {
                continue;
            }
            match renewed(keys, (kind, merchant), &key, &bytes)? {
                Some(to) => moves.push(Move { from: (key, bytes), to }),
                None => page.unreadable += 1,
            }
        }
        let taken = taken(store, &moves).await?;
        for Move { from: (key, bytes), to: (place, sealed) } in moves {
            if taken.contains(&place) {
                page.unreadable += 1;
                continue;
            }
            page.moved += 1;
            page.part.expects.push(Expect::Is(key.clone(), bytes));
            if place != key {
                page.part.expects.push(Expect::Absent(place.clone()));
                page.part.writes.push(Write::Delete(key));
            }
            page.part.writes.push(Write::Put(place, sealed));
        }
        Ok(Some((page, next)))
    }

    /// The keys that the next rows are under, each with those that its kind would be put under now, and the walk behind them.
    pub async fn count(
        &self,
        store: &dyn Store,
        merchant: MerchantId,
        keys: &OuterKeys,
        most: usize,
    ) -> Result<Option<(Vec<(Under, Under)>, Self)>, StoreError> {
        let Some((kinds, found)) = self.page(store, merchant, most).await? else { return Ok(None) };
        let kind = KINDS.get(kinds).copied().unwrap_or_default();
        let after = found.last().map(|(key, _)| key.clone());
        let under = found.iter().map(|(_, bytes)| {
            let under = keys.under(kind, bytes);
            (under, keys.now(kind, under))
        });
        let under = under.collect();
        Ok(Some((under, Self { kinds, after })))
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

/// A row where it goes, as it will be; none if it does not open.
fn renewed(
    keys: &OuterKeys,
    (kind, merchant): (u8, MerchantId),
    key: &[u8],
    bytes: &[u8],
) -> Result<Option<(Key, Value)>, Error> {
    let Some(name) = key.last_chunk::<{ size_of::<Name>() }>() else { return Ok(None) };
    let renewed = keys.renewed(kind, name, bytes)?;
    Ok(renewed.map(|(name, sealed)| (merchant_row(kind, merchant, &name), sealed)))
}

/// The places that rows are to move to and that are not free. Nothing comes to lie there but by a move: whatever does was
/// put there by hand.
async fn taken(store: &dyn Store, moves: &[Move]) -> Result<HashSet<Key>, StoreError> {
    let renamed = moves.iter().filter(|row| row.to.0 != row.from.0);
    let keys: Vec<Key> = renamed.map(|row| row.to.0.clone()).collect();
    if keys.is_empty() {
        return Ok(HashSet::new());
    }
    let held = store.get(&keys).await?;
    Ok(keys.into_iter().zip(held).filter(|(_, row)| row.is_some()).map(|(key, _)| key).collect())
}

/// What the keys of a merchant's rows of a kind begin with: kind u8, merchant u32.
fn prefix(kind: u8, merchant: MerchantId) -> [u8; 5] {
    let [a, b, c, d] = merchant.0.to_be_bytes();
    [kind, a, b, c, d]
}
