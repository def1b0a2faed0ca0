//! What one neighbour is known to hold, and what it is to be told next.
//!
//! There is no queue of messages: what is due is noted here and made into messages when the wire takes them. So it
//! is bounded by the number of authors, and a message always says what is true when it leaves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{digest::Root, rate::Bucket, wire::BucketSet};
use crate::identity::NodeId;

/// Signature checks that a neighbour can cause: at once (a catch-up on a thousand authors) and per second.
const CHECKS: (u64, u64) = (8192, 500);
/// Comparisons of rows or buckets that a neighbour can cause: at once and per second.
const ANSWERS: (u64, u64) = (32, 2);
/// Bytes of catch-up and rows sent to a neighbour: at once and per second.
const PACE: (u64, u64) = (1024 * 1024, 1024 * 1024);

/// What a neighbour is known to hold of one author.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Everything live up to here.
    pub(super) have: u64,
    /// Single entries from further ahead.
    pub(super) ahead: BTreeSet<u64>,
    /// Entries that were sent to it, and may be lost: they are not sent again for now, and nothing is promised over
    /// them.
    pub(super) sent: BTreeSet<u64>,
}

impl Known {
    pub(super) fn up_to(have: u64) -> Self {
        Self { have, ..Self::default() }
    }

    pub(super) fn raise(&mut self, have: u64) {
        if have > self.have {
            self.have = have;
            self.ahead = self.ahead.split_off(&have.saturating_add(1));
            self.sent = self.sent.split_off(&have.saturating_add(1));
        }
    }
}

pub(super) struct Neighbour {
    pub(super) known: BTreeMap<NodeId, Known>,
    /// Authors of whom it lacks, or asked for, something.
    pub(super) entries_due: BTreeSet<NodeId>,
    pub(super) proofs_due: BTreeSet<NodeId>,
    pub(super) digest_due: bool,
    /// Our buckets: where its own differ it names the authors, and where none do it says so.
    pub(super) buckets_due: bool,
    pub(super) authors_due: BucketSet,
    /// It sent rows: it gets an offer, be it empty, to know that they were compared.
    pub(super) offer_due: bool,
    pub(super) offers_due: BTreeSet<NodeId>,
    /// What to ask it for: author and from where.
    pub(super) wants_due: BTreeMap<NodeId, u64>,
    /// The root of ours that it was told last, unless it is known to have had another one.
    pub(super) told: Option<Root>,
    /// It said once what it holds.
    pub(super) compared: bool,
    /// Authors of whom it said that it holds what we lack, until that comes, from whomever.
    pub(super) awaited: BTreeSet<NodeId>,
    pub(super) checks: Bucket,
    pub(super) answers: Bucket,
    pub(super) pace: Bucket,
}

impl Neighbour {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            known: BTreeMap::new(),
            entries_due: BTreeSet::new(),
            proofs_due: BTreeSet::new(),
            digest_due: false,
            buckets_due: false,
            authors_due: BucketSet::default(),
            offer_due: false,
            offers_due: BTreeSet::new(),
            wants_due: BTreeMap::new(),
            told: None,
            compared: false,
            awaited: BTreeSet::new(),
            checks: Bucket::full(CHECKS.0, CHECKS.1, now),
            answers: Bucket::full(ANSWERS.0, ANSWERS.1, now),
            pace: Bucket::full(PACE.0, PACE.1, now),
        }
    }

    /// Forgets an author that was put out.
    pub(super) fn forget(&mut self, author: &NodeId) {
        self.known.remove(author);
        self.entries_due.remove(author);
        self.proofs_due.remove(author);
        self.offers_due.remove(author);
        self.wants_due.remove(author);
        self.awaited.remove(author);
    }

    /// Whether something large waits for its turn.
    pub(super) fn waits_for_pace(&self) -> bool {
        let rows = self.offer_due || !self.offers_due.is_empty() || !self.authors_due.is_empty();
        rows || !self.entries_due.is_empty() || !self.proofs_due.is_empty()
    }
}
