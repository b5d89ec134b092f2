//! In the world in which rows are moved there is no such thing.
//@ error: E0432
//@ says: journal
#![allow(dead_code)]

include!("../compile_fail_world/rows.rs");

mod moving {
    use crate::journal::Disclosed;
}

fn main() {}
