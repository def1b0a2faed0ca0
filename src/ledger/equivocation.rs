//! The proof that two machines run with one identity.

use super::{PeerFault, SignedEntry};
use crate::identity::NodeId;

/// Two entries that one author signed under one number: a cloned identity, or a lie. The proof needs nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Equivocation {
    lower: SignedEntry,
    higher: SignedEntry,
}

impl Equivocation {
    /// Puts two entries side by side; none if they prove nothing. Their signatures are the caller's affair.
    pub(super) fn new(one: SignedEntry, other: SignedEntry) -> Option<Self> {
        let clash = one.author() == other.author() && one.seq() == other.seq() && one != other;
        let (lower, higher) = if one.hash() < other.hash() { (one, other) } else { (other, one) };
        clash.then_some(Self { lower, higher })
    }

    /// Reads and checks a proof that somebody sent.
    ///
    /// # Errors
    /// [`PeerFault`] for an entry that is none, or two that prove nothing.
    pub(super) fn parse(one: &[u8], other: &[u8]) -> Result<Self, PeerFault> {
        Self::new(SignedEntry::parse(one)?, SignedEntry::parse(other)?).ok_or(PeerFault::FalseProof)
    }

    /// Whose identity it is.
    pub fn author(&self) -> NodeId {
        self.lower.author()
    }

    /// The two entries, the one with the lower hash first.
    pub fn entries(&self) -> (&SignedEntry, &SignedEntry) {
        (&self.lower, &self.higher)
    }
}
