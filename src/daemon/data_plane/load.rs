//! Whether the two threads of a queue have a direction each.
//!
//! While there is little to do the receiving thread reads the interface as well: the answer to what it has just
//! delivered is there already, and no second thread has to wake up for it. Under load each direction has its thread.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};

/// So many packets at once are the beginning of more.
pub(super) const BULK: u64 = 8;
/// One thread does not keep up with more packets than this...
const BUSY_PACKETS: u64 = 500;
/// ... in this time: 50,000 a second.
const BUSY_PERIOD: Duration = Duration::from_millis(10);
/// Two threads are not worth it for fewer packets than this...
const QUIET_PACKETS: u64 = 1000;
/// ... in this time: 10,000 a second.
const QUIET_PERIOD: Duration = Duration::from_millis(100);

/// Decides, from what the threads have done.
#[derive(Debug)]
pub(super) struct Load {
    apart: bool,
    since: Instant,
    packets: u64,
}

impl Load {
    /// Nothing to do yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { apart: false, since: now, packets: 0 }
    }

    /// The receiving thread has done `packets` at once. While the threads are apart, `others` tells what the other one
    /// has done since it was last asked. Gives whether they are to be apart from now on.
    pub(super) fn handle(&mut self, packets: u64, others: impl FnOnce() -> u64, now: Instant) -> bool {
        self.packets += packets;
        let time = now.saturating_duration_since(self.since);
        let over = if self.apart {
            let over = time >= QUIET_PERIOD;
            if over {
                self.apart = self.packets + others() >= QUIET_PACKETS;
            }
            over
        } else {
            self.apart = packets >= BULK || self.packets >= BUSY_PACKETS;
            self.apart || time >= BUSY_PERIOD
        };
        if over {
            (self.since, self.packets) = (now, 0);
        }
        self.apart
    }
}

/// What the two threads tell each other.
#[derive(Debug, Default)]
pub(super) struct Duty {
    apart: AtomicBool,
    transmitter: OnceLock<Thread>,
    transmitted: Transmitted,
}

/// Alone on its cache line: the transmitting thread counts without disturbing the other one.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Transmitted(AtomicU64);

impl Duty {
    /// To be told once the transmitting thread is there.
    pub(super) fn introduce(&self, transmitter: &Thread) {
        // There is one.
        let _ = self.transmitter.set(transmitter.clone());
    }

    /// Whether the transmitting thread reads the interface.
    pub(super) fn is_apart(&self) -> bool {
        self.apart.load(Ordering::Relaxed)
    }

    /// By the receiving thread, which has nothing of the interface in its hands.
    pub(super) fn set(&self, apart: bool) {
        if apart == self.is_apart() {
            return;
        }
        self.apart.store(apart, Ordering::Relaxed);
        if let (true, Some(transmitter)) = (apart, self.transmitter.get()) {
            transmitter.unpark();
        }
    }

    /// By the transmitting thread: it has done so many packets.
    pub(super) fn add_transmitted(&self, packets: u64) {
        self.transmitted.0.fetch_add(packets, Ordering::Relaxed);
    }

    /// What the transmitting thread has done since this was last asked.
    pub(super) fn take_transmitted(&self) -> u64 {
        self.transmitted.0.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn requests_and_answers_keep_one_thread_busy_and_no_more() {
        let mut now = Instant::now();
        let mut load = Load::new(now);
        for _ in 0..10_000 {
            now += MS / 20;
            assert!(!load.handle(2, || 0, now), "40,000 packets a second");
        }
    }

    #[test]
    fn bulk_and_floods_part_the_threads_and_quiet_joins_them() {
        let now = Instant::now();
        let mut load = Load::new(now);
        assert!(load.handle(BULK, || 0, now));
        // Sending alone keeps them apart as well.
        assert!(load.handle(1, || QUIET_PACKETS, now + QUIET_PERIOD));
        assert!(load.handle(1, || 0, now + QUIET_PERIOD + MS), "too early to tell");
        assert!(!load.handle(1, || 0, now + 2 * QUIET_PERIOD));
        let flood = (0..BUSY_PACKETS)
            .map(|_| load.handle(1, || 0, now + 2 * QUIET_PERIOD + MS))
            .filter(|apart| *apart);
        assert!(flood.count() > 0);
    }
}
