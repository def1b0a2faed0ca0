//! How the service manager starts k3s: the command line, the environment, and what comes before it.

use super::{Content, MARK, Machine, PlannedFile, Ports, Secret, ServiceManager, settings};
use crate::{
    config::{Config, K3s},
    election::Role,
};

/// Where k3s is in the images that this is made for, if it cannot be found.
const USUAL_BINARY: &str = "/usr/bin/k3s";

/// Names and places of one role's unit, as k3s' own installer (get.k3s.io) makes them.
pub(super) struct Names {
    /// The unit.
    pub(super) unit: &'static str,
    /// k3s' verb.
    verb: &'static str,
    /// systemd's drop-in.
    pub(super) drop_in: &'static str,
    /// `EnvironmentFile=` of k3s' unit.
    pub(super) systemd_env: &'static str,
    /// What k3s' OpenRC script sources, after it has set `command_args`.
    pub(super) openrc_env: &'static str,
    /// Where k3s' OpenRC script logs.
    log: &'static str,
}

impl Names {
    pub(super) fn of(role: Role) -> Self {
        match role {
            Role::Server => Self {
                unit: "k3s",
                verb: "server",
                drop_in: "/etc/systemd/system/k3s.service.d/50-c3os.conf",
                systemd_env: "/etc/sysconfig/k3s",
                openrc_env: "/etc/rancher/k3s/k3s.env",
                log: "/var/log/k3s.log",
            },
            Role::Worker => Self {
                unit: "k3s-agent",
                verb: "agent",
                drop_in: "/etc/systemd/system/k3s-agent.service.d/50-c3os.conf",
                systemd_env: "/etc/sysconfig/k3s-agent",
                openrc_env: "/etc/rancher/k3s/k3s-agent.env",
                log: "/var/log/k3s-agent.log",
            },
        }
    }
}

/// Whether a running k3s has to be restarted for a change of this file. It picks up manifests by itself, and the
/// rules for its ports are loaded without it.
pub(super) fn reads(path: &str) -> bool {
    path != super::kubevip::PATH && path != super::ports::PATH
}

/// The unit's files for a role on the mesh.
pub(super) fn files(config: &Config, role: Role, machine: &Machine, ports: Ports) -> Vec<PlannedFile> {
    let mut before = String::new();
    if settings::on_the_mesh(config) {
        // Never Requires= or BindsTo=: a k3s that runs is not to be stopped because the agent is.
        before += "[Unit]\nWants=c3os-wait-online.service\nAfter=c3os-wait-online.service\n\n";
    }
    before += "[Service]\n";
    match ports {
        Ports::MeshOnly(path) => before += &format!("ExecStartPre=-nft -f {path}\n"),
        Ports::Open => {}
    }
    render(settings::block(config, role), role, machine, &before)
}

/// The unit's files for k3s on its own.
pub(super) fn files_alone(config: &Config, role: Role, machine: &Machine) -> Vec<PlannedFile> {
    render(settings::block(config, role), role, machine, "[Service]\n")
}

fn render(block: &K3s, role: Role, machine: &Machine, before: &str) -> Vec<PlannedFile> {
    let names = Names::of(role);
    let binary = machine.k3s_binary.as_deref().unwrap_or(USUAL_BINARY);
    let mut command = names.verb.to_owned();
    for argument in block.args.iter().map(|argument| one_line(argument)) {
        command.push(' ');
        command += &argument;
    }
    match machine.services {
        ServiceManager::Systemd => {
            let drop_in = format!("{MARK}{before}ExecStart=\nExecStart={binary} {command}\n");
            let mut files = vec![secret(names.drop_in, drop_in)];
            let mut env = String::new();
            for (key, value) in variables(block) {
                env += &format!("{key}={}\n", for_systemd(value));
            }
            if !env.is_empty() {
                files.push(secret(names.systemd_env, format!("{MARK}{env}")));
            }
            files
        }
        ServiceManager::OpenRc => {
            let mut env = MARK.to_owned();
            env += &format!("command={}\n", for_shell(binary));
            env += &format!("command_args=\"{} >>{} 2>&1\"\n", in_double_quotes(&command), names.log);
            for (key, value) in variables(block) {
                env += &format!("{key}={}\n", for_shell(value));
            }
            vec![secret(names.openrc_env, env)]
        }
        ServiceManager::None => Vec::new(),
    }
}

/// The user's variables. What is no name of a variable would break the file for the others.
fn variables(block: &K3s) -> impl Iterator<Item = (&str, &str)> {
    let is_name = |key: &str| {
        !key.starts_with(|c: char| c.is_ascii_digit())
            && !key.is_empty()
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    block.env.iter().map(|(key, value)| (key.as_str(), value.as_str())).filter(move |(key, _)| is_name(key))
}

/// Arguments and environment may hold anything, so nobody but root reads them.
fn secret(path: &'static str, text: String) -> PlannedFile {
    PlannedFile { path, mode: 0o600, content: Content::Secret(Secret::new(text)) }
}

/// A line break in a unit would begin another setting.
fn one_line(text: &str) -> String {
    text.split(['\n', '\r', '\0'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A value in systemd's environment file (systemd.exec, `EnvironmentFile=`): inside double quotes a backslash keeps
/// `"`, `\`, `` ` `` and `$` as they are.
fn for_systemd(value: &str) -> String {
    format!("\"{}\"", in_double_quotes(value))
}

/// A value in a file that a POSIX shell sources.
fn for_shell(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn in_double_quotes(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '`' | '$') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}
