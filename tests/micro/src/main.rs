//! What one packet costs the data plane, without a kernel: instructions of each step, and how the time of a datagram
//! grows with the number of live sessions. `cargo run --release -p micro`
//!
//! Instructions are counted by valgrind, as the difference between many and few repetitions, so they are the same on
//! every machine with the same instructions (valgrind has AES-NI and AVX2, no VAES). Times are the shortest of
//! interleaved rounds; only their ratios say something.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

mod hub;
mod work;

use std::{
    env,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::work::{NAMES, TRAIN, Trains};

/// Repetitions of a step whose instructions are counted.
const FEW: u32 = 100;
const MANY: u32 = 1100;
/// Live sessions, and how many of them send at most.
const SESSIONS: [u16; 4] = [1, 10, 100, 1000];
const SENDING: u16 = 50;
const ROUNDS: usize = 200;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [] => measure(),
        ["--step", name, times] => step(name, times),
        _ => bail_with_help(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("micro: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bail_with_help() -> Result<()> {
    bail!("without arguments all is measured; --step NAME TIMES repeats one of {}", NAMES.join(" "))
}

fn step(name: &str, times: &str) -> Result<()> {
    ensure!(work::run(name, times.parse().context("TIMES")?), "there is no step {name}");
    Ok(())
}

fn measure() -> Result<()> {
    let mut instructions = Map::new();
    for name in NAMES {
        let each = (count(name, MANY)? - count(name, FEW)?) / u64::from(MANY - FEW);
        eprintln!("micro: {name}: {each} instructions");
        instructions.insert(name.to_owned(), json!(each));
    }
    let sessions = sessions();
    println!("{}", json!({ "instructions": instructions, "sessions": sessions }));
    Ok(())
}

/// Instructions of a process that does the step so many times.
fn count(name: &str, times: u32) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(env::current_exe().context("this program")?)
        .args(["--step", name, &times.to_string()])
        .output()
        .context("valgrind: apt-get install valgrind")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind: {told}");
    let line = told.lines().find_map(|line| line.split_once("I   refs:").or(line.split_once("I refs:")));
    let (_, number) = line.with_context(|| format!("valgrind counted nothing: {told}"))?;
    number.trim().replace(',', "").parse().context("valgrind's count")
}

/// Nanoseconds of one datagram at a node with so many live sessions, each way.
fn sessions() -> Vec<Value> {
    let mut hubs: Vec<(u16, Trains, [Duration; 2])> = SESSIONS
        .into_iter()
        .map(|count| (count, Trains::new(count, usize::from(count.min(SENDING))), [Duration::MAX; 2]))
        .collect();
    for round in 0..ROUNDS {
        for (_, trains, best) in &mut hubs {
            let sending = trains.sending();
            let (mut send, mut receive) = (Duration::ZERO, Duration::ZERO);
            // As many trains of every hub, from and to one spoke after the other.
            for train in 0..usize::from(SENDING) {
                let at = (round + train) % sending;
                trains.lay_packets(at);
                let begin = Instant::now();
                trains.send();
                send += begin.elapsed();
                trains.lay_train(at);
                let begin = Instant::now();
                trains.receive(at);
                receive += begin.elapsed();
            }
            *best = [best[0].min(send), best[1].min(receive)];
        }
    }
    let datagrams = f64::from(SENDING) * TRAIN as f64;
    let each = |time: Duration| (time.as_secs_f64() * 1e10 / datagrams).round() / 10.0;
    let first = hubs[0].2;
    let rows = hubs.iter().map(|(count, trains, [send, receive])| {
        let ratio = |time: Duration, first: Duration| {
            (time.as_secs_f64() / first.as_secs_f64() * 1000.0).round() / 1000.0
        };
        let row = json!({
            "sessions": count,
            "sending": trains.sending(),
            "send_ns": each(*send),
            "receive_ns": each(*receive),
            "send_ratio": ratio(*send, first[0]),
            "receive_ratio": ratio(*receive, first[1]),
        });
        eprintln!("micro: {row}");
        row
    });
    rows.collect()
}
