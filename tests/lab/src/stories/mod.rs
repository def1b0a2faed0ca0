//! Stories: what an operator would do to a cluster, and what has to come of it.
//!
//! A story is written once, against [`Cluster`]; every one starts with machines of its own.

mod clusters;
mod faults;
mod forming;
mod idle;
mod membership;
mod overlay;
mod restarts;
mod servers;
mod times;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{Cluster, InLab, until};
use crate::dir::{Init, LabDir};
use crate::lab::Wish;
use crate::product::Status;

/// Roles come within seconds; a loaded machine may take longer.
const SOON: Duration = Duration::from_secs(60);

/// What a story is given.
struct Stage {
    lab: InLab,
    init: Init,
    /// For stories with chance in them.
    seed: u64,
}

/// One story.
struct Story {
    name: &'static str,
    /// Lines for the `c3os:` block of the one config.yaml.
    settings: &'static [&'static str],
    nodes: usize,
    /// The story boots the machines itself.
    off: bool,
    /// Told by its name only: what it measures depends on how the program was built.
    apart: bool,
    tell: fn(&mut Stage) -> Result<()>,
}

impl Story {
    const fn new(name: &'static str, tell: fn(&mut Stage) -> Result<()>) -> Self {
        Self { name, settings: &[], nodes: 3, off: false, apart: false, tell }
    }

    const fn with(self, settings: &'static [&'static str]) -> Self {
        Self { settings, ..self }
    }

    const fn nodes(self, nodes: usize) -> Self {
        Self { nodes, ..self }
    }

    const fn off(self) -> Self {
        Self { off: true, ..self }
    }

    const fn apart(self) -> Self {
        Self { apart: true, ..self }
    }
}

const STORIES: &[Story] = &[
    Story::new("three-nodes-form-a-cluster", forming::three_nodes),
    Story::new("a-fourth-node-becomes-a-worker", forming::fourth_node),
    Story::new("forced-masters-never-make-two-clusters", forming::forced_masters)
        .with(&["role: master"])
        .off(),
    Story::new("role-none-has-an-address-and-no-k3s", forming::role_none).with(&["role: none"]),
    Story::new("roles-without-an-interface", forming::no_interface).with(&["vpn: { create: false }"]),
    Story::new("get-kubeconfig-says-why-not", forming::no_kubeconfig_yet).off(),
    Story::new("a-second-start-changes-nothing", restarts::second_start),
    Story::new("all-restart-in-any-order-with-one-missing", restarts::any_order),
    Story::new("an-emptied-etc-is-filled-before-k3s-starts", restarts::emptied_etc),
    Story::new("an-immutable-base-keeps-k3s-state", overlay::layout).nodes(1),
    Story::new("sixty-killed-agents-lose-nothing", restarts::killed_agents).off(),
    Story::new("a-cut-cable-heals", faults::cut_cable),
    Story::new("a-link-that-passes-one-way-founds-one-cluster", faults::one_way_link).off(),
    Story::new("packets-go-by-stream-where-udp-is-blocked", faults::udp_blocked).off(),
    Story::new("clocks-hours-apart-and-set-change-nothing", faults::stepped_clocks),
    Story::new("nobody-takes-the-place-of-a-killed-server", restarts::server_killed),
    Story::new("a-wrong-token-stays-outside", faults::wrong_token).nodes(4).off(),
    Story::new("a-token-is-replaced-without-downtime", membership::rotation),
    Story::new("a-banned-machine-is-out-and-stays-out", membership::ban).nodes(4),
    Story::new("a-node-that-is-gone-is-removed-and-comes-back", membership::removal),
    Story::new("a-reset-machine-joins-again", membership::reset),
    Story::new("an-old-disk-image-is-recognised", membership::old_image),
    Story::new("a-partition-at-first-boot-heals-to-one-cluster", clusters::partition).nodes(5).off(),
    Story::new("two-clusters-are-shown-everywhere-and-joined-by-a-word", clusters::conflict).nodes(4).off(),
    Story::new("garbage-from-a-stranger-is-counted", faults::garbage),
    Story::new("a-broken-config-still-joins", faults::broken_config).off(),
    Story::new("a-full-disk-is-survived", faults::full_disk),
    Story::new("seven-machines-have-three-servers-and-one-lead", servers::seven)
        .with(&["auto: { ha: { master_nodes: 2 } }"])
        .nodes(7)
        .off()
        .apart(),
    Story::new("an-idle-mesh-costs-little", idle::idle).apart(),
    Story::new("a-boot-is-quick", times::times).off().apart(),
    Story::new("forced-masters-a-minute-apart", forming::masters_a_minute_apart)
        .with(&["role: master"])
        .off()
        .apart(),
];

/// How stories are asked for.
pub struct Options {
    pub init: Init,
    pub real_runner: bool,
    pub seed: u64,
    pub binary: Option<String>,
}

/// Tells the story called `name`, or `all` of them; gives the exit code.
pub fn run(dir: &Path, name: &str, options: &Options) -> Result<i32> {
    let stories: Vec<_> =
        STORIES.iter().filter(|story| (name == "all" && !story.apart) || story.name == name).collect();
    if stories.is_empty() {
        let names: Vec<_> = STORIES.iter().map(|story| story.name).collect();
        bail!("there is no story {name}; there is all, or one of\n  {}", names.join("\n  "));
    }
    let mut failed = 0;
    for story in &stories {
        let begin = Instant::now();
        let told = one(dir, story, options);
        let seconds = begin.elapsed().as_secs_f64();
        match told {
            Ok(()) => println!("story {} ({}): passed, {seconds:.1} s", story.name, options.init.name()),
            Err(error) => {
                failed += 1;
                println!(
                    "story {} ({}): FAILED, {seconds:.1} s\n  {error:#}",
                    story.name,
                    options.init.name()
                );
            }
        }
    }
    println!("{} passed, {failed} failed", stories.len() - failed);
    Ok(i32::from(failed > 0))
}

fn one(dir: &Path, story: &Story, options: &Options) -> Result<()> {
    let wish = Wish {
        nodes: story.nodes,
        init: options.init,
        settings: story.settings,
        boot: !story.off,
        laptop: true,
        real_runner: options.real_runner,
        binary: options.binary.clone(),
        ..Wish::default()
    };
    let lab = InLab::up(LabDir::new(dir)?, &wish)?;
    let mut stage = Stage { lab, init: options.init, seed: options.seed };
    let told = (story.tell)(&mut stage);
    if told.is_err() {
        println!("{}", stage.lab.last_words());
    }
    told
}

impl Stage {
    fn names(&self) -> Vec<String> {
        self.lab.nodes()
    }

    /// Waits until `nodes` have applied roles, see each other, and belong to one cluster.
    fn settled(&self, nodes: &[&str]) -> Result<Vec<Status>> {
        let views = self.lab.wait_for(nodes, "roles applied everywhere", SOON, &mut |views| {
            views.iter().all(|view| view.in_place && view.live_others() + 1 >= nodes.len())
        })?;
        one_cluster(&views)?;
        Ok(views)
    }

    /// Every node reaches every other one through the mesh.
    fn all_reach_all(&self, nodes: &[&str], views: &[Status]) -> Result<()> {
        for from in nodes {
            for (to, view) in nodes.iter().zip(views).filter(|(to, _)| *to != from) {
                let address = view.ipv4.as_deref().with_context(|| format!("{to} has no address"))?;
                let reached = until(SOON, || Ok(self.lab.reaches(from, address).then_some(())))?;
                ensure!(reached.is_some(), "{from} does not reach {to} at {address}");
            }
        }
        Ok(())
    }

    /// The unit of each role is enabled and active.
    fn units_up(&self, nodes: &[&str], views: &[Status]) -> Result<()> {
        for (node, view) in nodes.iter().zip(views) {
            let unit = crate::demo::unit_of(view);
            let command = crate::demo::is_up(self.init, unit);
            let up = until(SOON, || Ok(self.lab.run(node, &command)?.status.success().then_some(())))?;
            ensure!(up.is_some(), "{node}: {unit} is not enabled and active");
        }
        Ok(())
    }

    /// The same without waiting for it to be done, where the service manager would.
    fn agent_soon(&self, node: &str, what: &str) -> Result<()> {
        match self.init {
            Init::Systemd => self.lab.say(node, &format!("systemctl --no-block {what} c3os-agent")).map(drop),
            Init::Openrc => self.agent(node, what),
        }
    }

    /// Has the service manager do `what` (start, stop) to the agent.
    fn agent(&self, node: &str, what: &str) -> Result<()> {
        let command = match self.init {
            Init::Systemd => format!("systemctl {what} c3os-agent"),
            Init::Openrc => format!("rc-service c3os-agent {what}"),
        };
        self.lab.say(node, &command).map(drop)
    }
}

/// Borrowed names, as the cluster's verbs take them.
fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// All views are of one and the same cluster, with one master.
fn one_cluster(views: &[Status]) -> Result<()> {
    let mut ids: Vec<_> = views.iter().filter_map(|view| view.cluster_id.as_deref()).collect();
    ids.sort_unstable();
    ids.dedup();
    ensure!(ids.len() == 1, "there should be one cluster, and there are {}: {}", ids.len(), ids.join(" "));
    let masters = views.iter().filter(|view| view.assigned.as_deref() == Some("master")).count();
    ensure!(masters <= 1, "there should be one master, and there are {masters}");
    Ok(())
}

/// What must outlive everything: who a node is, where it is, what it does, and in which cluster.
fn lasting(view: &Status) -> [Option<&str>; 4] {
    [Some(&view.id), view.ipv4.as_deref(), view.assigned.as_deref(), view.cluster_id.as_deref()]
}

/// The nodes are what they were.
fn unchanged(before: &[Status], after: &[Status]) -> Result<()> {
    for (before, after) in before.iter().zip(after) {
        ensure!(
            lasting(before) == lasting(after),
            "{} changed: it was {:?} and is {:?}",
            before.name,
            lasting(before),
            lasting(after)
        );
    }
    Ok(())
}

/// Lets time pass where a story is about time.
fn pass(time: Duration) -> Result<()> {
    until(time, || Ok(None::<()>)).map(drop)
}
