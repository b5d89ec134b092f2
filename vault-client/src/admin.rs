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
    pub(crate) line: Line,
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
    /// Says how far the work behind rotations is.
    get_key_work(GetKeyWorkRequest) -> GetKeyWorkResponse;
    /// Destroys a key that nothing needs any more.
    destroy_key(DestroyKeyRequest) -> DestroyKeyResponse;
    /// Puts the other custodian of the node's settings in the first one's place.
    change_custodian(ChangeCustodianRequest) -> ChangeCustodianResponse;
    /// One key version, and what is under it.
    describe_key(DescribeKeyRequest) -> DescribeKeyResponse;
    /// Notes that somebody else may have a key.
    compromise_key(CompromiseKeyRequest) -> CompromiseKeyResponse;
    /// Destroys a key with what is under it.
    shred_key(ShredKeyRequest) -> ShredKeyResponse;
    /// Locks a merchant, a channel or a principal.
    set_lock(SetLockRequest) -> SetLockResponse;
    /// Wraps what opens these tokens' cards under the merchant's token root key of now.
    upgrade_tokens(UpgradeTokensRequest) -> UpgradeTokensResponse;
    /// Counts what still needs which of a merchant's token root keys.
    count_token_roots(CountTokenRootsRequest) -> CountTokenRootsResponse;
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
    /// Says how much of one space of tokens is used.
    get_token_space(GetTokenSpaceRequest) -> GetTokenSpaceResponse;
    /// Lists the fullest spaces of tokens that the node knows.
    list_token_spaces(ListTokenSpacesRequest) -> ListTokenSpacesResponse;
    /// Lists audit entries by the given filters.
    list_audit_entries(ListAuditEntriesRequest) -> ListAuditEntriesResponse;
    /// Proves that the entry of a receipt is in the log, and that the log has only grown since.
    prove_receipt(ProveReceiptRequest) -> ProveReceiptResponse;
    /// Gives the certificate of an erasure.
    get_erasure_certificate(GetErasureCertificateRequest) -> GetErasureCertificateResponse;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{Play, Rig};
    use crate::v1::{GetStatusRequest, RotateKeyRequest};
    use crate::{Failure, Reason, ask};

    #[tokio::test]
    async fn a_change_is_tried_again_under_its_own_id_and_never_past_a_refusal() {
        let busy = Failure::new(Reason::StoreAway, "away").retry(Duration::from_millis(1));
        let stale = Failure::new(Reason::EpochMismatch, "stale").retry(Duration::from_millis(1));
        let plays = vec![
            Play::Answer,
            Play::Refuse(busy.into()),
            Play::Cut,
            Play::Answer,
            Play::Refuse(stale.clone().into()),
        ];
        let rig = Rig::start(plays).await;
        let admin = rig.admin().await;
        let change = ask::change(Some(6));
        let rotate = || RotateKeyRequest { header: Some(change.clone()), ..RotateKeyRequest::default() };
        assert_eq!(admin.rotate_key(rotate()).await.unwrap().epoch, 7);
        assert_eq!(admin.rotate_key(rotate()).await.unwrap_err(), ClientError::Refused(stale));
        let told: Vec<_> = rig.calls().into_iter().map(|call| (call.method, call.request_id)).collect();
        let mut expected = vec![("rotate_key", change.request_id); 4];
        expected.insert(0, ("get_status", String::new()));
        assert_eq!(told, expected);
    }

    #[tokio::test]
    async fn an_operator_who_may_not_see_the_status_is_connected_and_a_stranger_is_not() {
        let denied = Failure::new(Reason::PermissionDenied, "no");
        let rig = Rig::start(vec![Play::Refuse(denied.into())]).await;
        rig.admin().await.get_status(GetStatusRequest {}).await.unwrap();
        let rig = Rig::start(vec![Play::Refuse(tonic::Status::unimplemented("no such service"))]).await;
        let Err(ClientError::Refused(failure)) = AdminClient::connect(rig.endpoint()).await else { panic!() };
        assert_eq!(failure.reason(), None);
    }

    #[tokio::test]
    async fn a_verification_ends_with_its_verdict_or_says_why_there_is_none() {
        let locked = Failure::new(Reason::Custody, "closed");
        for (play, end) in [
            (Play::Answer, None),
            (Play::Refuse(locked.clone().into()), Some(ClientError::Refused(locked))),
            (Play::Hollow, Some(ClientError::Answer("a verification ended without a verdict"))),
            (Play::Late(Duration::from_secs(20)), Some(ClientError::Deadline)),
        ] {
            let rig = Rig::start(vec![Play::Answer, play]).await;
            let admin = rig.admin().await.within(Duration::from_millis(300));
            let mut steps = admin.verify_log(VerifyLogRequest::default()).await.unwrap();
            assert!(matches!(steps.next().await, Some(Ok(Step::Progress(_)))));
            match (steps.next().await.unwrap(), end) {
                (Ok(Step::Verdict(verdict)), None) => assert!(verdict.intact),
                (Err(error), Some(expected)) => assert_eq!(error, expected),
                (step, expected) => panic!("{step:?}, not {expected:?}"),
            }
            assert!(steps.next().await.is_none());
        }
    }
}
