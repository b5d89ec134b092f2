//! The life of a token: `token revoke`, `disable`, `enable`, `update`, `replace` and `translate`.

use std::path::PathBuf;

use clap::Args;
use vault_client::{ask, v1};
use vault_core::pan::CardExpiry;
use zeroize::Zeroizing;

use super::session::{Session, Verb};
use super::told::Told;
use super::{Asked, Tokens, date, no_card, parse_expiry};
use crate::dial::{self, VaultOptions};
use crate::fail::Failure;
use crate::input::{self, Card};
use crate::output::Out;
use crate::wire::{self, Words as _};

/// `token revoke`.
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    tokens: Tokens,
    /// End them on all channels, for good
    #[arg(long, required_unless_present = "on", conflicts_with = "on")]
    everywhere: bool,
    /// End them on this channel only
    #[arg(long, value_name = "CHANNEL")]
    on: Option<String>,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token disable` and `token enable`.
#[derive(Debug, Args)]
pub(crate) struct Standing {
    #[command(flatten)]
    tokens: Tokens,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    tokens: Tokens,
    /// The date on the cards, MM/YY
    #[arg(long, value_name = "MM/YY", value_parser = parse_expiry)]
    expiry: Option<CardExpiry>,
    /// The card holder's name
    #[arg(long, value_name = "NAME", value_parser = no_card)]
    holder: Option<String>,
    /// The billing address's country, two letters
    #[arg(long, value_name = "COUNTRY")]
    country: Option<String>,
    /// The payment account reference, 29 characters
    #[arg(long, value_name = "PAR", value_parser = no_card)]
    par: Option<String>,
    /// What the card holder agreed to
    #[arg(long, value_parser = v1::AgreementType::parser(), requires = "consented_at")]
    agreement: Option<v1::AgreementType>,
    /// When: 2026-11-23, or 2026-11-23T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = wire::parse_moment, requires = "agreement")]
    consented_at: Option<prost_types::Timestamp>,
    /// A network's id of a transaction; may be given again
    #[arg(long = "transaction", value_name = "NETWORK=ID", value_parser = parse_pair)]
    transactions: Vec<(String, String)>,
    /// What a processor calls the card; may be given again
    #[arg(long = "processor", value_name = "PROCESSOR=REFERENCE", value_parser = parse_pair)]
    processors: Vec<(String, String)>,
    /// A field that is emptied first, such as par; may be given again
    #[arg(long, value_name = "FIELD")]
    clear: Vec<String>,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token replace`.
#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// The token
    #[arg(value_name = "TOKEN", required_unless_present = "file", conflicts_with = "file")]
    token: Option<String>,
    /// A file of tokens and their new cards, token,number[,expiry] per line; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Why
    #[arg(long, value_parser = v1::ReplaceReason::parser())]
    reason: v1::ReplaceReason,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token translate`.
#[derive(Debug, Args)]
pub(crate) struct Translate {
    #[command(flatten)]
    tokens: Tokens,
    /// The channel that the new tokens are made on
    #[arg(long, value_name = "CHANNEL")]
    to_channel: String,
    /// The merchant whose they are; else the same
    #[arg(long, value_name = "MERCHANT")]
    to_merchant: Option<String>,
    /// The token format by its name there; else that channel's own
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// The customer by that merchant's own name
    #[arg(long, value_name = "REFERENCE", value_parser = no_card)]
    to_customer: Option<String>,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

fn parse_pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn revoke(command: Revoke, out: Out) -> Result<(), Failure> {
    let Revoke { tokens, everywhere: _, on, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    let item = |token: vault_core::token::Token| match &on {
        Some(channel) => ask::end_on(token.as_str(), channel),
        None => ask::end(token.as_str()),
    };
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, item, Told::revoked).await
    })
}

pub(super) fn standing<V: Verb<Result = v1::ChangeResult>>(
    command: Standing,
    item: impl Fn(&str) -> V,
    out: Out,
) -> Result<(), Failure> {
    let Standing { tokens, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, |token| item(token.as_str()), Told::changed).await
    })
}

pub(super) fn update(command: Update, out: Out) -> Result<(), Failure> {
    let Update { tokens, expiry, holder, country, par, agreement, transactions, processors, .. } = command;
    let (clear, purpose, asked, vault) = (command.clear, command.purpose, command.asked, command.vault);
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    let consented_at = command.consented_at;
    let set = v1::Attributes {
        card_holder: holder.unwrap_or_default(),
        billing_country: country.unwrap_or_default(),
        par: par.unwrap_or_default(),
        agreement: agreement.map(|kind| v1::Agreement { r#type: kind.into(), consented_at }),
        network_transactions: transactions.into_iter().collect(),
        processor_references: processors.into_iter().collect(),
    };
    let item = |token: vault_core::token::Token| v1::UpdateAttributesItem {
        token: token.as_str().to_owned(),
        card_expiry: expiry.map(date),
        set: Some(set.clone()),
        clear: clear.clone(),
        ..v1::UpdateAttributesItem::default()
    };
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, item, Told::changed).await
    })
}

pub(super) fn replace(command: Replace, out: Out) -> Result<(), Failure> {
    let Replace { token, file, reason, purpose, asked, vault } = command;
    asked.check()?;
    let pairs = match token {
        Some(token) => input::replacement(&token)?,
        None => input::replacements(file.as_deref())?,
    };
    let item = |(token, card): (vault_core::token::Token, Card)| {
        let pan = Zeroizing::new(card.pan.expose_digits().to_vec());
        ask::replace(token.as_str(), pan, card.expiry.map(date), reason)
    };
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(pairs, item, Told::replaced).await
    })
}

pub(super) fn translate(command: Translate, out: Out) -> Result<(), Failure> {
    let Translate { tokens, to_channel, to_merchant, format, to_customer, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    let context =
        to_customer.map(|customer_reference| v1::Context { customer_reference, ..v1::Context::default() });
    let item = |token: vault_core::token::Token| v1::TranslateItem {
        merchant: to_merchant.clone().unwrap_or_default(),
        format: format.clone().unwrap_or_default(),
        context: context.clone(),
        ..ask::translate(token.as_str(), &to_channel)
    };
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, item, Told::tokenized).await
    })
}
