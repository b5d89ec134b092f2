//! `vaultctl serve`: the server, in this process.
//!
//! What is wrong with the settings is told all at once, each with what to do about it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use vault_core::time::{Clock, SystemClock};
use vault_server::StartError;
use vault_server::settings::{Problem, Settings};

use crate::fail::Failure;
use crate::output::{self, Out};

/// `vaultctl serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Runs until SIGTERM or SIGINT, which let it finish what it has; a second one stops it at once. SIGHUP \
    reads certificates again.\n\nExamples:\n  \
    vaultctl serve --check --settings vault.toml\n  \
    vaultctl serve --settings vault.toml"
)]
pub(crate) struct Serve {
    /// The server's settings
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
    /// Say what is wrong with the settings and the files that they name, and do not serve
    #[arg(long)]
    check: bool,
}

/// Does what the command line says. Returns when the server has ended.
pub(crate) fn run(asked: &Serve, out: Out) -> Result<(), Failure> {
    let settings = Settings::read(&asked.settings).map_err(Failure::refused)?;
    if asked.check {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        return told(&settings.check(&clock), out);
    }
    match vault_server::run(&settings) {
        Ok(()) => Ok(()),
        Err(StartError::Settings(problems)) => told(&problems, Out::new(false)),
        Err(StartError::Vault(error)) => Err(error.into()),
        Err(error @ StartError::Machine { .. }) => {
            Err(Failure::failed(format_args!("{error}; see the limits of this process and of this machine")))
        }
    }
}

fn told(problems: &[Problem], out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Checked<'a> {
        good: bool,
        problems: Vec<Told<'a>>,
    }
    #[derive(Serialize)]
    struct Told<'a> {
        key: &'a str,
        problem: &'a str,
        remedy: &'a str,
    }
    let told = problems.iter().map(|Problem { key, problem, remedy }| Told { key, problem, remedy });
    let checked = Checked { good: problems.is_empty(), problems: told.collect() };
    if checked.good || out.is_json() {
        out.tell(&checked, |_| "good: the server can start".to_owned())?;
    } else {
        for problem in problems {
            output::note(&problem.to_string());
        }
    }
    match problems.len() {
        0 => Ok(()),
        1 => Err(Failure::refused("the settings have a problem; the server would not start")),
        many => Err(Failure::refused(format_args!(
            "the settings have {many} problems; the server would not start"
        ))),
    }
}
