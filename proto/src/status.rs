//! Errors on the wire: what the server tells and the client reads, in one place so that they cannot drift apart.
//!
//! A [`Failure`] becomes a [`tonic::Status`] (unary calls, whole streams) or a [`RpcStatus`] (items), and is read back
//! from either. It refuses to guess: a status that another system made has no [`Reason`], and no retry is advised
//! unless the vault advised it.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt as _, StatusExt as _};

use crate::RpcStatus;

/// The `domain` of every `ErrorInfo` of this contract.
pub const DOMAIN: &str = "vault.v1";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:ident $text:literal),+ $(,)?) => {
        /// Why a request failed, as the contract's error tables list it. The texts and codes are frozen; later
        /// releases add to them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name),+
        }

        impl Reason {
            /// All of them, in the order of the contract's tables.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The `reason` of the `ErrorInfo`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// The gRPC code that it always comes with.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Self::$name => Code::$code),+ }
            }

            /// The reason of that text, if this release knows it.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// A field breaks its rule: [`Failure::fields`] says which.
    Malformed = InvalidArgument "MALFORMED",
    /// The request id was used for another request.
    IdempotencyMismatch = InvalidArgument "IDEMPOTENCY_MISMATCH",
    /// The policy text does not pass the check.
    PolicyRefused = InvalidArgument "POLICY_REFUSED",
    /// The client certificate expired or was revoked since the connection was made.
    CertificateRefused = Unauthenticated "CERTIFICATE_REFUSED",
    /// This principal may not do this on this channel.
    PermissionDenied = PermissionDenied "PERMISSION_DENIED",
    /// No token that this caller may use so; whatever the true reason.
    NotFound = NotFound "NOT_FOUND",
    /// Merchant, channel or principal is locked: metadata [`LOCKDOWN`].
    Locked = FailedPrecondition "LOCKED",
    /// All tokens of this shape are used up.
    SpaceExhausted = FailedPrecondition "SPACE_EXHAUSTED",
    /// A key of the vault has reached its limit of uses: an operator makes a new one.
    KeySpent = FailedPrecondition "KEY_SPENT",
    /// The security code is not held any more: the shopper is to be asked again.
    SecurityCodeGone = FailedPrecondition "SECURITY_CODE_GONE",
    /// The vault's epoch is not the expected one: metadata [`EPOCH`].
    EpochMismatch = FailedPrecondition "EPOCH_MISMATCH",
    /// The custodian does not open what the change needs.
    Custody = FailedPrecondition "CUSTODY",
    /// A budget is used up until [`Failure::retry_after`].
    BudgetSpent = ResourceExhausted "BUDGET_SPENT",
    /// The same request is still being worked on.
    StillRunning = Aborted "STILL_RUNNING",
    /// More work than the vault can take; nothing was done.
    Overloaded = Unavailable "OVERLOADED",
    /// The vault has no keys in memory: custodians must unseal it.
    Sealed = Unavailable "SEALED",
    /// The store does not answer.
    StoreAway = Unavailable "STORE_AWAY",
    /// The deadline passed before the change was on disk.
    DeadlineExceeded = DeadlineExceeded "DEADLINE_EXCEEDED",
    /// A destination was not reached, or did not answer as it must: metadata [`STAGE`]. What was sent may have arrived.
    DestinationFailed = Unavailable "DESTINATION_FAILED",
    /// Known to the contract, not in this release.
    Unimplemented = Unimplemented "UNIMPLEMENTED",
    /// The vault's own fault: metadata [`INCIDENT`].
    Internal = Internal "INTERNAL",
}

/// Metadata key of [`Reason::Locked`]: the lockdown's id, decimal.
pub const LOCKDOWN: &str = "lockdown";
/// Metadata key of [`Reason::EpochMismatch`]: the vault's epoch, decimal.
pub const EPOCH: &str = "epoch";
/// Metadata key of [`Reason::DestinationFailed`]: how far it came, a stable word such as `tls` or `late`.
pub const STAGE: &str = "stage";
/// Metadata key of [`Reason::Internal`]: what the operator's log line is found by.
pub const INCIDENT: &str = "incident";

/// A failed request, as the contract tells it. Its texts are for people and name no token, card or customer: whoever
/// makes one sees to that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: Code,
    reason: Option<Reason>,
    message: String,
    fields: Vec<(String, String)>,
    retry_after: Option<Duration>,
    metadata: BTreeMap<String, String>,
}

impl Failure {
    /// A failure for `reason`, with a message for people.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code: reason.code(),
            reason: Some(reason),
            message: message.into(),
            fields: Vec::new(),
            retry_after: None,
            metadata: BTreeMap::new(),
        }
    }

    /// Names a field by its path on the wire, such as `item.plain.pan`, and the rule that it broke.
    #[must_use]
    pub fn field(mut self, path: impl Into<String>, rule: impl Into<String>) -> Self {
        self.fields.push((path.into(), rule.into()));
        self
    }

    /// Advises to try the same request again, unchanged, after this long.
    #[must_use]
    pub fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Adds metadata for programs, under a key such as [`LOCKDOWN`].
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// Why, if the vault said so and this release knows the word.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// The message for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The malformed fields, each a path on the wire and the rule that it broke.
    #[must_use]
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// After how long the same request, unchanged, may succeed. `None`: the vault does not advise to try again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Metadata for programs, under a key such as [`LOCKDOWN`].
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    fn details(self) -> ErrorDetails {
        let mut details = ErrorDetails::new();
        if let Some(reason) = self.reason {
            details.set_error_info(
                reason.as_str(),
                DOMAIN,
                self.metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
            );
        }
        for (path, rule) in self.fields {
            details.add_bad_request_violation(path, rule);
        }
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        details
    }

    fn read(code: Code, message: &str, details: &ErrorDetails) -> Self {
        let ours = details.error_info().filter(|info| info.domain == DOMAIN);
        Self {
            code,
            reason: ours.and_then(|info| Reason::parse(&info.reason)),
            message: message.to_owned(),
            fields: details.bad_request().map_or_else(Vec::new, |bad| {
                bad.field_violations.iter().map(|v| (v.field.clone(), v.description.clone())).collect()
            }),
            // A proxy may advise a retry of its own; only the vault knows that trying again is safe.
            retry_after: ours.and(details.retry_info()).and_then(|info| info.retry_delay),
            metadata: ours.map_or_else(BTreeMap::new, |info| info.metadata.clone().into_iter().collect()),
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let (code, message) = (failure.code, failure.message.clone());
        Self::with_error_details(code, message, failure.details())
    }
}

/// As an item of a batch or stream carries it: the same bytes that a [`tonic::Status`] has in its trailer.
impl From<Failure> for RpcStatus {
    fn from(failure: Failure) -> Self {
        let (code, message) = (i32::from(failure.code), failure.message.clone());
        let carrier = Status::from(failure);
        let details =
            <Self as prost::Message>::decode(carrier.details()).map_or_else(|_| Vec::new(), |s| s.details);
        Self { code, message, details }
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        Self::read(status.code(), status.message(), &status.get_error_details())
    }
}

impl From<&RpcStatus> for Failure {
    fn from(status: &RpcStatus) -> Self {
        Self::read(Code::from_i32(status.code), &status.message, &status.get_error_details())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Vec<Failure> {
        let mut all: Vec<_> =
            Reason::ALL.iter().map(|r| Failure::new(*r, format!("because of {}", r.as_str()))).collect();
        all.push(Failure::new(Reason::Malformed, "bad").field("item.plain.pan", "must pass the Luhn check"));
        all.push(Failure::new(Reason::BudgetSpent, "wait").retry(Duration::from_millis(86_399_999)));
        all.push(Failure::new(Reason::Locked, "locked").with(LOCKDOWN, "7"));
        all
    }

    #[test]
    fn what_the_server_tells_is_what_the_client_reads() {
        for told in every_kind() {
            assert_eq!(Failure::from(&Status::from(told.clone())), told);
            assert_eq!(Failure::from(&RpcStatus::from(told.clone())), told);
        }
    }

    #[test]
    fn a_status_that_the_vault_did_not_make_has_no_reason_and_advises_no_retry() {
        let bare = Status::unavailable("connection reset");
        let mut details = ErrorDetails::with_retry_info(Some(Duration::from_secs(1)));
        details.set_error_info("OVERLOADED", "proxy.example", std::collections::HashMap::new());
        let foreign = Status::with_error_details(Code::Unavailable, "busy", details);
        let garbage = Status::with_details(Code::Unavailable, "busy", b"\xff\xff".to_vec().into());
        for status in [bare, foreign, garbage] {
            let read = Failure::from(&status);
            assert_eq!((read.code(), read.reason(), read.retry_after()), (Code::Unavailable, None, None));
        }
    }

    #[test]
    fn a_reason_of_a_later_release_keeps_its_code_and_its_retry() {
        let mut details = ErrorDetails::with_retry_info(Some(Duration::from_secs(1)));
        details.set_error_info("FROM_THE_FUTURE", DOMAIN, std::collections::HashMap::new());
        let read = Failure::from(&Status::with_error_details(Code::Aborted, "later", details));
        assert_eq!((read.code(), read.reason()), (Code::Aborted, None));
        assert_eq!(read.retry_after(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn every_reason_stands_in_the_contracts_tables_with_its_code() {
        let contract =
            concat!(include_str!("../vault/v1/vault.proto"), include_str!("../vault/v1/admin.proto"));
        for reason in Reason::ALL {
            let code = format!("{:?}", reason.code()).chars().fold(String::new(), |mut text, c| {
                if c.is_uppercase() && !text.is_empty() {
                    text.push('_');
                }
                text.push(c.to_ascii_uppercase());
                text
            });
            let row = format!("| {code} | {} |", reason.as_str());
            assert!(contract.contains(&row), "{row}");
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        let rows = contract.lines().filter(|l| l.starts_with("// | ") && !l.starts_with("// | code")).count();
        assert_eq!(rows, Reason::ALL.len() + 2, "the tables list two reasons twice, and no other besides");
    }
}
