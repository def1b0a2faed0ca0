//! Nodes on virtual time, and a network made of a queue.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use super::{super::*, MS};
use crate::identity::{Identity, NodeId};

/// A node: the control half, and the fast half done by hand.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) address: SocketAddr,
    pub(super) overlay: IpAddr,
    pub(super) tunnel: Tunnel,
    pub(super) table: Table,
    pub(super) counters: Arc<Counters>,
    pub(super) delivered: Vec<Vec<u8>>,
    pub(super) events: Vec<TunnelEvent>,
    pub(super) streams_work: bool,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    /// Under way: from, to (an address, or a node by stream), datagram.
    pub(super) wire: VecDeque<(Endpoint, Endpoint, Vec<u8>)>,
    /// How long a datagram is under way.
    pub(super) delay: Duration,
    delayed: VecDeque<(Instant, Endpoint, Endpoint, Vec<u8>)>,
    pub(super) streams: VecDeque<(NodeId, NodeId, u64, Vec<u8>)>,
    /// Datagrams to and from these addresses vanish.
    pub(super) dead: Vec<SocketAddr>,
    /// Datagrams to these addresses vanish, those from them do not.
    pub(super) deaf: Vec<SocketAddr>,
    /// Longer datagrams vanish as well.
    pub(super) longest: usize,
    pub(super) datagrams: usize,
    pub(super) by_stream: usize,
    pub(super) handshakes_by_stream: usize,
}

fn node(seed: u8, life: u8) -> Node {
    let id = Identity::from_seed(&[seed; 32]).id();
    let counters = Arc::new(Counters::default());
    let settings = TunnelSettings {
        me: id,
        psk: Zeroizing::new([9; 32]),
        aes: true,
        ports: vec![51900],
        addresses: vec![IpAddr::from([192, 168, 0, seed])],
        mtu: 1420,
        rekey_after: REKEY_AFTER,
    };
    Node {
        id,
        address: SocketAddr::from(([192, 168, 0, seed], 51900)),
        overlay: IpAddr::from([10, 1, 0, seed]),
        tunnel: Tunnel::new(settings, [seed ^ life; 32], Arc::clone(&counters)),
        table: Table::default(),
        counters,
        delivered: Vec::new(),
        events: Vec::new(),
        streams_work: true,
    }
}

impl Node {
    /// Where a datagram to `to` comes from, as its receiver sees it.
    fn seen_as(&self, to: Endpoint) -> Endpoint {
        match to {
            Endpoint::Udp(_) => Endpoint::Udp(self.address),
            Endpoint::Stream(_) => Endpoint::Stream(self.id),
        }
    }
}

pub(super) fn packet(source: IpAddr, destination: IpAddr, text: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { panic!("v4 only") };
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(20 + text.len() as u16).to_be_bytes());
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet.extend_from_slice(text);
    packet
}

impl World {
    pub(super) fn new(nodes: u8) -> Self {
        let mut world = Self {
            now: Instant::now_for_tests(),
            nodes: (1..=nodes).map(|seed| node(seed, 0)).collect(),
            wire: VecDeque::new(),
            delay: MS / 10,
            delayed: VecDeque::new(),
            streams: VecDeque::new(),
            dead: Vec::new(),
            deaf: Vec::new(),
            longest: usize::MAX,
            datagrams: 0,
            by_stream: 0,
            handshakes_by_stream: 0,
        };
        for i in 0..world.nodes.len() {
            world.introduce(i);
        }
        world
    }

    pub(super) fn introduce(&mut self, i: usize) {
        let routes = self.nodes.iter().map(|node| PeerRoute {
            id: node.id,
            addresses: vec![node.overlay],
            candidates: vec![node.address.ip()],
        });
        let routes = routes.collect();
        self.nodes[i].tunnel.handle_routes(routes, self.now);
        self.collect();
    }

    /// A crash: everything in memory is gone.
    pub(super) fn restart(&mut self, i: usize) {
        self.nodes[i] = node(i as u8 + 1, 0x80);
        self.introduce(i);
    }

    /// What the TX thread does.
    pub(super) fn send(&mut self, from: usize, to: usize, text: &[u8]) {
        let bytes = packet(self.nodes[from].overlay, self.nodes[to].overlay, text);
        self.send_bytes(from, &bytes);
    }

    pub(super) fn send_bytes(&mut self, from: usize, bytes: &[u8]) {
        let node = &mut self.nodes[from];
        let peer = match node.table.destination(bytes) {
            Ok(peer) => peer,
            Err(reason) => return node.counters.add(reason),
        };
        let plaintext = [&[0; META], bytes].concat();
        match &peer.sending {
            None => node.tunnel.handle_packet(peer.id, plaintext, self.now),
            Some(sending) => {
                let mut datagram = [&[0; HEADER], plaintext.as_slice(), &[0; TAG]].concat();
                sending.session.seal_data(0, &mut datagram).expect("below the limit");
                let to = sending.endpoints[0];
                self.wire.push_back((node.seen_as(to), to, datagram));
                if sending.session.take_attention() {
                    node.tunnel.handle_attention(peer.id, self.now);
                }
            }
        }
        self.collect();
    }

    /// What the RX thread does.
    pub(super) fn receive(&mut self, from: Endpoint, to: Endpoint, mut datagram: Vec<u8>) {
        self.by_stream += usize::from(matches!(to, Endpoint::Stream(_)));
        let is_there = |node: &&mut Node| match to {
            Endpoint::Udp(address) => node.address == address,
            Endpoint::Stream(id) => node.id == id,
        };
        let Some(node) = self.nodes.iter_mut().find(is_there) else { return };
        let inbound = match Opener::new(&node.table, from).open(&mut datagram) {
            Ok(inbound) => inbound,
            Err(reason) => return node.counters.add(reason),
        };
        let session = Arc::clone(inbound.session);
        if inbound.first {
            node.tunnel.handle_confirmed(session.local(), from, self.now);
        }
        if inbound.moved {
            node.tunnel.handle_moved(&session, from, self.now);
        }
        match inbound.content {
            Content::Packet(_, packet) => node.delivered.push(packet[20..].to_vec()),
            Content::Control(plaintext) => node.tunnel.handle_control(&session, from, plaintext, self.now),
            Content::Refused(reason) => node.counters.add(reason),
        }
    }

    pub(super) fn collect(&mut self) {
        for node in &mut self.nodes {
            while let Some((to, datagram)) = node.tunnel.poll_transmit() {
                self.datagrams += 1;
                self.wire.push_back((node.seen_as(to), to, datagram));
            }
            while let Some(event) = node.tunnel.poll_event() {
                if let TunnelEvent::HandshakeWanted { peer, ticket, message } = &event {
                    self.streams.push_back((node.id, *peer, *ticket, message.clone()));
                }
                node.events.push(event);
            }
            if let Some(table) = node.tunnel.poll_table() {
                node.table = table;
            }
        }
    }

    fn stream(&mut self, from: NodeId, to: NodeId, ticket: u64, message: &[u8]) {
        self.handshakes_by_stream += 1;
        let works = self.nodes.iter().all(|node| node.streams_work || (node.id != from && node.id != to));
        let answerer = self.nodes.iter_mut().find(|node| node.id == to).filter(|_| works);
        let answer = answerer.map(|node| node.tunnel.handle_request(from, message, self.now));
        self.collect();
        if let Some(node) = self.nodes.iter_mut().find(|node| node.id == from) {
            node.tunnel.handle_answer(to, ticket, answer.as_deref(), self.now);
        }
    }

    /// Delivers everything under way, then lets `time` pass, timer by timer.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.collect();
            if let Some((from, to, ticket, message)) = self.streams.pop_front() {
                self.stream(from, to, ticket, &message);
            } else if let Some((from, to, datagram)) = self.wire.pop_front() {
                let among = |list: &[SocketAddr], end| list.iter().any(|one| end == Endpoint::Udp(*one));
                let vanishes = among(&self.dead, from) || among(&self.dead, to) || among(&self.deaf, to);
                if !vanishes && datagram.len() <= self.longest {
                    assert!(self.delayed.len() < 1000, "datagrams multiply");
                    self.delayed.push_back((self.now + self.delay, from, to, datagram));
                }
            } else {
                let timers = self.nodes.iter().filter_map(|node| node.tunnel.poll_timeout());
                let timer = timers.map(|(at, _)| at).min();
                let arrival = self.delayed.front().map(|(at, ..)| *at);
                match timer.into_iter().chain(arrival).min() {
                    Some(at) if at <= end => self.now = self.now.max(at),
                    Some(_) | None => break,
                }
                if arrival.is_some_and(|at| at <= self.now)
                    && let Some((_, from, to, datagram)) = self.delayed.pop_front()
                {
                    self.receive(from, to, datagram);
                    continue;
                }
                for node in &mut self.nodes {
                    node.tunnel.handle_timeout(self.now);
                }
            }
        }
        self.now = self.now.max(end);
    }

    pub(super) fn delivered(&mut self, i: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.nodes[i].delivered)
    }
}

trait NowForTests {
    fn now_for_tests() -> Self;
}

impl NowForTests for Instant {
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other beginning")]
    fn now_for_tests() -> Self {
        Self::now()
    }
}
