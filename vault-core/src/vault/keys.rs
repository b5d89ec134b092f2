//! What there is to say of keys: where each is in its life, how much of its days and uses is over, and which ones the vault
//! replaces by itself because of that.
//!
//! Nothing here opens a row. What is told is never too low: a count is as it is counted ahead, see [`crate::uses`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::amend::{Amendment, Premise};
use super::rotate::{draw_link, draw_next, replace_adm, replace_ctl, superseded};
use super::{State, Vault};
use crate::audit::entry::Who;
use crate::control::{Compromised, Control, KeyRecord};
use crate::envelope::{Dek, Fpr, Idx, KeyId, KeyKind, Rcv};
use crate::error::Error;
use crate::name::MerchantName;
use crate::terms::{Renewal, Standing, Term, WARN_PERCENT};
use crate::time::Timestamp;
use crate::words::KeyState;

/// A key as `keys list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyLine {
    /// Its number.
    pub id: KeyId,
    /// Its kind.
    pub kind: KeyKind,
    /// Whose; none for the vault's own.
    pub merchant: Option<MerchantName>,
    /// The how many-eth of its kind for that merchant.
    pub version: u32,
    /// Where it is in its life.
    pub state: KeyState,
    /// When it was made.
    pub made_at: Timestamp,
    /// Under which key it is wrapped; none: the custodian holds it.
    pub under: Option<KeyId>,
    /// Since when no row is under it any more.
    pub drained_at: Option<Timestamp>,
    /// When it left the active state, as far as that was written down.
    pub deactivated_at: Option<Timestamp>,
    /// When its cryptoperiod ends; none if its kind has none.
    pub expires_at: Option<Timestamp>,
    /// How often it was used, never too low; none if its uses are not counted.
    pub uses: Option<u64>,
    /// After how many uses it stops; none if its kind has no limit.
    pub use_limit: Option<u64>,
    /// Since when, and why, somebody else may have it.
    pub compromised: Option<Compromised>,
}

impl KeyLine {
    /// How near the end of its days and of its uses a key is that protects new things. A key that does so no more is fresh.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        if self.state != KeyState::Active {
            return Standing::Fresh;
        }
        let days = self.expires_at.map_or(Standing::Fresh, |end| {
            Standing::of(now.ms_since(self.made_at), end.ms_since(self.made_at))
        });
        let uses = self.uses.zip(self.use_limit);
        days.max(uses.map_or(Standing::Fresh, |(uses, limit)| Standing::of(uses, limit)))
    }

    /// Percent of its days or of its uses that are over, whichever is more; at most 100.
    #[must_use]
    pub fn percent_over(&self, now: Timestamp) -> u64 {
        let percent = |over: u64, limit: u64| {
            let share = u128::from(over) * 100 / u128::from(limit.max(1));
            u64::try_from(share.min(100)).unwrap_or(100)
        };
        let days = self.expires_at.map(|end| percent(now.ms_since(self.made_at), end.ms_since(self.made_at)));
        let uses = self.uses.zip(self.use_limit).map(|(uses, limit)| percent(uses, limit));
        days.max(uses).unwrap_or(0)
    }

    /// What becomes of a key of this kind at its end.
    #[must_use]
    pub fn renewal(&self) -> Renewal {
        Term::longest(self.kind).renewal
    }
}

/// How far each key was when it was last told of.
#[derive(Default)]
pub(super) struct Told(Mutex<HashMap<KeyId, Standing>>);

impl Vault {
    /// Every key there ever was.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyLine> {
        let state = self.state();
        state.control.keys.iter().map(|key| line(&state, key)).collect()
    }

    /// The keys that have come nearer the end of their days or uses since this was last asked, and how near. A key that the
    /// vault replaces by itself is told of only once it is over: then it could not.
    #[must_use]
    pub fn watch_keys(&self) -> Vec<(KeyLine, Standing)> {
        let (now, state) = (self.now(), self.state());
        let mut told = self.inner.told.0.lock().unwrap_or_else(PoisonError::into_inner);
        let active = state.control.keys.iter().filter(|k| k.state == KeyState::Active);
        let mut nearer = Vec::new();
        for key in active {
            let line = line(&state, key);
            let standing = match (line.renewal(), line.standing(now)) {
                (Renewal::ByItself, Standing::Due | Standing::Urgent) => Standing::Fresh,
                (_, standing) => standing,
            };
            let before = told.insert(key.id, standing).unwrap_or(Standing::Fresh);
            if standing > before {
                nearer.push((line, standing));
            }
        }
        nearer
    }

    /// Replaces every key that the vault replaces by itself and whose days are over, or four fifths of its uses, as the vault
    /// itself. Returns how many there were.
    pub async fn replace_old_keys(&self) -> Result<usize, Error> {
        let by = |state: &State, key: &KeyRecord, now| by_days(state, key, now) || by_uses(state, key);
        self.replace_due(by).await
    }

    /// The same by uses alone: what may be asked often, and whatever the clock says.
    pub async fn replace_used_keys(&self) -> Result<usize, Error> {
        self.replace_due(|state, key, _| by_uses(state, key)).await
    }

    async fn replace_due(&self, due: impl Fn(&State, &KeyRecord, Timestamp) -> bool) -> Result<usize, Error> {
        let those = |state: &State, now| -> Vec<KeyRecord> {
            let active = state.control.keys.iter().filter(|k| k.state == KeyState::Active);
            let of_itself = |k: &&KeyRecord| {
                let own = Term::longest(k.kind).renewal == Renewal::ByItself && due(state, k, now);
                own || follows_late(&state.control, k)
            };
            active.filter(of_itself).cloned().collect()
        };
        if those(&self.state(), self.now()).is_empty() {
            return Ok(0);
        }
        let (_, replaced) = self
            .change_by(&Who::Vault, None, |premise, control| {
                let old = those(premise.state, premise.now);
                let mut all = Amendment::of(Vec::new(), old.len());
                for key in &old {
                    let one = successor(premise, control, key)?;
                    all.changes.extend(one.changes);
                    all.top = one.top.or(all.top);
                }
                Ok(all)
            })
            .await?;
        Ok(replaced)
    }
}

/// Whether a key of names was noted as compromised while rows were still being renamed, and they are no more.
fn follows_late(control: &Control, key: &KeyRecord) -> bool {
    let late = matches!(key.kind, KeyKind::Idx | KeyKind::Fpr) && control.is_compromised(key.id);
    late && control.not_followed(key).is_none()
}

/// The next version of a key that the vault replaces by itself.
fn successor(
    premise: &Premise<'_>,
    control: &mut Control,
    key: &KeyRecord,
) -> Result<Amendment<KeyId>, Error> {
    let merchant = || key.merchant.as_ref().ok_or_else(Error::internal);
    match key.kind {
        KeyKind::Dek => draw_next::<Dek>(premise, control, merchant()?),
        KeyKind::Rcv => draw_next::<Rcv>(premise, control, merchant()?),
        KeyKind::Kek => {
            Ok(superseded(&control.replace_kek(merchant()?, premise.state.top.root(), premise.now)?))
        }
        KeyKind::Ctl => replace_ctl(premise, control),
        KeyKind::Adm => replace_adm(premise, control),
        // Only one that somebody else may have.
        KeyKind::Idx => draw_link::<Idx>(premise, control, merchant()?),
        KeyKind::Fpr => draw_link::<Fpr>(premise, control, merchant()?),
        // Of these `Term::longest` says that they are not replaced by the vault itself.
        KeyKind::Root
        | KeyKind::Esk
        | KeyKind::Log
        | KeyKind::Trk
        | KeyKind::Ref
        | KeyKind::Idm
        | KeyKind::Fpk => Err(Error::internal()),
    }
}

fn by_days(state: &State, key: &KeyRecord, now: Timestamp) -> bool {
    let days = state.control.term(key.kind).days;
    days.is_some_and(|days| key.made_at.plus_days(days) <= now)
}

fn by_uses(state: &State, key: &KeyRecord) -> bool {
    let limit = state.control.term(key.kind).uses;
    let over = uses(state, key).zip(limit).map(|(uses, limit)| Standing::of(uses, limit));
    const { assert!(WARN_PERCENT < 100) };
    over.is_some_and(|standing| standing > Standing::Fresh)
}

/// How often a key was used, as far as anybody counts.
fn uses(state: &State, key: &KeyRecord) -> Option<u64> {
    match key.kind {
        KeyKind::Root | KeyKind::Kek => Some(state.control.wraps(key.id)),
        // Each version of Control is one seal; how many were made under a key that was replaced is not kept.
        KeyKind::Ctl if key.state == KeyState::Active => {
            let first = key.made_in.unwrap_or(1);
            Some(state.control.version.saturating_sub(first).saturating_add(1))
        }
        KeyKind::Ctl => None,
        KeyKind::Esk
        | KeyKind::Log
        | KeyKind::Adm
        | KeyKind::Dek
        | KeyKind::Idx
        | KeyKind::Fpr
        | KeyKind::Trk
        | KeyKind::Ref
        | KeyKind::Idm
        | KeyKind::Rcv
        | KeyKind::Fpk => state.uses.uses(key.id),
    }
}

pub(super) fn line(state: &State, key: &KeyRecord) -> KeyLine {
    let term = state.control.term(key.kind);
    KeyLine {
        id: key.id,
        kind: key.kind,
        merchant: key.merchant.clone(),
        version: key.version,
        state: key.state,
        made_at: key.made_at,
        under: key.under,
        drained_at: key.drained_at,
        deactivated_at: key.deactivated_at,
        expires_at: term.days.map(|days| key.made_at.plus_days(days)),
        uses: uses(state, key),
        use_limit: term.uses,
        compromised: key.compromised.clone(),
    }
}
