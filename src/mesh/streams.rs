//! libp2p's behaviour for bare streams: opens them, accepts them, and knows nothing else.
//!
//! Each connection has a [`Door`]. While it is shut, the link protocol is the only one that exists for the other
//! side, even to a list command of multistream-select; the driver opens it after admission.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    future::{Ready, ready},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use ipnet::IpNet;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, transport::PortUse, upgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, StreamUpgradeError, SubstreamProtocol, THandlerInEvent, ToSwarm,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{RequestKind, locator};

/// The link stream: admission, then messages. The one name a stranger can learn.
pub(super) const LINK: StreamProtocol = StreamProtocol::new("/link/1");
/// Packets one way, for as long as the connection lasts.
const PACKETS: StreamProtocol = StreamProtocol::new("/packets/1");
/// How long agreeing on a stream's protocol may take.
const NEGOTIATION: Duration = Duration::from_secs(5);
/// Requests of ours at a time on one connection; the others wait.
const REQUESTS: usize = 8;

impl RequestKind {
    const ALL: [Self; 3] = [Self::DataHandshake, Self::Kubeconfig, Self::Command];

    fn protocol(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Self::DataHandshake => "/data/1",
            Self::Kubeconfig => "/kubeconfig/1",
            Self::Command => "/command/1",
        })
    }
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Link,
    Request(RequestKind),
    Packets,
}

impl Purpose {
    fn protocol(self) -> StreamProtocol {
        match self {
            Self::Link => LINK,
            Self::Request(kind) => kind.protocol(),
            Self::Packets => PACKETS,
        }
    }

    fn of(protocol: &StreamProtocol) -> Option<Self> {
        let mut all = RequestKind::ALL.into_iter().map(Self::Request).chain([Self::Link, Self::Packets]);
        all.find(|purpose| purpose.protocol() == *protocol)
    }
}

/// Whether a connection accepts more than the link protocol. Shut at first, never shut again.
#[derive(Debug, Clone, Default)]
pub(super) struct Door(Arc<AtomicBool>);

impl Door {
    pub(super) fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why a stream did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenError {
    /// The other side does not have the protocol.
    Unsupported,
    /// The connection is gone or does not move.
    Lost,
}

/// Opens streams on one connection.
#[derive(Debug, Clone)]
pub(super) struct Opener {
    wanted: mpsc::Sender<Open>,
    requests: Arc<Semaphore>,
}

#[derive(Debug)]
struct Open {
    purpose: Purpose,
    reply: oneshot::Sender<Result<Stream, OpenError>>,
}

impl Opener {
    /// Waits for a turn among our requests on this connection: more streams than [`super::transport`] allows would
    /// end it.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, OpenError> {
        self.requests.clone().acquire_owned().await.map_err(|_| OpenError::Lost)
    }

    pub(super) async fn open(&self, purpose: Purpose) -> Result<Stream, OpenError> {
        let (reply, opened) = oneshot::channel();
        self.wanted.send(Open { purpose, reply }).await.map_err(|_| OpenError::Lost)?;
        opened.await.map_err(|_| OpenError::Lost)?
    }
}

/// A stream that the other side opened.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) connection: ConnectionId,
    pub(super) purpose: Purpose,
    pub(super) stream: Stream,
}

/// The behaviour. Connections from or to `excluded` addresses are denied.
pub(super) struct Streams {
    excluded: Vec<IpNet>,
    fresh: BTreeMap<ConnectionId, (Opener, Door)>,
    inbound: VecDeque<Inbound>,
}

/// A connection would run inside the overlay.
#[derive(Debug, thiserror::Error)]
#[error("the address belongs to the overlay: no tunnel in the tunnel")]
pub(super) struct OverlayAddress;

impl Streams {
    pub(super) fn new(excluded: Vec<IpNet>) -> Self {
        Self { excluded, fresh: BTreeMap::new(), inbound: VecDeque::new() }
    }

    /// The handles of a connection that was just established; once.
    pub(super) fn take(&mut self, connection: ConnectionId) -> Option<(Opener, Door)> {
        self.fresh.remove(&connection)
    }

    /// Whether an address is one of the overlay.
    pub(super) fn is_excluded(&self, address: IpAddr) -> bool {
        self.excluded.iter().any(|net| net.contains(&address))
    }

    fn deny_overlay(&self, addresses: &[&Multiaddr]) -> Result<(), ConnectionDenied> {
        let mut known = addresses.iter().filter_map(|address| locator::socket_address(address));
        if known.any(|address| self.is_excluded(address.ip())) {
            return Err(ConnectionDenied::new(OverlayAddress));
        }
        Ok(())
    }

    fn handler(&mut self, connection: ConnectionId) -> Handler {
        let (sender, wanted) = mpsc::channel(8);
        let door = Door::default();
        self.fresh.insert(
            connection,
            (Opener { wanted: sender, requests: Arc::new(Semaphore::new(REQUESTS)) }, door.clone()),
        );
        Handler { door, wanted, arrived: VecDeque::new() }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Inbound;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.deny_overlay(&[local, remote])
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(connection))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.deny_overlay(&[address])?;
        Ok(self.handler(connection))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        if let FromSwarm::ConnectionClosed(closed) = event {
            self.fresh.remove(&closed.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        connection: ConnectionId,
        (purpose, stream): (Purpose, Stream),
    ) {
        self.inbound.push_back(Inbound { connection, purpose, stream });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Inbound, THandlerInEvent<Self>>> {
        // Filled by the swarm only, which polls again after it has.
        self.inbound.pop_front().map_or(Poll::Pending, |inbound| Poll::Ready(ToSwarm::GenerateEvent(inbound)))
    }
}

/// The part of the behaviour that lives in a connection's task.
pub(super) struct Handler {
    door: Door,
    wanted: mpsc::Receiver<Open>,
    arrived: VecDeque<(Purpose, Stream)>,
}

type Reply = oneshot::Sender<Result<Stream, OpenError>>;

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = (Purpose, Stream);
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        let mut offer = vec![LINK];
        if self.door.is_open() {
            offer.extend(RequestKind::ALL.map(RequestKind::protocol));
            offer.push(PACKETS);
        }
        SubstreamProtocol::new(Offer(offer), ()).with_timeout(NEGOTIATION)
    }

    /// The driver decides when a connection ends.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Offer, Reply, Self::ToBehaviour>> {
        if let Some(arrived) = self.arrived.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(arrived));
        }
        match self.wanted.poll_recv(cx) {
            Poll::Ready(Some(Open { purpose, reply })) => {
                let offer = Offer(vec![purpose.protocol()]);
                let protocol = SubstreamProtocol::new(offer, reply).with_timeout(NEGOTIATION);
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum is not exhaustive")]
    fn on_connection_event(&mut self, event: ConnectionEvent<Offer, Offer, (), Reply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => {
                // The transports bound how many there are.
                if let Some(purpose) = Purpose::of(&protocol) {
                    self.arrived.push_back((purpose, stream));
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: reply,
            }) => {
                // Nobody waits for it any more: dropping closes it.
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                let error = match error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Timeout | StreamUpgradeError::Io(_) => OpenError::Lost,
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = reply.send(Err(error));
            }
            _ => {}
        }
    }
}

/// Protocols to offer; whatever is agreed on, the bare stream comes back.
pub(super) struct Offer(Vec<StreamProtocol>);

impl upgrade::UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl upgrade::InboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl upgrade::OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
