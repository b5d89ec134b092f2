//! The payment token vault: swaps card numbers (PANs) for tokens, and gives them back only to who may have them.

pub mod codec;
pub mod error;
pub mod name;
pub mod network;
pub mod pan;
pub mod random;
pub mod rows;
pub mod secret;
pub mod store;
pub mod time;
pub mod token;
