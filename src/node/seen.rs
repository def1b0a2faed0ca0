//! What was observed on this machine.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Node, Observed, fact};
use crate::{election::Certificate, identity::NodeId, k3s::Applied};

/// What was observed on this machine, the latest of each.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) discovery_exhausted: bool,
    pub(super) candidates: Vec<SocketAddr>,
    pub(super) applied: Option<Applied>,
    /// `applied` is of this run, not kept from an earlier one.
    pub(super) applied_now: bool,
    pub(super) not_applied: Option<String>,
    /// What the role could do better with, though it is applied.
    pub(super) lacking: Vec<String>,
    pub(super) unit: Option<(String, String)>,
    pub(super) server: Option<fact::Server>,
    /// Our cluster runs no workload, as its API server said.
    pub(super) idle: bool,
    pub(super) round_trips: BTreeMap<NodeId, Duration>,
}

impl Node {
    /// Something was seen on this machine.
    pub fn handle_observed(&mut self, observed: Observed, now: Instant) {
        match observed {
            Observed::DiscoveryExhausted => self.seen.discovery_exhausted = true,
            Observed::Candidates(candidates) => self.seen.candidates = candidates,
            Observed::Applied(applied) => {
                self.seen.not_applied = None;
                self.seen.applied = Some(applied);
                self.seen.applied_now = true;
            }
            Observed::Day(day) => self.handle_day(day),
            Observed::TokensKept => self.handle_tokens_kept(),
            Observed::Lacking(lacking) => self.seen.lacking = lacking,
            Observed::Pinned(certificate) => match Certificate::parse(&certificate) {
                Ok(certificate) => self.pin(certificate),
                Err(error) => {
                    tracing::error!(%error, "The founding certificate that was just kept is broken")
                }
            },
            Observed::NotApplied(why) => self.seen.not_applied = Some(why),
            Observed::Unit { name, state } => self.seen.unit = Some((name, state)),
            Observed::Server { up, ca_hash, version, lan_address } => {
                let voting = self.seen.server.as_ref().and_then(|server| server.voting);
                self.seen.server = self.cluster_id().map(|cluster_id| fact::Server {
                    cluster_id,
                    up,
                    ca_hash,
                    version,
                    voting,
                    lan_address,
                });
            }
            Observed::Voting(voting) => {
                if let Some(server) = &mut self.seen.server {
                    server.voting = Some(voting);
                }
            }
            Observed::Lease(lease) => {
                let same = self.watch.lease.map(|held| held.epoch) == lease.map(|held| held.epoch);
                self.watch.lease = lease;
                if same {
                    return;
                }
            }
            Observed::Idle(idle) => self.seen.idle = idle,
            Observed::ServerRemoved(node) => {
                self.removed.insert(node);
            }
            Observed::ServerNotRemoved(node) => {
                if self.removing == Some(node) {
                    self.removing = None;
                }
            }
            Observed::RoundTrips(round_trips) => self.seen.round_trips = round_trips,
        }
        self.due = true;
        self.evaluate(now);
    }
}
