//! A merchant's outer seals: rows under its data encryption keys (DEK).
//!
//! What is opened here is a row, in which a card number is still sealed under keys that this module does not have: whoever
//! has an [`OuterKeys`] can move rows from one DEK to the next, and cannot open a card.

use std::collections::{HashMap, HashSet};

use zeroize::Zeroizing;

use crate::aead::Unopened;
use crate::codec::{Reader, Writer};
use crate::control::{Control, KeyRecord};
use crate::envelope::{Dek, Kek, KeyId, KeyKind, Root, ctx};
use crate::error::Error;
use crate::name::MerchantName;
use crate::uses::Uses;
use crate::words::KeyState;

/// Version byte in front of every sealed row.
const ROW_FORMAT: u8 = 1;

/// The DEKs of one merchant: one seals, all open.
pub struct OuterKeys {
    merchant: MerchantName,
    active: KeyId,
    keys: HashMap<KeyId, Dek>,
    /// Those that were: rows may name them that were left under them on purpose.
    destroyed: HashSet<KeyId>,
    uses: Uses,
}

impl OuterKeys {
    /// Unwraps a merchant's KEK, and with it the DEKs that are not destroyed; no other key. What is sealed is counted in
    /// `uses`.
    pub fn unwrap(
        control: &Control,
        merchant: &MerchantName,
        root: &Root,
        uses: &Uses,
    ) -> Result<Self, Error> {
        let alive = |kind: KeyKind| {
            control.keys.iter().filter(move |k| {
                k.kind == kind && k.merchant.as_ref() == Some(merchant) && k.state != KeyState::Destroyed
            })
        };
        let mut keys = HashMap::new();
        for kek in alive(KeyKind::Kek) {
            let under: Kek = kek.unwrap(root)?;
            for dek in alive(KeyKind::Dek).filter(|k| k.under == Some(kek.id)) {
                keys.insert(dek.id, dek.unwrap(&under)?);
            }
        }
        let active = control.active(KeyKind::Dek, Some(merchant)).ok_or(Error::Custody)?.id;
        if !keys.contains_key(&active) {
            return Err(Error::Custody);
        }
        let gone = |k: &&KeyRecord| {
            k.kind == KeyKind::Dek && k.merchant.as_ref() == Some(merchant) && k.state == KeyState::Destroyed
        };
        let destroyed = control.keys.iter().filter(gone).map(|k| k.id).collect();
        Ok(Self { merchant: merchant.clone(), active, keys, destroyed, uses: uses.clone() })
    }

    /// The key that seals.
    #[must_use]
    pub fn active(&self) -> KeyId {
        self.active
    }

    /// Whether a key is destroyed: what was left under it is no work to be done.
    #[must_use]
    pub fn is_destroyed(&self, key: KeyId) -> bool {
        self.destroyed.contains(&key)
    }

    /// Seals a row's plaintext under the active key: version u8, DEK id u32, XAES message; bound to row kind, merchant, the
    /// row's 16 bytes of key, and key id.
    pub fn seal(&self, kind: u8, key: &[u8; 16], plain: &[u8]) -> Result<Vec<u8>, Error> {
        let dek = self.keys.get(&self.active).ok_or_else(Error::internal)?;
        self.uses.take(self.active)?;
        let sealed = dek.seal(&self.aad(kind, key, self.active), plain)?;
        Ok(Writer::with_capacity(5 + sealed.len()).u8(ROW_FORMAT).u32(self.active.0).fixed(&sealed).done())
    }

    /// Opens a row.
    pub fn open(&self, kind: u8, key: &[u8; 16], bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let id = key_of(bytes).ok_or(Unopened)?;
        let dek = self.keys.get(&id).ok_or(Unopened)?;
        dek.open(&self.aad(kind, key, id), bytes.get(5..).ok_or(Unopened)?)
    }

    fn aad(&self, kind: u8, key: &[u8; 16], dek: KeyId) -> Vec<u8> {
        ctx("seal", self.merchant.as_str()).u8(kind).fixed(key).u32(dek.0).done()
    }
}

/// Which key protects a row, from its first bytes.
#[must_use]
pub fn key_of(bytes: &[u8]) -> Option<KeyId> {
    let mut r = Reader::new(bytes);
    (r.u8().ok()? == ROW_FORMAT).then(|| r.u32().ok().map(KeyId)).flatten()
}
