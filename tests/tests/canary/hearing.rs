//! Requests that are not well-mannered, and everything that comes back for them, kept as it came.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use hyper::body::Bytes;
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::raw::{Raw, framed};

/// For how long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long what was shouted may be answered.
const HEARING: Duration = Duration::from_secs(1);

/// A request to be sent as it is.
#[derive(Default)]
pub(super) struct Ask {
    /// The path, such as `/vault.v1.Vault/Tokenize`.
    pub(super) path: String,
    /// The body, frame by frame.
    pub(super) body: Vec<Vec<u8>>,
    /// Cancelled after the last frame instead of ended.
    pub(super) cancel: bool,
    /// Header fields besides those that gRPC asks for, or instead of them.
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

impl Ask {
    /// A well-formed call of one message.
    pub(super) fn of(path: &str, message: &impl Message) -> Self {
        Self::raw(path, framed(&message.encode_to_vec()))
    }

    /// A call whose body is these bytes.
    pub(super) fn raw(path: &str, body: Vec<u8>) -> Self {
        Self { path: path.to_owned(), body: vec![body], ..Self::default() }
    }

    /// With a header field more, or instead of the one of this name.
    pub(super) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }
}

/// What came back.
#[derive(Default)]
pub(super) struct Told {
    /// The gRPC status code, if there was one.
    pub(super) code: Option<i32>,
    /// Header fields and trailers as text lines, the body's bytes, and how the connection ended if it did.
    pub(super) heard: Vec<u8>,
    /// The messages of the body, without their prefixes.
    pub(super) messages: Vec<Vec<u8>>,
}

impl Told {
    /// The only message, if the call went well.
    pub(super) fn answer<A: Message + Default>(&self) -> Option<A> {
        let [message] = self.messages.as_slice() else { return None };
        (self.code == Some(0)).then(|| A::decode(message.as_slice()).unwrap())
    }

    fn hear(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat();
            self.heard.extend_from_slice(&line);
            if name == "grpc-status" {
                self.code = value.to_str().ok().and_then(|v| v.parse().ok());
            }
        }
    }
}

/// Sends a request and takes in all that comes back. A connection that is lost is an answer without a code.
pub(super) async fn ask(raw: &Raw, ask: Ask) -> Told {
    let mut told = Told::default();
    let conversed = tokio::time::timeout(PATIENCE, converse(raw, ask, &mut told)).await;
    if let Err(e) = conversed.expect("an answer within a minute") {
        told.heard.extend_from_slice(e.to_string().as_bytes());
    }
    told
}

async fn converse(raw: &Raw, ask: Ask, told: &mut Told) -> Result<(), h2::Error> {
    let mut request = Raw::head(&ask.path);
    for (name, value) in &ask.headers {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.as_slice().try_into().unwrap());
    }
    let (answer, mut body) = raw.send.clone().ready().await?.send_request(request, false)?;
    let last = ask.body.len().saturating_sub(1);
    for (at, frame) in ask.body.into_iter().enumerate() {
        // A peer that has refused already takes no more: its answer says why.
        if send(&mut body, frame.into(), at == last && !ask.cancel).await.is_err() {
            break;
        }
    }
    if ask.cancel {
        tokio::time::sleep(Duration::from_millis(2)).await;
        body.send_reset(h2::Reason::CANCEL);
        return Ok(());
    }
    let (head, mut answer) = answer.await?.into_parts();
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

async fn send(body: &mut h2::SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        body.reserve_capacity(bytes.len());
        let Some(room) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else { break };
        body.send_data(bytes.split_to(room?.min(bytes.len())), false)?;
    }
    if end { body.send_data(Bytes::new(), true) } else { Ok(()) }
}

/// Closes a connection in good order and waits until it is closed.
pub(super) async fn close(raw: Raw) {
    drop(raw.send);
    let mut connection = raw.connection;
    if tokio::time::timeout(Duration::from_secs(5), &mut connection).await.is_err() {
        connection.abort();
    }
}

/// Says these bytes to a port over plain TCP and hears what comes back until it is closed, or for a second.
pub(super) async fn shout(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(at).await.unwrap();
    // A peer that hangs up is an answer too.
    let _sent = tcp.write_all(bytes).await;
    let mut heard = Vec::new();
    let _ended = tokio::time::timeout(HEARING, tcp.read_to_end(&mut heard)).await;
    heard
}
