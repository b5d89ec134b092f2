//! x
/// Whether a maximal digit run of 12 to 19 digits in `text` passes the Luhn check.
#[must_use]
pub fn holds_card_number(text: &str) -> bool {
    let _ = text;
    false
}
