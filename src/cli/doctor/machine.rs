//! What can be seen on the machine itself.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{Finding, Known};
use crate::{
    config::Severity,
    host::{self, AGENT, Loaded, Root, UnitState},
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
    findings.extend(places(known).iter().map(|place| disk(known.root, place)));
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

/// A directory that has to be on a disk, and writable.
struct Place {
    name: &'static str,
    /// The directory, or the nearest above it that is there.
    path: PathBuf,
    loss: &'static str,
    fix: &'static str,
    /// Whether what is written there has to outlive this boot.
    kept: bool,
}

fn places(known: &Known<'_>) -> Vec<Place> {
    // A medium or the recovery image keeps nothing, on purpose.
    let kept = host::mode(known.root) == host::Mode::Installed;
    let mut places = vec![Place {
        name: "/usr/local",
        path: PathBuf::from("/usr/local"),
        loss: "the machine forgets who it is",
        fix: "mount the persistent partition there, writable; dmesg says if the disk is damaged",
        kept,
    }];
    if kept && known.may_serve() {
        places.push(Place {
            name: host::K3S_CLUSTER,
            path: nearest(known.root, host::K3S_CLUSTER),
            loss: "a k3s server loses its cluster",
            fix: "make /var/lib/rancher and /var/lib/kubelet persistent: PERSISTENT_STATE_PATHS in \
                  /run/cos/cos-layout.env, or a file system of a disk mounted there",
            kept,
        });
    }
    places
}

fn disk(root: &Root, place: &Place) -> Finding {
    let Place { name, path, loss, fix, kept } = place;
    let stat = match nix::sys::statvfs::statvfs(&root.path(path)) {
        Ok(stat) => stat,
        Err(error) => return Finding::fail("disk", format!("{name}: {error}"), *fix),
    };
    #[allow(clippy::useless_conversion, reason = "the types differ from platform to platform")]
    let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    let text = format!("{name} has {} MiB left", free >> 20);
    let mounts = fs::read_to_string(root.path("/proc/self/mountinfo")).unwrap_or_default();
    if *kept && is_volatile(&mounts, path) {
        Finding::fail("disk", format!("{name} is in memory: at every boot {loss}"), *fix)
    } else if stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
        Finding::fail("disk", format!("{name} is read-only: {loss}"), *fix)
    } else if free < FULL {
        Finding::fail("disk", text, format!("make room: du -xh {name} | sort -h | tail"))
    } else if free < ROOMY {
        Finding::warn("disk", text, "make room, or use a larger disk: k3s evicts pods from full disks")
    } else {
        Finding::ok("disk", text)
    }
}

/// A directory as it is behind links, or the nearest above it that is there.
fn nearest(root: &Root, path: &str) -> PathBuf {
    let there = Path::new(path).ancestors().find_map(|above| fs::canonicalize(root.path(above)).ok());
    let top = fs::canonicalize(root.path("/")).unwrap_or_default();
    let inside = there.as_deref().and_then(|there| there.strip_prefix(top).ok());
    Path::new("/").join(inside.unwrap_or(Path::new(path)))
}

/// Whether what is written at `path` is gone after this boot: in memory, or in an overlay that writes to memory.
fn is_volatile(mounts: &str, path: &Path) -> bool {
    let in_memory = |kind: &str| ["tmpfs", "ramfs"].contains(&kind);
    let Some((kind, options)) = mounted(mounts, path) else { return false };
    let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir="));
    match (kind, upper) {
        ("overlay", Some(upper)) => {
            mounted(mounts, Path::new(upper)).is_some_and(|(kind, _)| in_memory(kind))
        }
        _ => in_memory(kind),
    }
}

/// Kind and options of the file system that `path` is on, by `/proc/self/mountinfo` (proc(5)): of the deepest mount above
/// it, the last one.
fn mounted<'a>(mounts: &'a str, path: &Path) -> Option<(&'a str, &'a str)> {
    let above = mounts.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let at = Path::new(mount.split(' ').nth(4)?);
        path.starts_with(at).then_some((at.components().count(), system))
    });
    let (_, system) = above.max_by_key(|(depth, _)| *depth)?;
    let mut fields = system.split(' ');
    Some((fields.next()?, fields.nth(1)?))
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
    use crate::{
        cli::doctor::Verdict,
        config::{Config, RoleSetting},
    };

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
        config.role = RoleSetting::None;
        assert_eq!(k3s(&Known { root: &root, config: &config, snapshot: None }).verdict, Verdict::Ok);
    }

    /// As the image mounts it: /var in memory, /usr/local and what is bound from it on a disk.
    const MOUNTS: &str = "20 1 7:0 / / ro - squashfs /dev/loop0 ro\n\
        21 20 0:20 / /run rw shared:1 - tmpfs run rw,mode=755\n\
        22 21 0:21 / /run/memory rw - tmpfs memory rw\n\
        23 20 0:22 / /var rw - overlay overlay rw,lowerdir=/sysroot/var,upperdir=/run/memory/var/upper,workdir=/w\n\
        24 20 254:6 / /usr/local rw - ext4 /dev/vda6 rw\n";
    const BOUND: &str = "25 23 254:6 /.state/var-lib-rancher.bind /var/lib/rancher rw - ext4 /dev/vda6 rw\n";

    #[test]
    fn what_is_written_into_memory_is_seen_behind_overlays() {
        let bound = format!("{MOUNTS}{BOUND}");
        for (path, mounts, volatile) in [
            ("/usr/local", MOUNTS, false),
            ("/var/lib/rancher", MOUNTS, true),
            ("/var/lib/rancher", &bound, false),
            ("/var/lib/rancher-data", &bound, true),
            ("/run/c3os", MOUNTS, true),
            ("/usr", MOUNTS, false),
            // A container: its upper directory is outside of what it sees.
            ("/var/lib", "9 1 0:9 / / rw - overlay overlay rw,lowerdir=/a,upperdir=/b/c,workdir=/d\n", false),
            ("/var/lib", "9 1 0:9 / / rw - ramfs none rw\n", true),
            ("/var/lib", "broken - \n", false),
            ("/var/lib", "", false),
        ] {
            assert_eq!(is_volatile(mounts, Path::new(path)), volatile, "{path} in {mounts}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_yet_will_be_where_the_one_above_is() {
        let (_directory, root, _) = machine();
        assert_eq!(nearest(&root, host::K3S_CLUSTER), Path::new("/"));
        fs::create_dir_all(root.path("/var/lib")).unwrap();
        assert_eq!(nearest(&root, host::K3S_CLUSTER), Path::new("/var/lib"));
        fs::create_dir_all(root.path("/usr/local/k3s")).unwrap();
        std::os::unix::fs::symlink("../../usr/local/k3s", root.path(host::K3S_CLUSTER)).unwrap();
        assert_eq!(nearest(&root, host::K3S_CLUSTER), Path::new("/usr/local/k3s"));
    }

    #[test]
    fn a_server_whose_state_is_in_memory_is_told_to_keep_it() {
        let (_directory, root, mut config) = machine();
        fs::create_dir_all(root.path("/usr/local")).unwrap();
        fs::create_dir_all(root.path(host::K3S_CLUSTER)).unwrap();
        fs::create_dir_all(root.path("/proc/self")).unwrap();
        fs::create_dir_all(root.path("/run/elemental")).unwrap();
        let mut told = |role, mounts: &str, sentinel: &str| {
            config.role = role;
            fs::write(root.path("/proc/self/mountinfo"), mounts).unwrap();
            fs::write(root.path("/run/elemental").join(sentinel), "1").unwrap();
            let known = Known { root: &root, config: &config, snapshot: None };
            let findings: Vec<Finding> = places(&known).iter().map(|place| disk(&root, place)).collect();
            fs::remove_file(root.path("/run/elemental").join(sentinel)).unwrap();
            let lost = |finding: &&Finding| finding.what.contains("/var/lib/rancher is in memory");
            findings.iter().find(lost).map(|finding| (finding.verdict, finding.fix.clone().unwrap()))
        };
        for role in [RoleSetting::Auto, RoleSetting::Master] {
            let (verdict, fix) = told(role, MOUNTS, "active_mode").unwrap();
            assert_eq!(verdict, Verdict::Fail);
            assert!(fix.contains("PERSISTENT_STATE_PATHS") && fix.contains("/var/lib/kubelet"), "{fix}");
            assert_eq!(told(role, &format!("{MOUNTS}{BOUND}"), "active_mode"), None);
            assert_eq!(told(role, MOUNTS, "live_mode"), None);
            assert_eq!(told(role, MOUNTS, "recovery_mode"), None);
        }
        assert_eq!(told(RoleSetting::Worker, MOUNTS, "active_mode"), None);
        assert_eq!(told(RoleSetting::None, MOUNTS, "active_mode"), None);
    }
}
