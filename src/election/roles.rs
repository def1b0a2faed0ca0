//! Roles after founding: one writer, the lead, gives every node a role, an address and a name, once.
//!
//! ```text
//! unassigned -- live, with an address --> worker
//!      |                                    |  asked for (`role set`, `role: master`), a place free
//!      +-- a place free, its turn --> server <+
//! ```
//! A place is free while there are fewer servers than the certificate wants; its turn is when every server so far is
//! ready. What was given is never taken back here: address and name are frozen, and no server becomes a worker.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use super::{Assignment, Cluster, Datastore, Role};
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
    /// `c3os.vpn.subnet`.
    pub pool: Pool,
    /// The nodes of this network id, the lead included. Observers may be left out; they get nothing.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// What stands already, as [`standing`] reads it.
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

/// The one node that may write facts of the cluster.
pub fn lead(cluster: &Cluster) -> NodeId {
    cluster.founder
}

/// The assignments that count: those of this cluster that its lead wrote, of the highest epoch each.
///
/// `written` are all that the ledger holds, each with the author of its entry.
pub fn standing(
    cluster: &Cluster,
    written: impl IntoIterator<Item = (NodeId, Assignment)>,
) -> BTreeMap<NodeId, Assignment> {
    let mut standing = BTreeMap::<NodeId, Assignment>::new();
    for (author, assignment) in written {
        let newer = standing.get(&assignment.node).is_none_or(|other| other.epoch < assignment.epoch);
        if author == lead(cluster) && assignment.cluster_id == cluster.cluster_id && newer {
            standing.insert(assignment.node, assignment);
        }
    }
    standing
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
        (Some(Role::Server), Role::Server) | (Some(Role::Worker) | None, Role::Worker) => Ok(()),
        (Some(Role::Server), Role::Worker) => Err(RequestError::IsServer),
        (Some(Role::Worker) | None, Role::Server) if view.free_places() > 0 => Ok(()),
        (Some(Role::Worker) | None, Role::Server) => Err(match view.cluster.datastore {
            Datastore::Sqlite => RequestError::OneServer,
            Datastore::Etcd | Datastore::External => RequestError::Full { servers: view.cluster.servers },
        }),
    }
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
        let is_new = id != founder && !view.assigned.contains_key(&id);
        if is_new && takes_work && node.live && !node.abstains {
            new.extend(given.give(view, id, Role::Worker));
        }
    }
    new
}

impl RolesView {
    fn servers(&self) -> impl Iterator<Item = &NodeId> {
        self.assigned.iter().filter(|(_, assignment)| assignment.role == Role::Server).map(|(id, _)| id)
    }

    /// How many more servers the cluster takes. Until the founder has its role, its own place counts as taken.
    fn free_places(&self) -> usize {
        let servers = self.servers().filter(|id| **id != self.cluster.founder).count() + 1;
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
            Some(Role::Worker) => asked,
            Some(Role::Server) => false,
        };
        let near = node.round_trip.is_none_or(|round_trip| round_trip <= LONGEST_ROUND_TRIP);
        *id != self.cluster.founder && allowed && open && near && node.live && !node.abstains
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
mod tests {
    use super::*;
    use crate::{address::Drawer, config::NetworkId, election::ClusterId};

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn node(n: u8) -> NodeView {
        NodeView {
            name: format!("Host-{n}"),
            role: RoleSetting::Auto,
            abstains: false,
            requested: None,
            live: true,
            address: Some(Ipv4Addr::new(10, 1, 0, n)),
            server_ready: false,
            round_trip: Some(Duration::from_millis(u64::from(n))),
        }
    }

    fn view(nodes: u8, servers: u16) -> RolesView {
        let datastore = if servers > 1 { Datastore::Etcd } else { Datastore::Sqlite };
        RolesView {
            cluster: Cluster {
                cluster_id: ClusterId::from_bytes([5; 16]),
                network_id: NetworkId::default(),
                generation: 1,
                founder: id(1),
                minimum_nodes: 2,
                servers,
                datastore,
                addresses: [].into(),
            },
            epoch: 1,
            pool: Pool::new("10.1.0.0/16".parse().expect("a subnet"), Drawer::Node).expect("wide enough"),
            nodes: (1..=nodes).map(|n| (id(n), node(n))).collect(),
            assigned: BTreeMap::new(),
        }
    }

    /// Assigns until nothing is new; who became what, in order.
    fn settle(view: &mut RolesView) -> Vec<(NodeId, Role)> {
        let mut given = Vec::new();
        loop {
            let new = assign(view);
            if new.is_empty() {
                return given;
            }
            for assignment in new {
                given.push((assignment.node, assignment.role));
                view.assigned.insert(assignment.node, assignment);
            }
        }
    }

    fn servers(view: &RolesView) -> Vec<NodeId> {
        view.servers().copied().collect()
    }

    #[test]
    fn by_default_the_founder_is_the_one_server() {
        let mut view = view(4, 1);
        settle(&mut view);
        assert_eq!(view.assigned.len(), 4);
        assert_eq!(servers(&view), [id(1)]);
        assert_eq!(view.assigned[&id(3)].name, "host-3");
        assert!(assign(&view).is_empty(), "what is settled is not written again");
    }

    #[test]
    fn servers_join_one_at_a_time_the_nearest_first() {
        let mut view = view(5, 3);
        view.nodes.get_mut(&id(2)).expect("known").round_trip = Some(Duration::from_millis(101));
        let given = settle(&mut view);
        assert_eq!(given, [(id(1), Role::Server), (id(2), Role::Worker), (id(5), Role::Worker)]);
        for (ready, next) in [(1, 3), (3, 4)] {
            view.nodes.get_mut(&id(ready)).expect("known").server_ready = true;
            assert_eq!(settle(&mut view), [(id(next), Role::Server)]);
        }
        view.nodes.get_mut(&id(4)).expect("known").server_ready = true;
        assert!(settle(&mut view).is_empty());
        // Who comes later is a worker, and nobody is promoted when a server dies.
        view.nodes.insert(id(6), node(6));
        view.nodes.get_mut(&id(3)).expect("known").live = false;
        assert_eq!(settle(&mut view), [(id(6), Role::Worker)]);
    }

    #[test]
    fn a_place_is_kept_for_those_who_come_later() {
        let mut view = view(1, 3);
        settle(&mut view);
        view.nodes.get_mut(&id(1)).expect("known").server_ready = true;
        view.nodes.insert(id(7), node(7));
        assert_eq!(settle(&mut view), [(id(7), Role::Server)]);
    }

    #[test]
    fn forced_roles_win() {
        let mut view = view(4, 3);
        view.nodes.get_mut(&id(2)).expect("known").role = RoleSetting::Worker;
        view.nodes.get_mut(&id(4)).expect("known").role = RoleSetting::Master;
        view.nodes.get_mut(&id(1)).expect("known").server_ready = true;
        settle(&mut view);
        view.nodes.get_mut(&id(4)).expect("known").server_ready = true;
        settle(&mut view);
        assert_eq!(servers(&view), [id(1), id(3), id(4)]);
        assert_eq!(check(&view, &id(2), Role::Server), Err(RequestError::Forced));
        assert_eq!(check(&view, &id(4), Role::Worker), Err(RequestError::Forced));
        assert_eq!(check(&view, &id(3), Role::Worker), Err(RequestError::IsServer));
        assert_eq!(check(&view, &id(9), Role::Worker), Err(RequestError::Unknown));
    }

    #[test]
    fn a_second_forced_master_gets_nothing_where_one_server_is_all() {
        let mut view = view(3, 1);
        view.nodes.get_mut(&id(2)).expect("known").role = RoleSetting::Master;
        settle(&mut view);
        assert_eq!(view.assigned.keys().copied().collect::<Vec<_>>(), [id(1), id(3)]);
        assert_eq!(check(&view, &id(3), Role::Server), Err(RequestError::OneServer));
        assert_eq!(desired(RoleSetting::Master, None), Ok(None));
        let clash = Clash { assigned: Role::Worker };
        assert_eq!(desired(RoleSetting::Master, view.assigned.get(&id(3))), Err(clash));
        assert_eq!(desired(RoleSetting::Auto, view.assigned.get(&id(3))), Ok(Some(Role::Worker)));
    }

    #[test]
    fn an_operator_promotes_a_worker_while_a_place_is_free() {
        let mut view = view(2, 3);
        view.nodes.get_mut(&id(2)).expect("known").requested = Some(Role::Worker);
        settle(&mut view);
        view.nodes.get_mut(&id(1)).expect("known").server_ready = true;
        let before = view.assigned[&id(2)].clone();
        assert_eq!(before.role, Role::Worker);
        assert_eq!(check(&view, &id(2), Role::Server), Ok(()));
        view.nodes.get_mut(&id(2)).expect("known").requested = Some(Role::Server);
        assert_eq!(assign(&view), [Assignment { role: Role::Server, ..before }]);
    }

    #[test]
    fn addresses_are_frozen_and_of_one_node_only() {
        let mut view = view(4, 1);
        settle(&mut view);
        // Moved claims change nothing.
        view.nodes.get_mut(&id(2)).expect("known").address = Some(Ipv4Addr::new(10, 1, 9, 9));
        assert!(assign(&view).is_empty());
        // Taken, contested, unusable and missing addresses wait.
        for (n, address) in [(5, [10, 1, 0, 3]), (6, [10, 1, 0, 9]), (7, [10, 1, 0, 9]), (8, [10, 1, 3, 255])]
        {
            view.nodes.insert(id(n), NodeView { address: Some(address.into()), ..node(n) });
        }
        view.nodes.insert(id(10), NodeView { address: None, ..node(10) });
        assert!(assign(&view).is_empty());
        // What the certificate says counts more than a claim.
        view.cluster.addresses.insert(id(10), Ipv4Addr::new(10, 1, 0, 10));
        view.nodes.insert(id(11), NodeView { address: Some([10, 1, 0, 10].into()), ..node(11) });
        let new = assign(&view);
        assert_eq!(
            new.iter().map(|a| (a.node, a.address)).collect::<Vec<_>>(),
            [(id(10), [10, 1, 0, 10].into())]
        );
    }

    #[test]
    fn names_are_unique_and_fit_kubernetes() {
        let mut view = view(5, 1);
        for (n, name) in [(1, "Node"), (2, "node"), (3, ""), (4, "a_b.-c."), (5, &"x".repeat(80))] {
            view.nodes.get_mut(&id(n)).expect("known").name = name.to_owned();
        }
        settle(&mut view);
        let names: Vec<_> = view.assigned.values().map(|assignment| assignment.name.as_str()).collect();
        assert_eq!(names, ["node", "node-02020202", "03030303", "a-b.c", &"x".repeat(54)]);
    }

    #[test]
    fn only_the_word_of_the_lead_about_this_cluster_counts() {
        let mut view = view(2, 1);
        settle(&mut view);
        let good = view.assigned[&id(2)].clone();
        let lie = Assignment { role: Role::Server, epoch: 9, ..good.clone() };
        let elsewhere = Assignment { cluster_id: ClusterId::from_bytes([6; 16]), epoch: 9, ..good.clone() };
        let written = [(id(2), lie), (id(1), elsewhere), (id(1), good.clone())];
        assert_eq!(standing(&view.cluster, written), [(id(2), good)].into());
    }
}
