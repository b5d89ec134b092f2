//! Between messages and the core's types: parses at the door, so that behind it there are only valid values.
//!
//! Refused, by the field's path: everything unspecified, malformed or unknown. No refusal repeats what it refused.

mod life;

use std::time::Duration;

use vault_core::audit::checkpoint::SignedCheckpoint;
use vault_core::audit::entry::Minting;
use vault_core::audit::handover::HandOver;
use vault_core::audit::receipt::Receipt;
use vault_core::envelope::KeyId;
use vault_core::error::Error;
use vault_core::hpke::Sealed;
use vault_core::mask::Mask;
use vault_core::name::{ChannelName, DestinationName, FormatName, MerchantName, NameError, RecipientName};
use vault_core::pan::{CardExpiry, MaskedPan, Pan, PanError};
use vault_core::sealed::SealedCard;
use vault_core::time::Timestamp;
use vault_core::token::{Scheme, Token};
use vault_core::value::Value;
use vault_core::vault::{
    Brought, Context, Detokenized, Header, Inspected, NewCard, RequestId, Reveal, Revealed, Revocation,
    RevokedToken, SealedNewCard, SealingKey, Tokenized, Wanted,
};
use vault_core::words::{Initiator, Purpose};
use vault_proto::v1;

use crate::data;

pub use life::{
    changed, code_read, complete, completed, delete_card, deleted, disable, enable, fingerprint,
    fingerprinted, held_code, hold_code, listed, read_code, replace, replaced, translate, update, upgrade,
    upgraded,
};

/// The longest `reference` of an item, in bytes: it only finds its way back.
const MAX_REFERENCE: usize = 128;

/// The latest moment that a message can name: the end of the year 9999, as the well-known type says.
const LAST_SECOND: i64 = 253_402_300_799;

fn required<T>(field: Option<T>, name: &'static str) -> Result<T, Error> {
    field.ok_or_else(|| Error::malformed(name, "is required"))
}

fn name<T>(
    text: &str,
    field: &'static str,
    parse: impl Fn(&str) -> Result<T, NameError>,
) -> Result<Option<T>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    parse(text).map(Some).map_err(|e| {
        Error::malformed(
            field,
            match e {
                NameError::Length => "must have 1 to 63 characters",
                NameError::Alphabet => "may hold only a-z, 0-9 and hyphens, and may not begin with a hyphen",
                NameError::LooksLikeCard => "must not look like a card number",
            },
        )
    })
}

/// A request's header.
pub fn header(header: Option<v1::RequestHeader>, deadline: Option<Timestamp>) -> Result<Header, Error> {
    let v1::RequestHeader { merchant, channel, request_id, purpose, initiator, context } =
        required(header, "header")?;
    let purpose = u8::try_from(purpose).ok().and_then(Purpose::from_id);
    let initiator = u8::try_from(initiator).ok().and_then(Initiator::from_id);
    Ok(Header {
        merchant: name(&merchant, "header.merchant", MerchantName::parse)?,
        channel: name(&channel, "header.channel", ChannelName::parse)?,
        request_id: RequestId::parse(&request_id)?,
        purpose: required(purpose, "header.purpose")?,
        initiator: required(initiator, "header.initiator")?,
        context: context.map(|c| self::context(&c, &HEADER_CONTEXT)).transpose()?.unwrap_or_default(),
        deadline,
    })
}

/// A context's fields by their paths, as it comes in a header.
const HEADER_CONTEXT: [&str; 3] =
    ["header.context.customer_reference", "header.context.session", "header.context.client_address"];

/// The same in an item.
const ITEM_CONTEXT: [&str; 3] =
    ["item.context.customer_reference", "item.context.session", "item.context.client_address"];

fn context(context: &v1::Context, paths: &[&'static str; 3]) -> Result<Context, Error> {
    let v1::Context { customer_reference, session, client_address } = context;
    let parsed = Context::new(customer_reference, session, client_address).map_err(|e| match e {
        // The core does not know where on the wire a context stood.
        Error::Malformed { field, rule } => {
            Error::malformed(paths.iter().find(|path| path.ends_with(field)).copied().unwrap_or(field), rule)
        }
        other => other,
    })?;
    let [_, _, address] = paths;
    if !client_address.is_empty() && client_address.parse::<std::net::IpAddr>().is_err() {
        return Err(Error::malformed(address, "must be an IPv4 or IPv6 address, without a port"));
    }
    Ok(parsed)
}

/// An item's reference: free text of the caller's, given back and never stored.
pub fn reference(text: &str) -> Result<(), Error> {
    if text.len() > MAX_REFERENCE {
        return Err(Error::malformed("item.reference", "must have at most 128 bytes"));
    }
    if vault_core::pan::holds_card_number(text) {
        return Err(Error::malformed("item.reference", "must not hold a card number"));
    }
    Ok(())
}

/// A card to be swapped.
pub fn new_card(item: v1::TokenizeItem) -> Result<Brought, Error> {
    reference(&item.reference)?;
    let card = match required(item.card, "item.plain")? {
        v1::tokenize_item::Card::Plain(card) => Came::of(plain_card(card)?),
        v1::tokenize_item::Card::Sealed(sealed) => Came::Sealed(sealed_card(sealed)),
        v1::tokenize_item::Card::Data(data) => Came::of((data::plain(data)?, None)),
        v1::tokenize_item::Card::NetworkToken(token) => Came::of(data::network_token(token)?),
        v1::tokenize_item::Card::PaymentReference(reference) => {
            Came::of((data::payment_reference(reference)?, None))
        }
    };
    let mut channels = Vec::with_capacity(item.channels.len().min(vault_core::record::MAX_GRANTS));
    for channel in &item.channels {
        let channel = required(name(channel, "item.channels", ChannelName::parse)?, "item.channels")?;
        if channels.contains(&channel) {
            return Err(Error::malformed("item.channels", "must name each channel once"));
        }
        channels.push(channel);
        if channels.len() > vault_core::record::MAX_GRANTS {
            return Err(Error::malformed("item.channels", "must name at most 64 channels"));
        }
    }
    let format = name(&item.format, "item.format", FormatName::parse)?;
    let valid_until = item.valid_until.map(|t| from_timestamp(&t, "item.valid_until")).transpose()?;
    let restrictions = life::restrictions(item.restrictions)?;
    let attributes = life::attributes(item.attributes, &life::NEW)?;
    let context = item.context.map(|c| context(&c, &ITEM_CONTEXT)).transpose()?;
    let existing = match item.existing_token.as_str() {
        "" => None,
        text => Some(Token::parse(text).map_err(|_| {
            Error::malformed(
                "item.existing_token",
                "must have a token's form: 6 to 64 of letters, digits, _ and -, no card number",
            )
        })?),
    };
    Ok(match card {
        Came::Value(value, card_expiry) => Brought::Plain(NewCard {
            value,
            card_expiry,
            format,
            valid_until,
            channels,
            restrictions,
            attributes,
            context,
            existing,
        }),
        Came::Sealed(_) if existing.is_some() => {
            return Err(Error::malformed(
                "item.existing_token",
                "is for cards in the clear: an import has them",
            ));
        }
        Came::Sealed(card) => Brought::Sealed(SealedNewCard {
            card,
            format,
            valid_until,
            channels,
            restrictions,
            attributes,
            context,
        }),
    })
}

/// What an item holds.
enum Came {
    Value(Value, Option<CardExpiry>),
    Sealed(SealedCard),
}

impl Came {
    fn of((value, card_expiry): (Value, Option<CardExpiry>)) -> Self {
        Self::Value(value, card_expiry)
    }
}

/// A card number in the clear, and its date.
fn plain_pan(mut card: v1::PlainCard) -> Result<(Pan, Option<CardExpiry>), Error> {
    let card_expiry = card.card_expiry.map(|e| expiry(e, "item.plain.card_expiry")).transpose()?;
    let pan = Pan::parse(&card.take_pan()).map_err(|e| Error::malformed("item.plain.pan", pan_rule(e)))?;
    Ok((pan, card_expiry))
}

fn plain_card(card: v1::PlainCard) -> Result<(Value, Option<CardExpiry>), Error> {
    plain_pan(card).map(|(pan, card_expiry)| (Value::Card(pan), card_expiry))
}

/// The rule that what should be a card number broke.
#[must_use]
pub fn pan_rule(broken: PanError) -> &'static str {
    match broken {
        PanError::Length => "must have 12 to 19 digits",
        PanError::NotDigits => "must be ASCII digits, with single spaces or hyphens between groups at most",
        PanError::CheckDigit => "must pass the Luhn check",
        PanError::TrackData => "must be a card number alone, not track data",
        PanError::PinBlock => "must be a card number, not a PIN block",
    }
}

/// A sealed card, unread. What is wrong with one has one answer, which is the core's: a name that is no key's is that of
/// no key, and zero is the number of none.
fn sealed_card(card: v1::SealedCard) -> SealedCard {
    let v1::SealedCard { key_id, enc, ciphertext } = card;
    let key = key_id.parse().ok().filter(|id: &u32| id.to_string() == key_id).unwrap_or(0);
    SealedCard { key: KeyId(key), enc, ciphertext }
}

/// The key that cards are sealed to.
#[must_use]
pub fn sealing_key(key: SealingKey) -> v1::SealingKey {
    v1::SealingKey {
        key_id: key.id.0.to_string(),
        public_key: key.public_key.as_bytes().to_vec(),
        suite: vault_core::hpke::SUITE.to_owned(),
        info: key.info,
        valid_until: Some(timestamp(key.valid_until)),
    }
}

/// Where a request is to be sent.
pub fn destination(text: &str) -> Result<DestinationName, Error> {
    required(name(text, "destination", DestinationName::parse)?, "destination")
}

/// For which merchant and channel a key is asked for.
pub fn sealing_place(
    asked: &v1::GetSealingKeyRequest,
) -> Result<(Option<MerchantName>, Option<ChannelName>), Error> {
    let merchant = name(&asked.merchant, "merchant", MerchantName::parse)?;
    Ok((merchant, name(&asked.channel, "channel", ChannelName::parse)?))
}

/// A card's date, which stood in this field.
pub fn expiry(expiry: v1::CardExpiry, field: &'static str) -> Result<CardExpiry, Error> {
    let wrong = || Error::malformed(field, "must have month 1 to 12 and year 2000 to 2099");
    let year = u16::try_from(expiry.year).map_err(|_| wrong())?;
    let month = u8::try_from(expiry.month).map_err(|_| wrong())?;
    CardExpiry::new(year, month).map_err(|_| wrong())
}

/// A token. A card number in its place is refused like any other malformed one.
pub fn token(text: &str) -> Result<Token, Error> {
    use vault_core::token::TokenError;
    Token::parse(text).map_err(|e| {
        Error::malformed(
            "item.token",
            match e {
                TokenError::Length => {
                    "must have 6 to 32 characters, 22 after tok_, or what a token of its look has"
                }
                TokenError::Alphabet => "has no token's shape",
                TokenError::LooksLikeCard => "must be a token, not a card number",
                TokenError::LooksLikeIban => "must be a token, not an account number",
            },
        )
    })
}

/// A token, how much of its card is asked for, and which card.
pub fn detokenize(item: &v1::DetokenizeItem) -> Result<Wanted, Error> {
    reference(&item.reference)?;
    let reveal = match item.form() {
        v1::RevealForm::Unspecified => return Err(Error::malformed("item.form", "is required")),
        v1::RevealForm::Plain => Reveal::Plain,
        v1::RevealForm::SealedToRecipient => Reveal::SealedTo(required(
            name(&item.recipient, "item.recipient", RecipientName::parse)?,
            "item.recipient",
        )?),
        v1::RevealForm::Masked => Reveal::Masked,
    };
    if !item.recipient.is_empty() && item.form() != v1::RevealForm::SealedToRecipient {
        return Err(Error::malformed("item.recipient", "goes with form SEALED_TO_RECIPIENT only"));
    }
    let as_of = item.as_of.as_ref().map(|t| from_timestamp(t, "item.as_of")).transpose()?;
    Ok(Wanted { token: token(&item.token)?, reveal, as_of })
}

/// A token to look at.
pub fn inspect(item: &v1::InspectItem) -> Result<Token, Error> {
    reference(&item.reference)?;
    token(&item.token)
}

/// A token to stop, and where.
pub fn revoke(item: &v1::RevokeItem) -> Result<(Token, Revocation), Error> {
    reference(&item.reference)?;
    let extent = match required(item.extent.as_ref(), "item.extent")? {
        v1::revoke_item::Extent::AllChannels(_) => Revocation::Everywhere,
        v1::revoke_item::Extent::Channel(channel) => {
            let channel = name(channel, "item.channel", ChannelName::parse)?;
            Revocation::On(required(channel, "item.channel")?)
        }
    };
    Ok((token(&item.token)?, extent))
}

fn from_timestamp(at: &prost_types::Timestamp, field: &'static str) -> Result<Timestamp, Error> {
    let wrong = || Error::malformed(field, "must be a moment from 1970 to 9999");
    if !(0..=LAST_SECOND).contains(&at.seconds) || !(0..1_000_000_000).contains(&at.nanos) {
        return Err(wrong());
    }
    let seconds = u64::try_from(at.seconds).map_err(|_| wrong())?;
    let nanos = u64::try_from(at.nanos).map_err(|_| wrong())?;
    Ok(Timestamp(seconds * 1_000 + nanos / 1_000_000))
}

/// A moment.
#[must_use]
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let seconds = i64::try_from(at.0 / 1_000).unwrap_or(LAST_SECOND);
    let nanos = i32::try_from(at.0 % 1_000 * 1_000_000).unwrap_or(0);
    prost_types::Timestamp { seconds, nanos }
}

/// A length of time.
#[must_use]
pub fn duration(of: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(of.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(of.subsec_nanos()).unwrap_or(0),
    }
}

/// A card's date.
#[must_use]
pub fn card_expiry(expiry: Option<CardExpiry>) -> Option<v1::CardExpiry> {
    expiry.map(|e| v1::CardExpiry { month: e.month().into(), year: e.year().into() })
}

/// What may be shown, as a card or as another value.
fn masked(
    mask: &Mask,
    network: String,
    expiry: Option<CardExpiry>,
) -> (Option<v1::MaskedCard>, Option<v1::MaskedData>) {
    match mask {
        Mask::Card(number) => (Some(masked_card(number, network, expiry)), None),
        Mask::NetworkToken(..) | Mask::Reference(_) | Mask::Ends(_) => {
            (None, Some(data::masked(mask, network, expiry)))
        }
    }
}

fn masked_card(mask: &MaskedPan, network: String, expiry: Option<CardExpiry>) -> v1::MaskedCard {
    v1::MaskedCard {
        masked_pan: mask.to_string(),
        last_four: mask.last().to_owned(),
        network,
        card_expiry: card_expiry(expiry),
    }
}

/// A signed head.
#[must_use]
pub fn checkpoint(signed: &SignedCheckpoint) -> v1::Checkpoint {
    let said = signed.checkpoint();
    v1::Checkpoint {
        log: signed.note().lines().next().unwrap_or_default().to_owned(),
        tree_size: said.size,
        root_hash: said.root.0.to_vec(),
        note: signed.note().to_owned(),
    }
}

/// How a log's key was handed over.
#[must_use]
pub fn hand_over(one: &HandOver) -> v1::LogHandOver {
    v1::LogHandOver {
        from: one.from.clone(),
        to: one.to.clone(),
        leaf: one.entry(),
        inclusion: one.path().iter().map(|h| h.0.to_vec()).collect(),
        note: one.checkpoint().to_owned(),
    }
}

/// A receipt, with its head or, where the message carries heads once for all items, without.
#[must_use]
pub fn receipt(receipt: &Receipt, with_head: bool) -> v1::Receipt {
    let head = &receipt.checkpoint;
    v1::Receipt {
        log: head.note().lines().next().unwrap_or_default().to_owned(),
        leaf_index: receipt.index,
        leaf_hash: receipt.leaf.0.to_vec(),
        tree_size: head.checkpoint().size,
        logged_at: Some(timestamp(head.checkpoint().time)),
        checkpoint: with_head.then(|| checkpoint(head)),
    }
}

/// The answer to a tokenize.
#[must_use]
pub fn tokenized(answer: Tokenized, with_head: bool) -> v1::TokenizeResult {
    let novelty = match answer.minting {
        // A vaultless token has no row that would tell.
        None | Some(Minting::Vaultless) => v1::Novelty::Unspecified,
        Some(Minting::Minted) => v1::Novelty::Created,
        Some(Minting::Reused) => v1::Novelty::Reused,
    };
    let (card, data) = masked(&answer.mask, answer.network, answer.card_expiry);
    v1::TokenizeResult {
        token: answer.token.as_str().to_owned(),
        card,
        data,
        format: answer.format.to_string(),
        valid_until: answer.valid_until.map(timestamp),
        novelty: novelty.into(),
        receipt: Some(receipt(&answer.receipt, with_head)),
    }
}

/// The answer to a detokenize.
#[must_use]
pub fn detokenized(answer: Detokenized, with_head: bool) -> v1::DetokenizeResult {
    use v1::detokenize_result::Reveal;
    let reveal = match answer.revealed {
        Revealed::Plain(pan) => Some(Reveal::Plain(v1::PlainCard::new(
            pan.expose_digits().to_vec(),
            card_expiry(answer.card_expiry),
        ))),
        Revealed::Sealed { key_id, card } => {
            let Sealed { enc, ciphertext } = card;
            Some(Reveal::SealedToRecipient(v1::SealedCard { key_id, enc: enc.to_vec(), ciphertext }))
        }
        Revealed::Other(value) => data::revealed(&value, answer.card_expiry),
        Revealed::Masked(mask) => match masked(&mask, answer.network, answer.card_expiry) {
            (Some(card), _) => Some(Reveal::Masked(card)),
            (None, data) => data.map(Reveal::MaskedData),
        },
    };
    v1::DetokenizeResult { reveal, receipt: Some(receipt(&answer.receipt, with_head)) }
}

/// The answer to an inspect.
#[must_use]
pub fn inspected(answer: Inspected, with_head: bool) -> v1::InspectResult {
    let scheme = match answer.scheme {
        None => v1::TokenScheme::Unspecified,
        Some(Scheme::Random) => v1::TokenScheme::Random,
        Some(Scheme::Mixed) => v1::TokenScheme::Mixed,
        Some(Scheme::Opaque) => v1::TokenScheme::Opaque,
        Some(Scheme::Ff1) => v1::TokenScheme::Ff1,
    };
    let (card, data) = masked(&answer.mask, answer.network, answer.card_expiry);
    v1::InspectResult {
        card,
        data,
        state: v1::TokenState::Active.into(),
        scheme: scheme.into(),
        format: answer.format.map_or_else(String::new, |f| f.to_string()),
        channels: answer.channels.iter().map(ToString::to_string).collect(),
        valid_until: answer.valid_until.map(timestamp),
        created_at: Some(timestamp(answer.made_at)),
        receipt: Some(receipt(&answer.receipt, with_head)),
        restrictions: (!answer.restrictions.is_none()).then(|| life::told_restrictions(answer.restrictions)),
        attributes: life::told_attributes(&answer.attributes),
        earlier: answer.earlier.into_iter().map(life::told_earlier).collect(),
    }
}

/// The answer to a revoke.
#[must_use]
pub fn revoked(answer: &RevokedToken, with_head: bool) -> v1::RevokeResult {
    let state = if answer.everywhere { v1::TokenState::Revoked } else { v1::TokenState::Active };
    v1::RevokeResult {
        state: state.into(),
        channels: answer.channels.iter().map(ToString::to_string).collect(),
        receipt: Some(receipt(&answer.receipt, with_head)),
    }
}
