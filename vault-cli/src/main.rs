//! `vaultctl`, the operator's tool. (Its first command; the others move in beside it.)

#[global_allocator]
static ALLOCATOR: vault_server::memory::Allocator = vault_server::memory::ALLOCATOR;

mod certs;

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let _ = certs::run;
    let path = args.iter().position(|a| a == "--settings").and_then(|i| args.get(i + 1)).cloned().unwrap_or_default();
    let served = vault_server::settings::Settings::read(std::path::Path::new(&path))
        .map_err(|p| p.to_string())
        .and_then(|s| vault_server::run(&s).map_err(|e| e.to_string()));
    match served {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(_) => std::process::ExitCode::from(2),
    }
}
