//! What one peer, and all of them together, may cost.
//!
//! Every bound has a name, a unit and a reason, and is a key of `[limits]`. Refused: a value outside the range that
//! stands beside it. Nothing here waits: whoever comes when the house is full is turned away or replaces the stranger
//! who has stood longest at the door, so that ten thousand silent connections cannot keep a known client out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::oneshot;

use crate::metrics::Turned;
use crate::settings::Problem;

/// Connections that have shown a certificate, all peers together. Each may hold [`CONNECTION_WINDOW`] bytes unread.
pub const CONNECTIONS: u32 = 1_024;
/// The same per peer address (IPv6: per /64, which is what one customer is given). A load balancer is one peer.
pub const CONNECTIONS_PER_PEER: u32 = 256;
/// Connections that have not yet shown a certificate. Each costs some ten kilobytes; the oldest makes room for the newest.
pub const HANDSHAKES: u32 = 512;
/// The same per peer address.
pub const HANDSHAKES_PER_PEER: u32 = 128;
/// Requests at once on one connection; gRPC clients open a second connection beyond it.
pub const STREAMS_PER_CONNECTION: u32 = 128;
/// Requests being worked on, all connections together. More are answered UNAVAILABLE at once instead of waiting.
pub const QUEUE: u32 = 4_096;
/// Bytes in one message: a batch of 1,000 items needs about a quarter.
pub const MESSAGE_BYTES: u32 = 1_048_576;
/// Bytes in one answer: the largest, 1,000 inspected tokens with 64 channels of 63 characters each, has 4.5 million. What
/// was done is answered, so this has room to spare; `vault-client` takes as much.
pub const ANSWER_BYTES: usize = 8 * 1_048_576;
/// Bytes of all header fields of one request. gRPC metadata are a few hundred.
pub const HEADER_LIST_BYTES: u32 = 16_384;
/// Milliseconds until an answer must begin, whatever the caller asked for.
pub const DEADLINE_MS: u32 = 30_000;
/// Milliseconds that a stream may last, so that a forgotten one ends.
pub const STREAM_MS: u32 = 3_600_000;
/// Milliseconds from connected to authenticated. A handshake needs two round trips.
pub const HANDSHAKE_MS: u32 = 5_000;
/// Milliseconds from authenticated to a complete HTTP/2 preface.
pub const PREFACE_MS: u32 = 5_000;
/// Milliseconds that a connection may live without a request. Below it, clients keep theirs for the next checkout.
pub const IDLE_MS: u32 = 600_000;
/// Milliseconds between pings to a peer; this is what finds a peer that drips its bytes or is gone.
pub const KEEPALIVE_MS: u32 = 30_000;
/// Milliseconds that a peer has to answer a ping.
pub const KEEPALIVE_ANSWER_MS: u32 = 10_000;
/// Milliseconds that an answer may wait for its peer to read on. Then the peer is a slow reader and is cut off.
pub const SLOW_READER_MS: u32 = 20_000;
/// Requests that a connection may cancel in [`CANCEL_WINDOW`] before it is cut: HTTP/2 rapid reset (CVE-2023-44487).
pub const CANCELS: u32 = 200;
/// Milliseconds that requests under way have to finish when the server is told to stop.
pub const DRAIN_MS: u32 = 20_000;

/// The time over which cancelled requests are counted.
pub const CANCEL_WINDOW: Duration = Duration::from_secs(10);
/// Bytes that a peer may send on one request before it is read. A message of a megabyte takes 32 round trips, 10 ms on a
/// local network. Small, because of what h2 does to a stream of small messages: see [`CONNECTION_WINDOW`].
pub const STREAM_WINDOW: u32 = 32_768;
/// Bytes that a peer may send on one connection before they are read. All connections together: 512 MiB at most.
///
/// h2 ends a connection whose unread DATA frames are small and many: each costs it 256 bytes less its own length, and all
/// together half this window. A good client that streams faster than the vault works fills its stream's window with
/// messages of 85 bytes and more (the shortest there are), one in a frame, which costs 66 KB: so three such streams fit,
/// and wait by flow control as the contract says, with room for single calls beside them.
pub const CONNECTION_WINDOW: u32 = 524_288;
/// Bytes of an answer that are kept for a peer that reads slowly, per request.
pub const SEND_BUFFER: usize = 65_536;
/// Bytes in one HTTP/2 frame: the protocol's own smallest maximum.
pub const FRAME_BYTES: u32 = 16_384;
/// Streams that a peer may open and reset before the server has even looked at them.
pub const PENDING_RESETS: usize = 20;
/// Streams that the server may reset for a peer's errors before it ends the connection.
pub const ERROR_RESETS: usize = 64;

/// Rows that are sealed anew under another key in a second, behind a rotation: a million take some nine minutes, and leave most of
/// a disk's commits to requests.
pub const RESEAL_ROWS: u32 = 2_000;

/// The `[limits]` table. Every key may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// See [`CONNECTIONS`].
    pub connections: u32,
    /// See [`CONNECTIONS_PER_PEER`].
    pub connections_per_peer: u32,
    /// See [`HANDSHAKES`].
    pub handshakes: u32,
    /// See [`HANDSHAKES_PER_PEER`].
    pub handshakes_per_peer: u32,
    /// See [`STREAMS_PER_CONNECTION`].
    pub streams_per_connection: u32,
    /// See [`QUEUE`].
    pub queue: u32,
    /// See [`MESSAGE_BYTES`].
    pub message_bytes: u32,
    /// See [`HEADER_LIST_BYTES`].
    pub header_list_bytes: u32,
    /// See [`DEADLINE_MS`].
    pub deadline_ms: u32,
    /// See [`STREAM_MS`].
    pub stream_ms: u32,
    /// See [`HANDSHAKE_MS`].
    pub handshake_ms: u32,
    /// See [`PREFACE_MS`].
    pub preface_ms: u32,
    /// See [`IDLE_MS`].
    pub idle_ms: u32,
    /// See [`KEEPALIVE_MS`].
    pub keepalive_ms: u32,
    /// See [`KEEPALIVE_ANSWER_MS`].
    pub keepalive_answer_ms: u32,
    /// See [`SLOW_READER_MS`].
    pub slow_reader_ms: u32,
    /// See [`CANCELS`].
    pub cancels: u32,
    /// See [`DRAIN_MS`].
    pub drain_ms: u32,
    /// See [`RESEAL_ROWS`].
    pub reseal_rows: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            connections_per_peer: CONNECTIONS_PER_PEER,
            handshakes: HANDSHAKES,
            handshakes_per_peer: HANDSHAKES_PER_PEER,
            streams_per_connection: STREAMS_PER_CONNECTION,
            queue: QUEUE,
            message_bytes: MESSAGE_BYTES,
            header_list_bytes: HEADER_LIST_BYTES,
            deadline_ms: DEADLINE_MS,
            stream_ms: STREAM_MS,
            handshake_ms: HANDSHAKE_MS,
            preface_ms: PREFACE_MS,
            idle_ms: IDLE_MS,
            keepalive_ms: KEEPALIVE_MS,
            keepalive_answer_ms: KEEPALIVE_ANSWER_MS,
            slow_reader_ms: SLOW_READER_MS,
            cancels: CANCELS,
            drain_ms: DRAIN_MS,
            reseal_rows: RESEAL_ROWS,
        }
    }
}

/// A number of `[limits]` as a time.
#[must_use]
pub fn ms(limit: u32) -> Duration {
    Duration::from_millis(u64::from(limit))
}

impl Limits {
    /// Every key whose value is out of its range.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        const HOUR: u32 = 3_600_000;
        let ranges: [(&str, u32, u32, u32); 19] = [
            ("connections", self.connections, 1, 65_536),
            ("connections_per_peer", self.connections_per_peer, 1, self.connections.max(1)),
            ("handshakes", self.handshakes, 1, 65_536),
            ("handshakes_per_peer", self.handshakes_per_peer, 1, self.handshakes.max(1)),
            ("streams_per_connection", self.streams_per_connection, 1, 10_000),
            ("queue", self.queue, 1, 1_000_000),
            ("message_bytes", self.message_bytes, 65_536, 16 * 1_048_576),
            ("header_list_bytes", self.header_list_bytes, 4_096, 65_536),
            ("deadline_ms", self.deadline_ms, 100, HOUR),
            ("stream_ms", self.stream_ms, self.deadline_ms.max(100), 24 * HOUR),
            ("handshake_ms", self.handshake_ms, 100, 60_000),
            ("preface_ms", self.preface_ms, 100, 60_000),
            ("idle_ms", self.idle_ms, 1_000, 24 * HOUR),
            ("keepalive_ms", self.keepalive_ms, 1_000, HOUR),
            ("keepalive_answer_ms", self.keepalive_answer_ms, 100, 60_000),
            ("slow_reader_ms", self.slow_reader_ms, 100, HOUR),
            ("cancels", self.cancels, 1, 100_000),
            ("drain_ms", self.drain_ms, 0, HOUR),
            ("reseal_rows", self.reseal_rows, 1, 1_000_000),
        ];
        ranges
            .into_iter()
            .filter(|(_, value, least, most)| value < least || value > most)
            .map(|(key, value, least, most)| {
                Problem::new(
                    &format!("limits.{key}"),
                    &format!("is {value}"),
                    &format!("choose from {least} to {most}, or leave it out"),
                )
            })
            .collect()
    }

    /// How many files the process must be able to hold open: both listeners full, and the store's own.
    #[must_use]
    pub fn open_files(&self) -> u64 {
        const THE_REST: u64 = 256; // the store, the log, certificates while they are read, metrics
        2 * (u64::from(self.connections) + u64::from(self.handshakes)) + THE_REST
    }
}

/// Counts who is at the door and who is inside.
///
/// INVARIANT: what is counted is what has a live [`Handshaking`] that was not evicted, or a live [`Inside`].
pub(crate) struct Gate {
    limits: Limits,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    next: u64,
    inside: u32,
    at_door: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    peers: HashMap<IpAddr, Peer>,
}

#[derive(Default)]
struct Peer {
    inside: u32,
    at_door: BTreeSet<u64>,
}

/// A place at the door: connected, not yet known.
pub(crate) struct Handshaking {
    gate: Arc<Gate>,
    number: u64,
    peer: IpAddr,
    evicted: oneshot::Receiver<()>,
}

/// A place inside: has shown a good certificate.
pub(crate) struct Inside {
    gate: Arc<Gate>,
    peer: IpAddr,
}

/// What an address counts as: itself, or its /64.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & 0xffff_ffff_ffff_ffff_0000_0000_0000_0000))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Gate {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self { limits: limits.clone(), counts: Mutex::default() })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a place at the door. A full house turns the newcomer away; a full door sends away who stood there longest.
    pub(crate) fn knock(self: &Arc<Self>, address: IpAddr) -> Result<Handshaking, Turned> {
        let address = counted_as(address);
        let mut counts = self.counts();
        self.room_for(&counts, address)?;
        let oldest_of_peer = counts
            .peers
            .get(&address)
            .filter(|peer| {
                peer.at_door.len() >= usize::try_from(self.limits.handshakes_per_peer).unwrap_or(usize::MAX)
            })
            .and_then(|peer| peer.at_door.first().copied());
        let full = counts.at_door.len() >= usize::try_from(self.limits.handshakes).unwrap_or(usize::MAX);
        let oldest = oldest_of_peer.or_else(|| counts.at_door.keys().next().copied().filter(|_| full));
        if let Some(oldest) = oldest {
            counts.leave_door(oldest);
        }
        let number = counts.next;
        counts.next += 1;
        let (evict, evicted) = oneshot::channel();
        counts.at_door.insert(number, (address, evict));
        counts.peers.entry(address).or_default().at_door.insert(number);
        Ok(Handshaking { gate: Arc::clone(self), number, peer: address, evicted })
    }

    fn room_for(&self, counts: &Counts, peer: IpAddr) -> Result<(), Turned> {
        if counts.inside >= self.limits.connections {
            return Err(Turned::Full);
        }
        if counts.peers.get(&peer).is_some_and(|p| p.inside >= self.limits.connections_per_peer) {
            return Err(Turned::PeerFull);
        }
        Ok(())
    }

    /// How many are at the door, and how many inside.
    #[cfg(test)]
    pub(crate) fn now(&self) -> (usize, u32) {
        let counts = self.counts();
        (counts.at_door.len(), counts.inside)
    }
}

impl Counts {
    /// Takes a number from the door. Dropping its sender is what tells the task.
    fn leave_door(&mut self, number: u64) -> bool {
        let Some((address, _evict)) = self.at_door.remove(&number) else { return false };
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.at_door.remove(&number);
        }
        self.forget_if_gone(address);
        true
    }

    fn forget_if_gone(&mut self, address: IpAddr) {
        if self.peers.get(&address).is_some_and(|p| p.inside == 0 && p.at_door.is_empty()) {
            self.peers.remove(&address);
        }
    }
}

impl Handshaking {
    /// Ends when this place was given to somebody else.
    pub(crate) async fn evicted(&mut self) {
        // Whether the sender was used or dropped, the place is gone.
        let _ = (&mut self.evicted).await;
    }

    /// From the door to the inside.
    pub(crate) fn enter(self) -> Result<Inside, Turned> {
        let mut counts = self.gate.counts();
        if !counts.leave_door(self.number) {
            return Err(Turned::Evicted);
        }
        self.gate.room_for(&counts, self.peer)?;
        counts.inside += 1;
        counts.peers.entry(self.peer).or_default().inside += 1;
        drop(counts);
        Ok(Inside { gate: Arc::clone(&self.gate), peer: self.peer })
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.gate.counts().leave_door(self.number);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        counts.inside = counts.inside.saturating_sub(1);
        if let Some(peer) = counts.peers.get_mut(&self.peer) {
            peer.inside = peer.inside.saturating_sub(1);
        }
        counts.forget_if_gone(self.peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Limits {
        Limits {
            connections: 3,
            connections_per_peer: 2,
            handshakes: 4,
            handshakes_per_peer: 2,
            ..Limits::default()
        }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_defaults_are_within_their_own_ranges_and_a_zero_is_not() {
        assert_eq!(Limits::default().problems(), []);
        let broken = Limits { queue: 0, handshake_ms: 1, ..Limits::default() };
        let keys: Vec<_> = broken.problems().into_iter().map(|p| p.key).collect();
        assert_eq!(keys, ["limits.queue", "limits.handshake_ms"]);
    }

    #[tokio::test]
    async fn the_oldest_stranger_of_the_same_peer_makes_room_for_the_newest() {
        let gate = Gate::new(&small());
        let mut first = gate.knock(ip(1)).unwrap();
        let second = gate.knock(ip(1)).unwrap();
        let third = gate.knock(ip(1)).unwrap();
        first.evicted().await;
        assert_eq!(gate.now(), (2, 0));
        assert!(matches!(first.enter(), Err(Turned::Evicted)));
        assert!(second.enter().is_ok() && third.enter().is_ok());
    }

    #[tokio::test]
    async fn ten_thousand_strangers_never_hold_more_than_the_bound_and_the_newest_gets_in() {
        let gate = Gate::new(&small());
        let mut waiting = Vec::new();
        for n in 0..10_000_u32 {
            waiting.push(gate.knock(IpAddr::V4(std::net::Ipv4Addr::from_bits(n))).unwrap());
            assert!(gate.now().0 <= 4);
        }
        assert!(waiting.pop().unwrap().enter().is_ok());
        drop(waiting);
        assert_eq!(gate.now(), (0, 0));
        assert!(gate.counts().peers.is_empty(), "addresses of the departed are forgotten");
    }

    #[test]
    fn a_full_house_and_a_full_peer_are_turned_away() {
        let gate = Gate::new(&small());
        let enter = |n| gate.knock(ip(n)).and_then(Handshaking::enter);
        let (a, _b) = (enter(1).unwrap(), enter(1).unwrap());
        assert!(matches!(enter(1), Err(Turned::PeerFull)));
        let _c = enter(2).unwrap();
        assert!(matches!(enter(3), Err(Turned::Full)));
        drop(a);
        assert!(enter(3).is_ok());
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        for (a, b, same) in [
            ("2001:db8::1", "2001:db8::ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            assert_eq!(counted_as(a.parse().unwrap()) == counted_as(b.parse().unwrap()), same, "{a} {b}");
        }
    }
}
