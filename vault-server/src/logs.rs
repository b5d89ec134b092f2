//! Log lines, chosen and not dumped.
//!
//! A line holds a fixed message and fields from [`FIELDS`]. Refused: every other field (its name is not printed, nor is
//! its value ever formatted), every line of another crate (they are counted: their messages may hold bytes of a request),
//! and every value in which a card number is found. Spans and their fields are never printed.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use vault_core::time::{Clock, Timestamp};

use crate::metrics::Metrics;

/// The fields that are printed, besides `message`. A new one is added here on purpose, after asking whether it could
/// ever hold a card number, a token or a person.
pub const FIELDS: &[&str] = &[
    "action",
    "address",
    "attempt",
    "authority",
    "bytes",
    "channel",
    "code",
    "count",
    "door",
    "engine",
    "epoch",
    "error",
    "expires",
    "file",
    "fingerprint",
    "format",
    "generation",
    "incident",
    "key_id",
    "key_kind",
    "left",
    "length",
    "limit",
    "line",
    "lockdown",
    "merchant",
    "method",
    "ms",
    "phase",
    "principal",
    "problem",
    "reason",
    "release",
    "rule",
    "serial",
    "signal",
    "space",
    "stage",
    "tokens",
    "used",
    "wipes",
];
/// Characters of one value. A longer one is cut, so that nobody fills the disk by one line.
const MAX_VALUE: usize = 512;
/// Milliseconds between two lines that tell how often another crate wanted to say something.
const FOREIGN_EVERY_MS: u64 = 60_000;
/// The crates whose lines are printed, by how their targets begin. All others are counted.
const OURS: &[&str] = &["vault_", "vaultctl"];
/// Stands in place of a value that holds a card number.
const WITHHELD: &str = "[withheld]";

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object per line: for machines.
    #[default]
    Json,
    /// Time, level, message and `key=value`: for people.
    Text,
}

/// The least important line that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeastLevel {
    /// Failures only.
    Error,
    /// And what an operator should look at.
    Warn,
    /// And what happened.
    #[default]
    Info,
    /// And how.
    Debug,
}

impl LeastLevel {
    fn as_tracing(self) -> Level {
        match self {
            Self::Error => Level::ERROR,
            Self::Warn => Level::WARN,
            Self::Info => Level::INFO,
            Self::Debug => Level::DEBUG,
        }
    }
}

/// The `[log]` table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `error`, `warn`, `info` (the default) or `debug`.
    pub level: LeastLevel,
    /// `json` (the default) or `text`.
    pub format: Format,
}

/// The log was already set up in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlreadyLogging;

impl fmt::Display for AlreadyLogging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this process logs already")
    }
}

impl std::error::Error for AlreadyLogging {}

/// Sends this process's lines to standard error. A panic becomes one line with its place; what it says is not printed,
/// as it may quote what it stumbled over.
pub fn start(
    settings: LogSettings,
    clock: Arc<dyn Clock>,
    metrics: Option<Arc<Metrics>>,
) -> Result<(), AlreadyLogging> {
    let subscriber = subscriber(settings, clock, metrics, Box::new(std::io::stderr()));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| AlreadyLogging)?;
    std::panic::set_hook(Box::new(|panic| {
        let (file, line) = panic.location().map_or(("unknown", 0), |place| (place.file(), place.line()));
        tracing::error!(file, line, "a defect in the program ended this task");
    }));
    Ok(())
}

/// The same, to any writer; for [`tracing::subscriber::with_default`].
pub fn subscriber(
    settings: LogSettings,
    clock: Arc<dyn Clock>,
    metrics: Option<Arc<Metrics>>,
    to: Box<dyn Write + Send>,
) -> impl Subscriber + Send + Sync {
    let lines = Lines { settings, clock, metrics, to: Mutex::new(to), foreign: Mutex::default() };
    tracing_subscriber::registry().with(lines)
}

struct Lines {
    settings: LogSettings,
    clock: Arc<dyn Clock>,
    metrics: Option<Arc<Metrics>>,
    to: Mutex<Box<dyn Write + Send>>,
    foreign: Mutex<BTreeMap<&'static str, Foreign>>,
}

/// What another crate wanted to say since it was last told. Keyed by crate, so by a name in this program's text.
#[derive(Default)]
struct Foreign {
    told: Option<Timestamp>,
    untold: u64,
}

fn is_ours(target: &str) -> bool {
    OURS.iter().any(|prefix| target.starts_with(prefix))
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let least = if is_ours(metadata.target()) { self.settings.level.as_tracing() } else { Level::WARN };
        metadata.is_event() && *metadata.level() <= least
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut chosen = Chosen::default();
        if is_ours(metadata.target()) {
            event.record(&mut chosen);
            self.write(*metadata.level(), metadata.target(), chosen);
        } else if let Some(count) = self.count_foreign(metadata.target()) {
            chosen.message.push_str("lines of another crate, counted and not printed");
            chosen.fields.insert("count".to_owned(), count.into());
            self.write(*metadata.level(), crate_of(metadata.target()), chosen);
        }
    }
}

fn crate_of(target: &'static str) -> &'static str {
    target.split("::").next().unwrap_or(target)
}

impl Lines {
    /// How many lines to tell of now, if it is time to.
    fn count_foreign(&self, target: &'static str) -> Option<u64> {
        if let Some(metrics) = &self.metrics {
            metrics.foreign_log_lines.inc();
        }
        let now = self.clock.now();
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        let of = foreign.entry(crate_of(target)).or_default();
        of.untold = of.untold.saturating_add(1);
        if of.told.is_some_and(|told| now.ms_since(told) < FOREIGN_EVERY_MS) {
            return None;
        }
        of.told = Some(now);
        Some(std::mem::take(&mut of.untold))
    }

    fn write(&self, level: Level, target: &str, chosen: Chosen) {
        let at = rfc3339(self.clock.now());
        let line = match self.settings.format {
            Format::Json => {
                let mut line = Map::new();
                line.insert("at".to_owned(), at.into());
                line.insert("level".to_owned(), level.as_str().into());
                line.insert("target".to_owned(), target.into());
                line.insert("message".to_owned(), chosen.message.into());
                line.extend(chosen.fields);
                Value::Object(line).to_string()
            }
            Format::Text => {
                // Values are written as JSON, so that a line break in one cannot begin a false line.
                let mut line = format!("{at} {level:5} {target}: {}", one_line(&chosen.message));
                for (name, value) in chosen.fields {
                    let _ = write!(line, " {name}={value}");
                }
                line
            }
        };
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody can be told that the log cannot be written: the audit log does not depend on it.
        let _ = writeln!(to, "{line}");
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What of an event is printed.
#[derive(Default)]
struct Chosen {
    message: String,
    fields: Map<String, Value>,
}

impl Chosen {
    /// The one place where a value is let through: `value` is only called for a listed field.
    fn take(&mut self, field: &Field, value: impl FnOnce() -> Value) {
        if field.name() == "message" {
            self.message = match safe(value()) {
                Value::String(text) => text,
                other => other.to_string(),
            };
        } else if FIELDS.contains(&field.name()) {
            self.fields.insert(field.name().to_owned(), safe(value()));
        }
    }
}

/// The second net: whatever the field is called, a card number does not go out.
fn safe(value: Value) -> Value {
    let text = match &value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if vault_core::pan::holds_card_number(&text) {
        return WITHHELD.into();
    }
    match value {
        Value::String(text) if text.chars().count() > MAX_VALUE => {
            text.chars().take(MAX_VALUE).chain(['…']).collect::<String>().into()
        }
        other => other,
    }
}

impl Visit for Chosen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, || format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, || value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, || value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, || value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, || value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field, || value.into());
    }
}

/// A moment as RFC 3339 writes it, in UTC with milliseconds: `2026-01-31T23:59:59.999Z`.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    let (year, month, day) = civil(at.0 / 86_400_000);
    let ms = at.0 % 86_400_000;
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

/// Year, month and day of the `days`th day after 1970-01-01, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted in eras of 400 years that begin on 1 March, so that the leap day is a year's last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use vault_core::time::ManualClock;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, clock: &Arc<ManualClock>, body: impl FnOnce()) -> String {
        let sink = Sink::default();
        let settings = LogSettings { level: LeastLevel::Info, format };
        let subscriber = subscriber(settings, Arc::clone(clock) as _, None, Box::new(sink.clone()));
        tracing::subscriber::with_default(subscriber, body);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::at(Timestamp(1_767_225_600_000)))
    }

    /// Fails the test if it is ever formatted.
    struct Untouchable;
    impl fmt::Debug for Untouchable {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("an unlisted value was formatted");
        }
    }

    #[test]
    fn a_field_that_is_not_listed_never_gets_out_nor_is_it_formatted() {
        for format in [Format::Json, Format::Text] {
            let out = logged(format, &clock(), || {
                tracing::info!(pan = "5105105105105100", secret = ?Untouchable, merchant = "shop", "stored");
                let span = tracing::error_span!("request", pan = "5105105105105100", merchant = "in a span");
                span.in_scope(|| tracing::warn!(count = 3_u64, "inside"));
            });
            assert!(!out.contains("pan") && !out.contains("5105") && !out.contains("secret"), "{out}");
            assert!(!out.contains("in a span"), "{out}");
            assert!(out.contains("shop") && out.contains("stored") && out.contains("inside"), "{out}");
            assert_eq!(out.lines().count(), 2);
        }
    }

    #[test]
    fn a_card_number_in_a_listed_field_or_a_message_is_withheld() {
        let out = logged(Format::Json, &clock(), || {
            tracing::info!(error = "no such card 4111 1111 1111 1111", "a");
            tracing::info!("stored {}", "4111111111111111");
            tracing::info!(count = 4_111_111_111_111_111_u64, "c");
        });
        assert!(!out.contains("1111"), "{out}");
        assert_eq!(out.matches(WITHHELD).count(), 3, "{out}");
    }

    #[test]
    fn other_crates_are_counted_and_never_quoted() {
        let clock = clock();
        let out = logged(Format::Json, &clock, || {
            for _ in 0..5 {
                tracing::warn!(target: "h2::proto", reason = "4111111111111111", "bytes of a request");
                tracing::info!(target: "h2::proto", "below warn");
            }
            clock.set(Timestamp(1_767_225_600_000 + FOREIGN_EVERY_MS));
            tracing::warn!(target: "h2::frame", "bytes of a request");
            tracing::error!(target: "rustls", "bytes of a request");
        });
        assert!(!out.contains("bytes of") && !out.contains("4111"), "{out}");
        let told: Vec<(String, u64)> = out
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| (line["target"].as_str().unwrap().to_owned(), line["count"].as_u64().unwrap()))
            .collect();
        assert_eq!(told, [("h2".to_owned(), 1), ("h2".to_owned(), 5), ("rustls".to_owned(), 1)]);
    }

    #[test]
    fn a_value_is_one_line_and_not_endless() {
        let out = logged(Format::Text, &clock(), || {
            tracing::info!(reason = "two\nlines", error = %"x".repeat(5_000), "also\nhere");
        });
        assert_eq!(out.lines().count(), 1);
        assert!(out.len() < 2 * MAX_VALUE, "{}", out.len());
        assert!(out.starts_with("2026-01-01T00:00:00.000Z INFO"), "{out}");
    }

    #[test]
    fn moments_are_written_as_rfc_3339_does() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_000, "9999-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(ms)), text);
        }
    }
}
