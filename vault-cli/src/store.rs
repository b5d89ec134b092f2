//! `vaultctl store`: opens a vault's folder without a server, to see whether everything is as the log says.
//!
//! The vault must be stopped: a folder that another process has open is refused. Opening and closing are lines of the log.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use vault_core::store::{self, Options};
use vault_core::vault::{Place, StoreReport, Vault};

use crate::custody::Custody;
use crate::dial;
use crate::fail::Failure;
use crate::output::Out;
use crate::progress::Progress;

/// The erasure epoch key's file in a vault's folder.
pub(crate) const ESK: &str = "esk";

/// The subcommands of `vaultctl store`.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Walk the log and every row, and compare; the vault must be stopped
    #[command(
        after_help = "Names rows that are missing, altered, put back to older bytes, or unknown to the log. Opens no card \
        number. Exit code 1: something is not as the log says.\n\nExamples:\n  \
        vaultctl store verify --folder /var/lib/vault --passphrase-file passphrase\n  \
        vaultctl --json store verify --folder vault"
    )]
    Verify(Verify),
}

/// `store verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The vault's folder
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    custody: Custody,
}

/// Does what the command line says.
pub(crate) fn run(command: StoreCommand, out: Out) -> Result<(), Failure> {
    match command {
        StoreCommand::Verify(asked) => dial::run(verify(asked, out)),
    }
}

/// Where a vault's parts are in its folder.
pub(crate) fn place(store: std::sync::Arc<dyn store::Store>, folder: &Path) -> Place {
    Place::new(store, folder.join(ESK))
}

/// A vault's folder, opened without a server.
pub(crate) struct Folder;

impl Folder {
    /// Opens the vault in `folder`.
    pub(crate) async fn open(folder: &Path, custody: &Custody) -> Result<Vault, Failure> {
        // The store first: a folder that is in use, or is none, needs no passphrase.
        let store = store::open(folder, &Options::default())?;
        let custodian = custody.open(store.as_ref()).await?;
        Ok(Vault::open(place(store, folder), &*custodian).await?)
    }
}

async fn verify(asked: Verify, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Verified<'a> {
        whole: bool,
        log_key: String,
        #[serde(flatten)]
        report: &'a StoreReport,
    }
    let vault = Folder::open(&asked.folder, &asked.custody).await?;
    let mut progress = Progress::of("entries");
    let report = vault.verify_store(&mut |done, total| progress.step(done, total)).await;
    drop(progress);
    let log_key = vault.verifier().to_string();
    vault.close().await?;
    let report = report?;
    let whole = report.is_whole();
    out.tell(&Verified { whole, log_key, report: &report }, |v| words(v.report, &v.log_key))?;
    if whole {
        return Ok(());
    }
    Err(Failure::refused(
        "the store is not as its log says; keep a copy of everything, restore a backup, and treat it as an incident",
    ))
}

fn words(report: &StoreReport, log_key: &str) -> String {
    let log = match &report.log {
        Some(log) => match log.fault {
            None => format!("the log is whole: {} entries, root {}", log.entries, log.root),
            Some(fault) => format!("the log is not whole: {fault}"),
        },
        None => "the log was not read".to_owned(),
    };
    let mut text = format!(
        "{log}\ncards: {} good, {} missing, {} put back, {} unreadable, {} unknown to the log, {} key counters put back; {} shredded\n",
        report.good,
        report.missing,
        report.rolled_back,
        report.unreadable,
        report.extra,
        report.uses_put_back,
        report.shredded
    );
    for finding in &report.named {
        text = text + "  " + &named(finding) + "\n";
    }
    text + "log key " + log_key
}

/// A finding in its own words: what it is, then its parts.
fn named(finding: &impl Serialize) -> String {
    let told = serde_json::json!(finding);
    let mut words = vec![told.get("finding").and_then(|f| f.as_str()).unwrap_or_default().replace('_', " ")];
    for (name, value) in told.as_object().into_iter().flatten().filter(|(name, _)| *name != "finding") {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        words.push(format!("{name} {value}"));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_in_its_own_words() {
        let finding =
            serde_json::json!({"finding": "rolled_back", "record": "00ff", "found": 1, "logged": 2});
        let told = named(&finding);
        assert!(
            told.starts_with("rolled back ") && told.contains("record 00ff") && told.contains("logged 2"),
            "{told}"
        );
    }
}
