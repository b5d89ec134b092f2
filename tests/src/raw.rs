//! A gRPC client without manners: every header, every byte of every message is the test's own, and everything that
//! comes back is kept as it came.
//!
//! For what `vault-client` refuses to send and what it does not show.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use prost::bytes::Bytes;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::server::Rig;

/// For how long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// One HTTP/2 connection over mutual TLS. Dropped, it is closed.
pub struct Raw {
    send: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

/// What came back.
#[derive(Default)]
pub struct Told {
    /// The gRPC status code, if there was one.
    pub code: Option<i32>,
    /// Header fields and trailers as text lines, and the body's bytes.
    pub heard: Vec<u8>,
    /// The messages of the body, without their prefixes.
    pub messages: Vec<Vec<u8>>,
}

impl Told {
    /// The only message, if the call went well.
    pub fn answer<A: Message + Default>(&self) -> Option<A> {
        let [message] = self.messages.as_slice() else { return None };
        (self.code == Some(0)).then(|| A::decode(message.as_slice()).unwrap())
    }

    fn hear(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            self.heard.extend_from_slice(name.as_str().as_bytes());
            self.heard.extend_from_slice(b": ");
            self.heard.extend_from_slice(value.as_bytes());
            self.heard.push(b'\n');
            if name == "grpc-status" {
                self.code = value.to_str().ok().and_then(|v| v.parse().ok());
            }
        }
    }
}

/// A request to be sent as it is.
#[derive(Default)]
pub struct Ask {
    /// The path, such as `/vault.v1.Vault/Tokenize`.
    pub path: String,
    /// Header fields besides those that gRPC asks for.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, frame by frame.
    pub body: Vec<Vec<u8>>,
    /// Cancelled after the last frame instead of ended.
    pub cancel: bool,
}

impl Ask {
    /// A well-formed call of one message.
    pub fn of(path: &str, message: &impl Message) -> Self {
        Self::raw(path, framed(&message.encode_to_vec()))
    }

    /// A call whose body is these bytes.
    pub fn raw(path: &str, body: Vec<u8>) -> Self {
        Self { path: path.to_owned(), body: vec![body], ..Self::default() }
    }

    /// With a header field more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }
}

/// A message with gRPC's prefix: not compressed, its length.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], length.to_be_bytes().as_slice(), message].concat()
}

/// TLS 1.3 with this certificate and key, PEM.
pub fn tls(rig: &Rig, certificate: &str, key: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(rig.servers.pem().as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(tls)
}

/// TLS with a principal's or an operator's certificate of the rig.
pub fn tls_of(rig: &Rig, name: &str) -> Arc<ClientConfig> {
    let read = |kind: &str| fs::read_to_string(rig.file(&format!("{name}.{kind}"))).unwrap();
    tls(rig, &read("pem"), &read("key"))
}

/// A TLS connection with nothing said on it yet.
pub async fn dial(at: SocketAddr, tls: Arc<ClientConfig>, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(at).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(tls).connect(ServerName::try_from(name.to_owned()).unwrap(), tcp).await
}

impl Raw {
    /// Connects.
    pub async fn open(at: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        let stream = dial(at, tls, "localhost").await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.max_header_list_size(1 << 20).initial_window_size(1 << 24).initial_connection_window_size(1 << 24);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        let driver = tokio::spawn(async move {
            // How it ends is what a test brought about.
            let _ended = connection.await;
        });
        Self { send, driver }
    }

    /// Connects as a principal to the data plane.
    pub async fn principal(rig: &Rig, name: &str) -> Self {
        Self::open(rig.data(), tls_of(rig, name)).await
    }

    /// Connects as the operator.
    pub async fn operator(rig: &Rig) -> Self {
        Self::open(rig.admin(), tls_of(rig, "olga")).await
    }

    /// Sends a request and takes in all that comes back. A connection that is lost is an answer without a code.
    pub async fn ask(&self, ask: Ask) -> Told {
        let mut told = Told::default();
        let done = tokio::time::timeout(PATIENCE, self.converse(ask, &mut told)).await;
        let ended = done.expect("an answer within a minute");
        if let Err(e) = ended {
            told.heard.extend_from_slice(format!("{e}").as_bytes());
        }
        told
    }

    async fn converse(&self, ask: Ask, told: &mut Told) -> Result<(), h2::Error> {
        let mut request = Request::post(format!("https://localhost{}", ask.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        for (name, value) in &ask.headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.as_slice().try_into().unwrap());
        }
        let mut send = self.send.clone().ready().await?;
        let (answer, mut body) = send.send_request(request, ask.body.is_empty() && !ask.cancel)?;
        let last = ask.body.len();
        for (at, frame) in ask.body.into_iter().enumerate() {
            let end = at + 1 == last && !ask.cancel;
            // The peer may have answered and reset: then its answer says why.
            if send_all(&mut body, frame.into(), end).await.is_err() {
                break;
            }
        }
        if ask.cancel {
            tokio::time::sleep(Duration::from_millis(2)).await;
            body.send_reset(h2::Reason::CANCEL);
            return Ok(());
        }
        let (head, mut answer) = answer.await?.into_parts();
        told.heard.extend_from_slice(format!("{:?}\n", head.status).as_bytes());
        told.hear(&head.headers);
        let mut bytes = Vec::new();
        while let Some(data) = answer.data().await {
            let data = data?;
            answer.flow_control().release_capacity(data.len())?;
            bytes.extend_from_slice(&data);
        }
        told.heard.extend_from_slice(&bytes);
        let mut rest = bytes.as_slice();
        while let Some((prefix, more)) = rest.split_at_checked(5) {
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
            let Some((message, after)) = more.split_at_checked(length) else { break };
            told.messages.push(message.to_vec());
            rest = after;
        }
        if let Some(trailers) = answer.trailers().await? {
            told.hear(&trailers);
        }
        Ok(())
    }

    /// Closes the connection and waits until it is closed.
    pub async fn close(self) {
        drop(self.send);
        let mut driver = self.driver;
        if tokio::time::timeout(Duration::from_secs(5), &mut driver).await.is_err() {
            driver.abort();
        }
    }
}

async fn send_all(body: &mut h2::SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        body.reserve_capacity(bytes.len());
        let Some(room) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else { break };
        let now = bytes.split_to(room?.min(bytes.len()));
        let last = bytes.is_empty();
        body.send_data(now, end && last)?;
        if last {
            return Ok(());
        }
    }
    body.send_data(Bytes::new(), end)
}

/// Says these bytes to a port over plain TCP and hears what comes back until it is closed, or for a second.
pub async fn shout(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    use tokio::io::AsyncReadExt as _;
    let mut tcp = TcpStream::connect(at).await.unwrap();
    // A peer that hangs up is an answer too.
    let _sent = tcp.write_all(bytes).await;
    let mut heard = Vec::new();
    let _ended = tokio::time::timeout(Duration::from_secs(1), tcp.read_to_end(&mut heard)).await;
    heard
}
