//! What comes in and what goes out: requests whose every field is already valid, and answers.

use std::fmt;

use super::codes::{CodeTicket, SecurityCode};
use crate::attributes::{Attribute, Attributes};
use crate::audit::entry::{Minting, Outlet};
use crate::audit::receipt::Receipt;
use crate::codec::Writer;
use crate::envelope::KeyId;
use crate::error::Error;
use crate::hpke::{PublicKey, Sealed};
use crate::mask::Mask;
use crate::name::{ChannelName, DestinationName, FormatName, MerchantName, RecipientName};
use crate::pan::{self, CardExpiry, MaskedPan, Pan};
use crate::policy::MerchantInForce;
use crate::record::Card;
use crate::restrictions::Restrictions;
use crate::sealed::SealedCard;
use crate::time::Timestamp;
use crate::token::{Scheme, Token};
use crate::value::Value;
use crate::words::{Initiator, Purpose, Ref, ReplaceReason, Show};

/// The most items of one batch: one message stays below 1 MiB and one commit below a few milliseconds.
pub const MAX_BATCH: usize = 1_000;

/// The longest customer reference, session or client address, in bytes.
pub const MAX_CONTEXT: usize = 128;

/// A request's idempotency key: a UUID, unique per principal for 24 hours.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId(pub(crate) [u8; 16]);

impl RequestId {
    /// Parses the 36 characters of a UUID that is not nil (RFC 9562).
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || Error::malformed("header.request_id", "must be a UUID of 36 characters, not nil");
        let uuid = uuid::Uuid::try_parse(text).map_err(|_| wrong())?;
        if text.len() != 36 || uuid.is_nil() { Err(wrong()) } else { Ok(Self(uuid.into_bytes())) }
    }

    /// A fresh random one (version 4).
    pub fn random() -> Result<Self, Error> {
        let bytes = crate::random::bytes()?;
        Ok(Self(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes()))
    }
}

impl RequestId {
    /// The id of the second half of a translation, whose first half has this one: the same for the same place, since a
    /// retry must find it.
    pub(super) fn derived(self, merchant: Option<&MerchantName>, channel: &ChannelName) -> Self {
        let mut w = Writer::default();
        w.fixed(b"vault/translation").fixed(&self.0);
        w.e(merchant.map_or("", MerchantName::as_str).as_bytes()).e(channel.as_str().as_bytes());
        let hash = ring::digest::digest(&ring::digest::SHA256, &w.done());
        Self(hash.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

/// What a checkout knows around a payment. Free text: a field that holds a card number is refused by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Context {
    pub(crate) customer_reference: String,
    pub(crate) session: String,
    pub(crate) client_address: String,
}

impl Context {
    /// Takes each field, empty where there is none, of at most 128 bytes without control characters.
    pub fn new(customer_reference: &str, session: &str, client_address: &str) -> Result<Self, Error> {
        free_text("context.customer_reference", customer_reference)?;
        free_text("context.session", session)?;
        free_text("context.client_address", client_address)?;
        Ok(Self {
            customer_reference: customer_reference.to_owned(),
            session: session.to_owned(),
            client_address: client_address.to_owned(),
        })
    }
}

fn free_text(field: &'static str, text: &str) -> Result<(), Error> {
    if text.len() > MAX_CONTEXT || text.chars().any(char::is_control) {
        return Err(Error::malformed(field, "must have at most 128 bytes and no control characters"));
    }
    if pan::holds_card_number(text) {
        return Err(Error::malformed(field, "must not hold a card number; cards come in as item.plain.pan"));
    }
    Ok(())
}

/// What every request carries.
#[derive(Clone)]
pub struct Header {
    /// The merchant; may be left out by a principal, which is of one merchant.
    pub merchant: Option<MerchantName>,
    /// The channel; may be left out by a principal that is bound to one.
    pub channel: Option<ChannelName>,
    /// The idempotency key.
    pub request_id: RequestId,
    /// What for.
    pub purpose: Purpose,
    /// Who began the payment.
    pub initiator: Initiator,
    /// What the checkout knows around it.
    pub context: Context,
    /// When to give up, if the change is not being written by then.
    pub deadline: Option<Timestamp>,
}

impl Header {
    /// A header with a fresh request id, no context and no deadline, for a principal bound to one channel.
    pub fn new(purpose: Purpose, initiator: Initiator) -> Result<Self, Error> {
        Ok(Self {
            merchant: None,
            channel: None,
            request_id: RequestId::random()?,
            purpose,
            initiator,
            context: Context::default(),
            deadline: None,
        })
    }
}

/// What an upgrade answers.
pub struct UpgradedToken {
    /// The token of the current slot.
    pub token: Token,
    /// Whether it is another than the one that was sent.
    pub changed: bool,
    /// Proof that it is in the log.
    pub receipt: Receipt,
}

/// A card, or another value, to be swapped for a token.
pub struct NewCard {
    /// The card number or other value.
    pub value: Value,
    /// The card's or network token's own expiry; a card past it is still a card. Other values have none.
    pub card_expiry: Option<CardExpiry>,
    /// How the token is made; the channel's own format if none is named.
    pub format: Option<FormatName>,
    /// Until when the token works; such a token is always a fresh one.
    pub valid_until: Option<Timestamp>,
    /// On which channels the token works; the format's default if empty.
    pub channels: Vec<ChannelName>,
    /// What the token may be used for, beside what the policy says. A single-use token is always a fresh one.
    pub restrictions: Restrictions,
    /// What is known around the card. Of a card that is known here it changes the record, as a later expiry does.
    pub attributes: Attributes,
    /// What is known around this very card, in place of the header's context: an import has many customers.
    pub context: Option<Context>,
    /// The token that the card has had elsewhere, which it is to keep. For who may import alone; never one that another
    /// card has, or that could be vaultless.
    pub existing: Option<Token>,
}

impl NewCard {
    /// A card or other value with nothing around it: the channel's format for its kind, no expiry, no narrowing.
    #[must_use]
    pub fn new(value: impl Into<Value>) -> Self {
        Self {
            value: value.into(),
            card_expiry: None,
            format: None,
            valid_until: None,
            channels: Vec::new(),
            restrictions: Restrictions::default(),
            attributes: Attributes::default(),
            context: None,
            existing: None,
        }
    }
}

/// A card to be swapped for a token that came sealed to one of the vault's keys: who brings it need not be able to read it.
pub struct SealedNewCard {
    /// The card.
    pub card: SealedCard,
    /// As [`NewCard::format`].
    pub format: Option<FormatName>,
    /// As [`NewCard::valid_until`].
    pub valid_until: Option<Timestamp>,
    /// As [`NewCard::channels`].
    pub channels: Vec<ChannelName>,
    /// As [`NewCard::restrictions`].
    pub restrictions: Restrictions,
    /// As [`NewCard::attributes`].
    pub attributes: Attributes,
    /// As [`NewCard::context`].
    pub context: Option<Context>,
}

impl SealedNewCard {
    /// A card with nothing around it: the channel's format, no expiry, no narrowing.
    #[must_use]
    pub fn new(card: SealedCard) -> Self {
        Self {
            card,
            format: None,
            valid_until: None,
            channels: Vec::new(),
            restrictions: Restrictions::default(),
            attributes: Attributes::default(),
            context: None,
        }
    }

    pub(super) fn opened(self, pan: Pan, card_expiry: Option<CardExpiry>) -> NewCard {
        let Self { card: _, format, valid_until, channels, restrictions, attributes, context } = self;
        let value = Value::Card(pan);
        let existing = None;
        NewCard {
            value,
            card_expiry,
            format,
            valid_until,
            channels,
            restrictions,
            attributes,
            context,
            existing,
        }
    }
}

/// A card in one of the forms that it may come in.
pub enum Brought {
    /// In the clear.
    Plain(NewCard),
    /// Sealed to the vault.
    Sealed(SealedNewCard),
}

/// A card in one of the forms in which it may come with a verb that makes no token of it.
pub enum GivenCard {
    /// In the clear.
    Plain(Pan, Option<CardExpiry>),
    /// Sealed to the vault, for the request's channel.
    Sealed(SealedCard),
}

impl From<Pan> for GivenCard {
    fn from(pan: Pan) -> Self {
        Self::Plain(pan, None)
    }
}

/// The public key that cards are sealed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealingKey {
    /// Its number: names it in a [`SealedCard`].
    pub id: KeyId,
    /// Its bytes.
    pub public_key: PublicKey,
    /// HPKE's `info`, which binds a card to the merchant, the channel and the key.
    pub info: Vec<u8>,
    /// Until when a card sealed to it opens for certain. By then the key is to be fetched anew.
    pub valid_until: Timestamp,
}

/// The answer to a tokenize.
pub struct Tokenized {
    /// The token.
    pub token: Token,
    /// What may be shown of the value.
    pub mask: Mask,
    /// The card network's id, such as `visa`; empty if no prefix matched.
    pub network: String,
    /// The card's expiry, as this request gave it.
    pub card_expiry: Option<CardExpiry>,
    /// Until when the token works.
    pub valid_until: Option<Timestamp>,
    /// Whether the token is new, if a rule lets this principal know.
    pub minting: Option<Minting>,
    /// The format that made it.
    pub format: FormatName,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// How much of a card a detokenize gives.
pub enum Revealed {
    /// The card number.
    Plain(Pan),
    /// Another value than a card number.
    Other(Value),
    /// The card, sealed to a recipient: JSON, see [`crate::sealed`].
    Sealed {
        /// Which of the recipient's keys: the first 16 hexadecimal digits of its SHA-256.
        key_id: String,
        /// The message.
        card: Sealed,
    },
    /// What may be shown of it.
    Masked(Mask),
}

/// The answer to a detokenize.
pub struct Detokenized {
    /// The card.
    pub revealed: Revealed,
    /// The card network's id; empty if no prefix matched.
    pub network: String,
    /// The card's expiry.
    pub card_expiry: Option<CardExpiry>,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// The answer to an inspect. There is no card number in it.
pub struct Inspected {
    /// What may be shown of the value, as the rule says: masked, or last four.
    pub mask: Mask,
    /// The card network's id; empty if no prefix matched.
    pub network: String,
    /// The card's expiry.
    pub card_expiry: Option<CardExpiry>,
    /// Until when the token works.
    pub valid_until: Option<Timestamp>,
    /// When the token was made.
    pub made_at: Timestamp,
    /// How the token was made, if its format is still in the policy.
    pub scheme: Option<Scheme>,
    /// That format's name.
    pub format: Option<FormatName>,
    /// On which of the merchant's channels the token works.
    pub channels: Vec<ChannelName>,
    /// What it may be used for.
    pub restrictions: Restrictions,
    /// What is known around the card.
    pub attributes: Attributes,
    /// The cards that it stood for before and that are still kept, the newest first.
    pub earlier: Vec<EarlierCard>,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// A card that a token stood for before. There is no card number in it.
pub struct EarlierCard {
    /// What may be shown of the card number.
    pub mask: MaskedPan,
    /// The card network's id; empty if no prefix matched.
    pub network: String,
    /// The card's expiry.
    pub card_expiry: Option<CardExpiry>,
    /// Why another took its place.
    pub reason: ReplaceReason,
    /// When.
    pub replaced_at: Timestamp,
    /// Until when its number can be had for refunds and disputes.
    pub kept_until: Timestamp,
}

/// A card that is to take the place of a token's card.
pub struct Replacement {
    /// The new card, with its own expiry.
    pub card: GivenCard,
    /// Why.
    pub reason: ReplaceReason,
}

/// The answer to a replacement.
pub struct Replaced {
    /// What may be shown of the new card number.
    pub mask: Mask,
    /// The new card's network; empty if no prefix matched.
    pub network: String,
    /// The new card's expiry.
    pub card_expiry: Option<CardExpiry>,
    /// Until when the old card number can be had for refunds and disputes.
    pub kept_until: Option<Timestamp>,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// Whether a token can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenStanding {
    /// It can.
    Active,
    /// Its time is over.
    Expired,
    /// It is stopped for now.
    Disabled,
    /// It was for a single use, and was used.
    Spent,
}

/// A token of a customer, without the token.
pub struct ListedToken {
    /// Its record's name, as receipts and the log have it.
    pub record: Ref,
    /// What may be shown of its card number, or of another value.
    pub mask: Mask,
    /// The card network's id; empty if no prefix matched.
    pub network: String,
    /// The card's expiry.
    pub card_expiry: Option<CardExpiry>,
    /// Whether it can be used.
    pub standing: TokenStanding,
    /// Until when it works.
    pub valid_until: Option<Timestamp>,
    /// When it was made.
    pub made_at: Timestamp,
    /// On which of the merchant's channels it works.
    pub channels: Vec<ChannelName>,
    /// What it may be used for.
    pub restrictions: Restrictions,
}

impl ListedToken {
    pub(super) fn of(card: &Card, merchant: &MerchantInForce, shown: Show, now: Timestamp) -> Self {
        let row = &card.row;
        Self {
            record: row.record,
            mask: match shown {
                Show::Masked | Show::Full => row.mask.narrowed(|length| merchant.mask(length)),
                Show::LastFour | Show::Nothing => row.mask.last_four_only(),
            },
            network: row.network.clone(),
            card_expiry: row.card_expiry,
            standing: match () {
                () if card.is_expired(now) => TokenStanding::Expired,
                () if row.standing.spent.is_some() => TokenStanding::Spent,
                () if row.standing.disabled => TokenStanding::Disabled,
                () => TokenStanding::Active,
            },
            valid_until: row.valid_until,
            made_at: row.made_at,
            channels: merchant.granted(&row.grants),
            restrictions: row.restrictions,
        }
    }
}

/// A page of a customer's tokens.
pub struct Listed {
    /// Those of them that work on the request's channel, in the order in which they were made.
    pub tokens: Vec<ListedToken>,
    /// Where the next page begins, if there is one.
    pub next: Option<usize>,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// The answer to an erasure.
pub struct Erased {
    /// How many tokens ended by it.
    pub tokens: u32,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// A card's public fingerprint.
pub struct Fingerprinted {
    /// The same for the same card number of the same merchant, and for nobody else to work out.
    pub fingerprint: [u8; 16],
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// A card whose tokens are to end.
pub struct CardToDelete {
    /// The card; its expiry is not looked at.
    pub card: GivenCard,
    /// The restrictions that its tokens were made under, beside none.
    pub restrictions: Restrictions,
}

/// The answer to a deletion by card.
pub struct Deleted {
    /// How many tokens ended by it.
    pub tokens: u32,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// The answer to a security code.
pub struct CodeHeld {
    /// What it is asked for with.
    pub ticket: CodeTicket,
    /// Until when it is held.
    pub held_until: Timestamp,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// A security code given back. It is held no more.
pub struct CodeRead {
    /// The code.
    pub code: SecurityCode,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// The answer to an authorization that is over.
pub struct Completed {
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// A token that is to become a token of another channel or merchant.
pub struct Translation {
    /// The token.
    pub token: Token,
    /// Whose the new token is; the request's own merchant if unset.
    pub merchant: Option<MerchantName>,
    /// On which of its channels the new token is made.
    pub channel: ChannelName,
    /// How it is made; that channel's own format if unset.
    pub format: Option<FormatName>,
    /// Until when it works: never longer than the source.
    pub valid_until: Option<Timestamp>,
    /// What it may be used for, beside what the source is restricted to.
    pub restrictions: Restrictions,
    /// What is known around the card there. If unset: the header's context where no merchant is named, else nothing.
    pub context: Option<Context>,
}

/// What is to be known around a card from now on. Neither its number nor its token changes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct AttributesUpdate {
    /// The card's own expiry, if it has a new one.
    pub card_expiry: Option<CardExpiry>,
    /// What is set; of the maps, entry by entry.
    pub set: Attributes,
    /// What is emptied before it.
    pub clear: Vec<Attribute>,
}

/// The answer to a change of a record.
pub struct ChangedToken {
    /// Whether the token is stopped for now.
    pub disabled: bool,
    /// On which of the merchant's channels it is granted.
    pub channels: Vec<ChannelName>,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// Where a token is to stop working.
#[derive(Clone, PartialEq, Eq)]
pub enum Revocation {
    /// On every channel: the card number is deleted, a tombstone stays.
    Everywhere,
    /// On one channel.
    On(ChannelName),
}

/// The answer to a revoke.
pub struct RevokedToken {
    /// Whether the token works on no channel any more.
    pub everywhere: bool,
    /// On which of the merchant's channels it still works.
    pub channels: Vec<ChannelName>,
    /// Where it stands in the log.
    pub receipt: Receipt,
}

/// A request with cards in it that the program itself sends somewhere: what a destination is given, nobody else gets.
pub struct Outgoing {
    /// Where it goes: the log says so.
    pub to: DestinationName,
    /// SHA-256 of all that is sent, with the tokens in the cards' places: a request id stands for one request.
    pub request: [u8; 32],
}

/// How much of a card a detokenize asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reveal {
    /// The card number.
    Plain,
    /// The mask.
    Masked,
    /// The card, sealed to a registered recipient: who asks cannot read it.
    SealedTo(RecipientName),
}

/// A card that a detokenize asks for.
pub struct Wanted {
    /// Its token.
    pub token: Token,
    /// How much of it.
    pub reveal: Reveal,
    /// The card that the token stood for then, for refunds and disputes; the one that it stands for now if unset.
    pub as_of: Option<Timestamp>,
}

impl Wanted {
    /// The card that the token stands for now.
    #[must_use]
    pub fn now(token: Token, reveal: Reveal) -> Self {
        Self { token, reveal, as_of: None }
    }
}

impl From<(Token, Reveal)> for Wanted {
    fn from((token, reveal): (Token, Reveal)) -> Self {
        Self::now(token, reveal)
    }
}

impl Reveal {
    pub(crate) fn asks(self) -> (Show, Option<Outlet>) {
        match self {
            Self::Plain => (Show::Full, None),
            Self::Masked => (Show::Masked, None),
            Self::SealedTo(recipient) => (Show::Full, Some(Outlet::Recipient(recipient))),
        }
    }
}
