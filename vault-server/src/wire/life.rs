//! What a token may be used for, what is known around its card, and what becomes of it: messages to the core's types and
//! back.

#![allow(clippy::needless_pass_by_value, reason = "one form for all verbs: each takes its message whole")]

use std::collections::BTreeMap;

use vault_core::attributes::{
    Agreement, Attribute, Attributes, Country, HolderName, Par, ProcessorReference, TransactionId,
};
use vault_core::error::Error;
use vault_core::name::{ChannelName, FormatName, MerchantName, NetworkName, ProcessorName};
use vault_core::restrictions::{Purposes, Restrictions};
use vault_core::token::Token;
use vault_core::vault::{
    AttributesUpdate, CardToDelete, ChangedToken, CodeHeld, CodeRead, CodeTicket, Completed, Deleted,
    EarlierCard, Fingerprinted, GivenCard, Listed, ListedToken, Replaced, Replacement, SecurityCode,
    TokenStanding, Translation, UpgradedToken,
};
use vault_core::words::{AgreementKind, Purpose, ReplaceReason};
use vault_proto::v1;

use super::{
    ITEM_CONTEXT, context, expiry, from_timestamp, masked, masked_card, name, plain_pan, receipt, reference,
    required, sealed_card, timestamp, token,
};

/// Where the fields of attributes stand in a card to tokenize.
pub(super) const NEW: [&str; 6] = [
    "item.attributes.card_holder",
    "item.attributes.billing_country",
    "item.attributes.par",
    "item.attributes.agreement",
    "item.attributes.network_transactions",
    "item.attributes.processor_references",
];

/// The same in an update.
const SET: [&str; 6] = [
    "item.set.card_holder",
    "item.set.billing_country",
    "item.set.par",
    "item.set.agreement",
    "item.set.network_transactions",
    "item.set.processor_references",
];

/// What a token may be used for.
pub(super) fn restrictions(asked: Option<v1::Restrictions>) -> Result<Restrictions, Error> {
    let v1::Restrictions { purposes, bound_to_customer, single_use } = asked.unwrap_or_default();
    let mut named = Vec::with_capacity(purposes.len().min(Purpose::ALL.len()));
    for purpose in purposes {
        let purpose = u8::try_from(purpose).ok().and_then(Purpose::from_id);
        let purpose = purpose.filter(|p| !named.contains(p)).ok_or_else(|| {
            Error::malformed("item.restrictions.purposes", "must name known purposes, each once")
        })?;
        named.push(purpose);
    }
    Ok(Restrictions { purposes: Purposes::of(named), bound_to_customer, single_use })
}

/// The same on the way out.
pub(super) fn told_restrictions(of: Restrictions) -> v1::Restrictions {
    v1::Restrictions {
        purposes: of.purposes.named().map(|p| p.id().into()).collect(),
        bound_to_customer: of.bound_to_customer,
        single_use: of.single_use,
    }
}

/// What is known around a card; `paths` says where its fields stood.
pub(super) fn attributes(
    asked: Option<v1::Attributes>,
    paths: &[&'static str; 6],
) -> Result<Attributes, Error> {
    let parsed = asked.map(|asked| parsed(asked, paths)).transpose();
    parsed.map(Option::unwrap_or_default).map_err(|e| match e {
        // The core does not know where on the wire a field stood.
        Error::Malformed { field, rule } => {
            let name = field.rsplit('.').next().unwrap_or(field);
            let path = paths.iter().find(|path| path.rsplit('.').next() == Some(name));
            Error::malformed(path.copied().unwrap_or(field), rule)
        }
        other => other,
    })
}

fn parsed(asked: v1::Attributes, paths: &[&'static str; 6]) -> Result<Attributes, Error> {
    fn given<T>(text: &str, parse: impl Fn(&str) -> Result<T, Error>) -> Result<Option<T>, Error> {
        if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
    }
    let [.., transactions, references] = *paths;
    let mut network_transactions = BTreeMap::new();
    for (network, id) in &asked.network_transactions {
        let network = NetworkName::parse(network)
            .map_err(|_| Error::malformed(transactions, "must be under the name of a network"))?;
        let id = TransactionId::parse(&network, id)?;
        network_transactions.insert(network, id);
    }
    let mut processor_references = BTreeMap::new();
    for (processor, reference) in &asked.processor_references {
        let processor = ProcessorName::parse(processor)
            .map_err(|_| Error::malformed(references, "must be under the name of a processor"))?;
        processor_references.insert(processor, ProcessorReference::parse(reference)?);
    }
    let attributes = Attributes {
        card_holder: given(&asked.card_holder, HolderName::parse)?,
        billing_country: given(&asked.billing_country, Country::parse)?,
        par: given(&asked.par, |text| Ok(Par::parse(text)?))?,
        agreement: asked.agreement.map(|asked| agreement(&asked, paths)).transpose()?,
        network_transactions,
        processor_references,
    };
    attributes.check().map(|()| attributes)
}

fn agreement(asked: &v1::Agreement, paths: &[&'static str; 6]) -> Result<Agreement, Error> {
    let [_, _, _, path, ..] = *paths;
    let kind = u8::try_from(asked.r#type).ok().and_then(AgreementKind::from_id);
    let consented_at = required(asked.consented_at.as_ref(), path)?;
    Ok(Agreement { kind: required(kind, path)?, consent_at: from_timestamp(consented_at, path)? })
}

/// The same on the way out; none where nothing is known.
pub(super) fn told_attributes(of: &Attributes) -> Option<v1::Attributes> {
    (!of.is_empty()).then(|| v1::Attributes {
        card_holder: of.card_holder.as_ref().map_or_else(String::new, |name| name.as_str().to_owned()),
        billing_country: of.billing_country.as_ref().map_or_else(String::new, |c| c.as_str().to_owned()),
        par: of.par.as_ref().map_or_else(String::new, |par| par.as_str().to_owned()),
        agreement: of.agreement.map(|agreed| v1::Agreement {
            r#type: agreed.kind.id().into(),
            consented_at: Some(timestamp(agreed.consent_at)),
        }),
        network_transactions: of
            .network_transactions
            .iter()
            .map(|(network, id)| (network.to_string(), id.as_str().to_owned()))
            .collect(),
        processor_references: of
            .processor_references
            .iter()
            .map(|(processor, reference)| (processor.to_string(), reference.as_str().to_owned()))
            .collect(),
    })
}

/// A token to stop for now.
pub fn disable(item: v1::DisableItem) -> Result<Token, Error> {
    reference(&item.reference)?;
    token(&item.token)
}

/// A token to turn into the current one.
pub fn upgrade(item: v1::UpgradeItem) -> Result<Token, Error> {
    reference(&item.reference)?;
    token(&item.token)
}

/// The answer to an upgrade.
#[must_use]
pub fn upgraded(answer: UpgradedToken, with_head: bool) -> v1::UpgradeResult {
    v1::UpgradeResult {
        token: answer.token.as_str().to_owned(),
        changed: answer.changed,
        receipt: Some(receipt(&answer.receipt, with_head)),
    }
}

/// A token that is to work again.
pub fn enable(item: v1::EnableItem) -> Result<Token, Error> {
    reference(&item.reference)?;
    token(&item.token)
}

/// A token, and what is to be known around its card.
pub fn update(item: v1::UpdateAttributesItem) -> Result<(Token, AttributesUpdate), Error> {
    reference(&item.reference)?;
    let mut clear = Vec::with_capacity(item.clear.len().min(Attribute::ALL.len()));
    for name in &item.clear {
        let field = Attribute::parse(name).filter(|field| !clear.contains(field));
        clear.push(field.ok_or_else(|| {
            Error::malformed("item.clear", "must name known fields of the attributes, each once")
        })?);
    }
    let card_expiry = item.card_expiry.map(|e| expiry(e, "item.card_expiry")).transpose()?;
    let update = AttributesUpdate { card_expiry, set: attributes(item.set, &SET)?, clear };
    Ok((token(&item.token)?, update))
}

/// A token, and the card that is to take its card's place.
pub fn replace(item: v1::ReplaceItem) -> Result<(Token, Replacement), Error> {
    reference(&item.reference)?;
    let reason = u8::try_from(item.reason).ok().and_then(ReplaceReason::from_id);
    let card = match required(item.card, "item.plain")? {
        v1::replace_item::Card::Plain(plain) => given(plain)?,
        v1::replace_item::Card::Sealed(sealed) => GivenCard::Sealed(sealed_card(sealed)),
    };
    let reason = required(reason, "item.reason")?;
    Ok((token(&item.token)?, Replacement { card, reason }))
}

/// The answer to a replacement.
#[must_use]
pub fn replaced(answer: Replaced, with_head: bool) -> v1::ReplaceResult {
    v1::ReplaceResult {
        card: masked(&answer.mask, answer.network, answer.card_expiry).0,
        kept_until: answer.kept_until.map(timestamp),
        receipt: Some(receipt(&answer.receipt, with_head)),
    }
}

/// A card that a token stood for before.
pub(super) fn told_earlier(of: EarlierCard) -> v1::EarlierCard {
    v1::EarlierCard {
        card: Some(masked_card(&of.mask, of.network, of.card_expiry)),
        reason: i32::from(of.reason.id()),
        replaced_at: Some(timestamp(of.replaced_at)),
        kept_until: Some(timestamp(of.kept_until)),
    }
}

/// A token, and where it is to have another.
pub fn translate(item: v1::TranslateItem) -> Result<Translation, Error> {
    reference(&item.reference)?;
    let channel = name(&item.channel, "item.channel", ChannelName::parse)?;
    Ok(Translation {
        token: token(&item.token)?,
        merchant: name(&item.merchant, "item.merchant", MerchantName::parse)?,
        channel: required(channel, "item.channel")?,
        format: name(&item.format, "item.format", FormatName::parse)?,
        valid_until: item.valid_until.map(|t| from_timestamp(&t, "item.valid_until")).transpose()?,
        restrictions: restrictions(item.restrictions)?,
        context: item.context.map(|c| context(&c, &ITEM_CONTEXT)).transpose()?,
    })
}

/// A token, and its card's security code.
pub fn hold_code(item: v1::HoldSecurityCodeItem) -> Result<(Token, SecurityCode), Error> {
    reference(&item.reference)?;
    let code = SecurityCode::parse(&required(item.code, "item.code")?.take_digits())?;
    Ok((token(&item.token)?, code))
}

/// The answer to a security code.
#[must_use]
pub fn held_code(answer: CodeHeld, with_head: bool) -> v1::HoldSecurityCodeResult {
    v1::HoldSecurityCodeResult {
        ticket: answer.ticket.to_string(),
        held_until: Some(timestamp(answer.held_until)),
        receipt: Some(receipt(&answer.receipt, with_head)),
    }
}

/// A token, and the ticket of its card's security code.
pub fn read_code(item: v1::ReadSecurityCodeItem) -> Result<(Token, CodeTicket), Error> {
    reference(&item.reference)?;
    Ok((token(&item.token)?, CodeTicket::parse(&item.ticket)?))
}

/// A security code given back.
#[must_use]
pub fn code_read(answer: CodeRead, with_head: bool) -> v1::ReadSecurityCodeResult {
    v1::ReadSecurityCodeResult {
        code: Some(v1::SecurityCode::new(answer.code.expose_digits().to_vec())),
        receipt: Some(receipt(&answer.receipt, with_head)),
    }
}

/// A token, and the ticket of the security code that is to go.
pub fn complete(item: v1::CompleteAuthorizationItem) -> Result<(Token, CodeTicket), Error> {
    reference(&item.reference)?;
    Ok((token(&item.token)?, CodeTicket::parse(&item.ticket)?))
}

/// The answer to an authorization that is over.
#[must_use]
pub fn completed(answer: Completed, with_head: bool) -> v1::CompleteAuthorizationResult {
    v1::CompleteAuthorizationResult { receipt: Some(receipt(&answer.receipt, with_head)) }
}

/// A card whose fingerprint is wanted.
pub fn fingerprint(item: v1::FingerprintItem) -> Result<GivenCard, Error> {
    reference(&item.reference)?;
    match required(item.card, "item.plain")? {
        v1::fingerprint_item::Card::Plain(plain) => given(plain),
        v1::fingerprint_item::Card::Sealed(sealed) => Ok(GivenCard::Sealed(sealed_card(sealed))),
    }
}

fn given(plain: v1::PlainCard) -> Result<GivenCard, Error> {
    plain_pan(plain).map(|(pan, card_expiry)| GivenCard::Plain(pan, card_expiry))
}

/// A card's fingerprint.
#[must_use]
pub fn fingerprinted(answer: Fingerprinted, with_head: bool) -> v1::FingerprintResult {
    v1::FingerprintResult {
        fingerprint: answer.fingerprint.to_vec(),
        receipt: Some(receipt(&answer.receipt, with_head)),
    }
}

/// A card whose tokens are to end.
pub fn delete_card(item: v1::DeleteCardItem) -> Result<CardToDelete, Error> {
    reference(&item.reference)?;
    let card = match required(item.card, "item.plain")? {
        v1::delete_card_item::Card::Plain(plain) => given(plain)?,
        v1::delete_card_item::Card::Sealed(sealed) => GivenCard::Sealed(sealed_card(sealed)),
    };
    Ok(CardToDelete { card, restrictions: restrictions(item.restrictions)? })
}

/// The answer to a deletion by card.
#[must_use]
pub fn deleted(answer: Deleted, with_head: bool) -> v1::DeleteCardResult {
    v1::DeleteCardResult { tokens: answer.tokens, receipt: Some(receipt(&answer.receipt, with_head)) }
}

/// A page of a customer's tokens, but for where the next one begins.
#[must_use]
pub fn listed(answer: Listed) -> v1::ListBySubjectResponse {
    let token = |token: ListedToken| {
        let (card, data) = masked(&token.mask, token.network, token.card_expiry);
        v1::SubjectToken {
            record: token.record.0.to_vec(),
            card,
            data,
            state: match token.standing {
                TokenStanding::Active => v1::TokenState::Active,
                TokenStanding::Expired => v1::TokenState::Expired,
                TokenStanding::Disabled => v1::TokenState::Disabled,
                TokenStanding::Spent => v1::TokenState::Spent,
            }
            .into(),
            channels: token.channels.iter().map(ToString::to_string).collect(),
            valid_until: token.valid_until.map(timestamp),
            created_at: Some(timestamp(token.made_at)),
            restrictions: (!token.restrictions.is_none()).then(|| told_restrictions(token.restrictions)),
        }
    };
    v1::ListBySubjectResponse {
        tokens: answer.tokens.into_iter().map(token).collect(),
        next_page_token: String::new(),
        receipt: Some(receipt(&answer.receipt, true)),
    }
}

/// The answer to a change.
#[must_use]
pub fn changed(answer: ChangedToken, with_head: bool) -> v1::ChangeResult {
    let state = if answer.disabled { v1::TokenState::Disabled } else { v1::TokenState::Active };
    v1::ChangeResult {
        state: state.into(),
        channels: answer.channels.iter().map(ToString::to_string).collect(),
        receipt: Some(receipt(&answer.receipt, with_head)),
    }
}
