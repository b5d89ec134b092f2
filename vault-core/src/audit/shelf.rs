//! A store in memory for the tests of this folder: no durability, but it counts what is read.

use std::collections::BTreeMap;
use std::future::ready;
use std::ops::Bound;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::store::{Batch, CommitError, Key, Reading, Store, Value, Write};

#[derive(Default)]
pub(super) struct Shelf {
    rows: Mutex<BTreeMap<Key, Value>>,
    reads: AtomicUsize,
}

impl Shelf {
    pub(super) fn put(&self, key: Key, value: Value) {
        self.rows.lock().unwrap().insert(key, value);
    }

    pub(super) fn write(&self, writes: &[Write]) {
        for write in writes {
            let Write::Put(key, value) = write else { panic!("the log only puts") };
            self.put(key.clone(), value.clone());
        }
    }

    /// Puts all that another one has.
    pub(super) fn put_all(&self, other: &Self) {
        let rows = other.rows.lock().unwrap().clone();
        self.rows.lock().unwrap().extend(rows);
    }

    pub(super) fn remove(&self, key: &[u8]) {
        self.rows.lock().unwrap().remove(key).unwrap();
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Value> {
        self.rows.lock().unwrap().get(key).cloned()
    }

    pub(super) fn count(&self, kind: u8) -> usize {
        self.rows.lock().unwrap().keys().filter(|key| key[0] == kind).count()
    }

    pub(super) fn forget_reads(&self) {
        self.reads.store(0, Ordering::SeqCst);
    }

    pub(super) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

impl Store for Shelf {
    fn get<'a>(&'a self, keys: &'a [Key]) -> Reading<'a, Vec<Option<Value>>> {
        self.reads.fetch_add(keys.len(), Ordering::SeqCst);
        Box::pin(ready(Ok(keys.iter().map(|key| self.value(key)).collect())))
    }

    fn scan<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> Reading<'a, Vec<(Key, Value)>> {
        let rows = self.rows.lock().unwrap();
        let from = after.map_or(Bound::Included(prefix), |after| Bound::Excluded(after.max(prefix)));
        let page = rows
            .range::<[u8], _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Box::pin(ready(Ok(page)))
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        batch.parts.iter().for_each(|part| self.write(&part.writes));
        self.write(&batch.head);
        Ok(())
    }

    fn commits(&self) -> u64 {
        0
    }

    fn engine(&self) -> &'static str {
        "shelf"
    }
}
