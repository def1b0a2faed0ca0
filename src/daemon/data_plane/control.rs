//! The control thread: drives the pure tunnel with what the fast threads and the daemon say, and with the clock.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use super::{DataPlaneEvent, Shared};
use crate::{
    identity::NodeId,
    tunnel::{DropReason, Endpoint, PeerRoute, PeerState, PingError, Session, Tunnel, TunnelEvent},
    udp::Socket,
};

/// What the control thread is told.
pub(super) enum Input {
    /// A packet (meta and IP packet) for a peer that has no session or no path yet.
    Packet {
        peer: NodeId,
        plaintext: Vec<u8>,
    },
    /// A session that asked for attention sends.
    Attention(NodeId),
    /// A datagram to this peer was too long for the socket.
    TooBig(NodeId),
    /// The first datagram of a session came.
    Confirmed {
        session: Arc<Session>,
        from: Endpoint,
    },
    /// A new datagram came from an address that its peer was not known at.
    Moved {
        session: Arc<Session>,
        from: Endpoint,
    },
    /// A control datagram came.
    Control {
        session: Arc<Session>,
        from: Endpoint,
        plaintext: Vec<u8>,
    },
    /// A fast thread cannot go on.
    Failed(String),
    /// As the methods of the handle that are called so.
    Routes(Vec<PeerRoute>),
    Gateways(Vec<(IpNet, IpAddr)>),
    Remove(NodeId),
    Addresses(Vec<IpAddr>),
    Psks(Vec<zeroize::Zeroizing<[u8; 32]>>),
    Request {
        from: NodeId,
        message: Vec<u8>,
        reply: oneshot::Sender<Vec<u8>>,
    },
    Answer {
        peer: NodeId,
        ticket: u64,
        answer: Option<Vec<u8>>,
    },
    Connected(NodeId),
    Disconnected(NodeId),
    Ping {
        peer: NodeId,
        reply: oneshot::Sender<Result<Duration, PingError>>,
    },
    Peers(oneshot::Sender<Vec<PeerState>>),
    Stop,
}

/// Runs until told to stop, or until the handle is gone.
pub(super) fn run(
    tunnel: Tunnel,
    inputs: &Receiver<Input>,
    events: &mpsc::Sender<DataPlaneEvent>,
    socket: &Socket,
    shared: &Shared,
) {
    let mut control = Control { tunnel, events, socket, shared, pings: BTreeMap::new(), next_ping: 0 };
    loop {
        let input = match control.tunnel.poll_timeout() {
            Some((at, _)) => inputs.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let after = match input {
            Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => {
                control.tunnel.handle_stop();
                control.carry_out();
                return;
            }
            Ok(input) => control.handle(input),
            Err(RecvTimeoutError::Timeout) => None,
        };
        control.tunnel.handle_timeout(Instant::now());
        // The table goes first: whoever hears of a session from us finds it known here.
        control.carry_out();
        if let Some((reply, answer)) = after {
            let _ = reply.send(answer);
        }
    }
}

struct Control<'a> {
    tunnel: Tunnel,
    events: &'a mpsc::Sender<DataPlaneEvent>,
    socket: &'a Socket,
    shared: &'a Shared,
    pings: BTreeMap<u64, oneshot::Sender<Result<Duration, PingError>>>,
    next_ping: u64,
}

impl Control<'_> {
    /// Hands one input to the tunnel. Gives an answer that may leave only after the new table is in force.
    fn handle(&mut self, input: Input) -> Option<(oneshot::Sender<Vec<u8>>, Vec<u8>)> {
        let now = Instant::now();
        match input {
            Input::Packet { peer, plaintext } => self.tunnel.handle_packet(peer, plaintext, now),
            Input::Attention(peer) => self.tunnel.handle_attention(peer, now),
            Input::TooBig(peer) => self.tunnel.handle_too_big(peer, now),
            Input::Confirmed { session, from } => self.tunnel.handle_confirmed(session.local(), from, now),
            Input::Moved { session, from } => self.tunnel.handle_moved(&session, from, now),
            Input::Control { session, from, plaintext } => {
                session.control_done();
                self.tunnel.handle_control(&session, from, &plaintext, now);
            }
            Input::Failed(reason) => {
                self.tell(DataPlaneEvent::Failed { reason });
            }
            Input::Routes(routes) => self.tunnel.handle_routes(routes, now),
            Input::Gateways(gateways) => self.tunnel.handle_gateways(gateways),
            Input::Remove(peer) => self.tunnel.handle_remove(peer),
            Input::Psks(psks) => self.tunnel.handle_psks(psks),
            Input::Addresses(addresses) => self.tunnel.handle_addresses(addresses),
            Input::Request { from, message, reply } => {
                return Some((reply, self.tunnel.handle_request(from, &message, now)));
            }
            Input::Answer { peer, ticket, answer } => {
                self.tunnel.handle_answer(peer, ticket, answer.as_deref(), now);
            }
            Input::Connected(peer) => self.tunnel.handle_connected(peer, now),
            Input::Disconnected(peer) => self.tunnel.handle_disconnected(peer, now),
            Input::Ping { peer, reply } => {
                self.next_ping += 1;
                self.pings.insert(self.next_ping, reply);
                self.tunnel.handle_ping(peer, self.next_ping, now);
            }
            Input::Peers(reply) => {
                let _ = reply.send(self.tunnel.peers());
            }
            Input::Stop => {}
        }
        None
    }

    fn carry_out(&mut self) {
        if let Some(table) = self.tunnel.poll_table() {
            self.shared.table.store(Arc::new(table));
        }
        while let Some((to, datagram)) = self.tunnel.poll_transmit() {
            let to = match to {
                Endpoint::Udp(to) => to,
                Endpoint::Stream(peer) => {
                    self.shared.streams.push(peer, &datagram, Instant::now());
                    continue;
                }
            };
            // A probe of the path's MTU may be too long for our own link: it is simply not answered.
            if let Err(error) = self.socket.send(&datagram, datagram.len(), to)
                && error.raw_os_error() != Some(libc::EMSGSIZE)
            {
                tracing::debug!(%to, %error, "control datagram not sent");
                self.shared.counters.add(DropReason::SocketRefused);
            }
        }
        while let Some(event) = self.tunnel.poll_event() {
            match event {
                TunnelEvent::Pong { token, result } => {
                    if let Some(reply) = self.pings.remove(&token) {
                        let _ = reply.send(result);
                    }
                }
                TunnelEvent::HandshakeWanted { peer, ticket, message } => {
                    if !self.tell(DataPlaneEvent::HandshakeWanted { peer, ticket, message }) {
                        self.tunnel.handle_answer(peer, ticket, None, Instant::now());
                    }
                }
                TunnelEvent::Connected { peer, endpoint } => {
                    tracing::debug!(%peer, %endpoint, "data path up");
                    self.tell(DataPlaneEvent::Connected { peer, endpoint });
                }
                TunnelEvent::Lost { peer, reason } => {
                    tracing::debug!(%peer, reason, "data path down");
                    self.tell(DataPlaneEvent::Lost { peer, reason });
                }
            }
        }
    }

    /// Never waits: a daemon that does not listen costs events, not packets.
    fn tell(&self, event: DataPlaneEvent) -> bool {
        self.events.try_send(event).is_ok()
    }
}
