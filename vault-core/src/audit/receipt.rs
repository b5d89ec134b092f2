//! What a caller keeps of what the log says: a receipt at once, a proof on request. Both are checked offline.
//!
//! A [`Receipt`] is the log's signed word that an entry with a certain hash is at a certain place. A
//! [`Proof`] shows it: the entry, the way from it up to the root (RFC 6962, 2.1.1), the signed root. Both are
//! JSON texts of version 1; an unknown field, an unknown version, or a text above its bound is refused.

use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, SignedCheckpoint};
use super::entry::{AuditEntry, MAX_ENTRY};
use super::handover::{HandOver, MAX_HAND_OVERS};
use super::note::{LogVerifier, MAX_NOTE, NoteError};
use super::tree::{self, Hash, TreeError, entry_key};
use crate::store::Store;

/// The version of both texts.
const VERSION: u8 = 1;

/// The longest text of either, in bytes: a note (JSON writes a newline as two), an entry, 56 hashes.
pub const MAX_TEXT: usize = 3 * MAX_NOTE;

/// The longest text of a proof that carries hand-overs of the log's key, in bytes: each has at most 6 KiB.
pub const MAX_PROOF: usize = MAX_TEXT + MAX_HAND_OVERS * 6 * 1_024;

/// Why a receipt or proof is refused. It never carries its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofError {
    /// The text is no receipt or proof of this version, or is too long.
    Form,
    /// The checkpoint in it is not good.
    Note(NoteError),
    /// The place is beyond the size that the checkpoint speaks of.
    Beyond,
    /// The path does not lead from the entry to the root.
    Path,
    /// The entry's bytes are none of an entry.
    Entry,
    /// The proof is of another place or entry than the receipt.
    Other,
    /// A hand-over of the log's key does not hold, or does not join the one before it.
    HandOver,
}

impl fmt::Display for ProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("the text is no receipt or proof of a version known here"),
            Self::Note(error) => write!(f, "{error}"),
            Self::Beyond => f.write_str("the entry's place is beyond the size that was signed"),
            Self::Path => f.write_str("the path does not lead from the entry to the signed root"),
            Self::Entry => f.write_str("the bytes in the proof are no audit entry of a version known here"),
            Self::Other => f.write_str("the proof is of another entry than the receipt"),
            Self::HandOver => f.write_str("a hand-over of the log's key does not hold"),
        }
    }
}

impl std::error::Error for ProofError {}

impl From<NoteError> for ProofError {
    fn from(error: NoteError) -> Self {
        Self::Note(error)
    }
}

/// The log's word that an entry is in it, signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Which log of the vault.
    pub log: u32,
    /// The entry's place.
    pub index: u64,
    /// The entry's hash.
    pub leaf: Hash,
    /// The head that the batch of the entry was committed with.
    pub checkpoint: SignedCheckpoint,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiptText {
    version: u8,
    log: u32,
    index: u64,
    leaf: Hash,
    checkpoint: String,
}

impl Receipt {
    /// The receipt as a text to keep: one line of JSON.
    #[must_use]
    pub fn text(&self) -> String {
        json(&ReceiptText {
            version: VERSION,
            log: self.log,
            index: self.index,
            leaf: self.leaf,
            checkpoint: self.checkpoint.note().into(),
        })
    }

    /// Reads a kept receipt and checks the log's signature in it.
    pub fn open(text: &str, verifier: &LogVerifier) -> Result<Self, ProofError> {
        let ReceiptText { version, log, index, leaf, checkpoint } = parse(text, MAX_TEXT)?;
        let checkpoint = SignedCheckpoint::open(&checkpoint, verifier)?;
        if version != VERSION {
            return Err(ProofError::Form);
        }
        if index >= checkpoint.checkpoint().size {
            return Err(ProofError::Beyond);
        }
        Ok(Self { log, index, leaf, checkpoint })
    }
}

/// An entry and the way from it to a signed root. What it says holds only once [`Proof::check`] says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    log: u32,
    index: u64,
    entry: Vec<u8>,
    path: Vec<Hash>,
    checkpoint: String,
    /// How the log's key was handed over, oldest first: so that any of the keys is enough to check it.
    hand_overs: Vec<HandOver>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofText {
    version: u8,
    log: u32,
    index: u64,
    entry: String,
    path: Vec<Hash>,
    checkpoint: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hand_overs: Vec<HandOver>,
}

/// What a good proof shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Its place in the log.
    pub index: u64,
    /// The entry.
    pub entry: AuditEntry,
    /// The signed head that it was shown against.
    pub checkpoint: Checkpoint,
}

impl Proof {
    /// The entry's bytes, as they were hashed.
    #[must_use]
    pub fn entry(&self) -> &[u8] {
        &self.entry
    }

    /// The hashes beside the way from the entry up to the root.
    #[must_use]
    pub fn path(&self) -> &[Hash] {
        &self.path
    }

    /// The proof as a portable text: one line of JSON.
    #[must_use]
    pub fn text(&self) -> String {
        json(&ProofText {
            version: VERSION,
            log: self.log,
            index: self.index,
            entry: BASE64.encode(&self.entry),
            path: self.path.clone(),
            checkpoint: self.checkpoint.clone(),
            hand_overs: self.hand_overs.clone(),
        })
    }

    /// The same proof, which carries the hand-overs of its log's key.
    #[must_use]
    pub fn with_hand_overs(self, hand_overs: Vec<HandOver>) -> Self {
        Self { hand_overs, ..self }
    }

    /// The keys of the log as far as the proof carries hand-overs, for who knows one of them.
    pub fn keys(&self, known: &LogVerifier) -> Result<LogVerifier, ProofError> {
        known.follow(&self.hand_overs)
    }

    /// Reads a proof. Nothing in it is checked yet.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        let ProofText { version, log, index, entry, path, checkpoint, hand_overs } = parse(text, MAX_PROOF)?;
        let entry = BASE64.decode(entry.as_bytes()).map_err(|_| ProofError::Form)?;
        if version != VERSION || entry.len() > MAX_ENTRY {
            return Err(ProofError::Form);
        }
        Ok(Self { log, index, entry, path, checkpoint, hand_overs })
    }

    /// Whether the entry is in the log whose key `verifier` holds, or held once if the proof carries the hand-overs since.
    /// Needs neither vault nor network.
    pub fn check(&self, verifier: &LogVerifier) -> Result<Proven, ProofError> {
        let signed = SignedCheckpoint::open(&self.checkpoint, &self.keys(verifier)?)?;
        let checkpoint = *signed.checkpoint();
        if self.index >= checkpoint.size {
            return Err(ProofError::Beyond);
        }
        if !tree::includes(
            checkpoint.root,
            checkpoint.size,
            self.index,
            tree::leaf_hash(&self.entry),
            &self.path,
        ) {
            return Err(ProofError::Path);
        }
        let entry = AuditEntry::decode(&self.entry).map_err(|_| ProofError::Entry)?;
        Ok(Proven { index: self.index, entry, checkpoint })
    }

    /// The same, and that it is the very entry that `receipt` promised.
    pub fn check_receipt(&self, receipt: &Receipt, verifier: &LogVerifier) -> Result<Proven, ProofError> {
        let same = (self.log, self.index, tree::leaf_hash(&self.entry))
            == (receipt.log, receipt.index, receipt.leaf);
        if same { self.check(verifier) } else { Err(ProofError::Other) }
    }
}

/// Proves entry `index` of `log` against a signed head, the newest or an older one. Gives `None` if the log's
/// rows do not lead to the signed root: they were altered, and [`verify_store`](super::verify::verify_store)
/// says where.
pub async fn prove(
    store: &dyn Store,
    log: u32,
    index: u64,
    head: &SignedCheckpoint,
) -> Result<Option<Proof>, TreeError> {
    let Checkpoint { size, root, .. } = *head.checkpoint();
    let path = tree::inclusion(store, log, index, size).await?;
    let keys = [entry_key(log, index)];
    let entry = store.get(&keys).await?.into_iter().next().flatten().ok_or(TreeError::MissingEntry(index))?;
    let holds = tree::includes(root, size, index, tree::leaf_hash(&entry), &path);
    let checkpoint = head.note().into();
    Ok(holds.then(|| Proof { log, index, entry, path, checkpoint, hand_overs: Vec::new() }))
}

fn parse<'t, T: Deserialize<'t>>(text: &'t str, longest: usize) -> Result<T, ProofError> {
    if text.len() > longest {
        return Err(ProofError::Form);
    }
    serde_json::from_str(text).map_err(|_| ProofError::Form)
}

/// Numbers and texts only: serializing these cannot fail.
fn json(text: &impl Serialize) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::super::entry::tests::disclosed;
    use super::super::note::tests::signer;
    use super::super::tests::{ORIGIN, written};
    use super::*;

    #[test]
    fn a_receipt_reads_back_and_a_changed_one_does_not() {
        let (_, head) = written(3);
        let leaf = tree::leaf_hash(&disclosed(1, 1).encode());
        let receipt = Receipt { log: 0, index: 2, leaf, checkpoint: head };
        let text = receipt.text();
        let verifier = signer(ORIGIN, 1).verifier().clone();
        assert!(!text.contains('\n'));
        assert_eq!(Receipt::open(&text, &verifier), Ok(receipt));
        for (from, to, why) in [
            ("\"index\":2", "\"index\":3", ProofError::Beyond),
            ("\"version\":1", "\"version\":2", ProofError::Form),
            ("\"version\":1,", "", ProofError::Form),
            ("\"version\":1,", "\"version\":1,\"more\":0,", ProofError::Form),
            ("\\n3\\n", "\\n4\\n", ProofError::Note(NoteError::Signature)),
            ("{", "", ProofError::Form),
        ] {
            let bad = text.replacen(from, to, 1);
            assert_ne!(bad, text);
            assert_eq!(Receipt::open(&bad, &verifier), Err(why), "{bad}");
        }
        assert_eq!(
            Receipt::open(&text, signer(ORIGIN, 2).verifier()),
            Err(ProofError::Note(NoteError::Unsigned))
        );
        assert_eq!(Receipt::open(&" ".repeat(MAX_TEXT + 1), &verifier), Err(ProofError::Form));
    }

    #[test]
    fn a_proof_is_checked_offline_and_a_changed_one_proves_nothing() {
        let (shelf, head) = written(700);
        let verifier = signer(ORIGIN, 1).verifier().clone();
        for index in [0, 255, 256, 511, 512, 699] {
            let proof = block_on(prove(&shelf, 0, index, &head)).unwrap().unwrap();
            let text = proof.text();
            let read = Proof::parse(&text).unwrap();
            assert_eq!(read, proof);
            let proven = read.check(&verifier).unwrap();
            assert_eq!((proven.index, proven.checkpoint.size), (index, 700));
            assert_eq!(proven.entry.encode(), proof.entry);
            let receipt =
                Receipt { log: 0, index, leaf: tree::leaf_hash(&proof.entry), checkpoint: head.clone() };
            assert_eq!(proof.check_receipt(&receipt, &verifier), Ok(proven));
            assert_eq!(
                proof.check_receipt(&Receipt { index: index + 1, ..receipt.clone() }, &verifier),
                Err(ProofError::Other)
            );
            assert_eq!(
                proof.check_receipt(&Receipt { leaf: Hash([0; 32]), ..receipt }, &verifier),
                Err(ProofError::Other)
            );
        }
        let proof = block_on(prove(&shelf, 0, 300, &head)).unwrap().unwrap();
        let refused = |change: &dyn Fn(&mut Proof)| {
            let mut changed = proof.clone();
            change(&mut changed);
            Proof::parse(&changed.text()).unwrap().check(&verifier).unwrap_err()
        };
        assert_eq!(refused(&|p| p.index = 301), ProofError::Path);
        assert_eq!(refused(&|p| p.index = 700), ProofError::Beyond);
        assert_eq!(refused(&|p| p.entry[20] ^= 1), ProofError::Path);
        assert_eq!(refused(&|p| p.path.truncate(3)), ProofError::Path);
        assert_eq!(refused(&|p| p.path.push(Hash([0; 32]))), ProofError::Path);
        assert_eq!(
            refused(&|p| p.checkpoint = p.checkpoint.replace("\n700\n", "\n701\n")),
            ProofError::Note(NoteError::Signature)
        );
        assert_eq!(proof.check(signer("other", 1).verifier()), Err(ProofError::Note(NoteError::Unsigned)));
        assert_eq!(Proof::parse("{}"), Err(ProofError::Form));
    }

    #[test]
    fn rows_that_do_not_lead_to_the_signed_root_give_no_proof() {
        let (shelf, head) = written(300);
        shelf.put(entry_key(0, 299), disclosed(5, 5).encode());
        assert_eq!(block_on(prove(&shelf, 0, 299, &head)), Ok(None));
        assert_eq!(block_on(prove(&shelf, 0, 298, &head)), Ok(None));
        assert_eq!(block_on(prove(&shelf, 0, 300, &head)), Err(TreeError::Range));
        shelf.remove(&entry_key(0, 299));
        assert_eq!(block_on(prove(&shelf, 0, 299, &head)), Err(TreeError::MissingEntry(299)));
    }
}
