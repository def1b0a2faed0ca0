//! Our part in founding, and which clusters there are.

use std::time::{Duration, Instant};

use super::{Event, Node, ballots, members::Members};
use crate::election::{Acceptor, Act, Certificate, Cluster, Proposer, Register, View};

impl Node {
    /// Takes part in founding.
    pub(super) fn elect(&mut self, members: &Members, now: Instant) {
        let view = self.view(members);
        let acts = self.founding.decide(&view, now);
        self.carry_out(acts, 1, now);
    }

    /// Does what a decree of `generation` asks for.
    pub(super) fn carry_out(&mut self, acts: Vec<Act>, generation: u32, now: Instant) {
        let network_id = self.settings.network_id().clone();
        for act in acts {
            match act {
                Act::WriteAcceptor(acceptor) => {
                    let key = Acceptor::key_in(&network_id, generation);
                    self.said.say(&mut self.ledger, &key, &acceptor, now);
                }
                Act::WriteProposer(proposer) => {
                    let key = Proposer::key_in(&network_id, generation);
                    self.said.say(&mut self.ledger, &key, &proposer, now);
                }
                Act::Publish(certificate) => {
                    let key = Certificate::key_in(&network_id, certificate.cluster().generation);
                    self.said.say_bytes(&mut self.ledger, &key, certificate.to_bytes(), now);
                }
                Act::Pin(certificate) => self.events.push_back(Event::Pin(certificate.to_bytes())),
            }
        }
    }

    /// What founding decides on.
    pub(super) fn view(&mut self, members: &Members) -> View {
        let mut view = ballots::view(
            &self.ledger,
            &mut self.certificates,
            members,
            &self.settings,
            ballots::Decree { generation: 1, lost: None },
        );
        view.pinned.clone_from(&self.pinned);
        view.discovery_exhausted = self.seen.discovery_exhausted && self.exchanged;
        view.exchanged = self.exchanged;
        view.slowest_round_trip = self.slowest_round_trip(members);
        view.applied = self.seen.applied.as_ref().map(|applied| applied.cluster_id);
        view.serves = self.serves();
        view.may_leave = !view.serves || self.seen.idle;
        view
    }

    /// The slowest round trip to a member that can be reached.
    pub(super) fn slowest_round_trip(&self, members: &Members) -> Duration {
        let live = self.seen.round_trips.iter().filter(|(id, _)| members.is_live(**id));
        live.map(|(_, round_trip)| *round_trip).max().unwrap_or_default()
    }

    /// As an observer: which clusters there are under this network id.
    pub(super) fn look_for_clusters(&mut self) {
        let key = Certificate::key(self.settings.network_id());
        self.clusters_seen = self.certificates.of(&self.ledger, &key);
    }

    /// The cluster whose lead is believed.
    pub(super) fn followed(&mut self) -> Option<Cluster> {
        if let Some(pinned) = &self.pinned {
            return Some(pinned.cluster().clone());
        }
        let key = Certificate::key(self.settings.network_id());
        let founded = self.certificates.of(&self.ledger, &key);
        let superseded = |id| founded.iter().any(|other| other.cluster().supersedes == Some(id));
        let mut clusters = founded
            .iter()
            .map(|certificate| certificate.cluster())
            .filter(|cluster| !superseded(cluster.cluster_id));
        let first = clusters.next()?;
        clusters.all(|other| other.cluster_id == first.cluster_id).then(|| first.clone())
    }
}
