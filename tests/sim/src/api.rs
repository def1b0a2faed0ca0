//! Kubernetes' API, as far as servers ask it: one Lease for each cluster, in an etcd that answers where the majority of
//! the cluster's servers hears each other.

use std::time::Duration;

use c3os::election::{Bid, LeaseRecord, RENEW_LEASE};

use crate::world::{Happening, World};

/// How long a write to the Lease takes.
const WRITE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3));

impl World {
    /// What the daemon's clerk does every few seconds.
    pub(super) fn ask_api(&mut self, host: usize) {
        let boot = self.hosts[host].boots;
        self.later(RENEW_LEASE, Happening::AsksApi { host, boot });
        let Some((office, cluster_id)) = self.hosts[host].office() else { return };
        let now = self.now;
        if self.etcd_answers(host) {
            let found = self.leases.get(&cluster_id).cloned();
            let (record, version) = found.map_or((None, 0), |(record, version)| (Some(record), version));
            if let Bid::Write { transitions } = self.hosts[host].handle_lease(record, &office, now) {
                let after = self.between(WRITE);
                self.later(after, Happening::WritesLease { host, boot, version, transitions });
            }
        }
        self.hosts[host].tell_lease(now);
    }

    /// The API server refuses what is not a change of the last version.
    pub(super) fn write_lease(&mut self, host: usize, version: u64, transitions: u64) {
        let Some((_, cluster_id)) = self.hosts[host].office() else { return };
        let last = self.leases.get(&cluster_id).map_or(0, |(_, version)| *version);
        let done = self.etcd_answers(host) && version == last;
        if done {
            let record = LeaseRecord {
                holder: self.hosts[host].id().to_string(),
                transitions,
                renewed: (last + 1).to_string(),
            };
            self.leases.insert(cluster_id, (record, last + 1));
        }
        let now = self.now;
        self.hosts[host].handle_lease_written(done, now);
    }

    fn etcd_answers(&self, host: usize) -> bool {
        let servers = self.hosts[host].servers();
        let heard = servers.iter().filter(|id| {
            (0..self.hosts.len()).any(|other| {
                self.hosts[other].id() == **id
                    && (other == host || (self.hosts[other].is_up() && self.hears(host, other)))
            })
        });
        heard.count() * 2 > servers.len()
    }
}
