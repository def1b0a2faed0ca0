//! How clusters come to be, and how they do not.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{SOON, Stage, one_cluster, pass, refs, unchanged};
use crate::cluster::{Cluster, until};
use crate::fixture;

pub(super) fn three_nodes(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let views = stage.settled(&nodes)?;
    let masters = views.iter().filter(|view| view.assigned.as_deref() == Some("master")).count();
    ensure!(masters == 1, "there should be one master, and there are {masters}");
    let master = views.iter().find(|view| view.assigned.as_deref() == Some("master")).unwrap_or(&views[0]);
    for (node, view) in nodes.iter().zip(&views) {
        fixture::compare(&stage.lab, stage.init, node, view, master)?;
    }
    stage.all_reach_all(&nodes, &views)?;
    stage.units_up(&nodes, &views)
}

pub(super) fn fourth_node(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let before = stage.settled(&refs(&names))?;
    stage.lab.add()?;
    let names = stage.names();
    let after = stage.settled(&refs(&names))?;
    unchanged(&before, &after)?;
    ensure!(after[3].assigned.as_deref() == Some("worker"), "the fourth node is {:?}", after[3].assigned);
    stage.all_reach_all(&refs(&names), &after)
}

/// The same `role: master` in the one file of three machines, which start one after the other.
pub(super) fn forced_masters(stage: &mut Stage) -> Result<()> {
    masters_started(stage, &[Duration::ZERO, Duration::from_secs(3), Duration::ZERO])
}

/// The same with half a minute between them: the first is a cluster of its own by then.
pub(super) fn masters_a_minute_apart(stage: &mut Stage) -> Result<()> {
    masters_started(stage, &[Duration::ZERO, Duration::from_secs(30), Duration::from_secs(30)])
}

/// Boots the machines, each after its pause: never two clusters, and the message names the key.
fn masters_started(stage: &mut Stage, pauses: &[Duration]) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    for (node, pause) in nodes.iter().zip(pauses) {
        pass(*pause)?;
        stage.lab.boot(&[node])?;
    }
    stage.lab.wait_for(&nodes, "every node sees the others", SOON, &mut |views| {
        let ids: std::collections::BTreeSet<_> =
            views.iter().filter_map(|view| view.cluster_id.as_ref()).collect();
        ids.len() <= 1 && views.iter().all(|view| view.live_others() == 2)
    })?;
    // Long enough for a second founding, if there were to be one.
    pass(Duration::from_secs(10))?;
    let named = stage.lab.wait_for(&nodes, "the key `role` is named", SOON, &mut |views| {
        views.iter().any(|view| {
            view.cluster_message.contains("c3os.role")
                || view.problems.iter().any(|problem| problem.contains("c3os.role"))
        })
    })?;
    let founded: Vec<_> = named.iter().filter(|view| view.cluster_id.is_some()).cloned().collect();
    if founded.is_empty() { Ok(()) } else { one_cluster(&founded) }
}

pub(super) fn role_none(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let views =
        stage.lab.wait_for(&nodes, "addresses, and every node sees the others", SOON, &mut |views| {
            views.iter().all(|view| view.ipv4.is_some() && view.live_others() == 2)
        })?;
    stage.all_reach_all(&nodes, &views)?;
    for node in &nodes {
        let files =
            stage.lab.say(node, "find /etc/rancher /etc/systemd/system/k3s*.d -type f 2>/dev/null; true")?;
        ensure!(files.is_empty(), "{node} takes no role, and has {files}");
    }
    ensure!(views.iter().all(|view| view.assigned.is_none()), "a node without a role got one");
    Ok(())
}

pub(super) fn no_interface(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let views = stage.settled(&nodes)?;
    for node in &nodes {
        let found = stage.lab.run(node, "ip link show c3os0")?.status.success();
        ensure!(!found, "{node} has c3os0, though `vpn.create: false`");
    }
    stage.units_up(&nodes, &views)
}

/// `get-kubeconfig` on a laptop before there is anything to get.
pub(super) fn no_kubeconfig_yet(stage: &mut Stage) -> Result<()> {
    stage.lab.boot(&["n1", "laptop"])?;
    let token = until(SOON, || Ok(stage.lab.say("n1", "c3os get-network-token").ok()))?.unwrap_or_default();
    stage.lab.background("bridge", &["exec", "laptop", "--", "c3os", "bridge", "--network-token", &token])?;
    stage.lab.wait_for(&["laptop"], "the bridge sees the one node", SOON, &mut |views| {
        views[0].live_others() >= 1
    })?;
    let output = stage.lab.run("laptop", "c3os get-kubeconfig")?;
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "get-kubeconfig ended with {}", output.status);
    ensure!(
        output.stdout.is_empty() && !why.trim().is_empty(),
        "get-kubeconfig did not say why there is nothing"
    );
    Ok(())
}
