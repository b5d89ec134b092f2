//! The erasure epoch key's file, `esk`: beside the store and never in an ordinary backup of it, since what it seals is
//! what an erasure takes away.
//!
//! Bytes: format u16, vault id 16, custody block. Written under a temporary name, flushed, renamed in, and the folder
//! flushed: there is the old file or the new one, never half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write as _};
use std::path::Path;

use crate::codec::{Reader, Torn, Writer};
use crate::custody::{Custodian, CustodyBlock};
use crate::envelope::{Esk, KeyKind, KeyMaterial};
use crate::error::Error;
use crate::store::StoreError;

const FORMAT: u16 = 1;

/// The longest file that is read.
const MAX_FILE: u64 = 64 * 1024;

/// Writes a key's file.
pub(super) fn write(
    file: &Path,
    esk: &Esk,
    custodian: &dyn Custodian,
    vault: &[u8; 16],
) -> Result<(), Error> {
    let block = custodian.wrap(esk.secret(), KeyKind::Esk, vault)?;
    let mut w = Writer::default();
    w.u16(FORMAT).fixed(vault);
    block.write(&mut w);
    put(file, &w.done()).map_err(|e| Error::Store(store_error(&e)))
}

/// Reads a key's file.
pub(super) fn read(file: &Path, custodian: &dyn Custodian, vault: &[u8; 16]) -> Result<Esk, Error> {
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(|e| Error::Store(store_error(&e)))?;
    opened.take(MAX_FILE).read_to_end(&mut bytes).map_err(|e| Error::Store(store_error(&e)))?;
    let damaged = |Torn| Error::Store(StoreError::Corrupt);
    let mut r = Reader::new(&bytes);
    let format = r.u16().map_err(damaged)?;
    if format > FORMAT {
        return Err(Error::Store(StoreError::Newer(format.into(), FORMAT.into())));
    }
    let named: [u8; 16] = r.array().map_err(damaged)?;
    let block = CustodyBlock::read(&mut r).map_err(damaged)?;
    r.end().map_err(damaged)?;
    if format != FORMAT || named != *vault {
        return Err(Error::Store(StoreError::Corrupt));
    }
    custodian.unwrap(&block, KeyKind::Esk, vault).map(Esk::from_secret)
}

fn put(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = file.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut written = options.open(&temporary)?;
    written.write_all(bytes)?;
    written.sync_all()?;
    fs::rename(&temporary, file)?;
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn store_error(e: &std::io::Error) -> StoreError {
    match e.kind() {
        ErrorKind::NotFound => StoreError::Missing,
        ErrorKind::PermissionDenied => StoreError::Forbidden,
        ErrorKind::StorageFull => StoreError::Full,
        _ => StoreError::Io(e.raw_os_error().unwrap_or(0)),
    }
}
