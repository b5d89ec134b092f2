//! Watches how much each principal asks, and says when it is enough.
//!
//! Pure: rows and time come in as arguments. It holds two budgets. Misses: a vaultless token has no authenticity, so whoever
//! tries many that nobody made is stopped. Guesses: a deterministic token makes `tokenize` a
//! guessing oracle (whoever may tokenize can try the cards of one BIN and last four and compare tokens), so the distinct
//! cards that a principal tries in one cell are counted for a day.

/// Distinct cards a day per principal, BIN of six, last four and length, where nothing says that it needs more.
pub const GUESSES_A_DAY: usize = 5;

/// How many days the mean of a principal's distinct cards is taken over.
pub const MEAN_DAYS: u32 = 30;

/// A cell gets this many times what even spreading over the last fours would bring it.
const HEADROOM: u64 = 10;

/// How many last fours there are.
const LAST_FOURS: u64 = 10_000;

/// The most that a cell may ever allow: its row stays below 40 KiB.
const MOST: u64 = 5_000;

/// How long a member is, in bytes.
const MEMBER: usize = 8;

/// How many distinct cards a cell may hold in a day: five, or ten times the daily mean for the BIN and length over the
/// last thirty days divided by the ten thousand last fours, where that is more.
#[must_use]
pub fn allowance(distinct_in_thirty_days: u64) -> usize {
    let mean = distinct_in_thirty_days.saturating_mul(HEADROOM) / u64::from(MEAN_DAYS) / LAST_FOURS;
    usize::try_from(mean.min(MOST)).unwrap_or(GUESSES_A_DAY).max(GUESSES_A_DAY)
}

/// Vaultless tokens a day per principal that open to no card, where nothing says that it meets more. Nobody has such a token:
/// it was mistyped or made up, and of so many that are made up some thirty-five open.
pub const MISSES_A_DAY: u64 = 1_000;

/// Of how many vaultless tokens that a principal opened in a day one more may be a miss.
const OPENINGS_PER_MISS: u64 = 10;

/// How many misses a principal may have in a day that has opened so many vaultless tokens: a thousand, or a tenth of those.
#[must_use]
pub fn misses_allowed(opened_today: u64) -> u64 {
    MISSES_A_DAY.max(opened_today / OPENINGS_PER_MISS)
}

/// A cell's row: the members of the day, eight bytes each.
#[derive(Clone, Default)]
pub struct GuessCell(Vec<u8>);

impl GuessCell {
    /// Reads a row; an absent one is an empty cell.
    #[must_use]
    pub fn read(row: Option<&[u8]>) -> Self {
        Self(row.unwrap_or_default().to_vec())
    }

    /// The row's bytes.
    #[must_use]
    pub fn into_row(self) -> Vec<u8> {
        self.0
    }

    /// How many distinct cards are in it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len() / MEMBER
    }

    /// Whether this card was tried before today.
    #[must_use]
    pub fn knows(&self, member: [u8; MEMBER]) -> bool {
        self.0.as_chunks().0.contains(&member)
    }

    /// Counts one more card.
    pub fn add(&mut self, member: [u8; MEMBER]) {
        self.0.extend_from_slice(&member);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_counts_each_card_once() {
        let mut cell = GuessCell::read(None);
        for member in [[1; 8], [2; 8], [1; 8]] {
            if !cell.knows(member) {
                cell.add(member);
            }
        }
        let cell = GuessCell::read(Some(&cell.into_row()));
        assert!(cell.count() == 2 && cell.knows([2; 8]) && !cell.knows([3; 8]));
    }

    #[test]
    fn the_allowance_follows_the_volume_and_never_falls_below_five() {
        for (distinct, allowed) in [(0, 5), (150_000, 5), (180_000, 6), (3_000_000, 100), (u64::MAX, 5_000)] {
            assert_eq!(allowance(distinct), allowed, "{distinct}");
        }
    }
}
