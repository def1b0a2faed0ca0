//! Roles after founding: one writer, the lead, gives every node a role, an address and a name, once.
//!
//! ```text
//! unassigned -- live, with an address --> worker
//!      |                                    |  asked for (`role set`, `role: master`), a place free
//!      +-- a place free, its turn --> server <+
//! ```
//! A place is free while there are fewer servers than the certificate wants; its turn is when every server so far is
//! ready. What was given is never taken back here: address and name are frozen, and no server becomes a worker. A server
//! that is taken off the list of servers ([`replaceable`]) leaves its place to another.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::{Assignment, Cluster, Datastore, Role, Servers};
use crate::{address::Pool, config::RoleSetting, identity::NodeId};

/// etcd's members answer each other within a heartbeat of 100 ms, else it holds elections all the time.
const LONGEST_ROUND_TRIP: Duration = Duration::from_millis(100);

/// What the lead knows when it assigns.
#[derive(Debug, Clone)]
pub struct RolesView {
    /// The pinned cluster.
    pub cluster: Cluster,
    /// The lead's epoch; 1 as long as the founder leads.
    pub epoch: u64,
    /// The list of servers that stands.
    pub servers: Servers,
    /// `c3os.vpn.subnet`.
    pub pool: Pool,
    /// The nodes of this network id, the lead included. Observers may be left out; they get nothing.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// What stands already, as [`super::Reign::standing`] reads it.
    pub assigned: BTreeMap<NodeId, Assignment>,
}

/// What the lead knows of one node.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Its host name.
    pub name: String,
    /// `c3os.role` in its file.
    pub role: RoleSetting,
    /// It belongs to another cluster, only joins another one, or its file is broken: it gets nothing.
    pub abstains: bool,
    /// What an operator asked for with `c3os role set`.
    pub requested: Option<Role>,
    /// Can be reached.
    pub live: bool,
    /// The address it claims, if nobody contests it.
    pub address: Option<Ipv4Addr>,
    /// As a server: k3s is ready, and a voting member where the datastore has such.
    pub server_ready: bool,
    /// Between it and the founder, if measured.
    pub round_trip: Option<Duration>,
}

/// Why an operator's `c3os role set` cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nobody of that id.
    #[error("no node of this cluster has that id; `c3os node list` shows them")]
    Unknown,
    /// Its own file says otherwise.
    #[error("the node's own file forces its role; change `c3os.role` there")]
    Forced,
    /// One server is all the datastore takes.
    #[error(
        "the cluster has one server and cannot take another; `c3os.auto.ha.master_nodes` has to be set before it is founded"
    )]
    OneServer,
    /// All places are taken.
    #[error("the cluster has all its {servers} servers; remove one first")]
    Full {
        /// How many it wants.
        servers: u16,
    },
    /// A server stays one.
    #[error("a server is not made a worker; remove it with `c3os node remove` and let it join again")]
    IsServer,
    /// It was a server, and another one has its place.
    #[error("it was a server and was replaced; `c3os reset` makes it a new machine")]
    WasServer,
}

/// Why something that an operator asked for does not hold yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Pending {
    /// The lead may not write now.
    #[error(
        "the lead cannot write now: it does not hold the cluster's lease, so k3s' API server or its etcd is not well"
    )]
    NoLease,
    /// Servers join one at a time.
    #[error("servers join one at a time, and these are not ready yet: {}", .0.join(", "))]
    Servers(Vec<String>),
    /// The node itself.
    #[error("the node is away, has no address yet, or takes no role")]
    Node,
    /// Too far for etcd.
    #[error("its round trip of {} ms is too long for etcd, which wants {} ms at most", .0.as_millis(), LONGEST_ROUND_TRIP.as_millis())]
    TooFar(Duration),
}

/// A node's own file and the lead disagree. Nothing changes on that node until they agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster made this machine a {assigned}, but its `c3os.role` says otherwise; change or remove `c3os.role`"
)]
pub struct Clash {
    /// What the lead wrote.
    pub assigned: Role,
}

/// The role that a node applies, given its own file; none while it has none.
///
/// # Errors
/// [`Clash`] if the file forces another role than was assigned.
pub fn desired(setting: RoleSetting, assignment: Option<&Assignment>) -> Result<Option<Role>, Clash> {
    let Some(assigned) = assignment.map(|assignment| assignment.role) else { return Ok(None) };
    let agreed = match setting {
        RoleSetting::Auto => true,
        RoleSetting::Master => assigned == Role::Server,
        RoleSetting::Worker => assigned == Role::Worker,
        RoleSetting::None => false,
    };
    if agreed { Ok(Some(assigned)) } else { Err(Clash { assigned }) }
}

/// Whether the lead can do what an operator asks for, now or when its turn comes.
///
/// # Errors
/// [`RequestError`] says why not.
pub fn check(view: &RolesView, node: &NodeId, role: Role) -> Result<(), RequestError> {
    let known = view.nodes.get(node).ok_or(RequestError::Unknown)?;
    let assigned = view.assigned.get(node).map(|assignment| assignment.role);
    match (known.role, role) {
        (RoleSetting::None, _)
        | (RoleSetting::Master, Role::Worker)
        | (RoleSetting::Worker, Role::Server) => return Err(RequestError::Forced),
        (RoleSetting::Auto, _)
        | (RoleSetting::Master, Role::Server)
        | (RoleSetting::Worker, Role::Worker) => {}
    }
    match (assigned, role) {
        _ if view.servers.was_removed(node) => Err(RequestError::WasServer),
        (Some(Role::Server), Role::Server) | (Some(Role::Worker) | None, Role::Worker) => Ok(()),
        (Some(Role::Server), Role::Worker) => Err(RequestError::IsServer),
        (Some(Role::Worker) | None, Role::Server) if view.free_places() > 0 => Ok(()),
        (Some(Role::Worker) | None, Role::Server) => Err(match view.cluster.datastore {
            Datastore::Sqlite => RequestError::OneServer,
            Datastore::Etcd | Datastore::External => RequestError::Full { servers: view.cluster.servers },
        }),
    }
}

/// Why a role that [`check`] allows is not assigned yet.
pub fn pending(view: &RolesView, node: &NodeId, role: Role) -> Pending {
    let waits: Vec<String> = view
        .servers
        .current()
        .iter()
        .filter(|id| view.nodes.get(id).is_none_or(|node| !node.server_ready))
        .map(|id| view.nodes.get(id).map_or_else(|| id.short(), |node| node.name.clone()))
        .collect();
    let round_trip = view.nodes.get(node).and_then(|node| node.round_trip);
    match (role, round_trip) {
        (Role::Server, Some(round_trip)) if round_trip > LONGEST_ROUND_TRIP => Pending::TooFar(round_trip),
        (Role::Server, _) if !waits.is_empty() => Pending::Servers(waits),
        (Role::Server | Role::Worker, _) => Pending::Node,
    }
}

/// The server that may be taken off the list now, so that another takes its place: the one that is away for longest.
///
/// `away` is since when servers are away, `after` how long that has to be. Only while the servers that are left are a
/// majority of all, and all of them ready: etcd loses no member while it may need it.
pub fn replaceable(
    view: &RolesView,
    away: &BTreeMap<NodeId, Instant>,
    after: Duration,
    now: Instant,
) -> Option<NodeId> {
    let servers = view.servers.current();
    let (here, gone): (Vec<&NodeId>, Vec<&NodeId>) =
        servers.iter().partition(|id| view.nodes.get(id).is_some_and(|node| node.live));
    let ready = here.iter().all(|id| view.nodes[*id].server_ready);
    if here.len() * 2 <= servers.len() || !ready {
        return None;
    }
    let since = |id: &&&NodeId| away.get(**id).copied().filter(|since| now >= *since + after);
    let due = gone.iter().filter(|id| since(id).is_some());
    due.min_by_key(|id| (since(id), ***id)).map(|id| **id)
}

/// What the lead writes next: only what is new. At most one new server at a time.
pub fn assign(view: &RolesView) -> Vec<Assignment> {
    let mut given = Given::new(view);
    let founder = view.cluster.founder;
    let mut new = Vec::new();
    if !view.assigned.contains_key(&founder) {
        new.extend(given.give(view, founder, Role::Server));
    }
    let mut line = if view.assigned.contains_key(&founder) { view.line() } else { Vec::new() };
    line.truncate(view.free_places());
    if let Some(next) = line.first().filter(|_| view.servers_ready()) {
        new.extend(given.give(view, *next, Role::Server));
    }
    let waits = |id: &NodeId| line.contains(id) || view.may_wait_for_a_place(id);
    for (&id, node) in &view.nodes {
        let takes_work = match node.role {
            RoleSetting::Worker => true,
            RoleSetting::Auto => node.requested == Some(Role::Worker) || !waits(&id),
            RoleSetting::Master | RoleSetting::None => false,
        };
        let is_new = id != founder && !view.assigned.contains_key(&id) && !view.servers.was_removed(&id);
        if is_new && takes_work && node.live && !node.abstains {
            new.extend(given.give(view, id, Role::Worker));
        }
    }
    new
}

impl RolesView {
    /// Who is or is about to be a server: on the list, or assigned and not listed yet.
    fn servers(&self) -> impl Iterator<Item = &NodeId> {
        let assigned = self.assigned.iter().filter(|(_, assignment)| assignment.role == Role::Server);
        assigned.map(|(id, _)| id).filter(|id| !self.servers.was_removed(id))
    }

    /// How many more servers the cluster takes. Until the founder has its role, its own place counts as taken.
    fn free_places(&self) -> usize {
        let founder = usize::from(!self.servers.was_removed(&self.cluster.founder));
        let servers = self.servers().filter(|id| **id != self.cluster.founder).count() + founder;
        match self.cluster.datastore {
            Datastore::Sqlite => 0,
            Datastore::Etcd | Datastore::External => {
                usize::from(self.cluster.servers).saturating_sub(servers)
            }
        }
    }

    fn servers_ready(&self) -> bool {
        self.servers().all(|id| self.nodes.get(id).is_some_and(|node| node.server_ready))
    }

    /// Whether this node may become a server, its turn aside.
    fn may_serve(&self, id: &NodeId) -> bool {
        let Some(node) = self.nodes.get(id) else { return false };
        let asked = node.requested == Some(Role::Server) || node.role == RoleSetting::Master;
        let allowed = match node.role {
            RoleSetting::Auto => node.requested != Some(Role::Worker),
            RoleSetting::Master => true,
            RoleSetting::Worker | RoleSetting::None => false,
        };
        let open = match self.assigned.get(id).map(|assignment| assignment.role) {
            None => true,
            // A place that a dead server left goes to a worker; the first ones to those who have no role yet.
            Some(Role::Worker) => asked || self.replaces(),
            Some(Role::Server) => false,
        };
        let near = node.round_trip.is_none_or(|round_trip| round_trip <= LONGEST_ROUND_TRIP);
        let new = *id != self.cluster.founder && !self.servers.was_removed(id);
        new && allowed && open && near && node.live && !node.abstains
    }

    /// Whether a server was taken off the list.
    fn replaces(&self) -> bool {
        self.servers.ever().any(|id| self.servers.was_removed(&id))
    }

    /// Those who may become servers: who was named first, then the nearest, then by id.
    fn line(&self) -> Vec<NodeId> {
        let mut line: Vec<NodeId> = self.nodes.keys().copied().filter(|id| self.may_serve(id)).collect();
        line.sort_by_key(|id| {
            let node = &self.nodes[id];
            let named = node.role == RoleSetting::Master || node.requested == Some(Role::Server);
            (!named, node.round_trip.unwrap_or(Duration::MAX), *id)
        });
        line
    }

    /// Before the founder has its role nobody else gets one that might be taken back.
    fn may_wait_for_a_place(&self, id: &NodeId) -> bool {
        !self.assigned.contains_key(&self.cluster.founder) && self.free_places() > 0 && self.may_serve(id)
    }
}

/// Addresses and names that are taken.
struct Given {
    /// Assigned or certified: no claim counts against them.
    fixed: BTreeMap<Ipv4Addr, NodeId>,
    /// How many claim an address. Two that do have not settled it yet: neither gets it.
    claims: BTreeMap<Ipv4Addr, usize>,
    names: BTreeMap<String, NodeId>,
}

impl Given {
    fn new(view: &RolesView) -> Self {
        let certified = view.cluster.addresses.iter().map(|(id, address)| (*address, *id));
        let assigned = view.assigned.values().map(|assignment| (assignment.address, assignment.node));
        let mut claims = BTreeMap::<Ipv4Addr, usize>::new();
        for address in view.nodes.values().filter_map(|node| node.address) {
            *claims.entry(address).or_default() += 1;
        }
        let names = view.assigned.values().map(|assignment| (assignment.name.clone(), assignment.node));
        Self { fixed: certified.chain(assigned).collect(), claims, names: names.collect() }
    }

    /// The address that a node gets; none while it has none of its own.
    fn address(&self, view: &RolesView, node: NodeId) -> Option<Ipv4Addr> {
        if let Some(certified) = view.cluster.addresses.get(&node) {
            return (self.fixed.get(certified) == Some(&node)).then_some(*certified);
        }
        let claimed = view.nodes.get(&node)?.address?;
        let free = !self.fixed.contains_key(&claimed) && self.claims.get(&claimed) == Some(&1);
        (free && view.pool.is_usable(claimed)).then_some(claimed)
    }

    /// The assignment of one node; none while it has no address of its own.
    fn give(&mut self, view: &RolesView, node: NodeId, role: Role) -> Option<Assignment> {
        let (cluster_id, epoch) = (view.cluster.cluster_id, view.epoch);
        if let Some(standing) = view.assigned.get(&node) {
            return Some(Assignment { role, epoch, ..standing.clone() });
        }
        let address = self.address(view, node)?;
        let name = self.name(view.nodes.get(&node).map_or("", |node| &node.name), node);
        self.names.insert(name.clone(), node);
        Some(Assignment { node, role, cluster_id, address, name, epoch })
    }

    /// The host name as Kubernetes takes it, with a piece of the id where another node has it already.
    fn name(&self, host: &str, node: NodeId) -> String {
        let plain = node_name(host);
        let [a, b, c, d, ..] = node.as_bytes();
        let marked = format!("{plain}-{a:02x}{b:02x}{c:02x}{d:02x}");
        if !plain.is_empty() && !self.names.contains_key(&plain) {
            plain
        } else {
            marked.trim_start_matches('-').to_owned()
        }
    }
}

/// `host` as a DNS-1123 name of at most 54 characters, so that a mark of nine fits into the 63 of a label.
fn node_name(host: &str) -> String {
    let name: String = host
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .take(54)
        .collect();
    let labels = name.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty());
    labels.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests;
