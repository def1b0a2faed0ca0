//! What a member does about the role that the lead gave it, and what it tells its driver.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{
    Assignments, Event, Node, RoleOrder, Whereabouts, fact,
    members::{Members, read},
    secrets,
};
use crate::{
    address,
    election::{Cluster, Conflict, FoundingStatus, Reign, Role, roles},
    identity::NodeId,
    k3s::{ClusterFacts, Secret},
};

/// Why a server that was replaced runs nothing.
const REPLACED: &str = "this machine was a server of the cluster and was replaced while it was away; k3s stays stopped \
                        here and nothing is removed: `c3os reset` makes it a new machine that joins as a worker";

impl Node {
    /// Orders our role, whenever something that its plan needs has changed.
    pub(super) fn follow(
        &mut self,
        members: &Members,
        cluster: &Cluster,
        reign: &Reign,
        assignments: &Assignments,
    ) {
        let replaced = reign.servers.was_removed(&self.id());
        if replaced || matches!(self.founding.status(), FoundingStatus::Conflict(Conflict::Superseded { .. }))
        {
            if replaced {
                self.seen.not_applied = Some(REPLACED.to_owned());
            }
            self.told.order = None;
            if !std::mem::replace(&mut self.told.stopped, true) {
                self.events.push_back(Event::Stop);
            }
            return;
        }
        let Some(assignment) = assignments.get(&self.id()) else { return };
        if let Err(clash) = roles::desired(self.settings.config.role, Some(assignment)) {
            self.seen.not_applied = Some(clash.to_string());
            return;
        }
        let facts = self.cluster_facts(members, cluster, reign, assignments);
        let applied = self.seen.applied.as_ref().map(|applied| applied.cluster_id);
        let leaves = applied.filter(|applied| *applied != cluster.cluster_id);
        let order = RoleOrder { assignment: assignment.clone(), facts, leaves };
        if self.told.order.as_ref() != Some(&order) {
            self.told.order = Some(order.clone());
            self.events.push_back(Event::Role(Box::new(order)));
        }
    }

    /// What k3s has to know of the cluster on this machine.
    fn cluster_facts(
        &self,
        members: &Members,
        cluster: &Cluster,
        reign: &Reign,
        assignments: &Assignments,
    ) -> ClusterFacts {
        let secrets = secrets::secrets_for(&self.ledger, &self.identity, cluster, reign);
        let says = |server| {
            read::<fact::Server>(&self.ledger, server, &fact::in_network("server", &cluster.network_id))
                .filter(|said| said.cluster_id == cluster.cluster_id)
        };
        let on_the_mesh = self.settings.config.vpn.used_by_k3s;
        let address = |server: NodeId| {
            let overlay = assignments.get(&server).map(|assignment| assignment.address);
            if on_the_mesh { overlay } else { says(server).and_then(|said| said.lan_address) }
        };
        let others: Vec<NodeId> =
            reign.servers.current().iter().copied().filter(|server| *server != self.id()).collect();
        // k3s is restarted when its server changes, so it changes only when that one is none any more.
        let kept = self.joined_by().filter(|kept| others.iter().any(|other| address(*other) == Some(*kept)));
        let up = |server: &&NodeId| members.is_live(**server) && says(**server).is_some_and(|said| said.up);
        let first = others.iter().find(up).or(others.first()).copied();
        // A server that began a cluster joins nobody, whoever leads now.
        let founds = cluster.founder == self.id();
        let server_address = if founds { None } else { kept.or_else(|| first.and_then(address)) };
        let known: Vec<fact::Server> = reign.servers.current().iter().filter_map(|id| says(*id)).collect();
        ClusterFacts {
            server_address,
            server_up: known.iter().any(|server| server.up),
            ca_hash: known.into_iter().find_map(|server| server.ca_hash),
            server_token: secrets.as_ref().and_then(|secrets| secrets.server_token.clone()).map(Secret::new),
            agent_token: secrets.as_ref().map(|secrets| Secret::new(secrets.agent_token.clone())),
        }
    }

    /// The server that our k3s was told to join, in this run or in the last one.
    fn joined_by(&self) -> Option<Ipv4Addr> {
        let ordered = self.told.order.as_ref().and_then(|order| order.facts.server_address);
        ordered.or_else(|| self.seen.applied.as_ref().and_then(|applied| applied.server))
    }

    /// Tells the driver what has changed since it was told last.
    pub(super) fn tell(&mut self, members: &Members, assignments: &Assignments) {
        if self.told.lease != self.lease.lease()
            && let Some(lease) = self.lease.lease()
        {
            self.told.lease = Some(lease);
            self.events.push_back(Event::Lease(lease));
        }
        let mesh_id = self.settings.mesh_id;
        let whereabouts: BTreeMap<_, _> = members
            .iter()
            .filter(|(id, _)| *id != self.identity.id())
            .map(|(id, facts)| {
                let assigned = assignments.get(&id).map(|assignment| assignment.address);
                let whereabouts = Whereabouts {
                    ipv4: assigned.or_else(|| members.uncontested_address(id)),
                    ipv6: address::ula(mesh_id, id),
                    candidates: facts
                        .machine
                        .as_ref()
                        .map_or_else(Vec::new, |machine| machine.candidates.clone()),
                };
                (id, whereabouts)
            })
            .collect();
        if self.told.members != whereabouts {
            self.told.members = whereabouts.clone();
            self.events.push_back(Event::Members(whereabouts));
        }
        for node in self.told.live.symmetric_difference(members.live()) {
            self.events.push_back(Event::Liveness { node: *node, live: members.is_live(*node) });
        }
        self.told.live = members.live().clone();
        if let Some(pinned) = &self.pinned
            && self.told.founded.is_none()
        {
            let cluster = pinned.cluster();
            self.told.founded = Some(cluster.cluster_id);
            self.events
                .push_back(Event::Founded { cluster_id: cluster.cluster_id, founder: cluster.founder });
        }
        let roles: BTreeMap<_, Role> =
            assignments.iter().map(|(id, assignment)| (*id, assignment.role)).collect();
        for (node, role) in &roles {
            if self.told.assigned.get(node) != Some(role) {
                self.events.push_back(Event::Assigned { node: *node, role: *role });
            }
        }
        self.told.assigned = roles;
    }
}
