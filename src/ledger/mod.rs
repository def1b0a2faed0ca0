//! The replicated map: every author owns its own keys, everybody holds everybody's.
//!
//! An entry is `{ author, seq, key, value, ttl?, signature }`; the newest per (author, key) stands. There is no order
//! between authors and no right of one over another's facts: what a fact is worth is decided by who reads it.
//!
//! ```text
//!  put ----> own: draft, signed --poll_write--> disk --handle_written--+
//!                                                                       v
//!  handle_message --> codec --> judge, quota, rate, signature --> store: per author entries and `have`
//!                                                                       |         |
//!  poll_message <-- neighbours: what each of them lacks <---------------+         +--> get, with_prefix
//! ```
//! * **Exact catch-up.** `have[a] = s`: every live entry of `a` up to s is held. It rises by s+1, or by a catch-up over
//!   a whole range. What arrives from further ahead is stored and raises nothing.
//! * **Nothing of our own is seen before the disk has it**, so no number is ever used twice.
//! * **Order never matters**: the store is the same after the same entries in any order.
//!
//! Pure: bytes, `now` and randomness come in as arguments.

mod admission;
mod author;
mod counters;
mod digest;
mod disk;
mod entry;
mod equivocation;
mod error;
mod inbound;
mod key;
mod neighbour;
mod outbound;
mod own;
mod persistence;
pub(crate) mod rate;
mod spread;
mod store;
mod value;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::identity::{Identity, NodeId};

pub use counters::Counters;
pub use disk::Damage;
pub use entry::SignedEntry;
pub use equivocation::Equivocation;
pub use error::{LedgerError, PeerFault};
pub use key::Key;
pub use persistence::{Write, WriteKind};
pub use value::{decode, encode};

use author::Held;
use own::Own;
use persistence::Persistence;
use spread::Spread;
use store::Store;

/// The longest value, in bytes: the founding certificate with the most votes that one may need.
pub const MAX_VALUE: usize = 40 * 1024;
/// The longest entry with its signature and fields of later versions, in bytes.
pub const MAX_ENTRY: usize = 41 * 1024;
/// The longest message between neighbours, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The longest time to live.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);
/// The highest number an entry can have.
const MAX_SEQ: u64 = 1 << 62;

/// How much a ledger takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Provisional authors: those that [`Ledger::set_permanent`] did not name.
    pub authors: usize,
    /// Keys of a provisional author.
    pub provisional_keys: usize,
    /// Bytes of a provisional author.
    pub provisional_bytes: usize,
    /// Keys of a permanent author: a lead writes several for every node.
    pub permanent_keys: usize,
    /// Bytes of a permanent author.
    pub permanent_bytes: usize,
    /// Bytes of all authors.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            authors: 256,
            provisional_keys: 64,
            provisional_bytes: 128 * 1024,
            permanent_keys: 8192,
            permanent_bytes: 8 * 1024 * 1024,
            bytes: 32 * 1024 * 1024,
        }
    }
}

/// One node's copy of the ledger and its part in spreading it.
pub struct Ledger {
    identity: Arc<Identity>,
    store: Store,
    own: Own,
    persistence: Persistence,
    spread: Spread,
    counters: Counters,
    /// Readers see something else than when they last asked.
    changed: bool,
    /// The latest time that came in.
    now: Instant,
}

impl Ledger {
    /// An empty ledger for an identity that was made just now. For any other identity use [`Ledger::restore`], also
    /// when its file is gone: what is missing then is a loss, and here it is not.
    ///
    /// `seed`: 32 random bytes. The first [`Ledger::poll_write`] gives the file's first record: have it on disk
    /// before the identity is, so that an identity without a ledger file always means a loss.
    pub fn new(identity: Arc<Identity>, seed: [u8; 32], now: Instant) -> Self {
        let me = identity.id();
        let mut store = Store::new(Bounds::default());
        store.set_permanent(BTreeSet::from([me]));
        Self {
            persistence: Persistence::new(&identity),
            spread: Spread::new(me, seed, now),
            identity,
            store,
            own: Own::default(),
            counters: Counters::default(),
            changed: false,
            now,
        }
    }

    /// Whose ledger this is.
    pub fn id(&self) -> NodeId {
        self.identity.id()
    }

    /// Queues a write of our own. It is signed on its way to the disk and is visible to readers, here and
    /// elsewhere, after [`Ledger::handle_written`]. Writing what stands already does nothing.
    ///
    /// # Errors
    /// [`LedgerError`] for a value or a time to live above the limits, or too many keys.
    pub fn put(
        &mut self,
        key: Key,
        value: Vec<u8>,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Result<(), LedgerError> {
        self.advance(now);
        entry::check_limits(Some(&value), ttl)?;
        let (keys, _) = self.store.quota(&self.id());
        let held = self.store.author(&self.id());
        let is_new = |key: &Key| held.is_none_or(|author| author.get(key).is_none());
        let pending: BTreeSet<&Key> =
            self.own.pending_keys().chain([&key]).filter(|key| is_new(key)).collect();
        let after = held.map_or(0, author::Author::keys) + pending.len();
        if is_new(&key) && after > keys {
            return Err(LedgerError::TooManyKeys { keys });
        }
        let stands = self.latest(&key) == Some(&value) && self.latest_ttl(&key).is_none() && ttl.is_none();
        if !stands {
            self.own.draft(key, Some(value), ttl, now);
        }
        Ok(())
    }

    /// Queues the removal of a key of our own; a key that is not there stays so.
    pub fn remove(&mut self, key: &Key, now: Instant) {
        self.advance(now);
        if self.latest(key).is_some() {
            self.own.draft(key.clone(), None, None, now);
        }
    }

    /// The value we last put under `key`, visible already or not; none if we did not, or removed it.
    pub fn latest(&self, key: &str) -> Option<&[u8]> {
        match self.own.pending(key) {
            Some(pending) => pending,
            None => self.get(self.id(), key).map(SignedEntry::value),
        }
    }

    fn latest_ttl(&self, key: &str) -> Option<Duration> {
        match self.own.pending(key) {
            Some(_) => self.own.pending_ttl(key),
            None => self.get(self.id(), key).and_then(SignedEntry::ttl),
        }
    }

    /// What `author` says under `key`, unless it removed it or its time is over.
    pub fn get(&self, author: NodeId, key: &str) -> Option<&SignedEntry> {
        let held = self.store.author(&author)?.get(key)?;
        held.is_visible().then_some(&held.entry)
    }

    /// What everybody says under the keys that start with `prefix`, by author and key.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a SignedEntry> {
        self.store
            .authors()
            .flat_map(move |(_, author)| author.with_prefix(prefix))
            .filter(|held| held.is_visible())
            .map(|held| &held.entry)
    }

    /// What one author says, by key.
    pub fn of_author(&self, author: NodeId) -> impl Iterator<Item = &SignedEntry> {
        let held = self.store.author(&author).into_iter().flat_map(|author| author.with_prefix(""));
        held.filter(|held| held.is_visible()).map(|held: &Held| &held.entry)
    }

    /// Up to which of its numbers every live entry of an author is held.
    pub fn have(&self, author: NodeId) -> u64 {
        self.store.have(&author)
    }

    /// The number of what is held of an author under `key`, be it a removal or something whose time is over.
    pub fn seq_of(&self, author: NodeId, key: &str) -> Option<u64> {
        Some(self.store.author(&author)?.get(key)?.entry.seq())
    }

    /// Everybody of whom an entry is held, in order.
    pub fn authors(&self) -> impl Iterator<Item = NodeId> {
        self.store.authors().map(|(id, _)| *id)
    }

    /// The proofs that somebody, perhaps we, signs as two machines; at most one per author.
    pub fn equivocations(&self) -> impl Iterator<Item = &Equivocation> {
        self.store.authors().filter_map(|(_, author)| author.equivocation.as_ref())
    }

    /// Names the authors that are never put out to make room: those with a role. We ourselves always are one.
    pub fn set_permanent(&mut self, ids: impl IntoIterator<Item = NodeId>) {
        if self.store.set_permanent(ids.into_iter().chain([self.id()]).collect()) {
            self.spread.accept_all_again();
        }
    }

    /// Sets how much is taken in from now on; what is held already stays.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.store.bounds = bounds;
        self.spread.accept_all_again();
    }

    /// Whether something that was once confirmed is gone: our file was damaged, or a peer held an entry of ours with
    /// a higher number than we ever wrote. Whoever promised something under this identity may not know it any more.
    /// It stays true over restarts.
    pub fn amnesia(&self) -> bool {
        self.own.amnesia
    }

    /// The highest number that we gave. Kept outside of this ledger's file too, it makes a loss of the file visible
    /// ([`Ledger::handle_mark`]).
    pub fn mark(&self) -> u64 {
        self.own.mark()
    }

    /// Whether readers see something else than when this was last asked.
    pub fn poll_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// A fingerprint of all that is held: equal where the same is held, as 32 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        self.store.digests().root().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Counts and sizes.
    pub fn counters(&self) -> Counters {
        Counters {
            authors: self.store.authors().count(),
            bytes: self.store.bytes(),
            log_bytes: self.persistence.log_bytes(),
            ..self.counters.clone()
        }
    }

    /// Does what is due by now.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.changed |= self.store.expire(now);
        if self.own.hold.is_some_and(|until| until <= now) {
            self.own.hold = None;
        }
        self.spread.handle_timeout(self.store.digests().root(), self.now);
    }

    /// When [`Ledger::handle_timeout`] has something to do, and what.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        [
            self.store.next_deadline().map(|at| (at, "an entry's time ends")),
            self.own.hold.map(|at| (at, "own writes waited for peers after a loss")),
            self.persistence.due(&self.own).map(|at| (at, "the ledger is written to disk")),
            self.spread.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Time does not run backwards here, whatever comes in.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }
}
