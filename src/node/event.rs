//! What goes into and comes out of a [`super::Node`], besides messages.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use crate::{
    address::{Lease, LeaseEvent, Pool},
    config::{Config, NetworkId, RoleSetting},
    election::{Assignment, ClusterId, FoundingSettings, HeldLease, Role},
    identity::NodeId,
    k3s::{Applied, CaHash, ClusterFacts},
    token::{Gate, KeptTokens, Keyring, MeshId},
};

/// What a member is told once, at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The machine's configuration.
    pub config: Config,
    /// Which mesh.
    pub mesh_id: MeshId,
    /// Host name.
    pub name: String,
    /// `c3os uuid`.
    pub uuid: String,
    /// Version of this program.
    pub version: String,
    /// `linux/x86_64`.
    pub platform: String,
    /// A bridge or a live system: its facts fade when it goes, it never votes and takes no role.
    pub visitor: bool,
}

impl Settings {
    /// Whether this member takes part in a cluster at all.
    pub(super) fn observes(&self) -> bool {
        self.visitor || self.config.role == RoleSetting::None
    }

    pub(super) fn founding(&self, pool: Pool) -> FoundingSettings {
        let config = &self.config;
        FoundingSettings {
            network_id: config.network_id.clone(),
            role: if self.visitor { RoleSetting::None } else { config.role },
            minimum_nodes: config.minimum_nodes,
            join: config.join.as_deref().and_then(|id| id.parse().ok()),
            additional_servers: config.auto.additional_servers,
            external_datastore: config.auto.external_db.is_some(),
            pool,
            frozen: self.is_frozen(),
            merge: config.auto.merge,
            succeeds: None,
        }
    }

    /// Never votes: the configuration names a cluster to join, or was not understood.
    pub(super) fn abstains(&self) -> bool {
        self.config.join.is_some() || self.config.frozen
    }

    /// Something that decides roles was not understood, `c3os.join` included.
    fn is_frozen(&self) -> bool {
        let join = self.config.join.as_deref();
        self.config.frozen || join.is_some_and(|id| id.parse::<ClusterId>().is_err())
    }

    pub(super) fn network_id(&self) -> &NetworkId {
        &self.config.network_id
    }
}

/// What was kept on disk from the last run.
#[derive(Default)]
pub struct Kept {
    /// The ledger's file; none: there is none.
    pub ledger: Option<Vec<u8>>,
    /// The identity was made just now: without a ledger file, nothing is lost.
    pub new_identity: bool,
    /// The certificate of the cluster that this machine belongs to.
    pub pinned: Option<Vec<u8>>,
    /// The overlay address of the last run.
    pub lease: Option<Lease>,
    /// What was applied to this machine.
    pub applied: Option<Applied>,
    /// The network tokens; without any the token is never replaced.
    pub tokens: Option<Keyring>,
    /// The highest number that one of our entries ever had, kept beside the identity; 0: not known.
    pub mark: u64,
}

/// What was seen on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Others can no longer be found by waiting: every means of discovery had its time.
    DiscoveryExhausted,
    /// Where our data socket may be reached.
    Candidates(Vec<SocketAddr>),
    /// The date: days since 1970, UTC. Only how long a replaced token is good for fetching the new one hangs on it.
    Day(u64),
    /// The tokens of the last [`Event::Tokens`] are on disk.
    TokensKept,
    /// The certificate of [`Event::Pin`] is on disk, for good.
    Pinned(Vec<u8>),
    /// A role was applied, or was found applied.
    Applied(Applied),
    /// What an applied role could do better with, in sentences that name the fix.
    Lacking(Vec<String>),
    /// A role could not be (wholly) applied: what is missing, and the fix.
    NotApplied(String),
    /// The role's unit, and the service manager's word for its state.
    Unit {
        /// Its name.
        name: String,
        /// Its state.
        state: String,
    },
    /// The k3s server of this machine.
    Server {
        /// It answers.
        up: bool,
        /// Its CA.
        ca_hash: Option<CaHash>,
        /// Its version.
        version: Option<String>,
        /// Where it is on the LAN, if it does not use the overlay.
        lan_address: Option<Ipv4Addr>,
    },
    /// The k3s server of this machine is Ready and, where the cluster's state is in etcd, a voting member of that.
    Voting(bool),
    /// The cluster's Lease is ours, or is not.
    Lease(Option<HeldLease>),
    /// Whether our cluster runs no workload, as its API server said.
    Idle(bool),
    /// Kubernetes let go of a server: its node and its etcd member are gone.
    ServerRemoved(NodeId),
    /// It did not; it may be asked again.
    ServerNotRemoved(NodeId),
    /// How long a round trip to each member takes that we exchange packets with.
    RoundTrips(BTreeMap<NodeId, Duration>),
}

/// What the driver has to do, or may tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Our address lease changed: it is to be kept on disk, and its address used.
    Lease(Lease),
    /// Something about our address worth telling.
    LeaseChanged(LeaseEvent),
    /// This machine belongs to the cluster of this certificate from now on: keep it on disk, synced, then
    /// [`Observed::Pinned`].
    Pin(Vec<u8>),
    /// The network tokens of this machine changed: keep them on disk, synced, then [`Observed::TokensKept`].
    Tokens(Box<KeptTokens>),
    /// Who gets in, and with which token, from now on.
    Gate(Gate),
    /// Where every other member is, complete; replaces the last one.
    Members(BTreeMap<NodeId, Whereabouts>),
    /// This role is to be applied, whatever was applied before.
    Role(Box<RoleOrder>),
    /// No k3s is to run here until somebody decides, and nothing is to be removed: the place of this server was taken
    /// while it was away.
    Stop,
    /// As the lead: has Kubernetes let go of a server, then [`Observed::ServerRemoved`].
    RemoveServer {
        /// Who.
        node: NodeId,
        /// Its name in Kubernetes.
        name: String,
    },
    /// A cluster was founded, or found.
    Founded {
        /// Its id.
        cluster_id: ClusterId,
        /// Who founded it.
        founder: NodeId,
    },
    /// A member became live, or no longer is.
    Liveness {
        /// Who.
        node: NodeId,
        /// Now.
        live: bool,
    },
    /// A role was assigned to somebody.
    Assigned {
        /// To whom.
        node: NodeId,
        /// Which.
        role: Role,
    },
}

/// Where a member is, for the data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its IPv4 overlay address, once it has one.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 overlay address.
    pub ipv6: Ipv6Addr,
    /// Where its data socket may be reached.
    pub candidates: Vec<SocketAddr>,
}

/// A role to apply, with everything that a plan needs of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleOrder {
    /// What the lead decided.
    pub assignment: Assignment,
    /// What is known of the cluster.
    pub facts: ClusterFacts,
    /// By somebody's word this machine leaves the cluster whose role it has had: what k3s kept of that is set aside.
    pub leaves: Option<ClusterId>,
}

/// Something a member asks of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Give a node another role.
    SetRole {
        /// The node.
        node: NodeId,
        /// The role.
        role: Role,
    },
    /// Replace the network token.
    Rotate,
    /// Forget a node that is gone.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Never let a node in again.
    Ban {
        /// The node.
        node: NodeId,
        /// Replace nothing that it knows.
        keep_token: bool,
    },
    /// Have this machine go to another cluster.
    Join {
        /// Which one.
        cluster_id: ClusterId,
    },
    /// Found a cluster in the place of ours, whose servers are lost for good.
    Refound,
}
