//! What a command reads: cards and tokens from standard input, a file or a hidden prompt, and small files whole.
//!
//! Card numbers are never taken from the command line: the shell's history and every process list would keep them. A bad
//! line is told by its number and the rule that it breaks, never by its content.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal as _, Read};
use std::path::Path;

use data_encoding::BASE64;
use vault_client::v1;
use vault_core::pan::{self, CardExpiry, Pan};
use vault_core::token::Token;
use zeroize::Zeroizing;

use crate::fail::Failure;

/// Bytes of a file of cards or tokens: a million lines of 64 bytes. Larger ones are to be split.
const MAX_LINES_FILE: u64 = 64 << 20;

/// Bytes of any other file that is read whole.
const MAX_SMALL_FILE: u64 = 4 << 20;

/// The longest answer to a question, in bytes: a key's number has ten digits.
const MAX_ANSWER: u64 = 64;

/// A card as it was given.
pub struct Card {
    /// The number.
    pub pan: Pan,
    /// The date on it, if it was given.
    pub expiry: Option<CardExpiry>,
}

/// A line that was read: its number, from 1, and what it holds or which rule it breaks.
pub struct Line<T> {
    /// From 1; empty lines and the header line count.
    pub number: u64,
    /// What it holds, or which rule it breaks.
    pub read: Result<T, String>,
}

/// Refuses a command line with a card number in it, before anything else looks at it: whole arguments, values behind `=`,
/// fields between commas, and arguments side by side.
pub(crate) fn refuse_cards_in(arguments: &[String]) -> Result<(), Failure> {
    let is_card = |text: &str| {
        let numeric = |b: u8| b.is_ascii_digit() || matches!(b, b' ' | b'-');
        text.bytes().all(numeric) && pan::holds_card_number(text)
    };
    let mut digits = String::new();
    for argument in arguments {
        if argument.split(['=', ',', ';', '"', '\'']).any(|field| is_card(field.trim())) {
            return Err(card_in_arguments());
        }
        // `4111 1111 1111 1111` without quotes is four arguments.
        if argument.bytes().all(|b| b.is_ascii_digit()) {
            digits.push_str(argument);
            digits.push(' ');
            if is_card(digits.trim_end()) {
                return Err(card_in_arguments());
            }
        } else {
            digits.clear();
        }
    }
    Ok(())
}

fn card_in_arguments() -> Failure {
    Failure::usage(
        "a card number stands on the command line, where the shell's history and the process list keep it; give it on \
         standard input, with --file, or at the prompt",
    )
}

/// The cards of a file, of standard input (`-`, or no file where it is no terminal), or one asked for at a hidden prompt.
pub(crate) fn cards(file: Option<&Path>, expiry: Option<CardExpiry>) -> Result<Vec<Line<Card>>, Failure> {
    let mut lines = match file {
        None if io::stdin().is_terminal() => {
            let number = Zeroizing::new(hidden("Card number (not shown): ")?);
            vec![Line { number: 1, read: card(number.trim().as_bytes(), None) }]
        }
        source => card_lines(&source_bytes(source)?),
    };
    for line in &mut lines {
        if let Ok(card) = &mut line.read {
            card.expiry = card.expiry.or(expiry);
        }
    }
    if lines.is_empty() {
        return Err(Failure::usage("there is no card in the input; give one per line: number,expiry"));
    }
    Ok(lines)
}

/// A security code, of standard input or asked for at a hidden prompt. What is no code the vault refuses.
pub(crate) fn security_code() -> Result<Zeroizing<Vec<u8>>, Failure> {
    if io::stdin().is_terminal() {
        let code = Zeroizing::new(hidden("Security code (not shown): ")?);
        return Ok(Zeroizing::new(code.trim().as_bytes().to_vec()));
    }
    Ok(Zeroizing::new(bounded(Path::new("-"), MAX_SMALL_FILE)?.trim_ascii().to_vec()))
}

/// The values of a file, of standard input, or one asked for at a hidden prompt: a line each, of fields between commas,
/// semicolons or tabs, quoted or not.
pub(crate) fn lines<T>(
    file: Option<&Path>,
    prompt: &str,
    read: impl Fn(&[&[u8]]) -> Result<T, String>,
) -> Result<Vec<Line<T>>, Failure> {
    let bytes = match file {
        None if io::stdin().is_terminal() => Zeroizing::new(hidden(prompt)?.into_bytes()),
        source => source_bytes(source)?,
    };
    let lines = value_lines(&bytes, read);
    if lines.is_empty() {
        return Err(Failure::usage("there is nothing in the input; give one value per line"));
    }
    Ok(lines)
}

/// The same of a text.
pub fn value_lines<T>(text: &[u8], read: impl Fn(&[&[u8]]) -> Result<T, String>) -> Vec<Line<T>> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.split(|&b| b == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let fields: Vec<&[u8]> = line.split(|b| matches!(b, b',' | b';' | b'\t')).map(bare).collect();
        lines.push(Line { number, read: read(&fields) });
    }
    lines
}

/// A file or standard input, as one value; at a terminal one line of text that is not shown.
pub(crate) fn whole(file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    match file {
        None if io::stdin().is_terminal() => Ok(Zeroizing::new(hidden("Value (not shown): ")?.into_bytes())),
        source => source_bytes(source),
    }
}

/// One token's new card, of standard input or asked for at a hidden prompt.
pub(crate) fn replacement(token: &str) -> Result<Vec<Line<(Token, Card)>>, Failure> {
    let token = Token::parse(token).map_err(|e| Failure::usage(format_args!("the token {e}")))?;
    let mut lines = cards(None, None)?;
    let (Some(line), true) = (lines.pop(), lines.is_empty()) else {
        return Err(Failure::usage(
            "give one card for one token, or --file with a token and a card per line",
        ));
    };
    Ok(vec![Line { number: line.number, read: line.read.map(|card| (token, card)) }])
}

/// Tokens and their new cards, of a file or of standard input: token, number, expiry (may be missing).
pub(crate) fn replacements(file: Option<&Path>) -> Result<Vec<Line<(Token, Card)>>, Failure> {
    let lines = replacement_lines(&source_bytes(file)?);
    if lines.is_empty() {
        return Err(Failure::usage("there is no card in the input; give one per line: token,number,expiry"));
    }
    Ok(lines)
}

/// The same of a text.
#[must_use]
pub fn replacement_lines(text: &[u8]) -> Vec<Line<(Token, Card)>> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.split(|&b| b == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let mut fields = line.split(|b| matches!(b, b',' | b';' | b'\t')).map(bare);
        let (token, pan, expiry) = (fields.next(), fields.next(), fields.next());
        let read = || {
            let token = std::str::from_utf8(token.unwrap_or_default());
            let token = token.map_err(|_| "the token must be text".to_owned())?;
            let token = Token::parse(token).map_err(|e| format!("the token {e}"))?;
            Ok((token, card(pan.unwrap_or_default(), expiry)?))
        };
        lines.push(Line { number, read: read() });
    }
    lines
}

/// The cards in a text: a line each, of number, expiry (may be missing) and anything else, which is not read; between
/// commas, semicolons or tabs, quoted or not. A first line without any digit in its first field is a header.
#[must_use]
pub fn card_lines(text: &[u8]) -> Vec<Line<Card>> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut lines = Vec::new();
    let mut first = true;
    for (number, line) in (1..).zip(text.split(|&b| b == b'\n')) {
        let mut fields = line.split(|b| matches!(b, b',' | b';' | b'\t')).map(bare);
        let pan = fields.next().unwrap_or_default();
        if line.trim_ascii().is_empty() {
            continue;
        }
        let header = first && !pan.is_empty() && !pan.iter().any(u8::is_ascii_digit);
        first = false;
        if !header {
            lines.push(Line { number, read: card(pan, fields.next()) });
        }
    }
    lines
}

/// A field without the white space and the quotes around it.
fn bare(field: &[u8]) -> &[u8] {
    let field = field.trim_ascii();
    field.strip_prefix(b"\"").and_then(|f| f.strip_suffix(b"\"")).map_or(field, <[u8]>::trim_ascii)
}

fn card(pan: &[u8], expiry: Option<&[u8]>) -> Result<Card, String> {
    let pan = Pan::parse(pan).map_err(|e| format!("the card number {e}"))?;
    let expiry = match expiry {
        None | Some(b"") => None,
        Some(expiry) => {
            let read = std::str::from_utf8(expiry).map_err(|_| "the expiry must be text".to_owned())?;
            Some(CardExpiry::parse(read).map_err(|e| format!("the expiry {e}"))?)
        }
    };
    Ok(Card { pan, expiry })
}

/// A line with a sealed card, and with the token that stands beside it, if one does.
pub(crate) type SealedLine = Line<(v1::SealedCard, Option<Token>)>;

/// The sealed cards of a file or of standard input (`-`, or no file): a line each of JSON, as `token detokenize --to` and
/// `export` write them and a page that seals cards may.
pub(crate) fn sealed_cards(file: Option<&Path>) -> Result<Vec<SealedLine>, Failure> {
    let bytes = source_bytes(file)?;
    let lines = (1..).zip(bytes.split(|&b| b == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty());
    let lines: Vec<_> = lines.map(|(number, line)| Line { number, read: sealed_card(line) }).collect();
    if lines.is_empty() {
        return Err(Failure::usage("there is no sealed card in the input; give one per line, as JSON"));
    }
    Ok(lines)
}

/// A sealed card from its line of JSON: `key_id`, and `enc` and `ciphertext` in base64; `token` may stand beside them. Other
/// keys are left alone: they tell of the request, not of the card.
pub fn sealed_card(line: &[u8]) -> Result<(v1::SealedCard, Option<Token>), String> {
    #[derive(serde::Deserialize)]
    struct Written {
        key_id: String,
        enc: String,
        ciphertext: String,
        token: Option<String>,
    }
    let wrong = || {
        "the line is no sealed card: {\"key_id\":\"...\",\"enc\":\"...\",\"ciphertext\":\"...\"}".to_owned()
    };
    let Written { key_id, enc, ciphertext, token } = serde_json::from_slice(line).map_err(|_| wrong())?;
    let bytes = |text: String| BASE64.decode(text.as_bytes()).map_err(|_| wrong());
    let token = token.map(|token| Token::parse(&token).map_err(|e| format!("the token {e}"))).transpose()?;
    Ok((v1::SealedCard { key_id, enc: bytes(enc)?, ciphertext: bytes(ciphertext)? }, token))
}

/// Tokens given as arguments, or those of a file or of standard input (`-`), one per line.
pub(crate) fn tokens(arguments: &[String], file: Option<&Path>) -> Result<Vec<Line<Token>>, Failure> {
    let read = |text: &str| Token::parse(text).map_err(|e| format!("the token {e}"));
    if let Some(file) = file {
        let bytes = source_bytes(Some(file))?;
        let lines = (1..).zip(bytes.split(|&b| b == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty());
        let token = |line: &[u8]| {
            let text =
                std::str::from_utf8(line.trim_ascii()).map_err(|_| "the token must be text".to_owned())?;
            read(text)
        };
        let lines: Vec<_> = lines.map(|(number, line)| Line { number, read: token(line) }).collect();
        return if lines.is_empty() {
            Err(Failure::usage("there is no token in the input"))
        } else {
            Ok(lines)
        };
    }
    let token = |(number, text): (u64, &String)| match read(text) {
        Ok(token) => Ok(Line { number, read: Ok(token) }),
        Err(rule) => Err(Failure::usage(format_args!("argument {number}: {rule}"))),
    };
    (1..).zip(arguments).map(token).collect()
}

/// A passphrase: from a file that others cannot read, or asked for at a hidden prompt (twice where it is a new one).
pub(crate) fn passphrase(file: Option<&Path>, new: bool) -> Result<Zeroizing<Vec<u8>>, Failure> {
    use vault_server::settings::CustodianSettings;
    if let Some(file) = file {
        let settings = CustodianSettings::of_file(file.to_owned());
        return settings.read_passphrase().map_err(|p| {
            Failure::usage(format_args!("the passphrase file {} {}: {}", file.display(), p.problem, p.remedy))
        });
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "give the passphrase with --passphrase-file; there is no terminal to ask at",
        ));
    }
    let first = Zeroizing::new(hidden("Passphrase (not shown): ")?.into_bytes());
    if new && *first != *Zeroizing::new(hidden("The same again: ")?.into_bytes()) {
        return Err(Failure::refused("the two passphrases are not the same; nothing was made"));
    }
    Ok(first)
}

/// A secret of at most `most` bytes, from a file that others on the machine cannot read.
pub(crate) fn secret_file(file: &Path, what: &str, most: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(file).map_or(0, |m| m.permissions().mode());
    if mode & 0o007 != 0 {
        return Err(Failure::usage(format_args!(
            "the {what} file {} can be read or changed by everyone: take the rights of others away: chmod o=",
            file.display()
        )));
    }
    bounded(file, u64::try_from(most).unwrap_or(u64::MAX))
}

/// Waits until somebody presses Enter.
pub(crate) fn enter() -> Result<(), Failure> {
    let mut line = Zeroizing::new(String::new());
    io::stdin().read_line(&mut line).map(drop).map_err(|e| Failure::failed(format_args!("the prompt: {e}")))
}

/// A small file, or standard input (`-`), as text.
pub(crate) fn small_text(file: &Path) -> Result<String, Failure> {
    let bytes = bounded(file, MAX_SMALL_FILE)?;
    String::from_utf8(bytes.to_vec())
        .map_err(|_| Failure::usage(format_args!("{}: is not UTF-8 text", file.display())))
}

/// The longest line of a file that is read line by line, in bytes: a token has 128 at most.
const MAX_TOKEN_LINE: u64 = 4_096;

/// The lines of a file of any length, or of standard input (`-`): without white space around them, empty ones left out.
pub(crate) fn lines_of(
    file: &Path,
) -> Result<impl Iterator<Item = Result<String, Failure>> + use<>, Failure> {
    let name = file.display().to_string();
    let source: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file);
        let opened = opened
            .map_err(|e| Failure::usage(format_args!("{name}: {e}; check the path and its permissions")))?;
        Box::new(io::BufReader::new(opened))
    };
    let mut source = source;
    let lines = std::iter::from_fn(move || {
        let mut line = Vec::new();
        match source.by_ref().take(MAX_TOKEN_LINE).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(Ok(line)),
            Err(e) => Some(Err(e)),
        }
    });
    let text = move |line: io::Result<Vec<u8>>| {
        let line = line.map_err(|e| Failure::usage(format_args!("{name}: {e}")))?;
        Ok(String::from_utf8_lossy(line.trim_ascii()).into_owned())
    };
    Ok(lines.map(text).filter(|line| !matches!(line, Ok(text) if text.is_empty())))
}

/// A secret that is asked for at a hidden prompt, where there is a terminal.
pub(crate) fn hidden_secret(prompt: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal to ask at"));
    }
    Ok(Zeroizing::new(hidden(prompt)?.into_bytes()))
}

/// A line that somebody types at the terminal in answer to a question, shown as it is typed.
///
/// Errors: usage where there is no terminal.
pub(crate) fn typed(question: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal to ask at; give the answer with --confirm"));
    }
    crate::output::ask(question);
    let mut line = String::new();
    io::stdin()
        .lock()
        .take(MAX_ANSWER)
        .read_line(&mut line)
        .map_err(|e| Failure::failed(format_args!("the terminal: {e}")))?;
    Ok(line.trim().to_owned())
}

fn hidden(prompt: &str) -> Result<String, Failure> {
    rpassword::prompt_password(prompt)
        .map_err(|e| Failure::failed(format_args!("the prompt: {e}; use --file")))
}

fn source_bytes(file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    bounded(file.unwrap_or(Path::new("-")), MAX_LINES_FILE)
}

fn bounded(file: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |e: io::Error| {
        Failure::usage(format_args!("{}: {e}; check the path and its permissions", file.display()))
    };
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(file).map_err(failed)?)
    };
    let mut bytes = Zeroizing::new(Vec::new());
    source.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        return Err(Failure::usage(format_args!(
            "{}: is larger than {most} bytes; split it",
            file.display()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<(u64, Result<String, String>)> {
        let card =
            |card: Card| format!("{} {}", card.pan.len(), card.expiry.map_or("-".into(), |e| e.to_string()));
        card_lines(text.as_bytes()).into_iter().map(|line| (line.number, line.read.map(card))).collect()
    }

    #[test]
    fn a_card_file_is_read_as_people_write_it() {
        let good = |number, card: &str| (number, Ok(card.to_owned()));
        for (text, lines) in [
            ("4111111111111111", vec![good(1, "16 -")]),
            ("4111 1111 1111 1111,12/27,Ada Lovelace\r\n", vec![good(1, "16 12/2027")]),
            ("\u{feff}number,expiry,name\n\n378282246310005;2027-01;x", vec![good(3, "15 01/2027")]),
            ("\"4111-1111-1111-1111\"\t\"12/2027\"\n", vec![good(1, "16 12/2027")]),
            ("4111111111111111,,", vec![good(1, "16 -")]),
            ("", vec![]),
            (" \n\n", vec![]),
        ] {
            assert_eq!(told(text), lines, "{text}");
        }
    }

    #[test]
    fn a_bad_line_is_told_by_its_number_and_rule_and_never_by_its_content() {
        let text = "4111111111111112\n411111,12/27\nx4111111111111111\n4111111111111111,13/27\n4111111111111111,\u{e9}\n,1";
        let lines = told(text);
        let rules: Vec<_> = lines.iter().map(|(number, read)| (*number, read.clone().unwrap_err())).collect();
        assert_eq!(rules.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        for ((_, rule), said) in
            rules.iter().zip(["check digit", "12 to 19", "only digits", "month", "MM/YY", "12 to 19"])
        {
            assert!(rule.contains(said) && !rule.contains("411"), "{rule}");
        }
    }

    #[test]
    fn a_token_and_its_new_card_stand_in_one_line() {
        let text = "tok_0123456789abcdefghijkl,4111111111111111,12/27\n\n4111111111111111,4111111111111111\n\
                    4111111111111112;411\n";
        let lines = replacement_lines(text.as_bytes());
        let told: Vec<_> = lines
            .into_iter()
            .map(|line| (line.number, line.read.map(|(token, _)| token.as_str().len())))
            .collect();
        assert_eq!(told[0], (1, Ok(26)));
        for ((number, rule), (at, said)) in told[1..].iter().zip([(3, "the token"), (4, "12 to 19")]) {
            let rule = rule.clone().unwrap_err();
            assert!(*number == at && rule.contains(said) && !rule.contains("411"), "{rule}");
        }
    }

    #[test]
    fn a_card_on_the_command_line_is_seen_however_it_is_written() {
        let refused = |line: &[&str]| {
            let arguments: Vec<String> = line.iter().map(|&a| a.to_owned()).collect();
            refuse_cards_in(&arguments).is_err()
        };
        for line in [
            &["token", "tokenize", "4111111111111111"][..],
            &["token", "inspect", "4111-1111-1111-1111"],
            &["x", "4111 1111 1111 1111"],
            &["x", "4111", "1111", "1111", "1111"],
            &["x", "--pan=378282246310005"],
            &["x", "4111111111111111,12/27"],
            &["x", "'4111111111111111'"],
        ] {
            assert!(refused(line), "{line:?}");
        }
        for line in [
            &["token", "inspect", "4111111111111112"][..],
            &["audit", "export", "log-20261123001122-4111111111111111x.jsonl"],
            &["x", "41111111", "y", "11111111"],
            &["certs", "revoke", "4f00d1e5a2b3c4d5e6f708192a3b4c5d"],
            &["x", "--request-id", "0f0e0d0c-0b0a-4908-8706-050403020100"],
        ] {
            assert!(!refused(line), "{line:?}");
        }
    }

    #[test]
    fn a_token_argument_that_is_a_card_number_is_refused_without_an_echo() {
        let Err(failure) = tokens(&["4111111111111111".to_owned()], None) else { panic!() };
        assert!(failure.to_string().contains("card number") && !failure.to_string().contains("4111"));
        let read =
            tokens(&["4111111111111112".to_owned(), "tok_0123456789abcdefghijkl".to_owned()], None).unwrap();
        assert!(read.iter().all(|line| line.read.is_ok()));
    }
}
