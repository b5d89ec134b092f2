//! What must not compile does not: proofs are minted in one place each, and secrets have no way out.
//!
//! Each file in `compile_fail` is a program of its own against `vault-core`. Its first lines say what the compiler must
//! say of it: `//@ error: E0451` and `//@ says: private`, or `//@ compiles` for those that show that nothing else is
//! wrong with the others. All are checked by one run of cargo, in a folder of its own beside the suite's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What a case must come to.
struct Case {
    /// The one error code; none if it must compile.
    error: Option<String>,
    /// What the error's text must hold, so that it is the error that was meant.
    says: Vec<String>,
}

impl Case {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let words = |word: &str| {
            let mark = format!("//@ {word}");
            text.lines().filter_map(move |line| line.strip_prefix(&mark).map(|rest| rest.trim().to_owned()))
        };
        let (errors, says): (Vec<_>, Vec<_>) = (words("error:").collect(), words("says:").collect());
        let compiles = words("compiles").count();
        assert!(
            (compiles == 1 && errors.is_empty() && says.is_empty())
                || (compiles == 0 && errors.len() == 1 && !says.is_empty()),
            "{}: say `//@ compiles`, or one `//@ error:` and at least one `//@ says:`",
            path.display()
        );
        Self { error: errors.into_iter().next(), says }
    }
}

fn cases() -> BTreeMap<String, (PathBuf, Case)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("compile_fail");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let case = Case::read(&path);
            (name, (path, case))
        })
        .collect()
}

/// A package with a binary per case, and the versions of the workspace's own lock file.
fn package(cases: &BTreeMap<String, (PathBuf, Case)>) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile-fail");
    fs::create_dir_all(&folder).unwrap();
    let quoted = |path: &Path| serde_json::to_string(path.to_str().unwrap()).unwrap();
    let mut manifest = format!(
        "[package]\nname = \"compile-fail\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\
         autobins = false\n[workspace]\n[profile.dev]\ndebug = false\n\
         [dependencies]\nvault-core = {{ path = {} }}\nserde_json = \"1\"\nzeroize = \"1\"\n",
        quoted(&workspace.join("vault-core")),
    );
    for (name, (path, _)) in cases {
        writeln!(manifest, "[[bin]]\nname = \"{name}\"\npath = {}", quoted(path)).unwrap();
    }
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    fs::copy(workspace.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    folder
}

/// The errors of each binary: code (empty where there is none) and text.
fn errors_of(folder: &Path) -> BTreeMap<String, Vec<(String, String)>> {
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--quiet", "--bins", "--keep-going", "--message-format=json"])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut errors: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut checked = 0;
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let of_a_case = line["target"]["kind"][0] == "bin";
        checked += usize::from(of_a_case);
        if !of_a_case || line["reason"] != "compiler-message" || line["message"]["level"] != "error" {
            continue;
        }
        let message = &line["message"];
        let name = line["target"]["name"].as_str().unwrap().to_owned();
        let code = message["code"]["code"].as_str().unwrap_or_default().to_owned();
        let text = message["rendered"].as_str().unwrap_or_default().to_owned();
        // `aborting due to ...` counts the others.
        if !message["message"].as_str().is_some_and(|m| m.starts_with("aborting due to")) {
            errors.entry(name).or_default().push((code, text));
        }
    }
    assert!(checked > 0, "cargo checked no case at all: {told}");
    errors
}

#[test]
fn proofs_are_minted_in_one_place_and_secrets_have_no_way_out() {
    let cases = cases();
    let refused = cases.values().filter(|(_, case)| case.error.is_some()).count();
    assert!(refused >= 20 && refused < cases.len(), "{refused} of {} cases", cases.len());
    let errors = errors_of(&package(&cases));
    let mut wrong = Vec::new();
    for (name, (_, case)) in &cases {
        let found = errors.get(name).map(Vec::as_slice).unwrap_or_default();
        let text: String = found.iter().map(|(_, text)| text.as_str()).collect();
        let as_said = match &case.error {
            None => found.is_empty(),
            Some(code) => {
                !found.is_empty()
                    && found.iter().all(|(found, _)| found == code)
                    && case.says.iter().all(|says| text.contains(says))
            }
        };
        if !as_said {
            let expected = case.error.as_deref().unwrap_or("nothing");
            wrong
                .push(format!("{name}: expected {expected} and {:?}, the compiler says:\n{text}", case.says));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
