//! Every engine keeps the one contract, and a folder that something is wrong with is told apart and left as it is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pollster::block_on;
use vault_core::error::Error;
use vault_core::store::contract::{self, Made};
use vault_core::store::memory::Memory;
use vault_core::store::{self, Batch, CommitError, Engine, Options, StoreError, Write};
use vault_core::token::Token;
use vault_tests::ON_DISK;
use vault_tests::cards::{MASTERCARD, VISA, card, number};
use vault_tests::desk::{Closed, Desk, OPTIONS, header, in_format, policy};
use vault_tests::disk::{self, SmallDisk, all_of};

/// The user `nobody`, on every Linux that we know.
const NOBODY: u32 = 65_534;

fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_suite-tool"))
}

/// What the tool prints for these arguments.
fn told(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn data(folder: &Path, engine: Engine) -> PathBuf {
    folder.join("store").join(match engine {
        Engine::Redb => "rows.redb",
        Engine::Sled => "sled/db",
        Engine::Memory => panic!("it keeps no file"),
    })
}

/// A vault with a few hundred rows, closed, and the token of VISA in it.
fn filled(engine: Engine) -> (Closed, Token) {
    let desk = Desk::new(engine);
    let token = desk.web().stored(VISA);
    desk.web().imported((0..300).map(|n| card(&number("400000", 16, n))).collect());
    (desk.close(), token)
}

#[test]
fn the_contract_holds_for_every_engine() {
    for engine in ON_DISK {
        contract::all(&|| {
            let folder = tempfile::tempdir().unwrap();
            let Made { store, .. } = Made::in_folder(folder.path(), engine, OPTIONS);
            Made::new(store, move || store::open(folder.path(), &OPTIONS).unwrap())
        });
    }
    contract::all(&|| {
        let memory = std::sync::Arc::new(Memory::new());
        Made::new(memory.clone(), move || memory.clone())
    });
}

#[test]
fn a_full_disk_changes_nothing_and_one_filled_by_others_loses_nothing() {
    for engine in ON_DISK {
        let disk = SmallDisk::of_mib(64);
        contract::a_full_disk_changes_nothing_and_reads_go_on(disk.path(), engine);
        let disk = SmallDisk::of_mib(64);
        let told = contract::a_disk_filled_by_others_stops_the_engine_and_loses_nothing(disk.path(), engine);
        assert!(matches!(told, CommitError::Store(StoreError::Io(_))), "{engine}: {told:?}");
    }
}

/// A process that holds a folder until it is dropped, without a word.
struct Holder(Child);

impl Holder {
    fn of(folder: &Path) -> Self {
        let mut child =
            tool().arg("hold").arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What lies in a folder that a process has open and does nothing with, once its engine's own threads are done.
fn at_rest(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut before = all_of(folder);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(600));
        let now = all_of(folder);
        if now == before {
            return now;
        }
        before = now;
    }
    panic!("the engine never comes to rest");
}

#[test]
fn a_folder_that_another_process_holds_is_refused_until_that_process_is_gone() {
    for engine in ON_DISK {
        let (closed, token) = filled(engine);
        let holder = Holder::of(&closed.folder);
        let before = at_rest(&closed.folder);
        let Err((closed, error)) = closed.open_with(vault_tests::desk::PASSPHRASE) else {
            panic!("{engine}: opened")
        };
        assert_eq!(error, Error::Store(StoreError::InUse), "{engine}");
        assert_eq!(store::create(&closed.folder, engine, &OPTIONS).err(), Some(StoreError::Exists));
        let again = told(tool().arg("open").arg(&closed.folder));
        assert_eq!(again, StoreError::InUse.to_string(), "{engine}");
        assert!(before == all_of(&closed.folder), "{engine}: changed");
        // Killed, not closed: its lock goes with it.
        drop(holder);
        let desk = closed.open().unwrap_or_else(|e| panic!("{engine}: {e}"));
        assert_eq!(desk.web().paid(&token).as_deref(), Ok(VISA));
        desk.assert_whole(301);
    }
}

#[test]
fn a_folder_that_this_process_may_not_use_is_told_so() {
    disk::as_root();
    let tools = tempfile::tempdir().unwrap();
    fs::set_permissions(tools.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = tools.path().join("suite-tool");
    fs::copy(env!("CARGO_BIN_EXE_suite-tool"), &copy).unwrap();
    let as_nobody = |arguments: &[&str], folder: &Path| {
        told(Command::new(&copy).args(arguments).arg(folder).uid(NOBODY).gid(NOBODY).current_dir("/"))
    };
    for engine in ON_DISK {
        let (closed, token) = filled(engine);
        let before = all_of(&closed.folder);
        let forbidden = StoreError::Forbidden.to_string();
        assert_eq!(as_nobody(&["open"], &closed.folder), forbidden, "{engine}: the folder");
        // The folder may be entered, but nothing in it read.
        fs::set_permissions(&closed.folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(as_nobody(&["open"], &closed.folder), forbidden, "{engine}: what is in it");
        let new = closed.folder.join("new");
        assert_eq!(as_nobody(&["create", engine.name()], &new), forbidden, "{engine}: a new one");
        assert!(!new.exists());
        assert!(before == all_of(&closed.folder), "{engine}: changed");
        let desk = closed.open().unwrap_or_else(|e| panic!("{engine}: {e}"));
        assert_eq!(desk.web().paid(&token).as_deref(), Ok(VISA));
    }
}

#[test]
fn a_disk_that_may_not_be_written_is_told_so() {
    for engine in ON_DISK {
        let small = SmallDisk::of_mib(64);
        let folder = small.path().join("vault");
        drop(Desk::in_folder(&folder, engine, OPTIONS, policy()).unwrap_or_else(|e| panic!("{e}")).close());
        small.read_only();
        let before = all_of(&folder);
        assert_eq!(store::open(&folder, &OPTIONS).err(), Some(StoreError::Forbidden), "{engine}");
        let elsewhere = small.path().join("other");
        assert_eq!(
            store::create(&elsewhere, engine, &OPTIONS).err(),
            Some(StoreError::Forbidden),
            "{engine}"
        );
        assert!(before == all_of(&folder), "{engine}: changed");
    }
}

fn garbage(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn a_damaged_or_foreign_folder_is_refused_as_it_is() {
    type Damage = Box<dyn Fn(&[u8]) -> Vec<u8>>;
    for engine in ON_DISK {
        let (closed, _) = filled(engine);
        let other = ON_DISK.into_iter().find(|other| *other != engine).unwrap();
        let theirs = fs::read(data(&filled(other).0.folder, other)).unwrap();
        let file = data(&closed.folder, engine);
        let whole = fs::read(&file).unwrap();
        let len = whole.len();
        let mut damages: Vec<(String, Damage)> = vec![
            ("garbage".into(), Box::new(move |_| garbage(len))),
            ("the other engine's file".into(), Box::new(move |_| theirs.clone())),
            (
                "garbage after 64 good bytes".into(),
                Box::new(|old| [&old[..64], &garbage(old.len() - 64)].concat()),
            ),
            ("its front garbled".into(), Box::new(|old| [&garbage(512)[..], &old[512..]].concat())),
            ("zeros".into(), Box::new(|old| vec![0; old.len()])),
        ];
        for cut in [0, 1, 63, 64, 512, 4_096, len / 4, len / 2, len / 4 * 3, len - 4_096, len - 1] {
            damages.push((format!("cut to {cut} of {len}"), Box::new(move |old| old[..cut].to_vec())));
        }
        for (case, damage) in damages {
            fs::write(&file, damage(&whole)).unwrap();
            refused_as_it_is(&closed.folder, &StoreError::Corrupt, &format!("{engine}: {case}"));
        }
        fs::write(&file, &whole).unwrap();
        let format = closed.folder.join("store/FORMAT");
        let word = fs::read_to_string(&format).unwrap();
        for (content, expected) in [
            (format!("vault-store 2 {engine}\n"), StoreError::Newer(2, 1)),
            (format!("vault-store 77 {engine} of words to come\n"), StoreError::Newer(77, 1)),
            (format!("vault-store 1 {other}\n"), StoreError::Corrupt),
            ("vault-store 1 memory\n".to_owned(), StoreError::Corrupt),
            (String::new(), StoreError::Corrupt),
        ] {
            fs::write(&format, &content).unwrap();
            refused_as_it_is(&closed.folder, &expected, &format!("{engine}: FORMAT says {content:?}"));
        }
        fs::write(&format, word).unwrap();
        closed.open().unwrap_or_else(|e| panic!("{engine}: {e}")).assert_whole(301);
    }
}

fn refused_as_it_is(folder: &Path, expected: &StoreError, case: &str) {
    let before = all_of(folder);
    assert_eq!(store::open(folder, &OPTIONS).err().as_ref(), Some(expected), "{case}");
    assert!(before == all_of(folder), "{case}: changed");
}

#[test]
fn where_no_vault_is_none_is_made_by_opening() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Closed::at(folder.path(), OPTIONS).open().err(), Some(Error::Store(StoreError::Missing)));
    assert!(all_of(folder.path()).is_empty());
    for engine in ON_DISK {
        // A store, but no vault in it: made by a creation that was cut short in between.
        let folder = tempfile::tempdir().unwrap();
        drop(store::create(folder.path(), engine, &OPTIONS).unwrap());
        assert_eq!(Closed::at(folder.path(), OPTIONS).open().err(), Some(Error::Store(StoreError::Missing)));
    }
}

#[test]
fn a_vault_on_a_full_disk_says_so_and_goes_on_once_there_is_room() {
    for engine in ON_DISK {
        let small = SmallDisk::of_mib(96);
        let folder = small.path().join("vault");
        let desk = Desk::in_folder(&folder, engine, OPTIONS, policy()).unwrap_or_else(|e| panic!("{e}"));
        let mut kept: Vec<(String, Token)> = vec![(VISA.to_owned(), desk.web().stored(VISA))];
        let ballast = small.fill(OPTIONS.reserve + (1 << 20));
        let full = || Error::Store(StoreError::Full);
        let mut next = 0;
        let error = loop {
            let pans: Vec<String> = (0..20).map(|n| number("400000", 16, next * 20 + n)).collect();
            match desk.web().import(pans.iter().map(|pan| card(pan)).collect()) {
                Ok(answers) => {
                    for (answer, pan) in answers.into_iter().zip(pans) {
                        match answer {
                            Ok(made) => kept.push((pan, made.token)),
                            Err(e) => assert_eq!(e, full(), "{engine}"),
                        }
                    }
                    if kept.len() < 1 + 20 * (next as usize + 1) {
                        break full();
                    }
                }
                Err(e) => break e,
            }
            next += 1;
            assert!(next < 2_000, "{engine}: the disk never filled up");
        };
        assert_eq!(error, full());
        // What a batch found no room for, a single card may still find.
        small.fill(OPTIONS.reserve / 2);
        // Every verb leaves its line in the log before it answers: on a full disk none can, and none shows anything.
        let (_, token) = &kept[0];
        for _ in 0..3 {
            assert_eq!(desk.web().paid(token), Err(full()), "{engine}");
            assert_eq!(desk.web().inspected(token).map(|_| ()), Err(full()), "{engine}");
            assert_eq!(desk.web().tokenize(&header(), card(MASTERCARD)).map(|_| ()), Err(full()), "{engine}");
            // A refusal, too, would have to stand in the log.
            assert_eq!(desk.at("zenith", "web").paid(token), Err(full()), "{engine}");
        }
        fs::remove_file(ballast).unwrap();
        // The same vault goes on, without being opened anew.
        for (pan, token) in &kept {
            assert_eq!(desk.web().paid(token).as_ref(), Ok(pan), "{engine}");
        }
        kept.push((MASTERCARD.to_owned(), desk.web().stored(MASTERCARD)));
        desk.assert_whole(kept.len());
        let desk = desk.reopened();
        for (pan, token) in &kept {
            assert_eq!(desk.web().paid(token).as_ref(), Ok(pan), "{engine}");
        }
        desk.assert_whole(kept.len());
        assert!(desk.web().stored(VISA).same_as(&kept[0].1));
        drop(desk.close());
    }
}

#[test]
fn a_vault_whose_disk_is_filled_by_others_stops_and_loses_nothing_that_it_answered() {
    // Without the guard: somebody else was faster.
    let options = Options { reserve: 0, ..OPTIONS };
    for engine in ON_DISK {
        let small = SmallDisk::of_mib(96);
        let folder = small.path().join("vault");
        let desk = Desk::in_folder(&folder, engine, options, policy()).unwrap_or_else(|e| panic!("{e}"));
        let mut kept: Vec<Token> = vec![desk.web().stored(VISA)];
        let ballast = small.fill(256 << 10);
        let mut round = 0;
        let error = loop {
            match desk.web().tokenize(&header(), in_format("mixed", VISA)) {
                Ok(made) => kept.push(made.token),
                Err(e) => break e,
            }
            round += 1;
            assert!(round < 20_000, "{engine}: the disk never filled up");
        };
        assert!(matches!(error, Error::Store(StoreError::Io(_))), "{engine}: {error:?}");
        fs::remove_file(ballast).unwrap();
        let away = Error::Store(StoreError::Away);
        assert_eq!(desk.web().paid(&kept[0]), Err(away.clone()), "{engine}");
        assert_eq!(desk.web().tokenize(&header(), card(MASTERCARD)).err(), Some(away), "{engine}");
        let desk = desk.abandon().open().unwrap_or_else(|e| panic!("{engine}: {e}"));
        for token in &kept {
            assert_eq!(desk.web().paid(token).as_deref(), Ok(VISA), "{engine}");
        }
        let report = desk.verified();
        // The one that was being written may be there, whole, or not.
        let one_more = report.good == kept.len() as u64 + 1;
        assert!(report.is_whole() && (one_more || report.good == kept.len() as u64), "{engine}: {report:?}");
        desk.web().stored(MASTERCARD);
        drop(desk.close());
    }
}

#[test]
fn two_stores_of_one_process_do_not_share_a_folder() {
    for engine in ON_DISK {
        let folder = tempfile::tempdir().unwrap();
        let one = store::create(folder.path(), engine, &OPTIONS).unwrap();
        assert_eq!(store::open(folder.path(), &OPTIONS).err(), Some(StoreError::InUse));
        let batch = Batch { head: vec![Write::Put(b"k".to_vec(), b"v".to_vec())], ..Batch::default() };
        one.commit(&batch).unwrap();
        assert_eq!(block_on(one.get(&[b"k".to_vec()])), Ok(vec![Some(b"v".to_vec())]));
    }
}
