//! What stands in a sealed card, and what seals it to its place.
//!
//! The plaintext is one JSON object (RFC 8259), so that a page of ten lines can write it, with spaces behind it as
//! padding: `{"v":1,"pan":"4111111111111111","exp":"2027-12"}`. On the way in it may also say until when it may be used
//! (`not_after`, seconds since 1970) and in which session (`session`). Refused: unknown and repeated keys, escapes in
//! strings, another version, no card number, a time that is over, another session.
//!
//! A card that is sealed for one merchant's channel opens on no other, and one for a recipient opens as no other's: both
//! stand in HPKE's `info`.

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::aead::{TAG, Unopened};
use crate::codec::Writer;
use crate::envelope::{KeyId, ctx};
use crate::hpke::PrivateKey;
use crate::name::{ChannelName, MerchantName, RecipientName};
use crate::pan::{CardExpiry, Pan};
use crate::time::Timestamp;

/// The version of the plaintext.
const VERSION: u8 = 1;

/// The longest sealed card, in bytes of ciphertext: a session of 128 bytes and room for padding.
pub const MAX_SEALED: usize = 1_024;

/// What goes out is padded to this, in bytes, so that a ciphertext does not tell a card number's length. The longest
/// plaintext of this version has 56.
const OUT: usize = 128;

/// How many days a key that was replaced still opens what was sealed to it: pages and apps that hold it go on working.
pub const OVERLAP_DAYS: u32 = 7;

/// How many days a key is to be used, at most; then it is replaced (SP 800-57 Part 1 Rev. 5, 5.3.6).
pub const PERIOD_DAYS: u32 = 90;

/// A card as it came, sealed to one of the vault's keys.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedCard {
    /// The key that it is sealed to.
    pub key: KeyId,
    /// The encapsulated key: 32 bytes, or it does not open.
    pub enc: Vec<u8>,
    /// The ciphertext, at most [`MAX_SEALED`] bytes.
    pub ciphertext: Vec<u8>,
}

/// The `info` of a card that is sealed to the vault: ctx("seal-in"), e(channel), key id u32.
#[must_use]
pub fn info_in(merchant: &MerchantName, channel: &ChannelName, key: KeyId) -> Vec<u8> {
    ctx("seal-in", merchant.as_str()).e(channel.as_str().as_bytes()).u32(key.0).done()
}

/// The `info` of a card that is sealed to a recipient: ctx("seal-out"), e(recipient).
#[must_use]
pub fn info_out(merchant: &MerchantName, recipient: &RecipientName) -> Vec<u8> {
    ctx("seal-out", merchant.as_str()).e(recipient.as_str().as_bytes()).done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    v: u8,
    #[serde(borrow)]
    pan: &'a str,
    #[serde(borrow, default)]
    exp: Option<&'a str>,
    #[serde(default)]
    not_after: Option<u64>,
    #[serde(borrow, default)]
    session: Option<&'a str>,
}

/// Reads an opened card: its number and its date. `session` is the request's own.
///
/// It says nothing of what is wrong, since who brings a sealed card may not be who wrote it.
pub fn read(plain: &[u8], now: Timestamp, session: &str) -> Result<(Pan, Option<CardExpiry>), Unopened> {
    let written: Written<'_> = serde_json::from_slice(plain).map_err(|_| Unopened)?;
    let in_time = written.not_after.is_none_or(|until| now.0 <= until.saturating_mul(1_000));
    let at_home = written.session.is_none_or(|bound| bound == session);
    if written.v != VERSION || !in_time || !at_home {
        return Err(Unopened);
    }
    let expiry = written.exp.map(CardExpiry::parse).transpose().map_err(|_| Unopened)?;
    Ok((Pan::parse(written.pan.as_bytes()).map_err(|_| Unopened)?, expiry))
}

/// Opens a card that was sealed to a recipient, with its private key.
pub fn open_out(
    key: &PrivateKey,
    merchant: &MerchantName,
    recipient: &RecipientName,
    enc: &[u8],
    ciphertext: &[u8],
) -> Result<(Pan, Option<CardExpiry>), Unopened> {
    let plain = key.open(&info_out(merchant, recipient), enc, ciphertext)?;
    // What goes out says neither until when nor in which session.
    read(&plain, Timestamp(u64::MAX), "")
}

/// The plaintext of a card for a recipient: 128 bytes, whatever the card.
#[must_use]
pub fn write(pan: &Pan, expiry: Option<CardExpiry>) -> Zeroizing<Vec<u8>> {
    let mut w = Writer::with_capacity(OUT); // never outgrown: a card number is written into it
    w.fixed(b"{\"v\":1,\"pan\":\"").fixed(pan.expose_digits()).u8(b'"');
    if let Some(expiry) = expiry {
        w.fixed(format!(",\"exp\":\"{:04}-{:02}\"", expiry.year(), expiry.month()).as_bytes());
    }
    let mut plain = Zeroizing::new(w.u8(b'}').done());
    plain.resize(OUT, b' ');
    plain
}

const _: () = assert!(OUT + TAG <= MAX_SEALED);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_767_225_600_500);

    fn taken(plain: &str, session: &str) -> Option<(String, Option<String>)> {
        let (pan, expiry) = read(plain.as_bytes(), NOW, session).ok()?;
        let digits = String::from_utf8(pan.expose_digits().to_vec()).unwrap();
        Some((digits, expiry.map(|e| e.to_string())))
    }

    #[test]
    fn a_card_is_read_as_it_was_written() {
        for (plain, expiry) in [
            (r#"{"v":1,"pan":"4111111111111111"}"#, None),
            (r#"{"v":1,"pan":"4111 1111-1111 1111","exp":"2027-12"}"#, Some("12/2027")),
            (r#"{"exp":"12/27","pan":"4111111111111111","v":1}      "#, Some("12/2027")),
            (r#"{"v":1,"pan":"4111111111111111","exp":null,"not_after":1767225601}"#, None),
            (r#"{"v":1,"pan":"4111111111111111","session":"s-1"}"#, None),
        ] {
            let told = taken(plain, "s-1");
            assert_eq!(told, Some(("4111111111111111".into(), expiry.map(str::to_owned))), "{plain}");
        }
    }

    #[test]
    fn what_is_anything_else_is_not_read() {
        for plain in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"v":1}"#,
            r#"{"pan":"4111111111111111"}"#,
            r#"{"v":2,"pan":"4111111111111111"}"#,
            r#"{"v":"1","pan":"4111111111111111"}"#,
            r#"{"v":1,"pan":4111111111111111}"#,
            r#"{"v":1,"pan":"4111111111111112"}"#,
            r#"{"v":1,"pan":"\u0034111111111111111"}"#,
            r#"{"v":1,"pan":"4111111111111111","pan":"5555555555554444"}"#,
            r#"{"v":1,"pan":"4111111111111111","cvv":"123"}"#,
            r#"{"v":1,"pan":"4111111111111111","exp":"2027-13"}"#,
            r#"{"v":1,"pan":"4111111111111111","not_after":1767225600}"#,
            r#"{"v":1,"pan":"4111111111111111","not_after":-1}"#,
            r#"{"v":1,"pan":"4111111111111111","session":"s-2"}"#,
            r#"{"v":1,"pan":"4111111111111111"}x"#,
            "{\"v\":1,\"pan\":\"4111111111111111\"}\0",
        ] {
            assert_eq!(taken(plain, "s-1"), None, "{plain}");
        }
    }

    #[test]
    fn what_goes_out_is_always_as_long_and_reads_back() {
        for digits in ["411111111117", "4111111111111111", "4111111111111111110"] {
            let Ok(pan) = Pan::parse(digits.as_bytes()) else { panic!("{digits} is no card number") };
            for expiry in [None, Some(CardExpiry::new(2099, 12).unwrap())] {
                let plain = write(&pan, expiry);
                assert_eq!(plain.len(), OUT);
                let text = std::str::from_utf8(&plain).unwrap();
                assert_eq!(taken(text, ""), Some((digits.to_owned(), expiry.map(|e| e.to_string()))));
            }
        }
    }

    #[test]
    fn every_place_has_an_info_of_its_own() {
        let (m, n) = (MerchantName::parse("m").unwrap(), MerchantName::parse("n").unwrap());
        let (web, app) = (ChannelName::parse("web").unwrap(), ChannelName::parse("app").unwrap());
        let r = RecipientName::parse("web").unwrap();
        let all = [
            info_in(&m, &web, KeyId(1)),
            info_in(&m, &web, KeyId(2)),
            info_in(&m, &app, KeyId(1)),
            info_in(&n, &web, KeyId(1)),
            info_out(&m, &r),
            info_out(&n, &r),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        // As the documents tell a client to build it.
        assert_eq!(all[0], b"pv1/seal-in\0\0\x01m\0\x03web\0\0\0\x01");
    }
}
