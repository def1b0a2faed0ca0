//! What the lead of a cluster does: roles, addresses and names for nodes.

use std::time::Instant;

use super::{
    Assignments, Node, fact,
    members::{Members, read},
};
use crate::{
    address::{Drawer, Pool},
    election::{
        Cluster, Leadership, Reign, Role, Servers, lead,
        roles::{self, NodeView, RolesView},
    },
    identity::NodeId,
    ledger,
};

impl Node {
    /// Assigns what is to be assigned, keeps the list of servers, and hands out the cluster's secrets. We are the lead.
    pub(super) fn lead(
        &mut self,
        members: &Members,
        cluster: &Cluster,
        reign: &Reign,
        epoch: u64,
        assignments: &Assignments,
        now: Instant,
    ) {
        if lead::several_servers(cluster) && self.watch.lease.is_some() {
            let claim = Leadership { cluster_id: cluster.cluster_id, epoch };
            self.said.say(&mut self.ledger, &Leadership::key(&cluster.network_id), &claim, now);
        }
        self.list_servers(cluster, reign, epoch, assignments, now);
        let view = self.roles_view(members, cluster, reign, epoch, assignments);
        self.remove_servers(&view, cluster, reign, assignments, now);
        for assignment in roles::assign(&view) {
            // What a role may know comes before the role: a promoted worker finds the server token there.
            self.hand_out_secrets(cluster, assignment.node, assignment.role, now);
            let key = fact::about("assignment", &cluster.network_id, &assignment.node);
            self.said.say(&mut self.ledger, &key, &assignment, now);
        }
        self.share_secrets(cluster, assignments, now);
    }

    /// Whoever was made a server belongs on the list.
    fn list_servers(
        &mut self,
        cluster: &Cluster,
        reign: &Reign,
        epoch: u64,
        assignments: &Assignments,
        now: Instant,
    ) {
        let ever: Vec<NodeId> = reign.servers.ever().collect();
        let new = assignments
            .values()
            .filter(|assignment| assignment.role == Role::Server && !ever.contains(&assignment.node));
        let longer = new.fold(reign.servers.clone(), |list, assignment| {
            list.add(&self.identity, epoch, assignment.node).unwrap_or(list)
        });
        if longer != reign.servers {
            self.said.say_bytes(&mut self.ledger, &Servers::key(&cluster.network_id), longer.to_bytes(), now);
        }
    }

    /// What roles are decided on.
    fn roles_view(
        &self,
        members: &Members,
        cluster: &Cluster,
        reign: &Reign,
        epoch: u64,
        assignments: &Assignments,
    ) -> RolesView {
        let pool = Pool::new(self.settings.config.vpn.subnet, Drawer::Node)
            .expect("the same pool was made when this member started");
        let network_id = &cluster.network_id;
        let nodes = members.nodes_of(network_id).map(|(id, machine)| {
            let server = read::<fact::Server>(&self.ledger, id, &fact::in_network("server", network_id));
            let requested = self
                .ledger
                .latest(&fact::about("request", network_id, &id))
                .and_then(|bytes| ledger::decode(bytes).ok());
            let applied = read::<fact::Applied>(&self.ledger, id, &fact::in_network("applied", network_id));
            // What it belongs to counts more than what it still runs.
            let belongs = machine.cluster.or(applied.map(|applied| applied.cluster_id));
            let elsewhere = belongs.is_some_and(|belongs| belongs != cluster.cluster_id);
            let has_joined = machine.cluster == Some(cluster.cluster_id);
            let node = NodeView {
                name: machine.name.clone(),
                role: machine.role,
                abstains: elsewhere || (machine.abstains && !has_joined),
                requested,
                live: members.is_live(id),
                address: members.uncontested_address(id),
                server_ready: server.is_some_and(|server| {
                    let votes = !lead::several_servers(cluster) || server.voting == Some(true);
                    server.up && votes && server.cluster_id == cluster.cluster_id
                }),
                round_trip: self.seen.round_trips.get(&id).copied(),
            };
            (id, node)
        });
        RolesView {
            cluster: cluster.clone(),
            epoch,
            servers: reign.servers.clone(),
            pool,
            nodes: nodes.collect(),
            assigned: assignments.clone(),
        }
    }

    /// An operator asks for another role of a node. Only the lead can answer.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn request_role(&mut self, node: NodeId, role: Role, now: Instant) -> Result<(), String> {
        let (cluster, view) = self.as_lead(now)?;
        roles::check(&view, &node, role).map_err(|error| error.to_string())?;
        self.said.say(&mut self.ledger, &fact::about("request", &cluster.network_id, &node), &role, now);
        self.due = true;
        Ok(())
    }

    /// An operator wants a server that is away off the list.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn request_removal(&mut self, node: NodeId, now: Instant) -> Result<(), String> {
        let (cluster, view) = self.as_lead(now)?;
        if !view.servers.contains(&node) {
            return Err("it is no server of this cluster".to_owned());
        }
        if !self.watch.away().contains_key(&node) {
            return Err("the server can be reached; switch it off first".to_owned());
        }
        if roles::replaceable(&view, self.watch.away(), std::time::Duration::ZERO, now).is_none() {
            return Err(
                "the servers that are left are no majority of all, or not all of them are well".to_owned()
            );
        }
        self.said.say(&mut self.ledger, &fact::about("remove", &cluster.network_id, &node), &true, now);
        self.due = true;
        Ok(())
    }

    /// Whether what an operator asked for stands; if not, why not yet.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn role_holds(&self, node: NodeId, role: Role, now: Instant) -> Result<(), String> {
        if self.told.assigned.get(&node) == Some(&role) {
            return Ok(());
        }
        let (_, view) = self.as_lead(now)?;
        Err(roles::pending(&view, &node, role).to_string())
    }

    /// Our cluster and what is decided on, if we may write for it now.
    fn as_lead(&self, now: Instant) -> Result<(Cluster, RolesView), String> {
        let (Some(pinned), Some(reign)) = (&self.pinned, &self.reign) else {
            return Err("there is no cluster yet; set `c3os.role` in the machine's config.yaml".to_owned());
        };
        let cluster = pinned.cluster().clone();
        if reign.lead != self.id() {
            return Err(format!("only the lead, {}, can assign roles", reign.lead));
        }
        let Some(epoch) = reign.may_write(&cluster, self.id(), self.watch.lease, now) else {
            return Err(roles::Pending::NoLease.to_string());
        };
        let members = Members::of(&self.ledger, &self.connected, &self.outside);
        let assignments = super::reign::assignments(&self.ledger, &cluster, reign);
        let view = self.roles_view(&members, &cluster, reign, epoch, &assignments);
        Ok((cluster, view))
    }
}
