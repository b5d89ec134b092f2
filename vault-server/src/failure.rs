//! The one table from the core's errors to the wire's: which code, which reason, and whether to try again.

use std::time::Duration;

use tonic::Status;
use vault_core::error::{Error, Retry};
use vault_proto::status::{EPOCH, Failure, INCIDENT, LOCKDOWN, Reason};

/// What a caller is told of an error. An internal one is logged here, so that its incident number leads somewhere.
#[must_use]
pub fn failure(error: &Error) -> Failure {
    let reason = match error {
        Error::Malformed { .. } => Reason::Malformed,
        Error::Denied => Reason::PermissionDenied,
        Error::NotFound => Reason::NotFound,
        Error::Budget { .. } => Reason::BudgetSpent,
        Error::IdempotencyMismatch => Reason::IdempotencyMismatch,
        Error::StillRunning => Reason::StillRunning,
        Error::Locked { .. } => Reason::Locked,
        Error::SpaceExhausted => Reason::SpaceExhausted,
        Error::KeySpent { .. } => Reason::KeySpent,
        Error::CodeGone => Reason::SecurityCodeGone,
        Error::Overloaded => Reason::Overloaded,
        Error::DeadlineExceeded => Reason::DeadlineExceeded,
        Error::Unimplemented { .. } => Reason::Unimplemented,
        Error::Store(_) => Reason::StoreAway,
        Error::EpochMismatch { .. } => Reason::EpochMismatch,
        Error::Custody | Error::Device(_) => Reason::Custody,
        Error::Sealed => Reason::Sealed,
        Error::Config(_) => Reason::PolicyRefused,
        Error::Internal { .. } => Reason::Internal,
    };
    let mut failure = Failure::new(reason, error.to_string());
    if let Retry::AfterMs(ms) = error.retry() {
        failure = failure.retry(Duration::from_millis(ms));
    }
    match error {
        Error::Malformed { field, rule } => failure.field(*field, *rule),
        Error::IdempotencyMismatch => {
            failure.field("header.request_id", "was used before with another request")
        }
        Error::Locked { lockdown } => failure.with(LOCKDOWN, lockdown.to_string()),
        Error::EpochMismatch { epoch } => failure.with(EPOCH, epoch.to_string()),
        Error::Config(what) => failure.field("toml", what),
        Error::Internal { incident } => {
            let incident = format!("{incident:012x}");
            tracing::error!(
                incident,
                "a row did not open, or the machine failed; look at the audit log's last refusals"
            );
            failure.with(INCIDENT, incident)
        }
        Error::Device(what) => {
            tracing::error!(problem = %what, "the custodian cannot be asked");
            failure
        }
        Error::Store(what) => {
            tracing::error!(problem = %what, "the store cannot serve");
            failure
        }
        Error::Denied
        | Error::NotFound
        | Error::Budget { .. }
        | Error::StillRunning
        | Error::SpaceExhausted
        | Error::KeySpent { .. }
        | Error::CodeGone
        | Error::Overloaded
        | Error::DeadlineExceeded
        | Error::Unimplemented { .. }
        | Error::Custody
        | Error::Sealed => failure,
    }
}

/// The same as a gRPC status.
#[must_use]
pub fn status(error: &Error) -> Status {
    failure(error).into()
}
