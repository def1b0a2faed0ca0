//! Who is a member, and with which token: replaced tokens, banned, removed and reset machines.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{SOON, Stage, pass, refs, unchanged};
use crate::cluster::{Cluster, until};
use crate::product::Status;

/// A banned machine is out, everywhere, within this.
const OUT: Duration = Duration::from_secs(10);
const TOKEN: &str = "c3os get-network-token";

/// Whose role is `role`, by position.
fn with_role(views: &[Status], role: &str) -> Result<usize> {
    let found = views.iter().position(|view| view.assigned.as_deref() == Some(role));
    found.with_context(|| format!("nobody is {role}"))
}

pub(super) fn rotation(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    stage.all_reach_all(&nodes, &before)?;
    let (asker, far) = (with_role(&before, "worker")?, with_role(&before, "master")?);
    let old = stage.lab.say(nodes[asker], TOKEN)?;
    let comments = "grep -c '^#' /oem/config.yaml; stat -c %a /oem/config.yaml";
    let file = stage.lab.say(nodes[asker], comments)?;

    let address = before[far].ipv4.clone().context("no address")?;
    let ping = format!("ping -n -q -i 0.1 -w 6 {address} >/run/pings 2>&1 &");
    stage.lab.say(nodes[asker], &ping)?;
    let begin = Instant::now();
    stage.lab.say(nodes[asker], "c3os rotate --wait 30")?;
    println!("  replaced on all machines after {:.1} s", begin.elapsed().as_secs_f64());
    let done = "grep -q transmitted /run/pings";
    let pings = until(SOON, || Ok(stage.lab.run(nodes[asker], done)?.status.success().then_some(())))?;
    ensure!(pings.is_some(), "the pings did not end");
    let pings = stage.lab.say(nodes[asker], "grep transmitted /run/pings")?;
    println!("  {pings}");
    ensure!(pings.contains(" 0% packet loss"), "pings were lost: {pings}");

    let new = stage.lab.say(nodes[asker], TOKEN)?;
    ensure!(new != old, "the token in config.yaml is the old one");
    for node in &nodes {
        ensure!(stage.lab.say(node, TOKEN)? == new, "{node} has another token than {}", nodes[asker]);
        let left = stage.lab.run(node, &format!("grep -rlF '{old}' /oem"))?;
        ensure!(left.stdout.is_empty(), "{node}: the old token is still in a file");
    }
    ensure!(stage.lab.say(nodes[asker], comments)? == file, "comments or mode of config.yaml changed");
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;

    // With the old disk of a machine that was off it goes as well: the power is cut while the next token comes.
    stage.lab.kill(&[nodes[asker]])?;
    let rest: Vec<&str> = nodes.iter().copied().filter(|node| *node != nodes[asker]).collect();
    stage.lab.wait_for(&rest, "its absence is noticed", SOON, &mut |views| {
        views.iter().all(|view| view.live_others() + 1 == rest.len())
    })?;
    stage.lab.say(nodes[far], "c3os rotate --wait 30")?;
    stage.lab.boot(&[nodes[asker]])?;
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;
    let newest = stage.lab.say(nodes[far], TOKEN)?;
    let fetched =
        until(SOON, || Ok(stage.lab.say(nodes[asker], TOKEN).is_ok_and(|it| it == newest).then_some(())))?;
    ensure!(fetched.is_some(), "the machine that was off did not fetch the new token");
    stage.all_reach_all(&nodes, &after)
}

pub(super) fn ban(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    let (lead, out) = (with_role(&before, "master")?, with_role(&before, "worker")?);
    let (lead, banned) = (nodes[lead], nodes[out]);
    let inside: Vec<&str> = nodes.iter().copied().filter(|node| *node != banned).collect();
    let id = before[out].id.clone();
    let old = stage.lab.say(banned, TOKEN)?;

    let begin = Instant::now();
    tells_of_kubernetes(stage, lead, &format!("c3os node ban {banned}"))?;
    let is_out = |view: &Status| view.members.iter().all(|member| member.id != id);
    stage.lab.wait_for(&inside, "the banned machine is out", OUT, &mut |views| {
        views.iter().all(|view| is_out(view) && view.live_others() + 1 == inside.len())
    })?;
    println!("  out everywhere after {:.1} s", begin.elapsed().as_secs_f64());
    let alone = |view: &Status| view.live_others() == 0;
    stage.lab.wait_for(&[banned], "the banned machine is alone", OUT, &mut |views| alone(&views[0]))?;
    for node in &inside {
        let renewed =
            until(OUT, || Ok(stage.lab.say(node, TOKEN).is_ok_and(|token| token != old).then_some(())))?;
        ensure!(renewed.is_some(), "{node} still uses the token that the banned machine knows");
    }
    ensure!(begin.elapsed() <= OUT, "it took {:.1} s", begin.elapsed().as_secs_f64());
    // It kept its disk, and tries again under a new identity.
    stage.agent(banned, "stop")?;
    stage
        .lab
        .say(banned, "rm -rf /usr/local/.c3os/identity /usr/local/.c3os/ledger /usr/local/.c3os/mark")?;
    stage.agent(banned, "start")?;
    let tried =
        stage.lab.wait_for(&[banned], "it has a new identity", SOON, &mut |views| views[0].id != id)?;
    pass(OUT)?;
    let views = stage.lab.wait_for(&nodes, "all agents answer", SOON, &mut |_| true)?;
    ensure!(views.iter().all(is_out), "the banned identity is a member");
    for (node, view) in nodes.iter().zip(&views).filter(|(node, _)| **node != banned) {
        ensure!(view.members.iter().all(|member| member.id != tried[0].id), "{node} let the new identity in");
    }
    ensure!(alone(&views[out]), "the banned machine is on the mesh");
    for view in views.iter().filter(|view| view.id != tried[0].id) {
        let address = view.ipv4.as_deref().context("no address")?;
        ensure!(!stage.lab.reaches(banned, address), "the banned machine reaches {address}");
    }
    let rest: Vec<_> = before.iter().filter(|view| view.id != id).cloned().collect();
    unchanged(&rest, &stage.settled(&inside)?)
}

/// Runs a verb that takes a node out of Kubernetes too. The sample k3s has no API: what is left to do has to be said.
fn tells_of_kubernetes(stage: &Stage, lead: &str, command: &str) -> Result<()> {
    let said = stage.lab.say(lead, &format!("{command} 2>&1"))?;
    ensure!(said.contains("kubectl delete node") && said.contains("node-password"), "it says: {said}");
    Ok(())
}

pub(super) fn removal(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    let (lead, gone) = (with_role(&before, "master")?, with_role(&before, "worker")?);
    let (lead, id, gone) = (nodes[lead], before[gone].id.clone(), nodes[gone]);
    let rest: Vec<&str> = nodes.iter().copied().filter(|node| *node != gone).collect();
    let remove = format!("c3os node remove {gone}");
    let refused = stage.lab.run(lead, &remove)?;
    ensure!(refused.status.code() == Some(1), "a running node was removed");
    stage.lab.kill(&[gone])?;
    stage.lab.wait_for(&rest, "its absence is noticed", SOON, &mut |views| {
        views.iter().all(|view| view.live_others() + 1 == rest.len())
    })?;
    tells_of_kubernetes(stage, lead, &remove)?;
    stage.lab.wait_for(&rest, "it is forgotten", SOON, &mut |views| {
        views.iter().all(|view| view.members.iter().all(|member| member.id != id))
    })?;
    stage.lab.boot(&[gone])?;
    let after = stage.settled(&nodes)?;
    ensure!(after.iter().any(|view| view.id == id), "it came back as somebody else");
    stage.all_reach_all(&nodes, &after)
}

pub(super) fn reset(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    stage.units_up(&nodes, &before)?;
    let refused = stage.lab.run(nodes[with_role(&before, "master")?], "c3os reset --yes")?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && why.contains("server"), "the one server was reset: {why}");

    let worker = nodes[with_role(&before, "worker")?];
    let starts = |stage: &Stage| stage.lab.say(worker, "wc -l </var/log/k3s-starts");
    let before_reset = starts(stage)?;
    stage.lab.say(worker, "c3os reset --yes")?;
    let again = until(SOON, || Ok((starts(stage)? != before_reset).then_some(())))?;
    ensure!(again.is_some(), "{worker}: k3s was not started again");
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;
    stage.units_up(&nodes, &after)?;
    stage.all_reach_all(&nodes, &after)
}

pub(super) fn old_image(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    let node = nodes[with_role(&before, "worker")?];
    stage.agent(node, "stop")?;
    stage.lab.say(node, "cp -a /usr/local/.c3os /usr/local/image")?;
    stage.agent(node, "start")?;
    // It says something new: with whom it is connected.
    stage.settled(&nodes)?;
    let other = nodes.iter().find(|other| **other != node).context("nobody else")?;
    stage.lab.cut(node, other)?;
    stage.lab.wait_for(&[node], "the cut is noticed", SOON, &mut |views| {
        views[0].counted(&["mesh.neighbours"]) == 1
    })?;
    stage.lab.heal()?;
    stage.lab.wait_for(&[node], "the cut has healed", SOON, &mut |views| {
        views[0].counted(&["mesh.neighbours"]) == 2
    })?;
    stage.settled(&nodes)?;
    stage.agent(node, "stop")?;
    stage.lab.say(node, "rm -rf /usr/local/.c3os && mv /usr/local/image /usr/local/.c3os")?;
    stage.agent(node, "start")?;
    stage.lab.wait_for(&[node], "the old image is recognised", SOON, &mut |views| {
        views[0].problems.iter().any(|problem| problem.contains("older"))
    })?;
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;
    stage.all_reach_all(&nodes, &after)
}
