//@ error: E0277
//@ says: Disclosed
//@ says: Default
use vault_core::journal::Disclosed;

fn forge<T: Default>() -> T {
    T::default()
}

fn main() {
    let _: Disclosed = forge();
}
