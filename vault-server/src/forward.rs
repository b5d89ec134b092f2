//! Sends a request with cards in it to a destination that the settings name, over TLS, and gives its answer back without
//! card numbers.
//!
//! One request, one connection. Refused: any destination but those in the settings, plain text, a certificate of another
//! authority or another name, redirects (they are answers, and nobody follows them), an answer that is encoded so that it
//! cannot be looked through, and whatever is larger or slower than the settings allow. No proxy is asked, whatever the
//! environment says. What was sent stays in buffers that are wiped.

pub mod mask;
pub mod template;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_ENCODING, HOST};
use http::{HeaderName, Request, Uri};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;
use vault_core::name::{ChannelName, DestinationName, MerchantName};
use zeroize::Zeroizing;

use self::template::{Filled, Template};
use crate::settings::{DestinationSettings, Problem, check_private, read_small};

/// Bytes of a certificate or key file.
const MAX_PEM: u64 = 1_048_576;
/// Bytes of an answer's status line and headers.
const MAX_HEAD: usize = 65_536;
/// Headers of an answer.
const MAX_ANSWER_HEADERS: usize = 100;

/// The destinations of the settings.
#[derive(Default)]
pub struct Forwarder(BTreeMap<DestinationName, Destination>);

/// One of them.
pub struct Destination {
    host: String,
    port: u16,
    authority: String,
    name: ServerName<'static>,
    tls: TlsConnector,
    settings: DestinationSettings,
    answer_headers: Vec<HeaderName>,
    places: Arc<Semaphore>,
}

/// What a destination answered.
pub struct Answer {
    /// Its HTTP status.
    pub status: u16,
    /// Those of its headers that the settings let through.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its body.
    pub body: Zeroizing<Vec<u8>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// Nobody is there. Nothing was sent.
    Unreachable,
    /// The handshake failed: another certificate, another name, no TLS. Nothing was sent.
    Tls,
    /// It took too long. What was sent may have arrived.
    Late,
    /// The connection broke, or what came is no HTTP. What was sent may have arrived.
    Broken,
    /// The answer is larger than the settings allow.
    TooLarge,
    /// The answer is compressed, though nobody asked for that, and cannot be looked through.
    Encoded,
}

impl Undelivered {
    /// Its word for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Late => "late",
            Self::Broken => "broken",
            Self::TooLarge => "too-large",
            Self::Encoded => "encoded",
        }
    }
}

impl fmt::Display for Undelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "the destination cannot be reached; nothing was sent",
            Self::Tls => "the destination did not prove who it is; nothing was sent",
            Self::Late => "the destination did not answer in time; ask it what became of the request",
            Self::Broken => "the destination's answer broke off; ask it what became of the request",
            Self::TooLarge => "the destination's answer is larger than the settings allow",
            Self::Encoded => {
                "the destination's answer is encoded and cannot be looked through for card numbers"
            }
        })
    }
}

impl Forwarder {
    /// Reads the destinations' files. Every fault at once.
    pub fn open(settings: &BTreeMap<DestinationName, DestinationSettings>) -> Result<Self, Vec<Problem>> {
        let (mut all, mut faults) = (BTreeMap::new(), Vec::new());
        for (name, settings) in settings {
            match Destination::open(settings) {
                Ok(destination) => drop(all.insert(name.clone(), destination)),
                Err(problem) => {
                    faults.push(Problem { key: format!("forward.{name}.{}", problem.key), ..problem });
                }
            }
        }
        if faults.is_empty() { Ok(Self(all)) } else { Err(faults) }
    }

    /// Whether there is any destination at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.0.is_empty()
    }

    /// The destination of that name, if the settings open it to this merchant's channel.
    #[must_use]
    pub fn find(
        &self,
        name: &DestinationName,
        merchant: &MerchantName,
        channel: &ChannelName,
    ) -> Option<&Destination> {
        self.0.get(name).filter(|d| {
            let DestinationSettings { merchants, channels, .. } = &d.settings;
            merchants.contains(merchant) && (channels.is_empty() || channels.contains(channel))
        })
    }
}

impl Destination {
    fn open(settings: &DestinationSettings) -> Result<Self, Problem> {
        let wrong = |key: &str, problem: &str, remedy: &str| Problem::new(key, problem, remedy);
        let (host, port, authority) = place(&settings.url)?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| wrong("url", "names no host", "write https://host:port"))?;
        if settings.merchants.is_empty() {
            return Err(wrong("merchants", "is empty", "name the merchants whose cards may be sent there"));
        }
        let rooted = |path: &String| path.starts_with('/');
        if settings.paths.is_empty() || !settings.paths.iter().all(rooted) {
            return Err(wrong("paths", "must be beginnings of paths", "such as [\"/v1/\"]; [\"/\"] for all"));
        }
        let in_range = (1..=300_000).contains(&settings.answer_ms)
            && (1..=60_000).contains(&settings.connect_ms)
            && (1..=1_024).contains(&settings.at_once)
            && (1_024..=1_048_576).contains(&settings.request_bytes)
            && (1_024..=4_194_304).contains(&settings.answer_bytes);
        if !in_range {
            return Err(wrong(
                "limits",
                "are out of range",
                "connect_ms to 60,000, answer_ms to 300,000, at_once to 1,024, request_bytes to 1 MiB, answer_bytes to 4 MiB",
            ));
        }
        let header = |name: &String| {
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| wrong("answer_headers", "holds what is no header's name", "name headers"))
        };
        let places = usize::try_from(settings.at_once).unwrap_or(1);
        Ok(Self {
            answer_headers: settings.answer_headers.iter().map(header).collect::<Result<_, _>>()?,
            tls: TlsConnector::from(Arc::new(tls_config(settings)?)),
            settings: settings.clone(),
            places: Arc::new(Semaphore::new(places)),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authority,
            name,
        })
    }

    /// Whether a request may go there at all: its path and its size.
    #[must_use]
    pub fn takes(&self, template: &Template) -> bool {
        let DestinationSettings { paths, request_bytes, .. } = &self.settings;
        let fits = u32::try_from(template.length()).is_ok_and(|n| n <= *request_bytes);
        fits && paths.iter().any(|allowed| begins_with(&template.path, allowed))
    }

    /// A place among the requests that are sent there at once; none if all are taken.
    #[must_use]
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// Sends a request there, once.
    pub async fn send(&self, template: &Template, filled: Filled) -> Result<Answer, Undelivered> {
        let stream = self.connect().await?;
        let exchange = self.exchange(stream, template, filled);
        tokio::time::timeout(ms(self.settings.answer_ms), exchange).await.map_err(|_| Undelivered::Late)?
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Undelivered> {
        let by = tokio::time::Instant::now() + ms(self.settings.connect_ms);
        let tcp = timeout_at(by, TcpStream::connect((self.host.as_str(), self.port))).await;
        let tcp = tcp.map_err(|_| Undelivered::Unreachable)?.map_err(|_| Undelivered::Unreachable)?;
        tcp.set_nodelay(true).map_err(|_| Undelivered::Unreachable)?;
        let tls = timeout_at(by, self.tls.connect(self.name.clone(), tcp)).await;
        tls.map_err(|_| Undelivered::Tls)?.map_err(|_| Undelivered::Tls)
    }

    async fn exchange(
        &self,
        stream: tokio_rustls::client::TlsStream<TcpStream>,
        template: &Template,
        filled: Filled,
    ) -> Result<Answer, Undelivered> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD).max_headers(MAX_ANSWER_HEADERS);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|_| Undelivered::Broken)?;
        let Filled { headers, body } = filled;
        let mut request = Request::builder().method(template.method.clone()).uri(&template.path);
        request = request.header(HOST, &self.authority);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Whole::of(body)).map_err(|_| Undelivered::Broken)?;
        // The connection lives in this task: when the request is given up, so is it.
        let answered = async {
            let answer = sender.send_request(request).await.map_err(|_| Undelivered::Broken)?;
            self.read(answer).await
        };
        let (connection, answered) = (std::pin::pin!(connection), std::pin::pin!(answered));
        drive(connection, answered).await
    }

    async fn read(&self, answer: http::Response<Incoming>) -> Result<Answer, Undelivered> {
        let encoded = answer.headers().get_all(CONTENT_ENCODING).iter();
        if encoded.into_iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Undelivered::Encoded);
        }
        let status = answer.status().as_u16();
        let let_through = |name: &&HeaderName| self.answer_headers.contains(name);
        let headers = answer.headers();
        let headers = headers.keys().filter(let_through).flat_map(|name| {
            headers.get_all(name).iter().map(|value| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        });
        let headers = headers.collect();
        let most = usize::try_from(self.settings.answer_bytes).unwrap_or(usize::MAX);
        let mut body = Zeroizing::new(Vec::with_capacity(most)); // never outgrown: it may hold a card number
        let mut incoming = answer.into_body();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
            let Ok(data) = frame.map_err(|_| Undelivered::Broken)?.into_data() else { continue };
            if body.len() + data.len() > most {
                return Err(Undelivered::TooLarge);
            }
            body.extend_from_slice(&data);
        }
        Ok(Answer { status, headers, body })
    }
}

/// Waits for an answer, and moves its connection on meanwhile.
async fn drive<T>(
    mut connection: Pin<&mut impl Future<Output = hyper::Result<()>>>,
    mut answered: Pin<&mut impl Future<Output = T>>,
) -> T {
    let mut open = true;
    poll_fn(|cx| {
        // Before and after: what the one does lets the other go on.
        for _ in 0..2 {
            if open && connection.as_mut().poll(cx).is_ready() {
                open = false;
            }
            if let Poll::Ready(told) = answered.as_mut().poll(cx) {
                return Poll::Ready(told);
            }
        }
        Poll::Pending
    })
    .await
}

fn ms(n: u32) -> Duration {
    Duration::from_millis(n.into())
}

/// Host, port and the `host` header of `https://host:port`.
fn place(url: &str) -> Result<(String, u16, String), Problem> {
    let wrong = || {
        Problem::new("url", "is no https://host:port", "leave user, path and query out, and do not use http")
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let bare = uri.path_and_query().is_none_or(|p| p.as_str() == "/") && !url.contains(['@', '?', '#']);
    let (Some("https"), Some(authority), true) = (uri.scheme_str(), uri.authority(), bare) else {
        return Err(wrong());
    };
    // What stands behind a colon and is no port is none at all.
    let port = match (authority.port(), authority.as_str().ends_with(authority.host())) {
        (Some(_), _) => authority.port_u16().unwrap_or(0),
        (None, true) => 443,
        (None, false) => 0,
    };
    if port == 0 || authority.host().is_empty() {
        return Err(wrong());
    }
    Ok((authority.host().to_owned(), port, authority.as_str().to_owned()))
}

fn tls_config(settings: &DestinationSettings) -> Result<ClientConfig, Problem> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", &settings.ca)? {
        let bad = |_| Problem::new("ca", "holds a certificate that cannot be an authority", "name a CA file");
        roots.add(certificate).map_err(bad)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|_| Problem::new("ca", "cannot be used", "name a CA file"))?
        .with_root_certificates(roots);
    let mut config = match (&settings.certificate, &settings.key) {
        (None, None) => config.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            check_private("key", key)?;
            let pem = read_small(key, MAX_PEM).map_err(|p| Problem::new("key", &p, "name a PEM file"))?;
            let key = PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|_| Problem::new("key", "holds no private key", "name a PEM file"))?;
            config.with_client_auth_cert(certificates("certificate", certificate)?, key).map_err(|_| {
                Problem::new(
                    "certificate",
                    "and key do not go together",
                    "name a certificate and its own key",
                )
            })?
        }
        _ => return Err(Problem::new("certificate", "and key go together", "set both or neither")),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each connection proves anew who is there.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let pem = read_small(path, MAX_PEM).map_err(|p| Problem::new(key, &p, "name a PEM file"))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(Problem::new(key, "holds no certificate", "name a PEM file")),
    }
}

/// A body that is there as a whole, in memory that is wiped when hyper has written it.
struct Whole(Option<Bytes>);

/// A wiped buffer, as [`Bytes`] takes one.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Whole {
    fn of(body: Zeroizing<Vec<u8>>) -> Self {
        Self(Some(Bytes::from_owner(Wiped(body))))
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |b| u64::try_from(b.len()).unwrap_or(u64::MAX)))
    }
}

/// Whether a path is this one or goes on from it: `/v1/pay` lets `/v1/pay/7` and `/v1/pay?x` in, and not `/v1/payouts`.
fn begins_with(path: &str, allowed: &str) -> bool {
    path.strip_prefix(allowed)
        .is_some_and(|rest| allowed.ends_with('/') || rest.is_empty() || rest.starts_with(['/', '?']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_begins_with_whole_segments() {
        for (path, allowed, lets) in [
            ("/v1/pay", "/v1/pay", true),
            ("/v1/pay/7", "/v1/pay", true),
            ("/v1/pay?dry=1", "/v1/pay", true),
            ("/v1/payouts", "/v1/pay", false),
            ("/v1/pay-all?x=/v1/pay", "/v1/pay", false),
            ("/v1/payouts", "/v1/", true),
            ("/v1", "/v1/", false),
            ("/anything", "/", true),
        ] {
            assert_eq!(begins_with(path, allowed), lets, "{path} {allowed}");
        }
    }

    #[test]
    fn a_destination_is_a_host_and_a_port_over_https_and_nothing_else() {
        for (url, host, port) in [
            ("https://psp.example", "psp.example", 443),
            ("https://psp.example:8443/", "psp.example", 8443),
            ("https://192.0.2.1:1", "192.0.2.1", 1),
            ("https://[::1]:443", "[::1]", 443),
        ] {
            let (h, p, _) = place(url).unwrap();
            assert_eq!((h.as_str(), p), (host, port), "{url}");
        }
        for url in [
            "",
            "psp.example",
            "http://psp.example",
            "ftp://psp.example",
            "https://",
            "https://psp.example/v1",
            "https://user@psp.example",
            "https://psp.example?x",
            "https://psp.example:0",
            "https://psp.example:99999",
            "https://psp.example/#x",
        ] {
            assert!(place(url).is_err(), "{url}");
        }
    }
}
