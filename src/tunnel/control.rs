//! The control half of the data plane, for all peers: what the control thread (or a simulation) drives.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use zeroize::Zeroizing;

use super::{
    Counters, DropReason,
    handshake::{self, HandshakeError, Initiator, Offer, Parameters},
    message::Message,
    path::{Endpoint, Path},
    peer::{News, Output, Peer, PingError},
    route::{RouteTable, Slot},
    session::Session,
    table::{Sending, Table, TablePeer, TrafficTotals},
    wire::SessionId,
};
use crate::identity::NodeId;

/// What the tunnel is started with.
pub struct TunnelSettings {
    /// Our id.
    pub me: NodeId,
    /// The network token's key for the data plane.
    pub psk: Zeroizing<[u8; 32]>,
    /// Whether this machine has AES instructions.
    pub aes: bool,
    /// Our UDP ports, one per queue.
    pub ports: Vec<u16>,
    /// Addresses of ours that others may try.
    pub addresses: Vec<IpAddr>,
    /// The interface's MTU: the longest inner packet.
    pub mtu: u16,
    /// A session this old gets a successor when something is sent; usually [`REKEY_AFTER`].
    pub rekey_after: Duration,
}

/// A peer as the control plane knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRoute {
    /// Who.
    pub id: NodeId,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses outside the overlay that it may be reached at, besides those that it tells itself.
    pub candidates: Vec<IpAddr>,
}

/// What the tunnel wants from, or tells, the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelEvent {
    /// Carry `message` to `peer` on a stream that proves both ids; the answer, or that there is none, goes to
    /// [`Tunnel::handle_answer`] with the same ticket.
    HandshakeWanted {
        /// To whom.
        peer: NodeId,
        /// Names the attempt.
        ticket: u64,
        /// The bytes for the peer's [`Tunnel::handle_request`].
        message: Vec<u8>,
    },
    /// Packets flow to and from the peer.
    Connected {
        /// Who.
        peer: NodeId,
        /// Where it answers.
        endpoint: Endpoint,
    },
    /// Nothing flows until there is a new session.
    Lost {
        /// Who.
        peer: NodeId,
        /// Why.
        reason: &'static str,
    },
    /// A ping has come back, or not.
    Pong {
        /// Names the ping.
        token: u64,
        /// The round trip.
        result: Result<Duration, PingError>,
    },
}

/// One peer for `peers` and the dashboard.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerState {
    /// Who.
    pub id: NodeId,
    /// Whether there is a session and a path.
    pub connected: bool,
    /// Where datagrams of our first queue go.
    pub endpoint: Option<Endpoint>,
    /// Smoothed round trip of the path.
    pub round_trip: Option<Duration>,
    /// Share of probes lost on the path, smoothed, 0 to 1.
    pub loss: f32,
    /// When the session in use began.
    pub last_handshake: Option<Instant>,
    /// What was exchanged.
    pub traffic: TrafficTotals,
}

/// How old a session gets before it is replaced, as with WireGuard.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);

/// What an answer to a handshake begins with.
const ACCEPTED: u8 = 0;
/// Both began at once and the answerer's handshake stands.
const OURS_STANDS: u8 = 1;
/// The answerer does not know us, or could not read the message.
const REFUSED: u8 = 2;

/// Sessions, paths and routes of one node: no sockets, no threads, no clock.
///
/// The fast threads hand in what they cannot decide (`handle_*`), and read the [`Table`] that comes out of
/// [`Tunnel::poll_table`].
pub struct Tunnel {
    settings: TunnelSettings,
    peers: BTreeMap<NodeId, Peer>,
    sessions: BTreeMap<SessionId, NodeId>,
    /// Networks that this host routes via an overlay address.
    gateways: Vec<(IpNet, IpAddr)>,
    out: Output,
    tickets: u64,
    /// Keys that peers may use besides ours, while the network token is replaced.
    other_psks: Vec<Zeroizing<[u8; 32]>>,
}

impl Tunnel {
    /// A tunnel without peers. `seed` is 32 fresh secret bytes: ephemeral keys come from it.
    pub fn new(settings: TunnelSettings, seed: [u8; 32], counters: Arc<Counters>) -> Self {
        let (mtu, rekey_after) = (settings.mtu, settings.rekey_after);
        Self {
            settings,
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            gateways: Vec::new(),
            out: Output::new(counters, StdRng::from_seed(seed), mtu, rekey_after),
            tickets: 0,
            other_psks: Vec::new(),
        }
    }

    /// All peers there are. Peers that are not among them lose their sessions.
    pub fn handle_routes(&mut self, routes: Vec<PeerRoute>, _now: Instant) {
        let mut old = std::mem::take(&mut self.peers);
        let mut changed = false;
        self.out.overlay.clear();
        for route in routes.into_iter().filter(|route| route.id != self.settings.me) {
            let mut peer = old.remove(&route.id).unwrap_or_else(|| {
                changed = true;
                Peer::new(route.id)
            });
            changed |= peer.addresses != route.addresses;
            (peer.addresses, peer.candidates) = (route.addresses, route.candidates);
            self.out.overlay.extend(&peer.addresses);
            self.peers.insert(route.id, peer);
        }
        for peer in self.peers.values_mut() {
            peer.try_candidates(&self.out);
        }
        changed |= !old.is_empty();
        for mut gone in old.into_values() {
            gone.close(&mut self.out);
        }
        self.out.table_changed |= changed;
        self.assign_networks();
    }

    /// All networks that this host routes via an overlay address (pod networks, as flannel's host-gw makes them): they
    /// belong to the peer with that address.
    pub fn handle_gateways(&mut self, gateways: Vec<(IpNet, IpAddr)>) {
        self.gateways = gateways;
        self.assign_networks();
    }

    fn assign_networks(&mut self) {
        for peer in self.peers.values_mut() {
            let via_peer = self.gateways.iter().filter(|(_, hop)| peer.addresses.contains(hop));
            let networks: Vec<IpNet> = via_peer.map(|(network, _)| *network).collect();
            self.out.table_changed |= networks != peer.networks;
            peer.networks = networks;
        }
    }

    /// Forgets one peer and its sessions at once.
    pub fn handle_remove(&mut self, peer: NodeId) {
        if let Some(mut peer) = self.peers.remove(&peer) {
            peer.close(&mut self.out);
            self.out.table_changed = true;
        }
    }

    /// Our addresses outside the overlay changed.
    pub fn handle_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.settings.addresses = addresses;
    }

    /// The network token changed: the first key is used from now on, the others are understood. Sessions go on.
    pub fn handle_psks(&mut self, psks: Vec<Zeroizing<[u8; 32]>>) {
        let mut psks = psks.into_iter();
        if let Some(first) = psks.next() {
            self.settings.psk = first;
        }
        self.other_psks = psks.collect();
    }

    /// A packet (meta and IP packet) for a peer that has no session or no path yet.
    pub fn handle_packet(&mut self, peer: NodeId, plaintext: Vec<u8>, now: Instant) {
        match self.peers.get_mut(&peer) {
            Some(peer) => peer.handle_packet(plaintext, now, &mut self.out),
            None => self.out.counters.add(DropReason::NoRoute),
        }
        self.begin_if_needed(peer, now);
    }

    /// A session that asked for attention sends its next packet.
    pub fn handle_attention(&mut self, peer: NodeId, now: Instant) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.handle_attention(now);
        if state.needs_rekey(now) && state.may_attempt(now) {
            self.begin(peer, false, now);
        }
    }

    /// A datagram to `peer` was too long for our socket.
    pub fn handle_too_big(&mut self, peer: NodeId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.handle_too_big(now, &mut self.out);
        }
    }

    /// The first datagram of `session` came.
    pub fn handle_confirmed(&mut self, session: SessionId, from: Endpoint, now: Instant) {
        if let Some(peer) = self.sessions.get(&session).and_then(|id| self.peers.get_mut(id)) {
            peer.handle_confirmed(Some(from), now, &mut self.out);
        }
    }

    /// A new datagram of `session` came from an address that its peer was not known at.
    pub fn handle_moved(&mut self, session: &Arc<Session>, from: Endpoint, now: Instant) {
        match self.peers.get_mut(&session.peer()) {
            Some(peer) => peer.handle_moved(session, from, now, &mut self.out),
            None => session.settle(),
        }
    }

    /// A control message came in `session` from `from`.
    pub fn handle_control(&mut self, session: &Arc<Session>, from: Endpoint, plaintext: &[u8], now: Instant) {
        let id = session.peer();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(message) = Message::decode(plaintext) else {
            self.out.counters.add(DropReason::BadControl);
            return;
        };
        match message {
            Message::Probe(number) => peer.handle_probe(session, number, from, &mut self.out),
            Message::ProbeAck(number) => peer.handle_probe_ack(number, now, &mut self.out),
            Message::Close => peer.handle_close(session, &mut self.out),
            Message::Rekey(request) => {
                let answer = match peer.answer_again(&request) {
                    Some(answer) => answer,
                    None if peer.was_just_asked(now) => {
                        self.out.counters.add(DropReason::BadControl);
                        return;
                    }
                    None => self.handle_request(id, &request, now),
                };
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.remember_answer(&request, &answer, now);
                    peer.send(session, &Message::RekeyAnswer(answer), from, &mut self.out);
                }
            }
            Message::RekeyAnswer(answer) => self.take_answer(id, None, &answer, now),
        }
    }

    /// A peer wants a session; gives the answer, which may be a refusal.
    pub fn handle_request(&mut self, from: NodeId, message: &[u8], now: Instant) -> Vec<u8> {
        let Some(peer) = self.peers.get(&from) else { return vec![REFUSED] };
        // Of two handshakes begun at once the lower id's stands.
        if peer.is_attempting() && self.settings.me < from {
            return vec![OURS_STANDS];
        }
        let seed = self.seed();
        let ours = self.offer(from);
        let local = ours.0;
        match self.respond(from, ours.1, seed, message) {
            Ok((session, theirs, answer)) => {
                let peer = self.peers.get_mut(&from).expect("looked up above");
                peer.offer(session, &theirs, now, &mut self.out);
                [&[ACCEPTED], answer.as_slice()].concat()
            }
            Err(error) => {
                self.sessions.remove(&local);
                self.log_refusal(from, error);
                vec![REFUSED]
            }
        }
    }

    /// The answer to attempt `ticket`; none if it could not be had.
    pub fn handle_answer(&mut self, peer: NodeId, ticket: u64, answer: Option<&[u8]>, now: Instant) {
        match answer {
            Some(answer) => self.take_answer(peer, Some(ticket), answer, now),
            None => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.handle_failure(ticket, now, &mut self.out);
                }
            }
        }
    }

    /// Measures the round trip to `peer` through the data plane; comes back as [`TunnelEvent::Pong`].
    pub fn handle_ping(&mut self, peer: NodeId, token: u64, now: Instant) {
        match self.peers.get_mut(&peer) {
            Some(state) => {
                state.handle_ping(token, now, &mut self.out);
                self.begin_if_needed(peer, now);
            }
            None => self.out.pongs.push_back((token, Err(PingError::UnknownPeer))),
        }
    }

    /// The control plane has a new connection with `peer`, which may have restarted and lost our session.
    pub fn handle_connected(&mut self, peer: NodeId, now: Instant) {
        self.out.neighbours.insert(peer);
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.try_candidates(&self.out);
            peer.doubt(now, &mut self.out);
        }
    }

    /// The control plane has no connection with `peer` any more.
    pub fn handle_disconnected(&mut self, peer: NodeId, now: Instant) {
        self.out.neighbours.remove(&peer);
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.lose_stream(now, &mut self.out);
        }
    }

    /// We stop: tells every peer.
    pub fn handle_stop(&mut self) {
        for peer in self.peers.values_mut() {
            peer.close(&mut self.out);
        }
        self.peers.clear();
        self.out.table_changed = true;
    }

    /// Whatever is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let ids: Vec<NodeId> = self.peers.keys().copied().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let dead = peer.handle_timeout(now, &mut self.out);
            if dead && peer.may_attempt(now) {
                self.begin(id, true, now);
            }
            self.begin_if_needed(id, now);
        }
    }

    /// The next datagram to send, from the socket of the first queue or by stream.
    pub fn poll_transmit(&mut self) -> Option<(Endpoint, Vec<u8>)> {
        self.out.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<TunnelEvent> {
        if let Some((token, result)) = self.out.pongs.pop_front() {
            return Some(TunnelEvent::Pong { token, result });
        }
        Some(match self.out.news.pop_front()? {
            News::Wanted(peer, ticket, message) => TunnelEvent::HandshakeWanted { peer, ticket, message },
            News::Lost(peer, reason) => TunnelEvent::Lost { peer, reason },
            News::Connected(peer, path) => {
                let ports = self.peers.get(&peer).map_or(&[][..], |peer| peer.paths.ports());
                TunnelEvent::Connected { peer, endpoint: path.endpoint(ports, 0) }
            }
        })
    }

    /// A new table for the fast threads, if anything they read has changed since the last.
    pub fn poll_table(&mut self) -> Option<Table> {
        if !std::mem::take(&mut self.out.table_changed) {
            return None;
        }
        let mut sessions = HashMap::new();
        for (slot, peer) in self.peers.values().enumerate() {
            for session in peer.sessions() {
                sessions.insert(session.local(), (slot as Slot, Arc::clone(session)));
            }
        }
        let peers = &self.peers;
        self.sessions
            .retain(|id, peer| sessions.contains_key(id) || peers.get(peer).is_some_and(Peer::is_attempting));
        let slots = || self.peers.values().enumerate().map(|(slot, peer)| (slot as Slot, peer));
        let routes = RouteTable::new(
            slots().flat_map(|(slot, peer)| peer.addresses.iter().map(move |address| (*address, slot))),
            slots().flat_map(|(slot, peer)| peer.networks.iter().map(move |network| (*network, slot))),
        );
        Some(Table { routes, peers: self.peers.values().map(table_peer).collect(), sessions })
    }

    /// When [`Tunnel::handle_timeout`] is to be called next, and for what.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.peers.values().filter_map(Peer::poll_timeout).min_by_key(|(at, _)| *at)
    }

    /// Every peer, in the order of ids.
    pub fn peers(&self) -> Vec<PeerState> {
        let state = |peer: &Peer| {
            let path = peer.sending().map(|(_, path)| path);
            let (round_trip, loss) = peer.paths.quality().unwrap_or_default();
            PeerState {
                id: peer.id,
                connected: path.is_some(),
                endpoint: path.map(|path: Path| path.endpoint(peer.paths.ports(), 0)),
                round_trip,
                loss,
                last_handshake: peer.last_handshake().filter(|_| peer.session().is_some()),
                traffic: peer.traffic.totals(),
            }
        };
        self.peers.values().map(state).collect()
    }

    fn take_answer(&mut self, id: NodeId, ticket: Option<u64>, answer: &[u8], now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match answer.split_first() {
            Some((&ACCEPTED, answer)) => {
                if let Err(error) = peer.handle_answer(ticket, answer, now, &mut self.out) {
                    self.log_refusal(id, error);
                }
            }
            // The other's message is on its way; ours is void. If it gets lost, the next packet begins anew.
            Some((&OURS_STANDS, _)) => peer.give_way(ticket, now, &mut self.out),
            Some(_) | None => peer.refused(ticket, now, &mut self.out),
        }
    }

    fn begin_if_needed(&mut self, id: NodeId, now: Instant) {
        if self.peers.get(&id).is_some_and(|peer| peer.needs_session() && peer.may_attempt(now)) {
            self.begin(id, true, now);
        }
    }

    fn begin(&mut self, id: NodeId, by_stream: bool, now: Instant) {
        let seed = self.seed();
        let (_, ours) = self.offer(id);
        let (initiator, message) = Initiator::new(&self.parameters(id), ours, seed);
        self.tickets += 1;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.begin(self.tickets, initiator, message, by_stream, now, &mut self.out);
        }
    }

    fn parameters(&self, peer: NodeId) -> Parameters {
        Parameters { me: self.settings.me, peer, psk: self.settings.psk.clone() }
    }

    /// Answers with the key that the peer used: while the network token is replaced it may be ahead of us, or behind.
    fn respond(
        &self,
        from: NodeId,
        ours: Offer,
        seed: [u8; 32],
        message: &[u8],
    ) -> Result<(Session, Offer, Vec<u8>), HandshakeError> {
        let first = handshake::respond(&self.parameters(from), ours.clone(), seed, message);
        // A message that does not authenticate was read only, so the seed is unused.
        self.other_psks.iter().fold(first, |outcome, psk| match outcome {
            Err(HandshakeError::NotAuthentic) => {
                let parameters = Parameters { psk: psk.clone(), ..self.parameters(from) };
                handshake::respond(&parameters, ours.clone(), seed, message)
            }
            done => done,
        })
    }

    fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.out.rng.fill_bytes(&mut seed);
        seed
    }

    /// An offer with a session id of its own, taken from now on.
    fn offer(&mut self, peer: NodeId) -> (SessionId, Offer) {
        let id = loop {
            let id = SessionId::from_bits(self.out.rng.next_u32());
            if !self.sessions.contains_key(&id) {
                break id;
            }
        };
        self.sessions.insert(id, peer);
        let TunnelSettings { aes, ports, addresses, .. } = &self.settings;
        (id, Offer::new(id, *aes, ports.clone(), addresses.clone()))
    }

    fn log_refusal(&self, peer: NodeId, error: HandshakeError) {
        tracing::debug!(peer = %peer.short(), %error, "data plane handshake failed");
    }
}

fn table_peer(peer: &Peer) -> TablePeer {
    let ports = peer.paths.ports();
    TablePeer {
        id: peer.id,
        traffic: Arc::clone(&peer.traffic),
        sending: peer.sending().map(|(session, path)| Sending {
            session: Arc::clone(session),
            endpoints: path.endpoints(ports),
            mtu: peer.path_mtu(),
        }),
        ports: ports.to_vec(),
        paths: peer.paths.known(),
    }
}
