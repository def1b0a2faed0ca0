//! The public name of a node.

use std::{fmt, str::FromStr};

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{SealError, Signature, seal};

/// What libp2p puts before an Ed25519 public key in a peer id: identity multihash of 36 bytes, then the protobuf
/// `{ type: Ed25519, data: 32 bytes }` (libp2p specs, peer-ids).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The Ed25519 public key of a node: libp2p peer id and ledger author in one.
///
/// Its text is libp2p's (`12D3KooW...`). It orders by bytes, the same on every machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

/// A text that is no node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a node id: expected the 52 characters that start with 12D3KooW, as `c3os peers` prints them")]
pub struct NodeIdError;

impl NodeId {
    /// Takes the 32 bytes of an Ed25519 public key.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the public key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The last eight characters of the text, for tables: the first eight are the same for every node.
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len() - 8..].to_owned()
    }

    /// Whether this node signed `message` for the purpose `domain` (strict Ed25519: no malleable forms).
    #[must_use]
    pub fn verify(&self, domain: &'static str, message: &[u8], signature: &Signature) -> bool {
        let (message, signature) = (in_domain(domain, message), signature.to_bytes());
        let check = || {
            let signature = ed25519_dalek::Signature::from_bytes(&signature);
            VerifyingKey::from_bytes(&self.0).is_ok_and(|key| key.verify_strict(&message, &signature).is_ok())
        };
        #[cfg(feature = "memo")]
        return super::memo::good(&self.0, &message, &signature, check);
        #[cfg(not(feature = "memo"))]
        check()
    }

    /// Seals `plaintext` so that this node alone can open it, and only for the same `context`.
    ///
    /// `ephemeral` is 32 fresh secret bytes, never used twice.
    ///
    /// # Errors
    /// [`SealError`] if this id is not a point that a key can be agreed with (a forged id).
    pub fn seal(
        &self,
        context: &'static str,
        plaintext: &[u8],
        ephemeral: [u8; 32],
    ) -> Result<Vec<u8>, SealError> {
        seal::seal(&self.0, context, plaintext, ephemeral)
    }
}

/// `length of domain, domain, message`: no two (domain, message) pairs give the same bytes.
pub(super) fn in_domain(domain: &str, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + domain.len() + message.len());
    bytes.push(domain.len() as u8);
    bytes.extend_from_slice(domain.as_bytes());
    bytes.extend_from_slice(message);
    bytes
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&PEER_ID_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        f.pad(&bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId(..{})", self.short())
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        let mut bytes = [0; 38];
        match bs58::decode(text.trim()).onto(&mut bytes) {
            Ok(38) if bytes[..6] == PEER_ID_PREFIX => {
                let mut key = [0; 32];
                key.copy_from_slice(&bytes[6..]);
                Ok(Self(key))
            }
            Ok(_) | Err(_) => Err(NodeIdError),
        }
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            struct Bytes;
            impl serde::de::Visitor<'_> for Bytes {
                type Value = NodeId;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("the 32 bytes of a node id")
                }
                fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<NodeId, E> {
                    bytes.try_into().map(NodeId).map_err(|_| E::invalid_length(bytes.len(), &self))
                }
            }
            deserializer.deserialize_bytes(Bytes)
        }
    }
}
