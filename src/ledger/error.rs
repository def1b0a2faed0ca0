//! What can go wrong: our own mistakes, and faults of a peer.

use super::{MAX_ENTRY, MAX_MESSAGE, MAX_TTL, MAX_VALUE};

/// Why something of our own cannot go into the ledger, or a value cannot be read out of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// A text that is no key.
    #[error("a ledger key is 1 to 128 characters of a-z, A-Z, 0-9, '.', '_', '/' and '-'")]
    KeyShape,
    /// The value is too long to be written.
    #[error("cannot write {length} bytes under one ledger key, at most {MAX_VALUE} fit")]
    ValueTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The time to live is too long to be written.
    #[error("cannot write a ledger entry that lives longer than {} days", MAX_TTL.as_secs() / 86_400)]
    TtlTooLong,
    /// This node has as many keys as the others would take from it.
    #[error("cannot write another ledger key, this node has {keys} already; remove some")]
    TooManyKeys {
        /// How many it has.
        keys: usize,
    },
    /// A Rust value that does not fit CBOR.
    #[error("cannot encode a ledger value: {0}")]
    Encode(String),
    /// Bytes that are not the CBOR of the wanted type.
    #[error("cannot decode a ledger value: {0}")]
    Decode(String),
}

/// What a neighbour did wrong. Each of these it could itself have refused, so the caller may hold it against it;
/// whatever it could not have known (quotas, unknown versions) is only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// A message above the limit.
    #[error("a ledger message of {0} bytes, at most {MAX_MESSAGE} are allowed")]
    MessageTooLong(usize),
    /// A message that is no CBOR of the agreed shape.
    #[error("a ledger message that cannot be parsed")]
    MessageMalformed,
    /// An entry above the limit.
    #[error("a ledger entry of {0} bytes, at most {MAX_ENTRY} are allowed")]
    EntryTooLong(usize),
    /// An entry that is no CBOR of the agreed shape, or with an ill-formed key.
    #[error("a ledger entry that cannot be parsed")]
    EntryMalformed,
    /// An entry of a layout that this program does not know; [`super::Ledger::handle_message`] only counts it.
    #[error("a ledger entry of version {0}, which this c3os does not know")]
    EntryVersion(u64),
    /// An entry that its author did not sign.
    #[error("a ledger entry with a bad signature")]
    EntrySignature,
    /// A proof of equivocation that proves nothing.
    #[error("a proof of two entries with one number that proves nothing")]
    FalseProof,
}
