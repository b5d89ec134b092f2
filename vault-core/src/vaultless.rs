//! Vaultless tokens (`ff1`): a card number and its token, made of each other by a slot's key, with no row between them.
//!
//! A slot is an immutable (key, format, scope). Its number is the Luhn sum of its tokens, so that a token alone tells its
//! slot. FF1 has no authenticity: every text of the right shape opens to some card number that passes the Luhn check.
//! Whoever opens one asks for an issuer's range, a right of its own and a channel where no person types. Refused: keeps
//! that hide fewer than seven digits, since one of them is spent on the sum and six make the least domain of FF1.

use zeroize::Zeroizing;

use crate::envelope::{Fpk, KeyId, KeyMaterial};
use crate::ff1::{Decimal, Ff1Error, schedule};
use crate::pan::{Keep, MAX_DIGITS, MIN_DIGITS, Pan, luhn_sum};
use crate::record::{ChannelId, FormatId};
use crate::token::{Scheme, Scope, Token, TokenFormat};

/// How many slots a merchant has in its whole life, if it has any: a merchant's `ff1_slots` is this or zero. Sums 1 to 5
/// are theirs, and four are left to tokens that have a row.
pub const SLOTS: u8 = 5;

/// Format id u16, scope id u32, kept digits as a 5-byte integer.
const TWEAK: usize = 11;

/// What a slot serves: its format, and the channel if it is for one alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Served {
    /// The format.
    pub format: FormatId,
    /// The channel; none if all of the merchant's channels share the tokens.
    pub channel: Option<ChannelId>,
}

impl Served {
    /// What serves a format on a channel: of channel scope that channel alone.
    #[must_use]
    pub fn of(format: FormatId, scope: Scope, channel: ChannelId) -> Self {
        let channel = match scope {
            Scope::Merchant => None,
            Scope::Channel => Some(channel),
        };
        Self { format, channel }
    }

    /// The scope's number in the tweak: a channel's, which begin at 1, or zero.
    fn scope(self) -> u32 {
        self.channel.map_or(0, |channel| channel.0)
    }
}

/// The slot that a token names, if it is one of `slots`: the Luhn sum of its digits. `None`: it has a row, or none.
#[must_use]
pub fn slot_of(token: &Token, slots: u8) -> Option<u8> {
    let digits = token.as_bytes();
    let sum = luhn_sum(digits);
    (digits.iter().all(u8::is_ascii_digit) && (1..=slots).contains(&sum)).then_some(sum)
}

/// A slot, ready to make tokens and to open them.
pub struct Slot {
    number: u8,
    key: KeyId,
    served: Served,
    // INVARIANT: entry n is for MIN_DIGITS + n digits, with six digits to encrypt at the least.
    by_length: [Option<(Keep, Decimal)>; MAX_DIGITS - MIN_DIGITS + 1],
}

impl Slot {
    /// The slot of that number, 1 to 5, whose key is `fpk`, for every length that the format names.
    ///
    /// Errors: [`Ff1Error::Domain`] for a format that is not `ff1` or hides too little.
    pub fn new(
        number: u8,
        key: (KeyId, &Fpk),
        served: Served,
        format: &TokenFormat,
    ) -> Result<Self, Ff1Error> {
        if format.scheme() != Scheme::Ff1 || !(1..=SLOTS).contains(&number) {
            return Err(Ff1Error::Domain);
        }
        let cipher = schedule::<aes::Aes256>(key.1.secret().expose_bytes().into());
        let mut by_length = [const { None }; MAX_DIGITS - MIN_DIGITS + 1];
        for (length, entry) in (MIN_DIGITS..).zip(&mut by_length) {
            let Some(keep) = format.keep(length) else { continue };
            let encrypted = keep.hidden(length).checked_sub(1).ok_or(Ff1Error::Domain)?;
            *entry = Some((keep, Decimal::new(cipher.clone(), encrypted, TWEAK)?));
        }
        Ok(Self { number, key: key.0, served, by_length })
    }

    /// Its number: the Luhn sum of its tokens.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Which key it is made of.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// What it serves.
    #[must_use]
    pub fn served(&self) -> Served {
        self.served
    }

    /// What its tokens of that length keep.
    #[must_use]
    pub fn keep(&self, length: usize) -> Option<Keep> {
        self.layout(length).map(|(keep, _)| *keep)
    }

    /// The token of a card number. `None` if the format names no keep for its length.
    #[must_use]
    pub fn token(&self, pan: &Pan) -> Option<Token> {
        let (keep, cipher) = self.layout(pan.len())?;
        let mut digits = Zeroizing::new(pan.expose_digits().to_vec());
        self.turn(Turn::Seal, *keep, cipher, &mut digits)?;
        Token::parse(std::str::from_utf8(&digits).ok()?).ok()
    }

    /// The card number of a token of this slot. `None` for a token of another slot or of no length of the format.
    ///
    /// It is for the keyring alone, which gives it out for a `Disclosed` or asks it one question and drops it.
    pub(crate) fn expose_pan(&self, token: &Token) -> Option<Pan> {
        let mut digits = Zeroizing::new(token.as_bytes().to_vec());
        if slot_of(token, SLOTS) != Some(self.number) {
            return None;
        }
        let (keep, cipher) = self.layout(digits.len())?;
        self.turn(Turn::Open, *keep, cipher, &mut digits)?;
        Pan::parse(&digits).ok()
    }

    fn layout(&self, length: usize) -> Option<&(Keep, Decimal)> {
        self.by_length.get(length.checked_sub(MIN_DIGITS)?)?.as_ref()
    }

    fn turn(&self, turn: Turn, keep: Keep, cipher: &Decimal, digits: &mut [u8]) -> Option<()> {
        let tweak = self.tweak(keep, digits)?;
        let sum = match turn {
            Turn::Seal => self.number,
            Turn::Open => 0,
        };
        turned(turn, cipher, &tweak, digits, ends(keep), sum)
    }

    fn tweak(&self, keep: Keep, digits: &[u8]) -> Option<[u8; TWEAK]> {
        let (first, last) = ends(keep);
        let (front, end) = (digits.get(..first)?, digits.get(digits.len().checked_sub(last)?..)?);
        let kept = front.iter().chain(end).fold(0_u64, |n, d| n * 10 + u64::from(d & 0x0f));
        let [f0, f1] = self.served.format.0.to_be_bytes();
        let [s0, s1, s2, s3] = self.served.scope().to_be_bytes();
        // Ten digits at the most, which is below 2^40: five bytes hold them.
        let [_, _, _, k0, k1, k2, k3, k4] = kept.to_be_bytes();
        Some([f0, f1, s0, s1, s2, s3, k0, k1, k2, k3, k4])
    }
}

fn ends(keep: Keep) -> (usize, usize) {
    (usize::from(keep.first()), usize::from(keep.last()))
}

#[derive(Clone, Copy)]
enum Turn {
    Seal,
    Open,
}

/// Encrypts or decrypts all hidden digits but the last, which then makes the Luhn sum what it shall be: no digit or four
/// digits follow it, so that it counts once, and the sum names exactly one value for it.
///
/// So it is a bijection: between the numbers of one sum and the numbers of another, with the kept digits as they are.
fn turned(
    turn: Turn,
    cipher: &Decimal,
    tweak: &[u8],
    digits: &mut [u8],
    (first, last): (usize, usize),
    sum: u8,
) -> Option<()> {
    let freed = digits.len().checked_sub(last + 1)?;
    let hidden = digits.get_mut(first..freed)?;
    for digit in hidden.iter_mut() {
        *digit &= 0x0f;
    }
    match turn {
        Turn::Seal => cipher.encrypt(tweak, hidden),
        Turn::Open => cipher.decrypt(tweak, hidden),
    }
    .ok()?;
    for digit in hidden.iter_mut() {
        *digit |= b'0';
    }
    *digits.get_mut(freed)? = b'0';
    let missing = (10 + sum - luhn_sum(digits)) % 10;
    *digits.get_mut(freed)? += missing;
    Some(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::network::Networks;
    use crate::pan::luhn_valid;
    use crate::secret::Secret32;
    use crate::token::{Reuse, Shape, default_vaultless_keep, vaultless_keep_allowed};

    fn key(seed: u8) -> Fpk {
        Fpk::from_secret(Secret32::filled_by(|bytes| bytes.fill(seed)))
    }

    /// Every keep that is allowed, per length.
    fn layouts() -> Vec<(usize, Keep)> {
        let keeps = ["0+0", "0+4", "6+0", "6+4", "8+0", "8+4"].map(|text| Keep::parse(text).unwrap());
        (12..=19)
            .flat_map(|length| keeps.map(|keep| (length, keep)))
            .filter(|(length, keep)| vaultless_keep_allowed(*length, *keep).is_ok())
            .collect()
    }

    fn format(length: usize, keep: Keep) -> TokenFormat {
        TokenFormat::new(Scheme::Ff1, Reuse::Reuse, Scope::Merchant, &[(length, keep)]).unwrap()
    }

    fn slot(number: u8, seed: u8, channel: u32, (length, keep): (usize, Keep)) -> Slot {
        let channel = (channel > 0).then_some(ChannelId(channel));
        let served = Served { format: FormatId(1), channel };
        Slot::new(number, (KeyId(1), &key(seed)), served, &format(length, keep)).unwrap()
    }

    /// Numbers of a seed (`SplitMix64`), so that a failure can be repeated.
    fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |bound| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % bound
        }
    }

    fn pan(front: &str, length: usize, draw: &mut impl FnMut(u64) -> u64) -> Pan {
        let mut digits = front.as_bytes().to_vec();
        while digits.len() < length - 1 {
            digits.push(b'0' + u8::try_from(draw(10)).unwrap());
        }
        (b'0'..=b'9').find_map(|check| Pan::parse(&[&digits[..], &[check]].concat()).ok()).unwrap()
    }

    fn token(digits: &str) -> Option<Token> {
        Token::parse(digits).ok()
    }

    #[test]
    fn the_keeps_are_those_of_the_table() {
        let of = |length| -> Vec<String> {
            layouts().iter().filter(|(l, _)| *l == length).map(|(_, keep)| keep.to_string()).collect()
        };
        for (length, allowed) in [
            (12, vec!["0+0", "0+4"]),
            (13, vec!["0+0", "0+4", "6+0"]),
            (14, vec!["0+0", "0+4", "6+0"]),
            (15, vec!["0+0", "0+4", "6+0", "8+0"]),
            (16, vec!["0+0", "0+4", "6+0", "8+0"]),
            (17, vec!["0+0", "0+4", "6+0", "6+4", "8+0"]),
            (18, vec!["0+0", "0+4", "6+0", "6+4", "8+0"]),
            (19, vec!["0+0", "0+4", "6+0", "6+4", "8+0"]),
        ] {
            assert_eq!(of(length), allowed, "{length}");
            assert!(vaultless_keep_allowed(length, default_vaultless_keep(length)).is_ok());
        }
        assert!(
            TokenFormat::new(
                Scheme::Ff1,
                Reuse::Reuse,
                Scope::Merchant,
                &[(16, Keep::parse("6+4").unwrap())]
            )
            .is_err()
        );
    }

    /// On domains small enough to go through, with the door that only tests have: for each front and end that a keep can
    /// leave, each parity of the length, and each slot.
    #[test]
    fn every_card_number_has_one_token_per_slot_and_no_two_share_one() {
        let cipher = schedule::<aes::Aes256>(&[9; 32].into());
        for (first, last, hidden) in
            [(0, 0, 4), (0, 0, 5), (1, 0, 4), (2, 0, 4), (0, 4, 4), (1, 4, 4), (2, 4, 3)]
        {
            let small = Decimal::of_small_domain(cipher.clone(), hidden - 1, TWEAK).unwrap();
            for kept in [0, 1, 98_765] {
                let (mut taken, mut numbers) = (HashSet::new(), 0);
                for n in 0..10_usize.pow(u32::try_from(hidden).unwrap()) {
                    let kept = format!("{kept:06}");
                    let number =
                        format!("{}{n:0hidden$}{}", &kept[6 - first..], &kept[6 - last..]).into_bytes();
                    if !luhn_valid(&number) {
                        continue;
                    }
                    numbers += 1;
                    for slot in 1..=SLOTS {
                        // Another slot is another key; another tweak is as good as one here.
                        let tweak = [slot; TWEAK];
                        let mut digits = number.clone();
                        turned(Turn::Seal, &small, &tweak, &mut digits, (first, last), slot).unwrap();
                        assert_eq!(luhn_sum(&digits), slot);
                        assert_eq!(digits[..first], number[..first]);
                        assert_eq!(digits[first + hidden..], number[first + hidden..]);
                        assert!(taken.insert(digits.clone()), "two numbers have one token");
                        turned(Turn::Open, &small, &tweak, &mut digits, (first, last), 0).unwrap();
                        assert_eq!(digits, number);
                    }
                }
                // All texts of five of the nine sums that are no card's: nothing of the other four, which have rows.
                let texts = 10_usize.pow(u32::try_from(hidden).unwrap());
                assert_eq!((numbers * 10, taken.len() * 2), (texts, texts));
            }
        }
    }

    #[test]
    fn a_token_opens_in_its_own_slot_scope_and_format_alone() {
        let mut draw = dice(7);
        for layout @ (length, keep) in layouts() {
            let one = slot(1, 1, 0, layout);
            let others = [slot(1, 1, 3, layout), slot(1, 2, 0, layout), slot(2, 1, 0, layout)];
            let card = pan("411111", length, &mut draw);
            let token = one.token(&card).unwrap();
            assert!(one.expose_pan(&token).is_some_and(|back| back.same_as(&card)), "{length} {keep}");
            assert_eq!((token.as_bytes().len(), slot_of(&token, SLOTS)), (length, Some(1)));
            assert_eq!(slot_of(&token, 0), None);
            let (shown, of_token) = (card.mask(keep), token.as_bytes());
            assert!(
                of_token.starts_with(shown.first().as_bytes()) && of_token.ends_with(shown.last().as_bytes())
            );
            for other in &others {
                assert!(!other.expose_pan(&token).is_some_and(|back| back.same_as(&card)), "{length} {keep}");
            }
            assert!(one.token(&pan("5", if length == 12 { 13 } else { 12 }, &mut draw)).is_none());
        }
    }

    #[test]
    fn no_random_token_is_one_of_a_slot() {
        let mut draw = dice(11);
        for (length, keep) in layouts() {
            let random =
                TokenFormat::new(Scheme::Random, Reuse::Fresh, Scope::Merchant, &[(length, keep)]).unwrap();
            let shape = Shape::of(&random, &pan("4", length, &mut draw), SLOTS).unwrap();
            for _ in 0..1_000 {
                let token = shape.draw(&mut |bound| Ok(draw(bound))).map_err(|_| "dice").unwrap();
                assert_eq!(slot_of(&token, SLOTS), None);
            }
        }
    }

    /// FF1 has no authenticity: what opens is told here beside what theory says, and SECURITY.md carries it.
    #[test]
    fn the_share_of_strange_tokens_that_open_is_what_theory_says() {
        let networks = Networks::builtin();
        let layout = (16, Keep::parse("0+4").unwrap());
        let (ours, theirs) = (slot(1, 1, 0, layout), slot(1, 2, 7, layout));
        let opens = |token: &Token| ours.expose_pan(token).is_some_and(|pan| networks.find(&pan).is_some());
        let mut draw = dice(3);
        let (mut cards, mut strings, mut foreign) = (0_u32, 0_u32, 0_u32);
        for _ in 0..1_000_000 {
            let text = format!("{:016}", draw(10_000_000_000_000_000));
            strings += u32::from(token(&text).is_some_and(|token| opens(&token)));
        }
        for _ in 0..100_000 {
            let front = draw(10).to_string();
            let card = pan(&front, 16, &mut draw);
            cards += u32::from(networks.find(&card).is_some());
            foreign += u32::from(theirs.token(&card).is_some_and(|token| opens(&token)));
        }
        // A string names a slot one time in ten; what it opens to is any number of that length.
        let of_cards = f64::from(cards) / 100_000.0;
        let (of_strings, of_foreign) = (f64::from(strings) / 1e6, f64::from(foreign) / 1e5);
        println!("random strings that open: {of_strings:.4}, in theory {:.4}", of_cards / 10.0);
        println!("tokens of another scope that open: {of_foreign:.4}, in theory {of_cards:.4}");
        assert!((of_strings - of_cards / 10.0).abs() < 0.005 && (of_foreign - of_cards).abs() < 0.01);
        assert!(strings > 0 && foreign > 0);
    }
}
