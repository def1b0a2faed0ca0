//! What must hold after every step, whatever goes wrong (`founding-and-roles`: "What the simulation must hold").

use std::collections::{BTreeMap, BTreeSet};

use c3os::node::snapshot::ClusterState;

use crate::{schedule::is_overlay, world::World};

/// What was seen so far in one run.
#[derive(Default)]
pub struct Watch {
    /// Every cluster that any machine ever pinned, by the ids of those that did.
    pub clusters: BTreeMap<String, BTreeSet<usize>>,
    pinned: BTreeMap<usize, String>,
    roles: BTreeMap<usize, (String, String, std::net::Ipv4Addr)>,
}

impl Watch {
    /// Looks at every running machine.
    ///
    /// # Errors
    /// Which rule was broken, and by whom.
    pub fn check(&mut self, world: &World, rule_holds: bool) -> Result<(), String> {
        for (at, host) in world.hosts.iter().enumerate() {
            let Some(node) = &host.node else { continue };
            let name = &host.name;
            if let Some(cluster) = node.cluster_id() {
                let cluster = cluster.to_string();
                if let Some(before) = self.pinned.get(&at).filter(|before| **before != cluster) {
                    return Err(format!("{name} had pinned cluster {before} and is now in {cluster}"));
                }
                self.pinned.insert(at, cluster.clone());
                self.clusters.entry(cluster).or_default().insert(at);
            }
            if let Some(order) = &host.order {
                let assignment = &order.assignment;
                let now =
                    (assignment.cluster_id.to_string(), assignment.role.to_string(), assignment.address);
                if let Some(before) = self.roles.get(&at).filter(|before| **before != now) {
                    return Err(format!("{name} was {before:?} and is now {now:?}"));
                }
                if !is_overlay(assignment.address) {
                    return Err(format!("{name} got the address {} outside the subnet", assignment.address));
                }
                self.roles.insert(at, now);
            }
        }
        if rule_holds && self.clusters.len() > 1 {
            return Err(format!("two clusters: {:?}", self.clusters));
        }
        let mut holders = BTreeMap::new();
        for (at, (cluster, _, address)) in &self.roles {
            if let Some(other) = holders.insert((cluster, address), at) {
                return Err(format!("hosts {other} and {at} both hold the assigned address {address}"));
            }
        }
        Ok(())
    }

    /// Whether everything is as it shall be once nothing goes wrong any more.
    pub fn is_settled(&self, world: &World) -> bool {
        let mut servers = 0;
        let mut clusters = BTreeSet::new();
        for host in &world.hosts {
            let Some(node) = &host.node else { return false };
            let Some(order) = &host.order else { return false };
            clusters.insert(order.assignment.cluster_id);
            servers += usize::from(order.assignment.role == c3os::election::Role::Server);
            if node.snapshot().cluster.state != ClusterState::Founded {
                return false;
            }
        }
        let digests: BTreeSet<_> =
            world.hosts.iter().filter_map(|host| Some(host.node.as_ref()?.ledger().fingerprint())).collect();
        clusters.len() == 1 && servers == 1 && digests.len() == 1
    }
}
