//! What a token may keep is what the table says, and a token keeps it, fails the Luhn check and never comes twice.

use std::collections::HashSet;
use std::fmt::Write as _;

use vault_core::error::Error;
use vault_core::policy::Policy;
use vault_core::store::Engine;
use vault_core::token::Token;
use vault_tests::ON_DISK;
use vault_tests::cards::{luhn, number};
use vault_tests::desk::{Desk, in_format};

/// How many cards of each length and keep: many on the first engine, and on the others as many as show that the tokens
/// are kept, since how they are drawn has nothing to do with it.
fn cards_on(engine: Engine) -> u32 {
    if engine == ON_DISK[0] { 200 } else { 20 }
}

/// What may be kept of each length, as PCI SSC FAQ 1091 and this vault's own rules for other lengths than 15 and 16
/// have it: at least four digits of 16 hidden, five of 15, and one end only of 12 to 14.
const ALLOWED: [(usize, &[&str]); 8] = [
    (12, &["0+0", "0+4", "6+0"]),
    (13, &["0+0", "0+4", "6+0"]),
    (14, &["0+0", "0+4", "6+0"]),
    (15, &["0+0", "0+4", "6+0", "8+0", "6+4"]),
    (16, &["0+0", "0+4", "6+0", "8+0", "6+4", "8+4"]),
    (17, &["0+0", "0+4", "6+0", "8+0", "6+4"]),
    (18, &["0+0", "0+4", "6+0", "8+0", "6+4"]),
    (19, &["0+0", "0+4", "6+0", "8+0", "6+4"]),
];

const KEEPS: [&str; 6] = ["0+0", "0+4", "6+0", "8+0", "6+4", "8+4"];

fn allows(length: usize, keep: &str) -> bool {
    ALLOWED.iter().any(|(l, keeps)| *l == length && keeps.contains(&keep))
}

/// A merchant whose formats and masks all keep `keep`, wherever that is allowed.
fn merchant(name: &str, keep: &str, ff1_slots: u8) -> String {
    let lengths: Vec<String> =
        (12..=19).filter(|l| allows(*l, keep)).map(|l| format!("{l} = \"{keep}\"")).collect();
    // A mask that shows as little as the tokens, so that formats and masks together show no more either.
    let masks: Vec<String> =
        (12..=19).map(|l| format!("{l} = \"{}\"", if allows(l, keep) { keep } else { "0+0" })).collect();
    let mut text = format!(
        "[[merchant]]\nid = \"{name}\"\nff1_slots = {ff1_slots}\nmask = {{ {} }}\n",
        masks.join(", ")
    );
    for scheme in ["random", "mixed", "opaque"] {
        writeln!(
            text,
            "[[merchant.format]]\nid = \"{scheme}\"\nscheme = \"{scheme}\"\nmode = \"fresh\"\nkeep = {{ {} }}",
            lengths.join(", ")
        )
        .unwrap();
    }
    writeln!(
        text,
        "[[merchant.format]]\nid = \"same\"\nscheme = \"random\"\nkeep = {{ {} }}\n\
         [[merchant.channel]]\nid = \"web\"\nkind = \"e-commerce\"\nformat = \"same\"\n\
         [[principal]]\nid = \"{name}-import\"\nmerchant = \"{name}\"\n\
         [[principal]]\nid = \"{name}-gateway\"\nmerchant = \"{name}\"\n\
         [[rule]]\nid = \"{name}-imports\"\neffect = \"allow\"\nmerchant = \"{name}\"\n\
         principals = [\"{name}-import\"]\nactions = [\"tokenize\"]\nimport = true\n\
         [[rule]]\nid = \"{name}-pays\"\neffect = \"allow\"\nmerchant = \"{name}\"\n\
         principals = [\"{name}-gateway\"]\nactions = [\"detokenize\"]\nshow = \"full\"",
        lengths.join(", ")
    )
    .unwrap();
    text
}

fn kept<'a>(text: &'a str, keep: &str) -> (&'a str, &'a str) {
    let (first, last) = keep.split_once('+').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    (&text[..first], &text[text.len() - last..])
}

fn is_of_its_scheme(scheme: &str, token: &str, pan: &str, keep: &str) -> bool {
    let (first, last) = kept(pan, keep);
    match scheme {
        "random" | "same" => {
            token.bytes().all(|b| b.is_ascii_digit())
                && token.len() == pan.len()
                && luhn(token) != 0
                && kept(token, keep) == (first, last)
        }
        "mixed" => {
            let hidden = &token[first.len()..token.len() - last.len()];
            token.len() == pan.len()
                && kept(token, keep) == (first, last)
                && hidden.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
                && hidden.bytes().any(|b| b.is_ascii_lowercase())
        }
        "opaque" => {
            token.len() == 26
                && token.starts_with("tok_")
                && token[4..].bytes().all(|b| b.is_ascii_alphanumeric())
        }
        _ => false,
    }
}

#[test]
fn every_length_in_every_keep_that_is_allowed_makes_tokens_that_keep_their_promise() {
    let name = |keep: &str| format!("keeps-{}", keep.replace('+', "-"));
    let text: String = KEEPS.iter().map(|keep| merchant(&name(keep), keep, 0)).collect();
    let policy = Policy::from_toml(&text).unwrap_or_else(|e| panic!("{e}"));
    for engine in ON_DISK {
        let desk = Desk::with(engine, policy.clone());
        let mut combinations = 0;
        for keep in KEEPS {
            let (name, mut seen) = (name(keep), HashSet::new());
            let at = desk.at(&name, "web");
            for (length, _) in ALLOWED.iter().filter(|(length, _)| allows(*length, keep)) {
                let pans: Vec<String> =
                    (0..cards_on(engine)).map(|n| number("412345", *length, n * 37)).collect();
                for scheme in ["random", "mixed", "opaque", "same"] {
                    let tokens = at.imported(pans.iter().map(|pan| in_format(scheme, pan)).collect());
                    for (token, pan) in tokens.iter().zip(&pans) {
                        let text = token.as_str();
                        let case = || format!("{engine}: {scheme} {keep} of {length} digits");
                        assert!(is_of_its_scheme(scheme, text, pan, keep), "{}", case());
                        assert!(seen.insert(text.to_owned()), "{} came twice", case());
                    }
                    for (paid, pan) in at.paid_all(&tokens).into_iter().zip(&pans) {
                        assert_eq!(paid.as_ref(), Ok(pan), "{engine}: {scheme} {keep} of {length} digits");
                    }
                    combinations += 1;
                }
                // The same card again is the same token where its format says so.
                let again = at.imported(vec![in_format("same", &pans[0])]);
                assert!(seen.contains(again[0].as_str()));
            }
        }
        assert_eq!(combinations, 35 * 4);
    }
}

#[test]
fn a_length_that_a_format_does_not_name_is_refused() {
    for engine in ON_DISK {
        let desk = Desk::with(engine, Policy::from_toml(&merchant("tight", "8+4", 0)).unwrap());
        for length in 12..=19 {
            let answer =
                desk.at("tight", "web").import(vec![in_format("random", &number("412345", length, 7))]);
            let answer = answer.unwrap().pop().unwrap();
            match length {
                16 => assert!(answer.is_ok()),
                _ => assert!(matches!(answer.err(), Some(Error::Malformed { field: "item.plain.pan", .. }))),
            }
        }
    }
}

#[test]
fn tokens_leave_the_sums_that_are_reserved_for_vaultless_ones_alone() {
    for engine in ON_DISK {
        let desk = Desk::with(engine, Policy::from_toml(&merchant("later", "6+4", 5)).unwrap());
        let cards = (0..500).map(|n| in_format("random", &number("412345", 16, n))).collect();
        let tokens = desk.at("later", "web").imported(cards);
        let sums: HashSet<u32> = tokens.iter().map(Token::as_str).map(luhn).collect();
        assert_eq!(sums, HashSet::from([6, 7, 8, 9]));
    }
}

#[test]
fn a_keep_that_shows_too_much_is_refused_by_the_policy() {
    let format = |scheme: &str, length: usize, keep: &str| {
        format!(
            "[[merchant]]\nid = \"acme\"\nmask = {{ {length} = \"0+0\" }}\n[[merchant.format]]\nid = \"f\"\nscheme = \"{scheme}\"\nkeep = {{ {length} = \"{keep}\" }}\n"
        )
    };
    let mask = |length: usize, keep: &str| {
        format!("[[merchant]]\nid = \"acme\"\nmask = {{ {length} = \"{keep}\" }}\n")
    };
    let (mut taken, mut refused) = (0, 0);
    for length in 10..=21 {
        for (first, last) in (0..=9).flat_map(|first| (0..=9).map(move |last| (first, last))) {
            let keep = format!("{first}+{last}");
            let texts =
                [format("random", length, &keep), format("mixed", length, &keep), mask(length, &keep)];
            for text in texts {
                match Policy::from_toml(&text) {
                    Ok(_) => {
                        assert!(allows(length, &keep), "{length} digits: {keep} was taken");
                        taken += 1;
                    }
                    Err(Error::Config(why)) => {
                        assert!(!allows(length, &keep), "{length} digits: {keep}: {why}");
                        assert!(why.contains("acme"), "{why}");
                        refused += 1;
                    }
                    Err(other) => panic!("{length} digits: {keep}: {other}"),
                }
            }
        }
    }
    assert_eq!((taken, refused), (35 * 3, 12 * 100 * 3 - 35 * 3));
    for odd in ["6", "6+", "+4", "6-4", "06+4", "6+4 ", " 6+4", "a+b", "", "6+4+0"] {
        assert!(Policy::from_toml(&mask(16, odd)).is_err(), "{odd:?}");
    }
}

#[test]
fn formats_and_masks_of_one_merchant_are_judged_together() {
    let text = |mask: &str, formats: &[&str]| {
        let mut text = format!("[[merchant]]\nid = \"acme\"\nmask = {{ 15 = \"{mask}\" }}\n");
        for (n, keep) in formats.iter().enumerate() {
            writeln!(
                text,
                "[[merchant.format]]\nid = \"f{n}\"\nscheme = \"random\"\nkeep = {{ 15 = \"{keep}\" }}"
            )
            .unwrap();
        }
        Policy::from_toml(&text)
    };
    assert!(text("6+4", &["6+0", "0+4"]).is_ok());
    assert!(text("0+0", &["8+0"]).is_ok());
    // Eight in front by one answer and four at the end by another would leave three of fifteen digits.
    for (mask, formats) in
        [("0+4", &["8+0"][..]), ("0+0", &["8+0", "0+4"]), ("8+0", &["6+4"]), ("6+4", &["8+0"])]
    {
        let told = text(mask, formats);
        assert!(matches!(&told, Err(Error::Config(why)) if why.contains("together")), "{mask} {formats:?}");
    }
}
