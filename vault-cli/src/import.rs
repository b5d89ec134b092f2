//! `vaultctl import FILE`: cards from elsewhere, with the tokens that they have had until now where those can stay.
//!
//! It may be killed at any time and run again: what was written down as done is not sent again, and what was under way is
//! sent under the same request ids, so that no card is stored twice. Neither of its files ever holds a card number.

pub(crate) mod source;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ring::digest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vault_client::{Outcome, ask, chunk_request_id, v1};
use zeroize::Zeroizing;

use self::source::{Columns, Field, Form, Incoming, Numbered, Preset, Source};
use crate::dial::{self, Dialled, VaultOptions};
use crate::fail::{Exit, Failure, exit_of};
use crate::output::Out;
use crate::progress::Progress;
use crate::wire::Words;

/// Cards of one request: the contract's batch.
const CHUNK: usize = 1_000;

/// What to do when a run ends early.
const AGAIN: &str = "nothing is lost: run the same command again, and it goes on from here";

/// `import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file of cards
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How it is written; else as its name ends: .csv, .jsonl or .ndjson
    #[arg(long, value_enum)]
    input: Option<Form>,
    /// Which service's columns it has
    #[arg(long, value_enum, default_value = "plain")]
    preset: Preset,
    /// A column of another name: number=PAN; may be given again
    #[arg(long = "column", value_name = "FIELD=NAME", value_parser = column)]
    columns: Vec<(Field, String)>,
    /// The new file of line, customer and token, one per card that was taken
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The new file of line and reason, one per card that was not taken; else beside the other, with .refused behind it
    #[arg(long, value_name = "FILE")]
    refused: Option<PathBuf>,
    /// The token format by its name in the policy; else the channel's own
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// Do not keep the tokens that the cards have had; each gets a new one
    #[arg(long)]
    new_tokens: bool,
    /// At most so many cards a second
    #[arg(long, value_name = "CARDS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// What for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "account_update", hide_possible_values = false)]
    purpose: v1::Purpose,
    #[command(flatten)]
    vault: VaultOptions,
}

fn column(text: &str) -> Result<(Field, String), String> {
    use clap::ValueEnum as _;
    let (field, name) = text.split_once('=').ok_or("must be FIELD=NAME")?;
    let field = Field::from_str(field, false).map_err(|_| {
        "the field is none of number, expiry, exp-month, exp-year, token, customer, name".to_owned()
    })?;
    Ok((field, name.to_owned()))
}

/// What is done so far: written down after each part, so that a second run goes on from here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// SHA-256 of the file of cards and of what was asked with it, hexadecimal.
    of: String,
    /// All parts' request ids come from it.
    request_id: String,
    /// Parts that are done.
    parts: u32,
    /// Bytes of the two files that belong to them.
    out_bytes: u64,
    refused_bytes: u64,
    tally: Tally,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tally {
    lines: u64,
    taken: u64,
    tokens_kept: u64,
    refused: u64,
}

impl State {
    /// On disk, whole or as it was before.
    fn write_down(&self, to: &Path) -> Result<(), Failure> {
        let part = beside(to, ".part");
        let write = || -> std::io::Result<()> {
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&part)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&part, to)?;
            // So that the name is on disk, too.
            let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|e| failed(to, &e))
    }
}

/// The three files of a run: two that are made, and the state.
struct Files {
    out: File,
    refused: File,
    state_path: PathBuf,
    state: State,
}

/// Does what the command line says.
pub(crate) fn run(asked: &Import, out: Out) -> Result<(), Failure> {
    let form = match asked.input {
        Some(form) => form,
        None => match asked.file.extension().and_then(|e| e.to_str()) {
            Some("csv") => Form::Csv,
            Some("jsonl" | "ndjson") => Form::Jsonl,
            _ => {
                return Err(Failure::usage(
                    "the file's name does not say what it is; give --input csv or --input jsonl",
                ));
            }
        },
    };
    let mut columns: Columns = asked.preset.columns();
    columns.extend(asked.columns.iter().cloned());
    let mut source = Source::open(&asked.file, form, columns.clone())?;
    let of = identity(asked, &columns)?;
    let refused = asked.refused.clone().unwrap_or_else(|| beside(&asked.out, ".refused"));
    let mut files = Files::open(&asked.out, &refused, of)?;
    let lines = Source::open(&asked.file, form, columns)?.count()?;
    // What an earlier run has done is read past.
    for _ in 0..files.state.parts {
        source.take(CHUNK)?;
    }
    let vault = asked.vault.clone();
    dial::run(async {
        let at = vault.connect().await?;
        let mut progress = Progress::of("cards");
        progress.step(files.state.tally.lines, lines);
        loop {
            let began = tokio::time::Instant::now();
            let part = source.take(CHUNK)?;
            if part.is_empty() {
                return Ok(());
            }
            let count = part.len();
            files.import(&at, asked, part).await?;
            progress.step(files.state.tally.lines, lines);
            if let Some(rate) = asked.rate {
                let least =
                    Duration::from_secs_f64(f64::from(u32::try_from(count).unwrap_or(0)) / f64::from(rate));
                tokio::time::sleep_until(began + least).await;
            }
        }
    })?;
    let tally = files.state.tally;
    fs::remove_file(&files.state_path).map_err(|e| failed(&files.state_path, &e))?;
    out.tell(&tally, |tally| {
        format!(
            "{} lines: {} cards taken, {} of them with the token they had; {} refused{}",
            tally.lines,
            tally.taken,
            tally.tokens_kept,
            tally.refused,
            if tally.refused == 0 {
                String::new()
            } else {
                format!(", each with its reason in {}", refused.display())
            }
        )
    })?;
    if tally.refused == 0 {
        return Ok(());
    }
    Err(Failure::refused(format_args!("{} of {} lines were refused", tally.refused, tally.lines)))
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    file.with_file_name(name)
}

fn failed(file: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format_args!("{}: {e}", file.display()))
}

/// What makes two runs the same: the file's bytes, and what decides what becomes of them.
fn identity(asked: &Import, columns: &Columns) -> Result<String, Failure> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut file = File::open(&asked.file).map_err(|e| failed(&asked.file, &e))?;
    let mut page = Zeroizing::new(vec![0; 1 << 16]);
    loop {
        match std::io::Read::read(&mut file, &mut page).map_err(|e| failed(&asked.file, &e))? {
            0 => break,
            read => hash.update(page.get(..read).unwrap_or_default()),
        }
    }
    let settings = format!("{columns:?} {:?} {} {:?}", asked.format, asked.new_tokens, asked.purpose);
    hash.update(settings.as_bytes());
    Ok(data_encoding::HEXLOWER.encode(hash.finish().as_ref()))
}

impl Files {
    /// Begins anew, or where an earlier run of the same file was cut off.
    fn open(out: &Path, refused: &Path, of: String) -> Result<Self, Failure> {
        let state_path = beside(out, ".state");
        let state = match fs::read(&state_path) {
            Ok(bytes) => {
                let state: State = serde_json::from_slice(&bytes).map_err(|_| {
                    Failure::refused(format_args!("{}: is no state of an import", state_path.display()))
                })?;
                if state.of != of {
                    return Err(Failure::refused(format_args!(
                        "{}: is of an import of another file, or with other options; finish that one, or name another --out",
                        state_path.display()
                    )));
                }
                state
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if let Some(there) = [out, refused].into_iter().find(|file| file.symlink_metadata().is_ok()) {
                    return Err(Failure::refused(format_args!(
                        "{} is there already; name a new file",
                        there.display()
                    )));
                }
                let (request_id, tally) = (Uuid::new_v4().to_string(), Tally::default());
                State { of, request_id, parts: 0, out_bytes: 0, refused_bytes: 0, tally }
            }
            Err(e) => return Err(failed(&state_path, &e)),
        };
        // Before the two files: a run that was killed in between must not find them in its way.
        state.write_down(&state_path)?;
        let open = |file: &Path, bytes: u64| -> Result<File, Failure> {
            let length = file.metadata().map_or(0, |about| about.len());
            if length < bytes {
                return Err(Failure::refused(format_args!(
                    "{}: is shorter than what was written to it; put it back, or begin anew without {}",
                    file.display(),
                    state_path.display()
                )));
            }
            let mut opened = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(file)
                .map_err(|e| failed(file, &e))?;
            opened.try_lock().map_err(|e| match e {
                TryLockError::WouldBlock => Failure::refused(format_args!(
                    "{}: another import writes it; wait for that one, or name another --out",
                    file.display()
                )),
                TryLockError::Error(e) => failed(file, &e),
            })?;
            // What a part wrote that was not done is written again.
            let cut = opened.set_len(bytes).and_then(|()| opened.seek(SeekFrom::Start(bytes)));
            cut.map_err(|e| failed(file, &e))?;
            Ok(opened)
        };
        let (out, refused) = (open(out, state.out_bytes)?, open(refused, state.refused_bytes)?);
        Ok(Self { out, refused, state_path, state })
    }

    /// One part: sent, its answers on disk, and then written down as done.
    async fn import(&mut self, at: &Dialled, asked: &Import, part: Vec<Numbered>) -> Result<(), Failure> {
        let mut told = Told::default();
        let mut places = Vec::with_capacity(part.len());
        let mut items = Vec::with_capacity(part.len());
        for (line, read) in part {
            self.state.tally.lines += 1;
            match read {
                Ok(card) => {
                    let kept = !asked.new_tokens && !card.token.is_empty();
                    places.push((line, card.customer.clone(), kept));
                    items.push(item(card, asked, line));
                }
                Err(rule) => told.refuse(line, &rule),
            }
        }
        let base = Uuid::parse_str(&self.state.request_id)
            .map_err(|_| failed(&self.state_path, &"its request id is none"))?;
        let id = chunk_request_id(base, self.state.parts);
        let header = v1::RequestHeader {
            request_id: id.to_string(),
            ..ask::header(&at.merchant, &at.channel, asked.purpose, v1::Initiator::Merchant)
        };
        let outcomes = if items.is_empty() {
            Vec::new()
        } else {
            let sent = at.vault.batch_tokenize(header, items).await;
            sent.map_err(|e| Failure::from(e).and(AGAIN))?.outcomes
        };
        for ((line, customer, kept), Outcome { result, .. }) in places.into_iter().zip(outcomes) {
            match result {
                Ok(answer) => {
                    self.state.tally.taken += 1;
                    self.state.tally.tokens_kept += u64::from(kept);
                    told.take(line, &customer, &answer.token);
                }
                // What may go better later ends the run: this part is sent again, under the same ids.
                Err(error) if exit_of(&error) == Exit::Failed => return Err(Failure::from(error).and(AGAIN)),
                Err(error) => told.refuse(line, &error.to_string()),
            }
        }
        self.state.tally.refused += told.refusals;
        self.append(&told)
    }

    fn append(&mut self, told: &Told) -> Result<(), Failure> {
        let write = |file: &mut File, bytes: &[u8]| file.write_all(bytes).and_then(|()| file.sync_data());
        write(&mut self.out, &told.taken)
            .and_then(|()| write(&mut self.refused, &told.refused))
            .map_err(|e| Failure::failed(format_args!("the files of the import: {e}")))?;
        self.state.out_bytes += told.taken.len() as u64;
        self.state.refused_bytes += told.refused.len() as u64;
        self.state.parts += 1;
        self.state.write_down(&self.state_path)
    }
}

/// What one part adds to the two files.
#[derive(Default)]
struct Told {
    taken: Vec<u8>,
    refused: Vec<u8>,
    refusals: u64,
}

impl Told {
    fn take(&mut self, line: u64, customer: &str, token: &str) {
        row(&mut self.taken, [&line.to_string(), customer, token]);
    }

    fn refuse(&mut self, line: u64, why: &str) {
        self.refusals += 1;
        row(&mut self.refused, [&line.to_string(), why]);
    }
}

/// Adds a line of CSV.
fn row<const N: usize>(to: &mut Vec<u8>, fields: [&str; N]) {
    let mut writer = csv::Writer::from_writer(to);
    // Writing into memory does not fail.
    let _infallible = writer.write_record(fields);
    let _infallible = writer.flush();
}

fn item(card: Incoming, asked: &Import, line: u64) -> v1::TokenizeItem {
    let Incoming { pan, expiry, token, customer, name } = card;
    let digits = Zeroizing::new(pan.expose_digits().to_vec());
    let context = v1::Context { customer_reference: customer, ..v1::Context::default() };
    let attributes = v1::Attributes { card_holder: name, ..v1::Attributes::default() };
    v1::TokenizeItem {
        reference: line.to_string(),
        format: asked.format.clone().unwrap_or_default(),
        context: Some(context),
        attributes: Some(attributes),
        existing_token: if asked.new_tokens { String::new() } else { token },
        ..ask::card(digits, expiry.map(crate::token::date))
    }
}
