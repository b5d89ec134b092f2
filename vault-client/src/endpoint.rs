//! Where the vault is, whom we trust to say so, and who we are.
//!
//! TLS 1.3 by rustls with the ring provider, ALPN `h2`, the given authority and no other. Refused: addresses that are not
//! `https://host:port`, an authority file without a certificate, a key that is not the certificate's. Sessions are not
//! resumed: the server would refuse it, as a ticket is a second credential that outlives the first.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tonic::transport::Uri;
use zeroize::Zeroizing;

use crate::error::ClientError;

/// The protocol that is spoken inside: HTTP/2 (RFC 9113 section 3.2).
pub(crate) const ALPN: &[u8] = b"h2";
/// For how long a call may take unless the caller says otherwise: longer than a checkout waits.
const DEADLINE: Duration = Duration::from_secs(10);
/// For how long TCP and TLS may take: two lost packets and a far continent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a call is sent at most, the first time included.
const ATTEMPTS: u32 = 5;

/// A certificate, a chain of them, or a private key, as PEM (RFC 7468). Wiped when dropped.
pub enum Pem {
    /// In this file, read once, by `connect`.
    File(PathBuf),
    /// Here.
    Bytes(Zeroizing<Vec<u8>>),
}

impl Pem {
    /// In this file, read once, by `connect`.
    #[must_use]
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self::File(path.as_ref().to_owned())
    }

    /// From memory.
    #[must_use]
    pub fn bytes(pem: impl Into<Vec<u8>>) -> Self {
        Self::Bytes(Zeroizing::new(pem.into()))
    }

    async fn read(self, what: &str) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::File(path) => match tokio::fs::read(&path).await {
                Ok(bytes) => Ok(Zeroizing::new(bytes)),
                Err(why) => Err(config(format!("cannot read the {what} `{}`: {why}", path.display()))),
            },
        }
    }
}

/// How to reach a vault. Everything is read and checked by `connect`; a renewed certificate needs a new `connect`.
pub struct Endpoint {
    address: String,
    server_name: Option<String>,
    authority: Pem,
    certificate: Pem,
    key: Pem,
    connect_timeout: Duration,
    deadline: Duration,
    attempts: u32,
}

impl Endpoint {
    /// A vault at `address`, `https://host:port`, whose certificate `authority` signed (one certificate or several), and to
    /// whom we are `client`: a certificate, with intermediates after it where there are any, and its private key.
    #[must_use]
    pub fn new(address: &str, authority: Pem, client: (Pem, Pem)) -> Self {
        Self {
            address: address.to_owned(),
            server_name: None,
            authority,
            certificate: client.0,
            key: client.1,
            connect_timeout: CONNECT_TIMEOUT,
            deadline: DEADLINE,
            attempts: ATTEMPTS,
        }
    }

    /// The name that the server's certificate must have, where it is not the address's host: behind a balancer, or where
    /// an IP address is dialled.
    #[must_use]
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.to_owned());
        self
    }

    /// For how long TCP and TLS may take together. 4 s unless said.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// For how long a call may take, with connecting and all retries. 10 s unless said; at most a day.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How often a call is sent at most, the first time included. 5 unless said; 1: never again.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Reads and checks it all. Connects to nothing.
    pub(crate) async fn parse(self) -> Result<Parsed, ClientError> {
        let (uri, host, port) = parse_address(&self.address)?;
        let name = self.server_name.unwrap_or_else(|| host.clone());
        let server_name = ServerName::try_from(name.clone())
            .map_err(|_| config(format!("`{name}` is neither a host name nor an IP address")))?;
        let authority = self.authority.read("authority").await?;
        let certificate = self.certificate.read("client certificate").await?;
        let key = self.key.read("client key").await?;
        Ok(Parsed {
            uri,
            host,
            port,
            server_name,
            tls: tls(&authority, &certificate, &key)?,
            connect_timeout: self.connect_timeout,
            deadline: self.deadline,
            attempts: self.attempts,
        })
    }
}

/// An endpoint whose every part is good.
pub(crate) struct Parsed {
    pub(crate) uri: Uri,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) server_name: ServerName<'static>,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) connect_timeout: Duration,
    pub(crate) deadline: Duration,
    pub(crate) attempts: u32,
}

fn parse_address(address: &str) -> Result<(Uri, String, u16), ClientError> {
    let refuse = || config(format!("the address `{address}` is not of the form https://host:port"));
    let uri: Uri = address.parse().map_err(|_| refuse())?;
    let plain = uri.scheme_str() == Some("https")
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none()
        && uri.authority().is_some_and(|a| !a.as_str().contains('@'));
    let (Some(host), Some(port), true) = (uri.host(), uri.port_u16(), plain) else { return Err(refuse()) };
    // An IPv6 address stands in brackets in a URI (RFC 3986 section 3.2.2), and nowhere else.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((uri, host, port))
}

fn tls(authority: &[u8], certificate: &[u8], key: &[u8]) -> Result<Arc<ClientConfig>, ClientError> {
    let mut roots = RootCertStore::empty();
    for root in chain(authority, "authority")? {
        roots
            .add(root)
            .map_err(|why| config(format!("the authority's certificate cannot be used: {why}")))?;
    }
    let chain = chain(certificate, "client certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| config("the client key holds no private key in PEM".to_owned()))?;
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|why| config(format!("TLS 1.3 is not to be had: {why}")))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|why| config(format!("the client certificate and key do not go together: {why}")))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = Resumption::disabled();
    Ok(Arc::new(tls))
}

fn chain(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) | Err(_) => Err(config(format!("the {what} holds no certificate in PEM"))),
    }
}

fn config(what: String) -> ClientError {
    ClientError::Config(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::Papers;

    #[test]
    fn an_address_is_https_host_and_port_and_nothing_else() {
        for (address, host, port) in [
            ("https://vault.example:7443", "vault.example", 7443),
            ("https://vault.example:7443/", "vault.example", 7443),
            ("https://192.0.2.1:1", "192.0.2.1", 1),
            ("https://[2001:db8::1]:7443", "2001:db8::1", 7443),
        ] {
            let (_, h, p) = parse_address(address).unwrap();
            assert_eq!((h.as_str(), p), (host, port));
        }
        for address in [
            "http://vault.example:7443",
            "vault.example:7443",
            "https://vault.example",
            "https://vault.example:7443/v1",
            "https://vault.example:7443?x=1",
            "https://me@vault.example:7443",
            "https://vault.example:70000",
            "",
        ] {
            let Err(ClientError::Config(text)) = parse_address(address) else { panic!("{address}") };
            assert!(text.contains("https://host:port"), "{text}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named_before_anything_is_dialled() {
        let (ours, theirs) = (Papers::new("ours"), Papers::new("theirs"));
        let ca = || Pem::bytes(ours.authority_pem());
        let (certificate, key) = ours.client_pem();
        let (certificate, key) = (|| Pem::bytes(certificate.clone()), || Pem::bytes(key.clone()));
        let other_key = Pem::bytes(theirs.client_pem().1);
        let at = |authority, client| Endpoint::new("https://localhost:1", authority, client);
        let cases = [
            (at(Pem::bytes("nothing"), (certificate(), key())), "the authority holds no certificate"),
            (at(ca(), (Pem::bytes(""), key())), "the client certificate holds no certificate"),
            (at(ca(), (certificate(), certificate())), "the client key holds no private key"),
            (at(ca(), (certificate(), other_key)), "do not go together"),
            (
                at(Pem::file("/no/such.pem"), (certificate(), key())),
                "cannot read the authority `/no/such.pem`",
            ),
            (at(ca(), (certificate(), key())).server_name("not a name"), "neither a host name nor an IP"),
        ];
        for (endpoint, named) in cases {
            let Err(ClientError::Config(text)) = endpoint.parse().await else { panic!("{named}") };
            assert!(text.contains(named), "{text}");
        }
    }
}
