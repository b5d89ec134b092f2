//! `vaultctl demo`: the vault's story, on a real server in a process of its own.
//!
//! Each step checks what it claims, and the first claim that does not hold ends the story with an error. What it makes lies
//! in one fresh folder, which is gone afterwards unless it is to be kept. No card number is told, only masks.

mod cards;
mod paste;
mod stage;
mod story;
mod teller;
mod traffic;

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::demo::cards::Deck;
use crate::demo::teller::Teller;
use crate::dial;
use crate::fail::Failure;
use crate::init::Engine;
use crate::output::Out;

/// `vaultctl demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Needs nothing but this program. The file of cards has a card per line: number, expiry, name; the names \
    are not read. Its card numbers go into a vault that is deleted at the end, and are told as masks only.\n\n\
    Examples:\n  vaultctl demo\n  vaultctl demo --cards cards.csv\n  vaultctl demo --keep"
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
    #[allow(dead_code, reason = "it is the story's to read")]
    #[arg(skip)]
    pub(crate) json: bool,
}

/// Tells the story. Ended by a signal, it stops the server and removes the folder first.
pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let deck = Deck::of(args.cards.as_deref())?;
    let teller = Teller::new(Out::new(args.json));
    dial::run(async {
        tokio::select! {
            biased;
            ended = interrupted() => Err(ended),
            told = story::tell(args, &deck, teller) => told,
        }
    })
}

/// Comes back when somebody wants this process to end.
async fn interrupted() -> Failure {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else {
        return Failure::failed("signals cannot be listened for; see the limits of this machine");
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Failure::failed("interrupted; the demo's server is stopped and its folder removed")
}
