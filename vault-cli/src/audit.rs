//! `vaultctl audit`: reads the log, verifies it, and proves what is in it.
//!
//! With the log's key at hand nothing here trusts the vault: entries are fetched and hashed on this machine, against a head
//! that the key signed. Without it the vault judges itself, and the answer says so. `verify --export` and `check` need
//! neither vault nor network.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use data_encoding::BASE64;
use serde::Serialize;
use tokio::sync::mpsc;
use vault_client::v1::verify_log_response::Step;
use vault_client::{AdminClient, v1};
use vault_core::audit::entry::AuditEntry;
use vault_core::audit::note::LogVerifier;
use vault_core::audit::receipt::{Proof, Proven, Receipt};
use vault_core::audit::tree::{Hash, leaf_hash};
use vault_core::audit::verify::{Report, verify_export};

use crate::custody::Custody;
use crate::dial::{self, AdminOptions};
use crate::fail::Failure;
use crate::input;
use crate::keys::PAGE;
use crate::output::{self, Out};
use crate::progress::Progress;
use crate::store::Folder;
use crate::wire::{self, ReceiptText, Words};

/// Entries that `audit show` tells unless said.
const SHOWN: u64 = 50;

/// The version of exports and proofs that is written here: as the library has it.
const VERSION: u8 = 1;

/// Pages of an export that wait between the network and the hashing.
const PAGES_AHEAD: usize = 4;

/// The subcommands of `vaultctl audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show entries, newest first
    #[command(after_help = "Examples:\n  \
        vaultctl audit show --profile ops.toml --outcome refused --limit 20\n  \
        vaultctl audit show --profile ops.toml --since 2026-11-01 --principal gateway --action detokenize\n  \
        vaultctl --json audit show --profile ops.toml --from 0 --limit 1000")]
    Show(Box<Show>),
    /// Verify the whole log: on this machine with --log-key, else by the vault itself
    #[command(
        after_help = "Exit code 1: the log is not whole. Keep the log's key where the vault cannot change it: `vaultctl \
        init` printed it.\n\nExamples:\n  \
        vaultctl audit verify --profile ops.toml --log-key log.vkey\n  \
        vaultctl audit verify --profile ops.toml\n  \
        vaultctl audit verify --export log.jsonl --log-key log.vkey"
    )]
    Verify(Verify),
    /// Turn receipts into proofs that hold without the vault
    #[command(
        after_help = "A receipt is what `vaultctl --json token ...` or --receipts gave, one per line.\n\nExample:\n  \
        vaultctl audit prove --profile ops.toml receipt.json --log-key log.vkey > proof.json"
    )]
    Prove(Prove),
    /// Check proofs against the log's key; needs no vault
    #[command(after_help = "Exit code 1: a proof does not hold.\n\nExamples:\n  \
        vaultctl audit check proof.json --log-key log.vkey\n  \
        vaultctl audit check proof.json --log-key log.vkey --receipt receipt.json")]
    Check(Check),
    /// Write the whole log out, for `audit verify --export` anywhere
    #[command(after_help = "Examples:\n  vaultctl audit export --profile ops.toml log.jsonl\n  \
        vaultctl audit export --profile ops.toml > log.jsonl\n  \
        vaultctl audit export --folder /var/lib/vault --passphrase-file passphrase log.jsonl")]
    Export(Export),
}

/// `audit show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Oldest first, from this entry on
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// How many entries
    #[arg(long, value_name = "NUMBER", default_value_t = SHOWN, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Only from this moment on: 2026-11-23, or 2026-11-23T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = wire::parse_moment)]
    since: Option<prost_types::Timestamp>,
    /// Only before this moment
    #[arg(long, value_name = "MOMENT", value_parser = wire::parse_moment)]
    until: Option<prost_types::Timestamp>,
    /// Only this merchant's
    #[arg(long, value_name = "NAME")]
    merchant: Option<String>,
    /// Only this channel's
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Only this principal's or operator's
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// Only this action
    #[arg(long, value_parser = v1::Action::parser())]
    action: Option<v1::Action>,
    /// Only this outcome
    #[arg(long, value_parser = v1::AuditOutcome::parser())]
    outcome: Option<v1::AuditOutcome>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `audit verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// An exported log, to verify without a vault; - is standard input
    #[arg(long, value_name = "FILE", requires = "log_key")]
    export: Option<PathBuf>,
    /// The log's key, or a file that holds it
    #[arg(long, value_name = "KEY")]
    log_key: Option<String>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `audit prove`.
#[derive(Debug, Args)]
pub(crate) struct Prove {
    /// A file of receipts, one per line; - is standard input
    #[arg(value_name = "RECEIPTS")]
    file: PathBuf,
    /// The log's key, or a file that holds it; else the key that the vault names
    #[arg(long, value_name = "KEY")]
    log_key: Option<String>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `audit check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A file of proofs, one per line; - is standard input
    #[arg(value_name = "PROOFS")]
    file: PathBuf,
    /// The log's key, or a file that holds it
    #[arg(long, value_name = "KEY")]
    log_key: String,
    /// Also that each proof is of the receipt on the same line of this file
    #[arg(long, value_name = "RECEIPTS")]
    receipt: Option<PathBuf>,
}

/// `audit export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The new file; - is standard output
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Read the vault's folder instead of asking a running vault, which must be stopped
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    custody: Custody,
    #[command(flatten)]
    admin: AdminOptions,
}

/// A log's key as text, or in a file.
fn log_key(text: &str) -> Result<LogVerifier, Failure> {
    if let Ok(verifier) = LogVerifier::parse(text) {
        return Ok(verifier);
    }
    let file = input::small_text(Path::new(text)).map_err(|e| {
        Failure::usage(format_args!("--log-key: no log key, and no file that holds one: {e}"))
    })?;
    LogVerifier::parse(file.trim())
        .map_err(|_| Failure::usage("--log-key: the file holds no log key, which `vaultctl init` printed"))
}

/// Does what the command line says.
pub(crate) fn run(command: AuditCommand, out: Out) -> Result<(), Failure> {
    match command {
        AuditCommand::Show(asked) => dial::run(show(*asked, out)),
        AuditCommand::Verify(Verify { export: Some(export), log_key: Some(key), .. }) => {
            verify_file(&export, &log_key(&key)?, out)
        }
        AuditCommand::Verify(Verify { log_key: Some(key), admin, .. }) => {
            dial::run(verify_here(admin, log_key(&key)?, out))
        }
        AuditCommand::Verify(Verify { admin, .. }) => dial::run(verify_there(admin, out)),
        AuditCommand::Prove(asked) => dial::run(prove(asked)),
        AuditCommand::Check(asked) => check(&asked, out),
        AuditCommand::Export(asked) => dial::run(export(asked, out)),
    }
}

async fn show(asked: Show, out: Out) -> Result<(), Failure> {
    let Show { from, limit, since, until, merchant, channel, principal, action, outcome, admin } = asked;
    let vault = admin.connect().await?;
    let mut request = v1::ListAuditEntriesRequest {
        since,
        until,
        merchant: merchant.unwrap_or_default(),
        channel: channel.unwrap_or_default(),
        principal: principal.unwrap_or_default(),
        action: action.unwrap_or(v1::Action::Unspecified).into(),
        outcome: outcome.unwrap_or(v1::AuditOutcome::Unspecified).into(),
        newest_first: from.is_none(),
        page_size: u32::try_from(limit).unwrap_or(PAGE).min(PAGE),
        ..v1::ListAuditEntriesRequest::default()
    };
    if from.is_some_and(|from| from > 0) {
        request.page_size = PAGE;
    }
    let mut left = limit;
    loop {
        let page = vault.list_audit_entries(request.clone()).await?;
        for entry in page.entries.into_iter().filter(|e| from.is_none_or(|from| e.index >= from)) {
            out.tell(&Entry::of(&entry)?, Entry::line)?;
            left -= 1;
            if left == 0 {
                return Ok(());
            }
        }
        if page.next_page_token.is_empty() {
            if left == limit && !out.is_json() {
                output::note("there are no such entries");
            }
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

/// An entry, read from the very bytes that were hashed.
#[derive(Debug, Serialize)]
struct Entry {
    index: u64,
    leaf: Hash,
    #[serde(flatten)]
    said: AuditEntry,
}

impl Entry {
    fn of(entry: &v1::AuditEntry) -> Result<Self, Failure> {
        let read = AuditEntry::decode(&entry.leaf).map_err(|_| {
            Failure::failed(format_args!(
                "entry {} is none that this release can read; use the vault's own release of vaultctl",
                entry.index
            ))
        })?;
        Ok(Self { index: entry.index, leaf: leaf_hash(&entry.leaf), said: read })
    }

    fn line(&self) -> String {
        format!("{:>8}  {}", self.index, self.said.line())
    }
}

/// How a verification ended, and who says so.
#[derive(Debug, Serialize)]
struct Verdict {
    intact: bool,
    /// `vaultctl`, or `vault` where the vault judged itself.
    by: &'static str,
    entries: u64,
    size: u64,
    /// The tree's root, where it was computed here.
    root: Option<Hash>,
    fault: Option<String>,
    index: Option<u64>,
}

impl Verdict {
    fn of(report: &Report) -> Self {
        Self {
            intact: report.fault.is_none(),
            by: "vaultctl",
            entries: report.entries,
            size: report.size,
            root: Some(report.root),
            fault: report.fault.map(|fault| fault.to_string()),
            index: report.fault.and_then(|fault| fault.index()),
        }
    }

    fn tell(&self, out: Out) -> Result<(), Failure> {
        if self.intact || out.is_json() {
            out.tell(self, |v| {
                let by = if v.by == "vault" { "the vault says: " } else { "" };
                let root = v.root.map_or_else(String::new, |root| format!(", root {root}"));
                format!("{by}the log is whole: {} entries{root}", v.entries)
            })?;
        }
        if self.intact {
            return Ok(());
        }
        Err(Failure::refused(format_args!(
            "the log is not whole: {}; keep a copy of everything, and treat it as an incident",
            self.fault.as_deref().unwrap_or("the verdict names no fault")
        )))
    }
}

fn verify_file(file: &Path, key: &LogVerifier, out: Out) -> Result<(), Failure> {
    let failed = |e: io::Error| {
        Failure::usage(format_args!("{}: {e}; check the path and its permissions", file.display()))
    };
    let mut lines: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(file).map_err(failed)?))
    };
    let mut progress = Progress::of("entries");
    let report =
        verify_export(&mut *lines, key, &mut |done, total| progress.step(done, total)).map_err(failed)?;
    drop(progress);
    Verdict::of(&report).tell(out)
}

/// Fetches every entry and verifies it on this machine.
async fn verify_here(admin: AdminOptions, key: LogVerifier, out: Out) -> Result<(), Failure> {
    let vault = admin.connect().await?;
    let head = Head::get(&vault).await?;
    if head.verifier_key != key.to_string() {
        return Err(Failure::refused(
            "the vault names another log key than the one given; this is not that log, or somebody else holds it",
        ));
    }
    let (to, from) = mpsc::channel(PAGES_AHEAD);
    let walk = tokio::task::spawn_blocking(move || {
        let mut progress = Progress::of("entries");
        verify_export(&mut BufReader::new(Pages::new(from)), &key, &mut |done, total| {
            progress.step(done, total);
        })
    });
    let sent = head.send(&vault, async |page: Vec<u8>| to.send(page).await.is_ok()).await;
    drop(to);
    let report = walk.await.map_err(Failure::failed)?.map_err(Failure::failed)?;
    // A fault stops the walk, and with it the fetching: the fault is the answer.
    if report.fault.is_none() {
        sent?;
    }
    Verdict::of(&report).tell(out)
}

async fn verify_there(admin: AdminOptions, out: Out) -> Result<(), Failure> {
    let mut steps = admin.connect().await?.verify_log(v1::VerifyLogRequest::default()).await?;
    let mut progress = Progress::of("entries");
    while let Some(step) = steps.next().await {
        match step? {
            Step::Progress(at) => progress.step(at.entries_checked, at.entries_total),
            Step::Verdict(verdict) => {
                drop(progress);
                let fault = (!verdict.intact).then(|| match verdict.index {
                    Some(index) => format!("{} at entry {index}", verdict.reason),
                    None => format!("{} at the head", verdict.reason),
                });
                let size = verdict.checkpoint.map_or(0, |head| head.tree_size);
                let (intact, index) = (verdict.intact, verdict.index);
                let entries = verdict.entries_checked;
                return Verdict { intact, by: "vault", entries, size, root: None, fault, index }.tell(out);
            }
        }
    }
    Err(Failure::failed("the vault gave no verdict; try again"))
}

/// A log's newest signed head, as the vault gives it.
struct Head {
    checkpoint: v1::Checkpoint,
    verifier_key: String,
}

impl Head {
    async fn get(vault: &AdminClient) -> Result<Self, Failure> {
        let answer = vault.get_checkpoint(v1::GetCheckpointRequest::default()).await?;
        let missing = || Failure::failed("the vault gave no head of its log; report this");
        Ok(Self { checkpoint: answer.checkpoint.ok_or_else(missing)?, verifier_key: answer.verifier_key })
    }

    /// Sends the log up to this head as an export, page by page, until `to` takes no more.
    async fn send(
        &self,
        vault: &AdminClient,
        mut to: impl AsyncFnMut(Vec<u8>) -> bool,
    ) -> Result<(), Failure> {
        let v1::Checkpoint { log, note, tree_size, .. } = &self.checkpoint;
        let header = serde_json::json!({
            "version": VERSION, "origin": log, "vkey": self.verifier_key, "checkpoint": note,
        });
        if !to(format!("{header}\n").into_bytes()).await {
            return Ok(());
        }
        let mut request =
            v1::ListAuditEntriesRequest { page_size: PAGE, ..v1::ListAuditEntriesRequest::default() };
        let mut sent = 0;
        while sent < *tree_size {
            let page = vault.list_audit_entries(request.clone()).await?;
            let mut lines = String::new();
            for entry in page.entries.iter().take_while(|e| e.index < *tree_size) {
                let leaf = leaf_hash(&entry.leaf);
                let line = serde_json::json!({
                    "index": entry.index, "leaf": leaf, "entry": BASE64.encode(&entry.leaf),
                });
                lines.push_str(&line.to_string());
                lines.push('\n');
                sent = entry.index.saturating_add(1);
            }
            let more = to(lines.into_bytes()).await;
            if !more || page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        Ok(())
    }
}

/// Pages as they come from the network, read as a file.
struct Pages {
    from: mpsc::Receiver<Vec<u8>>,
    page: io::Cursor<Vec<u8>>,
}

impl Pages {
    fn new(from: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { from, page: io::Cursor::default() }
    }
}

impl Read for Pages {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.page.read(into)?;
            if read > 0 || into.is_empty() {
                return Ok(read);
            }
            match self.from.blocking_recv() {
                Some(page) => self.page = io::Cursor::new(page),
                None => return Ok(0),
            }
        }
    }
}

async fn prove(asked: Prove) -> Result<(), Failure> {
    let Prove { file, log_key: key, admin } = asked;
    let key = key.as_deref().map(log_key).transpose()?;
    let text = input::small_text(&file)?;
    let receipts = receipts(&text)?;
    let vault = admin.connect().await?;
    for receipt in receipts {
        let request = v1::ProveReceiptRequest { receipt: Some(receipt.to_wire()?) };
        let answer = vault.prove_receipt(request).await?;
        let key = match &key {
            Some(key) => key.clone(),
            None => LogVerifier::parse(&answer.verifier_key).map_err(Failure::failed)?,
        };
        let proof = proof_text(&receipt, &answer)?;
        // Shown only if it holds: a proof that nobody can check proves nothing.
        checked(&proof, &key, Some(&receipt))?;
        output::write(format!("{proof}\n").as_bytes())?;
    }
    Ok(())
}

/// The proof as the library has it, from what the vault answered to a receipt.
fn proof_text(receipt: &ReceiptText, answer: &v1::ProveReceiptResponse) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Text<'a> {
        version: u8,
        log: u32,
        index: u64,
        entry: String,
        path: Vec<Hash>,
        checkpoint: &'a str,
    }
    let broken = || Failure::failed("the vault's proof breaks the contract; report this");
    let wire = receipt.to_wire()?;
    let head = answer.checkpoint.as_ref().ok_or_else(broken)?;
    let path: Option<Vec<Hash>> =
        answer.inclusion.iter().map(|hash| hash.as_slice().try_into().ok().map(Hash)).collect();
    let text = Text {
        version: VERSION,
        log: wire::log_number(&wire.log).ok_or_else(broken)?,
        index: wire.leaf_index,
        entry: BASE64.encode(&answer.leaf),
        path: path.ok_or_else(broken)?,
        checkpoint: &head.note,
    };
    Ok(serde_json::json!(text).to_string())
}

fn receipts(text: &str) -> Result<Vec<ReceiptText>, Failure> {
    let one = ReceiptText::parse(text).map(|receipt| vec![receipt]);
    one.or_else(|_| text.lines().filter(|line| !line.trim().is_empty()).map(ReceiptText::parse).collect())
}

fn checked(proof: &str, key: &LogVerifier, receipt: Option<&ReceiptText>) -> Result<Proven, Failure> {
    let refused = |e| Failure::refused(format_args!("the proof does not hold: {e}"));
    let proof = Proof::parse(proof).map_err(refused)?;
    match receipt {
        None => proof.check(key).map_err(refused),
        Some(receipt) => {
            let receipt = Receipt::open(&receipt.text(), key)
                .map_err(|e| Failure::refused(format_args!("the receipt does not hold: {e}")))?;
            proof.check_receipt(&receipt, key).map_err(refused)
        }
    }
}

fn check(asked: &Check, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Held {
        holds: bool,
        index: u64,
        size: u64,
        root: Hash,
        entry: AuditEntry,
    }
    let key = log_key(&asked.log_key)?;
    let text = input::small_text(&asked.file)?;
    let proofs: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let kept = asked.receipt.as_deref().map(input::small_text).transpose()?;
    let kept = kept.as_deref().map(receipts).transpose()?;
    if kept.as_ref().is_some_and(|kept| kept.len() != proofs.len()) {
        return Err(Failure::usage(
            "there are not as many receipts as proofs; give one receipt per proof, in order",
        ));
    }
    if proofs.is_empty() {
        return Err(Failure::usage("the file holds no proof; `vaultctl audit prove` makes one"));
    }
    let kept = kept.unwrap_or_default();
    for (at, proof) in proofs.into_iter().enumerate() {
        let Proven { index, entry, checkpoint } = checked(proof, &key, kept.get(at))?;
        let held = Held { holds: true, index, size: checkpoint.size, root: checkpoint.root, entry };
        out.tell(&held, |h| format!("holds: entry {} of {}: {}", h.index, h.size, h.entry.line()))?;
    }
    Ok(())
}

async fn export(asked: Export, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Exported {
        file: PathBuf,
        entries: u64,
        log_key: String,
    }
    let Export { file, folder, custody, admin } = asked;
    let to_output = file == Path::new("-");
    let failed = |e: io::Error| Failure::failed(format_args!("{}: {e}", file.display()));
    let (entries, log_key) = if let Some(folder) = folder {
        let vault = Folder::open(&folder, &custody).await?;
        let mut to = target(&file)?;
        let mut progress = Progress::of("entries");
        let head = vault.export_log(&mut *to, &mut |done, total| progress.step(done, total)).await;
        let key = vault.verifier()?.to_string();
        vault.close().await?;
        (head?.checkpoint().size, key)
    } else {
        let vault = admin.connect().await?;
        let head = Head::get(&vault).await?;
        let size = head.checkpoint.tree_size;
        let mut to = target(&file)?;
        let mut wrong = None;
        let mut progress = Progress::of("entries");
        let mut done = 0;
        let written = async |page: Vec<u8>| {
            done += u64::try_from(page.split(|&b| b == b'\n').count().saturating_sub(1)).unwrap_or(0);
            wrong = to.write_all(&page).err();
            progress.step(done.saturating_sub(1), size);
            wrong.is_none()
        };
        head.send(&vault, written).await?;
        let ended = wrong.map_or(Ok(()), Err).and_then(|()| to.flush());
        ended.map_err(failed)?;
        if done.saturating_sub(1) < size {
            return Err(Failure::failed(
                "the vault gave fewer entries than its head speaks of; verify the log",
            ));
        }
        (size, head.verifier_key)
    };
    if to_output {
        return Ok(());
    }
    let exported = Exported { file, entries, log_key };
    out.tell(&exported, |e| {
        format!("wrote {}: {} entries\nlog key {}", e.file.display(), e.entries, e.log_key)
    })
}

/// A new file that only its owner can read, or standard output.
fn target(file: &Path) -> Result<Box<dyn Write + Send>, Failure> {
    if file == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let made = made.map_err(|e| Failure::usage(format_args!("{}: {e}; name a new file", file.display())))?;
    Ok(Box::new(io::BufWriter::new(made)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_as_one_file() {
        let (to, from) = mpsc::channel(4);
        for page in ["a", "", "bc", "d"] {
            to.try_send(page.as_bytes().to_vec()).unwrap();
        }
        drop(to);
        let mut text = String::new();
        Pages::new(from).read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcd");
    }

    #[test]
    fn a_fault_is_a_refusal_and_says_what_to_do() {
        let verdict = |intact, fault: Option<&str>| Verdict {
            intact,
            by: "vaultctl",
            entries: 1,
            size: 1,
            root: None,
            fault: fault.map(str::to_owned),
            index: None,
        };
        let failure = verdict(false, Some("entry 3 was altered")).tell(Out::new(false)).unwrap_err();
        assert_eq!(failure.exit(), crate::fail::Exit::Refused);
        assert!(
            failure.to_string().contains("entry 3 was altered") && failure.to_string().contains("incident")
        );
    }
}
