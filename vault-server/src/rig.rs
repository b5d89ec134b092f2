//! A folder of certificates for this crate's tests: an authority `shop` with a revocation list, an intermediate below
//! it, another authority, and a server for each of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use vault_core::name::AuthorityName;
use vault_core::time::{Clock, ManualClock, SystemClock, Timestamp};

use crate::settings::TlsFiles;

pub(crate) const DAY_MS: u64 = 86_400_000;

/// The moment that all these certificates are made around: today, as test clients use the machine's clock.
pub(crate) fn now() -> Timestamp {
    static NOW: std::sync::LazyLock<Timestamp> = std::sync::LazyLock::new(|| SystemClock.now());
    *NOW
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    clock_at(now())
}

pub(crate) fn clock_at(at: Timestamp) -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(at))
}

fn day(days: i64) -> x509_parser::time::ASN1Time {
    let seconds = i64::try_from(now().0 / 1_000).unwrap() + days * 86_400;
    x509_parser::time::ASN1Time::from_timestamp(seconds).unwrap()
}

/// What a client's certificate should say.
pub(crate) struct Leaf {
    names: Vec<SanType>,
    from: i64,
    to: i64,
    usage: ExtendedKeyUsagePurpose,
}

impl Leaf {
    pub(crate) fn uri(name: &str) -> Self {
        let names = vec![SanType::URI(name.try_into().unwrap())];
        Self { names, from: -1, to: 365, usage: ExtendedKeyUsagePurpose::ClientAuth }
    }

    pub(crate) fn nameless() -> Self {
        Self { names: Vec::new(), ..Self::uri("x") }
    }

    pub(crate) fn valid(mut self, from: i64, to: i64) -> Self {
        (self.from, self.to) = (from, to);
        self
    }

    pub(crate) fn for_servers(mut self) -> Self {
        self.usage = ExtendedKeyUsagePurpose::ServerAuth;
        self
    }

    fn params(&self) -> CertificateParams {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        params.subject_alt_names.clone_from(&self.names);
        params.not_before = day(self.from).to_datetime();
        params.not_after = day(self.to).to_datetime();
        params.extended_key_usages = vec![self.usage.clone()];
        params.serial_number = Some(SerialNumber::from(SERIAL.fetch_add(1, Ordering::Relaxed)));
        params
    }
}

/// A leaf with its key and what it shows above itself.
pub(crate) struct Issued {
    certificate: Certificate,
    key: KeyPair,
    above: Vec<CertificateDer<'static>>,
    serial: SerialNumber,
}

impl Issued {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        std::iter::once(self.certificate.der().clone()).chain(self.above.iter().cloned()).collect()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

struct Ca {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = day(-30).to_datetime();
        params.not_after = day(3_650).to_datetime();
        params
    }

    fn root(name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, leaf: &Leaf) -> Issued {
        let (params, key) = (leaf.params(), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate, key, above: Vec::new(), serial: params.serial_number.unwrap() }
    }

    fn list(&self, revoked: &[&Issued], made: i64) -> String {
        let revoked_certs = revoked
            .iter()
            .map(|issued| RevokedCertParams {
                serial_number: issued.serial.clone(),
                revocation_time: day(-1).to_datetime(),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            })
            .collect();
        // Made on a day before today, as lists are counted here from -10 upwards, and good for thirty days from now.
        let list = CertificateRevocationListParams {
            this_update: day(made - 10).to_datetime(),
            next_update: day(30).to_datetime(),
            crl_number: SerialNumber::from(u64::try_from(made + 10).unwrap()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

pub(crate) struct Rig {
    folder: tempfile::TempDir,
    shop: Ca,
    other: Ca,
    intermediate: Ca,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let shop = Ca::root("shop authority");
        let rig = Self {
            folder: tempfile::tempdir().unwrap(),
            intermediate: shop.below("shop intermediate"),
            shop,
            other: Ca::root("other authority"),
        };
        let server = |from, to| Leaf {
            names: vec![
                SanType::DnsName("localhost".try_into().unwrap()),
                SanType::IpAddress("127.0.0.1".parse().unwrap()),
            ],
            from,
            to,
            usage: ExtendedKeyUsagePurpose::ServerAuth,
        };
        rig.write("shop.pem", &rig.shop.certificate.pem());
        rig.write("other.pem", &rig.other.certificate.pem());
        rig.write("intermediate.pem", &rig.intermediate.certificate.pem());
        rig.write("other.crl", &rig.other.list(&[], 5));
        rig.revoke(&[], 0);
        for (name, leaf) in [("server", server(-1, 365)), ("other-server", server(-1, 365))] {
            let issued = rig.shop.issue(&leaf);
            rig.write(&format!("{name}.pem"), &issued.certificate.pem());
            rig.write(&format!("{name}.key"), &issued.key.serialize_pem());
        }
        // The same key: so that nothing but its end is wrong with it.
        let key = KeyPair::from_pem(&fs::read_to_string(rig.path("server.key")).unwrap()).unwrap();
        let expired = server(-20, -10).params().signed_by(&key, &rig.shop.issuer).unwrap();
        rig.write("expired-server.pem", &expired.pem());
        rig
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
        fs::set_permissions(self.path(file), fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: [(AuthorityName::parse("shop").unwrap(), self.path("shop.pem"))].into(),
            crl: vec![self.path("shop.crl")],
        }
    }

    /// Writes the shop's list number `made`, a later one than those with lower numbers.
    pub(crate) fn revoke(&self, revoked: &[&Issued], made: i64) {
        self.write("shop.crl", &self.shop.list(revoked, made));
    }

    pub(crate) fn client(&self, leaf: &Leaf) -> Issued {
        self.shop.issue(leaf)
    }

    pub(crate) fn other_client(&self, leaf: &Leaf) -> Issued {
        self.other.issue(leaf)
    }

    pub(crate) fn below_intermediate(&self, leaf: &Leaf) -> Issued {
        let mut issued = self.intermediate.issue(leaf);
        issued.above.push(self.intermediate.certificate.der().clone());
        issued
    }

    /// The authority that a client trusts to name the server.
    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.shop.certificate.der().clone()
    }
}
