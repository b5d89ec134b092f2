//! The engine sled 0.34.7, with what it takes to make it durable.
//!
//! sled's own flush ends in `sync_file_range`, which does not reach the disk's cache (spacejam/sled#1452). So a commit
//! is one atomic batch, then sled's flush, then `sync_data` on a handle of our own to sled's file `db`, then `Ok`.
//! sled puts what is over an eighth of a MiB into files of its own that it never flushes; so a long value is cut into
//! chunks, no page grows that large, and no such file is ever made.
//!
//! sled takes a damaged log for one whose end was never written, and goes on without it. So the files are checked
//! before sled sees them, and after an orderly end they must be what was left (its digest is in the file `CLOSED`).
//! Refused unchanged: foreign or garbled files, a log that lacks a part it once had on disk, and after an orderly end
//! any file cut short. After a crash, sled's last batches cut off cannot be told from a crash before they were written.
//! Space is reclaimed only by sled's background flush (twice a second); under rotation the file grows faster than
//! [`redb`](super::redb)'s.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use ring::digest::{Context, SHA256};

use super::folder::{Home, Options, directory, restrict, sync_directory, write_new};
use super::settle::{Changes, Medium, Pen, Row, Rows, unwound};
use super::{Batch, CommitError, Key, Reading, Store, StoreError, Value};

/// How often sled looks for space to reclaim, in milliseconds. Durability does not depend on it.
const FLUSH_MS: u64 = 500;

/// sled's directory in the store's.
const FILES: &str = "sled";
/// Present after an orderly end only: the digest of the files as they were left.
const CLOSED: &str = "CLOSED";
const CLOSING: &str = "CLOSED.new";

/// What sled's file `conf` says, before its checksum: we never set any of it otherwise.
const CONF: &[u8] = b"segment_size: 524288\nuse_compression: false\nversion: 0.34\n";
/// sled's log is a row of segments of this many bytes, in no particular order.
const SEGMENT: u64 = 512 * 1_024;
/// Each takes as many log sequence numbers.
const SEGMENT_NUMBERS: i64 = 512 * 1_024;
/// A segment's header: checksum, log sequence number, the number up to which the log was on disk.
const HEADER: usize = 20;

/// The longest row that sled sees, in bytes. A page holds 17 rows until it is split, a few more while it is merged, and
/// must stay below a quarter of a segment, or sled puts it into a file that it never flushes: 25 such rows fit.
const CHUNK: usize = 4 * 1_024;

/// First bytes of the keys that sled sees.
const ROW: u8 = 0;
const REST: u8 = 1;
const MARK: u8 = 2;

/// First bytes of a row's value: what follows is all of it, or its length and then chunks elsewhere.
const WHOLE: u8 = 0;
const CUT: u8 = 1;

/// An open sled directory.
pub struct Sled {
    // `None` only while it is being dropped.
    db: Option<sled::Db>,
    // Held for writing while a batch is applied in memory: a reader sees it whole or not at all.
    snapshot: RwLock<()>,
    file: File,
    pen: Pen,
    // Last, so that the lock outlives the files.
    home: Home,
}

impl Sled {
    /// Makes empty files in the directory `path`.
    pub(crate) fn make(path: &Path, options: &Options) -> Result<(), StoreError> {
        let files = path.join(FILES);
        directory(&files, false)?;
        let db = begin(&files, options)?;
        db.insert([MARK], &[]).map_err(trouble)?;
        db.flush().map_err(trouble)?;
        drop(db);
        let file = handle(&files)?;
        if !quiet(&file) {
            return Err(StoreError::InUse);
        }
        Ok(file.sync_all()?)
    }

    /// Opens the files in `home`.
    pub(crate) fn open(home: Home, options: &Options) -> Result<Self, StoreError> {
        let files = home.path.join(FILES);
        let file = handle(&files)?;
        // The folder's lock keeps other vaults away, not other programs that know sled.
        match file.try_lock() {
            Ok(()) => file.unlock()?,
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        sound(&files)?;
        reopen_mark(&home.path)?;
        remove_torn_snapshots(&files)?;
        let db = unwound(|| begin(&files, options))?;
        // sled's own new files have whatever mode the process gives.
        small_files(&files)?.iter().try_for_each(|path| restrict(path, 0o600))?;
        // Without its first row this is not what was made here, whatever sled made of it.
        match unwound(|| db.get([MARK]).map_err(trouble))? {
            Some(_) => Ok(Self { db: Some(db), snapshot: RwLock::new(()), file, pen: Pen::default(), home }),
            None => Err(StoreError::Corrupt),
        }
    }

    fn db(&self) -> Result<&sled::Db, StoreError> {
        self.db.as_ref().ok_or(StoreError::Away)
    }
}

impl Store for Sled {
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
        "sled"
    }
}

impl Medium for Sled {
    fn rows(&self) -> Result<impl Rows + '_, StoreError> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Snapshot { db: self.db()?, _held: snapshot })
    }

    fn room(&self, changes: &Changes) -> Result<(), StoreError> {
        self.home.room(changes)
    }

    fn keep(&self, changes: Changes) -> Result<(), StoreError> {
        let db = self.db()?;
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            put(db, &mut batch, &key, value)?;
        }
        {
            let _snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            db.apply_batch(batch).map_err(trouble)?;
        }
        db.flush().map_err(trouble)?;
        Ok(self.file.sync_data()?)
    }
}

/// No batch is applied while it is held.
struct Snapshot<'a> {
    db: &'a sled::Db,
    _held: RwLockReadGuard<'a, ()>,
}

impl Rows for Snapshot<'_> {
    fn find(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        let row = self.db.get(row_key(key)).map_err(trouble)?;
        row.map(|row| value_of(self.db, key, &row)).transpose()
    }

    fn from(&self, start: Bound<&[u8]>) -> Result<impl Iterator<Item = Row>, StoreError> {
        let rows = self.db.range::<Key, _>((start.map(row_key), Bound::Excluded(vec![REST])));
        Ok(rows.map(|row| {
            let (key, value) = row.map_err(trouble)?;
            let key = key.get(1..).unwrap_or_default().to_vec();
            let value = value_of(self.db, &key, &value)?;
            Ok((key, value))
        }))
    }
}

impl Drop for Sled {
    /// Leaves word of an orderly end, if it was one.
    fn drop(&mut self) {
        let orderly = self.pen.check().is_ok();
        let db = self.db.take();
        let closed = unwound(|| {
            drop(db);
            Ok(())
        });
        if orderly && closed.is_ok() && quiet(&self.file) {
            // Without the word the next start trusts sled's recovery, as after a crash.
            let _ = leave_mark(&self.home.path);
        }
    }
}

fn begin(files: &Path, options: &Options) -> Result<sled::Db, StoreError> {
    let cache = u64::try_from(options.cache).unwrap_or(u64::MAX);
    sled::Config::new()
        .path(files)
        .cache_capacity(cache)
        .flush_every_ms(Some(FLUSH_MS))
        .open()
        .map_err(trouble)
}

fn handle(files: &Path) -> Result<File, StoreError> {
    Ok(OpenOptions::new().read(true).write(true).open(files.join("db"))?)
}

/// Waits, two seconds at most, until sled's last thread has let go of the file.
fn quiet(file: &File) -> bool {
    (0..200).any(|_| file.try_lock().inspect_err(|_| std::thread::sleep(Duration::from_millis(10))).is_ok())
}

fn row_key(key: &[u8]) -> Key {
    [&[ROW], key].concat()
}

/// The key of chunk `index` of the row `key`. The length in front keeps one row's chunks from another's.
fn chunk_key(key: &[u8], index: usize) -> Result<Key, StoreError> {
    let length = u8::try_from(key.len()).map_err(|_| StoreError::TooLarge)?;
    let index = u32::try_from(index).map_err(|_| StoreError::TooLarge)?;
    Ok([&[REST, length], key, &index.to_be_bytes()].concat())
}

fn value_of(db: &sled::Db, key: &[u8], row: &[u8]) -> Result<Value, StoreError> {
    match row.split_first() {
        Some((&WHOLE, value)) => Ok(value.to_vec()),
        Some((&CUT, _)) => {
            let mut value = Vec::new();
            for index in 0..chunks(row)? {
                let chunk = db.get(chunk_key(key, index)?).map_err(trouble)?;
                value.extend_from_slice(&chunk.ok_or(StoreError::Corrupt)?);
            }
            if length(row)? == value.len() { Ok(value) } else { Err(StoreError::Corrupt) }
        }
        Some(_) | None => Err(StoreError::Corrupt),
    }
}

/// The length of the value that the row `row` stands for, if it was cut.
fn length(row: &[u8]) -> Result<usize, StoreError> {
    let bytes = row.get(1..).and_then(|rest| rest.try_into().ok()).ok_or(StoreError::Corrupt)?;
    usize::try_from(u32::from_be_bytes(bytes)).map_err(|_| StoreError::Corrupt)
}

/// How many chunks the row `row` has elsewhere.
fn chunks(row: &[u8]) -> Result<usize, StoreError> {
    match row.first() {
        Some(&CUT) => Ok(length(row)?.div_ceil(CHUNK)),
        Some(_) | None => Ok(0),
    }
}

fn put(db: &sled::Db, batch: &mut sled::Batch, key: &[u8], value: Option<Value>) -> Result<(), StoreError> {
    let old = db.get(row_key(key)).map_err(trouble)?;
    let had = old.map_or(Ok(0), |row| chunks(&row))?;
    let mut has = 0;
    match value {
        None => batch.remove(row_key(key)),
        Some(value) if value.len() <= CHUNK => batch.insert(row_key(key), [&[WHOLE], &*value].concat()),
        Some(value) => {
            let length = u32::try_from(value.len()).map_err(|_| StoreError::TooLarge)?;
            batch.insert(row_key(key), [&[CUT][..], &length.to_be_bytes()].concat());
            for chunk in value.chunks(CHUNK) {
                batch.insert(chunk_key(key, has)?, chunk);
                has += 1;
            }
        }
    }
    for index in has..had {
        batch.remove(chunk_key(key, index)?);
    }
    Ok(())
}

fn trouble(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) => error.into(),
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => StoreError::Corrupt,
    }
}

/// Whether the files are a sled log that is all there, as far as can be told without sled.
fn sound(files: &Path) -> Result<(), StoreError> {
    let conf = fs::read(files.join("conf"))?;
    let (text, sum) = conf.split_last_chunk::<4>().ok_or(StoreError::Corrupt)?;
    if text != CONF || *sum != crc32(text).to_le_bytes() {
        return Err(StoreError::Corrupt);
    }
    let mut there = Vec::new();
    let mut flushed = -1;
    for header in headers(&files.join("db"))? {
        // Zeros: never written, or wiped by sled's own recovery.
        if header != [0; HEADER] {
            let (number, stable) = segment(&header).ok_or(StoreError::Corrupt)?;
            there.push(number);
            flushed = flushed.max(stable);
        }
    }
    let newest = there.iter().max().ok_or(StoreError::Corrupt)?;
    // A segment says that the log was on disk up to `flushed`: the segment that this lies in must be there. sled gives
    // it up only once a later segment says more, or a snapshot was written that goes further.
    let snapshot = newest_snapshot(files)?;
    let whole = flushed <= snapshot || there.contains(&(flushed / SEGMENT_NUMBERS * SEGMENT_NUMBERS));
    // And the log goes at least as far as the snapshot does.
    if whole && snapshot <= newest + SEGMENT_NUMBERS { Ok(()) } else { Err(StoreError::Corrupt) }
}

/// The log sequence number that the newest snapshot goes up to, -1 if there is none. sled has it in the file's name.
fn newest_snapshot(files: &Path) -> Result<i64, StoreError> {
    let paths = small_files(files)?;
    let names = paths.iter().filter_map(|path| path.file_name()?.to_str()?.strip_prefix("snap."));
    Ok(names.filter_map(|number| i64::from_str_radix(number, 16).ok()).max().unwrap_or(-1))
}

fn headers(db: &Path) -> Result<Vec<[u8; HEADER]>, StoreError> {
    let mut file = File::open(db)?;
    let len = file.metadata()?.len();
    let mut headers = Vec::new();
    let mut at = 0;
    while at + 20 <= len {
        let mut header = [0; HEADER];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header)?;
        headers.push(header);
        at += SEGMENT;
    }
    Ok(headers)
}

/// A segment's log sequence number, and the one up to which the log was on disk when it was begun.
fn segment(header: &[u8; HEADER]) -> Option<(i64, i64)> {
    let (sum, numbers) = header.split_first_chunk::<4>()?;
    let (number, stable) = numbers.split_first_chunk::<8>()?;
    let stable = stable.first_chunk::<8>()?;
    let plain = |bytes: &[u8; 8]| i64::from_le_bytes(*bytes) ^ i64::MAX;
    (u32::from_le_bytes(*sum) ^ u32::MAX == crc32(numbers)).then(|| (plain(number), plain(stable)))
}

/// CRC-32 (ISO 3309), as sled writes it.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// Writes down what the files are, now that nobody writes to them.
fn leave_mark(store: &Path) -> Result<(), StoreError> {
    let unfinished = store.join(CLOSING);
    // May be there from an end that was cut short.
    let _ = fs::remove_file(&unfinished);
    write_new(&unfinished, &digest(&store.join(FILES))?)?;
    fs::rename(&unfinished, store.join(CLOSED))?;
    sync_directory(store)
}

/// Holds the files against the word of an orderly end, if there is one, and takes it away: from here on they change.
fn reopen_mark(store: &Path) -> Result<(), StoreError> {
    let path = store.join(CLOSED);
    if !path.try_exists()? {
        return Ok(());
    }
    if fs::read(&path)? != digest(&store.join(FILES))? {
        return Err(StoreError::Corrupt);
    }
    fs::remove_file(&path)?;
    sync_directory(store)
}

/// A digest of sled's small files, and of the log's length, segment headers and last segment: what being cut short,
/// swapped or overwritten from the front or the end would change, without reading gigabytes.
fn digest(files: &Path) -> Result<Vec<u8>, StoreError> {
    let mut digest = Context::new(&SHA256);
    for path in small_files(files)? {
        digest.update(&fs::read(path)?);
    }
    let db = files.join("db");
    for header in headers(&db)? {
        digest.update(&header);
    }
    let mut file = File::open(db)?;
    let len = file.metadata()?.len();
    digest.update(&len.to_be_bytes());
    file.seek(SeekFrom::Start(len.saturating_sub(SEGMENT)))?;
    let mut end = Vec::new();
    file.take(SEGMENT).read_to_end(&mut end)?;
    digest.update(&end);
    Ok(digest.finish().as_ref().to_vec())
}

/// Removes what a start that was cut short left of a new snapshot. sled would take it for its newest one, find it torn
/// and never open again; the one before it is still there.
fn remove_torn_snapshots(files: &Path) -> Result<(), StoreError> {
    for path in small_files(files)? {
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn small_files(files: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(files)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "conf" || name.to_string_lossy().starts_with("snap.") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::{Made, contract_tests};
    use crate::store::{Engine, Write};

    fn fresh() -> Made {
        let folder = tempfile::tempdir().unwrap();
        let Made { store, .. } = Made::in_folder(folder.path(), Engine::Sled, Options::default());
        Made::new(store, move || crate::store::open(folder.path(), &Options::default()).unwrap())
    }

    contract_tests!(fresh);

    #[test]
    fn sled_never_makes_a_file_that_it_does_not_flush() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::create(folder.path(), Engine::Sled, &Options::default()).unwrap();
        // Rows as long as they come uncut, side by side, then rewritten, cut and deleted so that pages split and merge.
        for (round, len) in [(0, CHUNK), (1, CHUNK - 1), (2, 60 * CHUNK), (3, CHUNK), (4, 1 << 20)] {
            let row = |n: u16| {
                let key = [&[b'r'; 60][..], &n.wrapping_mul(40_503).to_be_bytes()].concat();
                if n % 5 == round { Write::Delete(key) } else { Write::Put(key, vec![0xA5; len]) }
            };
            for first in 0..4 {
                let head = (first * 50..first * 50 + 50).map(row).collect();
                store.commit(&Batch { head, ..Batch::default() }).unwrap();
            }
            let blobs = fs::read_dir(folder.path().join("store").join(FILES).join("blobs")).unwrap();
            assert_eq!(blobs.count(), 0, "round {round}");
        }
    }

    #[test]
    fn a_log_that_lacks_what_it_once_had_on_disk_is_refused_after_a_crash_too() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::create(folder.path(), Engine::Sled, &Options::default()).unwrap();
        for n in 0..1_000_u32 {
            let head = vec![Write::Put(n.to_be_bytes().to_vec(), vec![0xA5; 4_000])];
            store.commit(&Batch { head, ..Batch::default() }).unwrap();
        }
        drop(store);
        let inner = folder.path().join("store");
        // As after a crash: no word of an orderly end.
        fs::remove_file(inner.join(CLOSED)).unwrap();
        let db = inner.join(FILES).join("db");
        let whole = fs::read(&db).unwrap();
        let refused = |damaged: &[u8]| {
            fs::write(&db, damaged).unwrap();
            assert_eq!(
                crate::store::open(folder.path(), &Options::default()).err(),
                Some(StoreError::Corrupt)
            );
            assert!(fs::read(&db).unwrap() == damaged);
            fs::write(&db, &whole).unwrap();
        };
        let stride = usize::try_from(SEGMENT).unwrap();
        let segments: Vec<_> =
            headers(&db).unwrap().iter().map(|header| segment(header).unwrap_or((-1, -1))).collect();
        let flushed =
            segments.iter().map(|(_, stable)| stable).max().unwrap() / SEGMENT_NUMBERS * SEGMENT_NUMBERS;
        let place = segments.iter().position(|(number, _)| *number == flushed).unwrap() * stride;
        // The segment that the log was last known to be on disk up to: never written, or overwritten.
        refused(&[&whole[..place], &vec![0; stride], &whole[place + stride..]].concat());
        refused(&[&whole[..place], &whole[..stride], &whole[place + stride..]].concat());
        drop(crate::store::open(folder.path(), &Options::default()).unwrap());
        fs::remove_file(inner.join(CLOSED)).unwrap();
        // Cut to before the last start.
        let whole = fs::read(&db).unwrap();
        fs::write(&db, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(crate::store::open(folder.path(), &Options::default()).err(), Some(StoreError::Corrupt));
        fs::write(&db, &whole).unwrap();
        let store = crate::store::open(folder.path(), &Options::default()).unwrap();
        assert_eq!(pollster::block_on(store.scan(b"", None, 10_000)).unwrap().len(), 1_000);
    }

    #[test]
    fn a_start_cut_short_while_it_wrote_its_snapshot_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let open = || crate::store::open(folder.path(), &Options::default());
        drop(crate::store::create(folder.path(), Engine::Sled, &Options::default()).unwrap());
        let store = open().unwrap();
        store.commit(&Batch { head: vec![Write::Put(vec![1], vec![2])], ..Batch::default() }).unwrap();
        drop(store);
        fs::remove_file(folder.path().join("store").join(CLOSED)).unwrap();
        for torn in [b"".as_slice(), b"torn", &[0; 64]] {
            let name = "snap.00000000000FFFFF.generating";
            fs::write(folder.path().join("store").join(FILES).join(name), torn).unwrap();
            let store = open().unwrap();
            assert_eq!(pollster::block_on(store.get(&[vec![1]])), Ok(vec![Some(vec![2])]));
            drop(store);
            // The next round is a crash again.
            fs::remove_file(folder.path().join("store").join(CLOSED)).unwrap();
        }
    }
}
