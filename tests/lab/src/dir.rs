//! The lab's directory: everything that a lab keeps lies in it, so that every command, and one that comes after a crash,
//! finds what is there.
//!
//! ```text
//! lab.json        what was asked for (init, hosts, ...)
//! ground          pid and start time of the process that holds everything up
//! config.yaml     the one file that every host gets
//! image/          /usr's additions, /etc and /system/oem as an image would ship them
//! hosts/NAME/     root/ (mount point)  keep/ (what survives a power cut)  console.log  init  monitor  boots
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::sys;

/// Which service manager is pid 1 of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    Openrc,
    Systemd,
}

impl Init {
    pub fn name(self) -> &'static str {
        match self {
            Self::Openrc => "openrc",
            Self::Systemd => "systemd",
        }
    }

    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "openrc" => Ok(Self::Openrc),
            "systemd" => Ok(Self::Systemd),
            other => bail!("--init {other}: there is openrc and systemd"),
        }
    }
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Boots as a machine does: stages, then a service manager.
    Machine,
    /// The agent alone, for benchmarks.
    Bare,
    /// Nothing but a shell: where an operator's commands run.
    Laptop,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Bare => "bare",
            Self::Laptop => "laptop",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        match text {
            "machine" => Ok(Self::Machine),
            "bare" => Ok(Self::Bare),
            "laptop" => Ok(Self::Laptop),
            other => bail!("a host of the kind {other} is not known"),
        }
    }
}

/// One host of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    pub name: String,
    /// 1 to 250: last byte of its address and of its hardware address.
    pub index: u8,
    pub kind: Kind,
}

/// What was asked for; kept in `lab.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub init: Init,
    /// The lab has a user namespace of its own, because it was started without root.
    pub rootless: bool,
    /// Where the hosts' cgroups hang; none under OpenRC.
    pub cgroup: Option<PathBuf>,
    /// Who runs the stages: `yip v1.15.0`, a path, or the lab itself.
    pub runner: String,
    pub hosts: Vec<HostSpec>,
}

impl Spec {
    pub fn host(&self, name: &str) -> Result<&HostSpec> {
        self.hosts.iter().find(|host| host.name == name).with_context(|| {
            let names: Vec<_> = self.hosts.iter().map(|host| host.name.as_str()).collect();
            format!("there is no host {name}; there are {}", names.join(" "))
        })
    }

    /// All hosts but the laptop.
    pub fn machines(&self) -> impl Iterator<Item = &HostSpec> {
        self.hosts.iter().filter(|host| host.kind != Kind::Laptop)
    }

    fn to_json(&self) -> Value {
        let hosts: Vec<_> = self
            .hosts
            .iter()
            .map(|host| json!({ "name": host.name, "index": host.index, "kind": host.kind.name() }))
            .collect();
        json!({ "init": self.init.name(), "rootless": self.rootless, "cgroup": self.cgroup, "runner": self.runner,
            "hosts": hosts })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("expected a text");
        let mut hosts = Vec::new();
        for host in value["hosts"].as_array().context("expected a list of hosts")? {
            hosts.push(HostSpec {
                name: text(&host["name"])?,
                index: u8::try_from(host["index"].as_u64().context("expected a number")?)?,
                kind: Kind::parse(&text(&host["kind"])?)?,
            });
        }
        Ok(Self {
            init: Init::parse(&text(&value["init"])?)?,
            rootless: value["rootless"].as_bool().context("expected true or false")?,
            cgroup: value["cgroup"].as_str().map(PathBuf::from),
            runner: text(&value["runner"])?,
            hosts,
        })
    }
}

/// A lab's directory.
#[derive(Clone, Debug)]
pub struct LabDir {
    path: PathBuf,
}

impl LabDir {
    /// Takes `path` (made when missing) as a lab's directory.
    pub fn new(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        let path = fs::canonicalize(path).with_context(|| format!("finding {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn image(&self) -> PathBuf {
        self.path.join("image")
    }

    pub fn config(&self) -> PathBuf {
        self.path.join("config.yaml")
    }

    pub fn host(&self, name: &str) -> PathBuf {
        self.path.join("hosts").join(name)
    }

    /// Keeps a second command from changing the lab at the same time; held until the guard goes.
    pub fn lock(&self) -> Result<Flock<fs::File>> {
        let file = fs::File::create(self.path.join("lock")).context("the lab's lock")?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context("the lab's lock")
    }

    pub fn load(&self) -> Result<Spec> {
        let path = self.path.join("lab.json");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("no lab in {}; start one with `cargo lab up`", self.path.display()))?;
        let value = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        Spec::from_json(&value).with_context(|| format!("reading {}", path.display()))
    }

    pub fn save(&self, spec: &Spec) -> Result<()> {
        let path = self.path.join("lab.json");
        let text = serde_json::to_string_pretty(&spec.to_json()).context("lab.json")?;
        fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }

    /// Notes the process that holds the lab up.
    pub fn save_ground(&self, pid: Pid) -> Result<()> {
        let start = sys::start_time(pid.as_raw()).context("the lab's first process ended at once")?;
        fs::write(self.path.join("ground"), format!("{pid} {start}\n"))
            .context("noting the lab's first process")
    }

    /// The process that holds the lab up, if it is there; a pid that now belongs to another process does not count.
    pub fn ground(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.path.join("ground")).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        let pid: i32 = pid.parse().ok()?;
        (sys::start_time(pid) == start.parse().ok()).then(|| Pid::from_raw(pid))
    }

    /// Removes everything in it.
    pub fn clear(&self) -> Result<()> {
        ensure!(
            self.ground().is_none(),
            "the lab in {} is up; end it with `cargo lab down`",
            self.path.display()
        );
        for name in ["hosts", "image"] {
            let path = self.path.join(name);
            if path.exists() {
                fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        for name in ["lab.json", "ground", "config.yaml", "cuts", "ground.log"] {
            let path = self.path.join(name);
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_read_back_as_it_was() {
        let spec = Spec {
            init: Init::Systemd,
            rootless: false,
            cgroup: Some(PathBuf::from("/sys/fs/cgroup/lab")),
            runner: "yip v1.15.0".to_owned(),
            hosts: vec![HostSpec { name: "n1".to_owned(), index: 1, kind: Kind::Machine }],
        };
        assert_eq!(Spec::from_json(&spec.to_json()).unwrap(), spec);
        assert_eq!(spec.host("n9").unwrap_err().to_string(), "there is no host n9; there are n1");
    }
}
