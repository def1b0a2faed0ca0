//! The ledger as bytes on a disk that lies, loses power and flips bits.
//!
//! ```text
//! file   = record*          a snapshot that ends with Complete, then what was appended
//! record = magic (4) | length of payload (4, LE) | its complement (4) | checksum (8) | payload
//! ```
//! Whatever happens to some bytes costs the records they are in: reading goes on at the next whole record. The
//! checksum is a cut SHA-256, keyed so that no peer can plant a record inside of a value for that moment.

use std::{fmt, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{Equivocation, MAX_ENTRY, MAX_TTL, SignedEntry};
use crate::identity::{Identity, NodeId};

/// Starts every record; the last byte is the version of the format.
const MAGIC: [u8; 4] = [0xC3, 0x05, 0x4C, 0x01];
const HEADER: usize = 20;
/// No record is longer: a proof of equivocation with two entries.
const MAX_PAYLOAD: usize = 2 * MAX_ENTRY + 64;

/// What the checksums of one node's file are keyed with.
pub(super) struct DiskKey([u8; 32]);

impl DiskKey {
    pub(super) fn new(identity: &Identity) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"c3os ledger file v1");
        hash.update(identity.seed().as_ref());
        Self(hash.finalize().into())
    }

    fn checksum(&self, payload: &[u8]) -> [u8; 8] {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(payload);
        *hash.finalize().first_chunk().expect("SHA-256 has 32 bytes")
    }
}

/// One thing that the disk remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// The highest number that this author, whose file it is, ever gave.
    Mark(NodeId, u64),
    /// This author, whose file it is, once lost something.
    Amnesia(NodeId),
    /// An entry and what was left of its time when it was written down.
    Entry(SignedEntry, Option<Duration>),
    /// How completely an author is held, by the entries before this record.
    Have(NodeId, u64),
    /// A proof that its author wrote two things under one number.
    Proof(Equivocation),
    /// An author that was put out.
    Forget(NodeId),
    /// The end of the snapshot: what follows was appended and may end anywhere.
    Complete,
}

/// The first byte of a payload. A later version may add kinds: they are passed over.
mod kind {
    pub(super) const MARK: u8 = 1;
    pub(super) const AMNESIA: u8 = 2;
    pub(super) const ENTRY: u8 = 3;
    pub(super) const HAVE: u8 = 4;
    pub(super) const PROOF: u8 = 5;
    pub(super) const FORGET: u8 = 6;
    pub(super) const COMPLETE: u8 = 7;
}

/// What reading a ledger file found amiss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// There is nothing in it, not even the snapshot that every ledger file starts with.
    Missing,
    /// It ends inside of its snapshot, which is written at once or not at all.
    CutSnapshot,
    /// The last append was cut short, as a crash in the middle of it does. Nothing that was confirmed is lost.
    TornTail {
        /// How many bytes were left over.
        bytes: usize,
    },
    /// Bytes that are no record: something that was confirmed may be lost.
    Lost {
        /// Where they start in the file.
        offset: usize,
        /// How many they are.
        bytes: usize,
    },
}

impl Damage {
    /// Whether something may be gone that had been confirmed to be on disk.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Missing | Self::CutSnapshot | Self::Lost { .. } => true,
            Self::TornTail { .. } => false,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(
                f,
                "the ledger file is empty or gone; what this node had written is asked back from peers"
            ),
            Self::CutSnapshot => {
                write!(f, "the ledger file is cut short; what is missing is asked back from peers")
            }
            Self::TornTail { bytes } => {
                write!(f, "the last write was cut short ({bytes} bytes); nothing confirmed is lost")
            }
            Self::Lost { offset, bytes } => write!(
                f,
                "{bytes} bytes at offset {offset} are damaged or of another version; the entries in them are asked back from peers"
            ),
        }
    }
}

/// Appends a record to `out`.
pub(super) fn write_record(out: &mut Vec<u8>, key: &DiskKey, record: &Record) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    match record {
        Record::Mark(author, seq) => put_number(out, kind::MARK, author, *seq),
        Record::Amnesia(author) => put_number(out, kind::AMNESIA, author, 0),
        Record::Have(author, have) => put_number(out, kind::HAVE, author, *have),
        Record::Forget(author) => put_number(out, kind::FORGET, author, 0),
        Record::Entry(entry, left) => {
            out.push(kind::ENTRY);
            let left = left.map_or(u64::MAX, |left| left.as_millis() as u64);
            out.extend_from_slice(&left.to_le_bytes());
            out.extend_from_slice(entry.to_bytes());
        }
        Record::Proof(proof) => {
            let (one, other) = proof.entries();
            out.push(kind::PROOF);
            out.extend_from_slice(&(one.to_bytes().len() as u32).to_le_bytes());
            out.extend_from_slice(one.to_bytes());
            out.extend_from_slice(other.to_bytes());
        }
        Record::Complete => out.push(kind::COMPLETE),
    }
    let sum = key.checksum(&out[start + HEADER..]);
    let length = (out.len() - start - HEADER) as u32;
    out[start..start + 4].copy_from_slice(&MAGIC);
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    out[start + 8..start + 12].copy_from_slice(&(!length).to_le_bytes());
    out[start + 12..start + HEADER].copy_from_slice(&sum);
}

fn put_number(out: &mut Vec<u8>, kind: u8, author: &NodeId, number: u64) {
    out.push(kind);
    out.extend_from_slice(author.as_bytes());
    out.extend_from_slice(&number.to_le_bytes());
}

/// Reads all whole records of a file, in order, and what is amiss between them. Never fails.
///
/// Signatures are not checked again: the checksum tells accident, and who can write this file can do anything.
pub(super) fn read_records(disk: &[u8], key: &DiskKey) -> (Vec<Record>, Vec<Damage>) {
    let (mut records, mut damage) = (Vec::new(), Vec::new());
    if disk.is_empty() {
        return (records, vec![Damage::Missing]);
    }
    let mut at = 0;
    while at < disk.len() {
        if let Some((payload, next)) = payload_at(disk, at, key) {
            // A kind that a later version added is no damage.
            records.extend(parse(payload));
            at = next;
            continue;
        }
        let start = at;
        at = (start + 1..disk.len()).find(|at| payload_at(disk, *at, key).is_some()).unwrap_or(disk.len());
        let bytes = at - start;
        if at == disk.len() && is_cut_short(&disk[start..]) {
            damage.push(Damage::TornTail { bytes });
        } else {
            damage.push(Damage::Lost { offset: start, bytes });
        }
    }
    if !damage.iter().any(Damage::is_loss) && !records.contains(&Record::Complete) {
        damage = vec![Damage::CutSnapshot];
    }
    (records, damage)
}

/// The payload of the whole record at `at`, and where the next starts.
fn payload_at<'a>(disk: &'a [u8], at: usize, key: &DiskKey) -> Option<(&'a [u8], usize)> {
    let (header, rest) = disk[at..].split_first_chunk::<HEADER>()?;
    let length = length_in(header)?;
    let sum = &header[12..];
    let payload = rest.get(..length)?;
    (key.checksum(payload) == sum).then_some((payload, at + HEADER + length))
}

/// Whether these bytes are what a crash leaves of one append: the beginning of a record that would go on beyond the
/// end, or the zeros of a file that was made longer before it was filled.
fn is_cut_short(tail: &[u8]) -> bool {
    if tail.iter().all(|byte| *byte == 0) {
        return true;
    }
    match tail.get(..12) {
        Some(header) => length_in(header).is_some_and(|length| tail.len() < HEADER + length),
        None => tail.iter().zip(MAGIC).all(|(byte, magic)| *byte == magic),
    }
}

/// The length that a record's header announces, if it is one.
fn length_in(header: &[u8]) -> Option<usize> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (complement, _) = rest.split_first_chunk::<4>()?;
    let (length, complement) = (u32::from_le_bytes(*length), u32::from_le_bytes(*complement));
    let good = *magic == MAGIC && length == !complement && length as usize <= MAX_PAYLOAD;
    good.then_some(length as usize)
}

fn parse(payload: &[u8]) -> Option<Record> {
    let (first, rest) = payload.split_first()?;
    let number = || {
        let (author, number) = rest.split_first_chunk::<32>()?;
        Some((NodeId::from_bytes(*author), u64::from_le_bytes(number.try_into().ok()?)))
    };
    match *first {
        kind::MARK => number().map(|(author, seq)| Record::Mark(author, seq)),
        kind::AMNESIA => number().map(|(author, _)| Record::Amnesia(author)),
        kind::ENTRY => {
            let (left, entry) = rest.split_first_chunk::<8>()?;
            let left = u64::from_le_bytes(*left);
            let left = (left != u64::MAX).then(|| Duration::from_millis(left).min(MAX_TTL));
            Some(Record::Entry(SignedEntry::parse_unverified(entry).ok()?, left))
        }
        kind::HAVE => number().map(|(author, have)| Record::Have(author, have)),
        kind::PROOF => {
            let (length, entries) = rest.split_first_chunk::<4>()?;
            let (one, other) = entries.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            let one = SignedEntry::parse_unverified(one).ok()?;
            let other = SignedEntry::parse_unverified(other).ok()?;
            Equivocation::new(one, other).map(Record::Proof)
        }
        kind::FORGET => number().map(|(author, _)| Record::Forget(author)),
        kind::COMPLETE => Some(Record::Complete),
        _ => None,
    }
}
