//! The `[custodian]` table: from what the settings name to the custodian that opens the root.
//!
//! Secrets come from a file that others cannot read, from a systemd credential, or, where a person runs the command, from a
//! prompt; never from the environment or an argument. Refused: no source or two of them, and a device or a service that this
//! build has no client for, with the words that build one. The device itself is asked only when the custodian is.

#[cfg(feature = "kms")]
mod kms;
#[cfg(feature = "pkcs11")]
mod pkcs11;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretSlice;
use serde::{Deserialize, Serialize};
use vault_core::custody::{Custodian, Passphrase};
use vault_core::error::Error;
use zeroize::Zeroizing;

use crate::memory::scrub_stack;
use crate::settings::{CustodianSettings, Problem, Settings, check_private, read_small};

/// Bytes of a passphrase.
const MAX_PASSPHRASE: u64 = 1_024;

/// Bytes of a settings file of which only the custodian is read: as of a whole one.
const MAX_FILE: u64 = 262_144;

/// The longest name of a service's key, region or address, in characters: AWS bounds a key's name at 2,048.
const MAX_NAME: usize = 2_048;

/// Where systemd puts credentials (`LoadCredential=`); the variable holds a folder, not a secret.
const CREDENTIALS_FOLDER: &str = "CREDENTIALS_DIRECTORY";

/// `argon2` of `[custodian]`: at least 64 MiB and 3 passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Argon2Settings {
    /// MiB of memory that each guess takes.
    pub memory_mib: u32,
    /// Passes over it.
    pub passes: u32,
}

/// `pkcs11` of `[custodian]`: a non-extractable AES-256 key in a token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11Settings {
    /// The device's library.
    pub module: PathBuf,
    /// The token's label.
    pub token_label: String,
    /// The key's label.
    pub key_label: String,
    /// A file that holds the user PIN and nothing else.
    pub pin_file: Option<PathBuf>,
    /// The name of a systemd credential that holds it.
    pub pin_credential: Option<String>,
}

/// `kms` of `[custodian]`: a symmetric key of AWS KMS. Credentials are never here: they come from the machine's role, or from
/// the files of AWS's own tools.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KmsSettings {
    /// The key: its ARN, its id, or `alias/NAME`.
    pub key: String,
    /// The region, such as `eu-central-1`.
    pub region: String,
    /// `https://host:port` in place of the region's own address; without TLS on a loopback address only.
    pub endpoint: Option<String>,
}

/// Where a running server's custodians are named: in its settings file, which is read again whenever they are needed, so
/// that a change of custody needs no restart; without a file, as they were at the start.
#[derive(Clone)]
pub struct Named {
    at_start: CustodianSettings,
    file: Option<PathBuf>,
}

impl Named {
    /// As they are named now.
    pub fn now(&self) -> Result<CustodianSettings, Problem> {
        self.file.as_deref().map_or_else(|| Ok(self.at_start.clone()), CustodianSettings::read)
    }

    /// Whether the custodian is people with shares, who come by themselves.
    #[must_use]
    pub fn are_people(&self) -> bool {
        self.now().is_ok_and(|named| named.is_shares())
    }

    /// The custodian, and the other one if there is one: all that a new key that they hold is to be entrusted to.
    pub fn open_all(&self) -> Result<Vec<Box<dyn Custodian>>, Problem> {
        let named = self.now()?;
        let mut all = vec![named.open()?];
        all.extend(named.open_other().transpose()?);
        Ok(all)
    }
}

/// Works with custodians on a thread of its own: stretching a secret and asking a device take long, and nobody else waits.
pub(crate) async fn in_custody<T: Send + 'static>(
    work: impl AsyncFnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let runtime = tokio::runtime::Handle::current();
    let worked = move || {
        let worked = runtime.block_on(work());
        // No runtime wipes this thread's stack: secrets were stretched and keys expanded on it.
        scrub_stack();
        worked
    };
    tokio::task::spawn_blocking(worked).await.map_err(|_| Error::internal())?
}

/// As a change of custody is told of what is wrong with the settings.
pub(crate) fn wrong(problem: &Problem) -> Error {
    Error::Config(problem.to_string())
}

impl From<&Settings> for Named {
    fn from(settings: &Settings) -> Self {
        Self { at_start: settings.custodian.clone(), file: settings.source.clone() }
    }
}

/// The one source that a table names.
enum Source<'a> {
    Passphrase(&'static str, PathBuf),
    Pkcs11(&'a Pkcs11Settings),
    Kms(&'a KmsSettings),
    Shares,
}

/// Where a PIN comes from that no file and no credential holds: nowhere for a server, a prompt for a command.
pub type AskPin<'a> = &'a dyn Fn() -> Result<Zeroizing<Vec<u8>>, Problem>;

/// For whoever cannot ask anybody.
fn nobody_to_ask() -> Result<Zeroizing<Vec<u8>>, Problem> {
    Err(Problem::new("custodian.pkcs11", "has no PIN", "set pin_file or pin_credential"))
}

impl CustodianSettings {
    /// A passphrase's file as the source.
    #[must_use]
    pub fn of_file(passphrase_file: PathBuf) -> Self {
        Self { passphrase_file: Some(passphrase_file), ..Self::default() }
    }

    /// Reads the `[custodian]` table of a settings file and nothing else of it. Relative paths count from the file's folder.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Whole {
            custodian: CustodianSettings,
        }
        let whole = path.display().to_string();
        let wrong = |problem: &str| {
            Problem::new(
                &whole,
                problem,
                "give a settings file with a [custodian] table; see docs/operations.md",
            )
        };
        let bytes = read_small(path, MAX_FILE).map_err(|problem| wrong(&problem))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("is not UTF-8 text"))?;
        // Neither the parser's words nor its line are repeated: what stands there may be a secret in the wrong place.
        let Whole { mut custodian } =
            toml::from_str(text).map_err(|_| wrong("has no [custodian] table that can be read"))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in custodian.files() {
            *file = folder.join(&*file);
        }
        Ok(custodian)
    }

    /// Makes its paths absolute: for a file elsewhere.
    pub fn make_absolute(&mut self) -> std::io::Result<()> {
        for file in self.files() {
            *file = std::path::absolute(&*file)?;
        }
        Ok(())
    }

    /// The paths that it names, the other one's too.
    pub(crate) fn files(&mut self) -> Vec<&mut PathBuf> {
        let Self { passphrase_file, pkcs11, other, .. } = self;
        let mut files: Vec<&mut PathBuf> = passphrase_file.iter_mut().collect();
        if let Some(Pkcs11Settings { module, pin_file, .. }) = pkcs11 {
            files.push(module);
            files.extend(pin_file);
        }
        files.extend(other.iter_mut().flat_map(|other| other.files()));
        files
    }

    fn source(&self) -> Result<Source<'_>, Problem> {
        let wrong = |problem: &str, remedy: &str| Err(Problem::new("custodian", problem, remedy));
        let named = (&self.passphrase_file, &self.passphrase_credential, &self.pkcs11, &self.kms);
        let source = match named {
            (None, None, None, None) if self.shares => Source::Shares,
            _ if self.shares => return wrong("needs exactly one source", "take out shares, or all else"),
            (Some(file), None, None, None) => Source::Passphrase("custodian.passphrase_file", file.clone()),
            (None, Some(name), None, None) => {
                const KEY: &str = "custodian.passphrase_credential";
                Source::Passphrase(KEY, credential_path(KEY, name)?)
            }
            (None, None, Some(token), None) => Source::Pkcs11(token),
            (None, None, None, Some(service)) => Source::Kms(service),
            _ => {
                return wrong(
                    "needs exactly one source",
                    "set passphrase_file, passphrase_credential, shares, pkcs11 or kms",
                );
            }
        };
        match (&source, &self.argon2) {
            (Source::Passphrase(..), _) | (_, None) => Ok(source),
            (Source::Pkcs11(_) | Source::Kms(_) | Source::Shares, Some(_)) => {
                wrong("has argon2 without a passphrase", "take argon2 out: only a passphrase is stretched")
            }
        }
    }

    /// What is wrong with it, without asking any device: files are read, nothing is changed.
    pub fn check(&self) -> Result<(), Problem> {
        match self.source()? {
            Source::Passphrase(..) => self.read_passphrase().map(drop),
            Source::Pkcs11(token) => {
                token.check()?;
                token.pin(&nobody_to_ask).map(drop)
            }
            Source::Kms(service) => service.check(),
            Source::Shares => Ok(()),
        }
    }

    /// The custodian that is named.
    pub fn open(&self) -> Result<Box<dyn Custodian>, Problem> {
        self.open_asking(&nobody_to_ask)
    }

    /// The same; a PIN that nothing holds is asked for.
    pub fn open_asking(&self, ask: AskPin<'_>) -> Result<Box<dyn Custodian>, Problem> {
        match self.source()? {
            Source::Passphrase(..) => {
                let mut passphrase = self.read_passphrase()?;
                let opened = Passphrase::new(SecretSlice::from(std::mem::take(&mut *passphrase)));
                let told = |remedy: &str| {
                    let remedy = remedy.to_owned();
                    move |e: vault_core::error::Error| Problem::new("custodian", &e.to_string(), &remedy)
                };
                let opened = opened.map_err(told("use a passphrase of 12 to 1,024 bytes"))?;
                let Some(cost) = self.argon2 else { return Ok(Box::new(opened)) };
                let memory = cost.memory_mib.saturating_mul(1_024);
                let dearer = opened.with_cost(memory, cost.passes).map_err(told("raise argon2"))?;
                Ok(Box::new(dearer))
            }
            Source::Pkcs11(token) => {
                token.check()?;
                pkcs11::open(token, token.pin(ask)?)
            }
            Source::Kms(service) => {
                service.check()?;
                kms::open(service)
            }
            Source::Shares => Err(Problem::new(
                "custodian.shares",
                "is people, whom nobody can ask by a settings file",
                "stop the vault; `vaultctl custodian split --new-root` makes a new root, --share-file opens it",
            )),
        }
    }

    /// The other custodian, `[custodian.other]`, if one is named.
    #[must_use]
    pub fn open_other(&self) -> Option<Result<Box<dyn Custodian>, Problem>> {
        let of_other = |p: Problem| {
            let key = p.key.strip_prefix("custodian").unwrap_or_default();
            Problem { key: format!("custodian.other{key}"), ..p }
        };
        self.other.as_ref().map(|other| {
            if other.other.is_some() {
                return Err(Problem::new(
                    "custodian.other.other",
                    "is one too many",
                    "name two custodians at most",
                ));
            }
            other.open().map_err(of_other)
        })
    }

    /// Whether the custodian is people with shares, and so nothing that could be read here.
    #[must_use]
    pub fn is_shares(&self) -> bool {
        matches!(self.source(), Ok(Source::Shares))
    }

    /// Whether a passphrase is what it names.
    #[must_use]
    pub fn is_passphrase(&self) -> bool {
        matches!(self.source(), Ok(Source::Passphrase(..)))
    }

    /// Reads the passphrase: 1 to 1,024 bytes, without one final line break.
    pub fn read_passphrase(&self) -> Result<Zeroizing<Vec<u8>>, Problem> {
        match self.source()? {
            Source::Passphrase(key, path) => read_secret(key, &path, "passphrase"),
            Source::Pkcs11(_) | Source::Kms(_) | Source::Shares => {
                Err(Problem::new("custodian", "has no passphrase", "set passphrase_file"))
            }
        }
    }
}

impl Pkcs11Settings {
    /// Makes the key in its token. A PIN that nothing holds is asked for.
    pub fn make_key(&self, ask: AskPin<'_>) -> Result<(), Error> {
        let pin = self.check().and_then(|()| self.pin(ask));
        pkcs11::make_key(self, pin.map_err(|p| Error::Config(p.to_string()))?)
    }

    fn check(&self) -> Result<(), Problem> {
        built("pkcs11", cfg!(feature = "pkcs11"))?;
        if self.module.is_file() {
            return Ok(());
        }
        let remedy = "give the path of the device's PKCS#11 library";
        Err(Problem::new("custodian.pkcs11.module", "is no file", remedy))
    }

    fn pin(&self, ask: AskPin<'_>) -> Result<Zeroizing<Vec<u8>>, Problem> {
        match (&self.pin_file, &self.pin_credential) {
            (Some(file), None) => read_secret("custodian.pkcs11.pin_file", file, "PIN"),
            (None, Some(name)) => {
                const KEY: &str = "custodian.pkcs11.pin_credential";
                read_secret(KEY, &credential_path(KEY, name)?, "PIN")
            }
            (None, None) => ask(),
            (Some(_), Some(_)) => Err(Problem::new(
                "custodian.pkcs11",
                "has two sources of the PIN",
                "set pin_file or pin_credential",
            )),
        }
    }
}

impl KmsSettings {
    fn check(&self) -> Result<(), Problem> {
        built("kms", cfg!(feature = "kms"))?;
        let wrong = |key: &str, problem: &str, remedy: &str| {
            Err(Problem::new(&format!("custodian.kms.{key}"), problem, remedy))
        };
        let named =
            |text: &str| (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if !named(&self.key) {
            return wrong("key", "is no key's name", "give its ARN, its id, or alias/NAME");
        }
        if !named(&self.region) {
            return wrong("region", "is no region", "give one such as eu-central-1");
        }
        match &self.endpoint {
            Some(at) if !named(at) || !is_private(at) => wrong(
                "endpoint",
                "is no https:// address",
                "give one: without TLS the root would cross the network readable, but for this machine's own 127.0.0.1",
            ),
            _ => Ok(()),
        }
    }
}

/// Whether what is sent there stays between this machine and the service.
fn is_private(endpoint: &str) -> bool {
    let host = |rest: &str| rest.split('/').next().unwrap_or_default().to_owned();
    match (endpoint.strip_prefix("https://"), endpoint.strip_prefix("http://")) {
        (Some(rest), _) => !host(rest).is_empty(),
        // Addresses, not names: a name is what somebody else's resolver says it is.
        (None, Some(rest)) => host(rest).parse::<SocketAddr>().is_ok_and(|at| at.ip().is_loopback()),
        (None, None) => false,
    }
}

fn built(feature: &str, is: bool) -> Result<(), Problem> {
    if is { Ok(()) } else { Err(lacking(feature)) }
}

fn lacking(feature: &str) -> Problem {
    let remedy = format!("build one that can: cargo build --release --bin vaultctl --features {feature}");
    Problem::new(&format!("custodian.{feature}"), "is not in this build of vaultctl", &remedy)
}

/// What stands for the client of a device that this build lacks.
#[cfg(not(feature = "pkcs11"))]
mod pkcs11 {
    use super::{Custodian, Error, Pkcs11Settings, Problem, Zeroizing, lacking};

    pub(super) fn open(_: &Pkcs11Settings, _: Zeroizing<Vec<u8>>) -> Result<Box<dyn Custodian>, Problem> {
        Err(lacking("pkcs11"))
    }

    pub(super) fn make_key(_: &Pkcs11Settings, _: Zeroizing<Vec<u8>>) -> Result<(), Error> {
        Err(Error::Config(lacking("pkcs11").to_string()))
    }
}

/// What stands for the client of a service that this build lacks.
#[cfg(not(feature = "kms"))]
mod kms {
    use super::{Custodian, KmsSettings, Problem, lacking};

    pub(super) fn open(_: &KmsSettings) -> Result<Box<dyn Custodian>, Problem> {
        Err(lacking("kms"))
    }
}

fn credential_path(key: &str, name: &str) -> Result<PathBuf, Problem> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(Problem::new(key, "is no credential's name", "give the name as in LoadCredential="));
    }
    let folder = std::env::var_os(CREDENTIALS_FOLDER).ok_or_else(|| {
        Problem::new(key, "was given, but systemd passed no credentials", "add LoadCredential= to the unit")
    })?;
    Ok(Path::new(&folder).join(name))
}

/// A secret of 1 to 1,024 bytes from a file that others cannot read, without one final line break.
fn read_secret(key: &str, path: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>, Problem> {
    check_private(key, path)?;
    let alone = format!("put the {what}, and nothing else, into this file");
    let mut bytes =
        read_small(path, MAX_PASSPHRASE + 2).map_err(|problem| Problem::new(key, &problem, &alone))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if u64::try_from(bytes.len()).is_ok_and(|n| n > MAX_PASSPHRASE) {
        return Err(Problem::new(key, "has more than 1,024 bytes", &format!("use a shorter {what}")));
    }
    if bytes.is_empty() {
        return Err(Problem::new(key, "is empty", &alone));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<CustodianSettings, Problem> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vault.toml");
        std::fs::write(&file, text).unwrap();
        CustodianSettings::read(&file)
    }

    #[test]
    fn the_custodians_table_is_read_alone_and_its_paths_count_from_its_file() {
        let read =
            of("[store]\nfolder = \"x\"\n[custodian]\npassphrase_file = \"p\"\n[custodian.other.pkcs11]\n\
             module = \"m.so\"\ntoken_label = \"t\"\nkey_label = \"k\"\npin_file = \"pin\"\n")
            .unwrap();
        let mut read = read;
        let names: Vec<_> =
            read.files().into_iter().map(|file| file.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["p", "m.so", "pin"]);
        assert!(read.files().into_iter().all(|file| file.is_absolute()));
        for wrong in ["", "[custodian]\npin = \"hunter2\"\n", "[custodian]\npassphrase_file = hunter2\n"] {
            let problem = of(wrong).unwrap_err().to_string();
            assert!(problem.contains("[custodian] table") && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn a_custodian_has_exactly_one_source() {
        const TOKEN: &str = "pkcs11 = { module = \"/m\", token_label = \"t\", key_label = \"k\" }\n";
        const SERVICE: &str = "kms = { key = \"alias/vault\", region = \"eu-central-1\" }\n";
        const FILE: &str = "passphrase_file = \"/p\"\n";
        for two in [[TOKEN, SERVICE], [TOKEN, FILE], [SERVICE, FILE], ["", ""]] {
            let problem = of(&format!("[custodian]\n{}{}", two[0], two[1])).unwrap().check().unwrap_err();
            assert_eq!(
                (problem.key.as_str(), problem.problem.as_str()),
                ("custodian", "needs exactly one source")
            );
        }
        let stretched = format!("[custodian]\nargon2 = {{ memory_mib = 64, passes = 3 }}\n{SERVICE}");
        assert!(of(&stretched).unwrap().check().unwrap_err().problem.contains("without a passphrase"));
    }

    #[test]
    fn the_root_crosses_no_network_in_the_clear() {
        let endpoints = [
            ("https://kms.example:8443", true),
            ("https://10.0.0.1", true),
            ("http://127.0.0.1:5000", true),
            ("http://[::1]:5000", true),
            ("http://localhost:5000", false),
            ("http://kms.example", false),
            ("http://127.0.0.1.example:80", false),
            ("https://", false),
            ("kms.example", false),
        ];
        for (endpoint, private) in endpoints {
            assert_eq!(is_private(endpoint), private, "{endpoint}");
        }
    }

    #[test]
    fn what_this_build_cannot_ask_is_refused_with_the_words_that_build_it() {
        let asked = [
            (
                "pkcs11",
                cfg!(feature = "pkcs11"),
                "pkcs11 = { module = \"/\", token_label = \"t\", key_label = \"k\" }",
            ),
            ("kms", cfg!(feature = "kms"), "kms = { key = \"\", region = \"r\" }"),
        ];
        for (feature, is, table) in asked {
            let settings = of(&format!("[custodian]\n{table}\n")).unwrap();
            for problem in [settings.check().unwrap_err(), settings.open().err().unwrap()] {
                let told = problem.to_string();
                assert_eq!(told.contains(&format!("--features {feature}")), !is, "{told}");
            }
        }
    }
}
