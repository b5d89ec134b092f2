//! Shares as custodian: a key is split so that any `k` of `n` people together open the root, and `k - 1` learn nothing.
//!
//! The split is Shamir's over GF(256), of 32 random bytes that wrap the root and the erasure epoch key. Each share is 32 bytes
//! that are random by themselves, has a text form that can be typed, and can be checked alone by who holds it, against a
//! verifier in the block.
//!
//! Refused: a share whose checksum does not fit, shares of different splits, fewer shares than it takes. Shares that do not
//! open say only [`Error::Custody`], never which of them is wrong.

use std::convert::Infallible;

use data_encoding::{Encoding, Specification};
use ring::{digest, hmac};
use vsss_rs::Gf256;
use zeroize::{Zeroize as _, Zeroizing};

use ::hpke::rand_core::{TryCryptoRng, TryRng};

use super::{Custodian, CustodyBlock, SHARES, aad};
use crate::aead::Xaes;
use crate::codec::{Reader, Torn, Writer};
use crate::envelope::{KeyKind, check_value, ctx, first};
use crate::error::Error;
use crate::random;
use crate::secret::{Secret32, same_bytes};

/// The fewest shares that open: with one, nothing would be split (PCI DSS 4.0.1, 3.7.6, split knowledge).
pub const MIN_THRESHOLD: u8 = 2;

/// The most shares of a split: more people than that are not custodians but an audience. A share's number has four bits.
pub const MAX_SHARES: u8 = 16;

/// The most bytes that are read as a share's text: 88 as it is shown, with room for spaces between its groups.
pub const MAX_SHARE_TEXT: usize = 256;

/// How every share's text of this version begins.
const PREFIX: &str = "pvs1";

/// Characters between two hyphens of a share's text.
const GROUP_OF_SHARE: usize = 6;

/// Bytes of a share's text: vault 4, split 4, numbers 1, share 32, checksum 4.
const TEXT_BYTES: usize = 45;
const CHECKSUM: usize = 4;
const VERIFIER: usize = 16;

/// Names a split: random, so that shares of an earlier one are told apart from those in force.
pub type SplitId = [u8; 4];

/// One share: what one person holds.
///
/// It has no Debug, Display, Clone, `PartialEq` or Serialize.
pub struct Share {
    vault: [u8; 4],
    split: SplitId,
    threshold: u8,
    number: u8,
    secret: Secret32,
}

impl Share {
    /// Reads a share's text: `pvs1-` and 72 characters of Crockford's base32 in whatever groups and case. `o` is read as 0,
    /// `i` and `l` as 1.
    ///
    /// Errors: malformed `share`, with the rule that it breaks.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let wrong = |rule| Error::malformed("share", rule);
        if text.len() > MAX_SHARE_TEXT {
            return Err(wrong("is too long: one share has 88 characters"));
        }
        let mut typed = Zeroizing::new(Vec::with_capacity(MAX_SHARE_TEXT));
        typed.extend(text.iter().filter(|b| !b.is_ascii_whitespace() && **b != b'-'));
        typed.make_ascii_lowercase();
        let body = typed.strip_prefix(PREFIX.as_bytes());
        let body = body.ok_or_else(|| wrong("must begin with pvs1-"))?;
        let encoding = crockford().ok_or_else(Error::internal)?;
        let bytes = encoding.decode(body).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| wrong("has a character that belongs in no share, or one too few"))?;
        let (said, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or_else(|| wrong("is too short"))?;
        if said.len() + CHECKSUM != TEXT_BYTES {
            return Err(wrong("must have 72 characters after pvs1-"));
        }
        if checksum(said) != *sum {
            return Err(wrong("has a typing error: its checksum does not fit"));
        }
        Self::read(said).map_err(|Torn| wrong("is of no split that can be"))
    }

    fn read(bytes: &[u8]) -> Result<Self, Torn> {
        let mut r = Reader::new(bytes);
        let (vault, split, numbers) = (r.array()?, r.array()?, r.u8()?);
        let (threshold, number) = ((numbers >> 4) + 1, (numbers & 0x0F) + 1);
        if threshold < MIN_THRESHOLD {
            return Err(Torn);
        }
        let share = r.fixed(32)?;
        r.end()?;
        let secret = Secret32::filled_by(|b| b.copy_from_slice(share));
        Ok(Self { vault, split, threshold, number, secret })
    }

    /// The share's text, 88 characters. Whoever has it has the share.
    #[must_use]
    pub fn expose_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(TEXT_BYTES));
        bytes.extend_from_slice(&self.vault);
        bytes.extend_from_slice(&self.split);
        bytes.push(((self.threshold.wrapping_sub(1)) << 4) | (self.number.wrapping_sub(1) & 0x0F));
        bytes.extend_from_slice(self.secret.expose_bytes());
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        let digits = Zeroizing::new(crockford().map_or_else(String::new, |c| c.encode(&bytes)));
        let mut text = Zeroizing::new(String::with_capacity(MAX_SHARE_TEXT));
        text.push_str(PREFIX);
        for (at, digit) in digits.chars().enumerate() {
            if at % GROUP_OF_SHARE == 0 {
                text.push('-');
            }
            text.push(digit);
        }
        text
    }

    /// Which of the shares it is, from 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// How many shares open.
    #[must_use]
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// Of which split.
    #[must_use]
    pub fn split(&self) -> SplitId {
        self.split
    }

    /// Whether it says that it is of this vault.
    #[must_use]
    pub fn is_for(&self, vault: &[u8; 16]) -> bool {
        vault.starts_with(&self.vault)
    }

    /// What a block keeps of it, so that it can be checked alone: HMAC-SHA-256(share, `ctx("share")` vault 16, split 4, number
    /// u8), cut to 16 bytes. A share has 256 random bits, so this tells nothing to who does not have it.
    fn verifier(&self, vault: &[u8; 16]) -> [u8; VERIFIER] {
        let said = ctx("share", "").fixed(vault).fixed(&self.split).u8(self.number).done();
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.expose_bytes());
        first(hmac::sign(&key, &said).as_ref())
    }
}

/// What everyone may know of a split: it stands in the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Its name.
    pub id: SplitId,
    /// How many shares open.
    pub threshold: u8,
    /// By number, from 1.
    verifiers: Vec<[u8; VERIFIER]>,
}

impl Split {
    /// The split that a block is under; none if it is another kind of custodian's.
    ///
    /// Errors: [`Error::Custody`] for a block that is damaged.
    pub fn of(block: &CustodyBlock) -> Result<Option<Self>, Error> {
        if block.kind != SHARES {
            return Ok(None);
        }
        read_body(&block.body).map(|(split, ..)| Some(split)).map_err(|Torn| Error::Custody)
    }

    /// How many shares there are.
    #[must_use]
    pub fn shares(&self) -> u8 {
        u8::try_from(self.verifiers.len()).unwrap_or(MAX_SHARES)
    }

    /// Whether a share is one of this split's, and unharmed: for who holds it.
    #[must_use]
    pub fn verifies(&self, share: &Share, vault: &[u8; 16]) -> bool {
        let of = (share.split, share.threshold) == (self.id, self.threshold) && share.is_for(vault);
        let kept = self.verifiers.get(usize::from(share.number).wrapping_sub(1));
        of && kept.is_some_and(|kept| same_bytes(kept, &share.verifier(vault)))
    }

    fn write(&self, w: &mut Writer) {
        w.fixed(&self.id).u8(self.threshold).u8(self.shares());
        for verifier in &self.verifiers {
            w.fixed(verifier);
        }
    }
}

/// Enough shares of one split, put together.
pub struct Shares {
    id: SplitId,
    threshold: u8,
    /// Known to who split it; whoever only brought shares finds it in the block that they open.
    split: Option<Split>,
    key: Secret32,
}

impl Shares {
    /// Draws a new key and splits it into `count` shares, of which any `threshold` open.
    ///
    /// Errors: malformed `threshold` or `shares`.
    pub fn split(vault: &[u8; 16], threshold: u8, count: u8) -> Result<(Self, Vec<Share>), Error> {
        if !(MIN_THRESHOLD..=MAX_SHARES).contains(&count) {
            return Err(Error::malformed("shares", "must be 2 to 16"));
        }
        if !(MIN_THRESHOLD..=count).contains(&threshold) {
            return Err(Error::malformed(
                "threshold",
                "must be at least 2, and at most the number of shares",
            ));
        }
        let (id, key) = (random::bytes()?, Secret32::random()?);
        let short = vault.first_chunk().copied().unwrap_or_default();
        let mut shares = Vec::with_capacity(count.into());
        for mut part in deal(&key, threshold, count)? {
            let number = part.first().copied().filter(|n| (1..=count).contains(n));
            let secret = part.get_mut(1..).and_then(Secret32::take);
            let (Some(number), Some(secret)) = (number, secret) else { return Err(Error::internal()) };
            shares.push(Share { vault: short, split: id, threshold, number, secret });
        }
        let verifiers = shares.iter().map(|share| share.verifier(vault)).collect();
        Ok((Self { id, threshold, split: Some(Split { id, threshold, verifiers }), key }, shares))
    }

    /// Puts shares together. Whether they are the right ones shows when they open something.
    ///
    /// Errors: [`Error::Custody`] for fewer than it takes, for two of one number, for shares of different splits.
    pub fn of(shares: &[Share]) -> Result<Self, Error> {
        let (id, threshold) = shares.first().map(|s| (s.split, s.threshold)).ok_or(Error::Custody)?;
        if shares.len() < threshold.into() || shares.iter().any(|s| (s.split, s.threshold) != (id, threshold))
        {
            return Err(Error::Custody);
        }
        let mut parts: Vec<Vec<u8>> = Vec::with_capacity(shares.len());
        for share in shares {
            let mut part = Vec::with_capacity(33);
            part.push(share.number);
            part.extend_from_slice(share.secret.expose_bytes());
            parts.push(part);
        }
        let combined = Gf256::combine_bytes(&parts).map(Zeroizing::new);
        parts.zeroize();
        let mut combined = combined.map_err(|_| Error::Custody)?;
        let key = Secret32::take(&mut combined).ok_or(Error::Custody)?;
        Ok(Self { id, threshold, split: None, key })
    }

    /// What everyone may know of the split, if it was made here.
    #[must_use]
    pub fn public(&self) -> Option<&Split> {
        self.split.as_ref()
    }

    fn wrap_with(
        &self,
        split: &Split,
        key: &Secret32,
        kind: KeyKind,
        vault: &[u8; 16],
    ) -> Result<CustodyBlock, Error> {
        let sealed = Xaes::new(&self.key).seal(&bound(split, kind, vault), key.expose_bytes())?;
        let mut w = Writer::default();
        split.write(&mut w);
        let body = w.e(&sealed).fixed(&check_value(key)).done();
        Ok(CustodyBlock { kind: SHARES, body })
    }
}

impl Custodian for Shares {
    fn name(&self) -> &'static str {
        "shares"
    }

    /// For the split that was made here alone: who only brought shares wraps by [`wrap_like`](Custodian::wrap_like).
    fn wrap(&self, key: &Secret32, kind: KeyKind, vault: &[u8; 16]) -> Result<CustodyBlock, Error> {
        self.wrap_with(self.split.as_ref().ok_or(Error::Custody)?, key, kind, vault)
    }

    fn wrap_like(
        &self,
        like: &CustodyBlock,
        key: &Secret32,
        kind: KeyKind,
        vault: &[u8; 16],
    ) -> Result<CustodyBlock, Error> {
        if self.split.is_some() {
            return self.wrap(key, kind, vault);
        }
        let split = Split::of(like)?.filter(|s| (s.id, s.threshold) == (self.id, self.threshold));
        self.wrap_with(&split.ok_or(Error::Custody)?, key, kind, vault)
    }

    fn unwrap(&self, block: &CustodyBlock, kind: KeyKind, vault: &[u8; 16]) -> Result<Secret32, Error> {
        if block.kind != SHARES {
            return Err(Error::Custody);
        }
        let (split, sealed, check) = read_body(&block.body).map_err(|Torn| Error::Custody)?;
        let opened = Xaes::new(&self.key).open(&bound(&split, kind, vault), sealed);
        let key = Secret32::take(&mut opened.map_err(|_| Error::Custody)?).ok_or(Error::Custody)?;
        if same_bytes(&check_value(&key), check) { Ok(key) } else { Err(Error::Custody) }
    }
}

/// The associated data: what every custodian's wrap is bound to, then all that the block says of the split. So nobody changes
/// how many shares open, or what a share is verified against.
fn bound(split: &Split, kind: KeyKind, vault: &[u8; 16]) -> Vec<u8> {
    let mut w = Writer::default();
    w.fixed(&aad(kind, vault, SHARES));
    split.write(&mut w);
    w.done()
}

/// What tells one split from another, for people.
pub(super) fn told(body: &[u8]) -> Result<String, Torn> {
    let (split, ..) = read_body(body)?;
    let id = data_encoding::HEXLOWER.encode(&split.id);
    Ok(format!("any {} of {} shares of split {id}", split.threshold, split.shares()))
}

type Body<'a> = (Split, &'a [u8], &'a [u8]);

fn read_body(body: &[u8]) -> Result<Body<'_>, Torn> {
    let mut r = Reader::new(body);
    let (id, threshold, count) = (r.array()?, r.u8()?, r.u8()?);
    if !(MIN_THRESHOLD..=MAX_SHARES).contains(&count) || !(MIN_THRESHOLD..=count).contains(&threshold) {
        return Err(Torn);
    }
    let verifiers = (0..count).map(|_| r.array()).collect::<Result<_, Torn>>()?;
    let read = (Split { id, threshold, verifiers }, r.e()?, r.fixed(8)?);
    r.end()?;
    Ok(read)
}

/// Splits a key: each part is its number and 32 bytes.
fn deal(key: &Secret32, threshold: u8, count: u8) -> Result<Vec<Vec<u8>>, Error> {
    let mut dice = Dice { ran_out: false };
    let dealt = Gf256::split_bytes(threshold.into(), count.into(), key.expose_bytes(), &mut dice);
    let mut dealt = dealt.map_err(|_| Error::internal())?;
    if dice.ran_out {
        // What was made without randomness tells the key.
        dealt.zeroize();
        return Err(Error::internal());
    }
    Ok(dealt)
}

/// The vault's own random bytes, for a crate whose generators cannot fail: that they ran out is noted, and told afterwards.
struct Dice {
    ran_out: bool,
}

impl TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut out = Zeroizing::new([0; 4]);
        self.try_fill_bytes(&mut *out).map(|()| u32::from_le_bytes(*out))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut out = Zeroizing::new([0; 8]);
        self.try_fill_bytes(&mut *out).map(|()| u64::from_le_bytes(*out))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.ran_out |= random::fill(out).is_err();
        Ok(())
    }
}

impl TryCryptoRng for Dice {}

/// The first bytes of SHA-256 over the prefix and what the text says: for typing errors alone.
fn checksum(said: &[u8]) -> [u8; CHECKSUM] {
    let mut of = digest::Context::new(&digest::SHA256);
    of.update(PREFIX.as_bytes());
    of.update(said);
    first(of.finish().as_ref())
}

/// Crockford's base32, lower case: no letter that is taken for a digit.
fn crockford() -> Option<Encoding> {
    let mut of = Specification::new();
    of.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    of.translate.from.push_str("oil");
    of.translate.to.push_str("011");
    of.encoding().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VAULT: [u8; 16] = [7; 16];

    fn made(threshold: u8, count: u8) -> (Shares, Vec<Share>) {
        Shares::split(&VAULT, threshold, count).map_err(|e| e.to_string()).unwrap()
    }

    fn copy(share: &Share) -> Share {
        Share::parse(share.expose_text().as_bytes()).map_err(|e| e.to_string()).unwrap()
    }

    fn chosen(shares: &[Share], numbers: impl IntoIterator<Item = u8>) -> Vec<Share> {
        numbers.into_iter().map(|n| copy(&shares[usize::from(n) - 1])).collect()
    }

    fn opens(shares: &[Share], block: &CustodyBlock, key: &Secret32) -> bool {
        let opened = Shares::of(shares).and_then(|s| s.unwrap(block, KeyKind::Root, &VAULT));
        match opened {
            Ok(opened) => opened.same_as(key),
            Err(e) => {
                assert_eq!(e, Error::Custody, "which share is wrong is never told");
                false
            }
        }
    }

    #[test]
    fn any_k_of_n_open_and_no_k_less_one_do() {
        for (k, n) in [(2, 2), (2, 3), (3, 5), (5, 5), (2, 16)] {
            let (dealer, shares) = made(k, n);
            let key = Secret32::random().unwrap();
            let block = dealer.wrap(&key, KeyKind::Root, &VAULT).unwrap();
            for set in 0..1_u32 << n {
                let numbers: Vec<u8> = (1..=n).filter(|i| set >> (i - 1) & 1 == 1).collect();
                if numbers.len() > usize::from(k) + 1 {
                    continue;
                }
                let enough = numbers.len() >= k.into();
                assert_eq!(
                    opens(&chosen(&shares, numbers.clone()), &block, &key),
                    enough,
                    "{k}/{n} {numbers:?}"
                );
            }
        }
    }

    #[test]
    fn fewer_shares_that_pretend_to_be_enough_open_nothing() {
        let (dealer, shares) = made(3, 5);
        let key = Secret32::random().unwrap();
        let block = dealer.wrap(&key, KeyKind::Root, &VAULT).unwrap();
        let two = chosen(&shares, [1, 2]).into_iter().map(|share| Share { threshold: 2, ..share });
        assert!(!opens(&two.collect::<Vec<_>>(), &block, &key));
    }

    #[test]
    fn shares_of_two_splits_and_the_same_share_twice_open_nothing() {
        let (dealer, shares) = made(2, 3);
        let (_, others) = made(2, 3);
        let key = Secret32::random().unwrap();
        let block = dealer.wrap(&key, KeyKind::Root, &VAULT).unwrap();
        let mixed = || [copy(&shares[0]), copy(&others[1])];
        assert!(!opens(&mixed(), &block, &key));
        let [first, other] = mixed();
        let split = first.split;
        assert!(!opens(&[first, Share { split, ..other }], &block, &key), "its label changed, not its bytes");
        assert!(!opens(&chosen(&shares, [1, 1]), &block, &key));
        assert!(!opens(&[], &block, &key));
    }

    #[test]
    fn a_block_opens_only_for_its_own_kind_and_vault() {
        let (dealer, shares) = made(2, 3);
        let key = Secret32::random().unwrap();
        let block = dealer.wrap(&key, KeyKind::Root, &VAULT).unwrap();
        let both = Shares::of(&chosen(&shares, [1, 3])).unwrap();
        assert!(both.unwrap(&block, KeyKind::Root, &VAULT).unwrap().same_as(&key));
        assert_eq!(both.unwrap(&block, KeyKind::Esk, &VAULT).err(), Some(Error::Custody));
        assert_eq!(both.unwrap(&block, KeyKind::Root, &[8; 16]).err(), Some(Error::Custody));
        let again = both.wrap_like(&block, &key, KeyKind::Esk, &VAULT).unwrap();
        assert_eq!(Split::of(&again).unwrap(), Split::of(&block).unwrap());
        assert!(both.unwrap(&again, KeyKind::Esk, &VAULT).unwrap().same_as(&key));
        assert_eq!(both.wrap(&key, KeyKind::Root, &VAULT).err(), Some(Error::Custody));
    }

    #[test]
    fn a_block_with_any_byte_changed_or_cut_opens_nothing() {
        let (dealer, shares) = made(2, 3);
        let key = Secret32::random().unwrap();
        let block = dealer.wrap(&key, KeyKind::Root, &VAULT).unwrap();
        let both = Shares::of(&chosen(&shares, [1, 2])).unwrap();
        for at in 0..block.body.len() {
            let mut bad = block.clone();
            bad.body[at] ^= 1;
            assert_eq!(both.unwrap(&bad, KeyKind::Root, &VAULT).err(), Some(Error::Custody), "byte {at}");
            bad.body.truncate(at);
            assert_eq!(both.unwrap(&bad, KeyKind::Root, &VAULT).err(), Some(Error::Custody), "cut {at}");
        }
        let other = CustodyBlock { kind: 1, ..block };
        assert_eq!(both.unwrap(&other, KeyKind::Root, &VAULT).err(), Some(Error::Custody));
    }

    #[test]
    fn a_share_is_verified_alone_and_against_its_own_split_and_vault() {
        let (dealer, shares) = made(2, 3);
        let (_, others) = made(2, 3);
        let split = dealer.public().unwrap();
        for (share, other) in shares.iter().zip(&others) {
            assert!(split.verifies(share, &VAULT));
            assert!(!split.verifies(other, &VAULT));
            assert!(!split.verifies(share, &[8; 16]));
            let swapped = Share { number: share.number % 3 + 1, ..copy(share) };
            assert!(!split.verifies(&swapped, &VAULT));
            let relabelled = Share { split: split.id, ..copy(other) };
            assert!(!split.verifies(&relabelled, &VAULT));
        }
    }

    #[test]
    fn a_split_has_bounds() {
        for (k, n, good) in [
            (2, 2, true),
            (16, 16, true),
            (1, 3, false),
            (0, 3, false),
            (4, 3, false),
            (2, 17, false),
            (1, 1, false),
        ] {
            assert_eq!(Shares::split(&VAULT, k, n).is_ok(), good, "{k}/{n}");
        }
    }

    #[test]
    fn every_typing_error_of_one_character_is_seen_and_spelling_is_not_asked_for() {
        let (dealer, shares) = made(3, 5);
        let split = dealer.public().unwrap();
        let text = shares[4].expose_text();
        assert_eq!(text.len(), 88);
        assert!(text.starts_with("pvs1-"));
        let spellings =
            [text.to_uppercase(), text.replace('-', ""), text.replace('-', " "), format!(" {}\r\n", *text)];
        let alike = text.replacen("pvs1", "", 1).replace('0', "O").replace('1', "l");
        for spelling in spellings.iter().chain([&format!("pvs1{alike}")]) {
            let read = Share::parse(spelling.as_bytes()).map_err(|e| e.to_string()).unwrap();
            assert_eq!((read.number(), read.threshold(), read.split()), (5, 3, split.id));
            assert!(split.verifies(&read, &VAULT));
        }
        for at in (0..text.len()).filter(|at| text.as_bytes()[*at] != b'-') {
            let mut wrong = text.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'7' { b'8' } else { b'7' };
            assert!(Share::parse(&wrong).is_err(), "character {at}");
            wrong.remove(at);
            assert!(Share::parse(&wrong).is_err(), "without character {at}");
        }
        for wrong in ["", "pvs1", "pvs2-000000", "pvs1-uuuuuu", &"pvs1-".repeat(60), "\u{0}\u{ff}"] {
            assert!(
                matches!(Share::parse(wrong.as_bytes()), Err(Error::Malformed { field: "share", .. })),
                "{wrong:?}"
            );
        }
    }

    /// Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197, 4.2), the slow way.
    fn times(a: u8, b: u8) -> u8 {
        let (mut a, mut product) = (a, 0);
        for bit in 0..8 {
            product ^= if b >> bit & 1 == 1 { a } else { 0 };
            a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1B };
        }
        product
    }

    fn inverse(a: u8) -> u8 {
        (1..=255).find(|b| times(a, *b) == 1).unwrap()
    }

    #[test]
    fn what_the_crate_deals_is_shamirs_scheme_in_the_field_of_aes() {
        // FIPS 197, 4.2: {57} x {83} = {c1}, {57} x {13} = {fe}.
        assert_eq!((times(0x57, 0x83), times(0x57, 0x13)), (0xC1, 0xFE));
        let (dealer, shares) = made(3, 5);
        for numbers in [[1, 2, 3], [5, 3, 1], [2, 4, 5]] {
            for byte in 0..32 {
                let at_zero = numbers.iter().fold(0, |sum, i| {
                    let others = numbers.iter().filter(|j| *j != i);
                    let weight = others.fold(1, |w, j| times(w, times(*j, inverse(*i ^ *j))));
                    sum ^ times(weight, shares[usize::from(*i) - 1].secret.expose_bytes()[byte])
                });
                assert_eq!(at_zero, dealer.key.expose_bytes()[byte]);
            }
        }
    }

    #[test]
    fn a_share_of_this_release_is_read_by_every_later_one() {
        // A polynomial by hand, its texts by another program: f(x) = s + x*a, s = 00 01 .. 1f, a = f0 + 07*s; shares 2 and 3.
        let part = |x: u8| (0..32).map(|i| i ^ times(x, 0xF0 ^ times(7, i))).collect::<Vec<u8>>();
        let share = |x: u8| Share {
            vault: [0xAA; 4],
            split: [1, 2, 3, 4],
            threshold: 2,
            number: x,
            secret: Secret32::take(&mut part(x)).unwrap(),
        };
        let texts = [include_str!("../../data/share-1.txt"), include_str!("../../data/share-2.txt")];
        for (x, text) in (2..).zip(texts) {
            assert_eq!(*share(x).expose_text(), text.trim_end());
        }
        let read: Vec<Share> =
            texts.iter().map(|t| Share::parse(t.as_bytes()).map_err(|e| e.to_string()).unwrap()).collect();
        let key = Shares::of(&read).map_err(|e| e.to_string()).unwrap().key;
        assert!(key.expose_bytes().iter().copied().eq(0..32));
    }

    proptest! {
        #[test]
        fn a_text_opens_to_its_share_and_noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..300), n in 1_u8..=16, k in 2_u8..=16) {
            let secret = Secret32::random().unwrap();
            let share = Share { vault: [1; 4], split: [2; 4], threshold: k, number: n, secret };
            let read = copy(&share);
            prop_assert!(read.secret.same_as(&share.secret));
            prop_assert_eq!((read.number, read.threshold, read.vault, read.split), (n, k, [1; 4], [2; 4]));
            prop_assert!(Share::parse(&noise).is_err());
        }
    }
}
