//! The closed lists of words that requests, policy and audit log share.
//!
//! Each word has a number that never changes on disk and a `snake_case` text that never changes in files and
//! logs. No list takes a word that it does not know, and an error never repeats the word it refused.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is none of the words of its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownWord;

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is not one of the known words")
    }
}

impl std::error::Error for UnknownWord {}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $id:literal $text:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$word_doc])* $word,)+
        }

        impl $name {
            /// Every word of the list, by ascending number.
            pub const ALL: &'static [Self] = &[$(Self::$word),+];

            /// The word's number on disk: never zero, never given to another word.
            #[must_use]
            pub const fn id(self) -> u8 {
                match self {
                    $(Self::$word => $id,)+
                }
            }

            /// The word with this number.
            #[must_use]
            pub const fn from_id(id: u8) -> Option<Self> {
                match id {
                    $($id => Some(Self::$word),)+
                    _ => None,
                }
            }

            /// The word as it stands in files, commands and logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)+
                }
            }

            /// The word with this text, exactly as [`as_str`](Self::as_str) gives it.
            pub fn parse(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or(UnknownWord)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                // The known words, never the refused one: it may be a card number in the wrong place.
                Self::parse(&text).map_err(|_| serde::de::Error::custom(concat!("is none of", $(" ", $text),+)))
            }
        }
    )+};
}

words! {
    /// What is asked of the vault. Numbers from 64 are an operator's; the gap is for later verbs.
    Action {
        /// A card number comes in, a token goes out.
        Tokenize = 1 "tokenize",
        /// A token comes in, the card number or a part of it goes out.
        Detokenize = 2 "detokenize",
        /// A token comes in; mask, brand, expiry and restrictions go out, never the card number.
        Inspect = 3 "inspect",
        /// A token stops working, on one channel or on all.
        Revoke = 4 "revoke",
        /// A token stops working for now.
        Disable = 5 "disable",
        /// A token that was disabled works again.
        Enable = 6 "enable",
        /// What is known around a card changes; neither its number nor its token does.
        UpdateAttributes = 7 "update_attributes",
        /// Another card takes the place of a token's card.
        Replace = 8 "replace",
        /// A card's public fingerprint is worked out.
        Fingerprint = 9 "fingerprint",
        /// The tokens of a customer are listed, without the tokens.
        ListBySubject = 10 "list_by_subject",
        /// Every token that a card has ends.
        DeleteCard = 11 "delete_card",
        /// Every token of a customer ends, and the customer's secret with them.
        EraseSubject = 12 "erase_subject",
        /// Cards are brought in from another merchant's tokens. Beside that, a translation takes the rights to detokenize
        /// and to tokenize.
        Translate = 13 "translate",
        /// A card's security code is held, in memory, to be read once.
        HoldCode = 14 "hold_code",
        /// A card's security code is read.
        ReadCode = 15 "read_code",
        /// A vaultless token of an old slot comes in, the one of the current slot for the same card goes out.
        Upgrade = 16 "upgrade",
        /// An authorization is over: its security code is dropped.
        CompleteAuthorization = 17 "complete_authorization",
        /// A new key takes over, or a key changes its state.
        RotateKey = 64 "rotate_key",
        /// A lock is put on.
        SetLock = 65 "set_lock",
        /// A lock is taken off.
        LiftLock = 66 "lift_lock",
        /// A policy file replaces the policy in force.
        ApplyPolicy = 67 "apply_policy",
        /// The audit log is read, exported or proven from.
        ReadAudit = 68 "read_audit",
        /// The list of keys and their states is read; never a key.
        ReadKeys = 69 "read_keys",
        /// The policy in force is read.
        ReadPolicy = 70 "read_policy",
        /// The list of locks is read.
        ReadLocks = 71 "read_locks",
        /// A request came whose certificate is no longer good; what it asked was not read.
        Connect = 72 "connect",
        /// The vault is sealed, or custody of a share is accepted.
        Custody = 80 "custody",
    }

    /// What a card is needed for. The closed list that rules are written over.
    Purpose {
        /// Ask the issuer to approve a payment.
        Authorization = 1 "authorization",
        /// Collect an approved payment.
        Capture = 2 "capture",
        /// Give money back after capture.
        Refund = 3 "refund",
        /// Undo an authorization before capture.
        Reversal = 4 "reversal",
        /// Answer a chargeback.
        Dispute = 5 "dispute",
        /// A merchant-initiated payment of a series of fixed interval.
        Recurring = 6 "recurring",
        /// One part of a single purchase that is paid in parts.
        Instalment = 7 "instalment",
        /// A merchant-initiated payment at no fixed time, such as a top-up.
        Unscheduled = 8 "unscheduled",
        /// Score or screen a payment.
        FraudCheck = 9 "fraud_check",
        /// Ask an account updater for the card's newer number or expiry.
        AccountUpdate = 10 "account_update",
        /// Ask a card network for a network token.
        NetworkTokenProvisioning = 11 "network_token_provisioning",
        /// Build the files that move money between banks.
        Settlement = 12 "settlement",
        /// Leave with one's cards for another provider: no rule gives it that does not name it, and in the clear none does.
        Export = 13 "export",
    }

    /// Who started the payment: the card networks treat the two differently.
    Initiator {
        /// The cardholder is present or in session.
        Cardholder = 1 "cardholder",
        /// The merchant acts on an earlier agreement.
        Merchant = 2 "merchant",
    }

    /// How much of a card number is shown, from least to most: `min` of two is the stricter one.
    Show {
        /// No digit.
        Nothing = 1 "nothing",
        /// The last four digits.
        LastFour = 2 "last_four",
        /// The digits that the mask of its length keeps.
        Masked = 3 "masked",
        /// All of it.
        Full = 4 "full",
    }

    /// Why a request was refused: the true reason, for the log. A caller is told less.
    Refusal {
        /// The certificate is good, and no rule knows its principal.
        UnlistedPrincipal = 1 "unlisted_principal",
        /// The certificate is past its end, or on the revocation list.
        CertificateNotValid = 2 "certificate_not_valid",
        /// No rule allows this principal the action.
        ActionNotAllowed = 3 "action_not_allowed",
        /// No rule allows this principal the merchant or channel.
        ChannelNotAllowed = 4 "channel_not_allowed",
        /// A rule says no: a deny beats every allow.
        DeniedByRule = 5 "denied_by_rule",
        /// A lock is on.
        Locked = 6 "locked",
        /// The budget of disclosures is used up.
        BudgetSpent = 7 "budget_spent",
        /// The budget of distinct cards per BIN and last four is used up.
        GuessBudgetSpent = 8 "guess_budget_spent",
        /// There is no such token.
        Unknown = 9 "unknown",
        /// The token is past its `valid_until`.
        Expired = 10 "expired",
        /// The token was revoked, on this channel or on all.
        Revoked = 11 "revoked",
        /// The token is there, and was granted to another channel.
        Foreign = 12 "foreign",
        /// The token's restriction or the rule does not cover the purpose or initiator.
        WrongPurpose = 13 "wrong_purpose",
        /// A single-use token was used already.
        AlreadyUsed = 14 "already_used",
        /// The subject of the card was erased.
        Erased = 15 "erased",
        /// The row is there and does not open: damaged, swapped or put back.
        Unreadable = 16 "unreadable",
        /// Every token of the shape is used up.
        SpaceExhausted = 17 "space_exhausted",
        /// The request id was used before with another request.
        IdempotencyMismatch = 18 "idempotency_mismatch",
        /// A field of the request is malformed.
        Malformed = 19 "malformed",
        /// No rule shows this principal as much of the card as was asked for.
        ShowsTooMuch = 20 "shows_too_much",
        /// The token is bound to another customer than the request names.
        WrongCustomer = 21 "wrong_customer",
        /// The token was stopped for now.
        Disabled = 22 "disabled",
        /// The token stood for no card at the time that was asked about, or that card is kept no more.
        NotKept = 23 "not_kept",
        /// No security code is held under the ticket: it was read or dropped, its hour is over, or the process began anew.
        CodeGone = 24 "code_gone",
        /// The row's key was destroyed with it on purpose.
        Shredded = 25 "shredded",
        /// No rule allows this principal vaultless tokens for the purpose, or people type on the channel.
        VaultlessNotAllowed = 32 "vaultless_not_allowed",
        /// The recipient or destination is not registered, its time is over, it was replaced, or no rule names it.
        OutletNotAllowed = 40 "outlet_not_allowed",
    }

    /// How a record changed, where that is all there is to say of it.
    RecordChange {
        /// Its token stopped working for now.
        Disabled = 1 "disabled",
        /// Its token works again.
        Enabled = 2 "enabled",
        /// What is known around the card changed.
        AttributesUpdated = 3 "attributes_updated",
        /// A card that it stood for before was deleted: its time was over.
        EarlierDeleted = 4 "earlier_deleted",
    }

    /// Where a key stands in its life (NIST SP 800-57 Part 1 Rev. 5, section 7).
    KeyState {
        /// Protects new data and opens old.
        Active = 1 "active",
        /// Opens old data only.
        Deactivated = 2 "deactivated",
        /// Opens old data only, and whatever it protected is to be moved now.
        Compromised = 3 "compromised",
        /// Gone; what it protected does not open again.
        Destroyed = 4 "destroyed",
    }

    /// Why a key is taken for known to somebody else. Details stand in a sealed note that the log names by hash.
    CompromiseReason {
        /// A copy of the store or of a backup is in the wrong hands, and with it perhaps what opens it.
        StolenCopy = 1 "stolen_copy",
        /// Somebody with access to the machine may have read it from memory.
        MemoryExposed = 2 "memory_exposed",
        /// A custodian's passphrase, share or device was lost or stolen.
        CustodianExposed = 3 "custodian_exposed",
        /// Who had access leaves in anger, or was found out.
        Insider = 4 "insider",
        /// It was made, or its seals were, in a way that is found to be weak.
        Weakness = 5 "weakness",
        /// There are signs, and nobody knows yet how.
        Suspected = 6 "suspected",
        /// A rehearsal.
        Drill = 7 "drill",
    }

    /// What is kept under a token. docs/methods.md has a row for each.
    Kind {
        /// A card number.
        Card = 1 "card",
        /// A network token or a wallet's device number, with its own expiry.
        NetworkToken = 2 "network_token",
        /// A processor's reference to a payment or account, without a card number.
        Reference = 3 "reference",
        /// An international bank account number.
        Iban = 4 "iban",
        /// A bank account of the United States.
        UsAccount = 5 "us_account",
        /// A gift card, loyalty or other number of digits alone.
        Digits = 6 "digits",
        /// A telephone number.
        Phone = 7 "phone",
        /// An electronic mail address.
        Email = 8 "email",
        /// Bytes of any kind.
        Bytes = 9 "bytes",
    }

    /// Why an operator put a lock on. Details stand in a sealed note that the log names by hash.
    LockReason {
        /// Someone may have got in.
        SuspectedBreach = 1 "suspected_breach",
        /// A certificate, passphrase or device was lost or stolen.
        StolenCredential = 2 "stolen_credential",
        /// Cards are being misused.
        Fraud = 3 "fraud",
        /// Work on the vault, planned.
        Maintenance = 4 "maintenance",
        /// A merchant or principal leaves.
        Offboarding = 5 "offboarding",
        /// A court or authority demands it.
        LegalOrder = 6 "legal_order",
        /// A rehearsal.
        Drill = 7 "drill",
    }

    /// For which kind of later payments a card holder let the merchant keep the card.
    AgreementKind {
        /// A series of fixed interval.
        Recurring = 1 "recurring",
        /// One purchase, paid in parts.
        Instalment = 2 "instalment",
        /// At no fixed time, such as a top-up.
        Unscheduled = 3 "unscheduled",
        /// For the card holder's own next payments: a card on file.
        CardOnFile = 4 "card_on_file",
    }

    /// Why another card took the place of a token's card.
    ReplaceReason {
        /// The old one ran out, and the new one has another number.
        Renewed = 1 "renewed",
        /// The old one was lost.
        Lost = 2 "lost",
        /// The old one was stolen, or used by another.
        Stolen = 3 "stolen",
        /// The old one was broken.
        Damaged = 4 "damaged",
        /// The card holder has another product of the issuer.
        ProductChange = 5 "product_change",
        /// The issuer's account updater named the new one.
        AccountUpdate = 6 "account_update",
        /// The card holder gave another card.
        CardholderChoice = 7 "cardholder_choice",
    }
}

impl Action {
    /// Whether this is an operator's action, not a payment service's.
    #[must_use]
    pub const fn is_administrative(self) -> bool {
        self.id() >= 64
    }
}

/// The name of a record in the audit log and in the record itself: 16 bytes,
/// HMAC-SHA-256(REF, `"pv1/ref" 0x00 e(merchant) e(token)`) cut. It tells nobody the token who has not REF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ref(pub [u8; 16]);

impl Ref {
    /// Reads 32 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, UnknownWord> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| UnknownWord)?;
        bytes.try_into().map(Self).map_err(|_| UnknownWord)
    }
}

impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl Serialize for Ref {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers and texts stand on customers' disks: this table changes by added lines only.
    const ON_DISK: &str = "\
        action 1 tokenize, 2 detokenize, 3 inspect, 4 revoke, 5 disable, 6 enable, 7 update_attributes, \
        8 replace, 9 fingerprint, 10 list_by_subject, 11 delete_card, 12 erase_subject, 13 translate, 14 hold_code, 15 read_code, 16 upgrade, 17 complete_authorization, 64 rotate_key, 65 set_lock, 66 lift_lock, 67 apply_policy, 68 read_audit, 69 read_keys, 70 read_policy, 71 read_locks, 72 connect, 80 custody
        purpose 1 authorization, 2 capture, 3 refund, 4 reversal, 5 dispute, 6 recurring, 7 instalment, \
        8 unscheduled, 9 fraud_check, 10 account_update, 11 network_token_provisioning, 12 settlement, 13 export
        initiator 1 cardholder, 2 merchant
        show 1 nothing, 2 last_four, 3 masked, 4 full
        refusal 1 unlisted_principal, 2 certificate_not_valid, 3 action_not_allowed, 4 channel_not_allowed, \
        5 denied_by_rule, 6 locked, 7 budget_spent, 8 guess_budget_spent, 9 unknown, 10 expired, 11 revoked, \
        12 foreign, 13 wrong_purpose, 14 already_used, 15 erased, 16 unreadable, 17 space_exhausted, \
        18 idempotency_mismatch, 19 malformed, 20 shows_too_much, 21 wrong_customer, 22 disabled, \
        23 not_kept, 24 code_gone, 25 shredded, 32 vaultless_not_allowed, 40 outlet_not_allowed
        record_change 1 disabled, 2 enabled, 3 attributes_updated, 4 earlier_deleted
        key_state 1 active, 2 deactivated, 3 compromised, 4 destroyed
        lock_reason 1 suspected_breach, 2 stolen_credential, 3 fraud, 4 maintenance, 5 offboarding, 6 legal_order, \
        7 drill
        agreement 1 recurring, 2 instalment, 3 unscheduled, 4 card_on_file
        replace_reason 1 renewed, 2 lost, 3 stolen, 4 damaged, 5 product_change, 6 account_update, \
        7 cardholder_choice
        compromise_reason 1 stolen_copy, 2 memory_exposed, 3 custodian_exposed, 4 insider, 5 weakness, 6 suspected, \
        7 drill
        kind 1 card, 2 network_token, 3 reference, 4 iban, 5 us_account, 6 digits, 7 phone, 8 email, 9 bytes";

    macro_rules! table {
        ($($list:literal $name:ident),+) => {
            [$({
                let words: Vec<String> = $name::ALL.iter().map(|w| format!("{} {w}", w.id())).collect();
                assert!($name::ALL.is_sorted_by_key(|w| w.id()));
                for id in 0..=u8::MAX {
                    let known = $name::ALL.iter().copied().find(|w| w.id() == id);
                    assert_eq!($name::from_id(id), known);
                }
                for word in $name::ALL {
                    assert_eq!($name::parse(word.as_str()), Ok(*word));
                    let json = serde_json::to_string(word).unwrap();
                    assert_eq!(json, format!("\"{word}\""));
                    assert_eq!(serde_json::from_str::<$name>(&json).unwrap(), *word);
                }
                for bad in ["", "Tokenize", "4111111111111111"] {
                    assert_eq!($name::parse(bad), Err(UnknownWord));
                    let error = serde_json::from_str::<$name>(&format!("\"{bad}\"")).unwrap_err().to_string();
                    assert!(error.contains("is none of") && !error.contains("4111"), "{error}");
                }
                format!("{} {}", $list, words.join(", "))
            }),+]
        };
    }

    #[test]
    fn every_word_keeps_its_number_and_text_and_no_list_takes_a_stranger() {
        let lists = table!(
            "action" Action, "purpose" Purpose, "initiator" Initiator, "show" Show, "refusal" Refusal,
            "record_change" RecordChange,
            "key_state" KeyState, "lock_reason" LockReason, "agreement" AgreementKind,
            "replace_reason" ReplaceReason, "compromise_reason" CompromiseReason, "kind" Kind
        );
        let on_disk: Vec<&str> = ON_DISK.lines().map(str::trim).collect();
        assert_eq!(lists.as_slice(), on_disk);
    }

    #[test]
    fn the_stricter_of_two_shows_is_the_smaller() {
        assert_eq!(Show::Full.min(Show::LastFour), Show::LastFour);
        assert_eq!(Show::Masked.min(Show::Nothing), Show::Nothing);
    }

    #[test]
    fn an_operators_action_is_told_from_a_payment_services() {
        let payment: Vec<&str> =
            Action::ALL.iter().filter(|a| !a.is_administrative()).map(|a| a.as_str()).collect();
        assert_eq!(
            payment,
            [
                "tokenize",
                "detokenize",
                "inspect",
                "revoke",
                "disable",
                "enable",
                "update_attributes",
                "replace",
                "fingerprint",
                "list_by_subject",
                "delete_card",
                "erase_subject",
                "translate",
                "hold_code",
                "read_code",
                "upgrade",
                "complete_authorization"
            ]
        );
    }

    #[test]
    fn a_ref_reads_back_from_its_own_text_only() {
        let name = Ref(*b"0123456789abcdef");
        assert_eq!(name.to_string(), "30313233343536373839616263646566");
        assert_eq!(Ref::parse(&name.to_string()), Ok(name));
        for bad in ["", "3031", "3031323334353637383961626364656", "3031323334353637383961626364656G"] {
            assert_eq!(Ref::parse(bad), Err(UnknownWord), "{bad}");
        }
    }
}
