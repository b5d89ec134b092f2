//! Signed notes (C2SP `signed-note`): a text, an empty line, and signature lines, each by a named Ed25519
//! key.
//!
//! Signing is open to this folder only, and every signed text begins with the log's origin: the log's key
//! signs nothing but checkpoints. A note is refused as a whole if it is over-long, holds a control character,
//! lacks a signature of the key asked for, or has one of that key that does not hold. Signatures of others
//! are left alone, so that witnesses can add theirs.
//!
//! A log whose key was handed over has several keys, each for its own stretch of the log: see
//! [`handover`](super::handover).

use std::fmt;
use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::tree::Hash;
use crate::secret::Secret32;

/// The longest note, in bytes: a checkpoint of ours has about 400, each witness adds about 150.
pub const MAX_NOTE: usize = 16 * 1024;

/// The longest origin, in bytes: it stands in every checkpoint twice.
pub const MAX_ORIGIN: usize = 128;

/// The algorithm byte of Ed25519 keys.
const ED25519_KEY: u8 = 1;

/// How a signature line begins: an em dash and a space.
const SIGNATURE: &str = "\u{2014} ";

/// Why a note, an origin or a key's text is refused. It never carries the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteError {
    /// Longer than [`MAX_NOTE`] bytes.
    TooLong,
    /// Not of the form that the specification gives.
    Form,
    /// An origin that is empty, over-long, or holds anything but visible ASCII without `+`.
    Origin,
    /// A verifier key that is none, or whose hash does not match.
    Key,
    /// No signature of the key asked for.
    Unsigned,
    /// A signature of the key asked for that does not hold.
    Signature,
    /// Signed by one of the log's keys for a size at which another one signs: before it was handed the log, or after it had
    /// handed it over.
    Stretch,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the note is too long",
            Self::Form => "the note is damaged or is none of this log's",
            Self::Origin => "an origin has 1 to 128 visible ASCII characters and no +",
            Self::Key => "the verifier key is damaged or of another kind than Ed25519",
            Self::Unsigned => "the note is not signed by the log's key",
            Self::Signature => "the signature of the log's key does not hold",
            Self::Stretch => "signed by a key of the log that does not sign at this size: it was handed over",
        })
    }
}

impl std::error::Error for NoteError {}

/// The name of a log for the world: a URL without its scheme, such as `vault.example.com/log/0`. It is the
/// first line of every checkpoint and the name of the key that signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(Arc<str>);

impl Origin {
    /// Takes 1 to [`MAX_ORIGIN`] visible ASCII characters, none of them `+`.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let fits = (1..=MAX_ORIGIN).contains(&text.len());
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'+');
        if fits && plain { Ok(Self(text.into())) } else { Err(NoteError::Origin) }
    }

    /// The origin as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Signs the checkpoints of one log. Secret: no Debug, no Clone, no way to its key.
///
/// The expanded key lies in one place on the heap. It is not wiped by its own type (`ring` does not), but by
/// the allocator of a process that wipes what it frees.
pub struct LogSigner {
    pair: Box<Ed25519KeyPair>,
    verifier: LogVerifier,
}

impl LogSigner {
    /// The signer of the log `origin` from the 32-byte seed of its key (RFC 8032, 5.1.5).
    pub fn from_seed(origin: Origin, seed: &Secret32) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose_bytes()).map_err(|_| NoteError::Key)?;
        let key = pair.public_key().as_ref().try_into().map_err(|_| NoteError::Key)?;
        let key = VerifierKey::of(&origin, key, None);
        Ok(Self { pair: Box::new(pair), verifier: LogVerifier { origin, keys: vec![key] } })
    }

    /// What checks this signer's notes: public.
    #[must_use]
    pub fn verifier(&self) -> &LogVerifier {
        &self.verifier
    }

    /// The note of `text`, which ends in a newline.
    pub(super) fn note(&self, text: &str) -> String {
        format!("{text}\n{}", self.line(text))
    }

    /// The same, signed by the key that hands the log over and by the one that takes it.
    pub(super) fn note_with(&self, next: &Self, text: &str) -> String {
        format!("{text}\n{}{}", self.line(text), next.line(text))
    }

    fn line(&self, text: &str) -> String {
        let signature = self.pair.sign(text.as_bytes());
        let id = self.verifier.keys.last().map_or([0; 4], |key| key.id);
        let named = [id.as_slice(), signature.as_ref()].concat();
        format!("{SIGNATURE}{} {}\n", self.verifier.origin, BASE64.encode(&named))
    }
}

/// Checks the checkpoints of one log, by its one key or by all that it has had. Its text is the `vkey` of C2SP, of the
/// newest key: `origin+hash+base64(0x01 || public key)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogVerifier {
    origin: Origin,
    /// In the order in which they sign; at least one.
    keys: Vec<VerifierKey>,
}

/// One public key of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct VerifierKey {
    key: [u8; 32],
    id: [u8; 4],
    /// The size of the log at which it was handed over to this key, and its root then; none: nothing is known of a key
    /// before it.
    began: Option<Began>,
}

/// Where a key of a log began to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Began {
    /// How many entries the log had then: the last of them is the hand-over.
    pub(super) size: u64,
    /// The root of the tree over them, which both keys signed.
    pub(super) root: Hash,
}

impl VerifierKey {
    fn of(origin: &Origin, key: [u8; 32], began: Option<Began>) -> Self {
        let named = [origin.as_str().as_bytes(), b"\n", &[ED25519_KEY], &key].concat();
        let [a, b, c, d, ..] = Hash::of(&named).0;
        Self { key, id: [a, b, c, d], began }
    }

    fn text(&self, origin: &Origin) -> String {
        let key = BASE64.encode(&[&[ED25519_KEY], self.key.as_slice()].concat());
        format!("{origin}+{}+{key}", HEXLOWER.encode(&self.id))
    }
}

impl LogVerifier {
    /// Reads the text form. Refused: another algorithm, another length, a hash that is not that of name and
    /// key.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut fields = text.splitn(3, '+');
        let (Some(origin), Some(id), Some(key)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(NoteError::Key);
        };
        let key = BASE64.decode(key.as_bytes()).map_err(|_| NoteError::Key)?;
        let key = match key.split_first() {
            Some((&ED25519_KEY, key)) => key.try_into().map_err(|_| NoteError::Key)?,
            _ => return Err(NoteError::Key),
        };
        let origin = Origin::parse(origin)?;
        let key = VerifierKey::of(&origin, key, None);
        if HEXLOWER.encode(&key.id) == id {
            Ok(Self { origin, keys: vec![key] })
        } else {
            Err(NoteError::Key)
        }
    }

    /// The log that this checks.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The text of each of its keys, in the order in which they sign.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.text(&self.origin)).collect()
    }

    /// The same, with a key more to which the log was handed over.
    #[must_use]
    pub(super) fn handed_to(&self, next: &Self, began: Began) -> Self {
        let mut keys = self.keys.clone();
        keys.extend(next.keys.last().map(|key| VerifierKey { began: Some(began), ..key.clone() }));
        Self { origin: self.origin.clone(), keys }
    }

    /// Where its keys but the first began, each with its text.
    pub(super) fn hand_overs(&self) -> impl Iterator<Item = (Began, String)> {
        self.keys.iter().filter_map(|key| Some((key.began?, key.text(&self.origin))))
    }

    /// Whether the key at this place of the list signs a log of this size. At the size of a hand-over both do.
    pub(super) fn signs(&self, place: usize, size: u64) -> bool {
        let began = |place: usize| self.keys.get(place).and_then(|key| key.began).map(|began| began.size);
        began(place).is_none_or(|began| began <= size)
            && began(place.saturating_add(1)).is_none_or(|ended| size <= ended)
    }

    /// The text of `note`, its final newline included, if a key of the log signed it, and the place of that key: the newest
    /// one's, where several did.
    pub(super) fn open<'n>(&self, note: &'n str) -> Result<(&'n str, usize), NoteError> {
        if note.len() > MAX_NOTE {
            return Err(NoteError::TooLong);
        }
        if note.bytes().any(|byte| byte.is_ascii_control() && byte != b'\n') {
            return Err(NoteError::Form);
        }
        // The last empty line parts text from signatures; the text keeps its own newline.
        let border = note.rfind("\n\n").ok_or(NoteError::Form)?;
        let (text, signatures) = note.split_at_checked(border + 1).ok_or(NoteError::Form)?;
        let signatures =
            signatures.strip_prefix('\n').and_then(|s| s.strip_suffix('\n')).ok_or(NoteError::Form)?;
        let mut signed = None;
        for line in signatures.split('\n') {
            signed = signed.max(self.signed(text, line)?);
        }
        signed.map(|place| (text, place)).ok_or(NoteError::Unsigned)
    }

    /// Which key's signature `line` is. One that does not hold is an error, one of another key is not.
    fn signed(&self, text: &str, line: &str) -> Result<Option<usize>, NoteError> {
        let (name, signature) =
            line.strip_prefix(SIGNATURE).and_then(|rest| rest.split_once(' ')).ok_or(NoteError::Form)?;
        let signature = BASE64.decode(signature.as_bytes()).map_err(|_| NoteError::Form)?;
        let (id, signature) = signature.split_at_checked(4).ok_or(NoteError::Form)?;
        if name.is_empty() || signature.is_empty() {
            return Err(NoteError::Form);
        }
        let ours = |(_, key): &(usize, &VerifierKey)| name == self.origin.as_str() && id == key.id;
        let Some((place, key)) = self.keys.iter().enumerate().find(ours) else { return Ok(None) };
        let key = UnparsedPublicKey::new(&ED25519, key.key);
        key.verify(text.as_bytes(), signature).map(|()| Some(place)).map_err(|_| NoteError::Signature)
    }
}

impl fmt::Display for LogVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.keys.last().map(|key| key.text(&self.origin)).unwrap_or_default())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::audit) fn signer(origin: &str, seed: u8) -> LogSigner {
        let seed = Secret32::filled_by(|bytes| bytes.fill(seed));
        LogSigner::from_seed(Origin::parse(origin).unwrap(), &seed).unwrap()
    }

    // The published example of Go's golang.org/x/mod/sumdb/note, which C2SP signed-note describes.
    const SEED: &str = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n";
    const LINE: &str = "\u{2014} PeterNeumann \
        x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    fn peter() -> LogSigner {
        let mut key = BASE64.decode(SEED.as_bytes()).unwrap();
        assert_eq!(key.remove(0), ED25519_KEY);
        LogSigner::from_seed(Origin::parse("PeterNeumann").unwrap(), &Secret32::take(&mut key).unwrap())
            .unwrap()
    }

    #[test]
    fn the_published_note_comes_out_and_opens() {
        let note = format!("{TEXT}\n{LINE}");
        assert_eq!(peter().note(TEXT), note);
        assert_eq!(peter().verifier().to_string(), VKEY);
        assert_eq!(LogVerifier::parse(VKEY).unwrap().open(&note), Ok((TEXT, 0)));
    }

    #[test]
    fn any_byte_changed_in_a_note_or_key_and_it_is_refused() {
        let verifier = LogVerifier::parse(VKEY).unwrap();
        let note = format!("{TEXT}\n{LINE}");
        for at in 0..note.len() {
            let mut changed = note.clone().into_bytes();
            changed[at] ^= 1;
            if let Ok(changed) = String::from_utf8(changed) {
                assert!(verifier.open(&changed).is_err(), "{at}");
            }
            if let Some(cut) = note.get(..at) {
                assert!(verifier.open(cut).is_err(), "{at}");
            }
        }
        for at in 0..VKEY.len() {
            let mut changed = VKEY.to_owned().into_bytes();
            changed[at] ^= 1;
            let changed = String::from_utf8(changed).unwrap();
            assert!(LogVerifier::parse(&changed).is_err(), "{changed}");
            assert!(LogVerifier::parse(&VKEY[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_note_is_opened_by_the_key_it_names_and_strangers_are_left_alone() {
        let verifier = LogVerifier::parse(VKEY).unwrap();
        let stranger = signer("witness.example", 7).note(TEXT);
        let stranger_line = stranger.strip_prefix(&format!("{TEXT}\n")).unwrap();
        let forged = LINE.replace("x08go/ZJ", "x08go/ZK");
        for (note, expected) in [
            (format!("{TEXT}\n{LINE}{stranger_line}"), Ok((TEXT, 0))),
            (format!("{TEXT}\n{stranger_line}{LINE}"), Ok((TEXT, 0))),
            (format!("{TEXT}\n{stranger_line}"), Err(NoteError::Unsigned)),
            // Another name with the same key, and the same name with another key: both are strangers.
            (format!("{TEXT}\n{}", LINE.replace("Peter", "Paul")), Err(NoteError::Unsigned)),
            (signer("PeterNeumann", 1).note(TEXT), Err(NoteError::Unsigned)),
            (format!("{TEXT}\n{forged}"), Err(NoteError::Signature)),
            (format!("{TEXT}\n{LINE}{forged}"), Err(NoteError::Signature)),
            (format!("{TEXT}\n{LINE}\u{2014} x\n"), Err(NoteError::Form)),
            (format!("{TEXT}\n{LINE}\u{2014} x AAAA\n"), Err(NoteError::Form)),
            (format!("{TEXT}\n{LINE}stray\n"), Err(NoteError::Form)),
            (format!("{TEXT}\r\n{LINE}"), Err(NoteError::Form)),
            (peter().note("signed, but with a\ttab\n"), Err(NoteError::Form)),
            (format!("{TEXT}{LINE}"), Err(NoteError::Form)),
            (String::new(), Err(NoteError::Form)),
            ("\n\n".into(), Err(NoteError::Form)),
            ("x".repeat(MAX_NOTE + 1), Err(NoteError::TooLong)),
        ] {
            assert_eq!(verifier.open(&note), expected, "{note}");
        }
    }

    #[test]
    fn an_origin_is_short_and_visible() {
        for good in ["a", "vault.example.com/log/0", &"x".repeat(MAX_ORIGIN)] {
            assert!(Origin::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a+b", "a\nb", "\u{e9}", &"x".repeat(MAX_ORIGIN + 1)] {
            assert_eq!(Origin::parse(bad), Err(NoteError::Origin), "{bad}");
        }
    }
}
