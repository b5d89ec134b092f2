//! The payment token vault as a library: swaps card numbers (PANs) for tokens, and gives them back only to who may have
//! them. No network, one folder on disk.
//!
//! A PAN leaves the vault through one function only, and that function cannot be called without two proofs: a
//! [`Permit`](policy::Permit) minted by the policy, and a [`Disclosed`](journal::Disclosed) minted by the journal after
//! the audit entry is on disk.
//!
//! ```
//! use vault_core::prelude::*;
//!
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let policy = Policy::from_toml(include_str!("../data/example-policy.toml"))?;
//! let custodian = Passphrase::new(SecretSlice::from(b"correct horse battery".to_vec()))?;
//! let store = store::create(folder, Engine::Redb, &Options::default())?;
//! let vault = Blocking::create(Place::new(store, folder.join("esk")), &custodian, policy)?;
//!
//! let shop = PrincipalName::parse("shop")?;
//! let header = Header::new(Purpose::Authorization, Initiator::Cardholder)?;
//! let card = NewCard::new(Pan::parse(b"4111 1111 1111 1111")?);
//! let token = vault.tokenize(Caller::Local(&shop), &header, card)?.token;
//!
//! let gateway = PrincipalName::parse("gateway")?;
//! let header = Header::new(Purpose::Authorization, Initiator::Cardholder)?;
//! let Revealed::Plain(pan) = vault.detokenize(Caller::Local(&gateway), &header, token, Reveal::Plain)?.revealed else {
//!     return Err("only a mask".into());
//! };
//! assert_eq!(pan.expose_digits(), b"4111111111111111");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A program that embeds the vault should install an allocator that wipes what it frees (the server's is
//! `zeroizing-alloc`): other crates' copies are not in this one's reach.

pub mod account;
pub mod aead;
pub mod attributes;
pub mod audit;
pub mod chain;
pub mod codec;
pub mod control;
pub mod custody;
pub mod digits;
pub mod email;
pub mod envelope;
pub mod error;
pub mod ff1;
pub mod free_bytes;
pub mod guard;
pub mod hpke;
pub mod iban;
pub mod journal;
pub mod keyring;
pub mod mask;
pub mod name;
pub mod network;
pub mod network_token;
pub mod outer;
pub mod pan;
pub mod par;
pub mod pattern;
pub mod payment_reference;
pub mod phone;
pub mod plan;
pub mod policy;
pub mod random;
pub mod recent;
pub mod record;
pub mod reseal;
pub mod restrictions;
pub mod rows;
pub mod sealed;
pub mod secret;
pub mod store;
pub mod survivors;
pub mod table;
pub mod terms;
pub mod time;
pub mod token;
pub mod uses;
pub mod value;
pub mod vault;
pub mod vaultless;
pub mod words;

/// What a program that embeds the vault needs, in one line.
pub mod prelude {
    pub use secrecy::SecretSlice;

    pub use crate::custody::{Custodian, Passphrase};
    pub use crate::error::Error;
    pub use crate::name::{ChannelName, FormatName, MerchantName, PrincipalName};
    pub use crate::pan::{CardExpiry, Pan};
    pub use crate::policy::{Caller, Policy};
    pub use crate::store::{self, Engine, Options};
    pub use crate::token::Token;
    pub use crate::vault::{
        Blocking, Context, Header, NewCard, Place, RequestId, Reveal, Revealed, Revocation, Vault,
    };
    pub use crate::words::{Initiator, Purpose};
}
