//! One contract for every custodian, against the real thing: passphrases, people with shares, `SoftHSM2` over PKCS#11, and moto
//! in a cloud's place.
//!
//! Each opens its own vault at every start and no other; each says what is wrong with it, and what to do, when its secret is
//! wrong or it is away; custody moves from each to each, and whenever that is killed exactly one of the two opens. A kind that
//! joins is one more line of [`kinds`], or of [`parties`] where no settings name it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vault_client::{Zeroizing, ask, v1};
use vault_core::control::{Header, header_key};
use vault_core::store::{self, Batch, Engine, Part, Write};
use vault_tests::cards::VISA;
use vault_tests::custody::{
    Custodians, DONE, FAILED, REFUSED, USAGE, nobody, program_with_devices, silent_listener, told,
};
use vault_tests::desk::OPTIONS;
use vault_tests::server::{Authority, Rig, policy, program};

/// A custodian under contract: settings files, and what is told where they are wrong.
struct Under {
    name: &'static str,
    good: String,
    /// What is wrong with it, its settings, the exit code, and what is said.
    wrong: Vec<(&'static str, String, i32, &'static str)>,
    /// Kept as long as the contract runs.
    _listener: Option<TcpListener>,
}

fn kinds(at: &Custodians) -> Vec<Under> {
    vec![passphrase(at), token(at), service_key(at)]
}

fn passphrase(at: &Custodians) -> Under {
    let absent = at.settings("no-passphrase", "passphrase_file = \"nowhere\"\n");
    let wrong = vec![
        (
            "another",
            at.passphrase("another-passphrase", "another horse entirely"),
            REFUSED,
            "does not open this vault",
        ),
        ("too short", at.passphrase("short-passphrase", "horse"), REFUSED, "12 to 1,024 bytes"),
        ("no file", absent, REFUSED, "cannot be read"),
    ];
    let good = at.passphrase("passphrase", "correct horse battery");
    Under { name: "passphrase", good, wrong, _listener: None }
}

fn token(at: &Custodians) -> Under {
    at.make_token("vault");
    at.make_token("elsewhere");
    let made = |name: &str, token: &str, key: &str| {
        let settings = at.token(name, token, key);
        at.done(&["custodian", "device-key", "--custodian", &settings]);
        settings
    };
    let good = made("token", "vault", "root");
    let no_library = at.secret("no-library.so", "not one");
    let wrong = vec![
        ("another key", made("another-key", "vault", "another"), REFUSED, "does not open this vault"),
        ("another token", made("another-token", "elsewhere", "root"), REFUSED, "does not open this vault"),
        ("a wrong PIN", with_pin(at, "wrong-pin", "654321"), REFUSED, "refuses the PIN"),
        ("no such key", at.token("no-key", "vault", "nowhere"), REFUSED, "no such key"),
        ("no such token", at.token("no-token", "nowhere", "root"), FAILED, "not there"),
        ("no module", with_module(at, "no-module", Path::new("/nowhere.so")), REFUSED, "is no file"),
        ("no library", with_module(at, "no-library", &no_library), REFUSED, "cannot be loaded"),
    ];
    Under { name: "pkcs11", good, wrong, _listener: None }
}

fn with_pin(at: &Custodians, name: &str, pin: &str) -> String {
    let settings = at.token(name, "vault", "root");
    at.secret(&format!("{name}.pin"), pin);
    settings
}

fn with_module(at: &Custodians, name: &str, module: &Path) -> String {
    at.token_with(name, (module, "123456"), "vault", "root")
}

fn service_key(at: &Custodians) -> Under {
    let service = at.service();
    let (listener, silent) = silent_listener();
    let (own, another) = (at.make_service_key(), at.make_service_key());
    let absent = "00000000-0000-4000-8000-000000000000";
    let wrong = vec![
        // moto refuses another key's ciphertext as a matter of rights; AWS has an error of its own for it.
        ("another key", at.service_key("another-service-key", &another, service), REFUSED, ""),
        ("no such key", at.service_key("no-service-key", absent, service), REFUSED, "no such key"),
        ("nobody there", at.service_key("nobody", &own, nobody()), FAILED, "not there"),
        ("one that never answers", at.service_key("silent", &own, silent), FAILED, "did not answer in time"),
    ];
    Under { name: "kms", good: at.service_key("service", &own, service), wrong, _listener: Some(listener) }
}

fn write_policy(at: &Custodians) {
    let (clients, operators) = (Authority::new("clients"), Authority::new("operators"));
    at.secret("policy.toml", &policy(&clients, &operators, ""));
}

fn init(at: &Custodians, folder: &str, custodian: &str) {
    at.done(&["init", "--folder", folder, "--custodian", custodian, "--policy", "policy.toml"]);
}

fn check(at: &Custodians, folder: &str, custodian: &str) -> (i32, String) {
    at.ran(&["custodian", "check", "--folder", folder, "--custodian", custodian])
}

fn esk(at: &Custodians, folder: &str) -> Vec<u8> {
    std::fs::read(at.file(folder).join("esk")).unwrap()
}

/// The vault's header row, as it lies in a folder that nobody has open.
fn header(at: &Custodians, folder: &str) -> Header {
    let store = store::open(&at.file(folder), &OPTIONS).unwrap();
    let row = pollster::block_on(store.get(&[header_key()])).unwrap().remove(0).unwrap();
    Header::decode(&row).unwrap()
}

fn put_header(at: &Custodians, folder: &str, header: &Header) {
    let store = store::open(&at.file(folder), &OPTIONS).unwrap();
    let part = Part { expects: vec![], writes: vec![Write::Put(header_key(), header.encode())] };
    store.commit(&Batch { parts: vec![part], ..Batch::default() }).unwrap();
}

/// Whoever opens a vault, as a command is told: its flags.
type Keys = Vec<String>;

fn named(settings: &str) -> Keys {
    vec!["--custodian".to_owned(), settings.to_owned()]
}

/// Shares of a folder that a split made.
fn shares_of(split: &str, numbers: &[u8]) -> Keys {
    let file = |number: &u8| ["--share-file".to_owned(), format!("{split}/share-{number}")];
    numbers.iter().flat_map(file).collect()
}

/// One who is under the contract: of those that settings name, or people with shares.
enum Party {
    Named(Under),
    People,
}

fn parties(at: &Custodians) -> Vec<Party> {
    kinds(at).into_iter().map(Party::Named).chain([Party::People]).collect()
}

impl Party {
    fn name(&self) -> &'static str {
        match self {
            Self::Named(kind) => kind.name,
            Self::People => "shares",
        }
    }

    /// The command that has it take custody from these, and who opens the vault from then on. People get their shares in the
    /// folder `split`.
    fn taking(&self, folder: &str, from: &Keys, split: &str) -> (Keys, Keys) {
        let base = |verb: &str| {
            let flags = ["custodian", verb, "--folder", folder, "--operator", "olga"].map(str::to_owned);
            [flags.to_vec(), from.clone()].concat()
        };
        match self {
            Self::Named(kind) => {
                let to = ["--new-custodian".to_owned(), kind.good.clone()];
                ([base("change"), to.to_vec()].concat(), named(&kind.good))
            }
            Self::People => {
                let into = ["--shares", "5", "--threshold", "3", "--into", split].map(str::to_owned);
                ([base("split"), into.to_vec()].concat(), shares_of(split, &[1, 3, 5]))
            }
        }
    }

    /// A vault that it protects, and who opens it.
    fn vault(&self, at: &Custodians, folder: &str) -> Keys {
        match self {
            Self::Named(kind) => {
                init(at, folder, &kind.good);
                named(&kind.good)
            }
            Self::People => {
                let dealer = at.passphrase("dealer", "whoever splits knows it");
                init(at, folder, &dealer);
                let (split, keys) = self.taking(folder, &named(&dealer), &format!("shares-of-{folder}"));
                at.done(&words(&split));
                keys
            }
        }
    }

    /// What is wrong with it, the flags that say so, the exit code, and what is said.
    fn wrong(&self, folder: &str) -> Vec<(&'static str, Keys, i32, &'static str)> {
        let refused = "does not open this vault";
        match self {
            Self::Named(kind) => {
                let of = |(what, settings, code, needle): &(&'static str, String, i32, &'static str)| {
                    (*what, named(settings), *code, *needle)
                };
                kind.wrong.iter().map(of).collect()
            }
            Self::People => {
                let (own, foreign) = (format!("shares-of-{folder}"), format!("shares-of-{folder}-other"));
                let mixed = [shares_of(&own, &[1, 3]), shares_of(&foreign, &[5])].concat();
                vec![
                    ("too few", shares_of(&own, &[1, 3]), REFUSED, refused),
                    ("one twice", shares_of(&own, &[1, 3, 3]), REFUSED, refused),
                    ("another split's", shares_of(&foreign, &[1, 3, 5]), REFUSED, refused),
                    ("one of another split", mixed, REFUSED, refused),
                    ("no file", shares_of("nowhere", &[1, 3, 5]), USAGE, "No such file"),
                ]
            }
        }
    }
}

fn words(flags: &Keys) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

fn asked(at: &Custodians, command: [&str; 2], folder: &str, keys: &Keys) -> (i32, String) {
    at.ran(&[&command[..], &["--folder", folder], &words(keys)].concat())
}

/// Whether these open the vault, and what is said.
fn opens(at: &Custodians, folder: &str, keys: &Keys) -> (i32, String) {
    asked(at, ["custodian", "check"], folder, keys)
}

fn verified(at: &Custodians, folder: &str, keys: &Keys) {
    let (ended, said) = asked(at, ["store", "verify"], folder, keys);
    assert_eq!(ended, DONE, "{keys:?}: {said}");
}

#[test]
fn each_opens_its_own_vault_at_every_start_and_says_what_is_wrong_when_it_cannot() {
    let at = Custodians::new();
    write_policy(&at);
    for party in parties(&at) {
        let (name, own) = (party.name(), format!("{}-vault", party.name()));
        let keys = party.vault(&at, &own);
        let before = esk(&at, &own);
        for _start in 0..2 {
            assert_eq!(opens(&at, &own, &keys).0, DONE, "{name}");
            verified(&at, &own, &keys);
        }
        let other = format!("{own}-other");
        party.vault(&at, &other);
        for (what, flags, code, needle) in party.wrong(&own) {
            let (ended, said) = opens(&at, &own, &flags);
            assert!(ended == code && said.contains(needle), "{name} {what}: {ended} {said}");
            assert!(!said.contains("123456") && !said.contains("horse entirely"), "{said}");
        }
        // What was wrapped for another vault by the very same custodian is not this one's: a device may answer that as if it
        // were broken, and a service's context does not match.
        let whole = header(&at, &own);
        let foreign = header(&at, &other).custody;
        put_header(&at, &own, &Header { custody: foreign, ..whole.clone() });
        let (ended, said) = opens(&at, &own, &keys);
        assert!(ended == REFUSED && said.contains("does not open this vault"), "{name}: {said}");
        put_header(&at, &own, &whole);
        assert_eq!(opens(&at, &own, &keys).0, DONE, "{name}");
        assert!(before == esk(&at, &own), "nothing was changed");
    }
}

#[test]
fn custody_moves_from_each_to_each_and_back() {
    let at = Custodians::new();
    write_policy(&at);
    let parties = parties(&at);
    let mut keys = parties[0].vault(&at, "vault");
    // Every ordered pair once, and people to other people.
    for (step, to) in [1, 2, 3, 2, 1, 0, 3, 3, 1, 3, 0, 2, 0].into_iter().enumerate() {
        let (taking, new) = parties[to].taking("vault", &keys, &format!("split-{step}"));
        at.done(&words(&taking));
        assert_eq!(opens(&at, "vault", &new).0, DONE, "{}", parties[to].name());
        let (ended, said) = opens(&at, "vault", &keys);
        assert!(ended == REFUSED && said.contains("does not open this vault"), "{said}");
        let listed = at.done(&["--json", "custodian", "list", "--folder", "vault"]);
        assert!(listed.contains(&format!("\"kind\":\"{}\"", parties[to].name())), "{listed}");
        keys = new;
    }
    verified(&at, "vault", &keys);
}

#[test]
fn a_change_that_is_killed_leaves_exactly_one_that_opens_whatever_the_kinds() {
    let rounds = if std::env::var_os("VAULT_LONG").is_some() { 40 } else { 3 };
    let at = Custodians::new();
    write_policy(&at);
    let parties = parties(&at);
    at.keep_tokens();
    for (from, to) in [(0, 1), (1, 2), (2, 3), (3, 3), (3, 0)] {
        let (old, new) = (&parties[from], &parties[to]);
        let base = format!("base-{from}-{to}");
        let keys = old.vault(&at, &base);
        let whole = format!("whole-{from}-{to}");
        at.copy(&base, &whole);
        let began = Instant::now();
        at.done(&words(&new.taking(&whole, &keys, &format!("split-{whole}")).0));
        let whole = began.elapsed();
        for round in 0..rounds {
            let folder = format!("killed-{from}-{to}-{round}");
            at.copy(&base, &folder);
            let (taking, after) = new.taking(&folder, &keys, &format!("split-{folder}"));
            let mut child = at.vaultctl(&words(&taking)).spawn().unwrap();
            std::thread::sleep(whole * (2 * round + 1) / (2 * rounds));
            child.kill().unwrap();
            child.wait().unwrap();
            at.heal_tokens();
            let open = [&keys, &after].map(|keys| opens(&at, &folder, keys).0 == DONE);
            assert!(open[0] != open[1], "round {round}, {} to {}: {open:?}", old.name(), new.name());
            verified(&at, &folder, if open[0] { &keys } else { &after });
            std::fs::remove_dir_all(at.file(&folder)).unwrap();
        }
    }
}

#[test]
fn a_lost_hsm_is_gone_without_by_the_recovery_custodian_and_replaced() {
    let at = Custodians::new();
    write_policy(&at);
    let (everyday, recovery) = (token(&at).good, at.passphrase("recovery", "kept in two halves"));
    init(&at, "vault", &everyday);
    let add = |own: &str, new: &str| {
        at.ran(&[
            "custodian",
            "add",
            "--folder",
            "vault",
            "--custodian",
            own,
            "--new-custodian",
            new,
            "--operator",
            "olga",
        ])
    };
    let remove = |number: &str, own: &str| {
        at.ran(&[
            "custodian",
            "remove",
            number,
            "--folder",
            "vault",
            "--custodian",
            own,
            "--operator",
            "olga",
        ])
    };
    assert_eq!(add(&everyday, &recovery).0, DONE);
    for twice in [&everyday, &recovery] {
        let (ended, said) = add(&everyday, twice);
        assert!(ended == REFUSED && said.contains("already"), "{said}");
    }
    for each in [&everyday, &recovery] {
        assert_eq!(check(&at, "vault", each).0, DONE);
        at.done(&["store", "verify", "--folder", "vault", "--custodian", each]);
    }
    at.take_tokens_out();
    let (ended, said) = check(&at, "vault", &everyday);
    assert!(ended == FAILED && said.contains("not there") && said.contains("Lost HSM"), "{said}");
    assert_eq!(check(&at, "vault", &recovery).0, DONE);
    // It must be one that stays who says so; and nobody is the last to go.
    for (number, needle) in [("2", "one of those that stay"), ("3", "no number"), ("0", "no number")] {
        let (ended, said) = remove(number, &recovery);
        assert!(ended == REFUSED && said.contains(needle), "{number}: {said}");
    }
    assert_eq!(remove("1", &recovery).0, DONE);
    let (ended, said) = remove("1", &recovery);
    assert!(ended == REFUSED && said.contains("only custodian"), "{said}");
    // The device is found again, or its thief has it: it opens nothing.
    at.put_tokens_back();
    let (ended, said) = check(&at, "vault", &everyday);
    assert!(ended == REFUSED && said.contains("does not open this vault"), "{said}");
    at.make_token("replacement");
    let replacement = at.token("replacement", "replacement", "root");
    at.done(&["custodian", "device-key", "--custodian", &replacement]);
    assert_eq!(add(&recovery, &replacement).0, DONE);
    for each in [&recovery, &replacement] {
        at.done(&["store", "verify", "--folder", "vault", "--custodian", each]);
    }
    let more = ["third", "fourth", "fifth"].map(|name| at.passphrase(name, &format!("{name} of them all")));
    assert_eq!([&more[0], &more[1]].map(|more| add(&recovery, more).0), [DONE; 2]);
    let (ended, said) = add(&recovery, &more[2]);
    assert!(ended == REFUSED && said.contains("four custodians"), "{said}");
}

#[test]
fn a_split_with_a_new_root_never_leaves_shares_in_force_that_it_says_to_delete() {
    let at = Custodians::new();
    write_policy(&at);
    let (everyday, recovery) =
        (at.passphrase("everyday", "correct horse battery"), at.passphrase("recovery", "kept in two halves"));
    init(&at, "vault", &everyday);
    let add =
        ["custodian", "add", "--folder", "vault", "--custodian", &everyday, "--new-custodian", &recovery];
    at.done(&[&add[..], &["--operator", "olga"]].concat());
    let split = [
        "custodian",
        "split",
        "--folder",
        "vault",
        "--custodian",
        &everyday,
        "--operator",
        "olga",
        "--shares",
        "3",
    ];
    let (ended, said) =
        at.ran(&[&split[..], &["--threshold", "2", "--new-root", "--into", "shares"]].concat());
    assert!(ended == REFUSED && said.contains("every custodian"), "{ended} {said}");
    assert!(!at.file("shares").exists() && check(&at, "vault", &everyday).0 == DONE);
}

#[test]
fn a_device_that_fails_is_told_from_a_block_that_is_not_its_own() {
    let at = Custodians::new();
    write_policy(&at);
    let good = token(&at).good;
    init(&at, "vault", &good);
    let faults = [
        ("LOST_ONCE", DONE, "it opens", 3),
        ("LOST", FAILED, "not there", 2),
        ("BROKEN", FAILED, "fails at a known answer too", 1),
        ("LAST_TRY", REFUSED, "none was tried", 0),
        ("HANGS", FAILED, "did not answer in time", 1),
    ];
    for (fault, code, needle, logins) in faults {
        let module = at.broken_module(fault);
        let settings = with_module(&at, fault, &module);
        let (ended, said) = check(&at, "vault", &settings);
        assert!(ended == code && said.contains(needle), "{fault}: {ended} {said}");
        assert_eq!(logged_in(&at, fault), logins, "{fault}");
    }
    assert_eq!(check(&at, "vault", &good).0, DONE);
    // A device that makes its own nonce is served too: what it made is what is kept.
    let own_iv = with_module(&at, "own-iv", &at.broken_module("OWN_IV"));
    init(&at, "own-iv-vault", &own_iv);
    for settings in [&own_iv, &good] {
        assert_eq!(check(&at, "own-iv-vault", settings).0, DONE);
    }
    // It keeps its first nonce, twelve bytes of one kind, in the block.
    let kept = header(&at, "own-iv-vault").encode();
    assert!(kept.windows(12).any(|bytes| bytes.iter().all(|byte| *byte == bytes[0] && *byte != 0)));
}

fn logged_in(at: &Custodians, fault: &str) -> usize {
    std::fs::read(at.file(&format!("{fault}.logins"))).map_or(0, |logins| logins.len())
}

#[test]
fn a_wrong_pin_is_tried_once_whatever_there_is_to_open() {
    let at = Custodians::new();
    write_policy(&at);
    let good = token(&at).good;
    init(&at, "vault", &good);
    // Two keys of tokens protect it: two blocks to try.
    let other = at.token("other-key", "elsewhere", "root");
    let add = ["custodian", "add", "--folder", "vault", "--custodian", &good, "--new-custodian", &other];
    at.done(&[&add[..], &["--operator", "olga"]].concat());
    let counted = at.broken_module("NONE");
    let wrong = at.token_with("counted", (&counted, "654321"), "vault", "root");
    let (ended, said) = check(&at, "vault", &wrong);
    assert!(ended == REFUSED && said.contains("refuses the PIN"), "{said}");
    assert_eq!(logged_in(&at, "NONE"), 1);
    // The right one is asked once for the root, and once for the file beside the store.
    let right = at.token_with("counted", (&counted, "123456"), "vault", "root");
    assert_eq!(check(&at, "vault", &right).0, DONE);
    assert_eq!(logged_in(&at, "NONE"), 3);
}

#[test]
fn a_key_that_could_leave_its_token_is_not_entrusted_with_a_root() {
    let at = Custodians::new();
    write_policy(&at);
    at.make_token("vault");
    let tool = |arguments: &[&str]| {
        let mut tool = Command::new("pkcs11-tool");
        tool.args([
            "--module",
            "/usr/lib/softhsm/libsofthsm2.so",
            "--token-label",
            "vault",
            "--login",
            "--pin",
            "123456",
        ]);
        at.environment(tool.args(arguments));
        let (code, told) =
            told(&tool.output().expect("pkcs11-tool; ./test installs the Debian package opensc"));
        assert_eq!(code, 0, "{told}");
    };
    tool(&["--keygen", "--key-type", "AES:32", "--label", "loose", "--extractable"]);
    tool(&["--keygen", "--key-type", "AES:16", "--label", "short", "--sensitive"]);
    for label in ["loose", "short"] {
        let settings = at.token(label, "vault", label);
        let (ended, said) =
            at.ran(&["init", "--folder", label, "--custodian", &settings, "--policy", "policy.toml"]);
        assert!(ended == REFUSED && said.contains("not fit for custody"), "{label}: {said}");
    }
    // As the runbook makes one with other tools.
    tool(&["--keygen", "--key-type", "AES:32", "--label", "tight", "--sensitive"]);
    init(&at, "vault", &at.token("tight", "vault", "tight"));
    // Two of a label are none.
    let twice = at.token("twice", "vault", "tight");
    let (ended, said) = at.ran(&["custodian", "device-key", "--custodian", &twice]);
    assert!(ended == REFUSED && said.contains("already"), "{said}");
    tool(&["--keygen", "--key-type", "AES:32", "--label", "tight", "--sensitive"]);
    let (ended, said) = check(&at, "vault", &twice);
    assert!(ended == REFUSED && said.contains("more than one"), "{said}");
}

#[test]
fn a_service_without_credentials_says_so_and_reads_none_from_the_environment() {
    let at = Custodians::new();
    write_policy(&at);
    let settings = service_key(&at).good;
    init(&at, "vault", &settings);
    let arguments = ["custodian", "check", "--folder", "vault", "--custodian", &settings];
    let mut command = at.vaultctl(&arguments);
    command.env("HOME", "/nowhere").env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    let (ended, said) = told(&command.output().unwrap());
    assert!(ended == REFUSED && said.contains("no credentials"), "{said}");
}

#[test]
fn a_build_without_devices_says_how_to_build_one_that_has_them() {
    let at = Custodians::new();
    for (feature, table) in [
        (
            "pkcs11",
            "pkcs11 = { module = \"/m.so\", token_label = \"t\", key_label = \"k\", pin_file = \"p\" }\n",
        ),
        ("kms", "kms = { key = \"k\", region = \"eu-central-1\" }\n"),
    ] {
        let settings = at.settings(feature, table);
        let mut base = Command::new(program());
        base.args(["init", "--folder", "vault", "--policy", "policy.toml", "--custodian", &settings]);
        write_policy(&at);
        let (ended, said) = told(&base.current_dir(at.folder.path()).output().unwrap());
        assert!(ended == REFUSED && said.contains(&format!("--features {feature}")), "{said}");
        assert!(!at.file("vault").exists());
    }
}

/// A rig whose vault a custodian of `at` opens, and the start of its settings.
fn rig(at: &Custodians, custodian: &str) -> Rig {
    let rig = Rig::made(Engine::Redb, "", "");
    let folder = rig.file("vault").display().to_string();
    let passphrase = rig.file("passphrase").display().to_string();
    at.done(&[
        "custodian",
        "change",
        "--folder",
        &folder,
        "--passphrase-file",
        &passphrase,
        "--new-custodian",
        custodian,
        "--operator",
        "olga",
    ]);
    rig
}

/// Puts a settings file's table into the rig's settings, and another's as the other custodian.
fn name(at: &Custodians, rig: &Rig, custodian: &str, other: Option<&str>) {
    let file = rig.file("settings.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once("[custodian]\n").unwrap();
    let after = &rest[rest.find("[listen]").unwrap()..];
    let table = |file: &str| {
        let text = std::fs::read_to_string(at.file(file)).unwrap();
        let absolute = |key: &str, text: &str| {
            text.replace(&format!("{key} = \""), &format!("{key} = \"{}/", at.folder.path().display()))
        };
        absolute("pin_file", &absolute("passphrase_file", text.strip_prefix("[custodian]\n").unwrap()))
    };
    let other = other.map_or(String::new(), |other| format!("[custodian.other]\n{}", table(other)));
    std::fs::write(&file, format!("{before}[custodian]\n{}{other}{after}", table(custodian))).unwrap();
}

fn start(at: &Custodians, rig: &mut Rig) {
    let mut program = Command::new(program_with_devices());
    at.environment(&mut program);
    rig.start_command(program);
}

async fn rotate(rig: &Rig) -> Result<v1::ChangeCustodianResponse, String> {
    let request = v1::ChangeCustodianRequest { header: Some(ask::change(None)) };
    rig.operator().await.change_custodian(request).await.map_err(|e| e.to_string())
}

#[test]
fn a_server_takes_custody_elsewhere_while_it_serves_and_a_kill_leaves_exactly_one() {
    let at = Custodians::new();
    let kinds = kinds(&at);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dearer = at.settings(
        "dearer",
        "passphrase_file = \"passphrase.secret\"\nargon2 = { memory_mib = 80, passes = 4 }\n",
    );
    let mut rig = rig(&at, &kinds[0].good);
    name(&at, &rig, &kinds[0].good, None);
    start(&at, &mut rig);
    let of = || ask::header("acme", "web", v1::Purpose::Authorization, v1::Initiator::Cardholder);
    let card = ask::card(Zeroizing::new(VISA.as_bytes().to_vec()), None);
    let token =
        runtime.block_on(async { rig.client("shop").await.tokenize(of(), card).await }).unwrap().token;
    let none = runtime.block_on(rotate(&rig)).unwrap_err();
    assert!(none.contains("custodian.other is missing"), "{none}");
    let folder = rig.file("vault").display().to_string();
    let mut from = kinds[0].good.clone();
    for (to, kind, told) in [
        (&dearer, "passphrase", "80 MiB, 4 passes"),
        (&kinds[1].good, "pkcs11", "token vault, key root"),
        (&kinds[2].good, "kms", "arn:aws:kms"),
        (&kinds[0].good, "passphrase", "64 MiB"),
    ] {
        name(&at, &rig, &from, Some(to));
        let changed = runtime.block_on(rotate(&rig)).unwrap_or_else(|e| panic!("to {kind}: {e}"));
        let [custodian] = changed.custodians.as_slice() else { panic!("one protects it") };
        assert!(custodian.kind == kind && custodian.what.contains(told), "{custodian:?}");
        // A root follows under the new one; the settings name both, and which is which is found out.
        name(&at, &rig, to, None);
        let root = v1::RotateKeyRequest {
            header: Some(ask::change(None)),
            kind: v1::KeyKind::Root.into(),
            ..v1::RotateKeyRequest::default()
        };
        runtime.block_on(async { rig.operator().await.rotate_key(root).await }).unwrap();
        // A start by what the settings said before the change still works, by the other one, and says so.
        name(&at, &rig, &kinds[if kind == "kms" { 0 } else { 2 }].good, Some(to));
        rig.kill();
        assert_eq!(check(&at, &folder, to).0, DONE, "{kind}");
        if *to != dearer || kind != "passphrase" {
            start(&at, &mut rig);
            assert!(rig.log().iter().any(|line| line.contains("put it in the first one's place")), "{kind}");
            rig.kill();
        }
        name(&at, &rig, to, None);
        start(&at, &mut rig);
        from.clone_from(to);
    }
    let paid =
        runtime.block_on(async { rig.client("gateway").await.detokenize(of(), ask::plain(&token)).await });
    assert_eq!(ask::pan(paid.unwrap()).unwrap().as_slice(), VISA.as_bytes());
    // A device that goes away underway keeps nobody from being served, and no change is made.
    name(&at, &rig, &from, Some(&kinds[1].wrong[4].1));
    let away = runtime.block_on(rotate(&rig)).unwrap_err();
    assert!(away.contains("not there"), "{away}");
    name(&at, &rig, &from, Some(&kinds[1].good));
    // Killed at any moment of it, exactly one of the two opens, and a start by the same settings finds it.
    at.keep_tokens();
    for round in 0..4_u32 {
        let asked = runtime.spawn({
            let operator = runtime.block_on(rig.operator());
            let request = v1::ChangeCustodianRequest { header: Some(ask::change(None)) };
            async move { operator.change_custodian(request).await.map(drop).map_err(|e| e.to_string()) }
        });
        std::thread::sleep(Duration::from_millis(u64::from(round) * 400));
        rig.kill();
        let _whatever = runtime.block_on(asked);
        at.heal_tokens();
        let open = [&from, &kinds[1].good].map(|custodian| check(&at, &folder, custodian).0 == DONE);
        assert!(open[0] != open[1], "round {round}: {open:?}");
        start(&at, &mut rig);
        if open[1] {
            break;
        }
    }
}

#[test]
fn a_lock_does_not_wait_for_a_custodian_that_does_not_answer() {
    let at = Custodians::new();
    let (listener, silent) = silent_listener();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let own = at.passphrase("passphrase", "correct horse battery");
    let mut rig = rig(&at, &own);
    name(&at, &rig, &own, Some(&at.service_key("silent", "alias/root", silent)));
    start(&at, &mut rig);
    let asked = runtime.spawn({
        let operator = runtime.block_on(rig.operator());
        let request = v1::ChangeCustodianRequest { header: Some(ask::change(None)) };
        async move { operator.change_custodian(request).await.map(drop).map_err(|e| e.to_string()) }
    });
    // It is under way: the service has been called.
    let _connection = listener.accept().unwrap();
    let lock = v1::SetLockRequest {
        header: Some(ask::change(None)),
        target: Some(v1::LockTarget { target: Some(v1::lock_target::Target::Merchant("acme".to_owned())) }),
        reason: v1::LockReason::Drill.into(),
        ..v1::SetLockRequest::default()
    };
    let set = runtime.block_on(async { rig.operator().await.set_lock(lock).await });
    assert!(set.is_ok_and(|set| set.lock.is_some()));
    assert!(!asked.is_finished(), "the lock was set before the custodian answered");
    rig.kill();
}

#[test]
fn a_root_that_two_protect_is_replaced_with_both_or_says_who_is_missing() {
    let at = Custodians::new();
    let (everyday, recovery) = (token(&at).good, at.passphrase("recovery", "kept in two halves"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut rig = rig(&at, &everyday);
    let folder: PathBuf = rig.file("vault");
    let folder = folder.display().to_string();
    at.done(&[
        "custodian",
        "add",
        "--folder",
        &folder,
        "--custodian",
        &everyday,
        "--new-custodian",
        &recovery,
        "--operator",
        "olga",
    ]);
    name(&at, &rig, &everyday, None);
    start(&at, &mut rig);
    let root = || {
        let request = v1::RotateKeyRequest {
            header: Some(ask::change(None)),
            kind: v1::KeyKind::Root.into(),
            ..v1::RotateKeyRequest::default()
        };
        runtime
            .block_on(async { rig.operator().await.rotate_key(request).await })
            .map(drop)
            .map_err(|e| e.to_string())
    };
    let said = root().unwrap_err();
    assert!(said.contains("custodian 2 (passphrase") && said.contains("custodian remove 2"), "{said}");
    name(&at, &rig, &everyday, Some(&recovery));
    root().unwrap();
    assert!(rig.stop());
    for each in [&everyday, &recovery] {
        assert_eq!(check(&at, &folder, each).0, DONE);
        at.done(&["store", "verify", "--folder", &folder, "--custodian", each]);
    }
}
