//! `vaultctl lock`: stops a merchant, a channel or a principal, exactly from the answer on; shows and lifts locks.

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use vault_client::{ask, v1};
use vault_core::pan;

use crate::dial::{self, AdminOptions};
use crate::fail::Failure;
use crate::keys::PAGE;
use crate::output::Out;
use crate::wire::{self, ReceiptText, Words};

/// Bytes of a note: the contract's most.
const MAX_NOTE: usize = 1_024;

/// The subcommands of `vaultctl lock`.
#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    /// Lock a merchant, one of its channels, or a principal
    #[command(
        after_help = "Everything that it is on is refused from the epoch on that the answer names.\n\nExamples:\n  \
        vaultctl lock set --profile ops.toml --principal till-7 --reason stolen_credential --note 'ticket 4711'\n  \
        vaultctl lock set --profile ops.toml --channel shop/web --reason fraud\n  \
        vaultctl lock set --profile ops.toml --merchant shop --reason drill"
    )]
    Set(Set),
    /// List locks, newest first
    #[command(after_help = "Examples:\n  vaultctl lock list --profile ops.toml\n  \
        vaultctl --json lock list --profile ops.toml --lifted")]
    List(List),
    /// Lift one lock; others on the same target stay
    #[command(
        after_help = "Example:\n  vaultctl lock lift --profile ops.toml 3 --note 'card reader replaced'"
    )]
    Lift(Lift),
}

/// `lock set`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).multiple(true).args(["merchant", "channel", "principal"]))]
pub(crate) struct Set {
    /// The merchant, with all its channels unless --channel names one
    #[arg(long, value_name = "NAME")]
    merchant: Option<String>,
    /// One channel: MERCHANT/CHANNEL, or the channel alone with --merchant
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// A principal, by its name in the policy
    #[arg(long, value_name = "NAME", conflicts_with_all = ["merchant", "channel"])]
    principal: Option<String>,
    /// Why
    #[arg(long, value_parser = v1::LockReason::parser())]
    reason: v1::LockReason,
    #[command(flatten)]
    change: Change,
}

/// `lock list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Lifted ones too
    #[arg(long)]
    lifted: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `lock lift`.
#[derive(Debug, Args)]
pub(crate) struct Lift {
    /// The lockdown's number, as `lock list` shows it
    #[arg(value_name = "LOCKDOWN")]
    lockdown: u32,
    #[command(flatten)]
    change: Change,
}

/// What both changes say.
#[derive(Debug, Args)]
pub(crate) struct Change {
    /// A note for other operators; sealed at rest, its hash in the log
    #[arg(long, value_name = "TEXT", value_parser = parse_note)]
    note: Option<String>,
    /// Change only if the vault is still in this epoch
    #[arg(long, value_name = "NUMBER")]
    epoch: Option<u64>,
    #[command(flatten)]
    admin: AdminOptions,
}

pub(crate) fn parse_note(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.len() > MAX_NOTE {
        return Err("must have 1 to 1,024 bytes");
    }
    if pan::holds_card_number(text) {
        return Err("must not hold a card number");
    }
    Ok(text.to_owned())
}

/// A lock as it is told.
#[derive(Debug, Serialize)]
struct Lock {
    lockdown: u32,
    merchant: Option<String>,
    channel: Option<String>,
    principal: Option<String>,
    reason: String,
    note: String,
    set_by: String,
    set_at: Option<String>,
    lifted_by: Option<String>,
    lifted_at: Option<String>,
}

impl Lock {
    fn of(lock: v1::Lock) -> Self {
        use v1::lock_target::Target;
        let (merchant, channel, principal) = match lock.target.and_then(|t| t.target) {
            Some(Target::Merchant(merchant)) => (Some(merchant), None, None),
            Some(Target::Channel(at)) => (Some(at.merchant), Some(at.channel), None),
            Some(Target::Principal(principal)) => (None, None, Some(principal)),
            None => (None, None, None),
        };
        Self {
            lockdown: lock.lockdown,
            merchant,
            channel,
            principal,
            reason: wire::word::<v1::LockReason>(lock.reason),
            note: lock.note,
            set_by: lock.set_by,
            set_at: wire::moment(lock.set_at.as_ref()),
            lifted_by: Some(lock.lifted_by).filter(|by| !by.is_empty()),
            lifted_at: wire::moment(lock.lifted_at.as_ref()),
        }
    }

    fn on(&self) -> String {
        match (&self.merchant, &self.channel, &self.principal) {
            (Some(merchant), Some(channel), _) => format!("channel {merchant}/{channel}"),
            (Some(merchant), None, _) => format!("merchant {merchant}"),
            (None, _, Some(principal)) => format!("principal {principal}"),
            (None, _, None) => "-".to_owned(),
        }
    }

    fn cells(&self) -> [String; 7] {
        let lifted = match (&self.lifted_by, &self.lifted_at) {
            (Some(by), at) => format!("{} by {by}", at.as_deref().unwrap_or("-")),
            (None, _) => "in force".to_owned(),
        };
        [
            self.lockdown.to_string(),
            self.on(),
            self.reason.clone(),
            self.set_at.clone().unwrap_or_else(|| "-".to_owned()),
            self.set_by.clone(),
            lifted,
            self.note.clone(),
        ]
    }
}

#[derive(Serialize)]
struct Changed {
    lock: Option<Lock>,
    epoch: u64,
    receipt: Option<ReceiptText>,
}

impl Changed {
    fn of(lock: Option<v1::Lock>, epoch: u64, receipt: Option<&v1::Receipt>) -> Self {
        Self { lock: lock.map(Lock::of), epoch, receipt: receipt.and_then(|r| ReceiptText::of(r, &[])) }
    }

    fn words(&self, done: &str) -> String {
        let lock =
            self.lock.as_ref().map_or_else(String::new, |l| format!("lockdown {} on {}", l.lockdown, l.on()));
        format!("{lock} is {done} since epoch {}", self.epoch)
    }
}

/// Does what the command line says.
pub(crate) fn run(command: LockCommand, out: Out) -> Result<(), Failure> {
    dial::run(async {
        match command {
            LockCommand::Set(asked) => set(asked, out).await,
            LockCommand::List(asked) => list(asked, out).await,
            LockCommand::Lift(asked) => lift(asked, out).await,
        }
    })
}

fn target(
    merchant: Option<String>,
    channel: Option<String>,
    principal: Option<String>,
) -> Result<v1::LockTarget, Failure> {
    use v1::lock_target::Target;
    let target = match (merchant, channel, principal) {
        (merchant, Some(channel), _) => {
            let (merchant, channel) = wire::place(&channel, merchant)?;
            Some(Target::Channel(v1::ChannelRef { merchant, channel }))
        }
        (Some(merchant), None, _) => Some(Target::Merchant(merchant)),
        (None, None, Some(principal)) => Some(Target::Principal(principal)),
        (None, None, None) => None,
    };
    Ok(v1::LockTarget { target })
}

async fn set(asked: Set, out: Out) -> Result<(), Failure> {
    let Set { merchant, channel, principal, reason, change: Change { note, epoch, admin } } = asked;
    let target = target(merchant, channel, principal)?;
    let vault = admin.connect().await?;
    let request = v1::SetLockRequest {
        header: Some(ask::change(epoch)),
        target: Some(target),
        reason: reason.into(),
        note: note.unwrap_or_default(),
    };
    let answer = vault.set_lock(request).await?;
    let changed = Changed::of(answer.lock, answer.epoch, answer.receipt.as_ref());
    out.tell(&changed, |changed| changed.words("in force"))
}

async fn list(asked: List, out: Out) -> Result<(), Failure> {
    let List { lifted, admin } = asked;
    let vault = admin.connect().await?;
    let mut locks = Vec::new();
    let mut request =
        v1::ListLocksRequest { include_lifted: lifted, page_size: PAGE, page_token: String::new() };
    loop {
        let page = vault.list_locks(request.clone()).await?;
        locks.extend(page.locks.into_iter().map(Lock::of));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let headers = ["LOCKDOWN", "ON", "REASON", "SET", "BY", "LIFTED", "NOTE"];
    out.tell_table(&locks, headers, Lock::cells, "there are no locks")
}

async fn lift(asked: Lift, out: Out) -> Result<(), Failure> {
    let Lift { lockdown, change: Change { note, epoch, admin } } = asked;
    let vault = admin.connect().await?;
    let request =
        v1::LiftLockRequest { header: Some(ask::change(epoch)), lockdown, note: note.unwrap_or_default() };
    let answer = vault.lift_lock(request).await?;
    let changed = Changed::of(answer.lock, answer.epoch, answer.receipt.as_ref());
    out.tell(&changed, |changed| changed.words("lifted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_what_is_locked_and_shown() {
        let s = |text: &str| Some(text.to_owned());
        for (merchant, channel, principal, on) in [
            (s("shop"), None, None, "merchant shop"),
            (s("shop"), s("web"), None, "channel shop/web"),
            (None, s("shop/web"), None, "channel shop/web"),
            (None, None, s("till"), "principal till"),
        ] {
            let target = target(merchant, channel, principal).unwrap();
            let lock = v1::Lock { target: Some(target), ..v1::Lock::default() };
            assert_eq!(Lock::of(lock).on(), on);
        }
        assert!(target(None, s("web"), None).is_err() && target(s("shop"), s("shop/web"), None).is_err());
    }

    #[test]
    fn a_note_is_bounded_and_holds_no_card_number() {
        for (note, good) in [
            ("ticket 4711", true),
            ("", false),
            (&"x".repeat(1_025), false),
            ("card 4111 1111 1111 1111", false),
        ] {
            assert_eq!(parse_note(note).is_ok(), good, "{note}");
        }
    }
}
