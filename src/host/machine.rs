//! What kind of boot this is, and what is installed.

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnet::Ipv4Net;

use super::{Root, services};
use crate::{address::LocalNet, k3s::Machine};

/// Nobody builds this program before 2026-11-01 UTC; builds that say when they were made are asked instead.
const NOT_BUILT_BEFORE: u64 = 1_793_491_200;

/// How this machine was booted, by the sentinels of elemental and cOS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The installed system, or its fallback image, or a system that is not of that family: everything runs.
    Installed,
    /// From a medium: with a token the machine is an observer, and leaves nothing on its disk.
    Live,
    /// The recovery image: nothing runs.
    Recovery,
    /// About to reset itself: nothing runs.
    AutoReset,
}

/// Reads the sentinels, exactly these names.
pub fn mode(root: &Root) -> Mode {
    let set = |name: &str| ["/run/elemental", "/run/cos"].iter().any(|at| root.path(at).join(name).exists());
    if set("recovery_mode") {
        Mode::Recovery
    } else if set("autoreset_mode") {
        Mode::AutoReset
    } else if set("live_mode") {
        Mode::Live
    } else {
        Mode::Installed
    }
}

/// Another program that gives this machine roles, if one is at work: then we are only its mesh.
pub fn other_provider(root: &Root) -> Option<&'static str> {
    let there = |path: &str| root.path(path).exists();
    let wanted = |start: &str| {
        let directory = root.path("/etc/systemd/system/multi-user.target.wants");
        fs::read_dir(directory).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(start))
        })
    };
    if there("/run/edgevpn-kairos.sock") || there("/usr/local/.kairos/deployed") {
        Some("the Kairos provider")
    } else if wanted("edgevpn@") {
        Some("edgevpn")
    } else {
        None
    }
}

/// What a plan has to know of this machine.
pub fn inspect(root: &Root) -> Machine {
    Machine {
        services: services::kind(root),
        k3s_binary: k3s_binary(root),
        lan_address: lan_address(root),
        clock_before_build: SystemTime::now() < UNIX_EPOCH + Duration::from_secs(build_time()),
        k3s_has_state: root.path("/var/lib/rancher/k3s/server/tls/server-ca.crt").exists(),
    }
}

/// The IPv4 networks that this machine's interfaces are in, by the interface's name.
pub fn local_networks() -> Vec<LocalNet> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?.as_sockaddr_in()?.ip();
            let mask = interface.netmask?.as_sockaddr_in()?.ip();
            let net = Ipv4Net::with_netmask(address, mask).ok()?;
            Some(LocalNet { owner: interface.interface_name, net: net.trunc() })
        })
        .collect()
}

/// Absolute path of k3s on the machine.
pub(super) fn k3s_binary(root: &Root) -> Option<String> {
    ["/usr/bin/k3s", "/usr/local/bin/k3s", "/opt/bin/k3s", "/usr/sbin/k3s"]
        .into_iter()
        .find(|path| root.path(path).is_file())
        .map(str::to_owned)
}

fn build_time() -> u64 {
    option_env!("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok()).unwrap_or(0).max(NOT_BUILT_BEFORE)
}

/// The first address of the interface that the default route uses.
fn lan_address(root: &Root) -> Option<Ipv4Addr> {
    let routes = fs::read_to_string(root.path("/proc/net/route")).ok()?;
    let interface = default_interface(&routes)?;
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter(|address| address.interface_name == interface)
        .find_map(|address| Some(address.address?.as_sockaddr_in()?.ip()))
}

/// The interface of the best default route in `/proc/net/route`: columns interface, destination, gateway, flags,
/// reference count, use, metric, mask, in hexadecimal digits but for the counts.
fn default_interface(routes: &str) -> Option<String> {
    routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let default = columns.get(1) == Some(&"00000000") && columns.get(7) == Some(&"00000000");
            default.then(|| Some((columns.get(6)?.parse::<u32>().ok()?, (*columns.first()?).to_owned())))?
        })
        .min()
        .map(|(_, interface)| interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_read_from_exact_sentinels_of_both_families() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        let boot = |sentinel: Option<&str>| {
            let _ = fs::remove_dir_all(root.path("/run"));
            if let Some(sentinel) = sentinel {
                let path = root.path(sentinel);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "1").unwrap();
            }
            mode(&root)
        };
        assert_eq!(boot(None), Mode::Installed);
        assert_eq!(boot(Some("/run/elemental/active_mode")), Mode::Installed);
        assert_eq!(boot(Some("/run/cos/passive_mode")), Mode::Installed);
        assert_eq!(boot(Some("/run/elemental/live_mode_notes")), Mode::Installed);
        assert_eq!(boot(Some("/run/cos/live_mode")), Mode::Live);
        assert_eq!(boot(Some("/run/elemental/recovery_mode")), Mode::Recovery);
        assert_eq!(boot(Some("/run/cos/autoreset_mode")), Mode::AutoReset);
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_names_the_interface() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
                      wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\n\
                      eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\n\
                      eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\n";
        assert_eq!(default_interface(routes).as_deref(), Some("eth0"));
        assert_eq!(default_interface("Iface\nbroken"), None);
    }
}
