//@ error: E0382
//@ says: permit
use vault_core::policy::Permit;

fn spend(_: Permit) {}

fn twice(permit: Permit) {
    spend(permit);
    spend(permit);
}

fn main() {
    let _ = twice;
}
