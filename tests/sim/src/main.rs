//! Whole clusters in virtual time, under seeded faults.
//!
//! `cargo sim --schedules 10000` runs that many stories and prints a line of JSON; `--seed S` replays one and tells it.

mod host;
mod invariant;
mod schedule;
mod world;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use invariant::Watch;
use schedule::Schedule;
use serde::Serialize;

/// How long after the last fault everything has to be as it shall be.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);

/// What one schedule came to.
#[derive(Default)]
struct Outcome {
    violation: Option<String>,
    faults: BTreeMap<&'static str, u64>,
    coverage: BTreeMap<&'static str, bool>,
    trace: String,
    settled_after: Duration,
}

#[derive(Serialize)]
struct Report {
    schedules: u64,
    faults: BTreeMap<&'static str, u64>,
    /// Share of the schedules in which it happened, in per cent.
    coverage: BTreeMap<&'static str, f64>,
    violations: u64,
    seconds: f64,
}

fn run(seed: u64, epoch: Instant) -> Outcome {
    let Schedule { mut world, rule_holds, faults, forced_masters, .. } = Schedule::new(seed, epoch);
    let mut watch = Watch::default();
    let mut violation = None;
    world.run(faults, |world| {
        violation = watch.check(world, rule_holds).err();
        violation.is_some()
    });
    let healed = world.elapsed();
    if violation.is_none() {
        // Several forced masters without HA: nobody founds, and everybody says so.
        let must_settle = rule_holds && forced_masters <= 1 && world.counts.ledgers_lost == 0;
        let settled = world.run(SETTLED_WITHIN, |world| {
            violation = watch.check(world, rule_holds).err();
            violation.is_some() || watch.is_settled(world)
        });
        if violation.is_none() && must_settle && !settled {
            violation =
                Some(format!("not settled {SETTLED_WITHIN:?} after the last fault:\n{}", picture(&world)));
        }
    }
    let counts = world.counts;
    Outcome {
        violation,
        faults: BTreeMap::from([
            ("messages_lost", counts.lost),
            ("messages_duplicated", counts.duplicated),
            ("crashes", counts.crashes),
            ("torn_writes", counts.torn_writes),
            ("ledgers_lost", counts.ledgers_lost),
            ("cuts", counts.cuts),
            ("heals", counts.heals),
        ]),
        coverage: BTreeMap::from([
            ("competing_ballots", world.proposers() > 1),
            ("torn_promise", counts.torn_promises > 0),
            ("amnesiac_voter", counts.ledgers_lost > 0),
            ("healed_partition", counts.heals > 0),
            ("forced_masters", forced_masters > 1),
        ]),
        trace: world.trace(),
        settled_after: world.elapsed() - healed,
    }
}

fn picture(world: &world::World) -> String {
    let lines = world.hosts.iter().map(|host| match &host.node {
        None => format!("  {}: off", host.name),
        Some(node) => {
            let snapshot = node.snapshot();
            let role = host.order.as_ref().map(|order| order.assignment.role.to_string());
            format!(
                "  {}: {:?} role {role:?} live {}/{} digest {} | {}",
                host.name,
                snapshot.cluster.state,
                snapshot.members.iter().filter(|member| member.live).count(),
                snapshot.members.len(),
                node.ledger().fingerprint(),
                snapshot.cluster.message,
            )
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn main() -> ExitCode {
    let mut schedules = 1_000;
    let mut first = 1;
    let mut one = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|value| value.parse::<u64>().ok());
        match (argument.as_str(), number()) {
            ("--schedules", Some(value)) => schedules = value,
            ("--first", Some(value)) => first = value,
            ("--seed", Some(value)) => one = Some(value),
            (other, _) => {
                eprintln!("sim: {other}: use --schedules N [--first SEED], or --seed S");
                return ExitCode::from(2);
            }
        }
    }
    #[allow(clippy::disallowed_methods, reason = "virtual time needs one real instant to begin with")]
    let epoch = Instant::now();
    match one {
        Some(seed) => replay(seed, epoch),
        None => sweep(first, schedules, epoch),
    }
}

fn replay(seed: u64, epoch: Instant) -> ExitCode {
    let (outcome, again) = (run(seed, epoch), run(seed, epoch));
    println!(
        "seed {seed}: trace {}, settled {:?} after the last fault",
        outcome.trace, outcome.settled_after
    );
    if outcome.trace != again.trace {
        println!("the same seed gave another trace: {}", again.trace);
        return ExitCode::FAILURE;
    }
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}

fn sweep(first: u64, schedules: u64, epoch: Instant) -> ExitCode {
    let next = AtomicU64::new(first);
    let report = Mutex::new(Report {
        schedules,
        faults: BTreeMap::new(),
        coverage: BTreeMap::new(),
        violations: 0,
        seconds: 0.0,
    });
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + schedules {
                return;
            }
            let outcome = run(seed, epoch);
            let mut report = report.lock().expect("no thread panics while it holds the report");
            for (fault, count) in outcome.faults {
                *report.faults.entry(fault).or_default() += count;
            }
            for (what, happened) in outcome.coverage {
                *report.coverage.entry(what).or_default() += f64::from(u8::from(happened));
            }
            if let Some(violation) = outcome.violation {
                report.violations += 1;
                if report.violations <= 10 {
                    eprintln!("seed {seed}: {violation}\n  replay: cargo sim --seed {seed}");
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut report = report.into_inner().expect("all threads have ended");
    for share in report.coverage.values_mut() {
        *share = (*share / schedules as f64 * 1000.0).round() / 10.0;
    }
    report.seconds = (epoch.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
    if report.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
