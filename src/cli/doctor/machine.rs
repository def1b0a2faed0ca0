//! What can be seen on the machine itself.

use std::{collections::BTreeSet, fs, path::Path};

use super::{Finding, Known};
use crate::{
    config::Severity,
    host::{self, AGENT, Loaded, UnitState},
    k3s::ServiceManager,
};

/// Room for images, logs and the ledger; k3s evicts pods from a disk that has less.
const ROOMY: u64 = 2 << 30;
/// Below this not even our own state is sure to be written.
const FULL: u64 = 64 << 20;
/// IPv6 works on no smaller packets (RFC 8200, section 5).
const LEAST_MTU: u32 = 1280;
/// What overlay/files/usr/lib/sysctl.d/90-c3os.conf sets.
const RECEIVE_BUFFER: u64 = 7_500_000;
/// capabilities(7).
const CAP_NET_ADMIN: u32 = 12;

/// What is wrong in the configuration files.
pub(super) fn configuration(loaded: &Loaded) -> Vec<Finding> {
    let mut findings: Vec<Finding> = loaded
        .unreadable
        .iter()
        .map(|error| Finding::fail("config", error.to_string(), "run this as root, or mend the file's mode"))
        .collect();
    for mistake in &loaded.parsed.mistakes {
        let place = format!("{}:{}:{}", mistake.file, mistake.line, mistake.column);
        let what = format!("{place}: {}: {}", mistake.key, mistake.message);
        let fix = mistake.hint.clone().unwrap_or_else(|| format!("edit {place}; c3os validate checks it"));
        findings.push(match mistake.severity {
            Severity::Error => Finding::fail("config", what, fix),
            Severity::Warning => Finding::warn("config", what, fix),
        });
    }
    if !findings.is_empty() {
        return findings;
    }
    vec![if loaded.parsed.config.network_token.is_some() {
        Finding::ok("config", "correct, with a network token")
    } else {
        Finding::warn(
            "config",
            "no network token: this machine joins no mesh by itself",
            "write the config.yaml of your mesh into /oem; `c3os create-config` makes a new one",
        )
    }]
}

/// Every check of the machine.
pub(super) fn look(known: &Known<'_>) -> Vec<Finding> {
    let mut findings = vec![clock(known), tunnel_device(known), net_admin(known)];
    findings.extend(units(known));
    findings.push(k3s(known));
    findings.extend(ports(known));
    findings.extend(interface(known));
    findings.push(disk(known));
    findings.extend(sysctls(known));
    findings
}

fn clock(known: &Known<'_>) -> Finding {
    if host::inspect(known.root).clock_before_build {
        return Finding::fail(
            "clock",
            "it shows a time before this program was built; certificates will not be valid",
            "let the machine reach a time server (timedatectl), or set it: date -s",
        );
    }
    Finding::ok("clock", "shows a possible time")
}

fn tunnel_device(known: &Known<'_>) -> Finding {
    if !known.config.vpn.create {
        return Finding::ok("tun", "not needed: c3os.vpn.create is false");
    }
    if known.root.path("/dev/net/tun").exists() {
        return Finding::ok("tun", "/dev/net/tun is there");
    }
    Finding::fail("tun", "there is no /dev/net/tun", "modprobe tun; in a container: --device /dev/net/tun")
}

fn net_admin(known: &Known<'_>) -> Finding {
    let status = fs::read_to_string(known.root.path("/proc/self/status")).unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or_default();
    if effective >> CAP_NET_ADMIN & 1 == 1 {
        Finding::ok("rights", "CAP_NET_ADMIN is there")
    } else if nix::unistd::geteuid().is_root() {
        Finding::fail(
            "rights",
            "root without CAP_NET_ADMIN cannot make an interface",
            "in a container: --cap-add NET_ADMIN",
        )
    } else {
        Finding::warn("rights", "not root: some checks see less", "sudo c3os doctor")
    }
}

fn units(known: &Known<'_>) -> Option<Finding> {
    if !known.is_configured() {
        return None;
    }
    let services = host::detect(known.root);
    Some(match services.kind() {
        ServiceManager::None => Finding::warn(
            "service",
            "neither systemd nor OpenRC runs here: nobody starts the agent at boot, nor k3s",
            "have your init run `c3os agent`, and k3s from what it writes",
        ),
        ServiceManager::Systemd | ServiceManager::OpenRc => match services.status(AGENT) {
            Err(error) => Finding::fail("service", error.to_string(), "mend the service manager first"),
            Ok(status) => {
                let start = match services.kind() {
                    ServiceManager::OpenRc => format!("rc-update add {AGENT}; rc-service {AGENT} start"),
                    ServiceManager::Systemd | ServiceManager::None => {
                        format!("systemctl enable --now {AGENT}; journalctl -u {AGENT}")
                    }
                };
                let what = format!("{AGENT} is {}", status.state.as_str());
                match (status.state, status.enabled) {
                    (UnitState::Active, true) => {
                        Finding::ok("service", format!("{what}, and starts at boot"))
                    }
                    (UnitState::Active, false) => {
                        Finding::warn("service", format!("{what}, and does not start at boot"), start)
                    }
                    (UnitState::Starting, _) => Finding::warn("service", what, start),
                    (
                        UnitState::Missing | UnitState::Stopped | UnitState::Stopping | UnitState::Failed,
                        _,
                    ) => Finding::fail("service", what, start),
                }
            }
        },
    })
}

fn k3s(known: &Known<'_>) -> Finding {
    match host::inspect(known.root).k3s_binary {
        Some(path) => Finding::ok("k3s", format!("installed as {path}")),
        None if known.wants_k3s() => Finding::fail(
            "k3s",
            "k3s is not installed: this machine cannot hold a role",
            "install k3s as /usr/bin/k3s, or set c3os.role to none",
        ),
        None => Finding::ok("k3s", "not installed, and not needed here"),
    }
}

/// With the agent up its ports are taken, by it; without it they have to be free.
fn ports(known: &Known<'_>) -> Vec<Finding> {
    if !known.is_configured() {
        return Vec::new();
    }
    let (mesh, data) = (known.config.discovery.listen_port, known.config.vpn.port);
    [("TCP", mesh), ("UDP", mesh), ("UDP", data)]
        .into_iter()
        .map(|(protocol, port)| {
            let taken = local_ports(known.root.path("/proc/net").as_path(), protocol).contains(&port);
            match (known.snapshot.is_some(), taken) {
                (true, true) => Finding::ok("ports", format!("{protocol} {port} is open")),
                (false, false) => Finding::ok("ports", format!("{protocol} {port} is free for the agent")),
                (true, false) => Finding::warn(
                    "ports",
                    format!("the agent is not on {protocol} {port}; it took another port, which others may not find"),
                    format!("see who had {port} (ss -lntup), then restart c3os-agent"),
                ),
                (false, true) => Finding::warn(
                    "ports",
                    format!("something else has {protocol} {port}; the agent will take another port"),
                    format!("ss -lntup | grep {port}; or set c3os.discovery.listen_port and c3os.vpn.port"),
                ),
            }
        })
        .collect()
}

/// Local ports in `/proc/net/{tcp,udp}{,6}`, of TCP those that listen (state 0A): column 2 is `address:port`, column 4
/// the state, in hexadecimal digits.
fn local_ports(directory: &Path, protocol: &str) -> BTreeSet<u16> {
    let name = protocol.to_lowercase();
    let mut ports = BTreeSet::new();
    for file in [name.clone(), format!("{name}6")] {
        let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
        ports.extend(text.lines().skip(1).filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (_, port) = columns.get(1)?.rsplit_once(':')?;
            let open = protocol == "UDP" || columns.get(3) == Some(&"0A");
            open.then(|| u16::from_str_radix(port, 16).ok())?
        }));
    }
    ports
}

fn interface(known: &Known<'_>) -> Option<Finding> {
    // Without an agent there is no interface, and that was said.
    let snapshot = known.snapshot?;
    let name = &known.config.vpn.interface;
    if !known.config.vpn.create || snapshot.members.is_empty() {
        return None;
    }
    let path = known.root.path("/sys/class/net").join(name).join("mtu");
    let mtu: Option<u32> = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    Some(match mtu {
        None => Finding::fail(
            "interface",
            format!("there is no interface {name}"),
            "journalctl -u c3os-agent says why; a bridge may have been given another --interface",
        ),
        Some(mtu) if mtu < LEAST_MTU => Finding::warn(
            "interface",
            format!("{name} has an MTU of {mtu}: IPv6 needs {LEAST_MTU}"),
            "leave c3os.vpn.mtu unset, or look at the MTU of the network below",
        ),
        Some(mtu) => Finding::ok("interface", format!("{name} is there, MTU {mtu}")),
    })
}

fn disk(known: &Known<'_>) -> Finding {
    let path = known.root.path("/usr/local");
    let stat = match nix::sys::statvfs::statvfs(&path) {
        Ok(stat) => stat,
        Err(error) => {
            return Finding::fail(
                "disk",
                format!("/usr/local: {error}"),
                "mount the persistent partition there",
            );
        }
    };
    #[allow(clippy::useless_conversion, reason = "the types differ from platform to platform")]
    let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    let text = format!("/usr/local has {} MiB left", free >> 20);
    if stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
        Finding::fail(
            "disk",
            "/usr/local is read-only: the machine forgets who it is",
            "mount the persistent partition there, writable; dmesg says if the disk is damaged",
        )
    } else if free < FULL {
        Finding::fail("disk", text, "make room: du -xh /usr/local | sort -h | tail")
    } else if free < ROOMY {
        Finding::warn("disk", text, "make room, or use a larger disk: k3s evicts pods from full disks")
    } else {
        Finding::ok("disk", text)
    }
}

fn sysctls(known: &Known<'_>) -> Vec<Finding> {
    let value = |path: &str| -> Option<u64> {
        fs::read_to_string(known.root.path("/proc/sys").join(path)).ok()?.trim().parse().ok()
    };
    let mut findings = Vec::new();
    match value("net/core/rmem_max") {
        Some(bytes) if bytes < RECEIVE_BUFFER => findings.push(Finding::warn(
            "sysctl",
            format!("net.core.rmem_max is {bytes}: bursts are lost"),
            format!("sysctl -w net.core.rmem_max={RECEIVE_BUFFER} net.core.wmem_max={RECEIVE_BUFFER}"),
        )),
        Some(_) => findings.push(Finding::ok("sysctl", "net.core.rmem_max is large enough")),
        // Not shown inside a container.
        None => {}
    }
    match value("net/ipv4/ip_forward") {
        Some(0) if known.wants_k3s() => findings.push(Finding::warn(
            "sysctl",
            "net.ipv4.ip_forward is 0: pods do not reach other nodes",
            "sysctl -w net.ipv4.ip_forward=1",
        )),
        Some(0) | None => {}
        Some(_) => findings.push(Finding::ok("sysctl", "net.ipv4.ip_forward is on")),
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::doctor::Verdict, config::Config, host::Root};

    fn machine() -> (tempfile::TempDir, Root, Config) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        let token = Some(crate::config::TokenText::new("x".to_owned()));
        (directory, root, Config { network_token: token, ..Config::default() })
    }

    #[test]
    fn ports_are_read_from_both_families_and_of_tcp_only_those_that_listen() {
        let (_directory, root, config) = machine();
        let net = root.path("/proc/net");
        fs::create_dir_all(&net).unwrap();
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        fs::write(net.join("udp"), format!("{head} 1: 00000000:CABC 00000000:0000 07 0:0\n")).unwrap();
        fs::write(net.join("udp6"), format!("{head} 1: {}:0FA1 {0}:0000 07 0:0\n", "0".repeat(32))).unwrap();
        fs::write(net.join("tcp"), format!("{head} 1: 0100007F:0FA1 0100007F:1234 01 0:0\n")).unwrap();
        assert_eq!(local_ports(&net, "UDP"), BTreeSet::from([51900, 4001]));
        assert_eq!(local_ports(&net, "TCP"), BTreeSet::new());
        let findings = ports(&Known { root: &root, config: &config, snapshot: None });
        let verdicts: Vec<Verdict> = findings.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Warn, Verdict::Warn]);
    }

    #[test]
    fn a_bare_machine_is_told_what_it_lacks_with_the_fix() {
        let (_directory, root, config) = machine();
        let known = Known { root: &root, config: &config, snapshot: None };
        let findings = look(&known);
        let failed: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.verdict == Verdict::Fail)
            .map(|finding| finding.check)
            .collect();
        assert!(["tun", "k3s", "disk"].iter().all(|check| failed.contains(check)), "{findings:?}");
        assert!(findings.iter().all(|finding| (finding.verdict == Verdict::Ok) == finding.fix.is_none()));
    }

    #[test]
    fn a_machine_without_a_role_needs_no_k3s() {
        let (_directory, root, mut config) = machine();
        config.role = crate::config::RoleSetting::None;
        assert_eq!(k3s(&Known { root: &root, config: &config, snapshot: None }).verdict, Verdict::Ok);
    }
}
