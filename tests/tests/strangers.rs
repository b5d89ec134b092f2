//! Who is not let in, and what who is let in cannot learn: no certificate, no service; no right, one plain denial; no
//! token for this request, one answer whatever the reason, at the same cost. The true reason is in the log.
//!
//! And what holds on to its word over the wire: a lock, to the very entry, and a request id, over lost replies and kills.

use std::collections::BTreeSet;
use std::time::Duration;

use prost_types::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use vault_client::v1::{Initiator, Purpose};
use vault_client::{AdminClient, ClientError, Reason, Zeroizing, ask};
use vault_core::store::Engine;
use vault_proto::status::{Failure, LOCKDOWN};
use vault_proto::v1::{self, AuditOutcome};
use vault_tests::cards::number;
use vault_tests::server::{Authority, Leaf, Rig};

use crate::raw::{
    Cut, NEW_TLS, Papers, Raw, SOON, config, eventually, framed, get, health, papers, put, served,
};

const OLD_TLS: &rustls::SupportedProtocolVersion = &rustls::version::TLS12;

/// Purposes for which the gateway gets less than the card, or is told no by a rule.
const MORE_RULES: &str = r#"
[[rule]]
id = "gateway-settles"
effect = "allow"
merchant = "acme"
principals = ["gateway"]
actions = ["detokenize"]
purposes = ["settlement"]
show = "masked"

[[rule]]
id = "no-reversals"
effect = "deny"
merchant = "acme"
principals = ["gateway"]
actions = ["detokenize"]
purposes = ["reversal"]
"#;

const METRICS: &str = "[metrics]\naddress = \"127.0.0.1:0\"\n";

fn header(merchant: &str, channel: &str) -> v1::RequestHeader {
    ask::header(merchant, channel, Purpose::Authorization, Initiator::Cardholder)
}

fn card(digits: &str) -> v1::TokenizeItem {
    ask::card(Zeroizing::new(digits.as_bytes().to_vec()), None)
}

fn tokenize(header: v1::RequestHeader, item: v1::TokenizeItem) -> v1::TokenizeRequest {
    v1::TokenizeRequest { header: Some(header), item: Some(item) }
}

/// Stores a card as a principal, on a channel of its merchant.
async fn store(client: &Raw, merchant: &str, channel: &str, item: v1::TokenizeItem) -> String {
    let request = tokenize(header(merchant, channel), item);
    let stored: v1::TokenizeResponse = client.vault("Tokenize", &request).await.unwrap();
    stored.result.unwrap().token
}

/// What a caller can see of a refusal: all of it.
fn seen(status: &Status) -> (i32, String, Vec<u8>) {
    (status.code().into(), status.message().to_owned(), status.details().to_vec())
}

fn reason(status: &Status) -> Option<Reason> {
    Failure::from(status).reason()
}

/// Every entry of the log that a principal made, oldest first.
async fn log_of(operator: &AdminClient, principal: &str) -> Vec<v1::AuditEntry> {
    let (mut entries, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListAuditEntriesRequest {
            principal: principal.to_owned(),
            page_size: 1_000,
            page_token,
            ..v1::ListAuditEntriesRequest::default()
        };
        let page = operator.list_audit_entries(request).await.unwrap();
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return entries;
        }
    }
}

async fn last_of(operator: &AdminClient, principal: &str) -> v1::AuditEntry {
    log_of(operator, principal).await.pop().expect("an entry")
}

/// How many connections the data plane turned away for a reason, as its page counts them.
async fn turned(rig: &Rig, why: &str) -> u64 {
    let name = format!("vault_connections_turned_away_total{{door=\"Data\",reason=\"{why}\"}} ");
    let page = get(rig, "/metrics").await;
    page.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_without_a_good_certificate_over_tls_1_3() {
    let rig = Rig::with(Engine::Redb, "", METRICS);
    let of = |authority: &Authority, leaf| {
        let (certificate, key, serial) = authority.issue("spiffe://rig/shop", leaf);
        ((certificate, key), serial)
    };
    let good = papers(&rig, "shop");
    let (expired, _) = of(&rig.clients, Leaf::Expired);
    let (revoked, serial) = of(&rig.clients, Leaf::Good);
    let (other, _) = of(&Authority::new("others"), Leaf::Good);
    let (of_the_same_name, _) = of(&Authority::new("rig clients"), Leaf::Good);
    let operators = papers(&rig, "olga");
    assert!(
        served(rig.data(), config(&rig, NEW_TLS, Some(&revoked))).await.is_ok(),
        "it is good until it is revoked"
    );
    put(&rig, "clients.crl", &rig.clients.revocation_list(&[serial]));
    eventually("the revocation", || async {
        served(rig.data(), config(&rig, NEW_TLS, Some(&revoked))).await.is_err()
    })
    .await;

    let cases: [(&str, &'static rustls::SupportedProtocolVersion, Option<&Papers>, &str); 7] = [
        ("no certificate", NEW_TLS, None, "NoCertificate"),
        ("another authority's", NEW_TLS, Some(&other), "UnknownAuthority"),
        ("one of an authority that calls itself like ours", NEW_TLS, Some(&of_the_same_name), "Other"),
        ("an operator's", NEW_TLS, Some(&operators), "UnknownAuthority"),
        ("an expired one", NEW_TLS, Some(&expired), "OutOfTime"),
        ("a revoked one", NEW_TLS, Some(&revoked), "Revoked"),
        ("a good one, but TLS 1.2", OLD_TLS, Some(&good), "OldTls"),
    ];
    for (what, version, papers, why) in cases {
        let before = turned(&rig, why).await;
        assert!(served(rig.data(), config(&rig, version, papers)).await.is_err(), "{what} was served");
        eventually(what, || async { turned(&rig, why).await == before + 1 }).await;
        assert!(
            served(rig.admin(), config(&rig, version, papers)).await.is_err(),
            "{what} at the operators' door"
        );
    }
    // Without TLS: HTTP/2 and HTTP/1.1, as clients say them that take the port for an open one.
    let request = framed(&[]);
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], &request].concat();
    for plain in
        [preface.as_slice(), b"POST /vault.v1.Vault/GetCapabilities HTTP/1.1\r\nhost: localhost\r\n\r\n"]
    {
        for door in [rig.data(), rig.admin()] {
            let mut socket = TcpStream::connect(door).await.unwrap();
            socket.write_all(plain).await.unwrap();
            let mut answer = Vec::new();
            // A reset is as good an end as any; what counts is that nothing came but an alert of TLS.
            let _end = tokio::time::timeout(SOON, socket.read_to_end(&mut answer)).await.expect("hung up");
            assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
        }
    }
    let served_still = served(rig.data(), config(&rig, NEW_TLS, Some(&good))).await.unwrap();
    assert_eq!(served_still.principal, "shop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_revoked_while_connected_ends_its_next_request_and_its_open_stream() {
    let rig = Rig::new(Engine::Redb);
    let (shop, app) = (Raw::connect(&rig, "shop").await, Raw::connect(&rig, "app").await);
    store(&shop, "acme", "web", card("4111111111111111")).await;
    let importer = rig.client("importer").await;
    let (messages, asked) = tokio::sync::mpsc::channel(4);
    let mut answers = importer.stream_tokenize(ReceiverStream::new(asked)).await.unwrap();
    let message = |n: u32| v1::StreamTokenizeRequest {
        header: Some(header("acme", "web")),
        item: Some(v1::TokenizeItem { reference: n.to_string(), ..card(&number("512345", 16, n)) }),
    };
    messages.send(message(1)).await.unwrap();
    assert!(answers.next().await.unwrap().unwrap().result.is_ok());

    let revoked = ["shop", "importer"].map(|name| rig.serials[name]);
    put(&rig, "clients.crl", &rig.clients.revocation_list(&revoked));
    let since = tokio::time::Instant::now();
    let refused = loop {
        let request = tokenize(header("acme", "web"), card("5555555555554444"));
        match shop.vault::<v1::TokenizeResponse>("Tokenize", &request).await {
            Err(refused) => break refused,
            Ok(_) => {
                assert!(since.elapsed() < Duration::from_secs(5), "a revoked certificate is still served");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((refused.code(), reason(&refused)), (Code::Unauthenticated, Some(Reason::CertificateRefused)));
    let ended = tokio::time::timeout(SOON, shop.connection).await;
    assert!(ended.is_ok(), "its connection is ended");

    messages.send(message(2)).await.unwrap();
    let end = answers.next().await.unwrap().expect_err("the stream ends");
    assert_eq!(end.reason(), Some(Reason::CertificateRefused), "{end}");
    assert!(answers.next().await.is_none());

    for name in ["shop", "importer"] {
        assert!(
            served(rig.data(), config(&rig, NEW_TLS, Some(&papers(&rig, name)))).await.is_err(),
            "{name}"
        );
    }
    store(&app, "acme", "app", card("5555555555554444")).await;
    let operator = rig.operator().await;
    for name in ["shop", "importer"] {
        let entry = last_of(&operator, name).await;
        assert_eq!(
            (entry.outcome(), entry.reason.as_str()),
            (AuditOutcome::Refused, "certificate_not_valid"),
            "{name}"
        );
    }
    let stored = log_of(&operator, "importer").await.iter().filter(|e| e.kind == "tokenized").count();
    assert_eq!(stored, 1, "what came after the revocation was not done");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_so_alike_and_stands_in_the_log() {
    let rig = Rig::new(Engine::Redb);
    let operator = rig.operator().await;
    let shop = Raw::connect(&rig, "shop").await;
    let token = store(&shop, "acme", "web", card("4111111111111111")).await;
    let unknown = "tok_0123456789012345678901";
    // Who, with which verb, on which channel; and how the log says why.
    let cases = [
        ("shop", "Detokenize", "acme", "web", "action_not_allowed"),
        ("shop", "Tokenize", "acme", "app", "action_not_allowed"),
        ("shop", "Tokenize", "acme", "nowhere", "channel_not_allowed"),
        ("shop", "Tokenize", "acme", "", "channel_not_allowed"),
        ("shop", "Tokenize", "zenith", "web", "channel_not_allowed"),
        ("shop", "Tokenize", "nobody", "web", "channel_not_allowed"),
        ("gateway", "Tokenize", "acme", "web", "action_not_allowed"),
        ("gateway", "Revoke", "acme", "web", "action_not_allowed"),
        ("marketing", "Detokenize", "acme", "web", "action_not_allowed"),
        ("other-shop", "Detokenize", "acme", "web", "channel_not_allowed"),
        ("till", "Inspect", "acme", "web", "action_not_allowed"),
        ("stranger", "Tokenize", "acme", "web", "unlisted_principal"),
        ("stranger", "Detokenize", "acme", "web", "unlisted_principal"),
        ("stranger", "Inspect", "acme", "web", "unlisted_principal"),
        ("stranger", "Revoke", "acme", "web", "unlisted_principal"),
    ];
    let mut answers = BTreeSet::new();
    for (who, verb, merchant, channel, why) in cases {
        let client = Raw::connect(&rig, who).await;
        // Before any look-up: a token that is there and one that never was are all the same.
        for token in [token.as_str(), unknown] {
            let header = Some(header(merchant, channel));
            let refused = match verb {
                "Tokenize" => {
                    let request = v1::TokenizeRequest { header, item: Some(card("4111111111111111")) };
                    client.vault::<v1::TokenizeResponse>(verb, &request).await.map(drop)
                }
                "Detokenize" => {
                    let request = v1::DetokenizeRequest { header, item: Some(ask::plain(token)) };
                    client.vault::<v1::DetokenizeResponse>(verb, &request).await.map(drop)
                }
                "Inspect" => {
                    let request = v1::InspectRequest { header, item: Some(ask::look(token)) };
                    client.vault::<v1::InspectResponse>(verb, &request).await.map(drop)
                }
                _ => {
                    let request = v1::RevokeRequest { header, item: Some(ask::end(token)) };
                    client.vault::<v1::RevokeResponse>(verb, &request).await.map(drop)
                }
            };
            let refused = refused.expect_err(verb);
            let case = || format!("{who} {verb} {merchant} {channel}: {refused:?}");
            assert_eq!(refused.code(), Code::PermissionDenied, "{}", case());
            assert_eq!(reason(&refused), Some(Reason::PermissionDenied), "{}", case());
            answers.insert(seen(&refused));
        }
        // A stranger chooses his own name, so the log has a hash of it.
        let entry = match who {
            "stranger" => {
                let all = log_of(&operator, "").await;
                all.into_iter().rfind(|e| e.principal.starts_with("unlisted:")).expect("the stranger's entry")
            }
            listed => last_of(&operator, listed).await,
        };
        assert_eq!((entry.outcome(), entry.reason.as_str()), (AuditOutcome::Refused, why), "{who} {verb}");
        assert_eq!((entry.count, entry.record.len()), (1, 0), "{who} {verb}: no record was looked up");
    }
    assert_eq!(answers.len(), 1, "denials differ: {answers:#?}");
    let stranger = Raw::connect(&rig, "stranger").await;
    let who = stranger
        .vault::<v1::GetCapabilitiesResponse>("GetCapabilities", &v1::GetCapabilitiesRequest {})
        .await;
    assert_eq!(who.unwrap_err().code(), Code::PermissionDenied);

    // The operators' door: a certificate of their authority that is no operator's.
    let (certificate, key, _) = rig.operators.issue("spiffe://rig/oscar", Leaf::Good);
    let stream =
        crate::raw::dial(rig.admin(), config(&rig, NEW_TLS, Some(&(certificate, key)))).await.unwrap();
    let oscar = Raw::over(stream).await.unwrap();
    let refused =
        oscar.call::<v1::GetStatusResponse>("/vault.v1.Admin/GetStatus", &v1::GetStatusRequest {}).await;
    assert_eq!(reason(&refused.unwrap_err()), Some(Reason::PermissionDenied));
    let entry =
        log_of(&operator, "").await.into_iter().rfind(|e| e.principal.starts_with("unlisted:")).unwrap();
    assert_eq!(entry.reason, "unlisted_principal");
    assert_eq!(entry.details["action"], "read_policy");
}

async fn commits(rig: &Rig) -> u64 {
    health(rig).await["vault"]["commits"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_for_this_request_gets_one_answer_at_one_price_whatever_the_reason() {
    let rig = Rig::with(Engine::Redb, MORE_RULES, METRICS);
    let operator = rig.operator().await;
    let shop = Raw::connect(&rig, "shop").await;
    let gateway = Raw::connect(&rig, "gateway").await;
    let in_a_second = time::OffsetDateTime::now_utc() + time::Duration::milliseconds(1_200);
    let valid_until = Timestamp {
        seconds: in_a_second.unix_timestamp(),
        nanos: i32::try_from(in_a_second.nanosecond()).unwrap(),
    };
    let good = store(&shop, "acme", "web", card("4111111111111111")).await;
    let expired = v1::TokenizeItem { valid_until: Some(valid_until), ..card("5555555555554444") };
    let expired = store(&shop, "acme", "web", expired).await;
    let ended = store(&shop, "acme", "web", card("378282246310005")).await;
    let ended_here = store(&shop, "acme", "web", card("6011111111111117")).await;
    let of_the_till = store(&Raw::connect(&rig, "till").await, "acme", "pos", card("4111111111111111")).await;
    let of_another =
        store(&Raw::connect(&rig, "other-shop").await, "zenith", "web", card("4111111111111111")).await;
    for item in [ask::end(&ended), ask::end_on(&ended_here, "web")] {
        let request = v1::RevokeRequest { header: Some(header("acme", "web")), item: Some(item) };
        shop.vault::<v1::RevokeResponse>("Revoke", &request).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1_300)).await; // until `expired` is

    // Which token, what for; and how the log may say why.
    let cases: [(&str, &str, Purpose, &[&str]); 11] = [
        ("never minted, digits", "9999999999999999", Purpose::Authorization, &["unknown"]),
        ("never minted, mixed", "411111abcdef1111", Purpose::Authorization, &["unknown"]),
        ("never minted, opaque", "tok_0123456789012345678901", Purpose::Authorization, &["unknown"]),
        ("another merchant's", &of_another, Purpose::Authorization, &["unknown"]),
        ("another channel's", &of_the_till, Purpose::Authorization, &["foreign"]),
        ("expired", &expired, Purpose::Authorization, &["expired"]),
        ("revoked", &ended, Purpose::Authorization, &["revoked"]),
        ("revoked on this channel", &ended_here, Purpose::Authorization, &["revoked", "foreign"]),
        ("for another purpose", &good, Purpose::Dispute, &["wrong_purpose"]),
        ("denied by a rule", &good, Purpose::Reversal, &["denied_by_rule"]),
        ("shown masked only", &good, Purpose::Settlement, &["shows_too_much"]),
    ];
    let (mut answers, mut prices) = (BTreeSet::new(), BTreeSet::new());
    for (what, token, purpose, why) in cases {
        let header = || ask::header("acme", "web", purpose, Initiator::Cardholder);
        for _ in 0..3 {
            let before = commits(&rig).await;
            let request = v1::DetokenizeRequest { header: Some(header()), item: Some(ask::plain(token)) };
            let refused =
                gateway.vault::<v1::DetokenizeResponse>("Detokenize", &request).await.expect_err(what);
            prices.insert(commits(&rig).await - before);
            assert_eq!(
                (refused.code(), reason(&refused)),
                (Code::NotFound, Some(Reason::NotFound)),
                "{what}"
            );
            answers.insert(seen(&refused));
        }
        let entry = last_of(&operator, "gateway").await;
        assert!(why.contains(&entry.reason.as_str()), "{what}: the log says {}", entry.reason);
        assert_eq!((entry.outcome(), entry.record.len()), (AuditOutcome::Refused, 16), "{what}");
        assert_eq!((entry.action(), entry.purpose()), (v1::Action::Detokenize, purpose), "{what}");
        tokio::time::sleep(Duration::from_millis(400)).await; // more than ten a second would stand counted in the log
    }
    assert_eq!(answers.len(), 1, "refusals differ: {answers:?}");
    assert_eq!(prices, BTreeSet::from([1]), "each refusal is one flush");

    // The other verbs, and items of a batch: the same answer again.
    let marketing = Raw::connect(&rig, "marketing").await;
    let tokens = cases.iter().take(8).map(|(what, token, ..)| (*what, *token));
    for (what, token) in tokens.clone() {
        let request =
            v1::InspectRequest { header: Some(header("acme", "web")), item: Some(ask::look(token)) };
        let refused = marketing.vault::<v1::InspectResponse>("Inspect", &request).await.expect_err(what);
        answers.insert(seen(&refused));
        if what == "expired" {
            continue; // it may still be revoked: that is how its card number goes for good
        }
        let request = v1::RevokeRequest { header: Some(header("acme", "web")), item: Some(ask::end(token)) };
        let refused = shop.vault::<v1::RevokeResponse>("Revoke", &request).await.expect_err(what);
        answers.insert(seen(&refused));
    }
    assert_eq!(answers.len(), 1, "refusals differ by verb: {answers:?}");
    let before = commits(&rig).await;
    let items = tokens.map(|(_, token)| ask::plain(token)).chain([ask::plain(&good)]).collect();
    let request = v1::BatchDetokenizeRequest { header: Some(header("acme", "web")), items };
    let told: v1::BatchDetokenizeResponse = gateway.vault("BatchDetokenize", &request).await.unwrap();
    assert_eq!(commits(&rig).await - before, 1, "a batch is one flush");
    let mut items = BTreeSet::new();
    for (place, outcome) in told.outcomes.iter().enumerate() {
        match outcome.outcome.as_ref().unwrap() {
            v1::detokenize_outcome::Outcome::Error(error) => {
                assert_eq!(Failure::from(error).reason(), Some(Reason::NotFound), "item {place}");
                items.insert(prost::Message::encode_to_vec(error));
            }
            v1::detokenize_outcome::Outcome::Result(_) => assert_eq!(place, 8, "only the good one is given"),
        }
    }
    assert_eq!(items.len(), 1, "items' refusals differ");
    // The item says in its own message what a call says in its trailer: byte for byte.
    let (.., details) = answers.first().unwrap();
    assert_eq!(items.first().unwrap(), details);
}

fn lock(target: v1::lock_target::Target) -> v1::SetLockRequest {
    v1::SetLockRequest {
        header: Some(ask::change(None)),
        target: Some(v1::LockTarget { target: Some(target) }),
        reason: v1::LockReason::Drill.into(),
        note: String::new(),
    }
}

/// Asks as each of these, on each of these channels, and tells which of them a lock keeps out; anything else fails.
async fn kept_out(rig: &Rig, lockdown: u32) -> Vec<&'static str> {
    let mut out = Vec::new();
    for (place, who, merchant, channel) in [
        ("shop on web", "shop", "acme", "web"),
        ("app on app", "app", "acme", "app"),
        ("importer on web", "importer", "acme", "web"),
        ("other-shop on web", "other-shop", "zenith", "web"),
    ] {
        let client = Raw::connect(rig, who).await;
        let request = tokenize(header(merchant, channel), card("4111111111111111"));
        match client.vault::<v1::TokenizeResponse>("Tokenize", &request).await {
            Ok(_) => {}
            Err(refused) => {
                let failure = Failure::from(&refused);
                assert_eq!(
                    (refused.code(), failure.reason()),
                    (Code::FailedPrecondition, Some(Reason::Locked))
                );
                assert_eq!(failure.metadata(LOCKDOWN), Some(lockdown.to_string().as_str()));
                assert_eq!(failure.retry_after(), None, "waiting lifts no lock");
                out.push(place);
            }
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_keeps_out_whom_it_names_from_its_own_entry_on_and_over_a_restart() {
    use v1::lock_target::Target;
    let mut rig = Rig::new(Engine::Redb);
    // Under traffic: whatever was acknowledged stands in the log before the lock, and nothing behind it.
    let operator = rig.operator().await;
    let mut traffic = Vec::new();
    for task in 0..8_u32 {
        let client = Raw::connect(&rig, "shop").await;
        traffic.push(tokio::spawn(async move {
            let mut newest = 0;
            for n in 0_u32.. {
                let pan = number("512345", 16, task * 100_000 + n);
                let request = tokenize(header("acme", "web"), card(&pan));
                match client.vault::<v1::TokenizeResponse>("Tokenize", &request).await {
                    Ok(stored) => newest = stored.result.unwrap().receipt.unwrap().leaf_index,
                    Err(refused) => {
                        assert_eq!(reason(&refused), Some(Reason::Locked), "{refused:?}");
                        break;
                    }
                }
            }
            newest
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let set = operator.set_lock(lock(Target::Principal("shop".to_owned()))).await.unwrap();
    let locked_at = set.receipt.unwrap().leaf_index;
    let mut acknowledged = 0;
    for task in traffic {
        acknowledged = acknowledged.max(tokio::time::timeout(SOON, task).await.unwrap().unwrap());
    }
    assert!(
        acknowledged > 0 && acknowledged < locked_at,
        "{acknowledged} was acknowledged, {locked_at} was the lock"
    );
    let behind = log_of(&operator, "shop").await.into_iter().filter(|e| e.index > locked_at);
    let words: BTreeSet<String> = behind.map(|e| format!("{:?} {}", e.outcome(), e.reason)).collect();
    assert!(words.iter().all(|word| word == "Refused locked"), "{words:?}");
    let first = set.lock.unwrap().lockdown;
    assert_eq!(kept_out(&rig, first).await, ["shop on web"]);

    // Over an orderly restart, and over a power cut.
    assert!(rig.stop());
    rig.start();
    assert_eq!(kept_out(&rig, first).await, ["shop on web"]);
    rig.kill();
    rig.start();
    assert_eq!(kept_out(&rig, first).await, ["shop on web"]);
    let operator = rig.operator().await;
    let listed = operator.list_locks(v1::ListLocksRequest::default()).await.unwrap().locks;
    assert_eq!(listed.iter().map(|l| l.lockdown).collect::<Vec<_>>(), [first]);
    let lift =
        |lockdown| v1::LiftLockRequest { header: Some(ask::change(None)), lockdown, note: String::new() };
    operator.lift_lock(lift(first)).await.unwrap();
    let again = operator.lift_lock(lift(first)).await;
    assert_eq!(again.unwrap_err().reason(), Some(Reason::NotFound), "it is lifted already");
    assert_eq!(operator.lift_lock(lift(99)).await.unwrap_err().reason(), Some(Reason::NotFound));

    let web = v1::ChannelRef { merchant: "acme".to_owned(), channel: "web".to_owned() };
    let cases: [(Target, &[&str]); 2] = [
        (Target::Channel(web), &["shop on web", "importer on web"]),
        (Target::Merchant("acme".to_owned()), &["shop on web", "app on app", "importer on web"]),
    ];
    for (target, expected) in cases {
        let set = operator.set_lock(lock(target)).await.unwrap().lock.unwrap().lockdown;
        assert_eq!(kept_out(&rig, set).await, expected);
        operator.lift_lock(lift(set)).await.unwrap();
    }
    assert!(kept_out(&rig, 0).await.is_empty(), "nobody is locked out any more");
}

/// Each page is itself an entry of the log, so the log has grown by the time that the next one is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_the_log_gives_each_entry_once_in_either_direction() {
    let rig = Rig::new(Engine::Redb);
    let shop = Raw::connect(&rig, "importer").await;
    for n in 0..25 {
        store(&shop, "acme", "web", card(&number("512345", 16, n))).await;
    }
    let operator = rig.operator().await;
    for newest_first in [false, true] {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListAuditEntriesRequest {
                principal: "importer".to_owned(),
                newest_first,
                page_size: 7,
                page_token,
                ..v1::ListAuditEntriesRequest::default()
            };
            let page = operator.list_audit_entries(request).await.unwrap();
            assert!(page.entries.len() <= 7);
            found.extend(page.entries.iter().map(|e| e.index));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        if newest_first {
            found.reverse();
        }
        assert_eq!(found.len(), 25, "{found:?}");
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
    }
    let request =
        v1::ListAuditEntriesRequest { log: "another".to_owned(), ..v1::ListAuditEntriesRequest::default() };
    assert_eq!(operator.list_audit_entries(request).await.unwrap_err().reason(), Some(Reason::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_again_is_answered_again_and_another_one_under_its_id_is_refused() {
    let mut rig = Rig::new(Engine::Redb);
    let once = tokenize(
        header("acme", "web"),
        v1::TokenizeItem { format: "fresh".to_owned(), ..card("4111111111111111") },
    );
    let mut tokens = BTreeSet::new();
    let mut paid = None;
    for round in 0..3 {
        let (shop, gateway) = (Raw::connect(&rig, "shop").await, Raw::connect(&rig, "gateway").await);
        for _ in 0..2 {
            let told: v1::TokenizeResponse = shop.vault("Tokenize", &once).await.unwrap();
            tokens.insert(told.result.unwrap().token);
        }
        let token = tokens.first().unwrap().clone();
        let pay = paid.get_or_insert_with(|| v1::DetokenizeRequest {
            header: Some(header("acme", "web")),
            item: Some(ask::plain(&token)),
        });
        let told: v1::DetokenizeResponse = gateway.vault("Detokenize", pay).await.unwrap();
        assert_eq!(ask::pan(told.result.unwrap()).unwrap().as_slice(), b"4111111111111111");

        // Under the same id: another card, another format, another purpose, another verb.
        let mut others = vec![once.clone(), once.clone(), once.clone()];
        others[0].item = Some(card("5555555555554444"));
        others[1].item.as_mut().unwrap().format = "shop".to_owned();
        others[2].header.as_mut().unwrap().purpose = Purpose::Recurring.into();
        for other in &others {
            let refused = shop.vault::<v1::TokenizeResponse>("Tokenize", other).await.unwrap_err();
            let failure = Failure::from(&refused);
            assert_eq!(
                (refused.code(), failure.reason()),
                (Code::InvalidArgument, Some(Reason::IdempotencyMismatch))
            );
            assert_eq!(failure.fields()[0].0, "header.request_id");
        }
        let look = v1::InspectRequest { header: once.header.clone(), item: Some(ask::look(&token)) };
        let refused = shop.vault::<v1::InspectResponse>("Inspect", &look).await.unwrap_err();
        assert_eq!(reason(&refused), Some(Reason::IdempotencyMismatch));
        // Another principal's ids are its own.
        let importer = Raw::connect(&rig, "importer").await;
        let told: v1::TokenizeResponse = importer.vault("Tokenize", &once).await.unwrap();
        assert!(!tokens.contains(&told.result.unwrap().token));
        match round {
            0 => assert!(rig.stop()),
            1 => rig.kill(),
            _ => break,
        }
        rig.start();
    }
    assert_eq!(tokens.len(), 1, "one request is one token, over a restart and over a kill");
    let operator = rig.operator().await;
    for (principal, kind) in [("shop", "tokenized"), ("gateway", "disclosed"), ("importer", "tokenized")] {
        let entries = log_of(&operator, principal).await;
        let outcomes = entries.iter().filter(|e| e.kind == kind).map(v1::AuditEntry::outcome);
        let (done, again): (Vec<_>, Vec<_>) = outcomes.partition(|o| *o == AuditOutcome::Done);
        assert_eq!(done.len(), 1, "{principal}");
        assert!(!again.is_empty() && again.iter().all(|o| *o == AuditOutcome::Redelivered), "{principal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_still_runs_is_not_run_twice() {
    let rig = Rig::new(Engine::Redb);
    let items: Vec<v1::TokenizeItem> = (0..1_000)
        .map(|n| v1::TokenizeItem { format: "fresh".to_owned(), ..card(&number("512345", 16, n)) })
        .collect();
    let request = v1::BatchTokenizeRequest { header: Some(header("acme", "web")), items };
    let mut running = Vec::new();
    for _ in 0..6 {
        let (client, request) = (Raw::connect(&rig, "importer").await, request.clone());
        running.push(tokio::spawn(async move {
            client.vault::<v1::BatchTokenizeResponse>("BatchTokenize", &request).await
        }));
    }
    let tokens = |told: v1::BatchTokenizeResponse| -> Vec<String> {
        let token = |outcome: v1::TokenizeOutcome| match outcome.outcome.unwrap() {
            v1::tokenize_outcome::Outcome::Result(result) => result.token,
            v1::tokenize_outcome::Outcome::Error(error) => panic!("{error:?}"),
        };
        told.outcomes.into_iter().map(token).collect()
    };
    let (mut given, mut told_to_wait) = (BTreeSet::new(), 0);
    for one in running {
        match one.await.unwrap() {
            Ok(told) => drop(given.insert(tokens(told))),
            Err(refused) => {
                let failure = Failure::from(&refused);
                assert_eq!((refused.code(), failure.reason()), (Code::Aborted, Some(Reason::StillRunning)));
                assert!(failure.retry_after().is_some_and(|wait| wait <= Duration::from_secs(1)));
                told_to_wait += 1;
            }
        }
    }
    assert!(!given.is_empty() && told_to_wait > 0, "{} answers, {told_to_wait} told to wait", given.len());
    let again: v1::BatchTokenizeResponse =
        Raw::connect(&rig, "importer").await.vault("BatchTokenize", &request).await.unwrap();
    given.insert(tokens(again));
    assert_eq!(given.len(), 1, "one request has one answer");
    let operator = rig.operator().await;
    let entries = log_of(&operator, "importer").await;
    let done = entries.iter().filter(|e| e.kind == "tokenized" && e.outcome() == AuditOutcome::Done).count();
    assert_eq!(done, 1_000, "each card was stored once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_reply_was_lost_in_a_power_cut_is_done_once() {
    const ROUNDS: u32 = 6;
    let mut rig = Rig::new(Engine::Redb);
    let mut asked = Vec::new();
    for round in 0..ROUNDS {
        let client = Raw::connect(&rig, "shop").await;
        let item = v1::TokenizeItem { format: "fresh".to_owned(), ..card(&number("512345", 16, round)) };
        let request = tokenize(header("acme", "web"), item);
        let sent = request.clone();
        let reply = tokio::spawn(async move {
            let message = framed(&prost::Message::encode_to_vec(&sent));
            client.ask(Raw::head("/vault.v1.Vault/Tokenize"), message).await
        });
        // From before it arrives until after it is answered: some are lost on the way in, some on the way out.
        tokio::time::sleep(Duration::from_micros(1_500) * round).await;
        rig.kill();
        let replied = match reply.await.unwrap() {
            Ok((bytes, status)) if status.code() == Code::Ok => {
                let told: v1::TokenizeResponse = prost::Message::decode(&bytes[5..]).unwrap();
                Some(told.result.unwrap().token)
            }
            Ok((_, status)) => panic!("{status:?}"),
            Err(Cut(_)) => None,
        };
        rig.start();
        // A client that had no reply sends the same again, and so does one that lost the second.
        let again = rig.client("shop").await;
        let (header, item) = (request.header.clone().unwrap(), request.item.clone().unwrap());
        let first = again.tokenize(header.clone(), item.clone()).await.unwrap().token;
        let second = again.tokenize(header, item).await.unwrap().token;
        assert_eq!(first, second);
        assert!(replied.is_none_or(|token| token == first), "round {round}: two answers to one request");
        asked.push(first);
    }
    let operator = rig.operator().await;
    let entries = log_of(&operator, "shop").await;
    let done = entries.iter().filter(|e| e.kind == "tokenized" && e.outcome() == AuditOutcome::Done).count();
    assert_eq!(done, ROUNDS as usize, "each request was done once: a fresh token each time it is done");
    let gateway = rig.client("gateway").await;
    for (round, token) in (0..ROUNDS).zip(&asked) {
        let paid = gateway.detokenize(header("acme", "web"), ask::plain(token)).await;
        let paid = paid.unwrap_or_else(|e: ClientError| panic!("{e}"));
        assert_eq!(ask::pan(paid).unwrap().as_slice(), number("512345", 16, round).as_bytes());
    }
}
