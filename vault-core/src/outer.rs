//! A merchant's outer seals and the names under which rows lie: data encryption keys (DEK), and the chains of the keys that
//! name rows (IDX) and fingerprints (FPR).
//!
//! What is opened here is a row, in which a card number is still sealed under keys that this module does not have: whoever
//! has an [`OuterKeys`] can seal rows anew and rename them, and cannot open a card.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::aead::Unopened;
use crate::chain::{Chain, Name, Place, Places};
use crate::codec::{Reader, Writer};
use crate::control::{Control, KeyRecord};
use crate::envelope::{Dek, Fpr, Idx, Kek, KeyId, KeyKind, Root, ctx};
use crate::error::Error;
use crate::name::MerchantName;
use crate::record::MerchantId;
use crate::rows;
use crate::uses::Uses;
use crate::words::KeyState;

/// Version byte in front of every sealed row that lies under its first name.
const ROW_FORMAT: u8 = 1;

/// Version byte in front of one that was named anew, or came later: behind the DEK's id stands which link names it, u8.
const LINKED_FORMAT: u8 = 2;

/// The DEKs of one merchant, of which one seals and all open, and the names of its rows.
pub struct OuterKeys {
    merchant: MerchantName,
    active: KeyId,
    keys: HashMap<KeyId, Dek>,
    /// Those that were: rows may name them that were left under them on purpose.
    destroyed: HashSet<KeyId>,
    uses: Uses,
    cards: Chain<Idx>,
    fingerprints: Chain<Fpr>,
}

/// Which keys a row needs beside those of the card in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Under {
    /// Seals it.
    pub dek: Option<KeyId>,
    /// Made its name; none of a row that is named for good.
    pub named_by: Option<KeyId>,
}

impl OuterKeys {
    /// Unwraps a merchant's KEK, and with it the keys that seal rows and name them, as far as they are not destroyed; no
    /// other key. What is sealed is counted in `uses`.
    pub fn unwrap(
        control: &Control,
        merchant: &MerchantName,
        root: &Root,
        uses: &Uses,
    ) -> Result<Self, Error> {
        let alive = |kind: KeyKind| {
            control.keys.iter().filter(move |k| {
                k.kind == kind && k.merchant.as_ref() == Some(merchant) && k.state != KeyState::Destroyed
            })
        };
        let mut keks = HashMap::new();
        for kek in alive(KeyKind::Kek) {
            keks.insert(kek.id, Arc::new(kek.unwrap::<Kek, Root>(root)?));
        }
        let kek_of = |key: &KeyRecord| key.under.and_then(|id| keks.get(&id)).cloned().ok_or(Error::Custody);
        let mut keys = HashMap::new();
        for dek in alive(KeyKind::Dek) {
            keys.insert(dek.id, dek.unwrap(&*kek_of(dek)?)?);
        }
        let active = control.active(KeyKind::Dek, Some(merchant)).ok_or(Error::Custody)?.id;
        if !keys.contains_key(&active) {
            return Err(Error::Custody);
        }
        let gone = |k: &&KeyRecord| {
            k.kind == KeyKind::Dek && k.merchant.as_ref() == Some(merchant) && k.state == KeyState::Destroyed
        };
        Ok(Self {
            destroyed: control.keys.iter().filter(gone).map(|k| k.id).collect(),
            uses: uses.clone(),
            cards: Chain::unwrap(control, merchant, kek_of, ("row+", Idx::name_of))?,
            fingerprints: Chain::unwrap(control, merchant, kek_of, ("fpr+", Fpr::name_of))?,
            merchant: merchant.clone(),
            active,
            keys,
        })
    }

    /// Whose they are.
    #[must_use]
    pub fn merchant(&self) -> &str {
        self.merchant.as_str()
    }

    /// The key that seals.
    #[must_use]
    pub fn active(&self) -> KeyId {
        self.active
    }

    /// The first name of the card row that `message` names.
    #[must_use]
    pub fn card_name(&self, message: &[u8]) -> Name {
        self.cards.first(message)
    }

    /// The first name of the fingerprint row that `message` names.
    #[must_use]
    pub fn fingerprint_name(&self, message: &[u8]) -> Name {
        self.fingerprints.first(message)
    }

    /// Where a card row may lie.
    #[must_use]
    pub fn card_places(&self, merchant: MerchantId, first: Name) -> Places {
        self.cards.places(rows::CARD, merchant, first)
    }

    /// Where a fingerprint row may lie.
    #[must_use]
    pub fn fingerprint_places(&self, merchant: MerchantId, first: Name) -> Places {
        self.fingerprints.places(rows::FINGERPRINT, merchant, first)
    }

    /// Seals what lies at a place of a row kind: see [`seal`](Self::seal).
    pub fn seal_at(&self, kind: u8, place: &Place, plain: &[u8]) -> Result<Vec<u8>, Error> {
        self.seal(kind, (&place.name, place.link), plain)
    }

    /// Seals a row's plaintext under the active key: version u8, DEK id u32, of a later link than the first its number u8,
    /// XAES message; bound to row kind, merchant, the row's name of 16 bytes, key id, and the link's number in the same way.
    pub fn seal(&self, kind: u8, (name, link): (&Name, u8), plain: &[u8]) -> Result<Vec<u8>, Error> {
        let dek = self.keys.get(&self.active).ok_or_else(Error::internal)?;
        self.uses.take(self.active)?;
        let sealed = dek.seal(&self.aad(kind, name, (self.active, link)), plain)?;
        Ok(row((self.active, link), &sealed))
    }

    /// Opens a row.
    pub fn open(&self, kind: u8, name: &Name, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let (id, link, message) = read(bytes).ok_or(Unopened)?;
        let dek = self.keys.get(&id).ok_or(Unopened)?;
        dek.open(&self.aad(kind, name, (id, link)), message)
    }

    /// Which keys a row names, from its first bytes.
    #[must_use]
    pub fn under(&self, kind: u8, bytes: &[u8]) -> Under {
        let (dek, link) = read(bytes).map_or((None, 0), |(dek, link, _)| (Some(dek), link));
        let named_by = match kind {
            rows::CARD => self.cards.key_of(link),
            rows::FINGERPRINT => self.fingerprints.key_of(link),
            _ => None,
        };
        Under { dek, named_by }
    }

    /// Counts one use of another key, which seals something that goes into a row.
    pub fn count_use(&self, key: KeyId) -> Result<(), Error> {
        self.uses.take(key)
    }

    /// Whether a row was left under a key that is destroyed: nobody opens it again.
    #[must_use]
    pub fn is_shredded(&self, bytes: &[u8]) -> bool {
        read(bytes).is_some_and(|(dek, ..)| self.destroyed.contains(&dek))
    }

    /// Which keys a row of this kind needs that is put now. One that was shredded stays under its key, for good, and is named
    /// as all others are: its token is used up.
    #[must_use]
    pub fn now(&self, kind: u8, was: Under) -> Under {
        let named_by = match kind {
            rows::CARD => self.cards.key_of(self.cards.newest()),
            rows::FINGERPRINT => self.fingerprints.key_of(self.fingerprints.newest()),
            _ => None,
        };
        let shredded = was.dek.filter(|dek| self.destroyed.contains(dek));
        Under { dek: shredded.or(Some(self.active)), named_by }
    }

    /// Whether a row that begins so is looked for at all: not under a name that all rows have left.
    #[must_use]
    pub fn is_reached(&self, kind: u8, bytes: &[u8]) -> bool {
        let link = read(bytes).map_or(0, |(_, link, _)| link);
        match kind {
            rows::CARD => self.cards.holds(link),
            rows::FINGERPRINT => self.fingerprints.holds(link),
            _ => link == 1,
        }
    }

    /// The row as it would be put now: its last name, and its bytes under the active key. `None` if it does not open, unless
    /// its key is destroyed: then it gets its name and stays closed.
    pub fn renewed(&self, kind: u8, name: &Name, bytes: &[u8]) -> Result<Option<(Name, Vec<u8>)>, Error> {
        let Some((dek, link, message)) = read(bytes) else { return Ok(None) };
        let (last, newest) = match kind {
            rows::CARD => (self.cards.onward(*name, link), self.cards.newest()),
            rows::FINGERPRINT => (self.fingerprints.onward(*name, link), self.fingerprints.newest()),
            _ => (*name, 1),
        };
        if self.destroyed.contains(&dek) {
            return Ok(Some((last, row((dek, newest), message))));
        }
        let Ok(plain) = self.open(kind, name, bytes) else { return Ok(None) };
        Ok(Some((last, self.seal(kind, (&last, newest), &plain)?)))
    }

    fn aad(&self, kind: u8, name: &Name, (dek, link): (KeyId, u8)) -> Vec<u8> {
        let mut w = ctx("seal", self.merchant.as_str());
        w.u8(kind).fixed(name).u32(dek.0);
        if link != 1 {
            w.u8(link);
        }
        w.done()
    }
}

/// A row's bytes: what it is sealed under, which link names it, and its message.
fn row((dek, link): (KeyId, u8), message: &[u8]) -> Vec<u8> {
    let mut w = Writer::with_capacity(6 + message.len());
    w.u8(if link == 1 { ROW_FORMAT } else { LINKED_FORMAT }).u32(dek.0);
    if link != 1 {
        w.u8(link);
    }
    w.fixed(message).done()
}

/// A row's DEK, which link names it, and its message.
fn read(bytes: &[u8]) -> Option<(KeyId, u8, &[u8])> {
    let mut r = Reader::new(bytes);
    let format = r.u8().ok()?;
    let dek = KeyId(r.u32().ok()?);
    let link = match format {
        ROW_FORMAT => 1,
        LINKED_FORMAT => r.u8().ok().filter(|link| *link > 1)?,
        _ => return None,
    };
    Some((dek, link, r.rest()))
}
