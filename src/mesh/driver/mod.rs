//! The event loop: owns the swarm, the connections' stages and the contacts; alone acts on them.

mod connection;
mod dial;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm,
    identity::Keypair,
    multiaddr::Protocol,
    swarm::{self, ConnectionId, ListenError, SwarmEvent},
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{sleep_until, timeout},
};

use self::{
    connection::{Connection, Stage},
    dial::Resolved,
};
use super::{
    MeshError, MeshEvent, MeshSettings, Refusal,
    backoff::Refusals,
    contacts::{Contacts, Source, Whom},
    counters::{self, Counters},
    lan::{Lan, Selection, Sighting},
    link::{Neighbours, Report},
    locator::Locator,
    packets::PacketReader,
    request,
    streams::{Inbound, OverlayAddress, Purpose, Streams},
    transport,
};
use crate::{identity::NodeId, node::neighbourhood, token::Gate};

/// For goodbyes.
const GOODBYE: Duration = Duration::from_secs(1);
/// Inbound requests at a time.
const REQUESTS: usize = 64;

/// What the owner wants.
pub(super) enum Order {
    Dial(Locator),
    Gate(Gate),
    Close(oneshot::Sender<()>),
}

pub(super) struct Driver {
    me: NodeId,
    swarm: Swarm<Streams>,
    gate: Gate,
    /// The same, for multicast DNS.
    lan_gate: watch::Sender<Gate>,
    listen_port: u16,
    max_neighbours: usize,
    contacts: Contacts,
    /// Whom we refused, and who refused us.
    refusals: Refusals,
    refused_by: Refusals,
    connections: BTreeMap<ConnectionId, Connection>,
    dials: BTreeMap<ConnectionId, Whom>,
    neighbours: Arc<Neighbours>,
    counters: Arc<Mutex<Counters>>,
    events: mpsc::Sender<MeshEvent>,
    orders: mpsc::Receiver<Order>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    resolved: (mpsc::Sender<Resolved>, mpsc::Receiver<Resolved>),
    found: mpsc::Receiver<Sighting>,
    address_changed: Arc<Notify>,
    requests: Arc<tokio::sync::Semaphore>,
}

impl Driver {
    pub(super) fn new(
        settings: MeshSettings,
        events: mpsc::Sender<MeshEvent>,
        orders: mpsc::Receiver<Order>,
        neighbours: Arc<Neighbours>,
        counters: Arc<Mutex<Counters>>,
    ) -> Result<Self, MeshError> {
        let (me, now) = (settings.identity.id(), Instant::now());
        let mut contacts = Contacts::new(me, rand::random());
        for (id, places) in &settings.known_peers {
            contacts.learn(*id, places, Source::Met, now);
        }
        for text in &settings.static_peers {
            contacts.learn_static(text.parse()?, now);
        }
        let mut seed = settings.identity.seed();
        let keypair = Keypair::ed25519_from_bytes(seed.as_mut_slice());
        let keypair = keypair.map_err(|error| MeshError::Identity(error.to_string()))?;
        let transport = transport::build(&keypair, counters.clone())?;
        let config = swarm::Config::with_tokio_executor()
            .with_max_negotiating_inbound_streams(8)
            .with_idle_connection_timeout(Duration::from_secs(60));
        let peer_id = keypair.public().to_peer_id();
        let streams = Streams::new(settings.excluded_subnets.clone());
        let mut swarm = Swarm::new(transport, streams, peer_id, config);
        let listen_port = transport::free_port(settings.listen_port)?;
        listen(&mut swarm, listen_port)?;
        let (sightings, found) = mpsc::channel(32);
        let address_changed = Arc::new(Notify::new());
        let lan_gate = watch::Sender::new(settings.gate.clone());
        if settings.mdns {
            let lan = Lan {
                me,
                gate: lan_gate.subscribe(),
                listen_port,
                selection: Selection {
                    only: settings.mdns_interfaces,
                    excluded: settings.excluded_interfaces,
                    excluded_subnets: settings.excluded_subnets,
                },
                neighbours: neighbours.clone(),
                found: sightings,
                changed: address_changed.clone(),
                counters: counters.clone(),
            };
            tokio::spawn(lan.run());
        }
        Ok(Self {
            me,
            swarm,
            gate: settings.gate,
            lan_gate,
            listen_port,
            max_neighbours: settings.max_neighbours,
            contacts,
            refusals: Refusals::default(),
            refused_by: Refusals::default(),
            connections: BTreeMap::new(),
            dials: BTreeMap::new(),
            neighbours,
            counters,
            events,
            orders,
            reports: mpsc::channel(64),
            resolved: mpsc::channel(16),
            found,
            address_changed,
            requests: Arc::new(tokio::sync::Semaphore::new(REQUESTS)),
        })
    }

    pub(super) fn listen_port(&self) -> u16 {
        self.listen_port
    }

    pub(super) async fn run(mut self) {
        let mut closed = None;
        while closed.is_none() {
            self.dial_all();
            let wake = self.poll_timeout().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                event = self.swarm.select_next_some() => self.handle_swarm_event(event),
                Some(report) = self.reports.1.recv() => self.handle_report(report),
                Some(resolved) = self.resolved.1.recv() => self.dial(resolved.dial, resolved.addresses),
                Some(sighting) = self.found.recv() => self.handle_sighting(sighting),
                Some(order) = self.orders.recv() => match order {
                    Order::Dial(locator) => self.contacts.learn_static(locator, Instant::now()),
                    Order::Gate(gate) => self.set_gate(gate),
                    Order::Close(done) => closed = Some(Some(done)),
                },
                () = self.events.closed() => closed = Some(None),
                () = sleep_until(wake.into()) => self.handle_timeout(),
            }
        }
        self.say_goodbye().await;
        if let Some(Some(done)) = closed {
            // Who asked may have lost patience.
            let _ = done.send(());
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let unproven = self.connections.values().filter_map(|connection| match connection.stage {
            Stage::Unproven(until) => Some(until),
            Stage::Proven | Stage::Up => None,
        });
        let dial = if self.has_enough() { None } else { self.contacts.poll_timeout() };
        unproven.chain(dial).min()
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        let late = self.connections.iter().filter(|(_, connection)| match connection.stage {
            Stage::Unproven(until) => until <= now,
            Stage::Proven | Stage::Up => false,
        });
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.refuse(id, Refusal::Silent);
        }
    }

    /// Whether nobody is looked for any more; whoever comes by itself is still welcome.
    fn has_enough(&self) -> bool {
        self.neighbours.len() >= neighbourhood::ENOUGH.min(self.max_neighbours)
    }

    fn is_full(&self) -> bool {
        self.neighbours.len() >= self.max_neighbours
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum is not exhaustive")]
    fn handle_swarm_event(&mut self, event: SwarmEvent<Inbound>) {
        match event {
            SwarmEvent::Behaviour(inbound) => self.handle_stream(inbound),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.handle_established(connection_id, peer_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => self.handle_closed(connection_id),
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.handle_dial_error(connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                tracing::debug!(%error, from = %send_back_addr, "an inbound connection failed");
                if let ListenError::Denied { cause } = &error
                    && cause.downcast_ref::<OverlayAddress>().is_some()
                {
                    counters::lock(&self.counters).overlay_refused += 1;
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::debug!(%address, "listening");
                self.address_changed.notify_one();
                self.contacts.handle_network_changed(Instant::now());
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                tracing::debug!(%address, "no longer listening");
                self.address_changed.notify_one();
            }
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                tracing::error!(?addresses, %error, "a listening socket is lost");
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::debug!(%error, "cannot accept a connection");
            }
            _ => {}
        }
    }

    fn handle_stream(&mut self, Inbound { connection: id, purpose, stream }: Inbound) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match purpose {
            Purpose::Link if connection.linked => {
                tracing::debug!(peer = %connection.peer, "a second link stream");
                counters::lock(&self.counters).peer_faults += 1;
            }
            Purpose::Link => {
                connection.linked = true;
                if let Some(link) = self.link(id) {
                    tokio::spawn(link.run_dialled(stream));
                }
            }
            Purpose::Packets => {
                let (from, mut announced) = (connection.peer, connection.announced.subscribe());
                let events = self.events.clone();
                tokio::spawn(async move {
                    // After `PeerUp`; not at all if it ends before.
                    if announced.wait_for(|announced| *announced).await.is_ok() {
                        let packets = PacketReader::new(stream);
                        let _ = events.send(MeshEvent::Packets { from, packets }).await;
                    }
                });
            }
            Purpose::Request(kind) => {
                let mut counters = counters::lock(&self.counters);
                counters.requests_received += 1;
                let Ok(permit) = self.requests.clone().try_acquire_owned() else {
                    counters.requests_refused += 1;
                    return;
                };
                let (from, announced) = (connection.peer, connection.announced.subscribe());
                let (events, counters) = (self.events.clone(), self.counters.clone());
                tokio::spawn(async move {
                    if let Err(error) = request::serve(stream, from, kind, announced, events).await {
                        tracing::debug!(%from, ?kind, %error, "a request was not served");
                        counters::lock(&counters).requests_refused += 1;
                    }
                    drop(permit);
                });
            }
        }
    }

    fn handle_report(&mut self, report: Report) {
        match report {
            Report::Proven(id, token) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.stage = Stage::Proven;
                    connection.token = Some(token);
                    self.refusals.forget(&connection.peer);
                    self.refused_by.forget(&connection.peer);
                }
                // The rules may have changed while it proved.
                self.end_what_the_gate_does_not_keep();
                self.count_connections();
            }
            Report::Choice { connection, chosen, place, verdict } => {
                // The link ends if its connection is gone.
                let _ = verdict.send(self.choose(connection, chosen, place));
            }
            Report::Ended(id, end) => self.handle_end(id, end),
        }
    }

    /// Ends all links and waits until the other sides know.
    async fn say_goodbye(&mut self) {
        self.neighbours.lock().clear();
        let mut open = self.connections.keys().copied().collect::<Vec<_>>();
        open.retain(|id| self.swarm.close_connection(*id));
        let all_closed = async {
            while !open.is_empty() {
                if let SwarmEvent::ConnectionClosed { connection_id, .. } =
                    self.swarm.select_next_some().await
                {
                    open.retain(|id| *id != connection_id);
                }
            }
        };
        if timeout(GOODBYE, all_closed).await.is_err() {
            tracing::debug!("some connections did not close in time");
        }
    }
}

fn listen(swarm: &mut Swarm<Streams>, port: u16) -> Result<(), MeshError> {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED));
    let tcp = |ip: IpAddr| Multiaddr::from(ip).with(Protocol::Tcp(port));
    let quic = |ip: IpAddr| Multiaddr::from(ip).with(Protocol::Udp(port)).with(Protocol::QuicV1);
    let mut listening = 0;
    let mut failures = Vec::new();
    for address in [tcp(v4), quic(v4), tcp(v6), quic(v6)] {
        match swarm.listen_on(address.clone()) {
            Ok(_) => listening += 1,
            // A host without IPv6 is none to worry about.
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    if listening == 0 {
        return Err(MeshError::Listen(failures.join(", ")));
    }
    if !failures.is_empty() {
        tracing::debug!(?failures, "not listening everywhere");
    }
    Ok(())
}
