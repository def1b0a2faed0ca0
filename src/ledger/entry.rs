//! One signed fact, kept and passed on as the very bytes its author signed.
//!
//! ```text
//! signature (64) | CBOR array [version, author, seq, key, value or null, ttl in ms or null, later fields ..]
//! ```
//! A later program may add fields at the end: this one ignores them and, since the bytes are kept, passes them on.

use std::{
    any::Any,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use minicbor::{Decoder, Encoder, data::Type};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::{Key, LedgerError, MAX_ENTRY, MAX_SEQ, MAX_TTL, MAX_VALUE, PeerFault};
use crate::identity::{Identity, NodeId, Signature};

/// What an entry's signature is good for.
const DOMAIN: &str = "c3os ledger entry";
/// The layout above. Only a change that an older program must not read at all raises it.
const VERSION: u64 = 1;
/// How many fields version 1 knows.
const FIELDS: u64 = 6;
const SIGNATURE: usize = 64;

/// A fact that its author signed. Cloning is cheap.
#[derive(Clone)]
pub struct SignedEntry {
    author: NodeId,
    seq: u64,
    key: Key,
    ttl: Option<Duration>,
    /// Where the value lies in `bytes`; none for a removal.
    value: Option<Range<usize>>,
    bytes: Arc<[u8]>,
    hash: [u8; 32],
    /// What was made of it, see [`SignedEntry::once`].
    made: Arc<Mutex<Vec<Arc<dyn Any + Send + Sync>>>>,
}

impl SignedEntry {
    /// Signs `value` (none: the key is removed) as the author's write number `seq`.
    ///
    /// # Errors
    /// [`LedgerError`] for a value or time to live above the limits.
    pub(super) fn sign(
        identity: &Identity,
        seq: u64,
        key: Key,
        value: Option<&[u8]>,
        ttl: Option<Duration>,
    ) -> Result<Self, LedgerError> {
        check_limits(value, ttl)?;
        let body = encode_body(identity.id(), seq, &key, value, ttl);
        let mut bytes = identity.sign(DOMAIN, &body).to_bytes().to_vec();
        bytes.extend_from_slice(&body);
        Ok(Self::parse_unverified(&bytes).expect("what was just encoded within the limits parses"))
    }

    /// Reads an entry and checks size, shape and signature.
    ///
    /// # Errors
    /// [`PeerFault`] says which of them it fails.
    pub fn parse(bytes: &[u8]) -> Result<Self, PeerFault> {
        let entry = Self::parse_unverified(bytes)?;
        if entry.is_signed() { Ok(entry) } else { Err(PeerFault::EntrySignature) }
    }

    /// Reads an entry and checks size and shape, without the costly signature.
    pub(super) fn parse_unverified(bytes: &[u8]) -> Result<Self, PeerFault> {
        if bytes.len() > MAX_ENTRY {
            return Err(PeerFault::EntryTooLong(bytes.len()));
        }
        let body = bytes.get(SIGNATURE..).ok_or(PeerFault::EntryMalformed)?;
        let mut decoder = Decoder::new(body);
        let malformed = |_| PeerFault::EntryMalformed;
        let fields = decoder.array().map_err(malformed)?.ok_or(PeerFault::EntryMalformed)?;
        let version = decoder.u64().map_err(malformed)?;
        if version != VERSION {
            return Err(PeerFault::EntryVersion(version));
        }
        if fields < FIELDS {
            return Err(PeerFault::EntryMalformed);
        }
        let author = decoder.bytes().map_err(malformed)?.try_into().map_err(|_| PeerFault::EntryMalformed)?;
        let seq = decoder.u64().map_err(malformed)?;
        let key: Key =
            decoder.str().map_err(malformed)?.parse().map_err(|_: LedgerError| PeerFault::EntryMalformed)?;
        let value = if decoder.datatype().map_err(malformed)? == Type::Null {
            decoder.null().map_err(malformed)?;
            None
        } else {
            let length = decoder.bytes().map_err(malformed)?.len();
            let end = SIGNATURE + decoder.position();
            Some(end - length..end)
        };
        let ttl = if decoder.datatype().map_err(malformed)? == Type::Null {
            decoder.null().map_err(malformed)?;
            None
        } else {
            Some(Duration::from_millis(decoder.u64().map_err(malformed)?))
        };
        for _ in FIELDS..fields {
            decoder.skip().map_err(malformed)?;
        }
        let limits = check_limits(value.clone().map(|range| &bytes[range]), ttl);
        if decoder.position() != body.len() || !(1..=MAX_SEQ).contains(&seq) || limits.is_err() {
            return Err(PeerFault::EntryMalformed);
        }
        let (author, hash) = (NodeId::from_bytes(author), Sha256::digest(body).into());
        Ok(Self { author, seq, key, ttl, value, bytes: bytes.into(), hash, made: Arc::default() })
    }

    /// Whether the author signed it.
    pub(super) fn is_signed(&self) -> bool {
        let (signature, body) = self.bytes.split_first_chunk::<SIGNATURE>().expect("parsed with a signature");
        self.author.verify(DOMAIN, body, &Signature::from_bytes(*signature))
    }

    /// Whose fact this is.
    pub fn author(&self) -> NodeId {
        self.author
    }

    /// The number of the author's write, from 1.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The name of the fact.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The value, as its author made it with [`super::encode`]; empty for a removal.
    pub fn value(&self) -> &[u8] {
        self.value.clone().map_or(&[], |range| &self.bytes[range])
    }

    /// The value as it was encoded; none if it is not of this type. It is decoded once, however often this is asked.
    pub fn read<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.once(|entry| super::decode::<T>(entry.value()).ok().map(Arc::new)).as_ref().clone()
    }

    /// What `make` makes of this entry: an entry never changes, so each kind of thing is made once for all its clones.
    pub fn once<T: Send + Sync + 'static>(&self, make: impl FnOnce(&Self) -> T) -> Arc<T> {
        let kept = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let made = kept().iter().find_map(|one| one.clone().downcast().ok());
        made.unwrap_or_else(|| {
            let made = Arc::new(make(self));
            kept().push(made.clone());
            made
        })
    }

    /// Whether it says that the key is gone.
    pub fn is_removal(&self) -> bool {
        self.value.is_none()
    }

    /// How long it holds, counted from when its author wrote it; none: until it is replaced.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// The signed bytes, unknown fields included: evidence that [`SignedEntry::parse`] takes back.
    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same bytes, shared.
    pub fn shared_bytes(&self) -> Arc<[u8]> {
        self.bytes.clone()
    }

    /// SHA-256 of what was signed. The signature itself is left out: an author can make many for one content.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Whether this one stands against `other` under the same author and key: the newer; of two with one number
    /// (which an honest author never writes) the one with the lower hash. The same on every node, in any order.
    pub(super) fn stands_against(&self, other: &Self) -> bool {
        self.seq.cmp(&other.seq).then_with(|| other.hash.cmp(&self.hash)).is_gt()
    }
}

/// Two entries are the same if the same content was signed.
impl PartialEq for SignedEntry {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for SignedEntry {}

impl fmt::Debug for SignedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignedEntry({:?} {} {} {} bytes)", self.author, self.seq, self.key, self.value().len())
    }
}

/// The limits that both sides keep.
pub(super) fn check_limits(value: Option<&[u8]>, ttl: Option<Duration>) -> Result<(), LedgerError> {
    let length = value.map_or(0, <[u8]>::len);
    if length > MAX_VALUE {
        return Err(LedgerError::ValueTooLong { length });
    }
    if ttl.is_some_and(|ttl| ttl > MAX_TTL) {
        return Err(LedgerError::TtlTooLong);
    }
    Ok(())
}

fn encode_body(author: NodeId, seq: u64, key: &Key, value: Option<&[u8]>, ttl: Option<Duration>) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    let mut write = || -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        encoder.array(FIELDS)?.u64(VERSION)?.bytes(author.as_bytes())?.u64(seq)?.str(key.as_str())?;
        match value {
            Some(value) => encoder.bytes(value)?,
            None => encoder.null()?,
        };
        match ttl {
            Some(ttl) => encoder.u64(ttl.as_millis() as u64)?,
            None => encoder.null()?,
        };
        Ok(())
    };
    write().expect("a Vec takes everything");
    encoder.into_writer()
}
