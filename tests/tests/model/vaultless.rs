//! Tokens without a row: made of their card and a slot's key. Those of earlier slots open for good.

use std::collections::HashMap;

use pollster::block_on;
use vault_core::envelope::KeyKind;
use vault_core::error::Error;
use vault_core::name::FormatName;
use vault_core::rows;
use vault_core::token::Token;
use vault_core::vaultless::slot_of;
use vault_core::words::KeyState;
use vault_tests::desk::{header, in_format, merchant_name, principal};

use super::world::World;

/// The slots that a merchant has.
const SLOTS: u8 = 5;

/// The vaultless format of the desk.
const FORMAT: &str = "edge";

/// Tokens by slot and card.
#[derive(Default)]
pub(super) struct Edge(HashMap<(u8, usize), Token>);

impl World {
    /// How many slots were opened, and whether tokens are made in the last of them.
    fn slots(&self) -> (u8, bool) {
        let keys = self.keys(KeyKind::Fpk);
        let makes = keys.last().is_some_and(|key| key.state == KeyState::Active);
        assert!(keys.iter().rev().skip(1).all(|key| key.state != KeyState::Active), "one slot at a time");
        (u8::try_from(keys.len()).unwrap(), makes)
    }

    /// A card goes in; its token is of the newest slot, and is the same for the same card, and no row is written.
    pub(super) fn tokenize_edge(&mut self) {
        let (slot, makes) = self.slots();
        let card = self.dice.below(self.cards.len());
        let (digits, rows) = (self.cards[card].clone(), self.desk().rows(rows::CARD).len());
        let (told, _) = self.ask(|desk, _| desk.web().tokenize(&header(), in_format(FORMAT, &digits)));
        assert_eq!(self.desk().rows(rows::CARD).len(), rows, "it has a row");
        if !makes {
            assert_eq!(told.err(), Some(Error::SpaceExhausted), "a slot that is known makes no token");
            return self.did("vaultless refused");
        }
        let token = told.unwrap_or_else(|e| panic!("{e}")).token;
        assert_eq!(slot_of(&token, SLOTS), Some(slot), "of the newest slot");
        assert!(!self.minted.contains(token.as_str()), "another's token");
        let known = &self.edge.0;
        for (of, other) in known {
            assert_eq!(other.same_as(&token), *of == (slot, card), "one token per slot and card");
        }
        self.edge.0.insert((slot, card), token);
        self.did("vaultless");
    }

    /// Every token without a row opens to its card, whatever slot it is of.
    pub(super) fn check_edge(&mut self) {
        let mut all: Vec<_> = self.edge.0.iter().map(|(of, token)| (*of, token.copy())).collect();
        all.sort_unstable_by_key(|(of, _)| *of);
        let (newest, _) = self.slots();
        for ((slot, card), token) in all {
            let (told, _) = self.ask(|desk, _| desk.web().paid(&token));
            assert_eq!(told.as_ref(), Ok(&self.cards[card]), "slot {slot}");
            self.did(if slot == newest { "vaultless opened" } else { "vaultless of an earlier slot opened" });
        }
    }

    /// Opens the next slot, or some: there are five, and no more.
    pub(super) fn rotate_edge(&mut self) {
        for _ in 0..=self.dice.below(3) {
            self.open_slot();
        }
    }

    /// Opens the next slot, if there is one.
    pub(super) fn open_slot(&mut self) {
        let (before, _) = self.slots();
        let (told, again) = self.ask(|desk, _| {
            let (acme, format) = (merchant_name("acme"), FormatName::parse(FORMAT).unwrap());
            let of = (&acme, &format, None);
            block_on(desk.vault.rotate_ff1(&principal("olga"), of, None)).map(|(_, left, _)| left)
        });
        let (now, makes) = self.slots();
        match told {
            Ok(left) => {
                assert!(makes && left == SLOTS - now && (now == before + 1 || again), "{before}, {now}");
                self.did("slot opened");
            }
            Err(e) => {
                assert_eq!((e, now), (Error::SpaceExhausted, SLOTS));
                assert!(before == SLOTS || again);
                self.did("slot refused");
            }
        }
    }
}
