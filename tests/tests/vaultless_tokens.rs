//! Vaultless (`ff1`) tokens: no row, a right of their own, five slots for a merchant's life.

use pollster::block_on;
use vault_core::error::Error;
use vault_core::policy::{Caller, Policy};
use vault_core::restrictions::Restrictions;
use vault_core::rows;
use vault_core::store::Engine;
use vault_core::token::Token;
use vault_core::vault::{CardToDelete, Context, Header, NewCard, Revocation, UpgradedToken};
use vault_core::vaultless::slot_of;
use vault_core::words::Refusal;
use vault_tests::ON_DISK;
use vault_tests::cards::{AMEX, MASTERCARD, VISA, card, number, pan};
use vault_tests::desk::{Desk, START, channel, header, in_format, merchant_name, principal, token};

/// One merchant whose shop and gateway may use vaultless tokens, whose clerk may not, with a channel where people type.
const POLICY: &str = r#"
    [[merchant]]
    id = "acme"
    ff1_slots = 5
    mask = { 16 = "0+4" }
    [[merchant.format]]
    id = "wide"
    scheme = "ff1"
    [[merchant.format]]
    id = "own"
    scheme = "ff1"
    scope = "channel"
    [[merchant.format]]
    id = "rows"
    scheme = "random"
    keep = { 15 = "0+4", 16 = "0+4" }
    [[merchant.channel]]
    id = "web"
    kind = "e-commerce"
    format = "wide"
    [[merchant.channel]]
    id = "app"
    kind = "in-app"
    format = "own"
    [[merchant.channel]]
    id = "calls"
    kind = "moto"
    format = "rows"

    [[principal]]
    id = "acme-shop"
    merchant = "acme"
    [[principal]]
    id = "acme-gateway"
    merchant = "acme"
    [[principal]]
    id = "acme-clerk"
    merchant = "acme"
    [[principal]]
    id = "acme-care"
    merchant = "acme"

    [[rule]]
    id = "stores"
    effect = "allow"
    merchant = "acme"
    principals = ["acme-shop"]
    actions = ["tokenize", "upgrade"]
    vaultless = true
    [[rule]]
    id = "looks"
    effect = "allow"
    merchant = "acme"
    principals = ["acme-shop"]
    actions = ["inspect", "revoke"]
    vaultless = true
    show = "masked"
    [[rule]]
    id = "cares"
    effect = "allow"
    merchant = "acme"
    principals = ["acme-care"]
    actions = ["disable", "enable", "list_by_subject", "erase_subject", "delete_card"]
    vaultless = true
    show = "masked"
    [[rule]]
    id = "pays"
    effect = "allow"
    merchant = "acme"
    principals = ["acme-gateway"]
    actions = ["detokenize"]
    purposes = ["authorization"]
    vaultless = true
    show = "full"
    [[rule]]
    id = "clerks"
    effect = "allow"
    merchant = "acme"
    principals = ["acme-clerk"]
    actions = ["tokenize", "detokenize", "upgrade"]
    show = "full"
"#;

fn desk_on(engine: Engine) -> Desk {
    Desk::with(engine, Policy::from_toml(POLICY).unwrap_or_else(|e| panic!("{e}")))
}

fn cards_at_rest(desk: &Desk) -> usize {
    desk.rows(rows::CARD).len()
}

fn upgraded(desk: &Desk, at: &str, token: &Token) -> Result<UpgradedToken, Error> {
    let header = Header { channel: Some(channel(at)), ..header() };
    block_on(desk.vault.upgrade(Caller::Local(&principal("acme-shop")), &header, token.copy()))
}

fn rotated(desk: &Desk, format: &str, at: Option<&str>) -> Result<u8, Error> {
    let format = vault_core::name::FormatName::parse(format).unwrap();
    let at = at.map(channel);
    let of = (&merchant_name("acme"), &format, at.as_ref());
    block_on(desk.vault.rotate_ff1(&principal("olga"), of, None)).map(|(_, left, _)| left)
}

#[test]
fn a_card_goes_in_and_comes_back_and_no_row_is_written() {
    for engine in ON_DISK {
        let desk = desk_on(engine);
        let web = desk.web();
        for digits in [VISA, MASTERCARD, AMEX] {
            let (first, again) = (web.stored(digits), web.stored(digits));
            assert!(first.same_as(&again), "a vaultless token is the card's own");
            assert_eq!((first.as_bytes().len(), slot_of(&first, 5)), (digits.len(), Some(1)));
            assert_eq!(first.as_bytes()[digits.len() - 4..], digits.as_bytes()[digits.len() - 4..]);
            assert_eq!(web.paid(&first).as_deref(), Ok(digits));
            assert_eq!(desk.at("acme", "app").paid(&first).as_deref(), Ok(digits));
            let seen = web.inspected(&first).unwrap_or_else(|e| panic!("{e}"));
            let mask = seen.mask.number().unwrap();
            assert_eq!((mask.first(), mask.last()), ("", &digits[digits.len() - 4..]));
            let scheme = seen.scheme.map(|scheme| scheme.as_str());
            assert_eq!((scheme, seen.network.is_empty()), (Some("ff1"), false));
        }
        assert_eq!(cards_at_rest(&desk), 0);
        let kept = web.stored(VISA);
        let desk = desk.reopened();
        assert_eq!(desk.web().paid(&kept).as_deref(), Ok(VISA));
        desk.assert_whole(0);
    }
}

#[test]
fn a_token_of_one_channels_scope_opens_on_that_channel_alone() {
    let desk = desk_on(Engine::Redb);
    let app = desk.at("acme", "app");
    let own = app.stored(VISA);
    assert_eq!(slot_of(&own, 5), Some(2));
    assert_eq!(app.paid(&own).as_deref(), Ok(VISA));
    assert_eq!(desk.web().paid(&own), Err(Error::NotFound));
    assert_eq!(desk.last_refusal(), Some(Refusal::Foreign));
    // A format of scope channel has a slot for the channels whose own format it is, and for no other.
    assert_eq!(desk.web().tokenize(&header(), in_format("own", VISA)).err(), Some(Error::SpaceExhausted));
}

#[test]
fn it_takes_a_right_of_its_own_and_a_channel_where_nobody_types() {
    let desk = desk_on(Engine::Redb);
    let known = desk.web().stored(VISA);
    let clerk = principal("acme-clerk");
    let at = |name: &str| Header { channel: Some(channel(name)), ..header() };
    let told = block_on(desk.vault.tokenize(Caller::Local(&clerk), &at("web"), card(VISA)));
    assert_eq!(told.err(), Some(Error::Denied));
    assert_eq!(desk.last_refusal(), Some(Refusal::VaultlessNotAllowed));
    let reveal = vault_core::vault::Reveal::Plain;
    let told = block_on(desk.vault.detokenize(Caller::Local(&clerk), &at("web"), known.copy(), reveal));
    assert_eq!(told.err(), Some(Error::NotFound));
    assert_eq!(desk.last_refusal(), Some(Refusal::VaultlessNotAllowed));
    let told = block_on(desk.vault.upgrade(Caller::Local(&clerk), &at("web"), known.copy()));
    assert_eq!(told.err(), Some(Error::NotFound));
    // The right is there, and people type on this channel.
    let calls = desk.at("acme", "calls");
    assert_eq!(calls.tokenize(&header(), in_format("wide", VISA)).err(), Some(Error::Denied));
    assert_eq!(calls.paid(&known), Err(Error::NotFound));
    assert_eq!(desk.last_refusal(), Some(Refusal::VaultlessNotAllowed));
    let with_row = calls.stored(VISA);
    assert_eq!(calls.paid(&with_row).as_deref(), Ok(VISA));
}

#[test]
fn what_cannot_work_is_refused_when_it_is_configured() {
    for (what, with, names) in [
        ("    format = \"rows\"\n", "    format = \"wide\"\n", "people type"),
        ("ff1_slots = 5", "ff1_slots = 0", "ff1_slots = 5"),
        (
            "id = \"wide\"\n    scheme = \"ff1\"",
            "id = \"wide\"\n    scheme = \"ff1\"\n    mode = \"fresh\"",
            "leave mode out",
        ),
        (
            "id = \"wide\"\n    scheme = \"ff1\"",
            "id = \"wide\"\n    scheme = \"ff1\"\n    keep = { 16 = \"6+4\" }",
            "16",
        ),
        (
            "id = \"wide\"\n    scheme = \"ff1\"",
            "id = \"wide\"\n    scheme = \"ff1\"\n    keep = { 16 = \"8+4\" }",
            "16",
        ),
    ] {
        assert!(POLICY.contains(what), "{what}");
        let told =
            Policy::from_toml(&POLICY.replacen(what, with, 1)).err().unwrap_or_else(|| panic!("{with}"));
        assert!(told.to_string().contains(names), "{told}");
    }
    // Five slots are a merchant's whole life: wide has one, and five channels of their own would need five more.
    let more: String = (0..4)
        .map(|n| {
            format!(
                "    [[merchant.channel]]\n    id = \"app{n}\"\n    kind = \"in-app\"\n    format = \"own\"\n"
            )
        })
        .collect();
    let text = POLICY.replacen("    [[principal]]\n", &format!("{more}    [[principal]]\n"), 1);
    let policy = Policy::from_toml(&text).unwrap_or_else(|e| panic!("{e}"));
    let desk = desk_on(Engine::Redb);
    let told = block_on(desk.vault.apply_policy(&principal("olga"), policy, None)).err();
    assert!(told.is_some_and(|e| e.to_string().contains("five are its whole life")));
}

#[test]
fn restrictions_an_end_and_a_revocation_are_a_row_that_every_call_consults() {
    for engine in ON_DISK {
        let desk = desk_on(engine);
        let web = desk.web();
        let narrowed = web.added(NewCard { channels: vec![channel("web")], ..card(VISA) });
        assert_eq!(cards_at_rest(&desk), 1);
        assert_eq!(web.paid(&narrowed).as_deref(), Ok(VISA));
        assert_eq!(desk.at("acme", "app").paid(&narrowed), Err(Error::NotFound));
        // The card has one token here, and it stays as it was narrowed, whoever stores the card again.
        assert!(web.stored(VISA).same_as(&narrowed));
        assert_eq!(desk.at("acme", "app").paid(&narrowed), Err(Error::NotFound));
        let other = NewCard { channels: vec![channel("app")], ..card(VISA) };
        assert!(matches!(web.tokenize(&header(), other), Err(Error::Malformed { .. })));

        let ending = web.added(NewCard { valid_until: Some(START.plus_hours(1)), ..card(AMEX) });
        assert_eq!(web.paid(&ending).as_deref(), Ok(AMEX));
        desk.wait_ms(3_600_001);
        assert_eq!(web.paid(&ending), Err(Error::NotFound));
        assert_eq!(desk.last_refusal(), Some(Refusal::Expired));
        // No token is given out that works no more: the card has no other in this format.
        assert_eq!(web.tokenize(&header(), card(AMEX)).err(), Some(Error::SpaceExhausted));

        let stopped = web.stored(MASTERCARD);
        let care = |disable: bool| {
            web.care(&header(), async |vault, who, header| {
                let token = stopped.copy();
                if disable {
                    vault.disable(who, header, token).await
                } else {
                    vault.enable(who, header, token).await
                }
            })
        };
        assert!(care(true).is_ok());
        assert_eq!(web.paid(&stopped), Err(Error::NotFound));
        assert_eq!(web.tokenize(&header(), card(MASTERCARD)).err(), Some(Error::SpaceExhausted));
        assert!(care(false).is_ok());
        assert_eq!(web.paid(&stopped).as_deref(), Ok(MASTERCARD));
        web.revoked(&stopped);
        assert_eq!(web.paid(&stopped), Err(Error::NotFound));
        let desk = desk.reopened();
        assert_eq!(desk.web().paid(&stopped), Err(Error::NotFound));
        assert_eq!(desk.last_refusal(), Some(Refusal::Revoked));
        // Never minted again: its card has no other token in this format.
        assert_eq!(desk.web().tokenize(&header(), card(MASTERCARD)).err(), Some(Error::SpaceExhausted));
        desk.assert_whole(3);
    }
}

#[test]
fn what_was_never_made_is_not_found_with_the_same_commits() {
    let desk = desk_on(Engine::Redb);
    let (web, known) = (desk.web(), desk.web().stored(VISA));
    let (mut opened, mut unknown) = (0, 0);
    for n in 0..300_u64 {
        // Every text of the slot's sum: it names a number, and some are in an issuer's range.
        let text = format!("{:012}{}", n * 3_333_333_331 % 1_000_000_000_000, &known.as_str()[12..]);
        let Ok(strange) = Token::parse(&text) else { continue };
        if slot_of(&strange, 5) != Some(1) {
            continue;
        }
        desk.wait_ms(1_001); // refusals beyond ten in a second are counted, not told one by one
        let before = desk.store.commits();
        match web.paid(&strange) {
            Ok(_) => opened += 1,
            Err(e) => {
                assert_eq!((e, desk.last_refusal()), (Error::NotFound, Some(Refusal::Unknown)));
                unknown += 1;
            }
        }
        assert_eq!(desk.store.commits() - before, 1);
    }
    assert!(unknown > 0 && opened > 0, "{unknown} unknown, {opened} opened");
    // The other slots are not opened, and a slot's number tells a row's token apart.
    for text in ["4111111111111115", "4111111111111116"] {
        assert_eq!(web.paid(&token(text)), Err(Error::NotFound));
    }
}

#[test]
fn whoever_tries_many_tokens_that_nobody_made_is_stopped_for_the_day() {
    let desk = desk_on(Engine::Redb);
    let web = desk.web();
    let (bare, kept) =
        (web.stored(VISA), web.added(NewCard { channels: vec![channel("web")], ..card(AMEX) }));
    let made_up = |from: u64| -> Vec<Token> {
        let texts = (from..).map(|n| format!("{:012}1111", n * 3_333_333_331 % 1_000_000_000_000));
        let tokens = texts.filter_map(|text| Token::parse(&text).ok());
        tokens.filter(|token| slot_of(token, 5) == Some(1)).take(1_000).collect()
    };
    let budget = |told: &Result<String, Error>| matches!(told, Err(Error::Budget { .. }));
    // Some open, as theory says; few enough, and then no more.
    let mut opened = 0;
    let mut stopped = false;
    for round in 0..4 {
        let told = web.paid_all(&made_up(round * 100_000));
        opened += told.iter().filter(|told| told.is_ok()).count();
        stopped = told.iter().any(budget);
        if stopped {
            break;
        }
    }
    assert!(stopped && opened < 1_000, "{opened} opened");
    desk.wait_ms(1_001); // refusals beyond ten in a second are counted, not told one by one
    // Nothing is told apart that has no row; one with a row is known, and works.
    assert!(budget(&web.paid(&bare)));
    assert_eq!(desk.last_refusal(), Some(Refusal::BudgetSpent));
    assert_eq!(web.paid(&kept).as_deref(), Ok(AMEX));
    let desk = desk.reopened();
    assert!(budget(&desk.web().paid(&bare)), "a restart forgets nothing");
    desk.wait_days(1);
    assert_eq!(desk.web().paid(&bare).as_deref(), Ok(VISA));
    desk.assert_whole(1);
}

#[test]
fn a_number_of_no_issuers_range_gets_no_vaultless_token() {
    let desk = desk_on(Engine::Redb);
    let nobodys = number("0", 16, 7);
    let told = desk.web().tokenize(&header(), card(&nobodys));
    assert!(matches!(told, Err(Error::Malformed { .. })));
    let with_row =
        desk.web().tokenize(&header(), in_format("rows", &nobodys)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(slot_of(&with_row.token, 5), None);
}

#[test]
fn guesses_are_counted_as_for_every_other_token() {
    let desk = desk_on(Engine::Redb);
    let cards = |n: u32| {
        // One BIN and one last four: what a guesser tries.
        (0_u32..).map(|i| number("411111", 16, i)).filter(|c| c.ends_with("00")).nth(n as usize).unwrap()
    };
    let same: Vec<String> = {
        let last_four = cards(0)[12..].to_owned();
        (0_u32..).map(|i| number("411111", 16, i)).filter(|c| c.ends_with(&last_four)).take(6).collect()
    };
    for guess in &same[..5] {
        assert!(desk.web().tokenize(&header(), card(guess)).is_ok());
    }
    let sixth = desk.web().tokenize(&header(), card(&same[5])).err();
    assert!(matches!(sixth, Some(Error::Budget { .. })));
}

#[test]
fn a_rotation_opens_a_slot_and_an_upgrade_turns_the_tokens_of_the_old_one() {
    for engine in ON_DISK {
        let desk = desk_on(engine);
        let web = desk.web();
        let (plain, bound) =
            (web.stored(VISA), web.added(NewCard { channels: vec![channel("web")], ..card(AMEX) }));
        let ended = web.stored(MASTERCARD);
        web.revoked(&ended);
        let restrictions = Restrictions { single_use: true, ..Restrictions::default() };
        let once = web.added(NewCard { restrictions, ..card("5105105105105100") });
        let in_row = web.added(in_format("rows", VISA));
        let own = desk.at("acme", "app").stored(VISA);
        assert_eq!(rotated(&desk, "wide", None), Ok(2));
        assert!(rotated(&desk, "wide", Some("web")).is_err() && rotated(&desk, "own", None).is_err());
        assert!(rotated(&desk, "rows", None).is_err());

        // New tokens come from the new slot, and the old ones still open.
        let newer = web.stored(VISA);
        assert_eq!((slot_of(&plain, 5), slot_of(&newer, 5)), (Some(1), Some(3)));
        for old_or_new in [&plain, &newer] {
            assert_eq!(web.paid(old_or_new).as_deref(), Ok(VISA));
        }
        let turned = upgraded(&desk, "web", &plain).unwrap_or_else(|e| panic!("{e}"));
        assert!(turned.changed && turned.token.same_as(&newer));
        // What needs no change comes back as it was: current ones, those with a row, those of a slot that was not rotated.
        for (at, token) in [("web", &newer), ("web", &in_row), ("app", &own)] {
            let same = upgraded(&desk, at, token).unwrap_or_else(|e| panic!("{e}"));
            assert!(!same.changed && same.token.same_as(token));
        }
        // Restrictions go with the card, and what is ended stays ended.
        let turned = upgraded(&desk, "web", &bound).unwrap_or_else(|e| panic!("{e}")).token;
        assert_eq!(slot_of(&turned, 5), Some(3));
        assert_eq!(web.paid(&turned).as_deref(), Ok(AMEX));
        assert_eq!(desk.at("acme", "app").paid(&turned), Err(Error::NotFound));
        assert!(upgraded(&desk, "web", &bound).is_ok_and(|again| again.token.same_as(&turned)));
        assert_eq!(upgraded(&desk, "app", &bound).err(), Some(Error::NotFound));
        // A single use stays one, of whichever of the two tokens.
        let turned = upgraded(&desk, "web", &once).unwrap_or_else(|e| panic!("{e}")).token;
        assert_eq!((slot_of(&once, 5), slot_of(&turned, 5)), (Some(1), Some(3)));
        assert_eq!(web.paid(&turned).as_deref(), Ok("5105105105105100"));
        for spent in [&once, &turned] {
            assert_eq!(web.paid(spent), Err(Error::NotFound));
        }
        assert_eq!(upgraded(&desk, "web", &ended).err(), Some(Error::NotFound));
        // Its card has no other token in this format, in no slot of it.
        assert_eq!(web.tokenize(&header(), card(MASTERCARD)).err(), Some(Error::SpaceExhausted));

        let desk = desk.reopened();
        assert_eq!(desk.web().paid(&plain).as_deref(), Ok(VISA));
        // bound, ended's tombstone, the spent one and the random one.
        desk.assert_whole(4);
        assert_eq!(rotated(&desk, "own", Some("app")), Ok(1));
        assert_eq!(rotated(&desk, "wide", None), Ok(0));
        assert_eq!(rotated(&desk, "wide", None), Err(Error::SpaceExhausted));
        assert_eq!(desk.web().paid(&plain).as_deref(), Ok(VISA));
    }
}

#[test]
fn what_is_done_to_one_token_of_a_card_is_done_to_those_of_every_slot() {
    for engine in ON_DISK {
        let desk = desk_on(engine);
        let web = desk.web();
        let olds = [VISA, MASTERCARD, AMEX].map(|digits| web.stored(digits));
        assert_eq!(rotated(&desk, "wide", None), Ok(2));
        // Upgraded before, and without a row: there is nothing yet that could be copied.
        let news = [&olds[0], &olds[1], &olds[2]]
            .map(|old| upgraded(&desk, "web", old).unwrap_or_else(|e| panic!("{e}")).token);
        assert_eq!(cards_at_rest(&desk), 0);
        assert_eq!(rotated(&desk, "wide", None), Ok(1));

        // By the old token, by the new one, and on one channel alone.
        web.revoked(&olds[0]);
        web.revoked(&news[1]);
        let extent = Revocation::On(channel("web"));
        web.revoke(&header(), &news[2], extent).unwrap_or_else(|e| panic!("{e}"));
        for (old, new) in olds.iter().zip(&news) {
            for token in [old, new] {
                assert_eq!(web.paid(token), Err(Error::NotFound));
                assert_eq!(desk.last_refusal(), Some(Refusal::Revoked));
                assert_eq!(upgraded(&desk, "web", token).err(), Some(Error::NotFound));
            }
        }
        for token in [&olds[2], &news[2]] {
            assert_eq!(desk.at("acme", "app").paid(token).as_deref(), Ok(AMEX));
        }
        assert_eq!(web.tokenize(&header(), card(VISA)).err(), Some(Error::SpaceExhausted));
        // The slots' keys are the same under another KEK.
        let told = block_on(desk.vault.rotate_kek(&principal("olga"), &merchant_name("acme"), None));
        assert!(told.is_ok());
        let desk = desk.reopened();
        assert_eq!(desk.at("acme", "app").paid(&olds[2]).as_deref(), Ok(AMEX));
        assert_eq!(desk.web().paid(&news[0]), Err(Error::NotFound));
        desk.assert_whole(3);
    }
}

#[test]
fn what_is_kept_beside_a_vaultless_token_is_found_by_its_customer_and_by_its_card() {
    let desk = desk_on(Engine::Redb);
    let web = desk.web();
    let at_web = || Header { channel: Some(channel("web")), ..header() };
    let of = |customer: &str| Header { context: Context::new(customer, "", "").unwrap(), ..at_web() };
    let narrowed = |digits| NewCard { channels: vec![channel("web")], ..card(digits) };
    let ann = web.tokenize(&of("ann"), narrowed(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
    let bob = web.tokenize(&of("bob"), narrowed(AMEX)).unwrap_or_else(|e| panic!("{e}")).token;
    let bare = web.tokenize(&of("ann"), card(MASTERCARD)).unwrap_or_else(|e| panic!("{e}")).token;

    let care = principal("acme-care");
    let who = Caller::Local(&care);
    let listed = |customer| {
        let listed = block_on(desk.vault.list_by_subject(who, &of(customer), 0, 10));
        listed.unwrap_or_else(|e| panic!("{e}")).tokens.len()
    };
    // What has no row is nobody's.
    assert_eq!((listed("ann"), listed("bob")), (1, 1));
    let erased = block_on(desk.vault.erase_subject(who, &of("ann"))).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((erased.tokens, listed("ann")), (1, 0));
    assert_eq!(web.paid(&ann), Err(Error::NotFound));
    assert_eq!(web.paid(&bare).as_deref(), Ok(MASTERCARD));

    let delete = |digits: &str| {
        let card = CardToDelete { card: pan(digits).into(), restrictions: Restrictions::default() };
        block_on(desk.vault.delete_card(who, &at_web(), card)).map(|deleted| deleted.tokens)
    };
    assert_eq!(delete(AMEX), Ok(1));
    assert_eq!(web.paid(&bob), Err(Error::NotFound));
    assert_eq!(delete(MASTERCARD), Err(Error::NotFound));
    assert_eq!(web.paid(&bare).as_deref(), Ok(MASTERCARD));
    desk.assert_whole(2);
}

#[test]
fn a_vaultless_row_put_back_is_refused() {
    let desk = desk_on(Engine::Redb);
    let web = desk.web();
    let narrowed = web.added(NewCard { channels: vec![channel("web")], ..card(VISA) });
    let (key, before) = desk.rows(rows::CARD).pop().unwrap();
    let app = Revocation::On(channel("web"));
    web.revoke(&header(), &narrowed, app).unwrap_or_else(|e| panic!("{e}"));
    desk.put(&key, &before);
    assert!(web.paid(&narrowed).is_err());
    desk.delete(&key);
    assert!(web.paid(&narrowed).is_err(), "a row that is gone must not make its token free again");
    assert_eq!(desk.last_refusal(), Some(Refusal::Unreadable));
}
