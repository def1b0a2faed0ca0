//! A node with many live sessions, and the nodes at their other ends.

use std::{sync::Arc, time::Instant};

use c3os::tunnel::{Endpoint, HEADER, Meta, Session, TAG, Table};
use tunnels::Node;

/// The node in the middle, which has a session with every other one.
pub struct Hub {
    hub: Node,
    spokes: Vec<Node>,
}

impl Hub {
    /// A hub with `sessions` live sessions.
    pub fn new(sessions: u16) -> Self {
        let mut now = Instant::now();
        let mut hub = Node::new(0);
        let mut spokes: Vec<Node> = (1..=sessions).map(Node::new).collect();
        hub.tunnel.handle_routes(spokes.iter().map(Node::route).collect(), now);
        for spoke in &mut spokes {
            spoke.meet(&mut hub, &mut now);
        }
        Self { hub, spokes }
    }

    /// The hub's table.
    pub fn table(&self) -> &Table {
        &self.hub.table
    }

    /// The session at the other end of the one with spoke `at`, and where that spoke is.
    pub fn spoke(&self, at: usize) -> (&Arc<Session>, Endpoint, u16) {
        let spoke = &self.spokes[at];
        let session = spoke.session().expect("it has a session and a path");
        (session, spoke.endpoint(), spoke.number)
    }
}

/// The places of one datagram of a train: room for its header, meta, packet and tag.
pub fn places(meta: Meta, packet: &[u8]) -> Vec<u8> {
    [&[0; HEADER], meta.encode().as_slice(), packet, &[0; TAG]].concat()
}
