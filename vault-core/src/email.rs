//! Electronic mail addresses (RFC 5321, 4.1.2): a local part of plain atoms, and a domain name.
//!
//! Refused: quoted local parts, address literals, and everything that is not ASCII; an internationalised domain comes in as
//! its `xn--` form. An [`Email`] has no Debug, Display, Clone, `PartialEq` or Serialize.

use std::fmt;

use crate::secret::SecretBytes;

/// The longest address, in bytes (RFC 5321, 4.5.3.1.3, less the angle brackets).
pub const MAX_EMAIL: usize = 254;
/// The longest local part, in bytes (RFC 5321, 4.5.3.1.1).
pub const MAX_LOCAL_PART: usize = 64;
/// The longest label of a domain name, in bytes (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// An address: local part as it was given, domain in lower case.
// INVARIANT: `at` is the place of the one `@`; both sides are as `parse` says.
pub struct Email {
    text: SecretBytes,
    at: usize,
}

/// Why bytes are no address. It reads after a field's name and never carries a character of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmailError {
    /// More than 254 bytes, or a local part of more than 64.
    Length,
    /// Not a local part of plain atoms, an `@`, and a domain.
    Form,
    /// A domain that is no name of two labels or more.
    Domain,
}

impl EmailError {
    /// The rule that was broken, as a sentence behind a field's name.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Length => "must have at most 254 bytes, 64 of them before the @",
            Self::Form => "must be an ASCII address with one @ and without quotes or spaces",
            Self::Domain => "must have a domain name of two labels or more",
        }
    }
}

impl fmt::Display for EmailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

impl std::error::Error for EmailError {}

impl Email {
    /// Reads an address. The domain is put into lower case, the local part is left: who hands it out may tell `A` from `a`
    /// (RFC 5321, 2.4), so two spellings are two addresses here.
    pub fn parse(written: &[u8]) -> Result<Self, EmailError> {
        if written.len() > MAX_EMAIL {
            return Err(EmailError::Length);
        }
        let at = written.iter().position(|b| *b == b'@').ok_or(EmailError::Form)?;
        let (local, domain) = written.split_at_checked(at).ok_or(EmailError::Form)?;
        if local.len() > MAX_LOCAL_PART {
            return Err(EmailError::Length);
        }
        if !local.split(|b| *b == b'.').all(is_atom) {
            return Err(EmailError::Form);
        }
        let domain = domain.get(1..).unwrap_or_default();
        if !is_domain(domain) {
            return Err(EmailError::Domain);
        }
        let mut text = SecretBytes::with_room(written.len());
        for byte in local.iter().copied().chain([b'@']).chain(domain.iter().map(u8::to_ascii_lowercase)) {
            text.push(byte).ok_or(EmailError::Length)?;
        }
        Ok(Self { text, at })
    }

    /// The address: for a cipher, a MAC or the one answer that may carry it.
    #[must_use]
    pub fn expose_text(&self) -> &[u8] {
        self.text.expose_bytes()
    }

    /// The domain, in lower case: 3 to 252 bytes.
    #[must_use]
    pub fn domain(&self) -> &str {
        let domain = self.text.expose_bytes().get(self.at + 1..).unwrap_or_default();
        std::str::from_utf8(domain).unwrap_or_default()
    }

    /// Whether both are the same address, in a time that depends on their lengths only.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.text.same_as(&other.text)
    }
}

/// An atom of a local part (RFC 5322, 3.2.3).
fn is_atom(atom: &[u8]) -> bool {
    !atom.is_empty() && atom.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(b))
}

/// Whether this is a domain name of two labels or more, the last of them no number (RFC 1123, 2.1; RFC 3696, 2).
#[must_use]
pub fn is_domain(domain: &[u8]) -> bool {
    let label = |label: &[u8]| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && label.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && !label.starts_with(b"-")
            && !label.ends_with(b"-")
    };
    let labels = domain.split(|b| *b == b'.');
    let last = domain.rsplit(|b| *b == b'.').next().unwrap_or_default();
    labels.clone().count() > 1 && labels.clone().all(label) && !last.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_with_its_domain_in_lower_case_and_its_local_part_as_it_is() {
        let long = format!("{}@{}.example", "a".repeat(64), "b".repeat(63));
        for (written, text, domain) in [
            ("Ada.Lovelace+card@Example.COM", "Ada.Lovelace+card@example.com", "example.com"),
            ("o'brien@mail.example.ie", "o'brien@mail.example.ie", "mail.example.ie"),
            ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example", "xn--bcher-kva.example"),
            (long.as_str(), long.as_str(), &long[65..]),
        ] {
            let read = Email::parse(written.as_bytes()).map_err(|e| e.to_string()).unwrap();
            assert_eq!((read.expose_text(), read.domain()), (text.as_bytes(), domain));
            assert!(read.same_as(&Email::parse(text.as_bytes()).ok().unwrap()));
        }
    }

    #[test]
    fn an_address_with_one_thing_wrong_is_refused_by_that_thing() {
        for (bad, why) in [
            (String::new(), EmailError::Form),
            ("ada".into(), EmailError::Form),
            ("@example.com".into(), EmailError::Form),
            ("a..b@example.com".into(), EmailError::Form),
            (".a@example.com".into(), EmailError::Form),
            ("a b@example.com".into(), EmailError::Form),
            ("\"a b\"@example.com".into(), EmailError::Form),
            ("ä@example.com".into(), EmailError::Form),
            ("a@b@example.com".into(), EmailError::Domain),
            ("a@".into(), EmailError::Domain),
            ("a@localhost".into(), EmailError::Domain),
            ("a@[192.0.2.1]".into(), EmailError::Domain),
            ("a@192.0.2.1".into(), EmailError::Domain),
            ("a@-example.com".into(), EmailError::Domain),
            ("a@example-.com".into(), EmailError::Domain),
            ("a@example..com".into(), EmailError::Domain),
            ("a@example.com.".into(), EmailError::Domain),
            ("a@b\u{fc}cher.example".into(), EmailError::Domain),
            (format!("a@{}.com", "b".repeat(64)), EmailError::Domain),
            (format!("{}@example.com", "a".repeat(65)), EmailError::Length),
            (format!("a@{}com", "b.".repeat(130)), EmailError::Length),
        ] {
            assert_eq!(Email::parse(bad.as_bytes()).err(), Some(why), "{bad}");
        }
    }
}
