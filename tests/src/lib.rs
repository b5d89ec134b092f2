//! What the modules of the suite share: a vault in a folder of its own, the disks that tests fill up, files by content.
//!
//! It fails by panicking, as tests do, and shows card numbers that networks publish for tests, never others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::type_complexity,
    clippy::pedantic,
    reason = "the suite's own tools: a failure here is a failed test"
)]

pub mod canary;
pub mod cards;
pub mod custody;
pub mod desk;
pub mod disk;
pub mod golden;
pub mod runbook;
pub mod server;

pub use desk::{At, Closed, Desk};

/// Every engine that keeps its rows on disk.
pub const ON_DISK: [vault_core::store::Engine; 2] =
    [vault_core::store::Engine::Redb, vault_core::store::Engine::Sled];
