//! `token forward`: a request with cards in it, which the vault sends.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use vault_client::v1;

use super::Asked;
use super::session::Session;
use crate::dial::{self, VaultOptions};
use crate::fail::Failure;
use crate::input;
use crate::output::Out;
use crate::wire::{ReceiptText, Words as _};

/// `token forward`.
#[derive(Debug, Args)]
pub(crate) struct Forward {
    /// The destination, by its name in the server's settings
    #[arg(long, value_name = "DESTINATION")]
    to: String,
    /// POST, PUT or PATCH
    #[arg(long, default_value = "POST")]
    method: String,
    /// Path and query
    #[arg(long)]
    path: String,
    /// A header, NAME=VALUE; may be given again
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// The body; - is standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// What the cards are wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

fn parse_header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn forward(command: Forward, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Answered {
        status: u32,
        headers: Vec<(String, String)>,
        masked: u32,
        body: String,
        receipts: Vec<ReceiptText>,
    }
    let Forward { to, method, path, headers, file, purpose, asked, vault } = command;
    asked.check()?;
    let body = input::whole(Some(&file))?;
    dial::run(async {
        let mut session = Session::open(vault, asked, purpose, out).await?;
        let request = v1::ForwardRequest {
            header: Some(session.header.clone()),
            destination: to,
            method,
            path,
            headers: headers.into_iter().map(|(name, value)| v1::HttpHeader { name, value }).collect(),
            body: body.to_vec(),
        };
        let answer = session.at.vault.forward(request).await?;
        let receipts: Vec<ReceiptText> =
            answer.receipts.iter().filter_map(|r| ReceiptText::of(r, &[])).collect();
        if let Some(file) = &mut session.receipts {
            receipts.iter().try_for_each(|receipt| file.keep(receipt))?;
        }
        let answered = Answered {
            status: answer.status,
            headers: answer.headers.into_iter().map(|h| (h.name, h.value)).collect(),
            masked: answer.masked,
            body: String::from_utf8_lossy(&answer.body).into_owned(),
            receipts,
        };
        out.tell(&answered, |answered| {
            let headers: Vec<String> = answered.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
            let headers = headers.join("\n");
            format!(
                "status {}, {} card numbers masked\n{headers}\n{}",
                answered.status, answered.masked, answered.body
            )
        })
    })
}
