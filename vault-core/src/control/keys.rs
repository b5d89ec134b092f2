//! The keys of Control: each version's line, its life, and how a new one takes the place of the one before.
//!
//! A key under another is there as its wrap alone. A wrap is made anew under another parent without the key being changed:
//! that is how the upper levels rotate, whatever lies sealed below. States are those of NIST SP 800-57 Part 1 Rev. 5.

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use super::Control;
use crate::audit::entry::ControlChange;
use crate::audit::handover::MAX_HAND_OVERS;
use crate::audit::tree::Hash;
use crate::chain::MAX_LINKS;
use crate::envelope::{
    self, Adm, Ctl, Dek, Fpk, Fpr, Idm, Idx, Kek, KeyId, KeyKind, KeyMaterial, KeyName, Log, Rcv, Ref, Root,
    Trk, Wrapped, Wraps,
};
use crate::error::Error;
use crate::name::MerchantName;
use crate::sealed::OVERLAP_DAYS;
use crate::time::Timestamp;
use crate::vaultless::SLOTS;
use crate::words::{CompromiseReason, KeyState};

/// A key's line in Control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Its number.
    pub id: KeyId,
    /// Its kind.
    pub kind: KeyKind,
    /// Whose; none for the vault's own.
    pub merchant: Option<MerchantName>,
    /// The how many-eth of its kind for that merchant, from 1.
    pub version: u32,
    /// Where it is in its life.
    pub state: KeyState,
    /// When it was made.
    pub made_at: Timestamp,
    /// Under which key it is wrapped; none if the custodian holds it.
    pub under: Option<KeyId>,
    /// The wrap, base64; empty if the custodian holds it, or once it is destroyed.
    pub wrapped: String,
    /// The key check value, hexadecimal.
    pub check: String,
    /// When all rows had been counted and none was under it; none while some may be, and of keys that no rows are under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_at: Option<Timestamp>,
    /// When it left the active state; none while it is active, and of a key that did before this was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deactivated_at: Option<Timestamp>,
    /// In which epoch it was made; none if it was before this was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_in: Option<u64>,
    /// Since when, and why, somebody else may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compromised: Option<Compromised>,
    /// Of an erasure epoch key: the epoch in which it was destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed_in: Option<u64>,
}

/// What is known of a compromise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compromised {
    /// When an operator said so.
    pub at: Timestamp,
    /// From which epoch on nothing new is protected by it.
    pub epoch: u64,
    /// Why.
    pub reason: CompromiseReason,
    /// SHA-256 of the sealed note, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Hash>,
}

impl KeyRecord {
    /// The name that its wrap is bound to.
    #[must_use]
    pub fn name(&self) -> KeyName<'_> {
        let merchant = self.merchant.as_ref().map_or("", MerchantName::as_str);
        KeyName { merchant, id: self.id, version: self.version }
    }

    /// Unwraps it under its parent.
    pub fn unwrap<K: KeyMaterial, P: Wraps<K>>(&self, under: &P) -> Result<K, Error> {
        let bytes = BASE64.decode(self.wrapped.as_bytes()).map_err(|_| Error::Custody)?;
        let check = HEXLOWER.decode(self.check.as_bytes()).ok().and_then(|c| c.try_into().ok());
        let wrapped = Wrapped { bytes, check: check.ok_or(Error::Custody)? };
        envelope::unwrap(&wrapped, &self.name(), under).map_err(|_| Error::Custody)
    }

    /// Its wrap, as the header row has the one of CTL.
    pub fn wrap(&self) -> Result<Wrapped, Error> {
        let bytes = BASE64.decode(self.wrapped.as_bytes()).map_err(|_| Error::internal())?;
        let check = HEXLOWER.decode(self.check.as_bytes()).map_err(|_| Error::internal())?;
        Ok(Wrapped { bytes, check: check.try_into().map_err(|_| Error::internal())? })
    }

    /// Wraps the same key under another parent.
    fn rewrap<K: KeyMaterial, P: Wraps<K>>(&mut self, from: &P, (to, id): (&P, KeyId)) -> Result<(), Error> {
        let key: K = self.unwrap(from)?;
        let wrapped = envelope::wrap(&key, &self.name(), to)?;
        self.wrapped = BASE64.encode(&wrapped.bytes);
        self.under = Some(id);
        Ok(())
    }

    /// It protects nothing new from now on.
    pub(super) fn retire(&mut self, now: Timestamp) {
        let known = self.compromised.is_some();
        self.state = if known { KeyState::Compromised } else { KeyState::Deactivated };
        self.deactivated_at = Some(now);
    }

    /// No wrap of it is left here: what is sealed under it opens no more, unless a copy was kept elsewhere.
    fn destroy(&mut self) {
        self.state = KeyState::Destroyed;
        self.wrapped.clear();
    }
}

/// What a key's rotation brought: the new version, and the one before, of which nothing is left here.
pub struct Superseded {
    /// The new one.
    pub new: KeyId,
    /// The one before.
    pub old: KeyId,
}

impl Control {
    /// The active key of a kind.
    #[must_use]
    pub fn active(&self, kind: KeyKind, merchant: Option<&MerchantName>) -> Option<&KeyRecord> {
        self.keys
            .iter()
            .rev()
            .find(|k| k.kind == kind && k.merchant.as_ref() == merchant && k.state == KeyState::Active)
    }

    /// Notes a key that the custodian holds.
    pub fn note_held(&mut self, kind: KeyKind, check: [u8; 8], now: Timestamp) -> KeyId {
        self.note(kind, None, None, &Wrapped { bytes: Vec::new(), check }, now)
    }

    /// Draws a new key of a kind, wraps it under its parent, and makes it the active one; the one before is deactivated.
    pub fn draw<K: KeyMaterial, P: Wraps<K>>(
        &mut self,
        merchant: Option<&MerchantName>,
        under: (&P, KeyId),
        now: Timestamp,
    ) -> Result<(KeyId, K), Error> {
        let key = K::generate()?;
        let id = KeyId(self.next_key);
        let version = self.next_version(K::KIND, merchant);
        let name = KeyName { merchant: merchant.map_or("", MerchantName::as_str), id, version };
        let wrapped = envelope::wrap(&key, &name, under.0)?;
        self.note(K::KIND, merchant, Some(under.1), &wrapped, now);
        Ok((id, key))
    }

    fn next_version(&self, kind: KeyKind, merchant: Option<&MerchantName>) -> u32 {
        let same = self.keys.iter().filter(|k| k.kind == kind && k.merchant.as_ref() == merchant);
        same.map(|k| k.version).max().unwrap_or(0).saturating_add(1)
    }

    fn note(
        &mut self,
        kind: KeyKind,
        merchant: Option<&MerchantName>,
        under: Option<KeyId>,
        wrapped: &Wrapped,
        now: Timestamp,
    ) -> KeyId {
        let version = self.next_version(kind, merchant);
        for key in &mut self.keys {
            // A merchant has a key of a slot per format and scope: a new one ends none but its own slot's (open_slot).
            let alone = kind != KeyKind::Fpk;
            if alone && key.kind == kind && key.merchant.as_ref() == merchant && key.state == KeyState::Active
            {
                key.retire(now);
            }
        }
        let id = KeyId(self.next_key);
        self.next_key = self.next_key.saturating_add(1);
        self.keys.push(KeyRecord {
            id,
            kind,
            merchant: merchant.cloned(),
            version,
            state: KeyState::Active,
            made_at: now,
            under,
            wrapped: BASE64.encode(&wrapped.bytes),
            check: HEXLOWER.encode(&wrapped.check),
            drained_at: None,
            deactivated_at: None,
            made_in: Some(self.version),
            compromised: None,
            destroyed_in: None,
        });
        id
    }

    /// Draws a merchant's next KEK and wraps every key of the merchant under it. They stay the keys that they are, so nothing
    /// that is sealed is touched. The old KEK wraps nothing any more and is destroyed.
    pub fn replace_kek(
        &mut self,
        merchant: &MerchantName,
        root: (&Root, KeyId),
        now: Timestamp,
    ) -> Result<Superseded, Error> {
        let unknown = || Error::malformed("merchant", "names no merchant");
        let old = self.active(KeyKind::Kek, Some(merchant)).ok_or_else(unknown)?.clone();
        let from: Kek = old.unwrap(root.0)?;
        let (new, kek) = self.draw::<Kek, Root>(Some(merchant), root, now)?;
        for record in self.wrapped_under(old.id) {
            let to = (&kek, new);
            match record.kind {
                KeyKind::Dek => record.rewrap::<Dek, Kek>(&from, to),
                KeyKind::Idx => record.rewrap::<Idx, Kek>(&from, to),
                KeyKind::Fpr => record.rewrap::<Fpr, Kek>(&from, to),
                KeyKind::Trk => record.rewrap::<Trk, Kek>(&from, to),
                KeyKind::Ref => record.rewrap::<Ref, Kek>(&from, to),
                KeyKind::Idm => record.rewrap::<Idm, Kek>(&from, to),
                KeyKind::Rcv => record.rewrap::<Rcv, Kek>(&from, to),
                KeyKind::Fpk => record.rewrap::<Fpk, Kek>(&from, to),
                KeyKind::Root | KeyKind::Esk | KeyKind::Ctl | KeyKind::Log | KeyKind::Adm | KeyKind::Kek => {
                    Err(Error::internal())
                }
            }?;
        }
        self.destroy(old.id);
        Ok(Superseded { new, old: old.id })
    }

    /// Puts a new root in the old one's place and wraps every key that lay under that one under it. The old one is
    /// destroyed here; the caller has the custodian wrap the new one.
    pub fn replace_root(
        &mut self,
        (from, old): (&Root, KeyId),
        root: &Root,
        now: Timestamp,
    ) -> Result<Superseded, Error> {
        let new = self.note_held(KeyKind::Root, root.check_value(), now);
        for record in self.wrapped_under(old) {
            let to = (root, new);
            match record.kind {
                KeyKind::Kek => record.rewrap::<Kek, Root>(from, to),
                KeyKind::Ctl => record.rewrap::<Ctl, Root>(from, to),
                KeyKind::Log => record.rewrap::<Log, Root>(from, to),
                KeyKind::Adm => record.rewrap::<Adm, Root>(from, to),
                KeyKind::Root
                | KeyKind::Esk
                | KeyKind::Dek
                | KeyKind::Idx
                | KeyKind::Fpr
                | KeyKind::Trk
                | KeyKind::Ref
                | KeyKind::Idm
                | KeyKind::Rcv
                | KeyKind::Fpk => Err(Error::internal()),
            }?;
        }
        self.destroy(old);
        Ok(Superseded { new, old })
    }

    /// Draws the next CTL, under which Control itself is sealed from its next version on. The old one is destroyed: the row
    /// that it sealed is the one that is replaced.
    pub fn replace_ctl(&mut self, root: (&Root, KeyId), now: Timestamp) -> Result<(Superseded, Ctl), Error> {
        let old = self.active(KeyKind::Ctl, None).ok_or(Error::Custody)?.id;
        let (new, ctl) = self.draw::<Ctl, Root>(None, root, now)?;
        self.destroy(old);
        Ok((Superseded { new, old }, ctl))
    }

    /// Draws the next signing key of a log. The old one is destroyed: it signs once more, the hand-over, and never again.
    /// Which verifier key goes with the new one is the caller's to say.
    ///
    /// Errors: malformed once the log was handed over [`MAX_HAND_OVERS`] times.
    pub fn replace_log_key(
        &mut self,
        log: u32,
        root: (&Root, KeyId),
        now: Timestamp,
        verifier_of: impl Fn(&Log) -> Result<String, Error>,
    ) -> Result<(Superseded, Log), Error> {
        let held = self.logs.iter().find(|l| l.id == log).ok_or_else(Error::internal)?;
        if held.earlier.len() >= MAX_HAND_OVERS {
            return Err(Error::malformed(
                "kind",
                "of this log was replaced 256 times, as often as it can be",
            ));
        }
        let old = held.key;
        let (new, seed) = self.draw::<Log, Root>(None, root, now)?;
        self.destroy(old);
        let verifier = verifier_of(&seed)?;
        let held = self.logs.iter_mut().find(|l| l.id == log).ok_or_else(Error::internal)?;
        held.earlier.push(std::mem::replace(&mut held.verifier, verifier));
        held.key = new;
        Ok((Superseded { new, old }, seed))
    }

    /// The erasure epoch key that customers are being moved from.
    #[must_use]
    pub fn older_esk(&self) -> Option<&KeyRecord> {
        self.keys.iter().find(|k| {
            k.kind == KeyKind::Esk && matches!(k.state, KeyState::Deactivated | KeyState::Compromised)
        })
    }

    /// Notes the next erasure epoch key, which customers' secrets are sealed under from this version on. Those under the one
    /// before are to be moved. It must get the number `id`, which its file has.
    pub fn follow_esk(&mut self, check: [u8; 8], id: KeyId, now: Timestamp) -> Result<Superseded, Error> {
        let old = self.active(KeyKind::Esk, None).ok_or(Error::Custody)?.id;
        let new = self.note_held(KeyKind::Esk, check, now);
        if new != id {
            return Err(Error::internal());
        }
        Ok(Superseded { new, old })
    }

    /// Notes that an erasure epoch key is destroyed. Gives the epoch in which the next one took its place.
    pub fn end_esk(&mut self, id: KeyId) -> Result<u64, Error> {
        let version = self.version;
        let next = self.keys.iter().find(|k| k.kind == KeyKind::Esk && k.id > id).and_then(|k| k.made_in);
        let ended = self.keys.iter_mut().find(|k| k.id == id && k.kind == KeyKind::Esk);
        let ended = ended.ok_or_else(Error::internal)?;
        ended.destroy();
        ended.destroyed_in = Some(version);
        next.ok_or_else(Error::internal)
    }

    /// A key's wrap.
    pub fn wrap_of(&self, id: KeyId) -> Result<Wrapped, Error> {
        self.keys.iter().find(|k| k.id == id).ok_or_else(Error::internal)?.wrap()
    }

    fn wrapped_under(&mut self, parent: KeyId) -> impl Iterator<Item = &mut KeyRecord> {
        self.keys.iter_mut().filter(move |k| k.under == Some(parent) && k.state != KeyState::Destroyed)
    }

    /// A merchant's keys of a kind that rows lie under, that are used for new rows no more and that rows may still be under.
    pub fn undrained<'c>(
        &'c self,
        merchant: &'c MerchantName,
        kind: KeyKind,
    ) -> impl Iterator<Item = KeyId> + 'c {
        let open = move |k: &&KeyRecord| {
            let over = matches!(k.state, KeyState::Deactivated | KeyState::Compromised);
            k.kind == kind && over && k.drained_at.is_none()
        };
        self.keys.iter().filter(move |k| k.merchant.as_ref() == Some(merchant)).filter(open).map(|k| k.id)
    }

    /// What a key is once another took its place: compromised where somebody else may have it.
    #[must_use]
    pub fn retired_state(&self, id: KeyId) -> KeyState {
        if self.is_compromised(id) { KeyState::Compromised } else { KeyState::Deactivated }
    }

    /// Whether somebody else may have a key.
    #[must_use]
    pub fn is_compromised(&self, id: KeyId) -> bool {
        self.keys.iter().any(|k| k.id == id && k.compromised.is_some())
    }

    /// Notes that no row is under these keys any more.
    pub fn drain(&mut self, keys: &[KeyId], now: Timestamp) {
        let drained = self.keys.iter_mut().filter(|k| keys.contains(&k.id));
        drained.for_each(|k| k.drained_at = Some(now));
    }

    /// Destroys a key that nothing needs: a data encryption key that was drained, an administration key that no note is
    /// under, a key for sealed cards that opens no more.
    ///
    /// Errors: malformed for a key that is not there, that seals, that something needs, or of a kind that has no such end; it
    /// says what needs it.
    pub fn destroy_unneeded(&mut self, id: KeyId, now: Timestamp) -> Result<(), Error> {
        let refused = |rule| Err(Error::malformed("key", rule));
        let Some(key) = self.keys.iter().find(|k| k.id == id) else {
            return refused("names no key");
        };
        match (key.kind, key.state) {
            (_, KeyState::Destroyed) => return refused("is destroyed already"),
            (_, KeyState::Active) => return refused("is in use; rotate it first"),
            (KeyKind::Dek, _) if key.drained_at.is_none() => {
                return refused(
                    "may still be needed: rows are sealed anew in the background, see `keys status`",
                );
            }
            (KeyKind::Rcv, KeyState::Deactivated) if self.opens_sealed_cards(key, now) => {
                return refused(
                    "may still be needed: cards that were sealed to it before it was replaced may come in for seven days",
                );
            }
            (KeyKind::Adm, _) if key.drained_at.is_none() => {
                return refused(
                    "is kept for reading: operators' notes are under it, which the log names by their sealed bytes",
                );
            }
            (KeyKind::Trk, _) if key.drained_at.is_none() => {
                return refused(
                    "is needed by tokens or cards that were not used since it was replaced: see `keys upgrade`",
                );
            }
            (KeyKind::Dek | KeyKind::Rcv | KeyKind::Adm | KeyKind::Trk, _) => {}
            (KeyKind::Fpk, _) => {
                return refused("is needed by the vaultless tokens of its slot, which nobody has counted");
            }
            (KeyKind::Idx | KeyKind::Fpr, _) => {
                return refused("is a link of the chain of names, which every row's name is made with");
            }
            (
                KeyKind::Root
                | KeyKind::Esk
                | KeyKind::Ctl
                | KeyKind::Log
                | KeyKind::Kek
                | KeyKind::Ref
                | KeyKind::Idm,
                _,
            ) => return refused("is of a kind that is not destroyed by itself"),
        }
        self.destroy(id);
        Ok(())
    }

    /// Destroys those of these drained keys that somebody else may have: they are kept no longer than they are needed. A link
    /// of a chain of names is for good. Gives what the log says of it.
    pub fn end_compromised(&mut self, drained: &[KeyId], now: Timestamp) -> Vec<ControlChange> {
        let mut ended = Vec::new();
        for key in drained {
            if self.is_compromised(*key) && self.destroy_unneeded(*key, now).is_ok() {
                ended.push(ControlChange::KeyState { key: key.0, state: KeyState::Destroyed });
            }
        }
        ended
    }

    /// Whether a key for sealed cards that was replaced still opens: until [`OVERLAP_DAYS`] after its successor was made.
    fn opens_sealed_cards(&self, key: &KeyRecord, now: Timestamp) -> bool {
        let next = self.keys.iter().find(|next| {
            next.kind == key.kind
                && next.merchant == key.merchant
                && next.version == key.version.saturating_add(1)
        });
        next.is_none_or(|next| now < next.made_at.plus_days(OVERLAP_DAYS))
    }

    /// Notes that somebody else may have a key. It is no longer active by then, unless nothing takes its place: such a one
    /// goes on as it is, but for a slot, in which no tokens are made any more.
    pub fn compromise(&mut self, id: KeyId, reason: CompromiseReason, note: Option<Hash>, now: Timestamp) {
        let epoch = self.version;
        for key in self.keys.iter_mut().filter(|k| k.id == id) {
            key.compromised = Some(Compromised { at: now, epoch, reason, note });
            match key.state {
                KeyState::Deactivated => key.state = KeyState::Compromised,
                KeyState::Active if key.kind == KeyKind::Fpk => key.retire(now),
                KeyState::Active | KeyState::Compromised | KeyState::Destroyed => {}
            }
        }
    }

    /// Why a key has no successor now; none if it may have one. Whether a custodian is there to take it is not looked at.
    #[must_use]
    pub fn not_followed(&self, key: &KeyRecord) -> Option<&'static str> {
        match (key.kind, key.merchant.as_ref()) {
            (KeyKind::Idx | KeyKind::Fpr, Some(merchant)) => {
                let links = |k: &&KeyRecord| k.kind == key.kind && k.merchant.as_ref() == Some(merchant);
                if self.undrained(merchant, key.kind).next().is_some() {
                    return Some(
                        "was rotated, and rows are still being renamed; wait until `keys status` shows none",
                    );
                }
                (self.keys.iter().filter(links).count() >= usize::from(MAX_LINKS))
                    .then_some("has 16 versions, which is as long as a chain of names may be")
            }
            (KeyKind::Fpk, Some(merchant)) => {
                let opened = self.numbers.get(merchant).map_or(0, |numbers| numbers.slots.len());
                (opened >= usize::from(SLOTS)).then_some("is of a merchant whose five slots are all opened")
            }
            (KeyKind::Log, _) => {
                let over = self.logs.iter().any(|l| l.key == key.id && l.earlier.len() >= MAX_HAND_OVERS);
                over.then_some("of this log was replaced 256 times, as often as it can be")
            }
            (KeyKind::Esk, _) => self
                .older_esk()
                .map(|_| "is being rotated already: customers move to the newest key, see keys status"),
            // The names that they made are for good: there is nothing to put in their place.
            (KeyKind::Ref | KeyKind::Idm, _) => {
                Some("is never replaced: the names that it made are for good")
            }
            _ => None,
        }
    }

    /// How often a key wraps: once for each key that lies or lay under it.
    #[must_use]
    pub fn wraps(&self, id: KeyId) -> u64 {
        self.keys.iter().filter(|k| k.under == Some(id)).fold(0, |count, _| count.saturating_add(1))
    }

    /// How many rows are left unreadable on purpose is the caller's to know and to say: the key is destroyed.
    ///
    /// Errors: as [`check_shred`](Self::check_shred).
    pub fn shred(&mut self, id: KeyId) -> Result<(), Error> {
        self.check_shred(id)?;
        self.destroy(id);
        Ok(())
    }

    /// Whether a key may be destroyed with what is under it.
    ///
    /// Errors: malformed for a key that is not there or gone already, that is in use, or that more hangs on than its rows.
    pub fn check_shred(&self, id: KeyId) -> Result<&KeyRecord, Error> {
        let refused = |rule| Err(Error::malformed("key", rule));
        let Some(key) = self.keys.iter().find(|k| k.id == id) else {
            return refused("names no key");
        };
        match (key.kind, key.state) {
            (_, KeyState::Destroyed) => refused("is destroyed already"),
            (_, KeyState::Active) => {
                refused("is in use: what comes in now would be lost with it; rotate it first")
            }
            (KeyKind::Dek | KeyKind::Rcv, KeyState::Deactivated | KeyState::Compromised) => Ok(key),
            (KeyKind::Fpk, KeyState::Deactivated | KeyState::Compromised) => refused(
                "is a slot of vaultless tokens, which may be out there in any number: lock the format's channels instead",
            ),
            (
                KeyKind::Root
                | KeyKind::Esk
                | KeyKind::Ctl
                | KeyKind::Log
                | KeyKind::Adm
                | KeyKind::Kek
                | KeyKind::Idx
                | KeyKind::Fpr
                | KeyKind::Trk
                | KeyKind::Ref
                | KeyKind::Idm,
                KeyState::Deactivated | KeyState::Compromised,
            ) => refused("is of a kind that more hangs on than its own rows: it is not shredded"),
        }
    }

    fn destroy(&mut self, id: KeyId) {
        self.keys.iter_mut().filter(|k| k.id == id).for_each(KeyRecord::destroy);
    }

    /// The vault's own keys below the root: the first log's seed and the administration key.
    pub fn add_own_keys(&mut self, root: (&Root, KeyId), now: Timestamp) -> Result<(KeyId, Log), Error> {
        self.draw::<Adm, Root>(None, root, now)?;
        self.draw::<Log, Root>(None, root, now)
    }
}
