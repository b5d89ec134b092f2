//! A vault, the model of it, and how one is asked until it answers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use pollster::block_on;
use vault_core::envelope::{KeyId, KeyKind};
use vault_core::error::Error;
use vault_core::rows;
use vault_core::store::{self, Engine, Key};
use vault_core::time::ManualClock;
use vault_core::vault::{KeyLine, Place, Vault};
use vault_core::words::KeyState;
use vault_tests::cards::number;
use vault_tests::desk::{Desk, OPTIONS, START, merchant_name};

use super::custody::{Open, POOL};
use super::dice::Dice;
use super::store::Mortal;
use super::tokens::{Alike, Found, Known};
use super::vaultless::Edge;

/// A vault, and what it must do.
pub(super) struct World {
    seed: u64,
    engine: Engine,
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    running: Option<Running>,
    pub(super) dice: Dice,
    /// The numbers of cards; all else names them by their place here.
    pub(super) cards: Vec<String>,
    /// Every token that was ever given and has a row.
    pub(super) tokens: Vec<Known>,
    /// Who is found by bringing a card again.
    pub(super) reuse: HashMap<Alike, Found>,
    /// Every token with a row, as text: none is minted twice.
    pub(super) minted: HashSet<String>,
    /// Tokens without a row.
    pub(super) edge: Edge,
    /// The custodians in force, in the order of the header.
    pub(super) custodians: Vec<u8>,
    /// What they are to become, while nobody knows whether it is done.
    pub(super) becoming: Option<Vec<u8>>,
    seen: Seen,
    /// The steps so far.
    pub(super) told: Vec<String>,
    /// How often what was done.
    pub(super) did: BTreeMap<String, usize>,
}

struct Running {
    desk: Desk,
    mortal: Arc<Mortal>,
}

/// What never goes back.
#[derive(Default)]
struct Seen {
    epoch: u64,
    entries: u64,
    states: HashMap<KeyId, u8>,
    counters: HashMap<Key, u64>,
    /// Rows under keys that protect nothing new any more: this one never goes up.
    under: HashMap<KeyId, u64>,
}

/// A failure tells what led to it.
impl Drop for World {
    #[allow(clippy::print_stderr, reason = "what panics has no other way to tell it")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} on {}, steps: {}", self.seed, self.engine, self.told.join(", "));
        }
    }
}

impl World {
    pub(super) fn new(seed: u64, engine: Engine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cards = ["4", "51", "2221", "6011", "3530", "62"].iter().zip(0..).map(|(p, n)| number(p, 16, n));
        let mut world = Self {
            seed,
            engine,
            clock: Arc::new(ManualClock::at(START)),
            running: None,
            dice: Dice(seed),
            cards: cards.collect(),
            tokens: Vec::new(),
            reuse: HashMap::new(),
            minted: HashSet::new(),
            edge: Edge::default(),
            custodians: vec![1],
            becoming: None,
            seen: Seen::default(),
            told: Vec::new(),
            did: BTreeMap::new(),
            folder,
        };
        let mortal = Mortal::of(store::create(world.folder.path(), engine, &OPTIONS).unwrap());
        let policy = crate::key_lifecycle::policy_with_slots();
        let vault = block_on(Vault::create(world.place(&mortal), &Open(1), policy)).unwrap();
        world.run(vault, mortal);
        world
    }

    fn place(&self, mortal: &Arc<Mortal>) -> Place {
        let place = Place::new(mortal.clone(), self.folder.path().join("esk"));
        Place { clock: Arc::new(self.clock.clone()), ..place }
    }

    fn run(&mut self, vault: Vault, mortal: Arc<Mortal>) {
        let desk = Desk::of(vault, mortal.clone(), self.clock.clone(), self.folder.path());
        self.running = Some(Running { desk, mortal });
    }

    pub(super) fn desk(&self) -> &Desk {
        &self.running.as_ref().unwrap().desk
    }

    pub(super) fn vault(&self) -> &Vault {
        &self.desk().vault
    }

    pub(super) fn mortal(&self) -> &Mortal {
        &self.running.as_ref().unwrap().mortal
    }

    /// Notes that something was done, so that a run can say what it did.
    pub(super) fn did(&mut self, what: &str) {
        *self.did.entry(what.to_owned()).or_default() += 1;
    }

    /// The keys of a kind that acme has, or the vault.
    pub(super) fn keys(&self, kind: KeyKind) -> Vec<KeyLine> {
        let acme = merchant_name("acme");
        let ours = |k: &KeyLine| k.kind == kind && k.merchant.as_ref().is_none_or(|m| *m == acme);
        self.vault().keys().into_iter().filter(ours).collect()
    }

    /// The process ends, in good order or not, and another begins. The custodians in force open the vault, and no other.
    pub(super) fn restart(&mut self) {
        let Running { desk, mortal } = self.running.take().unwrap();
        let closed = block_on(desk.vault.close()).is_ok();
        assert!(closed || mortal.is_dead(), "it does not close");
        drop(desk);
        let store = Arc::into_inner(mortal).expect("the store is still held").into_inner();
        let store = match self.engine {
            Engine::Memory => store,
            _ => {
                drop(store);
                store::open(self.folder.path(), &OPTIONS).unwrap()
            }
        };
        let mortal = Mortal::of(store);
        let mut opened = Vec::new();
        for who in POOL {
            match block_on(Vault::open(self.place(&mortal), &Open(who))) {
                Ok(vault) => {
                    block_on(vault.close()).unwrap();
                    opened.push(who);
                }
                Err(e) => assert_eq!(e, Error::Custody),
            }
        }
        self.opened_by(&opened);
        let who = self.dice.one_of(opened).unwrap();
        let vault = block_on(Vault::open(self.place(&mortal), &Open(who))).unwrap();
        self.run(vault, mortal);
    }

    /// Asks until somebody answers; tells whether it was asked more than once.
    pub(super) fn ask<T>(
        &mut self,
        ask: impl Fn(&Desk, &[u8]) -> Result<T, Error>,
    ) -> (Result<T, Error>, bool) {
        let mut again = false;
        loop {
            let told = ask(self.desk(), &self.custodians);
            if !self.mortal().is_dead() {
                return (told, again);
            }
            self.restart();
            // What was answered was on disk before the store died.
            if told.is_ok() {
                return (told, again);
            }
            again = true;
        }
    }

    /// Nothing that counts goes back.
    pub(super) fn look(&mut self) {
        let vault = self.vault();
        let status = vault.status();
        let entries = block_on(vault.checkpoint()).unwrap().checkpoint().size;
        let keys: Vec<_> = vault.keys().into_iter().map(|k| (k.id, k.state.id())).collect();
        let counters: Vec<(Key, u64)> = [rows::SPACE, rows::USES]
            .into_iter()
            .flat_map(|kind| self.desk().rows(kind))
            .map(|(key, value)| (key, u64::from_be_bytes(value.try_into().unwrap())))
            .collect();
        let seen = &mut self.seen;
        assert!(status.epoch >= seen.epoch && entries >= seen.entries);
        (seen.epoch, seen.entries) = (status.epoch, entries);
        assert!(seen.states.keys().all(|id| keys.iter().any(|(key, _)| key == id)));
        for (id, state) in keys {
            let before = seen.states.insert(id, state).unwrap_or(0);
            assert!(before <= state, "key {} was {before}, is {state}", id.0);
        }
        assert!(seen.counters.keys().all(|key| counters.iter().any(|(found, _)| found == key)));
        for (key, count) in counters {
            assert!(seen.counters.insert(key, count).unwrap_or(0) <= count);
        }
    }

    /// A key that is not active any more protects nothing new: of the rows under it there are never more.
    pub(super) fn look_under_old_keys(&mut self) {
        let by_key = block_on(self.vault().rows_by_key(&merchant_name("acme"))).unwrap();
        let over = |k: &KeyLine| !matches!(k.state, KeyState::Active | KeyState::Destroyed);
        for key in self.vault().keys().into_iter().filter(over) {
            let rows = match key.kind {
                KeyKind::Dek | KeyKind::Idx | KeyKind::Fpr => by_key.get(&key.id).copied().unwrap_or(0),
                KeyKind::Trk | KeyKind::Esk => block_on(self.vault().under(key.id)).unwrap().rows,
                _ => continue,
            };
            let before = self.seen.under.insert(key.id, rows).unwrap_or(rows);
            assert!(rows <= before, "{} {}: {before} rows, then {rows}", key.kind.as_str(), key.id.0);
        }
    }

    /// All of it at the end, with nothing left to move.
    pub(super) fn end(&mut self) {
        self.mortal().live_on();
        crate::key_rotation::work_off(self.vault());
        self.look_under_old_keys();
        self.restart();
        for at in 0..self.tokens.len() {
            self.check(at);
        }
        self.check_edge();
        let good = self.tokens.iter().filter(|known| !known.lost).count();
        self.desk().assert_whole(good);
    }
}
