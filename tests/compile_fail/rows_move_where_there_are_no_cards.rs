//! The work behind a key's rotation is whole in a world with neither card numbers, nor the token root key, nor proofs.
//@ compiles
#![allow(dead_code)]

include!("../compile_fail_world/rows.rs");

fn main() {}
