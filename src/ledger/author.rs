//! What this node holds of one author.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Equivocation, Key, SignedEntry,
    digest::{self, Root},
};
use crate::identity::NodeId;

/// An entry in its place.
pub(super) struct Held {
    pub(super) entry: SignedEntry,
    /// When its time to live ends, on this node's monotonic clock.
    pub(super) deadline: Option<Instant>,
    /// Its time has ended. It stays as a marker, so that what it replaced cannot come back, until it is replaced.
    pub(super) expired: bool,
}

impl Held {
    pub(super) fn is_visible(&self) -> bool {
        !self.expired && !self.entry.is_removal()
    }

    /// What is left of its time, if that is limited.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(now))
    }
}

/// What an entry would be to what is held already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same is held.
    Known,
    /// Something that stands against it is held.
    Stale,
    /// It is news.
    News,
    /// Another content of the same number is held, which is not proven yet.
    Clash,
}

/// One author's entries and how completely they are held.
pub(super) struct Author {
    id: NodeId,
    entries: BTreeMap<Key, Held>,
    /// The same by number. An honest author has one key per number.
    by_seq: BTreeMap<u64, Vec<Key>>,
    /// Every live entry up to this number is held.
    have: u64,
    /// XOR of the hashes of all held entries.
    sum: [u8; 32],
    bytes: usize,
    /// The proof that it wrote two things under one number.
    pub(super) equivocation: Option<Equivocation>,
    /// When it last had news.
    pub(super) heard: Instant,
}

impl Author {
    pub(super) fn new(id: NodeId, now: Instant) -> Self {
        Self {
            id,
            entries: BTreeMap::new(),
            by_seq: BTreeMap::new(),
            have: 0,
            sum: [0; 32],
            bytes: 0,
            equivocation: None,
            heard: now,
        }
    }

    pub(super) fn have(&self) -> u64 {
        self.have
    }

    /// The highest number held, which may lie ahead of [`Author::have`].
    pub(super) fn newest(&self) -> u64 {
        self.by_seq.last_key_value().map_or(0, |(seq, _)| *seq)
    }

    /// Whether an entry with this number is held.
    pub(super) fn holds(&self, seq: u64) -> bool {
        self.by_seq.contains_key(&seq)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn keys(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Held> {
        self.entries.get(key)
    }

    pub(super) fn row(&self) -> Root {
        digest::row(&self.id, self.have, &self.sum, self.equivocation.is_some())
    }

    /// The held entries whose key starts with `prefix`, by key.
    pub(super) fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Held> {
        use std::ops::Bound::{Included, Unbounded};
        self.entries
            .range::<str, _>((Included(prefix), Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, held)| held)
    }

    /// The held entries with numbers above `from`, in the order of their numbers.
    pub(super) fn above(&self, from: u64) -> impl Iterator<Item = &Held> {
        self.by_seq.range(from.saturating_add(1)..).flat_map(|(_, keys)| keys).map(|key| &self.entries[key])
    }

    /// Judges an entry of this author without changing anything. Cheap: no signature is checked.
    pub(super) fn judge(&self, entry: &SignedEntry) -> Verdict {
        let held = self.entries.get(entry.key());
        if held.is_some_and(|held| held.entry == *entry) {
            Verdict::Known
        } else if self.equivocation.is_none() && self.rival(entry).is_some() {
            Verdict::Clash
        } else if held.is_some_and(|held| !entry.stands_against(&held.entry)) {
            Verdict::Stale
        } else {
            Verdict::News
        }
    }

    /// A held entry with the number of `entry` and another content.
    pub(super) fn rival(&self, entry: &SignedEntry) -> Option<&SignedEntry> {
        let keys = self.by_seq.get(&entry.seq())?;
        keys.iter().map(|key| &self.entries[key].entry).find(|held| *held != entry)
    }

    /// Takes a verified entry in if it stands against what is held under its key, and returns what it replaced.
    pub(super) fn insert(&mut self, held: Held) -> Option<Held> {
        let (key, seq) = (held.entry.key().clone(), held.entry.seq());
        digest::xor(&mut self.sum, held.entry.hash());
        self.bytes += held.entry.to_bytes().len();
        self.by_seq.entry(seq).or_default().push(key.clone());
        let old = self.entries.insert(key.clone(), held);
        if let Some(old) = &old {
            digest::xor(&mut self.sum, old.entry.hash());
            self.bytes -= old.entry.to_bytes().len();
            self.unlist(old.entry.seq(), &key);
        }
        old
    }

    /// Takes one mention of `key` off number `seq`; of two contents with one number the other mention stays.
    fn unlist(&mut self, seq: u64, key: &Key) {
        let Some(keys) = self.by_seq.get_mut(&seq) else { return };
        if let Some(at) = keys.iter().position(|listed| listed == key) {
            keys.remove(at);
        }
        if keys.is_empty() {
            self.by_seq.remove(&seq);
        }
    }

    /// Raises `have` over the numbers that follow it without a gap.
    pub(super) fn raise_over_neighbours(&mut self) {
        while self.by_seq.contains_key(&(self.have + 1)) {
            self.have += 1;
        }
    }

    /// Raises `have` by a catch-up: everything live in `(from, through]` was offered. What is not connected to
    /// `have` raises nothing, nor does a promise beyond what the author ever signed.
    pub(super) fn raise_through(&mut self, from: u64, through: u64) {
        if from <= self.have {
            self.have = self.have.max(through.min(self.newest()));
            self.raise_over_neighbours();
        }
    }

    /// Shortens the time that an entry has left: of two remainders the shorter stands, so that passing an entry
    /// round does not lengthen its life. Returns whether it did.
    pub(super) fn shorten(&mut self, key: &Key, deadline: Instant) -> bool {
        match self.entries.get_mut(key) {
            Some(held) if held.deadline.is_some_and(|old| deadline < old) => {
                held.deadline = Some(deadline);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Ends the life of an entry whose deadline has passed. Returns whether something visible went.
    pub(super) fn expire(&mut self, key: &Key, now: Instant) -> bool {
        match self.entries.get_mut(key) {
            Some(held) if !held.expired && held.deadline.is_some_and(|deadline| deadline <= now) => {
                let was_visible = held.is_visible();
                held.expired = true;
                was_visible
            }
            Some(_) | None => false,
        }
    }
}
