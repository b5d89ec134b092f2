//@ error: E0277
//@ says: Disclosed
//@ says: Clone
use vault_core::journal::Disclosed;

fn twice<T: Clone>(one: &T) -> T {
    one.clone()
}

fn main() {
    let _ = twice::<Disclosed>;
}
