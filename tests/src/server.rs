//! A real server in a process of its own: certificates, policy, settings and folder made fresh, spoken to over mutual TLS.
//!
//! The program is `vaultctl serve`, found beside the test binary: `./test` builds it first.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use vault_client::{AdminClient, Endpoint, Pem, VaultClient};
use vault_core::policy::Policy;
use vault_core::store::{self, Engine};
use vault_core::vault::{Place, Vault};
use vault_server::identity::Fingerprint;

use crate::desk::{OPTIONS, PASSPHRASE, custodian};

/// How long a server may take to be ready: Argon2 and a store to open, on a busy machine.
const READY: Duration = Duration::from_secs(60);

/// A certificate authority of the rig.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    next_serial: Mutex<u64>,
}

/// How a leaf differs from a good one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// Good for ten days.
    Good,
    /// Over since yesterday.
    Expired,
}

impl Authority {
    /// Makes one.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, next_serial: Mutex::new(1) }
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// SHA-256 of its key, as a policy lists it.
    pub fn fingerprint(&self) -> String {
        Fingerprint::of(&CertificateDer::from(self.issuer.der().to_vec())).unwrap().to_string()
    }

    /// Issues a certificate with one URI name (or, for the server, its addresses); gives certificate and key, PEM, and
    /// the serial number.
    pub fn issue(&self, san: &str, leaf: Leaf) -> (String, String, u64) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        let server = san == "localhost";
        params.subject_alt_names = if server {
            vec![
                SanType::DnsName("localhost".try_into().unwrap()),
                SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
            ]
        } else {
            vec![SanType::URI(san.try_into().unwrap())]
        };
        params.extended_key_usages = vec![if server {
            ExtendedKeyUsagePurpose::ServerAuth
        } else {
            ExtendedKeyUsagePurpose::ClientAuth
        }];
        let mut next = self.next_serial.lock().unwrap();
        let serial = *next;
        *next += 1;
        params.serial_number = Some(SerialNumber::from(serial));
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(2);
        params.not_after = match leaf {
            Leaf::Good => now + time::Duration::days(10),
            Leaf::Expired => now - time::Duration::days(1),
        };
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem(), serial)
    }

    /// A revocation list of these serial numbers, PEM. Later calls make later lists.
    pub fn revocation_list(&self, serials: &[u64]) -> String {
        let now = time::OffsetDateTime::now_utc();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now - time::Duration::hours(1),
            reason_code: None,
            invalidity_date: None,
        });
        let mut next = self.next_serial.lock().unwrap();
        *next += 1;
        let params = CertificateRevocationListParams {
            this_update: now - time::Duration::minutes(1),
            next_update: now + time::Duration::days(1),
            crl_number: SerialNumber::from(*next),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// The principals that every rig has a certificate for, as `<name>.pem` and `<name>.key`; `stranger` is in no policy.
pub const PRINCIPALS: [&str; 8] =
    ["shop", "app", "till", "gateway", "marketing", "importer", "stranger", "other-shop"];

/// A server, its files, and the process while it lives. Dropped, the process is killed and the folder removed.
pub struct Rig {
    /// Everything the server reads and writes.
    pub folder: tempfile::TempDir,
    /// Issues the principals' certificates.
    pub clients: Authority,
    /// Issues the operators' certificates.
    pub operators: Authority,
    /// Issues the servers' certificates.
    pub servers: Authority,
    /// Serial numbers of the principals' certificates.
    pub serials: BTreeMap<String, u64>,
    process: Option<Child>,
    addresses: BTreeMap<String, SocketAddr>,
    log: Arc<Mutex<Vec<String>>>,
}

/// The rig's policy: two merchants; `shop` stores on web, `app` on app, `till` on pos with tokens of its own, `gateway`
/// pays, `marketing` looks, `importer` has no guess budget. `more` is added to it, with `{clients}` filled in.
pub fn policy(clients: &Authority, operators: &Authority, more: &str) -> String {
    let (c, o) = (clients.fingerprint(), operators.fingerprint());
    let principals: String = PRINCIPALS
        .iter()
        .filter(|name| **name != "stranger")
        .map(|name| {
            let merchant = if *name == "other-shop" { "zenith" } else { "acme" };
            format!(
                "[[principal]]\nid = \"{name}\"\nauthority = \"clients\"\nname = \"spiffe://rig/{name}\"\nmerchant = \"{merchant}\"\n"
            )
        })
        .collect();
    let base = include_str!("rig-policy.toml");
    format!(
        "[[authority]]\nid = \"clients\"\nsha256 = \"{c}\"\n[[authority]]\nid = \"operators\"\nsha256 = \"{o}\"\n\
         [[operator]]\nid = \"olga\"\nauthority = \"operators\"\nname = \"spiffe://rig/olga\"\n{base}\n{principals}\n{more}"
    )
}

impl Rig {
    /// Makes a vault on `engine` and serves it.
    pub fn new(engine: Engine) -> Self {
        Self::with(engine, "", "")
    }

    /// The same with more in the policy, and more in the settings.
    pub fn with(engine: Engine, more_policy: &str, more_settings: &str) -> Self {
        let mut rig = Self::made(engine, more_policy, more_settings);
        rig.start();
        rig
    }

    /// A vault that is not served yet.
    pub fn made(engine: Engine, more_policy: &str, more_settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let (clients, operators, servers) =
            (Authority::new("rig clients"), Authority::new("rig operators"), Authority::new("rig servers"));
        put(at, "clients.pem", &clients.pem());
        put(at, "operators.pem", &operators.pem());
        put(at, "servers.pem", &servers.pem());
        put(at, "clients.crl", &clients.revocation_list(&[]));
        put_leaf(at, "server", servers.issue("localhost", Leaf::Good));
        put_leaf(at, "olga", operators.issue("spiffe://rig/olga", Leaf::Good));
        let mut serials = BTreeMap::new();
        for name in PRINCIPALS {
            let leaf = clients.issue(&format!("spiffe://rig/{name}"), Leaf::Good);
            serials.insert(name.to_owned(), leaf.2);
            put_leaf(at, name, leaf);
        }
        put(at, "passphrase", PASSPHRASE);
        let policy_text = policy(&clients, &operators, more_policy);
        put(at, "policy.toml", &policy_text);
        put(at, "settings.toml", &settings(engine, more_settings));

        let policy = Policy::from_toml(&policy_text).unwrap_or_else(|e| panic!("{e}"));
        let vault_folder = at.join("vault");
        let store = store::create(&vault_folder, engine, &OPTIONS).unwrap_or_else(|e| panic!("{e}"));
        let place = Place::new(store, vault_folder.join("esk"));
        let vault =
            pollster::block_on(Vault::create(place, &custodian(), policy)).unwrap_or_else(|e| panic!("{e}"));
        pollster::block_on(vault.close()).unwrap_or_else(|e| panic!("{e}"));
        drop(vault);
        Self {
            folder,
            clients,
            operators,
            servers,
            serials,
            process: None,
            addresses: BTreeMap::new(),
            log: Arc::default(),
        }
    }

    /// Starts the server and waits until it serves.
    pub fn start(&mut self) {
        self.start_program(&program());
    }

    /// The same with another build of the program.
    pub fn start_program(&mut self, program: &Path) {
        self.start_command(Command::new(program));
    }

    /// The same with another build, which finds its own environment.
    pub fn start_command(&mut self, mut program: Command) {
        let name = program.get_program().to_owned();
        let mut child = program
            .arg("serve")
            .arg("--settings")
            .arg(self.folder.path().join("settings.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}; `./test` builds it first", name.display()));
        let lines = BufReader::new(child.stderr.take().unwrap());
        let (found, addresses) = std::sync::mpsc::channel();
        let log = self.log.clone();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if let Some(at) = address_of(&line) {
                    // The rig has what it waits for after the second; later lines have no taker.
                    let _enough = found.send(at);
                }
                log.lock().unwrap().push(line);
            }
        });
        self.process = Some(child);
        self.addresses.clear();
        while self.addresses.len() < 2 {
            match addresses.recv_timeout(READY) {
                Ok((door, address)) => drop(self.addresses.insert(door, address)),
                Err(_) => panic!("the server did not come up:\n{}", self.log().join("\n")),
            }
        }
    }

    /// Kills the server as a power cut would: no signal handler runs.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks the server to drain, and waits for its end; whether it ended well.
    pub fn stop(&mut self) -> bool {
        let Some(mut child) = self.process.take() else { return false };
        signal(child.id(), "TERM");
        child.wait().unwrap().success()
    }

    /// The server's process id.
    pub fn process_id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// What the server wrote to its log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Where the data plane listens.
    pub fn data(&self) -> SocketAddr {
        self.addresses["data"]
    }

    /// Where the operators' plane listens.
    pub fn admin(&self) -> SocketAddr {
        self.addresses["admin"]
    }

    /// A file of the rig.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How a principal dials the data plane.
    pub fn endpoint(&self, principal: &str) -> Endpoint {
        let leaf = |kind: &str| Pem::file(self.file(&format!("{principal}.{kind}")));
        Endpoint::new(
            &format!("https://localhost:{}", self.data().port()),
            Pem::file(self.file("servers.pem")),
            (leaf("pem"), leaf("key")),
        )
    }

    /// A principal's client.
    pub async fn client(&self, principal: &str) -> VaultClient {
        VaultClient::connect(self.endpoint(principal)).await.unwrap_or_else(|e| panic!("{principal}: {e}"))
    }

    /// The operator's client.
    pub async fn operator(&self) -> AdminClient {
        let endpoint = Endpoint::new(
            &format!("https://localhost:{}", self.admin().port()),
            Pem::file(self.file("servers.pem")),
            (Pem::file(self.file("olga.pem")), Pem::file(self.file("olga.key"))),
        );
        AdminClient::connect(endpoint).await.unwrap_or_else(|e| panic!("{e}"))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process that this rig started.
pub fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status().unwrap();
    assert!(sent.success());
}

/// `vaultctl`, beside the folder of the test binary, or where `VAULTCTL` says.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("VAULTCTL") {
        return path.into();
    }
    let binary = std::env::current_exe().unwrap();
    binary.parent().unwrap().parent().unwrap().join("vaultctl")
}

fn address_of(line: &str) -> Option<(String, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = line.get("address")?.as_str()?.parse().ok()?;
    Some((line.get("door")?.as_str()?.to_owned(), address))
}

fn put(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn put_leaf(folder: &Path, name: &str, (certificate, key, _): (String, String, u64)) {
    put(folder, &format!("{name}.pem"), &certificate);
    put(folder, &format!("{name}.key"), &key);
}

fn settings(engine: Engine, more: &str) -> String {
    format!(
        r#"
[store]
folder = "vault"
engine = "{engine}"
[custodian]
passphrase_file = "passphrase"
[listen]
address = "127.0.0.1:0"
[tls]
certificate = "server.pem"
key = "server.key"
client_ca = {{ clients = "clients.pem" }}
crl = ["clients.crl"]
[admin]
address = "127.0.0.1:0"
[admin.tls]
certificate = "server.pem"
key = "server.key"
client_ca = {{ operators = "operators.pem" }}
{more}
"#
    )
}
