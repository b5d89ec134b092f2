//! `vaultctl init`: makes a vault in a folder, with a policy in force.
//!
//! It overwrites nothing: a folder with a vault in it is refused and not touched, a settings file that is there stays. An
//! init that was cut short is taken up again by the next one.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use vault_core::name::AuthorityName;
use vault_core::policy::Policy;
use vault_core::store::{self, Options, StoreError};
use vault_core::vault::{Blocking, Vault};

use crate::custody::{self, Custody};
use crate::fail::Failure;
use crate::input;
use crate::output::Out;
use crate::store::place;

/// An engine that keeps a vault on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// One file, the default
    Redb,
    /// One folder
    Sled,
}

impl Engine {
    fn of_store(self) -> store::Engine {
        match self {
            Self::Redb => store::Engine::Redb,
            Self::Sled => store::Engine::Sled,
        }
    }

    /// The word in a settings file.
    pub(crate) fn word(self) -> &'static str {
        self.of_store().name()
    }
}

/// `vaultctl init`.
#[derive(Debug, Args)]
#[command(
    after_help = "Keep what it prints: the log key is what the audit log is verified with, by anyone, without the vault.\n\n\
    Examples:\n  \
    vaultctl init --folder vault --passphrase-file passphrase --policy policy.toml\n  \
    vaultctl init --folder /var/lib/vault --engine sled --passphrase-file passphrase --policy policy.toml \\\n    \
    --settings /etc/vault/vault.toml --certs /etc/vault/certs\n  \
    vaultctl init --folder vault --custodian hsm.toml --policy policy.toml"
)]
pub(crate) struct Init {
    /// The vault's folder; made if it is not there
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// What keeps the rows
    #[arg(long, value_enum, default_value_t = Engine::Redb)]
    engine: Engine,
    #[command(flatten)]
    custody: Custody,
    /// The policy that is in force from the first moment on
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Also write a settings file for `vaultctl serve`
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// For --settings: the folder of server.pem, server.key, and NAME.pem and NAME.crl of each of the policy's authorities
    #[arg(long, value_name = "DIR", default_value = "certs")]
    certs: PathBuf,
}

#[derive(Serialize)]
struct Made {
    folder: PathBuf,
    engine: &'static str,
    vault: String,
    epoch: u64,
    log_key: String,
    settings: Option<PathBuf>,
}

/// Does what the command line says.
pub(crate) fn run(asked: &Init, out: Out) -> Result<(), Failure> {
    // All that can be wrong with the files shows before anything is made.
    let policy = Policy::from_toml(&input::small_text(&asked.policy)?)
        .map_err(|e| Failure::refused(format_args!("{e}; correct {}", asked.policy.display())))?;
    let settings = asked.settings.as_ref().map(|file| settings_text(asked, &policy).map(|text| (file, text)));
    let settings = settings.transpose()?;
    if let Some((file, _)) = &settings
        && file.symlink_metadata().is_ok()
    {
        return Err(Failure::refused(format_args!("{} is there already; name a new file", file.display())));
    }
    let custodian = asked.custody.open_new()?;
    let store = opened(&asked.folder, asked.engine)?;
    let vault = Blocking::create(place(store, &asked.folder), &*custodian, policy)?;
    let made = made(vault.vault(), asked);
    vault.close()?;
    if let Some((file, text)) = settings {
        write_new(file, &text)?;
    }
    out.tell(&made, |made| {
        let settings = made.settings.as_ref().map_or_else(String::new, |s| {
            format!("\nwrote {}; next: vaultctl serve --check --settings {}", s.display(), s.display())
        });
        format!(
            "made vault {} in {} ({})\nlog key {}{settings}",
            made.vault,
            made.folder.display(),
            made.engine,
            made.log_key
        )
    })
}

fn made(vault: &Vault, asked: &Init) -> Made {
    let status = vault.status();
    Made {
        folder: asked.folder.clone(),
        engine: status.engine,
        vault: status.vault,
        epoch: status.epoch,
        log_key: vault.verifier().to_string(),
        settings: asked.settings.clone(),
    }
}

/// A new store, or the one that an init which was cut short left behind. Whether a vault is in it is the vault's to say.
fn opened(folder: &Path, engine: Engine) -> Result<std::sync::Arc<dyn store::Store>, Failure> {
    match store::create(folder, engine.of_store(), &Options::default()) {
        Err(StoreError::Exists) => {
            let store = store::open(folder, &Options::default())?;
            if store.engine() == engine.word() {
                Ok(store)
            } else {
                Err(Failure::refused(format_args!(
                    "there already is a store of engine {} in this folder; choose an empty folder",
                    store.engine()
                )))
            }
        }
        made => Ok(made?),
    }
}

fn write_new(file: &Path, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create_new(true).open(file).and_then(|mut new| {
        new.write_all(text.as_bytes())?;
        new.sync_all()
    });
    written.map_err(|e| {
        Failure::failed(format_args!("the vault was made, but not its settings file {}: {e}", file.display()))
    })
}

/// Settings for a server on this machine, in the shape of vault-server's `Settings`. Files are named by absolute paths.
fn settings_text(asked: &Init, policy: &Policy) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Settings {
        store: Store,
        custodian: toml::Table,
        listen: Listen,
        tls: Tls,
        #[serde(skip_serializing_if = "Option::is_none")]
        admin: Option<Admin>,
    }
    #[derive(Serialize)]
    struct Store {
        folder: PathBuf,
        engine: &'static str,
    }
    #[derive(Serialize)]
    struct Listen {
        address: &'static str,
    }
    #[derive(Serialize)]
    struct Tls {
        certificate: PathBuf,
        key: PathBuf,
        crl: Vec<PathBuf>,
        client_ca: std::collections::BTreeMap<AuthorityName, PathBuf>,
    }
    #[derive(Serialize)]
    struct Admin {
        address: &'static str,
        tls: Tls,
    }
    let absolute = |path: &Path| std::path::absolute(path).map_err(Failure::failed);
    let certs = absolute(&asked.certs)?;
    let tls = |authorities: BTreeSet<&AuthorityName>| Tls {
        certificate: certs.join("server.pem"),
        key: certs.join("server.key"),
        crl: authorities.iter().map(|name| certs.join(format!("{name}.crl"))).collect(),
        client_ca: authorities
            .into_iter()
            .map(|name| (name.clone(), certs.join(format!("{name}.pem"))))
            .collect(),
    };
    let principals: BTreeSet<_> = policy.principals.iter().filter_map(|p| p.authority.as_ref()).collect();
    let operators: BTreeSet<_> = policy.operators.iter().map(|o| &o.authority).collect();
    if principals.is_empty() {
        return Err(Failure::refused(
            "the policy has no principal with a certificate, so no server can serve it",
        ));
    }
    let settings = Settings {
        store: Store { folder: absolute(&asked.folder)?, engine: asked.engine.word() },
        custodian: custodian_table(&asked.custody)?,
        listen: Listen { address: "127.0.0.1:7443" },
        tls: tls(principals),
        admin: (!operators.is_empty()).then(|| Admin { address: "127.0.0.1:7444", tls: tls(operators) }),
    };
    toml::to_string(&settings).map_err(Failure::failed)
}

/// The `[custodian]` table that says who opens the vault that is made, its files by absolute paths.
fn custodian_table(custody: &Custody) -> Result<toml::Table, Failure> {
    if let Some(file) = &custody.custodian {
        let mut named = custody::table(file)?;
        named.make_absolute().map_err(Failure::failed)?;
        return toml::Table::try_from(&named).map_err(Failure::failed);
    }
    let Some(file) = &custody.passphrase_file else {
        return Err(Failure::usage(
            "--settings needs --passphrase-file or --custodian: the server is not asked for a passphrase",
        ));
    };
    let file = std::path::absolute(file).map_err(Failure::failed)?;
    Ok(toml::Table::from_iter([("passphrase_file".to_owned(), file.display().to_string().into())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_that_are_written_are_settings_that_the_server_reads() {
        let hex = |digit: &str| digit.repeat(64);
        let policy = Policy::from_toml(&format!(
            "[[authority]]\nid = \"shop\"\nsha256 = \"{}\"\n[[authority]]\nid = \"operators\"\nsha256 = \"{}\"\n\
             [[merchant]]\nid = \"acme\"\n\
             [[principal]]\nid = \"web\"\nauthority = \"shop\"\nname = \"spiffe://shop/web\"\nmerchant = \"acme\"\n\
             [[operator]]\nid = \"ada\"\nauthority = \"operators\"\nname = \"spiffe://shop/ada\"\n",
            hex("a"),
            hex("b")
        ))
        .unwrap();
        let asked = Init {
            folder: "/v".into(),
            engine: Engine::Sled,
            custody: Custody { passphrase_file: Some("/p".into()), ..Custody::default() },
            policy: "policy.toml".into(),
            settings: Some("vault.toml".into()),
            certs: "/c".into(),
        };
        let text = settings_text(&asked, &policy).unwrap();
        let settings = vault_server::settings::Settings::parse(&text).unwrap();
        assert_eq!(settings.store.folder, Path::new("/v"));
        assert_eq!(settings.store.engine, vault_server::settings::Engine::Sled);
        let named: Vec<_> = settings.tls.client_ca.values().collect();
        assert_eq!(named, [Path::new("/c/shop.pem")]);
        assert_eq!(settings.admin.unwrap().tls.crl, [Path::new("/c/operators.crl")]);
        assert!(settings_text(&asked, &Policy::default()).is_err());
    }
}
