//! How a log passes from one signing key to the next, and how whoever knows one of its keys comes to trust the others.
//!
//! The log keeps its number, its origin and its tree. The entry [`LogHandedOver`](ControlChange::LogHandedOver) names the
//! old verifier key and the new one by hash; it is the last under a checkpoint that both keys signed; from the next batch
//! on the new one signs alone. So the first key vouches for all that came after it, and the newest for all before: either
//! is enough, with the hand-overs between, which anybody may carry. Refused: a key that was not handed the log by the one
//! before it, and a checkpoint by a key for a size at which another one signs.
//!
//! What no hand-over heals: who holds an old key can go on from before its hand-over as if there had been none, for those
//! who know that key alone. After a theft, give auditors the newest key.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::LogError;
use super::checkpoint::SignedCheckpoint;
use super::entry::{AuditEntry, ControlChange, Event, MAX_ENTRY};
use super::note::{Began, LogVerifier, NoteError};
use super::receipt::ProofError;
use super::tree::{self, Hash, TreeError, entry_key};
use crate::codec::Writer;
use crate::rows;
use crate::store::{Key, Store};

/// The most hand-overs of one log: with them all, a proof stays below a megabyte. One a month is twenty years.
pub const MAX_HAND_OVERS: usize = 256;

/// One hand-over, to be carried to whoever checks a log offline. What it says holds only once
/// [`LogVerifier::follow`] says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    /// The verifier key that signed until here.
    pub from: String,
    /// The verifier key that signs from here on.
    pub to: String,
    /// The entry's bytes, base64.
    entry: String,
    /// The hashes beside the way from the entry up to the root.
    path: Vec<Hash>,
    /// The checkpoint that both signed.
    checkpoint: String,
}

impl HandOver {
    /// One that came over the wire, or as parts.
    #[must_use]
    pub fn of(from: String, to: String, entry: &[u8], path: Vec<Hash>, checkpoint: String) -> Self {
        Self { from, to, entry: BASE64.encode(entry), path, checkpoint }
    }

    /// The entry's bytes; none if its text is no base64.
    #[must_use]
    pub fn entry(&self) -> Vec<u8> {
        BASE64.decode(self.entry.as_bytes()).unwrap_or_default()
    }

    /// The hashes beside the way from the entry up to the root.
    #[must_use]
    pub fn path(&self) -> &[Hash] {
        &self.path
    }

    /// The text of the checkpoint that both keys signed.
    #[must_use]
    pub fn checkpoint(&self) -> &str {
        &self.checkpoint
    }

    /// It as a portable text: one line of JSON.
    #[must_use]
    pub fn text(&self) -> String {
        // Texts and hashes only: serializing these cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads that text. Nothing in it is checked yet.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        if text.len() > super::receipt::MAX_TEXT {
            return Err(ProofError::Form);
        }
        serde_json::from_str(text).map_err(|_| ProofError::Form)
    }

    /// Whether one key hands the log to the other here: both signed the checkpoint, and its last entry names both.
    fn check(&self) -> Result<(LogVerifier, LogVerifier, Began), ProofError> {
        let (from, to) = (LogVerifier::parse(&self.from)?, LogVerifier::parse(&self.to)?);
        let head = *SignedCheckpoint::open(&self.checkpoint, &from)?.checkpoint();
        SignedCheckpoint::open(&self.checkpoint, &to)?;
        let bytes = BASE64.decode(self.entry.as_bytes()).map_err(|_| ProofError::Form)?;
        let last = head.size.checked_sub(1).ok_or(ProofError::Beyond)?;
        if bytes.len() > MAX_ENTRY {
            return Err(ProofError::Form);
        }
        if !tree::includes(head.root, head.size, last, tree::leaf_hash(&bytes), &self.path) {
            return Err(ProofError::Path);
        }
        let entry = AuditEntry::decode(&bytes).map_err(|_| ProofError::Entry)?;
        let named = named_in(&entry) == Some((hash_of(&self.from), hash_of(&self.to)));
        let began = Began { size: head.size, root: head.root };
        if named { Ok((from, to, began)) } else { Err(ProofError::HandOver) }
    }
}

/// The verifier keys that an entry names, if it is a hand-over: old and new.
pub(super) fn named_in(entry: &AuditEntry) -> Option<(Hash, Hash)> {
    match &entry.event {
        Event::ControlChanged { change: ControlChange::LogHandedOver { from, to }, .. } => Some((*from, *to)),
        _ => None,
    }
}

/// How an entry names a verifier key: SHA-256 of its text.
#[must_use]
pub fn hash_of(verifier: &str) -> Hash {
    Hash::of(verifier.as_bytes())
}

impl LogVerifier {
    /// The keys of the log from its first to its newest, as these hand-overs join them, if this verifier's newest key is
    /// one of them. Without hand-overs it is itself.
    ///
    /// Errors: of the hand-over that does not hold; [`NoteError::Unsigned`] where this key is none of theirs.
    pub fn follow(&self, hand_overs: &[HandOver]) -> Result<Self, ProofError> {
        if hand_overs.len() > MAX_HAND_OVERS {
            return Err(ProofError::HandOver);
        }
        let mut chain: Option<Self> = None;
        for hand_over in hand_overs {
            let (from, to, began) = hand_over.check()?;
            let before = chain.unwrap_or_else(|| from.clone());
            let joins = before.to_string() == from.to_string();
            let later = before.hand_overs().last().is_none_or(|(last, _)| last.size < began.size);
            if !joins || !later {
                return Err(ProofError::HandOver);
            }
            chain = Some(before.handed_to(&to, began));
        }
        let Some(chain) = chain else { return Ok(self.clone()) };
        let known = self.to_string();
        if chain.texts().contains(&known) { Ok(chain) } else { Err(NoteError::Unsigned.into()) }
    }
}

impl LogVerifier {
    /// The keys with the next one, which takes the log over at this head.
    #[must_use]
    pub(crate) fn handed_over(&self, next: &Self, head: &SignedCheckpoint) -> Self {
        let head = head.checkpoint();
        self.handed_to(next, Began { size: head.size, root: head.root })
    }
}

/// The key of a hand-over's row, counted from 0.
#[must_use]
pub fn hand_over_key(log: u32, which: u32) -> Key {
    Writer::with_capacity(9).u8(rows::HANDOVER).u32(log).u32(which).done()
}

/// The keys of a log from the texts that Control has of them, oldest first, and the checkpoints at which they took over.
/// Refused: a hand-over whose row is missing or is not signed by both.
pub async fn verifier(store: &dyn Store, log: u32, texts: &[String]) -> Result<LogVerifier, LogError> {
    let Some((first, later)) = texts.split_first() else { return Err(NoteError::Key.into()) };
    let mut chain = LogVerifier::parse(first)?;
    for (note, text) in notes(store, log, later.len()).await?.into_iter().zip(later) {
        let next = LogVerifier::parse(text)?;
        let head = *SignedCheckpoint::open(&note, &chain)?.checkpoint();
        SignedCheckpoint::open(&note, &next)?;
        chain = chain.handed_to(&next, Began { size: head.size, root: head.root });
    }
    Ok(chain)
}

/// Every hand-over of a log, oldest first, for those who check it offline.
pub async fn hand_overs(
    store: &dyn Store,
    log: u32,
    verifier: &LogVerifier,
) -> Result<Vec<HandOver>, LogError> {
    let texts = verifier.texts();
    let notes = notes(store, log, texts.len().saturating_sub(1)).await?;
    let mut all = Vec::with_capacity(notes.len());
    for (note, keys) in notes.into_iter().zip(texts.windows(2)) {
        let [from, to] = keys else { continue };
        let size = SignedCheckpoint::open(&note, verifier)?.checkpoint().size;
        let last = size.checked_sub(1).ok_or(TreeError::Range)?;
        let path = tree::inclusion(store, log, last, size).await?;
        let entry = store.get(&[entry_key(log, last)]).await?.into_iter().next().flatten();
        let entry = entry.ok_or(TreeError::MissingEntry(last))?;
        all.push(HandOver::of(from.clone(), to.clone(), &entry, path, note));
    }
    Ok(all)
}

async fn notes(store: &dyn Store, log: u32, count: usize) -> Result<Vec<String>, LogError> {
    let keys: Vec<Key> = (0..).map(|which| hand_over_key(log, which)).take(count).collect();
    let rows = store.get(&keys).await?;
    let note = |row: Option<Vec<u8>>| String::from_utf8(row.unwrap_or_default()).map_err(|_| NoteError::Form);
    Ok(rows.into_iter().map(note).collect::<Result<_, _>>()?)
}

#[cfg(test)]
pub(super) mod tests {
    use pollster::block_on;

    use super::super::checkpoint::tests::checkpoint;
    use super::super::entry::Who;
    use super::super::entry::tests::disclosed;
    use super::super::note::LogSigner;
    use super::super::note::tests::signer;
    use super::super::receipt::{Proof, Receipt, prove};
    use super::super::shelf::Shelf;
    use super::super::tests::ORIGIN;
    use super::super::tree::{Edge, leaf_hash};
    use super::super::verify::{Fault, Report, export, verify_export, verify_store};
    use super::*;
    use crate::time::Timestamp;

    fn entry_of(from: &LogSigner, to: &LogSigner) -> AuditEntry {
        let change = ControlChange::LogHandedOver {
            from: hash_of(&from.verifier().to_string()),
            to: hash_of(&to.verifier().to_string()),
        };
        AuditEntry {
            at: Timestamp(1_000),
            epoch: 1,
            principal: Who::Vault,
            merchant: None,
            channel: None,
            event: Event::ControlChanged { version: 1, hash: Hash([1; 32]), change },
        }
    }

    /// A log that is written key by key: `length` entries of each, the last of all but the last key a hand-over.
    struct Written {
        shelf: Shelf,
        edge: Edge,
        heads: Vec<SignedCheckpoint>,
        keys: Vec<LogVerifier>,
    }

    impl Written {
        fn append(&mut self, entry: &AuditEntry) {
            let bytes = entry.encode();
            let (next, tiles) = self.edge.with(&[leaf_hash(&bytes)]);
            self.shelf.put(entry_key(0, self.edge.size()), bytes);
            self.shelf.write(&tiles);
            self.edge = next;
        }

        fn texts(&self) -> Vec<String> {
            self.keys.iter().map(ToString::to_string).collect()
        }

        fn chain(&self) -> LogVerifier {
            block_on(verifier(&self.shelf, 0, &self.texts())).unwrap()
        }

        fn hand_overs(&self) -> Vec<HandOver> {
            block_on(hand_overs(&self.shelf, 0, &self.chain())).unwrap()
        }
    }

    fn written(length: u64, seeds: &[u8]) -> Written {
        let (shelf, edge) = (Shelf::default(), Edge::empty(0));
        let mut log = Written { shelf, edge, heads: Vec::new(), keys: Vec::new() };
        for (place, seed) in (0_u32..).zip(seeds) {
            let own = signer(ORIGIN, *seed);
            log.keys.push(own.verifier().clone());
            let next = seeds.get(usize::try_from(place).unwrap() + 1).map(|seed| signer(ORIGIN, *seed));
            for _ in 1..length {
                log.append(&disclosed(1_000, 1));
            }
            match &next {
                Some(next) => log.append(&entry_of(&own, next)),
                None => log.append(&disclosed(1_000, 1)),
            }
            let head = checkpoint(log.edge.size(), log.edge.root());
            let head = match &next {
                Some(next) => head.sign_over(&own, next),
                None => head.sign(&own),
            };
            if next.is_some() {
                log.shelf.put(hand_over_key(0, place), head.note().as_bytes().to_vec());
            }
            log.shelf.write(&[head.write(0)]);
            log.heads.push(head);
        }
        log
    }

    #[test]
    fn any_key_of_a_log_leads_to_all_of_them() {
        let log = written(300, &[1, 2, 3]);
        let hand_overs: Vec<HandOver> =
            log.hand_overs().iter().map(|one| HandOver::parse(&one.text()).unwrap()).collect();
        for known in &log.keys {
            let chain = known.follow(&hand_overs).unwrap();
            assert_eq!(chain, log.chain());
            for (place, head) in log.heads.iter().enumerate() {
                assert_eq!(SignedCheckpoint::open(head.note(), &chain).as_ref(), Ok(head), "{place}");
                let index = head.checkpoint().size - 1;
                let proof = block_on(prove(&log.shelf, 0, index, head)).unwrap().unwrap();
                let receipt =
                    Receipt { log: 0, index, leaf: leaf_hash(proof.entry()), checkpoint: head.clone() };
                // A proof that carries the hand-overs needs one of the keys and nothing else.
                let carried = Proof::parse(&proof.with_hand_overs(hand_overs.clone()).text()).unwrap();
                assert!(carried.check(known).is_ok());
                let receipt = Receipt::open(&receipt.text(), &carried.keys(known).unwrap()).unwrap();
                assert!(carried.check_receipt(&receipt, known).is_ok());
            }
        }
        let stranger = signer(ORIGIN, 9).verifier().clone();
        assert_eq!(stranger.follow(&hand_overs), Err(ProofError::Note(NoteError::Unsigned)));
        assert_eq!(stranger.follow(&[]), Ok(stranger));
    }

    #[test]
    fn a_key_that_was_not_handed_the_log_by_the_one_before_is_refused() {
        let log = written(5, &[1, 2, 3]);
        let (good, first) = (log.hand_overs(), &log.keys[0]);
        let thief = signer(ORIGIN, 9);
        let told = |change: &dyn Fn(&mut Vec<HandOver>)| {
            let mut changed = good.clone();
            change(&mut changed);
            first.follow(&changed).unwrap_err()
        };
        // The entry and a checkpoint over it, signed by the thief's key alone, or by one that is named but did not sign.
        let forged = |signed: &dyn Fn(super::super::checkpoint::Checkpoint) -> SignedCheckpoint| {
            let entry = entry_of(&signer(ORIGIN, 1), &thief).encode();
            let (edge, _) = Edge::empty(0).with(&[leaf_hash(&entry)]);
            let head = signed(checkpoint(1, edge.root()));
            let (from, to) = (first.to_string(), thief.verifier().to_string());
            HandOver::of(from, to, &entry, Vec::new(), head.note().into())
        };
        let unsigned = ProofError::Note(NoteError::Unsigned);
        assert_eq!(told(&|h| *h = vec![forged(&|c| c.sign(&thief))]), unsigned);
        assert_eq!(told(&|h| *h = vec![forged(&|c| c.sign(&signer(ORIGIN, 1)))]), unsigned);
        assert_eq!(told(&|h| h[1].to = thief.verifier().to_string()), unsigned);
        assert_eq!(told(&|h| h[0].from = thief.verifier().to_string()), unsigned);
        assert_eq!(told(&|h| h.swap(0, 1)), ProofError::HandOver);
        assert_eq!(told(&|h| h[1] = h[0].clone()), ProofError::HandOver);
        assert_eq!(told(&|h| h[0].entry = h[1].entry.clone()), ProofError::Path);
        assert_eq!(told(&|h| h[0].path.clear()), ProofError::Path);
        assert_eq!(told(&|h| h[0].entry = "?".into()), ProofError::Form);
        assert_eq!(told(&|h| *h = vec![h[0].clone(); MAX_HAND_OVERS + 1]), ProofError::HandOver);
        // Both signed it, but the entry under it is another one.
        let other = disclosed(1, 1).encode();
        let (edge, _) = Edge::empty(0).with(&[leaf_hash(&other)]);
        let head = checkpoint(1, edge.root()).sign_over(&signer(ORIGIN, 1), &thief);
        let (from, to) = (first.to_string(), thief.verifier().to_string());
        let empty = HandOver::of(from, to, &other, Vec::new(), head.note().into());
        assert_eq!(told(&|h| *h = vec![empty.clone()]), ProofError::HandOver);
    }

    #[test]
    fn no_key_signs_where_another_one_does() {
        let log = written(5, &[1, 2, 3]);
        let chain = log.chain();
        let [one, two, three] = [1, 2, 3].map(|seed| signer(ORIGIN, seed));
        let stretch = Err(NoteError::Stretch);
        for (size, key, told) in [
            (1, &one, Ok(())),
            (5, &one, Ok(())),
            (6, &one, stretch),
            (5_000, &one, stretch),
            (4, &two, stretch),
            (5, &two, Ok(())),
            (10, &two, Ok(())),
            (11, &two, stretch),
            (9, &three, stretch),
            (10, &three, Ok(())),
            (5_000, &three, Ok(())),
        ] {
            let head = checkpoint(size, Hash([7; 32])).sign(key);
            assert_eq!(SignedCheckpoint::open(head.note(), &chain).map(|_| ()), told, "{size}");
        }
    }

    fn walked(log: &Written, verifier: &LogVerifier) -> Report {
        block_on(verify_store(&log.shelf, 0, verifier, &mut |_, _| {})).unwrap()
    }

    fn read(text: &str, verifier: &LogVerifier) -> Report {
        verify_export(&mut text.as_bytes(), verifier, &mut |_, _| {}).unwrap()
    }

    fn exported(log: &Written) -> String {
        let mut out = Vec::new();
        block_on(export(&log.shelf, 0, &log.chain(), &mut out, &mut |_, _| {})).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_log_with_hand_overs_is_whole_from_its_first_key_or_its_newest() {
        let log = written(300, &[1, 2, 3]);
        assert_eq!((walked(&log, &log.chain()).fault, walked(&log, &log.chain()).entries), (None, 900));
        let text = exported(&log);
        for known in &log.keys {
            assert_eq!(read(&text, known).fault, None);
        }
        assert_eq!(read(&text, signer(ORIGIN, 9).verifier()).fault, Some(Fault::Signature));
    }

    #[test]
    fn an_old_key_that_goes_on_after_its_hand_over_is_found_out() {
        let mut log = written(300, &[1, 2]);
        let text = exported(&log);
        // With the hand-over left out of the header, the entry that names it is still there.
        let header = text.lines().next().unwrap();
        let mut bare: serde_json::Value = serde_json::from_str(header).unwrap();
        bare.as_object_mut().unwrap().remove("hand_overs");
        bare["vkey"] = log.keys[0].to_string().into();
        let head = checkpoint(600, log.edge.root()).sign(&signer(ORIGIN, 1));
        bare["checkpoint"] = head.note().into();
        let forked = text.replacen(header, &bare.to_string(), 1);
        assert_eq!(read(&forked, &log.keys[0]).fault, Some(Fault::HandOver { index: 299 }));
        assert_eq!(read(&forked, &log.keys[1]).fault, Some(Fault::Signature));
        // In the store the old key's signature is refused at once.
        log.shelf.write(&[head.write(0)]);
        assert_eq!(walked(&log, &log.chain()).fault, Some(Fault::Signature));
        // And a hand-over of another log's tree fits no walk, though both keys signed it.
        let mut other = written(299, &[1, 2]);
        other.append(&disclosed(1_000, 1));
        for one in [&mut log, &mut other] {
            one.shelf.write(&[checkpoint(600, one.edge.root()).sign(&signer(ORIGIN, 2)).write(0)]);
        }
        let foreign = other.shelf.value(&hand_over_key(0, 0)).unwrap();
        log.shelf.put(hand_over_key(0, 0), foreign);
        assert_eq!(walked(&log, &log.chain()).fault, Some(Fault::HandOver { index: 298 }));
    }

    #[test]
    fn a_hand_over_whose_row_is_gone_or_forged_opens_no_log() {
        let log = written(5, &[1, 2]);
        let (texts, row) = (log.texts(), log.shelf.value(&hand_over_key(0, 0)).unwrap());
        let opened = || block_on(verifier(&log.shelf, 0, &texts)).map(|_| ());
        assert_eq!(opened(), Ok(()));
        let alone = checkpoint(5, log.edge.root()).sign(&signer(ORIGIN, 2));
        for (bytes, told) in [
            (Vec::new(), NoteError::Form),
            (vec![0xff], NoteError::Form),
            (alone.note().as_bytes().to_vec(), NoteError::Unsigned),
            (log.heads[1].note().as_bytes().to_vec(), NoteError::Unsigned),
        ] {
            log.shelf.put(hand_over_key(0, 0), bytes);
            assert_eq!(opened(), Err(LogError::Head(told)));
        }
        log.shelf.remove(&hand_over_key(0, 0));
        assert_eq!(opened(), Err(LogError::Head(NoteError::Form)));
        log.shelf.put(hand_over_key(0, 0), row);
        assert_eq!(opened(), Ok(()));
        let empty = block_on(verifier(&log.shelf, 0, &[]));
        assert_eq!(empty, Err(LogError::Head(NoteError::Key)));
    }
}
