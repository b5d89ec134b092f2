//! Streams: many requests on one call, answered as they are ready, with a bound on how many are unanswered.
//!
//! Each message is a request of its own, under a `request_id` and `reference` of its own. A stream that breaks is not
//! resumed here: what was not answered is sent again by who still has it, under the same ids. It refuses to wait for ever:
//! where messages are unanswered, the next answer has the call's whole time allowance to come, and no more.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Status, Streaming};

use crate::batch::Outcome;
use crate::error::ClientError;
use crate::line::Line;

/// Messages of one stream that may be unanswered at once, where the vault allows as many: enough to fill its commits.
const MAX_IN_FLIGHT: usize = 128;

/// How many messages may be unanswered: as the vault says, and not above our own bound.
pub(crate) fn in_flight(told: u32) -> usize {
    usize::try_from(told).ok().filter(|n| *n > 0).map_or(MAX_IN_FLIGHT, |n| n.min(MAX_IN_FLIGHT))
}

type Wire<T> = Pin<Box<dyn Stream<Item = Result<Outcome<T>, Status>> + Send>>;

/// The answers of a stream, in the order in which they come: [`Outcome::reference`] tells which is which.
pub struct Answers<T> {
    inner: Option<Wire<T>>,
    line: Line,
    gate: Arc<Gate>,
}

impl<T> Answers<T> {
    pub(crate) fn new<W>(wire: Streaming<W>, line: Line, gate: Arc<Gate>) -> Self
    where
        W: Send + 'static,
        Outcome<T>: From<W>,
    {
        Self { inner: Some(Box::pin(wire.map(|next| next.map(Outcome::from)))), line, gate }
    }

    /// The next answer. `None`: all messages are answered and there are no more. An error is of the stream as a whole, and
    /// its end: what is unanswered then may or may not have been done, and is sent again under the same ids to learn it.
    ///
    /// May be dropped while it waits; no answer is lost by that.
    pub async fn next(&mut self) -> Option<Result<Outcome<T>, ClientError>> {
        let next = self.wait().await;
        if !matches!(next, Some(Ok(_))) {
            self.inner = None; // hangs up
        }
        next
    }

    async fn wait(&mut self) -> Option<Result<Outcome<T>, ClientError>> {
        let wire = self.inner.as_mut()?;
        loop {
            let until = self.gate.patience_ends(self.line.allowance());
            match tokio::time::timeout_at(until, wire.next()).await {
                Ok(Some(Ok(outcome))) => {
                    self.gate.leave();
                    return Some(Ok(outcome));
                }
                Ok(Some(Err(status))) => {
                    return Some(Err(self.line.judge(&status, self.line.deadline()).error()));
                }
                Ok(None) if self.gate.is_empty() => return None,
                Ok(None) => return Some(Err(ClientError::Answer("a stream ended with messages unanswered"))),
                // Only now is it known whether somebody was waiting all that time.
                Err(_) if self.gate.patience_ends(self.line.allowance()) > Instant::now() => {}
                Err(_) => return Some(Err(ClientError::Deadline)),
            }
        }
    }
}

/// Counts who is inside, and lets no more in than may be.
pub(crate) struct Gate {
    most: usize,
    state: Mutex<State>,
}

struct State {
    inside: usize,
    /// When the last one left, or the first came in: since when those inside have waited for any answer at all.
    since: Instant,
    waiting: Option<Waker>,
}

impl Gate {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::new(State { inside: 0, since: Instant::now(), waiting: None }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        let room = state.inside < self.most;
        if !room {
            state.waiting = Some(waker.clone());
        }
        room
    }

    fn enter(&self) {
        let mut state = self.state();
        if state.inside == 0 {
            state.since = Instant::now();
        }
        state.inside = state.inside.saturating_add(1);
    }

    fn leave(&self) {
        let mut state = self.state();
        state.inside = state.inside.saturating_sub(1);
        state.since = Instant::now();
        if let Some(waker) = state.waiting.take() {
            waker.wake();
        }
    }

    fn is_empty(&self) -> bool {
        self.state().inside == 0
    }

    /// Until when an answer must have come; if nobody waits for one, some time from now.
    fn patience_ends(&self, allowance: Duration) -> Instant {
        let state = self.state();
        if state.inside == 0 { Instant::now() + allowance } else { state.since + allowance }
    }
}

/// A stream of messages, of which no more get out than the gate lets in.
pub(crate) struct Gated<S> {
    inner: Pin<Box<S>>,
    gate: Arc<Gate>,
}

impl<S> Gated<S> {
    pub(crate) fn new(inner: S, gate: Arc<Gate>) -> Self {
        Self { inner: Box::pin(inner), gate }
    }
}

impl<S: Stream> Stream for Gated<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if !self.gate.has_room(cx.waker()) {
            return Poll::Pending;
        }
        let next = self.inner.as_mut().poll_next(cx);
        if let Poll::Ready(Some(_)) = &next {
            self.gate.enter();
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rig::{Play, Rig, token_of};
    use crate::v1::{
        Initiator, Limits, Purpose, StreamDetokenizeRequest, StreamTokenizeRequest, TokenizeItem,
    };
    use crate::{Failure, Reason, Zeroizing, ask};

    fn header() -> crate::v1::RequestHeader {
        ask::header("acme", "web", Purpose::Authorization, Initiator::Cardholder)
    }

    fn cards(count: usize) -> impl Stream<Item = StreamTokenizeRequest> + Send + 'static {
        tokio_stream::iter((0..count).map(|i| {
            let card = ask::card(Zeroizing::new(b"4111111111111111".to_vec()), None);
            let item = Some(TokenizeItem { reference: i.to_string(), ..card });
            StreamTokenizeRequest { header: Some(header()), item }
        }))
    }

    #[tokio::test]
    async fn no_more_are_unanswered_than_may_be_and_all_are_answered() {
        for (told, count, most) in [(4, 40, 4), (1, 5, 1), (0, 300, 128), (100_000, 300, 128), (50, 3, 3)] {
            let limits = Limits { stream_in_flight: told, ..Limits::default() };
            let rig = Rig::start_with(vec![], limits).await;
            let mut answers = rig.client().await.stream_tokenize(cards(count)).await.unwrap();
            let mut seen = BTreeSet::new();
            while let Some(answer) = answers.next().await {
                let answer = answer.unwrap();
                assert_eq!(answer.result.unwrap().token, token_of(&answer.reference));
                assert!(seen.insert(answer.reference));
            }
            assert_eq!((seen.len(), rig.most_unanswered()), (count, most), "the vault allows {told}");
            assert!(answers.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn cards_come_back_by_stream() {
        let rig = Rig::start(vec![]).await;
        let items = ["4111", "4112"]
            .map(|t| StreamDetokenizeRequest { header: Some(header()), item: Some(ask::plain(t)) });
        let mut answers = rig.client().await.stream_detokenize(tokio_stream::iter(items)).await.unwrap();
        for expected in [b"4111", b"4112"] {
            let answer = answers.next().await.unwrap().unwrap();
            assert_eq!(ask::pan(answer.result.unwrap()).unwrap().as_slice(), expected);
        }
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn a_broken_stream_ends_with_one_error_that_says_how() {
        let locked = Failure::new(Reason::Locked, "locked");
        for (play, error) in [
            (Play::Refuse(locked.clone().into()), ClientError::Refused(locked)),
            (Play::Cut, ClientError::Connect(crate::ConnectError::Lost)),
            (Play::Hollow, ClientError::Answer("a stream ended with messages unanswered")),
        ] {
            let rig = Rig::start(vec![play]).await;
            let unfinished = cards(3).chain(tokio_stream::pending());
            let mut answers = rig.client().await.stream_tokenize(unfinished).await.unwrap();
            assert_eq!(answers.next().await.unwrap().unwrap_err(), error);
            assert!(answers.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_stream_may_idle_but_nobody_waits_for_an_answer_for_ever() {
        let rig = Rig::start(vec![]).await;
        let allowed = Duration::from_millis(200);
        let client = rig.client().await.within(allowed);
        // The second message comes long after the first was answered: nobody waited in between.
        let slow = cards(2).throttle(allowed * 3);
        let mut answers = client.stream_tokenize(slow).await.unwrap();
        for reference in ["0", "1"] {
            assert_eq!(answers.next().await.unwrap().unwrap().reference, reference);
        }
        assert!(answers.next().await.is_none());

        let silent = Gate::new(1);
        silent.enter();
        let begun = Instant::now();
        let mut answers: Answers<()> = Answers {
            inner: Some(Box::pin(tokio_stream::pending())),
            line: client.line().clone(),
            gate: silent,
        };
        assert_eq!(answers.next().await.unwrap().unwrap_err(), ClientError::Deadline);
        assert!(begun.elapsed() >= allowed && begun.elapsed() < allowed * 4);
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn patience_is_counted_from_when_somebody_began_to_wait() {
        let (gate, pause) = (Gate::new(2), Duration::from_millis(30));
        gate.enter();
        gate.leave();
        tokio::time::sleep(pause).await;
        let begun = Instant::now();
        gate.enter();
        assert!(gate.patience_ends(pause) >= begun + pause, "nobody waited during the pause");
        tokio::time::sleep(pause).await;
        gate.enter();
        assert!(gate.patience_ends(pause) <= Instant::now(), "the first one has waited all the time");
        gate.leave();
        assert!(gate.patience_ends(pause) > Instant::now(), "an answer is a sign of life");
    }
}
