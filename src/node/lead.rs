//! What the lead of a cluster does: roles, addresses and names for nodes, secrets for those they are for.

use std::time::Instant;

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    Assignments, Node, fact, fresh,
    members::{Members, read},
};
use crate::{
    address::{Drawer, Pool},
    election::{
        Assignment, Cluster, Role,
        roles::{self, NodeView, RolesView},
    },
    identity::{Identity, NodeId},
    ledger::{self, Ledger},
};

/// What a box of secrets is sealed for.
const SECRETS: &str = "c3os cluster secrets";

/// What the lead of `cluster` assigned, as everybody reads it.
pub(super) fn assignments(ledger: &Ledger, cluster: &Cluster) -> Assignments {
    let prefix = format!("{}/", fact::in_network("assignment", &cluster.network_id));
    let written: Vec<_> = ledger
        .with_prefix(&prefix)
        .filter_map(|entry| Some((entry.author(), ledger::decode::<Assignment>(entry.value()).ok()?)))
        .collect();
    roles::standing(cluster, written)
}

/// The secrets that the lead sealed to us.
pub(super) fn secrets_for(
    ledger: &Ledger,
    identity: &Identity,
    cluster: &Cluster,
) -> Option<fact::ClusterSecrets> {
    let key = fact::about("secret", &cluster.network_id, &identity.id());
    let sealed = read::<fact::Sealed>(ledger, roles::lead(cluster), &key)?;
    if sealed.cluster_id != cluster.cluster_id {
        return None;
    }
    let boxed = BASE64_STANDARD.decode(&sealed.boxed).ok()?;
    let opened = identity
        .open(SECRETS, &boxed)
        .inspect_err(|error| tracing::warn!(%error, "The cluster's secrets for this node cannot be opened"))
        .ok()?;
    ledger::decode(&opened).ok()
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

    /// Makes the secrets once, keeps them sealed to ourselves, and seals to every node what its role needs.
    fn share_secrets(&mut self, cluster: &Cluster, assignments: &Assignments, now: Instant) {
        let me = self.id();
        let own_key = fact::about("secret", &cluster.network_id, &me);
        let secrets = match secrets_for(&self.ledger, &self.identity, cluster) {
            Some(secrets) => secrets,
            // Being written already.
            None if self.ledger.latest(&own_key).is_some() => return,
            None => {
                let token =
                    |rng: &mut _| fresh(rng).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                let secrets = fact::ClusterSecrets {
                    server_token: Some(token(&mut self.rng)),
                    agent_token: token(&mut self.rng),
                };
                self.seal(cluster, me, Role::Server, &secrets, now);
                return;
            }
        };
        for (node, assignment) in assignments.iter().filter(|(node, _)| **node != me) {
            let key = fact::about("secret", &cluster.network_id, node);
            let given = self.ledger.latest(&key).and_then(|bytes| ledger::decode::<fact::Sealed>(bytes).ok());
            let has = given
                .is_some_and(|given| given.cluster_id == cluster.cluster_id && given.role == assignment.role);
            if !has {
                self.seal(cluster, *node, assignment.role, &secrets, now);
            }
        }
    }

    /// Seals the part of the secrets that a role needs to one node.
    fn seal(
        &mut self,
        cluster: &Cluster,
        node: NodeId,
        role: Role,
        secrets: &fact::ClusterSecrets,
        now: Instant,
    ) {
        let server_token = match role {
            Role::Server => secrets.server_token.clone(),
            Role::Worker => None,
        };
        let part = fact::ClusterSecrets { server_token, agent_token: secrets.agent_token.clone() };
        let Ok(plain) = ledger::encode(&part).map(zeroize::Zeroizing::new) else { return };
        match node.seal(SECRETS, &plain, fresh(&mut self.rng)) {
            Ok(boxed) => {
                let sealed = fact::Sealed {
                    cluster_id: cluster.cluster_id,
                    role,
                    boxed: BASE64_STANDARD.encode(boxed),
                };
                let key = fact::about("secret", &cluster.network_id, &node);
                self.said.say(&mut self.ledger, &key, &sealed, now);
            }
            Err(error) => tracing::warn!(%node, %error, "The cluster's secrets cannot be sealed to a node"),
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
        let members = Members::of(&self.ledger, &self.connected);
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
