//! Members, their disks, and the connections that their gates let come up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::{Config, RoleSetting},
    election::Role,
    identity::{Identity, NodeId},
    k3s::Applied,
    node::{Command, Event, Kept, Node, Observed, Settings, snapshot::Phase},
    token::{Gate, KeptTokens, Keyring, NetworkToken, Verdict},
};

/// A day of the year 2026.
pub(super) const DAY: u64 = 20_500;

/// One machine.
pub(super) struct Host {
    identity: Arc<Identity>,
    config: Config,
    node: Option<Node>,
    configured: NetworkToken,
    pub(super) tokens: Option<KeptTokens>,
    ledger: Option<Vec<u8>>,
    pinned: Option<Vec<u8>>,
    lease: Option<crate::address::Lease>,
    applied: Option<Applied>,
    pub(super) gate: Gate,
    visitor: bool,
    /// Whether its disk takes new tokens.
    pub(super) keeps: bool,
    pub(super) orders: Vec<Role>,
    pub(super) agent_tokens: BTreeSet<String>,
    pub(super) server_tokens: BTreeSet<String>,
}

/// All machines, and a clock.
pub(super) struct World {
    pub(super) hosts: Vec<Host>,
    now: Instant,
    /// Connected machines, and the token that they proved to each other.
    links: BTreeMap<(usize, usize), [u8; 8]>,
    seed: u8,
}

pub(super) fn token() -> NetworkToken {
    NetworkToken::generate(&[1; 160], Vec::new()).expect("no peers")
}

impl World {
    /// `nodes` machines that have founded a cluster; the first one leads it.
    pub(super) fn founded(nodes: usize) -> Self {
        // Any moment will do: time is an argument.
        #[expect(clippy::disallowed_methods, reason = "where virtual time starts")]
        let now = Instant::now();
        let mut world = Self { hosts: Vec::new(), now, links: BTreeMap::new(), seed: 0 };
        for n in 0..nodes {
            let role = if n == 0 { RoleSetting::Master } else { RoleSetting::Worker };
            let minimum = u16::try_from(nodes / 2 + 1).expect("a few");
            let config = Config { role, minimum_nodes: Some(minimum), ..Config::default() };
            world.add(config, token(), false);
        }
        world.run_until("a role for everybody", |world| {
            let roles = world.node(0).snapshot().members;
            roles.len() == nodes && roles.iter().all(|member| member.role.is_some())
        });
        world
    }

    /// Adds a machine and switches it on.
    pub(super) fn add(&mut self, config: Config, configured: NetworkToken, visitor: bool) -> usize {
        let number = u8::try_from(self.hosts.len() + 1).expect("a few");
        self.hosts.push(Host {
            identity: Arc::new(Identity::from_seed(&[number; 32])),
            config,
            node: None,
            configured,
            tokens: None,
            ledger: None,
            pinned: None,
            lease: None,
            applied: None,
            gate: Gate::default(),
            visitor,
            keeps: true,
            orders: Vec::new(),
            agent_tokens: BTreeSet::new(),
            server_tokens: BTreeSet::new(),
        });
        let at = self.hosts.len() - 1;
        self.boot(at, true);
        at
    }

    /// Adds a machine that is configured as a worker.
    pub(super) fn add_worker(&mut self, configured: NetworkToken) -> usize {
        self.add(Config { role: RoleSetting::Worker, ..Config::default() }, configured, false)
    }

    pub(super) fn boot(&mut self, at: usize, new_identity: bool) {
        self.seed += 1;
        let host = &mut self.hosts[at];
        let tokens = match &host.tokens {
            Some(kept) => Keyring::resume(host.configured.clone(), kept).expect("tokens"),
            None => Keyring::new(host.configured.clone()),
        };
        let settings = Settings {
            config: host.config.clone(),
            mesh_id: host.configured.keys().mesh_id,
            name: format!("n{}", at + 1),
            uuid: format!("n{}", at + 1),
            version: "test".to_owned(),
            platform: "test/test".to_owned(),
            visitor: host.visitor,
        };
        let kept = Kept {
            ledger: host.ledger.clone(),
            new_identity,
            pinned: host.pinned.clone(),
            lease: host.lease,
            applied: host.applied.clone(),
            tokens: Some(tokens),
            mark: 0,
        };
        let (mut node, _) =
            Node::new(settings, host.identity.clone(), kept, [self.seed; 32], self.now).expect("a subnet");
        node.handle_observed(Observed::Day(DAY), self.now);
        node.handle_observed(Observed::DiscoveryExhausted, self.now);
        host.node = Some(node);
    }

    /// Cuts the power.
    pub(super) fn kill(&mut self, at: usize) {
        self.hosts[at].node = None;
        for other in 0..self.hosts.len() {
            self.unlink(at.min(other), at.max(other));
        }
    }

    pub(super) fn node(&self, at: usize) -> &Node {
        self.hosts[at].node.as_ref().expect("it is on")
    }

    pub(super) fn id(&self, at: usize) -> NodeId {
        self.hosts[at].identity.id()
    }

    pub(super) fn command(&mut self, at: usize, command: Command) -> Result<(), String> {
        let now = self.now;
        self.hosts[at].node.as_mut().expect("it is on").handle_command(command, now)
    }

    /// Whether two machines are connected.
    pub(super) fn linked(&self, a: usize, b: usize) -> bool {
        self.links.contains_key(&(a.min(b), a.max(b)))
    }

    /// The number of the token that a machine uses.
    pub(super) fn uses(&self, at: usize) -> u32 {
        self.node(at).tokens().expect("it has one").number()
    }

    pub(super) fn phase(&self, at: usize) -> Option<Phase> {
        self.node(at).snapshot().rotation.map(|rotation| rotation.phase)
    }

    /// Lets time pass until `done`, for two minutes at most; how long it took.
    pub(super) fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.now;
        for _ in 0..100_000 {
            self.settle();
            if done(self) {
                return self.now - begin;
            }
            let due = self
                .hosts
                .iter()
                .filter_map(|host| host.node.as_ref()?.poll_timeout())
                .map(|(at, _)| at)
                .min();
            let tick = self.now + Duration::from_millis(50);
            self.now = due.map_or(tick, |due| due.clamp(self.now, tick));
            let now = self.now;
            for host in &mut self.hosts {
                if let Some(node) = &mut host.node
                    && node.poll_timeout().is_some_and(|(at, _)| at <= now)
                {
                    node.handle_timeout(now);
                }
            }
            assert!(self.now - begin < Duration::from_secs(120), "waited two minutes for: {what}");
        }
        panic!("nothing moves while waiting for: {what}");
    }

    /// Lets so much time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until("time to pass", |world| world.now >= end);
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut idle = true;
            for at in 0..self.hosts.len() {
                idle &= !self.drive(at);
            }
            self.meet();
            if idle {
                return;
            }
        }
    }

    /// Does what the driver of a machine does; whether there was anything.
    fn drive(&mut self, at: usize) -> bool {
        let now = self.now;
        let mut busy = false;
        let mut out = Vec::new();
        let host = &mut self.hosts[at];
        let Some(node) = &mut host.node else { return false };
        while let Some(write) = node.poll_write() {
            busy = true;
            match write.kind {
                crate::ledger::WriteKind::Append => {
                    host.ledger.get_or_insert_default().extend_from_slice(&write.bytes);
                }
                crate::ledger::WriteKind::Replace => host.ledger = Some(write.bytes),
            }
            node.handle_written(now);
        }
        while let Some(message) = node.poll_transmit() {
            out.push(message);
        }
        while let Some(event) = node.poll_event() {
            busy = true;
            match event {
                Event::Lease(lease) => host.lease = Some(lease),
                Event::Pin(certificate) => {
                    host.pinned = Some(certificate.clone());
                    node.handle_observed(Observed::Pinned(certificate), now);
                }
                Event::Tokens(kept) if host.keeps => {
                    host.tokens = Some(*kept);
                    node.handle_observed(Observed::TokensKept, now);
                }
                Event::Gate(gate) => host.gate = gate,
                Event::Role(order) => {
                    host.orders.push(order.assignment.role);
                    let secret = |secret: &Option<crate::k3s::Secret>| {
                        secret.as_ref().map(|secret| secret.reveal().to_owned())
                    };
                    host.agent_tokens.extend(secret(&order.facts.agent_token));
                    host.server_tokens.extend(secret(&order.facts.server_token));
                }
                Event::Tokens(_)
                | Event::LeaseChanged(_)
                | Event::Members(_)
                | Event::Founded { .. }
                | Event::Liveness { .. }
                | Event::Stop
                | Event::RemoveServer { .. }
                | Event::Assigned { .. } => {}
            }
        }
        let from = self.id(at);
        for (to, bytes) in out {
            busy = true;
            let Some(to) = (0..self.hosts.len()).find(|other| self.id(*other) == to) else { continue };
            if self.linked(at, to)
                && let Some(node) = &mut self.hosts[to].node
            {
                let _ = node.handle_message(from, &bytes, now);
            }
        }
        busy
    }

    /// Brings up and ends connections as admission would.
    fn meet(&mut self) {
        for a in 0..self.hosts.len() {
            for b in a + 1..self.hosts.len() {
                let on = |at: usize| self.hosts[at].node.is_some();
                if let Some(token) = self.links.get(&(a, b)) {
                    let keeps = |a: usize, b: usize| self.hosts[a].gate.keeps(&self.id(b), token);
                    if !(on(a) && on(b) && keeps(a, b) && keeps(b, a)) {
                        self.unlink(a, b);
                    }
                    continue;
                }
                let Some((token, verdicts)) = self.verdicts(a, b) else { continue };
                match verdicts {
                    (Verdict::Member, Verdict::Member) => self.link(a, b, token),
                    (Verdict::Errand, Verdict::Member) => self.run_errand(a, b),
                    (Verdict::Member, Verdict::Errand) => self.run_errand(b, a),
                    (Verdict::Refused | Verdict::Errand, _) | (_, Verdict::Refused) => {}
                }
            }
        }
    }

    /// What each thinks of the other, by the token that the one who is dialled prefers; none without a common one.
    fn verdicts(&self, a: usize, b: usize) -> Option<([u8; 8], (Verdict, Verdict))> {
        let (one, other) = (&self.hosts[a], &self.hosts[b]);
        (one.node.is_some() && other.node.is_some()).then_some(())?;
        let knows = |gate: &Gate, id: &[u8; 8]| gate.tokens().any(|token| token.token_id == *id);
        let token = other.gate.tokens().map(|token| token.token_id).find(|id| knows(&one.gate, id))?;
        Some((token, (one.gate.judge(&self.id(b), &token), other.gate.judge(&self.id(a), &token))))
    }

    fn run_errand(&mut self, giver: usize, taker: usize) {
        let (now, peer) = (self.now, self.id(taker));
        let bytes = self.hosts[giver].node.as_ref().and_then(|node| node.errand_for(peer));
        if let Some(bytes) = bytes
            && let Some(node) = &mut self.hosts[taker].node
        {
            // It may be no news.
            let _ = node.handle_errand(&bytes, now);
        }
    }

    fn link(&mut self, a: usize, b: usize, token: [u8; 8]) {
        if self.links.insert((a, b), token).is_none() {
            let (now, ids) = (self.now, (self.id(a), self.id(b)));
            self.hosts[a].node.as_mut().expect("on").handle_peer_up(ids.1, now);
            self.hosts[b].node.as_mut().expect("on").handle_peer_up(ids.0, now);
        }
    }

    fn unlink(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a, b)).is_some() {
            let (now, ids) = (self.now, (self.id(a), self.id(b)));
            for (at, peer) in [(a, ids.1), (b, ids.0)] {
                if let Some(node) = &mut self.hosts[at].node {
                    node.handle_peer_down(peer, now);
                }
            }
        }
    }

    /// The roles that a machine knows, by name.
    pub(super) fn roles(&self, at: usize) -> BTreeMap<String, Option<Role>> {
        let members = self.node(at).snapshot().members;
        members.into_iter().map(|member| (member.name, member.role)).collect()
    }
}
