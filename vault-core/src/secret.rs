//! Secret bytes: on the heap, wiped when dropped, compared in constant time, without Debug.

use secrecy::{ExposeSecret, SecretBox};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::random::{self, NoRandomness};

/// 32 secret bytes of whatever kind. Each kind of key is its own type around this one.
///
/// It has no Debug, Display, Clone, `PartialEq` or Serialize, and lives on the heap: a moved inline array leaves copies
/// of itself on the stack.
pub struct Secret32(SecretBox<[u8; 32]>);

impl Secret32 {
    /// Draws 32 random bytes.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut drawn = Ok(());
        let secret = Self::filled_by(|bytes| drawn = random::fill(bytes));
        drawn.map(|()| secret)
    }

    /// 32 zero bytes, filled where they lie.
    pub fn filled_by(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        Self(SecretBox::init_with_mut(fill))
    }

    /// Takes the bytes over and wipes where they came from. `None` if there are not exactly 32.
    pub fn take(from: &mut [u8]) -> Option<Self> {
        let secret =
            <&[u8; 32]>::try_from(&*from).ok().map(|bytes| Self::filled_by(|b| b.copy_from_slice(bytes)));
        from.zeroize();
        secret
    }

    /// Whether both are the same, in a time that does not tell where they differ.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.expose_bytes().ct_eq(other.expose_bytes()).into()
    }

    /// The bytes themselves: for a cipher or a MAC, never to keep.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8; 32] {
        self.0.expose_secret()
    }
}

/// Whether two byte strings are the same, in a time that depends on their lengths only.
#[must_use]
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}
