//! Takes card numbers out of what a destination answers.
//!
//! Masked, all but its last four digits: whatever 12 to 19 digits between two group boundaries pass the Luhn check, groups
//! being digits with single spaces or hyphens between them (so a date behind a number hides it from nobody), and each number that was sent, wherever it stands among digits. Zero bytes
//! are passed over, so text of two bytes a character is read as well. What is encoded otherwise is not seen.

use vault_core::pan::{MAX_DIGITS, MIN_DIGITS, luhn_valid};

/// Digits that stay at the end of a number.
const SHOWN: usize = 4;

/// Masks `text` where it lies. Returns how many numbers were found.
pub fn mask(text: &mut [u8], sent: &[&[u8]]) -> usize {
    let mut found = 0;
    let mut run = Run::default();
    let mut hidden: Vec<usize> = Vec::new();
    let mut gap = 0;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                run.push(at, *byte, gap > 0);
                gap = 0;
            }
            0 => {}
            b' ' | b'-' if gap == 0 && !run.digits.is_empty() => gap = 1,
            _ => {
                found += run.end(sent, &mut hidden);
                gap = 0;
            }
        }
    }
    found += run.end(sent, &mut hidden);
    for at in hidden {
        if let Some(byte) = text.get_mut(at) {
            *byte = b'*';
        }
    }
    found
}

/// Digits with at most one separator between any two.
#[derive(Default)]
struct Run {
    digits: zeroize::Zeroizing<Vec<u8>>,
    places: Vec<usize>,
    /// Where a group begins, in digits.
    groups: Vec<usize>,
}

impl Run {
    fn push(&mut self, at: usize, digit: u8, new_group: bool) {
        if self.digits.is_empty() || new_group {
            self.groups.push(self.digits.len());
        }
        self.digits.push(digit);
        self.places.push(at);
    }

    /// What is to be hidden of it; then it begins anew.
    fn end(&mut self, sent: &[&[u8]], hidden: &mut Vec<usize>) -> usize {
        let run = std::mem::take(self);
        let mut numbers: Vec<(usize, usize)> = Vec::new();
        let ends: Vec<usize> = run.groups.iter().skip(1).copied().chain([run.digits.len()]).collect();
        for (first, from) in run.groups.iter().copied().enumerate() {
            let to = ends.iter().skip(first).copied().take_while(|to| to - from <= MAX_DIGITS);
            let is_card = |to: &usize| {
                run.digits.get(from..*to).is_some_and(|d| d.len() >= MIN_DIGITS && luhn_valid(d))
            };
            numbers.extend(to.filter(is_card).map(|to| (from, to)));
        }
        for number in sent {
            let at = run.digits.windows(number.len().max(1)).enumerate();
            numbers.extend(at.filter(|(_, w)| w == number).map(|(from, _)| (from, from + number.len())));
        }
        numbers.sort_unstable();
        numbers.dedup();
        for (from, to) in &numbers {
            hidden.extend(run.places.get(*from..to.saturating_sub(SHOWN)).unwrap_or_default());
        }
        numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISA: &[u8] = b"4111111111111111";

    fn masked(text: &str, sent: &[&[u8]]) -> (String, usize) {
        let mut bytes = text.as_bytes().to_vec();
        let found = mask(&mut bytes, sent);
        (String::from_utf8(bytes).unwrap(), found)
    }

    #[test]
    fn card_numbers_are_masked_wherever_they_stand() {
        for (text, told, found) in [
            ("", "", 0),
            ("no number, 12-34, 1234567890", "no number, 12-34, 1234567890", 0),
            ("4111111111111111", "************1111", 1),
            (r#"{"n":"4111111111111111"}"#, r#"{"n":"************1111"}"#, 1),
            ("n=4111 1111 1111 1111&", "n=**** **** **** 1111&", 1),
            ("4111-1111-1111-1111.", "****-****-****-1111.", 1),
            ("378282246310005 and 5555555555554444", "***********0005 and ************4444", 2),
            ("4111111111111112", "4111111111111112", 0),
            ("4111  1111 1111 1111", "4111  1111 1111 1111", 0), // two spaces are no group
            ("12-4111111111111111", "12-************1111", 1),
            ("4111 1111 1111 1111 12/27", "**** **** **** 1111 12/27", 1),
            ("2 4111 1111 1111 1111", "2 **** **** **** 1111", 1),
            ("7 4111-1111-1111-1111 27", "7 ****-****-****-1111 27", 1),
            (
                "4\u{0}1\u{0}1\u{0}1\u{0}1\u{0}1\u{0}1\u{0}1\u{0}1\u{0}1\u{0}1\u{0}1\u{0}1\u{0}1\u{0}1\u{0}1\u{0}",
                "*\u{0}*\u{0}*\u{0}*\u{0}*\u{0}*\u{0}*\u{0}*\u{0}*\u{0}*\u{0}*\u{0}*\u{0}1\u{0}1\u{0}1\u{0}1\u{0}",
                1,
            ),
        ] {
            assert_eq!(masked(text, &[]), (told.to_owned(), found), "{text}");
        }
    }

    #[test]
    fn a_number_that_was_sent_is_masked_among_other_digits_too() {
        for (text, told) in [
            ("00041111111111111110009", "000************11110009"),
            ("id 9 4111 1111 1111 1111 7", "id 9 **** **** **** 1111 7"),
            ("4111111111111111", "************1111"),
            ("411111111111111", "411111111111111"),
        ] {
            assert_eq!(masked(text, &[VISA]).0, told, "{text}");
        }
    }

    #[test]
    fn nothing_but_digits_changes_and_no_card_number_is_left() {
        // Every split of a number by one separator.
        for separator in [" ", "-"] {
            for at in 1..VISA.len() {
                let text = format!(
                    "x{}{separator}{}y",
                    std::str::from_utf8(&VISA[..at]).unwrap(),
                    std::str::from_utf8(&VISA[at..]).unwrap()
                );
                let (told, found) = masked(&text, &[VISA]);
                assert!(found > 0 && !vault_core::pan::holds_card_number(&told), "{told}");
                assert!(told.starts_with('x') && told.ends_with('y') && told.len() == text.len());
            }
        }
    }
}
