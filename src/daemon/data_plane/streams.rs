//! Sealed datagrams by stream: where UDP does not pass, they go through the mesh's own connections, a bounded queue per
//! neighbour and one task that empties it. Slower than a socket and no part of the fast path, so tokio does it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc};

use super::DataPlaneEvent;
use crate::{
    identity::NodeId,
    mesh::{PacketReader, PacketWriter},
    tunnel::{Counters, DropReason},
};

/// Bytes that wait for one neighbour; the oldest go when there are more.
const WAITING: usize = 256 << 10;
/// After a stream could not be opened, or ended, the next is asked for no sooner.
const RETRY: Duration = Duration::from_secs(1);

/// What waits for each neighbour, and who empties it.
pub(super) struct Streams {
    queues: Mutex<BTreeMap<NodeId, Queue>>,
    counters: Arc<Counters>,
    /// Where a stream is asked for.
    events: mpsc::Sender<DataPlaneEvent>,
}

#[derive(Default)]
struct Queue {
    datagrams: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Wakes who empties it.
    filled: Arc<Notify>,
    /// When a stream was asked for last.
    asked: Option<Instant>,
    /// The number of who empties it, if anybody does, and of the last one who did.
    emptier: Option<u64>,
    last: u64,
}

/// The right to empty a queue, until it is dropped or somebody else has it.
struct Emptier<'a> {
    streams: &'a Streams,
    peer: NodeId,
    number: u64,
    filled: Arc<Notify>,
}

impl Streams {
    pub(super) fn new(counters: Arc<Counters>, events: mpsc::Sender<DataPlaneEvent>) -> Self {
        Self { queues: Mutex::default(), counters, events }
    }

    /// Adds a datagram for `peer`, and asks for a stream if nobody empties the queue.
    pub(super) fn push(&self, peer: NodeId, datagram: &[u8], now: Instant) {
        let mut queues = self.lock();
        let queue = queues.entry(peer).or_default();
        queue.bytes += datagram.len();
        queue.datagrams.push_back(datagram.to_vec());
        while queue.bytes > WAITING
            && let Some(oldest) = queue.datagrams.pop_front()
        {
            queue.bytes -= oldest.len();
            self.counters.add(DropReason::StreamFull);
        }
        queue.filled.notify_one();
        if queue.emptier.is_none() && queue.asked.is_none_or(|asked| asked + RETRY <= now) {
            queue.asked = Some(now);
            // A daemon that does not listen is asked again.
            let _ = self.events.try_send(DataPlaneEvent::StreamWanted { peer });
        }
    }

    /// Sends what waits and what comes, until the stream ends, or another one takes its place.
    pub(super) async fn empty(&self, peer: NodeId, mut writer: PacketWriter) {
        let emptier = self.emptier(peer);
        while let Some(datagrams) = emptier.take() {
            if datagrams.is_empty() {
                tokio::select! {
                    () = emptier.filled.notified() => continue,
                    () = writer.closed() => return,
                }
            }
            if let Err(error) = writer.send(&datagrams).await {
                tracing::debug!(%peer, %error, "a stream of datagrams ended");
                return;
            }
        }
    }

    /// Drops what waits for a neighbour that is gone.
    pub(super) fn forget(&self, peer: NodeId) {
        if let Some(queue) = self.lock().get_mut(&peer) {
            self.counters.add_many(DropReason::StreamFull, queue.datagrams.len() as u64);
            queue.datagrams.clear();
            queue.bytes = 0;
        }
    }

    fn emptier(&self, peer: NodeId) -> Emptier<'_> {
        let mut queues = self.lock();
        let queue = queues.entry(peer).or_default();
        queue.last += 1;
        queue.emptier = Some(queue.last);
        Emptier { streams: self, peer, number: queue.last, filled: Arc::clone(&queue.filled) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Emptier<'_> {
    /// All that waits; none if somebody else has the queue.
    fn take(&self) -> Option<VecDeque<Vec<u8>>> {
        let mut queues = self.streams.lock();
        let queue = queues.get_mut(&self.peer).filter(|queue| queue.emptier == Some(self.number))?;
        queue.bytes = 0;
        Some(std::mem::take(&mut queue.datagrams))
    }
}

impl Drop for Emptier<'_> {
    fn drop(&mut self) {
        if let Some(queue) = self.streams.lock().get_mut(&self.peer) {
            queue.emptier.take_if(|number| *number == self.number);
        }
        // Whoever has the queue now may have missed a word that woke us.
        self.filled.notify_one();
    }
}

/// Hands every datagram of a neighbour's stream to `deliver`, until the stream ends.
pub(super) async fn read(mut reader: PacketReader, mut deliver: impl FnMut(&mut [u8])) {
    let mut datagram = Vec::new();
    while reader.receive(&mut datagram).await.is_ok() {
        deliver(&mut datagram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> (Streams, mpsc::Receiver<DataPlaneEvent>, NodeId) {
        let (events, asked) = mpsc::channel(8);
        (Streams::new(Arc::default(), events), asked, NodeId::from_bytes([1; 32]))
    }

    #[test]
    fn a_stream_is_asked_for_now_and_then_while_nobody_empties_the_queue() {
        let (streams, mut asked, peer) = streams();
        let begin = Instant::now();
        let mut push = |after: Duration| {
            streams.push(peer, b"x", begin + after);
            asked.try_recv().is_ok()
        };
        assert!(push(Duration::ZERO));
        assert!(!push(RETRY / 2), "it is being opened");
        assert!(push(RETRY));
        let first = streams.emptier(peer);
        assert_eq!(first.take().map(|all| all.len()), Some(3));
        assert!(!push(2 * RETRY), "there is one");
        // Two were opened: the second has the queue, and the end of the first is nothing to it.
        let second = streams.emptier(peer);
        assert!(first.take().is_none());
        drop(first);
        assert!(!push(3 * RETRY));
        assert_eq!(second.take().map(|all| all.len()), Some(2));
        drop(second);
        assert!(push(4 * RETRY));
    }

    #[test]
    fn the_oldest_go_when_too_many_wait_and_all_when_the_neighbour_is_gone() {
        let (streams, _asked, peer) = streams();
        let counters = Arc::clone(&streams.counters);
        for number in 0..=WAITING / 1024 {
            streams.push(peer, &[number as u8; 1024], Instant::now());
        }
        assert_eq!(counters.get(DropReason::StreamFull), 1);
        let waiting = streams.emptier(peer).take().unwrap_or_default();
        assert_eq!((waiting.len(), waiting[0][0]), (WAITING / 1024, 1));
        streams.push(peer, b"late", Instant::now());
        streams.forget(peer);
        assert_eq!(streams.emptier(peer).take().map(|all| all.len()), Some(0));
        assert_eq!(counters.get(DropReason::StreamFull), 2);
    }
}
