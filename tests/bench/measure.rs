//! What is measured while a tunnel is up: idle cost, latency, TCP both ways, small packets, and what it took.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ends::{End, Ends};
use super::report::Figures;

/// How long it may take.
pub struct Effort {
    pub seconds: u64,
    pub quick: bool,
}

const PORT: &str = "5201";
/// Usual on Linux, where some machines default to bbr.
const CONGESTION: &str = "cubic";
const IDLE: Duration = Duration::from_secs(3);
/// Bytes of UDP payload of a small packet.
const SMALL: &str = "64";

/// Measures everything from A to B's address `to`.
pub fn all(ends: &mut Ends, to: &str, effort: &Effort) -> Result<Figures> {
    let mut figures = Figures::new();
    // What building up left to do is done after this.
    std::thread::park_timeout(Duration::from_secs(1));
    if !effort.quick {
        let before = ticks(ends);
        let begin = Instant::now();
        std::thread::park_timeout(IDLE);
        let cpu = (ticks(ends) - before) as f64 / hertz() / begin.elapsed().as_secs_f64();
        figures.insert("idle_cpu_percent", cpu * 100.0);
        figures.insert("idle_rss_mib", rss(ends));
        let pings = pings(
            &ends
                .run(End::A, &["ping", "-n", "-q", "-c20", "-i0.01", to])
                .and_then(|_| ends.run(End::A, &["ping", "-n", "-c500", "-i0.004", "-W1", to]))?,
        );
        latency(&mut figures, ("idle_ping_p50_us", "idle_ping_p99_us"), pings);
    }
    set_congestion(ends, to)?;
    let mut server = ends.helper(End::B, &["iperf3", "-s", "-p", PORT])?;
    let measured = loaded(ends, to, effort, &mut figures);
    // Gone already is fine.
    let _ = server.kill();
    let _ = server.wait();
    measured?;
    figures.insert("loaded_rss_mib", rss(ends));
    Ok(figures)
}

/// Gives the way to `to` and back [`CONGESTION`]. A socket has to begin with it: one that changes to it once connected,
/// as with iperf3's own option, keeps bbr's pacing, and with that smaller super-packets and idle time.
fn set_congestion(ends: &Ends, to: &str) -> Result<()> {
    let mut to = to.to_owned();
    for end in End::BOTH {
        let text = ends.run(end, &["ip", "-j", "route", "get", &to])?;
        let routes: Value = serde_json::from_str(&text).context("ip's JSON")?;
        let word = |name: &str| routes[0][name].as_str();
        let (device, from) =
            word("dev").zip(word("prefsrc")).context("ip's JSON has no device and source")?;
        let via = word("gateway").map(|gateway| ["via", gateway]);
        let route = ["ip", "route", "replace", &to];
        let way = via.iter().flatten().copied().chain(["dev", device, "congctl", CONGESTION]);
        ends.run(end, &route.into_iter().chain(way).collect::<Vec<_>>())?;
        to = from.to_owned();
    }
    Ok(())
}

fn loaded(ends: &mut Ends, to: &str, effort: &Effort, figures: &mut Figures) -> Result<()> {
    ends.wait("iperf3", |ends| ends.run(End::B, &["sh", "-c", "ss -Hltn | grep -q ':5201 '"]).is_ok())?;
    let (whole, half) = (effort.seconds.to_string(), effort.seconds.div_ceil(2).max(2).to_string());
    let tcp = ["iperf3", "-c", to, "-p", PORT, "-J"];
    let (ticks_before, busy_before) = (ticks(ends), machine());
    let report = iperf(ends, &[&tcp[..], &["-t", &whole]].concat())?;
    let (busy, steal) = (machine().0 - busy_before.0, machine().1 - busy_before.1);
    let used = report.pointer("/end/sender_tcp_congestion").and_then(Value::as_str);
    ensure!(used == Some(CONGESTION), "iperf3 used {used:?} instead of {CONGESTION}");
    let gigabytes = number(&report, "/end/sum_received/bytes")? / 1e9;
    figures.insert("tcp_gbps", number(&report, "/end/sum_received/bits_per_second")? / 1e9);
    figures.insert("retransmits", number(&report, "/end/sum_sent/retransmits")?);
    figures.insert("cpu_s_per_gb", (ticks(ends) - ticks_before) as f64 / hertz() / gigabytes);
    figures.insert("machine_cpu_s_per_gb", busy as f64 / hertz() / gigabytes);
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    figures.insert("steal_percent", steal as f64 / hertz() / effort.seconds as f64 / cores * 100.0);
    if effort.quick {
        return Ok(());
    }
    let report = iperf(ends, &[&tcp[..], &["-t", &half, "-R"]].concat())?;
    figures.insert("tcp_reverse_gbps", number(&report, "/end/sum_received/bits_per_second")? / 1e9);
    let mut load = ends.helper(End::A, &[&tcp[..], &["-t", &half]].concat())?;
    std::thread::park_timeout(Duration::from_millis(500));
    let count = ((effort.seconds.div_ceil(2).max(2) - 1) * 100).to_string();
    let text = ends.run(End::A, &["ping", "-n", "-c", &count, "-i0.01", "-W2", to]);
    load.wait().context("iperf3")?;
    latency(figures, ("loaded_ping_p50_us", "loaded_ping_p99_us"), pings(&text?));
    let small = ["iperf3", "-c", to, "-p", PORT, "-J", "-u", "-b", "0", "-l", SMALL, "-t", &half];
    let report = iperf(ends, &small)?;
    let packets = number(&report, "/end/sum/packets")? - number(&report, "/end/sum/lost_packets")?;
    figures.insert("small_kpps", packets / number(&report, "/end/sum/seconds")? / 1e3);
    Ok(())
}

fn iperf(ends: &Ends, command: &[&str]) -> Result<Value> {
    let text = ends.run(End::A, command)?;
    serde_json::from_str(&text).context("iperf3's report")
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    report
        .pointer(pointer)
        .and_then(Value::as_f64)
        .with_context(|| format!("iperf3's report has no {pointer}"))
}

/// The round trips that ping printed, in microseconds.
fn pings(text: &str) -> Vec<f64> {
    let time = |line: &str| line.split_once("time=")?.1.split(' ').next()?.parse::<f64>().ok();
    text.lines().filter_map(time).map(|ms| ms * 1000.0).collect()
}

fn latency(figures: &mut Figures, names: (&'static str, &'static str), mut pings: Vec<f64>) {
    pings.sort_by(f64::total_cmp);
    for (name, percent) in [(names.0, 50), (names.1, 99)] {
        if let Some(value) = pings.get((pings.len() * percent / 100).min(pings.len().saturating_sub(1))) {
            figures.insert(name, *value);
        }
    }
}

/// Clock ticks that the tool has taken at both ends, all threads.
fn ticks(ends: &Ends) -> u64 {
    let of = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    End::BOTH.iter().flat_map(|end| ends.pids(*end)).filter_map(of).sum()
}

/// What the tool holds at A, MiB.
fn rss(ends: &Ends) -> f64 {
    let of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    ends.pids(End::A).into_iter().filter_map(of).fold(0.0, |sum, kib| sum + kib) / 1024.0
}

/// Clock ticks that the machine was busy, and those of them that went to other guests of the host.
fn machine() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let field = |at: usize| fields.get(at).copied().unwrap_or(0);
    ([0, 1, 2, 5, 6, 7].into_iter().map(field).sum(), field(7))
}

fn hertz() -> f64 {
    // SAFETY: sysconf takes a number and gives one.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_read_from_what_ping_prints() {
        let text = "64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.250 ms\n64 bytes from 10.0.0.2: icmp_seq=2 \
                    ttl=64 time=1 ms\n\nrtt min/avg\n";
        let round_trips = pings(text);
        assert_eq!(round_trips, [250.0, 1000.0]);
        let mut figures = Figures::new();
        latency(&mut figures, ("idle_ping_p50_us", "idle_ping_p99_us"), round_trips);
        assert_eq!(figures["idle_ping_p99_us"], 1000.0);
    }
}
