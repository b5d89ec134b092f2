//! An engine for tests and for `--ephemeral`: everything is gone with the process.
//!
//! It keeps the contract in all but durability, and refuses nothing that the engines on disk take.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use super::settle::{Changes, Medium, Pen, Row, Rows};
use super::{Batch, CommitError, Key, Reading, Store, StoreError, Value};

/// A sorted map behind a lock.
#[derive(Default)]
pub struct Memory {
    rows: RwLock<BTreeMap<Key, Value>>,
    pen: Pen,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for Memory {
    fn get<'a>(&'a self, keys: &'a [Key]) -> Reading<'a, Vec<Option<Value>>> {
        self.pen.get(keys, self)
    }

    fn scan<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> Reading<'a, Vec<(Key, Value)>> {
        self.pen.scan(prefix, after, limit, self)
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        self.pen.commit(batch, self)
    }

    fn commits(&self) -> u64 {
        self.pen.commits()
    }

    fn engine(&self) -> &'static str {
        "memory"
    }
}

impl Medium for Memory {
    fn rows(&self) -> Result<impl Rows + '_, StoreError> {
        Ok(self.rows.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn room(&self, _: &Changes) -> Result<(), StoreError> {
        Ok(())
    }

    fn keep(&self, changes: Changes) -> Result<(), StoreError> {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }
}

impl Rows for RwLockReadGuard<'_, BTreeMap<Key, Value>> {
    fn find(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        Ok(self.get(key).cloned())
    }

    fn from(&self, start: Bound<&[u8]>) -> Result<impl Iterator<Item = Row>, StoreError> {
        Ok(self
            .range::<[u8], _>((start, Bound::Unbounded))
            .map(|(key, value)| Ok((key.clone(), value.clone()))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::contract::{Made, contract_tests};

    fn fresh() -> Made {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let kept = store.clone();
        Made::new(store, move || kept.clone())
    }

    contract_tests!(fresh);
}
