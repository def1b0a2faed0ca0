//! The two registers that each voter keeps in the ledger, and no more.
//!
//! A register is one signed entry, replaced as a whole: a promise can never be seen without the vote that preceded it.
//! Both are synced to disk before they leave the node (the ledger's affair: an own entry is invisible until then).

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Value;
use crate::{config::NetworkId, identity::NodeId, ledger::SignedEntry};

/// An attempt to decide. Ballots order by round, then by proposer, and no two proposers share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Higher than any the proposer had seen, on its disk or from others.
    pub round: u64,
    /// Who proposes.
    pub node: NodeId,
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ballot({} of {:?})", self.round, self.node)
    }
}

/// What a voter answered: `acceptor/<network id>` in its part of the ledger; in the decree of a later generation,
/// `acceptor/<network id>/<generation>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptor {
    /// A random number made with the register. One voter that shows two has lost its memory in between.
    pub incarnation: u64,
    /// The highest ballot it answered; it answers no lower one any more.
    pub promised: Option<Ballot>,
    /// The value it voted for last, and in which ballot.
    pub accepted: Option<(Ballot, Value)>,
    /// It forgot what it had answered, and never votes in this decree again.
    #[serde(default)]
    pub void: bool,
}

/// What a proposer asks for: `proposer/<network id>`. One value per ballot, ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposer {
    /// The ballot.
    pub ballot: Ballot,
    /// m of the value; a voter with another number does not answer.
    pub minimum_nodes: u16,
    /// None asks for promises, a value for votes.
    pub value: Option<Value>,
}

impl Acceptor {
    /// The register of a voter that has answered nothing yet.
    pub fn fresh(incarnation: u64) -> Self {
        Self { incarnation, promised: None, accepted: None, void: false }
    }

    /// The register of a voter that does not know what it has answered.
    pub fn void(incarnation: u64) -> Self {
        Self { void: true, ..Self::fresh(incarnation) }
    }

    /// What this voter has to write in answer to a proposer; none if it has answered or must not.
    pub(super) fn answer(&self, asked: &Proposer) -> Option<Self> {
        let ballot = asked.ballot;
        if self.void || self.promised.is_some_and(|promised| promised > ballot) {
            return None;
        }
        match &asked.value {
            None if self.promised == Some(ballot) => None,
            None => Some(Self { promised: Some(ballot), ..self.clone() }),
            Some(_) if self.accepted.as_ref().is_some_and(|(accepted, _)| *accepted == ballot) => None,
            Some(value) => {
                Some(Self { promised: Some(ballot), accepted: Some((ballot, value.clone())), ..self.clone() })
            }
        }
    }

    /// Whether it voted for this value in this very ballot.
    pub(super) fn voted(&self, ballot: Ballot, value: &Value) -> bool {
        self.accepted.as_ref().is_some_and(|(b, v)| *b == ballot && v == value)
    }
}

/// A kind of register.
pub trait Register: DeserializeOwned + Serialize + Send + Sync + 'static {
    /// The first part of its ledger key; the network id follows after a slash.
    const NOUN: &'static str;

    /// Its ledger key in the first founding.
    fn key(network_id: &NetworkId) -> String {
        Self::key_in(network_id, 1)
    }

    /// Its ledger key in the decree of one generation.
    fn key_in(network_id: &NetworkId, generation: u32) -> String {
        key_in(Self::NOUN, network_id, generation)
    }

    /// Its ledger value.
    fn encode(&self) -> Vec<u8> {
        crate::ledger::encode(self).expect("a register is plain data")
    }
}

/// `noun/<network id>`, and for later generations `noun/<network id>/<generation>`.
pub(super) fn key_in(noun: &str, network_id: &NetworkId, generation: u32) -> String {
    match generation {
        0 | 1 => format!("{noun}/{network_id}"),
        later => format!("{noun}/{network_id}/{later}"),
    }
}

impl Register for Acceptor {
    const NOUN: &'static str = "acceptor";
}

impl Register for Proposer {
    const NOUN: &'static str = "proposer";
}

/// A register as the ledger holds it: what it says, and the signed bytes that prove it. Cloning is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct Held<T> {
    register: Arc<T>,
    entry: Arc<[u8]>,
}

/// Why something in the ledger is no register, or not the one it is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// It lies under another key.
    #[error("a register under the wrong ledger key")]
    Key,
    /// It cannot be decoded.
    #[error("a register that cannot be read")]
    Malformed,
    /// It carries something that is no cluster.
    #[error("a cluster description that cannot be read")]
    Value,
    /// A ballot of somebody else's in a proposer's register.
    #[error("a ballot under another node's name")]
    ForeignBallot,
}

impl Held<Acceptor> {
    /// Reads a voter's register of this decree from its ledger entry, whose signature has been checked.
    ///
    /// # Errors
    /// [`RegisterError`]; a voter whose register is unreadable counts as one that has none.
    pub fn read(entry: &SignedEntry, network_id: &NetworkId, generation: u32) -> Result<Self, RegisterError> {
        read(entry, network_id, generation)
    }
}

impl Held<Proposer> {
    /// Reads a proposer's register of this decree from its ledger entry, whose signature has been checked.
    ///
    /// # Errors
    /// [`RegisterError`]; a proposer whose register is unreadable counts as one that has none.
    pub fn read(entry: &SignedEntry, network_id: &NetworkId, generation: u32) -> Result<Self, RegisterError> {
        let held: Self = read(entry, network_id, generation)?;
        if held.register.ballot.node == entry.author() { Ok(held) } else { Err(RegisterError::ForeignBallot) }
    }
}

fn read<T: Register>(
    entry: &SignedEntry,
    network_id: &NetworkId,
    generation: u32,
) -> Result<Held<T>, RegisterError> {
    if entry.key().as_str() != T::key_in(network_id, generation) {
        return Err(RegisterError::Key);
    }
    let register = entry.read().ok_or(RegisterError::Malformed)?;
    Ok(Held { register, entry: entry.shared_bytes() })
}

impl<T> Held<T> {
    /// What the register says.
    pub fn register(&self) -> &T {
        &self.register
    }

    /// The signed entry.
    pub(super) fn entry(&self) -> &Arc<[u8]> {
        &self.entry
    }

    /// A register without evidence, for tests of the bare decree.
    #[cfg(test)]
    pub(super) fn unsigned(register: T) -> Self {
        Self { register: Arc::new(register), entry: [].into() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.register.fmt(f)
    }
}
