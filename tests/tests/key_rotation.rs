//! Every level of the key tree takes a new key while the vault works, and nothing below it is touched.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use pollster::block_on;
use vault_core::audit::entry::{ControlChange, Event, Who};
use vault_core::audit::receipt::Proof;
use vault_core::control::{self, LockTarget, header_key};
use vault_core::custody::{Custodian, Passphrase};
use vault_core::envelope::{KeyId, KeyKind};
use vault_core::error::Error;
use vault_core::outer::OuterKeys;
use vault_core::pan::CardExpiry;
use vault_core::policy::Caller;
use vault_core::reseal::Walk;
use vault_core::rows;
use vault_core::store::{self, Batch, CommitError, Engine, Key, Reading, Store, StoreError, Value, Write};
use vault_core::token::Token;
use vault_core::uses::{Begun, Uses};
use vault_core::vault::{AttributesUpdate, Context, Header, KeyLine, NewCard, Place, ResealStep, Vault};
use vault_core::words::{KeyState, LockReason};
use vault_tests::ON_DISK;
use vault_tests::cards::{AMEX, MASTERCARD, VISA, card, number};
use vault_tests::desk::{
    Closed, Desk, OPTIONS, PASSPHRASE, channel, custodian, header, merchant_name, passphrase, policy,
    principal,
};

/// A level that rotates with one commit.
type Rotate = fn(&Vault) -> Result<(), Error>;

fn kek(vault: &Vault) -> Result<(), Error> {
    block_on(vault.rotate_kek(&principal("olga"), &merchant_name("acme"), None)).map(|_| ())
}

fn ctl(vault: &Vault) -> Result<(), Error> {
    block_on(vault.rotate_ctl(&principal("olga"), None)).map(|_| ())
}

fn root(vault: &Vault) -> Result<(), Error> {
    block_on(vault.rotate_root(&principal("olga"), &[&custodian()], None)).map(|_| ())
}

const LEVELS: [(KeyKind, Rotate); 3] = [(KeyKind::Kek, kek), (KeyKind::Ctl, ctl), (KeyKind::Root, root)];

/// The states of a kind's versions, in their order.
fn states(desk: &Desk, kind: KeyKind) -> Vec<KeyState> {
    let of = |k: &KeyLine| k.kind == kind && k.merchant.as_ref().is_none_or(|m| m.as_str() == "acme");
    desk.vault.keys().iter().filter(|k| of(k)).map(|k| k.state).collect()
}

#[test]
fn upper_keys_are_replaced_under_cards_that_stay_as_they_are() {
    for engine in ON_DISK {
        let mut desk = Desk::new(engine);
        let (visa, amex) = (desk.web().stored(VISA), desk.at("acme", "pos").stored(AMEX));
        let abroad = desk.at("zenith", "web").stored(VISA);
        let rows_before = desk.rows(rows::CARD);
        for (kind, rotate) in LEVELS {
            rotate(&desk.vault).unwrap_or_else(|e| panic!("{engine} {}: {e}", kind.as_str()));
            assert_eq!(states(&desk, kind), [KeyState::Destroyed, KeyState::Active], "{}", kind.as_str());
            assert_eq!(desk.rows(rows::CARD), rows_before, "no card is touched");
            let again = desk.web().stored(VISA);
            assert!(again.same_as(&visa), "{}", kind.as_str());
            desk = desk.reopened();
            assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
            assert_eq!(desk.at("acme", "pos").paid(&amex).as_deref(), Ok(AMEX));
            assert_eq!(desk.at("zenith", "web").paid(&abroad).as_deref(), Ok(VISA));
        }
        // In any order, as often as one likes, and with what comes later.
        for rotate in [root, kek, root, ctl, kek] {
            assert_eq!(rotate(&desk.vault), Ok(()));
        }
        let later = desk.web().stored(MASTERCARD);
        let desk = desk.reopened();
        assert_eq!(desk.web().paid(&later).as_deref(), Ok(MASTERCARD));
        assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
        desk.assert_whole(4);
    }
}

#[test]
fn a_destroyed_key_is_in_no_row_and_the_header_from_before_opens_nothing() {
    for engine in ON_DISK {
        for (kind, rotate) in [(KeyKind::Ctl, ctl as Rotate), (KeyKind::Root, root)] {
            let desk = Desk::new(engine);
            let visa = desk.web().stored(VISA);
            let before = desk.row(&header_key()).unwrap();
            rotate(&desk.vault).unwrap_or_else(|e| panic!("{e}"));
            let after = desk.row(&header_key()).unwrap();
            assert_ne!(before, after, "{}", kind.as_str());
            desk.put(&header_key(), &before);
            let told = desk.close().open_with(PASSPHRASE);
            let Err((closed, why)) = told else { panic!("an old header opened a new Control") };
            assert!(matches!(why, Error::Store(_) | Error::Custody), "{why}");
            vault_tests::desk::write(&*closed.store(), vec![Write::Put(header_key(), after)]);
            let desk = closed.open().unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
        }
    }
}

#[test]
fn a_root_is_replaced_by_its_own_custodians_alone() {
    let desk = Desk::new(Engine::Redb);
    let visa = desk.web().stored(VISA);
    let (stranger, own) = (passphrase("somebody else entirely"), custodian());
    let strangers: [&dyn Custodian; 1] = [&stranger];
    let told = block_on(desk.vault.rotate_root(&principal("olga"), &strangers, None)).map(|_| ());
    assert_eq!(told, Err(Error::Custody));
    assert_eq!(states(&desk, KeyKind::Root), [KeyState::Active]);
    let both: [&dyn Custodian; 2] = [&stranger, &own];
    let told = block_on(desk.vault.rotate_root(&principal("olga"), &both, Some(1))).map(|_| ());
    assert_eq!(told, Ok(()));
    // Somebody was first: nothing is changed.
    let late = block_on(desk.vault.rotate_root(&principal("olga"), &both, Some(1))).map(|_| ());
    assert_eq!(late, Err(Error::EpochMismatch { epoch: 2 }));
    let nobody = block_on(desk.vault.rotate_kek(&principal("olga"), &merchant_name("nobody"), None));
    assert!(matches!(nobody, Err(Error::Malformed { field: "merchant", .. })));
    let (closed, why) = desk.close().open_with("somebody else entirely").err().unwrap();
    assert_eq!(why, Error::Custody);
    assert_eq!(closed.open().unwrap().web().paid(&visa).as_deref(), Ok(VISA));
}

#[test]
fn operators_notes_open_under_the_key_of_their_time_which_stays_as_long_as_they_do() {
    let desk = Desk::new(Engine::Redb);
    let rotate = || block_on(desk.vault.rotate_adm(&principal("olga"), None)).unwrap().0;
    let locked = |text: &str| {
        let target = LockTarget::Merchant { merchant: merchant_name("zenith") };
        let (by, why) = (principal("olga"), LockReason::Drill);
        block_on(desk.vault.set_lock(&by, target, why, Some(text), None)).unwrap().0
    };
    let notes = |vault: &Vault| -> Vec<Option<String>> {
        vault.locks().iter().map(|lock| block_on(vault.note_of(lock)).unwrap()).collect()
    };
    let first = desk.vault.keys().iter().find(|k| k.kind == KeyKind::Adm).unwrap().id;
    locked("under the first");
    let unused = rotate();
    rotate();
    locked("under the third");
    let both = [Some("under the first".to_owned()), Some("under the third".to_owned())];
    assert_eq!(notes(&desk.vault), both);
    let destroyed = |key| block_on(desk.vault.destroy_key(&principal("olga"), key, None)).map(|_| ());
    let Err(Error::Malformed { rule, .. }) = destroyed(first) else { panic!("a note's key was destroyed") };
    assert!(rule.contains("kept for reading"), "{rule}");
    assert_eq!(destroyed(unused), Ok(()));
    use KeyState::{Active, Deactivated, Destroyed};
    assert_eq!(states(&desk, KeyKind::Adm), [Deactivated, Destroyed, Active]);
    assert_eq!(notes(&desk.reopened().vault), both);
}

/// A store that counts what is written through it, and writes nothing while its disk is said to be full.
pub(crate) struct Counted {
    store: Arc<dyn Store>,
    pub(crate) full: AtomicBool,
    written: Mutex<Written>,
}

/// Rows and bytes that were written, by the rows' kind.
type Written = BTreeMap<u8, (u64, u64)>;

impl Counted {
    pub(crate) fn over(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { store, full: false.into(), written: Mutex::default() })
    }

    fn taken(&self) -> Written {
        std::mem::take(&mut self.written.lock().unwrap())
    }
}

impl Store for Counted {
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
        if self.full.load(Ordering::SeqCst) {
            return Err(CommitError::Store(StoreError::Full));
        }
        self.store.commit(batch)?;
        for write in batch.parts.iter().flat_map(|part| &part.writes).chain(&batch.head) {
            let (kind, bytes) = match write {
                Write::Put(key, value) => (key[0], key.len() + value.len()),
                Write::Delete(key) | Write::Add(key, _) => (key[0], key.len() + 8),
            };
            let mut written = self.written.lock().unwrap();
            let of_kind = written.entry(kind).or_default();
            *of_kind = (of_kind.0 + 1, of_kind.1 + bytes as u64);
        }
        Ok(())
    }

    fn commits(&self) -> u64 {
        self.store.commits()
    }

    fn engine(&self) -> &'static str {
        self.store.engine()
    }
}

/// The larger of the two vaults: a million cards at full size.
fn many() -> u32 {
    if std::env::var_os("VAULT_LONG").is_some() { 1_000_000 } else { 20_000 }
}

/// What each rotation above the rows writes in a vault with so many cards.
fn written_by_upper_rotations(cards: u32) -> Vec<(&'static str, Written)> {
    let folder = tempfile::tempdir().unwrap();
    let store = store::create(folder.path(), Engine::Redb, &OPTIONS).unwrap();
    let counted = Counted::over(store);
    let place = Place::new(counted.clone(), folder.path().join("esk"));
    let vault = block_on(Vault::create(place, &custodian(), policy())).unwrap_or_else(|e| panic!("{e}"));
    let importer = principal("acme-import");
    for from in (0..cards).step_by(1_000) {
        let header = Header { channel: Some(channel("web")), ..header() };
        let cards: Vec<NewCard> = (from..from + 1_000).map(|n| card(&number("4", 16, n))).collect();
        let told = block_on(vault.tokenize_batch(Caller::Local(&importer), &header, cards));
        assert!(told.unwrap_or_else(|e| panic!("{e}")).iter().all(Result::is_ok));
    }
    let custodian_changes: Rotate = |vault| {
        let (old, new) = (custodian(), passphrase("another and better one"));
        block_on(vault.change_custodian(&principal("olga"), (&old, &new), None)).map(|_| ())
    };
    let levels = LEVELS.iter().map(|(kind, rotate)| (kind.as_str(), *rotate));
    levels
        .chain([("custodian", custodian_changes)])
        .map(|(level, rotate)| {
            counted.taken();
            rotate(&vault).unwrap_or_else(|e| panic!("{level}: {e}"));
            let written = counted.taken();
            let (rows, bytes) =
                written.values().fold((0, 0), |(rows, bytes), of| (rows + of.0, bytes + of.1));
            println!("{level} at {cards} cards: {rows} rows, {bytes} bytes");
            (level, written)
        })
        .collect()
}

#[test]
fn an_upper_rotation_writes_as_much_with_many_cards_as_with_few() {
    let (few, many) = (written_by_upper_rotations(1_000), written_by_upper_rotations(many()));
    for ((level, few), (_, many)) in few.iter().zip(&many) {
        // Of the log: how full the last tiles are, and how many digits its size has in a checkpoint, are its own.
        let is_of_the_tree = |kind: u8| [rows::TILE, rows::HEAD].contains(&kind);
        let beside = |written: &Written| -> Written {
            written.iter().filter(|(kind, _)| !is_of_the_tree(**kind)).map(|(k, of)| (*k, *of)).collect()
        };
        assert_eq!(beside(few), beside(many), "{level}");
        assert!(
            !beside(few).is_empty() && beside(few).values().all(|(rows, _)| *rows < 10),
            "{level}: {few:?}"
        );
        assert_eq!(few[&rows::HEAD].0, many[&rows::HEAD].0, "{level}");
        let tiles = |written: &Written| written.get(&rows::TILE).map_or(0, |of| of.0);
        assert!(tiles(many).abs_diff(tiles(few)) <= 4, "{level}: {few:?} {many:?}");
    }
}

/// A vault with cards, customers' indexes and fingerprints of two merchants, and the tokens of acme's cards.
pub(crate) fn furnished(engine: Engine, cards: u32) -> (Desk, Vec<(Token, String)>) {
    let desk = Desk::new(engine);
    let numbers: Vec<String> = (0..cards).map(|n| number("4", 16, n)).collect();
    let mut held = Vec::new();
    for page in numbers.chunks(1_000) {
        let tokens = desk.web().imported(page.iter().map(|digits| card(digits)).collect());
        held.extend(tokens.into_iter().zip(page.iter().cloned()));
    }
    for (n, digits) in [VISA, MASTERCARD, AMEX].into_iter().enumerate() {
        let of = Header { context: Context::new(&format!("customer-{n}"), "", "").unwrap(), ..header() };
        let token = desk.web().tokenize(&of, card(digits)).unwrap_or_else(|e| panic!("{e}")).token;
        held.push((token, digits.to_owned()));
    }
    desk.at("zenith", "web").stored(VISA);
    (desk, held)
}

pub(crate) fn dek(vault: &Vault) -> KeyId {
    let (key, _) = block_on(vault.rotate_dek(&principal("olga"), &merchant_name("acme"), None)).unwrap();
    key
}

pub(crate) fn idx(vault: &Vault) -> Result<KeyId, Error> {
    block_on(vault.rotate_idx(&principal("olga"), &merchant_name("acme"), None)).map(|(key, _)| key)
}

pub(crate) fn fpr(vault: &Vault) -> Result<KeyId, Error> {
    block_on(vault.rotate_fpr(&principal("olga"), &merchant_name("acme"), None)).map(|(key, _)| key)
}

pub(crate) fn step(vault: &Vault) -> ResealStep {
    block_on(vault.reseal()).unwrap_or_else(|e| panic!("{e}"))
}

/// Works until there is nothing to do, and tells how many rows were moved.
pub(crate) fn work_off(vault: &Vault) -> usize {
    let mut all = 0;
    for _ in 0..1_000_000 {
        match step(vault) {
            ResealStep::Worked { moved, .. } => all += moved,
            ResealStep::Drained | ResealStep::Stuck { .. } => {}
            ResealStep::Idle => return all,
        }
    }
    panic!("it never ends");
}

/// How many of acme's rows are under which key of a kind.
pub(crate) fn rows_under_any(desk: &Desk, kind: KeyKind) -> Vec<(KeyId, u64)> {
    let by_key = block_on(desk.vault.rows_by_key(&merchant_name("acme"))).unwrap();
    let of_kind = |id: KeyId| desk.vault.keys().iter().any(|k| k.id == id && k.kind == kind);
    let mut rows: Vec<_> = by_key.into_iter().filter(|(id, _)| of_kind(*id)).collect();
    rows.sort();
    rows
}

fn rows_under(desk: &Desk) -> Vec<(KeyId, u64)> {
    rows_under_any(desk, KeyKind::Dek)
}

pub(crate) fn destroyed(desk: &Desk, key: KeyId) -> Result<(), Error> {
    block_on(desk.vault.destroy_key(&principal("olga"), key, None)).map(|_| ())
}

/// What the log says of drained keys, each proven against the log's key without the vault.
pub(crate) fn certificates(desk: &Desk) -> Vec<u32> {
    certificates_of(&desk.vault)
}

pub(crate) fn certificates_of(vault: &Vault) -> Vec<u32> {
    let (head, verifier) = (block_on(vault.checkpoint()).unwrap(), vault.verifier());
    let mut found = Vec::new();
    for from in (0..head.checkpoint().size).step_by(1_000) {
        for (index, _, entry) in block_on(vault.entries(from, 1_000)).unwrap() {
            if let Event::ControlChanged { change: ControlChange::KeyDrained { key }, .. } = entry.event {
                let proof = block_on(vault.prove(index, &head)).unwrap().unwrap();
                let proof = Proof::parse(&proof.text()).unwrap_or_else(|e| panic!("{e}"));
                let proven = proof.check(&verifier).unwrap_or_else(|e| panic!("{e}"));
                let drained = ControlChange::KeyDrained { key };
                assert!(
                    matches!(proven.entry.event, Event::ControlChanged { change, .. } if change == drained)
                );
                assert_eq!(proven.entry.principal, Who::Vault);
                found.push(key);
            }
        }
    }
    found
}

#[test]
fn rows_move_to_the_new_key_and_the_log_certifies_that_none_is_left() {
    for engine in ON_DISK {
        let (desk, held) = furnished(engine, 700);
        assert_eq!(step(&desk.vault), ResealStep::Idle, "there is no older key");
        let old = rows_under(&desk)[0].0;
        let rows = rows_under(&desk)[0].1;
        let foreign = desk.rows(rows::FINGERPRINT).len();
        let new = dek(&desk.vault);
        assert_eq!(
            destroyed(&desk, old).map_err(|e| e.to_string().contains("rows are sealed anew")),
            Err(true)
        );
        assert_eq!(destroyed(&desk, new).map_err(|e| e.to_string().contains("rotate it first")), Err(true));

        // As far as it comes in five steps; then the process ends, and another goes on.
        for _ in 0..5 {
            assert!(matches!(step(&desk.vault), ResealStep::Worked { .. }));
        }
        let seen = block_on(desk.vault.reseal_progress()).unwrap();
        assert_eq!((&seen.to[..], &seen.from[..], seen.unreadable), (&[new][..], &[old][..], 0));
        assert!(seen.moved > 0 && seen.total == Some(rows), "{seen:?}");
        assert!(certificates(&desk).is_empty());
        let desk = desk.reopened();
        assert_eq!(rows_under(&desk).len(), 2);
        let later = desk.web().stored("5105105105105100");
        let left = rows_under(&desk)[0].1;
        assert_eq!(work_off(&desk.vault) as u64, left, "{engine}");
        assert_eq!(rows_under(&desk), [(new, rows + 2)], "a card and its fingerprint came in between");
        assert!(block_on(desk.vault.reseal_progress()).is_none());
        assert_eq!(certificates(&desk), [old.0]);
        assert_eq!(desk.rows(rows::FINGERPRINT).len(), foreign + 1);

        assert_eq!(destroyed(&desk, old), Ok(()));
        assert!(destroyed(&desk, old).is_err() && destroyed(&desk, KeyId(9_999)).is_err());
        let desk = desk.reopened();
        let tokens: Vec<Token> = held.iter().map(|(token, _)| token.copy()).collect();
        for (paid, (_, digits)) in desk.web().paid_all(&tokens).into_iter().zip(&held) {
            assert_eq!(paid.as_deref(), Ok(digits.as_str()));
        }
        assert_eq!(desk.web().paid(&later).as_deref(), Ok("5105105105105100"));
        assert!(desk.web().imported(vec![card(&held[0].1)])[0].same_as(&held[0].0), "it is found again");
        desk.assert_whole(held.len() + 2);
    }
}

#[test]
fn every_answer_is_right_while_rows_move() {
    let (desk, held) = furnished(Engine::Redb, 2_000);
    let stop = AtomicBool::new(false);
    let rotations = 3;
    thread::scope(|scope| {
        let asking: Vec<_> = (0..3_usize)
            .map(|who| {
                let (desk, held, stop) = (&desk, &held, &stop);
                scope.spawn(move || {
                    let mut asked = 0;
                    for n in (who..).step_by(3) {
                        if stop.load(Ordering::SeqCst) {
                            return asked;
                        }
                        let (token, digits) = &held[n % held.len()];
                        assert_eq!(desk.web().paid(token).as_deref(), Ok(digits.as_str()));
                        assert!(desk.web().imported(vec![card(digits)])[0].same_as(token));
                        let expiry = Some(CardExpiry::new(2030, 1 + (n % 12) as u8).unwrap());
                        let update = AttributesUpdate { card_expiry: expiry, ..AttributesUpdate::default() };
                        let changed = desk.web().care(&header(), async |vault, caller, header| {
                            vault.update_attributes(caller, header, token.copy(), update).await
                        });
                        assert!(changed.is_ok(), "{n}");
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        for round in 0..rotations {
            dek(&desk.vault);
            if round > 0 {
                idx(&desk.vault).unwrap();
                fpr(&desk.vault).unwrap();
            }
            work_off(&desk.vault);
        }
        stop.store(true, Ordering::SeqCst);
        let asked: usize = asking.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(asked > 30, "{asked}");
    });
    assert_eq!(rows_under(&desk).len(), 1);
    assert_eq!(certificates(&desk).len(), rotations * 3 - 2);
    desk.assert_whole(held.len() + 1);
}

#[test]
fn a_row_that_cannot_be_read_keeps_its_key_needed() {
    let (desk, held) = furnished(Engine::Redb, 20);
    let old = rows_under(&desk)[0].0;
    let (key, mut row) = desk.rows(rows::CARD).remove(0);
    *row.last_mut().unwrap() ^= 1;
    desk.put(&key, &row);
    dek(&desk.vault);
    work_off(&desk.vault);
    assert!(certificates(&desk).is_empty());
    let progress = block_on(desk.vault.reseal_progress()).unwrap();
    assert_eq!((progress.unreadable, progress.stuck), (1, true));
    assert!(destroyed(&desk, old).is_err());
    assert_eq!(rows_under(&desk)[0], (old, 1));
    // The others were moved all the same, and other merchants' rows are not kept waiting.
    block_on(desk.vault.rotate_dek(&principal("olga"), &merchant_name("zenith"), None)).unwrap();
    assert!(work_off(&desk.vault) > 0);
    assert_eq!(certificates(&desk).len(), 1);
    let paid = desk.web().paid_all(&held.iter().map(|(token, _)| token.copy()).collect::<Vec<_>>());
    assert!(paid.iter().filter(|paid| paid.is_err()).count() <= 1);
}

#[test]
fn rows_are_moved_with_the_outer_keys_alone() {
    for engine in ON_DISK {
        let (desk, held) = furnished(engine, 300);
        let new = dek(&desk.vault);
        let closed = desk.close();
        let store = closed.store();
        // Nothing below the merchant's KEK is unwrapped here but its DEKs: no key that a card's own seal needs.
        let row = |key: Key| vault_tests::desk::row(&*store, &key).unwrap();
        let vault = control::Header::decode(&row(header_key())).unwrap();
        let epoch = control::Epoch::decode(&row(control::epoch_key())).unwrap();
        let (root, ctl) = vault.unlock(&custodian()).unwrap();
        let control_row = row(control::control_key());
        let control = control::Control::open(&control_row, &epoch, &vault.vault, vault.ctl.0, &ctl).unwrap();
        let acme = merchant_name("acme");
        // Nobody else has the store open: what is sealed here is counted in a block that begins here.
        let (uses, _, begun) = Uses::of(0, &[]).unwrap().begin(&control);
        begun.iter().for_each(Begun::granted);
        let keys = OuterKeys::unwrap(&control, &acme, &root, &uses).unwrap();
        let id = control.numbers[&acme].id;
        let (mut walk, mut moved) = (Walk::default(), 0);
        while let Some((page, next)) = block_on(walk.next(&*store, id, &keys, 100)).unwrap() {
            assert_eq!(page.unreadable, 0);
            moved += page.part.writes.len();
            store.commit(&Batch { parts: vec![page.part], ..Batch::default() }).unwrap();
            walk = next;
        }
        assert!(moved > held.len(), "cards, fingerprints and indexes");
        drop((keys, store));
        let desk = closed.open().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(rows_under(&desk).iter().map(|(key, _)| *key).collect::<Vec<_>>(), [new]);
        assert_eq!(desk.web().paid(&held[0].0).as_deref(), Ok(held[0].1.as_str()));
        assert_eq!(work_off(&desk.vault), 0, "what another did is seen, counted and certified");
        assert_eq!(certificates(&desk).len(), 1);
        desk.assert_whole(held.len() + 1);
    }
}

fn changed_custody(desk: &Desk, old: &str, new: Passphrase) -> Result<(), Error> {
    let old = passphrase(old);
    block_on(desk.vault.change_custodian(&principal("olga"), (&old, &new), None)).map(|_| ())
}

/// Who of these opens the vault that lies here: at every moment exactly one may.
fn opened_by(mut closed: Closed, secrets: &[&str]) -> (Vec<String>, Closed) {
    let mut opened = Vec::new();
    for secret in secrets {
        closed = match closed.open_with(secret) {
            Ok(desk) => {
                opened.push((*secret).to_owned());
                desk.close()
            }
            Err((closed, why)) => {
                assert_eq!(why, Error::Custody, "{secret}");
                closed
            }
        };
    }
    (opened, closed)
}

#[test]
fn a_passphrase_takes_the_place_of_another_and_every_key_stays() {
    const NEXT: &str = "another horse entirely";
    const LAST: &str = "the last horse of all";
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let visa = desk.web().stored(VISA);
        let of = Header { context: Context::new("anna", "", "").unwrap(), ..header() };
        let annas = desk.web().tokenize(&of, card(AMEX)).unwrap_or_else(|e| panic!("{e}")).token;
        assert_eq!(changed_custody(&desk, "not the right one", passphrase(NEXT)), Err(Error::Custody));
        let dearer = passphrase(NEXT).with_cost(96 * 1024, 4).unwrap();
        let first = std::fs::read(desk.folder().join("esk")).unwrap();
        assert_eq!(changed_custody(&desk, PASSPHRASE, dearer), Ok(()));
        let between = std::fs::read(desk.folder().join("esk")).unwrap();
        let Event::ControlChanged { change, .. } = desk.last_event() else { panic!("it is in the log") };
        assert_eq!(change, ControlChange::CustodyEnded { custodian: 1 });
        // It works on, and a root may follow, under the new one.
        assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
        let told = block_on(desk.vault.rotate_root(&principal("olga"), &[&custodian()], None)).map(|_| ());
        assert_eq!(told, Err(Error::Custody));
        let told =
            block_on(desk.vault.rotate_root(&principal("olga"), &[&passphrase(NEXT)], None)).map(|_| ());
        assert_eq!(told, Ok(()));
        // What guessing costs was raised, and stays so, though the one who rotated names no cost.
        let header = control::Header::decode(&desk.row(&header_key()).unwrap()).unwrap();
        let mut w = vault_core::codec::Writer::default();
        header.custody[0].write(&mut w);
        assert_eq!(w.done()[3..11], [&(96_u32 * 1024).to_be_bytes()[..], &4_u32.to_be_bytes()].concat());
        // A copy of the file from before the new root still serves; one from before the new passphrase says what it is.
        let esk = desk.folder().join("esk");
        let closed = desk.close();
        std::fs::write(&esk, &between).unwrap();
        let (opened, closed) = opened_by(closed, &[PASSPHRASE, NEXT]);
        assert_eq!(opened, [NEXT], "{engine}");
        // Custody goes on from such a copy.
        let desk = closed.open_with(NEXT).unwrap_or_else(|(_, e)| panic!("{e}"));
        let told =
            block_on(desk.vault.rotate_root(&principal("olga"), &[&passphrase(NEXT)], None)).map(|_| ());
        assert_eq!(told, Ok(()));
        let (opened, closed) = opened_by(desk.close(), &[PASSPHRASE, NEXT, LAST]);
        assert_eq!(opened, [NEXT], "{engine}");
        std::fs::write(&esk, &between).unwrap();
        let desk = closed.open_with(NEXT).unwrap_or_else(|(_, e)| panic!("{e}"));
        assert_eq!(changed_custody(&desk, NEXT, passphrase(LAST)), Ok(()));
        let (opened, closed) = opened_by(desk.close(), &[PASSPHRASE, NEXT, LAST]);
        assert_eq!(opened, [LAST], "{engine}");
        let desk = closed.open_with(LAST).unwrap_or_else(|(_, e)| panic!("{e}"));
        assert_eq!(changed_custody(&desk, LAST, passphrase(NEXT)), Ok(()));
        let closed = desk.close();
        let newest = std::fs::read(&esk).unwrap();
        std::fs::write(&esk, &first).unwrap();
        let Err((closed, why)) = closed.open_with(NEXT) else { panic!("it opened") };
        assert!(why.to_string().contains("put back a copy that was made since"), "{why}");
        std::fs::write(&esk, &newest).unwrap();
        let desk = closed.open_with(NEXT).unwrap_or_else(|(_, e)| panic!("{e}"));
        assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
        assert_eq!(desk.web().paid(&annas).as_deref(), Ok(AMEX));
        desk.assert_whole(2);
    }
}

#[test]
fn a_change_of_custody_that_is_killed_leaves_exactly_one_that_opens() {
    const NEXT: &str = "another horse entirely";
    for engine in ON_DISK {
        let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let desk = Desk::in_folder(after.path(), engine, OPTIONS, policy()).unwrap_or_else(|e| panic!("{e}"));
        let visa = desk.web().stored(VISA);
        drop(desk.close());
        copy(after.path(), before.path());
        let desk = Closed::at(after.path(), OPTIONS).open().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(changed_custody(&desk, PASSPHRASE, passphrase(NEXT)), Ok(()));
        drop(desk.close());
        // What the file is between its two writings: format, vault and key, then the blocks of both.
        let file = |folder: &Path| std::fs::read(folder.join("esk")).unwrap();
        let (old, new) = (file(before.path()), file(after.path()));
        assert_eq!((old[..22] == new[..22], old[22], new[22]), (true, 1, 1));
        let both = [&old[..22], &[2], &old[23..], &new[23..]].concat();
        for (folder, opens, left) in [(before.path(), PASSPHRASE, old), (after.path(), NEXT, new)] {
            std::fs::write(folder.join("esk"), &both).unwrap();
            // Asked without being opened, the same is told, and nothing is written.
            let closed = Closed::at(folder, OPTIONS);
            let place = Place::new(closed.store(), closed.esk());
            for secret in [PASSPHRASE, NEXT] {
                let told = block_on(Vault::check_custody(&place, &passphrase(secret)));
                assert_eq!(told.is_ok(), secret == opens, "{engine} {secret}");
            }
            drop(place);
            assert!(file(folder) == both);
            let (opened, closed) = opened_by(closed, &[PASSPHRASE, NEXT]);
            assert_eq!(opened, [opens], "{engine}");
            assert!(file(folder) == left, "what is in force no more is taken out");
            let desk = closed.open_with(opens).unwrap_or_else(|(_, e)| panic!("{e}"));
            assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
            drop(desk.close());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_change_of_custody_that_cannot_be_committed_leaves_the_one_before_also_beside_an_older_file() {
    const NEXT: &str = "another horse entirely";
    let folder = tempfile::tempdir().unwrap();
    let esk = folder.path().join("esk");
    let desk =
        Desk::in_folder(folder.path(), Engine::Redb, OPTIONS, policy()).unwrap_or_else(|e| panic!("{e}"));
    let visa = desk.web().stored(VISA);
    let older = std::fs::read(&esk).unwrap();
    root(&desk.vault).unwrap();
    drop(desk.close());
    // A copy from before the new root, as a backup may have it: none of its blocks is named by the header of now.
    std::fs::write(&esk, older).unwrap();
    let passphrase_changes = |vault: &Vault| {
        let (old, new) = (custodian(), passphrase(NEXT));
        block_on(vault.change_custodian(&principal("olga"), (&old, &new), None)).map(|_| ())
    };
    for changes in [passphrase_changes as Rotate, root] {
        let counted = Counted::over(store::open(folder.path(), &OPTIONS).unwrap());
        let place = Place::new(counted.clone(), esk.clone());
        let vault = block_on(Vault::open(place, &custodian())).unwrap_or_else(|e| panic!("{e}"));
        counted.full.store(true, Ordering::SeqCst);
        assert_eq!(changes(&vault), Err(Error::Store(StoreError::Full)));
        counted.full.store(false, Ordering::SeqCst);
        block_on(vault.close()).unwrap();
        drop((vault, counted));
        let (opened, closed) = opened_by(Closed::at(folder.path(), OPTIONS), &[NEXT, PASSPHRASE]);
        assert_eq!(opened, [PASSPHRASE]);
        let desk = closed.open().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
        drop(desk.close());
    }
}
