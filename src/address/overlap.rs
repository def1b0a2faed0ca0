//! Whether the overlay's subnet is free on this machine.

use std::{fmt, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// A network that this machine already reaches in another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNet {
    /// Whose it is, for the message: an interface's name, or what a route is for (`k3s pods`).
    pub owner: String,
    /// The interface's network or the route's destination.
    pub net: Ipv4Net,
}

/// The overlay's subnet cannot be used on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Overlap {
    /// What `vpn.subnet` says.
    pub subnet: Ipv4Net,
    /// The network it shares addresses with.
    pub with: LocalNet,
    /// A subnet of the same kind that is free here, if one was found.
    pub free: Option<Ipv4Net>,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subnet, with: LocalNet { owner, net }, free } = self;
        write!(
            f,
            "the overlay's subnet {subnet} overlaps {net} of {owner}: set `c3os.vpn.subnet` to a free one"
        )?;
        if let Some(free) = free {
            write!(f, " (on this machine {free} is)")?;
        }
        f.write_str(", the same on every machine")
    }
}

/// What is proposed instead: corners of the private ranges that neither home routers, Docker nor k3s take.
const PROPOSALS: [[u8; 2]; 6] = [[10, 1], [10, 77], [10, 144], [10, 201], [172, 27], [172, 30]];

/// Whether `subnet` shares addresses with one of `local`, and with which (the most specific one).
///
/// `own_interface` is the overlay's: what is there from an earlier start does not count. Default routes (a /0, or
/// the two /1 that VPN clients use) are no obstacle either.
pub fn overlap(subnet: Ipv4Net, own_interface: &str, local: &[LocalNet]) -> Option<Overlap> {
    let taken = || local.iter().filter(|local| local.owner != own_interface && local.net.prefix_len() > 1);
    let with = taken()
        .filter(|local| share(&local.net, &subnet))
        .max_by_key(|local| local.net.prefix_len())?
        .clone();
    let free = PROPOSALS
        .into_iter()
        .filter_map(|[a, b]| Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), subnet.prefix_len().max(16)).ok())
        .find(|proposal| !taken().any(|local| share(&local.net, proposal)));
    Some(Overlap { subnet, with, free })
}

/// Two networks share addresses exactly if one contains the other.
fn share(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}
