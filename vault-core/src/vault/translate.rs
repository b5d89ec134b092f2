//! Translate: a token of one channel becomes a token of another, or of another merchant, without the caller seeing the card.
//!
//! The source is disclosed to this file as it would be to the caller, by the same two proofs and into the same log; the card
//! goes on into a minting and out of memory. What the source was restricted to binds the new token, too.

use super::Vault;
use super::cards::{Deed, Done, Round, Want, one};
use super::request::{Brought, Context, Header, NewCard, Tokenized, Translation};
use super::tokenize::within_batch;
use crate::error::Error;
use crate::name::{ChannelName, MerchantName};
use crate::policy::{Asked, Caller};
use crate::record::{Grants, Row};
use crate::restrictions::Restrictions;
use crate::value::Value;
use crate::words::{Action, Show};

impl Vault {
    /// Translates one token.
    pub async fn translate(
        &self,
        caller: Caller<'_>,
        header: &Header,
        translation: Translation,
    ) -> Result<Tokenized, Error> {
        one(self.translate_batch(caller, header, vec![translation]).await?)
    }

    /// Translates up to 1,000 tokens, each with its own answer.
    ///
    /// It needs the right to detokenize in full where the tokens are, for the request's purpose, and where they go the right
    /// to tokenize, or in another merchant the right to translate. The header is of where they are. The new tokens' cards
    /// count in no guess budget: who asks brings none.
    pub async fn translate_batch(
        &self,
        caller: Caller<'_>,
        header: &Header,
        translations: Vec<Translation>,
    ) -> Result<Vec<Result<Tokenized, Error>>, Error> {
        within_batch(translations.len())?;
        let mut places: Vec<(MerchantAndChannel, Vec<usize>)> = Vec::new();
        for (at, translation) in translations.iter().enumerate() {
            let place = (translation.merchant.clone(), translation.channel.clone());
            match places.iter_mut().find(|(known, _)| *known == place) {
                Some((_, items)) => items.push(at),
                None => places.push((place, vec![at])),
            }
        }
        // Before any card is opened: whoever may not bring cards there has no need of them.
        for ((merchant, channel), _) in &places {
            let state = self.state();
            let asked = brought(caller, header, merchant.as_ref(), channel);
            let admitted = state.rules.admit_brought(&asked).and_then(|a| a.may_tokenize().map(|()| a));
            if let Err(denial) = admitted {
                return Err(self.inner.journal.refuse(denial, header.deadline).await);
            }
        }
        let wants = translations.iter().map(|translation| Want {
            token: translation.token.copy(),
            show: Show::Full,
            deed: Deed::Show(None),
        });
        let wants = wants.collect();
        let sources = self.on_cards(caller, header, Action::Detokenize, wants, disclosed).await?;
        let mut sources: Vec<Option<Result<Source, Error>>> = sources.into_iter().map(Some).collect();
        let mut answers: Vec<Option<Result<Tokenized, Error>>> = translations.iter().map(|_| None).collect();
        for ((merchant, channel), items) in places {
            let (mut cards, mut of) = (Vec::new(), Vec::new());
            for at in items {
                let (Some(source), Some(translation)) =
                    (sources.get_mut(at).and_then(Option::take), translations.get(at))
                else {
                    continue;
                };
                match source.and_then(|source| source.narrowed(translation, header)) {
                    Ok(card) => {
                        cards.push(Brought::Plain(card));
                        of.push(at);
                    }
                    Err(e) => put(&mut answers, at, Err(e)),
                }
            }
            if cards.is_empty() {
                continue;
            }
            let there = Header {
                merchant: None,
                channel: None,
                request_id: header.request_id.derived(merchant.as_ref(), &channel),
                ..header.clone()
            };
            let asked = brought(caller, header, merchant.as_ref(), &channel);
            let minted = self.tokenize_admitted(|rules| rules.admit_brought(&asked), &there, cards).await;
            match minted {
                Ok(minted) => of.into_iter().zip(minted).for_each(|(at, told)| put(&mut answers, at, told)),
                Err(e) => of.into_iter().for_each(|at| put(&mut answers, at, Err(e.clone()))),
            }
        }
        Ok(answers.into_iter().map(|a| a.unwrap_or_else(|| Err(Error::internal()))).collect())
    }
}

/// An opened source.
struct Source {
    merchant: MerchantName,
    value: Value,
    row: Row,
}

impl Source {
    /// The card for the new token: everything that bound the source binds it, and what was asked for besides.
    fn narrowed(self, translation: &Translation, header: &Header) -> Result<NewCard, Error> {
        let Self { merchant, value, row } = self;
        let asked = translation.restrictions;
        let stays = translation.merchant.as_ref().is_none_or(|to| *to == merchant);
        let context = match (&translation.context, stays) {
            (Some(context), _) => Some(context.clone()),
            (None, true) => None,
            // Another merchant's customer is another one, whatever its reference.
            (None, false) => Some(Context::default()),
        };
        // Whoever asked has shown that they serve the source's customer: that one stays bound.
        let other = |c: &Context| c.customer_reference != header.context.customer_reference;
        if stays && row.restrictions.bound_to_customer && context.as_ref().is_some_and(other) {
            return Err(Error::malformed(
                "item.context.customer_reference",
                "must be that of the request: the source is bound to its customer",
            ));
        }
        // Made for some channels only: the new one is for the one that was asked for.
        let channels = match &row.grants {
            Grants::AllBut(none) if none.is_empty() => Vec::new(),
            Grants::AllBut(_) | Grants::Only(_) => vec![translation.channel.clone()],
        };
        let purposes = row.restrictions.purposes.and(asked.purposes).ok_or_else(|| {
            Error::malformed("item.restrictions.purposes", "must share one with those of the source")
        })?;
        let restrictions = Restrictions {
            purposes,
            bound_to_customer: row.restrictions.bound_to_customer || asked.bound_to_customer,
            single_use: row.restrictions.single_use || asked.single_use,
        };
        let valid_until = match (row.valid_until, translation.valid_until) {
            (Some(source), Some(asked)) => Some(source.min(asked)),
            (source, asked) => source.or(asked),
        };
        Ok(NewCard {
            value,
            card_expiry: row.card_expiry,
            format: translation.format.clone(),
            valid_until,
            channels,
            restrictions,
            attributes: crate::attributes::Attributes::default(),
            existing: None,
            context,
        })
    }
}

type MerchantAndChannel = (Option<MerchantName>, ChannelName);

fn put(answers: &mut [Option<Result<Tokenized, Error>>], at: usize, answer: Result<Tokenized, Error>) {
    if let Some(slot) = answers.get_mut(at) {
        *slot = Some(answer);
    }
}

fn brought<'a>(
    caller: Caller<'a>,
    header: &'a Header,
    merchant: Option<&'a MerchantName>,
    channel: &'a ChannelName,
) -> Asked<'a> {
    Asked {
        caller,
        merchant: merchant.or(header.merchant.as_ref()),
        channel: Some(channel),
        action: Action::Tokenize,
        purpose: header.purpose,
        initiator: header.initiator,
        show: Show::Nothing,
    }
}

/// The one place besides detokenize that opens a card, by the same proof: it stands in the log already.
fn disclosed(round: &Round<'_>, want: &Want, done: Done) -> Result<Source, Error> {
    let Done { card, filed, .. } = done;
    let proof = filed.disclosed.ok_or_else(Error::internal)?;
    let secret = round.secret_of(&card.row).map_err(|_| Error::internal())?;
    let value = round.state.keyring.open(proof, &want.token, &secret).map_err(|_| Error::internal())?;
    Ok(Source { merchant: round.merchant_name().clone(), value, row: card.row })
}
