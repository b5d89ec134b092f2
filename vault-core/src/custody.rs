//! Where the root's protection comes from.
//!
//! A [`Custodian`] wraps the two keys that nothing else wraps: the root and the erasure epoch key. It is asked once at
//! start and once at a rotation, never per request. Each kind has its own file and its own number.

mod device;
mod passphrase;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod service;
mod shares;

pub use device::DeviceError;
pub use passphrase::{MAX_PASSPHRASE, MIN_MEMORY_KIB, MIN_PASSES, MIN_PASSPHRASE, Passphrase};
#[cfg(feature = "pkcs11")]
pub use pkcs11::{Pkcs11, TokenName};
pub use service::{KeyService, MAX_SERVICE_TEXT, ServiceKey, Serviced};
pub use shares::{MAX_SHARE_TEXT, MAX_SHARES, MIN_THRESHOLD, Share, Shares, Split, SplitId};

use crate::codec::{Reader, Torn, Writer};
use crate::envelope::{KeyKind, ctx};
use crate::error::Error;
use crate::secret::Secret32;

/// The number of [`Passphrase`] in a block.
const PASSPHRASE: u8 = 1;

/// The number of [`Shares`] in a block.
const SHARES: u8 = 2;

/// The number of a key of a PKCS#11 token in a block. It is read, to be told of, by builds without the feature too.
const PKCS11: u8 = 3;

/// The number of a key of a cloud's key service in a block.
const KMS: u8 = 4;

/// The most custodians that protect a root at a time: one for every day, one for the day when that is lost, and two more
/// while they change. Each is one more way in.
pub const MAX_CUSTODIANS: usize = 4;

/// A key wrapped by a custodian, as it stands on disk. It holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustodyBlock {
    /// Which kind of custodian made it: 1 passphrase, 2 shares, 3 key of a PKCS#11 token, 4 key of a cloud's key service.
    kind: u8,
    /// What that kind needs to open it.
    body: Vec<u8>,
}

impl CustodyBlock {
    /// Writes it: kind u8, e(body).
    pub fn write(&self, w: &mut Writer) {
        w.u8(self.kind).e(&self.body);
    }

    /// Which kind of custodian made it, by its number.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// What stands in it that a person can tell it from others by: its kind, and what it costs to guess or where its key is.
    /// Nothing of it is authenticated before it is opened.
    #[must_use]
    pub fn told(&self) -> (&'static str, String) {
        let (kind, told) = match self.kind {
            PASSPHRASE => ("passphrase", passphrase::told(&self.body)),
            SHARES => ("shares", shares::told(&self.body)),
            PKCS11 => ("pkcs11", device::told(&self.body)),
            KMS => ("kms", service::told(&self.body)),
            _ => return ("unknown", String::new()),
        };
        (kind, told.unwrap_or_else(|Torn| "damaged".to_owned()))
    }

    /// Reads it.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Torn> {
        Ok(Self { kind: r.u8()?, body: r.e()?.to_vec() })
    }
}

/// Protects the root.
///
/// What `wrap` made, `unwrap` opens with the same `kind` and `vault` and never with others; a wrong secret is
/// [`Error::Custody`], never a wrong key (the tests `a_block_opens_only_by_its_own_secret_kind_and_vault` and
/// `a_block_opens_only_for_its_own_kind_and_vault`). So is a block of
/// another kind, and nobody is asked about it. A custodian that lies outside of this process, a device or a service, answers
/// within a bound or is [`Error::Device`]; then no further block is tried, since asking again may lock it.
pub trait Custodian: Send + Sync {
    /// Its name in `keys list`: `passphrase`, `shares`.
    fn name(&self) -> &'static str;

    /// Wraps a key of this kind of this vault.
    fn wrap(&self, key: &Secret32, kind: KeyKind, vault: &[u8; 16]) -> Result<CustodyBlock, Error>;

    /// Wraps a key at no lower a cost than `like` was wrapped at, a block of the same kind of custodian. Others know no cost.
    fn wrap_like(
        &self,
        _like: &CustodyBlock,
        key: &Secret32,
        kind: KeyKind,
        vault: &[u8; 16],
    ) -> Result<CustodyBlock, Error> {
        self.wrap(key, kind, vault)
    }

    /// Opens a block.
    fn unwrap(&self, block: &CustodyBlock, kind: KeyKind, vault: &[u8; 16]) -> Result<Secret32, Error>;
}

/// The associated data of a custodian's wrap: ctx("custody") of no merchant, key kind u8, vault id 16, custodian u8.
fn aad(kind: KeyKind, vault: &[u8; 16], custodian: u8) -> Vec<u8> {
    ctx("custody", "").u8(kind as u8).fixed(vault).u8(custodian).done()
}
