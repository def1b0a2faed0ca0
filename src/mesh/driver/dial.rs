//! Whom to dial, at which addresses, and what comes of it.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::timeout;

use super::Driver;
use crate::mesh::{
    MeshEvent,
    contacts::{Dial, Source, Whom},
    counters,
    lan::Sighting,
    locator::{self, Host, Transport},
};

/// For the name server.
const LOOKUP: Duration = Duration::from_secs(5);

/// Names looked up for a dial.
pub(super) struct Resolved {
    pub(super) dial: Dial,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Driver {
    pub(super) fn dial_all(&mut self) {
        let now = Instant::now();
        while !self.has_enough()
            && let Some(dial) = self.contacts.poll_dial(now)
        {
            let mut addresses = Vec::new();
            let mut names = Vec::new();
            for place in &dial.places {
                match place.host() {
                    Host::Address(ip) => addresses.push(SocketAddr::new(*ip, place.port())),
                    Host::Name(name) => names.push((name.clone(), place.port())),
                }
            }
            if names.is_empty() {
                self.dial(dial, addresses);
                continue;
            }
            let resolved = self.resolved.0.clone();
            tokio::spawn(async move {
                for name in names {
                    match timeout(LOOKUP, tokio::net::lookup_host(name.clone())).await {
                        Ok(Ok(found)) => addresses.extend(found),
                        Ok(Err(error)) => {
                            tracing::debug!(name = name.0, %error, "cannot look up a peer's name")
                        }
                        Err(_) => tracing::debug!(name = name.0, "no answer from the name server"),
                    }
                }
                // The mesh has ended.
                let _ = resolved.send(Resolved { dial, addresses }).await;
            });
        }
    }

    pub(super) fn dial(&mut self, dial: Dial, addresses: Vec<SocketAddr>) {
        let (underlay, overlay): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| !self.swarm.behaviour().is_excluded(address.ip()));
        counters::lock(&self.counters).overlay_refused += overlay.len() as u64;
        let known = match &dial.whom {
            Whom::Node(id) => {
                self.gate.is_banned(id) || self.connections.values().any(|connection| connection.peer == *id)
            }
            Whom::Place(_) => false,
        };
        if underlay.is_empty() || known {
            self.contacts.handle_dial_failed(&dial.whom, false, Instant::now());
            return;
        }
        let options = dial_options(&dial, &underlay);
        let id = options.connection_id();
        tracing::debug!(whom = ?dial.whom, transport = ?dial.transport, "dialling");
        counters::lock(&self.counters).dials += 1;
        self.dials.insert(id, dial.whom);
        if let Err(error) = self.swarm.dial(options) {
            self.handle_dial_error(id, &error);
        }
    }

    pub(super) fn handle_dial_error(&mut self, id: ConnectionId, error: &DialError) {
        let Some(whom) = self.dials.remove(&id) else { return };
        let (now, closed) = (Instant::now(), nothing_listens(error));
        tracing::debug!(?whom, closed, %error, "cannot connect");
        counters::lock(&self.counters).dials_failed += 1;
        match error {
            DialError::LocalPeerId { .. } => self.contacts.handle_ourselves(&whom, now),
            DialError::NoAddresses
            | DialError::DialPeerConditionFalse(_)
            | DialError::Aborted
            | DialError::WrongPeerId { .. }
            | DialError::Denied { .. }
            | DialError::Transport(_) => self.contacts.handle_dial_failed(&whom, closed, now),
        }
    }

    pub(super) fn handle_sighting(&mut self, Sighting { id, mut addresses }: Sighting) {
        addresses.retain(|address| !self.swarm.behaviour().is_excluded(address.ip()));
        if self.contacts.learn(id, &addresses, Source::Lan, Instant::now()) {
            tracing::debug!(%id, ?addresses, "multicast DNS names a node");
            // A slow reader learns of it when it is up.
            let _ = self.events.try_send(MeshEvent::Found { id, addresses });
        }
    }
}

/// To all addresses of a node at once, or to any one of a place's (libp2p takes no more without an id).
fn dial_options(dial: &Dial, addresses: &[SocketAddr]) -> DialOpts {
    let mut to = addresses.iter().map(|address| locator::multiaddr(*address, dial.transport));
    // From the listening port, two TCP nodes that dial each other at once would get one connection that both
    // believe to have dialled.
    match (&dial.whom, dial.transport) {
        (Whom::Node(id), transport) => {
            let options = DialOpts::peer_id(locator::peer_id(id)).condition(PeerCondition::Always);
            let options = options.addresses(to.collect());
            match transport {
                Transport::Tcp => options.allocate_new_port().build(),
                Transport::Quic => options.build(),
            }
        }
        (Whom::Place(_), transport) => {
            let any = rand::random_range(0..addresses.len().max(1));
            let options = DialOpts::unknown_peer_id().address(to.nth(any).unwrap_or_else(Multiaddr::empty));
            match transport {
                Transport::Tcp => options.allocate_new_port().build(),
                Transport::Quic => options.build(),
            }
        }
    }
}

/// Whether all addresses answered that nothing listens there.
fn nothing_listens(error: &DialError) -> bool {
    let DialError::Transport(errors) = error else { return false };
    !errors.is_empty() && errors.iter().all(|(_, error)| is_refused(error))
}

/// libp2p wraps what the system said several times.
fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let Some(io) = error.downcast_ref::<io::Error>() else { return error.source().is_some_and(is_refused) };
    io.kind() == io::ErrorKind::ConnectionRefused
        || io.get_ref().is_some_and(|inner| is_refused(inner as &(dyn std::error::Error + 'static)))
}
