//! What the keys of one epoch do: names rows, seals them, opens them.
//!
//! A card number is opened by [`Keyring::open`] alone, which takes a `Disclosed` by value. Everything else here opens
//! outer seals, makes names by HMAC, or turns a vaultless token into another: then a number is looked at and dropped, and
//! never given out. Every label is listed in docs/format.md and stands in one file once.

use std::collections::HashMap;
use std::sync::OnceLock;

use zeroize::Zeroizing;

use crate::aead::{self, Unopened, Xaes};
pub use crate::chain::merchant_row;
use crate::chain::{Name, Place, Places};
use crate::codec::{Reader, Writer};
use crate::control::{Control, KeyRecord};
use crate::envelope::{self, Adm, Fpk, Idm, Kek, KeyId, KeyKind, KeyMaterial, Rcv, Root, Trk, ctx};
use crate::error::Error;
use crate::hpke;
use crate::journal::Disclosed;
use crate::name::{ChannelName, FormatName, MerchantName, PrincipalName};
use crate::network::Networks;
use crate::outer::OuterKeys;
use crate::pan::{MaskedPan, PADDED, Pan};
use crate::pattern::Space;
use crate::random::NoRandomness;
use crate::record::{Card, InnerSeal, MerchantId, Row, RowKey, Seal, SubjectId};
use crate::rows;
use crate::sealed::{OVERLAP_DAYS, SealedCard, info_in};
use crate::secret::{Secret32, same_bytes};
use crate::store::Key;
use crate::survivors::Esks;
use crate::time::Timestamp;
use crate::token::{MAX_TOKEN, Scheme, Token};
use crate::uses::Uses;
use crate::value::Value;
use crate::vaultless::{SLOTS, Served, Slot, slot_of};
use crate::words::{KeyState, Kind, Ref};

/// Tokens are padded to a multiple of this before they are sealed, so that a ciphertext's length does not tell the scheme.
const TOKEN_BUCKET: usize = 32;

/// How many cells values without parts are spread over: as many as a card's BIN has last fours.
const GUESS_CELLS: u64 = 10_000;

/// The most cards of one data subject: its index is one row, rewritten with each.
pub const MAX_SUBJECT_ROWS: usize = 1_000;

/// The most fingerprints in a data subject's index: with its cards, below 100 KiB.
pub const MAX_SUBJECT_FINGERPRINTS: usize = 5_000;

/// A data subject's secret; zero bytes where a card has no subject.
pub struct SubjectSecret(Secret32);

impl SubjectSecret {
    /// For a card without a subject.
    #[must_use]
    pub fn none() -> Self {
        Self(Secret32::filled_by(|_| {}))
    }

    /// For a new subject.
    pub fn random() -> Result<Self, NoRandomness> {
        Secret32::random().map(Self)
    }
}

/// A subject's index row, opened: its secret still sealed under ESK, and which rows are its own.
#[derive(Clone)]
pub struct SubjectIndex {
    /// Which erasure epoch key sealed it.
    esk: KeyId,
    sealed_secret: Vec<u8>,
    /// Its card rows.
    pub cards: Vec<RowKey>,
    /// Its fingerprint rows.
    pub fingerprints: Vec<Fingerprint>,
}

/// What makes two cards the same for `reuse`.
pub struct Likeness<'a> {
    /// Where reuse reaches: the channel, or none for the whole merchant.
    pub scope: Option<&'a ChannelName>,
    /// The token format.
    pub format: &'a FormatName,
    /// The data subject's secret: with it gone, nobody can tell whose card a fingerprint was.
    pub subject: &'a SubjectSecret,
    /// The restrictions asked for, canonically.
    pub restrictions: &'a [u8],
}

/// A card's fingerprint: what its row was named first, to which what only the card's holder opens is bound.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub Name);

/// A request, as its idempotency rows know it.
pub struct RequestKey<'a> {
    /// Who asked.
    pub principal: &'a PrincipalName,
    /// The request id, 16 bytes of a UUID.
    pub request_id: &'a [u8; 16],
    /// Which item of a batch, from zero.
    pub item: u32,
}

/// What a vaultless token stands for, as far as it is no secret.
pub struct Vaultless {
    /// Its slot's format and scope.
    pub served: Served,
    /// The digits that the token itself shows.
    pub mask: MaskedPan,
    /// The card network's id.
    pub network: String,
}

struct MerchantKeys {
    name: MerchantName,
    outer: OuterKeys,
    trk: KeyId,
    trks: HashMap<KeyId, Trk>,
    reference: envelope::Ref,
    idm: Idm,
    /// Vaultless slots, by number from 1.
    slots: Vec<Slot>,
    /// What has no slot any more in which tokens are made: somebody else may have the key of its last one.
    closed: Vec<Served>,
    /// By ascending version: the last one is active.
    receivers: Vec<Receiver>,
}

/// A key that cards are sealed to.
struct Receiver {
    id: KeyId,
    seed: Rcv,
    /// Until when it opens; none: it is the active one.
    until: Option<Timestamp>,
    /// Made when it is first asked for: most epochs never are.
    pair: OnceLock<hpke::PrivateKey>,
}

impl Receiver {
    fn pair(&self) -> &hpke::PrivateKey {
        self.pair.get_or_init(|| hpke::PrivateKey::derive(self.seed.secret()))
    }
}

/// The keys of one epoch, unwrapped and prepared.
pub struct Keyring {
    merchants: HashMap<MerchantId, MerchantKeys>,
    esks: std::sync::Arc<Esks>,
    /// The administration key that seals, and all that open.
    adm: (KeyId, HashMap<KeyId, Adm>),
    uses: Uses,
}

impl Keyring {
    /// Unwraps every key that Control has not destroyed. What is sealed is counted in `uses`.
    pub fn unwrap(
        control: &Control,
        root: &Root,
        esks: std::sync::Arc<Esks>,
        uses: &Uses,
    ) -> Result<Self, Error> {
        let mut merchants = HashMap::new();
        for (name, numbers) in &control.numbers {
            merchants.insert(numbers.id, MerchantKeys::unwrap(control, name, root, uses)?);
        }
        let alive = |k: &&KeyRecord| k.kind == KeyKind::Adm && k.state != KeyState::Destroyed;
        let opened = control.keys.iter().filter(alive).map(|k| Ok((k.id, k.unwrap(root)?)));
        let adm = control.active(KeyKind::Adm, None).ok_or(Error::Custody)?.id;
        let adm = (adm, opened.collect::<Result<_, Error>>()?);
        Ok(Self { merchants, esks, adm, uses: uses.clone() })
    }

    fn of(&self, merchant: MerchantId) -> Result<&MerchantKeys, Error> {
        self.merchants.get(&merchant).ok_or_else(Error::internal)
    }

    /// The key of a token's card row, which is its name for good: r1 = HMAC(IDX1, ctx("row") e(token)). Where the row lies
    /// [`card_places`](Self::card_places) says. All vaultless tokens of one card in one format and scope have one row: the
    /// [`namesake`](MerchantKeys::namesake)'s.
    pub fn row_key(&self, merchant: MerchantId, token: &Token) -> Result<RowKey, Error> {
        let keys = self.of(merchant)?;
        let namesake = keys.namesake(token);
        let token = namesake.as_ref().unwrap_or(token);
        Ok(RowKey(keys.outer.card_name(&ctx("row", keys.name()).e(token.as_bytes()).done())))
    }

    /// Where a card row may lie: r(n+1) = HMAC(IDX(n+1), ctx("row+") e(r(n))).
    pub fn card_places(&self, merchant: MerchantId, key: RowKey) -> Result<Places, Error> {
        Ok(self.of(merchant)?.outer.card_places(merchant, key.0))
    }

    /// Where a fingerprint row may lie: chained over FPR as card rows are over IDX, label "fpr+".
    pub fn fingerprint_places(&self, merchant: MerchantId, of: Fingerprint) -> Result<Places, Error> {
        Ok(self.of(merchant)?.outer.fingerprint_places(merchant, of.0))
    }

    /// The record's name in the log: HMAC(REF, ctx("ref") e(token)). One for one row, as [`row_key`](Self::row_key) says.
    pub fn reference(&self, merchant: MerchantId, token: &Token) -> Result<Ref, Error> {
        let keys = self.of(merchant)?;
        let namesake = keys.namesake(token);
        let token = namesake.as_ref().unwrap_or(token);
        Ok(Ref(keys.reference.name_of(&ctx("ref", keys.name()).e(token.as_bytes()).done())))
    }

    /// A data subject's id: HMAC(REF, ctx("sub") e(reference)).
    pub fn subject(&self, merchant: MerchantId, customer_reference: &str) -> Result<SubjectId, Error> {
        let keys = self.of(merchant)?;
        let message = ctx("sub", keys.name()).e(customer_reference.as_bytes()).done();
        Ok(SubjectId(keys.reference.name_of(&message)))
    }

    /// The name of a value's fingerprint row, for good: HMAC(FPR1, ctx("fpr") ...), of other data than cards "fpr-value".
    pub fn fingerprint(
        &self,
        merchant: MerchantId,
        like: &Likeness<'_>,
        value: &Value,
    ) -> Result<Fingerprint, Error> {
        let keys = self.of(merchant)?;
        let mut w = match value.kind() {
            Kind::Card => ctx("fpr", keys.name()),
            other => of_kind(ctx("fpr-value", keys.name()), other),
        };
        w.e(like.scope.map_or("", ChannelName::as_str).as_bytes())
            .e(like.format.as_str().as_bytes())
            .fixed(like.subject.0.expose_bytes())
            .e(like.restrictions)
            .e(&value.expose_identity());
        let message = Zeroizing::new(w.done());
        Ok(Fingerprint(keys.outer.fingerprint_name(&message)))
    }

    /// A card's public fingerprint: HMAC(REF, ctx("fpr-public") e(PAN))[..16]. The same for every token of the card, and for
    /// good: REF is not rotated.
    pub fn public_fingerprint(&self, merchant: MerchantId, pan: &Pan) -> Result<[u8; 16], Error> {
        let keys = self.of(merchant)?;
        let message = Zeroizing::new(ctx("fpr-public", keys.name()).e(pan.expose_digits()).done());
        Ok(keys.reference.name_of(&message))
    }

    /// Seals a card row for its place: see [`OuterKeys::seal`].
    pub fn seal_row(&self, merchant: MerchantId, place: &Place, row: &Row) -> Result<Vec<u8>, Error> {
        self.of(merchant)?.outer.seal_at(rows::CARD, place, &row.encode())
    }

    /// Opens the outer seal of the card row at a place.
    pub fn card(&self, merchant: MerchantId, place: &Place, bytes: &[u8]) -> Result<Card, Unopened> {
        self.card_named(merchant, &place.name, bytes)
    }

    /// Opens the outer seal of a card row that lies under this name.
    pub fn card_named(&self, merchant: MerchantId, name: &Name, bytes: &[u8]) -> Result<Card, Unopened> {
        let row = self.merchants.get(&merchant).ok_or(Unopened)?.outer.open(rows::CARD, name, bytes)?;
        Ok(Card { merchant, row: Row::decode(&row).map_err(|_| Unopened)? })
    }

    /// Draws a record key, seals the value under it, and wraps it under the token's own key.
    pub fn seal_value(
        &self,
        merchant: MerchantId,
        token: &Token,
        subject: &SubjectSecret,
        record: Ref,
        value: &Value,
    ) -> Result<InnerSeal, Error> {
        let keys = self.of(merchant)?;
        let trk = keys.trks.get(&keys.trk).ok_or_else(Error::internal)?;
        self.uses.take(keys.trk)?;
        let record_key = Secret32::random()?;
        let aad = value_aad(keys.name(), value.kind(), record);
        let sealed = aead::seal_once(&record_key, &aad, &value.expose_padded());
        let wrapper = token_key(trk, keys.name(), token, subject);
        let wrapped =
            wrapper.seal(&record_key_aad(keys.name(), record, keys.trk), record_key.expose_bytes())?;
        Ok(InnerSeal {
            trk: keys.trk,
            wrapped_key: wrapped.try_into().map_err(|_| Error::internal())?,
            sealed: sealed.into(),
        })
    }

    /// Wraps the record keys of a token's row under the token root key that seals now, if they are under an older one: that
    /// of its card, and those of the cards that it stood for before. No card number appears. Tells whether there were any.
    pub(crate) fn renew_record_keys(
        &self,
        merchant: MerchantId,
        token: &Token,
        subject: &SubjectSecret,
        row: &mut Row,
    ) -> Result<bool, Unopened> {
        let keys = self.merchants.get(&merchant).ok_or(Unopened)?;
        let record = row.record;
        let mut renewed = false;
        let earlier = row.earlier.iter_mut().map(|earlier| &mut earlier.inner);
        for inner in row.inner.iter_mut().chain(earlier).filter(|inner| inner.trk != keys.trk) {
            // A key whose uses are spent, or wait for their block, takes no more: the row stays as it is, and readable.
            if self.uses.take(keys.trk).is_err() {
                break;
            }
            let (old, new) = (keys.trks.get(&inner.trk), keys.trks.get(&keys.trk));
            let wrapper = token_key(old.ok_or(Unopened)?, keys.name(), token, subject);
            let opened = wrapper.open(&record_key_aad(keys.name(), record, inner.trk), &inner.wrapped_key)?;
            let wrapper = token_key(new.ok_or(Unopened)?, keys.name(), token, subject);
            let wrapped = wrapper.seal(&record_key_aad(keys.name(), record, keys.trk), &opened);
            inner.wrapped_key = wrapped.map_err(|_| Unopened)?.try_into().map_err(|_| Unopened)?;
            inner.trk = keys.trk;
            renewed = true;
        }
        Ok(renewed)
    }

    /// Whether what lies at a fingerprint's place, which opened, is under an older token root key.
    pub(crate) fn is_of_older_trk(&self, merchant: MerchantId, place: &Place, bytes: &[u8]) -> bool {
        let trks = self.trks_of(merchant, rows::FINGERPRINT, &place.name, bytes).unwrap_or_default();
        self.merchants.get(&merchant).is_some_and(|keys| trks.iter().any(|trk| *trk != keys.trk))
    }

    /// The token root keys that a card's or a fingerprint's row needs. Opens its outer seal alone.
    pub(crate) fn trks_of(
        &self,
        merchant: MerchantId,
        kind: u8,
        name: &Name,
        bytes: &[u8],
    ) -> Result<Vec<KeyId>, Unopened> {
        let plain = self.merchants.get(&merchant).ok_or(Unopened)?.outer.open(kind, name, bytes)?;
        if kind == rows::FINGERPRINT {
            return Ok(vec![KeyId(Reader::new(&plain).u32().map_err(|_| Unopened)?)]);
        }
        let row = Row::decode(&plain).map_err(|_| Unopened)?;
        let earlier = row.earlier.iter().map(|earlier| earlier.inner.trk);
        let mut trks: Vec<KeyId> = row.inner.iter().map(|inner| inner.trk).chain(earlier).collect();
        trks.sort_unstable();
        trks.dedup();
        Ok(trks)
    }

    /// The one way out: opens the inner seal of a value whose disclosure is on disk.
    pub fn open(
        &self,
        disclosed: Disclosed,
        token: &Token,
        subject: &SubjectSecret,
    ) -> Result<Value, Unopened> {
        let record = disclosed.into_sealed();
        let keys = self.merchants.get(&record.merchant).ok_or(Unopened)?;
        let inner = match &record.seal {
            Seal::Inner(inner) => inner,
            Seal::Vaultless => {
                let pan = keys.slot_of(token).and_then(|slot| slot.expose_pan(token)).ok_or(Unopened)?;
                let value = Value::Card(pan);
                return if value.has(&record.mask) { Ok(value) } else { Err(Unopened) };
            }
        };
        let trk = keys.trks.get(&inner.trk).ok_or(Unopened)?;
        let wrapper = token_key(trk, keys.name(), token, subject);
        let aad = record_key_aad(keys.name(), record.record, inner.trk);
        let mut opened = wrapper.open(&aad, &inner.wrapped_key)?;
        let record_key = Secret32::take(&mut opened).ok_or(Unopened)?;
        let kind = record.mask.kind();
        let aad = value_aad(keys.name(), kind, record.record);
        let padded = aead::open_once(&record_key, &aad, &inner.sealed)?;
        let value = Value::from_padded(kind, &padded).map_err(|_| Unopened)?;
        // XAES does not commit to its key: what opens must also look like the value that was sealed.
        if value.has(&record.mask) { Ok(value) } else { Err(Unopened) }
    }

    /// The vaultless token of a card number in the current slot of a format and scope. `None`: no slot was opened for
    /// them, or the format names no keep for the length.
    pub fn vaultless_token(
        &self,
        merchant: MerchantId,
        served: Served,
        pan: &Pan,
    ) -> Result<Option<Token>, Error> {
        Ok(self.of(merchant)?.current_slot(served).and_then(|slot| slot.token(pan)))
    }

    /// Whether no tokens are made any more for a format and scope: somebody else may have the key of their last slot.
    #[must_use]
    pub fn is_closed(&self, merchant: MerchantId, served: Served) -> bool {
        self.merchants.get(&merchant).is_some_and(|keys| keys.closed.contains(&served))
    }

    /// What a vaultless token without a row stands for, if it opens to a number of some issuer's range. The number itself
    /// is looked at here and dropped: only [`open`](Self::open) gives one out.
    #[must_use]
    pub fn vaultless_card(
        &self,
        merchant: MerchantId,
        token: &Token,
        networks: &Networks,
    ) -> Option<Vaultless> {
        let slot = self.merchants.get(&merchant)?.slot_of(token)?;
        let pan = slot.expose_pan(token)?;
        let network = networks.find(&pan)?.id().to_owned();
        Some(Vaultless { served: slot.served(), mask: pan.mask(slot.keep(pan.len())?), network })
    }

    /// The token of the current slot for the card of a token of an older one: the number is never given out. The token
    /// itself where its slot is the current one, or none is made in that any more.
    #[must_use]
    pub fn upgraded(&self, merchant: MerchantId, token: &Token) -> Option<Token> {
        let keys = self.merchants.get(&merchant)?;
        let from = keys.slot_of(token)?;
        let to = keys.current_slot(from.served())?;
        if to.number() == from.number() || keys.closed.contains(&from.served()) {
            Some(token.copy())
        } else {
            to.token(&from.expose_pan(token)?)
        }
    }

    /// Seals a token into its card's fingerprint row, and which of the token's cards this one is: only who brings the card
    /// can open it.
    pub fn seal_reuse(
        &self,
        merchant: MerchantId,
        place: &Place,
        like: &Likeness<'_>,
        value: &Value,
        (token, generation): (&Token, u32),
    ) -> Result<Vec<u8>, Error> {
        let keys = self.of(merchant)?;
        let trk = keys.trks.get(&keys.trk).ok_or_else(Error::internal)?;
        self.uses.take(keys.trk)?;
        let aad = reuse_aad(keys.name(), place, keys.trk);
        let inner = reuse_key(trk, keys.name(), like, value).seal(&aad, &pad(token, generation))?;
        let plain = Writer::default().u32(keys.trk.0).fixed(&inner).done();
        keys.outer.seal_at(rows::FINGERPRINT, place, &plain)
    }

    /// Opens a fingerprint row with the card in hand.
    pub fn open_reuse(
        &self,
        merchant: MerchantId,
        place: &Place,
        like: &Likeness<'_>,
        value: &Value,
        bytes: &[u8],
    ) -> Result<(Token, u32), Unopened> {
        let keys = self.merchants.get(&merchant).ok_or(Unopened)?;
        let plain = keys.outer.open(rows::FINGERPRINT, &place.name, bytes)?;
        let mut r = Reader::new(&plain);
        let id = KeyId(r.u32().map_err(|_| Unopened)?);
        let trk = keys.trks.get(&id).ok_or(Unopened)?;
        let aad = reuse_aad(keys.name(), place, id);
        let padded = reuse_key(trk, keys.name(), like, value).open(&aad, r.rest())?;
        unpad(&padded)
    }

    /// A new subject's index, its secret sealed under ESK.
    pub fn new_subject(
        &self,
        merchant: MerchantId,
        subject: SubjectId,
        secret: &SubjectSecret,
    ) -> Result<SubjectIndex, Error> {
        let keys = self.of(merchant)?;
        self.uses.take(self.esks.active())?;
        let (esk, sealed_secret) = self.esks.seal(keys.name(), subject, &secret.0)?;
        Ok(SubjectIndex { esk, sealed_secret, cards: Vec::new(), fingerprints: Vec::new() })
    }

    /// A subject's secret.
    pub fn subject_secret(
        &self,
        merchant: MerchantId,
        subject: SubjectId,
        index: &SubjectIndex,
    ) -> Result<SubjectSecret, Unopened> {
        let keys = self.merchants.get(&merchant).ok_or(Unopened)?;
        let sealed = (index.esk, index.sealed_secret.as_slice());
        self.esks.open(keys.name(), subject, sealed).map(SubjectSecret)
    }

    /// Seals a subject's index row.
    pub fn seal_subject(
        &self,
        merchant: MerchantId,
        subject: SubjectId,
        index: &SubjectIndex,
    ) -> Result<Vec<u8>, Error> {
        let mut w = Writer::default();
        w.u32(index.esk.0).e(&index.sealed_secret);
        w.u16(u16::try_from(index.cards.len()).map_err(|_| Error::internal())?);
        for key in &index.cards {
            w.fixed(&key.0);
        }
        w.u16(u16::try_from(index.fingerprints.len()).map_err(|_| Error::internal())?);
        for key in &index.fingerprints {
            w.fixed(&key.0);
        }
        self.of(merchant)?.outer.seal(rows::SUBJECT, (&subject.0, 1), &w.done())
    }

    /// Opens a subject's index row.
    pub fn open_subject(
        &self,
        merchant: MerchantId,
        subject: SubjectId,
        bytes: &[u8],
    ) -> Result<SubjectIndex, Unopened> {
        let keys = self.merchants.get(&merchant).ok_or(Unopened)?;
        let plain = keys.outer.open(rows::SUBJECT, &subject.0, bytes)?;
        let read = || -> Result<SubjectIndex, crate::codec::Torn> {
            let mut r = Reader::new(&plain);
            let esk = KeyId(r.u32()?);
            let sealed_secret = r.e()?.to_vec();
            let cards = (0..r.u16()?).map(|_| r.array().map(RowKey)).collect::<Result<_, _>>()?;
            let fingerprints = (0..r.u16()?).map(|_| r.array().map(Fingerprint)).collect::<Result<_, _>>()?;
            r.end()?;
            Ok(SubjectIndex { esk, sealed_secret, cards, fingerprints })
        };
        read().map_err(|_| Unopened)
    }

    /// The 16 bytes that name an idempotency row.
    pub fn request_row(&self, merchant: MerchantId, request: &RequestKey<'_>) -> Result<[u8; 16], Error> {
        let keys = self.of(merchant)?;
        Ok(keys.idm.name_of(&request_message("idem-row", keys.name(), request).done()))
    }

    /// The keyed hash of a request's bytes.
    pub fn request_hash(
        &self,
        merchant: MerchantId,
        request: &RequestKey<'_>,
        bytes: &[u8],
    ) -> Result<[u8; 32], Error> {
        let keys = self.of(merchant)?;
        // A batch's bytes may be longer than e() takes: their digest stands for them.
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        Ok(keys.idm.name_of(&request_message("idem-hash", keys.name(), request).e(digest.as_ref()).done()))
    }

    /// What shows that a kept request is as this vault wrote it: its time and hash, under the request's own name.
    pub fn request_tag(
        &self,
        merchant: MerchantId,
        request: &RequestKey<'_>,
        at: Timestamp,
        hash: &[u8; 32],
    ) -> Result<[u8; 16], Error> {
        let keys = self.of(merchant)?;
        Ok(keys.idm.name_of(&request_message("idem-tag", keys.name(), request).u64(at.0).fixed(hash).done()))
    }

    /// Seals an answer so that only who brings the same request opens it: TRK id u32, XAES message.
    pub fn seal_answer(
        &self,
        merchant: MerchantId,
        request: &RequestKey<'_>,
        bytes: &[u8],
        answer: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let keys = self.of(merchant)?;
        let trk = keys.trks.get(&keys.trk).ok_or_else(Error::internal)?;
        self.uses.take(keys.trk)?;
        let sealed =
            answer_key(trk, keys.name(), request, bytes).seal(&answer_aad(keys.name(), keys.trk), answer)?;
        Ok(Writer::default().u32(keys.trk.0).fixed(&sealed).done())
    }

    /// Opens a kept answer with the same request in hand.
    pub fn open_answer(
        &self,
        merchant: MerchantId,
        request: &RequestKey<'_>,
        bytes: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let keys = self.merchants.get(&merchant).ok_or(Unopened)?;
        let mut r = Reader::new(sealed);
        let id = KeyId(r.u32().map_err(|_| Unopened)?);
        let trk = keys.trks.get(&id).ok_or(Unopened)?;
        answer_key(trk, keys.name(), request, bytes).open(&answer_aad(keys.name(), id), r.rest())
    }

    /// The guess cell of a value: principal, and what an attacker would hold still. Of a card the BIN of six, last four and
    /// length; of all else what [`neighbourhood`] says.
    pub fn guess_cell(
        &self,
        merchant: MerchantId,
        principal: &PrincipalName,
        value: &Value,
    ) -> Result<[u8; 16], Error> {
        let keys = self.of(merchant)?;
        let principal = principal.as_str().as_bytes();
        let message = Zeroizing::new(match value {
            Value::Card(pan) => ctx("guess-cell", keys.name())
                .e(principal)
                .fixed(pan.bin6().as_bytes())
                .fixed(pan.last_four().as_bytes())
                .u8(length(pan))
                .done(),
            other => {
                let (group, cell) = keys.neighbourhood(other);
                of_kind(ctx("guess-cell-value", keys.name()), other.kind())
                    .e(principal)
                    .e(&group)
                    .e(&cell)
                    .done()
            }
        });
        Ok(keys.idm.name_of(&message))
    }

    /// A value's member in its guess cell: HMAC(IDM, ctx("guess") e(day) e(principal) e(PAN))[..8] of a card.
    pub fn guess_member(
        &self,
        merchant: MerchantId,
        day: u32,
        principal: &PrincipalName,
        value: &Value,
    ) -> Result<[u8; 8], Error> {
        let keys = self.of(merchant)?;
        let mut w = match value.kind() {
            Kind::Card => ctx("guess", keys.name()),
            other => of_kind(ctx("guess-value", keys.name()), other),
        };
        let message = Zeroizing::new(
            w.e(&day.to_be_bytes()).e(principal.as_str().as_bytes()).e(&value.expose_identity()).done(),
        );
        Ok(keys.idm.name_of(&message))
    }

    /// The counter of distinct values of one principal: of a card per BIN of six and length, of all else per group of
    /// [`neighbourhood`].
    pub fn volume(
        &self,
        merchant: MerchantId,
        principal: &PrincipalName,
        value: &Value,
    ) -> Result<[u8; 16], Error> {
        let keys = self.of(merchant)?;
        let principal = principal.as_str().as_bytes();
        let message = Zeroizing::new(match value {
            Value::Card(pan) => {
                ctx("volume", keys.name()).e(principal).fixed(pan.bin6().as_bytes()).u8(length(pan)).done()
            }
            other => {
                let (group, _) = keys.neighbourhood(other);
                of_kind(ctx("volume-value", keys.name()), other.kind()).e(principal).e(&group).done()
            }
        });
        Ok(keys.idm.name_of(&message))
    }

    /// The counters of vaultless tokens that a principal opened, and of those that opened to no card.
    pub fn vaultless_counters(
        &self,
        merchant: MerchantId,
        principal: &PrincipalName,
    ) -> Result<[[u8; 16]; 2], Error> {
        let keys = self.of(merchant)?;
        let name = |missed: bool| {
            let message =
                ctx("vaultless-count", keys.name()).e(principal.as_str().as_bytes()).u8(missed.into()).done();
            keys.idm.name_of(&message)
        };
        Ok([name(false), name(true)])
    }

    /// The counter of used token space, by what tokens share it. Of a card: scheme, length, keep and kept digits. Of all
    /// else: kind, scheme, and what the tokens have in common, place by place.
    pub fn space(&self, merchant: MerchantId, space: &Space) -> Result<[u8; 16], Error> {
        let keys = self.of(merchant)?;
        let of_value = |kind: Kind, scheme: Scheme, outline: &[u8]| {
            of_kind(ctx("space-value", keys.name()), kind).u8(scheme.id()).e(outline).done()
        };
        let message = match space {
            Space::Number(shape) => {
                let length = u8::try_from(shape.length()).unwrap_or(0);
                ctx("space", keys.name()).u8(shape.scheme().id()).u8(length).e(shape.kept()).done()
            }
            Space::Pattern(pattern) => of_value(pattern.kind(), pattern.scheme(), &pattern.outline()),
            Space::Opaque(kind) => of_value(*kind, Scheme::Opaque, b""),
        };
        Ok(keys.idm.name_of(&message))
    }

    /// The merchant's active key for sealed cards: its number and its public half.
    pub fn sealing_key(&self, merchant: MerchantId) -> Result<(KeyId, hpke::PublicKey), Error> {
        let active = self.of(merchant)?.receivers.iter().rev().find(|r| r.until.is_none());
        active.map(|r| (r.id, r.pair().public_key())).ok_or_else(Error::internal)
    }

    /// Opens a card that was sealed to one of the merchant's keys for this channel: JSON, see [`crate::sealed`]. A key that
    /// was replaced opens for [`OVERLAP_DAYS`] more.
    pub(crate) fn open_sealed(
        &self,
        merchant: MerchantId,
        channel: &ChannelName,
        card: &SealedCard,
        now: Timestamp,
    ) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let keys = self.merchants.get(&merchant).ok_or(Unopened)?;
        let opens = |r: &&Receiver| r.id == card.key && r.until.is_none_or(|until| now < until);
        let receiver = keys.receivers.iter().find(opens).ok_or(Unopened)?;
        receiver.pair().open(&info_in(&keys.name, channel, card.key), &card.enc, &card.ciphertext)
    }

    /// Seals an operator's note: ADM id u32, XAES message. The log names it by the hash of these bytes, which tells
    /// nobody whether a guessed text is right.
    pub fn seal_note(&self, text: &str) -> Result<Vec<u8>, Error> {
        let (id, keys) = &self.adm;
        let adm = keys.get(id).ok_or_else(Error::internal)?;
        self.uses.take(*id)?;
        let sealed = adm.seal(&ctx("note", "").u32(id.0).done(), text.as_bytes())?;
        Ok(Writer::default().u32(id.0).fixed(&sealed).done())
    }

    /// Opens an operator's note.
    pub fn open_note(&self, bytes: &[u8]) -> Result<String, Unopened> {
        let mut r = Reader::new(bytes);
        let id = KeyId(r.u32().map_err(|_| Unopened)?);
        let adm = self.adm.1.get(&id).ok_or(Unopened)?;
        let text = adm.open(&ctx("note", "").u32(id.0).done(), r.rest())?;
        String::from_utf8(text.to_vec()).map_err(|_| Unopened)
    }

    /// Whether a row was left under a key that is destroyed: nobody opens it again, and what it was for may begin anew.
    #[must_use]
    pub fn is_shredded(&self, merchant: MerchantId, bytes: &[u8]) -> bool {
        self.merchants.get(&merchant).is_some_and(|keys| keys.outer.is_shredded(bytes))
    }

    /// A merchant's outer seals alone.
    pub(crate) fn outer(&self, merchant: MerchantId) -> Result<&OuterKeys, Error> {
        Ok(&self.of(merchant)?.outer)
    }
}

impl MerchantKeys {
    fn unwrap(control: &Control, name: &MerchantName, root: &Root, uses: &Uses) -> Result<Self, Error> {
        let alive = |kind| {
            let mine = move |k: &&KeyRecord| {
                k.kind == kind && k.merchant.as_ref() == Some(name) && k.state != KeyState::Destroyed
            };
            control.keys.iter().filter(mine)
        };
        let mut keks = HashMap::new();
        for record in alive(KeyKind::Kek) {
            keks.insert(record.id, record.unwrap::<Kek, Root>(root)?);
        }
        let under = |record: &KeyRecord| record.under.and_then(|id| keks.get(&id)).ok_or(Error::Custody);
        let active = |kind| control.active(kind, Some(name)).ok_or(Error::Custody);
        let mut keys = Self {
            name: name.clone(),
            outer: OuterKeys::unwrap(control, name, root, uses)?,
            trk: active(KeyKind::Trk)?.id,
            trks: HashMap::new(),
            reference: active(KeyKind::Ref).and_then(|k| k.unwrap(under(k)?))?,
            idm: active(KeyKind::Idm).and_then(|k| k.unwrap(under(k)?))?,
            receivers: Vec::new(),
            slots: Vec::new(),
            closed: Vec::new(),
        };
        let numbers = control.numbers.get(name).ok_or(Error::Custody)?;
        for (number, slot) in (1..).zip(&numbers.slots) {
            let made = numbers.formats.values().find(|f| f.id == slot.format).ok_or(Error::Custody)?;
            let format = made.format.build().map_err(Error::Config)?;
            let record = alive(KeyKind::Fpk).find(|k| k.id == slot.key).ok_or(Error::Custody)?;
            let key = record.unwrap::<Fpk, Kek>(under(record)?)?;
            let serves = slot.served();
            let slot = Slot::new(number, (slot.key, &key), serves, &format);
            keys.slots.push(slot.map_err(|_| Error::Custody)?);
            // The last one of a format and scope says whether tokens are made for them.
            keys.closed.retain(|served| *served != serves);
            if record.state != KeyState::Active {
                keys.closed.push(serves);
            }
        }
        for record in alive(KeyKind::Trk) {
            keys.trks.insert(record.id, record.unwrap(under(record)?)?);
        }
        for record in alive(KeyKind::Rcv).filter(|k| k.state != KeyState::Compromised) {
            let (seed, pair) = (record.unwrap(under(record)?)?, OnceLock::new());
            let next = alive(KeyKind::Rcv).find(|k| k.version == record.version.saturating_add(1));
            let until = next.map(|next| next.made_at.plus_days(OVERLAP_DAYS));
            keys.receivers.push(Receiver { id: record.id, seed, until, pair });
        }
        Ok(keys)
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The slot whose number a token names, if it is opened.
    fn slot_of(&self, token: &Token) -> Option<&Slot> {
        let number = slot_of(token, SLOTS)?;
        self.slots.get(usize::from(number).checked_sub(1)?)
    }

    /// The token whose name the record of a vaultless token of a later slot has: the one that the first slot of the same
    /// format and scope makes of the same card. So what ends or restricts one token of a card ends or restricts those of
    /// every slot, whenever it was opened. `None`: a token is its own namesake.
    fn namesake(&self, token: &Token) -> Option<Token> {
        let slot = self.slot_of(token)?;
        let first = self.slots.iter().find(|other| other.served() == slot.served())?;
        if first.number() == slot.number() { None } else { first.token(&slot.expose_pan(token)?) }
    }

    /// The newest slot of a format and scope.
    fn current_slot(&self, served: Served) -> Option<&Slot> {
        self.slots.iter().rev().find(|slot| slot.served() == served)
    }

    /// What an attacker who guesses a value would hold still, and the group of ten thousand such cells that it lies in: of
    /// a network token BIN of six and length, of an IBAN the country, of an account the routing number, of digits their
    /// number, of a telephone number country code and length, each with the last four characters as the cell. What has no
    /// such parts, an address, a reference or bytes, falls into one of ten thousand cells by a keyed hash.
    fn neighbourhood(&self, value: &Value) -> (Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>) {
        let whole = value.expose_identity();
        let last = |text: &[u8]| text.get(text.len().saturating_sub(4)..).unwrap_or_default().to_vec();
        let sized = |front: &[u8]| {
            let mut group = front.to_vec();
            group.push(u8::try_from(whole.len()).unwrap_or(u8::MAX));
            group
        };
        let (group, cell) = match value {
            Value::Card(pan) => (sized(pan.bin6().as_bytes()), last(&whole)),
            Value::NetworkToken(token) => (sized(token.number().bin6().as_bytes()), last(&whole)),
            Value::Iban(iban) => (iban.country().as_bytes().to_vec(), last(&whole)),
            Value::UsAccount(account) => {
                (account.routing().as_bytes().to_vec(), last(account.expose_number()))
            }
            Value::Digits(_) => (sized(b""), last(&whole)),
            Value::Phone(phone) => (sized(phone.country_code()), last(&whole)),
            Value::Reference(_) | Value::Email(_) | Value::Bytes(_) => {
                let message = of_kind(ctx("guess-place", self.name()), value.kind()).e(&whole).done();
                let name: [u8; 8] = self.idm.name_of(&Zeroizing::new(message));
                (Vec::new(), (u64::from_be_bytes(name) % GUESS_CELLS).to_be_bytes().to_vec())
            }
        };
        (Zeroizing::new(group), Zeroizing::new(cell))
    }
}

/// Every store key of a row that lives by the day: kind u8, day u32, merchant u32, 16 bytes.
#[must_use]
pub fn day_row(kind: u8, day: u32, merchant: MerchantId, name: &[u8; 16]) -> Key {
    Writer::with_capacity(25).u8(kind).u32(day).u32(merchant.0).fixed(name).done()
}

/// W = HMAC(TRK, ctx("tok") e(token) e(SUB)), prepared.
fn token_key(trk: &Trk, merchant: &str, token: &Token, subject: &SubjectSecret) -> Xaes {
    let message = Zeroizing::new(ctx("tok", merchant).e(token.as_bytes()).e(subject.0.expose_bytes()).done());
    Xaes::new(&trk.derive(&message))
}

fn reuse_key(trk: &Trk, merchant: &str, like: &Likeness<'_>, value: &Value) -> Xaes {
    let mut w = match value.kind() {
        Kind::Card => ctx("reuse", merchant),
        other => of_kind(ctx("reuse-value", merchant), other),
    };
    let scope = like.scope.map_or("", ChannelName::as_str).as_bytes();
    let subject = like.subject.0.expose_bytes();
    let message = Zeroizing::new(w.e(scope).e(subject).e(&value.expose_identity()).done());
    Xaes::new(&trk.derive(&message))
}

fn answer_key(trk: &Trk, merchant: &str, request: &RequestKey<'_>, bytes: &[u8]) -> Xaes {
    let message = Zeroizing::new(request_message("idem", merchant, request).e(bytes).done());
    Xaes::new(&trk.derive(&message))
}

fn request_message(label: &str, merchant: &str, request: &RequestKey<'_>) -> Writer {
    let mut w = ctx(label, merchant);
    w.e(request.principal.as_str().as_bytes()).e(request.request_id).u32(request.item);
    w
}

/// Of a card ctx("pan"), row kind u8, record 16; of all else ctx("value"), row kind u8, kind u8, record 16.
fn value_aad(merchant: &str, kind: Kind, record: Ref) -> Vec<u8> {
    match kind {
        Kind::Card => ctx("pan", merchant).u8(rows::CARD).fixed(&record.0).done(),
        other => ctx("value", merchant).u8(rows::CARD).u8(other.id()).fixed(&record.0).done(),
    }
}

/// What is made of a value of another kind than cards says which.
fn of_kind(mut w: Writer, kind: Kind) -> Writer {
    w.u8(kind.id());
    w
}

fn record_key_aad(merchant: &str, record: Ref, trk: KeyId) -> Vec<u8> {
    ctx("rkey", merchant).fixed(&record.0).u32(trk.0).done()
}

fn reuse_aad(merchant: &str, place: &Place, trk: KeyId) -> Vec<u8> {
    ctx("reuse-seal", merchant).fixed(&place.first).u32(trk.0).done()
}

fn answer_aad(merchant: &str, trk: KeyId) -> Vec<u8> {
    ctx("idem-seal", merchant).u32(trk.0).done()
}

fn length(pan: &Pan) -> u8 {
    u8::try_from(pan.len()).unwrap_or(0)
}

/// The generation's four bytes, at the end of the bucket: zero, as all padding was before there were generations.
const GENERATION: usize = 4;

const _: () = assert!(MAX_TOKEN <= u8::MAX as usize && PADDED == 19);

/// Length u8, the token, zeros, generation u32 at the end of the next full bucket: the first one for every card's token.
fn pad(token: &Token, generation: u32) -> Zeroizing<Vec<u8>> {
    let bytes = token.as_bytes();
    let whole = (1 + bytes.len() + GENERATION).next_multiple_of(TOKEN_BUCKET);
    let mut padded = Zeroizing::new(Vec::with_capacity(whole));
    padded.push(u8::try_from(bytes.len()).unwrap_or(0));
    padded.extend_from_slice(bytes);
    padded.resize(whole - GENERATION, 0);
    padded.extend_from_slice(&generation.to_be_bytes());
    padded
}

fn unpad(padded: &[u8]) -> Result<(Token, u32), Unopened> {
    let (length, rest) = padded.split_first().ok_or(Unopened)?;
    let (rest, generation) = rest.split_last_chunk::<GENERATION>().ok_or(Unopened)?;
    let bytes = rest.get(..usize::from(*length)).ok_or(Unopened)?;
    let text = std::str::from_utf8(bytes).map_err(|_| Unopened)?;
    let token = Token::parse(text).map_err(|_| Unopened)?;
    Ok((token, u32::from_be_bytes(*generation)))
}

/// Whether a kept idempotency hash is this request's, in constant time.
#[must_use]
pub fn same_request(kept: &[u8; 32], hash: &[u8; 32]) -> bool {
    same_bytes(kept, hash)
}
