//! What `vaultctl`, the operator's tool of the payment token vault, does: its `main` is beside it, and calls [`main`].
//!
//! Card numbers come from standard input, a file or a hidden prompt, never from the command line. What it reads of files that
//! others wrote stands in [`files`], so that it can be tried with any bytes and without a command.

mod audit;
mod certs;
mod command;
mod custodian;
mod custody;
mod demo;
mod dial;
mod export;
mod fail;
mod format;
mod import;
mod init;
mod input;
mod keys;
mod lock;
mod output;
mod parts;
mod policy;
mod progress;
mod recipient;
mod rows;
mod serve;
mod store;
mod token;
mod values;
mod wire;

use std::process::ExitCode;

/// The readers of files that others wrote, each of which takes any bytes. `fuzz/` tries them.
pub mod files {
    pub use crate::fail::Failure;
    pub use crate::import::source::{Columns, Field, Form, Incoming, Numbered, Preset, Source};
    pub use crate::input::{Card, Line, card_lines, replacement_lines, sealed_card, value_lines};
    pub use crate::rows::{Row, Rows};
    pub use crate::values::{Given, line as value};
    pub use crate::wire::ReceiptText;
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    // What a panic says may quote what it stumbled over: the place alone is told. `serve` logs it instead.
    std::panic::set_hook(Box::new(|panic| {
        let place =
            panic.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        output::note(&format!("vaultctl: a defect in the program{place}; please report it"));
    }));
    command::main(std::env::args_os().collect())
}
