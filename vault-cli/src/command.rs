//! The command line: which commands there are, and what goes wrong before one runs.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use vault_server::memory;

use crate::audit::{self, AuditCommand};
use crate::certs::{self, CertsCommand};
use crate::custodian::{self, CustodianCommand};
use crate::demo::{self, DemoArgs};
use crate::dial::SOURCES;
use crate::export::{self, Export};
use crate::fail::{self, Exit, Failure};
use crate::format::{self, FormatCommand};
use crate::import::{self, Import};
use crate::init::{self, Init};
use crate::input;
use crate::keys::{self, KeysCommand};
use crate::lock::{self, LockCommand};
use crate::output::{self, Out};
use crate::policy::{self, PolicyCommand};
use crate::recipient::{self, RecipientCommand};
use crate::serve::{self, Serve};
use crate::store::{self, StoreCommand};
use crate::token::{self, TokenCommand};

/// Where the exit codes are told.
const AFTER: &str = "\
Exit codes: 0 done, 1 refused, 2 failed, 64 wrong use. Errors are one line on standard error.\n\n\
Examples:\n  \
  vaultctl demo\n  \
  vaultctl init --folder vault --passphrase-file passphrase --policy policy.toml --settings vault.toml\n  \
  vaultctl serve --settings vault.toml\n  \
  vaultctl token tokenize --profile web.toml < cards.csv\n  \
  vaultctl audit verify --profile ops.toml --log-key log.vkey";

/// The operator's tool of the payment token vault.
#[derive(Debug, Parser)]
#[command(name = "vaultctl", version, about, after_help = AFTER, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// Answer in JSON: one document, or one per line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell the vault's story on a real server, in a fresh folder
    Demo(DemoArgs),
    /// Make a vault in a folder
    Init(Init),
    /// Serve a vault
    Serve(Serve),
    /// Swap cards for tokens, and ask about tokens
    #[command(subcommand, after_help = SOURCES)]
    Token(TokenCommand),
    /// Take cards in from a file, with the tokens that they have had elsewhere
    #[command(after_help = concat!("It may be killed and run again: it goes on where it was. Cards are told by line number, never by \
        content. The principal needs a rule with import = true.\n\nExamples:\n  \
        vaultctl import cards.csv --profile import.toml --out tokens.csv\n  \
        vaultctl import export.jsonl --profile import.toml --preset stripe --out tokens.csv --rate 2000\n  \
        vaultctl import old.csv --profile import.toml --column number=pan --column expiry=exp --new-tokens --out tokens.csv"))]
    Import(Box<Import>),
    /// Give the cards of a list of tokens to a registered recipient, sealed, each beside its token
    #[command(after_help = concat!("It may be killed and run again: it goes on where it was. No card number is in any of its files. \
        The principal needs a rule for detokenize that names the purpose export.\n\nExamples:\n  \
        vaultctl export tokens.txt --profile export.toml --to newbank --out sealed.jsonl\n  \
        vaultctl export customers.csv --profile export.toml --column token --to newbank --out sealed.jsonl --rate 2000\n  \
        vaultctl recipient open --key newbank.key --merchant acme --recipient newbank --file sealed.jsonl --out cards.csv"))]
    Export(Box<Export>),
    /// List and rotate keys
    #[command(subcommand, after_help = SOURCES)]
    Keys(KeysCommand),
    /// Stop a merchant, a channel or a principal
    #[command(subcommand, after_help = SOURCES)]
    Lock(LockCommand),
    /// Show, check and change the policy
    #[command(subcommand, after_help = SOURCES)]
    Policy(PolicyCommand),
    /// Work out what a token format can do before it is in force
    #[command(subcommand, after_help = SOURCES)]
    Format(FormatCommand),
    /// Read, verify and prove the audit log
    #[command(subcommand, after_help = SOURCES)]
    Audit(AuditCommand),
    /// Be one to whom cards are sealed: make keys, open cards
    #[command(subcommand)]
    Recipient(RecipientCommand),
    /// Look after a vault's folder without a server
    #[command(
        subcommand,
        after_help = "Example:\n  vaultctl store verify --folder vault --passphrase-file passphrase"
    )]
    Store(StoreCommand),
    /// Say who opens a stopped vault, and put another passphrase in its place
    #[command(subcommand)]
    Custodian(CustodianCommand),
    /// Make, revoke and list development certificates
    #[command(
        subcommand,
        after_help = "Examples:\n  vaultctl certs create-ca shop\n  vaultctl certs issue --ca shop web --uri spiffe://shop/web\n  \
            vaultctl certs inventory certs"
    )]
    Certs(CertsCommand),
    /// Print a shell's completions
    #[command(after_help = "Examples:\n  vaultctl completions bash > /etc/bash_completion.d/vaultctl\n  \
        vaultctl completions zsh > ~/.zfunc/_vaultctl\n  vaultctl completions fish > ~/.config/fish/completions/vaultctl.fish")]
    Completions {
        /// Which shell
        #[arg(value_parser = clap::builder::EnumValueParser::<Shell>::new())]
        shell: Shell,
    },
}

/// Does what the command line says, and gives the exit code.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(&format!("vaultctl: {failure}"));
            ExitCode::from(match failure.exit() {
                Exit::Refused => 1,
                Exit::Failed => 2,
                Exit::Usage => 64,
            })
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<(), Failure> {
    // Before anything secret is read: most commands see a card number, a passphrase or a key.
    memory::forbid_core_images().map_err(|e| {
        Failure::failed(format_args!("core images cannot be forbidden: {e}; see this process's limits"))
    })?;
    let texts: Vec<String> = arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    input::refuse_cards_in(&texts)?;
    let Cli { json, command } = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return told(&error),
    };
    let out = Out::new(json);
    match command {
        Command::Demo(args) => demo::run(&DemoArgs { json, ..args }),
        Command::Init(asked) => init::run(&asked, out),
        Command::Serve(asked) => serve::run(&asked, out),
        Command::Token(command) => token::run(command, out),
        Command::Import(asked) => import::run(&asked, out),
        Command::Export(asked) => export::run(&asked, out),
        Command::Keys(command) => keys::run(command, out),
        Command::Lock(command) => lock::run(command, out),
        Command::Policy(command) => policy::run(command, out),
        Command::Format(command) => format::run(command, out),
        Command::Audit(command) => audit::run(command, out),
        Command::Recipient(command) => recipient::run(command, out),
        Command::Store(command) => store::run(command, out),
        Command::Custodian(command) => custodian::run(command, out),
        Command::Certs(command) => certs::run(command, out),
        Command::Completions { shell } => completions(shell),
    }
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vaultctl", &mut script);
    output::write(&script)
}

/// Help that was asked for is an answer; all else is one line on standard error.
fn told(error: &clap::Error) -> Result<(), Failure> {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => output::write(text.as_bytes()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let usage =
                text.lines().find(|line| line.starts_with("Usage:")).unwrap_or("Usage: vaultctl [COMMAND]");
            Err(Failure::usage(format_args!("a command is missing; {usage}; try --help")))
        }
        _ => {
            let what = text.strip_prefix("error: ").unwrap_or(&text);
            let what = what.split("\n\nUsage:").next().unwrap_or(what);
            let what = what.split("\n\nFor more information").next().unwrap_or(what);
            let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
            // clap repeats what it was given, and what it was given may be a mistyped card number.
            Err(Failure::usage(format_args!("{}; try --help", fail::without_long_numbers(&what))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_in_its_help() {
        fn look(command: &clap::Command, path: &str) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let group = command.has_subcommands();
            assert!(group || help.contains("Example"), "{path} has no example");
            for line in help.lines().map(str::trim).filter(|line| line.starts_with("vaultctl ")) {
                let words = line.split(['<', '>', '\\']).next().unwrap_or_default();
                let words = words.replace("'ticket 4711'", "note").replace("'card reader replaced'", "note");
                assert!(
                    Cli::try_parse_from(words.split_whitespace()).is_ok() || line.ends_with('\\'),
                    "{line}"
                );
            }
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                look(sub, &format!("{path} {}", sub.get_name()));
            }
        }
        look(&Cli::command(), "vaultctl");
    }

    #[test]
    fn no_positional_argument_takes_a_card_number() {
        fn look(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                assert!(
                    !matches!(name, "pan" | "card" | "number" | "cards" if argument.is_positional()),
                    "{name}"
                );
            }
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }
}
