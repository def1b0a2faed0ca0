//! What neighbours send: judged cheaply first, by signature last, never by authority.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{
    Equivocation, Ledger, MAX_TTL, PeerFault, SignedEntry,
    author::{Author, Verdict},
    digest::{BUCKETS, BucketSum, Root, bucket_of},
    neighbour::{Known, Neighbour},
    store::NoRoom,
    wire::{BucketSet, Message, Row, Section},
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

    fn neighbour(&mut self, id: NodeId) -> &mut Neighbour {
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
        self.neighbour(from).authors_due.union(&differing);
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

    fn take_section(&mut self, from: NodeId, section: &Section<'_>) -> Result<(), PeerFault> {
        let (id, now) = (section.author, self.now);
        let before = self.store.have(&id);
        let (mut complete, mut news) = (true, false);
        let mut fault = None;
        for (left, bytes) in &section.entries {
            match self.take_entry(from, id, bytes, *left) {
                Ok(Taken::News) => news = true,
                Ok(Taken::Held) => {}
                Ok(Taken::Refused) => complete = false,
                Err(one) => {
                    (complete, fault) = (false, Some(one));
                    break;
                }
            }
        }
        if complete {
            self.store.raise_through(id, section.from, section.through, now);
        }
        let asked_for = self.spread.delivered(&id);
        if let Some(author) = self.store.author(&id) {
            let (have, newest) = (author.have(), author.newest());
            let neighbour = self.neighbour(from);
            neighbour.known.entry(id).or_default().raise(section.through.min(newest));
            if have > before {
                self.persistence.mark_author(id, now);
            }
            if news || have > before {
                self.spread.pass_on(id, (!asked_for).then_some(before), now);
            }
        }
        if id == self.id() {
            self.own.hold = None;
        }
        fault.map_or(Ok(()), Err)
    }

    fn take_entry(
        &mut self,
        from: NodeId,
        author: NodeId,
        bytes: &[u8],
        left: Option<Duration>,
    ) -> Result<Taken, PeerFault> {
        let entry = match SignedEntry::parse_unverified(bytes) {
            Ok(entry) => entry,
            // A neighbour of a later version cannot know that we do not read this.
            Err(fault @ PeerFault::EntryVersion(_)) => {
                self.counters.count(fault);
                return Ok(Taken::Refused);
            }
            Err(fault) => return Err(fault),
        };
        if entry.author() != author {
            return Err(PeerFault::MessageMalformed);
        }
        let seq = entry.seq();
        let taken = self.admit(from, entry, left)?;
        if taken != Taken::Refused
            && let Some(held) = self.store.author(&author)
        {
            let neighbour =
                self.spread.neighbours.get_mut(&from).expect("only neighbours' messages are taken");
            let known = neighbour.known.entry(author).or_default();
            known.ahead.insert(seq);
            // Numbers that were replaced meanwhile need not be remembered.
            if known.ahead.len() > 2 * held.keys() + 16 {
                known.ahead.retain(|seq| held.holds(*seq));
            }
        }
        Ok(taken)
    }

    /// Takes an entry in, if it is news, there is room, and its author signed it: in this order of cost.
    fn admit(
        &mut self,
        from: NodeId,
        entry: SignedEntry,
        left: Option<Duration>,
    ) -> Result<Taken, PeerFault> {
        let (id, now) = (entry.author(), self.now);
        let left = entry.ttl().map(|ttl| left.unwrap_or(ttl).min(ttl).min(MAX_TTL));
        let verdict = self.store.judge(&entry);
        match verdict {
            Verdict::Known => {
                self.counters.known += 1;
                if let Some(left) = left {
                    self.changed |= self.store.shorten(&entry, now + left, now);
                }
                return Ok(Taken::Held);
            }
            Verdict::Stale => {
                self.counters.stale += 1;
                return Ok(Taken::Held);
            }
            Verdict::News | Verdict::Clash => {}
        }
        if self.store.author(&id).is_none() && self.spread.is_declined(&id, entry.seq()) {
            return Ok(self.refuse(&entry, NoRoom::Ledger));
        }
        if let Err(no_room) = self.store.fits(&entry) {
            return Ok(self.refuse(&entry, no_room));
        }
        if !self.neighbour(from).checks.take(now) {
            self.counters.refused_rate += 1;
            self.neighbour(from).told = None;
            self.spread.compare_soon(now);
            return Ok(Taken::Refused);
        }
        if !entry.is_signed() {
            return Err(PeerFault::EntrySignature);
        }
        if id == self.id() {
            self.recognise(&entry);
        }
        if verdict == Verdict::Clash {
            let rival = self.store.author(&id).and_then(|author| author.rival(&entry)).cloned();
            if let Some(proof) = rival.and_then(|rival| Equivocation::new(rival, entry.clone())) {
                self.prove(proof);
            }
            if self.store.judge(&entry) != Verdict::News {
                return Ok(Taken::Held);
            }
        }
        let neighbours = &self.spread.neighbours;
        match self.store.make_room(&entry, |id| neighbours.contains_key(id)) {
            Ok(out) => out.into_iter().for_each(|(id, newest)| self.put_out(id, newest)),
            Err(no_room) => return Ok(self.refuse(&entry, no_room)),
        }
        self.counters.accepted += 1;
        self.persistence.mark_entry(id, entry.key().clone(), now);
        self.changed |= self.store.insert(entry, left.map(|left| now + left), now);
        Ok(Taken::News)
    }

    /// Something signed by us comes back. With a number that we never gave, we have lost it, or are two.
    fn recognise(&mut self, entry: &SignedEntry) {
        let mark = self.own.mark();
        if self.own.raise_mark(entry.seq()) && !self.own.amnesia {
            warn!(
                number = entry.seq(),
                mark,
                "a peer holds a ledger entry of this node that this node does not remember: it lost its disk, or its identity was cloned"
            );
            self.own.amnesia = true;
            self.changed = true;
        }
    }

    fn refuse(&mut self, entry: &SignedEntry, no_room: NoRoom) -> Taken {
        match no_room {
            NoRoom::Author => self.counters.refused_author_full += 1,
            NoRoom::Ledger => self.counters.refused_ledger_full += 1,
        }
        // Of an author that is held, later entries may still replace earlier ones.
        let newest = if self.store.author(&entry.author()).is_some() { 0 } else { entry.seq() };
        self.spread.decline(entry.author(), newest, self.now);
        Taken::Refused
    }

    fn put_out(&mut self, id: NodeId, newest: u64) {
        self.counters.put_out += 1;
        self.spread.forget(&id);
        self.spread.decline(id, newest, self.now);
        self.persistence.mark_author(id, self.now);
        self.changed = true;
    }

    fn take_proof(&mut self, from: NodeId, one: &[u8], other: &[u8]) -> Result<(), PeerFault> {
        let claimed = SignedEntry::parse_unverified(one)?.author();
        // Of somebody of whom nothing is held a proof is of no use yet: it comes again with the entries.
        if self.store.author(&claimed).is_none_or(|author| author.equivocation.is_some()) {
            return Ok(());
        }
        let now = self.now;
        let checks = &mut self.neighbour(from).checks;
        if !(checks.take(now) && checks.take(now)) {
            self.counters.refused_rate += 1;
            return Ok(());
        }
        self.prove(Equivocation::parse(one, other)?);
        Ok(())
    }

    /// Keeps and spreads a checked proof, the first of its author.
    fn prove(&mut self, proof: Equivocation) {
        let id = proof.author();
        warn!(author = %id, number = proof.entries().0.seq(), "two machines sign as one: a cloned identity");
        self.store.prove(proof, self.now);
        self.persistence.mark_proof(id, self.now);
        self.spread.prove(id);
        self.changed = true;
    }
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It was not known and is held now.
    News,
    /// It, or what stands against it, is held.
    Held,
    /// It is not held though it might have been.
    Refused,
}

/// A neighbour that holds of an author what we hold.
fn all_of(author: &Author) -> Known {
    let have = author.have();
    Known { have, ahead: author.above(have).map(|held| held.entry.seq()).collect() }
}
