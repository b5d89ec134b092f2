//! Cards leave by `vaultctl export`: sealed to a registered recipient, by a right of its own, however often it is killed; and
//! the recipient has them with the tokens that they had.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use vault_client::{VaultClient, Zeroizing, ask, v1};
use vault_core::store::Engine;
use vault_tests::canary::{Breeder, Scanner};
use vault_tests::server::{Rig, program};

use crate::moving_in::{self, count, import, kill_after, vaultctl};
use crate::raw::introduce;
use crate::sealed_cards::{pem, principals_and_recipients};

/// How many of the cards are looked for in all files, in every form.
const LOOKED_FOR: usize = 500;

/// The merchant's services.
const PRINCIPALS: [&str; 3] = ["seller", "leaver", "payer"];

/// A merchant of its own: `seller` stores cards, `leaver` may take them elsewhere, and `payer` may have them for everything
/// else, in the clear and sealed.
fn policy() -> String {
    let policy = String::from(
        r#"
[[merchant]]
id = "vendor"
[[merchant.format]]
id = "cards"
scheme = "random"
[[merchant.channel]]
id = "web"
kind = "e-commerce"
format = "cards"
[[rule]]
id = "vendor-stores"
effect = "allow"
merchant = "vendor"
principals = ["seller"]
actions = ["tokenize", "revoke"]
import = true
[[rule]]
id = "vendor-leaves"
effect = "allow"
merchant = "vendor"
principals = ["leaver"]
actions = ["detokenize"]
purposes = ["export"]
show = "full"
recipients = ["newbank", "late", "former"]
[[rule]]
id = "vendor-pays"
effect = "allow"
merchant = "vendor"
principals = ["payer"]
actions = ["detokenize"]
show = "full"
"#,
    );
    policy + &principals_and_recipients(&PRINCIPALS, "newbank")
}

fn rig() -> Rig {
    let mut rig = Rig::made(Engine::Redb, &policy(), "");
    for name in PRINCIPALS {
        introduce(&rig, name);
    }
    rig.start();
    rig
}

fn header() -> v1::RequestHeader {
    ask::header("vendor", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder)
}

/// A card as the recipient is to have it: number and date.
type Card = (String, String);

/// Stores cards; gives each token's card.
async fn stored(rig: &Rig, breeder: &mut Breeder, count: u32) -> BTreeMap<String, Card> {
    let endpoint = rig.endpoint("seller").deadline(Duration::from_secs(300));
    let seller = VaultClient::connect(endpoint).await.unwrap_or_else(|e| panic!("{e}"));
    let cards: Vec<(String, u32)> = (0..count).map(|n| (breeder.card(13 + n as usize % 7), n)).collect();
    let expiry =
        |n: u32| (!n.is_multiple_of(4)).then(|| v1::CardExpiry { month: 1 + n % 12, year: 2027 + n % 60 });
    let items =
        cards.iter().map(|(number, n)| ask::card(Zeroizing::new(number.as_bytes().to_vec()), expiry(*n)));
    let batch = seller.batch_tokenize(header(), items.collect()).await.unwrap_or_else(|e| panic!("{e}"));
    let told = |((number, n), outcome): ((String, u32), vault_client::Outcome<v1::TokenizeResult>)| {
        let date = expiry(n).map_or_else(String::new, |e| format!("{:04}-{:02}", e.year, e.month));
        (outcome.result.unwrap_or_else(|e| panic!("{e}")).token, (number, date))
    };
    cards.into_iter().zip(batch.outcomes).map(told).collect()
}

fn export(rig: &Rig, principal: &str, to: &str, more: &[&str]) -> Command {
    let mut command = vaultctl(rig, principal, "vendor");
    command.arg("export").arg(rig.file("tokens.csv")).args(["--column", "token", "--to", to]);
    command.arg("--out").arg(rig.file("sealed.jsonl")).args(more);
    command
}

/// The recipient's side: a process that has the key, the file of sealed cards and nothing of the vault.
fn opened(folder: &Path, sealed: &Path, byte: u8) -> (Output, PathBuf) {
    let (file, out) = (folder.join("newbank.key"), folder.join("cards.csv"));
    fs::write(&file, pem(byte)).unwrap();
    let mut open = Command::new(program());
    open.args(["recipient", "open", "--merchant", "vendor", "--recipient", "newbank"]);
    open.arg("--key").arg(file).arg("--file").arg(sealed).arg("--out").arg(&out);
    (open.stdin(Stdio::null()).output().unwrap(), out)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_is_killed_twice_opens_to_the_same_cards_and_moves_in_elsewhere_with_its_tokens() {
    let mut rig = rig();
    let mut breeder = Breeder::new(13);
    let mut cards = stored(&rig, &mut breeder, count()).await;
    let looked_for: Vec<&str> = breeder.drawn().take(LOOKED_FOR).collect();
    let scanner = Scanner::new(looked_for.iter().copied());
    // In between stand a token that is gone, one that never was, and what is none.
    let gone = cards.keys().next().unwrap().clone();
    let seller = rig.client("seller").await;
    seller.revoke(header(), ask::end(&gone)).await.unwrap_or_else(|e| panic!("{e}"));
    cards.remove(&gone);
    let mut list = String::from("customer,token\r\n");
    for (n, token) in cards.keys().enumerate() {
        if n == 700 {
            list.push_str(&format!(",{gone}\r\n\r\n,tok_0123456789012345678901\r\nanna,\"no token\"\r\n"));
        }
        list.push_str(&format!("c{n},{token}\r\n"));
    }
    fs::write(rig.file("tokens.csv"), list).unwrap();
    let lines = cards.len() as u64 + 3;

    let state = rig.file("sealed.jsonl.state");
    for caught in 1..=2_u64 {
        let rate = (count() / 2).to_string();
        kill_after(export(&rig, "leaver", "newbank", &["--rate", &rate]), &state, caught, lines / 1_000)
            .await;
    }
    // Nobody goes on with it under another name, nor over it.
    let other = export(&rig, "leaver", "former", &[]).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stderr).contains("with other options"));
    let other = export(&rig, "payer", "newbank", &[]).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    let told = String::from_utf8_lossy(&other.stderr);
    assert!(told.contains("principal spiffe://rig/leaver, and this is spiffe://rig/payer"), "{told}");
    let done = export(&rig, "leaver", "newbank", &[]).output().unwrap();
    assert_eq!(done.status.code(), Some(1), "some lines were refused");
    let told: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&told["lines"], &told["exported"]), (&lines.into(), &cards.len().into()));
    assert_eq!((&told["refused"], told["sha256"].as_str().map(str::len)), (&3.into(), Some(64)));
    assert!(!state.exists());
    let refused = fs::read_to_string(rig.file("sealed.jsonl.refused")).unwrap();
    let refused: Vec<(&str, &str)> = refused.lines().filter_map(|line| line.split_once(',')).collect();
    assert_eq!(refused.iter().map(|(line, _)| *line).collect::<Vec<_>>(), ["702", "704", "705"]);
    assert_eq!(refused[0].1, refused[1].1, "a token that is gone reads as one that never was");
    assert!(refused[2].1.contains("the token"));

    // Every token once, in the list's order.
    let sealed = fs::read_to_string(rig.file("sealed.jsonl")).unwrap();
    let told: Vec<serde_json::Value> = sealed.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(told.iter().map(|line| line["token"].as_str().unwrap()).eq(cards.keys()));

    // Another process, with the key alone, has the same cards beside the same tokens.
    let elsewhere = tempfile::tempdir().unwrap();
    let (opened, file) = opened(elsewhere.path(), &rig.file("sealed.jsonl"), 1);
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    let text = fs::read_to_string(&file).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("number,expiry,token"));
    for ((token, (number, date)), line) in cards.iter().zip(lines.by_ref()) {
        assert_eq!(line, format!("{number},{date},{token}"));
    }
    assert_eq!(lines.next(), None);

    // And takes them in with their tokens.
    let new = Rig::with(Engine::Redb, moving_in::POLICY, "");
    let moved = import(&new, &file, &["--preset", "plain"]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&moved.stdout).unwrap();
    assert_eq!((&told["taken"], &told["tokens_kept"]), (&cards.len().into(), &cards.len().into()), "{told}");
    let endpoint = new.endpoint("gateway").deadline(Duration::from_secs(300));
    let gateway = VaultClient::connect(endpoint).await.unwrap_or_else(|e| panic!("{e}"));
    let header = ask::header("acme", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder);
    let items = cards.keys().map(|token| ask::plain(token)).collect();
    let batch = gateway.batch_detokenize(header, items).await.unwrap_or_else(|e| panic!("{e}"));
    for ((token, (number, _)), outcome) in cards.iter().zip(batch.outcomes) {
        let pan = ask::pan(outcome.result.unwrap_or_else(|e| panic!("{token}: {e}"))).unwrap();
        assert_eq!(std::str::from_utf8(&pan).unwrap(), number, "{token}");
    }

    // No file of the export's, nor of the vault's, ever held a card number: the scanner finds those that are opened.
    let there = looked_for.iter().filter(|number| cards.values().any(|(card, _)| card == *number));
    assert_eq!(scanner.file(&file).distinct(), there.count());
    assert!(rig.stop());
    let (scan, told) = scanner.folder(rig.folder.path());
    assert!(scan.sightings.is_empty(), "{told:?}");
    println!("{} cards out, opened and in again, killed twice", cards.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_leaves_with_cards_without_that_right_or_to_whom_they_may_not_go() {
    let rig = rig();
    let cards = stored(&rig, &mut Breeder::new(14), 3).await;
    let list: String = cards.keys().map(|token| format!("{token}\n")).collect();
    fs::write(rig.file("tokens.csv"), format!("token\n{list}")).unwrap();
    // Who may have them for all else, in the clear, and sealed to the same recipient.
    let payer = rig.client("payer").await;
    let token = cards.keys().next().unwrap();
    assert!(payer.detokenize(header(), ask::plain(token)).await.is_ok());
    assert!(payer.detokenize(header(), ask::sealed_to(token, "newbank")).await.is_ok());
    let leaver = rig.client("leaver").await;
    assert!(leaver.detokenize(header(), ask::sealed_to(token, "newbank")).await.is_err());
    for (principal, to) in
        [("payer", "newbank"), ("leaver", "nobody"), ("leaver", "late"), ("leaver", "former")]
    {
        let done = export(&rig, principal, to, &[]).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(done.status.code(), Some(1), "{principal} to {to}");
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(told.contains("PERMISSION_DENIED"), "{told}");
        for file in ["sealed.jsonl", "sealed.jsonl.refused", "sealed.jsonl.state"] {
            assert_eq!(fs::metadata(rig.file(file)).unwrap().len() == 0, !file.ends_with("state"), "{file}");
            fs::remove_file(rig.file(file)).unwrap();
        }
    }
    // Nor in the clear, by whoever has the right.
    let export_header = v1::RequestHeader { purpose: v1::Purpose::Export.into(), ..header() };
    let plain = leaver.detokenize(export_header, ask::plain(token)).await;
    assert!(plain.is_err_and(|e| e.reason() == Some(vault_client::Reason::PermissionDenied)));
    // And who has it, has it.
    let done = export(&rig, "leaver", "newbank", &[]).output().unwrap();
    assert!(done.status.success());
    let again = export(&rig, "leaver", "newbank", &[]).stderr(Stdio::piped()).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
    // Only the key that they were sealed to opens them.
    let folder = tempfile::tempdir().unwrap();
    assert!(!opened(folder.path(), &rig.file("sealed.jsonl"), 2).0.status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_bound_to_its_customer_leaves_with_that_customers_name_alone() {
    let rig = rig();
    let seller = rig.client("seller").await;
    let mut list = String::from("token,customer\n");
    for (number, customer) in [("4111111111111111", "anna"), ("5555555555554444", "ben")] {
        let item = v1::TokenizeItem {
            restrictions: Some(v1::Restrictions { bound_to_customer: true, ..Default::default() }),
            context: Some(v1::Context { customer_reference: customer.into(), ..Default::default() }),
            ..ask::card(Zeroizing::new(number.as_bytes().to_vec()), None)
        };
        let stored = seller.tokenize(header(), item).await.unwrap_or_else(|e| panic!("{e}"));
        list.push_str(&format!("{},{customer}\n{},carl\n", stored.token, stored.token));
    }
    fs::write(rig.file("tokens.csv"), list).unwrap();
    let done = export(&rig, "leaver", "newbank", &["--customer-column", "customer"]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&told["exported"], &told["refused"]), (&2.into(), &2.into()), "{told}");
    let refused = fs::read_to_string(rig.file("sealed.jsonl.refused")).unwrap();
    assert!(refused.lines().map(|l| &l[..2]).eq(["3,", "5,"]), "{refused}");
    let folder = tempfile::tempdir().unwrap();
    let (done, file) = opened(folder.path(), &rig.file("sealed.jsonl"), 1);
    assert!(done.status.success());
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains("\n4111111111111111,,") && text.contains("\n5555555555554444,,"), "two cards");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_kept_from_elsewhere_leaves_with_its_card_as_it_came() {
    let rig = rig();
    let kept: BTreeMap<String, Card> =
        (0..12).map(|n| (moving_in::token(n), (moving_in::card(n), "2031-05".into()))).collect();
    let lines = kept.iter().map(|(token, (number, date))| format!("{number},{date},{token}\n"));
    let file = rig.file("elsewhere.csv");
    fs::write(&file, format!("number,expiry,token\n{}", lines.collect::<String>())).unwrap();
    let mut import = vaultctl(&rig, "seller", "vendor");
    import.arg("import").arg(&file).arg("--out").arg(rig.file("imported.csv"));
    let told: serde_json::Value = serde_json::from_slice(&import.output().unwrap().stdout).unwrap();
    assert_eq!((&told["tokens_kept"], &told["refused"]), (&kept.len().into(), &0.into()));
    let list: String = kept.keys().map(|token| format!("{token}\n")).collect();
    fs::write(rig.file("tokens.csv"), format!("token\n{list}")).unwrap();
    assert!(export(&rig, "leaver", "newbank", &[]).output().unwrap().status.success());
    let folder = tempfile::tempdir().unwrap();
    let (done, out) = opened(folder.path(), &rig.file("sealed.jsonl"), 1);
    assert!(done.status.success());
    assert_eq!(fs::read(out).unwrap(), fs::read(file).unwrap(), "what came in went out");
}
