//! Batches of any size: split to what the vault takes, sent one after the other, merged in the items' order.
//!
//! A split is a function of the items and the vault's limits alone, and so are the chunks' request ids: sending the whole
//! again, from this process or another, repeats every chunk under its own id, and nothing is done twice. It refuses an item
//! that fits no message by itself, before anything is sent.

use prost::Message as _;
use ring::digest;
use uuid::{Builder, Uuid};

use crate::error::ClientError;
use crate::line::Line;
use crate::v1::{Checkpoint, Limits, RequestHeader};
use crate::verb::Verb;

/// Items in one batch request, by the contract.
const MAX_ITEMS: usize = 1_000;
/// Bytes in one message, by the contract.
const MAX_BYTES: usize = 1_048_576;
/// What a chunk's id is derived under, see [`chunk_request_id`].
const LABEL: &[u8] = b"vault.v1/batch-chunk\0";
/// The tag of a field with a number below 16 is one byte on the wire.
const TAG: usize = 1;

/// The answer to a batch.
#[derive(Debug)]
pub struct Batch<T> {
    /// One per item, in the items' order.
    pub outcomes: Vec<Outcome<T>>,
    /// The signed heads that the receipts point to by (`log`, `tree_size`), each once.
    pub checkpoints: Vec<Checkpoint>,
}

/// What became of one item of a batch, or one message of a stream.
#[derive(Debug)]
pub struct Outcome<T> {
    /// The item's own reference.
    pub reference: String,
    /// Its result, or why there is none.
    pub result: Result<T, ClientError>,
}

/// The request id of chunk `number`, from 0, of a batch sent under `request_id`: chunk 0 has the caller's own; each further
/// one a UUID version 8 (RFC 9562 section 5.8) whose free bits are those of the first 16 bytes of
/// SHA-256(`"vault.v1/batch-chunk"` 0x00 `request_id` `number`), with the id as 16 bytes and the number as 4, big-endian.
///
/// So a small batch is in the vault's log under the caller's id, and so is the beginning of a large one; and other items
/// under the same id are still noticed, as `IDEMPOTENCY_MISMATCH`.
#[must_use]
pub fn chunk_request_id(request_id: Uuid, number: u32) -> Uuid {
    if number == 0 {
        return request_id;
    }
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(LABEL);
    hash.update(request_id.as_bytes());
    hash.update(&number.to_be_bytes());
    let mut bytes = [0; 16];
    for (byte, hashed) in bytes.iter_mut().zip(hash.finish().as_ref()) {
        *byte = *hashed;
    }
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// What one message may hold.
#[derive(Clone, Copy)]
pub(crate) struct Fit {
    items: usize,
    bytes: usize,
}

impl Fit {
    /// As the vault says, and never more than the contract does. What it does not say is as in the contract.
    pub(crate) fn new(limits: Option<&Limits>) -> Self {
        let told = |limit: Option<u32>, most: usize| {
            limit.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).map_or(most, |n| n.min(most))
        };
        Self {
            items: told(limits.map(|l| l.batch_items), MAX_ITEMS),
            bytes: told(limits.map(|l| l.message_bytes), MAX_BYTES),
        }
    }
}

/// Sends all `items` under one header and one deadline.
pub(crate) async fn send<V: Verb>(
    line: &Line,
    fit: Fit,
    header: RequestHeader,
    items: Vec<V>,
) -> Result<Batch<V::Result>, ClientError> {
    let deadline = line.deadline();
    let mut merged = Merged::with_capacity(items.len());
    let mut chunks = split(fit, &header, items)?.into_iter();
    while let Some(chunk) = chunks.next() {
        let expected = chunk.items.len();
        let request = V::many(chunk.header, chunk.items);
        match line.call(deadline, &request, V::send_many).await.and_then(|many| counted(many, expected)) {
            Ok((outcomes, checkpoints)) => merged.add(outcomes, checkpoints),
            Err(error) if merged.is_empty() => return Err(error),
            // What was answered is the caller's: a token that nobody is told of is lost to them.
            Err(error) => {
                merged.fail(V::items(request), &error);
                chunks.for_each(|unsent| merged.fail(unsent.items, &error));
                break;
            }
        }
    }
    Ok(merged.0)
}

fn counted<T>(many: crate::verb::Many<T>, expected: usize) -> Result<crate::verb::Many<T>, ClientError> {
    if many.0.len() == expected {
        Ok(many)
    } else {
        Err(ClientError::Answer("a batch has not as many outcomes as items"))
    }
}

struct Merged<T>(Batch<T>);

impl<T> Merged<T> {
    fn with_capacity(items: usize) -> Self {
        Self(Batch { outcomes: Vec::with_capacity(items), checkpoints: Vec::new() })
    }

    fn is_empty(&self) -> bool {
        self.0.outcomes.is_empty()
    }

    fn add(&mut self, outcomes: Vec<Outcome<T>>, checkpoints: Vec<Checkpoint>) {
        self.0.outcomes.extend(outcomes);
        for head in checkpoints {
            let same = |known: &Checkpoint| (&known.log, known.tree_size) == (&head.log, head.tree_size);
            if !self.0.checkpoints.iter().any(same) {
                self.0.checkpoints.push(head);
            }
        }
    }

    fn fail<V: Verb>(&mut self, items: Vec<V>, error: &ClientError) {
        let failed = |item: V| Outcome { reference: item.into_reference(), result: Err(error.clone()) };
        self.0.outcomes.extend(items.into_iter().map(failed));
    }
}

/// Items that fit one message, under the header that they go with.
struct Chunk<V> {
    header: RequestHeader,
    items: Vec<V>,
}

fn split<V: Verb>(fit: Fit, header: &RequestHeader, items: Vec<V>) -> Result<Vec<Chunk<V>>, ClientError> {
    let id = Uuid::parse_str(&header.request_id)
        .map_err(|_| ClientError::Config("`request_id` is not a UUID; `ask::header` makes one".to_owned()))?;
    // Every derived id is as long as this one, so the headers of all chunks are.
    let header = RequestHeader { request_id: id.to_string(), ..header.clone() };
    let head = field_len(header.encoded_len());
    let mut chunks: Vec<Chunk<V>> = Vec::new();
    let mut bytes = usize::MAX; // no chunk is open yet
    for (index, item) in items.into_iter().enumerate() {
        let size = field_len(item.encoded_len());
        if head.saturating_add(size) >= fit.bytes {
            return Err(ClientError::Config(format!(
                "item {index} (from 0) makes a message of {} bytes; the vault takes less than {}",
                head.saturating_add(size),
                fit.bytes
            )));
        }
        bytes = bytes.saturating_add(size);
        match chunks.last_mut() {
            Some(open) if open.items.len() < fit.items && bytes < fit.bytes => open.items.push(item),
            _ => {
                bytes = head + size;
                chunks.push(Chunk { header: numbered(&header, id, chunks.len())?, items: vec![item] });
            }
        }
    }
    Ok(chunks)
}

fn numbered(header: &RequestHeader, id: Uuid, number: usize) -> Result<RequestHeader, ClientError> {
    let number = u32::try_from(number)
        .map_err(|_| ClientError::Config("a batch of more than 2^32 chunks; send it in parts".to_owned()))?;
    Ok(RequestHeader { request_id: chunk_request_id(id, number).to_string(), ..header.clone() })
}

/// Bytes of a field that holds a message of `len` bytes: tag, length, message.
fn field_len(len: usize) -> usize {
    TAG + prost::length_delimiter_len(len) + len
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rig::{Play, Rig, token_of};
    use crate::v1::{
        BatchInspectRequest, DeleteCardItem, FingerprintItem, Initiator, InspectItem, Purpose, ReplaceReason,
        TokenizeItem, UpdateAttributesItem,
    };
    use crate::{Failure, Reason, Zeroizing, ask};

    fn header() -> RequestHeader {
        ask::header("acme", "web", Purpose::Capture, Initiator::Merchant)
    }

    fn look(index: usize, padding: usize) -> InspectItem {
        InspectItem { reference: index.to_string(), ..ask::look(&"t".repeat(26 + padding)) }
    }

    #[test]
    fn a_chunks_id_is_the_same_today_and_in_every_later_release() {
        let id = Uuid::from_u128(0x0f0e_0d0c_0b0a_4908_8706_0504_0302_0100);
        for (number, expected) in [
            (0, "0f0e0d0c-0b0a-4908-8706-050403020100"),
            (1, "f9e128a1-3508-80f3-bb27-e1fcd8f46614"),
            (2, "cf9b8f65-4658-8c89-8b85-b91ee105152f"),
        ] {
            assert_eq!(chunk_request_id(id, number).to_string(), expected);
        }
        let derived = chunk_request_id(id, 1);
        assert_eq!((derived.get_version_num(), derived.get_variant()), (8, uuid::Variant::RFC4122));
    }

    #[test]
    fn every_chunk_fits_none_is_needless_and_together_they_are_the_batch() {
        for (items, padding, fit) in [
            (0, 0, Fit::new(None)),
            (1, 0, Fit::new(None)),
            (1_000, 0, Fit::new(None)),
            (1_001, 0, Fit::new(None)),
            (2_500, 4_096, Fit::new(None)),
            (300, 10, Fit { items: 7, bytes: 65_536 }),
            (300, 0, Fit { items: 1_000, bytes: 260 }),
            (300, 127, Fit { items: 1_000, bytes: 1_000 }),
        ] {
            let chunks = split(fit, &header(), (0..items).map(|i| look(i, padding)).collect()).unwrap();
            let sizes: Vec<_> = chunks
                .iter()
                .map(|c| {
                    let sent = BatchInspectRequest { header: Some(c.header.clone()), items: c.items.clone() };
                    (c.items.len(), sent.encoded_len(), field_len(c.items[0].encoded_len()))
                })
                .collect();
            for (count, bytes, _) in &sizes {
                assert!(*count <= fit.items && *bytes < fit.bytes, "{count} items, {bytes} bytes");
            }
            for pair in sizes.windows(2) {
                let (full, next) = (pair[0], pair[1]);
                assert!(
                    full.0 == fit.items || full.1 + next.2 >= fit.bytes,
                    "the next item had room: {pair:?}"
                );
            }
            let order: Vec<_> = chunks.into_iter().flat_map(|c| c.items).map(|i| i.reference).collect();
            assert_eq!(order, (0..items).map(|i| i.to_string()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_item_that_fits_no_message_is_named_before_anything_is_sent() {
        let items = vec![look(0, 0), look(1, MAX_BYTES)];
        let Err(ClientError::Config(text)) = split(Fit::new(None), &header(), items) else { panic!() };
        assert!(text.starts_with("item 1 (from 0)"), "{text}");
        let nameless = RequestHeader { request_id: "yesterday".into(), ..header() };
        let Err(ClientError::Config(text)) = split(Fit::new(None), &nameless, vec![look(0, 0)]) else {
            panic!()
        };
        assert!(text.contains("request_id"), "{text}");
    }

    #[test]
    fn limits_are_the_vaults_but_never_above_the_contracts() {
        for (told, items, bytes) in [
            (None, 1_000, 1_048_576),
            (Some(Limits::default()), 1_000, 1_048_576),
            (Some(Limits { batch_items: 50, message_bytes: 65_536, ..Limits::default() }), 50, 65_536),
            (
                Some(Limits { batch_items: u32::MAX, message_bytes: u32::MAX, ..Limits::default() }),
                1_000,
                1_048_576,
            ),
        ] {
            let fit = Fit::new(told.as_ref());
            assert_eq!((fit.items, fit.bytes), (items, bytes));
        }
    }

    fn cards(count: usize) -> Vec<TokenizeItem> {
        let card = || ask::card(Zeroizing::new(b"4111111111111111".to_vec()), None);
        (0..count).map(|i| TokenizeItem { reference: i.to_string(), ..card() }).collect()
    }

    fn ids(rig: &Rig) -> Vec<String> {
        rig.calls().into_iter().map(|call| call.request_id).collect()
    }

    #[tokio::test]
    async fn a_large_batch_is_answered_whole_and_in_order_whatever_came_between() {
        let busy = Failure::new(Reason::Overloaded, "busy").retry(Duration::from_millis(1));
        let rig = Rig::start(vec![Play::Answer, Play::Cut, Play::Answer, Play::Refuse(busy.into())]).await;
        let (client, header) = (rig.client().await, header());
        let batch = client.batch_tokenize(header.clone(), cards(2_500)).await.unwrap();
        for (index, outcome) in batch.outcomes.iter().enumerate() {
            let reference = index.to_string();
            assert_eq!(outcome.result.as_ref().unwrap().token, token_of(&reference));
            assert_eq!(outcome.reference, reference);
        }
        assert_eq!((batch.outcomes.len(), batch.checkpoints.len()), (2_500, 1));

        let id = Uuid::parse_str(&header.request_id).unwrap();
        let chunk = |number| chunk_request_id(id, number).to_string();
        assert_eq!(ids(&rig), [chunk(0), chunk(1), chunk(1), chunk(2), chunk(2)]);
        for call in rig.calls() {
            assert!(call.message.len() < MAX_BYTES);
        }

        let first = rig.calls();
        client.batch_tokenize(header, cards(2_500)).await.unwrap();
        let again: Vec<_> = rig.calls().split_off(first.len());
        let sent = |call: &crate::rig::Call| (call.request_id.clone(), call.message.clone());
        assert_eq!(
            again.iter().map(sent).collect::<Vec<_>>(),
            [&first[0], &first[1], &first[3]].map(sent),
            "the whole again is the same parts again"
        );
    }

    #[tokio::test]
    async fn each_verb_has_its_batch_and_each_item_its_own_outcome() {
        let rig = Rig::start(vec![]).await;
        let client = rig.client().await;
        let named = |name: &str| name.to_owned();
        let looks = ["a", "bad", "c"].map(|r| InspectItem { reference: named(r), ..ask::look("t") });
        let batch = client.batch_inspect(header(), looks.into()).await.unwrap();
        let shown: Vec<_> = batch.outcomes.iter().map(|o| (o.reference.as_str(), o.result.is_ok())).collect();
        assert_eq!(shown, [("a", true), ("bad", false), ("c", true)]);
        let refused = batch.outcomes[1].result.as_ref().unwrap_err();
        assert_eq!(refused.reason(), Some(Reason::NotFound));

        let batch =
            client.batch_detokenize(header(), vec![ask::plain("4111"), ask::plain("4112")]).await.unwrap();
        let pans = batch.outcomes.into_iter().map(|o| ask::pan(o.result.unwrap()).unwrap().to_vec());
        assert_eq!(pans.collect::<Vec<_>>(), [b"4111", b"4112"]);

        let batch =
            client.batch_revoke(header(), vec![ask::end("x"), ask::end_on("y", "web")]).await.unwrap();
        let ended = batch.outcomes.into_iter().flat_map(|o| o.result.unwrap().channels);
        assert_eq!(ended.collect::<Vec<_>>(), ["x", "y"]);
        let card = Zeroizing::new(b"4111111111111111".to_vec());
        let item = ask::replace("w", card, None, ReplaceReason::Lost);
        let batch = client.batch_replace(header(), vec![item]).await.unwrap();
        assert_eq!(batch.outcomes[0].result.as_ref().unwrap().card.as_ref().unwrap().masked_pan, "w");
        let digits = || Zeroizing::new(b"4111111111111111".to_vec());
        let item = FingerprintItem { reference: named("f"), ..ask::fingerprint(digits()) };
        let batch = client.batch_fingerprint(header(), vec![item]).await.unwrap();
        assert_eq!(batch.outcomes[0].result.as_ref().unwrap().fingerprint, b"f");
        let item = DeleteCardItem { reference: named("del"), ..ask::delete_card(digits()) };
        let batch = client.batch_delete_card(header(), vec![item]).await.unwrap();
        assert_eq!(batch.outcomes[0].result.as_ref().unwrap().tokens, 3);
        let page = client.list_by_subject(header(), 10, "one").await.unwrap();
        assert_eq!(page.next_page_token, "one+");
        assert_eq!(client.erase_subject(header()).await.unwrap().tokens, 7);
        let batch = client.batch_translate(header(), vec![ask::translate("t", "app")]).await.unwrap();
        assert_eq!(batch.outcomes[0].result.as_ref().unwrap().token, "t'");
        let batch = client.batch_disable(header(), vec![ask::disable("x")]).await.unwrap();
        assert_eq!(batch.outcomes[0].result.as_ref().unwrap().channels, ["x"]);
        let batch = client.batch_enable(header(), vec![ask::enable("y")]).await.unwrap();
        assert_eq!(batch.outcomes[0].result.as_ref().unwrap().channels, ["y"]);
        let update = UpdateAttributesItem { token: named("z"), ..UpdateAttributesItem::default() };
        let batch = client.batch_update_attributes(header(), vec![update]).await.unwrap();
        assert_eq!(batch.outcomes[0].result.as_ref().unwrap().channels, ["z"]);
        assert!(client.batch_revoke(header(), Vec::new()).await.unwrap().outcomes.is_empty());
        let methods: Vec<_> = rig.calls().iter().map(|call| call.method).collect();
        assert_eq!(
            methods,
            [
                "batch_inspect",
                "batch_detokenize",
                "batch_revoke",
                "batch_replace",
                "batch_fingerprint",
                "batch_delete_card",
                "batch_translate",
                "batch_disable",
                "batch_enable",
                "batch_update_attributes"
            ]
        );
    }

    #[tokio::test]
    async fn what_was_answered_before_a_part_failed_is_not_lost() {
        let spent = Failure::new(Reason::BudgetSpent, "spent");
        let late = Play::Late(Duration::from_secs(20));
        for (play, error) in [
            (Play::Refuse(spent.clone().into()), ClientError::Refused(spent)),
            (late, ClientError::Deadline),
            (Play::Hollow, ClientError::Answer("a batch has not as many outcomes as items")),
        ] {
            let rig = Rig::start_with(
                vec![Play::Answer, play.clone()],
                Limits { batch_items: 2, ..Limits::default() },
            )
            .await;
            let client = rig.client().await.within(Duration::from_secs(1));
            let batch = client.batch_tokenize(header(), cards(7)).await.unwrap();
            let told: Vec<_> = batch.outcomes.into_iter().map(|o| (o.reference, o.result.err())).collect();
            let expected: Vec<_> = (0..7).map(|i| (i.to_string(), (i >= 2).then(|| error.clone()))).collect();
            assert_eq!(told, expected);
            assert_eq!(rig.calls().len(), 2, "the parts after it were not sent");

            let rig = Rig::start(vec![play]).await;
            let client = rig.client().await.within(Duration::from_secs(1));
            assert_eq!(client.batch_tokenize(header(), cards(7)).await.unwrap_err(), error);
        }
    }
}
