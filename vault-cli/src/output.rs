//! What a command tells: plain text for people or JSON for programs on standard output, all else on standard error.
//!
//! With `--json` standard output holds one JSON document, or one per line where answers come one after the other, and
//! nothing else. A reader that has seen enough and closes the pipe is no failure.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::fail::{Failure, quiet};

/// How a command tells what it did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    json: bool,
}

impl Out {
    /// As JSON, or as text.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON is wanted.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Tells a value: as one line of JSON, or as `plain`, a newline after each.
    pub(crate) fn tell<T: Serialize + ?Sized>(
        self,
        value: &T,
        plain: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let mut told = Zeroizing::new(Vec::new());
        if self.json {
            serde_json::to_writer(&mut *told, value).map_err(Failure::failed)?;
        } else {
            told.extend_from_slice(Zeroizing::new(plain(value)).trim_end_matches('\n').as_bytes());
        }
        // Nothing to say is not an empty line.
        if !told.is_empty() {
            told.push(b'\n');
        }
        write(&told)
    }

    /// Tells a list: as one JSON array, or as a table with a line of headers; `none` where it is empty.
    pub(crate) fn tell_table<T: Serialize, const N: usize>(
        self,
        rows: &[T],
        headers: [&str; N],
        cells: impl Fn(&T) -> [String; N],
        none: &str,
    ) -> Result<(), Failure> {
        self.tell(rows, |rows| {
            if rows.is_empty() { none.to_owned() } else { table(headers, rows.iter().map(cells).collect()) }
        })
    }
}

/// Bytes to standard output, as they are.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed(format_args!(
            "standard output: {error}; nothing is told where it cannot be read"
        ))),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A line for the person at the terminal, on standard error: never part of the answer.
pub(crate) fn note(line: &str) {
    note_line(&quiet(line));
}

fn note_line(line: &str) {
    // Nobody is left to be told where standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Lines for the person at the terminal, on standard error.
pub(crate) fn note_text(text: &str) {
    text.lines().for_each(note_line);
}

/// A question for the person at the terminal, on standard error, the cursor behind it.
pub(crate) fn ask(question: &str) {
    let mut error = io::stderr().lock();
    let _ = write!(error, "{question}").and_then(|()| error.flush());
}

/// Whether a person reads the answer, and not a file or another program.
pub(crate) fn is_seen() -> bool {
    io::stdout().is_terminal()
}

/// Columns, each as wide as its longest cell, two spaces apart; the last one is not filled up.
pub(crate) fn table<const N: usize>(headers: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut lines = vec![headers.map(str::to_owned)];
    lines.extend(rows);
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut filled = String::new();
        for (width, cell) in widths.iter().zip(line) {
            // Writing to a String cannot fail.
            let _ = write!(filled, "{cell:<width$}  ");
        }
        text.push_str(filled.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell_and_lines_have_no_tail() {
        let rows =
            vec![["a".into(), "long cell".into(), "x".into()], ["bcd".into(), "-".into(), String::new()]];
        assert_eq!(table(["ID", "WHAT", "É"], rows), "ID   WHAT       É\na    long cell  x\nbcd  -\n");
    }
}
