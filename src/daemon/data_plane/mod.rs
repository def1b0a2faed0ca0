//! The data plane's threads: a pair per queue that moves packets, and one that decides.
//!
//! ```text
//!  TUN queue i --- transmit i ---> UDP port 51900 + i        both read the Table (arc-swap), never wait for anybody
//!  TUN queue i <-- receive i ----- UDP port 51900 + i
//!                     | packets without a session, control datagrams, news   (bounded channel, dropped when full)
//!                     v
//!                  control: owns the pure Tunnel, makes Tables <---- DataPlane (handle) ---- daemon
//! ```
//!
//! While there is little to do, "receive" serves both directions of its queue, and "transmit" sleeps ([`load`]).
//!
//! Where UDP does not pass, the same sealed datagrams go through streams of the mesh ([`streams`]), by tokio's tasks.
//!
//! The daemon only carries handshake bytes: [`DataPlaneEvent::HandshakeWanted`] goes to the peer's
//! [`DataPlane::handshake_request`] over the mesh, its answer to [`DataPlane::handshake_answer`].

#![expect(
    clippy::disallowed_methods,
    reason = "the control thread is the data plane's driver: it reads the clock"
)]

mod batch;
mod control;
mod fast;
mod features;
mod load;
#[cfg(test)]
mod namespaces;
#[cfg(test)]
mod soak;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::NonZero,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

use arc_swap::ArcSwap;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

pub use self::features::Features;
use self::{control::Input, load::Duty, streams::Streams};
use crate::{
    identity::NodeId,
    mesh::{PacketReader, PacketWriter},
    tun::{self, Device, Overlay, TunError},
    tunnel::{
        Counters, Endpoint, MAX_QUEUES, PeerRoute, PeerState, PingError, Table, Tunnel, TunnelSettings,
    },
    udp::{self, Socket, UdpError},
};

/// MTU of the interface where the path's is not known to be larger: 1500 less 60 bytes over IPv4, 80 over IPv6.
pub const DEFAULT_MTU: u16 = 1420;
/// Words from the fast threads and commands that may wait for the control thread.
const INPUTS: usize = 1024;
/// Events that may wait for the daemon.
const EVENTS: usize = 256;

/// What the data plane is started with.
pub struct DataPlaneSettings {
    /// Our id.
    pub me: NodeId,
    /// [`NetworkKeys::data_psk`](crate::token::NetworkKeys) of the network token.
    pub psk: Zeroizing<[u8; 32]>,
    /// `vpn.interface`.
    pub interface: String,
    /// `vpn.port`: UDP port of the first queue; the others follow.
    pub port: u16,
    /// Addresses of ours outside the overlay, told to peers in handshakes.
    pub addresses: Vec<IpAddr>,
    /// The interface's MTU, as in [`Overlay`].
    pub mtu: u16,
    /// How old a session gets; usually [`REKEY_AFTER`].
    pub rekey_after: Duration,
    /// What to use of the kernel.
    pub features: Features,
}

/// Why the data plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// No interface.
    #[error(transparent)]
    Interface(#[from] TunError),
    /// No socket.
    #[error(transparent)]
    Socket(#[from] UdpError),
    /// No thread.
    #[error("cannot start a thread of the data plane: {0}")]
    Thread(std::io::Error),
    /// No randomness.
    #[error("the system's random source does not answer")]
    Random,
}

/// What the data plane wants from, or tells, the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataPlaneEvent {
    /// Carry `message` to the peer's [`DataPlane::handshake_request`] and its answer, or that there is none, to
    /// [`DataPlane::handshake_answer`].
    HandshakeWanted {
        /// To whom.
        peer: NodeId,
        /// Names the attempt.
        ticket: u64,
        /// The bytes.
        message: Vec<u8>,
    },
    /// Packets flow to and from the peer.
    Connected {
        /// Who.
        peer: NodeId,
        /// Where it answers.
        endpoint: Endpoint,
    },
    /// Datagrams wait for a stream to the peer, which [`DataPlane::write_stream`] takes.
    StreamWanted {
        /// Who.
        peer: NodeId,
    },
    /// Nothing flows until there is a new session, which is made when there is something to send.
    Lost {
        /// Who.
        peer: NodeId,
        /// Why.
        reason: &'static str,
    },
    /// The interface was taken away, or the sockets do not work any more: the data plane has to be started anew.
    Failed {
        /// What happened.
        reason: String,
    },
}

/// What the threads share.
pub(super) struct Shared {
    table: ArcSwap<Table>,
    counters: Arc<Counters>,
    streams: Streams,
    stop: AtomicBool,
}

/// Takes a datagram that came by a neighbour's stream.
type Deliver = Arc<dyn Fn(NodeId, &mut [u8]) + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Out,
    In,
}

/// The running data plane. Dropped, it stops; the interface stays either way.
pub struct DataPlane {
    shared: Arc<Shared>,
    inputs: SyncSender<Input>,
    /// None once it was stopped.
    running: Mutex<Option<Running>>,
    gateways: Option<tokio::task::AbortHandle>,
    deliver: Deliver,
    /// The tasks that write and read streams, the last of each kind for every neighbour.
    carriers: Mutex<BTreeMap<(NodeId, Direction), tokio::task::AbortHandle>>,
    interface: String,
    ports: Vec<u16>,
}

/// What holds the sockets and the interface's queues.
struct Running {
    threads: Vec<JoinHandle<()>>,
    /// The worker that [`Deliver`] calls.
    worker: Arc<dyn Send + Sync>,
}

impl DataPlane {
    /// Opens sockets and interface and starts the threads. Packets flow once there are routes
    /// ([`DataPlane::set_routes`]) and an address ([`DataPlane::set_overlay`]). Networks that the host routes via a
    /// peer's overlay address are the peer's. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`DataPlaneError`], with the fix.
    pub fn start(
        settings: DataPlaneSettings,
    ) -> Result<(Self, mpsc::Receiver<DataPlaneEvent>), DataPlaneError> {
        let queues = queues();
        // The ports first: they tell another agent on this machine before its interface is touched.
        let sockets = bind(settings.port, queues, settings.features.udp)?;
        let opened = tun::open(&settings.interface, queues, &settings.features.tun)?;
        tracing::info!(
            interface = %settings.interface,
            queues = opened.queues.len(),
            port = settings.port,
            offloads = ?opened.offloads,
            "data plane started"
        );
        let (mut plane, events) = Self::start_with(settings, opened.queues, sockets)?;
        let (interface, inputs) = (plane.interface.clone(), plane.inputs.clone());
        let watch = tokio::spawn(async move {
            let tell = |gateways| {
                // As with the handle's own words: the control thread never waits for us.
                let _ = inputs.send(Input::Gateways(gateways));
            };
            if let Err(error) = tun::watch_gateways(&interface, tell).await {
                tracing::warn!(%error, "Routes via the mesh are not followed any more: no pod networks by host-gw");
            }
        });
        plane.gateways = Some(watch.abort_handle());
        Ok((plane, events))
    }

    /// Starts the threads on devices and sockets that are there. Needs at least one of each.
    fn start_with<D: Device>(
        settings: DataPlaneSettings,
        devices: Vec<D>,
        sockets: Vec<Socket>,
    ) -> Result<(Self, mpsc::Receiver<DataPlaneEvent>), DataPlaneError> {
        let mut seed = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(seed.as_mut()).map_err(|_| DataPlaneError::Random)?;
        let counters = Arc::new(Counters::default());
        let (events, daemon) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared {
            table: ArcSwap::from_pointee(Table::default()),
            counters: Arc::clone(&counters),
            streams: Streams::new(Arc::clone(&counters), events.clone()),
            stop: AtomicBool::new(false),
        });
        let ports: Vec<u16> = sockets.iter().map(Socket::port).collect();
        let tunnel = Tunnel::new(
            TunnelSettings {
                me: settings.me,
                psk: settings.psk,
                aes: has_aes_instructions(),
                ports: ports.clone(),
                addresses: settings.addresses,
                mtu: settings.mtu,
                rekey_after: settings.rekey_after,
            },
            *seed,
            counters,
        );
        let (inputs, received) = sync_channel(INPUTS);
        let sockets: Vec<Arc<Socket>> = sockets.into_iter().map(Arc::new).collect();
        let devices: Vec<Arc<D>> = devices.into_iter().map(Arc::new).collect();
        let worker = |queue: usize| fast::Worker {
            queue: queue as u8,
            // With fewer device queues than sockets the last threads receive for the first device queue.
            device: Arc::clone(&devices[queue % devices.len()]),
            socket: Arc::clone(&sockets[queue]),
            shared: Arc::clone(&shared),
            control: inputs.clone(),
        };
        let first = Arc::new(worker(0));
        let weak = Arc::downgrade(&first);
        let plane = Self {
            shared: Arc::clone(&shared),
            inputs: inputs.clone(),
            running: Mutex::new(Some(Running { threads: Vec::new(), worker: first })),
            gateways: None,
            deliver: Arc::new(move |from, datagram: &mut [u8]| {
                let Some(worker) = weak.upgrade() else { return };
                worker.deliver(datagram, datagram.len().max(1), Endpoint::Stream(from));
            }),
            carriers: Mutex::default(),
            interface: settings.interface,
            ports,
        };
        let (socket, control) = (Arc::clone(&sockets[0]), Arc::clone(&shared));
        plane.spawn("dp-control".to_owned(), move || {
            control::run(tunnel, &received, &events, &socket, &control)
        })?;
        for queue in 0..sockets.len() {
            let duty = (queue < devices.len()).then(Arc::<Duty>::default);
            if let Some(duty) = duty.clone() {
                let (worker, its) = (worker(queue), Arc::clone(&duty));
                let thread = plane.spawn(format!("dp-tx-{queue}"), move || worker.transmit(&its))?;
                duty.introduce(&thread);
            }
            let worker = worker(queue);
            plane.spawn(format!("dp-rx-{queue}"), move || worker.receive(duty.as_deref()))?;
        }
        Ok((plane, daemon))
    }

    fn spawn(&self, name: String, run: impl FnOnce() + Send + 'static) -> Result<Thread, DataPlaneError> {
        let spawned = thread::Builder::new().name(name).stack_size(512 << 10).spawn(run);
        let spawned = spawned.map_err(DataPlaneError::Thread)?;
        let thread = spawned.thread().clone();
        self.running().as_mut().expect("it was not stopped yet").threads.push(spawned);
        Ok(thread)
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The UDP ports, one per queue.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// All peers that packets may go to and come from. Peers that are not among them lose their sessions.
    pub fn set_routes(&self, routes: Vec<PeerRoute>) {
        self.tell(Input::Routes(routes));
    }

    /// Forgets a peer and its sessions at once (a ban need not wait for the next routes).
    pub fn remove_peer(&self, peer: NodeId) {
        self.tell(Input::Remove(peer));
    }

    /// Our addresses outside the overlay changed; the next handshakes tell them.
    pub fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.tell(Input::Addresses(addresses));
    }

    /// The network token changed: new sessions use the first key, and peers may use any of them.
    pub fn set_psks(&self, psks: Vec<Zeroizing<[u8; 32]>>) {
        self.tell(Input::Psks(psks));
    }

    /// Gives the interface its addresses, MTU and routes. Nothing happens to what is right already.
    ///
    /// # Errors
    /// [`TunError::Refused`] with what the kernel said.
    pub async fn set_overlay(&self, overlay: &Overlay) -> Result<(), TunError> {
        tun::configure(&self.interface, overlay).await
    }

    /// A peer's handshake came on a stream that proved its id; gives the answer to send back.
    pub async fn handshake_request(&self, from: NodeId, message: Vec<u8>) -> Vec<u8> {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Request { from, message, reply });
        answer.await.unwrap_or_default()
    }

    /// The answer to [`DataPlaneEvent::HandshakeWanted`]; none if the peer could not be asked.
    pub fn handshake_answer(&self, peer: NodeId, ticket: u64, answer: Option<Vec<u8>>) {
        self.tell(Input::Answer { peer, ticket, answer });
    }

    /// The mesh has a new connection with `peer`: if the peer has lost our session meanwhile, a new one is made.
    pub fn peer_connected(&self, peer: NodeId) {
        self.tell(Input::Connected(peer));
    }

    /// The mesh has no connection with `peer` any more.
    pub fn peer_disconnected(&self, peer: NodeId) {
        self.shared.streams.forget(peer);
        self.tell(Input::Disconnected(peer));
    }

    /// Sends what waits for `peer` through this stream, until that ends. Needs a tokio runtime.
    pub fn write_stream(&self, peer: NodeId, writer: PacketWriter) {
        let shared = Arc::clone(&self.shared);
        self.carry(peer, Direction::Out, async move { shared.streams.empty(peer, writer).await });
    }

    /// Takes the datagrams that `peer` sends through this stream, instead of those of its last one. Needs a tokio
    /// runtime.
    pub fn read_stream(&self, peer: NodeId, reader: PacketReader) {
        let deliver = Arc::clone(&self.deliver);
        let read = streams::read(reader, move |datagram| deliver(peer, datagram));
        self.carry(peer, Direction::In, read);
    }

    fn carry(&self, peer: NodeId, direction: Direction, task: impl Future<Output = ()> + Send + 'static) {
        let carrier = tokio::spawn(task).abort_handle();
        let mut carriers = self.carriers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = carriers.insert((peer, direction), carrier) {
            old.abort();
        }
        carriers.retain(|_, carrier| !carrier.is_finished());
    }

    /// Measures the round trip to `peer` by a sealed datagram, making a session first if there is none.
    ///
    /// # Errors
    /// [`PingError`]
    pub async fn ping(&self, peer: NodeId) -> Result<Duration, PingError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Ping { peer, reply });
        answer.await.unwrap_or(Err(PingError::NoAnswer))
    }

    /// Every peer with a route, in the order of ids.
    pub async fn peers(&self) -> Vec<PeerState> {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Peers(reply));
        answer.await.unwrap_or_default()
    }

    /// What was dropped, by reason.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.shared.counters.snapshot()
    }

    /// Tells the peers, ends the threads and frees the ports, whoever else still holds it. The interface and its address
    /// stay.
    pub async fn stop(self: Arc<Self>) {
        // Joining takes some milliseconds: not on a thread that serves others.
        let _ = tokio::task::spawn_blocking(move || self.halt()).await;
    }

    /// Stops, and removes the interface.
    ///
    /// # Errors
    /// [`TunError::Refused`] with what the kernel said.
    pub async fn delete(self: Arc<Self>) -> Result<(), TunError> {
        let interface = self.interface.clone();
        self.stop().await;
        tun::delete(&interface).await
    }

    fn halt(&self) {
        let Some(Running { threads, worker }) = self.running().take() else { return };
        if let Some(task) = &self.gateways {
            task.abort();
        }
        let mut carriers = self.carriers.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *carriers).values().for_each(tokio::task::AbortHandle::abort);
        self.tell(Input::Stop);
        self.shared.stop.store(true, Ordering::Relaxed);
        tun::interrupt_until_finished(threads);
        drop(worker);
    }

    fn tell(&self, input: Input) {
        // The control thread never waits for the daemon, so this is short; it is gone only when we stop.
        let _ = self.inputs.send(input);
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.halt();
    }
}

/// More queues than cores: a flow that has a queue to itself does not wait behind another's super-packets, and a queue
/// without traffic costs nothing.
fn queues() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    (cores * 2).clamp(1, MAX_QUEUES)
}

fn bind(port: u16, queues: usize, features: udp::Features) -> Result<Vec<Socket>, UdpError> {
    (0..queues as u16).map(|queue| Socket::bind(port.saturating_add(queue), features)).collect()
}

fn has_aes_instructions() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}
