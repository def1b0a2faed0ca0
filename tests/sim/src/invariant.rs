//! What must hold after every step, whatever goes wrong (`founding-and-roles`: "What the simulation must hold").

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use c3os::{
    config::{NetworkId, RoleSetting},
    election::{Assignment, Ballot, Certificate, ClusterId, Role},
    identity::NodeId,
    ledger::{Bounds, MAX_MESSAGE, decode},
    node::{RoleOrder, snapshot::ClusterState},
};

use crate::{errors, host::Host, model::Model, promises::Promises, schedule::is_overlay, wire, world::World};

/// What was seen so far in one run.
#[derive(Default)]
pub struct Watch {
    /// Every cluster that anybody ever pinned or held a valid certificate of.
    clusters: BTreeMap<NetworkId, BTreeSet<ClusterId>>,
    certificates: BTreeMap<[u8; 32], Option<Certificate>>,
    pinned: BTreeMap<usize, ClusterId>,
    roles: BTreeMap<usize, (ClusterId, Role, Ipv4Addr)>,
    holders: BTreeMap<(ClusterId, Ipv4Addr), NodeId>,
    promises: Promises,
    model: Model,
    /// When every ledger was last compared with the model.
    compared: Duration,
    /// Two machines with one identity: what it answers says nothing.
    pub cloned: BTreeSet<NodeId>,
    /// Who lies.
    pub liars: BTreeSet<NodeId>,
    ballots: BTreeMap<NetworkId, BTreeSet<Ballot>>,
    asked: usize,
    asked_while_cut: bool,
    pub coverage: Coverage,
}

/// How often every ledger is compared with the model.
const COMPARED: Duration = Duration::from_secs(5);

/// What a schedule came to, besides faults.
#[derive(Debug, Default, Clone, Copy)]
pub struct Coverage {
    /// Two ballots were asked for in one decree, before it was decided.
    pub competing_ballots: bool,
    /// A machine ran without knowing what it had answered, before the decree was decided.
    pub amnesiac_voter: bool,
    /// A ballot was asked for by somebody who was cut off from somebody, before the decree was decided, and the cut was
    /// mended later.
    pub healed_partition: bool,
    /// A machine lost power while a promise or a vote was half on its disk, before the decree was decided.
    pub torn_promise: bool,
    /// Somebody else than the founder led a cluster.
    pub lead_changed: bool,
    /// There were two clusters in the end.
    pub two_clusters: bool,
}

impl Watch {
    /// Looks at every machine that may have changed, and at what was sent.
    ///
    /// # Errors
    /// Which rule was broken, and by whom.
    pub fn check(&mut self, world: &mut World, rule_holds: bool) -> Result<(), String> {
        if let Some(error) = errors::take().first() {
            return Err(format!("an ERROR was logged: {error}"));
        }
        if world.counts.longest > MAX_MESSAGE {
            return Err(format!("a message of {} bytes was sent", world.counts.longest));
        }
        for (at, message) in std::mem::take(&mut world.registers_sent) {
            let host = &world.hosts[at];
            let id = host.id();
            if host.lies || self.cloned.contains(&id) {
                continue;
            }
            for entry in wire::entries_of(id, &message) {
                self.promises.handle_sent(&entry, host.is_amnesiac())?;
            }
        }
        for at in std::mem::take(&mut world.torn_promises) {
            self.coverage.torn_promise |= !self.is_decided(world.hosts[at].network_id());
        }
        for at in world.take_changed() {
            self.check_host(at, &world.hosts[at])?;
        }
        if world.elapsed() >= self.compared + COMPARED {
            self.compare(world)?;
        }
        for asked in &world.asked[self.asked..] {
            let network_id = world.hosts[asked.host].network_id();
            if !self.is_decided(network_id) {
                let ballots = self.ballots.entry(network_id.clone()).or_default();
                ballots.insert(asked.ballot);
                self.coverage.competing_ballots |= ballots.len() > 1;
                self.asked_while_cut |= asked.while_cut;
            }
        }
        self.asked = world.asked.len();
        self.coverage.healed_partition |= self.asked_while_cut && !world.is_anything_cut();
        self.coverage.two_clusters |= self.clusters.values().any(|clusters| clusters.len() > 1);
        match self.clusters.iter().find(|(_, clusters)| rule_holds && clusters.len() > 1) {
            Some((network_id, clusters)) => Err(format!("clusters of {network_id}: {clusters:?}")),
            None => Ok(()),
        }
    }

    /// Compares every ledger with what was really written.
    fn compare(&mut self, world: &World) -> Result<(), String> {
        self.compared = world.elapsed();
        let honest: BTreeSet<NodeId> = world.hosts.iter().filter(|host| !host.lies).map(Host::id).collect();
        let honest = |id: &NodeId| honest.contains(id) && !self.cloned.contains(id);
        // What was said to one of two machines with one identity, the other has not heard: it may hold less than others
        // promise it, and pass that on, until ledgers are compared. In the end all are equal.
        let ids: BTreeSet<NodeId> = world.hosts.iter().map(Host::id).collect();
        let exact = ids.len() == world.hosts.len();
        let single = world.hosts.iter().filter(|host| !self.cloned.contains(&host.id()));
        for ledger in single.filter_map(|host| Some(host.node.as_ref()?.ledger())) {
            self.model.check(ledger, honest, exact)?;
            if let Some(proof) = ledger.equivocations().find(|proof| honest(&proof.author())) {
                return Err(format!("{} gave number {} twice", proof.author(), proof.entries().0.seq()));
            }
        }
        Ok(())
    }

    fn is_decided(&self, network_id: &NetworkId) -> bool {
        self.clusters.contains_key(network_id)
    }

    fn check_host(&mut self, at: usize, host: &Host) -> Result<(), String> {
        let (Some(node), name) = (&host.node, &host.name) else { return Ok(()) };
        let ledger = node.ledger();
        self.model.handle_visible(ledger);
        let (bounds, counters) = (Bounds::default(), ledger.counters());
        if counters.bytes > bounds.bytes || counters.authors > bounds.authors + 64 {
            return Err(format!("{name} holds {} bytes of {} authors", counters.bytes, counters.authors));
        }
        for liar in &self.liars {
            let bytes: usize = ledger.of_author(*liar).map(|entry| entry.to_bytes().len()).sum();
            let keys = ledger.of_author(*liar).count();
            if *liar != ledger.id() && (bytes > bounds.provisional_bytes || keys > bounds.provisional_keys) {
                return Err(format!("{name} holds {bytes} bytes under {keys} keys of a liar"));
            }
        }
        for entry in ledger.with_prefix("certificate/") {
            let parsed = self
                .certificates
                .entry(*entry.hash())
                .or_insert_with(|| Certificate::parse(entry.value()).ok());
            if let Some(certificate) = parsed {
                let cluster = certificate.cluster();
                self.clusters.entry(cluster.network_id.clone()).or_default().insert(cluster.cluster_id);
            }
        }
        if let Some(cluster) = node.cluster_id() {
            let before = *self.pinned.entry(at).or_insert(cluster);
            if before != cluster {
                return Err(format!("{name} had pinned cluster {before} and is now in {cluster}"));
            }
            self.clusters.entry(host.network_id().clone()).or_default().insert(cluster);
        }
        self.coverage.amnesiac_voter |= host.is_amnesiac() && !self.is_decided(host.network_id());
        self.coverage.lead_changed |= host.office().is_some_and(|(office, _)| office.epoch > 1);
        match &host.order {
            Some(order) => self.check_role(at, host, order),
            None => Ok(()),
        }
    }

    fn check_role(&mut self, at: usize, host: &Host, order: &RoleOrder) -> Result<(), String> {
        let (Some(node), name, assignment) = (&host.node, &host.name, &order.assignment) else {
            return Ok(());
        };
        let key = format!("assignment/{}/{}", host.network_id(), host.id());
        let servers = host.servers();
        // Each lead writes under its own name; what an earlier one wrote stands until a later one says otherwise.
        let written = node.ledger().with_prefix(&key).filter(|entry| servers.contains(&entry.author()));
        let written: Vec<Assignment> = written.filter_map(|entry| decode(entry.value()).ok()).collect();
        if !written.contains(assignment) || node.cluster_id() != Some(assignment.cluster_id) {
            return Err(format!("{name} has the role {assignment:?} and leads wrote {written:?}"));
        }
        if assignment.role == Role::Worker && order.facts.server_token.is_some() {
            return Err(format!("{name} is a worker and has the servers' token"));
        }
        let allowed = match host.config.role {
            RoleSetting::Auto => true,
            RoleSetting::Master => assignment.role == Role::Server,
            RoleSetting::Worker => assignment.role == Role::Worker,
            RoleSetting::None => false,
        };
        if !allowed {
            return Err(format!("{name} is told {:?} and became {}", host.config.role, assignment.role));
        }
        let now = (assignment.cluster_id, assignment.role, assignment.address);
        let before = *self.roles.entry(at).or_insert(now);
        if before != now {
            return Err(format!("{name} was {before:?} and is now {now:?}"));
        }
        if !is_overlay(assignment.address) {
            return Err(format!("{name} got the address {} outside the subnet", assignment.address));
        }
        let holder = *self.holders.entry((now.0, now.2)).or_insert(host.id());
        if holder != host.id() {
            return Err(format!("{holder} and {} both hold the assigned address {}", host.id(), now.2));
        }
        Ok(())
    }

    /// Whether a cluster has to come about: it has, or enough voters know what they answered.
    pub fn must_settle(&self, world: &World) -> bool {
        let networks: BTreeSet<_> = world.hosts.iter().map(Host::network_id).collect();
        networks.into_iter().all(|network_id| {
            let sound: Vec<_> = world
                .hosts
                .iter()
                .filter(|host| host.network_id() == network_id && host.takes_a_role() && host.is_up())
                .filter(|host| !host.lies && !host.is_amnesiac())
                .collect();
            let minimum = sound.iter().filter_map(|host| host.config.minimum_nodes).max().unwrap_or(2);
            let candidates = sound.iter().any(|host| host.config.role != RoleSetting::Worker);
            self.is_decided(network_id) || (sound.len() >= usize::from(minimum) && candidates)
        })
    }

    /// Whether no two machines have one address. Two clusters that were founded while the network was cut may have
    /// assigned the same one; then both holders show it.
    fn are_addresses_distinct(&self, world: &World) -> bool {
        let mut holders: BTreeMap<Ipv4Addr, &Host> = BTreeMap::new();
        let single = world.hosts.iter().filter(|host| {
            !host.lies && !self.cloned.contains(&host.id()) && !world.banned.contains(&host.id())
        });
        single.filter_map(|host| Some((host.node.as_ref()?.lease()?.v4, host))).all(|(v4, host)| {
            holders.insert(v4, host).is_none_or(|other| {
                host.network_id() != other.network_id() && shows_a_clash(host) && shows_a_clash(other)
            })
        })
    }

    /// Whether everything is as it shall be once nothing goes wrong any more, as far as machines run.
    pub fn is_settled(&self, world: &World) -> bool {
        let takes_part = |host: &Host| !host.lies && !world.banned.contains(&host.id());
        let nodes = || world.hosts.iter().filter(|host| takes_part(host) && host.node.is_some());
        let all_run = world.hosts.iter().all(Host::is_up);
        // Who lost the lead's word with its power and finds no lead goes on with what is applied.
        let goes_on = |host: &Host| !all_run && host.disk.has_role();
        if nodes().any(|host| {
            let waits = waits_for_its_file(host) || finds_no_place(host);
            host.takes_a_role() && host.order.is_none() && !waits && !goes_on(host)
        }) {
            return false;
        }
        let mut networks = BTreeMap::<_, (BTreeSet<ClusterId>, BTreeSet<NodeId>)>::new();
        for host in nodes() {
            let Some(assignment) = host.order.as_ref().map(|order| &order.assignment) else { continue };
            let (clusters, servers) = networks.entry(host.network_id()).or_default();
            clusters.insert(assignment.cluster_id);
            if assignment.role == Role::Server {
                servers.insert(host.id());
            } else if host.order.as_ref().is_none_or(|order| order.facts.server_address.is_none()) {
                return false;
            }
        }
        let one = |(network_id, (clusters, servers)): (&&NetworkId, &(BTreeSet<_>, BTreeSet<_>))| {
            let wanted = wanted_servers(world, network_id);
            clusters.len() == 1 && (servers.len() == wanted || (!all_run && servers.len() < wanted))
        };
        let lied_to = world.hosts.iter().any(|host| host.lies && host.is_up());
        let ledgers: BTreeSet<_> =
            nodes().filter_map(|host| Some(host.node.as_ref()?.ledger().fingerprint())).collect();
        let founded = |host: &Host| {
            let state = host.node.as_ref().map(|node| node.snapshot().cluster.state);
            let expected = match (&host.order, host.takes_a_role()) {
                (Some(_), _) => ClusterState::Founded,
                (None, true) if goes_on(host) || finds_no_place(host) => ClusterState::Founded,
                (None, true) => ClusterState::Conflict,
                (None, false) => ClusterState::Observing,
            };
            state == Some(expected)
        };
        self.are_addresses_distinct(world)
            && networks.iter().all(one)
            && (lied_to || ledgers.len() == 1)
            && nodes().all(founded)
    }
}

/// How many servers there are to be in the end.
fn wanted_servers(world: &World, network_id: &NetworkId) -> usize {
    let nodes = || world.hosts.iter().filter(|host| host.network_id() == network_id && !host.lies);
    let additional = nodes().map(|host| host.config.auto.additional_servers).max().unwrap_or_default();
    let able =
        nodes().filter(|host| matches!(host.config.role, RoleSetting::Auto | RoleSetting::Master)).count();
    able.min(1 + usize::from(additional))
}

/// Whether this machine shows that another one has its address.
fn shows_a_clash(host: &Host) -> bool {
    let problems = host.node.as_ref().map(|node| node.snapshot().problems).unwrap_or_default();
    problems.iter().any(|problem| problem.what.contains("has the address"))
}

/// Whether everybody sees every cluster there is, and says so where there is another one than its own.
pub fn is_conflict_shown(world: &World) -> bool {
    let nodes = || world.hosts.iter().filter_map(|host| Some((host, host.node.as_ref()?)));
    let ledgers: BTreeSet<_> = nodes().map(|(_, node)| node.ledger().fingerprint()).collect();
    let clusters: BTreeSet<String> =
        nodes().filter_map(|(_, node)| Some(node.cluster_id()?.to_string())).collect();
    ledgers.len() == 1
        && nodes().filter(|(host, _)| host.takes_a_role()).all(|(_, node)| {
            let shown = node.snapshot().cluster;
            let others = clusters.iter().filter(|id| shown.id.as_ref() != Some(id));
            let all_named = others.clone().all(|id| shown.conflicts.iter().any(|other| other.contains(id)));
            all_named && (others.count() == 0 || shown.state == ClusterState::Conflict)
        })
}

/// A forced master that came when all places of servers were taken: it says which key to change.
fn finds_no_place(host: &Host) -> bool {
    let problems = || host.node.as_ref().map(|node| node.snapshot().problems).unwrap_or_default();
    host.config.role == RoleSetting::Master
        && host.config.auto.additional_servers > 0
        && problems().iter().any(|problem| problem.fix.contains("c3os.role"))
}

/// A forced master that was not there when another was elected: it says which key to change, and stays as it is.
fn waits_for_its_file(host: &Host) -> bool {
    host.config.role == RoleSetting::Master
        && host.node.as_ref().is_some_and(|node| {
            let cluster = node.snapshot().cluster;
            cluster.state == ClusterState::Conflict && cluster.message.contains("c3os.role")
        })
}
