//! What a command tells of an answer: words for people, JSON for programs, and the receipt.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::Serialize;
use vault_client::v1;
use zeroize::Zeroizing;

use crate::values::{PlainValue, ShownData};
use crate::wire::{self, ReceiptText, Shown};

/// What a command tells of one answer.
pub(super) struct Told {
    json: Answer,
    pub(super) words: Zeroizing<String>,
    pub(super) receipt: Option<ReceiptText>,
}

#[derive(Serialize)]
pub(super) struct Numbered {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<u64>,
    #[serde(flatten)]
    pub(super) told: Told,
}

impl Serialize for Told {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            answer: &'a Answer,
            receipt: &'a Option<ReceiptText>,
        }
        Whole { answer: &self.json, receipt: &self.receipt }.serialize(to)
    }
}

#[derive(Serialize)]
pub(super) struct Refused {
    pub(super) line: u64,
    pub(super) error: Why,
}

#[derive(Serialize)]
pub(super) struct Why {
    pub(super) reason: Option<&'static str>,
    pub(super) message: String,
}

/// The answers' JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Tokenized {
        token: String,
        format: String,
        valid_until: Option<String>,
        novelty: String,
        #[serde(flatten)]
        seen: Seen,
    },
    Plain {
        pan: Digits,
        card_expiry: Option<String>,
    },
    Other {
        data: PlainValue,
    },
    Masked {
        #[serde(flatten)]
        seen: Seen,
    },
    Sealed {
        key_id: String,
        enc: String,
        ciphertext: String,
    },
    Inspected(Box<Inspected>),
    Replaced {
        card: Shown,
        kept_until: Option<String>,
    },
    Held {
        ticket: String,
        held_until: Option<String>,
    },
    Code {
        code: Digits,
    },
    Completed {
        completed: bool,
    },
    Fingerprint {
        fingerprint: String,
    },
    Ended {
        tokens: u32,
    },
    Listed(Box<Listed>),
    Standing {
        state: String,
        channels: Vec<String>,
    },
}

#[derive(Serialize)]
struct Inspected {
    state: String,
    scheme: String,
    format: String,
    channels: Vec<String>,
    valid_until: Option<String>,
    created_at: Option<String>,
    #[serde(flatten)]
    seen: Seen,
    restrictions: Option<Restrictions>,
    attributes: Option<Attributes>,
    earlier: Vec<Earlier>,
}

#[derive(Serialize)]
struct Listed {
    record: String,
    state: String,
    channels: Vec<String>,
    valid_until: Option<String>,
    created_at: Option<String>,
    #[serde(flatten)]
    seen: Seen,
    restrictions: Option<Restrictions>,
}

#[derive(Serialize)]
struct Earlier {
    card: Shown,
    reason: String,
    replaced_at: Option<String>,
    kept_until: Option<String>,
}

#[derive(Serialize)]
struct Restrictions {
    purposes: Vec<String>,
    bound_to_customer: bool,
    single_use: bool,
}

#[derive(Serialize)]
struct Attributes {
    card_holder: String,
    billing_country: String,
    par: String,
    agreement: Option<Agreement>,
    network_transactions: BTreeMap<String, String>,
    processor_references: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Agreement {
    kind: String,
    consented_at: Option<String>,
}

impl Restrictions {
    fn of(told: v1::Restrictions) -> Self {
        Self {
            purposes: told.purposes.into_iter().map(wire::word::<v1::Purpose>).collect(),
            bound_to_customer: told.bound_to_customer,
            single_use: told.single_use,
        }
    }

    fn words(&self) -> String {
        let only = if self.purposes.is_empty() {
            String::new()
        } else {
            format!("  only for {}", self.purposes.join(","))
        };
        let bound = if self.bound_to_customer { "  bound to its customer" } else { "" };
        let once = if self.single_use { "  once" } else { "" };
        format!("{only}{bound}{once}")
    }
}

impl Earlier {
    fn of(told: v1::EarlierCard) -> Self {
        Self {
            card: Shown::of(told.card),
            reason: wire::word::<v1::ReplaceReason>(told.reason),
            replaced_at: wire::moment(told.replaced_at.as_ref()),
            kept_until: wire::moment(told.kept_until.as_ref()),
        }
    }
}

impl Attributes {
    fn of(told: v1::Attributes) -> Self {
        Self {
            card_holder: told.card_holder,
            billing_country: told.billing_country,
            par: told.par,
            agreement: told.agreement.map(|agreed| Agreement {
                kind: wire::word::<v1::AgreementType>(agreed.r#type),
                consented_at: wire::moment(agreed.consented_at.as_ref()),
            }),
            network_transactions: told.network_transactions.into_iter().collect(),
            processor_references: told.processor_references.into_iter().collect(),
        }
    }
}

/// What may be shown: of a card as `card`, of another value as `data`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Seen {
    Card(Shown),
    Data(ShownData),
}

impl Seen {
    fn of(card: Option<v1::MaskedCard>, data: Option<v1::MaskedData>) -> Self {
        match data {
            Some(data) => Self::Data(ShownData::of(data)),
            None => Self::Card(Shown::of(card)),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Card(card) => card.words(),
            Self::Data(data) => data.words(),
        }
    }
}

/// A card number on its way to a terminal.
struct Digits(Zeroizing<Vec<u8>>);

impl Digits {
    fn expose(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Serialize for Digits {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.expose())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "one form for all verbs: each takes its answer whole")]
impl Told {
    fn new(json: Answer, words: String, receipt: Option<&v1::Receipt>, heads: &[v1::Checkpoint]) -> Self {
        let receipt = receipt.and_then(|r| ReceiptText::of(r, heads));
        Self { json, words: Zeroizing::new(words), receipt }
    }

    pub(super) fn tokenized(answer: v1::TokenizeResult, heads: &[v1::Checkpoint]) -> Self {
        let seen = Seen::of(answer.card, answer.data);
        let novelty = wire::word::<v1::Novelty>(answer.novelty);
        let known = if novelty == "-" { String::new() } else { format!("  {novelty}") };
        let words = format!("{}  {}{known}", answer.token, seen.words());
        let valid_until = wire::moment(answer.valid_until.as_ref());
        let json =
            Answer::Tokenized { token: answer.token, format: answer.format, valid_until, novelty, seen };
        Self::new(json, words, answer.receipt.as_ref(), heads)
    }

    pub(super) fn detokenized(answer: v1::DetokenizeResult, heads: &[v1::Checkpoint]) -> Self {
        use v1::detokenize_result::Reveal;
        let receipt = answer.receipt;
        let (json, words) = match answer.reveal {
            Some(Reveal::Plain(mut card)) => {
                let card_expiry = wire::expiry(card.card_expiry.as_ref());
                let pan = Digits(card.take_pan());
                let words = format!("{}  {}", pan.expose(), card_expiry.as_deref().unwrap_or("-"));
                (Answer::Plain { pan, card_expiry }, words)
            }
            Some(Reveal::Data(data)) => Self::other(PlainValue::data(data)),
            Some(Reveal::NetworkToken(token)) => Self::other(PlainValue::network_token(token)),
            Some(Reveal::PaymentReference(reference)) => Self::other(PlainValue::reference(reference)),
            Some(Reveal::Masked(card)) => Self::masked(Seen::of(Some(card), None)),
            Some(Reveal::MaskedData(data)) => Self::masked(Seen::of(None, Some(data))),
            Some(Reveal::SealedToRecipient(card)) => {
                let (enc, ciphertext) = (BASE64.encode(&card.enc), BASE64.encode(&card.ciphertext));
                let words = format!("sealed to key {}  {enc}  {ciphertext}", card.key_id);
                (Answer::Sealed { key_id: card.key_id, enc, ciphertext }, words)
            }
            None => Self::masked(Seen::of(None, None)),
        };
        Self::new(json, words, receipt.as_ref(), heads)
    }

    fn other(data: PlainValue) -> (Answer, String) {
        let words = data.words();
        (Answer::Other { data }, words)
    }

    fn masked(seen: Seen) -> (Answer, String) {
        let words = seen.words();
        (Answer::Masked { seen }, words)
    }

    pub(super) fn inspected(answer: v1::InspectResult, heads: &[v1::Checkpoint]) -> Self {
        let inspected = Inspected {
            state: wire::word::<v1::TokenState>(answer.state),
            scheme: wire::word::<v1::TokenScheme>(answer.scheme),
            format: answer.format,
            channels: answer.channels,
            valid_until: wire::moment(answer.valid_until.as_ref()),
            created_at: wire::moment(answer.created_at.as_ref()),
            seen: Seen::of(answer.card, answer.data),
            restrictions: answer.restrictions.map(Restrictions::of),
            attributes: answer.attributes.map(Attributes::of),
            earlier: answer.earlier.into_iter().map(Earlier::of).collect(),
        };
        let narrowed = inspected.restrictions.as_ref().map_or_else(String::new, Restrictions::words);
        let until = inspected.valid_until.as_deref().map_or_else(String::new, |at| format!("  until {at}"));
        let words = format!(
            "{}  {}  {} {}  on {}{until}{narrowed}",
            inspected.seen.words(),
            inspected.state,
            inspected.scheme,
            inspected.format,
            some(&inspected.channels)
        );
        Self::new(Answer::Inspected(Box::new(inspected)), words, answer.receipt.as_ref(), heads)
    }

    pub(super) fn replaced(answer: v1::ReplaceResult, heads: &[v1::Checkpoint]) -> Self {
        let card = Shown::of(answer.card);
        let kept_until = wire::moment(answer.kept_until.as_ref());
        let words =
            format!("{}  the old one is kept until {}", card.words(), kept_until.as_deref().unwrap_or("-"));
        Self::new(Answer::Replaced { card, kept_until }, words, answer.receipt.as_ref(), heads)
    }

    pub(super) fn held(answer: v1::HoldSecurityCodeResult, heads: &[v1::Checkpoint]) -> Self {
        let held_until = wire::moment(answer.held_until.as_ref());
        let words = format!("{}  held until {}", answer.ticket, held_until.as_deref().unwrap_or("-"));
        Self::new(Answer::Held { ticket: answer.ticket, held_until }, words, answer.receipt.as_ref(), heads)
    }

    pub(super) fn code(answer: v1::ReadSecurityCodeResult, heads: &[v1::Checkpoint]) -> Self {
        let code = Digits(answer.code.map_or_else(Zeroizing::default, |mut code| code.take_digits()));
        let words = code.expose().to_owned();
        Self::new(Answer::Code { code }, words, answer.receipt.as_ref(), heads)
    }

    pub(super) fn completed(answer: v1::CompleteAuthorizationResult, heads: &[v1::Checkpoint]) -> Self {
        let words = "the security code is gone".to_owned();
        Self::new(Answer::Completed { completed: true }, words, answer.receipt.as_ref(), heads)
    }

    pub(super) fn fingerprinted(answer: v1::FingerprintResult, heads: &[v1::Checkpoint]) -> Self {
        let fingerprint = data_encoding::HEXLOWER.encode(&answer.fingerprint);
        let words = fingerprint.clone();
        Self::new(Answer::Fingerprint { fingerprint }, words, answer.receipt.as_ref(), heads)
    }

    pub(super) fn deleted(answer: v1::DeleteCardResult, heads: &[v1::Checkpoint]) -> Self {
        Self::ended(answer.tokens, answer.receipt.as_ref(), heads)
    }

    pub(super) fn ended(tokens: u32, receipt: Option<&v1::Receipt>, heads: &[v1::Checkpoint]) -> Self {
        let words = format!("{tokens} {} ended", if tokens == 1 { "token" } else { "tokens" });
        Self::new(Answer::Ended { tokens }, words, receipt, heads)
    }

    pub(super) fn listed(token: v1::SubjectToken, receipt: Option<&v1::Receipt>) -> Self {
        let listed = Listed {
            record: data_encoding::HEXLOWER.encode(&token.record),
            state: wire::word::<v1::TokenState>(token.state),
            channels: token.channels,
            valid_until: wire::moment(token.valid_until.as_ref()),
            created_at: wire::moment(token.created_at.as_ref()),
            seen: Seen::of(token.card, token.data),
            restrictions: token.restrictions.map(Restrictions::of),
        };
        let narrowed = listed.restrictions.as_ref().map_or_else(String::new, Restrictions::words);
        let on = some(&listed.channels);
        let words =
            format!("{}  {}  {}  on {on}{narrowed}", listed.record, listed.seen.words(), listed.state);
        Self::new(Answer::Listed(Box::new(listed)), words, receipt, &[])
    }

    pub(super) fn changed(answer: v1::ChangeResult, heads: &[v1::Checkpoint]) -> Self {
        let state = wire::word::<v1::TokenState>(answer.state);
        let words = format!("{state}  on {}", some(&answer.channels));
        let json = Answer::Standing { state, channels: answer.channels };
        Self::new(json, words, answer.receipt.as_ref(), heads)
    }

    pub(super) fn revoked(answer: v1::RevokeResult, heads: &[v1::Checkpoint]) -> Self {
        let state = wire::word::<v1::TokenState>(answer.state);
        let words = format!("{state}  on {}", some(&answer.channels));
        let json = Answer::Standing { state, channels: answer.channels };
        Self::new(json, words, answer.receipt.as_ref(), heads)
    }
}

fn some(names: &[String]) -> String {
    if names.is_empty() { "no channel".to_owned() } else { names.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(told: Told, line: Option<u64>) -> String {
        serde_json::to_string(&Numbered { line, told }).unwrap()
    }

    #[test]
    fn an_answer_is_told_for_people_and_for_programs() {
        let card = || {
            Some(v1::MaskedCard {
                masked_pan: "411111******1111".into(),
                last_four: "1111".into(),
                network: "visa".into(),
                card_expiry: Some(v1::CardExpiry { month: 3, year: 2029 }),
            })
        };
        let tokenized = || v1::TokenizeResult {
            token: "4111110000021111".into(),
            format: "cards".into(),
            card: card(),
            novelty: v1::Novelty::Reused.into(),
            ..v1::TokenizeResult::default()
        };
        assert_eq!(
            *Told::tokenized(tokenized(), &[]).words,
            "4111110000021111  411111******1111  visa  03/2029  reused"
        );
        assert_eq!(
            json(Told::tokenized(tokenized(), &[]), Some(2)),
            "{\"line\":2,\"token\":\"4111110000021111\",\"format\":\"cards\",\"valid_until\":null,\"novelty\":\"reused\",\
             \"card\":{\"masked_pan\":\"411111******1111\",\"last_four\":\"1111\",\"network\":\"visa\",\
             \"card_expiry\":\"03/2029\"},\"receipt\":null}"
        );
        let nothing = Told::inspected(v1::InspectResult { state: 2, ..v1::InspectResult::default() }, &[]);
        assert_eq!(*nothing.words, "-  -  -  expired  -   on no channel");
        let restricted = v1::InspectResult {
            state: 1,
            restrictions: Some(v1::Restrictions {
                purposes: vec![3],
                bound_to_customer: true,
                single_use: true,
            }),
            ..v1::InspectResult::default()
        };
        assert_eq!(
            *Told::inspected(restricted, &[]).words,
            "-  -  -  active  -   on no channel  only for refund  bound to its customer  once"
        );
        let deleted = |tokens| Told::deleted(v1::DeleteCardResult { tokens, receipt: None }, &[]);
        assert_eq!((&**deleted(1).words, &**deleted(2).words), ("1 token ended", "2 tokens ended"));
        let held = v1::HoldSecurityCodeResult {
            ticket: "code-0-aa".into(),
            ..v1::HoldSecurityCodeResult::default()
        };
        assert_eq!(*Told::held(held, &[]).words, "code-0-aa  held until -");
        let code = Some(v1::SecurityCode::new(b"123".to_vec()));
        let read = v1::ReadSecurityCodeResult { code, receipt: None };
        assert_eq!(json(Told::code(read, &[]), None), "{\"code\":\"123\",\"receipt\":null}");
        let print = v1::FingerprintResult { fingerprint: vec![0xab; 16], receipt: None };
        assert_eq!(*Told::fingerprinted(print, &[]).words, "ab".repeat(16));
        let listed =
            v1::SubjectToken { record: vec![1; 16], state: 5, card: card(), ..v1::SubjectToken::default() };
        assert_eq!(
            *Told::listed(listed, None).words,
            format!("{}  411111******1111  visa  03/2029  spent  on no channel", "01".repeat(16))
        );
        let changed = v1::ChangeResult { state: 4, channels: vec!["a".into()], receipt: None };
        assert_eq!(*Told::changed(changed, &[]).words, "disabled  on a");
        let revoked = v1::RevokeResult { state: 1, channels: vec!["a".into(), "b".into()], receipt: None };
        assert_eq!(*Told::revoked(revoked.clone(), &[]).words, "active  on a,b");
        assert_eq!(
            json(Told::revoked(revoked, &[]), None),
            "{\"state\":\"active\",\"channels\":[\"a\",\"b\"],\"receipt\":null}"
        );
    }
}
