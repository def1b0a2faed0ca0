//! Who writes the facts of a cluster: one lead at a time.
//!
//! With one server it is the founder, for good. With several it is the holder of a Kubernetes Lease
//! ([`Campaign`](super::Campaign)), whose transition count makes the epoch: an existing consensus instead of ours.
//! Facts order by (epoch, number of the write); those of somebody who was no server in that epoch do not count.

use std::{collections::BTreeMap, time::Instant};

use serde::{Deserialize, Serialize};

use super::{Assignment, Cluster, ClusterId, Datastore, Servers};
use crate::{config::NetworkId, identity::NodeId};

/// The epoch of a founder that has not had to ask anybody yet.
pub const FIRST_EPOCH: u64 = 1;

/// A server says that it leads: `lead/<network id>` in its part of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    /// Which cluster.
    pub cluster_id: ClusterId,
    /// Since which epoch; the higher one stands.
    pub epoch: u64,
}

impl Leadership {
    /// Its ledger key.
    pub fn key(network_id: &NetworkId) -> String {
        format!("lead/{network_id}")
    }
}

/// The Lease in a server's hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its epoch.
    pub epoch: u64,
    /// Until when nobody else can have it, whatever happens to this server.
    pub until: Instant,
}

/// Who leads a cluster, and who serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reign {
    /// The list of servers that stands.
    pub servers: Servers,
    /// Who leads, as far as the ledger tells.
    pub lead: NodeId,
    /// Since which epoch.
    pub epoch: u64,
}

impl Reign {
    /// What follows from the list of servers and from what servers say.
    pub fn new(
        cluster: &Cluster,
        servers: Servers,
        claims: impl IntoIterator<Item = (NodeId, Leadership)>,
    ) -> Self {
        let (epoch, lead) = claims
            .into_iter()
            .filter(|(author, claim)| {
                claim.cluster_id == cluster.cluster_id
                    && several_servers(cluster)
                    && servers.contains(author)
                    && servers.may_have_led(author, claim.epoch)
            })
            .map(|(author, claim)| (claim.epoch, author))
            .chain([(FIRST_EPOCH, cluster.founder)])
            .max_by_key(|(epoch, author)| (*epoch, *author == cluster.founder, *author))
            .unwrap_or((FIRST_EPOCH, cluster.founder));
        Self { servers, lead, epoch }
    }

    /// The epoch in which `me` may write facts of the cluster now; none: it may not.
    ///
    /// No lease, no new facts. A founder that is the only server so far needs none: nobody else could have it.
    pub fn may_write(&self, cluster: &Cluster, me: NodeId, lease: Option<Held>, now: Instant) -> Option<u64> {
        let sole_founder = cluster.founder == me && self.servers.current() == [me];
        if !several_servers(cluster) {
            return sole_founder.then_some(FIRST_EPOCH);
        }
        let held = lease.filter(|held| held.until > now && self.servers.contains(&me));
        match held {
            Some(held) => (held.epoch >= self.epoch).then_some(held.epoch),
            None => (sole_founder && self.lead == me && self.epoch == FIRST_EPOCH).then_some(FIRST_EPOCH),
        }
    }

    /// The assignments that count: those of this cluster by whoever led in their epoch, the newest of each node.
    ///
    /// `written` are all that the ledger holds: the author of the entry, the number of its write, and what it says.
    pub fn standing(
        &self,
        cluster: &Cluster,
        written: impl IntoIterator<Item = (NodeId, u64, Assignment)>,
    ) -> BTreeMap<NodeId, Assignment> {
        let mut standing = BTreeMap::<NodeId, ((u64, u64), Assignment)>::new();
        for (author, seq, assignment) in written {
            let order = (assignment.epoch, seq);
            let counts = assignment.cluster_id == cluster.cluster_id
                && self.servers.may_have_led(&author, assignment.epoch);
            if counts && standing.get(&assignment.node).is_none_or(|(other, _)| *other < order) {
                standing.insert(assignment.node, (order, assignment));
            }
        }
        standing.into_iter().map(|(node, (_, assignment))| (node, assignment)).collect()
    }
}

/// Whether the cluster's state can be served by more than one server.
pub fn several_servers(cluster: &Cluster) -> bool {
    match cluster.datastore {
        Datastore::Sqlite => false,
        Datastore::Etcd | Datastore::External => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{election::Role, identity::Identity};

    fn identity(n: u8) -> Identity {
        Identity::from_seed(&[n; 32])
    }

    fn id(n: u8) -> NodeId {
        identity(n).id()
    }

    fn cluster(datastore: Datastore) -> Cluster {
        Cluster {
            cluster_id: ClusterId::from_bytes([5; 16]),
            network_id: NetworkId::default(),
            generation: 1,
            supersedes: None,
            founder: id(1),
            minimum_nodes: 2,
            servers: 3,
            datastore,
            addresses: [].into(),
        }
    }

    fn claim(epoch: u64) -> Leadership {
        Leadership { cluster_id: ClusterId::from_bytes([5; 16]), epoch }
    }

    fn two_servers() -> Servers {
        Servers::genesis(&cluster(Datastore::Etcd)).add(&identity(1), 1, id(2)).expect("the founder leads")
    }

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "any instant will do: only differences count")]
        Instant::now()
    }

    #[test]
    fn with_one_server_the_founder_leads_for_good() {
        let cluster = cluster(Datastore::Sqlite);
        let reign = Reign::new(&cluster, Servers::genesis(&cluster), [(id(1), claim(7)), (id(2), claim(9))]);
        assert_eq!((reign.lead, reign.epoch), (id(1), 1));
        assert_eq!(reign.may_write(&cluster, id(1), None, start()), Some(1));
        let lease = Held { epoch: 9, until: start() + Duration::from_secs(9) };
        assert_eq!(reign.may_write(&cluster, id(2), Some(lease), start()), None);
    }

    #[test]
    fn without_a_lease_there_are_no_new_facts_once_there_are_two_servers() {
        let (cluster, now) = (cluster(Datastore::Etcd), start());
        let alone = Reign::new(&cluster, Servers::genesis(&cluster), []);
        assert_eq!(alone.may_write(&cluster, id(1), None, now), Some(1));
        let reign = Reign::new(&cluster, two_servers(), []);
        assert_eq!(reign.may_write(&cluster, id(1), None, now), None);
        let lease = Held { epoch: 1, until: now + Duration::from_secs(5) };
        assert_eq!(reign.may_write(&cluster, id(1), Some(lease), now), Some(1));
        assert_eq!(reign.may_write(&cluster, id(1), Some(lease), now + Duration::from_secs(5)), None);
        assert_eq!(reign.may_write(&cluster, id(3), Some(lease), now), None, "it is no server");
    }

    #[test]
    fn the_later_epoch_leads_and_the_earlier_one_writes_no_more() {
        let (cluster, now) = (cluster(Datastore::Etcd), start());
        let claims = [(id(1), claim(1)), (id(2), claim(2)), (id(3), claim(8))];
        let reign = Reign::new(&cluster, two_servers(), claims);
        assert_eq!((reign.lead, reign.epoch), (id(2), 2), "a worker's claim counts for nothing");
        let until = now + Duration::from_secs(5);
        assert_eq!(reign.may_write(&cluster, id(1), Some(Held { epoch: 1, until }), now), None);
        assert_eq!(reign.may_write(&cluster, id(2), Some(Held { epoch: 2, until }), now), Some(2));
        let elsewhere = Leadership { cluster_id: ClusterId::from_bytes([6; 16]), epoch: 9 };
        assert_eq!(Reign::new(&cluster, two_servers(), [(id(2), elsewhere)]).lead, id(1));
    }

    #[test]
    fn facts_order_by_epoch_then_by_write_and_only_a_leads_count() {
        let cluster = cluster(Datastore::Etcd);
        let reign = Reign::new(&cluster, two_servers(), []);
        let fact = |role, epoch| Assignment {
            node: id(4),
            role,
            cluster_id: cluster.cluster_id,
            address: [10, 1, 0, 4].into(),
            name: "n4".to_owned(),
            epoch,
        };
        let worker = fact(Role::Worker, 1);
        let written = [
            (id(1), 9, worker.clone()),
            (id(1), 4, fact(Role::Server, 1)),
            (id(4), 99, fact(Role::Server, 7)),
        ];
        assert_eq!(reign.standing(&cluster, written.clone()), [(id(4), worker)].into());
        let later = (id(2), 1, fact(Role::Server, 2));
        let standing = reign.standing(&cluster, written.into_iter().chain([later]));
        assert_eq!(standing[&id(4)].role, Role::Server);
        let foreign = Assignment { cluster_id: ClusterId::from_bytes([6; 16]), ..fact(Role::Server, 3) };
        assert!(reign.standing(&cluster, [(id(1), 1, foreign)]).is_empty());
    }
}
