//! In the world in which customers are moved there is no such thing.
//@ error: E0432
//@ says: Trk
#![allow(dead_code)]

include!("../compile_fail_world/customers.rs");

mod moving {
    use crate::envelope::Trk;
}

fn main() {}
