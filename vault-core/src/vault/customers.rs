//! What is known of one customer: the tokens of its cards, listed without the tokens, and the end of all of them.
//!
//! Neither verb keeps its request: a listing asked for again is made again, an erasure asked for again finds it done.

use super::cards::At;
use super::request::{Header, Listed, ListedToken};
use super::view::View;
use super::{MAX_ROUNDS, State, Vault};
use crate::aead::Unopened;
use crate::chain::Places;
use crate::codec::Writer;
use crate::envelope::KeyId;
use crate::error::Error;
use crate::journal::{Filing, NotFiled};
use crate::keyring::{Fingerprint, SubjectIndex, merchant_row};
use crate::policy::{Admitted, Asked, Caller, Presented};
use crate::record::{Card, MerchantId, RowKey, SubjectId};
use crate::rows;
use crate::store::{Key, Part, Write};
use crate::words::{Action, Refusal, Show};

/// The most cards of one page of a listing.
pub const MAX_LISTED: usize = 100;

impl Vault {
    /// Lists the tokens of the customer that the header's context names, as far as they work on the request's channel:
    /// masks and record names, never tokens. `from` is where the page before said that the next one begins.
    pub async fn list_by_subject(
        &self,
        caller: Caller<'_>,
        header: &Header,
        from: usize,
        most: usize,
    ) -> Result<Listed, Error> {
        for _ in 0..MAX_ROUNDS {
            let state = self.state();
            match self.list_round(&state, caller, header, (from, most)).await {
                Ok(Some(listed)) => return Ok(listed),
                Ok(None) => {}
                Err(e) if self.is_over(&state, &e) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::Overloaded)
    }

    async fn list_round(
        &self,
        state: &State,
        caller: Caller<'_>,
        header: &Header,
        (from, most): (usize, usize),
    ) -> Result<Option<Listed>, Error> {
        let admitted = self.admit(state, caller, header, Action::ListBySubject, Show::LastFour).await?;
        let mut view = View::default();
        let subject = self.read_subject(state, &admitted, header, &mut view).await?;
        let most = most.clamp(1, MAX_LISTED);
        let keys = subject.as_ref().map_or(&[][..], |(_, index)| index.cards.as_slice());
        let page: Vec<RowKey> = keys.iter().skip(from).take(most).copied().collect();
        let next = from.saturating_add(page.len());
        let next = (next < keys.len()).then_some(next);
        let cards = self.cards_of(state, &admitted, &page, &mut view).await?;
        let channel = admitted.channel_id();
        let reachable: Vec<Card> = cards
            .into_iter()
            .map(|(_, card)| card)
            .filter(|card| !card.is_revoked() && card.row.grants.include(channel))
            .collect();
        let counted = u32::try_from(reachable.len()).unwrap_or(u32::MAX);
        let named = subject_of(state, &admitted, header)?;
        let permit = match admitted.permit_listing(named, counted) {
            Ok(permit) => permit,
            Err(denial) => return Err(self.inner.journal.refuse(denial, header.deadline).await),
        };
        let shown = permit.show();
        let filings = vec![Filing::Enact(permit, Part::default(), None)];
        let receipt = match self.inner.journal.file(filings, header.deadline, None).await?.pop() {
            Some(Ok(filed)) => filed.receipt,
            Some(Err(NotFiled::Stale)) | None => return Ok(None),
            Some(Err(why)) => return Err(why.into()),
        };
        let merchant = state.rules.merchant(admitted.merchant()).ok_or_else(Error::internal)?;
        let now = self.now();
        let tokens = reachable.iter().map(|card| ListedToken::of(card, merchant, shown, now)).collect();
        Ok(Some(Listed { tokens, next, receipt }))
    }

    /// Ends every token of the customer that the header's context names, on whichever channel, and destroys the customer's
    /// secret, without which neither fingerprints nor card numbers of an older copy of the store can be told. Gives how
    /// many tokens ended.
    pub async fn erase_subject(
        &self,
        caller: Caller<'_>,
        header: &Header,
    ) -> Result<super::request::Erased, Error> {
        let mut ended = 0_u32;
        for _ in 0..MAX_ROUNDS {
            let state = self.state();
            match self.erase_round(&state, caller, header, &mut ended).await {
                Ok(Some(erased)) => return Ok(erased),
                Ok(None) => {}
                Err(e) if self.is_over(&state, &e) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::Overloaded)
    }

    /// Notes that somebody was erased under the erasure epoch key in force, if it is the first: that key is to go.
    async fn note_erasure(&self, state: &State, view: &mut View, part: &mut Part) -> Result<(), Error> {
        let key = erasure_key(state.esks.active());
        view.read(self.inner.store.as_ref(), vec![key.clone()]).await?;
        if view.get(&key).is_none() {
            view.put(part, key, Writer::default().u64(self.now().0).done());
        }
        Ok(())
    }

    /// Ends what is found alive; once nothing is, the customer's secret and fingerprints.
    async fn erase_round(
        &self,
        state: &State,
        caller: Caller<'_>,
        header: &Header,
        ended: &mut u32,
    ) -> Result<Option<super::request::Erased>, Error> {
        let admitted = self.admit(state, caller, header, Action::EraseSubject, Show::Nothing).await?;
        let mut view = View::default();
        let subject = self.read_subject(state, &admitted, header, &mut view).await?;
        let named = subject_of(state, &admitted, header)?;
        let keys = subject.as_ref().map_or_else(Vec::new, |(_, index)| index.cards.clone());
        let cards = self.cards_of(state, &admitted, &keys, &mut view).await?;
        let living: Vec<_> = cards.into_iter().filter(|(_, card)| !card.is_revoked()).collect();
        if !living.is_empty() {
            let now = self.end_all(state, &admitted, header, living, &mut view).await?;
            *ended = ended.saturating_add(now);
            return Ok(None);
        }
        let permit = match admitted.permit_erasure(named, *ended) {
            Ok(permit) => permit,
            Err(denial) => return Err(self.inner.journal.refuse(denial, header.deadline).await),
        };
        let mut part = Part::default();
        self.note_erasure(state, &mut view, &mut part).await?;
        if let Some((key, index)) = subject {
            // A card that comes in meanwhile rewrites this row: then all of it is looked at anew.
            view.rely(&mut part, &key);
            let id = admitted.merchant_id();
            let fingerprints = places_of(state, id, &index.fingerprints)?;
            part.writes.extend(fingerprints.into_iter().chain([key]).map(Write::Delete));
        }
        let filings = vec![Filing::Enact(permit, part, None)];
        match self.inner.journal.file(filings, header.deadline, None).await?.pop() {
            Some(Ok(filed)) => Ok(Some(super::request::Erased { tokens: *ended, receipt: filed.receipt })),
            Some(Err(NotFiled::Stale)) | None => Ok(None),
            Some(Err(why)) => Err(why.into()),
        }
    }

    /// The first step of a verb that begins with neither a token nor a card to keep.
    pub(super) async fn admit(
        &self,
        state: &State,
        caller: Caller<'_>,
        header: &Header,
        action: Action,
        show: Show,
    ) -> Result<Admitted, Error> {
        let asked = Asked {
            caller,
            merchant: header.merchant.as_ref(),
            channel: header.channel.as_ref(),
            action,
            purpose: header.purpose,
            initiator: header.initiator,
            show,
        };
        match state.rules.admit(&asked) {
            Ok(admitted) => Ok(admitted),
            Err(denial) => Err(self.inner.journal.refuse(denial, header.deadline).await),
        }
    }

    /// Ends these tokens, as far as nobody else was first; tells how many ended.
    pub(super) async fn end_all(
        &self,
        state: &State,
        admitted: &Admitted,
        header: &Header,
        cards: Vec<(At, Card)>,
        view: &mut View,
    ) -> Result<u32, Error> {
        let id = admitted.merchant_id();
        let mut filings = Vec::with_capacity(cards.len());
        let mut ends = Vec::with_capacity(cards.len());
        for (At { place, row_key }, card) in cards {
            let record = card.row.record;
            let presented = Presented {
                wanted: Show::Nothing,
                customer: card.row.subject,
                request: [0; 32],
                again: false,
                version: card.row.version.saturating_add(1),
                earlier: None,
                replaced: None,
                now: self.now(),
            };
            let permit = match admitted.permit_card(&card, &presented, None) {
                Ok(permit) => permit,
                Err(denial) => {
                    filings.push(Filing::RefuseFound(denial, Part::default()));
                    ends.push(None);
                    continue;
                }
            };
            let mut row = card.row;
            row.bury();
            row.version = row.version.saturating_add(1);
            let mut part = Part::default();
            let sealed = state.keyring.seal_row(id, &place, &row)?;
            view.put(&mut part, place.key, sealed);
            filings.push(Filing::Enact(permit, part, Some((id, row_key, row.version))));
            ends.push(Some(record));
        }
        let mut ended = 0_u32;
        let mut refused = None;
        for (filed, ends) in
            self.inner.journal.file(filings, header.deadline, None).await?.into_iter().zip(ends)
        {
            match (filed, ends) {
                (Ok(_), Some(record)) => {
                    self.inner.codes.drop_all_of(id, record);
                    ended = ended.saturating_add(1);
                }
                (Ok(_), None) => refused = Some(Error::NotFound),
                (Err(NotFiled::Stale), _) => {}
                (Err(why), _) => return Err(why.into()),
            }
        }
        refused.map_or(Ok(ended), Err)
    }

    /// The customer's row and index, if there is one.
    async fn read_subject(
        &self,
        state: &State,
        admitted: &Admitted,
        header: &Header,
        view: &mut View,
    ) -> Result<Option<(Key, SubjectIndex)>, Error> {
        let (id, subject) = (admitted.merchant_id(), subject_of(state, admitted, header)?);
        let key = merchant_row(rows::SUBJECT, id, &subject.0);
        view.read(self.inner.store.as_ref(), vec![key.clone()]).await?;
        // An index that was destroyed with its key, as none is by this vault, is no customer that is not there.
        let Some(bytes) = view.get(&key) else { return Ok(None) };
        if let Ok(index) = state.keyring.open_subject(id, subject, bytes) {
            return Ok(Some((key, index)));
        }
        let denial = admitted.deny(Refusal::Unreadable, None);
        Err(self.inner.journal.refuse_found(denial, Part::default(), header.deadline).await)
    }

    /// The cards of these rows, without those that were shredded. One that is gone or does not open is the vault's fault,
    /// and told as such.
    pub(super) async fn cards_of(
        &self,
        state: &State,
        admitted: &Admitted,
        keys: &[RowKey],
        view: &mut View,
    ) -> Result<Vec<(At, Card)>, Error> {
        let id = admitted.merchant_id();
        let places: Vec<_> =
            keys.iter().map(|key| state.keyring.card_places(id, *key)).collect::<Result<_, _>>()?;
        view.read(self.inner.store.as_ref(), places.iter().flat_map(Places::keys).collect()).await?;
        let mut cards = Vec::with_capacity(keys.len());
        for (row_key, places) in keys.iter().zip(places) {
            let place = view.at(&places).map_err(|Unopened| Error::internal())?;
            let bytes = view.get(&place.key).ok_or_else(Error::internal)?;
            if state.keyring.is_shredded(id, bytes) {
                continue;
            }
            let card = state.keyring.card(id, &place, bytes).map_err(|_| Error::internal())?;
            cards.push((At { place, row_key: *row_key }, card));
        }
        Ok(cards)
    }
}

/// The row that says that erasures wait for the end of this erasure epoch key.
pub(super) fn erasure_key(esk: KeyId) -> Key {
    Writer::default().u8(rows::ERASURE).u32(esk.0).done()
}

/// The customer that a request names.
fn subject_of(state: &State, admitted: &Admitted, header: &Header) -> Result<SubjectId, Error> {
    match header.context.customer_reference.as_str() {
        "" => Err(Error::malformed("header.context.customer_reference", "is required")),
        reference => state.keyring.subject(admitted.merchant_id(), reference),
    }
}

/// Every key under which these fingerprints' rows may lie.
fn places_of(state: &State, merchant: MerchantId, fingerprints: &[Fingerprint]) -> Result<Vec<Key>, Error> {
    let mut keys = Vec::with_capacity(fingerprints.len());
    for fingerprint in fingerprints {
        keys.extend(state.keyring.fingerprint_places(merchant, *fingerprint)?.keys());
    }
    Ok(keys)
}
