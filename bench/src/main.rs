//! `vault-bench`: what the vault costs, beside what nobody can do without.
//!
//! Figures are ratios of one run on one machine; absolute ones are printed beside them and judge nothing.

use std::io::Write as _;

use clap::{Parser, Subcommand};

mod durable;
mod ff1;
mod size;

/// Benchmarks of the vault beside its floors.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  vault-bench durable\n  vault-bench durable --engine sled --json\n  vault-bench ff1 --json"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Acknowledged requests per second and flushes per thousand of them, beside the raw fsync rate of the same disk
    Durable(durable::Durable),
    /// One FF1 encryption over ten dependent AES-256 blocks, singly and in batches, beside the `fpe` crate
    Ff1(ff1::Ff1),
    /// Bytes on disk after so many cards
    Size(size::Size),
}

fn main() -> std::process::ExitCode {
    let done = match Arguments::parse().command {
        Command::Durable(durable) => durable.run(),
        Command::Ff1(ff1) => ff1.run(),
        Command::Size(size) => size.run(),
    };
    match done {
        Ok(report) => {
            // A reader that went away needs no report.
            let _gone = std::io::stdout().lock().write_all(report.as_bytes());
            std::process::ExitCode::SUCCESS
        }
        Err(e) => {
            let _gone = writeln!(std::io::stderr().lock(), "vault-bench: {e}");
            std::process::ExitCode::from(2)
        }
    }
}
