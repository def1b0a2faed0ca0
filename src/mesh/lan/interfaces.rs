//! The interfaces that multicast DNS is spoken on, and our addresses there.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use nix::{
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_nametoindex},
};

/// Which interfaces count.
#[derive(Debug, Clone, Default)]
pub(in crate::mesh) struct Selection {
    /// These alone; empty: all that are up, speak multicast, and are neither loopback nor point to point.
    pub(in crate::mesh) only: Vec<String>,
    /// Not these; `*` at the end stands for anything.
    pub(in crate::mesh) excluded: Vec<String>,
    /// Not these addresses.
    pub(in crate::mesh) excluded_subnets: Vec<IpNet>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    /// The kernel's number: an interface that went and came back is another one.
    pub(super) index: u32,
    /// What queries are sent from.
    pub(super) v4: Ipv4Addr,
    /// All that others on this link may dial.
    pub(super) addresses: Vec<IpAddr>,
}

impl Selection {
    fn takes(&self, name: &str, flags: InterfaceFlags) -> bool {
        if !flags.contains(InterfaceFlags::IFF_UP) {
            return false;
        }
        if !self.only.is_empty() {
            return self.only.iter().any(|only| only == name);
        }
        let unfit = InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_POINTOPOINT;
        flags.contains(InterfaceFlags::IFF_MULTICAST)
            && !flags.intersects(unfit)
            && !self.excluded.iter().any(|pattern| matches(pattern, name))
    }

    fn takes_address(&self, address: IpAddr) -> bool {
        let usable = match address {
            IpAddr::V4(address) => !address.is_unspecified(),
            // libp2p's TCP cannot dial link-local addresses: they need a scope.
            IpAddr::V6(address) => !address.is_unspecified() && !address.is_unicast_link_local(),
        };
        usable && !self.excluded_subnets.iter().any(|net| net.contains(&address))
    }

    /// The interfaces as they are now, by name. Those without an IPv4 address are left out.
    pub(super) fn interfaces(&self) -> BTreeMap<String, Interface> {
        let mut addresses = BTreeMap::<String, Vec<IpAddr>>::new();
        for entry in getifaddrs().into_iter().flatten() {
            if !self.takes(&entry.interface_name, entry.flags) {
                continue;
            }
            let Some(address) = entry.address else { continue };
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
            let v6 = address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip()));
            if let Some(address) = v4.or(v6).filter(|address| self.takes_address(*address)) {
                addresses.entry(entry.interface_name).or_default().push(address);
            }
        }
        let with_v4 = addresses.into_iter().filter_map(|(name, addresses)| {
            let v4 = addresses.iter().find_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            })?;
            let index = if_nametoindex(name.as_str()).ok()?;
            Some((name, Interface { index, v4, addresses }))
        });
        with_v4.collect()
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overlay_and_the_pods_interfaces_are_no_lan() {
        let selection = Selection {
            excluded: ["c3os0", "cni*", "flannel*"].map(str::to_owned).to_vec(),
            excluded_subnets: vec!["10.1.0.0/16".parse().expect("a subnet")],
            ..Selection::default()
        };
        let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_MULTICAST;
        for (name, flags, taken) in [
            ("eth0", up, true),
            ("c3os0", up, false),
            ("c3os01", up, true),
            ("cni0", up, false),
            ("flannel.1", up, false),
            ("eth1", InterfaceFlags::IFF_MULTICAST, false),
            ("lo", up | InterfaceFlags::IFF_LOOPBACK, false),
            ("wg0", up | InterfaceFlags::IFF_POINTOPOINT, false),
        ] {
            assert_eq!(selection.takes(name, flags), taken, "{name}");
        }
        for (address, taken) in [
            ("192.168.1.2", true),
            ("10.1.2.3", false),
            ("fe80::1", false),
            ("2001:db8::1", true),
            ("0.0.0.0", false),
        ] {
            assert_eq!(selection.takes_address(address.parse().expect(address)), taken, "{address}");
        }
        let only = Selection { only: vec!["lo".to_owned()], ..selection };
        assert!(only.takes("lo", up | InterfaceFlags::IFF_LOOPBACK));
        assert!(!only.takes("eth0", up));
    }
}
