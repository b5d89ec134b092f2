//@ error: E0308
//@ says: Disclosed
//@ says: SealedRecord
use vault_core::keyring::{Keyring, SubjectSecret};
use vault_core::pan::Pan;
use vault_core::record::SealedRecord;
use vault_core::token::Token;

fn open(keyring: &Keyring, sealed: SealedRecord, token: &Token) -> Option<Pan> {
    keyring.open(sealed, token, &SubjectSecret::none()).ok()
}

fn main() {
    let _ = open;
}
