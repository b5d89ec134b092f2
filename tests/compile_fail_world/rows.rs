// The world in which rows are moved: everything that the work behind a key's rotation names, and nothing else. There is
// neither a card number in it, nor a token root key, nor a proof of disclosure.

mod aead {
    pub use vault_core::aead::Unopened;
}
#[path = "../../vault-core/src/chain.rs"]
pub mod chain;
mod codec {
    pub use vault_core::codec::{Reader, Writer};
}
mod control {
    pub use vault_core::control::{Control, KeyRecord};
}
mod envelope {
    pub use vault_core::envelope::{
        Dek, Fpr, Idx, Kek, KeyId, KeyKind, KeyMaterial, Root, Wraps, ctx,
    };
}
mod error {
    pub use vault_core::error::Error;
}
mod name {
    pub use vault_core::name::MerchantName;
}
#[path = "../../vault-core/src/outer.rs"]
pub mod outer;
mod record {
    pub use vault_core::record::MerchantId;
}
#[path = "../../vault-core/src/reseal.rs"]
pub mod reseal;
mod rows {
    pub use vault_core::rows::{CARD, FINGERPRINT, SUBJECT};
}
mod store {
    pub use vault_core::store::{Expect, Key, Part, Store, StoreError, Value, Write};
}
mod uses {
    pub use vault_core::uses::Uses;
}
mod words {
    pub use vault_core::words::KeyState;
}
