//! How Rust programs dial the vault: over TLS 1.3 with a client certificate, and under a deadline, always.
//!
//! ```no_run
//! use vault_client::v1::{CardExpiry, Initiator, Purpose};
//! use vault_client::{Endpoint, Pem, VaultClient, Zeroizing, ask};
//!
//! # async fn checkout() -> Result<(), vault_client::ClientError> {
//! let shop = (Pem::file("shop.pem"), Pem::file("shop.key"));
//! let vault = VaultClient::connect(Endpoint::new("https://vault.example:7443", Pem::file("ca.pem"), shop)).await?;
//!
//! let header = || ask::header("acme", "web", Purpose::Authorization, Initiator::Cardholder);
//! let card = ask::card(Zeroizing::new(b"4111111111111111".to_vec()), Some(CardExpiry { month: 12, year: 2030 }));
//! let token = vault.tokenize(header(), card).await?.token;
//!
//! let disclosed = vault.detokenize(header(), ask::plain(&token)).await?;
//! let pan = ask::pan(disclosed); // Option<Zeroizing<Vec<u8>>>: wiped when it is dropped
//! # drop(pan);
//! # Ok(())
//! # }
//! ```
//!
//! **It tries again** by itself, with backoff and within the deadline, where that can help and is safe: where the vault
//! advised it for `OVERLOADED`, `STORE_AWAY` or `STILL_RUNNING`, and where the connection was lost before an answer. Both
//! are safe because a request is known by its `request_id`: what was done is answered again, not done again.
//!
//! **It refuses** TLS below 1.3, every authority but the one it was given, addresses that are not `https`, and waiting for
//! ever. It checks no field of a request: that is the vault's door.
//!
//! Card numbers go in and come out as [`Zeroizing`], and messages wipe theirs when dropped. What a transport copied on the
//! way is not in reach: a process that cares has an allocator that clears what it frees.

mod admin;
pub mod ask;
mod batch;
mod custody;
mod dial;
mod endpoint;
mod error;
mod line;
#[cfg(test)]
mod rig;
mod stream;
mod vault;
mod verb;

pub use admin::{AdminClient, Verification};
pub use batch::{Batch, Outcome, chunk_request_id};
pub use endpoint::{Endpoint, Pem};
pub use error::{ClientError, ConnectError};
pub use stream::Answers;
pub use vault::VaultClient;
pub use vault_proto::status::{Failure, Reason};
pub use vault_proto::{BesideToken, v1};
pub use zeroize::Zeroizing;
