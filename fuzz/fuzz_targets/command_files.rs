//! Files that an operator gives to `vaultctl`: cards, replacements, other values, sealed cards, a shop's tokens.

#![no_main]

use csv::{StringRecord, WriterBuilder};
use libfuzzer_sys::fuzz_target;
use vault_cli::files::{Line, Row, Rows, card_lines, replacement_lines, sealed_card, value, value_lines};
use vault_core::pan::{Pan, holds_card_number};
use vault_proto::v1::DataKind;

const KINDS: [DataKind; 7] = [
    DataKind::NetworkToken,
    DataKind::Reference,
    DataKind::Iban,
    DataKind::UsAccount,
    DataKind::Digits,
    DataKind::Phone,
    DataKind::Email,
];

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which % 10 {
        nth @ 0..7 => {
            let kind = KINDS[usize::from(nth)];
            told(value_lines(bytes, |fields| value(kind, fields, None)), bytes, |_| {});
        }
        7 => {
            told(card_lines(bytes), bytes, |card| assert!((12..=19).contains(&card.pan.len())));
            told(replacement_lines(bytes), bytes, |(token, _)| {
                // Behind 99 nobody issues card numbers.
                assert!(token.as_str().starts_with("99") || Pan::parse(token.as_bytes()).is_err());
            });
        }
        8 => match sealed_card(bytes) {
            Ok((card, _)) => assert!(card.enc.len() + card.ciphertext.len() <= bytes.len()),
            Err(rule) => assert!(!rule.is_empty() && !holds_card_number(&rule)),
        },
        _ => {
            upgraded(bytes, false);
            upgraded(bytes, true);
        }
    }
});

/// Lines go on, and a rule tells nothing of what broke it.
fn told<T>(lines: Vec<Line<T>>, bytes: &[u8], good: impl Fn(&T)) {
    let most = bytes.iter().filter(|b| **b == b'\n').count() + 1;
    let mut before = 0;
    for line in lines {
        assert!(line.number > before && line.number <= u64::try_from(most).unwrap());
        before = line.number;
        match line.read {
            Ok(read) => good(&read),
            Err(rule) => assert!(!rule.is_empty() && !holds_card_number(&rule)),
        }
    }
}

fn rows(bytes: &[u8], headers: bool) -> Result<Rows<&[u8]>, &'static str> {
    Rows::of(bytes, u64::try_from(bytes.len()).unwrap(), headers)
}

/// What stands in a shop's file is written as it was read.
fn upgraded(bytes: &[u8], headers: bool) {
    let Ok(mut read) = rows(bytes, headers) else { return };
    let mut to = WriterBuilder::new().flexible(true).from_writer(Vec::new());
    let first = if headers { read.headers() } else { StringRecord::new() };
    if headers && first.iter().all(str::is_empty) {
        return; // a first line that names no column
    }
    if headers {
        assert!(first.iter().all(|name| read.column(name).is_some_and(|at| first.get(at) == Some(name))));
        to.write_record(&first).unwrap();
    }
    let lines: Vec<Row> = read.collect();
    let most = u64::try_from(bytes.iter().filter(|b| **b == b'\n').count() + 1).unwrap();
    assert!(lines.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let numbers: Vec<u64> = lines.iter().map(|(number, _)| *number).collect();
    assert!(numbers.iter().all(|number| (1..=most).contains(number)), "{numbers:?} of {most}");
    let Some(records) = lines.into_iter().map(|(_, row)| row).collect::<Option<Vec<_>>>() else { return };
    for record in &records {
        to.write_record(record).unwrap();
    }
    let written = to.into_inner().unwrap();
    if written.starts_with("\u{feff}".as_bytes()) {
        return; // one byte order mark is none of a file's content; what stands behind it may be another
    }
    let Ok(mut again) = rows(&written, headers) else { panic!("what was written is read") };
    assert!(!headers || again.headers() == first);
    let back: Vec<Row> = again.collect();
    assert_eq!(back.len(), records.len());
    for ((_, now), was) in back.iter().zip(&records) {
        let now = now.as_ref().unwrap_or_else(|| panic!("what was written is text"));
        // At the end of a line a return is a part of that end.
        let last = was.len() - 1;
        let same = |(at, (now, was)): (usize, (&str, &str))| {
            now == was || (at == last && was.strip_suffix('\r') == Some(now))
        };
        assert!(now.len() == was.len() && now.iter().zip(was).enumerate().all(same));
    }
}
