//! What a node knows when it decides. The room `node` makes it anew from the ledger whenever something changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::{Acceptor, Certificate, ClusterId, Held, Proposer};
use crate::{config::RoleSetting, identity::NodeId};

/// Everything that founding may depend on, besides time and its own settings.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Every author that was ever heard of under this network id, this node included: those with a machine fact that
    /// names it, and those with a register or certificate of it. Also those that are away, as long as the ledger
    /// knows them. Observers may be left out; they never count.
    pub voters: BTreeMap<NodeId, VoterView>,
    /// The certificates of this network id in the ledger. A [`Certificate`] is valid by construction; parsing checks
    /// signatures, so keep it by its entry's hash.
    pub certificates: Vec<Certificate>,
    /// What this node pinned, once that is on its disk.
    pub pinned: Option<Certificate>,
    /// The first DHT look-up is done (or its bootstrap was unreachable for 30 s, or it is off), every peer found was
    /// dialled, and the ledgers were exchanged once with each admitted one. False again while a new one is pending.
    pub discovery_exhausted: bool,
    /// Ledgers were exchanged once with every connected peer: what they know of certificates and votes is here. False
    /// again while a new peer's is pending.
    pub exchanged: bool,
    /// The identity is older than the ledger file (that was lost, or its register of this decree could not be read),
    /// or a peer holds own entries with higher numbers than this node ever wrote. Once true it stays: the register
    /// says so on disk.
    pub amnesiac: bool,
    /// The slowest round trip to a live voter; it stretches the settle time. Zero if unknown.
    pub slowest_round_trip: Duration,
    /// The cluster whose role was applied to this machine, whatever is pinned: without a certificate (that was lost)
    /// it joins no other one.
    pub applied: Option<ClusterId>,
    /// This node is a server of the pinned cluster.
    pub serves: bool,
    /// This node may leave the pinned cluster when it is told to: it is no server of it, or one that runs no workload.
    pub may_leave: bool,
    /// The servers of the pinned cluster that can be reached now.
    pub live_servers: BTreeSet<NodeId>,
    /// Since when none of them can; none while one can, and in a decree without a lost cluster.
    pub servers_silent_since: Option<Instant>,
}

/// What is known of one voter.
#[derive(Debug, Clone)]
pub struct VoterView {
    /// Its host name, for people; empty if unknown.
    pub name: String,
    /// `c3os.role` in its file; `Auto` if unknown.
    pub role: RoleSetting,
    /// `c3os.minimum_nodes` in its file, if set.
    pub minimum_nodes: Option<u16>,
    /// It only joins a given cluster (`c3os.join`), or its file is broken: it never votes.
    pub abstains: bool,
    /// Can be reached over admitted connections. This node itself is live.
    pub live: bool,
    /// Two entries with one number and different content are known: its votes are void before founding.
    pub cloned: bool,
    /// Its overlay address, if it has one that nobody contests.
    pub address: Option<Ipv4Addr>,
    /// Its `acceptor` register.
    pub acceptor: Option<Held<Acceptor>>,
    /// Its `proposer` register.
    pub proposer: Option<Held<Proposer>>,
}

impl Default for VoterView {
    fn default() -> Self {
        Self {
            name: String::new(),
            role: RoleSetting::Auto,
            minimum_nodes: None,
            abstains: false,
            live: false,
            cloned: false,
            address: None,
            acceptor: None,
            proposer: None,
        }
    }
}
