//! Keys rotate under a server that is asked all the while, by every verb, and is killed on the way: no answer is wrong, none
//! fails, and the certificates of the rotations are checked offline.
//!
//! At full size (`VAULT_LONG=1`, a release build) a million rows are moved behind each rotation, and requests take at most
//! twice as long at the 99th of a hundred as they did before: that is judged there alone, and printed elsewhere. A request is timed
//! from when it was due, so one that waits behind a slow one is slow.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use vault_client::{AdminClient, ClientError, Reason, VaultClient, Zeroizing, ask};
use vault_core::policy::Caller;
use vault_core::store::{self, Engine};
use vault_core::token::Token;
use vault_core::vault::{NewCard, Place, Reveal, Vault};
use vault_proto::v1;
use vault_tests::cards::{card, number};
use vault_tests::desk::{OPTIONS, channel, custodian, header, shown};
use vault_tests::server::Rig;

/// How many programs ask at the same time.
const PROGRAMS: usize = 8;

/// What the program that asks may do besides.
const RIGHTS: &str = r#"
[[rule]]
id = "care"
effect = "allow"
merchant = "acme"
channels = ["web"]
principals = ["importer"]
actions = ["inspect", "disable", "enable", "update_attributes", "replace", "fingerprint", "delete_card",
    "list_by_subject", "erase_subject"]
show = "masked"
import = true

[[rule]]
id = "translates"
effect = "allow"
merchant = "acme"
channels = ["pos"]
principals = ["importer"]
actions = ["tokenize"]
import = true
"#;

/// How many tokens a batch and a stream of the traffic have.
const AT_ONCE: usize = 5;

/// What a run does, by size.
struct Size {
    /// Cards, each with a fingerprint: two rows.
    cards: u32,
    /// Requests a second, all programs together.
    rate: usize,
    /// How long it is looked at before the first rotation.
    quiet: Duration,
    kills: usize,
    /// Whether the times are judged.
    judged: bool,
}

impl Size {
    fn of_this_run() -> Self {
        if std::env::var_os("VAULT_LONG").is_some() {
            let quiet = Duration::from_secs(60);
            return Self { cards: 500_000, rate: 200, quiet, kills: 10, judged: !cfg!(debug_assertions) };
        }
        Self { cards: 5_000, rate: 60, quiet: Duration::from_secs(5), kills: 3, judged: false }
    }
}

/// A card number that no other `n` has, in a guess cell of its own.
fn digits(n: u32) -> String {
    number(&format!("4{:05}", n % 100_000), 16, n / 100_000)
}

/// How long the requests of a phase took, in microseconds.
type Times = Mutex<HashMap<usize, Vec<u64>>>;

/// What all programs share.
struct Scene {
    /// The clients of now: after a start the server listens elsewhere.
    client: RwLock<Arc<(VaultClient, VaultClient)>>,
    tokens: Vec<String>,
    /// Which phase requests count in.
    phase: AtomicUsize,
    /// Whether a server may be away.
    killing: AtomicBool,
    over: AtomicBool,
    times: Times,
    next_card: AtomicUsize,
}

impl Scene {
    fn web() -> v1::RequestHeader {
        ask::header("acme", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder)
    }

    async fn connect(&self, rig: &Rig) {
        let clients = clients(rig).await;
        *self.client.write().unwrap() = Arc::new(clients);
    }

    /// Asks until there is an answer; whether it was asked again. An error is one that an answer told.
    async fn ask<T, F>(
        &self,
        due: Instant,
        ask: impl Fn(Arc<(VaultClient, VaultClient)>) -> F,
    ) -> (Result<T, ClientError>, bool)
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut again = false;
        loop {
            let phase = self.phase.load(Ordering::SeqCst);
            let clients = self.client.read().unwrap().clone();
            let told = ask(clients).await;
            let gone = told.as_ref().err().is_some_and(|e| e.reason().is_none());
            let wait = told.as_ref().err().is_some_and(|e| e.reason() == Some(Reason::StillRunning));
            if (gone || wait) && self.killing.load(Ordering::SeqCst) {
                again = true;
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            let took = u64::try_from(due.elapsed().as_micros()).unwrap();
            self.times.lock().unwrap().entry(phase).or_default().push(took);
            return (told, again);
        }
    }
}

async fn clients(rig: &Rig) -> (VaultClient, VaultClient) {
    let one = async |name: &str| {
        let endpoint = rig.endpoint(name).attempts(1).deadline(Duration::from_secs(20));
        VaultClient::connect(endpoint).await.unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    (one("importer").await, one("gateway").await)
}

/// When the next request of a program is due.
struct Pace {
    due: Instant,
    period: Duration,
}

impl Pace {
    async fn next(&mut self) -> Instant {
        self.due += self.period;
        tokio::time::sleep_until(self.due.into()).await;
        self.due
    }
}

fn plain(digits: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(digits.as_bytes().to_vec())
}

/// One program: it looks at cards that were there, and goes through the lives of cards of its own.
struct Program {
    scene: Arc<Scene>,
    pace: Pace,
    asked: usize,
}

impl Program {
    async fn paid(&mut self, token: &str, expected: Option<&str>) {
        let due = self.pace.next().await;
        let header = Scene::web();
        let (told, _) = self
            .scene
            .ask(due, |clients| {
                let (header, item) = (header.clone(), ask::plain(token));
                async move { clients.1.detokenize(header, item).await }
            })
            .await;
        match (told, expected) {
            (Ok(told), Some(expected)) => {
                assert_eq!(ask::pan(told).unwrap().as_slice(), expected.as_bytes(), "a wrong card");
            }
            (Err(e), None) => assert_eq!(e.reason(), Some(Reason::NotFound), "{e}"),
            (told, _) => panic!("{expected:?}: {:?}", told.map(|_| ()).map_err(|e| e.to_string())),
        }
        self.asked += 1;
    }

    /// The same of several tokens: in one message, and in a stream.
    async fn paid_together(&mut self, held: &[(String, String)]) {
        let items = || held.iter().map(|(token, _)| ask::plain(token)).collect::<Vec<_>>();
        let (due, header) = (self.pace.next().await, Scene::web());
        let batch = |clients: Arc<(VaultClient, VaultClient)>| {
            let (header, items) = (header.clone(), items());
            async move { clients.1.batch_detokenize(header, items).await }
        };
        let told = self.scene.ask(due, batch).await.0.unwrap_or_else(|e| panic!("batch: {e}"));
        let told = told.outcomes.into_iter().map(|outcome| outcome.result.unwrap());
        for (told, (_, digits)) in told.zip(held) {
            assert_eq!(ask::pan(told).unwrap().as_slice(), digits.as_bytes(), "a wrong card");
        }
        let due = self.pace.next().await;
        let stream = |clients: Arc<(VaultClient, VaultClient)>| {
            let message = |(at, mut item): (usize, v1::DetokenizeItem)| {
                item.reference = at.to_string();
                v1::StreamDetokenizeRequest { header: Some(Scene::web()), item: Some(item) }
            };
            let messages: Vec<_> = items().into_iter().enumerate().map(message).collect();
            async move {
                let mut answers = clients.1.stream_detokenize(tokio_stream::iter(messages)).await?;
                let mut told = Vec::new();
                while let Some(next) = answers.next().await {
                    let outcome = next?;
                    told.push((outcome.reference, outcome.result?));
                }
                Ok(told)
            }
        };
        let told = self.scene.ask(due, stream).await.0.unwrap_or_else(|e| panic!("stream: {e}"));
        assert_eq!(told.len(), held.len());
        for (at, told) in told {
            let (_, digits) = &held[at.parse::<usize>().unwrap()];
            assert_eq!(ask::pan(told).unwrap().as_slice(), digits.as_bytes(), "a wrong card");
        }
        self.asked += 2;
    }

    /// A token of another channel for a card that has one, which opens there.
    async fn translated(&mut self, token: &str, digits: &str) {
        let asked = |client: VaultClient, header| {
            let item = ask::translate(token, "pos");
            async move { client.translate(header, item).await }
        };
        let there = self.does("translate", "", asked).await.0.token;
        let due = self.pace.next().await;
        let header = ask::header("acme", "pos", v1::Purpose::Authorization, v1::Initiator::Cardholder);
        let paid = |clients: Arc<(VaultClient, VaultClient)>| {
            let (header, item) = (header.clone(), ask::plain(&there));
            async move { clients.1.detokenize(header, item).await }
        };
        let told = self.scene.ask(due, paid).await.0.unwrap_or_else(|e| panic!("translated: {e}"));
        assert_eq!(ask::pan(told).unwrap().as_slice(), digits.as_bytes(), "a wrong card");
        self.asked += 1;
    }

    async fn does<T, F>(
        &mut self,
        name: &str,
        customer: &str,
        ask: impl Fn(VaultClient, v1::RequestHeader) -> F,
    ) -> (T, bool)
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let due = self.pace.next().await;
        let context = v1::Context { customer_reference: customer.to_owned(), ..Default::default() };
        let header = v1::RequestHeader { context: Some(context), ..Scene::web() };
        let asked = |clients: Arc<(VaultClient, VaultClient)>| ask(clients.0.clone(), header.clone());
        let (told, again) = self.scene.ask(due, asked).await;
        self.asked += 1;
        (told.unwrap_or_else(|e| panic!("{name}: {e}")), again)
    }

    async fn tokenize(&mut self, digits: &str, customer: &str) -> String {
        let asked = |client: VaultClient, header| {
            let item = ask::card(plain(digits), None);
            async move { client.tokenize(header, item).await }
        };
        self.does("tokenize", customer, asked).await.0.token
    }

    /// Every verb, once or more, about cards that were there and one that comes and goes.
    async fn round(&mut self, at: usize) {
        let scene = self.scene.clone();
        let held = |n: usize| {
            let n = n % scene.tokens.len();
            (scene.tokens[n].clone(), digits(u32::try_from(n).unwrap()))
        };
        for n in 0..4 {
            let (token, digits) = held(at.wrapping_mul(2_654_435_761) + n * 7_919);
            self.paid(&token, Some(&digits)).await;
        }
        let together: Vec<_> = (0..AT_ONCE).map(|n| held(at.wrapping_mul(48_271) + n * 104_729)).collect();
        self.paid_together(&together).await;
        let (token, digits_there) = held(at.wrapping_mul(69_621));
        self.translated(&token, &digits_there).await;
        let (token, same) = held(at.wrapping_mul(40_503));
        assert_eq!(self.tokenize(&same, "").await, token, "the same card has the same token");
        let masked = |client: VaultClient, header| {
            let item = ask::look(&token);
            async move { client.inspect(header, item).await }
        };
        let seen = self.does("inspect", "", masked).await.0;
        assert_eq!(seen.card.unwrap().last_four, same[12..], "another card's mask");

        let fresh = || digits(u32::try_from(scene.next_card.fetch_add(1, Ordering::SeqCst)).unwrap());
        let (first, second, customer) = (fresh(), fresh(), format!("customer-{at}"));
        let token = self.tokenize(&first, &customer).await;
        self.paid(&token, Some(&first)).await;
        let item = || token.clone();
        self.does("disable", "", |c, h| {
            let i = ask::disable(&item());
            async move { c.disable(h, i).await }
        })
        .await;
        self.paid(&token, None).await;
        self.does("enable", "", |c, h| {
            let i = ask::enable(&item());
            async move { c.enable(h, i).await }
        })
        .await;
        let expiry = v1::CardExpiry { year: 2031, month: 5 };
        self.does("update", "", |c, h| {
            let i =
                v1::UpdateAttributesItem { token: item(), card_expiry: Some(expiry), ..Default::default() };
            async move { c.update_attributes(h, i).await }
        })
        .await;
        self.does("replace", "", |c, h| {
            let i = ask::replace(&item(), plain(&second), None, v1::ReplaceReason::Lost);
            async move { c.replace(h, i).await }
        })
        .await;
        self.paid(&token, Some(&second)).await;
        let print = async |program: &mut Self| {
            let asked = |c: VaultClient, h| {
                let i = ask::fingerprint(plain(&first));
                async move { c.fingerprint(h, i).await }
            };
            program.does("fingerprint", "", asked).await.0.fingerprint
        };
        assert_eq!(print(self).await, print(self).await, "a fingerprint changed");
        let listed =
            self.does("list", &customer, |c, h| async move { c.list_by_subject(h, 10, "").await }).await.0;
        assert_eq!(listed.tokens.len(), 1);
        match at % 3 {
            0 => {
                self.does("revoke", "", |c, h| {
                    let i = ask::end(&item());
                    async move { c.revoke(h, i).await }
                })
                .await;
            }
            1 => {
                let (told, again) =
                    self.does("erase", &customer, |c, h| async move { c.erase_subject(h).await }).await;
                assert!(again || told.tokens == 1, "{}", told.tokens);
            }
            _ => {
                let due = self.pace.next().await;
                let context = v1::Context { customer_reference: customer.clone(), ..Default::default() };
                let header = v1::RequestHeader { context: Some(context), ..Scene::web() };
                let deleted = |clients: Arc<(VaultClient, VaultClient)>| {
                    let (header, item) = (header.clone(), ask::delete_card(plain(&second)));
                    async move { clients.0.delete_card(header, item).await }
                };
                let (told, again) = scene.ask(due, deleted).await;
                match told {
                    Ok(told) => assert!(again || told.tokens == 1),
                    Err(e) => assert!(again && e.reason() == Some(Reason::NotFound), "delete: {e}"),
                }
            }
        }
        self.paid(&token, None).await;
    }
}

/// The clients' authority, as a policy lists it.
fn authority(rig: &Rig) -> [u8; 32] {
    let hex = rig.clients.fingerprint().replace(':', "").to_lowercase();
    data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
}

/// Cards are put in by the importer, behind a server that is not there yet.
fn furnish(rig: &Rig, cards: u32) -> Vec<String> {
    let folder = rig.file("vault");
    let store = store::open(&folder, &OPTIONS).unwrap();
    let vault = pollster::block_on(Vault::open(Place::new(store, folder.join("esk")), &custodian())).unwrap();
    let authority = authority(rig);
    let importer = Caller::Certificate { authority: &authority, name: "spiffe://rig/importer" };
    let mut tokens = Vec::new();
    for from in (0..cards).step_by(1_000) {
        let header = vault_core::vault::Header { channel: Some(channel("web")), ..header() };
        let page: Vec<NewCard> = (from..cards.min(from + 1_000)).map(|n| card(&digits(n))).collect();
        let told = pollster::block_on(vault.tokenize_batch(importer, &header, page)).unwrap();
        tokens.extend(told.into_iter().map(|told| told.unwrap().token.as_str().to_owned()));
    }
    pollster::block_on(vault.close()).unwrap();
    tokens
}

async fn rotate(operator: &AdminClient, kind: v1::KeyKind) {
    let request = v1::RotateKeyRequest {
        header: Some(ask::change(None)),
        kind: kind.into(),
        merchant: "acme".to_owned(),
        ..Default::default()
    };
    operator.rotate_key(request).await.unwrap_or_else(|e| panic!("{kind:?}: {e}"));
}

/// Whether rows are still on their way, and how far they are.
async fn work(operator: &AdminClient) -> Option<v1::KeyWork> {
    let told = operator.get_key_work(v1::GetKeyWorkRequest {}).await.unwrap_or_else(|e| panic!("{e}")).work;
    assert!(told.as_ref().is_none_or(|work| !work.stuck && work.unreadable_rows == 0));
    told
}

fn p99(times: &Times, phase: usize) -> (usize, Duration) {
    let mut times = times.lock().unwrap().remove(&phase).unwrap_or_default();
    times.sort_unstable();
    let at = times.len() * 99 / 100;
    (times.len(), Duration::from_micros(times.get(at).copied().unwrap_or(0)))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_under_traffic_and_kills_without_a_failed_or_a_wrong_answer() {
    let size = Size::of_this_run();
    let mut rig = Rig::made(Engine::Redb, RIGHTS, "");
    let tokens = tokio::task::block_in_place(|| furnish(&rig, size.cards));
    rig.start();
    let scene = Arc::new(Scene {
        client: RwLock::new(Arc::new(clients(&rig).await)),
        tokens,
        phase: AtomicUsize::new(0),
        killing: AtomicBool::new(false),
        over: AtomicBool::new(false),
        times: Mutex::default(),
        next_card: AtomicUsize::new(size.cards as usize),
    });
    let mut programs = JoinSet::new();
    for n in 0..PROGRAMS {
        let period =
            Duration::from_secs(1) * u32::try_from(PROGRAMS).unwrap() / u32::try_from(size.rate).unwrap();
        let pace = Pace { due: Instant::now() + period * u32::try_from(n).unwrap() / 8, period };
        let mut program = Program { scene: scene.clone(), pace, asked: 0 };
        programs.spawn(async move {
            for at in (n..).step_by(PROGRAMS) {
                if program.scene.over.load(Ordering::SeqCst) {
                    break;
                }
                program.round(at).await;
            }
            program.asked
        });
    }
    // What the first second takes that nothing else does is not looked at.
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.phase.store(1, Ordering::SeqCst);
    tokio::time::sleep(size.quiet).await;
    let operator = rig.operator().await;
    let mut slowest = Vec::new();
    for (phase, kind) in [(2, v1::KeyKind::Dek), (3, v1::KeyKind::Idx), (4, v1::KeyKind::Fpr)] {
        scene.phase.store(phase, Ordering::SeqCst);
        let began = Instant::now();
        rotate(&operator, kind).await;
        while work(&operator).await.is_some() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        slowest.push((kind, phase, began.elapsed()));
    }
    scene.phase.store(5, Ordering::SeqCst);

    // Now all three at once, and the server is killed on the way.
    for kind in [v1::KeyKind::Dek, v1::KeyKind::Idx, v1::KeyKind::Fpr] {
        rotate(&operator, kind).await;
    }
    scene.killing.store(true, Ordering::SeqCst);
    for _ in 0..size.kills {
        let some = vault_core::random::below(1_500).unwrap();
        tokio::time::sleep(Duration::from_millis(500 + some)).await;
        tokio::task::block_in_place(|| {
            rig.kill();
            rig.start();
        });
        scene.connect(&rig).await;
    }
    let operator = rig.operator().await;
    while work(&operator).await.is_some() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    scene.killing.store(false, Ordering::SeqCst);
    scene.over.store(true, Ordering::SeqCst);
    let mut asked = 0;
    while let Some(program) = programs.join_next().await {
        asked += program.unwrap();
    }
    let (count, before) = p99(&scene.times, 1);
    println!("{} cards, {asked} requests answered; before: {count} requests, p99 {before:?}", size.cards);
    for (kind, phase, took) in slowest {
        let (count, p99) = p99(&scene.times, phase);
        let ratio = p99.as_secs_f64() / before.as_secs_f64();
        println!("{kind:?} rotated in {took:?}: {count} requests, p99 {p99:?}, {ratio:.2} times");
        assert!(!size.judged || ratio <= 2.0, "{kind:?}: {ratio:.2}");
    }
    assert!(rig.stop(), "the server did not end well");

    // Offline: every card, and the certificates by the log's public key alone.
    tokio::task::block_in_place(|| {
        let folder = rig.file("vault");
        let store = store::open(&folder, &OPTIONS).unwrap();
        let place = Place::new(store, folder.join("esk"));
        let vault = pollster::block_on(Vault::open(place, &custodian())).unwrap();
        assert_eq!(crate::key_rotation::certificates_of(&vault).len(), 6);
        let authority = authority(&rig);
        let gateway = Caller::Certificate { authority: &authority, name: "spiffe://rig/gateway" };
        for (page, tokens) in scene.tokens.chunks(1_000).enumerate() {
            let header = vault_core::vault::Header { channel: Some(channel("web")), ..header() };
            let asked = tokens.iter().map(|token| (Token::parse(token).unwrap(), Reveal::Plain)).collect();
            let told = pollster::block_on(vault.detokenize_batch(gateway, &header, asked));
            for (n, told) in told.unwrap().into_iter().enumerate() {
                let expected = digits(u32::try_from(page * 1_000 + n).unwrap());
                assert_eq!(shown(&told.unwrap().revealed), expected);
            }
        }
        let report = pollster::block_on(vault.verify_store(&mut |_, _| {})).unwrap();
        assert!(report.is_whole(), "{report:?}");
        pollster::block_on(vault.close()).unwrap();
    });
}
