//! Bytes of a verified certificate -> who that is.
//!
//! An identity is the authority that vouches for it and exactly one name: the certificate's one URI, else its one DNS
//! name (subject alternative names, RFC 5280 section 4.2.1.6). Refused: no name, two URIs, two DNS names without a URI,
//! wildcards, names over 200 bytes or outside visible ASCII, and names that look like a card number. The subject's common
//! name is never read: nobody checks that it is unique.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use vault_core::name::AuthorityName;
use vault_core::time::Timestamp;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The longest name, in bytes. SPIFFE allows 2,048; policies and audit logs are read by people.
pub const MAX_IDENTITY: usize = 200;

/// SHA-256 of a certificate's `SubjectPublicKeyInfo`, DER: names a key, however often its certificate is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of the key in this certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        Ok(Self::of_parsed(&parse(certificate)?))
    }

    pub(crate) fn of_parsed(certificate: &X509Certificate<'_>) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate.public_key().raw).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    /// 64 lower-case hexadecimal digits, as the Control document lists authorities.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Why a certificate names nobody. It never carries the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdentityError {
    /// Not a certificate that can be read.
    Unreadable,
    /// Neither a URI nor a DNS name.
    NoName,
    /// More than one URI, or more than one DNS name and no URI.
    ManyNames,
    /// A `*` in the name.
    Wildcard,
    /// Empty, or longer than [`MAX_IDENTITY`] bytes.
    Length,
    /// A byte that is not visible ASCII.
    Alphabet,
    /// Digits that pass for a card number.
    LooksLikeCard,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "the certificate cannot be read",
            Self::NoName => "the certificate needs one URI, or one DNS name, as subject alternative name",
            Self::ManyNames => "the certificate has more than one URI, or more than one DNS name and no URI",
            Self::Wildcard => "the certificate's name has a wildcard",
            Self::Length => "the certificate's name must have 1 to 200 bytes",
            Self::Alphabet => "the certificate's name may hold visible ASCII characters only",
            Self::LooksLikeCard => "the certificate's name must not look like a card number",
        })
    }
}

impl std::error::Error for IdentityError {}

/// The one name of a certificate. A URI and a DNS name that read the same are two different names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerName {
    /// As in the certificate, byte for byte: `spiffe://shop.example/checkout`.
    Uri(String),
    /// In lower case, without a final dot: `checkout.shop.example`.
    Dns(String),
}

impl PeerName {
    /// The name of a certificate that has been verified.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        Self::of_parsed(&parse(certificate)?)
    }

    fn of_parsed(certificate: &X509Certificate<'_>) -> Result<Self, IdentityError> {
        // A repeated extension is an error here, as RFC 5280 section 4.2 says.
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let dns = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(dns) => Some(*dns),
            _ => None,
        });
        if let Some(uri) = only(uris)? {
            // A scheme is what tells a URI from a DNS name: a policy's one `name` never means both.
            let uri = checked(uri)?;
            if !uri.contains(':') {
                return Err(IdentityError::Alphabet);
            }
            return Ok(Self::Uri(uri.to_owned()));
        }
        let dns = only(dns)?.ok_or(IdentityError::NoName)?;
        Ok(Self::Dns(checked(dns.strip_suffix('.').unwrap_or(dns))?.to_ascii_lowercase()))
    }

    /// The name alone.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Uri(name) | Self::Dns(name) => name,
        }
    }
}

impl fmt::Display for PeerName {
    /// `uri:` or `dns:`, then the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(name) => write!(f, "uri:{name}"),
            Self::Dns(name) => write!(f, "dns:{name}"),
        }
    }
}

fn only<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<Option<&'a str>, IdentityError> {
    let first = names.next();
    if names.next().is_some() { Err(IdentityError::ManyNames) } else { Ok(first) }
}

fn checked(name: &str) -> Result<&str, IdentityError> {
    if name.is_empty() || name.len() > MAX_IDENTITY {
        return Err(IdentityError::Length);
    }
    if !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(IdentityError::Alphabet);
    }
    if name.contains('*') {
        return Err(IdentityError::Wildcard);
    }
    if vault_core::pan::holds_card_number(name) {
        return Err(IdentityError::LooksLikeCard);
    }
    Ok(name)
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IdentityError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(IdentityError::Unreadable),
    }
}

/// Who is at the other end of a connection. Made by [`crate::tls::TlsState::recognise`] only, once per connection, and
/// in the extensions of every request as `Arc<PeerCertificate>`.
pub struct PeerCertificate {
    /// The authority that vouches for it, as the settings name it.
    pub authority: AuthorityName,
    /// The authority's key, as the Control document lists it.
    pub authority_key: Fingerprint,
    /// Its one name.
    pub name: PeerName,
    /// The serial number that the authority gave it, in lower-case hexadecimal digits.
    pub serial: String,
    /// Good from this moment on.
    pub not_before: Timestamp,
    /// Good until the end of this second.
    pub not_after: Timestamp,
    /// What the peer showed, its own certificate first: checked again whenever the lists change.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) checked: Mutex<Checked>,
}

/// When, and against which set of files, a chain was last found good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) generation: u64,
    pub(crate) at: Timestamp,
}

impl PeerCertificate {
    /// Reads a chain that `authority` was just found to vouch for.
    pub(crate) fn read(
        chain: &[CertificateDer<'_>],
        authority: AuthorityName,
        authority_key: Fingerprint,
        checked: Checked,
    ) -> Result<Self, IdentityError> {
        let leaf = parse(chain.first().ok_or(IdentityError::Unreadable)?)?;
        Ok(Self {
            authority,
            authority_key,
            name: PeerName::of_parsed(&leaf)?,
            serial: data_encoding::HEXLOWER.encode(leaf.raw_serial()),
            not_before: moment(leaf.validity().not_before),
            not_after: moment(leaf.validity().not_after),
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            checked: Mutex::new(checked),
        })
    }

    pub(crate) fn checked(&self) -> Checked {
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn found_good(&self, checked: Checked) {
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = checked;
    }
}

/// X.509's time as ours. Before 1970 is 1970: long expired either way.
pub(crate) fn moment(at: x509_parser::time::ASN1Time) -> Timestamp {
    Timestamp(u64::try_from(at.timestamp()).unwrap_or(0).saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn ip(text: &str) -> SanType {
        SanType::IpAddress(text.parse().unwrap())
    }

    fn certificate(names: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "common.example");
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_names_exactly_one_or_nobody() {
        let long = format!("spiffe://{}", "a".repeat(MAX_IDENTITY - 8));
        let fits = long[..MAX_IDENTITY].to_owned();
        let table: Vec<(Vec<SanType>, Result<&str, IdentityError>)> = vec![
            (vec![uri("spiffe://shop/web")], Ok("uri:spiffe://shop/web")),
            (vec![dns("web.shop.example")], Ok("dns:web.shop.example")),
            (vec![dns("Web.Shop.Example.")], Ok("dns:web.shop.example")),
            (vec![dns("a.example"), dns("b.example"), uri("spiffe://shop/web")], Ok("uri:spiffe://shop/web")),
            (vec![ip("192.0.2.1"), dns("a.example")], Ok("dns:a.example")),
            (vec![uri(&fits)], Ok(&format!("uri:{fits}")[..])),
            (vec![], Err(IdentityError::NoName)),
            (vec![ip("192.0.2.1")], Err(IdentityError::NoName)),
            (vec![uri("spiffe://a"), uri("spiffe://b")], Err(IdentityError::ManyNames)),
            (vec![uri("spiffe://a"), uri("spiffe://a")], Err(IdentityError::ManyNames)),
            (vec![uri("spiffe://a"), uri("spiffe://b"), dns("c.example")], Err(IdentityError::ManyNames)),
            (vec![dns("a.example"), dns("b.example")], Err(IdentityError::ManyNames)),
            (vec![dns("*.shop.example")], Err(IdentityError::Wildcard)),
            (vec![uri("spiffe://shop/*")], Err(IdentityError::Wildcard)),
            (vec![uri(&long)], Err(IdentityError::Length)),
            (vec![uri("")], Err(IdentityError::Length)),
            (vec![dns("two words")], Err(IdentityError::Alphabet)),
            (vec![uri("spiffe://a\u{0}b")], Err(IdentityError::Alphabet)),
        ]
        .into_iter()
        .map(|(names, expected)| (names, expected.map(|text| &*text.to_owned().leak())))
        .collect();
        for (names, expected) in table {
            let shown = format!("{names:?}");
            assert_eq!(
                PeerName::of(&certificate(names)).map(|n| n.to_string()).as_deref(),
                expected.as_deref(),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_name_that_looks_like_a_card_names_nobody() {
        for name in [uri("spiffe://shop/4111111111111111"), dns("4111-1111-1111-1111.shop.example")] {
            assert_eq!(PeerName::of(&certificate(vec![name])), Err(IdentityError::LooksLikeCard));
        }
    }

    #[test]
    fn garbage_names_nobody_and_does_not_panic() {
        let good = certificate(vec![uri("spiffe://a")]);
        for cut in 0..good.len() {
            assert!(PeerName::of(&CertificateDer::from(good[..cut].to_vec())).is_err());
        }
        let trailing = [good.as_ref(), &[0]].concat();
        assert_eq!(PeerName::of(&CertificateDer::from(trailing)), Err(IdentityError::Unreadable));
    }

    #[test]
    fn a_fingerprint_names_the_key_not_the_certificate() {
        let key = KeyPair::generate().unwrap();
        let sign = |params: CertificateParams| params.self_signed(&key).unwrap().der().clone();
        let mut renewed = CertificateParams::default();
        renewed.not_after = rcgen::date_time_ymd(2050, 1, 1);
        let (a, b) = (sign(CertificateParams::default()), sign(renewed));
        assert_ne!(a, b);
        assert_eq!(Fingerprint::of(&a), Fingerprint::of(&b));
        assert_ne!(Fingerprint::of(&a), Fingerprint::of(&certificate(vec![])));
        assert_eq!(Fingerprint::of(&a).unwrap().to_string().len(), 64);
    }
}
