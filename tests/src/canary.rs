//! Card numbers that occur nowhere by chance, and a scanner that knows them in every form they could take.
//!
//! A form is bytes that the number always has, or bytes and the two half bytes beside them (packed digits that begin in
//! the middle of a byte). All forms of all canaries are looked for in one pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use aho_corasick::{AhoCorasick, Input};
use data_encoding::BASE64_NOPAD;

/// Bytes read at a time.
pub const CHUNK: usize = 8 << 20;
/// Bytes read again with the next chunk: more than the longest form, with the bytes around it that are shown.
pub const OVERLAP: usize = 256;
/// A page that was never written to.
const PAGE: [u8; 4_096] = [0; 4_096];
/// Bytes on each side of a finding that a failing test shows.
const AROUND: usize = 48;

/// How a card number was written where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Digits, one byte each.
    Ascii,
    /// Digits in groups of four with spaces between.
    Spaced,
    /// The same with hyphens.
    Hyphened,
    /// Two bytes a digit, the low one first.
    Utf16Le,
    /// The high one first.
    Utf16Be,
    /// Two digits a byte, the first in the high half.
    PackedHigh,
    /// The first in the low half.
    PackedLow,
    /// The values 0 to 9, one byte each.
    Values,
    /// An integer, low byte first.
    IntegerLe,
    /// High byte first.
    IntegerBe,
    /// Base64 (RFC 4648), the first digit's bits at the beginning of a group, after one byte, after two.
    Base64(u8),
}

/// What must stand in the half bytes around a match.
#[derive(Clone, Copy, Default)]
struct Halves {
    before: Option<u8>,
    after: Option<u8>,
}

struct Shape {
    canary: usize,
    form: Form,
    halves: Halves,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The canary's number.
    pub canary: usize,
    /// How it was written.
    pub form: Form,
    /// Where it begins, in bytes from the beginning of what was scanned.
    pub at: u64,
    /// What stands around it.
    pub around: String,
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "canary {} as {:?} at {:#x}: {}", self.canary, self.form, self.at, self.around)
    }
}

/// Draws card numbers, the same ones each time: what fails once fails again.
pub struct Breeder {
    state: u64,
    drawn: BTreeSet<String>,
}

impl Breeder {
    /// A breeder with a row of numbers of its own.
    pub fn new(seed: u64) -> Self {
        Self { state: seed | 1, drawn: BTreeSet::new() }
    }

    fn next(&mut self, below: u64) -> u64 {
        // xorshift64*: no promise but evenness is asked of it.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }

    /// Bytes of any kind.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| u8::try_from(self.next(256)).unwrap()).collect()
    }

    /// A card number of so many digits that passes the Luhn check.
    pub fn card(&mut self, length: usize) -> String {
        self.card_like("", length, "")
    }

    /// The same with given digits in front and at the end.
    pub fn card_like(&mut self, first: &str, length: usize, last: &str) -> String {
        let free = length - first.len() - last.len();
        loop {
            let middle: Vec<u8> = (0..free).map(|_| b'0' + u8::try_from(self.next(10)).unwrap()).collect();
            let digits = format!("{first}{}{last}", String::from_utf8(middle).unwrap());
            let monotonous = digits.bytes().collect::<BTreeSet<u8>>().len() < 5;
            if digits.starts_with('0') || monotonous || crate::cards::luhn(&digits) != 0 {
                continue;
            }
            if self.drawn.insert(digits.clone()) {
                return digits;
            }
        }
    }

    /// Digits that fail the Luhn check.
    pub fn mistyped(&mut self, length: usize) -> String {
        let right = self.card(length);
        let (front, last) = right.split_at(length - 1);
        let wrong = (last.parse::<u32>().unwrap() + 1 + u32::try_from(self.next(9)).unwrap()) % 10;
        let mistyped = format!("{front}{wrong}");
        self.drawn.remove(&right);
        self.drawn.insert(mistyped.clone());
        mistyped
    }

    /// Every number drawn.
    pub fn drawn(&self) -> impl Iterator<Item = &str> {
        self.drawn.iter().map(String::as_str)
    }
}

/// Looks for all canaries in all forms at once.
pub struct Scanner {
    machine: AhoCorasick,
    shapes: Vec<Shape>,
    canaries: Vec<String>,
}

/// What a scan saw.
#[derive(Default)]
pub struct Scan {
    /// Bytes looked at.
    pub bytes: u64,
    /// What was found, in order.
    pub sightings: Vec<Sighting>,
}

impl Scan {
    /// Adds another scan's findings.
    pub fn and(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.sightings.extend(other.sightings);
    }

    /// How many distinct canaries were seen.
    pub fn distinct(&self) -> usize {
        self.sightings.iter().map(|s| s.canary).collect::<BTreeSet<_>>().len()
    }

    /// How often each form was seen.
    pub fn forms(&self) -> BTreeMap<Form, usize> {
        let mut forms = BTreeMap::new();
        self.sightings.iter().for_each(|s| *forms.entry(s.form).or_default() += 1);
        forms
    }
}

impl Scanner {
    /// A scanner for these numbers, 12 to 20 digits each.
    pub fn new<'a>(canaries: impl IntoIterator<Item = &'a str>) -> Self {
        let canaries: Vec<String> = canaries.into_iter().map(str::to_owned).collect();
        let (mut patterns, mut shapes) = (Vec::new(), Vec::new());
        for (canary, digits) in canaries.iter().enumerate() {
            for (form, pattern, halves) in forms(digits) {
                patterns.push(pattern);
                shapes.push(Shape { canary, form, halves });
            }
        }
        let machine = AhoCorasick::new(&patterns).unwrap();
        Self { machine, shapes, canaries }
    }

    /// A canary's digits.
    pub fn digits(&self, canary: usize) -> &str {
        &self.canaries[canary]
    }

    /// How many forms of how many numbers are looked for.
    pub fn size(&self) -> (usize, usize) {
        (self.shapes.len(), self.canaries.len())
    }

    /// Looks through bytes.
    pub fn bytes(&self, bytes: &[u8]) -> Scan {
        let mut scan = Scan { bytes: bytes.len() as u64, sightings: Vec::new() };
        self.look(bytes, 0, 0, &mut scan.sightings);
        scan
    }

    /// Looks through a file of any size.
    pub fn file(&self, path: &Path) -> Scan {
        let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut scan = Scan::default();
        let (mut buffer, mut kept, mut base) = (vec![0; CHUNK + OVERLAP], 0, 0_u64);
        loop {
            let mut filled = kept;
            while filled < buffer.len() {
                match file.read(&mut buffer[filled..]).unwrap() {
                    0 => break,
                    read => filled += read,
                }
            }
            scan.bytes += (filled - kept) as u64;
            self.look(&buffer[..filled], kept, base, &mut scan.sightings);
            if filled < buffer.len() {
                return scan;
            }
            kept = OVERLAP;
            base += (filled - kept) as u64;
            buffer.copy_within(filled - kept.., 0);
        }
    }

    /// Looks through every file of a folder; the findings by file.
    pub fn folder(&self, folder: &Path) -> (Scan, Vec<String>) {
        let (mut all, mut told) = (Scan::default(), Vec::new());
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else if entry.file_type().unwrap().is_file() {
                    let scan = self.file(&entry.path());
                    told.extend(scan.sightings.iter().map(|s| format!("{}: {s}", entry.path().display())));
                    all.and(scan);
                }
            }
        }
        (all, told)
    }

    /// `seen`: what ends by there was told before.
    fn look(&self, bytes: &[u8], seen: usize, base: u64, found: &mut Vec<Sighting>) {
        // Most of a core image was never written to. No form is longer than a page, so none spans one of zeros.
        let mut from = 0;
        let mut pages = bytes.chunks(PAGE.len()).enumerate();
        loop {
            let end = pages.find(|(_, page)| *page == &PAGE[..page.len()]).map(|(at, _)| at * PAGE.len());
            let to = bytes.len().min(end.unwrap_or(bytes.len()) + OVERLAP);
            if from < to {
                self.look_from(bytes, from..to, seen, base, found);
            }
            match end {
                // The last bytes of zeros may be a form's first.
                Some(end) => from = to.max((end + PAGE.len()).saturating_sub(OVERLAP)),
                None => return,
            }
        }
    }

    fn look_from(&self, bytes: &[u8], part: Range<usize>, seen: usize, base: u64, found: &mut Vec<Sighting>) {
        for matched in self.machine.find_overlapping_iter(Input::new(bytes).range(part)) {
            let shape = &self.shapes[matched.pattern().as_usize()];
            let (start, end) = (matched.start(), matched.end());
            // What ended by then was told, unless the half byte behind it was still to come.
            let told = end < seen || end == seen && shape.halves.after.is_none();
            if told || !shape.halves.fit(bytes, start, end) {
                continue;
            }
            let around = &bytes[start.saturating_sub(AROUND)..bytes.len().min(end + AROUND)];
            let around = around.iter().flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
            found.push(Sighting { canary: shape.canary, form: shape.form, at: base + start as u64, around });
        }
    }
}

impl Halves {
    fn fit(self, bytes: &[u8], start: usize, end: usize) -> bool {
        let before = start.checked_sub(1).and_then(|at| bytes.get(at)).map(|b| b & 0x0F);
        let after = bytes.get(end).map(|b| b >> 4);
        (self.before.is_none() || self.before == before) && (self.after.is_none() || self.after == after)
    }
}

/// Every form of a number: the bytes that it always has.
fn forms(digits: &str) -> Vec<(Form, Vec<u8>, Halves)> {
    let whole = Halves::default();
    let grouped = |by: char| {
        let mut text = String::new();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && place % 4 == 0 {
                text.push(by);
            }
            text.push(digit);
        }
        text.into_bytes()
    };
    let values: Vec<u8> = digits.bytes().map(|b| b - b'0').collect();
    let mut forms = vec![
        (Form::Ascii, digits.as_bytes().to_vec(), whole),
        (Form::Spaced, grouped(' '), whole),
        (Form::Hyphened, grouped('-'), whole),
        (Form::Utf16Le, digits.bytes().flat_map(|b| [b, 0]).collect(), whole),
        (Form::Utf16Be, digits.bytes().flat_map(|b| [0, b]).collect(), whole),
        (Form::Values, values.clone(), whole),
    ];
    let (pairs, odd) = values.as_chunks::<2>();
    let packed = |pairs: &[[u8; 2]]| pairs.iter().map(|[high, low]| high << 4 | low).collect();
    forms.push((Form::PackedHigh, packed(pairs), Halves { before: None, after: odd.first().copied() }));
    let (first, rest) = values.split_first().unwrap();
    let (pairs, odd) = rest.as_chunks::<2>();
    forms.push((
        Form::PackedLow,
        packed(pairs),
        Halves { before: Some(*first), after: odd.first().copied() },
    ));
    if let Ok(number) = digits.parse::<u64>() {
        forms.push((Form::IntegerLe, number.to_le_bytes().to_vec(), whole));
        forms.push((Form::IntegerBe, number.to_be_bytes().to_vec(), whole));
    }
    for phase in 0..3_u8 {
        let before = usize::from(phase);
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(digits.as_bytes());
        let text = BASE64_NOPAD.encode(&bytes).into_bytes();
        // Only characters whose six bits are all the number's own.
        let (from, to) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        forms.push((Form::Base64(phase), text[from..to].to_vec(), whole));
    }
    forms
}
