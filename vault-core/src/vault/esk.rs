//! The erasure epoch key's file, `esk`: beside the store and never in an ordinary backup of it, since what it seals is
//! what an erasure takes away.
//!
//! Bytes: format u16, vault id 16, key id u32, custody block. A new one is written and flushed as `esk.new`, and takes its
//! place only once its vault is founded: another vault's key is never overwritten.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};

use crate::codec::{Reader, Torn, Writer};
use crate::custody::{Custodian, CustodyBlock};
use crate::envelope::{Esk, KeyId, KeyKind, KeyMaterial};
use crate::error::Error;
use crate::store::StoreError;

const FORMAT: u16 = 1;

/// The longest file that is read.
const MAX_FILE: u64 = 64 * 1024;

/// Where a new key waits until its vault is founded: `esk.new`.
fn waiting(file: &Path) -> PathBuf {
    file.with_extension("new")
}

/// Whether a vault's key stands there already: founding another vault must not touch it.
pub(super) fn stands(file: &Path) -> bool {
    file.symlink_metadata().is_ok()
}

/// Writes a new vault's key beside its place. It takes its place by [`settle`], once the vault is founded.
pub(super) fn write(
    file: &Path,
    (id, esk): (KeyId, &Esk),
    custodian: &dyn Custodian,
    vault: &[u8; 16],
) -> Result<(), Error> {
    let block = custodian.wrap(esk.secret(), KeyKind::Esk, vault)?;
    let mut w = Writer::default();
    w.u16(FORMAT).fixed(vault).u32(id.0);
    block.write(&mut w);
    // What waits there already may be another founding's that was killed: it is set aside, never written over.
    if stands(&waiting(file)) {
        fs::rename(waiting(file), file.with_extension("set-aside"))
            .map_err(|e| Error::Store(store_error(&e)))?;
    }
    put(&waiting(file), &w.done()).map_err(|e| Error::Store(store_error(&e)))
}

/// Gives a founded vault's key its place. Never over another key: a link, unlike a rename, refuses to replace. Where a
/// file system has no links, it is looked before it is renamed.
pub(super) fn settle(file: &Path) -> Result<(), Error> {
    let waiting = waiting(file);
    let linked = fs::hard_link(&waiting, file).and_then(|()| fs::remove_file(&waiting));
    let settled = match linked {
        Err(e) if e.kind() != ErrorKind::AlreadyExists && !stands(file) => fs::rename(&waiting, file),
        other => other,
    };
    settled.and_then(|()| sync_folder(file)).map_err(|e| Error::Store(store_error(&e)))
}

/// Reads a key's file. A founding that was killed just before its key took its place is finished first.
pub(super) fn read(
    file: &Path,
    custodian: &dyn Custodian,
    vault: &[u8; 16],
    key: KeyId,
) -> Result<Esk, Error> {
    if !stands(file) && stands(&waiting(file)) {
        open(&waiting(file), custodian, vault, key)?;
        settle(file)?;
    }
    open(file, custodian, vault, key)
}

fn open(file: &Path, custodian: &dyn Custodian, vault: &[u8; 16], key: KeyId) -> Result<Esk, Error> {
    let mut bytes = Vec::new();
    let opened = match File::open(file) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(Error::Config(
                "the erasure epoch key, the file `esk` beside the store, is missing: put it back from its own backup"
                    .to_owned(),
            ));
        }
        other => other.map_err(|e| Error::Store(store_error(&e)))?,
    };
    opened.take(MAX_FILE).read_to_end(&mut bytes).map_err(|e| Error::Store(store_error(&e)))?;
    let damaged = |Torn| Error::Store(StoreError::Corrupt);
    let mut r = Reader::new(&bytes);
    let format = r.u16().map_err(damaged)?;
    if format > FORMAT {
        return Err(Error::Store(StoreError::Newer(format.into(), FORMAT.into())));
    }
    let named: [u8; 16] = r.array().map_err(damaged)?;
    let id = KeyId(r.u32().map_err(damaged)?);
    let block = CustodyBlock::read(&mut r).map_err(damaged)?;
    r.end().map_err(damaged)?;
    if format != FORMAT || named != *vault || id != key {
        return Err(Error::Store(StoreError::Corrupt));
    }
    custodian.unwrap(&block, KeyKind::Esk, vault).map(Esk::from_secret)
}

fn put(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut written = options.open(file)?;
    written.write_all(bytes)?;
    written.sync_all()?;
    sync_folder(file)
}

fn sync_folder(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn store_error(e: &std::io::Error) -> StoreError {
    match e.kind() {
        ErrorKind::NotFound => StoreError::Missing,
        ErrorKind::AlreadyExists => StoreError::Exists,
        ErrorKind::PermissionDenied => StoreError::Forbidden,
        ErrorKind::StorageFull => StoreError::Full,
        _ => StoreError::Io(e.raw_os_error().unwrap_or(0)),
    }
}
