//! What can go wrong, whose fault it is, and whether to try again. Never what it went wrong with.

use std::fmt;

use crate::custody::DeviceError;
use crate::name::NameError;
use crate::store::StoreError;

/// Whose turn it is to act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller sent something that can never work as it is.
    Caller,
    /// The policy, a budget or a lock says no: an operator could change that.
    Policy,
    /// The vault, its machine or its disk.
    Vault,
}

/// Whether the same request may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not without a change.
    No,
    /// After about this many milliseconds.
    AfterMs(u64),
}

/// Every error that a verb of the vault returns. One table in docs/design.md maps it to gRPC status codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A field of the request is malformed. Names the field and the rule that it broke; never its content.
    Malformed {
        /// The field's name as on the wire, such as `item.plain.pan`.
        field: &'static str,
        /// The rule that it broke.
        rule: &'static str,
    },
    /// Principal, channel or action are not allowed: decided before any look-up.
    Denied,
    /// No token that this caller may use so. Unknown, expired, revoked, foreign and wrong-purpose tokens all read the
    /// same; the true reason is in the audit log only.
    NotFound,
    /// A budget is used up: how many milliseconds until it refills.
    Budget {
        /// Milliseconds until trying again can help.
        retry_after_ms: u64,
    },
    /// The request id was used before with another body.
    IdempotencyMismatch,
    /// A request with this id is still being worked on.
    StillRunning,
    /// A lock is on the merchant, channel or principal: the lockdown's id.
    Locked {
        /// Which lockdown, as `vaultctl lock list` shows it.
        lockdown: u32,
    },
    /// Every token of this shape has been used: never silently another format.
    SpaceExhausted,
    /// A key has reached its limit of uses and seals nothing more: an operator rotates it.
    KeySpent {
        /// Its number.
        key: u32,
        /// Its kind's short name.
        kind: &'static str,
    },
    /// The security code is not held here any more: the shopper is to be asked for it again.
    CodeGone,
    /// More work than the vault can take; nothing was done.
    Overloaded,
    /// The deadline passed before the change was on disk; it was not made.
    DeadlineExceeded,
    /// Known to the contract, not built in this release.
    Unimplemented {
        /// What is not built.
        what: &'static str,
    },
    /// The store cannot serve now.
    Store(StoreError),
    /// Control has another version than the operator saw.
    EpochMismatch {
        /// Its version now.
        epoch: u64,
    },
    /// The vault is sealed: it has no keys in memory.
    Sealed,
    /// The secret does not open the vault (a wrong passphrase, or damaged wraps: they cannot be told apart).
    Custody,
    /// The device or service that holds the custodian's key could not be asked, or refused: why, and what to do.
    Device(DeviceError),
    /// The configuration or policy is wrong: what, and where.
    Config(String),
    /// Something that should not be: a row that does not open, no randomness. The number finds the log line.
    Internal {
        /// Stands in the operator's log beside what the vault knows of it.
        incident: u64,
    },
}

impl Error {
    /// A malformed field, by its name on the wire and the rule it broke.
    #[must_use]
    pub fn malformed(field: &'static str, rule: &'static str) -> Self {
        Self::Malformed { field, rule }
    }

    /// An internal error with a fresh incident number.
    #[must_use]
    pub fn internal() -> Self {
        Self::Internal { incident: crate::random::bytes().map_or(0, u64::from_be_bytes) >> 16 }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Malformed { .. }
            | Self::NotFound
            | Self::IdempotencyMismatch
            | Self::StillRunning
            | Self::CodeGone
            | Self::DeadlineExceeded
            | Self::Unimplemented { .. } => Fault::Caller,
            Self::Denied
            | Self::Budget { .. }
            | Self::Locked { .. }
            | Self::SpaceExhausted
            | Self::KeySpent { .. }
            | Self::Config(_)
            | Self::EpochMismatch { .. }
            | Self::Custody => Fault::Policy,
            Self::Device(e) if e.is_of_the_settings() => Fault::Policy,
            Self::Overloaded | Self::Sealed | Self::Device(_) | Self::Store(_) | Self::Internal { .. } => {
                Fault::Vault
            }
        }
    }

    /// Whether, and when, the same request may succeed.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Budget { retry_after_ms } => Retry::AfterMs(*retry_after_ms),
            Self::StillRunning => Retry::AfterMs(100),
            Self::Overloaded => Retry::AfterMs(50),
            Self::Store(StoreError::Full | StoreError::Away | StoreError::Io(_)) => Retry::AfterMs(1_000),
            Self::Malformed { .. }
            | Self::Denied
            | Self::NotFound
            | Self::IdempotencyMismatch
            | Self::Locked { .. }
            | Self::SpaceExhausted
            | Self::KeySpent { .. }
            | Self::CodeGone
            | Self::DeadlineExceeded
            | Self::Unimplemented { .. }
            | Self::Custody
            | Self::Device(_)
            | Self::Sealed
            | Self::EpochMismatch { .. }
            | Self::Config(_)
            | Self::Store(
                StoreError::InUse
                | StoreError::Missing
                | StoreError::Exists
                | StoreError::Newer(..)
                | StoreError::Corrupt
                | StoreError::Forbidden
                | StoreError::TooLarge,
            )
            | Self::Internal { .. } => Retry::No,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { field, rule } => write!(f, "{field} {rule}"),
            Self::Denied => {
                f.write_str("this principal may not do this here; ask an operator for `policy explain`")
            }
            Self::NotFound => f.write_str("no such token for this request"),
            Self::Budget { .. } => f.write_str("a budget is used up; wait as RetryInfo says"),
            Self::IdempotencyMismatch => f.write_str("request_id was used before with another request"),
            Self::StillRunning => f.write_str("a request with this request_id is still running; try again"),
            Self::Locked { lockdown } => write!(f, "locked by lockdown {lockdown}; ask an operator"),
            Self::SpaceExhausted => {
                f.write_str("every token of this shape is used up; choose another format")
            }
            Self::KeySpent { key, kind } => {
                write!(
                    f,
                    "key {key} has reached its limit of uses; an operator makes a new one: keys rotate {kind}"
                )
            }
            Self::CodeGone => {
                f.write_str("the security code is not held any more; ask the shopper for it again")
            }
            Self::Overloaded => f.write_str("the vault is overloaded; try again"),
            Self::DeadlineExceeded => f.write_str("the deadline passed; nothing was changed"),
            Self::Unimplemented { what } => write!(f, "{what} is not available in this release"),
            Self::Store(e) => write!(f, "store: {e}"),
            Self::Sealed => {
                f.write_str("the vault is sealed; its custodians must unseal it, ask an operator")
            }
            Self::Custody => f.write_str("the secret does not open this vault"),
            Self::Device(e) => write!(f, "custodian: {e}"),
            Self::EpochMismatch { epoch } => {
                write!(f, "control has version {epoch} by now; look at it again before you change it")
            }
            Self::Config(what) => f.write_str(what),
            Self::Internal { incident } => write!(f, "internal error, incident {incident:012x}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<StoreError> for Error {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

impl From<crate::random::NoRandomness> for Error {
    fn from(_: crate::random::NoRandomness) -> Self {
        Self::internal()
    }
}

impl From<NameError> for Error {
    fn from(e: NameError) -> Self {
        Self::Config(e.to_string())
    }
}
