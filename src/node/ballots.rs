//! What founding sees of the ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Settings, fact, members::Members};
use crate::{
    config::NetworkId,
    election::{Acceptor, Certificate, Held, Proposer, Register, View, VoterView},
    identity::NodeId,
    ledger::Ledger,
};

/// The valid certificates among the ledger's entries. Checking one costs many signatures, so each entry is checked
/// once.
#[derive(Default)]
pub(super) struct Certificates {
    by_entry: BTreeMap<[u8; 32], Option<Certificate>>,
}

impl Certificates {
    pub(super) fn of(&mut self, ledger: &Ledger, key: &str) -> Vec<Certificate> {
        let entries: Vec<_> = ledger.with_prefix(key).filter(|entry| entry.key().as_str() == key).collect();
        self.by_entry.retain(|hash, _| entries.iter().any(|entry| entry.hash() == hash));
        let parse = |bytes: &[u8]| {
            Certificate::parse(bytes)
                .inspect_err(|error| tracing::debug!(%error, "A founding certificate does not count"))
                .ok()
        };
        entries
            .iter()
            .filter_map(|entry| {
                self.by_entry.entry(*entry.hash()).or_insert_with(|| parse(entry.value())).clone()
            })
            .collect()
    }
}

/// Builds what founding decides on.
pub(super) fn view(
    ledger: &Ledger,
    certificates: &mut Certificates,
    members: &Members,
    settings: &Settings,
    pinned: Option<&Certificate>,
    discovery_exhausted: bool,
) -> View {
    let network_id = settings.network_id();
    let (acceptor, proposer) = (Acceptor::key(network_id), Proposer::key(network_id));
    let cloned: BTreeSet<NodeId> = ledger.equivocations().map(|proof| proof.author()).collect();
    let mut voters = BTreeMap::new();
    for (id, facts) in members.iter() {
        let machine = facts.machine.as_ref().filter(|machine| machine.network_id == *network_id);
        let acceptor =
            ledger.get(id, &acceptor).and_then(|entry| Held::<Acceptor>::read(entry, network_id).ok());
        let proposer =
            ledger.get(id, &proposer).and_then(|entry| Held::<Proposer>::read(entry, network_id).ok());
        let is_me = id == ledger.id();
        if machine.is_none() && acceptor.is_none() && proposer.is_none() && !is_me {
            continue;
        }
        let unknown = VoterView::default();
        let voter = VoterView {
            name: machine.map_or(unknown.name, |machine| machine.name.clone()),
            role: machine.map_or(unknown.role, fact::Machine::role_as_voter),
            minimum_nodes: machine.map_or(unknown.minimum_nodes, |machine| machine.minimum_nodes),
            abstains: machine.is_some_and(|machine| machine.abstains),
            live: members.is_live(id),
            cloned: cloned.contains(&id),
            address: members.uncontested_address(id),
            acceptor,
            proposer,
        };
        voters.insert(id, voter);
    }
    View {
        voters,
        certificates: certificates.of(ledger, &Certificate::key(network_id)),
        pinned: pinned.cloned(),
        discovery_exhausted,
        amnesiac: ledger.amnesia() || has_unreadable_vote(ledger, network_id),
        slowest_round_trip: Duration::ZERO,
    }
}

/// Our own vote is there and cannot be read: whoever goes on as if there were none may contradict it.
fn has_unreadable_vote(ledger: &Ledger, network_id: &NetworkId) -> bool {
    let vote = ledger.get(ledger.id(), &Acceptor::key(network_id));
    vote.is_some_and(|entry| Held::<Acceptor>::read(entry, network_id).is_err())
}
