//! Whatever happens to a vault, in whatever order: every living token opens to its card, none other does, and nothing that
//! counts goes back.
//!
//! Random sequences of verbs, rotations, kills and restarts are played against a vault and against a plain model of it. A
//! kill is a store that dies at some commit, before it or after it: whoever asked learns nothing, and asks again.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use pollster::block_on;
use vault_core::codec::{Reader, Writer};
use vault_core::custody::{Custodian, CustodyBlock};
use vault_core::envelope::{KeyId, KeyKind};
use vault_core::error::Error;
use vault_core::policy::Caller;
use vault_core::restrictions::Restrictions;
use vault_core::rows;
use vault_core::secret::Secret32;
use vault_core::store::{self, Batch, CommitError, Engine, Key, Reading, Store, StoreError, Value};
use vault_core::time::ManualClock;
use vault_core::token::Token;
use vault_core::vault::{CardToDelete, Context, ErasureStep, Header, NewCard, Place, ResealStep, Vault};
use vault_core::words::KeyState;
use vault_tests::cards::{number, pan};
use vault_tests::desk::{Desk, OPTIONS, START, channel, header, in_format, merchant_name, policy, principal};

/// Sequences of one run.
fn sequences(scaled: u64) -> u64 {
    if std::env::var_os("VAULT_LONG").is_some() { scaled * 40 } else { scaled }
}

/// Steps of one sequence.
const STEPS: usize = 60;

/// SplitMix64 (Steele, Lea, Flood 2014): the same sequence for the same seed, everywhere.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.throw() % n as u64) as usize
    }
}

/// A custodian that costs nothing and hides nothing: what is tested here is who is in force.
struct Open(u8);

impl Custodian for Open {
    fn name(&self) -> &'static str {
        "open"
    }

    fn wrap(&self, key: &Secret32, kind: KeyKind, vault: &[u8; 16]) -> Result<CustodyBlock, Error> {
        let body = Writer::default().u8(self.0).u8(kind as u8).fixed(vault).fixed(key.expose_bytes()).done();
        let bytes = Writer::default().u8(250).e(&body).done();
        Ok(CustodyBlock::read(&mut Reader::new(&bytes)).unwrap())
    }

    fn unwrap(&self, block: &CustodyBlock, kind: KeyKind, vault: &[u8; 16]) -> Result<Secret32, Error> {
        let mut w = Writer::default();
        block.write(&mut w);
        let mut mine = Writer::default().u8(self.0).u8(kind as u8).fixed(vault).done();
        mine.splice(..0, [250, 0, 50]);
        let bytes = w.done();
        let mut key = bytes.strip_prefix(&mine[..]).ok_or(Error::Custody)?.to_vec();
        Secret32::take(&mut key).ok_or(Error::Custody)
    }
}

/// A store that dies at its nth commit from now, before it or after it.
struct Mortal {
    store: Arc<dyn Store>,
    left: AtomicI64,
    after: AtomicBool,
}

impl Mortal {
    fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }
}

impl Store for Mortal {
    fn get<'a>(&'a self, keys: &'a [Key]) -> Reading<'a, Vec<Option<Value>>> {
        self.store.get(keys)
    }

    fn scan<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> Reading<'a, Vec<(Key, Value)>> {
        self.store.scan(prefix, after, limit)
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        let dead = || Err(CommitError::Store(StoreError::Io(5)));
        match self.left.load(Ordering::SeqCst) {
            0 => return dead(),
            1 => {
                let done = if self.after.load(Ordering::SeqCst) { self.store.commit(batch) } else { Ok(()) };
                self.left.store(0, Ordering::SeqCst);
                return done.and_then(|()| dead());
            }
            left if left > 0 => self.left.store(left - 1, Ordering::SeqCst),
            _ => {}
        }
        self.store.commit(batch)
    }

    fn commits(&self) -> u64 {
        self.store.commits()
    }

    fn engine(&self) -> &'static str {
        self.store.engine()
    }
}

/// A token as the model knows it.
struct Known {
    token: Token,
    card: usize,
    customer: Option<usize>,
    channel: &'static str,
    format: &'static str,
    ended: bool,
    disabled: bool,
    generation: u32,
}

/// The formats, the channel that each is asked for on, and whether it reuses tokens.
const FORMATS: [(&str, &str, bool); 4] =
    [("shop", "web", true), ("till", "pos", true), ("mixed", "web", false), ("tight", "web", false)];

/// Who has a card's token, for whoever brings the card again: by format, card and customer.
type Alike = (&'static str, usize, Option<usize>);

struct World {
    seed: u64,
    dice: Dice,
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    engine: Engine,
    mortal: Arc<Mortal>,
    desk: Option<Desk>,
    custodian: u8,
    tokens: Vec<Known>,
    reuse: HashMap<Alike, usize>,
    /// Generations under which `reuse` leads to a token.
    found_at: HashMap<Alike, u32>,
    minted: HashSet<String>,
    cards: Vec<String>,
    seen: Seen,
    told: Vec<String>,
}

/// What never goes back.
#[derive(Default)]
struct Seen {
    epoch: u64,
    entries: u64,
    states: HashMap<KeyId, u8>,
    counters: HashMap<Key, u64>,
}

impl World {
    fn new(seed: u64, engine: Engine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(START));
        let store = store::create(folder.path(), engine, &OPTIONS).unwrap();
        let mortal = Arc::new(Mortal { store, left: AtomicI64::new(-1), after: AtomicBool::new(false) });
        let place = Self::place(&mortal, &clock, folder.path());
        let vault = block_on(Vault::create(place, &Open(1), policy())).unwrap();
        let desk = Desk::of(vault, mortal.clone(), clock.clone(), folder.path());
        let cards = ["4", "51", "2221", "6011", "35", "62"].iter().zip(0..).map(|(p, n)| number(p, 16, n));
        Self {
            seed,
            dice: Dice(seed),
            cards: cards.collect(),
            folder,
            clock,
            engine,
            mortal,
            desk: Some(desk),
            custodian: 1,
            tokens: Vec::new(),
            reuse: HashMap::new(),
            found_at: HashMap::new(),
            minted: HashSet::new(),
            seen: Seen::default(),
            told: Vec::new(),
        }
    }

    fn place(mortal: &Arc<Mortal>, clock: &Arc<ManualClock>, folder: &Path) -> Place {
        Place { clock: Arc::new(clock.clone()), ..Place::new(mortal.clone(), folder.join("esk")) }
    }

    fn desk(&self) -> &Desk {
        self.desk.as_ref().unwrap()
    }

    fn vault(&self) -> &Vault {
        &self.desk().vault
    }

    /// The process ends, in good order or not, and another begins. Exactly one custodian opens the vault.
    fn restart(&mut self) {
        let desk = self.desk.take().unwrap();
        let closed = self.mortal.is_dead() || block_on(desk.vault.close()).is_ok();
        assert!(closed || self.mortal.is_dead(), "{}: it does not close", self.seed);
        drop(desk);
        let mortal = std::mem::replace(
            &mut self.mortal,
            Arc::new(Mortal {
                store: Arc::new(Nothing),
                left: AtomicI64::new(-1),
                after: AtomicBool::new(false),
            }),
        );
        let mortal =
            Arc::into_inner(mortal).unwrap_or_else(|| panic!("{}: the store is still held", self.seed));
        let store = match self.engine {
            Engine::Memory => mortal.store,
            _ => {
                drop(mortal);
                store::open(self.folder.path(), &OPTIONS).unwrap()
            }
        };
        self.mortal = Arc::new(Mortal { store, left: AtomicI64::new(-1), after: AtomicBool::new(false) });
        let mut opened = Vec::new();
        for who in [1, 2] {
            let place = Self::place(&self.mortal, &self.clock, self.folder.path());
            match block_on(Vault::open(place, &Open(who))) {
                Ok(vault) => opened.push((who, vault)),
                Err(e) => assert_eq!(e, Error::Custody, "{}", self.seed),
            }
        }
        assert_eq!(opened.len(), 1, "{}: exactly one custodian opens the vault", self.seed);
        let (who, vault) = opened.pop().unwrap();
        self.custodian = who;
        self.desk = Some(Desk::of(vault, self.mortal.clone(), self.clock.clone(), self.folder.path()));
    }

    /// Asks until somebody answers; tells whether it was asked more than once.
    fn ask<T>(&mut self, ask: impl Fn(&Desk, u8) -> Result<T, Error>) -> (Result<T, Error>, bool) {
        let mut again = false;
        loop {
            let told = ask(self.desk(), self.custodian);
            if !self.mortal.is_dead() {
                return (told, again);
            }
            assert!(told.is_err() || again || self.mortal.is_dead());
            // What was answered was on disk before the store died.
            if told.is_ok() {
                self.restart();
                return (told, again);
            }
            self.restart();
            again = true;
        }
    }

    fn customer(&mut self) -> Option<usize> {
        Some(self.dice.below(5)).filter(|n| *n < 3)
    }

    fn header(customer: Option<usize>) -> Header {
        let name = customer.map_or_else(String::new, |n| format!("customer-{n}"));
        Header { context: Context::new(&name, "", "").unwrap(), ..header() }
    }

    fn tokenize(&mut self) {
        let (format, on, reuses) = FORMATS[self.dice.below(FORMATS.len())];
        let (customer, at) = (self.customer(), self.dice.below(self.cards.len()));
        let (header, digits) = (Self::header(customer), self.cards[at].clone());
        let header = Header { channel: Some(channel(on)), ..header };
        let (told, _) = self.ask(|desk, _| {
            let card: NewCard = in_format(format, &digits);
            block_on(desk.vault.tokenize(Caller::Local(&principal("acme-shop")), &header, card))
        });
        let token = told.unwrap_or_else(|e| panic!("{}: {e}", self.seed)).token;
        let alike = (format, at, customer);
        let expected = self.reuse.get(&alike).copied().filter(|known| {
            let Known { ended, disabled, generation, .. } = &self.tokens[*known];
            reuses && !ended && !disabled && self.found_at[&alike] == *generation
        });
        if let Some(known) = expected {
            assert!(
                self.tokens[known].token.same_as(&token),
                "{}: the same card has the same token",
                self.seed
            );
            return;
        }
        assert!(self.minted.insert(token.as_str().to_owned()), "{}: minted twice", self.seed);
        if reuses {
            self.reuse.insert(alike, self.tokens.len());
            self.found_at.insert(alike, 0);
        }
        let (ended, disabled, generation) = (false, false, 0);
        self.tokens.push(Known {
            token,
            card: at,
            customer,
            channel: on,
            format,
            ended,
            disabled,
            generation,
        });
    }

    /// A token opens to its card, or to nothing.
    fn check(&mut self, at: usize) {
        let Known { token, card, channel, ended, disabled, .. } = &self.tokens[at];
        let (token, digits, channel) = (token.copy(), self.cards[*card].clone(), *channel);
        let expected = if *ended || *disabled { Err(Error::NotFound) } else { Ok(digits) };
        let (told, _) = self.ask(|desk, _| desk.at("acme", channel).paid(&token));
        assert_eq!(told, expected, "{}: token {at}", self.seed);
    }

    fn pick(&mut self) -> Option<usize> {
        if self.tokens.is_empty() { None } else { Some(self.dice.below(self.tokens.len())) }
    }

    fn revoke(&mut self) {
        let Some(at) = self.pick() else { return };
        let (token, on, header) = (self.tokens[at].token.copy(), self.tokens[at].channel, header());
        let (told, again) = self.ask(|desk, _| {
            desk.at("acme", on).revoke(&header, &token, vault_core::vault::Revocation::Everywhere)
        });
        let Known { ended, disabled, .. } = self.tokens[at];
        if ended && !again {
            assert_eq!(told.as_ref().err(), Some(&Error::NotFound), "{}", self.seed);
        } else if !disabled {
            assert!(told.is_ok() || ended, "{}: {:?}", self.seed, told.as_ref().err());
        }
        self.tokens[at].ended |= told.is_ok();
    }

    fn disable(&mut self, off: bool) {
        let Some(at) = self.pick() else { return };
        let (token, on, header) = (self.tokens[at].token.copy(), self.tokens[at].channel, header());
        let (told, _) = self.ask(|desk, _| {
            desk.at("acme", on).care(&header, async |vault, caller, header| {
                if off {
                    vault.disable(caller, header, token.copy()).await.map(|_| ())
                } else {
                    vault.enable(caller, header, token.copy()).await.map(|_| ())
                }
            })
        });
        assert_eq!(told.is_ok(), !self.tokens[at].ended, "{}: {told:?}", self.seed);
        if told.is_ok() {
            self.tokens[at].disabled = off;
        }
    }

    fn replace(&mut self) {
        let Some(at) = self.pick() else { return };
        let to = self.dice.below(self.cards.len());
        let (token, on, header) = (self.tokens[at].token.copy(), self.tokens[at].channel, header());
        let digits = self.cards[to].clone();
        let (told, _) = self.ask(|desk, _| {
            crate::life_of_a_token::replace(desk.at("acme", on), &header, &token, &digits).map(|_| ())
        });
        let Known { ended, format, customer, generation, .. } = self.tokens[at];
        match told {
            Ok(()) => assert!(!ended, "{}", self.seed),
            Err(Error::NotFound) => return assert!(ended, "{}", self.seed),
            // Eight cards are kept of a token, and no more.
            Err(Error::Malformed { .. }) => return assert!(generation >= 8, "{}", self.seed),
            Err(e) => panic!("{}: {e}", self.seed),
        }
        self.tokens[at].generation += 1;
        self.tokens[at].card = to;
        if FORMATS.iter().any(|(name, _, reuses)| *name == format && *reuses) {
            self.reuse.insert((format, to, customer), at);
            self.found_at.insert((format, to, customer), generation + 1);
        }
    }

    fn delete_card(&mut self) {
        let (customer, card) = (self.customer(), self.dice.below(self.cards.len()));
        let (header, digits) = (Self::header(customer), self.cards[card].clone());
        let on = ["web", "pos"][self.dice.below(2)];
        let (told, again) = self.ask(|desk, _| {
            let card = CardToDelete { card: pan(&digits).into(), restrictions: Restrictions::default() };
            desk.at("acme", on).care(&header, async |vault, caller, header| {
                vault.delete_card(caller, header, card).await.map(|told| told.tokens)
            })
        });
        let whose = if customer.is_some() { vec![None, customer] } else { vec![None] };
        let mut ended = HashSet::new();
        for format in if on == "pos" { &["shop", "till"][..] } else { &["shop"] } {
            for of in &whose {
                let alike = (*format, card, *of);
                let found = self.reuse.get(&alike).copied();
                ended.extend(found.filter(|at| {
                    let known = &self.tokens[*at];
                    !known.ended && known.generation == self.found_at[&alike]
                }));
            }
        }
        match told {
            Ok(n) => assert!(again || n as usize == ended.len(), "{}: {n} {ended:?}", self.seed),
            Err(Error::NotFound) => assert!(again || ended.is_empty(), "{}: {ended:?}", self.seed),
            Err(e) => panic!("{}: {e}", self.seed),
        }
        ended.into_iter().for_each(|at| self.tokens[at].ended = true);
    }

    fn erase(&mut self) {
        let customer = self.dice.below(3);
        let header = Self::header(Some(customer));
        let (told, again) = self.ask(|desk, _| crate::life_of_a_token::erased(desk.web(), &header));
        let mut ended = 0;
        for known in self.tokens.iter_mut().filter(|known| known.customer == Some(customer) && !known.ended) {
            known.ended = true;
            ended += 1;
        }
        self.reuse.retain(|(_, _, of), _| *of != Some(customer));
        let told = told.unwrap_or_else(|e| panic!("{}: {e}", self.seed));
        assert!(again || told == ended, "{}: {told} of {ended}", self.seed);
    }

    fn rotate(&mut self) {
        let which = self.dice.below(12);
        let pending = |desk: &Desk, kind: KeyKind| {
            let acme = merchant_name("acme");
            let old = |k: &&vault_core::vault::KeyLine| k.kind == kind && k.merchant.as_ref() == Some(&acme);
            let keys = desk.vault.keys();
            let drained = keys.iter().filter(old).filter(|k| k.drained_at.is_some()).count();
            keys.iter().filter(old).count() - 1 - drained
        };
        let (acme, olga) = (merchant_name("acme"), principal("olga"));
        let before = match which {
            1 => pending(self.desk(), KeyKind::Idx),
            2 => pending(self.desk(), KeyKind::Fpr),
            11 => {
                let older = |k: &&vault_core::vault::KeyLine| {
                    k.kind == KeyKind::Esk && k.state == KeyState::Deactivated
                };
                self.vault().keys().iter().filter(older).count()
            }
            _ => 0,
        };
        let other = 3 - self.custodian;
        let (told, again) = self.ask(|desk, who| {
            let vault = &desk.vault;
            block_on(async {
                match which {
                    0 => vault.rotate_dek(&olga, &acme, None).await.map(|_| ()),
                    1 => vault.rotate_idx(&olga, &acme, None).await.map(|_| ()),
                    2 => vault.rotate_fpr(&olga, &acme, None).await.map(|_| ()),
                    3 => vault.rotate_kek(&olga, &acme, None).await.map(|_| ()),
                    4 => vault.rotate_ctl(&olga, None).await.map(|_| ()),
                    5 => vault.rotate_root(&olga, &[&Open(who)], None).await.map(|_| ()),
                    6 => vault.rotate_rcv(&olga, &acme, None).await.map(|_| ()),
                    8 => vault.rotate_trk(&olga, &acme, None).await.map(|_| ()),
                    9 => vault.rotate_log(&olga, None).await.map(|_| ()),
                    10 => vault.rotate_adm(&olga, None).await.map(|_| ()),
                    11 => vault.rotate_esk(&olga, &[&Open(who)], None).await.map(|_| ()),
                    // Asked again, it may be done.
                    _ if who == other => Ok(()),
                    _ => vault.change_custodian(&olga, (&Open(who), &Open(other)), None).await.map(|_| ()),
                }
            })
        });
        match told {
            Ok(()) => assert_eq!(before, 0, "{}", self.seed),
            Err(e) => assert!(before > 0 || again, "{}: {which} {e}", self.seed),
        }
        if which == 7 {
            self.custodian = other;
        }
    }

    fn work(&mut self) {
        for _ in 0..=self.dice.below(6) {
            let (told, _) = self.ask(|desk, _| block_on(desk.vault.reseal()));
            let step = told.unwrap_or_else(|e| panic!("{}: {e}", self.seed));
            assert!(!matches!(step, ResealStep::Stuck { .. }), "{}", self.seed);
            let (told, _) = self.ask(|desk, _| block_on(desk.vault.erasing()));
            let step = told.unwrap_or_else(|e| panic!("{}: {e}", self.seed));
            assert!(!matches!(step, ErasureStep::Stuck { .. }), "{}", self.seed);
        }
    }

    /// Destroys a drained key, if there is one.
    fn destroy(&mut self) {
        let keys = self.vault().keys();
        let mut drained = keys
            .iter()
            .filter(|k| k.kind == KeyKind::Dek && k.drained_at.is_some() && k.state == KeyState::Deactivated);
        let Some(id) = drained.next().map(|k| k.id) else { return };
        let (told, again) =
            self.ask(|desk, _| block_on(desk.vault.destroy_key(&principal("olga"), id, None)).map(|_| ()));
        assert!(told.is_ok() || again, "{}: {told:?}", self.seed);
    }

    fn step(&mut self) {
        let thrown = self.dice.below(100);
        self.told.push(thrown.to_string());
        match thrown {
            0..25 => self.tokenize(),
            25..45 => {
                if let Some(at) = self.pick() {
                    self.check(at);
                }
            }
            45..49 => self.revoke(),
            49..52 => self.disable(true),
            52..56 => self.disable(false),
            56..61 => self.replace(),
            61..63 => self.delete_card(),
            63..65 => self.erase(),
            65..78 => self.rotate(),
            78..88 => self.work(),
            88..90 => self.destroy(),
            90..94 => self.restart(),
            94..98 => {
                let (at, after) = (1 + self.dice.below(6) as i64, self.dice.below(2) == 0);
                self.mortal.after.store(after, Ordering::SeqCst);
                self.mortal.left.store(at, Ordering::SeqCst);
            }
            98 => {
                let (told, _) = self.ask(|desk, _| block_on(desk.vault.sweep()));
                told.unwrap_or_else(|e| panic!("{}: {e}", self.seed));
            }
            _ => self.desk().wait_ms(3_600_000),
        }
        self.look();
    }

    /// Nothing that counts goes back.
    fn look(&mut self) {
        let vault = self.vault();
        let status = vault.status();
        let entries = block_on(vault.checkpoint()).unwrap().checkpoint().size;
        let keys: Vec<_> = vault.keys().into_iter().map(|k| (k.id, k.state.id())).collect();
        let counters: Vec<(Key, u64)> = [rows::SPACE, rows::USES]
            .into_iter()
            .flat_map(|kind| vault_tests::desk::rows(&*self.mortal.store, kind))
            .map(|(key, value)| (key, u64::from_be_bytes(value.try_into().unwrap())))
            .collect();
        let seen = &mut self.seen;
        assert!(status.epoch >= seen.epoch && entries >= seen.entries, "{}", self.seed);
        (seen.epoch, seen.entries) = (status.epoch, entries);
        assert!(seen.states.keys().all(|id| keys.iter().any(|(key, _)| key == id)), "{}", self.seed);
        for (id, state) in keys {
            let before = seen.states.insert(id, state).unwrap_or(0);
            assert!(before <= state, "{}: key {} was {before}, is {state}", self.seed, id.0);
        }
        assert!(seen.counters.keys().all(|key| counters.iter().any(|(found, _)| found == key)));
        for (key, count) in counters {
            assert!(seen.counters.insert(key, count).unwrap_or(0) <= count, "{}", self.seed);
        }
    }

    /// All of it at the end, with nothing left to move.
    fn end(&mut self) {
        self.mortal.left.store(-1, Ordering::SeqCst);
        crate::key_rotation::work_off(self.vault());
        self.restart();
        for at in 0..self.tokens.len() {
            self.check(at);
        }
        self.desk().assert_whole(self.tokens.len());
    }
}

/// In a store's place while it is being opened anew.
struct Nothing;

impl Store for Nothing {
    fn get<'a>(&'a self, _: &'a [Key]) -> Reading<'a, Vec<Option<Value>>> {
        Box::pin(async { Err(StoreError::Away) })
    }

    fn scan<'a>(&'a self, _: &'a [u8], _: Option<&'a [u8]>, _: usize) -> Reading<'a, Vec<(Key, Value)>> {
        Box::pin(async { Err(StoreError::Away) })
    }

    fn commit(&self, _: &Batch) -> Result<(), CommitError> {
        Err(CommitError::Store(StoreError::Away))
    }

    fn commits(&self) -> u64 {
        0
    }

    fn engine(&self) -> &'static str {
        "nothing"
    }
}

fn play(engine: Engine, seeds: std::ops::Range<u64>) {
    let (mut tokens, mut kills, count) = (0, 0, seeds.end - seeds.start);
    for seed in seeds {
        let mut world = World::new(seed, engine);
        for _ in 0..STEPS {
            world.step();
        }
        world.end();
        tokens += world.tokens.len();
        kills += world.told.iter().filter(|thrown| ("94".."98").contains(&thrown.as_str())).count();
    }
    println!("{count} sequences on {engine}: {tokens} tokens, {kills} kills");
}

#[test]
fn a_vault_in_memory_does_what_the_model_says() {
    play(Engine::Memory, 0..sequences(100));
}

#[test]
fn a_vault_on_redb_does_what_the_model_says() {
    play(Engine::Redb, 10_000..10_000 + sequences(8));
}

#[test]
fn a_vault_on_sled_does_what_the_model_says() {
    play(Engine::Sled, 20_000..20_000 + sequences(8));
}
