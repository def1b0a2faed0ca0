//! What was taken, refused and dropped, by reason.

use super::PeerFault;

/// Counts since the ledger was made, and sizes as they are. Each field is one metric.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Authors held.
    pub authors: usize,
    /// Bytes of all entries held.
    pub bytes: usize,
    /// Bytes of the log since its last snapshot, snapshot included.
    pub log_bytes: usize,
    /// Messages that came in.
    pub messages_in: u64,
    /// Messages that went out.
    pub messages_out: u64,
    /// Bytes of the messages that came in.
    pub bytes_in: u64,
    /// Bytes of the messages that went out.
    pub bytes_out: u64,
    /// Entries taken in from others.
    pub accepted: u64,
    /// Entries that were held already.
    pub known: u64,
    /// Entries older than what is held.
    pub stale: u64,
    /// Entries whose author has no more room.
    pub refused_author_full: u64,
    /// Entries for which the ledger has no more room, or whose author was put out.
    pub refused_ledger_full: u64,
    /// Entries dropped unread because their neighbour sent too many.
    pub refused_rate: u64,
    /// Entries of a layout of a later version.
    pub refused_version: u64,
    /// Entries or proofs with a bad signature, or that prove nothing.
    pub forged: u64,
    /// Messages or entries that cannot be parsed.
    pub malformed: u64,
    /// Messages or entries above the limits.
    pub oversize: u64,
    /// Messages of a kind that this version does not know.
    pub unknown_kind: u64,
    /// Messages from somebody who is no neighbour.
    pub strangers: u64,
    /// Authors put out to make room.
    pub put_out: u64,
    /// Comparisons not answered because their neighbour asked too often.
    pub unanswered: u64,
    /// Writes that the disk did not take.
    pub writes_failed: u64,
}

impl Counters {
    pub(super) fn count(&mut self, fault: PeerFault) {
        match fault {
            PeerFault::MessageTooLong(_) | PeerFault::EntryTooLong(_) => self.oversize += 1,
            PeerFault::MessageMalformed | PeerFault::EntryMalformed => self.malformed += 1,
            PeerFault::EntryVersion(_) => self.refused_version += 1,
            PeerFault::EntrySignature | PeerFault::FalseProof => self.forged += 1,
        }
    }
}
