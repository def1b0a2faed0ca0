//! What may be written, block by block. These declarations drive the parser and the JSON schema alike: the doc
//! comments are what an editor shows.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    LogLevel, MOST_VOTES, NetworkId, RoleSetting, TokenText,
    block::{Refusal, Setting, block},
    old_keys,
    reader::Reader,
    scalar::{
        Address, After, Argument, ClusterName, Device, FilePath, InterfaceName, LanAddress, Mtu, Number,
        PeerAddress, Subnet,
    },
    suggest::shown,
    tree::{Node, Value},
};
use crate::identity::NodeId;

block! {
    /// A cloud-config as c3os mesh reads it. Keys that are not described here belong to other programs.
    open Document {
        /// The mesh, and what the machines on it decide among themselves.
        "c3os" c3os: C3os,
        /// Environment variables of the original's mesh program. Each is taken as the setting of `c3os` that it stands
        /// for, or has no effect here, and `c3os validate` says which.
        "vpn" vpn: Environment,
        /// Kairos' spelling of `c3os`.
        "p2p" p2p: P2p,
        /// k3s on a machine that is a server.
        "k3s" k3s: K3sServer,
        /// k3s on a machine that is a worker.
        "k3s-agent" k3s_agent: K3sWorker,
        /// A virtual address for the API servers on the LAN.
        "kubevip" kubevip: Kubevip,
        /// Unattended installation.
        "install" install: Install,
    }
}

block! {
    /// The mesh, and what the machines on it decide among themselves.
    closed C3os {
        /// The secret that all machines of a mesh share, from `c3os generate-token`. Without one, the machine stays out
        /// of any mesh.
        "network_token" network_token: TokenText,
        /// A file that holds the token, instead of `network_token`.
        "network_token_file" network_token_file: FilePath,
        /// Which of several clusters on one mesh this machine belongs to. Default: c3os.
        "network_id" network_id: NetworkId,
        /// `master` or `worker` force a role, `none` joins the mesh without Kubernetes. Default: the machines decide.
        "role" role: RoleSetting,
        /// How many machines must agree before a cluster is founded. More than half of all machines rules out a second
        /// cluster for good: of more than 199 machines, let no more than those start first. Default: 2, and only once
        /// nobody else can be found.
        "minimum_nodes" minimum_nodes: Number<1, MOST_VOTES>,
        /// The id of a cluster: join this one, and never found another.
        "join" join: ClusterName,
        /// Node ids of those who may fetch the kubeconfig. Default: every member of the mesh.
        "admin_peers" admin_peers: Vec<NodeId>,
        /// Answer names of the mesh on the machine itself. Default: false.
        "dns" dns: bool,
        /// How much the agent logs. Default: info.
        "loglevel" loglevel: LogLevel,
        /// What the machines may decide.
        "auto" auto: Auto,
        /// How others are found.
        "discovery" discovery: Discovery,
        /// The overlay network.
        "vpn" vpn: Vpn,
        /// Older spelling of `install.auto`.
        "offline" offline: bool,
        /// Older spelling of `install.device`.
        "device" device: Device,
        /// Older spelling of `install.reboot`.
        "reboot" reboot: bool,
        /// Older spelling of `install.poweroff`.
        "poweroff" poweroff: bool,
    }
}

block! {
    /// What the machines may decide.
    closed Auto {
        /// More than one server.
        "ha" ha: Ha,
        /// This machine may leave its own cluster for the one named in `join`. Default: false.
        "merge" merge: bool,
    }
}

block! {
    /// More than one server.
    closed Ha {
        /// Servers in addition to the first. Together they must be an odd number, so 2 or 4. Default: 0.
        "master_nodes" master_nodes: Number<0, 98>,
        /// The datastore that the servers share instead of keeping their own; k3s' `datastore-endpoint`.
        "external_db" external_db: TokenText,
        /// A server that is gone for so long is replaced by a worker. Default: never.
        "replace_after" replace_after: After,
    }
}

block! {
    /// How others are found.
    closed Discovery {
        /// Ask on the LAN, by multicast DNS. Default: true.
        "mdns" mdns: bool,
        /// Ask on the Internet, in the public DHT. Default: true.
        "dht" dht: bool,
        /// Peers to dial, as multiaddresses.
        "bootstrap" bootstrap: Vec<PeerAddress>,
        /// TCP and UDP port of the mesh. Default: 4001.
        "listen_port" listen_port: Number<1, 65535>,
    }
}

block! {
    /// The overlay network.
    closed Vpn {
        /// Make the network interface. Without it there are roles, but no overlay. Default: true.
        "create" create: bool,
        /// Kubernetes uses the overlay; otherwise it stays on the LAN. Default: true.
        "use" used: bool,
        /// Name of the interface, at most 15 characters. Default: c3os0.
        "interface" interface: InterfaceName,
        /// Where overlay addresses come from; the same on all machines. Default: 10.1.0.0/16.
        "subnet" subnet: Subnet,
        /// A fixed address for this one machine. Default: found without conflict.
        "address" address: Address,
        /// MTU of the interface. Default: auto.
        "mtu" mtu: Mtu,
        /// UDP port of the data plane, and up to three more from there. Default: 51900.
        "port" port: Number<1, 65532>,
    }
}

block! {
    /// k3s on a machine that is a server.
    closed K3sServer {
        /// Arguments after ours.
        "args" args: Vec<Argument>,
        /// Environment, over ours.
        "env" env: Environment,
        /// Use `args` alone. Default: false.
        "replace_args" replace_args: bool,
        /// Use `env` alone. Default: false.
        "replace_env" replace_env: bool,
        /// A server of its own, without any mesh or agreement. Default: false.
        "enabled" enabled: bool,
        /// Nodes share container images among themselves. Default: false.
        "embedded_registry" embedded_registry: bool,
        /// Leave the ports of Kubernetes open on the LAN. Default: false.
        "expose" expose: bool,
    }
}

block! {
    /// k3s on a machine that is a worker.
    closed K3sWorker {
        /// Arguments after ours.
        "args" args: Vec<Argument>,
        /// Environment, over ours.
        "env" env: Environment,
        /// Use `args` alone. Default: false.
        "replace_args" replace_args: bool,
        /// Use `env` alone. Default: false.
        "replace_env" replace_env: bool,
        /// A worker of its own, told by `args` and `env` alone which server is its. Default: false.
        "enabled" enabled: bool,
    }
}

block! {
    /// A virtual address for the API servers on the LAN.
    open Kubevip {
        /// A free address of the LAN.
        "eip" eip: LanAddress,
        /// The LAN interface that announces it. Default: the one of the default route.
        "interface" interface: InterfaceName,
        /// Default: true, if there is an `eip`.
        "enable" enable: bool,
        /// No effect here: the manifest is made for the version of kube-vip that this release was tested with.
        "manifest_url" manifest_url: NoEffect,
        /// No effect here: kube-vip runs as a DaemonSet.
        "static_pod" static_pod: NoEffect,
        /// No effect here: the version is the one that this release was tested with.
        "version" version: NoEffect,
        /// No effect here: the image is the one that this release was tested with.
        "image" image: NoEffect,
    }
}

block! {
    /// Unattended installation.
    open Install {
        /// Install without being asked. Default: false.
        "auto" auto: bool,
        /// Where to: a block device, or `auto`. Default: auto.
        "device" device: Device,
        /// Reboot afterwards. Default: true, unless `poweroff`.
        "reboot" reboot: bool,
        /// Power off afterwards. Default: false.
        "poweroff" poweroff: bool,
    }
}

block! {
    /// Kairos' spelling of `c3os`.
    closed P2p {
        /// As `c3os.network_token`.
        "network_token" network_token: TokenText,
        /// As `c3os.network_id`. Default: c3os.
        "network_id" network_id: NetworkId,
        /// As `c3os.role`.
        "role" role: RoleSetting,
        /// As `c3os.dns`.
        "dns" dns: bool,
        /// As `c3os.loglevel`.
        "loglevel" loglevel: LogLevel,
        /// As `c3os.minimum_nodes`; 0 is the default.
        "minimum_nodes" minimum_nodes: Number<0, MOST_VOTES>,
        /// The opposite of `c3os.discovery.dht`.
        "disable_dht" disable_dht: bool,
        /// No effect here: a role is never taken away because a machine is silent.
        "dynamic_roles" dynamic_roles: NoEffect,
        /// As `c3os.vpn`.
        "vpn" vpn: P2pVpn,
        /// As `c3os.auto`.
        "auto" auto: P2pAuto,
    }
}

block! {
    /// As `c3os.vpn`.
    closed P2pVpn {
        /// As `c3os.vpn.create`.
        "create" create: bool,
        /// As `c3os.vpn.use`.
        "use" used: bool,
        /// As the block `vpn`.
        "env" env: Environment,
    }
}

block! {
    /// As `c3os.auto`.
    closed P2pAuto {
        /// False: no role but a forced one.
        "enable" enable: bool,
        /// As `c3os.auto.ha`.
        "ha" ha: P2pHa,
    }
}

block! {
    /// As `c3os.auto.ha`.
    closed P2pHa {
        /// Default: true, if there are `master_nodes`.
        "enable" enable: bool,
        /// As `c3os.auto.ha.master_nodes`.
        "master_nodes" master_nodes: Number<0, 98>,
        /// As `c3os.auto.ha.external_db`.
        "external_db" external_db: TokenText,
    }
}

/// Environment variables, in the order of the file. Their values may be secrets.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment(pub(super) Vec<(String, String)>);

/// More would be no configuration.
const VARIABLES: usize = 1000;

impl Setting for Environment {
    fn read(slot: &mut Option<Self>, node: &Node, reader: &mut Reader) {
        let variables = &mut slot.get_or_insert_with(Self::default).0;
        for entry in reader.map(node) {
            reader.key(&entry.key, |reader| {
                let value = match &entry.value.value {
                    Value::Null => "",
                    Value::Scalar(_) | Value::List(_) | Value::Map(_) => {
                        let Some(text) = reader.text(&entry.value, "a text") else { return };
                        text
                    }
                };
                if !is_variable(&entry.key) {
                    let refusal = Refusal::new(
                        format!("{} cannot name an environment variable", shown(&entry.key)),
                        "letters, digits and '_', and no digit first",
                    );
                    return reader.refuse(entry.place, refusal);
                }
                if variables.len() >= VARIABLES {
                    let refusal = Refusal::new("too many variables", format!("{VARIABLES} at most"));
                    return reader.refuse(entry.place, refusal);
                }
                if value.contains(['\n', '\r', '\0']) {
                    let refusal = Refusal::new(
                        "a value of more than one line",
                        "an environment file has no place for it",
                    );
                    return reader.refuse(entry.value.place, refusal);
                }
                reader.note(entry.value.place, "***");
                match variables.iter_mut().find(|(name, _)| *name == entry.key) {
                    Some((_, old)) => value.clone_into(old),
                    None => variables.push((entry.key.clone(), value.to_owned())),
                }
            });
        }
    }
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && (1..=256).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl JsonSchema for Environment {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Environment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
            "additionalProperties": { "type": ["string", "number", "boolean", "null"] }
        })
    }
}

/// A setting of others that means nothing here. Reading it says so.
#[derive(Debug, Clone)]
pub(super) struct NoEffect;

impl Setting for NoEffect {
    fn read(_: &mut Option<Self>, node: &Node, reader: &mut Reader) {
        if !matches!(node.value, Value::Null) {
            old_keys::without_effect(node, reader);
        }
    }
}

impl JsonSchema for NoEffect {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "NoEffect".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "deprecated": true })
    }
}
