//! Addresses, MTU and routes of the interface, by netlink. What is right already is not touched.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt;
use ipnet::{Ipv4Net, Ipv6Net};
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder, new_connection,
    packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkMessage},
    },
};

use super::TunError;

/// Packets that may queue up before the reading thread: some milliseconds' worth, since a super-packet has 64 KiB.
const QUEUE_LENGTH: u32 = 200;
/// As long as pods' interfaces and VXLAN devices make them: the kernel cuts what is longer before we see it.
const LONGEST_SUPER_PACKET: u32 = 65_536;

/// What the interface is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlay {
    /// Our IPv4 address and the subnet that is on link; none yet: no IPv4.
    pub v4: Option<Ipv4Net>,
    /// Our IPv6 address and the network that is routed to the interface.
    pub v6: Option<(Ipv6Addr, Ipv6Net)>,
    /// MTU of the interface in bytes.
    pub mtu: u16,
}

/// Gives the interface `name` its addresses, MTU and routes, and takes away addresses that are not in `overlay`. Needs
/// a tokio runtime.
///
/// # Errors
/// [`TunError::Refused`] with what the kernel said.
pub async fn configure(name: &str, overlay: &Overlay) -> Result<(), TunError> {
    let netlink = Netlink::open(name)?;
    let link = netlink.link().await?;
    let index = link.header.index;
    let mtu = u32::from(overlay.mtu);
    let wanted = [
        LinkAttribute::Mtu(mtu),
        LinkAttribute::TxQueueLen(QUEUE_LENGTH),
        LinkAttribute::GsoMaxSize(LONGEST_SUPER_PACKET),
    ];
    let right = link.header.flags.contains(LinkFlags::Up)
        && wanted.iter().all(|attribute| link.attributes.contains(attribute));
    if !right {
        // No link-local address, no router solicitations: an idle interface stays silent. Kernels without IPv6 have
        // no such file.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1");
        let wanted = wanted.into_iter().fold(LinkUnspec::new_with_index(index), |link, attribute| {
            link.append_extra_attribute(attribute)
        });
        let wanted = wanted.up().build();
        netlink.done("set MTU and state", netlink.handle.link().change(wanted).execute().await)?;
    }
    let v6 = overlay.v6.filter(|_| has_v6(name));
    let wanted: Vec<(IpAddr, u8)> = [
        overlay.v4.map(|net| (IpAddr::V4(net.addr()), net.prefix_len())),
        v6.map(|(address, _)| (IpAddr::V6(address), 128)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let addresses = netlink.addresses(index).await?;
    let present: Vec<(IpAddr, u8)> = addresses.iter().filter_map(address_of).collect();
    for message in addresses {
        if let Some(address) = address_of(&message)
            && !wanted.contains(&address)
            && !is_link_local(address.0)
        {
            tracing::info!(interface = name, address = %address.0, "address removed");
            netlink.done("remove an address", netlink.handle.address().del(message).execute().await)?;
        }
    }
    for (address, prefix) in wanted {
        if !present.contains(&(address, prefix)) {
            tracing::info!(interface = name, %address, prefix, "address set");
            netlink.done(
                "add an address",
                netlink.handle.address().add(index, address, prefix).execute().await,
            )?;
        }
    }
    if let Some((_, network)) = v6 {
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(network.network(), network.prefix_len())
            .output_interface(index)
            .build();
        netlink.done("add a route", netlink.handle.route().add(route).replace().execute().await)?;
    }
    Ok(())
}

/// Whether an interface takes IPv6 addresses: a machine may have IPv6 switched off.
fn has_v6(name: &str) -> bool {
    fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"))
        .is_ok_and(|disabled| disabled.trim() == "0")
}

/// Removes the interface `name`, with everything on it; none there is fine. Needs a tokio runtime.
///
/// # Errors
/// [`TunError::Refused`] with what the kernel said.
pub async fn delete(name: &str) -> Result<(), TunError> {
    if !std::path::Path::new("/sys/class/net").join(name).join("tun_flags").exists() {
        return Ok(());
    }
    let netlink = Netlink::open(name)?;
    let index = netlink.link().await?.header.index;
    netlink.done("remove all", netlink.handle.link().del(index).execute().await)
}

/// A netlink connection for one interface; its task ends with it.
struct Netlink<'a> {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
    name: &'a str,
}

impl Drop for Netlink<'_> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<'a> Netlink<'a> {
    fn open(name: &'a str) -> Result<Self, TunError> {
        let (connection, handle, _) = new_connection().map_err(|source| TunError::Refused {
            name: name.to_owned(),
            action: "open a netlink socket for the settings",
            source,
        })?;
        Ok(Self { handle, task: tokio::spawn(connection), name })
    }

    fn done<T>(&self, action: &'static str, result: Result<T, rtnetlink::Error>) -> Result<T, TunError> {
        result.map_err(|error| TunError::Refused {
            name: self.name.to_owned(),
            action,
            source: if let rtnetlink::Error::NetlinkError(message) = &error {
                message.to_io()
            } else {
                io::Error::other(error)
            },
        })
    }

    async fn link(&self) -> Result<LinkMessage, TunError> {
        let links = self.handle.link().get().match_name(self.name.to_owned()).execute().try_next().await;
        self.done("read the state", links)?.ok_or_else(|| TunError::Refused {
            name: self.name.to_owned(),
            action: "read the state",
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    async fn addresses(&self, index: u32) -> Result<Vec<AddressMessage>, TunError> {
        let addresses = self.handle.address().get().set_link_index_filter(index).execute();
        self.done("read the addresses", addresses.try_collect().await)
    }
}

fn address_of(message: &AddressMessage) -> Option<(IpAddr, u8)> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Local(address) = attribute {
                local.then_some(*address)
            } else if let AddressAttribute::Address(address) = attribute {
                (!local).then_some(*address)
            } else {
                None
            }
        })
    };
    // On a point-to-point link "address" is the other end's.
    Some((find(true).or_else(|| find(false))?, message.header.prefix_len))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
