//! The commands of a page of docs/operations.md, run as they stand there.
//!
//! A page that can be run has `<!-- run: NAME -->` in front of its fenced block. The block is a script for `sh`, which ends at
//! the first command that fails. Lines such as `KEY=12` are examples: whoever runs the page says what stands there.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::server::{Rig, program};

/// The script of a page, with these variables instead of the examples.
pub fn script(page: &str, variables: &[(&str, &str)]) -> String {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md")).unwrap();
    let (_, rest) = text
        .split_once(&format!("<!-- run: {page} -->"))
        .unwrap_or_else(|| panic!("docs/operations.md has no page that runs as {page}"));
    let block = rest.split("```sh\n").nth(1).unwrap().split("\n```").next().unwrap();
    let mut script = String::from("set -eu\n");
    let mut given = 0;
    for line in block.lines() {
        let variable = variables.iter().find(|(name, _)| line.starts_with(&format!("{name}=")));
        match variable {
            Some((name, value)) => {
                given += 1;
                script.push_str(&format!("{name}={value}\n"));
            }
            None => script.push_str(&format!("{line}\n")),
        }
    }
    assert_eq!(given, variables.len(), "{page} has no line for each of {variables:?}");
    assert!(script.contains("vaultctl "), "{page} is empty");
    script
}

/// Runs a page as the rig's operator, in the rig's folder.
pub fn run(rig: &Rig, page: &str, variables: &[(&str, &str)]) -> Output {
    let profile = rig.file("ops.toml");
    let admin = format!(
        "[admin]\nserver = \"https://localhost:{}\"\nca = \"servers.pem\"\ncert = \"olga.pem\"\nkey = \"olga.key\"\n",
        rig.admin().port()
    );
    fs::write(&profile, admin).unwrap();
    sh(page, variables, &program(), rig.folder.path()).env("VAULTCTL_PROFILE", profile).output().unwrap()
}

/// The shell that runs a page with this `vaultctl`, in this folder.
pub fn sh(page: &str, variables: &[(&str, &str)], program: &Path, folder: &Path) -> Command {
    let beside = program.parent().unwrap_or(Path::new("."));
    let path = format!("{}:{}", beside.display(), std::env::var("PATH").unwrap_or_default());
    let mut sh = Command::new("sh");
    sh.args(["-c", &script(page, variables)]).current_dir(folder).env("PATH", path).stdin(Stdio::null());
    sh
}
