//! All authors: merging, visibility, quotas, fingerprints. No disk, no neighbours.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{
    Bounds, Equivocation, Key, SignedEntry,
    author::{Author, Held, Verdict},
    digest::Digests,
};
use crate::identity::NodeId;

/// Why an entry found no room. No fault of the neighbour that brought it: quotas are each node's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// Its author has as many keys or bytes as one may have.
    Author,
    /// There are as many authors, or bytes, as there may be, and none to put out.
    Ledger,
}

pub(super) struct Store {
    pub(super) bounds: Bounds,
    authors: BTreeMap<NodeId, Author>,
    digests: Digests,
    /// When which entry's time ends.
    deadlines: BTreeSet<(Instant, NodeId, Key)>,
    /// Authors that are never put out: this node, and those with a role.
    permanent: BTreeSet<NodeId>,
    bytes: usize,
}

impl Store {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            authors: BTreeMap::new(),
            digests: Digests::new(),
            deadlines: BTreeSet::new(),
            permanent: BTreeSet::new(),
            bytes: 0,
        }
    }

    pub(super) fn author(&self, id: &NodeId) -> Option<&Author> {
        self.authors.get(id)
    }

    pub(super) fn authors(&self) -> impl Iterator<Item = (&NodeId, &Author)> {
        self.authors.iter()
    }

    pub(super) fn digests(&self) -> &Digests {
        &self.digests
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How completely an author is held; 0 for one that is not.
    pub(super) fn have(&self, id: &NodeId) -> u64 {
        self.authors.get(id).map_or(0, Author::have)
    }

    pub(super) fn judge(&self, entry: &SignedEntry) -> Verdict {
        self.authors.get(&entry.author()).map_or(Verdict::News, |author| author.judge(entry))
    }

    /// Names the authors that are never put out. Returns whether that makes a difference.
    pub(super) fn set_permanent(&mut self, ids: BTreeSet<NodeId>) -> bool {
        let differs = self.permanent != ids;
        self.permanent = ids;
        differs
    }

    /// How many keys and bytes this author may have.
    pub(super) fn quota(&self, id: &NodeId) -> (usize, usize) {
        let Bounds { provisional_keys, provisional_bytes, permanent_keys, permanent_bytes, .. } = self.bounds;
        if self.permanent.contains(id) {
            (permanent_keys, permanent_bytes)
        } else {
            (provisional_keys, provisional_bytes)
        }
    }

    /// Whether `entry` would fit its author's quota.
    pub(super) fn fits(&self, entry: &SignedEntry) -> Result<(), NoRoom> {
        let (keys, bytes) = self.quota(&entry.author());
        let Some(author) = self.authors.get(&entry.author()) else { return Ok(()) };
        let replaced = author.get(entry.key()).map(|held| held.entry.to_bytes().len());
        let keys_after = author.keys() + usize::from(replaced.is_none());
        let bytes_after = author.bytes() + entry.to_bytes().len() - replaced.unwrap_or(0);
        let grows = replaced.is_none_or(|length| entry.to_bytes().len() > length);
        if grows && (keys_after > keys || bytes_after > bytes) { Err(NoRoom::Author) } else { Ok(()) }
    }

    /// Makes room for `entry` in the whole ledger, if need be by putting out the provisional author that has been
    /// silent longest and is none of `spared`. Returns whom it put out, with their highest numbers.
    pub(super) fn make_room(
        &mut self,
        entry: &SignedEntry,
        spared: impl Fn(&NodeId) -> bool,
    ) -> Result<Vec<(NodeId, u64)>, NoRoom> {
        let author = entry.author();
        let provisional = |id: &NodeId| !self.permanent.contains(id);
        let is_new = !self.authors.contains_key(&author) && provisional(&author);
        let too_many =
            is_new && self.authors.keys().filter(|id| provisional(id)).count() >= self.bounds.authors;
        let mut excess = (self.bytes + entry.to_bytes().len()).saturating_sub(self.bounds.bytes);
        let mut wanted = usize::from(too_many);
        let mut out = Vec::new();
        if wanted > 0 || excess > 0 {
            let mut silent: Vec<(Instant, NodeId, usize, u64)> = self
                .authors
                .iter()
                .filter(|(id, _)| **id != author && provisional(id) && !spared(id))
                .map(|(id, author)| (author.heard, *id, author.bytes(), author.newest()))
                .collect();
            silent.sort_unstable();
            for (_, id, bytes, newest) in silent {
                if wanted == 0 && excess == 0 {
                    break;
                }
                wanted = wanted.saturating_sub(1);
                excess = excess.saturating_sub(bytes);
                out.push((id, newest));
            }
        }
        if wanted > 0 || excess > 0 {
            return Err(NoRoom::Ledger);
        }
        for (id, _) in &out {
            self.forget(id);
        }
        Ok(out)
    }

    /// Drops an author with all it wrote.
    pub(super) fn forget(&mut self, id: &NodeId) {
        if let Some(author) = self.authors.remove(id) {
            self.digests.toggle(id, &author.row());
            self.bytes -= author.bytes();
            for held in author.above(0) {
                if let Some(deadline) = held.deadline {
                    self.deadlines.remove(&(deadline, *id, held.entry.key().clone()));
                }
            }
        }
    }

    /// Takes a verified entry in. Returns whether readers see a difference.
    pub(super) fn insert(&mut self, entry: SignedEntry, deadline: Option<Instant>, now: Instant) -> bool {
        let (id, key) = (entry.author(), entry.key().clone());
        let expired = deadline.is_some_and(|deadline| deadline <= now);
        let held = Held { entry, deadline, expired };
        let visible = held.is_visible();
        if let Some(deadline) = deadline.filter(|_| !expired) {
            self.deadlines.insert((deadline, id, key.clone()));
        }
        let length = held.entry.to_bytes().len();
        let old = self.change(id, now, |author| {
            author.heard = now;
            let old = author.insert(held);
            author.raise_over_neighbours();
            old
        });
        self.bytes += length;
        let Some(old) = old else { return visible };
        self.bytes -= old.entry.to_bytes().len();
        if let Some(deadline) = old.deadline {
            self.deadlines.remove(&(deadline, id, key));
        }
        visible || old.is_visible()
    }

    /// See [`Author::raise_through`].
    pub(super) fn raise_through(&mut self, id: NodeId, from: u64, through: u64, now: Instant) {
        if self.authors.contains_key(&id) {
            self.change(id, now, |author| author.raise_through(from, through));
        }
    }

    /// Keeps the proof that an author wrote two things under one number; the first is enough.
    pub(super) fn prove(&mut self, proof: Equivocation, now: Instant) {
        self.change(proof.author(), now, |author| {
            author.equivocation.get_or_insert(proof);
        });
    }

    /// See [`Author::shorten`].
    pub(super) fn shorten(&mut self, entry: &SignedEntry, deadline: Instant, now: Instant) -> bool {
        let (id, key) = (entry.author(), entry.key());
        let Some(author) = self.authors.get_mut(&id) else { return false };
        let old = author.get(key).and_then(|held| held.deadline);
        if !author.shorten(key, deadline) {
            return false;
        }
        if let Some(old) = old {
            self.deadlines.remove(&(old, id, key.clone()));
        }
        self.deadlines.insert((deadline, id, key.clone()));
        self.expire(now)
    }

    /// Ends the life of all entries whose time has come. Returns whether readers see a difference.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut changed = false;
        while let Some((deadline, id, key)) = self.deadlines.first()
            && *deadline <= now
        {
            changed |= self.authors.get_mut(id).is_some_and(|author| author.expire(key, now));
            self.deadlines.pop_first();
        }
        changed
    }

    /// When the next entry's time ends.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _, _)| *deadline)
    }

    /// Changes an author (made if it is new) and keeps the fingerprints in step.
    fn change<T>(&mut self, id: NodeId, now: Instant, change: impl FnOnce(&mut Author) -> T) -> T {
        let existed = self.authors.contains_key(&id);
        let author = self.authors.entry(id).or_insert_with(|| Author::new(id, now));
        let before = author.row();
        let result = change(author);
        let after = author.row();
        if existed {
            self.digests.toggle(&id, &before);
        }
        self.digests.toggle(&id, &after);
        result
    }

    /// The fingerprints made anew from what is held, to check the ones that were kept in step.
    #[cfg(test)]
    pub(super) fn recomputed_root(&self) -> super::digest::Root {
        let mut digests = Digests::new();
        for (id, author) in &self.authors {
            digests.toggle(id, &author.row());
        }
        digests.root()
    }
}
