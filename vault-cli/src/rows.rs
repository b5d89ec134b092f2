//! A CSV file, record by record, each with the number of the line that it begins in.
//!
//! What cannot be read is told by that number, never by its content.

use std::fs::File;
use std::io::{Chain, Read};
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder, StringRecord, Terminator, Trim};

use crate::fail::Failure;

/// A file that is being read.
pub struct Rows<R = File> {
    reader: csv::Reader<Chain<R, &'static [u8]>>,
    /// Bytes of the file and its end, where only a quotation that is never closed gets to.
    whole: u64,
}

/// Every line has its end, so that lines can be counted: the crate's own numbers are those of the line before where lines end
/// as on Windows, and of the first of the empty lines before it. The second one is read by no line.
const END: &[u8] = b"\n\n";

/// A record: its line's number, from 1, and its fields as they stand; none where it is no CSV in UTF-8.
pub type Row = (u64, Option<StringRecord>);

impl Rows {
    /// Opens a file, whose first line names its columns or does not.
    pub fn open(file: &Path, headers: bool) -> Result<Self, Failure> {
        let opened = File::open(file).map_err(|e| told(file, &e))?;
        let length = opened.metadata().map_err(|e| told(file, &e))?.len();
        Self::of(opened, length, headers).map_err(|rule| told(file, &rule))
    }
}

impl<R: Read> Rows<R> {
    /// The same of any bytes, so many of them. The error is the rule that the first line breaks.
    pub fn of(bytes: R, length: u64, headers: bool) -> Result<Self, &'static str> {
        let mut builder = ReaderBuilder::new();
        builder.has_headers(headers).flexible(true).trim(Trim::Headers).terminator(Terminator::Any(b'\n'));
        let mut reader = builder.from_reader(bytes.chain(END));
        if headers {
            reader.headers().map_err(|_| "its first line is no line of CSV in UTF-8")?;
        }
        Ok(Self { reader, whole: length + END.len() as u64 })
    }

    /// The names in the first line, without the white space around them.
    pub fn headers(&mut self) -> StringRecord {
        // Read before, if there are any.
        self.reader.headers().cloned().unwrap_or_default()
    }

    /// Where the column of that name is.
    pub fn column(&mut self, name: &str) -> Option<usize> {
        self.headers().iter().position(|header| header == name)
    }

    fn read(&mut self) -> Option<Row> {
        // As bytes, since lines are counted in what is no text, too.
        let mut record = ByteRecord::new();
        match self.reader.read_byte_record(&mut record) {
            Ok(false) => None,
            Ok(true) => {
                let inside = record.iter().flatten().filter(|b| **b == b'\n').count();
                Some((self.line(inside), StringRecord::from_byte_record(record).ok().map(without_return)))
            }
            Err(_) => Some((self.line(0), None)),
        }
    }

    /// The line of the record that was read last, with so many line breaks inside.
    fn line(&self, inside: usize) -> u64 {
        let next = self.reader.position();
        let closed = u64::from(next.byte() < self.whole);
        next.line().saturating_sub(closed).saturating_sub(u64::try_from(inside).unwrap_or(u64::MAX))
    }
}

impl<R: Read> Iterator for Rows<R> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        loop {
            let (line, record) = self.read()?;
            // An empty line is none, whatever ends it.
            let empty =
                record.as_ref().is_some_and(|r| r.len() == 1 && r.iter().all(|f| f.trim().is_empty()));
            if !empty {
                return Some((line, record));
            }
        }
    }
}

/// A line may end as on Windows.
fn without_return(record: StringRecord) -> StringRecord {
    let last = record.len().saturating_sub(1);
    if !record.get(last).is_some_and(|field| field.ends_with('\r')) {
        return record;
    }
    let field = |(at, field): (usize, &str)| {
        if at == last { field.strip_suffix('\r').unwrap_or(field).to_owned() } else { field.to_owned() }
    };
    record.iter().enumerate().map(field).collect()
}

fn told(file: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::refused(format_args!("{}: {e}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], headers: bool) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file.csv");
        std::fs::write(&file, text).unwrap();
        let rows = Rows::open(&file, headers).unwrap_or_else(|e| panic!("{e}"));
        let told = |(line, record): Row| {
            let fields = record.map(|record| record.iter().collect::<Vec<_>>().join("|"));
            format!("{line} {}", fields.unwrap_or_else(|| "unread".to_owned()))
        };
        rows.map(told).collect()
    }

    #[test]
    fn every_record_has_the_number_of_the_line_that_it_begins_in_however_lines_end() {
        for (text, headers, wanted) in [
            ("a,b\nc,d\n", false, vec!["1 a|b", "2 c|d"]),
            ("a,b\nc,d", false, vec!["1 a|b", "2 c|d"]),
            ("a,b\r\nc,\"d\"\r\n\r\ne\r\n", false, vec!["1 a|b", "2 c|d", "4 e"]),
            ("a\n\n\nb\n\n", false, vec!["1 a", "4 b"]),
            ("a,\"x\ny\"\n\nb,\"z\n\nq\"\nc", false, vec!["1 a|x\ny", "4 b|z\n\nq", "7 c"]),
            ("a,\"x\r\ny\"\r\nb\r\n", false, vec!["1 a|x\r\ny", "3 b"]),
            ("\u{feff}token , name\r\n 1 ,2\r\n", true, vec!["2  1 |2"]),
            ("a\n\"b\n", false, vec!["1 a", "2 b\n\n\n"]),
            ("a\n\"b\n\"", false, vec!["1 a", "2 b\n"]),
            ("", false, vec![]),
            ("\n \n", false, vec![]),
        ] {
            assert_eq!(read(text.as_bytes(), headers), wanted, "{text:?}");
        }
        assert_eq!(read(b"a\n\xff\nb\n", false), ["1 a", "2 unread", "3 b"]);
        assert_eq!(read(b"a\n\"\xff\nb\n\"\nc\n", false), ["1 a", "2 unread", "5 c"]);
        assert_eq!(read(b"a\n\"\xff\n0", false), ["1 a", "2 unread"], "a quotation that is never closed");
    }

    #[test]
    fn a_column_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file.csv");
        std::fs::write(&file, "\u{feff} token ,name\r\n1,2\r\n").unwrap();
        let mut rows = Rows::open(&file, true).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(["token", "name", "none"].map(|name| rows.column(name)), [Some(0), Some(1), None]);
    }
}
