//! `vault.v1.Vault` over the core: each call takes the caller from its certificate and the request from its message,
//! asks the vault, and puts the answer back into a message. It decides nothing.

mod life;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use vault_core::audit::receipt::Receipt;
use vault_core::error::Error;
use vault_core::network::Networks;
use vault_core::policy::Caller;
use vault_core::time::{Clock, Timestamp};
use vault_core::token::Token;
use vault_core::vault::{Detokenized, Header, MAX_BATCH, MAX_CONTEXT, Outgoing, Revealed, Vault};
use vault_core::words::Action;
use vault_proto::status::{Failure, Reason, STAGE};
use vault_proto::{RpcStatus, v1};

use crate::failure::{failure, status};
use crate::forward::Forwarder;
use crate::forward::mask::mask;
use crate::forward::template::{Card, Template};
use crate::identity::PeerCertificate;
use crate::metrics::{Metrics, TurnedRequest};
use crate::request::Deadline;
use crate::shutdown::Shutdown;
use crate::tls::Tls;
use crate::wire;

/// How many messages of one stream are worked on at once: enough to share flushes, few enough that one stream does not
/// push out others.
pub const STREAM_IN_FLIGHT: usize = 64;

/// After how long to try again at a vault that is stopping.
const STOPPING: std::time::Duration = std::time::Duration::from_secs(1);

/// How long an answer is kept for a retry.
const IDEMPOTENCY_WINDOW: std::time::Duration = std::time::Duration::from_hours(24);

/// What is built in, in the contract's words. Later releases add to them.
const FEATURES: &[&str] = &[
    "card.plain",
    "card.sealed",
    "reveal.plain",
    "reveal.sealed-to-recipient",
    "reveal.masked",
    "scheme.random",
    "scheme.mixed",
    "scheme.opaque",
    "scheme.ff1",
    "token.upgrade",
    "token.restrictions",
    "token.disable",
    "token.attributes",
    "kind.network_token",
    "kind.reference",
    "kind.iban",
    "kind.us_account",
    "kind.digits",
    "kind.phone",
    "kind.email",
    "kind.bytes",
    "token.replace",
    "card.fingerprint",
    "card.delete",
    "subject.list",
    "subject.erase",
    "token.translate",
    "code.hold",
];

/// What is there where the settings name a destination.
const FORWARD: &str = "forward";

/// The data plane.
#[derive(Clone)]
pub struct VaultService {
    vault: Vault,
    networks: Arc<Networks>,
    metrics: Arc<Metrics>,
    tls: Arc<Tls>,
    clock: Arc<dyn Clock>,
    message_bytes: u32,
    shutdown: Shutdown,
    forwarder: Arc<Forwarder>,
}

/// Who asks, kept alive for as long as the request is.
#[derive(Clone)]
struct Asker {
    peer: Arc<PeerCertificate>,
    deadline: Option<Timestamp>,
}

impl Asker {
    fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        // The edge puts it there; a request without one has come by another way.
        let peer = request.extensions().get::<Arc<PeerCertificate>>().cloned();
        let peer = peer.ok_or_else(|| Status::unauthenticated("a client certificate is required"))?;
        let deadline = request.extensions().get::<Deadline>().map(|d| d.0);
        Ok(Self { peer, deadline })
    }

    fn caller(&self) -> Caller<'_> {
        Caller::Certificate { authority: &self.peer.authority_key.0, name: self.peer.name.as_str() }
    }
}

impl VaultService {
    /// Serves `vault`, with messages of at most `message_bytes`.
    #[must_use]
    pub fn new(
        vault: Vault,
        networks: Arc<Networks>,
        metrics: Arc<Metrics>,
        tls: Arc<Tls>,
        clock: Arc<dyn Clock>,
        message_bytes: u32,
        shutdown: Shutdown,
    ) -> Self {
        let forwarder = Arc::default();
        Self { vault, networks, metrics, tls, clock, message_bytes, shutdown, forwarder }
    }

    /// Lets requests with cards in them go to these destinations. Without this, to none.
    #[must_use]
    pub fn forwarding(self, to: Arc<Forwarder>) -> Self {
        Self { forwarder: to, ..self }
    }

    /// A stream outlives its headers: its certificate is checked again for each of its messages. A refusal is of the
    /// whole stream, and in the log before it is told.
    async fn still_good(&self, asker: &Asker) -> Result<(), Status> {
        let Asker { peer, .. } = asker;
        let Err(why) = self.tls.current().still_good(peer, self.clock.now()) else { return Ok(()) };
        self.metrics.turned_request(self.tls.door(), TurnedRequest::Certificate);
        self.vault
            .certificate_refused(&peer.authority_key.0, peer.name.as_str())
            .await
            .map_err(|e| status(&e))?;
        Err(Failure::new(Reason::CertificateRefused, why.to_string()).into())
    }

    fn refused(&self, error: &Error) -> Status {
        self.count(error);
        status(error)
    }

    fn item_error(&self, error: &Error) -> RpcStatus {
        self.count(error);
        failure(error).into()
    }

    fn count(&self, error: &Error) {
        if matches!(error, Error::Denied | Error::NotFound | Error::Budget { .. } | Error::Locked { .. }) {
            self.metrics.refusals.inc();
        }
    }

    async fn tokenize_one(
        &self,
        asker: &Asker,
        header: Option<v1::RequestHeader>,
        item: Option<v1::TokenizeItem>,
    ) -> Result<v1::TokenizeResult, Error> {
        let header = wire::header(header, asker.deadline)?;
        let card = item.ok_or_else(|| Error::malformed("item", "is required")).and_then(wire::new_card);
        let card = self.parsed(asker, &header, Action::Tokenize, card).await?;
        let mut answers = self.vault.tokenize_brought(asker.caller(), &header, vec![card]).await?;
        answers.pop().unwrap_or_else(|| Err(Error::internal())).map(|answer| wire::tokenized(answer, true))
    }

    async fn detokenize_one(
        &self,
        asker: &Asker,
        header: Option<v1::RequestHeader>,
        item: Option<v1::DetokenizeItem>,
    ) -> Result<v1::DetokenizeResult, Error> {
        let header = wire::header(header, asker.deadline)?;
        let item = item.ok_or_else(|| Error::malformed("item", "is required"));
        let asked = item.and_then(|item| wire::detokenize(&item));
        let wanted = self.parsed(asker, &header, Action::Detokenize, asked).await?;
        let mut answers = self.vault.detokenize_wanted(asker.caller(), &header, vec![wanted]).await?;
        let answer = answers.pop().unwrap_or_else(|| Err(Error::internal()))?;
        Ok(wire::detokenized(answer, true))
    }

    /// Sends a request with cards in it to a destination, once, and gives its answer back masked.
    async fn forward_one(
        &self,
        asker: &Asker,
        request: v1::ForwardRequest,
    ) -> Result<v1::ForwardResponse, Status> {
        let refused = |e: Error| self.refused(&e);
        let header = wire::header(request.header.clone(), asker.deadline).map_err(refused)?;
        let template = Template::parse(request);
        let template = self.parsed(asker, &header, Action::Detokenize, template).await.map_err(refused)?;
        if !self.forwarder.is_on() {
            self.vault.may_ask(asker.caller(), &header, Action::Detokenize).await.map_err(refused)?;
            return Err(refused(Error::Unimplemented { what: "forward, which no settings turn on," }));
        }
        let who = self.vault.who_is(asker.caller());
        let (merchant, bound) = who.map_or((None, None), |(_, merchant, bound)| (Some(merchant), bound));
        let at = merchant.zip(header.channel.clone().or(bound));
        let found = at.and_then(|(m, c)| self.forwarder.find(&template.destination, &m, &c));
        let Some(destination) = found.filter(|d| d.takes(&template)) else {
            return Err(refused(self.vault.outlet_refused(asker.caller(), &header).await));
        };
        let place = destination.place().ok_or_else(|| refused(Error::Overloaded))?;
        let outgoing = Outgoing { to: template.destination.clone(), request: template.hash() };
        let tokens = template.tokens().map(Token::copy).collect();
        let opened = self.vault.detokenize_for(asker.caller(), &header, &outgoing, tokens).await;
        let opened = opened.map_err(refused)?;
        let (mut cards, mut receipts) = (Vec::with_capacity(opened.len()), Vec::with_capacity(opened.len()));
        for card in opened {
            let Detokenized { revealed, card_expiry, receipt, .. } = card;
            let Revealed::Plain(pan) = revealed else { return Err(refused(Error::internal())) };
            cards.push(Card { pan, expiry: card_expiry });
            receipts.push(wire::receipt(&receipt, true));
        }
        let filled = template.fill(&cards).map_err(refused)?;
        let answer = destination.send(&template, filled).await;
        drop(place);
        let mut answer = answer.map_err(|why| {
            tracing::warn!(name = %template.destination, problem = why.as_str(), "a destination was not reached, or did not answer");
            Status::from(Failure::new(Reason::DestinationFailed, why.to_string()).with(STAGE, why.as_str()))
        })?;
        let sent: Vec<&[u8]> = cards.iter().map(|card| card.pan.expose_digits()).collect();
        let mut masked = mask(&mut answer.body, &sent);
        let headers = answer.headers.into_iter().map(|(name, mut value)| {
            masked += mask(&mut value, &sent);
            v1::HttpHeader { name, value: String::from_utf8_lossy(&value).into_owned() }
        });
        let headers = headers.collect();
        let body = std::mem::take(&mut *answer.body);
        let masked = u32::try_from(masked).unwrap_or(u32::MAX);
        Ok(v1::ForwardResponse { status: answer.status.into(), headers, body, masked, receipts })
    }

    async fn upgrade_one(
        &self,
        asker: &Asker,
        header: Option<v1::RequestHeader>,
        item: Option<v1::UpgradeItem>,
    ) -> Result<v1::UpgradeResult, Error> {
        let header = wire::header(header, asker.deadline)?;
        let token = item.ok_or_else(|| Error::malformed("item", "is required")).and_then(wire::upgrade);
        let token = self.parsed(asker, &header, Action::Upgrade, token).await?;
        let answer = self.vault.upgrade(asker.caller(), &header, token).await?;
        Ok(wire::upgraded(answer, true))
    }

    /// An item that is malformed is told so only to who may ask at all: whoever may not is refused, and logged, first.
    async fn parsed<T>(
        &self,
        asker: &Asker,
        header: &Header,
        action: Action,
        parsed: Result<T, Error>,
    ) -> Result<T, Error> {
        if parsed.is_err() {
            self.vault.may_ask(asker.caller(), header, action).await?;
        }
        parsed
    }

    /// Asks for the items that are well formed, and puts each answer back into its place.
    async fn batch<P, A, F>(
        &self,
        (asker, header, action): (&Asker, &Header, Action),
        parsed: Vec<Result<P, Error>>,
        ask: impl FnOnce(Vec<P>) -> F,
    ) -> Result<Vec<Result<A, RpcStatus>>, Status>
    where
        F: Future<Output = Result<Vec<Result<A, Error>>, Error>>,
    {
        let mut answers: Vec<Option<Result<A, RpcStatus>>> = Vec::with_capacity(parsed.len());
        let mut good = Vec::with_capacity(parsed.len());
        for item in parsed {
            answers.push(match item {
                Ok(item) => {
                    good.push(item);
                    None
                }
                Err(e) => Some(Err(self.item_error(&e))),
            });
        }
        let asked = if good.is_empty() {
            self.vault.may_ask(asker.caller(), header, action).await.map(|()| Vec::new())
        } else {
            ask(good).await
        };
        let asked = asked.map_err(|e| self.refused(&e))?;
        let mut asked = asked.into_iter();
        let place = |answer: Option<Result<A, RpcStatus>>| match answer {
            Some(told) => told,
            None => asked.next().unwrap_or_else(|| Err(Error::internal())).map_err(|e| self.item_error(&e)),
        };
        Ok(answers.into_iter().map(place).collect())
    }
}

/// The signed heads of a batch's receipts, each once.
#[derive(Default)]
struct Heads(BTreeMap<(u32, u64), v1::Checkpoint>);

impl Heads {
    fn note(&mut self, receipt: &Receipt) {
        let key = (receipt.log, receipt.checkpoint.checkpoint().size);
        self.0.entry(key).or_insert_with(|| wire::checkpoint(&receipt.checkpoint));
    }

    fn all(self) -> Vec<v1::Checkpoint> {
        self.0.into_values().collect()
    }
}

/// An item's reference, if it may be one: what was refused is not said back.
fn told_back(reference: &str) -> String {
    if wire::reference(reference).is_ok() { reference.to_owned() } else { String::new() }
}

fn within_batch<T>(items: &[T]) -> Result<(), Status> {
    if items.is_empty() || items.len() > MAX_BATCH {
        return Err(status(&Error::malformed("items", "must have 1 to 1,000")));
    }
    Ok(())
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Works on a stream's messages, at most [`STREAM_IN_FLIGHT`] at once, and answers each as it is done. What ends the
/// stream with an error (a broken message, a refused certificate) is told last: what was being worked on is answered
/// first, as it may be on disk already. Once it is time to stop, a client that does not read what it is told keeps the vault
/// no longer: the stream is cut, and says so.
fn answered<M, A, F>(
    messages: Streaming<M>,
    mut shutdown: Shutdown,
    ask: impl Fn(M) -> F + Send + 'static,
) -> Answers<A>
where
    M: Send + 'static,
    A: Send + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let (to, answers) = mpsc::channel(STREAM_IN_FLIGHT);
    // Beside the answers, so that there is room for it however many of them wait.
    let (told, end) = mpsc::channel(1);
    tokio::spawn(async move {
        let drains = shutdown.clone();
        let ended = tokio::select! {
            ended = answer_each(messages, drains, ask, to) => ended,
            () = shutdown.stopping() => Some(stopping()),
        };
        if let Some(ended) = ended {
            let _gone = told.try_send(Err(ended));
        }
    });
    Box::pin(ReceiverStream::new(answers).chain(ReceiverStream::new(end)))
}

/// Answers messages until they end or may be answered no more: then it says what ended them.
async fn answer_each<M, A, F>(
    mut messages: Streaming<M>,
    mut shutdown: Shutdown,
    ask: impl Fn(M) -> F,
    to: mpsc::Sender<Result<A, Status>>,
) -> Option<Status>
where
    A: Send + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let mut working = tokio::task::JoinSet::new();
    let mut end = None;
    while end.is_none() {
        let done = tokio::select! {
            message = messages.next(), if working.len() < STREAM_IN_FLIGHT => match message {
                Some(Ok(message)) => { working.spawn(ask(message)); continue }
                Some(Err(broken)) => { end = Some(broken); break }
                None => break,
            },
            Some(done) = working.join_next() => done,
            // What is being worked on is still answered; the rest can be sent to another node, or later.
            () = shutdown.draining() => { end = Some(stopping()); break }
        };
        match finished(done) {
            // A client that is gone needs no more.
            Ok(answer) => to.send(Ok(answer)).await.ok()?,
            Err(refused) => end = Some(refused),
        }
    }
    while let Some(done) = working.join_next().await {
        match finished(done) {
            Ok(answer) => to.send(Ok(answer)).await.ok()?,
            Err(refused) => end = end.or(Some(refused)),
        }
    }
    end
}

/// What ends a stream of a vault that stops.
fn stopping() -> Status {
    Failure::new(Reason::Overloaded, "the vault is stopping").retry(STOPPING).into()
}

/// What became of one message. Where its task broke down nobody knows its reference, so the stream has to end.
fn finished<A>(done: Result<Result<A, Status>, tokio::task::JoinError>) -> Result<A, Status> {
    done.unwrap_or_else(|_| Err(status(&Error::internal())))
}

#[tonic::async_trait]
impl v1::vault_server::Vault for VaultService {
    type StreamTokenizeStream = Answers<v1::StreamTokenizeResponse>;
    type StreamDetokenizeStream = Answers<v1::StreamDetokenizeResponse>;
    type StreamUpgradeStream = Answers<v1::StreamUpgradeResponse>;

    async fn tokenize(
        &self,
        request: Request<v1::TokenizeRequest>,
    ) -> Result<Response<v1::TokenizeResponse>, Status> {
        let asker = Asker::of(&request)?;
        let v1::TokenizeRequest { header, item } = request.into_inner();
        let result = self.tokenize_one(&asker, header, item).await.map_err(|e| self.refused(&e))?;
        Ok(Response::new(v1::TokenizeResponse { result: Some(result) }))
    }

    async fn detokenize(
        &self,
        request: Request<v1::DetokenizeRequest>,
    ) -> Result<Response<v1::DetokenizeResponse>, Status> {
        let asker = Asker::of(&request)?;
        let v1::DetokenizeRequest { header, item } = request.into_inner();
        let result = self.detokenize_one(&asker, header, item).await.map_err(|e| self.refused(&e))?;
        Ok(Response::new(v1::DetokenizeResponse { result: Some(result) }))
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectRequest>,
    ) -> Result<Response<v1::InspectResponse>, Status> {
        let asker = Asker::of(&request)?;
        let v1::InspectRequest { header, item } = request.into_inner();
        let ask = async {
            let header = wire::header(header, asker.deadline)?;
            let item = item.ok_or_else(|| Error::malformed("item", "is required"));
            let token = item.and_then(|item| wire::inspect(&item));
            let token = self.parsed(&asker, &header, Action::Inspect, token).await?;
            self.vault.inspect(asker.caller(), &header, token).await
        };
        let answer = ask.await.map_err(|e| self.refused(&e))?;
        Ok(Response::new(v1::InspectResponse { result: Some(wire::inspected(answer, true)) }))
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        let asker = Asker::of(&request)?;
        let v1::RevokeRequest { header, item } = request.into_inner();
        let ask = async {
            let header = wire::header(header, asker.deadline)?;
            let item = item.ok_or_else(|| Error::malformed("item", "is required"));
            let asked = item.and_then(|item| wire::revoke(&item));
            let (token, extent) = self.parsed(&asker, &header, Action::Revoke, asked).await?;
            self.vault.revoke(asker.caller(), &header, token, extent).await
        };
        let answer = ask.await.map_err(|e| self.refused(&e))?;
        Ok(Response::new(v1::RevokeResponse { result: Some(wire::revoked(&answer, true)) }))
    }

    async fn batch_tokenize(
        &self,
        request: Request<v1::BatchTokenizeRequest>,
    ) -> Result<Response<v1::BatchTokenizeResponse>, Status> {
        let asker = Asker::of(&request)?;
        let v1::BatchTokenizeRequest { header, items } = request.into_inner();
        within_batch(&items)?;
        let header = self.header(header, &asker)?;
        let references: Vec<String> = items.iter().map(|i| told_back(&i.reference)).collect();
        let parsed = items.into_iter().map(wire::new_card).collect();
        let answers = self
            .batch((&asker, &header, Action::Tokenize), parsed, |cards| {
                self.vault.tokenize_brought(asker.caller(), &header, cards)
            })
            .await?;
        let mut heads = Heads::default();
        let outcomes = references.into_iter().zip(answers).map(|(reference, answer)| {
            use v1::tokenize_outcome::Outcome;
            let outcome = match answer {
                Ok(answer) => {
                    heads.note(&answer.receipt);
                    Outcome::Result(wire::tokenized(answer, false))
                }
                Err(error) => Outcome::Error(error),
            };
            v1::TokenizeOutcome { reference, outcome: Some(outcome) }
        });
        let outcomes = outcomes.collect();
        Ok(Response::new(v1::BatchTokenizeResponse { outcomes, checkpoints: heads.all() }))
    }

    async fn batch_detokenize(
        &self,
        request: Request<v1::BatchDetokenizeRequest>,
    ) -> Result<Response<v1::BatchDetokenizeResponse>, Status> {
        let asker = Asker::of(&request)?;
        let v1::BatchDetokenizeRequest { header, items } = request.into_inner();
        within_batch(&items)?;
        let header = self.header(header, &asker)?;
        let parsed = items.iter().map(wire::detokenize).collect();
        let answers = self
            .batch((&asker, &header, Action::Detokenize), parsed, |asked| {
                self.vault.detokenize_wanted(asker.caller(), &header, asked)
            })
            .await?;
        let mut heads = Heads::default();
        let outcomes = items.into_iter().zip(answers).map(|(item, answer)| {
            use v1::detokenize_outcome::Outcome;
            let outcome = match answer {
                Ok(answer) => {
                    heads.note(&answer.receipt);
                    Outcome::Result(wire::detokenized(answer, false))
                }
                Err(error) => Outcome::Error(error),
            };
            v1::DetokenizeOutcome { reference: told_back(&item.reference), outcome: Some(outcome) }
        });
        let outcomes = outcomes.collect();
        Ok(Response::new(v1::BatchDetokenizeResponse { outcomes, checkpoints: heads.all() }))
    }

    async fn batch_inspect(
        &self,
        request: Request<v1::BatchInspectRequest>,
    ) -> Result<Response<v1::BatchInspectResponse>, Status> {
        let asker = Asker::of(&request)?;
        let v1::BatchInspectRequest { header, items } = request.into_inner();
        within_batch(&items)?;
        let header = self.header(header, &asker)?;
        let parsed = items.iter().map(wire::inspect).collect();
        let answers = self
            .batch((&asker, &header, Action::Inspect), parsed, |tokens| {
                self.vault.inspect_batch(asker.caller(), &header, tokens)
            })
            .await?;
        let mut heads = Heads::default();
        let outcomes = items.into_iter().zip(answers).map(|(item, answer)| {
            use v1::inspect_outcome::Outcome;
            let outcome = match answer {
                Ok(answer) => {
                    heads.note(&answer.receipt);
                    Outcome::Result(wire::inspected(answer, false))
                }
                Err(error) => Outcome::Error(error),
            };
            v1::InspectOutcome { reference: told_back(&item.reference), outcome: Some(outcome) }
        });
        let outcomes = outcomes.collect();
        Ok(Response::new(v1::BatchInspectResponse { outcomes, checkpoints: heads.all() }))
    }

    async fn batch_revoke(
        &self,
        request: Request<v1::BatchRevokeRequest>,
    ) -> Result<Response<v1::BatchRevokeResponse>, Status> {
        let asker = Asker::of(&request)?;
        let v1::BatchRevokeRequest { header, items } = request.into_inner();
        within_batch(&items)?;
        let header = self.header(header, &asker)?;
        let parsed = items.iter().map(wire::revoke).collect();
        let answers = self
            .batch((&asker, &header, Action::Revoke), parsed, |asked| {
                self.vault.revoke_batch(asker.caller(), &header, asked)
            })
            .await?;
        let mut heads = Heads::default();
        let outcomes = items.into_iter().zip(answers).map(|(item, answer)| {
            use v1::revoke_outcome::Outcome;
            let outcome = match answer {
                Ok(answer) => {
                    heads.note(&answer.receipt);
                    Outcome::Result(wire::revoked(&answer, false))
                }
                Err(error) => Outcome::Error(error),
            };
            v1::RevokeOutcome { reference: told_back(&item.reference), outcome: Some(outcome) }
        });
        let outcomes = outcomes.collect();
        Ok(Response::new(v1::BatchRevokeResponse { outcomes, checkpoints: heads.all() }))
    }

    async fn stream_tokenize(
        &self,
        request: Request<Streaming<v1::StreamTokenizeRequest>>,
    ) -> Result<Response<Self::StreamTokenizeStream>, Status> {
        let (asker, service) = (Asker::of(&request)?.for_stream(), self.clone());
        let ask = move |v1::StreamTokenizeRequest { header, item }: v1::StreamTokenizeRequest| {
            let (asker, service) = (asker.clone(), service.clone());
            let reference = item.as_ref().map_or_else(String::new, |i| told_back(&i.reference));
            async move {
                use v1::stream_tokenize_response::Outcome;
                service.still_good(&asker).await?;
                let outcome = match service.tokenize_one(&asker, header, item).await {
                    Ok(result) => Outcome::Result(result),
                    Err(e) => Outcome::Error(service.item_error(&e)),
                };
                Ok(v1::StreamTokenizeResponse { reference, outcome: Some(outcome) })
            }
        };
        Ok(Response::new(answered(request.into_inner(), self.shutdown.clone(), ask)))
    }

    async fn stream_detokenize(
        &self,
        request: Request<Streaming<v1::StreamDetokenizeRequest>>,
    ) -> Result<Response<Self::StreamDetokenizeStream>, Status> {
        let (asker, service) = (Asker::of(&request)?.for_stream(), self.clone());
        let ask = move |v1::StreamDetokenizeRequest { header, item }: v1::StreamDetokenizeRequest| {
            let (asker, service) = (asker.clone(), service.clone());
            let reference = item.as_ref().map_or_else(String::new, |i| told_back(&i.reference));
            async move {
                use v1::stream_detokenize_response::Outcome;
                service.still_good(&asker).await?;
                let outcome = match service.detokenize_one(&asker, header, item).await {
                    Ok(result) => Outcome::Result(result),
                    Err(e) => Outcome::Error(service.item_error(&e)),
                };
                Ok(v1::StreamDetokenizeResponse { reference, outcome: Some(outcome) })
            }
        };
        Ok(Response::new(answered(request.into_inner(), self.shutdown.clone(), ask)))
    }

    async fn forward(
        &self,
        request: Request<v1::ForwardRequest>,
    ) -> Result<Response<v1::ForwardResponse>, Status> {
        let asker = Asker::of(&request)?;
        self.forward_one(&asker, request.into_inner()).await.map(Response::new)
    }

    async fn get_sealing_key(
        &self,
        request: Request<v1::GetSealingKeyRequest>,
    ) -> Result<Response<v1::GetSealingKeyResponse>, Status> {
        let asker = Asker::of(&request)?;
        let place = wire::sealing_place(request.get_ref());
        let ask = async {
            let (merchant, channel) = match place {
                Ok(place) => place,
                // A name that is none is told so only to who is somebody here.
                Err(e) if self.vault.knows(asker.caller()) => return Err(e),
                Err(_) => return Err(self.vault.stranger_refused(asker.caller()).await),
            };
            self.vault.sealing_key(asker.caller(), merchant.as_ref(), channel.as_ref()).await
        };
        let key = ask.await.map_err(|e| self.refused(&e))?;
        Ok(Response::new(v1::GetSealingKeyResponse { key: Some(wire::sealing_key(key)) }))
    }

    async fn upgrade(
        &self,
        request: Request<v1::UpgradeRequest>,
    ) -> Result<Response<v1::UpgradeResponse>, Status> {
        life::upgrade(self, request).await
    }

    async fn batch_upgrade(
        &self,
        request: Request<v1::BatchUpgradeRequest>,
    ) -> Result<Response<v1::BatchUpgradeResponse>, Status> {
        life::batch_upgrade(self, request).await
    }

    async fn stream_upgrade(
        &self,
        request: Request<Streaming<v1::StreamUpgradeRequest>>,
    ) -> Result<Response<Self::StreamUpgradeStream>, Status> {
        let (asker, service) = (Asker::of(&request)?.for_stream(), self.clone());
        let ask = move |v1::StreamUpgradeRequest { header, item }: v1::StreamUpgradeRequest| {
            let (asker, service) = (asker.clone(), service.clone());
            let reference = item.as_ref().map_or_else(String::new, |i| told_back(&i.reference));
            async move {
                use v1::stream_upgrade_response::Outcome;
                service.still_good(&asker).await?;
                let outcome = match service.upgrade_one(&asker, header, item).await {
                    Ok(result) => Outcome::Result(result),
                    Err(e) => Outcome::Error(service.item_error(&e)),
                };
                Ok(v1::StreamUpgradeResponse { reference, outcome: Some(outcome) })
            }
        };
        Ok(Response::new(answered(request.into_inner(), self.shutdown.clone(), ask)))
    }

    async fn disable(
        &self,
        request: Request<v1::DisableRequest>,
    ) -> Result<Response<v1::DisableResponse>, Status> {
        life::disable(self, request).await
    }

    async fn enable(
        &self,
        request: Request<v1::EnableRequest>,
    ) -> Result<Response<v1::EnableResponse>, Status> {
        life::enable(self, request).await
    }

    async fn update_attributes(
        &self,
        request: Request<v1::UpdateAttributesRequest>,
    ) -> Result<Response<v1::UpdateAttributesResponse>, Status> {
        life::update_attributes(self, request).await
    }

    async fn batch_disable(
        &self,
        request: Request<v1::BatchDisableRequest>,
    ) -> Result<Response<v1::BatchDisableResponse>, Status> {
        life::batch_disable(self, request).await
    }

    async fn batch_enable(
        &self,
        request: Request<v1::BatchEnableRequest>,
    ) -> Result<Response<v1::BatchEnableResponse>, Status> {
        life::batch_enable(self, request).await
    }

    async fn batch_update_attributes(
        &self,
        request: Request<v1::BatchUpdateAttributesRequest>,
    ) -> Result<Response<v1::BatchUpdateAttributesResponse>, Status> {
        life::batch_update_attributes(self, request).await
    }

    async fn replace(
        &self,
        request: Request<v1::ReplaceRequest>,
    ) -> Result<Response<v1::ReplaceResponse>, Status> {
        life::replace(self, request).await
    }

    async fn batch_replace(
        &self,
        request: Request<v1::BatchReplaceRequest>,
    ) -> Result<Response<v1::BatchReplaceResponse>, Status> {
        life::batch_replace(self, request).await
    }

    async fn fingerprint(
        &self,
        request: Request<v1::FingerprintRequest>,
    ) -> Result<Response<v1::FingerprintResponse>, Status> {
        life::fingerprint(self, request).await
    }

    async fn delete_card(
        &self,
        request: Request<v1::DeleteCardRequest>,
    ) -> Result<Response<v1::DeleteCardResponse>, Status> {
        life::delete_card(self, request).await
    }

    async fn batch_fingerprint(
        &self,
        request: Request<v1::BatchFingerprintRequest>,
    ) -> Result<Response<v1::BatchFingerprintResponse>, Status> {
        life::batch_fingerprint(self, request).await
    }

    async fn batch_delete_card(
        &self,
        request: Request<v1::BatchDeleteCardRequest>,
    ) -> Result<Response<v1::BatchDeleteCardResponse>, Status> {
        life::batch_delete_card(self, request).await
    }

    async fn list_by_subject(
        &self,
        request: Request<v1::ListBySubjectRequest>,
    ) -> Result<Response<v1::ListBySubjectResponse>, Status> {
        life::list_by_subject(self, request).await
    }

    async fn erase_subject(
        &self,
        request: Request<v1::EraseSubjectRequest>,
    ) -> Result<Response<v1::EraseSubjectResponse>, Status> {
        life::erase_subject(self, request).await
    }

    async fn translate(
        &self,
        request: Request<v1::TranslateRequest>,
    ) -> Result<Response<v1::TranslateResponse>, Status> {
        life::translate(self, request).await
    }

    async fn batch_translate(
        &self,
        request: Request<v1::BatchTranslateRequest>,
    ) -> Result<Response<v1::BatchTranslateResponse>, Status> {
        life::batch_translate(self, request).await
    }

    async fn hold_security_code(
        &self,
        request: Request<v1::HoldSecurityCodeRequest>,
    ) -> Result<Response<v1::HoldSecurityCodeResponse>, Status> {
        life::hold_security_code(self, request).await
    }

    async fn read_security_code(
        &self,
        request: Request<v1::ReadSecurityCodeRequest>,
    ) -> Result<Response<v1::ReadSecurityCodeResponse>, Status> {
        life::read_security_code(self, request).await
    }

    async fn complete_authorization(
        &self,
        request: Request<v1::CompleteAuthorizationRequest>,
    ) -> Result<Response<v1::CompleteAuthorizationResponse>, Status> {
        life::complete_authorization(self, request).await
    }

    async fn batch_hold_security_code(
        &self,
        request: Request<v1::BatchHoldSecurityCodeRequest>,
    ) -> Result<Response<v1::BatchHoldSecurityCodeResponse>, Status> {
        life::batch_hold_security_code(self, request).await
    }

    async fn batch_read_security_code(
        &self,
        request: Request<v1::BatchReadSecurityCodeRequest>,
    ) -> Result<Response<v1::BatchReadSecurityCodeResponse>, Status> {
        life::batch_read_security_code(self, request).await
    }

    async fn batch_complete_authorization(
        &self,
        request: Request<v1::BatchCompleteAuthorizationRequest>,
    ) -> Result<Response<v1::BatchCompleteAuthorizationResponse>, Status> {
        life::batch_complete_authorization(self, request).await
    }

    async fn get_capabilities(
        &self,
        request: Request<v1::GetCapabilitiesRequest>,
    ) -> Result<Response<v1::GetCapabilitiesResponse>, Status> {
        let asker = Asker::of(&request)?;
        let Some((principal, merchant, channel)) = self.vault.who_is(asker.caller()) else {
            return Err(self.refused(&self.vault.stranger_refused(asker.caller()).await));
        };
        let limit = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let features = FEATURES.iter().chain(self.forwarder.is_on().then_some(&FORWARD));
        Ok(Response::new(v1::GetCapabilitiesResponse {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            features: features.map(|f| (*f).to_owned()).collect(),
            limits: Some(v1::Limits {
                batch_items: limit(MAX_BATCH),
                message_bytes: self.message_bytes,
                text_bytes: limit(MAX_CONTEXT),
                stream_in_flight: limit(STREAM_IN_FLIGHT),
                idempotency_window: Some(wire::duration(IDEMPOTENCY_WINDOW)),
            }),
            networks_version: self.networks.version().to_string(),
            principal: principal.to_string(),
            bound_merchant: merchant.to_string(),
            bound_channel: channel.map_or_else(String::new, |c| c.to_string()),
        }))
    }
}

impl VaultService {
    fn header(&self, header: Option<v1::RequestHeader>, asker: &Asker) -> Result<Header, Status> {
        wire::header(header, asker.deadline).map_err(|e| self.refused(&e))
    }
}

impl Asker {
    /// A stream's messages come long after its headers: the deadline of the headers is not theirs.
    fn for_stream(self) -> Self {
        Self { deadline: None, ..self }
    }
}
