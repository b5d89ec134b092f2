//! A store's folder: who may have it open, which engine's it is, and whether it is there at all.
//!
//! ```text
//! <folder>/LOCK            held by the process that has the store open; never removed, never written
//! <folder>/store/FORMAT    `vault-store 1 redb\n`: format version and engine
//! <folder>/store/...       the engine's own files
//! <folder>/store.new/      a creation that was cut short; removed by the next one
//! ```
//!
//! A store appears by one rename, so the folder has a whole one or none. It refuses, without changing a byte: a store
//! that another process has open, one of a newer format, one that is damaged, a folder that already has one to create
//! in, and a disk with less room than [`Options::reserve`].

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::memory::Memory;
use super::redb::Redb;
use super::settle::Changes;
use super::sled::Sled;
use super::{Store, StoreError};

/// The newest format of a store's folder that this release knows, and the one that it writes.
pub const FORMAT_VERSION: u32 = 1;

const LOCK: &str = "LOCK";
const STORE: &str = "store";
const UNFINISHED: &str = "store.new";
const FORMAT: &str = "FORMAT";

/// The longest FORMAT that is read, in bytes: what this release writes has 20 at most.
const MAX_FORMAT: u64 = 256;

/// What one changed row may take on the disk beside its own bytes: a copied leaf page and its share of the tree's upper
/// pages and free lists, in bytes.
const ROW_COST: u64 = 8 * 1_024;

/// How often a row's own bytes may be written by one commit: as a row, and with the page that it moves to.
const COPIES: u64 = 4;

/// Which engine keeps the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Nothing on disk; gone with the process.
    Memory,
    /// The default.
    Redb,
    /// For who wants sled: keep an eye on its file's growth under rotation.
    Sled,
}

impl Engine {
    /// The name as it stands in a configuration and in FORMAT.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redb => "redb",
            Self::Sled => "sled",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no engine: it must be `memory`, `redb` or `sled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownEngine;

impl fmt::Display for UnknownEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be memory, redb or sled")
    }
}

impl std::error::Error for UnknownEngine {}

impl FromStr for Engine {
    type Err = UnknownEngine;
    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        match text {
            "memory" => Ok(Self::Memory),
            "redb" => Ok(Self::Redb),
            "sled" => Ok(Self::Sled),
            _ => Err(UnknownEngine),
        }
    }
}

/// What an operator may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Memory for pages, in bytes.
    pub cache: usize,
    /// Free bytes that every commit must leave on the disk, or it answers [`StoreError::Full`] with nothing changed.
    /// Neither engine can go on after a write that found no room, so they are not let near it. Zero switches the
    /// guard off: a disk that fills up then stops the engine.
    pub reserve: u64,
}

impl Default for Options {
    /// 64 MiB of cache, 64 MiB left free: room to open the store again and to write the log of it.
    fn default() -> Self {
        Self { cache: 64 << 20, reserve: 64 << 20 }
    }
}

/// Makes an empty store in `folder` (made too, mode 0700, if it is not there) and opens it. Blocks.
///
/// Errors: [`StoreError::Exists`], [`StoreError::InUse`], [`StoreError::Full`], [`StoreError::Forbidden`],
/// [`StoreError::Io`]. Whenever it is killed, the folder has a whole store or none. [`Engine::Memory`] touches no disk.
pub fn create(folder: &Path, engine: Engine, options: &Options) -> Result<Arc<dyn Store>, StoreError> {
    let make = match engine {
        Engine::Memory => return Ok(Arc::new(Memory::new())),
        Engine::Redb => Redb::make,
        Engine::Sled => Sled::make,
    };
    vacant(folder)?;
    directory(folder, true)?;
    let lock = lock(folder)?;
    vacant(folder)?;
    room(folder, options.reserve)?;
    let unfinished = folder.join(UNFINISHED);
    remove(&unfinished)?;
    let built = directory(&unfinished, false)
        .and_then(|()| make(&unfinished, options))
        .and_then(|()| write_new(&unfinished.join(FORMAT), format_text(engine).as_bytes()))
        .and_then(|()| seal(&unfinished));
    if let Err(error) = built {
        // Best effort: what stays is removed by the next creation.
        let _ = remove(&unfinished);
        return Err(error);
    }
    fs::rename(&unfinished, folder.join(STORE))?;
    sync_directory(folder)?;
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_directory(parent)?;
    }
    opened(engine, Home { path: folder.join(STORE), reserve: options.reserve, _lock: lock }, options)
}

/// Opens the store in `folder` with the engine that its FORMAT names. Blocks.
///
/// Errors: [`StoreError::Missing`], [`StoreError::InUse`], [`StoreError::Newer`], [`StoreError::Corrupt`],
/// [`StoreError::Forbidden`], [`StoreError::Io`], [`StoreError::Full`] (an engine had to repair and found no room).
pub fn open(folder: &Path, options: &Options) -> Result<Arc<dyn Store>, StoreError> {
    let path = folder.join(STORE);
    match path.symlink_metadata() {
        Ok(_) => {}
        Err(error) if absent(&error) => return Err(StoreError::Missing),
        Err(error) => return Err(error.into()),
    }
    let engine = read_format(&path)?;
    let lock = lock(folder)?;
    opened(engine, Home { path, reserve: options.reserve, _lock: lock }, options)
}

fn opened(engine: Engine, home: Home, options: &Options) -> Result<Arc<dyn Store>, StoreError> {
    match engine {
        Engine::Memory => Err(StoreError::Corrupt),
        Engine::Redb => Ok(Arc::new(Redb::open(home, options)?)),
        Engine::Sled => Ok(Arc::new(Sled::open(home, options)?)),
    }
}

/// A store's place, for as long as this process has it: the lock goes with it.
pub(crate) struct Home {
    /// `<folder>/store`.
    pub(crate) path: PathBuf,
    reserve: u64,
    _lock: File,
}

impl Home {
    /// Whether the disk has room for `changes` and the reserve.
    pub(crate) fn room(&self, changes: &Changes) -> Result<(), StoreError> {
        if self.reserve == 0 {
            return Ok(());
        }
        let cost = changes.iter().fold(self.reserve, |cost, (key, value)| {
            let bytes = key.len().saturating_add(value.as_ref().map_or(0, Vec::len));
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(COPIES);
            cost.saturating_add(bytes).saturating_add(ROW_COST)
        });
        room(&self.path, cost)
    }
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let file = private().read(true).write(true).create(true).truncate(false).open(folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn vacant(folder: &Path) -> Result<(), StoreError> {
    match folder.join(STORE).symlink_metadata() {
        Ok(_) => Err(StoreError::Exists),
        Err(error) if absent(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn format_text(engine: Engine) -> String {
    format!("vault-store {FORMAT_VERSION} {engine}\n")
}

fn read_format(store: &Path) -> Result<Engine, StoreError> {
    let mut text = String::new();
    File::open(store.join(FORMAT))?.take(MAX_FORMAT).read_to_string(&mut text)?;
    parse_format(&text)
}

fn parse_format(text: &str) -> Result<Engine, StoreError> {
    let mut words = text.strip_suffix('\n').ok_or(StoreError::Corrupt)?.split(' ');
    if words.next() != Some("vault-store") {
        return Err(StoreError::Corrupt);
    }
    let version = words.next().filter(|v| v.bytes().all(|b| b.is_ascii_digit())).and_then(|v| v.parse().ok());
    match version {
        Some(FORMAT_VERSION) => {}
        Some(newer) if newer > FORMAT_VERSION => return Err(StoreError::Newer(newer, FORMAT_VERSION)),
        Some(_) | None => return Err(StoreError::Corrupt),
    }
    match (words.next().map(Engine::from_str), words.next()) {
        (Some(Ok(engine @ (Engine::Redb | Engine::Sled))), None) => Ok(engine),
        _ => Err(StoreError::Corrupt),
    }
}

/// Options for a file that only its owner may read.
pub(crate) fn private() -> OpenOptions {
    #[allow(unused_mut, reason = "only unix has modes")]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a directory that only its owner may enter.
pub(crate) fn directory(path: &Path, with_parents: bool) -> Result<(), StoreError> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    Ok(builder.recursive(with_parents).create(path)?)
}

/// Writes a new file and flushes it; its directory is the caller's to flush.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let mut file = private().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    Ok(file.sync_all()?)
}

/// Flushes which names are in a directory.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    // Elsewhere a directory cannot be opened as a file, and renames are flushed with their volume.
    if cfg!(unix) {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

/// Makes everything under `path` the owner's alone, and flushes it.
fn seal(path: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            restrict(&entry.path(), 0o700)?;
            seal(&entry.path())?;
        } else {
            restrict(&entry.path(), 0o600)?;
            OpenOptions::new().read(true).write(true).open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(path)
}

/// Gives a file or directory of the store's this mode.
#[cfg(unix)]
pub(crate) fn restrict(path: &Path, mode: u32) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

#[cfg(not(unix))]
pub(crate) fn restrict(_: &Path, _: u32) -> Result<(), StoreError> {
    Ok(())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if !absent(&error) => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether `bytes` are free where `path` lies, for a process without privileges.
#[cfg(unix)]
fn room(path: &Path, bytes: u64) -> Result<(), StoreError> {
    let disk = rustix::fs::statvfs(path).map_err(io::Error::from)?;
    if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes { Err(StoreError::Full) } else { Ok(()) }
}

#[cfg(not(unix))]
fn room(_: &Path, _: u64) -> Result<(), StoreError> {
    Ok(())
}

impl From<io::Error> for StoreError {
    /// What an operating system's error means for a store that is there: a part of it that is missing is damage.
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::Full,
            Kind::AlreadyExists => Self::Exists,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::Forbidden,
            Kind::NotFound
            | Kind::IsADirectory
            | Kind::NotADirectory
            | Kind::InvalidData
            | Kind::UnexpectedEof => Self::Corrupt,
            _ => Self::Io(error.raw_os_error().unwrap_or(0)),
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::store::{Batch, Value, Write};

    const ON_DISK: [Engine; 2] = [Engine::Redb, Engine::Sled];

    /// A store with a few hundred rows, closed.
    fn made(engine: Engine) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let store = create(folder.path(), engine, &Options::default()).unwrap();
        for round in 0..30_u8 {
            let row = |n: u8| Write::Put(vec![b'r', round, n], vec![round ^ n; 3_000]);
            store.commit(&Batch { head: (0..20).map(row).collect(), ..Batch::default() }).unwrap();
        }
        folder
    }

    /// A copy of such a store taken while it was open: what a process that is killed leaves behind.
    fn crashed(engine: Engine) -> tempfile::TempDir {
        let alive = made(engine);
        let store = open(alive.path(), &Options::default()).unwrap();
        let last = Write::Put(vec![b'r', 30, 0], vec![30; 3_000]);
        store.commit(&Batch { head: vec![last], ..Batch::default() }).unwrap();
        let copy = tempfile::tempdir().unwrap();
        for (path, (mode, content)) in all_of(alive.path()) {
            let to = copy.path().join(path.strip_prefix(alive.path()).unwrap());
            if path.is_dir() {
                fs::create_dir(&to).unwrap();
            } else {
                fs::write(&to, content).unwrap();
            }
            restrict(&to, mode).unwrap();
        }
        copy
    }

    /// Every file under `path` with its mode and content.
    fn all_of(path: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
            let mode = entry.metadata().unwrap().permissions().mode();
            if entry.file_type().unwrap().is_dir() {
                found.insert(entry.path(), (mode, vec![]));
                found.extend(all_of(&entry.path()));
            } else {
                found.insert(entry.path(), (mode, fs::read(entry.path()).unwrap()));
            }
        }
        found
    }

    fn refused_unchanged(folder: &Path, expected: &StoreError, case: &str) {
        let before = all_of(folder);
        let told = open(folder, &Options::default()).err();
        assert_eq!(told.as_ref(), Some(expected), "{case}");
        assert!(before == all_of(folder), "{case}: changed");
    }

    fn data(folder: &Path, engine: Engine) -> PathBuf {
        folder.join(STORE).join(match engine {
            Engine::Redb => "rows.redb",
            Engine::Sled | Engine::Memory => "sled/db",
        })
    }

    #[test]
    fn an_engine_is_what_its_name_says() {
        for engine in [Engine::Memory, Engine::Redb, Engine::Sled] {
            assert_eq!(engine.to_string().parse(), Ok(engine));
            let folder = tempfile::tempdir().unwrap();
            assert_eq!(create(folder.path(), engine, &Options::default()).unwrap().engine(), engine.name());
        }
        assert_eq!("Redb".parse::<Engine>(), Err(UnknownEngine));
    }

    #[test]
    fn a_store_is_its_owners_alone() {
        for engine in ON_DISK {
            let outer = tempfile::tempdir().unwrap();
            let folder = outer.path().join("deep/vault");
            drop(create(&folder, engine, &Options::default()).unwrap());
            assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
            for (path, (mode, _)) in all_of(&folder) {
                let expected = if path.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(mode & 0o777, expected, "{engine}: {}", path.display());
            }
        }
    }

    #[test]
    fn a_store_in_use_is_left_alone() {
        for engine in ON_DISK {
            let folder = made(engine);
            let store = open(folder.path(), &Options::default()).unwrap();
            refused_unchanged(folder.path(), &StoreError::InUse, engine.name());
            let again = create(folder.path(), engine, &Options::default()).err();
            assert_eq!(again, Some(StoreError::Exists));
            drop(store);
            assert!(open(folder.path(), &Options::default()).is_ok());
        }
    }

    #[test]
    fn where_there_is_no_store_none_is_opened_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        refused_unchanged(folder.path(), &StoreError::Missing, "empty");
        fs::create_dir(folder.path().join(UNFINISHED)).unwrap();
        fs::write(folder.path().join("esk"), b"beside").unwrap();
        refused_unchanged(folder.path(), &StoreError::Missing, "unfinished");
        let nowhere = folder.path().join("nowhere");
        assert_eq!(open(&nowhere, &Options::default()).err(), Some(StoreError::Missing));
        assert!(!nowhere.exists());
    }

    #[test]
    fn a_creation_cut_short_anywhere_leaves_no_store_and_the_next_one_succeeds() {
        for engine in ON_DISK {
            let whole = made(engine);
            let files = all_of(&whole.path().join(STORE));
            // Every file at once, each alone, and none: whatever was there when the power went.
            for kept in (0..=files.len()).map(Some).chain([None]) {
                let folder = tempfile::tempdir().unwrap();
                let unfinished = folder.path().join(UNFINISHED);
                fs::create_dir(&unfinished).unwrap();
                for (index, (path, (_, content))) in files.iter().enumerate() {
                    let to = unfinished.join(path.strip_prefix(whole.path().join(STORE)).unwrap());
                    if path.is_dir() {
                        fs::create_dir(to).unwrap();
                    } else if kept.is_none_or(|kept| kept == index) {
                        fs::write(to, &content[..content.len() / 2]).unwrap();
                    }
                }
                assert_eq!(open(folder.path(), &Options::default()).err(), Some(StoreError::Missing));
                drop(create(folder.path(), engine, &Options::default()).unwrap());
                assert!(!unfinished.exists());
                assert!(open(folder.path(), &Options::default()).is_ok());
            }
        }
    }

    #[test]
    fn a_nonsensical_format_is_refused_and_a_newer_one_named() {
        let newer = |version| StoreError::Newer(version, FORMAT_VERSION);
        let cases: [(&[u8], StoreError); 14] = [
            (b"vault-store 2 redb\n", newer(2)),
            (b"vault-store 4294967295 some other words\n", newer(u32::MAX)),
            (b"vault-store 2\n", newer(2)),
            (b"vault-store 0 redb\n", StoreError::Corrupt),
            (b"vault-store +1 redb\n", StoreError::Corrupt),
            (b"vault-store 4294967296 redb\n", StoreError::Corrupt),
            (b"vault-store 1 redb", StoreError::Corrupt),
            (b"vault-store 1 redb more\n", StoreError::Corrupt),
            (b"vault-store 1 memory\n", StoreError::Corrupt),
            (b"vault-store 1 rocks\n", StoreError::Corrupt),
            (b"vault-store  1 redb\n", StoreError::Corrupt),
            (b"other 1 redb\n", StoreError::Corrupt),
            (b"", StoreError::Corrupt),
            (b"\xFF\xFE vault", StoreError::Corrupt),
        ];
        for engine in ON_DISK {
            let folder = made(engine);
            for (content, expected) in &cases {
                fs::write(folder.path().join(STORE).join(FORMAT), content).unwrap();
                refused_unchanged(folder.path(), expected, &String::from_utf8_lossy(content));
            }
            fs::remove_file(folder.path().join(STORE).join(FORMAT)).unwrap();
            refused_unchanged(folder.path(), &StoreError::Corrupt, "no FORMAT");
        }
    }

    #[test]
    fn after_a_crash_everything_acknowledged_is_there() {
        for engine in ON_DISK {
            let folder = crashed(engine);
            for _ in 0..2 {
                let store = open(folder.path(), &Options::default()).unwrap();
                assert_eq!(pollster::block_on(store.scan(b"r", None, 1_000)).unwrap().len(), 601);
                let rows = pollster::block_on(store.get(&[vec![b'r', 30, 0], vec![b'r', 29, 19]])).unwrap();
                assert_eq!(rows, [Some(vec![30; 3_000]), Some(vec![0b1110; 3_000])]);
            }
        }
    }

    #[test]
    fn a_damaged_file_is_refused_as_it_is() {
        type Damage = fn(Vec<u8>) -> Vec<u8>;
        // The first six are told from a crash even by sled, which takes a log cut short for one that was never longer.
        let damages: [(&str, Damage); 9] = [
            ("empty", |_| vec![]),
            ("one byte", |_| vec![b'r']),
            ("zeros", |old| vec![0; old.len()]),
            ("garbage", |old| garbage(old.len())),
            ("garbled front", |old| [&garbage(512), &old[512..]].concat()),
            ("shifted by a page", |old| [&garbage(4_096), &old[..]].concat()),
            ("garbage after a good beginning", |old| [&old[..64], &garbage(old.len())[64..]].concat()),
            ("the first half", |old| old[..old.len() / 2].to_vec()),
            ("a page", |old| old[..4_096].to_vec()),
        ];
        for engine in ON_DISK {
            for (case, damage) in damages {
                let folder = made(engine);
                let data = data(folder.path(), engine);
                fs::write(&data, damage(fs::read(&data).unwrap())).unwrap();
                refused_unchanged(folder.path(), &StoreError::Corrupt, &format!("{engine}: {case}"));
            }
            let after_a_crash = if engine == Engine::Sled { &damages[..6] } else { &damages[..] };
            for (case, damage) in after_a_crash {
                let folder = crashed(engine);
                let data = data(folder.path(), engine);
                fs::write(&data, damage(fs::read(&data).unwrap())).unwrap();
                refused_unchanged(folder.path(), &StoreError::Corrupt, &format!("{engine}: {case}, crashed"));
            }
            let folder = made(engine);
            fs::remove_file(data(folder.path(), engine)).unwrap();
            refused_unchanged(folder.path(), &StoreError::Corrupt, "no file");
        }
    }

    #[test]
    fn another_engines_files_are_refused_as_they_are() {
        for (engine, other) in [(Engine::Redb, Engine::Sled), (Engine::Sled, Engine::Redb)] {
            let folder = made(engine);
            fs::write(folder.path().join(STORE).join(FORMAT), format_text(other)).unwrap();
            refused_unchanged(folder.path(), &StoreError::Corrupt, "the format of the other");
            let folder = made(engine);
            let theirs = made(other);
            fs::copy(data(theirs.path(), other), data(folder.path(), engine)).unwrap();
            refused_unchanged(folder.path(), &StoreError::Corrupt, "the file of the other");
        }
    }

    #[test]
    fn a_disk_without_room_gets_no_store() {
        let folder = tempfile::tempdir().unwrap();
        let greedy = Options { reserve: u64::MAX, ..Options::default() };
        for engine in ON_DISK {
            assert_eq!(create(folder.path(), engine, &greedy).err(), Some(StoreError::Full));
            assert!(!folder.path().join(STORE).exists() && !folder.path().join(UNFINISHED).exists());
            let folder = made(engine);
            let store = open(folder.path(), &greedy).unwrap();
            let batch = Batch { head: vec![Write::Put(vec![b'r', 0, 0], vec![])], ..Batch::default() };
            assert_eq!(store.commit(&batch), Err(StoreError::Full.into()));
            let rows: Vec<Option<Value>> = pollster::block_on(store.get(&[vec![b'r', 0, 0]])).unwrap();
            assert_eq!(rows, [Some(vec![0; 3_000])]);
        }
    }

    #[test]
    fn an_operating_systems_error_is_told_by_what_to_do() {
        let cases = [
            (28, StoreError::Full),
            (122, StoreError::Full),
            (13, StoreError::Forbidden),
            (1, StoreError::Forbidden),
            (30, StoreError::Forbidden),
            (2, StoreError::Corrupt),
            (17, StoreError::Exists),
            (5, StoreError::Io(5)),
        ];
        for (number, expected) in cases {
            assert_eq!(StoreError::from(io::Error::from_raw_os_error(number)), expected, "{number}");
        }
    }

    fn garbage(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        (0..len).map(|_| next()).collect()
    }
}
