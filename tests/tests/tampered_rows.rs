//! Whoever can write to the store can break the vault, but cannot make it tell a card number or go on as if nothing was.
//!
//! Every edit is made behind the vault's back, on a living node or on a closed folder. What must hold: the edited row
//! does not open, the answer is [`Error::Internal`] and nothing else, nothing panics, the log says `unreadable`, and with
//! the old bytes back everything works again.

use std::fs;

use pollster::block_on;
use vault_core::audit::tree::{Hash, entry_key, tile_key};
use vault_core::audit::verify::Fault;
use vault_core::control;
use vault_core::envelope::KeyKind;
use vault_core::error::Error;
use vault_core::rows;
use vault_core::store::{Engine, Key, StoreError, Value, Write};
use vault_core::token::Token;
use vault_core::vault::{Context, Finding, Header, NewCard, Reveal, Revocation};
use vault_core::words::{KeyState, Refusal};
use vault_tests::cards::{MASTERCARD, VISA, card, number};
use vault_tests::desk::{
    self, Closed, Desk, channel, custodian, header, in_format, merchant_name, policy, principal, request,
};
use vault_tests::{At, ON_DISK, disk};

/// A verb to be asked, and whether it was refused as it must be.
type Asked<'a> = Box<dyn Fn() -> bool + 'a>;

/// Whether a fault of the log is the one that a case is about.
type Finds = fn(&Fault) -> bool;

/// What is done to a row: its name, and the new bytes from the old.
type Edit = (String, Box<dyn Fn(&[u8]) -> Value>);

fn edit(name: impl Into<String>, to: impl Fn(&[u8]) -> Value + 'static) -> Edit {
    (name.into(), Box::new(to))
}

fn flipped(bytes: &[u8], bit: usize) -> Value {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// Bytes that look random and are the same in every run.
fn garbage(len: usize) -> Value {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// Edits that no row survives: each bit of the first eight bytes and every `stride`-th after them, cuts, garbage.
fn damages(row: &[u8], stride: usize) -> Vec<Edit> {
    let len = row.len();
    let bits = (0..64).chain((64..len * 8).step_by(stride)).chain([len * 8 - 1]);
    let mut edits: Vec<Edit> =
        bits.map(|bit| edit(format!("bit {bit}"), move |row| flipped(row, bit))).collect();
    for cut in [0, 1, 4, 5, 28, 29, 45, len / 2, len - 16, len - 1] {
        edits.push(edit(format!("cut to {cut}"), move |row| row[..cut].to_vec()));
    }
    edits.push(edit("one byte more", |row| [row, &[0]].concat()));
    edits.push(edit("its first byte gone", |row| row[1..].to_vec()));
    for long in [1, len, 2 * len, 70_000] {
        edits.push(edit(format!("garbage of {long}"), move |_| garbage(long)));
    }
    edits.push(edit("zeros", |row| vec![0; row.len()]));
    edits.push(edit("garbage behind a good beginning", |row| {
        [&row[..5], &garbage(row.len() - 5)[..]].concat()
    }));
    edits
}

/// The rows of a kind that came in while `work` ran.
fn new_rows<T>(desk: &Desk, kind: u8, work: impl FnOnce() -> T) -> (T, Vec<(Key, Value)>) {
    let before = desk.rows(kind);
    let done = work();
    let added =
        desk.rows(kind).into_iter().filter(|(key, _)| !before.iter().any(|(old, _)| old == key)).collect();
    (done, added)
}

/// A card with its token and its row.
struct Stored {
    token: Token,
    key: Key,
    row: Value,
}

fn store(at: At<'_>, desk: &Desk, card: NewCard) -> Stored {
    let (token, mut rows) = new_rows(desk, rows::CARD, || at.added(card));
    let (key, row) = rows.pop().unwrap();
    assert!(rows.is_empty());
    Stored { token, key, row }
}

fn is_internal<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Internal { .. }))
}

/// Every verb refuses the token with the one error, and the log says why.
fn refused_by_every_verb(desk: &Desk, at: At<'_>, token: &Token, case: &str) {
    let verbs: [(&str, Asked<'_>); 5] = [
        ("detokenize", Box::new(|| is_internal(&at.paid(token)))),
        ("a masked detokenize", Box::new(|| is_internal(&at.detokenized(&header(), token, Reveal::Masked)))),
        ("inspect", Box::new(|| is_internal(&at.inspected(token)))),
        ("revoke", Box::new(|| is_internal(&at.revoke(&header(), token, Revocation::Everywhere)))),
        (
            "revoke on one channel",
            Box::new(|| is_internal(&at.revoke(&header(), token, Revocation::On(channel("app"))))),
        ),
    ];
    for (verb, refused) in verbs {
        // Ten refusals a second stand in the log one by one.
        desk.wait_ms(1_000);
        assert!(refused(), "{case}: {verb}");
        assert_eq!(desk.last_refusal(), Some(Refusal::Unreadable), "{case}: {verb}");
    }
}

fn refused_once(desk: &Desk, at: At<'_>, token: &Token, case: &str) {
    desk.wait_ms(1_000);
    let answer = at.paid(token);
    assert!(is_internal(&answer), "{case}: {:?}", answer.err());
    assert_eq!(desk.last_refusal(), Some(Refusal::Unreadable), "{case}");
}

#[test]
fn a_damaged_card_row_does_not_open() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let stored = store(desk.web(), &desk, card(VISA));
        for (case, edit) in damages(&stored.row, 23) {
            desk.put(&stored.key, &edit(&stored.row));
            refused_once(&desk, desk.web(), &stored.token, &format!("{engine}: {case}"));
        }
        for (case, edit) in damages(&stored.row, 401).into_iter().step_by(13) {
            desk.put(&stored.key, &edit(&stored.row));
            refused_by_every_verb(&desk, desk.web(), &stored.token, &format!("{engine}: {case}"));
        }
        desk.put(&stored.key, &stored.row);
        assert_eq!(desk.web().paid(&stored.token).as_deref(), Ok(VISA));
        desk.assert_whole(1);
    }
}

#[test]
fn a_card_row_in_the_place_of_another_does_not_open() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let one = store(desk.web(), &desk, card(VISA));
        // The same card once more, so that nothing but the row's own name tells the two apart; and another card.
        let same = store(desk.web(), &desk, in_format("mixed", VISA));
        let other = store(desk.web(), &desk, card(MASTERCARD));
        let zenith = store(desk.at("zenith", "web"), &desk, card(VISA));
        for (case, (a, at_a), (b, at_b)) in [
            ("the same card's", (&one, desk.web()), (&same, desk.web())),
            ("another card's", (&one, desk.web()), (&other, desk.web())),
            ("another merchant's", (&one, desk.web()), (&zenith, desk.at("zenith", "web"))),
        ] {
            let case = format!("{engine}: swapped with {case}");
            desk.put(&a.key, &b.row);
            desk.put(&b.key, &a.row);
            refused_by_every_verb(&desk, at_a, &a.token, &case);
            refused_by_every_verb(&desk, at_b, &b.token, &case);
            desk.put(&a.key, &a.row);
            desk.put(&b.key, &b.row);
            assert_eq!(at_a.paid(&a.token).as_deref(), Ok(VISA));
        }
        // A row of another kind.
        let fingerprint = desk.rows(rows::FINGERPRINT)[0].1.clone();
        desk.put(&one.key, &fingerprint);
        refused_by_every_verb(&desk, desk.web(), &one.token, "a fingerprint row");
        // A revoked card's tombstone, to make a card look revoked.
        desk.web().revoked(&same.token);
        desk.put(&one.key, &desk.row(&same.key).unwrap());
        refused_by_every_verb(&desk, desk.web(), &one.token, "a tombstone");
        desk.put(&one.key, &one.row);
        desk.assert_whole(4);
    }
}

#[test]
fn a_row_moved_to_another_merchant_is_nobodys() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let acme = store(desk.web(), &desk, card(VISA));
        let moved: Key = {
            let theirs = store(desk.at("zenith", "web"), &desk, card(MASTERCARD));
            [&theirs.key[..5], &acme.key[5..]].concat()
        };
        desk.put(&moved, &acme.row);
        desk.delete(&acme.key);
        // Zenith has no such token: its row keys are made with a key of its own.
        assert_eq!(desk.at("zenith", "web").paid(&acme.token), Err(Error::NotFound));
        refused_by_every_verb(&desk, desk.web(), &acme.token, "its row is another merchant's now");
        let report = desk.verified();
        assert_eq!((report.good, report.missing, report.unreadable), (1, 1, 1), "{engine}: {report:?}");
    }
}

#[test]
fn a_row_put_back_or_taken_away_is_refused_by_the_living_node_and_named_after_a_restart() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let (narrowed, revoked, gone) = (
            store(desk.web(), &desk, card(VISA)),
            store(desk.web(), &desk, card(MASTERCARD)),
            store(desk.web(), &desk, in_format("mixed", VISA)),
        );
        let told = desk.web().revoke(&header(), &narrowed.token, Revocation::On(channel("app")));
        assert!(told.is_ok_and(|told| !told.everywhere));
        desk.web().revoked(&revoked.token);
        for stored in [&narrowed, &revoked] {
            desk.put(&stored.key, &stored.row);
            refused_by_every_verb(&desk, desk.web(), &stored.token, "put back");
        }
        // What was put back is not reused either.
        let again = desk.web().tokenize(&header(), card(VISA));
        assert!(is_internal(&again), "{:?}", again.err());
        desk.delete(&gone.key);
        refused_by_every_verb(&desk, desk.web(), &gone.token, "taken away");
        let desk = desk.reopened();
        let report = desk.verified();
        assert_eq!((report.good, report.rolled_back, report.missing), (0, 2, 1), "{engine}: {report:?}");
        let rolled_back = |f: &&Finding| matches!(f, Finding::RolledBack { found: 1, logged: 2, .. });
        assert_eq!(report.named.iter().filter(rolled_back).count(), 2, "{engine}: {report:?}");
        assert!(report.named.iter().any(|f| matches!(f, Finding::Missing { .. })), "{engine}: {report:?}");
        assert!(!report.is_whole());
    }
}

#[test]
fn every_edit_of_a_closed_folder_is_named_by_the_verification_and_opens_nothing() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let web = desk.web();
        let cards: Vec<Stored> =
            (0..10).map(|n| store(web, &desk, card(&number(&format!("40000{n}"), 16, n)))).collect();
        let moved = [&[rows::CARD, 0, 0, 0, 2], &cards[6].key[5..]].concat();
        let closed = desk.close();
        let put = |n: usize, value: Value| Write::Put(cards[n].key.clone(), value);
        let edits = vec![
            put(0, cards[1].row.clone()),
            put(1, cards[0].row.clone()),
            put(2, flipped(&cards[2].row, 500)),
            put(3, cards[3].row[..cards[3].row.len() - 1].to_vec()),
            put(4, garbage(cards[4].row.len())),
            put(5, Vec::new()),
            Write::Put(moved, cards[6].row.clone()),
            Write::Delete(cards[6].key.clone()),
            Write::Delete(cards[7].key.clone()),
        ];
        desk::write(&*closed.store(), edits);
        let desk = closed.open().unwrap_or_else(|e| panic!("{e}"));
        for (n, stored) in cards.iter().enumerate() {
            match n {
                0..=5 => {
                    refused_by_every_verb(&desk, desk.web(), &stored.token, &format!("{engine}: card {n}"));
                }
                6 | 7 => {
                    assert_eq!(desk.web().paid(&stored.token), Err(Error::NotFound), "{engine}: card {n}");
                }
                _ => assert!(desk.web().paid(&stored.token).is_ok(), "{engine}: card {n}"),
            }
        }
        let report = desk.verified();
        assert_eq!((report.good, report.unreadable), (2, 7), "{engine}: {report:?}");
        // Those that do not open are missing too: nobody can tell whose they were.
        assert_eq!((report.missing, report.rolled_back, report.extra), (8, 0, 0), "{engine}: {report:?}");
        for stored in &cards[..6] {
            let row = data_encoding::HEXLOWER.encode(&stored.key);
            assert!(report.named.contains(&Finding::Unreadable { row }), "{engine}: {report:?}");
        }
        assert!(report.log.as_ref().is_some_and(|log| log.fault.is_none()), "the log itself was left alone");
    }
}

#[test]
fn a_damaged_fingerprint_row_gives_nobody_a_token() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let (token, fingerprints) = new_rows(&desk, rows::FINGERPRINT, || desk.web().stored(VISA));
        let (key, row) = &fingerprints[0];
        desk.web().stored(MASTERCARD);
        let other = desk.rows(rows::FINGERPRINT).into_iter().find(|(k, _)| k != key).unwrap().1;
        let mut edits = damages(row, 47);
        edits.push(edit("another card's", move |_| other.clone()));
        for (case, edit) in edits {
            desk.put(key, &edit(row));
            desk.wait_ms(1_000);
            let answer = desk.web().tokenize(&header(), card(VISA)).map(|t| t.token.as_str().to_owned());
            assert!(is_internal(&answer), "{engine}: {case}: {answer:?}");
            assert_eq!(desk.last_refusal(), Some(Refusal::Unreadable), "{engine}: {case}");
            // The others of a batch are none the worse for it.
            let batch = vec![in_format("tight", MASTERCARD), card(VISA), card(MASTERCARD)];
            let answers = desk
                .web()
                .tokenize_batch(&header(), batch)
                .unwrap_or_else(|e| panic!("{engine}: {case}: {e}"));
            assert!(answers[0].is_ok() && is_internal(&answers[1]) && answers[2].is_ok(), "{engine}: {case}");
        }
        desk.put(key, row);
        assert!(desk.web().stored(VISA).same_as(&token));
        assert_eq!(desk.web().paid(&token).as_deref(), Ok(VISA));
    }
}

#[test]
fn a_damaged_subject_row_opens_no_card_and_takes_none() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let of = |customer: &str| Header { context: Context::new(customer, "", "").unwrap(), ..header() };
        let add = |customer: &str, format: &str| {
            desk.web().tokenize(&of(customer), in_format(format, VISA)).map(|t| t.token)
        };
        let (anna, subjects) =
            new_rows(&desk, rows::SUBJECT, || add("anna", "mixed").unwrap_or_else(|e| panic!("{e}")));
        let (key, row) = &subjects[0];
        let (bert, others) =
            new_rows(&desk, rows::SUBJECT, || add("bert", "mixed").unwrap_or_else(|e| panic!("{e}")));
        let others = others[0].1.clone();
        let mut edits = damages(row, 61);
        edits.push(edit("another customer's", move |_| others.clone()));
        for (case, edit) in edits {
            desk.put(key, &edit(row));
            refused_once(&desk, desk.web(), &anna, &format!("{engine}: {case}"));
            desk.wait_ms(1_000);
            let more = add("anna", "mixed");
            assert!(is_internal(&more), "{engine}: {case}: {:?}", more.err());
            assert_eq!(desk.last_refusal(), Some(Refusal::Unreadable), "{engine}: {case}");
        }
        desk.delete(key);
        refused_once(&desk, desk.web(), &anna, &format!("{engine}: deleted"));
        assert_eq!(desk.web().paid(&bert).as_deref(), Ok(VISA));
        desk.put(key, row);
        assert_eq!(desk.web().paid(&anna).as_deref(), Ok(VISA));
    }
}

#[test]
fn a_damaged_kept_answer_is_no_answer_and_never_another_token() {
    const REQUEST: &str = "5f0e2d9c-4b0a-4c8e-9d55-1c6f0d7e8a11";
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let ask = || {
            desk.web()
                .tokenize(&request(REQUEST), in_format("mixed", VISA))
                .map(|t| t.token.as_str().to_owned())
        };
        let (token, kept) = new_rows(&desk, rows::IDEMPOTENCY, || ask().unwrap_or_else(|e| panic!("{e}")));
        let (key, row) = &kept[0];
        for (case, edit) in damages(row, 37) {
            desk.put(key, &edit(row));
            desk.wait_ms(1_000);
            let answer = ask();
            assert!(is_internal(&answer), "{engine}: {case}: {answer:?}");
            assert_eq!(desk.last_refusal(), Some(Refusal::Unreadable), "{engine}: {case}");
        }
        desk.put(key, row);
        assert_eq!(ask(), Ok(token));
        desk.assert_whole(1);
    }
}

#[test]
fn a_damaged_kept_request_of_a_detokenize_is_refused_too() {
    const REQUEST: &str = "5f0e2d9c-4b0a-4c8e-9d55-1c6f0d7e8a12";
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let token = desk.web().stored(VISA);
        let ask = || {
            desk.web()
                .detokenized(&request(REQUEST), &token, Reveal::Plain)
                .map(|card| desk::shown(&card.revealed))
        };
        let (first, kept) = new_rows(&desk, rows::IDEMPOTENCY, ask);
        assert_eq!(first.as_deref(), Ok(VISA));
        let (key, row) = &kept[0];
        for (case, edit) in damages(row, 37) {
            desk.put(key, &edit(row));
            desk.wait_ms(1_000);
            let answer = ask();
            assert!(is_internal(&answer), "{engine}: {case}: {answer:?}");
            assert_eq!(desk.last_refusal(), Some(Refusal::Unreadable), "{engine}: {case}");
        }
        desk.put(key, row);
        assert_eq!(ask().as_deref(), Ok(VISA));
    }
}

/// Rows of a closed folder, edited; the vault must refuse to open, say so, change no row, and open once they are back.
fn refused_at_the_door(closed: Closed, case: &str, edits: Vec<Write>, expected: &[Error]) -> Closed {
    let everything = |closed: &Closed| {
        let store = closed.store();
        block_on(store.scan(b"", None, vault_core::store::MAX_SCAN)).unwrap()
    };
    let before = everything(&closed);
    desk::write(&*closed.store(), edits);
    let edited = everything(&closed);
    assert!(before != edited, "{case}: nothing was edited");
    let Err((closed, told)) = closed.open_with(desk::PASSPHRASE) else { panic!("{case}: it opened") };
    assert!(expected.contains(&told), "{case}: {told:?}");
    assert!(everything(&closed) == edited, "{case}: the refusal wrote something");
    let back = edited.iter().filter(|row| !before.contains(row)).map(|(key, _)| Write::Delete(key.clone()));
    let back = back.chain(before.iter().map(|(key, value)| Write::Put(key.clone(), value.clone()))).collect();
    desk::write(&*closed.store(), back);
    closed
}

#[test]
fn a_vault_whose_frame_was_changed_does_not_open_and_says_what_is_wrong() {
    let corrupt = || Error::Store(StoreError::Corrupt);
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let token = desk.web().stored(VISA);
        let frame =
            |desk: &Desk| [rows::CONTROL, rows::EPOCH, rows::HEAD].map(|kind| desk.rows(kind).pop().unwrap());
        let [old_control, old_epoch, old_head] = frame(&desk);
        block_on(desk.vault.rotate_dek(&principal("olga"), &merchant_name("acme"), None)).unwrap();
        desk.web().stored(MASTERCARD);
        let [control, epoch, head] = frame(&desk);
        assert!(control != old_control && epoch != old_epoch && head != old_head);
        let header = desk.rows(rows::HEADER).pop().unwrap();
        let size = block_on(desk.vault.checkpoint()).unwrap().checkpoint().size;
        let mut closed = desk.close();
        let put = |(key, value): &(Key, Value)| Write::Put(key.clone(), value.clone());
        let change = |(key, _): &(Key, Value), value: Value| Write::Put(key.clone(), value);
        let delete = |(key, _): &(Key, Value)| Write::Delete(key.clone());
        let last = |row: &(Key, Value)| row.1.len() * 8 - 1;
        let newer = |row: &(Key, Value)| [&[0, 2], &row.1[2..]].concat();

        let cases: Vec<(&str, Vec<Write>, Vec<Error>)> = vec![
            ("control put back", vec![put(&old_control)], vec![corrupt()]),
            ("epoch put back", vec![put(&old_epoch)], vec![corrupt()]),
            ("control and epoch put back", vec![put(&old_control), put(&old_epoch)], vec![corrupt()]),
            ("head put back", vec![put(&old_head)], vec![corrupt()]),
            (
                "control, epoch and head put back",
                vec![put(&old_control), put(&old_epoch), put(&old_head)],
                vec![corrupt()],
            ),
            ("control deleted", vec![delete(&control)], vec![corrupt()]),
            ("epoch deleted", vec![delete(&epoch)], vec![corrupt()]),
            ("head deleted", vec![delete(&head)], vec![corrupt()]),
            ("header deleted", vec![delete(&header)], vec![Error::Store(StoreError::Missing)]),
            ("control's version flipped", vec![change(&control, flipped(&control.1, 63))], vec![corrupt()]),
            (
                "control's seal flipped",
                vec![change(&control, flipped(&control.1, last(&control)))],
                vec![corrupt()],
            ),
            ("control cut", vec![change(&control, control.1[..20].to_vec())], vec![corrupt()]),
            ("control garbage", vec![change(&control, garbage(500))], vec![corrupt()]),
            ("epoch's version flipped", vec![change(&epoch, flipped(&epoch.1, 56))], vec![corrupt()]),
            ("epoch's hash flipped", vec![change(&epoch, flipped(&epoch.1, last(&epoch)))], vec![corrupt()]),
            ("epoch cut", vec![change(&epoch, epoch.1[..39].to_vec())], vec![corrupt()]),
            (
                "head's signature flipped",
                vec![change(&head, flipped(&head.1, last(&head) - 32))],
                vec![corrupt()],
            ),
            ("head garbage", vec![change(&head, garbage(200))], vec![corrupt()]),
            (
                "header of a newer format",
                vec![change(&header, newer(&header))],
                vec![Error::Store(StoreError::Newer(2, 1))],
            ),
            ("header of format zero", vec![change(&header, flipped(&header.1, 8))], vec![corrupt()]),
            ("the vault's name flipped", vec![change(&header, flipped(&header.1, 16))], vec![Error::Custody]),
            (
                "the root's wrap flipped",
                vec![change(&header, flipped(&header.1, 60 * 8))],
                vec![Error::Custody],
            ),
            (
                "the header's check value flipped",
                vec![change(&header, flipped(&header.1, last(&header)))],
                vec![Error::Custody],
            ),
            ("header cut", vec![change(&header, header.1[..header.1.len() - 1].to_vec())], vec![corrupt()]),
            (
                "header garbage",
                vec![change(&header, garbage(300))],
                vec![
                    corrupt(),
                    Error::Store(StoreError::Newer(
                        u32::from(u16::from_be_bytes([garbage(2)[0], garbage(2)[1]])),
                        1,
                    )),
                ],
            ),
            ("the last entry flipped", vec![Write::Put(entry_key(0, size), garbage(60))], vec![corrupt()]),
            (
                "an entry beyond the head",
                vec![Write::Put(entry_key(0, size + 1), garbage(60))],
                vec![corrupt()],
            ),
        ];
        for (case, edits, expected) in cases {
            closed = refused_at_the_door(closed, &format!("{engine}: {case}"), edits, &expected);
        }
        let desk = closed.open().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(desk.web().paid(&token).as_deref(), Ok(VISA));
        desk.assert_whole(2);
    }
}

#[test]
fn a_living_node_whose_epoch_or_head_is_changed_stops_and_tells_no_card_number() {
    for engine in ON_DISK {
        for kind in [rows::EPOCH, rows::HEAD] {
            let desk = Desk::new(engine);
            let token = desk.web().stored(VISA);
            let (key, row) = desk.rows(kind).pop().unwrap();
            desk.put(&key, &flipped(&row, 70));
            for _ in 0..3 {
                assert_eq!(desk.web().paid(&token), Err(Error::Store(StoreError::Away)), "{engine}");
                let answer = desk.web().tokenize(&header(), card(MASTERCARD));
                assert_eq!(answer.err(), Some(Error::Store(StoreError::Away)), "{engine}");
            }
            desk.put(&key, &row);
            let desk = desk.abandon().open().unwrap_or_else(|e| panic!("{engine}: {e}"));
            assert_eq!(desk.web().paid(&token).as_deref(), Ok(VISA));
            desk.assert_whole(1);
        }
    }
}

/// Control and its epoch row as somebody writes them who has the custodian: with a retired key active again.
fn key_set_back(desk: &Desk) -> [(Key, Value); 2] {
    let [header, row, epoch] =
        [rows::HEADER, rows::CONTROL, rows::EPOCH].map(|kind| desk.rows(kind).pop().unwrap());
    let vault = control::Header::decode(&header.1).unwrap();
    let (_, ctl) = vault.unlock(&custodian()).unwrap();
    let of = control::Epoch::decode(&epoch.1).unwrap();
    let mut control = control::Control::open(&row.1, &of, &vault.vault, vault.ctl.0, &ctl).unwrap();
    let old = control.keys.iter_mut().find(|k| k.kind == KeyKind::Dek && k.state == KeyState::Deactivated);
    old.unwrap().state = KeyState::Active;
    let (edited, of) = control.seal(&vault.vault, vault.ctl.0, &ctl).unwrap();
    [(row.0, edited), (epoch.0, of.encode())]
}

#[test]
fn a_key_that_is_set_back_to_active_by_hand_is_refused_at_start() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        block_on(desk.vault.rotate_dek(&principal("olga"), &merchant_name("acme"), None)).unwrap();
        let [control, epoch] = key_set_back(&desk);
        let mut closed = desk.close();
        let put = |(key, value): &(Key, Value)| Write::Put(key.clone(), value.clone());
        for (case, edits) in
            [("alone", vec![put(&control)]), ("with epoch", vec![put(&control), put(&epoch)])]
        {
            let corrupt = [Error::Store(StoreError::Corrupt)];
            closed = refused_at_the_door(closed, &format!("{engine}: {case}"), edits, &corrupt);
        }
        closed.open().unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn a_living_node_whose_control_is_changed_stops_when_it_looks() {
    for engine in ON_DISK {
        for case in ["deleted", "put back", "set back", "header deleted", "header put back"] {
            let desk = Desk::new(engine);
            let token = desk.web().stored(VISA);
            let (old_control, old_header) =
                (desk.rows(rows::CONTROL).pop().unwrap(), desk.rows(rows::HEADER).pop().unwrap());
            block_on(desk.vault.rotate_dek(&principal("olga"), &merchant_name("acme"), None)).unwrap();
            block_on(desk.vault.rotate_ctl(&principal("olga"), None)).unwrap();
            assert_eq!(block_on(desk.vault.watch_frame()), Ok(()));
            let frame = [rows::CONTROL, rows::HEADER].map(|kind| desk.rows(kind).pop().unwrap());
            match case {
                "deleted" => desk.delete(&old_control.0),
                "put back" => desk.put(&old_control.0, &old_control.1),
                "set back" => desk.put(&old_control.0, &key_set_back(&desk)[0].1),
                "header deleted" => desk.delete(&old_header.0),
                _ => desk.put(&old_header.0, &old_header.1),
            }
            assert_eq!(
                block_on(desk.vault.watch_frame()),
                Err(Error::Store(StoreError::Corrupt)),
                "{engine} {case}"
            );
            assert!(desk.vault.has_failed());
            assert_eq!(desk.web().paid(&token), Err(Error::Store(StoreError::Away)), "{engine} {case}");
            frame.iter().for_each(|(key, row)| desk.put(key, row));
            assert_eq!(desk.web().paid(&token), Err(Error::Store(StoreError::Away)), "it stays so");
            let desk = desk.abandon().open().unwrap_or_else(|e| panic!("{engine} {case}: {e}"));
            assert_eq!(desk.web().paid(&token).as_deref(), Ok(VISA));
            desk.assert_whole(1);
        }
    }
}

#[test]
fn a_changed_log_is_named_by_its_verification() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        // Over 256 entries, so that there is a full tile.
        for round in 0..15_u32 {
            let cards = (0..20).map(|n| card(&number("400000", 16, round * 20 + n))).collect();
            desk.web().imported(cards);
        }
        let verified = |desk: &Desk| block_on(desk.vault.verify_log(&mut |_, _| {})).unwrap().fault;
        assert_eq!(verified(&desk), None);
        let size = block_on(desk.vault.checkpoint()).unwrap().checkpoint().size;
        assert!(size > 300);
        let entry = |index: u64| (entry_key(0, index), desk.row(&entry_key(0, index)).unwrap());
        let tile = (tile_key(0, 0, 0), desk.row(&tile_key(0, 0, 0)).unwrap());
        let (ten, eleven) = (entry(10), entry(11));
        let altered =
            |index: u64, bit: usize| vec![Write::Put(entry_key(0, index), flipped(&entry(index).1, bit))];
        let last = size - 1;
        let cases: Vec<(&str, Vec<Write>, Finds)> = vec![
            ("an entry altered", altered(10, 300), |f| f.index() == Some(10)),
            ("the first entry altered", altered(0, 200), |f| f.index() == Some(0)),
            ("an entry deleted", vec![Write::Delete(entry_key(0, 10))], |f| {
                *f == Fault::Missing { index: 10 }
            }),
            (
                "two entries swapped",
                vec![
                    Write::Put(ten.0.clone(), eleven.1.clone()),
                    Write::Put(eleven.0.clone(), ten.1.clone()),
                ],
                |f| f.index().is_some_and(|index| index <= 11),
            ),
            ("an entry cut", vec![Write::Put(ten.0.clone(), ten.1[..20].to_vec())], |f| {
                f.index() == Some(10)
            }),
            ("an entry garbage", vec![Write::Put(ten.0.clone(), garbage(60))], |f| f.index() == Some(10)),
            ("an entry that no tile covers", altered(last, 300), |f| f.index().is_some()),
            ("the last entry deleted", vec![Write::Delete(entry_key(0, last))], |f| f.index().is_some()),
            ("an entry too many", vec![Write::Put(entry_key(0, size), ten.1.clone())], |f| {
                matches!(f, Fault::Beyond { .. })
            }),
            ("a tile altered", vec![Write::Put(tile.0.clone(), flipped(&tile.1, 99))], |f| {
                matches!(f, Fault::Tile { .. } | Fault::Altered { .. })
            }),
            ("a tile deleted", vec![Write::Delete(tile.0.clone())], |f| matches!(f, Fault::Tile { .. })),
            ("the head deleted", vec![Write::Delete(desk.rows(rows::HEAD)[0].0.clone())], |f| {
                *f == Fault::NoHead
            }),
        ];
        for (case, edits, finds) in cases {
            let before: Vec<(Key, Option<Value>)> = edits
                .iter()
                .map(|write| match write {
                    Write::Put(key, _) | Write::Delete(key) | Write::Add(key, _) => {
                        (key.clone(), desk.row(key))
                    }
                })
                .collect();
            desk::write(&*desk.store, edits);
            let fault = verified(&desk);
            assert!(fault.as_ref().is_some_and(finds), "{engine}: {case}: {fault:?}");
            assert!(!desk.verified().is_whole(), "{engine}: {case}");
            let back = before
                .into_iter()
                .map(|(key, value)| value.map_or(Write::Delete(key.clone()), |v| Write::Put(key, v)));
            desk::write(&*desk.store, back.collect());
        }
        assert_eq!(verified(&desk), None);
        assert_ne!(Hash::of(&ten.1), Hash::of(&eleven.1));
        desk.assert_whole(300);
    }
}

#[test]
fn a_log_put_back_as_a_whole_is_shown_by_the_cards_that_it_does_not_know() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let known = desk.web().stored(VISA);
        let everything = |closed: &Closed| {
            let store = closed.store();
            block_on(store.scan(b"", None, vault_core::store::MAX_SCAN)).unwrap()
        };
        let closed = desk.close();
        let older = everything(&closed);
        let desk = closed.open().unwrap_or_else(|e| panic!("{e}"));
        let unknown = desk.web().stored(MASTERCARD);
        let told = desk.web().revoke(&header(), &known, Revocation::On(channel("app")));
        assert!(told.is_ok());
        let closed = desk.close();
        // All but the cards as it was, in one piece and rightly signed: the log alone cannot tell.
        let is_card = |key: &Key| key.first() == Some(&rows::CARD);
        let newer = everything(&closed).into_iter().filter(|(key, _)| !is_card(key));
        let gone = newer.map(|(key, _)| Write::Delete(key));
        let back =
            older.into_iter().filter(|(key, _)| !is_card(key)).map(|(key, value)| Write::Put(key, value));
        desk::write(&*closed.store(), gone.chain(back).collect());
        let desk = closed.open().unwrap_or_else(|e| panic!("{e}"));
        let report = desk.verified();
        assert!(report.log.as_ref().is_some_and(|log| log.fault.is_none()), "{engine}: {report:?}");
        assert!(!report.is_whole() && report.extra == 2, "{engine}: {report:?}");
        assert_eq!(desk.web().paid(&unknown).as_deref(), Ok(MASTERCARD));
    }
}

#[test]
fn an_erasure_key_file_that_is_not_this_vaults_is_refused() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let of = Header { context: Context::new("anna", "", "").unwrap(), ..header() };
        let token = desk.web().tokenize(&of, card(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
        let mut closed = desk.close();
        let theirs = Desk::new(engine).close();
        let own = fs::read(closed.esk()).unwrap();
        let foreign = fs::read(theirs.esk()).unwrap();
        // Another vault's wrap under this vault's name.
        let renamed = [&own[..18], &foreign[18..]].concat();
        let corrupt = Error::Store(StoreError::Corrupt);
        let missing = "the erasure epoch key, the file `esk` beside the store, is missing: put it back from its own backup";
        let damaged = "the custodian opens the store but not the file `esk` beside it, which is damaged or from before the custodian was changed: put back a copy that was made since";
        let closed_to = Error::Config(damaged.to_owned());
        let cases: [(&str, Option<Value>, Error); 11] = [
            ("missing", None, Error::Config(missing.to_owned())),
            ("another vault's", Some(foreign), corrupt.clone()),
            ("another vault's under this one's name", Some(renamed), closed_to.clone()),
            ("empty", Some(Vec::new()), corrupt.clone()),
            ("one byte", Some(own[..1].to_vec()), corrupt.clone()),
            ("cut", Some(own[..own.len() - 1].to_vec()), corrupt.clone()),
            ("one byte more", Some([&own[..], &[0]].concat()), corrupt.clone()),
            ("of a newer format", Some([&[0, 3], &own[2..]].concat()), Error::Store(StoreError::Newer(3, 2))),
            ("of format zero", Some([&[0, 0], &own[2..]].concat()), corrupt.clone()),
            ("its seal flipped", Some(flipped(&own, own.len() * 8 - 200)), closed_to.clone()),
            ("its check value flipped", Some(flipped(&own, own.len() * 8 - 1)), closed_to.clone()),
        ];
        for (case, content, expected) in cases {
            match content {
                None => fs::remove_file(closed.esk()).unwrap(),
                Some(content) => fs::write(closed.esk(), content).unwrap(),
            }
            let rows = |closed: &Closed| block_on(closed.store().scan(b"", None, 10_000)).unwrap();
            let before = rows(&closed);
            let Err((back, told)) = closed.open_with(desk::PASSPHRASE) else {
                panic!("{engine}: {case}: it opened")
            };
            closed = back;
            assert_eq!(told, expected, "{engine}: {case}");
            assert!(rows(&closed) == before, "{engine}: {case}: the refusal wrote something");
        }
        fs::write(closed.esk(), own).unwrap();
        let desk = closed.open().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(desk.web().paid(&token).as_deref(), Ok(VISA));
    }
}

#[test]
fn a_wrong_passphrase_opens_nothing_and_changes_nothing() {
    for engine in ON_DISK {
        let closed = Desk::new(engine).close();
        let before = block_on(closed.store().scan(b"", None, 10_000)).unwrap();
        let Err((closed, told)) = closed.open_with("correct horse batterx") else { panic!("it opened") };
        assert_eq!(told, Error::Custody);
        assert!(block_on(closed.store().scan(b"", None, 10_000)).unwrap() == before);
    }
}

#[test]
fn a_vault_is_not_made_where_one_stands() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let token = desk.web().stored(VISA);
        let closed = desk.close();
        let before = disk::all_of(&closed.folder);
        let told = Desk::in_folder(&closed.folder, engine, desk::OPTIONS, policy()).err();
        assert_eq!(told, Some(Error::Store(StoreError::Exists)));
        assert!(disk::all_of(&closed.folder) == before);
        assert_eq!(closed.open().unwrap_or_else(|e| panic!("{e}")).web().paid(&token).as_deref(), Ok(VISA));
    }
}

#[test]
fn the_edits_of_this_file_are_edits() {
    let row: Value = (0..300_u16).map(|n| n.to_be_bytes()[1] ^ 0x5C).collect();
    for (case, edit) in damages(&row, 23) {
        assert!(edit(&row) != row, "{case}");
    }
    assert_eq!(ON_DISK, [Engine::Redb, Engine::Sled]);
}
