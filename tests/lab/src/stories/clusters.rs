//! Networks that are split while a cluster is founded, and clusters that meet.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{SOON, Stage, one_cluster, pass, refs};
use crate::cluster::Cluster;
use crate::product::Status;

/// Switches the machines on, those of two groups without a cable between them.
fn boot_apart(stage: &Stage, one: &[&str], other: &[&str]) -> Result<()> {
    for a in one {
        for b in other {
            stage.lab.cut(a, b)?;
        }
    }
    stage.lab.boot(&[one, other].concat())
}

/// Mends the cables. Machines that never met ask for each other every five minutes only; one that starts asks at once.
fn meet(stage: &Stage, node: &str) -> Result<()> {
    stage.lab.heal()?;
    stage.agent(node, "restart")
}

/// Three of five found a cluster; the two that were cut off wait, and join it when the cable is mended.
pub(super) fn partition(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let (many, few) = nodes.split_at(3);
    boot_apart(stage, many, few)?;
    let founded = stage
        .lab
        .wait_for(many, "three found a cluster", SOON, &mut |views| views.iter().all(|view| view.in_place))?;
    one_cluster(&founded)?;
    // Long enough for a second founding, if there were to be one.
    pass(Duration::from_secs(5))?;
    let waiting = stage.lab.wait_for(few, "two see each other and wait", SOON, &mut |views| {
        views.iter().all(|view| view.live_others() == 1)
    })?;
    ensure!(waiting.iter().all(|view| view.cluster_id.is_none()), "two of five founded a cluster");
    meet(stage, few[0])?;
    let all = stage.settled(&nodes)?;
    ensure!(all[0].cluster_id == founded[0].cluster_id, "the cluster is another one now");
    Ok(())
}

/// Two pairs found a cluster each, for `minimum_nodes` is too low. Every machine shows it, nothing changes by itself,
/// and a worker moves when it is told to.
pub(super) fn conflict(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let (one, other) = nodes.split_at(2);
    let config = stage.lab.config()?;
    let careless = config.replace("minimum_nodes: 3", "minimum_nodes: 2");
    ensure!(careless != config, "the file for four machines asks for three votes no more");
    for node in &nodes {
        stage.lab.write(node, "/oem/config.yaml", &careless)?;
    }
    boot_apart(stage, one, other)?;
    for pair in [one, other] {
        let views = stage.lab.wait_for(pair, "a pair founds a cluster", SOON, &mut |views| {
            views.iter().all(|view| view.in_place)
        })?;
        one_cluster(&views)?;
    }
    meet(stage, other[0])?;
    let views = stage.lab.wait_for(&nodes, "every machine shows the conflict", SOON, &mut |views| {
        views.iter().all(|view| {
            view.cluster_state == "conflict"
                && view.problems.iter().any(|problem| problem.contains("conflict"))
        })
    })?;
    for (node, view) in nodes.iter().zip(&views) {
        let metrics = stage
            .lab
            .say(node, "curl -s --unix-socket /run/c3os/api.sock http://localhost/metrics || true")?;
        ensure!(
            metrics.is_empty() || metrics.contains("c3os_conflict 1"),
            "{node}: no metric shows the conflict"
        );
        let shown = stage.lab.say(node, "c3os cluster show")?;
        ensure!(shown.contains("conflict cluster "), "{node}: `cluster show` says nothing of it: {shown}");
        ensure!(view.applied.is_some(), "{node} lost its role");
    }
    let at =
        |nodes: &[Status], role: &str| nodes.iter().position(|view| view.assigned.as_deref() == Some(role));
    let worker = at(&views[..2], "worker").context("the first pair has no worker")?;
    let goal = views[2].cluster_id.clone().context("the second pair has no cluster")?;
    stage.lab.say(nodes[worker], &format!("c3os cluster join {goal}"))?;
    let moved = stage.lab.wait_for(
        &nodes[worker..=worker],
        "the worker is in the other cluster",
        SOON,
        &mut |views| views[0].in_place && views[0].cluster_id.as_ref() == Some(&goal),
    )?;
    ensure!(moved[0].assigned.as_deref() == Some("worker"), "it is {:?} there", moved[0].assigned);
    // A server stays: nobody can say that its cluster runs no workload.
    let server = at(&views[..2], "master").context("the first pair has no master")?;
    let refused = stage.lab.run(nodes[server], &format!("c3os cluster join {goal}"))?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.status.code() == Some(1) && why.contains("workload"),
        "a server moved, or it was not said why: {why}"
    );
    Ok(())
}
