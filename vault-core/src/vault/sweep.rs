//! Deletes rows whose time is over: kept answers after 24 hours, guess cells after their day, day counters after the
//! thirty days that a mean is taken over.

use super::Vault;
use crate::audit::entry::{Event, Who};
use crate::error::Error;
use crate::guard::MEAN_DAYS;
use crate::journal::Filing;
use crate::policy::Statement;
use crate::rows;
use crate::store::{Part, Write};

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
        Ok(swept)
    }
}

fn day_of(key: &[u8]) -> u32 {
    key.get(1..5).and_then(|day| day.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes)
}
