//! Tells an operator, in log and metrics, that a token space runs full, before cards are refused for it.
//!
//! A line names merchant, format, length and the space's keyed name, never a digit that its tokens keep. A format's spaces
//! may run full together, one for each last four digits: so one line a minute is written for a format and a step, and
//! the lines that were not are counted in the next one.

use std::collections::HashMap;

use vault_core::name::{FormatName, MerchantName};
use vault_core::time::Timestamp;
use vault_core::vault::{KnownSpace, SpaceState};

/// Milliseconds between two lines on one format's spaces that reached the same step.
const LINE_MS: u64 = 60_000;

/// What the log was told, by format and step: bounded by the policy's formats.
#[derive(Default)]
pub(crate) struct Warned(HashMap<(MerchantName, FormatName, SpaceState), Line>);

struct Line {
    at: Timestamp,
    /// The fullest of those that reached the step since, and how many did.
    untold: Option<(KnownSpace, u64)>,
}

impl Warned {
    /// Writes a line for what has become scarcer, or keeps it for the next one.
    pub(crate) fn tell(&mut self, scarcer: Vec<KnownSpace>, now: Timestamp) {
        for (known, count) in self.lines(scarcer, now) {
            warn(&known, count);
        }
    }

    /// The spaces to write a line of now, each with how many it speaks for.
    fn lines(&mut self, scarcer: Vec<KnownSpace>, now: Timestamp) -> Vec<(KnownSpace, u64)> {
        let mut lines = Vec::new();
        for known in scarcer {
            let name = (known.merchant.clone(), known.format.clone(), known.state);
            let Some(line) = self.0.get_mut(&name) else {
                self.0.insert(name, Line { at: now, untold: None });
                lines.push((known, 1));
                continue;
            };
            let (fullest, count) = line.untold.take().unwrap_or_else(|| (known.clone(), 0));
            let fullest = if known.space.share() > fullest.space.share() { known } else { fullest };
            line.untold = Some((fullest, count.saturating_add(1)));
        }
        for line in self.0.values_mut().filter(|line| now.ms_since(line.at) >= LINE_MS) {
            if let Some(untold) = line.untold.take() {
                line.at = now;
                lines.push(untold);
            }
        }
        lines
    }
}

fn warn(known: &KnownSpace, count: u64) {
    let KnownSpace { merchant, format, space, state } = known;
    let space_id = data_encoding::HEXLOWER.encode(&space.id);
    let (tokens, left) = (space.tokens.to_string(), space.left().to_string());
    macro_rules! line {
        ($level:ident, $what:literal) => {
            tracing::$level!(
                %merchant, %format, length = space.length as u64, space = %space_id, used = space.used, %tokens, %left, count, $what
            )
        };
    }
    match state {
        SpaceState::Roomy => {}
        SpaceState::Scarce => line!(
            warn,
            "four fifths of a token space are used: let the channels name another format, mixed or opaque or with a \
             longer hidden part, before it is used up"
        ),
        SpaceState::NearlyFull => line!(
            warn,
            "a token space is nearly full, and tokens of it become slow: let the channels name another format today, \
             mixed or opaque or with a longer hidden part"
        ),
        SpaceState::UsedUp => line!(
            error,
            "a token space is used up, and its cards are refused with SPACE_EXHAUSTED: let the channels name another \
             format now, mixed or opaque or with a longer hidden part"
        ),
    }
}

#[cfg(test)]
mod tests {
    use vault_core::vault::SpaceUse;

    use super::*;

    fn known(format: &str, id: u8, used: u64) -> KnownSpace {
        let space = SpaceUse { id: [id; 16], length: 16, tokens: 9_000, used };
        KnownSpace {
            merchant: MerchantName::parse("acme").unwrap(),
            format: FormatName::parse(format).unwrap(),
            space,
            state: space.state(),
        }
    }

    #[test]
    fn each_step_of_a_format_is_told_at_once_and_then_once_a_minute_with_a_count() {
        let mut warned = Warned::default();
        let at = |seconds: u64| Timestamp(1_767_225_600_000 + seconds * 1_000);
        let mut told = |scarcer, seconds| -> Vec<(u8, u64, u64)> {
            let lines = warned.lines(scarcer, at(seconds));
            lines.into_iter().map(|(known, count)| (known.space.id[0], known.space.used, count)).collect()
        };
        assert_eq!(told(vec![known("tight", 1, 7_200)], 0), [(1, 7_200, 1)]);
        assert_eq!(told(vec![known("tight", 1, 8_550)], 1), [(1, 8_550, 1)]);
        assert_eq!(told(vec![known("tight", 1, 9_000)], 2), [(1, 9_000, 1)]);
        // Another format has lines of its own.
        assert_eq!(told(vec![known("other", 2, 7_300)], 2), [(2, 7_300, 1)]);
        // The rest of the spaces of this one wait, and the fullest speaks for them.
        let rest = (3..=9).map(|n| known("tight", n, 7_200 + 100 * u64::from(n % 5))).collect();
        assert!(told(rest, 3).is_empty());
        assert!(told(vec![], 59).is_empty());
        assert_eq!(told(vec![known("tight", 10, 7_201)], 60), [(4, 7_600, 8)]);
        assert!(told(vec![], 119).is_empty());
        assert!(told(vec![known("tight", 11, 7_201)], 119).is_empty());
        assert_eq!(told(vec![], 120), [(11, 7_201, 1)]);
        assert!(told(vec![], 1_000).is_empty());
    }
}
