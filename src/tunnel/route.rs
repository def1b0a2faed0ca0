//! Which peer an inner address belongs to: exact for overlay addresses, longest prefix for pod networks.
//!
//! The same table answers both questions, where a packet goes and whether a peer may be its source.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A peer's place in a [`Table`](super::Table).
pub type Slot = u32;

/// An immutable map from inner addresses to slots.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: HashMap<IpAddr, Slot>,
    /// One map per prefix length, longest first: there are few lengths, whatever the number of networks.
    networks: Vec<(u8, HashMap<IpNet, Slot>)>,
}

impl RouteTable {
    /// Builds a table. A host or network given twice belongs to the lower slot, whatever the order.
    pub fn new(
        hosts: impl IntoIterator<Item = (IpAddr, Slot)>,
        networks: impl IntoIterator<Item = (IpNet, Slot)>,
    ) -> Self {
        let mut table = Self::default();
        for (address, slot) in hosts {
            let owner = table.hosts.entry(address).or_insert(slot);
            *owner = slot.min(*owner);
        }
        let mut by_length: BTreeMap<u8, HashMap<IpNet, Slot>> = BTreeMap::new();
        for (network, slot) in networks {
            let owner =
                by_length.entry(network.prefix_len()).or_default().entry(network.trunc()).or_insert(slot);
            *owner = slot.min(*owner);
        }
        table.networks = by_length.into_iter().rev().collect();
        table
    }

    /// The peer that `address` belongs to.
    pub fn lookup(&self, address: IpAddr) -> Option<Slot> {
        if let Some(&slot) = self.hosts.get(&address) {
            return Some(slot);
        }
        self.networks.iter().find_map(|(length, networks)| {
            let network = match address {
                IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new(v4, *length).ok()?),
                IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new(v6, *length).ok()?),
            };
            networks.get(&network.trunc()).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_goes_to_its_owner_before_any_network() {
        let table = RouteTable::new(
            [(ip("10.1.0.5"), 1), (ip("fd00::5"), 1)],
            [
                ("10.1.0.0/16".parse().unwrap(), 2),
                ("10.42.3.0/24".parse().unwrap(), 3),
                ("fd42::/64".parse().unwrap(), 4),
            ],
        );
        assert_eq!(table.lookup(ip("10.1.0.5")), Some(1));
        assert_eq!(table.lookup(ip("fd00::5")), Some(1));
        assert_eq!(table.lookup(ip("10.1.0.6")), Some(2));
        assert_eq!(table.lookup(ip("10.42.3.200")), Some(3));
        assert_eq!(table.lookup(ip("fd42::1")), Some(4));
        assert_eq!(table.lookup(ip("10.42.4.1")), None);
        assert_eq!(table.lookup(ip("fd43::1")), None);
    }

    proptest! {
        #[test]
        fn the_longest_prefix_wins(
            networks in prop::collection::vec((any::<u32>(), 0u8..=32), 0..30),
            addresses in prop::collection::vec(any::<u32>(), 1..30),
        ) {
            let networks: Vec<(IpNet, Slot)> = networks
                .iter()
                .enumerate()
                .map(|(slot, (bits, length))| {
                    (IpNet::V4(Ipv4Net::new((*bits & 0x0f0f_ffff).into(), *length).unwrap()), slot as Slot)
                })
                .collect();
            let table = RouteTable::new([], networks.iter().copied());
            for bits in addresses {
                let address = IpAddr::V4((bits & 0x0f0f_ffff).into());
                let longest = networks.iter().filter(|(n, _)| n.contains(&address)).map(|(n, _)| n.prefix_len()).max();
                let expected = longest.and_then(|length| {
                    networks.iter().filter(|(n, _)| n.contains(&address) && n.prefix_len() == length).map(|(_, s)| *s).min()
                });
                prop_assert_eq!(table.lookup(address), expected);
            }
        }
    }
}
