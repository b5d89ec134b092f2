//! The vault: its verbs, each written as its own list of steps.
//!
//! A request walks through the rooms once: the policy admits it, the keyring finds the card, the policy permits it, the
//! journal puts that on disk, the keyring opens the card. A step that finds its premises gone (a lock was set, another
//! request was first) makes the verb decide anew, a bounded number of times.

mod amend;
mod blocking;
mod cards;
mod codes;
mod compromise;
mod custodians;
mod customers;
mod erasing;
mod esk;
mod guesses;
mod kept;
mod keys;
mod known;
mod life;
mod operate;
mod replace;
mod request;
mod resealing;
mod rotate;
mod running;
mod seal;
mod space;
mod sweep;
#[cfg(test)]
mod tests;
mod token_root;
mod tokenize;
mod translate;
mod unseal;
mod verify;
mod view;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

pub use blocking::Blocking;
pub use codes::{CODE_LIFE_MS, CodeTicket, MAX_CODES, SecurityCode};
pub use compromise::{Compromise, Healing, MAX_COUNTED_CUSTOMERS, Shredded, Under, healing};
pub use customers::MAX_LISTED;
pub use erasing::{ERASURE_DELAY_HOURS, ErasureStep, ErasureWork};
pub use keys::KeyLine;
pub use operate::{MAX_ENTRIES, MAX_NOTE, PolicyChange, Status};
pub use request::{
    AttributesUpdate, Brought, CardToDelete, ChangedToken, CodeHeld, CodeRead, Completed, Context, Deleted,
    Detokenized, EarlierCard, Erased, Fingerprinted, GivenCard, Header, Inspected, Listed, ListedToken,
    MAX_BATCH, MAX_CONTEXT, NewCard, Outgoing, Replaced, Replacement, RequestId, Reveal, Revealed,
    Revocation, RevokedToken, SealedNewCard, SealingKey, TokenStanding, Tokenized, Translation,
    UpgradedToken, Wanted,
};
pub use resealing::{RESEAL_PAGE, ResealProgress, ResealStep};
pub use space::{FormatSpaces, KnownSpace, NEARLY_FULL_PERCENT, SCARCE_PERCENT, SpaceState, SpaceUse};
pub use token_root::{TokenRoots, TokensUpgraded};
pub use unseal::{Entrant, Remains, Standing};
pub use verify::{Finding, StoreReport};

use crate::audit::entry::{Event, Who};
use crate::audit::handover;
use crate::audit::note::{LogSigner, LogVerifier, Origin};
use crate::control::{Control, Epoch, Header as VaultHeader, LogRecord, control_key, epoch_key, header_key};
use crate::custody::Custodian;
use crate::envelope::{Ctl, Esk, KeyId, KeyKind, KeyMaterial, Log, Root};
use crate::error::Error;
use crate::journal::{self, Filing, Journal, Opening};
use crate::keyring::Keyring;
use crate::network::Networks;
use crate::policy::{Policy, Rules, Statement};
use crate::recent::{REMEMBERED_ROWS, RecentRows};
use crate::rows;
use crate::store::{MAX_SCAN, Part, Store, StoreError, Write};
use crate::survivors::Esks;
use crate::time::{Clock, SystemClock, Timestamp};
use crate::uses::{Begun, Uses};

/// How often a verb decides anew before it says that the vault is overloaded. Each time, another request got through.
const MAX_ROUNDS: usize = 256;

/// The first log's number. A node of a shared store has one of its own.
const FIRST_LOG: u32 = 0;

/// What a vault is made of or opened with.
pub struct Place {
    /// The engine.
    pub store: Arc<dyn Store>,
    /// The file of the erasure epoch key, beside the store.
    pub esk: PathBuf,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Card networks by prefix.
    pub networks: Arc<Networks>,
    /// How many changed rows are remembered against roll-back.
    pub remembered_rows: usize,
}

impl Place {
    /// A store and its key file, with the machine's clock and the built-in networks.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, esk: PathBuf) -> Self {
        Self {
            store,
            esk,
            clock: Arc::new(SystemClock),
            networks: Arc::new(Networks::builtin()),
            remembered_rows: REMEMBERED_ROWS,
        }
    }
}

/// What is in force: one version of Control, spread and unwrapped.
struct State {
    control: Control,
    epoch: Epoch,
    rules: Rules,
    keyring: Keyring,
    top: Arc<Top>,
    uses: Uses,
    /// The public keys of the log.
    log: Arc<LogVerifier>,
    /// The erasure epoch keys.
    esks: Arc<Esks>,
}

/// What stands above Control: the header row as it is, and the two keys that it leads to.
struct Top {
    header: VaultHeader,
    root: Arc<Root>,
    ctl: Arc<Ctl>,
}

impl Top {
    /// The root and its number, as what is wrapped under it needs them.
    fn root(&self) -> (&Root, KeyId) {
        (&self.root, self.header.root.0)
    }
}

struct Inner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    networks: Arc<Networks>,
    journal: Journal,
    state: RwLock<Arc<State>>,
    recent: Arc<RecentRows>,
    running: running::Running,
    codes: codes::Cells,
    spaces: space::Watch,
    told: keys::Told,
    /// Held by whoever changes Control, and by what they asked the journal for until it is done or not done: a caller who goes
    /// away lets nobody in before that.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// Held by whoever changes the files of erasure epoch keys; while customers move, the newest one's as it was written.
    custody: tokio::sync::Mutex<Option<esk::Print>>,
    resealing: tokio::sync::Mutex<resealing::Resealing>,
    erasing: tokio::sync::Mutex<erasing::Erasing>,
    vault: [u8; 16],
    esk_file: PathBuf,
}

/// A vault that is open. Cheap to clone; the last clone to be dropped lets the journal finish and closes it.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

/// The name of a vault's log, as its checkpoints begin: `pv1/`, the vault's id in hexadecimal, `/`, the log's number.
fn origin(vault: &[u8; 16], log: u32) -> Result<Origin, Error> {
    let text = format!("pv1/{}/{log}", data_encoding::HEXLOWER.encode(vault));
    Origin::parse(&text).map_err(|_| Error::internal())
}

impl Vault {
    /// Makes a vault in an empty store, with `policy` in force, and opens it. The erasure epoch key is on disk before the
    /// vault is; a store in which a vault stands already is refused and not touched.
    pub async fn create(place: Place, custodian: &dyn Custodian, policy: Policy) -> Result<Self, Error> {
        let held = place.store.get(&[header_key(), control_key(), epoch_key()]).await?;
        if held.iter().any(Option::is_some) || esk::stands(&place.esk) {
            return Err(Error::Store(StoreError::Exists));
        }
        policy.check_prefixes(&place.networks)?;
        let now = place.clock.now();
        let vault: [u8; 16] = crate::random::bytes()?;
        let (root, esk) = (Root::generate()?, Esk::generate()?);
        let mut control = Control::first(now);
        let root_id = control.note_held(KeyKind::Root, root.check_value(), now);
        let esk_id = control.note_held(KeyKind::Esk, esk.check_value(), now);
        let (ctl_id, ctl) = control.draw::<Ctl, Root>(None, (&root, root_id), now)?;
        let (log_key, seed) = control.add_own_keys((&root, root_id), now)?;
        let signer = signer(&vault, &seed)?;
        let verifier = signer.verifier().to_string();
        control.logs.push(LogRecord { id: FIRST_LOG, key: log_key, verifier, earlier: Vec::new() });
        control.apply(policy, (&root, root_id), now)?;
        Rules::of(&control)?;

        let header = VaultHeader {
            vault,
            custody: vec![custodian.wrap(root.secret(), KeyKind::Root, &vault)?],
            root: (root_id, 1),
            ctl: (ctl_id, 1, control.wrap_of(ctl_id)?),
        };
        let (row, epoch) = control.seal(&vault, ctl_id, &ctl)?;
        let mut writes = Control::writes(row, &epoch);
        writes.push(Write::Put(header_key(), header.encode()));
        let of = header.custody.first().ok_or_else(Error::internal)?;
        esk::write(&place.esk, esk_id, esk::Held::by(custodian, &esk, &vault, of)?, &vault)?;
        let founding = journal::found(FIRST_LOG, &signer, &epoch, header_key(), writes, now);
        let store = place.store.clone();
        founding_commit(&store, &founding)?;
        esk::settle(&place.esk)?;
        Self::open(place, custodian).await
    }

    /// Opens a vault. Everything is checked before anything is written: the custodian's secret, Control against the
    /// newest checkpoint, the log's edge against its signed root.
    pub async fn open(place: Place, custodian: &dyn Custodian) -> Result<Self, Error> {
        Self::open_if(place, custodian, |_| Ok(())).await
    }

    /// The same where what is in force allows it.
    async fn open_if(
        place: Place,
        custodian: &dyn Custodian,
        allowed: impl Fn(&Rules) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let Place { store, esk: esk_file, clock, networks, remembered_rows } = place;
        let rows = store.get(&[header_key(), control_key(), epoch_key()]).await?;
        let mut rows = rows.into_iter();
        let mut row = || rows.next().flatten();
        let (header, control_row, epoch_row) = (row(), row(), row());
        let header = VaultHeader::decode(&header.ok_or(Error::Store(StoreError::Missing))?)?;
        let damaged = || Error::Store(StoreError::Corrupt);
        let control_row = control_row.ok_or_else(damaged)?;
        let epoch = Epoch::decode(&epoch_row.ok_or_else(damaged)?).map_err(|_| damaged())?;
        let (root, ctl) = header.unlock(custodian)?;
        let control = Control::open(&control_row, &epoch, &header.vault, header.ctl.0, &ctl)?;
        let esk_id = control.active(KeyKind::Esk, None).ok_or_else(damaged)?.id;
        let older = control.older_esk().map(|k| (k.id, k.drained_at.is_some()));
        let esks = esk::read_all(&esk_file, custodian, &header.vault, (esk_id, older), &header.custody)?;
        esk::fits(&esks, &control)?;
        let written = older.map(|_| esk::Print::of_newest(&esk_file)).transpose()?;
        let esks = Arc::new(esks);
        let rules = Rules::of(&control)?;
        allowed(&rules)?;
        let (uses, blocks, begun) = uses_of(store.as_ref()).await?.begin(&control);
        let keyring = Keyring::unwrap(&control, &root, esks.clone(), &uses)?;
        let log = control.logs.iter().find(|l| l.id == FIRST_LOG).ok_or_else(damaged)?;
        let key = control.keys.iter().find(|k| k.id == log.key).ok_or_else(damaged)?;
        let signer = signer(&header.vault, &key.unwrap::<Log, Root>(&root)?)?;
        if signer.verifier().to_string() != log.verifier {
            return Err(damaged());
        }
        let verifier = handover::verifier(store.as_ref(), FIRST_LOG, &log.verifiers()).await;
        let verifier = verifier.map_err(|_| damaged())?;
        let end = journal::end_of(store.as_ref(), FIRST_LOG, &verifier, &epoch).await?;
        let recent = Arc::new(RecentRows::new(remembered_rows));
        let journal = Journal::open(Opening {
            store: store.clone(),
            log: FIRST_LOG,
            signer,
            end: Some(end),
            epoch,
            clock: clock.clone(),
            recent: recent.clone(),
            uses: uses.clone(),
            signatures: uses.counter(log.key).ok_or_else(damaged)?,
        })?;
        let version = control.version;
        let (id, top) = (header.vault, Arc::new(Top { header, root: root.into(), ctl: ctl.into() }));
        let log = Arc::new(verifier);
        let state = RwLock::new(Arc::new(State { control, epoch, rules, keyring, top, uses, log, esks }));
        let vault = Self {
            inner: Arc::new(Inner {
                store,
                clock,
                networks,
                journal,
                state,
                recent,
                running: running::Running::default(),
                codes: codes::Cells::default(),
                spaces: space::Watch::default(),
                told: keys::Told::default(),
                changing: Arc::default(),
                custody: tokio::sync::Mutex::new(written),
                resealing: tokio::sync::Mutex::default(),
                erasing: tokio::sync::Mutex::default(),
                vault: id,
                esk_file,
            }),
        };
        vault.state_of_vault(Event::VaultOpened, version, blocks).await?;
        begun.iter().for_each(Begun::granted);
        Ok(vault)
    }

    /// The same verbs for programs without async.
    #[must_use]
    pub fn blocking(&self) -> Blocking {
        Blocking::of(self.clone())
    }

    /// Writes down that the vault closes, finishes what is waiting, and refuses all that comes later.
    pub async fn close(&self) -> Result<(), Error> {
        let version = self.state().epoch.version;
        let closed = self.state_of_vault(Event::VaultClosed, version, Part::default()).await;
        self.inner.journal.close();
        closed
    }

    /// The store's engine, its commits so far, and how many filings wait.
    #[must_use]
    pub fn load(&self) -> (&'static str, u64, usize) {
        (self.inner.store.engine(), self.inner.store.commits(), self.inner.journal.waiting())
    }

    /// Whether nothing can be written any more until the vault is opened anew.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.inner.journal.has_failed()
    }

    /// Looks whether header and Control lie in the store as they are in force. If not, somebody changed them by hand: from then
    /// on nothing is written, and so nothing disclosed, until the vault is opened anew, which looks as well.
    ///
    /// Whoever keeps a vault open calls it now and then; the server does each second. Errors: [`StoreError::Corrupt`] if not.
    pub async fn watch_frame(&self) -> Result<(), Error> {
        let state = self.state();
        let rows = self.inner.store.get(&[header_key(), control_key(), epoch_key()]).await?;
        let [header, control, epoch] = rows.as_slice() else { return Err(Error::internal()) };
        // A version that comes into force at this moment is looked at the next time; what every commit expects the journal
        // looks at itself.
        if epoch.as_deref() != Some(&state.epoch.encode()[..]) {
            return Ok(());
        }
        let control = control.as_ref().is_some_and(|row| Epoch::of(state.epoch.version, row) == state.epoch);
        if control && header.as_deref() == Some(&state.top.header.encode()[..]) {
            return Ok(());
        }
        self.inner.journal.fail();
        Err(Error::Store(StoreError::Corrupt))
    }

    /// What time it is: never before the newest entry of the log.
    fn now(&self) -> Timestamp {
        self.inner.clock.now().max(self.inner.journal.newest())
    }

    fn state(&self) -> Arc<State> {
        self.inner.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether what was decided came to nothing for being decided with the keys of an epoch that is over: rows are sealed and
    /// named by keys that it did not have.
    fn is_over(&self, state: &State, told: &Error) -> bool {
        matches!(told, Error::Overloaded | Error::Internal { .. })
            && self.state().epoch.version != state.epoch.version
    }

    fn put_in_force(inner: &Inner, state: State) {
        state.uses.limit(&state.control);
        *inner.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }

    async fn state_of_vault(&self, event: Event, epoch: u64, part: Part) -> Result<(), Error> {
        let statement = Statement { who: Who::Vault, merchant: None, channel: None, event, epoch };
        let answers = self.inner.journal.file(vec![Filing::State(statement, part)], None, None).await?;
        answers.into_iter().try_for_each(|a| a.map(|_| ()).map_err(Error::from))
    }
}

fn signer(vault: &[u8; 16], seed: &Log) -> Result<LogSigner, Error> {
    LogSigner::from_seed(origin(vault, FIRST_LOG)?, seed.secret()).map_err(|_| Error::internal())
}

/// What the store says of keys' uses.
async fn uses_of(store: &dyn Store) -> Result<Uses, Error> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|(key, _): &(Vec<u8>, Vec<u8>)| key.as_slice());
        let page = store.scan(&[rows::USES], after, MAX_SCAN).await?;
        if page.is_empty() {
            return Uses::of(FIRST_LOG, &all).map_err(|_| Error::Store(StoreError::Corrupt));
        }
        all.extend(page);
    }
}

fn founding_commit(store: &Arc<dyn Store>, batch: &crate::store::Batch) -> Result<(), Error> {
    use crate::store::CommitError;
    store.commit(batch).map_err(|e| match e {
        CommitError::Guard | CommitError::Parts(_) => Error::Store(StoreError::Exists),
        CommitError::Store(e) => Error::Store(e),
    })
}
