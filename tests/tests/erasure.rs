//! An erased customer stays erased, also in copies of the store from before: within a day the key that those copies need is
//! replaced, everybody else moved to the next one, and the old one destroyed, which the log certifies.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pollster::block_on;
use vault_client::{Zeroizing, ask, v1};
use vault_core::audit::entry::{ControlChange, Event};
use vault_core::control::header_key;
use vault_core::custody::Custodian;
use vault_core::envelope::KeyKind;
use vault_core::error::Error;
use vault_core::name::PrincipalName;
use vault_core::rows;
use vault_core::store::{self, Batch, CommitError, Engine, Key, Reading, Store, Value, Write};
use vault_core::time::ManualClock;
use vault_core::token::Token;
use vault_core::vault::{Context, ERASURE_DELAY_HOURS, ErasureStep, Header, Place, Vault};
use vault_core::words::KeyState;
use vault_tests::ON_DISK;
use vault_tests::cards::{AMEX, MASTERCARD, VISA, card};
use vault_tests::desk::{
    Closed, Desk, OPTIONS, PASSPHRASE, START, custodian, header, passphrase, policy, principal, write,
};
use vault_tests::server::Rig;

const MS_PER_HOUR: u64 = 3_600_000;

fn customer(name: &str) -> Header {
    Header { context: Context::new(name, "", "").unwrap(), ..header() }
}

/// A card of a customer, stored.
fn stored(desk: &Desk, name: &str, digits: &str) -> Token {
    desk.web().tokenize(&customer(name), card(digits)).unwrap_or_else(|e| panic!("{e}")).token
}

fn paid(desk: &Desk, name: &str, token: &Token) -> Result<String, Error> {
    let told = desk.web().detokenized(&customer(name), token, vault_core::vault::Reveal::Plain);
    told.map(|card| vault_tests::desk::shown(&card.revealed))
}

/// Erases a customer, and gives the receipt's place in the log.
fn erased(desk: &Desk, name: &str) -> u64 {
    let told =
        desk.web().care(&customer(name), async |vault, who, header| vault.erase_subject(who, header).await);
    told.unwrap_or_else(|e| panic!("{e}")).receipt.index
}

fn certificate(desk: &Desk, index: u64) -> Option<u64> {
    block_on(desk.vault.erasure_certificate(index)).unwrap_or_else(|e| panic!("{e}"))
}

/// Does what the server does in the background until nothing is left of it; says whether a key came to its end.
fn worked_off(vault: &Vault) -> bool {
    let own = custodian();
    let mut destroyed = false;
    loop {
        match block_on(vault.erasing()).unwrap_or_else(|e| panic!("{e}")) {
            ErasureStep::Idle => return destroyed,
            ErasureStep::Due => drop(block_on(vault.follow_esk(&[&own])).unwrap_or_else(|e| panic!("{e}"))),
            ErasureStep::Destroyed => destroyed = true,
            ErasureStep::Worked { .. } | ErasureStep::Drained => {}
            ErasureStep::Stuck { unreadable } => panic!("{unreadable} customers do not open"),
        }
    }
}

fn rotated(vault: &Vault) -> Result<(), Error> {
    block_on(vault.rotate_esk(&principal("olga"), &[&custodian()], None)).map(|_| ())
}

fn esks(vault: &Vault) -> Vec<KeyState> {
    vault.keys().iter().filter(|k| k.kind == KeyKind::Esk).map(|k| k.state).collect()
}

/// A copy of a closed vault's folder, as a backup of its files would have it.
fn copied(from: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                fs::create_dir(&to).unwrap();
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    copy(from, to.path());
    to
}

use KeyState::{Active, Deactivated, Destroyed};

#[test]
fn half_a_day_after_an_erasure_its_key_is_replaced_and_the_log_certifies_it() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let (anna, bob) = (stored(&desk, "anna", VISA), stored(&desk, "bob", MASTERCARD));
        let nobody = desk.web().stored(AMEX);
        assert!(!worked_off(&desk.vault) && esks(&desk.vault) == [Active], "nobody was erased");
        let receipt = erased(&desk, "anna");
        assert_eq!(paid(&desk, "anna", &anna), Err(Error::NotFound));
        // Not at once: erasures of half a day share one rotation. Nor is it forgotten by a restart.
        desk.wait_ms(u64::from(ERASURE_DELAY_HOURS) * MS_PER_HOUR - 1);
        let desk = desk.reopened();
        assert!(!worked_off(&desk.vault), "{engine}");
        assert_eq!(certificate(&desk, receipt), None);
        desk.wait_ms(1);
        assert!(worked_off(&desk.vault), "{engine}");
        assert_eq!(esks(&desk.vault), [Destroyed, Active]);
        let place = certificate(&desk, receipt).expect("a certificate");
        assert!(place > receipt);
        let (_, _, entry) = block_on(desk.vault.entries(place, 1)).unwrap().pop().unwrap();
        let Event::ControlChanged {
            change: ControlChange::ErasureKeyDestroyed { before, custodians, .. },
            ..
        } = entry.event
        else {
            panic!("{entry:?}")
        };
        let (_, _, said) = block_on(desk.vault.entries(receipt, 1)).unwrap().pop().unwrap();
        assert!(said.epoch < before && custodians == [1], "a passphrase, by policy only");
        // Everybody else is who they were, and an erasure from after the rotation waits for its own.
        let later = erased(&desk, "carl");
        assert_eq!(certificate(&desk, later), None);
        let desk = desk.reopened();
        assert_eq!(paid(&desk, "bob", &bob).as_deref(), Ok(MASTERCARD));
        assert_eq!(desk.web().paid(&nobody).as_deref(), Ok(AMEX));
        assert!(stored(&desk, "bob", MASTERCARD).same_as(&bob));
        assert!(!stored(&desk, "anna", VISA).same_as(&anna), "a new customer of the old name");
        assert!(desk.rows(rows::ERASURE).len() == 1 && !worked_off(&desk.vault));
        let told = block_on(desk.vault.erasure_certificate(0));
        assert!(matches!(told, Err(Error::Malformed { field: "receipt", .. })));
        assert!(desk.verified().is_whole());
    }
}

#[test]
fn a_copy_of_the_store_from_before_an_erasure_opens_beside_no_newer_key() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let anna = stored(&desk, "anna", VISA);
        let closed = desk.close();
        let copy = copied(&closed.folder);
        let desk = closed.open().unwrap();
        erased(&desk, "anna");
        // With the key of its time the copy still has her: that is what the rotation is for.
        let kept = copied(copy.path());
        let old = Closed::at(kept.path(), OPTIONS).open().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(paid(&old, "anna", &anna).as_deref(), Ok(VISA));
        drop(old.close());
        assert_eq!(rotated(&desk.vault), Ok(()));
        assert!(worked_off(&desk.vault));
        let closed = desk.close();
        fs::copy(closed.esk(), copy.path().join("esk")).unwrap();
        let Err((_, why)) = Closed::at(copy.path(), OPTIONS).open_with(PASSPHRASE) else {
            panic!("{engine}: an erased customer is back")
        };
        let Error::Config(text) = &why else { panic!("{why}") };
        assert!(text.contains("older than the file `esk`") && text.contains("stay erased"), "{text}");
        let place =
            vault_core::vault::Place::new(Closed::at(copy.path(), OPTIONS).store(), copy.path().join("esk"));
        let told = block_on(Vault::check_custody(&place, &custodian()));
        assert!(matches!(told, Err(Error::Config(_))), "{told:?}");
        // The other way round it is told as well.
        fs::copy(kept.path().join("esk"), closed.esk()).unwrap();
        let Err((_, Error::Config(text))) = closed.open_with(PASSPHRASE) else {
            panic!("opened by an old key")
        };
        assert!(text.contains("older than the store") && text.contains("Put back"), "{text}");
    }
}

/// Where a rotation may be cut short: before it is in force, after each step of the work, and in the middle of the last.
const CUTS: usize = 9;

/// Counted, to be moved, moved, to be counted, counted, drained.
const STEPS: usize = 6;

#[test]
fn cut_short_anywhere_the_vault_opens_with_everybody_and_the_work_goes_on() {
    for cut in 0..CUTS {
        let desk = Desk::new(Engine::Redb);
        let tokens: Vec<(String, Token)> =
            (0..3).map(|n| (format!("c{n}"), stored(&desk, &format!("c{n}"), VISA))).collect();
        let receipt = erased(&desk, "gone");
        let folder = desk.folder().to_owned();
        let before = fs::read(folder.join("esk")).unwrap();
        if cut > 0 {
            assert_eq!(rotated(&desk.vault), Ok(()));
            let again = rotated(&desk.vault);
            assert!(matches!(again, Err(Error::Malformed { field: "kind", .. })), "{again:?}");
        }
        for _ in 1..cut.min(STEPS + 1) {
            block_on(desk.vault.erasing()).unwrap();
        }
        let closed = desk.close();
        match cut {
            // Killed after the new key was written and before it was in force.
            0 => fs::write(folder.join("esk.rotated"), &before).unwrap(),
            // Killed after the new key took its place and before the log said so.
            8 => fs::rename(folder.join("esk.rotated"), folder.join("esk")).unwrap(),
            _ => {}
        }
        let desk = closed.open().unwrap_or_else(|e| panic!("cut {cut}: {e}"));
        assert_eq!(esks(&desk.vault).len(), if cut == 0 { 1 } else { 2 });
        let later = stored(&desk, "later", AMEX);
        for (name, token) in &tokens {
            assert_eq!(paid(&desk, name, token).as_deref(), Ok(VISA), "cut {cut}");
        }
        if cut == 0 {
            assert_eq!(rotated(&desk.vault), Ok(()));
        }
        assert!(worked_off(&desk.vault));
        assert!(!folder.join("esk.rotated").exists());
        assert!(certificate(&desk, receipt).is_some());
        let desk = desk.reopened();
        assert_eq!(esks(&desk.vault), [Destroyed, Active]);
        assert_eq!(paid(&desk, "later", &later).as_deref(), Ok(AMEX));
        for (name, token) in &tokens {
            assert_eq!(paid(&desk, name, token).as_deref(), Ok(VISA), "cut {cut}");
        }
        assert!(desk.verified().is_whole());
    }
}

#[test]
fn a_key_that_a_customer_still_needs_is_not_destroyed() {
    let desk = Desk::new(Engine::Redb);
    stored(&desk, "anna", VISA);
    let bob = stored(&desk, "bob", MASTERCARD);
    let mut row = desk.rows(rows::SUBJECT).remove(0);
    assert_eq!(rotated(&desk.vault), Ok(()));
    let whole = row.1.clone();
    *row.1.last_mut().unwrap() ^= 1;
    desk.put(&row.0, &row.1);
    let step = loop {
        match block_on(desk.vault.erasing()).unwrap() {
            ErasureStep::Worked { .. } => {}
            other => break other,
        }
    };
    assert_eq!((step, esks(&desk.vault)), (ErasureStep::Stuck { unreadable: 1 }, vec![Deactivated, Active]));
    assert_eq!(block_on(desk.vault.erasing()), Ok(ErasureStep::Idle));
    // Nor do custodians change while two keys would have to go with them.
    let new = passphrase("a new and better secret");
    let told = block_on(desk.vault.change_custodian(&principal("olga"), (&custodian(), &new), None));
    assert!(matches!(told, Err(Error::Config(_))), "{told:?}");
    desk.put(&row.0, &whole);
    let desk = desk.reopened();
    // Once it can be, it is: a change of custodians does the work first.
    let told = block_on(desk.vault.change_custodian(&principal("olga"), (&custodian(), &new), None));
    assert!(told.is_ok(), "{told:?}");
    assert_eq!(esks(&desk.vault), [Destroyed, Active]);
    let (closed, _) = desk.close().open_with(PASSPHRASE).err().unwrap();
    let desk = closed.open_with("a new and better secret").map_err(|(_, e)| e).unwrap();
    assert_eq!(paid(&desk, "bob", &bob).as_deref(), Ok(MASTERCARD));
}

#[test]
fn an_old_key_is_not_ended_where_the_next_one_is_not_in_its_place() {
    let desk = Desk::new(Engine::Redb);
    let anna = stored(&desk, "anna", VISA);
    let before = fs::read(desk.folder().join("esk")).unwrap();
    assert_eq!(rotated(&desk.vault), Ok(()));
    // It is known also to a vault that did not write it, but opened with it.
    let desk = desk.reopened();
    let next = desk.folder().join("esk.rotated");
    let kept = fs::read(&next).unwrap();
    let mut bent = kept.clone();
    *bent.last_mut().unwrap() ^= 1;
    for (what, other) in [("none", None), ("the older one's", Some(&before)), ("a damaged one", Some(&bent))]
    {
        match other {
            None => fs::remove_file(&next).unwrap(),
            Some(bytes) => fs::write(&next, bytes).unwrap(),
        }
        let told = loop {
            match block_on(desk.vault.erasing()) {
                Ok(ErasureStep::Worked { .. } | ErasureStep::Drained) => {}
                other => break other,
            }
        };
        assert!(matches!(told, Err(Error::Config(_))), "{what}: {told:?}");
        assert_eq!(esks(&desk.vault), [Deactivated, Active], "{what}");
        assert_eq!(
            fs::read(desk.folder().join("esk")).unwrap(),
            before,
            "{what}: the older one is still there"
        );
    }
    fs::write(&next, kept).unwrap();
    assert!(worked_off(&desk.vault));
    assert_eq!(paid(&desk.reopened(), "anna", &anna).as_deref(), Ok(VISA));
}

#[test]
fn customers_are_counted_without_a_use_of_any_key() {
    const CUSTOMERS: u64 = 5;
    let desk = Desk::new(Engine::Redb);
    for n in 0..CUSTOMERS {
        stored(&desk, &format!("c{n}"), VISA);
    }
    let uses = |kind: KeyKind| -> u64 {
        let keys = desk.vault.keys();
        let mut active = keys.iter().filter(|k| k.kind == kind && k.state == Active);
        let own = active.find(|k| k.merchant.as_ref().is_none_or(|m| m.as_str() == "acme")).unwrap();
        own.uses.unwrap()
    };
    let before = uses(KeyKind::Dek);
    assert_eq!(rotated(&desk.vault), Ok(()));
    let mut seen = 0;
    loop {
        match block_on(desk.vault.erasing()).unwrap() {
            ErasureStep::Worked { seen: looked_at, .. } => seen += looked_at,
            ErasureStep::Idle => break,
            _ => {}
        }
    }
    assert_eq!(u64::try_from(seen).unwrap(), 3 * CUSTOMERS, "counted, moved, counted");
    assert_eq!((uses(KeyKind::Esk), uses(KeyKind::Dek) - before), (CUSTOMERS, CUSTOMERS), "moved once");
}

#[test]
fn an_erasure_key_is_taken_into_custody_by_its_own_custodians_alone() {
    let desk = Desk::new(Engine::Redb);
    let stranger = passphrase("somebody else entirely");
    let by: PrincipalName = principal("olga");
    let strangers: [&dyn Custodian; 1] = [&stranger];
    assert_eq!(block_on(desk.vault.rotate_esk(&by, &strangers, None)).map(|_| ()), Err(Error::Custody));
    let late = block_on(desk.vault.rotate_esk(&by, &[&custodian()], Some(9))).map(|_| ());
    assert_eq!(late, Err(Error::EpochMismatch { epoch: 1 }));
    assert_eq!(esks(&desk.vault), [Active]);
    // The erased customer's row that says so may be taken away in the store: what is lost is the date, not the erasure.
    let anna = stored(&desk, "anna", VISA);
    erased(&desk, "anna");
    let pending = desk.rows(rows::ERASURE).remove(0).0;
    write(&*desk.store, vec![Write::Delete(pending)]);
    assert_eq!(paid(&desk, "anna", &anna), Err(Error::NotFound));
    assert!(desk.row(&header_key()).is_some() && rotated(&desk.vault).is_ok() && worked_off(&desk.vault));
}

#[test]
fn custody_waits_for_customers_who_move_to_a_new_erasure_key() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut rig = Rig::new(Engine::Redb);
    runtime.block_on(async {
        let mut header = ask::header("acme", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder);
        let context = v1::Context { customer_reference: "anna".to_owned(), ..v1::Context::default() };
        header.context = Some(context);
        let visa = ask::card(Zeroizing::new(VISA.as_bytes().to_vec()), None);
        rig.client("shop").await.tokenize(header, visa).await.unwrap();
    });
    rig.kill();
    let store = Closed::at(&rig.file("vault"), OPTIONS).store();
    let (key, whole) = block_on(store.scan(&[rows::SUBJECT], None, 1)).unwrap().remove(0);
    let mut bent = whole.clone();
    *bent.last_mut().unwrap() ^= 1;
    write(&*store, vec![Write::Put(key.clone(), bent)]);
    drop(store);
    rig.start();
    let rotate = async |rig: &Rig, kind: v1::KeyKind| {
        let header = Some(ask::change(None));
        let request = v1::RotateKeyRequest { header, kind: kind.into(), ..v1::RotateKeyRequest::default() };
        rig.operator().await.rotate_key(request).await.map(drop).map_err(|e| e.to_string())
    };
    // Her row does not open: she keeps the older key needed.
    runtime.block_on(rotate(&rig, v1::KeyKind::Esk)).unwrap();
    let refused = runtime.block_on(rotate(&rig, v1::KeyKind::Root)).unwrap_err();
    assert!(refused.contains("customers are being moved") && refused.contains("keys status"), "{refused}");
    rig.kill();
    write(&*Closed::at(&rig.file("vault"), OPTIONS).store(), vec![Write::Put(key, whole)]);
    rig.start();
    runtime.block_on(rotate(&rig, v1::KeyKind::Root)).unwrap();
    rig.kill();
}

/// Asks until the request waits for the disk, and goes away; whether it did wait.
fn went_away<T>(asked: impl Future<Output = T>) -> bool {
    let mut asked = std::pin::pin!(asked);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    asked.as_mut().poll(&mut context).is_pending()
}

/// A disk that takes its time.
struct Slow(Arc<dyn Store>);

impl Store for Slow {
    fn get<'a>(&'a self, keys: &'a [Key]) -> Reading<'a, Vec<Option<Value>>> {
        self.0.get(keys)
    }

    fn scan<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> Reading<'a, Vec<(Key, Value)>> {
        self.0.scan(prefix, after, limit)
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        std::thread::sleep(std::time::Duration::from_millis(100));
        self.0.commit(batch)
    }

    fn commits(&self) -> u64 {
        self.0.commits()
    }

    fn engine(&self) -> &'static str {
        self.0.engine()
    }
}

#[test]
fn whoever_goes_away_while_a_key_is_entrusted_and_asks_again_harms_no_customer() {
    for engine in ON_DISK {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(START));
        let store: Arc<dyn Store> = Arc::new(Slow(store::create(folder.path(), engine, &OPTIONS).unwrap()));
        let place = Place { clock: clock.clone(), ..Place::new(store.clone(), folder.path().join("esk")) };
        let vault = block_on(Vault::create(place, &custodian(), policy())).unwrap_or_else(|e| panic!("{e}"));
        let desk = Desk::of(vault, store, clock, folder.path());
        let kept = stored(&desk, "anna", VISA);
        let (olga, own) = (principal("olga"), custodian());
        for _ in 0..2 {
            // The file of the erasure key is last: a new root writes it anew.
            assert!(went_away(desk.vault.rotate_root(&olga, &[&own], None)));
            block_on(desk.vault.rotate_root(&olga, &[&own], None)).unwrap_or_else(|e| panic!("{e}"));
            assert!(went_away(desk.vault.rotate_esk(&olga, &[&own], None)), "it is on its way to the disk");
            // It is done before the next begins.
            let again = block_on(desk.vault.rotate_esk(&olga, &[&own], None));
            assert!(matches!(again, Err(Error::Malformed { field: "kind", .. })), "{:?}", again.map(|_| ()));
            worked_off(&desk.vault);
        }
        let desk = desk.close().open().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(paid(&desk, "anna", &kept).as_deref(), Ok(VISA), "{engine}");
        assert!(desk.verified().is_whole());
    }
}
