//! `vaultctl certs`: a development authority, leaves, revocation, and what expires when.
//!
//! The authority is for trials and tests: its key lies in a file. In production use your company's own authority; the
//! server takes any. Refused: overwriting a key, revoking what was never issued, a client certificate without exactly one
//! name. Keys are readable by their owner only.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType,
    SerialNumber,
};
use ring::digest::{SHA256, digest};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::{Deserialize, Serialize};
use vault_core::name::AuthorityName;
use vault_core::time::{Clock, SystemClock, Timestamp};
use x509_parser::prelude::{CertificateRevocationList, FromDer, GeneralName, X509Certificate};

use crate::fail::Failure;
use crate::output::Out;

/// Days that a development authority is good: longer than any trial.
const CA_DAYS: u32 = 3_650;
/// Days that a revocation list is good. Servers refuse the authority's clients afterwards: renew it with `certs crl`.
const CRL_DAYS: u32 = 90;
/// Days that a leaf is good if nothing else is said.
const LEAF_DAYS: u32 = 90;
/// The most days that a leaf may be good. Public authorities stop at 398.
const MAX_LEAF_DAYS: u32 = 825;
/// Clocks differ: certificates are good from an hour ago.
const BACKDATE_MS: u64 = 3_600_000;
/// Bytes of a file that `inventory` reads.
const MAX_FILE: u64 = 33_554_432;

/// The subcommands of `vaultctl certs`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Make a development authority: NAME.pem, NAME.key and an empty revocation list NAME.crl
    #[command(after_help = "Example:\n  vaultctl certs create-ca --dir certs shop")]
    CreateCa {
        /// Folder for the files; made if it is not there
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
        /// The authority's name, as policies will name it
        name: String,
    },
    /// Issue a certificate: LEAF.pem and LEAF.key
    #[command(after_help = "Examples:\n  \
        vaultctl certs issue --ca shop web --uri spiffe://shop/web\n  \
        vaultctl certs issue --ca shop till --dns till-7.shop.example --days 30\n  \
        vaultctl certs issue --ca shop server --server --dns localhost --ip 127.0.0.1")]
    Issue {
        /// Folder of the authority
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
        /// The authority that issues
        #[arg(long)]
        ca: String,
        /// For a server: any number of DNS names and addresses
        #[arg(long)]
        server: bool,
        /// The client's name as a URI
        #[arg(long, conflicts_with_all = ["dns", "server"])]
        uri: Option<String>,
        /// The client's name, or one of the server's names, as a DNS name
        #[arg(long)]
        dns: Vec<String>,
        /// One of the server's addresses
        #[arg(long, requires = "server")]
        ip: Vec<IpAddr>,
        /// Days that it is good
        #[arg(long, default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LEAF_DAYS)))]
        days: u32,
        /// Name of the files
        leaf: String,
    },
    /// Revoke a certificate by its serial number, and sign the revocation list anew
    #[command(after_help = "Example:\n  vaultctl certs revoke --ca shop 4f00d1e5a2b3c4d5e6f708192a3b4c5d")]
    Revoke {
        /// Folder of the authority
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
        /// The authority that issued it
        #[arg(long)]
        ca: String,
        /// The serial number, as `certs inventory` shows it
        serial: String,
    },
    /// Sign the revocation list anew, for another ninety days
    #[command(after_help = "Example:\n  vaultctl certs crl --ca shop")]
    Crl {
        /// Folder of the authority
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
        /// The authority
        #[arg(long)]
        ca: String,
    },
    /// List certificates and revocation lists by when they end, soonest first
    #[command(
        after_help = "Examples:\n  vaultctl certs inventory certs\n  vaultctl --json certs inventory server.pem shop.crl"
    )]
    Inventory {
        /// Files, or folders whose .pem, .crt, .cer and .crl files are read
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
}

/// Why a certificate command did nothing.
#[derive(Debug)]
pub(crate) enum CertsError {
    /// A file cannot be read or written.
    File(PathBuf, io::Error),
    /// A name is no name.
    Name(vault_core::name::NameError),
    /// What was asked for cannot be.
    Refused(&'static str),
    /// A file does not hold what its name says.
    Malformed(PathBuf),
    /// The certificate could not be made.
    Making(rcgen::Error),
    /// No random bytes for a serial number.
    NoRandomness,
}

impl fmt::Display for CertsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Name(error) => write!(f, "the name {error}"),
            Self::Refused(why) => f.write_str(why),
            Self::Malformed(path) => write!(f, "{}: does not hold what its name says", path.display()),
            Self::Making(error) => write!(f, "the certificate cannot be made: {error}"),
            Self::NoRandomness => f.write_str("the operating system gives no random bytes"),
        }
    }
}

impl std::error::Error for CertsError {}

impl From<CertsError> for Failure {
    fn from(error: CertsError) -> Self {
        match error {
            CertsError::Name(_) => Self::usage(error),
            CertsError::File(_, ref why) if why.kind() == io::ErrorKind::AlreadyExists => Self::refused(
                format_args!("{error}; nothing is overwritten: name a new one, or move the old away"),
            ),
            CertsError::File(..) => Self::failed(format_args!("{error}; check the path and its permissions")),
            CertsError::Refused(_) | CertsError::Malformed(_) => Self::refused(error),
            CertsError::Making(_) | CertsError::NoRandomness => Self::failed(error),
        }
    }
}

impl From<rcgen::Error> for CertsError {
    fn from(error: rcgen::Error) -> Self {
        Self::Making(error)
    }
}

/// What a certificate is for, and so what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeafKind {
    /// A client known by this URI.
    ClientUri(String),
    /// A client known by this DNS name.
    ClientDns(String),
    /// A server that is reached by these names and addresses.
    Server(Vec<String>, Vec<IpAddr>),
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Issued {
    /// PEM, readable by all.
    pub(crate) certificate: PathBuf,
    /// PKCS#8 in PEM, readable by its owner.
    pub(crate) key: PathBuf,
    /// Lower-case hexadecimal digits.
    pub(crate) serial: String,
}

/// One certificate or revocation list that was found in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Found {
    /// The file.
    pub(crate) file: PathBuf,
    /// `certificate`, `authority` or `revocation list`.
    pub(crate) kind: &'static str,
    /// Whose it is; for a list, who signed it.
    pub(crate) subject: String,
    /// Subject alternative names, as `uri:`, `dns:` or `ip:` and the name.
    pub(crate) names: Vec<String>,
    /// The serial number; for a list, none.
    pub(crate) serial: Option<String>,
    /// The last moment that it is good, in RFC 3339.
    pub(crate) not_after: String,
    /// Whole days from now to then; below zero if it is over.
    pub(crate) days_left: i64,
    /// Of an authority: SHA-256 of its `SubjectPublicKeyInfo`, hexadecimal, by which a policy knows it.
    pub(crate) key_sha256: Option<String>,
}

/// An authority that was made.
#[derive(Debug, Serialize)]
struct Made {
    files: Vec<PathBuf>,
    /// By which a policy knows it.
    sha256: String,
}

/// What an authority has done. Kept beside its key, so that its list can be signed anew.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ledger {
    crl_number: u64,
    issued: Vec<Entry>,
    revoked: Vec<Revoked>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    serial: String,
    leaf: String,
    not_after: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoked {
    serial: String,
    at: Timestamp,
}

/// Does what the command line says, and tells on standard output: plain lines, or JSON.
pub(crate) fn run(command: CertsCommand, out: Out) -> Result<(), Failure> {
    let now = SystemClock.now();
    match command {
        CertsCommand::CreateCa { dir, name } => {
            let files = create_ca(&dir, &name, now)?;
            let sha256 =
                inventory(&[dir.join(format!("{name}.pem"))], now)?.into_iter().find_map(|f| f.key_sha256);
            out.tell(&Made { files, sha256: sha256.unwrap_or_default() }, |made| {
                let wrote: Vec<_> =
                    made.files.iter().map(|file| format!("wrote {}", file.display())).collect();
                format!("{}\nfor the policy: sha256 = \"{}\"", wrote.join("\n"), made.sha256)
            })
        }
        CertsCommand::Issue { dir, ca, server, uri, dns, ip, days, leaf } => {
            let issued = issue(&dir, &ca, &leaf, leaf_kind(server, uri, dns, ip)?, days, now)?;
            out.tell(&issued, |issued| {
                let (certificate, key) = (issued.certificate.display(), issued.key.display());
                format!("wrote {certificate}\nwrote {key}\nserial {}", issued.serial)
            })
        }
        CertsCommand::Revoke { dir, ca, serial } => wrote(out, &revoke(&dir, &ca, &serial, now)?),
        CertsCommand::Crl { dir, ca } => wrote(out, &renew_list(&dir, &ca, now)?),
        CertsCommand::Inventory { paths } => {
            let found = inventory(&paths, now)?;
            out.tell(&found, |found| found.iter().map(line).collect())
        }
    }
}

fn wrote(out: Out, file: &Path) -> Result<(), Failure> {
    out.tell(&serde_json::json!({ "wrote": file }), |_| format!("wrote {}", file.display()))
}

fn line(found: &Found) -> String {
    format!(
        "{:>5} days  {}  {:<15}  {}  {}  {}  {}{}\n",
        found.days_left,
        found.not_after,
        found.kind,
        found.file.display(),
        found.subject,
        found.names.join(" "),
        found.serial.as_deref().unwrap_or("-"),
        found.key_sha256.as_ref().map_or_else(String::new, |hash| format!("  sha256 {hash}")),
    )
}

fn leaf_kind(
    server: bool,
    uri: Option<String>,
    mut dns: Vec<String>,
    ip: Vec<IpAddr>,
) -> Result<LeafKind, CertsError> {
    if server {
        if dns.is_empty() && ip.is_empty() {
            return Err(CertsError::Refused("a server needs at least one --dns or --ip"));
        }
        return Ok(LeafKind::Server(dns, ip));
    }
    match (uri, dns.pop()) {
        (Some(uri), None) => Ok(LeafKind::ClientUri(uri)),
        (None, Some(name)) if dns.is_empty() => Ok(LeafKind::ClientDns(name)),
        _ => Err(CertsError::Refused(
            "a client needs exactly one --uri or --dns: the vault knows it by that name",
        )),
    }
}

/// Makes `name.pem`, `name.key`, `name.crl` and `name.json` in `dir`. Refuses if the key is there already.
pub(crate) fn create_ca(dir: &Path, name: &str, now: Timestamp) -> Result<Vec<PathBuf>, CertsError> {
    let name = AuthorityName::parse(name).map_err(CertsError::Name)?;
    // 0700: the folder holds an authority's key.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| CertsError::File(dir.to_owned(), e))?;
    let files = Files::of(dir, &name);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{name} development authority"));
    // No further authority below it: a stolen leaf key cannot become one.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, now, CA_DAYS)?;
    params.serial_number = Some(new_serial()?);
    let certificate = params.self_signed(&key)?;
    write_new(&files.key, key.serialize_pem().as_bytes(), 0o600)?;
    write_new(&files.certificate, certificate.pem().as_bytes(), 0o644)?;
    Authority {
        issuer: Issuer::new(params, key),
        files: files.clone(),
        ledger: Ledger::default(),
        _lock: None,
    }
    .sign_list(now)?;
    Ok(vec![files.certificate, files.key, files.list, files.ledger])
}

/// Issues `leaf.pem` and `leaf.key` in `dir`, good for `days`. Refuses if the key is there already.
pub(crate) fn issue(
    dir: &Path,
    ca: &str,
    leaf: &str,
    kind: LeafKind,
    days: u32,
    now: Timestamp,
) -> Result<Issued, CertsError> {
    let leaf = AuthorityName::parse(leaf).map_err(CertsError::Name)?;
    let mut authority = Authority::open(dir, ca)?;
    let files = Files::of(dir, &leaf);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, leaf.as_str());
    let (names, usage) = names_and_usage(kind)?;
    params.subject_alt_names = names;
    params.extended_key_usages = vec![usage];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now, days)?;
    let serial = new_serial()?;
    params.serial_number = Some(serial.clone());
    let certificate = params.signed_by(&key, &authority.issuer)?;
    let serial = hex(serial.as_ref());
    // Noted before it is handed out: what is not in the ledger could not be revoked.
    let not_after = now.plus_days(days);
    authority.ledger.issued.push(Entry { serial: serial.clone(), leaf: leaf.to_string(), not_after });
    authority.save()?;
    write_new(&files.key, key.serialize_pem().as_bytes(), 0o600)?;
    write_new(&files.certificate, certificate.pem().as_bytes(), 0o644)?;
    Ok(Issued { certificate: files.certificate, key: files.key, serial })
}

fn names_and_usage(kind: LeafKind) -> Result<(Vec<SanType>, ExtendedKeyUsagePurpose), CertsError> {
    Ok(match kind {
        LeafKind::ClientUri(uri) => {
            (vec![SanType::URI(uri.try_into()?)], ExtendedKeyUsagePurpose::ClientAuth)
        }
        LeafKind::ClientDns(dns) => {
            (vec![SanType::DnsName(dns.try_into()?)], ExtendedKeyUsagePurpose::ClientAuth)
        }
        LeafKind::Server(dns, ips) => {
            let mut names = Vec::new();
            for name in dns {
                names.push(SanType::DnsName(name.try_into()?));
            }
            names.extend(ips.into_iter().map(SanType::IpAddress));
            (names, ExtendedKeyUsagePurpose::ServerAuth)
        }
    })
}

/// Revokes what `ca` issued under `serial` and signs its list anew; returns the list's file. Again: no harm.
pub(crate) fn revoke(dir: &Path, ca: &str, serial: &str, now: Timestamp) -> Result<PathBuf, CertsError> {
    let mut authority = Authority::open(dir, ca)?;
    let serial = serial.replace(':', "").to_ascii_lowercase();
    if !authority.ledger.issued.iter().any(|entry| entry.serial == serial) {
        return Err(CertsError::Refused(
            "this authority has issued no such serial number; see `certs inventory`",
        ));
    }
    if !authority.ledger.revoked.iter().any(|revoked| revoked.serial == serial) {
        authority.ledger.revoked.push(Revoked { serial, at: now });
    }
    authority.sign_list(now)
}

/// Signs the list anew as it is, and returns its file.
pub(crate) fn renew_list(dir: &Path, ca: &str, now: Timestamp) -> Result<PathBuf, CertsError> {
    Authority::open(dir, ca)?.sign_list(now)
}

/// Every certificate and revocation list in these files and folders, by when they end.
pub(crate) fn inventory(paths: &[PathBuf], now: Timestamp) -> Result<Vec<Found>, CertsError> {
    let mut found = Vec::new();
    for path in paths {
        let failed = |error| CertsError::File(path.clone(), error);
        if fs::metadata(path).map_err(failed)?.is_dir() {
            for entry in fs::read_dir(path).map_err(failed)? {
                let file = entry.map_err(failed)?.path();
                let extension = file.extension().and_then(|extension| extension.to_str());
                if matches!(extension, Some("pem" | "crt" | "cer" | "crl")) {
                    found.extend(read_file(&file, now)?);
                }
            }
        } else {
            found.extend(read_file(path, now)?);
        }
    }
    found.sort_by(|a, b| (a.not_after.as_str(), &a.file).cmp(&(b.not_after.as_str(), &b.file)));
    Ok(found)
}

#[derive(Debug, Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    list: PathBuf,
    ledger: PathBuf,
}

impl Files {
    fn of(dir: &Path, name: &AuthorityName) -> Self {
        let file = |extension: &str| dir.join(format!("{name}.{extension}"));
        Self { certificate: file("pem"), key: file("key"), list: file("crl"), ledger: file("json") }
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    files: Files,
    ledger: Ledger,
    /// Held while the ledger is open, so that two commands at once do not lose an entry.
    _lock: Option<File>,
}

impl Authority {
    fn open(dir: &Path, name: &str) -> Result<Self, CertsError> {
        let files = Files::of(dir, &AuthorityName::parse(name).map_err(CertsError::Name)?);
        let lock = File::open(&files.key).map_err(|e| CertsError::File(files.key.clone(), e))?;
        lock.lock().map_err(|e| CertsError::File(files.key.clone(), e))?;
        let key = KeyPair::from_pem(&read_text(&files.key)?)
            .map_err(|_| CertsError::Malformed(files.key.clone()))?;
        let issuer = Issuer::from_ca_cert_pem(&read_text(&files.certificate)?, key)
            .map_err(|_| CertsError::Malformed(files.certificate.clone()))?;
        let ledger = serde_json::from_str(&read_text(&files.ledger)?)
            .map_err(|_| CertsError::Malformed(files.ledger.clone()))?;
        Ok(Self { issuer, files, ledger, _lock: Some(lock) })
    }

    fn save(&self) -> Result<(), CertsError> {
        replace(&self.files.ledger, serde_json::json!(self.ledger).to_string().as_bytes(), 0o600)
    }

    fn sign_list(mut self, now: Timestamp) -> Result<PathBuf, CertsError> {
        self.ledger.crl_number = self.ledger.crl_number.saturating_add(1);
        let mut revoked_certs = Vec::new();
        for revoked in &self.ledger.revoked {
            let serial = data_encoding::HEXLOWER
                .decode(revoked.serial.as_bytes())
                .map_err(|_| CertsError::Malformed(self.files.ledger.clone()))?;
            revoked_certs.push(RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: moment(revoked.at)?.to_datetime(),
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            });
        }
        let list = CertificateRevocationListParams {
            this_update: moment(now)?.to_datetime(),
            next_update: moment(now.plus_days(CRL_DAYS))?.to_datetime(),
            crl_number: SerialNumber::from(self.ledger.crl_number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(&self.issuer)?.pem()?;
        // The ledger first: a list number is never used for two lists.
        self.save()?;
        replace(&self.files.list, pem.as_bytes(), 0o644)?;
        Ok(self.files.list)
    }
}

fn valid(params: &mut CertificateParams, now: Timestamp, days: u32) -> Result<(), CertsError> {
    params.not_before = moment(Timestamp(now.0.saturating_sub(BACKDATE_MS)))?.to_datetime();
    params.not_after = moment(now.plus_days(days))?.to_datetime();
    Ok(())
}

fn moment(at: Timestamp) -> Result<x509_parser::time::ASN1Time, CertsError> {
    i64::try_from(at.0 / 1_000)
        .ok()
        .and_then(|seconds| x509_parser::time::ASN1Time::from_timestamp(seconds).ok())
        .ok_or(CertsError::Refused("the date is beyond what a certificate can hold"))
}

/// Sixteen random bytes, positive and without a leading zero (RFC 5280 section 4.1.2.2: at most twenty, never negative).
fn new_serial() -> Result<SerialNumber, CertsError> {
    let mut bytes: [u8; 16] = vault_core::random::bytes().map_err(|_| CertsError::NoRandomness)?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7F) | 0x40;
    }
    Ok(SerialNumber::from(bytes.to_vec()))
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CertsError> {
    let written =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    written.map_err(|error| CertsError::File(path.to_owned(), error))
}

/// Replaces a file as a whole: a reader sees the old or the new one, never a half.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CertsError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(CertsError::File(new, error)),
        Ok(()) | Err(_) => {}
    }
    write_new(&new, bytes, mode)?;
    fs::rename(&new, path).map_err(|error| CertsError::File(path.to_owned(), error))
}

fn read_text(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(|error| CertsError::File(path.to_owned(), error))
}

fn read_file(path: &Path, now: Timestamp) -> Result<Vec<Found>, CertsError> {
    let failed = |error| CertsError::File(path.to_owned(), error);
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(CertsError::Malformed(path.to_owned()));
    }
    let bytes = fs::read(path).map_err(failed)?;
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes) {
        let (kind, der) = section.map_err(|_| CertsError::Malformed(path.to_owned()))?;
        let read = match kind {
            SectionKind::Certificate => certificate(path, &der, now),
            SectionKind::Crl => list(path, &der, now),
            // Keys and requests have no end.
            _ => continue,
        };
        found.push(read.ok_or_else(|| CertsError::Malformed(path.to_owned()))?);
    }
    Ok(found)
}

fn certificate(path: &Path, der: &[u8], now: Timestamp) -> Option<Found> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()?.map(|extension| &extension.value.general_names);
    let names = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(format!("uri:{uri}")),
        GeneralName::DNSName(dns) => Some(format!("dns:{dns}")),
        GeneralName::IPAddress(bytes) => Some(format!("ip:{}", address(bytes)?)),
        _ => None,
    });
    let key = || hex(digest(&SHA256, certificate.public_key().raw).as_ref());
    Some(Found {
        kind: if certificate.is_ca() { "authority" } else { "certificate" },
        key_sha256: certificate.is_ca().then(key),
        names: names.collect(),
        serial: Some(hex(certificate.raw_serial())),
        ..ending(path, certificate.subject().to_string(), certificate.validity().not_after, now)
    })
}

fn list(path: &Path, der: &[u8], now: Timestamp) -> Option<Found> {
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    Some(ending(path, list.issuer().to_string(), list.next_update()?, now))
}

fn ending(path: &Path, subject: String, end: x509_parser::time::ASN1Time, now: Timestamp) -> Found {
    const SECONDS_PER_DAY: i64 = 86_400;
    let left = end.timestamp().saturating_sub(i64::try_from(now.0 / 1_000).unwrap_or(i64::MAX));
    let not_after = Timestamp(u64::try_from(end.timestamp()).unwrap_or(0).saturating_mul(1_000));
    Found {
        file: path.to_owned(),
        kind: "revocation list",
        subject,
        names: Vec::new(),
        serial: None,
        not_after: vault_server::logs::rfc3339(not_after),
        days_left: left.div_euclid(SECONDS_PER_DAY),
        key_sha256: None,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use vault_core::time::ManualClock;
    use vault_server::settings::TlsFiles;
    use vault_server::tls::{Refused, TlsState};

    use super::*;

    const NOW: Timestamp = Timestamp(1_767_225_600_000);

    fn files(dir: &Path) -> TlsFiles {
        TlsFiles {
            certificate: dir.join("server.pem"),
            key: dir.join("server.key"),
            client_ca: [(AuthorityName::parse("shop").unwrap(), dir.join("shop.pem"))].into(),
            crl: vec![dir.join("shop.crl")],
        }
    }

    fn shown(issued: &Issued) -> Vec<rustls_pki_types::CertificateDer<'static>> {
        let pem = fs::read(&issued.certificate).unwrap();
        rustls_pki_types::CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().unwrap()
    }

    fn load(dir: &Path) -> TlsState {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
        TlsState::load(&files(dir), &clock).map_err(|problems| format!("{problems:?}")).unwrap()
    }

    #[test]
    fn the_server_takes_what_is_made_here_and_refuses_what_is_revoked_here() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("certs");
        create_ca(&dir, "shop", NOW).unwrap();
        let server = LeafKind::Server(vec!["localhost".into()], vec!["127.0.0.1".parse().unwrap()]);
        issue(&dir, "shop", "server", server, 90, NOW).unwrap();
        let web =
            issue(&dir, "shop", "web", LeafKind::ClientUri("spiffe://shop/web".into()), 90, NOW).unwrap();
        let till =
            issue(&dir, "shop", "till", LeafKind::ClientDns("till.shop.example".into()), 90, NOW).unwrap();

        let state = load(&dir);
        let name =
            |issued| state.recognise(&shown(issued), NOW).map(|peer| (peer.name.to_string(), peer.serial));
        assert_eq!(name(&web), Ok(("uri:spiffe://shop/web".to_owned(), web.serial.clone())));
        assert_eq!(name(&till).unwrap().0, "dns:till.shop.example");

        revoke(&dir, "shop", &web.serial, NOW).unwrap();
        revoke(&dir, "shop", &web.serial.to_uppercase(), NOW).unwrap();
        let state = load(&dir);
        assert_eq!(state.recognise(&shown(&web), NOW).map(|_| ()), Err(Refused::Revoked));
        assert!(state.recognise(&shown(&till), NOW).is_ok());
        assert!(matches!(revoke(&dir, "shop", "00", NOW), Err(CertsError::Refused(_))));

        let later = NOW.plus_days(CRL_DAYS - 10);
        renew_list(&dir, "shop", later).unwrap();
        let state = load(&dir);
        assert_eq!(
            state.recognise(&shown(&web), later).map(|_| ()),
            Err(Refused::Revoked),
            "it stays revoked"
        );
    }

    #[test]
    fn keys_are_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        create_ca(folder.path(), "shop", NOW).unwrap();
        let leaf = || LeafKind::ClientUri("spiffe://shop/web".into());
        let issued = issue(folder.path(), "shop", "web", leaf(), 1, NOW).unwrap();
        for key in [&issued.key, &folder.path().join("shop.key"), &folder.path().join("shop.json")] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
        }
        let before = fs::read(&issued.key).unwrap();
        assert!(matches!(issue(folder.path(), "shop", "web", leaf(), 1, NOW), Err(CertsError::File(..))));
        assert!(matches!(create_ca(folder.path(), "shop", NOW), Err(CertsError::File(..))));
        assert_eq!(fs::read(&issued.key).unwrap(), before);
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../shop", "/shop", "", "Shop", "a/b"] {
            assert!(matches!(create_ca(folder.path(), name, NOW), Err(CertsError::Name(_))), "{name}");
        }
    }

    #[test]
    fn a_client_has_one_name_and_a_server_at_least_one() {
        let s = |text: &str| text.to_owned();
        let ip: IpAddr = "::1".parse().unwrap();
        for (server, uri, dns, ips, good) in [
            (false, Some("spiffe://a"), vec![], vec![], true),
            (false, None, vec![s("a.example")], vec![], true),
            (true, None, vec![s("a.example"), s("b.example")], vec![ip], true),
            (true, None, vec![], vec![ip], true),
            (false, None, vec![], vec![], false),
            (false, None, vec![s("a.example"), s("b.example")], vec![], false),
            (false, Some("spiffe://a"), vec![s("a.example")], vec![], false),
            (true, None, vec![], vec![], false),
        ] {
            assert_eq!(
                leaf_kind(server, uri.map(s), dns.clone(), ips).is_ok(),
                good,
                "{server} {uri:?} {dns:?}"
            );
        }
    }

    #[test]
    fn the_inventory_tells_what_ends_first_and_what_is_over() {
        let folder = tempfile::tempdir().unwrap();
        create_ca(folder.path(), "shop", NOW).unwrap();
        let server = LeafKind::Server(
            vec!["localhost".into()],
            vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        );
        issue(folder.path(), "shop", "server", server, 10, NOW).unwrap();
        let found = inventory(&[folder.path().to_owned()], NOW.plus_days(11)).unwrap();
        let kinds: Vec<_> = found.iter().map(|found| (found.kind, found.days_left)).collect();
        assert_eq!(kinds, [("certificate", -1), ("revocation list", 79), ("authority", 3_639)]);
        assert_eq!(found[0].names, ["dns:localhost", "ip:127.0.0.1", "ip:::1"]);
        assert_eq!(found[0].not_after, "2026-01-11T00:00:00.000Z");
        assert!(inventory(&[folder.path().join("absent")], NOW).is_err());
    }

    #[test]
    fn the_command_line_is_sound() {
        #[derive(Debug, clap::Parser)]
        struct Whole {
            #[command(subcommand)]
            _command: CertsCommand,
        }
        use clap::{CommandFactory, Parser};
        Whole::command().debug_assert();
        for (line, good) in [
            ("x create-ca shop", true),
            ("x issue --ca shop web --uri spiffe://a", true),
            ("x issue --ca shop s --server --dns a --ip ::1", true),
            ("x issue --ca shop web --uri a --dns b", false),
            ("x issue --ca shop web --ip ::1", false),
            ("x issue --ca shop web --uri a --days 0", false),
            ("x issue --ca shop web --uri a --days 826", false),
            ("x inventory", false),
        ] {
            assert_eq!(Whole::try_parse_from(line.split(' ')).is_ok(), good, "{line}");
        }
    }
}
