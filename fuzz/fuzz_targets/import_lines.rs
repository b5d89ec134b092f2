//! A file of cards from another service: CSV with any columns, or JSON lines.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_cli::files::{Field, Form, Incoming, Preset, Source};
use vault_core::pan::{Pan, holds_card_number};

const PRESETS: [Preset; 7] = [
    Preset::Plain,
    Preset::Stripe,
    Preset::Braintree,
    Preset::Hyperswitch,
    Preset::Pagarme,
    Preset::Transafe,
    Preset::Vgs,
];

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let form = if which & 1 == 0 { Form::Csv } else { Form::Jsonl };
    let columns = PRESETS[usize::from(which / 2) % PRESETS.len()].columns();
    let length = u64::try_from(bytes.len()).unwrap();
    let open = || Source::of(bytes, length, form, columns.clone());
    let Ok(mut source) = open() else {
        assert!(form == Form::Csv);
        return;
    };
    let mut before = 0;
    let mut lines = 0;
    loop {
        let Ok(taken) = source.take(3) else { return };
        let Some((last, _)) = taken.last() else { break };
        let last = *last;
        for (number, line) in taken {
            lines += 1;
            assert!(number > before, "lines go on");
            before = number;
            match line {
                Ok(card) => taken_again(&card),
                Err(rule) => assert!(!rule.is_empty() && !holds_card_number(&rule)),
            }
        }
        assert!(last <= length + 1);
    }
    let Ok(again) = open() else { panic!("it was opened once") };
    assert!(again.count().is_ok_and(|count| count == lines));
});

/// What was taken, written as the plain form has it, is taken as the same.
fn taken_again(card: &Incoming) {
    assert!(Pan::parse(card.pan.expose_digits()).is_ok());
    let written = serde_json::json!({
        "number": std::str::from_utf8(card.pan.expose_digits()).unwrap(),
        "expiry": card.expiry.map_or_else(String::new, |expiry| expiry.to_string()),
        "token": card.token,
        "customer": card.customer,
        "name": card.name,
    });
    let columns = Preset::Plain.columns();
    assert!(columns.contains_key(&Field::Number));
    let line = written.to_string() + "\n";
    if line.len() >= 64 << 10 {
        return;
    }
    let Ok(mut source) =
        Source::of(line.as_bytes(), u64::try_from(line.len()).unwrap(), Form::Jsonl, columns)
    else {
        panic!("JSON lines")
    };
    let lines = source.take(2).unwrap_or_else(|e| panic!("{e}"));
    let [(1, Ok(again))] = lines.as_slice() else { panic!("one line was written") };
    assert!(again.pan.same_as(&card.pan) && again.expiry == card.expiry);
    assert!((&again.token, &again.customer, &again.name) == (&card.token, &card.customer, &card.name));
}
