//! What the mesh did, in numbers.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Refusal;

/// Counts since the start of the mesh; all only rise, but for the last two.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Messages given to a neighbour's connection.
    pub messages_sent: u64,
    /// Their bytes.
    pub message_bytes_sent: u64,
    /// Messages of neighbours.
    pub messages_received: u64,
    /// Their bytes.
    pub message_bytes_received: u64,
    /// Messages to somebody who is not connected.
    pub dropped_not_connected: u64,
    /// Messages to somebody who reads too slowly.
    pub dropped_queue_full: u64,
    /// Messages that are empty or too long.
    pub dropped_size: u64,
    /// Connections ended because a neighbour broke the protocol (a frame too long, a second link).
    pub peer_faults: u64,
    /// Waits because a neighbour says more than anybody has to say.
    pub paced: u64,
    /// Neighbours given up because nothing came from them.
    pub fell_silent: u64,
    /// Requests we made.
    pub requests_sent: u64,
    /// Those of them that got no answer.
    pub requests_failed: u64,
    /// Requests of neighbours that reached us.
    pub requests_received: u64,
    /// Requests turned away: too many at a time, too long, too slow, or without an answer from us.
    pub requests_refused: u64,
    /// Attempts to connect.
    pub dials: u64,
    /// Attempts that reached nobody.
    pub dials_failed: u64,
    /// Connections and addresses refused because they belong to the overlay.
    pub overlay_refused: u64,
    /// Connections that were dropped before their encryption was agreed, because others waited.
    pub crowded_out: u64,
    /// Multicast DNS queries we sent.
    pub lan_queries: u64,
    /// Multicast DNS queries of members that we answered.
    pub lan_answers: u64,
    /// Those who did not become neighbours, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// Connections that wait for admission now.
    pub unproven: usize,
    /// Neighbours now.
    pub neighbours: usize,
}

impl Counters {
    pub(super) fn count_sent(&mut self, bytes: usize) {
        self.messages_sent += 1;
        self.message_bytes_sent += bytes as u64;
    }

    pub(super) fn count_received(&mut self, bytes: usize) {
        self.messages_received += 1;
        self.message_bytes_received += bytes as u64;
    }

    pub(super) fn count_refusal(&mut self, reason: Refusal) {
        *self.refused.entry(reason).or_default() += 1;
    }
}

/// A panic elsewhere leaves numbers that are still numbers.
pub(super) fn lock(counters: &Mutex<Counters>) -> MutexGuard<'_, Counters> {
    counters.lock().unwrap_or_else(PoisonError::into_inner)
}
