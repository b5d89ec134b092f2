//! A key service as custodian: the key that wraps stays with it, and it is sent what is to be wrapped.
//!
//! What is spoken with it is the caller's ([`KeyService`]); here is what is asked and what is kept. The service's name for its
//! key stands in the block for people: whether that is the key the service knows by itself. Refused: an answer that is longer
//! than such a service gives, a service that does not give back what it took, and a key that is not the one that was wrapped.

use super::{Custodian, CustodyBlock, DeviceError, KMS};
use crate::codec::{Reader, Torn, Writer};
use crate::envelope::{KeyKind, check_value};
use crate::error::Error;
use crate::secret::{Secret32, same_bytes};

/// The longest wrapped key that a service may answer with, and the longest name of its key, in bytes: AWS gives some two
/// hundred for 32, and bounds a ciphertext at 6,144.
pub const MAX_SERVICE_TEXT: usize = 6_144;

/// What a wrap is bound to, in the service's own words: an encryption context of AWS. It is no secret, and stands in the
/// service's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceKey {
    /// The vault's id in hexadecimal.
    pub vault: String,
    /// `root` or `esk`.
    pub kind: &'static str,
}

impl ServiceKey {
    fn of(kind: KeyKind, vault: &[u8; 16]) -> Self {
        Self { vault: data_encoding::HEXLOWER.encode(vault), kind: kind.as_str() }
    }
}

/// Encrypts and decrypts with a key that never leaves it.
///
/// Answers within a bound. What it encrypted it decrypts only with the same [`ServiceKey`]; what it does not decrypt is
/// [`Error::Custody`], and everything else that keeps it from answering [`Error::Device`].
pub trait KeyService: Send + Sync {
    /// Encrypts 32 bytes. Gives the ciphertext, and the key's name as the service knows it.
    fn encrypt(&self, key: &Secret32, of: &ServiceKey) -> Result<(Vec<u8>, String), Error>;

    /// Decrypts what it encrypted.
    fn decrypt(&self, sealed: &[u8], of: &ServiceKey) -> Result<Secret32, Error>;
}

/// The custodian that a key service is.
pub struct Serviced<S>(S);

impl<S: KeyService> Serviced<S> {
    /// This service's custodian.
    pub fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S: KeyService> Custodian for Serviced<S> {
    fn name(&self) -> &'static str {
        "kms"
    }

    fn wrap(&self, key: &Secret32, kind: KeyKind, vault: &[u8; 16]) -> Result<CustodyBlock, Error> {
        let of = ServiceKey::of(kind, vault);
        let (sealed, name) = self.0.encrypt(key, &of)?;
        if sealed.len() > MAX_SERVICE_TEXT || name.len() > MAX_SERVICE_TEXT {
            return Err(Error::Device(DeviceError::Failing(0)));
        }
        // Whoever may encrypt there may not decrypt there for that: a root that nobody gets back is not entrusted to it.
        if !self.0.decrypt(&sealed, &of)?.same_as(key) {
            return Err(Error::Device(DeviceError::Failing(0)));
        }
        let body = Writer::default().e(name.as_bytes()).e(&sealed).fixed(&check_value(key)).done();
        Ok(CustodyBlock { kind: KMS, body })
    }

    fn unwrap(&self, block: &CustodyBlock, kind: KeyKind, vault: &[u8; 16]) -> Result<Secret32, Error> {
        if block.kind != KMS {
            return Err(Error::Custody);
        }
        let (_, sealed, check) = read_body(&block.body).map_err(|Torn| Error::Custody)?;
        let key = self.0.decrypt(sealed, &ServiceKey::of(kind, vault))?;
        if same_bytes(&check_value(&key), check) { Ok(key) } else { Err(Error::Custody) }
    }
}

fn read_body(body: &[u8]) -> Result<(&str, &[u8], &[u8]), Torn> {
    let mut r = Reader::new(body);
    let name = std::str::from_utf8(r.e()?).map_err(|_| Torn)?;
    let read = (name, r.e()?, r.fixed(8)?);
    r.end()?;
    let bounded = read.0.len() <= MAX_SERVICE_TEXT && read.1.len() <= MAX_SERVICE_TEXT;
    if bounded && !name.chars().any(char::is_control) { Ok(read) } else { Err(Torn) }
}

/// Which key, as a block says.
pub(super) fn told(body: &[u8]) -> Result<String, Torn> {
    read_body(body).map(|(name, ..)| format!("key {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aead::Xaes;

    /// A service in this process, which keeps to its contract: what it decrypts is bound to the context.
    struct Here(Secret32, usize);

    fn context(of: &ServiceKey) -> Vec<u8> {
        format!("{}/{}", of.vault, of.kind).into_bytes()
    }

    impl KeyService for Here {
        fn encrypt(&self, key: &Secret32, of: &ServiceKey) -> Result<(Vec<u8>, String), Error> {
            let sealed = Xaes::new(&self.0).seal(&context(of), key.expose_bytes())?;
            Ok((sealed, "n".repeat(self.1)))
        }

        fn decrypt(&self, sealed: &[u8], of: &ServiceKey) -> Result<Secret32, Error> {
            let mut opened = Xaes::new(&self.0).open(&context(of), sealed).map_err(|_| Error::Custody)?;
            Secret32::take(&mut opened).ok_or(Error::Custody)
        }
    }

    fn here(name: usize) -> Serviced<Here> {
        Serviced::new(Here(Secret32::random().unwrap(), name))
    }

    #[test]
    fn a_services_block_opens_only_by_its_own_key_kind_and_vault() {
        let (own, other) = (here(3), here(3));
        let key = Secret32::random().unwrap();
        let block = own.wrap(&key, KeyKind::Root, &[1; 16]).unwrap();
        assert_eq!(block.told(), ("kms", "key nnn".to_owned()));
        assert!(own.unwrap(&block, KeyKind::Root, &[1; 16]).unwrap().same_as(&key));
        let refused = |c: &Serviced<Here>, b: &CustodyBlock, kind, vault| {
            assert_eq!(c.unwrap(b, kind, vault).err(), Some(Error::Custody));
        };
        refused(&other, &block, KeyKind::Root, &[1; 16]);
        refused(&own, &block, KeyKind::Esk, &[1; 16]);
        refused(&own, &block, KeyKind::Root, &[2; 16]);
        for cut in 0..block.body.len() {
            let torn = CustodyBlock { kind: KMS, body: block.body[..cut].to_vec() };
            refused(&own, &torn, KeyKind::Root, &[1; 16]);
        }
        let mut swapped = block.clone();
        *swapped.body.last_mut().unwrap() ^= 1;
        refused(&own, &swapped, KeyKind::Root, &[1; 16]);
        refused(&own, &CustodyBlock { kind: 1, ..block }, KeyKind::Root, &[1; 16]);
    }

    #[test]
    fn an_answer_that_is_too_long_is_none() {
        let key = Secret32::random().unwrap();
        assert!(here(MAX_SERVICE_TEXT).wrap(&key, KeyKind::Root, &[1; 16]).is_ok());
        let told = here(MAX_SERVICE_TEXT + 1).wrap(&key, KeyKind::Root, &[1; 16]).err();
        assert_eq!(told, Some(Error::Device(DeviceError::Failing(0))));
    }
}
