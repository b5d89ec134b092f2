//! What all engines have in common: judging a batch, one writer at a time, and stopping for good when a write failed.
//!
//! It knows no engine and no disk. A [`Medium`] finds rows and keeps a set of changes; what the changes are is
//! decided here, so that every engine decides alike. It refuses to go on after a failure: nothing that could not be
//! flushed is ever tried again.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{
    Batch, CommitError, Expect, Key, MAX_KEY, MAX_SCAN, MAX_VALUE, Reading, StoreError, Value, Write,
};

/// ENOSPC: the disk became full in the middle of a write.
const NO_SPACE: i32 = 28;

/// What is to be written: each row's new value, or `None` where it is to be gone.
pub(crate) type Changes = BTreeMap<Key, Option<Value>>;

/// What an engine does under a [`Pen`].
pub(crate) trait Medium {
    /// The rows as they are now: one snapshot for as long as it is kept.
    fn rows(&self) -> Result<impl Rows + '_, StoreError>;

    /// Whether there is room for `changes`: [`StoreError::Full`] if not. Must write nothing.
    fn room(&self, changes: &Changes) -> Result<(), StoreError>;

    /// Writes all of `changes` and returns once they are on disk.
    fn keep(&self, changes: Changes) -> Result<(), StoreError>;
}

/// A snapshot of an engine's rows.
pub(crate) trait Rows {
    /// One row's value.
    fn find(&self, key: &[u8]) -> Result<Option<Value>, StoreError>;

    /// The rows from `start` on, ascending.
    fn from(&self, start: Bound<&[u8]>) -> Result<impl Iterator<Item = Row>, StoreError>;
}

/// A row that an engine found.
pub(crate) type Row = Result<(Key, Value), StoreError>;

/// One writer at a time, and none after a failure.
#[derive(Default)]
pub(crate) struct Pen {
    turn: Mutex<()>,
    // INVARIANT: once true, true for ever; set before the turn is given back.
    stopped: AtomicBool,
    commits: AtomicU64,
}

impl Pen {
    /// [`Store::commit`](super::Store::commit) of every engine.
    pub(crate) fn commit(&self, batch: &Batch, medium: &impl Medium) -> Result<(), CommitError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        bounded(batch)?;
        let changes = unwound(|| Ok(settle(batch, &medium.rows()?)))
            .unwrap_or_else(|error| Err(error.into()))
            .inspect_err(|error| self.stop_after(error))?;
        if changes.is_empty() {
            return Ok(());
        }
        medium.room(&changes)?;
        unwound(|| medium.keep(changes)).map_err(|error| {
            self.stopped.store(true, Ordering::SeqCst);
            // Told only now, a full disk is no longer harmless: some of the batch may have been written.
            CommitError::Store(if error == StoreError::Full { StoreError::Io(NO_SPACE) } else { error })
        })?;
        self.commits.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// [`Store::get`](super::Store::get) of every engine.
    pub(crate) fn get<'a>(&self, keys: &[Key], medium: &impl Medium) -> Reading<'a, Vec<Option<Value>>> {
        self.read(|| {
            let rows = medium.rows()?;
            keys.iter().map(|key| rows.find(key)).collect()
        })
    }

    /// [`Store::scan`](super::Store::scan) of every engine.
    pub(crate) fn scan<'a>(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        medium: &impl Medium,
    ) -> Reading<'a, Vec<(Key, Value)>> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix),
        };
        let within = |row: &Row| row.as_ref().map_or(true, |(key, _)| key.starts_with(prefix));
        self.read(|| medium.rows()?.from(start)?.take(limit.min(MAX_SCAN)).take_while(within).collect())
    }

    /// A read's answer, given at once.
    fn read<'a, T: Send + 'a>(&self, read: impl FnOnce() -> Result<T, StoreError>) -> Reading<'a, T> {
        Box::pin(std::future::ready(self.check().and_then(|()| unwound(read))))
    }

    /// How many commits were kept.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// [`StoreError::Away`] once anything failed.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.stopped.load(Ordering::SeqCst) { Err(StoreError::Away) } else { Ok(()) }
    }

    fn stop_after(&self, error: &CommitError) {
        match error {
            CommitError::Guard | CommitError::Parts(_) => {}
            CommitError::Store(_) => self.stopped.store(true, Ordering::SeqCst),
        }
    }
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Runs `work` and takes a panic in it for a damaged file: engines check some of what they read by assertion. (A build
/// with `panic = "abort"` would die of a damaged file instead.)
pub(crate) fn unwound<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(StoreError::Corrupt))
}

fn bounded(batch: &Batch) -> Result<(), StoreError> {
    let parts = batch.parts.iter();
    let expects = batch.guard.iter().chain(parts.clone().flat_map(|part| &part.expects));
    let writes = batch.head.iter().chain(parts.flat_map(|part| &part.writes));
    let fits = expects.map(Expect::key).all(|key| key.len() <= MAX_KEY)
        && writes.into_iter().all(|write| match write {
            Write::Put(key, value) => key.len() <= MAX_KEY && value.len() <= MAX_VALUE,
            Write::Delete(key) | Write::Add(key, _) => key.len() <= MAX_KEY,
        });
    if fits { Ok(()) } else { Err(StoreError::TooLarge) }
}

/// Judges `batch` against `rows`, and says what is to be written. All failing parts are named at once.
fn settle(batch: &Batch, rows: &impl Rows) -> Result<Changes, CommitError> {
    let mut view = View { rows, seen: Changes::new(), changes: Changes::new() };
    if !view.hold(&batch.guard)? {
        return Err(CommitError::Guard);
    }
    let mut failing = Vec::new();
    for (index, part) in batch.parts.iter().enumerate() {
        if view.hold(&part.expects)? {
            view.apply(&part.writes)?;
        } else {
            failing.push(index);
        }
    }
    view.apply(&batch.head)?;
    if failing.is_empty() { Ok(view.changes) } else { Err(CommitError::Parts(failing)) }
}

/// The rows as they would be with the changes so far.
struct View<'a, R> {
    rows: &'a R,
    seen: Changes,
    changes: Changes,
}

impl<R: Rows> View<'_, R> {
    fn now(&mut self, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        if !self.changes.contains_key(key) && !self.seen.contains_key(key) {
            self.seen.insert(key.to_vec(), self.rows.find(key)?);
        }
        let row = self.changes.get(key).or_else(|| self.seen.get(key));
        Ok(row.and_then(Option::as_deref))
    }

    fn hold(&mut self, expects: &[Expect]) -> Result<bool, StoreError> {
        for expect in expects {
            if !expect.holds(self.now(expect.key())?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn apply(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        for write in writes {
            let (key, value) = match write {
                Write::Put(key, value) => (key, Some(value.clone())),
                Write::Delete(key) => (key, None),
                Write::Add(key, more) => (key, Some(sum(self.now(key)?, *more)?)),
            };
            self.changes.insert(key.clone(), value);
        }
        Ok(())
    }
}

fn sum(counter: Option<&[u8]>, more: u64) -> Result<Value, StoreError> {
    let count = match counter {
        None => 0,
        Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| StoreError::Corrupt)?),
    };
    Ok(count.saturating_add(more).to_be_bytes().to_vec())
}
