//! What becomes of a connection: proof, choice, refusal, end.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use libp2p::{PeerId, core::ConnectedPoint, swarm::ConnectionId};
use tokio::sync::{mpsc, oneshot, watch};

use super::Driver;
use crate::{
    identity::NodeId,
    mesh::{
        MeshEvent, QUEUE, Refusal,
        backoff::Refusals,
        counters, doorway,
        frame::Hello,
        link::{End, Link, Neighbour, Stay},
        locator,
        streams::{Door, Opener},
    },
    token::Gate,
};

/// From the connection to the proof.
const ADMISSION: Duration = Duration::from_secs(5);
/// A peer that connects this long after a connection was chosen has lost it; before, both dialled at once.
const BOTH_AT_ONCE: Duration = Duration::from_secs(10);
pub(super) enum Stage {
    /// It has until then to prove that it knows the token.
    Unproven(Instant),
    Proven,
    /// It was chosen.
    Up,
}

pub(super) struct Connection {
    pub(super) peer: NodeId,
    pub(super) remote: SocketAddr,
    pub(super) dialled: bool,
    pub(super) stage: Stage,
    pub(super) opener: Opener,
    pub(super) door: Door,
    /// The link stream was opened or accepted; there is one.
    pub(super) linked: bool,
    pub(super) announced: watch::Sender<bool>,
    /// The token that it proved.
    pub(super) token: Option<[u8; 8]>,
}

impl Connection {
    fn is_dialled_in_vain(&self) -> bool {
        self.dialled && matches!(self.stage, Stage::Unproven(_))
    }
}

impl Driver {
    pub(super) fn handle_established(&mut self, id: ConnectionId, peer: PeerId, endpoint: &ConnectedPoint) {
        let whom = self.dials.remove(&id);
        let (dialled, address) = (endpoint.is_dialer(), endpoint.get_remote_address());
        let known =
            (locator::node_id(&peer), locator::socket_address(address), self.swarm.behaviour_mut().take(id));
        let (Some(peer), Some(remote), Some((opener, door))) = known else {
            self.count_refusal(Refusal::OtherProtocol);
            if let Some(whom) = whom {
                self.contacts.handle_dial_failed(&whom, true, Instant::now());
            }
            self.swarm.close_connection(id);
            return;
        };
        let now = Instant::now();
        if !dialled && self.refusals.too_soon(&peer, now) {
            self.count_refusal(Refusal::TooSoon);
            self.swarm.close_connection(id);
            return;
        }
        if !dialled {
            self.make_place();
        }
        self.contacts.handle_connected(peer, whom.as_ref());
        if self.gate.is_banned(&peer) {
            self.count_refusal(Refusal::Banned);
            self.contacts.handle_gone(peer, true, now);
            self.swarm.close_connection(id);
            return;
        }
        if dialled && self.neighbours.lock().contains_key(&peer) {
            // A place that turns out to be a neighbour's. Said at once, lest it believes that we lost the other one.
            self.swarm.close_connection(id);
            return;
        }
        let connection = Connection {
            peer,
            remote,
            dialled,
            stage: Stage::Unproven(now + ADMISSION),
            opener: opener.clone(),
            door,
            linked: dialled,
            announced: watch::Sender::new(false),
            token: None,
        };
        self.connections.insert(id, connection);
        self.count_connections();
        if let Some(link) = dialled.then(|| self.link(id)).flatten() {
            tokio::spawn(link.run_dialler(opener));
        }
    }

    /// Inbound connections without proof are bounded; see [`doorway`].
    fn make_place(&mut self) {
        let unproven = self.connections.iter().filter_map(|(id, connection)| match connection.stage {
            Stage::Unproven(_) if !connection.dialled => Some((*id, Some(connection.remote.ip()))),
            Stage::Unproven(_) | Stage::Proven | Stage::Up => None,
        });
        let unproven = unproven.collect::<Vec<_>>();
        if unproven.len() >= doorway::PLACES
            && let Some(id) = doorway::most_crowding(unproven.into_iter())
        {
            self.refuse(id, Refusal::Crowded);
        }
    }

    pub(super) fn link(&self, id: ConnectionId) -> Option<Link> {
        let connection = self.connections.get(&id)?;
        let full = self.is_full() && !self.neighbours.lock().contains_key(&connection.peer);
        Some(Link {
            connection: id,
            me: self.me,
            peer: connection.peer,
            remote: connection.remote,
            gate: self.gate.clone(),
            hello: Hello { port: self.listen_port, full },
            door: connection.door.clone(),
            events: self.events.clone(),
            reports: self.reports.0.clone(),
            announced: connection.announced.clone(),
            counters: self.counters.clone(),
        })
    }

    /// Whether a proven connection becomes the one to its peer. The lower id judges; the higher one follows.
    pub(super) fn choose(&mut self, id: ConnectionId, chosen: bool, place: SocketAddr) -> Option<Stay> {
        let connection = self.connections.get_mut(&id)?;
        let (peer, dialled, opener) = (connection.peer, connection.dialled, connection.opener.clone());
        let now = Instant::now();
        let mut neighbours = self.neighbours.lock();
        if let Some(present) = neighbours.get(&peer) {
            // Who dials us long after we were connected does not know of that connection any more.
            let lost = !dialled && now.saturating_duration_since(present.since) > BOTH_AT_ONCE;
            if !chosen && !lost {
                return None;
            }
        }
        connection.stage = Stage::Up;
        let (queue, queued) = mpsc::channel(QUEUE);
        let (ended, end) = oneshot::channel();
        let neighbour = Neighbour { connection: id, since: now, ended: end, queue, opener };
        // Dropping the old one's queue ends its link.
        let predecessor = neighbours.insert(peer, neighbour);
        drop(neighbours);
        if let Some(old) = &predecessor {
            self.swarm.close_connection(old.connection);
        }
        tracing::info!(target: "c3os::_events::neighbour_up", id = %peer, address = %place, dialled, "a peer came");
        self.contacts.handle_up(peer, place, now);
        self.count_connections();
        Some(Stay { predecessor: predecessor.map(|old| old.ended), queue: queued, ended })
    }

    /// libp2p closed a connection. Its link, if it has one, notices and has the last word.
    pub(super) fn handle_closed(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        if connection.linked {
            self.remove_neighbour(connection.peer, id);
        } else {
            self.handle_end(id, End::Closed);
        }
    }

    pub(super) fn handle_end(&mut self, id: ConnectionId, end: End) {
        match end {
            End::Refused(refusal) => return self.refuse(id, refusal),
            // It hung up on our proof, or before it.
            End::Closed if self.connections.get(&id).is_some_and(Connection::is_dialled_in_vain) => {
                return self.refuse(id, Refusal::ByPeer);
            }
            End::Duplicate | End::Closed => {}
            End::Silent => counters::lock(&self.counters).fell_silent += 1,
            End::Fault(fault) => {
                counters::lock(&self.counters).peer_faults += 1;
                let peer = self.connections.get(&id).map(|connection| connection.peer.to_string());
                tracing::debug!(peer, %fault, "the peer broke the protocol");
            }
        }
        self.swarm.close_connection(id);
        self.forget(id);
    }

    /// Closes a connection that does not become a neighbour.
    pub(super) fn refuse(&mut self, id: ConnectionId, reason: Refusal) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (peer, address) = (connection.peer, connection.remote);
        self.count_refusal(reason);
        let first = match reason {
            Refusal::OtherToken
            | Refusal::OtherProtocol
            | Refusal::Silent
            | Refusal::Banned
            | Refusal::Replaced => self.refusals.note(peer, Instant::now()),
            Refusal::ByPeer => self.refused_by.note(peer, Instant::now()),
            Refusal::Crowded | Refusal::TooSoon | Refusal::Full => false,
        };
        if first {
            tracing::info!(target: "c3os::_events::neighbour_refused", id = %peer, %address, ?reason, "no neighbour");
        } else {
            tracing::debug!(id = %peer, %address, ?reason, "no neighbour");
        }
        // A slow reader has the counters.
        let _ = self.events.try_send(MeshEvent::Refused { id: peer, address, reason });
        self.swarm.close_connection(id);
        self.forget(id);
    }

    /// Other tokens are good from now on, or somebody is banned.
    pub(super) fn set_gate(&mut self, gate: Gate) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        // Nobody asks with a replaced token any more, and its holders are answered.
        self.lan_gate.send_replace(self.gate.clone());
        self.refused_by = Refusals::default();
        self.end_what_the_gate_does_not_keep();
        // Who did not let us in with the old token may with the new one.
        self.contacts.handle_network_changed(Instant::now());
    }

    pub(super) fn end_what_the_gate_does_not_keep(&mut self) {
        let out = self.connections.iter().filter(|(_, connection)| match &connection.token {
            Some(token) => !self.gate.keeps(&connection.peer, token),
            None => self.gate.is_banned(&connection.peer),
        });
        for id in out.map(|(id, _)| *id).collect::<Vec<_>>() {
            let banned = self.connections.get(&id).is_some_and(|one| self.gate.is_banned(&one.peer));
            self.refuse(id, if banned { Refusal::Banned } else { Refusal::Replaced });
        }
    }

    /// The connection is gone, or as good as gone.
    fn forget(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        let peer = connection.peer;
        self.remove_neighbour(peer, id);
        if !self.connections.values().any(|other| other.peer == peer) {
            let refused = !matches!(connection.stage, Stage::Up);
            self.contacts.handle_gone(peer, refused, Instant::now());
        }
        self.count_connections();
    }

    /// Takes a peer from the neighbours if this is the connection it has there; its link ends.
    fn remove_neighbour(&self, peer: NodeId, id: ConnectionId) {
        let mut neighbours = self.neighbours.lock();
        if neighbours.get(&peer).is_some_and(|neighbour| neighbour.connection == id) {
            neighbours.remove(&peer);
            tracing::info!(target: "c3os::_events::neighbour_down", id = %peer, "a peer is gone");
        }
    }

    fn count_refusal(&self, reason: Refusal) {
        counters::lock(&self.counters).count_refusal(reason);
    }

    pub(super) fn count_connections(&self) {
        let unproven =
            self.connections.values().filter(|one| matches!(one.stage, Stage::Unproven(_))).count();
        let neighbours = self.neighbours.len();
        let mut counters = counters::lock(&self.counters);
        (counters.unproven, counters.neighbours) = (unproven, neighbours);
    }
}
