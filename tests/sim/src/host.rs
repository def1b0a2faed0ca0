//! One simulated machine: a disk that survives, and a member that runs on it between boots.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use c3os::{
    address::Lease,
    config::{Config, NetworkId, RoleSetting},
    election::{Acceptor, Ballot, Bid, Campaign, ClusterId, LeaseRecord, Proposer, Register, Role},
    identity::{Identity, NodeId},
    k3s::{Applied, CaHash},
    ledger::{Write, WriteKind, decode},
    node::{Command, Event, Kept, Node, Observed, Office, RoleOrder, Settings},
    token::{Gate, KeptTokens, Keyring, MeshId, NetworkToken},
};

use crate::liar::Liar;

/// How often a driver keeps the number of the latest own entry beside the identity.
const MARK_KEPT: Duration = Duration::from_secs(30);

/// A day of the year 2026: how old a token is is counted in days.
const DAY: u64 = 20_500;

/// What a machine has on disk.
#[derive(Default, Clone)]
pub struct Disk {
    ledger: Option<Vec<u8>>,
    lease: Option<Lease>,
    applied: Option<Applied>,
    pinned: Option<Vec<u8>>,
    mark: u64,
    tokens: Option<KeptTokens>,
}

impl Disk {
    /// Whether a role is applied there.
    pub fn has_role(&self) -> bool {
        self.applied.is_some()
    }
}

/// A machine's own time: monotonic, and nobody else's.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    /// How much earlier it began than the world's.
    pub ahead: Duration,
    /// How fast it goes, in thousandths of the world's.
    pub thousandths: u32,
}

impl Clock {
    /// One that goes right, and began an hour before the world's.
    fn new(start: Instant) -> Self {
        Self { start, ahead: Duration::from_secs(3600), thousandths: 1000 }
    }

    /// What it shows at a time of the world.
    fn shows(&self, now: Instant) -> Instant {
        self.start + self.ahead + (now - self.start) * self.thousandths / 1000
    }

    /// When in the world it shows this.
    fn when(&self, shown: Instant) -> Instant {
        let since = shown.saturating_duration_since(self.start + self.ahead).as_nanos() as u64;
        self.start + Duration::from_nanos((since * 1000).div_ceil(self.thousandths.into()))
    }

    /// It stands still for so long in the world's time.
    pub fn stop(&mut self, length: Duration) {
        self.ahead = self.ahead.saturating_sub(length * self.thousandths / 1000);
    }
}

/// How a disk looks after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterCrash {
    /// Everything that was written is there.
    Kept,
    /// Of the write that was under way, this many thousandths are there.
    Torn(u16),
    /// The ledger is gone; the identity is not.
    LedgerLost,
}

/// Which of the own registers a write carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// A promise or a vote.
    Answer,
    /// A ballot.
    Ballot,
}

struct Writing {
    write: Write,
    answer: bool,
    ballot: bool,
}

/// One machine.
pub struct Host {
    pub name: String,
    pub config: Config,
    identity: Arc<Identity>,
    mesh_id: MeshId,
    /// The network token of its configuration, where schedules are about tokens.
    configured: Option<NetworkToken>,
    /// Whom it lets in, where it has a token.
    pub gate: Option<Gate>,
    pub gate_changed: bool,
    pub clock: Clock,
    pub disk: Disk,
    /// An old image of it.
    pub image: Option<Disk>,
    pub node: Option<Node>,
    /// When the member's mark is kept next.
    keeps_mark_at: Instant,
    /// A write that the member asked for and that is not on disk yet.
    writing: Option<Writing>,
    /// The last ballot that this machine asked for, as its disk has it.
    asked: Option<(Ballot, bool)>,
    /// As a server, its part in holding the Lease, since it was switched on.
    campaign: Campaign,
    /// The role order of this boot that came last.
    pub order: Option<RoleOrder>,
    pub boots: u32,
    /// It is no member like the others: it lies.
    pub lies: bool,
    liar: Option<Liar>,
    /// The last messages that came to a liar.
    pub heard: VecDeque<Vec<u8>>,
}

impl Host {
    pub fn new(number: u8, config: Config, mesh_id: MeshId, secret: u64, start: Instant) -> Self {
        let mut identity_seed = [number; 32];
        identity_seed[..8].copy_from_slice(&secret.to_be_bytes());
        Self {
            name: format!("n{number}"),
            config,
            identity: Arc::new(Identity::from_seed(&identity_seed)),
            mesh_id,
            configured: None,
            gate: None,
            gate_changed: false,
            clock: Clock::new(start),
            disk: Disk::default(),
            image: None,
            node: None,
            keeps_mark_at: start,
            writing: None,
            asked: None,
            campaign: Campaign::new(String::new()),
            order: None,
            boots: 0,
            lies: false,
            liar: None,
            heard: VecDeque::new(),
        }
    }

    /// The same machine with the identity of another one, as a copied disk makes it.
    pub fn clone_of(&mut self, other: &Self) {
        self.identity = other.identity.clone();
    }

    /// Gives it a network token.
    pub fn configure(&mut self, token: NetworkToken) {
        self.mesh_id = token.keys().mesh_id;
        self.configured = Some(token);
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.node.is_some() || self.liar.is_some()
    }

    pub fn handle_peer_up(&mut self, peer: NodeId, now: Instant) {
        let now = self.clock.shows(now);
        if let Some(node) = &mut self.node {
            node.handle_peer_up(peer, now);
        }
        if let Some(liar) = &mut self.liar {
            liar.ledger.handle_neighbour_up(peer, now);
        }
    }

    pub fn handle_peer_down(&mut self, peer: NodeId, now: Instant) {
        let now = self.clock.shows(now);
        if let Some(node) = &mut self.node {
            node.handle_peer_down(peer, now);
        }
        if let Some(liar) = &mut self.liar {
            liar.ledger.handle_neighbour_down(peer, now);
        }
    }

    /// Whether the sender did nothing wrong.
    pub fn handle_message(&mut self, from: NodeId, bytes: &[u8], now: Instant) -> bool {
        let now = self.clock.shows(now);
        if let Some(liar) = &mut self.liar {
            self.heard.push_back(bytes.to_vec());
            if self.heard.len() > 8 {
                self.heard.pop_front();
            }
            liar.handle_message(from, bytes, now);
        }
        self.node.as_mut().is_none_or(|node| node.handle_message(from, bytes, now).is_ok())
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.clock.shows(now);
        if let Some(node) = &mut self.node {
            node.handle_timeout(now);
        }
        if let Some(liar) = &mut self.liar {
            liar.handle_timeout(now);
        }
    }

    /// Others can no longer be found by waiting.
    pub fn handle_discovery_exhausted(&mut self, now: Instant) {
        let now = self.clock.shows(now);
        if let Some(node) = &mut self.node {
            node.handle_observed(Observed::DiscoveryExhausted, now);
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let timeout = match (&self.node, &self.liar) {
            (Some(node), _) => node.poll_timeout()?,
            (None, Some(liar)) => liar.ledger.poll_timeout()?,
            (None, None) => return None,
        };
        Some(self.clock.when(timeout.0))
    }

    pub fn poll_transmit(&mut self) -> Option<(NodeId, Vec<u8>)> {
        match (&mut self.node, &mut self.liar) {
            (Some(node), _) => node.poll_transmit(),
            (None, Some(liar)) => liar.ledger.poll_message(),
            (None, None) => None,
        }
    }

    pub fn network_id(&self) -> &NetworkId {
        &self.config.network_id
    }

    /// Whether it may have a role.
    pub fn takes_a_role(&self) -> bool {
        self.config.role != RoleSetting::None
    }

    /// Whether it runs and knows that it forgot what it had answered.
    pub fn is_amnesiac(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.ledger().amnesia())
    }

    pub fn id(&self) -> NodeId {
        self.identity.id()
    }

    pub fn boot(&mut self, seed: [u8; 32], now: Instant) {
        let now = self.clock.shows(now);
        if self.lies {
            self.liar = Some(Liar::new(self.identity.clone(), self.config.network_id.clone(), seed, now));
            self.boots += 1;
            return;
        }
        let settings = Settings {
            config: self.config.clone(),
            mesh_id: self.mesh_id,
            name: self.name.clone(),
            uuid: self.name.clone(),
            version: "sim".to_owned(),
            platform: "sim/sim".to_owned(),
            visitor: false,
        };
        let identity = self.identity.clone();
        let kept = Kept {
            ledger: self.disk.ledger.clone(),
            lease: self.disk.lease,
            applied: self.disk.applied.clone(),
            pinned: self.disk.pinned.clone(),
            mark: self.disk.mark,
            new_identity: self.boots == 0,
            tokens: self.keyring(),
        };
        let (mut node, _damage) = Node::new(settings, identity, kept, seed, now).expect("the subnet is fine");
        if self.configured.is_some() {
            node.handle_observed(Observed::Day(DAY), now);
            (self.gate, self.gate_changed) = (Some(node.gate().clone()), false);
        }
        self.node = Some(node);
        self.campaign = Campaign::new(self.id().to_string());
        self.keeps_mark_at = now + MARK_KEPT;
        self.boots += 1;
    }

    /// Power off at this very moment. Says whether part of a promise or a vote is on disk now, and not all of it.
    pub fn crash(&mut self, after: AfterCrash) -> bool {
        self.node = None;
        self.liar = None;
        self.order = None;
        let writing = self.writing.take();
        match (after, writing) {
            (AfterCrash::Torn(thousandths), Some(Writing { write, answer, .. }))
                if write.kind == WriteKind::Append =>
            {
                let bytes = write.bytes;
                let length = bytes.len() * usize::from(thousandths.min(1000)) / 1000;
                self.disk.ledger.get_or_insert_default().extend_from_slice(&bytes[..length]);
                answer && (1..bytes.len()).contains(&length)
            }
            (AfterCrash::LedgerLost, _) => {
                self.disk.ledger = None;
                false
            }
            (AfterCrash::Kept | AfterCrash::Torn(_), _) => false,
        }
    }

    /// Whether a crash now would tear a write.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether the write that is under way carries this.
    pub fn is_writing_own(&self, what: Carried) -> bool {
        self.writing.as_ref().is_some_and(|writing| match what {
            Carried::Answer => writing.answer,
            Carried::Ballot => writing.ballot,
        })
    }

    /// Takes the member's next write up; it is on disk when [`Host::finish_write`] is called.
    pub fn start_write(&mut self) -> bool {
        if self.writing.is_some() {
            return false;
        }
        let network_id = self.config.network_id.clone();
        let Some(node) = &mut self.node else { return false };
        let Some(write) = node.poll_write() else { return false };
        // What was said and is not visible yet is in this write: drafts are signed when a write is taken.
        let ledger = node.ledger();
        let under_way = |key: &str| {
            let held = ledger.get(ledger.id(), key).map(|entry| entry.value());
            ledger.latest(key).filter(|latest| write.must_sync && held != Some(*latest))
        };
        let answer = under_way(&Acceptor::key(&network_id))
            .and_then(|bytes| decode::<Acceptor>(bytes).ok())
            .is_some_and(|acceptor| acceptor.promised.is_some());
        let ballot = under_way(&Proposer::key(&network_id)).is_some();
        self.writing = Some(Writing { answer, ballot, write });
        true
    }

    /// The write is on disk. Says which ballot this machine asks for from now on, if that is another one than before,
    /// and whether it asks for votes.
    pub fn finish_write(&mut self, now: Instant) -> Option<(Ballot, bool)> {
        let now = self.clock.shows(now);
        let Writing { write, ballot, .. } = self.writing.take()?;
        match write.kind {
            WriteKind::Append => self.disk.ledger.get_or_insert_default().extend_from_slice(&write.bytes),
            WriteKind::Replace => self.disk.ledger = Some(write.bytes),
        }
        let node = self.node.as_mut()?;
        node.handle_written(now);
        if !ballot {
            return None;
        }
        let entry = node.ledger().get(node.id(), &Proposer::key(&self.config.network_id))?;
        let proposer = decode::<Proposer>(entry.value()).ok()?;
        let asked = Some((proposer.ballot, proposer.value.is_some()));
        if self.asked == asked {
            return None;
        }
        self.asked = asked;
        asked
    }

    /// Does what a driver does with events; applying a role always works here.
    pub fn take_events(&mut self, now: Instant) {
        let now = self.clock.shows(now);
        if let Some(node) = self.node.as_ref().filter(|_| self.keeps_mark_at <= now) {
            self.disk.mark = self.disk.mark.max(node.written_mark());
            self.keeps_mark_at = now + MARK_KEPT;
        }
        while let Some(event) = self.node.as_mut().and_then(Node::poll_event) {
            match event {
                Event::Lease(lease) => self.disk.lease = Some(lease),
                Event::Role(order) => {
                    let assignment = &order.assignment;
                    let applied = Applied {
                        role: assignment.role,
                        cluster_id: assignment.cluster_id,
                        epoch: assignment.epoch,
                        name: assignment.name.clone(),
                        address: assignment.address,
                        server: order.facts.server_address,
                    };
                    let complete =
                        self.config.auto.additional_servers == 0 || order.facts.agent_token.is_some();
                    self.order = Some(*order);
                    if complete {
                        self.apply(applied, now);
                    }
                }
                Event::Pin(certificate) => {
                    self.disk.pinned = Some(certificate.clone());
                    if let Some(node) = &mut self.node {
                        node.handle_observed(Observed::Pinned(certificate), now);
                    }
                }
                Event::Tokens(tokens) => {
                    self.disk.tokens = Some(*tokens);
                    if let Some(node) = &mut self.node {
                        node.handle_observed(Observed::TokensKept, now);
                    }
                }
                Event::Gate(gate) if self.configured.is_some() => {
                    (self.gate, self.gate_changed) = (Some(gate), true);
                }
                Event::Gate(_)
                | Event::Members(_)
                | Event::Stop
                | Event::RemoveServer { .. }
                | Event::LeaseChanged(_)
                | Event::Founded { .. }
                | Event::Liveness { .. }
                | Event::Assigned { .. } => {}
            }
        }
    }

    fn keyring(&self) -> Option<Keyring> {
        let configured = self.configured.clone()?;
        Some(match &self.disk.tokens {
            Some(kept) => Keyring::resume(configured, kept).expect("what was kept is whole"),
            None => Keyring::new(configured),
        })
    }

    /// Gets the token that replaced the one it knows.
    pub fn handle_errand(&mut self, bytes: &[u8], now: Instant) {
        let now = self.clock.shows(now);
        if let Some(node) = &mut self.node {
            // It may be no news.
            let _ = node.handle_errand(bytes, now);
        }
    }

    /// Whether it did what an operator asked for.
    pub fn handle_command(&mut self, command: Command, now: Instant) -> bool {
        let now = self.clock.shows(now);
        self.node.as_mut().is_some_and(|node| node.handle_command(command, now).is_ok())
    }

    /// Whether it has the role of a server.
    pub fn is_server(&self) -> bool {
        self.disk.applied.as_ref().is_some_and(|applied| applied.role == Role::Server)
    }

    /// The role is applied at once; k3s of a server begins to run.
    fn apply(&mut self, applied: Applied, now: Instant) {
        self.disk.applied = Some(applied.clone());
        let Some(node) = &mut self.node else { return };
        let (role, cluster_id) = (applied.role, applied.cluster_id);
        node.handle_observed(Observed::Applied(applied), now);
        if role == Role::Server && self.config.auto.additional_servers > 0 {
            let ca_hash = CaHash::of_token(&format!("K10{}::server:x", cluster_id.to_string().repeat(2)));
            let server = Observed::Server { up: true, ca_hash, version: None, lan_address: None };
            node.handle_observed(server, now);
            node.handle_observed(Observed::Voting(true), now);
        }
    }

    /// What this server has to ask its API for, and of which cluster; none if it is no server.
    pub fn office(&self) -> Option<(Office, ClusterId)> {
        let node = self.node.as_ref()?;
        Some((node.office().filter(|office| office.several)?, node.cluster_id()?))
    }

    /// The servers of its cluster, as it knows them.
    pub fn servers(&self) -> Vec<NodeId> {
        self.node.iter().flat_map(|node| node.servers_of_cluster()).collect()
    }

    /// It looked at the Lease.
    pub fn handle_lease(&mut self, found: Option<LeaseRecord>, office: &Office, now: Instant) -> Bid {
        self.campaign.handle_seen(found, office.epoch, office.ours, self.clock.shows(now))
    }

    /// Whether its write into the Lease was taken.
    pub fn handle_lease_written(&mut self, done: bool, now: Instant) {
        self.campaign.handle_written(done);
        self.tell_lease(now);
    }

    /// Tells the member whether it holds the Lease.
    pub fn tell_lease(&mut self, now: Instant) {
        let now = self.clock.shows(now);
        if let Some(node) = &mut self.node {
            node.handle_observed(Observed::Lease(self.campaign.held(now)), now);
        }
    }
}
