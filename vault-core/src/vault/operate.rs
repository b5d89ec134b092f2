//! What operators do: put a policy in force, rotate keys, lock and unlock, read keys and log. Each change is a new
//! version of Control, exact from its commit on, and an entry of the log that names the operator.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::amend::Amendment;
use super::{FIRST_LOG, Header, MAX_ROUNDS, Vault};
use crate::audit::checkpoint::SignedCheckpoint;
use crate::audit::entry::{AuditEntry, ControlChange, Event, Outlet, Who};
use crate::audit::receipt::{self, Proof, Receipt};
use crate::audit::tree::{self, Hash, entry_key};
use crate::control::{Lock, LockTarget};
use crate::error::Error;
use crate::journal::Filing;
use crate::name::{MerchantName, PrincipalName};
use crate::pan;
use crate::policy::{Asked, Effect, Explanation, Policy, Rules, Statement};
use crate::rows;
use crate::store::{Key, Part, Write};
use crate::time::Timestamp;
use crate::words::{Action, LockReason, Refusal, Show};

/// The longest note of an operator, in bytes.
pub const MAX_NOTE: usize = 1_024;

/// The most entries that one reading of the log gives.
pub const MAX_ENTRIES: usize = 1_000;

/// One row that a new policy adds, drops or changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyChange {
    /// Which table and row: `rule.web-stores`, `channel.acme/web`.
    pub path: String,
    /// The row as it is, TOML; empty if it is new.
    pub before: String,
    /// The row as it would be, TOML; empty if it goes.
    pub after: String,
    /// Whether somebody may see or do more than before, as far as one row can tell.
    pub widens: bool,
}

/// What is in force, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The vault's id, hexadecimal.
    pub vault: String,
    /// Control's version.
    pub epoch: u64,
    /// When that version was made.
    pub since: Timestamp,
    /// How many merchants there are.
    pub merchants: usize,
    /// How many locks are in force.
    pub locks: usize,
    /// The store's engine.
    pub engine: &'static str,
    /// Commits since the vault was opened.
    pub commits: u64,
    /// Filings that wait.
    pub waiting: usize,
}

impl Vault {
    /// Puts a policy in force. `expected` is the epoch that the operator saw; another one by now is refused, so that two
    /// operators never overwrite each other unseen.
    pub async fn apply_policy(
        &self,
        by: &PrincipalName,
        policy: Policy,
        expected: Option<u64>,
    ) -> Result<Receipt, Error> {
        self.change(by, expected, move |premise, control| {
            policy.check_prefixes(&premise.inner.networks)?;
            let before = control.next_key;
            let operated = !control.policy.operators.is_empty();
            if operated && policy.operators.is_empty() {
                return Err(Error::Config(
                    "policy: names no operator: nobody could ever change it again".into(),
                ));
            }
            control.apply(policy.clone(), premise.state.top.root(), premise.now)?;
            let added = (before..control.next_key).map(|key| ControlChange::KeyAdded { key });
            Ok(Amendment::of(added.chain([ControlChange::PolicyApplied]).collect(), ()))
        })
        .await
        .map(|(receipt, ())| receipt)
    }

    /// Sets a lock: from its commit on, nothing that it is on gets past the door. `note` is sealed; the log has its hash.
    pub async fn set_lock(
        &self,
        by: &PrincipalName,
        target: LockTarget,
        reason: LockReason,
        note: Option<&str>,
        expected: Option<u64>,
    ) -> Result<(u32, Receipt), Error> {
        let note = note.map(checked_note).transpose()?;
        let (receipt, lock) = self
            .change(by, expected, |premise, control| {
                let sealed = note.map(|text| premise.state.keyring.seal_note(text)).transpose()?;
                let hash = sealed.as_deref().map(Hash::of);
                let lock = control.lock(target.clone(), by.clone(), reason, hash, premise.now)?;
                let change = ControlChange::LockSet { lock, reason, note: hash };
                let writes = hash.zip(sealed).map(|(hash, sealed)| Write::Put(note_key(&hash), sealed));
                Ok(Amendment { writes: writes.into_iter().collect(), ..Amendment::of(vec![change], lock) })
            })
            .await?;
        Ok((lock, receipt))
    }

    /// Lifts a lock.
    pub async fn lift_lock(
        &self,
        by: &PrincipalName,
        lock: u32,
        expected: Option<u64>,
    ) -> Result<Receipt, Error> {
        self.change(by, expected, move |premise, control| {
            if !control.unlock(lock, by, premise.now) {
                return Err(Error::malformed("lockdown", "names no lock in force"));
            }
            Ok(Amendment::of(vec![ControlChange::LockLifted { lock }], ()))
        })
        .await
        .map(|(receipt, ())| receipt)
    }

    /// The locks in force, and the newest of those that were lifted, by number.
    #[must_use]
    pub fn locks(&self) -> Vec<Lock> {
        self.state().control.locks.clone()
    }

    /// A lock's note.
    pub async fn note_of(&self, lock: &Lock) -> Result<Option<String>, Error> {
        let Some(hash) = lock.note else { return Ok(None) };
        let row = self.inner.store.get(&[note_key(&hash)]).await?.into_iter().next().flatten();
        let opened = row.and_then(|row| self.state().keyring.open_note(&row).ok());
        opened.map(Some).ok_or_else(Error::internal)
    }

    /// The policy in force and its epoch.
    #[must_use]
    pub fn policy(&self) -> (Policy, u64) {
        let state = self.state();
        (state.control.policy.clone(), state.epoch.version)
    }

    /// What a policy would change. It is checked against what is in force, and nothing is changed.
    pub fn policy_diff(&self, policy: &Policy) -> Result<Vec<PolicyChange>, Error> {
        policy.check_prefixes(&self.inner.networks)?;
        let state = self.state();
        let mut control = state.control.clone();
        let now = self.inner.clock.now();
        control.apply(policy.clone(), state.top.root(), now)?;
        Rules::of(&control)?;
        diff(&state.control.policy, policy)
    }

    /// What the policy in force says of a request, and by which rules.
    #[must_use]
    pub fn explain(&self, asked: &Asked<'_>) -> Explanation {
        self.state().rules.explain(asked)
    }

    /// The same for a card that is to go to somebody else than who asks, now.
    #[must_use]
    pub fn explain_to(&self, asked: &Asked<'_>, to: &Outlet) -> Explanation {
        self.state().rules.explain_to(asked, Some((to, self.now())))
    }

    /// Whether a caller is one of the policy's principals.
    #[must_use]
    pub fn knows(&self, caller: crate::policy::Caller<'_>) -> bool {
        self.state().rules.knows(caller)
    }

    /// Who a caller is by the policy, and the one channel it is bound to if it is bound to one.
    #[must_use]
    pub fn who_is(
        &self,
        caller: crate::policy::Caller<'_>,
    ) -> Option<(PrincipalName, MerchantName, Option<crate::name::ChannelName>)> {
        self.state().rules.who_is(caller)
    }

    /// The operator that a certificate names: authority by the SHA-256 of its `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn operator(&self, authority: &[u8; 32], name: &str) -> Option<PrincipalName> {
        self.state().rules.operator(authority, name).cloned()
    }

    /// The operator that a certificate names; a refusal of anyone else is in the log.
    pub async fn operator_at(
        &self,
        authority: &[u8; 32],
        name: &str,
        action: Action,
    ) -> Result<PrincipalName, Error> {
        if let Some(operator) = self.operator(authority, name) {
            return Ok(operator);
        }
        let why = Refusal::UnlistedPrincipal;
        let statement = Statement {
            who: Who::unlisted(authority, name.as_bytes()),
            merchant: None,
            channel: None,
            event: Event::Refused { action, record: None, why, purpose: None, initiator: None },
            epoch: self.state().epoch.version,
        };
        let answers =
            self.inner.journal.file(vec![Filing::State(statement, Part::default())], None, None).await?;
        answers.into_iter().next().ok_or_else(Error::internal)??;
        Err(Error::Denied)
    }

    /// Writes down that somebody who is no principal asked something that no rule speaks of.
    pub async fn stranger_refused(&self, caller: crate::policy::Caller<'_>) -> Error {
        let denial = self.state().rules.stranger(caller);
        self.inner.journal.refuse(denial, None).await
    }

    /// Whether a principal may do this at all: what a malformed request is asked, so that a refusal is told and logged
    /// before anything else is said.
    pub async fn may_ask(
        &self,
        caller: crate::policy::Caller<'_>,
        header: &Header,
        action: Action,
    ) -> Result<(), Error> {
        let asked = Asked {
            caller,
            merchant: header.merchant.as_ref(),
            channel: header.channel.as_ref(),
            action,
            purpose: header.purpose,
            initiator: header.initiator,
            show: Show::Nothing,
        };
        match self.state().rules.admit(&asked) {
            Ok(_) => Ok(()),
            Err(denial) => Err(self.inner.journal.refuse(denial, header.deadline).await),
        }
    }

    /// Writes down that a principal asked to have a card sent where this node sends none.
    pub async fn outlet_refused(&self, caller: crate::policy::Caller<'_>, header: &Header) -> Error {
        let asked = Asked {
            caller,
            merchant: header.merchant.as_ref(),
            channel: header.channel.as_ref(),
            action: Action::Detokenize,
            purpose: header.purpose,
            initiator: header.initiator,
            show: Show::Full,
        };
        let denial = match self.state().rules.admit(&asked) {
            Ok(admitted) => admitted.deny(Refusal::OutletNotAllowed, None),
            Err(denial) => denial,
        };
        self.inner.journal.refuse(denial, header.deadline).await
    }

    /// Writes down that a request was refused at the edge, since its certificate is past its end or was revoked.
    pub async fn certificate_refused(&self, authority: &[u8; 32], name: &str) -> Result<(), Error> {
        let who = self.who_is(crate::policy::Caller::Certificate { authority, name });
        let why = Refusal::CertificateNotValid;
        let statement = Statement {
            who: who
                .map_or_else(|| Who::unlisted(authority, name.as_bytes()), |(name, ..)| Who::Listed(name)),
            merchant: None,
            channel: None,
            event: Event::Refused {
                action: Action::Connect,
                record: None,
                why,
                purpose: None,
                initiator: None,
            },
            epoch: self.state().epoch.version,
        };
        let answers =
            self.inner.journal.file(vec![Filing::State(statement, Part::default())], None, None).await?;
        answers.into_iter().try_for_each(|a| a.map(|_| ()).map_err(Error::from))
    }

    /// Writes down that an operator read something (PCI DSS 4.0.1, 10.2.1.3).
    pub async fn consulted(&self, by: &PrincipalName, action: Action) -> Result<Receipt, Error> {
        let statement = Statement {
            who: Who::Listed(by.clone()),
            merchant: None,
            channel: None,
            event: Event::Consulted { action },
            epoch: self.state().epoch.version,
        };
        let answers =
            self.inner.journal.file(vec![Filing::State(statement, Part::default())], None, None).await?;
        let filed = answers.into_iter().next().ok_or_else(Error::internal)??;
        Ok(filed.receipt)
    }

    /// What is in force, in numbers.
    #[must_use]
    pub fn status(&self) -> Status {
        let state = self.state();
        let (engine, commits, waiting) = self.load();
        Status {
            vault: data_encoding::HEXLOWER.encode(&self.inner.vault),
            epoch: state.epoch.version,
            since: state.control.made_at,
            merchants: state.control.numbers.len(),
            locks: state.control.locks.iter().filter(|l| l.lifted.is_none()).count(),
            engine,
            commits,
            waiting,
        }
    }

    /// The log's newest signed head.
    pub async fn checkpoint(&self) -> Result<SignedCheckpoint, Error> {
        for _ in 0..MAX_ROUNDS {
            let verifier = self.verifier();
            let head = crate::audit::head(self.inner.store.as_ref(), FIRST_LOG, &verifier).await;
            match head.ok().flatten() {
                Some(head) => return Ok(head),
                // Handed over meanwhile: the head is signed by a key that was none of the log's before.
                None if verifier != self.verifier() => {}
                None => break,
            }
        }
        Err(Error::internal())
    }

    /// Entries of the log from `from` on, at most 1,000, each with its place and its bytes.
    pub async fn entries(&self, from: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>, AuditEntry)>, Error> {
        let size = self.checkpoint().await?.checkpoint().size;
        let count = u64::try_from(limit.min(MAX_ENTRIES)).unwrap_or(0);
        let places: Vec<u64> = (from..size.min(from.saturating_add(count))).collect();
        let keys: Vec<Key> = places.iter().map(|i| entry_key(FIRST_LOG, *i)).collect();
        let rows = self.inner.store.get(&keys).await?;
        let read = |(index, row): (u64, Option<Vec<u8>>)| {
            let bytes = row.ok_or_else(Error::internal)?;
            let entry = AuditEntry::decode(&bytes).map_err(|_| Error::internal())?;
            Ok((index, bytes, entry))
        };
        places.into_iter().zip(rows).map(read).collect()
    }

    /// Proves an entry against a signed head. `None`: the log's rows do not lead to it.
    pub async fn prove(&self, index: u64, head: &SignedCheckpoint) -> Result<Option<Proof>, Error> {
        if index >= head.checkpoint().size {
            return Err(Error::malformed("receipt.leaf_index", "is beyond the end of the log"));
        }
        receipt::prove(self.inner.store.as_ref(), FIRST_LOG, index, head).await.map_err(|_| Error::internal())
    }

    /// That the log's first `old` entries are the beginning of what it is at the newest signed head (RFC 6962, 2.1.2).
    pub async fn consistency(&self, old: u64, head: &SignedCheckpoint) -> Result<Vec<Hash>, Error> {
        let new = head.checkpoint().size;
        if old > new {
            return Err(Error::malformed("receipt.tree_size", "is beyond the end of the log"));
        }
        tree::consistency(self.inner.store.as_ref(), FIRST_LOG, old, new).await.map_err(|_| Error::internal())
    }

    /// Writes the whole log out, for `audit check` on another machine.
    pub async fn export_log(
        &self,
        out: &mut (dyn std::io::Write + Send),
        progress: crate::audit::verify::Progress<'_>,
    ) -> Result<SignedCheckpoint, Error> {
        let verifier = self.verifier();
        crate::audit::verify::export(self.inner.store.as_ref(), FIRST_LOG, &verifier, out, progress)
            .await
            .map_err(|_| Error::internal())
    }
}

pub(super) fn checked_note(text: &str) -> Result<&str, Error> {
    if text.is_empty() || text.len() > MAX_NOTE {
        return Err(Error::malformed("note", "must have 1 to 1,024 bytes"));
    }
    if pan::holds_card_number(text) {
        return Err(Error::malformed("note", "must not hold a card number"));
    }
    Ok(text)
}

pub(super) fn note_key(hash: &Hash) -> Key {
    let mut key = vec![rows::NOTE];
    key.extend_from_slice(&hash.0);
    key
}

fn diff(before: &Policy, after: &Policy) -> Result<Vec<PolicyChange>, Error> {
    let (before, after) = (rows_of(before)?, rows_of(after)?);
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let row = |rows: &PolicyRows, path: &String| rows.get(path).cloned().unwrap_or_default();
    let changes = paths.into_iter().map(|path| {
        let (before, after) = (row(&before, path), row(&after, path));
        PolicyChange {
            path: path.clone(),
            widens: widens(path, &before.0, &after.0, before.1 || after.1),
            before: before.0,
            after: after.0,
        }
    });
    Ok(changes.filter(|c| c.before != c.after).collect())
}

/// Whether a row's change may let somebody see or do more. Where one row cannot tell, it says yes.
fn widens(path: &str, before: &str, after: &str, denies: bool) -> bool {
    let dropped = after.is_empty();
    match path.split_once('.').map(|(table, _)| table) {
        // A deny rule narrows: the other way round.
        Some("rule") if denies => !before.is_empty(),
        // A shorter term lets nobody do more; a longer one leaves more under one key.
        Some("cryptoperiod") => !before.is_empty(),
        Some("format") => false,
        // Another kind of channel may let vaultless tokens open there.
        Some("merchant" | "channel") => !before.is_empty() && !dropped,
        _ => !dropped,
    }
}

/// Every row of a policy by its path: as TOML, and whether it is a deny rule.
type PolicyRows = BTreeMap<String, (String, bool)>;

fn rows_of(policy: &Policy) -> Result<PolicyRows, Error> {
    #[derive(Serialize)]
    struct MerchantRow<'a> {
        ff1_slots: u8,
        mask: &'a BTreeMap<String, String>,
    }
    fn put(all: &mut PolicyRows, path: String, row: &impl Serialize, denies: bool) -> Result<(), Error> {
        let text = toml::to_string(row).map_err(|_| Error::internal())?;
        all.insert(path, (text, denies));
        Ok(())
    }
    let mut all = BTreeMap::new();
    for row in &policy.authorities {
        put(&mut all, format!("authority.{}", row.id), row, false)?;
    }
    for merchant in &policy.merchants {
        let row = MerchantRow { ff1_slots: merchant.ff1_slots, mask: &merchant.mask };
        put(&mut all, format!("merchant.{}", merchant.id), &row, false)?;
        for row in &merchant.formats {
            put(&mut all, format!("format.{}/{}", merchant.id, row.id), row, false)?;
        }
        for row in &merchant.recipients {
            put(&mut all, format!("recipient.{}/{}", merchant.id, row.id), row, false)?;
        }
        for row in &merchant.channels {
            put(&mut all, format!("channel.{}/{}", merchant.id, row.id), row, false)?;
        }
    }
    for row in &policy.principals {
        put(&mut all, format!("principal.{}", row.id), row, false)?;
    }
    for row in &policy.operators {
        put(&mut all, format!("operator.{}", row.id), row, false)?;
    }
    for row in &policy.cryptoperiods {
        put(&mut all, format!("cryptoperiod.{}", row.kind.as_str()), row, false)?;
    }
    for row in &policy.rules {
        put(&mut all, format!("rule.{}", row.id), row, row.effect == Effect::Deny)?;
    }
    Ok(all)
}
