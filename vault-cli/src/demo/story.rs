//! The story, step by step. Each step says what it claims, tries it on the server, and fails where it is not so.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, Cursor};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use data_encoding::BASE64;
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use vault_client::v1::{self, Initiator, Purpose, RequestHeader};
use vault_client::{AdminClient, Batch, ClientError, ConnectError, Reason, VaultClient, ask};
use vault_core::audit::entry::{AuditEntry, Event};
use vault_core::audit::verify::{Report, verify_export};
use vault_core::pan::{self, luhn_valid};
use vault_core::random;

use crate::demo::DemoArgs;
use crate::demo::cards::{Deck, digits, item, mask};
use crate::demo::paste::{self, Kept};
use crate::demo::stage::{MERCHANT, OPERATOR, SERVICES, STRANGER, Stage, program};
use crate::demo::teller::{Teller, count, seconds};
use crate::demo::traffic::{AT_ONCE, Stored, Traffic, Worked, opens_to};
use crate::fail::Failure;

/// How many cards of a deck are shown with their tokens.
const SHOWN: usize = 8;
/// How often the key is changed.
const ROTATIONS: u32 = 3;
/// For how long traffic flows at least, before, between and after the changes.
const FLOW: Duration = Duration::from_millis(300);
/// And how many requests are answered meanwhile at least.
const BETWEEN: usize = 20;
/// The server is not killed before this many answers, so that there is something to lose.
const BEFORE_KILL: usize = 200;
/// And within so many milliseconds after them, at a moment that nobody chose.
const KILL_WITHIN: u64 = 300;
/// For how long answers may take, on a slow disk.
const PATIENCE: Duration = Duration::from_mins(1);

/// Everyone on the stage.
struct Play<'a> {
    deck: &'a Deck,
    stage: Stage,
    cast: Cast,
    /// The shop's tokens, one per card.
    tokens: Vec<String>,
    /// The till's token, of the first card.
    tills: String,
    /// How many cards were made up so far.
    numbers: Arc<AtomicUsize>,
    /// What traffic stored.
    stored: Vec<Stored>,
    /// What the log must have.
    acknowledged: Acknowledged,
}

/// What the server's answers say was done: at least so much must be in the log.
#[derive(Default)]
struct Acknowledged {
    /// Cards that went in.
    stored: usize,
    /// Cards that came out.
    given: usize,
}

/// The clients, each with its own certificate.
struct Cast {
    shop: VaultClient,
    app: VaultClient,
    till: VaultClient,
    gateway: VaultClient,
    marketing: VaultClient,
    operator: AdminClient,
}

impl Cast {
    async fn enter(stage: &Stage) -> Result<Self, Failure> {
        Ok(Self {
            shop: stage.client("shop").await?,
            app: stage.client("app").await?,
            till: stage.client("till").await?,
            gateway: stage.client("gateway").await?,
            marketing: stage.client("marketing").await?,
            operator: stage.operator().await?,
        })
    }
}

/// A step's outcome, and its result in a few words.
type Told<T = ()> = Result<(T, String), Failure>;

/// Tells it all.
pub(super) async fn tell(args: &DemoArgs, deck: &Deck, mut teller: Teller) -> Result<(), Failure> {
    let teller = &mut teller;
    teller.begin("A vault, and who may ask it")?;
    let set = set_the_stage(args, deck, teller).await;
    let mut play = teller.end(set)?;

    teller.begin("The shop stores cards")?;
    let told = play.the_shop_stores(teller).await;
    teller.end(told)?;

    teller.begin("The app brings the same cards")?;
    let told = play.the_app_is_recognised(teller).await;
    teller.end(told)?;

    teller.begin("The till keeps to itself")?;
    let told = play.the_till_is_kept_apart(teller).await;
    teller.end(told)?;

    teller.begin("The gateway gets the card")?;
    let told = play.the_gateway_pays(teller).await;
    teller.end(told)?;

    teller.begin("Marketing sees a mask")?;
    let told = play.marketing_sees_a_mask(teller).await;
    teller.end(told)?;

    teller.begin("A key changes under traffic")?;
    let told = play.a_key_rotates(teller).await;
    teller.end(told)?;

    teller.begin("kill -9, and all is there")?;
    let told = play.the_server_is_killed(teller).await;
    teller.end(told)?;

    teller.begin("The log verifies offline")?;
    let told = play.the_log_verifies(teller).await;
    teller.end(told)?;

    play.end(args, teller)
}

async fn set_the_stage<'a>(args: &DemoArgs, deck: &'a Deck, teller: &mut Teller) -> Told<Play<'a>> {
    let mut stage = Stage::set(args.engine, deck.from_file)?;
    teller.say(format!("folder    {}, engine {}", stage.folder().display(), args.engine.word()))?;
    let doors = stage.start().await?;
    let process = stage.process().unwrap_or_default();
    teller.say(format!("server    process {process} on {}, for operators on {}", doors.data, doors.admin))?;
    teller.say("          TLS 1.3 only, and nobody without a certificate")?;
    for (who, may) in [
        ("shop", "stores cards on the web, and looks at its tokens"),
        ("app", "stores cards in the app"),
        ("till", "stores cards at the till, and looks at its tokens"),
        ("gateway", "gets cards, to authorize, capture and refund"),
        ("marketing", "looks at the web's tokens, masked"),
    ] {
        teller.say(format!("{who:<10}{may}"))?;
    }
    let cast = Cast::enter(&stage).await?;
    the_stranger_is_turned_away(&stage).await?;
    teller.say("A stranger with the shop's name on a certificate of another authority is turned away.")?;
    let (tokens, tills, numbers, stored) = (Vec::new(), String::new(), Arc::default(), Vec::new());
    let acknowledged = Acknowledged::default();
    let certificates = SERVICES.len() + 1;
    Ok((
        Play { deck, stage, cast, tokens, tills, numbers, stored, acknowledged },
        format!("{certificates} certificates, 1 stranger"),
    ))
}

/// The connection must not come about, at the very door through which everyone else has just come.
async fn the_stranger_is_turned_away(stage: &Stage) -> Result<(), Failure> {
    match VaultClient::connect(stage.endpoint(STRANGER)?).await {
        // A server that hangs up may outrun the alert that says why (RFC 8446 section 6.2).
        Err(ClientError::Connect(ConnectError::CertificateRefused(_) | ConnectError::Lost)) => Ok(()),
        Err(other) => {
            Err(Failure::from(other).and("a certificate of another authority was refused for no such reason"))
        }
        Ok(_) => Err(broken("a certificate of another authority was let in")),
    }
}

impl Play<'_> {
    async fn the_shop_stores(&mut self, teller: &mut Teller) -> Told {
        for (number, rule) in &self.deck.bad {
            teller.say(format!("line {number} is left out: {rule}"))?;
        }
        if self.deck.left_out > 0 {
            teller.say(format!(
                "{} more are left out: the story has enough",
                count(self.deck.left_out, "card")
            ))?;
        }
        let answers = all(self.cast.shop.batch_tokenize(at_own_channel(), self.for_web_and_app()).await)?;
        let told = answers.iter().any(|answer| answer.novelty != i32::from(v1::Novelty::Unspecified));
        claim(!told, "the answer tells whether the card was known")?;
        self.acknowledged.stored += answers.len();
        self.tokens = answers.into_iter().map(|answer| answer.token).collect();
        let different = self.check_tokens()?;
        for (card, token) in self.deck.cards.iter().zip(&self.tokens).take(SHOWN) {
            teller.say(format!("{:<19}  ->  {token}", mask(&card.pan)))?;
        }
        if self.deck.cards.len() > SHOWN {
            teller.say(format!("and {} more", self.deck.cards.len() - SHOWN))?;
        }
        teller
            .say("The shop keeps these instead. They look like cards to its programs, and to nobody else:")?;
        teller.say("as long, with the same ends, and none of them passes the Luhn check.")?;
        let cards = count(self.deck.cards.len(), "card");
        Ok(((), format!("{cards} in, {} out", count(different, "different token"))))
    }

    /// Cards for tokens that the web and the app may use, and the till may not.
    fn for_web_and_app(&self) -> Vec<v1::TokenizeItem> {
        let channels = || vec!["app".to_owned(), "web".to_owned()];
        self.deck.cards.iter().map(|card| v1::TokenizeItem { channels: channels(), ..item(card) }).collect()
    }

    /// One token per card number, each of the card's shape and none a card. How many there are.
    fn check_tokens(&self) -> Result<usize, Failure> {
        let mut cards = HashMap::new();
        for (card, token) in self.deck.cards.iter().zip(&self.tokens) {
            let first = cards.entry(token.as_str()).or_insert(&card.pan);
            claim(first.same_as(&card.pan), "two cards have the same token")?;
            let (shown, digits) = (mask(&card.pan), token.bytes().all(|b| b.is_ascii_digit()));
            claim(digits && !luhn_valid(token.as_bytes()), "a token could be taken for a card")?;
            let ends = shown.bytes().zip(token.bytes()).all(|(shown, kept)| shown == b'*' || shown == kept);
            claim(ends && token.len() == shown.len(), "a token does not have the ends of its card")?;
        }
        claim(cards.len() == self.deck.different(), "the same card has two tokens")?;
        claim(self.tokens.len() == self.deck.cards.len(), "a card has no token")?;
        Ok(cards.len())
    }

    async fn the_app_is_recognised(&mut self, teller: &mut Teller) -> Told {
        let answers = all(self.cast.app.batch_tokenize(at_own_channel(), self.for_web_and_app()).await)?;
        self.acknowledged.stored += answers.len();
        claim(answers.len() == self.tokens.len(), "a card has no answer")?;
        let same = answers.iter().zip(&self.tokens).all(|(answer, token)| answer.token == *token);
        claim(same, "a card got another token in the app than on the web")?;
        let told = answers.iter().any(|answer| answer.novelty != i32::from(v1::Novelty::Unspecified));
        claim(!told, "the answer tells that the card was known")?;
        teller.say(
            "Each gets the token that it has on the web: one customer, one card, one history of purchases.",
        )?;
        teller.say(
            "The answer does not say that the card was known: nobody can try numbers to learn who buys here.",
        )?;
        Ok(((), format!("{} of {} recognised", answers.len(), self.tokens.len())))
    }

    async fn the_till_is_kept_apart(&mut self, teller: &mut Teller) -> Told {
        let (Some(card), Some(webs)) = (self.deck.cards.first(), self.tokens.first()) else {
            return Err(broken("there is no card"));
        };
        let own = self.cast.till.tokenize(at_own_channel(), item(card)).await?.token;
        self.acknowledged.stored += 1;
        claim(own.starts_with("tok_") && own != *webs, "the till's token tells something of the card")?;
        teller.say(format!("{:<19}  ->  {own}", mask(&card.pan)))?;
        teller.say("At the till the same card has another token, and that one shows nothing of the card.")?;

        let of_web = refusal(self.cast.till.inspect(at_own_channel(), ask::look(webs)).await)?;
        let unknown = unknown_token()?;
        let of_nobody = refusal(self.cast.till.inspect(at_own_channel(), ask::look(&unknown)).await)?;
        let of_till = refusal(self.cast.shop.inspect(at_own_channel(), ask::look(&own)).await)?;
        claim(of_web.reason() == Some(Reason::NotFound), "the till could use the web's token")?;
        claim(of_till.reason() == Some(Reason::NotFound), "the shop could use the till's token")?;
        claim(of_web == of_nobody, "a token that was not granted is told from one that does not exist")?;
        teller.say(
            "The till asks for the web's token: NOT_FOUND, word for word as for a token that nobody has.",
        )?;
        let own_look = self.cast.till.inspect(at_own_channel(), ask::look(&own)).await?;
        claim(own_look.state == i32::from(v1::TokenState::Active), "the till's own token does not work")?;
        let denied = refusal(self.cast.till.detokenize(at_own_channel(), ask::plain(&own)).await)?;
        claim(denied.reason() == Some(Reason::PermissionDenied), "the till got a card number")?;
        teller.say("Its own token works there, but no rule gives a till card numbers: PERMISSION_DENIED.")?;
        self.tills = own;
        Ok(((), "2 x NOT_FOUND, 1 x PERMISSION_DENIED".to_owned()))
    }

    async fn the_gateway_pays(&mut self, teller: &mut Teller) -> Told {
        let given = self.give_back().await?;
        teller.say(format!(
            "For an authorization the gateway gets {}, digit for digit what was sent.",
            count(given, "card")
        ))?;
        let Some(token) = self.tokens.first() else { return Err(broken("there is no token")) };
        let settle = for_purpose(Purpose::Settlement);
        let refused = refusal(self.cast.gateway.detokenize(settle, ask::plain(token)).await)?;
        claim(refused.reason() == Some(Reason::NotFound), "the gateway got a card for another purpose")?;
        teller.say("For settlement, which no rule allows it, the same gateway gets NOT_FOUND.")?;
        teller.say("Before a card leaves the vault, who got it and what for is in the log, on disk.")?;
        Ok(((), format!("{} back, 1 x NOT_FOUND", count(given, "card"))))
    }

    /// Asks for every card of the deck: each must be the one that was stored, with a receipt. How many there are.
    async fn give_back(&mut self) -> Result<usize, Failure> {
        let items = self.tokens.iter().map(|token| ask::plain(token)).collect();
        let header = for_purpose(Purpose::Authorization);
        let answers = all(self.cast.gateway.batch_detokenize(header, items).await)?;
        self.acknowledged.given += answers.len();
        claim(answers.len() == self.deck.cards.len(), "a token has no answer")?;
        for (answer, card) in answers.into_iter().zip(&self.deck.cards) {
            claim(answer.receipt.is_some(), "a card came without a receipt")?;
            claim(opens_to(answer, &card.pan), "a token opened to another card")?;
        }
        Ok(self.tokens.len())
    }

    async fn marketing_sees_a_mask(&mut self, teller: &mut Teller) -> Told {
        let items = self.tokens.iter().map(|token| ask::look(token)).collect();
        let answers = all(self.cast.marketing.batch_inspect(at_own_channel(), items).await)?;
        claim(answers.len() == self.deck.cards.len(), "a token has no answer")?;
        for (answer, card) in answers.iter().zip(&self.deck.cards) {
            let shown = answer.card.as_ref().map(|card| card.masked_pan.as_str());
            claim(shown == Some(mask(&card.pan).as_str()), "marketing sees another mask than the policy's")?;
        }
        let Some((token, first)) = self.tokens.first().zip(answers.first()) else {
            return Err(broken("there is no token"));
        };
        let shown = first.card.clone().unwrap_or_default();
        let network = if shown.network.is_empty() { "no network" } else { &shown.network };
        teller.say(format!("{token}  ->  {}  {network}", shown.masked_pan))?;
        let denied = refusal(self.cast.marketing.detokenize(at_own_channel(), ask::plain(token)).await)?;
        claim(denied.reason() == Some(Reason::PermissionDenied), "marketing got a card number")?;
        teller.say(
            "Enough for a statement or a survey. The number itself: PERMISSION_DENIED. To show a mask the",
        )?;
        teller.say("vault never opens the number: it lies under a second seal.")?;
        Ok(((), format!("{}, 1 x PERMISSION_DENIED", count(answers.len(), "mask"))))
    }

    async fn a_key_rotates(&mut self, teller: &mut Teller) -> Told {
        let before = self.primary_key().await?;
        let traffic = Traffic::begin(&self.cast.shop, &self.cast.gateway, &self.numbers);
        for _ in 0..ROTATIONS {
            flow(&traffic, BETWEEN).await?;
            let request = v1::RotateKeyRequest {
                header: Some(ask::change(None)),
                kind: v1::KeyKind::Dek.into(),
                merchant: MERCHANT.to_owned(),
                ..v1::RotateKeyRequest::default()
            };
            self.cast.operator.rotate_key(request).await?;
        }
        flow(&traffic, BETWEEN).await?;
        let Worked { stored, given_back, errors, wrong, cut: _ } = traffic.end().await?;
        if let Some(error) = errors.into_iter().next() {
            return Err(Failure::from(error).and("a request failed while the key changed"));
        }
        claim(wrong == 0 && given_back == stored.len(), "a card did not come back as it was")?;
        let after = self.primary_key().await?;
        claim(after == before + ROTATIONS, "the key in use is not the newest")?;
        let requests = stored.len() + given_back;
        self.keep_count(stored, given_back);
        self.give_back().await?;
        teller.say(format!("The key that seals rows went from version {before} to {after} while {AT_ONCE} clients stored cards"))?;
        teller.say(format!(
            "and took them out again, one by one, never trying twice: {requests} requests, none failed."
        ))?;
        teller.say("What was sealed under the old versions opens as before: rotation needs no night, and no downtime.")?;
        Ok(((), format!("{ROTATIONS} rotations, {requests} requests, 0 failed")))
    }

    /// The version of the DEK that seals new rows.
    async fn primary_key(&self) -> Result<u32, Failure> {
        let request = v1::ListKeysRequest {
            kind: v1::KeyKind::Dek.into(),
            merchant: MERCHANT.to_owned(),
            ..v1::ListKeysRequest::default()
        };
        let keys = self.cast.operator.list_keys(request).await?.keys;
        let primary = keys.iter().find(|key| key.primary).map(|key| key.version);
        primary.ok_or_else(|| broken("no key is in use"))
    }

    async fn the_server_is_killed(&mut self, teller: &mut Teller) -> Told {
        let traffic = Traffic::begin(&self.cast.shop, &self.cast.gateway, &self.numbers);
        flow(&traffic, BEFORE_KILL).await?;
        let moment = random::below(KILL_WITHIN).map_err(|_| broken("there are no random bytes"))?;
        sleep(Duration::from_millis(moment)).await;
        let process = self.stage.process().unwrap_or_default();
        self.stage.kill()?;
        let Worked { stored, given_back, cut, errors, wrong } = traffic.end().await?;
        claim(wrong == 0, "a token opened to another card")?;
        if let Some(error) = errors.into_iter().find(|error| !matches!(error, ClientError::Connect(_))) {
            return Err(Failure::from(error).and("a request failed otherwise than by the kill"));
        }
        self.keep_count(stored, given_back);
        teller.say(format!(
            "Process {process} is killed in the midst of requests: no warning, no last write."
        ))?;

        let began = Instant::now();
        self.stage.start().await?;
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.cast = Cast::enter(&self.stage).await?;
        let process = self.stage.process().unwrap_or_default();
        teller.say(format!("Started again as process {process}, it serves after {}.", seconds(took)))?;

        let asked_again = cut.len();
        for cut in cut {
            let item = ask::card(digits(&cut.pan), None);
            let token = self.cast.shop.tokenize(cut.header, item).await?.token;
            self.keep_count(vec![Stored { pan: cut.pan, token }], 0);
        }
        let opened = self.give_back().await? + self.open_tills().await? + self.open_stored().await?;
        teller.say(format!("All {opened} tokens that were ever acknowledged open to their cards."))?;
        if asked_again > 0 {
            let requests = count(asked_again, "request");
            teller.say(format!(
                "{requests} had no answer yet: sent again under the same id, each has one now."
            ))?;
        }
        Ok(((), format!("{opened} of {opened} tokens open")))
    }

    /// Remembers what the server acknowledged to traffic.
    fn keep_count(&mut self, stored: Vec<Stored>, given_back: usize) {
        self.acknowledged.stored += stored.len();
        self.acknowledged.given += given_back;
        self.stored.extend(stored);
    }

    /// Opens the till's token, where it works: at the till.
    async fn open_tills(&mut self) -> Result<usize, Failure> {
        let header = ask::header(MERCHANT, "pos", Purpose::Authorization, Initiator::Cardholder);
        let answer = self.cast.gateway.detokenize(header, ask::plain(&self.tills)).await?;
        self.acknowledged.given += 1;
        let opens = self.deck.cards.first().is_some_and(|card| opens_to(answer, &card.pan));
        claim(opens, "the till's token opened to another card")?;
        Ok(1)
    }

    /// Opens every token that traffic stored.
    async fn open_stored(&mut self) -> Result<usize, Failure> {
        let items = self.stored.iter().map(|stored| ask::plain(&stored.token)).collect();
        let header = for_purpose(Purpose::Authorization);
        let answers = all(self.cast.gateway.batch_detokenize(header, items).await)?;
        self.acknowledged.given += answers.len();
        claim(answers.len() == self.stored.len(), "a token has no answer")?;
        for (answer, stored) in answers.into_iter().zip(&self.stored) {
            claim(opens_to(answer, &stored.pan), "an acknowledged token opened to another card")?;
        }
        Ok(self.stored.len())
    }

    async fn the_log_verifies(&mut self, teller: &mut Teller) -> Told {
        let file = self.stage.file("log.jsonl");
        self.export_log(&file).await?;
        let failed = |e| Failure::failed(format_args!("{}: {e}", file.display()));
        let report = self.verified(&mut BufReader::new(File::open(&file).map_err(failed)?))?;
        if let Some(fault) = report.fault {
            return Err(broken(&format!("the log is not whole: {fault}")));
        }
        claim(report.entries == report.size && report.entries > 0, "the log is not complete")?;
        let entries = report.entries;
        teller.say(format!("{} are exported and verified without the server, with", entries_of(entries)))?;
        teller.say(
            "nothing but the log's public key as it was when the vault was made: the Merkle tree over all",
        )?;
        teller.say(format!("has the root that the vault signed, {}.", report.root))?;

        let text = fs::read_to_string(&file).map_err(failed)?;
        let Counted { stored, given, holds_a_card } = counted(&text)?;
        let Acknowledged { stored: stores, given: gives } = self.acknowledged;
        claim(stored >= stores && given >= gives, "something was done that is not in the log")?;
        claim(!holds_a_card, "there is a card number in the log")?;
        teller.say(format!("In it are all {stores} cards that went in and all {gives} that came out, with who asked, where and"))?;
        teller.say("what for; and not one card number.")?;
        let altered = entries / 2;
        let report = self.verified(&mut Cursor::new(with_one_bit_changed(&text, altered)?))?;
        let index = report.fault.and_then(|fault| fault.index());
        claim(index == Some(altered), "an altered entry was not found")?;
        teller
            .say(format!("One bit of a copy changed, and verification names the place: entry {altered}."))?;
        Ok(((), format!("{entries} entries whole, 1 changed bit found")))
    }

    /// Runs `vaultctl audit export`, as an operator would.
    async fn export_log(&self, to: &std::path::Path) -> Result<(), Failure> {
        let papers = |name: &str| self.stage.file(&format!("certs/{name}"));
        let run = tokio::process::Command::new(program()?)
            // Nothing of the user's own connections.
            .env_clear()
            .args(["--json", "audit", "export", "--admin", &format!("https://{}", self.stage.doors()?.admin)])
            .arg("--ca")
            .arg(papers("servers.pem"))
            .arg("--cert")
            .arg(papers(&format!("{OPERATOR}.pem")))
            .arg("--key")
            .arg(papers(&format!("{OPERATOR}.key")))
            .arg(to)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let told =
            run.await.map_err(|e| Failure::failed(format_args!("the export cannot be started: {e}")))?;
        if told.status.success() {
            return Ok(());
        }
        Err(Failure::failed(String::from_utf8_lossy(&told.stderr)))
    }

    fn verified(&self, lines: &mut dyn std::io::BufRead) -> Result<Report, Failure> {
        verify_export(lines, self.stage.log_key(), &mut |_, _| ()).map_err(Failure::failed)
    }

    fn end(mut self, args: &DemoArgs, teller: &Teller) -> Result<(), Failure> {
        if args.keep {
            let kept = Kept::of(&self.stage, &self.tokens)?;
            teller.whole(Some(&kept))?;
            teller.line(&kept.words())?;
            self.stage.keep();
            return Ok(());
        }
        self.stage.clear()?;
        teller.whole::<Kept>(None)?;
        teller.line(paste::NEXT)
    }
}

/// Lets traffic flow for a while, and for so many answers.
async fn flow(traffic: &Traffic, answers: usize) -> Result<(), Failure> {
    let (began, before) = (Instant::now(), traffic.answered());
    while !traffic.is_broken() && (began.elapsed() < FLOW || traffic.answered() - before < answers) {
        if began.elapsed() > PATIENCE {
            return Err(Failure::failed("requests wait too long for their answers; is the disk busy?"));
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// For who is bound to one channel, which then need not be named.
fn at_own_channel() -> RequestHeader {
    ask::header("", "", Purpose::Authorization, Initiator::Cardholder)
}

/// For the gateway, which is bound to none.
fn for_purpose(purpose: Purpose) -> RequestHeader {
    ask::header(MERCHANT, "web", purpose, Initiator::Cardholder)
}

/// The results of a batch, every one, in the items' order.
fn all<T>(answer: Result<Batch<T>, ClientError>) -> Result<Vec<T>, Failure> {
    answer?.outcomes.into_iter().map(|outcome| outcome.result.map_err(Failure::from)).collect()
}

/// What a request was refused with; that it was done is a claim that did not hold.
fn refusal<T>(answer: Result<T, ClientError>) -> Result<vault_client::Failure, Failure> {
    match answer {
        Err(ClientError::Refused(refused)) => Ok(refused),
        Err(other) => Err(other.into()),
        Ok(_) => Err(broken("a request was answered that had to be refused")),
    }
}

fn claim(holds: bool, otherwise: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(broken(otherwise)) }
}

fn broken(claim: &str) -> Failure {
    Failure::failed(format_args!("{claim}; that is a defect: report it"))
}

/// A token that nobody has: made of chance.
fn unknown_token() -> Result<String, Failure> {
    const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";
    let chance: [u8; 22] = random::bytes().map_err(|_| broken("there are no random bytes"))?;
    let letters = chance.iter().filter_map(|b| LETTERS.get(usize::from(*b) % LETTERS.len()));
    Ok(format!("tok_{}", letters.map(|&b| char::from(b)).collect::<String>()))
}

fn entries_of(entries: u64) -> String {
    if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") }
}

/// One entry of an exported log.
#[derive(Deserialize)]
struct Line {
    index: u64,
    entry: String,
}

/// The entries of an exported log, as the bytes that were hashed, with their lines.
fn exported(text: &str) -> impl Iterator<Item = Result<(&str, Line, Vec<u8>), Failure>> {
    text.lines().skip(1).map(|line| {
        let read: Line =
            serde_json::from_str(line).map_err(|_| broken("a line of the export is no entry"))?;
        let bytes = BASE64.decode(read.entry.as_bytes()).map_err(|_| broken("an entry is not in base64"))?;
        Ok((line, read, bytes))
    })
}

/// What an exported log has.
struct Counted {
    stored: usize,
    given: usize,
    /// Whether any entry holds a run of digits that is a card number.
    holds_a_card: bool,
}

fn counted(export: &str) -> Result<Counted, Failure> {
    let mut counted = Counted { stored: 0, given: 0, holds_a_card: false };
    for entry in exported(export) {
        let (_, _, bytes) = entry?;
        let read = AuditEntry::decode(&bytes).map_err(|_| broken("an entry cannot be read"))?;
        counted.stored += usize::from(matches!(read.event, Event::Tokenized { .. }));
        counted.given += usize::from(matches!(read.event, Event::Disclosed { .. }));
        counted.holds_a_card |= holds_a_card(&bytes);
    }
    Ok(counted)
}

fn holds_a_card(entry: &[u8]) -> bool {
    pan::holds_card_number(&String::from_utf8_lossy(entry))
}

/// A copy of an export in which one bit of one entry is another.
fn with_one_bit_changed(export: &str, index: u64) -> Result<String, Failure> {
    for entry in exported(export) {
        let (line, Line { index: at, entry }, mut bytes) = entry?;
        if at == index {
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            return Ok(export.replacen(line, &line.replacen(&entry, &BASE64.encode(&bytes), 1), 1));
        }
    }
    Err(broken("an entry is missing from the export"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(entries: &[&str]) -> String {
        let line = |(index, entry): (usize, &&str)| {
            format!(
                "{{\"index\":{index},\"leaf\":\"00\",\"entry\":\"{}\"}}\n",
                BASE64.encode(entry.as_bytes())
            )
        };
        format!("{{\"version\":1}}\n{}", entries.iter().enumerate().map(line).collect::<String>())
    }

    #[test]
    fn one_bit_of_one_entry_is_changed_and_nothing_else() {
        let text = export(&["aa", "bb", "cc"]);
        assert_eq!(with_one_bit_changed(&text, 1).unwrap(), export(&["aa", "bc", "cc"]));
        assert!(with_one_bit_changed(&text, 3).is_err());
    }

    #[test]
    fn a_card_number_in_an_entry_is_found() {
        for (entry, holds) in [
            (&b"\x01\xFF\x00tok\x024111111111111112\x03"[..], false),
            (b"\x01\xFF\x00tok\x024111111111111111\x03", true),
        ] {
            assert_eq!(holds_a_card(entry), holds);
        }
        assert!(counted("{}\nno entry\n").is_err() && counted(&export(&["no entry"])).is_err());
    }

    #[test]
    fn an_unknown_token_is_a_token_by_its_form() {
        assert!(vault_core::token::Token::parse(&unknown_token().unwrap()).is_ok());
    }
}
