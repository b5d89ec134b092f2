//! Names that are chained: what a row was named first is what it is for good, and where it lies is made of that, link by link.
//!
//! Each version of the key that names rows makes the next name of the one before, so a row is renamed by whoever has the
//! keys, without token or card. Whatever points to a row names it by its first name and is never rewritten. Refused: a
//! chain longer than [`MAX_LINKS`], and another link while rows still lie under the one before the last.

use crate::codec::Writer;
use crate::control::{Control, KeyRecord};
use crate::envelope::{Kek, KeyId, KeyMaterial, Wraps, ctx};
use crate::error::Error;
use crate::name::MerchantName;
use crate::record::MerchantId;
use crate::store::Key;
use crate::words::KeyState;

/// The most links of a chain: each look-up makes all of them, some 0.3 µs each. At a link every two years, thirty years.
pub const MAX_LINKS: u8 = 16;

/// The bytes of a name.
pub type Name = [u8; 16];

/// What makes a name of a message under a key.
pub type Mac<K> = fn(&K, &[u8]) -> Name;

/// Where a row lies, or will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The row's key in the store.
    pub key: Key,
    /// What it was named first.
    pub first: Name,
    /// What it is named here.
    pub name: Name,
    /// Which link of its chain that is, from 1.
    pub link: u8,
}

/// Where a row may lie: while rows are being renamed, it is under one name or under the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Where it lies unless it was renamed; none while no rows are.
    pub before: Option<Place>,
    /// Where it lies else, and where a new one is put.
    pub now: Place,
}

impl Places {
    /// The keys to look under, in the order to do so: a row that is renamed in between is seen at least once.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.before.iter().chain([&self.now]).map(|place| place.key.clone())
    }
}

/// Every store key of a card, fingerprint or subject row: kind u8, merchant u32, 16 bytes.
#[must_use]
pub fn merchant_row(kind: u8, merchant: MerchantId, name: &Name) -> Key {
    Writer::with_capacity(21).u8(kind).u32(merchant.0).fixed(name).done()
}

/// A merchant's keys of one kind that name rows, by version.
pub struct Chain<K> {
    merchant: MerchantName,
    label: &'static str,
    mac: Mac<K>,
    first: (KeyId, K),
    later: Vec<(KeyId, K)>,
    /// Whether rows may lie under the link before the last.
    renaming: bool,
}

impl<K: KeyMaterial> Chain<K>
where
    Kek: Wraps<K>,
{
    /// Unwraps the links. `label` is that of each link after the first, `mac` what makes a name.
    pub fn unwrap(
        control: &Control,
        merchant: &MerchantName,
        kek_of: impl Fn(&KeyRecord) -> Result<std::sync::Arc<Kek>, Error>,
        (label, mac): (&'static str, Mac<K>),
    ) -> Result<Self, Error> {
        let mine = |k: &&KeyRecord| k.kind == K::KIND && k.merchant.as_ref() == Some(merchant);
        let mut links = Vec::new();
        for record in control.keys.iter().filter(mine) {
            if record.state == KeyState::Destroyed {
                return Err(Error::Custody);
            }
            links.push((record.id, record.unwrap(&*kek_of(record)?)?));
        }
        if links.is_empty() || links.len() > usize::from(MAX_LINKS) {
            return Err(Error::Custody);
        }
        let first = links.remove(0);
        let renaming = control.undrained(merchant, K::KIND).next().is_some();
        Ok(Self { merchant: merchant.clone(), label, mac, first, later: links, renaming })
    }

    /// What is named by `message` is named so first.
    #[must_use]
    pub fn first(&self, message: &[u8]) -> Name {
        (self.mac)(&self.first.1, message)
    }

    /// The last link's number.
    #[must_use]
    pub fn newest(&self) -> u8 {
        u8::try_from(self.later.len()).unwrap_or(MAX_LINKS).saturating_add(1)
    }

    /// The key that makes a link.
    #[must_use]
    pub fn key_of(&self, link: u8) -> Option<KeyId> {
        match usize::from(link.checked_sub(1)?) {
            0 => Some(self.first.0),
            later => self.later.get(later - 1).map(|(id, _)| *id),
        }
    }

    /// The last link's name of what is named `name` at `link`.
    #[must_use]
    pub fn onward(&self, name: Name, link: u8) -> Name {
        self.folded(name, usize::from(link.saturating_sub(1)), self.later.len())
    }

    /// Where a row of this kind may lie that was named `first` first.
    #[must_use]
    pub fn places(&self, kind: u8, merchant: MerchantId, first: Name) -> Places {
        let all = self.later.len();
        let place =
            |name: Name, link: u8| Place { key: merchant_row(kind, merchant, &name), first, name, link };
        let before = self.folded(first, 0, all.saturating_sub(1));
        let now = self.folded(before, all.saturating_sub(1), all);
        let newest = self.newest();
        Places {
            before: self.renaming.then(|| place(before, newest.saturating_sub(1))),
            now: place(now, newest),
        }
    }

    /// Whether a row may lie under this link.
    #[must_use]
    pub fn holds(&self, link: u8) -> bool {
        link == self.newest() || (self.renaming && link.saturating_add(1) == self.newest())
    }

    fn folded(&self, name: Name, from: usize, to: usize) -> Name {
        let links = self.later.iter().skip(from).take(to.saturating_sub(from));
        links.fold(name, |link, (_, key)| {
            (self.mac)(key, &ctx(self.label, self.merchant.as_str()).e(&link).done())
        })
    }
}
