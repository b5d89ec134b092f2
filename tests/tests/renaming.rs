//! Rows get new names while they are used: whoever asks finds each of them all the while, under one name or the next.

use std::collections::HashSet;
use std::ops::ControlFlow;

use pollster::block_on;
use vault_core::chain::MAX_LINKS;
use vault_core::envelope::{KeyId, KeyKind};
use vault_core::error::Error;
use vault_core::restrictions::Restrictions;
use vault_core::rows;
use vault_core::store::{Engine, Key};
use vault_core::token::Token;
use vault_core::vault::{ResealStep, Vault};
use vault_core::words::{Purpose, Refusal};
use vault_tests::ON_DISK;
use vault_tests::cards::{MASTERCARD, VISA, card, number};
use vault_tests::desk::{Desk, START, header, in_format};

use crate::key_rotation::{
    certificates, dek, destroyed, fpr, furnished, idx, rows_under_any, step, work_off,
};
use crate::life_of_a_token::{customer, deleted, erased, fingerprint, listed, refunded, replace};

/// Acme's keys of the rows of a kind.
fn keys_of(desk: &Desk, kind: u8) -> HashSet<Key> {
    let acme = |key: &Key| key.get(1..5) == Some(&1_u32.to_be_bytes()[..]);
    desk.rows(kind).into_iter().map(|(key, _)| key).filter(acme).collect()
}

/// Rows are moved until this many were, or all are.
fn moved(vault: &Vault, at_least: usize) {
    let mut all = 0;
    let steps = std::iter::repeat_with(|| step(vault)).try_for_each(|step| match step {
        ResealStep::Worked { moved, .. } if all + moved < at_least => {
            all += moved;
            ControlFlow::Continue(())
        }
        ResealStep::Drained => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    assert!(steps.is_break());
}

#[test]
fn rows_are_found_by_every_door_before_while_and_after_they_are_renamed() {
    for engine in ON_DISK {
        let (desk, held) = furnished(engine, 600);
        let public = fingerprint(desk.web(), VISA).unwrap();
        let (cards, prints) = (keys_of(&desk, rows::CARD), keys_of(&desk, rows::FINGERPRINT));
        let named = (rows_under_any(&desk, KeyKind::Idx)[0], rows_under_any(&desk, KeyKind::Fpr)[0]);
        assert_eq!((named.0.1, named.1.1), (603, 603), "{engine}");
        let (new_idx, new_fpr) = (idx(&desk.vault).unwrap(), fpr(&desk.vault).unwrap());
        let told = idx(&desk.vault).unwrap_err().to_string();
        assert!(told.contains("still being renamed"), "{told}");

        // Rotated, then a third moved, then two thirds, with the process ended in between; then all.
        let mut desk = desk;
        for at_least in [0, 300, 700, usize::MAX] {
            moved(&desk.vault, at_least);
            desk = desk.reopened();
            let tokens: Vec<Token> = held.iter().map(|(token, _)| token.copy()).collect();
            for (paid, (_, digits)) in desk.web().paid_all(&tokens).into_iter().zip(&held) {
                assert_eq!(paid.as_deref(), Ok(digits.as_str()), "{engine} {at_least}");
            }
            // All but customers' cards, which are theirs alone.
            let again = held[..600].iter().map(|(_, digits)| card(digits)).collect();
            let found = desk.web().imported(again);
            assert!(found.iter().zip(&held).all(|(found, (token, _))| found.same_as(token)), "{engine}");
            let tokens = listed(desk.web(), &customer("customer-1"), 0, 10).unwrap().tokens;
            assert_eq!(tokens.len(), 1, "{engine} {at_least}");
            assert_eq!(fingerprint(desk.web(), VISA), Ok(public), "it outlives its keys");
        }
        assert_eq!(rows_under_any(&desk, KeyKind::Idx), [(new_idx, 603)]);
        assert_eq!(rows_under_any(&desk, KeyKind::Fpr), [(new_fpr, 603)]);
        assert!(keys_of(&desk, rows::CARD).is_disjoint(&cards), "no card lies where it lay");
        assert!(keys_of(&desk, rows::FINGERPRINT).is_disjoint(&prints));
        let drained: Vec<KeyId> = certificates(&desk).into_iter().map(KeyId).collect();
        assert_eq!(drained, [named.0.0, named.1.0]);
        for key in drained {
            let told = destroyed(&desk, key).unwrap_err().to_string();
            assert!(told.contains("link of the chain"), "{told}");
        }
        desk.assert_whole(604);
    }
}

#[test]
fn whatever_ends_a_token_ends_it_wherever_its_row_lies() {
    for engine in ON_DISK {
        // Nothing renamed, all renamed, and all but what came in since.
        for at_least in [0, usize::MAX] {
            let (desk, held) = furnished(engine, 300);
            idx(&desk.vault).unwrap();
            fpr(&desk.vault).unwrap();
            moved(&desk.vault, at_least);
            let anna = customer("anna");
            let hers = desk.web().tokenize(&anna, card("5105105105105100")).unwrap().token;
            desk.web().revoked(&held[0].0);
            assert_eq!(deleted(desk.web(), &header(), &held[1].1, Restrictions::default()), Ok(1));
            assert_eq!(erased(desk.web(), &anna), Ok(1));
            assert_eq!(erased(desk.web(), &customer("customer-0")), Ok(1));
            let old_prints = desk.rows(rows::FINGERPRINT).len();
            let check = |desk: &Desk| {
                for token in [&held[0].0, &held[1].0, &hers, &held[300].0] {
                    assert_eq!(desk.web().paid(token), Err(Error::NotFound), "{engine} {at_least}");
                    assert_eq!(desk.last_refusal(), Some(Refusal::Revoked));
                }
                assert_eq!(desk.web().paid(&held[2].0).as_deref(), Ok(held[2].1.as_str()));
            };
            check(&desk);
            work_off(&desk.vault);
            let desk = desk.reopened();
            check(&desk);
            assert_eq!(desk.rows(rows::FINGERPRINT).len(), old_prints, "none comes back, none is lost");
            assert_eq!(erased(desk.web(), &customer("customer-0")), Ok(0));
            desk.assert_whole(305);
        }
    }
}

#[test]
fn a_replaced_card_goes_at_the_end_of_its_retention_wherever_its_row_lies() {
    let desk = Desk::new(Engine::Redb);
    let token = desk.web().stored(VISA);
    desk.wait_days(10);
    replace(desk.web(), &header(), &token, MASTERCARD).unwrap();
    idx(&desk.vault).unwrap();
    fpr(&desk.vault).unwrap();
    work_off(&desk.vault);
    let before = START.plus_days(9);
    assert_eq!(refunded(&desk, &token, before, Purpose::Refund).as_deref(), Ok(VISA));
    assert!(desk.web().imported(vec![card(MASTERCARD)])[0].same_as(&token), "its new card finds it");
    desk.wait_days(545);
    assert!(block_on(desk.vault.sweep()).unwrap() > 0);
    assert!(desk.rows(rows::RETENTION).is_empty());
    assert_eq!(refunded(&desk, &token, before, Purpose::Refund), Err(Error::NotFound));
    assert_eq!(desk.web().paid(&token).as_deref(), Ok(MASTERCARD));
    desk.assert_whole(1);
}

#[test]
fn a_small_space_is_minted_to_its_end_through_rotations_and_no_token_comes_twice() {
    let desk = Desk::new(Engine::Redb);
    let mut minted = vec![desk.web().added(in_format("tight", VISA))];
    desk.web().revoked(&minted[0]);
    for round in 0..9 {
        // Some are renamed, some are not, when the next ones are drawn.
        if round % 2 == 0 {
            work_off(&desk.vault);
            idx(&desk.vault).unwrap();
        }
        moved(&desk.vault, 400);
        let cards = if round < 8 { 1_000 } else { 999 };
        minted.extend(desk.web().imported((0..cards).map(|_| in_format("tight", VISA)).collect()));
    }
    let spent = desk.web().import(vec![in_format("tight", VISA)]).unwrap().pop().unwrap();
    assert_eq!(spent.err(), Some(Error::SpaceExhausted));
    assert_eq!(minted.iter().map(Token::as_str).collect::<HashSet<_>>().len(), 9_000);
    assert_eq!(desk.web().paid(&minted[1]).as_deref(), Ok(VISA));
    assert_eq!(desk.web().paid(&minted[0]), Err(Error::NotFound));
    desk.assert_whole(9_000);
}

#[test]
fn a_row_put_back_under_its_old_name_is_refused_and_named() {
    let (desk, held) = furnished(Engine::Redb, 3);
    let (key, row) = desk.rows(rows::CARD).into_iter().next().unwrap();
    idx(&desk.vault).unwrap();
    work_off(&desk.vault);
    // All rows have left it: nobody looks there any more, and the verification names it.
    desk.put(&key, &row);
    for (token, digits) in &held {
        assert_eq!(desk.web().paid(token).as_deref(), Ok(digits.as_str()));
    }
    let report = desk.verified();
    assert_eq!((report.unreadable, report.extra, report.missing), (1, 0, 0), "{report:?}");
    desk.delete(&key);

    // While rows are being renamed: two rows of one token, of which neither is believed.
    idx(&desk.vault).unwrap();
    let before = desk.rows(rows::CARD);
    let mut gone = None;
    while gone.is_none() && !matches!(step(&desk.vault), ResealStep::Drained) {
        let now: HashSet<Key> = keys_of(&desk, rows::CARD);
        gone = before.iter().find(|(key, _)| key[1..5] == 1_u32.to_be_bytes() && !now.contains(key));
    }
    let (key, row) = gone.unwrap();
    desk.put(key, row);
    let told: Vec<_> = held.iter().map(|(token, _)| desk.web().paid(token)).collect();
    assert_eq!(told.iter().filter(|told| matches!(told, Err(Error::Internal { .. }))).count(), 1, "{told:?}");
    assert!(!desk.verified().is_whole());
    work_off(&desk.vault);
    let progress = block_on(desk.vault.reseal_progress()).unwrap();
    assert_eq!((progress.unreadable, progress.stuck), (1, true), "it is not moved over the other one");
    desk.delete(key);
    // It is looked at again once another rotation or a restart comes.
    let desk = desk.reopened();
    work_off(&desk.vault);
    assert!(block_on(desk.vault.reseal_progress()).is_none());
    for (token, digits) in &held {
        assert_eq!(desk.web().paid(token).as_deref(), Ok(digits.as_str()));
    }
    desk.assert_whole(held.len() + 1);
}

#[test]
fn a_chain_of_names_ends_where_it_says() {
    let desk = Desk::new(Engine::Redb);
    let token = desk.web().stored(VISA);
    let later = number("4", 16, 7);
    for link in 2..=MAX_LINKS {
        idx(&desk.vault).unwrap_or_else(|e| panic!("{link}: {e}"));
        fpr(&desk.vault).unwrap_or_else(|e| panic!("{link}: {e}"));
        if link % 4 == 0 {
            dek(&desk.vault);
        }
        work_off(&desk.vault);
        assert!(desk.web().imported(vec![card(VISA)])[0].same_as(&token), "{link}");
    }
    for rotated in [idx(&desk.vault), fpr(&desk.vault)] {
        assert!(rotated.unwrap_err().to_string().contains("16 versions"));
    }
    let desk = desk.reopened();
    let other = desk.web().stored(&later);
    assert_eq!(desk.web().paid(&token).as_deref(), Ok(VISA));
    assert_eq!(desk.web().paid(&other).as_deref(), Ok(later.as_str()));
    desk.assert_whole(2);
}
