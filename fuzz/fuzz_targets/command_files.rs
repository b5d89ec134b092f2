//! Files that an operator gives to `vaultctl`: cards, replacements, other values, sealed cards, a shop's tokens.

#![no_main]

use csv::WriterBuilder;
use libfuzzer_sys::fuzz_target;
use vault_cli::files::{Line, Rows, card_lines, replacement_lines, sealed_card, value, value_lines};
use vault_core::pan::holds_card_number;
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
            told(replacement_lines(bytes), bytes, |(token, _)| assert!(!holds_card_number(token.as_str())));
        }
        8 => match sealed_card(bytes) {
            Ok(card) => assert!(card.enc.len() + card.ciphertext.len() <= bytes.len()),
            Err(rule) => assert!(rule.contains("key_id") && !holds_card_number(&rule)),
        },
        _ => {
            upgraded(bytes, None);
            upgraded(bytes, Some("token"));
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

/// What stands in a shop's file is written as it was read.
fn upgraded(bytes: &[u8], column: Option<&str>) {
    let Ok(mut rows) = Rows::of(bytes, column) else { return };
    let mut to = WriterBuilder::new().flexible(true).from_writer(Vec::new());
    if let Some(headers) = rows.headers() {
        assert_eq!(headers.get(rows.place()), column);
        to.write_record(headers).unwrap();
    }
    let Ok(lines) = rows.take(usize::MAX) else { return };
    for (_, row) in &lines {
        to.write_record(row).unwrap();
    }
    let written = to.into_inner().unwrap();
    let Ok(mut again) = Rows::of(written.as_slice(), column) else { panic!("what was written is read") };
    assert_eq!(again.headers(), rows.headers());
    let back = again.take(usize::MAX).unwrap();
    assert_eq!(back.len(), lines.len());
    assert!(back.iter().zip(&lines).all(|((_, now), (_, was))| now.iter().eq(was.iter())));
}
