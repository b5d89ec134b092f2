//! Malformed input of every kind gets the error that the contract lists, by the field's path, and no error and no line
//! of the server's log repeats what it refused. Whatever comes in at the port, good clients are served and the memory
//! stays bounded.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use prost::Message;
use prost_types::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tonic::{Code, Status};
use vault_client::v1::{Initiator, Purpose};
use vault_client::{BesideToken, Reason, Zeroizing, ask};
use vault_core::store::Engine;
use vault_proto::RpcStatus;
use vault_proto::status::Failure;
use vault_proto::v1;
use vault_tests::cards::number;
use vault_tests::server::{Leaf, Rig, signal};

use crate::raw::{
    Cut, NEW_TLS, Raw, SOON, config, dial, eventually, framed, get, health, introduce, papers, put, served,
};

const METRICS: &str = "[metrics]\naddress = \"127.0.0.1:0\"\n";

/// A number that passes for a card, and what is made of it to be refused.
const PAN: &str = "4111111111111111";

/// A shop that takes cards of 16 digits only, and an importer that may look, too.
const MORE_POLICY: &str = r#"
[[merchant]]
id = "narrow"
[[merchant.format]]
id = "sixteen"
scheme = "random"
keep = { 16 = "6+4" }
[[merchant.channel]]
id = "web"
kind = "e-commerce"
format = "sixteen"
[[principal]]
id = "narrow"
authority = "clients"
name = "spiffe://rig/narrow"
merchant = "narrow"
[[rule]]
id = "narrow-stores"
effect = "allow"
merchant = "narrow"
principals = ["narrow"]
actions = ["tokenize"]
[[rule]]
id = "importer-looks"
effect = "allow"
merchant = "acme"
channels = ["web"]
principals = ["importer"]
actions = ["inspect", "disable", "enable", "update_attributes", "replace", "fingerprint", "delete_card", "hold_code", "read_code"]
show = "masked"
"#;

/// How a kind of item is asked for: alone, in a batch beside a good one, and in a stream.
trait Kind: Message + Default + Clone {
    const VERB: &'static str;
    const STREAMS: bool;
    fn one(header: Option<v1::RequestHeader>, item: Option<Self>) -> Vec<u8>;
    fn many(header: Option<v1::RequestHeader>, items: Vec<Self>) -> Vec<u8>;
    fn outcomes(answer: &[u8]) -> Vec<Option<RpcStatus>>;
    fn streamed(answer: &[u8]) -> Option<RpcStatus>;
}

macro_rules! kinds {
    ($($item:ident $verb:literal $one:ident $batch:ident $answer:ident $outcome:ident
       $streams:literal $stream:ident $stream_answer:ident $stream_outcome:ident;)+) => {$(
        impl Kind for v1::$item {
            const VERB: &'static str = $verb;
            const STREAMS: bool = $streams;
            fn one(header: Option<v1::RequestHeader>, item: Option<Self>) -> Vec<u8> {
                v1::$one { header, item }.encode_to_vec()
            }
            fn many(header: Option<v1::RequestHeader>, items: Vec<Self>) -> Vec<u8> {
                v1::$batch { header, items }.encode_to_vec()
            }
            fn outcomes(answer: &[u8]) -> Vec<Option<RpcStatus>> {
                let answer = v1::$answer::decode(answer).unwrap();
                let error = |outcome| match outcome {
                    v1::$outcome::Outcome::Error(error) => Some(error),
                    v1::$outcome::Outcome::Result(_) => None,
                };
                answer.outcomes.into_iter().map(|o| error(o.outcome.unwrap())).collect()
            }
            fn streamed(answer: &[u8]) -> Option<RpcStatus> {
                match v1::$stream_answer::decode(answer).unwrap().outcome.unwrap() {
                    v1::$stream_outcome::Outcome::Error(error) => Some(error),
                    v1::$stream_outcome::Outcome::Result(_) => None,
                }
            }
        }
    )+};
}

kinds! {
    TokenizeItem "Tokenize" TokenizeRequest BatchTokenizeRequest BatchTokenizeResponse tokenize_outcome
        true StreamTokenizeRequest StreamTokenizeResponse stream_tokenize_response;
    DetokenizeItem "Detokenize" DetokenizeRequest BatchDetokenizeRequest BatchDetokenizeResponse detokenize_outcome
        true StreamDetokenizeRequest StreamDetokenizeResponse stream_detokenize_response;
    InspectItem "Inspect" InspectRequest BatchInspectRequest BatchInspectResponse inspect_outcome
        false StreamDetokenizeRequest StreamDetokenizeResponse stream_detokenize_response;
    RevokeItem "Revoke" RevokeRequest BatchRevokeRequest BatchRevokeResponse revoke_outcome
        false StreamDetokenizeRequest StreamDetokenizeResponse stream_detokenize_response;
    DisableItem "Disable" DisableRequest BatchDisableRequest BatchDisableResponse disable_outcome
        false StreamDetokenizeRequest StreamDetokenizeResponse stream_detokenize_response;
    EnableItem "Enable" EnableRequest BatchEnableRequest BatchEnableResponse enable_outcome
        false StreamDetokenizeRequest StreamDetokenizeResponse stream_detokenize_response;
    ReplaceItem "Replace" ReplaceRequest BatchReplaceRequest BatchReplaceResponse replace_outcome
        false StreamDetokenizeRequest StreamDetokenizeResponse stream_detokenize_response;
    FingerprintItem "Fingerprint" FingerprintRequest BatchFingerprintRequest BatchFingerprintResponse fingerprint_outcome
        false StreamDetokenizeRequest StreamDetokenizeResponse stream_detokenize_response;
    UpdateAttributesItem "UpdateAttributes" UpdateAttributesRequest BatchUpdateAttributesRequest
        BatchUpdateAttributesResponse update_attributes_outcome
        false StreamDetokenizeRequest StreamDetokenizeResponse stream_detokenize_response;
}

/// What is asked with a good header, and what with a good item.
fn header() -> v1::RequestHeader {
    ask::header("acme", "web", Purpose::Authorization, Initiator::Cardholder)
}

fn card(pan: impl Into<Vec<u8>>) -> v1::TokenizeItem {
    ask::card(Zeroizing::new(pan.into()), None)
}

/// Everything that was told, to be searched for what must not be in it.
#[derive(Default)]
struct Told(Vec<String>);

impl Told {
    fn note(&mut self, failure: &Failure, raw: &[u8]) {
        self.0.push(format!("{failure:?} {}", String::from_utf8_lossy(raw)));
    }

    /// Whether eight digits in a row of any of these numbers are in any error or line of the log.
    fn holds_none_of(&self, numbers: &BTreeSet<String>, log: &[String]) {
        for number in numbers {
            for window in number.as_bytes().windows(8) {
                let digits = std::str::from_utf8(window).unwrap();
                for text in self.0.iter().chain(log) {
                    assert!(!text.contains(digits), "{digits} stands in {text}");
                }
            }
        }
    }
}

/// Asks for this in every way that there is; gives each way's name and how it was refused.
async fn refusals<K: Kind>(
    client: &Raw,
    header: Option<v1::RequestHeader>,
    item: Option<&K>,
    good: &K,
    told: &mut Told,
) -> Vec<(String, Failure)> {
    let mut all = Vec::new();
    let anew = |header: &Option<v1::RequestHeader>| {
        // A new id for each way, unless the id is what is wrong.
        let mut header = header.clone();
        if let Some(header) =
            header.as_mut().filter(|h| h.request_id.len() == 36 && !h.request_id.starts_with('0'))
        {
            header.request_id = ask::request_id();
        }
        header
    };
    let mut refused = |way: String, failure: Failure, raw: &[u8]| {
        told.note(&failure, raw);
        all.push((way, failure));
    };
    let whole = |status: &Status| (Failure::from(status), status.details().to_vec());
    let path = |way: &str| format!("/vault.v1.Vault/{way}{}", K::VERB);

    let (_, status) =
        client.ask(Raw::head(&path("")), framed(&K::one(anew(&header), item.cloned()))).await.unwrap();
    let (failure, raw) = whole(&status);
    refused(K::VERB.to_owned(), failure, &raw);

    if let Some(item) = item {
        let body = framed(&K::many(anew(&header), vec![good.clone(), item.clone(), good.clone()]));
        let (answer, status) = client.ask(Raw::head(&path("Batch")), body).await.unwrap();
        let way = format!("Batch{}", K::VERB);
        if status.code() == Code::Ok {
            let outcomes = K::outcomes(&answer[5..]);
            assert_eq!(outcomes.len(), 3, "{way}");
            // The good ones before and behind it succeed, or for the second time of one revocation do not.
            assert!(outcomes[0].is_none(), "{way}: {:?}", outcomes[0]);
            let error = outcomes[1].as_ref().unwrap_or_else(|| panic!("{way}: was taken"));
            refused(way, Failure::from(error), &error.encode_to_vec());
        } else {
            let (failure, raw) = whole(&status);
            refused(way, failure, &raw);
        }
    }
    if K::STREAMS {
        let body = framed(&K::one(anew(&header), item.cloned())); // a stream's message has the same fields
        let (answer, status) = client.ask(Raw::head(&path("Stream")), body).await.unwrap();
        let way = format!("Stream{}", K::VERB);
        assert_eq!(status.code(), Code::Ok, "{way}: one message must not end the stream: {status:?}");
        let error = K::streamed(&answer[5..]).unwrap_or_else(|| panic!("{way}: was taken"));
        refused(way, Failure::from(&error), &error.encode_to_vec());
    }
    all
}

fn is_refused(what: &str, refusals: &[(String, Failure)], reason: Reason, field: &str) {
    for (way, failure) in refusals {
        let case = || format!("{what} by {way}: {failure:?}");
        assert_eq!((failure.code(), failure.reason()), (reason.code(), Some(reason)), "{}", case());
        let fields: Vec<&str> = failure.fields().iter().map(|(path, _)| path.as_str()).collect();
        let expected: &[&str] = if field.is_empty() { &[] } else { &[field] };
        assert_eq!(fields, expected, "{}", case());
        assert!(failure.fields().iter().all(|(_, rule)| !rule.is_empty()), "{}", case());
        assert_eq!(failure.retry_after(), None, "{}", case());
    }
}

/// Free text that must be refused wherever it stands.
fn bad_texts() -> Vec<String> {
    vec![
        "x".repeat(129),
        PAN.to_owned(),
        "4111 1111 1111 1111".to_owned(),
        "4111-1111-1111-1111".to_owned(),
        format!("order {PAN}, paid"),
        format!("é{PAN}é"),
    ]
}

type Change = Box<dyn Fn(&mut v1::RequestHeader)>;

/// Every field of a header with every way to get it wrong: what, how, and as what it is refused.
fn bad_headers() -> Vec<(String, Change, Reason, &'static str)> {
    use Reason::{Malformed, PermissionDenied};
    let mut all: Vec<(String, Change, Reason, &'static str)> = Vec::new();
    let mut add =
        |what: &str, change: Change, reason, field| all.push((what.to_owned(), change, reason, field));
    for name in
        ["ACME", "acme!", "-acme", "ac me", "acmé", "４１１１", &"a".repeat(64), PAN, "4111-1111-1111-1111"]
    {
        let (merchant, channel) = (name.to_owned(), name.to_owned());
        add(name, Box::new(move |h| h.merchant.clone_from(&merchant)), Malformed, "header.merchant");
        add(name, Box::new(move |h| h.channel.clone_from(&channel)), Malformed, "header.channel");
    }
    add("an unknown merchant", Box::new(|h| "nobody".clone_into(&mut h.merchant)), PermissionDenied, "");
    add("an unknown channel", Box::new(|h| "nowhere".clone_into(&mut h.channel)), PermissionDenied, "");
    add("no channel", Box::new(|h| h.channel.clear()), PermissionDenied, "");
    for id in [
        "",
        "1",
        "00000000-0000-0000-0000-000000000000",
        "0123456789abcdef0123456789abcdef",
        "{01234567-89ab-cdef-0123-456789abcdef}",
        "urn:uuid:01234567-89ab-cdef-0123-456789abcdef",
        "01234567-89ab-cdef-0123-456789abcdeg",
        "01234567-89ab-cdef-0123-456789abcdef0",
        "01234567-89ab-cdef-0123-456789abcde\u{661}",
        PAN,
    ] {
        let text = id.to_owned();
        add(id, Box::new(move |h| h.request_id.clone_from(&text)), Malformed, "header.request_id");
    }
    for number in [0, -1, 14, 99, 257, i32::MAX, i32::MIN] {
        let what = format!("number {number}");
        add(&what, Box::new(move |h| h.purpose = number), Malformed, "header.purpose");
        add(&what, Box::new(move |h| h.initiator = number), Malformed, "header.initiator");
    }
    for text in bad_texts().into_iter().chain(["a\nb".to_owned(), "\0".to_owned()]) {
        for (change, field) in bad_contexts(&text, "header") {
            add(&text, Box::new(move |h| h.context = Some(change.clone())), Malformed, field);
        }
    }
    for address in ["here", "192.0.2.1:443", "192.0.2", "[::1]", "::1%eth0 ", "192.0.2.1/24"] {
        let context = v1::Context { client_address: address.to_owned(), ..v1::Context::default() };
        let change: Change = Box::new(move |h| h.context = Some(context.clone()));
        add(address, change, Malformed, "header.context.client_address");
    }
    all
}

/// This text in each field of a context, and the field's path.
fn bad_contexts(text: &str, place: &str) -> [(v1::Context, &'static str); 3] {
    let none = v1::Context::default;
    let text = || text.to_owned();
    let in_header = place == "header";
    [
        (
            v1::Context { customer_reference: text(), ..none() },
            if in_header { "header.context.customer_reference" } else { "item.context.customer_reference" },
        ),
        (
            v1::Context { session: text(), ..none() },
            if in_header { "header.context.session" } else { "item.context.session" },
        ),
        (
            v1::Context { client_address: text(), ..none() },
            if in_header { "header.context.client_address" } else { "item.context.client_address" },
        ),
    ]
}

/// Every way to get a card to tokenize wrong.
#[allow(clippy::too_many_lines, reason = "a table")]
fn bad_cards() -> Vec<(String, v1::TokenizeItem, Reason, &'static str)> {
    use Reason::Malformed;
    let mut all = Vec::new();
    let mut add = |what: String, item, reason, field| all.push((what, item, reason, field));
    let long = "4".repeat(20);
    let pans: [&[u8]; 29] = [
        b"",
        b"4",
        b"41111111111", // 11 digits
        long.as_bytes(),
        b"4111111111111112", // one off
        b"4111111111111110",
        b"1411111111111111", // two digits swapped
        b"4111a11111111111",
        b"411111111111111x",
        b"4111.1111.1111.1111",
        b"4111/1111/1111/1111",
        b" 4111111111111111",
        b"4111111111111111 ",
        b"4111111111111111\n",
        b"4111  1111  1111  1111",
        b"4111--1111--1111--1111",
        b"4111111111111111\0",
        b"+4111111111111111",
        b"\xff\xfe\x34\x00",
        "\u{664}\u{661}\u{661}\u{661}\u{661}\u{661}\u{661}\u{661}\u{661}\u{661}\u{661}\u{661}\u{661}\u{661}\u{661}\u{661}"
            .as_bytes(), // Arabic-Indic
        "\u{ff14}\u{ff11}\u{ff11}\u{ff11}\u{ff11}\u{ff11}\u{ff11}\u{ff11}\u{ff11}\u{ff11}\u{ff11}\u{ff11}\u{ff11}\u{ff11}\u{ff11}\u{ff11}"
            .as_bytes(), // fullwidth
        "411111111111111\u{661}".as_bytes(),
        b"----------------",
        b"tok_0123456789012345678901",
        b"%B4111111111111111^DOE/JOHN^3012101100000000000000000000000?",
        b";4111111111111111=30121011000012300000?",
        b"4111111111111111=3012101",
        b"4111111111111111D3012101",
        b"0412AC89ABCDEF67", // a PIN block (ISO 9564-1, format 0)
    ];
    for pan in pans {
        add(format!("pan {}", String::from_utf8_lossy(pan)), card(pan), Malformed, "item.plain.pan");
    }
    add("a pan of 900,000 digits".to_owned(), card("4".repeat(900_000)), Malformed, "item.plain.pan");
    for (month, year) in [
        (0, 2030),
        (13, 2030),
        (12, 1999),
        (12, 2100),
        (0, 0),
        (u32::MAX, u32::MAX),
        (256 + 1, 2030),
        (1, 65_536 + 2030),
    ] {
        let expiry = v1::CardExpiry { month, year };
        let item = ask::card(Zeroizing::new(PAN.into()), Some(expiry));
        add(format!("{month}/{year}"), item, Malformed, "item.plain.card_expiry");
    }
    let good = || card(PAN);
    add("no card".to_owned(), v1::TokenizeItem::default(), Malformed, "item.plain");
    let sealed = v1::SealedCard { key_id: "k".to_owned(), enc: vec![1; 32], ciphertext: vec![2; 64] };
    let sealed = v1::TokenizeItem {
        card: Some(v1::tokenize_item::Card::Sealed(sealed)),
        ..v1::TokenizeItem::default()
    };
    add("a sealed card".to_owned(), sealed, Malformed, "item.sealed");
    for format in ["SHOP", "no such", "unheard-of", PAN, &"f".repeat(64)] {
        let item = v1::TokenizeItem { format: format.to_owned(), ..good() };
        add(format!("format {format}"), item, Malformed, "item.format");
    }
    for (seconds, nanos) in [
        (0, 0),
        (1_000_000_000, 0),
        (-1, 0),
        (i64::MIN, 0),
        (253_402_300_800, 0),
        (i64::MAX, 0),
        (4_000_000_000, -1),
        (4_000_000_000, 1_000_000_000),
        (4_000_000_000, i32::MIN),
    ] {
        let item = v1::TokenizeItem { valid_until: Some(Timestamp { seconds, nanos }), ..good() };
        add(format!("valid until {seconds}.{nanos}"), item, Malformed, "item.valid_until");
    }
    let many: Vec<String> = (0..65).map(|n| format!("c{n}")).collect();
    let channels: [(&str, Vec<String>); 6] = [
        ("an unknown channel", vec!["nowhere".to_owned()]),
        ("a channel without a name", vec![String::new()]),
        ("a channel in capitals", vec!["WEB".to_owned()]),
        ("a card for a channel", vec![PAN.to_owned()]),
        ("a channel twice", vec!["web".to_owned(), "web".to_owned()]),
        ("65 channels", many),
    ];
    for (what, channels) in channels {
        add(what.to_owned(), v1::TokenizeItem { channels, ..good() }, Malformed, "item.channels");
    }
    for purposes in [vec![0], vec![99], vec![-1], vec![1, 1]] {
        let restrictions = Some(v1::Restrictions { purposes, ..v1::Restrictions::default() });
        let item = v1::TokenizeItem { restrictions, ..good() };
        add("purposes".to_owned(), item, Malformed, "item.restrictions.purposes");
    }
    let restrictions = Some(v1::Restrictions { bound_to_customer: true, ..v1::Restrictions::default() });
    let item = v1::TokenizeItem { restrictions, ..good() };
    add("bound to nobody".to_owned(), item, Malformed, "item.restrictions.bound_to_customer");
    for (item, field) in bad_values() {
        add(format!("another value: {field}"), item, Malformed, field);
    }
    for (attributes, field) in bad_attributes() {
        let item = v1::TokenizeItem { attributes: Some(attributes), ..good() };
        add(field.to_owned(), item, Malformed, path_of("attributes", field));
    }
    let elsewhere =
        v1::TokenizeItem { format: "till".to_owned(), channels: vec!["app".to_owned()], ..good() };
    add(
        "another channel than a channel's own token may have".to_owned(),
        elsewhere,
        Malformed,
        "item.channels",
    );
    for text in bad_texts() {
        let item = v1::TokenizeItem { reference: text.clone(), ..good() };
        add(format!("reference {text}"), item, Malformed, "item.reference");
        for (context, field) in bad_contexts(&text, "item") {
            add(
                format!("{field} {text}"),
                v1::TokenizeItem { context: Some(context), ..good() },
                Malformed,
                field,
            );
        }
    }
    all
}

/// Every way to get a value of another kind wrong, and the field.
fn bad_values() -> Vec<(v1::TokenizeItem, &'static str)> {
    use v1::DataKind::{
        Bytes, Card, Digits, Email, Iban, NetworkToken, Phone, Reference, Unspecified, UsAccount,
    };
    let data = |kind, value: &str, routing: &str| ask::data(kind, Zeroizing::new(value.into()), routing);
    let mut all = Vec::new();
    for kind in [Unspecified, Card, NetworkToken, Reference] {
        all.push((data(kind, PAN, ""), "item.data.kind"));
    }
    for (kind, value) in [
        (Iban, ""),
        (Iban, "DE88370400440532013000"),
        (Iban, "ZZ89370400440532013000"),
        (Iban, "DE8937040044053201300"),
        (Iban, PAN),
        (Digits, "12345"),
        (Digits, "123456x"),
        (Phone, "4915123456789"),
        (Phone, "+999123456789"),
        (Phone, "+4111111111111111"),
        (Email, "ada"),
        (Email, "ada@localhost"),
        (Bytes, ""),
    ] {
        all.push((data(kind, value, ""), "item.data.value"));
    }
    all.push((data(Bytes, &"x".repeat(4_097), ""), "item.data.value"));
    all.push((data(UsAccount, "", "021000021"), "item.data.value"));
    all.push((data(UsAccount, &"1".repeat(18), "021000021"), "item.data.value"));
    for routing in ["", "021000022", "02100002", "120000021", PAN] {
        all.push((data(UsAccount, "1234", routing), "item.data.routing_number"));
    }
    all.push((data(Iban, "DE89370400440532013000", "021000021"), "item.data.routing_number"));
    let expiry = v1::CardExpiry { month: 12, year: 2030 };
    let token = |number: &str, requestor: &str, four: &str, par: &str, expiry| {
        let beside = BesideToken {
            requestor_id: requestor.to_owned(),
            funding_last_four: four.to_owned(),
            payment_account_reference: par.to_owned(),
        };
        ask::network_token(Zeroizing::new(number.into()), expiry, beside)
    };
    let reference = |text: &str, par: &str| ask::payment_reference(Zeroizing::new(text.into()), par);
    let wrong = v1::CardExpiry { month: 13, year: 2030 };
    all.extend([
        (token("4111111111111112", "", "", "", expiry), "item.network_token.number"),
        (token("", "", "", "", expiry), "item.network_token.number"),
        (token(PAN, "4001003027", "", "", expiry), "item.network_token.requestor_id"),
        (token(PAN, "", PAN, "", expiry), "item.network_token.funding_last_four"),
        (token(PAN, "", "", PAN, expiry), "item.network_token.payment_account_reference"),
        (token(PAN, "", "", "", wrong), "item.network_token.expiry"),
        (reference("", ""), "item.payment_reference.reference"),
        (reference("a b", ""), "item.payment_reference.reference"),
        (reference(&"x".repeat(129), ""), "item.payment_reference.reference"),
        (reference("a", PAN), "item.payment_reference.payment_account_reference"),
        // Well formed, on a channel that takes cards alone.
        (data(Digits, "12345678", ""), "item.format"),
        (token(PAN, "", "", "", expiry), "item.format"),
        (reference("a", ""), "item.format"),
    ]);
    all
}

/// Every way to get attributes wrong, and the field.
fn bad_attributes() -> Vec<(v1::Attributes, &'static str)> {
    let none = v1::Attributes::default;
    let text = str::to_owned;
    let entry = |key: &str, value: &str| [(text(key), text(value))].into();
    let agreement = |kind: i32, seconds: Option<i64>| v1::Agreement {
        r#type: kind,
        consented_at: seconds.map(|seconds| Timestamp { seconds, nanos: 0 }),
    };
    let mut all = vec![
        (v1::Attributes { billing_country: text("prt"), ..none() }, "billing_country"),
        (v1::Attributes { billing_country: text("pt"), ..none() }, "billing_country"),
        (v1::Attributes { par: text("V0010013019"), ..none() }, "par"),
        (v1::Attributes { par: format!("A{PAN}A{}", "0".repeat(11)), ..none() }, "par"),
        (v1::Attributes { network_transactions: entry("VISA", "1"), ..none() }, "network_transactions"),
        (v1::Attributes { network_transactions: entry("visa", ""), ..none() }, "network_transactions"),
        (v1::Attributes { network_transactions: entry("visa", PAN), ..none() }, "network_transactions"),
        (v1::Attributes { network_transactions: entry(PAN, "1"), ..none() }, "network_transactions"),
        (v1::Attributes { processor_references: entry(PAN, "1"), ..none() }, "processor_references"),
        (v1::Attributes { processor_references: entry("one", ""), ..none() }, "processor_references"),
        (v1::Attributes { agreement: Some(agreement(0, Some(1))), ..none() }, "agreement"),
        (v1::Attributes { agreement: Some(agreement(99, Some(1))), ..none() }, "agreement"),
        (v1::Attributes { agreement: Some(agreement(1, None)), ..none() }, "agreement"),
        (v1::Attributes { agreement: Some(agreement(1, Some(-1))), ..none() }, "agreement"),
    ];
    for bad in bad_texts() {
        all.push((v1::Attributes { card_holder: bad.clone(), ..none() }, "card_holder"));
        all.push((
            v1::Attributes { processor_references: entry("one", &bad), ..none() },
            "processor_references",
        ));
    }
    let nine = || (0..9).map(|n| (format!("n{n}"), text("1"))).collect();
    all.push((v1::Attributes { network_transactions: nine(), ..none() }, "network_transactions"));
    all.push((v1::Attributes { processor_references: nine(), ..none() }, "processor_references"));
    all
}

/// The path of a field of attributes in a card, or in an update.
fn path_of(place: &str, field: &str) -> &'static str {
    format!("item.{place}.{field}").leak()
}

/// Every way to get an update wrong.
fn bad_updates(token: &str) -> Vec<(v1::UpdateAttributesItem, &'static str)> {
    let good = || v1::UpdateAttributesItem { token: token.to_owned(), ..v1::UpdateAttributesItem::default() };
    let of = |(set, field): (v1::Attributes, &str)| {
        (v1::UpdateAttributesItem { set: Some(set), ..good() }, path_of("set", field))
    };
    let mut all: Vec<_> = bad_attributes().into_iter().map(of).collect();
    for clear in [vec![""], vec!["pan"], vec!["par", "par"], vec![PAN]] {
        let clear = clear.into_iter().map(str::to_owned).collect();
        all.push((v1::UpdateAttributesItem { clear, ..good() }, "item.clear"));
    }
    let card_expiry = Some(v1::CardExpiry { month: 13, year: 2030 });
    all.push((v1::UpdateAttributesItem { card_expiry, ..good() }, "item.card_expiry"));
    all.push((v1::UpdateAttributesItem { token: PAN.to_owned(), ..good() }, "item.token"));
    all.push((v1::UpdateAttributesItem { reference: PAN.to_owned(), ..good() }, "item.reference"));
    all
}

/// Every way to get a token wrong.
fn bad_tokens() -> Vec<String> {
    let mut all: Vec<String> = [
        "",
        PAN,
        "4111 1111 1111 1111",
        "41111",
        "411111111111111111111111111111112", // 33 digits
        "00000000000000000000",              // right by Luhn, whatever the length
        "DE89370400440532013000",
        "+4915123456789",
        "ada@example.com",
        "021000021-000123456789",
        "411111 abcde1111",
        "411111\u{661}11111",
        "tok_",
        "tok_012345678901234567890",
        "tok_01234567890123456789012",
        "tok_012345678901234567890-",
        "411111abcdef111\0",
    ]
    .map(str::to_owned)
    .into();
    all.push("9".repeat(10_000));
    all
}

#[allow(clippy::too_many_lines, reason = "a table, and what is asked of each of its rows")]
#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_every_message_is_refused_by_its_path_and_no_refusal_repeats_it() {
    let mut rig = Rig::made(Engine::Redb, MORE_POLICY, "");
    introduce(&rig, "narrow");
    rig.start();
    let client = Raw::connect(&rig, "importer").await;
    let mut told = Told::default();
    let stored: v1::TokenizeResponse = client
        .vault("Tokenize", &v1::TokenizeRequest { header: Some(header()), item: Some(card(PAN)) })
        .await
        .unwrap();
    let token = stored.result.unwrap().token;
    let (good_card, good_token, look, end) =
        (card(PAN), ask::plain(&token), ask::look(&token), ask::end_on(&token, "app"));

    for (what, change, reason, field) in bad_headers() {
        let mut bad = header();
        change(&mut bad);
        let bad = || Some(bad.clone());
        for refusals in [
            refusals(&client, bad(), Some(&good_card), &good_card, &mut told).await,
            refusals(&client, bad(), Some(&good_token), &good_token, &mut told).await,
            refusals(&client, bad(), Some(&look), &look, &mut told).await,
            refusals(&client, bad(), Some(&end), &end, &mut told).await,
        ] {
            is_refused(&what, &refusals, reason, field);
        }
    }
    let missing = "header";
    is_refused(
        missing,
        &refusals(&client, None, Some(&good_card), &good_card, &mut told).await,
        Reason::Malformed,
        missing,
    );
    is_refused(
        missing,
        &refusals(&client, None, Some(&good_token), &good_token, &mut told).await,
        Reason::Malformed,
        missing,
    );
    let missing = "item";
    is_refused(
        missing,
        &refusals(&client, Some(header()), None, &good_card, &mut told).await,
        Reason::Malformed,
        missing,
    );
    is_refused(
        missing,
        &refusals(&client, Some(header()), None, &good_token, &mut told).await,
        Reason::Malformed,
        missing,
    );
    is_refused(
        missing,
        &refusals(&client, Some(header()), None, &look, &mut told).await,
        Reason::Malformed,
        missing,
    );
    is_refused(
        missing,
        &refusals(&client, Some(header()), None, &end, &mut told).await,
        Reason::Malformed,
        missing,
    );

    for (what, item, reason, field) in bad_cards() {
        let refusals = refusals(&client, Some(header()), Some(&item), &good_card, &mut told).await;
        is_refused(&what, &refusals, reason, field);
    }
    let update = v1::UpdateAttributesItem { token: token.clone(), ..v1::UpdateAttributesItem::default() };
    for (item, field) in bad_updates(&token) {
        let refusals = refusals(&client, Some(header()), Some(&item), &update, &mut told).await;
        is_refused(&format!("update of {field}"), &refusals, Reason::Malformed, field);
    }
    let new = |token: &str, digits: &str| {
        ask::replace(token, Zeroizing::new(digits.into()), None, v1::ReplaceReason::Lost)
    };
    for (item, field) in [
        (new(PAN, PAN), "item.token"),
        (new(&token, "4111111111111112"), "item.plain.pan"),
        (new(&token, ""), "item.plain.pan"),
        (v1::ReplaceItem { reason: 0, ..new(&token, PAN) }, "item.reason"),
        (v1::ReplaceItem { reason: 99, ..new(&token, PAN) }, "item.reason"),
        (v1::ReplaceItem { card: None, ..new(&token, PAN) }, "item.plain"),
        (v1::ReplaceItem { reference: PAN.to_owned(), ..new(&token, PAN) }, "item.reference"),
    ] {
        // A token of its own for the good one each time: eight earlier cards are all that one keeps.
        let fresh = v1::TokenizeItem {
            valid_until: Some(Timestamp { seconds: 4_000_000_000, nanos: 0 }),
            ..card(PAN)
        };
        let fresh = v1::TokenizeRequest { header: Some(header()), item: Some(fresh) };
        let fresh: v1::TokenizeResponse = client.vault("Tokenize", &fresh).await.unwrap();
        let good = new(&fresh.result.unwrap().token, PAN);
        let refusals = refusals(&client, Some(header()), Some(&item), &good, &mut told).await;
        is_refused(&format!("replacement of {field}"), &refusals, Reason::Malformed, field);
    }
    for (seconds, nanos) in [(-1, 0), (253_402_300_800, 0), (1, -1)] {
        let item = v1::DetokenizeItem { as_of: Some(Timestamp { seconds, nanos }), ..good_token.clone() };
        let refusals = refusals(&client, Some(header()), Some(&item), &good_token, &mut told).await;
        is_refused("as of", &refusals, Reason::Malformed, "item.as_of");
    }
    for digits in ["", "4111111111111112", "41111111111", "%B4111111111111111^DOE/JOHN^3012101"] {
        let pan = || Zeroizing::new(digits.into());
        let good = || Zeroizing::new(PAN.into());
        let print = ask::fingerprint(pan());
        let refusals =
            refusals(&client, Some(header()), Some(&print), &ask::fingerprint(good()), &mut told).await;
        is_refused("a card", &refusals, Reason::Malformed, "item.plain.pan");
        let request = v1::DeleteCardRequest { header: Some(header()), item: Some(ask::delete_card(pan())) };
        let refused = client.vault::<v1::DeleteCardResponse>("DeleteCard", &request).await.unwrap_err();
        let failure = Failure::from(&refused);
        told.note(&failure, refused.details());
        is_refused("a card", &[("DeleteCard".to_owned(), failure)], Reason::Malformed, "item.plain.pan");
    }
    for code in ["", "12", "12345", "12a", PAN] {
        let item = ask::hold_code(&token, Zeroizing::new(code.into()));
        let request = v1::HoldSecurityCodeRequest { header: Some(header()), item: Some(item) };
        let refused =
            client.vault::<v1::HoldSecurityCodeResponse>("HoldSecurityCode", &request).await.unwrap_err();
        let failure = Failure::from(&refused);
        told.note(&failure, refused.details());
        is_refused("a code", &[("HoldSecurityCode".to_owned(), failure)], Reason::Malformed, "item.code");
    }
    for ticket in ["", "code-0-1", PAN] {
        let request = v1::ReadSecurityCodeRequest {
            header: Some(header()),
            item: Some(ask::read_code(&token, ticket)),
        };
        let refused =
            client.vault::<v1::ReadSecurityCodeResponse>("ReadSecurityCode", &request).await.unwrap_err();
        let failure = Failure::from(&refused);
        told.note(&failure, refused.details());
        is_refused("a ticket", &[("ReadSecurityCode".to_owned(), failure)], Reason::Malformed, "item.ticket");
    }
    let (disable, enable) = (ask::disable(&token), ask::enable(&token));
    for bad in bad_tokens() {
        for refusals in [
            refusals(&client, Some(header()), Some(&ask::disable(&bad)), &disable, &mut told).await,
            refusals(&client, Some(header()), Some(&ask::enable(&bad)), &enable, &mut told).await,
        ] {
            is_refused("token", &refusals, Reason::Malformed, "item.token");
        }
    }
    for bad in bad_tokens() {
        let what = format!("token {}", bad.chars().take(40).collect::<String>());
        for refusals in [
            refusals(&client, Some(header()), Some(&ask::plain(&bad)), &good_token, &mut told).await,
            refusals(&client, Some(header()), Some(&ask::look(&bad)), &look, &mut told).await,
            refusals(&client, Some(header()), Some(&ask::end(&bad)), &end, &mut told).await,
        ] {
            is_refused(&what, &refusals, Reason::Malformed, "item.token");
        }
    }
    for text in [PAN.to_owned(), "x".repeat(129)] {
        let (mut card, mut wanted, mut looked, mut ended) =
            (good_card.clone(), good_token.clone(), look.clone(), end.clone());
        for reference in
            [&mut card.reference, &mut wanted.reference, &mut looked.reference, &mut ended.reference]
        {
            reference.clone_from(&text);
        }
        for refusals in [
            refusals(&client, Some(header()), Some(&card), &good_card, &mut told).await,
            refusals(&client, Some(header()), Some(&wanted), &good_token, &mut told).await,
            refusals(&client, Some(header()), Some(&looked), &look, &mut told).await,
            refusals(&client, Some(header()), Some(&ended), &end, &mut told).await,
        ] {
            is_refused("reference", &refusals, Reason::Malformed, "item.reference");
        }
    }
    let forms = [
        (0, Reason::Malformed, "item.form"),
        (-1, Reason::Malformed, "item.form"),
        (4, Reason::Malformed, "item.form"),
        (2, Reason::Malformed, "item.recipient"), // sealed, to nobody
    ];
    for (form, reason, field) in forms {
        let item = v1::DetokenizeItem { form, ..good_token.clone() };
        is_refused(
            "form",
            &refusals(&client, Some(header()), Some(&item), &good_token, &mut told).await,
            reason,
            field,
        );
    }
    for form in [v1::RevealForm::Plain, v1::RevealForm::Masked] {
        let item =
            v1::DetokenizeItem { form: form.into(), recipient: "bank".to_owned(), ..good_token.clone() };
        let refusals = refusals(&client, Some(header()), Some(&item), &good_token, &mut told).await;
        is_refused("a recipient", &refusals, Reason::Malformed, "item.recipient");
    }
    let nowhere = v1::RevokeItem { extent: None, ..end.clone() };
    let refused = refusals(&client, Some(header()), Some(&nowhere), &end, &mut told).await;
    is_refused("no extent", &refused, Reason::Malformed, "item.extent");
    for channel in ["", "WEB", "nowhere", PAN] {
        let item = ask::end_on(&token, channel);
        let refused = refusals(&client, Some(header()), Some(&item), &end, &mut told).await;
        is_refused(&format!("extent {channel}"), &refused, Reason::Malformed, "item.channel");
    }

    // A length that the format does not name.
    let narrow = Raw::connect(&rig, "narrow").await;
    let of_narrow = || Some(ask::header("narrow", "web", Purpose::Authorization, Initiator::Cardholder));
    let amex = card("378282246310005");
    let refused = refusals(&narrow, of_narrow(), Some(&amex), &good_card, &mut told).await;
    is_refused("a length that is not named", &refused, Reason::Malformed, "item.plain.pan");

    // And after all this, what is right is still taken; also with the spaces and hyphens of the contract.
    for pan in [PAN, "4111 1111 1111 1111", "4111-1111-1111-1111", "3782 822463 10005"] {
        let request = v1::TokenizeRequest { header: Some(header()), item: Some(card(pan)) };
        client.vault::<v1::TokenizeResponse>("Tokenize", &request).await.unwrap();
    }
    let numbers = [PAN, "4111111111111112", "1411111111111111", "378282246310005"].map(str::to_owned);
    let mut numbers = BTreeSet::from(numbers);
    numbers.insert(token.clone());
    assert!(told.0.len() > 1_000, "{} refusals", told.0.len());
    told.holds_none_of(&numbers, &rig.log());
    assert!(rig.log().iter().all(|line| !line.contains("ended this task")), "a task broke down");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_messages_over_their_bounds_are_refused_whole() {
    let rig = Rig::new(Engine::Redb);
    let client = Raw::connect(&rig, "importer").await;
    let cards = |n: u32| (0..n).map(|n| card(number("512345", 16, n))).collect::<Vec<_>>();
    let batch = |items| v1::BatchTokenizeRequest { header: Some(header()), items };
    for items in [0, 1_001] {
        let refused = client
            .vault::<v1::BatchTokenizeResponse>("BatchTokenize", &batch(cards(items)))
            .await
            .unwrap_err();
        let failure = Failure::from(&refused);
        assert_eq!(
            (failure.reason(), failure.fields()[0].0.as_str()),
            (Some(Reason::Malformed), "items"),
            "{items}"
        );
        let tokens = vec![ask::look("tok_0123456789012345678901"); items as usize];
        let request = v1::BatchInspectRequest { header: Some(header()), items: tokens };
        let refused = client.vault::<v1::BatchInspectResponse>("BatchInspect", &request).await.unwrap_err();
        assert_eq!(Failure::from(&refused).fields()[0].0, "items");
    }
    let taken: v1::BatchTokenizeResponse = client.vault("BatchTokenize", &batch(cards(1_000))).await.unwrap();
    assert_eq!(taken.outcomes.len(), 1_000);

    // One byte over a megabyte: refused by the library, before it is read as a message.
    let empty = v1::TokenizeRequest { header: Some(header()), item: Some(card("")) }.encoded_len();
    for over in [1_048_576 - empty + 1, 1_200_000] {
        let request = v1::TokenizeRequest { header: Some(header()), item: Some(card(vec![b'4'; over])) };
        for path in ["/vault.v1.Vault/Tokenize", "/vault.v1.Vault/StreamTokenize"] {
            let (_, status) = client.ask(Raw::head(path), framed(&request.encode_to_vec())).await.unwrap();
            assert_eq!(status.code(), Code::OutOfRange, "{path}: {status:?}");
            assert!(status.details().is_empty() && !status.message().contains("4444"), "{status:?}");
        }
    }
    assert_eq!(
        served(rig.data(), config(&rig, NEW_TLS, Some(&papers(&rig, "shop")))).await.unwrap().principal,
        "shop"
    );
}

/// The largest answer there is to a batch: each token tells its channels, and a token may be granted 64.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_be_larger_than_a_question() {
    let name = |n: u32| format!("{n:02}-{}", "c".repeat(60));
    let channels: Vec<String> = (0..64)
        .map(|n| format!("[[merchant.channel]]\nid = \"{}\"\nkind = \"social\"\nformat = \"f\"\n", name(n)))
        .collect();
    let channels = channels.concat();
    let rule = |id, actions| {
        format!(
            "[[rule]]\nid = \"{id}\"\neffect = \"allow\"\nmerchant = \"many\"\nprincipals = [\"many\"]\n\
             actions = [{actions}]\nimport = true\nshow = \"masked\"\n"
        )
    };
    let policy = format!(
        "[[merchant]]\nid = \"many\"\n[[merchant.format]]\nid = \"f\"\nscheme = \"random\"\n{channels}\
         [[principal]]\nid = \"many\"\nauthority = \"clients\"\nname = \"spiffe://rig/many\"\nmerchant = \"many\"\n{}",
        rule("all", "\"tokenize\", \"inspect\"")
    );
    let mut rig = Rig::made(Engine::Redb, &policy, "");
    introduce(&rig, "many");
    rig.start();
    let client = rig.client("many").await;
    let header = || ask::header("many", &name(0), Purpose::Authorization, Initiator::Merchant);
    let cards = (0..1_000).map(|n| card(number("512345", 16, n))).collect();
    let stored = client.batch_tokenize(header(), cards).await.unwrap();
    let looks = stored.outcomes.into_iter().map(|o| ask::look(&o.result.unwrap().token)).collect();
    let seen = client.batch_inspect(header(), looks).await.unwrap();
    assert!(seen.outcomes.iter().all(|o| o.result.as_ref().is_ok_and(|seen| seen.channels.len() == 64)));
}

/// Numbers that look random and are the same in each run (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

#[allow(clippy::too_many_lines, reason = "a table, and what is asked of each of its rows")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_grpc_gets_a_status_and_spoils_nothing() {
    let rig = Rig::new(Engine::Redb);
    let client = Raw::connect(&rig, "importer").await;
    let tokenize = "/vault.v1.Vault/Tokenize";
    let good = v1::TokenizeRequest { header: Some(header()), item: Some(card(PAN)) }.encode_to_vec();
    let mut compressed = framed(&good);
    compressed[0] = 1;
    let mut flagged = framed(&good);
    flagged[0] = 0x80;
    let too_long = [&[0, 0xff, 0xff, 0xff, 0xff], good.as_slice()].concat();
    let cut = framed(&good)[..40].to_vec();
    let two = [framed(&good), framed(&good)].concat();
    let head = || Raw::head(tokenize);
    let with = |name: &'static str, value: &str| {
        let mut head = head();
        head.headers_mut().insert(name, value.parse().unwrap());
        head
    };
    let mut get = head();
    *get.method_mut() = http::Method::GET;
    let cases = [
        ("an unknown method", Raw::head("/vault.v1.Vault/Steal"), framed(&good), Some(Code::Unimplemented)),
        (
            "an unknown service",
            Raw::head("/vault.v2.Vault/Tokenize"),
            framed(&good),
            Some(Code::Unimplemented),
        ),
        (
            "the operators' service",
            Raw::head("/vault.v1.Admin/GetPolicy"),
            framed(&[]),
            Some(Code::Unimplemented),
        ),
        ("no path", Raw::head("/"), framed(&good), None),
        ("a long path", Raw::head(&format!("/{}", "a".repeat(8_000))), framed(&good), None),
        ("no message", head(), Vec::new(), None),
        ("half a frame", head(), vec![0, 0], None),
        ("a message cut short", head(), cut, None),
        ("a length of four gigabytes", head(), too_long, None),
        ("compressed without saying how", head(), compressed.clone(), None),
        ("compressed as nobody does", with("grpc-encoding", "zip"), compressed, Some(Code::Unimplemented)),
        ("a flag that means nothing", head(), flagged, None),
        ("not a message", head(), framed(&[0xff; 100]), None),
        ("text that is not UTF-8", head(), framed(&[0x0a, 0x04, 0x0a, 0x02, 0xff, 0xfe]), None),
        ("nested without end", head(), framed(&[0x0b; 500]), None),
        ("two messages for one", head(), two, None),
        (
            "a deadline that is no time",
            with("grpc-timeout", "soon"),
            framed(&good),
            Some(Code::InvalidArgument),
        ),
        (
            "a deadline that has passed",
            with("grpc-timeout", "0n"),
            framed(&good),
            Some(Code::DeadlineExceeded),
        ),
        (
            "what a browser sends unasked",
            with("content-type", "text/plain"),
            framed(&good),
            Some(Code::InvalidArgument),
        ),
        ("a GET", get, framed(&good), Some(Code::InvalidArgument)),
    ];
    for (what, head, body, expected) in cases {
        let (_, status) = client.ask(head, body).await.unwrap_or_else(|Cut(why)| panic!("{what}: {why}"));
        assert!(status.code() != Code::Ok || what == "two messages for one", "{what} was taken");
        assert!(expected.is_none_or(|code| code == status.code()), "{what}: {status:?}");
        assert!(!status.message().contains("4111"), "{what}: {status:?}");
    }
    let (_, status) = client.ask(with("grpc-timeout", "soon"), framed(&good)).await.unwrap();
    assert_eq!(Failure::from(&status).fields()[0].0, "grpc-timeout");
    // Header fields beyond their bound end the request, or the connection with it.
    let large = Raw::connect(&rig, "importer").await;
    let refused = large.ask(with("x-large", &"x".repeat(20_000)), framed(&good)).await;
    assert!(refused.is_err() || refused.is_ok_and(|(_, status)| status.code() != Code::Ok));

    // A stream whose second message is broken: the first is answered, then the stream ends.
    let body = [framed(&good), framed(&[0xff; 9])].concat();
    let (answer, status) = client.ask(Raw::head("/vault.v1.Vault/StreamTokenize"), body).await.unwrap();
    assert_ne!(status.code(), Code::Ok);
    let first = v1::StreamTokenizeResponse::decode(&answer[5..]).unwrap();
    assert!(
        matches!(first.outcome, Some(v1::stream_tokenize_response::Outcome::Result(_))),
        "what was done is answered"
    );

    // Random messages, and good ones with a few bytes changed, to every method.
    let mut dice = Dice(9);
    let methods = [
        "Tokenize",
        "Detokenize",
        "Inspect",
        "Revoke",
        "BatchTokenize",
        "BatchDetokenize",
        "BatchInspect",
        "BatchRevoke",
        "Disable",
        "Enable",
        "UpdateAttributes",
        "Replace",
        "BatchReplace",
        "HoldSecurityCode",
        "BatchHoldSecurityCode",
        "ReadSecurityCode",
        "BatchReadSecurityCode",
        "CompleteAuthorization",
        "BatchCompleteAuthorization",
        "Translate",
        "BatchTranslate",
        "Fingerprint",
        "BatchFingerprint",
        "DeleteCard",
        "BatchDeleteCard",
        "ListBySubject",
        "EraseSubject",
        "BatchDisable",
        "BatchEnable",
        "BatchUpdateAttributes",
        "StreamTokenize",
        "StreamDetokenize",
        "GetSealingKey",
        "GetCapabilities",
    ];
    let mut codes = BTreeSet::new();
    for round in 0..1_500 {
        let message = if round % 2 == 0 {
            let length = dice.below(200);
            dice.bytes(length)
        } else {
            let mut message = good.clone();
            for _ in 0..=dice.below(4) {
                let at = dice.below(message.len());
                message[at] = dice.bytes(1)[0];
            }
            message
        };
        let method = methods[dice.below(methods.len())];
        let (_, status) =
            client.ask(Raw::head(&format!("/vault.v1.Vault/{method}")), framed(&message)).await.unwrap();
        assert_ne!(Failure::from(&status).reason(), Some(Reason::Internal), "{method}: {status:?}");
        codes.insert(i32::from(status.code()));
    }
    assert!(codes.contains(&i32::from(Code::InvalidArgument)), "{codes:?}");
    client
        .vault::<v1::GetCapabilitiesResponse>("GetCapabilities", &v1::GetCapabilitiesRequest {})
        .await
        .unwrap();
    assert!(
        rig.log().iter().all(|line| !line.contains("ended this task")),
        "a task broke down: {:?}",
        rig.log()
    );
    assert!(rig.log().iter().all(|line| !line.contains("4111111111")));
}

/// What the process holds of the machine's memory now, in MiB.
fn memory(rig: &Rig) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() / 1_024
}

/// How much more the server may hold after an attack than before, in MiB. At the door it keeps 512 handshakes at most,
/// each with rustls's buffers for a record or two (16 KiB each, some 50 KiB in all): 25 MiB. A connection inside may have
/// 512 KiB unread, and the attacks here open some hundred: 50 MiB. Twice that, because an allocator gives back late.
const GROWTH: u64 = 150;

/// Whether a client is served whose library tries again, as good ones do: within the client's own ten seconds.
async fn good_client_is_served(rig: &Rig) {
    let client = rig.client("shop").await;
    let stored = client.tokenize(header(), card(PAN)).await.unwrap_or_else(|e| panic!("a good client: {e}"));
    assert_eq!(stored.card.unwrap().last_four, "1111");
}

/// Lets a client that was there before ask on for as long as an attack lasts, and once at least: no call may fail.
async fn during<T>(rig: &Rig, attack: impl Future<Output = T>) -> T {
    let client = Raw::connect(rig, "shop").await;
    let over = std::cell::Cell::new(false);
    let attack = async {
        let done = attack.await;
        over.set(true);
        done
    };
    let asks = async {
        while !over.get() {
            let request = v1::GetCapabilitiesRequest {};
            let asked = client.vault::<v1::GetCapabilitiesResponse>("GetCapabilities", &request);
            asked.await.expect("a client that was there before the attack");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::join!(asks, attack).1
}

/// A connection from another address of this machine: each attacker is a peer of its own.
async fn from(attacker: u32, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 2)) + attacker % 50);
    socket.bind(SocketAddr::from((source, 0)))?;
    socket.connect(to).await
}

/// Whether the server has hung up, by an end or by a reset.
async fn hangs_up(mut stream: impl AsyncReadExt + Unpin) -> bool {
    let mut sink = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut sink)).await.is_ok()
}

/// How often the data plane cut or refused a connection for this reason.
async fn turned(rig: &Rig, why: &str) -> u64 {
    let name = format!("vault_connections_turned_away_total{{door=\"Data\",reason=\"{why}\"}} ");
    get(rig, "/metrics").await.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

/// The beginning of a `ClientHello`: its record promises 512 bytes.
const CLIENT_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 1, 2, 3, 4, 5, 6, 7, 8];

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_and_half_open_connections_do_not_keep_good_clients_out() {
    const HALF_OPEN: usize = 10_000;
    let rig = Rig::with(Engine::Redb, "", METRICS);
    good_client_is_served(&rig).await;
    let before = memory(&rig);

    // Random bytes at every door: sent away at once, or after five seconds where they could yet become a handshake.
    let mut dice = Dice(1);
    during(&rig, async {
        let mut strangers = tokio::task::JoinSet::new();
        for n in 0..300 {
            let door = [rig.data(), rig.admin(), crate::raw::page(&rig)][n % 3];
            let length = dice.below(3_000);
            let bytes = dice.bytes(length);
            strangers.spawn(async move {
                let mut socket = from(u32::try_from(n).unwrap(), door).await.unwrap();
                // A server that has hung up already resets what comes after.
                let _sent = socket.write_all(&bytes).await;
                let _shut = socket.shutdown().await;
                assert!(hangs_up(socket).await, "it listens to random bytes for ever");
            });
        }
        strangers.join_all().await;
    })
    .await;

    // Ten thousand half-open connections, half of them in the middle of a handshake. The server keeps its bound of them,
    // and the newest: so a good client gets in even while they come.
    let files = vault_server::memory::raise_open_files(HALF_OPEN as u64 + 1_000).unwrap();
    let most = usize::try_from(files).unwrap().saturating_sub(500).min(HALF_OPEN);
    let mut open = std::collections::VecDeque::new();
    let flood = async {
        for n in 0..HALF_OPEN {
            let mut socket = from(u32::try_from(n).unwrap(), rig.data()).await.unwrap();
            if n % 2 == 0 {
                let _sent = socket.write_all(CLIENT_HELLO).await;
            }
            // Where this machine allows fewer files, those go that the server has put out long ago.
            if open.len() == most {
                open.pop_front();
            }
            open.push_back(socket);
        }
    };
    let good = async {
        for _ in 0..3 {
            good_client_is_served(&rig).await;
        }
    };
    let both = async {
        tokio::join!(flood, good);
    };
    during(&rig, Box::pin(both)).await;
    good_client_is_served(&rig).await;
    assert!(turned(&rig, "Evicted").await as usize > HALF_OPEN - 1_000, "it keeps more than its bound");
    let under_attack = memory(&rig);
    assert!(
        under_attack < before + GROWTH,
        "{before} MiB before, {under_attack} MiB under ten thousand strangers"
    );
    drop(open);
    good_client_is_served(&rig).await;
    let after = memory(&rig);
    assert!(after < before + GROWTH, "{before} MiB before, {after} MiB after");
    assert!(
        rig.log().iter().all(|line| !line.contains("ended this task")),
        "a task broke down: {:?}",
        rig.log()
    );
}

/// CVE-2023-44487.
#[tokio::test(flavor = "multi_thread")]
async fn who_opens_and_cancels_requests_over_and_over_is_cut_off() {
    let rig = Rig::with(Engine::Redb, "", METRICS);
    good_client_is_served(&rig).await;
    let before = memory(&rig);
    // As fast as it can be done, on many connections.
    let shop = papers(&rig, "app");
    let flood = async {
        let mut floods = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (door, config) = (rig.data(), config(&rig, NEW_TLS, Some(&shop)));
            floods.spawn(async move {
                let begun = Instant::now();
                let mut cut_off = 0_u32;
                // Cut off, it comes back, and again, for as long as the attack lasts.
                while begun.elapsed() < Duration::from_secs(3) {
                    let client = Raw::over(dial(door, config.clone()).await.unwrap()).await.unwrap();
                    let mut opened = 0_u32;
                    while let Ok(mut send) = client.send.clone().ready().await {
                        let sent = send.send_request(Raw::head("/vault.v1.Vault/Tokenize"), false);
                        let Ok((_, mut body)) = sent else { break };
                        body.send_reset(h2::Reason::CANCEL);
                        opened += 1;
                        assert!(opened < 50_000, "not cut off");
                        tokio::task::yield_now().await;
                    }
                    cut_off += 1;
                }
                cut_off
            });
        }
        floods.join_all().await
    };
    let cut_off = during(&rig, flood).await;
    assert!(cut_off.iter().all(|times| *times > 0), "{cut_off:?}");
    // The patient kind: each request is begun by the server before it is cancelled.
    let stream = dial(rig.data(), config(&rig, NEW_TLS, Some(&shop))).await.unwrap();
    let client = Raw::over(stream).await.unwrap();
    let mut cancelled = 0_u32;
    while let Ok(mut send) = client.send.clone().ready().await {
        let Ok((response, mut body)) = send.send_request(Raw::head("/vault.v1.Vault/StreamTokenize"), false)
        else {
            break;
        };
        if response.await.is_err() {
            break;
        }
        body.send_reset(h2::Reason::CANCEL);
        cancelled += 1;
        assert!(cancelled < 1_000, "not cut off");
    }
    assert!((200..400).contains(&cancelled), "{cancelled}");
    assert!(turned(&rig, "RapidReset").await >= 1);

    good_client_is_served(&rig).await;
    let after = memory(&rig);
    assert!(after < before + GROWTH, "{before} MiB before, {after} MiB after");
    assert!(
        rig.log().iter().all(|line| !line.contains("ended this task")),
        "a task broke down: {:?}",
        rig.log()
    );
}

/// Bounds that are reached within a test's patience.
const IMPATIENT: &str = "
[limits]
handshake_ms = 500
preface_ms = 500
idle_ms = 2000
keepalive_ms = 1000
keepalive_answer_ms = 500
slow_reader_ms = 1000
deadline_ms = 1000
stream_ms = 3000
";

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_and_the_garbled_are_cut_off_wherever_they_dawdle() {
    const OF_EACH: u32 = 12;
    let rig = Rig::with(Engine::Redb, "", &format!("{METRICS}{IMPATIENT}"));
    let before = memory(&rig);
    let app = papers(&rig, "app");
    let inside = || async { dial(rig.data(), config(&rig, NEW_TLS, Some(&app))).await.unwrap() };
    let mut dice = Dice(2);
    let attack = async {
        let mut slow = tokio::task::JoinSet::new();
        for n in 0..OF_EACH {
            let door = rig.data();
            // In the handshake: a byte now and then.
            slow.spawn(async move {
                let mut socket = from(n, door).await.unwrap();
                for byte in CLIENT_HELLO.iter().chain(&[0; 200]) {
                    if socket.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                ("dripped a handshake", hangs_up(socket).await)
            });
            // After it: half a preface, then nothing.
            let mut silent = inside().await;
            slow.spawn(async move {
                silent.write_all(b"PRI * HTTP/2.0").await.unwrap();
                ("kept silent", hangs_up(silent).await)
            });
            // A whole preface and settings, and then no answer to any ping.
            let mut deaf = inside().await;
            slow.spawn(async move {
                deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
                ("answered no ping", hangs_up(deaf).await)
            });
            // Random bytes inside, with and without a preface.
            let mut garbled = inside().await;
            let length = dice.below(4_000);
            let mut bytes = dice.bytes(length);
            if n % 2 == 0 {
                bytes.splice(..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
            }
            slow.spawn(async move {
                let _sent = garbled.write_all(&bytes).await;
                ("sent random bytes", hangs_up(garbled).await)
            });
            // A request that promises a megabyte and sends none of it: its deadline passes. Then a connection without
            // requests: it is told to go.
            let idle = Raw::over(inside().await).await.unwrap();
            slow.spawn(async move {
                let mut send = idle.send.clone().ready().await.unwrap();
                let (response, mut body) =
                    send.send_request(Raw::head("/vault.v1.Vault/Tokenize"), false).unwrap();
                body.send_data(vec![0, 0, 0x0f, 0xff, 0xff].into(), false).unwrap();
                let (_, status) = Raw::answer(response).await.unwrap();
                assert_eq!(Failure::from(&status).reason(), Some(Reason::DeadlineExceeded), "{status:?}");
                ("had nothing to ask", tokio::time::timeout(SOON, idle.connection).await.is_ok())
            });
            // A stream that is opened and forgotten: it ends, and says why.
            let forgotten = Raw::over(inside().await).await.unwrap();
            slow.spawn(async move {
                let mut send = forgotten.send.clone().ready().await.unwrap();
                let (response, _body) =
                    send.send_request(Raw::head("/vault.v1.Vault/StreamTokenize"), false).unwrap();
                let ended = Raw::answer(response).await.unwrap();
                ("forgot a stream", ended.1.code() == Code::DeadlineExceeded)
            });
            // An answer for which there is never room: the peer reads too slowly.
            let stream = inside().await;
            slow.spawn(async move {
                let (send, connection) = h2::client::Builder::new()
                    .initial_window_size(0)
                    .handshake::<_, hyper::body::Bytes>(stream)
                    .await
                    .unwrap();
                let connection = tokio::spawn(connection);
                let mut send = send.ready().await.unwrap();
                let head = Raw::head("/vault.v1.Vault/GetCapabilities");
                let (_response, mut body) = send.send_request(head, false).unwrap();
                body.send_data(framed(&[]).into(), true).unwrap();
                ("read nothing", tokio::time::timeout(SOON, connection).await.is_ok())
            });
        }
        slow.join_all().await
    };
    for (who, sent_away) in during(&rig, Box::pin(attack)).await {
        assert!(sent_away, "who {who} was not sent away");
    }
    for (why, least) in [("TooSlow", OF_EACH), ("Silent", OF_EACH), ("SlowReader", OF_EACH)] {
        let times = turned(&rig, why).await;
        assert!(times >= u64::from(least), "{why}: {times}");
    }
    good_client_is_served(&rig).await;
    let after = memory(&rig);
    assert!(after < before + GROWTH, "{before} MiB before, {after} MiB after");
    let open = rig.operator().await.get_status(v1::GetStatusRequest {}).await.unwrap().connections;
    assert!(open <= 4, "{open} connections are still open");
    assert!(
        rig.log().iter().all(|line| !line.contains("ended this task")),
        "a task broke down: {:?}",
        rig.log()
    );
}

/// The serial number of the certificate that the server shows now.
async fn shown(rig: &Rig) -> Vec<u8> {
    let stream = dial(rig.data(), config(rig, NEW_TLS, Some(&papers(rig, "shop")))).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn problems(rig: &Rig) -> Vec<(String, String)> {
    let status = rig.operator().await.get_status(v1::GetStatusRequest {}).await.unwrap();
    status.problems.into_iter().map(|p| (p.reason, p.message)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_file_leaves_the_old_one_in_use_and_shows_in_health() {
    let rig = Rig::with(Engine::Redb, "", METRICS);
    let first = shown(&rig).await;
    assert_eq!(problems(&rig).await, []);
    let good = |name: &str| std::fs::read_to_string(rig.file(name)).unwrap();
    let (certificate, key, list) = (good("server.pem"), good("server.key"), good("clients.crl"));
    let (other_certificate, other_key, _) = rig.servers.issue("localhost", Leaf::Good);
    let (expired, _, _) = rig.servers.issue("localhost", Leaf::Expired);
    let foreign_list = rig.servers.revocation_list(&[]);
    for (file, bad, old) in [
        ("server.pem", "no certificate at all", &certificate),
        ("server.pem", "", &certificate),
        ("server.pem", &other_certificate, &certificate), // not this key's
        ("server.pem", &expired, &certificate),
        ("server.key", &other_key, &key),
        ("clients.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", &list),
        ("clients.crl", &foreign_list, &list),
    ] {
        put(&rig, file, bad);
        eventually("the problem", || async { !problems(&rig).await.is_empty() }).await;
        let told = problems(&rig).await;
        assert!(told.iter().any(|(reason, _)| reason == "CERTIFICATE_RELOAD_FAILED"), "{file}: {told:?}");
        let page = health(&rig).await;
        assert_eq!(page["serving"], true, "the old one serves on");
        assert!(!page["problems"].as_array().unwrap().is_empty(), "{file}: {page}");
        assert!(shown(&rig).await == first, "{file}: another certificate is in use");
        good_client_is_served(&rig).await;
        put(&rig, file, old);
        eventually("the end of the problem", || async { problems(&rig).await.is_empty() }).await;
    }
    // A good pair, file after file: in between they do not go together, and nothing is taken.
    put(&rig, "server.pem", &other_certificate);
    put(&rig, "server.key", &other_key);
    signal(rig.process_id(), "HUP");
    eventually("the new certificate", || async { shown(&rig).await != first }).await;
    assert_eq!(problems(&rig).await, []);
    good_client_is_served(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_sigterm_drains_and_the_second_stops() {
    let mut rig = Rig::with(Engine::Redb, "", METRICS);
    let importer = rig.client("importer").await;
    let (messages, asked) = tokio::sync::mpsc::channel(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut answers = importer.stream_tokenize(stream).await.unwrap();
    let item = v1::TokenizeItem { reference: "1".to_owned(), ..card(number("512345", 16, 1)) };
    let message = v1::StreamTokenizeRequest { header: Some(header()), item: Some(item) };
    messages.send(message).await.unwrap();
    let stored = answers.next().await.unwrap().unwrap().result.unwrap().token;

    // Two requests under way: their headers are there, their messages are not.
    let client = Raw::connect(&rig, "shop").await;
    let request = v1::TokenizeRequest { header: Some(header()), item: Some(card(PAN)) };
    let mut under_way = Vec::new();
    for _ in 0..2 {
        let mut send = client.send.clone().ready().await.unwrap();
        let (response, body) = send.send_request(Raw::head("/vault.v1.Vault/Tokenize"), false).unwrap();
        under_way.push((tokio::spawn(Raw::answer(response)), body));
    }
    // Their headers are before this one's on the same connection, so once it is answered they have begun.
    client
        .vault::<v1::GetCapabilitiesResponse>("GetCapabilities", &v1::GetCapabilitiesRequest {})
        .await
        .unwrap();

    signal(rig.process_id(), "TERM");
    eventually("no new connections", || async { TcpStream::connect(rig.data()).await.is_err() }).await;
    let page = health(&rig).await;
    assert_eq!(page["serving"], false, "balancers are told to go elsewhere");
    let end = answers.next().await.unwrap().expect_err("a stream is told to come back");
    assert_eq!(end.reason(), Some(Reason::Overloaded), "{end}");
    let (first, mut body) = under_way.remove(0);
    body.send_data(framed(&request.encode_to_vec()).into(), true).unwrap();
    let (_, status) = first.await.unwrap().unwrap();
    assert_eq!(status.code(), Code::Ok, "what is under way goes on: {status:?}");

    let begun = Instant::now();
    assert!(rig.stop(), "the second signal, and an orderly end");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}: it waits for nothing", begun.elapsed());
    assert!(rig.log().iter().any(|line| line.contains("\"stopped\"")), "{:?}", rig.log());
    let (second, _body) = under_way.remove(0);
    assert!(second.await.unwrap().is_err(), "it was under way, and was not waited for");

    // Nothing that was acknowledged is gone. A single signal is enough where nothing is under way.
    rig.start();
    let client = rig.client("importer").await;
    let paid = client.detokenize(header(), ask::plain(&stored)).await.unwrap();
    assert_eq!(ask::pan(paid).unwrap().as_slice(), number("512345", 16, 1).as_bytes());
    drop(client);
    let begun = Instant::now();
    assert!(rig.stop());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
