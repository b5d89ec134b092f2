//! What the edge does for every request before and after the service sees it.
//!
//! Before: the certificate is checked again, a place in the queue is taken, the deadline is set. After: the answer is
//! watched until its last byte has been taken by the peer. A request that fails one of these is answered here and never
//! reaches the service. The service finds `Arc<PeerCertificate>`, [`Deadline`] and [`RemoteAddress`] in the request's
//! extensions.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, Sleep};
use tonic::{Code, Status};
use tower::Service;
use vault_core::time::Timestamp;

use crate::identity::PeerCertificate;
use crate::limits::{CANCEL_WINDOW, ms};
use crate::listener::Edge;
use crate::metrics::{Turned, TurnedRequest, Up};
use crate::tls::Refused;

/// The header by which a gRPC caller says how long it will wait.
const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Digits of a gRPC timeout (its PROTOCOL-HTTP2 document, `TimeoutValue`).
const TIMEOUT_DIGITS: usize = 8;

/// The header by which a caller says how its messages are compressed.
const GRPC_ENCODING: &str = "grpc-encoding";
/// What it may say (gRPC's compression document). The vault takes `identity` and refuses the others by name; any other
/// text might be a card number in the wrong place, which an error must not repeat.
const ENCODINGS: [&str; 5] = ["identity", "gzip", "deflate", "snappy", "zstd"];

/// When the answer is of no more use, by the vault's clock: the caller's own deadline or the server's, the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Timestamp);

/// Where the connection comes from. A load balancer's address if there is one in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAddress(pub SocketAddr);

/// Why a request was answered at the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnedAway {
    /// The certificate is no longer good.
    Certificate(Refused),
    /// As many requests as `limits.queue` are being worked on.
    Overloaded,
    /// The deadline passed before the answer began. What became of the request is unknown here.
    DeadlineExceeded,
    /// `grpc-timeout` cannot be read.
    BadTimeout,
    /// The content is not said to be gRPC: so a web page cannot make a browser that holds a certificate ask for it.
    NotGrpc,
}

impl TurnedAway {
    fn counted_as(self) -> TurnedRequest {
        match self {
            Self::Certificate(_) => TurnedRequest::Certificate,
            Self::Overloaded => TurnedRequest::Overloaded,
            Self::DeadlineExceeded => TurnedRequest::Deadline,
            Self::BadTimeout | Self::NotGrpc => TurnedRequest::Malformed,
        }
    }

    /// The answer in plain gRPC, without details. The service may give [`Edge`] a richer one.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Certificate(why) => Status::unauthenticated(why.to_string()),
            Self::Overloaded => Status::unavailable("the vault is overloaded; try again"),
            Self::DeadlineExceeded => {
                Status::deadline_exceeded("the deadline passed; ask again with the same request_id")
            }
            Self::BadTimeout => {
                Status::invalid_argument("grpc-timeout must be 1 to 8 digits and one of H M S m u n")
            }
            Self::NotGrpc => Status::invalid_argument("must be a POST with content-type application/grpc"),
        }
    }
}

impl fmt::Display for TurnedAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.status().message())
    }
}

/// One connection as its requests know it.
pub(crate) struct Connection {
    pub(crate) edge: Arc<Edge>,
    pub(crate) peer: Arc<PeerCertificate>,
    pub(crate) address: SocketAddr,
    requests: Mutex<Requests>,
    /// Tells the connection to take no more requests.
    pub(crate) leave: Notify,
    /// Tells the connection to end at once, and why.
    cut: Notify,
}

struct Requests {
    next: u64,
    /// By number: since when the answer has been waiting for the peer. `None`: the peer is waiting for the answer.
    open: BTreeMap<u64, Option<Instant>>,
    idle_since: Instant,
    window_began: Instant,
    cancelled: u32,
    cut: Option<Turned>,
}

impl Connection {
    pub(crate) fn new(edge: Arc<Edge>, peer: PeerCertificate, address: SocketAddr) -> Arc<Self> {
        let now = Instant::now();
        let requests = Requests {
            next: 0,
            open: BTreeMap::new(),
            idle_since: now,
            window_began: now,
            cancelled: 0,
            cut: None,
        };
        Arc::new(Self {
            edge,
            peer: Arc::new(peer),
            address,
            requests: Mutex::new(requests),
            leave: Notify::new(),
            cut: Notify::new(),
        })
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when nothing has been asked. `None`: something is under way.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        let requests = self.requests();
        requests.open.is_empty().then(|| requests.idle_since.elapsed())
    }

    /// Whether an answer has been waiting for the peer for too long.
    pub(crate) fn reads_too_slowly(&self) -> bool {
        let most = ms(self.edge.limits.slow_reader_ms);
        self.requests().open.values().flatten().any(|since| since.elapsed() > most)
    }

    /// Ends when the connection must be cut at once.
    pub(crate) async fn must_be_cut(&self) -> Turned {
        loop {
            self.cut.notified().await;
            if let Some(why) = self.requests().cut {
                return why;
            }
        }
    }

    fn begin(self: &Arc<Self>, method: &'static str) -> Mark {
        let mut requests = self.requests();
        let number = requests.next;
        requests.next += 1;
        requests.open.insert(number, None);
        drop(requests);
        let in_queue = Up::new(self.edge.metrics.queue_depth.clone());
        Mark {
            connection: Arc::clone(self),
            number,
            method,
            began: Instant::now(),
            seconds: None,
            code: None,
            in_queue: Some(in_queue),
        }
    }

    /// A request is over. One that the peer cancelled counts towards a rapid reset.
    fn end(&self, number: u64, cancelled: bool) {
        let mut requests = self.requests();
        let now = Instant::now();
        requests.open.remove(&number);
        requests.idle_since = now;
        if !cancelled {
            return;
        }
        if now.duration_since(requests.window_began) > CANCEL_WINDOW {
            requests.window_began = now;
            requests.cancelled = 0;
        }
        requests.cancelled = requests.cancelled.saturating_add(1);
        if requests.cancelled > self.edge.limits.cancels && requests.cut.is_none() {
            requests.cut = Some(Turned::RapidReset);
            self.cut.notify_one();
        }
    }

    fn waits_for_peer(&self, number: u64, since: Option<Instant>) {
        if let Some(open) = self.requests().open.get_mut(&number) {
            *open = since;
        }
    }
}

/// One request from its headers to the end of its answer. Dropped without a code, it was cancelled.
struct Mark {
    connection: Arc<Connection>,
    number: u64,
    method: &'static str,
    began: Instant,
    seconds: Option<f64>,
    code: Option<Code>,
    in_queue: Option<Up>,
}

impl Mark {
    /// The answer begins.
    fn head(&mut self) {
        self.seconds = Some(self.began.elapsed().as_secs_f64());
        self.in_queue = None;
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.connection.end(self.number, self.code.is_none());
        let seconds = self.seconds.unwrap_or_else(|| self.began.elapsed().as_secs_f64());
        self.connection.edge.metrics.answered(self.method, self.code.unwrap_or(Code::Cancelled), seconds);
    }
}

/// Answers one request: here, or by the service.
pub(crate) fn answer<S>(
    connection: &Arc<Connection>,
    service: &S,
    request: Request<tonic::body::Body>,
) -> impl Future<Output = Response<Reply>> + Send + use<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    // Counted before the future is first polled: a request that is reset at once is one that was cancelled.
    let mark = connection.begin(connection.edge.metrics.method(request.uri().path()));
    let service = service.clone();
    async move {
        match admit(&mark.connection, request) {
            Ok(admitted) => serve(mark, service, admitted).await,
            Err(why) => turn_away(mark, why),
        }
    }
}

struct Admitted {
    request: Request<tonic::body::Body>,
    /// How long until the answer must begin.
    head: Duration,
    /// How long until it must end.
    whole: Duration,
    place: OwnedSemaphorePermit,
}

fn admit(connection: &Connection, mut request: Request<tonic::body::Body>) -> Result<Admitted, TurnedAway> {
    let edge = &connection.edge;
    let now = edge.clock.now();
    edge.tls.current().still_good(&connection.peer, now).map_err(TurnedAway::Certificate)?;
    is_grpc(request.method(), request.headers())?;
    let asked = grpc_timeout(request.headers())?;
    if request.headers().get(GRPC_ENCODING).is_some_and(|e| !ENCODINGS.iter().any(|known| e == known)) {
        request.headers_mut().insert(GRPC_ENCODING, HeaderValue::from_static("unknown"));
    }
    let place = Arc::clone(&edge.queue).try_acquire_owned().map_err(|_| TurnedAway::Overloaded)?;
    let head = ms(edge.limits.deadline_ms);
    let head = asked.map_or(head, |asked| asked.min(head));
    let whole = ms(edge.limits.stream_ms);
    let whole = asked.map_or(whole, |asked| asked.min(whole));
    let deadline = now.plus_ms(u64::try_from(head.as_millis()).unwrap_or(u64::MAX));
    let extensions = request.extensions_mut();
    extensions.insert(Arc::clone(&connection.peer));
    extensions.insert(RemoteAddress(connection.address));
    extensions.insert(Deadline(deadline));
    Ok(Admitted { request, head, whole, place })
}

async fn serve<S>(mut mark: Mark, mut service: S, admitted: Admitted) -> Response<Reply>
where
    S: Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>>,
{
    let Admitted { request, head, whole, place } = admitted;
    let end = mark.began + whole;
    let answered = tokio::time::timeout(head, async {
        std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
        service.call(request).await
    });
    let response = match answered.await {
        Ok(Ok(response)) => response,
        // A service that fails instead of answering is a defect; its text stays inside.
        Ok(Err(_)) => Status::internal("internal error").into_http(),
        Err(_) => return turn_away(mark, TurnedAway::DeadlineExceeded),
    };
    mark.head();
    drop(place);
    Reply::wrap(response, mark, end)
}

fn turn_away(mut mark: Mark, why: TurnedAway) -> Response<Reply> {
    let connection = Arc::clone(&mark.connection);
    let edge = &connection.edge;
    edge.metrics.turned_request(edge.tls.door(), why.counted_as());
    if matches!(why, TurnedAway::Certificate(_)) {
        connection.leave.notify_one();
    }
    mark.head();
    let end = Instant::now() + ms(edge.limits.deadline_ms);
    Reply::wrap((edge.status_of)(why, &connection.peer).into_http(), mark, end)
}

/// gRPC's PROTOCOL-HTTP2: a POST of "application/grpc", then perhaps "+proto" and the like. A browser sends no such content to
/// another site unless that site agreed before, and this one never does.
fn is_grpc(method: &http::Method, headers: &HeaderMap) -> Result<(), TurnedAway> {
    let content =
        headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match content.strip_prefix("application/grpc") {
        Some(rest) if method == http::Method::POST && (rest.is_empty() || rest.starts_with(['+', ';'])) => {
            Ok(())
        }
        Some(_) | None => Err(TurnedAway::NotGrpc),
    }
}

/// Reads `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, TurnedAway> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let text = value.to_str().map_err(|_| TurnedAway::BadTimeout)?;
    let unit = text.chars().next_back().ok_or(TurnedAway::BadTimeout)?;
    let digits = text.strip_suffix(unit).unwrap_or_default();
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TurnedAway::BadTimeout);
    }
    let number: u64 = digits.parse().map_err(|_| TurnedAway::BadTimeout)?;
    Ok(Some(match unit {
        'H' => Duration::from_secs(3_600 * number),
        'M' => Duration::from_secs(60 * number),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return Err(TurnedAway::BadTimeout),
    }))
}

/// An answer on its way out: ends at its deadline, and tells when it has to wait for the peer.
pub(crate) struct Reply {
    inner: tonic::body::Body,
    mark: Option<Mark>,
    end: Pin<Box<Sleep>>,
}

impl Reply {
    fn wrap(response: Response<tonic::body::Body>, mut mark: Mark, end: Instant) -> Response<Self> {
        let (head, inner) = response.into_parts();
        // A status among the headers is a whole answer: gRPC's "Trailers-Only".
        if inner.is_end_stream() {
            mark.code =
                Some(Status::from_header_map(&head.headers).map_or(Code::Unknown, |status| status.code()));
        }
        let mark = if mark.code.is_some() {
            None
        } else {
            mark.connection.waits_for_peer(mark.number, Some(Instant::now()));
            Some(mark)
        };
        let end = Box::pin(tokio::time::sleep_until(end));
        Response::from_parts(head, Self { inner, mark, end })
    }

    fn over(&mut self, code: Code) {
        if let Some(mut mark) = self.mark.take() {
            mark.code = Some(code);
        }
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.mark.is_some() && this.end.as_mut().poll(cx).is_ready() {
            this.over(Code::DeadlineExceeded);
            let status = TurnedAway::DeadlineExceeded.status();
            this.inner = tonic::body::Body::empty();
            let mut trailers = HeaderMap::new();
            return Poll::Ready(match status.add_header(&mut trailers) {
                Ok(()) => Some(Ok(Frame::trailers(trailers))),
                Err(status) => Some(Err(status)),
            });
        }
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => match frame.trailers_ref() {
                Some(trailers) => {
                    this.over(
                        Status::from_header_map(trailers).map_or(Code::Unknown, |status| status.code()),
                    );
                }
                None => this.waits_for_peer(Some(Instant::now())),
            },
            Poll::Ready(Some(Err(status))) => this.over(status.code()),
            Poll::Ready(None) => this.over(Code::Unknown),
            Poll::Pending => this.waits_for_peer(None),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Reply {
    fn waits_for_peer(&self, since: Option<Instant>) {
        if let Some(mark) = &self.mark {
            mark.connection.waits_for_peer(mark.number, since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_that_a_browser_sends_unasked_is_no_grpc() {
        for (content, taken) in [
            (Some("application/grpc"), true),
            (Some("application/grpc+proto"), true),
            (Some("application/grpc;charset=utf-8"), true),
            (Some("application/grpc-web"), false),
            (Some("application/grpcx"), false),
            (Some("text/plain"), false),
            (Some("multipart/form-data"), false),
            (Some(""), false),
            (None, false),
        ] {
            let value = content.map(|text| (http::header::CONTENT_TYPE, text.parse().unwrap()));
            let headers = HeaderMap::from_iter(value);
            assert_eq!(is_grpc(&http::Method::POST, &headers).is_ok(), taken, "{content:?}");
            assert!(is_grpc(&http::Method::GET, &headers).is_err(), "{content:?}");
        }
    }

    #[test]
    fn a_timeout_is_read_as_grpc_writes_it() {
        for (text, expected) in [
            ("1H", Ok(3_600_000_000_000)),
            ("2M", Ok(120_000_000_000)),
            ("3S", Ok(3_000_000_000)),
            ("99999999m", Ok(99_999_999_000_000)),
            ("5u", Ok(5_000)),
            ("0n", Ok(0)),
            ("99999999H", Ok(359_999_996_400_000_000_000)),
            ("", Err(())),
            ("S", Err(())),
            ("1", Err(())),
            ("100000000S", Err(())),
            ("-1S", Err(())),
            ("1.5S", Err(())),
            ("1x", Err(())),
            ("1 S", Err(())),
        ] {
            let headers = HeaderMap::from_iter([(GRPC_TIMEOUT.parse().unwrap(), text.parse().unwrap())]);
            let read = grpc_timeout(&headers).map(|found| found.unwrap().as_nanos()).map_err(|_| ());
            assert_eq!(read, expected, "{text}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), Ok(None));
    }
}
