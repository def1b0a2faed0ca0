//! What founding sees of the ledger.

use std::collections::{BTreeMap, BTreeSet};

use super::{Settings, fact, members::Members};
use crate::{
    config::NetworkId,
    election::{Acceptor, Certificate, ClusterId, Held, Proposer, Register, View, VoterView},
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
        let later = format!("{key}/");
        let is_one = |found: &str| found == key || found.starts_with(&later);
        let entries: Vec<_> = ledger.with_prefix(key).filter(|entry| is_one(entry.key().as_str())).collect();
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

/// Which decree founding is about.
#[derive(Clone, Copy)]
pub(super) struct Decree {
    /// 1, or the generation of a lost cluster's heir.
    pub(super) generation: u32,
    /// The lost cluster: only its members vote.
    pub(super) lost: Option<ClusterId>,
}

/// Builds what founding decides on, the ledger's part of it.
pub(super) fn view(
    ledger: &Ledger,
    certificates: &mut Certificates,
    members: &Members,
    settings: &Settings,
    decree: Decree,
) -> View {
    let (network_id, generation) = (settings.network_id(), decree.generation);
    let (acceptor, proposer) =
        (Acceptor::key_in(network_id, generation), Proposer::key_in(network_id, generation));
    let cloned: BTreeSet<NodeId> = ledger.equivocations().map(|proof| proof.author()).collect();
    let mut voters = BTreeMap::new();
    for (id, facts) in members.iter() {
        let machine = facts.machine.as_ref().filter(|machine| machine.network_id == *network_id);
        let acceptor = ledger
            .get(id, &acceptor)
            .and_then(|entry| Held::<Acceptor>::read(entry, network_id, generation).ok());
        let proposer = ledger
            .get(id, &proposer)
            .and_then(|entry| Held::<Proposer>::read(entry, network_id, generation).ok());
        let is_me = id == ledger.id();
        if machine.is_none() && acceptor.is_none() && proposer.is_none() && !is_me {
            continue;
        }
        let belongs =
            machine.is_some_and(|machine| machine.cluster.is_some() && machine.cluster == decree.lost);
        if decree.lost.is_some() && !belongs && !is_me {
            continue;
        }
        let unknown = VoterView::default();
        let voter = VoterView {
            name: machine.map_or(unknown.name, |machine| machine.name.clone()),
            role: machine.map_or(unknown.role, fact::Machine::role_as_voter),
            minimum_nodes: machine.map_or(unknown.minimum_nodes, |machine| machine.minimum_nodes),
            // Who was told to join the lost cluster did, and may vote about its heir.
            abstains: machine.is_some_and(|machine| machine.abstains) && decree.lost.is_none(),
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
        amnesiac: ledger.amnesia() || has_unreadable_vote(ledger, network_id, generation),
        ..View::default()
    }
}

/// Our own vote is there and cannot be read: whoever goes on as if there were none may contradict it.
fn has_unreadable_vote(ledger: &Ledger, network_id: &NetworkId, generation: u32) -> bool {
    let vote = ledger.get(ledger.id(), &Acceptor::key_in(network_id, generation));
    vote.is_some_and(|entry| Held::<Acceptor>::read(entry, network_id, generation).is_err())
}
