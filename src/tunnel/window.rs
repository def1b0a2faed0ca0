//! The replay window: which counters of one (session, queue) were seen already (RFC 6479's ring of words).

/// How far behind the newest datagram an older one may come.
pub const WINDOW: u64 = 8192;

/// One word more than the window, so that the word being entered is never one that still counts.
const WORDS: usize = WINDOW as usize / 64 + 1;

/// What is known of one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Newer than all before.
    Newest,
    /// Not seen before, but overtaken.
    Late,
}

/// The counters seen so far.
#[derive(Clone)]
pub struct Window {
    /// The newest counter seen plus one; 0: none seen.
    next: u64,
    words: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }
}

impl Window {
    /// Whether `counter` could still be accepted. For a check before the tag is verified; it changes nothing.
    pub fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < u64::MAX;
        }
        self.next - counter <= WINDOW && self.words[word(counter)] & bit(counter) == 0
    }

    /// Marks `counter` as seen, which must have been proven authentic; `None`: seen before or too old.
    pub fn accept(&mut self, counter: u64) -> Option<Arrival> {
        if !self.is_fresh(counter) {
            return None;
        }
        let arrival = if counter >= self.next {
            // Every word entered between the old newest and this one is cleared, at most the whole ring.
            let entered = if self.next == 0 { 0 } else { counter / 64 - (self.next - 1) / 64 };
            for step in 0..entered.min(WORDS as u64) {
                self.words[word(counter - (step * 64).min(counter))] = 0;
            }
            self.next = counter + 1;
            Arrival::Newest
        } else {
            Arrival::Late
        };
        self.words[word(counter)] |= bit(counter);
        Some(arrival)
    }
}

fn word(counter: u64) -> usize {
    (counter / 64 % WORDS as u64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_is_accepted_once() {
        let mut window = Window::default();
        assert_eq!(window.accept(5), Some(Arrival::Newest));
        assert_eq!(window.accept(5), None);
        assert_eq!(window.accept(0), Some(Arrival::Late));
        assert_eq!(window.accept(0), None);
        assert_eq!(window.accept(6), Some(Arrival::Newest));
    }

    #[test]
    fn the_window_reaches_back_8192_datagrams_and_no_further() {
        let mut window = Window::default();
        window.accept(100_000);
        assert_eq!(window.accept(100_000 - WINDOW), None);
        assert_eq!(window.accept(100_000 - WINDOW + 1), Some(Arrival::Late));
    }

    #[test]
    fn the_last_counter_of_all_is_never_accepted() {
        assert_eq!(Window::default().accept(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set_of_everything_seen(
            counters in prop::collection::vec(prop_oneof![0u64..300, 0u64..20_000, 0u64..2_000_000], 1..400)
        ) {
            let mut window = Window::default();
            let mut seen = BTreeSet::new();
            let mut next = 0;
            for counter in counters {
                let expected = !seen.contains(&counter) && counter + WINDOW >= next;
                prop_assert_eq!(window.is_fresh(counter), expected);
                prop_assert_eq!(window.accept(counter).is_some(), expected);
                if expected {
                    seen.insert(counter);
                    next = next.max(counter + 1);
                }
            }
        }
    }
}
