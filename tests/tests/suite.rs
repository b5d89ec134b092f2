//! The whole-system suite, one binary. Each module is a promise, told against real stores on a real disk.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "all of this is tests"
)]

mod canary;
mod engines;
mod formats;
mod golden;
mod idempotency_and_races;
//PC
mod over_the_wire;
mod tampered_rows;
