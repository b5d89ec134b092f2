//! What a token may be used for is kept to; it is stopped, started and used up; and what is known around its card changes
//! while the token stays.

use std::sync::Barrier;
use std::thread;

use prost_types::Timestamp;
use tonic::Code;
use vault_client::{Zeroizing, ask};
use vault_core::attributes::{Attribute, Attributes, Country, HolderName};
use vault_core::audit::entry::Event;
use vault_core::error::Error;
use vault_core::pan::CardExpiry;
use vault_core::restrictions::{Purposes, Restrictions};
use vault_core::store::Engine;
use vault_core::token::Token;
use vault_core::vault::{AttributesUpdate, ChangedToken, Context, Header, NewCard, Reveal};
use vault_core::words::{Purpose, RecordChange, Refusal};
use vault_proto::v1;
use vault_tests::ON_DISK;
use vault_tests::cards::{VISA, card};
use vault_tests::desk::{At, Desk, header, request, shown};
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
actions = ["inspect", "disable", "enable", "update_attributes"]
show = "masked"
"#;

const REQUEST: &str = "5f0e2d9c-4b0a-4c8e-9d55-1c6f0d7e8a11";

fn once(digits: &str) -> NewCard {
    restricted(digits, Restrictions { single_use: true, ..Restrictions::default() })
}

fn restricted(digits: &str, restrictions: Restrictions) -> NewCard {
    NewCard { restrictions, ..card(digits) }
}

fn customer(name: &str) -> Header {
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
}

#[test]
fn who_may_not_look_after_tokens_is_denied_before_any_look() {
    let desk = Desk::new(ON_DISK[0]);
    let token = desk.web().stored(VISA);
    let shop = vault_tests::desk::principal("acme-shop");
    let header = Header { channel: Some(vault_tests::desk::channel("web")), ..header() };
    let caller = vault_core::policy::Caller::Local(&shop);
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
