//! The two ends: a network namespace each, a veth between them, and every process that was started in them.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};

use crate::sys::die_with_parent;
use crate::tools::quiet;

/// Where everything of one run lies; a file system of its own, in memory.
const SCRATCH: &str = "/run/bench";
/// No single command takes longer, seconds.
const LIMIT: &str = "120";
/// A tunnel that does not carry a packet by then does not come up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    A,
    B,
}

impl End {
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The name of its network namespace.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The name of its pod's network namespace.
    fn pod(self) -> &'static str {
        match self {
            Self::A => "pod-a",
            Self::B => "pod-b",
        }
    }

    /// 1 or 2: the last byte of its addresses.
    pub fn number(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }

    /// Its address on the veth.
    pub fn underlay(self) -> String {
        format!("10.99.0.{}", self.number())
    }
}

/// Both ends, with what runs there. Dropped, all of it is gone.
pub struct Ends {
    daemons: Vec<(End, Child)>,
    /// Commands run in a pod of the end, instead of on its host.
    in_pods: bool,
}

/// To be called by pid 1 of new namespaces: mounts that nobody else sees.
pub fn enter_ground() -> Result<()> {
    die_with_parent()?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("making mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("mounting /proc")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("mounting /run")?;
    Ok(())
}

impl Ends {
    pub fn lay() -> Result<Self> {
        let ends = Self { daemons: Vec::new(), in_pods: false };
        fs::create_dir_all(SCRATCH).context(SCRATCH)?;
        for end in End::BOTH {
            ip(&["netns", "add", end.name()])?;
            ip(&["-n", end.name(), "link", "set", "lo", "up"])?;
        }
        ip(&[
            "link", "add", "va", "netns", "a", "mtu", "1500", "type", "veth", "peer", "name", "vb", "netns",
            "b",
        ])?;
        for end in End::BOTH {
            ends.ip(end, &format!("addr add {}/24 dev {}", end.underlay(), ends.veth(end)))?;
            ends.ip(end, &format!("link set {} mtu 1500 up", ends.veth(end)))?;
        }
        Ok(ends)
    }

    /// A directory for the files of this run.
    pub fn scratch(&self) -> &'static Path {
        Path::new(SCRATCH)
    }

    /// The veth of `end`.
    pub fn veth(&self, end: End) -> String {
        format!("v{}", end.name())
    }

    /// `ip ...` at one end.
    pub fn ip(&self, end: End, arguments: &str) -> Result<()> {
        let words: Vec<&str> = ["-n", end.name()].into_iter().chain(arguments.split(' ')).collect();
        ip(&words)
    }

    /// Makes a pod at each end with an address, as flannel's plugins do: a namespace whose veth is in the host's bridge.
    /// Commands run there from now on.
    pub fn lay_pods(&mut self, address: impl Fn(End) -> Ipv4Addr, mtu: u16) -> Result<()> {
        for end in End::BOTH {
            let pod = end.pod();
            let address = address(end);
            let [a, b, c, _] = address.octets();
            let gateway = Ipv4Addr::new(a, b, c, 254);
            ip(&["netns", "add", pod])?;
            self.ip(end, "link add cni0 type bridge")?;
            self.ip(end, &format!("addr add {gateway}/24 dev cni0"))?;
            self.ip(end, &format!("link set cni0 mtu {mtu} up"))?;
            self.ip(end, &format!("link add pod0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod}"))?;
            self.ip(end, "link set pod0 master cni0 up")?;
            self.run(end, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
            for words in [
                "link set lo up".to_owned(),
                format!("addr add {address}/24 dev eth0"),
                "link set eth0 up".to_owned(),
                format!("route add default via {gateway}"),
            ] {
                let words: Vec<&str> = ["-n", pod].into_iter().chain(words.split(' ')).collect();
                ip(&words)?;
            }
        }
        self.in_pods = true;
        Ok(())
    }

    /// Starts what keeps running at `end`; its output goes to a file that [`Ends::logs`] shows.
    pub fn daemon(&mut self, end: End, command: &[&str]) -> Result<()> {
        let path = self.log(end);
        let log = File::options().create(true).append(true).open(&path).context("a log")?;
        let mut start = inside(end.name(), command);
        start.stdin(Stdio::null()).stdout(log.try_clone().context("a log")?).stderr(log);
        let child = start.spawn().with_context(|| format!("starting {}", command[0]))?;
        self.daemons.push((end, child));
        Ok(())
    }

    /// Starts something beside the tool, whose cost is not the tool's. To be ended by the caller.
    pub fn helper(&self, end: End, command: &[&str]) -> Result<Child> {
        let mut start = inside(self.namespace(end), command);
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        start.spawn().with_context(|| format!("starting {}", command[0]))
    }

    /// Runs a command at `end` to its end; gives what it printed.
    pub fn run(&self, end: End, command: &[&str]) -> Result<String> {
        let output = inside(self.namespace(end), &[&["timeout", "--kill-after=2", LIMIT], command].concat())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting {}", command[0]))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{} {}: {} {}", command.join(" "), output.status, text.trim(), error.trim());
        }
        Ok(text)
    }

    /// Waits until `check` holds.
    pub fn wait(&mut self, what: &str, mut check: impl FnMut(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !check(self) {
            for (at, child) in &mut self.daemons {
                if let Some(status) = child.try_wait().context("a daemon")? {
                    bail!("the program at {} ended ({status})\n{}", at.name(), self.logs());
                }
            }
            ensure!(Instant::now() < end, "{what} did not come up\n{}", self.logs());
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Waits until the address `to` answers at A.
    pub fn wait_for(&mut self, to: &str) -> Result<()> {
        self.wait("the tunnel", |ends| ends.run(End::A, &["ping", "-n", "-c1", "-W1", to]).is_ok())
    }

    fn namespace(&self, end: End) -> &'static str {
        if self.in_pods { end.pod() } else { end.name() }
    }

    /// The pids of the daemons at one end.
    pub fn pids(&self, end: End) -> Vec<u32> {
        self.daemons.iter().filter(|(at, _)| *at == end).map(|(_, child)| child.id()).collect()
    }

    /// The end of what the daemons have said.
    fn logs(&self) -> String {
        let mut text = String::new();
        for end in End::BOTH {
            let log = fs::read_to_string(self.log(end)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(8)..] {
                text += &format!("  {}: {line}\n", end.name());
            }
        }
        text
    }

    fn log(&self, end: End) -> PathBuf {
        self.scratch().join(format!("{}.log", end.name()))
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        for (_, child) in &mut self.daemons {
            // Gone already is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
        for end in End::BOTH {
            let _ = ip(&["netns", "del", end.name()]);
            if self.in_pods {
                let _ = ip(&["netns", "del", end.pod()]);
            }
        }
        // Sockets that a killed program leaves behind are in the way of the next.
        for dir in [SCRATCH, "/run/wireguard"] {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// `ip netns exec` becomes the command, so that its pid is the command's.
fn inside(namespace: &str, command: &[&str]) -> Command {
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", namespace]).args(command);
    inside
}

fn ip(words: &[&str]) -> Result<()> {
    quiet(Command::new("ip").args(words), &format!("ip {}", words.join(" ")))
}
