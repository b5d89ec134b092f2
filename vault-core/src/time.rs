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

    /// The first moment of a day written `2027-12-31` (ISO 8601), UTC, from 1970 to 9999.
    #[must_use]
    pub fn of_day(text: &str) -> Option<Self> {
        let digits = |part: &str, length| {
            let plain = part.len() == length && part.bytes().all(|b| b.is_ascii_digit());
            if plain { part.parse::<u32>().ok() } else { None }
        };
        let mut parts = text.split('-');
        let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
        let (year, month, day) = (digits(year, 4)?, digits(month, 2)?, digits(day, 2)?);
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let month = usize::try_from(month).ok()?.checked_sub(1)?;
        if parts.next().is_some() || year < 1970 || !(1..=*days.get(month)?).contains(&day) {
            return None;
        }
        let leaps = |before: u32| before / 4 - before / 100 + before / 400;
        let to_year = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
        let to_month: u32 = days.iter().take(month).sum();
        Some(Self(0).plus_days(to_year + to_month + day - 1))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_read_as_the_calendar_has_it() {
        for (text, seconds) in [
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400),
            ("2000-03-01", 951_868_800),
            ("2024-03-01", 1_709_251_200),
            ("2100-03-01", 4_107_542_400),
            ("9999-12-31", 253_402_214_400),
        ] {
            assert_eq!(Timestamp::of_day(text), Some(Timestamp(seconds * 1_000)), "{text}");
        }
        for text in [
            "",
            "2027",
            "2027-12",
            "2027-12-31-",
            "2027-12-31T",
            "27-12-31",
            "2027-2-1",
            "2027-13-01",
            "2027-00-01",
            "2027-02-29",
            "2100-02-29",
            "2027-04-31",
            "2027-12-00",
            "1969-12-31",
            "+027-12-31",
            "2027--2-31",
        ] {
            assert_eq!(Timestamp::of_day(text), None, "{text}");
        }
    }
}
