//! The two ciphers of the vault, and no third.
//!
//! [`Xaes`] is XAES-256-GCM (C2SP, <https://c2sp.org/XAES-256-GCM>): a 192-bit random nonce, so that no key ever meets
//! GCM's limit of 2^32 random nonces. [`seal_once`] is AES-256-GCM (SP 800-38D) with nonce zero, for a key that is drawn
//! at random for one message alone.
//!
//! Neither is key-committing: callers name the key in the associated data and never try keys in turn. A message that
//! does not open says [`Unopened`], whatever the reason.

use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use aes_gcm::aead::{AeadInOut, Nonce, Tag};
use aes_gcm::{Aes256Gcm, Key};
use zeroize::{Zeroize, Zeroizing};

use crate::random::{self, NoRandomness};
use crate::secret::Secret32;

/// Bytes of a random nonce in front of every XAES message.
pub const NONCE: usize = 24;

/// Bytes of authentication tag behind every message.
pub const TAG: usize = 16;

/// How much longer an XAES message is than its plaintext.
pub const XAES_OVERHEAD: usize = NONCE + TAG;

/// The message does not open: a wrong key, a changed byte or changed associated data. Which one is never told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unopened;

/// A key for many messages, its AES key schedule prepared once. Both parts are key-equivalent: kept on the heap and
/// wiped when dropped.
pub struct Xaes {
    schedule: Box<aes::Aes256>,
    k1: Box<Zeroizing<[u8; 16]>>,
}

impl Xaes {
    /// Prepares the key schedule and the CMAC subkey K1.
    #[must_use]
    pub fn new(key: &Secret32) -> Self {
        let schedule = Box::new(aes::Aes256::new(<&Array<u8, _>>::from(key.expose_bytes())));
        let mut l = Zeroizing::new([0_u8; 16]);
        schedule.encrypt_block((&mut *l).into());
        // K1 = L << 1 in GF(2^128), with the reduction chosen by mask, not by branch (SP 800-38B, 6.1).
        let doubled = u128::from_be_bytes(*l);
        let reduce = 0x87 & 0_u128.wrapping_sub(doubled >> 127);
        let k1 = Box::new(Zeroizing::new(((doubled << 1) ^ reduce).to_be_bytes()));
        Self { schedule, k1 }
    }

    /// Seals `plaintext` under a fresh random nonce: nonce (24), ciphertext, tag (16).
    pub fn seal(&self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        Ok(self.seal_with(&random::bytes()?, aad, plaintext))
    }

    fn seal_with(&self, nonce: &[u8; NONCE], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let (cipher, inner) = self.derive(nonce);
        let mut sealed = Vec::with_capacity(XAES_OVERHEAD + plaintext.len());
        sealed.extend_from_slice(nonce);
        sealed.extend_from_slice(plaintext);
        let body = sealed.get_mut(NONCE..).unwrap_or_default();
        match cipher.encrypt_inout_detached(&inner, aad, body.into()) {
            Ok(tag) => sealed.extend_from_slice(&tag),
            // GCM's bound is 64 GiB, and every caller is bounded far below: what is left opens to nothing.
            Err(_) => sealed.zeroize(),
        }
        sealed
    }

    /// Opens what [`seal`](Self::seal) made.
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let (nonce, body) = sealed.split_at_checked(NONCE).ok_or(Unopened)?;
        let (cipher, inner) = self.derive(nonce.try_into().map_err(|_| Unopened)?);
        open_body(&cipher, &inner, aad, body)
    }

    /// The cipher for one nonce: a key derived from its first half, and its second half as GCM's nonce.
    fn derive(&self, nonce: &[u8; NONCE]) -> (Box<Aes256Gcm>, Nonce<Aes256Gcm>) {
        let mut blocks = Zeroizing::new([[0_u8; 16]; 2]);
        let [n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, gcm @ ..] = *nonce;
        for (counter, block) in (1_u8..).zip(blocks.iter_mut()) {
            let message = [0, counter, b'X', 0, n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11];
            for ((b, m), k) in block.iter_mut().zip(message).zip(self.k1.iter()) {
                *b = m ^ k;
            }
            self.schedule.encrypt_block(block.into());
        }
        let mut key = Zeroizing::new([0_u8; 32]);
        for (to, from) in key.iter_mut().zip(blocks.as_flattened()) {
            *to = *from;
        }
        (Box::new(Aes256Gcm::new(<&Key<Aes256Gcm>>::from(&*key))), gcm.into())
    }
}

/// Seals one message under a key that was drawn for it alone: ciphertext, tag (16). The nonce is zero, so a second
/// message under the same key would break both; that is why the only caller draws the key beside the call.
#[must_use]
pub fn seal_once(key: &Secret32, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let cipher = Box::new(Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key.expose_bytes())));
    let mut sealed = Vec::with_capacity(TAG + plaintext.len());
    sealed.extend_from_slice(plaintext);
    match cipher.encrypt_inout_detached(&Nonce::<Aes256Gcm>::default(), aad, sealed.as_mut_slice().into()) {
        Ok(tag) => sealed.extend_from_slice(&tag),
        Err(_) => sealed.zeroize(),
    }
    sealed
}

/// Opens what [`seal_once`] made.
pub fn open_once(key: &Secret32, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
    let cipher = Box::new(Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key.expose_bytes())));
    open_body(&cipher, &Nonce::<Aes256Gcm>::default(), aad, sealed)
}

fn open_body(
    cipher: &Aes256Gcm,
    nonce: &Nonce<Aes256Gcm>,
    aad: &[u8],
    body: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Unopened> {
    let (ciphertext, tag) = body.split_last_chunk::<TAG>().ok_or(Unopened)?;
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    let tag = Tag::<Aes256Gcm>::from(*tag);
    cipher.decrypt_inout_detached(nonce, aad, plaintext.as_mut_slice().into(), &tag).map_err(|_| Unopened)?;
    Ok(plaintext)
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use sha3::digest::{ExtendableOutput, Update, XofReader};

    use super::*;

    fn key(byte: u8) -> Secret32 {
        Secret32::filled_by(|k| k.fill(byte))
    }

    #[test]
    fn the_published_xaes_vectors_hold() {
        // C2SP XAES-256-GCM, "Test vectors": one with K1's reduction not taken, one with it.
        let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
        for (k, aad, ciphertext) in [
            (1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
            (3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
        ] {
            let xaes = Xaes::new(&key(k));
            let sealed = xaes.seal_with(nonce, aad.as_bytes(), b"XAES-256-GCM");
            assert_eq!(HEXLOWER.encode(&sealed[NONCE..]), ciphertext);
            assert_eq!(xaes.open(aad.as_bytes(), &sealed).unwrap().as_slice(), b"XAES-256-GCM");
        }
    }

    #[test]
    fn the_published_accumulated_xaes_vector_holds() {
        // C2SP XAES-256-GCM, "Accumulated randomized tests": 10,000 inputs out of one SHAKE128, answers into another.
        let mut inputs = sha3::Shake128::default().finalize_xof();
        let mut answers = sha3::Shake128::default();
        let mut draw = |n: usize| {
            let mut bytes = vec![0; n];
            inputs.read(&mut bytes);
            bytes
        };
        for _ in 0..10_000 {
            let k = draw(32);
            let nonce: [u8; NONCE] = draw(NONCE).try_into().unwrap();
            let length = draw(1)[0];
            let plaintext = draw(length.into());
            let length = draw(1)[0];
            let aad = draw(length.into());
            let xaes = Xaes::new(&Secret32::filled_by(|b| b.copy_from_slice(&k)));
            let sealed = xaes.seal_with(&nonce, &aad, &plaintext);
            assert_eq!(xaes.open(&aad, &sealed).unwrap().as_slice(), plaintext);
            answers.update(&sealed[NONCE..]);
        }
        let mut digest = [0; 32];
        answers.finalize_xof().read(&mut digest);
        assert_eq!(
            HEXLOWER.encode(&digest),
            "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"
        );
    }

    #[test]
    fn every_changed_bit_and_every_cut_stays_shut() {
        let xaes = Xaes::new(&key(7));
        let sealed = xaes.seal(b"aad", b"four").unwrap();
        let once = seal_once(&key(8), b"aad", b"four");
        assert_eq!(xaes.open(b"aad", &sealed).unwrap().as_slice(), b"four");
        assert_eq!(open_once(&key(8), b"aad", &once).unwrap().as_slice(), b"four");
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(xaes.open(b"aad", &bad).is_err());
        }
        for cut in 0..sealed.len() {
            assert!(xaes.open(b"aad", &sealed[..cut]).is_err());
        }
        for cut in 0..once.len() {
            assert!(open_once(&key(8), b"aad", &once[..cut]).is_err());
        }
        assert!(xaes.open(b"AAD", &sealed).is_err());
        assert!(Xaes::new(&key(9)).open(b"aad", &sealed).is_err());
        assert!(open_once(&key(9), b"aad", &once).is_err());
    }

    #[test]
    fn the_same_message_never_looks_the_same_twice() {
        let xaes = Xaes::new(&key(7));
        assert_ne!(xaes.seal(b"", b"four").unwrap(), xaes.seal(b"", b"four").unwrap());
    }
}
