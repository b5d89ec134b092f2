//! `vaultctl recipient`: for a processor that cards are sealed to. Makes its key pair and opens what it was sent, without a
//! vault.
//!
//! Card numbers go to a terminal or into a new file that its owner alone reads, and nowhere else.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use data_encoding::{BASE64, BASE64_MIME_PERMISSIVE};
use serde::Serialize;
use vault_client::v1;
use vault_core::hpke::PrivateKey;
use vault_core::name::{MerchantName, RecipientName};
use vault_core::pan::{CardExpiry, Pan};
use vault_core::sealed;
use vault_core::secret::Secret32;
use vault_core::token::Token;
use zeroize::{Zeroize as _, Zeroizing};

use crate::fail::Failure;
use crate::input::{self, Line, SealedLine};
use crate::output::{self, Out};

/// What stands before the 32 bytes of an X25519 private key in its PKCS#8 file (RFC 8410, section 7).
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x04, 0x22, 0x04, 0x20];

/// The armour of that file (RFC 7468).
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// The subcommands of `vaultctl recipient`.
#[derive(Debug, Subcommand)]
pub(crate) enum RecipientCommand {
    /// Make a key pair: the private key into a new file, the public one for the vault's policy
    #[command(
        after_help = "The file is PKCS#8 in PEM, as openssl genpkey -algorithm x25519 makes it.\n\nExample:\n  \
        vaultctl recipient keygen --key acquirer.key"
    )]
    Keygen(Keygen),
    /// Show a private key's public key
    #[command(after_help = "Example:\n  vaultctl recipient public-key --key acquirer.key")]
    PublicKey(Keygen),
    /// Open cards that were sealed to a key
    #[command(
        after_help = "Sealed cards are read from --file or standard input, one per line of JSON, as vaultctl --json \
        token detokenize --to and vaultctl export write them. Opened ones are shown on a terminal, or written to a new file. \
        Where tokens stand beside them, the first line names the columns, and vaultctl import reads the file.\n\nExamples:\n  \
        vaultctl recipient open --key acquirer.key --merchant acme --recipient acquirer --file sealed.jsonl\n  \
        vaultctl recipient open --key acquirer.key --merchant acme --recipient acquirer --file sealed.jsonl --out cards.csv"
    )]
    Open(Open),
}

/// `recipient keygen` and `recipient public-key`.
#[derive(Debug, Args)]
pub(crate) struct Keygen {
    /// The private key's file; a new one is readable by its owner alone
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// `recipient open`.
#[derive(Debug, Args)]
pub(crate) struct Open {
    /// The private key's file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Whose cards they are
    #[arg(long, value_name = "NAME")]
    merchant: String,
    /// The recipient's name in the vault's policy
    #[arg(long, value_name = "NAME")]
    recipient: String,
    /// A file of sealed cards; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Write the cards into this new file instead of showing them: number,expiry[,token] per line
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Does what the command line says.
pub(crate) fn run(command: RecipientCommand, out: Out) -> Result<(), Failure> {
    match command {
        RecipientCommand::Keygen(asked) => keygen(&asked.key, out),
        RecipientCommand::PublicKey(asked) => tell(&read_key(&asked.key)?, out),
        RecipientCommand::Open(asked) => open(&asked, out),
    }
}

fn keygen(path: &Path, out: Out) -> Result<(), Failure> {
    let scalar = Secret32::random().map_err(|_| Failure::failed("the system gives no random bytes"))?;
    let key = key_of(&scalar)?;
    let mut der = Zeroizing::new(Vec::with_capacity(PKCS8.len() + 32));
    der.extend_from_slice(&PKCS8);
    der.extend_from_slice(scalar.expose_bytes());
    let body = Zeroizing::new(BASE64.encode(&der));
    write_new(path, &Zeroizing::new(format!("{BEGIN}\n{}\n{END}\n", body.as_str())))?;
    tell(&key, out)
}

fn tell(key: &PrivateKey, out: Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Public {
        key: String,
        key_id: String,
    }
    let public = key.public_key();
    let public = Public { key: BASE64.encode(public.as_bytes()), key_id: public.id() };
    out.tell(&public, |public| format!("key = \"{}\"\nits key_id is {}", public.key, public.key_id))
}

fn open(asked: &Open, out: Out) -> Result<(), Failure> {
    if asked.out.is_none() && !output::is_seen() {
        return Err(Failure::refused(
            "card numbers are shown on a terminal only, and standard output is none; name a new file with --out",
        ));
    }
    let merchant = MerchantName::parse(&asked.merchant);
    let merchant = merchant.map_err(|rule| Failure::usage(format_args!("--merchant {rule}")))?;
    let recipient = RecipientName::parse(&asked.recipient);
    let recipient = recipient.map_err(|rule| Failure::usage(format_args!("--recipient {rule}")))?;
    let key = read_key(&asked.key)?;
    let (mut cards, mut shut) = (Zeroizing::new(String::new()), 0_usize);
    let lines = input::sealed_cards(asked.file.as_deref())?;
    let token = |line: &SealedLine| {
        line.read.as_ref().ok().and_then(|(_, token)| Some(token.as_ref()?.as_str().len()))
    };
    // Never outgrown: growing leaves copies.
    cards
        .reserve(HEAD.len() + lines.iter().map(|line| LINE + token(line).unwrap_or_default()).sum::<usize>());
    let with_tokens = lines.iter().any(|line| token(line).is_some());
    if with_tokens {
        cards.push_str(HEAD);
    }
    for Line { number, read } in lines {
        let opened = read.and_then(|(card, token)| {
            let v1::SealedCard { enc, ciphertext, .. } = card;
            let opened = sealed::open_out(&key, &merchant, &recipient, &enc, &ciphertext);
            let (pan, expiry) =
                opened.map_err(|_| "does not open with this key, merchant and recipient".to_owned())?;
            Ok((pan, expiry, token))
        });
        match opened {
            Ok((pan, expiry, token)) => {
                put(&mut cards, &pan, expiry, with_tokens.then(|| token.as_ref().map_or("", Token::as_str)));
            }
            Err(why) => {
                shut += 1;
                output::note(&format!("line {number}: {why}"));
            }
        }
    }
    match &asked.out {
        Some(path) => write_new(path, &cards)?,
        None => out.tell(cards.as_str(), ToOwned::to_owned)?,
    }
    if shut > 0 { Err(Failure::refused(format_args!("{shut} lines were not opened"))) } else { Ok(()) }
}

/// The names of the columns, as an import takes them.
const HEAD: &str = "number,expiry,token\n";

/// The longest line of a card, in bytes without its token: 19 digits, `YYYY-MM`, two commas, a line break.
const LINE: usize = 19 + 7 + 3;

fn put(cards: &mut String, pan: &Pan, expiry: Option<CardExpiry>, token: Option<&str>) {
    cards.push_str(std::str::from_utf8(pan.expose_digits()).unwrap_or_default());
    cards.push(',');
    if let Some(expiry) = expiry {
        let _always_written = write!(cards, "{:04}-{:02}", expiry.year(), expiry.month());
    }
    if let Some(token) = token {
        let _always_written = write!(cards, ",{token}");
    }
    cards.push('\n');
}

fn key_of(scalar: &Secret32) -> Result<PrivateKey, Failure> {
    PrivateKey::of_scalar(scalar).ok_or_else(|| Failure::failed("the key is none"))
}

fn read_key(path: &Path) -> Result<PrivateKey, Failure> {
    let wrong = || {
        Failure::usage(format_args!(
            "{}: is no X25519 private key in PKCS#8 PEM; make one with vaultctl recipient keygen",
            path.display()
        ))
    };
    let text = Zeroizing::new(input::small_text(path)?);
    let body = text.trim().strip_prefix(BEGIN).and_then(|t| t.strip_suffix(END)).ok_or_else(wrong)?;
    let mut der = Zeroizing::new(BASE64_MIME_PERMISSIVE.decode(body.as_bytes()).map_err(|_| wrong())?);
    let scalar = der.strip_prefix(&PKCS8).map(<[u8]>::to_vec).ok_or_else(wrong)?;
    der.zeroize();
    let scalar = Secret32::take(&mut Zeroizing::new(scalar)).ok_or_else(wrong)?;
    key_of(&scalar)
}

/// Writes a file that its owner alone may read, and never over another.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let told = |e: std::io::Error| Failure::usage(format_args!("{}: {e}; name a new file", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(told)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(told)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_kept_for_its_owner_alone_and_opens_what_is_sealed_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acquirer.key");
        keygen(&path, Out::new(true)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(keygen(&path, Out::new(true)).is_err(), "a key is never written over");
        let key = read_key(&path).unwrap();
        let (m, r) = (MerchantName::parse("acme").unwrap(), RecipientName::parse("bank").unwrap());
        let Ok(pan) = Pan::parse(b"4111111111111111") else { panic!("a test number") };
        let info = sealed::info_out(&m, &r);
        let card = key.public_key().seal(&info, &sealed::write(&pan, None)).unwrap();
        let Ok((opened, None)) = sealed::open_out(&key, &m, &r, &card.enc, &card.ciphertext) else {
            panic!("it opens")
        };
        assert!(opened.same_as(&pan));
        let line = serde_json::json!({
            "key_id": key.public_key().id(), "enc": BASE64.encode(&card.enc),
            "ciphertext": BASE64.encode(&card.ciphertext),
        });
        let (sealed, cards) = (folder.path().join("sealed.jsonl"), folder.path().join("cards.csv"));
        std::fs::write(&sealed, format!("{line}\n")).unwrap();
        let asked = |recipient: &str, out: Option<PathBuf>| Open {
            key: path.clone(),
            merchant: "acme".into(),
            recipient: recipient.into(),
            file: Some(sealed.clone()),
            out,
        };
        open(&asked("bank", Some(cards.clone())), Out::new(false)).unwrap();
        assert_eq!(std::fs::read_to_string(&cards).unwrap(), "4111111111111111,\n");
        assert_eq!(std::fs::metadata(&cards).unwrap().permissions().mode() & 0o777, 0o600);
        // Beside a token it stands in a file that an import reads.
        let mut beside = line.clone();
        beside["token"] = "tok_0123456789abcdefghijkl".into();
        std::fs::write(&sealed, format!("{beside}\n{line}\n")).unwrap();
        let joined = folder.path().join("joined.csv");
        open(&asked("bank", Some(joined.clone())), Out::new(false)).unwrap();
        assert_eq!(
            std::fs::read_to_string(&joined).unwrap(),
            "number,expiry,token\n4111111111111111,,tok_0123456789abcdefghijkl\n4111111111111111,,\n"
        );
        beside["token"] = "4111111111111111".into();
        std::fs::write(&sealed, format!("{beside}\n")).unwrap();
        assert!(open(&asked("bank", Some(folder.path().join("no.csv"))), Out::new(false)).is_err());
        assert!(open(&asked("other", Some(folder.path().join("none.csv"))), Out::new(false)).is_err());
        assert!(open(&asked("bank", None), Out::new(false)).is_err(), "a test has no terminal");
    }

    #[test]
    fn what_is_no_private_key_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for text in ["", "secret", &format!("{BEGIN}\nAAAA\n{END}\n"), &format!("{BEGIN}\n!\n{END}\n")] {
            std::fs::write(&path, text).unwrap();
            assert!(read_key(&path).is_err(), "{text}");
        }
    }
}
