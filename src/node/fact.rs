//! What members say about themselves in the ledger, and under which keys.
//!
//! A fact binds only its author: what a cluster does with it is decided by whoever reads it. Names of fields are part
//! of the wire form: fields are added, never renamed.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::{
    config::{NetworkId, RoleSetting},
    election::{ClusterId, Consent, Role},
    identity::NodeId,
    k3s::CaHash,
};

/// Key of [`Machine`].
pub(super) const MACHINE: &str = "machine";
/// Key of [`Neighbours`].
pub(super) const NEIGHBOURS: &str = "neighbours";
/// Key of an `address::Claim`.
pub(super) const ADDRESS: &str = "address";

/// Key of an election register or certificate: `acceptor/<network id>`.
pub(super) fn in_network(what: &str, network_id: &NetworkId) -> String {
    format!("{what}/{network_id}")
}

/// Key of what one node says of another within a cluster: `assignment/<network id>/<node id>`.
pub(super) fn about(what: &str, network_id: &NetworkId, node: &NodeId) -> String {
    format!("{what}/{network_id}/{node}")
}

/// A machine introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// Host name.
    pub(super) name: String,
    /// `c3os uuid`.
    pub(super) uuid: String,
    /// The cluster it wants to be in.
    pub(super) network_id: NetworkId,
    /// What its configuration asks for.
    pub(super) role: RoleSetting,
    /// m of the founding decree, if its configuration sets it.
    pub(super) minimum_nodes: Option<u16>,
    /// Has an address, never a vote or a role.
    pub(super) observer: bool,
    /// Never votes: it only joins a given cluster, or its configuration could not be understood.
    #[serde(default)]
    pub(super) abstains: bool,
    /// Version of its agent.
    pub(super) version: String,
    /// `linux/x86_64`.
    pub(super) platform: String,
    /// Where its data socket may be reached.
    pub(super) candidates: Vec<SocketAddr>,
    /// The cluster that it belongs to, for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<ClusterId>,
}

impl Machine {
    /// What founding may expect of it.
    pub(super) fn role_as_voter(&self) -> RoleSetting {
        if self.observer { RoleSetting::None } else { self.role }
    }
}

/// With whom a member has an admitted connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Neighbours(pub(super) BTreeSet<NodeId>);

/// A server's word about itself, `server/<network id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Server {
    /// Which cluster it serves.
    pub(super) cluster_id: ClusterId,
    /// k3s answers.
    pub(super) up: bool,
    /// Its CA.
    pub(super) ca_hash: Option<CaHash>,
    /// Version of k3s.
    pub(super) version: Option<String>,
    /// Its node is Ready, and a voting member of etcd where the cluster's state is there; none: nobody has asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) voting: Option<bool>,
    /// Where k3s is, if it does not use the overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lan_address: Option<Ipv4Addr>,
}

/// The lead wants a server off the list: `removal/<network id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Removal {
    /// Of which cluster.
    pub(super) cluster_id: ClusterId,
    /// In which epoch.
    pub(super) epoch: u64,
    /// Which server.
    pub(super) node: NodeId,
    /// By an operator's word; else because it is away for too long.
    pub(super) asked: bool,
}

/// A server agrees to a [`Removal`]: `consent/<network id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agreed {
    /// Of which server.
    pub(super) node: NodeId,
    /// The signature that goes into the list.
    pub(super) consent: Consent,
}

/// What a member saw of its own role, `applied/<network id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    /// Which cluster.
    pub(super) cluster_id: ClusterId,
    /// Which role.
    pub(super) role: Role,
    /// The service manager's word for the unit's state.
    pub(super) unit: Option<String>,
}

/// Secrets of the cluster for one node, `secret/<network id>/<node id>`, sealed to it by the lead: CBOR of
/// [`ClusterSecrets`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    /// Which cluster.
    pub(super) cluster_id: ClusterId,
    /// For which role: a worker's box holds less.
    pub(super) role: Role,
    /// Epoch of the lead that sealed it; of two the higher one is opened.
    #[serde(default)]
    pub(super) epoch: u64,
    /// The box, in base64: what serde makes of bytes is twice as long.
    pub(super) boxed: String,
    /// [`ClusterSecrets::generation`] of what is in it.
    #[serde(default)]
    pub(super) generation: u32,
}

/// What opens a cluster. It has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ClusterSecrets {
    /// Full administration; servers only.
    pub(super) server_token: Option<String>,
    /// Lets a worker join.
    pub(super) agent_token: String,
    /// How often they were made anew.
    #[serde(default)]
    pub(super) generation: u32,
}

impl Drop for ClusterSecrets {
    fn drop(&mut self) {
        self.server_token.zeroize();
        self.agent_token.zeroize();
    }
}
