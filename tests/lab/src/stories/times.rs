//! How long a boot takes, measured on the machines themselves.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{SOON, Stage, refs};
use crate::cluster::{Cluster, until};

/// From the start of the last agent until every node has applied its role, seconds.
const ROLES: f64 = 5.0;
/// From the start of an agent on a later boot until its address is on the interface, seconds.
const ADDRESS: f64 = 1.0;
/// Processor time of one `c3os stage NAME`, seconds.
const STAGE: f64 = 0.050;
/// How often a boot and a stage are measured; the median counts.
const ROUNDS: usize = 5;

/// When the agent started, in ticks since the machine's boot; the machine's uptime and clock now, both in seconds.
const AGENT_STARTED: &str = "for p in /proc/[0-9]*; do \
    tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^/usr/bin/c3os agent' || continue; \
    sed 's/.*) //' $p/stat | cut -d' ' -f20; done; cut -d' ' -f1 /proc/uptime; date +%s.%N";
/// When the interface had an address, in seconds of uptime.
const ADDRESS_CAME: &str = "for i in $(seq 2000); do \
    ip -4 -o addr show dev c3os0 2>/dev/null | grep -q inet && { cut -d' ' -f1 /proc/uptime; exit; }; sleep 0.005; done; \
    exit 1";

pub(super) fn times(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let (mut roles, mut addresses) = (Vec::new(), Vec::new());
    stage.lab.boot(&nodes)?;
    stage.settled(&nodes)?;
    let hertz: f64 = stage.lab.say(nodes[0], "getconf CLK_TCK")?.parse().context("clock ticks")?;
    roles.push(roles_after_last_start(stage, &nodes, hertz)?);
    for _ in 0..ROUNDS {
        for node in &nodes {
            stage.agent(node, "stop")?;
            stage.lab.say(node, "ip link del c3os0 2>/dev/null; true")?;
            stage.agent_soon(node, "start")?;
            let came: f64 = stage.lab.say(node, ADDRESS_CAME)?.parse().context("an uptime")?;
            let [started, _, _] = numbers(stage, node, AGENT_STARTED)?;
            addresses.push(came - started / hertz);
        }
        stage.settled(&nodes)?;
    }
    let stages = stages(stage, nodes[0])?;
    let (role, address) = (median(&mut roles), median(&mut addresses));
    println!(
        "{}",
        json!({ "roles_seconds": round(role), "address_seconds": round(address), "stage_cpu_seconds": stages })
    );
    ensure!(role <= ROLES, "roles took {role:.2} s; {ROLES} are allowed");
    ensure!(address <= ADDRESS, "an address took {address:.2} s; {ADDRESS} is allowed");
    for (name, seconds) in stages {
        ensure!(
            seconds <= STAGE,
            "the stage {name} takes {seconds} s of processor time; {STAGE} are allowed"
        );
    }
    Ok(())
}

/// Seconds between the start of the last agent and the moment when the last role was applied.
fn roles_after_last_start(stage: &Stage, nodes: &[&str], hertz: f64) -> Result<f64> {
    let (mut started, mut applied) = (0.0_f64, 0.0_f64);
    for node in nodes {
        let [ticks, uptime, clock] = numbers(stage, node, AGENT_STARTED)?;
        started = started.max(clock - uptime + ticks / hertz);
        let written = until(SOON, || Ok(stage.lab.say(node, "stat -c %.9Y /usr/local/.c3os/applied").ok()))?;
        applied = applied.max(written.context("no role was applied")?.parse().context("a time")?);
    }
    Ok(applied - started)
}

/// Processor time of each stage, user and system, in seconds, on a machine where nothing is left to do.
fn stages(stage: &Stage, node: &str) -> Result<BTreeMap<&'static str, f64>> {
    let measure = |name: &'static str| {
        let command =
            format!("bash -c 'TIMEFORMAT=\"%3U %3S\"; time c3os stage {name} >/dev/null 2>&1' 2>&1");
        let mut taken = Vec::new();
        for _ in 0..ROUNDS {
            let [user, system] = numbers(stage, node, &command)?;
            taken.push(user + system);
        }
        Ok((name, round(median(&mut taken))))
    };
    ["initramfs", "boot", "network"].into_iter().map(measure).collect()
}

fn numbers<const N: usize>(stage: &Stage, node: &str, command: &str) -> Result<[f64; N]> {
    let text = stage.lab.say(node, command)?;
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().ok().with_context(|| format!("{node}: {N} numbers were expected, not {text:?}"))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::INFINITY)
}

fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
