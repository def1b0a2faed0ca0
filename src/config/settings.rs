//! What the program means: types that cannot be wrong.

use std::{fmt, net::Ipv4Addr, str::FromStr, time::Duration};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The most votes that `minimum_nodes` may ask for: the certificate with all of them has to fit into one ledger entry.
pub const MOST_VOTES: u16 = 100;

/// The whole configuration of one machine. [`Config::default`] is what an empty `c3os:` block means.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// `c3os.network_token` as written, or read from `network_token_file`; none: the machine stays out of any mesh.
    pub network_token: Option<TokenText>,
    /// `c3os.network_id`: which of the clusters on one mesh this machine belongs to.
    pub network_id: NetworkId,
    /// `c3os.role`.
    pub role: RoleSetting,
    /// `c3os.minimum_nodes`: m of the founding decree, if set; the default of 2 is not the same as 2 written down.
    pub minimum_nodes: Option<u16>,
    /// `c3os.join`: only ever join this cluster, never found one.
    pub join: Option<String>,
    /// `c3os.admin_peers`: who may fetch the kubeconfig (node ids); none: every member.
    pub admin_peers: Option<Vec<crate::identity::NodeId>>,
    /// `c3os.dns`.
    pub dns: bool,
    /// `c3os.loglevel`.
    pub loglevel: LogLevel,
    /// `c3os.auto`.
    pub auto: Auto,
    /// `c3os.discovery`.
    pub discovery: Discovery,
    /// `c3os.vpn`.
    pub vpn: Vpn,
    /// `k3s`: arguments and environment of a server.
    pub k3s: K3s,
    /// `k3s-agent`: arguments and environment of a worker.
    pub k3s_agent: K3s,
    /// `kubevip`.
    pub kubevip: Kubevip,
    /// `install`.
    pub install: Install,
    /// A setting that decides roles was not understood (never set by `validate`d files). The machine joins the mesh so
    /// that it can be mended from afar, and keeps what is applied, but neither votes, founds nor takes a new role.
    pub frozen: bool,
}

/// A network token as somebody wrote it. It prints as `***` everywhere; [`TokenText::reveal`] is for parsing it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenText(zeroize::Zeroizing<String>);

impl TokenText {
    /// Wraps what was written.
    pub fn new(text: String) -> Self {
        Self(zeroize::Zeroizing::new(text))
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The name of a cluster on the mesh: `[a-z0-9-]{1,32}`. The default is the original's, `c3os`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkId(String);

/// A text that is no network id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a network id is 1 to 32 characters of a-z, 0-9 and '-'")]
pub struct NetworkIdError;

impl NetworkId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for NetworkId {
    fn default() -> Self {
        Self("c3os".to_owned())
    }
}

impl FromStr for NetworkId {
    type Err = NetworkIdError;

    fn from_str(text: &str) -> Result<Self, NetworkIdError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if (1..=32).contains(&text.len()) && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NetworkIdError)
        }
    }
}

impl TryFrom<String> for NetworkId {
    type Error = NetworkIdError;

    fn try_from(text: String) -> Result<Self, NetworkIdError> {
        text.parse()
    }
}

impl From<NetworkId> for String {
    fn from(id: NetworkId) -> Self {
        id.0
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What `c3os.role` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleSetting {
    /// The machines decide among themselves.
    #[default]
    Auto,
    /// Be the server.
    Master,
    /// Never be the server.
    Worker,
    /// Be on the mesh, and nothing else: no vote, no k3s.
    None,
}

/// How much the agent logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// `c3os.auto`: what the machines may decide.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auto {
    /// `ha.master_nodes`: servers in addition to the founder; none: no HA.
    pub additional_servers: u16,
    /// `ha.external_db`: k3s' datastore endpoint; a secret.
    pub external_db: Option<TokenText>,
    /// `ha.replace_after`: a server gone for so long is replaced; none: never.
    pub replace_after: Option<Duration>,
    /// `merge`: may leave its own cluster for the one named in `join`.
    pub merge: bool,
}

/// `c3os.discovery`: how others are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Multicast DNS on the LAN.
    pub mdns: bool,
    /// The public DHT.
    pub dht: bool,
    /// Peers to dial, as multiaddresses.
    pub bootstrap: Vec<String>,
    /// libp2p's TCP and UDP port.
    pub listen_port: u16,
}

impl Default for Discovery {
    fn default() -> Self {
        Self { mdns: true, dht: true, bootstrap: Vec::new(), listen_port: 4001 }
    }
}

/// `c3os.vpn`: the overlay network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vpn {
    /// Make the interface. False: roles without an interface.
    pub create: bool,
    /// k3s uses the overlay. False: the interface is there and k3s stays on the LAN.
    pub used_by_k3s: bool,
    /// Name of the interface, at most 15 bytes.
    pub interface: String,
    /// Where IPv4 overlay addresses come from.
    pub subnet: Ipv4Net,
    /// A fixed address instead of a claimed one.
    pub address: Option<Ipv4Addr>,
    /// MTU of the interface; none: found by the data plane.
    pub mtu: Option<u16>,
    /// First UDP port of the data plane.
    pub port: u16,
}

impl Default for Vpn {
    fn default() -> Self {
        Self {
            create: true,
            used_by_k3s: true,
            interface: "c3os0".to_owned(),
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 1, 0, 0), 16),
            address: None,
            mtu: None,
            port: 51900,
        }
    }
}

/// `k3s` or `k3s-agent`. Its `Debug` shows neither arguments nor values: tokens and passwords are given there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct K3s {
    /// Appended to ours.
    pub args: Vec<String>,
    /// Merged over ours, in the order of the file.
    pub env: Vec<(String, String)>,
    /// Use only `args`.
    pub replace_args: bool,
    /// Use only `env`.
    pub replace_env: bool,
    /// Plain k3s without agreement among machines: this one is it.
    pub enabled: bool,
    /// k3s' embedded registry mirror.
    pub embedded_registry: bool,
    /// Do not close k3s' ports on the LAN.
    pub expose: bool,
}

impl fmt::Debug for K3s {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("K3s")
            .field("args", &format_args!("[{}]", self.args.len()))
            .field("env", &names)
            .field("replace_args", &self.replace_args)
            .field("replace_env", &self.replace_env)
            .field("enabled", &self.enabled)
            .field("embedded_registry", &self.embedded_registry)
            .field("expose", &self.expose)
            .finish()
    }
}

/// `kubevip`: a virtual address for the API servers on the LAN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kubevip {
    /// The address.
    pub eip: Option<String>,
    /// The LAN interface it is announced on.
    pub interface: Option<String>,
}

/// `install`: unattended installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Install without being asked.
    pub auto: bool,
    /// Block device, or `auto`.
    pub device: String,
    /// Reboot afterwards.
    pub reboot: bool,
    /// Power off afterwards.
    pub poweroff: bool,
}

impl Default for Install {
    fn default() -> Self {
        Self { auto: false, device: "auto".to_owned(), reboot: true, poweroff: false }
    }
}
