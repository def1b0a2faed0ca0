//! Who counts in the decree right now, as one node sees it. Nobody else has to believe it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use super::{View, VoterView};
use crate::{
    config::{NetworkId, RoleSetting},
    identity::NodeId,
};

/// A voter that was away for so long is not waited for any more.
pub(super) const SILENCE: Duration = Duration::from_secs(600);

/// m, unless the configuration says otherwise.
pub const DEFAULT_MINIMUM_NODES: u16 = 2;

/// m of a node with this `c3os.minimum_nodes`.
pub(super) fn minimum_nodes(setting: Option<u16>) -> u16 {
    setting.unwrap_or(DEFAULT_MINIMUM_NODES).max(1)
}

/// The voters of one network id, sorted by what can be expected of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Electorate {
    /// Those that may vote some day and were not silent for [`SILENCE`].
    pub(super) known: BTreeSet<NodeId>,
    /// Those of the known that would answer a ballot of ours now: live, and with our m.
    pub(super) present: BTreeSet<NodeId>,
    /// Those of the known that are live, but want another m.
    pub(super) unlike: BTreeSet<NodeId>,
    /// Those of the known whose file says `role: master`.
    pub(super) forced: BTreeSet<NodeId>,
    /// Those of the present that may propose, the first in line first.
    pub(super) candidates: Vec<NodeId>,
}

impl Electorate {
    pub(super) fn new(
        view: &View,
        void: &BTreeSet<NodeId>,
        silence: &Silence,
        draw: &mut Draw,
        minimum: u16,
        now: Instant,
    ) -> Self {
        let mut electorate = Self::default();
        let may_vote = |id: &NodeId, voter: &VoterView| {
            voter.role != RoleSetting::None && !voter.abstains && !void.contains(id)
        };
        for (&id, voter) in view.voters.iter().filter(|(id, voter)| may_vote(id, voter)) {
            if silence.is_silent(&id, now) {
                continue;
            }
            electorate.known.insert(id);
            if voter.role == RoleSetting::Master {
                electorate.forced.insert(id);
            }
            if !voter.live {
                continue;
            }
            if minimum_nodes(voter.minimum_nodes) == minimum {
                electorate.present.insert(id);
            } else {
                electorate.unlike.insert(id);
            }
        }
        let may_propose = |id: &NodeId| match view.voters[id].role {
            RoleSetting::Master => true,
            RoleSetting::Auto => electorate.forced.is_empty(),
            RoleSetting::Worker | RoleSetting::None => false,
        };
        electorate.candidates = electorate.present.iter().copied().filter(may_propose).collect();
        electorate.candidates.sort_by_key(|id| draw.of(id));
        electorate
    }

    /// How many of the known make a majority.
    pub(super) fn majority(&self) -> usize {
        self.known.len() / 2 + 1
    }
}

/// Since when voters are away.
#[derive(Debug, Default)]
pub(super) struct Silence(BTreeMap<NodeId, Instant>);

impl Silence {
    pub(super) fn observe(&mut self, view: &View, now: Instant) {
        self.0.retain(|id, _| view.voters.get(id).is_some_and(|voter| !voter.live));
        for id in view.voters.iter().filter(|(_, voter)| !voter.live).map(|(id, _)| id) {
            self.0.entry(*id).or_insert(now);
        }
    }

    fn is_silent(&self, id: &NodeId, now: Instant) -> bool {
        self.0.get(id).is_some_and(|since| now >= *since + SILENCE)
    }

    /// When the next voter will have been away for long enough.
    pub(super) fn next_end(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|since| *since + SILENCE).filter(|end| *end > now).min()
    }
}

/// The order of candidates: the same on every node, fair among them, and different for each network id.
#[derive(Debug)]
pub(super) struct Draw {
    network_id: NetworkId,
    drawn: BTreeMap<NodeId, [u8; 32]>,
}

impl Draw {
    pub(super) fn new(network_id: NetworkId) -> Self {
        Self { network_id, drawn: BTreeMap::new() }
    }

    /// sha256(network_id, node id); the lowest proposes.
    pub(super) fn of(&mut self, id: &NodeId) -> [u8; 32] {
        *self.drawn.entry(*id).or_insert_with(|| {
            let mut hash = Sha256::new();
            hash.update([self.network_id.as_str().len() as u8]);
            hash.update(self.network_id.as_str());
            hash.update(id.as_bytes());
            hash.finalize().into()
        })
    }
}
