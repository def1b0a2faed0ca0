//! A node with many live sessions, and the nodes at their other ends. No sockets: datagrams are handed over.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use c3os::{
    identity::{Identity, NodeId},
    tunnel::{
        Content, Counters, Endpoint, HEADER, META, Meta, Opener, PeerRoute, REKEY_AFTER, Session, TAG, Table,
        Tunnel, TunnelEvent, TunnelSettings,
    },
};

/// One node.
struct Node {
    id: NodeId,
    number: u16,
    tunnel: Tunnel,
    table: Table,
}

/// The node in the middle, which has a session with every other one.
pub struct Hub {
    hub: Node,
    spokes: Vec<Node>,
}

fn node(number: u16) -> Node {
    let mut seed = [7; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    let id = Identity::from_seed(&seed).id();
    let settings = TunnelSettings {
        me: id,
        psk: [9; 32].into(),
        aes: true,
        ports: vec![51900],
        addresses: vec![underlay(number)],
        mtu: 1420,
        rekey_after: REKEY_AFTER,
    };
    Node {
        id,
        number,
        tunnel: Tunnel::new(settings, seed, Arc::new(Counters::default())),
        table: Table::default(),
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

impl Node {
    fn route(&self) -> PeerRoute {
        PeerRoute {
            id: self.id,
            addresses: vec![overlay(self.number)],
            candidates: vec![underlay(self.number)],
        }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Udp(SocketAddr::new(underlay(self.number), 51900))
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

impl Hub {
    /// A hub with `sessions` live sessions.
    pub fn new(sessions: u16) -> Self {
        let mut now = Instant::now();
        let mut hub = node(0);
        let mut spokes: Vec<Node> = (1..=sessions).map(node).collect();
        hub.tunnel.handle_routes(spokes.iter().map(Node::route).collect(), now);
        for spoke in &mut spokes {
            spoke.tunnel.handle_routes(vec![hub.route()], now);
            spoke.tunnel.handle_packet(hub.id, vec![0; META + 20], now);
            settle(&mut hub, spoke, &mut now);
        }
        Self { hub, spokes }
    }

    /// The hub's table.
    pub fn table(&self) -> &Table {
        &self.hub.table
    }

    /// The session at the other end of the one with spoke `at`, and where that spoke is.
    pub fn spoke(&self, at: usize) -> (&Arc<Session>, Endpoint, u16) {
        let spoke = &self.spokes[at];
        let sending = spoke.table.peers()[0].sending.as_ref().expect("it has a session and a path");
        (&sending.session, spoke.endpoint(), spoke.number)
    }
}

/// Carries handshake and datagrams between two until nothing is under way.
fn settle(hub: &mut Node, spoke: &mut Node, now: &mut Instant) {
    loop {
        let mut quiet = true;
        spoke.take_table();
        while let Some(event) = spoke.tunnel.poll_event() {
            if let TunnelEvent::HandshakeWanted { peer, ticket, message } = event {
                let answer = hub.tunnel.handle_request(spoke.id, &message, *now);
                hub.take_table();
                spoke.tunnel.handle_answer(peer, ticket, Some(&answer), *now);
                quiet = false;
            }
        }
        while let Some((_, mut datagram)) = spoke.tunnel.poll_transmit() {
            *now += Duration::from_millis(1);
            hub.receive(spoke.endpoint(), &mut datagram, *now);
            quiet = false;
        }
        while let Some((_, mut datagram)) = hub.tunnel.poll_transmit() {
            *now += Duration::from_millis(1);
            spoke.receive(hub.endpoint(), &mut datagram, *now);
            quiet = false;
        }
        if quiet {
            return;
        }
    }
}

/// The places of one datagram of a train: room for its header, meta, packet and tag.
pub fn places(meta: Meta, packet: &[u8]) -> Vec<u8> {
    [&[0; HEADER], meta.encode().as_slice(), packet, &[0; TAG]].concat()
}
