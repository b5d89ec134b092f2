//! Golden folders: vaults as an earlier release wrote them, which every later release must open and read.
//!
//! [`write`] fills one with a few cards of every kind and puts a list of them beside it, `cards.txt`; [`check`] opens it
//! and holds every line against what the vault says. A line is `pays CHANNEL TOKEN CARD`, `gone CHANNEL TOKEN` or
//! `kept TOKEN` (the answer that is kept for the request [`KEPT`]). The cards are numbers that networks publish for tests.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use pollster::block_on;
use vault_core::control::LockTarget;
use vault_core::custody::Shares;
use vault_core::error::Error;
use vault_core::pan::CardExpiry;
use vault_core::store::Engine;
use vault_core::token::Token;
use vault_core::vault::{Context, Header, NewCard, ResealStep, Revocation};
use vault_core::words::LockReason;

use crate::cards::{AMEX, MASTERCARD, VISA, card};
use crate::desk::{
    Closed, Desk, OPTIONS, START, channel, custodian, header, in_format, merchant_name, policy, principal,
    request, token,
};

/// The request whose answer is kept in a golden folder.
pub const KEPT: &str = "0190b8a4-7c1e-7cc3-98c4-dc0c0c07398f";

const LIST: &str = "cards.txt";

/// Makes a golden folder in `folder`, which must be empty or not be there.
pub fn write(folder: &Path, engine: Engine) {
    let desk = Desk::in_folder(folder, engine, OPTIONS, policy()).unwrap_or_else(|e| panic!("{e}"));
    let mut list = String::new();
    let mut pays = |channel: &str, token: &Token, card: &str| {
        writeln!(list, "pays {channel} {} {card}", token.as_str()).unwrap();
    };
    let web = desk.web();
    pays("web", &web.stored(VISA), VISA);
    pays("app", &web.stored(VISA), VISA);
    pays("web", &web.stored(AMEX), AMEX);
    pays("pos", &desk.at("acme", "pos").stored(MASTERCARD), MASTERCARD);
    pays("web", &web.added(in_format("mixed", VISA)), VISA);
    pays("web", &web.added(in_format("tight", VISA)), VISA);
    for customer in ["anna", "bert"] {
        let context = Some(Context::new(customer, "", "").unwrap());
        pays("web", &web.added(NewCard { context, ..card(VISA) }), VISA);
    }
    let dated = NewCard {
        card_expiry: Some(CardExpiry::new(2031, 5).unwrap()),
        valid_until: Some(START.plus_days(10_000)),
        channels: vec![channel("web")],
        ..card(MASTERCARD)
    };
    let only_web = web.added(dated);
    pays("web", &only_web, MASTERCARD);
    block_on(desk.vault.rotate_dek(&principal("olga"), &merchant_name("acme"), None)).unwrap();
    pays("web", &web.added(in_format("mixed", MASTERCARD)), MASTERCARD);
    let expiring = NewCard { valid_until: Some(START.plus_hours(1)), ..card(VISA) };
    let expired = web.added(expiring);
    let revoked = web.added(in_format("tight", VISA));
    web.revoked(&revoked);
    let narrowed = web.added(in_format("tight", VISA));
    web.revoke(&header(), &narrowed, Revocation::On(channel("app"))).unwrap_or_else(|e| panic!("{e}"));
    pays("web", &narrowed, VISA);
    let kept = web.tokenize(&request(KEPT), in_format("mixed", VISA)).unwrap_or_else(|e| panic!("{e}")).token;
    pays("web", &kept, VISA);
    for (channel, token) in [("app", &only_web), ("web", &expired), ("web", &revoked), ("app", &narrowed)] {
        writeln!(list, "gone {channel} {}", token.as_str()).unwrap();
    }
    writeln!(list, "kept {}", kept.as_str()).unwrap();
    let pos = LockTarget::Channel { merchant: merchant_name("zenith"), channel: channel("pos") };
    block_on(desk.vault.set_lock(&principal("olga"), pos, LockReason::Fraud, Some("a note"), None)).unwrap();
    for line in aged(&desk) {
        writeln!(list, "{line}").unwrap();
    }
    drop(desk.close());
    fs::write(folder.join(LIST), list).unwrap();
}

/// Years of a vault's life: every key was rotated, those that name rows twice and the second time with rows still under the
/// names of before; a customer was erased, and people with shares stand beside the passphrase. Gives lines of its own.
fn aged(desk: &Desk) -> Vec<String> {
    let (olga, acme, web) = (principal("olga"), merchant_name("acme"), desk.web());
    let own = custodian();
    let known = || Some(Context::new("carl", "", "").unwrap());
    let mut lines = Vec::new();
    let mut pays = |token: &Token, card: &str| lines.push(format!("pays web {} {card}", token.as_str()));
    let (vault, by) = (&desk.vault, &olga);
    let erased = web.added(NewCard { context: known(), ..card(AMEX) });
    block_on(async {
        vault.rotate_idx(by, &acme, None).await?;
        vault.rotate_fpr(by, &acme, None).await?;
        pays(&web.added(in_format("tight", MASTERCARD)), MASTERCARD);
        while vault.reseal().await? != ResealStep::Idle {}
        pays(&web.added(in_format("mixed", AMEX)), AMEX);
        vault.rotate_idx(by, &acme, None).await?;
        vault.rotate_fpr(by, &acme, None).await?;
        vault.rotate_trk(by, &acme, None).await?;
        vault.rotate_rcv(by, &acme, None).await?;
        vault.rotate_kek(by, &acme, None).await?;
        vault.rotate_adm(by, None).await?;
        vault.rotate_log(by, None).await?;
        vault.rotate_root(by, &[&own], None).await?;
        vault.rotate_esk(by, &[&own], None).await?;
        let (people, _shares) = Shares::split(&vault.standing_of().await?.vault, 3, 5)?;
        vault.add_custodian(by, &people, None).await
    })
    .unwrap_or_else(|e| panic!("{e}"));
    pays(&web.added(in_format("mixed", VISA)), VISA);
    let carl = Header { context: known().unwrap(), ..header() };
    let erased_now = web.care(&carl, async |vault, who, header| vault.erase_subject(who, header).await);
    erased_now.unwrap_or_else(|e| panic!("{e}"));
    lines.push(format!("gone web {}", erased.as_str()));
    lines
}

/// Opens a golden folder (a copy: it is written to) and fails unless everything in its list is as it says.
pub fn check(folder: &Path) {
    let list = fs::read_to_string(folder.join(LIST)).unwrap();
    let at = Closed::at(folder, OPTIONS);
    at.clock.set(START.plus_hours(2));
    let desk = at.open().unwrap_or_else(|e| panic!("{e}"));
    let report = desk.verified();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.good, cards_in(&list));
    let mut checked = 0;
    for line in list.lines() {
        match *line.split(' ').collect::<Vec<_>>() {
            ["pays", channel, text, card] => {
                let at = desk.at("acme", channel);
                assert_eq!(at.paid(&token(text)).as_deref(), Ok(card), "{line}");
                let seen = at.inspected(&token(text)).unwrap_or_else(|e| panic!("{line}: {e}"));
                assert_eq!(seen.mask.to_string().len(), card.len(), "{line}");
            }
            ["gone", channel, text] => {
                assert_eq!(desk.at("acme", channel).paid(&token(text)), Err(Error::NotFound), "{line}");
            }
            ["kept", text] => {
                let again = desk.web().tokenize(&request(KEPT), in_format("mixed", VISA));
                assert_eq!(again.unwrap_or_else(|e| panic!("{e}")).token.as_str(), text, "{line}");
            }
            _ => panic!("a line that is none: {line}"),
        }
        checked += 1;
    }
    assert!(checked >= 17, "{checked} lines");
    assert_eq!(desk.web().stored(VISA).as_str(), first_token(&list), "the card is recognised");
    let locked = desk.at("zenith", "pos").paid(&token("tok_0000000000000000000000"));
    assert!(matches!(locked, Err(Error::Locked { .. })), "{locked:?}");
    let other = desk.at("acme", "web").inspected(&token(first_token(&list))).map(|seen| seen.mask);
    assert_eq!(other.map(|mask| mask.to_string()).as_deref(), Ok("411111******1111"));
    drop(desk.close());
}

fn first_token(list: &str) -> &str {
    list.split_whitespace().nth(2).expect("the list begins with a card")
}

fn cards_in(list: &str) -> u64 {
    let tokens = list.lines().map(|line| match *line.split(' ').collect::<Vec<_>>() {
        ["kept", token] | [_, _, token] | [_, _, token, _] => token,
        _ => panic!("a line that is none: {line}"),
    });
    tokens.collect::<std::collections::BTreeSet<_>>().len() as u64
}
