//! What the lead of a cluster does: roles, addresses and names for nodes.

use std::time::Instant;

use super::{
    Assignments, Node, fact,
    members::{Members, read},
};
use crate::{
    address::{Drawer, Pool},
    election::{
        Assignment, Cluster, Role,
        roles::{self, NodeView, RolesView},
    },
    identity::NodeId,
    ledger::{self, Ledger},
};

/// What the lead of `cluster` assigned, as everybody reads it.
pub(super) fn assignments(ledger: &Ledger, cluster: &Cluster) -> Assignments {
    let prefix = format!("{}/", fact::in_network("assignment", &cluster.network_id));
    let written: Vec<_> = ledger
        .with_prefix(&prefix)
        .filter_map(|entry| Some((entry.author(), ledger::decode::<Assignment>(entry.value()).ok()?)))
        .collect();
    roles::standing(cluster, written)
}

impl Node {
    /// Assigns what is to be assigned, and hands out the cluster's secrets. We are the lead.
    pub(super) fn lead(
        &mut self,
        members: &Members,
        cluster: &Cluster,
        assignments: &Assignments,
        now: Instant,
    ) {
        let view = self.roles_view(members, cluster, assignments);
        for assignment in roles::assign(&view) {
            // What a role may know comes before the role: a promoted worker finds the server token there.
            self.hand_out_secrets(cluster, assignment.node, assignment.role, now);
            let key = fact::about("assignment", &cluster.network_id, &assignment.node);
            self.said.say(&mut self.ledger, &key, &assignment, now);
        }
        self.share_secrets(cluster, assignments, now);
    }

    /// What roles are decided on.
    fn roles_view(&self, members: &Members, cluster: &Cluster, assignments: &Assignments) -> RolesView {
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
            let elsewhere = applied.is_some_and(|applied| applied.cluster_id != cluster.cluster_id);
            let node = NodeView {
                name: machine.name.clone(),
                role: machine.role,
                abstains: elsewhere || machine.abstains,
                requested,
                live: members.is_live(id),
                address: members.uncontested_address(id),
                server_ready: server
                    .is_some_and(|server| server.up && server.cluster_id == cluster.cluster_id),
                round_trip: None,
            };
            (id, node)
        });
        RolesView {
            cluster: cluster.clone(),
            epoch: 1,
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
        let Some(cluster) = self.pinned.as_ref().map(|pinned| pinned.cluster().clone()) else {
            return Err("there is no cluster yet; set `c3os.role` in the machine's config.yaml".to_owned());
        };
        if roles::lead(&cluster) != self.id() {
            return Err(format!("only the lead, {}, can assign roles", roles::lead(&cluster)));
        }
        let members = Members::of(&self.ledger, &self.connected, &self.outside);
        let view = self.roles_view(&members, &cluster, &self.assignments());
        roles::check(&view, &node, role).map_err(|error| error.to_string())?;
        self.said.say(&mut self.ledger, &fact::about("request", &cluster.network_id, &node), &role, now);
        self.due = true;
        Ok(())
    }

    /// Who leads our cluster.
    pub fn lead_of_cluster(&self) -> Option<NodeId> {
        self.pinned.as_ref().map(|pinned| roles::lead(pinned.cluster()))
    }
}
