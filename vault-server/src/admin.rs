//! `vault.v1.Admin` over the core, on a listener and under authorities of its own. Each call is an operator's: it is
//! named in the log, readings too.

mod keys;

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use ring::digest::{self, Digest};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use vault_core::audit::entry::{AuditEntry, ControlChange, Event, Outlet, Who};
use vault_core::audit::receipt::Receipt;
use vault_core::control::{Lock, LockTarget};
use vault_core::custody::Custodian;
use vault_core::envelope::{KeyId, KeyKind};
use vault_core::error::Error;
use vault_core::iban::Country;
use vault_core::name::{ChannelName, FormatName, MerchantName, PrincipalName, RecipientName};
use vault_core::plan::Kept;
use vault_core::policy::{Asked, Caller, MAX_POLICY, Policy};
use vault_core::time::{Clock, Timestamp};
use vault_core::token::Token;
use vault_core::vault::{
    self, ERASURE_DELAY_HOURS, KeyLine, KnownSpace, MAX_BATCH, MAX_ENTRIES, RequestId, SpaceState, Vault,
};
use vault_core::words::{Action, Initiator, KeyState, LockReason, Purpose, RecordChange, Ref, Show};
use vault_proto::status::{Failure, Reason};
use vault_proto::v1;

use crate::custodian::{Named, in_custody, wrong};
use crate::failure::status;
use crate::identity::PeerCertificate;
use crate::metrics::{Door, Metrics};
use crate::shutdown::Shutdown;
use crate::tls::Tls;
use crate::wire;

/// How long a change of custody waits for customers who are moving to a new erasure key, before it is refused.
const MOVES_WAIT: Duration = Duration::from_secs(5);

/// How often it is looked whether they have moved.
const MOVES_LOOK: Duration = Duration::from_millis(50);

/// How many rows a page has where the request does not say.
const PAGE: usize = 100;

/// How many answers to changes are kept for a retry in this process: operators are few.
const KEPT_ANSWERS: usize = 100;

/// How many verifications of the log may run at once: each walks all of it.
const WALKS: usize = 2;

/// The operators' plane.
#[derive(Clone)]
pub struct AdminService {
    vault: Vault,
    custodians: Named,
    started_at: Timestamp,
    clock: Arc<dyn Clock>,
    doors: Vec<(&'static str, Arc<Tls>)>,
    walking: Arc<tokio::sync::Semaphore>,
    ending: Option<Shutdown>,
    metrics: Arc<Metrics>,
    answers: Arc<Mutex<Answers>>,
}

type Name = (PrincipalName, RequestId);

/// Answers to changes, kept for a retry. They do not outlive the process: then `expected_epoch` keeps a change from
/// being made twice.
#[derive(Default)]
struct Answers {
    kept: HashMap<Name, Answer>,
    order: std::collections::VecDeque<Name>,
}

/// The SHA-256 of what was asked, and what was answered; none as long as it is not done, which whoever does it holds locked.
/// What was asked is not kept: it may hold a card number where none belongs (a comment in a policy), and a policy may have
/// four megabytes.
type Answer = Arc<tokio::sync::Mutex<Option<(Digest, Vec<u8>)>>>;

impl Answers {
    /// The answer of this name, which may be one that nobody gave yet.
    fn of(&mut self, name: Name) -> Answer {
        if let Some(answer) = self.kept.get(&name) {
            return answer.clone();
        }
        // One that somebody waits for is not forgotten.
        let over = self.order.len() >= KEPT_ANSWERS;
        let idle = |name: &Name| self.kept.get(name).is_none_or(|answer| Arc::strong_count(answer) == 1);
        let oldest = over.then(|| self.order.iter().position(idle)).flatten();
        if let Some(name) = oldest.and_then(|at| self.order.remove(at)) {
            self.kept.remove(&name);
        }
        let answer = Answer::default();
        self.order.push_back(name.clone());
        self.kept.insert(name, answer.clone());
        answer
    }
}

/// Why an operator's request is refused: as the core says, or because what it names is not there.
enum Refused {
    By(Error),
    NotFound(&'static str),
}

impl From<Error> for Refused {
    fn from(e: Error) -> Self {
        Self::By(e)
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::By(e) => status(&e),
            Refused::NotFound(what) => Failure::new(Reason::NotFound, what).into(),
        }
    }
}

impl AdminService {
    /// Administers `vault`; `doors` are the listeners whose certificates the status tells of; `custodians` are asked
    /// when the root rotates or changes hands.
    #[must_use]
    pub fn new(
        vault: Vault,
        clock: Arc<dyn Clock>,
        doors: Vec<(&'static str, Arc<Tls>)>,
        metrics: Arc<Metrics>,
        custodians: Named,
    ) -> Self {
        let started_at = clock.now();
        Self {
            custodians,
            vault,
            started_at,
            clock,
            doors,
            walking: Arc::new(tokio::sync::Semaphore::new(WALKS)),
            ending: None,
            metrics,
            answers: Arc::default(),
        }
    }

    /// Ends what takes long when the vault is closed: it holds its keys.
    #[must_use]
    pub fn ending(self, ending: Shutdown) -> Self {
        Self { ending: Some(ending), ..self }
    }

    async fn operator<T>(&self, request: &Request<T>, action: Action) -> Result<PrincipalName, Status> {
        let peer = request.extensions().get::<Arc<PeerCertificate>>();
        let peer = peer.ok_or_else(|| Status::unauthenticated("a client certificate is required"))?;
        let operator = self.vault.operator_at(&peer.authority_key.0, peer.name.as_str(), action).await;
        operator.map_err(|e| status(&e))
    }

    /// An operator, without a word in the log.
    fn listed<T>(&self, request: &Request<T>) -> Result<PrincipalName, Status> {
        let peer = request.extensions().get::<Arc<PeerCertificate>>();
        let peer = peer.ok_or_else(|| Status::unauthenticated("a client certificate is required"))?;
        let operator = self.vault.operator(&peer.authority_key.0, peer.name.as_str());
        operator.ok_or_else(|| status(&Error::Denied))
    }

    /// A reading: who may not is refused, who may is in the log.
    async fn reads<T>(&self, request: &Request<T>, action: Action) -> Result<PrincipalName, Status> {
        let operator = self.operator(request, action).await?;
        self.vault.consulted(&operator, action).await.map_err(|e| status(&e))?;
        Ok(operator)
    }

    /// Makes a change once: a retry with the same id and body gets the answer that was given, another body is refused.
    /// A retry waits for the first to be done; a lock waits for nobody's change.
    async fn once<A, F>(
        &self,
        operator: &PrincipalName,
        header: Option<&v1::ChangeHeader>,
        body: &impl Message,
        change: impl FnOnce() -> F,
    ) -> Result<Response<A>, Status>
    where
        A: Message + Default,
        F: Future<Output = Result<A, Refused>>,
    {
        let header = header.ok_or_else(|| status(&Error::malformed("header", "is required")))?;
        let id = RequestId::parse(&header.request_id).map_err(|e| status(&e))?;
        let name = (operator.clone(), id);
        let answer = self.answers.lock().unwrap_or_else(PoisonError::into_inner).of(name);
        let mut answer = answer.lock().await;
        let body = digest::digest(&digest::SHA256, &body.encode_to_vec());
        if let Some((asked, bytes)) = answer.as_ref() {
            if asked.as_ref() != body.as_ref() {
                return Err(status(&Error::IdempotencyMismatch));
            }
            return A::decode(bytes.as_slice()).map(Response::new).map_err(|_| status(&Error::internal()));
        }
        let made = change().await?;
        *answer = Some((body, made.encode_to_vec()));
        Ok(Response::new(made))
    }

    /// The origin of this node's log, if that is the one meant.
    fn this_log(&self, asked: &str) -> Result<String, Refused> {
        let log = self.vault.verifier().origin().to_string();
        if asked.is_empty() || asked == log {
            Ok(log)
        } else {
            Err(Refused::NotFound("no such log in this vault"))
        }
    }

    /// The proof of a receipt's entry, and that the log has only grown since.
    async fn proven(&self, receipt: Option<&v1::Receipt>) -> Result<v1::ProveReceiptResponse, Error> {
        let receipt = receipt.ok_or_else(|| Error::malformed("receipt", "is required"))?;
        let proof = self.proof_of(receipt.leaf_index, receipt.tree_size).await?;
        if vault_core::audit::tree::leaf_hash(&proof.leaf).0.as_slice() != receipt.leaf_hash {
            return Err(Error::malformed("receipt.leaf_hash", "is not that of the entry at this index"));
        }
        Ok(proof)
    }

    /// The proof of the entry at a place, and that the log's first `grown_from` entries are still its beginning.
    async fn proof_of(&self, index: u64, grown_from: u64) -> Result<v1::ProveReceiptResponse, Error> {
        let head = self.vault.checkpoint().await?;
        let proof = self.vault.prove(index, &head).await?.ok_or_else(Error::internal)?;
        let consistency = self.vault.consistency(grown_from, &head).await?;
        Ok(v1::ProveReceiptResponse {
            checkpoint: Some(wire::checkpoint(&head)),
            inclusion: proof.path().iter().map(|h| h.0.to_vec()).collect(),
            consistency: consistency.iter().map(|h| h.0.to_vec()).collect(),
            leaf: proof.entry().to_vec(),
            verifier_key: self.vault.verifier().to_string(),
            hand_overs: self.vault.hand_overs().await?.iter().map(wire::hand_over).collect(),
        })
    }

    fn epoch(&self) -> u64 {
        self.vault.status().epoch
    }

    /// The custodians' names, as they stand where a key is wrapped by them.
    fn who_holds(&self) -> String {
        let names: Vec<&str> = self.vault.custodians().into_iter().map(|(kind, _)| kind).collect();
        names.join(", ")
    }

    fn key_after(&self, id: vault_core::envelope::KeyId) -> Option<v1::Key> {
        self.vault
            .keys()
            .iter()
            .find(|k| k.id == id)
            .map(|line| key(line, (&self.who_holds(), self.clock.now())))
    }
}

fn policy(text: &str) -> Result<Policy, Error> {
    if text.len() > MAX_POLICY {
        return Err(Error::malformed("toml", "must have at most 4 MiB"));
    }
    Policy::from_toml(text)
}

fn named<T, E>(text: &str, field: &'static str, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, Error> {
    parse(text).map_err(|_| Error::malformed(field, "must be a name: a-z, 0-9 and hyphens, 1 to 63"))
}

fn kind(kind: KeyKind) -> v1::KeyKind {
    match kind {
        KeyKind::Root => v1::KeyKind::Root,
        KeyKind::Esk => v1::KeyKind::Esk,
        KeyKind::Ctl => v1::KeyKind::Ctl,
        KeyKind::Log => v1::KeyKind::Log,
        KeyKind::Adm => v1::KeyKind::Adm,
        KeyKind::Kek => v1::KeyKind::Kek,
        KeyKind::Dek => v1::KeyKind::Dek,
        KeyKind::Idx => v1::KeyKind::Idx,
        KeyKind::Fpr => v1::KeyKind::Fpr,
        KeyKind::Trk => v1::KeyKind::Trk,
        KeyKind::Ref => v1::KeyKind::Ref,
        KeyKind::Idm => v1::KeyKind::Idm,
        KeyKind::Rcv => v1::KeyKind::Rcv,
        KeyKind::Fpk => v1::KeyKind::Fpk,
    }
}

fn key(line: &KeyLine, (custodians, now): (&str, Timestamp)) -> v1::Key {
    let state = match line.state {
        KeyState::Active => v1::KeyState::Active,
        KeyState::Deactivated => v1::KeyState::Deactivated,
        KeyState::Compromised => v1::KeyState::Compromised,
        KeyState::Destroyed => v1::KeyState::Destroyed,
    };
    let told = v1::Key {
        id: line.id.0.to_string(),
        kind: kind(line.kind).into(),
        merchant: line.merchant.as_ref().map_or_else(String::new, ToString::to_string),
        version: line.version,
        state: state.into(),
        primary: line.state == KeyState::Active,
        created_at: Some(wire::timestamp(line.made_at)),
        wrapped_by: line.under.map_or_else(|| custodians.to_owned(), |id| id.0.to_string()),
        rows: line.drained_at.map(|_| 0),
        ..v1::Key::default()
    };
    keys::lived(told, line, now)
}

fn lock_target(target: Option<v1::LockTarget>) -> Result<LockTarget, Error> {
    let missing = || Error::malformed("target", "is required");
    Ok(match target.and_then(|t| t.target).ok_or_else(missing)? {
        v1::lock_target::Target::Merchant(merchant) => {
            LockTarget::Merchant { merchant: named(&merchant, "target.merchant", MerchantName::parse)? }
        }
        v1::lock_target::Target::Channel(at) => LockTarget::Channel {
            merchant: named(&at.merchant, "target.channel.merchant", MerchantName::parse)?,
            channel: named(&at.channel, "target.channel.channel", ChannelName::parse)?,
        },
        v1::lock_target::Target::Principal(principal) => {
            LockTarget::Principal { principal: named(&principal, "target.principal", PrincipalName::parse)? }
        }
    })
}

fn lock(lock: &Lock, note: Option<String>) -> v1::Lock {
    let target = match &lock.target {
        LockTarget::Merchant { merchant } => v1::lock_target::Target::Merchant(merchant.to_string()),
        LockTarget::Channel { merchant, channel } => v1::lock_target::Target::Channel(v1::ChannelRef {
            merchant: merchant.to_string(),
            channel: channel.to_string(),
        }),
        LockTarget::Principal { principal } => v1::lock_target::Target::Principal(principal.to_string()),
    };
    v1::Lock {
        lockdown: lock.id,
        target: Some(v1::LockTarget { target: Some(target) }),
        reason: i32::from(lock.reason.id()),
        note: note.unwrap_or_default(),
        set_by: lock.by.to_string(),
        set_at: Some(wire::timestamp(lock.since)),
        lifted_by: lock.lifted.as_ref().map_or_else(String::new, |l| l.by.to_string()),
        lifted_at: lock.lifted.as_ref().map(|l| wire::timestamp(l.at)),
    }
}

fn change(change: vault::PolicyChange) -> v1::PolicyChange {
    let vault::PolicyChange { path, before, after, widens } = change;
    v1::PolicyChange { path, before, after, widens }
}

/// A page's beginning, from its token: a decimal number to this server, opaque to everyone else.
pub(crate) fn from_page(token: &str) -> Result<u64, Error> {
    if token.is_empty() {
        return Ok(0);
    }
    let bytes = data_encoding::BASE32_NOPAD.decode(token.as_bytes()).ok();
    let number = bytes.and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    number.ok_or_else(|| Error::malformed("page_token", "is none that this vault gave"))
}

/// A page's token, from where it begins.
pub(crate) fn to_page(next: u64) -> String {
    data_encoding::BASE32_NOPAD.encode(&next.to_be_bytes())
}

/// How many rows a page has, from what was asked for and the most that there may be.
pub(crate) fn page_size(asked: u32, most: usize) -> usize {
    match usize::try_from(asked) {
        Ok(0) | Err(_) => PAGE.min(most),
        Ok(n) => n.min(most),
    }
}

/// One page of a list in memory, and the token of the next.
fn paged<T>(all: Vec<T>, size: u32, token: &str) -> Result<(Vec<T>, String), Error> {
    let from = usize::try_from(from_page(token)?).unwrap_or(usize::MAX);
    let (size, total) = (page_size(size, 1_000), all.len());
    let page: Vec<T> = all.into_iter().skip(from).take(size).collect();
    let next = from.saturating_add(page.len());
    let more = next < total;
    Ok((page, if more { to_page(u64::try_from(next).unwrap_or(u64::MAX)) } else { String::new() }))
}

fn space_state(state: SpaceState) -> v1::TokenSpaceState {
    match state {
        SpaceState::Roomy => v1::TokenSpaceState::Roomy,
        SpaceState::Scarce => v1::TokenSpaceState::Scarce,
        SpaceState::NearlyFull => v1::TokenSpaceState::NearlyFull,
        SpaceState::UsedUp => v1::TokenSpaceState::UsedUp,
    }
}

fn token_space(known: &KnownSpace) -> v1::TokenSpace {
    v1::TokenSpace {
        merchant: known.merchant.to_string(),
        format: known.format.to_string(),
        token_length: u32::try_from(known.space.length).unwrap_or(u32::MAX),
        space: known.space.id.to_vec(),
        tokens: known.space.tokens.to_string(),
        used: known.space.used,
        left: known.space.left().to_string(),
        state: space_state(known.state).into(),
    }
}

pub(crate) fn seconds(from: Timestamp, to: Timestamp) -> prost_types::Duration {
    wire::duration(Duration::from_millis(to.ms_since(from)))
}

/// The listeners' certificates, and what is wrong with them.
pub(crate) fn certificates(
    doors: &[(&'static str, Arc<Tls>)],
) -> (Vec<v1::Problem>, Vec<v1::CertificateStatus>) {
    let (mut problems, mut certificates) = (Vec::new(), Vec::new());
    for (role, tls) in doors {
        let health = tls.health();
        let error = health.last_error.as_ref().map_or_else(String::new, |(_, why)| why.clone());
        if !error.is_empty() {
            let reason = "CERTIFICATE_RELOAD_FAILED".to_owned();
            problems.push(v1::Problem { reason, message: format!("{role}: {error}") });
        }
        for listed in health.inventory {
            certificates.push(v1::CertificateStatus {
                role: format!("{role}.{}", listed.key),
                not_after: Some(wire::timestamp(listed.not_after)),
                reload_error: error.clone(),
                ..v1::CertificateStatus::default()
            });
        }
    }
    (problems, certificates)
}

/// What every entry tells.
fn bare_entry(log: &str, index: u64, leaf: Vec<u8>, entry: &AuditEntry) -> v1::AuditEntry {
    v1::AuditEntry {
        log: log.to_owned(),
        index,
        logged_at: Some(wire::timestamp(entry.at)),
        leaf,
        principal: match &entry.principal {
            Who::Listed(name) => name.to_string(),
            Who::Unlisted(hash) => format!("unlisted:{}", data_encoding::HEXLOWER.encode(hash)),
            Who::Vault => "vault".to_owned(),
        },
        merchant: entry.merchant.as_ref().map_or_else(String::new, ToString::to_string),
        channel: entry.channel.as_ref().map_or_else(String::new, ToString::to_string),
        outcome: v1::AuditOutcome::Done.into(),
        count: 1,
        epoch: entry.epoch,
        ..v1::AuditEntry::default()
    }
}

/// An entry as the contract tells it: its bytes, and what can be read from them.
#[allow(clippy::too_many_lines, reason = "an arm for each event")]
fn entry(log: &str, index: u64, leaf: Vec<u8>, entry: &AuditEntry) -> v1::AuditEntry {
    let mut told = bare_entry(log, index, leaf, entry);
    let outcome = |again: bool| if again { v1::AuditOutcome::Redelivered } else { v1::AuditOutcome::Done };
    let (kind, action) = match &entry.event {
        Event::Tokenized { record, purpose, initiator, redelivered, .. } => {
            about(&mut told, record, *purpose, *initiator);
            told.outcome = outcome(*redelivered).into();
            ("tokenized", Some(Action::Tokenize))
        }
        Event::Disclosed { record, purpose, initiator, show, redelivered } => {
            about(&mut told, record, *purpose, *initiator);
            told.outcome = outcome(*redelivered).into();
            told.details.insert("show".to_owned(), show.to_string());
            ("disclosed", Some(Action::Detokenize))
        }
        Event::DisclosedTo { record, purpose, initiator, to, redelivered } => {
            about(&mut told, record, *purpose, *initiator);
            told.outcome = outcome(*redelivered).into();
            told.details.extend([outlet(to)]);
            ("disclosed_to", Some(Action::Detokenize))
        }
        Event::DisclosedEarlierTo { record, replaced_at, purpose, initiator, to, redelivered } => {
            about(&mut told, record, *purpose, *initiator);
            told.outcome = outcome(*redelivered).into();
            told.details.extend([outlet(to), ("replaced_at".to_owned(), replaced_at.0.to_string())]);
            ("disclosed_earlier_to", Some(Action::Detokenize))
        }
        Event::SpentTo { record, purpose, initiator, to, .. } => {
            about(&mut told, record, *purpose, *initiator);
            told.details.extend([outlet(to)]);
            ("spent_to", Some(Action::Detokenize))
        }
        Event::Inspected { record, show } => {
            told.record = record.0.to_vec();
            told.details.insert("show".to_owned(), show.to_string());
            ("inspected", Some(Action::Inspect))
        }
        Event::Revoked { record, .. } => {
            told.record = record.0.to_vec();
            ("revoked", Some(Action::Revoke))
        }
        Event::Spent { record, purpose, initiator, .. } => {
            about(&mut told, record, *purpose, *initiator);
            told.details.insert("show".to_owned(), Show::Full.to_string());
            ("spent", Some(Action::Detokenize))
        }
        Event::Changed { record, change, .. } => {
            told.record = record.0.to_vec();
            let action = match change {
                RecordChange::Disabled => Action::Disable,
                RecordChange::Enabled => Action::Enable,
                RecordChange::AttributesUpdated => Action::UpdateAttributes,
                // The vault's own doing.
                RecordChange::EarlierDeleted => Action::Replace,
            };
            (change.as_str(), Some(action))
        }
        Event::Upgraded { record, redelivered, .. } => {
            told.record = record.0.to_vec();
            told.outcome = outcome(*redelivered).into();
            ("upgraded", Some(Action::Upgrade))
        }
        Event::Replaced { record, reason, .. } => {
            told.record = record.0.to_vec();
            told.details.insert("reason".to_owned(), reason.to_string());
            ("replaced", Some(Action::Replace))
        }
        Event::CodeHeld { record } => {
            told.record = record.0.to_vec();
            ("code_held", Some(Action::HoldCode))
        }
        Event::CodeRead { record, purpose, initiator } => {
            told.record = record.0.to_vec();
            told.purpose = purpose.id().into();
            told.initiator = initiator.id().into();
            ("code_read", Some(Action::ReadCode))
        }
        Event::CodeDropped { record } => {
            told.record = record.0.to_vec();
            ("code_dropped", Some(Action::CompleteAuthorization))
        }
        Event::Fingerprinted { purpose, initiator } => {
            told.purpose = purpose.id().into();
            told.initiator = initiator.id().into();
            ("fingerprinted", Some(Action::Fingerprint))
        }
        Event::Listed { cards, show, .. } => {
            told.details.insert("tokens".to_owned(), cards.to_string());
            told.details.insert("show".to_owned(), show.to_string());
            ("listed", Some(Action::ListBySubject))
        }
        Event::Erased { cards, .. } => {
            told.details.insert("tokens".to_owned(), cards.to_string());
            ("erased", Some(Action::EraseSubject))
        }
        Event::DisclosedEarlier { record, purpose, initiator, show, redelivered, .. } => {
            about(&mut told, record, *purpose, *initiator);
            told.outcome = outcome(*redelivered).into();
            told.details.insert("show".to_owned(), show.to_string());
            ("disclosed_earlier", Some(Action::Detokenize))
        }
        Event::Refused { action, record, why, purpose, initiator } => {
            told.record = record.map_or_else(Vec::new, |r| r.0.to_vec());
            told.purpose = purpose.map_or(0, |p| p.id().into());
            told.initiator = initiator.map_or(0, |i| i.id().into());
            told.reason = why.to_string();
            told.outcome = v1::AuditOutcome::Refused.into();
            ("refused", Some(*action))
        }
        Event::RefusalsCounted { action, why, count, .. } => {
            told.reason = why.to_string();
            told.count = u64::from(*count);
            told.outcome = v1::AuditOutcome::Refused.into();
            ("refusals_counted", Some(*action))
        }
        Event::ControlChanged { version, change, .. } => {
            told.details.insert("version".to_owned(), version.to_string());
            let mut detail = |name: &str, value: String| told.details.insert(name.to_owned(), value);
            match change {
                ControlChange::KeyDrained { key } => {
                    detail("drained_key", key.to_string());
                }
                ControlChange::KeyCompromised { key, reason, .. } => {
                    detail("compromised_key", key.to_string());
                    detail("reason", reason.to_string());
                }
                ControlChange::KeyShredded { key, rows } => {
                    detail("shredded_key", key.to_string());
                    detail("rows", rows.to_string());
                }
                ControlChange::ErasureKeyDestroyed { key, before, .. } => {
                    detail("destroyed_key", key.to_string());
                    detail("erased_before_epoch", before.to_string());
                }
                ControlChange::LogHandedOver { from, to } => {
                    detail("from_verifier", from.to_string());
                    detail("to_verifier", to.to_string());
                }
                ControlChange::Created
                | ControlChange::PolicyApplied
                | ControlChange::KeyAdded { .. }
                | ControlChange::KeyState { .. }
                | ControlChange::LockSet { .. }
                | ControlChange::LockLifted { .. }
                | ControlChange::CustodyTaken { .. }
                | ControlChange::CustodyEnded { .. } => {}
            }
            ("control_changed", None)
        }
        Event::Consulted { action } => ("consulted", Some(*action)),
        Event::VaultOpened => ("vault_opened", None),
        Event::VaultClosed => ("vault_closed", None),
        Event::LogStarted { .. } => ("log_started", None),
        Event::Swept { rows } => {
            told.details.insert("rows".to_owned(), rows.to_string());
            ("swept", None)
        }
        Event::ShareEntered { share } => {
            told.details.insert("share".to_owned(), share.to_string());
            ("share_entered", None)
        }
        Event::Unsealed => ("unsealed", None),
        Event::Sealed => ("sealed", None),
        Event::CustodyAccepted { split, share } => {
            told.details.insert("split".to_owned(), data_encoding::HEXLOWER.encode(split));
            told.details.insert("share".to_owned(), share.to_string());
            ("custody_accepted", None)
        }
        Event::Rewrapped { key, rows } => {
            told.details.insert("key".to_owned(), key.to_string());
            told.details.insert("rows".to_owned(), rows.to_string());
            ("rewrapped", None)
        }
        Event::UsesReserved { key, upto } => {
            told.details.insert("key".to_owned(), key.to_string());
            told.details.insert("upto".to_owned(), upto.to_string());
            ("uses_reserved", None)
        }
        Event::Resealed { key, rows } => {
            told.details.insert("key".to_owned(), key.to_string());
            told.details.insert("rows".to_owned(), rows.to_string());
            ("resealed", None)
        }
    };
    kind.clone_into(&mut told.kind);
    // The contract names the card verbs; an operator's action is told among the details.
    match action {
        Some(action) if !action.is_administrative() => told.action = action.id().into(),
        Some(action) => drop(told.details.insert("action".to_owned(), action.to_string())),
        None => {}
    }
    told.details.insert("line".to_owned(), entry.line());
    told
}

/// Which record an entry is about, what for, and who began the payment.
fn about(told: &mut v1::AuditEntry, record: &Ref, purpose: Purpose, initiator: Initiator) {
    told.record = record.0.to_vec();
    told.purpose = purpose.id().into();
    told.initiator = initiator.id().into();
}

/// To whom a card went, as a detail of its entry.
fn outlet(to: &Outlet) -> (String, String) {
    match to {
        Outlet::Recipient(name) => ("recipient".to_owned(), name.to_string()),
        Outlet::Destination(name) => ("destination".to_owned(), name.to_string()),
    }
}

/// What a listing asks for.
struct Wanted {
    since: u64,
    until: u64,
    merchant: String,
    channel: String,
    principal: String,
    action: i32,
    outcome: i32,
}

impl Wanted {
    fn of(request: &v1::ListAuditEntriesRequest) -> Self {
        let ms = |t: &Option<prost_types::Timestamp>, otherwise: u64| {
            t.as_ref().map_or(otherwise, |t| {
                u64::try_from(t.seconds)
                    .unwrap_or(0)
                    .saturating_mul(1_000)
                    .saturating_add(u64::try_from(t.nanos).unwrap_or(0) / 1_000_000)
            })
        };
        Self {
            since: ms(&request.since, 0),
            until: ms(&request.until, u64::MAX),
            merchant: request.merchant.clone(),
            channel: request.channel.clone(),
            principal: request.principal.clone(),
            action: request.action,
            outcome: request.outcome,
        }
    }

    fn takes(&self, at: Timestamp, told: &v1::AuditEntry) -> bool {
        let text = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let word = |wanted: i32, found: i32| wanted == 0 || wanted == found;
        (self.since..self.until).contains(&at.0)
            && text(&self.merchant, &told.merchant)
            && text(&self.channel, &told.channel)
            && text(&self.principal, &told.principal)
            && word(self.action, told.action)
            && word(self.outcome, told.outcome)
    }
}

/// Ends when the vault is closed; never where nobody tells.
async fn ended(ending: Option<Shutdown>) {
    match ending {
        Some(mut ending) => ending.draining().await,
        None => std::future::pending().await,
    }
}

type Steps = Pin<Box<dyn Stream<Item = Result<v1::VerifyLogResponse, Status>> + Send>>;

/// Finishes a change also when its caller goes away meanwhile: its answer is then there for the retry.
async fn detached<A: Send + 'static>(
    change: impl Future<Output = Result<A, Status>> + Send + 'static,
) -> Result<A, Status> {
    tokio::spawn(change).await.unwrap_or_else(|_| Err(status(&Error::internal())))
}

impl AdminService {
    async fn rotate_key_once(
        &self,
        request: Request<v1::RotateKeyRequest>,
    ) -> Result<Response<v1::RotateKeyResponse>, Status> {
        let operator = self.operator(&request, Action::RotateKey).await?;
        let asked = request.into_inner();
        let rotate = || async {
            let asked_kind = asked.kind();
            if asked_kind == v1::KeyKind::Fpk {
                return self.rotate_ff1(&operator, &asked).await;
            }
            if !asked.format.is_empty() || !asked.channel.is_empty() {
                return Err(Error::malformed("format", "and channel are for the kind fpk alone").into());
            }
            let merchant = optional(&asked.merchant, |text| named(text, "merchant", MerchantName::parse))?;
            let previous = self.vault.keys().into_iter().rev().find(|k| {
                kind(k.kind) == asked_kind && k.merchant == merchant && k.state == KeyState::Active
            });
            let (id, receipt) =
                self.rotate(&operator, asked_kind, merchant.as_ref(), asked.header.as_ref()).await?;
            Ok(v1::RotateKeyResponse {
                key: self.key_after(id),
                previous: previous.and_then(|k| self.key_after(k.id)),
                epoch: self.epoch(),
                receipt: Some(wire::receipt(&receipt, true)),
                slots_left: 0,
            })
        };
        self.once(&operator, asked.header.as_ref(), &asked, rotate).await
    }

    /// Rotates a key that its kind and its merchant name, or its kind alone.
    async fn rotate(
        &self,
        operator: &PrincipalName,
        kind: v1::KeyKind,
        merchant: Option<&MerchantName>,
        header: Option<&v1::ChangeHeader>,
    ) -> Result<(KeyId, Receipt), Error> {
        let (vault, epoch) = (&self.vault, expected(header));
        match (kind, merchant) {
            (v1::KeyKind::Unspecified, _) => Err(Error::malformed("kind", "is required")),
            (v1::KeyKind::Dek, Some(merchant)) => vault.rotate_dek(operator, merchant, epoch).await,
            (v1::KeyKind::Idx, Some(merchant)) => vault.rotate_idx(operator, merchant, epoch).await,
            (v1::KeyKind::Fpr, Some(merchant)) => vault.rotate_fpr(operator, merchant, epoch).await,
            (v1::KeyKind::Trk, Some(merchant)) => vault.rotate_trk(operator, merchant, epoch).await,
            (v1::KeyKind::Rcv, Some(merchant)) => vault.rotate_rcv(operator, merchant, epoch).await,
            (v1::KeyKind::Kek, Some(merchant)) => vault.rotate_kek(operator, merchant, epoch).await,
            (v1::KeyKind::Ctl, None) => vault.rotate_ctl(operator, epoch).await,
            (v1::KeyKind::Log, None) => vault.rotate_log(operator, epoch).await,
            (v1::KeyKind::Adm, None) => vault.rotate_adm(operator, epoch).await,
            (v1::KeyKind::Root | v1::KeyKind::Esk, None) => self.rotate_held(kind, operator, epoch).await,
            (
                v1::KeyKind::Dek
                | v1::KeyKind::Idx
                | v1::KeyKind::Fpr
                | v1::KeyKind::Trk
                | v1::KeyKind::Rcv
                | v1::KeyKind::Kek,
                None,
            ) => Err(Error::malformed("merchant", "is required for a key of this kind")),
            (
                v1::KeyKind::Ctl | v1::KeyKind::Root | v1::KeyKind::Esk | v1::KeyKind::Log | v1::KeyKind::Adm,
                Some(_),
            ) => Err(Error::malformed("merchant", "is not for keys of the whole vault")),
            _ => Err(Error::Unimplemented { what: "rotating a key of this kind" }),
        }
    }

    /// Rotates the root or the erasure epoch key with the custodians that the settings name, read anew: their secrets are not
    /// kept. They are asked on a thread of its own, so that nobody else waits.
    async fn rotate_held(
        &self,
        kind: v1::KeyKind,
        operator: &PrincipalName,
        epoch: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        if kind != v1::KeyKind::Esk {
            self.customers_stay().await?;
        }
        let all = self.custodians.open_all().map_err(|p| wrong(&p))?;
        let (vault, operator) = (self.vault.clone(), operator.clone());
        in_custody(async move || {
            let all: Vec<&dyn Custodian> = all.iter().map(|custodian| &**custodian).collect();
            match kind {
                v1::KeyKind::Esk => vault.rotate_esk(&operator, &all, epoch).await,
                _ => vault.rotate_root(&operator, &all, epoch).await,
            }
        })
        .await
    }

    /// Custody changes where there is one erasure epoch key. The vault would move all customers first, at a pace that traffic
    /// would feel: here that is left to the work in the background, and waited for if it is nearly done.
    async fn customers_stay(&self) -> Result<(), Error> {
        let moved = async {
            while self.vault.erasure_work().await?.is_some_and(|work| work.moving) {
                tokio::time::sleep(MOVES_LOOK).await;
            }
            Ok(())
        };
        tokio::time::timeout(MOVES_WAIT, moved).await.unwrap_or_else(|_| {
            Err(Error::Config(
                "customers are being moved to a new erasure key: try again once `vaultctl keys status` shows that this is done"
                    .to_owned(),
            ))
        })
    }

    async fn change_custodian_once(
        &self,
        request: Request<v1::ChangeCustodianRequest>,
    ) -> Result<Response<v1::ChangeCustodianResponse>, Status> {
        let operator = self.operator(&request, Action::RotateKey).await?;
        let asked = request.into_inner();
        let change = || async {
            self.customers_stay().await?;
            let named = self.custodians.now().map_err(|p| wrong(&p))?;
            let none = || {
                Error::Config(
                    "custodian.other is missing in the node's settings file: name there who is to take the place of [custodian]"
                        .to_owned(),
                )
            };
            let new = named.open_other().ok_or_else(none)?.map_err(|p| wrong(&p))?;
            let own = named.open().map_err(|p| wrong(&p))?;
            let (vault, by, epoch) = (self.vault.clone(), operator.clone(), expected(asked.header.as_ref()));
            let receipt =
                in_custody(async move || vault.change_custodian(&by, (&*own, &*new), epoch).await).await?;
            let told = |(kind, what): (&'static str, String)| v1::Custodian { kind: kind.to_owned(), what };
            Ok(v1::ChangeCustodianResponse {
                custodians: self.vault.custodians().into_iter().map(told).collect(),
                epoch: self.epoch(),
                receipt: Some(wire::receipt(&receipt, true)),
            })
        };
        self.once(&operator, asked.header.as_ref(), &asked, change).await
    }

    async fn destroy_key_once(
        &self,
        request: Request<v1::DestroyKeyRequest>,
    ) -> Result<Response<v1::DestroyKeyResponse>, Status> {
        let operator = self.operator(&request, Action::RotateKey).await?;
        let asked = request.into_inner();
        let destroy = || async {
            let id = keys::id(&asked.key)?;
            let receipt = self.vault.destroy_key(&operator, id, expected(asked.header.as_ref())).await?;
            Ok(v1::DestroyKeyResponse {
                key: self.key_after(id),
                epoch: self.epoch(),
                receipt: Some(wire::receipt(&receipt, true)),
            })
        };
        self.once(&operator, asked.header.as_ref(), &asked, destroy).await
    }

    /// Opens the next vaultless slot of a format.
    async fn rotate_ff1(
        &self,
        operator: &PrincipalName,
        asked: &v1::RotateKeyRequest,
    ) -> Result<v1::RotateKeyResponse, Refused> {
        let merchant = named(&asked.merchant, "merchant", MerchantName::parse)?;
        let format = named(&asked.format, "format", FormatName::parse)?;
        let channel = optional(&asked.channel, |text| named(text, "channel", ChannelName::parse))?;
        let expected = expected(asked.header.as_ref());
        let of = (&merchant, &format, channel.as_ref());
        let (id, left, receipt) = self.vault.rotate_ff1(operator, of, expected).await?;
        Ok(v1::RotateKeyResponse {
            key: self.key_after(id),
            previous: None,
            epoch: self.epoch(),
            receipt: Some(wire::receipt(&receipt, true)),
            slots_left: left.into(),
        })
    }

    async fn set_lock_once(
        &self,
        request: Request<v1::SetLockRequest>,
    ) -> Result<Response<v1::SetLockResponse>, Status> {
        let operator = self.operator(&request, Action::SetLock).await?;
        let asked = request.into_inner();
        let set = || async {
            let target = lock_target(asked.target.clone())?;
            let reason = u8::try_from(asked.reason).ok().and_then(LockReason::from_id);
            let reason = reason.ok_or_else(|| Error::malformed("reason", "is required"))?;
            let note = (!asked.note.is_empty()).then_some(asked.note.as_str());
            let (id, receipt) =
                self.vault.set_lock(&operator, target, reason, note, expected(asked.header.as_ref())).await?;
            let set = self.vault.locks().into_iter().find(|l| l.id == id).ok_or_else(Error::internal)?;
            Ok(v1::SetLockResponse {
                lock: Some(lock(&set, note.map(str::to_owned))),
                epoch: self.epoch(),
                receipt: Some(wire::receipt(&receipt, true)),
            })
        };
        self.once(&operator, asked.header.as_ref(), &asked, set).await
    }

    async fn lift_lock_once(
        &self,
        request: Request<v1::LiftLockRequest>,
    ) -> Result<Response<v1::LiftLockResponse>, Status> {
        let operator = self.operator(&request, Action::LiftLock).await?;
        let asked = request.into_inner();
        let lift = || async {
            if !asked.note.is_empty() {
                return Err(Error::Unimplemented { what: "a note on lifting a lock" }.into());
            }
            let receipt = self
                .vault
                .lift_lock(&operator, asked.lockdown, expected(asked.header.as_ref()))
                .await
                .map_err(|e| match e {
                    Error::Malformed { field: "lockdown", .. } => Refused::NotFound("no such lock in force"),
                    other => other.into(),
                })?;
            let lifted = self.vault.locks().into_iter().find(|l| l.id == asked.lockdown);
            Ok(v1::LiftLockResponse {
                lock: lifted.map(|l| lock(&l, None)),
                epoch: self.epoch(),
                receipt: Some(wire::receipt(&receipt, true)),
            })
        };
        self.once(&operator, asked.header.as_ref(), &asked, lift).await
    }

    async fn apply_policy_once(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Result<Response<v1::ApplyPolicyResponse>, Status> {
        let operator = self.operator(&request, Action::ApplyPolicy).await?;
        let asked = request.into_inner();
        let apply = || async {
            let expected = asked.header.as_ref().and_then(|h| h.expected_epoch);
            let expected =
                expected.ok_or_else(|| Error::malformed("header.expected_epoch", "is required"))?;
            let policy = policy(&asked.toml)?;
            let changes = self.vault.policy_diff(&policy)?;
            let receipt = self.vault.apply_policy(&operator, policy, Some(expected)).await?;
            Ok(v1::ApplyPolicyResponse {
                changes: changes.into_iter().map(change).collect(),
                epoch: self.epoch(),
                receipt: Some(wire::receipt(&receipt, true)),
            })
        };
        self.once(&operator, asked.header.as_ref(), &asked, apply).await
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    type VerifyLogStream = Steps;

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let (told, failed) = (self.vault.status(), self.vault.has_failed());
        if failed {
            // Nothing can be written down any more, and this is when the status is wanted most.
            self.listed(&request)?;
        } else {
            self.reads(&request, Action::ReadPolicy).await?;
        }
        let head = match self.vault.checkpoint().await {
            Ok(head) => Some(head),
            // An engine that stopped answers nothing; the rest of the status is still worth telling.
            Err(_) if failed => None,
            Err(e) => return Err(status(&e)),
        };
        let (mut problems, certificates) = certificates(&self.doors);
        problems.extend(keys::problems(&self.vault.keys(), self.clock.now()));
        if failed {
            let message = "a flush failed; nothing is written until the server is started again".to_owned();
            problems.insert(0, v1::Problem { reason: "STORE_STOPPED".to_owned(), message });
        }
        Ok(Response::new(v1::GetStatusResponse {
            state: if failed { v1::ServingState::Sealed } else { v1::ServingState::Serving }.into(),
            problems,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            log: self.vault.verifier().origin().to_string(),
            epoch: told.epoch,
            started_at: Some(wire::timestamp(self.started_at)),
            uptime: Some(seconds(self.started_at, self.clock.now())),
            certificates,
            store: Some(v1::StoreStatus { engine: told.engine.to_owned(), format: 1, available: !failed }),
            queue: Some(v1::QueueStatus {
                depth: u32::try_from(told.waiting).unwrap_or(u32::MAX),
                capacity: u32::try_from(vault_core::journal::QUEUE).unwrap_or(u32::MAX),
            }),
            connections: self.metrics.connections(Door::Data),
            checkpoint: head.as_ref().map(wire::checkpoint),
        }))
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        self.reads(&request, Action::ReadKeys).await?;
        let asked = request.into_inner();
        let wanted = |k: &v1::Key| {
            (asked.kind == 0 || k.kind == asked.kind)
                && (asked.merchant.is_empty() || k.merchant == asked.merchant)
        };
        let told = self.listed_keys(asked.count_rows).await.map_err(|e| status(&e))?;
        let mut all: Vec<v1::Key> = told.into_iter().filter(wanted).collect();
        all.sort_by(|a, b| (a.kind, &a.merchant, b.version).cmp(&(b.kind, &b.merchant, a.version)));
        let (keys, next_page_token) =
            paged(all, asked.page_size, &asked.page_token).map_err(|e| status(&e))?;
        Ok(Response::new(v1::ListKeysResponse { keys, next_page_token, epoch: self.epoch() }))
    }

    async fn rotate_key(
        &self,
        request: Request<v1::RotateKeyRequest>,
    ) -> Result<Response<v1::RotateKeyResponse>, Status> {
        let service = self.clone();
        detached(async move { service.rotate_key_once(request).await }).await
    }

    async fn change_custodian(
        &self,
        request: Request<v1::ChangeCustodianRequest>,
    ) -> Result<Response<v1::ChangeCustodianResponse>, Status> {
        let service = self.clone();
        detached(async move { service.change_custodian_once(request).await }).await
    }

    async fn destroy_key(
        &self,
        request: Request<v1::DestroyKeyRequest>,
    ) -> Result<Response<v1::DestroyKeyResponse>, Status> {
        let service = self.clone();
        detached(async move { service.destroy_key_once(request).await }).await
    }

    async fn describe_key(
        &self,
        request: Request<v1::DescribeKeyRequest>,
    ) -> Result<Response<v1::DescribeKeyResponse>, Status> {
        self.describe_key_once(request).await
    }

    async fn compromise_key(
        &self,
        request: Request<v1::CompromiseKeyRequest>,
    ) -> Result<Response<v1::CompromiseKeyResponse>, Status> {
        let service = self.clone();
        detached(async move { service.compromise_key_once(request).await }).await
    }

    async fn shred_key(
        &self,
        request: Request<v1::ShredKeyRequest>,
    ) -> Result<Response<v1::ShredKeyResponse>, Status> {
        let service = self.clone();
        detached(async move { service.shred_key_once(request).await }).await
    }

    async fn get_key_work(
        &self,
        request: Request<v1::GetKeyWorkRequest>,
    ) -> Result<Response<v1::GetKeyWorkResponse>, Status> {
        self.reads(&request, Action::ReadKeys).await?;
        let work = self.vault.reseal_progress().await.map(|progress| v1::KeyWork {
            merchant: progress.merchant.to_string(),
            to: progress.to.iter().map(|key| key.0.to_string()).collect(),
            from: progress.from.iter().map(|key| key.0.to_string()).collect(),
            total_rows: progress.total,
            moved_rows: progress.moved,
            unreadable_rows: progress.unreadable,
            since: Some(wire::timestamp(progress.since)),
            stuck: progress.stuck,
        });
        let erasure = self.vault.erasure_work().await.map_err(|e| status(&e))?;
        let erasure = erasure.map(|work| v1::ErasureWork {
            key: work.key.0.to_string(),
            pending_since: work.pending_since.map(wire::timestamp),
            moving: work.moving,
            moved_customers: work.moved,
        });
        Ok(Response::new(v1::GetKeyWorkResponse { work, epoch: self.epoch(), erasure }))
    }

    async fn upgrade_tokens(
        &self,
        request: Request<v1::UpgradeTokensRequest>,
    ) -> Result<Response<v1::UpgradeTokensResponse>, Status> {
        let operator = self.operator(&request, Action::RotateKey).await?;
        let (vault, asked) = (self.vault.clone(), request.into_inner());
        let upgrade = async move {
            let merchant = named(&asked.merchant, "merchant", MerchantName::parse)?;
            if !(1..=MAX_BATCH).contains(&asked.tokens.len()) {
                return Err(Error::malformed("tokens", "must be 1 to 1,000"));
            }
            // What is no token is a token of nobody: a file may have a line that was cut.
            let tokens: Vec<Token> = asked.tokens.iter().filter_map(|t| Token::parse(t).ok()).collect();
            let odd = u64::try_from(asked.tokens.len().saturating_sub(tokens.len())).unwrap_or(0);
            let told = vault.upgrade_tokens(&operator, &merchant, &tokens).await?;
            Ok(v1::UpgradeTokensResponse {
                upgraded: told.upgraded,
                current: told.current,
                unknown: told.unknown.saturating_add(odd),
                unreadable: told.unreadable,
            })
        };
        detached(async move { upgrade.await.map(Response::new).map_err(|e: Error| status(&e)) }).await
    }

    async fn count_token_roots(
        &self,
        request: Request<v1::CountTokenRootsRequest>,
    ) -> Result<Response<v1::CountTokenRootsResponse>, Status> {
        self.reads(&request, Action::ReadKeys).await?;
        let walk = self.walking.clone().try_acquire_owned().map_err(|_| status(&Error::Overloaded))?;
        let count = async {
            let _walk = walk;
            let merchant = named(&request.get_ref().merchant, "merchant", MerchantName::parse)?;
            let told = self.vault.token_roots(&merchant).await?;
            let ids: BTreeSet<KeyId> = told.cards.keys().chain(told.fingerprints.keys()).copied().collect();
            let keys = ids.into_iter().map(|id| v1::TokenRootCount {
                key: id.0.to_string(),
                cards: told.cards.get(&id).copied().unwrap_or(0),
                fingerprints: told.fingerprints.get(&id).copied().unwrap_or(0),
            });
            Ok(v1::CountTokenRootsResponse {
                keys: keys.collect(),
                unreadable: told.unreadable,
                drained: told.drained.iter().map(|id| id.0.to_string()).collect(),
                epoch: self.epoch(),
            })
        };
        count.await.map(Response::new).map_err(|e: Error| status(&e))
    }

    async fn set_lock(
        &self,
        request: Request<v1::SetLockRequest>,
    ) -> Result<Response<v1::SetLockResponse>, Status> {
        let service = self.clone();
        detached(async move { service.set_lock_once(request).await }).await
    }

    async fn list_locks(
        &self,
        request: Request<v1::ListLocksRequest>,
    ) -> Result<Response<v1::ListLocksResponse>, Status> {
        self.reads(&request, Action::ReadLocks).await?;
        let asked = request.into_inner();
        let mut all: Vec<Lock> =
            self.vault.locks().into_iter().filter(|l| asked.include_lifted || l.lifted.is_none()).collect();
        all.sort_by_key(|l| std::cmp::Reverse(l.id));
        let (page, next_page_token) =
            paged(all, asked.page_size, &asked.page_token).map_err(|e| status(&e))?;
        let mut locks = Vec::with_capacity(page.len());
        for found in page {
            let note = self.vault.note_of(&found).await.map_err(|e| status(&e))?;
            locks.push(lock(&found, note));
        }
        Ok(Response::new(v1::ListLocksResponse { locks, next_page_token, epoch: self.epoch() }))
    }

    async fn lift_lock(
        &self,
        request: Request<v1::LiftLockRequest>,
    ) -> Result<Response<v1::LiftLockResponse>, Status> {
        let service = self.clone();
        detached(async move { service.lift_lock_once(request).await }).await
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        self.reads(&request, Action::ReadPolicy).await?;
        let (policy, epoch) = self.vault.policy();
        let toml = policy.to_toml().map_err(|e| status(&e))?;
        Ok(Response::new(v1::GetPolicyResponse { toml, epoch, ..v1::GetPolicyResponse::default() }))
    }

    async fn check_policy(
        &self,
        request: Request<v1::CheckPolicyRequest>,
    ) -> Result<Response<v1::CheckPolicyResponse>, Status> {
        self.reads(&request, Action::ReadPolicy).await?;
        let read = policy(&request.into_inner().toml);
        let checked = read.and_then(|p| self.vault.policy_diff(&p).map(|_| p.doubts()));
        let doubt = |(path, message)| v1::PolicyFinding {
            severity: v1::FindingSeverity::Warning.into(),
            path,
            message,
            ..v1::PolicyFinding::default()
        };
        let findings = match checked {
            Ok(doubts) => doubts.into_iter().map(doubt).collect(),
            Err(Error::Config(message)) => vec![v1::PolicyFinding {
                severity: v1::FindingSeverity::Error.into(),
                message,
                ..v1::PolicyFinding::default()
            }],
            Err(e) => return Err(status(&e)),
        };
        Ok(Response::new(v1::CheckPolicyResponse { findings }))
    }

    async fn diff_policy(
        &self,
        request: Request<v1::DiffPolicyRequest>,
    ) -> Result<Response<v1::DiffPolicyResponse>, Status> {
        self.reads(&request, Action::ReadPolicy).await?;
        let changes = policy(&request.into_inner().toml).and_then(|p| self.vault.policy_diff(&p));
        let changes = changes.map_err(|e| status(&e))?.into_iter().map(change).collect();
        Ok(Response::new(v1::DiffPolicyResponse { changes, epoch: self.epoch() }))
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Result<Response<v1::ApplyPolicyResponse>, Status> {
        let service = self.clone();
        detached(async move { service.apply_policy_once(request).await }).await
    }

    async fn explain_policy(
        &self,
        request: Request<v1::ExplainPolicyRequest>,
    ) -> Result<Response<v1::ExplainPolicyResponse>, Status> {
        self.reads(&request, Action::ReadPolicy).await?;
        let asked = request.into_inner();
        let explain = || {
            if !asked.token.is_empty() {
                return Err(Error::Unimplemented { what: "explaining a token" });
            }
            let word = |id: i32| u8::try_from(id).ok();
            let principal = named(&asked.principal, "principal", PrincipalName::parse)?;
            let merchant = optional(&asked.merchant, |t| named(t, "merchant", MerchantName::parse))?;
            let channel = optional(&asked.channel, |t| named(t, "channel", ChannelName::parse))?;
            let action = word(asked.action).and_then(Action::from_id);
            let action = action.ok_or_else(|| Error::malformed("action", "is required"))?;
            let sealed = asked.form() == v1::RevealForm::SealedToRecipient;
            let to = optional(&asked.recipient, |t| named(t, "recipient", RecipientName::parse))?;
            if to.is_some() != sealed {
                return Err(Error::malformed(
                    "recipient",
                    "goes with form SEALED_TO_RECIPIENT, and only with it",
                ));
            }
            let show = match (action, asked.form()) {
                (Action::Detokenize, v1::RevealForm::Masked) => Show::Masked,
                (Action::Detokenize, _) => Show::Full,
                (Action::Inspect | Action::ListBySubject, _) => Show::LastFour,
                _ => Show::Nothing,
            };
            let asked = Asked {
                caller: Caller::Named(&principal),
                merchant: merchant.as_ref(),
                channel: channel.as_ref(),
                action,
                purpose: word(asked.purpose).and_then(Purpose::from_id).unwrap_or(Purpose::Authorization),
                initiator: word(asked.initiator)
                    .and_then(Initiator::from_id)
                    .unwrap_or(Initiator::Cardholder),
                show,
            };
            Ok(match to {
                Some(to) => (self.vault.explain_to(&asked, &Outlet::Recipient(to)), true),
                None => (self.vault.explain(&asked), false),
            })
        };
        let (told, sealed) = explain().map_err(|e: Error| status(&e))?;
        let shown = match told.show {
            Show::Nothing => v1::Shown::Nothing,
            Show::LastFour => v1::Shown::LastFour,
            Show::Masked => v1::Shown::Masked,
            Show::Full if sealed => v1::Shown::Sealed,
            Show::Full => v1::Shown::Full,
        };
        let decision = if told.allowed { v1::Decision::Allow } else { v1::Decision::Deny };
        let rules = told.rules.into_iter().map(|(rule, denies)| v1::RuleVerdict {
            rule,
            effect: if denies { v1::Decision::Deny } else { v1::Decision::Allow }.into(),
            matches: true,
            unmet: String::new(),
        });
        Ok(Response::new(v1::ExplainPolicyResponse {
            decision: decision.into(),
            reason: told.why.map_or_else(String::new, |w| w.to_string()),
            rules: rules.collect(),
            shown: shown.into(),
            token_state: v1::TokenState::Unspecified.into(),
            epoch: self.epoch(),
        }))
    }

    async fn get_token_space(
        &self,
        request: Request<v1::GetTokenSpaceRequest>,
    ) -> Result<Response<v1::GetTokenSpaceResponse>, Status> {
        self.reads(&request, Action::ReadPolicy).await?;
        let v1::GetTokenSpaceRequest { merchant, format, length, first, last } = request.into_inner();
        let wrong = |field| status(&Error::malformed(field, "must be a name"));
        let merchant = MerchantName::parse(&merchant).map_err(|_| wrong("merchant"))?;
        let format = FormatName::parse(&format).map_err(|_| wrong("format"))?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let country = Country::parse(&first);
        // Of an IBAN the front is its country, and no digits.
        let kept = Kept { first: if country.is_some() { "" } else { &first }, last: &last };
        let found = self.vault.space_use(&merchant, &format, length, country, kept).await;
        let space = found.map_err(|e| status(&e))?;
        Ok(Response::new(v1::GetTokenSpaceResponse {
            tokens: space.tokens.to_string(),
            used: space.used,
            left: space.left().to_string(),
            space: space.id.to_vec(),
            state: space_state(space.state()).into(),
            token_length: u32::try_from(space.length).unwrap_or(u32::MAX),
        }))
    }

    async fn list_token_spaces(
        &self,
        request: Request<v1::ListTokenSpacesRequest>,
    ) -> Result<Response<v1::ListTokenSpacesResponse>, Status> {
        self.reads(&request, Action::ReadPolicy).await?;
        let v1::ListTokenSpacesRequest { merchant, format, page_size, page_token } = request.into_inner();
        let wrong = |field| status(&Error::malformed(field, "must be a name"));
        let merchant = (!merchant.is_empty()).then(|| MerchantName::parse(&merchant)).transpose();
        let merchant = merchant.map_err(|_| wrong("merchant"))?;
        let format = (!format.is_empty()).then(|| FormatName::parse(&format)).transpose();
        let format = format.map_err(|_| wrong("format"))?;
        let all = self.vault.fullest_spaces(merchant.as_ref(), format.as_ref());
        let (page, next_page_token) = paged(all, page_size, &page_token).map_err(|e| status(&e))?;
        let spaces = page.iter().map(token_space).collect();
        Ok(Response::new(v1::ListTokenSpacesResponse { spaces, next_page_token }))
    }

    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        self.reads(&request, Action::ReadAudit).await?;
        let asked = request.into_inner();
        let list = async {
            let log = self.this_log(&asked.log)?;
            let wanted = Wanted::of(&asked);
            let size = self.vault.checkpoint().await?.checkpoint().size;
            let most = page_size(asked.page_size, MAX_ENTRIES);
            // The next entry to look at, or going back the one behind it: an index, for the log grows between pages.
            let mut at = match asked.page_token.as_str() {
                "" => {
                    if asked.newest_first {
                        size
                    } else {
                        0
                    }
                }
                token => from_page(token)?,
            };
            if at > size {
                return Err(Error::malformed("page_token", "is none that this vault gave").into());
            }
            let left = |at: u64| if asked.newest_first { at } else { size - at };
            let mut entries = Vec::with_capacity(most);
            let mut looked = 0;
            while entries.len() < most && left(at) > 0 && looked < LOOKED {
                let step = u64::try_from(MAX_ENTRIES).unwrap_or(1).min(left(at));
                let from = if asked.newest_first { at - step } else { at };
                let mut page = self.vault.entries(from, usize::try_from(step).unwrap_or(1)).await?;
                if asked.newest_first {
                    page.reverse();
                }
                for (index, leaf, found) in page {
                    if entries.len() == most {
                        break;
                    }
                    at = if asked.newest_first { index } else { index + 1 };
                    looked += 1;
                    let told = entry(&log, index, leaf, &found);
                    if wanted.takes(found.at, &told) {
                        entries.push(told);
                    }
                }
            }
            let next_page_token = if left(at) > 0 { to_page(at) } else { String::new() };
            Ok::<_, Refused>(v1::ListAuditEntriesResponse { entries, next_page_token })
        };
        Ok(Response::new(list.await?))
    }

    async fn prove_receipt(
        &self,
        request: Request<v1::ProveReceiptRequest>,
    ) -> Result<Response<v1::ProveReceiptResponse>, Status> {
        self.reads(&request, Action::ReadAudit).await?;
        let asked = request.into_inner();
        self.proven(asked.receipt.as_ref()).await.map(Response::new).map_err(|e| status(&e))
    }

    async fn get_erasure_certificate(
        &self,
        request: Request<v1::GetErasureCertificateRequest>,
    ) -> Result<Response<v1::GetErasureCertificateResponse>, Status> {
        self.reads(&request, Action::ReadAudit).await?;
        let asked = request.into_inner();
        let certify = async {
            let receipt = asked.receipt.as_ref();
            let erasure = self.proven(receipt).await?;
            let certificate = self.vault.erasure_certificate(receipt.map_or(0, |r| r.leaf_index)).await?;
            let head = self.vault.checkpoint().await?;
            let destruction = match certificate {
                Some(index) => Some(self.proof_of(index, head.checkpoint().size).await?),
                None => None,
            };
            let delay = u64::from(ERASURE_DELAY_HOURS) * 3_600_000;
            let begins = self.vault.erasure_work().await?.and_then(|work| work.pending_since);
            Ok(v1::GetErasureCertificateResponse {
                erasure: Some(erasure),
                begins_at: begins
                    .filter(|_| certificate.is_none())
                    .map(|at| wire::timestamp(at.plus_ms(delay))),
                destruction,
                destruction_index: certificate.unwrap_or(0),
            })
        };
        certify.await.map(Response::new).map_err(|e: Error| status(&e))
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        self.reads(&request, Action::ReadAudit).await?;
        self.this_log(&request.get_ref().log)?;
        let get = async {
            let head = self.vault.checkpoint().await?;
            let verifier_key = self.vault.verifier().to_string();
            let hand_overs = self.vault.hand_overs().await?.iter().map(wire::hand_over).collect();
            let checkpoint = Some(wire::checkpoint(&head));
            Ok(v1::GetCheckpointResponse { checkpoint, verifier_key, hand_overs })
        };
        get.await.map(Response::new).map_err(|e: Error| status(&e))
    }

    async fn verify_log(
        &self,
        request: Request<v1::VerifyLogRequest>,
    ) -> Result<Response<Self::VerifyLogStream>, Status> {
        self.reads(&request, Action::ReadAudit).await?;
        self.this_log(&request.get_ref().log)?;
        let walk = self.walking.clone().try_acquire_owned().map_err(|_| status(&Error::Overloaded))?;
        let (to, steps) = mpsc::channel(16);
        let (vault, ending) = (self.vault.clone(), self.ending.clone());
        tokio::spawn(async move {
            let _walk = walk;
            let progress_to = to.clone();
            // Progress that nobody takes in time is left out: the walk does not wait for the caller.
            let mut progress = move |done: u64, total: u64| {
                let step = v1::VerifyProgress { entries_checked: done, entries_total: total };
                let step = v1::verify_log_response::Step::Progress(step);
                let _full = progress_to.try_send(Ok(v1::VerifyLogResponse { step: Some(step) }));
            };
            let walked = tokio::select! {
                walked = vault.verify_log(&mut progress) => walked,
                () = ended(ending) => Err(Error::Sealed),
            };
            let verdict = match walked {
                Err(e) => Err(status(&e)),
                Ok(report) => {
                    let head = vault.checkpoint().await.ok();
                    let verdict = v1::VerifyVerdict {
                        intact: report.fault.is_none(),
                        entries_checked: report.entries,
                        checkpoint: head.as_ref().map(wire::checkpoint),
                        reason: report.fault.map_or_else(String::new, |f| f.to_string()),
                        index: report.fault.and_then(|f| f.index()),
                    };
                    let step = v1::verify_log_response::Step::Verdict(verdict);
                    Ok(v1::VerifyLogResponse { step: Some(step) })
                }
            };
            // A caller who does not read it keeps no keys meanwhile.
            drop(vault);
            let _gone = to.send(verdict).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(steps))))
    }
}

/// How many entries one listing looks through: a search that finds little comes back with a page token.
const LOOKED: u64 = 100_000;

fn expected(header: Option<&v1::ChangeHeader>) -> Option<u64> {
    header.and_then(|h| h.expected_epoch)
}

fn optional<T>(text: &str, parse: impl Fn(&str) -> Result<T, Error>) -> Result<Option<T>, Error> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}
