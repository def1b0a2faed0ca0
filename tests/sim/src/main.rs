//! Whole clusters in virtual time, under seeded faults.
//!
//! `cargo sim --schedules 10000` runs that many stories and prints a line of JSON; `--seed S` replays one, leaves out
//! of it what does not matter if it fails, and tells the rest; `--kept` replays those of `seeds.txt`, which once found
//! something; `--nodes 1000 --idle 600` measures a large mesh; `--mutations` breaks the protocol in the ways of `mutations.txt` and shows that each is caught.

mod api;
mod errors;
mod faults;
mod gates;
mod host;
mod invariant;
mod liar;
mod model;
mod mutations;
mod promises;
mod scale;
mod schedule;
mod shrink;
mod wire;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use c3os::election::Role;
use faults::Action;
use host::Host;
use invariant::Watch;
use schedule::{Plot, Schedule};
use serde::Serialize;
use world::World;

/// How long after the last fault everything has to be as it shall be.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);
/// How long it is watched where it does not have to be.
const EXEMPT: Duration = Duration::from_secs(30);
/// How long a liar is listened to at least.
const LISTENED: Duration = Duration::from_secs(20);
/// How often it is looked whether everything is as it shall be.
const LOOK: Duration = Duration::from_millis(100);
/// Seeds that once found something, one a line; `#` begins a comment.
const KEPT: &str = include_str!("../seeds.txt");

/// What one schedule came to.
#[derive(Default)]
struct Outcome {
    violation: Option<String>,
    faults: BTreeMap<&'static str, u64>,
    coverage: BTreeMap<&'static str, bool>,
    trace: String,
    settled_after: Duration,
    /// What was planned: when and what.
    story: Vec<(Duration, Action)>,
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

/// Plays the schedule of a seed, without some of what is planned in it.
fn run(seed: u64, without: &BTreeSet<usize>, epoch: Instant) -> Outcome {
    let mut schedule = Schedule::new(seed, without, epoch);
    let mut watch = Watch::default();
    let hosts = &schedule.world.hosts;
    match schedule.plot {
        Plot::Cloned => watch.cloned.insert(hosts[0].id()),
        Plot::Restored => {
            let restored = schedule.world.story.iter().find_map(|(_, action)| match action {
                Action::Restore(host) => Some(hosts[*host].id()),
                _ => None,
            });
            restored.is_some_and(|id| watch.cloned.insert(id))
        }
        _ => false,
    };
    watch.liars = hosts.iter().filter(|host| host.lies).map(Host::id).collect();
    errors::take();
    let mut settled_after = Duration::ZERO;
    let mut exempt = false;
    let violation = story(&mut schedule, &mut watch, &mut settled_after, &mut exempt)
        .err()
        .map(|why| format!("violation: {:?}: {why}\n{}", schedule.plot, picture(&schedule.world)));
    let counts = schedule.world.counts;
    let covered = watch.coverage;
    Outcome {
        violation,
        faults: BTreeMap::from([
            ("messages_lost", counts.lost),
            ("messages_duplicated", counts.duplicated),
            ("messages_refused", counts.faults_of_peers),
            ("crashes", counts.crashes),
            ("torn_writes", counts.torn_writes),
            ("ledgers_lost", counts.ledgers_lost),
            ("cuts", counts.cuts),
            ("heals", counts.heals),
            ("one_way_links", counts.deafened),
            ("stalls", counts.stalls),
            ("disks_restored", counts.restored),
            ("tokens_replaced", counts.rotations),
        ]),
        coverage: BTreeMap::from([
            ("competing_ballots", covered.competing_ballots),
            ("torn_promise", covered.torn_promise),
            ("amnesiac_voter", covered.amnesiac_voter),
            ("healed_partition", covered.healed_partition),
            ("two_clusters", covered.two_clusters),
            ("lead_changed", covered.lead_changed),
            ("exempt_from_settling", exempt),
            ("cold_start", schedule.plot == Plot::ColdStart),
            ("servers", schedule.plot == Plot::Servers),
            ("rotation", schedule.plot == Plot::Rotation),
            ("banned", !schedule.world.banned.is_empty()),
            ("late", schedule.plot == Plot::Late),
            ("liar", schedule.plot == Plot::Liar),
            ("networks", schedule.plot == Plot::Networks),
            ("forced_masters", schedule.plot == Plot::ForcedMasters),
            ("cloned", schedule.plot == Plot::Cloned),
            ("restored", counts.restored > 0),
            ("apart", schedule.plot == Plot::Apart),
        ]),
        trace: schedule.world.trace(),
        settled_after,
        story: std::mem::take(&mut schedule.world.story),
    }
}

/// Plays a schedule to its end.
///
/// # Errors
/// What does not hold.
fn story(
    schedule: &mut Schedule,
    watch: &mut Watch,
    settled_after: &mut Duration,
    exempt: &mut bool,
) -> Result<(), String> {
    // Three masters without HA: the first that is alone founds, or nobody does; always one cluster at most.
    let rule_holds = schedule.rule_holds || schedule.plot == Plot::ForcedMasters;
    let world = &mut schedule.world;
    go_on(world, watch, rule_holds, schedule.faults)?;
    if schedule.plot == Plot::ForcedMasters {
        return told_what_to_change(world);
    }
    let healed = world.elapsed();
    if schedule.plot == Plot::Apart {
        return shown_apart(world, watch);
    }
    let same_votes = !matches!(schedule.plot, Plot::Cloned | Plot::Restored);
    let settles = schedule.rule_holds && same_votes && watch.must_settle(world);
    *exempt = !settles;
    let limit = if settles { SETTLED_WITHIN } else { EXEMPT };
    let settled = settle(world, watch, rule_holds, limit)?;
    if settles && !settled {
        return Err(format!("not settled {SETTLED_WITHIN:?} after the last fault"));
    }
    *settled_after = world.elapsed() - healed;
    if !settled || schedule.epilogue.is_empty() {
        return Ok(());
    }
    let mut last = Duration::ZERO;
    for (after, action) in &schedule.epilogue {
        world.plan(*after, *action);
        last = last.max(*after);
    }
    let listened = if schedule.plot == Plot::Liar { LISTENED } else { Duration::ZERO };
    go_on(world, watch, rule_holds, last + listened + LOOK)?;
    if !settle(world, watch, rule_holds, SETTLED_WITHIN)? {
        return Err(format!("not settled {SETTLED_WITHIN:?} after the epilogue"));
    }
    if schedule.plot == Plot::Rotation {
        let until = world.elapsed() + SETTLED_WITHIN;
        while world.elapsed() < until && world.is_rotated().is_err() {
            go_on(world, watch, rule_holds, LOOK)?;
        }
        return world.is_rotated();
    }
    let newcomer = world.hosts.last().and_then(|host| host.order.as_ref());
    if schedule.plot == Plot::Late && newcomer.is_none_or(|order| order.assignment.role != Role::Worker) {
        return Err("the one that came late is no worker".to_owned());
    }
    Ok(())
}

/// Time passes, and every rule is watched.
fn go_on(world: &mut World, watch: &mut Watch, rule_holds: bool, time: Duration) -> Result<(), String> {
    let mut broken = Ok(());
    world.run(time, |world| {
        broken = watch.check(world, rule_holds);
        broken.is_err()
    });
    broken
}

/// Time passes until everything is as it shall be; says whether it is.
fn settle(world: &mut World, watch: &mut Watch, rule_holds: bool, limit: Duration) -> Result<bool, String> {
    let until = world.elapsed() + limit;
    let mut looked = None;
    while world.elapsed() < until {
        let steps = Some(world.counts.steps);
        if std::mem::replace(&mut looked, steps) != steps && watch.is_settled(world) {
            return Ok(true);
        }
        go_on(world, watch, rule_holds, LOOK)?;
    }
    Ok(watch.is_settled(world))
}

/// Whatever was founded on either side, in the end everybody sees all of it.
fn shown_apart(world: &mut World, watch: &mut Watch) -> Result<(), String> {
    let until = world.elapsed() + SETTLED_WITHIN;
    while world.elapsed() < until && !invariant::is_conflict_shown(world) {
        go_on(world, watch, false, LOOK)?;
    }
    let shown = invariant::is_conflict_shown(world);
    if shown { Ok(()) } else { Err("another cluster is not shown on every node".to_owned()) }
}

/// A forced master that has no role says which key to change.
fn told_what_to_change(world: &World) -> Result<(), String> {
    let roleless = world.hosts.iter().filter(|host| host.order.is_none());
    for host in roleless {
        let message = host.node.as_ref().map(|node| node.snapshot().cluster.message).unwrap_or_default();
        if !message.contains("c3os.role") {
            return Err(format!("{} has no role and does not name `c3os.role`: {message}", host.name));
        }
    }
    Ok(())
}

fn picture(world: &World) -> String {
    let lines = world.hosts.iter().map(|host| match &host.node {
        None => format!("  {}: off", host.name),
        Some(node) => {
            let snapshot = node.snapshot();
            let role = host.order.as_ref().map_or("none".to_owned(), |order| {
                let (assignment, server) = (&order.assignment, order.facts.server_address);
                format!("{} at {}, server {server:?}", assignment.role, assignment.address)
            });
            format!(
                "  {}: {:?} role {role} lease {:?} live {}/{} digest {}{} | {}",
                host.name,
                snapshot.cluster.state,
                node.lease().map(|lease| lease.v4),
                snapshot.members.iter().filter(|member| member.live).count(),
                snapshot.members.len(),
                node.ledger().fingerprint(),
                tokens_of(host),
                snapshot.cluster.message,
            )
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// How far the replacement of the network token is on a machine, where there is one.
fn tokens_of(host: &host::Host) -> String {
    let Some(node) = host.node.as_ref() else { return String::new() };
    let Some(tokens) = node.tokens() else { return String::new() };
    let phase = node.snapshot().rotation.map(|rotation| (rotation.phase, rotation.waits_for.len()));
    format!(" token {} {phase:?}", tokens.number())
}

/// What the program was asked for.
struct Options {
    schedules: u64,
    first: u64,
    seed: Option<u64>,
    without: BTreeSet<usize>,
    /// Only schedules that are about this, by the name of a [`Plot`].
    plot: Option<String>,
    /// Ends with the first violation.
    until_one: bool,
    mutation: Option<String>,
    /// Members of a large mesh.
    nodes: Option<u64>,
    /// For how many seconds it is idle.
    idle: u64,
}

const USAGE: &str = "use --schedules N [--first SEED] [--plot NAME] [--until-one], --seed S [--without I,J,..], --kept, --nodes N \
                     [--idle SECONDS], or --mutations [--only NAME] [--schedules N]";

fn main() -> ExitCode {
    errors::listen();
    #[allow(clippy::disallowed_methods, reason = "virtual time needs one real instant to begin with")]
    let epoch = Instant::now();
    let mut options = Options {
        schedules: 1_000,
        first: 1,
        seed: None,
        without: BTreeSet::new(),
        plot: None,
        until_one: false,
        mutation: None,
        nodes: None,
        idle: 600,
    };
    let (mut all_kept, mut mutations, mut schedules) = (false, false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|value| value.parse::<u64>().ok());
        match argument.as_str() {
            "--kept" => all_kept = true,
            "--mutations" => mutations = true,
            "--until-one" => options.until_one = true,
            "--schedules" => schedules = Some(number().unwrap_or(options.schedules)),
            "--first" => options.first = number().unwrap_or(options.first),
            "--seed" => options.seed = number(),
            "--nodes" => options.nodes = number(),
            "--idle" => options.idle = number().unwrap_or(options.idle),
            "--plot" => options.plot = arguments.next(),
            "--only" => options.mutation = arguments.next(),
            "--without" => {
                let list = arguments.next().unwrap_or_default();
                options.without = list.split(',').filter_map(|index| index.parse().ok()).collect();
            }
            other => {
                eprintln!("sim: {other}: {USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    options.schedules = schedules.unwrap_or(options.schedules);
    if mutations {
        mutations::run(options.mutation.as_deref(), schedules)
    } else if all_kept {
        kept(epoch)
    } else if let Some(nodes) = options.nodes {
        scale::run(nodes as usize, options.idle, epoch)
    } else if let Some(seed) = options.seed {
        replay(seed, &options.without, epoch)
    } else {
        sweep(&options, epoch)
    }
}

/// Replays the seeds that once found something.
fn kept(epoch: Instant) -> ExitCode {
    let lines = KEPT.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let seeds: Vec<u64> = lines.filter_map(|line| line.parse().ok()).collect();
    let failed =
        seeds.iter().filter(|seed| replay(**seed, &BTreeSet::new(), epoch) == ExitCode::FAILURE).count();
    println!("{{\"seeds\":{},\"failed\":{failed}}}", seeds.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(seed: u64, without: &BTreeSet<usize>, epoch: Instant) -> ExitCode {
    let (outcome, again) = (run(seed, without, epoch), run(seed, without, epoch));
    println!(
        "seed {seed}: trace {}, settled {:?} after the last fault",
        outcome.trace, outcome.settled_after
    );
    if outcome.trace != again.trace {
        println!("the same seed gave another trace: {}", again.trace);
        return ExitCode::FAILURE;
    }
    let Some(violation) = outcome.violation else { return ExitCode::SUCCESS };
    println!("{violation}");
    let without = shrink::shrink(seed, without, &outcome.story, epoch);
    let shrunk = run(seed, &without, epoch);
    println!("without what does not matter:");
    for (index, (at, action)) in outcome.story.iter().enumerate() {
        if !without.contains(&index) {
            println!("  {at:>9.3?}  {action:?}");
        }
    }
    println!("{}", shrunk.violation.unwrap_or_default());
    let without = without.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    println!("replay: cargo sim --seed {seed} --without {without}");
    ExitCode::FAILURE
}

fn sweep(options: &Options, epoch: Instant) -> ExitCode {
    let Options { first, schedules, until_one, .. } = *options;
    let (next, played) = (AtomicU64::new(first), AtomicU64::new(0));
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
            if options.plot.as_ref().is_some_and(|plot| format!("{:?}", Plot::of(seed)) != *plot) {
                continue;
            }
            played.fetch_add(1, Ordering::Relaxed);
            let outcome = run(seed, &BTreeSet::new(), epoch);
            let mut report = report.lock().expect("no thread panics while it holds the report");
            for (fault, count) in outcome.faults {
                *report.faults.entry(fault).or_default() += count;
            }
            for (what, happened) in outcome.coverage {
                *report.coverage.entry(what).or_default() += f64::from(u8::from(happened));
            }
            if let Some(violation) = outcome.violation {
                report.violations += 1;
                if until_one {
                    next.store(first + schedules, Ordering::Relaxed);
                }
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
    report.schedules = played.into_inner();
    let schedules = report.schedules.max(1);
    for share in report.coverage.values_mut() {
        *share = (*share / schedules as f64 * 1000.0).round() / 10.0;
    }
    report.seconds = (epoch.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
    if report.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
