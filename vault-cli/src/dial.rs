//! How a command reaches a vault: which address, whom it trusts, and who it says that it is.
//!
//! Each part is taken from the command line, else from the environment, else from a profile file. All of them are names of
//! files and addresses; a secret has no place in any. Refused: a profile with a key that is not known.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use vault_client::{AdminClient, Endpoint, Pem, VaultClient};
use vault_server::identity::PeerName;

use crate::fail::Failure;
use crate::input;

/// Where every part can come from besides the command line.
pub(crate) const SOURCES: &str = "\
Connection:\n  \
  Each connection flag can also stand in the environment (VAULTCTL_SERVER, _ADMIN, _CA, _CERT, _KEY, _MERCHANT, \
  _CHANNEL, _PROFILE; for operators VAULTCTL_ADMIN_CA, _ADMIN_CERT, _ADMIN_KEY come first) or in a profile file:\n\n    \
    [vault]\n    server = \"https://127.0.0.1:7443\"\n    ca = \"ca.pem\"\n    cert = \"web.pem\"\n    \
    key = \"web.key\"\n    merchant = \"shop\"\n    channel = \"web\"\n\n    \
    [admin]\n    server = \"https://127.0.0.1:7444\"\n    ca = \"ca.pem\"\n    cert = \"me.pem\"\n    key = \"me.key\"";

/// How long a call may take, in seconds, unless said: as the client has it.
const TIMEOUT_SECONDS: u64 = 10;

/// What both services need.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Papers {
    /// PEM file of the authority that signed the server's certificate
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file of the client certificate
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// PEM file of the client certificate's private key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The name in the server's certificate, where it is not the address's host
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// TOML file with the connection's parts
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// For how long one call may take, with retries
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_SECONDS, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// How payment services reach the vault.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct VaultOptions {
    /// The vault's address, https://HOST:PORT
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The merchant; may be left out where the certificate is bound to one
    #[arg(long, value_name = "NAME")]
    merchant: Option<String>,
    /// The channel; may be left out where the certificate is bound to one
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    #[command(flatten)]
    papers: Papers,
}

/// How operators reach the vault.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct AdminOptions {
    /// The address of the vault's listener for operators, https://HOST:PORT
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    #[command(flatten)]
    papers: Papers,
}

/// A connection to the vault, and where its requests are made.
pub(crate) struct Dialled {
    /// The vault.
    pub(crate) vault: VaultClient,
    /// The merchant, or nothing.
    pub(crate) merchant: String,
    /// The channel, or nothing.
    pub(crate) channel: String,
}

/// Where requests go and as whose, as it is configured: a run that is taken up again must go on with the same ones. The
/// principal is among them since the vault keeps a request's id for the principal that sent it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// The vault's address.
    pub(crate) server: String,
    /// The merchant, or nothing.
    pub(crate) merchant: String,
    /// The channel, or nothing.
    pub(crate) channel: String,
    /// The name in the client certificate, which stays when it is renewed.
    pub(crate) principal: String,
}

impl VaultOptions {
    /// Connects as a payment service.
    pub(crate) async fn connect(self) -> Result<Dialled, Failure> {
        self.find()?.connect().await
    }

    /// Reads profile and environment once, so that what is looked at is what is dialled.
    pub(crate) fn find(self) -> Result<Found, Failure> {
        let environment = |name: &str| std::env::var(name).ok();
        let profile = Profile::find(self.papers.profile.as_deref(), &environment)?.vault;
        self.resolve(profile, &environment)
    }

    fn resolve(self, profile: Table, environment: Environment<'_>) -> Result<Found, Failure> {
        let Self { server, merchant, channel, papers } = self;
        let table = Table { server, merchant, channel, ..papers.table() };
        let from = Table::from_environment("VAULTCTL_SERVER", &["VAULTCTL"], environment);
        table.or(from).or(profile).found(papers.timeout, ("--server", "VAULTCTL_SERVER", "[vault]"))
    }
}

impl AdminOptions {
    /// Connects as an operator.
    pub(crate) async fn connect(self) -> Result<AdminClient, Failure> {
        let environment = |name: &str| std::env::var(name).ok();
        let profile = Profile::find(self.papers.profile.as_deref(), &environment)?.admin;
        Ok(AdminClient::connect(self.resolve(profile, &environment)?.endpoint()).await?)
    }

    fn resolve(self, profile: Table, environment: Environment<'_>) -> Result<Found, Failure> {
        let Self { admin, papers } = self;
        let table = Table { server: admin, ..papers.table() };
        let from = Table::from_environment("VAULTCTL_ADMIN", &["VAULTCTL_ADMIN", "VAULTCTL"], environment);
        table.or(from).or(profile).found(papers.timeout, ("--admin", "VAULTCTL_ADMIN", "[admin]"))
    }
}

impl Papers {
    fn table(&self) -> Table {
        Table {
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            server_name: self.server_name.clone(),
            ..Table::default()
        }
    }
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A profile file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    #[serde(default)]
    vault: Table,
    #[serde(default)]
    admin: Table,
}

impl Profile {
    fn find(named: Option<&Path>, environment: Environment<'_>) -> Result<Self, Failure> {
        let from_environment =
            environment("VAULTCTL_PROFILE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let Some(path) = named.map(Path::to_owned).or(from_environment) else { return Ok(Self::default()) };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Self::parse(&input::small_text(&path)?, &folder)
            .map_err(|why| Failure::usage(format_args!("the profile {}: {why}", path.display())))
    }

    /// Paths in it count from its own folder.
    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        // The parser's whole text quotes the line, and a line may hold what should not be printed.
        let mut profile: Self = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        for table in [&mut profile.vault, &mut profile.admin] {
            for path in [&mut table.ca, &mut table.cert, &mut table.key].into_iter().flatten() {
                *path = folder.join(&*path);
            }
        }
        Ok(profile)
    }
}

/// The parts of a connection, as far as one source has them.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    server: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    server_name: Option<String>,
    merchant: Option<String>,
    channel: Option<String>,
}

impl Table {
    fn from_environment(server: &str, prefixes: &[&str], environment: Environment<'_>) -> Self {
        let named = |name: &str| environment(name).filter(|value| !value.is_empty());
        let part = |suffix: &str| prefixes.iter().find_map(|prefix| named(&format!("{prefix}_{suffix}")));
        Self {
            server: named(server),
            ca: part("CA").map(PathBuf::from),
            cert: part("CERT").map(PathBuf::from),
            key: part("KEY").map(PathBuf::from),
            server_name: part("SERVER_NAME"),
            merchant: part("MERCHANT"),
            channel: part("CHANNEL"),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            server: self.server.or(other.server),
            ca: self.ca.or(other.ca),
            cert: self.cert.or(other.cert),
            key: self.key.or(other.key),
            server_name: self.server_name.or(other.server_name),
            merchant: self.merchant.or(other.merchant),
            channel: self.channel.or(other.channel),
        }
    }

    fn found(self, timeout: u64, (flag, variable, table): (&str, &str, &str)) -> Result<Found, Failure> {
        let missing = |part: &str, flag: &str| {
            Failure::usage(format_args!(
                "{part} is not known; give {flag}, or set it in the environment ({variable} and others) or under {table} \
                 of a --profile; see --help"
            ))
        };
        Ok(Found {
            server: self.server.ok_or_else(|| missing("the vault's address", flag))?,
            ca: self.ca.ok_or_else(|| missing("the server's authority", "--ca"))?,
            cert: self.cert.ok_or_else(|| missing("the client certificate", "--cert"))?,
            key: self.key.ok_or_else(|| missing("the client certificate's key", "--key"))?,
            server_name: self.server_name,
            merchant: self.merchant,
            channel: self.channel,
            timeout: Duration::from_secs(timeout),
        })
    }
}

/// All parts of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    server: String,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    server_name: Option<String>,
    merchant: Option<String>,
    channel: Option<String>,
    timeout: Duration,
}

impl Found {
    /// Connects as a payment service.
    pub(crate) async fn connect(self) -> Result<Dialled, Failure> {
        let (merchant, channel) = (self.merchant.clone(), self.channel.clone());
        let vault = VaultClient::connect(self.endpoint()).await?;
        Ok(Dialled { vault, merchant: merchant.unwrap_or_default(), channel: channel.unwrap_or_default() })
    }

    /// Where its requests go and as whose. Refused: a certificate that names nobody, as every vault refuses it.
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        let cert = self.cert.display();
        let certificate = CertificateDer::from_pem_file(&self.cert)
            .map_err(|_| Failure::usage(format_args!("{cert}: is no certificate in a PEM file")))?;
        let name = PeerName::of(&certificate)
            .map_err(|e| Failure::usage(format_args!("{cert}: the certificate names nobody: {e}")))?;
        Ok(Target {
            server: self.server.clone(),
            merchant: self.merchant.clone().unwrap_or_default(),
            channel: self.channel.clone().unwrap_or_default(),
            principal: name.as_str().to_owned(),
        })
    }

    fn endpoint(self) -> Endpoint {
        let client = (Pem::file(self.cert), Pem::file(self.key));
        let endpoint = Endpoint::new(&self.server, Pem::file(self.ca), client).deadline(self.timeout);
        match self.server_name {
            Some(name) => endpoint.server_name(&name),
            None => endpoint,
        }
    }
}

/// Runs what waits for the network, on threads that wipe their stacks when they go idle.
pub(crate) fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    vault_server::memory::runtime().map_err(Failure::failed)?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "\
        [vault]\nserver = \"https://p:1\"\nca = \"ca.pem\"\ncert = \"/c.pem\"\nkey = \"k\"\nmerchant = \"shop\"\n\
        [admin]\nserver = \"https://p:2\"";

    #[test]
    fn the_command_line_comes_before_the_environment_and_that_before_the_profile() {
        let profile = Profile::parse(PROFILE, Path::new("/etc/vault")).unwrap();
        let environment = |name: &str| match name {
            "VAULTCTL_KEY" => Some("env.key".to_owned()),
            "VAULTCTL_CERT" => Some("env.pem".to_owned()),
            "VAULTCTL_MERCHANT" => Some(String::new()),
            _ => None,
        };
        let options = VaultOptions {
            papers: Papers { key: Some("flag.key".into()), timeout: 3, ..Papers::default() },
            ..VaultOptions::default()
        };
        let found = options.resolve(profile.vault, &environment).unwrap();
        assert_eq!(found.server, "https://p:1");
        assert_eq!(found.ca, Path::new("/etc/vault/ca.pem"));
        assert_eq!(found.cert, Path::new("env.pem"));
        assert_eq!(found.key, Path::new("flag.key"));
        assert_eq!((found.merchant.as_deref(), found.timeout), (Some("shop"), Duration::from_secs(3)));
    }

    #[test]
    fn operators_have_variables_of_their_own_and_fall_back_to_the_common_ones() {
        let environment = |name: &str| match name {
            "VAULTCTL_ADMIN" => Some("https://a:1".to_owned()),
            "VAULTCTL_ADMIN_CERT" => Some("operator.pem".to_owned()),
            "VAULTCTL_CERT" => Some("web.pem".to_owned()),
            "VAULTCTL_CA" => Some("ca.pem".to_owned()),
            "VAULTCTL_ADMIN_KEY" => Some("operator.key".to_owned()),
            _ => None,
        };
        let found = AdminOptions::default().resolve(Table::default(), &environment).unwrap();
        assert_eq!(
            (found.cert.as_path(), found.ca.as_path()),
            (Path::new("operator.pem"), Path::new("ca.pem"))
        );
    }

    #[test]
    fn a_missing_part_is_named_with_its_flag_and_an_unknown_key_is_refused() {
        for (server, flag) in [(None, "--server"), (Some("https://v:1".to_owned()), "--ca")] {
            let options = VaultOptions { server, ..VaultOptions::default() };
            let failure = options.resolve(Table::default(), &|_| None).unwrap_err();
            assert!(failure.to_string().contains(flag), "{failure}");
            assert_eq!(failure.exit(), crate::fail::Exit::Usage);
        }
        for text in ["[vault]\npassword = \"x\"", "[server]", "server = 1"] {
            assert!(Profile::parse(text, Path::new("")).is_err(), "{text}");
        }
    }
}
