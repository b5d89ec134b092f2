//! The default engine: redb, one file, one table.
//!
//! Every commit is flushed before it returns ([`Durability::Immediate`]) and stores what the next start needs (quick
//! repair), so that a start after a crash does not read the whole file. While the file is being opened nothing is
//! written to it: what redb's recovery would write is held back until the file has proved to be a store. A damaged file
//! is refused as it is, byte for byte.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{
    BackendError, Builder, Database, Durability, ReadOnlyTable, ReadableDatabase as _, StorageBackend,
    TableDefinition,
};

use super::folder::{Home, Options, private};
use super::settle::{Changes, Medium, Pen, Row, Rows, unwound};
use super::{Batch, CommitError, Key, Reading, Store, StoreError, Value};

const FILE: &str = "rows.redb";
type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

/// An open redb file.
pub struct Redb {
    db: Database,
    pen: Pen,
    // Last, so that the lock outlives the file.
    home: Home,
}

impl Redb {
    /// Makes an empty file in the directory `path`.
    pub(crate) fn make(path: &Path, options: &Options) -> Result<(), StoreError> {
        let file = private().read(true).write(true).create_new(true).open(path.join(FILE))?;
        let db = builder(options).create_with_backend(backend(file)?).map_err(trouble)?;
        write(&db, Changes::new())?;
        db.close().map_err(trouble)
    }

    /// Opens the file in `home`.
    pub(crate) fn open(home: Home, options: &Options) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).write(true).open(home.path.join(FILE))?;
        // redb takes an empty file for one to begin.
        if file.metadata()?.len() == 0 {
            return Err(StoreError::Corrupt);
        }
        let careful = Arc::new(Careful::new(backend(file)?)?);
        let db = unwound(|| {
            let db = builder(options).create_with_backend(Backend(careful.clone())).map_err(trouble)?;
            table(&db)?;
            Ok(db)
        })?;
        careful.let_go()?;
        Ok(Self { db, pen: Pen::default(), home })
    }
}

impl Store for Redb {
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
        "redb"
    }
}

impl Medium for Redb {
    fn rows(&self) -> Result<impl Rows + '_, StoreError> {
        table(&self.db)
    }

    fn room(&self, changes: &Changes) -> Result<(), StoreError> {
        self.home.room(changes)
    }

    fn keep(&self, changes: Changes) -> Result<(), StoreError> {
        write(&self.db, changes)
    }
}

impl Rows for Table {
    fn find(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        Ok(self.get(key).map_err(trouble)?.map(|row| row.value().to_vec()))
    }

    fn from(&self, start: Bound<&[u8]>) -> Result<impl Iterator<Item = Row>, StoreError> {
        let rows = self.range::<&[u8]>((start, Bound::Unbounded)).map_err(trouble)?;
        Ok(rows.map(|row| {
            let (key, value) = row.map_err(trouble)?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        }))
    }
}

/// The rows as the last commit left them; it keeps its own hold on the snapshot.
fn table(db: &Database) -> Result<Table, StoreError> {
    db.begin_read().map_err(trouble)?.open_table(ROWS).map_err(trouble)
}

fn builder(options: &Options) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(options.cache);
    builder
}

fn backend(file: File) -> Result<FileBackend, StoreError> {
    FileBackend::new(file).map_err(trouble)
}

fn write(db: &Database, changes: Changes) -> Result<(), StoreError> {
    let mut transaction = db.begin_write().map_err(trouble)?;
    transaction.set_durability(Durability::Immediate).map_err(trouble)?;
    transaction.set_quick_repair(true);
    {
        let mut rows = transaction.open_table(ROWS).map_err(trouble)?;
        for (key, value) in changes {
            match value {
                Some(value) => rows.insert(key.as_slice(), value.as_slice()),
                None => rows.remove(key.as_slice()),
            }
            .map_err(trouble)?;
        }
    }
    transaction.commit().map_err(trouble)
}

fn trouble(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) => error.into(),
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => StoreError::InUse,
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => StoreError::Away,
        redb::Error::ValueTooLarge(_) => StoreError::TooLarge,
        // Everything else is about tables, formats and pages that are not as this file wrote them.
        _ => StoreError::Corrupt,
    }
}

/// A file that is only read until [`Careful::let_go`]: changes are kept in memory, in order, until then.
#[derive(Debug)]
struct Careful {
    file: FileBackend,
    holding: AtomicBool,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    changes: Vec<Change>,
    // The file's length with the changes.
    len: u64,
}

#[derive(Debug)]
enum Change {
    Bytes(u64, Vec<u8>),
    Len(u64),
    Sync,
}

impl Careful {
    fn new(file: FileBackend) -> Result<Self, StoreError> {
        let held = Mutex::new(Held { changes: Vec::new(), len: file.len()? });
        Ok(Self { file, holding: true.into(), held })
    }

    /// Makes the changes held back, in their order and with their flushes. If one fails the rest stay held back for
    /// good: a file half repaired is repaired again when it is next opened.
    fn let_go(&self) -> Result<(), StoreError> {
        let Some(mut held) = self.held() else { return Ok(()) };
        for change in held.changes.drain(..) {
            match change {
                Change::Bytes(offset, bytes) => self.file.write(offset, &bytes)?,
                Change::Len(len) => self.file.set_len(len)?,
                Change::Sync => self.file.sync_data()?,
            }
        }
        self.holding.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn held(&self) -> Option<MutexGuard<'_, Held>> {
        let holding = || self.holding.load(Ordering::SeqCst);
        let held = holding().then(|| self.held.lock().unwrap_or_else(PoisonError::into_inner));
        // Another thread may have let go while this one waited for its turn.
        held.filter(|_| holding())
    }
}

impl Held {
    fn read(&self, file: &FileBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if end(offset, out)? > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.fill(0);
        let there = usize::try_from(file.len()?.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        file.read(offset, out.get_mut(..there).unwrap_or_default())?;
        for change in &self.changes {
            match change {
                Change::Bytes(at, bytes) => overlay(offset, out, *at, bytes),
                Change::Len(len) => {
                    let kept =
                        usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
                    out.get_mut(kept..).unwrap_or_default().fill(0);
                }
                Change::Sync => {}
            }
        }
        Ok(())
    }
}

/// Copies what `bytes`, which lie at `at`, have in common with `out`, which lies at `offset`.
fn overlay(offset: u64, out: &mut [u8], at: u64, bytes: &[u8]) {
    let position = |gap: u64| usize::try_from(gap).unwrap_or(usize::MAX);
    let out = out.get_mut(position(at.saturating_sub(offset))..).unwrap_or_default();
    let bytes = bytes.get(position(offset.saturating_sub(at))..).unwrap_or_default();
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
}

fn end(offset: u64, bytes: &[u8]) -> io::Result<u64> {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    offset.checked_add(len).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// How redb sees a [`Careful`] file.
#[derive(Debug)]
struct Backend(Arc<Careful>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.held().map_or_else(|| self.0.file.len(), |held| Ok(held.len))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.0.held() {
            None => self.0.file.read(offset, out),
            Some(held) => held.read(&self.0.file, offset, out),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.0.held() {
            None => return self.0.file.set_len(len),
            Some(mut held) => {
                held.len = len;
                held.changes.push(Change::Len(len));
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.0.held() {
            None => return self.0.file.sync_data(),
            Some(mut held) => held.changes.push(Change::Sync),
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.0.held() {
            None => return self.0.file.write(offset, data),
            Some(mut held) => {
                held.len = held.len.max(end(offset, data)?);
                held.changes.push(Change::Bytes(offset, data.to_vec()));
            }
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.0.file.close()
    }

    // The folder's lock keeps other vaults away; these keep away other programs that know redb.

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Engine;
    use crate::store::contract::{Made, contract_tests};

    fn fresh() -> Made {
        let folder = tempfile::tempdir().unwrap();
        let Made { store, .. } = Made::in_folder(folder.path(), Engine::Redb, Options::default());
        Made::new(store, move || crate::store::open(folder.path(), &Options::default()).unwrap())
    }

    contract_tests!(fresh);

    proptest::proptest! {
        #[test]
        fn a_file_held_back_reads_as_if_written_and_is_untouched_until_let_go(
            steps in proptest::collection::vec((0..4_u8, 0..300_u64, 1..60_usize), 0..40)
        ) {
            let path = tempfile::tempdir().unwrap();
            let path = path.path().join("file");
            let mut model: Vec<u8> = (0..200).collect();
            std::fs::write(&path, &model).unwrap();
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let careful = Arc::new(Careful::new(backend(file).unwrap()).unwrap());
            let seen = Backend(careful.clone());
            for (kind, at, len) in steps {
                let (start, end) = (usize::try_from(at).unwrap(), usize::try_from(at).unwrap() + len);
                match kind {
                    0 => {
                        seen.set_len(at).unwrap();
                        model.resize(start, 0);
                    }
                    1 => seen.sync_data().unwrap(),
                    _ => {
                        seen.write(at, &vec![kind; len]).unwrap();
                        model.resize(model.len().max(end), 0);
                        model[start..end].fill(kind);
                    }
                }
                assert_eq!(seen.len().unwrap(), u64::try_from(model.len()).unwrap());
                let mut out = vec![9; len];
                let read = seen.read(at, &mut out);
                assert_eq!(read.is_ok().then_some(&out[..]), model.get(start..end));
            }
            assert_eq!(std::fs::read(&path).unwrap(), (0..200).collect::<Vec<u8>>());
            careful.let_go().unwrap();
            assert!(std::fs::read(&path).unwrap() == model);
            seen.set_len(1).unwrap();
            assert_eq!(std::fs::read(&path).unwrap().len(), 1);
        }
    }
}
