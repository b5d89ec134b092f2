//! `vaultctl custodian`: whether a passphrase opens a vault, and another one in its place. The vault must be stopped: a folder
//! that another process has open is refused.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use vault_core::custody::MIN_PASSES;
use vault_core::name::PrincipalName;
use vault_core::store::{self, Options};
use vault_core::vault::Vault;

use crate::dial;
use crate::fail::Failure;
use crate::output::Out;
use crate::store::{custodian, place};

/// MiB of Argon2id's memory where nothing is said: the least.
const MEMORY_MIB: u32 = 64;

/// The subcommands of `vaultctl custodian`.
#[derive(Debug, Subcommand)]
pub(crate) enum CustodianCommand {
    /// Say whether a passphrase opens a vault; nothing is written, and nothing served
    #[command(after_help = "Exit code 1: it does not.\n\nExample:\n  \
        vaultctl custodian check --folder /var/lib/vault --passphrase-file passphrase")]
    Check(Check),
    /// Put another passphrase, or the same at a higher cost, in the place of the one that opens a vault
    #[command(
        after_help = "Killed anywhere, exactly one of the two opens the vault: custodian check says which. Copies of the store from \
        before open with the old one.\n\nExamples:\n  \
        vaultctl custodian change --folder /var/lib/vault --passphrase-file old --new-passphrase-file new --operator olga\n  \
        vaultctl custodian change --folder vault --passphrase-file p --new-passphrase-file p --memory 256 --operator olga"
    )]
    Change(Change),
}

/// `custodian check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The vault's folder
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// The file that holds the passphrase; else it is asked for
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// `custodian change`.
#[derive(Debug, Args)]
pub(crate) struct Change {
    /// The vault's folder
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// The file that holds the passphrase of now; else it is asked for
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The file that holds the new one; else it is asked for, twice
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// In whose name: an operator of the policy
    #[arg(long, value_name = "NAME")]
    operator: String,
    /// MiB of memory that each guess takes
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB)]
    memory: u32,
    /// Passes over it
    #[arg(long, value_name = "NUMBER", default_value_t = MIN_PASSES)]
    passes: u32,
}

/// Does what the command line says.
pub(crate) fn run(command: CustodianCommand, out: Out) -> Result<(), Failure> {
    match command {
        CustodianCommand::Check(asked) => dial::run(check(asked, out)),
        CustodianCommand::Change(asked) => dial::run(change(asked, out)),
    }
}

async fn check(asked: Check, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Checked {
        opens: bool,
        vault: String,
    }
    let store = store::open(&asked.folder, &Options::default())?;
    let custodian = custodian(asked.passphrase_file.as_deref(), false)?;
    let vault = Vault::check_custody(&place(store, &asked.folder), &custodian).await?;
    out.tell(&Checked { opens: true, vault }, |checked| format!("it opens vault {}", checked.vault))
}

async fn change(asked: Change, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Changed {
        epoch: u64,
        receipt: serde_json::Value,
    }
    let operator = PrincipalName::parse(&asked.operator)
        .map_err(|_| Failure::usage("--operator is no name; see the policy's [[operator]] rows"))?;
    // The store first: a folder that is in use, or is none, needs no passphrase.
    let store = store::open(&asked.folder, &Options::default())?;
    let old = custodian(asked.passphrase_file.as_deref(), false)?;
    let vault = Vault::open(place(store, &asked.folder), &old).await?;
    let (policy, _) = vault.policy();
    if !policy.operators.iter().any(|known| known.id == operator) {
        vault.close().await?;
        return Err(Failure::refused(
            "--operator is no operator of the policy in force; nothing was changed",
        ));
    }
    let new = custodian(asked.new_passphrase_file.as_deref(), true)?;
    let new = new.with_cost(asked.memory.saturating_mul(1_024), asked.passes)?;
    let changed = vault.change_custodian(&operator, (&old, &new), None).await;
    let epoch = vault.status().epoch;
    vault.close().await?;
    let receipt = serde_json::from_str(&changed?.text()).unwrap_or_default();
    out.tell(&Changed { epoch, receipt }, |changed| {
        format!("the new passphrase alone opens the vault since epoch {}", changed.epoch)
    })
}
