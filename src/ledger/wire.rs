//! What neighbours say to each other, as CBOR.
//!
//! ```text
//! [1, root]                           Digest: the fingerprint of all I hold
//! [2, 256 * 8 bytes]                  Buckets: the same by bucket, as an answer to another root
//! [3, 32 bytes, [row ..]]             Authors: all I hold in the buckets whose bit is set
//! [4, [row ..]]                       Offer: where I am ahead of your rows
//! [5, [[author, from] ..]]            Want: send me what is live above `from`
//! [6, [[author, from, through, [[left or null, entry] ..]] ..]]
//!                                     Entries: all that is live in (from, through], then some from further ahead
//! [7, [[entry, entry] ..]]            Proofs of equivocation
//! row = [author, have, fingerprint, equivocated]
//! ```
//! Kinds that are not known are ignored, as are fields at the end: programs of neighbouring versions get along.

use std::time::Duration;

use minicbor::{Decoder, Encoder, data::Type, decode, encode};

use super::{
    MAX_MESSAGE, PeerFault,
    digest::{BUCKETS, BucketSum, Root},
};
use crate::identity::NodeId;

/// What one side holds of an author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) author: NodeId,
    pub(super) have: u64,
    pub(super) fingerprint: Root,
    pub(super) equivocated: bool,
}

/// A set of buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct BucketSet([u8; 32]);

impl BucketSet {
    pub(super) const ALL: Self = Self([0xff; 32]);

    pub(super) fn insert(&mut self, bucket: usize) {
        self.0[bucket / 8] |= 1 << (bucket % 8);
    }

    pub(super) fn remove(&mut self, bucket: usize) {
        self.0[bucket / 8] &= !(1 << (bucket % 8));
    }

    pub(super) fn contains(&self, bucket: usize) -> bool {
        self.0[bucket / 8] & (1 << (bucket % 8)) != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0 == [0; 32]
    }

    pub(super) fn union(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(byte, other)| *byte |= other);
    }

    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        (0..BUCKETS).filter(move |bucket| self.contains(*bucket))
    }
}

/// Live entries of one author over a range of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section<'a> {
    pub(super) author: NodeId,
    pub(super) from: u64,
    pub(super) through: u64,
    /// What is left of each entry's time, and its bytes.
    pub(super) entries: Vec<(Option<Duration>, &'a [u8])>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Digest(Root),
    Buckets(Box<[BucketSum; BUCKETS]>),
    Authors(BucketSet, Vec<Row>),
    Offer(Vec<Row>),
    Want(Vec<(NodeId, u64)>),
    Entries(Vec<Section<'a>>),
    Proofs(Vec<(&'a [u8], &'a [u8])>),
    /// A kind that a later version added.
    Unknown(u64),
}

type Encoded = Result<(), encode::Error<std::convert::Infallible>>;

impl<'a> Message<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        self.write(&mut encoder).expect("a Vec takes everything");
        encoder.into_writer()
    }

    fn write(&self, to: &mut Encoder<Vec<u8>>) -> Encoded {
        match self {
            Self::Digest(root) => to.array(2)?.u8(1)?.bytes(root)?.ok(),
            Self::Buckets(sums) => to.array(2)?.u8(2)?.bytes(sums.as_flattened())?.ok(),
            Self::Authors(buckets, rows) => {
                to.array(3)?.u8(3)?.bytes(&buckets.0)?;
                write_rows(to, rows)
            }
            Self::Offer(rows) => {
                to.array(2)?.u8(4)?;
                write_rows(to, rows)
            }
            Self::Want(wants) => {
                to.array(2)?.u8(5)?.array(wants.len() as u64)?;
                for (author, from) in wants {
                    to.array(2)?.bytes(author.as_bytes())?.u64(*from)?;
                }
                Ok(())
            }
            Self::Entries(sections) => {
                to.array(2)?.u8(6)?.array(sections.len() as u64)?;
                for Section { author, from, through, entries } in sections {
                    to.array(4)?.bytes(author.as_bytes())?.u64(*from)?.u64(*through)?;
                    to.array(entries.len() as u64)?;
                    for (left, bytes) in entries {
                        to.array(2)?;
                        match left {
                            Some(left) => to.u64(left.as_millis() as u64)?,
                            None => to.null()?,
                        };
                        to.bytes(bytes)?;
                    }
                }
                Ok(())
            }
            Self::Proofs(proofs) => {
                to.array(2)?.u8(7)?.array(proofs.len() as u64)?;
                for (one, other) in proofs {
                    to.array(2)?.bytes(one)?.bytes(other)?;
                }
                Ok(())
            }
            Self::Unknown(kind) => to.array(1)?.u64(*kind)?.ok(),
        }
    }

    /// Reads a message. Nothing is believed about its lengths: what they announce must be there.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, PeerFault> {
        if bytes.len() > MAX_MESSAGE {
            return Err(PeerFault::MessageTooLong(bytes.len()));
        }
        let mut decoder = Decoder::new(bytes);
        Self::read(&mut decoder).map_err(|_| PeerFault::MessageMalformed)
    }

    fn read(from: &mut Decoder<'a>) -> Result<Self, decode::Error> {
        let fields = definite(from.array()?)?;
        let kind = from.u64()?;
        let (message, known) = match kind {
            1 => (Self::Digest(fixed(from.bytes()?)?), 2),
            2 => {
                let (sums, rest) = from.bytes()?.as_chunks();
                let sums: [BucketSum; BUCKETS] = sums.try_into().map_err(|_| wrong("256 sums"))?;
                if !rest.is_empty() {
                    return Err(wrong("256 sums"));
                }
                (Self::Buckets(Box::new(sums)), 2)
            }
            3 => (Self::Authors(BucketSet(fixed(from.bytes()?)?), list(from, read_row)?), 3),
            4 => (Self::Offer(list(from, read_row)?), 2),
            5 => (Self::Want(list(from, read_want)?), 2),
            6 => (Self::Entries(list(from, read_section)?), 2),
            7 => (Self::Proofs(list(from, read_proof)?), 2),
            unknown => return Ok(Self::Unknown(unknown)),
        };
        finish(from, fields, known)?;
        if from.position() == from.input().len() { Ok(message) } else { Err(wrong("the end")) }
    }
}

fn write_rows(to: &mut Encoder<Vec<u8>>, rows: &[Row]) -> Encoded {
    to.array(rows.len() as u64)?;
    for Row { author, have, fingerprint, equivocated } in rows {
        to.array(4)?.bytes(author.as_bytes())?.u64(*have)?.bytes(fingerprint)?.bool(*equivocated)?;
    }
    Ok(())
}

fn read_row(from: &mut Decoder<'_>) -> Result<Row, decode::Error> {
    let fields = definite(from.array()?)?;
    let author = NodeId::from_bytes(fixed(from.bytes()?)?);
    let row =
        Row { author, have: from.u64()?, fingerprint: fixed(from.bytes()?)?, equivocated: from.bool()? };
    finish(from, fields, 4)?;
    Ok(row)
}

fn read_want(from: &mut Decoder<'_>) -> Result<(NodeId, u64), decode::Error> {
    let fields = definite(from.array()?)?;
    let want = (NodeId::from_bytes(fixed(from.bytes()?)?), from.u64()?);
    finish(from, fields, 2)?;
    Ok(want)
}

fn read_section<'a>(from: &mut Decoder<'a>) -> Result<Section<'a>, decode::Error> {
    let fields = definite(from.array()?)?;
    let author = NodeId::from_bytes(fixed(from.bytes()?)?);
    let section =
        Section { author, from: from.u64()?, through: from.u64()?, entries: list(from, read_timed)? };
    finish(from, fields, 4)?;
    Ok(section)
}

fn read_timed<'a>(from: &mut Decoder<'a>) -> Result<(Option<Duration>, &'a [u8]), decode::Error> {
    let fields = definite(from.array()?)?;
    let left = if from.datatype()? == Type::Null {
        from.null()?;
        None
    } else {
        Some(Duration::from_millis(from.u64()?))
    };
    let timed = (left, from.bytes()?);
    finish(from, fields, 2)?;
    Ok(timed)
}

fn read_proof<'a>(from: &mut Decoder<'a>) -> Result<(&'a [u8], &'a [u8]), decode::Error> {
    let fields = definite(from.array()?)?;
    let proof = (from.bytes()?, from.bytes()?);
    finish(from, fields, 2)?;
    Ok(proof)
}

/// Reads a list without reserving what it announces.
fn list<'a, T>(
    from: &mut Decoder<'a>,
    read: fn(&mut Decoder<'a>) -> Result<T, decode::Error>,
) -> Result<Vec<T>, decode::Error> {
    let mut items = Vec::new();
    for _ in 0..definite(from.array()?)? {
        items.push(read(from)?);
    }
    Ok(items)
}

/// Passes over the fields that a later version added.
fn finish(from: &mut Decoder<'_>, fields: u64, known: u64) -> Result<(), decode::Error> {
    let later = fields.checked_sub(known).ok_or_else(|| wrong("more fields"))?;
    for _ in 0..later {
        from.skip()?;
    }
    Ok(())
}

fn definite(length: Option<u64>) -> Result<u64, decode::Error> {
    length.ok_or_else(|| wrong("a definite length"))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], decode::Error> {
    bytes.try_into().map_err(|_| wrong("another length"))
}

fn wrong(expected: &str) -> decode::Error {
    decode::Error::message(format!("expected {expected}"))
}
