//! How much a durable answer costs: the vault's verbs on a real disk, beside the raw fsync rate of that disk.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use vault_core::prelude::*;

/// How long each row of the table is measured.
const SPELL: Duration = Duration::from_secs(3);

/// Requests in flight, one thread each: a thread that waits for its flush costs no processor.
const IN_FLIGHT: [usize; 3] = [1, 64, 256];

/// The benchmark's arguments.
#[derive(Args)]
pub(crate) struct Durable {
    /// redb or sled
    #[arg(long, default_value = "redb")]
    engine: String,
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    verb: &'static str,
    in_flight: usize,
    per_second: f64,
    flushes_per_thousand: f64,
    over_raw_fsync: f64,
}

#[derive(Serialize)]
struct Report {
    engine: String,
    processors: usize,
    raw_fsync_per_second: f64,
    rows: Vec<Row>,
}

/// Whatever went wrong.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Durable {
    /// Measures, and gives the report as text.
    pub(crate) fn run(&self) -> Result<String, Failed> {
        let engine: Engine = self.engine.parse().map_err(|_| "the engine is redb or sled")?;
        let folder = tempfile::tempdir()?;
        let raw = raw_fsyncs(folder.path())?;
        let vault = vault(folder.path(), engine)?;
        let mut rows = Vec::new();
        for in_flight in IN_FLIGHT {
            rows.push(measured(&vault, "tokenize", in_flight, raw, &|vault, n| store(vault, n).map(|_| ()))?);
        }
        let token = store(&vault, 0)?;
        for in_flight in IN_FLIGHT {
            rows.push(measured(&vault, "detokenize", in_flight, raw, &|vault, _| read(vault, &token))?);
        }
        vault.close()?;
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let report = Report { engine: self.engine.clone(), processors, raw_fsync_per_second: raw, rows };
        if self.json { Ok(serde_json::to_string_pretty(&report)? + "\n") } else { Ok(table(&report)) }
    }
}

/// How often this disk makes one block durable in a second, one after the other.
fn raw_fsyncs(folder: &Path) -> Result<f64, Failed> {
    let mut file = File::create(folder.join("raw"))?;
    let (began, mut count) = (now(), 0_u32);
    while began.elapsed() < SPELL {
        file.write_all(&[7; 4_096])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// A vault in a folder, for a principal without a guess budget.
pub(crate) fn vault(folder: &Path, engine: Engine) -> Result<Blocking, Failed> {
    let policy = Policy::from_toml(include_str!("policy.toml"))?;
    let custodian = Passphrase::new(SecretSlice::from(b"correct horse battery".to_vec()))?;
    let place = folder.join("vault");
    let store = store::create(&place, engine, &Options::default())?;
    Ok(Blocking::create(Place::new(store, place.join("esk")), &custodian, policy)?)
}

/// The `n`-th card: sixteen digits, the last one chosen so that the Luhn check holds.
pub(crate) fn card(n: u64) -> Vec<u8> {
    let front = format!("4{n:014}");
    let digits = (0..10).map(|last| format!("{front}{last}"));
    digits
        .into_iter()
        .find(|pan| vault_core::pan::luhn_valid(pan.as_bytes()))
        .unwrap_or_default()
        .into_bytes()
}

fn store(vault: &Blocking, n: u64) -> Result<Token, Failed> {
    let header = Header::new(Purpose::Authorization, Initiator::Cardholder)?;
    let card = NewCard::new(Pan::parse(&card(n))?);
    Ok(vault.tokenize(Caller::Local(&PrincipalName::parse("importer")?), &header, card)?.token)
}

fn read(vault: &Blocking, token: &Token) -> Result<(), Failed> {
    let header = Header::new(Purpose::Authorization, Initiator::Cardholder)?;
    let gateway = PrincipalName::parse("gateway")?;
    vault.detokenize(Caller::Local(&gateway), &header, token.copy(), Reveal::Plain)?;
    Ok(())
}

/// Every thread's next number: no two requests of a benchmark are about one card.
static NEXT: AtomicU64 = AtomicU64::new(1);

type Ask<'a> = &'a (dyn Fn(&Blocking, u64) -> Result<(), Failed> + Sync);

fn measured(
    vault: &Blocking,
    verb: &'static str,
    in_flight: usize,
    raw: f64,
    ask: Ask<'_>,
) -> Result<Row, Failed> {
    let (_, before, _) = vault.vault().load();
    let began = now();
    let counts = std::thread::scope(|scope| {
        let work = || -> Result<u32, Failed> {
            let mut count = 0;
            while began.elapsed() < SPELL {
                ask(vault, NEXT.fetch_add(1, Ordering::Relaxed))?;
                count += 1;
            }
            Ok(count)
        };
        let threads: Vec<_> = (0..in_flight).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|t| t.join().map_err(|_| "a thread failed")?)
            .collect::<Result<Vec<u32>, Failed>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let (_, after, _) = vault.vault().load();
    let answered: f64 = counts.into_iter().map(f64::from).sum();
    let flushes = u32::try_from(after - before).map_or(f64::MAX, f64::from);
    let per_second = answered / seconds;
    let flushes_per_thousand = flushes * 1_000.0 / answered;
    Ok(Row { verb, in_flight, per_second, flushes_per_thousand, over_raw_fsync: per_second / raw })
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing into a String does not fail.
    let _infallible = writeln!(
        text,
        "engine {}, {} processors, raw fsync {:.0}/s\n\n{:<12}{:>10}{:>14}{:>18}{:>16}",
        report.engine,
        report.processors,
        report.raw_fsync_per_second,
        "verb",
        "in flight",
        "over raw",
        "flushes/1,000",
        "requests/s"
    );
    for row in &report.rows {
        let _infallible = writeln!(
            text,
            "{:<12}{:>10}{:>13.1}x{:>18.1}{:>16.0}",
            row.verb, row.in_flight, row.over_raw_fsync, row.flushes_per_thousand, row.per_second
        );
    }
    text
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
