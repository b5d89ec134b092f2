//! What was refused did not happen: no token, no card, no row, and a line in the log.

use pollster::block_on;
use vault_core::audit::entry::Event;
use vault_core::error::Error;
use vault_core::policy::{Caller, Policy};
use vault_core::rows;
use vault_core::vault::Header;
use vault_core::words::{Purpose, Refusal};
use vault_tests::ON_DISK;
use vault_tests::cards::{MASTERCARD, VISA, card};
use vault_tests::desk::{Desk, channel, header, in_format, policy, principal};

/// The suite's policy, where the shop may take cards for authorizations only.
fn narrow() -> Policy {
    let text = policy().to_toml().unwrap();
    let wide = "actions = [\"tokenize\"]\ntells_reuse = true";
    assert!(text.contains(wide), "{text}");
    Policy::from_toml(&text.replace(wide, &wide.replace("tells", "purposes = [\"authorization\"]\ntells")))
        .unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_purpose_that_no_rule_covers_gets_no_token() {
    for engine in ON_DISK {
        let desk = Desk::with(engine, narrow());
        let export = || Header { purpose: Purpose::Export, ..header() };
        let answer = desk.web().tokenize(&export(), card(VISA)).map(|t| t.token.as_str().to_owned());
        assert_eq!(answer, Err(Error::Denied), "{engine}");
        assert_eq!(desk.last_refusal(), Some(Refusal::WrongPurpose));
        let cards = vec![card(VISA), in_format("mixed", VISA), card(MASTERCARD)];
        // The purpose is the request's, so the whole batch is denied.
        assert_eq!(desk.web().tokenize_batch(&export(), cards).err(), Some(Error::Denied), "{engine}");
        for kind in [rows::CARD, rows::FINGERPRINT, rows::IDEMPOTENCY, rows::GUESS, rows::SPACE] {
            assert!(desk.rows(kind).is_empty(), "{engine}: {}", char::from(kind));
        }
        // A card that is known already is not told either.
        let token = desk.web().stored(VISA);
        let answer = desk.web().tokenize(&export(), card(VISA)).map(|t| t.token.as_str().to_owned());
        assert_eq!(answer, Err(Error::Denied), "{engine}");
        assert!(desk.web().stored(VISA).same_as(&token));
        desk.assert_whole(1);
    }
}

#[test]
fn every_refusal_stands_in_the_log_with_its_reason() {
    for engine in ON_DISK {
        let desk = Desk::new(engine);
        let token = desk.web().stored(VISA);
        let on = |name: &str| Header { channel: Some(channel(name)), ..header() };
        let (shop, nobody, theirs) =
            (principal("acme-shop"), principal("nobody"), principal("zenith-gateway"));
        let plain = vault_core::vault::Reveal::Plain;
        let cases = [
            (&shop, on("web"), Error::Denied, Refusal::ActionNotAllowed),
            (&nobody, on("web"), Error::Denied, Refusal::UnlistedPrincipal),
            (&theirs, on("nowhere"), Error::Denied, Refusal::ChannelNotAllowed),
            (&theirs, on("web"), Error::NotFound, Refusal::Unknown),
        ];
        for (who, header, told, why) in cases {
            desk.wait_ms(1_000);
            let answer = desk.vault.detokenize(Caller::Local(who), &header, token.copy(), plain.clone());
            assert_eq!(block_on(answer).err(), Some(told), "{engine}: {why:?}");
            assert_eq!(desk.last_refusal(), Some(why), "{engine}");
        }
        assert_eq!(desk.web().paid(&token).as_deref(), Ok(VISA));
        assert!(matches!(desk.last_event(), Event::Disclosed { .. }));
    }
}
