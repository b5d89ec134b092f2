//! The server's certificates, and whose certificates it accepts.
//!
//! TLS 1.3 only; a client certificate is required; HTTP/2 only. Refused: resumption and early data. A resumed session
//! would carry the client's certificate over without checking it, and a ticket is a second credential that outlives the
//! first; clients keep their connections for long, so a full handshake is rare and costs less than a millisecond.
//!
//! Revocation: an authority for which any list is configured is strict. Every certificate of the chain below it must be
//! covered by a list that is signed, current and does not name it; what the lists do not tell is refused. An authority
//! without a list is not checked for revocation.
//!
//! Files are read all or nothing. A set with any fault leaves the old one in use, and its faults show in
//! [`Tls::health`]. A revocation list older than the one in use is such a fault, so that a revoked certificate does not
//! come back by an old copy. A connection that is already open is checked against the new set at its next request, by the
//! same code that checked it at the handshake.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;
use vault_core::name::AuthorityName;
use vault_core::time::{Clock, Timestamp};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::identity::{Checked, Fingerprint, IdentityError, PeerCertificate, PeerName, moment};
use crate::metrics::{Door, Metrics, Turned};
use crate::settings::{Problem, TlsFiles, check_private, read_small};
use crate::shutdown::Shutdown;

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(1);
/// How long a good answer about a chain holds while the files stay the same. Its own expiry is looked at on every
/// request; this is for what else runs out: an intermediate, an authority, a revocation list.
const RECHECK_MS: u64 = 10_000;
/// Bytes of a certificate or key file.
const MAX_PEM: u64 = 1_048_576;
/// Bytes of a revocation list: a large public authority's has some ten million.
const MAX_CRL: u64 = 33_554_432;
/// Certificates that a peer may show above its own. Public hierarchies have one or two.
const MAX_INTERMEDIATES: usize = 6;
/// The protocol that is spoken inside: HTTP/2 (RFC 9113 section 3.2).
pub(crate) const ALPN: &[u8] = b"h2";

/// Why a certificate is not, or no longer, good. In the order of how much each tells: where several authorities give
/// different reasons, the greatest is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// No listed authority vouches for it.
    UnknownAuthority,
    /// Broken, or not for authenticating a client.
    Unusable,
    /// It names nobody.
    Unnamed(IdentityError),
    /// Before its first moment.
    NotYetValid,
    /// After its last moment.
    Expired,
    /// The authority itself is out of its time.
    AuthorityExpired,
    /// The revocation lists do not cover it, or are out of date.
    RevocationUnknown,
    /// Revoked.
    Revoked,
}

impl Refused {
    /// How the metrics count it.
    #[must_use]
    pub fn turned(self) -> Turned {
        match self {
            Self::UnknownAuthority => Turned::UnknownAuthority,
            Self::Unusable => Turned::Other,
            Self::Unnamed(_) => Turned::Unnamed,
            Self::NotYetValid | Self::Expired | Self::AuthorityExpired => Turned::OutOfTime,
            Self::RevocationUnknown | Self::Revoked => Turned::Revoked,
        }
    }

    fn from_rustls(error: &rustls::Error) -> Self {
        let rustls::Error::InvalidCertificate(error) = error else { return Self::Unusable };
        match error {
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Self::RevocationUnknown,
            CertificateError::Other(OtherError(inner)) => {
                inner.downcast_ref::<Self>().copied().unwrap_or(Self::Unusable)
            }
            // Not our enum, and open: whatever else is wrong with it, it cannot be used.
            _ => Self::Unusable,
        }
    }

    fn into_rustls(self) -> rustls::Error {
        // The alert that the peer sees is chosen by rustls from this.
        rustls::Error::InvalidCertificate(match self {
            Self::UnknownAuthority => CertificateError::UnknownIssuer,
            Self::NotYetValid => CertificateError::NotValidYet,
            Self::Expired => CertificateError::Expired,
            Self::Revoked => CertificateError::Revoked,
            Self::RevocationUnknown => CertificateError::UnknownRevocationStatus,
            Self::Unusable | Self::Unnamed(_) | Self::AuthorityExpired => {
                CertificateError::Other(OtherError(Arc::new(self)))
            }
        })
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAuthority => f.write_str("no listed authority vouches for the certificate"),
            Self::Unusable => f.write_str("the certificate is broken or not for authenticating a client"),
            Self::Unnamed(why) => why.fmt(f),
            Self::NotYetValid => f.write_str("the certificate is not yet valid"),
            Self::Expired => f.write_str("the certificate has expired"),
            Self::AuthorityExpired => f.write_str("the certificate's authority has expired"),
            Self::RevocationUnknown => f.write_str("no current revocation list tells about the certificate"),
            Self::Revoked => f.write_str("the certificate is revoked"),
        }
    }
}

impl std::error::Error for Refused {}

/// Why a handshake failed, as the metrics count it.
pub(crate) fn why_handshake_failed(error: &std::io::Error) -> Turned {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return Turned::HungUp;
    };
    match error {
        rustls::Error::InvalidCertificate(_) => Refused::from_rustls(error).turned(),
        rustls::Error::NoCertificatesPresented => Turned::NoCertificate,
        rustls::Error::NoApplicationProtocol => Turned::NotHttp2,
        rustls::Error::PeerIncompatible(_) => Turned::OldTls,
        rustls::Error::InvalidMessage(_) => Turned::NotTls,
        _ => Turned::Other,
    }
}

/// One file of the set and the moment it stops being good, for the inventory and the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key in the `[tls]` table, such as `certificate` or `client_ca.shop`.
    pub key: String,
    /// The last moment that it is good. For a revocation list: when the next was promised.
    pub not_after: Timestamp,
}

struct Authority {
    name: AuthorityName,
    fingerprint: Fingerprint,
    not_before: Timestamp,
    not_after: Timestamp,
    intermediates: Vec<CertificateDer<'static>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// Who vouches for clients.
struct Authorities(Vec<Authority>);

/// One consistent set of files, in use as a whole.
pub struct TlsState {
    generation: u64,
    config: Arc<ServerConfig>,
    authorities: Arc<Authorities>,
    inventory: Vec<Listed>,
    /// When each revocation list was made, by its place in the settings.
    lists_made: Vec<Timestamp>,
}

impl TlsState {
    /// Reads and checks the whole set. Every fault at once, by its key in the table.
    pub fn load(files: &TlsFiles, clock: &Arc<dyn Clock>) -> Result<Self, Vec<Problem>> {
        Self::build(&Bundle::read(files)?, 0, clock)
    }

    fn build(bundle: &Bundle, generation: u64, clock: &Arc<dyn Clock>) -> Result<Self, Vec<Problem>> {
        let mut faults = Vec::new();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut inventory = Vec::new();

        let lists: Vec<RevocationList> =
            bundle.crl.iter().filter_map(|bytes| keep(RevocationList::read(bytes), &mut faults)).collect();
        let mut listed = vec![false; lists.len()];
        let mut authorities = Vec::new();
        for (name, bytes) in &bundle.client_ca {
            let read = read_authority(name, bytes, &lists, &mut listed, &provider);
            authorities.extend(keep(read, &mut faults));
        }
        if bundle.client_ca.is_empty() {
            faults.push(Problem::new(
                "client_ca",
                "is empty",
                "name at least one authority, or nobody can connect",
            ));
        }
        faults.extend(same_key_twice(&authorities));
        if listed.contains(&false) && faults.is_empty() {
            faults.push(Problem::new(
                "crl",
                "has a list that no certificate in client_ca has signed",
                "add the intermediate that signed it below its authority, or take the list away",
            ));
        }

        let authorities = Arc::new(Authorities(authorities));
        let config = keep(server_config(bundle, &authorities, &provider, clock, &mut inventory), &mut faults);
        match config {
            Some(config) if faults.is_empty() => {
                inventory.extend(authorities.0.iter().map(|authority| Listed {
                    key: format!("client_ca.{}", authority.name),
                    not_after: authority.not_after,
                }));
                inventory.extend(lists.iter().enumerate().filter_map(|(at, list)| {
                    Some(Listed { key: format!("crl.{at}"), not_after: list.next? })
                }));
                let lists_made = lists.iter().map(|list| list.made).collect();
                Ok(Self { generation, config: Arc::new(config), authorities, inventory, lists_made })
            }
            Some(_) | None => Err(faults),
        }
    }

    /// Counts the sets that were taken into use: 0 is the one that the server started with.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The configuration for the next handshake.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The authorities that are accepted, with the fingerprints by which the Control document lists them.
    pub fn authorities(&self) -> impl Iterator<Item = (&AuthorityName, Fingerprint)> {
        self.authorities.0.iter().map(|authority| (&authority.name, authority.fingerprint))
    }

    /// Every file of the set that has an end.
    #[must_use]
    pub fn inventory(&self) -> &[Listed] {
        &self.inventory
    }

    /// Who showed this chain (its own certificate first) at the handshake.
    pub fn recognise(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<PeerCertificate, Refused> {
        let authority = self.authorities.vouching(chain, now)?;
        let checked = Checked { generation: self.generation, at: now };
        PeerCertificate::read(chain, authority.name.clone(), authority.fingerprint, checked)
            .map_err(Refused::Unnamed)
    }

    /// Whether a peer that is connected could connect now. For every request: a look at the clock, or, when the files
    /// have changed or ten seconds have passed, the handshake's whole check again (some 0.1 ms).
    pub fn still_good(&self, peer: &PeerCertificate, now: Timestamp) -> Result<(), Refused> {
        if now < peer.not_before {
            return Err(Refused::NotYetValid);
        }
        if past(peer.not_after, now) {
            return Err(Refused::Expired);
        }
        let checked = peer.checked();
        let fresh = now >= checked.at && now.ms_since(checked.at) < RECHECK_MS;
        if checked.generation == self.generation && fresh {
            return Ok(());
        }
        let authority = self.authorities.vouching(&peer.chain, now)?;
        // The same chain under another name or key would be another principal.
        if authority.name != peer.authority || authority.fingerprint != peer.authority_key {
            return Err(Refused::UnknownAuthority);
        }
        peer.found_good(Checked { generation: self.generation, at: now });
        Ok(())
    }
}

/// Whether a last moment, which X.509 gives in whole seconds and means inclusively, is over.
fn past(not_after: Timestamp, now: Timestamp) -> bool {
    now.0 / 1_000 > not_after.0 / 1_000
}

fn keep<T>(read: Result<T, Problem>, faults: &mut Vec<Problem>) -> Option<T> {
    read.map_err(|fault| faults.push(fault)).ok()
}

impl Authorities {
    /// The one authority that vouches for the chain.
    ///
    /// Whoever signed the leaf itself comes first, so that a peer cannot choose between an authority and the
    /// intermediate below it, both listed, by what else it shows.
    fn vouching(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<&Authority, Refused> {
        let (leaf, shown) = chain.split_first().ok_or(Refused::Unusable)?;
        if shown.len() > MAX_INTERMEDIATES {
            return Err(Refused::Unusable);
        }
        let mut refused = Refused::UnknownAuthority;
        for direct in [true, false] {
            for authority in &self.0 {
                let between = if direct {
                    Vec::new()
                } else {
                    shown.iter().chain(&authority.intermediates).cloned().collect()
                };
                match authority.vouches(leaf, &between, now) {
                    Ok(()) => return Ok(authority),
                    Err(why) => refused = refused.max(why),
                }
            }
        }
        Err(refused)
    }
}

impl Authority {
    fn vouches(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<(), Refused> {
        let at = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
        self.verifier.verify_client_cert(leaf, between, at).map_err(|error| Refused::from_rustls(&error))?;
        // RFC 5280 section 6.1 leaves the trust anchor's own dates to us.
        if now < self.not_before || past(self.not_after, now) {
            Err(Refused::AuthorityExpired)
        } else {
            Ok(())
        }
    }
}

/// The check at the handshake, as rustls asks for it.
struct Doorkeeper {
    authorities: Arc<Authorities>,
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Doorkeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doorkeeper")
    }
}

impl ClientCertVerifier for Doorkeeper {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(shown).cloned().collect();
        let now = Timestamp(now.as_secs().saturating_mul(1_000));
        self.authorities.vouching(&chain, now).map_err(Refused::into_rustls)?;
        PeerName::of(leaf).map_err(|why| Refused::Unnamed(why).into_rustls())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The vault's clock, as rustls asks for it.
struct VaultTime(Arc<dyn Clock>);

impl fmt::Debug for VaultTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaultTime")
    }
}

impl TimeProvider for VaultTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().0)))
    }
}

/// The bytes of all files, read at one go.
struct Bundle {
    certificate: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    client_ca: BTreeMap<AuthorityName, Zeroizing<Vec<u8>>>,
    crl: Vec<Zeroizing<Vec<u8>>>,
}

impl Bundle {
    fn read(files: &TlsFiles) -> Result<Self, Vec<Problem>> {
        let mut faults = Vec::new();
        let mut read = |key: &str, path: &Path, most: u64| {
            let read = read_small(path, most)
                .map_err(|problem| Problem::new(key, &problem, "check the path and its permissions"));
            keep(read, &mut faults)
        };
        let certificate = read("certificate", &files.certificate, MAX_PEM);
        let key = read("key", &files.key, MAX_PEM);
        let client_ca: BTreeMap<_, _> = files
            .client_ca
            .iter()
            .filter_map(|(name, path)| {
                Some((name.clone(), read(&format!("client_ca.{name}"), path, MAX_PEM)?))
            })
            .collect();
        let crl = files.crl.iter().filter_map(|path| read("crl", path, MAX_CRL)).collect();
        if key.is_some() {
            faults.extend(check_private("key", &files.key).err());
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) if faults.is_empty() => {
                Ok(Self { certificate, key, client_ca, crl })
            }
            _ => Err(faults),
        }
    }
}

fn certificates(key: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => {
            Err(Problem::new(key, "holds no certificate", "give a PEM file with a certificate in it"))
        }
    }
}

fn parsed<'a>(key: &str, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Problem> {
    let broken = || Problem::new(key, "holds a certificate that cannot be read", "have it issued again");
    X509Certificate::from_der(der).map(|(_, certificate)| certificate).map_err(|_| broken())
}

/// A revocation list, and what is needed of it here.
struct RevocationList {
    der: CertificateRevocationListDer<'static>,
    made: Timestamp,
    next: Option<Timestamp>,
}

impl RevocationList {
    fn read(bytes: &[u8]) -> Result<Self, Problem> {
        let broken =
            || Problem::new("crl", "holds a list that cannot be read", "fetch it again, as PEM or DER");
        let der = match CertificateRevocationListDer::from_pem_slice(bytes) {
            Ok(der) => der,
            Err(_) => CertificateRevocationListDer::from(bytes.to_vec()),
        };
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(|_| broken())?;
        let (made, next) = (moment(list.last_update()), list.next_update().map(moment));
        Ok(Self { der, made, next })
    }

    fn signed_by(&self, certificate: &X509Certificate<'_>) -> bool {
        CertificateRevocationList::from_der(&self.der).is_ok_and(|(_, list)| {
            list.issuer().as_raw() == certificate.subject().as_raw()
                && list.verify_signature(certificate.public_key()).is_ok()
        })
    }
}

fn read_authority(
    name: &AuthorityName,
    bytes: &[u8],
    lists: &[RevocationList],
    listed: &mut [bool],
    provider: &Arc<CryptoProvider>,
) -> Result<Authority, Problem> {
    let key = format!("client_ca.{name}");
    let chain = certificates(&key, bytes)?;
    let (anchor, intermediates) =
        chain.split_first().ok_or_else(|| Problem::new(&key, "is empty", "give a certificate"))?;
    let root = parsed(&key, anchor)?;
    if !root.is_ca() {
        return Err(Problem::new(
            &key,
            "begins with a certificate of no authority",
            "put the authority's own first",
        ));
    }
    let mut signers = vec![root];
    for intermediate in intermediates {
        signers.push(parsed(&key, intermediate)?);
    }
    let mut crls = Vec::new();
    for (list, listed) in lists.iter().zip(listed) {
        if signers.iter().any(|signer| list.signed_by(signer)) {
            crls.push(list.der.clone());
            *listed = true;
        }
    }
    let unusable = || Problem::new(&key, "cannot be used as an authority", "have it issued again");
    let mut roots = RootCertStore::empty();
    roots.add(anchor.clone()).map_err(|_| unusable())?;
    // The builder's defaults are what we want, and named here: the whole chain is checked, and a certificate that no
    // list covers is refused. Without any list nothing is checked.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .with_crls(crls)
        .enforce_revocation_expiration()
        .build()
        .map_err(|_| {
            Problem::new("crl", "holds a list that cannot be used", "give complete, direct lists")
        })?;
    let root = parsed(&key, anchor)?;
    Ok(Authority {
        name: name.clone(),
        fingerprint: Fingerprint::of_parsed(&root),
        not_before: moment(root.validity().not_before),
        not_after: moment(root.validity().not_after),
        intermediates: intermediates.to_vec(),
        verifier,
    })
}

fn same_key_twice(authorities: &[Authority]) -> Option<Problem> {
    let twice = authorities.iter().enumerate().find(|(at, authority)| {
        authorities.iter().take(*at).any(|earlier| earlier.fingerprint == authority.fingerprint)
    });
    twice.map(|(_, authority)| {
        let key = format!("client_ca.{}", authority.name);
        Problem::new(&key, "has the key of another authority", "list each authority under one name")
    })
}

fn server_config(
    bundle: &Bundle,
    authorities: &Arc<Authorities>,
    provider: &Arc<CryptoProvider>,
    clock: &Arc<dyn Clock>,
    inventory: &mut Vec<Listed>,
) -> Result<ServerConfig, Problem> {
    let chain = certificates("certificate", &bundle.certificate)?;
    if let Some(leaf) = chain.first() {
        let not_after = moment(parsed("certificate", leaf)?.validity().not_after);
        if past(not_after, clock.now()) {
            return Err(Problem::new("certificate", "has expired", "renew it: no client would accept it"));
        }
        inventory.push(Listed { key: "certificate".to_owned(), not_after });
    }
    let key = PrivateKeyDer::from_pem_slice(&bundle.key).map_err(|_| {
        Problem::new("key", "holds no private key", "give a PEM file with an unencrypted key in it")
    })?;
    let doorkeeper = Doorkeeper {
        authorities: Arc::clone(authorities),
        hints: authorities
            .0
            .iter()
            .flat_map(|authority| authority.verifier.root_hint_subjects().to_vec())
            .collect(),
        provider: Arc::clone(provider),
    };
    let mut config =
        ServerConfig::builder_with_details(Arc::clone(provider), Arc::new(VaultTime(Arc::clone(clock))))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|_| {
                Problem::new("tls", "has no cipher suite of TLS 1.3", "build with the ring provider")
            })?
            .with_client_cert_verifier(Arc::new(doorkeeper))
            .with_single_cert(chain, key)
            .map_err(|_| {
                Problem::new("key", "does not belong to the certificate", "give the key of this certificate")
            })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// What tells that a file was written, without reading it. The change time cannot be set by the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    length: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn stamps(files: &TlsFiles) -> Vec<Option<Stamp>> {
    let paths =
        [&files.certificate, &files.key].into_iter().chain(files.client_ca.values()).chain(&files.crl);
    paths.map(|path| std::fs::metadata(path).ok().as_ref().map(Stamp::of)).collect()
}

/// What a look at the files led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// Nothing has changed, or the change is still going on.
    Unchanged,
    /// The new set is in use.
    Taken,
    /// The new set has faults; the old one stays in use.
    Kept(Vec<Problem>),
}

/// What an operator should know about the certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsHealth {
    /// Which set is in use.
    pub generation: u64,
    /// Why the newest set is not in use, and since when. `None`: it is.
    pub last_error: Option<(Timestamp, String)>,
    /// Every file of the set in use that has an end.
    pub inventory: Vec<Listed>,
}

/// The certificates of one listener, kept up to date.
pub struct Tls {
    door: Door,
    files: TlsFiles,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    state: ArcSwap<TlsState>,
    reloading: Mutex<Reloading>,
}

struct Reloading {
    /// The files of the newest attempt, good or bad.
    tried: Vec<Option<Stamp>>,
    /// The files as they were at the last look.
    seen: Vec<Option<Stamp>>,
    last_error: Option<(Timestamp, String)>,
}

impl Tls {
    /// Reads the first set, which must be without fault.
    pub fn open(
        files: TlsFiles,
        door: Door,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, Vec<Problem>> {
        // Before the files are read: a write in between is then seen as a change.
        let tried = stamps(&files);
        let state = TlsState::load(&files, &clock)?;
        let reloading = Mutex::new(Reloading { seen: tried.clone(), tried, last_error: None });
        let tls = Self { door, files, clock, metrics, state: ArcSwap::from_pointee(state), reloading };
        tls.show_expiry();
        Ok(Arc::new(tls))
    }

    /// The set in use.
    #[must_use]
    pub fn current(&self) -> Arc<TlsState> {
        self.state.load_full()
    }

    /// Which listener these certificates are for.
    #[must_use]
    pub fn door(&self) -> Door {
        self.door
    }

    /// Looks whether files have changed since the last attempt and have then stayed as they are since the last look:
    /// whoever writes a certificate and then its key is not caught half-way.
    pub fn look(&self) -> Reload {
        let now = stamps(&self.files);
        let mut reloading = self.reloading();
        let settled = reloading.seen == now;
        reloading.seen.clone_from(&now);
        if !settled || reloading.tried == now { Reload::Unchanged } else { self.take(&mut reloading) }
    }

    /// Reads the files now, whether or not they have changed.
    pub fn reload(&self) -> Reload {
        self.take(&mut self.reloading())
    }

    fn take(&self, reloading: &mut Reloading) -> Reload {
        reloading.tried = stamps(&self.files);
        let old = self.current();
        let read = Bundle::read(&self.files)
            .and_then(|bundle| TlsState::build(&bundle, old.generation + 1, &self.clock))
            .and_then(|new| if older_lists(&old, &new) { Err(vec![older_list()]) } else { Ok(new) });
        self.metrics.reloaded(self.door, read.is_ok());
        match read {
            Ok(new) => {
                tracing::info!(door = ?self.door, generation = new.generation, "new certificates are in use");
                self.state.store(Arc::new(new));
                reloading.last_error = None;
                self.show_expiry();
                Reload::Taken
            }
            Err(faults) => {
                for fault in &faults {
                    tracing::error!(door = ?self.door, problem = %fault, "new certificates are refused; the old ones stay");
                }
                let text: Vec<_> = faults.iter().map(ToString::to_string).collect();
                reloading.last_error = Some((self.clock.now(), text.join("; ")));
                Reload::Kept(faults)
            }
        }
    }

    fn show_expiry(&self) {
        for listed in self.current().inventory() {
            let seconds = i64::try_from(listed.not_after.0 / 1_000).unwrap_or(i64::MAX);
            self.metrics.certificate(self.door, &listed.key, seconds);
        }
    }

    fn reloading(&self) -> MutexGuard<'_, Reloading> {
        self.reloading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the health page and `vaultctl certs inventory`.
    #[must_use]
    pub fn health(&self) -> TlsHealth {
        let state = self.current();
        let last_error = self.reloading().last_error.clone();
        TlsHealth { generation: state.generation, last_error, inventory: state.inventory.clone() }
    }
}

fn older_lists(old: &TlsState, new: &TlsState) -> bool {
    old.lists_made.iter().zip(&new.lists_made).any(|(old, new)| new < old)
}

fn older_list() -> Problem {
    Problem::new(
        "crl",
        "is older than the list in use",
        "fetch the newest list; an older one would undo a revocation",
    )
}

/// Keeps the certificates of all listeners up to date: looks every second, and at once on SIGHUP. Ends when `shutdown`
/// stops; fails only if the signal cannot be had.
pub async fn watch(all: Vec<Arc<Tls>>, mut shutdown: Shutdown) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let act: fn(&Tls) -> Reload = tokio::select! {
            _ = tick.tick() => Tls::look,
            _ = hangup.recv() => Tls::reload,
            () = shutdown.stopping() => return Ok(()),
        };
        for tls in &all {
            let tls = Arc::clone(tls);
            // Reading files blocks. A panic in there is logged by the runtime and the old set stays.
            let _ = tokio::task::spawn_blocking(move || act(&tls)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::rig::{DAY_MS, Leaf, Rig, clock, clock_at, now};

    fn open(rig: &Rig) -> Arc<Tls> {
        Tls::open(rig.files(), Door::Data, clock(), Metrics::new(&[])).unwrap()
    }

    #[test]
    fn a_peer_is_known_by_authority_and_name() {
        let rig = Rig::new();
        let state = TlsState::load(&rig.files(), &clock()).unwrap();
        let peer = state.recognise(&rig.client(&Leaf::uri("spiffe://shop/web")).chain(), now()).unwrap();
        assert_eq!(
            (peer.authority.as_str(), peer.name.to_string().as_str()),
            ("shop", "uri:spiffe://shop/web")
        );
        assert_eq!(Some(peer.authority_key), state.authorities().next().map(|(_, fingerprint)| fingerprint));
        assert_eq!(state.still_good(&peer, now()), Ok(()));
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_told_apart() {
        let rig = Rig::new();
        let state = TlsState::load(&rig.files(), &clock()).unwrap();
        let day = |days: i64| Leaf::uri("spiffe://shop/web").valid(days, days + 10);
        for (leaf, by_other, why) in [
            (Leaf::uri("spiffe://shop/web"), true, Refused::UnknownAuthority),
            (day(-20), false, Refused::Expired),
            (day(5), false, Refused::NotYetValid),
            (Leaf::uri("spiffe://shop/web").for_servers(), false, Refused::Unusable),
            (Leaf::nameless(), false, Refused::Unnamed(IdentityError::NoName)),
        ] {
            let certificate = if by_other { rig.other_client(&leaf) } else { rig.client(&leaf) };
            assert_eq!(state.recognise(&certificate.chain(), now()).map(|_| ()), Err(why));
        }
        assert_eq!(state.recognise(&[], now()).map(|_| ()), Err(Refused::Unusable));
    }

    #[test]
    fn a_connected_peer_is_refused_the_second_after_its_certificate_ends() {
        let rig = Rig::new();
        let state = TlsState::load(&rig.files(), &clock()).unwrap();
        let chain = rig.client(&Leaf::uri("spiffe://shop/web").valid(-1, 10)).chain();
        let peer = state.recognise(&chain, now()).unwrap();
        let end = peer.not_after;
        assert_eq!(state.still_good(&peer, end.plus_ms(999)), Ok(()));
        assert_eq!(state.still_good(&peer, end.plus_ms(1_000)), Err(Refused::Expired));
        assert_eq!(state.still_good(&peer, Timestamp(peer.not_before.0 - 1)), Err(Refused::NotYetValid));
    }

    #[test]
    fn revoked_while_connected_is_refused_after_the_reload_and_others_are_not() {
        let rig = Rig::new();
        let tls = open(&rig);
        let bad = rig.client(&Leaf::uri("spiffe://shop/bad"));
        let good = rig.client(&Leaf::uri("spiffe://shop/good"));
        let state = tls.current();
        let (bad_peer, good_peer) =
            (state.recognise(&bad.chain(), now()).unwrap(), state.recognise(&good.chain(), now()).unwrap());
        rig.revoke(&[&bad], 1);
        assert_eq!(tls.reload(), Reload::Taken);
        let state = tls.current();
        assert_eq!(state.still_good(&bad_peer, now()), Err(Refused::Revoked));
        assert_eq!(state.still_good(&good_peer, now()), Ok(()));
        assert_eq!(state.recognise(&bad.chain(), now()).map(|_| ()), Err(Refused::Revoked));
    }

    #[test]
    fn an_authority_taken_out_ends_its_connections() {
        let rig = Rig::new();
        let tls = open(&rig);
        let peer =
            tls.current().recognise(&rig.client(&Leaf::uri("spiffe://shop/web")).chain(), now()).unwrap();
        // The same file now names another authority.
        fs::copy(rig.path("other.pem"), rig.path("shop.pem")).unwrap();
        fs::copy(rig.path("other.crl"), rig.path("shop.crl")).unwrap();
        assert_eq!(tls.reload(), Reload::Taken);
        assert_eq!(tls.current().still_good(&peer, now()), Err(Refused::UnknownAuthority));
    }

    #[test]
    fn a_strict_authority_refuses_what_its_lists_do_not_tell_or_tell_too_late() {
        let rig = Rig::new();
        let state = TlsState::load(&rig.files(), &clock()).unwrap();
        let below = rig.below_intermediate(&Leaf::uri("spiffe://shop/web"));
        // The intermediate has no list, and its authority is strict.
        assert_eq!(state.recognise(&below.chain(), now()).map(|_| ()), Err(Refused::RevocationUnknown));
        let leaf = rig.client(&Leaf::uri("spiffe://shop/web"));
        let too_late = now().plus_days(40);
        assert_eq!(state.recognise(&leaf.chain(), too_late).map(|_| ()), Err(Refused::RevocationUnknown));

        let mut lax = rig.files();
        lax.crl.clear();
        let state = TlsState::load(&lax, &clock()).unwrap();
        let peer = state.recognise(&below.chain(), now()).unwrap();
        assert_eq!(peer.authority.as_str(), "shop");
    }

    #[test]
    fn the_authority_nearest_to_the_leaf_vouches_whatever_the_peer_shows() {
        let rig = Rig::new();
        let mut files = rig.files();
        files.crl.clear();
        // Named to come after `shop`, so that order alone would choose wrongly.
        files.client_ca.insert(AuthorityName::parse("zone").unwrap(), rig.path("intermediate.pem"));
        let state = TlsState::load(&files, &clock()).unwrap();
        let chain = rig.below_intermediate(&Leaf::uri("spiffe://shop/web")).chain();
        for shown in [&chain[..], &chain[..1]] {
            assert_eq!(state.recognise(shown, now()).unwrap().authority.as_str(), "zone");
        }
    }

    #[test]
    fn an_expired_authority_vouches_for_nobody() {
        let rig = Rig::new();
        let mut files = rig.files();
        files.crl.clear();
        let state = TlsState::load(&files, &clock()).unwrap();
        let chain = rig.client(&Leaf::uri("spiffe://shop/web").valid(-1, 9_999)).chain();
        let after_authority = Timestamp(now().0 + 5_000 * DAY_MS);
        assert_eq!(state.recognise(&chain, after_authority).map(|_| ()), Err(Refused::AuthorityExpired));
    }

    #[test]
    fn a_bad_file_keeps_the_old_set_and_shows_in_health() {
        let rig = Rig::new();
        let good = |file: &str| fs::read(rig.path(file)).unwrap();
        let (key, other_key) = (good("server.key"), good("other-server.key"));
        let older = {
            rig.revoke(&[], 2);
            let tls = good("shop.crl");
            rig.revoke(&[], 3);
            tls
        };
        for (file, content, blamed) in [
            ("server.key", other_key.clone(), "key"),
            ("server.key", key[..key.len() / 2].to_vec(), "key"),
            ("server.pem", Vec::new(), "certificate"),
            ("server.pem", good("expired-server.pem"), "certificate"),
            (
                "shop.pem",
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(),
                "client_ca.shop",
            ),
            ("shop.pem", good("server.pem"), "client_ca.shop"),
            ("shop.crl", b"\x30\x03\x02\x01".to_vec(), "crl"),
            ("shop.crl", good("other.crl"), "crl"),
            ("shop.crl", older, "crl"),
        ] {
            let tls = open(&rig);
            let before = good(file);
            fs::write(rig.path(file), content).unwrap();
            let Reload::Kept(faults) = tls.reload() else { panic!("{file} was taken") };
            assert_eq!(faults[0].key, blamed, "{file}: {faults:?}");
            assert_eq!(tls.current().generation(), 0);
            assert!(tls.health().last_error.unwrap().1.starts_with(blamed));
            fs::write(rig.path(file), before).unwrap();
            assert_eq!(tls.reload(), Reload::Taken, "{file}");
            assert_eq!(tls.health().last_error, None);
            assert_eq!(tls.current().generation(), 1);
        }
    }

    #[test]
    fn a_change_is_taken_once_it_has_settled() {
        let rig = Rig::new();
        let tls = open(&rig);
        assert_eq!(tls.look(), Reload::Unchanged);
        rig.revoke(&[], 1);
        assert_eq!(tls.look(), Reload::Unchanged, "it may still be being written");
        assert_eq!(tls.look(), Reload::Taken);
        assert_eq!(tls.look(), Reload::Unchanged);
        fs::remove_file(rig.path("server.pem")).unwrap();
        assert_eq!(tls.look(), Reload::Unchanged);
        assert!(matches!(tls.look(), Reload::Kept(_)));
        assert_eq!(tls.look(), Reload::Unchanged, "a fault is told once");
    }

    #[tokio::test]
    async fn a_change_is_taken_by_itself_and_on_sighup_at_once() {
        use rustix::process::{Signal, getpid, kill_process};

        let rig = Rig::new();
        let tls = open(&rig);
        let (trigger, shutdown) = crate::shutdown::Trigger::new();
        // Held from here on, so that the signal ends nobody even if it comes before the watch has begun.
        let _held = signal(SignalKind::hangup()).unwrap();
        let watching = tokio::spawn(watch(vec![Arc::clone(&tls)], shutdown));
        let reaches = async |generation| {
            while tls.current().generation() < generation {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        rig.revoke(&[], 1);
        tokio::time::timeout(Duration::from_secs(10), reaches(1)).await.expect("seen by itself");
        kill_process(getpid(), Signal::HUP).unwrap();
        // Nothing has changed, so that only the signal can have done it.
        tokio::time::timeout(Duration::from_secs(10), reaches(2)).await.expect("on SIGHUP");
        trigger.stop();
        watching.await.unwrap().unwrap();
    }

    #[test]
    fn the_inventory_lists_every_end() {
        let rig = Rig::new();
        let inventory = TlsState::load(&rig.files(), &clock()).unwrap().inventory().to_vec();
        let keys: Vec<_> = inventory.iter().map(|listed| listed.key.as_str()).collect();
        assert_eq!(keys, ["certificate", "client_ca.shop", "crl.0"]);
        assert!(inventory.iter().all(|listed| listed.not_after > now()));
    }

    #[test]
    fn a_set_with_an_expired_server_certificate_or_no_authority_does_not_start() {
        let rig = Rig::new();
        let late = clock_at(now().plus_days(800));
        assert_eq!(TlsState::load(&rig.files(), &late).map(|_| ()).unwrap_err()[0].key, "certificate");
        let mut nobody = rig.files();
        nobody.client_ca.clear();
        assert_eq!(TlsState::load(&nobody, &clock()).map(|_| ()).unwrap_err()[0].key, "client_ca");
        let mut twice = rig.files();
        twice.client_ca.insert(AuthorityName::parse("again").unwrap(), rig.path("shop.pem"));
        assert_eq!(TlsState::load(&twice, &clock()).map(|_| ()).unwrap_err()[0].key, "client_ca.shop");
    }
}
