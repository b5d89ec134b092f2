//! `vaultctl`, the operator's tool of the payment token vault.
//!
//! Card numbers come from standard input, a file or a hidden prompt, never from the command line; every heap block is wiped
//! when it is freed.

mod audit;
mod certs;
mod command;
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

#[global_allocator]
static ALLOCATOR: vault_server::memory::Allocator = vault_server::memory::ALLOCATOR;

fn main() -> ExitCode {
    // What a panic says may quote what it stumbled over: the place alone is told. `serve` logs it instead.
    std::panic::set_hook(Box::new(|panic| {
        let place =
            panic.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        output::note(&format!("vaultctl: a defect in the program{place}; please report it"));
    }));
    command::main(std::env::args_os().collect())
}
