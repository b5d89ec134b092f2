//@ error: E0277
//@ says: Dek
//@ says: Wraps
//@ says: Kek
use vault_core::envelope::{Dek, Kek, KeyName, Wrapped, wrap};

fn wrong(kek: &Kek, name: &KeyName<'_>, dek: &Dek) -> Option<Wrapped> {
    wrap(kek, name, dek).ok()
}

fn main() {
    let _ = wrong;
}
