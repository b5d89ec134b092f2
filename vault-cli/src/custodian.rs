//! `vaultctl custodian`: who opens a vault, and who is to. For a change the vault must be stopped: a folder that another process
//! has open is refused (for a vault that serves there is `vaultctl keys rotate custodian`). Sealing and unsealing are asked of a
//! server that runs.

mod seal;
pub(crate) mod shares;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use vault_core::audit::receipt::Receipt;
use vault_core::custody::Custodian;
use vault_core::name::PrincipalName;
use vault_core::store::{self, Options};
use vault_core::vault::Vault;

use self::seal::{Accept, Plain, Unseal};
use self::shares::{SplitArgs, VerifyShare};
use crate::custody::{self, Custody, NewCustody};
use crate::dial;
use crate::fail::Failure;
use crate::output::Out;
use crate::store::place;

/// The subcommands of `vaultctl custodian`.
#[derive(Debug, Subcommand)]
pub(crate) enum CustodianCommand {
    /// Say whether a custodian opens a vault; nothing is written, and nothing served
    #[command(
        after_help = "Exit code 1: it does not. A device is asked twice, for the root and for the esk file; a wrong PIN is not \
        tried again.\n\nExamples:\n  \
        vaultctl custodian check --folder /var/lib/vault --passphrase-file passphrase\n  \
        vaultctl custodian check --folder /var/lib/vault --share-file share-1 --share-file share-4\n  \
        vaultctl custodian check --folder /var/lib/vault --custodian /etc/vault/vault.toml"
    )]
    Check(Check),
    /// List who protects a vault's root; needs no secret, and proves nothing: see check
    #[command(after_help = "Example:\n  vaultctl custodian list --folder /var/lib/vault")]
    List(List),
    /// Put another custodian, or the same passphrase at a higher cost, in the place of the one that opens a vault
    #[command(
        after_help = "Killed anywhere, exactly one of the two opens the vault: custodian check says which. Copies of the store from \
        before open with the old one and the esk file of their time: copy that file anew afterwards.\n\nExamples:\n  \
        vaultctl custodian change --folder /var/lib/vault --passphrase-file old --new-passphrase-file new --operator olga\n  \
        vaultctl custodian change --folder vault --passphrase-file p --new-passphrase-file p --memory 256 --operator olga\n  \
        vaultctl custodian change --folder vault --passphrase-file p --new-custodian hsm.toml --operator olga"
    )]
    Change(Change),
    /// Have one more custodian protect the root: each of them alone opens the vault
    #[command(
        after_help = "For the day when the everyday one is lost; four at most. Each is one more way in: guard it as the first. A new \
        root then needs all of them.\n\nExample:\n  \
        vaultctl custodian add --folder vault --custodian vault.toml --new-passphrase-file recovery --operator olga"
    )]
    Add(Add),
    /// Take a custodian away, also one that is lost; the one given opens the vault and stays
    #[command(
        after_help = "The number is that of custodian list. The last one cannot be taken away: change it.\n\nExample:\n  \
        vaultctl custodian remove 1 --folder vault --passphrase-file recovery --operator olga"
    )]
    Remove(Remove),
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
    /// Make the key that a settings file names in its HSM: AES-256, not extractable
    #[command(
        after_help = "The token must be initialized and have a user PIN. A key of this label that is there already is left as it \
        is (exit code 1).\n\nExample:\n  vaultctl custodian device-key --custodian hsm.toml"
    )]
    DeviceKey(DeviceKey),
}

/// `custodian check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The vault's folder
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    custody: Custody,
}

/// `custodian list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The vault's folder
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
}

/// What every change of custody is asked with.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// The vault's folder
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    custody: Custody,
    /// In whose name: an operator of the policy
    #[arg(long, value_name = "NAME")]
    operator: String,
}

/// `custodian change`.
#[derive(Debug, Args)]
pub(crate) struct Change {
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    new: NewCustody,
}

/// `custodian add`.
#[derive(Debug, Args)]
pub(crate) struct Add {
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    new: NewCustody,
}

/// `custodian remove`.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Which: its number in custodian list
    #[arg(value_name = "NUMBER")]
    which: usize,
    #[command(flatten)]
    asked: Asked,
}

/// `custodian device-key`.
#[derive(Debug, Args)]
pub(crate) struct DeviceKey {
    /// The settings file whose [custodian] table names module, token and key
    #[arg(long, value_name = "FILE")]
    custodian: PathBuf,
}

/// Does what the command line says.
pub(crate) fn run(command: CustodianCommand, out: Out) -> Result<(), Failure> {
    match command {
        CustodianCommand::Check(asked) => dial::run(check(asked, out)),
        CustodianCommand::List(asked) => dial::run(list(asked, out)),
        CustodianCommand::Change(asked) => dial::run(change(asked, out)),
        CustodianCommand::Add(asked) => dial::run(add(asked, out)),
        CustodianCommand::Remove(asked) => dial::run(remove(asked, out)),
        CustodianCommand::Split(asked) => dial::run(shares::split(asked, out)),
        CustodianCommand::VerifyShare(asked) => dial::run(shares::verify(asked, out)),
        CustodianCommand::Accept(asked) => dial::run(seal::accept(asked, out)),
        CustodianCommand::Unseal(asked) => dial::run(seal::unseal(asked, out)),
        CustodianCommand::Seal(asked) => dial::run(seal::seal(asked, out)),
        CustodianCommand::Status(asked) => dial::run(seal::status(asked, out)),
        CustodianCommand::Reset(asked) => dial::run(seal::reset(asked, out)),
        CustodianCommand::DeviceKey(asked) => device_key(&asked, out),
    }
}

async fn check(asked: Check, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Checked {
        opens: bool,
        vault: String,
    }
    let store = store::open(&asked.folder, &Options::default())?;
    let custodian = asked.custody.open(store.as_ref()).await?;
    let vault = Vault::check_custody(&place(store, &asked.folder), &*custodian).await?;
    out.tell(&Checked { opens: true, vault }, |checked| format!("it opens vault {}", checked.vault))
}

async fn list(asked: List, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Listed {
        number: usize,
        kind: &'static str,
        what: String,
    }
    let store = store::open(&asked.folder, &Options::default())?;
    let all = Vault::read_custodians(&place(store, &asked.folder)).await?;
    let all: Vec<Listed> =
        (1..).zip(all).map(|(number, (kind, what))| Listed { number, kind, what }).collect();
    let cells = |listed: &Listed| [listed.number.to_string(), listed.kind.to_owned(), listed.what.clone()];
    out.tell_table(&all, ["NUMBER", "KIND", "WHAT"], cells, "nobody protects this vault's root")
}

impl Asked {
    /// Opens the vault in the name of an operator of its policy, and gives what opened it.
    async fn open(&self) -> Result<(Vault, PrincipalName, Box<dyn Custodian>), Failure> {
        let operator = PrincipalName::parse(&self.operator)
            .map_err(|_| Failure::usage("--operator is no name; see the policy's [[operator]] rows"))?;
        // The store first: a folder that is in use, or is none, needs no secret.
        let store = store::open(&self.folder, &Options::default())?;
        let own = self.custody.open(store.as_ref()).await?;
        let vault = Vault::open(place(store, &self.folder), &*own).await?;
        let (policy, _) = vault.policy();
        if !policy.operators.iter().any(|known| known.id == operator) {
            vault.close().await?;
            return Err(Failure::refused(
                "--operator is no operator of the policy in force; nothing was changed",
            ));
        }
        Ok((vault, operator, own))
    }

    /// Opens the vault, has the change made, and closes it.
    async fn make(
        self,
        out: Out,
        change: impl AsyncFnOnce(&Vault, &PrincipalName, &dyn Custodian) -> Result<Receipt, Failure>,
        told: &str,
    ) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Changed {
            epoch: u64,
            receipt: serde_json::Value,
        }
        let (vault, operator, own) = self.open().await?;
        let changed = change(&vault, &operator, &*own).await;
        let epoch = vault.status().epoch;
        vault.close().await?;
        let receipt = serde_json::from_str(&changed?.text()).unwrap_or_default();
        out.tell(&Changed { epoch, receipt }, |changed| format!("{told} since epoch {}", changed.epoch))
    }
}

async fn change(asked: Change, out: Out) -> Result<(), Failure> {
    let Change { asked, new } = asked;
    let change = async |vault: &Vault, by: &PrincipalName, own: &dyn Custodian| {
        let new = new.open()?;
        Ok(vault.change_custodian(by, (own, &*new), None).await?)
    };
    asked.make(out, change, "the new custodian opens the vault in the other's place").await
}

async fn add(asked: Add, out: Out) -> Result<(), Failure> {
    let Add { asked, new } = asked;
    let add = async |vault: &Vault, by: &PrincipalName, _: &dyn Custodian| {
        let new = new.open()?;
        Ok(vault.add_custodian(by, &*new, None).await?)
    };
    asked.make(out, add, "the new custodian opens the vault too").await
}

async fn remove(asked: Remove, out: Out) -> Result<(), Failure> {
    let Remove { which, asked } = asked;
    let told = format!("custodian {which} opens the vault no more");
    let remove = async |vault: &Vault, by: &PrincipalName, own: &dyn Custodian| {
        Ok(vault.remove_custodian(by, which, own, None).await?)
    };
    asked.make(out, remove, &told).await
}

fn device_key(asked: &DeviceKey, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Made<'a> {
        token: &'a str,
        key: &'a str,
    }
    let named = custody::table(&asked.custodian)?;
    let none = || Failure::usage(format_args!("{} names no pkcs11 custodian", asked.custodian.display()));
    let token = named.pkcs11.as_ref().ok_or_else(none)?;
    token.make_key(&custody::ask_pin)?;
    out.tell(&Made { token: &token.token_label, key: &token.key_label }, |made| {
        format!("made key {} in token {}", made.key, made.token)
    })
}
