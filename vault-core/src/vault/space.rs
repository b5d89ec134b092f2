//! How much of a token space is used: what an operator asks, and is told, before it is used up.
//!
//! What is used of one space stands in its counter row, exactly. Beside it a node keeps in mind what it saw of the spaces that it
//! mints from: for each format the fullest one, and all that are scarce. That is lost with the process, and comes back with
//! the next token of a space.
//!
//! It holds no card number, and no digit of one: a space is kept in mind by merchant, format, length and keyed name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Vault;
use crate::error::Error;
use crate::iban::Country;
use crate::keyring::merchant_row;
use crate::name::{FormatName, MerchantName};
use crate::pattern::{Pattern, Space};
use crate::plan::{self, Kept};
use crate::policy::{FormatInForce, MerchantInForce};
use crate::record::{FormatId, MerchantId};
use crate::rows;
use crate::store::Value;
use crate::words::Kind;

/// From how many hundredths on a space is scarce. A fifth is left then, whatever its size: 800 tokens of the smallest of a
/// card, 180,000 of one that keeps 6+4. Time to give the channels another format on a working day.
pub const SCARCE_PERCENT: u8 = 80;

/// From how many hundredths on a space is nearly full. From here on 32 draws miss one time in five, and a small space is
/// walked: its tokens begin to cost up to a million look-ups each. Time to act today.
pub const NEARLY_FULL_PERCENT: u8 = 95;

/// From how many tokens on a space is not watched: its rows would fill a petabyte before it is scarce.
const ENDLESS: u128 = 1_000_000_000_000;

/// How many scarce spaces a node keeps in mind, some 20 MiB: of 3,200 tokens each or more, so two hundred
/// million tokens at the least. Of more the counter is right, but nobody is told.
const SCARCE_SPACES: usize = 65_536;

/// How many spaces minted from are remembered until they are looked at: more than a node mints tokens in a second.
const MINTED_SPACES: usize = 65_536;

/// How many counters are read at once: bounded memory.
const COUNTERS: usize = 1_000;

/// How full a space is, in the steps at which an operator is told. Ordered: it never falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpaceState {
    /// Less than four fifths are used.
    Roomy,
    /// [`SCARCE_PERCENT`] or more are used.
    Scarce,
    /// [`NEARLY_FULL_PERCENT`] or more are used.
    NearlyFull,
    /// All are used, or a card was refused since no token was found: of a space too large to be walked a few may be left
    /// then, and tokens that came with an import take room without being counted.
    UsedUp,
}

/// A token space, and what of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceUse {
    /// Its name in the store: 16 bytes of HMAC, which tell nothing of the digits that its tokens keep.
    pub id: [u8; 16],
    /// Characters of its tokens; 0 of opaque ones, which are all of one length.
    pub length: usize,
    /// How many tokens there are; `u128::MAX` where they are more than that holds.
    pub tokens: u128,
    /// How many were given out, those that were revoked since included.
    pub used: u64,
}

impl SpaceUse {
    /// How many were not given out yet; `u128::MAX` as of [`tokens`](Self::tokens).
    #[must_use]
    pub fn left(&self) -> u128 {
        if self.tokens == u128::MAX { u128::MAX } else { self.tokens.saturating_sub(self.used.into()) }
    }

    /// How much is used, in parts of 10,000, rounded down.
    #[must_use]
    pub fn share(&self) -> u16 {
        let share = u128::from(self.used) * 10_000 / self.tokens.max(1);
        u16::try_from(share.min(10_000)).unwrap_or(10_000)
    }

    /// How full it is by its counter.
    #[must_use]
    pub fn state(&self) -> SpaceState {
        let used = u128::from(self.used);
        let at = |percent: u8| used * 100 >= self.tokens.saturating_mul(percent.into());
        if used >= self.tokens {
            SpaceState::UsedUp
        } else if at(NEARLY_FULL_PERCENT) {
            SpaceState::NearlyFull
        } else if at(SCARCE_PERCENT) {
            SpaceState::Scarce
        } else {
            SpaceState::Roomy
        }
    }
}

/// A space that this node has minted from, as it saw it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownSpace {
    /// Whose it is.
    pub merchant: MerchantName,
    /// The format that minted. Formats of one scheme that keep the same characters share spaces: each has its own line.
    pub format: FormatName,
    /// What of it is used.
    pub space: SpaceUse,
    /// How full it is.
    pub state: SpaceState,
}

/// What this node has seen of one format's spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatSpaces {
    /// Whose it is.
    pub merchant: MerchantName,
    /// Which one.
    pub format: FormatName,
    /// How much of its fullest space is used, in parts of 10,000.
    pub fullest: u16,
    /// How many of its spaces are scarce or worse.
    pub scarce: usize,
}

impl Vault {
    /// How much is used of the space that a format's tokens of values of `length` characters come from which begin and end
    /// as `kept` says; of IBANs, of `country`.
    ///
    /// Errors: malformed where nothing is named so, where the format takes no such value, and where fewer digits are said
    /// than its tokens keep: that is no one space.
    pub async fn space_use(
        &self,
        merchant: &MerchantName,
        format: &FormatName,
        length: usize,
        country: Option<Country>,
        kept: Kept<'_>,
    ) -> Result<SpaceUse, Error> {
        let state = self.state();
        let unknown = |field| Error::malformed(field, "names nothing in the policy");
        let merchant = state.rules.merchant(merchant).ok_or_else(|| unknown("merchant"))?;
        let format = merchant.format_by_name(format).ok_or_else(|| unknown("format"))?;
        let wrong = || Error::malformed("space", "is none of this format's: see what its tokens keep");
        let sample = plan::sample(format.format.kind(), length, country, kept).map_err(|_| wrong())?;
        let space = Space::of(&format.format, &sample, merchant.ff1_slots).ok_or_else(wrong)?;
        if !is_whole(&space, kept) {
            return Err(wrong());
        }
        let id = state.keyring.space(merchant.id, &space)?;
        let row = self.inner.store.get(&[merchant_row(rows::SPACE, merchant.id, &id)]).await?;
        Ok(SpaceUse {
            id,
            length: space.length(),
            tokens: space.size(),
            used: count(row.into_iter().next().flatten()),
        })
    }

    /// Looks at the counters of the spaces that this node minted from since the last call, and gives those that became
    /// scarcer: each space once for each step while the vault is open, those that were so before it was opened included,
    /// and only the last where several steps came at once.
    ///
    /// Whoever keeps a vault open calls it now and then; the server does each second. A step that an error hid is told with
    /// the next token of its space.
    pub async fn watch_spaces(&self) -> Result<Vec<KnownSpace>, Error> {
        let minted = self.inner.spaces.take();
        let mut scarcer = Vec::new();
        for page in minted.chunks(COUNTERS) {
            let keys: Vec<_> = page.iter().map(|m| merchant_row(rows::SPACE, m.merchant.id, &m.id)).collect();
            match self.inner.store.get(&keys).await {
                Ok(counters) => scarcer.extend(self.inner.spaces.learn(page, counters)),
                // What the pages before told is told now or never.
                Err(_) if !scarcer.is_empty() => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(scarcer)
    }

    /// The spaces that this node knows since it was opened, as [`watch_spaces`](Self::watch_spaces) saw them last, fullest
    /// first: of each format the fullest, and all that are scarce. Of one merchant, and of one format, where that is said.
    #[must_use]
    pub fn fullest_spaces(
        &self,
        merchant: Option<&MerchantName>,
        format: Option<&FormatName>,
    ) -> Vec<KnownSpace> {
        let named = |known: &&KnownSpace| {
            merchant.is_none_or(|name| known.merchant == *name)
                && format.is_none_or(|name| known.format == *name)
        };
        let mut all: Vec<KnownSpace> = {
            let seen = self.inner.spaces.seen();
            seen.formats.values().flat_map(OfFormat::spaces).filter(named).cloned().collect()
        };
        all.sort_by(|a, b| {
            (b.state, b.space.share(), a.space.id).cmp(&(a.state, a.space.share(), b.space.id))
        });
        all
    }

    /// What this node knows of each format that it has minted for since it was opened, in no order.
    #[must_use]
    pub fn format_spaces(&self) -> Vec<FormatSpaces> {
        let seen = self.inner.spaces.seen();
        let told = |of: &OfFormat| FormatSpaces {
            merchant: of.fullest.merchant.clone(),
            format: of.fullest.format.clone(),
            fullest: of.fullest.space.share(),
            scarce: of.scarce.len(),
        };
        seen.formats.values().map(told).collect()
    }
}

/// Whether all that the space's tokens keep was said.
fn is_whole(space: &Space, kept: Kept<'_>) -> bool {
    let says = |first: usize, last: usize| kept.first.len() >= first && kept.last.len() >= last;
    match space {
        Space::Number(shape) => says(shape.keep().first().into(), shape.keep().last().into()),
        Space::Pattern(pattern) => match pattern.kind() {
            Kind::Card | Kind::NetworkToken | Kind::Digits => says(0, kept_behind(pattern)),
            Kind::UsAccount | Kind::Phone => says(1, 0),
            Kind::Reference | Kind::Iban | Kind::Email | Kind::Bytes => true,
        },
        Space::Opaque(_) => true,
    }
}

fn kept_behind(pattern: &Pattern) -> usize {
    pattern.outline().iter().rev().take_while(|place| **place != b'?').count()
}

/// A counter row's number; none is zero.
pub(super) fn count(row: Option<Value>) -> u64 {
    row.and_then(|v| v.try_into().ok()).map_or(0, u64::from_be_bytes)
}

type Name = (MerchantId, FormatId, [u8; 16]);

/// A space that a round minted from, or found nothing in.
pub(super) struct Minted {
    merchant: Arc<MerchantInForce>,
    format: Arc<FormatInForce>,
    length: usize,
    id: [u8; 16],
    tokens: u128,
    refused: bool,
}

/// The spaces of one round, each once.
#[derive(Default)]
pub(super) struct MintedSpaces(HashMap<Name, Minted>);

impl MintedSpaces {
    /// Notes a token of this space, or that there was none for a card. Endless ones are passed over.
    pub(super) fn note(
        &mut self,
        of: (&Arc<MerchantInForce>, &Arc<FormatInForce>),
        (id, space): ([u8; 16], &Space),
        refused: bool,
    ) {
        let (merchant, format) = of;
        let tokens = space.size();
        if tokens >= ENDLESS {
            return;
        }
        let noted = self.0.entry((merchant.id, format.id, id)).or_insert_with(|| {
            let (merchant, format) = (merchant.clone(), format.clone());
            Minted { merchant, format, length: space.length(), id, tokens, refused }
        });
        noted.refused |= refused;
    }
}

/// What a node has in mind of the spaces that it mints from.
#[derive(Default)]
pub(super) struct Watch(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// Minted from since they were looked at last.
    minted: HashMap<Name, Minted>,
    formats: HashMap<(MerchantId, FormatId), OfFormat>,
    /// How many are scarce, of all formats.
    scarce: usize,
}

struct OfFormat {
    fullest: KnownSpace,
    scarce: HashMap<[u8; 16], KnownSpace>,
}

impl OfFormat {
    /// The scarce ones, and the fullest where that is not one of them.
    fn spaces(&self) -> impl Iterator<Item = &KnownSpace> {
        let listed = self.scarce.contains_key(&self.fullest.space.id);
        self.scarce.values().chain((!listed).then_some(&self.fullest))
    }
}

impl Watch {
    /// Takes over what a round has minted from, once it is on disk. What is too much is noted with the next token.
    pub(super) fn note(&self, round: MintedSpaces) {
        if round.0.is_empty() {
            return;
        }
        let mut seen = self.seen();
        for (name, minted) in round.0 {
            if let Some(before) = seen.minted.get_mut(&name) {
                before.refused |= minted.refused;
            } else if seen.minted.len() < MINTED_SPACES {
                seen.minted.insert(name, minted);
            }
        }
    }

    fn take(&self) -> Vec<Minted> {
        std::mem::take(&mut self.seen().minted).into_values().collect()
    }

    /// Takes in what the counters of these spaces say, and gives those that became scarcer.
    fn learn(&self, minted: &[Minted], counters: Vec<Option<Value>>) -> Vec<KnownSpace> {
        let mut seen = self.seen();
        minted.iter().zip(counters).filter_map(|(minted, row)| seen.learn(minted, count(row))).collect()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// One space; given where it is scarcer than it was known to be.
    fn learn(&mut self, minted: &Minted, used: u64) -> Option<KnownSpace> {
        let space = SpaceUse { id: minted.id, length: minted.length, tokens: minted.tokens, used };
        let state = if minted.refused { SpaceState::UsedUp } else { space.state() };
        let (merchant, format) = (minted.merchant.name.clone(), minted.format.name.clone());
        let mut known = KnownSpace { merchant, format, space, state };
        let name = (minted.merchant.id, minted.format.id);
        let of = self
            .formats
            .entry(name)
            .or_insert_with(|| OfFormat { fullest: known.clone(), scarce: HashMap::new() });
        let before = of.scarce.get(&space.id).map_or(SpaceState::Roomy, |known| known.state);
        known.state = state.max(before);
        if of.fullest.space.id == space.id || of.fullest.space.share() < space.share() {
            of.fullest = known.clone();
        }
        if known.state == SpaceState::Roomy {
            return None;
        }
        if before == SpaceState::Roomy {
            if self.scarce >= SCARCE_SPACES {
                return None;
            }
            self.scarce += 1;
        }
        of.scarce.insert(space.id, known.clone());
        (known.state > before).then_some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_of_any_size_becomes_scarce_nearly_full_and_used_up_at_the_token_that_makes_it_so() {
        for (tokens, scarce, nearly_full) in [
            (1_u128, 1, 1),
            (4, 4, 4),
            (10, 8, 10),
            (4_000, 3_200, 3_800),
            (9_000, 7_200, 8_550),
            (900_000, 720_000, 855_000),
            (1_669_616, 1_335_693, 1_586_136),
            (ENDLESS, 800_000_000_000, 950_000_000_000),
        ] {
            let full = u64::try_from(tokens).unwrap();
            let at = |used| SpaceUse { id: [0; 16], length: 16, tokens, used };
            for (used, reached) in [
                (scarce, SpaceState::Scarce),
                (nearly_full, SpaceState::NearlyFull),
                (full, SpaceState::UsedUp),
            ] {
                assert!(at(used).state() >= reached && at(used - 1).state() < reached, "{used} of {tokens}");
            }
            assert_eq!((at(full).share(), at(full).left(), at(0).share()), (10_000, 0, 0));
            // Only a full one shows as such, and one that was counted over the top is no more than full.
            assert!(at(full - 1).share() < 10_000);
            assert_eq!((at(u64::MAX).share(), at(u64::MAX).left()), (10_000, 0));
            assert_eq!(at(u64::MAX).state(), SpaceState::UsedUp);
        }
        let opaque = SpaceUse { id: [0; 16], length: 16, tokens: u128::MAX, used: u64::MAX };
        assert_eq!((opaque.state(), opaque.share(), opaque.left()), (SpaceState::Roomy, 0, u128::MAX));
    }
}
