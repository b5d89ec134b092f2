//! The erasure epoch key's file, `esk`: beside the store and never in an ordinary backup of it, since what it seals is
//! what an erasure takes away.
//!
//! Bytes: format u16, vault id 16, key id u32, how many u8, then for each custodian the first 8 bytes of the SHA-256 of its
//! block in the header row, and its own custody block. (Format 1 has one block and nothing before it.) Which custodians
//! are in force is the header's to say: while one takes another's place, the file has blocks of both.
//!
//! When the key itself is replaced, the new one waits in a file of the same form beside it, `esk.rotated`, until no customer
//! is under the old one; then it takes the old one's place by one renaming. Which keys are in force is Control's to say:
//!
//! | `esk` has | `esk.rotated` has | Control says | then |
//! |---|---|---|---|
//! | n | nothing, or what a rotation that was killed left | n active | n alone is used |
//! | n | n + 1 | n deactivated, n + 1 active | both are used, customers move |
//! | n + 1 | nothing | n deactivated and drained, n + 1 active | n + 1 alone is used, n is noted as destroyed next |
//! | n + 1 | nothing | n destroyed, n + 1 active | n + 1 alone is used |
//!
//! A store that is older than its file is refused: what was erased since would be needed to open it.
//!
//! A new vault's file is written and flushed as `esk.new`, and takes its place only once its vault is founded: another
//! vault's key is never overwritten. A file in its place is replaced as a whole, by way of `esk.next`.

use std::cmp::Ordering;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use crate::codec::{Reader, Torn, Writer};
use crate::control::Control;
use crate::custody::{Custodian, CustodyBlock};
use crate::envelope::{Esk, KeyId, KeyKind, KeyMaterial};
use crate::error::Error;
use crate::store::StoreError;
use crate::survivors::Esks;

const FORMAT: u16 = 2;

/// The most custodians that one key is wrapped by: those in force, and one on its way.
const MAX_BLOCKS: u8 = 8;

/// The longest file that is read.
const MAX_FILE: u64 = 64 * 1024;

/// Where a new key waits until its vault is founded: `esk.new`.
fn waiting(file: &Path) -> PathBuf {
    file.with_extension("new")
}

/// Where the next key waits until no customer is under the one before: `esk.rotated`.
fn rotated(file: &Path) -> PathBuf {
    file.with_extension("rotated")
}

/// Whether a vault's key stands there already: founding another vault must not touch it.
pub(super) fn stands(file: &Path) -> bool {
    file.symlink_metadata().is_ok()
}

/// The key as one custodian holds it.
#[derive(Clone)]
pub(super) struct Held {
    /// Names the custodian by its block in the header row.
    of: [u8; 8],
    block: CustodyBlock,
}

impl Held {
    /// Has a custodian take the key into custody, whose block in the header row is `of`.
    pub(super) fn by(
        custodian: &dyn Custodian,
        esk: &Esk,
        vault: &[u8; 16],
        of: &CustodyBlock,
    ) -> Result<Self, Error> {
        Ok(Self { of: tag(of), block: custodian.wrap_like(of, esk.secret(), KeyKind::Esk, vault)? })
    }

    /// Whether a custodian, whose block in the header row is `of`, opens the key with it.
    pub(super) fn opens(
        &self,
        custodian: &dyn Custodian,
        esk: &Esk,
        vault: &[u8; 16],
        of: &CustodyBlock,
    ) -> Result<bool, Error> {
        if self.of != tag(of) {
            return Ok(false);
        }
        match custodian.unwrap(&self.block, KeyKind::Esk, vault) {
            Ok(held) => Ok(held.same_as(esk.secret())),
            Err(Error::Custody) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The same, of the custodian whose block in the header row is `of`.
    pub(super) fn named(self, of: &CustodyBlock) -> Self {
        Self { of: tag(of), ..self }
    }

    /// Whether its custodian is one of those whose blocks the header has.
    pub(super) fn is_in_force(&self, custody: &[CustodyBlock]) -> bool {
        custody.iter().any(|block| tag(block) == self.of)
    }
}

/// Those of the custodians in force, in the header's order: so that in a copy whose names are older they can still be told
/// apart.
pub(super) fn in_order(all: &[Held], custody: &[CustodyBlock]) -> Vec<Held> {
    let of = |block: &CustodyBlock| {
        let tag = tag(block);
        all.iter().filter(move |held| held.of == tag).cloned()
    };
    custody.iter().flat_map(of).collect()
}

fn tag(of: &CustodyBlock) -> [u8; 8] {
    let mut w = Writer::default();
    of.write(&mut w);
    crate::envelope::first(ring::digest::digest(&ring::digest::SHA256, &w.done()).as_ref())
}

fn bytes_of(id: KeyId, held: &[Held], vault: &[u8; 16]) -> Result<Vec<u8>, Error> {
    let count = u8::try_from(held.len()).ok().filter(|n| (1..=MAX_BLOCKS).contains(n));
    let mut w = Writer::default();
    w.u16(FORMAT).fixed(vault).u32(id.0).u8(count.ok_or_else(Error::internal)?);
    for Held { of, block } in held {
        w.fixed(of);
        block.write(&mut w);
    }
    Ok(w.done())
}

/// Writes a new vault's key beside its place. It takes its place by [`settle`], once the vault is founded.
pub(super) fn write(file: &Path, id: KeyId, held: Held, vault: &[u8; 16]) -> Result<(), Error> {
    // What waits there already may be another founding's that was killed: it is set aside, never written over.
    if stands(&waiting(file)) {
        fs::rename(waiting(file), file.with_extension("set-aside"))
            .map_err(|e| Error::Store(store_error(&e)))?;
    }
    put(&waiting(file), &bytes_of(id, &[held], vault)?).map_err(|e| Error::Store(store_error(&e)))
}

/// Puts another file of the same key in this one's place, whole or not at all.
pub(super) fn replace(file: &Path, id: KeyId, held: &[Held], vault: &[u8; 16]) -> Result<(), Error> {
    let bytes = bytes_of(id, held, vault)?;
    let replaced = || -> std::io::Result<()> {
        // Where a link leads to, not the link: who put the key on another disk meant it.
        let file = fs::canonicalize(file)?;
        put_like(&file, &file.with_extension("next"), &bytes)?;
        fs::rename(file.with_extension("next"), &file)?;
        sync_folder(&file)
    };
    replaced().map_err(|e| Error::Store(store_error(&e)))
}

/// What the newest key's file was when it was last known to be right: SHA-256 of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Print([u8; 32]);

impl Print {
    /// Of the file of the newest key as it is now: the one that waits, or if none does, the one in force.
    pub(super) fn of_newest(file: &Path) -> Result<Self, Error> {
        let read = || -> std::io::Result<Vec<u8>> {
            let file = fs::canonicalize(file)?;
            let newest = if stands(&rotated(&file)) { rotated(&file) } else { file };
            let mut bytes = Vec::new();
            File::open(newest)?.take(MAX_FILE).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map(|bytes| Self::of(&bytes)).map_err(|e| Error::Store(store_error(&e)))
    }

    fn of(bytes: &[u8]) -> Self {
        Self(crate::envelope::first(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref()))
    }
}

/// Writes the next key beside the one in force, over whatever a rotation that was killed left there, and reads it back.
pub(super) fn write_rotated(file: &Path, id: KeyId, held: &[Held], vault: &[u8; 16]) -> Result<Print, Error> {
    let bytes = bytes_of(id, held, vault)?;
    let written = || -> std::io::Result<()> {
        let file = fs::canonicalize(file)?;
        put_like(&file, &rotated(&file), &bytes)
    };
    written().map_err(|e| Error::Store(store_error(&e)))?;
    let print = Print::of(&bytes);
    if Print::of_newest(file)? == print { Ok(print) } else { Err(Error::Store(StoreError::Corrupt)) }
}

/// Whether what waits to take the older file's place is the file of this key, if anything waits.
pub(super) fn check_rotated(
    file: &Path,
    vault: &[u8; 16],
    (key, custody): (KeyId, &[CustodyBlock]),
) -> Result<(), Error> {
    let waits = rotated(&fs::canonicalize(file).map_err(|e| Error::Store(store_error(&e)))?);
    if stands(&waits) { held(&waits, vault, (key, custody)).map(|_| ()) } else { Ok(()) }
}

/// Whether these keys are those that Control has noted.
///
/// Errors: [`Error::Config`] that says what to put back.
pub(super) fn fits(esks: &Esks, control: &Control) -> Result<(), Error> {
    let noted = control.keys.iter().filter(|k| k.kind == KeyKind::Esk);
    for (record, key) in noted.filter_map(|k| Some((k, esks.get(k.id)?))) {
        if HEXLOWER.encode(&key.check_value()) != record.check {
            return Err(Error::Config(
                "the file `esk` beside the store holds another key than the store was sealed with: put back the newest copy of the file"
                    .to_owned(),
            ));
        }
    }
    Ok(())
}

/// Gives the next key the place of the one before, of which nothing is left here then. Done already, it does nothing.
pub(super) fn settle_rotated(file: &Path) -> Result<(), Error> {
    let settled = || -> std::io::Result<()> {
        let file = fs::canonicalize(file)?;
        if !stands(&rotated(&file)) {
            return Ok(());
        }
        fs::rename(rotated(&file), &file)?;
        sync_folder(&file)
    };
    settled().map_err(|e| Error::Store(store_error(&e)))
}

/// Reads the keys that Control says are in force: the one that seals, and the one that customers are being moved from with
/// whether none is left under it.
pub(super) fn read_all(
    file: &Path,
    custodian: &dyn Custodian,
    vault: &[u8; 16],
    (active, older): (KeyId, Option<(KeyId, bool)>),
    custody: &[CustodyBlock],
) -> Result<Esks, Error> {
    let one = |file: &Path, id| read(file, custodian, vault, (id, custody));
    let Some((older, drained)) = older else { return Ok(Esks::one(active, one(file, active)?)) };
    // The older key's file is there until nobody needs it: what it is named by must be what is looked for.
    if drained && one(file, older).is_err() {
        return Ok(Esks::one(active, one(file, active)?));
    }
    let before = Esks::one(older, one(file, older)?);
    let place = fs::canonicalize(file).map_err(|e| Error::Store(store_error(&e)))?;
    Ok(before.followed_by(active, one(&rotated(&place), active)?.into()))
}

fn put_like(like: &Path, to: &Path, bytes: &[u8]) -> std::io::Result<()> {
    put(to, bytes)?;
    #[cfg(unix)]
    {
        // Whoever may read it now may read it then: an operator's command must not lock the service out.
        use std::os::unix::fs::MetadataExt as _;
        let now = fs::metadata(like)?;
        std::os::unix::fs::chown(to, Some(now.uid()), Some(now.gid()))?;
        fs::set_permissions(to, now.permissions())?;
    }
    Ok(())
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

/// Reads a key's file. A founding that was killed just before its key took its place is finished first; blocks of custodians
/// that are in force no more are taken out, as a change that was killed would have done.
fn read(
    file: &Path,
    custodian: &dyn Custodian,
    vault: &[u8; 16],
    (key, custody): (KeyId, &[CustodyBlock]),
) -> Result<Esk, Error> {
    if !stands(file) && stands(&waiting(file)) {
        open(&held(&waiting(file), vault, (key, custody))?, custodian, vault)?;
        settle(file)?;
    }
    let mut all = held(file, vault, (key, custody))?;
    let esk = open(&all, custodian, vault)?;
    let before = all.len();
    all.retain(|held| held.is_in_force(custody));
    // A copy from before a new root has none of them, and opens all the same: it is left as it is.
    if !all.is_empty() && all.len() < before {
        // What is not taken out now is at the next opening: it opens nothing without the header.
        let _kept = replace(file, key, &all, vault);
    }
    Ok(esk)
}

/// Whether the custodian opens the files of the keys in force: as [`read_all`], and nothing is written.
pub(super) fn check_all(
    file: &Path,
    custodian: &dyn Custodian,
    vault: &[u8; 16],
    (active, older): (KeyId, Option<(KeyId, bool)>),
    custody: &[CustodyBlock],
) -> Result<(), Error> {
    let one = |file: &Path, id| check(file, custodian, vault, (id, custody));
    match older {
        None => one(file, active),
        Some((older, true)) if one(file, older).is_err() => one(file, active),
        Some((older, _)) => {
            one(file, older)?;
            let place = fs::canonicalize(file).map_err(|e| Error::Store(store_error(&e)))?;
            one(&rotated(&place), active)
        }
    }
}

/// Whether the custodian opens a key's file. Nothing is written.
fn check(
    file: &Path,
    custodian: &dyn Custodian,
    vault: &[u8; 16],
    (key, custody): (KeyId, &[CustodyBlock]),
) -> Result<(), Error> {
    let waits = !stands(file) && stands(&waiting(file));
    let file = if waits { waiting(file) } else { file.to_owned() };
    open(&held(&file, vault, (key, custody))?, custodian, vault).map(|_| ())
}

/// The first block that the custodian opens. Who is in force the header has said before: it was opened by the same custodian.
fn open(held: &[Held], custodian: &dyn Custodian, vault: &[u8; 16]) -> Result<Esk, Error> {
    let mut opened = held
        .iter()
        .map(|held| custodian.unwrap(&held.block, KeyKind::Esk, vault))
        .filter(|opened| !matches!(opened, Err(Error::Custody)));
    let older = || {
        Error::Config(
            "the custodian opens the store but not the file `esk` beside it, which is damaged or from before the custodian was changed: put back a copy that was made since"
                .to_owned(),
        )
    };
    opened.next().ok_or_else(older)?.map(Esk::from_secret)
}

/// What stands in a key's file, beside a header row with these blocks.
pub(super) fn held(
    file: &Path,
    vault: &[u8; 16],
    (key, custody): (KeyId, &[CustodyBlock]),
) -> Result<Vec<Held>, Error> {
    let mut bytes = Vec::new();
    let opened = match File::open(file) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            return Err(Error::Config(format!(
                "the erasure epoch key, the file `{name}` beside the store, is missing: put it back from its own backup"
            )));
        }
        other => other.map_err(|e| Error::Store(store_error(&e)))?,
    };
    opened.take(MAX_FILE).read_to_end(&mut bytes).map_err(|e| Error::Store(store_error(&e)))?;
    let mut r = Reader::new(&bytes);
    let damaged = |Torn| Error::Store(StoreError::Corrupt);
    let format = r.u16().map_err(damaged)?;
    if format > FORMAT {
        return Err(Error::Store(StoreError::Newer(format.into(), FORMAT.into())));
    }
    let (named, id, held) = blocks(format, r, custody).map_err(damaged)?;
    if format == 0 || named != *vault {
        return Err(Error::Store(StoreError::Corrupt));
    }
    match id.cmp(&key) {
        Ordering::Equal => Ok(held),
        Ordering::Greater => Err(Error::Config(format!(
            "this store is older than the file `esk` beside it: it needs erasure key {}, and the file has {}, since customers \
             were erased meanwhile. So that they stay erased it does not open: use the newest copy of the store. Only a copy of \
             the file from the store's own time would open it, with everybody who was erased since",
            key.0, id.0
        ))),
        Ordering::Less => Err(Error::Config(format!(
            "the file `esk` beside the store is older than the store: it has erasure key {}, and {} is needed. Put back the \
             newest copy of the file, and of `esk.rotated` beside it if there is one",
            id.0, key.0
        ))),
    }
}

fn blocks(
    format: u16,
    mut r: Reader<'_>,
    custody: &[CustodyBlock],
) -> Result<([u8; 16], KeyId, Vec<Held>), Torn> {
    let (vault, id) = (r.array()?, KeyId(r.u32()?));
    let held = if format == 1 {
        // It was written with the header, which had one block.
        let of = custody.first().map(tag).unwrap_or_default();
        vec![Held { of, block: CustodyBlock::read(&mut r)? }]
    } else {
        let count = Some(r.u8()?).filter(|n| (1..=MAX_BLOCKS).contains(n)).ok_or(Torn)?;
        let one = |r: &mut Reader<'_>| Ok(Held { of: r.array()?, block: CustodyBlock::read(r)? });
        (0..count).map(|_| one(&mut r)).collect::<Result<_, Torn>>()?
    };
    r.end()?;
    Ok((vault, id, held))
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
