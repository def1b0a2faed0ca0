//! Who leads our cluster and who serves it, as the ledger tells, and since when servers are away.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{Assignments, Node, members::Members};
use crate::{
    election::{Assignment, Cluster, HeldLease, Leadership, Reign, Role, Servers, lead},
    identity::NodeId,
    ledger::{self, Ledger},
};

/// The valid lists of servers among the ledger's entries. Checking one costs a signature for each link, so each entry
/// is checked once.
#[derive(Default)]
pub(super) struct Lists {
    by_entry: BTreeMap<[u8; 32], Option<Servers>>,
}

impl Lists {
    /// The list that stands.
    fn best(&mut self, ledger: &Ledger, cluster: &Cluster) -> Servers {
        let genesis = Servers::genesis(cluster);
        if !lead::several_servers(cluster) {
            return genesis;
        }
        let key = Servers::key(&cluster.network_id);
        let entries: Vec<_> = ledger.with_prefix(&key).filter(|entry| entry.key().as_str() == key).collect();
        self.by_entry.retain(|hash, _| entries.iter().any(|entry| entry.hash() == hash));
        let lists = entries.iter().filter_map(|entry| {
            let parse = || {
                Servers::parse(cluster, entry.value())
                    .inspect_err(
                        |error| tracing::debug!(%error, author = %entry.author(), "A list does not count"),
                    )
                    .ok()
            };
            self.by_entry.entry(*entry.hash()).or_insert_with(parse).clone()
        });
        lists.fold(genesis, Servers::or_better)
    }

    /// Forgets lists of another cluster.
    pub(super) fn clear(&mut self) {
        self.by_entry.clear();
    }
}

/// What a server has to ask of its Kubernetes API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Office {
    /// Its name there.
    pub name: String,
    /// Its cluster may have several servers, so there is a Lease.
    pub several: bool,
    /// The highest epoch that the ledger knows.
    pub epoch: u64,
    /// We are the lead of it.
    pub ours: bool,
    /// Whether the cluster runs workload matters now.
    pub idle: bool,
}

/// What we know of the servers of our cluster besides what the ledger says.
#[derive(Default)]
pub(super) struct Watch {
    /// Since when each of them that is away is away.
    away: BTreeMap<NodeId, Instant>,
    /// Since when none can be reached.
    silent_since: Option<Instant>,
    /// The Lease, if it is ours.
    pub(super) lease: Option<HeldLease>,
}

impl Watch {
    /// Looks who is there.
    pub(super) fn observe(&mut self, reign: &Reign, members: &Members, now: Instant) {
        let servers = reign.servers.current();
        self.away.retain(|id, _| servers.contains(id) && !members.is_live(*id));
        for id in servers.iter().filter(|id| !members.is_live(**id)) {
            self.away.entry(*id).or_insert(now);
        }
        if servers.iter().any(|id| members.is_live(*id)) {
            self.silent_since = None;
        } else {
            self.silent_since.get_or_insert(now);
        }
    }

    pub(super) fn away(&self) -> &BTreeMap<NodeId, Instant> {
        &self.away
    }

    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.silent_since
    }

    /// When the next server will have been away for `after`.
    pub(super) fn next_due(&self, after: Duration, now: Instant) -> Option<Instant> {
        self.away.values().map(|since| *since + after).filter(|due| *due > now).min()
    }
}

impl Node {
    /// Who leads and serves our cluster.
    pub(super) fn read_reign(&mut self, cluster: &Cluster) -> Reign {
        let servers = self.lists.best(&self.ledger, cluster);
        let key = Leadership::key(&cluster.network_id);
        let claims: Vec<_> = self
            .ledger
            .with_prefix(&key)
            .filter(|entry| entry.key().as_str() == key)
            .filter_map(|entry| Some((entry.author(), ledger::decode::<Leadership>(entry.value()).ok()?)))
            .collect();
        Reign::new(cluster, servers, claims)
    }

    /// Who leads our cluster.
    pub fn lead_of_cluster(&self) -> Option<NodeId> {
        self.reign.as_ref().map(|reign| reign.lead)
    }

    /// Everybody who ever was a server of our cluster, as far as is known.
    pub fn servers_of_cluster(&self) -> impl Iterator<Item = NodeId> {
        self.reign.iter().flat_map(|reign| reign.servers.ever())
    }

    /// Since which epoch, and whether that is us.
    pub fn lead_epoch(&self) -> Option<(u64, bool)> {
        self.reign.as_ref().map(|reign| (reign.epoch, reign.lead == self.id()))
    }

    /// What this server has to ask of its Kubernetes API, if it is one.
    pub fn office(&self) -> Option<Office> {
        let (cluster, reign) = (self.pinned.as_ref()?.cluster(), self.reign.as_ref()?);
        let config = &self.settings.config;
        let several = lead::several_servers(cluster);
        let idle = config.auto.merge && config.join.is_some() && self.founding.status().is_conflict();
        let applied = self.seen.applied.as_ref().filter(|applied| applied.role == Role::Server)?;
        let asks = (several || idle) && reign.servers.contains(&self.id());
        let ours = reign.lead == self.id();
        let name = applied.name.clone();
        asks.then_some(Office { name, several, epoch: reign.epoch, ours, idle })
    }

    /// The servers of our cluster that can be reached.
    pub(super) fn live_servers(&self, members: &Members) -> BTreeSet<NodeId> {
        let servers = self.reign.iter().flat_map(|reign| reign.servers.current());
        servers.copied().filter(|id| members.is_live(*id)).collect()
    }

    /// Whether we are a server of our cluster, or were one until we were replaced.
    pub(super) fn serves(&self) -> bool {
        let me = self.id();
        self.reign.as_ref().is_some_and(|reign| reign.servers.ever().any(|id| id == me))
    }
}

/// What leads of `cluster` assigned, as everybody reads it.
pub(super) fn assignments(ledger: &Ledger, cluster: &Cluster, reign: &Reign) -> Assignments {
    let prefix = format!("{}/", super::fact::in_network("assignment", &cluster.network_id));
    let written = ledger.with_prefix(&prefix).filter_map(|entry| {
        Some((entry.author(), entry.seq(), ledger::decode::<Assignment>(entry.value()).ok()?))
    });
    reign.standing(cluster, written)
}
