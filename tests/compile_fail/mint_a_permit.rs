//@ error: E0451
//@ says: Permit
use vault_core::audit::entry::Event;
use vault_core::policy::Permit;
use vault_core::words::{Ref, Show};

fn forge(donor: Permit) -> Permit {
    Permit { record: Ref([0; 16]), show: Show::Full, event: Event::VaultOpened, epoch: 1, ..donor }
}

fn main() {
    let _ = forge;
}
