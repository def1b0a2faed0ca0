//! What is due to a neighbour, made into messages when the wire takes them.

use std::{collections::BTreeMap, time::Instant};

use super::{
    MAX_ENTRY, MAX_MESSAGE,
    author::Author,
    digest::bucket_of,
    neighbour::{Known, Neighbour},
    store::Store,
    wire::{BucketSet, Message, Row, Section},
};
use crate::identity::NodeId;

/// What a message is filled up to: the largest entry and its frame still fit on top.
const FILL: usize = MAX_MESSAGE - MAX_ENTRY - 1024;
/// Rows or wants in one message.
const ROWS: usize = 900;

impl Neighbour {
    /// The next message, if there is something to say and its turn has come.
    pub(super) fn next_message(&mut self, store: &Store, now: Instant) -> Option<Vec<u8>> {
        let message = match self.next_small(store) {
            Some(message) => message,
            None if self.waits_for_pace() && self.pace.is_open(now) => self.next_large(store, now)?,
            None => return None,
        };
        self.pace.spend(message.len());
        Some(message)
    }

    /// Comparisons and requests.
    fn next_small(&mut self, store: &Store) -> Option<Vec<u8>> {
        if std::mem::take(&mut self.digest_due) {
            let root = store.digests().root();
            self.told = Some(root);
            return Some(Message::Digest(root).encode());
        }
        if std::mem::take(&mut self.buckets_due) {
            return Some(Message::Buckets(Box::new(*store.digests().buckets())).encode());
        }
        if !self.wants_due.is_empty() {
            let wants = std::iter::from_fn(|| self.wants_due.pop_first()).take(ROWS).collect();
            return Some(Message::Want(wants).encode());
        }
        None
    }

    fn next_large(&mut self, store: &Store, now: Instant) -> Option<Vec<u8>> {
        if std::mem::take(&mut self.offer_due) || !self.offers_due.is_empty() {
            let offers = std::iter::from_fn(|| self.offers_due.pop_first()).take(ROWS);
            let rows = offers.filter_map(|id| store.author(&id).map(|author| row(&id, author))).collect();
            return Some(Message::Offer(rows).encode());
        }
        if !self.authors_due.is_empty() {
            return Some(self.next_authors(store));
        }
        while let Some(id) = self.proofs_due.pop_first() {
            if let Some(proof) = store.author(&id).and_then(|author| author.equivocation.as_ref()) {
                let (one, other) = proof.entries();
                return Some(Message::Proofs(vec![(one.to_bytes(), other.to_bytes())]).encode());
            }
        }
        self.next_entries(store, now)
    }

    /// As many whole buckets as fit.
    fn next_authors(&mut self, store: &Store) -> Vec<u8> {
        let mut by_bucket: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
        for (id, author) in store.authors().filter(|(id, _)| self.authors_due.contains(bucket_of(id))) {
            by_bucket.entry(bucket_of(id)).or_default().push(row(id, author));
        }
        let (mut buckets, mut rows) = (BucketSet::default(), Vec::new());
        for bucket in self.authors_due.iter() {
            let more = by_bucket.remove(&bucket).unwrap_or_default();
            if !rows.is_empty() && rows.len() + more.len() > ROWS {
                break;
            }
            buckets.insert(bucket);
            self.authors_due.remove(bucket);
            rows.extend(more.into_iter().take(ROWS));
        }
        Message::Authors(buckets, rows).encode()
    }

    /// What it lacks of the authors that are due, as much as fits.
    fn next_entries(&mut self, store: &Store, now: Instant) -> Option<Vec<u8>> {
        let (mut sections, mut length) = (Vec::new(), 0);
        while length < FILL
            && let Some(id) = self.entries_due.first().copied()
        {
            let Some(author) = store.author(&id) else {
                self.entries_due.remove(&id);
                continue;
            };
            let known = self.known.entry(id).or_default();
            let (section, complete) = next_section(id, author, known, &mut length, now);
            if complete {
                self.entries_due.remove(&id);
            }
            sections.extend(section);
        }
        (!sections.is_empty()).then(|| Message::Entries(sections).encode())
    }
}

/// What a neighbour lacks of one author, up to [`FILL`], and whether that is all.
fn next_section<'a>(
    id: NodeId,
    author: &'a Author,
    known: &mut Known,
    length: &mut usize,
    now: Instant,
) -> (Option<Section<'a>>, bool) {
    let from = known.have;
    let (mut entries, mut last, mut complete) = (Vec::new(), from, true);
    // The first that is left out though it may not have arrived.
    let mut unsure = None;
    // Of an author with two contents under one number, single numbers say nothing about what a neighbour holds.
    let exact = author.equivocation.is_none();
    for held in author.above(from) {
        let seq = held.entry.seq();
        if exact && (known.ahead.contains(&seq) || known.sent.contains(&seq)) {
            if !known.ahead.contains(&seq) {
                unsure.get_or_insert(seq);
            }
            last = seq;
            continue;
        }
        if *length >= FILL && seq > last {
            complete = false;
            break;
        }
        *length += held.entry.to_bytes().len() + 16;
        entries.push((held.left(now), held.entry.to_bytes()));
        if exact {
            known.sent.insert(seq);
        }
        last = seq;
    }
    let through = if complete { author.have() } else { last.min(author.have()) };
    let through = unsure.map_or(through, |unsure| through.min(unsure - 1)).max(from);
    known.raise(through);
    *length += 64;
    let says_something = !entries.is_empty() || through > from;
    (says_something.then_some(Section { author: id, from, through, entries }), complete)
}

/// What we hold of an author.
fn row(id: &NodeId, author: &Author) -> Row {
    Row {
        author: *id,
        have: author.have(),
        fingerprint: author.row(),
        equivocated: author.equivocation.is_some(),
    }
}
