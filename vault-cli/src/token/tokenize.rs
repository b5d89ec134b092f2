//! `token tokenize` and `token sealing-key`: cards and other values in, tokens out; the key that others seal cards to.

use std::path::PathBuf;

use clap::Args;
use data_encoding::BASE64;
use serde::Serialize;
use vault_client::{ask, v1};
use vault_core::pan::CardExpiry;

use super::session::Session;
use super::told::Told;
use super::{Asked, parse_expiry};
use crate::dial::{self, VaultOptions};
use crate::fail::Failure;
use crate::input;
use crate::output::Out;
use crate::values::{self, Given};
use crate::wire::{self, Words as _};

/// `token tokenize`.
#[derive(Debug, Args)]
pub(crate) struct Tokenize {
    /// A file of cards, number[,expiry[,anything]] per line, or of values of --kind; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What kind of values they are
    #[arg(long, value_parser = v1::DataKind::parser(), default_value = "card")]
    kind: v1::DataKind,
    /// The lines are sealed cards as JSON: `key_id`, and enc and ciphertext in base64
    #[arg(long, conflicts_with = "expiry")]
    sealed: bool,
    /// The date on the cards that come without one, MM/YY
    #[arg(long, value_name = "MM/YY", value_parser = parse_expiry)]
    expiry: Option<CardExpiry>,
    /// The token format by its name in the policy; else the channel's own
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// From when on the tokens no longer work: 2026-12-31, or 2026-12-31T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = wire::parse_moment)]
    valid_until: Option<prost_types::Timestamp>,
    /// A channel that may use the tokens; may be given again; else as the format's scope says
    #[arg(long = "grant", value_name = "CHANNEL")]
    grants: Vec<String>,
    /// What the tokens' cards may be had for, and for nothing else; may be given again
    #[arg(long = "only-for", value_name = "PURPOSE", value_parser = v1::Purpose::parser())]
    only_for: Vec<v1::Purpose>,
    /// Let only requests that name the same --customer have the cards
    #[arg(long, requires = "customer")]
    bound_to_customer: bool,
    /// Let each card be had once only
    #[arg(long)]
    single_use: bool,
    /// What the cards are wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token sealing-key`.
#[derive(Debug, Args)]
pub(crate) struct SealingKey {
    #[command(flatten)]
    vault: VaultOptions,
}

pub(super) fn tokenize(command: Tokenize, out: Out) -> Result<(), Failure> {
    let Tokenize {
        file,
        kind,
        sealed,
        expiry,
        format,
        valid_until,
        grants,
        only_for,
        purpose,
        asked,
        vault,
        ..
    } = command;
    let restrictions = v1::Restrictions {
        purposes: only_for.into_iter().map(Into::into).collect(),
        bound_to_customer: command.bound_to_customer,
        single_use: command.single_use,
    };
    asked.check()?;
    let item = |card: v1::TokenizeItem| v1::TokenizeItem {
        format: format.clone().unwrap_or_default(),
        valid_until,
        channels: grants.clone(),
        restrictions: Some(restrictions.clone()),
        ..card
    };
    if sealed {
        let cards = input::sealed_cards(file.as_deref())?;
        return dial::run(async {
            let session = Session::open(vault, asked, purpose, out).await?;
            session.all(cards, |(card, _)| item(ask::sealed_card(card)), Told::tokenized).await
        });
    }
    let values = values::read(kind, file.as_deref(), expiry)?;
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(values, |given: Given| item(values::item(&given)), Told::tokenized).await
    })
}

pub(super) fn sealing_key(command: SealingKey, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Published {
        key_id: String,
        suite: String,
        public_key: String,
        info: String,
        valid_until: Option<String>,
    }
    dial::run(async {
        let at = command.vault.connect().await?;
        let key = at.vault.sealing_key(&at.merchant, &at.channel).await?;
        let published = Published {
            key_id: key.key_id,
            suite: key.suite,
            public_key: BASE64.encode(&key.public_key),
            info: BASE64.encode(&key.info),
            valid_until: wire::moment(key.valid_until.as_ref()),
        };
        out.tell(&published, |key| {
            format!(
                "key {} of suite {}, good until {}\npublic key {}\ninfo {}",
                key.key_id,
                key.suite,
                key.valid_until.as_deref().unwrap_or("-"),
                key.public_key,
                key.info
            )
        })
    })
}
