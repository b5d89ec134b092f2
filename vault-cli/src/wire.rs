//! Between the contract's messages and what people write and read: words, moments, cards, receipts.
//!
//! The words are the policy's: lower case, with underscores. A receipt is told in the one form that the library has too,
//! so that `audit prove` and `audit check` take it from wherever it was kept.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Serialize};
use vault_client::v1;
use vault_core::audit::tree::Hash;

use crate::fail::Failure;

/// The version of a receipt's text, as the library writes it.
const RECEIPT_VERSION: u8 = 1;

/// A closed list of the contract, as words.
pub(crate) trait Words: Copy + Into<i32> + TryFrom<i32> + Send + Sync + 'static {
    /// Every word, in the order of the contract.
    const WORDS: &'static [&'static str];
    /// What stands before each of them in the contract.
    const PREFIX: &'static str;
    /// The contract's name of one.
    fn name(self) -> &'static str;
    /// The one of that name.
    fn of_name(name: &str) -> Option<Self>;

    /// The word; `-` for what is not told.
    fn word(self) -> String {
        let word = self.name().strip_prefix(Self::PREFIX).unwrap_or_default().to_ascii_lowercase();
        if word == "unspecified" { "-".to_owned() } else { word }
    }

    /// What a command line may say for it.
    fn parser() -> impl TypedValueParser<Value = Self> {
        PossibleValuesParser::new(Self::WORDS).try_map(|word| {
            Self::of_name(&format!("{}{}", Self::PREFIX, word.to_ascii_uppercase()))
                .ok_or("is none of the known words")
        })
    }
}

/// The word of a number on the wire; the number itself where a newer vault has a word that is not known here.
pub(crate) fn word<T: Words>(number: i32) -> String {
    T::try_from(number).map_or_else(|_| number.to_string(), T::word)
}

macro_rules! words {
    ($($name:ident $prefix:literal [$($word:literal),+ $(,)?];)+) => {
        $(impl Words for v1::$name {
            const WORDS: &'static [&'static str] = &[$($word),+];
            const PREFIX: &'static str = $prefix;
            fn name(self) -> &'static str {
                self.as_str_name()
            }
            fn of_name(name: &str) -> Option<Self> {
                Self::from_str_name(name)
            }
        })+

        #[cfg(test)]
        #[test]
        fn every_word_of_the_contract_and_no_other_can_be_said() {
            $({
                let listed: Vec<String> = (1..).map_while(|i| v1::$name::try_from(i).ok()).map(Words::word).collect();
                assert_eq!(listed, v1::$name::WORDS, stringify!($name));
                for word in v1::$name::WORDS {
                    let name = format!("{}{}", v1::$name::PREFIX, word.to_ascii_uppercase());
                    assert_eq!(v1::$name::of_name(&name).map(Words::word).as_deref(), Some(*word));
                }
            })+
        }
    };
}

words! {
    Purpose "PURPOSE_" [
        "authorization", "capture", "refund", "reversal", "dispute", "recurring", "instalment", "unscheduled",
        "fraud_check", "account_update", "network_token_provisioning", "settlement", "export",
    ];
    Initiator "INITIATOR_" ["cardholder", "merchant"];
    Action "ACTION_" [
        "tokenize", "detokenize", "inspect", "revoke", "disable", "enable", "update_attributes", "replace",
        "fingerprint", "list_by_subject", "delete_card", "erase_subject", "translate",
        "hold_code", "read_code", "upgrade", "complete_authorization",
    ];
    ReplaceReason "REPLACE_REASON_" [
        "renewed", "lost", "stolen", "damaged", "product_change", "account_update", "cardholder_choice",
    ];
    AgreementType "AGREEMENT_TYPE_" ["recurring", "instalment", "unscheduled", "card_on_file"];
    RevealForm "REVEAL_FORM_" ["plain", "sealed_to_recipient", "masked"];
    TokenScheme "TOKEN_SCHEME_" ["random", "mixed", "opaque", "ff1"];
    TokenSpaceState "TOKEN_SPACE_STATE_" ["roomy", "scarce", "nearly_full", "used_up"];
    TokenState "TOKEN_STATE_" ["active", "expired", "revoked", "disabled", "spent"];
    Novelty "NOVELTY_" ["created", "reused"];
    KeyKind "KEY_KIND_" [
        "root", "kek", "dek", "idx", "fpr", "trk", "ref", "idm", "rcv", "fpk", "ctl", "log", "adm", "esk",
    ];
    KeyRenewal "KEY_RENEWAL_" ["by_itself", "warned", "never"];
    KeyStanding "KEY_STANDING_" ["fresh", "due", "urgent", "over"];
    CompromiseReason "COMPROMISE_REASON_" [
        "stolen_copy", "memory_exposed", "custodian_exposed", "insider", "weakness", "suspected", "drill",
    ];
    KeyState "KEY_STATE_" ["active", "deactivated", "compromised", "destroyed"];
    LockReason "LOCK_REASON_" [
        "suspected_breach", "stolen_credential", "fraud", "maintenance", "offboarding", "legal_order", "drill",
    ];
    AuditOutcome "AUDIT_OUTCOME_" ["done", "redelivered", "refused"];
    DataKind "DATA_KIND_" [
        "card", "network_token", "reference", "iban", "us_account", "digits", "phone", "email", "bytes",
    ];
    Decision "DECISION_" ["allow", "deny"];
    Shown "SHOWN_" ["nothing", "last_four", "masked", "full", "sealed"];
    FindingSeverity "FINDING_SEVERITY_" ["error", "warning"];
}

/// A moment in RFC 3339, UTC; none where none is told.
pub(crate) fn moment(at: Option<&prost_types::Timestamp>) -> Option<String> {
    at.map(ToString::to_string)
}

/// A moment of this machine's clock in RFC 3339, to the second, UTC.
pub(crate) fn moment_of(at: vault_core::time::Timestamp) -> String {
    let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
    prost_types::Timestamp { seconds, nanos: 0 }.to_string()
}

/// Reads a moment in RFC 3339, or a date, which means its beginning in UTC.
pub(crate) fn parse_moment(text: &str) -> Result<prost_types::Timestamp, &'static str> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    // The type's own reading takes a missing zone for UTC; a person may mean another.
    let zoned = whole.ends_with(['Z', 'z']) || whole.get(19..).is_some_and(|rest| rest.contains(['+', '-']));
    let parsed = whole.parse().ok().filter(|_| zoned);
    parsed.ok_or("is no moment such as 2026-11-23T12:00:00Z, and no date such as 2026-11-23")
}

/// What may be shown of a card.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Shown {
    /// The mask, or nothing.
    masked_pan: String,
    /// The last four digits, or nothing.
    last_four: String,
    /// The network's id, or nothing.
    network: String,
    /// `MM/YYYY`.
    card_expiry: Option<String>,
}

impl Shown {
    /// As the vault told it.
    pub(crate) fn of(card: Option<v1::MaskedCard>) -> Self {
        let card = card.unwrap_or_default();
        Self {
            masked_pan: card.masked_pan,
            last_four: card.last_four,
            network: card.network,
            card_expiry: expiry(card.card_expiry.as_ref()),
        }
    }

    /// For people: mask, network, expiry; `-` for what is not shown.
    pub(crate) fn words(&self) -> String {
        let shown = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let mask = if self.masked_pan.is_empty() { &self.last_four } else { &self.masked_pan };
        let expiry = self.card_expiry.as_deref().unwrap_or_default();
        format!("{}  {}  {}", shown(mask), shown(&self.network), shown(expiry))
    }
}

/// A card's date as `MM/YYYY`.
pub(crate) fn expiry(expiry: Option<&v1::CardExpiry>) -> Option<String> {
    expiry.map(|e| format!("{:02}/{}", e.month, e.year))
}

/// A receipt as the library tells it: what `audit prove` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptText {
    version: u8,
    log: u32,
    index: u64,
    leaf: Hash,
    checkpoint: String,
}

impl ReceiptText {
    /// Of a receipt on the wire; its head is in it, or among `heads`. `None`: the vault left something out.
    pub(crate) fn of(receipt: &v1::Receipt, heads: &[v1::Checkpoint]) -> Option<Self> {
        let among = || heads.iter().find(|h| (&h.log, h.tree_size) == (&receipt.log, receipt.tree_size));
        let head = receipt.checkpoint.as_ref().or_else(among)?;
        Some(Self {
            version: RECEIPT_VERSION,
            log: log_number(&receipt.log)?,
            index: receipt.leaf_index,
            leaf: Hash(receipt.leaf_hash.as_slice().try_into().ok()?),
            checkpoint: head.note.clone(),
        })
    }

    /// Reads a kept receipt: by itself, or as `receipt` in the answer that it came with. What it says is not checked here.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            receipt: ReceiptText,
        }
        let read =
            serde_json::from_str(text).or_else(|_| serde_json::from_str(text).map(|a: Answer| a.receipt));
        read.ok().filter(|receipt: &Self| receipt.version == RECEIPT_VERSION).ok_or_else(|| {
            Failure::usage(
                "the file holds no receipt; keep one with `vaultctl --json token ...`, one answer per file",
            )
        })
    }

    /// As the wire has it.
    pub fn to_wire(&self) -> Result<v1::Receipt, Failure> {
        let mut lines = self.checkpoint.lines();
        let log = lines.next().unwrap_or_default().to_owned();
        let tree_size = lines.next().and_then(|size| size.parse().ok());
        let tree_size = tree_size.ok_or_else(|| Failure::usage("the receipt's checkpoint is damaged"))?;
        Ok(v1::Receipt {
            log,
            leaf_index: self.index,
            leaf_hash: self.leaf.0.to_vec(),
            tree_size,
            ..v1::Receipt::default()
        })
    }

    /// The receipt alone, as one line of JSON.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

/// A channel that was named as `MERCHANT/CHANNEL`, or by itself beside its merchant: merchant and channel.
pub(crate) fn place(channel: &str, merchant: Option<String>) -> Result<(String, String), Failure> {
    match (channel.split_once('/'), merchant) {
        (Some((merchant, channel)), None) => Ok((merchant.to_owned(), channel.to_owned())),
        (None, Some(merchant)) => Ok((merchant, channel.to_owned())),
        (None, None) | (Some(_), Some(_)) => {
            Err(Failure::usage("name the channel as MERCHANT/CHANNEL, or the channel alone with --merchant"))
        }
    }
}

/// A log's number: the last part of its origin.
pub(crate) fn log_number(origin: &str) -> Option<u32> {
    origin.rsplit('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_names_its_zone_or_is_a_date() {
        for (text, seconds) in [
            ("1970-01-02", Some(86_400)),
            ("1970-01-01T00:00:01Z", Some(1)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01T00:00:01", None),
            ("tomorrow", None),
            ("", None),
            ("2026-13-01", None),
        ] {
            assert_eq!(parse_moment(text).ok().map(|at| at.seconds), seconds, "{text}");
        }
    }

    #[test]
    fn a_receipt_is_kept_and_read_back_whole_with_its_head_in_it_or_beside_it() {
        let note = "pv1/00ff/3\n18\nroot\n\n\u{2014} signature\n";
        let head = v1::Checkpoint {
            log: "pv1/00ff/3".into(),
            tree_size: 18,
            note: note.into(),
            ..Default::default()
        };
        let bare = v1::Receipt {
            log: "pv1/00ff/3".into(),
            leaf_index: 17,
            leaf_hash: vec![7; 32],
            tree_size: 18,
            ..Default::default()
        };
        let full = v1::Receipt { checkpoint: Some(head.clone()), ..bare.clone() };
        let kept = ReceiptText::of(&full, &[]).unwrap();
        assert_eq!(ReceiptText::of(&bare, &[head]), Some(kept.clone()));
        assert_eq!(ReceiptText::of(&bare, &[]), None);
        for text in [kept.text(), format!("{{\"token\":\"x\",\"receipt\":{}}}", kept.text())] {
            assert_eq!(ReceiptText::parse(&text).unwrap(), kept);
        }
        assert_eq!(kept.to_wire().unwrap(), bare);
        assert!(ReceiptText::parse("{}").is_err());
        assert!(ReceiptText::parse(&kept.text().replace("\"version\":1", "\"version\":2")).is_err());
    }

    #[test]
    fn a_place_is_named_in_one_of_two_ways() {
        let s = |text: &str| text.to_owned();
        assert_eq!(place("shop/web", None).unwrap(), (s("shop"), s("web")));
        assert_eq!(place("web", Some(s("shop"))).unwrap(), (s("shop"), s("web")));
        assert!(place("web", None).is_err() && place("shop/web", Some(s("shop"))).is_err());
    }
}
