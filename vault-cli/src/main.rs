//! x
#[expect(dead_code, reason = "the command line calls it once the other subcommands exist")]
mod certs;
fn main() {}
