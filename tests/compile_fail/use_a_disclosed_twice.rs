//@ error: E0382
//@ says: proof
use vault_core::journal::Disclosed;
use vault_core::keyring::{Keyring, SubjectSecret};
use vault_core::token::Token;

fn open(keyring: &Keyring, proof: Disclosed, token: &Token) -> bool {
    let once = keyring.open(proof, token, &SubjectSecret::none()).is_ok();
    once && keyring.open(proof, token, &SubjectSecret::none()).is_ok()
}

fn main() {
    let _ = open;
}
