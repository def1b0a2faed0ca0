//! Who is there, without heartbeats.
//!
//! Every member keeps one fact: with whom it has an admitted connection. A member is live for us if it can be reached
//! from us over these facts. When a machine dies, its neighbours' connections end, they withdraw it, and nothing leads
//! there any more; what the dead machine itself once claimed does not matter. An idle network says nothing at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::NodeId;

/// The members that can be reached from `me`, `me` included.
///
/// `connected` is with whom we are connected now, which is newer than our own fact; `claims` are the others' facts.
pub(super) fn live(
    me: NodeId,
    connected: &BTreeSet<NodeId>,
    claims: &BTreeMap<NodeId, BTreeSet<NodeId>>,
) -> BTreeSet<NodeId> {
    let mut live = BTreeSet::from([me]);
    let mut ahead: Vec<NodeId> = connected.iter().copied().collect();
    while let Some(node) = ahead.pop() {
        if live.insert(node) {
            ahead.extend(claims.get(&node).into_iter().flatten());
        }
    }
    live
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_live_while_somebody_live_is_connected_with_it() {
        let [a, b, c, d] = [1, 2, 3, 4].map(|n| NodeId::from_bytes([n; 32]));
        let claims = BTreeMap::from([
            (b, BTreeSet::from([a, c])),
            (c, BTreeSet::from([b])),
            // d is gone: nobody claims it any more, its own old claim counts for nothing.
            (d, BTreeSet::from([a, b, c])),
        ]);
        assert_eq!(live(a, &BTreeSet::from([b]), &claims), BTreeSet::from([a, b, c]));
        assert_eq!(live(a, &BTreeSet::new(), &claims), BTreeSet::from([a]));
    }
}
