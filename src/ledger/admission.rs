//! Entries and proofs at the door: judged cheaply first, by signature last, never by authority.

use std::time::Duration;

use tracing::warn;

use super::{
    Equivocation, Ledger, MAX_TTL, PeerFault, SignedEntry, author::Verdict, store::NoRoom, wire::Section,
};
use crate::identity::NodeId;

impl Ledger {
    pub(super) fn take_section(&mut self, from: NodeId, section: &Section<'_>) -> Result<(), PeerFault> {
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
        let higher = self.own.raise_mark(entry.seq());
        if higher && self.own.lost {
            // It was lost before too, after a longer jump: there may be more of which this neighbour does not know.
            self.jump();
        }
        if higher && !self.own.amnesia {
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

    pub(super) fn take_proof(&mut self, from: NodeId, one: &[u8], other: &[u8]) -> Result<(), PeerFault> {
        let claimed = SignedEntry::parse_unverified(one)?.author();
        self.spread.delivered(&claimed);
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
