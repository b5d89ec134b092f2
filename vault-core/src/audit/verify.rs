//! Walks a log from its first entry and says whether it is whole: in a store, or in an exported file.
//!
//! Every entry is hashed anew. What must hold: the head is signed by the log's key; no entry is missing,
//! altered, or beyond the head; every full tile is the one that the entries give; the root is the signed one;
//! times never run backwards and epochs never fall, the head's own last. The walk reads pages and keeps the
//! tree's right edge only, so its memory does not grow with the log. It stops at the first fault and changes
//! nothing.
//!
//! An export is JSON lines: `{"version":1,"origin":…,"vkey":…,"checkpoint":…}`, with `"hand_overs":[…]` if the log's key was
//! ever handed over, then for each entry `{"index":…,"leaf":…,"entry":…}` with hash and bytes in base64. The key in it is for
//! people: what is trusted is the verifier that the caller brings, and what hand-overs lead to from there. A hand-over must
//! be the entry that both keys signed for, at its place in this very tree, and no entry may name one that is not known.

use std::fmt;
use std::io::{self, BufRead, Read, Write as Output};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, SignedCheckpoint, head_key};
use super::entry::{AuditEntry, MAX_ENTRY};
use super::handover::{self, HandOver, hash_of, named_in};
use super::note::{Began, LogVerifier, MAX_NOTE};
use super::receipt::MAX_PROOF;
use super::tree::{self, Edge, Hash, MAX_LEVEL, TreeError, entry_key, leaf_hash, tile_hashes, tile_key};
use super::{LogError, head};
use crate::codec::{Reader, Torn, Writer};
use crate::rows;
use crate::store::{Key, Store, StoreError, Write};
use crate::time::Timestamp;

/// Entries per page: at most 320 KiB of them, and a sign of progress about every millisecond.
const PAGE: u64 = 1_024;

/// How often a walk catches up with a log that grows under it. What comes later is for the next walk.
const CATCH_UPS: usize = 16;

/// The longest line of an export but its header, in bytes: many times that of the longest entry.
const MAX_LINE: usize = 3 * MAX_NOTE;

/// The longest header of an export, in bytes: it carries hand-overs, as a proof does.
const MAX_HEADER: usize = MAX_PROOF;

/// The version of the export.
const VERSION: u8 = 1;

/// What is told while a walk goes on: entries done, entries in all.
pub type Progress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// What is wrong with a log, by the place of the first thing that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// There is no signed head.
    NoHead,
    /// The head is damaged, or not signed by the log's key.
    Signature,
    /// The entry that should be here is not.
    Missing {
        /// Its place.
        index: u64,
    },
    /// The entry here is not the one that was signed.
    Altered {
        /// Its place.
        index: u64,
    },
    /// The bytes here are no entry of a version known to this release.
    Unreadable {
        /// Its place.
        index: u64,
    },
    /// A row or line here is of no form that the log has.
    Stray {
        /// The place where it was found.
        index: u64,
    },
    /// The time of the entry (or, at the end, of the head) is before that of the one in front of it.
    Backwards {
        /// Its place.
        index: u64,
    },
    /// The epoch of the entry (or, at the end, of the head) is below that of the one in front of it.
    EpochFell {
        /// Its place.
        index: u64,
    },
    /// There is an entry that the signed head does not speak of.
    Beyond {
        /// Its place.
        index: u64,
    },
    /// A tile is missing, damaged, too many, or not the one that the entries give.
    Tile {
        /// Its level.
        level: u8,
        /// Its place in the level.
        tile: u64,
        /// The first entry under it.
        index: u64,
    },
    /// The entry here hands the log over to a key that is not known to have taken it, or a hand-over is known that is of
    /// another tree: somebody goes on with a key that signs no more.
    HandOver {
        /// Its place.
        index: u64,
    },
    /// All fits together, and gives another root than the signed one: an entry from `index` on was altered
    /// (there is no full tile over those yet), or entries and tiles in front of it were altered alike.
    Root {
        /// The first entry that no full tile covers.
        index: u64,
    },
}

impl Fault {
    /// The place in the log where it was found; none where the head is at fault.
    #[must_use]
    pub fn index(&self) -> Option<u64> {
        match *self {
            Self::NoHead | Self::Signature => None,
            Self::Missing { index }
            | Self::Altered { index }
            | Self::Unreadable { index }
            | Self::Stray { index }
            | Self::Backwards { index }
            | Self::EpochFell { index }
            | Self::Beyond { index }
            | Self::Tile { index, .. }
            | Self::HandOver { index }
            | Self::Root { index } => Some(index),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHead => f.write_str("there is no signed head"),
            Self::Signature => f.write_str("the head is damaged or not signed by the log's key"),
            Self::Missing { index } => write!(f, "entry {index} is missing"),
            Self::Altered { index } => write!(f, "entry {index} was altered"),
            Self::Unreadable { index } => write!(f, "entry {index} is no entry that this release can read"),
            Self::Stray { index } => write!(f, "where entry {index} should be is something that is no entry"),
            Self::Backwards { index } => write!(f, "the time runs backwards at {index}"),
            Self::EpochFell { index } => write!(f, "the epoch falls at {index}"),
            Self::Beyond { index } => write!(f, "entry {index} is beyond the signed head"),
            Self::Tile { level, tile, index } => {
                write!(f, "tile {tile} of level {level}, over entries from {index} on, is not the right one")
            }
            Self::HandOver { index } => {
                write!(f, "the hand-over of the log's key at entry {index} is none that both keys signed")
            }
            Self::Root { index } => write!(
                f,
                "the root is not the signed one: an entry from {index} on was altered, or entries and tiles before it \
                 were altered alike"
            ),
        }
    }
}

/// What a walk found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many entries the signed head speaks of; zero if there is no good head.
    pub size: u64,
    /// How many entries were read, from the first on.
    pub entries: u64,
    /// How many full tiles were compared; none in an export.
    pub tiles: u64,
    /// The root that the entries read give.
    pub root: Hash,
    /// The first fault, or none: then the log is whole.
    #[serde(flatten)]
    pub fault: Option<Fault>,
}

/// Walks `log` in a store. The error is the store's own; whatever is wrong with the log is in the report.
pub async fn verify_store(
    store: &dyn Store,
    log: u32,
    verifier: &LogVerifier,
    progress: Progress<'_>,
) -> Result<Report, StoreError> {
    let mut walk = Walk::new(log);
    walk.expect_hand_overs(verifier);
    let found = walk.through_store(store, log, verifier, progress).await;
    walk.report(found)
}

/// Walks an exported log. The error is the reader's own; whatever is wrong with the log is in the report.
pub fn verify_export(
    lines: &mut dyn BufRead,
    verifier: &LogVerifier,
    progress: Progress<'_>,
) -> Result<Report, io::Error> {
    let mut walk = Walk::new(0);
    let found = walk.through_export(lines, verifier, progress);
    walk.report(found)
}

/// Why an export ended early.
#[derive(Debug)]
pub enum ExportError {
    /// What was written to reported this.
    Output(io::Error),
    /// The log cannot be read, or has no head.
    Log(LogError),
    /// The log was never begun.
    Empty,
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output(error) => write!(f, "writing the export: {error}"),
            Self::Log(error) => write!(f, "{error}"),
            Self::Empty => f.write_str("there is no such audit log"),
        }
    }
}

impl std::error::Error for ExportError {}

impl From<io::Error> for ExportError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl<E: Into<LogError>> From<E> for ExportError {
    fn from(error: E) -> Self {
        Self::Log(error.into())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u8,
    origin: String,
    vkey: String,
    checkpoint: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hand_overs: Vec<HandOver>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    index: u64,
    leaf: Hash,
    entry: String,
}

/// Writes `log` up to its newest head as an export, and gives that head. Entries that come in meanwhile are
/// left out.
pub async fn export(
    store: &dyn Store,
    log: u32,
    verifier: &LogVerifier,
    out: &mut (dyn Output + Send),
    progress: Progress<'_>,
) -> Result<SignedCheckpoint, ExportError> {
    let head = head(store, log, verifier).await?.ok_or(ExportError::Empty)?;
    let size = head.checkpoint().size;
    write_line(
        out,
        &Header {
            version: VERSION,
            origin: verifier.origin().to_string(),
            vkey: verifier.to_string(),
            checkpoint: head.note().into(),
            hand_overs: handover::hand_overs(store, log, verifier).await?,
        },
    )?;
    let mut index = 0;
    while index < size {
        let keys: Vec<Key> = (index..size.min(index + PAGE)).map(|index| entry_key(log, index)).collect();
        for entry in store.get(&keys).await? {
            let entry = entry.ok_or(TreeError::MissingEntry(index))?;
            write_line(out, &Line { index, leaf: leaf_hash(&entry), entry: BASE64.encode(&entry) })?;
            index += 1;
        }
        progress(index, size);
    }
    out.flush()?;
    Ok(head)
}

fn write_line(out: &mut (dyn Output + Send), line: &(impl Serialize + Sync)) -> Result<(), io::Error> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Why a walk stopped: a fault of the log, or an error of what it is read from.
enum Stop<E> {
    Fault(Fault),
    Error(E),
}

impl<E> From<Fault> for Stop<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StoreError> for Stop<StoreError> {
    fn from(error: StoreError) -> Self {
        Self::Error(error)
    }
}

impl From<io::Error> for Stop<io::Error> {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

/// How far a walk has come.
struct Walk {
    edge: Edge,
    size: u64,
    tiles: u64,
    newest: (Timestamp, u64),
    /// The hand-overs of the log's key that are to come, the next one last: where, and which key takes over.
    hand_overs: Vec<(Began, Hash)>,
    /// The first entry that cannot be read or is out of order. Told once what it says is known to be what was
    /// signed: an altered entry is told as altered, not by what it then says.
    odd: Option<Fault>,
}

impl Walk {
    fn new(log: u32) -> Self {
        let (edge, newest) = (Edge::empty(log), (Timestamp(0), 0));
        Self { edge, size: 0, tiles: 0, newest, hand_overs: Vec::new(), odd: None }
    }

    fn expect_hand_overs(&mut self, verifier: &LogVerifier) {
        self.hand_overs = verifier.hand_overs().map(|(began, key)| (began, hash_of(&key))).collect();
        self.hand_overs.reverse();
    }

    fn report<E>(self, found: Result<(), Stop<E>>) -> Result<Report, E> {
        let fault = match found {
            Ok(()) => self.odd,
            Err(Stop::Fault(fault)) => Some(fault),
            Err(Stop::Error(error)) => return Err(error),
        };
        let Self { edge, size, tiles, .. } = self;
        Ok(Report { size, entries: edge.size(), tiles, root: edge.root(), fault })
    }

    async fn through_store(
        &mut self,
        store: &dyn Store,
        log: u32,
        verifier: &LogVerifier,
        progress: Progress<'_>,
    ) -> Result<(), Stop<StoreError>> {
        let mut head = signed_head(store, log, verifier).await?;
        let mut after: Option<Key> = None;
        for _ in 0..CATCH_UPS {
            self.up_to(&head, (store, log), &mut after, progress).await?;
            let Err(beyond) = self.nothing_beyond(&head, (store, log), after.as_deref()).await else { break };
            // A log that is in use grows while it is walked: what is there by now must be what a newer head speaks of.
            let newer = signed_head(store, log, verifier).await?;
            if newer.size <= head.size {
                return Err(beyond);
            }
            head = newer;
        }
        self.up_to(&head, (store, log), &mut after, progress).await?;
        Ok(self.finish(&head)?)
    }

    async fn nothing_beyond(
        &self,
        head: &Checkpoint,
        (store, log): (&dyn Store, u32),
        after: Option<&[u8]>,
    ) -> Result<(), Stop<StoreError>> {
        let prefix = Writer::default().u8(rows::ENTRY).u32(log).done();
        if !store.scan(&prefix, after, 1).await?.is_empty() {
            return Err(self.stop(Fault::Beyond { index: head.size }).into());
        }
        no_more_tiles(store, log, head.size).await
    }

    /// Walks all entries that a head speaks of and that were not walked yet.
    async fn up_to(
        &mut self,
        head: &Checkpoint,
        (store, log): (&dyn Store, u32),
        after: &mut Option<Key>,
        progress: Progress<'_>,
    ) -> Result<(), Stop<StoreError>> {
        self.size = head.size;
        let prefix = Writer::default().u8(rows::ENTRY).u32(log).done();
        while self.next() < head.size {
            let page = usize::try_from(PAGE.min(head.size - self.next())).unwrap_or(usize::MAX);
            let rows = store.scan(&prefix, after.as_deref(), page).await?;
            if rows.is_empty() {
                return Err(self.stop(Fault::Missing { index: self.next() }).into());
            }
            for (key, bytes) in rows {
                self.expect_key(&prefix, &key)?;
                for tile in self.step(&bytes) {
                    compare_tile(store, log, head, tile).await?;
                    self.tiles += 1;
                }
                *after = Some(key);
            }
            progress(self.next(), head.size);
        }
        Ok(())
    }

    fn through_export(
        &mut self,
        lines: &mut dyn BufRead,
        verifier: &LogVerifier,
        progress: Progress<'_>,
    ) -> Result<(), Stop<io::Error>> {
        let header: Header = match read_line(lines, MAX_HEADER)? {
            Next::Line(header) => header,
            Next::End | Next::Stray => return Err(Fault::NoHead.into()),
        };
        if header.version != VERSION {
            return Err(Fault::NoHead.into());
        }
        let verifier = verifier.follow(&header.hand_overs).map_err(|_| Fault::Signature)?;
        if header.origin != verifier.origin().as_str() || header.vkey != verifier.to_string() {
            return Err(Fault::Signature.into());
        }
        self.expect_hand_overs(&verifier);
        let head = SignedCheckpoint::open(&header.checkpoint, &verifier).map_err(|_| Fault::Signature)?;
        let head = *head.checkpoint();
        self.size = head.size;

        while self.next() < head.size {
            let index = self.next();
            let line: Line = match read_line(lines, MAX_LINE)? {
                Next::Line(line) => line,
                Next::End => return Err(self.stop(Fault::Missing { index }).into()),
                Next::Stray => return Err(self.stop(Fault::Stray { index }).into()),
            };
            if line.index != index {
                return Err(self.stop(Fault::Missing { index }).into());
            }
            let bytes =
                BASE64.decode(line.entry.as_bytes()).map_err(|_| self.stop(Fault::Stray { index }))?;
            if leaf_hash(&bytes) != line.leaf {
                return Err(self.stop(Fault::Altered { index }).into());
            }
            self.step(&bytes);
            if self.next().is_multiple_of(PAGE) || self.next() == head.size {
                progress(self.next(), head.size);
            }
        }
        match read_line::<Line>(lines, MAX_LINE)? {
            Next::End => {}
            Next::Stray | Next::Line(_) => return Err(self.stop(Fault::Beyond { index: head.size }).into()),
        }
        Ok(self.finish(&head)?)
    }

    /// The place of the next entry.
    fn next(&self) -> u64 {
        self.edge.size()
    }

    /// The fault to stop with: an earlier odd entry comes first.
    fn stop(&self, fault: Fault) -> Fault {
        self.odd.unwrap_or(fault)
    }

    fn expect_key(&self, prefix: &[u8], key: &[u8]) -> Result<(), Fault> {
        let index = self.next();
        let found = || -> Result<u64, Torn> {
            let mut r = Reader::new(key.strip_prefix(prefix).ok_or(Torn)?);
            let found = r.u64()?;
            r.end().map(|()| found)
        };
        match found() {
            Ok(found) if found == index => Ok(()),
            Ok(_) => Err(self.stop(Fault::Missing { index })),
            Err(Torn) => Err(self.stop(Fault::Stray { index })),
        }
    }

    /// Takes the next entry, and gives the tiles that it fills.
    fn step(&mut self, bytes: &[u8]) -> Vec<Write> {
        let index = self.next();
        let (odd, named) = match AuditEntry::decode(bytes) {
            Ok(entry) => (self.advance(index, entry.at, entry.epoch), named_in(&entry).map(|(_, to)| to)),
            Err(Torn) => (Some(Fault::Unreadable { index }), None),
        };
        let mut full = Vec::new();
        self.edge.push(leaf_hash(bytes), &mut full);
        self.odd = self.odd.or(odd).or_else(|| self.hand_over(index, named));
        full
    }

    /// Whether the log is handed over where it is known to be, and nowhere else.
    fn hand_over(&mut self, index: u64, named: Option<Hash>) -> Option<Fault> {
        let known = self.hand_overs.pop_if(|(began, _)| began.size <= self.edge.size());
        let same = match (known, named) {
            (None, None) => true,
            (Some((began, key)), Some(named)) => {
                key == named && began.size == self.edge.size() && began.root == self.edge.root()
            }
            (Some(_), None) | (None, Some(_)) => false,
        };
        (!same).then_some(Fault::HandOver { index })
    }

    /// Goes on to a moment and an epoch, and tells if either is before where the walk was.
    fn advance(&mut self, index: u64, at: Timestamp, epoch: u64) -> Option<Fault> {
        let (newest, highest) = self.newest;
        self.newest = (at, epoch);
        if at < newest {
            return Some(Fault::Backwards { index });
        }
        (epoch < highest).then_some(Fault::EpochFell { index })
    }

    fn finish(&mut self, head: &Checkpoint) -> Result<(), Fault> {
        if self.edge.root() != head.root {
            return Err(match self.odd {
                Some(unreadable @ Fault::Unreadable { .. }) => unreadable,
                _ => Fault::Root { index: head.size - head.size % 256 },
            });
        }
        let odd = self.advance(head.size, head.time, head.epoch);
        self.odd = self.odd.or(odd);
        Ok(())
    }
}

/// Compares a tile that the entries give with the one that is stored.
async fn compare_tile(
    store: &dyn Store,
    log: u32,
    head: &Checkpoint,
    given: Write,
) -> Result<(), Stop<StoreError>> {
    let Write::Put(key, given) = given else { return Ok(()) };
    let keys = [key];
    let stored = store.get(&keys).await?.into_iter().next().flatten();
    if stored.as_ref() == Some(&given) {
        return Ok(());
    }
    let [key] = keys;
    let (level, tile) = tile_place(&key).unwrap_or((0, 0));
    let index = tile << (8 * (u32::from(level) + 1));
    let fault = Fault::Tile { level, tile, index };
    let (0, Some(stored)) = (level, stored) else { return Err(fault.into()) };
    // Which of the two is wrong, the entry or the tile? The tile is right where it leads to the signed root.
    let (Ok(given), Ok(stored)) = (tile_hashes(level, tile, &given), tile_hashes(level, tile, &stored))
    else {
        return Err(fault.into());
    };
    let differing = (index..).zip(given.iter().zip(&stored)).find(|(_, (given, stored))| given != stored);
    let Some((index, (_, stored))) = differing else { return Err(fault.into()) };
    let signed = match tree::inclusion(store, log, index, head.size).await {
        Ok(path) => tree::includes(head.root, head.size, index, *stored, &path),
        Err(TreeError::Store(error)) => return Err(Stop::Error(error)),
        Err(_) => false,
    };
    Err(if signed { Fault::Altered { index } } else { fault }.into())
}

/// Sees to it that no tile is stored that a log of `size` entries does not have.
async fn signed_head(
    store: &dyn Store,
    log: u32,
    verifier: &LogVerifier,
) -> Result<Checkpoint, Stop<StoreError>> {
    let keys = [head_key(log)];
    let note = store.get(&keys).await?.into_iter().next().flatten().ok_or(Fault::NoHead)?;
    let note = std::str::from_utf8(&note).map_err(|_| Fault::Signature)?;
    Ok(*SignedCheckpoint::open(note, verifier).map_err(|_| Fault::Signature)?.checkpoint())
}

async fn no_more_tiles(store: &dyn Store, log: u32, size: u64) -> Result<(), Stop<StoreError>> {
    let all = Writer::default().u8(rows::TILE).u32(log).done();
    for level in 0..=MAX_LEVEL {
        let full = size.checked_shr(8 * (u32::from(level) + 1)).unwrap_or(0);
        let prefix = Writer::default().fixed(&all).u8(level).done();
        let last = full.checked_sub(1).map(|last| tile_key(log, level, last));
        stray_tile(&store.scan(&prefix, last.as_deref(), 1).await?, size)?;
    }
    let last = tile_key(log, MAX_LEVEL, u64::MAX);
    stray_tile(&store.scan(&all, Some(&last), 1).await?, size)?;
    Ok(())
}

fn stray_tile(found: &[(Key, Vec<u8>)], size: u64) -> Result<(), Fault> {
    let Some((key, _)) = found.first() else { return Ok(()) };
    let (level, tile) = tile_place(key).unwrap_or((MAX_LEVEL, u64::MAX));
    Err(Fault::Tile { level, tile, index: size })
}

/// Level and place of a tile from its key: kind u8, log u32, level u8, tile u64.
fn tile_place(key: &[u8]) -> Result<(u8, u64), Torn> {
    let mut r = Reader::new(key);
    r.fixed(5)?;
    let place = (r.u8()?, r.u64()?);
    r.end().map(|()| place)
}

/// What comes next in an export.
enum Next<T> {
    /// The end of the file.
    End,
    /// A line, but of another form, cut, or above its bound.
    Stray,
    /// A line of this form.
    Line(T),
}

fn read_line<T: for<'a> Deserialize<'a>>(
    lines: &mut dyn BufRead,
    longest: usize,
) -> Result<Next<T>, io::Error> {
    let mut line = Vec::with_capacity(2 * MAX_ENTRY);
    let bound = u64::try_from(longest).unwrap_or(u64::MAX);
    lines.take(bound).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(Next::End);
    }
    // A line without an end was cut, by the file or by the bound.
    let whole = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok());
    Ok(whole.map_or(Next::Stray, Next::Line))
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::super::checkpoint::tests::checkpoint;
    use super::super::entry::tests::disclosed;
    use super::super::note::tests::signer;
    use super::super::shelf::Shelf;
    use super::super::tests::{ORIGIN, nth, written};
    use super::*;

    const SIZE: u64 = 700;

    fn verifier() -> LogVerifier {
        signer(ORIGIN, 1).verifier().clone()
    }

    fn walked(shelf: &Shelf) -> Report {
        block_on(verify_store(shelf, 0, &verifier(), &mut |_, _| {})).unwrap()
    }

    fn exported(shelf: &Shelf) -> String {
        let mut out = Vec::new();
        block_on(export(shelf, 0, &verifier(), &mut out, &mut |_, _| {})).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn read(text: &str) -> Report {
        verify_export(&mut text.as_bytes(), &verifier(), &mut |_, _| {}).unwrap()
    }

    /// A log whose entries are these, with all tiles and a good signature.
    fn log_of(entries: &[AuditEntry]) -> Shelf {
        let (shelf, mut edge) = (Shelf::default(), Edge::empty(0));
        for entry in entries {
            shelf.put(entry_key(0, edge.size()), entry.encode());
            let (next, tiles) = edge.with(&[leaf_hash(&entry.encode())]);
            shelf.write(&tiles);
            edge = next;
        }
        shelf.write(&[checkpoint(edge.size(), edge.root()).sign(&signer(ORIGIN, 1)).write(0)]);
        shelf
    }

    #[test]
    fn a_whole_log_is_whole_in_the_store_and_in_the_file() {
        for size in [0, 1, 255, 256, 257, 1_024, 2_500] {
            let (shelf, head) = written(size);
            let expected =
                Report { size, entries: size, tiles: size / 256, root: head.checkpoint().root, fault: None };
            assert_eq!(walked(&shelf), expected);
            assert_eq!(read(&exported(&shelf)), Report { tiles: 0, ..expected });
        }
    }

    #[test]
    fn progress_is_told_up_to_the_end() {
        let (shelf, _) = written(2_500);
        let (mut told, mut wrote, mut read) = (Vec::new(), Vec::new(), Vec::new());
        block_on(verify_store(&shelf, 0, &verifier(), &mut |done, all| told.push((done, all)))).unwrap();
        let mut out = Vec::new();
        block_on(export(&shelf, 0, &verifier(), &mut out, &mut |done, all| wrote.push((done, all)))).unwrap();
        verify_export(&mut out.as_slice(), &verifier(), &mut |done, all| read.push((done, all))).unwrap();
        assert_eq!(told, [(1_024, 2_500), (2_048, 2_500), (2_500, 2_500)]);
        assert_eq!((&wrote, &read), (&told, &told));
    }

    #[test]
    fn a_log_that_grows_under_a_walk_is_no_log_with_an_entry_too_many() {
        let log = |size: u64| log_of(&(0..size).map(nth).collect::<Vec<_>>());
        let (shelf, mut size) = (log(SIZE), SIZE);
        let grow = |by: u64, size: &mut u64| {
            *size += by;
            shelf.put_all(&log(*size));
        };
        // Twice while it is walked, then no more.
        let mut growths = 2;
        let report = block_on(verify_store(&shelf, 0, &verifier(), &mut |done, all| {
            if done == all && growths > 0 {
                growths -= 1;
                grow(300, &mut size);
            }
        }));
        let report = report.unwrap();
        assert_eq!((report.size, report.entries, report.fault), (SIZE + 600, SIZE + 600, None));
        // Whenever it is looked at: it ends all the same.
        let report = block_on(verify_store(&shelf, 0, &verifier(), &mut |done, all| {
            if done == all {
                grow(1, &mut size);
            }
        }));
        assert_eq!(report.unwrap().fault, None);
        // An entry that no head speaks of is told, also after the log grew.
        let mut once = true;
        let report = block_on(verify_store(&shelf, 0, &verifier(), &mut |done, all| {
            if done == all && once {
                once = false;
                grow(1, &mut size);
                shelf.put(entry_key(0, size), disclosed(1, 1).encode());
            }
        }));
        assert_eq!(report.unwrap().fault, Some(Fault::Beyond { index: size }));
    }

    /// What was done to the log, how, and what is told of it.
    type Case<'a> = (&'a str, &'a dyn Fn(&Shelf), Fault);

    #[test]
    #[allow(clippy::too_many_lines, reason = "it is a table")]
    fn every_kind_of_tampering_is_found_at_its_place() {
        let other = || disclosed(1, 1).encode();
        let altered = |index: u64| {
            let mut entry = nth(index);
            entry.merchant = None;
            entry.encode()
        };
        let cases: &[Case<'_>] = &[
            ("no head", &|s| s.remove(&head_key(0)), Fault::NoHead),
            ("head cut", &|s| s.put(head_key(0), vec![b'v']), Fault::Signature),
            (
                "head of another key",
                &|s| s.write(&[checkpoint(SIZE, Hash([0; 32])).sign(&signer(ORIGIN, 2)).write(0)]),
                Fault::Signature,
            ),
            ("first entry gone", &|s| s.remove(&entry_key(0, 0)), Fault::Missing { index: 0 }),
            ("an entry gone", &|s| s.remove(&entry_key(0, 300)), Fault::Missing { index: 300 }),
            ("last entry gone", &|s| s.remove(&entry_key(0, SIZE - 1)), Fault::Missing { index: SIZE - 1 }),
            ("an entry too many", &|s| s.put(entry_key(0, SIZE), other()), Fault::Beyond { index: SIZE }),
            (
                "an entry far beyond",
                &|s| s.put(entry_key(0, u64::MAX), other()),
                Fault::Beyond { index: SIZE },
            ),
            (
                "a row of no form",
                &|s| s.put([&entry_key(0, 9)[..], &[0]].concat(), other()),
                Fault::Stray { index: 10 },
            ),
            ("an entry altered", &|s| s.put(entry_key(0, 300), altered(300)), Fault::Altered { index: 300 }),
            ("an entry dated back", &|s| s.put(entry_key(0, 300), other()), Fault::Altered { index: 300 }),
            (
                "an entry dated ahead",
                &|s| s.put(entry_key(0, 300), disclosed(9_000, 4).encode()),
                Fault::Altered { index: 300 },
            ),
            (
                "garbage for an entry",
                &|s| s.put(entry_key(0, 511), vec![0; 40]),
                Fault::Altered { index: 511 },
            ),
            (
                "an entry altered near the end",
                &|s| s.put(entry_key(0, 600), altered(600)),
                Fault::Root { index: 512 },
            ),
            (
                "an entry dated back near the end",
                &|s| s.put(entry_key(0, 600), other()),
                Fault::Root { index: 512 },
            ),
            (
                "garbage near the end",
                &|s| s.put(entry_key(0, 600), vec![0; 40]),
                Fault::Unreadable { index: 600 },
            ),
            (
                "two entries swapped",
                &|s| {
                    let (a, b) = (s.value(&entry_key(0, 5)).unwrap(), s.value(&entry_key(0, 6)).unwrap());
                    s.put(entry_key(0, 5), b);
                    s.put(entry_key(0, 6), a);
                },
                Fault::Altered { index: 5 },
            ),
            ("a tile gone", &|s| s.remove(&tile_key(0, 0, 1)), Fault::Tile { level: 0, tile: 1, index: 256 }),
            (
                "a tile cut",
                &|s| s.put(tile_key(0, 0, 1), vec![0; 100]),
                Fault::Tile { level: 0, tile: 1, index: 256 },
            ),
            (
                "a hash in a tile altered",
                &|s| {
                    let mut tile = s.value(&tile_key(0, 0, 1)).unwrap();
                    tile[100] ^= 1;
                    s.put(tile_key(0, 0, 1), tile);
                },
                Fault::Tile { level: 0, tile: 1, index: 256 },
            ),
            (
                "a tile too many",
                &|s| s.put(tile_key(0, 0, 2), vec![0; tree::TILE_BYTES]),
                Fault::Tile { level: 0, tile: 2, index: SIZE },
            ),
            (
                "a tile of a level too many",
                &|s| s.put(tile_key(0, 9, 0), vec![]),
                Fault::Tile { level: 9, tile: 0, index: SIZE },
            ),
            (
                "an entry and its tile altered alike",
                &|s| {
                    s.put(entry_key(0, 300), altered(300));
                    let mut tile = s.value(&tile_key(0, 0, 1)).unwrap();
                    tile[44 * 32..45 * 32].copy_from_slice(&leaf_hash(&altered(300)).0);
                    s.put(tile_key(0, 0, 1), tile);
                },
                Fault::Root { index: 512 },
            ),
        ];
        for (name, tamper, fault) in cases {
            let (shelf, _) = written(SIZE);
            tamper(&shelf);
            assert_eq!(walked(&shelf).fault, Some(*fault), "{name}");
        }
    }

    #[test]
    fn the_vault_itself_cannot_sign_a_log_that_runs_backwards() {
        let long = |odd: AuditEntry| {
            let mut entries: Vec<AuditEntry> = (0..300).map(|i| disclosed(1_000 + i, 3)).collect();
            entries[100] = odd;
            entries
        };
        let late = 1_790_000_000_001;
        for (entries, fault) in [
            (vec![disclosed(5, 3), disclosed(5, 3), disclosed(6, 4)], None),
            (vec![disclosed(5, 3), disclosed(4, 3)], Some(Fault::Backwards { index: 1 })),
            (vec![disclosed(5, 3), disclosed(6, 2)], Some(Fault::EpochFell { index: 1 })),
            (vec![disclosed(5, 3), disclosed(late, 3)], Some(Fault::Backwards { index: 2 })),
            (vec![disclosed(5, 3), disclosed(6, 8)], Some(Fault::EpochFell { index: 2 })),
            (long(disclosed(999, 3)), Some(Fault::Backwards { index: 100 })),
            (long(disclosed(1_100, 4)), Some(Fault::EpochFell { index: 101 })),
        ] {
            let shelf = log_of(&entries);
            assert_eq!(walked(&shelf).fault, fault);
            assert_eq!(read(&exported(&shelf)).fault, fault);
        }
    }

    #[test]
    fn every_kind_of_tampering_with_an_export_is_found_at_its_place() {
        let (shelf, _) = written(SIZE);
        let text = exported(&shelf);
        let lines: Vec<&str> = text.lines().collect();
        let joined = |lines: &[&str]| lines.join("\n") + "\n";
        let without = |at: usize| joined(&[&lines[..at], &lines[at + 1..]].concat());
        let with = |at: usize, line: &str| joined(&[&lines[..at], &[line], &lines[at + 1..]].concat());
        let leaf = |index: usize| serde_json::from_str::<Line>(lines[index + 1]).unwrap();
        let forged = |index: usize| {
            let mut line = leaf(index);
            let entry = disclosed(1, 1).encode();
            (line.leaf, line.entry) = (leaf_hash(&entry), BASE64.encode(&entry));
            serde_json::to_string(&line).unwrap()
        };
        let cases: &[(&str, String, Fault)] = &[
            ("nothing", String::new(), Fault::NoHead),
            ("no header", without(0), Fault::NoHead),
            ("another version", text.replacen("\"version\":1", "\"version\":2", 1), Fault::NoHead),
            ("another origin", text.replacen("vault.example", "other.example", 1), Fault::Signature),
            ("a smaller head", text.replacen("\\n700\\n", "\\n699\\n", 1), Fault::Signature),
            ("a line gone", without(301), Fault::Missing { index: 300 }),
            ("the last line gone", without(700), Fault::Missing { index: 699 }),
            ("a line twice", with(301, lines[300]), Fault::Missing { index: 300 }),
            ("the last line cut", text[..text.len() - 1].into(), Fault::Stray { index: 699 }),
            ("a line of no form", with(301, "{}"), Fault::Stray { index: 300 }),
            ("a line too long", with(301, &" ".repeat(MAX_LINE)), Fault::Stray { index: 300 }),
            ("a line too many", format!("{text}\n"), Fault::Beyond { index: 700 }),
            (
                "an entry altered",
                with(301, &lines[301].replace(&leaf(300).entry, &leaf(299).entry)),
                Fault::Altered { index: 300 },
            ),
            ("entry and hash altered alike", with(301, &forged(300)), Fault::Root { index: 512 }),
        ];
        for (name, text, fault) in cases {
            assert_eq!(read(text).fault, Some(*fault), "{name}");
        }
        let other = signer(ORIGIN, 2).verifier().clone();
        let report = verify_export(&mut text.as_bytes(), &other, &mut |_, _| {}).unwrap();
        assert_eq!(report.fault, Some(Fault::Signature));
    }

    #[test]
    fn a_log_with_a_hole_or_without_a_head_is_not_exported() {
        let (shelf, _) = written(3);
        shelf.remove(&entry_key(0, 1));
        let exported = |log| block_on(export(&shelf, log, &verifier(), &mut Vec::new(), &mut |_, _| {}));
        assert!(matches!(exported(0), Err(ExportError::Log(LogError::Tree(TreeError::MissingEntry(1))))));
        assert!(matches!(exported(1), Err(ExportError::Empty)));
    }

    #[test]
    fn a_report_is_json_with_its_fault_beside_the_counts() {
        let (shelf, _) = written(3);
        shelf.remove(&entry_key(0, 2));
        let json = serde_json::to_value(walked(&shelf)).unwrap();
        assert_eq!((&json["size"], &json["entries"]), (&3.into(), &2.into()));
        assert_eq!((&json["fault"], &json["index"]), (&"missing".into(), &2.into()));
        let (shelf, _) = written(3);
        assert!(serde_json::to_value(walked(&shelf)).unwrap().get("fault").is_none());
    }

    #[test]
    fn a_reader_that_fails_is_an_error_and_no_verdict() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::TimedOut))
            }
        }
        let mut broken = io::BufReader::new(Broken);
        let found = verify_export(&mut broken, &verifier(), &mut |_, _| {});
        assert_eq!(found.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_walk_may_move_between_threads() {
        fn is_send(_: &impl Send) {}
        let (shelf, verifier) = (Shelf::default(), verifier());
        let (mut told, mut out) = (|_, _| {}, Vec::new());
        is_send(&verify_store(&shelf, 0, &verifier, &mut told));
        is_send(&export(&shelf, 0, &verifier, &mut out, &mut told));
        is_send(&super::super::open(&shelf, 0, &verifier));
        is_send(&tree::consistency(&shelf, 0, 1, 2));
    }
}
