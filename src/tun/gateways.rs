//! Which networks this host routes through the interface, and via whom: a TUN device hands over a packet without its
//! next hop, so what flannel's host-gw (or an operator) says by `ip route add 10.42.1.0/24 via 10.1.0.7` has to be read
//! from the kernel's route table.

use std::{io, net::IpAddr};

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_route::route::{RouteAddress, RouteAttribute, RouteMessage},
};

/// Tells `tell` of all routes of the interface `name` that have a next hop, now and after every change, until the
/// kernel's netlink fails. Needs a tokio runtime.
///
/// # Errors
/// What the kernel said.
pub async fn watch_gateways(name: &str, mut tell: impl FnMut(Vec<(IpNet, IpAddr)>)) -> io::Result<()> {
    let groups = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
    let (connection, handle, mut news) = new_multicast_connection(&groups)?;
    let served = tokio::spawn(connection);
    let mut told = None;
    let watched = loop {
        // The interface may be made anew by somebody; its number is asked for each time.
        let number = if_nametoindex(name).ok();
        match gateways(&handle, number).await {
            Ok(found) if told.as_ref() != Some(&found) => {
                told = Some(found.clone());
                tell(found);
            }
            Ok(_) => {}
            Err(error) => break Err(io::Error::other(error)),
        }
        if news.next().await.is_none() {
            break Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        // What came meanwhile is in the next reading.
        while news.try_recv().is_ok() {}
    };
    served.abort();
    watched
}

async fn gateways(handle: &Handle, interface: Option<u32>) -> Result<Vec<(IpNet, IpAddr)>, rtnetlink::Error> {
    let Some(interface) = interface else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
    for family in [v4, v6] {
        let routes: Vec<RouteMessage> = handle.route().get(family).execute().try_collect().await?;
        found.extend(routes.iter().filter_map(|route| gateway(route, interface)));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The network and next hop of a route through `interface`.
fn gateway(route: &RouteMessage, interface: u32) -> Option<(IpNet, IpAddr)> {
    let (mut network, mut hop, mut through) = (None, None, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            network = address_of(address);
        } else if let RouteAttribute::Gateway(address) = attribute {
            hop = address_of(address);
        } else if let RouteAttribute::Oif(number) = attribute {
            through = Some(*number);
        }
    }
    let hop = hop.filter(|_| through == Some(interface))?;
    let unspecified = match hop {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let length = route.header.destination_prefix_length;
    Some((IpNet::new(network.unwrap_or(unspecified), length).ok()?.trunc(), hop))
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = address {
        Some((*v4).into())
    } else if let RouteAddress::Inet6(v6) = address {
        Some((*v6).into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_route_counts_if_it_has_a_next_hop_and_goes_through_the_interface() {
        let route = |interface: u32| {
            RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::new(10, 42, 3, 0), 24)
                .output_interface(interface)
        };
        let hop = Ipv4Addr::new(10, 1, 0, 7);
        let found = gateway(&route(4).gateway(hop).build(), 4);
        assert_eq!(found, Some(("10.42.3.0/24".parse().unwrap(), hop.into())));
        assert_eq!(gateway(&route(5).gateway(hop).build(), 4), None);
        assert_eq!(gateway(&route(4).build(), 4), None);
        let default = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(4).gateway(hop).build();
        assert_eq!(gateway(&default, 4), Some(("0.0.0.0/0".parse().unwrap(), hop.into())));
    }
}
