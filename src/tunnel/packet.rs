//! What the tunnel needs to know of an IP packet: who sends it and to whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of an inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Who sends it.
    pub source: IpAddr,
    /// Who shall get it.
    pub destination: IpAddr,
}

impl Addresses {
    /// Reads the addresses of a packet; `None` if it has no whole IPv4 or IPv6 header.
    pub fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header = packet.first_chunk::<20>()?;
                let at = |i: usize| {
                    IpAddr::V4(Ipv4Addr::new(header[i], header[i + 1], header[i + 2], header[i + 3]))
                };
                Some(Self { source: at(12), destination: at(16) })
            }
            6 => {
                let header = packet.first_chunk::<40>()?;
                let at = |i: usize| {
                    let mut octets = [0; 16];
                    octets.copy_from_slice(&header[i..i + 16]);
                    IpAddr::V6(Ipv6Addr::from(octets))
                };
                Some(Self { source: at(8), destination: at(24) })
            }
            _ => None,
        }
    }
}

impl Addresses {
    /// Whether it is for many: multicast, or IPv4's broadcast address.
    pub fn is_to_many(&self) -> bool {
        self.destination.is_multicast() || self.destination == IpAddr::V4(Ipv4Addr::BROADCAST)
    }
}
