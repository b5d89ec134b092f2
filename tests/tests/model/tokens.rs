//! Tokens with a row: what the model knows of them, and the verbs that change them.

use std::collections::HashSet;

use pollster::block_on;
use vault_core::error::Error;
use vault_core::policy::Caller;
use vault_core::restrictions::Restrictions;
use vault_core::rows;
use vault_core::store::Key;
use vault_core::token::Token;
use vault_core::vault::{CardToDelete, Context, Header, NewCard, Revocation};
use vault_tests::cards::pan;
use vault_tests::desk::{Desk, START, channel, header, in_format, principal};

use super::world::World;

/// A token as the model knows it.
pub(super) struct Known {
    pub(super) token: Token,
    card: usize,
    customer: Option<usize>,
    channel: &'static str,
    format: &'static str,
    pub(super) ended: bool,
    /// Ended with the key that its row was under.
    pub(super) lost: bool,
    disabled: bool,
    generation: u32,
}

/// The formats, the channel that each is asked for on, and whether it reuses tokens.
const FORMATS: [(&str, &str, bool); 4] =
    [("shop", "web", true), ("till", "pos", true), ("mixed", "web", false), ("tight", "web", false)];

/// Who has a card's token, for whoever brings the card again: by format, card and customer.
pub(super) type Alike = (&'static str, usize, Option<usize>);

/// The token that a card leads to, which had been given so many other cards by then.
#[derive(Clone, Copy)]
pub(super) struct Found {
    at: usize,
    generation: u32,
}

impl World {
    fn customer(&mut self) -> Option<usize> {
        Some(self.dice.below(5)).filter(|n| *n < 3)
    }

    fn header(customer: Option<usize>) -> Header {
        let name = customer.map_or_else(String::new, |n| format!("customer-{n}"));
        Header { context: Context::new(&name, "", "").unwrap(), ..header() }
    }

    pub(super) fn tokenize(&mut self) {
        let (format, on, reuses) = FORMATS[self.dice.below(FORMATS.len())];
        let (customer, at) = (self.customer(), self.dice.below(self.cards.len()));
        let (header, digits) = (Self::header(customer), self.cards[at].clone());
        let header = Header { channel: Some(channel(on)), ..header };
        let (told, _) = self.ask(|desk, _| brought(desk, &header, (format, &digits)));
        let token = told.unwrap_or_else(|e| panic!("{e}"));
        let alike = (format, at, customer);
        let expected = self.reuse.get(&alike).filter(|found| {
            let Known { ended, disabled, generation, .. } = &self.tokens[found.at];
            reuses && !ended && !disabled && found.generation == *generation
        });
        if let Some(known) = expected {
            let known = &self.tokens[known.at].token;
            return assert!(known.same_as(&token), "the same card has the same token");
        }
        assert!(self.minted.insert(token.as_str().to_owned()), "minted twice");
        if reuses {
            self.reuse.insert(alike, Found { at: self.tokens.len(), generation: 0 });
        }
        let (ended, lost, disabled) = (false, false, false);
        let (card, channel, generation) = (at, on, 0);
        self.tokens.push(Known { token, card, customer, channel, format, ended, lost, disabled, generation });
    }

    /// A token opens to its card, or to nothing.
    pub(super) fn check(&mut self, at: usize) {
        let Known { token, card, channel, ended, disabled, .. } = &self.tokens[at];
        let (token, digits, channel) = (token.copy(), self.cards[*card].clone(), *channel);
        let expected = if *ended || *disabled { Err(Error::NotFound) } else { Ok(digits) };
        let (told, _) = self.ask(|desk, _| desk.at("acme", channel).paid(&token));
        assert_eq!(told, expected, "token {at}");
    }

    pub(super) fn pick(&mut self) -> Option<usize> {
        if self.tokens.is_empty() { None } else { Some(self.dice.below(self.tokens.len())) }
    }

    pub(super) fn revoke(&mut self) {
        let Some(at) = self.pick() else { return };
        let (token, on, header) = (self.tokens[at].token.copy(), self.tokens[at].channel, header());
        let (told, again) =
            self.ask(|desk, _| desk.at("acme", on).revoke(&header, &token, Revocation::Everywhere));
        let Known { ended, disabled, .. } = self.tokens[at];
        if ended && !again {
            assert_eq!(told.as_ref().err(), Some(&Error::NotFound));
        } else if !disabled {
            assert!(told.is_ok() || ended, "{:?}", told.as_ref().err());
        }
        self.tokens[at].ended |= told.is_ok();
    }

    pub(super) fn disable(&mut self, off: bool) {
        let Some(at) = self.pick() else { return };
        let (token, on, header) = (self.tokens[at].token.copy(), self.tokens[at].channel, header());
        let (told, _) = self.ask(|desk, _| {
            desk.at("acme", on).care(&header, async |vault, caller, header| {
                if off {
                    vault.disable(caller, header, token.copy()).await.map(|_| ())
                } else {
                    vault.enable(caller, header, token.copy()).await.map(|_| ())
                }
            })
        });
        assert_eq!(told.is_ok(), !self.tokens[at].ended, "{told:?}");
        if told.is_ok() {
            self.tokens[at].disabled = off;
        }
    }

    pub(super) fn replace(&mut self) {
        let Some(at) = self.pick() else { return };
        let to = self.dice.below(self.cards.len());
        let (token, on, header) = (self.tokens[at].token.copy(), self.tokens[at].channel, header());
        let digits = self.cards[to].clone();
        let (told, _) = self.ask(|desk, _| {
            crate::life_of_a_token::replace(desk.at("acme", on), &header, &token, &digits).map(|_| ())
        });
        let Known { ended, format, customer, generation, .. } = self.tokens[at];
        match told {
            Ok(()) => assert!(!ended),
            Err(Error::NotFound) => return assert!(ended),
            // Eight cards are kept of a token, and no more.
            Err(Error::Malformed { .. }) => return assert!(generation >= 8),
            Err(e) => panic!("{e}"),
        }
        self.tokens[at].generation += 1;
        self.tokens[at].card = to;
        if FORMATS.iter().any(|(name, _, reuses)| *name == format && *reuses) {
            self.reuse.insert((format, to, customer), Found { at, generation: generation + 1 });
        }
    }

    pub(super) fn delete_card(&mut self) {
        let (customer, card) = (self.customer(), self.dice.below(self.cards.len()));
        let (header, digits) = (Self::header(customer), self.cards[card].clone());
        let on = ["web", "pos"][self.dice.below(2)];
        let (told, again) = self.ask(|desk, _| {
            let card = CardToDelete { card: pan(&digits).into(), restrictions: Restrictions::default() };
            desk.at("acme", on).care(&header, async |vault, caller, header| {
                vault.delete_card(caller, header, card).await.map(|told| told.tokens)
            })
        });
        let whose = if customer.is_some() { vec![None, customer] } else { vec![None] };
        let mut ended = HashSet::new();
        for format in if on == "pos" { &["shop", "till"][..] } else { &["shop"] } {
            for of in &whose {
                let alike = (*format, card, *of);
                ended.extend(self.reuse.get(&alike).into_iter().filter_map(|found| {
                    let known = &self.tokens[found.at];
                    (!known.ended && known.generation == found.generation).then_some(found.at)
                }));
            }
        }
        match told {
            Ok(n) => assert!(again || n as usize == ended.len(), "{n} {ended:?}"),
            Err(Error::NotFound) => assert!(again || ended.is_empty(), "{ended:?}"),
            Err(e) => panic!("{e}"),
        }
        ended.into_iter().for_each(|at| self.tokens[at].ended = true);
    }

    pub(super) fn erase(&mut self) {
        let customer = self.dice.below(3);
        let header = Self::header(Some(customer));
        let (told, again) = self.ask(|desk, _| crate::life_of_a_token::erased(desk.web(), &header));
        let mut ended = 0;
        for known in self.tokens.iter_mut().filter(|known| known.customer == Some(customer) && !known.ended) {
            known.ended = true;
            ended += 1;
        }
        self.reuse.retain(|(_, _, of), _| *of != Some(customer));
        let told = told.unwrap_or_else(|e| panic!("{e}"));
        assert!(again || told == ended, "{told} of {ended}");
    }

    /// The row of each token, and under each the fingerprint that leads to it, as the vault finds them: that a row which is
    /// asked for is read is all that is known of where it lies.
    pub(super) fn rows_by_token(&mut self) -> (Vec<Row>, Vec<(Alike, Row)>) {
        if self.mortal().is_dead() {
            self.restart();
        }
        let tokens = self.tokens.iter().map(|known| {
            let asked = || drop(self.desk().at("acme", known.channel).inspected(&known.token));
            self.mortal().row_read(rows::CARD, asked).expect("every token has a row")
        });
        let fingerprints = self.reuse.keys().map(|alike| {
            let (format, card, customer) = *alike;
            let on = FORMATS.iter().find(|(name, ..)| *name == format).unwrap().1;
            // Nothing comes of what is late already, but that it is looked for.
            let late = Some(START);
            let header = Header { channel: Some(channel(on)), deadline: late, ..Self::header(customer) };
            let asked = || {
                let told = brought(self.desk(), &header, (format, &self.cards[card]));
                assert_eq!(told.err(), Some(Error::DeadlineExceeded));
            };
            let row = self.mortal().row_read(rows::FINGERPRINT, asked);
            (*alike, row.expect("every card that is known has a fingerprint"))
        });
        (tokens.collect(), fingerprints.collect())
    }
}

/// A row and where it lies.
pub(super) type Row = (Key, Vec<u8>);

/// The shop brings a card.
fn brought(desk: &Desk, header: &Header, (format, digits): (&str, &str)) -> Result<Token, Error> {
    let card: NewCard = in_format(format, digits);
    let told = block_on(desk.vault.tokenize(Caller::Local(&principal("acme-shop")), header, card));
    told.map(|told| told.token)
}
