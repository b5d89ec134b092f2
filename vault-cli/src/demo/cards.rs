//! The cards of the story: the demo's own test cards, or those of a file, and made-up ones for traffic.
//!
//! Refused: a file without a single good card. A bad line is told by its number and the rule that it breaks, never by its
//! content; names are not read at all.

use std::path::Path;

use vault_client::{Zeroizing, ask, v1};
use vault_core::pan::{Keep, Pan};

use crate::fail::Failure;
use crate::input::{self, Card, Line};

/// Test numbers that the networks publish for everyone.
pub(super) const OWN: &str = include_str!("../../data/demo-cards.csv");

/// The most cards that the story is told with: the rest of a longer file is left out, so that a story stays one.
const MOST: usize = 10_000;

/// First digits of made-up cards: of four networks, so that there are guesses enough for a day's budget.
const PREFIXES: [&str; 4] = ["411111", "555555", "601111", "353011"];

/// The cards that the story is about.
pub(super) struct Deck {
    /// In the order of their lines.
    pub(super) cards: Vec<Card>,
    /// Lines that hold no card: number and rule.
    pub(super) bad: Vec<(u64, String)>,
    /// How many good cards were left out.
    pub(super) left_out: usize,
    /// Whether they came from a file of the user's.
    pub(super) from_file: bool,
}

impl Deck {
    /// The cards of `file` (`-` is standard input), or the demo's own.
    pub(super) fn of(file: Option<&Path>) -> Result<Self, Failure> {
        let lines = match file {
            Some(file) => input::cards(Some(file), None)?,
            None => input::card_lines(OWN.as_bytes()),
        };
        let deck = Self::deal(lines, file.is_some());
        if !deck.cards.is_empty() {
            return Ok(deck);
        }
        let (number, rule) = deck.bad.into_iter().next().unwrap_or_default();
        Err(Failure::usage(format_args!(
            "no line of the file holds a card; line {number}: {rule}; give number,expiry,name per line"
        )))
    }

    fn deal(lines: Vec<Line<Card>>, from_file: bool) -> Self {
        let mut deck = Self { cards: Vec::new(), bad: Vec::new(), left_out: 0, from_file };
        for Line { number, read } in lines {
            match read {
                Ok(_) if deck.cards.len() == MOST => deck.left_out += 1,
                Ok(card) => deck.cards.push(card),
                Err(rule) => deck.bad.push((number, rule)),
            }
        }
        deck
    }

    /// How many different card numbers there are.
    pub(super) fn different(&self) -> usize {
        let mut digits: Vec<&[u8]> = self.cards.iter().map(|card| card.pan.expose_digits()).collect();
        digits.sort_unstable();
        digits.dedup();
        digits.len()
    }
}

/// A card as it is brought to the vault.
pub(super) fn item(card: &Card) -> v1::TokenizeItem {
    let date = card.expiry.map(|e| v1::CardExpiry { month: e.month().into(), year: e.year().into() });
    ask::card(digits(&card.pan), date)
}

/// A card number as it travels.
pub(super) fn digits(pan: &Pan) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(pan.expose_digits().to_vec())
}

/// What anyone may be shown of a card: as the vault masks it where the policy says nothing else.
pub(super) fn mask(pan: &Pan) -> String {
    pan.mask(Keep::default_for(pan.len())).to_string()
}

/// The made-up card of this number: each number another card, sixteen digits, Luhn-valid. The last four digits change from
/// card to card, or the guess budget would end the traffic.
pub(super) fn made_up(number: usize) -> Option<Pan> {
    let prefix = PREFIXES.get(number % PREFIXES.len())?;
    let number = number / PREFIXES.len();
    let (hidden, ending) = ((number / 1_000) % 1_000_000, number % 1_000);
    (0..10).find_map(|check| {
        Pan::parse(Zeroizing::new(format!("{prefix}{hidden:06}{ending:03}{check}")).as_bytes()).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_demos_own_cards_are_all_good_and_all_different() {
        let deck = Deck::of(None).unwrap();
        assert_eq!((deck.cards.len(), deck.bad.len(), deck.left_out), (8, 0, 0));
        assert_eq!(deck.different(), 8);
        assert!(deck.cards.iter().all(|card| card.expiry.is_some()));
        assert_eq!(mask(&deck.cards[0].pan), "411111******1111");
    }

    #[test]
    fn a_file_without_a_card_is_refused_by_line_and_rule() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cards.csv");
        for (text, said) in [("number\n4111111111111112,12/30\n", "line 2"), ("", "no card")] {
            std::fs::write(&file, text).unwrap();
            let Err(failure) = Deck::of(Some(&file)) else { panic!("{text}") };
            assert!(failure.to_string().contains(said) && !failure.to_string().contains("4111"), "{failure}");
        }
    }

    #[test]
    fn a_long_file_is_told_with_its_first_cards_and_the_rest_is_counted() {
        let text = "4111111111111111\n".repeat(MOST + 3) + "4111111111111112\n";
        let deck = Deck::deal(input::card_lines(text.as_bytes()), true);
        assert_eq!((deck.cards.len(), deck.left_out, deck.bad.len(), deck.different()), (MOST, 3, 1, 1));
    }

    #[test]
    fn made_up_cards_are_all_different_and_within_a_days_guesses() {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut guesses: HashMap<String, usize> = HashMap::new();
        for number in 0..40_000 {
            let pan = made_up(number).unwrap();
            let digits = String::from_utf8(pan.expose_digits().to_vec()).unwrap();
            *guesses.entry(format!("{}{}", &digits[..6], &digits[12..])).or_default() += 1;
            *seen.entry(digits).or_default() += 1;
        }
        assert_eq!(seen.len(), 40_000);
        assert!(guesses.values().all(|&n| n <= 5), "{:?}", guesses.values().max());
    }
}
