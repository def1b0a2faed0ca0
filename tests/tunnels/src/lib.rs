//! Nodes of the data plane without sockets and threads: datagrams are handed over.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use c3os::{
    identity::{Identity, NodeId},
    tunnel::{
        Content, Counters, Endpoint, META, Opener, PeerRoute, REKEY_AFTER, Session, Table, Tunnel,
        TunnelEvent, TunnelSettings,
    },
};

const PORT: u16 = 51900;

/// One node.
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Which one it is.
    pub number: u16,
    /// The half that decides.
    pub tunnel: Tunnel,
    /// What its threads read.
    pub table: Table,
}

impl Node {
    /// A node without neighbours.
    pub fn new(number: u16) -> Self {
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        let id = Identity::from_seed(&seed).id();
        let settings = TunnelSettings {
            me: id,
            psk: [9; 32].into(),
            aes: true,
            ports: vec![PORT],
            addresses: vec![underlay(number)],
            mtu: 1420,
            rekey_after: REKEY_AFTER,
        };
        let tunnel = Tunnel::new(settings, seed, Arc::new(Counters::default()));
        Self { id, number, tunnel, table: Table::default() }
    }

    /// What others know of it.
    pub fn route(&self) -> PeerRoute {
        PeerRoute {
            id: self.id,
            addresses: vec![overlay(self.number)],
            candidates: vec![underlay(self.number)],
        }
    }

    /// Where its datagrams come from.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Udp(SocketAddr::new(underlay(self.number), PORT))
    }

    /// Has it make a session with `other`, which has a route to it, as the first packet does.
    pub fn meet(&mut self, other: &mut Self, now: &mut Instant) {
        self.tunnel.handle_routes(vec![other.route()], *now);
        self.tunnel.handle_packet(other.id, vec![0; META + 20], *now);
        settle(self, other, now);
    }

    /// The session with the first of its peers.
    pub fn session(&self) -> Option<&Arc<Session>> {
        Some(&self.table.peers().first()?.sending.as_ref()?.session)
    }

    fn take_table(&mut self) {
        if let Some(table) = self.tunnel.poll_table() {
            self.table = table;
        }
    }

    /// What its threads do with one datagram.
    fn receive(&mut self, from: Endpoint, datagram: &mut [u8], now: Instant) {
        self.take_table();
        let Ok(inbound) = Opener::new(&self.table, from).open(datagram) else { return };
        let session = Arc::clone(inbound.session);
        if inbound.first {
            self.tunnel.handle_confirmed(session.local(), from, now);
        }
        if let Content::Control(plaintext) = inbound.content {
            self.tunnel.handle_control(&session, from, plaintext, now);
        }
        self.take_table();
    }
}

fn underlay(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([192, 168, high, low])
}

/// The overlay address of a node.
pub fn overlay(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([10, 1, high, low])
}

/// Carries handshakes and datagrams between two until nothing is under way.
pub fn settle(a: &mut Node, b: &mut Node, now: &mut Instant) {
    while carry(a, b, now) | carry(b, a, now) {}
}

/// Whether there was anything to carry.
fn carry(from: &mut Node, to: &mut Node, now: &mut Instant) -> bool {
    let mut any = false;
    from.take_table();
    while let Some(event) = from.tunnel.poll_event() {
        if let TunnelEvent::HandshakeWanted { peer, ticket, message } = event {
            let answer = to.tunnel.handle_request(from.id, &message, *now);
            to.take_table();
            from.tunnel.handle_answer(peer, ticket, Some(&answer), *now);
            any = true;
        }
    }
    while let Some((_, mut datagram)) = from.tunnel.poll_transmit() {
        *now += Duration::from_millis(1);
        to.receive(from.endpoint(), &mut datagram, *now);
        any = true;
    }
    any
}
