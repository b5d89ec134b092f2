//! The file that cards come in from: CSV with a line of column names, or one JSON object per line; which column is what.
//!
//! A line that cannot be read is told by its number and the rule that it breaks, never by its content.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use clap::ValueEnum;
use serde_json::Value;
use vault_core::pan::{CardExpiry, Pan};
use zeroize::Zeroizing;

use crate::fail::Failure;
use crate::rows::Rows;

/// The longest line of JSON, in bytes: an exported card with its addresses has a few thousand.
const MAX_LINE: u64 = 64 << 10;

/// How the file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Comma-separated values, the first line naming the columns
    Csv,
    /// One JSON object per line
    Jsonl,
}

/// Whose export it is: which columns it has, after that service's public documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// `number`, `expiry` (or `exp_month` and `exp_year`), `token`, `customer`, `name`
    Plain,
    /// Stripe: `card.number`, `card.exp_month`, `card.exp_year`, `card.id`, `id`, `card.name`
    Stripe,
    /// Braintree: `credit_card.number`, `credit_card.expiration_date`, `credit_card.token`, `id`, `credit_card.cardholder_name`
    Braintree,
    /// Hyperswitch: `card_number`, `card_expiry_month`, `card_expiry_year`, `payment_instrument_id`, `customer_id`, `name`
    Hyperswitch,
    /// Pagar.me: `card_number`, `expiration_date` (MMYY), `customer_id`, `card_holder_name`
    Pagarme,
    /// `TranSafe`: `account`, `expdate` (MMYY), `token`, `customer_id`, `cardholdername`
    Transafe,
    /// VGS's results file, with numbers in the place of aliases: `pan_alias`, `expiry_month`, `expiry_year`, `card_id`
    Vgs,
}

/// What a column may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Field {
    /// The card number
    Number,
    /// The date on the card: MM/YY, MM/YYYY, YYYY-MM, MMYY or MMYYYY
    Expiry,
    /// Its month alone, 1 to 12
    ExpMonth,
    /// Its year alone, of two or four digits
    ExpYear,
    /// The token that the card has had until now
    Token,
    /// The merchant's own name for the customer
    Customer,
    /// The name on the card
    Name,
}

/// Which field stands in which column.
pub type Columns = BTreeMap<Field, String>;

impl Preset {
    /// The columns of that service's files.
    #[must_use]
    pub fn columns(self) -> Columns {
        use Field::{Customer, ExpMonth, ExpYear, Expiry, Name, Number, Token};
        let named: &[(Field, &str)] = match self {
            Self::Plain => &[
                (Number, "number"),
                (Expiry, "expiry"),
                (ExpMonth, "exp_month"),
                (ExpYear, "exp_year"),
                (Token, "token"),
                (Customer, "customer"),
                (Name, "name"),
            ],
            Self::Stripe => &[
                (Number, "card.number"),
                (ExpMonth, "card.exp_month"),
                (ExpYear, "card.exp_year"),
                (Token, "card.id"),
                (Customer, "id"),
                (Name, "card.name"),
            ],
            Self::Braintree => &[
                (Number, "credit_card.number"),
                (Expiry, "credit_card.expiration_date"),
                (Token, "credit_card.token"),
                (Customer, "id"),
                (Name, "credit_card.cardholder_name"),
            ],
            Self::Hyperswitch => &[
                (Number, "card_number"),
                (ExpMonth, "card_expiry_month"),
                (ExpYear, "card_expiry_year"),
                (Token, "payment_instrument_id"),
                (Customer, "customer_id"),
                (Name, "name"),
            ],
            Self::Pagarme => &[
                (Number, "card_number"),
                (Expiry, "expiration_date"),
                (Customer, "customer_id"),
                (Name, "card_holder_name"),
            ],
            Self::Transafe => &[
                (Number, "account"),
                (Expiry, "expdate"),
                (Token, "token"),
                (Customer, "customer_id"),
                (Name, "cardholdername"),
            ],
            Self::Vgs => &[
                (Number, "pan_alias"),
                (ExpMonth, "expiry_month"),
                (ExpYear, "expiry_year"),
                (Token, "card_id"),
            ],
        };
        named.iter().map(|(field, name)| (*field, (*name).to_owned())).collect()
    }
}

/// A card as it comes in.
pub struct Incoming {
    /// The number.
    pub pan: Pan,
    /// The date on it.
    pub expiry: Option<CardExpiry>,
    /// The token it has had until now; empty if none.
    pub token: String,
    /// The merchant's own name for the customer; empty if none.
    pub customer: String,
    /// The name on it; empty if none.
    pub name: String,
}

/// A line: its number in the file, from 1, and what it holds or which rule it breaks.
pub type Numbered = (u64, Result<Incoming, String>);

/// A file that is being read.
pub struct Source<R = File> {
    lines: Lines<R>,
}

enum Lines<R> {
    Csv { rows: Box<Rows<R>>, places: BTreeMap<Field, usize> },
    Json { lines: BufReader<R>, number: u64, columns: Columns },
}

impl Source {
    /// Opens a file. Refuses one without a column for the number.
    pub fn open(file: &Path, form: Form, columns: Columns) -> Result<Self, Failure> {
        let told = |e: &dyn std::fmt::Display| Failure::refused(format_args!("{}: {e}", file.display()));
        let opened = File::open(file).map_err(|e| told(&e))?;
        let length = opened.metadata().map_err(|e| told(&e))?.len();
        Self::of(opened, length, form, columns).map_err(|rule| told(&rule))
    }
}

impl<R: Read> Source<R> {
    /// The same of any bytes, so many of them. The error is the rule that the first line breaks.
    pub fn of(bytes: R, length: u64, form: Form, columns: Columns) -> Result<Self, String> {
        if form == Form::Jsonl {
            return Ok(Self { lines: Lines::Json { lines: BufReader::new(bytes), number: 0, columns } });
        }
        let mut rows = Rows::of(bytes, length, true)?;
        let places: BTreeMap<Field, usize> =
            columns.iter().filter_map(|(field, name)| Some((*field, rows.column(name)?))).collect();
        if !places.contains_key(&Field::Number) {
            let wanted = columns.get(&Field::Number).map_or("number", String::as_str);
            let hint = "name it with --column number=NAME, or choose a --preset";
            return Err(format!("its first line names no column {wanted}; {hint}"));
        }
        Ok(Self { lines: Lines::Csv { rows: Box::new(rows), places } })
    }

    /// The next so many lines; fewer at the end, none after it.
    pub fn take(&mut self, count: usize) -> Result<Vec<Numbered>, Failure> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            match self.next()? {
                Some(line) => taken.push(line),
                None => break,
            }
        }
        Ok(taken)
    }

    /// How many lines are left.
    pub fn count(mut self) -> Result<u64, Failure> {
        let mut count = 0;
        while self.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    fn next(&mut self) -> Result<Option<Numbered>, Failure> {
        match &mut self.lines {
            Lines::Csv { rows, places } => Ok(rows.next().map(|(line, record)| match record {
                Some(record) => {
                    let field = |field| places.get(&field).and_then(|at| record.get(*at)).unwrap_or_default();
                    (line, incoming(&|f| field(f).to_owned()))
                }
                None => (line, Err("is no line of CSV in UTF-8".to_owned())),
            })),
            Lines::Json { lines, number, columns } => loop {
                let mut line = Zeroizing::new(Vec::new());
                let read = Read::take(&mut *lines, MAX_LINE).read_until(b'\n', &mut line);
                let read = read.map_err(|e| Failure::failed(format_args!("the file: {e}")))?;
                if read == 0 {
                    return Ok(None);
                }
                *number += 1;
                if line.len() as u64 == MAX_LINE && line.last() != Some(&b'\n') {
                    return Err(Failure::refused(format_args!("line {number}: is longer than 64 KiB")));
                }
                if !line.trim_ascii().is_empty() {
                    return Ok(Some((*number, json(&line, columns))));
                }
            },
        }
    }
}

fn json(line: &[u8], columns: &Columns) -> Result<Incoming, String> {
    let object: Value = serde_json::from_slice(line).map_err(|_| "is no JSON object".to_owned())?;
    incoming(&|field| columns.get(&field).and_then(|path| at(&object, path)).unwrap_or_default())
}

/// The value at a dotted path: a member of that whole name, or a member of a member.
fn at(object: &Value, path: &str) -> Option<String> {
    let found =
        object.get(path).or_else(|| path.split('.').try_fold(object, |value, name| value.get(name)))?;
    match found {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn incoming(field: &dyn Fn(Field) -> String) -> Result<Incoming, String> {
    let number = Zeroizing::new(field(Field::Number));
    let pan = Pan::parse(number.trim().as_bytes()).map_err(|e| format!("the card number {e}"))?;
    let expiry = expiry(&field(Field::Expiry), &field(Field::ExpMonth), &field(Field::ExpYear))?;
    let text = |f| field(f).trim().to_owned();
    Ok(Incoming {
        pan,
        expiry,
        token: text(Field::Token),
        customer: text(Field::Customer),
        name: text(Field::Name),
    })
}

fn expiry(whole: &str, month: &str, year: &str) -> Result<Option<CardExpiry>, String> {
    let (whole, month, year) = (whole.trim(), month.trim(), year.trim());
    let text = match (whole.is_empty(), month.is_empty(), year.is_empty()) {
        (true, true, true) => return Ok(None),
        (true, false, false) => format!("{month:0>2}/{year}"),
        (true, ..) => {
            return Err("the expiry has a month without a year, or a year without a month".to_owned());
        }
        // MMYY and MMYYYY, as some services write it.
        (false, ..) if matches!(whole.len(), 4 | 6) && whole.bytes().all(|b| b.is_ascii_digit()) => {
            let (month, year) = whole.split_at(2);
            format!("{month}/{year}")
        }
        (false, ..) => whole.to_owned(),
    };
    CardExpiry::parse(&text).map(Some).map_err(|e| format!("the expiry {e}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(text: &str, form: Form, columns: Columns) -> Vec<Numbered> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let mut source = Source::open(file.path(), form, columns).unwrap_or_else(|e| panic!("{e}"));
        source.take(1_000).unwrap_or_else(|e| panic!("{e}"))
    }

    fn told(lines: &[Numbered]) -> Vec<String> {
        lines
            .iter()
            .map(|(number, line)| match line {
                Ok(card) => {
                    let expiry = card.expiry.map_or_else(String::new, |e| e.to_string());
                    let last = std::str::from_utf8(&card.pan.expose_digits()[12..]).unwrap().to_owned();
                    format!("{number} {last} {expiry} {} {} {}", card.token, card.customer, card.name)
                }
                Err(rule) => format!("{number} {rule}"),
            })
            .collect()
    }

    #[test]
    fn every_preset_reads_the_columns_of_its_service() {
        for (preset, form, text, wanted) in [
            (
                Preset::Plain,
                Form::Csv,
                "token,number,expiry,customer,name\nold-1, 4111 1111 1111 1111 ,05/31,anna,\"Anna, A.\"\n",
                "2 1111 05/2031 old-1 anna Anna, A.",
            ),
            (
                Preset::Stripe,
                Form::Jsonl,
                r#"{"id":"cus_1","card":{"id":"card_1","number":"5555555555554444","exp_month":5,"exp_year":2031}}"#,
                "1 4444 05/2031 card_1 cus_1 ",
            ),
            (
                Preset::Stripe,
                Form::Csv,
                "id,card.id,card.number,card.exp_month,card.exp_year,card.name\ncus_1,card_1,5555555555554444,5,2031,Anna\n",
                "2 4444 05/2031 card_1 cus_1 Anna",
            ),
            (
                Preset::Braintree,
                Form::Csv,
                "id,credit_card.token,credit_card.number,credit_card.expiration_date\n7,ab12d4,4111111111111111,05/2031\n",
                "2 1111 05/2031 ab12d4 7 ",
            ),
            (
                Preset::Hyperswitch,
                Form::Csv,
                "card_number,card_expiry_month,card_expiry_year,payment_instrument_id\n4111111111111111,05,31,pm_1\n",
                "2 1111 05/2031 pm_1  ",
            ),
            (
                Preset::Pagarme,
                Form::Csv,
                "card_number,card_holder_name,expiration_date,customer_id\n4111111111111111,Anna,0531,7\n",
                "2 1111 05/2031  7 Anna",
            ),
            (
                Preset::Transafe,
                Form::Csv,
                "token,account,expdate,cardholdername,customer_id\n123,4111111111111111,0531,Anna,7\n",
                "2 1111 05/2031 123 7 Anna",
            ),
            (
                Preset::Vgs,
                Form::Csv,
                "original_token,card_id,card_fingerprint,pan_alias,expiry_year,expiry_month,token_type,job_trace_id,file_name,error\n\
                 tok_1,CRDabcdef123,f1,4111111111111111,2031,5,card,j1,cards.csv,\n",
                "2 1111 05/2031 CRDabcdef123  ",
            ),
        ] {
            assert_eq!(told(&read(text, form, preset.columns())), [wanted], "{preset:?}");
        }
    }

    #[test]
    fn a_bad_line_is_told_by_number_and_rule_and_never_by_content() {
        let text = "number,expiry\n4111111111111112,\n4111111111111111,13/31\n,\n4111111111111111\n\"4111\n";
        let lines = told(&read(text, Form::Csv, Preset::Plain.columns()));
        assert_eq!(lines.len(), 5);
        for (line, begins) in
            lines.iter().zip(["2 the card number", "3 the expiry", "4 the card number", "5 1111", "6 "])
        {
            assert!(line.starts_with(begins), "{line}");
            assert!(!line.contains("41111"), "{line}");
        }
        let text = "{\"number\": 4111111111111111}\n\nnothing\n[]\n{\"number\":\"4111111111111111\",\"exp_month\":5}\n";
        let lines = told(&read(text, Form::Jsonl, Preset::Plain.columns()));
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("1 1111") && lines[1].starts_with("3 is no JSON"), "{lines:?}");
        assert!(
            lines[2].starts_with("4 the card number") && lines[3].contains("month without a year"),
            "{lines:?}"
        );
    }

    #[test]
    fn an_alias_in_the_place_of_a_number_is_refused() {
        let text = "card_id,pan_alias,expiry_year,expiry_month\nCRDabcdef123,tok_live_bhtsCwFUzoJMw9rWUfEV5e,2031,5\n";
        let lines = told(&read(text, Form::Csv, Preset::Vgs.columns()));
        assert!(lines.len() == 1 && lines[0].starts_with("2 the card number"), "{lines:?}");
    }

    #[test]
    fn lines_are_counted_as_an_editor_counts_them() {
        let text =
            "number,name\r\n4111111111111111,a\r\n\r\n4111111111111111,\"b\r\nc\"\r\n4111111111111111,d\r\n";
        let lines = told(&read(text, Form::Csv, Preset::Plain.columns()));
        assert_eq!(lines.iter().map(|l| &l[..1]).collect::<Vec<_>>(), ["2", "4", "6"]);
    }

    #[test]
    fn a_file_without_a_column_of_numbers_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"pan,expiry\n4111111111111111,05/31\n").unwrap();
        let told = Source::open(file.path(), Form::Csv, Preset::Plain.columns()).err().unwrap();
        assert!(told.to_string().contains("--column number="), "{told}");
    }
}
