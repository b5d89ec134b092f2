//! A token space tells how full it is, exactly and before it is used up; then it ends in an error, and never in a second
//! card for a token.

use std::collections::HashSet;
use std::process::Command;
use std::time::{Duration, Instant};

use pollster::block_on;
use vault_client::{AdminClient, Reason, VaultClient, Zeroizing, ask, v1};
use vault_core::error::Error;
use vault_core::name::FormatName;
use vault_core::plan::Kept;
use vault_core::policy::Policy;
use vault_core::store::{Engine, Options};
use vault_core::token::Token;
use vault_core::vault::{KnownSpace, NewCard, SpaceState, SpaceUse};
use vault_tests::ON_DISK;
use vault_tests::cards::{VISA, card, luhn};
use vault_tests::desk::{Desk, OPTIONS, header, in_format, merchant_name, policy, token};
use vault_tests::server::{Rig, program};

use crate::raw::{eventually, get};

/// What a format's tokens of 16 digits that keep these have left, as an operator is told.
fn space(desk: &Desk, format: &str, first: &str, last: &str) -> Result<SpaceUse, Error> {
    let format = FormatName::parse(format).unwrap();
    block_on(desk.vault.space_use(&merchant_name("acme"), &format, 16, None, Kept { first, last }))
}

/// How many cards of one BIN come in: as many as the promise says in the long run.
fn count() -> u32 {
    if std::env::var_os("VAULT_LONG").is_some() { 1_000_000 } else { 20_000 }
}

/// The `n`-th card number of one BIN: its last four are those of `n`, the digit behind the first ten sets the sum right.
fn of_one_bin(n: u32) -> String {
    let number = |set: u32| format!("411111{:05}{set}{:04}", n / 10_000, n % 10_000);
    (0..10).map(number).find(|digits| luhn(digits) == 0).unwrap()
}

#[test]
fn cards_of_one_bin_get_unique_tokens_that_fail_luhn_and_the_space_left_is_told_right() {
    let folder = tempfile::tempdir().unwrap();
    // Pages of the many rows stay in memory: it is the tokens that are looked at here.
    let options = Options { cache: 512 << 20, ..OPTIONS };
    let desk =
        Desk::in_folder(folder.path(), Engine::Redb, options, policy()).unwrap_or_else(|e| panic!("{e}"));
    let (began, count) = (Instant::now(), count());
    let mut seen = HashSet::with_capacity(count as usize);
    for from in (0..count).step_by(1_000) {
        let pans: Vec<String> = (from..from + 1_000).map(of_one_bin).collect();
        let tokens = desk.web().imported(pans.iter().map(|pan| card(pan)).collect());
        for (token, pan) in tokens.iter().zip(&pans) {
            let text = token.as_str();
            assert!(text.len() == 16 && text[..6] == pan[..6] && text[12..] == pan[12..]);
            assert_ne!(luhn(text), 0);
            assert!(seen.insert(text.parse::<u64>().unwrap()), "a token came twice");
        }
    }
    let made = began.elapsed();
    assert_eq!(seen.len(), count as usize);
    for last in 0..10_000 {
        let told = space(&desk, "shop", "411111", &format!("{last:04}")).unwrap();
        let used = u64::from(count / 10_000);
        assert_eq!((told.tokens, told.used, told.left()), (900_000, used, 900_000 - u128::from(used)));
        assert_eq!(told.state(), SpaceState::Roomy);
    }
    // None is scarce, so none is told; of all ten thousand one is kept in mind, the format's fullest.
    assert_eq!(block_on(desk.vault.watch_spaces()).unwrap(), []);
    let known = desk.vault.fullest_spaces(None, None);
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].space.used, u64::from(count / 10_000));
    println!(
        "{count} tokens of 10,000 spaces: unique, none passes Luhn; {:.0} s, {:.0} a second; {:.0} s with the look at each space",
        made.as_secs_f64(),
        f64::from(count) / made.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
}

/// The suite's policy, where acme has so many slots.
fn with_slots(slots: u8) -> Policy {
    let mut policy = policy();
    policy.merchants[0].ff1_slots = slots;
    policy
}

fn fresh(desk: &Desk, count: usize) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(count);
    while tokens.len() < count {
        let cards = (tokens.len()..count).take(1_000).map(|_| in_format("tight", VISA)).collect();
        let answers = desk.web().tokenize_batch(&header(), cards).unwrap_or_else(|e| panic!("{e}"));
        tokens.extend(answers.into_iter().map(|a| a.unwrap_or_else(|e| panic!("{e}")).token));
    }
    tokens
}

/// What became scarcer: how much of it is used, and its state.
fn scarcer(desk: &Desk) -> Vec<(u64, SpaceState)> {
    let told = block_on(desk.vault.watch_spaces()).unwrap_or_else(|e| panic!("{e}"));
    told.into_iter().map(|known| (known.space.used, known.state)).collect()
}

#[test]
fn a_space_is_told_to_be_scarce_then_nearly_full_then_used_up_each_once_and_ends_in_an_error() {
    for engine in ON_DISK {
        for (slots, size) in [(0, 9_000), (5, 4_000)] {
            let desk = Desk::with(engine, with_slots(slots));
            let spent = |desk: &Desk| desk.web().tokenize(&header(), in_format("tight", VISA)).err();
            let mut tokens = Vec::new();
            let mut steps =
                vec![(size * 80 / 100, SpaceState::Scarce), (size * 95 / 100, SpaceState::NearlyFull)];
            steps.push((size, SpaceState::UsedUp));
            for (at, state) in steps {
                // One token before it nothing is said, with it once, and no more.
                tokens.extend(fresh(&desk, at - 1 - tokens.len()));
                assert_eq!(scarcer(&desk), [], "{engine} {at}");
                tokens.extend(fresh(&desk, 1));
                assert_eq!(scarcer(&desk), [(at as u64, state)], "{engine}");
                assert_eq!(scarcer(&desk), []);
                let told = space(&desk, "tight", "41111111", "1111").unwrap();
                assert_eq!((told.tokens, told.left()), (size as u128, (size - at) as u128));
                assert_eq!(told.state(), state);
                let of: Vec<_> = desk.vault.format_spaces();
                assert_eq!((of[0].format.as_str(), of[0].fullest, of[0].scarce), ("tight", told.share(), 1));
            }
            let all: HashSet<&str> = tokens.iter().map(Token::as_str).collect();
            assert_eq!(all.len(), size);
            assert!(all.iter().all(|token| luhn(token) > u32::from(slots)), "{engine}");
            assert_eq!(spent(&desk), Some(Error::SpaceExhausted));
            assert_eq!(scarcer(&desk), [], "it is known");
            // A token that is revoked makes no room, and a vault that is opened again says it again, at the first refusal.
            desk.web().revoked(&tokens[7]);
            let desk = desk.reopened();
            assert_eq!(scarcer(&desk), []);
            assert!(desk.vault.fullest_spaces(None, None).is_empty());
            assert_eq!(spent(&desk), Some(Error::SpaceExhausted));
            assert_eq!(scarcer(&desk), [(size as u64, SpaceState::UsedUp)]);
            // Another format has room, and so has another last four.
            assert!(desk.web().tokenize(&header(), in_format("mixed", VISA)).is_ok());
            assert!(desk.web().tokenize(&header(), in_format("tight", &of_one_bin(3))).is_ok());
            assert_eq!(scarcer(&desk), []);
            let known: Vec<KnownSpace> = desk.vault.fullest_spaces(Some(&merchant_name("acme")), None);
            let known: Vec<_> =
                known.iter().map(|k| (k.format.as_str(), k.space.length, k.space.used, k.state)).collect();
            assert_eq!(
                known,
                [("tight", 16, size as u64, SpaceState::UsedUp), ("mixed", 16, 1, SpaceState::Roomy)]
            );
            assert!(desk.vault.fullest_spaces(Some(&merchant_name("zenith")), None).is_empty());
        }
    }
}

#[test]
fn a_space_in_which_an_import_kept_tokens_is_told_to_be_used_up_when_the_first_card_is_refused() {
    let desk = Desk::new(ON_DISK[0]);
    let kept: Vec<Token> = (0..20)
        .map(|n| format!("41111111{n:04}1111"))
        .filter(|digits| luhn(digits) != 0)
        .map(|digits| token(&digits))
        .collect();
    let left = 9_000 - kept.len();
    let cards = kept.iter().map(|kept| NewCard { existing: Some(kept.copy()), ..in_format("tight", VISA) });
    desk.web().imported(cards.collect());
    assert_eq!(scarcer(&desk), [], "they are not counted");
    let made = fresh(&desk, left);
    assert!(made.iter().all(|made| kept.iter().all(|kept| kept.as_str() != made.as_str())));
    assert_eq!(scarcer(&desk), [(left as u64, SpaceState::NearlyFull)]);
    for told in [vec![(left as u64, SpaceState::UsedUp)], vec![]] {
        let spent = desk.web().tokenize(&header(), in_format("tight", VISA)).err();
        assert_eq!(spent, Some(Error::SpaceExhausted));
        assert_eq!(scarcer(&desk), told);
    }
}

#[test]
fn a_space_that_is_not_wholly_named_is_none() {
    let desk = Desk::new(ON_DISK[0]);
    desk.web().stored(VISA);
    for (first, last) in [("411111", "1111"), ("41111111", "1111"), ("411111", "111111111")] {
        assert_eq!(space(&desk, "shop", first, last).map(|s| s.used), Ok(1), "{first} {last}");
    }
    for (format, first, last) in [
        ("shop", "", ""),
        ("shop", "411111", ""),
        ("shop", "", "1111"),
        ("shop", "41111", "1111"),
        ("shop", "411111", "111"),
        ("tight", "411111", "1111"),
    ] {
        let told = space(&desk, format, first, last);
        assert!(matches!(told, Err(Error::Malformed { field: "space", .. })), "{format} {first} {last}");
    }
}

/// A merchant of the rig's second shop with a format of 9,000 tokens for each BIN of eight and last four.
const TIGHT: &str = r#"
[[merchant]]
id = "narrow"
[[merchant.format]]
id = "tight"
scheme = "random"
mode = "fresh"
keep = { 16 = "8+4" }
[[merchant.channel]]
id = "web"
kind = "e-commerce"
format = "tight"
[[principal]]
id = "narrow-shop"
authority = "clients"
name = "spiffe://rig/stranger"
merchant = "narrow"
[[rule]]
id = "narrow-stores"
effect = "allow"
merchant = "narrow"
principals = ["narrow-shop"]
actions = ["tokenize"]
"#;

async fn add(shop: &VaultClient, count: usize) -> Vec<Result<String, Option<Reason>>> {
    let header = ask::header("narrow", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder);
    let card = || ask::card(Zeroizing::new(VISA.as_bytes().to_vec()), None);
    let items = (0..count).map(|_| card()).collect();
    let batch = shop.batch_tokenize(header, items).await.unwrap_or_else(|e| panic!("{e}"));
    batch.outcomes.into_iter().map(|o| o.result.map(|r| r.token).map_err(|e| e.reason())).collect()
}

/// The log's lines on spaces: level, used, left, how many spaces the line speaks for.
fn lines(rig: &Rig) -> Vec<(String, u64, String, u64)> {
    let lines = rig.log().into_iter().filter_map(|l| serde_json::from_str::<serde_json::Value>(&l).ok());
    let of = |line: serde_json::Value| {
        assert_eq!((&line["merchant"], &line["format"]), (&"narrow".into(), &"tight".into()));
        assert_eq!((&line["tokens"], &line["length"]), (&"9000".into(), &16.into()));
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        assert!(text("message").contains("let the channels name another format"));
        (text("level"), line["used"].as_u64().unwrap(), text("left"), line["count"].as_u64().unwrap())
    };
    lines.filter(|line| line.get("used").is_some()).map(of).collect()
}

/// What the operator is told of the space, by name and by list.
async fn asked(operator: &AdminClient) -> (u64, String, v1::TokenSpaceState) {
    let request = v1::GetTokenSpaceRequest {
        merchant: "narrow".to_owned(),
        format: "tight".to_owned(),
        length: 16,
        first: "41111111".to_owned(),
        last: "1111".to_owned(),
    };
    let one = operator.get_token_space(request).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(one.tokens, "9000");
    let all = operator.list_token_spaces(v1::ListTokenSpacesRequest::default()).await;
    let [space] = all.unwrap_or_else(|e| panic!("{e}")).spaces.try_into().unwrap();
    let seen = (&space.space, space.used, &space.left, space.state, space.token_length);
    assert_eq!(seen, (&one.space, one.used, &one.left, one.state, one.token_length));
    assert_eq!(one.token_length, 16);
    (one.used, one.left.clone(), one.state())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_foretells_in_log_metrics_and_report_that_a_space_runs_full() {
    let rig = Rig::with(Engine::Redb, TIGHT, "[metrics]\naddress = \"127.0.0.1:0\"\n");
    // Near its end a space is walked for each token: on a busy machine a batch takes its time.
    let endpoint = rig.endpoint("stranger").deadline(Duration::from_secs(300));
    let shop = VaultClient::connect(endpoint).await.unwrap_or_else(|e| panic!("{e}"));
    let operator = rig.operator().await;
    let gauge = async |name: &str| -> Option<f64> {
        let name = format!("vault_{name}{{merchant=\"narrow\",format=\"tight\"}} ");
        get(&rig, "/metrics").await.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
    };
    let line = |level: &str, used: u64| (level.to_owned(), used, (9_000 - used).to_string(), 1);
    let mut wanted = Vec::new();
    let mut tokens = HashSet::new();
    for (until, level, state) in [
        (7_199, None, v1::TokenSpaceState::Roomy),
        (7_200, Some("WARN"), v1::TokenSpaceState::Scarce),
        (8_549, None, v1::TokenSpaceState::Scarce),
        (8_550, Some("WARN"), v1::TokenSpaceState::NearlyFull),
        (8_999, None, v1::TokenSpaceState::NearlyFull),
        (9_000, Some("ERROR"), v1::TokenSpaceState::UsedUp),
    ] {
        while tokens.len() < until {
            let added = add(&shop, (until - tokens.len()).min(250)).await;
            for token in added {
                let token = token.unwrap_or_else(|e| panic!("{until}: {e:?}"));
                assert!(tokens.insert(token), "a token came twice");
            }
        }
        let (used, share) = (until as u64, (until * 10_000 / 9_000) as f64 / 10_000.0);
        eventually("the gauge", async || gauge("token_space_used_ratio").await == Some(share)).await;
        let scarce = if state == v1::TokenSpaceState::Roomy { 0.0 } else { 1.0 };
        assert_eq!(gauge("token_spaces_scarce").await, Some(scarce), "{until}");
        wanted.extend(level.map(|level| line(level, used)));
        // The line comes before the gauge.
        eventually("the log's line", async || lines(&rig).len() >= wanted.len()).await;
        assert_eq!(lines(&rig), wanted);
        assert_eq!(asked(&operator).await, (used, (9_000 - used).to_string(), state));
    }
    assert!(tokens.iter().all(|token| luhn(token) != 0));
    assert_eq!(add(&shop, 3).await, vec![Err(Some(Reason::SpaceExhausted)); 3]);
    assert_eq!(lines(&rig), wanted);

    // The same for a person: all spaces, and the one.
    let told = |more: &[&str]| {
        let at = format!("https://localhost:{}", rig.admin().port());
        let mut command = Command::new(program());
        command.args(["format", "space", "--admin", &at]).args(more);
        for (name, file) in [("CA", "servers.pem"), ("CERT", "olga.pem"), ("KEY", "olga.key")] {
            command.env(format!("VAULTCTL_ADMIN_{name}"), rig.file(file));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let all = told(&[]);
    assert!(all.contains("narrow/tight") && all.contains("9,000") && all.contains("used_up"), "{all}");
    let named = ["--merchant", "narrow", "--format", "tight", "--first", "41111111", "--last"];
    assert_eq!(told(&[&named[..], &["1111"]].concat()), all, "by name and by list it is the same line");
    let other = told(&[&named[..], &["2222"]].concat());
    assert!(other.contains("roomy") && !other.contains("used_up"), "{other}");

    // No digit that the tokens keep is in log or metrics.
    let page = get(&rig, "/metrics").await;
    for text in rig.log().iter().map(String::as_str).chain([page.as_str(), &all]) {
        assert!(!text.contains("411111") && !text.contains("1111\""), "{text}");
    }
}
