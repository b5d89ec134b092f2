//! `token detokenize` and `token inspect`: what is behind a token, masked, sealed or at a terminal in full, and what is known of it.

use clap::Args;
use vault_client::{ask, v1};

use super::session::Session;
use super::told::Told;
use super::{Asked, Tokens};
use crate::dial::{self, VaultOptions};
use crate::fail::Failure;
use crate::input;
use crate::output::{self, Out};
use crate::wire::{self, Words as _};

/// `token detokenize`.
#[derive(Debug, Args)]
pub(crate) struct Detokenize {
    #[command(flatten)]
    tokens: Tokens,
    /// Show the card number: needs --purpose, and a terminal
    #[arg(long, requires = "purpose")]
    reveal: bool,
    /// Give the card sealed to this recipient, by its name in the policy
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "reveal")]
    to: Option<String>,
    /// The card that the token stood for then, for refund and dispute: 2026-11-23, or 2026-11-23T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = wire::parse_moment)]
    as_of: Option<prost_types::Timestamp>,
    /// What the card is wanted for; authorization unless said
    #[arg(long, value_parser = v1::Purpose::parser())]
    purpose: Option<v1::Purpose>,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
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

pub(super) fn detokenize(command: Detokenize, out: Out) -> Result<(), Failure> {
    let Detokenize { tokens, reveal, to, as_of, purpose, asked, vault } = command;
    if reveal && !output::is_seen() {
        return Err(Failure::refused(
            "a card number is shown on a terminal only, and standard output is none; leave --reveal out to see the mask",
        ));
    }
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    let item = |token: vault_core::token::Token| {
        let item = match &to {
            Some(recipient) => ask::sealed_to(token.as_str(), recipient),
            None if reveal => ask::plain(token.as_str()),
            None => ask::masked(token.as_str()),
        };
        v1::DetokenizeItem { as_of, ..item }
    };
    dial::run(async {
        let purpose = purpose.unwrap_or(v1::Purpose::Authorization);
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, item, Told::detokenized).await
    })
}

pub(super) fn inspect(command: Inspect, out: Out) -> Result<(), Failure> {
    let Inspect { tokens, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, |token| ask::look(token.as_str()), Told::inspected).await
    })
}
