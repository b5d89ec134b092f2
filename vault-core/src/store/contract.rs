//! What every engine must keep: the sentences of [`Store`]'s contract, each a function that fails by panicking.
//!
//! An engine's tests run them all (see `contract_tests!` and [`all`]); a new engine brings nothing but a way to make a
//! fresh store. It takes no engine's word for anything: what should be there is worked out on a plain sorted map. Only
//! in tests and under the feature `testing`.

#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::must_use_candidate,
    clippy::type_complexity,
    reason = "a test that other crates can run"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{
    Batch, CommitError, Engine, Expect, Key, MAX_KEY, MAX_SCAN, MAX_VALUE, Options, Part, Store, StoreError,
    Value, Write, create, open,
};

/// A fresh store, and how to open it again.
pub struct Made {
    /// The store, open.
    pub store: Arc<dyn Store>,
    reopen: Box<dyn Fn() -> Arc<dyn Store>>,
}

impl Made {
    /// A fresh `store` that `reopen` opens again once it was closed.
    pub fn new(store: Arc<dyn Store>, reopen: impl Fn() -> Arc<dyn Store> + 'static) -> Self {
        Self { store, reopen: Box::new(reopen) }
    }

    /// A fresh store in the folder `folder`.
    #[must_use]
    pub fn in_folder(folder: &Path, engine: Engine, options: Options) -> Self {
        let store = create(folder, engine, &options).unwrap();
        let folder = folder.to_owned();
        Self::new(store, move || open(&folder, &options).unwrap())
    }

    /// Closes the store and opens it again.
    #[must_use]
    pub fn again(self) -> Self {
        let Self { store, reopen } = self;
        drop(store);
        Self { store: reopen(), reopen }
    }
}

/// Makes a fresh store.
pub type Fresh<'a> = &'a dyn Fn() -> Made;

macro_rules! sentences {
    ($($(#[$doc:meta])* fn $name:ident($fresh:ident) $body:block)+) => {
        $($(#[$doc])* pub fn $name($fresh: Fresh<'_>) $body)+

        /// Every sentence, one after the other.
        pub fn all(fresh: Fresh<'_>) {
            $($name(fresh);)+
        }

        /// A test per sentence, on the stores that the function `$fresh` makes.
        #[cfg(test)]
        macro_rules! contract_tests {
            ($of:path) => {
                $(#[test] fn $name() { $crate::store::contract::$name(&$of); })+

                proptest::proptest! {
                    #![proptest_config(proptest::test_runner::Config::with_cases(24))]
                    #[test]
                    fn it_agrees_with_a_sorted_map(steps in $crate::store::contract::scripts::steps()) {
                        $crate::store::contract::agrees_with_a_sorted_map(&$of, &steps);
                    }
                }
            };
        }
        #[cfg(test)]
        pub(crate) use contract_tests;
    };
}

sentences! {
    /// `get` answers in the order asked, also the same key twice, and knows absent rows.
    fn get_answers_in_the_order_asked(fresh) {
        let made = fresh();
        put_all(&*made.store, &[(b"a", b"1"), (b"b", b""), (b"\xff\xff", b"3")]);
        let got = get(&*made.store, &[b"\xff\xff", b"none", b"a", b"b", b"a", b""]);
        let expected: [Option<&[u8]>; 6] = [Some(b"3"), None, Some(b"1"), Some(b""), Some(b"1"), None];
        assert_eq!(got.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
        assert_eq!(get(&*made.store, &[]), Vec::<Option<Value>>::new());
    }

    /// `scan` gives what is under the prefix and after the key, ascending, at most so many; 0xff is a byte like others.
    fn scan_gives_pages_of_what_is_under_the_prefix(fresh) {
        let made = fresh();
        let keys: [&[u8]; 9] =
            [b"", b"a", b"a\0", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff", b"\xff\xff\xff"];
        put_all(&*made.store, &keys.map(|key| (key, b"v".as_slice())));
        let cases: [(&[u8], Option<&[u8]>, usize, &[&[u8]]); 16] = [
            (b"", None, 100, &keys),
            (b"", Some(b""), 100, &keys[1..]),
            (b"a", None, 100, &keys[1..5]),
            (b"a", None, 2, &keys[1..3]),
            (b"a", None, 0, &[]),
            (b"a", Some(b"a"), 100, &keys[2..5]),
            (b"a", Some(b"a\0"), 1, &keys[3..4]),
            (b"a", Some(b"a\xfe"), 100, &keys[3..5]),
            (b"a", Some(b"a\xff\xff"), 100, &[]),
            (b"a", Some(b"\0"), 100, &keys[1..5]),
            (b"a", Some(b"b"), 100, &[]),
            (b"a\xff", None, 100, &keys[3..5]),
            (b"\xff", None, 100, &keys[6..9]),
            (b"\xff\xff", None, 100, &keys[7..9]),
            (b"\xff", Some(b"\xff\xff"), usize::MAX, &keys[8..9]),
            (b"c", None, 100, &[]),
        ];
        for (prefix, after, limit, expected) in cases {
            let rows = scan(&*made.store, prefix, after, limit);
            let found: Vec<&[u8]> = rows.iter().map(|(key, _)| key.as_slice()).collect();
            assert_eq!(found, expected, "{prefix:?} after {after:?}, at most {limit}");
        }
    }

    /// Nothing of a batch is there if its guard or any part fails, and the store goes on.
    fn a_batch_is_applied_whole_or_not_at_all(fresh) {
        let made = fresh();
        let store = &*made.store;
        put_all(store, &[(b"epoch", b"1"), (b"row", b"old")]);
        let batch = |guard, expects| Batch {
            guard,
            parts: vec![
                Part { expects: vec![], writes: vec![put(b"row", b"new"), Write::Add(key(b"count"), 1)] },
                Part { expects, writes: vec![Write::Delete(key(b"epoch"))] },
            ],
            head: vec![put(b"head", b"1")],
        };
        let refusals = [
            (batch(vec![is(b"epoch", b"2")], vec![]), CommitError::Guard),
            (batch(vec![Expect::Absent(key(b"epoch"))], vec![]), CommitError::Guard),
            (batch(vec![is(b"none", b"")], vec![is(b"row", b"old")]), CommitError::Guard),
            (batch(vec![], vec![is(b"row", b"old")]), CommitError::Parts(vec![1])),
            (batch(vec![is(b"epoch", b"1")], vec![Expect::Absent(key(b"count"))]), CommitError::Parts(vec![1])),
        ];
        let before = scan(store, b"", None, MAX_SCAN);
        for (batch, refusal) in refusals {
            assert_eq!(store.commit(&batch), Err(refusal));
            assert_eq!(scan(store, b"", None, MAX_SCAN), before);
        }
        let kept = batch(vec![is(b"epoch", b"1")], vec![is(b"row", b"new"), is(b"count", &1_u64.to_be_bytes())]);
        assert_eq!(store.commit(&kept), Ok(()));
        let after: [Option<&[u8]>; 4] = [None, Some(b"new"), Some(&[0, 0, 0, 0, 0, 0, 0, 1]), Some(b"1")];
        let got = get(store, &[b"epoch", b"row", b"count", b"head"]);
        assert_eq!(got.iter().map(Option::as_deref).collect::<Vec<_>>(), after);
    }

    /// All failing parts are named at once, each judged with the failing ones before it left out, and without them the
    /// rest is applied.
    fn all_failing_parts_are_named_at_once(fresh) {
        let made = fresh();
        let store = &*made.store;
        let take = |name: &[u8], then: &[u8]| Part {
            expects: vec![Expect::Absent(key(name))],
            writes: vec![put(name, then)],
        };
        let needs = |name: &[u8], value: &[u8], then: &[u8]| Part {
            expects: vec![is(name, value)],
            writes: vec![put(then, b"")],
        };
        let parts = vec![
            take(b"a", b"0"),         // applied
            take(b"a", b"1"),         // fails: part 0 took it
            needs(b"a", b"0", b"b"),  // applied: sees part 0
            needs(b"a", b"1", b"c"),  // fails: part 1 was left out
            needs(b"c", b"", b"d"),   // fails: part 3 was left out
            take(b"c", b"5"),         // applied: nobody else took it
        ];
        let batch = Batch { parts, ..Batch::default() };
        assert_eq!(store.commit(&batch), Err(CommitError::Parts(vec![1, 3, 4])));
        assert_eq!(scan(store, b"", None, MAX_SCAN), vec![]);
        let left = [0, 2, 5].map(|index| batch.parts[index].clone()).to_vec();
        assert_eq!(store.commit(&Batch { parts: left, ..Batch::default() }), Ok(()));
        let rows = scan(store, b"", None, MAX_SCAN);
        assert_eq!(rows, [(b"a", b"0".as_slice()), (b"b", b""), (b"c", b"5")].map(|(k, v)| (key(k), v.to_vec())));
    }

    /// Counters begin at zero, add up over parts, head and commits, and stay at the top.
    fn counters_add_up_and_saturate(fresh) {
        let made = fresh();
        let store = &*made.store;
        let add = |more| Write::Add(key(b"n"), more);
        let part = |writes| Part { expects: vec![], writes };
        let batch = Batch { parts: vec![part(vec![add(1), add(2)]), part(vec![add(4)])], head: vec![add(8)], guard: vec![] };
        for expected in [15_u64, 30] {
            assert_eq!(store.commit(&batch), Ok(()));
            assert_eq!(get(store, &[b"n"]), [Some(expected.to_be_bytes().to_vec())]);
        }
        let steps = [
            (vec![add(u64::MAX - 31)], u64::MAX - 1),
            (vec![add(1), add(1)], u64::MAX),
            (vec![Write::Delete(key(b"n")), add(3)], 3),
            (vec![put(b"n", &7_u64.to_be_bytes()), add(0)], 7),
        ];
        for (head, expected) in steps {
            assert_eq!(store.commit(&Batch { head, ..Batch::default() }), Ok(()));
            assert_eq!(get(store, &[b"n"]), [Some(expected.to_be_bytes().to_vec())]);
        }
    }

    /// A counter that is no counter is a damaged store: nothing is written, and the engine stops.
    fn a_counter_of_the_wrong_size_stops_the_engine(fresh) {
        for wrong in [b"".as_slice(), b"1234567", b"123456789"] {
            let made = fresh();
            put_all(&*made.store, &[(b"n", wrong)]);
            let head = vec![put(b"other", b"1"), Write::Add(key(b"n"), 1)];
            let told = made.store.commit(&Batch { head, ..Batch::default() });
            assert_eq!(told, Err(CommitError::Store(StoreError::Corrupt)));
            let told = made.store.commit(&Batch { head: vec![put(b"x", b"")], ..Batch::default() });
            assert_eq!(told, Err(CommitError::Store(StoreError::Away)));
            assert_eq!(pollster::block_on(made.store.get(&[key(b"n")])), Err(StoreError::Away));
            assert_eq!(pollster::block_on(made.store.scan(b"", None, 1)), Err(StoreError::Away));
            assert_eq!(made.store.commits(), 1);
        }
    }

    /// What was committed is there when the store is opened again, and what was deleted is not.
    fn everything_is_there_after_reopening(fresh) {
        let mut made = fresh();
        let mut model = BTreeMap::new();
        for round in 0..5_u8 {
            for n in 0..20_u8 {
                let (name, value) = (vec![b'k', n], vec![round; usize::from(n) * 50]);
                made.store.commit(&Batch { head: vec![Write::Put(name.clone(), value.clone())], ..Batch::default() }).unwrap();
                model.insert(name, value);
            }
            made.store.commit(&Batch { head: vec![Write::Delete(vec![b'k', round])], ..Batch::default() }).unwrap();
            model.remove(&vec![b'k', round]);
            made = made.again();
            assert_eq!(scan(&*made.store, b"", None, MAX_SCAN), model.clone().into_iter().collect::<Vec<_>>());
        }
    }

    /// Only what reached the disk is counted: a refused batch and one without changes write nothing.
    fn commits_are_counted_once_each(fresh) {
        let made = fresh();
        let store = &*made.store;
        assert_eq!(store.commits(), 0);
        put_all(store, &[(b"a", b"1")]);
        assert_eq!(store.commits(), 1);
        assert_eq!(store.commit(&Batch { guard: vec![is(b"a", b"1")], ..Batch::default() }), Ok(()));
        assert_eq!(store.commit(&Batch { guard: vec![is(b"a", b"2")], ..Batch::default() }), Err(CommitError::Guard));
        assert_eq!(store.commits(), 1);
        let part = Part { expects: vec![], writes: vec![put(b"a", b"2"), Write::Delete(key(b"none"))] };
        assert_eq!(store.commit(&Batch { parts: vec![part; 64], ..Batch::default() }), Ok(()));
        assert_eq!(store.commits(), 2);
    }

    /// Values up to the bound are kept, made shorter and longer and deleted without a trace in their neighbours; over
    /// the bound they are refused and the store goes on.
    fn large_values_are_rows_like_others(fresh) {
        let mut made = fresh();
        let mut model = BTreeMap::from([(key(b"l"), b"before".to_vec()), (key(b"large\0"), b"after".to_vec())]);
        put_all(&*made.store, &[(b"l", b"before"), (b"large\0", b"after")]);
        let lengths = [4_095, 4_096, 4_097, 1 << 20, (1 << 20) - 1, 1, MAX_VALUE, 8_192, 0, 100_000];
        for (round, length) in (0_u8..).zip(lengths) {
            let value: Value = (0..length).map(|n| (n % 251).to_le_bytes()[0] ^ round).collect();
            made.store.commit(&Batch { head: vec![Write::Put(key(b"large"), value.clone())], ..Batch::default() }).unwrap();
            model.insert(key(b"large"), value);
            assert_eq!(get(&*made.store, &[b"large"]), [model.get(b"large".as_slice()).cloned()], "{length}");
            if round % 3 == 0 {
                made = made.again();
            }
            assert!(scan(&*made.store, b"", None, MAX_SCAN).into_iter().eq(model.clone()), "{length}");
        }
        let too_large = [
            Write::Put(key(b"large"), vec![0; MAX_VALUE + 1]),
            Write::Put(vec![0; MAX_KEY + 1], vec![]),
            Write::Delete(vec![0; MAX_KEY + 1]),
            Write::Add(vec![0; MAX_KEY + 1], 1),
        ];
        for write in too_large {
            let told = made.store.commit(&Batch { head: vec![write], ..Batch::default() });
            assert_eq!(told, Err(CommitError::Store(StoreError::TooLarge)));
        }
        let head = vec![Write::Delete(key(b"large")), Write::Put(vec![1; MAX_KEY], vec![1])];
        made.store.commit(&Batch { head, ..Batch::default() }).unwrap();
        model.remove(b"large".as_slice());
        model.insert(vec![1; MAX_KEY], vec![1]);
        assert!(scan(&*made.again().store, b"", None, MAX_SCAN).into_iter().eq(model));
    }

    /// Ten thousand rows go in as one batch, come out in pages, and go as one batch.
    fn ten_thousand_rows_are_one_batch(fresh) {
        let made = fresh();
        let name = |n: u32| [b"r".as_slice(), &n.wrapping_mul(2_654_435_761).to_be_bytes()].concat();
        let row = |n: u32| Part {
            expects: vec![Expect::Absent(name(n))],
            writes: vec![Write::Put(name(n), vec![0xA5; 200]), Write::Add(key(b"count"), 1)],
        };
        let batch = Batch { parts: (0..10_000).map(row).collect(), ..Batch::default() };
        made.store.commit(&batch).unwrap();
        assert_eq!(made.store.commits(), 1);
        assert_eq!(made.store.commit(&batch), Err(CommitError::Parts((0..10_000).collect())));
        let made = made.again();
        let mut found: Vec<Key> = Vec::new();
        loop {
            let page = scan(&*made.store, b"r", found.last().map(Vec::as_slice), 3_000);
            if page.is_empty() {
                break;
            }
            assert!(page.iter().all(|(_, value)| *value == [0xA5; 200]));
            found.extend(page.into_iter().map(|(name, _)| name));
        }
        let mut expected: Vec<Key> = (0..10_000).map(name).collect();
        expected.sort();
        assert!(found == expected, "{} rows", found.len());
        assert_eq!(get(&*made.store, &[b"count"]), [Some(10_000_u64.to_be_bytes().to_vec())]);
        let head = found.into_iter().map(Write::Delete).collect();
        made.store.commit(&Batch { head, ..Batch::default() }).unwrap();
        assert_eq!(scan(&*made.store, b"r", None, MAX_SCAN), vec![]);
    }

    /// A page has at most [`MAX_SCAN`] rows, whatever is asked.
    fn a_page_is_bounded(fresh) {
        let made = fresh();
        let rows = (0..=u32::try_from(MAX_SCAN).unwrap()).map(|n| Write::Put(n.to_be_bytes().to_vec(), vec![]));
        made.store.commit(&Batch { head: rows.collect(), ..Batch::default() }).unwrap();
        assert_eq!(scan(&*made.store, b"", None, usize::MAX).len(), MAX_SCAN);
    }

    /// Readers beside a writer see each batch whole or not at all, and never an older one after a newer one.
    fn readers_see_whole_batches_only(fresh) {
        let made = fresh();
        let names: [&[u8]; 4] = [b"a", b"m1", b"m2", b"z"];
        let write = |n: u64| {
            let value = [n.to_be_bytes().to_vec(), vec![0; 3_000]].concat();
            let head = names.iter().map(|name| Write::Put(key(name), value.clone())).collect();
            made.store.commit(&Batch { head, ..Batch::default() }).unwrap();
        };
        write(0);
        let store = &*made.store;
        let done = AtomicBool::new(false);
        let rounds = [AtomicU64::new(0), AtomicU64::new(0)];
        let watch = |rounds: &AtomicU64, look: &dyn Fn() -> Vec<Value>| {
            let mut last = 0;
            while !done.load(Ordering::SeqCst) {
                let values = look();
                assert_eq!(values.len(), names.len());
                assert!(values.iter().all(|value| *value == values[0]), "half a batch was seen");
                let n = u64::from_be_bytes(*values[0].first_chunk().unwrap());
                assert!(n >= last, "{n} was seen after {last}");
                last = n;
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        };
        let by_get = || get(store, &names).into_iter().flatten().collect();
        let by_scan = || scan(store, b"", None, 10).into_iter().map(|(_, value)| value).collect();
        std::thread::scope(|threads| {
            let readers =
                [threads.spawn(|| watch(&rounds[0], &by_get)), threads.spawn(|| watch(&rounds[1], &by_scan))];
            // Until both had their chance, however fast the engine is and however busy the machine.
            let seen = || rounds.iter().all(|rounds| rounds.load(Ordering::SeqCst) >= 50);
            for n in 1..1_000_000 {
                write(n);
                if n >= 200 && seen() || readers.iter().any(std::thread::ScopedJoinHandle::is_finished) {
                    break;
                }
            }
            done.store(true, Ordering::SeqCst);
            for reader in readers {
                reader.join().unwrap();
            }
            assert!(seen(), "nobody read");
        });
    }
}

/// What is done to a store and to a sorted map beside it.
#[derive(Debug, Clone)]
pub enum Step {
    /// A commit, whatever comes of it.
    Commit(Batch),
    /// Close and open again.
    Reopen,
}

/// After every step the store answers as a sorted map does on which batches are applied one write at a time.
pub fn agrees_with_a_sorted_map(fresh: Fresh<'_>, steps: &[Step]) {
    let mut made = fresh();
    let mut model = BTreeMap::new();
    for step in steps {
        match step {
            Step::Commit(batch) => assert_eq!(made.store.commit(batch), told(&mut model, batch), "{batch:?}"),
            Step::Reopen => made = made.again(),
        }
        let rows = scan(&*made.store, b"", None, MAX_SCAN);
        assert!(rows.into_iter().eq(model.clone()), "after {step:?}");
    }
}

/// The contract of `commit`, in so many words, on a map.
fn told(rows: &mut BTreeMap<Key, Value>, batch: &Batch) -> Result<(), CommitError> {
    let mut trial = rows.clone();
    let holds = |rows: &BTreeMap<Key, Value>, expect: &Expect| match expect {
        Expect::Absent(name) => !rows.contains_key(name),
        Expect::Is(name, value) => rows.get(name) == Some(value),
    };
    if !batch.guard.iter().all(|expect| holds(&trial, expect)) {
        return Err(CommitError::Guard);
    }
    let mut failing = vec![];
    for (index, part) in batch.parts.iter().enumerate() {
        if part.expects.iter().all(|expect| holds(&trial, expect)) {
            part.writes.iter().for_each(|write| apply(&mut trial, write));
        } else {
            failing.push(index);
        }
    }
    if !failing.is_empty() {
        return Err(CommitError::Parts(failing));
    }
    batch.head.iter().for_each(|write| apply(&mut trial, write));
    *rows = trial;
    Ok(())
}

fn apply(rows: &mut BTreeMap<Key, Value>, write: &Write) {
    match write {
        Write::Put(name, value) => drop(rows.insert(name.clone(), value.clone())),
        Write::Delete(name) => drop(rows.remove(name)),
        Write::Add(name, more) => {
            let count = rows.get(name).map_or(0, |bytes| u64::from_be_bytes(*bytes.first_chunk().unwrap()));
            rows.insert(name.clone(), count.saturating_add(*more).to_be_bytes().to_vec());
        }
    }
}

/// A disk that fills up: with the guard, commits answer [`StoreError::Full`], change nothing, reads go on, and once
/// there is room again so do commits.
///
/// `folder` must be on a small disk of its own (32 MiB to 1 GiB, also a tmpfs); this fills it and makes room again.
pub fn a_full_disk_changes_nothing_and_reads_go_on(folder: &Path, engine: Engine) {
    let options = Options { reserve: 4 << 20, ..Options::default() };
    let made = Made::in_folder(&folder.join("full"), engine, options);
    let ballast = folder.join("ballast");
    fill(&ballast, 6 << 20);
    let mut model = BTreeMap::new();
    let full = Err(CommitError::Store(StoreError::Full));
    let mut next = 0_u32;
    loop {
        let batch = filling(next);
        match made.store.commit(&batch) {
            Ok(()) => batch.head.iter().for_each(|write| apply(&mut model, write)),
            error => {
                assert_eq!(error, full);
                break;
            }
        }
        next += 1;
        assert!(next < 10_000, "the disk never filled up");
    }
    for _ in 0..3 {
        assert!(rows_are(&*made.store, &model));
        assert_eq!(made.store.commit(&filling(next)), full);
    }
    let made = made.again();
    assert!(rows_are(&*made.store, &model), "after opening on a full disk");
    assert_eq!(made.store.commit(&filling(next)), full);
    fs::remove_file(ballast).unwrap();
    assert_eq!(made.store.commit(&filling(next)), Ok(()));
    filling(next).head.iter().for_each(|write| apply(&mut model, write));
    assert!(rows_are(&*made.again().store, &model), "after making room");
}

/// A disk that fills up under an engine without its guard (another program was faster): the engine stops, what was
/// acknowledged is there when it is opened again with room, and the last batch is there whole or not at all.
///
/// `folder` as in [`a_full_disk_changes_nothing_and_reads_go_on`]. Gives what the failing commit was told.
pub fn a_disk_filled_by_others_stops_the_engine_and_loses_nothing(
    folder: &Path,
    engine: Engine,
) -> CommitError {
    let options = Options { reserve: 0, ..Options::default() };
    let made = Made::in_folder(&folder.join("filled"), engine, options);
    let ballast = folder.join("ballast");
    fill(&ballast, 1 << 20);
    let mut model = BTreeMap::new();
    let mut next = 0_u32;
    let told = loop {
        let batch = filling(next);
        if let Err(error) = made.store.commit(&batch) {
            break error;
        }
        batch.head.iter().for_each(|write| apply(&mut model, write));
        next += 1;
        assert!(next < 10_000, "the disk never filled up");
    };
    assert!(matches!(told, CommitError::Store(StoreError::Io(_))), "{told:?}");
    fs::remove_file(ballast).unwrap();
    assert_eq!(made.store.commit(&filling(next)), Err(CommitError::Store(StoreError::Away)));
    assert_eq!(pollster::block_on(made.store.get(&[])), Err(StoreError::Away));
    let made = made.again();
    let mut with_the_last = model.clone();
    filling(next).head.iter().for_each(|write| apply(&mut with_the_last, write));
    assert!(rows_are(&*made.store, &model) || rows_are(&*made.store, &with_the_last));
    assert_eq!(made.store.commit(&filling(next)), Ok(()));
    assert!(rows_are(&*made.again().store, &with_the_last));
    told
}

/// Fills the disk under `path` until about `left` bytes are free.
fn fill(path: &Path, left: usize) {
    let mut file = File::create(path).unwrap();
    let block = vec![0xA5; 64 << 10];
    while file.write_all(&block).is_ok() {}
    let len = file.metadata().unwrap().len();
    file.set_len(len.saturating_sub(u64::try_from(left).unwrap())).unwrap();
    file.sync_all().unwrap();
}

fn filling(n: u32) -> Batch {
    let row = |i: u32| Write::Put([b"f".as_slice(), &(n * 8 + i).to_be_bytes()].concat(), vec![0x5A; 2_000]);
    Batch { head: (0..8).map(row).collect(), ..Batch::default() }
}

fn rows_are(store: &dyn Store, model: &BTreeMap<Key, Value>) -> bool {
    let mut rows: Vec<(Key, Value)> = Vec::new();
    loop {
        let page = scan(store, b"", rows.last().map(|(name, _)| name.as_slice()), MAX_SCAN);
        if page.is_empty() {
            return rows.iter().map(|(k, v)| (k, v)).eq(model);
        }
        rows.extend(page);
    }
}

fn key(name: &[u8]) -> Key {
    name.to_vec()
}

fn put(name: &[u8], value: &[u8]) -> Write {
    Write::Put(name.to_vec(), value.to_vec())
}

fn is(name: &[u8], value: &[u8]) -> Expect {
    Expect::Is(name.to_vec(), value.to_vec())
}

fn put_all(store: &dyn Store, rows: &[(&[u8], &[u8])]) {
    let head = rows.iter().map(|(name, value)| put(name, value)).collect();
    store.commit(&Batch { head, ..Batch::default() }).unwrap();
}

fn get(store: &dyn Store, names: &[&[u8]]) -> Vec<Option<Value>> {
    let keys: Vec<Key> = names.iter().map(|name| key(name)).collect();
    pollster::block_on(store.get(&keys)).unwrap()
}

fn scan(store: &dyn Store, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<(Key, Value)> {
    pollster::block_on(store.scan(prefix, after, limit)).unwrap()
}

/// Scripts that meet often: few keys, few values.
#[cfg(test)]
pub(crate) mod scripts {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::{Batch, Expect, Key, Part, Step, Value, Write};

    /// Up to thirty steps.
    pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
        vec(prop_oneof![9 => batch().prop_map(Step::Commit), 1 => Just(Step::Reopen)], 0..30)
    }

    fn batch() -> impl Strategy<Value = Batch> {
        let guard = prop_oneof![4 => Just(vec![]), 1 => vec(expect(), 1..3)];
        let part =
            (vec(expect(), 0..2), vec(write(), 0..4)).prop_map(|(expects, writes)| Part { expects, writes });
        (guard, vec(part, 0..4), vec(write(), 0..3)).prop_map(|(guard, parts, head)| Batch {
            guard,
            parts,
            head,
        })
    }

    fn expect() -> impl Strategy<Value = Expect> {
        prop_oneof![name().prop_map(Expect::Absent), (name(), value()).prop_map(|(k, v)| Expect::Is(k, v))]
    }

    fn write() -> impl Strategy<Value = Write> {
        prop_oneof![
            3 => (name(), value()).prop_map(|(k, v)| Write::Put(k, v)),
            1 => name().prop_map(Write::Delete),
            1 => (0..3_u8, 0..3_u64).prop_map(|(n, more)| Write::Add(vec![b'n', n], more)),
        ]
    }

    fn name() -> impl Strategy<Value = Key> {
        vec(prop_oneof![Just(0), Just(b'a'), Just(0xFF)], 0..3)
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            6 => vec(Just(b'v'), 0..2),
            1 => (4_000..4_200_usize).prop_map(|len| vec![b'w'; len]),
            1 => Just(vec![b'x'; 9_000]),
        ]
    }
}
