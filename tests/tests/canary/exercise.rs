//! Canaries sent through a server: by every verb, and in every wrong place, shape and moment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use prost::Message;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use vault_client::ask;
use vault_core::hpke::{PrivateKey, PublicKey};
use vault_core::name::{MerchantName, RecipientName};
use vault_core::sealed;
use vault_core::secret::Secret32;
use vault_proto::v1;
use vault_tests::canary::Breeder;
use vault_tests::server::{Leaf, Rig};

use super::hearing::{self, Ask, Told, close, shout};
use crate::raw::{NEW_TLS, Raw, config, dial, framed, page, papers};

/// A merchant of the canaries' own: every scheme, every length, and principals that may do all of it.
const POLICY: &str = r#"
[[merchant]]
id = "canary"
[[merchant.format]]
id = "random"
scheme = "random"
[[merchant.format]]
id = "mixed"
scheme = "mixed"
mode = "fresh"
[[merchant.format]]
id = "opaque"
scheme = "opaque"
[[merchant.format]]
id = "fresh"
scheme = "random"
mode = "fresh"
[[merchant.format]]
id = "own"
scheme = "opaque"
scope = "channel"
[[merchant.channel]]
id = "web"
kind = "e-commerce"
format = "random"
[[merchant.channel]]
id = "pos"
kind = "point-of-sale"
format = "own"
[[principal]]
id = "teller"
authority = "clients"
name = "spiffe://rig/teller"
merchant = "canary"
[[principal]]
id = "reader"
authority = "clients"
name = "spiffe://rig/reader"
merchant = "canary"
[[rule]]
id = "teller-does"
effect = "allow"
merchant = "canary"
principals = ["teller"]
actions = ["tokenize", "inspect", "revoke"]
show = "masked"
tells_reuse = true
[[rule]]
id = "teller-pays"
effect = "allow"
merchant = "canary"
principals = ["teller"]
actions = ["detokenize"]
purposes = ["authorization", "refund"]
show = "full"
[[rule]]
id = "reader-looks"
effect = "allow"
merchant = "canary"
principals = ["reader"]
actions = ["inspect"]
show = "last_four"
"#;

/// The canaries' policy, with a bank that cards are sealed to.
pub(super) fn policy() -> String {
    let key = BASE64.encode(bank().public_key().as_bytes());
    format!(
        "{POLICY}[[merchant.recipient]]\nid = \"bank\"\nowner = \"Bank plc\"\nkey = \"{key}\"\nexpires = \"2099-12-31\"\n"
    )
}

fn bank() -> PrivateKey {
    PrivateKey::of_scalar(&Secret32::filled_by(|b| b.fill(7))).unwrap()
}

/// The card number that the bank finds in a sealed card.
fn opened(card: &v1::SealedCard) -> String {
    let (merchant, recipient) =
        (MerchantName::parse("canary").unwrap(), RecipientName::parse("bank").unwrap());
    let Ok((pan, None)) = sealed::open_out(&bank(), &merchant, &recipient, &card.enc, &card.ciphertext)
    else {
        panic!("it opens")
    };
    String::from_utf8(pan.expose_digits().to_vec()).unwrap()
}

/// Cards in one batch.
const BATCH: usize = 120;
/// Requests at once where many are.
const AT_ONCE: usize = 24;
/// A purpose that no rule of the canaries allows.
const DISPUTE: i32 = v1::Purpose::Dispute as i32;

/// Draws canaries and sends them.
pub(super) struct Exercise<'a> {
    rig: &'a Rig,
    breeder: Breeder,
    heard: Vec<u8>,
    drawn: usize,
    codes: BTreeMap<i32, usize>,
}

fn header() -> v1::RequestHeader {
    ask::header("canary", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder)
}

fn tokenize(header: v1::RequestHeader, item: v1::TokenizeItem) -> v1::TokenizeRequest {
    v1::TokenizeRequest { header: Some(header), item: Some(item) }
}

fn written(pan: &[u8]) -> v1::TokenizeItem {
    ask::card(vault_client::Zeroizing::new(pan.to_vec()), Some(v1::CardExpiry { month: 7, year: 2031 }))
}

fn plain(digits: &str) -> v1::TokenizeItem {
    written(digits.as_bytes())
}

fn grouped(digits: &str, by: &str) -> String {
    digits.as_bytes().chunks(4).map(|g| str::from_utf8(g).unwrap()).collect::<Vec<_>>().join(by)
}

fn data(method: &str) -> String {
    format!("/vault.v1.Vault/{method}")
}

fn admin(method: &str) -> String {
    format!("/vault.v1.Admin/{method}")
}

impl<'a> Exercise<'a> {
    /// Against this server.
    pub(super) fn new(rig: &'a Rig) -> Self {
        let breeder = Breeder::new(0x5EED_CA4A);
        Self { rig, breeder, heard: Vec::new(), drawn: 0, codes: BTreeMap::new() }
    }

    /// The canaries sent, and everything that came back but revealed cards.
    pub(super) fn done(self) -> (Breeder, Vec<u8>) {
        (self.breeder, self.heard)
    }

    /// All of it.
    pub(super) async fn everything(&mut self) {
        let teller = self.papers("teller");
        let first = self.dialled(self.rig.data(), teller.clone()).await;
        let second = self.dialled(self.rig.data(), teller.clone()).await;
        self.every_verb(&first).await;
        self.many_at_once(&second).await;
        self.streams(&first).await;
        self.sealed_both_ways(&first).await;
        self.retries(&first).await;
        self.over_budget(&first).await;
        self.misshapen_cards(&first).await;
        self.wrong_header_fields(&first).await;
        self.wrong_item_fields(&first).await;
        self.wrong_tokens(&first).await;
        self.wrong_metadata(&second).await;
        self.broken_messages(&teller).await;
        self.too_much(&teller).await;
        self.cut_short(&teller).await;
        self.refused_callers().await;
        self.other_doors().await;
        self.operators_plane().await;
        // Once more at the end: what the ways to fail would have written over is still there, if it stays at all.
        self.every_verb(&first).await;
        self.many_at_once(&second).await;
        close(first).await;
        close(second).await;
        // CANCELLED is told to nobody; what else there is came at least once, or this exercise is not what it says.
        for code in [0, 3, 4, 5, 7, 8, 10, 12] {
            assert!(self.codes.contains_key(&code), "gRPC code {code} never came: {:?}", self.codes);
        }
    }

    /// With a new certificate of this name.
    fn papers(&self, name: &str) -> ClientConfig {
        let (certificate, key, _) = self.rig.clients.issue(&format!("spiffe://rig/{name}"), Leaf::Good);
        config(self.rig, NEW_TLS, Some(&(certificate, key)))
    }

    async fn dialled(&self, at: SocketAddr, config: ClientConfig) -> Raw {
        Raw::over(dial(at, config).await.unwrap()).await.unwrap()
    }

    /// The next canary, of the next length; few of the shortest, as they are the likeliest to stand somewhere by chance.
    fn card(&mut self) -> String {
        self.drawn += 1;
        let length = match self.drawn % 40 {
            0 => 12,
            1 => 13,
            other => 14 + other % 6,
        };
        self.breeder.card(length)
    }

    fn cards(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.card()).collect()
    }

    fn keep(&mut self, told: Told) -> Told {
        *self.codes.entry(told.code.unwrap_or(-1)).or_default() += 1;
        self.heard.extend_from_slice(&told.heard);
        told
    }

    async fn send(&mut self, raw: &Raw, ask: Ask) -> Told {
        let told = hearing::ask(raw, ask).await;
        self.keep(told)
    }

    /// Sends a message that must be answered with what is given back.
    async fn must<A: Message + Default>(&mut self, raw: &Raw, path: &str, message: &impl Message) -> A {
        let told = self.send(raw, Ask::of(path, message)).await;
        told.answer().unwrap_or_else(|| panic!("{path}: {}", String::from_utf8_lossy(&told.heard)))
    }

    /// Sends a message that must be refused.
    async fn refused(&mut self, raw: &Raw, path: &str, message: &impl Message) {
        let told = self.send(raw, Ask::of(path, message)).await;
        assert!(told.code.is_some_and(|code| code != 0), "{path}: {}", String::from_utf8_lossy(&told.heard));
    }

    async fn stored(&mut self, raw: &Raw, item: v1::TokenizeItem) -> String {
        let answer: v1::TokenizeResponse = self.must(raw, &data("Tokenize"), &tokenize(header(), item)).await;
        answer.result.unwrap().token
    }

    async fn every_verb(&mut self, raw: &Raw) {
        let mut stored = Vec::new();
        for format in ["", "random", "mixed", "opaque", "fresh", "own"] {
            for card in self.cards(30) {
                let written = match stored.len() % 3 {
                    0 => card.clone(),
                    1 => grouped(&card, " "),
                    _ => grouped(&card, "-"),
                };
                let customer_reference = format!("customer-{}", stored.len() % 7);
                let context = Some(v1::Context { customer_reference, ..v1::Context::default() });
                let item = v1::TokenizeItem { format: format.to_owned(), context, ..plain(&written) };
                stored.push((self.stored(raw, item).await, card));
            }
        }
        let cards = self.cards(BATCH);
        let items = cards.iter().map(|card| plain(card)).collect();
        let batch = v1::BatchTokenizeRequest { header: Some(header()), items };
        let answer: v1::BatchTokenizeResponse = self.must(raw, &data("BatchTokenize"), &batch).await;
        for (outcome, card) in answer.outcomes.into_iter().zip(cards) {
            match outcome.outcome.unwrap() {
                v1::tokenize_outcome::Outcome::Result(result) => stored.push((result.token, card)),
                v1::tokenize_outcome::Outcome::Error(e) => panic!("{}", e.message),
            }
        }
        for (at, (token, card)) in stored.iter().enumerate().step_by(3) {
            self.paid(raw, token, card).await;
            let message = v1::DetokenizeRequest { header: Some(header()), item: Some(ask::masked(token)) };
            let _: v1::DetokenizeResponse = self.must(raw, &data("Detokenize"), &message).await;
            let message = v1::InspectRequest { header: Some(header()), item: Some(ask::look(token)) };
            let _: v1::InspectResponse = self.must(raw, &data("Inspect"), &message).await;
            let ended = if at % 2 == 0 { ask::end(token) } else { ask::end_on(token, "web") };
            let message = v1::RevokeRequest { header: Some(header()), item: Some(ended) };
            let _: v1::RevokeResponse = self.must(raw, &data("Revoke"), &message).await;
            let message = v1::DetokenizeRequest { header: Some(header()), item: Some(ask::plain(token)) };
            self.refused(raw, &data("Detokenize"), &message).await;
        }
        let left: Vec<_> =
            stored.iter().enumerate().filter(|(at, _)| at % 3 != 0).map(|(_, pair)| pair).collect();
        let items: Vec<_> = left.iter().map(|(token, _)| ask::plain(token)).collect();
        let purpose = v1::RequestHeader { purpose: DISPUTE, ..header() };
        let told = v1::BatchDetokenizeRequest { header: Some(purpose), items: items.clone() };
        let told: v1::BatchDetokenizeResponse = self.must(raw, &data("BatchDetokenize"), &told).await;
        assert!(
            told.outcomes
                .iter()
                .all(|o| matches!(o.outcome, Some(v1::detokenize_outcome::Outcome::Error(_))))
        );
        let message = v1::BatchDetokenizeRequest { header: Some(header()), items };
        let told = hearing::ask(raw, Ask::of(&data("BatchDetokenize"), &message)).await;
        let answer: v1::BatchDetokenizeResponse = told.answer().unwrap();
        for (outcome, (_, card)) in answer.outcomes.into_iter().zip(&left) {
            let Some(v1::detokenize_outcome::Outcome::Result(result)) = outcome.outcome else {
                panic!("a card")
            };
            assert_eq!(ask::pan(result).unwrap().as_slice(), card.as_bytes());
        }
        let items = left.iter().map(|(token, _)| ask::look(token)).collect();
        let message = v1::BatchInspectRequest { header: Some(header()), items };
        let _: v1::BatchInspectResponse = self.must(raw, &data("BatchInspect"), &message).await;
        let items = left.iter().map(|(token, _)| ask::end(token)).collect();
        let message = v1::BatchRevokeRequest { header: Some(header()), items };
        let _: v1::BatchRevokeResponse = self.must(raw, &data("BatchRevoke"), &message).await;
    }

    /// Cards that come sealed and go out sealed, and sealed ones that hold no card, or are not for this channel.
    async fn sealed_both_ways(&mut self, raw: &Raw) {
        let asked = v1::GetSealingKeyRequest { merchant: "canary".to_owned(), channel: "web".to_owned() };
        let answer: v1::GetSealingKeyResponse = self.must(raw, &data("GetSealingKey"), &asked).await;
        let key = answer.key.unwrap();
        let public = PublicKey::parse(&key.public_key).unwrap();
        let seal = |info: &[u8], plain: String| {
            let made = public.seal(info, plain.as_bytes()).unwrap();
            let (key_id, enc) = (key.key_id.clone(), made.enc.to_vec());
            ask::sealed_card(v1::SealedCard { key_id, enc, ciphertext: made.ciphertext })
        };
        for card in self.cards(60) {
            let plain = format!("{{\"v\":1,\"pan\":\"{card}\"}}");
            let token = self.stored(raw, seal(&key.info, plain.clone())).await;
            let wanted = ask::sealed_to(&token, "bank");
            let message = v1::DetokenizeRequest { header: Some(header()), item: Some(wanted) };
            let answer: v1::DetokenizeResponse = self.must(raw, &data("Detokenize"), &message).await;
            let Some(v1::detokenize_result::Reveal::SealedToRecipient(sealed)) =
                answer.result.unwrap().reveal
            else {
                panic!("a sealed card")
            };
            assert_eq!(opened(&sealed), card);
            for (info, plain) in [
                (key.info.as_slice(), format!("{{\"v\":1,\"pan\":\"{card}x\"}}")),
                (key.info.as_slice(), card.clone()),
                (key.info.as_slice(), format!("{{\"v\":1,\"pan\":\"{card}\",\"not_after\":1}}")),
                (b"elsewhere".as_slice(), plain.clone()),
            ] {
                self.refused(raw, &data("Tokenize"), &tokenize(header(), seal(info, plain))).await;
            }
        }
        let cards = self.cards(BATCH);
        let items =
            cards.iter().map(|card| seal(&key.info, format!("{{\"v\":1,\"pan\":\"{card}\"}}"))).collect();
        let batch = v1::BatchTokenizeRequest { header: Some(header()), items };
        let answer: v1::BatchTokenizeResponse = self.must(raw, &data("BatchTokenize"), &batch).await;
        let done =
            |o: &v1::TokenizeOutcome| matches!(o.outcome, Some(v1::tokenize_outcome::Outcome::Result(_)));
        assert!(answer.outcomes.iter().all(done));
    }

    /// A card comes back: the one answer that holds a number, and so is not kept.
    async fn paid(&mut self, raw: &Raw, token: &str, card: &str) {
        let message = v1::DetokenizeRequest { header: Some(header()), item: Some(ask::plain(token)) };
        let told = hearing::ask(raw, Ask::of(&data("Detokenize"), &message)).await;
        let answer: v1::DetokenizeResponse = told.answer().unwrap();
        assert_eq!(ask::pan(answer.result.unwrap()).unwrap().as_slice(), card.as_bytes());
    }

    /// Many requests on one connection at the same time, so that they take turns on all threads.
    async fn many_at_once(&mut self, raw: &Raw) {
        for _ in 0..12 {
            let cards = self.cards(AT_ONCE);
            let calls = cards.iter().map(|card| async move {
                let told =
                    hearing::ask(raw, Ask::of(&data("Tokenize"), &tokenize(header(), plain(card)))).await;
                let answer: v1::TokenizeResponse = told.answer().unwrap();
                let item = Some(ask::plain(&answer.result.unwrap().token));
                let message = v1::DetokenizeRequest { header: Some(header()), item };
                let back = hearing::ask(raw, Ask::of(&data("Detokenize"), &message)).await;
                let back: v1::DetokenizeResponse = back.answer().unwrap();
                assert_eq!(ask::pan(back.result.unwrap()).unwrap().as_slice(), card.as_bytes());
                told
            });
            for told in all(calls).await {
                self.keep(told);
            }
        }
    }

    async fn streams(&mut self, raw: &Raw) {
        let framed_card = |card: &String| {
            let item = Some(v1::TokenizeItem { reference: card[card.len() - 4..].to_owned(), ..plain(card) });
            framed(&v1::StreamTokenizeRequest { header: Some(header()), item }.encode_to_vec())
        };
        let cards = self.cards(200);
        let ask = |body| Ask { path: data("StreamTokenize"), body, ..Ask::default() };
        let told = self.send(raw, ask(cards.iter().map(framed_card).collect())).await;
        let tokens: Vec<String> = told
            .messages
            .iter()
            .map(|m| match v1::StreamTokenizeResponse::decode(m.as_slice()).unwrap().outcome.unwrap() {
                v1::stream_tokenize_response::Outcome::Result(result) => result.token,
                v1::stream_tokenize_response::Outcome::Error(e) => panic!("{}", e.message),
            })
            .collect();
        assert_eq!(tokens.len(), cards.len());
        let framed_token = |token: &String| {
            let item = Some(ask::plain(token));
            framed(&v1::StreamDetokenizeRequest { header: Some(header()), item }.encode_to_vec())
        };
        let back = Ask {
            path: data("StreamDetokenize"),
            body: tokens.iter().map(framed_token).collect(),
            ..Ask::default()
        };
        assert_eq!(hearing::ask(raw, back).await.messages.len(), cards.len());
        // One that is cancelled with much under way, and one that breaks off in the middle of a message.
        let body: Vec<_> = self.cards(100).iter().map(framed_card).collect();
        let half = body[..10].concat();
        self.send(raw, Ask { cancel: true, ..ask(body) }).await;
        self.send(raw, ask(vec![half[..half.len() - 20].to_vec()])).await;
    }

    /// The same request again, with the same body and with another; the same at once.
    async fn retries(&mut self, raw: &Raw) {
        for card in self.cards(40) {
            let message = tokenize(header(), plain(&card));
            let first: v1::TokenizeResponse = self.must(raw, &data("Tokenize"), &message).await;
            let again: v1::TokenizeResponse = self.must(raw, &data("Tokenize"), &message).await;
            assert_eq!(first.result.unwrap().token, again.result.unwrap().token);
            let other = v1::TokenizeRequest { item: Some(plain(&self.card())), ..message.clone() };
            self.refused(raw, &data("Tokenize"), &other).await;
        }
        let items: Vec<_> = self.cards(60).iter().map(|card| plain(card)).collect();
        let batch = v1::BatchTokenizeRequest { header: Some(header()), items };
        let at_once = all((0..6).map(|_| hearing::ask(raw, Ask::of(&data("BatchTokenize"), &batch)))).await;
        at_once.into_iter().for_each(|told| drop(self.keep(told)));
    }

    /// More cards of one BIN and last four than may be tried in a day.
    async fn over_budget(&mut self, raw: &Raw) {
        for last in ["6113", "0027", "9402"] {
            let cards: Vec<_> = (0..10).map(|_| self.breeder.card_like("402917", 16, last)).collect();
            for card in &cards {
                self.send(raw, Ask::of(&data("Tokenize"), &tokenize(header(), plain(card)))).await;
            }
            let items = cards.iter().map(|card| plain(card)).collect();
            let batch = v1::BatchTokenizeRequest { header: Some(header()), items };
            self.refused(raw, &data("BatchTokenize"), &batch).await;
        }
    }

    /// Cards that are none: mistyped, too long, with letters, from a magnetic stripe, in wide digits, in another coding.
    async fn misshapen_cards(&mut self, raw: &Raw) {
        let mut wrong: Vec<Vec<u8>> = Vec::new();
        for length in 14..=19 {
            (0..8).for_each(|_| wrong.push(self.breeder.mistyped(length).into_bytes()));
        }
        for card in self.cards(60) {
            let wide = card.chars().map(|c| char::from_u32(0xFF10 + c.to_digit(10).unwrap()).unwrap());
            let number: u64 = card.parse().unwrap();
            wrong.extend([
                format!("{card}0{card}").into_bytes(),
                format!("{card}x").into_bytes(),
                format!(" {card} ").into_bytes(),
                grouped(&card, "  ").into_bytes(),
                grouped(&card, ".").into_bytes(),
                format!("%B{card}^DOE/J^3107").into_bytes(),
                format!(";{card}=3107").into_bytes(),
                wide.collect::<String>().into_bytes(),
                card.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                card.encode_utf16().flat_map(u16::to_be_bytes).collect(),
                number.to_be_bytes().to_vec(),
                number.to_le_bytes().to_vec(),
                card.bytes().map(|b| b - b'0').collect(),
                BASE64.encode(card.as_bytes()).into_bytes(),
                card.repeat(1_000).into_bytes(),
            ]);
        }
        for pan in &wrong {
            self.refused(raw, &data("Tokenize"), &tokenize(header(), written(pan))).await;
        }
        let items = wrong.iter().filter(|w| w.len() < 100).map(|w| written(w)).collect();
        let batch = v1::BatchTokenizeRequest { header: Some(header()), items };
        let _: v1::BatchTokenizeResponse = self.must(raw, &data("BatchTokenize"), &batch).await;
    }

    /// A card number in every field of a header.
    async fn wrong_header_fields(&mut self, raw: &Raw) {
        let good = self.card();
        let token = self.stored(raw, plain(&good)).await;
        let fields: [fn(&mut v1::RequestHeader, String); 6] = [
            |h, card| h.merchant = card,
            |h, card| h.channel = card,
            |h, card| h.request_id = card,
            |h, card| h.context.get_or_insert_default().customer_reference = card,
            |h, card| h.context.get_or_insert_default().session = card,
            |h, card| h.context.get_or_insert_default().client_address = card,
        ];
        for put in fields {
            for (at, card) in self.cards(8).into_iter().enumerate() {
                let mut header = header();
                put(&mut header, if at % 2 == 0 { card } else { grouped(&card, " ") });
                let header = Some(header);
                let message = v1::TokenizeRequest { header: header.clone(), item: Some(plain(&good)) };
                self.refused(raw, &data("Tokenize"), &message).await;
                let message =
                    v1::DetokenizeRequest { header: header.clone(), item: Some(ask::plain(&token)) };
                self.refused(raw, &data("Detokenize"), &message).await;
                let message = v1::InspectRequest { header: header.clone(), item: Some(ask::look(&token)) };
                self.refused(raw, &data("Inspect"), &message).await;
                let message = v1::RevokeRequest { header: header.clone(), item: Some(ask::end(&token)) };
                self.refused(raw, &data("Revoke"), &message).await;
                let message = v1::BatchInspectRequest { header, items: vec![ask::look(&token)] };
                self.refused(raw, &data("BatchInspect"), &message).await;
            }
        }
    }

    /// A card number in every field of an item that is not for one.
    async fn wrong_item_fields(&mut self, raw: &Raw) {
        let good = self.card();
        let fields: [fn(&mut v1::TokenizeItem, String); 7] = [
            |i, card| i.reference = card,
            |i, card| i.format = card,
            |i, card| i.channels.push(card),
            |i, card| i.context.get_or_insert_default().customer_reference = card,
            |i, card| i.context.get_or_insert_default().session = card,
            |i, card| {
                let sealed = v1::SealedCard { key_id: card, enc: vec![1; 32], ciphertext: vec![2; 32] };
                i.card = Some(v1::tokenize_item::Card::Sealed(sealed));
            },
            |i, card| {
                let (enc, ciphertext) = (card.clone().into_bytes(), card.into_bytes());
                let sealed = v1::SealedCard { key_id: "k".to_owned(), enc, ciphertext };
                i.card = Some(v1::tokenize_item::Card::Sealed(sealed));
            },
        ];
        for put in fields {
            for card in self.cards(8) {
                let mut item = plain(&good);
                put(&mut item, card);
                self.refused(raw, &data("Tokenize"), &tokenize(header(), item.clone())).await;
                let echoed = !item.reference.is_empty();
                let items = vec![item, plain(&good)];
                let batch = v1::BatchTokenizeRequest { header: Some(header()), items };
                let told = hearing::ask(raw, Ask::of(&data("BatchTokenize"), &batch)).await;
                // A reference comes back as it was sent, to who sent it: so it finds its item.
                if !echoed {
                    self.keep(told);
                }
            }
        }
    }

    /// A card number where a token should be, or what goes with one.
    async fn wrong_tokens(&mut self, raw: &Raw) {
        let good = self.card();
        let token = self.stored(raw, plain(&good)).await;
        for card in self.cards(20) {
            let shapes = [
                card.clone(),
                grouped(&card, "-"),
                grouped(&card, " "),
                format!("tok_{card}"),
                format!("{card}a"),
            ];
            for text in shapes {
                let message = v1::DetokenizeRequest { header: Some(header()), item: Some(ask::plain(&text)) };
                self.refused(raw, &data("Detokenize"), &message).await;
                let message = v1::InspectRequest { header: Some(header()), item: Some(ask::look(&text)) };
                self.refused(raw, &data("Inspect"), &message).await;
                let message = v1::RevokeRequest { header: Some(header()), item: Some(ask::end(&text)) };
                self.refused(raw, &data("Revoke"), &message).await;
            }
            let item = ask::sealed_to(&token, &card);
            self.refused(
                raw,
                &data("Detokenize"),
                &v1::DetokenizeRequest { header: Some(header()), item: Some(item) },
            )
            .await;
            let item = v1::DetokenizeItem { recipient: card.clone(), ..ask::plain(&token) };
            let message = v1::DetokenizeRequest { header: Some(header()), item: Some(item) };
            self.refused(raw, &data("Detokenize"), &message).await;
            let message =
                v1::RevokeRequest { header: Some(header()), item: Some(ask::end_on(&token, &card)) };
            self.refused(raw, &data("Revoke"), &message).await;
            let items = vec![ask::look(&card), ask::look(&token)];
            let message = v1::BatchInspectRequest { header: Some(header()), items };
            let _: v1::BatchInspectResponse = self.must(raw, &data("BatchInspect"), &message).await;
        }
    }

    /// A card number in the transport's own fields.
    async fn wrong_metadata(&mut self, raw: &Raw) {
        for card in self.cards(20) {
            let good = || Ask::of(&data("Inspect"), &v1::InspectRequest::default());
            let asks = [
                good().with("x-card", &card),
                good().with("x-card-bin", BASE64.encode(card.as_bytes())),
                good().with(&format!("x-{card}"), "1"),
                good().with("user-agent", format!("till/{card}")),
                good().with("grpc-timeout", format!("{card}n")),
                good().with("grpc-encoding", &card),
                good().with("grpc-accept-encoding", &card),
                good().with("content-type", format!("application/{card}")),
                good().with("authorization", format!("Bearer {card}")),
                good().with("cookie", format!("card={card}")),
                Ask { path: data(&card), ..good() },
                Ask { path: format!("/{card}?{card}"), ..good() },
                good().with("x-many", card.repeat(2_000)),
            ];
            for ask in asks {
                self.send(raw, ask).await;
            }
        }
    }

    /// Protobuf that is none, with a card number in it.
    async fn broken_messages(&mut self, teller: &ClientConfig) {
        let methods = ["Tokenize", "BatchTokenize", "StreamTokenize", "Detokenize", "Inspect", "Revoke"];
        let prefix =
            |flag: u8, length: usize| [&[flag][..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
        for method in methods {
            let raw = self.dialled(self.rig.data(), teller.clone()).await;
            for card in self.cards(10) {
                let good = tokenize(header(), plain(&card)).encode_to_vec();
                let length = u8::try_from(card.len()).unwrap();
                let bodies = [
                    // Cut off; announced longer than it is; announced far too long; compressed, or so it says.
                    framed(&good[..good.len() - 3]),
                    [prefix(0, good.len() + 50), good.clone()].concat(),
                    [prefix(0, usize::try_from(u32::MAX).unwrap()), good.clone()].concat(),
                    [prefix(1, good.len()), good.clone()].concat(),
                    [prefix(7, good.len()), good.clone()].concat(),
                    // No message at all; two of them; one with a tail.
                    Vec::new(),
                    [framed(&good), framed(&good)].concat(),
                    [framed(&good), card.clone().into_bytes()].concat(),
                    // Digits alone; a field of another type; an unknown field; text that is no UTF-8; an endless group.
                    card.clone().into_bytes(),
                    framed(card.as_bytes()),
                    framed(&[&[0x12, length + 2, 0x18, length], card.as_bytes()].concat()),
                    framed(&[&[0xFA, 0x7F, length], card.as_bytes(), &good].concat()),
                    framed(&[&[0x12, length + 3, 0x0A, length + 1, 0xFF], card.as_bytes()].concat()),
                    framed(&[&[0x13; 300], card.as_bytes()].concat()),
                ];
                for body in bodies {
                    self.send(&raw, Ask::raw(&data(method), body)).await;
                }
            }
            close(raw).await;
        }
    }

    /// Batches and messages over the limit.
    async fn too_much(&mut self, teller: &ClientConfig) {
        let raw = self.dialled(self.rig.data(), teller.clone()).await;
        let cards = self.cards(200);
        let items: Vec<_> = (0..1_001).map(|at| plain(&cards[at % cards.len()])).collect();
        let batch = v1::BatchTokenizeRequest { header: Some(header()), items };
        self.refused(&raw, &data("BatchTokenize"), &batch).await;
        let empty = v1::BatchTokenizeRequest { header: Some(header()), items: Vec::new() };
        self.refused(&raw, &data("BatchTokenize"), &empty).await;
        let many = cards.concat().repeat(400);
        for method in ["BatchTokenize", "Detokenize", "StreamTokenize"] {
            self.send(&raw, Ask::raw(&data(method), framed(many.as_bytes()))).await;
            self.send(&raw, Ask::raw(&data(method), many.clone().into_bytes())).await;
        }
        close(raw).await;
    }

    /// Requests whose caller goes away, at many moments.
    async fn cut_short(&mut self, teller: &ClientConfig) {
        let at = self.rig.data();
        for round in 0..20_u64 {
            let raw = self.dialled(at, teller.clone()).await;
            let items: Vec<_> = self.cards(20).iter().map(|card| plain(card)).collect();
            let batch = v1::BatchTokenizeRequest { header: Some(header()), items };
            // Past its deadline before, while and after it is worked on.
            let timeout = ["1n", "100u", "1m", "3m", "10m"][usize::try_from(round).unwrap() % 5];
            self.send(&raw, Ask::of(&data("BatchTokenize"), &batch).with("grpc-timeout", timeout)).await;
            self.send(&raw, Ask { cancel: true, ..Ask::of(&data("BatchTokenize"), &batch) }).await;
            // Half a message, and then nobody is there any more.
            let whole = framed(&batch.encode_to_vec());
            let half = Ask::raw(&data("BatchTokenize"), whole[..whole.len() / 2].to_vec());
            let gone = tokio::time::timeout(
                Duration::from_millis(round),
                hearing::ask(&raw, Ask { cancel: true, ..half }),
            );
            let _gone = gone.await;
            close(raw).await;
        }
        // Inside TLS, but no HTTP/2.
        for card in self.cards(10) {
            let mut stream = dial(at, teller.clone()).await.unwrap();
            let text = format!("GET /{card} HTTP/1.1\r\nhost: {card}\r\n\r\n{card}");
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Callers who may not: known to no policy, of another merchant, without the right, named like a card.
    async fn refused_callers(&mut self) {
        let callers =
            [("stranger", "canary"), ("shop", "canary"), ("marketing", "acme"), ("other-shop", "acme")];
        for (name, merchant) in callers {
            let raw = Raw::connect(self.rig, name).await;
            for card in self.cards(20) {
                let header = v1::RequestHeader { merchant: merchant.to_owned(), ..header() };
                self.refused(&raw, &data("Tokenize"), &tokenize(header.clone(), plain(&card))).await;
                let message =
                    v1::DetokenizeRequest { header: Some(header.clone()), item: Some(ask::plain(&card)) };
                self.refused(&raw, &data("Detokenize"), &message).await;
                let batch = v1::BatchTokenizeRequest { header: Some(header), items: vec![plain(&card); 3] };
                self.refused(&raw, &data("BatchTokenize"), &batch).await;
            }
            close(raw).await;
        }
        let reader = self.dialled(self.rig.data(), self.papers("reader")).await;
        for card in self.cards(10) {
            self.refused(&reader, &data("Tokenize"), &tokenize(header(), plain(&card))).await;
        }
        close(reader).await;
        for card in self.cards(10) {
            // Turned away at the door, which TLS 1.3 tells only after the first request may have been sent.
            let raw = self.dialled(self.rig.data(), self.papers(&card)).await;
            let told = self.send(&raw, Ask::of(&data("Tokenize"), &tokenize(header(), plain(&card)))).await;
            assert!(told.code != Some(0), "a certificate in a card's name was taken");
            close(raw).await;
        }
    }

    /// Card numbers shouted at ports: without TLS, in a server's name, at the metrics page.
    async fn other_doors(&mut self) {
        let (rig, page) = (self.rig, page(self.rig));
        for card in self.cards(10) {
            for at in [rig.data(), rig.admin()] {
                let heard =
                    shout(at, format!("POST /{card} HTTP/1.1\r\nx: {card}\r\n\r\n{card}").as_bytes()).await;
                self.heard.extend(heard);
                let name = ServerName::try_from(format!("c{card}.example")).unwrap();
                let tcp = TcpStream::connect(at).await.unwrap();
                let _refused = TlsConnector::from(Arc::new(self.papers("teller"))).connect(name, tcp).await;
            }
            let lines = format!("host: {card}\r\nx-card: {card}\r\nconnection: close");
            let heard =
                shout(page, format!("GET /{card}?{card} HTTP/1.1\r\n{lines}\r\n\r\n").as_bytes()).await;
            self.heard.extend(heard);
        }
    }

    /// Card numbers in what operators send.
    async fn operators_plane(&mut self) {
        let olga = config(self.rig, NEW_TLS, Some(&papers(self.rig, "olga")));
        let olga = self.dialled(self.rig.admin(), olga).await;
        let told: v1::GetPolicyResponse =
            self.must(&olga, &admin("GetPolicy"), &v1::GetPolicyRequest {}).await;
        let (policy, epoch) = (told.toml, told.epoch);
        for card in self.cards(15) {
            self.operators_changes(&olga, &card).await;
            self.operators_policies(&olga, (&policy, epoch), &card).await;
            let word = || card.clone();
            let list = v1::ListAuditEntriesRequest { page_token: word(), ..Default::default() };
            self.refused(&olga, &admin("ListAuditEntries"), &list).await;
            let list = v1::ListAuditEntriesRequest {
                principal: word(),
                merchant: word(),
                log: word(),
                ..Default::default()
            };
            self.send(&olga, Ask::of(&admin("ListAuditEntries"), &list)).await;
            let explain = v1::ExplainPolicyRequest {
                principal: word(),
                merchant: word(),
                channel: word(),
                token: word(),
                recipient: word(),
                action: 1,
                purpose: 1,
                initiator: 1,
                form: 1,
            };
            self.send(&olga, Ask::of(&admin("ExplainPolicy"), &explain)).await;
            let receipt =
                Some(v1::Receipt { log: word(), leaf_hash: word().into_bytes(), ..Default::default() });
            self.send(&olga, Ask::of(&admin("ProveReceipt"), &v1::ProveReceiptRequest { receipt })).await;
            self.send(&olga, Ask::of(&admin("VerifyLog"), &v1::VerifyLogRequest { log: word() })).await;
            self.send(&olga, Ask::of(&admin(&card), &v1::GetStatusRequest {}).with("x-card", &card)).await;
        }
        // A comment is no part of a policy: it is taken, and forgotten.
        let toml = format!("# {}\n{policy}", self.card());
        let apply = v1::ApplyPolicyRequest { header: Some(ask::change(Some(epoch))), toml };
        let _: v1::ApplyPolicyResponse = self.must(&olga, &admin("ApplyPolicy"), &apply).await;
        close(olga).await;
    }

    async fn operators_changes(&mut self, olga: &Raw, card: &str) {
        let header = || Some(ask::change(None));
        let lock = |target, note| v1::SetLockRequest {
            header: header(),
            target: Some(v1::LockTarget { target: Some(target) }),
            reason: v1::LockReason::Drill.into(),
            note,
        };
        let merchant = v1::lock_target::Target::Merchant(card.to_owned());
        self.refused(olga, &admin("SetLock"), &lock(merchant, String::new())).await;
        let shop = v1::lock_target::Target::Principal("shop".to_owned());
        self.refused(olga, &admin("SetLock"), &lock(shop, format!("seen with {}", grouped(card, " ")))).await;
        let rotate = |header, merchant: &str| v1::RotateKeyRequest {
            header,
            kind: v1::KeyKind::Dek.into(),
            merchant: merchant.to_owned(),
            ..v1::RotateKeyRequest::default()
        };
        self.refused(olga, &admin("RotateKey"), &rotate(header(), card)).await;
        let named = v1::ChangeHeader { request_id: card.to_owned(), expected_epoch: None };
        self.refused(olga, &admin("RotateKey"), &rotate(Some(named), "canary")).await;
        let lift = v1::LiftLockRequest { header: header(), lockdown: 99, note: card.to_owned() };
        self.refused(olga, &admin("LiftLock"), &lift).await;
    }

    /// Policies with a card number where a name, a word or a number should be. None of them is taken.
    async fn operators_policies(&mut self, olga: &Raw, (policy, epoch): (&str, u64), card: &str) {
        let more = [
            format!("[[merchant]]\nid = \"{card}\"\n"),
            format!("[[rule]]\nid = \"x\"\neffect = \"{card}\"\n"),
            format!("{card} = {card}\n"),
            format!("[[rule]]\n\"{card}\" = 1\n"),
            format!("[[operator]]\nid = \"x\"\nauthority = \"operators\"\nname = \"{card}\"\n"),
            format!("[[authority]]\nid = \"x\"\nsha256 = \"{card}\"\n"),
            format!("[[rule]]\nid = \"x\"\nmerchant = {card}\nactions = [\"{card}\"]\n"),
            format!("= {card}"),
            format!("[[merchant]]\nid = \"x\"\nmask = {{ \"{card}\" = \"6+4\" }}\n"),
            format!("[[merchant]]\nid = \"x\"\nmask = {{ 16 = \"{card}\" }}\n"),
            format!(
                "[[merchant]]\nid = \"x\"\n[[merchant.format]]\nid = \"y\"\nscheme = \"random\"\nkeep = {{ {card} = \"6+4\" }}\n"
            ),
            format!(
                "[[merchant]]\nid = \"x\"\n[[merchant.format]]\nid = \"y\"\nscheme = \"random\"\nkeep = {{ 16 = \"{card}\" }}\n"
            ),
        ];
        for more in more {
            let toml = || format!("{policy}\n{more}");
            self.send(olga, Ask::of(&admin("CheckPolicy"), &v1::CheckPolicyRequest { toml: toml() })).await;
            self.send(olga, Ask::of(&admin("DiffPolicy"), &v1::DiffPolicyRequest { toml: toml() })).await;
            let apply = v1::ApplyPolicyRequest { header: Some(ask::change(Some(epoch))), toml: toml() };
            let told = self.send(olga, Ask::of(&admin("ApplyPolicy"), &apply)).await;
            assert!(told.code != Some(0), "a policy was taken that should not be:\n{more}");
        }
    }
}

/// All of them at once.
async fn all<F: Future>(calls: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut calls: Vec<_> = calls.into_iter().map(|call| (Box::pin(call), None)).collect();
    std::future::poll_fn(|cx| {
        let mut open = false;
        for (call, done) in calls.iter_mut().filter(|(_, done)| done.is_none()) {
            match call.as_mut().poll(cx) {
                std::task::Poll::Ready(output) => *done = Some(output),
                std::task::Poll::Pending => open = true,
            }
        }
        if open { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    calls.into_iter().map(|(_, done)| done.unwrap()).collect()
}
