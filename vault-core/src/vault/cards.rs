//! The verbs that begin with a token: detokenize, inspect, revoke, and those of `life.rs`. They share their way in and
//! differ in what they do with the card.

mod round;
mod vaultless;

use std::sync::Arc;

pub(super) use self::round::{At, Decided, Refused, Round};
use super::codes::CodeDeed;
use super::life::Change;
use super::replace::InPlace;
use super::request::{
    Detokenized, EarlierCard, Header, Inspected, Outgoing, Reveal, Revealed, Revocation, RevokedToken, Wanted,
};
use super::seal::{TURN, others_turn};
use super::tokenize::{told_to_the_rest, within_batch};
use super::{MAX_ROUNDS, Vault};
use crate::aead::Unopened;
use crate::audit::entry::Outlet;
use crate::error::Error;
use crate::journal::Filed;
use crate::name::ChannelName;
use crate::policy::{Asked, Caller};
use crate::record::Card;
use crate::time::Timestamp;
use crate::token::Token;
use crate::value::Value;
use crate::words::{Action, Show};

impl Vault {
    /// Gives one card back.
    pub async fn detokenize(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        reveal: Reveal,
    ) -> Result<Detokenized, Error> {
        one(self.detokenize_batch(caller, header, vec![(token, reveal)]).await?)
    }

    /// Gives up to 1,000 cards back, each with its own answer. Every disclosure is on disk before its card is opened.
    pub async fn detokenize_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<(Token, Reveal)>,
    ) -> Result<Vec<Result<Detokenized, Error>>, Error> {
        self.detokenize_wanted(caller, header, tokens.into_iter().map(Wanted::from).collect()).await
    }

    /// Gives up to 1,000 cards back, each as it is now or as it was at some time: for refunds and disputes, a card that was
    /// replaced stays readable until its retention ends.
    pub async fn detokenize_wanted(
        &self,
        caller: Caller<'_>,
        header: &Header,
        wanted: Vec<Wanted>,
    ) -> Result<Vec<Result<Detokenized, Error>>, Error> {
        let want = |Wanted { token, reveal, as_of }| {
            let (show, to) = reveal.asks();
            let deed = match to {
                None => Deed::Show(as_of),
                Some(to) => Deed::Send(Sending { to, as_of, request: None }),
            };
            Want { token, show, deed }
        };
        self.disclose(caller, header, wanted.into_iter().map(want).collect()).await
    }

    /// Gives the cards of a request that the program itself sends somewhere, all or none: where one token is refused, no
    /// card is opened, and no other token's single use is used by it.
    ///
    /// Errors: of the first token that is refused.
    pub async fn detokenize_for(
        &self,
        caller: Caller<'_>,
        header: &Header,
        outgoing: &Outgoing,
        tokens: Vec<Token>,
    ) -> Result<Vec<Detokenized>, Error> {
        let deed = || {
            let to = Outlet::Destination(outgoing.to.clone());
            Deed::Send(Sending { to, as_of: None, request: Some(outgoing.request) })
        };
        let wants = tokens.into_iter().map(|token| Want { token, show: Show::Full, deed: deed() }).collect();
        self.disclose(caller, header, wants).await?.into_iter().collect()
    }

    async fn disclose(
        &self,
        caller: Caller<'_>,
        header: &Header,
        wants: Vec<Want>,
    ) -> Result<Vec<Result<Detokenized, Error>>, Error> {
        self.on_cards(caller, header, Action::Detokenize, wants, |round, want, done| {
            let Done { card: Card { row, .. }, filed: Filed { receipt, disclosed }, .. } = done;
            let revealed = match disclosed {
                None => Revealed::Masked(round.shown(&row)),
                Some(mut proof) => {
                    let way = proof.take_way();
                    let secret = round.secret_of(&row).map_err(|Unopened| Error::internal())?;
                    let keyring = &round.state.keyring;
                    let value = keyring.open(proof, &want.token, &secret).map_err(|_| Error::internal())?;
                    match (way, value) {
                        (Some(way), Value::Card(pan)) => round.sent(&way, pan, row.card_expiry)?,
                        (Some(_), _) => return Err(Error::internal()),
                        (None, Value::Card(pan)) => Revealed::Plain(pan),
                        (None, other) => Revealed::Other(other),
                    }
                }
            };
            Ok(Detokenized { revealed, network: row.network, card_expiry: row.card_expiry, receipt })
        })
        .await
    }

    /// Says what may be known of one card without its number.
    pub async fn inspect(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
    ) -> Result<Inspected, Error> {
        one(self.inspect_batch(caller, header, vec![token]).await?)
    }

    /// Says what may be known of up to 1,000 cards: masked or last four, as the rule says, and never more.
    pub async fn inspect_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<Token>,
    ) -> Result<Vec<Result<Inspected, Error>>, Error> {
        let wants = tokens
            .into_iter()
            .map(|token| Want { token, show: Show::LastFour, deed: Deed::Show(None) })
            .collect();
        self.on_cards(caller, header, Action::Inspect, wants, |round, _, done| {
            let Done { card: Card { row, .. }, filed, shown, .. } = done;
            let format = round.merchant.format_by_id(row.format);
            let earlier = row.earlier.iter().filter(|e| round.now < e.kept_until);
            let earlier = earlier.map(|e| EarlierCard {
                mask: match shown {
                    Show::Masked | Show::Full => e.mask.narrowed(round.merchant.mask(e.mask.length())),
                    Show::LastFour | Show::Nothing => e.mask.last_four_only(),
                },
                network: e.network.clone(),
                card_expiry: e.card_expiry,
                reason: e.reason,
                replaced_at: e.replaced_at,
                kept_until: e.kept_until,
            });
            Ok(Inspected {
                earlier: earlier.collect(),
                mask: match shown {
                    Show::Masked | Show::Full => round.shown(&row),
                    Show::LastFour | Show::Nothing => row.mask.last_four_only(),
                },
                network: row.network,
                card_expiry: row.card_expiry,
                valid_until: row.valid_until,
                made_at: row.made_at,
                scheme: format.map(|f| f.format.scheme()),
                format: format.map(|f| f.name.clone()),
                channels: round.merchant.granted(&row.grants),
                restrictions: row.restrictions,
                attributes: row.attributes,
                receipt: filed.receipt,
            })
        })
        .await
    }

    /// Stops one token from working.
    pub async fn revoke(
        &self,
        caller: Caller<'_>,
        header: &Header,
        token: Token,
        extent: Revocation,
    ) -> Result<RevokedToken, Error> {
        one(self.revoke_batch(caller, header, vec![(token, extent)]).await?)
    }

    /// Stops up to 1,000 tokens from working, everywhere or on one channel. Everywhere is for ever: the card number is
    /// deleted, and a tombstone keeps the token from being minted again.
    pub async fn revoke_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        tokens: Vec<(Token, Revocation)>,
    ) -> Result<Vec<Result<RevokedToken, Error>>, Error> {
        let want = |(token, extent)| Want {
            token,
            show: Show::Nothing,
            deed: Deed::Revoke(match extent {
                Revocation::Everywhere => None,
                Revocation::On(channel) => Some(channel),
            }),
        };
        let wants = tokens.into_iter().map(want).collect();
        self.on_cards(caller, header, Action::Revoke, wants, |round, _, done| {
            let everywhere = done.card.is_revoked();
            if everywhere {
                round.vault.inner.codes.drop_all_of(done.card.merchant, done.card.row.record);
            }
            let channels =
                if everywhere { Vec::new() } else { round.merchant.granted(&done.card.row.grants) };
            Ok(RevokedToken { everywhere, channels, receipt: done.filed.receipt })
        })
        .await
    }

    pub(super) async fn on_cards<T>(
        &self,
        caller: Caller<'_>,
        header: &Header,
        action: Action,
        wants: Vec<Want>,
        finish: impl Fn(&Round<'_>, &Want, Done) -> Result<T, Error>,
    ) -> Result<Vec<Result<T, Error>>, Error> {
        within_batch(wants.len())?;
        let asked = Asked {
            caller,
            merchant: header.merchant.as_ref(),
            channel: header.channel.as_ref(),
            action,
            purpose: header.purpose,
            initiator: header.initiator,
            show: wants.iter().map(|w| w.show).max().unwrap_or(Show::Nothing),
        };
        let mut answers: Vec<Option<Result<T, Error>>> = wants.iter().map(|_| None).collect();
        let (mut run, mut kept) = (None, false);
        for _ in 0..MAX_ROUNDS {
            let state = self.state();
            let admitted = match state.rules.admit(&asked) {
                Ok(admitted) => admitted,
                Err(denial) => {
                    let told = self.inner.journal.refuse(denial, header.deadline).await;
                    return told_to_the_rest(answers, told);
                }
            };
            if wants.iter().any(|want| want.deed.changes_rows()) {
                let dek = state.keyring.outer(admitted.merchant_id())?.active();
                if let Err(spent) = state.uses.check(dek) {
                    return told_to_the_rest(answers, spent);
                }
            }
            if run.is_none() {
                run = Some(Arc::new(self.inner.running.begin(admitted.principal(), header.request_id)?));
            }
            let mut round = match Round::new(self, state, admitted, header, action, &wants) {
                Ok(round) => round,
                Err(e) => return told_to_the_rest(answers, e),
            };
            round.answer_malformed(&mut answers);
            let open: Vec<usize> =
                answers.iter().enumerate().filter(|(_, a)| a.is_none()).map(|(place, _)| place).collect();
            let hold = run.clone();
            let tried = async {
                round.read(&open).await?;
                // What this very call has kept of the request is no sign of an earlier one.
                let again = !kept && round.was_asked_before().await?;
                round.check_guesses(again || kept).await?;
                round.file(&open, again, hold).await
            };
            let (filed, keeps) = match tried.await {
                Ok(tried) => tried,
                Err(e) if self.is_over(&round.state, &e) => continue,
                Err(e) => return told_to_the_rest(answers, e),
            };
            kept |= keeps;
            let mut sealed = 0_usize;
            for (place, answer) in filed {
                if matches!(wants.get(place), Some(Want { deed: Deed::Send(..), .. })) {
                    sealed += 1;
                    if sealed.is_multiple_of(TURN) {
                        others_turn().await;
                    }
                }
                let answer = match (answer, wants.get(place)) {
                    (Ok(done), Some(want)) => finish(&round, want, done),
                    (Ok(_), None) => Err(Error::internal()),
                    (Err(e), _) => Err(e),
                };
                if let Some(slot) = answers.get_mut(place) {
                    *slot = Some(answer);
                }
            }
            if answers.iter().all(Option::is_some) {
                break;
            }
        }
        Ok(answers.into_iter().map(|a| a.unwrap_or(Err(Error::Overloaded))).collect())
    }
}

pub(super) fn one<T>(mut answers: Vec<Result<T, Error>>) -> Result<T, Error> {
    answers.pop().unwrap_or_else(|| Err(Error::internal()))
}

/// What is asked of one card.
pub(super) struct Want {
    pub(super) token: Token,
    /// The least that must be shown.
    pub(super) show: Show,
    pub(super) deed: Deed,
}

/// What is to become of its row.
pub(super) enum Deed {
    /// Nothing: it is shown, as far as the request says; as it was then, if it says when.
    Show(Option<Timestamp>),
    /// Its card's security code is held, read or dropped.
    Code(CodeDeed),
    /// Nothing: its card number goes to somebody else than who asks.
    Send(Sending),
    /// Another card takes its card's place.
    Replace(InPlace),
    /// It stops working, on this channel or on all.
    Revoke(Option<ChannelName>),
    /// Another of its fields changes.
    Change(Change),
    /// A vaultless token of an old slot becomes the current one.
    Upgrade,
}

impl Deed {
    /// Whether it seals a row anew wherever there is one. Of what is shown or sent only a single-use token's does.
    fn changes_rows(&self) -> bool {
        match self {
            Self::Replace(_) | Self::Revoke(_) | Self::Change(_) | Self::Upgrade => true,
            Self::Show(_) | Self::Code(_) | Self::Send(_) => false,
        }
    }
}

/// How a card number goes to somebody else than who asks.
pub(super) struct Sending {
    to: Outlet,
    /// The card of then, if it says when.
    as_of: Option<Timestamp>,
    /// What it is a part of: then all cards of the request go, or none.
    request: Option<[u8; 32]>,
}

impl Deed {
    /// Whether it is done together with all others of its request, or not at all.
    fn is_of_a_whole(&self) -> bool {
        matches!(self, Self::Send(Sending { request: Some(_), .. }))
    }

    /// The channel that is named by it.
    fn channel(&self) -> Option<&ChannelName> {
        match self {
            Self::Revoke(only) => only.as_ref(),
            Self::Show(_)
            | Self::Send(..)
            | Self::Code(_)
            | Self::Replace(_)
            | Self::Change(_)
            | Self::Upgrade => None,
        }
    }

    /// The card that comes in with it.
    fn card(&self) -> Option<&Value> {
        match self {
            Self::Replace(replacement) => Some(&replacement.value),
            Self::Show(_)
            | Self::Send(..)
            | Self::Code(_)
            | Self::Revoke(_)
            | Self::Change(_)
            | Self::Upgrade => None,
        }
    }
}

/// One card whose filing is on disk.
pub(super) struct Done {
    pub(super) card: Card,
    pub(super) filed: Filed,
    shown: Show,
    /// Where it stands in the request.
    pub(super) place: usize,
}
