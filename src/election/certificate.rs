//! The proof that a cluster was founded: who holds it needs nobody's word, now or in ten years.
//!
//! On the wire the value stands once; each signed entry that contains it is cut around it:
//! ```text
//! { version: 1, value, proposer: (before, after), acceptors: [(before, after), ..] }
//! ```
//! so that a certificate grows by about 250 bytes for each vote, whatever the value holds.

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Acceptor, Ballot, Cluster, Held, Proposer, RegisterError, Value};
use crate::{
    config::NetworkId,
    identity::NodeId,
    ledger::{PeerFault, SignedEntry},
};

const VERSION: u32 = 1;

/// A proven founding: the value, the proposer's signed register and those of m voters. Cloning is cheap.
#[derive(Clone)]
pub struct Certificate(Arc<Proof>);

struct Proof {
    ballot: Ballot,
    value: Value,
    voters: BTreeSet<NodeId>,
    proposer: Arc<[u8]>,
    acceptors: Vec<Arc<[u8]>>,
}

/// Why something is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be decoded.
    #[error("a founding certificate that cannot be read")]
    Malformed,
    /// It comes from a later program.
    #[error("a founding certificate of version {0}: update c3os on this machine")]
    Version(u32),
    /// A piece of evidence is no signed ledger entry.
    #[error("a founding certificate with a broken entry: {0}")]
    Entry(#[from] PeerFault),
    /// A piece of evidence is no register of this decree.
    #[error("a founding certificate with a broken register: {0}")]
    Register(#[from] RegisterError),
    /// The proposer asked for something else.
    #[error("a founding certificate whose proposer did not propose it")]
    NotProposed,
    /// A voter voted for something else, or in another ballot, or void.
    #[error("a founding certificate with a vote for something else")]
    NotVoted,
    /// One voter stands twice.
    #[error("a founding certificate that counts one vote twice")]
    VotedTwice,
    /// There are fewer votes than the value asks for.
    #[error("a founding certificate with {votes} of {needed} votes")]
    TooFewVotes {
        /// How many it has.
        votes: usize,
        /// How many make it valid.
        needed: u16,
    },
}

#[derive(Serialize, Deserialize)]
struct Wire {
    version: u32,
    value: Value,
    proposer: Cut,
    acceptors: Vec<Cut>,
}

/// The bytes of an entry before and after the value in it.
#[derive(Serialize, Deserialize)]
struct Cut {
    #[serde(with = "super::bytes")]
    before: Vec<u8>,
    #[serde(with = "super::bytes")]
    after: Vec<u8>,
}

impl Cut {
    fn new(entry: &[u8], value: &Value) -> Self {
        let value = value.bytes();
        let at = entry
            .windows(value.len())
            .position(|window| window == value)
            .expect("the evidence contains what it is evidence for");
        Self { before: entry[..at].to_vec(), after: entry[at + value.len()..].to_vec() }
    }

    fn entry(&self, value: &Value) -> Vec<u8> {
        [&self.before, value.bytes(), &self.after].concat()
    }
}

impl Certificate {
    /// Puts together the registers that prove a founding; none if they do not.
    ///
    /// Exactly m votes go in, those of the voters with the lowest ids, so that most nodes make the same bytes.
    pub(super) fn assemble<'a>(
        proposer: &Held<Proposer>,
        acceptors: impl IntoIterator<Item = (NodeId, &'a Held<Acceptor>)>,
    ) -> Option<Self> {
        let ballot = proposer.register().ballot;
        let value = proposer.register().value.as_ref()?;
        let needed = usize::from(value.cluster().minimum_nodes);
        let (voters, acceptors): (BTreeSet<_>, Vec<_>) = acceptors
            .into_iter()
            .filter(|(_, held)| !held.register().void && held.register().voted(ballot, value))
            .take(needed)
            .map(|(id, held)| (id, held.entry().clone()))
            .unzip();
        (voters.len() == needed).then(|| {
            let proposer = proposer.entry().clone();
            Self(Arc::new(Proof { ballot, value: value.clone(), voters, proposer, acceptors }))
        })
    }

    /// Reads a certificate and checks all of it: afterwards it is beyond doubt. Costs m + 1 signature checks.
    ///
    /// # Errors
    /// [`CertificateError`] says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        let wire: Wire = crate::ledger::decode(bytes).map_err(|_| CertificateError::Malformed)?;
        if wire.version != VERSION {
            return Err(CertificateError::Version(wire.version));
        }
        let proposer = wire.proposer.entry(&wire.value).into();
        let acceptors = wire.acceptors.iter().map(|cut| cut.entry(&wire.value).into()).collect();
        Self::prove(wire.value, proposer, acceptors)
    }

    fn prove(value: Value, proposer: Arc<[u8]>, acceptors: Vec<Arc<[u8]>>) -> Result<Self, CertificateError> {
        let (network_id, generation) = (&value.cluster().network_id, value.cluster().generation);
        let proposed = Held::<Proposer>::read(&SignedEntry::parse(&proposer)?, network_id, generation)?;
        let ballot = proposed.register().ballot;
        if proposed.register().value.as_ref() != Some(&value) {
            return Err(CertificateError::NotProposed);
        }
        let mut voters = BTreeSet::new();
        for bytes in &acceptors {
            let entry = SignedEntry::parse(bytes)?;
            let held = Held::<Acceptor>::read(&entry, network_id, generation)?;
            if held.register().void || !held.register().voted(ballot, &value) {
                return Err(CertificateError::NotVoted);
            }
            if !voters.insert(entry.author()) {
                return Err(CertificateError::VotedTwice);
            }
        }
        let needed = value.cluster().minimum_nodes;
        if voters.len() < usize::from(needed) {
            return Err(CertificateError::TooFewVotes { votes: voters.len(), needed });
        }
        Ok(Self(Arc::new(Proof { ballot, value, voters, proposer, acceptors })))
    }

    /// Checks all of it once more: signatures, registers, number of votes. It needs nothing but the certificate.
    ///
    /// # Errors
    /// [`CertificateError`] says what is wrong with it.
    pub fn verify(&self) -> Result<(), CertificateError> {
        let proof = &*self.0;
        Self::prove(proof.value.clone(), proof.proposer.clone(), proof.acceptors.clone()).map(drop)
    }

    /// The bytes that [`Certificate::parse`] takes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let proof = &*self.0;
        let wire = Wire {
            version: VERSION,
            value: proof.value.clone(),
            proposer: Cut::new(&proof.proposer, &proof.value),
            acceptors: proof.acceptors.iter().map(|entry| Cut::new(entry, &proof.value)).collect(),
        };
        crate::ledger::encode(&wire).expect("a certificate is plain data")
    }

    /// The ledger key under which a node publishes one of the first founding.
    pub fn key(network_id: &NetworkId) -> String {
        Self::key_in(network_id, 1)
    }

    /// The ledger key under which a node publishes one of this generation. All begin as that of the first does.
    pub fn key_in(network_id: &NetworkId, generation: u32) -> String {
        super::register::key_in("certificate", network_id, generation)
    }

    /// What was founded.
    pub fn cluster(&self) -> &Cluster {
        self.0.value.cluster()
    }

    /// Who proposed it. Not always the founder: a later proposer may have finished what the founder began.
    pub fn proposer(&self) -> NodeId {
        self.0.ballot.node
    }

    /// Whose votes it carries.
    pub fn voters(&self) -> &BTreeSet<NodeId> {
        &self.0.voters
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(self.cluster()).field(&self.0.ballot).finish()
    }
}
