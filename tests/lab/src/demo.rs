//! `cargo demo`: three machines with one config.yaml become one cluster, in front of somebody who watches.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cluster::{Cluster, InLab, until};
use crate::dir::{Init, LabDir};
use crate::fixture;
use crate::lab::Wish;
use crate::product::Status;
use crate::run::Signals;

/// Founding and roles take seconds; beyond this something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where a person expects the API.
const API: u16 = 8080;
/// The operator's user on the laptop.
const OPERATOR: u32 = 1000;

/// How the demo is asked for.
pub struct Options {
    pub init: Init,
    /// End with a summary instead of staying.
    pub once: bool,
    /// The summary as JSON, alone on stdout.
    pub json: bool,
    pub real_runner: bool,
    pub binary: Option<String>,
}

/// Milestones, for people: a line each, with the seconds since the machines were on.
struct Teller {
    begin: Instant,
}

impl Teller {
    fn seconds(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    fn tell(&self, line: &str) {
        eprintln!("{:6.1} s  {line}", self.seconds());
    }
}

/// Seconds from the machines' power-on to each milestone.
#[derive(Default)]
struct Times {
    first_address: Option<f64>,
    founding: Option<f64>,
    all_roles: Option<f64>,
}

/// Runs the demo; gives the exit code.
pub fn run(dir: LabDir, options: &Options) -> Result<i32> {
    let wish = Wish {
        init: options.init,
        laptop: true,
        boot: false,
        real_runner: options.real_runner,
        binary: options.binary.clone(),
        ..Wish::default()
    };
    let mut lab = InLab::up(dir, &wish)?;
    let shown = show(&mut lab, options);
    if shown.is_err() {
        eprintln!("{}", lab.last_words());
    }
    shown
}

fn show(lab: &mut InLab, options: &Options) -> Result<i32> {
    let nodes = lab.nodes();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let teller = Teller { begin: Instant::now() };
    teller.tell(&format!(
        "switching on {} with one config.yaml ({}; stages by {})",
        nodes.join(", "),
        options.init.name(),
        lab.runner()
    ));
    lab.boot(&[nodes.as_slice(), &["laptop"]].concat())?;
    teller.tell("the stage initramfs has run everywhere, the service managers are up");

    let (views, times) = watch(lab, &nodes, &teller)?;
    let masters = views.iter().filter(|view| view.assigned.as_deref() == Some("master")).count();
    ensure!(masters == 1, "there should be one master, and there are {masters}");

    let reached = pings(lab, &nodes, &views);
    let pairs = reached.values().map(Vec::len).sum::<usize>();
    let wanted = nodes.len() * (nodes.len() - 1);
    teller.tell(&format!("{pairs} of {wanted} pings through the mesh were answered"));
    let master = views.iter().find(|view| view.assigned.as_deref() == Some("master")).context("no master")?;
    let mut files = 0;
    for (node, view) in nodes.iter().zip(&views) {
        files += fixture::compare(lab, options.init, node, view, master)?;
    }
    teller.tell(&format!("k3s' {files} files equal the reviewed ones, but for names, addresses and secrets"));
    let units = units(lab, &nodes, &views, options.init, &teller)?;
    let address = bridge(lab, &nodes, &views, &teller)?;

    let summary = summary(&nodes, &views, &reached, &times);
    if options.json {
        println!("{summary}");
    } else {
        table(&nodes, &views, &reached, &units);
    }
    ensure!(pairs == wanted, "not every node reaches every other one through the mesh");
    if !options.once {
        let signals = Signals::hold()?;
        eprintln!("\nThe dashboard is at http://{address}. Look around with");
        eprintln!("  cargo lab exec --dir {} n1 -- c3os status", lab.dir().display());
        eprintln!("and end it with Ctrl-C.");
        while signals
            .next(Duration::from_secs(3600))?
            .is_none_or(|signal| signal == nix::sys::signal::SIGCHLD)
        {}
    }
    Ok(0)
}

/// Watches the nodes until all have their roles, and tells of what is new.
fn watch(lab: &InLab, nodes: &[&str], teller: &Teller) -> Result<(Vec<Status>, Times)> {
    let mut times = Times::default();
    let mut told: Vec<String> = Vec::new();
    let views = lab.wait_for(nodes, "every node has applied a role", PATIENCE, &mut |views| {
        let mut tell = |line: String| {
            if !told.contains(&line) {
                teller.tell(&line);
                told.push(line);
            }
        };
        for view in views {
            if let Some(address) = &view.ipv4 {
                times.first_address.get_or_insert_with(|| teller.seconds());
                tell(format!("{} has the address {address}", view.name));
            }
            if view.live_others() > 0 {
                tell(format!("{} sees {} others", view.name, view.live_others()));
            }
            if let Some(id) = &view.cluster_id {
                times.founding.get_or_insert_with(|| teller.seconds());
                let founder = views.iter().find(|other| Some(&other.id) == view.founder.as_ref());
                tell(format!(
                    "the cluster {id} is founded, by {}",
                    founder.map_or("another node", |node| &node.name)
                ));
            }
            if let Some(role) = &view.assigned {
                tell(format!("{} is to be {role}", view.name));
            }
            if view.in_place {
                tell(format!(
                    "{} has its files as {}",
                    view.name,
                    view.assigned.as_deref().unwrap_or_default()
                ));
            }
        }
        views.iter().all(|view| view.in_place)
    })?;
    times.all_roles = Some(teller.seconds());
    Ok((views, times))
}

/// Pings between all pairs through the mesh; for each node the names it reaches.
fn pings(lab: &InLab, nodes: &[&str], views: &[Status]) -> BTreeMap<String, Vec<String>> {
    let mut reached: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for from in nodes {
        for (to, view) in nodes.iter().zip(views).filter(|(to, _)| *to != from) {
            let reaches = view.ipv4.as_deref().is_some_and(|address| lab.reaches(from, address));
            let list = reached.entry((*from).to_owned()).or_default();
            if reaches {
                list.push((*to).to_owned());
            }
        }
    }
    reached
}

/// Waits until each role's unit is enabled and active in the eyes of the service manager; a word on each.
fn units(lab: &InLab, nodes: &[&str], views: &[Status], init: Init, teller: &Teller) -> Result<Vec<String>> {
    let mut units = Vec::new();
    for (node, view) in nodes.iter().zip(views) {
        let unit = unit_of(view);
        let up = until(PATIENCE, || Ok(lab.run(node, &is_up(init, unit))?.status.success().then_some(())))?;
        ensure!(up.is_some(), "{node}: the unit {unit} is not enabled and active");
        units.push(format!("{unit} enabled, active"));
    }
    let version = lab.say(nodes[0], "k3s --version | head -n 1")?;
    teller.tell(&format!("the service managers run the units of the roles ({version})"));
    Ok(units)
}

/// The unit that a role starts.
pub fn unit_of(view: &Status) -> &'static str {
    if view.assigned.as_deref() == Some("master") { "k3s" } else { "k3s-agent" }
}

/// A command that succeeds when a unit is enabled and active.
pub fn is_up(init: Init, unit: &str) -> String {
    match init {
        Init::Systemd => format!("systemctl is-enabled -q {unit} && systemctl is-active -q {unit}"),
        Init::Openrc => format!("test -e /etc/runlevels/default/{unit} && rc-service {unit} status"),
    }
}

/// Joins from the laptop with the token alone; gives where the caller finds the API.
fn bridge(lab: &mut InLab, nodes: &[&str], views: &[Status], teller: &Teller) -> Result<String> {
    let token = lab.say(nodes[0], "c3os get-network-token")?;
    let port = (API..API + 10).find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    let port = port.context("ports 8080 to 8089 of 127.0.0.1 are taken")?;
    let address = format!("127.0.0.1:{port}");
    // As sudo starts it for the operator; its API listens where the operator's browser is.
    let words = [
        "exec",
        "laptop",
        "--listen",
        &address,
        "--",
        "env",
        "SUDO_UID=1000",
        "SUDO_GID=1000",
        "SUDO_USER=operator",
        "c3os",
        "bridge",
    ];
    let log = lab.background("bridge", &[&words[..], &["--network-token", &token]].concat())?;
    let seen = lab.wait_for(&["laptop"], "the bridge sees every node", PATIENCE, &mut |views| {
        views[0].live_others() >= nodes.len()
    });
    let seen = seen.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    teller.tell(&format!("a bridge with the token alone sees {} members", seen[0].live_others()));
    let master = views.iter().find(|view| view.assigned.as_deref() == Some("master")).context("no master")?;
    // A lab without root has no second user.
    let (user, as_whom) =
        if lab.has_users() { (OPERATOR, "without root") } else { (0, "as the lab's only user") };
    let mut refusal = String::new();
    let kubeconfig = until(PATIENCE, || {
        let output = lab.run_as(user, "laptop", "c3os get-kubeconfig")?;
        refusal = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() != text.is_empty(),
            "get-kubeconfig: {}, and it printed {text:?}",
            output.status
        );
        Ok(output.status.success().then_some(text))
    })?;
    let Some(kubeconfig) = kubeconfig else { bail!("get-kubeconfig gives nothing: {refusal}") };
    let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap_or_default();
    ensure!(
        master.ipv4.as_deref().is_some_and(|address| server.contains(address)),
        "the kubeconfig names {server:?}, not the master's address on the mesh"
    );
    teller.tell(&format!("get-kubeconfig, {as_whom}: {server}"));
    let answers =
        until(PATIENCE, || Ok(ask(&address, "/healthz").ok().filter(|text| text.contains(" 200 "))))?;
    ensure!(answers.is_some(), "the bridge's API does not answer at http://{address}/healthz");
    teller.tell(&format!("its dashboard: http://localhost:{port}"));
    Ok(format!("localhost:{port}"))
}

/// One plain HTTP request; the whole answer.
pub fn ask(address: &str, path: &str) -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).context("connecting")?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).context("a socket")?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        .context("asking")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading the answer")?;
    Ok(answer)
}

fn summary(
    nodes: &[&str],
    views: &[Status],
    reached: &BTreeMap<String, Vec<String>>,
    times: &Times,
) -> Value {
    let round = |seconds: Option<f64>| seconds.map(|seconds| (seconds * 100.0).round() / 100.0);
    let nodes: Vec<_> = nodes
        .iter()
        .zip(views)
        .map(|(name, view)| {
            let addresses: Vec<_> = view.ipv4.iter().chain(&view.ipv6).collect();
            json!({ "name": name, "id": view.id, "role": view.assigned, "addresses": addresses,
                "peers_reached": reached.get(*name).cloned().unwrap_or_default() })
        })
        .collect();
    let seconds = json!({ "to_first_address": round(times.first_address), "to_founding": round(times.founding),
        "to_all_roles": round(times.all_roles) });
    json!({ "nodes": nodes, "seconds": seconds })
}

fn table(nodes: &[&str], views: &[Status], reached: &BTreeMap<String, Vec<String>>, units: &[String]) {
    println!("\n{:6} {:8} {:14} {:28} {:10} id", "node", "role", "address", "unit", "reaches");
    for ((name, view), unit) in nodes.iter().zip(views).zip(units) {
        println!(
            "{name:6} {:8} {:14} {unit:28} {:10} {}",
            view.assigned.as_deref().unwrap_or("-"),
            view.ipv4.as_deref().unwrap_or("-"),
            reached.get(*name).map(|names| names.join(" ")).unwrap_or_default(),
            view.id,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_the_promised_keys() {
        let view = Status { id: "x".to_owned(), assigned: Some("master".to_owned()), ..Status::default() };
        let times = Times { first_address: Some(0.123), founding: Some(2.0), all_roles: Some(3.456) };
        let value =
            summary(&["n1"], &[view], &BTreeMap::from([("n1".to_owned(), vec!["n2".to_owned()])]), &times);
        assert_eq!(
            value.to_string(),
            r#"{"nodes":[{"addresses":[],"id":"x","name":"n1","peers_reached":["n2"],"role":"master"}],"#
                .to_owned()
                + r#""seconds":{"to_all_roles":3.46,"to_first_address":0.12,"to_founding":2.0}}"#
        );
    }
}
