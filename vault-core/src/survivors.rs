//! Moves the secrets of customers from one erasure epoch key (ESK) to the next, so that the older one can be destroyed and
//! with it whatever an erasure took away.
//!
//! It opens outer seals of customers' indexes, and the secrets in them, and nothing else: it has no key that opens a card
//! and no name for one. A test compiles this file where there is neither card number, token root key nor proof of
//! disclosure to be named. A walk keeps nothing on disk: which key a secret is under stands in front of it.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::aead::Unopened;
use crate::codec::{Reader, Writer};
use crate::envelope::{Esk, KeyId, ctx};
use crate::outer::OuterKeys;
use crate::record::{MerchantId, SubjectId};
use crate::rows;
use crate::secret::Secret32;
use crate::store::{Expect, Key, Part, Store, Write};

/// The erasure epoch keys that are alive: one seals; while customers move to it, the one before opens.
#[derive(Clone)]
pub struct Esks {
    active: KeyId,
    keys: Vec<(KeyId, Arc<Esk>)>,
}

impl Esks {
    /// One key alone.
    #[must_use]
    pub fn one(id: KeyId, key: Esk) -> Self {
        Self { active: id, keys: vec![(id, Arc::new(key))] }
    }

    /// The same keys and one more, which seals from now on.
    #[must_use]
    pub fn followed_by(&self, id: KeyId, key: Arc<Esk>) -> Self {
        let mut keys = self.keys.clone();
        keys.push((id, key));
        Self { active: id, keys }
    }

    /// The key that seals, alone: what the others sealed opens no more.
    #[must_use]
    pub fn without_older(&self) -> Self {
        let keys = self.keys.iter().filter(|(id, _)| *id == self.active).cloned().collect();
        Self { active: self.active, keys }
    }

    /// The number of the key that seals.
    #[must_use]
    pub fn active(&self) -> KeyId {
        self.active
    }

    /// The key of this number, if it is alive.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&Esk> {
        self.keys.iter().find(|(known, _)| *known == id).map(|(_, key)| key.as_ref())
    }

    /// Seals a customer's secret under the key that seals: that key's number, and the message.
    pub(crate) fn seal(
        &self,
        merchant: &str,
        subject: SubjectId,
        secret: &Secret32,
    ) -> Result<(KeyId, Vec<u8>), crate::error::Error> {
        let key = self.get(self.active).ok_or_else(crate::error::Error::internal)?;
        let aad = secret_aad(merchant, subject, self.active);
        Ok((self.active, key.seal(&aad, secret.expose_bytes())?))
    }

    /// Opens a customer's secret.
    pub(crate) fn open(
        &self,
        merchant: &str,
        subject: SubjectId,
        (id, sealed): (KeyId, &[u8]),
    ) -> Result<Secret32, Unopened> {
        let key = self.get(id).ok_or(Unopened)?;
        Secret32::take(&mut key.open(&secret_aad(merchant, subject, id), sealed)?).ok_or(Unopened)
    }

    /// Whether the secret in the plaintext of a customer's index opens.
    fn opens(&self, merchant: &str, subject: SubjectId, plain: &[u8]) -> bool {
        let mut r = Reader::new(plain);
        let mut secret = || Some((KeyId(r.u32().ok()?), r.e().ok()?));
        secret().is_some_and(|secret| self.open(merchant, subject, secret).is_ok())
    }

    /// The plaintext of a customer's index with its secret under the key that seals. All behind the secret stays as it is.
    fn moved(&self, merchant: &str, subject: SubjectId, plain: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut r = Reader::new(plain);
        let (id, sealed) = (KeyId(r.u32().ok()?), r.e().ok()?);
        let secret = self.open(merchant, subject, (id, sealed)).ok()?;
        let (id, sealed) = self.seal(merchant, subject, &secret).ok()?;
        Some(Zeroizing::new(Writer::default().u32(id.0).e(&sealed).fixed(r.rest()).done()))
    }
}

fn secret_aad(merchant: &str, subject: SubjectId, esk: KeyId) -> Vec<u8> {
    ctx("sub-key", merchant).fixed(&subject.0).u32(esk.0).done()
}

/// Where a walk over all customers is.
#[derive(Default)]
pub struct Walk {
    after: Option<Key>,
}

/// What a walk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To move customers to the key that seals.
    Move,
    /// To see how many are left. Nothing is sealed, and no use of a key spent.
    Count,
}

/// A page of a walk.
#[derive(Default)]
pub struct Page {
    /// How many customers were looked at.
    pub seen: usize,
    /// How many of them are not under the key that seals.
    pub older: u64,
    /// The rows with those moved: as one part, which expects each of them as it was read.
    pub part: Part,
    /// How many rows do not open. They stay as they are, and keep the older key needed.
    pub unreadable: u64,
}

impl Walk {
    /// The next page, of `most` rows at the most, and the walk as it is once that page is on disk; none once all customers
    /// were seen. Asked again, it gives the page again, as its rows are by then.
    pub async fn next<'k>(
        &self,
        store: &dyn Store,
        outer: impl Fn(MerchantId) -> Option<&'k OuterKeys> + Send,
        esks: &Esks,
        (purpose, most): (Purpose, usize),
    ) -> Result<Option<(Page, Self)>, crate::error::Error> {
        let found = store.scan(&[rows::SUBJECT], self.after.as_deref(), most).await?;
        let Some((last, _)) = found.last() else { return Ok(None) };
        let next = Self { after: Some(last.clone()) };
        let mut page = Page { seen: found.len(), ..Page::default() };
        for (key, bytes) in found {
            // Its secret is gone with the key that it was left under.
            if merchant_of(&key).and_then(&outer).is_some_and(|keys| keys.is_shredded(&bytes)) {
                continue;
            }
            let Some((subject, keys, plain)) = opened(&key, &bytes, &outer) else {
                page.older += 1;
                page.unreadable += 1;
                continue;
            };
            if plain.starts_with(&esks.active.0.to_be_bytes()) {
                continue;
            }
            page.older += 1;
            if purpose == Purpose::Count {
                let opens = esks.opens(keys.merchant(), subject, &plain);
                page.unreadable += u64::from(!opens);
                continue;
            }
            keys.count_use(esks.active)?;
            let Some(plain) = esks.moved(keys.merchant(), subject, &plain) else {
                page.unreadable += 1;
                continue;
            };
            let sealed = keys.seal(rows::SUBJECT, (&subject.0, 1), &plain)?;
            page.part.expects.push(Expect::Is(key.clone(), bytes));
            page.part.writes.push(Write::Put(key, sealed));
        }
        Ok(Some((page, next)))
    }
}

fn merchant_of(key: &[u8]) -> Option<MerchantId> {
    Reader::new(key.get(1..)?).u32().ok().map(MerchantId)
}

/// A customer's index, its outer seal opened: kind u8, merchant u32, subject 16 in its row's key.
fn opened<'k>(
    key: &[u8],
    bytes: &[u8],
    outer: &impl Fn(MerchantId) -> Option<&'k OuterKeys>,
) -> Option<(SubjectId, &'k OuterKeys, Zeroizing<Vec<u8>>)> {
    let mut r = Reader::new(key.get(1..)?);
    let (merchant, subject) = (MerchantId(r.u32().ok()?), SubjectId(r.array().ok()?));
    r.end().ok()?;
    let keys = outer(merchant)?;
    let plain = keys.open(rows::SUBJECT, &subject.0, bytes).ok()?;
    Some((subject, keys, plain))
}
