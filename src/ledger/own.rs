//! This node's own writes on their way out.
//!
//! ```text
//! put() -> draft --poll_write()--> signed, unwritten --handle_written()--> entry: visible, sent
//!            ^                          |      ^
//!            |                          +------+ handle_write_failed(): the same bytes again
//!            +-- held back after a loss, until a neighbour has said what it holds of us
//! ```
//! A number is given when an entry is signed, on its way to the disk, and belongs to those bytes for ever.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use super::{Key, MAX_SEQ, SignedEntry};
use crate::identity::Identity;

/// After a loss the numbers go on so far above the highest one found that no lost write had any of them, and by a
/// random part further: a ledger that is lost again with what it wrote since does not come to the same numbers.
pub(super) const LOSS_JUMP: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// How long own writes wait after a loss for a neighbour's word on what it holds of us.
pub(super) const LOSS_WAIT: Duration = Duration::from_secs(10);

/// A write that has no number yet.
struct Draft {
    key: Key,
    value: Option<Vec<u8>>,
    ttl: Option<Duration>,
    deadline: Option<Instant>,
}

/// An own entry that the disk has not confirmed.
#[derive(Clone)]
pub(super) struct Unwritten {
    pub(super) entry: SignedEntry,
    pub(super) deadline: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Own {
    /// The highest number ever given or seen under our name.
    mark: u64,
    drafts: Vec<Draft>,
    unwritten: Vec<Unwritten>,
    /// Something of ours was lost; see [`super::Ledger::amnesia`].
    pub(super) amnesia: bool,
    /// This run began with a loss.
    pub(super) lost: bool,
    /// Until when drafts are held back after a loss.
    pub(super) hold: Option<Instant>,
    /// The mark or the amnesia flag changed and the disk does not know.
    pub(super) unsaved: bool,
}

impl Own {
    pub(super) fn mark(&self) -> u64 {
        self.mark
    }

    /// Raises the mark. Returns whether it was lower.
    pub(super) fn raise_mark(&mut self, seq: u64) -> bool {
        let raised = seq > self.mark;
        if raised {
            self.mark = seq.min(MAX_SEQ);
            self.unsaved = true;
        }
        raised
    }

    /// Queues a write; an earlier draft for the key that has no number yet is replaced by it.
    pub(super) fn draft(&mut self, key: Key, value: Option<Vec<u8>>, ttl: Option<Duration>, now: Instant) {
        self.drafts.retain(|draft| draft.key != key);
        self.drafts.push(Draft { key, value, ttl, deadline: ttl.map(|ttl| now + ttl) });
    }

    /// The latest value put under `key` that is not visible yet: `Some(None)` is a removal.
    pub(super) fn pending(&self, key: &str) -> Option<Option<&[u8]>> {
        let draft = self.drafts.iter().find(|draft| &*draft.key == key);
        draft.map(|draft| draft.value.as_deref()).or_else(|| {
            let unwritten = self.unwritten.iter().rev().find(|unwritten| &**unwritten.entry.key() == key);
            unwritten.map(|Unwritten { entry, .. }| (!entry.is_removal()).then(|| entry.value()))
        })
    }

    /// Whether the latest write under `key` that is not visible yet has a time to live.
    pub(super) fn pending_ttl(&self, key: &str) -> Option<Duration> {
        let draft = self.drafts.iter().find(|draft| &*draft.key == key);
        draft.map(|draft| draft.ttl).unwrap_or_else(|| {
            let unwritten = self.unwritten.iter().rev().find(|unwritten| &**unwritten.entry.key() == key);
            unwritten.and_then(|Unwritten { entry, .. }| entry.ttl())
        })
    }

    /// Keys that are written or being written for the first time, for the quota.
    pub(super) fn pending_keys(&self) -> impl Iterator<Item = &Key> {
        self.drafts.iter().map(|draft| &draft.key).chain(self.unwritten.iter().map(|one| one.entry.key()))
    }

    /// Whether drafts get no numbers: for a while after a loss, and for ever when a clone has used up all numbers.
    fn is_held_back(&self) -> bool {
        self.hold.is_some() || self.mark + self.drafts.len() as u64 > MAX_SEQ
    }

    /// Whether there is something for the disk.
    pub(super) fn wants_write(&self) -> bool {
        self.unsaved || !self.unwritten.is_empty() || (!self.drafts.is_empty() && !self.is_held_back())
    }

    /// Signs the drafts, unless they are held back, and returns everything that the disk has yet to confirm.
    pub(super) fn sign_drafts(&mut self, identity: &Identity) -> &[Unwritten] {
        if !self.is_held_back() {
            for draft in std::mem::take(&mut self.drafts) {
                self.mark += 1;
                let Draft { key, value, ttl, deadline } = draft;
                let entry = SignedEntry::sign(identity, self.mark, key, value.as_deref(), ttl)
                    .expect("put() has checked the limits");
                self.unwritten.push(Unwritten { entry, deadline });
            }
        }
        &self.unwritten
    }

    /// Hands over the entries that the disk has confirmed. If somebody else has meanwhile used one of their numbers
    /// (`taken` is the highest number known to others), they go back to being drafts, nobody ever sees them, and
    /// there is none to hand over.
    pub(super) fn confirmed(&mut self, taken: u64, now: Instant) -> Option<Vec<Unwritten>> {
        let unwritten = std::mem::take(&mut self.unwritten);
        if unwritten.iter().all(|one| one.entry.seq() > taken) {
            return Some(unwritten);
        }
        let later = std::mem::take(&mut self.drafts);
        for Unwritten { entry, .. } in unwritten {
            let value = (!entry.is_removal()).then(|| entry.value().to_vec());
            self.draft(entry.key().clone(), value, entry.ttl(), now);
        }
        for draft in later {
            self.drafts.retain(|earlier| earlier.key != draft.key);
            self.drafts.push(draft);
        }
        None
    }
}
