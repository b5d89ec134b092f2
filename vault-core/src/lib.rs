//! The payment token vault: swaps card numbers (PANs) for tokens, and gives them back only to who may have them.

pub mod aead;
pub mod audit;
pub mod codec;
pub mod control;
pub mod custody;
pub mod envelope;
pub mod error;
pub mod guard;
pub mod journal;
pub mod keyring;
pub mod name;
pub mod network;
pub mod pan;
pub mod policy;
pub mod random;
pub mod recent;
pub mod record;
pub mod rows;
pub mod secret;
pub mod store;
pub mod time;
pub mod token;
pub mod vault;
pub mod words;
