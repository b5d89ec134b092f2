//! Security codes: `token hold-code`, `read-code` and `complete`.

use clap::Args;
use vault_client::{ask, v1};

use super::Asked;
use super::session::{Session, Verb};
use super::told::Told;
use crate::dial::{self, VaultOptions};
use crate::fail::Failure;
use crate::input;
use crate::output::{self, Out};
use crate::wire::Words as _;

/// `token hold-code`.
#[derive(Debug, Args)]
pub(crate) struct HoldCode {
    /// The token
    #[arg(value_name = "TOKEN")]
    token: String,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token read-code` and `token complete`.
#[derive(Debug, Args)]
pub(crate) struct OfCode {
    /// The token
    #[arg(value_name = "TOKEN")]
    token: String,
    /// The ticket, as hold-code gave it
    #[arg(long, value_name = "TICKET")]
    ticket: String,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

pub(super) fn hold_code(command: HoldCode, out: Out) -> Result<(), Failure> {
    let HoldCode { token, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&[token], None)?;
    let code = input::security_code()?;
    let item = |token: vault_core::token::Token| ask::hold_code(token.as_str(), code.clone());
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, item, Told::held).await
    })
}

pub(super) fn read_code(command: OfCode, out: Out) -> Result<(), Failure> {
    if !output::is_seen() {
        return Err(Failure::refused(
            "a security code is shown on a terminal only, and standard output is none",
        ));
    }
    of_code(command, ask::read_code, Told::code, out)
}

pub(super) fn of_code<V: Verb>(
    command: OfCode,
    item: impl Fn(&str, &str) -> V,
    told: impl Fn(V::Result, &[v1::Checkpoint]) -> Told,
    out: Out,
) -> Result<(), Failure> {
    let OfCode { token, ticket, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&[token], None)?;
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, |token| item(token.as_str(), &ticket), told).await
    })
}
