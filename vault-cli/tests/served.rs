//! `vaultctl` against a server that it serves itself: every command that dials, over mutual TLS.

#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops, and says where"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use data_encoding::BASE64;
use serde_json::Value;
use vault_core::hpke::PublicKey;

/// Card numbers that everyone knows.
const VISA: &str = "4111111111111111";
const MASTERCARD: &str = "5555555555554444";

/// A vault that is served, and who dials it.
struct Served {
    folder: tempfile::TempDir,
    server: Child,
    log_key: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        // Whether it still runs is the test's to say; here it only must not outlive it.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Served {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let run = |line: &str| answer(&command(&folder, line).output().unwrap(), line);
        let mut policy = String::new();
        for (name, leaf) in [("shop", "web"), ("operators", "ada"), ("servers", "server")] {
            let made = run(&format!("certs create-ca {name}"));
            let names = if leaf == "server" {
                "--server --ip 127.0.0.1".into()
            } else {
                format!("--uri spiffe://rig/{leaf}")
            };
            run(&format!("certs issue --ca {name} {leaf} {names}"));
            let sha256 = made["sha256"].as_str().unwrap();
            let authority = format!("[[authority]]\nid = \"{name}\"\nsha256 = \"{sha256}\"\n");
            policy.push_str(&authority);
        }
        policy.push_str(include_str!("served.toml"));
        let bank = run("recipient keygen --key bank.key");
        assert_eq!(run("recipient public-key --key bank.key"), bank);
        let recipient = format!(
            "[[merchant.recipient]]\nid = \"bank\"\nowner = \"Bank plc\"\nkey = {}\nexpires = \"2099-12-31\"\n",
            bank["key"]
        );
        policy.push_str(&recipient);
        private(&at("policy.toml"), &policy);
        private(&at("passphrase"), "a passphrase of tests");
        let made = run(
            "init --folder vault --passphrase-file passphrase --policy policy.toml --settings vault.toml",
        );
        let settings = fs::read_to_string(at("vault.toml")).unwrap();
        private(&at("vault.toml"), &settings.replace(":7443", ":0").replace(":7444", ":0"));
        let (server, data, admin) = serve(&folder);
        let part = |table: &str, address: &str, leaf: &str| {
            format!(
                "[{table}]\nserver = \"https://{address}\"\nca = \"certs/servers.pem\"\ncert = \"certs/{leaf}.pem\"\n\
                 key = \"certs/{leaf}.key\"\n"
            )
        };
        private(&at("profile.toml"), &(part("vault", &data, "web") + &part("admin", &admin, "ada")));
        Self { folder, server, log_key: made["log_key"].as_str().unwrap().to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a line with something on standard input.
    fn feed(&self, line: &str, input: &str) -> Output {
        let mut child = command(&self.folder, line)
            .env("VAULTCTL_PROFILE", "profile.toml")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let told = child.wait_with_output().unwrap();
        let said = [told.stdout.clone(), told.stderr.clone()].concat();
        let said = String::from_utf8(said).unwrap();
        for card in [VISA, MASTERCARD] {
            assert!(!said.contains(card), "{line}: a card number was told");
        }
        told
    }

    /// The answers of a command that succeeds: JSON lines.
    fn all(&self, line: &str, input: &str) -> Vec<Value> {
        let told = self.feed(line, input);
        assert_eq!(told.status.code(), Some(0), "{line}: {}", error(&told));
        lines(&told)
    }

    fn one(&self, line: &str) -> Value {
        self.all(line, "").pop().unwrap_or_else(|| panic!("{line}: no answer"))
    }

    fn refused(&self, line: &str, code: i32, says: &str) {
        let told = self.feed(line, "");
        assert_eq!(told.status.code(), Some(code), "{line}: {}", error(&told));
        assert!(error(&told).contains(says), "{line}: {}", error(&told));
    }
}

fn command(folder: &tempfile::TempDir, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaultctl"));
    command.arg("--json").args(line.split(' ')).env_clear().current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts the server and reads from its log where it listens.
fn serve(folder: &tempfile::TempDir) -> (Child, String, String) {
    let mut server = command(folder, "serve --settings vault.toml").spawn().unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let mut address = |door: &str| {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the server ended");
            let Ok(told) = serde_json::from_str::<Value>(&line) else { panic!("{line}") };
            if told["door"] == door {
                return told["address"].as_str().unwrap().to_owned();
            }
        }
    };
    let (data, admin) = (address("data"), address("admin"));
    // Read to its end, so that the server never waits for a reader.
    std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(drop));
    (server, data, admin)
}

fn private(path: &std::path::Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn lines(told: &Output) -> Vec<Value> {
    let text = String::from_utf8(told.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

fn answer(told: &Output, line: &str) -> Value {
    assert_eq!(told.status.code(), Some(0), "{line}: {}", error(told));
    lines(told).pop().unwrap()
}

fn error(told: &Output) -> String {
    String::from_utf8(told.stderr.clone()).unwrap()
}

#[test]
fn a_vault_is_run_from_the_command_line() {
    let served = Served::new();
    cards_become_tokens(&served);
    other_payment_methods_become_tokens(&served);
    formats_are_planned_with_what_is_used(&served);
    cards_come_and_go_sealed(&served);
    operators_stop_and_let_go(&served);
    the_policy_is_changed_as_it_was_shown(&served);
    the_log_proves_what_was_done(&served);
    the_server_ends_in_good_order_and_its_folder_is_whole(served);
}

/// A page seals a card, the shop passes it on both ways, the bank opens it.
fn cards_come_and_go_sealed(served: &Served) {
    let key = served.one("token sealing-key");
    let bytes = |name: &str| BASE64.decode(key[name].as_str().unwrap().as_bytes()).unwrap();
    let public = PublicKey::parse(&bytes("public_key")).unwrap();
    let plain = format!("{{\"v\":1,\"pan\":\"{MASTERCARD}\",\"exp\":\"2031-04\"}}");
    let made = public.seal(&bytes("info"), plain.as_bytes()).unwrap();
    let (enc, ciphertext) = (BASE64.encode(&made.enc), BASE64.encode(&made.ciphertext));
    let line = serde_json::json!({ "key_id": key["key_id"], "enc": enc, "ciphertext": ciphertext });
    let stored = served.all("token tokenize --sealed", &line.to_string());
    assert_eq!(stored[0]["card"]["masked_pan"], "555555******4444");
    let token = stored[0]["token"].as_str().unwrap();

    let sealed = served.one(&format!("token detokenize --to bank {token}"));
    fs::write(served.path("sealed.jsonl"), sealed.to_string()).unwrap();
    served.refused(&format!("token detokenize --to nobody {token}"), 1, "PERMISSION_DENIED");
    let open = "recipient open --key bank.key --merchant acme --file sealed.jsonl --recipient";
    served.refused(&format!("{open} bank"), 1, "on a terminal only");
    served.refused(&format!("{open} other --out none.csv"), 1, "1 lines were not opened");
    let told = served.feed(&format!("{open} bank --out cards.csv"), "");
    assert_eq!(told.status.code(), Some(0), "{}", error(&told));
    assert_eq!(fs::read_to_string(served.path("cards.csv")).unwrap(), format!("{MASTERCARD},2031-04\n"));
    fs::remove_file(served.path("cards.csv")).unwrap();

    let rotated = served.one("keys rotate rcv --merchant acme");
    assert_eq!(served.one("token sealing-key")["key_id"], rotated["key"]["id"]);
    assert_eq!(served.all("token tokenize --sealed", &line.to_string())[0]["token"], token);
    let explain = "policy explain web detokenize acme/web --form sealed_to_recipient --recipient";
    assert_eq!(served.one(&format!("{explain} bank"))["shown"], "sealed");
    assert_eq!(served.one(&format!("{explain} other"))["decision"], "deny");

    // This server sends nothing itself: its settings name no destination.
    fs::write(served.path("charge.json"), format!("{{{{token:{token}|number}}}}")).unwrap();
    served.refused("token forward --to psp --path /v1/charges --file charge.json", 2, "UNIMPLEMENTED");
}

fn cards_become_tokens(served: &Served) {
    let cards = format!("number,expiry,name\n{VISA},12/29,Ada\n4111111111111112,,\n{MASTERCARD}\n");
    let told = served.feed("token tokenize --receipts receipts.jsonl", &cards);
    assert_eq!(told.status.code(), Some(1), "{}", error(&told));
    assert!(error(&told).contains("1 of 3 lines"), "{}", error(&told));
    let answers = lines(&told);
    let places: Vec<_> = answers.iter().map(|a| a["line"].as_u64().unwrap()).collect();
    assert_eq!(places, [2, 3, 4]);
    assert_eq!(answers[0]["card"]["masked_pan"], "411111******1111");
    assert_eq!(answers[0]["card"]["card_expiry"], "12/2029");
    assert!(answers[1]["error"]["message"].as_str().unwrap().contains("check digit"));
    let receipts = fs::read_to_string(served.path("receipts.jsonl")).unwrap();
    assert_eq!(receipts.lines().count(), 2);

    let token = answers[0]["token"].as_str().unwrap();
    let again = served.all("token tokenize", VISA);
    assert_eq!((again[0]["token"].as_str(), &again[0]["novelty"]), (Some(token), &Value::from("reused")));
    fs::write(served.path("receipt.json"), again[0].to_string()).unwrap();

    assert_eq!(served.one(&format!("token inspect {token}"))["state"], "active");
    assert_eq!(served.one(&format!("token detokenize {token}"))["card"]["masked_pan"], "411111******1111");
    served.refused(&format!("token detokenize --reveal --purpose dispute {token}"), 1, "terminal");
    fs::write(served.path("tokens.txt"), format!("{token}\n\n{VISA}\n4111110000021112\n")).unwrap();
    let told = served.feed("token inspect --file tokens.txt", "");
    let answers = lines(&told);
    assert_eq!((told.status.code(), answers.len()), (Some(1), 3));
    assert!(answers[1]["error"]["message"].as_str().unwrap().contains("must not look like a card number"));
    assert_eq!(answers[2]["error"]["reason"], "NOT_FOUND");

    let other = lines(&served.feed("token tokenize", MASTERCARD)).pop().unwrap();
    let other = other["token"].as_str().unwrap();
    assert_eq!(served.one(&format!("token revoke --everywhere {other}"))["state"], "revoked");
    served.refused(&format!("token inspect {other}"), 1, "NOT_FOUND");

    // The answer is given again, the giving is logged anew.
    let retry = "token tokenize --request-id 0f0e0d0c-0b0a-4908-8706-050403020100";
    let twice = [served.all(retry, VISA), served.all(retry, VISA)];
    assert_eq!(twice[0][0]["token"], twice[1][0]["token"]);
    let mismatch = served.feed(retry, MASTERCARD);
    assert!(mismatch.status.code() == Some(1) && error(&mismatch).contains("IDEMPOTENCY_MISMATCH"));
}

/// Of each kind one value, as people write it; what may be shown of it, and how its token begins.
const METHODS: [(&str, &str, &str, &str); 8] = [
    (
        "network_token",
        "4895370012003478,12/30,40010030273,4242,V0010013019326471230984710234\n",
        "489537******3478",
        "489537",
    ),
    ("reference", "8535296650153317,V0010013019326471230984710234\n", "***", "tok_"),
    ("iban", "DE89 3704 0044 0532 0130 00\n", "DE****************3000", "DE"),
    ("us_account", "021000021,000123456789\n", "021000021-********6789", "021000021-"),
    ("digits", "6006-4912-3456-7890\n", "************7890", ""),
    ("phone", "+49 1512 3456789\n", "+49*********89", "+49"),
    ("email", "ada@example.com\n", "***@example.com", "t"),
    ("bytes", "mandate\nof two lines\n", "***", "tok_"),
];

fn other_payment_methods_become_tokens(served: &Served) {
    for (kind, written, shown, begins) in METHODS {
        let answers = served.all(&format!("token tokenize --kind {kind}"), written);
        let [answer] = answers.as_slice() else { panic!("{kind}: {answers:?}") };
        let token = answer["token"].as_str().unwrap();
        assert!(token.starts_with(begins), "{kind}: {token}");
        let data = serde_json::json!({ "kind": kind, "masked_value": shown });
        let is = |seen: &Value| data.as_object().unwrap().iter().all(|(key, value)| seen[key] == *value);
        assert!(is(&answer["data"]) && answer["card"].is_null(), "{answer}");
        let looked = served.one(&format!("token inspect {token}"));
        assert!(looked["state"] == "active" && is(&looked["data"]), "{looked}");
        let masked = served.one(&format!("token detokenize {token}"));
        assert!(is(&masked["data"]), "{masked}");
        served.refused(&format!("token detokenize --reveal --purpose dispute {token}"), 1, "terminal");
        let again = served.all(&format!("token tokenize --kind {kind}"), written);
        assert_eq!(again[0]["token"], token, "{kind}");
    }
    let seen = served.all("token tokenize --kind network_token", METHODS[0].1);
    let seen = &seen[0]["data"];
    assert_eq!(
        (&seen["funding_last_four"], &seen["network"], &seen["expiry"]),
        (&"4242".into(), &"visa".into(), &"12/2030".into())
    );
    for (kind, written, says) in [
        ("iban", "DE88370400440532013000\n", "check digits"),
        ("digits", "4111-1111-1111-1111\n", "must not hold a card number"),
        ("bytes", "card 4111-1111-1111-1111\n", "must not hold a card number"),
        ("digits", "12345678\n", "length"),
    ] {
        let told = served.feed(&format!("token tokenize --kind {kind}"), written);
        assert_eq!(told.status.code(), Some(1), "{kind}");
        let said = error(&told) + &String::from_utf8_lossy(&told.stdout);
        assert!(said.contains(says) && !said.contains("3704") && !said.contains("4111"), "{said}");
    }
}

fn formats_are_planned_with_what_is_used(served: &Served) {
    let plan = |more: &str| served.one(format!("format plan --live {more}").trim())["plans"].clone();
    let gift = plan("--format gift --length 16 --last 7890");
    assert_eq!((&gift[0]["tokens"], &gift[0]["left"]), (&"900000000000".into(), &"899999999999".into()));
    let debit = plan("--format debit --country DE --per-day 1000");
    assert_eq!(debit[0]["tokens"], "96000000000000000000");
    assert_eq!(debit[0]["left"], "95999999999999999999");
    assert_eq!(debit[0]["warnings"][0], "dictionary");
    assert_eq!(plan("").as_array().unwrap().len(), 9);
    served.refused("format plan --scheme ff1 --keep 6+4 --ff1-slots 5", 1, "7 digits");
    served.refused("format plan --live --merchant nobody", 64, "no such merchant");
}

fn operators_stop_and_let_go(served: &Served) {
    let deks = |served: &Served| served.one("keys list --kind dek --merchant acme").as_array().unwrap().len();
    assert_eq!(deks(served), 1);
    let rotated = served.one("keys rotate dek --merchant acme");
    assert_eq!(
        (&rotated["key"]["version"], &rotated["previous"]["state"]),
        (&Value::from(2), &Value::from("deactivated"))
    );
    assert_eq!(deks(served), 2);
    served.refused("keys rotate dek --merchant nobody", 1, "merchant");

    let set = served.one("lock set --principal web --reason drill --note rehearsal");
    let lockdown = set["lock"]["lockdown"].as_u64().unwrap();
    served.refused("token inspect 4111110000021112", 1, "LOCKED");
    assert_eq!(served.one("lock list")[0]["note"], "rehearsal");
    served.one(&format!("lock lift {lockdown}"));
    assert_eq!(served.one("lock list"), Value::Array(Vec::new()));
    assert_eq!(served.one("lock list --lifted")[0]["lifted_by"], "ada");
    served.refused("token inspect 4111110000021112", 1, "NOT_FOUND");
}

fn the_policy_is_changed_as_it_was_shown(served: &Served) {
    let shown = served.one("policy show");
    fs::write(served.path("shown.toml"), shown["toml"].as_str().unwrap()).unwrap();
    assert_eq!(served.one("policy diff shown.toml")["changes"], Value::Array(Vec::new()));

    let explained = served.one("policy explain web revoke acme/web");
    assert_eq!(
        (&explained["decision"], &explained["rules"][0]["rule"]),
        (&Value::from("allow"), &Value::from("web-stores"))
    );
    let text = shown["toml"].as_str().unwrap().replace("\"tokenize\", \"revoke\"", "\"tokenize\"");
    fs::write(served.path("less.toml"), text).unwrap();
    let diff = served.one("policy diff less.toml");
    assert_eq!(diff["changes"][0]["path"], "rule.web-stores");
    let epoch = diff["epoch"].as_u64().unwrap();
    served.refused("policy apply less.toml", 64, "--yes");
    served.refused("policy apply less.toml --yes --epoch 1", 1, "EPOCH_MISMATCH");
    assert_eq!(served.one(&format!("policy apply less.toml --yes --epoch {epoch}"))["epoch"], epoch + 1);
    assert_eq!(served.one("policy explain web revoke web --merchant acme")["decision"], "deny");
    fs::write(served.path("bad.toml"), "rule = 1").unwrap();
    served.refused("policy apply bad.toml --yes", 1, "POLICY_REFUSED");
}

fn the_log_proves_what_was_done(served: &Served) {
    fs::write(served.path("log.vkey"), &served.log_key).unwrap();
    let there = served.one("audit verify");
    assert_eq!((&there["intact"], &there["by"]), (&Value::Bool(true), &Value::from("vault")));
    let here = served.one("audit verify --log-key log.vkey");
    assert_eq!((&here["intact"], &here["by"]), (&Value::Bool(true), &Value::from("vaultctl")));
    let exported = served.one("audit export log.jsonl");
    assert_eq!(exported["log_key"], *served.log_key);
    let verified = served.one("audit verify --export log.jsonl --log-key log.vkey");
    assert_eq!(verified["entries"], exported["entries"]);

    for receipts in ["receipt.json", "receipts.jsonl"] {
        let proofs = served.feed(&format!("audit prove {receipts} --log-key log.vkey"), "");
        assert_eq!(proofs.status.code(), Some(0), "{}", error(&proofs));
        fs::write(served.path("proof.json"), &proofs.stdout).unwrap();
        let held = served.all(&format!("audit check proof.json --log-key log.vkey --receipt {receipts}"), "");
        assert!(held.iter().all(|h| h["holds"] == true && h["entry"]["event"] == "tokenized"));
    }
    served.refused(
        "audit check proof.json --log-key log.vkey --receipt receipt.json",
        64,
        "as many receipts",
    );
    let proof = fs::read_to_string(served.path("proof.json")).unwrap();
    fs::write(served.path("proof.json"), proof.replacen("\"index\":", "\"index\":1", 1)).unwrap();
    served.refused("audit check proof.json --log-key log.vkey", 1, "does not hold");

    tokens_move_to_another_root_key(served);
    the_log_goes_on_under_another_key(served);
    an_erasure_is_certified_once_its_key_is_gone(served);
    let first = served.all("audit show --from 1 --limit 2", "");
    assert_eq!(first.iter().map(|e| e["index"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    let newest = served.all("audit show --limit 2", "");
    assert!(newest[0]["index"].as_u64() > newest[1]["index"].as_u64());
    let refusals = served.all("audit show --outcome refused --principal web", "");
    assert!(refusals.iter().any(|e| e["why"] == "locked"), "{refusals:?}");
    assert!(served.all("audit show --since 2090-01-01", "").is_empty());
}

fn an_erasure_is_certified_once_its_key_is_gone(served: &Served) {
    let erased = served.one("token erase --customer anna");
    fs::write(served.path("erased.json"), erased.to_string()).unwrap();
    served.refused("audit erasure erased.json --log-key log.vkey", 1, "not destroyed yet");
    assert_eq!(served.one("keys status")["erasure"]["moving"], false);
    let rotated = served.one("keys rotate esk");
    while !served.one("keys status")["erasure"].is_null() {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let told = served.one("audit erasure erased.json --log-key log.vkey --key-backup-days 30");
    assert_eq!(told["erasure_key"].to_string(), rotated["previous"]["id"].as_str().unwrap());
    assert!(told["custodians"][0].as_str().unwrap().contains("by policy only"), "{told}");
    assert!(told["backups_gone_by"].as_str() > told["destroyed_at"].as_str(), "{told}");
    // What it holds can be checked by anybody.
    let proofs: Vec<String> = told["proofs"].as_array().unwrap().iter().map(Value::to_string).collect();
    fs::write(served.path("certificate.json"), proofs.join("\n")).unwrap();
    let held = served.all("audit check certificate.json --log-key log.vkey", "");
    assert!(
        held[0]["entry"]["event"] == "erased"
            && held[1]["entry"]["change"]["kind"] == "erasure_key_destroyed"
    );
    served.refused("audit erasure receipt.json --log-key log.vkey", 1, "is not of an erasure");
}

fn tokens_move_to_another_root_key(served: &Served) {
    let rotated = served.one("keys rotate trk --merchant acme");
    let old = rotated["previous"]["id"].as_str().unwrap();
    let counted = served.one("keys upgrade --merchant acme");
    assert!(counted["keys"][0]["key"] == old && counted["keys"][0]["cards"].as_u64() > Some(0), "{counted}");
    // As many as a shop may have, of which the vault knows some; what is no token at all is nobody's.
    let mut tokens: Vec<String> = (0..2_500).map(|n| format!("tok_{n:022}")).collect();
    tokens[1_200] = served.all("token tokenize", MASTERCARD)[0]["token"].as_str().unwrap().to_owned();
    tokens[2_499] = "no token".to_owned();
    fs::write(served.path("tokens.txt"), tokens.join("\r\n")).unwrap();
    let told = served.one("keys upgrade --merchant acme --tokens tokens.txt");
    assert_eq!(told["upgraded"].as_u64().unwrap() + told["current"].as_u64().unwrap(), 1, "{told}");
    assert_eq!((&told["unknown"], &told["unreadable"]), (&Value::from(2_499), &Value::from(0)));
    served.refused(&format!("keys destroy {old}"), 1, "keys upgrade");
    served.refused("keys upgrade --merchant nobody", 1, "names no merchant");
}

fn the_log_goes_on_under_another_key(served: &Served) {
    let rotated = served.one("keys rotate log");
    assert_eq!(rotated["previous"]["state"], "destroyed");
    let keys = served.one("audit keys --log-key log.vkey");
    assert_eq!(keys["keys"][0], *served.log_key);
    assert_eq!(keys["hand_overs"].as_array().unwrap().len(), 1);
    let newest = keys["keys"][1].as_str().unwrap();
    // The file of `audit keys`, in its form for people, which `--log-key` takes.
    let lines = [newest.to_owned(), keys["hand_overs"][0].to_string()].join("\n");
    fs::write(served.path("log.keys"), lines).unwrap();
    let exported = served.one("audit export log2.jsonl");
    assert_eq!(exported["log_key"], newest);
    let proofs = served.feed("audit prove receipt.json --log-key log.vkey", "");
    assert_eq!(proofs.status.code(), Some(0), "{}", error(&proofs));
    fs::write(served.path("proof2.json"), &proofs.stdout).unwrap();
    for key in ["log.vkey", "log.keys", newest] {
        assert_eq!(served.one(&format!("audit verify --log-key {key}"))["intact"], true);
        assert_eq!(served.one(&format!("audit verify --export log2.jsonl --log-key {key}"))["intact"], true);
        let held = format!("audit check proof2.json --log-key {key} --receipt receipt.json");
        assert_eq!(served.one(&held)["holds"], true);
    }
    // An export from before holds by its own key, and by the file that has the way from the newest to it.
    assert_eq!(served.one("audit verify --export log.jsonl --log-key log.vkey")["intact"], true);
    served.refused(
        &format!("audit verify --export log.jsonl --log-key {newest}"),
        1,
        "not signed by the log's key",
    );
    let stranger = "pv1/00/0+5b4f0a3a+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    fs::write(served.path("stranger.vkey"), stranger).unwrap();
    served.refused("audit verify --log-key stranger.vkey", 64, "no log key");
}

fn the_server_ends_in_good_order_and_its_folder_is_whole(mut served: Served) {
    served.refused("store verify --folder vault --passphrase-file passphrase", 2, "in use");
    let id = served.server.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(served.server.wait().unwrap().code(), Some(0));
    let verified = served.one("store verify --folder vault --passphrase-file passphrase");
    assert_eq!((&verified["whole"], &verified["good"]), (&Value::Bool(true), &Value::from(11)));
    served.refused("audit show", 2, "cannot reach");
}
