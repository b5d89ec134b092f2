//! A passphrase as custodian: it is stretched by Argon2id, and what comes of it wraps the key.
//!
//! Refused: a passphrase shorter than [`MIN_PASSPHRASE`], an Argon2 cost below the floor, and a stored cost so high that
//! opening it would be an attack.

use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretSlice};

use super::{Custodian, CustodyBlock, PASSPHRASE, aad};
use crate::aead::Xaes;
use crate::codec::{Reader, Torn, Writer};
use crate::envelope::{KeyKind, check_value};
use crate::error::Error;
use crate::random;
use crate::secret::{Secret32, same_bytes};

/// The least bytes of a passphrase: PCI DSS 4.0.1 requirement 8.3.6 asks twelve characters of a password.
pub const MIN_PASSPHRASE: usize = 12;

/// The most bytes of a passphrase: a bound on what is read from a file or a prompt.
pub const MAX_PASSPHRASE: usize = 1_024;

/// Argon2id never runs with less memory than this, in KiB: 64 MiB.
pub const MIN_MEMORY_KIB: u32 = 64 * 1024;

/// Nor with fewer passes than this.
pub const MIN_PASSES: u32 = 3;

/// A stored header that asks for more than this is refused, in KiB: 4 GiB.
const MAX_MEMORY_KIB: u32 = 4 * 1024 * 1024;

/// A stored header that asks for more passes or lanes than this is refused.
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 16;

/// A passphrase, stretched by Argon2id (RFC 9106).
pub struct Passphrase {
    secret: SecretSlice<u8>,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

const SALT: usize = 16;

impl Passphrase {
    /// Takes a passphrase of 12 to 1,024 bytes; a trailing line end, as files have it, is not part of it.
    pub fn new(secret: SecretSlice<u8>) -> Result<Self, Error> {
        let bytes = secret.expose_secret();
        let trimmed = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let trimmed = trimmed.strip_suffix(b"\r").unwrap_or(trimmed);
        if !(MIN_PASSPHRASE..=MAX_PASSPHRASE).contains(&trimmed.len()) {
            return Err(Error::malformed("passphrase", "must have 12 to 1,024 bytes"));
        }
        let secret = if trimmed.len() == bytes.len() { secret } else { SecretSlice::from(trimmed.to_vec()) };
        Ok(Self { secret, memory_kib: MIN_MEMORY_KIB, passes: MIN_PASSES, lanes: 1 })
    }

    /// The same passphrase at a higher cost: `memory_kib` at least 65,536 and `passes` at least 3, for new wraps.
    pub fn with_cost(self, memory_kib: u32, passes: u32) -> Result<Self, Error> {
        if !(MIN_MEMORY_KIB..=MAX_MEMORY_KIB).contains(&memory_kib)
            || !(MIN_PASSES..=MAX_PASSES).contains(&passes)
        {
            return Err(Error::malformed("argon2", "needs 64 MiB to 4 GiB and 3 to 64 passes"));
        }
        Ok(Self { memory_kib, passes, ..self })
    }

    fn wrap_at(
        &self,
        [memory_kib, passes, lanes]: [u32; 3],
        key: &Secret32,
        kind: KeyKind,
        vault: &[u8; 16],
    ) -> Result<CustodyBlock, Error> {
        let salt: [u8; SALT] = random::bytes()?;
        let stretched = self.stretch(&salt, memory_kib, passes, lanes)?;
        let sealed = Xaes::new(&stretched).seal(&aad(kind, vault, PASSPHRASE), key.expose_bytes())?;
        let body = Writer::default()
            .u32(memory_kib)
            .u32(passes)
            .u32(lanes)
            .fixed(&salt)
            .e(&sealed)
            .fixed(&check_value(key))
            .done();
        Ok(CustodyBlock { kind: PASSPHRASE, body })
    }

    fn stretch(&self, salt: &[u8], memory_kib: u32, passes: u32, lanes: u32) -> Result<Secret32, Error> {
        let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(|_| Error::Custody)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut stretched = Ok(());
        let key = Secret32::filled_by(|out| {
            stretched = argon2.hash_password_into(self.secret.expose_secret(), salt, out);
        });
        stretched.map(|()| key).map_err(|_| Error::Custody)
    }
}

impl Custodian for Passphrase {
    fn name(&self) -> &'static str {
        "passphrase"
    }

    fn wrap(&self, key: &Secret32, kind: KeyKind, vault: &[u8; 16]) -> Result<CustodyBlock, Error> {
        self.wrap_at([self.memory_kib, self.passes, self.lanes], key, kind, vault)
    }

    fn wrap_like(
        &self,
        like: &CustodyBlock,
        key: &Secret32,
        kind: KeyKind,
        vault: &[u8; 16],
    ) -> Result<CustodyBlock, Error> {
        let read = (like.kind == PASSPHRASE).then(|| read_body(&like.body).ok()).flatten();
        let ([memory_kib, passes, _], ..) = read.ok_or(Error::Custody)?;
        // It was opened, so its cost is within bounds.
        self.wrap_at([self.memory_kib.max(memory_kib), self.passes.max(passes), self.lanes], key, kind, vault)
    }

    fn unwrap(&self, block: &CustodyBlock, kind: KeyKind, vault: &[u8; 16]) -> Result<Secret32, Error> {
        if block.kind != PASSPHRASE {
            return Err(Error::Custody);
        }
        let (cost, salt, sealed, check) = read_body(&block.body).map_err(|Torn| Error::Custody)?;
        let [memory_kib, passes, lanes] = cost;
        // A header is not authenticated before it is opened: bound what it can make this process do.
        if !(MIN_MEMORY_KIB..=MAX_MEMORY_KIB).contains(&memory_kib)
            || !(MIN_PASSES..=MAX_PASSES).contains(&passes)
            || !(1..=MAX_LANES).contains(&lanes)
        {
            return Err(Error::Custody);
        }
        let stretched = self.stretch(salt, memory_kib, passes, lanes)?;
        let mut opened =
            Xaes::new(&stretched).open(&aad(kind, vault, PASSPHRASE), sealed).map_err(|_| Error::Custody)?;
        let key = Secret32::take(&mut opened).ok_or(Error::Custody)?;
        if same_bytes(&check_value(&key), check) { Ok(key) } else { Err(Error::Custody) }
    }
}

type Body<'a> = ([u32; 3], &'a [u8], &'a [u8], &'a [u8]);

fn read_body(body: &[u8]) -> Result<Body<'_>, Torn> {
    let mut r = Reader::new(body);
    let cost = [r.u32()?, r.u32()?, r.u32()?];
    let read = (cost, r.fixed(SALT)?, r.e()?, r.fixed(8)?);
    r.end()?;
    Ok(read)
}

/// What guessing costs, as a block says.
pub(super) fn told(body: &[u8]) -> Result<String, Torn> {
    let ([memory_kib, passes, _], ..) = read_body(body)?;
    Ok(format!("Argon2id, {} MiB, {passes} passes", memory_kib / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(SecretSlice::from(text.as_bytes().to_vec())).map_err(|e| e.to_string()).unwrap()
    }

    #[test]
    fn a_block_opens_only_by_its_own_secret_kind_and_vault() {
        let key = Secret32::random().unwrap();
        let custodian = passphrase("correct horse battery\n");
        let block = custodian.wrap(&key, KeyKind::Root, &[1; 16]).unwrap();
        let mut w = Writer::default();
        block.write(&mut w);
        let bytes = w.done();
        let block = CustodyBlock::read(&mut Reader::new(&bytes)).unwrap();

        assert!(
            passphrase("correct horse battery")
                .unwrap(&block, KeyKind::Root, &[1; 16])
                .unwrap()
                .same_as(&key)
        );
        let failed = |c: Result<Secret32, Error>| c.err();
        assert_eq!(
            failed(passphrase("correct horse batterz").unwrap(&block, KeyKind::Root, &[1; 16])),
            Some(Error::Custody)
        );
        assert_eq!(failed(custodian.unwrap(&block, KeyKind::Esk, &[1; 16])), Some(Error::Custody));
        assert_eq!(failed(custodian.unwrap(&block, KeyKind::Root, &[2; 16])), Some(Error::Custody));
    }

    #[test]
    fn a_header_cannot_ask_for_a_weak_or_a_ruinous_cost() {
        let custodian = passphrase("correct horse battery");
        let block = custodian.wrap(&Secret32::random().unwrap(), KeyKind::Root, &[1; 16]).unwrap();
        for (field, value) in [(0, 1024_u32), (0, u32::MAX), (1, 1), (1, u32::MAX), (2, 0), (2, 1_000)] {
            let mut bad = block.clone();
            bad.body[field * 4..field * 4 + 4].copy_from_slice(&value.to_be_bytes());
            assert_eq!(custodian.unwrap(&bad, KeyKind::Root, &[1; 16]).err(), Some(Error::Custody));
        }
        for cut in [0, 11, 27, block.body.len() - 1] {
            let bad = CustodyBlock { kind: 1, body: block.body[..cut].to_vec() };
            assert_eq!(custodian.unwrap(&bad, KeyKind::Root, &[1; 16]).err(), Some(Error::Custody));
        }
    }

    #[test]
    fn a_short_passphrase_is_refused() {
        for text in ["", "eleven char", &"x".repeat(1_025)] {
            assert!(Passphrase::new(SecretSlice::from(text.as_bytes().to_vec())).is_err());
        }
    }
}
