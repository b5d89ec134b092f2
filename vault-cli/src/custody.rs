//! Who opens a vault's folder, as a command line says it: a passphrase from a file or a prompt, or what the `[custodian]` table
//! of a settings file names, or shares.
//!
//! Refused: a secret as an argument, and more than one source.

use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::SecretSlice;
use vault_core::custody::{Custodian, Passphrase};
use vault_core::store::Store;
use vault_core::vault::Vault;
use vault_server::settings::{CustodianSettings, Problem};
use zeroize::Zeroizing;

use crate::custodian::shares;
use crate::fail::Failure;
use crate::input;

/// Who opens the vault.
#[derive(Debug, Default, Args)]
pub(crate) struct Custody {
    /// The file that holds the passphrase; else it is asked for
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// A settings file whose [custodian] table says who opens it: an HSM, a cloud's key or a passphrase's file
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
    pub(crate) custodian: Option<PathBuf>,
    /// A file that holds a share, once for each; else they are asked for, where shares alone open this vault
    #[arg(long = "share-file", value_name = "FILE", conflicts_with_all = ["passphrase_file", "custodian"])]
    pub(crate) share_files: Vec<PathBuf>,
}

impl Custody {
    /// The custodian of the vault in a store. Where people with shares are the only ones, and nothing is named, they are asked.
    pub(crate) async fn open(&self, store: &dyn Store) -> Result<Box<dyn Custodian>, Failure> {
        if !self.share_files.is_empty() {
            return shares::from_files(&self.share_files);
        }
        if self.passphrase_file.is_none() && self.custodian.is_none() {
            let standing = Vault::standing(store).await?;
            if let (Some(split), None) = (&standing.split, standing.other) {
                return shares::asked_for(split, &standing);
            }
        }
        named(self.passphrase_file.as_deref(), self.custodian.as_deref(), false)
    }

    /// The custodian of a vault to be: a passphrase is asked for twice.
    pub(crate) fn open_new(&self) -> Result<Box<dyn Custodian>, Failure> {
        if !self.share_files.is_empty() {
            return Err(Failure::usage(
                "there are no shares of a new vault; make them of its first custodian: `vaultctl custodian split`",
            ));
        }
        named(self.passphrase_file.as_deref(), self.custodian.as_deref(), true)
    }
}

/// Who is to open the vault.
#[derive(Debug, Default, Args)]
pub(crate) struct NewCustody {
    /// The file that holds the new one; else it is asked for, twice
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// A settings file whose [custodian] table names the new one
    #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_file")]
    new_custodian: Option<PathBuf>,
    /// MiB of memory that each guess at a new passphrase takes; 64 where nothing is said
    #[arg(long, value_name = "MIB", conflicts_with = "new_custodian")]
    memory: Option<u32>,
    /// Passes over it; 3 where nothing is said
    #[arg(long, value_name = "NUMBER", conflicts_with = "new_custodian")]
    passes: Option<u32>,
}

impl NewCustody {
    /// The new custodian.
    pub(crate) fn open(&self) -> Result<Box<dyn Custodian>, Failure> {
        if self.new_custodian.is_some() {
            return named(None, self.new_custodian.as_deref(), true);
        }
        let memory = self.memory.map_or(vault_core::custody::MIN_MEMORY_KIB, |mib| mib.saturating_mul(1_024));
        let passes = self.passes.unwrap_or(vault_core::custody::MIN_PASSES);
        Ok(Box::new(passphrase(self.new_passphrase_file.as_deref(), true)?.with_cost(memory, passes)?))
    }
}

/// The `[custodian]` table of a settings file.
pub(crate) fn table(file: &Path) -> Result<CustodianSettings, Failure> {
    CustodianSettings::read(file).map_err(Failure::usage)
}

/// Asks for a PIN that no file holds.
pub(crate) fn ask_pin() -> Result<Zeroizing<Vec<u8>>, Problem> {
    input::hidden_secret("PIN of the token (not shown): ").map_err(|e| Problem {
        key: "custodian.pkcs11".to_owned(),
        problem: format!("has no PIN ({e})"),
        remedy: "set pin_file or pin_credential".to_owned(),
    })
}

/// A custodian from a passphrase's file, or from a prompt.
pub(crate) fn passphrase(file: Option<&Path>, new: bool) -> Result<Passphrase, Failure> {
    let passphrase = input::passphrase(file, new)?;
    Ok(Passphrase::new(SecretSlice::from(passphrase.to_vec()))?)
}

fn named(
    passphrase_file: Option<&Path>,
    settings: Option<&Path>,
    new: bool,
) -> Result<Box<dyn Custodian>, Failure> {
    match settings {
        Some(file) => table(file)?.open_asking(&ask_pin).map_err(Failure::refused),
        None => Ok(Box::new(passphrase(passphrase_file, new)?)),
    }
}
