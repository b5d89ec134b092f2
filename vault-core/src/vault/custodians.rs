//! Who protects the root: a new root under the same custodians, a custodian in another's place, one more of them, one less.
//!
//! The header row says who is in force, and changes in one commit with Control and the log. The erasure epoch key lies in a
//! file of its own: before that commit the file has what both the old and the new custodians need, after it the new ones'
//! alone. So whenever the process is killed, exactly one of the two opens the vault: the one that the header names.

use super::amend::{Amendment, Premise};
use super::esk::{self, Held};
use super::rotate::{named_wrap, superseded};
use super::{Place, State, Top, Vault};
use crate::audit::entry::ControlChange;
use crate::audit::receipt::Receipt;
use crate::control::{Control, Epoch, Header, control_key, epoch_key, header_key};
use crate::custody::{Custodian, CustodyBlock, MAX_CUSTODIANS};
use crate::envelope::{Esk, KeyId, KeyKind, KeyMaterial as _, Root};
use crate::error::Error;
use crate::name::PrincipalName;
use crate::store::StoreError;

/// How often a change is prepared anew that another change of Control was faster than: stretching a secret takes long.
const ATTEMPTS: usize = 8;

/// What is told of a custodian that would protect the root twice.
const TWICE: &str = "this custodian protects the root already; see vaultctl custodian list";

/// What custody is to become.
struct Custody {
    /// The header row's blocks.
    blocks: Vec<CustodyBlock>,
    /// What the file of the erasure epoch key needs for them.
    held: Vec<Held>,
}

impl State {
    /// The erasure epoch key that seals.
    fn esk(&self) -> Result<&Esk, Error> {
        self.esks.get(self.esks.active()).ok_or_else(Error::internal)
    }
}

impl Vault {
    /// The only one who writes the files of erasure epoch keys. What somebody asked for before and did not wait for is done
    /// or not done by then.
    pub(super) async fn custody(&self) -> tokio::sync::MutexGuard<'_, Option<esk::Print>> {
        let only = self.inner.custody.lock().await;
        drop(self.inner.changing.lock().await);
        only
    }

    /// The only one who changes custody, and with it the file of the one erasure epoch key that there is.
    async fn one_esk_in_custody(&self) -> Result<tokio::sync::MutexGuard<'_, Option<esk::Print>>, Error> {
        for _ in 0..ATTEMPTS {
            self.one_esk().await?;
            let only = self.custody().await;
            if self.state().control.older_esk().is_none() {
                return Ok(only);
            }
        }
        Err(Error::Overloaded)
    }

    /// Makes a new root, wraps every key that lay under the old one under it, has every custodian of the old one take the
    /// new one into custody, and destroys the old one. Writes Control and the header. `custodians` must open every custody
    /// block that the header has. It may take seconds: a custodian's secret is stretched on purpose, before anybody is
    /// made to wait. Returns the new key's number.
    ///
    /// Errors: [`Error::Custody`] if they open no block, [`Error::Config`] that names the one that none of them opens; as at
    /// [`apply_policy`](Self::apply_policy).
    pub async fn rotate_root(
        &self,
        by: &PrincipalName,
        custodians: &[&dyn Custodian],
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.rotate_root_with(by, custodians, expected, |_, _, made| Ok(made)).await
    }

    /// The same with more in the same commit.
    pub(super) async fn rotate_root_with<T>(
        &self,
        by: &PrincipalName,
        custodians: &[&dyn Custodian],
        expected: Option<u64>,
        also: impl Fn(&Premise<'_>, &mut Control, Amendment<KeyId>) -> Result<Amendment<T>, Error>,
    ) -> Result<(T, Receipt), Error> {
        let _one_at_a_time = self.one_esk_in_custody().await?;
        for _ in 0..ATTEMPTS {
            let state = self.state();
            let root = std::sync::Arc::new(Root::generate()?);
            let mut custody = Custody { blocks: Vec::new(), held: Vec::new() };
            let who = self.who_opens(&state, custodians)?;
            for (block, custodian) in state.top.header.custody.iter().zip(who) {
                let (esk, vault) = (state.esk()?, &self.inner.vault);
                let taken = custodian.wrap_like(block, root.secret(), KeyKind::Root, vault)?;
                custody.held.push(Held::by(custodian, esk, vault, &taken)?);
                custody.blocks.push(taken);
            }
            let made = self
                .put_in_custody(by, (&state, expected), custody, |premise, control, custody| {
                    let top = &premise.state.top;
                    let keys = control.replace_root(top.root(), &root, premise.now)?;
                    let version = control.keys.iter().find(|k| k.id == keys.new).map_or(1, |k| k.version);
                    let ctl = named_wrap(control, top.header.ctl.0)?;
                    let header = Header { custody, root: (keys.new, version), ctl, vault: top.header.vault };
                    let top = Top { header, root: root.clone(), ctl: top.ctl.clone() };
                    also(premise, control, Amendment { top: Some(top), ..superseded(&keys) })
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

    /// Puts one custodian in the place of another, which must open its block: another passphrase, a higher cost of the same
    /// one, another kind. The root and every other key stay. From the commit on the new one alone opens the vault.
    ///
    /// Errors: [`Error::Custody`] if the old one opens no block; as at [`apply_policy`](Self::apply_policy).
    pub async fn change_custodian(
        &self,
        by: &PrincipalName,
        (old, new): (&dyn Custodian, &dyn Custodian),
        expected: Option<u64>,
    ) -> Result<Receipt, Error> {
        let _one_at_a_time = self.one_esk_in_custody().await?;
        for _ in 0..ATTEMPTS {
            let (state, vault) = (self.state(), &self.inner.vault);
            let mut blocks = state.top.header.custody.clone();
            let place = self.place_of(&state, old)?.ok_or(Error::Custody)?;
            // The same one may take its own place, at a higher cost; another's it already has.
            if self.place_of(&state, new)?.is_some_and(|at| at != place) {
                return Err(Error::Config(TWICE.to_owned()));
            }
            let (replaced, root) = (blocks.get(place).ok_or_else(Error::internal)?, state.top.root.secret());
            // The same kind of custodian is never cheaper to guess than the one before.
            let taken = match new.wrap_like(replaced, root, KeyKind::Root, vault) {
                Err(Error::Custody) => new.wrap(root, KeyKind::Root, vault)?,
                taken => taken?,
            };
            let held = vec![Held::by(new, state.esk()?, vault, &taken)?];
            let (from, to) = (blocks.get(place).map_or(0, CustodyBlock::kind), taken.kind());
            if let Some(block) = blocks.get_mut(place) {
                *block = taken;
            }
            let changes = vec![
                ControlChange::CustodyTaken { custodian: to },
                ControlChange::CustodyEnded { custodian: from },
            ];
            match self.put_blocks_in_force(by, (&state, expected), Custody { blocks, held }, changes).await {
                Err(Error::EpochMismatch { .. }) if expected.is_none() => {}
                made => return made,
            }
        }
        Err(Error::Overloaded)
    }

    /// Has one more custodian take the root into custody, beside those that protect it. From the commit on each of them alone
    /// opens the vault.
    ///
    /// Errors: [`Error::Config`] where there are [`MAX_CUSTODIANS`] already, or this one is among them; as at
    /// [`apply_policy`](Self::apply_policy).
    pub async fn add_custodian(
        &self,
        by: &PrincipalName,
        new: &dyn Custodian,
        expected: Option<u64>,
    ) -> Result<Receipt, Error> {
        let _one_at_a_time = self.one_esk_in_custody().await?;
        for _ in 0..ATTEMPTS {
            let (state, vault) = (self.state(), &self.inner.vault);
            let mut blocks = state.top.header.custody.clone();
            if blocks.len() >= MAX_CUSTODIANS {
                let full =
                    "four custodians protect the root already; remove one first: vaultctl custodian list";
                return Err(Error::Config(full.to_owned()));
            }
            if self.place_of(&state, new)?.is_some() {
                return Err(Error::Config(TWICE.to_owned()));
            }
            let taken = new.wrap(state.top.root.secret(), KeyKind::Root, vault)?;
            let held = vec![Held::by(new, state.esk()?, vault, &taken)?];
            let changes = vec![ControlChange::CustodyTaken { custodian: taken.kind() }];
            blocks.push(taken);
            match self.put_blocks_in_force(by, (&state, expected), Custody { blocks, held }, changes).await {
                Err(Error::EpochMismatch { .. }) if expected.is_none() => {}
                made => return made,
            }
        }
        Err(Error::Overloaded)
    }

    /// Takes a custodian away: the `place`-th of [`custodians`](Self::custodians), from 1. It is not asked, so that one that
    /// is lost can go; `stays` must open another's block, so that one that opens the vault is sure to be left.
    ///
    /// Errors: malformed for a place that is none; [`Error::Config`] for the last one, or where `stays` opens none of the
    /// others; as at [`apply_policy`](Self::apply_policy).
    pub async fn remove_custodian(
        &self,
        by: &PrincipalName,
        place: usize,
        stays: &dyn Custodian,
        expected: Option<u64>,
    ) -> Result<Receipt, Error> {
        let _one_at_a_time = self.one_esk_in_custody().await?;
        for _ in 0..ATTEMPTS {
            let state = self.state();
            let mut blocks = state.top.header.custody.clone();
            let at = place.checked_sub(1).filter(|at| *at < blocks.len());
            let at = at.ok_or(Error::malformed("custodian", "is no number of `vaultctl custodian list`"))?;
            let gone = blocks.remove(at);
            if blocks.is_empty() {
                let last =
                    "it is the only custodian: put another in its place instead (vaultctl custodian change)";
                return Err(Error::Config(last.to_owned()));
            }
            let held = self.held_by_one_that_stays(&state, stays, &blocks)?;
            let custody = Custody { blocks, held };
            let changes = vec![ControlChange::CustodyEnded { custodian: gone.kind() }];
            match self.put_blocks_in_force(by, (&state, expected), custody, changes).await {
                Err(Error::EpochMismatch { .. }) if expected.is_none() => {}
                made => return made,
            }
        }
        Err(Error::Overloaded)
    }

    /// Who protects the root, in the order of the header row: the kind, and what its block says of itself.
    #[must_use]
    pub fn custodians(&self) -> Vec<(&'static str, String)> {
        self.state().top.header.custody.iter().map(CustodyBlock::told).collect()
    }

    /// The same of a vault that is not open. It needs no secret, and proves nothing: the header row is not sealed.
    pub async fn read_custodians(place: &Place) -> Result<Vec<(&'static str, String)>, Error> {
        let rows = place.store.get(&[header_key()]).await?;
        let header = rows.first().and_then(Option::as_ref).ok_or(Error::Store(StoreError::Missing))?;
        Ok(Header::decode(header)?.custody.iter().map(CustodyBlock::told).collect())
    }

    /// Says whether a custodian opens the vault that lies there: the root, what Control has of it, and the erasure epoch key.
    /// Nothing is written or served. Gives the vault's id in hexadecimal.
    ///
    /// Errors: [`Error::Custody`] if it does not; of the store where there is no whole vault.
    pub async fn check_custody(place: &Place, custodian: &dyn Custodian) -> Result<String, Error> {
        let damaged = || Error::Store(StoreError::Corrupt);
        let rows = place.store.get(&[header_key(), control_key(), epoch_key()]).await?;
        let [Some(header), Some(control), Some(epoch)] = rows.as_slice() else {
            return Err(Error::Store(StoreError::Missing));
        };
        let header = Header::decode(header)?;
        let epoch = Epoch::decode(epoch).map_err(|_| damaged())?;
        let (_, ctl) = header.unlock(custodian)?;
        let control = Control::open(control, &epoch, &header.vault, header.ctl.0, &ctl)?;
        let id = control.active(KeyKind::Esk, None).ok_or_else(damaged)?.id;
        let older = control.older_esk().map(|k| (k.id, k.drained_at.is_some()));
        esk::check_all(&place.esk, custodian, &header.vault, (id, older), &header.custody)?;
        Ok(data_encoding::HEXLOWER.encode(&header.vault))
    }

    /// Whether a custodian opens a block. A device that cannot be asked is an error: nothing is known then.
    fn opens(&self, state: &State, custodian: &dyn Custodian, block: &CustodyBlock) -> Result<bool, Error> {
        match custodian.unwrap(block, KeyKind::Root, &self.inner.vault) {
            Ok(held) => Ok(held.same_as(state.top.root.secret())),
            Err(Error::Custody) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn place_of(&self, state: &State, custodian: &dyn Custodian) -> Result<Option<usize>, Error> {
        for (at, block) in state.top.header.custody.iter().enumerate() {
            if self.opens(state, custodian, block)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// What the file of the erasure epoch key lacks for a custodian that must open one of the blocks that stay: nothing, but
    /// beside an older copy.
    fn held_by_one_that_stays(
        &self,
        state: &State,
        stays: &dyn Custodian,
        blocks: &[CustodyBlock],
    ) -> Result<Vec<Held>, Error> {
        let (esk, vault) = (state.esk()?, &self.inner.vault);
        for block in blocks {
            if !self.opens(state, stays, block)? {
                continue;
            }
            for held in self.held(state)? {
                if held.opens(stays, esk, vault, block)? {
                    return Ok(Vec::new());
                }
            }
            return Ok(vec![Held::by(stays, esk, vault, block)?]);
        }
        let none = "the custodian given must be one of those that stay; nothing was changed";
        Err(Error::Config(none.to_owned()))
    }

    /// Who of them opens which block, a custodian for each.
    pub(super) fn who_opens<'c>(
        &self,
        state: &State,
        custodians: &[&'c dyn Custodian],
    ) -> Result<Vec<&'c dyn Custodian>, Error> {
        let blocks = &state.top.header.custody;
        let mut who: Vec<Option<&dyn Custodian>> = vec![None; blocks.len()];
        for custodian in custodians {
            if let Some(place) = self.place_of(state, *custodian)?.and_then(|at| who.get_mut(at)) {
                *place = Some(*custodian);
            }
        }
        if who.iter().all(Option::is_none) {
            return Err(Error::Custody);
        }
        let lost = |at: usize| {
            let (kind, told) = blocks.get(at).map(CustodyBlock::told).unwrap_or_default();
            Error::Config(format!(
                "custodian {} ({kind}, {told}) protects the root too, and must take the new one into custody: name it in \
                 [custodian.other], or, if it is lost, remove it first (vaultctl custodian remove {})",
                at + 1,
                at + 1
            ))
        };
        who.iter().enumerate().map(|(at, who)| who.ok_or_else(|| lost(at))).collect()
    }

    /// What the file of the erasure epoch key has for the custodians in force. In a copy from before they took the root of now
    /// into custody nothing is named so: the vault was opened with it, and its blocks stand in the header's order.
    fn held(&self, state: &State) -> Result<Vec<Held>, Error> {
        let custody = &state.top.header.custody;
        let all = esk::held(&self.inner.esk_file, &self.inner.vault, (state.esks.active(), custody))?;
        if all.iter().any(|held| held.is_in_force(custody)) {
            return Ok(all.into_iter().filter(|held| held.is_in_force(custody)).collect());
        }
        if custody.len() == all.len() {
            return Ok(all.into_iter().zip(custody).map(|(held, of)| held.named(of)).collect());
        }
        Err(Error::Config(
            "the file `esk` beside the store is a copy from before the custodians changed: put back the newest"
                .to_owned(),
        ))
    }

    /// Puts other blocks of the same root in force.
    async fn put_blocks_in_force(
        &self,
        by: &PrincipalName,
        on: (&State, Option<u64>),
        custody: Custody,
        changes: Vec<ControlChange>,
    ) -> Result<Receipt, Error> {
        let put = self.put_in_custody(by, on, custody, |premise, _, custody| {
            let top = &premise.state.top;
            let header = Header { custody, ..top.header.clone() };
            let top = Top { header, root: top.root.clone(), ctl: top.ctl.clone() };
            Ok(Amendment { top: Some(top), ..Amendment::of(changes.clone(), ()) })
        });
        put.await.map(|(receipt, ())| receipt)
    }

    /// Puts other blocks in force, in the order in which a kill does no harm. Only if nobody changed Control since `state`.
    async fn put_in_custody<T>(
        &self,
        by: &PrincipalName,
        (state, expected): (&State, Option<u64>),
        custody: Custody,
        edit: impl Fn(&Premise<'_>, &mut Control, Vec<CustodyBlock>) -> Result<Amendment<T>, Error>,
    ) -> Result<(Receipt, T), Error> {
        if expected.is_some_and(|epoch| epoch != state.epoch.version) {
            return Err(Error::EpochMismatch { epoch: state.epoch.version });
        }
        let (file, id, vault) = (&self.inner.esk_file, state.esks.active(), &self.inner.vault);
        let before = self.held(state)?;
        let both: Vec<Held> = before.iter().chain(&custody.held).cloned().collect();
        esk::replace(file, id, &both, vault)?;
        let made = self
            .change(by, Some(state.epoch.version), |premise, control| {
                edit(premise, control, custody.blocks.clone())
            })
            .await;
        // What was not committed for certain may be committed all the same: then both stay, and the next opening tells.
        let after = match &made {
            Ok(_) => esk::in_order(&both, &custody.blocks),
            Err(Error::EpochMismatch { .. } | Error::Overloaded) => before,
            Err(_) => return made,
        };
        // It is done or not done by now, whatever becomes of this: the next opening takes out what is too much.
        let _kept = esk::replace(file, id, &after, vault);
        made
    }
}
