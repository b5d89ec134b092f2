//! `vaultctl token upgrade FILE`: a shop's file of tokens, line by line, with the tokens of the current slots.
//!
//! The file itself is never touched: a new one stands beside it, whole or not at all. A token that the vault does not turn
//! keeps its place and is told by its line's number and the reason.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use csv::{StringRecord, Writer, WriterBuilder};
use serde::Serialize;
use vault_client::{Batch, Outcome, ask, chunk_request_id, v1};

use super::session::Session;
use super::{Asked, CHUNK};
use crate::dial::{self, VaultOptions};
use crate::fail::Failure;
use crate::output::{self, Out};
use crate::rows::Rows;
use crate::wire::{ReceiptText, Words as _};

/// `token upgrade`.
#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    /// A CSV file with a token in each line; without --column the first column, and no line of headers
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The column with the tokens, by the name that the file's first line gives it
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// The new file; it must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization", hide_possible_values = false)]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Upgraded {
    lines: u64,
    changed: u64,
    unchanged: u64,
    refused: u64,
    out: PathBuf,
}

/// The new file under a name of its own, until it is whole.
struct Beside {
    to: PathBuf,
    part: PathBuf,
    rows: Writer<File>,
}

impl Beside {
    fn create(to: &Path) -> Result<Self, Failure> {
        if to.symlink_metadata().is_ok() {
            return Err(Failure::refused(format_args!("{} is there already; name a new file", to.display())));
        }
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = to.with_file_name(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
        let file = file.map_err(|e| Failure::failed(format_args!("{}: {e}", part.display())))?;
        Ok(Self { to: to.to_owned(), part, rows: WriterBuilder::new().flexible(true).from_writer(file) })
    }

    fn row(&mut self, row: &StringRecord) -> Result<(), Failure> {
        self.rows.write_record(row).map_err(|e| self.broken(&e))
    }

    fn finish(self) -> Result<(), Failure> {
        let failed =
            |e: &dyn std::fmt::Display| Failure::failed(format_args!("{}: {e}", self.part.display()));
        let mut file = self.rows.into_inner().map_err(|e| failed(&e))?;
        file.flush().and_then(|()| file.sync_all()).map_err(|e| failed(&e))?;
        // A link does not replace: a file that came meanwhile stays.
        fs::hard_link(&self.part, &self.to).map_err(|e| failed(&e))?;
        fs::remove_file(&self.part).map_err(|e| failed(&e))
    }

    fn broken(&self, e: &dyn std::fmt::Display) -> Failure {
        Failure::failed(format_args!("{}: {e}", self.part.display()))
    }
}

/// Does what the command line says.
pub(super) fn run(command: Upgrade, out: Out) -> Result<(), Failure> {
    let Upgrade { file, column, out: to, purpose, asked, vault } = command;
    asked.check()?;
    let mut rows = Rows::open(&file, column.is_some())?;
    let mut beside = Beside::create(&to)?;
    let place = match &column {
        None => 0,
        Some(name) => {
            beside.row(&rows.headers())?;
            let found = rows.column(name);
            found.ok_or_else(|| Failure::usage(format_args!("the first line names no column {name}")))?
        }
    };
    let mut told = Upgraded { out: to, ..Upgraded::default() };
    let done = dial::run(async {
        let mut session = Session::open(vault, asked, purpose, out).await?;
        let mut waiting: Vec<(u64, StringRecord)> = Vec::with_capacity(CHUNK);
        for part in 0.. {
            for (line, row) in rows.by_ref().take(CHUNK) {
                let unread = || {
                    let file = file.display();
                    Failure::refused(format_args!("{file}: line {line} is no line of CSV in UTF-8"))
                };
                waiting.push((line, row.ok_or_else(unread)?));
            }
            if waiting.is_empty() {
                break;
            }
            turn(&mut session, part, place, std::mem::take(&mut waiting), &mut beside, &mut told).await?;
        }
        beside.finish()
    });
    done?;
    out.tell(&told, |told| {
        format!(
            "{}: {} lines, {} tokens changed, {} needed no change, {} refused",
            told.out.display(),
            told.lines,
            told.changed,
            told.unchanged,
            told.refused
        )
    })?;
    if told.refused == 0 {
        return Ok(());
    }
    Err(Failure::refused(format_args!(
        "{} lines were refused; their tokens stand in the new file as they were",
        told.refused
    )))
}

/// Turns the tokens of so many lines, and writes the lines.
async fn turn(
    session: &mut Session,
    part: u32,
    place: usize,
    lines: Vec<(u64, StringRecord)>,
    beside: &mut Beside,
    told: &mut Upgraded,
) -> Result<(), Failure> {
    let named = lines.iter().filter_map(|(number, row)| Some((number, row.get(place)?)));
    let items: Vec<_> = named
        .map(|(number, token)| v1::UpgradeItem { reference: number.to_string(), ..ask::upgrade(token) })
        .collect();
    let id = chunk_request_id(session.request_id, part);
    let header = v1::RequestHeader { request_id: id.to_string(), ..session.header.clone() };
    let answer = if items.is_empty() {
        Batch { outcomes: Vec::new(), checkpoints: Vec::new() }
    } else {
        session.at.vault.batch_upgrade(header, items).await?
    };
    let Batch { outcomes, checkpoints } = answer;
    for receipt in outcomes.iter().filter_map(|o| o.result.as_ref().ok()?.receipt.as_ref()) {
        if let (Some(receipts), Some(text)) = (&mut session.receipts, ReceiptText::of(receipt, &checkpoints))
        {
            receipts.keep(&text)?;
        }
    }
    let mut outcomes = outcomes.into_iter();
    for (number, mut row) in lines {
        told.lines += 1;
        let outcome = row.get(place).and_then(|_| outcomes.next()).map(|Outcome { result, .. }| result);
        match outcome {
            Some(Ok(answer)) if answer.changed => {
                told.changed += 1;
                row = row
                    .iter()
                    .enumerate()
                    .map(|(at, field)| if at == place { answer.token.as_str() } else { field })
                    .collect();
            }
            Some(Ok(_)) => told.unchanged += 1,
            Some(Err(error)) => {
                told.refused += 1;
                output::note(&format!("line {number}: {error}"));
            }
            None => {
                told.refused += 1;
                output::note(&format!("line {number}: has no such column"));
            }
        }
        beside.row(&row)?;
    }
    Ok(())
}
