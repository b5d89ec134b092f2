//! International bank account numbers (ISO 13616-1): country, two check digits, and a basic account number (BBAN) whose
//! form each country fixes.
//!
//! Refused: a country that the registry does not list, a BBAN of another form, wrong check digits. An [`Iban`] has no
//! Debug, Display, Clone, `PartialEq` or Serialize; no error here carries a character of it.

use std::fmt;

use crate::secret::SecretBytes;

/// The most characters of an IBAN (ISO 13616-1, 6.1).
pub const MAX_IBAN: usize = 34;
/// The fewest characters of an IBAN in use: Norway's. Tokens of older or shorter countries need no more room.
pub const MIN_IBAN: usize = 15;

/// A number as people may write it: every character, and one space between any two.
const MAX_WRITTEN: usize = 2 * MAX_IBAN - 1;
/// The modulus of the check digits (ISO/IEC 7064, MOD 97-10), and what a right number leaves.
const MODULUS: u32 = 97;
const RIGHT: u32 = 1;

const REGISTRY: &str = include_str!("../data/iban.txt");

/// What may stand at one place of an account number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `n`: a digit.
    Digit,
    /// `a`: an upper-case letter.
    Letter,
    /// `c`: a digit or an upper-case letter.
    Either,
}

impl Class {
    /// Whether this byte may stand there.
    #[must_use]
    pub fn takes(self, byte: u8) -> bool {
        match self {
            Self::Digit => byte.is_ascii_digit(),
            Self::Letter => byte.is_ascii_uppercase(),
            Self::Either => byte.is_ascii_digit() || byte.is_ascii_uppercase(),
        }
    }

    /// How many characters may stand there.
    #[must_use]
    pub fn size(self) -> u64 {
        match self {
            Self::Digit => 10,
            Self::Letter => 26,
            Self::Either => 36,
        }
    }
}

/// A country of the registry, two upper-case letters (ISO 3166-1 alpha-2; `XK` for Kosovo).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Country([u8; 2]);

impl Country {
    /// One of the registry's countries.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let country = Self(text.as_bytes().try_into().ok()?);
        country.line().map(|_| country)
    }

    /// Every country of the registry, in the alphabet's order.
    pub fn all() -> impl Iterator<Item = Self> {
        lines().filter_map(|(name, _)| name.as_bytes().try_into().ok().map(Self))
    }

    /// Its two letters.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 2] {
        &self.0
    }

    /// What each place of the BBAN takes, from the left: 11 to 30 places.
    #[must_use]
    pub fn places(self) -> Vec<Class> {
        let mut places = Vec::with_capacity(MAX_IBAN);
        for run in self.line().unwrap_or_default().split_ascii_whitespace() {
            let (class, count) = run.split_at_checked(1).unwrap_or_default();
            let class = match class {
                "n" => Class::Digit,
                "a" => Class::Letter,
                _ => Class::Either,
            };
            places.extend(std::iter::repeat_n(class, count.parse().unwrap_or(0)));
        }
        places
    }

    fn line(self) -> Option<&'static str> {
        lines().find(|(name, _)| name.as_bytes() == self.0).map(|(_, runs)| runs)
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

fn lines() -> impl Iterator<Item = (&'static str, &'static str)> {
    REGISTRY.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '))
}

/// An international bank account number: 15 to 34 characters that fit the registry and leave 1 modulo 97.
// INVARIANT: upper case, no separators; the first two characters are `country`.
pub struct Iban {
    text: SecretBytes,
    country: Country,
}

/// Why bytes are no IBAN. It reads after a field's name and never carries a character of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IbanError {
    /// Not as long as the country's numbers are, or longer than 34 characters.
    Length,
    /// Something besides ASCII letters and digits with single spaces between them.
    Alphabet,
    /// Two letters that the registry does not list.
    Country,
    /// A letter where the country has digits, or the other way round.
    Form,
    /// Not 1 modulo 97 (ISO/IEC 7064, MOD 97-10).
    CheckDigits,
}

impl IbanError {
    /// The rule that was broken, as a sentence behind a field's name.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Length => "must be as long as the country's numbers are",
            Self::Alphabet => "may hold only letters and digits, with single spaces between them",
            Self::Country => "must begin with a country of the IBAN registry",
            Self::Form => "must have the country's form of letters and digits",
            Self::CheckDigits => "must have right check digits",
        }
    }
}

impl fmt::Display for IbanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

impl std::error::Error for IbanError {}

impl Iban {
    /// Reads a number in electronic form or with single spaces between any two characters; lower case is raised.
    pub fn parse(written: &[u8]) -> Result<Self, IbanError> {
        if written.len() > MAX_WRITTEN {
            return Err(IbanError::Length);
        }
        let mut text = SecretBytes::with_room(MAX_IBAN);
        let mut after_space = true;
        for &byte in written {
            match byte {
                b' ' if !after_space => after_space = true,
                _ if byte.is_ascii_alphanumeric() => {
                    text.push(byte.to_ascii_uppercase()).ok_or(IbanError::Length)?;
                    after_space = false;
                }
                _ => return Err(IbanError::Alphabet),
            }
        }
        if after_space && !text.is_empty() {
            return Err(IbanError::Alphabet);
        }
        let (&name, rest) = text.expose_bytes().split_first_chunk::<2>().ok_or(IbanError::Length)?;
        let country = std::str::from_utf8(&name).ok().and_then(Country::parse).ok_or(IbanError::Country)?;
        fits(country, rest)?;
        if remainder(text.expose_bytes()) != RIGHT {
            return Err(IbanError::CheckDigits);
        }
        Ok(Self { text, country })
    }

    /// The number in electronic form: for a cipher, a MAC or the one answer that may carry it.
    #[must_use]
    pub fn expose_text(&self) -> &[u8] {
        self.text.expose_bytes()
    }

    /// Whose number it is.
    #[must_use]
    pub fn country(&self) -> Country {
        self.country
    }

    /// How many characters, 15 to 34.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no account number is empty")]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// The last four characters.
    #[must_use]
    pub fn last_four(&self) -> &[u8] {
        let text = self.text.expose_bytes();
        text.get(text.len().saturating_sub(4)..).unwrap_or_default()
    }

    /// Whether both are the same number, in a time that does not tell where they differ.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.text.same_as(&other.text)
    }
}

/// Check digits and BBAN against the country's form.
fn fits(country: Country, rest: &[u8]) -> Result<(), IbanError> {
    let places = country.places();
    let (check, bban) = rest.split_at_checked(2).ok_or(IbanError::Length)?;
    if bban.len() != places.len() {
        return Err(IbanError::Length);
    }
    let digits = check.iter().all(u8::is_ascii_digit);
    if !digits || !bban.iter().zip(places).all(|(byte, class)| class.takes(*byte)) {
        return Err(IbanError::Form);
    }
    Ok(())
}

/// What a number in electronic form leaves modulo 97, its first four characters moved to the end and letters counted as
/// 10 to 35 (ISO 13616-1, 7; ISO/IEC 7064). Of an IBAN it is 1.
#[must_use]
pub fn remainder(text: &[u8]) -> u32 {
    let (front, bban) = text.split_at_checked(4).unwrap_or((text, &[]));
    bban.iter().chain(front).fold(0, |sum, &byte| match byte {
        b'A'..=b'Z' => (sum * 100 + u32::from(byte - b'A') + 10) % MODULUS,
        _ => (sum * 10 + u32::from(byte & 0x0f)) % MODULUS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iban(text: &str) -> Result<Iban, IbanError> {
        Iban::parse(text.as_bytes())
    }

    #[test]
    fn the_registrys_lines_are_countries_in_order_with_numbers_of_15_to_34_characters() {
        let countries: Vec<Country> = Country::all().collect();
        assert!(countries.len() >= 89);
        assert!(countries.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (name, runs) in lines() {
            assert!(name.len() == 2 && name.bytes().all(|b| b.is_ascii_uppercase()), "{name}");
            let well_formed = |run: &str| {
                let (class, count) = run.split_at(1);
                ["n", "a", "c"].contains(&class) && count.parse::<usize>().is_ok_and(|n| n > 0)
            };
            assert!(runs.split(' ').all(well_formed), "{name} {runs}");
            let whole = 4 + Country::parse(name).unwrap().places().len();
            assert!((MIN_IBAN..=MAX_IBAN).contains(&whole), "{name} {whole}");
        }
    }

    #[test]
    fn the_registrys_examples_are_taken_and_shown_in_electronic_form() {
        for (written, text) in [
            ("GB29 NWBK 6016 1331 9268 19", "GB29NWBK60161331926819"),
            ("DE89 3704 0044 0532 0130 00", "DE89370400440532013000"),
            ("NO93 8601 1117 947", "NO9386011117947"),
            ("MT84 MALT 0110 0001 2345 MTLC AST0 01S", "MT84MALT011000012345MTLCAST001S"),
            ("FR14 2004 1010 0505 0001 3M02 606", "FR1420041010050500013M02606"),
            ("BR18 0036 0305 0000 1000 9795 493C 1", "BR1800360305000010009795493C1"),
            ("LC55HEMM000100010012001200023015", "LC55HEMM000100010012001200023015"),
            ("nl91abna0417164300", "NL91ABNA0417164300"),
            ("BE68539007547034", "BE68539007547034"),
            ("SE4550000000058398257466", "SE4550000000058398257466"),
            ("CH9300762011623852957", "CH9300762011623852957"),
            ("AT611904300234573201", "AT611904300234573201"),
            ("IT60X0542811101000000123456", "IT60X0542811101000000123456"),
            ("ES9121000418450200051332", "ES9121000418450200051332"),
            ("PL61109010140000071219812874", "PL61109010140000071219812874"),
            ("TR330006100519786457841326", "TR330006100519786457841326"),
            ("SC18SSCB11010000000000001497USD", "SC18SSCB11010000000000001497USD"),
            ("MU17BOMM0101101030300200000MUR", "MU17BOMM0101101030300200000MUR"),
            ("EG380019000500000000263180002", "EG380019000500000000263180002"),
            ("UA213223130000026007233566001", "UA213223130000026007233566001"),
        ] {
            let read = iban(written).map_err(|e| format!("{written}: {e}")).unwrap();
            assert_eq!(read.expose_text(), text.as_bytes());
            assert_eq!(read.country().to_string(), text[..2]);
            assert_eq!((read.len(), read.last_four()), (text.len(), &text.as_bytes()[text.len() - 4..]));
            assert_eq!(remainder(text.as_bytes()), 1);
            assert!(read.same_as(&iban(text).map_err(|e| e.to_string()).unwrap()));
        }
    }

    #[test]
    fn an_iban_with_one_thing_wrong_is_refused_by_that_thing() {
        for (bad, why) in [
            ("", IbanError::Length),
            ("D", IbanError::Length),
            ("DE", IbanError::Length),
            ("DE8937040044053201300", IbanError::Length),
            ("DE893704004405320130001", IbanError::Length),
            ("DE89370400440532013000 DE89370400440532013000 DE8937040044053201300", IbanError::Length),
            ("US89370400440532013000", IbanError::Country),
            ("ZZ89370400440532013000", IbanError::Country),
            ("8937", IbanError::Country),
            ("DE88370400440532013000", IbanError::CheckDigits),
            ("DE89370400440532013001", IbanError::CheckDigits),
            ("DE89370400440532013O00", IbanError::Form),
            ("DEA9370400440532013000", IbanError::Form),
            ("GB29NWB160161331926819", IbanError::Form),
            ("DE89-3704-0044-0532-0130-00", IbanError::Alphabet),
            ("DE89  370400440532013000", IbanError::Alphabet),
            (" DE89370400440532013000", IbanError::Alphabet),
            ("DE89370400440532013000 ", IbanError::Alphabet),
            ("DE8937040044053201300é", IbanError::Alphabet),
        ] {
            assert_eq!(iban(bad).err(), Some(why), "{bad}");
        }
    }

    #[test]
    fn every_single_wrong_digit_and_every_swap_of_neighbours_is_seen() {
        let right = b"DE89370400440532013000";
        for place in 2..right.len() {
            for digit in b'0'..=b'9' {
                let mut wrong = *right;
                wrong[place] = digit;
                assert_eq!(Iban::parse(&wrong).is_ok(), wrong == *right);
            }
            let mut swapped = *right;
            swapped.swap(place - 1, place);
            assert_eq!(Iban::parse(&swapped).is_ok(), swapped == *right);
        }
    }
}
