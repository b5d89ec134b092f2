//@ error: E0308
//@ says: Disclosed
//@ says: Permit
use vault_core::keyring::{Keyring, SubjectSecret};
use vault_core::pan::Pan;
use vault_core::policy::Permit;
use vault_core::token::Token;

fn open(keyring: &Keyring, permit: Permit, token: &Token) -> Option<Pan> {
    keyring.open(permit, token, &SubjectSecret::none()).ok()
}

fn main() {
    let _ = open;
}
