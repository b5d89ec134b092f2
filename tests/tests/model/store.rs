//! A store that dies at some commit, and that tells which row was read.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use vault_core::store::{Batch, CommitError, Key, Reading, Store, StoreError, Value};

/// A store that dies at its nth commit from now, before it or after it.
pub(super) struct Mortal {
    store: Arc<dyn Store>,
    left: AtomicI64,
    after: AtomicBool,
    /// The rows that were read by their names and were there, while somebody watches.
    watched: Mutex<Option<Vec<(Key, Value)>>>,
}

impl Mortal {
    pub(super) fn of(store: Arc<dyn Store>) -> Arc<Self> {
        let (left, after) = (AtomicI64::new(-1), AtomicBool::new(false));
        Arc::new(Self { store, left, after, watched: Mutex::new(None) })
    }

    pub(super) fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// Dies at the nth commit from now.
    pub(super) fn die_at(&self, nth: i64, after: bool) {
        self.after.store(after, Ordering::SeqCst);
        self.left.store(nth, Ordering::SeqCst);
    }

    /// Does not die any more.
    pub(super) fn live_on(&self) {
        self.left.store(-1, Ordering::SeqCst);
    }

    /// The store below.
    pub(super) fn into_inner(self) -> Arc<dyn Store> {
        self.store
    }

    /// The row of this kind that is read and is there while `during` runs, if there is one. Nobody dies of it.
    pub(super) fn row_read(&self, kind: u8, during: impl FnOnce()) -> Option<(Key, Value)> {
        let left = self.left.swap(-1, Ordering::SeqCst);
        *self.watched.lock().unwrap() = Some(Vec::new());
        during();
        let mut found = self.watched.lock().unwrap().take().unwrap();
        self.left.store(left, Ordering::SeqCst);
        found.retain(|(key, _)| key[0] == kind);
        found.dedup_by(|a, b| a.0 == b.0);
        assert!(found.len() <= 1, "a row lies in one place");
        found.pop()
    }
}

impl Store for Mortal {
    fn get<'a>(&'a self, keys: &'a [Key]) -> Reading<'a, Vec<Option<Value>>> {
        Box::pin(async move {
            let values = self.store.get(keys).await?;
            if let Some(watched) = &mut *self.watched.lock().unwrap() {
                let found = keys.iter().zip(&values).filter_map(|(key, value)| Some((key, value.as_ref()?)));
                watched.extend(found.map(|(key, value)| (key.clone(), value.clone())));
            }
            Ok(values)
        })
    }

    fn scan<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> Reading<'a, Vec<(Key, Value)>> {
        self.store.scan(prefix, after, limit)
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        let dead = || Err(CommitError::Store(StoreError::Io(5)));
        match self.left.load(Ordering::SeqCst) {
            0 => return dead(),
            1 => {
                let done = if self.after.load(Ordering::SeqCst) { self.store.commit(batch) } else { Ok(()) };
                self.left.store(0, Ordering::SeqCst);
                return done.and_then(|()| dead());
            }
            left if left > 0 => self.left.store(left - 1, Ordering::SeqCst),
            _ => {}
        }
        self.store.commit(batch)
    }

    fn commits(&self) -> u64 {
        self.store.commits()
    }

    fn engine(&self) -> &'static str {
        self.store.engine()
    }
}
