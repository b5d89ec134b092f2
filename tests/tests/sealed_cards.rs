//! A checkout never has a card number: a page seals cards to the vault, the checkout passes on what it cannot read, and a
//! processor opens what was sealed to it. All three are Python programs that share no line with us.
//!
//! The checkout's memory is looked through as the server's is elsewhere, and so are the files it keeps. The same scanner
//! must find the cards in the page's memory: else it would prove nothing.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use data_encoding::BASE64;
use vault_client::{ClientError, Reason, ask};
use vault_core::hpke::PrivateKey;
use vault_core::secret::Secret32;
use vault_core::store::Engine;
use vault_proto::v1;
use vault_tests::canary::{Breeder, Scanner};
use vault_tests::server::Rig;

use crate::canary::core_of;
use crate::foreign_clients::{done, stubs, tests_folder, tools};
use crate::raw::introduce;

/// Cards that go the whole way.
const CARDS: usize = 60;

/// What stands before the 32 bytes of an X25519 private key in PKCS#8 (RFC 8410, section 7).
const PKCS8: &[u8] = &[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20];

/// A merchant of its own: `page` may seal, `checkout` may bring cards and give them to recipients sealed, and nobody may
/// have one in the clear.
fn policy() -> String {
    let policy = String::from(
        r#"
[[merchant]]
id = "vendor"
[[merchant.format]]
id = "cards"
scheme = "random"
keep = { 13 = "0+4", 14 = "0+4", 15 = "6+4", 16 = "6+4", 17 = "6+4", 18 = "6+4", 19 = "6+4" }
[[merchant.channel]]
id = "web"
kind = "e-commerce"
format = "cards"
[[rule]]
id = "vendor-stores"
effect = "allow"
merchant = "vendor"
principals = ["page", "checkout"]
actions = ["tokenize"]
[[rule]]
id = "vendor-sends"
effect = "allow"
merchant = "vendor"
principals = ["checkout"]
actions = ["detokenize"]
show = "full"
[[rule]]
id = "vendor-is-sealed"
effect = "deny"
merchant = "vendor"
channels = ["web"]
actions = ["detokenize"]
sealed_only = true
"#,
    );
    policy + &principals_and_recipients(&["page", "checkout"], "processor")
}

/// Principals of the merchant `vendor`, and behind its other rows its recipients: `good`, one whose day is over (`late`) and
/// one that `good` took over from (`former`).
pub(crate) fn principals_and_recipients(principals: &[&str], good: &str) -> String {
    let mut rows = String::new();
    for name in principals {
        write!(
            rows,
            "[[principal]]\nid = \"{name}\"\nauthority = \"clients\"\nname = \"spiffe://rig/{name}\"\nmerchant = \"vendor\"\n"
        )
        .unwrap();
    }
    for (id, byte, expires, rest) in [
        (good, 1, "2099-12-31", String::new()),
        ("late", 2, "2026-01-31", String::new()),
        ("former", 3, "2099-12-31", format!("replaced_by = \"{good}\"\n")),
    ] {
        let key = BASE64.encode(key(byte).public_key().as_bytes());
        write!(
            rows,
            "[[merchant.recipient]]\nid = \"{id}\"\nowner = \"Processor Ltd.\"\nkey = \"{key}\"\nexpires = \"{expires}\"\n{rest}"
        )
        .unwrap();
    }
    rows
}

/// A private key of one byte again and again.
fn key(byte: u8) -> PrivateKey {
    PrivateKey::of_scalar(&Secret32::filled_by(|b| b.fill(byte))).unwrap()
}

/// The file of that private key.
pub(crate) fn pem(byte: u8) -> String {
    let der = [PKCS8, &[byte; 32]].concat();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64.encode(&der))
}

/// A Python program that lives until it is let go.
struct Program {
    child: Child,
    input: ChildStdin,
}

impl Program {
    /// Starts it with its input, an empty line behind it, and gives what it wrote up to its own empty line.
    fn run(script: &str, arguments: &[&str], input: &str) -> (Self, Vec<String>) {
        let mut child =
            python(script, arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut to = child.stdin.take().unwrap();
        writeln!(to, "{input}").unwrap();
        let mut lines = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap) {
            if line.is_empty() {
                return (Self { child, input: to }, lines);
            }
            lines.push(line);
        }
        panic!("{script} ended: {:?}", child.wait());
    }

    /// Its memory, as a debugger sees it, looked through.
    fn scanned(&self, scanner: &Scanner, folder: &Path) -> vault_tests::canary::Scan {
        let core = core_of(self.child.id(), folder);
        let scan = scanner.file(&core);
        std::fs::remove_file(core).unwrap();
        scan
    }

    fn let_go(mut self) {
        drop(self.input);
        assert!(self.child.wait().unwrap().success());
    }
}

fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(tools().join("bin/python"));
    command.arg(tests_folder().join("python").join(script)).args(arguments);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[test]
fn a_card_goes_from_page_to_processor_and_the_checkout_between_them_never_has_it() {
    let mut rig = Rig::made(Engine::Redb, &policy(), "");
    introduce(&rig, "page");
    introduce(&rig, "checkout");
    rig.start();
    let (classes, kept, cores) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    stubs(classes.path());
    let (stubs, folder, address) =
        (classes.path().to_str().unwrap(), rig.folder.path().to_str().unwrap(), rig.data().to_string());

    let mut breeder = Breeder::new(9180);
    let mut cards = Vec::new();
    for place in 0..CARDS {
        let expiry = if place % 4 == 0 {
            String::new()
        } else {
            format!("20{:02}-{:02}", 27 + place % 60, 1 + place % 12)
        };
        cards.push(format!("{},{expiry}", breeder.card(13 + place % 7)));
    }
    let scanner = Scanner::new(breeder.drawn());

    let input: String = cards.iter().map(|card| format!("{card}\n")).collect();
    let (page, sealed) = Program::run("seal.py", &[stubs, folder, &address, "page"], &input);
    assert_eq!(sealed.len(), CARDS);
    let found = page.scanned(&scanner, cores.path());
    assert_eq!(found.distinct(), CARDS, "void: a scanner that does not find what is there proves nothing");
    page.let_go();

    let input: String = sealed.iter().map(|line| format!("{line}\n")).collect();
    let at = [stubs, folder, &address, "checkout", "processor", kept.path().to_str().unwrap()];
    let (checkout, given) = Program::run("checkout.py", &at, &input);
    let memory = checkout.scanned(&scanner, cores.path());
    assert!(memory.bytes > 10 << 20, "{} bytes are not a Python's memory", memory.bytes);
    let shown =
        |scan: &vault_tests::canary::Scan| scan.sightings.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(memory.sightings.is_empty(), "{:?}", shown(&memory));
    checkout.let_go();
    let (files, told) = scanner.folder(kept.path());
    assert!(files.bytes > 0 && files.sightings.is_empty(), "{told:?}");
    assert!(scanner.bytes(given.join("\n").as_bytes()).sightings.is_empty());

    let file = cores.path().join("processor.key");
    std::fs::write(&file, pem(1)).unwrap();
    let mut open = python("open.py", &[file.to_str().unwrap(), "vendor", "processor"]);
    let mut open = open.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let input = given.join("\n");
    open.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let opened = done(&open.wait_with_output().unwrap());
    assert_eq!(opened.lines().collect::<Vec<_>>(), cards, "the processor has the cards, in their order");

    // What the server wrote down meanwhile holds none either, and it ends in good order.
    assert!(rig.stop());
    let (vault, told) = scanner.folder(rig.folder.path());
    assert!(vault.sightings.is_empty(), "{told:?}");
    assert!(scanner.bytes(rig.log().join("\n").as_bytes()).sightings.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_card_sealed_to_a_recipient_who_is_unregistered_expired_or_replaced() {
    let mut rig = Rig::made(Engine::Redb, &policy(), "");
    introduce(&rig, "checkout");
    rig.start();
    let checkout = rig.client("checkout").await;
    let header = || ask::header("vendor", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder);
    let key = checkout.sealing_key("vendor", "web").await.unwrap();
    let public = vault_core::hpke::PublicKey::parse(&key.public_key).unwrap();
    let made = public.seal(&key.info, br#"{"v":1,"pan":"4111111111111111"}"#).unwrap();
    let card = v1::SealedCard { key_id: key.key_id, enc: made.enc.to_vec(), ciphertext: made.ciphertext };
    let stored = checkout.tokenize(header(), ask::sealed_card(card.clone())).await.unwrap();
    assert_eq!(stored.card.unwrap().last_four, "1111");

    let sealed = checkout.detokenize(header(), ask::sealed_to(&stored.token, "processor")).await.unwrap();
    assert!(matches!(sealed.reveal, Some(v1::detokenize_result::Reveal::SealedToRecipient(_))));
    let reason = |told: Result<v1::DetokenizeResult, ClientError>| told.unwrap_err().reason();
    for recipient in ["nobody", "late", "former"] {
        let item = ask::sealed_to(&stored.token, recipient);
        let told = checkout.detokenize(header(), item.clone()).await;
        assert_eq!(reason(told), Some(Reason::PermissionDenied), "{recipient}");
        // The same for a token that never was: the answer tells nothing of it.
        let other = v1::DetokenizeItem { token: "tok_0123456789012345678901".into(), ..item.clone() };
        assert_eq!(reason(checkout.detokenize(header(), other).await), Some(Reason::PermissionDenied));
        let good = ask::sealed_to(&stored.token, "processor");
        let batch = checkout.batch_detokenize(header(), vec![good, item]).await.unwrap().outcomes;
        assert!(batch[0].result.is_ok());
        assert_eq!(reason(batch[1].result.clone()), Some(Reason::PermissionDenied), "{recipient}");
    }
    // In the clear there is nothing to be had on this channel, masked there is.
    let plain = checkout.detokenize(header(), ask::plain(&stored.token)).await;
    assert_eq!(reason(plain), Some(Reason::PermissionDenied));
    let masked = checkout.detokenize(header(), ask::masked(&stored.token)).await.unwrap();
    assert!(matches!(masked.reveal, Some(v1::detokenize_result::Reveal::Masked(_))));

    // A key that was replaced still opens; a card that is bent does not, and is told by its field alone.
    let operator = rig.operator().await;
    let rotate = v1::RotateKeyRequest {
        header: Some(ask::change(None)),
        kind: v1::KeyKind::Rcv.into(),
        merchant: "vendor".into(),
        ..Default::default()
    };
    let rotated = operator.rotate_key(rotate).await.unwrap();
    let next = checkout.sealing_key("vendor", "web").await.unwrap();
    assert_eq!(next.key_id, rotated.key.unwrap().id);
    let again = checkout.tokenize(header(), ask::sealed_card(card.clone())).await.unwrap();
    assert_eq!(again.token, stored.token);
    for bent in [
        v1::SealedCard { key_id: next.key_id, ..card.clone() },
        v1::SealedCard { key_id: "4111111111111111".into(), ..card.clone() },
        v1::SealedCard { enc: Vec::new(), ..card.clone() },
        v1::SealedCard { ciphertext: vec![0; 2_000], ..card },
    ] {
        let told = checkout.tokenize(header(), ask::sealed_card(bent)).await.unwrap_err();
        assert_eq!(told.reason(), Some(Reason::Malformed), "{told}");
        assert!(told.to_string().contains("item.sealed") && !told.to_string().contains("4111"), "{told}");
    }
    assert!(rig.stop());
}
