//! A lost cluster's heir: the decree of the next generation, among those that belonged to the lost one.

use std::time::Instant;

use super::{Node, ballots, fact, fresh, members::Members};
use crate::{
    address::{Drawer, Pool},
    config::RoleSetting,
    election::{Certificate, Cluster, Founding, FoundingSettings, Proposer, Register, Succession, View},
};

/// The name of the fact with which an operator's word outlives a restart.
const WORD: &str = "refound";

impl Node {
    /// An operator says that the servers of our cluster are lost for good.
    ///
    /// # Errors
    /// Why nothing can take its place from here.
    pub(super) fn request_heir(&mut self, now: Instant) -> Result<(), String> {
        let Some(cluster) = self.pinned.as_ref().map(|pinned| pinned.cluster().clone()) else {
            return Err("this machine belongs to no cluster, so there is nothing to found anew".to_owned());
        };
        if self.serves() {
            return Err(
                "this machine is a server of the cluster: it is not lost. If its k3s is beyond repair, `c3os reset` it, \
                 and say this on another member"
                    .to_owned(),
            );
        }
        if self.settings.config.role == RoleSetting::Worker {
            return Err(
                "`c3os.role: worker` keeps this machine from being a server; say this on another member, or \
                        remove the key"
                    .to_owned(),
            );
        }
        self.said.say(&mut self.ledger, &word(&cluster), &cluster.cluster_id, now);
        self.due = true;
        Ok(())
    }

    /// Takes part in the decree about our cluster's heir, while there is a reason to.
    pub(super) fn succeed(&mut self, members: &Members, cluster: &Cluster, now: Instant) {
        let network_id = &cluster.network_id;
        let generation = cluster.generation.saturating_add(1);
        let proposes = self.ledger.latest(&word(cluster)).is_some();
        let asked = [Proposer::key_in(network_id, generation), Certificate::key_in(network_id, generation)];
        let seen = || asked.iter().any(|key| self.ledger.with_prefix(key).next().is_some());
        if self.serves() || !(proposes || seen()) {
            self.heir = None;
            return;
        }
        if self.heir.is_none() {
            let succession =
                Succession { lost: cluster.cluster_id, generation: cluster.generation, proposes };
            let pool = Pool::new(self.settings.config.vpn.subnet, Drawer::Node)
                .expect("the same pool was made when this member started");
            let settings = FoundingSettings { succeeds: Some(succession), ..self.settings.founding(pool) };
            self.heir = Some(Founding::new(self.id(), settings, fresh(&mut self.rng)));
        }
        let view = self.view_of_heirs(members, cluster, generation);
        let Some(mut heir) = self.heir.take() else { return };
        if proposes {
            heir.stand();
        }
        let acts = heir.decide(&view, now);
        self.heir = Some(heir);
        self.carry_out(acts, generation, now);
    }

    fn view_of_heirs(&mut self, members: &Members, cluster: &Cluster, generation: u32) -> View {
        let mut view = ballots::view(
            &self.ledger,
            &mut self.certificates,
            members,
            &self.settings,
            ballots::Decree { generation, lost: Some(cluster.cluster_id) },
        );
        let servers = self.reign.iter().flat_map(|reign| reign.servers.ever());
        for server in servers.collect::<Vec<_>>() {
            view.voters.remove(&server);
        }
        view.discovery_exhausted = true;
        view.exchanged = self.exchanged;
        view.live_servers = self.live_servers(members);
        view.servers_silent_since = self.watch.silent_since();
        view.slowest_round_trip = self.slowest_round_trip(members);
        view
    }
}

fn word(cluster: &Cluster) -> String {
    format!("{}/{}", fact::in_network(WORD, &cluster.network_id), cluster.generation)
}
