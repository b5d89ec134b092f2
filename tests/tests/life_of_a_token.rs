//! What a token may be used for is kept to; it is stopped, started and used up; and what is known around its card changes
//! while the token stays.

use std::collections::HashSet;
use std::sync::Barrier;
use std::thread;

use prost_types::Timestamp;
use tonic::Code;
use vault_client::{Zeroizing, ask};
use vault_core::attributes::{Attribute, Attributes, Country, HolderName};
use vault_core::audit::entry::Event;
use vault_core::error::Error;
use vault_core::pan::CardExpiry;
use vault_core::policy::Caller;
use vault_core::restrictions::{Purposes, Restrictions};
use vault_core::rows;
use vault_core::sealed::SealedCard;
use vault_core::store::Engine;
use vault_core::time::{Clock as _, Timestamp as Moment};
use vault_core::token::Token;
use vault_core::vault::{
    AttributesUpdate, CODE_LIFE_MS, CardToDelete, ChangedToken, CodeTicket, Context, GivenCard, Header,
    Listed, NewCard, Replaced, Replacement, RequestId, Reveal, SecurityCode, TokenStanding, Translation,
    Wanted,
};
use vault_core::words::{Initiator, Purpose, RecordChange, Refusal, ReplaceReason, Show};
use vault_proto::status::{Failure, Reason};
use vault_proto::v1;
use vault_tests::ON_DISK;
use vault_tests::cards::{AMEX, MASTERCARD, VISA, card, luhn, number, pan};
use vault_tests::desk::{At, Desk, START, header, in_format, request, shown};
use vault_tests::server::Rig;

use crate::raw::Raw;

/// An importer that looks after its tokens, too.
const WIRE_POLICY: &str = r#"
[[rule]]
id = "importer-cares"
effect = "allow"
merchant = "acme"
channels = ["web"]
principals = ["importer"]
actions = ["inspect", "disable", "enable", "update_attributes", "replace", "fingerprint", "delete_card",
    "list_by_subject", "erase_subject", "hold_code", "read_code", "complete_authorization"]
show = "masked"
"#;

const REQUEST: &str = "5f0e2d9c-4b0a-4c8e-9d55-1c6f0d7e8a11";
const OTHER_REQUEST: &str = "5f0e2d9c-4b0a-4c8e-9d55-1c6f0d7e8a12";

fn once(digits: &str) -> NewCard {
    restricted(digits, Restrictions { single_use: true, ..Restrictions::default() })
}

fn restricted(digits: &str, restrictions: Restrictions) -> NewCard {
    NewCard { restrictions, ..card(digits) }
}

pub(crate) fn customer(name: &str) -> Header {
    Header { context: Context::new(name, "", "").unwrap(), ..header() }
}

fn paid(at: At<'_>, header: &Header, token: &Token) -> Result<String, Error> {
    at.detokenized(header, token, Reveal::Plain).map(|answer| shown(&answer.revealed))
}

fn disable(at: At<'_>, token: &Token) -> Result<ChangedToken, Error> {
    at.care(&header(), async |vault, caller, header| vault.disable(caller, header, token.copy()).await)
}

fn enable(at: At<'_>, token: &Token) -> Result<ChangedToken, Error> {
    at.care(&header(), async |vault, caller, header| vault.enable(caller, header, token.copy()).await)
}

fn update(at: At<'_>, token: &Token, update: AttributesUpdate) -> Result<ChangedToken, Error> {
    at.care(&header(), async |vault, caller, header| {
        vault.update_attributes(caller, header, token.copy(), update).await
    })
}

#[test]
fn a_single_use_token_pays_once_however_many_ask_at_once() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let token = desk.web().added(once(VISA));
        let start = Barrier::new(100);
        let ask = || {
            start.wait();
            // Who loses every race for the row is told to come again, and does.
            (0..5).map(|_| desk.web().paid(&token)).find(|told| *told != Err(Error::Overloaded)).unwrap()
        };
        let answers: Vec<Result<String, Error>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..100).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let paid: Vec<_> = answers.iter().filter(|told| told.is_ok()).collect();
        assert_eq!(paid, [&Ok(VISA.to_owned())], "{engine}");
        assert_eq!(answers.iter().filter(|told| **told == Err(Error::NotFound)).count(), 99, "{engine}");
        let desk = desk.reopened();
        assert_eq!(desk.web().paid(&token), Err(Error::NotFound));
        assert_eq!(desk.last_refusal(), Some(Refusal::AlreadyUsed));
        desk.assert_whole(1);
    }
}

#[test]
fn the_request_that_spent_a_token_may_read_again_for_a_minute_and_no_other_may() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let token = desk.web().added(once(VISA));
        let masked = desk.web().detokenized(&header(), &token, Reveal::Masked);
        assert!(masked.is_ok(), "a mask is no use of it");
        assert_eq!(paid(desk.web(), &request(REQUEST), &token).as_deref(), Ok(VISA));
        assert!(matches!(desk.last_event(), Event::Spent { version: 2, .. }));
        // The vault may have died before its answer left.
        let desk = desk.reopened();
        desk.wait_ms(59_999);
        assert_eq!(paid(desk.web(), &request(REQUEST), &token).as_deref(), Ok(VISA));
        assert!(matches!(desk.last_event(), Event::Disclosed { redelivered: true, .. }));
        assert_eq!(paid(desk.web(), &header(), &token), Err(Error::NotFound), "another request");
        assert_eq!(desk.web().inspected(&token).err(), Some(Error::NotFound));
        desk.wait_ms(1);
        assert_eq!(paid(desk.web(), &request(REQUEST), &token), Err(Error::NotFound), "a minute is over");
        assert_eq!(desk.last_refusal(), Some(Refusal::AlreadyUsed));
        assert!(!desk.web().added(once(VISA)).same_as(&token), "each single use has a token of its own");
        desk.assert_whole(2);
    }
}

#[test]
fn a_token_is_used_for_what_it_was_stored_for_and_the_log_alone_says_why_not() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let web = desk.web();
        let purposes = Purposes::of([Purpose::Refund]);
        let refunds = web.added(restricted(VISA, Restrictions { purposes, ..Restrictions::default() }));
        let bound = Restrictions { bound_to_customer: true, ..Restrictions::default() };
        let anna = web.tokenize(&customer("anna"), restricted(VISA, bound)).map(|t| t.token);
        let anna = anna.unwrap_or_else(|e| panic!("{e}"));
        let refund = Header { purpose: Purpose::Refund, ..header() };
        for (token, header, why) in [
            (&refunds, refund, None),
            (&refunds, header(), Some(Refusal::WrongPurpose)),
            (&anna, customer("anna"), None),
            (&anna, customer("bert"), Some(Refusal::WrongCustomer)),
            (&anna, header(), Some(Refusal::WrongCustomer)),
        ] {
            let told = paid(web, &header, token);
            assert_eq!(desk.last_refusal(), why, "{engine}");
            match why {
                None => assert_eq!(told.as_deref(), Ok(VISA)),
                Some(_) => assert_eq!(told, Err(Error::NotFound)),
            }
        }
        let nobodys = web.tokenize(&header(), restricted(VISA, bound)).err();
        assert!(matches!(
            nobodys,
            Some(Error::Malformed { field: "item.restrictions.bound_to_customer", .. })
        ));
    }
}

#[test]
fn a_card_is_recognised_under_the_same_restrictions_and_under_no_others() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let profiles = [
            Restrictions::default(),
            Restrictions { purposes: Purposes::of([Purpose::Refund]), ..Restrictions::default() },
            Restrictions { bound_to_customer: true, ..Restrictions::default() },
        ];
        let store = |restrictions| {
            let told = desk.web().tokenize(&customer("anna"), restricted(VISA, restrictions));
            told.unwrap_or_else(|e| panic!("{e}")).token
        };
        let tokens = profiles.map(store);
        for (at, profile) in profiles.into_iter().enumerate() {
            assert!(store(profile).same_as(&tokens[at]));
            assert!(
                tokens.iter().enumerate().all(|(other, token)| token.same_as(&tokens[at]) == (other == at))
            );
        }
        desk.assert_whole(3);
    }
}

#[test]
fn a_disabled_token_rests_until_it_is_enabled_and_is_not_given_out_meanwhile() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let web = desk.web();
        let token = web.stored(VISA);
        assert!(disable(web, &token).is_ok_and(|told| told.disabled));
        assert!(matches!(
            desk.last_event(),
            Event::Changed { version: 2, change: RecordChange::Disabled, .. }
        ));
        assert!(disable(web, &token).is_ok_and(|told| told.disabled), "it is disabled already");
        let desk = desk.reopened();
        let web = desk.web();
        assert_eq!(web.paid(&token), Err(Error::NotFound));
        assert_eq!(desk.last_refusal(), Some(Refusal::Disabled));
        assert_eq!(web.inspected(&token).err(), Some(Error::NotFound));
        let other = web.stored(VISA);
        assert!(!other.same_as(&token), "reuse gives no token that does not work");
        assert!(enable(web, &token).is_ok_and(|told| !told.disabled));
        for token in [&token, &other] {
            assert_eq!(web.paid(token).as_deref(), Ok(VISA));
        }
        web.revoked(&token);
        assert_eq!(enable(web, &token).err(), Some(Error::NotFound), "the dead are not enabled");
        desk.assert_whole(2);
    }
}

#[test]
fn attributes_change_without_a_new_token_and_a_retry_changes_nothing_more() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let web = desk.web();
        let known = |country: &str| Attributes {
            billing_country: Country::parse(country).ok(),
            ..Attributes::default()
        };
        let holder = Attributes { card_holder: HolderName::parse("A. SMITH").ok(), ..known("PT") };
        let token = web.added(NewCard { attributes: holder, ..card(VISA) });
        let expiry = CardExpiry::new(2031, 5).unwrap();
        let moved = AttributesUpdate {
            card_expiry: Some(expiry),
            set: known("ES"),
            clear: vec![Attribute::CardHolder],
        };
        for version in [2, 2] {
            assert!(update(web, &token, moved.clone()).is_ok());
            assert!(matches!(
                desk.last_event(),
                Event::Changed { version: logged, change: RecordChange::AttributesUpdated, .. } if logged == version
            ));
        }
        let seen = web.inspected(&token).unwrap_or_else(|e| panic!("{e}"));
        assert!(seen.attributes == known("ES") && seen.card_expiry == Some(expiry));
        // A card that comes in again brings what is known by then.
        assert!(web.added(NewCard { attributes: known("FR"), ..card(VISA) }).same_as(&token));
        let seen = web.inspected(&token).unwrap_or_else(|e| panic!("{e}"));
        assert!(seen.attributes == known("FR") && seen.card_expiry == Some(expiry));
        assert_eq!(web.paid(&token).as_deref(), Ok(VISA));
        desk.reopened().assert_whole(1);
    }
}

fn replacement(digits: &str) -> Replacement {
    Replacement { card: pan(digits).into(), reason: ReplaceReason::Lost }
}

pub(crate) fn replace(at: At<'_>, header: &Header, token: &Token, digits: &str) -> Result<Replaced, Error> {
    at.care(header, async |vault, caller, header| {
        vault.replace(caller, header, token.copy(), replacement(digits)).await
    })
}

#[test]
fn no_card_is_dropped_before_its_retention_ends_and_a_ninth_one_waits_for_that() {
    let desk = Desk::new(Engine::Redb);
    let token = desk.web().stored(VISA);
    let paid_at = desk.clock.now();
    for n in 0..8 {
        desk.wait_days(1);
        replace(desk.web(), &header(), &token, &number("411111", 16, n))
            .unwrap_or_else(|e| panic!("{n}: {e}"));
    }
    desk.wait_days(1);
    let ninth = || replace(desk.web(), &header(), &token, MASTERCARD);
    assert!(matches!(ninth(), Err(Error::Malformed { field: "item.token", .. })));
    assert_eq!(desk.last_refusal(), Some(Refusal::Malformed));
    assert_eq!(refunded(&desk, &token, paid_at, Purpose::Refund).as_deref(), Ok(VISA));
    desk.wait_days(540);
    assert!(ninth().is_ok());
    assert_eq!(refunded(&desk, &token, paid_at, Purpose::Refund), Err(Error::NotFound));
    assert_eq!(desk.web().paid(&token).as_deref(), Ok(MASTERCARD));
    desk.assert_whole(1);
}

/// What the gateway gets for a refund of a payment made then.
pub(crate) fn refunded(desk: &Desk, token: &Token, then: Moment, purpose: Purpose) -> Result<String, Error> {
    let gateway = vault_tests::desk::principal("acme-gateway");
    let header = Header { channel: Some(vault_tests::desk::channel("web")), purpose, ..header() };
    let wanted = vec![Wanted { as_of: Some(then), ..Wanted::now(token.copy(), Reveal::Plain) }];
    let caller = Caller::Local(&gateway);
    let answers = pollster::block_on(desk.vault.detokenize_wanted(caller, &header, wanted));
    answers.and_then(|mut answers| answers.pop().unwrap()).map(|answer| shown(&answer.revealed))
}

#[test]
fn a_reissued_card_keeps_its_token_and_the_old_one_is_there_for_refunds_until_its_retention_ends() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let anna = customer("anna");
        let token = desk.web().tokenize(&anna, card(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
        desk.wait_days(10);
        let told = replace(desk.web(), &header(), &token, MASTERCARD).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            (told.mask.to_string().as_str(), told.network.as_str()),
            ("555555******4444", "mastercard")
        );
        assert_eq!(told.kept_until, Some(START.plus_days(550)));
        assert!(matches!(desk.last_event(), Event::Replaced { version: 2, reason: ReplaceReason::Lost, .. }));
        let desk = desk.reopened();
        desk.wait_days(1);
        assert_eq!(desk.web().paid(&token).as_deref(), Ok(MASTERCARD));
        let (before, after) = (START.plus_days(9), START.plus_days(10));
        assert_eq!(refunded(&desk, &token, before, Purpose::Refund).as_deref(), Ok(VISA));
        assert!(matches!(desk.last_event(), Event::DisclosedEarlier { redelivered: false, .. }));
        assert_eq!(refunded(&desk, &token, after, Purpose::Refund).as_deref(), Ok(MASTERCARD));
        assert_eq!(refunded(&desk, &token, before, Purpose::Authorization), Err(Error::NotFound));
        assert_eq!(desk.last_refusal(), Some(Refusal::WrongPurpose));
        let seen = desk.web().inspected(&token).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(seen.earlier.iter().map(|e| e.mask.to_string()).collect::<Vec<_>>(), ["411111******1111"]);

        desk.wait_days(538);
        assert_eq!(refunded(&desk, &token, before, Purpose::Refund).as_deref(), Ok(VISA));
        assert_eq!(desk.rows(rows::RETENTION).len(), 1);
        desk.wait_days(1);
        assert_eq!(refunded(&desk, &token, before, Purpose::Refund), Err(Error::NotFound));
        assert_eq!(desk.last_refusal(), Some(Refusal::NotKept));
        desk.wait_days(1);
        assert!(pollster::block_on(desk.vault.sweep()).unwrap() > 0);
        assert!(desk.rows(rows::RETENTION).is_empty());
        assert!(matches!(desk.last_event(), Event::Changed { change: RecordChange::EarlierDeleted, .. }));
        let desk = desk.reopened();
        assert_eq!(desk.web().paid(&token).as_deref(), Ok(MASTERCARD));
        assert_eq!(refunded(&desk, &token, before, Purpose::Refund), Err(Error::NotFound));
        desk.web().revoked(&token);
        assert_eq!(refunded(&desk, &token, START.plus_days(500), Purpose::Refund), Err(Error::NotFound));
        assert_eq!(replace(desk.web(), &header(), &token, VISA).err(), Some(Error::NotFound));
        desk.assert_whole(1);
    }
}

#[test]
fn a_card_that_was_replaced_is_never_given_its_old_token_again_and_the_new_one_is() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        for header in [header(), customer("anna")] {
            let store = |digits: &str| {
                let header = Header { request_id: RequestId::random().unwrap(), ..header.clone() };
                desk.web().tokenize(&header, card(digits)).unwrap_or_else(|e| panic!("{e}")).token
            };
            let first = store(VISA);
            assert!(replace(desk.web(), &vault_tests::desk::header(), &first, MASTERCARD).is_ok());
            let second = store(VISA);
            assert!(!second.same_as(&first), "the old card has a token of its own again");
            assert!(store(MASTERCARD).same_as(&first), "the new card has the old token");
            assert!(store(VISA).same_as(&second));
            assert_eq!(desk.web().paid(&first).as_deref(), Ok(MASTERCARD));
            assert_eq!(desk.web().paid(&second).as_deref(), Ok(VISA));
        }
        desk.reopened().assert_whole(4);
    }
}

#[test]
fn a_replacement_asked_for_again_is_done_once_and_counts_as_a_guess_once() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let token = desk.web().stored(MASTERCARD);
        for _ in 0..2 {
            assert!(replace(desk.web(), &request(REQUEST), &token, VISA).is_ok());
            assert!(matches!(desk.last_event(), Event::Replaced { version: 2, .. }));
        }
        assert_eq!(
            replace(desk.web(), &request(REQUEST), &token, MASTERCARD).err(),
            Some(Error::IdempotencyMismatch)
        );
        let seen = desk.web().inspected(&token).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(seen.earlier.len(), 1);
        // Cards of one BIN, last four and length: five a day, whatever becomes of each.
        let cell = (0..1_000_000_u32).map(|n| format!("411112{n:06}1111")).filter(|digits| luhn(digits) == 0);
        let told: Vec<_> =
            cell.take(6).map(|digits| replace(desk.web(), &header(), &token, &digits).err()).collect();
        assert!(told[..5].iter().all(Option::is_none), "{told:?}");
        assert!(matches!(told[5], Some(Error::Budget { .. })), "{told:?}");
        assert_eq!(desk.last_refusal(), Some(Refusal::GuessBudgetSpent));
        // The first request once more, though others came after it: done, and not done again.
        assert!(replace(desk.web(), &request(OTHER_REQUEST), &token, MASTERCARD).is_ok());
        assert!(replace(desk.web(), &header(), &token, AMEX).is_ok());
        assert!(replace(desk.web(), &request(OTHER_REQUEST), &token, MASTERCARD).is_ok());
        assert_eq!(desk.web().paid(&token).as_deref(), Ok(AMEX));
        // Whether a card is the one that a request brought is a guess as well.
        let cell = (0..1_000_000_u32).map(|n| format!("511112{n:06}1111")).filter(|digits| luhn(digits) == 0);
        let retry = |digits: String| replace(desk.web(), &request(REQUEST), &token, &digits).err();
        let told: Vec<_> = cell.take(6).map(retry).collect();
        assert!(told[..5].iter().all(|e| *e == Some(Error::IdempotencyMismatch)), "{told:?}");
        assert!(matches!(told[5], Some(Error::Budget { .. })), "{told:?}");
        desk.reopened().assert_whole(1);
    }
}

/// Fills a space of 9,000 tokens, lets something become of some of them half way, and tells all tokens.
fn filled(desk: &Desk, half_way: impl FnOnce(&[Token])) -> Vec<Token> {
    let until = Some(START.plus_days(1));
    let tight = |valid_until| {
        (0..1_000).map(|_| NewCard { valid_until, ..in_format("tight", VISA) }).collect::<Vec<_>>()
    };
    let mut minted: Vec<Token> = (0..4).flat_map(|_| desk.web().imported(tight(until))).collect();
    half_way(&minted);
    desk.wait_days(2);
    minted.extend((0..5).flat_map(|_| desk.web().imported(tight(None))));
    let spent = desk.web().import(vec![in_format("tight", VISA)]).unwrap().pop().unwrap();
    assert_eq!(spent.err(), Some(Error::SpaceExhausted));
    minted
}

#[test]
fn a_token_that_expired_is_never_minted_again_however_full_its_space_is() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let minted = filled(&desk, |_| {});
        assert_eq!(minted.iter().map(Token::as_str).collect::<HashSet<_>>().len(), 9_000, "{engine}");
        for token in minted[..4_000].iter().step_by(200) {
            assert_eq!(desk.web().paid(token), Err(Error::NotFound));
        }
        assert_eq!(desk.web().paid(&minted[8_999]).as_deref(), Ok(VISA));
    }
}

#[test]
fn a_token_whose_card_was_replaced_is_never_minted_again_however_full_its_space_is() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let minted = filled(&desk, |minted| {
            for token in minted.iter().step_by(400) {
                assert!(replace(desk.web(), &header(), token, MASTERCARD).is_ok());
            }
        });
        assert_eq!(minted.iter().map(Token::as_str).collect::<HashSet<_>>().len(), 9_000, "{engine}");
        assert_eq!(desk.web().paid(&minted[8_999]).as_deref(), Ok(VISA));
    }
}

pub(crate) fn fingerprint(at: At<'_>, digits: &str) -> Result<[u8; 16], Error> {
    let told = at.care(&header(), async |vault, caller, header| {
        vault.fingerprint(caller, header, pan(digits).into()).await
    });
    told.map(|told| told.fingerprint)
}

pub(crate) fn listed(at: At<'_>, customer: &Header, from: usize, most: usize) -> Result<Listed, Error> {
    at.care(customer, async |vault, caller, header| vault.list_by_subject(caller, header, from, most).await)
}

pub(crate) fn erased(at: At<'_>, customer: &Header) -> Result<u32, Error> {
    let told = at.care(customer, async |vault, caller, header| vault.erase_subject(caller, header).await);
    told.map(|told| told.tokens)
}

pub(crate) fn deleted(
    at: At<'_>,
    header: &Header,
    digits: &str,
    restrictions: Restrictions,
) -> Result<u32, Error> {
    let card = CardToDelete { card: pan(digits).into(), restrictions };
    let told = at.care(header, async |vault, caller, header| vault.delete_card(caller, header, card).await);
    told.map(|told| told.tokens)
}

/// A card as a browser on that channel seals it, which the caller passes on unread.
fn sealed(desk: &Desk, channel: &str, plain: &str) -> GivenCard {
    let shop = vault_tests::desk::principal("acme-shop");
    let (caller, channel) = (Caller::Local(&shop), vault_tests::desk::channel(channel));
    let key = pollster::block_on(desk.vault.sealing_key(caller, None, Some(&channel)));
    let key = key.unwrap_or_else(|e| panic!("{e}"));
    let sealed = key.public_key.seal(&key.info, plain.as_bytes()).unwrap();
    GivenCard::Sealed(SealedCard { key: key.id, enc: sealed.enc.to_vec(), ciphertext: sealed.ciphertext })
}

#[test]
fn whoever_may_not_see_a_card_asks_for_it_sealed_with_every_verb_that_takes_one() {
    let desk = Desk::new(Engine::Redb);
    let (web, at) = (|plain: &str| sealed(&desk, "web", plain), desk.web());
    let json = |digits: &str| format!(r#"{{"v":1,"pan":"{digits}","exp":"2030-05"}}"#);
    let token = at.stored(VISA);
    let is_unread = |told: Error| matches!(told, Error::Malformed { field: "item.sealed", .. });

    let put = |card: GivenCard| {
        let replacement = Replacement { card, reason: ReplaceReason::Lost };
        at.care(&header(), async |vault, caller, header| {
            vault.replace(caller, header, token.copy(), replacement).await
        })
    };
    let told = put(web(&json(MASTERCARD))).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(told.card_expiry.map(|e| e.to_string()).as_deref(), Some("05/2030"));
    assert_eq!(at.paid(&token).as_deref(), Ok(MASTERCARD));
    // Sealed for another channel, no card, no number: one answer, and the log says who asked.
    for bad in [sealed(&desk, "app", &json(AMEX)), web("{}"), web(&json("4111111111111112"))] {
        assert!(put(bad).is_err_and(is_unread));
        assert_eq!(desk.last_refusal(), Some(Refusal::Malformed));
    }

    let print = |cards: Vec<GivenCard>| {
        at.care(&header(), async |vault, caller, header| vault.fingerprint_batch(caller, header, cards).await)
    };
    let told = print(vec![web("nonsense"), web(&json(VISA)), pan(AMEX).into(), web(&json(AMEX))]);
    let told: Vec<_> = told.unwrap().into_iter().map(|told| told.map(|told| told.fingerprint)).collect();
    let [Err(unread), Ok(visa), Ok(plain), Ok(amex)] = told.as_slice() else { panic!("places") };
    assert!(is_unread(unread.clone()) && plain == amex && visa != amex);
    assert_eq!(fingerprint(at, VISA).as_ref(), Ok(visa));

    let delete = |card: GivenCard| {
        let card = CardToDelete { card, restrictions: Restrictions::default() };
        at.care(&header(), async |vault, caller, header| vault.delete_card(caller, header, card).await)
    };
    assert!(delete(web("")).is_err_and(is_unread));
    assert_eq!(delete(web(&json(MASTERCARD))).map(|told| told.tokens), Ok(1));
    assert_eq!(at.paid(&token), Err(Error::NotFound));
    // Who may not ask at all is told that, and nothing is opened for it.
    let shop = vault_tests::desk::principal("acme-shop");
    let at_web = Header { channel: Some(vault_tests::desk::channel("web")), ..header() };
    let told = desk.vault.fingerprint(Caller::Local(&shop), &at_web, web("nonsense"));
    assert_eq!(pollster::block_on(told).map(|_| ()), Err(Error::Denied));
    desk.assert_whole(1);
}

#[test]
fn a_fingerprint_is_the_cards_own_of_one_merchant_and_its_guesses_are_counted() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let visa = fingerprint(desk.web(), VISA).unwrap();
        assert!(matches!(desk.last_event(), Event::Fingerprinted { .. }));
        assert_ne!(fingerprint(desk.web(), MASTERCARD).unwrap(), visa);
        assert_ne!(
            fingerprint(desk.at("zenith", "web"), VISA).unwrap(),
            visa,
            "another merchant's is another"
        );
        let desk = desk.reopened();
        assert_eq!(fingerprint(desk.at("acme", "app"), VISA).unwrap(), visa);
        let cell: Vec<String> = (0..1_000_000_u32)
            .map(|n| format!("411112{n:06}1111"))
            .filter(|digits| luhn(digits) == 0)
            .take(6)
            .collect();
        for digits in &cell[..5] {
            assert!(fingerprint(desk.web(), digits).is_ok());
        }
        assert!(matches!(fingerprint(desk.web(), &cell[5]), Err(Error::Budget { .. })));
        assert_eq!(desk.last_refusal(), Some(Refusal::GuessBudgetSpent));
        let none = deleted(desk.web(), &header(), &cell[5], Restrictions::default());
        assert!(matches!(none, Err(Error::Budget { .. })), "one budget for all that tells a card: {none:?}");
    }
}

#[test]
fn a_customers_tokens_are_listed_by_pages_without_the_tokens() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let anna = || customer("anna");
        let pans: Vec<String> = (0..7).map(|n| number(&format!("{}", 522_200 + n), 16, n)).collect();
        let tokens: Vec<Token> = pans
            .iter()
            .map(|digits| desk.web().tokenize(&anna(), card(digits)).unwrap_or_else(|e| panic!("{e}")).token)
            .collect();
        let till = desk.at("acme", "pos").tokenize(&anna(), card(VISA)).map(|t| t.token);
        assert!(till.is_ok(), "a token of the till alone");
        desk.web().revoked(&tokens[0]);
        assert!(disable(desk.web(), &tokens[1]).is_ok());
        let desk = desk.reopened();
        let (mut from, mut seen) = (0, Vec::new());
        loop {
            let page = listed(desk.web(), &anna(), from, 3).unwrap_or_else(|e| panic!("{e}"));
            assert!(page.tokens.len() <= 3);
            assert!(matches!(desk.last_event(), Event::Listed { show: Show::Masked, .. }));
            seen.extend(page.tokens);
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        let masks: Vec<String> = seen.iter().map(|token| token.mask.to_string()).collect();
        let expected: Vec<String> =
            pans[1..].iter().map(|digits| format!("{}******{}", &digits[..6], &digits[12..])).collect();
        assert_eq!(masks, expected, "neither the revoked one nor the till's");
        assert_eq!(seen[0].standing, TokenStanding::Disabled);
        assert!(seen[1..].iter().all(|token| token.standing == TokenStanding::Active));
        assert!(listed(desk.web(), &customer("nobody"), 0, 3).is_ok_and(|page| page.tokens.is_empty()));
        let unnamed = listed(desk.web(), &header(), 0, 3).err();
        assert!(matches!(unnamed, Some(Error::Malformed { field: "header.context.customer_reference", .. })));
    }
}

#[test]
fn an_erased_customer_leaves_tombstones_and_no_fingerprint_and_nobody_else_is_touched() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let (anna, bert) = (customer("anna"), customer("bert"));
        let store = |at: At<'_>, header: &Header, digits: &str| {
            let header = Header { request_id: RequestId::random().unwrap(), ..header.clone() };
            at.tokenize(&header, card(digits)).unwrap_or_else(|e| panic!("{e}")).token
        };
        let (web, pos) = (desk.web(), desk.at("acme", "pos"));
        let annas = [store(web, &anna, VISA), store(web, &anna, MASTERCARD), store(pos, &anna, VISA)];
        let berts = store(web, &bert, VISA);
        assert!(disable(web, &annas[1]).is_ok());
        let fingerprints = desk.rows(rows::FINGERPRINT).len();
        assert_eq!(erased(web, &anna), Ok(3));
        assert!(matches!(desk.last_event(), Event::Erased { cards: 3, .. }));
        assert_eq!(erased(web, &anna), Ok(0), "asked again, it finds nothing left");
        let desk = desk.reopened();
        assert_eq!(desk.rows(rows::FINGERPRINT).len(), fingerprints - 3);
        assert_eq!(desk.rows(rows::SUBJECT).len(), 1);
        for token in &annas {
            assert_eq!(desk.web().paid(token), Err(Error::NotFound));
        }
        assert_eq!(desk.web().paid(&berts).as_deref(), Ok(VISA));
        assert!(!store(desk.web(), &anna, VISA).same_as(&annas[0]), "who comes back is somebody new");
        desk.assert_whole(5);
    }
}

#[test]
fn a_card_deleted_has_no_token_left_that_it_would_be_given_again() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let web = desk.web();
        let purposes = Purposes::of([Purpose::Refund]);
        let narrow = Restrictions { purposes, ..Restrictions::default() };
        let none = Restrictions::default();
        let plain = web.stored(VISA);
        let narrowed = web.added(restricted(VISA, narrow));
        let fresh = web.added(in_format("mixed", VISA));
        let annas = web.tokenize(&customer("anna"), card(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
        let other = web.stored(MASTERCARD);
        assert_eq!(deleted(web, &header(), VISA, none), Ok(1));
        assert_eq!(deleted(web, &header(), VISA, none), Err(Error::NotFound));
        assert_eq!(desk.last_refusal(), Some(Refusal::Unknown));
        assert_eq!(web.paid(&plain), Err(Error::NotFound));
        assert_eq!(deleted(web, &customer("anna"), VISA, none), Ok(1));
        assert_eq!(deleted(web, &header(), VISA, narrow), Ok(1));
        for dead in [&annas, &narrowed] {
            assert_eq!(web.paid(dead), Err(Error::NotFound));
        }
        // No fingerprint leads to a fresh token, nor to another card's.
        assert_eq!(web.paid(&fresh).as_deref(), Ok(VISA));
        assert_eq!(web.paid(&other).as_deref(), Ok(MASTERCARD));
        assert!(!web.stored(VISA).same_as(&plain));
        // A card that was replaced has no token by its old fingerprint.
        let token = web.stored(AMEX);
        assert!(replace(web, &header(), &token, MASTERCARD).is_ok());
        assert_eq!(deleted(web, &header(), AMEX, none), Err(Error::NotFound));
        assert_eq!(deleted(web, &header(), MASTERCARD, none), Ok(1));
        assert_eq!(web.paid(&token), Err(Error::NotFound));
        desk.reopened().assert_whole(7);
    }
}

fn translated(
    desk: &Desk,
    who: &str,
    header: &Header,
    (token, channel, merchant): (&Token, &str, Option<&str>),
    restrictions: Restrictions,
) -> Result<Token, Error> {
    let who = vault_tests::desk::principal(who);
    let header = Header { channel: Some(vault_tests::desk::channel("web")), ..header.clone() };
    let translation = Translation {
        token: token.copy(),
        merchant: merchant.map(vault_tests::desk::merchant_name),
        channel: vault_tests::desk::channel(channel),
        format: None,
        valid_until: None,
        restrictions,
        context: None,
    };
    let caller = Caller::Local(&who);
    pollster::block_on(desk.vault.translate(caller, &header, translation)).map(|told| told.token)
}

#[test]
fn a_token_becomes_one_of_another_channel_or_merchant_where_both_sides_allow_it() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let none = Restrictions::default();
        let source = desk.web().stored(VISA);
        let till = translated(&desk, "acme-bridge", &header(), (&source, "pos", None), none).unwrap();
        assert!(till.as_str().starts_with("tok_"));
        assert!(matches!(desk.last_event(), Event::Tokenized { .. }));
        assert_eq!(desk.at("acme", "pos").paid(&till).as_deref(), Ok(VISA));
        assert_eq!(desk.web().paid(&till), Err(Error::NotFound));
        let abroad = ("web", Some("zenith"));
        let theirs =
            translated(&desk, "acme-bridge", &header(), (&source, abroad.0, abroad.1), none).unwrap();
        assert_eq!(desk.at("zenith", "web").paid(&theirs).as_deref(), Ok(VISA));
        assert_eq!(desk.web().paid(&theirs), Err(Error::NotFound));
        // Asked again, the same token; and each half is in the log.
        let again =
            || translated(&desk, "acme-bridge", &request(REQUEST), (&source, "web", Some("zenith")), none);
        assert!(again().unwrap().same_as(&again().unwrap()));
        assert!(matches!(desk.last_event(), Event::Tokenized { redelivered: true, .. }));

        let commits = desk.store.commits();
        for (who, to, merchant) in [
            ("acme-gateway", "pos", None),           // may read here, may not store there
            ("acme-shop", "pos", None),              // may store there, may not read here
            ("acme-bridge", "app", None),            // no rule of that channel
            ("acme-bridge", "pos", Some("zenith")),  // nor of that one abroad
            ("acme-gateway", "web", Some("zenith")), // another's rule
            ("zenith-bridge", "web", Some("acme")),  // the other way round
            ("acme-bridge", "web", Some("nobody")),
        ] {
            let refused = translated(&desk, who, &header(), (&source, to, merchant), none).err();
            assert_eq!(refused, Some(Error::Denied), "{who} to {to} of {merchant:?}");
            assert!(desk.last_refusal().is_some());
        }
        assert_eq!(desk.store.commits() - commits, 7, "and no card was opened on the way");
        desk.reopened().assert_whole(3);
    }
}

#[test]
fn what_binds_the_source_binds_the_token_made_of_it() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let purposes = |these: &[Purpose]| Restrictions {
            purposes: Purposes::of(these.iter().copied()),
            ..Restrictions::default()
        };
        let until = Some(START.plus_days(3));
        let narrow = purposes(&[Purpose::Authorization, Purpose::Refund]);
        let source = desk.web().added(NewCard { valid_until: until, ..restricted(VISA, narrow) });
        let to =
            |restrictions| translated(&desk, "acme-bridge", &header(), (&source, "pos", None), restrictions);
        let till = desk.at("acme", "pos");
        let same = to(Restrictions::default()).unwrap();
        let seen = till.inspected(&same).unwrap_or_else(|e| panic!("{e}"));
        assert!(seen.restrictions == narrow && seen.valid_until == until);
        let fewer = to(purposes(&[Purpose::Refund, Purpose::Export])).unwrap();
        let seen = till.inspected(&fewer).map(|seen| seen.restrictions).err();
        assert_eq!(seen, Some(Error::NotFound), "an inspection for authorization");
        assert_eq!(desk.last_refusal(), Some(Refusal::WrongPurpose));
        assert!(matches!(to(purposes(&[Purpose::Export])).err(), Some(Error::Malformed { .. })));
        // A single use is used by it, and the token made of it is for a single use again.
        let once = desk.web().added(once(MASTERCARD));
        let first =
            translated(&desk, "acme-bridge", &header(), (&once, "pos", None), Restrictions::default());
        let second =
            translated(&desk, "acme-bridge", &header(), (&once, "pos", None), Restrictions::default());
        assert_eq!(second.err(), Some(Error::NotFound));
        let first = first.unwrap();
        assert_eq!(till.paid(&first).as_deref(), Ok(MASTERCARD));
        assert_eq!(till.paid(&first), Err(Error::NotFound));
        // A token of one channel becomes one of one channel, where the format would make it one of all.
        let abroad = |source: &Token| {
            translated(
                &desk,
                "acme-bridge",
                &header(),
                (source, "web", Some("zenith")),
                Restrictions::default(),
            )
        };
        let web_alone = vec![vault_tests::desk::channel("web")];
        let everywhere = abroad(&desk.web().stored(AMEX)).unwrap();
        let there = abroad(&desk.web().added(NewCard { channels: web_alone, ..card(AMEX) })).unwrap();
        assert_eq!(desk.at("zenith", "web").paid(&there).as_deref(), Ok(AMEX));
        assert_eq!(desk.at("zenith", "app").paid(&there), Err(Error::NotFound));
        assert_eq!(desk.at("zenith", "app").paid(&everywhere).as_deref(), Ok(AMEX));
        desk.reopened().assert_whole(9);
    }
}

#[test]
fn a_token_bound_to_a_customer_stays_with_that_customer() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let bound = Restrictions { bound_to_customer: true, ..Restrictions::default() };
        let ada = customer("ada");
        let source =
            desk.web().tokenize(&ada, restricted(VISA, bound)).unwrap_or_else(|e| panic!("{e}")).token;
        let to = |merchant: Option<&str>, context: Option<&str>| {
            let translation = Translation {
                token: source.copy(),
                merchant: merchant.map(vault_tests::desk::merchant_name),
                channel: vault_tests::desk::channel(if merchant == Some("zenith") { "web" } else { "pos" }),
                format: None,
                valid_until: None,
                restrictions: Restrictions::default(),
                context: context.map(|name| Context::new(name, "", "").unwrap()),
            };
            let who = vault_tests::desk::principal("acme-bridge");
            let header = Header { channel: Some(vault_tests::desk::channel("web")), ..customer("ada") };
            let caller = Caller::Local(&who);
            pollster::block_on(desk.vault.translate(caller, &header, translation)).map(|told| told.token)
        };
        for merchant in [None, Some("acme")] {
            let told = to(merchant, Some("eve")).err();
            let field = "item.context.customer_reference";
            assert!(matches!(told, Some(Error::Malformed { field: f, .. }) if f == field), "{told:?}");
            for context in [None, Some("ada")] {
                let theirs =
                    to(merchant, context).unwrap_or_else(|e| panic!("{merchant:?} {context:?}: {e}"));
                let paid = |who| desk.at("acme", "pos").detokenized(&customer(who), &theirs, Reveal::Plain);
                assert!(paid("ada").is_ok() && paid("eve").is_err());
            }
        }
        // Another merchant's customers are others, whatever they are called; one must be named.
        assert!(to(Some("zenith"), Some("eve")).is_ok());
        assert!(matches!(to(Some("zenith"), None), Err(Error::Malformed { .. })));
    }
}

fn held(at: At<'_>, header: &Header, token: &Token, digits: &str) -> Result<CodeTicket, Error> {
    let code = SecurityCode::parse(digits.as_bytes()).unwrap();
    let told = at.care(header, async |vault, caller, header| {
        vault.hold_code(caller, header, token.copy(), code).await
    });
    told.map(|told| told.ticket)
}

fn code_read(at: At<'_>, header: &Header, token: &Token, ticket: CodeTicket) -> Result<String, Error> {
    let told = at.care(header, async |vault, caller, header| {
        vault.read_code(caller, header, token.copy(), ticket).await
    });
    told.map(|told| String::from_utf8(told.code.expose_digits().to_vec()).unwrap())
}

#[test]
fn a_security_code_is_read_once_for_its_authorization_and_nothing_that_is_kept_is_made_with_it() {
    const CODE: &str = "0917";
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let (visa, amex) = (desk.web().stored(VISA), desk.web().stored(AMEX));
        let hold = |token: &Token| held(desk.web(), &header(), token, CODE);
        assert!(
            matches!(hold(&visa), Err(Error::Malformed { field: "item.code", .. })),
            "Visa has three digits"
        );
        let ticket = hold(&amex).unwrap();
        assert!(matches!(desk.last_event(), Event::CodeHeld { .. }));
        // Not for another purpose, nor by the merchant itself, nor with another token.
        let by_merchant = Header { initiator: Initiator::Merchant, ..header() };
        let for_refund = Header { purpose: Purpose::Refund, ..header() };
        for wrong in [by_merchant, for_refund] {
            assert_eq!(code_read(desk.web(), &wrong, &amex, ticket), Err(Error::NotFound));
            assert_eq!(desk.last_refusal(), Some(Refusal::WrongPurpose));
        }
        assert_eq!(code_read(desk.web(), &header(), &visa, ticket), Err(Error::CodeGone));
        assert_eq!(desk.last_refusal(), Some(Refusal::CodeGone));

        let start = Barrier::new(20);
        let ask = || {
            start.wait();
            code_read(desk.web(), &header(), &amex, ticket)
        };
        let told: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(told.iter().filter(|told| told.as_deref() == Ok(CODE)).count(), 1, "{engine}: {told:?}");
        assert_eq!(
            told.iter().filter(|told| **told == Err(Error::CodeGone)).count(),
            19,
            "{engine}: {told:?}"
        );

        let dropped = hold(&amex).unwrap();
        let over = desk.web().care(&header(), async |vault, caller, header| {
            vault.complete_authorization(caller, header, amex.copy(), dropped).await
        });
        assert!(over.is_ok() && matches!(desk.last_event(), Event::CodeDropped { .. }));
        assert_eq!(code_read(desk.web(), &header(), &amex, dropped), Err(Error::CodeGone));

        let late = hold(&amex).unwrap();
        desk.wait_ms(CODE_LIFE_MS);
        assert_eq!(code_read(desk.web(), &header(), &amex, late), Err(Error::CodeGone), "an hour is over");
        assert_eq!(desk.vault.held_codes(), 1);
        desk.vault.forget_codes();
        assert_eq!(desk.vault.held_codes(), 0, "and it is wiped");

        // A code goes with the card that it came with: of another card in its place it is none.
        let outlived = hold(&amex).unwrap();
        replace(desk.web(), &header(), &amex, "371449635398431").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(desk.vault.held_codes(), 0, "it is wiped");
        assert_eq!(code_read(desk.web(), &header(), &amex, outlived), Err(Error::CodeGone));
        replace(desk.web(), &header(), &amex, AMEX).unwrap_or_else(|e| panic!("{e}"));
        let ended = desk.web().added(in_format("mixed", AMEX));
        hold(&ended).unwrap();
        desk.web().revoked(&ended);
        assert_eq!(desk.vault.held_codes(), 0, "and so with its token");

        // A request that is sent again does not bring back what was read meanwhile.
        let queued = request("00000000-0000-4000-8000-0000000000c0");
        let first = held(desk.web(), &queued, &amex, CODE).unwrap();
        assert!(
            held(desk.web(), &queued, &amex, CODE).is_ok_and(|again| again == first),
            "its answer was lost"
        );
        assert_eq!(code_read(desk.web(), &header(), &amex, first).as_deref(), Ok(CODE));
        assert!(matches!(held(desk.web(), &queued, &amex, CODE), Err(Error::CodeGone)));
        assert_eq!(desk.last_refusal(), Some(Refusal::CodeGone));
        assert_eq!(desk.vault.held_codes(), 0);

        // An authorization that ends after its token is over all the same.
        let ending = NewCard { valid_until: Some(desk.clock.now().plus_ms(1_000)), ..card(MASTERCARD) };
        let ending = desk.web().added(ending);
        let kept = held(desk.web(), &header(), &ending, "123").unwrap();
        desk.wait_ms(1_000);
        assert_eq!(code_read(desk.web(), &header(), &ending, kept), Err(Error::NotFound));
        let over = desk.web().care(&header(), async |vault, caller, header| {
            vault.complete_authorization(caller, header, ending.copy(), kept).await
        });
        assert!(over.is_ok());
        assert_eq!(desk.vault.held_codes(), 0);

        // The same request with another code is the same request: what is kept of it knows nothing of the code.
        let [first, again] = [CODE, "1234"].map(|code| held(desk.web(), &request(REQUEST), &amex, code));
        assert!(first.unwrap() == again.unwrap(), "{engine}");
        assert_eq!(desk.vault.held_codes(), 1, "and no second code is held for it");
        let lost = hold(&amex).unwrap();
        let closed = desk.close();
        let desk = closed.open().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(code_read(desk.web(), &header(), &amex, lost), Err(Error::CodeGone), "a restart");
        assert_eq!(desk.web().paid(&amex).as_deref(), Ok(AMEX));
        desk.assert_whole(4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_of_a_tokens_life_is_asked_for_over_the_wire_alone_and_in_batches() {
    let mut rig = Rig::made(Engine::Redb, WIRE_POLICY, "");
    rig.start();
    let client = Raw::connect(&rig, "importer").await;
    let header = || Some(ask::header("acme", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder));
    let restrictions = v1::Restrictions { purposes: vec![1, 3], ..v1::Restrictions::default() };
    let attributes = v1::Attributes {
        card_holder: "A. SMITH".into(),
        agreement: Some(v1::Agreement {
            r#type: v1::AgreementType::Recurring.into(),
            consented_at: Some(Timestamp { seconds: 1_767_225_600, nanos: 0 }),
        }),
        network_transactions: [("visa".into(), "016153570198200".into())].into(),
        ..v1::Attributes::default()
    };
    let item = v1::TokenizeItem {
        restrictions: Some(restrictions.clone()),
        attributes: Some(attributes.clone()),
        ..ask::card(Zeroizing::new(VISA.into()), None)
    };
    let stored: v1::TokenizeResponse =
        client.vault("Tokenize", &v1::TokenizeRequest { header: header(), item: Some(item) }).await.unwrap();
    let token = stored.result.unwrap().token;
    let look = async || {
        let request = v1::InspectRequest { header: header(), item: Some(ask::look(&token)) };
        client.vault::<v1::InspectResponse>("Inspect", &request).await.map(|seen| seen.result.unwrap())
    };
    let seen = look().await.unwrap();
    assert_eq!((seen.restrictions, seen.attributes), (Some(restrictions), Some(attributes.clone())));

    let request = v1::DisableRequest { header: header(), item: Some(ask::disable(&token)) };
    let told: v1::DisableResponse = client.vault("Disable", &request).await.unwrap();
    let told = told.result.unwrap();
    assert_eq!(
        (told.state(), told.channels),
        (v1::TokenState::Disabled, vec!["app".into(), "pos".into(), "web".into()])
    );
    assert_eq!(look().await.unwrap_err().code(), Code::NotFound);
    let items = vec![ask::enable(&token), ask::enable("tok_0123456789012345678901")];
    let request = v1::BatchEnableRequest { header: header(), items };
    let told: v1::BatchEnableResponse = client.vault("BatchEnable", &request).await.unwrap();
    let outcomes: Vec<_> = told.outcomes.into_iter().map(|o| o.outcome.unwrap()).collect();
    assert!(
        matches!(&outcomes[0], v1::enable_outcome::Outcome::Result(r) if r.state() == v1::TokenState::Active)
    );
    assert!(
        matches!(&outcomes[1], v1::enable_outcome::Outcome::Error(e) if e.code == i32::from(Code::NotFound))
    );
    assert_eq!(told.checkpoints.len(), 1);

    let set = v1::Attributes { billing_country: "ES".into(), ..v1::Attributes::default() };
    let item = v1::UpdateAttributesItem {
        token: token.clone(),
        set: Some(set),
        clear: vec!["card_holder".into()],
        card_expiry: Some(v1::CardExpiry { month: 5, year: 2031 }),
        ..v1::UpdateAttributesItem::default()
    };
    let request = v1::BatchUpdateAttributesRequest { header: header(), items: vec![item.clone()] };
    let told: v1::BatchUpdateAttributesResponse =
        client.vault("BatchUpdateAttributes", &request).await.unwrap();
    assert!(matches!(told.outcomes[0].outcome, Some(v1::update_attributes_outcome::Outcome::Result(_))));
    let request = v1::UpdateAttributesRequest { header: header(), item: Some(item) };
    let _: v1::UpdateAttributesResponse = client.vault("UpdateAttributes", &request).await.unwrap();
    let seen = look().await.unwrap();
    let expected = v1::Attributes { card_holder: String::new(), billing_country: "ES".into(), ..attributes };
    assert_eq!(seen.attributes, Some(expected));
    assert_eq!(seen.card.unwrap().card_expiry, Some(v1::CardExpiry { month: 5, year: 2031 }));

    let new = |digits: &str| {
        let digits = Zeroizing::new(digits.into());
        ask::replace(&token, digits, None, v1::ReplaceReason::Renewed)
    };
    let request = v1::ReplaceRequest { header: header(), item: Some(new(MASTERCARD)) };
    let told: v1::ReplaceResponse = client.vault("Replace", &request).await.unwrap();
    let told = told.result.unwrap();
    assert_eq!(told.card.unwrap().masked_pan, "555555******4444");
    assert!(told.kept_until.is_some());
    let request = v1::BatchReplaceRequest { header: header(), items: vec![new(AMEX)] };
    let told: v1::BatchReplaceResponse = client.vault("BatchReplace", &request).await.unwrap();
    assert!(matches!(told.outcomes[0].outcome, Some(v1::replace_outcome::Outcome::Result(_))));
    let earlier = look().await.unwrap().earlier;
    let masks: Vec<_> = earlier.into_iter().map(|e| e.card.unwrap().masked_pan).collect();
    assert_eq!(masks, ["555555******4444", "411111******1111"]);
    // By now it stands for an American Express card.
    let code = || Zeroizing::new(b"1234".to_vec());
    let request =
        v1::HoldSecurityCodeRequest { header: header(), item: Some(ask::hold_code(&token, code())) };
    let told: v1::HoldSecurityCodeResponse = client.vault("HoldSecurityCode", &request).await.unwrap();
    let ticket = told.result.unwrap().ticket;
    let read = async || {
        let request =
            v1::ReadSecurityCodeRequest { header: header(), item: Some(ask::read_code(&token, &ticket)) };
        client.vault::<v1::ReadSecurityCodeResponse>("ReadSecurityCode", &request).await
    };
    assert_eq!(read().await.unwrap().result.unwrap().code.unwrap().digits, b"1234");
    let gone = Failure::from(&read().await.unwrap_err());
    assert_eq!((gone.reason(), gone.retry_after()), (Some(Reason::SecurityCodeGone), None));
    let items =
        vec![ask::hold_code(&token, code()), ask::hold_code(&token, Zeroizing::new(b"12x4".to_vec()))];
    let request = v1::BatchHoldSecurityCodeRequest { header: header(), items };
    let told: v1::BatchHoldSecurityCodeResponse =
        client.vault("BatchHoldSecurityCode", &request).await.unwrap();
    let outcomes: Vec<_> = told.outcomes.into_iter().map(|o| o.outcome.unwrap()).collect();
    let [
        v1::hold_security_code_outcome::Outcome::Result(held),
        v1::hold_security_code_outcome::Outcome::Error(bad),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:?}")
    };
    assert_eq!(bad.code, i32::from(Code::InvalidArgument));
    let items = vec![ask::complete(&token, &held.ticket), ask::complete(&token, "code-0-1")];
    let request = v1::BatchCompleteAuthorizationRequest { header: header(), items };
    let told: v1::BatchCompleteAuthorizationResponse =
        client.vault("BatchCompleteAuthorization", &request).await.unwrap();
    let ended: Vec<bool> = told
        .outcomes
        .into_iter()
        .map(|o| matches!(o.outcome, Some(v1::complete_authorization_outcome::Outcome::Result(_))))
        .collect();
    assert_eq!(ended, [true, false]);
    let items = vec![ask::read_code(&token, &held.ticket)];
    let request = v1::BatchReadSecurityCodeRequest { header: header(), items };
    let told: v1::BatchReadSecurityCodeResponse =
        client.vault("BatchReadSecurityCode", &request).await.unwrap();
    assert!(matches!(told.outcomes[0].outcome, Some(v1::read_security_code_outcome::Outcome::Error(_))));
    let request =
        v1::CompleteAuthorizationRequest { header: header(), item: Some(ask::complete(&token, &ticket)) };
    let _: v1::CompleteAuthorizationResponse = client.vault("CompleteAuthorization", &request).await.unwrap();

    let request = v1::TranslateRequest { header: header(), item: Some(ask::translate(&token, "web")) };
    let told: v1::TranslateResponse = client.vault("Translate", &request).await.unwrap();
    assert_eq!(told.result.unwrap().card.unwrap().masked_pan, "378282*****0005");
    let nowhere = v1::TranslateItem { channel: String::new(), ..ask::translate(&token, "web") };
    let items = vec![ask::translate(&token, "web"), nowhere];
    let request = v1::BatchTranslateRequest { header: header(), items };
    let told: v1::BatchTranslateResponse = client.vault("BatchTranslate", &request).await.unwrap();
    let outcomes: Vec<_> = told.outcomes.into_iter().map(|o| o.outcome.unwrap()).collect();
    assert!(matches!(outcomes[0], v1::translate_outcome::Outcome::Result(_)));
    assert!(matches!(&outcomes[1], v1::translate_outcome::Outcome::Error(e) if e.code == 3));
    let digits = |pan: &str| Zeroizing::new(pan.as_bytes().to_vec());
    let request = v1::FingerprintRequest { header: header(), item: Some(ask::fingerprint(digits(VISA))) };
    let print: v1::FingerprintResponse = client.vault("Fingerprint", &request).await.unwrap();
    let items = vec![ask::fingerprint(digits(VISA)), ask::fingerprint(digits("4111111111111112"))];
    let request = v1::BatchFingerprintRequest { header: header(), items };
    let prints: v1::BatchFingerprintResponse = client.vault("BatchFingerprint", &request).await.unwrap();
    let [good, bad] = prints.outcomes.as_slice() else { panic!() };
    let Some(v1::fingerprint_outcome::Outcome::Result(good)) = &good.outcome else { panic!() };
    assert_eq!(good.fingerprint, print.result.unwrap().fingerprint);
    assert!(matches!(bad.outcome, Some(v1::fingerprint_outcome::Outcome::Error(_))));

    let context = Some(v1::Context { customer_reference: "anna".into(), ..v1::Context::default() });
    let of_anna = || header().map(|h| v1::RequestHeader { context: context.clone(), ..h });
    for pan in [VISA, MASTERCARD] {
        let item = Some(ask::card(digits(pan), None));
        let _: v1::TokenizeResponse =
            client.vault("Tokenize", &v1::TokenizeRequest { header: of_anna(), item }).await.unwrap();
    }
    let ask_for =
        |page_token: String| v1::ListBySubjectRequest { header: of_anna(), page_size: 1, page_token };
    let page: v1::ListBySubjectResponse =
        client.vault("ListBySubject", &ask_for(String::new())).await.unwrap();
    assert_eq!((page.tokens.len(), page.tokens[0].record.len()), (1, 16));
    let rest: v1::ListBySubjectResponse =
        client.vault("ListBySubject", &ask_for(page.next_page_token)).await.unwrap();
    assert_eq!((rest.tokens.len(), rest.next_page_token.as_str()), (1, ""));
    let bad = client.vault::<v1::ListBySubjectResponse>("ListBySubject", &ask_for("x".into())).await;
    assert_eq!(bad.unwrap_err().code(), Code::InvalidArgument);
    let request =
        v1::BatchDeleteCardRequest { header: of_anna(), items: vec![ask::delete_card(digits(VISA))] };
    let told: v1::BatchDeleteCardResponse = client.vault("BatchDeleteCard", &request).await.unwrap();
    let Some(v1::delete_card_outcome::Outcome::Result(told)) = &told.outcomes[0].outcome else { panic!() };
    assert_eq!(told.tokens, 1);
    let request = v1::DeleteCardRequest { header: of_anna(), item: Some(ask::delete_card(digits(VISA))) };
    let gone = client.vault::<v1::DeleteCardResponse>("DeleteCard", &request).await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
    let request = v1::EraseSubjectRequest { header: of_anna() };
    let told: v1::EraseSubjectResponse = client.vault("EraseSubject", &request).await.unwrap();
    assert_eq!(told.tokens, 1);
    let as_of = Some(Timestamp { seconds: 1_767_225_600, nanos: 0 });
    let item = v1::DetokenizeItem { as_of, ..ask::plain(&token) };
    let refund = ask::header("acme", "web", v1::Purpose::Refund, v1::Initiator::Merchant);
    let request = v1::DetokenizeRequest { header: Some(refund), item: Some(item) };
    let told: v1::DetokenizeResponse = client.vault("Detokenize", &request).await.unwrap();
    assert_eq!(ask::pan(told.result.unwrap()).unwrap().as_slice(), VISA.as_bytes());
}

#[test]
fn who_may_not_look_after_tokens_is_denied_before_any_look() {
    let desk = Desk::new(ON_DISK[0]);
    let token = desk.web().stored(VISA);
    let shop = vault_tests::desk::principal("acme-shop");
    let header = Header { channel: Some(vault_tests::desk::channel("web")), ..header() };
    let caller = Caller::Local(&shop);
    let refused = [
        pollster::block_on(desk.vault.disable(caller, &header, token.copy())).err(),
        pollster::block_on(desk.vault.enable(caller, &header, token.copy())).err(),
        pollster::block_on(desk.vault.update_attributes(
            caller,
            &header,
            token.copy(),
            AttributesUpdate::default(),
        ))
        .err(),
    ];
    assert_eq!(refused, [Some(Error::Denied), Some(Error::Denied), Some(Error::Denied)]);
    assert_eq!(desk.last_refusal(), Some(Refusal::ActionNotAllowed));
}
