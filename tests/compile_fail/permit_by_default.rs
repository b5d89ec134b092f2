//@ error: E0277
//@ says: Permit
//@ says: Default
use vault_core::policy::Permit;

fn forge<T: Default>() -> T {
    T::default()
}

fn main() {
    let _: Permit = forge();
}
