//! `vault.v1.Vault`: cards in, tokens out, and back for who may.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_stream::Stream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::batch::{self, Batch, Fit, Outcome};
use crate::endpoint::Endpoint;
use crate::error::ClientError;
use crate::line::Line;
use crate::stream::{Answers, Gate, Gated, in_flight};
use crate::v1::{
    ChangeResult, CompleteAuthorizationItem, CompleteAuthorizationResult, DeleteCardItem, DeleteCardResult,
    DetokenizeItem, DetokenizeResult, DisableItem, EnableItem, EraseSubjectRequest, EraseSubjectResponse,
    FingerprintItem, FingerprintResult, ForwardRequest, ForwardResponse, GetCapabilitiesRequest,
    GetCapabilitiesResponse, GetSealingKeyRequest, HoldSecurityCodeItem, HoldSecurityCodeResult, InspectItem,
    InspectResult, ListBySubjectRequest, ListBySubjectResponse, ReadSecurityCodeItem, ReadSecurityCodeResult,
    ReplaceItem, ReplaceResult, RequestHeader, RevokeItem, RevokeResult, SealingKey, StreamDetokenizeRequest,
    StreamTokenizeRequest, StreamUpgradeRequest, TokenizeItem, TokenizeResult, TranslateItem,
    UpdateAttributesItem, UpgradeItem, UpgradeResult,
};
use crate::verb::{Verb, wire};

/// A client of one vault. Clones are cheap and share its connection, which is made anew whenever a call finds it gone.
///
/// Every call ends within the time allowed ([`Endpoint::deadline`], or [`VaultClient::within`]) and is tried again by itself
/// where that can help and is safe: see the crate's page.
#[derive(Clone)]
pub struct VaultClient {
    line: Line,
    capabilities: Arc<GetCapabilitiesResponse>,
}

impl VaultClient {
    /// Connects, and asks the vault what it can do: so a wrong address, authority or certificate shows here and not at the
    /// first payment.
    pub async fn connect(endpoint: Endpoint) -> Result<Self, ClientError> {
        let line = Line::open(endpoint).await?;
        let capabilities = Arc::new(capabilities(&line).await?);
        Ok(Self { line, capabilities })
    }

    /// The same client and connection, with another time allowance for each call, retries included. For a batch it is for
    /// all of it; for a stream, see [`VaultClient::stream_tokenize`].
    #[must_use]
    pub fn within(&self, allowance: Duration) -> Self {
        Self { line: self.line.within(allowance), ..self.clone() }
    }

    /// What the vault said when we connected: its release, features and limits, and whom it takes us for.
    #[must_use]
    pub fn capabilities(&self) -> &GetCapabilitiesResponse {
        &self.capabilities
    }

    /// The public key that cards for a channel are sealed to. `merchant` and `channel` may be empty where the certificate is
    /// bound to exactly one channel. Keep it until its `valid_until`, and no longer.
    pub async fn sealing_key(&self, merchant: &str, channel: &str) -> Result<SealingKey, ClientError> {
        let request = GetSealingKeyRequest { merchant: merchant.to_owned(), channel: channel.to_owned() };
        let send = |channel, request| async move { wire(channel).get_sealing_key(request).await };
        let answer = self.line.call(self.line.deadline(), &request, send).await?;
        answer.key.ok_or(ClientError::Answer("there is no key in it"))
    }

    /// Sends a request with cards in it to a destination of the server's settings, and gives its answer back masked. It is
    /// never tried again by itself: what was sent may have arrived, and only the destination knows.
    pub async fn forward(&self, request: ForwardRequest) -> Result<ForwardResponse, ClientError> {
        self.line.once(request, |channel, request| async move { wire(channel).forward(request).await }).await
    }

    /// Takes a card and gives its token.
    pub async fn tokenize(
        &self,
        header: RequestHeader,
        item: TokenizeItem,
    ) -> Result<TokenizeResult, ClientError> {
        self.one(header, item).await
    }

    /// Gives a token's card back in the form asked for. [`ask::pan`](crate::ask::pan) takes the number out.
    pub async fn detokenize(
        &self,
        header: RequestHeader,
        item: DetokenizeItem,
    ) -> Result<DetokenizeResult, ClientError> {
        self.one(header, item).await
    }

    /// Shows what is known of a token without its card number.
    pub async fn inspect(
        &self,
        header: RequestHeader,
        item: InspectItem,
    ) -> Result<InspectResult, ClientError> {
        self.one(header, item).await
    }

    /// Ends a token's use, on one channel or on all.
    pub async fn revoke(&self, header: RequestHeader, item: RevokeItem) -> Result<RevokeResult, ClientError> {
        self.one(header, item).await
    }

    /// Turns a vaultless token of an old slot into the current one.
    pub async fn upgrade(
        &self,
        header: RequestHeader,
        item: UpgradeItem,
    ) -> Result<UpgradeResult, ClientError> {
        self.one(header, item).await
    }

    /// Upgrades any number of tokens, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_upgrade(
        &self,
        header: RequestHeader,
        items: Vec<UpgradeItem>,
    ) -> Result<Batch<UpgradeResult>, ClientError> {
        self.many(header, items).await
    }

    /// Stops a token from working until it is enabled.
    pub async fn disable(
        &self,
        header: RequestHeader,
        item: DisableItem,
    ) -> Result<ChangeResult, ClientError> {
        self.one(header, item).await
    }

    /// Lets a token work again that was disabled.
    pub async fn enable(&self, header: RequestHeader, item: EnableItem) -> Result<ChangeResult, ClientError> {
        self.one(header, item).await
    }

    /// Changes what is known around a card.
    pub async fn update_attributes(
        &self,
        header: RequestHeader,
        item: UpdateAttributesItem,
    ) -> Result<ChangeResult, ClientError> {
        self.one(header, item).await
    }

    /// Puts another card in the place of a token's card.
    pub async fn replace(
        &self,
        header: RequestHeader,
        item: ReplaceItem,
    ) -> Result<ReplaceResult, ClientError> {
        self.one(header, item).await
    }

    /// Gives a card's public fingerprint.
    pub async fn fingerprint(
        &self,
        header: RequestHeader,
        item: FingerprintItem,
    ) -> Result<FingerprintResult, ClientError> {
        self.one(header, item).await
    }

    /// Ends every token that a card would be given again.
    pub async fn delete_card(
        &self,
        header: RequestHeader,
        item: DeleteCardItem,
    ) -> Result<DeleteCardResult, ClientError> {
        self.one(header, item).await
    }

    /// Lists the tokens of the customer that the header's context names, a page at a time: `page_token` is empty for the
    /// first page, and then what the page before said.
    pub async fn list_by_subject(
        &self,
        header: RequestHeader,
        page_size: u32,
        page_token: &str,
    ) -> Result<ListBySubjectResponse, ClientError> {
        let page_token = page_token.to_owned();
        let request = ListBySubjectRequest { header: Some(header), page_size, page_token };
        let send = |channel, request| async move { wire(channel).list_by_subject(request).await };
        self.line.call(self.line.deadline(), &request, send).await
    }

    /// Ends every token of the customer that the header's context names, for good.
    pub async fn erase_subject(&self, header: RequestHeader) -> Result<EraseSubjectResponse, ClientError> {
        let request = EraseSubjectRequest { header: Some(header) };
        let send = |channel, request| async move { wire(channel).erase_subject(request).await };
        self.line.call(self.line.deadline(), &request, send).await
    }

    /// Makes a token of another channel or merchant for the card of a token.
    pub async fn translate(
        &self,
        header: RequestHeader,
        item: TranslateItem,
    ) -> Result<TokenizeResult, ClientError> {
        self.one(header, item).await
    }

    /// Holds the security code of a token's card, in the memory of one node, to be read once.
    pub async fn hold_security_code(
        &self,
        header: RequestHeader,
        item: HoldSecurityCodeItem,
    ) -> Result<HoldSecurityCodeResult, ClientError> {
        self.one(header, item).await
    }

    /// Gives a security code back, once. [`Reason::SecurityCodeGone`](crate::Reason::SecurityCodeGone): ask the shopper again.
    pub async fn read_security_code(
        &self,
        header: RequestHeader,
        item: ReadSecurityCodeItem,
    ) -> Result<ReadSecurityCodeResult, ClientError> {
        self.one(header, item).await
    }

    /// Says that an authorization is over: its security code goes.
    pub async fn complete_authorization(
        &self,
        header: RequestHeader,
        item: CompleteAuthorizationItem,
    ) -> Result<CompleteAuthorizationResult, ClientError> {
        self.one(header, item).await
    }

    /// Tokenizes any number of cards: split to the vault's limits (at most 1,000 items and less than 1 MiB a message), the
    /// parts sent one after the other under ids of their own ([`chunk_request_id`](crate::chunk_request_id)). Sending the
    /// whole again under the same header is safe, and tells what became of it.
    ///
    /// An error means that no part was answered. Where a later part fails as a whole, the answers before it stand, and
    /// every item from there on has that part's error; the parts after it were not sent.
    pub async fn batch_tokenize(
        &self,
        header: RequestHeader,
        items: Vec<TokenizeItem>,
    ) -> Result<Batch<TokenizeResult>, ClientError> {
        self.many(header, items).await
    }

    /// Detokenizes any number of tokens, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_detokenize(
        &self,
        header: RequestHeader,
        items: Vec<DetokenizeItem>,
    ) -> Result<Batch<DetokenizeResult>, ClientError> {
        self.many(header, items).await
    }

    /// Inspects any number of tokens, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_inspect(
        &self,
        header: RequestHeader,
        items: Vec<InspectItem>,
    ) -> Result<Batch<InspectResult>, ClientError> {
        self.many(header, items).await
    }

    /// Revokes any number of tokens, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_revoke(
        &self,
        header: RequestHeader,
        items: Vec<RevokeItem>,
    ) -> Result<Batch<RevokeResult>, ClientError> {
        self.many(header, items).await
    }

    /// Disables any number of tokens, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_disable(
        &self,
        header: RequestHeader,
        items: Vec<DisableItem>,
    ) -> Result<Batch<ChangeResult>, ClientError> {
        self.many(header, items).await
    }

    /// Enables any number of tokens, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_enable(
        &self,
        header: RequestHeader,
        items: Vec<EnableItem>,
    ) -> Result<Batch<ChangeResult>, ClientError> {
        self.many(header, items).await
    }

    /// Changes what is known around any number of cards, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_update_attributes(
        &self,
        header: RequestHeader,
        items: Vec<UpdateAttributesItem>,
    ) -> Result<Batch<ChangeResult>, ClientError> {
        self.many(header, items).await
    }

    /// Replaces the cards of any number of tokens, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_replace(
        &self,
        header: RequestHeader,
        items: Vec<ReplaceItem>,
    ) -> Result<Batch<ReplaceResult>, ClientError> {
        self.many(header, items).await
    }

    /// Gives the public fingerprints of any number of cards, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_fingerprint(
        &self,
        header: RequestHeader,
        items: Vec<FingerprintItem>,
    ) -> Result<Batch<FingerprintResult>, ClientError> {
        self.many(header, items).await
    }

    /// Ends every token of any number of cards, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_delete_card(
        &self,
        header: RequestHeader,
        items: Vec<DeleteCardItem>,
    ) -> Result<Batch<DeleteCardResult>, ClientError> {
        self.many(header, items).await
    }

    /// Translates any number of tokens, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_translate(
        &self,
        header: RequestHeader,
        items: Vec<TranslateItem>,
    ) -> Result<Batch<TokenizeResult>, ClientError> {
        self.many(header, items).await
    }

    /// Holds any number of security codes, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_hold_security_code(
        &self,
        header: RequestHeader,
        items: Vec<HoldSecurityCodeItem>,
    ) -> Result<Batch<HoldSecurityCodeResult>, ClientError> {
        self.many(header, items).await
    }

    /// Gives any number of security codes back, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_read_security_code(
        &self,
        header: RequestHeader,
        items: Vec<ReadSecurityCodeItem>,
    ) -> Result<Batch<ReadSecurityCodeResult>, ClientError> {
        self.many(header, items).await
    }

    /// Says that any number of authorizations are over, by the rules of [`VaultClient::batch_tokenize`].
    pub async fn batch_complete_authorization(
        &self,
        header: RequestHeader,
        items: Vec<CompleteAuthorizationItem>,
    ) -> Result<Batch<CompleteAuthorizationResult>, ClientError> {
        self.many(header, items).await
    }

    /// Tokenizes a stream of cards, each message under a `request_id` and `reference` of its own. No more messages are taken
    /// from `requests` than may be unanswered at once: 128, or fewer if the vault says so. Answers must be taken for it to
    /// go on.
    ///
    /// A stream may last as long as `requests` does. The time allowance is for its beginning, and then for the next answer
    /// while any is due. Nothing in a stream is tried again by itself, an answer that advises it included.
    pub async fn stream_tokenize(
        &self,
        requests: impl Stream<Item = StreamTokenizeRequest> + Send + 'static,
    ) -> Result<Answers<TokenizeResult>, ClientError> {
        self.stream(requests, |channel, r| async move { wire(channel).stream_tokenize(r).await }).await
    }

    /// Detokenizes a stream of tokens, by the rules of [`VaultClient::stream_tokenize`].
    pub async fn stream_detokenize(
        &self,
        requests: impl Stream<Item = StreamDetokenizeRequest> + Send + 'static,
    ) -> Result<Answers<DetokenizeResult>, ClientError> {
        self.stream(requests, |channel, r| async move { wire(channel).stream_detokenize(r).await }).await
    }

    /// Upgrades a stream of tokens, by the rules of [`VaultClient::stream_tokenize`].
    pub async fn stream_upgrade(
        &self,
        requests: impl Stream<Item = StreamUpgradeRequest> + Send + 'static,
    ) -> Result<Answers<UpgradeResult>, ClientError> {
        self.stream(requests, |channel, r| async move { wire(channel).stream_upgrade(r).await }).await
    }

    #[cfg(test)]
    pub(crate) fn line(&self) -> &Line {
        &self.line
    }

    async fn one<V: Verb>(&self, header: RequestHeader, item: V) -> Result<V::Result, ClientError> {
        let request = V::one(header, item);
        let answer = self.line.call(self.line.deadline(), &request, V::send_one).await?;
        answer.ok_or(ClientError::Answer("there is no result in it"))
    }

    async fn many<V: Verb>(
        &self,
        header: RequestHeader,
        items: Vec<V>,
    ) -> Result<Batch<V::Result>, ClientError> {
        batch::send(&self.line, Fit::new(self.capabilities.limits.as_ref()), header, items).await
    }

    async fn stream<S, W, T, F>(
        &self,
        requests: S,
        send: impl FnOnce(Channel, Request<Gated<S>>) -> F,
    ) -> Result<Answers<T>, ClientError>
    where
        W: Send + 'static,
        Outcome<T>: From<W>,
        F: Future<Output = Result<Response<Streaming<W>>, Status>>,
    {
        // A stream's messages can be taken once only, so whatever is wrong with the line should show before they are.
        let limits = capabilities(&self.line).await?.limits.unwrap_or_default();
        let gate = Gate::new(in_flight(limits.stream_in_flight));
        let wire = self.line.once(Gated::new(requests, Arc::clone(&gate)), send).await?;
        Ok(Answers::new(wire, self.line.clone(), gate))
    }
}

/// The one request that touches no card and is not logged.
async fn capabilities(line: &Line) -> Result<GetCapabilitiesResponse, ClientError> {
    let send = |channel, request| async move { wire(channel).get_capabilities(request).await };
    line.call(line.deadline(), &GetCapabilitiesRequest {}, send).await
}
