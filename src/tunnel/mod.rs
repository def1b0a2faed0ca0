//! The data plane without its sockets: handshake, sessions, replay windows, routes, paths, timers.
//!
//! ```text
//!   TUN --> Cut --> Table::destination --> Session::seal_data --> UDP    (fast threads: only read the Table)
//!   UDP --> Opener (session, replay, tag, inner source) --> Joiner --> TUN
//!             | control datagrams, packets without a session, "attention", "moved"
//!             v
//!           Tunnel: one Peer each --> handshakes, probes, a new Table  (control thread, or a simulation)
//! ```
//!
//! A stranger's datagram names a session that we do not have and is dropped before any crypto: there is no
//! public-key work on the data socket at all. Handshakes travel on streams that have proven both node ids, and, for the
//! successor of a session, inside that session.
//!
//! Cryptokey routing: one [`RouteTable`] says both where a packet goes and whose source address it may bear.

mod control;
mod counters;
mod cut;
mod handshake;
mod headers;
mod join;
mod key;
mod layout;
mod message;
mod noise;
mod opener;
mod packet;
mod pad;
mod path;
mod peer;
mod route;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod too_big;
mod vnet;
mod window;
mod wire;

pub use control::{PeerRoute, PeerState, REKEY_AFTER, Tunnel, TunnelEvent, TunnelSettings};
pub use counters::{Counters, DropReason};
pub use cut::Cut;
pub use handshake::{HandshakeError, Initiator, Offer, Parameters, respond};
pub use join::{Frame, Joiner, Offloads};
pub use key::{Aead, Exhausted};
pub use opener::{Content, Inbound, Opener};
pub use packet::Addresses;
pub use path::{Endpoint, Path};
pub use peer::PingError;
pub use route::{RouteTable, Slot};
pub use session::{Opened, Session};
pub use table::{Sending, Table, TablePeer, Traffic, TrafficTotals};
pub use too_big::{clamp_mss, too_big};
pub use vnet::{Encapsulation, Gso, VNET_HEADER, VnetHeader};
pub use window::{Arrival, WINDOW, Window};
pub use wire::{
    CONTROL_QUEUE, HEADER, Header, Kind, MAX_ENCAPSULATION, MAX_QUEUES, META, Meta, OVERHEAD, SessionId, TAG,
};
