//! `vaultctl custodian`: who opens a vault. What changes that needs a vault that is stopped: a folder that another process has
//! open is refused. Sealing and unsealing are asked of a server that runs.

mod seal;
mod shares;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use secrecy::SecretSlice;
use serde::Serialize;
use vault_core::custody::{Custodian, MIN_PASSES, Passphrase};
use vault_core::name::PrincipalName;
use vault_core::store::{self, Options};
use vault_core::vault::Vault;

use self::seal::{Accept, Plain, Unseal};
use self::shares::{Opener, SplitArgs, VerifyShare};
use crate::dial;
use crate::fail::Failure;
use crate::input;
use crate::output::Out;
use crate::store::place;

/// MiB of Argon2id's memory where nothing is said: the least.
const MEMORY_MIB: u32 = 64;

/// The subcommands of `vaultctl custodian`.
#[derive(Debug, Subcommand)]
pub(crate) enum CustodianCommand {
    /// Say whether a passphrase, or a set of shares, opens a vault; nothing is written, and nothing served
    #[command(after_help = "Exit code 1: it does not.\n\nExamples:\n  \
        vaultctl custodian check --folder /var/lib/vault --passphrase-file passphrase\n  \
        vaultctl custodian check --folder /var/lib/vault --share-file share-1 --share-file share-4")]
    Check(Check),
    /// Put another passphrase, or the same at a higher cost, in the place of what opens a vault
    #[command(
        after_help = "Killed anywhere, exactly one of the two opens the vault: custodian check says which. Copies of the store from \
        before open with the old one and the esk file of their time: copy that file anew afterwards.\n\nExamples:\n  \
        vaultctl custodian change --folder /var/lib/vault --passphrase-file old --new-passphrase-file new --operator olga\n  \
        vaultctl custodian change --folder vault --share-file a --share-file b --new-passphrase-file p --operator olga\n  \
        vaultctl custodian change --folder vault --passphrase-file p --new-passphrase-file p --memory 256 --operator olga"
    )]
    Change(Change),
    /// Put k-of-n shares in the place of what opens a vault: a passphrase, or the shares of before
    #[command(
        after_help = "Each share goes to one person: into a file of its own, or shown alone at this terminal and asked for again. They \
        are made before they are in force; killed anywhere, exactly one of the two opens the vault. A lost share, or another \
        holder, is a new split.\n\nExamples:\n  \
        vaultctl custodian split --folder /var/lib/vault --passphrase-file p --shares 5 --threshold 3 --operator olga\n  \
        vaultctl custodian split --folder vault --share-file a --share-file b --shares 3 --threshold 2 --into new --operator olga"
    )]
    Split(SplitArgs),
    /// Tell the holder of a share whether it is one of those that open a vault; the vault must be stopped
    #[command(after_help = "Exit code 1: it is not.\n\nExample:\n  \
        vaultctl custodian verify-share --folder /var/lib/vault --share-file share-1")]
    VerifyShare(VerifyShare),
    /// Have the log say that you accept custody of your share; the share stays with you
    #[command(
        after_help = "PCI DSS 4.0.1, 3.7.8: custodians acknowledge their responsibilities.\n\nExample:\n  \
        vaultctl custodian accept --profile ops.toml --share-file share-1"
    )]
    Accept(Accept),
    /// Enter your share at a vault that is sealed, or have its server ask its custodian again
    #[command(
        after_help = "Nothing is said of a share before there are enough; then they open the vault, or all of them are forgotten.\n\n\
        Examples:\n  \
        vaultctl custodian unseal --profile me.toml\n  \
        vaultctl custodian unseal --profile me.toml --share-file share-1"
    )]
    Unseal(Unseal),
    /// Close a vault that runs: its keys are wiped from memory, and nothing is served until it is unsealed
    #[command(after_help = "Requests under way finish first, for ten seconds at most.\n\nExample:\n  \
        vaultctl custodian seal --profile ops.toml")]
    Seal(Plain),
    /// Say whether a vault is sealed, and what it takes to open it
    #[command(after_help = "Example:\n  vaultctl --json custodian status --profile ops.toml")]
    Status(Plain),
    /// Forget the shares that were entered so far
    #[command(after_help = "Example:\n  vaultctl custodian reset --profile ops.toml")]
    Reset(Plain),
}

/// `custodian check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The vault's folder
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    opener: Opener,
}

/// `custodian change`.
#[derive(Debug, Args)]
pub(crate) struct Change {
    /// The vault's folder
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    opener: Opener,
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
        CustodianCommand::Split(asked) => dial::run(shares::split(asked, out)),
        CustodianCommand::VerifyShare(asked) => dial::run(shares::verify(asked, out)),
        CustodianCommand::Accept(asked) => dial::run(seal::accept(asked, out)),
        CustodianCommand::Unseal(asked) => dial::run(seal::unseal(asked, out)),
        CustodianCommand::Seal(asked) => dial::run(seal::seal(asked, out)),
        CustodianCommand::Status(asked) => dial::run(seal::status(asked, out)),
        CustodianCommand::Reset(asked) => dial::run(seal::reset(asked, out)),
    }
}

/// An operator's name.
fn operator(text: &str) -> Result<PrincipalName, Failure> {
    PrincipalName::parse(text)
        .map_err(|_| Failure::usage("--operator is no name; see the policy's [[operator]] rows"))
}

/// Opens the vault in a folder, in the name of an operator of its policy, and gives what opened it.
async fn open(
    folder: &Path,
    opener: &Opener,
    operator: &PrincipalName,
) -> Result<(Vault, Box<dyn Custodian>), Failure> {
    // The store first: a folder that is in use, or is none, needs no secret.
    let store = store::open(folder, &Options::default())?;
    let old = opener.custodian(store.as_ref()).await?;
    let vault = Vault::open(place(store, folder), old.as_ref()).await?;
    let (policy, _) = vault.policy();
    if !policy.operators.iter().any(|known| known.id == *operator) {
        vault.close().await?;
        return Err(Failure::refused(
            "--operator is no operator of the policy in force; nothing was changed",
        ));
    }
    Ok((vault, old))
}

async fn check(asked: Check, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Checked {
        opens: bool,
        vault: String,
    }
    let store = store::open(&asked.folder, &Options::default())?;
    let custodian = asked.opener.custodian(store.as_ref()).await?;
    let vault = Vault::check_custody(&place(store, &asked.folder), custodian.as_ref()).await?;
    out.tell(&Checked { opens: true, vault }, |checked| format!("it opens vault {}", checked.vault))
}

async fn change(asked: Change, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Changed {
        epoch: u64,
        receipt: serde_json::Value,
    }
    let operator = operator(&asked.operator)?;
    let (vault, old) = open(&asked.folder, &asked.opener, &operator).await?;
    let changed = async {
        let new = input::passphrase(asked.new_passphrase_file.as_deref(), true)?;
        let new = Passphrase::new(SecretSlice::from(new.to_vec()))?;
        let new = new.with_cost(asked.memory.saturating_mul(1_024), asked.passes)?;
        Ok::<_, Failure>(vault.change_custodian(&operator, (old.as_ref(), &new), None).await?)
    };
    let changed = changed.await;
    let epoch = vault.status().epoch;
    vault.close().await?;
    let receipt = serde_json::from_str(&changed?.text()).unwrap_or_default();
    out.tell(&Changed { epoch, receipt }, |changed| {
        format!("the new passphrase alone opens the vault since epoch {}", changed.epoch)
    })
}
