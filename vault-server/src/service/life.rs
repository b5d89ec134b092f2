//! The verbs of a token's life, each alone and in a batch: what differs between them is which message, which action and
//! which verb of the core.

use tonic::{Request, Response, Status};
use vault_core::error::Error;
use vault_core::vault::MAX_LISTED;
use vault_core::words::Action;
use vault_proto::v1;

use super::{Asker, Heads, VaultService, told_back, within_batch};
use crate::admin::{from_page, page_size, to_page};
use crate::wire;

macro_rules! verbs {
    ($($one:ident, $many:ident: $action:ident by $verb:ident, $parse:path => $told:path;
       $request:ident -> $response:ident, $batch:ident -> $batch_response:ident, $outcome:ident in $module:ident;)+) => {$(
        pub(super) async fn $one(
            service: &VaultService,
            request: Request<v1::$request>,
        ) -> Result<Response<v1::$response>, Status> {
            let asker = Asker::of(&request)?;
            let v1::$request { header, item } = request.into_inner();
            let ask = async {
                let header = wire::header(header, asker.deadline)?;
                let item = item.ok_or_else(|| Error::malformed("item", "is required")).and_then($parse);
                let item = service.parsed(&asker, &header, Action::$action, item).await?;
                let mut answers = service.vault.$verb(asker.caller(), &header, vec![item]).await?;
                answers.pop().unwrap_or_else(|| Err(Error::internal()))
            };
            let answer = ask.await.map_err(|e| service.refused(&e))?;
            Ok(Response::new(v1::$response { result: Some($told(answer, true)) }))
        }

        pub(super) async fn $many(
            service: &VaultService,
            request: Request<v1::$batch>,
        ) -> Result<Response<v1::$batch_response>, Status> {
            let asker = Asker::of(&request)?;
            let v1::$batch { header, items } = request.into_inner();
            within_batch(&items)?;
            let header = service.header(header, &asker)?;
            let references: Vec<String> = items.iter().map(|i| told_back(&i.reference)).collect();
            let parsed = items.into_iter().map($parse).collect();
            let answers = service
                .batch((&asker, &header, Action::$action), parsed, |items| {
                    service.vault.$verb(asker.caller(), &header, items)
                })
                .await?;
            let mut heads = Heads::default();
            let outcomes = references.into_iter().zip(answers).map(|(reference, answer)| {
                use v1::$module::Outcome;
                let outcome = match answer {
                    Ok(answer) => {
                        heads.note(&answer.receipt);
                        Outcome::Result($told(answer, false))
                    }
                    Err(error) => Outcome::Error(error),
                };
                v1::$outcome { reference, outcome: Some(outcome) }
            });
            let outcomes = outcomes.collect();
            Ok(Response::new(v1::$batch_response { outcomes, checkpoints: heads.all() }))
        }
    )+};
}

verbs! {
    disable, batch_disable: Disable by disable_batch, wire::disable => wire::changed;
        DisableRequest -> DisableResponse, BatchDisableRequest -> BatchDisableResponse, DisableOutcome in disable_outcome;
    upgrade, batch_upgrade: Upgrade by upgrade_batch, wire::upgrade => wire::upgraded;
        UpgradeRequest -> UpgradeResponse, BatchUpgradeRequest -> BatchUpgradeResponse, UpgradeOutcome in upgrade_outcome;
    enable, batch_enable: Enable by enable_batch, wire::enable => wire::changed;
        EnableRequest -> EnableResponse, BatchEnableRequest -> BatchEnableResponse, EnableOutcome in enable_outcome;
    update_attributes, batch_update_attributes: UpdateAttributes by update_attributes_batch, wire::update => wire::changed;
        UpdateAttributesRequest -> UpdateAttributesResponse,
        BatchUpdateAttributesRequest -> BatchUpdateAttributesResponse,
        UpdateAttributesOutcome in update_attributes_outcome;
    replace, batch_replace: Replace by replace_batch, wire::replace => wire::replaced;
        ReplaceRequest -> ReplaceResponse, BatchReplaceRequest -> BatchReplaceResponse, ReplaceOutcome in replace_outcome;
    fingerprint, batch_fingerprint: Fingerprint by fingerprint_batch, wire::fingerprint => wire::fingerprinted;
        FingerprintRequest -> FingerprintResponse, BatchFingerprintRequest -> BatchFingerprintResponse,
        FingerprintOutcome in fingerprint_outcome;
    translate, batch_translate: Detokenize by translate_batch, wire::translate => wire::tokenized;
        TranslateRequest -> TranslateResponse, BatchTranslateRequest -> BatchTranslateResponse,
        TranslateOutcome in translate_outcome;
    delete_card, batch_delete_card: DeleteCard by delete_card_batch, wire::delete_card => wire::deleted;
        DeleteCardRequest -> DeleteCardResponse, BatchDeleteCardRequest -> BatchDeleteCardResponse,
        DeleteCardOutcome in delete_card_outcome;
}

pub(super) async fn list_by_subject(
    service: &VaultService,
    request: Request<v1::ListBySubjectRequest>,
) -> Result<Response<v1::ListBySubjectResponse>, Status> {
    let asker = Asker::of(&request)?;
    let v1::ListBySubjectRequest { header, page_size: asked, page_token } = request.into_inner();
    let ask = async {
        let header = wire::header(header, asker.deadline)?;
        let from = from_page(&page_token).and_then(|from| {
            usize::try_from(from).map_err(|_| Error::malformed("page_token", "is none that this vault gave"))
        });
        let from = service.parsed(&asker, &header, Action::ListBySubject, from).await?;
        let most = page_size(asked, MAX_LISTED);
        service.vault.list_by_subject(asker.caller(), &header, from, most).await
    };
    let answer = ask.await.map_err(|e| service.refused(&e))?;
    let next = answer.next.and_then(|next| u64::try_from(next).ok());
    let next_page_token = next.map_or_else(String::new, to_page);
    Ok(Response::new(v1::ListBySubjectResponse { next_page_token, ..wire::listed(answer) }))
}

pub(super) async fn erase_subject(
    service: &VaultService,
    request: Request<v1::EraseSubjectRequest>,
) -> Result<Response<v1::EraseSubjectResponse>, Status> {
    let asker = Asker::of(&request)?;
    let v1::EraseSubjectRequest { header } = request.into_inner();
    let ask = async {
        let header = wire::header(header, asker.deadline)?;
        service.vault.erase_subject(asker.caller(), &header).await
    };
    let answer = ask.await.map_err(|e| service.refused(&e))?;
    let receipt = Some(wire::receipt(&answer.receipt, true));
    Ok(Response::new(v1::EraseSubjectResponse { tokens: answer.tokens, receipt }))
}
