//! Card networks, told from a card number's first digits and its length.
//!
//! The list is data: one is built in, and an operator may replace it whole. Refused: a list in which one number could
//! belong to two networks. No list is a check of a card number; a number without a network is still a number.

use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use toml::Spanned;

use crate::pan::{MAX_DIGITS, MIN_DIGITS, Pan, any_digits, holds_card_number};

/// The most digits of a prefix: an issuer identification number (ISO/IEC 7812-1:2017).
pub const MAX_PREFIX: usize = 8;
/// The largest list that is read, in bytes: a full BIN table has some hundred thousand lines and belongs elsewhere.
pub const MAX_LIST: usize = 256 * 1_024;

/// The longest id or name of a network, in bytes: it is shown beside every card.
const MAX_TEXT: usize = 63;
const LENGTHS: usize = MAX_DIGITS - MIN_DIGITS + 1;

const BUILT_IN: &str = include_str!("../data/networks.toml");

/// A card network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    id: String,
    name: String,
}

impl Network {
    /// How programs call it: `[a-z0-9-]`, 1 to 63 characters, such as `visa`. It stays the same from list to list.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A list of networks, ready to be asked.
#[derive(Debug, Clone, Default)]
pub struct Networks {
    version: u32,
    listed: Vec<Network>,
    // INVARIANT: entry n is for MIN_DIGITS + n digits, sorted by first number.
    by_length: [Vec<Segment>; LENGTHS],
}

/// From this eight-digit number on, up to the next segment, card numbers belong to this network or to none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    from: u32,
    network: Option<usize>,
}

/// Why a text is no list of networks, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworksError {
    /// The line, from 1 on.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for NetworksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl std::error::Error for NetworksError {}

impl Networks {
    /// The list in `data/networks.toml`, as it was when this was built.
    #[must_use]
    pub fn builtin() -> Self {
        // A test reads the same text. Were it broken, no card would have a network, and every card would still be safe.
        Self::parse(BUILT_IN).unwrap_or_default()
    }

    /// Reads a list of the form that `data/networks.toml` explains.
    pub fn parse(text: &str) -> Result<Self, NetworksError> {
        if text.len() > MAX_LIST {
            return Err(NetworksError {
                line: 1,
                problem: format!("the list is longer than {MAX_LIST} bytes"),
            });
        }
        let file: File =
            toml::from_str(text).map_err(|e| wrong(text, &e.span().unwrap_or(0..0), e.message()))?;
        let mut ids = HashSet::new();
        let mut listed = Vec::new();
        let mut ranges = Vec::new();
        for (number, entry) in file.network.into_iter().enumerate() {
            let network = entry.network(text)?;
            if !ids.insert(network.id.clone()) {
                return Err(wrong(text, &entry.id.span(), "a network of this id stands further up"));
            }
            listed.push(network);
            for range in &entry.ranges {
                range.add(number, text, &mut ranges)?;
            }
        }
        let mut by_length: [Vec<Segment>; LENGTHS] = Default::default();
        for (length, segments) in (MIN_DIGITS..).zip(&mut by_length) {
            let mut here: Vec<&Range> = ranges.iter().filter(|r| r.lengths.contains(&length)).collect();
            refuse_overlap(&mut here, text, length)?;
            *segments = flattened(&here);
        }
        Ok(Self { version: file.version, listed, by_length })
    }

    /// The number of the list, as its author counts.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The network of a card number: of all prefixes that fit at its length, the longest decides. One binary search.
    #[must_use]
    pub fn find(&self, pan: &Pan) -> Option<&Network> {
        let digits = pan.expose_digits().get(..MAX_PREFIX)?;
        let number = digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit & 0x0f));
        let segments = self.by_length.get(pan.len().checked_sub(MIN_DIGITS)?)?;
        let after = segments.partition_point(|segment| segment.from <= number);
        self.listed.get(segments.get(after.checked_sub(1)?)?.network?)
    }

    /// All networks of the list, in its order.
    pub fn iter(&self) -> impl Iterator<Item = &Network> {
        self.listed.iter()
    }
}

impl Networks {
    /// Whether any network has numbers that begin with these digits, 1 to 8 of them: as a whole or in part.
    #[must_use]
    pub fn any_within(&self, prefix: &str) -> bool {
        let Some((_, numbers)) = prefixes(prefix) else { return false };
        self.by_length.iter().any(|segments| {
            let (from, to) = (*numbers.start(), *numbers.end());
            let first = segments.partition_point(|s| s.from <= from).saturating_sub(1);
            segments.iter().skip(first).take_while(|s| s.from <= to).any(|s| s.network.is_some())
        })
    }
}

/// Whether bytes of any kind hold a card number that somebody issues: `shortest` to 19 digits between two group boundaries
/// that pass the Luhn check and that a network claims, see [`any_digits`]. Digits that no network claims are no card number
/// here: other numbers pass the Luhn check too.
#[must_use]
pub fn holds_issued_card(bytes: &[u8], shortest: usize, networks: &Networks) -> bool {
    any_digits(bytes, |run| {
        run.len() >= shortest && Pan::parse(run).is_ok_and(|pan| networks.find(&pan).is_some())
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    network: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: Spanned<String>,
    name: Spanned<String>,
    ranges: Vec<Ranges>,
}

impl Entry {
    fn network(&self, text: &str) -> Result<Network, NetworksError> {
        let id = self.id.as_ref();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if id.is_empty() || id.len() > MAX_TEXT || !id.bytes().all(plain) {
            return Err(wrong(text, &self.id.span(), "an id has 1 to 63 of a-z, 0-9 and hyphens"));
        }
        let name = self.name.as_ref();
        if name.is_empty() || name.len() > MAX_TEXT || name.chars().any(char::is_control) {
            return Err(wrong(text, &self.name.span(), "a name has 1 to 63 bytes and no control characters"));
        }
        Ok(Network { id: id.clone(), name: name.clone() })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ranges {
    prefixes: Vec<Spanned<String>>,
    lengths: Vec<Spanned<String>>,
}

impl Ranges {
    /// Adds every prefix at every run of lengths.
    fn add(&self, network: usize, text: &str, to: &mut Vec<Range>) -> Result<(), NetworksError> {
        // More would name one twice, and let a short text ask for long work.
        if let Some(more) = self.lengths.get(LENGTHS) {
            return Err(wrong(text, &more.span(), "a range has 8 lengths at most"));
        }
        for written in &self.lengths {
            let lengths = lengths(written.as_ref()).ok_or_else(|| {
                wrong(text, &written.span(), "a length is 12 to 19, or two of them such as 16-19")
            })?;
            for prefix in &self.prefixes {
                let (digits, numbers) = prefixes(prefix.as_ref()).ok_or_else(|| {
                    let problem = "a prefix has 1 to 8 digits; two of them, such as 51-55, equally many";
                    wrong(text, &prefix.span(), problem)
                })?;
                let at = prefix.span().start;
                to.push(Range { numbers, digits, lengths: lengths.clone(), network, at });
            }
        }
        Ok(())
    }
}

/// One prefix or run of prefixes, as the eight-digit numbers that begin with it.
struct Range {
    numbers: RangeInclusive<u32>,
    digits: usize,
    lengths: RangeInclusive<usize>,
    network: usize,
    /// Where in the text.
    at: usize,
}

/// `16` or `14-19`.
fn lengths(written: &str) -> Option<RangeInclusive<usize>> {
    let (low, high) = written.split_once('-').unwrap_or((written, written));
    let length = |text: &str| match *text.as_bytes() {
        [b'1', digit @ b'2'..=b'9'] => Some(usize::from(digit - b'0') + 10),
        _ => None,
    };
    let lengths = length(low)?..=length(high)?;
    (!lengths.is_empty()).then_some(lengths)
}

/// `4` or `51-55`: how many digits, and the eight-digit numbers that begin so.
fn prefixes(written: &str) -> Option<(usize, RangeInclusive<u32>)> {
    let (low, high) = written.split_once('-').unwrap_or((written, written));
    let digits = low.len();
    let all_digits = low.bytes().chain(high.bytes()).all(|b| b.is_ascii_digit());
    if digits != high.len() || !all_digits {
        return None;
    }
    let below = 10_u32.pow(u32::try_from(MAX_PREFIX.checked_sub(digits)?).ok()?);
    let numbers = low.parse::<u32>().ok()? * below..=high.parse::<u32>().ok()? * below + (below - 1);
    (!numbers.is_empty()).then_some((digits, numbers))
}

/// Refuses two prefixes of equal length that share a number: nothing would say whose it is.
fn refuse_overlap(ranges: &mut [&Range], text: &str, length: usize) -> Result<(), NetworksError> {
    ranges.sort_by_key(|range| (range.digits, *range.numbers.start()));
    for pair in ranges.windows(2) {
        if let [one, next] = pair
            && one.digits == next.digits
            && one.numbers.end() >= next.numbers.start()
        {
            let (first, second) = (one.at.min(next.at), one.at.max(next.at));
            let problem = format!("overlaps a prefix in line {} at {length} digits", line_of(text, first));
            return Err(wrong(text, &(second..second), &problem));
        }
    }
    Ok(())
}

/// Cuts nested ranges into segments side by side, each with the network of the longest prefix there. The ranges are
/// sorted by digits and then by number, and do not overlap at equal digits.
fn flattened(ranges: &[&Range]) -> Vec<Segment> {
    let owner = |from: u32| {
        (1..=MAX_PREFIX).rev().find_map(|digits| {
            let after = ranges.partition_point(|r| (r.digits, *r.numbers.start()) <= (digits, from));
            let nearest = ranges.get(after.checked_sub(1)?)?;
            (nearest.digits == digits && nearest.numbers.contains(&from)).then_some(nearest.network)
        })
    };
    let mut cuts: Vec<u32> = ranges.iter().flat_map(|r| [*r.numbers.start(), *r.numbers.end() + 1]).collect();
    cuts.sort_unstable();
    let mut segments: Vec<Segment> =
        cuts.into_iter().map(|from| Segment { from, network: owner(from) }).collect();
    segments.dedup_by(|next, one| next.network == one.network);
    segments
}

fn wrong(text: &str, span: &std::ops::Range<usize>, problem: &str) -> NetworksError {
    // The parser's words may quote a key or a value.
    let card = holds_card_number(problem);
    let problem = if card { "a card number stands where a key or a value belongs" } else { problem };
    NetworksError { line: line_of(text, span.start), problem: problem.to_owned() }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&b| b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number of `length` digits that begins with `prefix` and has a right check digit.
    fn pan(prefix: &str, length: usize) -> Pan {
        let body = format!("{prefix:0<width$}", width = length - 1);
        (b'0'..=b'9')
            .find_map(|check| Pan::parse(format!("{body}{}", char::from(check)).as_bytes()).ok())
            .unwrap()
    }

    fn found(networks: &Networks, prefix: &str, length: usize) -> String {
        networks.find(&pan(prefix, length)).map_or("none", Network::id).to_owned()
    }

    #[test]
    fn a_card_number_that_somebody_issues_is_found_in_bytes_of_any_kind() {
        let networks = Networks::builtin();
        let holds = |text: &str, shortest| holds_issued_card(text.as_bytes(), shortest, &networks);
        for text in [
            "4111111111111111",
            "x4111-1111 1111 1111y",
            "12-4111111111111111",
            "a\u{e9}378282246310005",
            "0000 4111111111111111",
        ] {
            assert!(holds(text, 12), "{text}");
        }
        for text in [
            "",
            "4111111111111112",           // no Luhn
            "1000000000000008",           // nobody's
            "04111111111111111",          // 17 digits, nobody's
            "41111111111111114111111111", // longer than any
            "4111  1111  1111  1111",
        ] {
            assert!(!holds(text, 12), "{text}");
        }
        assert!(!holds("378282246310005", 16) && holds("378282246310005", 15));
        assert!(holds_issued_card(b"\xff\xfe4111111111111111\x00", 12, &networks));
    }

    #[test]
    fn a_prefix_is_free_where_no_network_has_a_number_in_it() {
        let networks = Networks::builtin();
        for free in ["99", "990", "9999", "99999999", "96"] {
            assert!(!networks.any_within(free), "{free}");
        }
        for taken in ["4", "41", "51", "2221", "2720", "34", "60110000", "9792", "979", "62123456"] {
            assert!(networks.any_within(taken), "{taken}");
        }
        assert!(!Networks::default().any_within("4"));
    }

    #[test]
    fn the_built_in_list_is_read_whole() {
        let networks = Networks::parse(BUILT_IN).unwrap();
        assert_eq!(networks.version(), 1);
        assert_eq!(networks.iter().count(), BUILT_IN.matches("[[network]]").count());
        assert_eq!(Networks::builtin().iter().count(), networks.iter().count());
    }

    #[test]
    fn a_card_number_belongs_to_the_network_of_the_longest_prefix_at_its_length() {
        let networks = Networks::builtin();
        for (prefix, length, id) in [
            ("4", 16, "visa"),
            ("4", 13, "visa"),
            ("4", 19, "visa"),
            ("4", 14, "none"),
            ("401177", 16, "visa"),
            ("401178", 16, "elo"),
            ("401179", 16, "elo"),
            ("40118", 16, "visa"),
            ("401178", 13, "visa"),
            ("50", 16, "maestro"),
            ("51", 16, "mastercard"),
            ("55", 16, "mastercard"),
            ("55", 15, "none"),
            ("2220", 16, "none"),
            ("2221", 16, "mastercard"),
            ("2720", 16, "mastercard"),
            ("27209999", 16, "mastercard"),
            ("2721", 16, "none"),
            ("2200", 16, "mir"),
            ("2204", 19, "mir"),
            ("2205", 16, "borica"),
            ("34", 15, "amex"),
            ("37", 15, "amex"),
            ("37", 16, "none"),
            ("6011", 16, "discover"),
            ("644", 16, "discover"),
            ("643", 16, "none"),
            ("65", 19, "discover"),
            ("652150", 16, "rupay"),
            ("650002", 16, "verve"),
            ("650031", 16, "elo"),
            ("36", 14, "diners"),
            ("305", 14, "diners"),
            ("306", 14, "none"),
            ("3095", 16, "diners"),
            ("3528", 16, "jcb"),
            ("3589", 19, "jcb"),
            ("357111", 16, "lankapay"),
            ("62", 16, "unionpay"),
            ("622126", 19, "unionpay"),
            ("8171", 16, "unionpay"),
            ("8172", 16, "rupay"),
            ("5018", 12, "maestro"),
            ("6304", 19, "maestro"),
            ("6759", 13, "maestro"),
            ("5019", 16, "dankort"),
            ("6703", 17, "bancontact"),
            ("6703", 19, "maestro"),
            ("1", 15, "uatp"),
            ("1", 16, "none"),
            ("9792", 16, "troy"),
            ("9860", 16, "humo"),
            ("8600", 16, "uzcard"),
            ("5614", 16, "uzcard"),
            ("9704", 19, "napas"),
            ("9112", 16, "belcard"),
            ("506099", 18, "verve"),
            ("506198", 16, "verve"),
            ("506199", 16, "maestro"),
            ("606282", 16, "hipercard"),
            ("637095", 16, "hiper"),
            ("636", 16, "interpayment"),
            ("636297", 16, "elo"),
            ("60400099", 16, "none"),
            ("60400100", 16, "ukrcard"),
            ("60420099", 19, "ukrcard"),
            ("604201", 16, "cabal"),
            ("0", 12, "none"),
            ("99999999", 19, "none"),
        ] {
            assert_eq!(found(&networks, prefix, length), id, "{prefix} at {length}");
        }
    }

    #[test]
    fn every_range_of_the_built_in_list_is_found_at_both_its_ends_unless_a_longer_one_lies_there() {
        let file: File = toml::from_str(BUILT_IN).unwrap();
        let mut ranges = Vec::new();
        for (network, entry) in file.network.iter().enumerate() {
            entry.ranges.iter().for_each(|r| r.add(network, BUILT_IN, &mut ranges).unwrap());
        }
        let networks = Networks::builtin();
        for range in &ranges {
            for length in range.lengths.clone() {
                for number in [*range.numbers.start(), *range.numbers.end()] {
                    // The plain way: look at every range there is.
                    let fit = |r: &&Range| r.lengths.contains(&length) && r.numbers.contains(&number);
                    let best = ranges.iter().filter(fit).max_by_key(|r| r.digits).unwrap();
                    let id = file.network[best.network].id.as_ref();
                    assert_eq!(
                        &found(&networks, &format!("{number:08}"), length),
                        id,
                        "{number:08} at {length}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_two_entries_of_the_built_in_list_share_a_number() {
        let file: File = toml::from_str(BUILT_IN).unwrap();
        let mut ranges = Vec::new();
        for (network, entry) in file.network.iter().enumerate() {
            entry.ranges.iter().for_each(|r| r.add(network, BUILT_IN, &mut ranges).unwrap());
        }
        for (n, one) in ranges.iter().enumerate() {
            for other in ranges.iter().skip(n + 1).filter(|other| other.digits == one.digits) {
                let lengths =
                    one.lengths.start() <= other.lengths.end() && other.lengths.start() <= one.lengths.end();
                let numbers =
                    one.numbers.start() <= other.numbers.end() && other.numbers.start() <= one.numbers.end();
                assert!(!(lengths && numbers), "{:?} and {:?}", one.numbers, other.numbers);
            }
        }
    }

    #[test]
    fn an_operators_list_replaces_the_built_in_one_whole() {
        let list = "version = 7\n[[network]]\nid = \"own\"\nname = \"Our cards\"\nranges = [{ prefixes = [\"12345678\"], lengths = [\"16\"] }]\n";
        let networks = Networks::parse(list).unwrap();
        assert_eq!(networks.version(), 7);
        assert_eq!(networks.find(&pan("12345678", 16)).map(Network::name), Some("Our cards"));
        assert_eq!(found(&networks, "12345679", 16), "none");
        assert_eq!(found(&networks, "4", 16), "none");
    }

    #[test]
    fn a_wrong_list_is_refused_with_its_line() {
        let list = |prefixes: &str, lengths: &str| {
            format!(
                "version = 1\n[[network]]\nid = \"a\"\nname = \"A\"\nranges = [\n{{ prefixes = [{prefixes}], lengths = [{lengths}] }},\n]\n"
            )
        };
        assert!(Networks::parse(&list("\"4\"", "\"16\"")).is_ok());
        let more = |id: &str, prefix: &str| {
            format!(
                "{}[[network]]\nid = \"{id}\"\nname = \"B\"\nranges = [{{ prefixes = [\"{prefix}\"], lengths = [\"16-19\"] }}]\n",
                list("\"41-45\"", "\"16\"")
            )
        };
        assert!(Networks::parse(&more("b", "4")).is_ok(), "of unequal length");
        assert!(Networks::parse(&more("b", "46")).is_ok(), "side by side");
        for (text, line) in [
            (String::new(), 1),
            ("version = 1\nnetworks = []\n".to_owned(), 2),
            ("version = 1\n[[network]\n".to_owned(), 2),
            (list("\"\"", "\"16\""), 6),
            (list("\"123456789\"", "\"16\""), 6),
            (list("\"4a\"", "\"16\""), 6),
            (list("\"+4\"", "\"16\""), 6),
            (list("\"55-51\"", "\"16\""), 6),
            (list("\"5-51\"", "\"16\""), 6),
            (list("\"5-6-7\"", "\"16\""), 6),
            (list("\"4\"", "\"11\""), 6),
            (list("\"4\"", "\"20\""), 6),
            (list("\"4\"", "\"19-16\""), 6),
            (list("\"4\"", "\"016\""), 6),
            (list("\"4\", \"4\"", "\"16\""), 6),
            (list("\"4\"", "\"16\", \"15-17\""), 6),
            (list("\"4\"", &["\"16\""; 9].join(",")), 6),
            (more("a", "4"), 9),
            (more("B", "4"), 9),
            (more("", "4"), 9),
            (more("b", "43"), 11),
            (more("b", "40-41"), 11),
            (more("b", "45-49"), 11),
        ] {
            assert_eq!(Networks::parse(&text).map(|_| ()).map_err(|e| e.line), Err(line), "{text}");
        }
        assert!(Networks::parse(&" ".repeat(MAX_LIST + 1)).is_err());
        for text in ["4111111111111111 = 1\n", "version = \"4111 1111 1111 1111\"\n"] {
            let told = Networks::parse(text).err().unwrap().to_string();
            assert!(told.starts_with("line 1: a card number") && !told.contains("4111"), "{told}");
        }
    }
}
