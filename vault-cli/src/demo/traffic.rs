//! Traffic: a few tills' worth of cards that go in one by one and come out again, while something happens to the server.
//!
//! Nothing is tried again: whatever fails is seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;
use vault_client::v1::{Initiator, Purpose, RequestHeader};
use vault_client::{ClientError, VaultClient, ask};
use vault_core::pan::Pan;

use crate::demo::cards::{digits, made_up};
use crate::demo::stage::MERCHANT;
use crate::fail::Failure;

/// How many ask at the same time, each waiting for its answer before it asks again.
pub(super) const AT_ONCE: usize = 8;

/// Cards going in and coming out.
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
    workers: JoinSet<Worked>,
}

/// A card and the token that the vault acknowledged for it.
pub(super) struct Stored {
    /// The card.
    pub(super) pan: Pan,
    /// Its token.
    pub(super) token: String,
}

/// A request to store a card that had no answer: what is needed to send the very same again.
pub(super) struct Cut {
    /// With its request id.
    pub(super) header: RequestHeader,
    /// The card.
    pub(super) pan: Pan,
}

/// What came of the traffic.
#[derive(Default)]
pub(super) struct Worked {
    /// Every acknowledged card.
    pub(super) stored: Vec<Stored>,
    /// How many cards came out again, each the one that went in.
    pub(super) given_back: usize,
    /// Requests without an answer.
    pub(super) cut: Vec<Cut>,
    /// What the requests failed with.
    pub(super) errors: Vec<ClientError>,
    /// How many tokens opened to another card, or no card could be made up.
    pub(super) wrong: usize,
}

impl Traffic {
    /// Begins. `numbers` counts the made-up cards, so that none comes twice in a story.
    pub(super) fn begin(shop: &VaultClient, gateway: &VaultClient, numbers: &Arc<AtomicUsize>) -> Self {
        let (stop, broken) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let answered = Arc::<AtomicUsize>::default();
        let mut workers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (shop, gateway) = (shop.clone(), gateway.clone());
            let (stop, broken) = (stop.clone(), broken.clone());
            let (answered, numbers) = (answered.clone(), numbers.clone());
            workers.spawn(async move {
                let mut worked = Worked::default();
                while !stop.load(Ordering::Relaxed) {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    if !worked.go(&shop, &gateway, number, &answered).await {
                        broken.store(true, Ordering::Relaxed);
                        break;
                    }
                }
                worked
            });
        }
        Self { stop, answered, broken, workers }
    }

    /// How many requests were answered so far.
    pub(super) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether a request failed: what it failed with is told at the end.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Ends, after the answers that are due.
    pub(super) async fn end(mut self) -> Result<Worked, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Worked::default();
        while let Some(worked) = self.workers.join_next().await {
            all.add(worked.map_err(Failure::failed)?);
        }
        Ok(all)
    }
}

impl Worked {
    /// One card in, and out again. Whether to go on.
    async fn go(
        &mut self,
        shop: &VaultClient,
        gateway: &VaultClient,
        number: usize,
        answered: &AtomicUsize,
    ) -> bool {
        let Some(pan) = made_up(number) else {
            self.wrong += 1;
            return false;
        };
        let header = ask::header("", "", Purpose::Authorization, Initiator::Cardholder);
        let token = match shop.tokenize(header.clone(), ask::card(digits(&pan), None)).await {
            Ok(answer) => answer.token,
            Err(error) => {
                self.errors.push(error);
                self.cut.push(Cut { header, pan });
                return false;
            }
        };
        answered.fetch_add(1, Ordering::Relaxed);
        let header = ask::header(MERCHANT, "web", Purpose::Authorization, Initiator::Cardholder);
        let given = gateway.detokenize(header, ask::plain(&token)).await.map(|answer| opens_to(answer, &pan));
        self.stored.push(Stored { pan, token });
        match given {
            Ok(true) => self.given_back += 1,
            Ok(false) => self.wrong += 1,
            Err(error) => {
                self.errors.push(error);
                return false;
            }
        }
        answered.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn add(&mut self, other: Self) {
        self.stored.extend(other.stored);
        self.given_back += other.given_back;
        self.cut.extend(other.cut);
        self.errors.extend(other.errors);
        self.wrong += other.wrong;
    }
}

/// Whether an answer holds this very card.
pub(super) fn opens_to(answer: vault_client::v1::DetokenizeResult, pan: &Pan) -> bool {
    ask::pan(answer).is_some_and(|given| Pan::parse(&given).is_ok_and(|given| given.same_as(pan)))
}
