//! Leaves out of a failing schedule what it fails without: halves first, then ever smaller parts (delta debugging).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{faults::Action, run};

/// What of `story`, besides `without`, can be left out so that the seed still fails.
pub fn shrink(
    seed: u64,
    without: &BTreeSet<usize>,
    story: &[(Duration, Action)],
    epoch: Instant,
) -> BTreeSet<usize> {
    let mut without = without.clone();
    let mut size = story.len().div_ceil(2);
    while size > 0 {
        let left: Vec<usize> = (0..story.len()).filter(|index| !without.contains(index)).collect();
        let mut smaller = false;
        for part in left.chunks(size) {
            let candidate: BTreeSet<usize> = without.iter().chain(part).copied().collect();
            if run(seed, &candidate, epoch).violation.is_some() {
                without = candidate;
                smaller = true;
            }
        }
        if size == 1 && !smaller {
            break;
        }
        size = if size == 1 { 1 } else { size / 2 };
    }
    without
}
