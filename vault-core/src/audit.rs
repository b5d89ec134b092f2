//! The log of all that was done: entries, the tree over them, its signed head, and how to check all of it.
//!
//! A log is append-only, and whoever holds one of its checkpoints can show it if it is not. This module has
//! levels too: an entry and the tree know neither of the other; a note signs, a checkpoint is one; a receipt
//! and the verifier need them all. Nothing here writes: the journal does, with the rows that it is given
//! here. Refused when a log is opened: a head that is not signed by its key, a tree that is not the signed
//! one, entries that no head speaks of.

pub mod checkpoint;
pub mod entry;
pub mod handover;
pub mod note;
pub mod receipt;
#[cfg(test)]
mod shelf;
pub mod tree;
pub mod verify;

use std::fmt;

use self::checkpoint::{SignedCheckpoint, head_key};
use self::note::{LogVerifier, NoteError};
use self::tree::{Edge, TreeError, entry_key};
use crate::store::{Store, StoreError};

/// Why a log cannot be opened. None of these heals by trying again but [`TreeError::Store`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogError {
    /// A row is missing or damaged, or the store cannot serve.
    Tree(TreeError),
    /// The head is not signed by the log's key, or is damaged.
    Head(NoteError),
    /// The rows give another root than the one that was signed: an entry or tile was altered.
    Root,
    /// There are entries that the signed head does not speak of.
    Beyond,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(error) => write!(f, "{error}"),
            Self::Head(error) => write!(f, "the head of the audit log: {error}"),
            Self::Root => f.write_str("the audit log was altered; `vaultctl audit verify` says where"),
            Self::Beyond => f.write_str("the audit log has entries that its signed head does not speak of"),
        }
    }
}

impl std::error::Error for LogError {}

impl From<TreeError> for LogError {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

impl From<StoreError> for LogError {
    fn from(error: StoreError) -> Self {
        Self::Tree(error.into())
    }
}

impl From<NoteError> for LogError {
    fn from(error: NoteError) -> Self {
        Self::Head(error)
    }
}

/// A log where it was left: what a writer goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The newest head: its time is the one below which the clock must not go.
    pub head: SignedCheckpoint,
    /// The tree's right edge, whose root is the signed one.
    pub edge: Edge,
}

/// The newest signed head of `log`, or `None` if the log has neither head nor first entry.
pub async fn head(
    store: &dyn Store,
    log: u32,
    verifier: &LogVerifier,
) -> Result<Option<SignedCheckpoint>, LogError> {
    let keys = [head_key(log), entry_key(log, 0)];
    let mut rows = store.get(&keys).await?.into_iter();
    let (note, first) = (rows.next().flatten(), rows.next().flatten());
    let Some(note) = note else {
        return if first.is_none() { Ok(None) } else { Err(LogError::Beyond) };
    };
    let note = std::str::from_utf8(&note).map_err(|_| NoteError::Form)?;
    Ok(Some(SignedCheckpoint::open(note, verifier)?))
}

/// Opens `log` to go on with it: its head checked, its edge read back and compared with the signed root. The
/// cost does not grow with the log (see [`tree::load`]); that every entry is in place is
/// [`verify::verify_store`]'s to say.
pub async fn open(store: &dyn Store, log: u32, verifier: &LogVerifier) -> Result<Option<Opened>, LogError> {
    let Some(head) = head(store, log, verifier).await? else { return Ok(None) };
    let checkpoint = head.checkpoint();
    let edge = tree::load(store, log, checkpoint.size).await?;
    if edge.root() != checkpoint.root {
        return Err(LogError::Root);
    }
    let next = [entry_key(log, checkpoint.size)];
    if store.get(&next).await?.into_iter().flatten().next().is_some() {
        return Err(LogError::Beyond);
    }
    Ok(Some(Opened { head, edge }))
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::entry::AuditEntry;
    use super::entry::tests::disclosed;
    use super::note::tests::signer;
    use super::shelf::Shelf;
    use super::tree::leaf_hash;
    use super::*;

    pub(super) const ORIGIN: &str = "vault.example/log/0";

    /// Entry `index` of the log below.
    pub(super) fn nth(index: u64) -> AuditEntry {
        disclosed(1_000 + index, 1 + index / 500)
    }

    /// Log 0 with `size` entries, a millisecond apart, and its head.
    pub(super) fn written(size: u64) -> (Shelf, SignedCheckpoint) {
        let (shelf, mut edge) = (Shelf::default(), Edge::empty(0));
        for index in 0..size {
            let entry = nth(index).encode();
            let (next, tiles) = edge.with(&[leaf_hash(&entry)]);
            shelf.put(entry_key(0, index), entry);
            shelf.write(&tiles);
            edge = next;
        }
        let head = checkpoint::tests::checkpoint(size, edge.root()).sign(&signer(ORIGIN, 1));
        shelf.write(&[head.write(0)]);
        (shelf, head)
    }

    #[test]
    fn a_log_is_opened_where_it_was_left() {
        let verifier = signer(ORIGIN, 1).verifier().clone();
        assert_eq!(block_on(open(&Shelf::default(), 0, &verifier)), Ok(None));
        for size in [0, 1, 256, 300] {
            let (shelf, head) = written(size);
            let opened = block_on(open(&shelf, 0, &verifier)).unwrap().unwrap();
            assert_eq!((opened.edge.size(), &opened.head), (size, &head));
        }
    }

    #[test]
    fn a_log_that_was_tampered_with_is_not_opened() {
        let verifier = signer(ORIGIN, 1).verifier().clone();
        let opened = |tamper: &dyn Fn(&Shelf)| {
            let (shelf, _) = written(300);
            tamper(&shelf);
            block_on(open(&shelf, 0, &verifier)).unwrap_err()
        };
        assert_eq!(opened(&|s| s.put(entry_key(0, 299), disclosed(1, 1).encode())), LogError::Root);
        assert_eq!(opened(&|s| s.put(entry_key(0, 300), disclosed(1, 1).encode())), LogError::Beyond);
        assert_eq!(opened(&|s| s.remove(&entry_key(0, 299))), TreeError::MissingEntry(299).into());
        assert_eq!(opened(&|s| s.remove(&head_key(0))), LogError::Beyond);
        assert_eq!(opened(&|s| s.put(head_key(0), vec![0xff])), LogError::Head(NoteError::Form));
        assert_eq!(opened(&|s| s.put(tree::tile_key(0, 0, 0), vec![0; tree::TILE_BYTES])), LogError::Root);
        assert_eq!(
            opened(&|s| s.put(head_key(0), s.value(&head_key(0)).unwrap()[3..].to_vec())),
            LogError::Head(NoteError::Signature)
        );
    }
}
