//! How far a long walk is, on standard error: a bar for a person, a line each tenth for a file or another program.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// A shorter walk is done before a line is read: it has none.
const SHORTEST: u64 = 10_000;

/// A walk's progress.
pub(crate) struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    tenths: u64,
}

impl Progress {
    /// Of a walk over `what`, a plural.
    pub(crate) fn of(what: &'static str) -> Self {
        let seen = std::io::stderr().is_terminal();
        let bar = seen.then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.with_message(what)
        });
        Self { what, bar, tenths: 0 }
    }

    /// `done` of `total`.
    pub(crate) fn step(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        } else if let Some(line) = self.line(done, total) {
            output::note(&line);
        }
    }

    /// The line to tell, where another tenth is done.
    fn line(&mut self, done: u64, total: u64) -> Option<String> {
        let tenths = done.saturating_mul(10).checked_div(total)?;
        if total < SHORTEST {
            return None;
        }
        let further = tenths > self.tenths;
        self.tenths = tenths.max(self.tenths);
        further.then(|| format!("{done} of {total} {}", self.what))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_each_tenth_and_never_twice() {
        let mut progress = Progress { what: "entries", bar: None, tenths: 0 };
        let told: Vec<_> = (0..=100).filter_map(|done| progress.line(done * 100, SHORTEST)).collect();
        assert_eq!(told.len(), 10);
        assert_eq!(told.first().map(String::as_str), Some("1000 of 10000 entries"));
        assert_eq!(told.last().map(String::as_str), Some("10000 of 10000 entries"));
        assert_eq!((progress.line(0, 0), Progress::of("rows").line(9, 9)), (None, None));
    }
}
