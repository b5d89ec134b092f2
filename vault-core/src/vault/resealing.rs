//! The work behind a rotation of a key that rows lie under: of what seals them (DEK), and of what names them (IDX and FPR).
//! Rows that are not where they would be put now, under the key that seals now, are counted, moved, and counted again,
//! until none is left. Then the older keys are drained, which the log says: that entry and its receipt are the rotation's
//! certificate.
//!
//! It goes on by itself wherever the process was ended: what is done shows in the rows. It never opens a card: see
//! [`crate::reseal`].

use std::collections::HashMap;

use super::amend::Amendment;
use super::{State, Vault};
use crate::audit::entry::{ControlChange, Event, Who};
use crate::audit::receipt::Receipt;
use crate::control::KeyRecord;
use crate::envelope::{KeyId, KeyKind};
use crate::error::Error;
use crate::journal::{Filing, NotFiled};
use crate::name::{MerchantName, PrincipalName};
use crate::policy::Statement;
use crate::record::MerchantId;
use crate::reseal::{Page, Walk};
use crate::rows;
use crate::store::{Key, Part};
use crate::time::Timestamp;
use crate::words::KeyState;

/// How many rows are sealed anew in one commit: some 25 KiB, which hold up nobody behind them; each has an entry of the log.
pub const RESEAL_PAGE: usize = 64;

/// How many rows are looked at at once while they are only counted: one page of a store.
const COUNT_PAGE: usize = 1_000;

/// The kinds of keys that rows lie under.
const ROTATED: [KeyKind; 3] = [KeyKind::Dek, KeyKind::Idx, KeyKind::Fpr];

/// What a step of the work came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResealStep {
    /// There is nothing to do, or nothing that can be done.
    Idle,
    /// So many rows were looked at; of those so many were sealed anew.
    Worked {
        /// Rows read.
        seen: usize,
        /// Rows written.
        moved: usize,
    },
    /// The older keys of a merchant are drained: the log says so.
    Drained,
    /// Rows are left that do not open, and keep their keys needed: told once, until a restart or another rotation.
    Stuck {
        /// How many.
        unreadable: u64,
    },
}

/// How far the work for one merchant is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResealProgress {
    /// Whose rows.
    pub merchant: MerchantName,
    /// The keys that they move to, one of each kind that was rotated.
    pub to: Vec<KeyId>,
    /// The keys that they move from.
    pub from: Vec<KeyId>,
    /// How many rows there are to move, once they were counted.
    pub total: Option<u64>,
    /// How many were moved.
    pub moved: u64,
    /// How many do not open under the key that they name: they keep it needed. `store verify` names them.
    pub unreadable: u64,
    /// Whether nothing else is left: then it rests until a restart or another rotation.
    pub stuck: bool,
    /// When the work began, or began anew after a restart; now if it did not begin yet.
    pub since: Timestamp,
}

/// The work under way.
#[derive(Default)]
pub(super) struct Resealing {
    job: Option<Job>,
    /// Where all that is left cannot be moved, and how much that is: not tried again before a restart or another rotation.
    stuck: HashMap<Due, u64>,
}

/// A merchant whose rows are to be moved, the keys that they move to, and those that they move from.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Due {
    merchant: MerchantName,
    to: Vec<KeyId>,
    from: Vec<KeyId>,
}

struct Job {
    due: Due,
    merchant: MerchantId,
    pass: Pass,
    walk: Walk,
    /// Rows of a page: fewer after one that others changed meanwhile.
    most: usize,
    total: Option<u64>,
    moved: u64,
    unreadable: u64,
    since: Timestamp,
}

/// What the walk does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// It counts rows that are to move.
    Count { left: u64 },
    /// It moves them.
    Move,
}

impl Job {
    fn new(due: Due, state: &State, now: Timestamp) -> Result<Self, Error> {
        let merchant = state.control.numbers.get(&due.merchant).ok_or_else(Error::internal)?.id;
        Ok(Self {
            due,
            merchant,
            pass: Pass::Count { left: 0 },
            walk: Walk::default(),
            most: RESEAL_PAGE,
            total: None,
            moved: 0,
            unreadable: 0,
            since: now,
        })
    }

    fn begin(&mut self, pass: Pass) {
        self.pass = pass;
        self.walk = Walk::default();
        self.most = RESEAL_PAGE;
    }
}

impl Vault {
    /// Does the next piece of work behind rotations of the keys that rows lie under: at the most one commit. Whoever keeps a vault
    /// open calls it again and again, with pauses as they like; the server does.
    pub async fn reseal(&self) -> Result<ResealStep, Error> {
        let mut work = self.inner.resealing.lock().await;
        let state = self.state();
        let Resealing { job, stuck } = &mut *work;
        let Some(due) = due(&state, job.as_ref(), stuck) else {
            *job = None;
            return Ok(ResealStep::Idle);
        };
        let under_way = match job.take().filter(|job| job.due == due) {
            Some(under_way) => under_way,
            None => Job::new(due, &state, self.now())?,
        };
        let under_way = job.insert(under_way);
        match under_way.pass {
            Pass::Move => self.move_rows(under_way, &state).await,
            Pass::Count { left } => self.count_rows(under_way, left, &state, stuck).await,
        }
    }

    /// How far the work behind rotations is: what is under way, else what is to be done or cannot be. None once every older
    /// key is drained.
    pub async fn reseal_progress(&self) -> Option<ResealProgress> {
        let work = self.inner.resealing.lock().await;
        let state = self.state();
        if let Some(job) = work.job.as_ref().filter(|job| open(&state, &job.due.merchant).is_some()) {
            let Due { merchant, to, from } = job.due.clone();
            return Some(ResealProgress {
                merchant,
                to,
                from,
                total: job.total,
                moved: job.moved,
                unreadable: job.unreadable,
                stuck: work.stuck.contains_key(&job.due),
                since: job.since,
            });
        }
        let due = state.control.numbers.keys().find_map(|name| open(&state, name))?;
        let stuck = work.stuck.get(&due);
        Some(ResealProgress {
            total: stuck.copied(),
            moved: 0,
            unreadable: stuck.copied().unwrap_or(0),
            stuck: stuck.is_some(),
            since: self.now(),
            merchant: due.merchant,
            to: due.to,
            from: due.from,
        })
    }

    /// Destroys a key that nothing needs any more: see
    /// [`Control::destroy_unneeded`](crate::control::Control::destroy_unneeded) (`expected` as at
    /// [`apply_policy`](Self::apply_policy)).
    pub async fn destroy_key(
        &self,
        by: &PrincipalName,
        key: KeyId,
        expected: Option<u64>,
    ) -> Result<Receipt, Error> {
        let unused = self.is_unused_adm(key).await?;
        let destroyed = self.change(by, expected, |premise, control| {
            if unused {
                control.drain(&[key], premise.now);
            }
            control.destroy_unneeded(key, premise.now)?;
            let state = KeyState::Destroyed;
            Ok(Amendment::of(vec![ControlChange::KeyState { key: key.0, state }], ()))
        });
        destroyed.await.map(|(receipt, ())| receipt)
    }

    /// Whether this is an administration key that seals no more and that no note is under. No note ever will be: one that is
    /// written is decided under the epoch in force.
    async fn is_unused_adm(&self, key: KeyId) -> Result<bool, Error> {
        let of = |k: &&KeyRecord| k.id == key && k.kind == KeyKind::Adm && k.state == KeyState::Deactivated;
        if !self.state().control.keys.iter().any(|k| of(&k)) {
            return Ok(false);
        }
        let mut after: Option<Key> = None;
        loop {
            let page = self.inner.store.scan(&[rows::NOTE], after.as_deref(), COUNT_PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(true) };
            if page.iter().any(|(_, note)| note.starts_with(&key.0.to_be_bytes())) {
                return Ok(false);
            }
            after = Some(last.clone());
        }
    }

    /// How many rows of a merchant are under which of its keys: each under the one that seals it, and under the one that
    /// names it, if one does. Reads all of them.
    pub async fn rows_by_key(&self, merchant: &MerchantName) -> Result<HashMap<KeyId, u64>, Error> {
        let state = self.state();
        let unknown = || Error::malformed("merchant", "names no merchant");
        let id = state.control.numbers.get(merchant).ok_or_else(unknown)?.id;
        let mut walk = Walk::default();
        let mut by_key = HashMap::new();
        let (store, keys) = (self.inner.store.as_ref(), state.keyring.outer(id)?);
        while let Some((rows, next)) = walk.count(store, id, keys, COUNT_PAGE).await? {
            for key in rows.into_iter().flat_map(|(under, _)| [under.dek, under.named_by]).flatten() {
                *by_key.entry(key).or_insert(0) += 1;
            }
            walk = next;
        }
        Ok(by_key)
    }

    async fn count_rows(
        &self,
        job: &mut Job,
        left: u64,
        state: &State,
        stuck: &mut HashMap<Due, u64>,
    ) -> Result<ResealStep, Error> {
        let (store, keys) = (self.inner.store.as_ref(), state.keyring.outer(job.merchant)?);
        if let Some((rows, next)) = job.walk.count(store, job.merchant, keys, COUNT_PAGE).await? {
            let seen = rows.len();
            let old = rows.into_iter().filter(|(under, now)| under != now).count();
            job.pass = Pass::Count { left: left.saturating_add(u64::try_from(old).unwrap_or(u64::MAX)) };
            job.walk = next;
            return Ok(ResealStep::Worked { seen, moved: 0 });
        }
        if left == 0 {
            return self.drained(job).await;
        }
        if job.unreadable >= left {
            stuck.insert(job.due.clone(), job.unreadable);
            return Ok(ResealStep::Stuck { unreadable: job.unreadable });
        }
        job.total.get_or_insert(left);
        job.unreadable = 0;
        job.begin(Pass::Move);
        Ok(ResealStep::Worked { seen: 0, moved: 0 })
    }

    async fn move_rows(&self, job: &mut Job, state: &State) -> Result<ResealStep, Error> {
        let keys = state.keyring.outer(job.merchant)?;
        let next = job.walk.next(self.inner.store.as_ref(), job.merchant, keys, job.most).await?;
        let Some((Page { seen, moved, part, unreadable }, next)) = next else {
            job.begin(Pass::Count { left: 0 });
            return Ok(ResealStep::Worked { seen: 0, moved: 0 });
        };
        if moved > 0 {
            let to = job.due.to.first().copied().unwrap_or(KeyId(0));
            match self.file_moved(state, to, moved, part).await {
                Ok(true) => {}
                // What is there by then is looked at again.
                Ok(false) => {
                    job.most = (job.most / 2).max(1);
                    return Ok(ResealStep::Worked { seen, moved: 0 });
                }
                // The queue is full, or the page is larger than its share of it.
                Err(e) => {
                    if e == Error::Overloaded {
                        job.most = (job.most / 2).max(1);
                    }
                    return Err(e);
                }
            }
        }
        job.walk = next;
        job.most = RESEAL_PAGE;
        job.moved = job.moved.saturating_add(u64::try_from(moved).unwrap_or(u64::MAX));
        job.unreadable = job.unreadable.saturating_add(unreadable);
        Ok(ResealStep::Worked { seen, moved })
    }

    /// Commits a page of rows that move; false where somebody changed one of them, or the epoch is another.
    async fn file_moved(&self, state: &State, to: KeyId, moved: usize, part: Part) -> Result<bool, Error> {
        let event = Event::Resealed { key: to.0, rows: u32::try_from(moved).unwrap_or(u32::MAX) };
        let epoch = state.epoch.version;
        let statement = Statement { who: Who::Vault, merchant: None, channel: None, event, epoch };
        let filing = Filing::Upkeep(statement, part, None);
        match self.inner.journal.file(vec![filing], None, None).await?.into_iter().next() {
            Some(Ok(_)) => Ok(true),
            Some(Err(NotFiled::Stale)) | None => Ok(false),
            Some(Err(why)) => Err(why.into()),
        }
    }

    /// Seals a merchant's customers' indexes anew, as far as they are under a key that was replaced. Whoever asks holds the
    /// work behind rotations, so that nothing else moves.
    ///
    /// Errors: malformed `key` if one of them does not open.
    pub(super) async fn keep_customers(&self, merchant: &MerchantName) -> Result<(), Error> {
        let (mut walk, mut most) = (Walk::of_customers(), RESEAL_PAGE);
        loop {
            let state = self.state();
            let number = state.control.numbers.get(merchant).ok_or_else(Error::internal)?.id;
            let keys = state.keyring.outer(number)?;
            let to = state.control.active(KeyKind::Dek, Some(merchant)).ok_or_else(Error::internal)?.id;
            let page = walk.next(self.inner.store.as_ref(), number, keys, most).await?;
            let Some((Page { moved, part, unreadable, .. }, next)) = page else { return Ok(()) };
            if unreadable > 0 {
                let rule = "has customers' indexes under it that do not open: `vaultctl store verify` names them; restore those first";
                return Err(Error::malformed("key", rule));
            }
            if moved == 0 || self.file_moved(&state, to, moved, part).await? {
                (walk, most) = (next, RESEAL_PAGE);
            } else {
                most = (most / 2).max(1);
            }
        }
    }

    async fn drained(&self, job: &mut Job) -> Result<ResealStep, Error> {
        let Due { from, merchant, .. } = job.due.clone();
        let noted = self.change_by(&Who::Vault, None, |premise, control| {
            // Only what was deactivated when the counting began: a key that was since has rows of its own.
            let undrained = ROTATED.iter().flat_map(|kind| control.undrained(&merchant, *kind));
            let keys: Vec<KeyId> = undrained.filter(|key| from.contains(key)).collect();
            control.drain(&keys, premise.now);
            let ended = control.end_compromised(&keys, premise.now);
            let drained = keys.iter().map(|key| ControlChange::KeyDrained { key: key.0 });
            Ok(Amendment::of(drained.chain(ended).collect(), ()))
        });
        noted.await?;
        Ok(ResealStep::Drained)
    }
}

/// The merchant whose rows are to be moved next: the one under way, as long as there is something to do for it.
fn due(state: &State, job: Option<&Job>, stuck: &HashMap<Due, u64>) -> Option<Due> {
    let of = |name: &MerchantName| open(state, name).filter(|due| !stuck.contains_key(due));
    let names = || state.control.numbers.keys();
    let known = |due: &Due| due.from.iter().any(|key| state.control.is_compromised(*key));
    let urgent = names().filter(|name| open(state, name).is_some_and(|due| known(&due)));
    let under_way = || job.map(|job| &job.due.merchant);
    // What somebody else may open comes first: of the merchant under way, of any, then all the rest.
    let under_way_first = urgent.clone().filter(|name| under_way() == Some(*name));
    under_way_first.chain(urgent).chain(under_way()).chain(names()).find_map(of)
}

/// A merchant that has keys which rows may still be under, beside those that are used now: these and those.
fn open(state: &State, name: &MerchantName) -> Option<Due> {
    let mut due = Due { merchant: name.clone(), to: Vec::new(), from: Vec::new() };
    for kind in ROTATED {
        let before = due.from.len();
        due.from.extend(state.control.undrained(name, kind));
        if due.from.len() > before {
            due.to.push(state.control.active(kind, Some(name))?.id);
        }
    }
    (!due.from.is_empty()).then_some(due)
}
