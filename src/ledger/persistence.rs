//! When what goes to the disk, and how it comes back.
//!
//! ```text
//! Idle --poll_write--> Writing --handle_written--> Idle
//!  ^                      |
//!  +---- back-off --------+ handle_write_failed: the next write is a whole snapshot
//! ```

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Ledger,
    author::Author,
    disk::{self, Damage, DiskKey, Record},
    own::{LOSS_JUMP, LOSS_WAIT, Own, Unwritten},
};
use crate::identity::{Identity, NodeId};

/// Entries of others wait this long for company: peers could give them back.
const FOREIGN_DELAY: Duration = Duration::from_secs(2);
/// The first and the longest wait after a failed write.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A log this much longer than what lives in it is replaced by a snapshot.
const SLACK: usize = 256 * 1024;

/// Bytes for the ledger's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where they go.
    pub kind: WriteKind,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether [`Ledger::handle_written`] may be called only after they survived a loss of power (fsync).
    pub must_sync: bool,
}

/// How bytes go into the ledger's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    /// At its end.
    Append,
    /// Instead of all that is in it, at once or not at all (temporary file, fsync, rename). Always synced.
    Replace,
}

enum State {
    Idle,
    Writing { kind: WriteKind, length: usize },
    Failed { retry_at: Instant },
}

pub(super) struct Persistence {
    key: DiskKey,
    state: State,
    /// Entries of others that the disk lacks: author and key.
    dirty: BTreeSet<(NodeId, super::Key)>,
    /// Authors whose `have`, or absence, the disk lacks.
    dirty_authors: BTreeSet<NodeId>,
    /// Authors whose proof of equivocation the disk lacks.
    dirty_proofs: BTreeSet<NodeId>,
    /// Since when something of others waits.
    dirty_since: Option<Instant>,
    /// How long to wait after the next failure.
    retry_wait: Duration,
    /// The next write replaces the file.
    replace: bool,
    /// Length of the file, as far as it is known to be good.
    log_bytes: usize,
}

impl Persistence {
    pub(super) fn new(identity: &Identity) -> Self {
        Self {
            key: DiskKey::new(identity),
            state: State::Idle,
            dirty: BTreeSet::new(),
            dirty_authors: BTreeSet::new(),
            dirty_proofs: BTreeSet::new(),
            dirty_since: None,
            retry_wait: RETRY.0,
            replace: true,
            log_bytes: 0,
        }
    }

    pub(super) fn log_bytes(&self) -> usize {
        self.log_bytes
    }

    /// Notes that the disk lacks an entry of somebody else.
    pub(super) fn mark_entry(&mut self, author: NodeId, key: super::Key, now: Instant) {
        self.dirty.insert((author, key));
        self.mark_author(author, now);
    }

    /// Notes that the disk lacks something else about an author.
    pub(super) fn mark_author(&mut self, author: NodeId, now: Instant) {
        self.dirty_authors.insert(author);
        self.dirty_since.get_or_insert(now);
    }

    /// Notes that the disk lacks the proof against an author.
    pub(super) fn mark_proof(&mut self, author: NodeId, now: Instant) {
        self.dirty_proofs.insert(author);
        self.mark_author(author, now);
    }

    /// When the next write can go out, if there is anything to write.
    pub(super) fn due(&self, own: &Own) -> Option<Instant> {
        let wanted = self.dirty_since.map(|since| since + FOREIGN_DELAY);
        match self.state {
            State::Writing { .. } => None,
            State::Failed { retry_at } => Some(retry_at),
            State::Idle if self.replace || own.wants_write() => None,
            State::Idle => wanted,
        }
    }

    fn is_ready(&self, own: &Own, now: Instant) -> bool {
        match self.state {
            State::Writing { .. } => false,
            State::Failed { retry_at } => retry_at <= now,
            State::Idle => {
                let waited = self.dirty_since.is_some_and(|since| since + FOREIGN_DELAY <= now);
                self.replace || own.wants_write() || waited
            }
        }
    }
}

impl Ledger {
    /// The ledger as it was on `disk` (the bytes of its file; empty if there is none), and what is missing there.
    ///
    /// A loss makes this identity amnesiac ([`Ledger::amnesia`]): its own numbers go on far above the ones found,
    /// and its writes wait until a neighbour has said what it holds of us, or for ten seconds.
    pub fn restore(
        identity: Arc<Identity>,
        seed: [u8; 32],
        disk: &[u8],
        now: Instant,
    ) -> (Self, Vec<Damage>) {
        let mut ledger = Self::new(identity, seed, now);
        let (records, damage) = disk::read_records(disk, &ledger.persistence.key);
        let lost = damage.iter().any(Damage::is_loss);
        for record in records {
            ledger.take_record(record, lost, now);
        }
        if lost {
            ledger.begin_with_loss(now);
        } else {
            ledger.store.raise_through(ledger.id(), 0, ledger.own.mark(), now);
        }
        ledger.own.unsaved = lost;
        ledger.persistence.replace = !damage.is_empty();
        ledger.persistence.log_bytes = disk.len();
        ledger.changed = true;
        (ledger, damage)
    }

    /// Takes the mark that was kept elsewhere, a while ago: a higher one than ours means that we lost what we wrote
    /// since.
    pub fn handle_mark(&mut self, mark: u64, now: Instant) {
        self.advance(now);
        if self.own.raise_mark(mark) {
            self.begin_with_loss(now);
        }
    }

    fn begin_with_loss(&mut self, now: Instant) {
        self.jump();
        (self.own.lost, self.own.amnesia) = (true, true);
        self.own.hold = Some(now + LOSS_WAIT);
    }

    /// Goes on at numbers that nothing lost had.
    pub(super) fn jump(&mut self) {
        let by = self.spread.draw(LOSS_JUMP);
        self.own.raise_mark(self.own.mark() + by);
    }

    fn take_record(&mut self, record: Record, lost: bool, now: Instant) {
        match record {
            Record::Mark(author, seq) if author == self.id() => {
                self.own.raise_mark(seq);
            }
            Record::Amnesia(author) if author == self.id() => self.own.amnesia = true,
            Record::Mark(..) | Record::Amnesia(_) | Record::Complete => {}
            Record::Entry(entry, left) => {
                if entry.author() == self.id() {
                    self.own.raise_mark(entry.seq());
                }
                let stands = self.store.author(&entry.author()).and_then(|author| author.get(entry.key()));
                if stands.is_none_or(|held| entry.stands_against(&held.entry)) {
                    self.store.insert(entry, left.map(|left| now + left), now);
                }
            }
            // What was held completely may not be so any more.
            Record::Have(..) if lost => {}
            Record::Have(author, have) => self.store.raise_through(author, 0, have, now),
            Record::Proof(proof) => self.store.prove(proof, now),
            Record::Forget(author) => self.store.forget(&author),
        }
    }

    /// The next bytes for the disk, one write at a time: then [`Ledger::handle_written`] or
    /// [`Ledger::handle_write_failed`].
    pub fn poll_write(&mut self) -> Option<Write> {
        if !self.persistence.is_ready(&self.own, self.now) {
            return None;
        }
        let must_sync = self.own.wants_write();
        let mut bytes = Vec::new();
        let live = self.store.bytes();
        let kind = if self.persistence.replace || self.persistence.log_bytes > 2 * live + SLACK {
            self.write_snapshot(&mut bytes);
            WriteKind::Replace
        } else {
            self.write_changes(&mut bytes);
            WriteKind::Append
        };
        self.write_own(kind, &mut bytes);
        self.own.unsaved = false;
        self.persistence.dirty.clear();
        self.persistence.dirty_authors.clear();
        self.persistence.dirty_proofs.clear();
        self.persistence.dirty_since = None;
        self.persistence.state = State::Writing { kind, length: bytes.len() };
        Some(Write { kind, bytes, must_sync: must_sync || kind == WriteKind::Replace })
    }

    fn write_snapshot(&self, bytes: &mut Vec<u8>) {
        for (id, author) in self.store.authors() {
            for held in author.above(0) {
                self.write(bytes, &Record::Entry(held.entry.clone(), held.left(self.now)));
            }
            self.write(bytes, &Record::Have(*id, author.have()));
            if let Some(proof) = &author.equivocation {
                self.write(bytes, &Record::Proof(proof.clone()));
            }
        }
    }

    fn write_changes(&self, bytes: &mut Vec<u8>) {
        let Persistence { dirty, dirty_authors, dirty_proofs, .. } = &self.persistence;
        for (author, key) in dirty {
            if let Some(held) = self.store.author(author).and_then(|author| author.get(key)) {
                self.write(bytes, &Record::Entry(held.entry.clone(), held.left(self.now)));
            }
        }
        for id in dirty_authors {
            let record =
                self.store.author(id).map_or(Record::Forget(*id), |author| Record::Have(*id, author.have()));
            self.write(bytes, &record);
        }
        for id in dirty_proofs {
            if let Some(proof) = self.store.author(id).and_then(|author| author.equivocation.clone()) {
                self.write(bytes, &Record::Proof(proof));
            }
        }
    }

    fn write_own(&mut self, kind: WriteKind, bytes: &mut Vec<u8>) {
        let me = self.id();
        if kind == WriteKind::Replace || self.own.unsaved {
            self.write(bytes, &Record::Mark(me, self.own.mark()));
            if self.own.amnesia {
                self.write(bytes, &Record::Amnesia(me));
            }
        }
        for Unwritten { entry, deadline } in self.own.sign_drafts(&self.identity) {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(self.now));
            disk::write_record(bytes, &self.persistence.key, &Record::Entry(entry.clone(), left));
        }
        if kind == WriteKind::Replace {
            self.write(bytes, &Record::Complete);
        }
    }

    fn write(&self, bytes: &mut Vec<u8>, record: &Record) {
        disk::write_record(bytes, &self.persistence.key, record);
    }

    /// The last write is on disk, as safe as it asked to be: our own entries in it are visible from now on.
    pub fn handle_written(&mut self, now: Instant) {
        self.advance(now);
        let State::Writing { kind, length } = self.persistence.state else { return };
        self.persistence.state = State::Idle;
        self.persistence.retry_wait = RETRY.0;
        match kind {
            WriteKind::Append => self.persistence.log_bytes += length,
            WriteKind::Replace => {
                self.persistence.log_bytes = length;
                self.persistence.replace = false;
            }
        }
        self.publish(now);
    }

    /// The last write is not, or perhaps not, on disk. It is tried again later, as a whole snapshot.
    pub fn handle_write_failed(&mut self, now: Instant) {
        self.advance(now);
        if let State::Writing { .. } = self.persistence.state {
            let wait = self.persistence.retry_wait;
            self.persistence.retry_wait = (wait * 2).min(RETRY.1);
            self.persistence.state = State::Failed { retry_at: now + wait };
            self.persistence.replace = true;
            self.counters.writes_failed += 1;
        }
    }

    /// Makes the own entries visible that the disk has confirmed.
    fn publish(&mut self, now: Instant) {
        let me = self.id();
        let taken = self.store.author(&me).map_or(0, Author::newest);
        let Some(confirmed) = self.own.confirmed(taken, now) else {
            // The file holds numbers that must never be seen.
            self.persistence.replace = true;
            return;
        };
        let (root, before) = (self.store.digests().root(), self.store.have(&me));
        for Unwritten { entry, deadline } in confirmed {
            let (have, seq) = (self.store.have(&me), entry.seq());
            self.changed |= self.store.insert(entry, deadline, now);
            self.store.raise_through(me, have, seq, now);
        }
        if self.store.digests().root() != root {
            self.spread.pass_on(me, Some(before), now);
            self.spread.root_changed(now);
        }
    }
}
