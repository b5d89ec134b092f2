//! `vaultctl demo`, as people run it: nothing prepared, nothing left behind, and no card number told.

#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops, and says where"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// The steps of the story.
const STEPS: usize = 9;
/// The demo's own cards, as they stand in its file, and without spaces.
const CARDS: &str = include_str!("../data/demo-cards.csv");

/// A place for the demo's folder that only this test looks into.
fn room() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn demo(room: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaultctl"));
    command.args(arguments).env_clear().env("TMPDIR", room).current_dir(room);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn told(room: &Path, arguments: &[&str]) -> String {
    let output = demo(room, arguments).output().unwrap();
    let text = all_said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    text
}

/// All that was said, after a look that no card number is in it.
fn all_said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    for line in CARDS.lines().skip(1) {
        let spaced = line.split(',').next().unwrap();
        for number in [spaced.to_owned(), spaced.replace(' ', "")] {
            assert!(!text.contains(&number), "a card number was told:\n{text}");
        }
    }
    text
}

fn json(room: &Path, arguments: &[&str]) -> Vec<Value> {
    let output = demo(room, arguments).output().unwrap();
    let text = all_said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(output.stderr.is_empty(), "{text}");
    String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

fn signal(process: u64, name: &str) -> bool {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).arg(process.to_string()).stderr(Stdio::null());
    kill.status().unwrap().success()
}

/// A process that must not outlive its test.
struct Ended(u64);

impl Drop for Ended {
    fn drop(&mut self) {
        // Where the test went well it is gone, and its number may be another's by now.
        if std::thread::panicking() {
            signal(self.0, "KILL");
        }
    }
}

/// Waits until a process is gone, whoever its parent is.
fn gone(process: u64) -> bool {
    gone_within(process, 1_000)
}

/// The same, within this many times ten milliseconds.
fn gone_within(process: u64, looks: usize) -> bool {
    (0..looks).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        // A process that is dead and not yet waited for has no command line any more.
        fs::read(format!("/proc/{process}/cmdline")).map_or(true, |line| line.is_empty())
    })
}

#[test]
fn the_story_is_told_in_plain_lines_and_a_table_and_leaves_nothing() {
    let room = room();
    let text = told(room.path(), &["demo"]);
    for said in [
        "411111******1111",
        "turned away",
        "8 of 8 recognised",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "3 rotations",
        "0 failed",
        "is killed in the midst of requests",
        "entries whole",
        "Every step held",
        "What to try next",
    ] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    let table: Vec<_> = text.lines().skip_while(|line| !line.contains("STEP ")).skip(1).take(STEPS).collect();
    assert!(table.len() == STEPS && table.iter().all(|line| line.contains("  yes  ")), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    assert!(is_empty(room.path()), "the folder is still there");
}

#[test]
fn with_json_each_step_is_a_line_and_so_is_the_whole() {
    let room = room();
    let lines = json(room.path(), &["--json", "demo", "--engine", "sled"]);
    let (whole, steps) = lines.split_last().unwrap();
    assert_eq!(steps.len(), STEPS);
    for (step, number) in steps.iter().zip(1_u64..) {
        assert_eq!((&step["number"], &step["held"]), (&Value::from(number), &Value::Bool(true)), "{step}");
        assert!(!step["said"].as_array().unwrap().is_empty() && !step["result"].as_str().unwrap().is_empty());
    }
    assert!(steps[0]["said"][0].as_str().unwrap().contains("engine sled"), "{}", steps[0]);
    assert_eq!((&whole["held"], &whole["kept"]), (&Value::Bool(true), &Value::Null));
    assert!(is_empty(room.path()));
}

#[test]
fn cards_of_a_file_are_used_and_its_bad_lines_are_told_by_number_and_rule() {
    let room = room();
    let file = room.path().join("cards.csv");
    // Seven cards of one issuer with one ending: more than a day's guesses, which an import may bring.
    let text = "number,expiry,name\n\
        4000 0000 0000 0002,12/30,Ada Lovelace\n\
        4000000000000003,12/30,Grace Hopper\n\
        4000000000000002,01/31,Ada Lovelace\n\
        4000001000000000,99/30,Alan Turing\n\
        \n\
        not a card,12/30,Emmy Noether\n\
        5018000000000009\n\
        4000000000180002\n4000000000260002\n4000000000340002\n4000000000420002\n4000000000590002\n4000000000670002\n";
    fs::write(&file, text).unwrap();
    let text = told(room.path(), &["demo", "--cards", "cards.csv"]);
    for said in [
        "line 3 is left out: the card number",
        "line 5 is left out: the expiry",
        "line 7 is left out",
        "9 cards in, 8 different tokens out",
        "9 of 9 recognised",
        "400000******0002",
    ] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    for content in [
        "4000000000000002",
        "4000000000180002",
        "4000 0000 0000 0002",
        "4000000000000003",
        "4000001000000000",
        "99/30",
        "Lovelace",
        "not a card",
    ] {
        assert!(!text.contains(content), "{content}:\n{text}");
    }
    assert_eq!(fs::read_dir(room.path()).unwrap().count(), 1, "only the file of cards is left");
}

#[test]
fn a_file_that_tells_no_story_is_refused_before_anything_is_made() {
    let room = room();
    fs::write(room.path().join("bad.csv"), "4111111111111112,12/30,Ada\n").unwrap();
    for (file, says) in [("bad.csv", "line 1: the card number"), ("none.csv", "none.csv")] {
        let output = demo(room.path(), &["demo", "--cards", file]).output().unwrap();
        let text = all_said(&output);
        assert_eq!(output.status.code(), Some(64), "{text}");
        assert!(text.contains(says) && !text.contains("4111111111111112"), "{text}");
    }
    assert_eq!(fs::read_dir(room.path()).unwrap().count(), 1);
}

#[test]
fn a_server_that_is_kept_runs_on_and_its_commands_work() {
    let room = room();
    let lines = json(room.path(), &["--json", "demo", "--keep"]);
    let kept = &lines.last().unwrap()["kept"];
    let (process, folder) = (kept["process"].as_u64().unwrap(), kept["folder"].as_str().unwrap());
    let _ended = Ended(process);
    for (name, mode) in [("", 0o700), ("passphrase", 0o600), ("card.txt", 0o600), ("certs/shop.key", 0o600)] {
        let found = fs::metadata(Path::new(folder).join(name)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{name}");
    }
    for part in ["vaultctl", "grpcurl", "python"] {
        assert!(kept[part].as_str().unwrap().starts_with(&format!("cd {folder}\n")), "{part}");
    }
    // As pasted, but for the card number, which is for a terminal only.
    let pasted: String = kept["vaultctl"]
        .as_str()
        .unwrap()
        .lines()
        .filter(|l| !l.contains("--reveal"))
        .map(|l| l.to_owned() + "\n")
        .collect();
    let shell = Command::new("sh").args(["-ec", &pasted]).output().unwrap();
    let text = all_said(&shell);
    assert!(shell.status.success(), "{text}");
    for said in ["411111******1111", "is primary since epoch", "changed control"] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    assert!(kept["stop"].as_str().unwrap().starts_with(&format!("kill {process}; ")));
    assert!(signal(process, "TERM"));
    assert!(gone(process), "the server runs on");
}

#[test]
fn an_interrupt_stops_the_server_and_removes_the_folder() {
    let room = room();
    let mut running = demo(room.path(), &["demo"]).spawn().unwrap();
    let mut said = BufReader::new(running.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = said.find(|line| line.contains(" process ")).unwrap();
    let server: u64 = line.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!(!gone_within(server, 1), "the server does not run");
    assert!(signal(u64::from(running.id()), "INT"));
    let output = running.wait_with_output().unwrap();
    let text = all_said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("interrupted") && is_empty(room.path()), "{text}");
    assert!(gone(server), "the server runs on");
}
