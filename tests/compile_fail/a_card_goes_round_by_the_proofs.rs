//@ compiles
// What the others do wrong, done right: it shows that nothing else is wrong with them.
use vault_core::journal::Disclosed;
use vault_core::keyring::{Keyring, SubjectSecret};
use vault_core::value::Value;
use vault_core::token::Token;

fn open(keyring: &Keyring, proof: Disclosed, token: &Token) -> Option<Value> {
    keyring.open(proof, token, &SubjectSecret::none()).ok()
}

fn main() {
    let _: fn(&Keyring, Disclosed, &Token) -> Option<Value> = open;
}
