//! The verbs for programs without async: each call waits on its own thread.

use super::codes::{CodeTicket, SecurityCode};
use super::request::{
    AttributesUpdate, Brought, CardToDelete, ChangedToken, CodeHeld, CodeRead, Completed, Deleted,
    Detokenized, Erased, Fingerprinted, GivenCard, Header, Inspected, Listed, NewCard, Replaced, Replacement,
    Reveal, Revocation, RevokedToken, SealingKey, Tokenized, Translation, UpgradedToken, Wanted,
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

    /// See [`Vault::detokenize_wanted`].
    pub fn detokenize_wanted(
        &self,
        caller: Caller<'_>,
        header: &Header,
        wanted: Vec<Wanted>,
    ) -> Result<Vec<Result<Detokenized, Error>>, Error> {
        pollster::block_on(self.0.detokenize_wanted(caller, header, wanted))
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

    /// See [`Vault::replace`].
    pub fn replace(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        replacement: Replacement,
    ) -> Result<Replaced, Error> {
        pollster::block_on(self.0.replace(caller, header, token, replacement))
    }

    /// See [`Vault::replace_batch`].
    pub fn replace_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        replacements: Vec<(Token, Replacement)>,
    ) -> Result<Vec<Result<Replaced, Error>>, Error> {
        pollster::block_on(self.0.replace_batch(caller, header, replacements))
    }

    /// See [`Vault::fingerprint`].
    pub fn fingerprint(
        &self,
        caller: Caller<'_>,
        header: &Header,
        card: GivenCard,
    ) -> Result<Fingerprinted, Error> {
        pollster::block_on(self.0.fingerprint(caller, header, card))
    }

    /// See [`Vault::fingerprint_batch`].
    pub fn fingerprint_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        cards: Vec<GivenCard>,
    ) -> Result<Vec<Result<Fingerprinted, Error>>, Error> {
        pollster::block_on(self.0.fingerprint_batch(caller, header, cards))
    }

    /// See [`Vault::delete_card`].
    pub fn delete_card(
        &self,
        caller: Caller<'_>,
        header: &Header,
        card: CardToDelete,
    ) -> Result<Deleted, Error> {
        pollster::block_on(self.0.delete_card(caller, header, card))
    }

    /// See [`Vault::delete_card_batch`].
    pub fn delete_card_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        cards: Vec<CardToDelete>,
    ) -> Result<Vec<Result<Deleted, Error>>, Error> {
        pollster::block_on(self.0.delete_card_batch(caller, header, cards))
    }

    /// See [`Vault::list_by_subject`].
    pub fn list_by_subject(
        &self,
        caller: Caller<'_>,
        header: &Header,
        from: usize,
        most: usize,
    ) -> Result<Listed, Error> {
        pollster::block_on(self.0.list_by_subject(caller, header, from, most))
    }

    /// See [`Vault::erase_subject`].
    pub fn erase_subject(&self, caller: Caller<'_>, header: &Header) -> Result<Erased, Error> {
        pollster::block_on(self.0.erase_subject(caller, header))
    }

    /// See [`Vault::translate`].
    pub fn translate(
        &self,
        caller: Caller<'_>,
        header: &Header,
        translation: Translation,
    ) -> Result<Tokenized, Error> {
        pollster::block_on(self.0.translate(caller, header, translation))
    }

    /// See [`Vault::translate_batch`].
    pub fn translate_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        translations: Vec<Translation>,
    ) -> Result<Vec<Result<Tokenized, Error>>, Error> {
        pollster::block_on(self.0.translate_batch(caller, header, translations))
    }

    /// See [`Vault::hold_code`].
    pub fn hold_code(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        code: SecurityCode,
    ) -> Result<CodeHeld, Error> {
        pollster::block_on(self.0.hold_code(caller, header, token, code))
    }

    /// See [`Vault::read_code`].
    pub fn read_code(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        ticket: CodeTicket,
    ) -> Result<CodeRead, Error> {
        pollster::block_on(self.0.read_code(caller, header, token, ticket))
    }

    /// See [`Vault::complete_authorization`].
    pub fn complete_authorization(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        ticket: CodeTicket,
    ) -> Result<Completed, Error> {
        pollster::block_on(self.0.complete_authorization(caller, header, token, ticket))
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
