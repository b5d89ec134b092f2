//! The signed head of a log: how many entries, which root, under which control, when (C2SP
//! `tlog-checkpoint`).
//!
//! One is written with every batch, so that no entry is ever on disk without a signature over it. Three
//! extension lines of ours follow the root: the epoch, the hash of the control document, the time. Refused:
//! any other line, any other order, a number with a leading zero, a size above [`MAX_SIZE`].

use std::sync::Arc;

use super::note::{LogSigner, LogVerifier, NoteError};
use super::tree::{Hash, MAX_SIZE};
use crate::codec::Writer;
use crate::rows;
use crate::store::{Key, Write};
use crate::time::Timestamp;

/// What a log's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// How many entries the log has.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// The version of Control when it was signed.
    pub epoch: u64,
    /// SHA-256 of the sealed Control document of that version.
    pub control: Hash,
    /// When it was signed: not before the newest entry.
    pub time: Timestamp,
}

impl Checkpoint {
    /// Signs this as the head of the signer's log.
    #[must_use]
    pub fn sign(self, signer: &LogSigner) -> SignedCheckpoint {
        let note = signer.note(&self.text(signer));
        SignedCheckpoint { checkpoint: self, note: note.into() }
    }

    /// The same for the head at which `signer` hands its log over to `next`: both sign it.
    #[must_use]
    pub(crate) fn sign_over(self, signer: &LogSigner, next: &LogSigner) -> SignedCheckpoint {
        let note = signer.note_with(next, &self.text(signer));
        SignedCheckpoint { checkpoint: self, note: note.into() }
    }

    fn text(&self, signer: &LogSigner) -> String {
        let Self { size, root, epoch, control, time } = self;
        let origin = signer.verifier().origin();
        format!("{origin}\n{size}\n{root}\nepoch {epoch}\ncontrol {control}\ntime {}\n", time.0)
    }

    fn parse(text: &str, origin: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != origin {
            return None;
        }
        let checkpoint = Self {
            size: decimal(lines.next()?).filter(|size| *size <= MAX_SIZE)?,
            root: Hash::parse(lines.next()?)?,
            epoch: decimal(lines.next()?.strip_prefix("epoch ")?)?,
            control: Hash::parse(lines.next()?.strip_prefix("control ")?)?,
            time: Timestamp(decimal(lines.next()?.strip_prefix("time ")?)?),
        };
        lines.next().is_none().then_some(checkpoint)
    }
}

/// A checkpoint with its signature: made by a signer, or opened with a verifier, never otherwise. Cheap to
/// clone: all receipts of a batch share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: Arc<str>,
}

impl SignedCheckpoint {
    /// Opens the text of a checkpoint: checks the signature, then reads it. Refused: one that a key of the log signed for a
    /// size at which another of its keys signs.
    pub fn open(note: &str, verifier: &LogVerifier) -> Result<Self, NoteError> {
        let (text, key) = verifier.open(note)?;
        let checkpoint = Checkpoint::parse(text, verifier.origin().as_str()).ok_or(NoteError::Form)?;
        if !verifier.signs(key, checkpoint.size) {
            return Err(NoteError::Stretch);
        }
        Ok(Self { checkpoint, note: note.into() })
    }

    /// What it says.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Its text, signature included: what stands in the head row and what auditors keep.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The write that makes it the head of `log`.
    #[must_use]
    pub fn write(&self, log: u32) -> Write {
        Write::Put(head_key(log), self.note.as_bytes().to_vec())
    }
}

/// The key of the head row of a log: its value is the newest checkpoint's text.
#[must_use]
pub fn head_key(log: u32) -> Key {
    Writer::with_capacity(5).u8(rows::HEAD).u32(log).done()
}

/// A decimal number in its one form: no sign, no leading zero.
fn decimal(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::note::tests::signer;
    use super::*;

    pub(in crate::audit) fn checkpoint(size: u64, root: Hash) -> Checkpoint {
        Checkpoint { size, root, epoch: 7, control: Hash([2; 32]), time: Timestamp(1_790_000_000_000) }
    }

    #[test]
    fn a_checkpoint_has_the_text_that_the_format_says_and_opens_again() {
        let key = signer("vault.example/log/0", 1);
        let signed = checkpoint(12, Hash([1; 32])).sign(&key);
        let (text, signature) = signed.note().split_once("\n\n").unwrap();
        assert_eq!(
            text,
            "vault.example/log/0\n12\nAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\nepoch 7\n\
             control AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\ntime 1790000000000"
        );
        assert!(signature.starts_with("\u{2014} vault.example/log/0 "), "{signature}");
        assert_eq!(SignedCheckpoint::open(signed.note(), key.verifier()), Ok(signed.clone()));
        assert_eq!(signed.write(1), Write::Put(vec![b'h', 0, 0, 0, 1], signed.note().as_bytes().to_vec()));
    }

    #[test]
    fn what_is_signed_but_no_checkpoint_of_this_log_is_refused() {
        let key = signer("vault.example/log/0", 1);
        let good = checkpoint(12, Hash([1; 32])).sign(&key);
        let good = good.note().split_once("\n\n").unwrap().0.to_owned() + "\n";
        let open = |text: &str| SignedCheckpoint::open(&key.note(text), key.verifier()).map(|_| ());
        assert_eq!(open(&good), Ok(()));
        for (from, to) in [
            ("vault.example/log/0", "vault.example/log/1"),
            ("\n12\n", "\n012\n"),
            ("\n12\n", "\n+12\n"),
            ("\n12\n", "\n\n"),
            ("\n12\n", "\n72057594037927937\n"),
            ("\n12\n", "\n99999999999999999999\n"),
            ("AQE=", "AQE"),
            ("AQE=", "AQF="),
            ("epoch 7", "epoch  7"),
            ("epoch 7", "epoch -7"),
            ("epoch 7\n", ""),
            ("epoch 7\n", "epoch 7\nepoch 7\n"),
            ("time 1790000000000\n", "time 1790000000000\nmore\n"),
            ("time 1790000000000\n", "time 1790000000000"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            assert_eq!(open(&bad), Err(NoteError::Form), "{bad}");
        }
    }
}
