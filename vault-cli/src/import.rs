//! `vaultctl import FILE`: cards from elsewhere, with the tokens that they have had until now where those can stay.
//!
//! It may be killed at any time and run again: what was written down as done is not sent again, and what was under way is
//! sent under the same request ids, so that no card is stored twice. Neither of its files ever holds a card number.

pub(crate) mod source;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use vault_client::{ClientError, Outcome, ask, v1};
use vault_core::time::{Clock as _, SystemClock, Timestamp};
use zeroize::Zeroizing;

use self::source::{Columns, Field, Form, Incoming, Numbered, Preset, Source};
use crate::dial::{self, Dialled, VaultOptions};
use crate::fail::Failure;
use crate::output::Out;
use crate::parts::{self, AGAIN, Done, Parts, Run};
use crate::wire::{self, Words};

/// For how long a part may be sent again under its request id, in milliseconds: the vault knows it for 24 hours, and this
/// machine's clock may run otherwise.
const KNOWN_MS: u64 = 23 * 3_600_000;

/// After how long the vault has surely forgotten it, in milliseconds: the same hour on the other side.
const FORGOTTEN_MS: u64 = 25 * 3_600_000;

/// What the vault says of a token that is here already.
const TAKEN: &str = "is another card's here already, or was";

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
    /// The token format by its name in the policy; else the channel's own
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// Do not keep the tokens that the cards have had; each gets a new one
    #[arg(long)]
    new_tokens: bool,
    #[command(flatten)]
    parts: Parts,
    /// Send the part that was under way again, though the vault no longer knows whether it was taken
    #[arg(long)]
    resend: bool,
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

/// What an import came to, for programs.
#[derive(Serialize)]
struct Imported {
    lines: u64,
    taken: u64,
    tokens_kept: u64,
    refused: u64,
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
    let settings = format!("{columns:?} {:?} {} {:?}", asked.format, asked.new_tokens, asked.purpose);
    let of = parts::identity(&asked.file, &settings)?;
    let vault = asked.vault.clone().find()?;
    let mut run = Run::open("import", &asked.out, &asked.parts, &of, &vault.target()?)?;
    let lines = Source::open(&asked.file, form, columns)?.count()?;
    dial::run(async {
        let at = vault.connect().await?;
        run.all(lines, |count| source.take(count), async |run, part| send(run, &at, asked, part).await).await
    })?;
    let finished = run.finish()?;
    let parts::Tally { lines, taken, tokens_kept, refused } = finished.tally;
    out.tell(&Imported { lines, taken, tokens_kept, refused }, |_| {
        format!(
            "{lines} lines: {taken} cards taken, {tokens_kept} of them with the token they had; {}",
            finished.refusals()
        )
    })?;
    finished.end()
}

/// One part: what became of each line.
async fn send(run: &mut Run, at: &Dialled, asked: &Import, part: Vec<Numbered>) -> Result<Done, Failure> {
    let mut done = Done::default();
    let mut places = Vec::with_capacity(part.len());
    let mut items = Vec::with_capacity(part.len());
    for (line, read) in part {
        match read {
            Ok(card) => {
                let kept = !asked.new_tokens && !card.token.is_empty();
                places.push((line, card.customer.clone(), kept));
                items.push(item(card, asked, line));
            }
            Err(rule) => done.refuse(line, &rule),
        }
    }
    if items.is_empty() {
        return Ok(done);
    }
    begin(run, asked.resend, &places)?;
    let header = v1::RequestHeader {
        request_id: run.request_id()?.to_string(),
        ..ask::header(&at.merchant, &at.channel, asked.purpose, v1::Initiator::Merchant)
    };
    let sent = at.vault.batch_tokenize(header, items).await;
    let outcomes = sent.map_err(|e| Failure::from(e).and(AGAIN))?.outcomes;
    if let Some(error) = parts::ending(&outcomes) {
        return Err(Failure::from(error.clone()).and(AGAIN));
    }
    for ((line, customer, kept), Outcome { result, .. }) in places.into_iter().zip(outcomes) {
        match result {
            Ok(answer) => {
                if kept {
                    done.keep_token();
                }
                done.take(&parts::row([&line.to_string(), &customer, &answer.token]));
            }
            Err(error) if run.resent() && is_taken(&error) => done.refuse(line, &taken_before(&error)),
            Err(error) => done.refuse(line, &error.to_string()),
        }
    }
    Ok(done)
}

/// Writes down that a part is sent. One that was sent before keeps its moment, or it would never grow old. Refuses to send it
/// again once the vault may have forgotten its request ids, unless that is said.
fn begin(run: &mut Run, resend: bool, places: &[(u64, String, bool)]) -> Result<(), Failure> {
    let now = SystemClock.now();
    match run.begun() {
        None => run.begin(now),
        Some(begun) if is_known(begun, now) => Ok(()),
        Some(begun) if resend => run.begin_again(resent_at(begun, now)),
        Some(begun) => Err(may_be_forgotten(begun, places)),
    }
}

/// Also where the clock was put back nobody knows how long ago it was.
fn is_known(begun: Timestamp, now: Timestamp) -> bool {
    begun.0.abs_diff(now.0) <= KNOWN_MS
}

/// From when on the ids of a part count as known that is sent again now. What the vault may still know of the first send it
/// forgets a day after that one, so only a first send that is surely forgotten makes room for this one's moment.
fn resent_at(begun: Timestamp, now: Timestamp) -> Timestamp {
    if now.0.saturating_sub(begun.0) > FORGOTTEN_MS { now } else { begun }
}

/// Where the format gives each card a new token every time, the part's cards would have two; and a card that brings its own
/// token is refused there once it has it, or where it came with two: the token is in use, and by whom is not told.
fn may_be_forgotten(begun: Timestamp, places: &[(u64, String, bool)]) -> Failure {
    let line = |place: Option<&(u64, String, bool)>| place.map_or(0, |(line, ..)| *line);
    let (first, last) = (line(places.first()), line(places.last()));
    let since = wire::moment_of(begun);
    Failure::refused(format_args!(
        "the cards from line {first} to line {last} were sent at {since}, and the vault forgets after a day whether it took \
         them: where their format gives the same card the same token again, run this again with --resend; else look first \
         in the log (vaultctl audit show --action tokenize --since {since}): with no entry of this principal then they were \
         not taken, and --resend is right; with one, --resend gives those without a token of their own a second one, and \
         tells the others as refused"
    ))
}

fn is_taken(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(failure) => {
            failure.fields().iter().any(|(path, rule)| path.ends_with("existing_token") && rule == TAKEN)
        }
        _ => false,
    }
}

/// What a line is told whose token is in use after it was sent twice.
fn taken_before(error: &ClientError) -> String {
    format!(
        "{error}; but this line was sent before, and it may be this very card that was taken then with this token: look with \
         vaultctl token inspect, and if its digits are this card's and it was made at that time, nothing is to be done"
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_whose_ids_may_be_forgotten_is_not_sent_again_by_itself() {
        let now = Timestamp(1_000 * KNOWN_MS);
        let before = |ms: u64| Timestamp(now.0 - ms);
        for (begun, known) in [
            (before(0), true),
            (before(KNOWN_MS), true),
            (before(KNOWN_MS + 1), false),
            (now.plus_ms(KNOWN_MS), true),
            (now.plus_ms(KNOWN_MS + 1), false),
        ] {
            assert_eq!(is_known(begun, now), known, "{begun:?}");
        }
        let places = [3_u64, 5, 9].map(|line| (line, String::new(), line == 5));
        let told = may_be_forgotten(before(2 * KNOWN_MS), &places).to_string();
        assert!(told.contains("from line 3 to line 9") && told.contains("--resend"), "{told}");
    }

    #[test]
    fn a_part_that_is_sent_knowingly_is_known_from_then_on_only_if_the_first_send_is_surely_forgotten() {
        let now = Timestamp(1_000 * KNOWN_MS);
        for (begun, from) in [
            (Timestamp(now.0 - FORGOTTEN_MS - 1), now),
            (Timestamp(now.0 - FORGOTTEN_MS), Timestamp(now.0 - FORGOTTEN_MS)),
            (now.plus_ms(FORGOTTEN_MS + 1), now.plus_ms(FORGOTTEN_MS + 1)),
        ] {
            assert_eq!(resent_at(begun, now), from, "{begun:?}");
        }
    }
}
