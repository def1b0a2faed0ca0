//! A lab from outside: what the verbs do.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::dir::{HostSpec, Init, Kind, LabDir, Spec};
use crate::require::{self, Rights};
use crate::{ground, host, image, net, product, root, tools};

/// More would not fit the LAN's addresses, and no machine.
const MOST_HOSTS: usize = 250;
/// How long a host may take to shut down before its power goes.
const SHUTDOWN: Duration = Duration::from_secs(20);

/// What `up` is asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    pub nodes: usize,
    pub init: Init,
    pub kind: Kind,
    /// The one config.yaml; made by `c3os create-config` when not given.
    pub config: Option<PathBuf>,
    /// The program to put on the hosts; built when not given.
    pub binary: Option<String>,
    /// One more host without an agent, called `laptop`.
    pub laptop: bool,
    /// Boot the hosts right away.
    pub boot: bool,
    /// The lab ends with this process.
    pub tied: bool,
    /// The stages have to be run by a real runner.
    pub real_runner: bool,
    /// Lines that are added to the `c3os:` block of the config.yaml that is made.
    pub settings: &'static [&'static str],
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            nodes: 3,
            init: Init::Openrc,
            kind: Kind::Machine,
            config: None,
            binary: None,
            laptop: false,
            boot: true,
            tied: false,
            real_runner: false,
            settings: &[],
        }
    }
}

/// Makes a lab and boots its hosts.
pub fn up(dir: &LabDir, wish: &Wish) -> Result<Spec> {
    ensure!((1..MOST_HOSTS).contains(&wish.nodes), "--nodes {}: 1 to {}", wish.nodes, MOST_HOSTS - 1);
    let _lock = dir.lock()?;
    ensure!(
        dir.ground().is_none(),
        "a lab is up in {} already; `cargo lab down` ends it",
        dir.path().display()
    );
    let binary = product::binary(wish.binary.as_deref())?;
    let rights = require::rights(wish.init)?;
    require::programs(wish.init)?;
    let runner = tools::runner()?;
    if runner.program.is_none() {
        ensure!(
            !wish.real_runner,
            "the stages are to be run by a real runner, and it would be {}",
            runner.label
        );
        eprintln!("lab: stages are run by {}", runner.label);
    }
    // What an earlier lab left when it was killed.
    ground::clear(dir, dir.load().ok().as_ref())?;
    dir.clear()?;
    let config = match &wish.config {
        Some(path) => fs::read_to_string(path).with_context(|| format!("--config {}", path.display()))?,
        None => with_settings(&product::create_config(&binary, wish.nodes)?, wish.settings)?,
    };
    write_secret(&dir.config(), &config)?;
    image::build(dir, wish.init, &binary, &runner)?;
    let mut hosts: Vec<HostSpec> = (1..=wish.nodes)
        .map(|n| HostSpec { name: format!("n{n}"), index: index(n), kind: wish.kind })
        .collect();
    if wish.laptop {
        hosts.push(HostSpec { name: "laptop".to_owned(), index: index(MOST_HOSTS), kind: Kind::Laptop });
    }
    let cgroup = match (wish.init, wish.kind) {
        (Init::Systemd, Kind::Machine) => Some(ground::find_cgroup(dir)?),
        _ => None,
    };
    let spec = Spec {
        init: wish.init,
        rootless: rights == Rights::UserNamespace,
        cgroup,
        runner: runner.label,
        hosts,
    };
    dir.save(&spec)?;
    ground::lay(dir, &spec, wish.tied)?;
    let code = ground::inside(dir, &spec, || {
        for host in &spec.hosts {
            root::install(dir, host)?;
        }
        if wish.boot { boot(dir, &spec, &spec.hosts) } else { Ok(0) }
    });
    match code {
        Ok(0) => Ok(spec),
        other => {
            ground::clear(dir, Some(&spec))?;
            other?;
            bail!("the lab does not come up; consoles are in {}", dir.path().join("hosts").display())
        }
    }
}

/// Adds lines to the `c3os:` block.
pub fn with_settings(config: &str, settings: &[&str]) -> Result<String> {
    let block = "c3os:\n";
    let at = config.find(block).context("c3os create-config wrote no line `c3os:`")? + block.len();
    let lines: String = settings.iter().map(|line| format!("  {line}\n")).collect();
    Ok([&config[..at], &lines, &config[at..]].concat())
}

fn index(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

/// The configuration holds the network's secret.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("writing {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

/// Boots hosts side by side.
fn boot(dir: &LabDir, spec: &Spec, hosts: &[HostSpec]) -> Result<i32> {
    let boots: Vec<_> = hosts.iter().map(|host| host::start(dir, spec, host)).collect::<Result<_>>()?;
    for boot in boots {
        boot.finish()?;
    }
    Ok(0)
}

/// Adds a host that was not there from the beginning, with the same config.yaml, and boots it.
pub fn add(dir: &LabDir) -> Result<i32> {
    let _lock = dir.lock()?;
    let mut spec = dir.load()?;
    let machines = spec.machines().count();
    ensure!(machines + 1 < MOST_HOSTS, "the lab is full");
    let kind = spec.hosts.first().map_or(Kind::Machine, |host| host.kind);
    let new = HostSpec { name: format!("n{}", machines + 1), index: index(machines + 1), kind };
    spec.hosts.insert(machines, new.clone());
    dir.save(&spec)?;
    let code = ground::inside(dir, &spec, || {
        root::install(dir, &new)?;
        boot(dir, &spec, std::slice::from_ref(&new))
    })?;
    println!("{}", new.name);
    Ok(code)
}

/// Switches hosts on; `fresh_etc`: with /etc as the image ships it.
pub fn start(dir: &LabDir, names: &[String], fresh_etc: bool) -> Result<i32> {
    let (_lock, spec) = (dir.lock()?, dir.load()?);
    let hosts = chosen(&spec, names)?;
    ground::inside(dir, &spec, || {
        for host in &hosts {
            ensure!(host::running(dir, host).is_none(), "{} is running already", host.name);
            if fresh_etc {
                root::renew(dir, host)?;
            }
        }
        boot(dir, &spec, &hosts)
    })
}

/// Cuts the power of hosts.
pub fn kill(dir: &LabDir, names: &[String]) -> Result<i32> {
    let (_lock, spec) = (dir.lock()?, dir.load()?);
    let hosts = chosen(&spec, names)?;
    ground::inside(dir, &spec, || {
        for host in &hosts {
            host::cut_power(dir, host)?;
        }
        Ok(0)
    })
}

/// Shuts hosts down through their service manager.
pub fn stop(dir: &LabDir, names: &[String]) -> Result<i32> {
    let (_lock, spec) = (dir.lock()?, dir.load()?);
    let hosts = chosen(&spec, names)?;
    ground::inside(dir, &spec, || {
        for host in &hosts {
            host::shut_down(dir, &spec, host, SHUTDOWN)?;
        }
        Ok(0)
    })
}

fn chosen(spec: &Spec, names: &[String]) -> Result<Vec<HostSpec>> {
    ensure!(!names.is_empty(), "expected the name of a host");
    names.iter().map(|name| spec.host(name).cloned()).collect()
}

/// Runs a command on a host, as user `user`. With `listen` it is handed a socket that listens there in the network of
/// the caller (`LISTEN_FDS`): a socket keeps the network it was made in.
pub fn exec(dir: &LabDir, name: &str, user: u32, listen: Option<&str>, words: &[String]) -> Result<i32> {
    let spec = dir.load()?;
    let host = spec.host(name)?;
    ensure!(
        user == 0 || !spec.rootless,
        "a lab without root has one user only; run it as root to be another one on a host"
    );
    let listener = listen.map(|address| {
        TcpListener::bind(address)
            .with_context(|| format!("{address} is taken (see `ss -ltnp`); choose another one with --listen"))
    });
    let listener = listener.transpose()?;
    ground::inside(dir, &spec, || host::execute(dir, host, user, listener.as_ref(), words).map(|()| 0))
}

/// Lets nothing pass between two hosts.
pub fn cut(dir: &LabDir, a: &str, b: &str) -> Result<i32> {
    let (_lock, spec) = (dir.lock()?, dir.load()?);
    let (a, b) = (spec.host(a)?, spec.host(b)?);
    ensure!(a != b, "a host cannot be cut off from itself");
    ground::inside(dir, &spec, || net::cut(dir, a, b).map(|()| 0))
}

/// Mends all cuts.
pub fn heal(dir: &LabDir) -> Result<i32> {
    let (_lock, spec) = (dir.lock()?, dir.load()?);
    ground::inside(dir, &spec, || net::heal(dir).map(|()| 0))
}

/// What there is, for scripts or for people.
pub fn status(dir: &LabDir, as_json: bool) -> Result<i32> {
    let spec = dir.load()?;
    ground::inside(dir, &spec, || {
        let value = describe(dir, &spec);
        if as_json {
            println!("{value}");
            return Ok(0);
        }
        println!("{}: {}, stages by {}", dir.path().display(), spec.init.name(), spec.runner);
        for host in value["nodes"].as_array().into_iter().flatten() {
            let text = |key: &str| host[key].as_str().unwrap_or_default().to_owned();
            println!(
                "  {:8} {:8} {:12} boots {}",
                text("name"),
                text("state"),
                text("address"),
                host["boots"]
            );
        }
        for cut in value["cuts"].as_array().into_iter().flatten() {
            println!(
                "  cut: {} {}",
                cut[0].as_str().unwrap_or_default(),
                cut[1].as_str().unwrap_or_default()
            );
        }
        Ok(0)
    })
}

fn describe(dir: &LabDir, spec: &Spec) -> Value {
    let nodes: Vec<_> = spec
        .hosts
        .iter()
        .map(|host| {
            let pid = host::running(dir, host);
            json!({
                "name": host.name,
                "state": if pid.is_some() { "running" } else { "off" },
                "address": net::address(host),
                "boots": host::boots(dir, host),
                "console": dir.host(&host.name).join("console.log"),
            })
        })
        .collect();
    let name = |index: u8| spec.hosts.iter().find(|host| host.index == index).map(|host| host.name.as_str());
    let cuts: Vec<_> = net::cuts(dir).into_iter().map(|(a, b)| json!([name(a), name(b)])).collect();
    json!({ "dir": dir.path(), "init": spec.init.name(), "runner": spec.runner, "nodes": nodes, "cuts": cuts })
}

/// Where a path of a host lies in the lab's directory, for files that outlive a boot.
pub fn kept_path(dir: &LabDir, name: &str, path: &str) -> Result<PathBuf> {
    let host = dir.host(dir.load()?.host(name)?.name.as_str());
    root::kept(path)
        .map(|kept| host.join("keep").join(kept))
        .with_context(|| format!("{path} does not outlive a boot"))
}

/// Ends a lab without a word, whether one is there or not.
pub fn down_quietly(dir: &LabDir) -> Result<()> {
    let _lock = dir.lock()?;
    ground::clear(dir, dir.load().ok().as_ref()).map(drop)
}

/// Ends a lab, and whatever one left behind.
pub fn down(dir: &LabDir) -> Result<i32> {
    let begin = Instant::now();
    let _lock = dir.lock()?;
    let was_up = ground::clear(dir, dir.load().ok().as_ref())?;
    dir.clear()?;
    if was_up {
        eprintln!("lab: ended after {:.1} s", begin.elapsed().as_secs_f64());
    } else {
        eprintln!("lab: none was up in {}", dir.path().display());
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_go_into_our_block() {
        let config = with_settings("#cloud-config\nc3os:\n  network_token: x\n", &["role: none"]).unwrap();
        assert_eq!(config, "#cloud-config\nc3os:\n  role: none\n  network_token: x\n");
        assert!(with_settings("k3s: {}\n", &[]).is_err());
    }
}
