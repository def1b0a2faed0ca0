//! One server's part in holding the Kubernetes Lease (`coordination.k8s.io/v1`): what to write into it, and when.
//!
//! ```text
//!            none there, or not renewed for its time
//! Watching -------------------------------------------> asked -- written --> Holding
//!     ^                                                   |                     |  renewed every RENEW
//!     +-- another server holds it; the write was refused -+<--------------------+  not renewed for HOLD
//! ```
//! Clocks of machines are never compared: whether somebody renews is judged by how long the record has not changed for
//! us, as Kubernetes' own leader election does (client-go `leaderelection`). The API server refuses a write whose
//! version is not the last one, so that two never take the same transition.

use std::time::{Duration, Instant};

use super::lead::Held;

/// How long a Lease is good without being renewed.
pub const DURATION: Duration = Duration::from_secs(30);
/// How often the holder renews it, and the others look.
pub const RENEW: Duration = Duration::from_secs(8);
/// How long after its last renewal began a holder still takes it for its own; the rest is for slow answers.
pub(super) const HOLD: Duration = Duration::from_secs(20);

/// What a Lease says that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty: it was given back.
    pub holder: String,
    /// How often it changed hands.
    pub transitions: u64,
    /// When it was renewed last, in the holder's words: only whether it changes counts.
    pub renewed: String,
}

/// What to do with the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bid {
    /// Make it, with this many transitions, or change it to that; ours from then on.
    Write {
        /// `spec.leaseTransitions`.
        transitions: u64,
    },
    /// Leave it alone; look again after [`RENEW`].
    Watch,
}

/// One server's memory of the Lease.
#[derive(Debug)]
pub struct Campaign {
    me: String,
    /// The record seen last, and since when it has not changed.
    seen: Option<(Record, Instant)>,
    held: Option<Held>,
    /// The epoch of the write that is under way, and when it began.
    asked: Option<(u64, Instant)>,
}

impl Campaign {
    /// A server that has not looked yet. `me` is what it writes as the holder.
    pub fn new(me: String) -> Self {
        Self { me, seen: None, held: None, asked: None }
    }

    /// The Lease was looked at. `epoch` is the highest one that the ledger knows, `ours` whether this server is the
    /// lead of it: a Lease that somebody deleted, and that is made anew, goes on from there.
    pub fn handle_seen(&mut self, record: Option<Record>, epoch: u64, ours: bool, now: Instant) -> Bid {
        let next = if ours { epoch.saturating_sub(1) } else { epoch };
        let Some(record) = record else {
            self.seen = None;
            return self.ask(next, now);
        };
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != record) {
            self.seen = Some((record.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        if record.holder == self.me && record.transitions >= next {
            return self.ask(record.transitions, now);
        }
        if record.holder == self.me || record.holder.is_empty() || now >= since + DURATION {
            return self.ask(next.max(record.transitions + 1), now);
        }
        self.held = None;
        Bid::Watch
    }

    /// The write was done, or not: somebody else was quicker, or nobody answered.
    pub fn handle_written(&mut self, done: bool) {
        let Some((epoch, began)) = self.asked.take() else { return };
        if done {
            self.held = Some(Held { epoch, until: began + HOLD });
        }
    }

    /// The Lease, while it is ours beyond doubt.
    pub fn held(&self, now: Instant) -> Option<Held> {
        self.held.filter(|held| held.until > now)
    }

    fn ask(&mut self, transitions: u64, now: Instant) -> Bid {
        self.asked = Some((transitions + 1, now));
        Bid::Write { transitions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "any instant will do: only differences count")]
        Instant::now()
    }

    fn record(holder: &str, transitions: u64, renewed: &str) -> Record {
        Record { holder: holder.to_owned(), transitions, renewed: renewed.to_owned() }
    }

    #[test]
    fn the_founder_makes_the_lease_and_keeps_its_epoch() {
        let (mut founder, now) = (Campaign::new("a".to_owned()), start());
        assert_eq!(founder.handle_seen(None, 1, true, now), Bid::Write { transitions: 0 });
        assert_eq!(founder.held(now), None, "asking is not having");
        founder.handle_written(true);
        assert_eq!(founder.held(now), Some(Held { epoch: 1, until: now + HOLD }));
        let later = now + RENEW;
        let found = Some(record("a", 0, "1"));
        assert_eq!(founder.handle_seen(found, 1, true, later), Bid::Write { transitions: 0 });
        founder.handle_written(true);
        assert_eq!(founder.held(later).map(|held| held.until), Some(later + HOLD));
        // The API server is gone: what is not renewed is lost before anybody else can have it.
        assert_eq!(founder.held(later + HOLD), None);
        assert!(HOLD < DURATION);
    }

    #[test]
    fn another_server_takes_it_only_after_it_was_still_for_its_whole_time() {
        let (mut other, now) = (Campaign::new("b".to_owned()), start());
        for (second, renewed) in [(0, "1"), (20, "2"), (40, "3")] {
            let now = now + Duration::from_secs(second);
            assert_eq!(other.handle_seen(Some(record("a", 0, renewed)), 1, false, now), Bid::Watch);
        }
        let still = now + Duration::from_secs(69);
        assert_eq!(other.handle_seen(Some(record("a", 0, "3")), 1, false, still), Bid::Watch);
        let expired = now + Duration::from_secs(70);
        let bid = other.handle_seen(Some(record("a", 0, "3")), 1, false, expired);
        assert_eq!(bid, Bid::Write { transitions: 1 });
        other.handle_written(false);
        assert_eq!(other.held(expired), None, "somebody was quicker");
        assert_eq!(other.handle_seen(Some(record("c", 1, "4")), 2, false, expired), Bid::Watch);
    }

    #[test]
    fn a_holder_that_lost_it_knows_at_once() {
        let (mut old, now) = (Campaign::new("a".to_owned()), start());
        old.handle_seen(None, 1, true, now);
        old.handle_written(true);
        assert_eq!(old.handle_seen(Some(record("b", 1, "9")), 1, true, now), Bid::Watch);
        assert_eq!(old.held(now), None);
    }

    #[test]
    fn a_lease_that_was_deleted_or_set_back_never_repeats_an_epoch() {
        let (mut other, now) = (Campaign::new("b".to_owned()), start());
        assert_eq!(other.handle_seen(None, 1, false, now), Bid::Write { transitions: 1 });
        let mut again = Campaign::new("b".to_owned());
        assert_eq!(again.handle_seen(None, 6, true, now), Bid::Write { transitions: 5 });
        // A database from a backup: an old holder, an old count.
        let mut restored = Campaign::new("c".to_owned());
        assert_eq!(
            restored.handle_seen(Some(record("", 2, "1")), 6, false, now),
            Bid::Write { transitions: 6 }
        );
        let mut own = Campaign::new("c".to_owned());
        assert_eq!(own.handle_seen(Some(record("c", 2, "1")), 6, false, now), Bid::Write { transitions: 6 });
    }
}
