//! What can go wrong, and what to do next.
//!
//! No error carries a card, a token or a key. Texts of the vault are passed on: by its contract they name none either.

use std::fmt;

use rustls::{AlertDescription, CertificateError};
use vault_proto::status::{EPOCH, Failure, INCIDENT, LOCKDOWN, Reason, STAGE};

/// Why a call has no result. Its text says what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no connection, or it was lost before an answer came and trying again did not help.
    Connect(ConnectError),
    /// The vault, or something in front of it, answered with a refusal. Where trying again can help, it was tried.
    Refused(Failure),
    /// The time allowed has passed. What became of the request is not known: the same request, under the same
    /// `request_id`, tells.
    Deadline,
    /// The endpoint or the request cannot be used as it is; nothing was sent. The text says which part.
    Config(String),
    /// The answer breaks the contract: an item is missing, or a result. The text says which.
    Answer(&'static str),
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// No TCP connection: nobody listens, no route, no such host.
    Unreachable {
        /// `host:port` as dialled.
        address: String,
        /// The operating system's words.
        why: String,
    },
    /// TCP and TLS were not done in the time allowed for connecting.
    TimedOut {
        /// `host:port` as dialled.
        address: String,
    },
    /// The server's certificate is not one to trust.
    Untrusted {
        /// The host name that the certificate was held against.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The server does not speak TLS 1.3.
    OldTls,
    /// The server does not take the client certificate. The text is the alert's name (RFC 8446 section 6.2).
    CertificateRefused(String),
    /// Whatever answers there speaks no TLS, or no HTTP/2 inside.
    NotVault,
    /// TLS failed in another way, in rustls's words.
    Handshake(String),
    /// The connection was lost before an answer came.
    Lost,
}

impl ConnectError {
    /// Whether trying again, unchanged and a little later, may help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Lost => true,
            Self::Untrusted { .. }
            | Self::OldTls
            | Self::CertificateRefused(_)
            | Self::NotVault
            | Self::Handshake(_) => false,
        }
    }

    /// Reads why a handshake failed out of what tokio-rustls wraps it in.
    pub(crate) fn from_handshake(error: &std::io::Error, name: &str) -> Self {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::Lost;
        };
        match error {
            rustls::Error::InvalidCertificate(why) => {
                Self::Untrusted { name: name.to_owned(), why: why_untrusted(why) }
            }
            rustls::Error::PeerIncompatible(_) => Self::OldTls,
            rustls::Error::AlertReceived(alert) => Self::from_alert(*alert),
            rustls::Error::InvalidMessage(_) => Self::NotVault,
            other => Self::Handshake(other.to_string()),
        }
    }

    /// What the server's alert means to us. In TLS 1.3 it judges our certificate after our side of the handshake is done.
    pub(crate) fn from_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::ProtocolVersion => Self::OldTls,
            AlertDescription::NoApplicationProtocol => Self::NotVault,
            AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => Self::CertificateRefused(format!("{alert:?}")),
            other => Self::Handshake(format!("the server broke it off with {other:?}")),
        }
    }
}

fn why_untrusted(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::UnknownIssuer => {
            "another authority signed it; give the authority that signed the server's certificate"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name; dial the name in the certificate, or set `server_name` to it"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; renew it, or set this machine's clock"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not yet valid; set this machine's clock"
        }
        CertificateError::Revoked => "it is revoked; give the server another",
        _ => "it is broken, or not for a server; give the server another",
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, why } => {
                write!(f, "cannot reach {address}: {why}; is the vault running, and is this its address?")
            }
            Self::TimedOut { address } => {
                write!(f, "{address} did not answer in time; check the address and the firewalls on the way")
            }
            Self::Untrusted { name, why } => write!(f, "the server's certificate for `{name}`: {why}"),
            Self::OldTls => f.write_str("the server does not speak TLS 1.3; is this the vault's address?"),
            Self::CertificateRefused(alert) => write!(
                f,
                "the server does not take the client certificate ({alert}); check that it is current, not revoked, for \
                 clients, and signed by the authority that this listener takes"
            ),
            Self::NotVault => {
                f.write_str("what answers there is not a vault; check the port, and proxies on the way")
            }
            Self::Handshake(why) => write!(f, "TLS failed: {why}"),
            Self::Lost => f.write_str(
                "the connection was lost before an answer; send the same request again, under the same request_id",
            ),
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<ConnectError> for ClientError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl From<Failure> for ClientError {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

impl ClientError {
    /// The vault's reason, where the vault refused.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(failure) => failure.reason(),
            Self::Connect(_) | Self::Deadline | Self::Config(_) | Self::Answer(_) => None,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Refused(failure) => refused(failure, f),
            Self::Deadline => f.write_str(
                "the deadline passed; send the same request again, under the same request_id, to learn what became of it",
            ),
            Self::Config(what) => f.write_str(what),
            Self::Answer(what) => write!(f, "the vault's answer breaks the contract: {what}; report this"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::Refused(_) | Self::Deadline | Self::Config(_) | Self::Answer(_) => None,
        }
    }
}

fn refused(failure: &Failure, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match failure.reason() {
        Some(reason) => write!(f, "refused, {}: {}", reason.as_str(), failure.message())?,
        None => write!(f, "refused, {:?}: {}", failure.code(), failure.message())?,
    }
    for (path, rule) in failure.fields() {
        write!(f, "; `{path}` {rule}")?;
    }
    for key in [LOCKDOWN, EPOCH, STAGE, INCIDENT] {
        if let Some(value) = failure.metadata(key) {
            write!(f, "; {key} {value}")?;
        }
    }
    if let Some(wait) = failure.retry_after() {
        write!(f, "; may succeed in {} s", wait.as_secs_f64().ceil())?;
    }
    match failure.reason().and_then(next_step) {
        Some(step) => write!(f, "; {step}"),
        None => Ok(()),
    }
}

/// What the caller does next. `None`: the message and its details say all there is.
fn next_step(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::Malformed | Reason::PolicyRefused => "correct it and send it under a new request_id",
        Reason::IdempotencyMismatch => "give every request an id of its own, and every retry the same body",
        Reason::CertificateRefused => "connect again with a current certificate",
        Reason::PermissionDenied => "ask the operator for a rule that allows it",
        Reason::Locked => "ask the operator; nothing will pass until the lock is lifted",
        Reason::SecurityCodeGone => "ask the shopper for the code again",
        Reason::SpaceExhausted => "ask the operator for another format",
        Reason::KeySpent => "tell the operator: vaultctl keys rotate",
        Reason::EpochMismatch => "read again what you looked at, then decide again",
        Reason::Custody => "check the custodian's secret",
        Reason::Sealed => "ask the operator: its custodians must unseal it; another node may be open",
        Reason::BudgetSpent => "wait, or ask the operator for a larger budget",
        Reason::StillRunning | Reason::Overloaded | Reason::StoreAway => {
            "send the same request again later, under the same request_id"
        }
        Reason::DeadlineExceeded => "send the same request again, under the same request_id",
        Reason::DestinationFailed => "ask the destination what became of it before you send it again",
        Reason::Unimplemented => "look into the vault's `features`, or update the vault",
        Reason::Internal => "send the same request again once, then give the incident to the operator",
        // NOT_FOUND among them: one answer for all, so there is nothing to say that would not be a guess.
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_says_why_where_and_what_to_do_next() {
        let cases = [
            (
                Failure::new(Reason::Malformed, "a field breaks its rule")
                    .field("item.plain.pan", "must pass the Luhn check"),
                "refused, MALFORMED: a field breaks its rule; `item.plain.pan` must pass the Luhn check; correct it and \
                 send it under a new request_id",
            ),
            (
                Failure::new(Reason::Locked, "locked").with(LOCKDOWN, "7"),
                "refused, LOCKED: locked; lockdown 7; ask the operator; nothing will pass until the lock is lifted",
            ),
            (
                Failure::new(Reason::BudgetSpent, "spent").retry(Duration::from_millis(1_200)),
                "refused, BUDGET_SPENT: spent; may succeed in 2 s; wait, or ask the operator for a larger budget",
            ),
            (Failure::new(Reason::NotFound, "no such token"), "refused, NOT_FOUND: no such token"),
        ];
        for (failure, text) in cases {
            assert_eq!(ClientError::from(failure).to_string(), text);
        }
    }

    #[test]
    fn every_reason_but_not_found_has_a_next_step() {
        for reason in Reason::ALL {
            assert_eq!(next_step(*reason).is_none(), *reason == Reason::NotFound, "{reason:?}");
        }
    }
}
