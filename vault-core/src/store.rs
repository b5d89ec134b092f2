//! The engine under it all: bytes in, bytes out, one atomic and durable change at a time.
//!
//! A store never sees a card. It keeps a sorted map from key to value (both byte strings), answers reads from a
//! consistent snapshot, and applies a [`Batch`] whole or not at all. When [`Store::commit`] returns `Ok`, the batch is
//! on disk: it survives the death of the process and of the machine at any later instant.
//!
//! What it refuses: a batch over its bounds, a commit after a failed flush, and a disk with too little room left.
//! The engines: [`memory`] (gone with the process), [`redb`] (the default) and [`sled`]; [`folder`] makes and opens
//! the two that are on disk.

pub mod folder;
pub mod memory;
pub mod redb;
pub mod sled;

#[cfg(any(test, feature = "testing"))]
pub mod contract;

mod settle;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

pub use folder::{Engine, Options, create, open};

/// The longest key that an engine must take, in bytes.
pub const MAX_KEY: usize = 64;

/// The longest value that an engine must take, in bytes: Control with a few thousand rules stays far below.
pub const MAX_VALUE: usize = 16 * 1024 * 1024;

/// The most rows that one [`Store::scan`] gives: a page, so that memory stays bounded.
pub const MAX_SCAN: usize = 10_000;

/// A row's name. Its first byte says what kind of row it is (see [`rows`](crate::rows)).
pub type Key = Vec<u8>;

/// A row's content.
pub type Value = Vec<u8>;

/// What must hold for a change to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// There is no such row.
    Absent(Key),
    /// The row has exactly this value.
    Is(Key, Value),
}

impl Expect {
    /// The row that this is about.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Absent(key) | Self::Is(key, _) => key,
        }
    }

    /// Whether `found` is what was expected.
    #[must_use]
    pub fn holds(&self, found: Option<&[u8]>) -> bool {
        match self {
            Self::Absent(_) => found.is_none(),
            Self::Is(_, value) => found == Some(value),
        }
    }
}

/// One change to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The row has this value from now on, whether it was there before or not.
    Put(Key, Value),
    /// The row is gone; it is no error if it never was.
    Delete(Key),
    /// Adds to a counter row (8 bytes, big-endian; an absent row counts as zero; saturates at the top). It commutes,
    /// so that many parts can count at once without expecting anything of each other.
    Add(Key, u64),
}

/// Changes that belong together: all are made if every expectation holds, else none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// What must hold just before this part, the parts in front of it in the same batch already applied.
    pub expects: Vec<Expect>,
    /// What is then changed, in this order.
    pub writes: Vec<Write>,
}

/// One atomic, durable change: `guard`, then `parts` in order, then `head`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// What must hold before anything else, for the whole batch.
    pub guard: Vec<Expect>,
    /// Independent parts, one per request.
    pub parts: Vec<Part>,
    /// What the journal adds for all of them: the checkpoint, full tiles.
    pub head: Vec<Write>,
}

/// Why a batch was not applied. Nothing of it was, whatever the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitError {
    /// An expectation of `guard` does not hold: the whole batch was made on wrong premises.
    Guard,
    /// These parts (by index, ascending, never empty) have an expectation that does not hold, where each is judged
    /// with the failing parts before it left out. Without them the rest would have been applied.
    Parts(Vec<usize>),
    /// The engine failed. After [`StoreError::Io`], [`StoreError::Corrupt`] or [`StoreError::Away`] the batch may or
    /// may not be on disk, and the engine refuses all further commits until it is opened anew: a failed flush is never
    /// tried again as if it had worked. [`StoreError::Full`] and [`StoreError::TooLarge`] are told before anything is
    /// written: nothing was changed and the engine goes on.
    Store(StoreError),
}

/// What is wrong with a store. Each message says what to do next; none holds a row's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// Another process has it open.
    InUse,
    /// There is none in this folder.
    Missing,
    /// There already is one in this folder.
    Exists,
    /// The file was written by a newer release (format version found, newest version known here).
    Newer(u32, u32),
    /// The file is not a store, or is damaged.
    Corrupt,
    /// The disk is full. Nothing was changed; reads go on.
    Full,
    /// This process may not read or write there.
    Forbidden,
    /// The operating system reported an error (its number, or 0).
    Io(i32),
    /// The engine failed earlier, or is closed; open the vault anew.
    Away,
    /// A key or value is over its bound: a mistake in this program.
    TooLarge,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => f.write_str("the store is in use by another process; stop that one first"),
            Self::Missing => f.write_str("there is no store in this folder; make one with `vaultctl init`"),
            Self::Exists => f.write_str("there already is a store in this folder; choose an empty folder"),
            Self::Newer(found, known) => write!(
                f,
                "the store has format {found}, this release knows up to {known}; use the newer release"
            ),
            Self::Corrupt => f.write_str(
                "the store's file is damaged or is no store; restore it from a backup, keep the damaged copy",
            ),
            Self::Full => f.write_str("the disk is full; nothing was changed; make room and try again"),
            Self::Forbidden => {
                f.write_str("no permission for the store's folder or file; check owner and mode")
            }
            Self::Io(code) => {
                write!(f, "the disk reported error {code}; check the disk, then start the vault again")
            }
            Self::Away => f.write_str("the store stopped after an earlier error; start the vault again"),
            Self::TooLarge => f.write_str("a row is over its bound; please report this as a bug"),
        }
    }
}

impl std::error::Error for StoreError {}

/// A read under way. Embedded engines answer at once; a database answers when it can.
pub type Reading<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A sorted, durable map of bytes.
///
/// The contract, enforced for every engine by `store::contract` (run by each engine's tests):
/// - `get` answers all its keys from one snapshot, in the order asked, and sees every batch whose commit returned. It
///   may already see one, whole, whose commit is about to return.
/// - `scan` gives rows whose key starts with `prefix` and is greater than `after`, ascending, at most `limit`, from one
///   snapshot per page.
/// - `commit` applies all of a batch or nothing, in order, and returns `Ok` only once it is on disk.
/// - An engine that failed a flush answers [`StoreError::Away`] to every later commit and read: what it holds in memory
///   may not be what is on disk.
pub trait Store: Send + Sync + 'static {
    /// The values of `keys`, in the same order, from one snapshot.
    fn get<'a>(&'a self, keys: &'a [Key]) -> Reading<'a, Vec<Option<Value>>>;

    /// A page of rows: those under `prefix`, after the key `after` if one is given, ascending. `limit` is at most
    /// [`MAX_SCAN`]; more is cut to it.
    fn scan<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> Reading<'a, Vec<(Key, Value)>>;

    /// Applies `batch` and makes it durable. Blocks the calling thread: only the journal's own thread calls it. A batch
    /// that changes nothing is judged like any other, and writes nothing.
    fn commit(&self, batch: &Batch) -> Result<(), CommitError>;

    /// How many commits reached the disk since the store was opened: one each, however many parts it had.
    fn commits(&self) -> u64;

    /// The engine's name as it stands in a configuration: `memory`, `redb`, `sled`.
    fn engine(&self) -> &'static str;
}
