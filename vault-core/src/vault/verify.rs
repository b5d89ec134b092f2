//! Joins the log to the rows: whatever the log says was stored must be there, in the version that the log says.

use std::collections::HashMap;

use serde::Serialize;

use super::{FIRST_LOG, MAX_ROUNDS, Vault, uses_of};
use crate::audit::entry::{AuditEntry, ControlChange, Event};
use crate::audit::handover::{self, HandOver};
use crate::audit::note::LogVerifier;
use crate::audit::tree::entry_key;
use crate::audit::verify::{self, Report};
use crate::chain::Name;
use crate::codec::Reader;
use crate::envelope::KeyId;
use crate::error::Error;
use crate::record::MerchantId;
use crate::reseal::page_of;
use crate::rows;
use crate::store::MAX_SCAN;
use crate::words::Ref;

/// How many places a report names; the rest are counted.
const NAMED: usize = 100;

/// What a verification of the store found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreReport {
    /// Card rows that open and are what the log says.
    pub good: u64,
    /// Records that the log says were stored and that no row holds.
    pub missing: u64,
    /// Rows that the log knows nothing of, or not in so new a version: the log was put back.
    pub extra: u64,
    /// Rows of an older version than the log says: put back.
    pub rolled_back: u64,
    /// Rows that do not open: flipped, cut, moved or replaced.
    pub unreadable: u64,
    /// Counters of a key's uses that are behind what the log says was reserved: put back, or deleted.
    pub uses_put_back: u64,
    /// Rows whose key was destroyed with them on purpose, as the log says. They are no fault.
    pub shredded: u64,
    /// The first hundred of these, each with its record's name in the log or, where none can be read, its row's key.
    pub named: Vec<Finding>,
    /// The log itself.
    pub log: Option<Report>,
}

/// One row that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "finding")]
pub enum Finding {
    /// The log says that it was stored.
    Missing {
        /// Its name in the log.
        record: Ref,
    },
    /// The log knows nothing of it, or not of so new a version.
    Extra {
        /// Its name by its own row.
        record: Ref,
    },
    /// The log says a newer version.
    RolledBack {
        /// Its name in the log.
        record: Ref,
        /// The row's version.
        found: u32,
        /// The log's.
        logged: u32,
    },
    /// It does not open.
    Unreadable {
        /// The row's key, hexadecimal.
        row: String,
    },
}

/// What the log says of rows.
#[derive(Default)]
struct Logged {
    /// The newest version of each record.
    versions: HashMap<Ref, u32>,
    /// How many rows were shredded.
    shredded: u64,
    /// Up to where the uses of each key were reserved, by its number.
    reserved: HashMap<u32, u64>,
}

impl StoreReport {
    /// Whether everything is as the log says.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let rows = self.missing + self.extra + self.rolled_back + self.unreadable + self.uses_put_back;
        rows == 0 && self.log.as_ref().is_some_and(|log| log.fault.is_none())
    }

    fn note(&mut self, finding: Finding) {
        match finding {
            Finding::Missing { .. } => self.missing += 1,
            Finding::Extra { .. } => self.extra += 1,
            Finding::RolledBack { .. } => self.rolled_back += 1,
            Finding::Unreadable { .. } => self.unreadable += 1,
        }
        if self.named.len() < NAMED {
            self.named.push(finding);
        }
    }
}

impl Vault {
    /// The public keys that this vault's log is verified with: all that it has had, of which its text is the newest.
    #[must_use]
    pub fn verifier(&self) -> LogVerifier {
        LogVerifier::clone(&self.state().log)
    }

    /// How the log's key was handed over, oldest first: what whoever knows one of the keys needs to trust the others.
    pub async fn hand_overs(&self) -> Result<Vec<HandOver>, Error> {
        let verifier = self.verifier();
        let read = handover::hand_overs(self.inner.store.as_ref(), FIRST_LOG, &verifier).await;
        read.map_err(|_| Error::internal())
    }

    /// Walks the log from its first entry.
    pub async fn verify_log(&self, progress: verify::Progress<'_>) -> Result<Report, Error> {
        for _ in 0..MAX_ROUNDS {
            let verifier = self.verifier();
            let report =
                verify::verify_store(self.inner.store.as_ref(), FIRST_LOG, &verifier, progress).await?;
            // Handed over while it was walked: the head is signed by a key that was none of the log's before.
            if report.fault.is_none() || verifier == self.verifier() {
                return Ok(report);
            }
        }
        Err(Error::Overloaded)
    }

    /// Walks the log, then every card row, and compares; then every other row that lies under a DEK. Opens outer seals only. Meant for a vault at rest: what
    /// changes meanwhile may be counted as a finding.
    pub async fn verify_store(&self, progress: verify::Progress<'_>) -> Result<StoreReport, Error> {
        let log = self.verify_log(progress).await?;
        let Logged { versions: mut logged, shredded, reserved } = self.logged(log.entries).await?;
        let mut report = StoreReport { log: Some(log), ..StoreReport::default() };
        let state = self.state();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.inner.store.scan(&[rows::CARD], after.as_deref(), MAX_SCAN).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, bytes) in page {
                let named = name_in(rows::CARD, &key);
                if named.is_some_and(|(merchant, _)| state.keyring.is_shredded(merchant, &bytes)) {
                    report.shredded += 1;
                    continue;
                }
                let card = named.and_then(|(merchant, name)| {
                    let reached = state.keyring.outer(merchant).ok()?.is_reached(rows::CARD, &bytes);
                    reached.then(|| state.keyring.card_named(merchant, &name, &bytes).ok())?
                });
                let Some(card) = card else {
                    report.note(Finding::Unreadable { row: data_encoding::HEXLOWER.encode(&key) });
                    continue;
                };
                let (record, found) = (card.row.record, card.row.version);
                match logged.remove(&record) {
                    Some(logged) if logged == found => report.good += 1,
                    Some(logged) if logged > found => {
                        report.note(Finding::RolledBack { record, found, logged });
                    }
                    Some(_) | None => report.note(Finding::Extra { record }),
                }
            }
        }
        // A shredded row does not tell which record it was: so many of those that no row tells of are accounted for.
        let cards = usize::try_from(report.shredded).unwrap_or(usize::MAX);
        if cards == 0 {
            for record in logged.into_keys() {
                report.note(Finding::Missing { record });
            }
        } else {
            let missing = logged.len().saturating_sub(cards);
            report.missing = report.missing.saturating_add(u64::try_from(missing).unwrap_or(u64::MAX));
        }
        for kind in [rows::FINGERPRINT, rows::SUBJECT] {
            self.unreadable_of(kind, &mut report).await?;
        }
        // More than the log says were shredded: somebody wrote such rows.
        report.unreadable = report.unreadable.saturating_add(report.shredded.saturating_sub(shredded));
        let now = uses_of(self.inner.store.as_ref()).await?;
        let behind = reserved.iter().filter(|(key, upto)| now.uses(KeyId(**key)).unwrap_or(0) < **upto);
        report.uses_put_back = u64::try_from(behind.count()).unwrap_or(u64::MAX);
        Ok(report)
    }

    /// Notes the rows of a kind, which the log does not speak of, whose outer seal does not open.
    async fn unreadable_of(&self, kind: u8, report: &mut StoreReport) -> Result<(), Error> {
        let state = self.state();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let most = page_of(kind, MAX_SCAN);
            let page = self.inner.store.scan(&[kind], after.as_deref(), most).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (key, bytes) in page {
                let named = name_in(kind, &key);
                if named.is_some_and(|(merchant, _)| state.keyring.is_shredded(merchant, &bytes)) {
                    report.shredded += 1;
                    continue;
                }
                let opened = named.and_then(|(merchant, name)| {
                    let outer = state.keyring.outer(merchant).ok()?;
                    outer.is_reached(kind, &bytes).then(|| outer.open(kind, &name, &bytes).ok())?
                });
                if opened.is_none() {
                    report.note(Finding::Unreadable { row: data_encoding::HEXLOWER.encode(&key) });
                }
            }
        }
    }

    /// What the log says of rows.
    async fn logged(&self, entries: u64) -> Result<Logged, Error> {
        let mut logged = Logged::default();
        let page = u64::try_from(MAX_SCAN).unwrap_or(u64::MAX);
        let mut from = 0;
        while from < entries {
            let keys: Vec<_> =
                (from..entries.min(from.saturating_add(page))).map(|i| entry_key(FIRST_LOG, i)).collect();
            for bytes in self.inner.store.get(&keys).await?.into_iter().flatten() {
                let Ok(entry) = AuditEntry::decode(&bytes) else { continue };
                if let Some((record, version)) = entry.event.row_version() {
                    let newest = logged.versions.entry(record).or_insert(0);
                    *newest = version.max(*newest);
                }
                if let Event::UsesReserved { key, upto } = entry.event {
                    let most = logged.reserved.entry(key).or_insert(0);
                    *most = upto.max(*most);
                }
                if let Event::ControlChanged { change: ControlChange::KeyShredded { rows, .. }, .. } =
                    entry.event
                {
                    logged.shredded = logged.shredded.saturating_add(rows);
                }
            }
            from = from.saturating_add(page);
        }
        Ok(logged)
    }
}

/// Merchant and name of a row of this kind, from its key.
fn name_in(of: u8, key: &[u8]) -> Option<(MerchantId, Name)> {
    let mut r = Reader::new(key);
    r.u8().ok().filter(|kind| *kind == of)?;
    let found = (MerchantId(r.u32().ok()?), r.array().ok()?);
    r.end().ok().map(|()| found)
}
