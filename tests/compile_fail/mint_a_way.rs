//@ error: E0451
//@ says: Way
use vault_core::audit::entry::Outlet;
use vault_core::policy::Way;

fn forge(outlet: Outlet) -> Way {
    Way { outlet, key: None }
}

fn main() {
    let _ = forge;
}
