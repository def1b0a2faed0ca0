//! Nodes under test, whatever they run on. Stories are written against [`Cluster`].

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::dir::LabDir;
use crate::lab::{self, Wish};
use crate::product::{self, Status};

/// Machines that can be switched, cut off and asked.
pub trait Cluster {
    /// The names of all machines.
    fn nodes(&self) -> Vec<String>;
    /// Boots machines side by side.
    fn boot(&self, nodes: &[&str]) -> Result<()>;
    /// Boots a machine whose /etc did not outlive the last boot.
    fn boot_with_fresh_etc(&self, node: &str) -> Result<()>;
    /// Cuts the power of machines.
    fn kill(&self, nodes: &[&str]) -> Result<()>;
    /// Shuts machines down.
    fn stop(&self, nodes: &[&str]) -> Result<()>;
    /// Adds a machine with the same configuration; its name.
    fn add(&mut self) -> Result<String>;
    /// Lets nothing pass between two machines.
    fn cut(&self, a: &str, b: &str) -> Result<()>;
    /// Mends all cuts.
    fn heal(&self) -> Result<()>;
    /// Runs a shell command on a machine.
    fn run(&self, node: &str, command: &str) -> Result<Output>;
    /// Writes a file on a machine, whether it is on or not (`/oem/...` and the like).
    fn write(&self, node: &str, path: &str, text: &str) -> Result<()>;

    /// The node's own view, if its agent answers.
    fn status(&self, node: &str) -> Option<Status> {
        let output = self.run(node, "c3os status --output json").ok()?;
        Status::parse(&String::from_utf8_lossy(&output.stdout)).ok()
    }

    /// Runs a shell command that has to succeed; what it printed.
    fn say(&self, node: &str, command: &str) -> Result<String> {
        let output = self.run(node, command)?;
        ensure!(
            output.status.success(),
            "{node}: {command}: {} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Waits until the views of `nodes` are as wanted; they are given in the same order.
    fn wait_for(
        &self,
        nodes: &[&str],
        what: &str,
        limit: Duration,
        wanted: &mut dyn FnMut(&[Status]) -> bool,
    ) -> Result<Vec<Status>> {
        let mut last: Vec<Option<Status>> = Vec::new();
        let found = until(limit, || {
            last = nodes.iter().map(|node| self.status(node)).collect();
            let all: Vec<Status> = last.iter().flatten().cloned().collect();
            Ok((all.len() == nodes.len() && wanted(&all)).then_some(all))
        })?;
        found.with_context(|| {
            let views: Vec<_> = nodes
                .iter()
                .zip(&last)
                .map(|(node, status)| format!("\n  {}", view(node, status.as_ref())))
                .collect();
            format!("waited {} s for: {what}{}", limit.as_secs(), views.concat())
        })
    }

    /// Whether `from` reaches an address on the mesh.
    fn reaches(&self, from: &str, address: &str) -> bool {
        let command = format!("ping -n -q -c 1 -W 2 {address}");
        self.run(from, &command).is_ok_and(|output| output.status.success())
    }
}

/// A node in a line, for people.
fn view(node: &str, status: Option<&Status>) -> String {
    let Some(status) = status else { return format!("{node}: its agent does not answer") };
    let role = match (&status.assigned, &status.applied) {
        (None, _) => "no role".to_owned(),
        (Some(assigned), _) if status.in_place => assigned.clone(),
        (Some(assigned), Some(applied)) if assigned == applied => {
            format!("{assigned} (applied in an earlier run, not looked at yet)")
        }
        (Some(assigned), applied) => {
            format!("{assigned} (applied: {})", applied.as_deref().unwrap_or("none"))
        }
    };
    let mut line = format!(
        "{node}: {} {role}, sees {} others, {}: {}",
        status.ipv4.as_deref().unwrap_or("no address"),
        status.live_others(),
        status.cluster_state,
        status.cluster_message,
    );
    for problem in &status.problems {
        line += &format!("\n      {problem}");
    }
    line
}

/// Asks again and again until there is an answer; none after `limit`.
pub fn until<T>(limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        // A pause between questions: what is asked for comes from another program, which cannot wake us.
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// A lab as a cluster. It goes down when this goes away.
pub struct InLab {
    dir: LabDir,
    nodes: Vec<String>,
    runner: String,
    rootless: bool,
    children: Vec<Child>,
}

impl InLab {
    /// Starts a lab that ends with this process. What an earlier one left in the directory is ended first.
    pub fn up(dir: LabDir, wish: &Wish) -> Result<Self> {
        lab::down_quietly(&dir)?;
        let wish = Wish { tied: true, ..wish.clone() };
        let spec = lab::up(&dir, &wish)?;
        let nodes = spec.machines().map(|host| host.name.clone()).collect();
        Ok(Self { dir, nodes, runner: spec.runner, rootless: spec.rootless, children: Vec::new() })
    }

    /// Who runs the stages, for people.
    pub fn runner(&self) -> &str {
        &self.runner
    }

    /// Whether hosts have more users than root.
    pub fn has_users(&self) -> bool {
        !self.rootless
    }

    /// The one config.yaml of the machines.
    pub fn config(&self) -> Result<String> {
        let path = self.dir.config();
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Where a file of a host lies in the lab's directory; only for what outlives a boot.
    pub fn kept(&self, node: &str, path: &str) -> Result<PathBuf> {
        lab::kept_path(&self.dir, node, path)
    }

    /// What all hosts boot from. Hosts that are on may not see what is changed there.
    pub fn image(&self) -> PathBuf {
        self.dir.image()
    }

    /// The product's program, as it lies on the hosts.
    pub fn binary(&self) -> PathBuf {
        self.image().join("usr/bin/c3os")
    }

    /// Where the lab lies.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Starts a verb of our own that goes on; it ends with the lab. What it says goes to a file; its path.
    pub fn background(&mut self, name: &str, words: &[&str]) -> Result<PathBuf> {
        let path = self.dir.path().join(format!("{name}.log"));
        let log = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let child = self
            .ours(words)?
            .stdout(log.try_clone().context("a log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        self.children.push(child);
        Ok(path)
    }

    /// Runs a command on a host as another user than root.
    pub fn run_as(&self, user: u32, node: &str, command: &str) -> Result<Output> {
        let user = user.to_string();
        self.ours(&["exec", "--user", &user, node, "--", "sh", "-c", command])?
            .output()
            .context("cargo lab exec")
    }

    /// What the last lines of a host's console, agent and k3s say; for the report of a failure.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            for log in ["var/log/c3os-agent.log", "var/log/k3s.log", "var/log/k3s-agent.log"] {
                let path = self.dir.host(node).join("keep").join(log);
                let said = fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<_> = said.lines().collect();
                if !lines.is_empty() {
                    text += &format!(
                        "-- {node}: /{log}\n{}\n",
                        lines[lines.len().saturating_sub(12)..].join("\n")
                    );
                }
            }
            if let Ok(output) = self.run(node, "journalctl -u c3os-agent -n 12 --no-pager -o cat 2>/dev/null")
            {
                let said = String::from_utf8_lossy(&output.stdout);
                if !said.trim().is_empty() {
                    text += &format!("-- {node}: journal of c3os-agent\n{}\n", said.trim());
                }
            }
        }
        text
    }

    fn ours(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(product::ours()?);
        let (verb, rest) = words.split_first().context("no verb")?;
        command.arg(verb).arg("--dir").arg(self.dir.path()).args(rest).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a verb of our own to its end; what it printed.
    fn verb(&self, words: &[&str]) -> Result<String> {
        let output = self.ours(words)?.output().context("our own program")?;
        if !output.status.success() {
            bail!("cargo lab {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Cluster for InLab {
    fn nodes(&self) -> Vec<String> {
        self.nodes.clone()
    }

    fn boot(&self, nodes: &[&str]) -> Result<()> {
        self.verb(&[&["start"], nodes].concat()).map(drop)
    }

    fn boot_with_fresh_etc(&self, node: &str) -> Result<()> {
        self.verb(&["start", node, "--fresh-etc"]).map(drop)
    }

    fn kill(&self, nodes: &[&str]) -> Result<()> {
        self.verb(&[&["kill"], nodes].concat()).map(drop)
    }

    fn stop(&self, nodes: &[&str]) -> Result<()> {
        self.verb(&[&["stop"], nodes].concat()).map(drop)
    }

    fn add(&mut self) -> Result<String> {
        let name = self.verb(&["add"])?;
        self.nodes.push(name.clone());
        Ok(name)
    }

    fn cut(&self, a: &str, b: &str) -> Result<()> {
        self.verb(&["cut", a, b]).map(drop)
    }

    fn heal(&self) -> Result<()> {
        self.verb(&["heal"]).map(drop)
    }

    fn run(&self, node: &str, command: &str) -> Result<Output> {
        self.ours(&["exec", node, "--", "sh", "-c", command])?.output().context("cargo lab exec")
    }

    fn write(&self, node: &str, path: &str, text: &str) -> Result<()> {
        let kept = self.kept(node, path)?;
        fs::write(&kept, text).with_context(|| format!("writing {}", kept.display()))
    }
}

impl Drop for InLab {
    fn drop(&mut self) {
        if let Err(error) = lab::down_quietly(&self.dir) {
            eprintln!("lab: {error:#}");
        }
        for child in &mut self.children {
            // Its other half went with the lab; it ends by itself.
            let _ = child.wait();
        }
    }
}
