//! Where addresses come from: pure functions of the mesh, the node and the subnet.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use super::AddressError;
use crate::{identity::NodeId, token::MeshId};

/// The widest and the narrowest subnet: one more bit and the observers' sixteenth would hold no usable address.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=26;

/// Who draws an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawer {
    /// A machine that may take a role: draws from the first fifteen sixteenths of the subnet.
    Node,
    /// A bridge, a live system, a machine with `role: none`: draws from the last sixteenth (a /20 of a /16), so that
    /// what comes and goes never takes the address of what stays.
    Observer,
}

/// The part of the overlay's subnet that one kind of member draws from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    subnet: Ipv4Net,
    drawer: Drawer,
}

impl Pool {
    /// Takes `vpn.subnet`; host bits are ignored.
    ///
    /// # Errors
    /// [`AddressError::Subnet`] if it is narrower than a /26 or wider than a /8.
    pub fn new(subnet: Ipv4Net, drawer: Drawer) -> Result<Self, AddressError> {
        if PREFIXES.contains(&subnet.prefix_len()) {
            Ok(Self { subnet: subnet.trunc(), drawer })
        } else {
            Err(AddressError::Subnet { subnet })
        }
    }

    /// The whole subnet.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// Whether a member may have `address` at all: in the subnet, neither its network nor its broadcast address, and
    /// never ending in `.0` or `.255`, which some equipment takes for such.
    #[must_use]
    pub fn is_usable(&self, address: Ipv4Addr) -> bool {
        let ends = [self.subnet.network(), self.subnet.broadcast()];
        self.subnet.contains(&address) && !ends.contains(&address) && !matches!(address.octets()[3], 0 | 255)
    }

    /// Whether this pool could have drawn `address`.
    #[must_use]
    pub fn draws(&self, address: Ipv4Addr) -> bool {
        let (first, size) = self.range();
        self.is_usable(address) && (first..=first + (size - 1)).contains(&u32::from(address))
    }

    /// First address and number of addresses.
    fn range(&self) -> (u32, u32) {
        let size = 1_u32 << (32 - self.subnet.prefix_len());
        let first = u32::from(self.subnet.network());
        let observers = size / 16;
        match self.drawer {
            Drawer::Node => (first, size - observers),
            Drawer::Observer => (first + (size - observers), observers),
        }
    }
}

/// The address that node `id` tries at its `attempt`-th draw (from 0). The same on every machine.
pub fn candidate(mesh_id: MeshId, id: NodeId, attempt: u32, pool: &Pool) -> Ipv4Addr {
    let (first, size) = pool.range();
    (0_u32..)
        .map(|round| {
            let hash = hash(&[
                b"c3os address v1",
                mesh_id.as_bytes(),
                id.as_bytes(),
                &attempt.to_be_bytes(),
                &round.to_be_bytes(),
            ]);
            let number = u64::from_be_bytes(*hash.first_chunk().expect("a hash has 32 bytes"));
            Ipv4Addr::from(first + (number % u64::from(size)) as u32)
        })
        .find(|address| pool.is_usable(*address))
        .expect("every pool has usable addresses, and the rounds draw them all")
}

/// The unique local /48 of the mesh (RFC 4193): `fd`, then 40 bits of a hash of the mesh id.
pub fn ula_prefix(mesh_id: MeshId) -> Ipv6Net {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&hash(&[b"c3os ula prefix v1", mesh_id.as_bytes()])[..5]);
    Ipv6Net::new(Ipv6Addr::from(octets), 48).expect("48 is a prefix length")
}

/// The IPv6 address of node `id`: 80 bits of a hash within [`ula_prefix`]. It needs no agreement: two nodes share
/// one with a probability of 2^-80 a pair.
pub fn ula(mesh_id: MeshId, id: NodeId) -> Ipv6Addr {
    let mut octets = ula_prefix(mesh_id).network().octets();
    octets[6..].copy_from_slice(&hash(&[b"c3os ula v1", mesh_id.as_bytes(), id.as_bytes()])[..10]);
    Ipv6Addr::from(octets)
}

/// The order among claims of equal standing: the lowest keeps the address.
pub(super) fn rank(address: Ipv4Addr, id: NodeId) -> [u8; 32] {
    hash(&[&address.octets(), id.as_bytes()])
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}
