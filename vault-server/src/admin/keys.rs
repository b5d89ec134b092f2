//! What operators ask of keys that somebody else may have, or that are to go with what is under them.
//!
//! Refused: a destruction that does not name its key twice.

use std::collections::{BTreeSet, HashMap};

use tonic::{Request, Response, Status};
use vault_core::control::Compromised;
use vault_core::custody::Custodian;
use vault_core::envelope::{KeyId, KeyKind};
use vault_core::error::Error;
use vault_core::name::PrincipalName;
use vault_core::terms::{Renewal, Standing};
use vault_core::time::Timestamp;
use vault_core::vault::{Compromise, KeyLine, MAX_COUNTED_CUSTOMERS, Under, healing};
use vault_core::words::{Action, CompromiseReason};
use vault_proto::v1;

use super::{AdminService, expected, key, kind};
use crate::wire;

pub(super) fn id(text: &str) -> Result<KeyId, Error> {
    text.parse().map(KeyId).map_err(|_| Error::malformed("key", "must be a key's number"))
}

/// What is told of a key beside its names: its life, its days and its uses.
pub(super) fn lived(told: v1::Key, line: &KeyLine, now: Timestamp) -> v1::Key {
    let renewal = match line.renewal() {
        Renewal::ByItself => v1::KeyRenewal::ByItself,
        Renewal::Warned => v1::KeyRenewal::Warned,
        Renewal::Never => v1::KeyRenewal::Never,
    };
    let standing = match line.standing(now) {
        Standing::Fresh => v1::KeyStanding::Fresh,
        Standing::Due => v1::KeyStanding::Due,
        Standing::Urgent => v1::KeyStanding::Urgent,
        Standing::Over => v1::KeyStanding::Over,
    };
    v1::Key {
        expires_at: line.expires_at.map(wire::timestamp),
        deactivated_at: line.deactivated_at.map(wire::timestamp),
        uses: line.uses.unwrap_or(0),
        use_limit: line.use_limit.unwrap_or(0),
        compromised_at: line.compromised.as_ref().map(|c| wire::timestamp(c.at)),
        compromise_reason: line
            .compromised
            .as_ref()
            .map_or(0, |Compromised { reason, .. }| reason.id().into()),
        renewal: renewal.into(),
        standing: standing.into(),
        ..told
    }
}

fn under(under: &Under) -> v1::KeyUnder {
    v1::KeyUnder {
        rows: under.rows,
        cards: under.cards,
        channels: under
            .channels
            .iter()
            .map(|(channel, cards)| v1::ChannelCount { channel: channel.to_string(), cards: *cards })
            .collect(),
        everywhere: under.everywhere,
        first: under.first.map(wire::timestamp),
        last: under.last.map(wire::timestamp),
        customers: under.customers,
        customers_at_least: usize::try_from(under.customers).is_ok_and(|n| n >= MAX_COUNTED_CUSTOMERS),
        unreadable: under.unreadable,
    }
}

impl AdminService {
    /// The key versions as they are now, with what is asked for of their rows.
    pub(super) async fn listed_keys(&self, rows: bool) -> Result<Vec<v1::Key>, Error> {
        let (keys, held) = (self.vault.keys(), self.who_holds());
        let now = (held.as_str(), self.clock.now());
        let mut counted = HashMap::new();
        if rows {
            let merchants: BTreeSet<_> = keys.iter().filter_map(|line| line.merchant.as_ref()).collect();
            for merchant in merchants {
                counted.extend(self.vault.rows_by_key(merchant).await?);
            }
        }
        let told = keys.iter().map(|line| {
            let key = key(line, now);
            // Which keys rows name is in their first bytes: no other kind's rows can be told without opening them.
            let named = matches!(line.kind, KeyKind::Dek | KeyKind::Idx | KeyKind::Fpr);
            let rows = (rows && named).then(|| counted.get(&line.id).copied().unwrap_or(0));
            v1::Key { rows: rows.or(key.rows), ..key }
        });
        Ok(told.collect())
    }

    pub(super) async fn describe_key_once(
        &self,
        request: Request<v1::DescribeKeyRequest>,
    ) -> Result<Response<v1::DescribeKeyResponse>, Status> {
        self.reads(&request, Action::ReadKeys).await?;
        let described = async |asked: &str| -> Result<v1::DescribeKeyResponse, Error> {
            let id = id(asked)?;
            let line = self.vault.keys().into_iter().find(|k| k.id == id);
            let line = line.ok_or_else(|| Error::malformed("key", "names no key"))?;
            let healing = healing(line.kind);
            Ok(v1::DescribeKeyResponse {
                key: Some(key(&line, (&self.who_holds(), self.clock.now()))),
                under: Some(under(&self.vault.under(id).await?)),
                healed: healing.healed.to_owned(),
                remains: healing.remains.to_owned(),
                epoch: self.epoch(),
            })
        };
        let told = described(&request.into_inner().key).await;
        told.map(Response::new).map_err(|e| crate::failure::status(&e))
    }

    pub(super) async fn compromise_key_once(
        &self,
        request: Request<v1::CompromiseKeyRequest>,
    ) -> Result<Response<v1::CompromiseKeyResponse>, Status> {
        let operator = self.operator(&request, Action::RotateKey).await?;
        let asked = request.into_inner();
        let note = || async {
            let id = id(&asked.key)?;
            let reason = u8::try_from(asked.reason).ok().and_then(CompromiseReason::from_id);
            let reason = reason.ok_or_else(|| Error::malformed("reason", "is required"))?;
            let why = (reason, (!asked.note.is_empty()).then(|| asked.note.clone()));
            let made = self.compromise(&operator, id, why, expected(asked.header.as_ref())).await?;
            let (healing, held) = (healing(made.key.kind), self.who_holds());
            let now = (held.as_str(), self.clock.now());
            Ok(v1::CompromiseKeyResponse {
                key: Some(key(&made.key, now)),
                next: made.next.as_ref().map(|line| key(line, now)),
                under: made.under.as_ref().map(under),
                healed: healing.healed.to_owned(),
                remains: healing.remains.to_owned(),
                epoch: self.epoch(),
                receipt: Some(wire::receipt(&made.receipt, true)),
            })
        };
        self.once(&operator, asked.header.as_ref(), &asked, note).await
    }

    /// Of the root and the erasure epoch key the custodian is asked, as at its rotation: on a thread of its own, so that nobody else waits.
    async fn compromise(
        &self,
        operator: &PrincipalName,
        id: KeyId,
        (reason, note): (CompromiseReason, Option<String>),
        epoch: Option<u64>,
    ) -> Result<Compromise, Error> {
        let held = |k: &KeyLine| k.id == id && matches!(k.kind, KeyKind::Root | KeyKind::Esk);
        if !self.vault.keys().iter().any(held) {
            return self.vault.compromise_key(operator, id, (reason, note.as_deref()), &[], epoch).await;
        }
        // People with shares cannot be asked from here: it is noted, and they put the next one in its place.
        let all = if self.custodians.are_people() {
            Vec::new()
        } else {
            self.custodians.open_all().map_err(|problem| Error::Config(problem.to_string()))?
        };
        let (vault, operator) = (self.vault.clone(), operator.clone());
        crate::custodian::in_custody(async move || {
            let custodians: Vec<&dyn Custodian> = all.iter().map(AsRef::as_ref).collect();
            let why = (reason, note.as_deref());
            vault.compromise_key(&operator, id, why, &custodians, epoch).await
        })
        .await
    }

    pub(super) async fn shred_key_once(
        &self,
        request: Request<v1::ShredKeyRequest>,
    ) -> Result<Response<v1::ShredKeyResponse>, Status> {
        let operator = self.operator(&request, Action::RotateKey).await?;
        let asked = request.into_inner();
        let shred = || async {
            let id = id(&asked.key)?;
            if asked.confirm != asked.key {
                return Err(Error::malformed("confirm", "must be the key's number once more").into());
            }
            let made = self.vault.shred_key(&operator, id, expected(asked.header.as_ref())).await?;
            Ok(v1::ShredKeyResponse {
                key: Some(key(&made.key, (&self.who_holds(), self.clock.now()))),
                under: Some(under(&made.under)),
                epoch: self.epoch(),
                receipt: Some(wire::receipt(&made.receipt, true)),
            })
        };
        self.once(&operator, asked.header.as_ref(), &asked, shred).await
    }
}

/// The problems that a status tells of keys: those near their end, which the vault does not replace by itself.
pub(super) fn problems(keys: &[KeyLine], now: Timestamp) -> Vec<v1::Problem> {
    let due = keys.iter().filter_map(|line| {
        let standing = line.standing(now);
        let by_itself = line.renewal() == Renewal::ByItself && standing < Standing::Over;
        if standing == Standing::Fresh || by_itself {
            return None;
        }
        let of = line.merchant.as_ref().map_or_else(String::new, |merchant| format!(" of {merchant}"));
        let (kind, percent) = (kind(line.kind).as_str_name(), line.percent_over(now));
        let kind = kind.trim_start_matches("KEY_KIND_").to_lowercase();
        let message = format!(
            "key {} ({kind}{of}): {percent} percent of its days or uses are over; vaultctl keys rotate {kind}",
            line.id.0
        );
        Some(v1::Problem { reason: "KEY_DUE".to_owned(), message })
    });
    due.collect()
}
