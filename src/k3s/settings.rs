//! `/etc/rancher/k3s/config.yaml.d/50-c3os.yaml` and the token files that it names.
//!
//! k3s reads `config.yaml`, then `config.yaml.d/*.yaml` in order; a key that ends in `+` adds to what came before.
//! Arguments of the user's come later, on the command line, where k3s lets them win.

use super::{ClusterFacts, Content, MARK, Machine, PlannedFile, Secret};
use crate::{
    config::{Config, K3s},
    election::{Assignment, Role},
};

/// Our settings for k3s.
pub(super) const PATH: &str = "/etc/rancher/k3s/config.yaml.d/50-c3os.yaml";
/// The cluster's server token, on servers.
pub(super) const SERVER_TOKEN: &str = "/etc/rancher/k3s/c3os-server-token";
/// The cluster's agent token, on servers.
pub(super) const AGENT_TOKEN: &str = "/etc/rancher/k3s/c3os-agent-token";
/// What a node joins with: a token together with the hash of the CA that it must meet.
pub(super) const JOIN_TOKEN: &str = "/etc/rancher/k3s/c3os-join-token";

/// k3s' API port. It is k3s' default; nothing of ours changes it.
const API_PORT: u16 = 6443;

/// The block of the configuration that is about `role`.
pub(super) fn block(config: &Config, role: Role) -> &K3s {
    match role {
        Role::Server => &config.k3s,
        Role::Worker => &config.k3s_agent,
    }
}

/// Whether k3s talks over the overlay.
pub(super) fn on_the_mesh(config: &Config) -> bool {
    config.vpn.create && config.vpn.used_by_k3s
}

/// Whether the user gives server and token himself. The original passed both in the environment, so `replace_env`
/// replaced them.
pub(super) fn user_brings_membership(config: &Config, role: Role) -> bool {
    block(config, role).replace_env
}

/// Whether a server joins another through embedded etcd. With a database of its own kind, servers meet there instead.
pub(super) fn joins(config: &Config, facts: &ClusterFacts) -> bool {
    facts.server_address.is_some() && config.auto.external_db.is_none()
}

/// The settings, as YAML.
pub(super) fn render(
    config: &Config,
    assignment: &Assignment,
    facts: &ClusterFacts,
    machine: &Machine,
) -> String {
    let mut yaml = Yaml::new();
    if !block(config, assignment.role).replace_args {
        network(&mut yaml, config, assignment, machine);
    }
    if !user_brings_membership(config, assignment.role) {
        membership(&mut yaml, config, assignment.role, facts);
    }
    yaml.text
}

/// Where this node is, and how its pods reach others.
fn network(yaml: &mut Yaml, config: &Config, assignment: &Assignment, machine: &Machine) {
    yaml.text("node-name", &assignment.name);
    let mesh = on_the_mesh(config);
    let address = if mesh { Some(assignment.address) } else { machine.lan_address };
    if let Some(address) = address {
        yaml.text("node-ip", &address.to_string());
    }
    if mesh {
        yaml.text("flannel-iface", &config.vpn.interface);
    }
    match assignment.role {
        Role::Worker => {}
        Role::Server => {
            if mesh {
                // Every node is a neighbour on the mesh interface, so pods need no second encapsulation.
                yaml.text("flannel-backend", "host-gw");
            }
            let mut names: Vec<String> = address.iter().map(ToString::to_string).collect();
            names.push(assignment.name.clone());
            names.extend(config.kubevip.eip.clone());
            yaml.list("tls-san+", &names);
            if config.k3s.embedded_registry {
                yaml.flag("embedded-registry");
            }
        }
    }
}

/// Which cluster, and the right to be in it.
fn membership(yaml: &mut Yaml, config: &Config, role: Role, facts: &ClusterFacts) {
    match (role, &config.auto.external_db) {
        (Role::Worker, _) => {
            if let Some(server) = facts.server_address {
                yaml.text("server", &format!("https://{server}:{API_PORT}"));
            }
            yaml.text("token-file", JOIN_TOKEN);
        }
        (Role::Server, Some(endpoint)) => {
            yaml.text("token-file", SERVER_TOKEN);
            yaml.text("agent-token-file", AGENT_TOKEN);
            yaml.text("datastore-endpoint", endpoint.reveal());
        }
        (Role::Server, None) => {
            match facts.server_address {
                Some(server) => {
                    yaml.text("server", &format!("https://{server}:{API_PORT}"));
                    yaml.text("token-file", JOIN_TOKEN);
                }
                None => {
                    if config.auto.additional_servers > 0 {
                        yaml.flag("cluster-init");
                    }
                    yaml.text("token-file", SERVER_TOKEN);
                }
            }
            yaml.text("agent-token-file", AGENT_TOKEN);
        }
    }
}

/// The token files that the settings name, as far as the tokens are known. k3s is not started before they are.
pub(super) fn tokens(config: &Config, role: Role, facts: &ClusterFacts) -> Vec<PlannedFile> {
    if user_brings_membership(config, role) {
        return Vec::new();
    }
    let file = |path, token| PlannedFile { path, mode: 0o600, content: Content::Secret(token) };
    let plain = |token: &Secret| Secret::new(format!("{}\n", token.reveal()));
    let mut files = Vec::new();
    match role {
        Role::Server => {
            if let Some(token) = &facts.server_token {
                match (joins(config, facts), &facts.ca_hash) {
                    (true, Some(ca)) => files.push(file(JOIN_TOKEN, ca.pin("server", token))),
                    (true, None) => {}
                    (false, _) => files.push(file(SERVER_TOKEN, plain(token))),
                }
            }
            if let Some(token) = &facts.agent_token {
                files.push(file(AGENT_TOKEN, plain(token)));
            }
        }
        Role::Worker => {
            if let (Some(token), Some(ca)) = (&facts.agent_token, &facts.ca_hash) {
                files.push(file(JOIN_TOKEN, ca.pin("node", token)));
            }
        }
    }
    files
}

/// The few forms of YAML that k3s' settings need.
struct Yaml {
    text: String,
}

impl Yaml {
    fn new() -> Self {
        Self { text: MARK.to_owned() }
    }

    fn text(&mut self, key: &str, value: &str) {
        self.text += &format!("{key}: {}\n", quoted(value));
    }

    fn flag(&mut self, key: &str) {
        self.text += &format!("{key}: true\n");
    }

    fn list(&mut self, key: &str, values: &[String]) {
        self.text += &format!("{key}:\n");
        for value in values {
            self.text += &format!("  - {}\n", quoted(value));
        }
    }
}

/// A JSON string is a YAML string.
fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}
