//! Who is told what, and when: eager push, lazy comparison, catch-up on request.
//!
//! ```text
//! news of our own -------> Entries to every neighbour not known to hold it       (at once, a burst per author)
//! news of others --------> Entries to eight of them by lot                       (likewise)
//! quiet after a change --> Digest to every neighbour that was not told this root (2 to 3 s, at most 30 s)
//! nothing for a minute --> Digest to one neighbour by lot
//! no word from one yet --> Buckets to it, which are always answered           (every 2 to 3 s)
//!
//! A: Digest --> B: same root: silence.  Else, many authors: Buckets --> A: Authors of the buckets that differ
//!                                       few authors: Authors
//!    Authors --> other side: Want where it is behind, Offer of where it is ahead --> Want --> Entries
//! ```
//! Catch-up is sent on request only and asked of one neighbour at a time, so a newcomer with eight neighbours does
//! not get everything eight times.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};

use super::{
    Ledger,
    digest::Root,
    neighbour::{Known, Neighbour},
    rate::Bucket,
    store::Store,
};
use crate::identity::NodeId;

/// A comparison waits until nothing has changed for this long, and a random part of the same again,
const QUIET: Duration = Duration::from_secs(2);
/// but never longer than this.
const QUIET_AT_MOST: Duration = Duration::from_secs(30);
/// While idle one neighbour by lot is compared with, this often and a random half more.
const IDLE: Duration = Duration::from_secs(60);
/// How many changes of one author are passed on at once, and per second; in between only the newest per key.
const FORWARD: (u64, u64) = (16, 1);
/// To so many neighbours news of others is passed on at once: of a thousand members of a random graph fewer than one
/// does not get it so, and hears of it by comparing.
const FANOUT: usize = 8;
/// How long a catch-up that was asked for is waited for before others are asked.
const WANT_WAIT: Duration = Duration::from_secs(3);
/// How many catch-ups are asked for at once.
const WANTED: usize = 4096;
/// For how long an author that found no room is not asked for again.
const DECLINE: Duration = Duration::from_secs(600);
/// How many authors that were put out are remembered.
const DECLINED: usize = 1024;

/// An author of whom no more is wanted for now.
struct Declined {
    /// Entries up to this number are not taken in again.
    newest: u64,
    until: Instant,
}

/// When neighbours are compared with after a change.
struct Comparison {
    at: Instant,
    at_most: Instant,
}

pub(super) struct Spread {
    me: NodeId,
    pub(super) neighbours: BTreeMap<NodeId, Neighbour>,
    random: StdRng,
    /// Whose turn it was last.
    turn: Option<NodeId>,
    forward: BTreeMap<NodeId, Bucket>,
    /// Authors whose changes wait for their turn to be passed on.
    held_back: BTreeSet<NodeId>,
    /// Catch-ups that were asked for, and until when nobody else is asked.
    wanted: BTreeMap<NodeId, Instant>,
    declined: BTreeMap<NodeId, Declined>,
    changed_at: Instant,
    comparison: Option<Comparison>,
    idle_at: Option<Instant>,
}

impl Spread {
    pub(super) fn new(me: NodeId, seed: [u8; 32], now: Instant) -> Self {
        Self {
            me,
            neighbours: BTreeMap::new(),
            random: StdRng::from_seed(seed),
            turn: None,
            forward: BTreeMap::new(),
            held_back: BTreeSet::new(),
            wanted: BTreeMap::new(),
            declined: BTreeMap::new(),
            changed_at: now,
            comparison: None,
            idle_at: None,
        }
    }

    pub(super) fn up(&mut self, id: NodeId, speaks_first: bool, now: Instant) {
        let mut neighbour = Neighbour::new(now);
        neighbour.digest_due = speaks_first;
        self.neighbours.insert(id, neighbour);
        self.compare_soon(now);
        if self.idle_at.is_none() {
            self.idle_at = Some(self.next_idle(now));
        }
    }

    pub(super) fn down(&mut self, id: &NodeId) {
        self.neighbours.remove(id);
        if self.neighbours.is_empty() {
            (self.idle_at, self.comparison) = (None, None);
        }
    }

    /// A number by lot.
    pub(super) fn draw(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.random.random_range(range)
    }

    fn next_idle(&mut self, now: Instant) -> Instant {
        now + IDLE + self.random.random_range(Duration::ZERO..IDLE / 2)
    }

    /// Notes that our root is another one.
    pub(super) fn root_changed(&mut self, now: Instant) {
        self.changed_at = now;
        self.compare_soon(now);
    }

    /// Compares with every neighbour that was not told our root, when it is quiet.
    pub(super) fn compare_soon(&mut self, now: Instant) {
        if self.comparison.is_none() && !self.neighbours.is_empty() {
            let at = now + QUIET + self.random.random_range(Duration::ZERO..QUIET / 2);
            self.comparison = Some(Comparison { at, at_most: now + QUIET_AT_MOST });
        }
    }

    /// Passes on what is new of an author. `before`: how much of it we held, for neighbours of whom nothing is known;
    /// none: those are left to the next comparison.
    pub(super) fn pass_on(&mut self, author: NodeId, before: Option<u64>, now: Instant) {
        if let Some(before) = before {
            for neighbour in self.neighbours.values_mut() {
                neighbour.known.entry(author).or_insert_with(|| Known::up_to(before));
            }
        }
        let bucket = self.forward.entry(author).or_insert_with(|| Bucket::full(FORWARD.0, FORWARD.1, now));
        if bucket.take(now) {
            self.release(author);
        } else {
            self.held_back.insert(author);
        }
    }

    fn release(&mut self, author: NodeId) {
        self.held_back.remove(&author);
        let compared = self.neighbours.values_mut().filter(|one| one.known.contains_key(&author));
        let due = if author == self.me {
            compared.collect()
        } else {
            compared.choose_multiple(&mut self.random, FANOUT)
        };
        for neighbour in due {
            neighbour.entries_due.insert(author);
        }
    }

    /// Asks `from` for an author, unless it is declined or somebody is already asked.
    pub(super) fn want(&mut self, from: &NodeId, author: NodeId, above: u64, now: Instant) {
        let asked = self.wanted.contains_key(&author);
        if self.declined.contains_key(&author) || (!asked && self.wanted.len() >= WANTED) {
            return;
        }
        if let Some(neighbour) = self.neighbours.get_mut(from) {
            neighbour.awaited.insert(author);
            if !asked {
                neighbour.wants_due.insert(author, above);
                self.wanted.insert(author, now + WANT_WAIT);
            }
        }
    }

    /// Notes that a catch-up on an author came. Returns whether it was asked for.
    pub(super) fn delivered(&mut self, author: &NodeId) -> bool {
        for neighbour in self.neighbours.values_mut() {
            neighbour.awaited.remove(author);
        }
        self.wanted.remove(author).is_some()
    }

    pub(super) fn decline(&mut self, author: NodeId, newest: u64, now: Instant) {
        for neighbour in self.neighbours.values_mut() {
            neighbour.awaited.remove(&author);
        }
        self.declined.insert(author, Declined { newest, until: now + DECLINE });
        if self.declined.len() > DECLINED {
            self.declined.pop_first();
        }
    }

    /// Whether an entry is one of those that were put out with their author.
    pub(super) fn is_declined(&self, author: &NodeId, seq: u64) -> bool {
        self.declined.get(author).is_some_and(|declined| seq <= declined.newest)
    }

    /// There may be room again.
    pub(super) fn accept_all_again(&mut self) {
        self.declined.clear();
    }

    pub(super) fn forget(&mut self, author: &NodeId) {
        for neighbour in self.neighbours.values_mut() {
            neighbour.forget(author);
        }
        self.forward.remove(author);
        self.held_back.remove(author);
        self.wanted.remove(author);
    }

    pub(super) fn prove(&mut self, author: NodeId) {
        for neighbour in self.neighbours.values_mut() {
            neighbour.proofs_due.insert(author);
        }
    }

    pub(super) fn handle_timeout(&mut self, root: Root, now: Instant) {
        let held_back: Vec<NodeId> = self.held_back.iter().copied().collect();
        for author in held_back {
            if self.forward.get_mut(&author).is_none_or(|bucket| bucket.take(now)) {
                self.release(author);
            }
        }
        self.declined.retain(|_, declined| declined.until > now);
        let asked = self.wanted.len();
        self.wanted.retain(|_, until| *until > now);
        if self.wanted.len() < asked {
            for neighbour in self.neighbours.values_mut() {
                neighbour.told = None;
                let awaited = neighbour.awaited.len();
                neighbour.awaited.retain(|author| self.wanted.contains_key(author));
                // What it has and we asked for did not come: nothing was exchanged until it is compared with anew.
                neighbour.compared &= neighbour.awaited.len() == awaited;
            }
            self.compare_soon(now);
        }
        self.compare_if_quiet(root, now);
        if self.idle_at.is_some_and(|at| at <= now) {
            self.idle_at = Some(self.next_idle(now));
            // A full bucket is as good as none.
            self.forward.retain(|_, bucket| !bucket.is_full(now));
            let lot = self.random.random_range(0..self.neighbours.len().max(1));
            if let Some(neighbour) = self.neighbours.values_mut().nth(lot) {
                neighbour.digest_due = true;
            }
        }
    }

    fn compare_if_quiet(&mut self, root: Root, now: Instant) {
        let Some(Comparison { at, at_most }) = self.comparison else { return };
        if at > now {
            return;
        }
        let quiet_at = self.changed_at + QUIET;
        if quiet_at > now && at_most > now {
            let at = quiet_at + self.random.random_range(Duration::ZERO..QUIET / 2);
            self.comparison = Some(Comparison { at: at.min(at_most), at_most });
            return;
        }
        self.comparison = None;
        let mut unanswered = false;
        for neighbour in self.neighbours.values_mut() {
            // It was told, and an equal one has no reason to answer: if its own word was lost, it has to be asked.
            neighbour.buckets_due |= !neighbour.compared && neighbour.told == Some(root);
            neighbour.digest_due |= neighbour.told != Some(root);
            unanswered |= !neighbour.compared;
        }
        if unanswered {
            self.compare_soon(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let held_back =
            self.held_back.iter().filter_map(|author| self.forward.get(author)).map(Bucket::opens_at);
        let waiting = self.neighbours.values().filter(|neighbour| neighbour.waits_for_pace());
        [
            held_back.min().map(|at| (at, "an author's changes are passed on")),
            self.declined
                .values()
                .map(|declined| declined.until)
                .min()
                .map(|at| (at, "an author may be asked for again")),
            self.wanted.values().min().map(|at| (*at, "a catch-up did not come")),
            self.comparison
                .as_ref()
                .map(|comparison| (comparison.at, "neighbours are compared with after a change")),
            self.idle_at.map(|at| (at, "a neighbour is compared with by lot")),
            waiting
                .map(|neighbour| neighbour.pace.opens_at())
                .min()
                .map(|at| (at, "a neighbour gets the next part")),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next message, and for whom: every neighbour has its turn.
    pub(super) fn poll_message(&mut self, store: &Store, now: Instant) -> Option<(NodeId, Vec<u8>)> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let after = (self.turn.map_or(Unbounded, Excluded), Unbounded);
        let before = (Unbounded, self.turn.map_or(Unbounded, Included));
        for turns in [after, before] {
            for (id, neighbour) in self.neighbours.range_mut(turns) {
                if let Some(bytes) = neighbour.next_message(store, now) {
                    self.turn = Some(*id);
                    return Some((*id, bytes));
                }
            }
        }
        None
    }
}

impl Ledger {
    /// A neighbour was admitted: it may send, and is told what it lacks.
    pub fn handle_neighbour_up(&mut self, id: NodeId, now: Instant) {
        self.advance(now);
        if id != self.id() {
            self.spread.up(id, self.id() < id, now);
        }
    }

    /// A neighbour is gone.
    pub fn handle_neighbour_down(&mut self, id: NodeId, now: Instant) {
        self.advance(now);
        self.spread.down(&id);
    }

    /// Whether this neighbour has, since it came up, told what it holds and sent what we lacked of that.
    pub fn has_exchanged_with(&self, id: &NodeId) -> bool {
        self.spread.neighbours.get(id).is_some_and(|one| one.compared && one.awaited.is_empty())
    }

    /// The next message and the neighbour it is for. It may be lost: a later comparison makes up for it.
    pub fn poll_message(&mut self) -> Option<(NodeId, Vec<u8>)> {
        let (to, bytes) = self.spread.poll_message(&self.store, self.now)?;
        self.counters.messages_out += 1;
        self.counters.bytes_out += bytes.len() as u64;
        Some((to, bytes))
    }
}
