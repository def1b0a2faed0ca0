//! Sealed datagrams by stream: where UDP does not pass, they go through the mesh's own connections, a bounded queue per
//! neighbour and one task that empties it. Slower than a socket and no part of the fast path, so tokio does it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    identity::NodeId,
    mesh::{PacketReader, PacketWriter},
    tunnel::{Counters, DropReason},
};

/// Bytes that wait for one neighbour; the oldest go when there are more.
const WAITING: usize = 256 << 10;
/// After a stream could not be opened, or ended, the next is asked for no sooner.
const RETRY: Duration = Duration::from_secs(1);

/// What waits for each neighbour, and whether somebody empties it.
#[derive(Default)]
pub(super) struct Streams(Mutex<BTreeMap<NodeId, Queue>>);

#[derive(Default)]
struct Queue {
    datagrams: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Wakes the task that empties it.
    filled: Arc<Notify>,
    /// When a stream was asked for; there may be one.
    asked: Option<Instant>,
    open: bool,
}

impl Streams {
    /// Adds a datagram for `peer`. Gives whether a stream is to be opened.
    pub(super) fn push(&self, peer: NodeId, datagram: &[u8], counters: &Counters, now: Instant) -> bool {
        let mut queues = self.lock();
        let queue = queues.entry(peer).or_default();
        queue.bytes += datagram.len();
        queue.datagrams.push_back(datagram.to_vec());
        while queue.bytes > WAITING
            && let Some(oldest) = queue.datagrams.pop_front()
        {
            queue.bytes -= oldest.len();
            counters.add(DropReason::StreamFull);
        }
        queue.filled.notify_one();
        let wanted = !queue.open && queue.asked.is_none_or(|asked| asked + RETRY <= now);
        if wanted {
            queue.asked = Some(now);
        }
        wanted
    }

    /// Sends what waits and what comes, until the stream ends.
    pub(super) async fn empty(&self, peer: NodeId, mut writer: PacketWriter) {
        let filled = {
            let mut queues = self.lock();
            let queue = queues.entry(peer).or_default();
            if std::mem::replace(&mut queue.open, true) {
                return;
            }
            Arc::clone(&queue.filled)
        };
        loop {
            let datagrams = self.take(peer);
            if datagrams.is_empty() {
                tokio::select! {
                    () = filled.notified() => continue,
                    () = writer.closed() => break,
                }
            }
            if let Err(error) = writer.send(&datagrams).await {
                tracing::debug!(%peer, %error, "a stream of datagrams ended");
                break;
            }
        }
        if let Some(queue) = self.lock().get_mut(&peer) {
            queue.open = false;
        }
    }

    fn take(&self, peer: NodeId) -> VecDeque<Vec<u8>> {
        let mut queues = self.lock();
        let Some(queue) = queues.get_mut(&peer) else { return VecDeque::new() };
        queue.bytes = 0;
        std::mem::take(&mut queue.datagrams)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands every datagram of a neighbour's stream to `deliver`, until the stream ends.
pub(super) async fn read(mut reader: PacketReader, mut deliver: impl FnMut(&mut [u8])) {
    let mut datagram = Vec::new();
    while reader.receive(&mut datagram).await.is_ok() {
        deliver(&mut datagram);
    }
}
