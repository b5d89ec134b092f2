//@ error: E0277
//@ says: Permit
//@ says: Clone
use vault_core::policy::Permit;

fn twice<T: Clone>(one: &T) -> T {
    one.clone()
}

fn main() {
    let _ = twice::<Permit>;
}
