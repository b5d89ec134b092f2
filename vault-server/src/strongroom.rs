//! The room that the vault stands in: open, or sealed, and how it goes from one to the other while the process runs.
//!
//! While it is sealed no key is in memory: the vault, everything that serves from it and every task that works on it are gone,
//! and only the store stays open, which sees bytes. Each request asks here for what serves it, and gets it or is told that the
//! vault is sealed ([`Passage`]).
//!
//! Shares are taken without a word until there are enough; then they are tried together and forgotten, whatever comes of it.
//! Refused: more than [`TRIES`] wrong sets in [`TRIES_WINDOW`], whoever the policy does not list among its operators, and to open
//! a vault while something still holds the one from before: two of them would write over each other.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;
use vault_core::custody::{Custodian, Share, Shares, SplitId};
use vault_core::error::Error;
use vault_core::name::PrincipalName;
use vault_core::store::Store;
use vault_core::time::{Clock, Timestamp};
use vault_core::vault::{Entrant, ErasureStep, Place, Remains, Vault};
use vault_proto::v1::{admin_server::AdminServer, vault_server::VaultServer};

use crate::admin::AdminService;
use crate::failure::status;
use crate::memory::scrub_stack;
use crate::service::VaultService;
use crate::shutdown::{Shutdown, Trigger};

/// How long shares wait for the others: custodians may be on different continents, and are called one after the other.
const SHARE_LIFE: Duration = Duration::from_hours(1);

/// How many sets of shares may be wrong within [`TRIES_WINDOW`]. A share cannot be guessed: this keeps the log readable, and a
/// holder of an operator's certificate from keeping the others out by noise unseen.
const TRIES: usize = 10;

/// What is told where something did not let go of the keys in time.
const REMAINS: &str = "the vault is sealed and serves nothing, but work that had begun before still holds its keys, most likely at a \
     custodian's device that does not answer: they are wiped when it ends; stop the process to wipe them now";

/// The time that [`TRIES`] are counted over.
const TRIES_WINDOW: Duration = Duration::from_mins(10);

/// How long requests under way may take once the vault is being sealed: then they are cut.
const FINISH: Duration = Duration::from_secs(10);

/// How often it is looked whether shares have waited for too long.
const SHARES_LOOK: Duration = Duration::from_mins(1);

/// How often it is looked whether they have finished.
const LOOK: Duration = Duration::from_millis(10);

/// How long whatever still holds the keys may take once everything was cut. Stretching a passphrase takes the longest.
const LET_GO: Duration = Duration::from_secs(30);

/// What serves from a vault that is open.
pub struct Furnished {
    /// The data plane.
    pub data: VaultServer<VaultService>,
    /// The operators' plane.
    pub admin: AdminServer<AdminService>,
    /// What works on it in the background; each ends when the vault's [`Shutdown`] drains.
    pub tasks: Vec<JoinHandle<()>>,
}

/// Makes what serves from a vault, each time that it is opened.
pub type Furnish = dyn Fn(&Vault, &Shutdown) -> Furnished + Send + Sync;

/// Which custodian of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// The one of `[custodian]`.
    Own,
    /// The one of `[custodian.other]`, which may have taken the first one's place.
    Other,
}

/// Asks a custodian of the settings; `None` where that is people with shares, or where there is none.
pub type Ask = dyn Fn(Whom) -> Result<Option<Box<dyn Custodian>>, Error> + Send + Sync;

/// Is told whether the vault serves, each time that this changes.
pub type Told = dyn Fn(bool) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// What the room is made of.
pub struct Parts {
    /// The store, which stays open while the vault is sealed: nobody else opens the folder meanwhile.
    pub store: Arc<dyn Store>,
    /// Where the vault lies in it.
    pub place: Box<dyn Fn() -> Place + Send + Sync>,
    /// The vault's clock.
    pub clock: Arc<dyn Clock>,
    /// Whether people with shares open it.
    pub people: bool,
    /// Who else does.
    pub ask: Box<Ask>,
    /// What serves from it.
    pub furnish: Box<Furnish>,
    /// Who hears of it.
    pub told: Box<Told>,
}

struct Open {
    vault: Vault,
    furnished: Furnished,
    trigger: Trigger,
    ending: Shutdown,
}

/// What custodians brought so far. Dropped, the shares are wiped.
#[derive(Default)]
struct Brought {
    shares: Vec<(Share, Entrant)>,
    /// When the newest came.
    at: Option<Timestamp>,
    /// When sets did not open, the newest last.
    wrong: Vec<Timestamp>,
    /// Of the vault that was sealed last.
    before: Option<Remains>,
}

/// Whether the vault is sealed, and what it takes to open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Whether it is.
    pub sealed: bool,
    /// What opens it.
    pub custodian: &'static str,
    /// Of shares: how many open, how many there are, and the split's name.
    pub split: Option<(u8, u8, SplitId)>,
    /// How many shares are entered, right or wrong.
    pub entered: usize,
    /// The vault's id.
    pub vault: [u8; 16],
}

/// The room.
pub struct Strongroom {
    parts: Parts,
    open: RwLock<Option<Open>>,
    /// Held by whoever opens or closes: one at a time.
    brought: Mutex<Brought>,
}

impl Strongroom {
    /// A room whose vault is sealed. In a runtime: shares that are entered are wiped when their time is over, whether or not
    /// somebody asks by then.
    #[must_use]
    pub fn sealed(parts: Parts) -> Arc<Self> {
        let room = Arc::new(Self { parts, open: RwLock::new(None), brought: Mutex::default() });
        tokio::spawn(forget_in_time(Arc::downgrade(&room)));
        room
    }

    /// Puts a vault that was opened otherwise in the room: at start.
    pub async fn stand(&self, vault: Vault) {
        let _one_at_a_time = self.brought.lock().await;
        self.serve(vault).await;
    }

    /// The vault, for one request. [`Error::Sealed`] if there is none.
    pub fn vault(&self) -> Result<Vault, Error> {
        self.of_open(|open| open.vault.clone()).ok_or(Error::Sealed)
    }

    /// The store's engine.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.parts.store.engine()
    }

    /// How it stands.
    pub async fn seal_state(&self) -> Result<Seal, Error> {
        let mut brought = self.brought.lock().await;
        brought.forget_old(self.parts.clock.now());
        self.state(brought.shares.len()).await
    }

    async fn state(&self, entered: usize) -> Result<Seal, Error> {
        let standing = Vault::standing(self.parts.store.as_ref()).await?;
        let split = standing.split.map(|s| (s.threshold, s.shares(), s.id));
        let sealed = self.of_open(|_| ()).is_none();
        let custodian = if self.parts.people { "shares" } else { standing.other.unwrap_or("shares") };
        Ok(Seal { sealed, custodian, split, entered, vault: standing.vault })
    }

    /// Takes one share. If there are enough by then, the vault is opened with them or all of them are forgotten.
    ///
    /// Errors: [`Error::Custody`] if they do not open, or one who brought them is no operator: never which; malformed `share`
    /// where the custodian is none of shares; [`Error::Budget`] after too many tries; [`Error::Config`] while something holds
    /// the vault from before; as at [`Vault::unseal`].
    pub async fn enter(&self, share: Share, by: Entrant) -> Result<Seal, Error> {
        let mut brought = self.brought.lock().await;
        let now = self.parts.clock.now();
        brought.forget_old(now);
        let state = self.state(brought.shares.len()).await?;
        if !state.sealed {
            return Ok(state);
        }
        let Some((threshold, ..)) = state.split else {
            return Err(Error::malformed("share", "is of no use: this vault's custodian is not shares"));
        };
        brought.may_try(now)?;
        brought.nothing_remains()?;
        brought.take(share, by, now);
        if brought.shares.len() < threshold.into() {
            return self.state(brought.shares.len()).await;
        }
        let (shares, by): (Vec<Share>, Vec<Entrant>) =
            std::mem::take(&mut brought.shares).into_iter().unzip();
        let names: Vec<String> = by.iter().map(|entrant| entrant.name.clone()).collect();
        let opened = match Shares::of(&shares) {
            Ok(together) => self.unseal_with(Box::new(together), by).await,
            Err(e) => Err(e),
        };
        drop(shares);
        scrub_stack();
        match opened {
            Ok(()) => {
                brought.wrong.clear();
                self.state(0).await
            }
            Err(why @ (Error::Custody | Error::Denied)) => {
                brought.wrong.push(now);
                tracing::warn!(problem = %why, principal = %names.join(", "), "the shares that were entered do not open the vault, or not by these operators; all are forgotten");
                Err(Error::Custody)
            }
            Err(e) => Err(e),
        }
    }

    /// Asks the custodian of the settings again.
    ///
    /// Errors: [`Error::Custody`] where that is people with shares, or it cannot be asked or does not open; [`Error::Denied`] for
    /// who is no operator; as at [`Vault::unseal`].
    pub async fn unseal(&self, by: Entrant) -> Result<Seal, Error> {
        let mut brought = self.brought.lock().await;
        let now = self.parts.clock.now();
        let state = self.state(brought.shares.len()).await?;
        if !state.sealed {
            return Ok(state);
        }
        brought.may_try(now)?;
        brought.nothing_remains()?;
        let mut opened = Err(Error::Custody);
        for whom in [Whom::Own, Whom::Other] {
            if opened != Err(Error::Custody) {
                break;
            }
            if let Some(custodian) = (self.parts.ask)(whom)? {
                opened = self.unseal_with(custodian, vec![by.clone()]).await;
            }
        }
        if let Err(why @ (Error::Custody | Error::Denied)) = &opened {
            brought.wrong.push(now);
            tracing::warn!(problem = %why, principal = %by.name, "the custodian of the settings does not open the vault, or not for this operator");
        }
        opened?;
        brought.shares.clear();
        self.state(0).await
    }

    /// Forgets the shares that were entered, at somebody's word.
    pub async fn forget(&self, by: &Entrant) -> Result<Seal, Error> {
        let mut brought = self.brought.lock().await;
        let entered = brought.shares.len();
        brought.shares.clear();
        tracing::warn!(principal = %by.name, count = entered, "the shares that were entered are forgotten at an operator's word");
        self.state(0).await
    }

    /// Closes the vault at an operator's word. Once this is done no key is left in memory.
    ///
    /// Errors: what kept the log from saying so: it is sealed all the same; [`Error::Config`] if something still holds the
    /// keys, which stay in memory until it lets go, and the vault closed until then.
    pub async fn seal(&self, by: &PrincipalName) -> Result<Seal, Error> {
        let mut brought = self.brought.lock().await;
        brought.shares.clear();
        if let Some(vault) = self.clear().await {
            let said = vault.seal(by).await;
            let gone = let_go(&vault, LET_GO).await;
            let remains = vault.remains();
            drop(vault);
            scrub_stack();
            if gone {
                tracing::info!("sealed: the vault's keys are wiped");
            } else {
                tracing::error!("{REMAINS}");
                tokio::spawn(told_when_gone(remains.clone()));
                brought.before = Some(remains);
            }
            said?;
        }
        brought.nothing_remains()?;
        self.state(0).await
    }

    /// Ends streams and background work: the process is about to stop.
    pub fn drain(&self) {
        self.of_open(|open| open.trigger.drain());
    }

    /// Closes the vault for good, where it is open.
    pub async fn close(&self) -> Result<(), Error> {
        let _one_at_a_time = self.brought.lock().await;
        match self.clear().await {
            Some(vault) => vault.close().await,
            None => Ok(()),
        }
    }

    fn of_open<T>(&self, take: impl FnOnce(&Open) -> T) -> Option<T> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(take)
    }

    /// Opens the vault, on a thread where stretching a secret keeps nobody waiting.
    async fn unseal_with(&self, custodian: Box<dyn Custodian>, by: Vec<Entrant>) -> Result<(), Error> {
        let place = (self.parts.place)();
        let runtime = tokio::runtime::Handle::current();
        let opening = move || {
            let opened = runtime.block_on(async {
                let vault = Vault::unseal(place, custodian.as_ref(), &by).await?;
                // What waits for the custodian is done while it is here: people with shares are not asked again.
                if let Ok(ErasureStep::Due) = vault.erasing().await
                    && let Err(e) = vault.follow_esk(&[custodian.as_ref()]).await
                {
                    tracing::error!(problem = %e, "a new erasure key could not be put in force");
                }
                Ok::<_, Error>(vault)
            });
            drop(custodian);
            scrub_stack();
            opened
        };
        let vault = tokio::task::spawn_blocking(opening).await.map_err(|_| Error::internal())??;
        self.serve(vault).await;
        tracing::info!("unsealed: the vault serves");
        Ok(())
    }

    async fn serve(&self, vault: Vault) {
        let (trigger, ending) = Trigger::new();
        let furnished = (self.parts.furnish)(&vault, &ending);
        let open = Open { vault, furnished, trigger, ending };
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(open);
        (self.parts.told)(true).await;
    }

    /// Takes the vault out: nothing new reaches it, what is under way finishes or is cut. What comes back is the last one who
    /// holds it, or nearly: writing down that it is closed ends what still waits for the journal.
    async fn clear(&self) -> Option<Vault> {
        let open = self.open.write().unwrap_or_else(PoisonError::into_inner).take()?;
        (self.parts.told)(false).await;
        let Open { vault, furnished, trigger, ending } = open;
        let Furnished { data, admin, tasks } = furnished;
        drop((data, admin, ending));
        trigger.drain();
        let finish = async {
            for task in tasks {
                // One that broke down is gone as well.
                let _ended = task.await;
            }
            let_go(&vault, FINISH).await;
        };
        // A task that waits for a device may take longer than any request.
        let _finished = tokio::time::timeout(FINISH, finish).await;
        trigger.stop();
        Some(vault)
    }
}

/// Wipes shares whose time is over, for as long as there is a room.
async fn forget_in_time(room: Weak<Strongroom>) {
    loop {
        tokio::time::sleep(SHARES_LOOK).await;
        let Some(room) = room.upgrade() else { return };
        let mut brought = room.brought.lock().await;
        brought.forget_old(room.parts.clock.now());
    }
}

/// Says when the keys of a vault that was sealed are gone at last.
async fn told_when_gone(remains: Remains) {
    while !remains.are_gone() {
        tokio::time::sleep(LOOK).await;
    }
    tracing::info!("what held the sealed vault's keys has let go: they are wiped");
}

/// Waits until nobody else holds the vault, for so long.
async fn let_go(vault: &Vault, most: Duration) -> bool {
    let alone = async {
        while vault.holders() > 1 {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(most, alone).await.is_ok()
}

impl Brought {
    fn forget_old(&mut self, now: Timestamp) {
        let over = |at: &Timestamp, life: Duration| u128::from(now.ms_since(*at)) >= life.as_millis();
        if self.at.as_ref().is_some_and(|at| over(at, SHARE_LIFE)) {
            self.shares.clear();
        }
        self.wrong.retain(|at| !over(at, TRIES_WINDOW));
    }

    /// Nothing holds the vault that was sealed last.
    fn nothing_remains(&mut self) -> Result<(), Error> {
        self.before = self.before.take().filter(|remains| !remains.are_gone());
        if self.before.is_some() { Err(Error::Config(REMAINS.to_owned())) } else { Ok(()) }
    }

    fn may_try(&mut self, now: Timestamp) -> Result<(), Error> {
        self.forget_old(now);
        match self.wrong.first() {
            Some(oldest) if self.wrong.len() >= TRIES => {
                let window = u64::try_from(TRIES_WINDOW.as_millis()).unwrap_or(u64::MAX);
                Err(Error::Budget { retry_after_ms: window.saturating_sub(now.ms_since(*oldest)).max(1) })
            }
            _ => Ok(()),
        }
    }

    /// One share of a number: the newest, so that whoever brought a wrong one mends it. There are no more than 16 numbers.
    fn take(&mut self, share: Share, by: Entrant, now: Timestamp) {
        let by = Entrant { share: Some(share.number()), ..by };
        self.shares.retain(|(other, _)| other.number() != share.number());
        self.shares.push((share, by));
        self.at = Some(now);
    }
}

/// A request's way to what serves it while the vault is open. While it is sealed, most are told so.
pub struct Passage<S> {
    room: Arc<Strongroom>,
    to: fn(&Furnished) -> S,
    meanwhile: Option<Arc<Meanwhile>>,
}

/// An answer on its way.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// What is answered also while the vault is sealed.
pub struct Meanwhile {
    /// The one method, as a path.
    pub path: &'static str,
    /// Who answers it.
    pub answer: Box<dyn Fn(Request<Body>) -> Answering + Send + Sync>,
}

impl<S> Clone for Passage<S> {
    fn clone(&self) -> Self {
        Self { room: self.room.clone(), to: self.to, meanwhile: self.meanwhile.clone() }
    }
}

impl Passage<VaultServer<VaultService>> {
    /// To the data plane: while the vault is sealed, to nothing.
    #[must_use]
    pub fn data(room: Arc<Strongroom>) -> Self {
        Self { room, to: |furnished| furnished.data.clone(), meanwhile: None }
    }
}

impl Passage<AdminServer<AdminService>> {
    /// To the operators' plane: while the vault is sealed, to what `meanwhile` answers.
    #[must_use]
    pub fn admin(room: Arc<Strongroom>, meanwhile: Meanwhile) -> Self {
        let meanwhile = Some(Arc::new(meanwhile));
        Self { room, to: |furnished| furnished.admin.clone(), meanwhile }
    }
}

impl<S: NamedService> NamedService for Passage<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Passage<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let found = self.room.of_open(|open| ((self.to)(&open.furnished), open.ending.clone()));
        let meanwhile = self.meanwhile.clone().filter(|m| m.path == request.uri().path());
        Box::pin(async move {
            let sealed = || status(&Error::Sealed).into_http();
            match found {
                Some((mut server, mut ending)) => tokio::select! {
                    answer = server.call(request) => answer,
                    () = ending.stopping() => Ok(sealed()),
                },
                None => match meanwhile {
                    Some(meanwhile) => Ok((meanwhile.answer)(request).await),
                    None => Ok(sealed()),
                },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use vault_core::custody::Passphrase;
    use vault_core::network::Networks;
    use vault_core::policy::Policy;
    use vault_core::store::{self, Engine, Options};
    use vault_core::time::ManualClock;

    use super::*;
    use crate::metrics::{Door, Metrics};
    use crate::rig::Rig;
    use crate::settings::Settings;
    use crate::tls::Tls;

    const OPERATORS: [u8; 32] = [7; 32];

    fn policy() -> Policy {
        let key = data_encoding::HEXLOWER.encode(&OPERATORS);
        let text = format!(
            "[[authority]]\nid = \"operators\"\nsha256 = \"{key}\"\n\
             [[operator]]\nid = \"olga\"\nauthority = \"operators\"\nname = \"olga\"\n"
        );
        Policy::from_toml(&text).unwrap()
    }

    fn custodian() -> Box<dyn Custodian> {
        Box::new(Passphrase::new(b"correct horse".to_vec().into()).unwrap())
    }

    fn olga() -> Entrant {
        Entrant { authority: OPERATORS, name: "olga".to_owned(), share: None }
    }

    /// A vault on disk, its room, and what both are made of.
    struct House {
        rig: Rig,
        clock: Arc<ManualClock>,
        room: Arc<Strongroom>,
    }

    async fn house() -> House {
        let rig = Rig::new();
        let clock = Arc::new(ManualClock::at(crate::rig::now()));
        fs::create_dir(rig.path("store")).unwrap();
        let store: Arc<dyn Store> =
            store::create(&rig.path("store"), Engine::Redb, &Options::default()).unwrap();
        let (esk, timed) = (rig.path("store").join("esk"), clock.clone());
        let within = store.clone();
        let place = move || Place { clock: timed.clone(), ..Place::new(within.clone(), esk.clone()) };
        let vault = Vault::create(place(), &*custodian(), policy()).await.unwrap();
        fs::write(rig.path("passphrase"), "correct horse").unwrap();
        fs::set_permissions(rig.path("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
        let text = "[store]\nfolder = \"store\"\n[custodian]\npassphrase_file = \"passphrase\"\n\
                    [listen]\naddress = \"127.0.0.1:0\"\n\
                    [tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\nclient_ca = { shop = \"shop.pem\" }\n";
        fs::write(rig.path("vault.toml"), text).unwrap();
        let settings = Settings::read(&rig.path("vault.toml")).unwrap();
        let metrics = Metrics::new(&[]);
        let timed: Arc<dyn Clock> = clock.clone();
        let tls = Tls::open(rig.files(), Door::Data, timed.clone(), metrics.clone()).unwrap();
        let furnish = move |vault: &Vault, ending: &Shutdown| {
            let networks = Arc::new(Networks::default());
            let data = VaultService::new(
                vault.clone(),
                networks,
                metrics.clone(),
                tls.clone(),
                timed.clone(),
                1 << 20,
                ending.clone(),
            );
            let admin = AdminService::new(
                vault.clone(),
                timed.clone(),
                Vec::new(),
                metrics.clone(),
                (&settings).into(),
            );
            Furnished { data: VaultServer::new(data), admin: AdminServer::new(admin), tasks: Vec::new() }
        };
        let room = Strongroom::sealed(Parts {
            store,
            place: Box::new(place),
            clock: clock.clone(),
            people: false,
            ask: Box::new(|whom| Ok((whom == Whom::Own).then(custodian))),
            furnish: Box::new(furnish),
            told: Box::new(|_| Box::pin(async {})),
        });
        room.stand(vault).await;
        House { rig, clock, room }
    }

    // What waits is waited for in the runtime's own time, which goes on as soon as nothing else is to be done.
    #[tokio::test(start_paused = true)]
    async fn a_vault_is_not_opened_beside_what_holds_the_one_that_was_sealed() {
        let house = house().await;
        let olga_alone = PrincipalName::parse("olga").unwrap();
        let holds = house.room.vault().unwrap();
        assert_eq!(house.room.seal(&olga_alone).await, Err(Error::Config(REMAINS.to_owned())));
        assert_eq!(house.room.vault().err(), Some(Error::Sealed), "it serves nothing all the same");
        assert_eq!(house.room.unseal(olga()).await, Err(Error::Config(REMAINS.to_owned())));
        assert_eq!(
            house.room.seal(&olga_alone).await,
            Err(Error::Config(REMAINS.to_owned())),
            "it asks again"
        );
        drop(holds);
        assert!(house.room.seal(&olga_alone).await.unwrap().sealed);
        assert!(!house.room.unseal(olga()).await.unwrap().sealed);
        assert!(house.room.vault().is_ok());
        drop(house.rig);
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_waits_an_hour_and_is_forgotten_when_the_vault_opens_otherwise() {
        let house = house().await;
        let by = PrincipalName::parse("olga").unwrap();
        let vault = house.room.vault().unwrap();
        let standing = vault.standing_of().await.unwrap();
        let (people, shares) = Shares::split(&standing.vault, 2, 3).unwrap();
        vault.add_custodian(&by, &people, None).await.unwrap();
        drop(vault);
        house.room.seal(&by).await.unwrap();
        let held = async || house.room.brought.lock().await.shares.len();
        let share = |at: usize| Share::parse(shares[at].expose_text().as_bytes()).unwrap();
        assert_eq!(house.room.enter(share(0), olga()).await.unwrap().entered, 1);
        house.clock.set(crate::rig::now().plus_ms(60 * 60 * 1_000 - 1));
        tokio::time::sleep(2 * SHARES_LOOK).await;
        assert_eq!(held().await, 1, "its hour is not over");
        house.clock.set(crate::rig::now().plus_ms(60 * 60 * 1_000));
        tokio::time::sleep(2 * SHARES_LOOK).await;
        assert_eq!(held().await, 0, "and nobody asked");
        // The other custodian opens the vault: what was brought meanwhile does not stay beside it.
        assert_eq!(house.room.enter(share(1), olga()).await.unwrap().entered, 1);
        assert!(!house.room.unseal(olga()).await.unwrap().sealed);
        assert_eq!(held().await, 0);
        drop(house.rig);
    }
}
