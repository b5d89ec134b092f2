//! No card number stays behind: thousands go in by every verb and every way to fail, and then nothing that the server
//! wrote, told or still has in memory holds one of them, in any form.
//!
//! What it looks through: the log on standard error, the metrics page, the audit log as operators export it, every file of
//! the vault, everything but revealed cards that came over the wire, and a core image of the living process after its
//! connections closed. The same scanner must find the same numbers in the core image of a build that does not wipe: else
//! it would prove nothing.

mod exercise;
mod hearing;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vault_core::store::Engine;
use vault_proto::v1;
use vault_tests::canary::{Breeder, CHUNK, Form, OVERLAP, Scan, Scanner};
use vault_tests::server::{Rig, program};

use self::exercise::{Exercise, policy};
use self::hearing::{Ask, close};
use crate::raw::{NEW_TLS, Raw, config, dial, get, papers};

/// Canaries that must be found where nothing is wiped. Some hundred are: most freed memory is soon used again.
const MUST_BE_FOUND: usize = 20;
/// How long after its last connection closed the process is looked at: its threads have gone idle.
const REST: Duration = Duration::from_millis(500);

#[test]
fn every_form_of_every_length_is_found_wherever_it_stands_and_nothing_else_is() {
    let mut breeder = Breeder::new(7);
    (12..=19).for_each(|length| drop((0..20).map(|_| breeder.card(length)).collect::<Vec<_>>()));
    let scanner = Scanner::new(breeder.drawn());
    let mut noise = Breeder::new(99);
    for canary in 0..scanner.size().1 {
        for (form, bytes) in planted(scanner.digits(canary)) {
            let mut around = || noise.bytes(97).into_iter().map(|b| b.max(10)).collect::<Vec<_>>();
            let hay = [around(), bytes, around()].concat();
            let seen: Vec<_> =
                scanner.bytes(&hay).sightings.into_iter().map(|s| (s.canary, s.form)).collect();
            assert_eq!(seen, [(canary, form)], "{}", scanner.digits(canary));
        }
    }
    let digits: Vec<u8> = noise.bytes(1_000_000).into_iter().map(|b| b'0' + b % 10).collect();
    assert!(scanner.bytes(&digits).sightings.is_empty());
}

#[test]
fn a_number_across_the_border_of_two_chunks_is_found_once() {
    let mut breeder = Breeder::new(5);
    let card = breeder.card(16);
    let scanner = Scanner::new(breeder.drawn());
    let file = tempfile::NamedTempFile::new().unwrap();
    for (form, bytes) in planted(&card) {
        for (before, border) in
            [(1, CHUNK), (7, CHUNK + OVERLAP), (OVERLAP, CHUNK), (OVERLAP / 2, CHUNK + OVERLAP)]
        {
            let mut content = vec![0xEE; CHUNK + 2 * OVERLAP];
            let at = border - before;
            content[at..at + bytes.len()].copy_from_slice(&bytes);
            fs::write(file.path(), &content).unwrap();
            let scan = scanner.file(file.path());
            assert_eq!(scan.bytes, content.len() as u64);
            let seen: Vec<Form> = scan.sightings.iter().map(|s| s.form).collect();
            assert_eq!(seen, [form], "{before} before {border}");
        }
    }
}

/// A number as each form writes it, worked out another way than the scanner does.
fn planted(digits: &str) -> Vec<(Form, Vec<u8>)> {
    use data_encoding::BASE64;
    let utf16: Vec<u16> = digits.encode_utf16().collect();
    let nibbles = |text: &str| -> Vec<u8> {
        let even = if text.len().is_multiple_of(2) { text.to_owned() } else { format!("{text}9") };
        let pair = |at: usize| u8::from_str_radix(&even[at..at + 2], 16).unwrap();
        (0..even.len()).step_by(2).map(pair).collect()
    };
    let grouped =
        |by: &str| digits.as_bytes().chunks(4).map(<[u8]>::to_vec).collect::<Vec<_>>().join(by.as_bytes());
    let number: u64 = digits.parse().unwrap();
    let base64 = |before: &str| BASE64.encode(format!("{before}{digits}|").as_bytes()).into_bytes();
    vec![
        (Form::Ascii, digits.as_bytes().to_vec()),
        (Form::Spaced, grouped(" ")),
        (Form::Hyphened, grouped("-")),
        (Form::Utf16Le, utf16.iter().flat_map(|u| u.to_le_bytes()).collect()),
        (Form::Utf16Be, utf16.iter().flat_map(|u| u.to_be_bytes()).collect()),
        (Form::PackedHigh, nibbles(digits)),
        (Form::PackedLow, nibbles(&format!("7{digits}"))),
        (Form::Values, digits.bytes().map(|b| b - 48).collect()),
        (Form::IntegerLe, number.to_le_bytes().to_vec()),
        (Form::IntegerBe, number.to_be_bytes().to_vec()),
        (Form::Base64(0), base64("")),
        (Form::Base64(1), base64("x")),
        (Form::Base64(2), base64("xy")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_card_number_stays_behind_on_redb() {
    nothing_stays_behind(Engine::Redb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_card_number_stays_behind_on_sled() {
    nothing_stays_behind(Engine::Sled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_scanner_finds_them_in_a_build_that_does_not_wipe() {
    let found = look_into(Engine::Redb, &without_wiping()).await;
    let (in_memory, elsewhere) = (&found.memory, &found.elsewhere);
    println!("without wiping: {}", found.told());
    assert!(elsewhere.sightings.is_empty(), "wiping is of memory only:\n{}", found.shown());
    assert!(
        in_memory.distinct() >= MUST_BE_FOUND,
        "void: a scanner that finds {} of {} canaries where nothing is wiped proves nothing",
        in_memory.distinct(),
        found.canaries
    );
}

async fn nothing_stays_behind(engine: Engine) {
    let found = look_into(engine, &program()).await;
    println!("{engine}: {}", found.told());
    let sightings = found.memory.sightings.len() + found.elsewhere.sightings.len();
    assert_eq!(sightings, 0, "{engine}:\n{}", found.shown());
}

/// What was looked through, and what was found.
struct Found {
    canaries: usize,
    shapes: usize,
    memory: Scan,
    elsewhere: Scan,
    lines: Vec<String>,
}

impl Found {
    fn told(&self) -> String {
        format!(
            "{} canaries in {} forms; {} MiB of memory scanned, {} found ({} distinct) as {:?}; {} KiB of logs, pages, \
             files and answers scanned, {} found",
            self.canaries,
            self.shapes,
            self.memory.bytes >> 20,
            self.memory.sightings.len(),
            self.memory.distinct(),
            self.memory.forms(),
            self.elsewhere.bytes >> 10,
            self.elsewhere.sightings.len(),
        )
    }

    fn shown(&self) -> String {
        self.lines.iter().take(40).map(|line| format!("  {line}\n")).collect()
    }
}

/// Sends canaries through a server on every way there is, and looks for them wherever they must not be.
async fn look_into(engine: Engine, program: &Path) -> Found {
    let mut rig = Rig::made(engine, &policy(), "[metrics]\naddress = \"127.0.0.1:0\"\n");
    rig.start_program(program);

    let mut exercise = Exercise::new(&rig);
    exercise.everything().await;
    let (breeder, heard) = exercise.done();
    settled(&rig).await;
    let core = core_of(rig.process_id(), rig.folder.path());

    let scanner = Scanner::new(breeder.drawn());
    let (shapes, canaries) = scanner.size();
    let memory = scanner.file(&core);
    let lines = memory.sightings.iter().map(|s| format!("core: {s}")).collect();
    let mut found = Found { canaries, shapes, memory, elsewhere: Scan::default(), lines };
    if let Some(kept) = std::env::var_os("VAULT_KEEP_CORE") {
        fs::copy(&core, kept).unwrap();
    }
    fs::remove_file(&core).unwrap();

    let export = rig.file("export");
    fs::write(&export, exported(&rig).await).unwrap();
    let (metrics, health) = (get(&rig, "/metrics").await, get(&rig, "/healthz").await);
    let texts = [
        ("the log", rig.log().join("\n").into_bytes()),
        ("the metrics page", metrics.into_bytes()),
        ("the health page", health.into_bytes()),
        ("an answer", heard),
    ];
    for (what, bytes) in texts {
        let scan = scanner.bytes(&bytes);
        found.lines.extend(scan.sightings.iter().map(|s| format!("{what}: {s}")));
        found.elsewhere.and(scan);
    }
    // While it lives, and again when it has put away everything: the vault's files, the export, settings and policy.
    let (scan, lines) = scanner.folder(rig.folder.path());
    found.elsewhere.and(scan);
    found.lines.extend(lines);
    assert!(rig.stop(), "the server did not end well");
    let (scan, lines) = scanner.folder(rig.folder.path());
    found.elsewhere.and(scan);
    found.lines.extend(lines);
    let scan = scanner.bytes(rig.log().join("\n").as_bytes());
    found.elsewhere.and(scan);
    found
}

/// Every entry of the audit log as the operators' plane gives it, in lines of its text fields and the bytes as they came.
async fn exported(rig: &Rig) -> Vec<u8> {
    let stream = dial(rig.admin(), config(rig, NEW_TLS, Some(&papers(rig, "olga")))).await.unwrap();
    let operator = Raw::over(stream).await.unwrap();
    let (mut lines, mut page_token) = (Vec::new(), String::new());
    loop {
        let asked = v1::ListAuditEntriesRequest { page_size: 1_000, page_token, ..Default::default() };
        let told = hearing::ask(&operator, Ask::of("/vault.v1.Admin/ListAuditEntries", &asked)).await;
        let page: v1::ListAuditEntriesResponse = told.answer().expect("a page of the audit log");
        lines.extend_from_slice(&told.heard);
        for entry in &page.entries {
            lines.extend_from_slice(format!("{entry:?}\n").as_bytes());
            lines.extend_from_slice(&entry.leaf);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    close(operator).await;
    lines
}

/// Waits until the server says that nobody is connected any more, and then until its threads are idle.
async fn settled(rig: &Rig) {
    let began = Instant::now();
    loop {
        let told = get(rig, "/metrics").await;
        let open =
            |line: &str| line.contains("connections{") && !line.starts_with('#') && !line.ends_with(" 0");
        if !told.lines().any(open) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "connections stay open:\n{told}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(REST).await;
}

/// Writes everything that the process has in memory to a file, as a debugger does: every mapping, every register.
pub(crate) fn core_of(process: u32, folder: &Path) -> PathBuf {
    let prefix = folder.join("core");
    // Also what stands in files that are mapped, shared or not (core(5)): the default leaves it out.
    fs::write(format!("/proc/{process}/coredump_filter"), "0x7f").unwrap_or_else(|e| panic!("as root: {e}"));
    let dump = || Command::new("gcore").arg("-o").arg(&prefix).arg(process.to_string()).output();
    let told = match dump() {
        Err(_) => {
            install_gdb();
            dump().unwrap()
        }
        Ok(told) => told,
    };
    let core = folder.join(format!("core.{process}"));
    assert!(core.exists(), "gcore made no core image; it needs to be run as root: {told:?}");
    core
}

fn install_gdb() {
    let as_told = "this test needs `gcore`: run it as root on Debian, or install the package gdb";
    for arguments in
        [["update", "-qq"].as_slice(), &["install", "-y", "-qq", "--no-install-recommends", "gdb"]]
    {
        let done = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").output();
        let done = done.unwrap_or_else(|e| panic!("{as_told}: {e}"));
        assert!(done.status.success(), "{as_told}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// Builds the same program without wiping, in a folder of its own beside the other, and gives its path.
fn without_wiping() -> PathBuf {
    if let Some(path) = std::env::var_os("VAULTCTL_NO_WIPE") {
        return path.into();
    }
    let program = program();
    let profile = program.parent().unwrap();
    let shared = profile.parent().unwrap();
    let target = shared.join("no-wipe");
    let name = profile.file_name().unwrap().to_str().unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Everything but the two crates that know the feature is the same, and is not built twice.
    cargo.env("CARGO_BUILD_BUILD_DIR", shared);
    cargo
        .args(["build", "--quiet", "--package", "vault-cli", "--features", "no-wipe", "--target-dir"])
        .arg(&target);
    cargo.args(["--profile", if name == "debug" { "dev" } else { name }]);
    let done = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    target.join(name).join("vaultctl")
}
