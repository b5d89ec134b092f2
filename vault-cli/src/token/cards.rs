//! By card and by customer: `token fingerprint`, `delete-card`, `list` and `erase`.

use std::path::PathBuf;

use clap::Args;
use vault_client::v1;
use zeroize::Zeroizing;

use super::Asked;
use super::session::{Session, Verb};
use super::told::Told;
use crate::dial::{self, VaultOptions};
use crate::fail::Failure;
use crate::input::{self, Card};
use crate::output::Out;
use crate::wire::Words as _;

/// `token fingerprint` and `token delete-card`.
#[derive(Debug, Args)]
pub(crate) struct OfCards {
    /// A file of cards, one per line; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token list` and `token erase`.
#[derive(Debug, Args)]
pub(crate) struct OfCustomer {
    /// What it is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

pub(super) fn of_cards<V: Verb>(
    command: OfCards,
    item: impl Fn(Zeroizing<Vec<u8>>) -> V,
    told: impl Fn(V::Result, &[v1::Checkpoint]) -> Told,
    out: Out,
) -> Result<(), Failure> {
    let OfCards { file, purpose, asked, vault } = command;
    asked.check()?;
    let cards = input::cards(file.as_deref(), None)?;
    let item = |card: Card| item(Zeroizing::new(card.pan.expose_digits().to_vec()));
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(cards, item, told).await
    })
}

pub(super) fn list(command: OfCustomer, out: Out) -> Result<(), Failure> {
    let OfCustomer { purpose, asked, vault } = command;
    asked.check()?;
    dial::run(async {
        let mut session = Session::open(vault, asked, purpose, out).await?;
        let mut page_token = String::new();
        loop {
            let answer = session.at.vault.list_by_subject(session.header.clone(), 0, &page_token).await;
            let v1::ListBySubjectResponse { tokens, next_page_token, receipt } =
                answer.map_err(|e| session.advised(e))?;
            for token in tokens {
                session.tell(None, Told::listed(token, receipt.as_ref()))?;
            }
            if next_page_token.is_empty() {
                return Ok(());
            }
            page_token = next_page_token;
        }
    })
}

pub(super) fn erase(command: OfCustomer, out: Out) -> Result<(), Failure> {
    let OfCustomer { purpose, asked, vault } = command;
    asked.check()?;
    dial::run(async {
        let mut session = Session::open(vault, asked, purpose, out).await?;
        let answer = session.at.vault.erase_subject(session.header.clone()).await;
        let answer = answer.map_err(|e| session.advised(e))?;
        session.tell(None, Told::ended(answer.tokens, answer.receipt.as_ref(), &[]))
    })
}
