//! Keys: they are rotated, noted as compromised, destroyed, and shredded with what is under them.

use std::collections::HashSet;

use pollster::block_on;
use vault_core::envelope::{KeyId, KeyKind};
use vault_core::error::Error;
use vault_core::token::Token;
use vault_core::vault::{ErasureStep, KeyLine, ResealStep, Vault};
use vault_core::words::{CompromiseReason, KeyState};
use vault_tests::desk::{merchant_name, principal};

use super::custody::{lent, opening};
use super::tokens::Row;
use super::world::World;

/// The kinds that are rotated with nothing more to be said; that of vaultless tokens has a step of its own.
const ROTATED: [KeyKind; 11] = [
    KeyKind::Dek,
    KeyKind::Idx,
    KeyKind::Fpr,
    KeyKind::Kek,
    KeyKind::Ctl,
    KeyKind::Root,
    KeyKind::Rcv,
    KeyKind::Trk,
    KeyKind::Log,
    KeyKind::Adm,
    KeyKind::Esk,
];

/// The kinds that may be noted as compromised: all, and slots more often, of which there are few.
const COMPROMISED: [KeyKind; 16] = [
    KeyKind::Root,
    KeyKind::Esk,
    KeyKind::Ctl,
    KeyKind::Log,
    KeyKind::Adm,
    KeyKind::Kek,
    KeyKind::Dek,
    KeyKind::Idx,
    KeyKind::Fpr,
    KeyKind::Trk,
    KeyKind::Fpk,
    KeyKind::Fpk,
    KeyKind::Fpk,
    KeyKind::Rcv,
    KeyKind::Ref,
    KeyKind::Idm,
];

/// How many slots there are for vaultless tokens.
const SLOTS: usize = 5;

/// Whether a row is under this data encryption key, whose number it begins with.
fn is_under(key: KeyId, (_, row): &Row) -> bool {
    row[1..5] == key.0.to_be_bytes()
}

fn rotated(vault: &Vault, kind: KeyKind, who: &[u8]) -> Result<(), Error> {
    let (olga, acme, open) = (principal("olga"), merchant_name("acme"), opening(who));
    let made = block_on(async {
        match kind {
            KeyKind::Dek => vault.rotate_dek(&olga, &acme, None).await,
            KeyKind::Idx => vault.rotate_idx(&olga, &acme, None).await,
            KeyKind::Fpr => vault.rotate_fpr(&olga, &acme, None).await,
            KeyKind::Kek => vault.rotate_kek(&olga, &acme, None).await,
            KeyKind::Ctl => vault.rotate_ctl(&olga, None).await,
            KeyKind::Root => vault.rotate_root(&olga, &lent(&open), None).await,
            KeyKind::Rcv => vault.rotate_rcv(&olga, &acme, None).await,
            KeyKind::Trk => vault.rotate_trk(&olga, &acme, None).await,
            KeyKind::Log => vault.rotate_log(&olga, None).await,
            KeyKind::Adm => vault.rotate_adm(&olga, None).await,
            KeyKind::Esk => vault.rotate_esk(&olga, &lent(&open), None).await,
            KeyKind::Fpk | KeyKind::Ref | KeyKind::Idm => panic!("not rotated so"),
        }
    });
    made.map(|_| ())
}

impl World {
    /// Whether rows or customers still move from an older version of this kind, so that it has to wait for its next one.
    fn is_moving(&self, kind: KeyKind) -> bool {
        let over = |k: &KeyLine| !matches!(k.state, KeyState::Active | KeyState::Destroyed);
        let mut older = self.keys(kind).into_iter().filter(over);
        match kind {
            KeyKind::Idx | KeyKind::Fpr => older.any(|k| k.drained_at.is_none()),
            KeyKind::Esk => older.next().is_some(),
            _ => false,
        }
    }

    pub(super) fn rotate(&mut self) {
        let kind = ROTATED[self.dice.below(ROTATED.len())];
        let waits = self.is_moving(kind);
        let (told, again) = self.ask(|desk, who| rotated(&desk.vault, kind, who));
        match told {
            Ok(()) => assert!(!waits),
            Err(e) => assert!(waits || again, "{}: {e}", kind.as_str()),
        }
        self.did(&format!("rotate {}{}", kind.as_str(), if waits { " refused" } else { "" }));
    }

    /// Somebody else may have a key: the next one is there at once, and it is said once.
    pub(super) fn compromise(&mut self) {
        let kind = COMPROMISED[self.dice.below(COMPROMISED.len())];
        // The last slot is another case than the others, and seldom reached.
        if kind == KeyKind::Fpk && self.dice.below(3) == 0 {
            (0..SLOTS).for_each(|_| self.open_slot());
        }
        let all = self.keys(kind);
        let in_use = all.iter().filter(|k| k.state == KeyState::Active).cloned();
        let in_use = self.dice.one_of(in_use).filter(|_| self.dice.below(2) == 0);
        let Some(before) = in_use.or_else(|| self.dice.one_of(all)) else { return };
        let follows = before.state == KeyState::Active && !self.has_no_next(kind);
        let is_new = before.state != KeyState::Destroyed && before.compromised.is_none();
        let (told, again) = self.compromise_key(before.id);
        assert!(told.is_ok() == is_new || again, "{} {before:?}: {told:?}", kind.as_str());
        let now = self.keys(kind).into_iter().find(|k| k.id == before.id).unwrap();
        if !is_new {
            return self.did("compromise refused");
        }
        assert!(now.compromised.is_some());
        if follows {
            assert!(matches!(now.state, KeyState::Compromised | KeyState::Destroyed), "{now:?}");
            let next = self.keys(kind).into_iter().filter(|k| k.state == KeyState::Active);
            assert_eq!(next.map(|k| k.version).collect::<Vec<_>>(), [before.version + 1]);
            assert!(!self.wraps_anything(before.id), "{} {}", kind.as_str(), before.id.0);
        }
        self.look_under_old_keys();
        let (told, _) = self.compromise_key(before.id);
        assert!(matches!(told, Err(Error::Malformed { field: "key", .. })), "noted twice: {told:?}");
        if kind == KeyKind::Fpk {
            self.tokenize_edge();
        }
        let next = if follows { "" } else { ", none follows" };
        self.did(&format!("compromise {}{next}", kind.as_str()));
    }

    /// Whether an active key of this kind goes on, or ends, with none in its place.
    fn has_no_next(&self, kind: KeyKind) -> bool {
        let last_slot = kind == KeyKind::Fpk && self.keys(kind).len() >= SLOTS;
        matches!(kind, KeyKind::Ref | KeyKind::Idm) || last_slot || self.is_moving(kind)
    }

    fn wraps_anything(&self, id: KeyId) -> bool {
        self.vault().keys().iter().any(|k| k.under == Some(id) && k.state != KeyState::Destroyed)
    }

    fn compromise_key(&mut self, key: KeyId) -> (Result<(), Error>, bool) {
        self.ask(|desk, who| {
            let (olga, open, why) = (principal("olga"), opening(who), (CompromiseReason::Drill, Some("why")));
            block_on(desk.vault.compromise_key(&olga, key, why, &lent(&open), None)).map(|_| ())
        })
    }

    /// A key goes with what is under it: those tokens and fingerprints, and nothing else.
    pub(super) fn shred(&mut self) {
        let may_go = |key: &KeyLine| !matches!(key.state, KeyState::Active | KeyState::Destroyed);
        if !self.keys(KeyKind::Dek).iter().any(may_go) && self.dice.below(2) == 0 {
            let (told, again) = self.ask(|desk, who| rotated(&desk.vault, KeyKind::Dek, who));
            assert!(told.is_ok() || again, "{told:?}");
            (0..3).for_each(|_| self.tokenize());
        }
        let all = self.keys(KeyKind::Dek);
        let over = all.iter().filter(|key| may_go(key)).cloned();
        let over = self.dice.one_of(over).filter(|_| self.dice.below(8) > 0);
        let key = over.unwrap_or_else(|| self.dice.one_of(all).unwrap());
        let allowed = may_go(&key);
        let (tokens, fingerprints) = self.rows_by_token();
        let lost = |row: &&Row| allowed && is_under(key.id, row);
        let under = tokens.iter().chain(fingerprints.iter().map(|(_, row)| row)).filter(lost).count();
        let (told, again) = self.ask(|desk, _| {
            let made = block_on(desk.vault.shred_key(&principal("olga"), key.id, None));
            made.map(|made| made.under)
        });
        assert!(told.is_ok() == allowed || again, "{key:?}: {told:?}");
        if !allowed {
            return self.did("shred refused");
        }
        let cards = tokens.iter().filter(lost).count();
        if let Ok(told) = told {
            assert_eq!((told.cards, told.rows), (cards as u64, under as u64), "{told:?}");
        }
        for (known, row) in self.tokens.iter_mut().zip(&tokens) {
            known.lost |= is_under(key.id, row);
            known.ended |= known.lost;
        }
        for (alike, _) in fingerprints.iter().filter(|(_, row)| is_under(key.id, row)) {
            self.reuse.remove(alike);
        }
        self.did(if cards == 0 { "shred, nothing lost" } else { "shred" });
        if under > cards && cards < tokens.len() {
            self.did("shred, some lost");
        }
        for at in 0..self.tokens.len() {
            self.check(at);
        }
    }

    /// Tokens that are brought are under the token root key of now: if they are all, no token is under another.
    pub(super) fn upgrade(&mut self) {
        let all = self.dice.below(2) == 0;
        let given: Vec<usize> = (0..self.tokens.len()).filter(|_| all || self.dice.below(2) == 0).collect();
        let tokens: Vec<Token> = given.iter().map(|at| self.tokens[*at].token.copy()).collect();
        let mut upgrade = || {
            let (told, again) = self.ask(|desk, _| {
                let tokens: Vec<Token> = tokens.iter().map(Token::copy).collect();
                block_on(desk.vault.upgrade_tokens(&principal("olga"), &merchant_name("acme"), &tokens))
            });
            (told.unwrap_or_else(|e| panic!("{e}")), again)
        };
        let ((first, _), (second, _)) = (upgrade(), upgrade());
        assert_eq!(first.upgraded + first.current, given.len() as u64, "{first:?}");
        assert_eq!((second.upgraded, second.current), (0, given.len() as u64), "{second:?}");
        let (told, _) = self.ask(|desk, _| block_on(desk.vault.token_roots(&merchant_name("acme"))));
        let roots = told.unwrap_or_else(|e| panic!("{e}"));
        let older: HashSet<KeyId> =
            self.keys(KeyKind::Trk).iter().filter(|k| k.state != KeyState::Active).map(|k| k.id).collect();
        let left: u64 = roots.cards.iter().filter(|(key, _)| older.contains(key)).map(|(_, n)| n).sum();
        assert!(!all || left == 0, "{roots:?}");
        self.did(if first.upgraded == 0 { "upgrade, nothing moved" } else { "upgrade" });
        if left > 0 {
            self.did("upgrade, others stay");
        }
    }

    /// The work behind rotations and erasures, as far as it comes.
    pub(super) fn work(&mut self) {
        for _ in 0..=self.dice.below(6) {
            let (told, _) = self.ask(|desk, _| block_on(desk.vault.reseal()));
            let step = told.unwrap_or_else(|e| panic!("{e}"));
            assert!(!matches!(step, ResealStep::Stuck { .. }));
            let (told, _) = self.ask(|desk, _| block_on(desk.vault.erasing()));
            let step = told.unwrap_or_else(|e| panic!("{e}"));
            assert!(!matches!(step, ErasureStep::Stuck { .. }));
            if step == ErasureStep::Due {
                let (told, again) =
                    self.ask(|desk, who| block_on(desk.vault.follow_esk(&lent(&opening(who)))).map(|_| ()));
                assert!(told.is_ok() || again, "{told:?}");
                self.did("erasure key followed");
            }
        }
    }

    /// Destroys a drained key, if there is one.
    pub(super) fn destroy(&mut self) {
        let drained = |k: &KeyLine| k.drained_at.is_some() && k.state == KeyState::Deactivated;
        let all = [self.keys(KeyKind::Dek), self.keys(KeyKind::Trk)].concat();
        let Some(key) = self.dice.one_of(all.into_iter().filter(drained)) else { return };
        let (told, again) = self
            .ask(|desk, _| block_on(desk.vault.destroy_key(&principal("olga"), key.id, None)).map(|_| ()));
        assert!(told.is_ok() || again, "{told:?}");
        self.did(&format!("destroy {}", key.kind.as_str()));
    }
}
