//! A line to the vault that outlives its connections, and the one place where a call is tried again.
//!
//! Tried again, at most as often as the endpoint says and never past the deadline:
//! * where the vault advised it (`RetryInfo` in its own domain) for `OVERLOADED`, `STORE_AWAY` or `STILL_RUNNING`,
//!   no earlier than it said;
//! * where no answer came: no connection, a connection lost, or UNAVAILABLE without details, which is how proxies say it.
//!
//! Nothing else is, `BUDGET_SPENT` included: its wait is for a person to plan. The message is the same each time, its
//! `request_id` with it, so that what was done once is answered again and not done again.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, TimeoutExpired};
use vault_proto::status::{Failure, Reason};

use crate::dial::{Dialler, Farewell};
use crate::endpoint::Endpoint;
use crate::error::{ClientError, ConnectError};

/// The first wait is between nothing and this; each further one up to twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// No wait of our own is longer; the vault's advice may be.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The longest deadline: what is slower is not a call. It keeps sums of times far from overflow.
const LONGEST_DEADLINE: Duration = Duration::from_hours(24);
/// The peer's timer runs from when it got the request, but ours is coarse: its word of the deadline may come first by this.
const TIMER_SLACK: Duration = Duration::from_millis(50);
/// How often a connection with calls on it is asked whether it is still there, and for how long the answer may take: a
/// peer that vanished is noticed in time to try again.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer: 1,000 inspected tokens with 64 channels of 63 characters each are 4.5 MiB.
pub(crate) const LARGEST_ANSWER: usize = 8 * 1_048_576;

/// A line to one vault. Clones share its connection.
#[derive(Clone)]
pub(crate) struct Line {
    channel: Channel,
    farewell: Arc<Farewell>,
    allowance: Duration,
    attempts: u32,
}

impl Line {
    /// Reads and checks the endpoint. Connects with the first call, and again whenever a call finds no connection.
    pub(crate) async fn open(endpoint: Endpoint) -> Result<Self, ClientError> {
        let endpoint = endpoint.parse().await?;
        let dialler = Arc::new(Dialler::new(&endpoint));
        let farewell = dialler.farewell();
        let channel = Channel::builder(endpoint.uri)
            .user_agent(concat!("vault-client/", env!("CARGO_PKG_VERSION")))
            .map_err(|why| ClientError::Config(why.to_string()))?
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE)
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let dialler = Arc::clone(&dialler);
                async move { dialler.dial().await }
            }));
        Ok(Self { channel, farewell, allowance: endpoint.deadline, attempts: endpoint.attempts })
    }

    /// The same line, with another time allowance for each call.
    pub(crate) fn within(&self, allowance: Duration) -> Self {
        Self { allowance, ..self.clone() }
    }

    /// For how long a call may take.
    pub(crate) fn allowance(&self) -> Duration {
        self.allowance.min(LONGEST_DEADLINE)
    }

    /// Until when a call begun now may take.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.allowance()
    }

    /// Sends `message` until it is answered, refused for good, or out of time. The vault is told how much time is left.
    pub(crate) async fn call<Q, A, F>(
        &self,
        deadline: Instant,
        message: &Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let attempt = |channel, left| {
            let mut request = Request::new(message.clone());
            request.set_timeout(left);
            send(channel, request)
        };
        self.insist(deadline, attempt).await
    }

    /// The same for what answers with a stream: the deadline is for its beginning, so the vault is told of none.
    pub(crate) async fn begin<Q, A, F>(
        &self,
        message: &Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.insist(self.deadline(), |channel, _| send(channel, Request::new(message.clone()))).await
    }

    /// Sends what can be sent once only.
    pub(crate) async fn once<Q, A, F>(
        &self,
        message: Q,
        send: impl FnOnce(Channel, Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = self.deadline();
        let call = send(self.channel.clone(), Request::new(message));
        match tokio::time::timeout_at(deadline, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.judge(&status, deadline).error()),
            Err(_) => Err(ClientError::Deadline),
        }
    }

    async fn insist<A, F>(
        &self,
        deadline: Instant,
        attempt: impl Fn(Channel, Duration) -> F,
    ) -> Result<A, ClientError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut sent = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Deadline);
            }
            let status = match tokio::time::timeout_at(deadline, attempt(self.channel.clone(), left)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => return Err(ClientError::Deadline),
            };
            let (error, at_least) = match self.judge(&status, deadline) {
                Verdict::Final(error) => return Err(error),
                Verdict::Passing { error, at_least } => (error, at_least),
            };
            sent += 1;
            let Some(until) = Instant::now().checked_add(at_least.saturating_add(backoff(sent, dice())))
            else {
                return Err(error);
            };
            // A wait that ends past the deadline helps nobody: the reason is worth more than "too late".
            if sent >= self.attempts || until >= deadline {
                return Err(error);
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// What a status of a call means.
    pub(crate) fn judge(&self, status: &Status, deadline: Instant) -> Verdict {
        if let Some(error) = find::<ConnectError>(status) {
            return Verdict::connect(error.clone());
        }
        let failure = Failure::from(status);
        let late = deadline.saturating_duration_since(Instant::now()) <= TIMER_SLACK;
        let timer = find::<TimeoutExpired>(status).is_some();
        if timer || status.code() == Code::DeadlineExceeded || (late && status.code() == Code::Cancelled) {
            return Verdict::Final(ClientError::Deadline);
        }
        if lost(status) {
            let alert = self.farewell.take();
            return Verdict::connect(alert.map_or(ConnectError::Lost, ConnectError::from_alert));
        }
        let unanswered = status.code() == Code::Unavailable && status.details().is_empty();
        match advice(&failure).or(unanswered.then_some(Duration::ZERO)) {
            Some(at_least) => Verdict::Passing { error: failure.into(), at_least },
            None => Verdict::Final(failure.into()),
        }
    }
}

/// Whether trying again can help.
pub(crate) enum Verdict {
    /// It cannot.
    Final(ClientError),
    /// It can, after this long at least.
    Passing { error: ClientError, at_least: Duration },
}

impl Verdict {
    fn connect(error: ConnectError) -> Self {
        if error.is_passing() {
            Self::Passing { error: error.into(), at_least: Duration::ZERO }
        } else {
            Self::Final(error.into())
        }
    }

    pub(crate) fn error(self) -> ClientError {
        match self {
            Self::Final(error) | Self::Passing { error, .. } => error,
        }
    }
}

/// How long the vault says to wait, where it says so and a program may act on it. A reason of a later release is for the
/// caller to judge.
fn advice(failure: &Failure) -> Option<Duration> {
    match failure.reason()? {
        Reason::Overloaded | Reason::StoreAway | Reason::StillRunning => failure.retry_after(),
        _ => None,
    }
}

/// Whether the connection went away under the call. Such a status is made here, not by the peer, so it has a source; its
/// code depends on where in hyper and h2 the loss was seen.
fn lost(status: &Status) -> bool {
    status.source().is_some() && matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown)
}

fn find<E: Error + 'static>(status: &Status) -> Option<&E> {
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Exponential backoff with full jitter: evenly between nothing and a ceiling that doubles, so that clients that failed
/// together do not come back together. `dice` is any 64 random bits.
fn backoff(sent: u32, dice: u64) -> Duration {
    let doublings = sent.saturating_sub(1).min(16);
    let ceiling = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    let nanos = (ceiling.as_nanos() * u128::from(dice)) >> 64;
    u64::try_from(nanos).map_or(ceiling, Duration::from_nanos)
}

fn dice() -> u64 {
    let mut bits = [0; 8];
    match SystemRandom::new().fill(&mut bits) {
        Ok(()) => u64::from_be_bytes(bits),
        Err(_) => u64::MAX, // no luck to be had: the longest wait is the politest
    }
}

#[cfg(test)]
mod tests {
    use vault_proto::status::DOMAIN;

    use super::*;
    use crate::ask;
    use crate::rig::{Play, Rig, token_of};
    use crate::v1::{Initiator, Purpose, RequestHeader, TokenizeItem};
    use crate::{VaultClient, Zeroizing};

    const SOON: Duration = Duration::from_millis(1);

    fn header() -> RequestHeader {
        ask::header("acme", "web", Purpose::Authorization, Initiator::Cardholder)
    }

    fn card() -> TokenizeItem {
        let card = ask::card(Zeroizing::new(b"4111111111111111".to_vec()), None);
        TokenizeItem { reference: "1".into(), ..card }
    }

    #[tokio::test]
    async fn what_goes_to_a_destination_is_sent_once_whatever_the_vault_advises() {
        for reason in [Reason::Overloaded, Reason::StoreAway, Reason::DestinationFailed] {
            let rig =
                Rig::start(vec![Play::Refuse(Failure::new(reason, "said so").retry(SOON).into())]).await;
            let request = crate::v1::ForwardRequest { header: Some(header()), ..Default::default() };
            let told = rig.client().await.forward(request.clone()).await.unwrap_err();
            assert_eq!((told.reason(), rig.calls().len()), (Some(reason), 1));
            assert_eq!(rig.client().await.forward(request).await.unwrap().status, 200);
        }
    }

    /// Tokenizes once against a server that does `plays`, and says how that ended and how often it was asked.
    async fn tokenize(plays: Vec<Play>) -> (Result<String, ClientError>, usize) {
        let rig = Rig::start(plays).await;
        let result = rig.client().await.tokenize(header(), card()).await;
        (result.map(|r| r.token), rig.calls().len())
    }

    #[tokio::test]
    async fn a_refusal_is_tried_again_only_where_the_vault_says_so_and_a_program_may_act_on_it() {
        for reason in Reason::ALL {
            let acts = matches!(reason, Reason::Overloaded | Reason::StoreAway | Reason::StillRunning);
            let advised = Failure::new(*reason, "said so").retry(SOON);
            let (result, calls) = tokenize(vec![Play::Refuse(advised.into())]).await;
            assert_eq!((result.is_ok(), calls), (acts, if acts { 2 } else { 1 }), "{reason:?}, advised");

            let failure = Failure::new(*reason, "did not say so");
            let (result, calls) = tokenize(vec![Play::Refuse(failure.clone().into())]).await;
            let expected = match reason {
                Reason::DeadlineExceeded => ClientError::Deadline,
                _ => ClientError::Refused(failure),
            };
            assert_eq!((result, calls), (Err(expected), 1), "{reason:?}, not advised");
        }
    }

    #[tokio::test]
    async fn what_others_say_is_tried_again_only_where_they_say_that_nobody_answered() {
        let mut details = tonic_types::ErrorDetails::with_retry_info(Some(SOON));
        details.set_error_info("OVERLOADED", "proxy.example", std::collections::HashMap::new());
        let advised_by_a_proxy =
            <Status as tonic_types::StatusExt>::with_error_details(Code::Unavailable, "busy", details);
        let mut from_the_future = tonic_types::ErrorDetails::with_retry_info(Some(SOON));
        from_the_future.set_error_info("NEW", DOMAIN, std::collections::HashMap::new());
        let later_release =
            <Status as tonic_types::StatusExt>::with_error_details(Code::Unavailable, "new", from_the_future);
        for (status, calls) in [
            (Status::unavailable("no upstream"), 2),
            (advised_by_a_proxy, 1),
            (later_release, 1),
            (Status::internal("oops"), 1),
            (Status::resource_exhausted("too large"), 1),
            (Status::aborted("conflict"), 1),
            (Status::cancelled("by whom?"), 1),
            (Status::unknown("?"), 1),
        ] {
            let told = format!("{status:?}");
            assert_eq!(tokenize(vec![Play::Refuse(status)]).await.1, calls, "{told}");
        }
    }

    #[tokio::test]
    async fn attempts_are_counted_and_the_last_refusal_is_told() {
        let busy = Failure::new(Reason::Overloaded, "busy").retry(SOON);
        for attempts in [1, 2, 3] {
            let rig = Rig::start(vec![Play::Refuse(busy.clone().into()); 9]).await;
            let client = VaultClient::connect(rig.endpoint().attempts(attempts)).await.unwrap();
            let error = client.tokenize(header(), card()).await.unwrap_err();
            assert_eq!(error, ClientError::Refused(busy.clone()));
            assert_eq!(rig.calls().len(), usize::try_from(attempts).unwrap());
        }
    }

    #[tokio::test]
    async fn a_lost_connection_is_made_anew_and_the_same_request_sent_again() {
        let rig = Rig::start(vec![Play::Cut, Play::Cut]).await;
        let client = rig.client().await;
        let header = header();
        let result = client.tokenize(header.clone(), card()).await.unwrap();
        assert_eq!(result.token, token_of("1"));
        let calls = rig.calls();
        assert_eq!((calls.len(), rig.dialled()), (3, 3));
        for call in &calls {
            assert_eq!((&call.request_id, &call.message), (&header.request_id, &calls[0].message));
        }
    }

    #[tokio::test]
    async fn a_connection_that_keeps_breaking_is_told_as_lost() {
        let (result, calls) = tokenize(vec![Play::Cut; 9]).await;
        assert_eq!((result, calls), (Err(ConnectError::Lost.into()), 5));
    }

    #[tokio::test]
    async fn a_vault_that_restarts_is_waited_for() {
        let rig = Rig::start(Vec::new()).await;
        let client = VaultClient::connect(rig.endpoint().attempts(20)).await.unwrap();
        client.tokenize(header(), card()).await.unwrap();
        let (rig, result) = tokio::join!(rig.restart(Duration::from_millis(120)), async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            client.tokenize(header(), card()).await
        });
        assert_eq!(result.unwrap().token, token_of("1"));
        assert_eq!((rig.calls().len(), rig.dialled()), (2, 2));
    }

    #[tokio::test]
    async fn no_call_outlives_its_deadline_and_the_vault_is_told_of_it() {
        let allowed = Duration::from_millis(300);
        let rig = Rig::start(vec![Play::Late(Duration::from_secs(20)); 2]).await;
        let client = rig.client().await;
        for client in
            [client.within(allowed), VaultClient::connect(rig.endpoint().deadline(allowed)).await.unwrap()]
        {
            let begun = Instant::now();
            let error = client.tokenize(header(), card()).await.unwrap_err();
            let took = begun.elapsed();
            assert_eq!(error, ClientError::Deadline);
            assert!(took + TIMER_SLACK >= allowed && took < allowed * 4, "{took:?}");
        }
        for call in rig.calls() {
            let told = call.timeout.unwrap();
            assert!(told <= allowed && told > allowed / 2, "{told:?}");
        }
    }

    #[tokio::test]
    async fn each_attempt_has_only_the_time_that_is_left() {
        let wait = Duration::from_millis(100);
        let busy = Failure::new(Reason::StillRunning, "wait").retry(wait);
        let rig = Rig::start(vec![Play::Refuse(busy.into()); 2]).await;
        rig.client().await.within(Duration::from_secs(5)).tokenize(header(), card()).await.unwrap();
        let told: Vec<_> = rig.calls().iter().map(|call| call.timeout.unwrap()).collect();
        assert_eq!(told.len(), 3);
        for pair in told.windows(2) {
            assert!(pair[0] >= pair[1] + wait, "the vault's own wait was not kept: {told:?}");
        }
    }

    #[tokio::test]
    async fn a_wait_that_ends_past_the_deadline_is_not_begun() {
        let busy = Failure::new(Reason::Overloaded, "busy").retry(Duration::from_hours(1));
        let rig = Rig::start(vec![Play::Refuse(busy.clone().into())]).await;
        let client = rig.client().await;
        let begun = Instant::now();
        assert_eq!(client.tokenize(header(), card()).await.unwrap_err(), ClientError::Refused(busy));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn the_longest_deadline_there_is_overflows_nothing() {
        let rig = Rig::start(vec![]).await;
        rig.client().await.within(Duration::MAX).tokenize(header(), card()).await.unwrap();
        assert!(rig.calls()[0].timeout.unwrap() <= LONGEST_DEADLINE);
    }

    #[tokio::test]
    async fn an_answer_without_a_result_is_named_as_such() {
        let (result, calls) = tokenize(vec![Play::Hollow]).await;
        assert!(matches!(result, Err(ClientError::Answer(_))), "{result:?}");
        assert_eq!(calls, 1);
    }

    #[test]
    fn backoff_doubles_up_to_a_ceiling_and_is_spread_from_nothing_to_all_of_it() {
        for (sent, ceiling_ms) in
            [(1, 50), (2, 100), (3, 200), (7, 3_200), (8, 5_000), (60, 5_000), (u32::MAX, 5_000)]
        {
            let ceiling = Duration::from_millis(ceiling_ms);
            assert_eq!(backoff(sent, 0), Duration::ZERO);
            assert_eq!(backoff(sent, 1 << 63), ceiling / 2);
            assert!(backoff(sent, u64::MAX) < ceiling && backoff(sent, u64::MAX) > ceiling * 99 / 100);
        }
        assert_ne!((dice(), dice()), (dice(), dice()));
    }
}
