//! Whom a member keeps as neighbours: a bounded set, chosen so that the mesh stays one.
//!
//! Every member looks for neighbours in an order of its own, until it has [`ENOUGH`]; beyond that it only accepts, up
//! to [`AT_MOST`]. The orders are as good as random, so what comes about is a random graph: connected, and a few hops
//! wide however large. Were nothing left for those who come, the first ones would be full with each other, and
//! whoever comes next would find no place.

use sha2::{Digest, Sha256};

use crate::identity::NodeId;

/// With so many neighbours a member looks for no more: up to so many and one, everybody is everybody's neighbour.
pub const ENOUGH: usize = 32;
/// With so many neighbours a member accepts no more.
pub const AT_MOST: usize = 64;

/// The place of `other` in the order in which `me` looks for neighbours; the lowest comes first.
pub fn rank(me: &NodeId, other: &NodeId) -> [u8; 32] {
    let hash = Sha256::new().chain_update("c3os neighbours v1").chain_update(me.as_bytes());
    hash.chain_update(other.as_bytes()).finalize().into()
}
