//! The names of rows: which first byte is whose. The one registry of the key space of a [`Store`](crate::store::Store).
//!
//! Every key begins with one of these bytes; docs/format.md says what follows it and what the value holds.

/// The vault's plain header: format, vault id, custodian's wrap of the root key. One row.
pub const HEADER: u8 = b'v';
/// The sealed Control document. One row.
// In front of the entries: a large row behind the place where a log grows makes redb give each entry a page of its own
// (measured: 4 KiB an entry instead of 0.2).
pub const CONTROL: u8 = b'C';
/// The epoch: Control's version and hash, which every batch expects. One row.
pub const EPOCH: u8 = b'e';
/// Card rows: merchant u32, row key 16.
pub const CARD: u8 = b'r';
/// Fingerprint rows: merchant u32, fingerprint 16.
pub const FINGERPRINT: u8 = b'f';
/// Subject index rows: merchant u32, subject id 16.
pub const SUBJECT: u8 = b's';
/// Idempotency rows: day u32, merchant u32, row key 16.
pub const IDEMPOTENCY: u8 = b'i';
/// Guess cells: day u32, merchant u32, cell 16; the value is the members, 8 bytes each.
pub const GUESS: u8 = b'g';
/// Distinct cards per principal, BIN and length: day u32, merchant u32, counter 16; the value is a counter.
pub const VOLUME: u8 = b'd';
/// Used token space: merchant u32, space 16; the value is a counter.
pub const SPACE: u8 = b'u';
/// Audit entries: log u32, index u64.
pub const ENTRY: u8 = b'a';
/// Full tiles of a log's Merkle tree: log u32, level u8, tile index u64.
pub const TILE: u8 = b't';
/// The newest checkpoint of a log: log u32.
pub const HEAD: u8 = b'h';
/// Earlier cards whose time will be over: day u32, merchant u32, row key 16 of the card row; the value is empty.
pub const RETENTION: u8 = b'x';
/// Use counters of keys: key id u32.
pub const USES: u8 = b'k';
/// Sealed notes that the log names by hash: hash 32.
pub const NOTE: u8 = b'n';
/// Erasures whose erasure epoch key is still there: key id u32; the value is the time of the first, u64 ms.
pub const ERASURE: u8 = b'w';
/// Hand-overs of a log's key: log u32, which one u32 from 0; the value is the checkpoint that both keys signed.
pub const HANDOVER: u8 = b'o';
