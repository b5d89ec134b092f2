//! The guess budget as a round of work sees it: which cell a card counts in, whether the request's cards still fit, and
//! what is written down of them.

use std::collections::HashMap;

use super::Vault;
use super::view::View;
use crate::error::Error;
use crate::guard::{self, GuessCell};
use crate::keyring::{Keyring, day_row};
use crate::pan::Pan;
use crate::policy::Admitted;
use crate::record::MerchantId;
use crate::rows;
use crate::store::{Key, Part, Write};
use crate::time::Timestamp;
use crate::words::Refusal;

/// One card that a request brings, as the budget counts it.
pub(super) struct Guess {
    merchant: MerchantId,
    day: u32,
    /// The row of its cell.
    pub(super) cell: Key,
    member: [u8; 8],
    volume: [u8; 16],
}

impl Guess {
    /// Where this principal's card counts today; nowhere for an import.
    pub(super) fn of(
        keyring: &Keyring,
        admitted: &Admitted,
        pan: &Pan,
        today: u32,
    ) -> Result<Option<Self>, Error> {
        if admitted.is_import() {
            return Ok(None);
        }
        let (merchant, principal) = (admitted.merchant_id(), admitted.principal());
        let cell = keyring.guess_cell(merchant, principal, pan)?;
        Ok(Some(Self {
            merchant,
            day: today,
            cell: day_row(rows::GUESS, today, merchant, &cell),
            member: keyring.guess_member(merchant, today, principal, pan)?,
            volume: keyring.volume(merchant, principal, pan)?,
        }))
    }

    /// Counts the card, unless it was counted today.
    pub(super) fn count(&self, view: &mut View, part: &mut Part) {
        let mut cell = GuessCell::read(view.get(&self.cell));
        if !cell.knows(self.member) {
            cell.add(self.member);
            view.put(part, self.cell.clone(), cell.into_row());
            let volume = day_row(rows::VOLUME, self.day, self.merchant, &self.volume);
            part.writes.push(Write::Add(volume, 1));
        }
    }

    /// What thirty days of this principal's cards of the BIN allow. Read only where five are not enough.
    async fn allowance(&self, vault: &Vault) -> Result<usize, Error> {
        let days = (1..=guard::MEAN_DAYS).map(|back| self.day.saturating_sub(back));
        let keys: Vec<Key> =
            days.map(|day| day_row(rows::VOLUME, day, self.merchant, &self.volume)).collect();
        let counts = vault.inner.store.get(&keys).await?;
        let count = |v: &Vec<u8>| v.as_slice().try_into().map_or(0, u64::from_be_bytes);
        let total = counts.iter().flatten().map(count).fold(0, u64::saturating_add);
        Ok(guard::allowance(total))
    }
}

/// The budget, over all cards of a request before any of them is decided on. Their cells have been read.
pub(super) async fn check<'g>(
    vault: &Vault,
    view: &View,
    admitted: &Admitted,
    (now, deadline): (Timestamp, Option<Timestamp>),
    guesses: impl Iterator<Item = &'g Guess>,
) -> Result<(), Error> {
    let mut cells: HashMap<&Key, (GuessCell, &Guess)> = HashMap::new();
    for guess in guesses {
        let read = || (GuessCell::read(view.get(&guess.cell)), guess);
        let (cell, _) = cells.entry(&guess.cell).or_insert_with(read);
        if !cell.knows(guess.member) {
            cell.add(guess.member);
        }
    }
    for (key, (cell, guess)) in cells {
        let before = GuessCell::read(view.get(key)).count();
        let grows = cell.count() > before;
        if grows && cell.count() > guard::GUESSES_A_DAY && cell.count() > guess.allowance(vault).await? {
            let denial = admitted.deny(Refusal::GuessBudgetSpent, None);
            let told = vault.inner.journal.refuse(denial, deadline).await;
            let midnight = Timestamp(0).plus_days(now.day().saturating_add(1));
            return Err(match told {
                Error::Budget { .. } => Error::Budget { retry_after_ms: midnight.ms_since(now) },
                other => other,
            });
        }
    }
    Ok(())
}
