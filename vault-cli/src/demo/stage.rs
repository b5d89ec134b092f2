//! Where the story plays: a fresh folder, certificates, a vault, and a server in a process of its own.
//!
//! Whatever ends the story, the server is killed by its id and the folder removed, unless both are to be kept.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use serde::Deserialize;
use tokio::time::Instant;
use vault_client::{AdminClient, Endpoint, Pem, VaultClient};
use vault_core::audit::note::LogVerifier;
use vault_core::policy::Policy;
use vault_core::random;
use vault_core::store::{self, Options};
use vault_core::time::{Clock as _, SystemClock};
use vault_core::vault::Blocking;

use crate::certs::{self, LeafKind};
use crate::custody::passphrase;
use crate::fail::Failure;
use crate::init::Engine;
use crate::store::place;

/// The merchant of the story.
pub(super) const MERCHANT: &str = "acme";

/// For how long the server may take to serve: an unoptimised build on a busy machine is slow to derive its root key.
const READY: Duration = Duration::from_mins(1);
/// For how long an answer may take: the batches of a file of ten thousand cards are one.
const ANSWER: Duration = Duration::from_mins(1);
/// How often the server's log is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);
/// Days that the story's certificates are good: long enough for a vault that is kept for a try.
const DAYS: u32 = 30;

/// The number of the signal that cannot be caught (POSIX).
const SIGKILL: i32 = 9;

const POLICY: &str = include_str!("../../data/demo-policy.toml");
const IMPORT: &str = include_str!("../../data/demo-import.toml");
const SETTINGS: &str = include_str!("../../data/demo-settings.toml");

/// Who takes part, by the file of the certificate, which is also the name in the policy.
pub(super) const SERVICES: [&str; 5] = ["shop", "app", "till", "gateway", "marketing"];
/// Who runs the vault.
pub(super) const OPERATOR: &str = "operator";
/// Who holds a certificate, but not one of this vault's authorities.
pub(super) const STRANGER: &str = "stranger";

/// Where a server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doors {
    /// For payment services.
    pub(super) data: SocketAddr,
    /// For operators.
    pub(super) admin: SocketAddr,
}

/// The folder, the vault in it, and the server.
pub(super) struct Stage {
    folder: PathBuf,
    log_key: LogVerifier,
    server: Option<(Child, Doors)>,
    starts: u32,
    keep: bool,
}

impl Stage {
    /// Makes folder, certificates, policy and vault. Nothing is served yet.
    pub(super) fn set(engine: Engine, import: bool) -> Result<Self, Failure> {
        let cleared = Cleared(fresh_folder()?);
        let folder = &cleared.0;
        let policy_text = make_certificates(folder)? + POLICY + if import { IMPORT } else { "" };
        private(&folder.join("policy.toml"), policy_text.as_bytes())?;
        private(&folder.join("vault.toml"), SETTINGS.replace("ENGINE", engine.word()).as_bytes())?;
        let secret: [u8; 32] = random::bytes().map_err(|_| no_randomness())?;
        private(&folder.join("passphrase"), BASE64URL_NOPAD.encode(&secret).as_bytes())?;
        let log_key = make_vault(folder, engine, &policy_text)?;
        Ok(Self { folder: cleared.keep(), log_key, server: None, starts: 0, keep: false })
    }

    /// A file of the story.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The key that verifies the log, as it was when the vault was made.
    pub(super) fn log_key(&self) -> &LogVerifier {
        &self.log_key
    }

    /// Starts this very program as the server, and waits until it serves. It is in a process group of its own: what the
    /// terminal sends is for the one who tells the story.
    pub(super) async fn start(&mut self) -> Result<Doors, Failure> {
        self.starts += 1;
        let log = self.file(&format!("server-{}.log", self.starts));
        let to = create_private(&log).map_err(|e| cannot_write(&log, &e))?;
        let server = Command::new(program()?)
            .arg("serve")
            .arg("--settings")
            .arg(self.file("vault.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(to)
            .process_group(0)
            .spawn()
            .map_err(|e| Failure::failed(format_args!("the server cannot be started: {e}")))?;
        let mut server = Running(Some(server));
        let doors = server.ready(&log).await?;
        self.server = server.0.take().map(|server| (server, doors));
        Ok(doors)
    }

    /// The server's process id, where it runs.
    pub(super) fn process(&self) -> Option<u32> {
        self.server.as_ref().map(|(server, _)| server.id())
    }

    /// Where the server listens.
    pub(super) fn doors(&self) -> Result<Doors, Failure> {
        self.server
            .as_ref()
            .map(|(_, doors)| *doors)
            .ok_or_else(|| Failure::failed("the server is not there"))
    }

    /// Kills the server: SIGKILL, the one that it cannot see coming.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        let Some((mut server, _)) = self.server.take() else {
            return Err(Failure::failed("the server is not there to be killed"));
        };
        let killed = server.kill().and_then(|()| server.wait());
        let status = killed.map_err(|e| Failure::failed(format_args!("the server cannot be killed: {e}")))?;
        if status.signal() == Some(SIGKILL) {
            return Ok(());
        }
        Err(Failure::failed(format_args!("the server ended by itself before it was killed: {status}")))
    }

    /// How `who` reaches the vault. Sent once, a call is never tried again: a failure is to be seen.
    pub(super) fn endpoint(&self, who: &str) -> Result<Endpoint, Failure> {
        let doors = self.doors()?;
        let at = if who == OPERATOR { doors.admin } else { doors.data };
        let papers = |kind: &str| Pem::file(self.file(&format!("certs/{who}.{kind}")));
        let server = Pem::file(self.file("certs/servers.pem"));
        Ok(Endpoint::new(&format!("https://{at}"), server, (papers("pem"), papers("key")))
            .attempts(1)
            .deadline(ANSWER))
    }

    /// A service's client.
    pub(super) async fn client(&self, who: &str) -> Result<VaultClient, Failure> {
        Ok(VaultClient::connect(self.endpoint(who)?).await?)
    }

    /// The operator's client.
    pub(super) async fn operator(&self) -> Result<AdminClient, Failure> {
        Ok(AdminClient::connect(self.endpoint(OPERATOR)?).await?)
    }

    /// Leaves the server running and its folder where it is.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }

    /// Stops the server and removes the folder.
    pub(super) fn clear(mut self) -> Result<(), Failure> {
        self.kill()?;
        fs::remove_dir_all(&self.folder).map_err(|e| {
            Failure::failed(format_args!("{} cannot be removed: {e}; remove it", self.folder.display()))
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // Where it went wrong already, there is nobody left to tell.
        if let Some((server, _)) = &mut self.server {
            let _ = server.kill().and_then(|()| server.wait());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A server that is killed unless it is taken out.
struct Running(Option<Child>);

impl Running {
    async fn ready(&mut self, log: &Path) -> Result<Doors, Failure> {
        let until = Instant::now() + READY;
        loop {
            let text = fs::read_to_string(log).unwrap_or_default();
            if let Some(doors) = doors(&text) {
                return Ok(doors);
            }
            let said = text.lines().last().unwrap_or("nothing").to_owned();
            if let Some(Ok(Some(status))) = self.0.as_mut().map(Child::try_wait) {
                return Err(Failure::failed(format_args!(
                    "the server ended ({status}); its last words: {said}"
                )));
            }
            if Instant::now() > until {
                return Err(Failure::failed(format_args!(
                    "the server does not serve; its last words: {said}"
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(server) = &mut self.0 {
            let _ = server.kill().and_then(|()| server.wait());
        }
    }
}

/// Where a server listens, once its log says so for both doors.
fn doors(log: &str) -> Option<Doors> {
    #[derive(Deserialize)]
    struct Serving {
        door: String,
        address: SocketAddr,
    }
    let serving: Vec<Serving> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let at = |door: &str| serving.iter().find(|s| s.door == door).map(|s| s.address);
    Some(Doors { data: at("data")?, admin: at("admin")? })
}

/// This very program.
pub(super) fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|e| {
        Failure::failed(format_args!("this program cannot be found on disk: {e}; is it still there?"))
    })
}

/// A folder that is removed unless it is taken out.
struct Cleared(PathBuf);

impl Cleared {
    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Cleared {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn fresh_folder() -> Result<PathBuf, Failure> {
    let name: [u8; 5] = random::bytes().map_err(|_| no_randomness())?;
    let name = format!("vaultctl-demo-{}", BASE32_NOPAD.encode(&name).to_ascii_lowercase());
    let folder = std::env::temp_dir().join(name);
    DirBuilder::new().mode(0o700).create(&folder).map_err(|e| cannot_write(&folder, &e))?;
    // Settings, profiles and commands name it from anywhere.
    fs::canonicalize(&folder).map_err(|e| cannot_write(&folder, &e))
}

/// Makes the authorities and everyone's certificates; gives the policy's rows of the authorities that it trusts.
fn make_certificates(folder: &Path) -> Result<String, Failure> {
    let (certs, now) = (folder.join("certs"), SystemClock.now());
    let mut rows = String::new();
    for authority in ["services", "operators", "servers", "strangers"] {
        certs::create_ca(&certs, authority, now)?;
        let found = certs::inventory(&[certs.join(format!("{authority}.pem"))], now)?;
        let sha256 = found.into_iter().find_map(|found| found.key_sha256).unwrap_or_default();
        if matches!(authority, "services" | "operators") {
            rows.push_str(&authority_row(authority, &sha256));
        }
    }
    let issue = |authority, leaf: &str, kind| certs::issue(&certs, authority, leaf, kind, DAYS, now);
    let client = |who: &str| LeafKind::ClientUri(format!("spiffe://{MERCHANT}/{who}"));
    for who in SERVICES {
        issue("services", who, client(who))?;
    }
    issue("operators", OPERATOR, client(OPERATOR))?;
    // The shop's very name, but from an authority that the vault does not know.
    issue("strangers", STRANGER, client("shop"))?;
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0)).ip();
    issue("servers", "server", LeafKind::Server(vec!["localhost".to_owned()], vec![loopback]))?;
    Ok(rows)
}

fn authority_row(name: &str, sha256: &str) -> String {
    format!("[[authority]]\nid = \"{name}\"\nsha256 = \"{sha256}\"\n\n")
}

/// Makes the vault as `vaultctl init` does, and gives the key that its log is verified with.
fn make_vault(folder: &Path, engine: Engine, policy: &str) -> Result<LogVerifier, Failure> {
    let policy = Policy::from_toml(policy)?;
    let custodian = passphrase(Some(&folder.join("passphrase")), true)?;
    let engine = match engine {
        Engine::Redb => store::Engine::Redb,
        Engine::Sled => store::Engine::Sled,
    };
    let rows = folder.join("store");
    let vault = Blocking::create(
        place(store::create(&rows, engine, &Options::default())?, &rows),
        &custodian,
        policy,
    )?;
    let log_key = vault.vault().verifier();
    vault.close()?;
    Ok(log_key)
}

/// Writes a new file that only its owner can read.
pub(super) fn private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    create_private(path).and_then(|mut file| file.write_all(bytes)).map_err(|e| cannot_write(path, &e))
}

fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format_args!("{}: {error}; set TMPDIR to a folder with room", path.display()))
}

fn no_randomness() -> Failure {
    Failure::failed("the operating system gives no random bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_ready_once_both_doors_are_told() {
        let line = |door: &str, port: u16| {
            format!("{{\"message\":\"serving\",\"door\":\"{door}\",\"address\":\"127.0.0.1:{port}\"}}\n")
        };
        let one = line("data", 7) + "no json\n{\"door\":\"admin\"}\n";
        assert_eq!(doors(&one), None);
        let both = doors(&(one + &line("admin", 8))).unwrap();
        assert_eq!((both.data.port(), both.admin.port()), (7, 8));
    }

    #[test]
    fn the_policy_and_the_settings_are_good_for_every_engine() {
        let authorities =
            authority_row("services", &"a".repeat(64)) + &authority_row("operators", &"b".repeat(64));
        for import in ["", IMPORT] {
            let policy = Policy::from_toml(&format!("{authorities}{POLICY}{import}")).unwrap();
            assert_eq!(policy.principals.len(), SERVICES.len());
        }
        for engine in [Engine::Redb, Engine::Sled] {
            vault_server::settings::Settings::parse(&SETTINGS.replace("ENGINE", engine.word())).unwrap();
        }
    }
}
