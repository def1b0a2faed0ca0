//! What happens to an address that somebody should hear of.

use std::net::Ipv4Addr;

use crate::identity::NodeId;

/// Something worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The address stood unbeaten and stays.
    Confirmed {
        /// The address.
        address: Ipv4Addr,
    },
    /// Another node keeps the address that we claimed; we moved.
    Lost {
        /// The address that is no longer ours.
        address: Ipv4Addr,
        /// Who keeps it.
        to: NodeId,
        /// What we have now; none: the pool is full.
        next: Option<Ipv4Addr>,
    },
    /// The address was assigned with a role, and never changes again.
    Frozen {
        /// The address.
        address: Ipv4Addr,
        /// What we had before, if it was another.
        before: Option<Ipv4Addr>,
    },
    /// Loud: `vpn.address` is kept by another node; a drawn address is used instead.
    FixedLost {
        /// What the configuration says.
        fixed: Ipv4Addr,
        /// Who keeps it.
        to: NodeId,
    },
    /// Loud: `vpn.address` is not what was assigned with the role; the assigned one is used.
    FixedOverruled {
        /// What the configuration says.
        fixed: Ipv4Addr,
        /// What is used.
        assigned: Ipv4Addr,
    },
    /// Loud: another node insists on our frozen address. Neither moves; traffic to it is not reliable.
    Clash {
        /// The address.
        address: Ipv4Addr,
        /// The other node.
        with: NodeId,
    },
    /// Loud: a lead assigned another address than the frozen one, which stays.
    AssignedElsewhere {
        /// What is used.
        frozen: Ipv4Addr,
        /// What was assigned.
        assigned: Ipv4Addr,
    },
    /// Loud: a lead assigned an address outside `vpn.subnet`, so machines disagree about that setting. It is not used.
    AssignedOutside {
        /// What was assigned.
        assigned: Ipv4Addr,
    },
    /// Loud: every address of the pool is taken; there is none until one is given up.
    Exhausted,
}

impl LeaseEvent {
    /// Whether somebody should be woken: an ERROR or WARN rather than an INFO.
    #[must_use]
    pub fn is_loud(&self) -> bool {
        match self {
            Self::Confirmed { .. } | Self::Lost { .. } | Self::Frozen { .. } => false,
            Self::FixedLost { .. }
            | Self::FixedOverruled { .. }
            | Self::Clash { .. }
            | Self::AssignedElsewhere { .. }
            | Self::AssignedOutside { .. }
            | Self::Exhausted => true,
        }
    }
}
