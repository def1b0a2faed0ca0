//! Meshes and tunnels side by side: two network namespaces on one machine, a veth between them, every tool once per
//! round in turn, medians, and ratios of the same run. Absolute figures move with the neighbours, ratios hardly do.
//!
//! ```text
//! mod.rs (rounds) -> tunnels.rs (how each tool comes up)  -> ends.rs (the namespaces, and every process in them)
//!                    peers.rs   (where its program is from)
//!                    measure.rs (iperf3, ping, /proc)      -> report.rs (medians, ratios)
//! ```

mod ends;
mod measure;
mod peers;
mod report;
mod tunnels;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::sched::CloneFlags;
use nix::unistd::geteuid;

use self::{ends::Ends, measure::Effort, report::Report, tunnels::Tool};
use crate::{
    product,
    sys::{Side, fork_into, run_child, wait_child},
    tools,
};

/// What to measure.
pub struct Options {
    /// Names of [`Tool`]s, with commas.
    pub tools: Option<String>,
    pub rounds: u64,
    /// Seconds of the one-stream TCP run; the others take half of it.
    pub seconds: u64,
    /// The one-stream TCP run alone.
    pub quick: bool,
    /// Everything once more through VXLAN on top, as flannel lays it.
    pub vxlan: bool,
    /// Ours once more between pod networks that are routed as flannel's host-gw does.
    pub pods: bool,
    pub json: bool,
    /// Test this program instead of building one, or several side by side: `NAME=PATH`, with commas.
    pub binary: Option<String>,
}

/// Programs from Debian that do the measuring, and their packages.
const PROGRAMS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("ping", "iputils-ping"),
    ("wg", "wireguard-tools"),
    ("timeout", "coreutils"),
];

/// Measures and prints the table, on standard output either that or its JSON alone.
pub fn run(options: &Options) -> Result<i32> {
    ensure!(geteuid().is_root(), "the benchmark needs root for its namespaces: sudo -E cargo mesh-bench");
    for (program, package) in PROGRAMS {
        ensure!(tools::on_path(program).is_some(), "no {program} here: apt-get install {package}");
    }
    let (tools, missing) = chosen(options)?;
    for (name, why) in &missing {
        eprintln!("bench: {name} is left out: {why}");
    }
    ensure!(!tools.is_empty(), "no tool is left to measure");
    // Everything is inside of one process's namespaces: when it goes, however it goes, the kernel tidies up.
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    match fork_into(flags)? {
        Side::Child => run_child(|| {
            ends::enter_ground()?;
            rounds(options, &tools, missing).map(|()| 0)
        }),
        Side::Parent(child) => wait_child(child),
    }
}

fn rounds(options: &Options, tools: &[Tool], missing: Vec<Missing>) -> Result<()> {
    let effort = Effort { seconds: options.seconds.max(1), quick: options.quick };
    let mut report = Report::new(missing);
    for round in 1..=options.rounds.max(1) {
        for tool in tools {
            let name = tool.name();
            let figures = once(tool, &effort).with_context(|| format!("{name}, round {round}"));
            match figures {
                Ok(figures) => {
                    eprintln!("bench: round {round}, {name}: {}", report::line(&figures));
                    report.add(&name, figures);
                }
                Err(error) => {
                    eprintln!("bench: {error:#}");
                    report.failed(&name, format!("{error:#}"));
                }
            }
        }
    }
    if options.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

/// Lays the ground for one tool, measures, and takes everything away again.
fn once(tool: &Tool, effort: &Effort) -> Result<report::Figures> {
    let mut ends = Ends::lay()?;
    let to = tool.up(&mut ends)?;
    measure::all(&mut ends, &to, effort)
}

/// A tool that is left out, and why.
type Missing = (String, String);

/// The tools to measure with their programs at hand, and those that cannot be had with the reason.
fn chosen(options: &Options) -> Result<(Vec<Tool>, Vec<Missing>)> {
    let names: Vec<&str> = match &options.tools {
        Some(names) => names.split(',').collect(),
        None => tunnels::NAMES.to_vec(),
    };
    let mut tools = Vec::new();
    let mut missing = Vec::new();
    for name in names {
        for (label, binary) in builds(name, options.binary.as_deref()) {
            match Tool::find(name, || product_binary(binary))? {
                Ok(mut tool) => {
                    tool.label = label.map(str::to_owned);
                    tools.extend(options.vxlan.then(|| tool.through_vxlan()).flatten());
                    tools.extend(options.pods.then(|| tool.between_pods()).flatten());
                    tools.push(tool);
                }
                Err(error) => missing.push((name.to_owned(), format!("{error:#}").replace('\n', " "))),
            }
        }
    }
    Ok((tools, missing))
}

/// What to measure of a tool: names, if they have some, and programs, if they are given. The tool itself, or several
/// builds of ours.
fn builds<'a>(tool: &str, given: Option<&'a str>) -> Vec<(Option<&'a str>, Option<&'a str>)> {
    let named = |build: &'a str| match build.split_once('=') {
        Some((name, path)) => (Some(name), Some(path)),
        None => (None, Some(build)),
    };
    match given.filter(|_| tool == tunnels::OURS) {
        Some(given) => given.split(',').map(named).collect(),
        None => vec![(None, None)],
    }
}

/// The optimised product: the figures of another build say nothing.
fn product_binary(given: Option<&str>) -> Result<PathBuf> {
    if given.is_some() {
        return product::binary(given);
    }
    product::released()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_of_ours_are_told_apart_by_their_names() {
        assert_eq!(builds("c3os", Some("/a")), [(None, Some("/a"))]);
        assert_eq!(builds("c3os", Some("x=/a,y=/b")), [(Some("x"), Some("/a")), (Some("y"), Some("/b"))]);
        assert_eq!(builds("nebula", Some("x=/a")), [(None, None)]);
        assert_eq!(builds("c3os", None), [(None, None)]);
    }
}
