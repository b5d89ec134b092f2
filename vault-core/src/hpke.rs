//! Sealing to a public key: HPKE (RFC 9180) in base mode, one suite alone.
//!
//! The suite is DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM: KEM 0x0020, KDF 0x0001, AEAD 0x0002 (RFC 9180,
//! section 7). One message per encapsulated key (section 6.1), with empty associated data: what a message is bound to is
//! in `info` (section 8.1), since not every library takes both.
//!
//! Base mode tells nobody who sealed. Refused, with one face: a message for another key or another `info`, a changed
//! byte, an encapsulated key of low order (the shared secret would be zero, section 7.1.4), and as a [`PublicKey`]
//! whatever no message could be sealed to.

use std::convert::Infallible;

use ::hpke::aead::{AeadTag, AesGcm256};
use ::hpke::inout::InOutBuf;
use ::hpke::kdf::HkdfSha256;
use ::hpke::kem::X25519HkdfSha256;
use ::hpke::rand_core::{TryCryptoRng, TryRng};
use ::hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use crate::aead::{TAG, Unopened};
use crate::random::{self, NoRandomness};
use crate::secret::Secret32;

/// The suite as clients write it: KEM, KDF, AEAD, each two bytes in hexadecimal (RFC 9180, section 7).
pub const SUITE: &str = "0020-0001-0002";

/// Bytes of a public key, and of an encapsulated one (RFC 9180, 7.1: Npk and Nenc).
pub const PUBLIC_KEY: usize = 32;

/// A public key that messages can be sealed to.
// INVARIANT: an encapsulation to it was tried, so its order is not low.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; PUBLIC_KEY]);

/// The bytes are no public key: not 32, or a point of low order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPublicKey;

impl PublicKey {
    /// Takes 32 bytes (RFC 7748, section 5), if a message can be sealed to them.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoPublicKey> {
        let key = Self(bytes.try_into().map_err(|_| NoPublicKey)?);
        // Any draw will do: whether the shared secret is zero depends on the point alone.
        key.seal_drawn(Draw::of(&[1; 32]), b"", b"").map(|_| key).ok_or(NoPublicKey)
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; PUBLIC_KEY] {
        &self.0
    }

    /// What messages to it are known by: the first 16 hexadecimal digits of its SHA-256.
    #[must_use]
    pub fn id(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.0);
        let mut id = HEXLOWER.encode(digest.as_ref());
        id.truncate(16);
        id
    }

    /// Seals `plaintext` for the holder of the private key, bound to `info`.
    pub fn seal(&self, info: &[u8], plaintext: &[u8]) -> Result<Sealed, NoRandomness> {
        let mut ikm = Zeroizing::new([0; 32]);
        random::fill(ikm.as_mut_slice())?;
        // INVARIANT of Self: what is left is AES-GCM's bound of 64 GiB, and every caller is bounded far below.
        self.seal_drawn(Draw::of(&ikm), info, plaintext).ok_or(NoRandomness)
    }

    fn seal_drawn(&self, mut draw: Draw, info: &[u8], plaintext: &[u8]) -> Option<Sealed> {
        let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&self.0).ok()?;
        let mut ciphertext = Vec::with_capacity(plaintext.len() + TAG); // never outgrown: it begins as the plaintext
        ciphertext.extend_from_slice(plaintext);
        let (enc, tag) =
            ::hpke::single_shot_seal_inout_detached_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &key,
                info,
                InOutBuf::from(ciphertext.as_mut_slice()),
                b"",
                &mut draw,
            )
            .ok()?;
        ciphertext.extend_from_slice(&tag.to_bytes());
        Some(Sealed { enc: enc.to_bytes().into(), ciphertext })
    }
}

/// A sealed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The encapsulated key: 32 bytes.
    pub enc: [u8; PUBLIC_KEY],
    /// The ciphertext and its tag: 16 bytes longer than the plaintext.
    pub ciphertext: Vec<u8>,
}

/// The private key that opens what was sealed to its [`PublicKey`]. On the heap, wiped when dropped.
pub struct PrivateKey(Box<<X25519HkdfSha256 as Kem>::PrivateKey>);

impl PrivateKey {
    /// The key pair of 32 random bytes (RFC 9180, 7.1.3, `DeriveKeyPair`).
    #[must_use]
    pub fn derive(seed: &Secret32) -> Self {
        Self(Box::new(X25519HkdfSha256::derive_keypair(seed.expose_bytes()).0))
    }

    /// Takes the 32 bytes of an X25519 private key, as RFC 8410 files hold them (RFC 9180, 7.1.2).
    #[must_use]
    pub fn of_scalar(scalar: &Secret32) -> Option<Self> {
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(scalar.expose_bytes())
            .ok()
            .map(|key| Self(Box::new(key)))
    }

    /// Its public key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        // A derived key's point is a multiple of the base point by no multiple of its order: never of low order.
        PublicKey(X25519HkdfSha256::sk_to_pk(&self.0).to_bytes().into())
    }

    /// Opens a message that was sealed to this key under the same `info`.
    pub fn open(&self, info: &[u8], enc: &[u8], ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(enc).map_err(|_| Unopened)?;
        let (body, tag) = ciphertext.split_last_chunk::<TAG>().ok_or(Unopened)?;
        let tag = AeadTag::<AesGcm256>::from_bytes(tag).map_err(|_| Unopened)?;
        let mut plaintext = Zeroizing::new(body.to_vec());
        ::hpke::single_shot_open_inout_detached::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.0,
            &enc,
            info,
            InOutBuf::from(plaintext.as_mut_slice()),
            b"",
            &tag,
        )
        .map_err(|_| Unopened)?;
        Ok(plaintext)
    }
}

/// 32 random bytes that were drawn before: the crate's own generator panics where the system gives none. Zeros follow,
/// and nothing asks for them: one ephemeral key takes 32.
struct Draw {
    bytes: Zeroizing<[u8; 32]>,
    given: usize,
}

impl Draw {
    fn of(bytes: &[u8; 32]) -> Self {
        Self { bytes: Zeroizing::new(*bytes), given: 0 }
    }
}

impl TryRng for Draw {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut out = [0; 4];
        self.try_fill_bytes(&mut out).map(|()| u32::from_le_bytes(out))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut out = [0; 8];
        self.try_fill_bytes(&mut out).map(|()| u64::from_le_bytes(out))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        let left = self.bytes.get(self.given..).unwrap_or_default();
        out.iter_mut().zip(left.iter().chain(std::iter::repeat(&0))).for_each(|(to, from)| *to = *from);
        self.given = self.given.saturating_add(out.len());
        Ok(())
    }
}

impl TryCryptoRng for Draw {}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// The vectors published with RFC 9180 (CFRG `test-vectors.json`): mode 0, KEM 0x0020, KDF 0x0001, AEAD 0x0002.
    const IKM_E: &str = "2cd7c601cefb3d42a62b04b7a9041494c06c7843818e0ce28a8f704ae7ab20f9";
    const IKM_R: &str = "dac33b0e9db1b59dbbea58d59a14e7b5896e9bdf98fad6891e99d1686492b9ee";
    const SK_R: &str = "497b4502664cfea5d5af0b39934dac72242a74f8480451e1aee7d6a53320333d";
    const PK_R: &str = "430f4b9859665145a6b1ba274024487bd66f03a2dd577d7753c68d7d7d00c00c";
    const ENC: &str = "6c93e09869df3402d7bf231bf540fadd35cd56be14f97178f0954db94b7fc256";
    const INFO: &str = "4f6465206f6e2061204772656369616e2055726e";
    const AAD: &str = "436f756e742d30";
    const PLAIN: &str = "4265617574792069732074727574682c20747275746820626561757479";
    const CIPHERTEXT: &str =
        "e5d84cd531cfb583096e7cfa9641bd3079cf3a91cda813c52deb5f512be9931980a41de125a925cdad859d5b7a";

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    fn seed(byte: u8) -> Secret32 {
        Secret32::filled_by(|b| b.fill(byte))
    }

    fn recipient() -> PrivateKey {
        PrivateKey::derive(&Secret32::take(&mut hex(IKM_R)).unwrap())
    }

    #[test]
    fn the_published_vectors_of_the_suite_hold() {
        let key = recipient();
        // The crate keeps the scalar clamped (RFC 9180, 7.1.2), the vectors do not.
        assert!(*key.0 == <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&hex(SK_R)).unwrap());
        assert_eq!(key.public_key().as_bytes().as_slice(), hex(PK_R));
        let public = PublicKey::parse(&hex(PK_R)).unwrap();
        // The encapsulated key, from the published draw.
        let draw: [u8; 32] = hex(IKM_E).try_into().unwrap();
        let sealed = public.seal_drawn(Draw::of(&draw), &hex(INFO), &hex(PLAIN)).unwrap();
        assert_eq!(sealed.enc.as_slice(), hex(ENC));
        // The vectors have associated data, which the vault leaves empty: it changes the tag alone.
        let (body, tag) = sealed.ciphertext.split_last_chunk::<TAG>().unwrap();
        let published = hex(CIPHERTEXT);
        assert_eq!(body, &published[..body.len()]);
        assert_ne!(tag.as_slice(), &published[body.len()..]);
        // And the published message opens with its own.
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&hex(ENC)).unwrap();
        let opened = ::hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &key.0,
            &enc,
            &hex(INFO),
            &published,
            &hex(AAD),
        );
        assert_eq!(opened.unwrap(), hex(PLAIN));
    }

    #[test]
    fn the_suite_is_named_by_the_numbers_of_its_parts() {
        use ::hpke::aead::Aead as _;
        use ::hpke::kdf::Kdf as _;
        let ids = [X25519HkdfSha256::KEM_ID, HkdfSha256::KDF_ID, AesGcm256::AEAD_ID];
        assert_eq!(ids.map(|id| format!("{id:04x}")).join("-"), SUITE);
    }

    #[test]
    fn every_changed_bit_every_cut_and_every_other_key_or_info_stays_shut() {
        let key = PrivateKey::derive(&seed(1));
        let Sealed { enc, ciphertext } = key.public_key().seal(b"info", b"four").unwrap();
        assert_eq!(key.open(b"info", &enc, &ciphertext).unwrap().as_slice(), b"four");
        for bit in 0..ciphertext.len() * 8 {
            let mut bad = ciphertext.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(b"info", &enc, &bad).is_err());
        }
        for bit in 0..enc.len() * 8 {
            let mut bad = enc;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(b"info", &bad, &ciphertext).is_err(), "bit {bit}");
        }
        for cut in 0..ciphertext.len() {
            assert!(key.open(b"info", &enc, &ciphertext[..cut]).is_err());
        }
        assert!(key.open(b"info", &enc[..31], &ciphertext).is_err());
        assert!(key.open(b"INFO", &enc, &ciphertext).is_err());
        assert!(PrivateKey::derive(&seed(2)).open(b"info", &enc, &ciphertext).is_err());
    }

    #[test]
    fn a_point_of_low_order_is_no_key_and_opens_nothing() {
        // RFC 7748, section 6.1, and the points of order 1, 2, 4 and 8 with their twins above the prime.
        let low = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        let key = PrivateKey::derive(&seed(1));
        for point in low.map(hex) {
            assert_eq!(PublicKey::parse(&point), Err(NoPublicKey));
            assert!(key.open(b"", &point, &[0; 32]).is_err());
        }
        for length in [0, 31, 33] {
            assert_eq!(PublicKey::parse(&vec![9; length]), Err(NoPublicKey));
        }
        assert_eq!(PublicKey::parse(key.public_key().as_bytes()), Ok(key.public_key()));
    }

    #[test]
    fn the_same_message_never_looks_the_same_twice() {
        let key = PrivateKey::derive(&seed(7)).public_key();
        let (one, two) = (key.seal(b"", b"four").unwrap(), key.seal(b"", b"four").unwrap());
        assert!(one.enc != two.enc && one.ciphertext != two.ciphertext);
    }

    #[test]
    fn a_draw_gives_each_byte_once() {
        let mut draw = Draw::of(&[7; 32]);
        let mut out = [9; 33];
        draw.try_fill_bytes(&mut out).unwrap();
        assert_eq!((out[31], out[32]), (7, 0));
        assert_eq!(draw.try_next_u32(), Ok(0));
    }
}
