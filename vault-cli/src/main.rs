//! `vaultctl`, the operator's tool of the payment token vault: the library beside it, in a process in which every heap block
//! is wiped when it is freed.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: vault_server::memory::Allocator = vault_server::memory::ALLOCATOR;

fn main() -> ExitCode {
    vault_cli::main()
}
