//! What an erasure is followed by: within a day a new erasure epoch key, all other customers moved to it, the old key
//! destroyed, and a certificate of that in the log.
//!
//! Erasing a customer takes the secret from the living store at once. Copies of the store from before still have it, under
//! the erasure epoch key of their time: they are silenced when that key is gone. The work goes on by itself wherever the
//! process was ended; it opens customers' indexes and no card: see [`crate::survivors`].

use std::sync::Arc;

use super::amend::{Amendment, Premise};
use super::customers::erasure_key;
use super::esk::{self, Held};
use super::{State, Vault};
use crate::audit::entry::{ControlChange, Event, Who};
use crate::audit::receipt::Receipt;
use crate::codec::Reader;
use crate::control::Control;
use crate::custody::{Custodian, CustodyBlock};
use crate::envelope::{Esk, KeyId, KeyKind, KeyMaterial as _};
use crate::error::Error;
use crate::journal::{Filing, NotFiled};
use crate::name::PrincipalName;
use crate::policy::Statement;
use crate::store::Write;
use crate::survivors::{Page, Purpose, Walk};
use crate::time::Timestamp;
use crate::words::KeyState;

/// How long after an erasure the work for it begins: it gathers the erasures of half a day, and leaves the other half of
/// the promised one to do it in and to try again.
pub const ERASURE_DELAY_HOURS: u32 = 12;

const MS_PER_HOUR: u64 = 3_600_000;

/// How many customers are moved in one commit: an index has up to 100 KiB, so at most six megabytes.
const ERASURE_PAGE: usize = 64;

/// How often a rotation is prepared anew that another change of Control was faster than.
const ATTEMPTS: usize = 8;

/// What a step of the work came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErasureStep {
    /// There is nothing to do yet, or nothing that can be done.
    Idle,
    /// Customers were erased half a day ago: it is time for [`Vault::follow_esk`], which needs the custodian.
    Due,
    /// So many customers were looked at; of those so many were moved.
    Worked {
        /// Rows read.
        seen: usize,
        /// Rows written.
        moved: usize,
    },
    /// No customer is under the older key any more: the log says so.
    Drained,
    /// The older key is destroyed: the log has the certificate.
    Destroyed,
    /// Customers are left whose rows do not open, and keep the older key needed: told once, until a restart.
    Stuck {
        /// How many.
        unreadable: u64,
    },
}

/// How far the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErasureWork {
    /// The key that is to be destroyed.
    pub key: KeyId,
    /// Since when customers are erased whose certificate is not written yet; none: somebody rotates the key without.
    pub pending_since: Option<Timestamp>,
    /// Whether customers are being moved from it.
    pub moving: bool,
    /// How many were moved since the work began, or began anew after a restart.
    pub moved: u64,
}

/// The work under way.
#[derive(Default)]
pub(super) struct Erasing {
    /// For which older key.
    key: Option<KeyId>,
    walk: Walk,
    counting: bool,
    /// Of the pass under way.
    older: u64,
    unreadable: u64,
    moved: u64,
    most: Option<usize>,
    stuck: bool,
}

impl Erasing {
    fn begin(&mut self, counting: bool) {
        (self.walk, self.counting) = (Walk::default(), counting);
        (self.older, self.unreadable) = (0, 0);
    }
}

impl Vault {
    /// Puts a new erasure epoch key in force, which every custodian takes into custody: new customers are under it from the
    /// commit on, and [`erasing`](Self::erasing) moves the others. `custodians` must open every custody block that the header
    /// has. It may take seconds: a custodian's secret is stretched on purpose. Returns the new key's number.
    ///
    /// Errors: [`Error::Custody`] if they open no block, [`Error::Config`] that names the one that none of them opens; malformed while customers are still moved from an
    /// older key; as at [`apply_policy`](Self::apply_policy).
    pub async fn rotate_esk(
        &self,
        by: &PrincipalName,
        custodians: &[&dyn Custodian],
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.next_esk(&Who::Listed(by.clone()), custodians, expected).await
    }

    /// The same as the vault's own doing, once [`erasing`](Self::erasing) says that it is due.
    pub async fn follow_esk(&self, custodians: &[&dyn Custodian]) -> Result<(KeyId, Receipt), Error> {
        self.next_esk(&Who::Vault, custodians, None).await
    }

    async fn next_esk(
        &self,
        by: &Who,
        custodians: &[&dyn Custodian],
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.next_esk_with(by, custodians, expected, |_, _, made| Ok(made)).await
    }

    /// The same with more in the same commit.
    pub(super) async fn next_esk_with<T>(
        &self,
        by: &Who,
        custodians: &[&dyn Custodian],
        expected: Option<u64>,
        also: impl Fn(&Premise<'_>, &mut Control, Amendment<KeyId>) -> Result<Amendment<T>, Error>,
    ) -> Result<(T, Receipt), Error> {
        let mut one_at_a_time = self.custody().await;
        for _ in 0..ATTEMPTS {
            let state = self.state();
            if state.control.older_esk().is_some() {
                let told = "esk is being rotated already: customers move to the newest key, see keys status";
                return Err(Error::malformed("kind", told));
            }
            if expected.is_some_and(|epoch| epoch != state.epoch.version) {
                return Err(Error::EpochMismatch { epoch: state.epoch.version });
            }
            let (key, id) = (Arc::new(Esk::generate()?), KeyId(state.control.next_key));
            let mut held = Vec::new();
            let who = self.who_opens(&state, custodians)?;
            for (block, custodian) in state.top.header.custody.iter().zip(who) {
                held.push(Held::by(custodian, &key, &self.inner.vault, block)?);
            }
            *one_at_a_time = Some(esk::write_rotated(&self.inner.esk_file, id, &held, &self.inner.vault)?);
            let made = self
                .change_by(by, Some(state.epoch.version), |premise, control| {
                    let keys = control.follow_esk(key.check_value(), id, premise.now)?;
                    let changes = vec![
                        ControlChange::KeyAdded { key: keys.new.0 },
                        ControlChange::KeyState { key: keys.old.0, state: KeyState::Deactivated },
                    ];
                    let esks = Arc::new(premise.state.esks.followed_by(id, key.clone()));
                    also(premise, control, Amendment { esks: Some(esks), ..Amendment::of(changes, keys.new) })
                })
                .await;
            match made {
                Ok((receipt, key)) => return Ok((key, receipt)),
                Err(Error::EpochMismatch { .. }) if expected.is_none() => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::Overloaded)
    }

    /// Does the next piece of work behind erasures: at the most one commit. Whoever keeps a vault open calls it again and
    /// again, with pauses as they like; the server does.
    pub async fn erasing(&self) -> Result<ErasureStep, Error> {
        let mut work = self.inner.erasing.lock().await;
        let state = self.state();
        let Some(older) = state.control.older_esk().map(|k| (k.id, k.drained_at.is_some())) else {
            *work = Erasing::default();
            let since = self.erasures_since(state.esks.active()).await?;
            let delay = u64::from(ERASURE_DELAY_HOURS) * MS_PER_HOUR;
            // One that somebody else may have is replaced as soon as a custodian is there.
            let known = state.control.is_compromised(state.esks.active());
            let due = known || since.is_some_and(|since| since.plus_ms(delay) <= self.now());
            return Ok(if due { ErasureStep::Due } else { ErasureStep::Idle });
        };
        match older {
            (key, true) => self.end_esk(key).await,
            (key, false) => self.move_customers(&state, key, &mut work).await,
        }
    }

    /// How far the work behind erasures is; none where nothing is to be done.
    pub async fn erasure_work(&self) -> Result<Option<ErasureWork>, Error> {
        let work = self.inner.erasing.lock().await;
        let state = self.state();
        let older = state.control.older_esk().map(|k| k.id);
        let key = older.unwrap_or_else(|| state.esks.active());
        let pending_since = self.erasures_since(key).await?;
        let told = ErasureWork { key, pending_since, moving: older.is_some(), moved: work.moved };
        Ok((told.moving || pending_since.is_some()).then_some(told))
    }

    /// The place in the log of the certificate for an erasure whose receipt has this place; none while it is not written
    /// yet.
    ///
    /// Errors: malformed where the entry at this place is no erasure.
    pub async fn erasure_certificate(&self, index: u64) -> Result<Option<u64>, Error> {
        let erased = self.entries(index, 1).await?.pop();
        let Some((_, _, erased)) = erased.filter(|(_, _, e)| matches!(e.event, Event::Erased { .. })) else {
            return Err(Error::malformed("receipt", "is not of an erasure"));
        };
        let state = self.state();
        // The first key that was in force at the erasure or later and is no more: its successor came after the erasure.
        let keys = state.control.keys.iter().filter(|k| k.kind == KeyKind::Esk);
        let mut pairs = keys.clone().zip(keys.skip(1));
        let ended = pairs.find(|(_, next)| next.made_in.is_some_and(|before| erased.epoch < before));
        let Some(epoch) = ended.and_then(|(key, _)| key.destroyed_in) else { return Ok(None) };
        let first = self.first_of_epoch(epoch).await?;
        let found = self.entries(first, ERASURE_PAGE).await?.into_iter().find(|(_, _, entry)| {
            let Event::ControlChanged { change, .. } = &entry.event else { return false };
            matches!(change, ControlChange::ErasureKeyDestroyed { .. })
        });
        Ok(found.map(|(index, ..)| index))
    }

    /// The place of the first entry of an epoch or of a later one: epochs never fall along the log.
    async fn first_of_epoch(&self, epoch: u64) -> Result<u64, Error> {
        let (mut low, mut high) = (0, self.checkpoint().await?.checkpoint().size);
        while low < high {
            let middle = low.midpoint(high);
            let below = self.entries(middle, 1).await?.pop().is_some_and(|(_, _, e)| e.epoch < epoch);
            if below {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Since when erasures wait for this key's end.
    async fn erasures_since(&self, key: KeyId) -> Result<Option<Timestamp>, Error> {
        let row = self.inner.store.get(&[erasure_key(key)]).await?.into_iter().next().flatten();
        Ok(row.and_then(|row| Reader::new(&row).u64().ok()).map(Timestamp))
    }

    async fn move_customers(
        &self,
        state: &State,
        key: KeyId,
        work: &mut Erasing,
    ) -> Result<ErasureStep, Error> {
        if work.key != Some(key) {
            *work = Erasing { key: Some(key), counting: true, ..Erasing::default() };
        }
        if work.stuck {
            return Ok(ErasureStep::Idle);
        }
        let most = work.most.unwrap_or(ERASURE_PAGE);
        let outer = |merchant| state.keyring.outer(merchant).ok();
        let purpose = if work.counting { Purpose::Count } else { Purpose::Move };
        let store = self.inner.store.as_ref();
        let next = work.walk.next(store, outer, &state.esks, (purpose, most)).await?;
        let Some((Page { seen, older, part, unreadable }, next)) = next else {
            return self.end_of_pass(key, work).await;
        };
        let moved = part.writes.len();
        if moved > 0 {
            let active = state.esks.active();
            let event = Event::Resealed { key: active.0, rows: u32::try_from(moved).unwrap_or(u32::MAX) };
            let epoch = state.epoch.version;
            let statement = Statement { who: Who::Vault, merchant: None, channel: None, event, epoch };
            let filed =
                self.inner.journal.file(vec![Filing::Upkeep(statement, part, None)], None, None).await;
            match filed.map(|answers| answers.into_iter().next()) {
                Ok(Some(Ok(_))) => {}
                // Somebody changed one of them, the epoch is another, or the queue has no room for so many.
                Ok(Some(Err(NotFiled::Stale)) | None) | Err(Error::Overloaded) => {
                    work.most = Some((most / 2).max(1));
                    return Ok(ErasureStep::Worked { seen, moved: 0 });
                }
                Ok(Some(Err(why))) => return Err(why.into()),
                Err(e) => return Err(e),
            }
        }
        work.walk = next;
        work.most = None;
        work.older = work.older.saturating_add(older);
        work.unreadable = work.unreadable.saturating_add(unreadable);
        work.moved = work.moved.saturating_add(u64::try_from(moved).unwrap_or(u64::MAX));
        Ok(ErasureStep::Worked { seen, moved })
    }

    /// All customers were seen: counted, or moved as far as they could be.
    async fn end_of_pass(&self, key: KeyId, work: &mut Erasing) -> Result<ErasureStep, Error> {
        if !work.counting {
            work.begin(true);
            return Ok(ErasureStep::Worked { seen: 0, moved: 0 });
        }
        if work.older > 0 && work.unreadable >= work.older {
            work.stuck = true;
            return Ok(ErasureStep::Stuck { unreadable: work.unreadable });
        }
        if work.older > 0 {
            work.begin(false);
            return Ok(ErasureStep::Worked { seen: 0, moved: 0 });
        }
        // None ever will be again: what is sealed since the rotation is sealed under the newest key.
        let noted = self.change_by(&Who::Vault, None, |premise, control| {
            control.drain(&[key], premise.now);
            Ok(Amendment::of(vec![ControlChange::KeyDrained { key: key.0 }], ()))
        });
        noted.await?;
        Ok(ErasureStep::Drained)
    }

    /// Takes the older key out of its file, then out of Control and memory, and writes the certificate: so that what the
    /// certificate says is so before it is said.
    async fn end_esk(&self, key: KeyId) -> Result<ErasureStep, Error> {
        let written = self.custody().await;
        let (state, file) = (self.state(), &self.inner.esk_file);
        let newest = (state.esks.active(), state.top.header.custody.as_slice());
        // What takes the older file's place must be the newest key's: another one put there would be the end of all customers.
        esk::check_rotated(file, &self.inner.vault, newest)?;
        if Some(esk::Print::of_newest(file)?) != *written {
            return Err(Error::Config(
                "the newest erasure key's file beside the store (`esk.rotated`, or `esk` if there is none) is not as the vault \
                 wrote it: nothing was destroyed; put back its newest copy"
                    .to_owned(),
            ));
        }
        esk::settle_rotated(file)?;
        // Whoever took the waiting file away took the key of all customers: then the older one must stay as well.
        esk::held(file, &self.inner.vault, (state.esks.active(), &state.top.header.custody))?;
        let ended = self.change_by(&Who::Vault, None, |premise, control| {
            let before = control.end_esk(key)?;
            let custodians = premise.state.top.header.custody.iter().map(CustodyBlock::kind).collect();
            let changes = vec![
                ControlChange::KeyState { key: key.0, state: KeyState::Destroyed },
                ControlChange::ErasureKeyDestroyed { key: key.0, before, custodians },
            ];
            let esks = Some(Arc::new(premise.state.esks.without_older()));
            let writes = vec![Write::Delete(erasure_key(key))];
            Ok(Amendment { writes, esks, ..Amendment::of(changes, ()) })
        });
        ended.await?;
        Ok(ErasureStep::Destroyed)
    }

    /// Moves all customers and ends the older erasure epoch key, if there is one: who protects the vault changes only where
    /// there is one key to protect.
    pub(super) async fn one_esk(&self) -> Result<(), Error> {
        while self.state().control.older_esk().is_some() {
            if let ErasureStep::Stuck { .. } | ErasureStep::Idle = self.erasing().await? {
                return Err(Error::Config(
                    "customers' rows do not open, so that an older erasure key is still needed: `vaultctl store verify` names \
                     them; custodians can be changed once they are put right"
                        .to_owned(),
                ));
            }
        }
        Ok(())
    }
}
