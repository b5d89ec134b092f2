//! Every level of the key tree takes a new key while the vault works, and nothing below it is touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pollster::block_on;
use vault_core::control::header_key;
use vault_core::custody::Custodian;
use vault_core::envelope::KeyKind;
use vault_core::error::Error;
use vault_core::policy::Caller;
use vault_core::rows;
use vault_core::store::{self, Batch, CommitError, Engine, Key, Reading, Store, Value, Write};
use vault_core::vault::{Header, KeyLine, NewCard, Place, Vault};
use vault_core::words::KeyState;
use vault_tests::ON_DISK;
use vault_tests::cards::{AMEX, MASTERCARD, VISA, card, number};
use vault_tests::desk::{
    Desk, OPTIONS, PASSPHRASE, channel, custodian, header, merchant_name, passphrase, policy, principal,
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

/// A store that counts what is written through it.
struct Counted {
    store: Arc<dyn Store>,
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Counted {
    fn taken(&self) -> (u64, u64) {
        (self.rows.swap(0, Ordering::SeqCst), self.bytes.swap(0, Ordering::SeqCst))
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
        self.store.commit(batch)?;
        for write in batch.parts.iter().flat_map(|part| &part.writes).chain(&batch.head) {
            let bytes = match write {
                Write::Put(key, value) => key.len() + value.len(),
                Write::Delete(key) | Write::Add(key, _) => key.len() + 8,
            };
            self.rows.fetch_add(1, Ordering::SeqCst);
            self.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
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

#[test]
fn an_upper_rotation_writes_as_much_with_many_cards_as_with_few() {
    let folder = tempfile::tempdir().unwrap();
    let store = store::create(folder.path(), Engine::Redb, &OPTIONS).unwrap();
    let counted = Arc::new(Counted { store, rows: AtomicU64::new(0), bytes: AtomicU64::new(0) });
    let place = Place::new(counted.clone(), folder.path().join("esk"));
    let vault = block_on(Vault::create(place, &custodian(), policy())).unwrap_or_else(|e| panic!("{e}"));
    let import = |from: u32, to: u32| {
        let importer = principal("acme-import");
        for from in (from..to).step_by(1_000) {
            let header = Header { channel: Some(channel("web")), ..header() };
            let cards: Vec<NewCard> = (from..from + 1_000).map(|n| card(&number("4", 16, n))).collect();
            let told = block_on(vault.tokenize_batch(Caller::Local(&importer), &header, cards));
            assert!(told.unwrap_or_else(|e| panic!("{e}")).iter().all(Result::is_ok));
        }
    };
    let mut seen: Vec<Vec<(u64, u64)>> = Vec::new();
    for (from, to) in [(0, 1_000), (1_000, many())] {
        import(from, to);
        let of_level = |(kind, rotate): (KeyKind, Rotate)| {
            counted.taken();
            rotate(&vault).unwrap_or_else(|e| panic!("{e}"));
            let (rows, bytes) = counted.taken();
            println!("{} at {to} cards: {rows} rows, {bytes} bytes", kind.as_str());
            (rows, bytes)
        };
        seen.push(LEVELS.map(of_level).to_vec());
    }
    for ((few_rows, few_bytes), (many_rows, many_bytes)) in seen[0].iter().zip(&seen[1]) {
        // The second round finds more keys in Control, one for each rotation before it: some hundred bytes, whatever
        // the cards. And as the log grows, the places in it that a checkpoint touches may be some more.
        assert!(many_rows.abs_diff(*few_rows) <= 4 && many_bytes.abs_diff(*few_bytes) < 4_000, "{seen:?}");
        assert!(*many_rows < 20, "{seen:?}");
    }
}
