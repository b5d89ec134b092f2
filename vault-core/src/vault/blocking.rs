//! The verbs for programs without async: each call waits on its own thread.

use super::request::{
    AttributesUpdate, Brought, ChangedToken, Detokenized, Header, Inspected, NewCard, Reveal, Revocation,
    RevokedToken, SealingKey, Tokenized, UpgradedToken,
};
use super::{Place, Vault};
use crate::custody::Custodian;
use crate::error::Error;
use crate::name::{ChannelName, MerchantName};
use crate::policy::{Caller, Policy};
use crate::token::Token;

/// A vault whose verbs block. Not for use inside an async runtime's threads.
#[derive(Clone)]
pub struct Blocking(Vault);

impl Blocking {
    pub(super) fn of(vault: Vault) -> Self {
        Self(vault)
    }

    /// Makes a vault: see [`Vault::create`].
    pub fn create(place: Place, custodian: &dyn Custodian, policy: Policy) -> Result<Self, Error> {
        pollster::block_on(Vault::create(place, custodian, policy)).map(Self)
    }

    /// Opens a vault: see [`Vault::open`].
    pub fn open(place: Place, custodian: &dyn Custodian) -> Result<Self, Error> {
        pollster::block_on(Vault::open(place, custodian)).map(Self)
    }

    /// See [`Vault::tokenize`].
    pub fn tokenize(&self, caller: Caller<'_>, header: &Header, card: NewCard) -> Result<Tokenized, Error> {
        pollster::block_on(self.0.tokenize(caller, header, card))
    }

    /// See [`Vault::tokenize_batch`].
    pub fn tokenize_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        cards: Vec<NewCard>,
    ) -> Result<Vec<Result<Tokenized, Error>>, Error> {
        pollster::block_on(self.0.tokenize_batch(caller, header, cards))
    }

    /// See [`Vault::tokenize_brought`].
    pub fn tokenize_brought(
        &self,
        caller: Caller<'_>,
        header: &Header,
        cards: Vec<Brought>,
    ) -> Result<Vec<Result<Tokenized, Error>>, Error> {
        pollster::block_on(self.0.tokenize_brought(caller, header, cards))
    }

    /// See [`Vault::sealing_key`].
    pub fn sealing_key(
        &self,
        caller: Caller<'_>,
        merchant: Option<&MerchantName>,
        channel: Option<&ChannelName>,
    ) -> Result<SealingKey, Error> {
        pollster::block_on(self.0.sealing_key(caller, merchant, channel))
    }

    /// See [`Vault::detokenize`].
    pub fn detokenize(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        reveal: Reveal,
    ) -> Result<Detokenized, Error> {
        pollster::block_on(self.0.detokenize(caller, header, token, reveal))
    }

    /// See [`Vault::detokenize_batch`].
    pub fn detokenize_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<(Token, Reveal)>,
    ) -> Result<Vec<Result<Detokenized, Error>>, Error> {
        pollster::block_on(self.0.detokenize_batch(caller, header, tokens))
    }

    /// See [`Vault::inspect`].
    pub fn inspect(&self, caller: Caller<'_>, header: &Header, token: Token) -> Result<Inspected, Error> {
        pollster::block_on(self.0.inspect(caller, header, token))
    }

    /// See [`Vault::inspect_batch`].
    pub fn inspect_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<Token>,
    ) -> Result<Vec<Result<Inspected, Error>>, Error> {
        pollster::block_on(self.0.inspect_batch(caller, header, tokens))
    }

    /// See [`Vault::upgrade`].
    pub fn upgrade(&self, caller: Caller<'_>, header: &Header, token: Token) -> Result<UpgradedToken, Error> {
        pollster::block_on(self.0.upgrade(caller, header, token))
    }

    /// See [`Vault::upgrade_batch`].
    pub fn upgrade_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<Token>,
    ) -> Result<Vec<Result<UpgradedToken, Error>>, Error> {
        pollster::block_on(self.0.upgrade_batch(caller, header, tokens))
    }

    /// See [`Vault::revoke`].
    pub fn revoke(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        extent: Revocation,
    ) -> Result<RevokedToken, Error> {
        pollster::block_on(self.0.revoke(caller, header, token, extent))
    }

    /// See [`Vault::revoke_batch`].
    pub fn revoke_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<(Token, Revocation)>,
    ) -> Result<Vec<Result<RevokedToken, Error>>, Error> {
        pollster::block_on(self.0.revoke_batch(caller, header, tokens))
    }

    /// See [`Vault::disable`].
    pub fn disable(&self, caller: Caller<'_>, header: &Header, token: Token) -> Result<ChangedToken, Error> {
        pollster::block_on(self.0.disable(caller, header, token))
    }

    /// See [`Vault::disable_batch`].
    pub fn disable_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<Token>,
    ) -> Result<Vec<Result<ChangedToken, Error>>, Error> {
        pollster::block_on(self.0.disable_batch(caller, header, tokens))
    }

    /// See [`Vault::enable`].
    pub fn enable(&self, caller: Caller<'_>, header: &Header, token: Token) -> Result<ChangedToken, Error> {
        pollster::block_on(self.0.enable(caller, header, token))
    }

    /// See [`Vault::enable_batch`].
    pub fn enable_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<Token>,
    ) -> Result<Vec<Result<ChangedToken, Error>>, Error> {
        pollster::block_on(self.0.enable_batch(caller, header, tokens))
    }

    /// See [`Vault::update_attributes`].
    pub fn update_attributes(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        update: AttributesUpdate,
    ) -> Result<ChangedToken, Error> {
        pollster::block_on(self.0.update_attributes(caller, header, token, update))
    }

    /// See [`Vault::update_attributes_batch`].
    pub fn update_attributes_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        updates: Vec<(Token, AttributesUpdate)>,
    ) -> Result<Vec<Result<ChangedToken, Error>>, Error> {
        pollster::block_on(self.0.update_attributes_batch(caller, header, updates))
    }

    /// See [`Vault::close`].
    pub fn close(&self) -> Result<(), Error> {
        pollster::block_on(self.0.close())
    }

    /// The async vault behind it.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.0
    }
}
