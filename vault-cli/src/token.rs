//! `vaultctl token`: cards in, tokens out, and what is known of a token.
//!
//! A card number is shown to a person at a terminal who says what for, and to nothing else: not to a pipe, not to a file.
//! Cards come from standard input, a file or a hidden prompt.

mod cards;
mod codes;
mod detokenize;
mod forward;
mod life;
mod session;
mod tokenize;
mod told;
mod upgrade;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use uuid::Uuid;
use vault_client::{ask, v1};
use vault_core::pan::{self, CardExpiry};

use self::cards::{OfCards, OfCustomer};
use self::codes::{HoldCode, OfCode};
use self::detokenize::{Detokenize, Inspect};
use self::forward::Forward;
use self::life::{Replace, Revoke, Standing, Translate, Update};
use self::tokenize::{SealingKey, Tokenize};
use self::told::Told;
use self::upgrade::Upgrade;
use crate::fail::Failure;
use crate::output::Out;
use crate::wire::Words as _;

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

/// Does what the command line says.
pub(crate) fn run(command: TokenCommand, out: Out) -> Result<(), Failure> {
    match command {
        TokenCommand::Tokenize(asked) => tokenize::tokenize(asked, out),
        TokenCommand::Detokenize(asked) => detokenize::detokenize(asked, out),
        TokenCommand::Inspect(asked) => detokenize::inspect(asked, out),
        TokenCommand::Revoke(asked) => life::revoke(asked, out),
        TokenCommand::SealingKey(asked) => tokenize::sealing_key(asked, out),
        TokenCommand::Forward(asked) => forward::forward(asked, out),
        TokenCommand::Disable(asked) => life::standing(asked, ask::disable, out),
        TokenCommand::Enable(asked) => life::standing(asked, ask::enable, out),
        TokenCommand::Upgrade(asked) => upgrade::run(asked, out),
        TokenCommand::Update(asked) => life::update(*asked, out),
        TokenCommand::Replace(asked) => life::replace(asked, out),
        TokenCommand::Fingerprint(asked) => {
            cards::of_cards(asked, ask::fingerprint, Told::fingerprinted, out)
        }
        TokenCommand::DeleteCard(asked) => cards::of_cards(asked, ask::delete_card, Told::deleted, out),
        TokenCommand::Translate(asked) => life::translate(asked, out),
        TokenCommand::HoldCode(asked) => codes::hold_code(asked, out),
        TokenCommand::ReadCode(asked) => codes::read_code(asked, out),
        TokenCommand::Complete(asked) => codes::of_code(asked, ask::complete, Told::completed, out),
        TokenCommand::List(asked) => cards::list(asked, out),
        TokenCommand::Erase(asked) => cards::erase(asked, out),
    }
}

fn no_card(text: &str) -> Result<String, &'static str> {
    if pan::holds_card_number(text) { Err("must not hold a card number") } else { Ok(text.to_owned()) }
}

fn parse_expiry(text: &str) -> Result<CardExpiry, vault_core::pan::ExpiryError> {
    CardExpiry::parse(text)
}

pub(crate) fn date(e: CardExpiry) -> v1::CardExpiry {
    v1::CardExpiry { month: e.month().into(), year: e.year().into() }
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

#[cfg(test)]
mod tests {
    use super::*;

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
