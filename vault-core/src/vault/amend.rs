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
use crate::store::{Expect, Key, Part, Write};
use crate::survivors::Esks;
use crate::time::Timestamp;

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

    /// The same as anybody's doing. A change whose caller went away meanwhile may come in between, and then this one is made
    /// anew.
    pub(super) async fn change_by<T>(
        &self,
        by: &Who,
        expected: Option<u64>,
        edit: impl Fn(&Premise<'_>, &mut Control) -> Result<Amendment<T>, Error>,
    ) -> Result<(Receipt, T), Error> {
        let _one_at_a_time = self.inner.changing.lock().await;
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
            let keyring = Keyring::unwrap(&control, &top.root, esks.clone())?;
            let (row, epoch) = control.seal(&self.inner.vault, top.header.ctl.0, &top.ctl)?;
            let mut part = Part { expects: Vec::<Expect>::new(), writes: Control::writes(row, &epoch) };
            part.writes.extend(writes);
            // Not an owner: the journal's thread must never be the one that closes the vault.
            let inner = Arc::downgrade(&self.inner);
            let next = signer.as_ref().map(|signer| signer.verifier().clone());
            let hand_over = signer.map(|signer| NextSigner { signer, row: hand_over_row(&control) });
            let mut state = State { control, epoch, rules, keyring, top, esks, log: before.log.clone() };
            let step = ControlStep {
                from: before.epoch,
                epoch,
                part,
                changes: changes.into_iter().map(|change| (by.clone(), change)).collect(),
                hand_over,
                in_force: Box::new(move |head| {
                    if let Some(next) = next {
                        state.log = Arc::new(state.log.handed_over(&next, head));
                    }
                    if let Some(inner) = inner.upgrade() {
                        Self::put_in_force(&inner, state);
                    }
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

/// Where the checkpoint of the newest hand-over of the log is kept.
fn hand_over_row(control: &Control) -> Key {
    let earlier = control.logs.iter().find(|log| log.id == FIRST_LOG).map_or(0, |log| log.earlier.len());
    let which = u32::try_from(earlier).unwrap_or(u32::MAX).saturating_sub(1);
    hand_over_key(FIRST_LOG, which)
}
