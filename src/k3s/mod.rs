//! From a role to the files and units that make k3s play it. Pure: [`plan`] says what has to be on the machine, the
//! room `host` compares that with what is there and mends the difference.
//!
//! ```text
//! Config ─────┐
//! Assignment ─┤                 ┌─ files   /etc/rancher/k3s/config.yaml.d/50-c3os.yaml, tokens, drop-ins, env
//! ClusterFacts┼── plan() ── Plan┼─ remove  what another role left behind
//! Machine ────┘                 └─ units   k3s: enabled, started      k3s-agent: off
//! ```
//!
//! k3s' own word for a worker is *agent*; it appears in this room only. Every key written here exists in k3s 1.33 and
//! 1.34 (docs.k3s.io, `cli/server` and `cli/agent`). Plans are compared with reviewed files in `tests/fixture/k3s`.

mod facts;
pub mod kubeconfig;
mod kubevip;
mod ports;
mod secret;
mod settings;
#[cfg(test)]
mod tests;
mod unit;

use std::net::Ipv4Addr;

pub use facts::{ClusterFacts, Machine, ServiceManager};
pub use secret::{CaHash, CaHashError, Secret};
use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    election::{Assignment, ClusterId, Role},
};

/// First line of every text file that c3os writes for k3s; a file without it is not ours and is never removed.
pub const MARK: &str =
    "# Written by c3os for this machine's role; changes are lost. Use the blocks of config.yaml.\n";

/// Everything k3s needs on one machine for one role. Same inputs, same plan, to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What this plan makes of the machine; remembered once it is applied. None: k3s on its own, outside any cluster
    /// of ours.
    pub applied: Option<Applied>,
    /// Files that must be there exactly so, in the order in which they are to be written.
    pub files: Vec<PlannedFile>,
    /// Absolute paths of files of ours that must not be there.
    pub remove: Vec<&'static str>,
    /// States that units must have, in the order in which they are to be reached. A unit that waits for something is
    /// not among them: it stays as it is.
    pub units: Vec<UnitChange>,
    /// Who may reach k3s' ports.
    pub ports: Ports,
    /// Why a unit is not started yet, for people; empty: nothing is waited for.
    pub waits_for: Vec<Wait>,
}

/// What a machine is, once a plan was carried out. Answers one question on later starts: still the same cluster?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Server or worker.
    pub role: Role,
    /// The cluster, as its certificate names it.
    pub cluster_id: ClusterId,
    /// Epoch of the lead that assigned it.
    pub epoch: u64,
    /// Kubernetes node name, fixed from now on.
    pub name: String,
    /// Overlay address, frozen from now on.
    pub address: Ipv4Addr,
    /// The server that k3s was told to join; none on the first server, and where an earlier version applied it.
    #[serde(default)]
    pub server: Option<Ipv4Addr>,
}

/// One file, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Absolute path on the machine.
    pub path: &'static str,
    /// Permission bits. The owner is always root.
    pub mode: u32,
    /// The whole content.
    pub content: Content,
}

/// What is in a planned file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Anybody may see it in a log.
    Public(String),
    /// Prints as `***`.
    Secret(Secret),
}

impl Content {
    /// The bytes to write.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Public(text) => text.as_bytes(),
            Self::Secret(secret) => secret.reveal().as_bytes(),
        }
    }
}

/// The state that a unit must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitChange {
    /// Name without a suffix: `k3s` or `k3s-agent`, the same for systemd and OpenRC.
    pub name: &'static str,
    /// Starts at boot.
    pub enabled: bool,
    /// Runs now. It is started without waiting for it; how that went is observed later.
    pub started: bool,
    /// A running unit is restarted if one of these files changed.
    pub restart_on: Vec<&'static str>,
}

/// Who may reach the ports that k3s opens on every address of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The mesh, the pods and the machine itself; the rules are in the planned file of this path (nftables).
    MeshOnly(&'static str),
    /// Everybody: `k3s.expose`, or k3s stays on the LAN.
    Open,
}

/// What has to come before a unit can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// The sealed server token has not arrived.
    #[error("waiting for the cluster's server token")]
    ServerToken,
    /// The sealed agent token has not arrived.
    #[error("waiting for the cluster's agent token")]
    AgentToken,
    /// No server said that it is up.
    #[error("waiting for a server to be up")]
    ServerUp,
    /// The clock of a first server is before the build of this program: its certificates would be born expired.
    #[error("waiting for the clock to be set: it is before the day this program was built")]
    Clock,
}

impl Plan {
    /// The plan that asks for nothing.
    pub fn nothing() -> Self {
        Self {
            applied: None,
            files: Vec::new(),
            remove: Vec::new(),
            units: Vec::new(),
            ports: Ports::Open,
            waits_for: Vec::new(),
        }
    }
}

/// What the machine must look like for `assignment`.
///
/// Files of a worker are planned at once; its unit only once the server is up and its CA is known, so that it never
/// speaks to an unverified one.
pub fn plan(config: &Config, assignment: &Assignment, facts: &ClusterFacts, machine: &Machine) -> Plan {
    let waits_for = waits(config, assignment.role, facts, machine);
    let ready = waits_for.is_empty();
    let own = unit::Names::of(assignment.role);
    let text = settings::render(config, assignment, facts, machine);
    // A token that is not known right now may be there from before, and k3s running with it.
    let named = |path: &&'static str| text.contains(*path);
    let kept: Vec<&'static str> = every_path().into_iter().filter(named).collect();
    let mut files =
        vec![PlannedFile { path: settings::PATH, mode: 0o600, content: Content::Secret(Secret::new(text)) }];
    files.extend(settings::tokens(config, assignment.role, facts));
    let ports = ports::rules(config, assignment.role);
    let ports = match ports {
        Some(file) => {
            let path = file.path;
            files.push(file);
            Ports::MeshOnly(path)
        }
        None => Ports::Open,
    };
    files.extend(kubevip::manifest(config, assignment.role));
    files.extend(unit::files(config, assignment.role, machine, ports));

    let needed = |path: &&'static str| kept.contains(path) || files.iter().any(|file| file.path == *path);
    let remove = every_path().into_iter().filter(|path| !needed(path)).collect();
    let restart_on = files.iter().map(|file| file.path).filter(|path| unit::reads(path)).collect();
    let other = unit::Names::of(match assignment.role {
        Role::Server => Role::Worker,
        Role::Worker => Role::Server,
    });
    let mut units =
        vec![UnitChange { name: other.unit, enabled: false, started: false, restart_on: Vec::new() }];
    // While something is waited for, the unit stays as it is: a server that restarts must not stop its workers.
    if ready {
        units.push(UnitChange { name: own.unit, enabled: true, started: true, restart_on });
    }
    Plan {
        applied: Some(Applied {
            role: assignment.role,
            cluster_id: assignment.cluster_id,
            epoch: assignment.epoch,
            name: assignment.name.clone(),
            address: assignment.address,
            server: facts.server_address,
        }),
        files,
        remove,
        units,
        ports,
        waits_for,
    }
}

/// No k3s at all: units off, none of our files.
pub fn plan_nothing() -> Plan {
    let off = |role| UnitChange {
        name: unit::Names::of(role).unit,
        enabled: false,
        started: false,
        restart_on: Vec::new(),
    };
    Plan {
        applied: None,
        files: Vec::new(),
        remove: every_path(),
        units: vec![off(Role::Server), off(Role::Worker)],
        ports: Ports::Open,
        waits_for: Vec::new(),
    }
}

/// Plain k3s, without a mesh and without agreement: what `k3s.enabled` or `k3s-agent.enabled` ask for. None if neither
/// does.
pub fn plan_alone(config: &Config, machine: &Machine) -> Option<Plan> {
    let role = match (config.k3s.enabled, config.k3s_agent.enabled) {
        (true, _) => Role::Server,
        (false, true) => Role::Worker,
        (false, false) => return None,
    };
    let files = unit::files_alone(config, role, machine);
    let restart_on = files.iter().map(|file| file.path).collect();
    let unit = unit::Names::of(role).unit;
    Some(Plan {
        applied: None,
        files,
        remove: Vec::new(),
        units: vec![UnitChange { name: unit, enabled: true, started: true, restart_on }],
        ports: Ports::Open,
        waits_for: Vec::new(),
    })
}

/// Every path that some plan may have written, so that a change of role leaves nothing behind.
fn every_path() -> Vec<&'static str> {
    let mut paths = vec![
        settings::PATH,
        settings::SERVER_TOKEN,
        settings::AGENT_TOKEN,
        settings::JOIN_TOKEN,
        ports::PATH,
    ];
    paths.push(kubevip::PATH);
    for role in [Role::Server, Role::Worker] {
        let names = unit::Names::of(role);
        paths.extend([names.drop_in, names.systemd_env, names.openrc_env]);
    }
    paths
}

fn waits(config: &Config, role: Role, facts: &ClusterFacts, machine: &Machine) -> Vec<Wait> {
    let mut waits = Vec::new();
    // With `replace_env` the user brings K3S_URL and K3S_TOKEN himself, as with the original.
    let own_membership = !settings::user_brings_membership(config, role);
    match role {
        Role::Server => {
            if own_membership && facts.server_token.is_none() {
                waits.push(Wait::ServerToken);
            }
            if own_membership && facts.agent_token.is_none() {
                waits.push(Wait::AgentToken);
            }
            if own_membership
                && settings::joins(config, facts)
                && !(facts.server_up && facts.ca_hash.is_some())
            {
                waits.push(Wait::ServerUp);
            }
            if machine.clock_before_build && !machine.k3s_has_state {
                waits.push(Wait::Clock);
            }
        }
        Role::Worker => {
            if own_membership && facts.agent_token.is_none() {
                waits.push(Wait::AgentToken);
            }
            let known = facts.server_up && facts.ca_hash.is_some() && facts.server_address.is_some();
            if own_membership && !known {
                waits.push(Wait::ServerUp);
            }
        }
    }
    waits
}
