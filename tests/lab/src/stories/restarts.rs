//! Machines and agents that go away and come back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{SOON, Stage, pass, refs, unchanged};
use crate::cluster::{Cluster, until};

/// Sends SIGKILL to the agent, from inside of its host.
const KILL_AGENT: &str = "for p in /proc/[0-9]*; do \
    tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^/usr/bin/c3os agent' && kill -9 ${p#/proc/}; done; true";
/// Succeeds when the interface has an address.
const HAS_ADDRESS: &str = "ip -4 -o addr show dev c3os0 | grep -q inet";

/// From power-on, the stages and the service manager included, to an address on later boots. The agent itself may take
/// one second of it.
const BACK: Duration = Duration::from_secs(4);

pub(super) fn second_start(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    stage.lab.stop(&nodes)?;
    let begin = Instant::now();
    stage.lab.boot(&nodes)?;
    for node in &nodes {
        let up = until(SOON, || Ok(stage.lab.run(node, HAS_ADDRESS)?.status.success().then_some(())))?;
        ensure!(up.is_some(), "{node} has no address any more");
    }
    let seconds = begin.elapsed();
    println!("  addresses are back {:.2} s after power-on", seconds.as_secs_f64());
    ensure!(seconds <= BACK, "addresses came back after {:.1} s only", seconds.as_secs_f64());
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;
    stage.all_reach_all(&nodes, &after)?;
    stage.units_up(&nodes, &after)
}

pub(super) fn any_order(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    for missing in 0..nodes.len() {
        stage.lab.kill(&nodes)?;
        let here: Vec<_> = (1..nodes.len()).rev().map(|n| (missing + n) % nodes.len()).collect();
        for &node in &here {
            stage.lab.boot(&[nodes[node]])?;
        }
        let present: Vec<_> = here.iter().map(|&node| nodes[node]).collect();
        let were: Vec<_> = here.iter().map(|&node| before[node].clone()).collect();
        let after = stage.settled(&present).with_context(|| format!("without {}", nodes[missing]))?;
        unchanged(&were, &after).with_context(|| format!("without {}", nodes[missing]))?;
        stage.lab.boot(&[nodes[missing]])?;
        unchanged(&before, &stage.settled(&nodes)?)?;
    }
    Ok(())
}

/// The only server is gone for a while: the workers stay what they are, and nobody takes its place.
pub(super) fn server_killed(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    let server = before
        .iter()
        .position(|view| view.assigned.as_deref() == Some("master"))
        .context("nobody is the master")?;
    let workers: Vec<_> = (0..nodes.len()).filter(|node| *node != server).collect();
    let (here, were): (Vec<_>, Vec<_>) =
        workers.iter().map(|&node| (nodes[node], before[node].clone())).unzip();
    stage.lab.kill(&[nodes[server]])?;
    stage.lab.wait_for(&here, "the workers see that the server is gone", SOON, &mut |views| {
        views.iter().all(|view| view.live_others() == 1)
    })?;
    // Long enough for somebody to be made a server, if anybody were to be.
    pass(Duration::from_secs(10))?;
    unchanged(&were, &stage.settled(&here)?)?;
    // The workers start anew without it, too.
    stage.lab.kill(&here)?;
    stage.lab.boot(&here)?;
    unchanged(&were, &stage.settled(&here)?)?;
    stage.lab.boot(&[nodes[server]])?;
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;
    stage.all_reach_all(&nodes, &after)
}

pub(super) fn emptied_etc(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    stage.units_up(&nodes, &before)?;
    let passwords = |stage: &Stage| -> Result<Vec<String>> {
        nodes.iter().map(|node| stage.lab.say(node, "cat /etc/rancher/node/password")).collect()
    };
    let were = passwords(stage)?;
    for node in &nodes {
        stage.lab.kill(&[node])?;
        stage.lab.boot_with_fresh_etc(node)?;
        stage.lab.say(node, "c3os wait role --timeout 60 && test -s /etc/rancher/node/password")?;
    }
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;
    stage.units_up(&nodes, &after)?;
    for node in &nodes {
        let starts = stage.lab.say(node, "cat /var/log/k3s-starts")?;
        ensure!(starts.lines().count() >= 2, "{node}: k3s did not start again: {starts}");
        ensure!(!starts.contains("without"), "{node}: k3s started before its files were back: {starts}");
    }
    ensure!(passwords(stage)? == were, "k3s' servers would not know their nodes any more");
    Ok(())
}

/// 60 kills at random moments, the first 20 from before there are roles.
pub(super) fn killed_agents(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let mut random = Random(stage.seed);
    println!("  seed {}", stage.seed);
    stage.lab.boot(&nodes)?;
    kills(stage, &nodes, &mut random, 20, 250)?;
    let before = stage.settled(&nodes)?;
    let interface = "cat /sys/class/net/c3os0/ifindex";
    let indexes: Vec<_> = nodes.iter().map(|node| stage.lab.say(node, interface)).collect::<Result<_>>()?;
    kills(stage, &nodes, &mut random, 40, 700)?;
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;
    for (node, index) in nodes.iter().zip(&indexes) {
        ensure!(&stage.lab.say(node, interface)? == index, "{node}: the interface went away");
    }
    stage.all_reach_all(&nodes, &after)
}

fn kills(stage: &Stage, nodes: &[&str], random: &mut Random, times: u32, most_ms: u64) -> Result<()> {
    for _ in 0..times {
        pass(Duration::from_millis(random.below(most_ms)))?;
        let node = usize::try_from(random.below(nodes.len() as u64)).unwrap_or(0);
        stage.lab.say(nodes[node], KILL_AGENT)?;
    }
    Ok(())
}

/// splitmix64: the same seed kills the same agents at the same moments.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let draw = |seed| (0..8).map(|_| Random(seed).below(100)).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        let mut random = Random(1);
        let drawn: std::collections::BTreeSet<_> = (0..200).map(|_| random.below(3)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
