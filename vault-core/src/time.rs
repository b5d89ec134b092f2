//! Time as an argument.
//!
//! The vault counts in whole milliseconds of UTC since 1970. Nothing in this crate but [`SystemClock`] asks what
//! time it is, so a test can make it any hour.

use serde::{Deserialize, Serialize};

const MS_PER_SECOND: u64 = 1_000;
const MS_PER_HOUR: u64 = 3_600 * MS_PER_SECOND;
const MS_PER_DAY: u64 = 24 * MS_PER_HOUR;

/// A moment: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The number of whole days since 1970, UTC.
    #[must_use]
    pub fn day(self) -> u32 {
        u32::try_from(self.0 / MS_PER_DAY).unwrap_or(u32::MAX)
    }

    /// The moment `days` later, or the end of time.
    #[must_use]
    pub fn plus_days(self, days: u32) -> Self {
        Self(self.0.saturating_add(u64::from(days).saturating_mul(MS_PER_DAY)))
    }

    /// The moment `hours` later, or the end of time.
    #[must_use]
    pub fn plus_hours(self, hours: u32) -> Self {
        Self(self.0.saturating_add(u64::from(hours).saturating_mul(MS_PER_HOUR)))
    }

    /// The moment `ms` milliseconds later, or the end of time.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; zero if `earlier` is not earlier.
    #[must_use]
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Tells the time. One per vault; the journal makes sure that what is written never runs backwards.
pub trait Clock: Send + Sync + 'static {
    /// The moment it is now.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where the vault asks the machine for the time"
    )]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// A clock that stands where it is put. For tests and rehearsals.
pub struct ManualClock(std::sync::atomic::AtomicU64);

impl ManualClock {
    /// Begins at `start`.
    #[must_use]
    pub fn at(start: Timestamp) -> Self {
        Self(start.0.into())
    }

    /// Puts the clock to `now`, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }
}

impl<C: Clock> Clock for std::sync::Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}
