//! What the vault counts, and the small loopback page where Prometheus and a load balancer read it.
//!
//! Every label value comes from a closed set: an enum here, a method of the wire contract, or a name from the operator's
//! own settings or policy. Nothing that a caller sends becomes a label, so a caller cannot grow the page or write into it.
//! The page is served on loopback only and has no access control of its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use vault_core::terms::Renewal;
use vault_core::time::Timestamp;
use vault_core::vault::{FormatSpaces, KeyLine};
use vault_core::words::KeyState;

use crate::shutdown::Shutdown;

/// Scrapes at once. Prometheus sends one; a pair of them and a load balancer's check fit.
const SCRAPES: usize = 8;
/// A scrape that takes longer is cut off.
const SCRAPE_TIME: Duration = Duration::from_secs(5);
/// Bytes of a request for the page, headers included.
const SCRAPE_BYTES: usize = 16_384;
/// After a failed `accept` (no file descriptors left), until the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Which door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Door {
    /// `vault.v1.Vault`: where cards and tokens pass.
    Data,
    /// `vault.v1.Admin`: where operators pass.
    Admin,
}

/// Why a connection did not get in, or was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Turned {
    /// The house is full.
    Full,
    /// This peer address has its share.
    PeerFull,
    /// A newer connection needed the place of one that had shown no certificate.
    Evicted,
    /// No complete handshake in time.
    TooSlow,
    /// The peer hung up before it was known.
    HungUp,
    /// Not TLS at all.
    NotTls,
    /// TLS, but not 1.3.
    OldTls,
    /// TLS 1.3, but not HTTP/2.
    NotHttp2,
    /// No certificate.
    NoCertificate,
    /// A certificate of an authority that is not listed.
    UnknownAuthority,
    /// A certificate (or its authority, or the revocation list) past its time, or before it.
    OutOfTime,
    /// A revoked certificate, or one whose standing the revocation list does not tell.
    Revoked,
    /// A certificate whose names are not exactly one.
    Unnamed,
    /// Another fault of certificate or protocol.
    Other,
    /// No HTTP/2 preface in time.
    Silent,
    /// Too many requests opened and cancelled: rapid reset.
    RapidReset,
    /// An answer that was not read.
    SlowReader,
}

/// Why a request got no further than the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum TurnedRequest {
    /// The certificate is no longer good.
    Certificate,
    /// The queue is full.
    Overloaded,
    /// The deadline passed.
    Deadline,
    /// The deadline could not be read.
    Malformed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoorLabel {
    door: Door,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnedLabels {
    door: Door,
    reason: Turned,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnedRequestLabels {
    door: Door,
    reason: TurnedRequest,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FormatLabels {
    merchant: String,
    format: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabels {
    kind: String,
    merchant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    door: Door,
    /// The settings' own key, such as `client_ca.shop`.
    file: String,
}

/// The counters. One per process; cheap to count, shared by reference.
pub struct Metrics {
    registry: Registry,
    methods: &'static [&'static str],
    requests: Family<RequestLabels, Counter>,
    seconds: Family<MethodLabel, Histogram, fn() -> Histogram>,
    turned: Family<TurnedLabels, Counter>,
    turned_requests: Family<TurnedRequestLabels, Counter>,
    open: Family<DoorLabel, Gauge>,
    expiry: Family<CertificateLabels, Gauge>,
    reloads: Family<DoorLabel, Counter>,
    reload_failures: Family<DoorLabel, Counter>,
    fullest_space: Family<FormatLabels, Gauge<f64, AtomicU64>>,
    scarce_spaces: Family<FormatLabels, Gauge>,
    key_terms: Family<KeyLabels, Gauge<f64, AtomicU64>>,
    /// Requests being worked on now.
    pub queue_depth: Gauge,
    /// Batches that the journal has put on disk.
    pub commits: Counter,
    /// Requests that the vault itself refused: policy, budgets, locks.
    pub refusals: Counter,
    /// Lines that other crates wanted to log; they are counted, not printed.
    pub foreign_log_lines: Counter,
}

/// From half a millisecond (an in-memory answer) to about sixteen seconds, each step twice the last.
fn latency_buckets() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.000_5, 2.0, 16))
}

/// What stands on the page for a path that is no known method.
const OTHER: &str = "other";

impl Metrics {
    /// Counters for `methods`: full gRPC paths, such as `/vault.v1.Vault/Tokenize`. Other paths count as `other`.
    #[must_use]
    pub fn new(methods: &'static [&'static str]) -> Arc<Self> {
        let mut metrics = Self {
            registry: Registry::with_prefix("vault"),
            methods,
            requests: Family::default(),
            seconds: Family::new_with_constructor(latency_buckets),
            turned: Family::default(),
            turned_requests: Family::default(),
            open: Family::default(),
            expiry: Family::default(),
            reloads: Family::default(),
            reload_failures: Family::default(),
            fullest_space: Family::default(),
            scarce_spaces: Family::default(),
            key_terms: Family::default(),
            queue_depth: Gauge::default(),
            commits: Counter::default(),
            refusals: Counter::default(),
            foreign_log_lines: Counter::default(),
        };
        metrics.register();
        Arc::new(metrics)
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("requests", "Requests answered, by method and gRPC code", self.requests.clone());
        r.register_with_unit(
            "request_duration",
            "Time from a request's headers to the beginning of its answer",
            Unit::Seconds,
            self.seconds.clone(),
        );
        r.register("connections_turned_away", "Connections refused or cut, by reason", self.turned.clone());
        r.register(
            "requests_turned_away",
            "Requests refused at the edge, by reason",
            self.turned_requests.clone(),
        );
        r.register("connections", "Open connections that have shown a certificate", self.open.clone());
        r.register_with_unit(
            "certificate_not_after",
            "When the file stops being good: seconds since 1970",
            Unit::Seconds,
            self.expiry.clone(),
        );
        r.register("certificate_reloads", "New certificate sets taken into use", self.reloads.clone());
        r.register(
            "certificate_reload_failures",
            "New certificate sets refused; the old one is in use",
            self.reload_failures.clone(),
        );
        r.register(
            "token_space_used_ratio",
            "How much is used of the fullest token space of a format, of those minted from since the start",
            self.fullest_space.clone(),
        );
        r.register(
            "token_spaces_scarce",
            "Token spaces of a format that are used to four fifths or more, of those minted from since the start",
            self.scarce_spaces.clone(),
        );
        r.register(
            "key_term_used_ratio",
            "Share of the active key's days or uses that are over, whichever is more, by kind and merchant",
            self.key_terms.clone(),
        );
        r.register("queue_depth", "Requests being worked on", self.queue_depth.clone());
        r.register("commits", "Batches put on disk by the journal", self.commits.clone());
        r.register("refusals", "Requests refused by policy, budget or lock", self.refusals.clone());
        r.register(
            "foreign_log_lines",
            "Log lines of other crates, counted instead of printed",
            self.foreign_log_lines.clone(),
        );
    }

    /// Lets the owner of another counter, such as the store's, stand on the page too. Before the counters are shared.
    #[must_use]
    pub fn with(mut self: Arc<Self>, register: impl FnOnce(&mut Registry)) -> Arc<Self> {
        if let Some(metrics) = Arc::get_mut(&mut self) {
            register(&mut metrics.registry);
        }
        self
    }

    /// A request was answered: its method, its gRPC code, and the seconds until the answer began.
    pub(crate) fn answered(&self, method: &'static str, code: tonic::Code, seconds: f64) {
        self.requests.get_or_create(&RequestLabels { method, code: code_name(code) }).inc();
        self.seconds.get_or_create(&MethodLabel { method }).observe(seconds);
    }

    /// What a request's path counts as: a name of the contract, or `other`.
    pub(crate) fn method(&self, path: &str) -> &'static str {
        let known = self.methods.iter().copied().find(|method| *method == path);
        known.and_then(|method| method.rsplit('/').next()).unwrap_or(OTHER)
    }

    /// A connection was refused or cut.
    pub fn turned(&self, door: Door, reason: Turned) {
        self.turned.get_or_create(&TurnedLabels { door, reason }).inc();
    }

    /// A request was refused at the edge.
    pub fn turned_request(&self, door: Door, reason: TurnedRequest) {
        self.turned_requests.get_or_create(&TurnedRequestLabels { door, reason }).inc();
    }

    /// How often connections were refused or cut for this reason.
    #[must_use]
    pub fn times_turned(&self, door: Door, reason: Turned) -> u64 {
        self.turned.get(&TurnedLabels { door, reason }).map_or(0, |counter| counter.get())
    }

    /// Counts a connection as open until what is returned is dropped.
    #[must_use]
    pub(crate) fn open(&self, door: Door) -> Up {
        Up::new(self.open.get_or_create_owned(&DoorLabel { door }))
    }

    /// How many connections have shown a certificate at this door and are open now.
    #[must_use]
    pub fn connections(&self, door: Door) -> u32 {
        self.open.get(&DoorLabel { door }).map_or(0, |gauge| u32::try_from(gauge.get()).unwrap_or(0))
    }

    /// A file of the settings is good until `seconds` after 1970.
    pub(crate) fn certificate(&self, door: Door, file: &str, seconds: i64) {
        self.expiry.get_or_create(&CertificateLabels { door, file: file.to_owned() }).set(seconds);
    }

    /// What is known of a format's token spaces. One line for a format, however many spaces it has.
    pub(crate) fn spaces(&self, of: &FormatSpaces) {
        let labels = FormatLabels { merchant: of.merchant.to_string(), format: of.format.to_string() };
        self.fullest_space.get_or_create(&labels).set(f64::from(of.fullest) / 10_000.0);
        self.scarce_spaces.get_or_create(&labels).set(i64::try_from(of.scarce).unwrap_or(i64::MAX));
    }

    /// How much of the days or uses of a key that protects new things is over. Of several of one kind and merchant, vaultless
    /// slots, the one that is nearest its end.
    pub(crate) fn keys(&self, keys: &[KeyLine], now: Timestamp) {
        let mut nearest: BTreeMap<(&str, String), u64> = BTreeMap::new();
        for line in
            keys.iter().filter(|line| line.state == KeyState::Active && line.renewal() != Renewal::Never)
        {
            let merchant = line.merchant.as_ref().map_or_else(String::new, ToString::to_string);
            let over = nearest.entry((line.kind.as_str(), merchant)).or_insert(0);
            *over = line.percent_over(now).max(*over);
        }
        for ((kind, merchant), percent) in nearest {
            let ratio = f64::from(u32::try_from(percent).unwrap_or(100)) / 100.0;
            self.key_terms.get_or_create(&KeyLabels { kind: kind.to_owned(), merchant }).set(ratio);
        }
    }

    /// A new certificate set came into use, or was refused.
    pub(crate) fn reloaded(&self, door: Door, taken: bool) {
        let family = if taken { &self.reloads } else { &self.reload_failures };
        family.get_or_create(&DoorLabel { door }).inc();
    }

    /// The page, in the text format of `OpenMetrics`.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail; an encoder that fails all the same leaves a page without its end mark,
        // which a scraper refuses.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

/// One more on a gauge, for as long as it lives.
pub(crate) struct Up(Gauge);

impl Up {
    pub(crate) fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The code as the gRPC documents spell it.
#[must_use]
pub fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What `/healthz` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether requests are served. A refused certificate reload is no reason for `false`: the old set still serves.
    pub serving: bool,
    /// Whether the process should go on: a vault that is sealed waits for its custodians, and a restart would forget their
    /// shares.
    pub lives: bool,
    /// A JSON document for people; without secrets, as everyone on this machine may read it.
    pub detail: String,
}

/// Serves `GET /metrics`, `GET /healthz`, the same as `/readyz`, and `GET /livez` until `shutdown` stops. The caller has checked that the address is loopback.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: impl Fn() -> Health + Send + Sync + 'static,
    mut shutdown: Shutdown,
) -> io::Result<()> {
    if !listener.local_addr()?.ip().is_loopback() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "metrics are for loopback addresses only"));
    }
    let health = Arc::new(health);
    let scrapes = Arc::new(Semaphore::new(SCRAPES));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.stopping() => return Ok(()),
        };
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // One too many is closed at once: its socket is dropped here.
        let Ok(place) = Arc::clone(&scrapes).try_acquire_owned() else { continue };
        let (metrics, health) = (Arc::clone(&metrics), Arc::clone(&health));
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&request, &metrics, health.as_ref());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(SCRAPE_TIME)
                .max_buf_size(SCRAPE_BYTES)
                .keep_alive(false)
                .serve_connection(TokioIo::new(socket), service);
            // A scraper that fails or dawdles is its own operator's matter.
            let _ = tokio::time::timeout(SCRAPE_TIME, connection).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, health: &dyn Fn() -> Health) -> Response<String> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.page())
        }
        (&Method::GET, path @ ("/healthz" | "/readyz" | "/livez")) => {
            let health = health();
            let good = if path == "/livez" { health.lives } else { health.serving };
            let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, "application/json", health.detail)
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "see /metrics, /healthz, /readyz and /livez\n".to_owned()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::shutdown::Trigger;

    const METHODS: &[&str] = &["/vault.v1.Vault/Tokenize"];

    #[test]
    fn a_path_that_no_contract_knows_never_becomes_a_label() {
        let metrics = Metrics::new(METHODS);
        metrics.answered(metrics.method("/vault.v1.Vault/Tokenize"), tonic::Code::Ok, 0.001);
        metrics.answered(metrics.method("/4111111111111111"), tonic::Code::Unimplemented, 0.001);
        metrics.turned(Door::Data, Turned::RapidReset);
        let page = metrics.page();
        for line in [
            "vault_requests_total{method=\"Tokenize\",code=\"OK\"} 1",
            "vault_requests_total{method=\"other\",code=\"UNIMPLEMENTED\"} 1",
            "vault_connections_turned_away_total{door=\"Data\",reason=\"RapidReset\"} 1",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
        assert!(!page.contains("4111111111111111"));
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn a_format_has_one_line_for_all_its_token_spaces() {
        let metrics = Metrics::new(METHODS);
        for (fullest, scarce) in [(7_999, 0), (9_501, 3)] {
            let merchant = vault_core::name::MerchantName::parse("acme").unwrap();
            let format = vault_core::name::FormatName::parse("tight").unwrap();
            metrics.spaces(&FormatSpaces { merchant, format, fullest, scarce });
        }
        let page = metrics.page();
        for line in [
            "vault_token_space_used_ratio{merchant=\"acme\",format=\"tight\"} 0.9501",
            "vault_token_spaces_scarce{merchant=\"acme\",format=\"tight\"} 3",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
        assert_eq!(page.matches("tight").count(), 2);
    }

    #[test]
    fn a_gauge_falls_when_what_it_counted_is_gone() {
        let metrics = Metrics::new(METHODS);
        let up = metrics.open(Door::Admin);
        assert!(metrics.page().contains("vault_connections{door=\"Admin\"} 1"));
        drop(up);
        assert!(metrics.page().contains("vault_connections{door=\"Admin\"} 0"));
    }

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // A connection that is cut may end in a reset; what came before counts.
        let _ = socket.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn the_page_answers_four_paths_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, shutdown) = Trigger::new();
        let health = || Health { serving: false, lives: true, detail: "{}".to_owned() };
        let server = tokio::spawn(serve(listener, Metrics::new(METHODS), health, shutdown));
        for (request, expected) in [
            ("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200"),
            ("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 503"),
            ("GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 503"),
            ("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200"),
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 404"),
            ("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 404"),
            (&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2 * SCRAPE_BYTES)), ""),
            ("\u{0}\u{1}\u{2}\r\n\r\n", "HTTP/1.1 400"),
        ] {
            let answer = ask(address, request).await;
            assert!(answer.starts_with(expected), "{request:.40}: {answer:.80}");
            assert!(!expected.is_empty() || !answer.starts_with("HTTP/1.1 200"));
        }
        trigger.stop();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn metrics_are_refused_on_an_open_address() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let (_trigger, shutdown) = Trigger::new();
        let health = || Health { serving: true, lives: true, detail: String::new() };
        let refused = serve(listener, Metrics::new(METHODS), health, shutdown).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
