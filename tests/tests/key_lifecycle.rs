//! A key has a beginning, a term and an end: it is counted, replaced in time, taken out of use at once when somebody else may
//! have it, and destroyed when nothing needs it, or with what is under it when somebody says so twice.

use std::collections::BTreeMap;

use pollster::block_on;
use vault_core::audit::entry::{ControlChange, Event, Who};
use vault_core::custody::Custodian;
use vault_core::envelope::{KeyId, KeyKind};
use vault_core::error::Error;
use vault_core::policy::Policy;
use vault_core::rows;
use vault_core::store::Engine;
use vault_core::terms::{LEAST_SEALS, MAX_SEALS, Renewal, Standing, Term};
use vault_core::vault::{
    Compromise, Context, ErasureStep, Header, KeyLine, NewCard, ResealStep, Revocation, Under, healing,
};
use vault_core::words::{CompromiseReason, KeyState, Refusal};
use vault_tests::cards::{AMEX, MASTERCARD, VISA, card, number};
use vault_tests::desk::{Desk, custodian, header, in_format, merchant_name, policy_text, principal};
use vault_tests::server::Rig;
use vault_tests::{ON_DISK, desk, runbook};

use crate::key_rotation::{
    certificates, dek, destroyed, fpr, furnished, idx, rows_under_any, step, work_off,
};

fn lines(desk: &Desk, kind: KeyKind) -> Vec<KeyLine> {
    let of = |k: &KeyLine| k.kind == kind && k.merchant.as_ref().is_none_or(|m| m.as_str() == "acme");
    desk.vault.keys().into_iter().filter(of).collect()
}

fn states(desk: &Desk, kind: KeyKind) -> Vec<KeyState> {
    lines(desk, kind).iter().map(|k| k.state).collect()
}

fn active(desk: &Desk, kind: KeyKind) -> KeyLine {
    lines(desk, kind).into_iter().rev().find(|k| k.state == KeyState::Active).unwrap()
}

fn with(more: &str) -> Policy {
    let text = format!("{}\n{more}", policy_text());
    Policy::from_toml(&text).unwrap_or_else(|e| panic!("{e}"))
}

fn compromised(desk: &Desk, key: KeyId) -> Result<Compromise, Error> {
    let own = custodian();
    let custodians: [&dyn Custodian; 1] = [&own];
    let why = (CompromiseReason::StolenCopy, Some("ticket 4711"));
    block_on(desk.vault.compromise_key(&principal("olga"), key, why, &custodians, None))
}

#[test]
fn the_vault_replaces_by_itself_what_costs_nothing_and_tells_of_the_rest() {
    let desk = Desk::new(Engine::Redb);
    let visa = desk.web().stored(VISA);
    assert_eq!(block_on(desk.vault.replace_old_keys()), Ok(0));
    assert!(desk.vault.watch_keys().is_empty());
    // Four fifths of a year: only what nobody but an operator replaces is told of, once.
    desk.wait_days(292);
    let told: Vec<(KeyKind, Standing)> =
        desk.vault.watch_keys().into_iter().map(|(k, standing)| (k.kind, standing)).collect();
    assert!(
        told.iter()
            .all(|told| *told == (KeyKind::Trk, Standing::Due) || *told == (KeyKind::Rcv, Standing::Over)),
        "{told:?}"
    );
    assert_eq!(told.iter().filter(|(kind, _)| *kind == KeyKind::Trk).count(), 2, "one for each merchant");
    assert!(desk.vault.watch_keys().is_empty());
    desk.wait_days(73);
    let replaced = block_on(desk.vault.replace_old_keys()).unwrap();
    assert_eq!(replaced, 7, "CTL, and KEK, DEK and RCV of two merchants");
    for kind in KeyKind::ALL {
        let expected: &[KeyState] = match kind {
            KeyKind::Kek | KeyKind::Ctl => &[KeyState::Destroyed, KeyState::Active],
            KeyKind::Dek | KeyKind::Rcv => &[KeyState::Deactivated, KeyState::Active],
            KeyKind::Fpk => &[],
            _ => &[KeyState::Active],
        };
        assert_eq!(states(&desk, kind), expected, "{}", kind.as_str());
        let term = Term::longest(kind);
        let replaces = term.renewal == Renewal::ByItself && term.days.is_some_and(|days| days <= 365);
        assert_eq!(replaces, expected.len() == 2, "{}", kind.as_str());
    }
    let told: Vec<(KeyKind, Standing)> =
        desk.vault.watch_keys().into_iter().map(|(k, standing)| (k.kind, standing)).collect();
    assert_eq!(told, [(KeyKind::Trk, Standing::Over); 2]);
    assert_eq!(lines(&desk, KeyKind::Dek)[0].deactivated_at, Some(desk::START.plus_days(365)));
    work_off(&desk.vault);
    assert_eq!(block_on(desk.vault.replace_old_keys()), Ok(0));
    // A TRK that is past its days goes on: a checkout does not stop for a calendar.
    let amex = desk.web().stored(AMEX);
    let desk = desk.reopened();
    assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
    assert_eq!(desk.web().paid(&amex).as_deref(), Ok(AMEX));
    desk.assert_whole(2);
}

#[test]
fn a_policy_shortens_a_term_and_never_lengthens_it() {
    let text = policy_text();
    for (row, good) in [
        ("kind = \"dek\"\ndays = 30", true),
        ("kind = \"dek\"\ndays = 365\nuses = 1099511627776", true),
        ("kind = \"dek\"\ndays = 366", false),
        ("kind = \"dek\"\ndays = 0", false),
        ("kind = \"dek\"\nuses = 1099511627777", false),
        ("kind = \"trk\"\nuses = 1048576", true),
        ("kind = \"trk\"\nuses = 1048575", false),
        ("kind = \"rcv\"\ndays = 91", false),
        ("kind = \"rcv\"\nuses = 2000000", false),
        ("kind = \"ref\"\ndays = 30", false),
        ("kind = \"dek\"\nhours = 30", false),
        ("kind = \"nonsense\"\ndays = 30", false),
        ("kind = \"dek\"\ndays = 30\n[[cryptoperiod]]\nkind = \"dek\"\ndays = 31", false),
    ] {
        let told = Policy::from_toml(&format!("{text}\n[[cryptoperiod]]\n{row}\n"));
        assert_eq!(told.is_ok(), good, "{row}: {:?}", told.err());
    }
    assert_eq!((MAX_SEALS, LEAST_SEALS), (1_099_511_627_776, 1_048_576));
    // What a policy shortens is in force from its commit on, for the keys that are there.
    let desk = Desk::new(Engine::Redb);
    desk.wait_days(31);
    assert_eq!(block_on(desk.vault.replace_old_keys()), Ok(0));
    let shorter = with("[[cryptoperiod]]\nkind = \"dek\"\ndays = 30\n");
    let changes = desk.vault.policy_diff(&shorter).unwrap();
    assert_eq!(changes.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(), ["cryptoperiod.dek"]);
    block_on(desk.vault.apply_policy(&principal("olga"), shorter, Some(1))).unwrap();
    assert_eq!(active(&desk, KeyKind::Dek).expires_at, Some(desk::START.plus_days(30)));
    assert_eq!(block_on(desk.vault.replace_old_keys()), Ok(2));
    assert_eq!(block_on(desk.vault.replace_old_keys()), Ok(0));
}

/// The count on disk of a key, as another release or node would have left it.
fn put_count(desk: &Desk, key: KeyId, count: u64) {
    let name = [&[rows::USES][..], &key.0.to_be_bytes(), &0_u32.to_be_bytes()].concat();
    desk.put(&name, &count.to_be_bytes());
}

#[test]
fn a_key_that_is_used_up_is_told_of_first_and_then_seals_nothing_more() {
    let few = "[[cryptoperiod]]\nkind = \"trk\"\nuses = 1048576\n";
    for (share, standing) in [(79, None), (80, Some(Standing::Due)), (95, Some(Standing::Urgent))] {
        let desk = Desk::with(Engine::Redb, with(few));
        put_count(&desk, active(&desk, KeyKind::Trk).id, LEAST_SEALS / 100 * share + 1_000);
        let desk = desk.reopened();
        let told = desk.vault.watch_keys();
        assert_eq!(told.first().map(|(_, standing)| *standing), standing, "{share}");
    }
    let desk = Desk::with(Engine::Redb, with(few));
    let (visa, trk) = (desk.web().stored(VISA), active(&desk, KeyKind::Trk));
    assert!(trk.uses.is_some_and(|uses| (1..10).contains(&uses)), "{trk:?}");
    put_count(&desk, trk.id, LEAST_SEALS - 3);
    let desk = desk.reopened();
    let mut stored = 0;
    let told = loop {
        match desk.web().tokenize(&header(), card(&number("4", 16, stored))) {
            Ok(_) => stored += 1,
            Err(e) => break e,
        }
        assert!(stored < 3, "three uses were left, and one card takes more than one");
    };
    assert_eq!(told, Error::KeySpent { key: trk.id.0, kind: "trk" });
    assert!(told.to_string().contains("keys rotate trk"));
    assert_eq!(active(&desk, KeyKind::Trk).standing(desk::START), Standing::Over);
    // What is there still opens; other merchants go on; and it is no other after a restart.
    assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
    desk.at("zenith", "web").stored(VISA);
    let desk = desk.reopened();
    assert!(matches!(desk.web().tokenize(&header(), card(AMEX)), Err(Error::KeySpent { .. })));
    assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
}

#[test]
fn a_dek_is_replaced_by_its_uses_long_before_it_is_used_up() {
    let desk = Desk::with(Engine::Redb, with("[[cryptoperiod]]\nkind = \"dek\"\nuses = 1048576\n"));
    let (visa, old) = (desk.web().stored(VISA), active(&desk, KeyKind::Dek).id);
    assert_eq!(block_on(desk.vault.replace_used_keys()), Ok(0));
    put_count(&desk, old, LEAST_SEALS / 100 * 80 + 1_000);
    let desk = desk.reopened();
    assert_eq!(block_on(desk.vault.replace_used_keys()), Ok(1));
    assert_ne!(active(&desk, KeyKind::Dek).id, old);
    work_off(&desk.vault);
    assert_eq!(rows_under_any(&desk, KeyKind::Dek).len(), 1);
    assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
}

#[test]
fn a_spent_key_tells_nothing_of_a_token() {
    let desk = Desk::with(Engine::Redb, with("[[cryptoperiod]]\nkind = \"dek\"\nuses = 1048576\n"));
    let (visa, dek) = (desk.web().stored(VISA), active(&desk, KeyKind::Dek).id);
    put_count(&desk, dek, LEAST_SEALS);
    let desk = desk.reopened();
    let unknown = desk::token("tok_0000000000000000000000");
    for token in [&visa, &unknown] {
        let revoked = desk.web().revoke(&header(), token, Revocation::Everywhere);
        assert_eq!(revoked.map(|_| ()), Err(Error::KeySpent { key: dek.0, kind: "dek" }));
    }
    assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA), "what opens goes on");
    assert_eq!(block_on(desk.vault.replace_used_keys()), Ok(1));
    desk.web().revoked(&visa);
}

#[test]
fn what_was_reserved_counts_after_a_kill_and_no_count_goes_back() {
    for engine in ON_DISK {
        let mut desk = Desk::new(engine);
        let mut before: BTreeMap<u32, u64> = BTreeMap::new();
        for round in 0..4_u32 {
            for card in 0..5 {
                desk.web().stored(&number("4", 16, round * 5 + card));
            }
            let counts: BTreeMap<u32, u64> =
                desk.vault.keys().iter().filter_map(|k| Some((k.id.0, k.uses?))).collect();
            for (key, uses) in &before {
                assert!(counts[key] >= *uses, "{engine}: key {key} went from {uses} to {}", counts[key]);
            }
            let trk = active(&desk, KeyKind::Trk).id.0;
            // Nothing is closed: what was used of the last block is known to nobody.
            assert!(
                before.get(&trk).is_none_or(|uses| counts[&trk] > *uses + 5),
                "the rest of a block counts"
            );
            before = counts;
            desk = desk.abandon().open().unwrap_or_else(|e| panic!("{e}"));
        }
        desk.assert_whole(20);
        // A counter that was deleted by hand is named where the log has spoken of more: see the unit tests of `uses`.
        assert_eq!(desk.verified().uses_put_back, 0);
    }
}

#[test]
fn a_compromised_dek_seals_nothing_more_goes_first_and_is_destroyed() {
    let (desk, held) = furnished(Engine::Redb, 300);
    let other = Desk::new(Engine::Redb);
    // Acme has work of its own under way; zenith's key is the one that somebody may have.
    dek(&desk.vault);
    assert!(matches!(step(&desk.vault), ResealStep::Worked { .. }));
    let zenith =
        |k: &&KeyLine| k.kind == KeyKind::Dek && k.merchant.as_ref().is_some_and(|m| m.as_str() == "zenith");
    let old = desk.vault.keys().iter().find(zenith).unwrap().id;
    let made = compromised(&desk, old).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(made.key.state, KeyState::Compromised);
    let next = made.next.as_ref().unwrap();
    assert_eq!((next.kind, next.state, next.version), (KeyKind::Dek, KeyState::Active, 2));
    let under = made.under.unwrap();
    assert_eq!((under.rows, under.cards), (2, 1), "a card and its fingerprint");
    assert_eq!((under.first, under.last), (Some(desk::START), Some(desk::START)));
    let known = made.key.compromised.unwrap();
    assert_eq!((known.reason, known.epoch), (CompromiseReason::StolenCopy, desk.vault.status().epoch));
    let Event::ControlChanged { change, .. } = desk.last_event() else { panic!("no change of Control") };
    let noted =
        ControlChange::KeyCompromised { key: old.0, reason: CompromiseReason::StolenCopy, note: known.note };
    assert_eq!(change, noted);
    assert!(known.note.is_some());
    assert!(matches!(compromised(&desk, old), Err(Error::Malformed { .. })), "it is noted once");
    // Zenith's rows before acme's, although acme's were begun.
    assert_eq!(block_on(desk.vault.reseal_progress()).unwrap().merchant.as_str(), "acme");
    step(&desk.vault);
    assert_eq!(block_on(desk.vault.reseal_progress()).unwrap().merchant.as_str(), "zenith");
    desk.at("zenith", "web").stored(AMEX);
    while !matches!(step(&desk.vault), ResealStep::Drained) {}
    let gone = desk.vault.keys().into_iter().find(|k| k.id == old).unwrap();
    assert_eq!((gone.state, gone.drained_at.is_some()), (KeyState::Destroyed, true));
    assert_eq!(certificates(&desk), [old.0]);
    work_off(&desk.vault);
    // The one that was only rotated is kept until somebody says so.
    assert_eq!(states(&desk, KeyKind::Dek), [KeyState::Deactivated, KeyState::Active]);
    let desk = desk.reopened();
    assert_eq!(desk.web().paid(&held[0].0).as_deref(), Ok(held[0].1.as_str()));
    desk.assert_whole(held.len() + 2);
    drop(other);
}

#[test]
fn what_was_under_a_key_is_counted_by_channel_time_and_customer() {
    let desk = Desk::new(Engine::Redb);
    desk.web().stored(VISA);
    desk.wait_days(1);
    desk.at("acme", "pos").stored(VISA);
    for (n, digits) in [MASTERCARD, AMEX].into_iter().enumerate() {
        let of = Header { context: Context::new(&format!("customer-{n}"), "", "").unwrap(), ..header() };
        desk.web().tokenize(&of, card(digits)).unwrap_or_else(|e| panic!("{e}"));
    }
    let under = |kind: KeyKind| block_on(desk.vault.under(active(&desk, kind).id)).unwrap();
    let all = under(KeyKind::Dek);
    let pos: BTreeMap<String, u64> = all.channels.iter().map(|(name, n)| (name.to_string(), *n)).collect();
    assert_eq!(pos, BTreeMap::from([("pos".to_owned(), 1)]));
    assert_eq!((all.cards, all.everywhere, all.customers, all.unreadable), (4, 3, 2, 0));
    assert_eq!((all.first, all.last), (Some(desk::START), Some(desk::START.plus_days(1))));
    assert_eq!(all.rows, 4 + 4 + 2);
    for (kind, rows) in [
        (KeyKind::Kek, all.rows),
        (KeyKind::Ref, all.rows),
        (KeyKind::Trk, 8),
        (KeyKind::Idx, 4),
        (KeyKind::Fpr, 4),
        (KeyKind::Esk, 2),
        (KeyKind::Idm, 0),
        (KeyKind::Rcv, 0),
        (KeyKind::Log, 0),
    ] {
        assert_eq!(under(kind).rows, rows, "{}", kind.as_str());
    }
    assert_eq!(block_on(desk.vault.under(KeyId(999))), Err(Error::malformed("key", "names no key")));
}

#[test]
fn every_kind_of_key_says_what_its_compromise_comes_to() {
    let slots = policy_with_slots();
    let desk = Desk::with(Engine::Redb, slots);
    let visa = desk.web().stored(VISA);
    let olga = principal("olga");
    for kind in KeyKind::ALL {
        let before = active(&desk, kind);
        let made = compromised(&desk, before.id);
        let (state, replaced) = match kind {
            // What has a next version has it in the same commit.
            KeyKind::Root | KeyKind::Kek | KeyKind::Ctl | KeyKind::Log => (KeyState::Destroyed, true),
            KeyKind::Esk
            | KeyKind::Adm
            | KeyKind::Trk
            | KeyKind::Dek
            | KeyKind::Rcv
            | KeyKind::Idx
            | KeyKind::Fpr
            | KeyKind::Fpk => (KeyState::Compromised, true),
            // REF cannot be healed: it goes on, and what is known of it is written down.
            KeyKind::Ref | KeyKind::Idm => (KeyState::Active, false),
        };
        let made = made.unwrap_or_else(|e| panic!("{}: {e}", kind.as_str()));
        assert_eq!((made.key.state, made.next.is_some()), (state, replaced), "{}", kind.as_str());
        assert!(made.key.compromised.is_some());
        assert_eq!(active(&desk, kind).id != before.id, replaced, "{}", kind.as_str());
        if !replaced {
            assert!(healing(kind).healed.starts_with("nothing"), "{}", kind.as_str());
        }
        if kind == KeyKind::Ref {
            assert!(healing(kind).healed.contains("cannot be healed"));
        }
        work_off(&desk.vault);
        while !matches!(block_on(desk.vault.erasing()), Ok(ErasureStep::Idle)) {}
    }
    assert_eq!(states(&desk, KeyKind::Esk), [KeyState::Destroyed, KeyState::Active]);
    // A slot is opened for each compromise, until none is left: then no token is made any more, and those that are open.
    let vaultless = || desk.web().added(in_format("edge", MASTERCARD));
    let mut made_before = vaultless();
    loop {
        let made = compromised(&desk, active(&desk, KeyKind::Fpk).id).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(made.key.state, KeyState::Compromised);
        if made.next.is_none() {
            break;
        }
        made_before = vaultless();
    }
    assert_eq!(lines(&desk, KeyKind::Fpk).len(), 5);
    let refused = desk.web().tokenize(&header(), in_format("edge", VISA)).map(|_| ());
    assert_eq!(refused, Err(Error::SpaceExhausted));
    let disclosed = desk.at("acme", "web").paid(&made_before);
    assert_eq!(disclosed.as_deref(), Ok(MASTERCARD));
    // A card that is sealed to a compromised key is opened no more, from that very commit on; tokens are as before.
    let desk = desk.reopened();
    assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
    assert_eq!(states(&desk, KeyKind::Dek), [KeyState::Destroyed, KeyState::Active]);
    desk.assert_whole(1);
    // A compromised TRK goes once nothing needs it: its token was used, and a day has passed.
    block_on(desk.vault.token_roots(&merchant_name("acme"))).unwrap();
    assert_eq!(states(&desk, KeyKind::Trk), [KeyState::Compromised, KeyState::Active]);
    desk.web().stored(VISA);
    desk.wait_days(2);
    block_on(desk.vault.token_roots(&merchant_name("acme"))).unwrap();
    assert_eq!(states(&desk, KeyKind::Trk), [KeyState::Destroyed, KeyState::Active]);
    assert_eq!(desk.web().paid(&visa).as_deref(), Ok(VISA));
    assert!(matches!(
        block_on(desk.vault.compromise_key(&olga, KeyId(999), (CompromiseReason::Drill, None), &[], None)),
        Err(Error::Malformed { field: "key", .. })
    ));
}

#[test]
fn a_key_that_cannot_be_replaced_at_once_is_noted_and_replaced_once_it_can_be() {
    let (desk, held) = furnished(Engine::Redb, 40);
    for (kind, rotate) in [(KeyKind::Idx, idx as fn(&_) -> _), (KeyKind::Fpr, fpr)] {
        rotate(&desk.vault).unwrap_or_else(|e| panic!("{e}"));
        let key = active(&desk, kind).id;
        // Rows are still under the names of before: the next link has to wait, the note does not.
        let made = compromised(&desk, key).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((made.key.state, made.next), (KeyState::Active, None), "{}", kind.as_str());
        assert!(made.key.compromised.is_some());
        assert_eq!(block_on(desk.vault.replace_used_keys()), Ok(0));
        work_off(&desk.vault);
        assert_eq!(block_on(desk.vault.replace_used_keys()), Ok(1));
        work_off(&desk.vault);
        assert_eq!(block_on(desk.vault.replace_used_keys()), Ok(0));
        assert_ne!(active(&desk, kind).id, key);
        assert_eq!(states(&desk, kind)[1], KeyState::Compromised, "{}", kind.as_str());
    }
    // The root without custodians is noted; whoever has them puts the next one in its place.
    let olga = principal("olga");
    for kind in [KeyKind::Root, KeyKind::Esk] {
        let key = active(&desk, kind).id;
        let why = (CompromiseReason::StolenCopy, None);
        let made =
            block_on(desk.vault.compromise_key(&olga, key, why, &[], None)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            (made.key.id, made.key.state, made.next),
            (key, KeyState::Active, None),
            "{}",
            kind.as_str()
        );
    }
    assert_eq!(block_on(desk.vault.erasing()), Ok(ErasureStep::Due));
    let own = custodian();
    block_on(desk.vault.follow_esk(&[&own])).unwrap_or_else(|e| panic!("{e}"));
    block_on(desk.vault.rotate_root(&olga, &[&own], None)).unwrap_or_else(|e| panic!("{e}"));
    while !matches!(block_on(desk.vault.erasing()), Ok(ErasureStep::Idle)) {}
    for kind in [KeyKind::Root, KeyKind::Esk] {
        assert_eq!(states(&desk, kind), [KeyState::Destroyed, KeyState::Active], "{}", kind.as_str());
    }
    let desk = desk.reopened();
    assert!(desk.verified().is_whole());
    for (token, card) in &held {
        assert_eq!(desk.web().paid(token).as_deref(), Ok(card.as_str()));
    }
}

#[test]
fn shredding_leaves_customers_whose_cards_are_under_a_later_key() {
    for moved in [false, true] {
        let desk = Desk::new(Engine::Redb);
        let known = || Some(Context::new("carl", "", "").unwrap());
        let of = Header { context: known().unwrap(), ..header() };
        let stored = |digits: &str| desk.web().added(NewCard { context: known(), ..card(digits) });
        let first = stored(VISA);
        let old = active(&desk, KeyKind::Dek).id;
        dek(&desk.vault);
        // The customer's later card is under the new key, and opens by the secret of the index that is under the old one.
        let later = if moved { None } else { Some(stored(MASTERCARD)) };
        if moved {
            work_off(&desk.vault);
            dek(&desk.vault);
        }
        let key = if moved { lines(&desk, KeyKind::Dek)[1].id } else { old };
        let made =
            block_on(desk.vault.shred_key(&principal("olga"), key, None)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((made.under.cards, made.under.customers), (1, 1), "it says whose they were");
        desk.wait_ms(1_000);
        assert_eq!(desk.web().paid(&first), Err(Error::NotFound));
        if let Some(later) = &later {
            assert_eq!(desk.web().paid(later).as_deref(), Ok(MASTERCARD));
        }
        let erased = desk.web().care(&of, async |vault, who, header| vault.erase_subject(who, header).await);
        assert_eq!(erased.unwrap_or_else(|e| panic!("{e}")).tokens, u32::from(later.is_some()));
        if let Some(later) = &later {
            desk.wait_ms(1_000);
            assert_eq!(desk.web().paid(later), Err(Error::NotFound), "the erasure found it");
        }
        assert!(desk.verified().is_whole());
    }
}

/// The desk's policy with a vaultless format of acme.
pub(crate) fn policy_with_slots() -> Policy {
    let text = policy_text();
    let acme = "id = \"acme\"\n";
    let slots = format!("{acme}ff1_slots = 5\n[[merchant.format]]\nid = \"edge\"\nscheme = \"ff1\"\n");
    assert!(text.contains(acme));
    let rule = |id: &str, principal: &str, rest: &str| {
        format!(
            "\n[[rule]]\nid = \"{id}\"\neffect = \"allow\"\nmerchant = \"acme\"\nprincipals = [\"{principal}\"]\nvaultless = true\n{rest}\n"
        )
    };
    let stores = rule("edge-stores", "acme-shop", "actions = [\"tokenize\"]");
    let pays = "actions = [\"detokenize\"]\npurposes = [\"authorization\"]\nshow = \"full\"";
    let text = text.replacen(acme, &slots, 1) + &stores + &rule("edge-pays", "acme-gateway", pays);
    Policy::from_toml(&text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_key_is_destroyed_when_nothing_needs_it_and_is_told_what_does() {
    let (desk, _) = furnished(Engine::Redb, 20);
    let acme = merchant_name("acme");
    let says = |desk: &Desk, key: KeyId, what: &str| {
        let told = destroyed(desk, key).unwrap_err().to_string();
        assert!(told.contains(what), "{told}");
    };
    let rcv = active(&desk, KeyKind::Rcv).id;
    says(&desk, rcv, "rotate it first");
    block_on(desk.vault.rotate_rcv(&principal("olga"), &acme, None)).unwrap();
    says(&desk, rcv, "seven days");
    desk.wait_days(7);
    assert_eq!(destroyed(&desk, rcv), Ok(()));
    says(&desk, rcv, "destroyed already");
    let (first_idx, first_fpr) = (active(&desk, KeyKind::Idx).id, active(&desk, KeyKind::Fpr).id);
    idx(&desk.vault).unwrap();
    fpr(&desk.vault).unwrap();
    work_off(&desk.vault);
    says(&desk, first_idx, "chain of names");
    says(&desk, first_fpr, "chain of names");
    says(&desk, KeyId(999), "names no key");
    let old = active(&desk, KeyKind::Dek).id;
    dek(&desk.vault);
    says(&desk, old, "rows are sealed anew");
    work_off(&desk.vault);
    assert_eq!(destroyed(&desk, old), Ok(()));
    desk.reopened().assert_whole(24);
}

#[test]
fn what_is_shredded_opens_no_more_and_the_rest_goes_on() {
    for engine in ON_DISK {
        let (desk, held) = furnished(engine, 40);
        let olga = principal("olga");
        let old = active(&desk, KeyKind::Dek).id;
        let shred = |desk: &Desk, key: KeyId| block_on(desk.vault.shred_key(&olga, key, None));
        let told = shred(&desk, old).unwrap_err().to_string();
        assert!(told.contains("rotate it first"), "{told}");
        for kind in [KeyKind::Root, KeyKind::Kek, KeyKind::Ref, KeyKind::Log, KeyKind::Trk] {
            assert!(shred(&desk, active(&desk, kind).id).is_err(), "{}", kind.as_str());
        }
        dek(&desk.vault);
        let later = desk.web().stored(&number("5", 16, 7));
        let made = shred(&desk, old).unwrap_or_else(|e| panic!("{e}"));
        let cards = u64::try_from(held.len()).unwrap();
        assert_eq!((made.key.state, made.under.cards), (KeyState::Destroyed, cards));
        assert_eq!(
            made.under.rows,
            cards * 2,
            "cards and fingerprints; customers' indexes are sealed anew before"
        );
        let Event::ControlChanged { change, .. } = desk.last_event() else { panic!("no change of Control") };
        assert_eq!(change, ControlChange::KeyShredded { key: old.0, rows: made.under.rows });
        for (token, _) in &held {
            // Refusals of one second beyond the tenth are counted, not told singly.
            desk.wait_ms(1_000);
            assert_eq!(desk.web().paid(token), Err(Error::NotFound), "{engine}");
            assert_eq!(desk.last_refusal(), Some(Refusal::Shredded));
        }
        assert_eq!(desk.web().paid(&later).as_deref(), Ok(number("5", 16, 7).as_str()));
        // The work behind rotations is not held up by them, and their names move on: their tokens stay used up.
        work_off(&desk.vault);
        assert!(block_on(desk.vault.reseal_progress()).is_none());
        idx(&desk.vault).unwrap();
        fpr(&desk.vault).unwrap();
        work_off(&desk.vault);
        assert!(block_on(desk.vault.reseal_progress()).is_none());
        let desk = desk.reopened();
        let report = desk.verified();
        assert!(report.is_whole(), "{report:?}");
        assert_eq!((report.shredded, report.missing), (made.under.rows, 0));
        for (token, _) in &held {
            // Refusals of one second beyond the tenth are counted, not told singly.
            desk.wait_ms(1_000);
            assert_eq!(desk.web().paid(token), Err(Error::NotFound), "{engine}");
            assert_eq!(
                desk.last_refusal(),
                Some(Refusal::Shredded),
                "its row is found under its newest name"
            );
        }
        // A card and a customer that come again begin anew.
        let again = desk.web().stored(&held[0].1);
        assert!(held.iter().all(|(token, _)| !token.same_as(&again)));
        let of = Header { context: Context::new("customer-0", "", "").unwrap(), ..header() };
        let customers = desk.web().tokenize(&of, card(VISA)).unwrap_or_else(|e| panic!("{e}")).token;
        assert_eq!(desk.web().paid(&again).as_deref(), Ok(held[0].1.as_str()));
        assert_eq!(desk.web().paid(&customers).as_deref(), Ok(VISA));
        assert!(desk.verified().is_whole());
        // A row that somebody writes under the key's name is none that was shredded.
        let (key, mut row) = desk.rows(rows::CARD).into_iter().next().unwrap();
        let forged = [&key[..key.len() - 1], &[key[key.len() - 1] ^ 1]].concat();
        row.truncate(40);
        row.splice(1..5, old.0.to_be_bytes());
        for n in 0..10_u8 {
            desk.put(&[&forged[..forged.len() - 1], &[n]].concat(), &row);
        }
        assert!(!desk.verified().is_whole());
    }
}

#[test]
fn counters_survive_kills_of_the_server_and_are_listed() {
    let mut rig = Rig::new(Engine::Redb);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut before: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..5_u32 {
        let counts = runtime.block_on(async {
            let shop = rig.client("shop").await;
            for n in 0..20 {
                let (header, item) = store(round * 20 + n);
                shop.tokenize(header, item).await.unwrap_or_else(|e| panic!("{e}"));
            }
            let operator = rig.operator().await;
            let asked = vault_proto::v1::ListKeysRequest { count_rows: true, ..Default::default() };
            operator.list_keys(asked).await.unwrap_or_else(|e| panic!("{e}")).keys
        });
        for key in &counts {
            let was = before.get(&key.id).copied().unwrap_or(0);
            assert!(key.uses >= was, "key {} went from {was} to {}", key.id, key.uses);
        }
        let acme = |kind: vault_proto::v1::KeyKind| {
            counts.iter().find(|k| k.kind == i32::from(kind) && k.merchant == "acme" && k.primary).unwrap()
        };
        let dek = acme(vault_proto::v1::KeyKind::Dek);
        assert_eq!(dek.rows, Some(u64::from(round + 1) * 40), "cards and fingerprints");
        assert!(dek.uses >= u64::from(round + 1) * 40 && dek.use_limit == MAX_SEALS);
        assert!(dek.expires_at.is_some() && dek.wrapped_by == acme(vault_proto::v1::KeyKind::Kek).id);
        before = counts.iter().map(|k| (k.id.clone(), k.uses)).collect();
        rig.kill();
        rig.start();
    }
}

fn store(n: u32) -> (vault_proto::v1::RequestHeader, vault_proto::v1::TokenizeItem) {
    use vault_client::ask;
    use vault_client::v1::{Initiator, Purpose};
    let digits = vault_client::Zeroizing::new(number("4", 16, n).into_bytes());
    (ask::header("acme", "web", Purpose::Authorization, Initiator::Cardholder), ask::card(digits, None))
}

#[test]
fn what_rotation_heals_stands_in_the_security_document() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../SECURITY.md")).unwrap();
    for kind in KeyKind::ALL {
        let healing = healing(kind);
        let line = format!("| {} | {} | {} |", kind.as_str().to_uppercase(), healing.healed, healing.remains);
        assert!(text.contains(&line), "SECURITY.md lacks: {line}");
    }
}

#[test]
fn nobody_but_the_vault_is_named_where_it_replaced_a_key() {
    let desk = Desk::new(Engine::Redb);
    desk.wait_days(90);
    assert_eq!(block_on(desk.vault.replace_old_keys()), Ok(2));
    let size = block_on(desk.vault.checkpoint()).unwrap().checkpoint().size;
    let (_, _, entry) = block_on(desk.vault.entries(size - 1, 1)).unwrap().pop().unwrap();
    assert_eq!(entry.principal, Who::Vault);
    assert_eq!(block_on(desk.vault.under(active(&desk, KeyKind::Rcv).id)), Ok(Under::default()));
}

fn ran(rig: &Rig, page: &str, key: &str) -> String {
    let output = runbook::run(rig, page, &[("KEY", key)]);
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{page}: {told}\n{wrong}");
    told.into_owned()
}

/// A server with a few cards, and the ids and versions of acme's active keys by kind.
fn served() -> (Rig, tokio::runtime::Runtime) {
    let rig = Rig::new(Engine::Redb);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let shop = rig.client("shop").await;
        for n in 0..30 {
            let (header, item) = store(n);
            shop.tokenize(header, item).await.unwrap_or_else(|e| panic!("{e}"));
        }
    });
    (rig, runtime)
}

fn listed(rig: &Rig, runtime: &tokio::runtime::Runtime) -> Vec<vault_proto::v1::Key> {
    runtime.block_on(async {
        let keys = rig.operator().await.list_keys(Default::default()).await;
        keys.unwrap_or_else(|e| panic!("{e}")).keys.into_iter().filter(|k| k.merchant != "zenith").collect()
    })
}

fn of_kind(keys: &[vault_proto::v1::Key], kind: vault_proto::v1::KeyKind) -> Vec<vault_proto::v1::Key> {
    keys.iter().filter(|k| k.kind == i32::from(kind)).cloned().collect()
}

#[test]
fn the_page_on_a_yearly_rotation_is_what_to_type() {
    use vault_proto::v1::{KeyKind, KeyState};
    let (rig, runtime) = served();
    let before = of_kind(&listed(&rig, &runtime), KeyKind::Dek).remove(0).id;
    let told = ran(&rig, "yearly rotation", &before);
    assert!(told.contains(&format!("key {before} is destroyed")), "{told}");
    let keys = listed(&rig, &runtime);
    for kind in
        [KeyKind::Root, KeyKind::Ctl, KeyKind::Kek, KeyKind::Dek, KeyKind::Idx, KeyKind::Fpr, KeyKind::Rcv]
    {
        let newest = of_kind(&keys, kind).remove(0);
        assert_eq!((newest.version, newest.state()), (2, KeyState::Active), "{kind:?}");
    }
}

#[test]
fn the_page_on_a_suspected_theft_is_what_to_type() {
    use vault_proto::v1::{KeyKind, KeyState};
    let (rig, runtime) = served();
    let stolen = of_kind(&listed(&rig, &runtime), KeyKind::Dek).remove(0).id;
    let told = ran(&rig, "suspected key theft", &stolen);
    for said in ["60 rows", "30 of them of tokens", "not healed: in a copy from before", "is in its place"] {
        assert!(told.contains(said), "{said}: {told}");
    }
    let deks = of_kind(&listed(&rig, &runtime), KeyKind::Dek);
    let states: Vec<_> = deks.iter().map(|k| (k.version, k.state())).collect();
    assert_eq!(states, [(2, KeyState::Active), (1, KeyState::Destroyed)]);
    assert!(deks[1].compromised_at.is_some());
}

#[test]
fn a_key_goes_with_its_rows_only_when_its_number_is_typed_twice() {
    use std::process::{Command, Stdio};
    use vault_proto::v1::KeyKind;
    let (rig, runtime) = served();
    // The profile is the runbook's.
    let dek = of_kind(&listed(&rig, &runtime), KeyKind::Dek).remove(0).id;
    ran(&rig, "suspected key theft", &dek);
    let newest = of_kind(&listed(&rig, &runtime), KeyKind::Dek).remove(0).id;
    let vaultctl = |arguments: &[&str]| {
        let mut command = Command::new(vault_tests::server::program());
        command.args(arguments).env("VAULTCTL_PROFILE", rig.file("ops.toml")).stdin(Stdio::null());
        let output = command.output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(told).unwrap())
    };
    for (arguments, says) in [
        (vec!["keys", "destroy", &newest, "--crypto-shred"], "no terminal"),
        (vec!["keys", "destroy", &newest, "--crypto-shred", "--confirm", "1"], "not the key's number"),
        (vec!["keys", "destroy", &newest, "--crypto-shred", "--confirm", &newest], "rotate it first"),
        (vec!["keys", "destroy", &newest, "--confirm", &newest], "--crypto-shred"),
    ] {
        let (good, told) = vaultctl(&arguments);
        assert!(!good && told.contains(says), "{arguments:?}: {told}");
    }
    let (good, told) = vaultctl(&["keys", "show", &newest]);
    assert!(good && told.contains("60 rows"), "{told}");
    let (good, told) = vaultctl(&["--json", "keys", "list", "--rows", "--kind", "dek", "--merchant", "acme"]);
    let listed: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(good && listed[0]["rows"] == 60 && listed[0]["days_left"] == 364, "{told}");
    assert!(listed[0]["wrapped_by"].as_str().unwrap().ends_with("(kek)"), "{told}");
    // However many rows the server has sealed anew by then, the key goes with those that are left.
    let (good, told) = vaultctl(&["keys", "rotate", "dek", "--merchant", "acme"]);
    assert!(good, "{told}");
    let (good, told) = vaultctl(&["keys", "destroy", &newest, "--crypto-shred", "--confirm", &newest]);
    assert!(good && told.contains("becomes unreadable") && told.contains("opens no more"), "{told}");
    let (good, told) = vaultctl(&["keys", "destroy", &newest, "--crypto-shred", "--confirm", &newest]);
    assert!(!good && told.contains("destroyed already"), "{told}");
}
