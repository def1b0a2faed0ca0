//! The cluster's secrets: made once by its founder, sealed to each node by what its role needs, and made anew when
//! somebody who knew them is banned.
//!
//! | who | server token | agent token |
//! | --- | --- | --- |
//! | assigned servers | yes | yes |
//! | assigned workers | no | yes |
//! | everybody else, bridges included | no | no |

use std::time::Instant;

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::{Zeroize, Zeroizing};

use super::{Assignments, Node, fact, fresh, members::read};
use crate::{
    election::{Cluster, Reign, Role, lead::FIRST_EPOCH},
    identity::{Identity, NodeId},
    ledger::{self, Ledger},
};

/// What a box of secrets is sealed for.
const SECRETS: &str = "c3os cluster secrets";

/// The box that was sealed to `node`, and by whom: the newest of the latest epoch.
fn sealed_for(
    ledger: &Ledger,
    cluster: &Cluster,
    reign: &Reign,
    node: NodeId,
) -> Option<(NodeId, fact::Sealed)> {
    let key = fact::about("secret", &cluster.network_id, &node);
    let by = |author| read::<fact::Sealed>(ledger, author, &key);
    let boxes = reign.servers.ever().filter_map(|author| Some((author, by(author)?)));
    let counts = boxes.filter(|(author, sealed)| {
        sealed.cluster_id == cluster.cluster_id
            && reign.servers.may_have_led(author, sealed.epoch.max(FIRST_EPOCH))
    });
    counts.max_by_key(|(author, sealed)| (sealed.epoch, sealed.generation, *author))
}

/// The secrets that a lead sealed to us.
pub(super) fn secrets_for(
    ledger: &Ledger,
    identity: &Identity,
    cluster: &Cluster,
    reign: &Reign,
) -> Option<fact::ClusterSecrets> {
    let (author, sealed) = sealed_for(ledger, cluster, reign, identity.id())?;
    let entry = ledger.get(author, &fact::about("secret", &cluster.network_id, &identity.id()))?;
    let opened = entry.once(|_| {
        let opened = open(identity, SECRETS, &sealed.boxed)?;
        ledger::decode::<fact::ClusterSecrets>(&opened).ok()
    });
    opened.as_ref().clone()
}

/// Opens what the lead sealed to us; a box that is not for us is none.
pub(super) fn open(identity: &Identity, context: &'static str, boxed: &str) -> Option<Zeroizing<Vec<u8>>> {
    let boxed = BASE64_STANDARD.decode(boxed).ok()?;
    identity
        .open(context, &boxed)
        .inspect_err(|error| tracing::warn!(context, %error, "What was sealed to this node cannot be opened"))
        .ok()
}

impl Node {
    /// Seals `plain` to `node` for the ledger; none, loudly, if its id is no key.
    pub(super) fn sealed(&mut self, node: NodeId, context: &'static str, plain: &[u8]) -> Option<String> {
        let mut ephemeral = fresh(&mut self.rng);
        let boxed = node.seal(context, plain, ephemeral);
        ephemeral.zeroize();
        boxed
            .map(|boxed| BASE64_STANDARD.encode(boxed))
            .inspect_err(|error| tracing::warn!(%node, context, %error, "Nothing can be sealed to a node"))
            .ok()
    }

    /// Makes the secrets once, keeps them sealed to ourselves, and seals to every node what its role needs. We are the
    /// lead.
    pub(super) fn share_secrets(&mut self, cluster: &Cluster, assignments: &Assignments, now: Instant) {
        let me = self.id();
        let own_key = fact::about("secret", &cluster.network_id, &me);
        match self.own_secrets(cluster) {
            Some(_) => {
                for (node, assignment) in assignments.iter().filter(|(node, _)| **node != me) {
                    self.hand_out_secrets(cluster, *node, assignment.role, now);
                }
            }
            // Being written already.
            None if self.ledger.latest(&own_key).is_some() => {}
            // k3s took the founder's; a later lead waits until they were sealed to it.
            None if cluster.founder != me => {}
            None => {
                let secrets = fact::ClusterSecrets {
                    server_token: Some(self.new_secret()),
                    agent_token: self.new_secret(),
                    generation: 0,
                };
                self.seal_secrets(cluster, me, Role::Server, &secrets, now);
            }
        }
    }

    /// Gives a node the secrets of a role, unless it has just these. A role with more of them gets them before it is
    /// assigned: what the plan needs is there when the assignment comes.
    pub(super) fn hand_out_secrets(&mut self, cluster: &Cluster, node: NodeId, role: Role, now: Instant) {
        let Some(secrets) = self.own_secrets(cluster) else { return };
        let key = fact::about("secret", &cluster.network_id, &node);
        let given = self.ledger.latest(&key).and_then(|bytes| ledger::decode::<fact::Sealed>(bytes).ok());
        let given = given.or_else(|| Some(sealed_for(&self.ledger, cluster, self.reign.as_ref()?, node)?.1));
        let has = given.is_some_and(|given| {
            given.cluster_id == cluster.cluster_id
                && given.role == role
                && given.generation == secrets.generation
        });
        if !has && node != self.id() {
            self.seal_secrets(cluster, node, role, &secrets, now);
        }
    }

    /// Replaces what a worker that was banned knows; the others get the new one with the next evaluation.
    pub(super) fn renew_agent_token(&mut self, cluster: &Cluster, now: Instant) {
        let Some(old) = self.own_secrets(cluster) else { return };
        let renewed = fact::ClusterSecrets {
            server_token: old.server_token.clone(),
            agent_token: self.new_secret(),
            generation: old.generation + 1,
        };
        self.seal_secrets(cluster, self.id(), Role::Server, &renewed, now);
    }

    fn own_secrets(&self, cluster: &Cluster) -> Option<fact::ClusterSecrets> {
        secrets_for(&self.ledger, &self.identity, cluster, self.reign.as_ref()?)
    }

    fn new_secret(&mut self) -> String {
        fresh(&mut self.rng).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Seals the part of the secrets that a role needs to one node.
    fn seal_secrets(
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
        let part = fact::ClusterSecrets {
            server_token,
            agent_token: secrets.agent_token.clone(),
            generation: secrets.generation,
        };
        let Ok(plain) = ledger::encode(&part).map(Zeroizing::new) else { return };
        let Some(boxed) = self.sealed(node, SECRETS, &plain) else { return };
        let sealed = fact::Sealed {
            cluster_id: cluster.cluster_id,
            role,
            boxed,
            generation: secrets.generation,
            epoch: self.writes.unwrap_or(FIRST_EPOCH),
        };
        let key = fact::about("secret", &cluster.network_id, &node);
        self.said.say(&mut self.ledger, &key, &sealed, now);
    }
}
