//! `vaultctl` as a program, without a network: exit codes, one plain line per error, and no card number in sight.

#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on stops, and says where"
)]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// A card number that everyone knows, and parts of it that may not be repeated either.
const CARD: &str = "4111111111111111";

fn vaultctl(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vaultctl"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that is refused before it reads closes the pipe.
    let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A connection that is complete and leads nowhere.
const NOWHERE: [&str; 8] =
    ["--server", "https://127.0.0.1:1", "--ca", "/nowhere", "--cert", "/nowhere", "--key", "/nowhere"];

#[test]
fn what_is_wrong_with_a_command_line_is_one_line_and_exit_code_64() {
    for (line, says) in [
        (&[][..], "a command is missing"),
        (&["token"], "a command is missing"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["token", "inspect"], "were not provided: <TOKEN>"),
        (&["token", "inspect", "tok_short"], "the token must have"),
        (&["token", "inspect", "4111110000021112"], "give --server"),
        (&["token", "detokenize", "--reveal", "4111110000021112"], "--purpose"),
        (&["token", "detokenize", "--purpose", "curiosity", "4111110000021112"], "invalid value 'curiosity'"),
        (&["token", "revoke", "4111110000021112"], "--everywhere"),
        (&["token", "revoke", "--everywhere", "--on", "web", "4111110000021112"], "cannot be used with"),
        (&["token", "tokenize", "--file", "/nowhere"], "/nowhere"),
        (&["token", "tokenize", "--valid-until", "tomorrow"], "2026-11-23"),
        (&["keys", "rotate", "everything"], "invalid value"),
        (&["keys", "list"], "give --admin"),
        (&["lock", "set", "--reason", "drill"], "--merchant"),
        (&["lock", "set", "--merchant", "a"], "--reason"),
        (&["lock", "set", "--channel", "web", "--reason", "drill"], "MERCHANT/CHANNEL"),
        (&["lock", "set", "--merchant", "a", "--principal", "b", "--reason", "drill"], "cannot be used with"),
        (
            &["policy", "explain", "web", "tokenize", "web", "--admin", "https://127.0.0.1:1"],
            "MERCHANT/CHANNEL",
        ),
        (&["policy", "apply", "p.toml"], "no terminal"),
        (&["policy", "check", "/nowhere"], "/nowhere"),
        (&["audit", "verify", "--export", "x"], "--log-key"),
        (&["audit", "check", "x", "--log-key", "/nowhere"], "no log key"),
        (&["store", "verify"], "--folder"),
        (&["init", "--folder", "x"], "--policy"),
        (&["init", "--folder", "x", "--policy", "p", "--engine", "memory"], "possible values: redb, sled"),
        (&["serve"], "--settings"),
        (&["certs", "create-ca", "../up"], "the name may hold only"),
        (&["completions", "cmd"], "invalid value"),
    ] {
        let told = vaultctl(line, "");
        assert_eq!(told.status.code(), Some(64), "{line:?}: {}", error(&told));
        assert_eq!(
            (out(&told), error(&told).lines().count()),
            (String::new(), 1),
            "{line:?}: {}",
            error(&told)
        );
        assert!(
            error(&told).starts_with("vaultctl: ") && error(&told).contains(says),
            "{line:?}: {}",
            error(&told)
        );
    }
}

#[test]
fn a_card_number_on_the_command_line_is_refused_by_every_command_and_never_repeated() {
    for line in [
        &["token", "tokenize", CARD][..],
        &["token", "tokenize", "--file", CARD],
        &["token", "inspect", CARD],
        &["token", "inspect", "4111-1111-1111-1111"],
        &["token", "inspect", "4111", "1111", "1111", "1111"],
        &["token", "detokenize", "4111 1111 1111 1111"],
        &["token", "tokenize", "--customer=4111111111111111"],
        &["token", "tokenize", "4111111111111111,12/27"],
        &["lock", "set", "--note", CARD],
        &["policy", "explain", CARD, "tokenize", "web"],
        &[CARD],
        &["--json", "audit", "show", "--merchant", CARD],
        // Mistyped, and so no card number, but nearly one.
        &["token", "tokenize", "4111111111111112"],
        &["token", "inspect", "--customer", "card 4111 1111 1111 1111", "4111110000021112"],
        &["lock", "set", "--merchant", "a", "--reason", "drill", "--note", "card 4111111111111111"],
        &["serve", "--settings", "x", "41111111111111-11"],
    ] {
        let told = vaultctl(line, "");
        let said = out(&told) + &error(&told);
        assert_eq!(told.status.code(), Some(64), "{line:?}: {said}");
        assert!(!said.contains("4111") && !said.contains("1111"), "{line:?}: {said}");
        assert_eq!(error(&told).lines().count(), 1, "{said}");
    }
}

#[test]
fn a_card_number_is_not_shown_where_no_person_sees_it() {
    let line = ["token", "detokenize", "--reveal", "--purpose", "dispute", "4111110000021112"];
    let told = vaultctl(&[&line[..], &NOWHERE].concat(), "");
    assert_eq!((told.status.code(), out(&told)), (Some(1), String::new()));
    assert!(error(&told).contains("terminal"), "{}", error(&told));
}

#[test]
fn bad_lines_of_cards_are_told_without_their_content_and_the_vault_is_not_asked_for_nothing() {
    let none = vaultctl(&[&["token", "tokenize"][..], &NOWHERE].concat(), "number,expiry\n\n");
    assert_eq!(none.status.code(), Some(64), "{}", error(&none));
    let unreachable = vaultctl(&[&["token", "tokenize"][..], &NOWHERE].concat(), CARD);
    assert_eq!(unreachable.status.code(), Some(64), "{}", error(&unreachable));
    assert!(error(&unreachable).contains("cannot read the authority `/nowhere`"), "{}", error(&unreachable));
}

#[test]
fn every_command_has_help_with_an_example() {
    for line in [
        "demo",
        "init",
        "serve",
        "token tokenize",
        "token detokenize",
        "token inspect",
        "token revoke",
        "keys list",
        "keys rotate",
        "lock set",
        "lock list",
        "lock lift",
        "policy show",
        "policy diff",
        "policy check",
        "policy apply",
        "policy explain",
        "audit show",
        "audit verify",
        "audit prove",
        "audit check",
        "audit export",
        "store verify",
        "certs create-ca",
        "certs issue",
        "certs revoke",
        "certs crl",
        "certs inventory",
        "completions",
    ] {
        let words: Vec<&str> = line.split(' ').chain(["--help"]).collect();
        let told = vaultctl(&words, "");
        assert_eq!((told.status.code(), error(&told)), (Some(0), String::new()), "{line}");
        assert!(
            out(&told).contains(&format!("vaultctl {line}")) || out(&told).contains("Example"),
            "{}",
            out(&told)
        );
        assert!(out(&told).contains("Example") && out(&told).contains("--json"), "{line}: {}", out(&told));
    }
}

#[test]
fn completions_and_the_version_are_answers() {
    for (shell, says) in
        [("bash", "_vaultctl()"), ("zsh", "#compdef vaultctl"), ("fish", "complete -c vaultctl")]
    {
        let told = vaultctl(&["completions", shell], "");
        assert_eq!(told.status.code(), Some(0));
        assert!(out(&told).contains(says), "{shell}");
    }
    assert_eq!(out(&vaultctl(&["--version"], "")), format!("vaultctl {}\n", env!("CARGO_PKG_VERSION")));
}
