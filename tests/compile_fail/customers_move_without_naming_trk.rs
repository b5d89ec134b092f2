//! In the world in which customers are moved there is no such thing.
//@ error: E0432
//@ says: Trk
#![allow(dead_code)]

mod aead {
    pub use vault_core::aead::Unopened;
}
mod codec {
    pub use vault_core::codec::{Reader, Writer};
}
mod control {
    pub use vault_core::control::Control;
}
mod envelope {
    pub use vault_core::envelope::{Dek, Esk, Kek, KeyId, KeyKind, Root, ctx};
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
    pub use vault_core::record::{MerchantId, SubjectId};
}
mod rows {
    pub use vault_core::rows::SUBJECT;
}
mod secret {
    pub use vault_core::secret::Secret32;
}
mod store {
    pub use vault_core::store::{Expect, Key, Part, Store, StoreError, Write};
}
#[path = "../../vault-core/src/survivors.rs"]
pub mod survivors;
mod words {
    pub use vault_core::words::KeyState;
}

mod moving {
    use crate::envelope::Trk;
}

fn main() {}
