//@ error: E0451
//@ says: Denial
use vault_core::policy::Denial;
use vault_core::words::Refusal;

fn forge(donor: Denial) -> Denial {
    Denial { why: Refusal::Unknown, ..donor }
}

fn main() {
    let _ = forge;
}
