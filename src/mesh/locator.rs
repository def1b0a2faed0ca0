//! Where a peer may be reached, as people write it.

#![expect(clippy::wildcard_enum_match_arm, reason = "multiaddr has forty protocols, and none is ours")]

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use libp2p::{Multiaddr, multiaddr::Protocol};

use crate::identity::NodeId;

/// A host and a port, perhaps the transport, perhaps who is expected there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locator {
    host: Host,
    port: u16,
    transport: Option<Transport>,
    id: Option<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    Address(IpAddr),
    Name(String),
}

/// How to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Transport {
    Tcp,
    Quic,
}

/// A text that is no [`Locator`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "peer {0:?}: expected HOST:PORT, [IPv6]:PORT, /ip4/ADDRESS/tcp/PORT or /ip4/ADDRESS/udp/PORT/quic-v1 \
     (also /ip6, /dns4, /dns6, /dns; with or without /p2p/ID at the end)"
)]
pub struct LocatorError(String);

impl Locator {
    /// Who is expected there, if the text says so.
    pub fn id(&self) -> Option<NodeId> {
        self.id
    }

    pub(super) fn at(address: SocketAddr) -> Self {
        Self { host: Host::Address(address.ip()), port: address.port(), transport: None, id: None }
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Whether this transport may be tried.
    pub(super) fn allows(&self, transport: Transport) -> bool {
        self.transport.is_none_or(|only| only == transport)
    }

    fn from_multiaddr(address: &Multiaddr) -> Option<Self> {
        let mut parts = address.iter();
        let host = match parts.next()? {
            Protocol::Ip4(address) => Host::Address(address.into()),
            Protocol::Ip6(address) => Host::Address(address.into()),
            Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => {
                Host::Name(name.into_owned())
            }
            _ => return None,
        };
        let (port, transport) = match parts.next()? {
            Protocol::Tcp(port) => (port, Transport::Tcp),
            Protocol::Udp(port) if parts.next()? == Protocol::QuicV1 => (port, Transport::Quic),
            _ => return None,
        };
        let id = match parts.next() {
            None => None,
            Some(Protocol::P2p(peer)) => Some(node_id(&peer)?),
            Some(_) => return None,
        };
        (parts.next().is_none() && port != 0).then_some(Self { host, port, transport: Some(transport), id })
    }
}

impl FromStr for Locator {
    type Err = LocatorError;

    fn from_str(text: &str) -> Result<Self, LocatorError> {
        let text = text.trim();
        let error = || LocatorError(text.chars().take(200).collect());
        if text.starts_with('/') {
            let address = text.parse::<Multiaddr>().map_err(|_| error())?;
            return Self::from_multiaddr(&address).ok_or_else(error);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(error()) } else { Ok(Self::at(address)) };
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(error)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
        if name.is_empty() || name.len() > 253 || !name.chars().all(plain) {
            return Err(error());
        }
        Ok(Self { host: Host::Name(name.to_owned()), port, transport: None, id: None })
    }
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => write!(f, "{}", SocketAddr::new(*address, self.port)),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// The node that a libp2p peer id stands for; none for keys that are not Ed25519.
pub(super) fn node_id(peer: &libp2p::PeerId) -> Option<NodeId> {
    peer.to_base58().parse().ok()
}

/// The libp2p peer id of a node.
pub(super) fn peer_id(node: &NodeId) -> libp2p::PeerId {
    node.to_string().parse().expect("a node id is written as a peer id")
}

/// The address a connection goes to, of `/ip../tcp/..` and `/ip../udp/../quic-v1`.
pub(super) fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip).to_canonical(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// The multiaddress to dial `address` with.
pub(super) fn multiaddr(address: SocketAddr, transport: Transport) -> Multiaddr {
    let base = Multiaddr::from(address.ip());
    match transport {
        Transport::Tcp => base.with(Protocol::Tcp(address.port())),
        Transport::Quic => base.with(Protocol::Udp(address.port())).with(Protocol::QuicV1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_as_people_write_them() {
        let id = crate::identity::Identity::from_seed(&[1; 32]).id();
        for (text, shown, tcp, quic, who) in [
            ("192.0.2.1:4001".to_owned(), "192.0.2.1:4001", true, true, None),
            ("[2001:db8::1]:4001".to_owned(), "[2001:db8::1]:4001", true, true, None),
            (" node-1.example:99 ".to_owned(), "node-1.example:99", true, true, None),
            ("/ip4/192.0.2.1/tcp/4001".to_owned(), "192.0.2.1:4001", true, false, None),
            (
                format!("/ip6/2001:db8::1/udp/4001/quic-v1/p2p/{id}"),
                "[2001:db8::1]:4001",
                false,
                true,
                Some(id),
            ),
            (format!("/dns4/a.example/tcp/4001/p2p/{id}"), "a.example:4001", true, false, Some(id)),
        ] {
            let locator: Locator = text.parse().expect(&text);
            assert_eq!(locator.to_string(), shown);
            assert_eq!(locator.allows(Transport::Tcp), tcp, "{text}");
            assert_eq!(locator.allows(Transport::Quic), quic, "{text}");
            assert_eq!(locator.id(), who);
        }
    }

    #[test]
    fn what_is_no_peer_is_refused_with_the_ways_to_write_one() {
        for text in [
            "",
            "host",
            "host:0",
            "1.2.3.4:0",
            "/ip4/1.2.3.4",
            "/ip4/1.2.3.4/udp/1",
            "/unix/a",
            "a b:1",
            "/ip4/1.2.3.4/tcp/0",
            "/ip4/1.2.3.4/tcp/1/ws",
            ":1",
        ] {
            let error = text.parse::<Locator>().expect_err(text).to_string();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn peer_ids_and_node_ids_are_the_same_thing() {
        let node = crate::identity::Identity::from_seed(&[7; 32]).id();
        assert_eq!(node_id(&peer_id(&node)), Some(node));
    }
}
