//! Whatever happens to a vault, in whatever order: every living token opens to its card, none other does, and nothing that
//! counts goes back.
//!
//! Random sequences of verbs, rotations, compromises, kills and restarts are played against a vault and against a plain model
//! of it. A kill is a store that dies at some commit, before it or after it: whoever asked learns nothing, and asks again.
//! What fails prints its seed and its steps; a run prints how often it did what.

mod custody;
mod dice;
mod keys;
mod store;
mod tokens;
mod vaultless;
mod world;

use std::collections::BTreeMap;

use pollster::block_on;
use vault_core::store::Engine;

use world::World;

/// Sequences of one run.
fn sequences(scaled: u64) -> u64 {
    if std::env::var_os("VAULT_LONG").is_some() { scaled * 40 } else { scaled }
}

/// Steps of one sequence.
const LENGTH: usize = 60;

/// What may happen next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Tokenize,
    Check,
    Revoke,
    Disable,
    Enable,
    Replace,
    DeleteCard,
    Erase,
    TokenizeEdge,
    CheckEdge,
    RotateEdge,
    Rotate,
    Compromise,
    Shred,
    Upgrade,
    Destroy,
    Work,
    AddCustodian,
    RemoveCustodian,
    ChangeCustodian,
    Restart,
    Kill,
    Sweep,
    Wait,
}

/// The steps, and how often each is taken in the sum of all.
const STEPS: [(Step, usize); 24] = [
    (Step::Tokenize, 25),
    (Step::Check, 18),
    (Step::Revoke, 4),
    (Step::Disable, 3),
    (Step::Enable, 4),
    (Step::Replace, 5),
    (Step::DeleteCard, 2),
    (Step::Erase, 2),
    (Step::TokenizeEdge, 5),
    (Step::CheckEdge, 2),
    (Step::RotateEdge, 3),
    (Step::Rotate, 12),
    (Step::Compromise, 6),
    (Step::Shred, 2),
    (Step::Upgrade, 3),
    (Step::Destroy, 2),
    (Step::Work, 9),
    (Step::AddCustodian, 3),
    (Step::RemoveCustodian, 3),
    (Step::ChangeCustodian, 2),
    (Step::Restart, 4),
    (Step::Kill, 5),
    (Step::Sweep, 1),
    (Step::Wait, 2),
];

/// What a run that is large enough has done at least once, beside every step: else it shows less than it seems to.
const DONE: &[&str] = &[
    "compromise adm",
    "compromise ctl",
    "compromise dek",
    "compromise esk",
    "compromise fpk",
    "compromise fpr",
    "compromise idx",
    "compromise kek",
    "compromise log",
    "compromise rcv",
    "compromise refused",
    "compromise root",
    "compromise trk",
    "custodian add",
    "custodian add refused",
    "custodian change",
    "custodian change refused",
    "custodian remove",
    "custodian remove refused",
    "destroy dek",
    "shred",
    "shred refused",
    "shred, some lost",
    "slot opened",
    "slot refused",
    "upgrade",
    "upgrade, others stay",
    "vaultless",
    "vaultless of an earlier slot opened",
    "vaultless opened",
    "vaultless refused",
];

impl Step {
    fn thrown(world: &mut World) -> Self {
        let mut left = world.dice.below(STEPS.iter().map(|(_, weight)| weight).sum());
        for (step, weight) in STEPS {
            if left < weight {
                return step;
            }
            left -= weight;
        }
        unreachable!("less than the sum of all was thrown")
    }

    fn play(self, world: &mut World) {
        world.told.push(format!("{self:?}"));
        world.did(&format!("{self:?}"));
        match self {
            Self::Tokenize => world.tokenize(),
            Self::Check => {
                if let Some(at) = world.pick() {
                    world.check(at);
                }
            }
            Self::Revoke => world.revoke(),
            Self::Disable => world.disable(true),
            Self::Enable => world.disable(false),
            Self::Replace => world.replace(),
            Self::DeleteCard => world.delete_card(),
            Self::Erase => world.erase(),
            Self::TokenizeEdge => world.tokenize_edge(),
            Self::CheckEdge => world.check_edge(),
            Self::RotateEdge => world.rotate_edge(),
            Self::Rotate => world.rotate(),
            Self::Compromise => world.compromise(),
            Self::Shred => world.shred(),
            Self::Upgrade => world.upgrade(),
            Self::Destroy => world.destroy(),
            Self::Work => world.work(),
            Self::AddCustodian => world.add_custodian(),
            Self::RemoveCustodian => world.remove_custodian(),
            Self::ChangeCustodian => world.change_custodian(),
            Self::Restart => world.restart(),
            Self::Kill => {
                let (nth, after) = (1 + world.dice.below(6) as i64, world.dice.below(2) == 0);
                world.mortal().die_at(nth, after);
            }
            Self::Sweep => {
                let (told, _) = world.ask(|desk, _| block_on(desk.vault.sweep()));
                told.unwrap_or_else(|e| panic!("{e}"));
            }
            // An hour, or days: what is kept for a while is not needed any more.
            Self::Wait => {
                let hours = [1, 60][world.dice.below(2)];
                world.desk().wait_ms(hours * 3_600_000);
            }
        }
        world.look();
    }
}

fn play(engine: Engine, seeds: std::ops::Range<u64>) -> BTreeMap<String, usize> {
    let (count, mut did) = (seeds.end - seeds.start, BTreeMap::new());
    for seed in seeds {
        let mut world = World::new(seed, engine);
        for _ in 0..LENGTH {
            Step::thrown(&mut world).play(&mut world);
        }
        world.end();
        for (what, times) in std::mem::take(&mut world.did) {
            *did.entry(what).or_default() += times;
        }
    }
    let told: Vec<String> = did.iter().map(|(what, times)| format!("{times} {what}")).collect();
    println!("{count} sequences on {engine}: {}", told.join("; "));
    did
}

#[test]
fn a_vault_in_memory_does_what_the_model_says() {
    let did = play(Engine::Memory, 0..sequences(100));
    let steps = STEPS.iter().map(|(step, _)| format!("{step:?}"));
    for what in steps.chain(DONE.iter().map(|what| (*what).to_owned())) {
        assert!(did.contains_key(&what), "it never did this: {what}");
    }
}

#[test]
fn a_vault_on_redb_does_what_the_model_says() {
    play(Engine::Redb, 10_000..10_000 + sequences(8));
}

#[test]
fn a_vault_on_sled_does_what_the_model_says() {
    play(Engine::Sled, 20_000..20_000 + sequences(8));
}
