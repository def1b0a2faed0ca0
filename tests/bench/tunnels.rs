//! The tools: how each one's two ends come up, and how a packet from A gets to B then.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::ends::{End, Ends};
use super::peers::{BORINGTUN, EDGEVPN, NEBULA, WIREGUARD_GO};
use crate::tools::quiet;

/// MTU of every tunnel.
const MTU: u16 = 1420;
/// The interface of every tunnel.
const INTERFACE: &str = "tun0";

/// The product.
pub const OURS: &str = "c3os";
/// What is measured without being asked.
pub const NAMES: [&str; 6] = ["bare", "wireguard-go", "nebula", "boringtun", "edgevpn", OURS];

/// A tunnel, and what lies on top of it.
#[derive(Clone)]
pub struct Tool {
    /// What it is called instead of its own name.
    pub label: Option<String>,
    kind: Kind,
    programs: PathBuf,
    over: Over,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bare,
    WireguardGo,
    Boringtun,
    Nebula,
    Edgevpn,
    C3os,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Plain,
    Vxlan,
    Pods,
}

/// The addresses of a tunnel's ends: `PREFIX.1` at A, `PREFIX.2` at B.
struct Inner(String);

impl Inner {
    fn address(&self, end: End) -> String {
        format!("{}.{}", self.0, end.number())
    }
}

impl Tool {
    /// The tool `name`; inside, why its program cannot be had.
    pub fn find(name: &str, ours: impl FnOnce() -> Result<PathBuf>) -> Result<Result<Self>> {
        let (kind, programs) = match name {
            "bare" => (Kind::Bare, Ok(PathBuf::new())),
            "wireguard-go" => (Kind::WireguardGo, WIREGUARD_GO.programs()),
            "boringtun" => (Kind::Boringtun, BORINGTUN.programs()),
            "nebula" => (Kind::Nebula, NEBULA.programs()),
            "edgevpn" => (Kind::Edgevpn, EDGEVPN.programs()),
            OURS => (Kind::C3os, ours()),
            _ => bail!("there is no tool {name}; there are {}", NAMES.join(" ")),
        };
        Ok(programs.map(|programs| Self { label: None, kind, programs, over: Over::Plain }))
    }

    /// Only where the interface takes packets as long as the others' do.
    pub fn through_vxlan(&self) -> Option<Self> {
        (self.kind != Kind::Edgevpn).then(|| Self { over: Over::Vxlan, ..self.clone() })
    }

    /// Only where a route of the host is all it takes.
    pub fn between_pods(&self) -> Option<Self> {
        matches!(self.kind, Kind::C3os).then(|| Self { over: Over::Pods, ..self.clone() })
    }

    pub fn name(&self) -> String {
        let name = match self.kind {
            Kind::Bare => "bare",
            Kind::WireguardGo => "wireguard-go",
            Kind::Boringtun => "boringtun",
            Kind::Nebula => "nebula",
            Kind::Edgevpn => "edgevpn",
            Kind::C3os => OURS,
        };
        let name = self.label.as_deref().unwrap_or(name);
        let over = match self.over {
            Over::Plain => "",
            Over::Vxlan => "+vxlan",
            Over::Pods => "+pods",
        };
        format!("{name}{over}")
    }

    /// Brings both ends up and waits until a packet gets through; gives the address of B to measure to.
    pub fn up(&self, ends: &mut Ends) -> Result<String> {
        let inner = Inner(if self.kind == Kind::Bare { "10.99.0" } else { "10.98.0" }.to_owned());
        match self.kind {
            Kind::Bare => {}
            Kind::WireguardGo => self.wireguard(ends, &inner, &["wireguard", "-f"])?,
            Kind::Boringtun => {
                let command = ["boringtun-cli", "--disable-drop-privileges", "-f", "-v", "error"];
                self.wireguard(ends, &inner, &command)?;
            }
            Kind::Nebula => self.nebula(ends, &inner)?,
            Kind::Edgevpn => self.edgevpn(ends, &inner)?,
            Kind::C3os => self.c3os(ends, &inner)?,
        }
        ends.wait_for(&inner.address(End::B))?;
        match self.over {
            Over::Plain => Ok(inner.address(End::B)),
            Over::Vxlan => self.lay_vxlan(ends, &inner),
            Over::Pods => lay_pods(ends, &inner),
        }
    }

    fn program(&self, name: &str) -> String {
        self.programs.join(name).to_string_lossy().into_owned()
    }

    /// Anything that speaks WireGuard's configuration socket.
    fn wireguard(&self, ends: &mut Ends, inner: &Inner, command: &[&str]) -> Result<()> {
        let scratch = ends.scratch();
        let program = self.program(command[0]);
        for end in End::BOTH {
            let private = ends.run(end, &["wg", "genkey"])?;
            let key = scratch.join(format!("{}.key", end.name()));
            fs::write(&key, private).context("a key")?;
            let public = ends.run(end, &["sh", "-c", &format!("wg pubkey <{}", key.display())])?;
            fs::write(scratch.join(format!("{}.pub", end.name())), public).context("a key")?;
        }
        for end in End::BOTH {
            // The configuration sockets of both ends lie in one directory.
            let interface = interface(end);
            ends.daemon(end, &[&[program.as_str()], &command[1..], &[&interface]].concat())?;
            let socket = format!("/run/wireguard/{interface}.sock");
            ends.wait("the configuration socket", |_| Path::new(&socket).exists())?;
            let peer = end.other();
            let public = fs::read_to_string(scratch.join(format!("{}.pub", peer.name()))).context("a key")?;
            let key = scratch.join(format!("{}.key", end.name()));
            let endpoint = format!("{}:51820", peer.underlay());
            ends.run(
                end,
                &[
                    "wg",
                    "set",
                    &interface,
                    "listen-port",
                    "51820",
                    "private-key",
                    &key.to_string_lossy(),
                    "peer",
                    public.trim(),
                    "endpoint",
                    &endpoint,
                    "allowed-ips",
                    &format!("{}/32", inner.address(peer)),
                ],
            )?;
            address(ends, end, &interface, inner)?;
        }
        Ok(())
    }

    fn nebula(&self, ends: &mut Ends, inner: &Inner) -> Result<()> {
        let scratch = ends.scratch();
        let cert = self.program("nebula-cert");
        let certify =
            |words: &[&str]| quiet(Command::new(&cert).args(words).current_dir(scratch), "nebula-cert");
        certify(&["ca", "-name", "bench"])?;
        for end in End::BOTH {
            certify(&["sign", "-name", end.name(), "-networks", &format!("{}/24", inner.address(end))])?;
        }
        for end in End::BOTH {
            let map: Vec<String> = End::BOTH
                .iter()
                .map(|end| format!("\"{}\": [\"{}:4242\"]", inner.address(*end), end.underlay()))
                .collect();
            let text = format!(
                "pki: {{ca: {dir}/ca.crt, cert: {dir}/{name}.crt, key: {dir}/{name}.key}}\n\
                 static_host_map: {{{map}}}\nlighthouse: {{am_lighthouse: false}}\n\
                 listen: {{host: 0.0.0.0, port: 4242}}\ntun: {{dev: {dev}, mtu: {MTU}}}\nlogging: {{level: error}}\n\
                 firewall: {{outbound: [{{port: any, proto: any, host: any}}], \
                 inbound: [{{port: any, proto: any, host: any}}]}}\n",
                dir = scratch.display(),
                name = end.name(),
                map = map.join(", "),
                dev = interface(end),
            );
            let config = scratch.join(format!("{}.yml", end.name()));
            fs::write(&config, text).context("nebula's configuration")?;
            ends.daemon(end, &[&self.program("nebula"), "-config", &config.to_string_lossy()])?;
        }
        Ok(())
    }

    /// The original's mesh.
    fn edgevpn(&self, ends: &mut Ends, inner: &Inner) -> Result<()> {
        let program = self.program("edgevpn");
        let token = ends.run(End::A, &[&program, "-g", "-b"])?;
        for end in End::BOTH {
            let address = format!("{}/24", inner.address(end));
            let token = format!("EDGEVPNTOKEN={}", token.trim());
            let interface = interface(end);
            // Its peers are found on the veth alone: by multicast, not by the public DHT. Its QUIC panics where it is built
            // with a Go that is newer than itself.
            ends.daemon(
                end,
                &[
                    "env",
                    &token,
                    &program,
                    "--address",
                    &address,
                    "--interface",
                    &interface,
                    "--listen-maddrs",
                    "/ip4/0.0.0.0/tcp/4001",
                    "--dht=false",
                    "--natmap=false",
                    "--log-level",
                    "error",
                ],
            )?;
        }
        Ok(())
    }

    /// The real agent with everything on, found by multicast, at addresses that are known beforehand.
    fn c3os(&self, ends: &mut Ends, inner: &Inner) -> Result<()> {
        let program = self.programs.to_string_lossy().into_owned();
        let token = ends.run(End::A, &[&program, "generate-token"])?;
        for end in End::BOTH {
            let dir = ends.scratch().join(end.name());
            fs::create_dir_all(&dir).context("a directory for config.yaml")?;
            let text = format!(
                "c3os:\n  network_token: \"{}\"\n  role: none\n  discovery:\n    dht: false\n  vpn:\n    \
                 subnet: 10.98.0.0/16\n    address: {}\n    interface: {}\n    mtu: {MTU}\n",
                token.trim(),
                inner.address(end),
                interface(end),
            );
            fs::write(dir.join("config.yaml"), text).context("config.yaml")?;
            // A machine of its own as far as the agent can tell: nothing of it reaches the host's files.
            let machine = format!(
                "set -e; hostname {name}; for d in /etc /usr/local /var/lib; do mount -t tmpfs tmpfs $d; done; \
                 mkdir /etc/bench; cp {dir}/config.yaml /etc/bench/; mount -t tmpfs tmpfs /run; \
                 echo {number:032x} >/etc/machine-id; exec {program} agent /etc/bench",
                name = end.name(),
                dir = dir.display(),
                number = end.number(),
            );
            ends.daemon(end, &["unshare", "--uts", "--mount", "sh", "-c", &machine])?;
        }
        Ok(())
    }

    /// A VXLAN device at each end, as flannel lays it.
    fn lay_vxlan(&self, ends: &mut Ends, inner: &Inner) -> Result<String> {
        let top = Inner("10.97.0".to_owned());
        for end in End::BOTH {
            let (below, mtu) =
                if self.kind == Kind::Bare { (ends.veth(end), 1500) } else { (interface(end), MTU) };
            let (local, remote) = (inner.address(end), inner.address(end.other()));
            ends.ip(end, &format!(
                "link add vx0 type vxlan id 1 dstport 8472 local {local} remote {remote} dev {below} nolearning"
            ))?;
            ends.ip(end, &format!("addr add {}/24 dev vx0", top.address(end)))?;
            ends.ip(end, &format!("link set vx0 mtu {} up", mtu - 50))?;
        }
        let to = top.address(End::B);
        ends.wait_for(&to)?;
        Ok(to)
    }
}

/// A pod at each end, and the route that flannel's host-gw makes for the other's pods.
fn lay_pods(ends: &mut Ends, inner: &Inner) -> Result<String> {
    let pod = |end: End| Ipv4Addr::new(10, 42, end.number(), 1);
    for end in End::BOTH {
        let there = end.other();
        let (network, via) = (format!("10.42.{}.0/24", there.number()), inner.address(there));
        ends.ip(end, &format!("route add {network} via {via} dev {}", interface(end)))?;
    }
    ends.lay_pods(pod, MTU)?;
    let to = pod(End::B).to_string();
    ends.wait_for(&to)?;
    Ok(to)
}

fn interface(end: End) -> String {
    format!("{INTERFACE}{}", end.name())
}

fn address(ends: &Ends, end: End, interface: &str, inner: &Inner) -> Result<()> {
    ends.ip(end, &format!("addr add {}/24 dev {interface}", inner.address(end)))?;
    ends.ip(end, &format!("link set {interface} mtu {MTU} up"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_lists_the_tools() {
        let Err(error) = Tool::find("wireguard", || bail!("none")) else { panic!("there is none") };
        assert!(error.to_string().contains("wireguard-go"));
        let missing = Tool::find("c3os", || bail!("does not build")).unwrap();
        assert_eq!(missing.err().map(|error| error.to_string()), Some("does not build".to_owned()));
    }
}
