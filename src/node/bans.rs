//! Who is no member any more: removed because it is gone, or banned because it must not come back.
//!
//! Both are facts of the lead, applied on reading: the entries of those outside stay in the ledger and are passed on,
//! and count for nothing.

use std::{collections::BTreeSet, time::Instant};

use serde::{Deserialize, Serialize};

use super::{Node, fact, members::Members};
use crate::{
    election::{Cluster, ClusterId, Reign, lead, roles::Pending},
    identity::NodeId,
    ledger::{self, Ledger},
};

/// `ban/<network id>/<node id>`: never let it in again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ban {
    cluster_id: ClusterId,
}

/// `removed/<network id>/<node id>`: it is gone. What it says later brings it back as a new node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Removal {
    cluster_id: ClusterId,
    /// Number of the last entry of it that was known.
    seq: u64,
}

/// Those who count for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outside {
    pub(super) banned: BTreeSet<NodeId>,
    removed: BTreeSet<NodeId>,
}

impl Outside {
    /// As the leads of `cluster` say: what one of them said holds under the next.
    pub(super) fn read(ledger: &Ledger, cluster: &Cluster, reign: &Reign) -> Self {
        let banned = about_nodes(ledger, cluster, reign, "ban")
            .filter(|(_, value)| of(cluster, ledger::decode::<Ban>(value).map(|ban| ban.cluster_id)))
            .map(|(node, _)| node)
            .collect();
        let removed = about_nodes(ledger, cluster, reign, "removed")
            .filter_map(|(node, value)| Some((node, ledger::decode::<Removal>(value).ok()?)))
            .filter(|(_, removal)| removal.cluster_id == cluster.cluster_id)
            .filter(|(node, removal)| last_word(ledger, *node) <= removal.seq)
            .map(|(node, _)| node)
            .collect();
        Self { banned, removed }
    }

    pub(super) fn contains(&self, node: &NodeId) -> bool {
        self.banned.contains(node) || self.removed.contains(node)
    }
}

/// What leads say, or said, about nodes under `<what>/<network id>/<node id>`.
pub(super) fn about_nodes<'a>(
    ledger: &'a Ledger,
    cluster: &Cluster,
    reign: &'a Reign,
    what: &str,
) -> impl Iterator<Item = (NodeId, &'a [u8])> + 'a {
    let prefix = format!("{}/", fact::in_network(what, &cluster.network_id));
    let said = reign.servers.ever().flat_map(|lead| ledger.of_author(lead));
    said.filter_map(move |entry| {
        let node = entry.key().strip_prefix(prefix.as_str())?.parse().ok()?;
        Some((node, entry.value()))
    })
}

fn of(cluster: &Cluster, cluster_id: Result<ClusterId, ledger::LedgerError>) -> bool {
    cluster_id.is_ok_and(|id| id == cluster.cluster_id)
}

pub(super) fn last_word(ledger: &Ledger, node: NodeId) -> u64 {
    ledger.of_author(node).map(ledger::SignedEntry::seq).max().unwrap_or_default()
}

impl Node {
    /// Removes a node that is gone: its role, address and secrets are free again. Only the lead can.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn remove_node(&mut self, node: NodeId, now: Instant) -> Result<(), String> {
        let cluster = self.lead_only("remove nodes", now)?;
        if lead::several_servers(&cluster) && self.is_server(node) {
            return self.request_removal(node, now);
        }
        let name = self.may_drop(node)?;
        let members = Members::of(&self.ledger, &self.connected, &self.outside);
        let known = members.iter().any(|(id, _)| id == node) || self.assignments().contains_key(&node);
        if !known {
            return Err(format!("no member has the id {node}; `c3os node list` shows them"));
        }
        if members.is_live(node) {
            return Err(format!(
                "{name} is running and would join again at once: switch it off first, or ban it"
            ));
        }
        let removal = Removal { cluster_id: cluster.cluster_id, seq: last_word(&self.ledger, node) };
        self.drop_facts(&cluster, node, now);
        self.said.say(&mut self.ledger, &fact::about("removed", &cluster.network_id, &node), &removal, now);
        self.due = true;
        Ok(())
    }

    /// Bans a node for good, and replaces what it knows, unless `keep_token`. Only the lead can.
    ///
    /// # Errors
    /// Why not, in words; then nothing was done.
    pub(super) fn ban_node(&mut self, node: NodeId, keep_token: bool, now: Instant) -> Result<(), String> {
        let cluster = self.lead_only("ban nodes", now)?;
        self.may_drop(node)?;
        if !keep_token && let Some(why) = self.rotation_objection(&cluster) {
            return Err(format!("{why}; with --keep-token it is banned and keeps what it knows"));
        }
        let had_role = self.assignments().contains_key(&node);
        self.drop_facts(&cluster, node, now);
        let ban = Ban { cluster_id: cluster.cluster_id };
        self.said.say(&mut self.ledger, &fact::about("ban", &cluster.network_id, &node), &ban, now);
        self.outside.banned.insert(node);
        self.due = true;
        if keep_token {
            return Ok(());
        }
        if had_role {
            self.renew_agent_token(&cluster, now);
        }
        self.start_rotation(&cluster, true, now);
        Ok(())
    }

    /// Says that we are here again, if we were removed: nothing else of what we say may have changed.
    pub(super) fn come_back(&mut self, cluster: &Cluster, now: Instant) {
        let me = self.id();
        if self.outside.removed.contains(&me) {
            let seq = last_word(&self.ledger, me);
            self.said.say(&mut self.ledger, &fact::in_network("back", &cluster.network_id), &seq, now);
        }
    }

    /// The cluster, if we are its lead.
    pub(super) fn lead_only(&self, what: &str, now: Instant) -> Result<Cluster, String> {
        let Some(cluster) = self.pinned.as_ref().map(|pinned| pinned.cluster().clone()) else {
            return Err(format!("there is no cluster yet, so nobody can {what}"));
        };
        let Some(reign) = &self.reign else { return Err("this machine has just started".to_owned()) };
        if reign.lead != self.id() {
            return Err(format!("only the lead, {}, can {what}", reign.lead));
        }
        match reign.may_write(&cluster, self.id(), self.watch.lease, now) {
            Some(_) => Ok(cluster),
            None => Err(Pending::NoLease.to_string()),
        }
    }

    /// Whether a node is a server of our cluster now.
    fn is_server(&self, node: NodeId) -> bool {
        self.reign.as_ref().is_some_and(|reign| reign.servers.contains(&node))
    }

    /// The name of a node that may be dropped: not ourselves, and no server.
    fn may_drop(&self, node: NodeId) -> Result<String, String> {
        let assigned = self.assignments().remove(&node);
        let name = assigned.as_ref().map_or_else(|| node.to_string(), |assigned| assigned.name.clone());
        if node == self.id() {
            return Err(format!("{name} leads the cluster and cannot be dropped from it"));
        }
        if self.is_server(node) {
            return Err(format!(
                "{name} is a server, and holds the datastore: in a cluster of several, `c3os node remove` makes another one \
                 take its place first"
            ));
        }
        Ok(name)
    }

    /// Takes back what the cluster said of a node.
    fn drop_facts(&mut self, cluster: &Cluster, node: NodeId, now: Instant) {
        for what in ["assignment", "secret", "request", "token"] {
            let key = fact::about(what, &cluster.network_id, &node);
            self.ledger.remove(&key.parse().expect("our own keys are well formed"), now);
        }
    }

    /// What Kubernetes calls a node that has a role.
    pub fn kubernetes_name(&self, node: NodeId) -> Option<String> {
        // A server is let go of once the other servers have agreed.
        if self.is_server(node) {
            return None;
        }
        self.assignments().remove(&node).map(|assignment| assignment.name)
    }
}
