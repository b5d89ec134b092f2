//! The key tree: kinds, states, wraps, and how everything else is derived.
//!
//! A key is a type of its own, so that a DEK can never be used where a KEK is meant; which kind may wrap which is told
//! to the compiler by [`Wraps`]. What a wrap opens to is bound to its [`KeyName`] and proven by a key check value.
//! Words and states follow NIST SP 800-57 Part 1 Rev. 5.

use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::aead::{Unopened, Xaes};
use crate::codec::Writer;
use crate::random::NoRandomness;
use crate::secret::{Secret32, same_bytes};

/// What a key is for. The number is its name on disk and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// The root: wraps the merchants' KEKs and the vault's own keys. Held by the custodian.
    Root = 1,
    /// Erasure epoch key: seals the secrets of data subjects; in a file of its own.
    Esk = 2,
    /// Control document key.
    Ctl = 3,
    /// Seed of a log's Ed25519 signing key.
    Log = 4,
    /// Administration: operators' TOTP secrets, webhook keys, sealed notes.
    Adm = 5,
    /// A merchant's key encryption key.
    Kek = 16,
    /// Data encryption key: outer seals.
    Dek = 17,
    /// Row keys.
    Idx = 18,
    /// Fingerprints.
    Fpr = 19,
    /// Token root key: seals a card to its token.
    Trk = 20,
    /// Names records in the log, subjects and public fingerprints. Stable.
    Ref = 21,
    /// Idempotency rows and guess counters.
    Idm = 22,
    /// HPKE private keys for sealed cards.
    Rcv = 23,
    /// A slot's FF1 key for vaultless tokens.
    Fpk = 24,
}

impl KeyKind {
    /// Every kind, the vault's own first.
    pub const ALL: [Self; 14] = [
        Self::Root,
        Self::Esk,
        Self::Ctl,
        Self::Log,
        Self::Adm,
        Self::Kek,
        Self::Dek,
        Self::Idx,
        Self::Fpr,
        Self::Trk,
        Self::Ref,
        Self::Idm,
        Self::Rcv,
        Self::Fpk,
    ];

    /// The kind's short name, lower case, as operators type it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Esk => "esk",
            Self::Ctl => "ctl",
            Self::Log => "log",
            Self::Adm => "adm",
            Self::Kek => "kek",
            Self::Dek => "dek",
            Self::Idx => "idx",
            Self::Fpr => "fpr",
            Self::Trk => "trk",
            Self::Ref => "ref",
            Self::Idm => "idm",
            Self::Rcv => "rcv",
            Self::Fpk => "fpk",
        }
    }

    /// The kind of that short name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A key's number: unique in its vault, never given twice. Stands in front of everything sealed under the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub u32);

/// Which key this is: what a wrap is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName<'a> {
    /// Whose: the merchant's name, empty for the vault's own keys.
    pub merchant: &'a str,
    /// Its number.
    pub id: KeyId,
    /// The how many-eth of its kind for that merchant, from 1.
    pub version: u32,
}

/// `ctx(L)` = "pv1/" L 0x00 e(merchant): what every derivation and every associated data begins with. The labels are
/// listed in docs/format.md, and each stands in one place of the code.
#[must_use]
pub fn ctx(label: &str, merchant: &str) -> Writer {
    let mut w = Writer::with_capacity(160);
    w.fixed(b"pv1/").fixed(label.as_bytes()).u8(0).e(merchant.as_bytes());
    w
}

/// A key of some kind.
pub trait KeyMaterial: Sized {
    /// Its kind.
    const KIND: KeyKind;

    /// Prepares the key for use.
    fn from_secret(secret: Secret32) -> Self;

    /// Its bytes, for a wrap alone.
    fn secret(&self) -> &Secret32;

    /// Draws a new one.
    fn generate() -> Result<Self, NoRandomness> {
        Secret32::random().map(Self::from_secret)
    }

    /// The key check value: tells whether a wrap opened to the right key, and nothing of the key.
    fn check_value(&self) -> [u8; 8] {
        check_value(self.secret())
    }
}

/// HMAC-SHA-256(key, "pv1/kcv"), cut to 8 bytes.
#[must_use]
pub fn check_value(secret: &Secret32) -> [u8; 8] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose_bytes()), b"pv1/kcv");
    first(tag.as_ref())
}

/// The first `N` bytes of a longer digest.
pub(crate) fn first<const N: usize>(digest: &[u8]) -> [u8; N] {
    digest.first_chunk().copied().unwrap_or([0; N])
}

macro_rules! sealing_keys {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        pub struct $name { secret: Secret32, cipher: Xaes }

        impl KeyMaterial for $name {
            const KIND: KeyKind = KeyKind::$name;
            fn from_secret(secret: Secret32) -> Self {
                let cipher = Xaes::new(&secret);
                Self { secret, cipher }
            }
            fn secret(&self) -> &Secret32 {
                &self.secret
            }
        }

        impl $name {
            /// Seals `plaintext`, bound to `aad`.
            pub fn seal(&self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, NoRandomness> {
                self.cipher.seal(aad, plaintext)
            }

            /// Opens what [`seal`](Self::seal) made.
            pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, Unopened> {
                self.cipher.open(aad, sealed)
            }
        }
    )+};
}

sealing_keys! {
    /// The root key.
    Root,
    /// The erasure epoch key.
    Esk,
    /// The Control document's key.
    Ctl,
    /// The administration key.
    Adm,
    /// A merchant's key encryption key.
    Kek,
    /// A merchant's data encryption key.
    Dek,
}

macro_rules! mac_keys {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        pub struct $name { secret: Secret32, mac: Box<hmac::Key> }

        impl KeyMaterial for $name {
            const KIND: KeyKind = KeyKind::$name;
            fn from_secret(secret: Secret32) -> Self {
                let mac = Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret.expose_bytes()));
                Self { secret, mac }
            }
            fn secret(&self) -> &Secret32 {
                &self.secret
            }
        }

        impl $name {
            /// HMAC-SHA-256 over `message`, cut to `N` (at most 32) bytes: a name, not a secret.
            #[must_use]
            pub fn name_of<const N: usize>(&self, message: &[u8]) -> [u8; N] {
                first(hmac::sign(&self.mac, message).as_ref())
            }
        }
    )+};
}

mac_keys! {
    /// A merchant's row-key key.
    Idx,
    /// A merchant's fingerprint key.
    Fpr,
    /// A merchant's token root key.
    Trk,
    /// A merchant's reference key.
    Ref,
    /// A merchant's idempotency and guess-counter key.
    Idm,
}

impl Trk {
    /// HMAC-SHA-256 over `message` as a key of its own.
    #[must_use]
    pub fn derive(&self, message: &[u8]) -> Secret32 {
        let tag = hmac::sign(&self.mac, message);
        Secret32::filled_by(|bytes| bytes.copy_from_slice(tag.as_ref()))
    }
}

macro_rules! seed_keys {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        pub struct $name { secret: Secret32 }

        impl KeyMaterial for $name {
            const KIND: KeyKind = KeyKind::$name;
            fn from_secret(secret: Secret32) -> Self {
                Self { secret }
            }
            fn secret(&self) -> &Secret32 {
                &self.secret
            }
        }
    )+};
}

seed_keys! {
    /// A log's Ed25519 seed (RFC 8032).
    Log,
    /// A merchant's HPKE private key seed.
    Rcv,
    /// A slot's FF1 key.
    Fpk,
}

/// Which kind of key may wrap which: the tree of docs/format.md, told to the compiler.
pub trait Wraps<K: KeyMaterial>: KeyMaterial {
    /// Seals bytes under the wrapping key.
    fn seal_wrap(&self, aad: &[u8], secret: &[u8; 32]) -> Result<Vec<u8>, NoRandomness>;
    /// Opens a wrap.
    fn open_wrap(&self, aad: &[u8], wrapped: &[u8]) -> Result<Secret32, Unopened>;
}

macro_rules! wraps {
    ($($parent:ident => $($child:ident),+;)+) => {$($(
        impl Wraps<$child> for $parent {
            fn seal_wrap(&self, aad: &[u8], secret: &[u8; 32]) -> Result<Vec<u8>, NoRandomness> {
                self.seal(aad, secret)
            }
            fn open_wrap(&self, aad: &[u8], wrapped: &[u8]) -> Result<Secret32, Unopened> {
                Secret32::take(&mut self.open(aad, wrapped)?).ok_or(Unopened)
            }
        }
    )+)+};
}

wraps! {
    Root => Kek, Ctl, Log, Adm;
    Kek => Dek, Idx, Fpr, Trk, Ref, Idm, Rcv, Fpk;
}

/// A key at rest: sealed under its parent, with its check value beside it. It holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// XAES message of the 32 bytes: 72 bytes.
    pub bytes: Vec<u8>,
    /// The key check value.
    pub check: [u8; 8],
}

/// The associated data of a wrap: ctx("wrap"), kind u8, key id u32, version u32.
fn wrap_aad(kind: KeyKind, name: &KeyName<'_>) -> Vec<u8> {
    ctx("wrap", name.merchant).u8(kind as u8).u32(name.id.0).u32(name.version).done()
}

/// Wraps `key` under its parent, bound to its kind and name.
pub fn wrap<K: KeyMaterial, P: Wraps<K>>(
    key: &K,
    name: &KeyName<'_>,
    under: &P,
) -> Result<Wrapped, NoRandomness> {
    let bytes = under.seal_wrap(&wrap_aad(K::KIND, name), key.secret().expose_bytes())?;
    Ok(Wrapped { bytes, check: key.check_value() })
}

/// Unwraps a key, and proves by its check value that it is the one that was wrapped.
pub fn unwrap<K: KeyMaterial, P: Wraps<K>>(
    wrapped: &Wrapped,
    name: &KeyName<'_>,
    under: &P,
) -> Result<K, Unopened> {
    let secret = under.open_wrap(&wrap_aad(K::KIND, name), &wrapped.bytes)?;
    if !same_bytes(&check_value(&secret), &wrapped.check) {
        return Err(Unopened);
    }
    Ok(K::from_secret(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrap_opens_only_by_its_own_name_kind_and_parent() {
        let root = Root::generate().unwrap();
        let kek = Kek::generate().unwrap();
        let name = KeyName { merchant: "acme", id: KeyId(7), version: 2 };
        let wrapped = wrap(&kek, &name, &root).unwrap();
        let back: Kek = unwrap(&wrapped, &name, &root).unwrap();
        assert!(back.secret().same_as(kek.secret()));

        for other in [
            KeyName { merchant: "acm", ..name.clone() },
            KeyName { id: KeyId(8), ..name.clone() },
            KeyName { version: 1, ..name.clone() },
        ] {
            assert!(unwrap::<Kek, _>(&wrapped, &other, &root).is_err());
        }
        assert!(unwrap::<Ctl, _>(&wrapped, &name, &root).is_err());
        assert!(unwrap::<Kek, _>(&wrapped, &name, &Root::generate().unwrap()).is_err());
        assert!(unwrap::<Kek, _>(&Wrapped { check: [0; 8], ..wrapped }, &name, &root).is_err());
    }

    #[test]
    fn every_kind_has_its_own_number_and_name() {
        let numbers: std::collections::HashSet<u8> = KeyKind::ALL.iter().map(|k| *k as u8).collect();
        assert_eq!(numbers.len(), KeyKind::ALL.len());
        for kind in KeyKind::ALL {
            assert_eq!(KeyKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(KeyKind::parse("DEK"), None);
    }

    #[test]
    fn labels_never_run_into_merchants() {
        assert_ne!(ctx("tok", "a").done(), ctx("to", "ka").done());
        assert_ne!(ctx("a", "bc").e(b"d").done(), ctx("a", "b").e(b"cd").done());
    }
}
