//! `vaultctl`, the operator's tool of the payment token vault.
//!
//! Card numbers come from standard input, a file or a hidden prompt, never from the command line; every heap block is wiped
//! when it is freed.

mod audit;
mod certs;
mod command;
mod demo;
mod dial;
mod fail;
mod init;
mod input;
mod keys;
mod lock;
mod output;
mod policy;
mod progress;
mod serve;
mod store;
mod token;
mod wire;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: vault_server::memory::Allocator = vault_server::memory::ALLOCATOR;

fn main() -> ExitCode {
    command::main(std::env::args_os().collect())
}
