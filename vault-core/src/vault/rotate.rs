//! A new version of a key, level by level: what every rotation has in common, and those that are over with one commit.
//!
//! DEK, TRK, RCV, ADM and FPK: what is sealed or made from then on is under the new key, and the one before opens what it sealed.
//! IDX and FPR: the new key is the next link of the chain of names. LOG: the old one signs for the new one. KEK
//! and CTL (and the root, see `custodians.rs`): the wraps below are made anew and nothing else is touched, however many
//! cards there are; the key before is destroyed, since nothing needs it.

use super::amend::{Amendment, Premise};
use super::{FIRST_LOG, Top, Vault, signer};
use crate::audit::entry::ControlChange;
use crate::audit::handover::hash_of;
use crate::audit::receipt::Receipt;
use crate::control::{Control, Header, Superseded};
use crate::envelope::{Adm, Dek, Fpr, Idx, Kek, KeyId, KeyKind, KeyMaterial, Log, Rcv, Root, Trk, Wraps};
use crate::error::Error;
use crate::name::{ChannelName, FormatName, MerchantName, PrincipalName};
use crate::token::Scheme;
use crate::vaultless::{SLOTS, Served};
use crate::words::KeyState;

impl Vault {
    /// Makes a new DEK for a merchant (`expected` as at [`apply_policy`](Self::apply_policy)): rows are sealed under it from this commit on, and the one before opens old rows
    /// only. Returns the new key's number.
    pub async fn rotate_dek(
        &self,
        by: &PrincipalName,
        merchant: &MerchantName,
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.rotated(by, expected, |premise, control| draw_next::<Dek>(premise, control, merchant)).await
    }

    /// Makes a new key that names a merchant's card rows (`expected` as at [`apply_policy`](Self::apply_policy)): rows are put
    /// under names that it makes from this commit on. Older ones are renamed by [`reseal`](Self::reseal), and found all the
    /// while. The key before stays a link of the names' chain, and so is never destroyed. Returns the new key's number.
    ///
    /// Errors: malformed while rows are still being renamed after the rotation before, and at [`MAX_LINKS`](crate::chain::MAX_LINKS) versions.
    pub async fn rotate_idx(
        &self,
        by: &PrincipalName,
        merchant: &MerchantName,
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.rotated(by, expected, |premise, control| draw_link::<Idx>(premise, control, merchant)).await
    }

    /// The same for fingerprint rows: [`rotate_idx`](Self::rotate_idx). The public fingerprint of a card does not change.
    pub async fn rotate_fpr(
        &self,
        by: &PrincipalName,
        merchant: &MerchantName,
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.rotated(by, expected, |premise, control| draw_link::<Fpr>(premise, control, merchant)).await
    }

    /// Makes a new token root key for a merchant (`expected` as at [`apply_policy`](Self::apply_policy)): new tokens are under
    /// it from this commit on, older ones when they are next used, or by [`upgrade_tokens`](Self::upgrade_tokens). The one
    /// before opens the rest. Returns the new key's number.
    pub async fn rotate_trk(
        &self,
        by: &PrincipalName,
        merchant: &MerchantName,
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.rotated(by, expected, |premise, control| draw_next::<Trk>(premise, control, merchant)).await
    }

    /// Makes a new key for cards that are sealed to the vault (`expected` as at [`apply_policy`](Self::apply_policy)): it is
    /// published from this commit on, and the one before opens for [`OVERLAP_DAYS`](crate::sealed::OVERLAP_DAYS) more.
    /// Returns the new key's number.
    pub async fn rotate_rcv(
        &self,
        by: &PrincipalName,
        merchant: &MerchantName,
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.rotated(by, expected, |premise, control| draw_next::<Rcv>(premise, control, merchant)).await
    }

    /// Opens the next vaultless slot for a format with a new key: new tokens are made in it from this commit on, those of
    /// the slots before it still open, and [`upgrade`](Self::upgrade) turns them. `channel` is given for a format of scope
    /// channel, and only there. Returns the new key's number and how many of the merchant's five slots are left.
    ///
    /// Errors: [`Error::SpaceExhausted`] if none is left; malformed for a format that has no slot.
    pub async fn rotate_ff1(
        &self,
        by: &PrincipalName,
        (merchant, format, channel): (&MerchantName, &FormatName, Option<&ChannelName>),
        expected: Option<u64>,
    ) -> Result<(KeyId, u8, Receipt), Error> {
        let (receipt, (key, left)) = self
            .change(by, expected, |premise, control| {
                let unknown = || Error::malformed("merchant", "names no merchant");
                let numbers = control.numbers.get(merchant).ok_or_else(unknown)?;
                let no_format = || Error::malformed("format", "names no ff1 format of the merchant");
                let made = numbers.formats.get(format).ok_or_else(no_format)?;
                let no_slot = || Error::malformed("channel", "has no slot of this format: a format of scope channel has one per channel, of scope merchant one without");
                let channel = match channel {
                    None => None,
                    Some(name) => Some(*numbers.channels.get(name).ok_or_else(no_slot)?),
                };
                if made.format.scheme != Scheme::Ff1 {
                    return Err(no_format());
                }
                let served = Served { format: made.id, channel };
                let old = numbers.slots.iter().rev().find(|s| s.served() == served).ok_or_else(no_slot)?.key;
                let key = control.open_slot(merchant, served, premise.state.top.root(), premise.now)?;
                let opened = control.numbers.get(merchant).map_or(0, |n| n.slots.len());
                let left = SLOTS.saturating_sub(u8::try_from(opened).unwrap_or(SLOTS));
                let changes = vec![
                    ControlChange::KeyAdded { key: key.0 },
                    ControlChange::KeyState { key: old.0, state: KeyState::Deactivated },
                ];
                Ok(Amendment::of(changes, (key, left)))
            })
            .await?;
        Ok((key, left, receipt))
    }

    /// Makes a new KEK for a merchant (`expected` as at [`apply_policy`](Self::apply_policy)), wraps the merchant's keys under
    /// it and destroys the one before. Writes Control alone, whatever the merchant has. Returns the new key's number.
    pub async fn rotate_kek(
        &self,
        by: &PrincipalName,
        merchant: &MerchantName,
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.rotated(by, expected, |premise, control| {
            Ok(superseded(&control.replace_kek(merchant, premise.state.top.root(), premise.now)?))
        })
        .await
    }

    /// Makes a new key for Control itself and destroys the one before. Writes Control and the header. Returns the new key's
    /// number.
    pub async fn rotate_ctl(
        &self,
        by: &PrincipalName,
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.rotated(by, expected, replace_ctl).await
    }

    /// Makes a new administration key (`expected` as at [`apply_policy`](Self::apply_policy)): operators' notes are sealed under
    /// it from this commit on. The one before is kept for reading: the log names a note by the hash of its sealed bytes, so
    /// notes are never sealed anew. Returns the new key's number.
    pub async fn rotate_adm(
        &self,
        by: &PrincipalName,
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.rotated(by, expected, replace_adm).await
    }

    /// Hands the log over to a new signing key and destroys the one before: its last signature is on the hand-over's
    /// checkpoint, beside the new one's first. The log stays the same, and receipts given before still hold. Whoever keeps
    /// the log's public key outside comes from any one to all others by [`hand_overs`](Self::hand_overs). Returns the new
    /// key's number.
    ///
    /// Errors: malformed once the log was handed over [`MAX_HAND_OVERS`](crate::audit::handover::MAX_HAND_OVERS) times.
    pub async fn rotate_log(
        &self,
        by: &PrincipalName,
        expected: Option<u64>,
    ) -> Result<(KeyId, Receipt), Error> {
        self.rotated(by, expected, replace_log).await
    }

    async fn rotated(
        &self,
        by: &PrincipalName,
        expected: Option<u64>,
        edit: impl Fn(&Premise<'_>, &mut Control) -> Result<Amendment<KeyId>, Error>,
    ) -> Result<(KeyId, Receipt), Error> {
        let (receipt, key) = self.change(by, expected, edit).await?;
        Ok((key, receipt))
    }
}

/// Draws a merchant's next key of a kind; the one before is deactivated.
pub(super) fn draw_next<K>(
    premise: &Premise<'_>,
    control: &mut Control,
    merchant: &MerchantName,
) -> Result<Amendment<KeyId>, Error>
where
    K: KeyMaterial,
    Kek: Wraps<K>,
{
    let unknown = || Error::malformed("merchant", "names no merchant");
    let old = control.active(K::KIND, Some(merchant)).ok_or_else(unknown)?.id;
    let record = control.active(KeyKind::Kek, Some(merchant)).ok_or_else(unknown)?.clone();
    let kek: Kek = record.unwrap(&*premise.state.top.root)?;
    let (key, _) = control.draw::<K, Kek>(Some(merchant), (&kek, record.id), premise.now)?;
    Ok(Amendment::of(told(key, old, control.retired_state(old)), key))
}

/// Draws the next key of Control itself, with what the header has of it.
pub(super) fn replace_ctl(premise: &Premise<'_>, control: &mut Control) -> Result<Amendment<KeyId>, Error> {
    let top = &premise.state.top;
    let (keys, ctl) = control.replace_ctl(top.root(), premise.now)?;
    let header = Header { ctl: named_wrap(control, keys.new)?, ..top.header.clone() };
    let top = Top { header, root: top.root.clone(), ctl: ctl.into() };
    Ok(Amendment { top: Some(top), ..superseded(&keys) })
}

/// Draws the next administration key; the one before opens what it sealed.
pub(super) fn replace_adm(premise: &Premise<'_>, control: &mut Control) -> Result<Amendment<KeyId>, Error> {
    let old = control.active(KeyKind::Adm, None).ok_or(Error::Custody)?.id;
    let (key, _) = control.draw::<Adm, Root>(None, premise.state.top.root(), premise.now)?;
    Ok(Amendment::of(told(key, old, control.retired_state(old)), key))
}

/// Hands the log over to a new signing key.
pub(super) fn replace_log(premise: &Premise<'_>, control: &mut Control) -> Result<Amendment<KeyId>, Error> {
    let from = premise.state.log.to_string();
    let verifier_of = |seed: &Log| Ok(signer(&premise.inner.vault, seed)?.verifier().to_string());
    let root = premise.state.top.root();
    let (keys, seed) = control.replace_log_key(FIRST_LOG, root, premise.now, verifier_of)?;
    let signer = signer(&premise.inner.vault, &seed)?;
    let mut amendment = superseded(&keys);
    // The last of the batch: a proof of it is a proof that nothing stands between it and the new key.
    amendment.changes.push(ControlChange::LogHandedOver {
        from: hash_of(&from),
        to: hash_of(&signer.verifier().to_string()),
    });
    Ok(Amendment { signer: Some(signer), ..amendment })
}

/// Draws the next link of a merchant's chain of names, if it may have one.
pub(super) fn draw_link<K>(
    premise: &Premise<'_>,
    control: &mut Control,
    merchant: &MerchantName,
) -> Result<Amendment<KeyId>, Error>
where
    K: KeyMaterial,
    Kek: Wraps<K>,
{
    let unknown = || Error::malformed("merchant", "names no merchant");
    let active = control.active(K::KIND, Some(merchant)).ok_or_else(unknown)?;
    if let Some(rule) = control.not_followed(active) {
        return Err(Error::malformed("key", rule));
    }
    draw_next::<K>(premise, control, merchant)
}

pub(super) fn superseded(keys: &Superseded) -> Amendment<KeyId> {
    Amendment::of(told(keys.new, keys.old, KeyState::Destroyed), keys.new)
}

fn told(new: KeyId, old: KeyId, state: KeyState) -> Vec<ControlChange> {
    vec![ControlChange::KeyAdded { key: new.0 }, ControlChange::KeyState { key: old.0, state }]
}

/// CTL as the header has it: number, version and wrap.
pub(super) fn named_wrap(
    control: &Control,
    id: KeyId,
) -> Result<(KeyId, u32, crate::envelope::Wrapped), Error> {
    let version = control.keys.iter().find(|k| k.id == id).ok_or_else(Error::internal)?.version;
    Ok((id, version, control.wrap_of(id)?))
}
