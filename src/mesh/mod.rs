//! libp2p: finding the others, admission, and streams of opaque bytes between neighbours.
//!
//! TCP (Noise, yamux) and QUIC on one port. Others are found by multicast DNS ([`lan`]), as static peers and as
//! remembered peers; what is found is dialled, and admission decides. The bytes that pass are the ledger's and the
//! tunnel's affair: nothing here judges their meaning.
//!
//! ```text
//!            dial / accept             link stream: proof of the token         lower id says "stay"
//!  (nothing) -------------> Unproven ------------------------------> Proven -----------------------> Up
//!                             |  5 s, 32 at most from outside          |  second connection to the     | PeerUp
//!                             v                                        v  same peer, or full           v
//!                           Refused (counted, back-off)              closed without a word          messages, requests,
//!                                                                                                   a beat every 5 s
//! ```
//!
//! - A stranger sees one neutral protocol name and 32 random bytes: every other protocol opens with admission, and
//!   there is no identify.
//! - Two nodes that dial each other keep one connection: the one that the lower id chooses.
//! - TCP is preferred to QUIC: a killed process is noticed at once because its kernel closes the connection. A peer
//!   that vanishes without a word (a cut cable) is given up after 16 s of silence.
//! - While a token is replaced the [`Gate`] holds several. Whoever proves one that only fetches the new one gets what
//!   the owner has for it, and the connection ends (`Errand`).
//! - Peers are dialled until there are enough neighbours ([`neighbourhood::ENOUGH`]), and accepted up to
//!   `max_neighbours`: beyond it, who dials is told "full" after admission.
//! - Nothing is dialled or accepted at excluded (overlay) addresses: no tunnel in the tunnel.

#![expect(clippy::disallowed_methods, reason = "an I/O room: it reads the clock and the system's randomness")]

mod backoff;
mod contacts;
mod counters;
mod doorway;
mod driver;
mod frame;
mod lan;
mod link;
mod locator;
mod packets;
mod request;
mod streams;
mod transport;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use crate::{
    identity::{Identity, NodeId},
    node::neighbourhood,
    token::Gate,
};

pub use counters::Counters;
pub use locator::{Locator, LocatorError};
pub use packets::{PacketReader, PacketWriter};
pub use request::RequestError;

use driver::{Driver, Order};
use link::Neighbours;

/// The longest message, in bytes.
pub const MAXIMUM_MESSAGE: usize = 64 * 1024;
/// The longest request and the longest answer, in bytes.
pub const MAXIMUM_REQUEST: usize = 1024 * 1024;
/// How long a request may take, connection to answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages that wait for one neighbour; what comes beyond is dropped and counted.
const QUEUE: usize = 256;
/// Events that wait for the reader; beyond it the neighbours' messages wait in their sockets.
const EVENTS: usize = 256;

/// What a mesh needs to know.
pub struct MeshSettings {
    /// Who we are; its key is libp2p's too.
    pub identity: Arc<Identity>,
    /// Who gets in, and with which token; see [`Mesh::set_gate`].
    pub gate: Gate,
    /// TCP and UDP port for libp2p (4001); if it is taken, or 0, a free one is used.
    pub listen_port: u16,
    /// Look for others by multicast DNS.
    pub mdns: bool,
    /// Multicast DNS on these interfaces alone (this is how `lo` gets included); empty: on all that fit.
    pub mdns_interfaces: Vec<String>,
    /// Peers to dial: multiaddresses (`/ip4/192.0.2.1/tcp/4001`, with or without `/p2p/ID`) or `host:port`.
    pub static_peers: Vec<String>,
    /// Peers that were met earlier, and where; tried first.
    pub known_peers: Vec<(NodeId, Vec<SocketAddr>)>,
    /// How many peers to be connected with at most.
    pub max_neighbours: usize,
    /// Names of interfaces that are no underlay, `*` at the end stands for anything.
    pub excluded_interfaces: Vec<String>,
    /// Addresses that are no underlay: the overlay's own, the pods'.
    pub excluded_subnets: Vec<IpNet>,
}

impl MeshSettings {
    /// Settings as the agent uses them unless told otherwise.
    pub fn new(identity: Arc<Identity>, gate: Gate) -> Self {
        let not_underlay = ["c3os*", "cni*", "flannel*", "docker*", "kube-*", "cali*"];
        Self {
            identity,
            gate,
            listen_port: 4001,
            mdns: true,
            mdns_interfaces: Vec::new(),
            static_peers: Vec::new(),
            known_peers: Vec::new(),
            max_neighbours: neighbourhood::AT_MOST,
            excluded_interfaces: not_underlay.map(str::to_owned).to_vec(),
            excluded_subnets: Vec::new(),
        }
    }
}

/// What an inbound request asks for. Each kind is a protocol of its own, unknown to whoever is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestKind {
    /// The data plane's handshake.
    DataHandshake,
    /// The kubeconfig of a server.
    Kubeconfig,
    /// An operator's command to another node.
    Command,
}

/// Why somebody who connected did not become a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It does not know our token.
    OtherToken,
    /// It is banned.
    Banned,
    /// It knows a token that is no longer good for it.
    Replaced,
    /// It turned us away after our proof: it has another token, or it is crowded.
    ByPeer,
    /// It did not open the protocol, or said what the protocol does not have.
    OtherProtocol,
    /// It was silent for five seconds.
    Silent,
    /// Too many strangers were waiting, most of them at its address.
    Crowded,
    /// It was refused a moment ago and comes back too soon.
    TooSoon,
    /// One of us has as many neighbours as it wants.
    Full,
}

/// What the mesh tells its owner. Events of one peer come in order: `PeerUp`, its messages, `PeerDown`.
#[derive(Debug)]
pub enum MeshEvent {
    /// A member is connected.
    PeerUp {
        /// Who.
        id: NodeId,
        /// Its address as seen on the connection, with the port it says it listens on: worth remembering.
        address: SocketAddr,
    },
    /// A member is gone: it closed, its machine closed for it, or it was silent for 16 s.
    PeerDown {
        /// Who.
        id: NodeId,
    },
    /// A member sent a message.
    Message {
        /// Who.
        from: NodeId,
        /// What, 1 to [`MAXIMUM_MESSAGE`] bytes.
        bytes: Vec<u8>,
    },
    /// A member asks. Dropping `reply` refuses.
    Request {
        /// Who.
        from: NodeId,
        /// What for.
        kind: RequestKind,
        /// At most [`MAXIMUM_REQUEST`] bytes.
        bytes: Vec<u8>,
        /// Takes the answer, at most [`MAXIMUM_REQUEST`] bytes.
        reply: oneshot::Sender<Vec<u8>>,
    },
    /// A member opened a stream of packets to us.
    Packets {
        /// Who.
        from: NodeId,
        /// What comes.
        packets: PacketReader,
    },
    /// Somebody came with a token that was replaced, and may fetch the new one. Dropping `reply` refuses.
    Errand {
        /// Who.
        id: NodeId,
        /// Takes what it gets, at most [`MAXIMUM_MESSAGE`] bytes.
        reply: oneshot::Sender<Vec<u8>>,
    },
    /// Our own token was replaced: this is what a member has for us.
    Replaced {
        /// Who says so.
        from: NodeId,
        /// What, at most [`MAXIMUM_MESSAGE`] bytes.
        bytes: Vec<u8>,
    },
    /// Multicast DNS names a node that was not known; it may be anybody until it is up.
    Found {
        /// Who it says it is.
        id: NodeId,
        /// Where it says it listens.
        addresses: Vec<SocketAddr>,
    },
    /// Somebody who is no member, or has no room for us. Left out when the reader is slow (the counters have it).
    Refused {
        /// Who, proven by libp2p.
        id: NodeId,
        /// From where.
        address: SocketAddr,
        /// Why.
        reason: Refusal,
    },
}

/// Why a mesh did not start.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// A static peer that cannot be read.
    #[error(transparent)]
    StaticPeer(#[from] LocatorError),
    /// The encryption of the transports refused the identity.
    #[error("libp2p: cannot use the node's identity: {0}")]
    Identity(String),
    /// No port at all.
    #[error("libp2p: cannot listen on any port for TCP and UDP: {0}; is the network configured?")]
    Listen(String),
}

/// Why a message was not queued. Each is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No such neighbour.
    #[error("the peer is not connected")]
    NotConnected,
    /// It reads slower than we write.
    #[error("the peer's queue of {QUEUE} messages is full")]
    Full,
    /// Empty, or longer than [`MAXIMUM_MESSAGE`].
    #[error("a message has 1 to {MAXIMUM_MESSAGE} bytes")]
    Size,
}

/// A running mesh. Cheap to clone; it ends with [`Mesh::close`], or when the receiver of its events is dropped.
#[derive(Clone)]
pub struct Mesh {
    neighbours: Arc<Neighbours>,
    counters: Arc<Mutex<Counters>>,
    orders: mpsc::Sender<Order>,
    listen_port: u16,
}

impl Mesh {
    /// Starts listening, looking and dialling, on the tokio runtime of the caller.
    ///
    /// # Errors
    /// [`MeshError`] if a static peer cannot be read or no port can be listened on.
    pub fn start(settings: MeshSettings) -> Result<(Self, mpsc::Receiver<MeshEvent>), MeshError> {
        let (events, receiver) = mpsc::channel(EVENTS);
        let counters = Arc::new(Mutex::new(Counters::default()));
        let neighbours = Arc::new(Neighbours::default());
        let (orders, inbox) = mpsc::channel(16);
        let driver = Driver::new(settings, events, inbox, neighbours.clone(), counters.clone())?;
        let listen_port = driver.listen_port();
        tokio::spawn(driver.run());
        Ok((Self { neighbours, counters, orders, listen_port }, receiver))
    }

    /// Queues a message for a neighbour; it goes out in order, or not at all if the connection ends.
    ///
    /// # Errors
    /// [`SendError`] if it cannot be queued; it is counted as dropped.
    pub fn send(&self, to: NodeId, bytes: Vec<u8>) -> Result<(), SendError> {
        let sent = self.neighbours.send(to, bytes);
        if let Err(error) = sent {
            let mut counters = counters::lock(&self.counters);
            match error {
                SendError::NotConnected => counters.dropped_not_connected += 1,
                SendError::Full => counters.dropped_queue_full += 1,
                SendError::Size => counters.dropped_size += 1,
            }
        }
        sent
    }

    /// Asks a neighbour and waits for its answer, for [`REQUEST_TIMEOUT`] at most.
    ///
    /// # Errors
    /// [`RequestError`] says whether it is not there, refused, or too slow.
    pub async fn request(
        &self,
        to: NodeId,
        kind: RequestKind,
        bytes: Vec<u8>,
    ) -> Result<Vec<u8>, RequestError> {
        let answer = request::ask(self.neighbours.opener(to), kind, bytes).await;
        let mut counters = counters::lock(&self.counters);
        counters.requests_sent += 1;
        counters.requests_failed += u64::from(answer.is_err());
        drop(counters);
        answer
    }

    /// Opens a stream of packets to a neighbour, which gets [`MeshEvent::Packets`].
    ///
    /// # Errors
    /// [`RequestError`] if it is not there, or too old to know such a stream.
    pub async fn open_packets(&self, to: NodeId) -> Result<PacketWriter, RequestError> {
        packets::open(self.neighbours.opener(to)).await
    }

    /// Adds a peer to dial now and whenever it is not connected, as `static_peers` does.
    ///
    /// # Errors
    /// [`LocatorError`] if the text is no address.
    pub fn dial(&self, text: &str) -> Result<(), LocatorError> {
        let locator = text.parse()?;
        // Full or gone: the mesh is ending, or somebody dials without pause.
        let _ = self.orders.try_send(Order::Dial(locator));
        Ok(())
    }

    /// Lets others in by other rules from now on. Connections that these do not keep end at once.
    pub async fn set_gate(&self, gate: Gate) {
        // Gone: the mesh is ending.
        let _ = self.orders.send(Order::Gate(gate)).await;
    }

    /// The TCP and UDP port that libp2p listens on.
    pub fn listen_port(&self) -> u16 {
        self.listen_port
    }

    /// The neighbours that are up, lowest id first.
    pub fn neighbours(&self) -> Vec<NodeId> {
        self.neighbours.ids()
    }

    /// What was sent, received, dropped and refused since the start.
    pub fn counters(&self) -> Counters {
        counters::lock(&self.counters).clone()
    }

    /// Says goodbye to all neighbours and stops; returns when the connections are closed, after a second at most.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.orders.send(Order::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}
