//@ error: E0624
//@ says: into_statement
//@ says: private
use vault_core::policy::Permit;

fn take(permit: Permit) {
    let _ = permit.into_statement();
}

fn main() {
    let _ = take;
}
