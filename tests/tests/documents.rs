//! What the documents say is what the code does: labels, rows, errors, limits, settings, commands, links.
//!
//! The code is read as text where it keeps its constants to itself. Each table of a document stands between two comments,
//! `<!-- NAME: begin` and `<!-- NAME: end -->`. A constant of the core that bounds nothing is named in [`SHAPES`]; every
//! other one is a limit, and has a line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vault_core::custody::DeviceError;
use vault_core::error::{Error, Fault};
use vault_core::store::StoreError;
use vault_core::token::schemes_of;
use vault_core::words::Kind;
use vault_proto::status::Reason;
use vault_server::failure::failure;
use vault_server::limits::Limits;
use vault_server::metrics::code_name;
use vault_server::settings::Settings;
use vault_tests::server::program;

/// Constants of the core that are forms, not bounds: versions, widths that an algorithm fixes, words of a format.
const SHAPES: &[&str] = &[
    "BASE36",
    "BASE62",
    "BOUND_TO_CUSTOMER",
    "CHECKS",
    "CHECKSUM",
    "CONTROLLER",
    "CUT",
    "DIGITS",
    "DISABLED",
    "ED25519_KEY",
    "FIRST_CHECK",
    "FIRST_LOG",
    "FORMAT",
    "FORMAT_BEFORE",
    "FORMAT_VERSION",
    "LINKED_FORMAT",
    "GENERATION",
    "GROUP_OF_SHARE",
    "HALF",
    "HEADER",
    "IV",
    "KMS",
    "LAST_FOURS",
    "LENGTHS",
    "LETTERS_AND_DIGITS",
    "LIMBS",
    "MARK",
    "MAX_KEPT",
    "MAX_LEVEL",
    "MEMBER",
    "MODULUS",
    "MS_PER_DAY",
    "MS_PER_HOUR",
    "MS_PER_SECOND",
    "NONCE",
    "NO_SPACE",
    "OPAQUE_CHARACTERS",
    "PAR_LENGTH",
    "PASSPHRASE",
    "PKCS11",
    "PUBLIC_KEY",
    "REQUESTOR_DIGITS",
    "REST",
    "RIGHT",
    "ROUNDS",
    "ROUTING_DIGITS",
    "ROW",
    "ROW_FORMAT",
    "SALT",
    "SCHEME_FF1",
    "SCHEME_MIXED",
    "SCHEME_OPAQUE",
    "SCHEME_RANDOM",
    "SEALED_PAN",
    "SEAL_OVERHEAD",
    "SEGMENT",
    "SHARES",
    "SUITE",
    "SEGMENT_NUMBERS",
    "SINGLE_USE",
    "SPENT",
    "TAG",
    "TEXT_BYTES",
    "TILE_BYTES",
    "TILE_HEIGHT",
    "TILE_WIDTH",
    "UNTOLD",
    "TWEAK",
    "VAULTLESS",
    "VERIFIER",
    "VERSION",
    "WHOLE",
    "XAES_OVERHEAD",
    "TAG_BITS",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every file under `folder` with this extension, by its path from the root. Build output and hidden folders are left out.
fn files(folder: &str, extension: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if path.is_dir() {
                if !name.starts_with('.') && !matches!(name.as_str(), "target" | "node_modules") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// The program's own lines of a source file: no comments, and nothing from its inline tests on.
fn code(path: &str) -> String {
    let text = read(path);
    let mut lines: Vec<&str> = Vec::new();
    let mut source = text.lines().peekable();
    while let Some(line) = source.next() {
        let tests = line.trim() == "#[cfg(test)]";
        if tests && source.peek().is_some_and(|next| next.contains("mod ") && next.ends_with('{')) {
            break;
        }
        if !line.trim_start().starts_with("//") {
            lines.push(line.split(" // ").next().unwrap());
        }
    }
    lines.join("\n")
}

/// The core's files, but for those that are tests as a whole.
fn core_files() -> BTreeSet<String> {
    let mut files = files("vault-core/src", "rs");
    files.retain(|f| {
        !["vault/tests.rs", "audit/shelf.rs", "store/contract.rs"].iter().any(|t| f.ends_with(t))
    });
    files
}

/// The lines of a document's table, each as its cells.
fn table(document: &str, name: &str) -> Vec<Vec<String>> {
    let text = read(document);
    let begin = text.find(&format!("<!-- {name}: begin")).unwrap_or_else(|| panic!("{document}: no {name}"));
    let end = text
        .find(&format!("<!-- {name}: end -->"))
        .unwrap_or_else(|| panic!("{document}: {name} has no end"));
    let rows = text[begin..end].lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |line: &str| {
        let line = line.trim().trim_start_matches('|').trim_end_matches('|');
        line.split(" |").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    let rows: Vec<_> = rows.map(cells).collect();
    assert!(rows.len() > 5, "{document}: {name} is empty");
    rows
}

fn bare(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// The text up to the next quotation mark.
fn quoted(text: &str) -> &str {
    text.split('"').next().unwrap()
}

#[test]
fn every_kind_of_value_has_its_line_among_the_payment_methods_with_the_schemes_it_has() {
    let rows = table("docs/methods.md", "methods");
    let listed: Vec<&str> = rows.iter().map(|row| bare(&row[0])).collect();
    let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(listed, kinds);
    for (row, kind) in rows.iter().zip(Kind::ALL) {
        let schemes: Vec<String> = schemes_of(*kind).iter().map(|scheme| format!("`{scheme}`")).collect();
        assert_eq!(row[2], schemes.join(", "), "{kind}");
        assert!(row.len() == 8 && row.iter().all(|cell| !cell.is_empty()), "{kind}");
        // Every field that it can be refused by is one of the contract.
        let fields = row[5].split('`').skip(1).step_by(2).filter(|field| field.starts_with("item."));
        let contract = read("proto/vault/v1/vault.proto") + &read("proto/vault/v1/types.proto");
        for name in fields.flat_map(|field| field.split('.').skip(1)) {
            assert!(contract.contains(&format!(" {name} = ")), "{kind}: {name}");
        }
    }
}

#[test]
fn every_label_of_a_derivation_stands_in_the_format_and_none_that_is_not_used() {
    let mut used = BTreeSet::new();
    for file in core_files() {
        let code = code(&file);
        for before in ["ctx(\"", "request_message(\"", "b\"pv1/"] {
            let labels = code.split(before).skip(1).map(|after| quoted(after).trim_end_matches("\\0"));
            used.extend(labels.filter(|label| !label.is_empty()).map(str::to_owned));
        }
        // The later links of a chain have their label as an argument.
        for call in code.split("Chain::unwrap(").skip(1) {
            used.insert(quoted(call.split_once('"').unwrap().1).to_owned());
        }
    }
    assert!(used.contains("kcv") && used.contains("row+") && used.contains("idem-hash"), "{used:?}");
    let (mut listed, mut free) = (BTreeSet::new(), BTreeSet::new());
    for row in table("docs/format.md", "labels") {
        let set = if row[5] == "none" { &mut free } else { &mut listed };
        assert!(set.insert(bare(&row[0]).to_owned()), "{} is listed twice", row[0]);
    }
    assert_eq!(used, listed);
    assert!(free.is_disjoint(&used), "{free:?}");
}

#[test]
fn every_kind_of_row_stands_in_the_format() {
    let code = code("vault-core/src/rows.rs");
    let kinds: BTreeSet<_> = code.split(": u8 = b'").skip(1).map(|after| after[..1].to_owned()).collect();
    let rows = table("docs/format.md", "rows");
    let listed: BTreeSet<_> = rows.iter().map(|row| bare(&row[0]).to_owned()).collect();
    assert!(kinds.len() > 10 && rows.len() == listed.len());
    assert_eq!(kinds, listed);
}

/// One of each error, and the name of its kind.
fn errors() -> Vec<(&'static str, Error)> {
    let name = |e: &Error| match e {
        Error::Malformed { .. } => "Malformed",
        Error::Denied => "Denied",
        Error::NotFound => "NotFound",
        Error::Budget { .. } => "Budget",
        Error::IdempotencyMismatch => "IdempotencyMismatch",
        Error::StillRunning => "StillRunning",
        Error::Locked { .. } => "Locked",
        Error::SpaceExhausted => "SpaceExhausted",
        Error::KeySpent { .. } => "KeySpent",
        Error::CodeGone => "CodeGone",
        Error::Overloaded => "Overloaded",
        Error::DeadlineExceeded => "DeadlineExceeded",
        Error::Unimplemented { .. } => "Unimplemented",
        Error::Store(_) => "Store",
        Error::EpochMismatch { .. } => "EpochMismatch",
        Error::Custody => "Custody",
        Error::Sealed => "Sealed",
        Error::Device(_) => "Device",
        Error::Config(_) => "Config",
        Error::Internal { .. } => "Internal",
    };
    let all = [
        Error::malformed("field", "rule"),
        Error::Denied,
        Error::NotFound,
        Error::Budget { retry_after_ms: 1 },
        Error::IdempotencyMismatch,
        Error::StillRunning,
        Error::Locked { lockdown: 1 },
        Error::SpaceExhausted,
        Error::KeySpent { key: 1, kind: "trk" },
        Error::CodeGone,
        Error::Overloaded,
        Error::DeadlineExceeded,
        Error::Unimplemented { what: "it" },
        Error::Store(StoreError::Full),
        Error::EpochMismatch { epoch: 1 },
        Error::Custody,
        Error::Sealed,
        Error::Device(DeviceError::Absent),
        Error::Config("it".into()),
        Error::internal(),
    ];
    all.into_iter().map(|e| (name(&e), e)).collect()
}

#[test]
fn every_error_reads_on_the_wire_as_the_table_says() {
    let rows = table("docs/design.md", "errors");
    let errors = errors();
    assert_eq!(rows.len(), errors.len());
    let mut told = BTreeSet::new();
    for (name, error) in errors {
        let row =
            rows.iter().find(|row| bare(&row[0]) == name).unwrap_or_else(|| panic!("{name} has no line"));
        let failure = failure(&error);
        let reason = failure.reason().unwrap();
        let whose = match error.fault() {
            Fault::Caller => "caller",
            Fault::Policy => "policy",
            Fault::Vault => "vault",
        };
        let expected = [code_name(failure.code()), reason.as_str(), whose];
        assert_eq!(row[1..4], expected, "{name}");
        match failure.retry_after() {
            None => assert!(row[4].starts_with("no"), "{name}: {}", row[4]),
            Some(_) if name == "Budget" => assert!(row[4].starts_with("at "), "{name}: {}", row[4]),
            Some(after) => {
                let ms = after.as_millis();
                let after =
                    if ms >= 1_000 { format!("after {} s", ms / 1_000) } else { format!("after {ms} ms") };
                assert!(row[4].starts_with(&after), "{name}: {} is not {after}", row[4]);
            }
        }
        told.insert(reason);
    }
    // The edge's own are those that the core never gives.
    let rest: Vec<_> = Reason::ALL.iter().filter(|reason| !told.contains(reason)).collect();
    assert_eq!(rest, [&Reason::CertificateRefused, &Reason::DestinationFailed]);
    let contract = read("proto/README.md");
    for reason in Reason::ALL {
        assert!(
            contract.contains(&format!("`{}`", reason.as_str())),
            "proto/README.md lacks {}",
            reason.as_str()
        );
    }
}

/// The constants of source files, with what they are set to.
struct Constants(BTreeMap<(String, String), String>);

impl Constants {
    fn of(files: &BTreeSet<String>) -> Self {
        let mut all = BTreeMap::new();
        for file in files {
            // Of the top level alone: what a function keeps to itself bounds nothing else.
            for line in code(file).lines().filter(|line| !line.starts_with(' ')) {
                let Some((_, declared)) = line.split_once("const ") else { continue };
                let Some((name, rest)) = declared.split_once(':') else { continue };
                let Some((_, value)) = rest.split_once('=') else { continue };
                all.insert(
                    (file.clone(), name.trim().to_owned()),
                    value.trim().trim_end_matches(';').to_owned(),
                );
            }
        }
        Self(all)
    }

    /// The number that a constant is, times as milliseconds; none if it is no number.
    fn value(&self, file: &str, name: &str) -> Option<u128> {
        self.number(file, self.0.get(&(file.to_owned(), name.to_owned()))?)
    }

    fn number(&self, file: &str, text: &str) -> Option<u128> {
        let text = text.trim();
        for (sign, of) in [
            ("<<", (|a, b| a << b) as fn(u128, u128) -> u128),
            (" + ", |a, b| a + b),
            (" - ", |a, b| a - b),
            (" * ", |a, b| a * b),
            (" / ", |a, b| a / b),
        ] {
            if let Some((left, right)) = text.rsplit_once(sign) {
                return Some(of(self.number(file, left)?, self.number(file, right)?));
            }
        }
        for (call, ms) in
            [("from_millis", 1), ("from_secs", 1_000), ("from_mins", 60_000), ("from_hours", 3_600_000)]
        {
            let text = text.trim_start_matches("std::time::");
            if let Some(argument) = text.strip_prefix(&format!("Duration::{call}(")) {
                return Some(self.number(file, argument.strip_suffix(')')?)? * ms);
            }
        }
        if let Some(literal) = text.strip_suffix(".len()") {
            let text = self.0.get(&(file.to_owned(), literal.to_owned()))?;
            return u128::try_from(text.strip_prefix('"')?.strip_suffix('"')?.len()).ok();
        }
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return text.replace('_', "").parse().ok();
        }
        // A name of this file, else the one of that name that another file lends.
        if let Some(value) = self.0.get(&(file.to_owned(), text.to_owned())) {
            return self.number(file, value);
        }
        let import = read(file);
        let mut lent = self.0.iter().filter(|((at, name), _)| {
            let module = Path::new(at).file_stem().unwrap().to_str().unwrap();
            let lends = |l: &str| l.starts_with("use ") && l.contains(module) && l.contains(text);
            name == text && import.lines().any(lends)
        });
        let ((at, _), value) = lent.next()?;
        self.number(at, value)
    }
}

fn number(cell: &str) -> u128 {
    cell.replace(',', "").parse().unwrap_or_else(|_| panic!("{cell} is no number"))
}

#[test]
fn every_bound_stands_in_the_tables_with_its_value() {
    let mut sources = core_files();
    for folder in ["vault-server/src", "vault-client/src", "vault-cli/src"] {
        sources.extend(files(folder, "rs"));
    }
    let constants = Constants::of(&sources);
    let mut listed = BTreeSet::new();
    let mut line = |file: String, name: &str, value: &str| {
        let found = constants.value(&file, name);
        assert_eq!(found, Some(number(value)), "{name} of {file}");
        assert!(listed.insert((file, name.to_owned())), "{name} is listed twice");
    };
    for row in table("docs/design.md", "limits") {
        line(format!("vault-core/src/{}", bare(&row[1])), bare(&row[0]), &row[2]);
    }
    for row in table("docs/design.md", "server limits") {
        line("vault-server/src/limits.rs".to_owned(), bare(&row[0]), &row[1]);
    }
    for row in table("docs/design.md", "other limits") {
        line(bare(&row[1]).to_owned(), bare(&row[0]), &row[2]);
    }
    let must = |file: &str| file.starts_with("vault-core/src/") || file == "vault-server/src/limits.rs";
    let missing: Vec<_> = constants
        .0
        .keys()
        .filter(|(file, name)| must(file) && !file.ends_with("/rows.rs") && !SHAPES.contains(&name.as_str()))
        .filter(|(file, name)| constants.value(file, name).is_some())
        .filter(|at| !listed.contains(*at))
        .collect();
    assert!(missing.is_empty(), "bounds without a line in docs/design.md: {missing:?}");
}

/// The text between the marks of the settings, without its fence.
fn settings() -> String {
    let text = read("docs/operations.md");
    let block =
        text.split("<!-- settings: begin").nth(1).unwrap().split("<!-- settings: end").next().unwrap();
    block.split("```toml\n").nth(1).unwrap().split("\n```").next().unwrap().to_owned()
}

#[test]
fn the_settings_file_is_whole_and_has_the_defaults() {
    let text = settings();
    let settings = Settings::parse(&text).unwrap();
    assert_eq!(settings.limits, Limits::default());
    assert_eq!(settings.log, vault_server::logs::LogSettings::default());
    assert!(settings.limits.problems().is_empty());
    // Every key that the server knows, set or, where another one excludes it, commented out.
    let mut keys = 0;
    for file in ["settings.rs", "custodian.rs", "limits.rs", "logs.rs"] {
        for read in code(&format!("vault-server/src/{file}")).split("deny_unknown_fields").skip(1) {
            for field in read.split('}').next().unwrap().lines().filter_map(|l| l.strip_prefix("    pub ")) {
                let key = field.split(':').next().unwrap();
                let set = |line: &str| {
                    let line = line.trim_start_matches("# ");
                    let table = [format!("[{key}]"), format!("[custodian.{key}]")];
                    line.starts_with(&format!("{key} =")) || table.iter().any(|table| line.starts_with(table))
                };
                assert!(text.lines().any(set), "docs/operations.md does not tell of {key} ({file})");
                keys += 1;
            }
        }
    }
    assert!(keys > 40, "{keys}");
}

#[test]
fn every_metric_that_a_runbook_names_is_counted() {
    let (counted, text) = (code("vault-server/src/metrics.rs"), read("docs/operations.md"));
    let names: BTreeSet<_> = text
        .split("`vault_")
        .skip(1)
        .map(|after| after.split('`').next().unwrap().trim_end_matches("_total").trim_end_matches("_seconds"))
        .collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(counted.contains(&format!("\"{name}\"")), "vault_{name}");
    }
}

fn documents() -> BTreeSet<String> {
    let documents = files("", "md");
    assert!(documents.contains("README.md") && documents.contains("docs/operations.md"));
    documents
}

/// Words as a shell takes them, up to what is the shell's own: a pipe, a redirection, a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '<' | ';' | '&') => break,
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Every use of `vaultctl` in a document: whole lines of fenced blocks, and what stands between backticks.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    let joined = text.replace("\\\n", " ");
    for line in joined.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let spans: Vec<&str> = if fenced { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
        for span in spans {
            let used = ["vaultctl ", "vaultctl -- "].iter().filter_map(|name| {
                let (before, arguments) = span.split_once(name)?;
                let program = before.is_empty() || before.ends_with(['/', ' ', '=']);
                (program && !arguments.starts_with("-- ") && !span.starts_with("cargo build"))
                    .then_some(arguments)
            });
            found.extend(used.map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_command_line_in_a_document_is_one_that_vaultctl_takes() {
    let mut seen = 0;
    for document in documents() {
        for command in commands(&read(&document)) {
            let words = words(&command);
            // Help is asked for last: all that stands before it is read, and nothing is done.
            let output = Command::new(program()).args(&words).arg("--help").output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{document}: vaultctl {command}: {told}");
            assert!(
                String::from_utf8_lossy(&output.stdout).contains("Usage: vaultctl"),
                "{document}: {command}"
            );
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
    // And it does refuse what is wrong.
    let wrong = Command::new(program()).args(["lock", "set", "--colour", "red", "--help"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(64));
}

/// A heading as a link names it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn every_relative_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let mut seen = 0;
    for document in documents() {
        let text = read(&document);
        for target in text.split("](").skip(1).map(|after| after.split(')').next().unwrap()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = target.split_once('#').map_or((target, None), |(path, h)| (path, Some(h)));
            let to = if path.is_empty() {
                root().join(&document)
            } else {
                root().join(&document).parent().unwrap().join(path)
            };
            assert!(to.exists(), "{document}: {target}");
            if let Some(heading) = heading {
                let there = fs::read_to_string(&to).unwrap();
                let mut headings = there.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(headings.any(|h| h == heading), "{document}: {target}");
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn every_source_file_that_a_document_names_is_there() {
    let sources: Vec<String> = ["rs", "proto"].iter().flat_map(|extension| files("", extension)).collect();
    let (mut seen, mut missing) = (0, Vec::new());
    for document in documents() {
        let text = read(&document);
        for span in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let name = span.trim_start_matches("./");
            let named = [".rs", ".proto"].iter().any(|end| name.len() > end.len() && name.ends_with(end))
                && !name.contains(['*', ' ', '<']);
            if named {
                let end = format!("/{name}");
                seen += 1;
                if !sources.iter().any(|s| s == name || s.ends_with(&end)) {
                    missing.push(format!("{document}: {name}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(seen > 100, "{seen}");
}
