//! When small packets come hard on each other's heels, waking a thread for each costs their sender more than the packet
//! does. So the thread looks for the next one a few times, letting others run in between, before it sleeps.

use std::time::{Duration, Instant};

/// A packet that came within this of the last is likely followed by another as soon.
const HEELS: Duration = Duration::from_micros(100);
/// How often to look: each time is a system call or two, so this is less than [`HEELS`].
const LOOKS: u32 = 40;
/// Longer frames are worth a waking.
const SMALL: usize = 2048;

/// Whether to look again or to sleep.
#[derive(Debug, Default)]
pub(super) struct Linger {
    left: u32,
    brisk: bool,
}

impl Linger {
    /// Whether to look once more before sleeping.
    pub(super) fn looks_again(&mut self) -> bool {
        let again = self.left > 0;
        self.left = self.left.saturating_sub(1);
        again
    }

    /// Sleeps in `read`, and notes how long that took.
    pub(super) fn wait<T>(&mut self, read: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = read();
        self.brisk = begin.elapsed() < HEELS;
        result
    }

    /// A frame of `length` bytes was there.
    pub(super) fn found(&mut self, length: usize) {
        self.left = if self.brisk && length < SMALL { LOOKS } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(linger: &mut Linger) -> u32 {
        (0..1000).map_while(|_| linger.looks_again().then_some(1)).sum()
    }

    #[test]
    fn it_lingers_after_small_packets_in_quick_succession_only() {
        let mut linger = Linger::default();
        linger.found(100);
        assert_eq!(looks(&mut linger), 0, "nobody knows yet how fast they come");
        linger.brisk = true;
        linger.found(100);
        assert_eq!(looks(&mut linger), LOOKS);
        assert_eq!(looks(&mut linger), 0);
        linger.found(60_000);
        assert_eq!(looks(&mut linger), 0);
    }
}
