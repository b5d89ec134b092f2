//! The one sealed, versioned document that says what is in force: policy, key states, locks, logs.
//!
//! Its version is the *epoch*. It lies sealed under CTL in one row; beside it stands the epoch row with its version and
//! hash, which every batch expects and every checkpoint names. So a lock or a retired key is exact, not "soon", and a
//! Control put back to older bytes is refused at start.

mod keys;

use std::collections::BTreeMap;

use ring::digest;
use serde::{Deserialize, Serialize};

pub use self::keys::{Compromised, KeyRecord, Superseded};
use crate::audit::tree::Hash;
use crate::codec::{Reader, Torn, Writer};
use crate::custody::{Custodian, CustodyBlock, MAX_CUSTODIANS};
use crate::envelope::{
    self, Ctl, Dek, Fpk, Fpr, Idm, Idx, Kek, KeyId, KeyKind, KeyMaterial as _, KeyName, Rcv, Ref, Root, Trk,
    Wrapped, ctx,
};
use crate::error::Error;
use crate::name::{ChannelName, FormatName, MerchantName, PrincipalName};
use crate::record::{ChannelId, FormatId, MerchantId};
use crate::rows;
use crate::store::{Expect, Key, Write};
use crate::table::{Format, Merchant, Policy};
use crate::terms::Term;
use crate::time::Timestamp;
use crate::token::{Scheme, Scope};
use crate::vaultless::{SLOTS, Served};
use crate::words::{KeyState, LockReason};

/// Version of the header row's and of Control's format.
const FORMAT: u16 = 1;

/// The most locks in force: Control stays a document that a person can read.
const MAX_LOCKS: usize = 10_000;

/// How many lifted locks are kept to look back at; the log keeps all.
const KEPT_LIFTED: usize = 1_000;

/// Control itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Format of this document.
    pub format: u16,
    /// The epoch: grows by one with every change.
    pub version: u64,
    /// When this version was made.
    pub made_at: Timestamp,
    /// What is allowed.
    pub policy: Policy,
    /// The numbers of merchants, channels and formats in rows; never given twice, kept when a name is dropped.
    pub numbers: BTreeMap<MerchantName, Numbers>,
    /// Every key there ever was.
    pub keys: Vec<KeyRecord>,
    /// Locks in force, and the newest lifted ones.
    pub locks: Vec<Lock>,
    /// The logs, each with its public key.
    pub logs: Vec<LogRecord>,
    /// The number that the next key gets.
    pub next_key: u32,
    /// The number that the next lock gets.
    pub next_lock: u32,
}

/// A merchant's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    /// Its own.
    pub id: MerchantId,
    /// Its `ff1_slots`, which never change.
    pub ff1_slots: u8,
    /// Its channels'.
    pub channels: BTreeMap<ChannelName, ChannelId>,
    /// Its formats', each as it was made: a format never changes, or the tokens of one name would have two shapes.
    pub formats: BTreeMap<FormatName, MadeFormat>,
    /// Its vaultless slots, in the order of their numbers, which begin at 1. None is ever changed or taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotRecord>,
}

/// A slot's line in Control: what its tokens are made of, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotRecord {
    /// Its key, of kind FPK.
    pub key: KeyId,
    /// Its format.
    pub format: FormatId,
    /// The channel, if its tokens are for one channel alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelId>,
}

impl SlotRecord {
    /// What it serves.
    #[must_use]
    pub fn served(&self) -> Served {
        Served { format: self.format, channel: self.channel }
    }
}

/// A format's number, and what it is for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeFormat {
    /// Its number.
    pub id: FormatId,
    /// What it is.
    pub format: Format,
}

/// What a lock is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "on", deny_unknown_fields)]
pub enum LockTarget {
    /// All of a merchant.
    Merchant {
        /// Which.
        merchant: MerchantName,
    },
    /// One channel.
    Channel {
        /// Whose.
        merchant: MerchantName,
        /// Which.
        channel: ChannelName,
    },
    /// One principal, wherever it asks.
    Principal {
        /// Which.
        principal: PrincipalName,
    },
}

/// A lock in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The lockdown's id.
    pub id: u32,
    /// What is locked.
    pub target: LockTarget,
    /// Since when.
    pub since: Timestamp,
    /// By whom.
    pub by: PrincipalName,
    /// Why.
    pub reason: LockReason,
    /// SHA-256 of the sealed note, if there is one.
    pub note: Option<Hash>,
    /// By whom and when it was lifted; none: it is in force.
    pub lifted: Option<Lifted>,
}

/// How a lock ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifted {
    /// By whom.
    pub by: PrincipalName,
    /// When.
    pub at: Timestamp,
}

/// A log's line in Control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRecord {
    /// Its number in row keys.
    pub id: u32,
    /// The key that signs its checkpoints.
    pub key: KeyId,
    /// Its public key, as a C2SP verifier key.
    pub verifier: String,
    /// The public keys that it had before, oldest first: each handed the log over to the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
}

impl LogRecord {
    /// All its public keys, oldest first.
    #[must_use]
    pub fn verifiers(&self) -> Vec<String> {
        self.earlier.iter().chain([&self.verifier]).cloned().collect()
    }
}

/// The plain row that a vault begins with: enough to find the custodian's door, and nothing secret.
#[derive(Clone)]
pub struct Header {
    /// 16 random bytes that name the vault.
    pub vault: [u8; 16],
    /// The root key, wrapped by each custodian in turn (one, or an everyday one and a recovery one).
    pub custody: Vec<CustodyBlock>,
    /// The root key's number and version.
    pub root: (KeyId, u32),
    /// CTL, wrapped under the root: its number, version and wrap.
    pub ctl: (KeyId, u32, Wrapped),
}

/// The key of the header row.
#[must_use]
pub fn header_key() -> Key {
    vec![rows::HEADER]
}

/// The key of the Control row.
#[must_use]
pub fn control_key() -> Key {
    vec![rows::CONTROL]
}

/// The key of the epoch row.
#[must_use]
pub fn epoch_key() -> Key {
    vec![rows::EPOCH]
}

impl Header {
    /// The row's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u16(FORMAT).fixed(&self.vault).u8(u8::try_from(self.custody.len()).unwrap_or(u8::MAX));
        for block in &self.custody {
            block.write(&mut w);
        }
        let (id, version, wrapped) = &self.ctl;
        w.u32(self.root.0.0).u32(self.root.1).u32(id.0).u32(*version).e(&wrapped.bytes).fixed(&wrapped.check);
        w.done()
    }

    /// Reads the row. A newer format is told apart from damage.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let damaged = |Torn| Error::Store(crate::store::StoreError::Corrupt);
        match r.u16().map_err(damaged)? {
            FORMAT => Self::read(&mut r).and_then(|header| r.end().map(|()| header)).map_err(damaged),
            newer if newer > FORMAT => {
                Err(Error::Store(crate::store::StoreError::Newer(newer.into(), FORMAT.into())))
            }
            _ => Err(damaged(Torn)),
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Torn> {
        let vault = r.array()?;
        // Each may ask for seconds of stretching, and none of it is authenticated yet.
        let count = Some(r.u8()?).filter(|n| usize::from(*n) <= MAX_CUSTODIANS).ok_or(Torn)?;
        let custody = (0..count).map(|_| CustodyBlock::read(r)).collect::<Result<_, _>>()?;
        let root = (KeyId(r.u32()?), r.u32()?);
        let ctl = (KeyId(r.u32()?), r.u32()?, Wrapped { bytes: r.e()?.to_vec(), check: r.array()? });
        Ok(Self { vault, custody, root, ctl })
    }

    /// Opens the root with the custodian's help, and CTL with the root's.
    pub fn unlock(&self, custodian: &dyn Custodian) -> Result<(Root, Ctl), Error> {
        let mut opened = Err(Error::Custody);
        for block in &self.custody {
            opened = custodian.unwrap(block, KeyKind::Root, &self.vault);
            // A block of somebody else's is passed over. A device that refused is not asked about the next one: it counts.
            if !matches!(opened, Err(Error::Custody)) {
                break;
            }
        }
        let root = Root::from_secret(opened?);
        let (id, version, wrapped) = &self.ctl;
        let name = KeyName { merchant: "", id: *id, version: *version };
        let ctl = envelope::unwrap(wrapped, &name, &root).map_err(|_| Error::Custody)?;
        Ok((root, ctl))
    }
}

/// What every batch expects and every checkpoint names: which version of Control is in force, and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// Control's version.
    pub version: u64,
    /// SHA-256 of the Control row.
    pub hash: [u8; 32],
}

impl Epoch {
    /// The epoch of a Control row.
    #[must_use]
    pub fn of(version: u64, row: &[u8]) -> Self {
        Self { version, hash: envelope::first(digest::digest(&digest::SHA256, row).as_ref()) }
    }

    /// The epoch row's bytes: version u64, hash 32.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Writer::default().u64(self.version).fixed(&self.hash).done()
    }

    /// Reads the epoch row.
    pub fn decode(bytes: &[u8]) -> Result<Self, Torn> {
        let mut r = Reader::new(bytes);
        let epoch = Self { version: r.u64()?, hash: r.array()? };
        r.end().map(|()| epoch)
    }

    /// What a batch decided under this epoch expects.
    #[must_use]
    pub fn expected(&self) -> Expect {
        Expect::Is(epoch_key(), self.encode())
    }
}

/// The associated data of the Control row: ctx("control") of no merchant, CTL id, vault id 16, version u64.
fn control_aad(vault: &[u8; 16], key: KeyId, version: u64) -> Vec<u8> {
    ctx("control", "").u32(key.0).fixed(vault).u64(version).done()
}

impl Control {
    /// The first version of a new vault: no merchants, no keys but the vault's own.
    #[must_use]
    pub fn first(now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            version: 1,
            made_at: now,
            policy: Policy::default(),
            numbers: BTreeMap::new(),
            keys: Vec::new(),
            locks: Vec::new(),
            logs: Vec::new(),
            next_key: 1,
            next_lock: 1,
        }
    }

    /// Seals it: the Control row (version u64, CTL id u32, XAES message of its JSON) and its epoch.
    pub fn seal(&self, vault: &[u8; 16], key: KeyId, ctl: &Ctl) -> Result<(Vec<u8>, Epoch), Error> {
        let json = serde_json::to_vec(self).map_err(|_| Error::internal())?;
        let sealed = ctl.seal(&control_aad(vault, key, self.version), &json)?;
        let row = Writer::default().u64(self.version).u32(key.0).fixed(&sealed).done();
        let epoch = Epoch::of(self.version, &row);
        Ok((row, epoch))
    }

    /// Opens a Control row, and proves that it is the one that `epoch` names.
    pub fn open(row: &[u8], epoch: &Epoch, vault: &[u8; 16], key: KeyId, ctl: &Ctl) -> Result<Self, Error> {
        let damaged = || Error::Store(crate::store::StoreError::Corrupt);
        let mut r = Reader::new(row);
        let (version, id) = (r.u64().map_err(|Torn| damaged())?, r.u32().map_err(|Torn| damaged())?);
        if Epoch::of(version, row) != *epoch || id != key.0 {
            return Err(damaged());
        }
        let json = ctl.open(&control_aad(vault, key, version), r.rest()).map_err(|_| damaged())?;
        let control: Self = serde_json::from_slice(&json).map_err(|_| damaged())?;
        if control.version != version || control.format != FORMAT {
            return Err(damaged());
        }
        Ok(control)
    }

    /// What replaces the rows of `before` by this version's.
    #[must_use]
    pub fn writes(row: Vec<u8>, epoch: &Epoch) -> Vec<Write> {
        vec![Write::Put(control_key(), row), Write::Put(epoch_key(), epoch.encode())]
    }

    /// Puts a policy in force: gives numbers and keys to what is new, and refuses what would orphan what is old.
    pub fn apply(&mut self, policy: Policy, root: (&Root, KeyId), now: Timestamp) -> Result<(), Error> {
        policy.check()?;
        for merchant in &policy.merchants {
            match self.numbers.get(&merchant.id) {
                None => self.add_merchant(&merchant.id, merchant.ff1_slots, root, now)?,
                Some(numbers) if numbers.ff1_slots != merchant.ff1_slots => {
                    return Err(Error::Config(format!(
                        "policy: merchant {}: ff1_slots is {} for life",
                        merchant.id, numbers.ff1_slots
                    )));
                }
                Some(_) => {}
            }
            let numbers = self.numbers.get_mut(&merchant.id).ok_or_else(Error::internal)?;
            for channel in &merchant.channels {
                let next =
                    ChannelId(u32::try_from(numbers.channels.len()).map_err(|_| Error::internal())? + 1);
                numbers.channels.entry(channel.id.clone()).or_insert(next);
            }
            for format in &merchant.formats {
                let next = u16::try_from(numbers.formats.len() + 1).map_err(|_| {
                    Error::Config(format!("policy: merchant {}: more than 65,535 formats ever", merchant.id))
                })?;
                let made = MadeFormat { id: FormatId(next), format: format.clone() };
                if numbers.formats.entry(format.id.clone()).or_insert(made).format != *format {
                    return Err(Error::Config(format!(
                        "policy: merchant {}: format {} never changes; add one of another name",
                        merchant.id, format.id
                    )));
                }
            }
        }
        for merchant in &policy.merchants {
            self.open_slots(merchant, root, now)?;
        }
        if let Some(orphan) = self.numbers.keys().find(|id| policy.merchant(id).is_none()) {
            return Err(Error::Config(format!(
                "policy: merchant {orphan} has keys and may have cards; keep its row, without rules if it is to rest"
            )));
        }
        self.policy = policy;
        Ok(())
    }

    fn add_merchant(
        &mut self,
        name: &MerchantName,
        ff1_slots: u8,
        root: (&Root, KeyId),
        now: Timestamp,
    ) -> Result<(), Error> {
        let id = MerchantId(u32::try_from(self.numbers.len()).map_err(|_| Error::internal())? + 1);
        let numbers =
            Numbers { id, ff1_slots, channels: BTreeMap::new(), formats: BTreeMap::new(), slots: Vec::new() };
        self.numbers.insert(name.clone(), numbers);
        let (kek_id, kek) = self.draw::<Kek, Root>(Some(name), root, now)?;
        let under = (&kek, kek_id);
        self.draw::<Dek, Kek>(Some(name), under, now)?;
        self.draw::<Idx, Kek>(Some(name), under, now)?;
        self.draw::<Fpr, Kek>(Some(name), under, now)?;
        self.draw::<Trk, Kek>(Some(name), under, now)?;
        self.draw::<Ref, Kek>(Some(name), under, now)?;
        self.draw::<Idm, Kek>(Some(name), under, now)?;
        self.draw::<Rcv, Kek>(Some(name), under, now)?;
        Ok(())
    }

    /// Opens a slot for each (format, scope) of the policy's vaultless formats that has none.
    fn open_slots(&mut self, merchant: &Merchant, root: (&Root, KeyId), now: Timestamp) -> Result<(), Error> {
        let numbers = self.numbers.get(&merchant.id).ok_or_else(Error::internal)?;
        let mut wanted = Vec::new();
        for format in merchant.formats.iter().filter(|f| f.scheme == Scheme::Ff1) {
            let id = numbers.formats.get(&format.id).ok_or_else(Error::internal)?.id;
            match format.scope {
                Scope::Merchant => wanted.push(Served { format: id, channel: None }),
                Scope::Channel => {
                    let own = merchant.channels.iter().filter(|c| c.format == format.id);
                    let ids = own.filter_map(|c| numbers.channels.get(&c.id).copied());
                    wanted.extend(ids.map(|channel| Served { format: id, channel: Some(channel) }));
                }
            }
        }
        wanted.retain(|served| !numbers.slots.iter().any(|slot| slot.served() == *served));
        let free = usize::from(SLOTS).saturating_sub(numbers.slots.len());
        if wanted.len() > free {
            return Err(Error::Config(format!(
                "policy: merchant {}: its ff1 formats need {} more slots, one per format and scope, and {free} of its five are \
                 left; five are its whole life: let channels share a format of scope merchant, or use another scheme",
                merchant.id,
                wanted.len()
            )));
        }
        wanted.into_iter().try_for_each(|served| self.open_slot(&merchant.id, served, root, now).map(|_| ()))
    }

    /// Opens the next slot with a new key. The slots of the same format and scope before it stay readable.
    ///
    /// Errors: [`Error::SpaceExhausted`] if all five are opened.
    pub fn open_slot(
        &mut self,
        merchant: &MerchantName,
        served: Served,
        root: (&Root, KeyId),
        now: Timestamp,
    ) -> Result<KeyId, Error> {
        let opened = self.numbers.get(merchant).ok_or_else(Error::internal)?.slots.len();
        if opened >= usize::from(SLOTS) {
            return Err(Error::SpaceExhausted);
        }
        let kek = self.active(KeyKind::Kek, Some(merchant)).ok_or(Error::Custody)?;
        let under = (&kek.unwrap::<Kek, Root>(root.0)?, kek.id);
        let (key, _) = self.draw::<Fpk, Kek>(Some(merchant), under, now)?;
        let slots = &mut self.numbers.get_mut(merchant).ok_or_else(Error::internal)?.slots;
        let before: Vec<KeyId> = slots.iter().filter(|s| s.served() == served).map(|s| s.key).collect();
        slots.push(SlotRecord { key, format: served.format, channel: served.channel });
        for record in self.keys.iter_mut().filter(|k| before.contains(&k.id) && k.state == KeyState::Active) {
            record.retire(now);
        }
        Ok(key)
    }

    /// The terms of a kind's keys: the longest there are, or what the policy shortens them to.
    #[must_use]
    pub fn term(&self, kind: KeyKind) -> Term {
        let longest = Term::longest(kind);
        match self.policy.cryptoperiods.iter().find(|row| row.kind == kind) {
            None => longest,
            Some(row) => Term { days: row.days.or(longest.days), uses: row.uses.or(longest.uses), ..longest },
        }
    }

    /// Sets a lock; the caller seals and commits.
    pub fn lock(
        &mut self,
        target: LockTarget,
        by: PrincipalName,
        reason: LockReason,
        note: Option<Hash>,
        now: Timestamp,
    ) -> Result<u32, Error> {
        self.check_target(&target)?;
        if self.locks.iter().filter(|l| l.lifted.is_none()).count() >= MAX_LOCKS {
            return Err(Error::malformed("target", "would be lock 10,001; lift some first"));
        }
        let id = self.next_lock;
        self.next_lock = id.saturating_add(1);
        self.locks.push(Lock { id, target, since: now, by, reason, note, lifted: None });
        Ok(id)
    }

    /// Lifts a lock; whether there was one of that id in force.
    pub fn unlock(&mut self, id: u32, by: &PrincipalName, now: Timestamp) -> bool {
        let Some(lock) = self.locks.iter_mut().find(|lock| lock.id == id && lock.lifted.is_none()) else {
            return false;
        };
        lock.lifted = Some(Lifted { by: by.clone(), at: now });
        let mut surplus =
            self.locks.iter().filter(|l| l.lifted.is_some()).count().saturating_sub(KEPT_LIFTED);
        self.locks.retain(|lock| {
            let drop = lock.lifted.is_some() && surplus > 0;
            surplus -= usize::from(drop);
            !drop
        });
        true
    }

    fn check_target(&self, target: &LockTarget) -> Result<(), Error> {
        let known = match target {
            LockTarget::Merchant { merchant } => self.policy.merchant(merchant).is_some(),
            LockTarget::Channel { merchant, channel } => {
                self.policy.merchant(merchant).is_some_and(|m| m.channels.iter().any(|c| c.id == *channel))
            }
            LockTarget::Principal { principal } => self.policy.principals.iter().any(|p| p.id == *principal),
        };
        if known { Ok(()) } else { Err(Error::malformed("target", "names nothing in the policy")) }
    }
}
