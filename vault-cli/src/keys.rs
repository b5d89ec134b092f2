//! `vaultctl keys`: which keys there are and what they may still do, and a new version of one. Never a key.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use serde::Serialize;
use vault_client::{AdminClient, ask, v1};
use vault_core::time::{Clock as _, SystemClock, Timestamp};

use crate::dial::{self, AdminOptions};
use crate::fail::Failure;
use crate::input;
use crate::output::Out;
use crate::progress::Progress;
use crate::wire::{self, ReceiptText, Words};

/// How often a status is looked at that is followed.
const WATCH: Duration = Duration::from_secs(5);

/// Tokens that are sent at once: the contract's most.
const BATCH: usize = 1_000;

/// Rows that are asked for at once: the contract's most.
pub(crate) const PAGE: u32 = 1_000;

/// The subcommands of `vaultctl keys`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List key versions and their states, newest first within each kind
    #[command(after_help = "Examples:\n  \
        vaultctl keys list --profile ops.toml\n  \
        vaultctl keys list --profile ops.toml --rows\n  \
        vaultctl --json keys list --profile ops.toml --kind dek --merchant shop")]
    List(List),
    /// Make a new version of a key; what is sealed from then on is sealed under it
    #[command(
        after_help = "dek, rcv, adm: what was sealed under older versions stays readable. trk: new tokens are under the new one, older ones once \
        they are used (see keys upgrade). idx, fpr: rows get new names in the \
        background and are found all the while; a card's public fingerprint does not change. kek, ctl, root: the keys below are wrapped \
        anew, no card is touched, and the older version is destroyed; for the root the node asks its custodian, as at its \
        start. log: the old key signs that the log goes on with the new one, and is destroyed; what you keep of the log's key \
        stays good (see audit keys). esk: every customer moves to the new erasure key in the background, then the old one is \
        destroyed, and with it what was erased; the vault does so by itself within a day of an erasure. custodian: the one of [custodian.other] in the node's \
        settings takes the place of that of [custodian], and no key changes. fpk is a slot of vaultless tokens: a merchant has five in its whole life.\n\nExamples:\n  \
        vaultctl keys rotate --profile ops.toml dek --merchant shop\n  \
        vaultctl keys rotate --profile ops.toml kek --merchant shop\n  \
        vaultctl keys rotate --profile ops.toml root\n  \
        vaultctl keys rotate --profile ops.toml trk --merchant shop\n  \
        vaultctl keys rotate --profile ops.toml log\n  \
        vaultctl keys rotate --profile ops.toml esk\n  \
        vaultctl keys rotate --profile ops.toml fpk --merchant shop --format edge\n  \
        vaultctl keys rotate --profile ops.toml custodian"
    )]
    Rotate(Rotate),
    /// Show how far the work behind rotations is: rows that are sealed anew, and rows that are renamed
    #[command(
        after_help = "The server does this work by itself, so many rows a second as its setting limits.reseal_rows says. With --watch \
        it is followed to its end.\n\nExamples:\n  \
        vaultctl keys status --profile ops.toml\n  \
        vaultctl keys status --profile ops.toml --watch"
    )]
    Status(KeyStatus),
    /// Move tokens to the newest TRK, and say what still needs an older one
    #[command(
        after_help = "After keys rotate trk new tokens are under the new key, older ones once they are used: only who holds a token can \
        move it. --tokens takes the rest from a file, one per line, of any length; nothing of them is told but how many. Without \
        it the command only counts, which reads all rows of the merchant. A key that nothing needs any more is certified in the \
        log by the count, two days after its rotation at the earliest, and keys destroy takes it then.\n\nExamples:\n  \
        vaultctl keys upgrade --profile ops.toml --merchant shop --tokens tokens.txt\n  \
        vaultctl keys upgrade --profile ops.toml --merchant shop"
    )]
    Upgrade(Upgrade),
    /// Tell what is under a key, and what a new version of it would heal
    #[command(after_help = "Reads every row that may be under it, and opens no card.\n\nExample:\n  \
        vaultctl keys show --profile ops.toml 12")]
    Show(Show),
    /// Note that somebody else may have a key: it protects nothing new from then on
    #[command(
        after_help = "The next version is in its place in the same commit, rows under it are sealed anew before all others, and it is \
        destroyed once none is left (keys status). Told are what was under it, what that heals and what it does not. ref and \
        idm have no next version. For the root the node asks its custodian.\n\nExamples:\n  \
        vaultctl keys compromise --profile ops.toml 12 --reason stolen_copy\n  \
        vaultctl keys compromise --profile ops.toml 12 --reason drill --note 'ticket 4711'"
    )]
    Compromise(Compromise),
    /// Destroy a key that nothing needs any more, or, by --crypto-shred, one with what is under it
    #[command(
        after_help = "Refused while something needs the key, and it says what: of an older DEK see keys status; an older rcv is needed \
        for seven days. With --crypto-shred the rows that are still under it open no more, here or from a copy that has the \
        keys of here: the key's number is to be typed once more.\n\nExamples:\n  \
        vaultctl keys destroy --profile ops.toml 12\n  \
        vaultctl keys destroy --profile ops.toml 12 --crypto-shred --confirm 12"
    )]
    Destroy(Destroy),
}

/// `keys status`.
#[derive(Debug, Args)]
pub(crate) struct KeyStatus {
    /// Follow the work until it is done
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `keys upgrade`.
#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    /// Whose tokens
    #[arg(long, value_name = "NAME")]
    merchant: String,
    /// A file of tokens, one per line; - is standard input
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `keys destroy`.
#[derive(Debug, Args)]
pub(crate) struct Destroy {
    /// The key's number, as keys list shows it
    #[arg(value_name = "ID")]
    id: String,
    /// Destroy it with what is under it: those rows open no more
    #[arg(long)]
    crypto_shred: bool,
    /// With --crypto-shred: the key's number once more; left out, it is asked for at the terminal
    #[arg(long, value_name = "ID", requires = "crypto_shred")]
    confirm: Option<String>,
    /// Destroy only if the vault is still in this epoch
    #[arg(long, value_name = "NUMBER")]
    epoch: Option<u64>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `keys show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The key's number, as keys list shows it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `keys compromise`.
#[derive(Debug, Args)]
pub(crate) struct Compromise {
    /// The key's number, as keys list shows it
    #[arg(value_name = "ID")]
    id: String,
    /// Why
    #[arg(long, value_parser = v1::CompromiseReason::parser())]
    reason: v1::CompromiseReason,
    /// Details for people, 1 to 1,024 bytes, no card number; sealed, the log has its hash
    #[arg(long, value_name = "TEXT", value_parser = crate::lock::parse_note)]
    note: Option<String>,
    /// Note it only if the vault is still in this epoch
    #[arg(long, value_name = "NUMBER")]
    epoch: Option<u64>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `keys list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only keys of this kind
    #[arg(long, value_parser = v1::KeyKind::parser())]
    kind: Option<v1::KeyKind>,
    /// Only this merchant's keys
    #[arg(long, value_name = "NAME")]
    merchant: Option<String>,
    /// Count the rows that each DEK seals and each IDX and FPR names: reads all rows
    #[arg(long)]
    rows: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `keys rotate`.
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Which kind; or custodian
    #[arg(value_parser = what())]
    what: What,
    /// Whose; left out for a key of the whole vault
    #[arg(long, value_name = "NAME")]
    merchant: Option<String>,
    /// Of the kind fpk: the ff1 format that gets a new slot
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// Of the kind fpk, where the format has channel scope: which channel's
    #[arg(long, value_name = "NAME", requires = "format")]
    channel: Option<String>,
    /// Rotate only if the vault is still in this epoch
    #[arg(long, value_name = "NUMBER")]
    epoch: Option<u64>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// What is rotated: a key, or who protects the root.
#[derive(Debug, Clone, Copy)]
enum What {
    Key(v1::KeyKind),
    Custodian,
}

fn what() -> impl TypedValueParser<Value = What> {
    const CUSTODIAN: &str = "custodian";
    let words = v1::KeyKind::WORDS.iter().copied().chain([CUSTODIAN]);
    PossibleValuesParser::new(words).try_map(|word| match word.as_str() {
        CUSTODIAN => Ok(What::Custodian),
        word => v1::KeyKind::of_name(&format!("{}{}", v1::KeyKind::PREFIX, word.to_ascii_uppercase()))
            .map(What::Key)
            .ok_or("is none of the known words"),
    })
}

/// A key version as it is told.
#[derive(Debug, Serialize)]
struct Key {
    id: String,
    kind: String,
    merchant: String,
    version: u32,
    state: String,
    primary: bool,
    created_at: Option<String>,
    expires_at: Option<String>,
    deactivated_at: Option<String>,
    uses: u64,
    use_limit: u64,
    rows: Option<u64>,
    wrapped_by: String,
    compromised_at: Option<String>,
    compromise_reason: String,
    renewal: String,
    standing: String,
    days_old: Option<u64>,
    days_left: Option<u64>,
}

/// Whole days between two moments; none if one is not told, zero if they are the other way round.
fn days(from: Option<&prost_types::Timestamp>, to: Option<&prost_types::Timestamp>) -> Option<u64> {
    let seconds = to?.seconds.saturating_sub(from?.seconds);
    Some(u64::try_from(seconds).unwrap_or(0) / 86_400)
}

impl Key {
    /// What stands in a compromised key's place where no next version does.
    fn without_a_next(&self) -> &'static str {
        match (self.kind.as_str(), self.state.as_str()) {
            ("idx" | "fpr", "active") => {
                "rows are still being renamed after the rotation before: it is replaced by itself once they are (at 16 versions never), see vaultctl keys status"
            }
            ("esk", "active") => {
                "it is replaced by itself once customers have moved to it, or its custodians come, see vaultctl keys status"
            }
            ("root", "active") => {
                "its custodians put the next in its place: vaultctl custodian split --new-root, with the vault stopped"
            }
            ("fpk", _) => {
                "nothing takes its place; where it was the last slot of its format no token is made in it any more: give the channel a format of another scheme"
            }
            _ => "nothing takes its place",
        }
    }

    fn of(key: v1::Key) -> Self {
        let seconds = i64::try_from(SystemClock.now().0 / 1_000).unwrap_or(i64::MAX);
        let now = prost_types::Timestamp { seconds, nanos: 0 };
        let lives = key.primary.then_some(key.expires_at.as_ref()).flatten();
        Self {
            compromised_at: wire::moment(key.compromised_at.as_ref()),
            compromise_reason: wire::word::<v1::CompromiseReason>(key.compromise_reason),
            renewal: wire::word::<v1::KeyRenewal>(key.renewal),
            standing: wire::word::<v1::KeyStanding>(key.standing),
            days_old: days(key.created_at.as_ref(), Some(&now)),
            days_left: days(Some(&now), lives),
            id: key.id,
            kind: wire::word::<v1::KeyKind>(key.kind),
            merchant: key.merchant,
            version: key.version,
            state: wire::word::<v1::KeyState>(key.state),
            primary: key.primary,
            created_at: wire::moment(key.created_at.as_ref()),
            expires_at: wire::moment(key.expires_at.as_ref()),
            deactivated_at: wire::moment(key.deactivated_at.as_ref()),
            uses: key.uses,
            use_limit: key.use_limit,
            rows: key.rows,
            wrapped_by: key.wrapped_by,
        }
    }

    /// Uses, and of how many: a count is never too low. A key whose uses are not counted has none to tell.
    fn use_cell(&self) -> String {
        match (self.uses, self.use_limit) {
            (0, 0) => "-".to_owned(),
            (uses, 0) => uses.to_string(),
            (uses, limit) => format!("{uses} of {limit}"),
        }
    }

    fn cells(&self) -> [String; 10] {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let days = |days: Option<u64>| days.map_or_else(|| "-".to_owned(), |days| format!("{days} d"));
        let known =
            if self.compromised_at.is_some() && self.state != "compromised" { ", compromised" } else { "" };
        [
            self.id.clone(),
            self.kind.clone(),
            or_dash(&self.merchant),
            self.version.to_string(),
            format!("{}{known}", self.state),
            days(self.days_old),
            days(self.days_left),
            self.use_cell(),
            number(self.rows),
            or_dash(&self.wrapped_by),
        ]
    }
}

/// Does what the command line says.
pub(crate) fn run(command: KeysCommand, out: Out) -> Result<(), Failure> {
    dial::run(async {
        match command {
            KeysCommand::List(asked) => list(asked, out).await,
            KeysCommand::Rotate(asked) => rotate(asked, out).await,
            KeysCommand::Status(asked) => status(asked, out).await,
            KeysCommand::Upgrade(asked) => upgrade(asked, out).await,
            KeysCommand::Show(asked) => show(asked, out).await,
            KeysCommand::Compromise(asked) => compromise(asked, out).await,
            KeysCommand::Destroy(asked) if asked.crypto_shred => shred(asked, out).await,
            KeysCommand::Destroy(asked) => destroy(asked, out).await,
        }
    })
}

async fn list(asked: List, out: Out) -> Result<(), Failure> {
    let List { kind, merchant, rows, admin } = asked;
    let vault = admin.connect().await?;
    let mut keys = all(&vault, rows).await?;
    // A wrap's own key may be of another kind and of no merchant: it is looked for among all.
    let kinds: HashMap<String, String> = keys.iter().map(|key| (key.id.clone(), key.kind.clone())).collect();
    for key in &mut keys {
        if let Some(kind) = kinds.get(&key.wrapped_by) {
            key.wrapped_by = format!("{} ({kind})", key.wrapped_by);
        }
    }
    keys.retain(|key| kind.is_none_or(|kind| key.kind == kind.word()));
    keys.retain(|key| merchant.as_ref().is_none_or(|merchant| key.merchant == *merchant));
    let headers = ["ID", "KIND", "MERCHANT", "VERSION", "STATE", "AGE", "LEFT", "USES", "ROWS", "WRAPPED BY"];
    out.tell_table(&keys, headers, Key::cells, "there are no such keys")
}

async fn all(vault: &AdminClient, rows: bool) -> Result<Vec<Key>, Failure> {
    let mut keys = Vec::new();
    let mut request =
        v1::ListKeysRequest { page_size: PAGE, count_rows: rows, ..v1::ListKeysRequest::default() };
    loop {
        let page = vault.list_keys(request.clone()).await?;
        keys.extend(page.keys.into_iter().map(Key::of));
        if page.next_page_token.is_empty() {
            return Ok(keys);
        }
        request.page_token = page.next_page_token;
    }
}

async fn rotate(asked: Rotate, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Rotated {
        key: Option<Key>,
        previous: Option<Key>,
        epoch: u64,
        slots_left: Option<u32>,
        receipt: Option<ReceiptText>,
    }
    let Rotate { what, merchant, format, channel, epoch, admin } = asked;
    let vault = admin.connect().await?;
    let kind = match what {
        What::Key(kind) => kind,
        What::Custodian if merchant.is_none() && format.is_none() => {
            return rotate_custodian(&vault, epoch, out).await;
        }
        What::Custodian => return Err(Failure::usage("custodian is the whole vault's: give no merchant")),
    };
    let request = v1::RotateKeyRequest {
        header: Some(ask::change(epoch)),
        kind: kind.into(),
        merchant: merchant.unwrap_or_default(),
        format: format.unwrap_or_default(),
        channel: channel.unwrap_or_default(),
    };
    let answer = vault.rotate_key(request).await?;
    let rotated = Rotated {
        key: answer.key.map(Key::of),
        previous: answer.previous.map(Key::of),
        epoch: answer.epoch,
        slots_left: (kind == v1::KeyKind::Fpk).then_some(answer.slots_left),
        receipt: answer.receipt.as_ref().and_then(|r| ReceiptText::of(r, &[])),
    };
    out.tell(&rotated, |rotated| {
        let named = |key: &Option<Key>| {
            key.as_ref().map_or("-".to_owned(), |k| format!("{} (version {})", k.id, k.version))
        };
        if let Some(left) = rotated.slots_left {
            let key = named(&rotated.key);
            return format!(
                "fpk {key} makes new tokens since epoch {}; older ones still open; {left} of five slots are left",
                rotated.epoch
            );
        }
        let destroyed = rotated.previous.as_ref().is_some_and(|key| key.state == "destroyed");
        let links = matches!(kind, v1::KeyKind::Idx | v1::KeyKind::Fpr);
        let before = match (destroyed, links) {
            (true, _) => "is destroyed, nothing needs it",
            (false, true) => "stays a link of the names' chain",
            (false, false) => "opens what it sealed",
        };
        format!(
            "{} {} is primary since epoch {}; {} {before}",
            kind.word(),
            named(&rotated.key),
            rotated.epoch,
            named(&rotated.previous)
        )
    })
}

async fn rotate_custodian(vault: &AdminClient, epoch: Option<u64>, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Protects {
        kind: String,
        what: String,
    }
    #[derive(Serialize)]
    struct Rotated {
        custodians: Vec<Protects>,
        epoch: u64,
        receipt: Option<ReceiptText>,
    }
    let request = v1::ChangeCustodianRequest { header: Some(ask::change(epoch)) };
    let answer = vault.change_custodian(request).await?;
    let told = |v1::Custodian { kind, what }| Protects { kind, what };
    let rotated = Rotated {
        custodians: answer.custodians.into_iter().map(told).collect(),
        epoch: answer.epoch,
        receipt: answer.receipt.as_ref().and_then(|r| ReceiptText::of(r, &[])),
    };
    out.tell(&rotated, |rotated| {
        let all: Vec<_> = rotated.custodians.iter().map(|c| format!("{} ({})", c.kind, c.what)).collect();
        format!(
            "since epoch {} the root is protected by {}; in the node's settings, put [custodian.other] in the place of [custodian] now",
            rotated.epoch,
            all.join(" and ")
        )
    })
}

/// The work behind rotations as it is told.
#[derive(Debug, Default, Serialize)]
struct Work {
    working: bool,
    merchant: String,
    to: Vec<String>,
    from: Vec<String>,
    total_rows: Option<u64>,
    moved_rows: u64,
    unreadable_rows: u64,
    stuck: bool,
    since: Option<String>,
    rows_per_second: Option<u64>,
    seconds_left: Option<u64>,
    erasure: Option<ErasureWork>,
}

impl Work {
    fn of(work: v1::KeyWork, now: Timestamp) -> Self {
        let since = work.since.and_then(|at| u64::try_from(at.seconds).ok());
        let seconds = since.and_then(|since| (now.0 / 1_000).checked_sub(since)).filter(|s| *s > 0);
        let rate = seconds.map(|s| work.moved_rows / s).filter(|rate| *rate > 0);
        let left = work.total_rows.map(|total| total.saturating_sub(work.moved_rows));
        Self {
            working: true,
            merchant: work.merchant,
            to: work.to,
            from: work.from,
            total_rows: work.total_rows,
            moved_rows: work.moved_rows,
            unreadable_rows: work.unreadable_rows,
            stuck: work.stuck,
            since: wire::moment(work.since.as_ref()),
            rows_per_second: rate,
            seconds_left: rate.zip(left).map(|(rate, left)| left.div_ceil(rate)),
            erasure: None,
        }
    }

    fn line(&self) -> String {
        let erasure = self.erasure.as_ref().map_or_else(String::new, |work| format!("\n{}", work.line()));
        self.rows_line() + &erasure
    }

    fn rows_line(&self) -> String {
        if !self.working {
            return "no row is on its way: every row is under its merchant's newest keys".to_owned();
        }
        let total = self.total_rows.map_or_else(|| "? (being counted)".to_owned(), |rows| rows.to_string());
        let mut parts = vec![format!(
            "{}: rows move from {} to {}: {} of {total}",
            self.merchant,
            self.from.join(", "),
            self.to.join(", "),
            self.moved_rows
        )];
        parts.extend(self.rows_per_second.map(|rate| format!("{rate} a second")));
        parts.extend(self.seconds_left.map(|left| format!("{left} s left")));
        if self.unreadable_rows > 0 {
            parts.push(format!(
                "{} do not open under the key that they name and keep it needed (see store verify)",
                self.unreadable_rows
            ));
        }
        parts.join(", ")
    }
}

/// The work behind erasures as it is told.
#[derive(Debug, Serialize)]
struct ErasureWork {
    key: String,
    pending_since: Option<String>,
    moving: bool,
    moved_customers: u64,
}

impl ErasureWork {
    fn of(work: v1::ErasureWork) -> Self {
        let pending_since = wire::moment(work.pending_since.as_ref());
        Self { key: work.key, pending_since, moving: work.moving, moved_customers: work.moved_customers }
    }

    fn line(&self) -> String {
        let Self { key, moved_customers, .. } = self;
        let since = self.pending_since.as_deref().map_or_else(String::new, |at| format!(", since {at}"));
        if self.moving {
            return format!(
                "customers move from erasure key {key}: {moved_customers} moved; then it is destroyed"
            );
        }
        format!("erasures wait for the end of erasure key {key}{since}: it begins half a day after the first")
    }
}

async fn status(asked: KeyStatus, out: Out) -> Result<(), Failure> {
    let KeyStatus { watch, admin } = asked;
    let vault = admin.connect().await?;
    let look = async || -> Result<Work, Failure> {
        let answer = vault.get_key_work(v1::GetKeyWorkRequest {}).await?;
        let mut work = answer.work.map(|work| Work::of(work, SystemClock.now())).unwrap_or_default();
        work.erasure = answer.erasure.map(ErasureWork::of);
        Ok(work)
    };
    let mut work = look().await?;
    let mut bar = (String::new(), Progress::of("rows moved"));
    while watch && work.working && !work.stuck {
        if bar.0 != work.merchant {
            bar = (work.merchant.clone(), Progress::of("rows moved"));
        }
        if let Some(total) = work.total_rows {
            bar.1.step(work.moved_rows, total);
        }
        tokio::time::sleep(WATCH).await;
        work = look().await?;
    }
    drop(bar);
    out.tell(&work, Work::line)?;
    if work.stuck {
        let told =
            "rows are left that do not open: vaultctl store verify names them, a backup may have them whole";
        return Err(Failure::refused(told));
    }
    Ok(())
}

/// What became of a file's tokens, and what needs which key after that.
#[derive(Debug, Default, Serialize)]
struct TokensTold {
    upgraded: u64,
    current: u64,
    unknown: u64,
    unreadable: u64,
    keys: Vec<Needed>,
    unreadable_rows: u64,
    drained: Vec<String>,
}

/// What needs one token root key.
#[derive(Debug, Serialize)]
struct Needed {
    key: String,
    cards: u64,
    fingerprints: u64,
}

impl TokensTold {
    fn add(&mut self, told: &v1::UpgradeTokensResponse) {
        self.upgraded = self.upgraded.saturating_add(told.upgraded);
        self.current = self.current.saturating_add(told.current);
        self.unknown = self.unknown.saturating_add(told.unknown);
        self.unreadable = self.unreadable.saturating_add(told.unreadable);
    }

    fn text(&self) -> String {
        let Self { upgraded, current, unknown, unreadable, unreadable_rows, .. } = self;
        let mut lines = Vec::new();
        if upgraded + current + unknown + unreadable > 0 {
            lines.push(format!(
                "{upgraded} tokens moved, {current} needed nothing, {unknown} are none of the merchant's, {unreadable} do not open"
            ));
        }
        lines.extend(self.keys.iter().map(|needed| {
            format!(
                "trk {}: needed by {} cards and {} fingerprints",
                needed.key, needed.cards, needed.fingerprints
            )
        }));
        lines.extend(self.drained.iter().map(|key| {
            format!("trk {key}: nothing needs it, the log says so; vaultctl keys destroy {key} takes it")
        }));
        if *unreadable_rows > 0 {
            lines.push(format!("{unreadable_rows} rows do not open and may need any: see store verify"));
        }
        lines.join("\n")
    }
}

async fn upgrade(asked: Upgrade, out: Out) -> Result<(), Failure> {
    let Upgrade { merchant, tokens, admin } = asked;
    let vault = admin.connect().await?;
    let mut told = TokensTold::default();
    if let Some(file) = tokens {
        let mut lines = input::lines_of(&file)?;
        loop {
            let page: Vec<String> = lines.by_ref().take(BATCH).collect::<Result<_, _>>()?;
            if page.is_empty() {
                break;
            }
            let request = v1::UpgradeTokensRequest { merchant: merchant.clone(), tokens: page };
            told.add(&vault.upgrade_tokens(request).await?);
        }
    }
    let counted = vault.count_token_roots(v1::CountTokenRootsRequest { merchant }).await?;
    let needed =
        |key: v1::TokenRootCount| Needed { key: key.key, cards: key.cards, fingerprints: key.fingerprints };
    told.keys = counted.keys.into_iter().map(needed).collect();
    (told.unreadable_rows, told.drained) = (counted.unreadable, counted.drained);
    out.tell(&told, TokensTold::text)?;
    if told.unreadable > 0 {
        return Err(Failure::refused(
            "tokens' rows do not open: vaultctl store verify names them, a backup may have them whole",
        ));
    }
    Ok(())
}

async fn destroy(asked: Destroy, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Destroyed {
        key: Option<Key>,
        epoch: u64,
        receipt: Option<ReceiptText>,
    }
    let Destroy { id, epoch, admin, crypto_shred: _, confirm: _ } = asked;
    let vault = admin.connect().await?;
    let request = v1::DestroyKeyRequest { header: Some(ask::change(epoch)), key: id };
    let answer = vault.destroy_key(request).await?;
    let destroyed = Destroyed {
        key: answer.key.map(Key::of),
        epoch: answer.epoch,
        receipt: answer.receipt.as_ref().and_then(|r| ReceiptText::of(r, &[])),
    };
    out.tell(&destroyed, |destroyed| {
        let key = destroyed.key.as_ref().map_or("-", |key| key.id.as_str());
        format!("key {key} is destroyed since epoch {}", destroyed.epoch)
    })
}

/// What is under a key as it is told.
#[derive(Debug, Serialize)]
struct Under {
    rows: u64,
    cards: u64,
    channels: BTreeMap<String, u64>,
    everywhere: u64,
    first: Option<String>,
    last: Option<String>,
    customers: u64,
    customers_at_least: bool,
    unreadable: u64,
}

impl Under {
    fn of(under: v1::KeyUnder) -> Self {
        Self {
            rows: under.rows,
            cards: under.cards,
            channels: under.channels.into_iter().map(|of| (of.channel, of.cards)).collect(),
            everywhere: under.everywhere,
            first: wire::moment(under.first.as_ref()),
            last: wire::moment(under.last.as_ref()),
            customers: under.customers,
            customers_at_least: under.customers_at_least,
            unreadable: under.unreadable,
        }
    }

    fn line(&self) -> String {
        let mut parts = vec![format!("{} rows", self.rows), format!("{} of them of tokens", self.cards)];
        parts.extend(self.channels.iter().map(|(channel, cards)| format!("{cards} on channel {channel}")));
        if self.everywhere > 0 {
            parts.push(format!("{} on every channel or all but some", self.everywhere));
        }
        let between = self.first.as_ref().zip(self.last.as_ref());
        parts.extend(between.map(|(first, last)| format!("made {first} to {last}")));
        let least = if self.customers_at_least { "at least " } else { "" };
        parts.push(format!("of {least}{} customers", self.customers));
        if self.unreadable > 0 {
            parts.push(format!("{} more do not open (see store verify)", self.unreadable));
        }
        parts.join(", ")
    }
}

async fn show(asked: Show, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Shown {
        key: Option<Key>,
        under: Option<Under>,
        healed: String,
        remains: String,
        epoch: u64,
    }
    let Show { id, admin } = asked;
    let answer = admin.connect().await?.describe_key(v1::DescribeKeyRequest { key: id }).await?;
    let shown = Shown {
        key: answer.key.map(Key::of),
        under: answer.under.map(Under::of),
        healed: answer.healed,
        remains: answer.remains,
        epoch: answer.epoch,
    };
    out.tell(&shown, |shown| {
        format!(
            "{}\nunder it: {}\na new version heals: {}\nwhat remains: {}",
            named(shown.key.as_ref()),
            shown.under.as_ref().map(Under::line).unwrap_or_default(),
            shown.healed,
            shown.remains
        )
    })
}

fn named(key: Option<&Key>) -> String {
    key.map_or("-".to_owned(), |key| {
        format!("{} {} (version {}, {})", key.kind, key.id, key.version, key.state)
    })
}

async fn compromise(asked: Compromise, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Compromised {
        key: Option<Key>,
        next: Option<Key>,
        under: Option<Under>,
        healed: String,
        remains: String,
        epoch: u64,
        receipt: Option<ReceiptText>,
    }
    let Compromise { id, reason, note, epoch, admin } = asked;
    let vault = admin.connect().await?;
    let request = v1::CompromiseKeyRequest {
        header: Some(ask::change(epoch)),
        key: id,
        reason: reason.into(),
        note: note.unwrap_or_default(),
    };
    let answer = vault.compromise_key(request).await?;
    let made = Compromised {
        key: answer.key.map(Key::of),
        next: answer.next.map(Key::of),
        under: answer.under.map(Under::of),
        healed: answer.healed,
        remains: answer.remains,
        epoch: answer.epoch,
        receipt: answer.receipt.as_ref().and_then(|r| ReceiptText::of(r, &[])),
    };
    out.tell(&made, |made| {
        let next = match &made.next {
            Some(next) => format!("{} is in its place", named(Some(next))),
            None => made.key.as_ref().map_or("nothing takes its place", Key::without_a_next).to_owned(),
        };
        let key = made.key.as_ref();
        let then = if key.is_some_and(|k| k.kind == "dek" && k.state != "destroyed") {
            "\nnext: vaultctl keys status --watch; it is destroyed once no row is under it"
        } else {
            ""
        };
        let not_counted = || format!("could not be counted; vaultctl keys show {} counts it", key.map_or("", |k| &k.id));
        format!(
            "{} is noted as compromised since epoch {}; {next}\nunder it: {}\nhealed: {}\nnot healed: {}{then}",
            named(key),
            made.epoch,
            made.under.as_ref().map_or_else(not_counted, Under::line),
            made.healed,
            made.remains
        )
    })
}

async fn shred(asked: Destroy, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Shredded {
        key: Option<Key>,
        under: Option<Under>,
        epoch: u64,
        receipt: Option<ReceiptText>,
    }
    let Destroy { id, confirm, epoch, admin, .. } = asked;
    let vault = admin.connect().await?;
    let before = vault.describe_key(v1::DescribeKeyRequest { key: id.clone() }).await?;
    let (key, under) = (before.key.map(Key::of), before.under.map(Under::of));
    crate::output::note(&format!(
        "{}: this becomes unreadable for good: {}",
        named(key.as_ref()),
        under.as_ref().map(Under::line).unwrap_or_default()
    ));
    let confirm = match confirm {
        Some(confirm) => confirm,
        None => crate::input::typed(&format!("Type {id} to destroy them: "))?,
    };
    if confirm != id {
        return Err(Failure::usage("that is not the key's number; nothing was destroyed"));
    }
    let request = v1::ShredKeyRequest { header: Some(ask::change(epoch)), key: id, confirm };
    let answer = vault.shred_key(request).await?;
    let made = Shredded {
        key: answer.key.map(Key::of),
        under: answer.under.map(Under::of),
        epoch: answer.epoch,
        receipt: answer.receipt.as_ref().and_then(|r| ReceiptText::of(r, &[])),
    };
    out.tell(&made, |made| {
        format!(
            "{} is destroyed since epoch {}; this opens no more: {}",
            named(made.key.as_ref()),
            made.epoch,
            made.under.as_ref().map(Under::line).unwrap_or_default()
        )
    })
}
