//! `vaultctl export FILE`: the cards of a list of tokens, each sealed to a registered recipient, beside its token.
//!
//! Nothing here ever sees a card number: the vault seals, and who has the recipient's private key opens. It may be killed at
//! any time and run again, like an import. It refuses to write a list whose cards the policy does not let go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use data_encoding::BASE64;
use serde::Serialize;
use vault_client::{Outcome, ask, chunk_request_id, v1};
use vault_core::pan;
use vault_core::token::Token;

use crate::dial::{self, Dialled, VaultOptions};
use crate::fail::Failure;
use crate::output::Out;
use crate::parts::{self, AGAIN, Done, Parts, Run};
use crate::rows::Rows;

/// `export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// A file with a token in each line; without --column the first column, and no line of headers
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The column with the tokens, by the name that the file's first line gives it
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// The column with the merchant's own name for the customer, for tokens that are bound to theirs
    #[arg(long, value_name = "NAME", requires = "column")]
    customer_column: Option<String>,
    /// To whom the cards are sealed, by its name in the policy
    #[arg(long, value_name = "RECIPIENT")]
    to: String,
    /// The new file of sealed cards, one per line of JSON with its token
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    parts: Parts,
    #[command(flatten)]
    vault: VaultOptions,
}

/// What an export came to, for programs.
#[derive(Serialize)]
struct Report {
    lines: u64,
    exported: u64,
    refused: u64,
    /// Of the file of sealed cards: who opens it can tell that it is this one.
    sha256: String,
}

/// A line of the file, which `vaultctl recipient open` reads.
#[derive(Serialize)]
struct Sealed<'a> {
    line: u64,
    token: &'a str,
    key_id: String,
    enc: String,
    ciphertext: String,
}

/// Does what the command line says.
pub(crate) fn run(asked: &Export, out: Out) -> Result<(), Failure> {
    let mut tokens = Tokens::open(asked)?;
    let settings = format!("export {:?} {:?} {}", asked.column, asked.customer_column, asked.to);
    let of = parts::identity(&asked.file, &settings)?;
    let vault = asked.vault.clone().find()?;
    let mut run = Run::open("export", &asked.out, &asked.parts, &of, &vault.target()?)?;
    let lines = Tokens::open(asked)?.fold(0, |lines, _| lines + 1);
    dial::run(async {
        let at = vault.connect().await?;
        let take = |count| Ok(tokens.by_ref().take(count).collect());
        run.all(lines, take, async |run, part| send(run, &at, &asked.to, part).await).await
    })?;
    let finished = run.finish()?;
    let parts::Tally { lines, taken: exported, refused, .. } = finished.tally;
    let sha256 = parts::sha256(&asked.out)?;
    out.tell(&Report { lines, exported, refused, sha256 }, |told| {
        format!(
            "{lines} lines: {exported} cards sealed to {}; {}\nSHA-256 of {}: {}",
            asked.to,
            finished.refusals(),
            asked.out.display(),
            told.sha256
        )
    })?;
    finished.end()
}

/// A line: its number in the file, from 1, and whose token it has or which rule it breaks.
type Numbered = (u64, Result<(String, Token), String>);

/// The list of tokens, as it is read.
struct Tokens {
    rows: Rows,
    token: usize,
    customer: Option<usize>,
}

impl Tokens {
    fn open(asked: &Export) -> Result<Self, Failure> {
        let mut rows = Rows::open(&asked.file, asked.column.is_some())?;
        let mut place = |name: &String| {
            rows.column(name).ok_or_else(|| {
                let file = asked.file.display();
                Failure::refused(format_args!("{file}: its first line names no column {name}"))
            })
        };
        let token = asked.column.as_ref().map(&mut place).transpose()?.unwrap_or_default();
        let customer = asked.customer_column.as_ref().map(&mut place).transpose()?;
        Ok(Self { rows, token, customer })
    }
}

impl Iterator for Tokens {
    type Item = Numbered;

    fn next(&mut self) -> Option<Numbered> {
        let (line, record) = self.rows.next()?;
        let Some(record) = record else { return Some((line, Err("is no line of CSV in UTF-8".to_owned()))) };
        let field = |at: Option<usize>| at.and_then(|at| record.get(at)).unwrap_or_default().trim();
        Some((line, read(field(Some(self.token)), field(self.customer))))
    }
}

fn read(token: &str, customer: &str) -> Result<(String, Token), String> {
    // As in every other request: a card number must not even travel in such a field.
    if pan::holds_card_number(customer) {
        return Err("the customer must not hold a card number".to_owned());
    }
    let token = Token::parse(token).map_err(|e| format!("the token {e}"))?;
    Ok((customer.to_owned(), token))
}

/// One part: what became of each line.
async fn send(run: &Run, at: &Dialled, to: &str, part: Vec<Numbered>) -> Result<Done, Failure> {
    let mut refused = BTreeMap::new();
    let mut customers: BTreeMap<String, Vec<(u64, Token)>> = BTreeMap::new();
    for (line, read) in part {
        match read {
            Ok((customer, token)) => customers.entry(customer).or_default().push((line, token)),
            Err(rule) => drop(refused.insert(line, rule)),
        }
    }
    let mut sealed = BTreeMap::new();
    // A request is about one customer at most, so each has a request of its own.
    for (number, (customer_reference, tokens)) in (0..).zip(customers) {
        let header = v1::RequestHeader {
            request_id: chunk_request_id(run.request_id()?, number).to_string(),
            context: Some(v1::Context { customer_reference, ..v1::Context::default() }),
            ..ask::header(&at.merchant, &at.channel, v1::Purpose::Export, v1::Initiator::Merchant)
        };
        let items = tokens.iter().map(|(line, token)| v1::DetokenizeItem {
            reference: line.to_string(),
            ..ask::sealed_to(token.as_str(), to)
        });
        let sent = at.vault.batch_detokenize(header, items.collect()).await;
        let outcomes = sent.map_err(|e| Failure::from(e).and(AGAIN))?.outcomes;
        if let Some(error) = parts::ending(&outcomes) {
            return Err(Failure::from(error.clone()).and(AGAIN));
        }
        for ((line, token), Outcome { result, .. }) in tokens.into_iter().zip(outcomes) {
            match result.map(|answer| answer.reveal) {
                Ok(Some(v1::detokenize_result::Reveal::SealedToRecipient(card))) => {
                    sealed.insert(line, written(line, &token, &card)?);
                }
                Ok(_) => return Err(Failure::failed("the vault answered in another form than it was asked")),
                Err(error) => drop(refused.insert(line, error.to_string())),
            }
        }
    }
    let mut done = Done::default();
    for line in sealed.values() {
        done.take(line);
    }
    for (line, why) in &refused {
        done.refuse(*line, why);
    }
    Ok(done)
}

fn written(line: u64, token: &Token, card: &v1::SealedCard) -> Result<Vec<u8>, Failure> {
    let sealed = Sealed {
        line,
        token: token.as_str(),
        key_id: card.key_id.clone(),
        enc: BASE64.encode(&card.enc),
        ciphertext: BASE64.encode(&card.ciphertext),
    };
    let mut written = serde_json::to_vec(&sealed).map_err(Failure::failed)?;
    written.push(b'\n');
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, column: Option<&str>, customer: Option<&str>) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        std::fs::write(&file, text).unwrap();
        let asked = Export {
            file,
            column: column.map(str::to_owned),
            customer_column: customer.map(str::to_owned),
            to: "bank".into(),
            out: PathBuf::new(),
            parts: Parts::default(),
            vault: VaultOptions::default(),
        };
        let tokens = Tokens::open(&asked).map_err(|e| e.to_string())?;
        let line = |(number, read): Numbered| match read {
            Ok((customer, token)) => format!("{number} {} {customer}", token.as_str()),
            Err(rule) => format!("{number} {rule}"),
        };
        Ok(tokens.map(line).collect())
    }

    #[test]
    fn a_list_of_tokens_is_read_as_people_write_it() {
        let two = ["1 4111111111111112 ", "3 tok_0123456789abcdefghijkl "];
        let text = "4111111111111112\n\n tok_0123456789abcdefghijkl \r\n";
        assert_eq!(told(text, None, None).unwrap(), two);
        let text = "line,customer,token\n7,anna,4111111111111112\n8,\"b, c\",4111111111111112\n";
        let named = told(text, Some("token"), Some("customer")).unwrap();
        assert_eq!(named, ["2 4111111111111112 anna", "3 4111111111111112 b, c"]);
        assert_eq!(told(text, Some("token"), None).unwrap()[0], "2 4111111111111112 ");
        for (column, customer) in [("tokens", None), ("token", Some("client"))] {
            let why = told(text, Some(column), customer).unwrap_err();
            assert!(why.contains("names no column"), "{why}");
        }
    }

    #[test]
    fn a_line_that_is_a_card_number_is_told_by_its_number_alone() {
        let text = "token,customer\n4111111111111111,anna\n4111111111111112,c 4111 1111 1111 1111\n,anna\n";
        let lines = told(text, Some("token"), Some("customer")).unwrap();
        for (line, begins) in lines.iter().zip(["2 the token", "3 the customer", "4 the token"]) {
            assert!(line.starts_with(begins) && !line.contains("4111"), "{line}");
        }
        assert_eq!(lines.len(), 3);
    }
}
