//! The whole-system suite, one binary. Each module is a promise, told against real stores on a real disk.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::type_complexity,
    clippy::pedantic,
    reason = "all of this is tests: they measure, they print what they found, and a failure is a panic"
)]

mod bad_input;
mod canary;
mod crashes;
mod custodians;
mod documents;
mod engines;
mod erasure;
mod foreign_clients;
mod formats;
mod forward;
mod golden;
mod idempotency_and_races;
mod key_lifecycle;
mod key_rotation;
mod keys_in_memory;
mod life_of_a_token;
mod log_hand_over;
mod model;
mod moving_in;
mod moving_out;
mod over_the_wire;
mod payment_methods;
mod proofs_cannot_be_forged;
mod raw;
mod refused_is_refused;
mod renaming;
mod rotation_under_traffic;
mod runbooks;
mod sealed_cards;
mod sealed_vault;
mod strangers;
mod tampered_rows;
mod token_root;
mod token_space;
mod vaultless_tokens;
