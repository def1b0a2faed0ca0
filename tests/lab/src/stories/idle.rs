//! What a mesh costs in which nothing happens.

use anyhow::{Context, Result, ensure};

use super::{Stage, refs};
use crate::cluster::Cluster;

/// Resident memory of an agent, KiB.
const MOST_KIB: u64 = 24 * 1024;
/// Processor time, in thousandths of a core.
const MOST_CPU: f64 = 2.0;
/// Bytes per second that a node sends on the LAN, all included.
const MOST_SENT: f64 = 512.0;
const SECONDS: u64 = 60;

/// `VmRSS`, ticks of processor time, and bytes sent, of one node.
const MEASURE: &str = "for p in /proc/[0-9]*; do \
    tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^/usr/bin/c3os agent' || continue; \
    sed -n 's/VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' $p/status; \
    sed 's/.*) //' $p/stat | cut -d' ' -f12,13; done; \
    cat /sys/class/net/eth0/statistics/tx_bytes";

#[derive(Clone, Copy)]
struct Cost {
    kib: u64,
    ticks: u64,
    sent: u64,
}

pub(super) fn idle(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    let nodes = refs(&names);
    let views = stage.settled(&nodes)?;
    stage.units_up(&nodes, &views)?;
    // What founding left to do is done after this.
    stage.lab.say("laptop", "sleep 20")?;
    let begin: Vec<_> = nodes.iter().map(|node| cost(stage, node)).collect::<Result<_>>()?;
    stage.lab.say("laptop", &format!("sleep {SECONDS}"))?;
    let end: Vec<_> = nodes.iter().map(|node| cost(stage, node)).collect::<Result<_>>()?;
    let hertz: f64 = stage.lab.say("laptop", "getconf CLK_TCK")?.parse().context("clock ticks")?;
    let mut worst = (0, 0.0_f64, 0.0_f64);
    for ((node, begin), end) in nodes.iter().zip(&begin).zip(&end) {
        let seconds = SECONDS as f64;
        let cpu = (end.ticks - begin.ticks) as f64 / hertz / seconds * 1000.0;
        let sent = (end.sent - begin.sent) as f64 / seconds;
        println!(
            "  {node}: RSS {:.1} MiB, CPU {:.2} %, sent {sent:.0} B/s",
            end.kib as f64 / 1024.0,
            cpu / 10.0
        );
        worst = (worst.0.max(end.kib), worst.1.max(cpu), worst.2.max(sent));
    }
    println!(
        "{}",
        serde_json::json!({ "rss_mib": (worst.0 as f64 / 102.4).round() / 10.0, "cpu_percent": (worst.1 * 10.0).round() / 100.0,
            "sent_bytes_per_second": worst.2.round() })
    );
    ensure!(worst.0 <= MOST_KIB, "an idle agent holds {} KiB; {MOST_KIB} are allowed", worst.0);
    ensure!(worst.1 <= MOST_CPU, "an idle agent takes {:.2} % of a core; 0.2 % are allowed", worst.1 / 10.0);
    ensure!(worst.2 <= MOST_SENT, "an idle node sends {:.0} B/s; {MOST_SENT} are allowed", worst.2);
    Ok(())
}

fn cost(stage: &Stage, node: &str) -> Result<Cost> {
    let text = stage.lab.say(node, MEASURE)?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [kib, user, system, sent] = numbers[..] else {
        anyhow::bail!("{node}: its agent is not running ({text})")
    };
    Ok(Cost { kib, ticks: user + system, sent })
}
