//! Patience with those who cannot be reached, and with those who are not admitted.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::identity::NodeId;

/// Who comes back within this time after a refusal is not heard again. Short: a token may have been corrected.
const TURNED_AWAY: Duration = Duration::from_secs(10);
/// Refused nodes to remember.
const REMEMBERED: usize = 256;

/// The pause after so many failures in a row: `first`, doubled each time, at most `longest`.
pub(super) fn pause(first: Duration, failures: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << failures.min(16)).min(longest)
}

/// Who was refused, how often in a row and when.
#[derive(Default)]
pub(super) struct Refusals(BTreeMap<NodeId, (u32, Instant)>);

impl Refusals {
    /// Notes a refusal; true if it is the first in a row.
    pub(super) fn note(&mut self, id: NodeId, now: Instant) -> bool {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&id) {
            let oldest = self.0.iter().min_by_key(|(_, (_, at))| *at).map(|(id, _)| *id);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        let (times, at) = self.0.entry(id).or_insert((0, now));
        (*times, *at) = (times.saturating_add(1), now);
        *times == 1
    }

    /// It was admitted.
    pub(super) fn forget(&mut self, id: &NodeId) {
        self.0.remove(id);
    }

    /// Whether `id` comes back too soon: 1 s after its first refusal, twice that after each further, 10 s at most.
    pub(super) fn too_soon(&self, id: &NodeId, now: Instant) -> bool {
        self.0.get(id).is_some_and(|(times, at)| {
            // A quarter less than the other side's own pause, whose dice may fall short.
            let pause = pause(Duration::from_millis(700), times - 1, TURNED_AWAY);
            now.saturating_duration_since(*at) < pause
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_again_and_again_is_heard_ever_less_but_within_ten_seconds() {
        let (id, mut now) = (NodeId::from_bytes([1; 32]), Instant::now());
        let mut refusals = Refusals::default();
        assert!(!refusals.too_soon(&id, now));
        assert!(refusals.note(id, now));
        assert!(refusals.too_soon(&id, now));
        for _ in 0..20 {
            now += TURNED_AWAY;
            assert!(!refusals.too_soon(&id, now));
            assert!(!refusals.note(id, now));
        }
        assert!(refusals.too_soon(&id, now + TURNED_AWAY - Duration::from_millis(1)));
        refusals.forget(&id);
        assert!(!refusals.too_soon(&id, now));
    }

    #[test]
    fn a_flood_of_identities_does_not_grow_the_memory() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        for number in 0..2_000_u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            refusals.note(NodeId::from_bytes(id), now + Duration::from_millis(number.into()));
        }
        assert_eq!(refusals.0.len(), REMEMBERED);
    }
}
