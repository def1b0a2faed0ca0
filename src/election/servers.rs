//! The list of servers: a chain of signed changes that begins at the founder.
//!
//! ```text
//! certificate: { founder } <-- added B, by A in epoch 1 <-- added C, by A in epoch 1 <-- removed A, by B in epoch 2
//!                                                                                        with the consent of C
//! ```
//! Each link is signed by the lead of its time over the hash of what came before, so that anybody who has the
//! certificate checks the whole list alone. A lead adds a server by itself; it removes one only with the consent of a
//! majority of the other servers, its own included, each given for this very place in the chain.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Cluster;
use crate::{
    config::NetworkId,
    identity::{Identity, NodeId, Signature},
};

/// What a link is signed for.
const LINK: &str = "c3os server list";
/// What a consent is signed for.
const CONSENT: &str = "c3os server removal";

/// Why a list of servers does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServersError {
    /// It cannot be decoded.
    #[error("a server list that cannot be read")]
    Malformed,
    /// A link was not signed by whom it names, for this place.
    #[error("a server list with a forged link")]
    Signature,
    /// A link by somebody who was no server then, or in an epoch before its predecessor's.
    #[error("a server list changed by somebody who had no right to")]
    NotLead,
    /// It adds a server that is or was one, or removes one that is none.
    #[error("a server list with an impossible change")]
    Impossible,
    /// Too few of the other servers agreed to a removal.
    #[error("{given} of {needed} servers agreed to remove a server")]
    TooFewConsents {
        /// How many did, the lead included.
        given: usize,
        /// How many make a majority of the others.
        needed: usize,
    },
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Link {
    epoch: u64,
    lead: NodeId,
    change: Change,
    #[serde(with = "super::bytes")]
    signature: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Change {
    Added { node: NodeId },
    Removed { node: NodeId, consents: Vec<Consent> },
}

/// A server's agreement that another one is taken off the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// Who agrees.
    pub server: NodeId,
    #[serde(with = "super::bytes")]
    signature: Vec<u8>,
}

/// When somebody was a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Time {
    since: u64,
    until: Option<u64>,
}

/// A list of servers whose every link has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    links: Vec<Link>,
    times: BTreeMap<NodeId, Time>,
    /// In the order in which they became servers, those that were removed left out.
    current: Vec<NodeId>,
    head: [u8; 32],
}

impl Servers {
    /// The list as founding leaves it: the founder alone.
    pub fn genesis(cluster: &Cluster) -> Self {
        let mut hash = Sha256::new();
        hash.update(cluster.cluster_id.as_bytes());
        hash.update(cluster.founder.as_bytes());
        Self {
            links: Vec::new(),
            times: BTreeMap::from([(cluster.founder, Time { since: 1, until: None })]),
            current: vec![cluster.founder],
            head: hash.finalize().into(),
        }
    }

    /// The ledger key under which leads publish it.
    pub fn key(network_id: &NetworkId) -> String {
        format!("servers/{network_id}")
    }

    /// Reads a list and checks all of it. Costs a signature check for each link and each consent.
    ///
    /// # Errors
    /// [`ServersError`] says what is wrong with it.
    pub fn parse(cluster: &Cluster, bytes: &[u8]) -> Result<Self, ServersError> {
        let links: Vec<Link> = crate::ledger::decode(bytes).map_err(|_| ServersError::Malformed)?;
        links.into_iter().try_fold(Self::genesis(cluster), Self::then)
    }

    /// The bytes that [`Servers::parse`] takes.
    pub fn to_bytes(&self) -> Vec<u8> {
        crate::ledger::encode(&self.links).expect("a list of servers is plain data")
    }

    /// Of two lists of one cluster the one that stands: the longer of two that agree, else the one that goes on in the
    /// later epoch. Everybody who sees both decides alike.
    pub fn or_better(self, other: Self) -> Self {
        let fork = self.links.iter().zip(&other.links).position(|(a, b)| a != b);
        let rank = |list: &Self| match fork {
            None => (list.links.len() as u64, [0; 32]),
            Some(at) => (list.links[at].epoch, list.head),
        };
        if rank(&other) > rank(&self) { other } else { self }
    }

    /// The servers, in the order in which they became it.
    pub fn current(&self) -> &[NodeId] {
        &self.current
    }

    /// Whether `id` is a server.
    pub fn contains(&self, id: &NodeId) -> bool {
        self.current.contains(id)
    }

    /// Whether `id` was a server and is none any more.
    pub fn was_removed(&self, id: &NodeId) -> bool {
        self.times.get(id).is_some_and(|time| time.until.is_some())
    }

    /// All that are or were servers.
    pub fn ever(&self) -> impl Iterator<Item = NodeId> {
        self.times.keys().copied()
    }

    /// Whether a fact that `author` wrote as lead of `epoch` counts: it was a server then.
    pub fn may_have_led(&self, author: &NodeId, epoch: u64) -> bool {
        self.times
            .get(author)
            .is_some_and(|time| time.since <= epoch && time.until.is_none_or(|until| epoch < until))
    }

    /// The list with one more server, signed by the lead of `epoch`.
    ///
    /// # Errors
    /// [`ServersError`] if the lead may not, or the node is or was a server.
    pub fn add(&self, lead: &Identity, epoch: u64, node: NodeId) -> Result<Self, ServersError> {
        self.sign(lead, epoch, Change::Added { node })
    }

    /// The list with one server less, signed by the lead of `epoch`.
    ///
    /// # Errors
    /// [`ServersError`] if the lead may not, the node is no server, or too few of the others agreed.
    pub fn remove(
        &self,
        lead: &Identity,
        epoch: u64,
        node: NodeId,
        consents: impl IntoIterator<Item = Consent>,
    ) -> Result<Self, ServersError> {
        let consents = consents.into_iter().filter(|consent| self.is_consent(consent, &node)).collect();
        self.sign(lead, epoch, Change::Removed { node, consents })
    }

    /// Our agreement that `node` is taken off this list, as it is now.
    pub fn consent(&self, me: &Identity, node: &NodeId) -> Consent {
        let signature = me.sign(CONSENT, &self.place_of(node)).to_bytes().to_vec();
        Consent { server: me.id(), signature }
    }

    fn sign(&self, lead: &Identity, epoch: u64, change: Change) -> Result<Self, ServersError> {
        let mut link = Link { epoch, lead: lead.id(), change, signature: Vec::new() };
        link.signature = lead.sign(LINK, &self.hash_of(&link)).to_bytes().to_vec();
        self.clone().then(link)
    }

    /// The list with one more link, if that is a good one.
    fn then(mut self, link: Link) -> Result<Self, ServersError> {
        let hash = self.hash_of(&link);
        let signature = signature(&link.signature).ok_or(ServersError::Signature)?;
        if !link.lead.verify(LINK, &hash, &signature) {
            return Err(ServersError::Signature);
        }
        let last = self.links.last().map_or(1, |last| last.epoch);
        if !self.contains(&link.lead) || link.epoch < last {
            return Err(ServersError::NotLead);
        }
        match &link.change {
            Change::Added { node } => {
                if self.times.contains_key(node) {
                    return Err(ServersError::Impossible);
                }
                self.times.insert(*node, Time { since: link.epoch, until: None });
                self.current.push(*node);
            }
            Change::Removed { node, consents } => {
                if *node == link.lead || !self.contains(node) {
                    return Err(ServersError::Impossible);
                }
                let agreed: BTreeSet<NodeId> = consents
                    .iter()
                    .filter(|consent| self.is_consent(consent, node))
                    .map(|consent| consent.server)
                    .chain([link.lead])
                    .collect();
                let needed = (self.current.len() - 1) / 2 + 1;
                if agreed.len() < needed {
                    return Err(ServersError::TooFewConsents { given: agreed.len(), needed });
                }
                if let Some(time) = self.times.get_mut(node) {
                    time.until = Some(link.epoch);
                }
                self.current.retain(|server| server != node);
            }
        }
        self.head = hash;
        self.links.push(link);
        Ok(self)
    }

    /// Whether `consent` is another server's, for the removal of `node` from this very list.
    fn is_consent(&self, consent: &Consent, node: &NodeId) -> bool {
        consent.server != *node
            && self.contains(&consent.server)
            && signature(&consent.signature)
                .is_some_and(|signature| consent.server.verify(CONSENT, &self.place_of(node), &signature))
    }

    fn place_of(&self, node: &NodeId) -> Vec<u8> {
        [&self.head[..], node.as_bytes()].concat()
    }

    fn hash_of(&self, link: &Link) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.head);
        hash.update(link.epoch.to_be_bytes());
        hash.update(link.lead.as_bytes());
        let (kind, node, consents): (u8, &NodeId, &[Consent]) = match &link.change {
            Change::Added { node } => (1, node, &[]),
            Change::Removed { node, consents } => (2, node, consents),
        };
        hash.update([kind]);
        hash.update(node.as_bytes());
        for consent in consents {
            hash.update(consent.server.as_bytes());
            hash.update(&consent.signature);
        }
        hash.finalize().into()
    }
}

fn signature(bytes: &[u8]) -> Option<Signature> {
    bytes.try_into().ok().map(Signature::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::{ClusterId, Datastore};

    fn identity(n: u8) -> Identity {
        Identity::from_seed(&[n; 32])
    }

    fn cluster() -> Cluster {
        Cluster {
            cluster_id: ClusterId::from_bytes([5; 16]),
            network_id: NetworkId::default(),
            generation: 1,
            supersedes: None,
            founder: identity(1).id(),
            minimum_nodes: 2,
            servers: 3,
            datastore: Datastore::Etcd,
            addresses: [].into(),
        }
    }

    fn three() -> Servers {
        let list = Servers::genesis(&cluster());
        let list = list.add(&identity(1), 1, identity(2).id()).expect("the founder leads");
        list.add(&identity(1), 1, identity(3).id()).expect("it still does")
    }

    #[test]
    fn a_list_is_checked_from_the_certificate_on() {
        let list = three();
        assert_eq!(list.current(), [1, 2, 3].map(|n| identity(n).id()));
        assert_eq!(Servers::parse(&cluster(), &list.to_bytes()), Ok(list.clone()));
        let elsewhere = Cluster { cluster_id: ClusterId::from_bytes([6; 16]), ..cluster() };
        assert_eq!(Servers::parse(&elsewhere, &list.to_bytes()), Err(ServersError::Signature));
        for cut in 0..list.to_bytes().len() {
            assert!(Servers::parse(&cluster(), &list.to_bytes()[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn only_servers_change_it_and_none_twice() {
        let list = three();
        assert_eq!(list.add(&identity(4), 2, identity(5).id()), Err(ServersError::NotLead));
        assert_eq!(list.add(&identity(2), 1, identity(3).id()), Err(ServersError::Impossible));
        let later = list.add(&identity(2), 4, identity(5).id()).expect("the lead of epoch 4");
        assert_eq!(later.add(&identity(1), 3, identity(6).id()), Err(ServersError::NotLead));
        // A link in somebody else's name.
        let mut forged = later.links.clone();
        forged[2].lead = identity(3).id();
        let bytes = crate::ledger::encode(&forged).expect("plain data");
        assert_eq!(Servers::parse(&cluster(), &bytes), Err(ServersError::Signature));
    }

    #[test]
    fn removing_needs_a_majority_of_the_others_for_this_very_list() {
        let (list, dead) = (three(), identity(1).id());
        let alone = list.remove(&identity(2), 2, dead, []);
        assert_eq!(alone, Err(ServersError::TooFewConsents { given: 1, needed: 2 }));
        // Neither the dead one's own, nor one twice, nor a stranger's, nor one for another list counts.
        let longer = list.add(&identity(2), 2, identity(4).id()).expect("the lead");
        let useless = [
            list.consent(&identity(1), &dead),
            list.consent(&identity(2), &dead),
            list.consent(&identity(9), &dead),
            longer.consent(&identity(3), &dead),
        ];
        assert!(list.remove(&identity(2), 2, dead, useless).is_err());
        let after =
            list.remove(&identity(2), 2, dead, [list.consent(&identity(3), &dead)]).expect("two of two");
        assert_eq!(after.current(), [2, 3].map(|n| identity(n).id()));
        assert!(after.was_removed(&dead) && !after.contains(&dead));
        assert_eq!(Servers::parse(&cluster(), &after.to_bytes()), Ok(after.clone()));
        // What it wrote before still counts, what it writes afterwards does not, and it never comes back as it was.
        assert!(after.may_have_led(&dead, 1) && !after.may_have_led(&dead, 2));
        assert_eq!(after.add(&identity(2), 2, dead), Err(ServersError::Impossible));
        assert_eq!(after.remove(&identity(2), 2, identity(2).id(), []), Err(ServersError::Impossible));
    }

    #[test]
    fn of_two_lists_everybody_takes_the_same() {
        let list = three();
        let shorter = Servers::genesis(&cluster());
        assert_eq!(shorter.clone().or_better(list.clone()), list);
        assert_eq!(list.clone().or_better(shorter), list);
        let late = list.add(&identity(2), 3, identity(4).id()).expect("the lead of epoch 3");
        // One that lost its lease went on regardless, and made more links.
        let stale = list.add(&identity(1), 2, identity(5).id()).expect("the lead of epoch 2");
        let stale = stale.add(&identity(1), 2, identity(6).id()).expect("again");
        assert_eq!(late.clone().or_better(stale.clone()), late);
        assert_eq!(stale.or_better(late.clone()), late);
    }
}
