//! What all custodians that lie outside of this process have in common: how asking them can fail, and what a block of a
//! PKCS#11 token says, which also builds that cannot ask one must be able to read.
//!
//! An error says what to do, and never what was sent or answered.

use std::fmt;

use super::{CustodyBlock, PKCS11};
use crate::codec::{Reader, Torn, Writer};

/// The longest nonce that a device may have chosen instead, in bytes: what the standard's interface has room for.
pub(super) const MAX_IV: usize = 256;

/// The longest label of a token or a key, in bytes: a token's has 32, a key's is bounded here.
pub(super) const MAX_LABEL: usize = 255;

/// Why a custodian's device or service did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceError {
    /// The device's library is not there or cannot be loaded.
    Module,
    /// No token of this label is in any slot; or the service does not answer at its address.
    Absent,
    /// More than one token, or more than one key, has the label.
    Ambiguous,
    /// The PIN is wrong. It is not tried again: the device counts.
    Pin,
    /// One more wrong PIN would lock the token, so none was tried.
    LastTry,
    /// The token is locked, or its PIN is to be changed first.
    Locked,
    /// The token or service is there, but not the key.
    NoKey,
    /// The key is there already.
    KeyExists,
    /// The key may not be used as a custodian's: not AES-256, extractable, or not for encryption.
    Unfit,
    /// The service has the key, but it is disabled or about to be deleted.
    KeyOff,
    /// The service refuses who asks, or finds no credentials.
    Forbidden,
    /// It did not answer in time.
    Silent,
    /// It answers, but not even with what it should say to a known question: the device's code, zero if it gave none.
    Failing(u64),
}

impl DeviceError {
    /// Whether the settings, or what they name, must be changed before asking again can help.
    #[must_use]
    pub fn is_of_the_settings(self) -> bool {
        match self {
            Self::Module
            | Self::Ambiguous
            | Self::Pin
            | Self::LastTry
            | Self::Locked
            | Self::NoKey
            | Self::KeyExists
            | Self::Unfit
            | Self::KeyOff
            | Self::Forbidden => true,
            Self::Absent | Self::Silent | Self::Failing(_) => false,
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Module => "the PKCS#11 module cannot be loaded; check `module` in the settings, and that the library is for this machine",
            Self::Absent => "the device is not there: no token of this label in any slot, or no service at the address; plug it in or bring it up, or start with the other custodian (docs/operations.md, Lost HSM)",
            Self::Ambiguous => "more than one token or key has the label; give the right one a label of its own",
            Self::Pin => "the device refuses the PIN; correct the PIN's file before you try again, since devices count wrong PINs and lock",
            Self::LastTry => "one more wrong PIN locks the token, so none was tried; check the PIN's file, then log in once by hand, which resets the count",
            Self::Locked => "the token is locked, or wants its PIN changed; its security officer can mend that",
            Self::NoKey => "the device has no such key; check the key's name in the settings, or make it (`vaultctl custodian device-key`)",
            Self::KeyExists => "the token has a key of this label already; use it, or choose another label",
            Self::Unfit => "the key is not fit for custody: it must be AES-256, for encryption and decryption, and not extractable",
            Self::KeyOff => "the service's key is disabled or about to be deleted; enable it again",
            Self::Forbidden => "the service refuses: no credentials were found on this machine, or they lack the right to use the key",
            Self::Silent => "the device did not answer in time; see to it, then try again",
            Self::Failing(code) => {
                return write!(f, "the device fails at a known answer too (code {code:#x}); see to it, or start with the other custodian (docs/operations.md, Lost HSM)");
            }
        })
    }
}

impl std::error::Error for DeviceError {}

/// What a block of a PKCS#11 token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenBlock {
    /// The token's label and the key's when it was made: told to people, and not relied upon, since both can be changed.
    pub(super) labels: [String; 2],
    /// The nonce that the key was wrapped with: the device's, where it made its own.
    pub(super) iv: Vec<u8>,
    /// The wrapped key, and the tag behind it.
    pub(super) sealed: Vec<u8>,
    /// The check value of the key inside.
    pub(super) check: [u8; 8],
}

impl TokenBlock {
    #[cfg_attr(
        not(feature = "pkcs11"),
        allow(dead_code, reason = "builds without PKCS#11 read blocks, and make none")
    )]
    pub(super) fn block(&self) -> CustodyBlock {
        let [token, key] = &self.labels;
        let body = Writer::default()
            .e(token.as_bytes())
            .e(key.as_bytes())
            .e(&self.iv)
            .e(&self.sealed)
            .fixed(&self.check)
            .done();
        CustodyBlock { kind: PKCS11, body }
    }

    pub(super) fn read(body: &[u8]) -> Result<Self, Torn> {
        let mut r = Reader::new(body);
        let mut label = || {
            let bytes = r.e()?;
            let text = std::str::from_utf8(bytes).map_err(|_| Torn)?;
            let shown = text.len() <= MAX_LABEL && !text.chars().any(char::is_control);
            if shown { Ok(text.to_owned()) } else { Err(Torn) }
        };
        let labels = [label()?, label()?];
        let (iv, sealed) = (r.e()?.to_vec(), r.e()?.to_vec());
        let block = Self { labels, iv, sealed, check: r.array()? };
        r.end()?;
        if (1..=MAX_IV).contains(&block.iv.len()) { Ok(block) } else { Err(Torn) }
    }
}

/// Which token and key, as a block says.
pub(super) fn told(body: &[u8]) -> Result<String, Torn> {
    TokenBlock::read(body).map(|TokenBlock { labels: [token, key], .. }| format!("token {token}, key {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_block_reads_back_and_a_damaged_one_does_not() {
        let whole = TokenBlock {
            labels: ["vault".into(), "root".into()],
            iv: vec![1; 12],
            sealed: vec![2; 48],
            check: [3; 8],
        };
        let block = whole.block();
        assert_eq!(TokenBlock::read(&block.body), Ok(whole.clone()));
        assert_eq!(block.told(), ("pkcs11", "token vault, key root".to_owned()));
        for cut in 0..block.body.len() {
            assert_eq!(TokenBlock::read(&block.body[..cut]), Err(Torn), "{cut}");
        }
        let bad = [
            TokenBlock { iv: vec![], ..whole.clone() },
            TokenBlock { iv: vec![1; MAX_IV + 1], ..whole.clone() },
            TokenBlock { labels: ["v\u{1b}[2J".into(), "root".into()], ..whole.clone() },
            TokenBlock { labels: ["v".repeat(MAX_LABEL + 1), "root".into()], ..whole },
        ];
        for bad in bad {
            assert_eq!(bad.block().told(), ("pkcs11", "damaged".to_owned()));
        }
    }
}
