//! `vaultctl demo`: the vault's story on a real server.

use std::path::PathBuf;

use clap::Args;

use crate::fail::Failure;
use crate::init::Engine;

/// `vaultctl demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  vaultctl demo\n  vaultctl demo --cards cards.csv\n  vaultctl demo --keep"
)]
pub(crate) struct DemoArgs {
    /// Tell it with these test cards: number,expiry,name per line
    #[arg(long, value_name = "FILE")]
    pub(crate) cards: Option<PathBuf>,
    /// Leave the server running at the end, and print commands to paste
    #[arg(long)]
    pub(crate) keep: bool,
    /// What keeps the rows
    #[arg(long, value_enum, default_value_t = Engine::Redb)]
    pub(crate) engine: Engine,
    /// From the global flag.
    #[arg(skip)]
    pub(crate) json: bool,
}

/// Tells the story.
pub(crate) fn run(_args: &DemoArgs) -> Result<(), Failure> {
    Err(Failure::failed("this build has no demo; use one that has"))
}
