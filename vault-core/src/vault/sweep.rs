//! Deletes what is over: kept answers after 24 hours, guess cells after their day, day counters after the thirty days that
//! a mean is taken over, and cards that were replaced at the end of their retention.

use super::Vault;
use super::view::View;
use crate::audit::entry::{Event, Who};
use crate::codec::Reader;
use crate::error::Error;
use crate::guard::MEAN_DAYS;
use crate::journal::{Filing, NotFiled};
use crate::policy::Statement;
use crate::record::{MerchantId, RowKey};
use crate::rows;
use crate::store::{Expect, Key, Part, Write};
use crate::words::RecordChange;

/// How many rows one sweep commit deletes: it must not hold up the requests behind it.
const SWEEP: usize = 2_000;

impl Vault {
    /// Deletes what is over, in commits of 2,000 rows. Returns how many rows went. Run it every hour or so, while the
    /// clock can be trusted: what goes by a clock that is days ahead does not come back.
    pub async fn sweep(&self) -> Result<u64, Error> {
        let today = self.inner.clock.now().day();
        let mut swept = 0;
        // Day rows begin with their day, so what is over stands in front of what is not.
        for (kind, first_kept) in [
            (rows::IDEMPOTENCY, today.saturating_sub(1)),
            (rows::GUESS, today),
            (rows::VOLUME, today.saturating_sub(MEAN_DAYS)),
        ] {
            loop {
                let page = self.inner.store.scan(&[kind], None, SWEEP).await?;
                let over: Vec<_> =
                    page.into_iter().map(|(key, _)| key).take_while(|key| day_of(key) < first_kept).collect();
                let count = over.len();
                if count == 0 {
                    break;
                }
                let part =
                    Part { expects: Vec::new(), writes: over.into_iter().map(Write::Delete).collect() };
                let event = Event::Swept { rows: u32::try_from(count).unwrap_or(u32::MAX) };
                let epoch = self.state().epoch.version;
                let statement = Statement { who: Who::Vault, merchant: None, channel: None, event, epoch };
                let answers =
                    self.inner.journal.file(vec![Filing::State(statement, part)], None, None).await?;
                answers.into_iter().try_for_each(|a| a.map(|_| ()).map_err(Error::from))?;
                swept += u64::try_from(count).unwrap_or(u64::MAX);
                if count < SWEEP {
                    break;
                }
            }
        }
        Ok(swept + self.sweep_earlier(today).await?)
    }

    /// Deletes the earlier cards whose retention ended. Opens outer seals only.
    async fn sweep_earlier(&self, today: u32) -> Result<u64, Error> {
        let mut swept = 0_u64;
        loop {
            let page = self.inner.store.scan(&[rows::RETENTION], None, SWEEP).await?;
            let over: Vec<_> = page.into_iter().take_while(|(key, _)| day_of(key) <= today).collect();
            if over.is_empty() {
                return Ok(swept);
            }
            let before = swept;
            for (key, value) in over {
                swept += u64::from(self.forget_earlier(key, value).await?);
            }
            // What was changed meanwhile is looked at in the next hour.
            if swept == before {
                return Ok(swept);
            }
        }
    }

    /// Deletes what is over of one token's earlier cards, and the row that reminded of it.
    async fn forget_earlier(&self, key: Key, value: Vec<u8>) -> Result<bool, Error> {
        let (state, now) = (self.state(), self.inner.clock.now());
        let Some((id, row_key)) = named_by(&key) else { return Ok(false) };
        let places = state.keyring.card_places(id, row_key)?;
        let mut view = View::default();
        view.read(self.inner.store.as_ref(), places.keys().collect()).await?;
        let Ok(place) = view.at(&places) else { return Ok(false) };
        let bytes = view.get(&place.key);
        let card = bytes.and_then(|bytes| state.keyring.card(id, &place, bytes).ok());
        // A row that does not open may do so again, put back from a backup: its cards are still to be deleted then.
        if bytes.is_some() && card.is_none() {
            return Ok(false);
        }
        let mut part =
            Part { expects: vec![Expect::Is(key.clone(), value)], writes: vec![Write::Delete(key)] };
        let mut event = Event::Swept { rows: 1 };
        let mut changed = None;
        if let Some(card) = card {
            let mut row = card.row;
            let kept = row.earlier.len();
            row.earlier.retain(|earlier| now < earlier.kept_until);
            if row.earlier.len() < kept {
                row.version = row.version.saturating_add(1);
                let sealed = state.keyring.seal_row(id, &place, &row)?;
                view.put(&mut part, place.key, sealed);
                changed = Some((id, row_key, row.version));
                let change = RecordChange::EarlierDeleted;
                event = Event::Changed { record: row.record, version: row.version, change };
            }
        }
        let epoch = state.epoch.version;
        let statement = Statement { who: Who::Vault, merchant: None, channel: None, event, epoch };
        let filing = Filing::Upkeep(statement, part, changed);
        match self.inner.journal.file(vec![filing], None, None).await?.into_iter().next() {
            Some(Ok(_)) => Ok(true),
            Some(Err(NotFiled::Stale)) | None => Ok(false),
            Some(Err(why)) => Err(why.into()),
        }
    }
}

/// Merchant and row key of a row of the kind [`rows::RETENTION`].
fn named_by(key: &[u8]) -> Option<(MerchantId, RowKey)> {
    let mut r = Reader::new(key.get(5..)?);
    let named = (MerchantId(r.u32().ok()?), RowKey(r.array().ok()?));
    r.end().ok().map(|()| named)
}

fn day_of(key: &[u8]) -> u32 {
    key.get(1..5).and_then(|day| day.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes)
}
