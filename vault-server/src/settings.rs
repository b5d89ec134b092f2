//! The server's one TOML file: addresses, files and limits.
//!
//! Refused: unknown keys, a metrics page on an open address, a passphrase anywhere but in a file or a systemd credential
//! (never an environment variable or an argument: both can be read by others), and operators' certificates from an
//! authority of the data plane. The policy is not here: it lives in the vault and is changed by `vaultctl policy apply`.
//! Relative paths count from the folder of the file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vault_core::name::{AuthorityName, ChannelName, DestinationName, MerchantName};
use vault_core::network::{MAX_LIST, Networks};
use vault_core::pan::holds_card_number;
use vault_core::policy::{MAX_POLICY, Policy};
use vault_core::time::Clock;
use zeroize::Zeroizing;

pub use crate::custodian::{Argon2Settings, KmsSettings, Pkcs11Settings};
use crate::forward::Forwarder;
use crate::limits::Limits;
use crate::logs::LogSettings;
use crate::tls::TlsState;

/// Bytes of a settings file. A generous one has two thousand.
const MAX_SETTINGS: u64 = 262_144;
/// The permission bits of everyone who is neither owner nor group.
const OTHERS: u32 = 0o007;

/// Something wrong with the settings, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as `table.key`.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    pub(crate) fn new(key: &str, problem: &str, remedy: &str) -> Self {
        Self { key: key.to_owned(), problem: problem.to_owned(), remedy: remedy.to_owned() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.key, self.problem, self.remedy)
    }
}

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `[store]`: where the vault lives.
    pub store: StoreSettings,
    /// `[custodian]`: where the root key's protection comes from.
    pub custodian: CustodianSettings,
    /// `[listen]`: the data plane.
    pub listen: ListenSettings,
    /// `[tls]`: the data plane's certificates.
    pub tls: TlsFiles,
    /// `[admin]` and `[admin.tls]`: the operators' listener. Without it there is none.
    pub admin: Option<AdminSettings>,
    /// `[metrics]`: without it there is no page.
    pub metrics: Option<MetricsSettings>,
    /// `[cards]`: without it, the built-in list of card networks.
    #[serde(default)]
    pub cards: CardSettings,
    /// `[limits]`.
    #[serde(default)]
    pub limits: Limits,
    /// `[log]`.
    #[serde(default)]
    pub log: LogSettings,
    /// `[forward.NAME]`: where the server may send requests with cards in them. Without any, nowhere.
    #[serde(default)]
    pub forward: BTreeMap<DestinationName, DestinationSettings>,
    /// The file that all this was read from, if from one: what may change while the server runs is read there again.
    #[serde(skip)]
    pub(crate) source: Option<PathBuf>,
}

/// A `[forward.NAME]` table: one destination. What of it is for whom in the end is the policy's to say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationSettings {
    /// `https://host:port`. The host must be in the destination's certificate.
    pub url: String,
    /// The authorities that may vouch for it, PEM; no others are trusted.
    pub ca: PathBuf,
    /// The certificate that is shown to it, PEM, with its intermediates. May be left out.
    pub certificate: Option<PathBuf>,
    /// That certificate's key.
    pub key: Option<PathBuf>,
    /// Whose cards may be sent there.
    pub merchants: Vec<MerchantName>,
    /// On which of their channels; empty means on all.
    #[serde(default)]
    pub channels: Vec<ChannelName>,
    /// How paths there may begin: whole segments, so that `/v1/pay` lets no `/v1/payouts` in.
    pub paths: Vec<String>,
    /// Which of its headers are given to the caller.
    #[serde(default = "content_type")]
    pub answer_headers: Vec<String>,
    /// Milliseconds to connect, TLS included.
    #[serde(default = "connect_ms")]
    pub connect_ms: u32,
    /// Milliseconds from connected to the end of the answer.
    #[serde(default = "answer_ms")]
    pub answer_ms: u32,
    /// Requests there at once; more are refused.
    #[serde(default = "at_once")]
    pub at_once: u32,
    /// Bytes of a request's body.
    #[serde(default = "request_bytes")]
    pub request_bytes: u32,
    /// Bytes of an answer's body.
    #[serde(default = "answer_bytes")]
    pub answer_bytes: u32,
}

fn content_type() -> Vec<String> {
    vec!["content-type".to_owned()]
}

fn connect_ms() -> u32 {
    5_000
}

fn answer_ms() -> u32 {
    20_000
}

fn at_once() -> u32 {
    32
}

fn request_bytes() -> u32 {
    65_536
}

fn answer_bytes() -> u32 {
    262_144
}

/// Which engine keeps the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// redb, one file.
    #[default]
    Redb,
    /// sled, one folder.
    Sled,
    /// Memory: gone with the process. For trials.
    Memory,
}

/// The `[store]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// The folder, made by `vaultctl init`.
    pub folder: PathBuf,
    /// `redb` (the default), `sled` or `memory`.
    #[serde(default)]
    pub engine: Engine,
    /// For `memory` alone: the policy that it begins with. Other engines hold their own; see `vaultctl policy apply`.
    pub policy: Option<PathBuf>,
}

impl StoreSettings {
    /// The policy that a memory store begins with.
    pub fn read_policy(&self) -> Result<Policy, Problem> {
        let wrong = |problem: &str| {
            Problem::new("store.policy", problem, "name a policy file; engine memory needs one")
        };
        let path = self.policy.as_ref().ok_or_else(|| wrong("is missing"))?;
        let most = u64::try_from(MAX_POLICY).unwrap_or(u64::MAX);
        let bytes = read_small(path, most).map_err(|problem| wrong(&problem))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("is not UTF-8"))?;
        Policy::from_toml(text).map_err(|e| wrong(&e.to_string()))
    }
}

/// The `[custodian]` table: exactly one source, of which [`crate::custodian`] makes a custodian.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CustodianSettings {
    /// A file that holds the passphrase and nothing else; one final line break is not part of it.
    pub passphrase_file: Option<PathBuf>,
    /// The name of a systemd credential that holds the passphrase.
    pub passphrase_credential: Option<String>,
    /// The custodian is people with shares: the server starts sealed, and opens once enough of them have come.
    #[serde(default)]
    pub shares: bool,
    /// With a passphrase: what guessing it is to cost, where it takes a root into custody. It never falls.
    pub argon2: Option<Argon2Settings>,
    /// A key of an HSM.
    pub pkcs11: Option<Pkcs11Settings>,
    /// A key of a cloud's key service.
    pub kms: Option<KmsSettings>,
    /// `[custodian.other]`: who takes this one's place at `keys rotate custodian`, and who else must take a new root into
    /// custody where two protect it. Read when it is needed; without either, there is none.
    pub other: Option<Box<CustodianSettings>>,
}

/// The `[listen]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenSettings {
    /// Address and port, such as `0.0.0.0:7443` or `[::]:7443`.
    pub address: SocketAddr,
}

/// A `[tls]` table. All files are PEM and are watched: see [`crate::tls`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The server's certificate, then its intermediates.
    pub certificate: PathBuf,
    /// The server's private key (PKCS#8, SEC1 or PKCS#1), readable by its owner or group only.
    pub key: PathBuf,
    /// Authorities whose client certificates are accepted, by the name that the policy uses. The first certificate of a
    /// file is the authority; others are its intermediates.
    pub client_ca: BTreeMap<AuthorityName, PathBuf>,
    /// Revocation lists of these authorities and intermediates, PEM or DER.
    #[serde(default)]
    pub crl: Vec<PathBuf>,
}

/// The `[admin]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminSettings {
    /// Address and port.
    pub address: SocketAddr,
    /// `[admin.tls]`: authorities of its own.
    pub tls: TlsFiles,
}

/// The `[cards]` table.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardSettings {
    /// A list of card networks in place of the built-in one; its form is that of `vault-core/data/networks.toml`.
    pub networks: Option<PathBuf>,
}

impl CardSettings {
    /// The networks that the settings name.
    pub fn read_networks(&self) -> Result<Networks, Problem> {
        let Some(path) = &self.networks else { return Ok(Networks::builtin()) };
        let wrong =
            |problem: &str| Problem::new("cards.networks", problem, "mend the file, or take the key out");
        let most = u64::try_from(MAX_LIST).unwrap_or(u64::MAX);
        let bytes = read_small(path, most).map_err(|problem| wrong(&problem))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("is not UTF-8"))?;
        Networks::parse(text).map_err(|e| wrong(&e.to_string()))
    }
}

/// The `[metrics]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSettings {
    /// A loopback address and port, such as `127.0.0.1:7445`.
    pub address: SocketAddr,
}

impl Settings {
    /// Reads the file's shape: TOML, known keys, right types. Whether the values make sense is [`Settings::check`]'s.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let whole = path.display().to_string();
        let text = read_small(path, MAX_SETTINGS)
            .and_then(|bytes| {
                let text = std::str::from_utf8(&bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
                Ok(Zeroizing::new(text.to_owned()))
            })
            .map_err(|problem| Problem::new(&whole, &problem, "give the path of a settings file"))?;
        let mut settings = Self::parse(&text).map_err(|problem| Problem { key: whole, ..problem })?;
        settings.resolve(path.parent().unwrap_or(Path::new("")));
        settings.source = Some(path.to_owned());
        Ok(settings)
    }

    /// The same from a text; relative paths stay as they are.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        toml::from_str(text).map_err(|error| {
            // The parser's own text quotes the line, and a line may hold what should not be printed.
            let line = error
                .span()
                .map_or(1, |span| 1 + text.bytes().take(span.start).filter(|&b| b == b'\n').count());
            // Its shorter words may quote a key or a value.
            let said = match error.message() {
                card if holds_card_number(card) => "a card number stands where a key or a value belongs",
                said => said,
            };
            Problem::new("settings", &format!("line {line}: {said}"), "see docs/operations.md for every key")
        })
    }

    fn resolve(&mut self, folder: &Path) {
        let tables = std::iter::once(&mut self.tls).chain(self.admin.as_mut().map(|admin| &mut admin.tls));
        let paths = tables.flat_map(|tls| {
            [&mut tls.certificate, &mut tls.key]
                .into_iter()
                .chain(tls.client_ca.values_mut())
                .chain(&mut tls.crl)
        });
        let paths = paths.chain([&mut self.store.folder]);
        for path in paths
            .chain(self.custodian.files())
            .chain(&mut self.cards.networks)
            .chain(&mut self.store.policy)
            .chain(self.forward.values_mut().flat_map(DestinationSettings::files))
        {
            *path = folder.join(&*path); // an absolute path stays itself
        }
    }

    /// Everything that is wrong, at once. Empty: the server can start. Reads files, changes nothing.
    #[must_use]
    pub fn check(&self, clock: &Arc<dyn Clock>) -> Vec<Problem> {
        let mut problems = self.limits.problems();
        problems.extend(self.check_addresses());
        problems.extend(self.check_custodian().err());
        problems.extend(self.cards.read_networks().err());
        match (self.store.engine, &self.store.policy) {
            (Engine::Memory, _) => problems.extend(self.store.read_policy().err()),
            (Engine::Redb | Engine::Sled, Some(_)) => problems.push(Problem::new(
                "store.policy",
                "is for engine memory alone",
                "take it out, and use `vaultctl policy apply`",
            )),
            (Engine::Redb | Engine::Sled, None) => {}
        }
        problems.extend(Forwarder::open(&self.forward).err().into_iter().flatten());
        if self.store.engine != Engine::Memory && !self.store.folder.is_dir() {
            problems.push(Problem::new(
                "store.folder",
                "is no folder",
                "make a vault there with `vaultctl init`",
            ));
        }
        let data = self.tls.check("tls", clock, &mut problems);
        let admin = self.admin.as_ref().and_then(|a| a.tls.check("admin.tls", clock, &mut problems));
        if let (Some(data), Some(admin)) = (data, admin) {
            problems.extend(shared_authorities(&data, &admin));
        }
        problems
    }

    fn check_custodian(&self) -> Result<(), Problem> {
        self.custodian.check()?;
        let wrong = |problem, remedy| Err(Problem::new("custodian.shares", problem, remedy));
        match (self.custodian.is_shares(), self.store.engine, &self.admin) {
            (true, Engine::Memory, _) => {
                wrong("is not for engine memory, which begins anew at each start", "use a passphrase")
            }
            (true, _, None) => {
                wrong("leaves nobody a way in", "add [admin]: shares are entered at that listener")
            }
            _ => Ok(()),
        }
    }

    fn check_addresses(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(metrics) = &self.metrics
            && !metrics.address.ip().is_loopback()
        {
            problems.push(Problem::new(
                "metrics.address",
                "is not a loopback address",
                "use 127.0.0.1 or [::1]: the page has no access control",
            ));
        }
        let taken = [
            ("listen.address", Some(self.listen.address)),
            ("admin.address", self.admin.as_ref().map(|admin| admin.address)),
            ("metrics.address", self.metrics.as_ref().map(|metrics| metrics.address)),
        ];
        for (at, (key, address)) in taken.iter().enumerate() {
            let earlier = taken.iter().take(at).any(|(_, other)| other == address);
            if address.is_some_and(|address| address.port() != 0) && earlier {
                problems.push(Problem::new(key, "is taken by another listener", "choose another port"));
            }
        }
        problems
    }
}

/// Authorities that vouch for both sides: whoever takes a merchant's authority over must not become an operator by it.
fn shared_authorities(data: &TlsState, admin: &TlsState) -> Vec<Problem> {
    let shared = |fingerprint| data.authorities().any(|(_, other)| other == fingerprint);
    admin
        .authorities()
        .filter(|(_, fingerprint)| shared(*fingerprint))
        .map(|(name, _)| {
            let key = format!("admin.tls.client_ca.{name}");
            Problem::new(&key, "is an authority of [tls] too", "give operators an authority of their own")
        })
        .collect()
}

impl DestinationSettings {
    fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [Some(&mut self.ca), self.certificate.as_mut(), self.key.as_mut()].into_iter().flatten()
    }
}

impl TlsFiles {
    fn check(&self, table: &str, clock: &Arc<dyn Clock>, problems: &mut Vec<Problem>) -> Option<TlsState> {
        match TlsState::load(self, clock) {
            Ok(state) => Some(state),
            Err(found) => {
                problems
                    .extend(found.into_iter().map(|p| Problem { key: format!("{table}.{}", p.key), ..p }));
                None
            }
        }
    }
}

/// Refuses a secret that everyone on the machine can read or write.
pub(crate) fn check_private(key: &str, path: &Path) -> Result<(), Problem> {
    let mode = fs::metadata(path)
        .map_err(|error| Problem::new(key, &unreadable(path, &error), "check the path and its permissions"))?
        .permissions()
        .mode();
    if mode & OTHERS != 0 {
        return Err(Problem::new(
            key,
            "can be read or changed by everyone",
            "take the rights of others away: chmod o=",
        ));
    }
    Ok(())
}

pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("cannot be read ({}, {})", path.display(), error.kind())
}

/// Reads a file of at most `most` bytes into memory that is wiped.
pub(crate) fn read_small(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        return Err(format!("is larger than {most} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{Rig, clock};

    const WHOLE: &str = r#"
        [store]
        folder = "store"
        [custodian]
        passphrase_file = "passphrase"
        [listen]
        address = "127.0.0.1:7443"
        [tls]
        certificate = "server.pem"
        key = "server.key"
        client_ca = { shop = "shop.pem" }
        crl = ["shop.crl"]
        [admin]
        address = "127.0.0.1:7444"
        [admin.tls]
        certificate = "server.pem"
        key = "server.key"
        client_ca = { operators = "other.pem" }
        [metrics]
        address = "127.0.0.1:7445"
        [limits]
        queue = 100
        [log]
        format = "text"
    "#;

    fn folder(text: &str) -> (Rig, PathBuf) {
        let rig = Rig::new();
        fs::create_dir(rig.path("store")).unwrap();
        fs::write(rig.path("passphrase"), "correct horse\n").unwrap();
        fs::set_permissions(rig.path("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
        let file = rig.path("vault.toml");
        fs::write(&file, text).unwrap();
        (rig, file)
    }

    #[test]
    fn a_whole_file_is_read_and_found_good() {
        let (rig, file) = folder(WHOLE);
        let settings = Settings::read(&file).unwrap();
        assert_eq!(settings.check(&clock()), []);
        assert_eq!(settings.tls.key, rig.path("server.key"));
        assert_eq!(settings.limits.queue, 100);
        assert_eq!(settings.limits.message_bytes, crate::limits::MESSAGE_BYTES);
        assert_eq!(settings.store.engine, Engine::Redb);
        assert_eq!(settings.custodian.read_passphrase().unwrap().as_slice(), b"correct horse");
    }

    #[test]
    fn a_card_number_in_the_settings_is_told_by_its_line_alone() {
        for wrong in
            ["4111111111111111 = 1\n", "folder = 4111111111111111\n", "engine = \"4111111111111111\"\n"]
        {
            let problem = Settings::parse(&format!("[store]\n{wrong}")).unwrap_err().to_string();
            assert!(problem.contains("line 2: a card number") && !problem.contains("4111"), "{problem}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_in_every_table() {
        let tables = [
            "[store]",
            "[custodian]",
            "[listen]",
            "[tls]",
            "[admin]",
            "[admin.tls]",
            "[metrics]",
            "[limits]",
            "[log]",
        ];
        for table in tables {
            let text =
                WHOLE.replacen(&format!("{table}\n"), &format!("{table}\n passphrase = \"hunter2\"\n"), 1);
            let problem = Settings::parse(&text).unwrap_err().to_string();
            assert!(
                problem.contains("unknown field `passphrase`") && !problem.contains("hunter2"),
                "{table}: {problem}"
            );
        }
        assert!(Settings::parse(&format!("surprise = 1\n{WHOLE}")).is_err());
    }

    #[test]
    fn every_problem_is_told_at_once_and_by_its_key() {
        let text = WHOLE
            .replace("\"store\"", "\"nowhere\"")
            .replace("127.0.0.1:7445", "192.0.2.1:7443")
            .replace("127.0.0.1:7444", "127.0.0.1:7443")
            .replace("queue = 100", "queue = 0")
            .replace("passphrase_file = \"passphrase\"", "")
            .replace("\"shop.pem\"", "\"absent.pem\"");
        let (_rig, file) = folder(&text);
        let problems = Settings::read(&file).unwrap().check(&clock());
        let keys: Vec<_> = problems.iter().map(|p| p.key.as_str()).collect();
        for key in [
            "limits.queue",
            "metrics.address",
            "admin.address",
            "custodian",
            "store.folder",
            "tls.client_ca.shop",
        ] {
            assert!(keys.contains(&key), "{key} is not among {keys:?}");
        }
    }

    #[test]
    fn an_authority_cannot_vouch_for_merchants_and_operators() {
        let (_rig, file) = folder(&WHOLE.replace("operators = \"other.pem\"", "operators = \"shop.pem\""));
        let problems = Settings::read(&file).unwrap().check(&clock());
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].key, "admin.tls.client_ca.operators");
    }

    #[test]
    fn a_secret_that_everyone_can_read_is_refused() {
        let (rig, file) = folder(WHOLE);
        for secret in ["passphrase", "server.key"] {
            fs::set_permissions(rig.path(secret), fs::Permissions::from_mode(0o644)).unwrap();
        }
        let keys: Vec<_> =
            Settings::read(&file).unwrap().check(&clock()).into_iter().map(|p| p.key).collect();
        assert_eq!(keys, ["custodian.passphrase_file", "tls.key", "admin.tls.key"]);
    }

    #[test]
    fn shares_are_a_source_of_their_own_and_need_a_listener_for_operators() {
        let shares = WHOLE.replace("passphrase_file = \"passphrase\"", "shares = true");
        let problems = |text: &str| {
            let (_rig, file) = folder(text);
            let found = Settings::read(&file).unwrap().check(&clock());
            found.into_iter().map(|p| p.key).collect::<Vec<_>>()
        };
        assert!(problems(&shares).is_empty());
        let both = shares.replace("shares = true", "shares = true\npassphrase_file = \"passphrase\"");
        assert_eq!(problems(&both), ["custodian"]);
        assert_eq!(problems(&shares.replace("shares = true", "shares = false")), ["custodian"]);
        let (closed, rest) = shares.split_once("[admin]").unwrap();
        let lonely = format!("{closed}[metrics]{}", rest.split_once("[metrics]").unwrap().1);
        assert_eq!(problems(&lonely), ["custodian.shares"]);
        let memory = shares.replace("folder = \"store\"", "folder = \"store\"\nengine = \"memory\"");
        assert!(problems(&memory).contains(&"custodian.shares".to_owned()));
    }

    #[test]
    fn a_passphrase_has_one_source_and_is_not_empty() {
        let both = CustodianSettings {
            passphrase_file: Some("a".into()),
            passphrase_credential: Some("b".into()),
            ..CustodianSettings::default()
        };
        assert_eq!(both.read_passphrase().unwrap_err().key, "custodian");
        for name in ["", "../etc/shadow", ".hidden", "a/b"] {
            let credential = CustodianSettings {
                passphrase_credential: Some(name.into()),
                ..CustodianSettings::default()
            };
            assert!(credential.read_passphrase().is_err(), "{name}");
        }
        let (rig, _) = folder(WHOLE);
        for (content, good) in [("\n", false), ("", false), ("x\r\n", true), (&*"x".repeat(1_025), false)] {
            fs::write(rig.path("passphrase"), content).unwrap();
            let file = CustodianSettings {
                passphrase_file: Some(rig.path("passphrase")),
                ..CustodianSettings::default()
            };
            assert_eq!(file.read_passphrase().is_ok(), good, "{} bytes", content.len());
        }
    }
}
