//! How often a key was used, counted ahead: blocks of uses are put on disk before the first of them is made.
//!
//! A use is one step of a number in memory: no lock, no flush. A block is reserved by the journal while the one before it
//! lasts. After a kill the rest of a block counts as used, so a count never goes back. What is refused: a use without a
//! block (overload, until one is there), and any use beyond the key's limit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::codec::{Reader, Torn, Writer};
use crate::control::Control;
use crate::envelope::{KeyId, KeyKind};
use crate::error::Error;
use crate::rows;
use crate::store::{Expect, Key, Part, Value, Write};
use crate::words::KeyState;

/// Uses in one block: more than a full queue of the journal can hold of them (65,536 kilobytes, and no filing has more than
/// a handful of seals), so that the next block is there before this one ends.
pub const BLOCK: u64 = 1 << 20;

/// How many blocks a limit has at the least: so a start, which costs one, costs no more than this part of it.
pub const BLOCKS: u64 = 64;

/// A key's count on this node.
pub struct Counter {
    key: KeyId,
    kind: KeyKind,
    log: u32,
    /// What other nodes have reserved.
    elsewhere: u64,
    // INVARIANT: `take` keeps `used` at or below `reserved`, which is at most what this node's row on disk says.
    used: AtomicU64,
    reserved: AtomicU64,
    /// How many uses of all nodes the key has; the largest number where it has no limit.
    limit: AtomicU64,
    /// Whether a block was asked for and is on its way.
    asked: AtomicBool,
    low: Arc<Low>,
}

/// Where a counter that runs low says so.
#[derive(Default)]
struct Low {
    waiting: Mutex<Vec<Arc<Counter>>>,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// The key of a counter's row: kind u8, key id u32, log u32.
fn row_of(key: KeyId, log: u32) -> Key {
    Writer::with_capacity(9).u8(rows::USES).u32(key.0).u32(log).done()
}

/// A counter's row, read: key, log, and how many uses are reserved.
pub fn read_row(key: &[u8], value: &[u8]) -> Result<(KeyId, u32, u64), Torn> {
    let (mut name, mut count) = (Reader::new(key), Reader::new(value));
    if name.u8()? != rows::USES {
        return Err(Torn);
    }
    let read = (KeyId(name.u32()?), name.u32()?, count.u64()?);
    name.end()?;
    count.end()?;
    Ok(read)
}

impl Counter {
    /// Counts one use.
    ///
    /// Errors: [`Error::KeySpent`] beyond the key's limit; [`Error::Overloaded`] while no block is there.
    pub fn take(self: &Arc<Self>) -> Result<(), Error> {
        let reserved = self.reserved.load(Ordering::Acquire);
        let took = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            (used < reserved).then(|| used.saturating_add(1))
        });
        let left = took.map_or(0, |used| reserved.saturating_sub(used).saturating_sub(1));
        if left <= self.block() / 2 {
            self.ask();
        }
        match took {
            Ok(_) => Ok(()),
            Err(_) if self.is_spent() => Err(self.spent()),
            Err(_) => Err(Error::Overloaded),
        }
    }

    /// Whether anything may still be sealed, as far as the limit goes: what is asked before a token is looked for, so that a
    /// spent key tells nothing of the token.
    ///
    /// Errors: [`Error::KeySpent`].
    pub fn check(&self) -> Result<(), Error> {
        let over = self.used.load(Ordering::Relaxed) >= self.reserved.load(Ordering::Acquire);
        if over && self.is_spent() { Err(self.spent()) } else { Ok(()) }
    }

    fn spent(&self) -> Error {
        Error::KeySpent { key: self.key.0, kind: self.kind.as_str() }
    }

    /// Counts a use that nothing stops: that of a key without a limit. It may be ahead of its block by the few that are made
    /// while the block is on its way.
    pub fn note(self: &Arc<Self>) {
        let used = self.used.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if self.reserved.load(Ordering::Acquire).saturating_sub(used) <= self.block() / 2 {
            self.ask();
        }
    }

    /// Uses so far, of all nodes; the rest of a block that a kill cut off counts.
    #[must_use]
    pub fn uses(&self) -> u64 {
        self.elsewhere.saturating_add(self.used.load(Ordering::Relaxed))
    }

    /// Whether the limit is reached and nothing is left of the last block.
    fn is_spent(&self) -> bool {
        self.next().is_none()
    }

    fn block(&self) -> u64 {
        (self.limit.load(Ordering::Relaxed) / BLOCKS).clamp(1, BLOCK)
    }

    /// Up to where this node's row says that uses are reserved with the next block; none at the limit.
    fn next(&self) -> Option<u64> {
        let mine = self.limit.load(Ordering::Relaxed).saturating_sub(self.elsewhere);
        let reserved = self.reserved.load(Ordering::Acquire);
        let next = reserved.saturating_add(self.block()).min(mine);
        (next > reserved).then_some(next)
    }

    /// Asks the journal for a block, once until it has answered.
    fn ask(self: &Arc<Self>) {
        let asked = self.asked.load(Ordering::Relaxed) || self.asked.swap(true, Ordering::AcqRel);
        if asked {
            return;
        }
        self.low.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(self.clone());
        if let Some(wake) = self.low.wake.get() {
            wake();
        }
    }

    /// The next block: what it changes in the store, and up to where. None at the limit.
    pub(crate) fn reservation(&self) -> Option<(Part, u64)> {
        let next = self.next()?;
        let key = row_of(self.key, self.log);
        let reserved = self.reserved.load(Ordering::Acquire);
        // A counter that somebody put back is no premise for the next block.
        let expect = if reserved == 0 {
            Expect::Absent(key.clone())
        } else {
            Expect::Is(key.clone(), number(reserved))
        };
        Some((Part { expects: vec![expect], writes: vec![Write::Put(key, number(next))] }, next))
    }

    /// The block up to there is on disk.
    pub(crate) fn granted(&self, upto: u64) {
        self.reserved.fetch_max(upto, Ordering::AcqRel);
        self.asked.store(false, Ordering::Release);
    }

    /// There is no block now: it may be asked for again.
    pub(crate) fn refused(&self) {
        self.asked.store(false, Ordering::Release);
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.key
    }
}

fn number(count: u64) -> Value {
    count.to_be_bytes().to_vec()
}

/// The counters of one epoch's keys. Cheap to clone; those of keys that live on are shared.
#[derive(Clone)]
pub struct Uses {
    log: u32,
    counters: HashMap<KeyId, Arc<Counter>>,
    /// What the store said when the vault was opened.
    past: Arc<HashMap<KeyId, Past>>,
    low: Arc<Low>,
}

/// Uses that were reserved before.
#[derive(Default, Clone, Copy)]
struct Past {
    mine: u64,
    elsewhere: u64,
}

/// A block that begins to count once it is on disk.
pub struct Begun {
    counter: Arc<Counter>,
    upto: u64,
}

impl Begun {
    /// It is on disk.
    pub fn granted(&self) {
        self.counter.granted(self.upto);
    }
}

impl Uses {
    /// What the rows of the store say, for the node of this log. Nothing may be used before [`Uses::begin`].
    pub fn of(log: u32, rows: &[(Key, Value)]) -> Result<Self, Torn> {
        let mut past: HashMap<KeyId, Past> = HashMap::new();
        for (key, value) in rows {
            let (key, of, count) = read_row(key, value)?;
            let known = past.entry(key).or_default();
            let share = if of == log { &mut known.mine } else { &mut known.elsewhere };
            *share = share.saturating_add(count);
        }
        Ok(Self { log, counters: HashMap::new(), past: Arc::new(past), low: Arc::default() })
    }

    /// The same with a block for each key of `control` that seals and has none yet: what to write with whatever puts them in
    /// force, and what then begins to count. A key that seals no more keeps its count.
    #[must_use]
    pub fn begin(&self, control: &Control) -> (Self, Part, Vec<Begun>) {
        let (mut next, mut part, mut begun) = (self.clone(), Part::default(), Vec::new());
        let sealing = control.keys.iter().filter(|k| k.state == KeyState::Active && is_counted(k.kind));
        for record in sealing.filter(|k| !self.counters.contains_key(&k.id)) {
            let Past { mine, elsewhere } = self.past.get(&record.id).copied().unwrap_or_default();
            let counter = Arc::new(Counter {
                key: record.id,
                kind: record.kind,
                log: self.log,
                elsewhere,
                used: mine.into(),
                reserved: mine.into(),
                limit: limit(control, record.kind).into(),
                asked: false.into(),
                low: self.low.clone(),
            });
            if let Some((block, upto)) = counter.reservation() {
                counter.asked.store(true, Ordering::Relaxed);
                part.expects.extend(block.expects);
                part.writes.extend(block.writes);
                begun.push(Begun { counter: counter.clone(), upto });
            }
            next.counters.insert(record.id, counter);
        }
        (next, part, begun)
    }

    /// The limits are those of `control` from now on.
    pub fn limit(&self, control: &Control) {
        for counter in self.counters.values() {
            counter.limit.store(limit(control, counter.kind), Ordering::Relaxed);
        }
    }

    /// Counts one use of a key that seals.
    ///
    /// Errors: as [`Counter::take`]; internal for a key that is not counted.
    pub fn take(&self, key: KeyId) -> Result<(), Error> {
        self.counters.get(&key).ok_or_else(Error::internal)?.take()
    }

    /// Whether a key may still seal, as far as its limit goes: see [`Counter::check`].
    pub fn check(&self, key: KeyId) -> Result<(), Error> {
        self.counters.get(&key).ok_or_else(Error::internal)?.check()
    }

    /// A key's counter; none of a key that is not counted or seals no more since before the vault was opened.
    #[must_use]
    pub fn counter(&self, key: KeyId) -> Option<Arc<Counter>> {
        self.counters.get(&key).cloned()
    }

    /// How often a key was used so far, on all nodes, as far as it is counted here.
    #[must_use]
    pub fn uses(&self, key: KeyId) -> Option<u64> {
        let past = || self.past.get(&key).map(|past| past.mine.saturating_add(past.elsewhere));
        self.counters.get(&key).map(|c| c.uses()).or_else(past)
    }

    /// Whom to wake when a counter runs low; the first one stays.
    pub(crate) fn on_low(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _first = self.low.wake.set(Box::new(wake));
    }

    /// The counters that run low, each once.
    pub(crate) fn low(&self) -> Vec<Arc<Counter>> {
        std::mem::take(&mut *self.low.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn limit(control: &Control, kind: KeyKind) -> u64 {
    control.term(kind).uses.unwrap_or(u64::MAX)
}

/// Whether seals under a kind are counted here. Wraps and Control's own seals are counted by Control.
#[must_use]
pub fn is_counted(kind: KeyKind) -> bool {
    match kind {
        KeyKind::Dek | KeyKind::Trk | KeyKind::Esk | KeyKind::Adm | KeyKind::Log => true,
        KeyKind::Root
        | KeyKind::Ctl
        | KeyKind::Kek
        | KeyKind::Idx
        | KeyKind::Fpr
        | KeyKind::Ref
        | KeyKind::Idm
        | KeyKind::Rcv
        | KeyKind::Fpk => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{KeyMaterial as _, Root};
    use crate::time::Timestamp;

    /// A Control that has an administration and a log key, and no merchants.
    fn control() -> Control {
        let mut control = Control::first(Timestamp(0));
        let root = Root::generate().unwrap();
        let id = control.note_held(KeyKind::Root, root.check_value(), Timestamp(0));
        control.add_own_keys((&root, id), Timestamp(0)).unwrap();
        control
    }

    fn adm(control: &Control) -> KeyId {
        control.active(KeyKind::Adm, None).unwrap().id
    }

    fn counter(limit: u64, rows: &[(Key, Value)]) -> Arc<Counter> {
        let control = control();
        let (uses, part, begun) = Uses::of(0, rows).unwrap().begin(&control);
        let counter = uses.counter(adm(&control)).unwrap();
        assert!(!part.writes.is_empty());
        // What began under the longest term is begun anew under this one.
        counter.limit.store(limit, Ordering::Relaxed);
        drop(begun);
        if let Some((_, upto)) = counter.reservation() {
            counter.granted(upto);
        }
        counter
    }

    fn row(control: &Control, log: u32, count: u64) -> (Key, Value) {
        (row_of(adm(control), log), number(count))
    }

    #[test]
    fn nothing_is_used_before_its_block_is_on_disk() {
        let control = control();
        let (uses, part, begun) = Uses::of(0, &[]).unwrap().begin(&control);
        assert_eq!(uses.take(adm(&control)), Err(Error::Overloaded));
        assert_eq!(part.expects.len(), 2, "one block for each of the two keys that are counted");
        assert_eq!(part.writes.len(), 2);
        begun.iter().for_each(Begun::granted);
        assert_eq!(uses.take(adm(&control)), Ok(()));
        assert_eq!(uses.uses(adm(&control)), Some(1));
        let ctl = KeyId(99);
        assert!(matches!(uses.take(ctl), Err(Error::Internal { .. })), "what is not counted is not used");
        // A second version of Control begins nothing anew.
        let (again, part, begun) = uses.begin(&control);
        assert!(part.writes.is_empty() && begun.is_empty());
        assert_eq!(again.uses(adm(&control)), Some(1));
    }

    #[test]
    fn a_block_ends_in_overload_and_the_limit_in_a_hard_stop_that_says_what_to_do() {
        let counter = counter(640, &[]);
        let used = |wanted: u64| (0..wanted).filter(|_| counter.take().is_ok()).count();
        assert_eq!(used(11), 10, "a block is a sixty-fourth of the limit");
        assert_eq!(counter.take(), Err(Error::Overloaded));
        let mut blocks = 1;
        while let Some((part, upto)) = counter.reservation() {
            assert_eq!(part.writes, [Write::Put(row_of(counter.key(), 0), number(upto))]);
            counter.granted(upto);
            assert_eq!(used(11), 10);
            blocks += 1;
        }
        assert_eq!((blocks, counter.uses()), (BLOCKS, 640));
        let told = counter.take().unwrap_err();
        assert_eq!(told, Error::KeySpent { key: counter.key().0, kind: "adm" });
        assert!(told.to_string().contains("keys rotate"), "{told}");
        // A limit that is raised again lets it go on; one that is lowered stops it once its block is over.
        counter.limit.store(6_400, Ordering::Relaxed);
        assert_eq!(counter.take(), Err(Error::Overloaded));
        counter.limit.store(64, Ordering::Relaxed);
        assert!(matches!(counter.take(), Err(Error::KeySpent { .. })));
    }

    #[test]
    fn what_was_reserved_before_counts_as_used_and_other_nodes_blocks_with_it() {
        let control = control();
        let rows = [row(&control, 0, 1_000), row(&control, 1, 70), row(&control, 2, 5)];
        let (uses, part, begun) = Uses::of(0, &rows).unwrap().begin(&control);
        assert_eq!(uses.uses(adm(&control)), Some(1_075));
        assert!(part.expects.contains(&Expect::Is(row_of(adm(&control), 0), number(1_000))));
        begun.iter().for_each(Begun::granted);
        assert_eq!(uses.take(adm(&control)), Ok(()));
        assert_eq!(uses.uses(adm(&control)), Some(1_076));
        let limited = counter(1_280, &rows);
        let taken = (0..300).filter(|_| limited.take().is_ok()).count();
        assert_eq!(taken, 20, "one block");
    }

    #[test]
    fn a_counter_that_runs_low_asks_once_until_it_is_answered() {
        let control = control();
        let (uses, _, begun) = Uses::of(0, &[]).unwrap().begin(&control);
        let woken = Arc::new(AtomicU64::new(0));
        let wakes = woken.clone();
        uses.on_low(move || {
            wakes.fetch_add(1, Ordering::Relaxed);
        });
        begun.iter().for_each(Begun::granted);
        let counter = uses.counter(adm(&control)).unwrap();
        for _ in 0..BLOCK / 2 - 1 {
            counter.take().unwrap();
        }
        assert!(uses.low().is_empty());
        for _ in 0..10 {
            counter.take().unwrap();
        }
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        let low = uses.low();
        assert_eq!(low.len(), 1);
        low[0].refused();
        counter.take().unwrap();
        assert_eq!(uses.low().len(), 1, "a block that was refused is asked for again");
        let (_, upto) = counter.reservation().unwrap();
        counter.granted(upto);
        counter.take().unwrap();
        assert!(uses.low().is_empty());
        assert_eq!(upto, 2 * BLOCK);
    }

    #[test]
    fn threads_that_use_a_key_at_once_use_no_more_than_was_reserved() {
        let counter = counter(64_000, &[]);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..500).filter(|_| counter.take().is_ok()).count())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 1_000);
        assert_eq!(counter.uses(), 1_000);
    }

    #[test]
    fn a_row_that_is_torn_is_no_count() {
        let control = control();
        let (key, value) = row(&control, 0, 7);
        assert_eq!(read_row(&key, &value), Ok((adm(&control), 0, 7)));
        for (key, value) in [
            (&key[..8], &value[..]),
            (&key[..], &value[..7]),
            (&key[..], &[0; 9][..]),
            (&[b'r', 0, 0, 0, 1, 0, 0, 0, 0][..], &value[..]),
        ] {
            assert_eq!(read_row(key, value), Err(Torn));
        }
    }
}
