//! Secret bytes: on the heap, wiped when dropped, compared in constant time, without Debug.

use secrecy::{ExposeSecret, SecretBox};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

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

/// Secret bytes of any length, such as an account number: in the heap, wiped when dropped.
///
/// It has no Debug, Display, Clone, `PartialEq` or Serialize. Its room is taken once, so that no growth leaves a copy.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Nothing yet, with room for `most` bytes.
    #[must_use]
    pub fn with_room(most: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(most)))
    }

    /// A copy of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// One more byte; `None`, and nothing is added, where the room is used up.
    #[must_use]
    pub fn push(&mut self, byte: u8) -> Option<()> {
        (self.0.len() < self.0.capacity()).then(|| self.0.push(byte))
    }

    /// The bytes themselves: for a cipher, a MAC or the one answer that may carry them.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both are the same, in a time that depends on their lengths only.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        same_bytes(&self.0, &other.0)
    }
}

/// Whether two byte strings are the same, in a time that depends on their lengths only.
#[must_use]
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}
