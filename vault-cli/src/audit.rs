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
use vault_core::audit::entry::{AuditEntry, ControlChange, Event};
use vault_core::audit::handover::HandOver;
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
    /// Certify an erasure: the key that older copies of the store need is destroyed
    #[command(
        after_help = "The receipt is what the erasure was answered with. Exit code 1: the key is not destroyed yet.\n\nExamples:\n  \
        vaultctl audit erasure --profile ops.toml receipt.json --log-key log.vkey\n  \
        vaultctl audit erasure --profile ops.toml receipt.json --log-key log.vkey --key-backup-days 30\n  \
        vaultctl --json audit erasure --profile ops.toml receipt.json --log-key log.vkey > certificate.json"
    )]
    Erasure(Erasure),
    /// Write down the log's public keys, first to newest, and how each was handed the log
    #[command(
        after_help = "Everywhere, --log-key takes any one of these keys, or this file. Compare the first or the newest with \
        what you noted of it: the hand-overs prove the rest.\n\nExample:\n  \
        vaultctl audit keys --profile ops.toml > log.keys"
    )]
    Keys(Keys),
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

/// `audit erasure`.
#[derive(Debug, Args)]
pub(crate) struct Erasure {
    /// The receipt of an erasure; - is standard input
    #[arg(value_name = "RECEIPT")]
    file: PathBuf,
    /// The log's key, or a file that holds it; else the key that the vault names
    #[arg(long, value_name = "KEY")]
    log_key: Option<String>,
    /// For how many days you keep backups of the esk file: then the certificate names the day on which the last is gone
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    key_backup_days: Option<u32>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `audit keys`.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// A key of the log that is known, or a file that holds it: refused if the vault's are others
    #[arg(long, value_name = "KEY")]
    log_key: Option<String>,
    #[command(flatten)]
    admin: AdminOptions,
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

/// A log's key as text, or in a file; or the file that `audit keys` wrote, which has its hand-overs in further lines.
fn log_key(text: &str) -> Result<LogVerifier, Failure> {
    if let Ok(verifier) = LogVerifier::parse(text) {
        return Ok(verifier);
    }
    let file = input::small_text(Path::new(text)).map_err(|e| {
        Failure::usage(format_args!("--log-key: no log key, and no file that holds one: {e}"))
    })?;
    let mut lines = file.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = LogVerifier::parse(lines.next().unwrap_or_default())
        .map_err(|_| Failure::usage("--log-key: the file holds no log key, which `vaultctl init` printed"))?;
    let hand_overs: Result<Vec<HandOver>, _> = lines.map(HandOver::parse).collect();
    let followed = hand_overs.and_then(|hand_overs| first.follow(&hand_overs));
    followed
        .map_err(|e| Failure::usage(format_args!("--log-key: {e}; `vaultctl audit keys` makes such a file")))
}

/// The hand-overs of the log's key as the vault gives them. Nothing in them is checked yet.
fn hand_overs(given: &[v1::LogHandOver]) -> Result<Vec<HandOver>, Failure> {
    let one = |one: &v1::LogHandOver| {
        let path = one.inclusion.iter().map(|hash| hash.as_slice().try_into().ok().map(Hash));
        let path = path.collect::<Option<Vec<Hash>>>()?;
        Some(HandOver::of(one.from.clone(), one.to.clone(), &one.leaf, path, one.note.clone()))
    };
    let broken = || Failure::failed("the vault's hand-overs break the contract; report this");
    given.iter().map(|given| one(given).ok_or_else(broken)).collect()
}

/// All keys of the log that the vault names, if the one that is known here is one of them.
fn followed(known: &LogVerifier, hand_overs: &[HandOver], newest: &str) -> Result<LogVerifier, Failure> {
    let other = || {
        Failure::refused(
            "the vault names another log key than the one given; this is not that log, or somebody else holds it",
        )
    };
    let keys = known.follow(hand_overs).map_err(|_| other())?;
    if keys.to_string() == newest { Ok(keys) } else { Err(other()) }
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
        AuditCommand::Erasure(asked) => dial::run(erasure(asked, out)),
        AuditCommand::Keys(asked) => dial::run(keys(asked, out)),
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
    let key = followed(&key, &head.hand_overs, &head.verifier_key)?;
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
    hand_overs: Vec<HandOver>,
}

impl Head {
    async fn get(vault: &AdminClient) -> Result<Self, Failure> {
        let answer = vault.get_checkpoint(v1::GetCheckpointRequest::default()).await?;
        let missing = || Failure::failed("the vault gave no head of its log; report this");
        let hand_overs = hand_overs(&answer.hand_overs)?;
        let checkpoint = answer.checkpoint.ok_or_else(missing)?;
        Ok(Self { checkpoint, verifier_key: answer.verifier_key, hand_overs })
    }

    /// Sends the log up to this head as an export, page by page, until `to` takes no more.
    async fn send(
        &self,
        vault: &AdminClient,
        mut to: impl AsyncFnMut(Vec<u8>) -> bool,
    ) -> Result<(), Failure> {
        let v1::Checkpoint { log, note, tree_size, .. } = &self.checkpoint;
        let mut header = serde_json::json!({
            "version": VERSION, "origin": log, "vkey": self.verifier_key, "checkpoint": note,
        });
        if let (Some(header), false) = (header.as_object_mut(), self.hand_overs.is_empty()) {
            header.insert("hand_overs".to_owned(), serde_json::json!(self.hand_overs));
        }
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
        let hand_overs = hand_overs(&answer.hand_overs)?;
        let key = match &key {
            Some(key) => followed(key, &hand_overs, &answer.verifier_key)?,
            None => LogVerifier::parse(&answer.verifier_key).map_err(Failure::failed)?,
        };
        let wire = receipt.to_wire()?;
        let proof = proof_text((&wire.log, wire.leaf_index), &answer, &hand_overs)?;
        // Shown only if it holds: a proof that nobody can check proves nothing.
        checked(&proof, &key, Some(&receipt))?;
        output::write(format!("{proof}\n").as_bytes())?;
    }
    Ok(())
}

/// The proof as the library has it, from what the vault answered to a receipt.
fn proof_text(
    (log, index): (&str, u64),
    answer: &v1::ProveReceiptResponse,
    hand_overs: &[HandOver],
) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Text<'a> {
        version: u8,
        log: u32,
        index: u64,
        entry: String,
        path: Vec<Hash>,
        checkpoint: &'a str,
        #[serde(skip_serializing_if = "<[HandOver]>::is_empty")]
        hand_overs: &'a [HandOver],
    }
    let broken = || Failure::failed("the vault's proof breaks the contract; report this");
    let head = answer.checkpoint.as_ref().ok_or_else(broken)?;
    let path: Option<Vec<Hash>> =
        answer.inclusion.iter().map(|hash| hash.as_slice().try_into().ok().map(Hash)).collect();
    let text = Text {
        version: VERSION,
        log: wire::log_number(log).ok_or_else(broken)?,
        index,
        entry: BASE64.encode(&answer.leaf),
        path: path.ok_or_else(broken)?,
        checkpoint: &head.note,
        hand_overs,
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
            // The receipt may be signed by an older key of the log, or a newer one, than the one that is known here.
            let keys = proof.keys(key).map_err(refused)?;
            let receipt = Receipt::open(&receipt.text(), &keys)
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

/// An erasure's certificate as it is told.
#[derive(Debug, Serialize)]
struct Certificate {
    /// The customer's name in the log.
    customer: String,
    erased_at: String,
    erased_entry: u64,
    erasure_key: u32,
    destroyed_at: String,
    destroyed_entry: u64,
    /// When the last backup of the key's file is gone, if it was said how long they are kept.
    backups_gone_by: Option<String>,
    /// What each kind of custodian can say of a destroyed key.
    custodians: Vec<&'static str>,
    /// The two proofs, for `audit check`.
    proofs: [serde_json::Value; 2],
}

impl Certificate {
    fn text(&self) -> String {
        let Self { customer, erased_at, erased_entry, erasure_key, destroyed_at, destroyed_entry, .. } = self;
        let backups = match &self.backups_gone_by {
            Some(day) => {
                format!("no later than {day}, if backups of the esk file are kept as long as you said")
            }
            None => format!("{destroyed_at} plus the time for which backups of the esk file are kept"),
        };
        let custodians: Vec<String> = self.custodians.iter().map(|says| format!("\n* {says}")).collect();
        format!(
            "Certificate of erasure\ncustomer {customer} (the name in the log), erased at {erased_at} (entry {erased_entry})\n\
             erasure key {erasure_key}, destroyed at {destroyed_at} (entry {destroyed_entry})\n\
             The live store: erased since {erased_at}. Live copies of it: unreadable since {destroyed_at}.\n\
             Copies of the store in backups: unreadable from {backups}: until then a copy of the store and a copy of the \
             esk file, both from before, still open together.{}",
            custodians.concat()
        )
    }
}

/// What a kind of custodian can honestly say of a destroyed key.
fn honest(kind: u8) -> &'static str {
    match kind {
        1 => {
            "passphrase: destroyed by policy only: who kept an old esk file and knows the passphrase of its time opens it"
        }
        2 => {
            "shares: destroyed by policy only: who kept an old esk file and enough shares of its time opens it"
        }
        3 => {
            "pkcs11: destroyed by policy only, until the device's own key is destroyed: it opens an old esk file"
        }
        4 => {
            "kms: destroyed by policy only, until the service's own key is destroyed: it opens an old esk file"
        }
        _ => {
            "a custodian of a kind that this release does not know: ask its maker what destruction means there"
        }
    }
}

async fn erasure(asked: Erasure, out: Out) -> Result<(), Failure> {
    let known = asked.log_key.as_deref().map(log_key).transpose()?;
    let receipt = ReceiptText::parse(&input::small_text(&asked.file)?)?;
    let vault = asked.admin.connect().await?;
    let wire = receipt.to_wire()?;
    let request = v1::GetErasureCertificateRequest { receipt: Some(wire.clone()) };
    let answer = vault.get_erasure_certificate(request).await?;
    let broken = || Failure::failed("the vault's certificate breaks the contract; report this");
    let proven = |answer: &v1::ProveReceiptResponse, index, receipt: Option<&ReceiptText>| {
        let hand_overs = hand_overs(&answer.hand_overs)?;
        let key = match &known {
            Some(key) => followed(key, &hand_overs, &answer.verifier_key)?,
            None => LogVerifier::parse(&answer.verifier_key).map_err(Failure::failed)?,
        };
        let proof = proof_text((&wire.log, index), answer, &hand_overs)?;
        let proven = checked(&proof, &key, receipt)?;
        Ok::<_, Failure>((proven.entry, serde_json::from_str(&proof).map_err(Failure::failed)?))
    };
    let (erased, first) =
        proven(answer.erasure.as_ref().ok_or_else(broken)?, wire.leaf_index, Some(&receipt))?;
    let Some(destruction) = &answer.destruction else {
        let begins = wire::moment(answer.begins_at.as_ref());
        let begins = begins.map_or_else(|| "soon".to_owned(), |at| format!("at {at}"));
        return Err(Failure::refused(format_args!(
            "the customer is erased in the live store, but the key for older copies of it is not destroyed yet: the vault \
             begins {begins}; `vaultctl keys rotate esk` does it now"
        )));
    };
    let (ended, second) = proven(destruction, answer.destruction_index, None)?;
    let (Event::Erased { subject, .. }, Event::ControlChanged { change, .. }) = (&erased.event, &ended.event)
    else {
        return Err(broken());
    };
    // What the proofs say decides, not the vault: the key was replaced after this erasure, and is gone.
    let ControlChange::ErasureKeyDestroyed { key, before, custodians } = change else { return Err(broken()) };
    if erased.epoch >= *before {
        return Err(Failure::refused("the vault gave a certificate from before this erasure; report this"));
    }
    let certificate = Certificate {
        customer: subject.to_string(),
        erased_at: wire::moment_of(erased.at),
        erased_entry: wire.leaf_index,
        erasure_key: *key,
        destroyed_at: wire::moment_of(ended.at),
        destroyed_entry: answer.destruction_index,
        backups_gone_by: asked.key_backup_days.map(|days| wire::moment_of(ended.at.plus_days(days))),
        custodians: custodians.iter().map(|kind| honest(*kind)).collect(),
        proofs: [first, second],
    };
    out.tell(&certificate, Certificate::text)
}

async fn keys(asked: Keys, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Keys {
        keys: Vec<String>,
        hand_overs: Vec<HandOver>,
    }
    let known = asked.log_key.as_deref().map(log_key).transpose()?;
    let head = Head::get(&asked.admin.connect().await?).await?;
    let newest = LogVerifier::parse(&head.verifier_key).map_err(Failure::failed)?;
    let keys = followed(&known.unwrap_or(newest), &head.hand_overs, &head.verifier_key)?.texts();
    // The last key first: it is the one that a new receipt is signed by, and it leads to all others.
    let told = |keys: &Keys| {
        let newest = keys.keys.last().cloned().into_iter();
        newest.chain(keys.hand_overs.iter().map(HandOver::text)).collect::<Vec<_>>().join("\n")
    };
    out.tell(&Keys { keys, hand_overs: head.hand_overs }, told)
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
        let key = vault.verifier().to_string();
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
