//! The members as the ledger shows them: decoded once per evaluation, for everybody who decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use serde::de::DeserializeOwned;

use super::{bans::Outside, fact, liveness};
use crate::{address::Claim, config::NetworkId, identity::NodeId, ledger::Ledger};

/// All members, those that are away included, those outside left out.
pub(super) struct Members {
    by_id: BTreeMap<NodeId, MemberFacts>,
    live: BTreeSet<NodeId>,
}

/// What one member says of itself.
#[derive(Debug, Default, Clone)]
pub(super) struct MemberFacts {
    pub(super) machine: Option<fact::Machine>,
    pub(super) claim: Option<Claim>,
    neighbours: BTreeSet<NodeId>,
}

impl Members {
    pub(super) fn of(ledger: &Ledger, connected: &BTreeSet<NodeId>, outside: &Outside) -> Self {
        let me = ledger.id();
        let mut by_id: BTreeMap<NodeId, MemberFacts> = ledger
            .authors()
            .filter(|author| *author == me || !outside.contains(author))
            .map(|author| {
                let facts = MemberFacts {
                    machine: read(ledger, author, fact::MACHINE),
                    claim: read(ledger, author, fact::ADDRESS),
                    neighbours: read::<fact::Neighbours>(ledger, author, fact::NEIGHBOURS)
                        .unwrap_or_default()
                        .0,
                };
                (author, facts)
            })
            .collect();
        by_id.entry(me).or_default();
        let claims = by_id.iter().map(|(id, facts)| (*id, facts.neighbours.clone())).collect();
        let connected = connected.iter().copied().filter(|peer| !outside.contains(peer)).collect();
        let mut live = liveness::live(me, &connected, &claims);
        live.retain(|node| *node == me || !outside.contains(node));
        Self { by_id, live }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &MemberFacts)> {
        self.by_id.iter().map(|(id, facts)| (*id, facts))
    }

    pub(super) fn live(&self) -> &BTreeSet<NodeId> {
        &self.live
    }

    pub(super) fn is_live(&self, id: NodeId) -> bool {
        self.live.contains(&id)
    }

    /// What every member claims.
    pub(super) fn claims(&self) -> BTreeMap<NodeId, Claim> {
        self.by_id.iter().filter_map(|(id, facts)| Some((*id, facts.claim?))).collect()
    }

    /// The address that a member claims, unless another member claims the same.
    pub(super) fn uncontested_address(&self, id: NodeId) -> Option<Ipv4Addr> {
        let claimed = self.by_id.get(&id)?.claim?.v4;
        let rivals = self
            .by_id
            .iter()
            .filter(|(other, facts)| **other != id && facts.claim.is_some_and(|claim| claim.v4 == claimed));
        (rivals.count() == 0).then_some(claimed)
    }

    /// The members that want to be in one cluster and may have a role in it.
    pub(super) fn nodes_of<'a>(
        &'a self,
        network_id: &'a NetworkId,
    ) -> impl Iterator<Item = (NodeId, &'a fact::Machine)> {
        self.by_id.iter().filter_map(move |(id, facts)| {
            let machine = facts.machine.as_ref()?;
            (machine.network_id == *network_id && !machine.observer).then_some((*id, machine))
        })
    }
}

/// What `author` says under `key`; none if it says nothing, or nothing that we understand.
pub(super) fn read<T>(ledger: &Ledger, author: NodeId, key: &str) -> Option<T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    ledger.get(author, key)?.read::<T>().map(Arc::unwrap_or_clone)
}
