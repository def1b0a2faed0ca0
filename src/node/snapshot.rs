//! A picture of one member, for people, scripts and tests: what `status`, the API and the dashboard show.
//!
//! Desired and observed stand apart: `role.assigned` is what the cluster decided, `role.applied` and `role.unit` are
//! what was seen on this machine.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

pub use super::rotation::Phase;
use crate::{
    config::{NetworkId, RoleSetting},
    election::Role,
    identity::NodeId,
};

/// Everything that this member knows and may show. It holds no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// This member.
    pub node: Member,
    /// The cluster of this member's network id.
    pub cluster: Cluster,
    /// This member's role, desired and observed.
    pub role: RoleState,
    /// All known members, this one included, by id.
    pub members: Vec<Member>,
    /// What the data plane knows of each peer; empty without an interface.
    pub peers: Vec<Path>,
    /// The replacement of the network token that was begun last.
    #[serde(default)]
    pub rotation: Option<Rotation>,
    /// Who is never let in again.
    #[serde(default)]
    pub banned: Vec<NodeId>,
    /// What somebody should know or mend, the worst first.
    pub problems: Vec<Problem>,
    /// Counts by `room.reason`, each from the start of the agent.
    pub counters: BTreeMap<String, u64>,
}

impl Snapshot {
    /// What there is to show before a machine is on any mesh.
    pub fn empty() -> Self {
        let node = Member {
            id: NodeId::from_bytes([0; 32]),
            name: String::new(),
            uuid: String::new(),
            network_id: NetworkId::default(),
            role_setting: RoleSetting::Auto,
            role: None,
            observer: true,
            live: false,
            ipv4: None,
            ipv6: Ipv6Addr::UNSPECIFIED,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            platform: String::new(),
            unit: None,
        };
        let cluster = Cluster {
            network_id: NetworkId::default(),
            state: ClusterState::Observing,
            message: "this machine is on no mesh yet".to_owned(),
            id: None,
            generation: None,
            founder: None,
            lead: None,
            epoch: None,
            servers: Vec::new(),
            servers_wanted: None,
            minimum_nodes: None,
            conflicts: Vec::new(),
        };
        Self {
            node,
            cluster,
            role: RoleState::default(),
            members: Vec::new(),
            peers: Vec::new(),
            rotation: None,
            banned: Vec::new(),
            problems: Vec::new(),
            counters: BTreeMap::new(),
        }
    }
}

/// How far the replacement of the network token is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rotation {
    /// Its number, from 1.
    pub number: u32,
    /// Its phase.
    pub phase: Phase,
    /// Somebody was banned: the old token lets nobody in who was not known before.
    pub closed: bool,
    /// The rotation whose token this member uses; 0: the first token. None: it was given none.
    pub used: Option<u32>,
    /// Those who are there and keep it from its next phase.
    pub waits_for: Vec<NodeId>,
}

/// One member of the mesh, as the ledger tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its host name; empty until its facts have arrived.
    pub name: String,
    /// `c3os uuid` of the machine.
    pub uuid: String,
    /// The cluster it wants to be in.
    pub network_id: NetworkId,
    /// What its configuration asks for.
    pub role_setting: RoleSetting,
    /// The role that the cluster assigned to it.
    pub role: Option<Role>,
    /// A bridge, a live system or `role: none`: has an address, never a role.
    pub observer: bool,
    /// Reachable over admitted connections, directly or by way of others.
    pub live: bool,
    /// Its IPv4 overlay address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 overlay address.
    pub ipv6: Ipv6Addr,
    /// Version of its agent.
    pub version: String,
    /// Operating system and architecture, as `linux/x86_64`.
    pub platform: String,
    /// State of its k3s unit, as it saw it last.
    pub unit: Option<String>,
}

/// What a list of roles says of a member.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoleOf<'a> {
    id: NodeId,
    name: &'a str,
    uuid: &'a str,
    network_id: &'a NetworkId,
    setting: RoleSetting,
    role: Option<Role>,
    unit: Option<&'a str>,
    address: Option<Ipv4Addr>,
    live: bool,
}

impl<'a> From<&'a Member> for RoleOf<'a> {
    fn from(member: &'a Member) -> Self {
        Self {
            id: member.id,
            name: &member.name,
            uuid: &member.uuid,
            network_id: &member.network_id,
            setting: member.role_setting,
            role: member.role,
            unit: member.unit.as_deref(),
            address: member.ipv4,
            live: member.live,
        }
    }
}

/// How far the cluster is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Which cluster of the mesh.
    pub network_id: NetworkId,
    /// Where founding stands.
    pub state: ClusterState,
    /// The same in a sentence, with what it waits for and what to do.
    pub message: String,
    /// Id of the cluster, once there is one.
    pub id: Option<String>,
    /// 1, or how often a lost one was succeeded, plus one.
    pub generation: Option<u32>,
    /// Who founded it.
    pub founder: Option<NodeId>,
    /// Who writes its facts.
    pub lead: Option<NodeId>,
    /// How often the lead changed, plus one.
    pub epoch: Option<u64>,
    /// Its servers, the first one first.
    pub servers: Vec<NodeId>,
    /// How many servers it shall have, the founder included.
    pub servers_wanted: Option<u16>,
    /// How many votes founded it, or will.
    pub minimum_nodes: Option<u16>,
    /// Clusters of the same network id that are not ours.
    pub conflicts: Vec<String>,
}

/// Where founding stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterState {
    /// This member takes no part in a cluster.
    Observing,
    /// No cluster yet; it waits for others or for votes.
    Founding,
    /// There is one cluster and this member is in it.
    Founded,
    /// There is another cluster under this network id.
    Conflict,
    /// This machine forgot how it voted, and waits for the others.
    Amnesiac,
}

/// This member's role.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RoleState {
    /// What the configuration asks for.
    pub setting: RoleSetting,
    /// What the cluster assigned.
    pub assigned: Option<Role>,
    /// What was last applied to this machine, with success.
    pub applied: Option<Role>,
    /// The assigned role is applied, wholly, and was so at a look since the agent started: files that a boot emptied
    /// are back.
    pub in_place: bool,
    /// The k3s unit of the role.
    pub unit: Option<String>,
    /// The service manager's word for that unit's state.
    pub unit_state: Option<String>,
    /// Why the role is not (wholly) applied.
    pub message: Option<String>,
}

/// How packets to a peer travel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// The peer.
    pub id: NodeId,
    /// Its host name.
    pub name: String,
    /// Direct, relayed, or none yet.
    pub kind: PathKind,
    /// Where datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// Smoothed round trip, microseconds.
    pub rtt_us: Option<u64>,
    /// Lost probes, in per cent of the last ones.
    pub loss_percent: Option<f32>,
    /// Seconds since the last handshake.
    pub handshake_age_s: Option<u64>,
    /// Bytes sent inside the tunnel.
    pub sent_bytes: u64,
    /// Bytes received inside the tunnel.
    pub received_bytes: u64,
}

/// The kind of a [`Path`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// Datagrams go straight to the peer.
    Direct,
    /// UDP does not pass: the mesh's own connection with the peer carries them.
    Stream,
    /// A member passes them on.
    Relayed,
    /// No session: nothing was sent yet, or nothing gets through.
    None,
}

/// Something that somebody should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// What is wrong, naming the thing.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

/// How bad a [`Problem`] is; the worst orders first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The agent cannot do its job.
    Error,
    /// It works, and somebody should look.
    Warning,
}
