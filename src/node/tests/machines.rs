//! A few whole members in virtual time, with an API server for those that are servers. Messages arrive at once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::{Config, NetworkId, RoleSetting},
    election::{Bid, Campaign, LeaseRecord, RENEW_LEASE, Role},
    identity::{Identity, NodeId},
    k3s::{Applied, CaHash},
    node::{Command, Event, Kept, Node, Observed, RoleOrder, Settings, snapshot::Snapshot},
    token::MeshId,
};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// One machine.
pub(super) struct Machine {
    config: Config,
    visitor: bool,
    identity: Arc<Identity>,
    node: Option<Node>,
    ledger: Vec<u8>,
    pinned: Option<Vec<u8>>,
    applied: Option<Applied>,
    campaign: Campaign,
    /// What was said last about it.
    voting: Option<bool>,
    starts: u16,
    /// What the last start found damaged; none while nobody tampered with the disk.
    pub(super) damage: Vec<String>,
    tampered: bool,
    /// The role that was ordered last.
    pub(super) order: Option<RoleOrder>,
    /// Was told to run nothing.
    pub(super) stopped: bool,
    /// As a server, its k3s gets Ready and votes.
    pub(super) well: bool,
    side: usize,
}

/// All machines, their clock and the clusters' databases.
pub(super) struct World {
    pub(super) machines: Vec<Machine>,
    pub(super) now: Instant,
    /// The Lease of each cluster, by the CA of its servers, with the number of its last change.
    leases: BTreeMap<String, (LeaseRecord, u64)>,
    next_round: Instant,
    /// Nodes that were let go of, by the name in Kubernetes.
    pub(super) let_go: Vec<String>,
}

pub(super) fn config() -> Config {
    Config { minimum_nodes: Some(2), ..Config::default() }
}

pub(super) fn with_servers(additional: u16) -> Config {
    let mut config = config();
    config.auto.additional_servers = additional;
    config
}

impl World {
    pub(super) fn new(configs: impl IntoIterator<Item = Config>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant will do: only differences count")]
        let now = Instant::now();
        let mut world =
            Self { machines: Vec::new(), now, leases: BTreeMap::new(), next_round: now, let_go: Vec::new() };
        for config in configs {
            world.add(config);
        }
        world
    }

    /// Switches on one more machine; its number.
    pub(super) fn add(&mut self, config: Config) -> usize {
        self.add_as(config, false)
    }

    /// Adds a laptop.
    pub(super) fn add_visitor(&mut self) -> usize {
        self.add_as(Config::default(), true)
    }

    fn add_as(&mut self, config: Config, visitor: bool) -> usize {
        let n = self.machines.len();
        let identity = Arc::new(Identity::from_seed(&[n as u8 + 1; 32]));
        self.machines.push(Machine {
            config,
            visitor,
            campaign: Campaign::new(identity.id().to_string()),
            identity,
            voting: None,
            node: None,
            ledger: Vec::new(),
            pinned: None,
            applied: None,
            starts: 0,
            damage: Vec::new(),
            tampered: false,
            order: None,
            stopped: false,
            well: true,
            side: 0,
        });
        self.start(n);
        n
    }

    pub(super) fn start(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        machine.starts += 1;
        let settings = Settings {
            config: machine.config.clone(),
            mesh_id: MeshId::from_bytes([1; 32]),
            name: format!("n{n}"),
            uuid: format!("n{n}"),
            version: "test".to_owned(),
            platform: "test/test".to_owned(),
            visitor: machine.visitor,
        };
        let kept = Kept {
            ledger: (machine.starts > 1).then(|| machine.ledger.clone()),
            new_identity: machine.starts == 1,
            pinned: machine.pinned.clone(),
            lease: None,
            applied: machine.applied.clone(),
            ..Kept::default()
        };
        let mut seed = [n as u8; 32];
        seed[..2].copy_from_slice(&machine.starts.to_be_bytes());
        let (node, damage) =
            Node::new(settings, machine.identity.clone(), kept, seed, self.now).expect("the subnet is fine");
        assert!(machine.tampered || damage.is_empty(), "{damage:?}");
        (machine.damage, machine.node) = (damage, Some(node));
        (machine.order, machine.stopped, machine.voting) = (None, false, None);
        self.observe(n, Observed::DiscoveryExhausted);
        self.connect(n);
    }

    /// The machine's file was changed, and its agent started anew.
    pub(super) fn restart_with(&mut self, n: usize, config: Config) {
        self.kill(n);
        self.machines[n].config = config;
        self.start(n);
    }

    /// Changes a machine's ledger file, and its certificate's, while it is off.
    pub(super) fn tamper(&mut self, n: usize, with: impl FnOnce(&mut Vec<u8>, &mut Option<Vec<u8>>)) {
        let machine = &mut self.machines[n];
        machine.tampered = true;
        with(&mut machine.ledger, &mut machine.pinned);
    }

    pub(super) fn kill(&mut self, n: usize) {
        self.machines[n].node = None;
        let id = self.id(n);
        self.each(|node, now| node.handle_peer_down(id, now));
    }

    /// Puts machines on sides that do not hear each other.
    pub(super) fn split(&mut self, sides: &[usize]) {
        for (machine, side) in self.machines.iter_mut().zip(sides) {
            machine.side = *side;
        }
        for a in 0..sides.len() {
            for b in 0..sides.len() {
                if sides[a] != sides[b] {
                    let (id, now) = (self.id(b), self.now);
                    if let Some(node) = &mut self.machines[a].node {
                        node.handle_peer_down(id, now);
                    }
                }
            }
        }
        (0..self.machines.len()).for_each(|n| self.connect(n));
    }

    fn connect(&mut self, n: usize) {
        for other in (0..self.machines.len()).filter(|other| *other != n) {
            let (a, b) = (&self.machines[n], &self.machines[other]);
            if a.node.is_none() || b.node.is_none() || a.side != b.side {
                continue;
            }
            let (ids, now) = ([self.id(n), self.id(other)], self.now);
            for (this, that) in [(n, ids[1]), (other, ids[0])] {
                if let Some(node) = &mut self.machines[this].node {
                    node.handle_peer_up(that, now);
                }
            }
        }
    }

    fn each(&mut self, mut what: impl FnMut(&mut Node, Instant)) {
        for machine in &mut self.machines {
            if let Some(node) = &mut machine.node {
                what(node, self.now);
            }
        }
    }

    pub(super) fn id(&self, n: usize) -> NodeId {
        self.machines[n].identity.id()
    }

    pub(super) fn number(&self, id: NodeId) -> usize {
        (0..self.machines.len()).find(|n| self.id(*n) == id).expect("one of them")
    }

    pub(super) fn observe(&mut self, n: usize, observed: Observed) {
        let now = self.now;
        if let Some(node) = &mut self.machines[n].node {
            node.handle_observed(observed, now);
        }
    }

    pub(super) fn command(&mut self, n: usize, command: Command) -> Result<(), String> {
        let now = self.now;
        self.machines[n].node.as_mut().expect("it is up").handle_command(command, now)
    }

    pub(super) fn node(&self, n: usize) -> &Node {
        self.machines[n].node.as_ref().expect("it is up")
    }

    pub(super) fn snapshot(&self, n: usize) -> Snapshot {
        self.node(n).snapshot()
    }

    /// The numbers of the machines with a role, as machine `n` sees it.
    pub(super) fn with_role(&self, n: usize, role: Role) -> Vec<usize> {
        let members = self.snapshot(n).members.into_iter().filter(|member| member.role == Some(role));
        let mut numbers: Vec<usize> = members.map(|member| self.number(member.id)).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The servers of `n`'s cluster, in the order in which they became it.
    pub(super) fn servers(&self, n: usize) -> Vec<usize> {
        self.snapshot(n).cluster.servers.into_iter().map(|id| self.number(id)).collect()
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let timeouts = self.machines.iter().filter_map(|machine| machine.node.as_ref()?.poll_timeout());
            let round = Some(self.next_round).filter(|_| self.has_api());
            let Some(next) = timeouts.map(|(at, _)| at).chain(round).min().filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = next.max(self.now + Duration::from_millis(1));
            self.each(|node, now| {
                if node.poll_timeout().is_some_and(|(at, _)| at <= now) {
                    node.handle_timeout(now);
                }
            });
            if self.now >= self.next_round {
                self.next_round = self.now + RENEW_LEASE;
                (0..self.machines.len()).for_each(|n| self.ask_api(n));
            }
        }
    }

    /// Whether somewhere there is a Lease to ask for.
    fn has_api(&self) -> bool {
        let offices = self.machines.iter().filter_map(|machine| machine.node.as_ref()?.office());
        offices.into_iter().any(|office| office.several)
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut idle = true;
            for n in 0..self.machines.len() {
                idle &= !self.step(n);
            }
            if idle {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn step(&mut self, n: usize) -> bool {
        let now = self.now;
        let Some(node) = &mut self.machines[n].node else { return false };
        if let Some(write) = node.poll_write() {
            match write.kind {
                crate::ledger::WriteKind::Append => self.machines[n].ledger.extend(write.bytes),
                crate::ledger::WriteKind::Replace => self.machines[n].ledger = write.bytes,
            }
            self.machines[n].node.as_mut().expect("it is up").handle_written(now);
            return true;
        }
        if let Some((to, bytes)) = node.poll_transmit() {
            let (from, to) = (self.id(n), self.number(to));
            if self.machines[to].side == self.machines[n].side
                && let Some(node) = &mut self.machines[to].node
            {
                node.handle_message(from, &bytes, now).expect("an honest message");
            }
            return true;
        }
        let Some(event) = node.poll_event() else { return false };
        match event {
            Event::Pin(bytes) => {
                self.machines[n].pinned = Some(bytes.clone());
                self.observe(n, Observed::Pinned(bytes));
            }
            Event::Role(order) => self.apply(n, *order),
            Event::Stop => (self.machines[n].stopped, self.machines[n].order) = (true, None),
            Event::RemoveServer { node, name } => {
                self.let_go.push(name);
                self.observe(n, Observed::ServerRemoved(node));
            }
            Event::Tokens(_)
            | Event::Gate(_)
            | Event::Lease(_)
            | Event::LeaseChanged(_)
            | Event::Members(_)
            | Event::Founded { .. }
            | Event::Liveness { .. }
            | Event::Assigned { .. } => {}
        }
        true
    }

    /// The role is applied at once; k3s of a server begins to run.
    fn apply(&mut self, n: usize, order: RoleOrder) {
        let assignment = &order.assignment;
        let applied = Applied {
            role: assignment.role,
            cluster_id: assignment.cluster_id,
            epoch: assignment.epoch,
            name: assignment.name.clone(),
            address: assignment.address,
            server: order.facts.server_address,
        };
        let machine = &mut self.machines[n];
        let complete = order.facts.agent_token.is_some();
        let is_new =
            machine.applied.as_ref().is_none_or(|old| old.role != applied.role || order.leaves.is_some());
        machine.order = Some(order);
        if !complete {
            return;
        }
        machine.applied = Some(applied.clone());
        self.observe(n, Observed::Applied(applied.clone()));
        if applied.role == Role::Server && is_new {
            self.serve(n);
        }
    }

    /// k3s of a server is up.
    pub(super) fn serve(&mut self, n: usize) {
        let Some(cluster_id) = self.node(n).cluster_id() else { return };
        let ca_hash = CaHash::of_token(&format!("K10{}::server:x", cluster_id.to_string().repeat(2)));
        assert!(ca_hash.is_some(), "64 digits");
        self.observe(n, Observed::Server { up: true, ca_hash, version: None, lan_address: None });
    }

    /// What the daemon's clerk does every few seconds, against one database for each cluster.
    fn ask_api(&mut self, n: usize) {
        let now = self.now;
        let Some(node) = &self.machines[n].node else { return };
        let (Some(office), Some(cluster_id)) = (node.office(), node.cluster_id()) else { return };
        if !office.several || self.machines[n].stopped {
            return;
        }
        let servers = self.servers(n);
        let together = servers.iter().filter(|other| {
            let other = &self.machines[**other];
            other.node.is_some() && other.side == self.machines[n].side
        });
        let together = together.count();
        let machine = &mut self.machines[n];
        // etcd answers only where its majority is.
        if together * 2 > servers.len() {
            let held = self.leases.get(&cluster_id.to_string()).cloned();
            let record = held.as_ref().map(|(record, _)| record.clone());
            if let Bid::Write { transitions } =
                machine.campaign.handle_seen(record, office.epoch, office.ours, now)
            {
                let version = held.map_or(0, |(_, version)| version) + 1;
                let record = LeaseRecord {
                    holder: machine.identity.id().to_string(),
                    transitions,
                    renewed: version.to_string(),
                };
                self.leases.insert(cluster_id.to_string(), (record, version));
                machine.campaign.handle_written(true);
            }
        }
        let (lease, well) = (machine.campaign.held(now), machine.well);
        if machine.voting.replace(well) != Some(well) {
            self.observe(n, Observed::Voting(well));
        }
        self.observe(n, Observed::Lease(lease));
    }

    /// Another network id, with everything else the same.
    pub(super) fn in_network(id: &str, config: Config) -> Config {
        Config { network_id: id.parse::<NetworkId>().expect("a network id"), ..config }
    }

    pub(super) fn with_role_setting(role: RoleSetting, config: Config) -> Config {
        Config { role, ..config }
    }
}
