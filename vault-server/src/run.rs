//! Puts the rooms together and serves until told to stop.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use vault_core::custody::Custodian;
use vault_core::error::Error;
use vault_core::name::MerchantName;
use vault_core::network::Networks;
use vault_core::store::{self, Store, StoreError};
use vault_core::terms::Standing;
use vault_core::time::{Clock, SystemClock};
use vault_core::vault::{ErasureStep, KeyLine, Place, ResealStep, Vault};
use vault_proto::status::{Failure, Reason};
use vault_proto::v1;

use crate::admin::AdminService;
use crate::custodian::{Named, in_custody, wrong};
use crate::custody::CustodyService;
use crate::forward::Forwarder;
use crate::identity::PeerCertificate;
use crate::limits::ANSWER_BYTES;
use crate::listener::{self, Edge};
use crate::logs;
use crate::memory;
use crate::metrics::{self, Door, Health, Metrics};
use crate::request::TurnedAway;
use crate::service::VaultService;
use crate::settings::{Engine, Problem, Settings};
use crate::shutdown::{Phase, Shutdown, Trigger};
use crate::spaces::Warned;
use crate::strongroom::{Furnished, Parts, Passage, Strongroom, Whom};
use crate::tls::{self, Tls};

/// How often rows whose time is over are deleted.
const SWEEP: Duration = Duration::from_hours(1);

/// How often the store's counters are read onto the metrics page.
const COUNT: Duration = Duration::from_secs(1);

/// The health service, as reflection lists it.
const HEALTH: &str = "grpc.health.v1.Health";

/// The methods that have a line of their own on the metrics page.
const METHODS: &[&str] = &[
    "/vault.v1.Vault/Tokenize",
    "/vault.v1.Vault/Detokenize",
    "/vault.v1.Vault/Inspect",
    "/vault.v1.Vault/Revoke",
    "/vault.v1.Vault/BatchTokenize",
    "/vault.v1.Vault/BatchDetokenize",
    "/vault.v1.Vault/BatchInspect",
    "/vault.v1.Vault/BatchRevoke",
    "/vault.v1.Vault/Disable",
    "/vault.v1.Vault/Enable",
    "/vault.v1.Vault/UpdateAttributes",
    "/vault.v1.Vault/BatchDisable",
    "/vault.v1.Vault/BatchEnable",
    "/vault.v1.Vault/BatchUpdateAttributes",
    "/vault.v1.Vault/Replace",
    "/vault.v1.Vault/BatchReplace",
    "/vault.v1.Vault/Fingerprint",
    "/vault.v1.Vault/DeleteCard",
    "/vault.v1.Vault/BatchFingerprint",
    "/vault.v1.Vault/BatchDeleteCard",
    "/vault.v1.Vault/ListBySubject",
    "/vault.v1.Vault/EraseSubject",
    "/vault.v1.Vault/Translate",
    "/vault.v1.Vault/BatchTranslate",
    "/vault.v1.Vault/Upgrade",
    "/vault.v1.Vault/BatchUpgrade",
    "/vault.v1.Vault/StreamUpgrade",
    "/vault.v1.Vault/HoldSecurityCode",
    "/vault.v1.Vault/ReadSecurityCode",
    "/vault.v1.Vault/CompleteAuthorization",
    "/vault.v1.Vault/BatchHoldSecurityCode",
    "/vault.v1.Vault/BatchReadSecurityCode",
    "/vault.v1.Vault/BatchCompleteAuthorization",
    "/vault.v1.Vault/StreamTokenize",
    "/vault.v1.Vault/StreamDetokenize",
    "/vault.v1.Vault/Forward",
    "/vault.v1.Vault/GetSealingKey",
    "/vault.v1.Vault/GetCapabilities",
    "/vault.v1.Admin/GetStatus",
    "/vault.v1.Admin/ListKeys",
    "/vault.v1.Admin/RotateKey",
    "/vault.v1.Admin/ChangeCustodian",
    "/vault.v1.Admin/GetKeyWork",
    "/vault.v1.Admin/DestroyKey",
    "/vault.v1.Admin/DescribeKey",
    "/vault.v1.Admin/CompromiseKey",
    "/vault.v1.Admin/ShredKey",
    "/vault.v1.Admin/UpgradeTokens",
    "/vault.v1.Admin/CountTokenRoots",
    "/vault.v1.Admin/SetLock",
    "/vault.v1.Admin/ListLocks",
    "/vault.v1.Admin/LiftLock",
    "/vault.v1.Admin/GetPolicy",
    "/vault.v1.Admin/CheckPolicy",
    "/vault.v1.Admin/DiffPolicy",
    "/vault.v1.Admin/ApplyPolicy",
    "/vault.v1.Admin/ExplainPolicy",
    "/vault.v1.Admin/GetTokenSpace",
    "/vault.v1.Admin/ListTokenSpaces",
    "/vault.v1.Admin/ListAuditEntries",
    "/vault.v1.Admin/ProveReceipt",
    "/vault.v1.Admin/GetErasureCertificate",
    "/vault.v1.Admin/GetCheckpoint",
    "/vault.v1.Admin/VerifyLog",
    "/vault.v1.Custody/GetSeal",
    "/vault.v1.Custody/EnterShare",
    "/vault.v1.Custody/Unseal",
    "/vault.v1.Custody/ResetUnseal",
    "/vault.v1.Custody/Seal",
    "/vault.v1.Custody/AcceptCustody",
];

/// Why the server did not start.
#[derive(Debug)]
pub enum StartError {
    /// The settings are wrong: every problem at once.
    Settings(Vec<Problem>),
    /// The vault does not open.
    Vault(Error),
    /// The machine refuses something.
    Machine {
        /// What.
        what: &'static str,
        /// Its error.
        error: std::io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(problems) => {
                let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            Self::Vault(e) => write!(f, "the vault does not open: {e}"),
            Self::Machine { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<Error> for StartError {
    fn from(e: Error) -> Self {
        Self::Vault(e)
    }
}

fn machine(what: &'static str) -> impl Fn(std::io::Error) -> StartError {
    move |error| StartError::Machine { what, error }
}

/// Serves until SIGTERM or SIGINT: the first drains, the second stops. Blocks; makes a runtime of its own.
pub fn run(settings: &Settings) -> Result<(), StartError> {
    memory::forbid_core_images().map_err(machine("forbidding core images"))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let problems = settings.check(&clock);
    if !problems.is_empty() {
        return Err(StartError::Settings(problems));
    }
    memory::raise_open_files(settings.limits.open_files())
        .map_err(machine("raising the number of open files"))?;
    let runtime = memory::runtime().map_err(machine("starting worker threads"))?;
    let served = runtime.block_on(serve(settings, clock));
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

/// Opens the store that the settings name, and says where the file of the erasure epoch key is. A memory store is empty.
fn open_store(settings: &Settings) -> Result<(Arc<dyn Store>, PathBuf), StartError> {
    let folder: &Path = &settings.store.folder;
    let options = store::Options::default();
    let opened = match settings.store.engine {
        Engine::Redb | Engine::Sled => store::open(folder, &options),
        Engine::Memory => store::create(folder, store::Engine::Memory, &options),
    };
    let opened = opened.map_err(Error::Store)?;
    let (named, esk) = match settings.store.engine {
        Engine::Redb => ("redb", "esk"),
        Engine::Sled => ("sled", "esk"),
        Engine::Memory => ("memory", "esk-memory"),
    };
    if opened.engine() != named {
        return Err(StartError::Settings(vec![Problem {
            key: "store.engine".to_owned(),
            problem: format!("is {named}, but the folder holds {}", opened.engine()),
            remedy: "name the engine that the folder was made with".to_owned(),
        }]));
    }
    Ok((opened, folder.join(esk)))
}

/// Opens the vault with the custodian of the settings. In a memory store it is made first, with the policy that the settings
/// name. Nothing where the custodian is people with shares: then the vault stays sealed until they come.
async fn open_vault(settings: &Settings, place: impl Fn() -> Place) -> Result<Option<Vault>, StartError> {
    if settings.custodian.is_shares() {
        Vault::standing(place().store.as_ref()).await?;
        return Ok(None);
    }
    let custodian = settings.custodian.open().map_err(|p| StartError::Settings(vec![p]))?;
    let vault = match settings.store.engine {
        Engine::Redb | Engine::Sled => match Vault::open(place(), &*custodian).await {
            Err(Error::Custody) => open_by_other(settings, place()).await?,
            opened => opened?,
        },
        Engine::Memory => {
            let policy = settings.store.read_policy().map_err(|p| StartError::Settings(vec![p]))?;
            std::fs::create_dir_all(&settings.store.folder)
                .map_err(machine("store.folder cannot be made"))?;
            let place = place();
            // The key of the memory vault before this one opens nothing any more.
            if place.esk.exists() {
                std::fs::remove_file(&place.esk).map_err(machine("store.folder"))?;
            }
            Vault::create(place, &*custodian, policy).await?
        }
    };
    Ok(Some(vault))
}

/// What does not change while the process runs, whether its vault is open or sealed.
#[derive(Clone)]
struct House {
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    networks: Arc<Networks>,
    metrics: Arc<Metrics>,
    data: Arc<Tls>,
    doors: Vec<(&'static str, Arc<Tls>)>,
    forwarder: Arc<Forwarder>,
    reporter: HealthReporter,
    shutdown: Shutdown,
    /// Commits of the store that are on the metrics page already.
    counted: Arc<AtomicU64>,
}

impl House {
    /// Makes what serves from a vault, and what works on it, until `ending` drains.
    fn furnish(&self, vault: &Vault, ending: &Shutdown) -> Furnished {
        let (settings, clock) = (&self.settings, &self.clock);
        let message = usize::try_from(settings.limits.message_bytes).unwrap_or(usize::MAX);
        let data = VaultService::new(
            vault.clone(),
            self.networks.clone(),
            self.metrics.clone(),
            self.data.clone(),
            clock.clone(),
            settings.limits.message_bytes,
            ending.clone(),
        )
        .forwarding(self.forwarder.clone());
        let data = v1::vault_server::VaultServer::new(data)
            .max_decoding_message_size(message)
            .max_encoding_message_size(ANSWER_BYTES);
        let admin = AdminService::new(
            vault.clone(),
            clock.clone(),
            self.doors.clone(),
            self.metrics.clone(),
            settings.as_ref().into(),
        )
        .ending(ending.clone());
        // A policy may have four megabytes; an operator's listener takes one with room to spare.
        let admin = v1::admin_server::AdminServer::new(admin)
            .max_decoding_message_size(vault_core::policy::MAX_POLICY + message)
            .max_encoding_message_size(vault_core::policy::MAX_POLICY + ANSWER_BYTES);
        let counting = (self.metrics.clone(), self.counted.clone());
        let tasks = vec![
            tokio::spawn(reseal(vault.clone(), settings.limits.reseal_rows, ending.clone())),
            tokio::spawn(erase(vault.clone(), settings.as_ref().into(), ending.clone())),
            tokio::spawn(housekeeping(
                vault.clone(),
                clock.clone(),
                counting,
                self.reporter.clone(),
                ending.clone(),
            )),
        ];
        Furnished { data, admin, tasks }
    }

    /// Tells load balancers whether requests are served.
    async fn tell(self, serves: bool) {
        if serves && self.shutdown.phase() == Phase::Serving {
            self.reporter.set_serving::<v1::vault_server::VaultServer<VaultService>>().await;
            self.reporter.set_service_status("", ServingStatus::Serving).await;
        } else {
            self.reporter.set_not_serving::<v1::vault_server::VaultServer<VaultService>>().await;
            self.reporter.set_service_status("", ServingStatus::NotServing).await;
        }
    }

    /// A custodian of the settings as they are now; none where that is people with shares, or where there is no other one.
    fn ask(&self, whom: Whom) -> Result<Option<Box<dyn Custodian>>, Problem> {
        let named = Named::from(self.settings.as_ref()).now()?;
        match whom {
            Whom::Own if named.is_shares() => Ok(None),
            Whom::Own => named.open().map(Some),
            Whom::Other => named.open_other().transpose(),
        }
    }

    /// The room for the vault of this store.
    fn strongroom(&self, store: &Arc<dyn Store>, esk: PathBuf) -> Arc<Strongroom> {
        let (place, asked, furnish, told) = (self.clone(), self.clone(), self.clone(), self.clone());
        let of = store.clone();
        Strongroom::sealed(Parts {
            store: store.clone(),
            place: Box::new(move || place_of(&of, &esk, &place.clock, &place.networks)),
            clock: self.clock.clone(),
            people: self.settings.custodian.is_shares(),
            ask: Box::new(move |whom| {
                asked.ask(whom).map_err(|p| {
                    tracing::error!(problem = %p, "a custodian of the settings cannot be asked");
                    Error::Custody
                })
            }),
            furnish: Box::new(move |vault, ending| furnish.furnish(vault, ending)),
            told: Box::new(move |serves| Box::pin(told.clone().tell(serves))),
        })
    }
}

fn place_of(store: &Arc<dyn Store>, esk: &Path, clock: &Arc<dyn Clock>, networks: &Arc<Networks>) -> Place {
    let (clock, networks) = (clock.clone(), networks.clone());
    Place { clock, networks, ..Place::new(store.clone(), esk.to_owned()) }
}

/// Opens a vault that the custodian of the settings opens no more, since the other one took its place while the vault ran.
async fn open_by_other(settings: &Settings, place: Place) -> Result<Vault, StartError> {
    let Some(other) = settings.custodian.open_other() else { return Err(Error::Custody.into()) };
    let other: Box<dyn Custodian> = other.map_err(|p| StartError::Settings(vec![p]))?;
    let vault = Vault::open(place, &*other).await?;
    tracing::warn!(
        "the custodian of [custodian] opens nothing, that of [custodian.other] does: put it in the first one's place"
    );
    Ok(vault)
}

async fn serve(settings: &Settings, clock: Arc<dyn Clock>) -> Result<(), StartError> {
    let metrics = Metrics::new(METHODS);
    logs::start(settings.log, clock.clone(), Some(metrics.clone())).ok();
    let networks = settings.cards.read_networks().map_err(|p| StartError::Settings(vec![p]))?;
    let networks = Arc::new(networks);
    let (trigger, shutdown) = Trigger::new();
    let (store, esk) = open_store(settings)?;
    let vault = open_vault(settings, || place_of(&store, &esk, &clock, &networks)).await?;
    // This thread waits for the end from here on, and no runtime wipes its stack: keys were expanded on it.
    memory::scrub_stack();
    let _signals = trigger.follow_signals().map_err(machine("listening for signals"))?;

    let data = Tls::open(settings.tls.clone(), Door::Data, clock.clone(), metrics.clone())
        .map_err(StartError::Settings)?;
    let mut doors = vec![("tls", data.clone())];
    let admin = match &settings.admin {
        None => None,
        Some(admin) => {
            let tls = Tls::open(admin.tls.clone(), Door::Admin, clock.clone(), metrics.clone())
                .map_err(StartError::Settings)?;
            doors.push(("admin.tls", tls.clone()));
            Some((admin.address, tls))
        }
    };
    let watched = doors.iter().map(|(_, tls)| tls.clone()).collect();
    tokio::spawn(tls::watch(watched, shutdown.clone()));

    let (reporter, health) = tonic_health::server::health_reporter();
    let forwarder = Arc::new(Forwarder::open(&settings.forward).map_err(StartError::Settings)?);
    let house = House {
        settings: Arc::new(settings.clone()),
        clock: clock.clone(),
        networks,
        metrics: metrics.clone(),
        data: data.clone(),
        doors: doors.clone(),
        forwarder,
        reporter: reporter.clone(),
        shutdown: shutdown.clone(),
        counted: Arc::default(),
    };
    let room = house.strongroom(&store, esk);
    drop(store);
    if let Some(vault) = vault {
        room.stand(vault).await;
    } else {
        house.clone().tell(false).await;
        tracing::warn!(
            "sealed: nothing is served until enough custodians have entered their shares with `vaultctl custodian unseal`"
        );
    }
    let routes = Routes::new(Passage::data(room.clone())).add_service(health);
    let routes = reflected(routes, &[v1::vault_server::SERVICE_NAME])?;
    let edge = edge(&data, settings, &clock, &metrics, &room);
    let socket =
        listener::bind(settings.listen.address).map_err(machine("listen.address cannot be bound"))?;
    let at = socket.local_addr().map_err(machine("listen.address"))?;
    let mut serving = vec![tokio::spawn(listener::serve(socket, edge, routes, shutdown.clone()))];
    tracing::info!(address = %at, door = "data", "serving");

    if let Some((address, tls)) = admin {
        let custody = CustodyService::new(room.clone(), clock.clone(), doors.clone(), metrics.clone());
        let meanwhile = custody.meanwhile();
        let (_, health) = tonic_health::server::health_reporter();
        let routes = Routes::new(Passage::admin(room.clone(), meanwhile))
            .add_service(v1::custody_server::CustodyServer::new(custody))
            .add_service(health);
        let services = [v1::admin_server::SERVICE_NAME, v1::custody_server::SERVICE_NAME];
        let routes = reflected(routes, &services)?;
        let edge = self::edge(&tls, settings, &clock, &metrics, &room);
        let socket = listener::bind(address).map_err(machine("admin.address cannot be bound"))?;
        let at = socket.local_addr().map_err(machine("admin.address"))?;
        serving.push(tokio::spawn(listener::serve(socket, edge, routes, shutdown.clone())));
        tracing::info!(address = %at, door = "admin", "serving");
    }
    if let Some(page) = &settings.metrics {
        let socket = listener::bind(page.address).map_err(machine("metrics.address cannot be bound"))?;
        let at = socket.local_addr().map_err(machine("metrics.address"))?;
        tracing::info!(address = %at, door = "metrics", "serving");
        let health = health_of(room.clone(), doors, shutdown.clone());
        tokio::spawn(metrics::serve(socket, metrics.clone(), health, shutdown.clone()));
    }

    let mut draining = shutdown.clone();
    draining.draining().await;
    tracing::info!("draining: no new connections; a second signal stops at once");
    house.tell(false).await;
    room.drain();
    for listener in serving {
        if let Ok(drained) = listener.await
            && drained.cut > 0
        {
            tracing::warn!(cut = drained.cut, "connections were cut; their requests can be sent again");
        }
    }
    room.close().await.map_err(StartError::Vault)?;
    trigger.stop();
    tracing::info!("stopped");
    Ok(())
}

fn edge(
    tls: &Arc<Tls>,
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
    room: &Arc<Strongroom>,
) -> Arc<Edge> {
    let room = room.clone();
    let told = move |why: TurnedAway, peer: &PeerCertificate| {
        let failure = match why {
            TurnedAway::Certificate(refused) => {
                // Its own task: the edge must not wait for the log's flush.
                let (vault, authority, name) =
                    (room.vault(), peer.authority_key.0, peer.name.as_str().to_owned());
                tokio::spawn(async move {
                    // Where the vault is sealed there is no log to write into, and nothing to be had.
                    let Ok(vault) = vault else { return };
                    if let Err(e) = vault.certificate_refused(&authority, &name).await {
                        tracing::error!(problem = %e, "a refused certificate could not be logged");
                    }
                });
                Failure::new(Reason::CertificateRefused, refused.to_string())
            }
            TurnedAway::Overloaded => Failure::new(Reason::Overloaded, "the vault is overloaded; try again")
                .retry(Duration::from_millis(50)),
            TurnedAway::DeadlineExceeded => Failure::new(Reason::DeadlineExceeded, why.to_string()),
            TurnedAway::BadTimeout => {
                Failure::new(Reason::Malformed, why.to_string()).field("grpc-timeout", why.to_string())
            }
            TurnedAway::NotGrpc => {
                Failure::new(Reason::Malformed, why.to_string()).field("content-type", why.to_string())
            }
        };
        failure.into()
    };
    Edge::new(tls.clone(), settings.limits.clone(), clock.clone(), metrics.clone(), Arc::new(told))
}

/// Adds reflection of what this listener serves, in both versions that tools ask for. The contract's files are given
/// whole, but only the listener's own services are listed: the other one's are not to be found here.
fn reflected(routes: Routes, services: &[&'static str]) -> Result<Routes, StartError> {
    let of = || {
        [HEALTH, "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
            .iter()
            .chain(services)
            .fold(tonic_reflection::server::Builder::configure(), |builder, name| {
                builder.with_service_name(*name)
            })
            .register_encoded_file_descriptor_set(vault_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = |_| StartError::Vault(Error::internal());
    Ok(routes
        .add_service(of().build_v1().map_err(broken)?)
        .add_service(of().build_v1alpha().map_err(broken)?))
}

fn health_of(
    room: Arc<Strongroom>,
    doors: Vec<(&'static str, Arc<Tls>)>,
    shutdown: Shutdown,
) -> impl Fn() -> Health + Send + Sync + 'static {
    move || {
        let problems: Vec<String> = doors
            .iter()
            .filter_map(|(role, tls)| tls.health().last_error.map(|(_, why)| format!("{role}: {why}")))
            .collect();
        let vault = room.vault().ok();
        let failed = vault.as_ref().is_some_and(Vault::has_failed);
        let serving = shutdown.phase() == Phase::Serving && vault.is_some() && !failed;
        let detail = serde_json::json!({
            "serving": serving,
            "release": env!("CARGO_PKG_VERSION"),
            "sealed": vault.is_none(),
            "problems": problems,
            "vault": vault.as_ref().map(Vault::status),
        });
        Health { serving, lives: !failed, detail: detail.to_string() }
    }
}

/// How far the wall clock may run away from the monotonic one between two sweeps.
const SKEW_MS: u64 = 600_000;

/// How long the work behind rotations rests where there is none, and after a failure.
const RESEAL_REST: Duration = Duration::from_secs(1);

/// Seals rows anew behind rotations, so many in a second. What is only looked at counts as a tenth.
async fn reseal(vault: Vault, rows: u32, mut shutdown: Shutdown) {
    loop {
        let rest = match vault.reseal().await {
            Ok(ResealStep::Worked { seen, moved }) => {
                let cost = u32::try_from(moved + seen / 10).unwrap_or(u32::MAX);
                Duration::from_secs(1).saturating_mul(cost) / rows.max(1)
            }
            Ok(ResealStep::Drained) => {
                tracing::info!("no row is under an older key any more; the log says so");
                Duration::ZERO
            }
            Ok(ResealStep::Stuck { unreadable }) => {
                tracing::error!(
                    count = unreadable,
                    "rows do not open, and keep an older key needed: stop the vault and let `vaultctl store verify` name them"
                );
                RESEAL_REST
            }
            Ok(ResealStep::Idle) => RESEAL_REST,
            Err(e) => {
                tracing::warn!(problem = %e, "rows could not be sealed anew; it is tried again");
                RESEAL_REST
            }
        };
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = shutdown.draining() => return,
        }
    }
}

/// Tells, in the log, that a key comes near the end of its days or uses.
fn near_its_end(line: &KeyLine, standing: Standing) {
    let (key_id, key_kind) = (line.id.0, line.kind.as_str());
    let merchant = line.merchant.as_ref().map_or("-", MerchantName::as_str);
    macro_rules! line {
        ($level:ident, $what:literal) => {
            tracing::$level!(key_id, key_kind, merchant, $what)
        };
    }
    match standing {
        Standing::Fresh => {}
        Standing::Due => line!(
            warn,
            "four fifths of a key's days or uses are over: plan vaultctl keys rotate; vaultctl keys list says how long there is"
        ),
        Standing::Urgent => {
            line!(warn, "nearly all of a key's days or uses are over: vaultctl keys rotate it this week");
        }
        Standing::Over => line!(
            error,
            "a key's days or uses are over: vaultctl keys rotate it now; one that is used up seals nothing more, and requests fail with KEY_SPENT"
        ),
    }
}

/// How long the work behind erasures rests where there is none.
const ERASE_REST: Duration = Duration::from_secs(2);

/// How long it rests after a failure: a custodian stretches its secret for seconds, or is asked over a network.
const ERASE_RETRY: Duration = Duration::from_mins(1);

/// How often it is said that people with shares are waited for.
const ERASE_WAIT: Duration = Duration::from_hours(1);

/// Within a day of an erasure puts a new erasure epoch key in force, moves all other customers to it and ends the old one.
async fn erase(vault: Vault, custodians: Named, mut shutdown: Shutdown) {
    loop {
        let step = vault.erasing().await;
        let waits = step == Ok(ErasureStep::Due) && custodians.are_people();
        let step = match step {
            Ok(ErasureStep::Due) if waits => {
                tracing::warn!(
                    "customers were erased, and a new erasure key waits for the custodians: seal the vault and let them unseal it"
                );
                Ok(ErasureStep::Idle)
            }
            Ok(ErasureStep::Due) => follow_esk(&vault, &custodians).await.map(|()| ErasureStep::Due),
            other => other,
        };
        let rest = match step {
            Ok(ErasureStep::Idle) if waits => ERASE_WAIT,
            Ok(ErasureStep::Idle) => ERASE_REST,
            Ok(ErasureStep::Worked { .. } | ErasureStep::Drained) => Duration::from_millis(10),
            Ok(ErasureStep::Due) => {
                tracing::info!(
                    "a new erasure key is in force, since customers were erased; the others move to it"
                );
                Duration::ZERO
            }
            Ok(ErasureStep::Destroyed) => {
                tracing::info!("an older erasure key is destroyed; the log has the certificate");
                Duration::ZERO
            }
            Ok(ErasureStep::Stuck { unreadable }) => {
                tracing::error!(
                    count = unreadable,
                    "customers' rows do not open, and keep an older erasure key needed: stop the vault and let `vaultctl store verify` name them"
                );
                ERASE_REST
            }
            Err(e) => {
                tracing::error!(problem = %e, "what follows an erasure could not be done; it is tried again in a minute");
                ERASE_RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = shutdown.draining() => return,
        }
    }
}

async fn follow_esk(vault: &Vault, custodians: &Named) -> Result<(), Error> {
    let (vault, all) = (vault.clone(), custodians.open_all().map_err(|p| wrong(&p))?);
    in_custody(async move || {
        let all: Vec<&dyn Custodian> = all.iter().map(|custodian| &**custodian).collect();
        vault.follow_esk(&all).await.map(|_| ())
    })
    .await
}

/// Sweeps, counts, and watches whether the journal still writes.
async fn housekeeping(
    vault: Vault,
    clock: Arc<dyn Clock>,
    (metrics, counted): (Arc<Metrics>, Arc<AtomicU64>),
    reporter: HealthReporter,
    mut shutdown: Shutdown,
) {
    let start = tokio::time::Instant::now();
    let (mut sweep, mut count) =
        (tokio::time::interval_at(start + SWEEP, SWEEP), tokio::time::interval(COUNT));
    let mut failed = false;
    let mut since = (start, clock.now());
    let mut warned = Warned::default();
    loop {
        tokio::select! {
            _ = sweep.tick() => {
                let now = (tokio::time::Instant::now(), clock.now());
                let passed = u64::try_from(now.0.duration_since(since.0).as_millis()).unwrap_or(u64::MAX);
                // By a clock that jumped, what is still needed would be deleted for good: it is looked at again later.
                if now.1.ms_since(since.1).abs_diff(passed) > SKEW_MS {
                    tracing::warn!("the clock has jumped; nothing is deleted until it has run evenly for an hour");
                } else if let Err(e) = vault.sweep().await {
                    tracing::error!(problem = %e, "rows whose time is over could not be deleted");
                } else if let Err(e) = vault.replace_old_keys().await {
                    tracing::error!(problem = %e, "keys whose period is over could not be replaced");
                }
                since = now;
            }
            _ = count.tick() => {
                vault.forget_codes();
                let (_, commits, _) = vault.load();
                metrics.commits.inc_by(commits.saturating_sub(counted.swap(commits, Ordering::Relaxed)));
                if let Err(Error::Store(StoreError::Corrupt)) = vault.watch_frame().await
                    && !failed
                {
                    tracing::error!("the Control document or the header was changed in the store behind the vault's back");
                }
                // A store that cannot be read says so below, and where it is asked for a card.
                warned.tell(vault.watch_spaces().await.unwrap_or_default(), clock.now());
                vault.format_spaces().iter().for_each(|of| metrics.spaces(of));
                vault.watch_keys().iter().for_each(|(line, standing)| near_its_end(line, *standing));
                metrics.keys(&vault.keys(), clock.now());
                if let Err(e) = vault.replace_used_keys().await {
                    tracing::error!(problem = %e, "keys that are nearly used up could not be replaced");
                }
                if vault.has_failed() && !failed {
                    failed = true;
                    tracing::error!("nothing is written any more, since the store failed a flush or was tampered with: start the server again");
                    reporter.set_not_serving::<v1::vault_server::VaultServer<VaultService>>().await;
                    reporter.set_service_status("", ServingStatus::NotServing).await;
                }
            }
            () = shutdown.draining() => return,
        }
    }
}
