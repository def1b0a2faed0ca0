//! What a member does about the role that the lead gave it, and what it tells its driver.

use std::collections::BTreeMap;

use super::{
    Assignments, Event, Node, RoleOrder, Whereabouts, fact,
    members::{Members, read},
    secrets,
};
use crate::{
    address,
    election::{Cluster, Role, roles},
    k3s::{ClusterFacts, Secret},
};

impl Node {
    /// Orders our role, whenever something that its plan needs has changed.
    pub(super) fn follow(&mut self, cluster: &Cluster, assignments: &Assignments) {
        let Some(assignment) = assignments.get(&self.id()) else { return };
        if let Err(clash) = roles::desired(self.settings.config.role, Some(assignment)) {
            self.seen.not_applied = Some(clash.to_string());
            return;
        }
        let order =
            RoleOrder { assignment: assignment.clone(), facts: self.cluster_facts(cluster, assignments) };
        if self.told.order.as_ref() != Some(&order) {
            self.told.order = Some(order.clone());
            self.events.push_back(Event::Role(Box::new(order)));
        }
    }

    /// What k3s has to know of the cluster on this machine.
    fn cluster_facts(&self, cluster: &Cluster, assignments: &Assignments) -> ClusterFacts {
        let secrets = secrets::secrets_for(&self.ledger, &self.identity, cluster);
        let server_key = fact::in_network("server", &cluster.network_id);
        let server = read::<fact::Server>(&self.ledger, cluster.founder, &server_key)
            .filter(|server| server.cluster_id == cluster.cluster_id);
        let founder = assignments.get(&cluster.founder).filter(|_| cluster.founder != self.id());
        ClusterFacts {
            server_address: founder.map(|founder| founder.address),
            server_up: server.as_ref().is_some_and(|server| server.up),
            ca_hash: server.and_then(|server| server.ca_hash),
            server_token: secrets.as_ref().and_then(|secrets| secrets.server_token.clone()).map(Secret::new),
            agent_token: secrets.as_ref().map(|secrets| Secret::new(secrets.agent_token.clone())),
        }
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
