//! Turns a request into a yes or a no.
//!
//! In two steps: [`Rules::admit`] looks at principal, channel and action, before any look-up; then a permit is given or
//! refused for one record (or one minting) under one version of Control. A yes is a [`Permit`], a no is a [`Denial`];
//! each is used up by one entry of the audit log. Default deny; deny beats allow.
//!
//! It reads no clock and no disk, so a decision can be replayed from its inputs alone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use crate::table::{
    Authority, Channel, ChannelKind, Effect, Format, MAX_POLICY, MAX_ROWS, Merchant, Operator, Policy,
    Principal, Recipient, Rule,
};

use crate::audit::entry::{Event, Minting, Outlet, RevokedOn, Who};
use crate::control::{Control, Lock, LockTarget};
use crate::error::Error;
use crate::hpke::PublicKey;
use crate::name::{ChannelName, DestinationName, FormatName, MerchantName, PrincipalName, RecipientName};
use crate::pan::{MAX_DIGITS, Pan};
use crate::record::{Card, ChannelId, FormatId, Grants, MerchantId, Spent, SubjectId};
use crate::time::Timestamp;
use crate::token::{Keep, TokenFormat};
use crate::words::{Action, Initiator, Kind, Purpose, RecordChange, Ref, Refusal, ReplaceReason, Show};

/// Rules are looked up by hash, so each is spread over what it names; a policy that would spread further is refused.
const MAX_SPREAD: usize = 4_000_000;

/// For how long the request that used up a single-use token may be answered again, in milliseconds: a lost answer is
/// asked for at once, or never.
pub const REREAD_MS: u64 = 60_000;

/// Who is at the door, before the policy has a name for them.
#[derive(Clone, Copy)]
pub enum Caller<'a> {
    /// The holder of a verified certificate: its authority's key (SHA-256 of `SubjectPublicKeyInfo`) and its one name.
    Certificate {
        /// The authority.
        authority: &'a [u8; 32],
        /// The certificate's one URI name, else its one DNS name.
        name: &'a str,
    },
    /// The program that embeds the vault, speaking as one of the principals without a certificate.
    Local(&'a PrincipalName),
    /// Nobody: an operator asks what the policy would say to this principal. Explained, never admitted.
    Named(&'a PrincipalName),
}

/// What is asked, as it came in. Merchant and channel may be left out by who is bound to exactly one.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Who asks.
    pub caller: Caller<'a>,
    /// For which merchant.
    pub merchant: Option<&'a MerchantName>,
    /// On which channel.
    pub channel: Option<&'a ChannelName>,
    /// What.
    pub action: Action,
    /// What for.
    pub purpose: Purpose,
    /// Who began the payment.
    pub initiator: Initiator,
    /// How much of the card number is wanted.
    pub show: Show,
}

/// What a request brings to one token, beside who asks for what.
#[derive(Clone, Copy)]
pub struct Presented {
    /// The least that must be shown.
    pub wanted: Show,
    /// Whose customer it is about; [`SubjectId::NONE`] if it names none.
    pub customer: SubjectId,
    /// The request's keyed hash: who asks, under which id, for what.
    pub request: [u8; 32],
    /// Whether it was answered before.
    pub again: bool,
    /// The version of the row from here on.
    pub version: u32,
    /// Of a card that the token stood for before: when it was replaced.
    pub earlier: Option<Timestamp>,
    /// Why another card takes the place of its card, if one does.
    pub replaced: Option<ReplaceReason>,
    /// What time it is.
    pub now: Timestamp,
}

/// The part of a request that a principal, a merchant and a channel make up: known to be in the policy.
#[derive(Clone)]
struct Subject {
    who: Who,
    merchant: Option<MerchantName>,
    channel: Option<ChannelName>,
}

/// A request that may go on to the look-up. It permits nothing yet.
#[derive(Clone)]
pub struct Admitted {
    subject: Subject,
    principal: PrincipalName,
    merchant: MerchantName,
    merchant_id: MerchantId,
    channel_id: ChannelId,
    typed: bool,
    action: Action,
    purpose: Purpose,
    initiator: Initiator,
    rules: Arc<[Grant]>,
    /// Whether the cards come from tokens: then who asks brings none, and guesses none.
    brought: bool,
    epoch: u64,
}

impl Admitted {
    /// Whose tokens.
    #[must_use]
    pub fn merchant(&self) -> &MerchantName {
        &self.merchant
    }

    /// Whose tokens, as row keys say it.
    #[must_use]
    pub fn merchant_id(&self) -> MerchantId {
        self.merchant_id
    }

    /// On which channel, as grants say it.
    #[must_use]
    pub fn channel_id(&self) -> ChannelId {
        self.channel_id
    }

    /// Who asks.
    #[must_use]
    pub fn principal(&self) -> &PrincipalName {
        &self.principal
    }

    /// Under which version of Control this was decided.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the answer may say that a token is new or was there before.
    #[must_use]
    pub fn tells_reuse(&self) -> bool {
        self.allowing().any(|g| g.tells_reuse)
    }

    /// Whether vaultless tokens may be made and opened for this purpose and on this channel.
    #[must_use]
    pub fn is_vaultless(&self) -> bool {
        !self.typed && self.allowing().any(|g| g.vaultless)
    }

    /// Whether the cards come in without a guess budget: by an import, or by a translation.
    #[must_use]
    pub fn is_import(&self) -> bool {
        self.brought || self.allowing().any(|g| g.import)
    }

    fn allowing(&self) -> impl Iterator<Item = &Grant> {
        self.rules.iter().filter(|g| g.effect == Effect::Allow && g.covers(self.purpose))
    }

    fn denying(&self) -> impl Iterator<Item = &Grant> {
        self.rules.iter().filter(|g| g.effect == Effect::Deny && g.covers(self.purpose))
    }

    /// The most that any rule for this purpose shows to who asks, or why none does.
    fn most_shown(&self) -> Result<Show, Refusal> {
        self.most_shown_to(None)
    }

    /// The same where it goes to somebody else.
    fn most_shown_to(&self, to: Option<&Outlet>) -> Result<Show, Refusal> {
        if self.denying().any(|g| !g.sealed_only) {
            return Err(Refusal::DeniedByRule);
        }
        let most = self.allowing().map(|g| g.shows(to)).max().ok_or(Refusal::WrongPurpose)?;
        let sealed_only = to.is_none() && self.denying().any(|g| g.sealed_only);
        // Who takes all cards elsewhere has none of them on the way.
        let leaves = self.purpose == Purpose::Export && !matches!(to, Some(Outlet::Recipient(_)));
        Ok(if sealed_only || leaves { most.min(Show::Masked) } else { most })
    }

    /// Whether a card number may go out in the clear at all where another rule would let it go sealed: asked before
    /// anything is looked up, since it depends on no token.
    pub fn may_show_clear(&self, record: Option<Ref>) -> Result<(), Denial> {
        let elsewhere = self.allowing().any(|g| g.show == Show::Full);
        match self.most_shown() {
            Ok(Show::Nothing | Show::LastFour | Show::Masked) if elsewhere => {
                Err(self.deny(Refusal::OutletNotAllowed, record))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Whether card numbers may go to this recipient or destination: asked before anything is looked up, since it depends on
    /// no token. Refused alike: one that is not registered, past its day, replaced, or named by no rule.
    pub fn way_to(
        &self,
        to: &Outlet,
        merchant: &MerchantInForce,
        now: Timestamp,
        record: Option<Ref>,
    ) -> Result<Way, Denial> {
        let deny = || self.deny(Refusal::OutletNotAllowed, record);
        let key = match to {
            Outlet::Recipient(name) => {
                let found = merchant.recipients.get(name).ok_or_else(deny)?;
                if found.replaced || now >= found.ends {
                    return Err(deny());
                }
                Some(found.key)
            }
            Outlet::Destination(_) => None,
        };
        match self.most_shown_to(Some(to)) {
            Ok(Show::Full) => Ok(Way { outlet: to.clone(), key }),
            Ok(Show::Nothing | Show::LastFour | Show::Masked) => Err(deny()),
            Err(why) => Err(self.deny(why, record)),
        }
    }

    /// A refusal of this request, about `record` if one was named.
    #[must_use]
    pub fn deny(&self, why: Refusal, record: Option<Ref>) -> Denial {
        Denial {
            subject: self.subject.clone(),
            action: self.action,
            purpose: Some(self.purpose),
            initiator: Some(self.initiator),
            record,
            why,
            lock: 0,
            epoch: self.epoch,
        }
    }

    /// Whether a token may be given out at all: asked before anything is looked up, since it depends on no token.
    pub fn may_tokenize(&self) -> Result<(), Denial> {
        self.most_shown().map(|_| ()).map_err(|why| self.deny(why, None))
    }

    /// Asks for a new or reused token to be given out. Depends on no token, so a wrong purpose is plainly denied.
    pub fn permit_token(
        &self,
        record: Ref,
        minting: Minting,
        version: u32,
        again: bool,
    ) -> Result<Permit, Denial> {
        self.most_shown().map_err(|why| self.deny(why, None))?;
        let (purpose, initiator) = (self.purpose, self.initiator);
        let event = Event::Tokenized { record, version, minting, purpose, initiator, redelivered: again };
        Ok(self.permit(record, Show::Nothing, event))
    }

    /// Asks to disclose, show or change one card. Every refusal here depends on the token. `way` is where its number goes,
    /// if not to who asks.
    pub fn permit_card(
        &self,
        card: &Card,
        presented: &Presented,
        way: Option<Way>,
    ) -> Result<Permit, Denial> {
        let record = card.row.record;
        let Presented { wanted, version, earlier, replaced, .. } = *presented;
        let deny = |why| Err(self.deny(why, Some(record)));
        let most = self.may_use(card, presented, way.as_ref())?;
        let spends = card.row.restrictions.single_use && wanted == Show::Full && earlier.is_none();
        let again = presented.again || card.row.standing.spent.is_some();
        let (purpose, initiator) = (self.purpose, self.initiator);
        let show = if self.action == Action::Inspect { most.min(Show::Masked) } else { wanted };
        let event = match self.action {
            Action::Detokenize => {
                let (spends, redelivered) = (spends && card.row.standing.spent.is_none(), again);
                match (way.as_ref().map(|w| w.outlet.clone()), earlier) {
                    (None, _) if spends => Event::Spent { record, version, purpose, initiator },
                    (None, None) => Event::Disclosed { record, purpose, initiator, show, redelivered },
                    (None, Some(replaced_at)) => {
                        Event::DisclosedEarlier { record, replaced_at, purpose, initiator, show, redelivered }
                    }
                    (Some(to), _) if spends => Event::SpentTo { record, version, purpose, initiator, to },
                    (Some(to), None) => Event::DisclosedTo { record, purpose, initiator, to, redelivered },
                    (Some(to), Some(replaced_at)) => {
                        Event::DisclosedEarlierTo { record, replaced_at, purpose, initiator, to, redelivered }
                    }
                }
            }
            Action::Inspect => Event::Inspected { record, show },
            Action::Revoke | Action::DeleteCard | Action::EraseSubject => {
                Event::Revoked { record, version, channels: RevokedOn::All }
            }
            Action::Disable => Event::Changed { record, version, change: RecordChange::Disabled },
            Action::Enable => Event::Changed { record, version, change: RecordChange::Enabled },
            Action::HoldCode => Event::CodeHeld { record },
            Action::ReadCode => Event::CodeRead { record, purpose, initiator },
            Action::CompleteAuthorization => Event::CodeDropped { record },
            Action::Replace => {
                let Some(reason) = replaced else { return deny(Refusal::ActionNotAllowed) };
                Event::Replaced { record, version, reason }
            }
            Action::UpdateAttributes => {
                Event::Changed { record, version, change: RecordChange::AttributesUpdated }
            }
            // Not of one token, or of two (permit_token() and permit_upgrade() are for those), or an operator's.
            Action::Tokenize
            | Action::Upgrade
            | Action::Fingerprint
            | Action::ListBySubject
            | Action::Translate
            | Action::RotateKey
            | Action::SetLock
            | Action::LiftLock
            | Action::ApplyPolicy
            | Action::ReadAudit
            | Action::ReadKeys
            | Action::ReadPolicy
            | Action::ReadLocks
            | Action::Connect
            | Action::Custody => return Err(self.deny(Refusal::ActionNotAllowed, Some(record))),
        };
        Ok(Permit { way, ..self.permit(record, show, event) })
    }

    /// Whether this token may be asked about at all here and now; the most that is shown of it.
    fn may_use(&self, card: &Card, presented: &Presented, way: Option<&Way>) -> Result<Show, Denial> {
        let deny = |why| Err(self.deny(why, Some(card.row.record)));
        if card.merchant != self.merchant_id {
            return deny(Refusal::Foreign);
        }
        let most = match self.most_shown_to(way.map(|w| &w.outlet)) {
            Ok(most) => most,
            Err(why) => return deny(why),
        };
        if card.is_revoked() {
            return deny(Refusal::Revoked);
        }
        // A customer is erased wherever its tokens work.
        if self.action != Action::EraseSubject && !card.row.grants.include(self.channel_id) {
            let taken_away = matches!(card.row.grants, Grants::AllBut(_));
            return deny(if taken_away { Refusal::Revoked } else { Refusal::Foreign });
        }
        if card.row.vaultless && !self.is_vaultless() {
            return deny(Refusal::VaultlessNotAllowed);
        }
        // An expired token may still be revoked: that is how its card number goes for good. So does its security code.
        let ends = matches!(
            self.action,
            Action::Revoke | Action::DeleteCard | Action::EraseSubject | Action::CompleteAuthorization
        );
        if card.is_expired(presented.now) && !ends {
            return deny(Refusal::Expired);
        }
        if let Some(why) = self.restricted(card, presented) {
            return deny(why);
        }
        if presented.wanted > most { deny(Refusal::ShowsTooMuch) } else { Ok(most) }
    }

    /// Why the token may not be used now for this, by its own restrictions and standing. They bind who uses the card; who
    /// looks after the token (ends it, enables it, updates what is known) is bound by the policy.
    fn restricted(&self, card: &Card, presented: &Presented) -> Option<Refusal> {
        let row = &card.row;
        match self.action {
            Action::Detokenize | Action::Inspect | Action::Upgrade | Action::HoldCode | Action::ReadCode => {}
            Action::CompleteAuthorization
            | Action::Tokenize
            | Action::Revoke
            | Action::Disable
            | Action::Enable
            | Action::UpdateAttributes
            | Action::Replace
            | Action::Fingerprint
            | Action::ListBySubject
            | Action::DeleteCard
            | Action::EraseSubject
            | Action::Translate
            | Action::RotateKey
            | Action::SetLock
            | Action::LiftLock
            | Action::ApplyPolicy
            | Action::ReadAudit
            | Action::ReadKeys
            | Action::ReadPolicy
            | Action::ReadLocks
            | Action::Connect
            | Action::Custody => return None,
        }
        // PCI DSS 3.3: a security code is for the authorization that its cardholder began, and for nothing else.
        let authorizes = self.purpose == Purpose::Authorization && self.initiator == Initiator::Cardholder;
        if self.action == Action::ReadCode && !authorizes {
            return Some(Refusal::WrongPurpose);
        }
        // A card that was replaced is there to undo what was done with it, not for new payments.
        if presented.earlier.is_some() && !matches!(self.purpose, Purpose::Refund | Purpose::Dispute) {
            return Some(Refusal::WrongPurpose);
        }
        if row.standing.disabled {
            return Some(Refusal::Disabled);
        }
        if !row.restrictions.purposes.include(self.purpose) {
            return Some(Refusal::WrongPurpose);
        }
        // Its one use is a payment: what leaves with the others may be asked for again, and would be gone then.
        if self.purpose == Purpose::Export && row.restrictions.single_use {
            return Some(Refusal::WrongPurpose);
        }
        if row.restrictions.bound_to_customer && row.subject != presented.customer {
            return Some(Refusal::WrongCustomer);
        }
        // A code is used once by itself, before or after the card.
        if matches!(self.action, Action::HoldCode | Action::ReadCode) {
            return None;
        }
        // A lost answer may be asked for again by the very request that spent the token, and by no other.
        let rereads = |spent: Spent| {
            let over = spent.at.plus_ms(REREAD_MS);
            self.action == Action::Detokenize && spent.by == presented.request && presented.now < over
        };
        row.standing.spent.filter(|spent| !rereads(*spent)).map(|_| Refusal::AlreadyUsed)
    }

    /// Asks to turn a vaultless token of an old slot into the current one: both have one record.
    pub fn permit_upgrade(&self, card: &Card, presented: &Presented) -> Result<Permit, Denial> {
        let (record, version) = (card.row.record, card.row.version);
        if self.action != Action::Upgrade {
            return Err(self.deny(Refusal::ActionNotAllowed, Some(record)));
        }
        self.may_use(card, presented, None)?;
        let event = Event::Upgraded { record, version, redelivered: presented.again };
        Ok(self.permit(record, Show::Nothing, event))
    }

    /// Asks to answer a retry of a revocation that was done: the caller has seen that the row says so.
    pub fn permit_revoked_again(&self, card: &Card, only: Option<ChannelName>) -> Result<Permit, Denial> {
        let record = card.row.record;
        if card.merchant != self.merchant_id {
            return Err(self.deny(Refusal::Unknown, Some(record)));
        }
        self.most_shown().map_err(|why| self.deny(why, Some(record)))?;
        let channels = only.map_or(RevokedOn::All, RevokedOn::One);
        let event = Event::Revoked { record, version: card.row.version, channels };
        Ok(self.permit(record, Show::Nothing, event))
    }

    /// Asks for what a card number alone is enough for: its public fingerprint, or a search by it.
    pub fn permit_fingerprint(&self) -> Result<Permit, Denial> {
        self.most_shown().map_err(|why| self.deny(why, None))?;
        let event = Event::Fingerprinted { purpose: self.purpose, initiator: self.initiator };
        Ok(self.permit(Ref([0; 16]), Show::Nothing, event))
    }

    /// Asks to list `cards` tokens of a customer, masked at most.
    pub fn permit_listing(&self, subject: SubjectId, cards: u32) -> Result<Permit, Denial> {
        let show = self.most_shown().map_err(|why| self.deny(why, None))?.min(Show::Masked);
        let subject = Ref(subject.0);
        Ok(self.permit(subject, show, Event::Listed { subject, cards, show }))
    }

    /// Asks to destroy a customer's secret, when all of its tokens have ended, `cards` of them by this request.
    pub fn permit_erasure(&self, subject: SubjectId, cards: u32) -> Result<Permit, Denial> {
        self.most_shown().map_err(|why| self.deny(why, None))?;
        let subject = Ref(subject.0);
        Ok(self.permit(subject, Show::Nothing, Event::Erased { subject, cards }))
    }

    fn permit(&self, record: Ref, show: Show, event: Event) -> Permit {
        Permit { subject: self.subject.clone(), record, show, event, epoch: self.epoch, way: None }
    }
}

/// Where a card number may go, other than to who asked. Only this module makes one, under one version of Control; the
/// permit that it becomes part of says so in the log.
pub struct Way {
    outlet: Outlet,
    key: Option<PublicKey>,
}

impl Way {
    /// To whom.
    #[must_use]
    pub fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    /// The public key that the card is to be sealed to; none where the vault itself sends it.
    #[must_use]
    pub fn key(&self) -> Option<&PublicKey> {
        self.key.as_ref()
    }
}

/// Proof of a yes, for one record under one version of Control. Only this module makes one; it is not Clone, and the
/// journal takes it by value.
pub struct Permit {
    subject: Subject,
    record: Ref,
    show: Show,
    event: Event,
    epoch: u64,
    way: Option<Way>,
}

impl Permit {
    /// Which record it is for.
    #[must_use]
    pub fn record(&self) -> Ref {
        self.record
    }

    /// The most that may be shown.
    #[must_use]
    pub fn show(&self) -> Show {
        self.show
    }

    /// Narrows a revocation to one channel: the log says so.
    #[must_use]
    pub(crate) fn on_channel(mut self, only: ChannelName) -> Self {
        if let Event::Revoked { channels, .. } = &mut self.event {
            *channels = RevokedOn::One(only);
        }
        self
    }

    /// Who asked.
    pub(crate) fn who(&self) -> &Who {
        &self.subject.who
    }

    /// What the log will say, and where the card may go if not to who asked, used up.
    pub(crate) fn into_statement(self) -> (Statement, Option<Way>) {
        let Subject { who, merchant, channel } = self.subject;
        (Statement { who, merchant, channel, event: self.event, epoch: self.epoch }, self.way)
    }
}

/// Proof of a no. The log gets the true reason; the caller gets [`Denial::error`].
pub struct Denial {
    subject: Subject,
    action: Action,
    purpose: Option<Purpose>,
    initiator: Option<Initiator>,
    record: Option<Ref>,
    why: Refusal,
    lock: u32,
    epoch: u64,
}

impl Denial {
    /// What the caller is told. All that depends on the token reads the same.
    #[must_use]
    pub fn error(&self) -> Error {
        match self.why {
            Refusal::UnlistedPrincipal
            | Refusal::CertificateNotValid
            | Refusal::ActionNotAllowed
            | Refusal::ChannelNotAllowed
            // Decided before the look-up, whatever record the log names.
            | Refusal::OutletNotAllowed => Error::Denied,
            // A tokenize has no token to depend on.
            Refusal::WrongPurpose
            | Refusal::DeniedByRule
            | Refusal::ShowsTooMuch
            | Refusal::VaultlessNotAllowed
                if self.record.is_none() =>
            {
                Error::Denied
            }
            Refusal::WrongPurpose
            | Refusal::DeniedByRule
            | Refusal::ShowsTooMuch
            | Refusal::VaultlessNotAllowed
            | Refusal::Unknown
            | Refusal::Expired
            | Refusal::Revoked
            | Refusal::Foreign
            | Refusal::AlreadyUsed
            | Refusal::WrongCustomer
            | Refusal::Disabled
            | Refusal::NotKept
            | Refusal::Shredded
            | Refusal::Erased => Error::NotFound,
            Refusal::Locked => Error::Locked { lockdown: self.lock },
            Refusal::BudgetSpent | Refusal::GuessBudgetSpent => Error::Budget { retry_after_ms: 0 },
            Refusal::SpaceExhausted => Error::SpaceExhausted,
            Refusal::CodeGone => Error::CodeGone,
            Refusal::IdempotencyMismatch => Error::IdempotencyMismatch,
            Refusal::Unreadable => Error::internal(),
            Refusal::Malformed => Error::malformed("request", "is malformed"),
        }
    }

    /// Who asked.
    pub(crate) fn who(&self) -> &Who {
        &self.subject.who
    }

    /// Why, as the log says it.
    #[must_use]
    pub fn why(&self) -> Refusal {
        self.why
    }

    /// What the log will say, used up.
    pub(crate) fn into_statement(self) -> Statement {
        let Self { subject, action, purpose, initiator, record, why, lock: _, epoch } = self;
        let event = Event::Refused { action, record, why, purpose, initiator };
        Statement { who: subject.who, merchant: subject.merchant, channel: subject.channel, event, epoch }
    }
}

/// An audit entry before the journal gives it its time and place.
pub struct Statement {
    /// Who asked.
    pub(crate) who: Who,
    /// For which merchant, once known to be one.
    pub(crate) merchant: Option<MerchantName>,
    /// On which channel, once known to be one.
    pub(crate) channel: Option<ChannelName>,
    /// What happened.
    pub(crate) event: Event,
    /// Under which version of Control it was decided.
    pub(crate) epoch: u64,
}

/// One rule, as far as it concerns one principal, channel and action.
#[derive(Clone)]
#[allow(clippy::struct_excessive_bools, reason = "the rule's own keys")]
struct Grant {
    rule: usize,
    effect: Effect,
    purposes: Vec<Purpose>,
    show: Show,
    tells_reuse: bool,
    import: bool,
    sealed_only: bool,
    recipients: Vec<RecipientName>,
    destinations: Vec<DestinationName>,
    vaultless: bool,
}

impl Grant {
    /// The most that it shows to who asks, or to somebody else.
    fn shows(&self, to: Option<&Outlet>) -> Show {
        let whole = match to {
            None => !self.sealed_only,
            Some(Outlet::Recipient(name)) => self.recipients.is_empty() || self.recipients.contains(name),
            Some(Outlet::Destination(name)) => self.destinations.contains(name),
        };
        if whole { self.show } else { self.show.min(Show::Masked) }
    }

    /// To leave with the cards is a right of its own: a rule that allows a thing for every purpose does not give it.
    fn covers(&self, purpose: Purpose) -> bool {
        let every = self.purposes.is_empty() && (self.effect == Effect::Deny || purpose != Purpose::Export);
        every || self.purposes.contains(&purpose)
    }
}

/// A token format in force.
pub struct FormatInForce {
    /// Its number in rows.
    pub id: FormatId,
    /// Its name.
    pub name: FormatName,
    /// How it makes tokens.
    pub format: TokenFormat,
}

/// A channel in force.
struct ChannelInForce {
    id: ChannelId,
    /// The format of each kind of value that is taken here.
    formats: HashMap<Kind, FormatName>,
}

/// A merchant in force.
pub struct MerchantInForce {
    /// Its number in row keys.
    pub id: MerchantId,
    /// Its name.
    pub name: MerchantName,
    /// 0 or 5.
    pub ff1_slots: u8,
    masks: HashMap<usize, Keep>,
    channels: HashMap<ChannelName, ChannelInForce>,
    typed: HashSet<ChannelId>,
    formats: HashMap<FormatName, Arc<FormatInForce>>,
    recipients: HashMap<RecipientName, RecipientInForce>,
}

/// A recipient in force.
struct RecipientInForce {
    key: PublicKey,
    ends: Timestamp,
    replaced: bool,
}

impl MerchantInForce {
    /// What a mask shows of a card number of `length` digits.
    #[must_use]
    pub fn mask(&self, length: usize) -> Keep {
        self.masks.get(&length).copied().unwrap_or_else(|| Keep::default_for(length))
    }

    /// Whether people type tokens on this channel.
    #[must_use]
    pub fn is_typed(&self, channel: ChannelId) -> bool {
        self.typed.contains(&channel)
    }

    /// The number of a channel.
    #[must_use]
    pub fn channel(&self, name: &ChannelName) -> Option<ChannelId> {
        self.channels.get(name).map(|channel| channel.id)
    }

    /// The name of a channel's number.
    #[must_use]
    pub fn channel_name(&self, id: ChannelId) -> Option<&ChannelName> {
        self.channels.iter().find(|(_, channel)| channel.id == id).map(|(name, _)| name)
    }

    /// The format of that name for values of this kind, or the channel's own. `None`: there is none, or the channel takes
    /// no such values.
    #[must_use]
    pub fn format(
        &self,
        kind: Kind,
        name: Option<&FormatName>,
        channel: &ChannelName,
    ) -> Option<&Arc<FormatInForce>> {
        let own = self.channels.get(channel)?.formats.get(&kind)?;
        self.formats.get(name.unwrap_or(own)).filter(|format| format.format.kind() == kind)
    }

    /// The format of that name.
    #[must_use]
    pub fn format_by_name(&self, name: &FormatName) -> Option<&Arc<FormatInForce>> {
        self.formats.get(name)
    }

    /// Whether a card number is one of the tokens that this merchant's formats make inside prefixes that nobody issues.
    #[must_use]
    pub fn is_own_token(&self, pan: &Pan) -> bool {
        self.formats.values().filter_map(|f| f.format.luhn_prefix()).any(|prefix| prefix.holds(pan))
    }

    /// The names of the channels that a grant includes, in the alphabet's order.
    #[must_use]
    pub fn granted(&self, grants: &crate::record::Grants) -> Vec<ChannelName> {
        let included = self.channels.iter().filter(|(_, channel)| grants.include(channel.id));
        let mut names: Vec<ChannelName> = included.map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Every format.
    pub fn formats(&self) -> impl Iterator<Item = &Arc<FormatInForce>> {
        self.formats.values()
    }

    /// The scheme of a format's number, if the format is still in the policy.
    #[must_use]
    pub fn format_by_id(&self, id: FormatId) -> Option<&Arc<FormatInForce>> {
        self.formats.values().find(|f| f.id == id)
    }
}

/// Why a decision came out as it did, for `policy explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it is allowed, as far as it does not depend on a token.
    pub allowed: bool,
    /// If not: why, as the log would say it.
    pub why: Option<Refusal>,
    /// The rules that match principal, channel, action and purpose, in the policy's order; whether each denies.
    pub rules: Vec<(String, bool)>,
    /// The most that is shown.
    pub show: Show,
}

/// A policy in force: Control's tables, spread so that a decision is a few look-ups by hash.
pub struct Rules {
    epoch: u64,
    certificates: HashMap<([u8; 32], String), usize>,
    operators: HashMap<([u8; 32], String), PrincipalName>,
    principals: Vec<PrincipalInForce>,
    by_name: HashMap<PrincipalName, usize>,
    merchants: HashMap<MerchantName, Arc<MerchantInForce>>,
    grants: HashMap<(usize, MerchantId, ChannelId, Action), Arc<[Grant]>>,
    locks: Vec<Lock>,
    rule_names: Vec<String>,
}

struct PrincipalInForce {
    name: PrincipalName,
    merchant: MerchantName,
    channel: Option<ChannelName>,
    local: bool,
}

impl Rules {
    /// Spreads Control's policy. Fails on what [`Policy::check`] would refuse.
    pub fn of(control: &Control) -> Result<Self, Error> {
        let policy = &control.policy;
        policy.check()?;
        let mut merchants = HashMap::new();
        for merchant in &policy.merchants {
            merchants.insert(merchant.id.clone(), Arc::new(in_force(control, merchant)?));
        }
        let authority = |name: &crate::name::AuthorityName| -> Result<[u8; 32], Error> {
            let found = policy.authorities.iter().find(|a| a.id == *name).ok_or_else(Error::internal)?;
            let bytes =
                data_encoding::HEXLOWER.decode(found.sha256.as_bytes()).map_err(|_| Error::internal())?;
            bytes.try_into().map_err(|_| Error::internal())
        };
        let mut rules = Self {
            epoch: control.version,
            certificates: HashMap::new(),
            operators: HashMap::new(),
            principals: Vec::with_capacity(policy.principals.len()),
            by_name: HashMap::new(),
            merchants,
            grants: HashMap::new(),
            locks: control.locks.iter().filter(|l| l.lifted.is_none()).cloned().collect(),
            rule_names: policy.rules.iter().map(|r| r.id.to_string()).collect(),
        };
        for (index, principal) in policy.principals.iter().enumerate() {
            if let (Some(by), Some(name)) = (&principal.authority, &principal.name) {
                rules.certificates.insert((authority(by)?, name.clone()), index);
            }
            rules.by_name.insert(principal.id.clone(), index);
            rules.principals.push(PrincipalInForce {
                name: principal.id.clone(),
                merchant: principal.merchant.clone(),
                channel: principal.channel.clone(),
                local: principal.authority.is_none(),
            });
        }
        for operator in &policy.operators {
            rules
                .operators
                .insert((authority(&operator.authority)?, operator.name.clone()), operator.id.clone());
        }
        rules.spread(policy)?;
        Ok(rules)
    }

    fn spread(&mut self, policy: &Policy) -> Result<(), Error> {
        let mut grants: HashMap<_, Vec<Grant>> = HashMap::new();
        let mut size = 0_usize;
        for (index, rule) in policy.rules.iter().enumerate() {
            let Some(merchant) = self.merchants.get(&rule.merchant) else { continue };
            let named = |id: &ChannelName| rule.channels.is_empty() || rule.channels.contains(id);
            let channels: Vec<ChannelId> =
                merchant.channels.iter().filter(|(id, _)| named(id)).map(|(_, channel)| channel.id).collect();
            // A rule of translations names whom it means, of whichever merchant.
            let translates = rule.actions.as_slice() == [Action::Translate];
            let mine = |p: &&PrincipalInForce| {
                let named = rule.principals.contains(&p.name);
                if translates {
                    named
                } else {
                    p.merchant == rule.merchant && (rule.principals.is_empty() || named)
                }
            };
            let principals: Vec<usize> = self
                .principals
                .iter()
                .filter(mine)
                .filter_map(|p| self.by_name.get(&p.name).copied())
                .collect();
            size = size.saturating_add(channels.len() * principals.len() * rule.actions.len());
            if size > MAX_SPREAD {
                return Err(Error::Config(format!(
                    "policy: its rules spread over more than {MAX_SPREAD} cases"
                )));
            }
            for &principal in &principals {
                for &channel in &channels {
                    for &action in &rule.actions {
                        grants.entry((principal, merchant.id, channel, action)).or_default().push(Grant {
                            rule: index,
                            effect: rule.effect,
                            purposes: rule.purposes.clone(),
                            show: rule.show,
                            tells_reuse: rule.tells_reuse,
                            import: rule.import,
                            sealed_only: rule.sealed_only,
                            recipients: rule.recipients.clone(),
                            destinations: rule.destinations.clone(),
                            vaultless: rule.vaultless,
                        });
                    }
                }
            }
        }
        self.grants = grants.into_iter().map(|(key, list)| (key, list.into())).collect();
        Ok(())
    }

    /// The version of Control that these are.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The merchant of that name.
    #[must_use]
    pub fn merchant(&self, name: &MerchantName) -> Option<&Arc<MerchantInForce>> {
        self.merchants.get(name)
    }

    /// Every merchant.
    pub fn merchants(&self) -> impl Iterator<Item = &Arc<MerchantInForce>> {
        self.merchants.values()
    }

    /// Whether this caller is a principal at all: who is not gets no further than the door.
    #[must_use]
    pub fn knows(&self, caller: Caller<'_>) -> bool {
        self.principal(caller).is_some()
    }

    /// A refusal of somebody who asked before being admitted to anything.
    #[must_use]
    pub fn stranger(&self, caller: Caller<'_>) -> Denial {
        let subject = Subject { who: unlisted(caller), merchant: None, channel: None };
        let why = Refusal::UnlistedPrincipal;
        let action = Action::Connect;
        Denial {
            subject,
            action,
            purpose: None,
            initiator: None,
            record: None,
            why,
            lock: 0,
            epoch: self.epoch,
        }
    }

    /// Who a caller is, for whom it acts, and the one channel it is bound to if it is bound to one.
    #[must_use]
    pub fn who_is(&self, caller: Caller<'_>) -> Option<(PrincipalName, MerchantName, Option<ChannelName>)> {
        self.principal(caller).map(|(_, p)| (p.name.clone(), p.merchant.clone(), p.channel.clone()))
    }

    /// The operator that a certificate names.
    #[must_use]
    pub fn operator(&self, authority: &[u8; 32], name: &str) -> Option<&PrincipalName> {
        self.operators.get(&(*authority, name.to_owned()))
    }

    fn principal(&self, caller: Caller<'_>) -> Option<(usize, &PrincipalInForce)> {
        let index = match caller {
            Caller::Certificate { authority, name } => self.certificates.get(&(*authority, name.to_owned())),
            Caller::Local(name) | Caller::Named(name) => self.by_name.get(name),
        };
        let index = *index?;
        let principal = self.principals.get(index)?;
        let comes_right = match caller {
            Caller::Certificate { .. } => !principal.local,
            Caller::Local(_) => principal.local,
            Caller::Named(_) => true,
        };
        comes_right.then_some((index, principal))
    }

    /// The first step: principal, merchant, channel and action, before any look-up.
    pub fn admit(&self, asked: &Asked<'_>) -> Result<Admitted, Denial> {
        // An operator's question is answered by explain(); it never becomes an admission.
        if let Caller::Named(name) = asked.caller {
            return self.decide(
                &Asked { caller: Caller::Certificate { authority: &[0; 32], name: name.as_str() }, ..*asked },
                false,
            );
        }
        self.decide(asked, false)
    }

    /// The first step for cards that come from tokens, into the caller's own merchant (by the right to tokenize) or into
    /// another one (by its rule that lets the caller translate).
    pub fn admit_brought(&self, asked: &Asked<'_>) -> Result<Admitted, Denial> {
        self.decide(asked, true)
    }

    fn decide(&self, asked: &Asked<'_>, brought: bool) -> Result<Admitted, Denial> {
        let mut subject = Subject { who: unlisted(asked.caller), merchant: None, channel: None };
        let deny = |subject: &Subject, why: Refusal, lock: u32| Denial {
            subject: subject.clone(),
            action: asked.action,
            purpose: Some(asked.purpose),
            initiator: Some(asked.initiator),
            record: None,
            why,
            lock,
            epoch: self.epoch,
        };
        let Some((index, principal)) = self.principal(asked.caller) else {
            return Err(deny(&subject, Refusal::UnlistedPrincipal, 0));
        };
        subject.who = Who::Listed(principal.name.clone());
        let merchant = match asked.merchant {
            Some(named) if brought => self.merchants.get(named),
            Some(named) if *named != principal.merchant => {
                return Err(deny(&subject, Refusal::ChannelNotAllowed, 0));
            }
            _ => self.merchants.get(&principal.merchant),
        };
        let Some(merchant) = merchant else { return Err(deny(&subject, Refusal::ChannelNotAllowed, 0)) };
        subject.merchant = Some(merchant.name.clone());
        let channel = match (asked.channel, &principal.channel) {
            // Which channel a principal is bound to says nothing of another merchant's: its rule does.
            (Some(named), _) if merchant.name != principal.merchant => Some(named),
            (Some(named), Some(bound)) if named != bound => None,
            (Some(named), _) => Some(named),
            (None, Some(bound)) => Some(bound),
            (None, None) => None,
        };
        let Some((channel, channel_id)) = channel.and_then(|name| Some((name, merchant.channel(name)?)))
        else {
            return Err(deny(&subject, Refusal::ChannelNotAllowed, 0));
        };
        subject.channel = Some(channel.clone());
        if let Some(lock) = self.lock_on(&principal.name, &merchant.name, channel) {
            return Err(deny(&subject, Refusal::Locked, lock));
        }
        let abroad = merchant.name != principal.merchant;
        let action = if abroad { Action::Translate } else { asked.action };
        let Some(rules) = self.grants.get(&(index, merchant.id, channel_id, action)) else {
            return Err(deny(&subject, Refusal::ActionNotAllowed, 0));
        };
        if rules.iter().any(|g| g.effect == Effect::Deny && g.purposes.is_empty() && !g.sealed_only) {
            return Err(deny(&subject, Refusal::DeniedByRule, 0));
        }
        if !rules.iter().any(|g| g.effect == Effect::Allow && g.show >= asked.show) {
            return Err(deny(&subject, Refusal::ActionNotAllowed, 0));
        }
        // Depends on no token, so who has not this right is told so at once, for the whole request.
        let exports = |g: &Grant| g.effect == Effect::Allow && g.covers(Purpose::Export);
        if asked.purpose == Purpose::Export && !rules.iter().any(exports) {
            return Err(deny(&subject, Refusal::WrongPurpose, 0));
        }
        Ok(Admitted {
            subject,
            principal: principal.name.clone(),
            merchant: merchant.name.clone(),
            merchant_id: merchant.id,
            typed: merchant.is_typed(channel_id),
            channel_id,
            action: asked.action,
            purpose: asked.purpose,
            initiator: asked.initiator,
            rules: rules.clone(),
            brought,
            epoch: self.epoch,
        })
    }

    /// Where a caller may bring cards: whoever may tokenize there may seal them. Says nothing of purposes, since no card is
    /// brought yet.
    pub fn may_seal(
        &self,
        caller: Caller<'_>,
        merchant: Option<&MerchantName>,
        channel: Option<&ChannelName>,
    ) -> Result<(Arc<MerchantInForce>, ChannelName), Denial> {
        let asked = Asked {
            caller,
            merchant,
            channel,
            action: Action::Tokenize,
            purpose: Purpose::Authorization,
            initiator: Initiator::Cardholder,
            show: Show::Nothing,
        };
        let denied = |denial: Denial| Denial { purpose: None, initiator: None, ..denial };
        let admitted = self.admit(&asked).map_err(denied)?;
        let merchant = self.merchants.get(&admitted.merchant);
        let place = merchant.and_then(|m| Some((m.clone(), m.channel_name(admitted.channel_id)?.clone())));
        place.ok_or_else(|| denied(admitted.deny(Refusal::ChannelNotAllowed, None)))
    }

    /// What the policy would say, and by which rules.
    #[must_use]
    pub fn explain(&self, asked: &Asked<'_>) -> Explanation {
        self.explain_to(asked, None)
    }

    /// The same for a card that is to go to somebody else at `now`.
    #[must_use]
    pub fn explain_to(&self, asked: &Asked<'_>, to: Option<(&Outlet, Timestamp)>) -> Explanation {
        let name = |g: &Grant| Some((self.rule_names.get(g.rule)?.clone(), g.effect == Effect::Deny));
        match self.decide(asked, false) {
            Err(denial) => {
                Explanation { allowed: false, why: Some(denial.why), rules: Vec::new(), show: Show::Nothing }
            }
            Ok(admitted) => {
                let most = match to {
                    None => admitted.most_shown(),
                    Some((to, now)) => self
                        .merchants
                        .get(&admitted.merchant)
                        .ok_or(Refusal::ChannelNotAllowed)
                        .and_then(|m| admitted.way_to(to, m, now, None).map_err(|denial| denial.why))
                        .map(|_| Show::Full),
                };
                let matching = admitted.rules.iter().filter(|g| g.covers(asked.purpose));
                let why = match most {
                    Err(why) => Some(why),
                    Ok(most) if most < asked.show => Some(Refusal::ShowsTooMuch),
                    Ok(_) => None,
                };
                Explanation {
                    allowed: why.is_none(),
                    why,
                    rules: matching.filter_map(name).collect(),
                    show: most.unwrap_or(Show::Nothing),
                }
            }
        }
    }

    fn lock_on(
        &self,
        principal: &PrincipalName,
        merchant: &MerchantName,
        channel: &ChannelName,
    ) -> Option<u32> {
        let on = |target: &LockTarget| match target {
            LockTarget::Merchant { merchant: m } => m == merchant,
            LockTarget::Channel { merchant: m, channel: c } => m == merchant && c == channel,
            LockTarget::Principal { principal: p } => p == principal,
        };
        self.locks.iter().find(|lock| on(&lock.target)).map(|lock| lock.id)
    }
}

/// How the log names who is not in the policy: by a hash, since a stranger chooses the text.
fn unlisted(caller: Caller<'_>) -> Who {
    match caller {
        Caller::Certificate { authority, name } => Who::unlisted(authority, name.as_bytes()),
        Caller::Local(name) | Caller::Named(name) => Who::unlisted(b"", name.as_str().as_bytes()),
    }
}

fn in_force(control: &Control, merchant: &Merchant) -> Result<MerchantInForce, Error> {
    let numbers = control.numbers.get(&merchant.id).ok_or_else(Error::internal)?;
    let mut formats = HashMap::new();
    for row in &merchant.formats {
        let id = numbers.formats.get(&row.id).ok_or_else(Error::internal)?.id;
        let format = row.build().map_err(Error::Config)?;
        formats.insert(row.id.clone(), Arc::new(FormatInForce { id, name: row.id.clone(), format }));
    }
    let mut channels = HashMap::new();
    for row in &merchant.channels {
        let id = *numbers.channels.get(&row.id).ok_or_else(Error::internal)?;
        let named = std::iter::once(&row.format).chain(&row.formats);
        let of_kind = |name: &FormatName| {
            let format: Option<&Arc<FormatInForce>> = formats.get(name);
            format.map(|format| (format.format.kind(), name.clone()))
        };
        let formats = named.filter_map(of_kind).collect();
        channels.insert(row.id.clone(), ChannelInForce { id, formats });
    }
    let mut recipients = HashMap::new();
    for row in &merchant.recipients {
        let (key, ends) = row.public_key().zip(row.ends()).ok_or_else(Error::internal)?;
        let found = RecipientInForce { key, ends, replaced: row.replaced_by.is_some() };
        recipients.insert(row.id.clone(), found);
    }
    let typed = merchant.channels.iter().filter(|row| row.kind.is_typed());
    let typed = typed.filter_map(|row| numbers.channels.get(&row.id).copied()).collect();
    let masks = (12..=MAX_DIGITS)
        .map(|n| Ok((n, merchant.mask_keep(n)?)))
        .collect::<Result<HashMap<_, _>, Error>>()?;
    Ok(MerchantInForce {
        id: numbers.id,
        name: merchant.id.clone(),
        ff1_slots: merchant.ff1_slots,
        masks,
        channels,
        typed,
        formats,
        recipients,
    })
}
