//! What the fast threads read: routes, peers and sessions at one moment. Immutable; the control thread makes a new
//! one for every change and swaps it in.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    DropReason,
    packet::Addresses,
    path::{Endpoint, Path},
    route::{RouteTable, Slot},
    session::Session,
    wire::{MAX_QUEUES, SessionId},
};
use crate::identity::NodeId;

/// Packets and bytes (of inner packets) exchanged with one peer since it became known.
#[derive(Default)]
pub struct Traffic {
    sent_packets: AtomicU64,
    sent_bytes: AtomicU64,
    received_packets: AtomicU64,
    received_bytes: AtomicU64,
}

/// [`Traffic`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrafficTotals {
    /// Inner packets sent.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Inner packets received.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

impl Traffic {
    /// Counts inner packets sent.
    pub fn add_sent(&self, packets: u64, bytes: u64) {
        self.sent_packets.fetch_add(packets, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts inner packets received.
    pub fn add_received(&self, packets: u64, bytes: u64) {
        self.received_packets.fetch_add(packets, Ordering::Relaxed);
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The sums now.
    pub fn totals(&self) -> TrafficTotals {
        TrafficTotals {
            sent_packets: self.sent_packets.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_packets: self.received_packets.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
        }
    }
}

/// How to send to a peer.
pub struct Sending {
    /// The session to seal with.
    pub session: Arc<Session>,
    /// Where each of our queues sends to.
    pub endpoints: [Endpoint; MAX_QUEUES],
    /// Bytes of the longest inner packet that the way carries.
    pub mtu: u16,
}

/// One peer as the fast threads see it.
pub struct TablePeer {
    /// Who it is.
    pub id: NodeId,
    /// What was exchanged with it.
    pub traffic: Arc<Traffic>,
    /// None: packets have to wait for a session or a path.
    pub sending: Option<Sending>,
    /// The UDP ports of the peer's queues.
    pub ports: Vec<u16>,
    /// Where it is known to be; packets from elsewhere are reported.
    pub paths: Vec<Path>,
}

/// Routes, peers and sessions.
#[derive(Default)]
pub struct Table {
    pub(super) routes: RouteTable,
    pub(super) peers: Vec<TablePeer>,
    pub(super) sessions: HashMap<SessionId, (Slot, Arc<Session>)>,
}

impl Table {
    /// Everybody that packets may go to.
    pub fn peers(&self) -> &[TablePeer] {
        &self.peers
    }

    /// The peer that `packet`, read from the interface, is for.
    ///
    /// # Errors
    /// Why it is to be dropped.
    pub fn destination(&self, packet: &[u8]) -> Result<&TablePeer, DropReason> {
        let addresses = Addresses::of(packet).ok_or(DropReason::NotIp)?;
        match self.routes.lookup(addresses.destination) {
            Some(slot) => self.peers.get(slot as usize).ok_or(DropReason::NoRoute),
            None if addresses.is_to_many() => Err(DropReason::Multicast),
            None => Err(DropReason::NoRoute),
        }
    }
}

impl TablePeer {
    pub(super) fn is_known_at(&self, from: Endpoint) -> bool {
        self.paths.iter().any(|path| path.covers(&self.ports, from))
    }
}
