//! A gRPC client with nothing between the test and the wire, for what no good client would send: another TLS version,
//! no certificate, bytes that are no message, requests that are cancelled, answers that are not read.
//!
//! It tries nothing again and hides nothing: a status is given as it came, details and all, and a connection that was
//! cut is told apart from a status.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use h2::client::SendRequest;
use http::{HeaderMap, Request};
use hyper::body::Bytes;
use prost::Message;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::{Code, Status};
use vault_proto::v1;
use vault_tests::server::{Leaf, Rig};

/// How long the tests wait for anything that must come: long for a busy machine, and far below any test's patience.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// TLS 1.3, as the vault wants it.
pub(crate) const NEW_TLS: &SupportedProtocolVersion = &rustls::version::TLS13;

/// A certificate and its key, PEM.
pub(crate) type Papers = (String, String);

/// The connection ended, or there was none, before a status came.
#[derive(Debug)]
pub(crate) struct Cut(pub(crate) String);

/// One HTTP/2 connection.
pub(crate) struct Raw {
    /// Opens streams.
    pub(crate) send: SendRequest<Bytes>,
    /// Ends when the connection does.
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

/// A principal's certificate and key, as the rig made them.
pub(crate) fn papers(rig: &Rig, name: &str) -> Papers {
    let read = |kind: &str| fs::read_to_string(rig.file(&format!("{name}.{kind}"))).unwrap();
    (read("pem"), read("key"))
}

/// Issues a certificate for one more principal of the policy, and leaves it where the rig's own are.
pub(crate) fn introduce(rig: &Rig, name: &str) {
    let (certificate, key, _) = rig.clients.issue(&format!("spiffe://rig/{name}"), Leaf::Good);
    put(rig, &format!("{name}.pem"), &certificate);
    put(rig, &format!("{name}.key"), &key);
}

/// Writes a file of the rig, whole or not at all, as an operator's tool would.
pub(crate) fn put(rig: &Rig, name: &str, text: &str) {
    let (new, path) = (rig.file(&format!("{name}.new")), rig.file(name));
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

/// What a client offers: one TLS version, and a certificate or none.
pub(crate) fn config(
    rig: &Rig,
    version: &'static SupportedProtocolVersion,
    papers: Option<&Papers>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(rig.file("servers.pem")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match papers {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// TCP and TLS. In TLS 1.3 this succeeds before the server has judged the client's certificate.
pub(crate) async fn dial(address: SocketAddr, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket).await
}

/// One message as gRPC frames it: not compressed, its length, its bytes.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], length.to_be_bytes().as_slice(), message].concat()
}

fn cut(error: impl std::fmt::Display) -> Cut {
    Cut(error.to_string())
}

impl Raw {
    /// Connects to the data plane as a principal.
    pub(crate) async fn connect(rig: &Rig, principal: &str) -> Self {
        let config = config(rig, NEW_TLS, Some(&papers(rig, principal)));
        Self::over(dial(rig.data(), config).await.unwrap()).await.unwrap()
    }

    /// Speaks HTTP/2 over this connection.
    pub(crate) async fn over(stream: TlsStream<TcpStream>) -> Result<Self, h2::Error> {
        let (send, connection) = h2::client::handshake(stream).await?;
        Ok(Self { send, connection: tokio::spawn(connection) })
    }

    /// The headers of a call of `path`, such as `/vault.v1.Vault/Tokenize`.
    pub(crate) fn head(path: &str) -> Request<()> {
        Request::post(format!("https://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap()
    }

    /// Asks with these headers and these bytes, framed or not; gives the answer's bytes and its status.
    pub(crate) async fn ask(&self, head: Request<()>, body: Vec<u8>) -> Result<(Vec<u8>, Status), Cut> {
        let asked = async {
            let mut send = self.send.clone().ready().await.map_err(cut)?;
            let (response, mut stream) = send.send_request(head, false).map_err(cut)?;
            // A server may answer before it has heard all: then there is nobody to send the rest to, and an answer.
            let _heard = stream.send_data(body.into(), true);
            Self::answer(response).await
        };
        tokio::time::timeout(SOON, asked).await.map_err(cut)?
    }

    /// Reads an answer to its end.
    pub(crate) async fn answer(response: h2::client::ResponseFuture) -> Result<(Vec<u8>, Status), Cut> {
        let (head, mut body) = response.await.map_err(cut)?.into_parts();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(cut)?;
            body.flow_control().release_capacity(chunk.len()).map_err(cut)?;
            bytes.extend_from_slice(&chunk);
        }
        let trailers: HeaderMap = body.trailers().await.map_err(cut)?.unwrap_or_default();
        let status = Status::from_header_map(&head.headers).or_else(|| Status::from_header_map(&trailers));
        Ok((
            bytes,
            status.unwrap_or_else(|| Status::unknown(format!("HTTP {} without a status", head.status))),
        ))
    }

    /// One call with one message, answered by one message or a status.
    pub(crate) async fn call<A: Message + Default>(
        &self,
        path: &str,
        request: &impl Message,
    ) -> Result<A, Status> {
        let asked = self.ask(Self::head(path), framed(&request.encode_to_vec())).await;
        let (bytes, status) =
            asked.unwrap_or_else(|Cut(why)| panic!("{path}: the connection was cut: {why}"));
        if status.code() != Code::Ok {
            return Err(status);
        }
        Ok(A::decode(&bytes[5..]).unwrap())
    }

    /// A call of `vault.v1.Vault`.
    pub(crate) async fn vault<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Status> {
        self.call(&format!("/vault.v1.Vault/{method}"), request).await
    }
}

/// Whether a client that offers this is served: its answer, or how it was sent away.
pub(crate) async fn served(
    address: SocketAddr,
    config: ClientConfig,
) -> Result<v1::GetCapabilitiesResponse, Cut> {
    let stream = dial(address, config).await.map_err(cut)?;
    let client = Raw::over(stream).await.map_err(cut)?;
    let request = framed(&v1::GetCapabilitiesRequest {}.encode_to_vec());
    let (bytes, status) = client.ask(Raw::head("/vault.v1.Vault/GetCapabilities"), request).await?;
    match status.code() {
        Code::Ok => Ok(v1::GetCapabilitiesResponse::decode(&bytes[5..]).unwrap()),
        other => Err(Cut(format!("{other:?}: {}", status.message()))),
    }
}

/// Where the server's page for Prometheus and balancers listens, as its log tells it; of one that was started anew, the newest.
pub(crate) fn page(rig: &Rig) -> SocketAddr {
    rig.log()
        .iter()
        .rev()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["door"] == "metrics")
        .find_map(|line| line["address"].as_str()?.parse().ok())
        .expect("the server says where its page is")
}

/// The body of `GET path` on that page.
pub(crate) async fn get(rig: &Rig, path: &str) -> String {
    answer(rig, path).await.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// The same with its status line and headers.
pub(crate) async fn answer(rig: &Rig, path: &str) -> String {
    let began = std::time::Instant::now();
    let mut socket = loop {
        // A server that was started anew says last where its page is.
        match TcpStream::connect(page(rig)).await {
            Ok(socket) => break socket,
            Err(e) => assert!(began.elapsed() < SOON, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

/// What `/healthz` says.
pub(crate) async fn health(rig: &Rig) -> serde_json::Value {
    serde_json::from_str(&get(rig, "/healthz").await).unwrap()
}

/// Waits until something holds, and fails by name if it does not.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let patience = tokio::time::Instant::now() + SOON;
    while !holds().await {
        assert!(tokio::time::Instant::now() < patience, "{what}: did not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
