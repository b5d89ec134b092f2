//! What a token may be used for, beside on which channels: purposes, its own customer, once.
//!
//! It only ever narrows what the policy allows. Refused on disk: purposes and flags that no release has.

use crate::codec::{Reader, Torn, Writer};
use crate::words::Purpose;

/// A set of purposes. Empty means all: there is no token for no purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Purposes(u32);

impl Purposes {
    /// Every purpose.
    pub const ALL: Self = Self(0);

    /// These; all, if there are none.
    pub fn of(these: impl IntoIterator<Item = Purpose>) -> Self {
        these.into_iter().fold(Self::ALL, |set, purpose| Self(set.0 | Self::bit(purpose)))
    }

    /// Whether the purpose is one of them.
    #[must_use]
    pub fn include(self, purpose: Purpose) -> bool {
        self == Self::ALL || self.0 & Self::bit(purpose) != 0
    }

    /// Whether every one of them is one of `wider`.
    #[must_use]
    pub fn within(self, wider: Self) -> bool {
        wider == Self::ALL || (self != Self::ALL && self.0 & !wider.0 == 0)
    }

    /// Those that are in both; none if there is no such purpose.
    #[must_use]
    pub fn and(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::ALL, one) | (one, Self::ALL) => Some(one),
            (one, other) => Some(Self(one.0 & other.0)).filter(|both| *both != Self::ALL),
        }
    }

    /// Those that were named, by ascending number; none where it means all.
    pub fn named(self) -> impl Iterator<Item = Purpose> {
        Purpose::ALL.iter().copied().filter(move |purpose| self.0 & Self::bit(*purpose) != 0)
    }

    fn bit(purpose: Purpose) -> u32 {
        1_u32.checked_shl(purpose.id().into()).unwrap_or(0)
    }

    fn known() -> u32 {
        Purpose::ALL.iter().fold(0, |set, purpose| set | Self::bit(*purpose))
    }
}

/// What a token was restricted to when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restrictions {
    /// For these purposes.
    pub purposes: Purposes,
    /// For the customer it was stored for: a request must name the same customer reference.
    pub bound_to_customer: bool,
    /// Once: the first disclosure spends it.
    pub single_use: bool,
}

const BOUND_TO_CUSTOMER: u8 = 1;
const SINGLE_USE: u8 = 2;

impl Restrictions {
    /// Whether nothing is restricted.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether everything that this allows is allowed by `wider`, too.
    #[must_use]
    pub fn within(&self, wider: &Self) -> bool {
        self.purposes.within(wider.purposes)
            && self.bound_to_customer >= wider.bound_to_customer
            && self.single_use >= wider.single_use
    }

    /// Purposes u32, the bit of a purpose's number set; flags u8: 1 bound to its customer, 2 single use.
    pub fn write(&self, w: &mut Writer) {
        let bound = if self.bound_to_customer { BOUND_TO_CUSTOMER } else { 0 };
        let single = if self.single_use { SINGLE_USE } else { 0 };
        w.u32(self.purposes.0).u8(bound | single);
    }

    /// Reads what [`write`](Self::write) wrote.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Torn> {
        let (purposes, flags) = (r.u32()?, r.u8()?);
        if purposes & !Purposes::known() != 0 || flags & !(BOUND_TO_CUSTOMER | SINGLE_USE) != 0 {
            return Err(Torn);
        }
        Ok(Self {
            purposes: Purposes(purposes),
            bound_to_customer: flags & BOUND_TO_CUSTOMER != 0,
            single_use: flags & SINGLE_USE != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purposes(these: &[Purpose]) -> Purposes {
        Purposes::of(these.iter().copied())
    }

    #[test]
    fn no_purpose_named_is_every_purpose_and_a_set_is_its_members() {
        for &purpose in Purpose::ALL {
            assert!(Purposes::ALL.include(purpose));
            let only = purposes(&[purpose]);
            assert!(Purpose::ALL.iter().all(|p| only.include(*p) == (*p == purpose)));
            assert_eq!(only.named().collect::<Vec<_>>(), [purpose]);
        }
        assert_eq!(Purposes::ALL.named().count(), 0);
    }

    #[test]
    fn what_is_within_is_never_wider() {
        let (one, two) = (purposes(&[Purpose::Refund]), purposes(&[Purpose::Refund, Purpose::Dispute]));
        for (inner, outer, within) in [
            (one, two, true),
            (two, one, false),
            (one, Purposes::ALL, true),
            (Purposes::ALL, one, false),
            (Purposes::ALL, Purposes::ALL, true),
        ] {
            assert_eq!(inner.within(outer), within);
            assert!(inner.and(outer).is_some_and(|both| both.within(inner) && both.within(outer)));
        }
        assert_eq!(one.and(purposes(&[Purpose::Export])), None);
        let restrictions =
            |bound_to_customer, single_use| Restrictions { purposes: one, bound_to_customer, single_use };
        assert!(restrictions(true, true).within(&restrictions(false, false)));
        assert!(!restrictions(false, true).within(&restrictions(true, false)));
        assert!(!restrictions(true, false).within(&restrictions(false, true)));
        assert!(Restrictions::default().is_none() && !restrictions(false, false).is_none());
    }

    #[test]
    fn restrictions_read_back_and_what_no_release_has_is_torn() {
        for purposes in [Purposes::ALL, purposes(&[Purpose::Refund]), purposes(Purpose::ALL)] {
            for (bound_to_customer, single_use) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let restrictions = Restrictions { purposes, bound_to_customer, single_use };
                let mut w = Writer::default();
                restrictions.write(&mut w);
                let bytes = w.done();
                assert_eq!(Restrictions::read(&mut Reader::new(&bytes)), Ok(restrictions));
            }
        }
        for bad in [[0, 0, 0, 1, 0], [0x80, 0, 0, 0, 0], [0, 0, 0, 2, 4], [0, 0, 0, 2, 0x80]] {
            assert_eq!(Restrictions::read(&mut Reader::new(&bad)), Err(Torn));
        }
    }
}
