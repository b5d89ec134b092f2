//! Accepts connections and keeps each within its bounds.
//!
//! A connection is at the door until it has shown a good certificate, and inside from then on; the two are counted apart
//! (see [`crate::limits`]), so that strangers cannot take the places of clients. Cut off are: who is slow to say who he
//! is, who says nothing, who drips bytes, who opens and cancels requests over and over, who does not read his answers.
//!
//! HTTP/2 is served by hyper directly, one connection at a time, because tonic's own server has no bound on handshakes,
//! on connections per peer, or on cancelled requests.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tower::Service;
use vault_core::time::Clock;

use crate::identity::PeerCertificate;
use crate::limits::{
    CONNECTION_WINDOW, ERROR_RESETS, FRAME_BYTES, Gate, Handshaking, Inside, Limits, PENDING_RESETS,
    SEND_BUFFER, STREAM_WINDOW, ms,
};
use crate::metrics::{Metrics, Turned};
use crate::request::{Connection, TurnedAway, answer};
use crate::shutdown::Shutdown;
use crate::tls::{ALPN, Tls, why_handshake_failed};

/// Connections that the kernel may hold before they are accepted. It takes the smaller of this and `somaxconn`.
const BACKLOG: u32 = 4_096;
/// After a failed `accept` (no file descriptors left), until the next try: a busy loop would not free any.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The client's connection preface (RFC 9113 section 3.4) and the header of the SETTINGS frame that must follow it.
const PREFACE_BYTES: u64 = 24 + 9;
/// How often a connection is looked at, at least.
const LOOK: Duration = Duration::from_secs(5);

/// How a request that is turned away at the edge is answered.
pub type StatusOf = dyn Fn(TurnedAway, &PeerCertificate) -> Status + Send + Sync;

/// What a listener's connections share.
pub struct Edge {
    /// Its certificates.
    pub tls: Arc<Tls>,
    /// Its bounds.
    pub limits: Limits,
    /// The vault's clock.
    pub clock: Arc<dyn Clock>,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    pub(crate) status_of: Arc<StatusOf>,
    /// One place per request that is being worked on. Each listener has its own, so operators get in on a busy day.
    pub(crate) queue: Arc<Semaphore>,
    gate: Arc<Gate>,
}

impl Edge {
    /// `status_of` answers what is turned away here; [`TurnedAway::status`] is the plain way. It is called in a request's
    /// own task and may count or log, and must not block.
    #[must_use]
    pub fn new(
        tls: Arc<Tls>,
        limits: Limits,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        status_of: Arc<StatusOf>,
    ) -> Arc<Self> {
        let queue = Arc::new(Semaphore::new(usize::try_from(limits.queue).unwrap_or(Semaphore::MAX_PERMITS)));
        let gate = Gate::new(&limits);
        Arc::new(Self { tls, limits, clock, metrics, status_of, queue, gate })
    }

    fn turned(&self, why: Turned) {
        self.metrics.turned(self.tls.door(), why);
    }
}

/// How a listener ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had to be cut because their requests did not finish in time.
    pub cut: usize,
}

/// Opens a listening socket. Port 0 asks for any free one.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?; // a restarted server need not wait for old connections to be forgotten
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `service` (tonic's `Routes`, or any other) until `shutdown`: draining takes no new connections and requests and
/// waits for those under way, for at most `limits.drain_ms`; stopping waits for nothing.
///
/// Messages above `limits.message_bytes` are the service's own to refuse (`max_decoding_message_size`).
pub async fn serve<S>(listener: TcpListener, edge: Arc<Edge>, service: S, mut shutdown: Shutdown) -> Drained
where
    S: Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    S::Error: Send,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = shutdown.draining() => break,
        };
        let Ok((socket, address)) = accepted else {
            tracing::warn!(door = ?edge.tls.door(), "no connection can be accepted now; are the open files used up?");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        match edge.gate.knock(address.ip()) {
            Ok(place) => {
                let (edge, service, shutdown) = (Arc::clone(&edge), service.clone(), shutdown.clone());
                connections.spawn(async move {
                    if let Err(why) = attend(&edge, socket, address, place, service, shutdown).await {
                        edge.turned(why);
                    }
                });
            }
            Err(why) => edge.turned(why),
        }
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = finished => {}
        () = tokio::time::sleep(ms(edge.limits.drain_ms)) => {}
        () = shutdown.stopping() => {}
    }
    let cut = connections.len();
    connections.shutdown().await;
    Drained { cut }
}

/// One connection from its first byte to its last.
async fn attend<S>(
    edge: &Arc<Edge>,
    socket: TcpStream,
    address: SocketAddr,
    place: Handshaking,
    service: S,
    mut shutdown: Shutdown,
) -> Result<(), Turned>
where
    S: Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    S::Error: Send,
{
    // Small messages leave at once: a vault's answers are all small.
    socket.set_nodelay(true).map_err(|_| Turned::HungUp)?;
    let (stream, peer, _inside) = tokio::select! {
        admitted = admit(edge, socket, place) => admitted?,
        () = shutdown.draining() => return Ok(()),
    };
    let _open = edge.metrics.open(edge.tls.door());
    let connection = Connection::new(Arc::clone(edge), peer, address);
    let received = Arc::new(AtomicU64::new(0));
    let stream = Counted { inner: stream, received: Arc::clone(&received) };

    let asked = {
        let connection = Arc::clone(&connection);
        service_fn(move |request: Request<Incoming>| {
            let answered = answer(&connection, &service, request.map(tonic::body::Body::new));
            async move { Ok::<_, Infallible>(answered.await) }
        })
    };
    let mut http = std::pin::pin!(http2(&edge.limits).serve_connection(TokioIo::new(stream), asked));
    let mut look = tokio::time::interval(look_every(&edge.limits));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    let mut leaving = None;
    loop {
        let leave = tokio::select! {
            // How a peer ends its connection is its own matter.
            _ = http.as_mut() => return Ok(()),
            why = connection.must_be_cut() => return Err(why),
            _ = look.tick() => {
                look_at(&connection, began, received.load(Ordering::Relaxed))?;
                if leaving.is_some_and(|since: Instant| since.elapsed() > ms(edge.limits.drain_ms)) {
                    return Ok(());
                }
                connection.idle_for().is_some_and(|idle| idle > ms(edge.limits.idle_ms))
            }
            () = connection.leave.notified() => true,
            () = shutdown.draining(), if leaving.is_none() => true, // once is enough
        };
        if leave && leaving.is_none() {
            http.as_mut().graceful_shutdown();
            leaving = Some(Instant::now());
        }
    }
}

fn look_every(limits: &Limits) -> Duration {
    (ms(limits.preface_ms.min(limits.idle_ms).min(limits.slow_reader_ms)) / 2).min(LOOK)
}

fn look_at(connection: &Connection, began: Instant, received: u64) -> Result<(), Turned> {
    if received < PREFACE_BYTES && began.elapsed() > ms(connection.edge.limits.preface_ms) {
        return Err(Turned::Silent);
    }
    if connection.reads_too_slowly() { Err(Turned::SlowReader) } else { Ok(()) }
}

/// The handshake: from a socket to a peer with a name and a place inside.
async fn admit(
    edge: &Edge,
    socket: TcpStream,
    mut place: Handshaking,
) -> Result<(TlsStream<TcpStream>, PeerCertificate, Inside), Turned> {
    let state = edge.tls.current();
    let stream = tokio::select! {
        stream = tokio::time::timeout(ms(edge.limits.handshake_ms), TlsAcceptor::from(state.server_config()).accept(socket)) => {
            stream.map_err(|_| Turned::TooSlow)?.map_err(|error| why_handshake_failed(&error))?
        }
        () = place.evicted() => return Err(Turned::Evicted),
    };
    let (_, tls) = stream.get_ref();
    if tls.alpn_protocol() != Some(ALPN) {
        return Err(Turned::NotHttp2);
    }
    let chain = tls.peer_certificates().ok_or(Turned::NoCertificate)?;
    let peer = state.recognise(chain, edge.clock.now()).map_err(crate::tls::Refused::turned)?;
    Ok((stream, peer, place.enter()?))
}

fn http2(limits: &Limits) -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .max_header_list_size(limits.header_list_bytes)
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(ms(limits.keepalive_ms))
        .keep_alive_timeout(ms(limits.keepalive_answer_ms));
    http
}

/// Counts what has come in.
struct Counted<S> {
    inner: S,
    received: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let got = u64::try_from(buffer.filled().len().saturating_sub(before)).unwrap_or(0);
        self.received.fetch_add(got, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use h2::client::SendRequest;
    use http::HeaderMap;
    use hyper::body::{Bytes, Frame, SizeHint};
    use rustls::ClientConfig;
    use rustls_pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;
    use tonic::{Code, service::Routes};
    use vault_core::time::ManualClock;

    use super::*;
    use crate::limits::Limits;
    use crate::metrics::Door;
    use crate::rig::{Issued, Leaf, Rig, now};
    use crate::shutdown::Trigger;
    use crate::tls::Reload;

    const SOON: Duration = Duration::from_secs(5);

    /// Answers by path: who asks; never; a chunk of a megabyte and another; after a while; what the deadline is.
    #[derive(Clone, Default)]
    struct Service {
        begun: Arc<AtomicUsize>,
    }

    impl tower::Service<Request<tonic::body::Body>> for Service {
        type Response = Response<tonic::body::Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
            self.begun.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                let peer = request.extensions().get::<Arc<PeerCertificate>>().unwrap().name.to_string();
                Ok(match request.uri().path() {
                    "/never" => std::future::pending().await,
                    "/late" => {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                        Status::ok("late").into_http()
                    }
                    "/large" => Response::new(tonic::body::Body::new(Large(20))),
                    _ => Status::ok(peer).into_http(),
                })
            })
        }
    }

    /// So many chunks of 64 KiB, then a good status.
    struct Large(u32);

    impl hyper::body::Body for Large {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let left = self.0;
            self.0 = left.saturating_sub(1);
            Poll::Ready(match left {
                0 => None,
                1 => {
                    let mut trailers = HeaderMap::new();
                    Status::ok("").add_header(&mut trailers).unwrap();
                    Some(Ok(Frame::trailers(trailers)))
                }
                _ => Some(Ok(Frame::data(Bytes::from(vec![7; 65_536])))),
            })
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::new()
        }
    }

    struct Running {
        rig: Rig,
        edge: Arc<Edge>,
        address: SocketAddr,
        trigger: Trigger,
        service: Service,
        clock: Arc<ManualClock>,
        server: JoinHandle<Drained>,
    }

    fn start(limits: Limits) -> Running {
        let service = Service::default();
        start_with(limits, Rig::new(), service.clone(), service)
    }

    fn start_with<S>(limits: Limits, rig: Rig, tower: S, service: Service) -> Running
    where
        S: tower::Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        S::Error: Send,
    {
        let clock = Arc::new(ManualClock::at(now()));
        let metrics = Metrics::new(&[]);
        let tls = Tls::open(rig.files(), Door::Data, Arc::clone(&clock) as _, Arc::clone(&metrics)).unwrap();
        let edge = Edge::new(tls, limits, Arc::clone(&clock) as _, metrics, Arc::new(|why, _| why.status()));
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, shutdown) = Trigger::new();
        let server = tokio::spawn(serve(listener, Arc::clone(&edge), tower, shutdown));
        Running { rig, edge, address, trigger, service, clock, server }
    }

    fn client_config(
        rig: &Rig,
        versions: &[&'static rustls::SupportedProtocolVersion],
        with: Option<&Issued>,
    ) -> ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rig.root()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match with {
            Some(issued) => builder.with_client_auth_cert(issued.chain(), issued.key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    }

    fn grpc(uri: impl AsRef<str>) -> http::request::Builder {
        Request::post(uri.as_ref()).header("content-type", "application/grpc")
    }

    type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

    async fn dial(address: SocketAddr, config: ClientConfig) -> io::Result<ClientStream> {
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }

    struct Client {
        send: SendRequest<Bytes>,
        connection: JoinHandle<Result<(), h2::Error>>,
    }

    impl Client {
        async fn over(stream: ClientStream) -> Result<Self, h2::Error> {
            let (send, connection) = h2::client::handshake(stream).await?;
            Ok(Self { send, connection: tokio::spawn(connection) })
        }

        /// The gRPC code and message of one call.
        async fn ask(&self, path: &str, timeout: Option<&str>) -> Result<Status, h2::Error> {
            let mut send = self.send.clone().ready().await?;
            let mut request = grpc(format!("https://localhost{path}")).body(()).unwrap();
            if let Some(timeout) = timeout {
                request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
            }
            let (response, _) = send.send_request(request, true)?;
            let (head, mut body) = response.await?.into_parts();
            if let Some(status) = Status::from_header_map(&head.headers) {
                return Ok(status);
            }
            while let Some(chunk) = body.data().await {
                body.flow_control().release_capacity(chunk?.len())?;
            }
            Ok(Status::from_header_map(&body.trailers().await?.unwrap_or_default())
                .unwrap_or(Status::unknown("none")))
        }
    }

    impl Running {
        fn leaf(&self) -> Issued {
            self.rig.client(&Leaf::uri("spiffe://shop/web"))
        }

        async fn connect(&self, issued: &Issued) -> Result<Client, String> {
            let config = client_config(&self.rig, &[&rustls::version::TLS13], Some(issued));
            let stream = dial(self.address, config).await.map_err(|e| e.to_string())?;
            Client::over(stream).await.map_err(|e| e.to_string())
        }

        /// Whether a client with a good certificate is served now.
        async fn serves(&self) -> Result<Status, String> {
            let client = self.connect(&self.leaf()).await?;
            client.ask("/who", None).await.map_err(|e| e.to_string())
        }

        async fn eventually_turned(&self, why: Turned) {
            self.eventually(|| self.edge.metrics.times_turned(Door::Data, why) > 0, &format!("{why:?}"))
                .await;
        }

        async fn eventually(&self, mut holds: impl FnMut() -> bool, what: &str) {
            let begun = Instant::now();
            while !holds() {
                assert!(begun.elapsed() < SOON, "{what} did not come\n{}", self.edge.metrics.page());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_known_client_is_served_and_known_by_name_on_every_request() {
        let running = start(Limits::default());
        let client = running.connect(&running.leaf()).await.unwrap();
        for _ in 0..3 {
            let status = client.ask("/who", None).await.unwrap();
            assert_eq!((status.code(), status.message()), (Code::Ok, "uri:spiffe://shop/web"));
        }
        assert_eq!(client.ask("/large", None).await.unwrap().code(), Code::Ok);
        let page = running.edge.metrics.page();
        assert!(page.contains("vault_requests_total{method=\"other\",code=\"OK\"} 4"), "{page}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_tonic_service_runs_on_it() {
        let (_reporter, health) = tonic_health::server::health_reporter();
        let running = start_with(Limits::default(), Rig::new(), Routes::new(health), Service::default());
        let client = running.connect(&running.leaf()).await.unwrap();
        let mut send = client.send.clone().ready().await.unwrap();
        let request = Request::post("https://localhost/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, mut body) = send.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
        let (_, mut body) = response.await.unwrap().into_parts();
        let message = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(message.len()).unwrap();
        assert_eq!(message.as_ref(), [0, 0, 0, 0, 2, 8, 1], "SERVING");
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(Status::from_header_map(&trailers).unwrap().code(), Code::Ok);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_is_not_right_is_refused_and_counted_by_reason() {
        let rig = Rig::new();
        let leaf = |days: i64| rig.client(&Leaf::uri("spiffe://shop/web").valid(days, days + 10));
        let (good, expired, early, revoked) = (leaf(-1), leaf(-20), leaf(5), leaf(-1));
        let other = rig.other_client(&Leaf::uri("spiffe://shop/web"));
        let (unnamed, of_a_server) =
            (rig.client(&Leaf::nameless()), rig.client(&Leaf::uri("spiffe://shop/web").for_servers()));
        rig.revoke(&[&revoked], 1);
        let running = start_with(Limits::default(), rig, Service::default(), Service::default());
        let (new, old) = (&rustls::version::TLS13, &rustls::version::TLS12);
        let mut http1 = client_config(&running.rig, &[new], Some(&good));
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut no_alpn = client_config(&running.rig, &[new], Some(&good));
        no_alpn.alpn_protocols.clear();
        let with = |issued| client_config(&running.rig, &[new], Some(issued));
        for (config, why) in [
            (client_config(&running.rig, &[old], Some(&good)), Turned::OldTls),
            (client_config(&running.rig, &[new], None), Turned::NoCertificate),
            (with(&other), Turned::UnknownAuthority),
            (with(&expired), Turned::OutOfTime),
            (with(&early), Turned::OutOfTime),
            (with(&revoked), Turned::Revoked),
            (with(&unnamed), Turned::Unnamed),
            (with(&of_a_server), Turned::Other),
            (http1, Turned::NotHttp2),
            (no_alpn, Turned::NotHttp2),
        ] {
            let before = running.edge.metrics.times_turned(Door::Data, why);
            let served = async {
                let client = Client::over(dial(running.address, config).await.ok()?).await.ok()?;
                client.ask("/who", None).await.ok()
            };
            assert!(served.await.is_none(), "{why:?} was served");
            let counted = || running.edge.metrics.times_turned(Door::Data, why) == before + 1;
            running.eventually(counted, &format!("{why:?}")).await;
        }
        for bytes in
            [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0xA5; 4_096], &[0; 64]]
        {
            let before = running.edge.metrics.times_turned(Door::Data, Turned::NotTls);
            let mut socket = TcpStream::connect(running.address).await.unwrap();
            socket.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            // Reset or end: what counts is that nothing but a TLS alert came.
            let _ = socket.read_to_end(&mut answer).await;
            assert!(answer.is_empty() || answer.first() == Some(&0x15), "{answer:?}");
            let counted = || running.edge.metrics.times_turned(Door::Data, Turned::NotTls) == before + 1;
            running.eventually(counted, "not TLS").await;
        }
        assert_eq!(running.service.begun.load(Ordering::SeqCst), 0);
        assert_eq!(running.serves().await.unwrap().code(), Code::Ok);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_revoked_while_connected_is_refused_at_its_next_request_and_sent_away() {
        let running = start(Limits::default());
        let (bad, good) = (running.leaf(), running.leaf());
        let (bad_client, good_client) =
            (running.connect(&bad).await.unwrap(), running.connect(&good).await.unwrap());
        assert_eq!(bad_client.ask("/who", None).await.unwrap().code(), Code::Ok);
        running.rig.revoke(&[&bad], 1);
        assert_eq!(running.edge.tls.reload(), Reload::Taken);
        assert_eq!(bad_client.ask("/who", None).await.unwrap().code(), Code::Unauthenticated);
        assert_eq!(good_client.ask("/who", None).await.unwrap().code(), Code::Ok);
        let sent_away = tokio::time::timeout(SOON, bad_client.connection).await;
        assert!(sent_away.is_ok(), "its connection ends");
        assert!(match running.connect(&bad).await {
            Err(_) => true,
            Ok(client) => client.ask("/who", None).await.is_err(),
        });
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_whose_certificate_ends_while_connected_is_refused() {
        let running = start(Limits::default());
        let client =
            running.connect(&running.rig.client(&Leaf::uri("spiffe://a").valid(-1, 5))).await.unwrap();
        assert_eq!(client.ask("/who", None).await.unwrap().code(), Code::Ok);
        running.clock.set(now().plus_days(6));
        assert_eq!(client.ask("/who", None).await.unwrap().code(), Code::Unauthenticated);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_session_is_ever_resumed() {
        let running = start(Limits::default());
        let config = client_config(&running.rig, &[&rustls::version::TLS13], Some(&running.leaf()));
        for _ in 0..3 {
            let mut stream = dial(running.address, config.clone()).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
            // Reads until the server's first bytes, so that a ticket would have been seen.
            let mut first = [0; 9];
            stream.read_exact(&mut first).await.unwrap();
            assert!(!stream.get_ref().1.is_early_data_accepted());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rapid_reset_is_cut_off_also_when_each_request_was_begun() {
        let running = start(Limits { cancels: 50, ..Limits::default() });
        let client = running.connect(&running.leaf()).await.unwrap();
        let mut resets = 0;
        while let Ok(mut send) = client.send.clone().ready().await {
            let request = grpc("https://localhost/never").body(()).unwrap();
            let Ok((_response, mut stream)) = send.send_request(request, true) else { break };
            // Waiting for the server is what a patient attacker does, to stay below what h2 itself would notice.
            let begun =
                || running.service.begun.load(Ordering::SeqCst) > resets || client.connection.is_finished();
            running.eventually(begun, "the request's begin").await;
            stream.send_reset(h2::Reason::CANCEL);
            resets += 1;
            assert!(resets < 500, "not cut off");
        }
        running.eventually_turned(Turned::RapidReset).await;
        assert!(resets > 50 && resets < 100, "{resets}");
        assert_eq!(running.serves().await.unwrap().code(), Code::Ok);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_flood_of_resets_is_cut_off() {
        let running = start(Limits { cancels: 50, ..Limits::default() });
        let client = running.connect(&running.leaf()).await.unwrap();
        let flood = async {
            loop {
                let Ok(mut send) = client.send.clone().ready().await else { return };
                let request = grpc("https://localhost/never").body(()).unwrap();
                let Ok((_response, mut stream)) = send.send_request(request, true) else { return };
                stream.send_reset(h2::Reason::CANCEL);
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, flood).await.expect("cut off");
        assert!(running.service.begun.load(Ordering::SeqCst) < 1_000);
        assert_eq!(running.serves().await.unwrap().code(), Code::Ok);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_peer_address_has_its_share_and_no_more() {
        let running = start(Limits { connections_per_peer: 2, ..Limits::default() });
        let first = running.connect(&running.leaf()).await.unwrap();
        let second = running.connect(&running.leaf()).await.unwrap();
        for client in [&first, &second] {
            assert_eq!(client.ask("/who", None).await.unwrap().code(), Code::Ok);
        }
        assert!(running.serves().await.is_err());
        running.eventually_turned(Turned::PeerFull).await;
        drop(first.send);
        running.eventually(|| running.edge.gate.now().1 == 1, "a free place").await;
        assert_eq!(running.serves().await.unwrap().code(), Code::Ok);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn thousands_of_half_open_connections_do_not_keep_a_client_out() {
        let files = crate::memory::raise_open_files(8_192).unwrap();
        let flood = usize::try_from(files / 4).unwrap().min(2_000);
        let running = start(Limits { handshakes: 64, handshakes_per_peer: 32, ..Limits::default() });
        let mut silent = Vec::new();
        for _ in 0..flood {
            silent.push(TcpStream::connect(running.address).await.unwrap());
        }
        assert_eq!(running.serves().await.unwrap().code(), Code::Ok);
        assert!(running.edge.gate.now().0 <= 32);
        let evicted = || running.edge.metrics.times_turned(Door::Data, Turned::Evicted);
        running.eventually(|| evicted() >= u64::try_from(flood - 40).unwrap(), "the evictions").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_slow_are_cut_off_wherever_they_dawdle() {
        let running = start(Limits {
            handshake_ms: 200,
            preface_ms: 200,
            slow_reader_ms: 300,
            deadline_ms: 400,
            ..Limits::default()
        });
        // In the handshake: a ClientHello, but a byte now and then.
        let mut dripping = TcpStream::connect(running.address).await.unwrap();
        let drip = async {
            for byte in [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3].into_iter().chain([0; 80]) {
                if dripping.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(SOON, drip).await.unwrap();
        running.eventually_turned(Turned::TooSlow).await;

        // After it: nothing, or half a preface.
        let config = client_config(&running.rig, &[&rustls::version::TLS13], Some(&running.leaf()));
        let mut silent = dial(running.address, config).await.unwrap();
        silent.write_all(b"PRI * HTTP").await.unwrap();
        running.eventually_turned(Turned::Silent).await;

        // In the answer: a large one of which nothing is read.
        let client = running.connect(&running.leaf()).await.unwrap();
        let mut send = client.send.clone().ready().await.unwrap();
        let (response, _) =
            send.send_request(grpc("https://localhost/large").body(()).unwrap(), true).unwrap();
        let _unread = response.await.unwrap();
        running.eventually_turned(Turned::SlowReader).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_idle_connection_is_told_to_go() {
        let running = start(Limits { idle_ms: 200, ..Limits::default() });
        let client = running.connect(&running.leaf()).await.unwrap();
        assert_eq!(client.ask("/who", None).await.unwrap().code(), Code::Ok);
        let sent_away = tokio::time::timeout(SOON, client.connection).await;
        assert!(sent_away.is_ok(), "its connection ends");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn deadlines_and_the_queue_are_kept() {
        // Seconds, so that a busy machine does not turn the order round.
        let running = start(Limits { queue: 1, deadline_ms: 4_000, ..Limits::default() });
        let client = running.connect(&running.leaf()).await.unwrap();
        let begun = Instant::now();
        let asked = client.ask("/never", Some("3S"));
        let meanwhile = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            client.ask("/who", None).await.unwrap().code()
        };
        let (asked, meanwhile) = tokio::join!(asked, meanwhile);
        assert_eq!(meanwhile, Code::Unavailable, "one place, and it is taken");
        assert_eq!(asked.unwrap().code(), Code::DeadlineExceeded);
        assert!(begun.elapsed() >= Duration::from_secs(3));
        assert_eq!(
            client.ask("/never", Some("9H")).await.unwrap().code(),
            Code::DeadlineExceeded,
            "the server's own"
        );
        assert_eq!(client.ask("/who", Some("soon")).await.unwrap().code(), Code::InvalidArgument);
        assert_eq!(client.ask("/who", None).await.unwrap().code(), Code::Ok, "the place is free again");
        assert!(running.edge.metrics.page().contains("vault_queue_depth 0"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_that_is_larger_than_its_bounds_ends_alone_or_ends_the_connection() {
        let running = start(Limits::default());
        let client = running.connect(&running.leaf()).await.unwrap();
        let mut send = client.send.clone().ready().await.unwrap();
        let request = grpc("https://localhost/who").header("x-large", "x".repeat(20_000)).body(()).unwrap();
        let refused = match send.send_request(request, true) {
            Ok((response, _)) => response.await.map_or(true, |answer| answer.status() == 431),
            Err(_) => true,
        };
        assert!(refused);
        assert_eq!(running.service.begun.load(Ordering::SeqCst), 0);
        assert_eq!(running.serves().await.unwrap().code(), Code::Ok);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn draining_lets_requests_finish_and_takes_no_new_ones() {
        let running = start(Limits::default());
        let client = running.connect(&running.leaf()).await.unwrap();
        let late = async { client.ask("/late", None).await.unwrap() };
        let drain = async {
            running.eventually(|| running.service.begun.load(Ordering::SeqCst) == 1, "the begin").await;
            running.trigger.drain();
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(running.serves().await.is_err());
        };
        let (late, ()) = tokio::join!(late, drain);
        assert_eq!((late.code(), late.message()), (Code::Ok, "late"));
        assert_eq!(tokio::time::timeout(SOON, running.server).await.unwrap().unwrap(), Drained { cut: 0 });
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stopping_waits_for_nothing() {
        let running = start(Limits::default());
        let client = running.connect(&running.leaf()).await.unwrap();
        let stop = async {
            running.eventually(|| running.service.begun.load(Ordering::SeqCst) == 1, "the begin").await;
            running.trigger.drain();
            running.trigger.stop();
        };
        let (asked, ()) = tokio::join!(client.ask("/never", None), stop);
        assert!(asked.is_err());
        assert_eq!(tokio::time::timeout(SOON, running.server).await.unwrap().unwrap(), Drained { cut: 1 });
    }
}
