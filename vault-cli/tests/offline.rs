//! What `vaultctl` does without a server: certificates, policy files, a fresh vault, its folder and its log.

#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops, and says where"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::Value;

struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vaultctl"))
            .args(line.split(' '))
            .env_clear()
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// The answer to a command that succeeds, as one JSON document.
    fn json(&self, line: &str) -> Value {
        let told = self.run(&format!("--json {line}"));
        assert_eq!(told.status.code(), Some(0), "{line}: {}", error(&told));
        serde_json::from_slice(&told.stdout).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    /// The exit code and the one line of a command that does not succeed.
    fn refused(&self, line: &str) -> (Option<i32>, String) {
        let told = self.run(line);
        assert_eq!(error(&told).lines().count(), 1, "{line}: {}", error(&told));
        (told.status.code(), error(&told))
    }

    /// A policy with one merchant, one principal, one operator, their authorities made by `vaultctl certs`.
    fn policy(&self) {
        let mut text = String::new();
        for name in ["shop", "operators"] {
            let made = self.json(&format!("certs create-ca {name}"));
            let sha256 = made["sha256"].as_str().unwrap();
            let authority = format!("[[authority]]\nid = \"{name}\"\nsha256 = \"{sha256}\"\n");
            text.push_str(&authority);
        }
        text.push_str(
            "[[merchant]]\nid = \"acme\"\n[[merchant.format]]\nid = \"cards\"\nscheme = \"random\"\n\
             [[merchant.channel]]\nid = \"web\"\nkind = \"e-commerce\"\nformat = \"cards\"\n\
             [[principal]]\nid = \"web\"\nauthority = \"shop\"\nname = \"spiffe://shop/web\"\nmerchant = \"acme\"\n\
             [[operator]]\nid = \"ada\"\nauthority = \"operators\"\nname = \"spiffe://shop/ada\"\n\
             [[rule]]\nid = \"web\"\neffect = \"allow\"\nmerchant = \"acme\"\nprincipals = [\"web\"]\n\
             actions = [\"tokenize\"]\n",
        );
        self.write("policy.toml", &text);
        self.write("passphrase", "a passphrase of tests\n");
    }
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn certificates_are_made_revoked_and_counted() {
    let desk = Desk::new();
    let made = desk.json("certs create-ca shop");
    assert_eq!(made["sha256"].as_str().unwrap().len(), 64);
    let issued = desk.json("certs issue --ca shop web --uri spiffe://shop/web --days 10");
    let serial = issued["serial"].as_str().unwrap();

    let found = desk.json("certs inventory certs");
    let kinds: Vec<_> = found.as_array().unwrap().iter().map(|f| f["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["certificate", "revocation list", "authority"]);
    assert_eq!(found[0]["serial"], *serial);
    assert_eq!(found[0]["names"][0], "uri:spiffe://shop/web");
    assert_eq!(found[2]["key_sha256"], made["sha256"]);

    let before = fs::read(desk.path("certs/shop.crl")).unwrap();
    assert_eq!(desk.json(&format!("certs revoke --ca shop {serial}"))["wrote"], "certs/shop.crl");
    assert_ne!(fs::read(desk.path("certs/shop.crl")).unwrap(), before);
    assert_eq!(desk.refused("certs revoke --ca shop 00").0, Some(1));
    assert_eq!(desk.refused("certs create-ca shop").0, Some(1));
    assert_eq!(desk.refused("certs inventory nowhere").0, Some(2));
}

#[test]
fn a_policy_is_checked_without_a_vault() {
    let desk = Desk::new();
    desk.policy();
    let good = desk.json("policy check policy.toml");
    assert_eq!((&good["good"], &good["rules"]), (&Value::Bool(true), &Value::from(1)));

    let text = fs::read_to_string(desk.path("policy.toml")).unwrap();
    for (from, to, says) in [
        ("[\"tokenize\"]", "[\"tokenise\"]", "none of tokenize"),
        ("id = \"acme\"", "id = \"acme\"\ncolour = \"red\"", "unknown field"),
        ("format = \"cards\"", "format = \"plates\"", "no format plates"),
        ("scheme = \"random\"", "scheme = \"random\"\nkeep = { 12 = \"6+4\" }", "12"),
    ] {
        desk.write("bad.toml", &text.replacen(from, to, 1));
        let (code, line) = desk.refused("policy check bad.toml");
        assert_eq!(code, Some(1), "{to}");
        assert!(line.contains(says) && line.contains("bad.toml"), "{line}");
        let told = desk.run("--json policy check bad.toml");
        let json: Value = serde_json::from_slice(&told.stdout).unwrap();
        assert_eq!((told.status.code(), &json["good"]), (Some(1), &Value::Bool(false)));
    }
}

#[test]
fn a_fresh_vault_on_either_engine_is_whole_and_is_never_overwritten() {
    for engine in ["redb", "sled"] {
        let desk = Desk::new();
        desk.policy();
        let init = format!(
            "init --folder vault --engine {engine} --passphrase-file passphrase --policy policy.toml --settings vault.toml"
        );
        let made = desk.json(&init);
        assert_eq!((&made["engine"], &made["epoch"]), (&Value::from(engine), &Value::from(1)));
        let log_key = made["log_key"].as_str().unwrap();
        desk.write("log.vkey", log_key);

        let verified = desk.json("store verify --folder vault --passphrase-file passphrase");
        assert_eq!((&verified["whole"], &verified["log_key"]), (&Value::Bool(true), &Value::from(log_key)));

        // Neither the settings nor the vault: nothing is overwritten, and the store's files stay.
        assert_eq!(desk.refused(&init).0, Some(1));
        let (code, line) = desk.refused(&init.replace("vault.toml", "other.toml"));
        assert!(code == Some(1) && line.contains("already is a store"), "{line}");
        assert!(!desk.path("other.toml").exists());
        assert_eq!(
            desk.json("store verify --folder vault --passphrase-file passphrase")["whole"],
            Value::Bool(true)
        );

        desk.write("wrong", "another passphrase");
        let (code, line) = desk.refused("store verify --folder vault --passphrase-file wrong");
        assert!(code == Some(1) && line.contains("passphrase"), "{line}");
        assert_eq!(desk.refused("store verify --folder nowhere --passphrase-file passphrase").0, Some(2));
    }
}

#[test]
fn an_init_that_was_cut_short_is_taken_up_again() {
    let desk = Desk::new();
    desk.policy();
    let options = vault_core::store::Options::default();
    drop(vault_core::store::create(&desk.path("vault"), vault_core::store::Engine::Redb, &options).unwrap());
    let init = "init --folder vault --passphrase-file passphrase --policy policy.toml";
    let (code, line) = desk.refused(&format!("{init} --engine sled"));
    assert!(code == Some(1) && line.contains("engine redb"), "{line}");
    assert_eq!(desk.json(init)["engine"], "redb");
}

#[test]
fn nothing_is_made_where_an_input_is_wrong() {
    let desk = Desk::new();
    desk.policy();
    desk.write("short", "short");
    desk.write("open", "a passphrase of tests");
    fs::set_permissions(desk.path("open"), fs::Permissions::from_mode(0o644)).unwrap();
    desk.write("bad.toml", "x = 1");
    for (line, code) in [
        ("init --folder vault --passphrase-file short --policy policy.toml", 1),
        ("init --folder vault --passphrase-file open --policy policy.toml", 64),
        ("init --folder vault --passphrase-file passphrase --policy bad.toml", 1),
        ("init --folder vault --passphrase-file nowhere --policy policy.toml", 64),
        ("init --folder vault --policy policy.toml", 64),
    ] {
        assert_eq!(desk.refused(line).0, Some(code), "{line}");
        assert!(!desk.path("vault").exists(), "{line}");
    }
}

#[test]
fn the_log_is_exported_and_verified_on_another_machine_and_a_changed_one_is_not_whole() {
    let desk = Desk::new();
    desk.policy();
    let made = desk.json("init --folder vault --passphrase-file passphrase --policy policy.toml");
    desk.write("log.vkey", made["log_key"].as_str().unwrap());
    let exported = desk.json("audit export --folder vault --passphrase-file passphrase log.jsonl");
    let verified = desk.json("audit verify --export log.jsonl --log-key log.vkey");
    assert_eq!((&verified["intact"], &verified["entries"]), (&Value::Bool(true), &exported["entries"]));
    assert_eq!(
        desk.refused("audit export --folder vault --passphrase-file passphrase log.jsonl").0,
        Some(64)
    );

    let log = fs::read_to_string(desk.path("log.jsonl")).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    let without_last = lines[..lines.len() - 1].join("\n");
    let swapped =
        [lines[0], lines[2], lines[1]].iter().chain(&lines[3..]).copied().collect::<Vec<_>>().join("\n");
    for changed in [without_last, swapped, log.replacen("\"index\":1", "\"index\":7", 1)] {
        desk.write("changed.jsonl", &changed);
        let (code, line) = desk.refused("audit verify --export changed.jsonl --log-key log.vkey");
        assert!(code == Some(1) && line.contains("not whole"), "{line}");
    }
    let other = Desk::new();
    other.policy();
    let key = other.json("init --folder vault --passphrase-file passphrase --policy policy.toml");
    let key = key["log_key"].as_str().unwrap();
    assert_eq!(desk.refused(&format!("audit verify --export log.jsonl --log-key {key}")).0, Some(1));
}

#[test]
fn settings_are_checked_all_at_once_and_those_that_init_wrote_are_good() {
    let desk = Desk::new();
    desk.policy();
    desk.json("init --folder vault --passphrase-file passphrase --policy policy.toml --settings vault.toml");
    // The server has no certificate yet: one line for each problem, then the sum.
    let told = desk.run("serve --check --settings vault.toml");
    assert_eq!(told.status.code(), Some(1), "{}", error(&told));
    assert!(error(&told).contains("tls.") && error(&told).lines().count() > 1, "{}", error(&told));
    desk.json("certs create-ca servers");
    desk.json("certs issue --ca servers server --server --dns localhost --ip 127.0.0.1");
    assert_eq!(desk.json("serve --check --settings vault.toml")["good"], Value::Bool(true));
    assert_eq!(desk.refused("serve --settings nowhere.toml").0, Some(1));
}
