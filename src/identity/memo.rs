//! Signatures that this thread has found good, for simulations only (feature `memo`): one process there plays many
//! nodes, and what one of them has checked, all others would check again. Each distinct signature is still checked.

use std::{cell::RefCell, collections::BTreeSet};

use sha2::{Digest, Sha256};

/// More than one simulated cluster ever signs; above it all is forgotten.
const KEPT: usize = 1 << 16;

thread_local! {
    static GOOD: RefCell<BTreeSet<[u8; 32]>> = const { RefCell::new(BTreeSet::new()) };
}

/// Whether `check` holds for this signature of this message by this key.
pub(super) fn good(
    key: &[u8; 32],
    message: &[u8],
    signature: &[u8; 64],
    check: impl FnOnce() -> bool,
) -> bool {
    let hash: [u8; 32] =
        Sha256::new().chain_update(key).chain_update(signature).chain_update(message).finalize().into();
    GOOD.with_borrow_mut(|good| {
        if good.contains(&hash) {
            return true;
        }
        let is_good = check();
        if good.len() >= KEPT {
            good.clear();
        }
        if is_good {
            good.insert(hash);
        }
        is_good
    })
}
