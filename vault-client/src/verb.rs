//! What the verbs have in common, once: a request for one, a request for many, and how their answers are read.

use std::future::Future;
use std::pin::Pin;

use prost::Message;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use vault_proto::v1::vault_client::VaultClient as Wire;

use crate::batch::Outcome;
use crate::error::ClientError;
use crate::line::LARGEST_ANSWER;
use crate::v1::{self, Checkpoint, RequestHeader};

/// A call on its way.
pub(crate) type Sending<A> = Pin<Box<dyn Future<Output = Result<Response<A>, Status>> + Send>>;

/// The answer to a batch: one outcome per item, in the items' order, and the signed heads.
pub(crate) type Many<T> = (Vec<Outcome<T>>, Vec<Checkpoint>);

/// The generated client, with our bound on answers.
pub(crate) fn wire(channel: Channel) -> Wire<Channel> {
    Wire::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}

/// An item of a verb: what is asked about one card or token.
pub(crate) trait Verb: Message + Clone + 'static {
    /// What it becomes.
    type Result: Send;
    /// The request for one.
    type One: Clone + Send + Sync;
    /// The request for many.
    type Many: Clone + Send + Sync;

    fn one(header: RequestHeader, item: Self) -> Self::One;
    fn many(header: RequestHeader, items: Vec<Self>) -> Self::Many;
    fn items(many: Self::Many) -> Vec<Self>;
    fn into_reference(self) -> String;
    fn send_one(channel: Channel, request: Request<Self::One>) -> Sending<Option<Self::Result>>;
    fn send_many(channel: Channel, request: Request<Self::Many>) -> Sending<Many<Self::Result>>;
}

macro_rules! verbs {
    ($($item:ident, $result:ident, $one:ident by $send_one:ident, $many:ident by $send_many:ident, $outcome:ident;)+) => {$(
        impl Verb for v1::$item {
            type Result = v1::$result;
            type One = v1::$one;
            type Many = v1::$many;

            fn one(header: RequestHeader, item: Self) -> Self::One {
                v1::$one { header: Some(header), item: Some(item) }
            }

            fn many(header: RequestHeader, items: Vec<Self>) -> Self::Many {
                v1::$many { header: Some(header), items }
            }

            fn items(many: Self::Many) -> Vec<Self> {
                many.items
            }

            fn into_reference(mut self) -> String {
                std::mem::take(&mut self.reference)
            }

            fn send_one(channel: Channel, request: Request<Self::One>) -> Sending<Option<Self::Result>> {
                Box::pin(async move { Ok(wire(channel).$send_one(request).await?.map(|answer| answer.result)) })
            }

            fn send_many(channel: Channel, request: Request<Self::Many>) -> Sending<Many<Self::Result>> {
                Box::pin(async move {
                    let answer = wire(channel).$send_many(request).await?;
                    Ok(answer.map(|a| (a.outcomes.into_iter().map(Outcome::from).collect(), a.checkpoints)))
                })
            }
        }

        outcome!(v1::$outcome, $result);
    )+};
}

macro_rules! outcome {
    ($module:ident :: $outcome:ident, $result:ident) => {
        impl From<$module::$outcome> for Outcome<v1::$result> {
            fn from(outcome: $module::$outcome) -> Self {
                use oneof::$outcome as Told;
                let result = match outcome.outcome {
                    Some(Told::Result(result)) => Ok(result),
                    Some(Told::Error(status)) => Err(ClientError::Refused((&status).into())),
                    None => Err(ClientError::Answer("an outcome is neither a result nor an error")),
                };
                Self { reference: outcome.reference, result }
            }
        }
    };
}

/// The generated enums of all outcomes, by the name of their message.
mod oneof {
    pub(super) use crate::v1::delete_card_outcome::Outcome as DeleteCardOutcome;
    pub(super) use crate::v1::detokenize_outcome::Outcome as DetokenizeOutcome;
    pub(super) use crate::v1::disable_outcome::Outcome as DisableOutcome;
    pub(super) use crate::v1::enable_outcome::Outcome as EnableOutcome;
    pub(super) use crate::v1::fingerprint_outcome::Outcome as FingerprintOutcome;
    pub(super) use crate::v1::inspect_outcome::Outcome as InspectOutcome;
    pub(super) use crate::v1::replace_outcome::Outcome as ReplaceOutcome;
    pub(super) use crate::v1::revoke_outcome::Outcome as RevokeOutcome;
    pub(super) use crate::v1::stream_detokenize_response::Outcome as StreamDetokenizeResponse;
    pub(super) use crate::v1::stream_tokenize_response::Outcome as StreamTokenizeResponse;
    pub(super) use crate::v1::stream_upgrade_response::Outcome as StreamUpgradeResponse;
    pub(super) use crate::v1::tokenize_outcome::Outcome as TokenizeOutcome;
    pub(super) use crate::v1::translate_outcome::Outcome as TranslateOutcome;
    pub(super) use crate::v1::update_attributes_outcome::Outcome as UpdateAttributesOutcome;
    pub(super) use crate::v1::upgrade_outcome::Outcome as UpgradeOutcome;
}

verbs! {
    TokenizeItem, TokenizeResult, TokenizeRequest by tokenize, BatchTokenizeRequest by batch_tokenize, TokenizeOutcome;
    DetokenizeItem, DetokenizeResult, DetokenizeRequest by detokenize, BatchDetokenizeRequest by batch_detokenize, DetokenizeOutcome;
    InspectItem, InspectResult, InspectRequest by inspect, BatchInspectRequest by batch_inspect, InspectOutcome;
    RevokeItem, RevokeResult, RevokeRequest by revoke, BatchRevokeRequest by batch_revoke, RevokeOutcome;
    DisableItem, ChangeResult, DisableRequest by disable, BatchDisableRequest by batch_disable, DisableOutcome;
    UpgradeItem, UpgradeResult, UpgradeRequest by upgrade, BatchUpgradeRequest by batch_upgrade, UpgradeOutcome;
    EnableItem, ChangeResult, EnableRequest by enable, BatchEnableRequest by batch_enable, EnableOutcome;
    UpdateAttributesItem, ChangeResult, UpdateAttributesRequest by update_attributes,
        BatchUpdateAttributesRequest by batch_update_attributes, UpdateAttributesOutcome;
    TranslateItem, TokenizeResult, TranslateRequest by translate, BatchTranslateRequest by batch_translate, TranslateOutcome;
    FingerprintItem, FingerprintResult, FingerprintRequest by fingerprint,
        BatchFingerprintRequest by batch_fingerprint, FingerprintOutcome;
    DeleteCardItem, DeleteCardResult, DeleteCardRequest by delete_card,
        BatchDeleteCardRequest by batch_delete_card, DeleteCardOutcome;
    ReplaceItem, ReplaceResult, ReplaceRequest by replace, BatchReplaceRequest by batch_replace, ReplaceOutcome;
}
outcome!(v1::StreamTokenizeResponse, TokenizeResult);
outcome!(v1::StreamUpgradeResponse, UpgradeResult);
outcome!(v1::StreamDetokenizeResponse, DetokenizeResult);
