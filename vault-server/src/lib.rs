//! The vault over gRPC with mutual TLS.
//!
//! This crate is the edge of the vault: it decides who may connect, carries their certificate to every request, and
//! keeps what one peer can cost within named bounds. It decides nothing about cards: that is `vault-core`'s.

pub mod admin;
pub mod custodian;
pub mod custody;
pub mod data;
pub mod failure;
pub mod forward;
pub mod identity;
pub mod limits;
pub mod listener;
pub mod logs;
pub mod memory;
pub mod metrics;
pub mod request;
pub mod run;
pub mod service;
pub mod settings;
pub mod shutdown;
mod spaces;
pub mod strongroom;
pub mod tls;
pub mod wire;

pub use run::{StartError, run};

#[cfg(test)]
mod rig;
