//! Who a node is: an Ed25519 key for life, the id made from it, signatures, and sealing to one recipient.
//!
//! The id is libp2p's peer id in another dress, so that what an operator reads in `peers` is what a libp2p tool
//! prints. Pure: keys come in as seeds, the file that holds them is the room `host`'s affair.

mod fingerprint;
mod id;
#[cfg(feature = "memo")]
mod memo;
mod seal;

use std::fmt;

use ed25519_dalek::{Signer, SigningKey};
use zeroize::Zeroizing;

pub use fingerprint::{Fingerprint, Hardware, Likeness};
pub use id::{NodeId, NodeIdError};
pub use seal::SealError;

/// A detached Ed25519 signature (RFC 8032), 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// The signature as it goes on the wire.
    pub fn to_bytes(self) -> [u8; 64] {
        self.0
    }

    /// Reads a signature from the wire; whether it is a good one only [`NodeId::verify`] tells.
    pub fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// A node's secret key. It signs ledger entries, proves the libp2p peer id, and opens what was sealed to it.
pub struct Identity {
    key: SigningKey,
    id: NodeId,
}

impl Identity {
    /// Makes the identity that belongs to 32 secret bytes from the operating system's random source.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let id = NodeId::from_bytes(key.verifying_key().to_bytes());
        Self { key, id }
    }

    /// The secret bytes this identity was made from: for the identity file and the libp2p keypair, nothing else.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes())
    }

    /// The public half.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Signs `message` for one purpose; the `domain` keeps a signature from being good for another purpose.
    pub fn sign(&self, domain: &'static str, message: &[u8]) -> Signature {
        Signature(self.key.sign(&id::in_domain(domain, message)).to_bytes())
    }

    /// Opens what somebody sealed to this node with [`NodeId::seal`] under the same `context`.
    ///
    /// # Errors
    /// [`SealError`] if it was sealed to another node, for another context, or was changed on the way.
    pub fn open(&self, context: &'static str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        seal::open(&self.key, context, sealed)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
