//! `vaultctl token`: cards in, tokens out, and what is known of a token.
//!
//! A card number is shown to a person at a terminal who says what for, and to nothing else: not to a pipe, not to a file.
//! Cards come from standard input, a file or a hidden prompt.

pub(crate) mod upgrade;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use data_encoding::BASE64;
use serde::Serialize;
use uuid::Uuid;
use vault_client::{Batch, ClientError, Outcome, ask, chunk_request_id, v1};
use vault_core::pan::{self, CardExpiry};
use zeroize::Zeroizing;

use self::upgrade::Upgrade;
use crate::dial::{self, Dialled, VaultOptions};
use crate::fail::{Exit, Failure, exit_of};
use crate::input::{self, Card, Line};
use crate::output::{self, Out};
use crate::values::{self, Given, PlainValue, ShownData};
use crate::wire::{self, ReceiptText, Shown, Words};

/// Items that are sent at once where the vault does not say: the contract's batch.
const CHUNK: usize = 1_000;

/// The most tokens on one command line; more come from a file.
const MAX_ARGUMENTS: usize = 1_000;

/// The subcommands of `vaultctl token`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Swap cards, or values of another kind, for tokens
    #[command(after_help = concat!("Cards are read from --file, from standard input, or asked for without being shown: one \
        per line, number[,expiry[,anything]]. They are never taken from the command line.\n\nOther kinds, one per line: \
        network_token number,expiry[,requestor id[,last four of the card[,payment account reference]]]; reference \
        text[,payment account reference]; us_account routing number,account number; iban, digits, phone and email the \
        value. Of bytes the whole input is one value.\n\nExamples:\n  \
        vaultctl token tokenize --profile web.toml\n  \
        vaultctl token tokenize --profile web.toml --file cards.csv --format opaque\n  \
        vaultctl token tokenize --profile debit.toml --kind iban --file ibans.txt\n  \
        vaultctl token tokenize --profile web.toml --sealed --file sealed.jsonl\n  \
        vaultctl --json token tokenize --profile web.toml < cards.csv > tokens.jsonl"))]
    Tokenize(Tokenize),
    /// Show a token's card masked, or at a terminal and with a purpose in full
    #[command(
        after_help = "The card number is shown only with --reveal and --purpose, and only on a terminal.\n\nExamples:\n  \
        vaultctl token detokenize --profile web.toml 4111119773421111\n  \
        vaultctl token detokenize --profile gateway.toml --reveal --purpose dispute 4111119773421111\n  \
        vaultctl --json token detokenize --profile gateway.toml --to acquirer 4111119773421111"
    )]
    Detokenize(Detokenize),
    /// Show what is known of tokens, without their card numbers
    #[command(after_help = "Examples:\n  \
        vaultctl token inspect --profile web.toml 4111119773421111\n  \
        vaultctl --json token inspect --profile web.toml --file tokens.txt")]
    Inspect(Inspect),
    /// End tokens, on one channel or on all; it cannot be undone
    #[command(after_help = "Examples:\n  \
        vaultctl token revoke --profile web.toml --everywhere 4111119773421111\n  \
        vaultctl token revoke --profile web.toml --on till --file tokens.txt")]
    Revoke(Revoke),
    /// Show the public key that cards for this channel are sealed to
    #[command(
        after_help = "Whoever has it can encrypt a card that only the vault reads; docs/format.md says how.\n\nExamples:\n  \
        vaultctl token sealing-key --profile web.toml\n  \
        vaultctl --json token sealing-key --profile web.toml > sealing-key.json"
    )]
    SealingKey(SealingKey),
    /// Have the vault send a request with cards in it to a destination of its settings
    #[command(
        after_help = "The body has {{ token:TOKEN | number }} where a card number is to be; also first_six, last_four, \
        expiry_mm, expiry_yy and expiry_yyyy. The answer comes back with card numbers masked.\n\nExample:\n  \
        vaultctl token forward --profile gateway.toml --to psp --path /v1/charges --header content-type=application/json --file charge.json"
    )]
    Forward(Forward),
    /// Stop tokens from working until they are enabled
    #[command(after_help = "Examples:\n  \
        vaultctl token disable --profile care.toml 4111119773421111\n  \
        vaultctl token disable --profile care.toml --file tokens.txt")]
    Disable(Standing),
    /// Let disabled tokens work again
    #[command(after_help = "Examples:\n  \
        vaultctl token enable --profile care.toml 4111119773421111\n  \
        vaultctl token enable --profile care.toml --file tokens.txt")]
    Enable(Standing),
    /// Turn the vaultless tokens of a CSV file into those of the current slots
    #[command(
        after_help = "The file is read, and a new one is written with the same lines and columns. What needs no change \
        stays as it is, so it may be run again.\n\nExamples:\n  \
        vaultctl token upgrade --profile web.toml customers.csv --column token --out customers-new.csv\n  \
        vaultctl token upgrade --profile web.toml tokens.txt --out tokens-new.txt"
    )]
    Upgrade(Upgrade),
    /// Change what is known around tokens' cards; neither token nor number changes
    #[command(after_help = "Examples:\n  \
        vaultctl token update --profile care.toml --country PT --expiry 05/31 4111119773421111\n  \
        vaultctl token update --profile care.toml --agreement recurring --consented-at 2026-11-23 4111119773421111\n  \
        vaultctl token update --profile care.toml --clear card_holder --file tokens.txt")]
    Update(Box<Update>),
    /// Put another card in the place of a token's card; the token stays
    #[command(after_help = concat!("The new card is read from standard input or asked for without being shown: \
        number[,expiry]. With --file, each line is token,number[,expiry].\n\nExamples:\n  \
        vaultctl token replace --profile care.toml --reason lost 4111119773421111\n  \
        vaultctl token replace --profile care.toml --reason renewed --file reissued.csv"))]
    Replace(Replace),
    /// Show cards' public fingerprints, by which two cards are told to be one
    #[command(after_help = "Cards are read as by token tokenize.\n\nExamples:\n  \
        vaultctl token fingerprint --profile care.toml --file cards.csv\n  \
        vaultctl --json token fingerprint --profile care.toml < cards.csv")]
    Fingerprint(OfCards),
    /// End every token that cards would be given again; it cannot be undone
    #[command(after_help = "Cards are read as by token tokenize.\n\nExamples:\n  \
        vaultctl token delete-card --profile care.toml < card.csv\n  \
        vaultctl token delete-card --profile care.toml --customer c-17 --file cards.csv")]
    DeleteCard(OfCards),
    /// Make tokens of another channel or merchant for the cards of tokens, without seeing the cards
    #[command(after_help = "Examples:\n  \
        vaultctl token translate --profile bridge.toml --to-channel app 4111119773421111\n  \
        vaultctl token translate --profile bridge.toml --to-merchant zenith --to-channel web --file tokens.txt")]
    Translate(Translate),
    /// Hold a card's security code in a node's memory, to be read once
    #[command(
        after_help = "The code is asked for without being shown, or read from standard input.\n\nExample:\n  \
        vaultctl token hold-code --profile web.toml 4111119773421111"
    )]
    HoldCode(HoldCode),
    /// Show a held security code, once, at a terminal
    #[command(after_help = "Example:\n  \
        vaultctl token read-code --profile gateway.toml --ticket code-0-dadbdcdddedfdgdhdidjgbgcgdgegfgg 4111119773421111")]
    ReadCode(OfCode),
    /// Say that an authorization is over: its security code goes
    #[command(after_help = "Example:\n  \
        vaultctl token complete --profile gateway.toml --ticket code-0-dadbdcdddedfdgdhdidjgbgcgdgegfgg 4111119773421111")]
    Complete(OfCode),
    /// List a customer's tokens: masks and record names, never tokens
    #[command(after_help = "Examples:\n  \
        vaultctl token list --profile care.toml --customer c-17\n  \
        vaultctl --json token list --profile care.toml --customer c-17")]
    List(OfCustomer),
    /// End every token of a customer, for good
    #[command(after_help = "Example:\n  vaultctl token erase --profile care.toml --customer c-17")]
    Erase(OfCustomer),
}

/// What every request says about itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "Request")]
pub(crate) struct Asked {
    /// Who set the payment off
    #[arg(long, value_parser = v1::Initiator::parser(), default_value = "cardholder", hide_possible_values = false)]
    initiator: v1::Initiator,
    /// The merchant's own name for the customer
    #[arg(long, value_name = "REFERENCE")]
    customer: Option<String>,
    /// The same again: the id of the request whose answer was lost
    #[arg(long, value_name = "UUID")]
    request_id: Option<Uuid>,
    /// Keep the receipts in this new file, one per line
    #[arg(long, value_name = "FILE")]
    receipts: Option<PathBuf>,
}

/// Which tokens.
#[derive(Debug, Args)]
pub(crate) struct Tokens {
    /// The tokens
    #[arg(value_name = "TOKEN", required_unless_present = "file", conflicts_with = "file", num_args = 1..=MAX_ARGUMENTS)]
    tokens: Vec<String>,
    /// A file of tokens, one per line; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// `token tokenize`.
#[derive(Debug, Args)]
pub(crate) struct Tokenize {
    /// A file of cards, number[,expiry[,anything]] per line, or of values of --kind; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What kind of values they are
    #[arg(long, value_parser = v1::DataKind::parser(), default_value = "card")]
    kind: v1::DataKind,
    /// The lines are sealed cards as JSON: `key_id`, and enc and ciphertext in base64
    #[arg(long, conflicts_with = "expiry")]
    sealed: bool,
    /// The date on the cards that come without one, MM/YY
    #[arg(long, value_name = "MM/YY", value_parser = parse_expiry)]
    expiry: Option<CardExpiry>,
    /// The token format by its name in the policy; else the channel's own
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// From when on the tokens no longer work: 2026-12-31, or 2026-12-31T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = wire::parse_moment)]
    valid_until: Option<prost_types::Timestamp>,
    /// A channel that may use the tokens; may be given again; else as the format's scope says
    #[arg(long = "grant", value_name = "CHANNEL")]
    grants: Vec<String>,
    /// What the tokens' cards may be had for, and for nothing else; may be given again
    #[arg(long = "only-for", value_name = "PURPOSE", value_parser = v1::Purpose::parser())]
    only_for: Vec<v1::Purpose>,
    /// Let only requests that name the same --customer have the cards
    #[arg(long, requires = "customer")]
    bound_to_customer: bool,
    /// Let each card be had once only
    #[arg(long)]
    single_use: bool,
    /// What the cards are wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token sealing-key`.
#[derive(Debug, Args)]
pub(crate) struct SealingKey {
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token forward`.
#[derive(Debug, Args)]
pub(crate) struct Forward {
    /// The destination, by its name in the server's settings
    #[arg(long, value_name = "DESTINATION")]
    to: String,
    /// POST, PUT or PATCH
    #[arg(long, default_value = "POST")]
    method: String,
    /// Path and query
    #[arg(long)]
    path: String,
    /// A header, NAME=VALUE; may be given again
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// The body; - is standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// What the cards are wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token disable` and `token enable`.
#[derive(Debug, Args)]
pub(crate) struct Standing {
    #[command(flatten)]
    tokens: Tokens,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

fn parse_header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// `token replace`.
#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// The token
    #[arg(value_name = "TOKEN", required_unless_present = "file", conflicts_with = "file")]
    token: Option<String>,
    /// A file of tokens and their new cards, token,number[,expiry] per line; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Why
    #[arg(long, value_parser = v1::ReplaceReason::parser())]
    reason: v1::ReplaceReason,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token fingerprint` and `token delete-card`.
#[derive(Debug, Args)]
pub(crate) struct OfCards {
    /// A file of cards, one per line; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token list` and `token erase`.
#[derive(Debug, Args)]
pub(crate) struct OfCustomer {
    /// What it is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token hold-code`.
#[derive(Debug, Args)]
pub(crate) struct HoldCode {
    /// The token
    #[arg(value_name = "TOKEN")]
    token: String,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token read-code` and `token complete`.
#[derive(Debug, Args)]
pub(crate) struct OfCode {
    /// The token
    #[arg(value_name = "TOKEN")]
    token: String,
    /// The ticket, as hold-code gave it
    #[arg(long, value_name = "TICKET")]
    ticket: String,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token translate`.
#[derive(Debug, Args)]
pub(crate) struct Translate {
    #[command(flatten)]
    tokens: Tokens,
    /// The channel that the new tokens are made on
    #[arg(long, value_name = "CHANNEL")]
    to_channel: String,
    /// The merchant whose they are; else the same
    #[arg(long, value_name = "MERCHANT")]
    to_merchant: Option<String>,
    /// The token format by its name there; else that channel's own
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// The customer by that merchant's own name
    #[arg(long, value_name = "REFERENCE", value_parser = no_card)]
    to_customer: Option<String>,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    tokens: Tokens,
    /// The date on the cards, MM/YY
    #[arg(long, value_name = "MM/YY", value_parser = parse_expiry)]
    expiry: Option<CardExpiry>,
    /// The card holder's name
    #[arg(long, value_name = "NAME", value_parser = no_card)]
    holder: Option<String>,
    /// The billing address's country, two letters
    #[arg(long, value_name = "COUNTRY")]
    country: Option<String>,
    /// The payment account reference, 29 characters
    #[arg(long, value_name = "PAR", value_parser = no_card)]
    par: Option<String>,
    /// What the card holder agreed to
    #[arg(long, value_parser = v1::AgreementType::parser(), requires = "consented_at")]
    agreement: Option<v1::AgreementType>,
    /// When: 2026-11-23, or 2026-11-23T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = wire::parse_moment, requires = "agreement")]
    consented_at: Option<prost_types::Timestamp>,
    /// A network's id of a transaction; may be given again
    #[arg(long = "transaction", value_name = "NETWORK=ID", value_parser = parse_pair)]
    transactions: Vec<(String, String)>,
    /// What a processor calls the card; may be given again
    #[arg(long = "processor", value_name = "PROCESSOR=REFERENCE", value_parser = parse_pair)]
    processors: Vec<(String, String)>,
    /// A field that is emptied first, such as par; may be given again
    #[arg(long, value_name = "FIELD")]
    clear: Vec<String>,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token detokenize`.
#[derive(Debug, Args)]
pub(crate) struct Detokenize {
    #[command(flatten)]
    tokens: Tokens,
    /// Show the card number: needs --purpose, and a terminal
    #[arg(long, requires = "purpose")]
    reveal: bool,
    /// Give the card sealed to this recipient, by its name in the policy
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "reveal")]
    to: Option<String>,
    /// The card that the token stood for then, for refund and dispute: 2026-11-23, or 2026-11-23T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = wire::parse_moment)]
    as_of: Option<prost_types::Timestamp>,
    /// What the card is wanted for; authorization unless said
    #[arg(long, value_parser = v1::Purpose::parser())]
    purpose: Option<v1::Purpose>,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    tokens: Tokens,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

/// `token revoke`.
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    tokens: Tokens,
    /// End them on all channels, for good
    #[arg(long, required_unless_present = "on", conflicts_with = "on")]
    everywhere: bool,
    /// End them on this channel only
    #[arg(long, value_name = "CHANNEL")]
    on: Option<String>,
    /// What the card is wanted for
    #[arg(long, value_parser = v1::Purpose::parser(), default_value = "authorization")]
    purpose: v1::Purpose,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    vault: VaultOptions,
}

fn no_card(text: &str) -> Result<String, &'static str> {
    if pan::holds_card_number(text) { Err("must not hold a card number") } else { Ok(text.to_owned()) }
}

fn parse_pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_expiry(text: &str) -> Result<CardExpiry, vault_core::pan::ExpiryError> {
    CardExpiry::parse(text)
}

/// Does what the command line says.
pub(crate) fn run(command: TokenCommand, out: Out) -> Result<(), Failure> {
    match command {
        TokenCommand::Tokenize(asked) => tokenize(asked, out),
        TokenCommand::Detokenize(asked) => detokenize(asked, out),
        TokenCommand::Inspect(asked) => inspect(asked, out),
        TokenCommand::Revoke(asked) => revoke(asked, out),
        TokenCommand::SealingKey(asked) => sealing_key(asked, out),
        TokenCommand::Forward(asked) => forward(asked, out),
        TokenCommand::Disable(asked) => standing(asked, ask::disable, out),
        TokenCommand::Enable(asked) => standing(asked, ask::enable, out),
        TokenCommand::Upgrade(asked) => upgrade::run(asked, out),
        TokenCommand::Update(asked) => update(*asked, out),
        TokenCommand::Replace(asked) => replace(asked, out),
        TokenCommand::Fingerprint(asked) => of_cards(asked, ask::fingerprint, Told::fingerprinted, out),
        TokenCommand::DeleteCard(asked) => of_cards(asked, ask::delete_card, Told::deleted, out),
        TokenCommand::Translate(asked) => translate(asked, out),
        TokenCommand::HoldCode(asked) => hold_code(asked, out),
        TokenCommand::ReadCode(asked) => read_code(asked, out),
        TokenCommand::Complete(asked) => of_code(asked, ask::complete, Told::completed, out),
        TokenCommand::List(asked) => list(asked, out),
        TokenCommand::Erase(asked) => erase(asked, out),
    }
}

fn tokenize(command: Tokenize, out: Out) -> Result<(), Failure> {
    let Tokenize {
        file,
        kind,
        sealed,
        expiry,
        format,
        valid_until,
        grants,
        only_for,
        purpose,
        asked,
        vault,
        ..
    } = command;
    let restrictions = v1::Restrictions {
        purposes: only_for.into_iter().map(Into::into).collect(),
        bound_to_customer: command.bound_to_customer,
        single_use: command.single_use,
    };
    asked.check()?;
    let item = |card: v1::TokenizeItem| v1::TokenizeItem {
        format: format.clone().unwrap_or_default(),
        valid_until,
        channels: grants.clone(),
        restrictions: Some(restrictions.clone()),
        ..card
    };
    if sealed {
        let cards = input::sealed_cards(file.as_deref())?;
        return dial::run(async {
            let session = Session::open(vault, asked, purpose, out).await?;
            session.all(cards, |card| item(ask::sealed_card(card)), Told::tokenized).await
        });
    }
    let values = values::read(kind, file.as_deref(), expiry)?;
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(values, |given: Given| item(values::item(&given)), Told::tokenized).await
    })
}

fn forward(command: Forward, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Answered {
        status: u32,
        headers: Vec<(String, String)>,
        masked: u32,
        body: String,
        receipts: Vec<ReceiptText>,
    }
    let Forward { to, method, path, headers, file, purpose, asked, vault } = command;
    asked.check()?;
    let body = input::whole(Some(&file))?;
    dial::run(async {
        let mut session = Session::open(vault, asked, purpose, out).await?;
        let request = v1::ForwardRequest {
            header: Some(session.header.clone()),
            destination: to,
            method,
            path,
            headers: headers.into_iter().map(|(name, value)| v1::HttpHeader { name, value }).collect(),
            body: body.to_vec(),
        };
        let answer = session.at.vault.forward(request).await?;
        let receipts: Vec<ReceiptText> =
            answer.receipts.iter().filter_map(|r| ReceiptText::of(r, &[])).collect();
        if let Some(file) = &mut session.receipts {
            receipts.iter().try_for_each(|receipt| file.keep(receipt))?;
        }
        let answered = Answered {
            status: answer.status,
            headers: answer.headers.into_iter().map(|h| (h.name, h.value)).collect(),
            masked: answer.masked,
            body: String::from_utf8_lossy(&answer.body).into_owned(),
            receipts,
        };
        out.tell(&answered, |answered| {
            let headers: Vec<String> = answered.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
            let headers = headers.join("\n");
            format!(
                "status {}, {} card numbers masked\n{headers}\n{}",
                answered.status, answered.masked, answered.body
            )
        })
    })
}

fn sealing_key(command: SealingKey, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Published {
        key_id: String,
        suite: String,
        public_key: String,
        info: String,
        valid_until: Option<String>,
    }
    dial::run(async {
        let at = command.vault.connect().await?;
        let key = at.vault.sealing_key(&at.merchant, &at.channel).await?;
        let published = Published {
            key_id: key.key_id,
            suite: key.suite,
            public_key: BASE64.encode(&key.public_key),
            info: BASE64.encode(&key.info),
            valid_until: wire::moment(key.valid_until.as_ref()),
        };
        out.tell(&published, |key| {
            format!(
                "key {} of suite {}, good until {}\npublic key {}\ninfo {}",
                key.key_id,
                key.suite,
                key.valid_until.as_deref().unwrap_or("-"),
                key.public_key,
                key.info
            )
        })
    })
}

pub(crate) fn date(e: CardExpiry) -> v1::CardExpiry {
    v1::CardExpiry { month: e.month().into(), year: e.year().into() }
}

fn detokenize(command: Detokenize, out: Out) -> Result<(), Failure> {
    let Detokenize { tokens, reveal, to, as_of, purpose, asked, vault } = command;
    if reveal && !output::is_seen() {
        return Err(Failure::refused(
            "a card number is shown on a terminal only, and standard output is none; leave --reveal out to see the mask",
        ));
    }
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    let item = |token: vault_core::token::Token| {
        let item = match &to {
            Some(recipient) => ask::sealed_to(token.as_str(), recipient),
            None if reveal => ask::plain(token.as_str()),
            None => ask::masked(token.as_str()),
        };
        v1::DetokenizeItem { as_of, ..item }
    };
    dial::run(async {
        let purpose = purpose.unwrap_or(v1::Purpose::Authorization);
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, item, Told::detokenized).await
    })
}

fn inspect(command: Inspect, out: Out) -> Result<(), Failure> {
    let Inspect { tokens, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, |token| ask::look(token.as_str()), Told::inspected).await
    })
}

fn revoke(command: Revoke, out: Out) -> Result<(), Failure> {
    let Revoke { tokens, everywhere: _, on, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    let item = |token: vault_core::token::Token| match &on {
        Some(channel) => ask::end_on(token.as_str(), channel),
        None => ask::end(token.as_str()),
    };
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, item, Told::revoked).await
    })
}

fn standing<V: Verb<Result = v1::ChangeResult>>(
    command: Standing,
    item: impl Fn(&str) -> V,
    out: Out,
) -> Result<(), Failure> {
    let Standing { tokens, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, |token| item(token.as_str()), Told::changed).await
    })
}

fn replace(command: Replace, out: Out) -> Result<(), Failure> {
    let Replace { token, file, reason, purpose, asked, vault } = command;
    asked.check()?;
    let pairs = match token {
        Some(token) => input::replacement(&token)?,
        None => input::replacements(file.as_deref())?,
    };
    let item = |(token, card): (vault_core::token::Token, Card)| {
        let pan = Zeroizing::new(card.pan.expose_digits().to_vec());
        ask::replace(token.as_str(), pan, card.expiry.map(date), reason)
    };
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(pairs, item, Told::replaced).await
    })
}

fn of_cards<V: Verb>(
    command: OfCards,
    item: impl Fn(Zeroizing<Vec<u8>>) -> V,
    told: impl Fn(V::Result, &[v1::Checkpoint]) -> Told,
    out: Out,
) -> Result<(), Failure> {
    let OfCards { file, purpose, asked, vault } = command;
    asked.check()?;
    let cards = input::cards(file.as_deref(), None)?;
    let item = |card: Card| item(Zeroizing::new(card.pan.expose_digits().to_vec()));
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(cards, item, told).await
    })
}

fn hold_code(command: HoldCode, out: Out) -> Result<(), Failure> {
    let HoldCode { token, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&[token], None)?;
    let code = input::security_code()?;
    let item = |token: vault_core::token::Token| ask::hold_code(token.as_str(), code.clone());
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, item, Told::held).await
    })
}

fn read_code(command: OfCode, out: Out) -> Result<(), Failure> {
    if !output::is_seen() {
        return Err(Failure::refused(
            "a security code is shown on a terminal only, and standard output is none",
        ));
    }
    of_code(command, ask::read_code, Told::code, out)
}

fn of_code<V: Verb>(
    command: OfCode,
    item: impl Fn(&str, &str) -> V,
    told: impl Fn(V::Result, &[v1::Checkpoint]) -> Told,
    out: Out,
) -> Result<(), Failure> {
    let OfCode { token, ticket, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&[token], None)?;
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, |token| item(token.as_str(), &ticket), told).await
    })
}

fn translate(command: Translate, out: Out) -> Result<(), Failure> {
    let Translate { tokens, to_channel, to_merchant, format, to_customer, purpose, asked, vault } = command;
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    let context =
        to_customer.map(|customer_reference| v1::Context { customer_reference, ..v1::Context::default() });
    let item = |token: vault_core::token::Token| v1::TranslateItem {
        merchant: to_merchant.clone().unwrap_or_default(),
        format: format.clone().unwrap_or_default(),
        context: context.clone(),
        ..ask::translate(token.as_str(), &to_channel)
    };
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, item, Told::tokenized).await
    })
}

fn list(command: OfCustomer, out: Out) -> Result<(), Failure> {
    let OfCustomer { purpose, asked, vault } = command;
    asked.check()?;
    dial::run(async {
        let mut session = Session::open(vault, asked, purpose, out).await?;
        let mut page_token = String::new();
        loop {
            let answer = session.at.vault.list_by_subject(session.header.clone(), 0, &page_token).await;
            let v1::ListBySubjectResponse { tokens, next_page_token, receipt } =
                answer.map_err(|e| session.advised(e))?;
            for token in tokens {
                session.tell(None, Told::listed(token, receipt.as_ref()))?;
            }
            if next_page_token.is_empty() {
                return Ok(());
            }
            page_token = next_page_token;
        }
    })
}

fn erase(command: OfCustomer, out: Out) -> Result<(), Failure> {
    let OfCustomer { purpose, asked, vault } = command;
    asked.check()?;
    dial::run(async {
        let mut session = Session::open(vault, asked, purpose, out).await?;
        let answer = session.at.vault.erase_subject(session.header.clone()).await;
        let answer = answer.map_err(|e| session.advised(e))?;
        session.tell(None, Told::ended(answer.tokens, answer.receipt.as_ref(), &[]))
    })
}

fn update(command: Update, out: Out) -> Result<(), Failure> {
    let Update { tokens, expiry, holder, country, par, agreement, transactions, processors, .. } = command;
    let (clear, purpose, asked, vault) = (command.clear, command.purpose, command.asked, command.vault);
    asked.check()?;
    let tokens = input::tokens(&tokens.tokens, tokens.file.as_deref())?;
    let consented_at = command.consented_at;
    let set = v1::Attributes {
        card_holder: holder.unwrap_or_default(),
        billing_country: country.unwrap_or_default(),
        par: par.unwrap_or_default(),
        agreement: agreement.map(|kind| v1::Agreement { r#type: kind.into(), consented_at }),
        network_transactions: transactions.into_iter().collect(),
        processor_references: processors.into_iter().collect(),
    };
    let item = |token: vault_core::token::Token| v1::UpdateAttributesItem {
        token: token.as_str().to_owned(),
        card_expiry: expiry.map(date),
        set: Some(set.clone()),
        clear: clear.clone(),
        ..v1::UpdateAttributesItem::default()
    };
    dial::run(async {
        let session = Session::open(vault, asked, purpose, out).await?;
        session.all(tokens, item, Told::changed).await
    })
}

impl Asked {
    /// Refuses here what the vault would: a card number must not even travel in such a field.
    fn check(&self) -> Result<(), Failure> {
        if self.customer.as_deref().is_some_and(pan::holds_card_number) {
            return Err(Failure::usage("--customer must not hold a card number"));
        }
        Ok(())
    }
}

/// A verb as this command uses it: alone for one item, in batches for more.
trait Verb: Sized {
    type Result;
    fn with_reference(self, reference: String) -> Self;
    async fn one(self, at: &Dialled, header: v1::RequestHeader) -> Result<Self::Result, ClientError>;
    async fn many(
        items: Vec<Self>,
        at: &Dialled,
        header: v1::RequestHeader,
    ) -> Result<Batch<Self::Result>, ClientError>;
}

macro_rules! verbs {
    ($($item:ident -> $result:ident by $one:ident, $many:ident;)+) => {$(
        impl Verb for v1::$item {
            type Result = v1::$result;
            fn with_reference(self, reference: String) -> Self {
                Self { reference, ..self }
            }
            async fn one(self, at: &Dialled, header: v1::RequestHeader) -> Result<Self::Result, ClientError> {
                at.vault.$one(header, self).await
            }
            async fn many(
                items: Vec<Self>,
                at: &Dialled,
                header: v1::RequestHeader,
            ) -> Result<Batch<Self::Result>, ClientError> {
                at.vault.$many(header, items).await
            }
        }
    )+};
}

verbs! {
    TokenizeItem -> TokenizeResult by tokenize, batch_tokenize;
    DetokenizeItem -> DetokenizeResult by detokenize, batch_detokenize;
    InspectItem -> InspectResult by inspect, batch_inspect;
    RevokeItem -> RevokeResult by revoke, batch_revoke;
    ReplaceItem -> ReplaceResult by replace, batch_replace;
    HoldSecurityCodeItem -> HoldSecurityCodeResult by hold_security_code, batch_hold_security_code;
    ReadSecurityCodeItem -> ReadSecurityCodeResult by read_security_code, batch_read_security_code;
    CompleteAuthorizationItem -> CompleteAuthorizationResult by complete_authorization, batch_complete_authorization;
    TranslateItem -> TokenizeResult by translate, batch_translate;
    FingerprintItem -> FingerprintResult by fingerprint, batch_fingerprint;
    DeleteCardItem -> DeleteCardResult by delete_card, batch_delete_card;
    DisableItem -> ChangeResult by disable, batch_disable;
    EnableItem -> ChangeResult by enable, batch_enable;
    UpdateAttributesItem -> ChangeResult by update_attributes, batch_update_attributes;
}

/// One command's dealings with the vault.
struct Session {
    at: Dialled,
    header: v1::RequestHeader,
    request_id: Uuid,
    receipts: Option<Receipts>,
    out: Out,
}

impl Session {
    async fn open(
        vault: VaultOptions,
        asked: Asked,
        purpose: v1::Purpose,
        out: Out,
    ) -> Result<Self, Failure> {
        let receipts = asked.receipts.as_deref().map(Receipts::create).transpose()?;
        let at = vault.connect().await?;
        let request_id = asked.request_id.unwrap_or_else(Uuid::new_v4);
        let context = asked
            .customer
            .map(|customer_reference| v1::Context { customer_reference, ..v1::Context::default() });
        let header = v1::RequestHeader {
            request_id: request_id.to_string(),
            context,
            ..ask::header(&at.merchant, &at.channel, purpose, asked.initiator)
        };
        Ok(Self { at, header, request_id, receipts, out })
    }

    /// Sends every line that could be read, and tells each line's answer in the lines' order.
    async fn all<I, V: Verb>(
        mut self,
        lines: Vec<Line<I>>,
        item: impl Fn(I) -> V,
        told: impl Fn(V::Result, &[v1::Checkpoint]) -> Told,
    ) -> Result<(), Failure> {
        let mut tally = Tally { lines: lines.len(), ..Tally::default() };
        let limit =
            self.at.vault.capabilities().limits.as_ref().and_then(|l| usize::try_from(l.batch_items).ok());
        let chunk = limit.filter(|n| (1..CHUNK).contains(n)).unwrap_or(CHUNK);
        if let [Line { read: Ok(_), .. }] = lines.as_slice() {
            for Line { read, .. } in lines {
                let Ok(one) = read else { continue };
                let answer = item(one).one(&self.at, self.header.clone()).await;
                let answer = answer.map_err(|e| self.advised(e))?;
                self.tell(None, told(answer, &[]))?;
            }
            return Ok(());
        }
        let mut lines = lines.into_iter().peekable();
        for number in 0.. {
            if lines.peek().is_none() {
                break;
            }
            let mut unread = Vec::new();
            let mut places = Vec::new();
            let mut items = Vec::new();
            for Line { number, read } in lines.by_ref().take(chunk) {
                match read {
                    Ok(one) => {
                        places.push(number);
                        items.push(item(one).with_reference(number.to_string()));
                    }
                    Err(rule) => unread.push((number, rule)),
                }
            }
            let id = chunk_request_id(self.request_id, number);
            let header = v1::RequestHeader { request_id: id.to_string(), ..self.header.clone() };
            let batch = if items.is_empty() {
                Batch { outcomes: Vec::new(), checkpoints: Vec::new() }
            } else {
                let sent = V::many(items, &self.at, header).await;
                sent.map_err(|e| self.advised(e))?
            };
            self.tell_chunk(places, unread, batch, &told, &mut tally)?;
        }
        tally.end(self.request_id)
    }

    fn tell_chunk<T>(
        &mut self,
        places: Vec<u64>,
        unread: Vec<(u64, String)>,
        batch: Batch<T>,
        told: impl Fn(T, &[v1::Checkpoint]) -> Told,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let Batch { outcomes, checkpoints } = batch;
        let mut unread = unread.into_iter().peekable();
        for (place, Outcome { result, .. }) in places.into_iter().zip(outcomes) {
            while let Some((number, rule)) = unread.next_if(|(number, _)| *number < place) {
                self.tell_refusal(number, &rule, None, tally)?;
            }
            match result {
                Ok(answer) => self.tell(Some(place), told(answer, &checkpoints))?,
                Err(error) => {
                    tally.worst = Some(worse(tally.worst, exit_of(&error)));
                    let reason = error.reason().map(vault_client::Reason::as_str);
                    self.tell_refusal(place, &error.to_string(), reason, tally)?;
                }
            }
        }
        unread.try_for_each(|(number, rule)| self.tell_refusal(number, &rule, None, tally))
    }

    fn tell(&mut self, line: Option<u64>, told: Told) -> Result<(), Failure> {
        if let (Some(receipts), Some(receipt)) = (&mut self.receipts, &told.receipt) {
            receipts.keep(receipt)?;
        }
        self.out.tell(&Numbered { line, told }, |numbered| numbered.told.words.to_string())
    }

    fn tell_refusal(
        &self,
        line: u64,
        why: &str,
        reason: Option<&'static str>,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        tally.refused += 1;
        tally.worst = Some(worse(tally.worst, Exit::Refused));
        if self.out.is_json() {
            let error = Refused { line, error: Why { reason, message: crate::fail::quiet(why) } };
            return self.out.tell(&error, |_| String::new());
        }
        output::note(&format!("line {line}: {why}"));
        Ok(())
    }

    /// What to do where it is not known what became of a request: it is known by its id.
    fn advised(&self, error: ClientError) -> Failure {
        let unknown = exit_of(&error) == Exit::Failed;
        let failure = Failure::from(error);
        if unknown {
            failure.and(format_args!("the id is --request-id {}", self.request_id))
        } else {
            failure
        }
    }
}

fn worse(known: Option<Exit>, found: Exit) -> Exit {
    match (known, found) {
        (Some(Exit::Failed), _) | (_, Exit::Failed) => Exit::Failed,
        _ => found,
    }
}

/// What became of all lines.
#[derive(Default)]
struct Tally {
    lines: usize,
    refused: usize,
    worst: Option<Exit>,
}

impl Tally {
    fn end(self, id: Uuid) -> Result<(), Failure> {
        let Self { lines, refused, worst } = self;
        let line = format!("{refused} of {lines} lines were refused; correct them and send them again");
        match worst {
            None => Ok(()),
            Some(Exit::Failed) => Err(Failure::failed(format_args!(
                "{refused} of {lines} lines have no answer; send the whole again with --request-id {id}"
            ))),
            Some(Exit::Refused | Exit::Usage) => Err(Failure::refused(line)),
        }
    }
}

/// What a command tells of one answer.
struct Told {
    json: Answer,
    words: Zeroizing<String>,
    receipt: Option<ReceiptText>,
}

#[derive(Serialize)]
struct Numbered {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(flatten)]
    told: Told,
}

impl Serialize for Told {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            answer: &'a Answer,
            receipt: &'a Option<ReceiptText>,
        }
        Whole { answer: &self.json, receipt: &self.receipt }.serialize(to)
    }
}

#[derive(Serialize)]
struct Refused {
    line: u64,
    error: Why,
}

#[derive(Serialize)]
struct Why {
    reason: Option<&'static str>,
    message: String,
}

/// The answers' JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Tokenized {
        token: String,
        format: String,
        valid_until: Option<String>,
        novelty: String,
        #[serde(flatten)]
        seen: Seen,
    },
    Plain {
        pan: Digits,
        card_expiry: Option<String>,
    },
    Other {
        data: PlainValue,
    },
    Masked {
        #[serde(flatten)]
        seen: Seen,
    },
    Sealed {
        key_id: String,
        enc: String,
        ciphertext: String,
    },
    Inspected(Box<Inspected>),
    Replaced {
        card: Shown,
        kept_until: Option<String>,
    },
    Held {
        ticket: String,
        held_until: Option<String>,
    },
    Code {
        code: Digits,
    },
    Completed {
        completed: bool,
    },
    Fingerprint {
        fingerprint: String,
    },
    Ended {
        tokens: u32,
    },
    Listed(Box<Listed>),
    Standing {
        state: String,
        channels: Vec<String>,
    },
}

#[derive(Serialize)]
struct Inspected {
    state: String,
    scheme: String,
    format: String,
    channels: Vec<String>,
    valid_until: Option<String>,
    created_at: Option<String>,
    #[serde(flatten)]
    seen: Seen,
    restrictions: Option<Restrictions>,
    attributes: Option<Attributes>,
    earlier: Vec<Earlier>,
}

#[derive(Serialize)]
struct Listed {
    record: String,
    state: String,
    channels: Vec<String>,
    valid_until: Option<String>,
    created_at: Option<String>,
    #[serde(flatten)]
    seen: Seen,
    restrictions: Option<Restrictions>,
}

#[derive(Serialize)]
struct Earlier {
    card: Shown,
    reason: String,
    replaced_at: Option<String>,
    kept_until: Option<String>,
}

#[derive(Serialize)]
struct Restrictions {
    purposes: Vec<String>,
    bound_to_customer: bool,
    single_use: bool,
}

#[derive(Serialize)]
struct Attributes {
    card_holder: String,
    billing_country: String,
    par: String,
    agreement: Option<Agreement>,
    network_transactions: BTreeMap<String, String>,
    processor_references: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Agreement {
    kind: String,
    consented_at: Option<String>,
}

impl Restrictions {
    fn of(told: v1::Restrictions) -> Self {
        Self {
            purposes: told.purposes.into_iter().map(wire::word::<v1::Purpose>).collect(),
            bound_to_customer: told.bound_to_customer,
            single_use: told.single_use,
        }
    }

    fn words(&self) -> String {
        let only = if self.purposes.is_empty() {
            String::new()
        } else {
            format!("  only for {}", self.purposes.join(","))
        };
        let bound = if self.bound_to_customer { "  bound to its customer" } else { "" };
        let once = if self.single_use { "  once" } else { "" };
        format!("{only}{bound}{once}")
    }
}

impl Earlier {
    fn of(told: v1::EarlierCard) -> Self {
        Self {
            card: Shown::of(told.card),
            reason: wire::word::<v1::ReplaceReason>(told.reason),
            replaced_at: wire::moment(told.replaced_at.as_ref()),
            kept_until: wire::moment(told.kept_until.as_ref()),
        }
    }
}

impl Attributes {
    fn of(told: v1::Attributes) -> Self {
        Self {
            card_holder: told.card_holder,
            billing_country: told.billing_country,
            par: told.par,
            agreement: told.agreement.map(|agreed| Agreement {
                kind: wire::word::<v1::AgreementType>(agreed.r#type),
                consented_at: wire::moment(agreed.consented_at.as_ref()),
            }),
            network_transactions: told.network_transactions.into_iter().collect(),
            processor_references: told.processor_references.into_iter().collect(),
        }
    }
}

/// What may be shown: of a card as `card`, of another value as `data`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Seen {
    Card(Shown),
    Data(ShownData),
}

impl Seen {
    fn of(card: Option<v1::MaskedCard>, data: Option<v1::MaskedData>) -> Self {
        match data {
            Some(data) => Self::Data(ShownData::of(data)),
            None => Self::Card(Shown::of(card)),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Card(card) => card.words(),
            Self::Data(data) => data.words(),
        }
    }
}

/// A card number on its way to a terminal.
struct Digits(Zeroizing<Vec<u8>>);

impl Digits {
    fn expose(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Serialize for Digits {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.expose())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "one form for all verbs: each takes its answer whole")]
impl Told {
    fn new(json: Answer, words: String, receipt: Option<&v1::Receipt>, heads: &[v1::Checkpoint]) -> Self {
        let receipt = receipt.and_then(|r| ReceiptText::of(r, heads));
        Self { json, words: Zeroizing::new(words), receipt }
    }

    fn tokenized(answer: v1::TokenizeResult, heads: &[v1::Checkpoint]) -> Self {
        let seen = Seen::of(answer.card, answer.data);
        let novelty = wire::word::<v1::Novelty>(answer.novelty);
        let known = if novelty == "-" { String::new() } else { format!("  {novelty}") };
        let words = format!("{}  {}{known}", answer.token, seen.words());
        let valid_until = wire::moment(answer.valid_until.as_ref());
        let json =
            Answer::Tokenized { token: answer.token, format: answer.format, valid_until, novelty, seen };
        Self::new(json, words, answer.receipt.as_ref(), heads)
    }

    fn detokenized(answer: v1::DetokenizeResult, heads: &[v1::Checkpoint]) -> Self {
        use v1::detokenize_result::Reveal;
        let receipt = answer.receipt;
        let (json, words) = match answer.reveal {
            Some(Reveal::Plain(mut card)) => {
                let card_expiry = wire::expiry(card.card_expiry.as_ref());
                let pan = Digits(card.take_pan());
                let words = format!("{}  {}", pan.expose(), card_expiry.as_deref().unwrap_or("-"));
                (Answer::Plain { pan, card_expiry }, words)
            }
            Some(Reveal::Data(data)) => Self::other(PlainValue::data(data)),
            Some(Reveal::NetworkToken(token)) => Self::other(PlainValue::network_token(token)),
            Some(Reveal::PaymentReference(reference)) => Self::other(PlainValue::reference(reference)),
            Some(Reveal::Masked(card)) => Self::masked(Seen::of(Some(card), None)),
            Some(Reveal::MaskedData(data)) => Self::masked(Seen::of(None, Some(data))),
            Some(Reveal::SealedToRecipient(card)) => {
                let (enc, ciphertext) = (BASE64.encode(&card.enc), BASE64.encode(&card.ciphertext));
                let words = format!("sealed to key {}  {enc}  {ciphertext}", card.key_id);
                (Answer::Sealed { key_id: card.key_id, enc, ciphertext }, words)
            }
            None => Self::masked(Seen::of(None, None)),
        };
        Self::new(json, words, receipt.as_ref(), heads)
    }

    fn other(data: PlainValue) -> (Answer, String) {
        let words = data.words();
        (Answer::Other { data }, words)
    }

    fn masked(seen: Seen) -> (Answer, String) {
        let words = seen.words();
        (Answer::Masked { seen }, words)
    }

    fn inspected(answer: v1::InspectResult, heads: &[v1::Checkpoint]) -> Self {
        let inspected = Inspected {
            state: wire::word::<v1::TokenState>(answer.state),
            scheme: wire::word::<v1::TokenScheme>(answer.scheme),
            format: answer.format,
            channels: answer.channels,
            valid_until: wire::moment(answer.valid_until.as_ref()),
            created_at: wire::moment(answer.created_at.as_ref()),
            seen: Seen::of(answer.card, answer.data),
            restrictions: answer.restrictions.map(Restrictions::of),
            attributes: answer.attributes.map(Attributes::of),
            earlier: answer.earlier.into_iter().map(Earlier::of).collect(),
        };
        let narrowed = inspected.restrictions.as_ref().map_or_else(String::new, Restrictions::words);
        let until = inspected.valid_until.as_deref().map_or_else(String::new, |at| format!("  until {at}"));
        let words = format!(
            "{}  {}  {} {}  on {}{until}{narrowed}",
            inspected.seen.words(),
            inspected.state,
            inspected.scheme,
            inspected.format,
            some(&inspected.channels)
        );
        Self::new(Answer::Inspected(Box::new(inspected)), words, answer.receipt.as_ref(), heads)
    }

    fn replaced(answer: v1::ReplaceResult, heads: &[v1::Checkpoint]) -> Self {
        let card = Shown::of(answer.card);
        let kept_until = wire::moment(answer.kept_until.as_ref());
        let words =
            format!("{}  the old one is kept until {}", card.words(), kept_until.as_deref().unwrap_or("-"));
        Self::new(Answer::Replaced { card, kept_until }, words, answer.receipt.as_ref(), heads)
    }

    fn held(answer: v1::HoldSecurityCodeResult, heads: &[v1::Checkpoint]) -> Self {
        let held_until = wire::moment(answer.held_until.as_ref());
        let words = format!("{}  held until {}", answer.ticket, held_until.as_deref().unwrap_or("-"));
        Self::new(Answer::Held { ticket: answer.ticket, held_until }, words, answer.receipt.as_ref(), heads)
    }

    fn code(answer: v1::ReadSecurityCodeResult, heads: &[v1::Checkpoint]) -> Self {
        let code = Digits(answer.code.map_or_else(Zeroizing::default, |mut code| code.take_digits()));
        let words = code.expose().to_owned();
        Self::new(Answer::Code { code }, words, answer.receipt.as_ref(), heads)
    }

    fn completed(answer: v1::CompleteAuthorizationResult, heads: &[v1::Checkpoint]) -> Self {
        let words = "the security code is gone".to_owned();
        Self::new(Answer::Completed { completed: true }, words, answer.receipt.as_ref(), heads)
    }

    fn fingerprinted(answer: v1::FingerprintResult, heads: &[v1::Checkpoint]) -> Self {
        let fingerprint = data_encoding::HEXLOWER.encode(&answer.fingerprint);
        let words = fingerprint.clone();
        Self::new(Answer::Fingerprint { fingerprint }, words, answer.receipt.as_ref(), heads)
    }

    fn deleted(answer: v1::DeleteCardResult, heads: &[v1::Checkpoint]) -> Self {
        Self::ended(answer.tokens, answer.receipt.as_ref(), heads)
    }

    fn ended(tokens: u32, receipt: Option<&v1::Receipt>, heads: &[v1::Checkpoint]) -> Self {
        let words = format!("{tokens} {} ended", if tokens == 1 { "token" } else { "tokens" });
        Self::new(Answer::Ended { tokens }, words, receipt, heads)
    }

    fn listed(token: v1::SubjectToken, receipt: Option<&v1::Receipt>) -> Self {
        let listed = Listed {
            record: data_encoding::HEXLOWER.encode(&token.record),
            state: wire::word::<v1::TokenState>(token.state),
            channels: token.channels,
            valid_until: wire::moment(token.valid_until.as_ref()),
            created_at: wire::moment(token.created_at.as_ref()),
            seen: Seen::of(token.card, token.data),
            restrictions: token.restrictions.map(Restrictions::of),
        };
        let narrowed = listed.restrictions.as_ref().map_or_else(String::new, Restrictions::words);
        let on = some(&listed.channels);
        let words =
            format!("{}  {}  {}  on {on}{narrowed}", listed.record, listed.seen.words(), listed.state);
        Self::new(Answer::Listed(Box::new(listed)), words, receipt, &[])
    }

    fn changed(answer: v1::ChangeResult, heads: &[v1::Checkpoint]) -> Self {
        let state = wire::word::<v1::TokenState>(answer.state);
        let words = format!("{state}  on {}", some(&answer.channels));
        let json = Answer::Standing { state, channels: answer.channels };
        Self::new(json, words, answer.receipt.as_ref(), heads)
    }

    fn revoked(answer: v1::RevokeResult, heads: &[v1::Checkpoint]) -> Self {
        let state = wire::word::<v1::TokenState>(answer.state);
        let words = format!("{state}  on {}", some(&answer.channels));
        let json = Answer::Standing { state, channels: answer.channels };
        Self::new(json, words, answer.receipt.as_ref(), heads)
    }
}

fn some(names: &[String]) -> String {
    if names.is_empty() { "no channel".to_owned() } else { names.join(",") }
}

/// A new file of receipts, one per line.
struct Receipts {
    file: std::fs::File,
    path: PathBuf,
}

impl Receipts {
    fn create(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file =
            file.map_err(|e| Failure::usage(format_args!("{}: {e}; name a new file", path.display())))?;
        Ok(Self { file, path: path.to_owned() })
    }

    fn keep(&mut self, receipt: &ReceiptText) -> Result<(), Failure> {
        writeln!(self.file, "{}", receipt.text()).map_err(|e| {
            Failure::failed(format_args!("{}: {e}; the receipt is not kept", self.path.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(told: Told, line: Option<u64>) -> String {
        serde_json::to_string(&Numbered { line, told }).unwrap()
    }

    #[test]
    fn an_answer_is_told_for_people_and_for_programs() {
        let card = || {
            Some(v1::MaskedCard {
                masked_pan: "411111******1111".into(),
                last_four: "1111".into(),
                network: "visa".into(),
                card_expiry: Some(v1::CardExpiry { month: 3, year: 2029 }),
            })
        };
        let tokenized = || v1::TokenizeResult {
            token: "4111110000021111".into(),
            format: "cards".into(),
            card: card(),
            novelty: v1::Novelty::Reused.into(),
            ..v1::TokenizeResult::default()
        };
        assert_eq!(
            *Told::tokenized(tokenized(), &[]).words,
            "4111110000021111  411111******1111  visa  03/2029  reused"
        );
        assert_eq!(
            json(Told::tokenized(tokenized(), &[]), Some(2)),
            "{\"line\":2,\"token\":\"4111110000021111\",\"format\":\"cards\",\"valid_until\":null,\"novelty\":\"reused\",\
             \"card\":{\"masked_pan\":\"411111******1111\",\"last_four\":\"1111\",\"network\":\"visa\",\
             \"card_expiry\":\"03/2029\"},\"receipt\":null}"
        );
        let nothing = Told::inspected(v1::InspectResult { state: 2, ..v1::InspectResult::default() }, &[]);
        assert_eq!(*nothing.words, "-  -  -  expired  -   on no channel");
        let restricted = v1::InspectResult {
            state: 1,
            restrictions: Some(v1::Restrictions {
                purposes: vec![3],
                bound_to_customer: true,
                single_use: true,
            }),
            ..v1::InspectResult::default()
        };
        assert_eq!(
            *Told::inspected(restricted, &[]).words,
            "-  -  -  active  -   on no channel  only for refund  bound to its customer  once"
        );
        let deleted = |tokens| Told::deleted(v1::DeleteCardResult { tokens, receipt: None }, &[]);
        assert_eq!((&**deleted(1).words, &**deleted(2).words), ("1 token ended", "2 tokens ended"));
        let held = v1::HoldSecurityCodeResult {
            ticket: "code-0-aa".into(),
            ..v1::HoldSecurityCodeResult::default()
        };
        assert_eq!(*Told::held(held, &[]).words, "code-0-aa  held until -");
        let code = Some(v1::SecurityCode::new(b"123".to_vec()));
        let read = v1::ReadSecurityCodeResult { code, receipt: None };
        assert_eq!(json(Told::code(read, &[]), None), "{\"code\":\"123\",\"receipt\":null}");
        let print = v1::FingerprintResult { fingerprint: vec![0xab; 16], receipt: None };
        assert_eq!(*Told::fingerprinted(print, &[]).words, "ab".repeat(16));
        let listed =
            v1::SubjectToken { record: vec![1; 16], state: 5, card: card(), ..v1::SubjectToken::default() };
        assert_eq!(
            *Told::listed(listed, None).words,
            format!("{}  411111******1111  visa  03/2029  spent  on no channel", "01".repeat(16))
        );
        let changed = v1::ChangeResult { state: 4, channels: vec!["a".into()], receipt: None };
        assert_eq!(*Told::changed(changed, &[]).words, "disabled  on a");
        let revoked = v1::RevokeResult { state: 1, channels: vec!["a".into(), "b".into()], receipt: None };
        assert_eq!(*Told::revoked(revoked.clone(), &[]).words, "active  on a,b");
        assert_eq!(
            json(Told::revoked(revoked, &[]), None),
            "{\"state\":\"active\",\"channels\":[\"a\",\"b\"],\"receipt\":null}"
        );
    }

    #[test]
    fn a_fault_outweighs_a_refusal() {
        let end = |worst| {
            let tally = Tally { lines: 3, refused: 1, worst };
            tally.end(Uuid::nil()).map_err(|failure| failure.exit())
        };
        assert_eq!(end(None), Ok(()));
        assert_eq!(end(Some(worse(None, Exit::Refused))), Err(Exit::Refused));
        assert_eq!(end(Some(worse(Some(Exit::Failed), Exit::Refused))), Err(Exit::Failed));
        assert_eq!(end(Some(worse(Some(Exit::Refused), Exit::Failed))), Err(Exit::Failed));
    }

    #[test]
    fn a_customer_reference_that_holds_a_card_number_goes_nowhere() {
        let asked = |customer: &str| Asked {
            initiator: v1::Initiator::Cardholder,
            customer: Some(customer.to_owned()),
            request_id: None,
            receipts: None,
        };
        assert!(asked("c-17").check().is_ok());
        let failure = asked("c 4111 1111 1111 1111").check().unwrap_err();
        assert!(!failure.to_string().contains("4111"));
    }
}
