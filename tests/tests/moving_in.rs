//! Cards come in from elsewhere by `vaultctl import`, with the tokens that they have had, however often it is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use vault_client::{AdminClient, VaultClient, Zeroizing, ask, v1};
use vault_core::store::{self, Engine, Write};
use vault_core::{random, rows};
use vault_tests::cards::number;
use vault_tests::desk::{self, OPTIONS};
use vault_tests::server::{Rig, program};

/// Cards of the run: as many as the promise says in the long run.
pub(crate) fn count() -> u32 {
    if std::env::var_os("VAULT_LONG").is_some() { 100_000 } else { 6_000 }
}

/// The n-th card number, of as many BINs and last fours as there are.
pub(crate) fn card(n: u32) -> String {
    number(&format!("4{:05}", n % 997), 16, n)
}

/// The token that the n-th card has had: of the looks that other vaults give, none of them a card number's.
pub(crate) fn token(n: u32) -> String {
    match n % 3 {
        0 => format!("card_{n:022}x"),
        1 => format!("d2cbc1a2-7a3b-4e5f-8a9b-f{n:010x}f"),
        _ => format!("{n:08}AbCdEf_{n}"),
    }
}

/// Writes the file; gives what each line should come to, by line number: the token, or nothing where it is refused.
fn write(file: &Path) -> BTreeMap<u64, Option<(String, String)>> {
    let mut text = "token,number,expiry,customer\n".to_owned();
    let mut wanted = BTreeMap::new();
    for n in 0..count() {
        let (line, number, token) = (u64::from(n) + 2, card(n), token(n));
        match n % 500 {
            // Not a card number; a token that is one; a token that another card had before.
            77 => {
                let wrong = if number.ends_with('1') { 2 } else { 1 };
                text.push_str(&format!("{token},{}{wrong},05/31,c{n}\n", &number[..15]));
            }
            177 => text.push_str(&format!("{},{number},05/31,c{n}\n", card(n + 1))),
            277 => text.push_str(&format!("{},{number},05/31,c{n}\n", self::token(n - 1))),
            _ => {
                text.push_str(&format!("{token},{number},05/31,c{n}\n"));
                wanted.insert(line, Some((token, number)));
                continue;
            }
        }
        wanted.insert(line, None);
    }
    fs::write(file, text).unwrap();
    wanted
}

/// `vaultctl` as this principal of this merchant's web channel would run it, with JSON as its answer.
pub(crate) fn vaultctl(rig: &Rig, principal: &str, merchant: &str) -> Command {
    let profile = format!(
        "[vault]\nserver = \"https://localhost:{}\"\nca = \"servers.pem\"\ncert = \"{principal}.pem\"\nkey = \"{principal}.key\"\nmerchant = \"{merchant}\"\nchannel = \"web\"\n",
        rig.data().port()
    );
    let file = rig.file(&format!("{principal}.toml"));
    fs::write(&file, profile).unwrap();
    let mut command = Command::new(program());
    command.arg("--json").env("VAULTCTL_PROFILE", file).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// Imports this file, as what says which columns it has.
pub(crate) fn import(rig: &Rig, file: &Path, more: &[&str]) -> Command {
    let mut command = vaultctl(rig, "importer", "acme");
    command.arg("import").arg(file).arg("--out").arg(rig.file("tokens.csv"));
    command.args(more);
    command
}

/// How many parts this state of a run says are done; none where there is none.
fn parts(state: &Path) -> u64 {
    let state = fs::read(state).ok().and_then(|bytes| {
        let state: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        state["parts"].as_u64()
    });
    state.unwrap_or(0)
}

/// Runs a command until its state says that so many parts are done, and kills it: fewer than `all` were.
pub(crate) async fn kill_after(mut command: Command, state: &Path, count: u64, all: u64) {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    while parts(state) < count {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(parts(state) < all, "it was through before it was killed");
}

pub(crate) const POLICY: &str = r#"
[[rule]]
id = "moves-in"
effect = "allow"
merchant = "acme"
principals = ["importer"]
actions = ["tokenize"]
import = true
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cards_come_in_with_their_tokens_while_the_import_is_killed_twice() {
    let rig = Rig::with(Engine::Redb, POLICY, "");
    let wanted = write(&rig.file("cards.csv"));
    let (cards, state) = (rig.file("cards.csv"), rig.file("tokens.csv.state"));
    // Slow enough to be caught in the middle, twice.
    for caught in 1..=2_u64 {
        let rate = (count() / 2).to_string();
        let command = import(&rig, &cards, &["--rate", &rate]);
        kill_after(command, &state, caught, u64::from(count()) / 1_000).await;
    }
    // While another run has the file, none goes on with it.
    let other = fs::File::open(rig.file("tokens.csv")).unwrap();
    other.try_lock().unwrap();
    let refused = import(&rig, &cards, &[]).stderr(Stdio::piped()).output().unwrap();
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("another import writes it"), "{told}");
    drop(other);
    let done = import(&rig, &cards, &[]).output().unwrap();
    let tally: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let taken = wanted.values().flatten().count();
    let refused = wanted.len() - taken;
    assert_eq!(done.status.code(), Some(1), "some lines were refused");
    assert_eq!(tally["lines"], wanted.len());
    assert_eq!((&tally["taken"], &tally["tokens_kept"]), (&taken.into(), &taken.into()));
    assert_eq!(tally["refused"], refused);
    assert!(!rig.file("tokens.csv.state").exists());

    // Every line once, with its own token; the refused by number and reason; no card number in either file.
    let out = fs::read_to_string(rig.file("tokens.csv")).unwrap();
    let told = fs::read_to_string(rig.file("tokens.csv.refused")).unwrap();
    let mut seen = BTreeMap::new();
    for line in out.lines() {
        let [number, _, token] = line.split(',').collect::<Vec<_>>().try_into().unwrap();
        assert!(
            seen.insert(number.parse::<u64>().unwrap(), token.to_owned()).is_none(),
            "line {number} twice"
        );
    }
    for (line, wanted) in &wanted {
        let wanted = wanted.as_ref().map(|(token, _)| token.as_str());
        assert_eq!(seen.get(line).map(String::as_str), wanted, "line {line}");
        assert_eq!(told.lines().any(|l| l.starts_with(&format!("{line},"))), wanted.is_none(), "line {line}");
    }
    for n in (0..count()).step_by(97) {
        assert!(!out.contains(&card(n)) && !told.contains(&card(n)));
    }

    // The gateway gets every card back by the token that the shops have known it by.
    let endpoint = rig.endpoint("gateway").deadline(Duration::from_secs(300));
    let gateway = VaultClient::connect(endpoint).await.unwrap_or_else(|e| panic!("{e}"));
    let header = ask::header("acme", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder);
    let (tokens, numbers): (Vec<_>, Vec<_>) = wanted.into_values().flatten().unzip();
    let items = tokens.iter().map(|token| ask::plain(token)).collect();
    let batch = gateway.batch_detokenize(header, items).await.unwrap_or_else(|e| panic!("{e}"));
    for ((token, number), outcome) in tokens.iter().zip(&numbers).zip(batch.outcomes) {
        let answer = outcome.result.unwrap_or_else(|e| panic!("{token}: {e}"));
        let pan = ask::pan(answer).unwrap();
        assert_eq!(std::str::from_utf8(&pan).unwrap(), number, "{token}");
    }
    println!("{} lines: {taken} taken, {refused} refused, killed twice", taken + refused);
}

/// Says in a state that the part under way was sent so many hours ago.
fn put_back(state: &Path, hours: u64) {
    let mut told: serde_json::Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
    let now = u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp()).unwrap();
    told["begun"] = ((now - hours * 3_600) * 1_000).into();
    fs::write(state, told.to_string()).unwrap();
}

/// The first fields of a file's lines.
fn firsts(file: &Path) -> Vec<u64> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(|line| line.split(',').next().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_the_vault_may_have_forgotten_is_not_sent_again_by_itself() {
    let rig = Rig::with(Engine::Redb, POLICY, "");
    let (cards, state) = (rig.file("cards.csv"), rig.file("tokens.csv.state"));
    for (tokens, format, hours, goes_on) in
        [(false, "fresh", 22, true), (false, "fresh", 25, false), (true, "shop", 25, false)]
    {
        let line = |n: u32| format!("{},{}\n", if tokens { token(n) } else { String::new() }, card(n));
        let text: String = (0..2_500).map(line).collect();
        fs::write(&cards, format!("token,number\n{text}")).unwrap();
        let with = |more: &[&str]| import(&rig, &cards, &[&["--format", format][..], more].concat());
        kill_after(with(&["--rate", "1000"]), &state, 1, 2).await;
        put_back(&state, hours);
        let before = (fs::read(&state).unwrap(), fs::read(rig.file("tokens.csv")).unwrap());
        let done = with(&[]).stderr(Stdio::piped()).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.success(), goes_on, "{told}");
        if !goes_on {
            assert!(told.contains("from line 1002 to line 2001") && told.contains("--resend"), "{told}");
            assert_eq!((fs::read(&state).unwrap(), fs::read(rig.file("tokens.csv")).unwrap()), before);
            assert!(with(&["--resend"]).output().unwrap().status.success());
        }
        assert!(firsts(&rig.file("tokens.csv")).into_iter().eq(2..2_502));
        for file in ["tokens.csv", "tokens.csv.refused"] {
            fs::remove_file(rig.file(file)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_an_earlier_send_may_have_taken_says_so() {
    // The second part of three has a card that came with two tokens, and a token that was another card's in the first part.
    let mut lines: Vec<String> = (0..2_500).map(|n| format!("{},{}\n", token(n), card(n))).collect();
    lines[1_201] = format!("{},{}\n", token(1_201), card(1_200));
    lines[1_300] = format!("{},{}\n", token(7), card(1_300));
    let all: Vec<u64> = (1_002..2_002).collect();
    for (format, doubtful) in [("shop", &[1_202, 1_302][..]), ("fresh", &all)] {
        let rig = Rig::with(Engine::Redb, POLICY, "");
        let (cards, state) = (rig.file("cards.csv"), rig.file("tokens.csv.state"));
        fs::write(&cards, format!("token,number\n{}", lines.concat())).unwrap();
        let with = |more: &[&str]| import(&rig, &cards, &[&["--format", format][..], more].concat());
        // So slow that the second part is not sent; it is taken under other ids, as the vault sees it a day later.
        kill_after(with(&["--rate", "100"]), &state, 1, 2).await;
        let again = rig.file("again.csv");
        fs::write(&again, format!("token,number\n{}", lines[1_000..2_000].concat())).unwrap();
        let mut taken = vaultctl(&rig, "importer", "acme");
        taken.arg("import").arg(&again).arg("--out").arg(rig.file("taken.csv")).args(["--format", format]);
        assert_eq!(taken.output().unwrap().status.code(), Some(1), "one token is another card's");
        put_back(&state, 26);
        assert_eq!(with(&["--resend"]).output().unwrap().status.code(), Some(1));
        let refused = rig.file("tokens.csv.refused");
        assert_eq!(firsts(&refused), doubtful, "{format}");
        for line in fs::read_to_string(&refused).unwrap().lines() {
            assert!(line.contains("existing_token") && line.contains("vaultctl token inspect"), "{line}");
        }
        let mut all = [firsts(&rig.file("tokens.csv")), firsts(&refused)].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(2..2_502), "{format}: every line is told once");
        // Where nothing was sent twice, nothing is to be looked up.
        let told = fs::read_to_string(rig.file("taken.csv.refused")).unwrap();
        assert!(told.contains("existing_token") && !told.contains("vaultctl token inspect"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_without_the_right_ends_and_goes_on_when_it_has_it_and_only_as_it_was_begun() {
    let rig = Rig::with(Engine::Redb, "", "");
    let (cards, state) = (rig.file("cards.csv"), rig.file("tokens.csv.state"));
    let lines = |n: u32| format!("{},{}\n", if n == 0 { String::new() } else { token(n) }, card(n));
    fs::write(&cards, format!("token,number\n{}", (0..3).map(lines).collect::<String>())).unwrap();
    let with = |principal: &str, merchant: &str| {
        let mut command = vaultctl(&rig, principal, merchant);
        command.arg("import").arg(&cards).arg("--out").arg(rig.file("tokens.csv"));
        command.stderr(Stdio::piped()).output().unwrap()
    };
    for (principal, merchant, words) in [
        ("shop", "acme", &["PERMISSION_DENIED"][..]),
        ("importer", "acme", &["principal spiffe://rig/shop, and this is spiffe://rig/importer"]),
        ("other-shop", "zenith", &["merchant acme, and this is zenith", "principal spiffe://rig/shop"]),
    ] {
        let done = with(principal, merchant);
        let told = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{told}");
        assert!(words.iter().all(|words| told.contains(words)), "{told}");
        for file in ["tokens.csv", "tokens.csv.refused"] {
            assert_eq!(fs::metadata(rig.file(file)).unwrap().len(), 0, "{file}");
        }
        assert_eq!(parts(&state), 0);
        assert!(state.exists(), "{principal}");
    }
    let toml =
        fs::read_to_string(rig.file("policy.toml")).unwrap() + &POLICY.replace("\"importer\"", "\"shop\"");
    let operator = rig.operator().await;
    let epoch = operator.get_policy(v1::GetPolicyRequest {}).await.unwrap_or_else(|e| panic!("{e}")).epoch;
    let change = v1::ApplyPolicyRequest { header: Some(ask::change(Some(epoch))), toml };
    operator.apply_policy(change).await.unwrap_or_else(|e| panic!("{e}"));
    let done = with("shop", "acme");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let tally: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&tally["taken"], &tally["tokens_kept"]), (&3.into(), &2.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_read_keeps_no_other_card_back() {
    let mut rig = Rig::with(Engine::Redb, POLICY, "");
    let header = || ask::header("acme", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder);
    let item = ask::card(Zeroizing::new(card(1).into_bytes()), None);
    rig.client("shop").await.tokenize(header(), item).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(rig.stop());
    let store = store::open(&rig.file("vault"), &OPTIONS).unwrap_or_else(|e| panic!("{e}"));
    let (key, mut row) = desk::rows(&*store, rows::FINGERPRINT).pop().unwrap();
    *row.last_mut().unwrap() ^= 1;
    desk::write(&*store, vec![Write::Put(key, row)]);
    drop(store);
    rig.start();
    let cards = rig.file("cards.csv");
    fs::write(&cards, format!("number\n{}", (0..3).map(|n| card(n) + "\n").collect::<String>())).unwrap();
    let done = import(&rig, &cards, &[]).output().unwrap();
    let tally: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&tally["taken"], &tally["refused"]), (&2.into(), &1.into()));
    let refused = fs::read_to_string(rig.file("tokens.csv.refused")).unwrap();
    assert!(
        refused.starts_with("3,") && refused.contains("INTERNAL") && refused.contains("incident"),
        "{refused}"
    );
    assert!(!rig.file("tokens.csv.state").exists());
}

/// How many entries the log has.
async fn entries(operator: &AdminClient) -> u64 {
    let head = operator.get_checkpoint(v1::GetCheckpointRequest::default()).await;
    head.unwrap_or_else(|e| panic!("{e}")).checkpoint.unwrap().tree_size
}

/// Runs a command and kills it once the log has so many entries.
async fn kill_at(mut command: Command, operator: &AdminClient, entries: u64) {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    while self::entries(operator).await < entries {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_card_is_stored_twice_however_often_an_import_is_killed_in_the_middle_of_a_part() {
    let mut rig = Rig::with(Engine::Redb, POLICY, "");
    let (cards, state) = (rig.file("cards.csv"), rig.file("tokens.csv.state"));
    let count = u64::from(count() / 2);
    // No tokens of their own, and a format that gives a card another token every time: nothing but the request ids tells the
    // vault that it has them. Hundreds of cards of one customer make it commit a part bit by bit.
    let line = |n: u64| format!("{},c{}\n", card(u32::try_from(n).unwrap()), n / 300);
    fs::write(&cards, format!("number,customer\n{}", (0..count).map(line).collect::<String>())).unwrap();
    let with = || import(&rig, &cards, &["--format", "fresh"]);
    let operator = rig.operator().await;
    let none = entries(&operator).await;
    let mut under_way = 0;
    while under_way < 2 {
        // Anywhere in a part, whatever of it was taken before.
        let [draw] = random::bytes().unwrap();
        let more = 1 + u64::from(draw) * 800 / 256;
        kill_at(with(), &operator, entries(&operator).await + more).await;
        // Each card is an entry: the vault has more of them than are written down, or it was between two parts.
        let (taken, written) = (entries(&operator).await - none, 1_000 * parts(&state));
        println!("killed with {taken} cards taken and {written} written down");
        under_way += u32::from(taken > written);
    }
    assert!(with().output().unwrap().status.success());
    assert!(firsts(&rig.file("tokens.csv")).into_iter().eq(2..count + 2));
    let text = fs::read_to_string(rig.file("tokens.csv")).unwrap();
    let tokens: BTreeSet<&str> = text.lines().filter_map(|line| line.rsplit(',').next()).collect();
    assert_eq!(tokens.len() as u64, count, "a token for each");
    drop(operator);
    assert!(rig.stop());
    let mut verify = Command::new(program());
    verify.args(["--json", "store", "verify"]).arg("--folder").arg(rig.file("vault"));
    let verified = verify.arg("--passphrase-file").arg(rig.file("passphrase")).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&report["whole"], &report["good"]), (&true.into(), &count.into()), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_from_elsewhere_is_for_importers_and_never_another_cards() {
    let rig = Rig::with(Engine::Redb, POLICY, "");
    let header = || ask::header("acme", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder);
    let item = |number: &str, token: &str| v1::TokenizeItem {
        existing_token: token.to_owned(),
        ..ask::card(Zeroizing::new(number.as_bytes().to_vec()), None)
    };
    let shop = rig.client("shop").await;
    let told = shop.tokenize(header(), item(&card(1), "card_one")).await;
    assert!(told.is_err_and(|e| e.reason() == Some(vault_client::Reason::PermissionDenied)));
    let importer = rig.client("importer").await;
    let first =
        importer.tokenize(header(), item(&card(1), "card_one")).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(first.token, "card_one");
    // The same card again: the same token. Another card: refused, also once the token is revoked.
    let again =
        importer.tokenize(header(), item(&card(1), "card_one")).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again.token, "card_one");
    let other = importer.tokenize(header(), item(&card(2), "card_one")).await;
    assert!(other.is_err_and(|e| e.reason() == Some(vault_client::Reason::Malformed)));
    // A card that is stored by its number is given the token that it came with.
    let stored = shop.tokenize(header(), item(&card(1), "")).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(stored.token, "card_one");
    shop.revoke(header(), ask::end("card_one")).await.unwrap_or_else(|e| panic!("{e}"));
    let other = importer.tokenize(header(), item(&card(2), "card_one")).await;
    assert!(other.is_err_and(|e| e.reason() == Some(vault_client::Reason::Malformed)));
    for wrong in [
        card(3),
        format!("card_{}", card(3)),
        format!("card{}", card(3)),
        "short".to_owned(),
        "with space".to_owned(),
    ] {
        let told = importer.tokenize(header(), item(&card(2), &wrong)).await;
        assert!(told.is_err_and(|e| e.reason() == Some(vault_client::Reason::Malformed)), "{}", wrong.len());
    }
}
