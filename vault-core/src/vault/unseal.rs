//! Opening and closing at people's word: who held which share is in the log before anything is served, and who closed it.
//!
//! Refused: a vault to which somebody brought a share, or asked for it to be opened, who is no operator of its policy. That is
//! found out once the policy can be read, so only those who open a vault learn who may.

use std::sync::{Arc, Weak};

use super::{Inner, Place, Vault};
use crate::audit::entry::{Event, Who};
use crate::audit::receipt::Receipt;
use crate::control::{Header, header_key};
use crate::custody::{Custodian, Split, SplitId};
use crate::error::Error;
use crate::journal::Filing;
use crate::name::PrincipalName;
use crate::policy::Statement;
use crate::store::{Part, Store, StoreError};

/// Somebody who opens a vault, as a certificate names them: the policy, which would say who that is, is sealed by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrant {
    /// SHA-256 of the key of the authority that issued the certificate.
    pub authority: [u8; 32],
    /// The name in it.
    pub name: String,
    /// The number of the share that was brought, if one was.
    pub share: Option<u8>,
}

/// What is left of a vault that was closed: the clones of those who have not let go of it yet, with its keys.
#[derive(Clone)]
pub struct Remains(Weak<Inner>);

impl Remains {
    /// Whether nobody holds the vault any more.
    #[must_use]
    pub fn are_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// What can be known of a vault without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its id.
    pub vault: [u8; 16],
    /// The split that its root is under, if shares are among its custodians.
    pub split: Option<Split>,
    /// The first custodian that is not shares, if there is one: its kind.
    pub other: Option<&'static str>,
}

impl Vault {
    /// Reads what can be known of the vault in a store without opening it.
    ///
    /// Errors: of the store, also where there is no vault; [`Error::Custody`] for a block that is damaged.
    pub async fn standing(store: &dyn Store) -> Result<Standing, Error> {
        let row = store.get(&[header_key()]).await?.into_iter().next().flatten();
        let header = Header::decode(&row.ok_or(Error::Store(StoreError::Missing))?)?;
        let (mut split, mut other) = (None, None);
        for block in &header.custody {
            match Split::of(block)? {
                Some(found) => split = split.or(Some(found)),
                None => other = other.or(Some(block.told().0)),
            }
        }
        Ok(Standing { vault: header.vault, split, other })
    }

    /// The same of a vault that is open.
    pub async fn standing_of(&self) -> Result<Standing, Error> {
        Self::standing(self.inner.store.as_ref()).await
    }

    /// [`open`](Self::open)s a vault at the word of these people, the last of whom completed it, and writes down who they were.
    ///
    /// Errors: [`Error::Denied`] if one of them is no operator of the policy: it was not opened. As at [`open`](Self::open).
    pub async fn unseal(place: Place, custodian: &dyn Custodian, by: &[Entrant]) -> Result<Self, Error> {
        let vault = Self::open_if(place, custodian, |rules| {
            let listed = by.iter().all(|e| rules.operator(&e.authority, &e.name).is_some());
            if listed && !by.is_empty() { Ok(()) } else { Err(Error::Denied) }
        })
        .await?;
        let mut told = Vec::with_capacity(by.len() + 1);
        for (at, entrant) in by.iter().enumerate() {
            let operator = vault.operator(&entrant.authority, &entrant.name).ok_or(Error::Denied)?;
            let share = entrant.share.map(|share| Event::ShareEntered { share });
            let opened = (at + 1 == by.len()).then_some(Event::Unsealed);
            told.extend(share.into_iter().chain(opened).map(|event| vault.said_by(&operator, event)));
        }
        vault
            .inner
            .journal
            .file_together(told, None, None)
            .await?
            .into_iter()
            .try_for_each(|a| a.map(drop))?;
        Ok(vault)
    }

    /// Writes down that an operator seals the vault, and closes it. Its keys are wiped when the last clone is dropped: see
    /// [`holders`](Self::holders). It is closed also where nothing could be written.
    pub async fn seal(&self, by: &PrincipalName) -> Result<(), Error> {
        let sealed = self.state_it(by, Event::Sealed).await;
        self.close().await?;
        sealed.map(drop)
    }

    /// How many clones of the vault there are: requests and tasks that hold its keys. One means that only who asks has it.
    #[must_use]
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.inner)
    }

    /// What tells when the last clone is gone, and is none itself.
    #[must_use]
    pub fn remains(&self) -> Remains {
        Remains(Arc::downgrade(&self.inner))
    }

    /// Writes down that an operator accepts custody of a share of the split in force (PCI DSS 4.0.1, 3.7.8).
    ///
    /// Errors: malformed `split` if another one is in force, or none; malformed `share` if it has none of that number.
    pub async fn accept_custody(
        &self,
        by: &PrincipalName,
        split: SplitId,
        share: u8,
    ) -> Result<Receipt, Error> {
        let standing = self.standing_of().await?;
        let known = standing.split.filter(|s| s.id == split);
        let known = known.ok_or(Error::malformed("split", "is not the one in force"))?;
        if !(1..=known.shares()).contains(&share) {
            return Err(Error::malformed("share", "is no number of a share of this split"));
        }
        self.state_it(by, Event::CustodyAccepted { split, share }).await
    }

    async fn state_it(&self, by: &PrincipalName, event: Event) -> Result<Receipt, Error> {
        let answers = self.inner.journal.file(vec![self.said_by(by, event)], None, None).await?;
        let filed = answers.into_iter().next().ok_or_else(Error::internal)??;
        Ok(filed.receipt)
    }

    fn said_by(&self, by: &PrincipalName, event: Event) -> Filing {
        let epoch = self.state().epoch.version;
        let who = Who::Listed(by.clone());
        Filing::State(Statement { who, merchant: None, channel: None, event, epoch }, Part::default())
    }
}
