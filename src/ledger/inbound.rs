//! What neighbours say they hold, ask for and send.

use std::{collections::BTreeSet, time::Instant};

use super::{
    Ledger, PeerFault,
    author::Author,
    digest::{BUCKETS, BucketSum, Root, bucket_of},
    neighbour::{Known, Neighbour},
    wire::{BucketSet, Message, Row},
};
use crate::identity::NodeId;

/// With so few authors a comparison names them all at once.
const FEW_AUTHORS: usize = 64;

impl Ledger {
    /// Takes a message of a neighbour.
    ///
    /// # Errors
    /// [`PeerFault`] if the neighbour sent what it could itself have refused. What came before the fault in the same
    /// message stands. Everything else that is not taken in is only counted.
    pub fn handle_message(&mut self, from: NodeId, bytes: &[u8], now: Instant) -> Result<(), PeerFault> {
        self.advance(now);
        self.counters.messages_in += 1;
        self.counters.bytes_in += bytes.len() as u64;
        if !self.spread.neighbours.contains_key(&from) {
            self.counters.strangers += 1;
            return Ok(());
        }
        let root = self.store.digests().root();
        let result = Message::parse(bytes).and_then(|message| self.take(from, message));
        if let Err(fault) = result {
            self.counters.count(fault);
        }
        if self.store.digests().root() != root {
            self.spread.root_changed(now);
        }
        result
    }

    fn take(&mut self, from: NodeId, message: Message<'_>) -> Result<(), PeerFault> {
        match message {
            Message::Digest(root) => self.take_digest(from, root),
            Message::Buckets(sums) => self.take_buckets(from, &sums),
            Message::Authors(buckets, rows) => self.take_authors(from, buckets, &rows),
            Message::Offer(rows) => self.take_offer(from, &rows),
            Message::Want(wants) => self.take_want(from, &wants),
            Message::Entries(sections) => {
                for section in sections {
                    self.take_section(from, &section)?;
                }
            }
            Message::Proofs(proofs) => {
                for (one, other) in proofs {
                    self.take_proof(from, one, other)?;
                }
            }
            Message::Unknown(_) => self.counters.unknown_kind += 1,
        }
        Ok(())
    }

    pub(super) fn neighbour(&mut self, id: NodeId) -> &mut Neighbour {
        self.spread.neighbours.get_mut(&id).expect("only neighbours' messages are taken")
    }

    fn take_digest(&mut self, from: NodeId, root: Root) {
        let ours = self.store.digests().root();
        if root == ours {
            let known = self.store.authors().map(|(id, author)| (*id, all_of(author))).collect();
            let neighbour = self.neighbour(from);
            neighbour.known = known;
            neighbour.entries_due.clear();
            neighbour.compared = true;
            neighbour.awaited.clear();
            neighbour.digest_due = neighbour.told != Some(ours);
            self.own.hold = None;
        } else if self.may_answer(from) {
            let few = self.store.authors().count() <= FEW_AUTHORS;
            let neighbour = self.neighbour(from);
            if few {
                neighbour.authors_due = BucketSet::ALL;
            } else {
                neighbour.buckets_due = true;
            }
        }
    }

    /// Who asks too often gets no answer, but is compared with later.
    fn may_answer(&mut self, from: NodeId) -> bool {
        let now = self.now;
        let neighbour = self.neighbour(from);
        let may = neighbour.answers.take(now);
        neighbour.told = None;
        if !may {
            self.counters.unanswered += 1;
            self.spread.compare_soon(now);
        }
        may
    }

    fn take_buckets(&mut self, from: NodeId, sums: &[BucketSum; BUCKETS]) {
        if !self.may_answer(from) {
            return;
        }
        let mut differing = BucketSet::default();
        let pairs = sums.iter().zip(self.store.digests().buckets()).enumerate();
        pairs.filter(|(_, (theirs, ours))| theirs != ours).for_each(|(bucket, _)| differing.insert(bucket));
        let neighbour = self.neighbour(from);
        neighbour.authors_due.union(&differing);
        // Equal ones ask to know just that.
        neighbour.offer_due |= differing.is_empty();
    }

    fn take_authors(&mut self, from: NodeId, buckets: BucketSet, rows: &[Row]) {
        if !self.may_answer(from) {
            return;
        }
        let named: BTreeSet<NodeId> = rows.iter().map(|row| row.author).collect();
        let unnamed = self.store.authors().map(|(id, _)| *id);
        let unnamed: Vec<NodeId> =
            unnamed.filter(|id| buckets.contains(bucket_of(id)) && !named.contains(id)).collect();
        let me = self.id();
        if buckets.contains(bucket_of(&me)) && !named.contains(&me) {
            self.own.hold = None;
        }
        let neighbour = self.neighbour(from);
        for id in unnamed {
            neighbour.known.insert(id, Known::default());
            neighbour.offers_due.insert(id);
        }
        neighbour.offer_due = true;
        neighbour.compared = true;
        for row in rows {
            self.compare(from, row, true);
        }
    }

    fn take_offer(&mut self, from: NodeId, rows: &[Row]) {
        if !rows.is_empty() && !self.may_answer(from) {
            return;
        }
        self.neighbour(from).compared = true;
        for row in rows {
            self.compare(from, row, false);
        }
    }

    /// Compares what a neighbour holds of an author with what we hold, and notes what either is to send.
    fn compare(&mut self, from: NodeId, row: &Row, may_offer: bool) {
        let (id, now) = (row.author, self.now);
        let Some(author) = self.store.author(&id) else {
            self.spread.want(&from, id, 0, now);
            return;
        };
        let have = author.have();
        let ours_equivocated = author.equivocation.is_some();
        if author.row() == row.fingerprint {
            let known = all_of(author);
            let neighbour = self.neighbour(from);
            neighbour.known.insert(id, known);
            neighbour.awaited.remove(&id);
            if id == self.id() {
                self.own.hold = None;
            }
            return;
        }
        // With one number and different contents, neither can tell where they part.
        let same_number = row.have == have && row.equivocated == ours_equivocated;
        let neighbour = self.neighbour(from);
        neighbour.known.insert(id, Known::up_to(if same_number { 0 } else { row.have }));
        if ours_equivocated && !row.equivocated {
            neighbour.proofs_due.insert(id);
        }
        if may_offer && (row.have < have || same_number) {
            neighbour.offers_due.insert(id);
        }
        let behind = row.have > have || same_number || (row.equivocated && !ours_equivocated);
        if behind {
            self.spread.want(&from, id, if same_number { 0 } else { have }, now);
        } else if id == self.id() {
            self.own.hold = None;
        }
    }

    fn take_want(&mut self, from: NodeId, wants: &[(NodeId, u64)]) {
        for (id, above) in wants {
            let Some(author) = self.store.author(id) else { continue };
            let equivocated = author.equivocation.is_some();
            let neighbour = self.neighbour(from);
            neighbour.known.insert(*id, Known::up_to(*above));
            neighbour.entries_due.insert(*id);
            if equivocated {
                neighbour.proofs_due.insert(*id);
            }
        }
    }
}

/// A neighbour that holds of an author what we hold.
fn all_of(author: &Author) -> Known {
    let have = author.have();
    Known { ahead: author.above(have).map(|held| held.entry.seq()).collect(), ..Known::up_to(have) }
}
