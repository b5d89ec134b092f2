//! A server is killed while it works, over and over, and has lost nothing that it acknowledged, and shows nothing half
//! done.
//!
//! A round: a real server, dozens of clients that tokenize, detokenize, inspect and revoke, singly and in batches, while
//! keys rotate; kill -9 at a time drawn evenly from the seconds after the 500th acknowledgement; a restart. What was
//! acknowledged stands in the clients' own list, on disk by the time it counts. Then every request that had no answer is
//! sent again as it was, and must be answered; every token must open to its card; every revocation must hold; the log
//! must verify from its first entry, and against every row. The vault of a round is the one that the round before left.
//!
//! A round in which the server died with no commit under way proves little: too few of the others, and the test is void.
//! A commit is under way from when the journal takes requests until their callers are told. Two things show it:
//! * *proven*: the disk holds entries beyond every acknowledgement, so a commit was made and nobody had been told;
//! * *seen*: right before the kill, the journal's thread was inside a write or a flush, or at work between them, and not
//!   waiting for something to do. A commit that never reached the disk leaves no other trace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use vault_client::{AdminClient, ClientError, Outcome, Reason, VaultClient, Zeroizing, ask};
use vault_core::store::{self, Engine};
use vault_core::vault::{Place, Vault};
use vault_proto::v1;
use vault_tests::canary::Breeder;
use vault_tests::desk::{OPTIONS, custodian};
use vault_tests::server::Rig;

/// Rounds per engine where `VAULT_CRASH_ROUNDS` does not say; `./test --long` says fifty.
const ROUNDS: u64 = 6;
/// Acknowledgements before the clock of a round's death begins to run.
const FIRST: u64 = 500;
/// The death comes evenly within this time after the last of them.
const WINDOW: Duration = Duration::from_millis(1_500);
/// Clients at work at the same time.
const WORKERS: u64 = 128;
/// Connections of each principal: several, so that requests do not wait for one connection's order.
const CONNECTIONS: usize = 3;
/// Between two rotations of the key that seals rows.
const ROTATE_EVERY: Duration = Duration::from_millis(100);
/// How many tokens of former rounds are looked at again after each; the last round looks at all.
const OLD: usize = 1_000;
/// The most a round may take to come to its 500th acknowledgement.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_kill_9_on_redb() {
    survives(Engine::Redb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_kill_9_on_sled() {
    survives(Engine::Sled).await;
}

/// What all rounds of an engine come to.
#[derive(Default)]
struct Tally {
    rounds: u64,
    acknowledged: u64,
    retried: usize,
    opened: usize,
    lost: Vec<String>,
    proven: u64,
    seen: u64,
    under_way: u64,
    entries: u64,
}

impl Tally {
    fn print(&self, engine: Engine) {
        println!(
            "{engine}: {} rounds, {} requests acknowledged, {} sent again, {} cards opened, {} lost or not opened; died with \
             a commit under way: {} rounds ({} proven by the disk, {} seen); {} entries verified",
            self.rounds,
            self.acknowledged,
            self.retried,
            self.opened,
            self.lost.len(),
            self.under_way,
            self.proven,
            self.seen,
            self.entries,
        );
    }
}

async fn survives(engine: Engine) {
    let rounds =
        std::env::var("VAULT_CRASH_ROUNDS").map_or(ROUNDS, |n| n.parse().expect("a number of rounds"));
    let mut rig = Rig::made(engine, "", "");
    let list = rig.file("acknowledged");
    let mut tally = Tally::default();
    for round in 0..rounds {
        rig.start();
        let died = a_life_and_a_death(&mut rig, &list, round).await;
        tally.acknowledged += died.acknowledged;
        rig.start();
        let clients = Arc::new(Clients::connect(&rig).await);
        let proven = clients.size_at_opening().await > died.told;
        tally.proven += u64::from(proven);
        tally.seen += u64::from(died.at_work);
        tally.under_way += u64::from(proven || died.at_work);
        tally.retried += died.unanswered.len();
        send_again(&clients, died.unanswered, &list, &mut tally.lost).await;
        let truth = Truth::read(&list);
        let checked = truth.to_check(round + 1 == rounds);
        tally.opened += truth.check(&clients, &checked, &mut tally.lost).await;
        clients.verify_log().await;
        assert!(rig.stop(), "the server did not end well");
        tally.entries = verify_store(&rig.file("vault"), &truth, &mut tally.lost).await;
        tally.rounds += 1;
        assert_eq!(tally.lost, Vec::<String>::new(), "{engine}, round {round}");
    }
    tally.print(engine);
    assert!(
        tally.under_way * 100 >= tally.rounds * 80,
        "void: only {} of {} rounds died with a commit under way",
        tally.under_way,
        tally.rounds
    );
}

/// How a server died.
struct Died {
    acknowledged: u64,
    /// The largest size of the log that any answer told of.
    told: u64,
    at_work: bool,
    unanswered: Vec<Request>,
}

async fn a_life_and_a_death(rig: &mut Rig, list: &Path, round: u64) -> Died {
    let clients = Arc::new(Clients::connect(rig).await);
    let (ledger, writer) = Ledger::open(list);
    let (ledger, dying) = (Arc::new(ledger), Arc::new(AtomicBool::new(false)));
    let mut owned = Truth::read(list).dealt();
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        let mut worker = Worker {
            breeder: Breeder::new((round + 1) << 32 | (number + 1) << 8),
            held: owned.pop().unwrap_or_default(),
            clients: clients.clone(),
        };
        let (ledger, dying) = (ledger.clone(), dying.clone());
        workers.spawn(async move {
            loop {
                let request = worker.next();
                match until_told(&worker.clients, &request, &dying).await {
                    Some(told) => {
                        worker.learn(&told.facts);
                        ledger.note(told);
                    }
                    None => return request,
                }
            }
        });
    }
    let (rotating, rotated, dies) = (clients.clone(), ledger.clone(), dying.clone());
    workers.spawn(async move {
        use v1::KeyKind::{Adm, Ctl, Dek, Esk, Fpr, Idx, Kek, Log, Root, Trk};
        let rest = [Dek, Idx, Kek, Trk, Ctl, Esk, Fpr, Dek, Adm, Root].into_iter().cycle();
        // A log can be handed over so many times, not any number: once in a life.
        let mut kinds = std::iter::once(Log).chain(rest.skip(usize::try_from(round).unwrap() % 10));
        loop {
            let kind = kinds.next().unwrap();
            let request = Request { header: header("web"), what: What::Rotate(kind) };
            match until_told(&rotating, &request, &dies).await {
                Some(told) => rotated.note(told),
                None => return request,
            }
            tokio::time::sleep(ROTATE_EVERY).await;
        }
    });

    let began = Instant::now();
    while ledger.on_disk.load(Ordering::SeqCst) < FIRST {
        assert!(
            began.elapsed() < PATIENCE,
            "{} acknowledgements in two minutes",
            ledger.on_disk.load(Ordering::SeqCst)
        );
        assert!(!workers.is_empty());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let process = rig.process_id();
    let micros = below(u64::try_from(WINDOW.as_micros()).unwrap());
    tokio::time::sleep(Duration::from_micros(micros)).await;
    dying.store(true, Ordering::SeqCst);
    let at_work = tokio::task::block_in_place(|| {
        let at_work = journal_is_at_work(process);
        rig.kill();
        at_work
    });
    let mut unanswered = Vec::new();
    while let Some(request) = workers.join_next().await {
        unanswered.push(request.unwrap());
    }
    let told = ledger.told.load(Ordering::SeqCst);
    drop(Arc::into_inner(ledger).expect("all workers are gone"));
    Died { acknowledged: writer.join().unwrap(), told, at_work, unanswered }
}

/// Sends a request until it is answered; none if the server died instead.
async fn until_told(clients: &Clients, request: &Request, dying: &AtomicBool) -> Option<Told> {
    loop {
        match clients.send(request).await {
            Ok(told) => return Some(told),
            Err(_) if dying.load(Ordering::SeqCst) => return None,
            // It says itself that nothing was done and that trying again helps.
            Err(e) if matches!(e.reason(), Some(Reason::Overloaded | Reason::StillRunning)) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(e) => {
                // The kill may have come between the answer and the look at the clock of death.
                tokio::time::sleep(Duration::from_millis(200)).await;
                assert!(dying.load(Ordering::SeqCst), "{}: {e}", request.what.name());
                return None;
            }
        }
    }
}

/// Whether the journal's thread is running, or inside a system call that writes or flushes (proc(5), `[pid]/syscall`): a
/// journal with nothing to do waits for its next requests in another call.
fn journal_is_at_work(process: u32) -> bool {
    #[cfg(target_arch = "x86_64")]
    const AT_WORK: [&str; 7] = ["running", "1", "18", "74", "75", "277", "296"];
    #[cfg(target_arch = "aarch64")]
    const AT_WORK: [&str; 7] = ["running", "64", "68", "82", "83", "84", "70"];
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().map_while(Result::ok);
    let said = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let mut journal =
        tasks.map(|task| task.path()).filter(|task| said(task.join("comm")).trim() == "journal");
    journal.any(|task| {
        said(task.join("syscall")).split_whitespace().next().is_some_and(|call| AT_WORK.contains(&call))
    })
}

/// A number below `bound`, evenly.
fn below(bound: u64) -> u64 {
    vault_core::random::below(bound).unwrap()
}

fn pick<T>(from: &[T]) -> &T {
    &from[usize::try_from(below(from.len() as u64)).unwrap()]
}

/// The clients' own list: a line for each fact, and a flush for as many as came while the last one was made.
struct Ledger {
    to: mpsc::Sender<Vec<Fact>>,
    on_disk: Arc<AtomicU64>,
    told: AtomicU64,
}

impl Ledger {
    fn open(list: &Path) -> (Self, thread::JoinHandle<u64>) {
        let mut file = OpenOptions::new().create(true).append(true).open(list).unwrap();
        let (to, from) = mpsc::channel::<Vec<Fact>>();
        let on_disk = Arc::new(AtomicU64::new(0));
        let count = on_disk.clone();
        let writer = thread::spawn(move || {
            while let Ok(first) = from.recv() {
                let (mut lines, mut noted) = (String::new(), 0);
                for facts in std::iter::once(first).chain(from.try_iter()) {
                    facts.iter().for_each(|fact| lines.push_str(&fact.line()));
                    noted += 1;
                }
                file.write_all(lines.as_bytes()).unwrap();
                file.sync_data().unwrap();
                count.fetch_add(noted, Ordering::SeqCst);
            }
            count.load(Ordering::SeqCst)
        });
        (Self { to, on_disk, told: AtomicU64::new(0) }, writer)
    }

    fn note(&self, told: Told) {
        self.told.fetch_max(told.size, Ordering::SeqCst);
        self.to.send(told.facts).unwrap();
    }
}

/// What an answer says is so from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Fact {
    /// The token stands for the card, and was made on this channel.
    Stored { token: String, pan: String, channel: &'static str, format: &'static str },
    /// The token works no more, on this channel or on `all`.
    Ended { token: String, extent: &'static str },
    /// Something was shown, or a key rotated.
    Done,
}

impl Fact {
    fn line(&self) -> String {
        match self {
            Self::Stored { token, pan, channel, format } => {
                format!("stored {token} {pan} {channel} {format}\n")
            }
            Self::Ended { token, extent } => format!("ended {token} {extent}\n"),
            Self::Done => "done\n".to_owned(),
        }
    }
}

/// An answer: its facts, and the size of the log with them in it.
struct Told {
    facts: Vec<Fact>,
    size: u64,
}

/// A card behind a token, and where the token works.
#[derive(Clone)]
struct Held {
    token: String,
    pan: String,
    channel: &'static str,
    format: &'static str,
    ended: BTreeSet<&'static str>,
}

impl Held {
    /// Whether the token works on this channel. One that was made on `pos` works there alone.
    fn works_on(&self, channel: &str) -> bool {
        let granted = if self.channel == "pos" { channel == "pos" } else { true };
        granted && !self.ended.contains("all") && !self.ended.contains(channel)
    }
}

/// What is asked, so that the very same can be asked again.
#[derive(Clone)]
struct Request {
    header: v1::RequestHeader,
    what: What,
}

#[derive(Clone)]
enum What {
    /// Cards in, in a format by name. `again`: the token that the card must have.
    Store { pans: Vec<String>, format: &'static str, batch: bool, again: Option<String> },
    /// Tokens in, cards out.
    Pay { tokens: Vec<(String, String)>, batch: bool },
    /// Tokens in, masks out.
    Look { tokens: Vec<(String, String)>, batch: bool },
    /// Tokens ended.
    End { tokens: Vec<(String, &'static str)>, batch: bool },
    /// A key rotates.
    Rotate(v1::KeyKind),
}

impl What {
    fn name(&self) -> &'static str {
        match self {
            Self::Store { .. } => "tokenize",
            Self::Pay { .. } => "detokenize",
            Self::Look { .. } => "inspect",
            Self::End { .. } => "revoke",
            Self::Rotate(_) => "rotate",
        }
    }
}

fn header(channel: &str) -> v1::RequestHeader {
    ask::header("acme", channel, v1::Purpose::Authorization, v1::Initiator::Cardholder)
}

/// One client that owns its cards, so that it knows what each answer must be.
struct Worker {
    breeder: Breeder,
    held: Vec<Held>,
    clients: Arc<Clients>,
}

impl Worker {
    /// Something to ask, drawn at random among what can be asked of the cards held.
    fn next(&mut self) -> Request {
        let web: Vec<&Held> = self.held.iter().filter(|h| h.works_on("web")).collect();
        let request = |channel, what| Request { header: header(channel), what };
        let pair = |held: &&Held| (held.token.clone(), held.pan.clone());
        if web.len() < 5 {
            let pans = (0..5).map(|_| self.breeder.card(16)).collect();
            return request("web", What::Store { pans, format: "shop", batch: true, again: None });
        }
        let some = |most: usize| web.iter().take(most).map(pair).collect::<Vec<_>>();
        match below(100) {
            0..25 => {
                let pans = vec![self.breeder.card(16)];
                let format = *pick(&["shop", "shop", "fresh"]);
                request("web", What::Store { pans, format, batch: false, again: None })
            }
            25..30 => {
                let pans = vec![self.breeder.card(16)];
                request("pos", What::Store { pans, format: "till", batch: false, again: None })
            }
            30..36 => {
                let pans = (0..2 + below(15)).map(|_| self.breeder.card(16)).collect();
                request(
                    "web",
                    What::Store { pans, format: pick::<&str>(&["shop", "fresh"]), batch: true, again: None },
                )
            }
            36..60 => {
                let all: Vec<&Held> = self.held.iter().collect();
                let held = pick(&all);
                let channel = if held.channel == "pos" { "pos" } else { *pick(&["web", "app"]) };
                let held = if held.works_on(channel) { held } else { pick(&web) };
                let channel = if held.works_on(channel) { channel } else { "web" };
                request(channel, What::Pay { tokens: vec![pair(held)], batch: false })
            }
            60..66 => request("web", What::Pay { tokens: some(20), batch: true }),
            66..74 => request("web", What::Look { tokens: vec![pair(pick(&web))], batch: false }),
            74..77 => request("web", What::Look { tokens: some(20), batch: true }),
            77..86 => {
                let extent = *pick(&["all", "all", "web", "app"]);
                let unended: Vec<_> = web.iter().filter(|h| !h.ended.contains(extent)).collect();
                let held = if unended.is_empty() { web[0] } else { pick(&unended) };
                request("web", What::End { tokens: vec![(held.token.clone(), extent)], batch: false })
            }
            86..89 => {
                let tokens = web.iter().take(3).map(|h| (h.token.clone(), *pick(&["all", "web"]))).collect();
                request("web", What::End { tokens, batch: true })
            }
            _ => {
                let held = pick(&web);
                // A card whose token works everywhere is given that token again; a narrowed one, another.
                let again = (held.ended.is_empty() && self.is_reused(held)).then(|| held.token.clone());
                let pans = vec![held.pan.clone()];
                request("web", What::Store { pans, format: "shop", batch: false, again })
            }
        }
    }

    /// Whether this is the one token that its format gives its card.
    fn is_reused(&self, held: &Held) -> bool {
        self.held.iter().filter(|h| h.pan == held.pan).count() == 1 && held.format == "shop"
    }

    fn learn(&mut self, facts: &[Fact]) {
        for fact in facts {
            learn(&mut self.held, fact);
        }
    }
}

fn learn(held: &mut Vec<Held>, fact: &Fact) {
    match fact {
        Fact::Stored { token, pan, channel, format } => {
            if !held.iter().any(|h| h.token == *token) {
                let (token, pan) = (token.clone(), pan.clone());
                held.push(Held { token, pan, channel, format, ended: BTreeSet::new() });
            }
        }
        Fact::Ended { token, extent } => {
            if let Some(held) = held.iter_mut().find(|h| h.token == *token) {
                held.ended.insert(extent);
            }
        }
        Fact::Done => {}
    }
}

fn is_chained(kind: v1::KeyKind) -> bool {
    matches!(kind, v1::KeyKind::Idx | v1::KeyKind::Fpr | v1::KeyKind::Esk)
}

/// Whether a key is the whole vault's, and no merchant's.
fn is_of_the_vault(kind: v1::KeyKind) -> bool {
    use v1::KeyKind::{Adm, Ctl, Esk, Log, Root};
    matches!(kind, Adm | Ctl | Esk | Log | Root)
}

/// The principals' connections. None of them sends anything twice by itself.
struct Clients {
    shop: Vec<VaultClient>,
    gateway: Vec<VaultClient>,
    till: Vec<VaultClient>,
    operator: AdminClient,
}

impl Clients {
    async fn connect(rig: &Rig) -> Self {
        let (mut shop, mut gateway, mut till) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            for (name, to) in [("shop", &mut shop), ("gateway", &mut gateway), ("till", &mut till)] {
                let endpoint = rig.endpoint(name).attempts(1).deadline(Duration::from_secs(30));
                to.push(VaultClient::connect(endpoint).await.unwrap_or_else(|e| panic!("{name}: {e}")));
            }
        }
        Self { shop, gateway, till, operator: rig.operator().await }
    }

    /// Sends a request. An answer that is not what it must be fails the test here; an error is the caller's to judge.
    async fn send(&self, request: &Request) -> Result<Told, ClientError> {
        let header = request.header.clone();
        match &request.what {
            What::Store { pans, format, batch, again } => {
                let channel = if header.channel == "pos" { "pos" } else { "web" };
                let client = pick(if channel == "pos" { &self.till } else { &self.shop });
                let item = |pan: &String| v1::TokenizeItem {
                    format: (*format).to_owned(),
                    ..ask::card(Zeroizing::new(pan.clone().into_bytes()), None)
                };
                let mut items: Vec<_> = pans.iter().map(item).collect();
                let (results, size) = if *batch {
                    all(client.batch_tokenize(header, items).await?)?
                } else {
                    let result = client.tokenize(header, items.remove(0)).await?;
                    (vec![result.clone()], size(result.receipt.as_ref()))
                };
                if let Some(token) = again {
                    assert_eq!(results[0].token, *token, "a card was given another token");
                }
                let stored = |(pan, result): (&String, v1::TokenizeResult)| Fact::Stored {
                    token: result.token,
                    pan: pan.clone(),
                    channel,
                    format,
                };
                Ok(Told { facts: pans.iter().zip(results).map(stored).collect(), size })
            }
            What::Pay { tokens, batch } => {
                let client = pick(&self.gateway);
                let mut items: Vec<_> = tokens.iter().map(|(token, _)| ask::plain(token)).collect();
                let (results, size) = if *batch {
                    all(client.batch_detokenize(header, items).await?)?
                } else {
                    let result = client.detokenize(header, items.remove(0)).await?;
                    let size = size(result.receipt.as_ref());
                    (vec![result], size)
                };
                for ((token, pan), result) in tokens.iter().zip(results) {
                    assert_eq!(
                        ask::pan(result).unwrap().as_slice(),
                        pan.as_bytes(),
                        "{token} opens to another card"
                    );
                }
                Ok(Told { facts: vec![Fact::Done], size })
            }
            What::Look { tokens, batch } => {
                let client = pick(&self.shop);
                let mut items: Vec<_> = tokens.iter().map(|(token, _)| ask::look(token)).collect();
                let (results, size) = if *batch {
                    all(client.batch_inspect(header, items).await?)?
                } else {
                    let result = client.inspect(header, items.remove(0)).await?;
                    (vec![result.clone()], size(result.receipt.as_ref()))
                };
                for ((token, pan), result) in tokens.iter().zip(results) {
                    assert!(pan.ends_with(&result.card.unwrap().last_four), "{token} shows another card");
                }
                Ok(Told { facts: vec![Fact::Done], size })
            }
            What::End { tokens, batch } => {
                let client = pick(&self.shop);
                let item = |(token, extent): &(String, &str)| match *extent {
                    "all" => ask::end(token),
                    channel => ask::end_on(token, channel),
                };
                let mut items: Vec<_> = tokens.iter().map(item).collect();
                let (_, size) = if *batch {
                    all(client.batch_revoke(header, items).await?)?
                } else {
                    let result = client.revoke(header, items.remove(0)).await?;
                    (vec![result.clone()], size(result.receipt.as_ref()))
                };
                let ended =
                    |(token, extent): &(String, &'static str)| Fact::Ended { token: token.clone(), extent };
                Ok(Told { facts: tokens.iter().map(ended).collect(), size })
            }
            What::Rotate(kind) => {
                let mut change = ask::change(None);
                change.request_id = header.request_id;
                let request = v1::RotateKeyRequest {
                    header: Some(change),
                    kind: (*kind).into(),
                    merchant: if is_of_the_vault(*kind) { "" } else { "acme" }.to_owned(),
                    ..v1::RotateKeyRequest::default()
                };
                let answer = match self.operator.rotate_key(request).await {
                    // Rows are still being renamed behind the one before, or the chain is as long as it may be; customers still move.
                    Err(e) if e.reason() == Some(Reason::Malformed) && is_chained(*kind) => {
                        return Ok(Told { facts: vec![Fact::Done], size: 0 });
                    }
                    answer => answer?,
                };
                Ok(Told { facts: vec![Fact::Done], size: size(answer.receipt.as_ref()) })
            }
        }
    }

    /// Sends again what had no answer.
    async fn again(&self, request: &Request) -> Result<Vec<Fact>, String> {
        let name = request.what.name();
        let failed = |e| format!("a {name} sent again: {e}");
        let facts = self.send(request).await.map_err(failed)?.facts;
        if self.send(request).await.map_err(failed)?.facts != facts {
            return Err(format!("a {name} sent again had two answers"));
        }
        // The card under a new request: where a fingerprint stood without its row, this would not be the same token.
        if let What::Store { pans, format: format @ ("shop" | "till"), again: None, .. } = &request.what {
            for (pan, fact) in pans.iter().zip(&facts) {
                let Fact::Stored { token, .. } = fact else { continue };
                let again = Some(token.clone());
                let what = What::Store { pans: vec![pan.clone()], format, batch: false, again };
                self.send(&Request { header: header(&request.header.channel), what })
                    .await
                    .map_err(failed)?;
            }
        }
        Ok(facts)
    }

    /// The size that the log had when this process opened it.
    async fn size_at_opening(&self) -> u64 {
        let mut page_token = String::new();
        loop {
            let asked = v1::ListAuditEntriesRequest { newest_first: true, page_token, ..Default::default() };
            let page = self.operator.list_audit_entries(asked).await.unwrap_or_else(|e| panic!("{e}"));
            if let Some(opened) = page.entries.iter().find(|e| e.kind == "vault_opened") {
                return opened.index;
            }
            page_token = page.next_page_token;
            assert!(!page_token.is_empty(), "the log does not say that the vault was opened");
        }
    }

    async fn verify_log(&self) {
        // A busy disk may be slow between two steps: how slow is not judged here.
        let patient = self.operator.within(Duration::from_secs(600));
        let mut steps = patient.verify_log(v1::VerifyLogRequest::default()).await.unwrap();
        while let Some(step) = steps.next().await {
            if let v1::verify_log_response::Step::Verdict(verdict) = step.unwrap_or_else(|e| panic!("{e}")) {
                assert!(verdict.intact, "{}", verdict.reason);
                return;
            }
        }
        panic!("the verification of the log had no verdict");
    }
}

fn size(receipt: Option<&v1::Receipt>) -> u64 {
    receipt.expect("a receipt").tree_size
}

/// A batch's results and the size of the log with them in it. An item that failed stands for the whole: it is sent again.
fn all<T>(batch: vault_client::Batch<T>) -> Result<(Vec<T>, u64), ClientError> {
    let size = batch.checkpoints.iter().map(|c| c.tree_size).max().unwrap_or(0);
    let results =
        batch.outcomes.into_iter().map(|Outcome { result, .. }| result).collect::<Result<_, _>>()?;
    Ok((results, size))
}

/// What had no answer is sent again as it was: it succeeds, twice with the same answer, and what it stored is whole.
async fn send_again(clients: &Arc<Clients>, unanswered: Vec<Request>, list: &Path, lost: &mut Vec<String>) {
    let mut at_once = JoinSet::new();
    for request in unanswered {
        let clients = clients.clone();
        at_once.spawn(async move { clients.again(&request).await });
    }
    let mut file = OpenOptions::new().append(true).open(list).unwrap();
    while let Some(told) = at_once.join_next().await {
        match told.unwrap() {
            Ok(facts) => facts.iter().for_each(|fact| file.write_all(fact.line().as_bytes()).unwrap()),
            Err(why) => lost.push(why),
        }
    }
    file.sync_data().unwrap();
}

/// The clients' list, read back.
struct Truth {
    held: BTreeMap<String, Held>,
    /// In the order of the list.
    order: Vec<String>,
}

impl Truth {
    fn read(list: &Path) -> Self {
        let mut truth = Self { held: BTreeMap::new(), order: Vec::new() };
        let text = if list.exists() { fs::read_to_string(list).unwrap() } else { String::new() };
        let known = |word: &str| {
            *["all", "web", "app", "pos", "shop", "till", "fresh"].iter().find(|k| **k == word).unwrap()
        };
        for line in text.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["stored", token, pan, channel, format] => {
                    let held = Held {
                        token: token.to_owned(),
                        pan: pan.to_owned(),
                        channel: known(channel),
                        format: known(format),
                        ended: BTreeSet::new(),
                    };
                    if let Some(had) = truth.held.get(token) {
                        assert_eq!(had.pan, pan, "{token} was given to two cards");
                    } else {
                        truth.order.push(token.to_owned());
                        truth.held.insert(token.to_owned(), held);
                    }
                }
                ["ended", token, extent] => {
                    truth.held.get_mut(token).unwrap().ended.insert(known(extent));
                }
                ["done"] => {}
                _ => panic!("the list has a line that nobody wrote: {line}"),
            }
        }
        truth
    }

    /// Some of the living tokens of former rounds, a few for each worker. A card goes to one worker with all its tokens.
    fn dealt(&self) -> Vec<Vec<Held>> {
        let mut by_pan: BTreeMap<&str, Vec<Held>> = BTreeMap::new();
        for held in self.held.values() {
            by_pan.entry(&held.pan).or_default().push(held.clone());
        }
        let mut dealt = vec![Vec::new(); usize::try_from(WORKERS).unwrap()];
        let alive = by_pan.into_values().filter(|held| held.iter().any(|h| h.works_on("web")));
        for (at, held) in alive.take(10 * dealt.len()).enumerate() {
            let to = at % dealt.len();
            dealt[to].extend(held);
        }
        dealt
    }

    /// All tokens, or those of late and as many of the others, drawn.
    fn to_check(&self, all: bool) -> Vec<&Held> {
        let late = self.order.len().saturating_sub(if all { usize::MAX } else { 3 * OLD });
        let drawn = (0..OLD).filter(|_| late > 0).map(|_| pick(&self.order[..late])).collect::<BTreeSet<_>>();
        self.order[late..].iter().chain(drawn).map(|token| &self.held[token]).collect()
    }

    /// Asks for every card on every channel: it opens where it works, and nowhere else. How many opened.
    async fn check(&self, clients: &Clients, tokens: &[&Held], lost: &mut Vec<String>) -> usize {
        let mut opened = 0;
        for channel in ["web", "app", "pos"] {
            for page in tokens.chunks(500) {
                let items = page.iter().map(|held| ask::plain(&held.token)).collect();
                let answers = clients.gateway[0].batch_detokenize(header(channel), items).await;
                let answers = answers.unwrap_or_else(|e| panic!("{e}")).outcomes;
                for (held, Outcome { result, .. }) in page.iter().zip(answers) {
                    let (token, works) = (&held.token, held.works_on(channel));
                    match result.map(|card| ask::pan(card).unwrap()) {
                        Ok(pan) if works && pan.as_slice() == held.pan.as_bytes() => opened += 1,
                        Ok(_) if works => lost.push(format!("{token} opens to another card")),
                        Ok(_) => lost.push(format!("{token} opens on {channel} after {:?}", held.ended)),
                        Err(e) if works => lost.push(format!("{token} on {channel}: {e}")),
                        Err(e) if e.reason() == Some(Reason::NotFound) => {}
                        Err(e) => lost.push(format!("{token} on {channel}, ended: {e}")),
                    }
                }
            }
        }
        opened
    }
}

/// Opens the vault that the server left, and holds every row against the log. The number of entries.
async fn verify_store(folder: &Path, truth: &Truth, lost: &mut Vec<String>) -> u64 {
    let store = store::open(folder, &OPTIONS).unwrap_or_else(|e| panic!("{e}"));
    let place = Place::new(store, folder.join("esk"));
    let vault = Vault::open(place, &custodian()).await.unwrap_or_else(|e| panic!("{e}"));
    let report = vault.verify_store(&mut |_, _| {}).await.unwrap_or_else(|e| panic!("{e}"));
    vault.close().await.unwrap_or_else(|e| panic!("{e}"));
    if !report.is_whole() {
        lost.push(format!("{report:?}"));
    }
    // A row may stand for a request whose answer nobody has, never the other way round.
    if report.good < truth.held.len() as u64 {
        lost.push(format!("{} rows for {} tokens", report.good, truth.held.len()));
    }
    report.log.map_or(0, |log| log.entries)
}

#[test]
fn the_clients_list_is_on_disk_before_it_counts() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list");
    let (ledger, writer) = Ledger::open(&list);
    let fact = |n: u64| Fact::Stored {
        token: format!("tok_{n}"),
        pan: format!("{n:016}"),
        channel: "web",
        format: "shop",
    };
    for n in 0..1_000 {
        ledger.note(Told { facts: vec![fact(n), Fact::Done], size: n });
        let counted = ledger.on_disk.load(Ordering::SeqCst);
        let lines = fs::read_to_string(&list).unwrap().lines().count() as u64;
        assert!(lines >= 2 * counted, "{counted} counted, {lines} lines");
    }
    ledger.note(Told { facts: vec![Fact::Ended { token: "tok_7".to_owned(), extent: "app" }], size: 5 });
    assert_eq!(ledger.told.load(Ordering::SeqCst), 999);
    drop(ledger);
    assert_eq!(writer.join().unwrap(), 1_001);
    File::open(&list).unwrap().sync_all().unwrap();
    let truth = Truth::read(&list);
    assert_eq!(truth.order.len(), 1_000);
    let held = &truth.held["tok_7"];
    assert!(held.works_on("web") && held.works_on("pos") && !held.works_on("app"));
}
