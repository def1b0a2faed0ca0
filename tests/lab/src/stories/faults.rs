//! Broken cables, wrong tokens, strangers, broken files: refused or survived, and seen.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{SOON, Stage, pass, refs, unchanged};
use crate::cluster::{Cluster, until};
use crate::dir::Init;
use crate::{lab, product, require};

pub(super) fn cut_cable(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    stage.all_reach_all(&nodes, &before)?;
    let address = before[2].ipv4.clone().context("no address")?;
    for other in &nodes[..2] {
        stage.lab.cut(other, "n3")?;
    }
    let gone = until(SOON, || Ok((!stage.lab.reaches("n1", &address)).then_some(())))?;
    ensure!(gone.is_some(), "n3 is cut off, and n1 still reaches it");
    stage.lab.wait_for(&nodes[..1], "n1 notices that n3 is gone", SOON, &mut |views| {
        views[0].live_others() == 1
    })?;
    stage.lab.heal()?;
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;
    stage.all_reach_all(&nodes, &after)
}

/// From the first boot on n3 hears nothing of what n1 says.
pub(super) fn one_way_link(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    // Power-on first: the rule is laid before the agent has found anybody.
    stage.lab.boot(&nodes[2..])?;
    let deaf =
        "table ip deaf { chain input { type filter hook input priority 0; ip saddr 10.77.0.1 drop; }; }";
    stage.lab.say("n3", &format!("echo '{deaf}' | /usr/sbin/nft -f -"))?;
    stage.lab.boot(&nodes[..2])?;
    let before = stage.settled(&nodes)?;
    let address = before[2].ipv4.clone().context("no address")?;
    ensure!(!stage.lab.reaches("n1", &address), "n3 is deaf to n1, and answers it");
    stage.lab.say("n3", "/usr/sbin/nft delete table ip deaf")?;
    stage.all_reach_all(&nodes, &before)?;
    unchanged(&before, &stage.settled(&nodes)?)
}

/// The kinds of the ways to all others, as a node tells them.
fn ways(stage: &Stage, node: &str) -> Result<Vec<String>> {
    let told: Value = serde_json::from_str(&stage.lab.say(node, "c3os peers --output json")?)?;
    let kind = |way: &Value| way["kind"].as_str().unwrap_or_default().to_owned();
    Ok(told.as_array().context("c3os peers gave no list")?.iter().map(kind).collect())
}

/// The network of n3 lets no UDP of the data plane pass: packets go through the mesh's own connections, and leave them
/// when it does.
pub(super) fn udp_blocked(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    stage.lab.boot(&nodes[2..])?;
    let chain =
        |hook| format!("chain {hook} {{ type filter hook {hook} priority 0; udp dport 51900-51903 drop; }}");
    let tcp_only = format!("table inet tcponly {{ {}; {}; }}", chain("input"), chain("output"));
    stage.lab.say("n3", &format!("echo '{tcp_only}' | /usr/sbin/nft -f -"))?;
    stage.lab.boot(&nodes[..2])?;
    let views = stage.settled(&nodes)?;
    stage.all_reach_all(&nodes, &views)?;
    let kinds = ways(stage, "n3")?;
    ensure!(kinds == ["stream", "stream"], "no UDP passes, and the ways from n3 are {kinds:?}");
    let address = views[2].ipv4.clone().context("no address")?;
    // Packets longer than any path of this network, whole and in pieces.
    for bytes in [1300, 4000] {
        stage.lab.say("n1", &format!("ping -n -q -c 3 -W 2 -s {bytes} {address}"))?;
    }
    stage.lab.say("n3", "/usr/sbin/nft delete table inet tcponly")?;
    let direct = until(SOON, || {
        stage.all_reach_all(&nodes, &views)?;
        Ok((ways(stage, "n3")? == ["direct", "direct"]).then_some(()))
    })?;
    ensure!(direct.is_some(), "UDP passes again, and the ways from n3 are {:?}", ways(stage, "n3")?);
    Ok(())
}

/// Where Debian's package libfaketime has what shows a program another wall clock.
const OTHER_CLOCK: &str = "/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketimeMT.so.1";

/// The wall clocks of the agents are hours apart, and are set while they run. Timers go on as they do when a real clock
/// is set.
pub(super) fn stepped_clocks(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    if !stage.lab.run("n1", &format!("test -e {OTHER_CLOCK}"))?.status.success() {
        require::packages(&["libfaketime"])?;
    }
    let before = stage.settled(&nodes)?;
    let set = |node: &str, offset: &str| stage.lab.say(node, &format!("echo {offset} >/run/clock"));
    let environment = format!(
        "LD_PRELOAD={OTHER_CLOCK} FAKETIME_TIMESTAMP_FILE=/run/clock FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1"
    );
    for (node, offset) in nodes.iter().zip(["+3h", "-5h", "+40d"]) {
        set(node, offset)?;
        match stage.init {
            Init::Systemd => stage.lab.say(node, &format!("systemctl set-environment {environment}"))?,
            Init::Openrc => {
                stage.lab.say(node, &format!("echo \"export {environment}\" >>/etc/conf.d/c3os-agent"))?
            }
        };
        stage.agent(node, "stop")?;
    }
    for node in &nodes {
        stage.agent(node, "start")?;
    }
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;
    for node in &nodes {
        let maps = "grep -l libfaketime /proc/[0-9]*/maps | while read maps; do tr '\\0' ' ' <${maps%maps}cmdline; echo; done";
        let faked = stage.lab.say(node, maps)?;
        ensure!(faked.contains("c3os agent"), "{node}: the agent's clock is the real one: {faked}");
    }
    for (node, offset) in nodes.iter().zip(["-9h", "+2d", "+0"]) {
        set(node, offset)?;
    }
    // What somebody says from now on still reaches everybody.
    stage.lab.add()?;
    let names = stage.names();
    let nodes = refs(&names);
    let grown = stage.settled(&nodes)?;
    unchanged(&before, &grown)?;
    stage.all_reach_all(&nodes, &grown)
}

/// n4 has a token of another network.
pub(super) fn wrong_token(stage: &mut Stage) -> Result<()> {
    let other = product::create_config(&stage.lab.binary(), 3)?;
    // By multicast it would not even find them: the name they call is made from the token.
    let other = lab::with_settings(&other, &["discovery: { bootstrap: [\"/ip4/10.77.0.1/tcp/4001\"] }"])?;
    stage.lab.write("n4", "/oem/config.yaml", &other)?;
    let names = stage.names();
    let nodes = refs(&names);
    stage.lab.boot(&nodes)?;
    let inside = &nodes[..3];
    let before = stage.settled(inside)?;
    let seen = stage.lab.wait_for(&nodes, "the stranger was refused and counted", SOON, &mut |views| {
        views.iter().map(|view| view.counted(&["mesh.refused."])).sum::<u64>() > 0
    })?;
    ensure!(seen[3].live_others() == 0 && seen[3].members.len() <= 1, "the stranger learned of others");
    ensure!(seen[..3].iter().all(|view| view.members.len() == 3), "the stranger is a member");
    unchanged(&before, &stage.settled(inside)?)
}

/// Datagrams that were dropped before any work was done for them.
const GARBAGE: &[&str] = &["data.short", "data.malformed", "data.unknown_session"];

/// Noise at every open port of n1, from a machine of the LAN that is no member.
pub(super) fn garbage(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    let noise = "for i in $(seq 300); do head -c $((i * 4)) /dev/urandom >/dev/udp/10.77.0.1/51900; \
                 head -c $((i * 4)) /dev/urandom >/dev/udp/10.77.0.1/4001; done; \
                 for i in $(seq 20); do head -c 3000 /dev/urandom >/dev/tcp/10.77.0.1/4001; done; true";
    stage.lab.say("laptop", &format!("bash -c '{noise}' 2>/dev/null; true"))?;
    stage.lab.wait_for(&nodes[..1], "what was dropped is counted", SOON, &mut |views| {
        views[0].counted(GARBAGE) > before[0].counted(GARBAGE)
    })?;
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;
    stage.all_reach_all(&nodes, &after)
}

/// n3's file has an unknown key and a value of the wrong type.
pub(super) fn broken_config(stage: &mut Stage) -> Result<()> {
    let text = stage.lab.config()?;
    let broken = text.replacen("c3os:\n", "c3os:\n  rolle: master\n  dns: [1, 2]\n", 1);
    ensure!(broken != text, "the config has no line `c3os:`");
    stage.lab.write("n3", "/oem/config.yaml", &broken)?;
    let names = stage.names();
    let nodes = refs(&names);
    stage.lab.boot(&nodes)?;
    let views = stage.lab.wait_for(&nodes, "all three see each other", SOON, &mut |views| {
        views.iter().all(|view| view.live_others() == 2)
    })?;
    let words = views[2].problems.join("\n");
    ensure!(words.contains("rolle"), "status of n3 does not name the unknown key: {words}");
    let refused = stage.lab.run("n3", "c3os validate /oem/config.yaml")?;
    ensure!(refused.status.code() == Some(1), "validate ended with {}", refused.status);
    Ok(())
}

/// The place where n3 keeps its state has not a byte left.
pub(super) fn full_disk(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let before = stage.settled(&nodes)?;
    stage.agent("n3", "stop")?;
    stage.lab.say(
        "n3",
        "mkdir /run/small && mount -t tmpfs -o size=2m,mode=700 small /run/small && \
         cp -a /usr/local/.c3os/. /run/small/ && mount --move /run/small /usr/local/.c3os && \
         { dd if=/dev/zero of=/usr/local/.c3os/filler bs=4k 2>/dev/null; true; }",
    )?;
    stage.agent("n3", "start")?;
    let after = stage.settled(&nodes)?;
    unchanged(&before, &after)?;
    stage.all_reach_all(&nodes, &after)?;
    pass(Duration::from_secs(2))?;
    stage.lab.say("n3", "rm /usr/local/.c3os/filler")?;
    unchanged(&before, &stage.settled(&nodes)?)
}
