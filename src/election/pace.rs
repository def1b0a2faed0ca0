//! When to propose: not before the view is still, and not into another's ballot.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Ballot, View};
use crate::{config::RoleSetting, identity::NodeId};

/// How long the view must have been still: on a LAN, and at most.
const SETTLE: Duration = Duration::from_secs(2);
const LONGEST_SETTLE: Duration = Duration::from_secs(30);
/// The same for a node that is about to found alone: nobody can correct it, so it listens longer.
const SETTLE_ALONE: Duration = Duration::from_secs(10);
/// Round trips in a settle time; a view that spreads over several hops needs some.
const SETTLE_ROUND_TRIPS: u32 = 10;
/// How long each place in the line waits for the one before it.
const TAKE_OVER: Duration = Duration::from_secs(5);
/// The first and the longest back-off of a candidate that was overtaken.
const BACK_OFF: Duration = Duration::from_millis(500);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
/// How long others wait for the proposer to publish its certificate.
const PUBLISH_GRACE: Duration = Duration::from_secs(5);

type Member = (NodeId, RoleSetting, Option<u16>, bool, bool, bool);
type Answer = (NodeId, Option<Ballot>, Option<Ballot>, Option<(Ballot, bool)>);

/// Remembers when something last changed.
#[derive(Debug)]
pub(super) struct Pace {
    seed: [u8; 32],
    members: (bool, Vec<Member>),
    answers: Vec<Answer>,
    /// Since when the same nodes are there, with the same settings.
    still: Instant,
    /// Since when besides no register changed either.
    quiet: Instant,
    /// Own ballots so far.
    attempts: u32,
}

impl Pace {
    pub(super) fn new(seed: [u8; 32], now: Instant) -> Self {
        let (members, answers) = ((false, Vec::new()), Vec::new());
        Self { seed, members, answers, still: now, quiet: now, attempts: 0 }
    }

    /// Looks for changes. `exhausted` is whether discovery is, where that matters.
    pub(super) fn observe(&mut self, view: &View, exhausted: bool, now: Instant) {
        let voters = || view.voters.iter().filter(|(_, voter)| voter.role != RoleSetting::None);
        let members = voters()
            .map(|(id, voter)| {
                (*id, voter.role, voter.minimum_nodes, voter.abstains, voter.live, voter.cloned)
            })
            .collect();
        let answers = voters()
            .map(|(id, voter)| {
                let acceptor = voter.acceptor.as_ref().map(|held| held.register());
                let accepted = acceptor.and_then(|acceptor| acceptor.accepted.as_ref());
                let asked = voter.proposer.as_ref().map(|held| held.register());
                let asked = asked.map(|asked| (asked.ballot, asked.value.is_some()));
                (
                    *id,
                    acceptor.and_then(|acceptor| acceptor.promised),
                    accepted.map(|(ballot, _)| *ballot),
                    asked,
                )
            })
            .collect();
        let members = (exhausted, members);
        if members != self.members {
            (self.still, self.quiet) = (now, now);
            self.members = members;
        }
        if answers != self.answers {
            self.quiet = now;
            self.answers = answers;
        }
    }

    /// When the candidate with `rank` others before it may begin a ballot. `open` is whether a live node other than
    /// this one holds the highest ballot.
    pub(super) fn start(&self, rank: usize, open: bool, alone: bool, round_trip: Duration) -> Instant {
        let settle = (round_trip * SETTLE_ROUND_TRIPS).clamp(SETTLE, LONGEST_SETTLE);
        let settled = self.still + if alone { settle.max(SETTLE_ALONE) } else { settle };
        let places = rank as u32 + u32::from(open);
        if places == 0 && self.attempts == 0 {
            return settled;
        }
        let back_off = BACK_OFF * 2u32.saturating_pow(self.attempts.min(16));
        let back_off = back_off.min(LONGEST_BACK_OFF);
        let jitter = self.share(b"start", u64::from(self.attempts), back_off);
        settled.max(self.quiet + TAKE_OVER * places.min(24) + back_off + jitter)
    }

    /// An own ballot begins.
    pub(super) fn count_attempt(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
    }

    /// How long to leave publishing a certificate to its proposer.
    pub(super) fn publish_grace(&self) -> Duration {
        PUBLISH_GRACE + self.share(b"publish", 0, PUBLISH_GRACE)
    }

    /// A part of `whole` that differs from node to node.
    fn share(&self, purpose: &[u8], number: u64, whole: Duration) -> Duration {
        let thousandths = draw(&self.seed, purpose, number) % 1000;
        whole * thousandths as u32 / 1000
    }
}

/// A number that only the holder of the seed can foresee.
pub(super) fn draw(seed: &[u8; 32], purpose: &[u8], number: u64) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash(seed, purpose, number);
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// 32 bytes that only the holder of the seed can foresee.
pub(super) fn hash(seed: &[u8; 32], purpose: &[u8], number: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed);
    hash.update(number.to_be_bytes());
    hash.update(purpose);
    hash.finalize().into()
}
