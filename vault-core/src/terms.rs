//! How long a key may protect new things, and how often: the terms of each kind (NIST SP 800-57 Part 1 Rev. 5, 5.3.6).
//!
//! What is here is the most that there is: a policy shortens a term and never lengthens it. A kind that has no limit of
//! days or of uses says why at its line.

use crate::envelope::KeyKind;
use crate::sealed::PERIOD_DAYS;

/// Days of a key that wraps keys or seals rows and can be replaced at no cost: yearly, within the two years of table 1.
pub const PERIOD_SEALING_DAYS: u32 = 365;

/// Days of the root, whose replacement asks its custodian: the two years of table 1 for a key-wrapping key.
pub const PERIOD_ROOT_DAYS: u32 = 730;

/// Days of a key from which others are derived: table 1 says about one year.
pub const PERIOD_DERIVING_DAYS: u32 = 365;

/// Days of a key that names rows: the two years of table 1 for a symmetric authentication key. Sixteen links of two years
/// are the life of a merchant.
pub const PERIOD_NAMING_DAYS: u32 = 730;

/// Days of a log's signing key: within the one to three years of table 1 for a private signature key.
pub const PERIOD_SIGNING_DAYS: u32 = 730;

/// Days of the erasure epoch key and of the administration key: the two years of table 1 for a data encryption key.
pub const PERIOD_OWN_DAYS: u32 = 730;

/// Days of a vaultless slot's key: two years of table 1, and five slots are then ten years of a merchant.
pub const PERIOD_SLOT_DAYS: u32 = 730;

/// How many seals one key makes at the most. XAES-256-GCM itself goes on for 2^80 messages at a risk of 2^-32 that two nonces
/// meet (C2SP, XAES-256-GCM). This is earlier on purpose: at 2^40 seals nonces meet with 2^-113, the subkeys, two AES blocks a
/// seal, are still told from random with less than 2^-46, and no walk over what one key sealed is longer than that.
pub const MAX_SEALS: u64 = 1 << 40;

/// The fewest seals that a policy may leave a key: fewer would be used up by one busy start of a vault.
pub const LEAST_SEALS: u64 = 1 << 20;

/// Percent of a limit from which an operator is warned, and at which a key that rotates by itself is replaced by its uses.
pub const WARN_PERCENT: u64 = 80;

/// Percent of a limit from which a warning is urgent.
pub const URGENT_PERCENT: u64 = 95;

/// What becomes of a key whose days or uses run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The vault replaces it, and nobody notices.
    ByItself,
    /// An operator is warned: its replacement costs something that comes back to nobody, or needs one.
    Warned,
    /// It is not replaced.
    Never,
}

/// The terms of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Days from when it was made in which it protects new things; none: no limit.
    pub days: Option<u32>,
    /// How many things it seals; none: they are not counted.
    pub uses: Option<u64>,
    /// What becomes of it then.
    pub renewal: Renewal,
}

impl Term {
    /// The longest terms of a kind.
    // A rotation that has become cheap enough to happen by itself changes one word of this table, and has its arm in
    // `Vault::replace_old_keys`.
    #[must_use]
    pub fn longest(kind: KeyKind) -> Self {
        use Renewal::{ByItself, Never, Warned};
        let (days, uses, renewal) = match kind {
            KeyKind::Root => (Some(PERIOD_ROOT_DAYS), Some(MAX_SEALS), Warned),
            // Wraps are counted by Control, which has them all; the seals of Control are its versions.
            KeyKind::Kek | KeyKind::Ctl | KeyKind::Dek => {
                (Some(PERIOD_SEALING_DAYS), Some(MAX_SEALS), ByItself)
            }
            // What it sealed moves only when its token is used: an operator decides when.
            KeyKind::Trk => (Some(PERIOD_DERIVING_DAYS), Some(MAX_SEALS), Warned),
            // Its file and its custodian are asked.
            KeyKind::Esk => (Some(PERIOD_OWN_DAYS), Some(MAX_SEALS), Warned),
            // Older notes stay readable under the older one.
            KeyKind::Adm => (Some(PERIOD_OWN_DAYS), Some(MAX_SEALS), ByItself),
            // Ed25519 takes no nonce from dice (RFC 8032), so nothing wears out: signatures are counted and not limited. Whoever
            // keeps the log's public key is to be told of a new one.
            KeyKind::Log => (Some(PERIOD_SIGNING_DAYS), None, Warned),
            // An HMAC under 256 bits does not wear out; a rotation adds a link to a chain of sixteen.
            KeyKind::Idx | KeyKind::Fpr => (Some(PERIOD_NAMING_DAYS), None, Warned),
            // Names in the log, public fingerprints, and the counters of used space are for good.
            KeyKind::Ref | KeyKind::Idm => (None, None, Never),
            // Each opening has a shared secret of its own (RFC 9180): nothing to count.
            KeyKind::Rcv => (Some(PERIOD_DAYS), None, ByItself),
            // FF1 has no nonce; a slot spent is gone, and there are five.
            KeyKind::Fpk => (Some(PERIOD_SLOT_DAYS), None, Warned),
        };
        Self { days, uses, renewal }
    }
}

/// How near the end of its terms a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Not near.
    Fresh,
    /// Four fifths of its days or uses are over.
    Due,
    /// Nineteen twentieths are.
    Urgent,
    /// All are. By days it goes on until it is replaced; by uses it seals nothing more.
    Over,
}

impl Standing {
    /// Of how much of a limit is over.
    #[must_use]
    pub fn of(over: u64, limit: u64) -> Self {
        let percent = u128::from(over) * 100;
        let at = |share: u64| percent >= u128::from(limit) * u128::from(share);
        match () {
            () if at(100) => Self::Over,
            () if at(URGENT_PERCENT) => Self::Urgent,
            () if at(WARN_PERCENT) => Self::Due,
            () => Self::Fresh,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_of_at_four_fifths_and_at_nineteen_twentieths() {
        for (over, limit, standing) in [
            (0, 100, Standing::Fresh),
            (79, 100, Standing::Fresh),
            (80, 100, Standing::Due),
            (94, 100, Standing::Due),
            (95, 100, Standing::Urgent),
            (99, 100, Standing::Urgent),
            (100, 100, Standing::Over),
            (u64::MAX, u64::MAX, Standing::Over),
            (u64::MAX - 1, u64::MAX, Standing::Urgent),
            (0, 0, Standing::Over),
        ] {
            assert_eq!(Standing::of(over, limit), standing, "{over} of {limit}");
        }
    }

    #[test]
    fn what_rotates_by_itself_has_days_and_what_never_does_has_no_limit() {
        for kind in KeyKind::ALL {
            let term = Term::longest(kind);
            match term.renewal {
                Renewal::ByItself | Renewal::Warned => assert!(term.days.is_some(), "{kind:?}"),
                Renewal::Never => assert_eq!((term.days, term.uses), (None, None), "{kind:?}"),
            }
            // SP 800-57 Part 1 Rev. 5, table 1: three years at the most, for a signature key.
            assert!(term.days.is_none_or(|days| days <= 3 * 365), "{kind:?}");
        }
    }
}
