//! `vault.v1.Admin`: what operators ask of a vault. No call takes or gives a card number.

use std::time::Duration;

use tonic::Streaming;
use vault_proto::v1::admin_client::AdminClient as Wire;

use crate::endpoint::Endpoint;
use crate::error::ClientError;
use crate::line::{LARGEST_ANSWER, Line};
use crate::v1::{self, VerifyLogRequest, VerifyLogResponse, verify_log_response::Step};

/// An operator's client of one vault: another listener and another authority than [`VaultClient`](crate::VaultClient)'s, and
/// the same rules for deadlines and retries.
#[derive(Clone)]
pub struct AdminClient {
    line: Line,
}

impl AdminClient {
    /// Connects, and asks for the vault's status: so a wrong address, authority or certificate shows here. An operator who
    /// may not see the status is connected all the same.
    pub async fn connect(endpoint: Endpoint) -> Result<Self, ClientError> {
        let client = Self { line: Line::open(endpoint).await? };
        match client.get_status(v1::GetStatusRequest {}).await {
            Err(ClientError::Refused(failure)) if failure.reason().is_some() => Ok(client),
            answer => answer.map(|_| client),
        }
    }

    /// The same client and connection, with another time allowance for each call, retries included.
    #[must_use]
    pub fn within(&self, allowance: Duration) -> Self {
        Self { line: self.line.within(allowance) }
    }

    /// Recomputes a log's tree and compares it with its signed head. The time allowance is for each step, not for the whole.
    pub async fn verify_log(&self, request: VerifyLogRequest) -> Result<Verification, ClientError> {
        let send = |channel, request| async move { Wire::new(channel).verify_log(request).await };
        let steps = self.line.begin(&request, send).await?;
        Ok(Verification { steps: Some(steps), line: self.line.clone() })
    }
}

macro_rules! calls {
    ($($(#[$doc:meta])+ $name:ident($request:ident) -> $response:ident;)+) => {
        impl AdminClient {$(
            $(#[$doc])+
            pub async fn $name(&self, request: v1::$request) -> Result<v1::$response, ClientError> {
                let send = |channel, request| async move {
                    Wire::new(channel).max_decoding_message_size(LARGEST_ANSWER).$name(request).await
                };
                self.line.call(self.line.deadline(), &request, send).await
            }
        )+}
    };
}

calls! {
    /// Health and state of this node.
    get_status(GetStatusRequest) -> GetStatusResponse;
    /// Lists key versions, newest first within each kind and merchant. Never a key.
    list_keys(ListKeysRequest) -> ListKeysResponse;
    /// Makes a new version of a key primary. [`ask::change`](crate::ask::change) makes the header.
    rotate_key(RotateKeyRequest) -> RotateKeyResponse;
    /// Locks a merchant, a channel or a principal.
    set_lock(SetLockRequest) -> SetLockResponse;
    /// Lists locks, newest first.
    list_locks(ListLocksRequest) -> ListLocksResponse;
    /// Lifts one lock.
    lift_lock(LiftLockRequest) -> LiftLockResponse;
    /// Gives the policy in force.
    get_policy(GetPolicyRequest) -> GetPolicyResponse;
    /// Says what is wrong with a policy text, and what is doubtful.
    check_policy(CheckPolicyRequest) -> CheckPolicyResponse;
    /// Says what a policy text would change.
    diff_policy(DiffPolicyRequest) -> DiffPolicyResponse;
    /// Puts a policy text in force, whole or not at all.
    apply_policy(ApplyPolicyRequest) -> ApplyPolicyResponse;
    /// Says how a request would be decided now, and by which rules.
    explain_policy(ExplainPolicyRequest) -> ExplainPolicyResponse;
    /// Lists audit entries by the given filters.
    list_audit_entries(ListAuditEntriesRequest) -> ListAuditEntriesResponse;
    /// Proves that the entry of a receipt is in the log, and that the log has only grown since.
    prove_receipt(ProveReceiptRequest) -> ProveReceiptResponse;
    /// Gives a log's newest signed head, and the key that verifies it.
    get_checkpoint(GetCheckpointRequest) -> GetCheckpointResponse;
}

/// A log's verification under way.
pub struct Verification {
    steps: Option<Streaming<VerifyLogResponse>>,
    line: Line,
}

impl Verification {
    /// The next step: progress, and as the last one the verdict. `None`: the verdict was given. An error is the end.
    pub async fn next(&mut self) -> Option<Result<Step, ClientError>> {
        let step = self.wait().await;
        if !matches!(step, Some(Ok(Step::Progress(_)))) {
            self.steps = None;
        }
        step
    }

    async fn wait(&mut self) -> Option<Result<Step, ClientError>> {
        let deadline = self.line.deadline();
        let step = match tokio::time::timeout_at(deadline, self.steps.as_mut()?.message()).await {
            Ok(Ok(Some(VerifyLogResponse { step: Some(step) }))) => Ok(step),
            Ok(Ok(_)) => Err(ClientError::Answer("a verification ended without a verdict")),
            Ok(Err(status)) => Err(self.line.judge(&status, deadline).error()),
            Err(_) => Err(ClientError::Deadline),
        };
        Some(step)
    }
}
