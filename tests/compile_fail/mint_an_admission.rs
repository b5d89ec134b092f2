//@ error: E0451
//@ says: Admitted
use vault_core::policy::Admitted;

fn forge(donor: Admitted) -> Admitted {
    Admitted { epoch: 7, ..donor }
}

fn main() {
    let _ = forge;
}
