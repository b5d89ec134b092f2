//! `vaultctl keys`: which keys there are and what they may still do, and a new version of one. Never a key.

use clap::{Args, Subcommand};
use serde::Serialize;
use vault_client::{AdminClient, ask, v1};

use crate::dial::{self, AdminOptions};
use crate::fail::Failure;
use crate::output::Out;
use crate::wire::{self, ReceiptText, Words};

/// Rows that are asked for at once: the contract's most.
pub(crate) const PAGE: u32 = 1_000;

/// The subcommands of `vaultctl keys`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List key versions and their states, newest first within each kind
    #[command(after_help = "Examples:\n  \
        vaultctl keys list --profile ops.toml\n  \
        vaultctl --json keys list --profile ops.toml --kind dek --merchant shop")]
    List(List),
    /// Make a new version of a key; what is sealed from then on is sealed under it
    #[command(
        after_help = "dek, rcv: what was sealed under older versions stays readable. kek, ctl, root: the keys below are wrapped \
        anew, no card is touched, and the older version is destroyed; for the root the node asks its custodian, as at its \
        start. fpk is a slot of vaultless tokens: a merchant has five in its whole life.\n\nExamples:\n  \
        vaultctl keys rotate --profile ops.toml dek --merchant shop\n  \
        vaultctl keys rotate --profile ops.toml kek --merchant shop\n  \
        vaultctl keys rotate --profile ops.toml root\n  \
        vaultctl keys rotate --profile ops.toml fpk --merchant shop --format edge"
    )]
    Rotate(Rotate),
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
    #[command(flatten)]
    admin: AdminOptions,
}

/// `keys rotate`.
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Which kind
    #[arg(value_parser = v1::KeyKind::parser())]
    kind: v1::KeyKind,
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
}

impl Key {
    fn of(key: v1::Key) -> Self {
        Self {
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

    fn cells(&self) -> [String; 8] {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        [
            self.id.clone(),
            self.kind.clone(),
            or_dash(&self.merchant),
            self.version.to_string(),
            self.state.clone(),
            if self.primary { "yes".to_owned() } else { "-".to_owned() },
            or_dash(self.created_at.as_deref().unwrap_or_default()),
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
        }
    })
}

async fn list(asked: List, out: Out) -> Result<(), Failure> {
    let List { kind, merchant, admin } = asked;
    let vault = admin.connect().await?;
    let keys = all(&vault, kind.unwrap_or(v1::KeyKind::Unspecified), merchant.unwrap_or_default()).await?;
    let headers = ["ID", "KIND", "MERCHANT", "VERSION", "STATE", "PRIMARY", "MADE", "WRAPPED BY"];
    out.tell_table(&keys, headers, Key::cells, "there are no such keys")
}

async fn all(vault: &AdminClient, kind: v1::KeyKind, merchant: String) -> Result<Vec<Key>, Failure> {
    let mut keys = Vec::new();
    let mut request =
        v1::ListKeysRequest { kind: kind.into(), merchant, page_size: PAGE, page_token: String::new() };
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
    let Rotate { kind, merchant, format, channel, epoch, admin } = asked;
    let vault = admin.connect().await?;
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
        let before = if destroyed { "is destroyed, nothing needs it" } else { "opens what it sealed" };
        format!(
            "{} {} is primary since epoch {}; {} {before}",
            kind.word(),
            named(&rotated.key),
            rotated.epoch,
            named(&rotated.previous)
        )
    })
}
