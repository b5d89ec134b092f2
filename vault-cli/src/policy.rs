//! `vaultctl policy`: what is in force, what a file would change, and why a request is allowed or not.
//!
//! `check` needs no vault. `apply` shows what changes and asks first, and changes only what was shown: if another operator
//! was quicker, nothing happens.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use vault_client::{ask, v1};
use vault_core::network::Networks;
use vault_core::policy::Policy;
use vault_core::token::Token;

use crate::dial::{self, AdminOptions};
use crate::fail::Failure;
use crate::input;
use crate::output::{self, Out};
use crate::wire::{self, ReceiptText, Words};

/// The subcommands of `vaultctl policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Print the policy in force, as a file that `policy apply` takes
    #[command(after_help = "Examples:\n  vaultctl policy show --profile ops.toml > policy.toml\n  \
        vaultctl --json policy show --profile ops.toml")]
    Show(Show),
    /// Say what a file would change; changes nothing
    #[command(after_help = "Example:\n  vaultctl policy diff --profile ops.toml policy.toml")]
    Diff(Diff),
    /// Say what is wrong with a file; needs no vault
    #[command(
        after_help = "Exit code 1: the file would not be taken.\n\nExample:\n  vaultctl policy check policy.toml"
    )]
    Check(Check),
    /// Put a file in force, whole or not at all
    #[command(
        after_help = "Shows what changes and asks; --yes does not ask. Only what was shown is changed: if the vault's \
        policy changed meanwhile, nothing happens.\n\nExamples:\n  \
        vaultctl policy apply --profile ops.toml policy.toml\n  \
        vaultctl policy apply --profile ops.toml policy.toml --yes --epoch 12"
    )]
    Apply(Apply),
    /// Say how a request would be decided, and by which rules; discloses nothing
    #[command(after_help = "Examples:\n  \
        vaultctl policy explain --profile ops.toml gateway detokenize shop/web --purpose authorization --form plain\n  \
        vaultctl --json policy explain --profile ops.toml till-7 tokenize till --merchant shop")]
    Explain(Explain),
}

/// `policy show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    admin: AdminOptions,
}

/// `policy diff`.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The policy as TOML; - is standard input
    file: PathBuf,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `policy check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The policy as TOML; - is standard input
    file: PathBuf,
}

/// `policy apply`.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The policy as TOML
    file: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Apply only if the vault is still in this epoch, as `policy diff` named it
    #[arg(long, value_name = "NUMBER")]
    epoch: Option<u64>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// `policy explain`.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Who would ask, by name in the policy
    principal: String,
    /// What they would do
    #[arg(value_parser = v1::Action::parser())]
    action: v1::Action,
    /// Where: MERCHANT/CHANNEL, or the channel alone with --merchant
    channel: String,
    /// The channel's merchant
    #[arg(long, value_name = "NAME")]
    merchant: Option<String>,
    /// What for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    /// Set off by whom
    #[arg(long, value_parser = v1::Initiator::parser(), default_value = "cardholder")]
    initiator: v1::Initiator,
    /// In which form a card would be shown; else whichever the rules allow
    #[arg(long, value_parser = v1::RevealForm::parser())]
    form: Option<v1::RevealForm>,
    /// To which recipient, with `--form sealed_to_recipient`
    #[arg(long, value_name = "NAME")]
    recipient: Option<String>,
    /// With which token; else as far as it can be decided without one
    #[arg(long)]
    token: Option<String>,
    #[command(flatten)]
    admin: AdminOptions,
}

/// Does what the command line says.
pub(crate) fn run(command: PolicyCommand, out: Out) -> Result<(), Failure> {
    match command {
        PolicyCommand::Check(asked) => check(&asked, out),
        PolicyCommand::Show(Show { admin }) => dial::run(show(admin, out)),
        PolicyCommand::Diff(asked) => dial::run(diff(asked, out)),
        PolicyCommand::Apply(asked) => dial::run(apply(asked, out)),
        PolicyCommand::Explain(asked) => dial::run(explain(asked, out)),
    }
}

fn check(asked: &Check, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Checked {
        good: bool,
        problem: Option<String>,
        merchants: usize,
        channels: usize,
        principals: usize,
        operators: usize,
        rules: usize,
        warnings: Vec<String>,
    }
    let text = input::small_text(&asked.file)?;
    let read = Policy::from_toml(&text);
    let read = read.and_then(|p| p.check_prefixes(&Networks::builtin()).map(|()| p));
    let (policy, problem) = match read {
        Ok(policy) => (policy, None),
        Err(error) => (Policy::default(), Some(crate::fail::quiet(&error.to_string()))),
    };
    let checked = Checked {
        good: problem.is_none(),
        merchants: policy.merchants.len(),
        channels: policy.merchants.iter().map(|m| m.channels.len()).sum(),
        principals: policy.principals.len(),
        operators: policy.operators.len(),
        rules: policy.rules.len(),
        warnings: policy.doubts().into_iter().map(|(path, what)| format!("{path}: {what}")).collect(),
        problem,
    };
    if let Some(problem) = &checked.problem {
        if out.is_json() {
            out.tell(&checked, |_| String::new())?;
        }
        return Err(Failure::refused(format_args!("{problem}; correct {}", asked.file.display())));
    }
    if !out.is_json() {
        checked.warnings.iter().for_each(|warning| output::note(&format!("warning: {warning}")));
    }
    out.tell(&checked, |c| {
        format!(
            "good: {} merchants, {} channels, {} principals, {} operators, {} rules",
            c.merchants, c.channels, c.principals, c.operators, c.rules
        )
    })
}

async fn show(admin: AdminOptions, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Shown {
        toml: String,
        epoch: u64,
        applied_by: String,
        applied_at: Option<String>,
    }
    let answer = admin.connect().await?.get_policy(v1::GetPolicyRequest {}).await?;
    let shown = Shown {
        toml: answer.toml,
        epoch: answer.epoch,
        applied_by: answer.applied_by,
        applied_at: wire::moment(answer.applied_at.as_ref()),
    };
    // A comment, so that what is printed is a policy file.
    out.tell(&shown, |s| {
        let by =
            if s.applied_by.is_empty() { String::new() } else { format!(", applied by {}", s.applied_by) };
        let at = s.applied_at.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
        format!("# epoch {}{by}{at}\n{}", s.epoch, s.toml)
    })
}

/// One change, as it is told.
#[derive(Debug, Serialize)]
struct Change {
    path: String,
    before: String,
    after: String,
    widens: bool,
}

impl Change {
    fn of(change: v1::PolicyChange) -> Self {
        Self { path: change.path, before: change.before, after: change.after, widens: change.widens }
    }
}

#[derive(Debug, Serialize)]
struct Changes {
    #[serde(rename = "changes")]
    rows: Vec<Change>,
    epoch: u64,
    receipt: Option<ReceiptText>,
}

impl Changes {
    fn of(changes: Vec<v1::PolicyChange>, epoch: u64, receipt: Option<&v1::Receipt>) -> Self {
        let receipt = receipt.and_then(|r| ReceiptText::of(r, &[]));
        Self { rows: changes.into_iter().map(Change::of).collect(), epoch, receipt }
    }

    /// As a patch shows it, without the lines that stay: a path, what goes, what comes; an exclamation mark where somebody may do or see more.
    fn words(&self) -> String {
        let mut text = String::new();
        for change in &self.rows {
            let mark = if change.widens { "! " } else { "" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{mark}{}", change.path);
            for (sign, toml, other) in
                [("-", &change.before, &change.after), ("+", &change.after, &change.before)]
            {
                for line in toml.lines().filter(|line| !other.lines().any(|same| same == *line)) {
                    let _ = writeln!(text, "  {sign} {line}");
                }
            }
        }
        if self.rows.is_empty() {
            text.push_str("no change\n");
        }
        text
    }
}

async fn diff(asked: Diff, out: Out) -> Result<(), Failure> {
    let toml = input::small_text(&asked.file)?;
    let answer = asked.admin.connect().await?.diff_policy(v1::DiffPolicyRequest { toml }).await?;
    let changes = Changes::of(answer.changes, answer.epoch, None);
    out.tell(&changes, |c| format!("{}against epoch {}", c.words(), c.epoch))
}

async fn apply(asked: Apply, out: Out) -> Result<(), Failure> {
    let Apply { file, yes, epoch, admin } = asked;
    if !yes && !io::stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal to ask at; look at `policy diff`, then give --yes"));
    }
    let toml = input::small_text(&file)?;
    let vault = admin.connect().await?;
    let seen = vault.diff_policy(v1::DiffPolicyRequest { toml: toml.clone() }).await?;
    if !yes {
        let changes = Changes::of(seen.changes, seen.epoch, None);
        output::note_text(&changes.words());
        if !agreed("Put this in force? [y/N] ")? {
            return Err(Failure::refused("not agreed; nothing was changed"));
        }
    }
    let header = ask::change(Some(epoch.unwrap_or(seen.epoch)));
    let answer = vault.apply_policy(v1::ApplyPolicyRequest { header: Some(header), toml }).await?;
    let changes = Changes::of(answer.changes, answer.epoch, answer.receipt.as_ref());
    out.tell(&changes, |c| {
        // Who was asked has seen it.
        let shown = if yes { c.words() } else { String::new() };
        format!("{shown}in force since epoch {}", c.epoch)
    })
}

fn agreed(question: &str) -> Result<bool, Failure> {
    output::ask(question);
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn explain(asked: Explain, out: Out) -> Result<(), Failure> {
    let Explain { principal, action, channel, merchant, purpose, initiator, form, recipient, token, admin } =
        asked;
    let (merchant, channel) = wire::place(&channel, merchant)?;
    let token = token.map(|text| Token::parse(&text)).transpose();
    let token = token.map_err(|rule| Failure::usage(format_args!("--token {rule}")))?;
    let request = v1::ExplainPolicyRequest {
        principal,
        action: action.into(),
        merchant,
        channel,
        purpose: purpose.into(),
        initiator: initiator.into(),
        token: token.map(|t| t.as_str().to_owned()).unwrap_or_default(),
        form: form.unwrap_or(v1::RevealForm::Unspecified).into(),
        recipient: recipient.unwrap_or_default(),
    };
    let answer = admin.connect().await?.explain_policy(request).await?;
    out.tell(&Explained::of(answer), Explained::words)
}

#[derive(Serialize)]
struct Explained {
    decision: String,
    reason: Option<String>,
    shown: String,
    token_state: String,
    epoch: u64,
    rules: Vec<Verdict>,
}

#[derive(Serialize)]
struct Verdict {
    rule: String,
    effect: String,
    matches: bool,
    unmet: Option<String>,
}

impl Explained {
    fn of(answer: v1::ExplainPolicyResponse) -> Self {
        let some = |text: String| Some(text).filter(|t| !t.is_empty());
        let verdict = |v: v1::RuleVerdict| Verdict {
            rule: v.rule,
            effect: wire::word::<v1::Decision>(v.effect),
            matches: v.matches,
            unmet: some(v.unmet),
        };
        Self {
            decision: wire::word::<v1::Decision>(answer.decision),
            reason: some(answer.reason),
            shown: wire::word::<v1::Shown>(answer.shown),
            token_state: wire::word::<v1::TokenState>(answer.token_state),
            epoch: answer.epoch,
            rules: answer.rules.into_iter().map(verdict).collect(),
        }
    }

    fn words(&self) -> String {
        let mut text = self.decision.clone();
        if let Some(reason) = &self.reason {
            text = text + ": " + reason;
        }
        let _ = writeln!(text, " (shows {}, token {}, epoch {})", self.shown, self.token_state, self.epoch);
        if self.rules.is_empty() {
            return text + "no rule was looked at";
        }
        let rows = self.rules.iter().map(|v| {
            let matches = if v.matches { "matches".to_owned() } else { "does not match".to_owned() };
            [v.rule.clone(), v.effect.clone(), matches, v.unmet.clone().unwrap_or_default()]
        });
        text + &output::table(["RULE", "EFFECT", "HERE", "UNMET"], rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_as_what_goes_and_what_comes_and_whether_it_widens() {
        let change = v1::PolicyChange {
            path: "rule.gateway".into(),
            before: "id = \"gateway\"\nshow = \"masked\"".into(),
            after: "id = \"gateway\"\nshow = \"full\"\npurposes = [\"dispute\"]".into(),
            widens: true,
        };
        let changes = Changes::of(vec![change], 7, None);
        assert_eq!(
            changes.words(),
            "! rule.gateway\n  - show = \"masked\"\n  + show = \"full\"\n  + purposes = [\"dispute\"]\n"
        );
        assert_eq!(Changes::of(Vec::new(), 7, None).words(), "no change\n");
    }
}
