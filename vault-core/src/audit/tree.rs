//! The Merkle tree over the entries of a log: RFC 6962, SHA-256, kept as the tiles of C2SP `tlog-tiles`
//! (height 8).
//!
//! A tile of level L holds 256 hashes, each over 256^L entries. Only full tiles are stored; what is not full
//! yet is the right [`Edge`], in memory, and is read back from at most 255 entries and 255 tiles per level
//! above. Nothing here grows with the number of entries but its logarithm, and nothing here decides: the
//! journal writes, this file counts.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use data_encoding::BASE64;
use ring::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::Writer;
use crate::rows;
use crate::store::{Key, Store, StoreError, Write};

/// Hashes per tile.
pub const TILE_WIDTH: usize = 256;

/// Bytes per tile: 256 hashes of 32 bytes.
pub const TILE_BYTES: usize = TILE_WIDTH * 32;

/// The most entries of a log, 2^56: a million a second for two thousand years. Keeps every shift below in
/// range.
pub const MAX_SIZE: u64 = 1 << 56;

/// The highest level that a tile can have: 256^7 is [`MAX_SIZE`].
pub(super) const MAX_LEVEL: u8 = 7;

/// Levels of the tree per level of tiles.
const TILE_HEIGHT: u32 = 8;

/// A SHA-256 value: of an entry, of a node, of a document. Its text is standard base64, as C2SP writes
/// hashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// SHA-256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(hash)
    }

    /// Reads standard base64 with padding: 44 characters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        BASE64.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?)
            .ok_or_else(|| serde::de::Error::custom("is no base64 of 32 bytes"))
    }
}

/// The hash of an entry (RFC 6962, 2.1): SHA-256 of 0x00 and its bytes.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[0]);
    context.update(entry);
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    Hash(hash)
}

/// The hash of a node (RFC 6962, 2.1): SHA-256 of 0x01 and its two children.
fn node_hash(left: Hash, right: Hash) -> Hash {
    let mut node = [1; 65];
    node.iter_mut().skip(1).zip(left.0.iter().chain(&right.0)).for_each(|(to, from)| *to = *from);
    Hash::of(&node)
}

/// The key of an entry's row: its value is the entry's bytes.
#[must_use]
pub fn entry_key(log: u32, index: u64) -> Key {
    Writer::with_capacity(13).u8(rows::ENTRY).u32(log).u64(index).done()
}

/// The key of a full tile's row: its value is 256 hashes, 8,192 bytes.
#[must_use]
pub fn tile_key(log: u32, level: u8, tile: u64) -> Key {
    Writer::with_capacity(14).u8(rows::TILE).u32(log).u8(level).u64(tile).done()
}

/// Why the tree could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeError {
    /// The store cannot serve.
    Store(StoreError),
    /// The row of this entry is not there.
    MissingEntry(u64),
    /// The row of this full tile is not there (level, tile).
    MissingTile(u8, u64),
    /// The row of this tile has not 8,192 bytes (level, tile).
    TornTile(u8, u64),
    /// The question makes no sense: an index at or beyond the size, an old size above the new, a size above
    /// [`MAX_SIZE`].
    Range,
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "{error}"),
            Self::MissingEntry(index) => write!(f, "entry {index} of the audit log is missing"),
            Self::MissingTile(level, tile) => {
                write!(f, "tile {tile} of level {level} of the audit log is missing")
            }
            Self::TornTile(level, tile) => {
                write!(f, "tile {tile} of level {level} of the audit log is damaged")
            }
            Self::Range => f.write_str("the audit log has no such entry or size"),
        }
    }
}

impl std::error::Error for TreeError {}

impl From<StoreError> for TreeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The right edge of a log's tree: all that appending needs.
///
/// It is a value. [`Edge::with`] gives the edge after some leaves and leaves this one as it was, so that a
/// batch whose commit failed is simply built again from the former edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    log: u32,
    size: u64,
    /// The roots of the perfect subtrees that the size is made of, largest first.
    // INVARIANT: one peak per one-bit of `size`; only push() and load() write it.
    peaks: Vec<Hash>,
    /// By level, the hashes of the tile that is not full yet.
    // INVARIANT: level L holds (size / 256^L) mod 256 hashes; only place() and load() write it.
    tiles: Vec<Vec<Hash>>,
}

impl Edge {
    /// The edge of a log without entries.
    #[must_use]
    pub fn empty(log: u32) -> Self {
        Self { log, size: 0, peaks: Vec::new(), tiles: Vec::new() }
    }

    /// Which log this is the edge of.
    #[must_use]
    pub fn log(&self) -> u32 {
        self.log
    }

    /// How many entries the log has: the index of the next one.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree (RFC 6962, 2.1); SHA-256 of nothing where the log is empty.
    #[must_use]
    pub fn root(&self) -> Hash {
        fold(&self.peaks)
    }

    /// The edge after `leaves`, and the tiles that became full on the way: those go into the same batch as
    /// the entries.
    #[must_use]
    pub fn with(&self, leaves: &[Hash]) -> (Self, Vec<Write>) {
        let mut edge = self.clone();
        let mut full = Vec::new();
        for leaf in leaves {
            edge.push(*leaf, &mut full);
        }
        (edge, full)
    }

    /// Appends in place, for who needs no way back: a walk over the log.
    pub(super) fn push(&mut self, leaf: Hash, full: &mut Vec<Write>) {
        let (mut node, mut height, mut rest) = (leaf, 0, self.size);
        loop {
            if height % TILE_HEIGHT == 0 {
                self.place(height / TILE_HEIGHT, node, full);
            }
            if rest & 1 == 0 {
                break;
            }
            let Some(left) = self.peaks.pop() else { break };
            node = node_hash(left, node);
            height += 1;
            rest >>= 1;
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// Puts a hash into the open tile of its level, and takes the tile out if that was its last.
    fn place(&mut self, level: u32, hash: Hash, full: &mut Vec<Write>) {
        let level = u8::try_from(level).unwrap_or(MAX_LEVEL);
        while self.tiles.len() <= usize::from(level) {
            self.tiles.push(Vec::with_capacity(TILE_WIDTH));
        }
        let Some(tile) = self.tiles.get_mut(usize::from(level)) else { return };
        tile.push(hash);
        if tile.len() == TILE_WIDTH {
            let index = self.size >> (TILE_HEIGHT * (u32::from(level) + 1));
            full.push(Write::Put(tile_key(self.log, level, index), tile.iter().flat_map(|h| h.0).collect()));
            tile.clear();
        }
    }
}

/// The root over perfect subtrees of falling size. No subtree at all gives SHA-256 of nothing.
fn fold(peaks: &[Hash]) -> Hash {
    peaks.iter().rev().copied().reduce(|right, left| node_hash(left, right)).unwrap_or_else(|| Hash::of(b""))
}

/// The root over a perfect subtree: `hashes` are its leaves, a power of two of them.
fn perfect(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => Hash::of(b""),
        [one] => *one,
        more => {
            let (left, right) = more.split_at(more.len() / 2);
            node_hash(perfect(left), perfect(right))
        }
    }
}

/// Reads the right edge of a log of `size` entries from its rows: at most 255 entries, and at most 255 tiles
/// for each level above. What is read is not proven: compare [`Edge::root`] with the signed one.
pub async fn load(store: &dyn Store, log: u32, size: u64) -> Result<Edge, TreeError> {
    if size > MAX_SIZE {
        return Err(TreeError::Range);
    }
    let mut edge = Edge { log, size, ..Edge::empty(log) };
    for level in 0..=MAX_LEVEL {
        let count = size >> (TILE_HEIGHT * u32::from(level));
        if count == 0 {
            break;
        }
        edge.tiles.push(Rows::new(store, log).below(level, count - count % 256..count).await?);
    }
    for tile in edge.tiles.iter().rev() {
        let mut rest = tile.as_slice();
        for bit in (0..TILE_HEIGHT).rev() {
            if tile.len() >> bit & 1 == 1 {
                let (front, back) = rest.split_at_checked(1 << bit).unwrap_or((rest, &[]));
                edge.peaks.push(perfect(front));
                rest = back;
            }
        }
    }
    Ok(edge)
}

/// The inclusion proof of entry `index` in the tree of the first `size` entries (RFC 6962, 2.1.1): the hashes
/// beside the way from the leaf up to the root. `size` may be any up to the log's own.
pub async fn inclusion(store: &dyn Store, log: u32, index: u64, size: u64) -> Result<Vec<Hash>, TreeError> {
    if index >= size || size > MAX_SIZE {
        return Err(TreeError::Range);
    }
    Rows::new(store, log).hashes_of(&beside(index, size)).await
}

/// The consistency proof between the trees of the first `old` and the first `new` entries (RFC 6962, 2.1.2).
/// Empty if `old` is zero or equals `new`.
pub async fn consistency(store: &dyn Store, log: u32, old: u64, new: u64) -> Result<Vec<Hash>, TreeError> {
    if old > new || new > MAX_SIZE {
        return Err(TreeError::Range);
    }
    Rows::new(store, log).hashes_of(&between(old, new)).await
}

/// Whether `path` proves that the entry with hash `leaf` is at `index` in the tree of `size` entries with
/// this `root`. Refused too: a path with one hash more or less than it must have.
#[must_use]
pub fn includes(root: Hash, size: u64, index: u64, leaf: Hash, path: &[Hash]) -> bool {
    if index >= size || size > MAX_SIZE {
        return false;
    }
    let ranges = beside(index, size);
    let climb = |node, (range, hash): (&Range<u64>, &Hash)| {
        if range.start > index { node_hash(node, *hash) } else { node_hash(*hash, node) }
    };
    ranges.len() == path.len() && ranges.iter().zip(path).fold(leaf, climb) == root
}

/// Whether `path` proves that the tree of `old` entries with root `old_root` is the beginning of the tree of
/// `new` entries with root `new_root`. Refused too: a path with one hash more or less than it must have.
#[must_use]
pub fn extends(old_root: Hash, old: u64, new_root: Hash, new: u64, path: &[Hash]) -> bool {
    if old > new || new > MAX_SIZE {
        return false;
    }
    if old == 0 {
        // Every log extends the empty one; RFC 6962 leaves this case open.
        return path.is_empty() && old_root == Hash::of(b"");
    }
    let ranges = between(old, new);
    if ranges.len() != path.len() {
        return false;
    }
    let mut steps = ranges.iter().zip(path).peekable();
    // The lowest hash is the old tree itself where that is one subtree of the new one, else it ends the path.
    let lowest = match steps.next_if(|(range, _)| range.end == old) {
        Some((_, hash)) => *hash,
        None => old_root,
    };
    let (was, is) = steps.fold((lowest, lowest), |(was, is), (range, hash)| {
        if range.start >= old {
            (was, node_hash(is, *hash))
        } else {
            (node_hash(*hash, was), node_hash(*hash, is))
        }
    });
    was == old_root && is == new_root
}

/// The largest power of two below `n`, where a tree of `n` leaves is split (RFC 6962, 2.1). `n` is at least
/// 2.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// The subtrees beside the way from leaf `index` up to the root of `size` leaves, lowest first.
fn beside(index: u64, size: u64) -> Vec<Range<u64>> {
    let (mut low, mut high) = (0, size);
    let mut ranges = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            ranges.push(middle..high);
            high = middle;
        } else {
            ranges.push(low..middle);
            low = middle;
        }
    }
    ranges.reverse();
    ranges
}

/// The subtrees of a consistency proof, lowest first: SUBPROOF of RFC 6962, 2.1.2.
fn between(old: u64, new: u64) -> Vec<Range<u64>> {
    let (mut low, mut high) = (0, new);
    let mut ranges = Vec::new();
    if old == 0 {
        return ranges;
    }
    while high != old {
        let middle = low + split(high - low);
        if old <= middle {
            ranges.push(middle..high);
            high = middle;
        } else {
            ranges.push(low..middle);
            low = middle;
        }
    }
    // The old tree itself is known to who checks, and is left out where it is one subtree.
    if low != 0 {
        ranges.push(low..high);
    }
    ranges.reverse();
    ranges
}

/// Reads hashes of subtrees from the rows of one log, each tile once.
struct Rows<'a> {
    store: &'a dyn Store,
    log: u32,
    tiles: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl<'a> Rows<'a> {
    fn new(store: &'a dyn Store, log: u32) -> Self {
        Self { store, log, tiles: BTreeMap::new() }
    }

    async fn hashes_of(&mut self, ranges: &[Range<u64>]) -> Result<Vec<Hash>, TreeError> {
        let mut hashes = Vec::with_capacity(ranges.len());
        for range in ranges {
            hashes.push(self.subtree(range).await?);
        }
        Ok(hashes)
    }

    /// The hash over the entries of `range`, a subtree that RFC 6962 splits off: its start is a multiple of
    /// the smallest power of two that is not below its length.
    async fn subtree(&mut self, range: &Range<u64>) -> Result<Hash, TreeError> {
        let mut peaks = Vec::new();
        let mut low = range.start;
        while low < range.end {
            let height = (range.end - low).ilog2();
            peaks.push(self.perfect(height, low >> height).await?);
            low += 1 << height;
        }
        Ok(fold(&peaks))
    }

    /// The hash over entries `index << height` to `(index + 1) << height`.
    async fn perfect(&mut self, height: u32, index: u64) -> Result<Hash, TreeError> {
        let level = u8::try_from(height / TILE_HEIGHT).map_err(|_| TreeError::Range)?;
        let first = index << (height % TILE_HEIGHT);
        let wanted = first..first + (1 << (height % TILE_HEIGHT));
        Ok(perfect(&self.hashes(level, wanted).await?))
    }

    /// The hashes of `wanted` in one level of tiles, all of one tile: from the tile if it is full, else from
    /// below.
    async fn hashes(&mut self, level: u8, wanted: Range<u64>) -> Result<Vec<Hash>, TreeError> {
        let tile = wanted.start >> TILE_HEIGHT;
        if !self.tiles.contains_key(&(level, tile)) {
            let keys = [tile_key(self.log, level, tile)];
            let found = self.store.get(&keys).await?.into_iter().next().flatten();
            if let Some(bytes) = found {
                self.tiles.insert((level, tile), tile_hashes(level, tile, &bytes)?);
            }
        }
        let Some(hashes) = self.tiles.get(&(level, tile)) else { return self.below(level, wanted).await };
        let skip = usize::try_from(wanted.start % 256).unwrap_or(usize::MAX);
        let take = usize::try_from(wanted.end - wanted.start).unwrap_or(usize::MAX);
        Ok(hashes.iter().skip(skip).take(take).copied().collect())
    }

    /// The hashes of `wanted` in one level of tiles, made from what is below: entries, or full tiles.
    async fn below(&self, level: u8, wanted: Range<u64>) -> Result<Vec<Hash>, TreeError> {
        let Some(lower) = level.checked_sub(1) else {
            let keys: Vec<Key> = wanted.clone().map(|index| entry_key(self.log, index)).collect();
            let entries = wanted.zip(self.store.get(&keys).await?);
            return entries
                .map(|(index, entry)| entry.as_deref().map(leaf_hash).ok_or(TreeError::MissingEntry(index)))
                .collect();
        };
        let keys: Vec<Key> = wanted.clone().map(|tile| tile_key(self.log, lower, tile)).collect();
        let tiles = wanted.zip(self.store.get(&keys).await?);
        tiles
            .map(|(tile, bytes)| {
                let bytes = bytes.ok_or(TreeError::MissingTile(lower, tile))?;
                Ok(perfect(&tile_hashes(lower, tile, &bytes)?))
            })
            .collect()
    }
}

/// The hashes of a full tile.
pub(super) fn tile_hashes(level: u8, tile: u64, bytes: &[u8]) -> Result<Vec<Hash>, TreeError> {
    match bytes.as_chunks() {
        (hashes, []) if hashes.len() == TILE_WIDTH => Ok(hashes.iter().copied().map(Hash).collect()),
        _ => Err(TreeError::TornTile(level, tile)),
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use pollster::block_on;
    use proptest::prelude::*;

    use super::super::shelf::Shelf;
    use super::*;

    /// The leaves, roots and proofs that implementations of RFC 6962 test themselves with.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    const INCLUSION: [(u64, u64, &[&str]); 2] = [
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
    ];
    const CONSISTENCY: [(u64, u64, &[&str]); 3] = [
        (
            2,
            8,
            &[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            &[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            &[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];

    fn hash(hex: &str) -> Hash {
        Hash(HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap())
    }

    fn hashes(hex: &[&str]) -> Vec<Hash> {
        hex.iter().map(|h| hash(h)).collect()
    }

    /// The entries on a shelf, each as if committed on its own, and the edge after all of them.
    fn shelved(entries: &[Vec<u8>]) -> (Shelf, Edge) {
        let (shelf, mut edge) = (Shelf::default(), Edge::empty(3));
        for entry in entries {
            shelf.put(entry_key(3, edge.size()), entry.clone());
            let (next, tiles) = edge.with(&[leaf_hash(entry)]);
            shelf.write(&tiles);
            edge = next;
        }
        (shelf, edge)
    }

    fn numbered(n: u64) -> Vec<Vec<u8>> {
        (0..n).map(|i| i.to_be_bytes().to_vec()).collect()
    }

    /// MTH of RFC 6962, 2.1, word by word.
    fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => Hash::of(b""),
            1 => leaves[0],
            n => {
                let k = n.next_power_of_two() / 2;
                let both = [naive_root(&leaves[..k]).0, naive_root(&leaves[k..]).0].concat();
                Hash::of(&[&[1][..], &both].concat())
            }
        }
    }

    /// PATH of RFC 6962, 2.1.1, word by word, over a root function that may remember.
    fn naive_path(m: usize, d: Range<usize>, root: &mut impl FnMut(Range<usize>) -> Hash) -> Vec<Hash> {
        let n = d.len();
        if n == 1 {
            return Vec::new();
        }
        let k = n.next_power_of_two() / 2;
        let (left, right) = (d.start..d.start + k, d.start + k..d.end);
        if m < k {
            let mut path = naive_path(m, left, root);
            path.push(root(right));
            path
        } else {
            let mut path = naive_path(m - k, right, root);
            path.push(root(left));
            path
        }
    }

    /// SUBPROOF of RFC 6962, 2.1.2, word by word.
    #[allow(clippy::many_single_char_names, reason = "the letters of the RFC")]
    fn naive_subproof(
        m: usize,
        d: Range<usize>,
        b: bool,
        root: &mut impl FnMut(Range<usize>) -> Hash,
    ) -> Vec<Hash> {
        let n = d.len();
        if m == n {
            return if b { Vec::new() } else { vec![root(d)] };
        }
        let k = n.next_power_of_two() / 2;
        let (left, right) = (d.start..d.start + k, d.start + k..d.end);
        if m <= k {
            let mut proof = naive_subproof(m, left, b, root);
            proof.push(root(right));
            proof
        } else {
            let mut proof = naive_subproof(m - k, right, false, root);
            proof.push(root(left));
            proof
        }
    }

    #[test]
    fn the_published_vectors_of_rfc_6962_come_out() {
        let entries: Vec<Vec<u8>> = LEAVES.iter().map(|l| HEXLOWER.decode(l.as_bytes()).unwrap()).collect();
        let (shelf, _) = shelved(&entries);
        let mut edge = Edge::empty(0);
        for (size, root) in ROOTS.iter().enumerate() {
            assert_eq!(edge.root(), hash(root), "{size}");
            if let Some(entry) = entries.get(size) {
                edge = edge.with(&[leaf_hash(entry)]).0;
            }
        }
        for (index, size, path) in INCLUSION {
            assert_eq!(block_on(inclusion(&shelf, 3, index, size)), Ok(hashes(path)));
            let leaf = leaf_hash(&entries[usize::try_from(index).unwrap()]);
            assert!(includes(hash(ROOTS[8]), size, index, leaf, &hashes(path)));
        }
        for (old, new, path) in CONSISTENCY {
            assert_eq!(block_on(consistency(&shelf, 3, old, new)), Ok(hashes(path)));
            let root = |size: u64| hash(ROOTS[usize::try_from(size).unwrap()]);
            assert!(extends(root(old), old, root(new), new, &hashes(path)));
        }
    }

    #[test]
    fn every_proof_up_to_600_entries_is_the_one_of_the_rfc_and_holds() {
        const N: usize = 600;
        let entries = numbered(N as u64);
        let leaves: Vec<Hash> = entries.iter().map(|e| leaf_hash(e)).collect();
        let (shelf, _) = shelved(&entries);
        let mut naive = BTreeMap::new();
        let mut naive_of = |r: Range<usize>| {
            *naive.entry((r.start, r.end)).or_insert_with(|| naive_root(&leaves[r.clone()]))
        };
        // Each subtree is read from the rows once: 180,000 proofs share a few thousand subtrees.
        let mut rows = Rows::new(&shelf, 3);
        let mut read = BTreeMap::new();
        let mut from_rows = |ranges: Vec<Range<u64>>| -> Vec<Hash> {
            let mut hash_of = |r: &Range<u64>| block_on(rows.subtree(r)).unwrap();
            ranges.iter().map(|r| *read.entry((r.start, r.end)).or_insert_with(|| hash_of(r))).collect()
        };
        for size in 1..=N {
            let (root, size64) = (naive_of(0..size), size as u64);
            for (index, leaf) in leaves.iter().enumerate().take(size) {
                let path = from_rows(beside(index as u64, size64));
                assert_eq!(path, naive_path(index, 0..size, &mut naive_of), "{index} of {size}");
                assert!(includes(root, size64, index as u64, *leaf, &path), "{index} of {size}");
            }
            for old in 1..=size {
                let path = from_rows(between(old as u64, size64));
                assert_eq!(path, naive_subproof(old, 0..size, true, &mut naive_of), "{old} to {size}");
                assert!(extends(naive_of(0..old), old as u64, root, size64, &path), "{old} to {size}");
            }
        }
    }

    #[test]
    fn a_proof_with_anything_changed_proves_nothing() {
        let entries = numbered(300);
        let leaves: Vec<Hash> = entries.iter().map(|e| leaf_hash(e)).collect();
        let (shelf, edge) = shelved(&entries);
        let other = Hash([0xee; 32]);
        for (index, size) in [(0, 1), (0, 300), (255, 300), (256, 300), (299, 300), (130, 257), (6, 7)] {
            let root = naive_root(&leaves[..usize::try_from(size).unwrap()]);
            let leaf = leaves[usize::try_from(index).unwrap()];
            let path = block_on(inclusion(&shelf, 3, index, size)).unwrap();
            assert!(includes(root, size, index, leaf, &path));
            assert!(!includes(other, size, index, leaf, &path));
            assert!(!includes(root, size, index, other, &path));
            assert!(!includes(root, size, size, leaf, &path));
            if size > 1 {
                assert!(!includes(root, size, index ^ 1, leaf, &path));
            }
            assert!(!includes(root, size, index, leaf, &[&path[..], &[other]].concat()));
            assert!(!includes(root, size, index, leaf, &[&[other], &path[..]].concat()));
            for at in 0..path.len() {
                let mut changed = path.clone();
                changed[at] = other;
                assert!(!includes(root, size, index, leaf, &changed));
                changed.remove(at);
                assert!(!includes(root, size, index, leaf, &changed));
            }
        }
        for old in [1, 2, 3, 128, 255, 256, 257, 299] {
            let was = naive_root(&leaves[..usize::try_from(old).unwrap()]);
            let path = block_on(consistency(&shelf, 3, old, 300)).unwrap();
            assert!(extends(was, old, edge.root(), 300, &path));
            assert!(!extends(other, old, edge.root(), 300, &path));
            assert!(!extends(was, old, other, 300, &path));
            assert!(!extends(was, 300, edge.root(), old, &path));
            assert!(!extends(was, old, edge.root(), 300, &[&path[..], &[other]].concat()));
            for at in 0..path.len() {
                let mut changed = path.clone();
                changed[at] = other;
                assert!(!extends(was, old, edge.root(), 300, &changed));
                changed.remove(at);
                assert!(!extends(was, old, edge.root(), 300, &changed));
            }
        }
        assert!(extends(edge.root(), 300, edge.root(), 300, &[]));
        assert!(!extends(other, 300, edge.root(), 300, &[]));
        assert!(extends(Hash::of(b""), 0, edge.root(), 300, &[]));
        assert!(!extends(other, 0, edge.root(), 300, &[]));
        assert!(!extends(Hash::of(b""), 0, edge.root(), 300, &[other]));
        assert!(!includes(edge.root(), MAX_SIZE + 1, 0, other, &[]));
    }

    #[test]
    fn an_edge_is_read_back_as_it_was_at_every_size_around_a_border() {
        let entries = numbered(66_050); // 65,536 + 512 + 2: two levels of full tiles
        let leaves: Vec<Hash> = entries.iter().map(|e| leaf_hash(e)).collect();
        let shelf = Shelf::default();
        let mut edge = Edge::empty(3);
        for size in [0, 1, 255, 256, 257, 511, 512, 600, 65_535, 65_536, 65_537, 65_792, 66_050] {
            let from = usize::try_from(edge.size()).unwrap();
            for (index, entry) in entries[..size].iter().enumerate().skip(from) {
                shelf.put(entry_key(3, index as u64), entry.clone());
            }
            let (next, tiles) = edge.with(&leaves[from..size]);
            shelf.write(&tiles);
            edge = next;
            assert_eq!(block_on(load(&shelf, 3, size as u64)), Ok(edge.clone()), "{size}");
            assert_eq!(edge.root(), naive_root(&leaves[..size]), "{size}");
        }
        // What there is: 258 full tiles of level 0, one of level 1. Proofs of any size come from them.
        assert_eq!(shelf.count(rows::TILE), 259);
        for (index, size) in
            [(0, 66_050), (65_535, 65_536), (65_536, 66_050), (66_049, 66_050), (777, 65_000)]
        {
            let path = block_on(inclusion(&shelf, 3, index, size)).unwrap();
            let root = naive_root(&leaves[..usize::try_from(size).unwrap()]);
            assert!(
                includes(root, size, index, leaves[usize::try_from(index).unwrap()], &path),
                "{index} of {size}"
            );
        }
        // Reading the edge back is bounded: 2 entries and 2 tiles here, and 1 of level 1.
        shelf.forget_reads();
        block_on(load(&shelf, 3, 66_050)).unwrap();
        assert_eq!(shelf.reads(), 5);
    }

    #[test]
    fn a_tile_has_the_bytes_that_c2sp_says() {
        let entries = numbered(256);
        let (shelf, edge) = shelved(&entries);
        let expected: Vec<u8> = entries.iter().flat_map(|e| leaf_hash(e).0).collect();
        assert_eq!(shelf.value(&tile_key(3, 0, 0)), Some(expected));
        assert_eq!(tile_key(3, 1, 2), [b't', 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(entry_key(3, 258), [b'a', 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(edge.tiles.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_missing_or_torn_row_is_told_by_its_place() {
        let (shelf, _) = shelved(&numbered(600));
        assert_eq!(block_on(inclusion(&shelf, 3, 600, 600)), Err(TreeError::Range));
        assert_eq!(block_on(consistency(&shelf, 3, 2, 1)), Err(TreeError::Range));
        assert_eq!(block_on(load(&shelf, 3, MAX_SIZE + 1)), Err(TreeError::Range));
        assert_eq!(block_on(load(&shelf, 3, 601)), Err(TreeError::MissingEntry(600)));
        shelf.remove(&entry_key(3, 555));
        assert_eq!(block_on(load(&shelf, 3, 600)), Err(TreeError::MissingEntry(555)));
        shelf.put(tile_key(3, 0, 1), vec![0; TILE_BYTES - 1]);
        assert_eq!(block_on(load(&shelf, 3, 512)), Err(TreeError::TornTile(0, 1)));
        shelf.remove(&tile_key(3, 0, 1));
        assert_eq!(block_on(load(&shelf, 3, 512)), Err(TreeError::MissingTile(0, 1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn however_the_leaves_are_cut_into_batches_the_tree_is_the_same(
            batches in prop::collection::vec(0_usize..300, 0..8), tried in 0_usize..300,
        ) {
            let total: usize = batches.iter().sum();
            let leaves: Vec<Hash> = (0..total).map(|i| leaf_hash(&i.to_be_bytes())).collect();
            let (whole, whole_tiles) = Edge::empty(0).with(&leaves);
            let (mut edge, mut tiles, mut done) = (Edge::empty(0), Vec::new(), 0);
            for batch in batches {
                // A batch that failed leaves no trace: the former edge is as it was.
                let _ = edge.with(&vec![Hash([9; 32]); tried]);
                let (next, full) = edge.with(&leaves[done..done + batch]);
                (edge, done) = (next, done + batch);
                tiles.extend(full);
            }
            prop_assert_eq!(&edge, &whole);
            prop_assert_eq!(tiles, whole_tiles);
            prop_assert_eq!(edge.root(), naive_root(&leaves));
        }
    }
}
