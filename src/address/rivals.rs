//! Who holds what, and who keeps it.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{Claim, pool::rank};
use crate::identity::NodeId;

/// How firmly an address is held, weakest first: of two holders the firmer keeps it, of two equally firm ones the
/// one with the lower `sha256(address, id)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Drawn a moment ago.
    Claimed,
    /// Stood unbeaten for [`STILL_TIME`](super::STILL_TIME).
    Confirmed,
    /// Its holder will not move by itself: fixed in its configuration, or frozen.
    Firm,
    /// Assigned with a role by the lead.
    Assigned,
}

/// Who holds what, other than ourselves.
pub(super) struct Rivals {
    me: NodeId,
    holders: BTreeMap<Ipv4Addr, BTreeMap<NodeId, Standing>>,
}

impl Rivals {
    pub(super) fn new(
        me: NodeId,
        claims: &BTreeMap<NodeId, Claim>,
        assignments: &BTreeMap<NodeId, Ipv4Addr>,
    ) -> Self {
        let mut holders: BTreeMap<Ipv4Addr, BTreeMap<NodeId, Standing>> = BTreeMap::new();
        let claimed = claims.iter().map(|(id, claim)| {
            let standing = match claim {
                Claim { firm: true, .. } => Standing::Firm,
                Claim { confirmed: true, .. } => Standing::Confirmed,
                Claim { .. } => Standing::Claimed,
            };
            (*id, claim.v4, standing)
        });
        let assigned = assignments.iter().map(|(id, v4)| (*id, *v4, Standing::Assigned));
        // An assignment comes after, and over, what its holder claims.
        for (id, v4, standing) in claimed.chain(assigned).filter(|(id, ..)| *id != me) {
            holders.entry(v4).or_default().insert(id, standing);
        }
        Self { me, holders }
    }

    pub(super) fn at(&self, v4: Ipv4Addr) -> impl Iterator<Item = (NodeId, Standing)> + '_ {
        self.holders.get(&v4).into_iter().flatten().map(|(id, standing)| (*id, *standing))
    }

    /// The strongest of those who would keep `v4` if we held it with `standing`.
    pub(super) fn winner(&self, v4: Ipv4Addr, standing: Standing) -> Option<NodeId> {
        let strength = |id: NodeId, standing: Standing| (standing, std::cmp::Reverse(rank(v4, id)));
        let (strongest, id) = self.at(v4).map(|(id, standing)| (strength(id, standing), id)).max()?;
        (strongest > strength(self.me, standing)).then_some(id)
    }
}
