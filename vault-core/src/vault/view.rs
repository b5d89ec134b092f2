//! Rows as one round of work sees them: what was read, and what the round itself means to write.
//!
//! Each part expects what the view shows when the part is made. So the items of a batch may build on each other (two of
//! one card, three of one customer) and still commit as one.

use std::collections::HashMap;

use crate::aead::Unopened;
use crate::chain::{Place, Places};
use crate::store::{Expect, Key, Part, Store, StoreError, Value, Write};

/// Rows by key: `Some(None)` is known to be absent.
#[derive(Default)]
pub(super) struct View {
    rows: HashMap<Key, Option<Value>>,
}

impl View {
    /// Reads those of `keys` that are not known yet.
    pub(super) async fn read(&mut self, store: &dyn Store, keys: Vec<Key>) -> Result<(), StoreError> {
        let wanted: Vec<Key> = keys.into_iter().filter(|key| !self.rows.contains_key(key)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let values = store.get(&wanted).await?;
        self.rows.extend(wanted.into_iter().zip(values));
        Ok(())
    }

    /// A row; `None` if it is absent or was never read.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.rows.get(key)?.as_deref()
    }

    /// Where a row lies, of the places that were read; where a new one is put, if it is nowhere. A row in two places was put
    /// back into one of them by somebody: it is none.
    pub(super) fn at(&self, places: &Places) -> Result<Place, Unopened> {
        let lies = |place: &&Place| self.get(&place.key).is_some();
        match (places.before.as_ref().filter(lies), lies(&&places.now)) {
            (Some(_), true) => Err(Unopened),
            (Some(before), false) => Ok(before.clone()),
            (None, _) => Ok(places.now.clone()),
        }
    }

    /// Lets `part` rest on the row being as it is seen here.
    pub(super) fn rely(&self, part: &mut Part, key: &Key) {
        part.expects.push(match self.get(key) {
            None => Expect::Absent(key.clone()),
            Some(value) => Expect::Is(key.clone(), value.to_vec()),
        });
    }

    /// Lets `part` replace the row as it is seen here.
    pub(super) fn put(&mut self, part: &mut Part, key: Key, value: Value) {
        self.rely(part, &key);
        part.writes.push(Write::Put(key.clone(), value.clone()));
        self.rows.insert(key, Some(value));
    }
}
