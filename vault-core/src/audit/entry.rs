//! One line of the audit log: who did what to which record, when, and what came of it.
//!
//! A closed list of events, each of fixed fields. There is no free text, so nothing can be smuggled into the
//! log: no card number, no token, no reason in prose (a reason is a word of a list, its details a sealed note
//! named by hash). Records are named by [`Ref`]. The fields are those that PCI DSS 4.0.1 asks for in 10.2.2.
//!
//! Bytes, version 1: version u8, event u8, `at` u64 ms, `epoch` u64, principal (u8, then `e(name)` or 16
//! bytes or nothing), `e(merchant)`, `e(channel)` (empty where there is none), then the event's fields in the
//! order of its declaration. A word is its number in one byte; an optional word is zero where there is none.
//! The form is canonical: what [`AuditEntry::decode`] takes is exactly what [`AuditEntry::encode`] gives.

use std::fmt;

use ring::digest::{SHA256, digest};
use serde::{Serialize, Serializer};

use super::tree::Hash;
use crate::codec::{Reader, Torn, Writer};
use crate::name::{ChannelName, DestinationName, MerchantName, PrincipalName, RecipientName};
use crate::time::Timestamp;
use crate::words::{
    Action, CompromiseReason, Initiator, KeyState, LockReason, Purpose, RecordChange, Ref, Refusal,
    ReplaceReason, Show,
};

/// The version of the bytes, their first one.
const VERSION: u8 = 1;

/// The longest entry, in bytes: three names of 63 bytes and the largest event. A typical one is below 80.
pub const MAX_ENTRY: usize = 320;

/// The most kinds of custodians that an entry names.
const MAX_KINDS: usize = 8;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// When. Within one log it never runs backwards.
    #[serde(serialize_with = "as_utc")]
    pub at: Timestamp,
    /// The version of Control that it was decided under. Within one log it never falls.
    pub epoch: u64,
    /// Who.
    pub principal: Who,
    /// For which merchant, where one is concerned.
    pub merchant: Option<MerchantName>,
    /// On which of its channels, where one is concerned.
    pub channel: Option<ChannelName>,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// A principal that the policy names.
    Listed(PrincipalName),
    /// A certificate that the policy does not name: see [`Who::unlisted`].
    Unlisted(#[serde(serialize_with = "as_hex")] [u8; 16]),
    /// The vault itself: opening, closing, background work.
    Vault,
}

impl Who {
    /// A certificate that no rule names: SHA-256(`"pv1/unlisted" 0x00 e(authority) e(name)`) cut to 16 bytes,
    /// since its name was chosen by a stranger and is not to stand in the log.
    #[must_use]
    pub fn unlisted(authority: &[u8], name: &[u8]) -> Self {
        let named = Writer::default().fixed(b"pv1/unlisted\0").e(authority).e(name).done();
        let mut cut = [0; 16];
        cut.iter_mut().zip(digest(&SHA256, &named).as_ref()).for_each(|(to, from)| *to = *from);
        Self::Unlisted(cut)
    }
}

/// Whether a token was made for the request or was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Minting {
    /// A new token.
    Minted,
    /// The token that this card already had.
    Reused,
    /// The token that a slot's key makes of this card, new or not: there is no row that would tell.
    Vaultless,
}

/// Where a token stops working.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokedOn {
    /// Everywhere, for ever.
    All,
    /// On one channel.
    One(ChannelName),
}

/// Whom a card number goes to, where that is not who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlet {
    /// Sealed to a recipient that the policy registers.
    Recipient(RecipientName),
    /// Sent by the server itself to a destination of its settings.
    Destination(DestinationName),
}

impl fmt::Display for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recipient(name) => write!(f, "recipient {name}"),
            Self::Destination(name) => write!(f, "destination {name}"),
        }
    }
}

impl Outlet {
    fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        match self {
            Self::Recipient(name) => w.u8(1).e(name.as_str().as_bytes()),
            Self::Destination(name) => w.u8(2).e(name.as_str().as_bytes()),
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Torn> {
        Ok(match r.u8()? {
            1 => Self::Recipient(RecipientName::parse(r.text()?).map_err(|_| Torn)?),
            2 => Self::Destination(DestinationName::parse(r.text()?).map_err(|_| Torn)?),
            _ => return Err(Torn),
        })
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A card came in, a token went out.
    Tokenized {
        /// The record.
        record: Ref,
        /// The row's version from here on: a row of a lower one was put back.
        version: u32,
        /// New, or there already.
        minting: Minting,
        /// What for.
        purpose: Purpose,
        /// Who started the payment.
        initiator: Initiator,
        /// Whether this answers a request that was answered before.
        redelivered: bool,
    },
    /// A card number, or a part of it, was about to go out. Stands on disk before it does.
    Disclosed {
        /// The record.
        record: Ref,
        /// What for.
        purpose: Purpose,
        /// Who started the payment.
        initiator: Initiator,
        /// How much of it.
        show: Show,
        /// Whether this answers a request that was answered before.
        redelivered: bool,
    },
    /// A card number was about to go out to somebody else than who asked. Stands on disk before it does.
    DisclosedTo {
        /// The record.
        record: Ref,
        /// What for.
        purpose: Purpose,
        /// Who started the payment.
        initiator: Initiator,
        /// To whom.
        to: Outlet,
        /// Whether this answers a request that was answered before.
        redelivered: bool,
    },
    /// The number of a card that was replaced was about to go out to somebody else than who asked.
    DisclosedEarlierTo {
        /// The record.
        record: Ref,
        /// When the card was replaced.
        replaced_at: Timestamp,
        /// What for.
        purpose: Purpose,
        /// Who started the payment.
        initiator: Initiator,
        /// To whom.
        to: Outlet,
        /// Whether this answers a request that was answered before.
        redelivered: bool,
    },
    /// The one disclosure of a single-use token, to somebody else than who asked.
    SpentTo {
        /// The record.
        record: Ref,
        /// The row's version from here on: a row of a lower one was put back.
        version: u32,
        /// What for.
        purpose: Purpose,
        /// Who started the payment.
        initiator: Initiator,
        /// To whom.
        to: Outlet,
    },
    /// What may be known of a card without its number was read.
    Inspected {
        /// The record.
        record: Ref,
        /// How much was shown; never full.
        show: Show,
    },
    /// A token stopped working.
    Revoked {
        /// The record.
        record: Ref,
        /// The row's version from here on: a row of a lower one was put back.
        version: u32,
        /// Where.
        channels: RevokedOn,
    },
    /// The card number of a single-use token was about to go out, and the token is used up. Stands on disk before it
    /// does.
    Spent {
        /// The record.
        record: Ref,
        /// The row's version from here on: a row of a lower one was put back.
        version: u32,
        /// What for.
        purpose: Purpose,
        /// Who started the payment.
        initiator: Initiator,
    },
    /// A record changed, and neither its card number nor its token did.
    Changed {
        /// The record.
        record: Ref,
        /// The row's version from here on: a row of a lower one was put back.
        version: u32,
        /// How.
        change: RecordChange,
    },
    /// Another card took the place of a token's card.
    Replaced {
        /// The record.
        record: Ref,
        /// The row's version from here on: a row of a lower one was put back.
        version: u32,
        /// Why.
        reason: ReplaceReason,
    },
    /// As [`Event::Disclosed`], of a card that the token stood for before.
    DisclosedEarlier {
        /// The record.
        record: Ref,
        /// Since when another card is in its place.
        replaced_at: Timestamp,
        /// What for.
        purpose: Purpose,
        /// Who started the payment.
        initiator: Initiator,
        /// How much of it.
        show: Show,
        /// Whether this answers a request that was answered before.
        redelivered: bool,
    },
    /// A card's public fingerprint was worked out, or the tokens of a card were looked for by it.
    Fingerprinted {
        /// What for.
        purpose: Purpose,
        /// Who started the payment.
        initiator: Initiator,
    },
    /// The tokens of a customer were listed, without the tokens.
    Listed {
        /// The customer's name in the log.
        subject: Ref,
        /// How many.
        cards: u32,
        /// How much was shown of each card number; never full.
        show: Show,
    },
    /// Every token of a customer has ended, and the customer's secret was destroyed.
    Erased {
        /// The customer's name in the log.
        subject: Ref,
        /// How many tokens ended by this request.
        cards: u32,
    },
    /// A vaultless token of an old slot was turned into the one of the current slot.
    Upgraded {
        /// The record, one for both tokens.
        record: Ref,
        /// Its row's version, if it has restrictions and so a row; else zero.
        version: u32,
        /// Whether this answers a request that was answered before.
        redelivered: bool,
    },
    /// A card's security code came in, to be held in memory.
    CodeHeld {
        /// The record.
        record: Ref,
    },
    /// A card's security code was about to go out. Stands on disk before it does.
    CodeRead {
        /// The record.
        record: Ref,
        /// What for.
        purpose: Purpose,
        /// Who started the payment.
        initiator: Initiator,
    },
    /// An authorization is over: its security code is gone.
    CodeDropped {
        /// The record.
        record: Ref,
    },
    /// A request was refused.
    Refused {
        /// What was asked.
        action: Action,
        /// The record that was named, also where there is none of that name; none where no token was given or
        /// read.
        record: Option<Ref>,
        /// The true reason.
        why: Refusal,
        /// What for, where it was said.
        purpose: Option<Purpose>,
        /// Who started the payment, where it was said.
        initiator: Option<Initiator>,
    },
    /// Further refusals of one principal within a second, beyond those logged singly.
    RefusalsCounted {
        /// What was asked.
        action: Action,
        /// The true reason.
        why: Refusal,
        /// How many.
        count: u32,
        /// The first of them; the last is the entry's own time.
        since: Timestamp,
    },
    /// Control has a new version.
    ControlChanged {
        /// The new version: the epoch from here on.
        version: u64,
        /// SHA-256 of the sealed document.
        hash: Hash,
        /// What was changed.
        change: ControlChange,
    },
    /// An operator read keys, locks, policy or this log (PCI DSS 4.0.1, 10.2.1.3).
    Consulted {
        /// What was read.
        action: Action,
    },
    /// The vault began to serve.
    VaultOpened,
    /// The vault stopped in good order. None in front of a [`Event::VaultOpened`] means that it did not.
    VaultClosed,
    /// The first entry of a log.
    LogStarted {
        /// The log's number.
        log: u32,
    },
    /// Rows whose time was over were deleted: kept answers, guess cells, day counters.
    Swept {
        /// How many.
        rows: u32,
    },
    /// A custodian's share was among those that opened the vault.
    ShareEntered {
        /// Its number, from 1.
        share: u8,
    },
    /// The vault was opened at an operator's word: the last share, or the custodian of the settings asked again.
    Unsealed,
    /// The vault was closed at an operator's word, and its keys wiped.
    Sealed,
    /// Somebody accepts custody of a share (PCI DSS 4.0.1, 3.7.8).
    CustodyAccepted {
        /// The split that it is of.
        split: [u8; 4],
        /// Its number, from 1.
        share: u8,
    },
    /// The record keys of tokens that an operator brought were wrapped anew under the token root key that wraps now. No card
    /// was opened.
    Rewrapped {
        /// That key's id.
        key: u32,
        /// How many tokens.
        rows: u32,
    },
    /// Uses of a key were reserved on this node: as many as stand there may have been made, none beyond.
    UsesReserved {
        /// The key's id.
        key: u32,
        /// How many, from the key's first on.
        upto: u64,
    },
    /// Rows were sealed anew under the data encryption key that seals now.
    Resealed {
        /// That key's id.
        key: u32,
        /// How many.
        rows: u32,
    },
}

/// What was changed in Control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ControlChange {
    /// The vault was made.
    Created,
    /// A policy file replaced the policy.
    PolicyApplied,
    /// A key was made.
    KeyAdded {
        /// Its id.
        key: u32,
    },
    /// A key changed its state.
    KeyState {
        /// Its id.
        key: u32,
        /// The state from here on.
        state: KeyState,
    },
    /// A lock was put on.
    LockSet {
        /// Its id.
        lock: u32,
        /// Why.
        reason: LockReason,
        /// SHA-256 of the sealed note with the details, where there is one.
        note: Option<Hash>,
    },
    /// A lock was taken off.
    LockLifted {
        /// Its id.
        lock: u32,
    },
    /// All rows were counted, and none is under this key any more. With its receipt this is the certificate of a rotation:
    /// the key was deactivated before, so none ever will be.
    KeyDrained {
        /// Its id.
        key: u32,
    },
    /// Somebody else may have this key: from here on nothing new is protected by it.
    KeyCompromised {
        /// Its id.
        key: u32,
        /// Why.
        reason: CompromiseReason,
        /// SHA-256 of the sealed note with the details, where there is one.
        note: Option<Hash>,
    },
    /// A key that rows were under was destroyed on purpose: they open no more.
    KeyShredded {
        /// Its id.
        key: u32,
        /// How many rows were under it.
        rows: u64,
    },
    /// A custodian took the root and the erasure epoch key into custody (PCI DSS 4.0.1, 3.7.8).
    CustodyTaken {
        /// Its kind: 1 passphrase, 2 shares.
        custodian: u8,
    },
    /// A custodian's custody ended.
    CustodyEnded {
        /// Its kind, as above.
        custodian: u8,
    },
    /// An erasure epoch key is no more: every customer was moved from it before, but those who were erased. With its receipt
    /// this is the certificate of each erasure whose entry has an epoch below `before`.
    ErasureKeyDestroyed {
        /// Its id.
        key: u32,
        /// The epoch in which another key took its place.
        before: u64,
        /// The kinds of the custodians that held it, as above; at most eight.
        custodians: Vec<u8>,
    },
    /// The log's key hands the log over: from the next batch on, another key signs. Stands under a checkpoint that both
    /// signed, as its last entry.
    LogHandedOver {
        /// SHA-256 of the verifier key (its text) that signed until here.
        from: Hash,
        /// SHA-256 of the verifier key that signs from here on.
        to: Hash,
    },
}

impl AuditEntry {
    /// The bytes that are hashed and stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(96);
        w.u8(VERSION).u8(self.event.id()).u64(self.at.0).u64(self.epoch);
        match &self.principal {
            Who::Listed(name) => w.u8(1).e(name.as_str().as_bytes()),
            Who::Unlisted(hash) => w.u8(2).fixed(hash),
            Who::Vault => w.u8(3),
        };
        w.e(self.merchant.as_ref().map_or("", MerchantName::as_str).as_bytes());
        w.e(self.channel.as_ref().map_or("", ChannelName::as_str).as_bytes());
        self.event.encode(&mut w);
        w.done()
    }

    /// Reads the bytes back. Refused: another version, an unknown event or word, a name that is none, anything
    /// cut or left over; and so, since every field is bounded, anything above [`MAX_ENTRY`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Torn> {
        let mut r = Reader::new(bytes);
        if r.u8()? != VERSION {
            return Err(Torn);
        }
        let event = r.u8()?;
        let (at, epoch) = (Timestamp(r.u64()?), r.u64()?);
        let principal = match r.u8()? {
            1 => Who::Listed(PrincipalName::parse(r.text()?).map_err(|_| Torn)?),
            2 => Who::Unlisted(r.array()?),
            3 => Who::Vault,
            _ => return Err(Torn),
        };
        let merchant = optional(r.text()?).map(MerchantName::parse).transpose().map_err(|_| Torn)?;
        let channel = optional(r.text()?).map(ChannelName::parse).transpose().map_err(|_| Torn)?;
        let event = Event::decode(event, &mut r)?;
        r.end()?;
        Ok(Self { at, epoch, principal, merchant, channel, event })
    }

    /// The entry as one line for people: time, epoch, who, where, what. For machines there is its JSON.
    #[must_use]
    pub fn line(&self) -> String {
        let who = match &self.principal {
            Who::Listed(name) => name.to_string(),
            Who::Unlisted(hash) => format!("unlisted:{}", data_encoding::HEXLOWER.encode(hash)),
            Who::Vault => "vault".into(),
        };
        let merchant = self.merchant.as_ref().map_or("-", MerchantName::as_str);
        let channel = self.channel.as_ref().map_or("-", ChannelName::as_str);
        format!("{} epoch {} {who} {merchant}/{channel} {}", Utc(self.at), self.epoch, self.event.words())
    }
}

impl Event {
    /// The record whose row has a new version from here on, and which.
    #[must_use]
    pub fn row_version(&self) -> Option<(Ref, u32)> {
        match self {
            Self::Tokenized { record, version, .. }
            | Self::Upgraded { record, version, .. }
            | Self::Revoked { record, version, .. }
            | Self::Spent { record, version, .. }
            | Self::SpentTo { record, version, .. }
            | Self::Changed { record, version, .. }
            | Self::Replaced { record, version, .. } => {
                // A vaultless token without restrictions has no row, and version zero says so.
                (*version > 0).then_some((*record, *version))
            }
            Self::Disclosed { .. }
            | Self::DisclosedTo { .. }
            | Self::DisclosedEarlierTo { .. }
            | Self::DisclosedEarlier { .. }
            | Self::Fingerprinted { .. }
            | Self::Listed { .. }
            | Self::Erased { .. }
            | Self::CodeHeld { .. }
            | Self::CodeRead { .. }
            | Self::CodeDropped { .. }
            | Self::Inspected { .. }
            | Self::Refused { .. }
            | Self::RefusalsCounted { .. }
            | Self::ControlChanged { .. }
            | Self::Consulted { .. }
            | Self::VaultOpened
            | Self::VaultClosed
            | Self::LogStarted { .. }
            | Self::Swept { .. }
            | Self::ShareEntered { .. }
            | Self::Unsealed
            | Self::Sealed
            | Self::CustodyAccepted { .. }
            | Self::Resealed { .. }
            | Self::UsesReserved { .. }
            | Self::Rewrapped { .. } => None,
        }
    }

    fn id(&self) -> u8 {
        match self {
            Self::Tokenized { .. } => 1,
            Self::Disclosed { .. } => 2,
            Self::Inspected { .. } => 3,
            Self::Revoked { .. } => 4,
            Self::DisclosedTo { .. } => 24,
            Self::SpentTo { .. } => 25,
            Self::DisclosedEarlierTo { .. } => 26,
            Self::Spent { .. } => 5,
            Self::Changed { .. } => 6,
            Self::Replaced { .. } => 7,
            Self::DisclosedEarlier { .. } => 8,
            Self::Fingerprinted { .. } => 9,
            Self::Listed { .. } => 10,
            Self::Erased { .. } => 11,
            Self::CodeHeld { .. } => 12,
            Self::CodeRead { .. } => 13,
            Self::CodeDropped { .. } => 14,
            Self::Upgraded { .. } => 16,
            Self::Refused { .. } => 32,
            Self::RefusalsCounted { .. } => 33,
            Self::ControlChanged { .. } => 64,
            Self::Consulted { .. } => 65,
            Self::VaultOpened => 96,
            Self::VaultClosed => 97,
            Self::LogStarted { .. } => 98,
            Self::Swept { .. } => 99,
            Self::Resealed { .. } => 100,
            Self::ShareEntered { .. } => 104,
            Self::Unsealed => 105,
            Self::Sealed => 106,
            Self::CustodyAccepted { .. } => 107,
            Self::Rewrapped { .. } => 110,
            Self::UsesReserved { .. } => 101,
        }
    }

    fn encode(&self, w: &mut Writer) {
        match self {
            Self::Tokenized { record, version, minting, purpose, initiator, redelivered } => {
                w.fixed(&record.0).u32(*version).u8(match minting {
                    Minting::Minted => 1,
                    Minting::Reused => 2,
                    Minting::Vaultless => 3,
                });
                w.u8(purpose.id()).u8(initiator.id()).u8((*redelivered).into())
            }
            Self::Disclosed { record, purpose, initiator, show, redelivered } => {
                w.fixed(&record.0).u8(purpose.id()).u8(initiator.id()).u8(show.id()).u8((*redelivered).into())
            }
            Self::DisclosedTo { record, purpose, initiator, to, redelivered } => {
                w.fixed(&record.0).u8(purpose.id()).u8(initiator.id()).u8((*redelivered).into());
                to.encode(w)
            }
            Self::DisclosedEarlierTo { record, replaced_at, purpose, initiator, to, redelivered } => {
                w.fixed(&record.0).u64(replaced_at.0).u8(purpose.id()).u8(initiator.id());
                w.u8((*redelivered).into());
                to.encode(w)
            }
            Self::SpentTo { record, version, purpose, initiator, to } => {
                w.fixed(&record.0).u32(*version).u8(purpose.id()).u8(initiator.id());
                to.encode(w)
            }
            Self::Inspected { record, show } => w.fixed(&record.0).u8(show.id()),
            Self::Revoked { record, version, channels } => match channels {
                RevokedOn::All => w.fixed(&record.0).u32(*version).u8(1),
                RevokedOn::One(channel) => {
                    w.fixed(&record.0).u32(*version).u8(2).e(channel.as_str().as_bytes())
                }
            },
            Self::Spent { record, version, purpose, initiator } => {
                w.fixed(&record.0).u32(*version).u8(purpose.id()).u8(initiator.id())
            }
            Self::Changed { record, version, change } => w.fixed(&record.0).u32(*version).u8(change.id()),
            Self::Replaced { record, version, reason } => w.fixed(&record.0).u32(*version).u8(reason.id()),
            Self::DisclosedEarlier { record, replaced_at, purpose, initiator, show, redelivered } => {
                w.fixed(&record.0).u64(replaced_at.0).u8(purpose.id()).u8(initiator.id());
                w.u8(show.id()).u8((*redelivered).into())
            }
            Self::Fingerprinted { purpose, initiator } => w.u8(purpose.id()).u8(initiator.id()),
            Self::Listed { subject, cards, show } => w.fixed(&subject.0).u32(*cards).u8(show.id()),
            Self::Erased { subject, cards } => w.fixed(&subject.0).u32(*cards),
            Self::CodeHeld { record } | Self::CodeDropped { record } => w.fixed(&record.0),
            Self::CodeRead { record, purpose, initiator } => {
                w.fixed(&record.0).u8(purpose.id()).u8(initiator.id())
            }
            Self::Upgraded { record, version, redelivered } => {
                w.fixed(&record.0).u32(*version).u8((*redelivered).into())
            }
            Self::Refused { action, record, why, purpose, initiator } => {
                w.u8(action.id());
                match record {
                    Some(record) => w.u8(1).fixed(&record.0),
                    None => w.u8(0),
                };
                w.u8(why.id()).u8(purpose.map_or(0, Purpose::id)).u8(initiator.map_or(0, Initiator::id))
            }
            Self::RefusalsCounted { action, why, count, since } => {
                w.u8(action.id()).u8(why.id()).u32(*count).u64(since.0)
            }
            Self::ControlChanged { version, hash, change } => {
                w.u64(*version).fixed(&hash.0);
                change.encode(w)
            }
            Self::Consulted { action } => w.u8(action.id()),
            Self::VaultOpened | Self::VaultClosed | Self::Unsealed | Self::Sealed => w,
            Self::ShareEntered { share } => w.u8(*share),
            Self::CustodyAccepted { split, share } => w.fixed(split).u8(*share),
            Self::LogStarted { log } => w.u32(*log),
            Self::Swept { rows } => w.u32(*rows),
            Self::Resealed { key, rows } | Self::Rewrapped { key, rows } => w.u32(*key).u32(*rows),
            Self::UsesReserved { key, upto } => w.u32(*key).u64(*upto),
        };
    }

    /// The events of cards that go to somebody else than who asked.
    fn decode_to(id: u8, r: &mut Reader<'_>) -> Result<Self, Torn> {
        Ok(match id {
            24 => Self::DisclosedTo {
                record: Ref(r.array()?),
                purpose: word(r, Purpose::from_id)?,
                initiator: word(r, Initiator::from_id)?,
                redelivered: flag(r)?,
                to: Outlet::decode(r)?,
            },
            25 => Self::SpentTo {
                record: Ref(r.array()?),
                version: r.u32()?,
                purpose: word(r, Purpose::from_id)?,
                initiator: word(r, Initiator::from_id)?,
                to: Outlet::decode(r)?,
            },
            26 => Self::DisclosedEarlierTo {
                record: Ref(r.array()?),
                replaced_at: Timestamp(r.u64()?),
                purpose: word(r, Purpose::from_id)?,
                initiator: word(r, Initiator::from_id)?,
                redelivered: flag(r)?,
                to: Outlet::decode(r)?,
            },
            _ => return Err(Torn),
        })
    }

    /// The events of who opens and closes the vault.
    fn decode_custody(id: u8, r: &mut Reader<'_>) -> Result<Self, Torn> {
        Ok(match id {
            104 => Self::ShareEntered { share: r.u8()? },
            105 => Self::Unsealed,
            106 => Self::Sealed,
            107 => Self::CustodyAccepted { split: r.array()?, share: r.u8()? },
            _ => return Err(Torn),
        })
    }

    fn decode(id: u8, r: &mut Reader<'_>) -> Result<Self, Torn> {
        Ok(match id {
            24..=26 => Self::decode_to(id, r)?,
            1 => Self::Tokenized {
                record: Ref(r.array()?),
                version: r.u32()?,
                minting: match r.u8()? {
                    1 => Minting::Minted,
                    2 => Minting::Reused,
                    3 => Minting::Vaultless,
                    _ => return Err(Torn),
                },
                purpose: word(r, Purpose::from_id)?,
                initiator: word(r, Initiator::from_id)?,
                redelivered: flag(r)?,
            },
            2 => Self::Disclosed {
                record: Ref(r.array()?),
                purpose: word(r, Purpose::from_id)?,
                initiator: word(r, Initiator::from_id)?,
                show: word(r, Show::from_id)?,
                redelivered: flag(r)?,
            },
            3 => Self::Inspected { record: Ref(r.array()?), show: word(r, Show::from_id)? },
            4 => Self::Revoked {
                record: Ref(r.array()?),
                version: r.u32()?,
                channels: match r.u8()? {
                    1 => RevokedOn::All,
                    2 => RevokedOn::One(ChannelName::parse(r.text()?).map_err(|_| Torn)?),
                    _ => return Err(Torn),
                },
            },
            5 => Self::Spent {
                record: Ref(r.array()?),
                version: r.u32()?,
                purpose: word(r, Purpose::from_id)?,
                initiator: word(r, Initiator::from_id)?,
            },
            6 => Self::Changed {
                record: Ref(r.array()?),
                version: r.u32()?,
                change: word(r, RecordChange::from_id)?,
            },
            7 => Self::Replaced {
                record: Ref(r.array()?),
                version: r.u32()?,
                reason: word(r, ReplaceReason::from_id)?,
            },
            8 => Self::DisclosedEarlier {
                record: Ref(r.array()?),
                replaced_at: Timestamp(r.u64()?),
                purpose: word(r, Purpose::from_id)?,
                initiator: word(r, Initiator::from_id)?,
                show: word(r, Show::from_id)?,
                redelivered: flag(r)?,
            },
            9 => Self::Fingerprinted {
                purpose: word(r, Purpose::from_id)?,
                initiator: word(r, Initiator::from_id)?,
            },
            10 => Self::Listed { subject: Ref(r.array()?), cards: r.u32()?, show: word(r, Show::from_id)? },
            11 => Self::Erased { subject: Ref(r.array()?), cards: r.u32()? },
            12 => Self::CodeHeld { record: Ref(r.array()?) },
            13 => Self::CodeRead {
                record: Ref(r.array()?),
                purpose: word(r, Purpose::from_id)?,
                initiator: word(r, Initiator::from_id)?,
            },
            14 => Self::CodeDropped { record: Ref(r.array()?) },
            16 => Self::Upgraded { record: Ref(r.array()?), version: r.u32()?, redelivered: flag(r)? },
            32 => Self::Refused {
                action: word(r, Action::from_id)?,
                record: if flag(r)? { Some(Ref(r.array()?)) } else { None },
                why: word(r, Refusal::from_id)?,
                purpose: optional_word(r, Purpose::from_id)?,
                initiator: optional_word(r, Initiator::from_id)?,
            },
            33 => Self::RefusalsCounted {
                action: word(r, Action::from_id)?,
                why: word(r, Refusal::from_id)?,
                count: r.u32()?,
                since: Timestamp(r.u64()?),
            },
            64 => Self::ControlChanged {
                version: r.u64()?,
                hash: Hash(r.array()?),
                change: ControlChange::decode(r)?,
            },
            65 => Self::Consulted { action: word(r, Action::from_id)? },
            96 => Self::VaultOpened,
            97 => Self::VaultClosed,
            98 => Self::LogStarted { log: r.u32()? },
            99 => Self::Swept { rows: r.u32()? },
            100 => Self::Resealed { key: r.u32()?, rows: r.u32()? },
            104..=107 => Self::decode_custody(id, r)?,
            110 => Self::Rewrapped { key: r.u32()?, rows: r.u32()? },
            101 => Self::UsesReserved { key: r.u32()?, upto: r.u64()? },
            _ => return Err(Torn),
        })
    }

    fn words(&self) -> String {
        match self {
            Self::Tokenized { record, version: _, minting, purpose, initiator, redelivered } => {
                let minting = match minting {
                    Minting::Minted => "minted",
                    Minting::Reused => "reused",
                    Minting::Vaultless => "vaultless",
                };
                format!("tokenized {record} {minting} for {purpose} by {initiator}{}", again(*redelivered))
            }
            Self::Disclosed { record, purpose, initiator, show, redelivered } => {
                format!("disclosed {record} {show} for {purpose} by {initiator}{}", again(*redelivered))
            }
            Self::DisclosedTo { record, purpose, initiator, to, redelivered } => {
                format!("disclosed {record} to {to} for {purpose} by {initiator}{}", again(*redelivered))
            }
            Self::DisclosedEarlierTo { record, replaced_at, purpose, initiator, to, redelivered } => {
                let again = again(*redelivered);
                let at = Utc(*replaced_at);
                format!("disclosed {record} as before {at} to {to} for {purpose} by {initiator}{again}")
            }
            Self::SpentTo { record, version: _, purpose, initiator, to } => {
                format!("disclosed {record} once to {to} for {purpose} by {initiator}")
            }
            Self::Inspected { record, show } => format!("inspected {record} {show}"),
            Self::Revoked { record, version: _, channels } => match channels {
                RevokedOn::All => format!("revoked {record} on all channels"),
                RevokedOn::One(channel) => format!("revoked {record} on channel {channel}"),
            },
            Self::Spent { record, version: _, purpose, initiator } => {
                format!("disclosed {record} full for {purpose} by {initiator}, its only time")
            }
            Self::Changed { record, version: _, change } => format!("changed {record}: {change}"),
            Self::Replaced { record, version: _, reason } => {
                format!("replaced the card of {record}: {reason}")
            }
            Self::DisclosedEarlier { record, replaced_at, purpose, initiator, show, redelivered } => {
                let again = again(*redelivered);
                let before = Utc(*replaced_at);
                format!("disclosed {record} as before {before} {show} for {purpose} by {initiator}{again}")
            }
            Self::Fingerprinted { purpose, initiator } => {
                format!("fingerprinted a card for {purpose} by {initiator}")
            }
            Self::Listed { subject, cards, show } => {
                format!("listed {cards} tokens of customer {subject}, {show}")
            }
            Self::Erased { subject, cards } => format!("erased customer {subject}: {cards} tokens ended"),
            Self::CodeHeld { record } => format!("held the security code of {record}"),
            Self::CodeRead { record, purpose, initiator } => {
                format!("disclosed the security code of {record} for {purpose} by {initiator}")
            }
            Self::CodeDropped { record } => format!("dropped the security code of {record}"),
            Self::Upgraded { record, version: _, redelivered } => {
                format!("upgraded a token of {record}{}", again(*redelivered))
            }
            Self::Refused { action, record, why, purpose, initiator } => {
                let record = record.map_or_else(String::new, |r| format!(" {r}"));
                let purpose = purpose.map_or_else(String::new, |p| format!(" for {p}"));
                let initiator = initiator.map_or_else(String::new, |i| format!(" by {i}"));
                format!("refused {action}{record}{purpose}{initiator}: {why}")
            }
            Self::RefusalsCounted { action, why, count, since } => {
                format!("refused {action} {count} more times since {}: {why}", Utc(*since))
            }
            Self::ControlChanged { version, hash, change } => {
                format!("changed control to version {version} ({hash}): {}", change.words())
            }
            Self::Consulted { action } => format!("did {action}"),
            Self::VaultOpened => "opened the vault".into(),
            Self::VaultClosed => "closed the vault".into(),
            Self::LogStarted { log } => format!("started log {log}"),
            Self::Swept { rows } => format!("deleted {rows} rows whose time was over"),
            Self::ShareEntered { share } => format!("entered share {share}"),
            Self::Unsealed => "unsealed the vault".into(),
            Self::Sealed => "sealed the vault".into(),
            Self::CustodyAccepted { split, share } => {
                format!(
                    "accepted custody of share {share} of split {}",
                    data_encoding::HEXLOWER.encode(split)
                )
            }
            Self::Rewrapped { key, rows } => format!("wrapped {rows} tokens' keys anew under key {key}"),
            Self::UsesReserved { key, upto } => format!("reserved uses of key {key} up to {upto}"),
            Self::Resealed { key, rows } => format!("sealed {rows} rows anew under key {key}"),
        }
    }
}

impl ControlChange {
    fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        match self {
            Self::Created => w.u8(1),
            Self::PolicyApplied => w.u8(2),
            Self::KeyAdded { key } => w.u8(3).u32(*key),
            Self::KeyState { key, state } => w.u8(4).u32(*key).u8(state.id()),
            Self::LockSet { lock, reason, note } => {
                w.u8(5).u32(*lock).u8(reason.id());
                match note {
                    Some(hash) => w.u8(1).fixed(&hash.0),
                    None => w.u8(0),
                }
            }
            Self::LockLifted { lock } => w.u8(6).u32(*lock),
            Self::KeyDrained { key } => w.u8(7).u32(*key),
            Self::KeyCompromised { key, reason, note } => {
                w.u8(16).u32(*key).u8(reason.id());
                match note {
                    Some(hash) => w.u8(1).fixed(&hash.0),
                    None => w.u8(0),
                }
            }
            Self::KeyShredded { key, rows } => w.u8(17).u32(*key).u64(*rows),
            Self::CustodyTaken { custodian } => w.u8(8).u8(*custodian),
            Self::CustodyEnded { custodian } => w.u8(9).u8(*custodian),
            Self::ErasureKeyDestroyed { key, before, custodians } => {
                let kinds = custodians.get(..custodians.len().min(MAX_KINDS)).unwrap_or_default();
                w.u8(21).u32(*key).u64(*before).e(kinds)
            }
            Self::LogHandedOver { from, to } => w.u8(20).fixed(&from.0).fixed(&to.0),
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Torn> {
        Ok(match r.u8()? {
            1 => Self::Created,
            2 => Self::PolicyApplied,
            3 => Self::KeyAdded { key: r.u32()? },
            4 => Self::KeyState { key: r.u32()?, state: word(r, KeyState::from_id)? },
            5 => Self::LockSet {
                lock: r.u32()?,
                reason: word(r, LockReason::from_id)?,
                note: if flag(r)? { Some(Hash(r.array()?)) } else { None },
            },
            6 => Self::LockLifted { lock: r.u32()? },
            7 => Self::KeyDrained { key: r.u32()? },
            16 => Self::KeyCompromised {
                key: r.u32()?,
                reason: word(r, CompromiseReason::from_id)?,
                note: if flag(r)? { Some(Hash(r.array()?)) } else { None },
            },
            17 => Self::KeyShredded { key: r.u32()?, rows: r.u64()? },
            8 => Self::CustodyTaken { custodian: r.u8()? },
            9 => Self::CustodyEnded { custodian: r.u8()? },
            21 => Self::ErasureKeyDestroyed {
                key: r.u32()?,
                before: r.u64()?,
                custodians: Some(r.e()?.to_vec()).filter(|kinds| kinds.len() <= MAX_KINDS).ok_or(Torn)?,
            },
            20 => Self::LogHandedOver { from: Hash(r.array()?), to: Hash(r.array()?) },
            _ => return Err(Torn),
        })
    }

    fn words(&self) -> String {
        match self {
            Self::Created => "vault created".into(),
            Self::PolicyApplied => "policy applied".into(),
            Self::KeyAdded { key } => format!("key {key} added"),
            Self::KeyState { key, state } => format!("key {key} is {state}"),
            Self::LockSet { lock, reason, note } => {
                let note = note.map_or_else(String::new, |hash| format!(", note {hash}"));
                format!("lock {lock} set for {reason}{note}")
            }
            Self::LockLifted { lock } => format!("lock {lock} lifted"),
            Self::KeyDrained { key } => format!("no row is under key {key} any more"),
            Self::KeyCompromised { key, reason, note } => {
                let note = note.map_or_else(String::new, |hash| format!(", note {hash}"));
                format!("key {key} is compromised: {reason}{note}")
            }
            Self::KeyShredded { key, rows } => format!("key {key} was destroyed with {rows} rows under it"),
            Self::CustodyTaken { custodian } => format!("a custodian of kind {custodian} took custody"),
            Self::CustodyEnded { custodian } => format!("the custody of one of kind {custodian} ended"),
            Self::ErasureKeyDestroyed { key, before, custodians } => format!(
                "erasure key {key} is destroyed, and with it what was erased before epoch {before} (custodians of kinds \
                 {custodians:?})"
            ),
            Self::LogHandedOver { from, to } => {
                format!("the log is handed over from verifier key {from} to {to}")
            }
        }
    }
}

fn word<W>(r: &mut Reader<'_>, from_id: fn(u8) -> Option<W>) -> Result<W, Torn> {
    from_id(r.u8()?).ok_or(Torn)
}

fn optional_word<W>(r: &mut Reader<'_>, from_id: fn(u8) -> Option<W>) -> Result<Option<W>, Torn> {
    match r.u8()? {
        0 => Ok(None),
        id => from_id(id).map(Some).ok_or(Torn),
    }
}

fn flag(r: &mut Reader<'_>) -> Result<bool, Torn> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Torn),
    }
}

fn optional(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn again(redelivered: bool) -> &'static str {
    if redelivered { ", again" } else { "" }
}

fn as_hex<S: Serializer>(bytes: &[u8; 16], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&data_encoding::HEXLOWER.encode(bytes))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn as_utc<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Utc(*at))
}

/// A moment as RFC 3339 shows it, in UTC with milliseconds.
struct Utc(Timestamp);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.0;
        let (year, month, day) = civil(ms / 86_400_000);
        let (hour, minute, second) = (ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1_000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
    }
}

/// Year, month and day of the proleptic Gregorian calendar, `days` after 1970-01-01. Years are counted from
/// March, so that the leap day comes last and months have a regular length (153 days per five of them).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097); // 400 years
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (400 * era + year_of_era + u64::from(month < 3), month, day)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::audit) fn disclosed(at: u64, epoch: u64) -> AuditEntry {
        AuditEntry {
            at: Timestamp(at),
            epoch,
            principal: Who::Listed(PrincipalName::parse("payment-gateway").unwrap()),
            merchant: Some(MerchantName::parse("acme").unwrap()),
            channel: Some(ChannelName::parse("web-shop").unwrap()),
            event: Event::Disclosed {
                record: Ref([0xab; 16]),
                purpose: Purpose::Authorization,
                initiator: Initiator::Cardholder,
                show: Show::Full,
                redelivered: false,
            },
        }
    }

    fn every_event_to_somebody_else() -> Vec<Event> {
        let record = Ref([7; 16]);
        let (purpose, initiator) = (Purpose::Export, Initiator::Merchant);
        vec![
            Event::DisclosedTo {
                record,
                purpose,
                initiator,
                to: Outlet::Recipient(RecipientName::parse(&"r".repeat(63)).unwrap()),
                redelivered: true,
            },
            Event::DisclosedTo {
                record,
                purpose,
                initiator,
                to: Outlet::Destination(DestinationName::parse("bank").unwrap()),
                redelivered: false,
            },
            Event::SpentTo {
                record,
                version: 2,
                purpose,
                initiator,
                to: Outlet::Recipient(RecipientName::parse(&"r".repeat(63)).unwrap()),
            },
            Event::DisclosedEarlierTo {
                record,
                replaced_at: Timestamp(1_790_000_000_000),
                purpose,
                initiator,
                to: Outlet::Recipient(RecipientName::parse(&"r".repeat(63)).unwrap()),
                redelivered: true,
            },
        ]
    }

    fn every_event() -> Vec<Event> {
        let record = Ref([7; 16]);
        let (purpose, initiator) = (Purpose::Export, Initiator::Merchant);
        let changed = |change| Event::ControlChanged { version: 9, hash: Hash([3; 32]), change };
        vec![
            Event::Tokenized {
                record,
                version: 1,
                minting: Minting::Minted,
                purpose,
                initiator,
                redelivered: false,
            },
            Event::Tokenized {
                record,
                version: 1,
                minting: Minting::Reused,
                purpose,
                initiator,
                redelivered: true,
            },
            Event::Disclosed { record, purpose, initiator, show: Show::Masked, redelivered: true },
            Event::Inspected { record, show: Show::LastFour },
            Event::Revoked { record, version: 2, channels: RevokedOn::All },
            Event::Revoked {
                record,
                version: 2,
                channels: RevokedOn::One(ChannelName::parse(&"c".repeat(63)).unwrap()),
            },
            Event::Spent { record, version: 2, purpose, initiator },
            Event::Changed { record, version: 2, change: RecordChange::Disabled },
            Event::Replaced { record, version: 2, reason: ReplaceReason::Stolen },
            Event::DisclosedEarlier {
                record,
                replaced_at: Timestamp(1_790_000_000_000),
                purpose,
                initiator,
                show: Show::Full,
                redelivered: true,
            },
            Event::Fingerprinted { purpose, initiator },
            Event::Listed { subject: record, cards: 9, show: Show::Masked },
            Event::Erased { subject: record, cards: 9 },
            Event::CodeHeld { record },
            Event::CodeRead { record, purpose, initiator },
            Event::CodeDropped { record },
            Event::Refused {
                action: Action::Detokenize,
                record: Some(record),
                why: Refusal::Foreign,
                purpose: Some(purpose),
                initiator: Some(initiator),
            },
            Event::Refused {
                action: Action::SetLock,
                record: None,
                why: Refusal::UnlistedPrincipal,
                purpose: None,
                initiator: None,
            },
            Event::RefusalsCounted {
                action: Action::Tokenize,
                why: Refusal::GuessBudgetSpent,
                count: 1_000,
                since: Timestamp(1_790_000_000_000),
            },
            changed(ControlChange::Created),
            changed(ControlChange::PolicyApplied),
            changed(ControlChange::KeyAdded { key: 5 }),
            changed(ControlChange::KeyState { key: 5, state: KeyState::Compromised }),
            changed(ControlChange::LockSet { lock: 2, reason: LockReason::Drill, note: Some(Hash([1; 32])) }),
            changed(ControlChange::LockSet { lock: 2, reason: LockReason::Fraud, note: None }),
            changed(ControlChange::LockLifted { lock: 2 }),
            Event::Consulted { action: Action::ReadAudit },
            Event::VaultOpened,
            Event::VaultClosed,
            Event::Swept { rows: 7 },
            Event::Resealed { key: 9, rows: 256 },
            Event::ShareEntered { share: 16 },
            Event::Unsealed,
            Event::Sealed,
            Event::CustodyAccepted { split: [1, 2, 3, 4], share: 2 },
            Event::Rewrapped { key: 9, rows: 1_000 },
            Event::UsesReserved { key: 9, upto: 1 << 40 },
            changed(ControlChange::KeyDrained { key: 5 }),
            changed(ControlChange::KeyCompromised {
                key: 5,
                reason: CompromiseReason::StolenCopy,
                note: Some(Hash([1; 32])),
            }),
            changed(ControlChange::KeyCompromised { key: 5, reason: CompromiseReason::Drill, note: None }),
            changed(ControlChange::KeyShredded { key: 5, rows: 7 }),
            changed(ControlChange::CustodyTaken { custodian: 1 }),
            changed(ControlChange::CustodyEnded { custodian: 1 }),
            changed(ControlChange::ErasureKeyDestroyed { key: 2, before: 77, custodians: vec![1, 3] }),
            changed(ControlChange::LogHandedOver { from: Hash([4; 32]), to: Hash([5; 32]) }),
            Event::LogStarted { log: 1 },
        ]
    }

    /// Every event by every kind of principal, once with the longest names and once with none.
    fn every_entry() -> Vec<AuditEntry> {
        let long = "n".repeat(63);
        let listed = Who::Listed(PrincipalName::parse(&long).unwrap());
        let mut entries = Vec::new();
        for event in every_event().into_iter().chain(every_event_to_somebody_else()) {
            for principal in [listed.clone(), Who::Unlisted([9; 16]), Who::Vault] {
                for named in [true, false] {
                    entries.push(AuditEntry {
                        at: Timestamp(1_790_000_000_123),
                        epoch: 4,
                        principal: principal.clone(),
                        merchant: named.then(|| MerchantName::parse(&long).unwrap()),
                        channel: named.then(|| ChannelName::parse(&long).unwrap()),
                        event: event.clone(),
                    });
                }
            }
        }
        entries
    }

    #[test]
    fn every_entry_reads_back_and_every_cut_of_it_is_torn() {
        for entry in every_entry() {
            let bytes = entry.encode();
            assert!(bytes.len() <= MAX_ENTRY, "{} bytes: {entry:?}", bytes.len());
            assert_eq!(AuditEntry::decode(&bytes), Ok(entry.clone()));
            for cut in 0..bytes.len() {
                assert_eq!(AuditEntry::decode(&bytes[..cut]), Err(Torn), "{entry:?} cut at {cut}");
            }
            assert_eq!(AuditEntry::decode(&[&bytes[..], &[0]].concat()), Err(Torn));
        }
    }

    #[test]
    fn an_entry_has_the_bytes_that_the_format_says() {
        let bytes = disclosed(0x0102, 0x03).encode();
        let expected = [
            &[1, 2][..],               // version, event
            &[0, 0, 0, 0, 0, 0, 1, 2], // at
            &[0, 0, 0, 0, 0, 0, 0, 3], // epoch
            &[1, 0, 15],               // listed
            b"payment-gateway\0\x04acme\0\x08web-shop",
            &[0xab; 16],   // record
            &[1, 1, 4, 0], // authorization, cardholder, full, first delivery
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_typical_entry_is_small() {
        let sizes: Vec<(&str, usize)> = every_event()
            .into_iter()
            .zip([
                "tokenized",
                "",
                "disclosed",
                "inspected",
                "revoked",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "refused",
            ])
            .filter(|(_, name)| !name.is_empty())
            .map(|(event, name)| {
                (name, AuditEntry { event, ..disclosed(1_790_000_000_123, 12) }.encode().len())
            })
            .collect();
        assert_eq!(
            sizes,
            [("tokenized", 76), ("disclosed", 72), ("inspected", 69), ("revoked", 73), ("refused", 73)]
        );
        let longest = every_entry().iter().map(|entry| entry.encode().len()).max();
        assert_eq!(longest, Some(319));
    }

    #[test]
    fn a_line_for_people_and_one_for_machines_say_the_same() {
        let entry = disclosed(1_790_000_000_123, 12);
        assert_eq!(
            entry.line(),
            "2026-09-21T14:13:20.123Z epoch 12 payment-gateway acme/web-shop disclosed \
             abababababababababababababababab full for authorization by cardholder"
        );
        let json = serde_json::to_value(&entry).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "at": "2026-09-21T14:13:20.123Z", "epoch": 12, "principal": {"listed": "payment-gateway"},
                "merchant": "acme", "channel": "web-shop", "event": "disclosed",
                "record": "abababababababababababababababab", "purpose": "authorization",
                "initiator": "cardholder", "show": "full", "redelivered": false,
            })
        );
        for entry in every_entry() {
            assert!(serde_json::to_string(&entry).is_ok(), "{entry:?}");
            assert!(!entry.line().contains('\n'));
        }
    }

    #[test]
    fn days_are_told_as_the_calendar_tells_them() {
        for (ms, told) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Utc(Timestamp(ms)).to_string(), told);
        }
        assert!(!Utc(Timestamp(u64::MAX)).to_string().is_empty());
    }

    #[test]
    fn a_stranger_is_named_by_a_hash_of_authority_and_name() {
        assert_eq!(Who::unlisted(b"ca", b"name"), Who::unlisted(b"ca", b"name"));
        assert_ne!(Who::unlisted(b"ca", b"name"), Who::unlisted(b"can", b"ame"));
    }

    #[test]
    fn an_entry_with_a_byte_changed_is_another_entry_or_none() {
        for entry in every_entry() {
            let bytes = entry.encode();
            for at in 0..bytes.len() {
                for to in [0, 1, 2, 3, b'a', 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = to;
                    if let Ok(read) = AuditEntry::decode(&changed) {
                        assert_eq!(read.encode(), changed, "{entry:?} with {to} at {at}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn noise_is_no_entry_or_a_canonical_one(noise in prop::collection::vec(any::<u8>(), 0..340)) {
            let noise = [&[VERSION, 2][..], &noise].concat();
            if let Ok(entry) = AuditEntry::decode(&noise) {
                prop_assert!(noise.len() <= MAX_ENTRY);
                prop_assert_eq!(entry.encode(), noise);
            }
        }
    }
}
