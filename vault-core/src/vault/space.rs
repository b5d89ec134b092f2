//! How much of a token space is used: what an operator asks before it is used up.
//!
//! It holds no card number: a space is named by what its tokens show.

use super::Vault;
use crate::error::Error;
use crate::iban::Country;
use crate::keyring::merchant_row;
use crate::name::{FormatName, MerchantName};
use crate::pattern::Space;
use crate::plan::{self, Kept};
use crate::rows;

/// A token space, and what of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceUse {
    /// How many tokens there are; `u128::MAX` where they are more than that holds.
    pub tokens: u128,
    /// How many were given out, those that were revoked since included.
    pub used: u64,
}

impl Vault {
    /// How much is used of the space that a format's tokens of values of `length` characters come from which begin and end
    /// as `kept` says; of IBANs, of `country`.
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
        let key = merchant_row(rows::SPACE, merchant.id, &state.keyring.space(merchant.id, &space)?);
        let row = self.inner.store.get(&[key]).await?.into_iter().next().flatten();
        let used = row.and_then(|v| v.try_into().ok()).map_or(0, u64::from_be_bytes);
        Ok(SpaceUse { tokens: space.size(), used })
    }
}
