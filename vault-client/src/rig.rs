//! A server for this crate's tests: the contract's own generated server over real TCP and real TLS, which does to each call
//! what the test wrote down for it, and keeps what it was sent.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};
use vault_proto::v1::admin_server::{Admin, AdminServer};
use vault_proto::v1::vault_server::{Vault, VaultServer};

use crate::v1::*;
use crate::{AdminClient, Endpoint, Pem, VaultClient};

/// An authority, and a server `localhost` and a client below it.
pub(crate) struct Papers {
    authority: String,
    server: (String, String),
    client: (String, String),
}

impl Papers {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let leaf = |name: &str, usage| {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        Self {
            authority,
            server: leaf("localhost", ExtendedKeyUsagePurpose::ServerAuth),
            client: leaf("shop.example", ExtendedKeyUsagePurpose::ClientAuth),
        }
    }

    pub(crate) fn authority_pem(&self) -> String {
        self.authority.clone()
    }

    pub(crate) fn client_pem(&self) -> (String, String) {
        self.client.clone()
    }

    pub(crate) fn authority(&self) -> Pem {
        Pem::bytes(self.authority.clone())
    }

    pub(crate) fn client(&self) -> (Pem, Pem) {
        (Pem::bytes(self.client.0.clone()), Pem::bytes(self.client.1.clone()))
    }

    /// What a server with these papers accepts.
    pub(crate) fn server(&self, version: &'static SupportedProtocolVersion, alpn: &[&[u8]]) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(self.server.0.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(self.server.1.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config
    }
}

/// What the server does to a call.
#[derive(Clone)]
pub(crate) enum Play {
    /// Answers it.
    Answer,
    /// Answers it after this long.
    Late(Duration),
    /// Refuses it.
    Refuse(Status),
    /// Lets the connection break, with the answer on its way.
    Cut,
    /// Answers with nothing in it.
    Hollow,
}

/// What a call was.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) request_id: String,
    /// The `grpc-timeout` that it came with.
    pub(crate) timeout: Option<Duration>,
    /// The message as it is on the wire.
    pub(crate) message: Vec<u8>,
}

/// What the server is to do and what it was sent.
#[derive(Default)]
pub(crate) struct Script {
    plays: Mutex<VecDeque<Play>>,
    calls: Mutex<Vec<Call>>,
    limits: Limits,
    cut: Arc<AtomicBool>,
    dialled: AtomicUsize,
    most_unanswered: AtomicUsize,
}

impl Script {
    fn next(&self) -> Play {
        self.plays.lock().unwrap().pop_front().unwrap_or(Play::Answer)
    }

    async fn play<Q: Message, A: Default>(
        &self,
        method: &'static str,
        request: &Request<Q>,
        request_id: &str,
        answer: impl FnOnce(&Q) -> A,
    ) -> Result<Response<A>, Status> {
        let timeout =
            request.metadata().get("grpc-timeout").map(|text| parse_timeout(text.to_str().unwrap()));
        let message = request.get_ref().encode_to_vec();
        let request_id = request_id.to_owned();
        self.calls.lock().unwrap().push(Call { method, request_id, timeout, message });
        match self.next() {
            Play::Answer => {}
            Play::Late(wait) => tokio::time::sleep(wait).await,
            Play::Refuse(status) => return Err(status),
            Play::Cut => self.cut.store(true, Ordering::SeqCst),
            Play::Hollow => return Ok(Response::new(A::default())),
        }
        Ok(Response::new(answer(request.get_ref())))
    }

    /// Reads until the client falls silent, answers what it has, the last first, and goes on.
    async fn stream(
        self: Arc<Self>,
        mut inbound: Streaming<StreamTokenizeRequest>,
        answers: mpsc::Sender<Result<StreamTokenizeResponse, Status>>,
    ) {
        let mut unanswered = Vec::new();
        loop {
            match tokio::time::timeout(Duration::from_millis(30), inbound.message()).await {
                Ok(Ok(Some(message))) => {
                    unanswered.push(message.item.unwrap().reference);
                    self.most_unanswered.fetch_max(unanswered.len(), Ordering::SeqCst);
                    continue;
                }
                Ok(Err(_)) => return,
                Ok(Ok(None)) if unanswered.is_empty() => return,
                Ok(Ok(None)) | Err(_) => {}
            }
            if unanswered.is_empty() {
                continue;
            }
            match self.next() {
                Play::Answer | Play::Late(_) => {}
                Play::Refuse(status) => return drop(answers.send(Err(status)).await),
                Play::Cut => self.cut.store(true, Ordering::SeqCst),
                Play::Hollow => return,
            }
            for reference in unanswered.drain(..).rev() {
                let result = TokenizeResult { token: token_of(&reference), ..TokenizeResult::default() };
                let outcome = Some(stream_tokenize_response::Outcome::Result(result));
                if answers.send(Ok(StreamTokenizeResponse { reference, outcome })).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The token that the server makes for an item.
pub(crate) fn token_of(reference: &str) -> String {
    format!("token-of-{reference}")
}

fn parse_timeout(text: &str) -> Duration {
    let (value, unit) = text.split_at(text.len() - 1);
    let value: u64 = value.parse().unwrap();
    match unit {
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        other => panic!("unit {other}"),
    }
}

/// A vault of its own, on a port of its own, until it is dropped.
pub(crate) struct Rig {
    pub(crate) papers: Papers,
    pub(crate) script: Arc<Script>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

impl Rig {
    pub(crate) async fn start(plays: Vec<Play>) -> Self {
        Self::start_with(plays, Limits::default()).await
    }

    pub(crate) async fn start_with(plays: Vec<Play>, limits: Limits) -> Self {
        let script = Script { plays: Mutex::new(plays.into()), limits, ..Script::default() };
        Self::serve(Papers::new("ours"), Arc::new(script), "127.0.0.1:0".parse().unwrap()).await
    }

    async fn serve(papers: Papers, script: Arc<Script>, at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let tls = TlsAcceptor::from(Arc::new(papers.server(&rustls::version::TLS13, &[b"h2"])));
        let (guests, incoming) = mpsc::channel(8);
        let accepting = accept(listener, tls, Arc::clone(&script), guests);
        let served = Server::builder()
            .add_service(VaultServer::new(Desk(Arc::clone(&script))))
            .add_service(AdminServer::new(Desk(Arc::clone(&script))))
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async {
                tokio::select! { () = accepting => {}, _ = stopped => {} }
            });
        let serving = tokio::spawn(async move { served.await.unwrap() });
        Self { papers, script, address, stop: Some(stop), serving }
    }

    /// Goes down in good order, and comes up again on the same port after `away`.
    pub(crate) async fn restart(mut self, away: Duration) -> Self {
        self.stop.take().unwrap().send(()).unwrap();
        self.serving.await.unwrap();
        tokio::time::sleep(away).await;
        Self::serve(self.papers, self.script, self.address).await
    }

    pub(crate) fn address(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::new(&self.address(), self.papers.authority(), self.papers.client())
    }

    pub(crate) async fn client(&self) -> VaultClient {
        VaultClient::connect(self.endpoint()).await.unwrap()
    }

    pub(crate) async fn admin(&self) -> AdminClient {
        AdminClient::connect(self.endpoint()).await.unwrap()
    }

    /// The calls so far, but for what connecting asks.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.script.calls.lock().unwrap().clone()
    }

    /// How many TCP connections were made so far.
    pub(crate) fn dialled(&self) -> usize {
        self.script.dialled.load(Ordering::SeqCst)
    }

    /// How many messages of a stream were unanswered at once, at most.
    pub(crate) fn most_unanswered(&self) -> usize {
        self.script.most_unanswered.load(Ordering::SeqCst)
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    script: Arc<Script>,
    guests: mpsc::Sender<io::Result<Guest>>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        script.dialled.fetch_add(1, Ordering::SeqCst);
        let (tls, guests, cut) = (tls.clone(), guests.clone(), Arc::clone(&script.cut));
        tokio::spawn(async move {
            if let Ok(tls) = tls.accept(tcp).await {
                let _ = guests.send(Ok(Guest { tls, cut })).await;
            }
        });
    }
}

/// Serves one thing on a port until dropped: whatever else a client may find there.
pub(crate) async fn other_server<F, Fut>(serve: F) -> (String, JoinHandle<()>)
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let serving = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            serve(tcp).await;
        }
    });
    (address, serving)
}

/// A connection that can be made to break at its next word.
struct Guest {
    tls: TlsStream<TcpStream>,
    cut: Arc<AtomicBool>,
}

impl Connected for Guest {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut.swap(false, Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

struct Desk(Arc<Script>);

/// What a method of a generated service returns, as macros must spell it.
type Answering<'f, A> = Pin<Box<dyn Future<Output = Result<Response<A>, Status>> + Send + 'f>>;

fn id(header: Option<&RequestHeader>) -> String {
    header.map(|h| h.request_id.clone()).unwrap_or_default()
}

macro_rules! batches {
    ($($method:ident($request:ident) -> $response:ident, $outcome:ident, $module:ident, |$item:ident| $result:expr;)+) => {$(
        fn $method<'s, 'f>(&'s self, request: Request<$request>) -> Answering<'f, $response>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async move {
                let id = id(request.get_ref().header.as_ref());
                let answer = |request: &$request| $response {
                    outcomes: request
                        .items
                        .iter()
                        .map(|$item| $outcome {
                            reference: $item.reference.clone(),
                            outcome: Some(if $item.reference.starts_with("bad") {
                                $module::Outcome::Error(crate::Failure::new(crate::Reason::NotFound, "no").into())
                            } else {
                                $module::Outcome::Result($result)
                            }),
                        })
                        .collect(),
                    checkpoints: vec![Checkpoint { log: "log".into(), tree_size: 7, ..Checkpoint::default() }],
                };
                self.0.play(stringify!($method), &request, &id, answer).await
            })
        }
    )+};
}

macro_rules! singles {
    ($($method:ident($request:ident) -> $response:ident, |$item:ident| $result:expr;)+) => {$(
        fn $method<'s, 'f>(&'s self, request: Request<$request>) -> Answering<'f, $response>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async move {
                let id = id(request.get_ref().header.as_ref());
                let answer = |request: &$request| {
                    let $item = request.item.as_ref().unwrap();
                    $response { result: Some($result) }
                };
                self.0.play(stringify!($method), &request, &id, answer).await
            })
        }
    )+};
}

fn tokenized(item: &TokenizeItem) -> TokenizeResult {
    TokenizeResult { token: token_of(&item.reference), ..TokenizeResult::default() }
}

fn detokenized(item: &DetokenizeItem) -> DetokenizeResult {
    let card = PlainCard::new(item.token.clone().into_bytes(), None);
    DetokenizeResult { reveal: Some(detokenize_result::Reveal::Plain(card)), receipt: None }
}

fn inspected(item: &InspectItem) -> InspectResult {
    InspectResult { format: item.token.clone(), ..InspectResult::default() }
}

fn changed(token: &str) -> ChangeResult {
    ChangeResult { channels: vec![token.to_owned()], ..ChangeResult::default() }
}

fn replaced(item: &ReplaceItem) -> ReplaceResult {
    let card = MaskedCard { masked_pan: item.token.clone(), ..MaskedCard::default() };
    ReplaceResult { card: Some(card), ..ReplaceResult::default() }
}

fn fingerprinted(reference: &str) -> FingerprintResult {
    FingerprintResult { fingerprint: reference.as_bytes().to_vec(), ..FingerprintResult::default() }
}

fn deleted(reference: &str) -> DeleteCardResult {
    let tokens = u32::try_from(reference.len()).unwrap();
    DeleteCardResult { tokens, ..DeleteCardResult::default() }
}

fn translated(token: &str) -> TokenizeResult {
    TokenizeResult { token: format!("{token}'"), ..TokenizeResult::default() }
}

fn upgraded(item: &UpgradeItem) -> UpgradeResult {
    UpgradeResult { token: item.token.clone(), ..UpgradeResult::default() }
}

fn hold_security_code_of(token: &str) -> HoldSecurityCodeResult {
    HoldSecurityCodeResult { ticket: token.to_owned(), ..HoldSecurityCodeResult::default() }
}

fn read_security_code_of(token: &str) -> ReadSecurityCodeResult {
    let code = Some(SecurityCode::new(token.as_bytes().to_vec()));
    ReadSecurityCodeResult { code, ..ReadSecurityCodeResult::default() }
}

fn complete_authorization_of(token: &str) -> CompleteAuthorizationResult {
    let receipt = Some(Receipt { log: token.to_owned(), ..Receipt::default() });
    CompleteAuthorizationResult { receipt }
}

fn revoked(item: &RevokeItem) -> RevokeResult {
    RevokeResult { channels: vec![item.token.clone()], ..RevokeResult::default() }
}

#[tonic::async_trait]
impl Vault for Desk {
    type StreamTokenizeStream = ReceiverStream<Result<StreamTokenizeResponse, Status>>;
    type StreamDetokenizeStream = ReceiverStream<Result<StreamDetokenizeResponse, Status>>;
    type StreamUpgradeStream = ReceiverStream<Result<StreamUpgradeResponse, Status>>;

    singles! {
        tokenize(TokenizeRequest) -> TokenizeResponse, |item| tokenized(item);
        detokenize(DetokenizeRequest) -> DetokenizeResponse, |item| detokenized(item);
        inspect(InspectRequest) -> InspectResponse, |item| inspected(item);
        revoke(RevokeRequest) -> RevokeResponse, |item| revoked(item);
        replace(ReplaceRequest) -> ReplaceResponse, |item| replaced(item);
        fingerprint(FingerprintRequest) -> FingerprintResponse, |item| fingerprinted(&item.reference);
        delete_card(DeleteCardRequest) -> DeleteCardResponse, |item| deleted(&item.reference);
        translate(TranslateRequest) -> TranslateResponse, |item| translated(&item.token);
        upgrade(UpgradeRequest) -> UpgradeResponse, |item| upgraded(item);
        hold_security_code(HoldSecurityCodeRequest) -> HoldSecurityCodeResponse, |item| hold_security_code_of(&item.token);
        read_security_code(ReadSecurityCodeRequest) -> ReadSecurityCodeResponse, |item| read_security_code_of(&item.token);
        complete_authorization(CompleteAuthorizationRequest) -> CompleteAuthorizationResponse, |item| complete_authorization_of(&item.token);
        disable(DisableRequest) -> DisableResponse, |item| changed(&item.token);
        enable(EnableRequest) -> EnableResponse, |item| changed(&item.token);
        update_attributes(UpdateAttributesRequest) -> UpdateAttributesResponse, |item| changed(&item.token);
    }

    batches! {
        batch_tokenize(BatchTokenizeRequest) -> BatchTokenizeResponse, TokenizeOutcome, tokenize_outcome, |item| tokenized(item);
        batch_detokenize(BatchDetokenizeRequest) -> BatchDetokenizeResponse, DetokenizeOutcome, detokenize_outcome, |item| detokenized(item);
        batch_inspect(BatchInspectRequest) -> BatchInspectResponse, InspectOutcome, inspect_outcome, |item| inspected(item);
        batch_revoke(BatchRevokeRequest) -> BatchRevokeResponse, RevokeOutcome, revoke_outcome, |item| revoked(item);
        batch_replace(BatchReplaceRequest) -> BatchReplaceResponse, ReplaceOutcome, replace_outcome, |item| replaced(item);
        batch_fingerprint(BatchFingerprintRequest) -> BatchFingerprintResponse, FingerprintOutcome, fingerprint_outcome, |item| fingerprinted(&item.reference);
        batch_delete_card(BatchDeleteCardRequest) -> BatchDeleteCardResponse, DeleteCardOutcome, delete_card_outcome, |item| deleted(&item.reference);
        batch_translate(BatchTranslateRequest) -> BatchTranslateResponse, TranslateOutcome, translate_outcome, |item| translated(&item.token);
        batch_upgrade(BatchUpgradeRequest) -> BatchUpgradeResponse, UpgradeOutcome, upgrade_outcome, |item| upgraded(item);
        batch_hold_security_code(BatchHoldSecurityCodeRequest) -> BatchHoldSecurityCodeResponse, HoldSecurityCodeOutcome, hold_security_code_outcome, |item| hold_security_code_of(&item.token);
        batch_read_security_code(BatchReadSecurityCodeRequest) -> BatchReadSecurityCodeResponse, ReadSecurityCodeOutcome, read_security_code_outcome, |item| read_security_code_of(&item.token);
        batch_complete_authorization(BatchCompleteAuthorizationRequest) -> BatchCompleteAuthorizationResponse, CompleteAuthorizationOutcome, complete_authorization_outcome, |item| complete_authorization_of(&item.token);
        batch_disable(BatchDisableRequest) -> BatchDisableResponse, DisableOutcome, disable_outcome, |item| changed(&item.token);
        batch_enable(BatchEnableRequest) -> BatchEnableResponse, EnableOutcome, enable_outcome, |item| changed(&item.token);
        batch_update_attributes(BatchUpdateAttributesRequest) -> BatchUpdateAttributesResponse, UpdateAttributesOutcome, update_attributes_outcome, |item| changed(&item.token);
    }

    async fn stream_tokenize(
        &self,
        request: Request<Streaming<StreamTokenizeRequest>>,
    ) -> Result<Response<Self::StreamTokenizeStream>, Status> {
        let (answers, outbound) = mpsc::channel(256);
        tokio::spawn(Arc::clone(&self.0).stream(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn stream_detokenize(
        &self,
        request: Request<Streaming<StreamDetokenizeRequest>>,
    ) -> Result<Response<Self::StreamDetokenizeStream>, Status> {
        let (answers, outbound) = mpsc::channel(1);
        let mut inbound = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                let item = message.item.unwrap();
                let outcome = Some(stream_detokenize_response::Outcome::Result(detokenized(&item)));
                let answer = StreamDetokenizeResponse { reference: item.reference.clone(), outcome };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<ForwardResponse>, Status> {
        let id = request.get_ref().header.as_ref().map(|h| h.request_id.clone()).unwrap_or_default();
        self.0.play("forward", &request, &id, |_| ForwardResponse { status: 200, ..Default::default() }).await
    }

    async fn get_sealing_key(
        &self,
        request: Request<GetSealingKeyRequest>,
    ) -> Result<Response<GetSealingKeyResponse>, Status> {
        let key_id = request.into_inner().channel;
        Ok(Response::new(GetSealingKeyResponse { key: Some(SealingKey { key_id, ..SealingKey::default() }) }))
    }

    async fn list_by_subject(
        &self,
        request: Request<ListBySubjectRequest>,
    ) -> Result<Response<ListBySubjectResponse>, Status> {
        let next_page_token = format!("{}+", request.get_ref().page_token);
        Ok(Response::new(ListBySubjectResponse { next_page_token, ..ListBySubjectResponse::default() }))
    }

    async fn erase_subject(
        &self,
        _: Request<EraseSubjectRequest>,
    ) -> Result<Response<EraseSubjectResponse>, Status> {
        Ok(Response::new(EraseSubjectResponse { tokens: 7, receipt: None }))
    }

    async fn stream_upgrade(
        &self,
        request: Request<Streaming<StreamUpgradeRequest>>,
    ) -> Result<Response<Self::StreamUpgradeStream>, Status> {
        let (answers, outbound) = mpsc::channel(1);
        let mut inbound = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                let item = message.item.unwrap();
                let outcome = Some(stream_upgrade_response::Outcome::Result(upgraded(&item)));
                let answer = StreamUpgradeResponse { reference: item.reference.clone(), outcome };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn get_capabilities(
        &self,
        _: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<GetCapabilitiesResponse>, Status> {
        let limits = Some(self.0.limits);
        Ok(Response::new(GetCapabilitiesResponse {
            principal: "shop".into(),
            limits,
            ..GetCapabilitiesResponse::default()
        }))
    }
}

macro_rules! changes {
    ($($method:ident($request:ident) -> $response:ident;)+) => {$(
        fn $method<'s, 'f>(&'s self, request: Request<$request>) -> Answering<'f, $response>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async move {
                let id = request.get_ref().header.as_ref().map(|h| h.request_id.clone()).unwrap_or_default();
                self.0.play(stringify!($method), &request, &id, |_| $response { epoch: 7, ..$response::default() }).await
            })
        }
    )+};
}

macro_rules! looks {
    ($($method:ident($request:ident) -> $response:ident;)+) => {$(
        fn $method<'s, 'f>(&'s self, request: Request<$request>) -> Answering<'f, $response>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async move {
                self.0.play(stringify!($method), &request, "", |_| $response::default()).await
            })
        }
    )+};
}

#[tonic::async_trait]
impl Admin for Desk {
    type VerifyLogStream = ReceiverStream<Result<VerifyLogResponse, Status>>;

    changes! {
        rotate_key(RotateKeyRequest) -> RotateKeyResponse;
        destroy_key(DestroyKeyRequest) -> DestroyKeyResponse;
        change_custodian(ChangeCustodianRequest) -> ChangeCustodianResponse;
        compromise_key(CompromiseKeyRequest) -> CompromiseKeyResponse;
        shred_key(ShredKeyRequest) -> ShredKeyResponse;
        set_lock(SetLockRequest) -> SetLockResponse;
        lift_lock(LiftLockRequest) -> LiftLockResponse;
        apply_policy(ApplyPolicyRequest) -> ApplyPolicyResponse;
    }

    looks! {
        get_status(GetStatusRequest) -> GetStatusResponse;
        list_keys(ListKeysRequest) -> ListKeysResponse;
        get_key_work(GetKeyWorkRequest) -> GetKeyWorkResponse;
        upgrade_tokens(UpgradeTokensRequest) -> UpgradeTokensResponse;
        count_token_roots(CountTokenRootsRequest) -> CountTokenRootsResponse;
        describe_key(DescribeKeyRequest) -> DescribeKeyResponse;
        list_locks(ListLocksRequest) -> ListLocksResponse;
        get_policy(GetPolicyRequest) -> GetPolicyResponse;
        check_policy(CheckPolicyRequest) -> CheckPolicyResponse;
        diff_policy(DiffPolicyRequest) -> DiffPolicyResponse;
        explain_policy(ExplainPolicyRequest) -> ExplainPolicyResponse;
        get_token_space(GetTokenSpaceRequest) -> GetTokenSpaceResponse;
        list_token_spaces(ListTokenSpacesRequest) -> ListTokenSpacesResponse;
        list_audit_entries(ListAuditEntriesRequest) -> ListAuditEntriesResponse;
        prove_receipt(ProveReceiptRequest) -> ProveReceiptResponse;
        get_erasure_certificate(GetErasureCertificateRequest) -> GetErasureCertificateResponse;
        get_checkpoint(GetCheckpointRequest) -> GetCheckpointResponse;
    }

    async fn verify_log(
        &self,
        _: Request<VerifyLogRequest>,
    ) -> Result<Response<Self::VerifyLogStream>, Status> {
        let (steps, outbound) = mpsc::channel(4);
        let play = self.0.next();
        tokio::spawn(async move {
            let step = |step| Ok(VerifyLogResponse { step: Some(step) });
            let _ = steps.send(step(verify_log_response::Step::Progress(VerifyProgress::default()))).await;
            match play {
                Play::Answer => {
                    let verdict = VerifyVerdict { intact: true, ..VerifyVerdict::default() };
                    let _ = steps.send(step(verify_log_response::Step::Verdict(verdict))).await;
                }
                Play::Late(wait) => tokio::time::sleep(wait).await,
                Play::Refuse(status) => drop(steps.send(Err(status)).await),
                Play::Cut | Play::Hollow => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}
