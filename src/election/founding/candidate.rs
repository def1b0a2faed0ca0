//! What a node may do as a proposer, and says while it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Instant,
};

use super::{Act, Founding, Pace, peer, peers};
use crate::{
    config::RoleSetting,
    election::{
        Acceptor, Ballot, Cluster, ClusterId, FoundingStatus, Peer, Value, View,
        decree::{Candidacy, Progress, Registers},
        electorate::Electorate,
        pace,
    },
    identity::NodeId,
};

enum Outlook {
    Waits(FoundingStatus),
    Follows(Peer),
    Stands(Standing),
}

/// A candidate's place.
struct Standing {
    /// How many candidates come before this node.
    rank: usize,
    first: NodeId,
    minimum_nodes: u16,
    /// How many promises to wait for.
    caution: usize,
    /// It needs nobody else.
    alone: bool,
}

impl Founding {
    pub(super) fn propose(
        &mut self,
        view: &View,
        void: &BTreeSet<NodeId>,
        registers: &Registers<'_>,
        now: Instant,
        acts: &mut Vec<Act>,
    ) -> FoundingStatus {
        let minimum = self.minimum_nodes();
        let mut electorate = Electorate::new(view, void, &self.silence, &mut self.draw, minimum, now);
        let succession = self.settings.succeeds.as_ref();
        if let Some(succession) = succession {
            // Nobody founds in a lost cluster's place without an operator's word, and whoever was told may.
            electorate.forced.clear();
            electorate.candidates = if succession.proposes { vec![self.me] } else { Vec::new() };
        }
        let needs_discovery =
            succession.is_none() && self.settings.minimum_nodes.is_none_or(|minimum| minimum <= 1);
        let pace = self.pace.get_or_insert_with(|| Pace::new(self.seed, now));
        pace.observe(view, view.discovery_exhausted && needs_discovery, now);
        let candidacy = match self.outlook(view, &electorate, needs_discovery, minimum) {
            Outlook::Waits(status) => {
                if let FoundingStatus::WaitingForNodes { absent, .. } = &status
                    && !absent.is_empty()
                    && let Some(end) = self.silence.next_end(now)
                {
                    self.wake(end, "stop waiting for a silent voter");
                }
                return status;
            }
            Outlook::Follows(proposer) => {
                if let Progress::Preparing(_) = self.decree.progress(registers) {
                    self.decree.withdraw();
                }
                return FoundingStatus::Following { proposer };
            }
            Outlook::Stands(standing) => standing,
        };
        let highest = registers.highest_ballot().map(|ballot| ballot.node);
        let open = highest.is_some_and(|id| id != self.me && electorate.present.contains(&id));
        let pace = self.pace.as_ref().expect("made above");
        let start = pace.start(candidacy.rank, open, candidacy.alone, view.slowest_round_trip);
        let fresh = |ballot| self.value(view, &candidacy, ballot);
        let asked = if self.proposer_in_flight.is_some() {
            None
        } else {
            let (may_start, caution) = (now >= start, candidacy.caution);
            let candidacy =
                Candidacy { minimum_nodes: candidacy.minimum_nodes, caution, may_start, fresh: &fresh };
            // The machine is not borrowed by `fresh` for writing: the decree is taken out while it runs.
            let mut decree = self.decree.clone();
            let asked = decree.propose(registers, &candidacy);
            self.decree = decree;
            asked
        };
        if let Some(asked) = asked {
            if asked.value.is_none() {
                self.pace.as_mut().expect("made above").count_attempt();
            }
            self.proposer_in_flight = Some(asked.clone());
            acts.push(Act::WriteProposer(asked));
        }
        let status = self.proposing(view, &electorate, registers, &candidacy);
        if matches!(status, FoundingStatus::Settling { .. } | FoundingStatus::Following { .. }) && start > now
        {
            self.wake(start, "propose a cluster");
        }
        status
    }

    /// What this node may do as a proposer, time aside.
    fn outlook(&self, view: &View, electorate: &Electorate, needs_discovery: bool, minimum: u16) -> Outlook {
        let master = self.settings.role == RoleSetting::Master;
        let succeeds = self.settings.succeeds.is_some();
        if electorate.forced.len() > 1 && !self.settings.several_servers() {
            let masters = peers(view, &electorate.forced);
            return Outlook::Waits(FoundingStatus::SeveralForcedMasters { masters });
        }
        let alone = master && !succeeds && self.settings.minimum_nodes.is_none() && !self.seen_others;
        let (minimum_nodes, caution) =
            if alone { (1, 1) } else { (minimum, electorate.majority().max(usize::from(minimum))) };
        if electorate.present.len() < caution {
            let absent = electorate.known.iter().filter(|id| !view.voters[*id].live);
            return Outlook::Waits(FoundingStatus::WaitingForNodes {
                present: electorate.present.len(),
                needed: caution,
                absent: peers(view, absent),
                unlike: peers(view, &electorate.unlike),
                minimum_nodes: minimum,
            });
        }
        if needs_discovery && !view.discovery_exhausted {
            return Outlook::Waits(FoundingStatus::WaitingForDiscovery);
        }
        match electorate.candidates.iter().position(|id| *id == self.me) {
            Some(rank) => {
                let alone = caution == 1;
                let first = electorate.candidates[0];
                Outlook::Stands(Standing { rank, first, minimum_nodes, caution, alone })
            }
            None if succeeds => Outlook::Waits(FoundingStatus::Succeeding {
                lost: self.settings.succeeds.as_ref().map_or(ClusterId::from_bytes([0; 16]), |s| s.lost),
            }),
            None => match electorate.candidates.first().or(electorate.forced.first()) {
                Some(first) => Outlook::Follows(peer(view, first)),
                None => Outlook::Waits(FoundingStatus::WaitingForNodes {
                    present: electorate.present.len(),
                    needed: electorate.present.len() + 1,
                    absent: Vec::new(),
                    unlike: peers(view, &electorate.unlike),
                    minimum_nodes: minimum,
                }),
            },
        }
    }

    /// A new cluster with this node as its founder.
    fn value(&self, view: &View, standing: &Standing, ballot: Ballot) -> Value {
        let id = pace::hash(&self.seed, b"cluster id", ballot.round);
        let cluster_id = ClusterId::from_bytes(*id.first_chunk().expect("32 bytes begin with 16"));
        Value::new(Cluster {
            cluster_id,
            network_id: self.settings.network_id.clone(),
            generation: self.generation(),
            supersedes: self.settings.succeeds.as_ref().map(|succession| succession.lost),
            founder: self.me,
            minimum_nodes: standing.minimum_nodes,
            servers: self.settings.additional_servers.saturating_add(1),
            datastore: self.settings.datastore(),
            addresses: self.addresses(view),
        })
    }

    /// The addresses to freeze: each usable, each of one node only, the founder's first.
    fn addresses(&self, view: &View) -> BTreeMap<NodeId, Ipv4Addr> {
        let usable = |address: &Ipv4Addr| self.settings.pool.is_usable(*address);
        let claims: Vec<(NodeId, Ipv4Addr)> =
            view.voters.iter().filter_map(|(id, voter)| Some((*id, voter.address.filter(usable)?))).collect();
        let claimed_once =
            |address: Ipv4Addr| claims.iter().filter(|(_, other)| *other == address).count() == 1;
        let (own, others): (Vec<_>, Vec<_>) = claims
            .iter()
            .copied()
            .filter(|(_, address)| claimed_once(*address))
            .partition(|(id, _)| *id == self.me);
        own.into_iter().chain(others).take(Cluster::MAX_ADDRESSES).collect()
    }

    /// The status of a candidate.
    fn proposing(
        &self,
        view: &View,
        electorate: &Electorate,
        registers: &Registers<'_>,
        standing: &Standing,
    ) -> FoundingStatus {
        let missing = |answered: &BTreeSet<NodeId>| peers(view, electorate.present.difference(answered));
        let answered = |answers: &dyn Fn(&Acceptor) -> bool| -> BTreeSet<NodeId> {
            let answered = registers.acceptors.iter().filter(|(_, held)| answers(held.register()));
            answered.map(|(id, _)| *id).collect()
        };
        match self.decree.progress(registers) {
            Progress::Idle if standing.rank == 0 => {
                FoundingStatus::Settling { present: electorate.present.len() }
            }
            Progress::Idle => FoundingStatus::Following { proposer: peer(view, &standing.first) },
            Progress::Preparing(ballot) => {
                let promised = answered(&|acceptor| acceptor.promised == Some(ballot));
                let bound = registers.acceptors.iter().filter(|(id, _)| promised.contains(id));
                let bound = bound.filter_map(|(_, held)| held.register().accepted.as_ref());
                match bound.max_by_key(|(ballot, _)| *ballot).map(|(_, value)| value.cluster().minimum_nodes)
                {
                    Some(then) if then != standing.minimum_nodes && promised.len() >= standing.caution => {
                        FoundingStatus::Bound { then, now: standing.minimum_nodes }
                    }
                    Some(_) | None => FoundingStatus::Preparing {
                        ballot,
                        promised: promised.len(),
                        needed: standing.caution,
                        missing: missing(&promised),
                    },
                }
            }
            Progress::Accepting(ballot) => {
                let voted =
                    answered(&|acceptor| acceptor.accepted.as_ref().is_some_and(|(b, _)| *b == ballot));
                FoundingStatus::Accepting {
                    ballot,
                    voted: voted.len(),
                    needed: usize::from(standing.minimum_nodes),
                    missing: missing(&voted),
                }
            }
        }
    }
}
