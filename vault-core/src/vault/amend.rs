//! How Control changes: from what is in force to its next version, in one commit, one change at a time in this process.
//!
//! A change that was made of what is no longer in force is made anew. From its flush on the new version decides; nothing
//! that was decided under the one before is written after it.

use std::sync::Arc;

use super::{FIRST_LOG, Inner, MAX_ROUNDS, State, Top, Vault};
use crate::audit::entry::{ControlChange, Who};
use crate::audit::handover::hand_over_key;
use crate::audit::note::LogSigner;
use crate::audit::receipt::Receipt;
use crate::control::{Control, header_key};
use crate::error::Error;
use crate::journal::{ControlStep, NextSigner, NotFiled};
use crate::keyring::Keyring;
use crate::name::PrincipalName;
use crate::policy::Rules;
use crate::store::{Expect, Part, Write};
use crate::survivors::Esks;
use crate::time::Timestamp;
use crate::uses::{Begun, Uses};

/// What a change begins with.
pub(super) struct Premise<'a> {
    pub(super) inner: &'a Inner,
    pub(super) state: &'a State,
    pub(super) now: Timestamp,
}

/// What a change comes to, beside the new version of Control itself.
pub(super) struct Amendment<T> {
    /// What the log says.
    pub(super) changes: Vec<ControlChange>,
    /// What is written with it.
    pub(super) writes: Vec<Write>,
    /// What stands above Control from then on, if that changes.
    pub(super) top: Option<Top>,
    /// Who signs the log from then on, if that changes.
    pub(super) signer: Option<LogSigner>,
    /// The erasure epoch keys from then on, if they change.
    pub(super) esks: Option<Arc<Esks>>,
    /// What is told to who asked for it.
    pub(super) value: T,
}

impl<T> Amendment<T> {
    /// One that changes nothing but Control.
    pub(super) fn of(changes: Vec<ControlChange>, value: T) -> Self {
        Self { changes, writes: Vec::new(), top: None, signer: None, esks: None, value }
    }

    /// The same with something else to tell.
    pub(super) fn map<U>(self, told: impl FnOnce(T) -> U) -> Amendment<U> {
        let Self { changes, writes, top, signer, esks, value } = self;
        Amendment { changes, writes, top, signer, esks, value: told(value) }
    }
}

impl Vault {
    /// Makes the next version of Control as an operator's doing, commits it, and puts it in force. With `expected`, only if
    /// that epoch is in force.
    pub(super) async fn change<T>(
        &self,
        by: &PrincipalName,
        expected: Option<u64>,
        edit: impl Fn(&Premise<'_>, &mut Control) -> Result<Amendment<T>, Error>,
    ) -> Result<(Receipt, T), Error> {
        self.change_by(&Who::Listed(by.clone()), expected, edit).await
    }

    /// The same as anybody's doing. One whose caller goes away meanwhile is done or not done before the next begins.
    pub(super) async fn change_by<T>(
        &self,
        by: &Who,
        expected: Option<u64>,
        edit: impl Fn(&Premise<'_>, &mut Control) -> Result<Amendment<T>, Error>,
    ) -> Result<(Receipt, T), Error> {
        let one_at_a_time = Arc::new(self.inner.changing.clone().lock_owned().await);
        for _ in 0..MAX_ROUNDS {
            let before = self.state();
            if expected.is_some_and(|epoch| epoch != before.epoch.version) {
                return Err(Error::EpochMismatch { epoch: before.epoch.version });
            }
            let now = self.now();
            let mut control = before.control.clone();
            control.version = control.version.saturating_add(1);
            control.made_at = now;
            let premise = Premise { inner: &self.inner, state: &before, now };
            let Amendment { changes, mut writes, top, signer, esks, value } = edit(&premise, &mut control)?;
            writes.extend(top.iter().map(|top| Write::Put(header_key(), top.header.encode())));
            let top = top.map_or_else(|| before.top.clone(), Arc::new);
            let esks = esks.unwrap_or_else(|| before.esks.clone());
            let rules = Rules::of(&control)?;
            let (uses, blocks, begun) = before.uses.begin(&control);
            let keyring = Keyring::unwrap(&control, &top.root, esks.clone(), &uses)?;
            let (row, epoch) = control.seal(&self.inner.vault, top.header.ctl.0, &top.ctl)?;
            let mut part = Part { expects: Vec::<Expect>::new(), writes: Control::writes(row, &epoch) };
            part.writes.extend(writes);
            part.expects.extend(blocks.expects);
            part.writes.extend(blocks.writes);
            // Not an owner: the journal's thread must never be the one that closes the vault.
            let inner = Arc::downgrade(&self.inner);
            let next = signer.as_ref().map(|signer| signer.verifier().clone());
            let hand_over = signer.map(|signer| next_signer(signer, &control, &uses)).transpose()?;
            let log = before.log.clone();
            let until_done = one_at_a_time.clone();
            let mut state = State { control, epoch, rules, keyring, top, uses, log, esks };
            let step = ControlStep {
                from: before.epoch,
                epoch,
                part,
                changes: changes.into_iter().map(|change| (by.clone(), change)).collect(),
                hand_over,
                in_force: Box::new(move |head| {
                    begun.iter().for_each(Begun::granted);
                    if let Some(next) = next {
                        state.log = Arc::new(state.log.handed_over(&next, head));
                    }
                    if let Some(inner) = inner.upgrade() {
                        Self::put_in_force(&inner, state);
                    }
                    drop(until_done);
                }),
            };
            match self.inner.journal.control(step).await {
                Ok(receipt) => return Ok((receipt, value)),
                Err(NotFiled::Stale) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Error::Overloaded)
    }
}

/// Who signs the log from then on, and where the checkpoint of this hand-over is kept.
fn next_signer(signer: LogSigner, control: &Control, uses: &Uses) -> Result<NextSigner, Error> {
    let log = control.logs.iter().find(|log| log.id == FIRST_LOG).ok_or_else(Error::internal)?;
    let which = u32::try_from(log.earlier.len()).unwrap_or(u32::MAX).saturating_sub(1);
    let signatures = uses.counter(log.key).ok_or_else(Error::internal)?;
    Ok(NextSigner { signer, signatures, row: hand_over_key(FIRST_LOG, which) })
}
