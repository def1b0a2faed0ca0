//! The overlay address of a node: drawn by hash, claimed, confirmed, and frozen by the assignment of a role.
//!
//! ```text
//!                       beaten: next draw
//!                    .---------<---------.
//!                    v                   |
//! first start --> Claimed --2 s still--> Confirmed --.
//!                    |                               +-- assigned --> Frozen (never left)
//! vpn.address --> Fixed -----------------------------'
//! later boots --> Confirmed or Frozen at once, from the lease on disk, with no network
//! ```
//!
//! There is an address from the first moment on. Of two holders of one address the firmer keeps it ([`Standing`]), of
//! two equally firm the one with the lower `sha256(address, id)`: every node comes to the same verdict from the same
//! facts, in whatever order it hears them. IPv6 needs no agreement: see [`ula`].

mod event;
mod lease;
mod overlap;
mod pool;
mod rivals;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use event::LeaseEvent;
pub use lease::{AddressLease, Lease, LeaseSettings, STILL_TIME};
pub use overlap::{LocalNet, Overlap, overlap};
pub use pool::{Drawer, Pool, candidate, ula, ula_prefix};
pub use rivals::Standing;

/// What a member says about its address: the value of its ledger key `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The address.
    pub v4: Ipv4Addr,
    /// The draw it came from; for people.
    #[serde(default)]
    pub attempt: u32,
    /// It stood unbeaten for a while.
    #[serde(default)]
    pub confirmed: bool,
    /// Its holder will not move by itself: fixed in its configuration, or frozen by an assignment.
    #[serde(default)]
    pub firm: bool,
}

/// Settings that give no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Too wide or too narrow.
    #[error("`c3os.vpn.subnet` is {subnet}: it has to be between a /8 and a /26, for example 10.1.0.0/16")]
    Subnet {
        /// What was given.
        subnet: Ipv4Net,
    },
    /// No usable address of the subnet.
    #[error(
        "`c3os.vpn.address` is {address}: it has to lie in `c3os.vpn.subnet` ({subnet}) and not end in .0 or .255"
    )]
    Fixed {
        /// What was given.
        address: Ipv4Addr,
        /// Where it has to lie.
        subnet: Ipv4Net,
    },
}

#[cfg(test)]
mod tests;
