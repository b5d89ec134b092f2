//! A token root key is replaced while its tokens stay: new ones are under the new key at once, old ones once they are used
//! or brought, and the old key goes when nothing needs it.

use std::collections::BTreeMap;

use pollster::block_on;
use vault_core::audit::entry::Event;
use vault_core::envelope::{KeyId, KeyKind};
use vault_core::error::Error;
use vault_core::rows;
use vault_core::store::Engine;
use vault_core::token::Token;
use vault_core::vault::{Context, Header, Reveal, TokenRoots, TokensUpgraded};
use vault_core::words::KeyState;
use vault_tests::ON_DISK;
use vault_tests::cards::{AMEX, MASTERCARD, VISA, card};
use vault_tests::desk::{Desk, header, in_format, merchant_name, principal, shown, token};

fn rotated(desk: &Desk) -> KeyId {
    block_on(desk.vault.rotate_trk(&principal("olga"), &merchant_name("acme"), None)).unwrap().0
}

fn upgraded(desk: &Desk, tokens: &[&Token]) -> TokensUpgraded {
    let tokens: Vec<Token> = tokens.iter().map(|token| token.copy()).collect();
    let told = block_on(desk.vault.upgrade_tokens(&principal("olga"), &merchant_name("acme"), &tokens));
    told.unwrap_or_else(|e| panic!("{e}"))
}

fn needs(desk: &Desk) -> TokenRoots {
    block_on(desk.vault.token_roots(&merchant_name("acme"))).unwrap_or_else(|e| panic!("{e}"))
}

fn trks(desk: &Desk) -> Vec<(KeyId, KeyState)> {
    let of = |k: &&vault_core::vault::KeyLine| {
        k.kind == KeyKind::Trk && k.merchant.as_ref().is_some_and(|m| m.as_str() == "acme")
    };
    desk.vault.keys().iter().filter(of).map(|k| (k.id, k.state)).collect()
}

fn destroyed(desk: &Desk, key: KeyId) -> Result<(), Error> {
    block_on(desk.vault.destroy_key(&principal("olga"), key, None)).map(|_| ())
}

fn customer(name: &str) -> Header {
    Header { context: Context::new(name, "", "").unwrap(), ..header() }
}

fn by_key<const N: usize>(counts: [(KeyId, u64); N]) -> BTreeMap<KeyId, u64> {
    counts.into_iter().collect()
}

#[test]
fn tokens_move_when_they_are_used_and_cards_when_they_come_again() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let first = trks(&desk)[0].0;
        let (visa, amex) = (desk.web().stored(VISA), desk.web().stored(AMEX));
        let anna = desk.web().tokenize(&customer("anna"), card(MASTERCARD)).unwrap().token;
        let abroad = desk.at("zenith", "web").stored(VISA);
        let second = rotated(&desk);
        let before = desk.rows(rows::CARD);
        let later = desk.web().added(in_format("mixed", VISA));
        assert_eq!(needs(&desk).cards, by_key([(first, 3), (second, 1)]), "{engine}");
        // A look at a mask moves nothing; a card that goes out does, with its entry, and the record stays what it was.
        assert!(desk.web().inspected(&visa).is_ok());
        assert_eq!(needs(&desk).cards, by_key([(first, 3), (second, 1)]));
        assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
        assert!(matches!(desk.last_event(), Event::Disclosed { .. }));
        assert_eq!(needs(&desk).cards, by_key([(first, 2), (second, 2)]));
        let told = desk.web().detokenized(&customer("anna"), &anna, Reveal::Plain).unwrap();
        assert_eq!(shown(&told.revealed), MASTERCARD);
        assert_eq!(needs(&desk).cards, by_key([(first, 1), (second, 3)]));
        // Used again, it is not written again.
        let moved = desk.rows(rows::CARD);
        assert!(moved != before && desk.web().paid(&visa).as_deref() == Ok(VISA));
        assert_eq!(desk.rows(rows::CARD), moved);
        // The same card again: the same token, and what leads to it is under the new key.
        assert_eq!(needs(&desk).fingerprints, by_key([(first, 3)]), "{engine}");
        assert!(desk.web().stored(VISA).same_as(&visa));
        assert_eq!(needs(&desk).fingerprints, by_key([(first, 2), (second, 1)]));
        let desk = desk.reopened();
        assert!(desk.web().stored(VISA).same_as(&visa));
        for (token, digits) in [(&visa, VISA), (&amex, AMEX), (&later, VISA)] {
            assert_eq!(desk.web().paid(token).as_deref(), Ok(digits));
        }
        assert_eq!(desk.at("zenith", "web").paid(&abroad).as_deref(), Ok(VISA));
        assert_eq!(trks(&desk), [(first, KeyState::Deactivated), (second, KeyState::Active)]);
        desk.assert_whole(5);
    }
}

#[test]
fn a_token_that_was_shredded_needs_no_key_and_is_none_that_does_not_open() {
    let desk = Desk::new(Engine::Redb);
    let (olga, acme) = (principal("olga"), merchant_name("acme"));
    let lost = desk.web().stored(VISA);
    let dek =
        desk.vault.keys().into_iter().find(|k| k.kind == KeyKind::Dek && k.merchant.as_ref() == Some(&acme));
    block_on(desk.vault.rotate_dek(&olga, &acme, None)).unwrap();
    let kept = desk.web().stored(AMEX);
    block_on(desk.vault.shred_key(&olga, dek.unwrap().id, None)).unwrap();
    rotated(&desk);
    let told = upgraded(&desk, &[&lost, &kept]);
    assert_eq!(told, TokensUpgraded { upgraded: 1, current: 1, ..TokensUpgraded::default() });
    assert!(desk.verified().is_whole());
}

#[test]
fn holders_bring_the_rest_and_learn_nothing_but_how_many() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let first = trks(&desk)[0].0;
        let (visa, amex, gone) =
            (desk.web().stored(VISA), desk.web().stored(AMEX), desk.web().added(in_format("mixed", VISA)));
        let anna = desk.web().tokenize(&customer("anna"), card(MASTERCARD)).unwrap().token;
        desk.web().revoked(&gone);
        let abroad = desk.at("zenith", "web").stored(MASTERCARD);
        let second = rotated(&desk);
        let nobody = token("tok_0123456789012345678901");
        let uses = || desk.vault.keys().iter().find(|k| k.id == second).unwrap().uses.unwrap();
        let unused = uses();
        let told = upgraded(&desk, &[&visa, &amex, &anna, &anna, &gone, &abroad, &nobody]);
        assert_eq!(told, TokensUpgraded { upgraded: 3, current: 2, unknown: 2, unreadable: 0 }, "{engine}");
        assert_eq!(uses() - unused, 3, "each new wrap is a use of the key that wraps");
        let event = Event::Rewrapped { key: second.0, rows: 3 };
        assert_eq!(desk.last_event(), event);
        assert_eq!(
            upgraded(&desk, &[&visa, &amex]),
            TokensUpgraded { current: 2, ..TokensUpgraded::default() }
        );
        assert_eq!(needs(&desk).cards, by_key([(second, 3)]));
        // Fingerprints still need the old key, and so it stays.
        desk.wait_days(3);
        assert_eq!(needs(&desk).drained, []);
        let Err(Error::Malformed { rule, .. }) = destroyed(&desk, first) else {
            panic!("a needed key was destroyed")
        };
        assert!(rule.contains("keys upgrade"), "{rule}");
        for (whose, digits) in [(header(), VISA), (header(), AMEX), (customer("anna"), MASTERCARD)] {
            desk.web().tokenize(&whose, card(digits)).unwrap();
        }
        assert_eq!(needs(&desk).drained, [first]);
        let desk = desk.reopened();
        assert_eq!(destroyed(&desk, first), Ok(()));
        let desk = desk.reopened();
        assert_eq!(trks(&desk), [(first, KeyState::Destroyed), (second, KeyState::Active)]);
        assert!(desk.web().stored(VISA).same_as(&visa));
        assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
        let told = desk.web().detokenized(&customer("anna"), &anna, Reveal::Plain).unwrap();
        assert_eq!(shown(&told.revealed), MASTERCARD);
        assert!(desk.verified().is_whole());
    }
}

#[test]
fn a_key_is_kept_while_answers_for_a_retry_may_need_it_and_while_rows_do_not_open() {
    let desk = Desk::new(Engine::Redb);
    let first = trks(&desk)[0].0;
    let visa = desk.web().stored(VISA);
    rotated(&desk);
    assert!(desk.web().paid(&visa).is_ok() && desk.web().stored(VISA).same_as(&visa));
    assert_eq!(needs(&desk), TokenRoots { drained: Vec::new(), ..needs(&desk) });
    desk.wait_days(2);
    let row = desk.rows(rows::CARD).remove(0);
    let mut torn = row.1.clone();
    *torn.last_mut().unwrap() ^= 1;
    desk.put(&row.0, &torn);
    let told = needs(&desk);
    assert!(told.unreadable == 1 && told.drained.is_empty(), "{told:?}");
    assert_eq!(upgraded(&desk, &[&visa]).unreadable, 1);
    desk.put(&row.0, &row.1);
    assert_eq!(needs(&desk).drained, [first]);
    // Told once: from then on it is certified.
    assert_eq!(needs(&desk).drained, []);
}
