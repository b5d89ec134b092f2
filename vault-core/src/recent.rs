//! Remembers the versions of the rows that this node changed last, so that a row put back to its own earlier bytes is
//! refused while the node lives. A named bound: the oldest are forgotten first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::record::{MerchantId, RowKey};

/// How many changed rows a node remembers: about 60 MiB when full.
pub const REMEMBERED_ROWS: usize = 1_000_000;

type Name = (MerchantId, [u8; 16]);

#[derive(Default)]
struct Memory {
    /// The newest version, and the number of the change that made it.
    versions: HashMap<Name, (u32, u64)>,
    /// Every change in order; one that is not its row's newest any more counts for nothing.
    order: VecDeque<(Name, u64)>,
    changes: u64,
}

/// The versions of the last rows changed.
pub struct RecentRows {
    memory: Mutex<Memory>,
    bound: usize,
}

impl RecentRows {
    /// Remembers up to `bound` rows.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self { memory: Mutex::default(), bound }
    }

    /// Notes that a row was changed to `version`, once that is on disk.
    pub fn changed(&self, merchant: MerchantId, row: RowKey, version: u32) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (merchant, row.0);
        memory.changes += 1;
        let change = memory.changes;
        let newest = memory.versions.get(&name).map_or(0, |(version, _)| *version);
        memory.versions.insert(name, (newest.max(version), change));
        memory.order.push_back((name, change));
        while memory.versions.len() > self.bound || memory.order.len() > self.bound.saturating_mul(2) {
            let Some((oldest, change)) = memory.order.pop_front() else { break };
            if memory.versions.get(&oldest).is_some_and(|(_, newest)| *newest == change) {
                memory.versions.remove(&oldest);
            }
        }
    }

    /// Whether a row of this version (`None`: no row at all) is older than what this node wrote.
    #[must_use]
    pub fn is_older(&self, merchant: MerchantId, row: RowKey, version: Option<u32>) -> bool {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.versions.get(&(merchant, row.0)).is_some_and(|(newest, _)| version.is_none_or(|v| v < *newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_or_missing_row_is_noticed_until_it_is_forgotten() {
        let recent = RecentRows::new(2);
        let (m, row) = (MerchantId(1), |n: u8| RowKey([n; 16]));
        recent.changed(m, row(1), 2);
        recent.changed(m, row(1), 1);
        assert!(recent.is_older(m, row(1), Some(1)) && recent.is_older(m, row(1), None));
        assert!(!recent.is_older(m, row(1), Some(2)) && !recent.is_older(m, row(9), None));
        assert!(!recent.is_older(MerchantId(2), row(1), None));
        recent.changed(m, row(2), 1);
        recent.changed(m, row(3), 1);
        assert!(!recent.is_older(m, row(1), None) && recent.is_older(m, row(3), None));
        // A row that was changed again is the newest again.
        recent.changed(m, row(2), 2);
        recent.changed(m, row(4), 1);
        assert!(recent.is_older(m, row(2), Some(1)) && !recent.is_older(m, row(3), None));
    }
}
