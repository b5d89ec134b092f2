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

    /// The version that this node last wrote of a row; none if it never did, or has forgotten.
    ///
    /// Ask before the row is read: only then is an older row one that was put back, and not one that was read just
    /// before another request changed it.
    #[must_use]
    pub fn newest(&self, merchant: MerchantId, row: RowKey) -> Option<u32> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.versions.get(&(merchant, row.0)).map(|(version, _)| *version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_known_until_it_is_forgotten() {
        let recent = RecentRows::new(2);
        let (m, row) = (MerchantId(1), |n: u8| RowKey([n; 16]));
        recent.changed(m, row(1), 2);
        recent.changed(m, row(1), 1);
        assert_eq!((recent.newest(m, row(1)), recent.newest(m, row(9))), (Some(2), None));
        assert_eq!(recent.newest(MerchantId(2), row(1)), None);
        recent.changed(m, row(2), 1);
        recent.changed(m, row(3), 1);
        assert_eq!((recent.newest(m, row(1)), recent.newest(m, row(3))), (None, Some(1)));
        // A row that was changed again is the newest again.
        recent.changed(m, row(2), 2);
        recent.changed(m, row(4), 1);
        assert_eq!((recent.newest(m, row(2)), recent.newest(m, row(3))), (Some(2), None));
    }
}
