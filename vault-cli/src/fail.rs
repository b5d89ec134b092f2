//! Why a command did not do what was asked: an exit code, and one line that says what to do next.
//!
//! It refuses to repeat a card number, whatever the text came from: every line goes through [`quiet`] last.

use std::fmt;

use vault_client::{ClientError, ConnectError};
use vault_core::error::{Error, Fault};
use vault_core::pan;
use vault_core::store::StoreError;

/// The exit code of a command that did not succeed. 0 is kept for one that did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The vault, its policy or this program says no; or what was checked is not as it should be.
    Refused = 1,
    /// Something is broken or away: the same command may succeed later.
    Failed = 2,
    /// The command line is wrong (`EX_USAGE` of sysexits.h).
    Usage = 64,
}

/// Why a command did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    line: String,
}

impl Failure {
    /// The answer is no.
    pub(crate) fn refused(line: impl fmt::Display) -> Self {
        Self { exit: Exit::Refused, line: line.to_string() }
    }

    /// Something is broken or away.
    pub(crate) fn failed(line: impl fmt::Display) -> Self {
        Self { exit: Exit::Failed, line: line.to_string() }
    }

    /// The command line is wrong.
    pub(crate) fn usage(line: impl fmt::Display) -> Self {
        Self { exit: Exit::Usage, line: line.to_string() }
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The same, with more words at its end.
    #[must_use]
    pub(crate) fn and(mut self, more: impl fmt::Display) -> Self {
        self.line = format!("{}; {more}", self.line);
        self
    }
}

/// One line, without a card number.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quiet(&self.line))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error == Error::Custody {
            return Self::refused(
                "the passphrase, device or set of shares does not open this vault; check which files (or the custodian's settings) and which folder were named",
            );
        }
        if error == Error::Store(StoreError::Exists) {
            return Self::refused(error);
        }
        match error.fault() {
            Fault::Caller | Fault::Policy => Self::refused(error),
            Fault::Vault => Self::failed(error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Error::Store(error).into()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = exit_of(&error);
        Self { exit, line: error.to_string() }
    }
}

/// The exit code of what a call to the vault came to.
pub(crate) fn exit_of(error: &ClientError) -> Exit {
    use vault_client::Reason;
    match error {
        ClientError::Config(_) => Exit::Usage,
        ClientError::Connect(ConnectError::CertificateRefused(_)) => Exit::Refused,
        ClientError::Refused(failure) => match failure.reason() {
            // The vault's own trouble, or only a matter of time.
            Some(
                Reason::Internal
                | Reason::Overloaded
                | Reason::StoreAway
                | Reason::Sealed
                | Reason::StillRunning
                | Reason::DeadlineExceeded
                | Reason::DestinationFailed
                | Reason::Unimplemented,
            )
            | None => Exit::Failed,
            Some(_) => Exit::Refused,
        },
        _ => Exit::Failed,
    }
}

/// A text as one line, and without the digits of a card if it holds one.
pub(crate) fn quiet(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if pan::holds_card_number(&line) { without_long_numbers(&line) } else { line }
}

/// A text without any number of twelve digits or more, single spaces and hyphens between digits ignored: also a mistyped
/// card number is nobody's business.
pub(crate) fn without_long_numbers(text: &str) -> String {
    const SHORTEST_CARD: usize = 12;
    let mut kept = String::with_capacity(text.len());
    let mut run = String::new();
    let flush = |run: &mut String, kept: &mut String| {
        if run.bytes().filter(u8::is_ascii_digit).count() >= SHORTEST_CARD {
            kept.push_str("(number hidden)");
            // A separator behind the last digit is the text's.
            kept.extend(run.chars().rev().take_while(|c| !c.is_ascii_digit()));
        } else {
            kept.push_str(run);
        }
        run.clear();
    };
    for c in text.chars() {
        match c {
            '0'..='9' => run.push(c),
            ' ' | '-' if run.ends_with(|last: char| last.is_ascii_digit()) => run.push(c),
            _ => {
                flush(&mut run, &mut kept);
                kept.push(c);
            }
        }
    }
    flush(&mut run, &mut kept);
    kept
}

#[cfg(test)]
mod tests {
    use vault_client::{Failure as Told, Reason};

    use super::*;

    #[test]
    fn a_line_never_holds_a_card_number_and_is_one_line() {
        for (text, line) in [
            ("unexpected argument '4111111111111111' found", "unexpected argument '(number hidden)' found"),
            ("a 4111 1111 1111 1111 b", "a (number hidden) b"),
            ("4111-1111-1111-1111", "(number hidden)"),
            ("lockdown 17;\n  epoch 20261123", "lockdown 17; epoch 20261123"),
            ("incident 0123456789ab", "incident 0123456789ab"),
        ] {
            assert_eq!(Failure::failed(text).to_string(), line);
        }
        assert_eq!(without_long_numbers("x 4111111111111112, y"), "x (number hidden), y");
        assert_eq!(without_long_numbers("12345678901 and 1-2-3"), "12345678901 and 1-2-3");
    }

    #[test]
    fn a_no_is_told_from_a_fault_by_the_exit_code() {
        let exit = |reason| Failure::from(ClientError::from(Told::new(reason, ""))).exit();
        for reason in Reason::ALL {
            let expected = match reason.as_str() {
                "INTERNAL" | "OVERLOADED" | "STORE_AWAY" | "SEALED" | "STILL_RUNNING"
                | "DEADLINE_EXCEEDED" | "DESTINATION_FAILED" | "UNIMPLEMENTED" => Exit::Failed,
                _ => Exit::Refused,
            };
            assert_eq!(exit(*reason), expected, "{}", reason.as_str());
        }
        assert_eq!(Failure::from(ClientError::Deadline).exit(), Exit::Failed);
        assert_eq!(Failure::from(ClientError::Config(String::new())).exit(), Exit::Usage);
        assert_eq!(Failure::from(Error::Custody).exit(), Exit::Refused);
        assert_eq!(Failure::from(Error::Overloaded).exit(), Exit::Failed);
        assert_eq!(Failure::from(StoreError::Missing).exit(), Exit::Failed);
        assert_eq!(Failure::from(StoreError::Exists).exit(), Exit::Refused);
    }
}
