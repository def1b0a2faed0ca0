//! A leaky bucket in whole numbers.

use std::time::{Duration, Instant};

/// Lets `burst` pass at once and `per_second` in the long run.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    burst: u64,
    per_second: u64,
    /// What may still pass, in thousandths; below zero after a spending on credit.
    level: i64,
    filled_at: Instant,
}

impl Bucket {
    pub(crate) fn full(burst: u64, per_second: u64, now: Instant) -> Self {
        Self { burst, per_second, level: burst as i64 * 1000, filled_at: now }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at).as_millis() as u64;
        let gained = elapsed.saturating_mul(self.per_second);
        self.level = (self.level.saturating_add_unsigned(gained)).min(self.burst as i64 * 1000);
        self.filled_at += Duration::from_millis(elapsed);
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let there = self.level >= 1000;
        if there {
            self.level -= 1000;
        }
        there
    }

    /// Whether anything may pass.
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level >= 1000
    }

    /// Whether nothing was taken for so long that it is as good as new.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level == self.burst as i64 * 1000
    }

    /// Takes `amount`, on credit if there is less.
    pub(super) fn spend(&mut self, amount: usize) {
        self.level -= amount as i64 * 1000;
    }

    /// From when on something may pass.
    pub(crate) fn opens_at(&self) -> Instant {
        let lacking = u64::try_from(1000 - self.level).unwrap_or(0);
        self.filled_at + Duration::from_millis(lacking.div_ceil(self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_only_the_rate() {
        let start = crate::ledger::tests::start();
        let mut bucket = Bucket::full(3, 2, start);
        assert_eq!((0..10).filter(|_| bucket.take(start)).count(), 3);
        assert_eq!(bucket.opens_at(), start + Duration::from_millis(500));
        let passed = (0..1000).filter(|i| bucket.take(start + Duration::from_millis(i * 10))).count();
        assert_eq!(passed, 19, "two a second over 9.99 seconds");
    }
}
