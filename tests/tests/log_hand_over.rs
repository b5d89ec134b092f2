//! The log's signing key is replaced while the vault works: one log before and after, whoever knows whichever of its keys.

use std::fs;
use std::sync::atomic::Ordering;

use pollster::block_on;
use vault_core::audit::entry::{ControlChange, Event};
use vault_core::audit::handover::{HandOver, MAX_HAND_OVERS, hand_over_key};
use vault_core::audit::note::LogVerifier;
use vault_core::audit::receipt::Receipt;
use vault_core::audit::verify::verify_export;
use vault_core::envelope::KeyKind;
use vault_core::error::Error;
use vault_core::rows;
use vault_core::store::{self, Engine, StoreError, Write};
use vault_core::vault::{Place, Vault};
use vault_core::words::{Action, KeyState};
use vault_tests::ON_DISK;
use vault_tests::cards::{AMEX, MASTERCARD, VISA, card};
use vault_tests::desk::{Desk, OPTIONS, custodian, header, policy, principal, write};

use crate::key_rotation::Counted;

fn handed_over(desk: &Desk) -> Result<Receipt, Error> {
    block_on(desk.vault.rotate_log(&principal("olga"), None)).map(|(_, receipt)| receipt)
}

/// A card stored, and its receipt.
fn stored(desk: &Desk, digits: &str) -> Receipt {
    desk.web().tokenize(&header(), card(digits)).unwrap_or_else(|e| panic!("{e}")).receipt
}

fn key(text: &str) -> LogVerifier {
    LogVerifier::parse(text).unwrap()
}

fn log_keys(desk: &Desk) -> Vec<KeyState> {
    desk.vault.keys().iter().filter(|k| k.kind == KeyKind::Log).map(|k| k.state).collect()
}

fn exported(desk: &Desk) -> Vec<u8> {
    let mut out = Vec::new();
    block_on(desk.vault.export_log(&mut out, &mut |_, _| {})).unwrap_or_else(|e| panic!("{e}"));
    out
}

/// Fails unless this one key leads to the proof of each of these receipts, with nothing but what the proof carries.
fn proves(desk: &Desk, known: &LogVerifier, receipts: &[Receipt]) {
    let head = block_on(desk.vault.checkpoint()).unwrap();
    let hand_overs: Vec<HandOver> = block_on(desk.vault.hand_overs()).unwrap();
    for receipt in receipts {
        let proof = block_on(desk.vault.prove(receipt.index, &head)).unwrap().unwrap();
        let proof = proof.with_hand_overs(hand_overs.clone());
        let kept =
            Receipt::open(&receipt.text(), &proof.keys(known).unwrap()).unwrap_or_else(|e| panic!("{e}"));
        proof.check_receipt(&kept, known).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn receipts_of_every_key_hold_for_who_knows_the_first_or_the_newest() {
    for engine in ON_DISK {
        let mut desk = Desk::new(engine);
        let mut known = vec![desk.vault.verifier().to_string()];
        let mut receipts = vec![stored(&desk, VISA)];
        for digits in [MASTERCARD, AMEX] {
            let before = desk.vault.verifier();
            let receipt = handed_over(&desk).unwrap_or_else(|e| panic!("{engine}: {e}"));
            // Its receipt is good for whoever has not heard of the new key yet.
            assert!(Receipt::open(&receipt.text(), &before).is_ok());
            let Event::ControlChanged { change: ControlChange::LogHandedOver { .. }, .. } = desk.last_event()
            else {
                panic!("the last entry under both signatures is not the hand-over")
            };
            receipts.push(receipt);
            receipts.push(stored(&desk, digits));
            known.push(desk.vault.verifier().to_string());
            desk = desk.reopened();
            assert_eq!(known.last(), Some(&desk.vault.verifier().to_string()));
        }
        use KeyState::{Active, Destroyed};
        assert_eq!(log_keys(&desk), [Destroyed, Destroyed, Active]);
        assert_eq!(desk.vault.verifier().texts(), known);
        let export = exported(&desk);
        for known in &known {
            proves(&desk, &key(known), &receipts);
            let report = verify_export(&mut export.as_slice(), &key(known), &mut |_, _| {}).unwrap();
            assert_eq!(report.fault, None, "{engine}");
        }
        // A receipt's own checkpoint is signed by the key of its time, and by no other.
        let signed = |receipt: &Receipt, by: &str| Receipt::open(&receipt.text(), &key(by)).is_ok();
        assert!(signed(&receipts[0], &known[0]) && !signed(&receipts[0], &known[1]));
        assert!(signed(&receipts[2], &known[1]) && !signed(&receipts[2], &known[0]));
        assert_eq!(desk.web().paid(&desk.web().stored(VISA)).as_deref(), Ok(VISA));
        desk.assert_whole(3);
    }
}

#[test]
fn a_hand_over_that_does_not_reach_the_disk_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store::create(folder.path(), Engine::Redb, &OPTIONS).unwrap();
    let counted = Counted::over(store);
    let place = || Place::new(counted.clone(), folder.path().join("esk"));
    let vault = block_on(Vault::create(place(), &custodian(), policy())).unwrap_or_else(|e| panic!("{e}"));
    let before = vault.verifier();
    let rotate = |expected| block_on(vault.rotate_log(&principal("olga"), expected)).map(|_| ());
    assert_eq!(rotate(Some(9)), Err(Error::EpochMismatch { epoch: 1 }));
    counted.full.store(true, Ordering::SeqCst);
    assert_eq!(rotate(None), Err(Error::Store(StoreError::Full)));
    counted.full.store(false, Ordering::SeqCst);
    // The old key goes on, and may hand over later.
    let receipt = block_on(vault.consulted(&principal("olga"), Action::ReadAudit)).unwrap();
    assert!(vault.verifier() == before && Receipt::open(&receipt.text(), &before).is_ok());
    assert_eq!(rotate(None), Ok(()));
    assert_ne!(vault.verifier(), before);
    block_on(vault.close()).unwrap();
    drop(vault);
    let vault = block_on(Vault::open(place(), &custodian())).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(block_on(vault.verify_log(&mut |_, _| {})).unwrap().fault, None);
}

#[test]
fn a_hand_over_put_back_taken_away_or_forged_in_the_store_opens_no_vault() {
    let desk = Desk::new(Engine::Redb);
    let old_head = desk.rows(rows::HEAD);
    handed_over(&desk).unwrap();
    stored(&desk, VISA);
    let closed = desk.close();
    let row = hand_over_key(0, 0);
    let good = vault_tests::desk::row(&*closed.store(), &row).unwrap();
    let head = vault_tests::desk::rows(&*closed.store(), rows::HEAD);
    let mut closed = closed;
    for (what, tamper) in [
        ("taken away", vec![Write::Delete(row.clone())]),
        ("forged", vec![Write::Put(row.clone(), [&good[..good.len() - 9], b"AAAAAAA=\n"].concat())]),
        // Signed by the old key as it should be, for another size.
        ("another head", vec![Write::Put(row.clone(), old_head[0].1.clone())]),
        ("an old head", vec![Write::Put(head[0].0.clone(), old_head[0].1.clone())]),
    ] {
        write(&*closed.store(), tamper);
        let told = closed.open_with(vault_tests::desk::PASSPHRASE);
        let Err((still, why)) = told else { panic!("{what}: opened") };
        assert_eq!(why, Error::Store(StoreError::Corrupt), "{what}");
        closed = still;
        write(
            &*closed.store(),
            vec![Write::Put(row.clone(), good.clone()), Write::Put(head[0].0.clone(), head[0].1.clone())],
        );
    }
    closed.open().unwrap_or_else(|e| panic!("{e}")).assert_whole(1);
}

#[test]
fn a_log_is_handed_over_so_often_and_not_more_often() {
    let desk = Desk::new(Engine::Redb);
    let first = desk.vault.verifier();
    let receipt = stored(&desk, VISA);
    for _ in 0..MAX_HAND_OVERS {
        handed_over(&desk).unwrap_or_else(|e| panic!("{e}"));
    }
    let newest = desk.vault.verifier();
    let told = handed_over(&desk).map(|_| ());
    assert!(matches!(told, Err(Error::Malformed { field: "kind", .. })), "{told:?}");
    assert_eq!(desk.vault.verifier(), newest);
    // All of them at once are within every bound.
    let desk = desk.reopened();
    proves(&desk, &first, &[receipt]);
    let file = desk.folder().join("log.jsonl");
    fs::write(&file, exported(&desk)).unwrap();
    let report = verify_export(&mut fs::read(&file).unwrap().as_slice(), &first, &mut |_, _| {}).unwrap();
    assert_eq!(report.fault, None);
}
