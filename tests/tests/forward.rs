//! The server sends requests with cards in them to the destination that its settings and rules name, and nowhere else.
//!
//! The destination is a TLS server of this test, which tells what came. Whatever else stands where a destination could
//! (another name, another authority, plain text, a redirect's goal) is there as well, and gets nothing.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use vault_client::{ClientError, Reason, VaultClient, ask};
use vault_core::error::Error;
use vault_core::name::DestinationName;
use vault_core::policy::{Caller, Policy};
use vault_core::restrictions::Restrictions;
use vault_core::store::Engine;
use vault_core::vault::{Header, NewCard, Outgoing};
use vault_proto::v1;
use vault_tests::canary::{Breeder, Scanner};
use vault_tests::cards::card;
use vault_tests::desk::{self, Desk, channel, principal};
use vault_tests::server::{Authority, Leaf, Rig};

use crate::canary::core_of;
use crate::raw::introduce;

const VISA: &str = "4111111111111111";
const AMEX: &str = "378282246310005";

const POLICY: &str = r#"
[[merchant]]
id = "vendor"
[[merchant.format]]
id = "cards"
scheme = "random"
[[merchant.channel]]
id = "web"
kind = "e-commerce"
format = "cards"
[[merchant.channel]]
id = "app"
kind = "in-app"
format = "cards"
[[principal]]
id = "seller"
authority = "clients"
name = "spiffe://rig/seller"
merchant = "vendor"
[[rule]]
id = "seller-stores"
effect = "allow"
merchant = "vendor"
principals = ["seller"]
actions = ["tokenize", "revoke"]
import = true
[[rule]]
id = "seller-sends"
effect = "allow"
merchant = "vendor"
principals = ["seller"]
actions = ["detokenize"]
show = "full"
sealed_only = true
destinations = ["psp", "misnamed", "unvouched", "plain", "nobody", "unlisted"]
"#;

/// Somebody who may be connected to.
struct Stand {
    at: SocketAddr,
    /// What was read of each connection, as it came; empty where nothing but a handshake was tried.
    came: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Stand {
    /// Listens on `address`, with TLS if there are papers, and answers by the path that is asked for.
    async fn open(address: &str, papers: Option<(String, String)>, answer: fn(&str) -> Vec<u8>) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let came = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let tls = papers.map(|(certificate, key)| {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            TlsAcceptor::from(Arc::new(
                config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap(),
            ))
        });
        let told = came.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (tls, told) = (tls.clone(), told.clone());
                tokio::spawn(async move {
                    let read = match tls {
                        None => serve(socket, answer).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(stream) => serve(stream, answer).await,
                            Err(_) => Vec::new(),
                        },
                    };
                    told.lock().unwrap().push(read);
                });
            }
        });
        Self { at, came }
    }

    /// What came since the last time.
    async fn took(&self) -> Vec<String> {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let came = std::mem::take(&mut *self.came.lock().unwrap());
        came.into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }
}

/// Reads one request, answers it, and gives what was read.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: fn(&str) -> Vec<u8>) -> Vec<u8> {
    let (mut read, mut chunk) = (Vec::new(), [0; 4_096]);
    loop {
        let text = String::from_utf8_lossy(&read).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                break;
            }
        }
        match tokio::time::timeout(Duration::from_secs(5), stream.read(&mut chunk)).await {
            Ok(Ok(n)) if n > 0 => read.extend_from_slice(&chunk[..n]),
            _ => return read,
        }
    }
    let path = String::from_utf8_lossy(&read).split(' ').nth(1).unwrap_or_default().to_owned();
    if path == "/v1/never" {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let _gone = stream.write_all(&answer(&path)).await;
    let _gone = stream.shutdown().await;
    read
}

fn http(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn processor(path: &str) -> Vec<u8> {
    match path {
        "/v1/echo" => {
            let body = format!(
                "{{\"pan\":\"{VISA}\",\"grouped\":\"4111 1111 1111 1111\",\"hyphened\":\"4111-1111-1111-1111\",\
                 \"among\":\"00{VISA}00\",\"another\":\"5555555555554444\",\"id\":\"1234567890\"}}"
            );
            let headers =
                format!("content-type: application/json\r\nx-card: {VISA}\r\nset-cookie: a={VISA}\r\n");
            http("200 OK", &headers, body.as_bytes())
        }
        "/v1/elsewhere" => http("302 Found", "location: https://127.0.0.1:1/x\r\nx-card: no\r\n", b""),
        "/v1/large" => http("200 OK", "", &vec![b'x'; 4_096]),
        "/v1/encoded" => http("200 OK", "content-encoding: gzip\r\n", b"\x1f\x8b"),
        "/v1/nonsense" => b"SSH-2.0-nobody\r\n".to_vec(),
        _ => http("201 Created", "content-type: text/plain\r\n", b"done"),
    }
}

/// Everybody who stands there, the rig's settings for them, and the rig.
struct Street {
    rig: Rig,
    processor: Stand,
    others: Vec<Stand>,
    _files: tempfile::TempDir,
}

async fn street() -> Street {
    let files = tempfile::tempdir().unwrap();
    let (bank, stranger) = (Authority::new("bank"), Authority::new("stranger"));
    let papers = |authority: &Authority| {
        let (certificate, key, _) = authority.issue("localhost", Leaf::Good);
        Some((certificate, key))
    };
    let processor = Stand::open("127.0.0.1", papers(&bank), processor).await;
    // A right certificate at another address than it names, a certificate of somebody else, and none at all.
    let misnamed = Stand::open("127.0.0.2", papers(&bank), self::processor).await;
    let unvouched = Stand::open("127.0.0.1", papers(&stranger), self::processor).await;
    let plain = Stand::open("127.0.0.1", None, self::processor).await;
    let ca = files.path().join("bank.pem");
    std::fs::write(&ca, bank.pem()).unwrap();
    let mut settings = String::new();
    for (name, host, at) in [
        ("psp", "localhost", processor.at),
        ("unruly", "localhost", processor.at),
        ("misnamed", "127.0.0.2", misnamed.at),
        ("unvouched", "localhost", unvouched.at),
        ("plain", "localhost", plain.at),
        ("nobody", "localhost", "127.0.0.1:1".parse().unwrap()),
    ] {
        write!(
            settings,
            "[forward.{name}]\nurl = \"https://{host}:{}\"\nca = {:?}\nmerchants = [\"vendor\"]\nchannels = [\"web\"]\n\
             paths = [\"/v1/\"]\nanswer_headers = [\"content-type\", \"x-card\"]\nconnect_ms = 1000\nanswer_ms = 1500\nanswer_bytes = 2048\n\
             request_bytes = 2048\n",
            at.port(),
            ca.to_str().unwrap()
        )
        .unwrap();
    }
    let mut rig = Rig::made(Engine::Redb, POLICY, &settings);
    introduce(&rig, "seller");
    rig.start();
    Street { rig, processor, others: vec![misnamed, unvouched, plain], _files: files }
}

fn header(channel: &str) -> v1::RequestHeader {
    ask::header("vendor", channel, v1::Purpose::Authorization, v1::Initiator::Cardholder)
}

async fn stored(client: &VaultClient, pan: &str) -> String {
    let expiry = Some(v1::CardExpiry { month: 4, year: 2031 });
    let card = ask::card(vault_client::Zeroizing::new(pan.into()), expiry);
    client.tokenize(header("web"), card).await.unwrap().token
}

fn request(to: &str, path: &str, body: &str) -> v1::ForwardRequest {
    v1::ForwardRequest {
        header: Some(header("web")),
        destination: to.into(),
        method: "POST".into(),
        path: path.into(),
        headers: vec![v1::HttpHeader { name: "content-type".into(), value: "application/json".into() }],
        body: body.into(),
    }
}

fn reason<T>(told: Result<T, ClientError>) -> (Option<Reason>, String) {
    match told {
        Ok(_) => (None, "an answer".into()),
        Err(ClientError::Refused(failure)) => {
            (failure.reason(), failure.metadata(vault_proto::status::STAGE).unwrap_or_default().to_owned())
        }
        Err(other) => (None, other.to_string()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_is_sent_to_its_destination_and_its_answer_comes_back_without_card_numbers() {
    let Street { mut rig, processor, others, _files } = street().await;
    let client = rig.client("seller").await;
    assert!(client.capabilities().features.iter().any(|f| f == "forward"));
    let (visa, amex) = (stored(&client, VISA).await, stored(&client, AMEX).await);

    let body = format!(
        "{{\"a\":\"{{{{ token:{visa} | number }}}}\",\"e\":\"{{{{token:{visa}|expiry_mm}}}}{{{{token:{visa}|expiry_yy}}}}\",\
         \"b\":\"{{{{ token:{amex} | number }}}}\"}}"
    );
    let mut asked = request("psp", "/v1/charges?capture=no", &body);
    asked
        .headers
        .push(v1::HttpHeader { name: "X-Four".into(), value: format!("{{{{token:{amex}|last_four}}}}") });
    let answer = client.forward(asked).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice(), answer.masked), (201, b"done".as_slice(), 0));
    assert_eq!(answer.receipts.len(), 2, "a disclosure for each token");
    let came = processor.took().await;
    let [came] = came.as_slice() else { panic!("{came:?}") };
    assert!(came.starts_with("POST /v1/charges?capture=no HTTP/1.1\r\n"), "{came}");
    assert!(came.contains(&format!("host: localhost:{}\r\n", processor.at.port())), "{came}");
    assert!(came.contains("x-four: 0005\r\n") && came.contains("content-type: application/json\r\n"));
    assert!(came.ends_with(&format!("{{\"a\":\"{VISA}\",\"e\":\"0431\",\"b\":\"{AMEX}\"}}")), "{came}");

    let one = format!("{{{{token:{visa}|number}}}}");
    let answer = client.forward(request("psp", "/v1/echo", &one)).await.unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(
        text,
        "{\"pan\":\"************1111\",\"grouped\":\"**** **** **** 1111\",\"hyphened\":\"****-****-****-1111\",\
         \"among\":\"00************111100\",\"another\":\"************4444\",\"id\":\"1234567890\"}"
    );
    let mut headers: Vec<_> = answer.headers.iter().map(|h| (h.name.as_str(), h.value.as_str())).collect();
    headers.sort_unstable();
    assert_eq!(headers, [("content-type", "application/json"), ("x-card", "************1111")]);
    assert_eq!(answer.masked, 6);
    // A redirect is an answer, and its goal is told to nobody.
    let answer = client.forward(request("psp", "/v1/elsewhere", &one)).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (302, 0));
    assert_eq!(answer.headers.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["x-card"]);
    assert_eq!(processor.took().await.len(), 2);

    let operator = rig.operator().await;
    let listed = v1::ListAuditEntriesRequest { action: v1::Action::Detokenize.into(), ..Default::default() };
    let entries = operator.list_audit_entries(listed).await.unwrap().entries;
    let to: Vec<_> = entries.iter().filter_map(|e| e.details.get("destination")).collect();
    assert_eq!(to, ["psp"; 4]);
    for other in &others {
        assert_eq!(other.took().await, Vec::<String>::new());
    }
    assert!(rig.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_anybody_else_or_in_any_other_way() {
    let Street { mut rig, processor, others, _files } = street().await;
    let client = rig.client("seller").await;
    let visa = stored(&client, VISA).await;
    let one = format!("{{{{token:{visa}|number}}}}");
    let send = |to: &str, path: &str| client.forward(request(to, path, &one));
    let failed = |stage: &str| (Some(Reason::DestinationFailed), stage.to_owned());
    let denied = (Some(Reason::PermissionDenied), String::new());

    // They are there, and do not prove who they are: the handshake is all that they see.
    assert_eq!(reason(send("misnamed", "/v1/x").await), failed("tls"));
    assert_eq!(reason(send("unvouched", "/v1/x").await), failed("tls"));
    assert_eq!(reason(send("plain", "/v1/x").await), failed("tls"));
    assert_eq!(reason(send("nobody", "/v1/x").await), failed("unreachable"));
    for other in &others {
        for came in other.took().await {
            assert!(!came.contains("POST") && !came.contains("1111"), "{came}");
        }
    }
    // Not in the settings, not in a rule, not for this path, not on this channel.
    assert_eq!(reason(send("unlisted", "/v1/x").await), denied);
    assert_eq!(reason(send("unruly", "/v1/x").await), denied);
    assert_eq!(reason(send("psp", "/v2/x").await), denied);
    let elsewhere = v1::ForwardRequest { header: Some(header("app")), ..request("psp", "/v1/x", &one) };
    assert_eq!(reason(client.forward(elsewhere).await), denied);
    let large = format!("{one}{}", " ".repeat(2_048));
    assert_eq!(reason(client.forward(request("psp", "/v1/x", &large)).await), denied);
    // Of two tokens one works no more: neither card goes.
    let gone = stored(&client, AMEX).await;
    client.revoke(header("web"), ask::end(&gone)).await.unwrap();
    let both = format!("{one}{{{{token:{gone}|number}}}}");
    let told = reason(client.forward(request("psp", "/v1/x", &both)).await);
    assert_eq!(told, (Some(Reason::NotFound), String::new()));
    // And what may be used once is not used up by a request that was not sent.
    let once = v1::TokenizeItem {
        restrictions: Some(v1::Restrictions { single_use: true, ..v1::Restrictions::default() }),
        ..ask::card(vault_client::Zeroizing::new("5105105105105100".into()), None)
    };
    let once = client.tokenize(header("web"), once).await.unwrap().token;
    let both = format!("{{{{token:{once}|number}}}}{{{{token:{gone}|number}}}}");
    let told = reason(client.forward(request("psp", "/v1/x", &both)).await);
    assert_eq!(told, (Some(Reason::NotFound), String::new()));
    assert_eq!(processor.took().await, Vec::<String>::new());
    let alone = request("psp", "/v1/x", &format!("{{{{token:{once}|number}}}}"));
    assert!(client.forward(alone.clone()).await.is_ok_and(|answer| answer.status == 201));
    // A request id stands for one request: its retry goes again, another one under it does not.
    let another = v1::ForwardRequest { header: alone.header.clone(), ..request("psp", "/v1/y", "") };
    let another = v1::ForwardRequest { body: alone.body.clone(), ..another };
    assert_eq!(reason(client.forward(another).await).0, Some(Reason::IdempotencyMismatch));
    assert!(client.forward(alone).await.is_ok());
    let twice = request("psp", "/v1/x", &format!("{{{{token:{once}|number}}}}"));
    assert_eq!(reason(client.forward(twice).await).0, Some(Reason::NotFound));
    assert_eq!(processor.took().await.len(), 2);
    // No template, and no way to a second request or header.
    for bad in [
        request("psp", "/v1/x", "no card"),
        request("psp", "/v1/x\r\nhost: elsewhere", &one),
        request("psp", "/v1/../x", &one),
        request("psp", &format!("/v1/{VISA}"), &one),
        v1::ForwardRequest { method: "CONNECT".into(), ..request("psp", "/v1/x", &one) },
        v1::ForwardRequest {
            headers: vec![v1::HttpHeader { name: "x".into(), value: "y\r\nhost: elsewhere".into() }],
            ..request("psp", "/v1/x", &one)
        },
        v1::ForwardRequest {
            headers: vec![v1::HttpHeader { name: "Host".into(), value: "elsewhere".into() }],
            ..request("psp", "/v1/x", &one)
        },
    ] {
        assert_eq!(reason(client.forward(bad).await), (Some(Reason::Malformed), String::new()));
    }
    // The caller has no card number by any other way.
    let plain = client.detokenize(header("web"), ask::plain(&visa)).await;
    assert_eq!(reason(plain), denied);
    assert_eq!(processor.took().await, Vec::<String>::new());

    // It is there, and does not answer as it must.
    for (path, stage) in [
        ("/v1/large", "too-large"),
        ("/v1/encoded", "encoded"),
        ("/v1/nonsense", "broken"),
        ("/v1/never", "late"),
    ] {
        assert_eq!(reason(send("psp", path).await), failed(stage), "{path}");
    }
    assert!(rig.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_off_unless_the_settings_name_a_destination() {
    let mut rig = Rig::made(Engine::Redb, POLICY, "");
    introduce(&rig, "seller");
    rig.start();
    let client = rig.client("seller").await;
    assert!(client.capabilities().features.iter().all(|f| f != "forward"));
    let visa = stored(&client, VISA).await;
    let told = client.forward(request("psp", "/v1/x", &format!("{{{{token:{visa}|number}}}}"))).await;
    assert_eq!(reason(told).0, Some(Reason::Unimplemented));
    assert!(rig.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_card_that_was_sent_stays_in_the_servers_memory() {
    let Street { mut rig, processor, others: _, _files } = street().await;
    let client = rig.client("seller").await;
    let mut breeder = Breeder::new(8_446);
    for _ in 0..60 {
        let token = stored(&client, &breeder.card(16)).await;
        let body = format!("{{{{token:{token}|number}}}} {{{{ token:{token} | last_four }}}}");
        let mut asked = request("psp", "/v1/charges", &body);
        asked
            .headers
            .push(v1::HttpHeader { name: "x-card".into(), value: format!("{{{{token:{token}|number}}}}") });
        assert_eq!(client.forward(asked).await.unwrap().status, 201);
    }
    let scanner = Scanner::new(breeder.drawn());
    let came = processor.took().await.concat();
    assert_eq!(scanner.bytes(came.as_bytes()).distinct(), 60, "they were sent");
    drop(client);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cores = tempfile::tempdir().unwrap();
    let core = core_of(rig.process_id(), cores.path());
    let found = scanner.file(&core);
    let told: Vec<String> = found.sightings.iter().map(ToString::to_string).collect();
    assert!(found.bytes > 10 << 20 && told.is_empty(), "{told:?}");
    assert!(rig.stop());
    let (files, told) = scanner.folder(rig.folder.path());
    assert!(files.sightings.is_empty(), "{told:?}");
    assert!(Path::new(&core).exists() && scanner.bytes(rig.log().join("\n").as_bytes()).sightings.is_empty());
}

/// A shop that stores and revokes, and a sender whose cards go to a destination alone.
const AT_A_DESK: &str = r#"
[[merchant]]
id = "acme"
[[merchant.format]]
id = "cards"
scheme = "random"
mode = "fresh"
[[merchant.channel]]
id = "web"
kind = "e-commerce"
format = "cards"
[[principal]]
id = "acme-shop"
merchant = "acme"
[[principal]]
id = "acme-import"
merchant = "acme"
[[principal]]
id = "acme-gateway"
merchant = "acme"
[[rule]]
id = "stores"
effect = "allow"
merchant = "acme"
principals = ["acme-shop", "acme-import"]
actions = ["tokenize", "revoke"]
import = true
[[rule]]
id = "sends"
effect = "allow"
merchant = "acme"
principals = ["acme-gateway"]
actions = ["detokenize"]
show = "full"
destinations = ["psp"]
"#;

#[test]
fn a_single_use_is_not_used_by_a_request_whose_other_card_was_revoked_meanwhile() {
    let desk = Desk::with(Engine::Redb, Policy::from_toml(AT_A_DESK).unwrap_or_else(|e| panic!("{e}")));
    let gateway = principal("acme-gateway");
    let at_web = || Header { channel: Some(channel("web")), ..desk::header() };
    let restrictions = Restrictions { single_use: true, ..Restrictions::default() };
    let (mut sent, mut refused) = (0, 0);
    for n in 0..300_u32 {
        let once = desk.web().added(NewCard { restrictions, ..card(VISA) });
        let other = desk.web().stored(AMEX);
        let outgoing = Outgoing { to: DestinationName::parse("psp").unwrap(), request: [n as u8; 32] };
        let tokens = vec![once.copy(), other.copy()];
        let told = std::thread::scope(|scope| {
            let revoking = scope.spawn(|| desk.web().revoked(&other));
            let header = at_web();
            // A little later each time.
            std::thread::sleep(Duration::from_micros(u64::from(n % 30) * 20));
            let told = desk.vault.detokenize_for(Caller::Local(&gateway), &header, &outgoing, tokens);
            let told = pollster::block_on(told).map(|cards| cards.len());
            revoking.join().unwrap();
            told
        });
        let alone = desk.web().paid(&once);
        match told {
            Ok(cards) => {
                sent += 1;
                assert_eq!((cards, alone), (2, Err(Error::NotFound)), "both cards went, and it is used");
            }
            Err(e) => {
                refused += 1;
                assert_eq!(
                    (e, alone.as_deref()),
                    (Error::NotFound, Ok(VISA)),
                    "none went, and it is not used"
                );
            }
        }
    }
    println!("{sent} sent, {refused} refused");
    assert!(sent > 0 && refused > 0, "{sent} sent, {refused} refused");
}
