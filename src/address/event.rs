//! What happens to an address that somebody should hear of.

use std::{fmt, net::Ipv4Addr};

use crate::identity::NodeId;

/// Something worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

impl LeaseEvent {
    /// What to do about it; empty if it is not loud.
    #[must_use]
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Confirmed { .. } | Self::Lost { .. } | Self::Frozen { .. } => "",
            Self::FixedLost { .. } => "give this machine a `c3os.vpn.address` that is free",
            Self::FixedOverruled { .. } | Self::AssignedElsewhere { .. } => {
                "nothing, or `c3os reset` and a new boot to take another address"
            }
            Self::Clash { .. } => {
                "`c3os reset` on one of the two, and boot it again: it draws another address"
            }
            Self::AssignedOutside { .. } => "give all machines the same `c3os.vpn.subnet`",
            Self::Exhausted => "a larger `c3os.vpn.subnet`, the same on all machines",
        }
    }
}

impl fmt::Display for LeaseEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confirmed { address } => write!(f, "{address} is this machine's"),
            Self::Lost { address, to, next: Some(next) } => {
                write!(f, "{address} is node {}'s; this machine took {next}", to.short())
            }
            Self::Lost { address, to, next: None } => {
                write!(f, "{address} is node {}'s, and no other address is free", to.short())
            }
            Self::Frozen { address, before: None } => write!(f, "{address} was assigned, and stays"),
            Self::Frozen { address, before: Some(before) } => {
                write!(f, "{address} was assigned in place of {before}, and stays")
            }
            Self::FixedLost { fixed, to } => {
                write!(f, "`c3os.vpn.address` {fixed} is node {}'s; a drawn one is used instead", to.short())
            }
            Self::FixedOverruled { fixed, assigned } => {
                write!(
                    f,
                    "`c3os.vpn.address` is {fixed}, but {assigned} was assigned with the role and stays"
                )
            }
            Self::Clash { address, with } => write!(
                f,
                "node {} has the address {address} too; neither may change it by itself, so traffic to it may go to either",
                with.short()
            ),
            Self::AssignedElsewhere { frozen, assigned } => {
                write!(f, "{assigned} was assigned, but k3s here is configured with {frozen}, which stays")
            }
            Self::AssignedOutside { assigned } => {
                write!(
                    f,
                    "{assigned} was assigned, which is outside of `c3os.vpn.subnet` here: it is not used"
                )
            }
            Self::Exhausted => write!(f, "every address of `c3os.vpn.subnet` is taken"),
        }
    }
}
