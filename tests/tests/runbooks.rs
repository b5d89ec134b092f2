//! The runbooks of docs/operations.md on custody, typed as they stand there; those on keys are run in `key_lifecycle.rs`.

use std::fs;

use vault_core::store::Engine;
use vault_tests::custody::{Custodians, DONE, REFUSED, program_with_devices, told};
use vault_tests::runbook;
use vault_tests::server::{Authority, Rig, policy};

/// A place with a vault that a passphrase opens, in the file `passphrase`.
fn place() -> Custodians {
    let at = Custodians::new();
    at.secret("policy.toml", &policy(&Authority::new("clients"), &Authority::new("operators"), ""));
    at.secret("passphrase", "correct horse battery");
    at.done(&["init", "--folder", "vault", "--passphrase-file", "passphrase", "--policy", "policy.toml"]);
    at
}

/// Three of five people open it; their shares lie where everybody's would be.
fn place_of_people() -> Custodians {
    let at = place();
    let own =
        ["custodian", "split", "--folder", "vault", "--passphrase-file", "passphrase", "--operator", "olga"];
    at.done(&[&own[..], &["--shares", "5", "--threshold", "3", "--into", "shares"]].concat());
    for number in 1..=5 {
        let share = format!("share-{number}");
        fs::rename(at.file("shares").join(&share), at.file(&share)).unwrap();
    }
    at
}

/// Types a page; it must be done to its end.
fn typed(at: &Custodians, page: &str) -> String {
    let mut sh = runbook::sh(page, &[("FOLDER", "vault")], program_with_devices(), at.folder.path());
    at.environment(&mut sh);
    let (code, said) = told(&sh.output().unwrap());
    assert_eq!(code, DONE, "{page}: {said}");
    said
}

fn opened_by(at: &Custodians, flags: &[&str]) -> i32 {
    at.ran(&[&["custodian", "check", "--folder", "vault"][..], flags].concat()).0
}

const OLD_SHARES: [&str; 6] =
    ["--share-file", "share-1", "--share-file", "share-2", "--share-file", "share-4"];

#[test]
fn a_lost_share_is_replaced_as_its_page_says() {
    let at = place_of_people();
    assert_eq!(opened_by(&at, &OLD_SHARES), DONE);
    // Share 3 is the lost one: nobody has it.
    fs::remove_file(at.file("share-3")).unwrap();
    typed(&at, "lost share");
    assert_eq!(opened_by(&at, &OLD_SHARES), REFUSED);
}

#[test]
fn a_custodian_leaves_and_takes_nothing_along_that_opens_the_vault() {
    let at = place_of_people();
    let root = |at: &Custodians, shares: &[&str]| {
        at.done(&[&["store", "verify", "--folder", "vault"][..], shares].concat())
    };
    root(&at, &OLD_SHARES);
    let said = typed(&at, "staff change, shares");
    assert!(said.contains("any 3 of 5 shares"), "{said}");
    assert_eq!(opened_by(&at, &OLD_SHARES), REFUSED);
    root(&at, &["--share-file", "new/share-2", "--share-file", "new/share-5", "--share-file", "new/share-4"]);
}

#[test]
fn whoever_knew_the_passphrase_leaves_while_the_vault_serves() {
    let mut rig = Rig::new(Engine::Redb);
    let settings = fs::read_to_string(rig.file("settings.toml")).unwrap();
    let (before, after) = settings.split_once("[listen]").unwrap();
    let other = "[custodian.other]\npassphrase_file = \"passphrase.new\"\n";
    fs::write(rig.file("settings.toml"), format!("{before}{other}[listen]{after}")).unwrap();
    fs::copy(rig.file("passphrase"), rig.file("passphrase.new")).unwrap();
    fs::write(rig.file("passphrase.new"), "nobody who left knows it").unwrap();
    let output = runbook::run(&rig, "staff change, passphrase", &[]);
    let (code, said) = told(&output);
    assert!(code == DONE && said.contains("root"), "{said}");
    assert!(rig.stop());
    let at = Custodians::new();
    let folder = rig.file("vault").display().to_string();
    for (file, code) in [("passphrase", REFUSED), ("passphrase.new", DONE)] {
        let file = rig.file(file).display().to_string();
        assert_eq!(at.ran(&["custodian", "check", "--folder", &folder, "--passphrase-file", &file]).0, code);
    }
}

#[test]
fn a_vault_moves_into_an_hsm_and_out_of_one_that_is_lost_as_the_pages_say() {
    let at = place();
    at.make_token("vault");
    at.token("hsm", "vault", "root");
    let said = typed(&at, "root in an HSM");
    assert!(said.contains("token vault, key root"), "{said}");
    assert_eq!(opened_by(&at, &["--passphrase-file", "passphrase"]), REFUSED);
    at.secret("recovery", "kept in two halves");
    let own = ["custodian", "add", "--folder", "vault", "--custodian", "hsm.toml"];
    at.done(&[&own[..], &["--new-passphrase-file", "recovery", "--operator", "olga"]].concat());
    // It is away for good; another one comes.
    at.take_tokens_out();
    at.make_token("replacement");
    at.token("replacement", "replacement", "root");
    typed(&at, "lost HSM");
    at.done(&["store", "verify", "--folder", "vault", "--custodian", "replacement.toml"]);
}
