//! The hosts' network: one bridge in the lab's own network namespace, and one cable (veth) from it to every host.
//!
//! The bridge is never in the machine's own namespace: there the kernel would show bridged frames to its iptables rules
//! (br_netfilter), and a docker rule could eat them.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

use crate::dir::{HostSpec, LabDir};

const BRIDGE: &str = "lan0";
/// Outside of the mesh's own 10.1.0.0/16.
const LAN: [u8; 3] = [10, 77, 0];

/// A host's address on the LAN.
pub fn address(host: &HostSpec) -> Ipv4Addr {
    Ipv4Addr::new(LAN[0], LAN[1], LAN[2], host.index)
}

fn gateway() -> Ipv4Addr {
    Ipv4Addr::new(LAN[0], LAN[1], LAN[2], 254)
}

/// The bridge's end of a host's cable.
fn port(index: u8) -> String {
    format!("port{index}")
}

/// Lays the bridge, in the lab's network namespace.
pub fn lay() -> Result<()> {
    ip(&format!(
        "link set lo up\n\
         link add {BRIDGE} type bridge mcast_snooping 0 stp_state 0 forward_delay 0\n\
         addr add {}/24 dev {BRIDGE}\n\
         link set {BRIDGE} up\n",
        gateway()
    ))?;
    // Bridged frames are nobody's business but the bridge's; a kernel without br_netfilter lacks the switch.
    let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if fs::exists(switch).unwrap_or(false) {
        fs::write(switch, "0").context(switch)?;
    }
    Ok(())
}

/// Puts a cable between the bridge and the network namespace of the process `pid`.
pub fn plug(host: &HostSpec, pid: Pid) -> Result<()> {
    let port = port(host.index);
    ip(&format!(
        "link add {port} type veth peer name eth0 address 02:c3:05:00:00:{:02x} netns {pid}\n\
         link set {port} master {BRIDGE} up\n",
        host.index
    ))
}

/// Takes a host's cable away. The kernel does that itself when the host's namespace ends, but in its own time.
pub fn unplug(host: &HostSpec) {
    let _ = Command::new("ip").args(["link", "del", &port(host.index)]).stderr(Stdio::null()).status();
}

/// Gives eth0 its address, from inside a host's namespace: what DHCP does elsewhere.
pub fn configure(host: &HostSpec) -> Result<()> {
    ip(&format!(
        "link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\nroute add default via {}\n",
        address(host),
        gateway()
    ))
}

/// Lets nothing pass between two hosts any more. Other hosts go on reaching both.
pub fn cut(lab: &LabDir, a: &HostSpec, b: &HostSpec) -> Result<()> {
    let mut cuts = cuts(lab);
    let pair = (a.index.min(b.index), a.index.max(b.index));
    if !cuts.contains(&pair) {
        cuts.push(pair);
    }
    apply(lab, &cuts)
}

/// Mends every cut.
pub fn heal(lab: &LabDir) -> Result<()> {
    apply(lab, &[])
}

/// The pairs (by index) that are cut now.
pub fn cuts(lab: &LabDir) -> Vec<(u8, u8)> {
    let text = fs::read_to_string(lab.path().join("cuts")).unwrap_or_default();
    let pair = |line: &str| {
        let (a, b) = line.split_once(' ')?;
        Some((a.parse().ok()?, b.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// Replaces the rules of the bridge as a whole.
fn apply(lab: &LabDir, cuts: &[(u8, u8)]) -> Result<()> {
    feed(Command::new("nft").args(["-f", "-"]), &rules(cuts))?;
    let lines: String = cuts.iter().map(|(a, b)| format!("{a} {b}\n")).collect();
    fs::write(lab.path().join("cuts"), lines).context("noting the cuts")
}

fn rules(cuts: &[(u8, u8)]) -> String {
    let mut text = String::from(
        "table bridge lab { chain cuts { type filter hook forward priority 0; }; }\nflush chain bridge lab cuts\n",
    );
    for &(a, b) in cuts {
        for (from, to) in [(a, b), (b, a)] {
            text += &format!("add rule bridge lab cuts iifname {} oifname {} drop\n", port(from), port(to));
        }
    }
    text
}

fn ip(batch: &str) -> Result<()> {
    feed(Command::new("ip").args(["-batch", "-"]), batch)
}

/// Runs a command with `input` on its standard input.
fn feed(command: &mut Command, input: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    child
        .stdin
        .take()
        .context("no pipe")?
        .write_all(input.as_bytes())
        .with_context(|| format!("feeding {name}"))?;
    let output = child.wait_with_output().with_context(|| format!("waiting for {name}"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_drops_frames_both_ways_and_no_others() {
        let text = rules(&[(1, 3)]);
        assert!(text.contains("iifname port1 oifname port3 drop"));
        assert!(text.contains("iifname port3 oifname port1 drop"));
        assert_eq!(text.matches("add rule").count(), 2);
        assert_eq!(rules(&[]).matches("add rule").count(), 0);
    }
}
