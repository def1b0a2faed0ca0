//! One seed makes one story: which machines there are, what they are told, what goes wrong and when.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use c3os::{
    config::{Config, NetworkId, RoleSetting},
    token::MeshId,
};
use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};

use crate::{
    host::{AfterCrash, Carried, Host},
    world::{Action, Weather, World},
};

/// What a schedule is about, besides its faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plot {
    /// Nodes found a cluster.
    Founding,
    /// Once there is a cluster, all stop, and all but one start again in any order.
    ColdStart,
    /// Once there is a cluster, the last machine comes for the first time.
    Late,
    /// Once there is a cluster, the last machine comes, and lies.
    Liar,
    /// Two clusters on one mesh.
    Networks,
    /// Three machines have the same `role: master`, and come one after the other.
    ForcedMasters,
    /// The last machine has the identity of the first.
    Cloned,
}

const PLOTS: [Plot; 12] = [
    Plot::Founding,
    Plot::Founding,
    Plot::Founding,
    Plot::Founding,
    Plot::Founding,
    Plot::Founding,
    Plot::ColdStart,
    Plot::Late,
    Plot::Liar,
    Plot::Networks,
    Plot::ForcedMasters,
    Plot::Cloned,
];

/// A story that is about to begin.
pub struct Schedule {
    pub world: World,
    pub plot: Plot,
    /// With m above half of all ids: two clusters cannot come about.
    pub rule_holds: bool,
    /// How long faults go on.
    pub faults: Duration,
    /// What happens once everything is as it shall be.
    pub epilogue: Vec<(Duration, Action)>,
}

impl Schedule {
    pub fn new(seed: u64, epoch: Instant) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let plot = *PLOTS.choose(&mut rng).unwrap_or(&Plot::Founding);
        let nodes = match plot {
            Plot::ForcedMasters => 3,
            Plot::Networks => 6,
            _ => *[3, 3, 3, 3, 4, 5, 5, 7].choose(&mut rng).unwrap_or(&3),
        };
        let mut hosts = Self::hosts(plot, nodes, seed, &mut rng);
        let extra = match plot {
            Plot::Late | Plot::Liar | Plot::Cloned => 1,
            _ => 0,
        };
        let first_come = hosts.len() - extra;
        if plot == Plot::Cloned {
            let (first, last) = hosts.split_at_mut(first_come);
            last[0].clone_of(&first[0]);
        }
        // Without the number, a forced master that finds nobody founds alone, by its file: nothing holds across a cut.
        let forced = hosts.iter().any(|host| host.config.role == RoleSetting::Master);
        let rule_holds = hosts.iter().all(|host| host.config.minimum_nodes.is_some())
            || (plot != Plot::Cloned && nodes <= 3 && !forced);
        let weather = Weather {
            latency: (
                Duration::from_micros(100),
                Duration::from_millis(*[2, 30, 200].choose(&mut rng).unwrap_or(&2)),
            ),
            loss: *[0, 0, 10, 100].choose(&mut rng).unwrap_or(&0),
            duplication: *[0, 0, 20].choose(&mut rng).unwrap_or(&0),
            notice: Duration::from_millis(*[50, 2_000, 15_000].choose(&mut rng).unwrap_or(&50)),
            discovery: Duration::from_secs(3),
        };
        let all = hosts.len();
        let mut world = World::new(hosts, weather, rng.random(), epoch);
        let faults = match plot {
            Plot::ForcedMasters => one_after_the_other(&mut world, &mut rng),
            Plot::Cloned => plan(&mut world, all, &mut rng),
            _ => plan(&mut world, first_come, &mut rng),
        };
        let epilogue = match plot {
            Plot::Late | Plot::Liar => epilogue_of_one_more(plot, all - 1, &mut rng),
            Plot::ColdStart => cold_start(all, &mut rng),
            _ => Vec::new(),
        };
        Self { world, plot, rule_holds, faults, epilogue }
    }

    fn hosts(plot: Plot, nodes: usize, seed: u64, rng: &mut StdRng) -> Vec<Host> {
        // Ids that run before they hold the certificate; a clone counts as one more.
        let ids = match plot {
            Plot::Networks => nodes / 2,
            Plot::Cloned => nodes + 1,
            _ => nodes,
        };
        let mut config = Config::default();
        config.discovery.dht = false;
        // Most have the rule in force; some leave the number out, where the default of 2 has to carry three machines.
        let left_out = plot == Plot::ForcedMasters || (ids == 3 && rng.random_ratio(1, 5));
        config.minimum_nodes = (!left_out).then_some((ids / 2 + 1) as u16);
        let mut configs = vec![config.clone(); nodes];
        match plot {
            Plot::ForcedMasters => configs.iter_mut().for_each(|config| config.role = RoleSetting::Master),
            Plot::Networks => {
                for config in configs.iter_mut().skip(nodes / 2) {
                    config.network_id = named("other");
                }
            }
            _ if rng.random_ratio(1, 6) => configs[0].role = RoleSetting::Master,
            _ => {}
        }
        if plot != Plot::ForcedMasters && rng.random_ratio(1, 5) {
            configs[1].role = RoleSetting::Worker;
        }
        if plot != Plot::ForcedMasters && plot != Plot::Networks && rng.random_ratio(1, 6) {
            configs.push(Config { role: RoleSetting::None, ..config.clone() });
        }
        if matches!(plot, Plot::Late | Plot::Liar | Plot::Cloned) {
            configs.push(config);
        }
        let last = configs.len() - 1;
        let hosts = configs.into_iter().enumerate().map(|(at, config)| {
            let mut host = Host::new(at as u8 + 1, config, MeshId::from_bytes([7; 32]), seed);
            host.lies = plot == Plot::Liar && at == last;
            host
        });
        hosts.collect()
    }
}

fn named(network_id: &str) -> NetworkId {
    network_id.parse().expect("the simulation's network ids are well formed")
}

/// Three masters within a minute; nothing else goes wrong.
fn one_after_the_other(world: &mut World, rng: &mut StdRng) -> Duration {
    let spread = *[1, 4_000, 60_000].choose(rng).unwrap_or(&1);
    for host in 0..3 {
        world.plan(millis(rng.random_range(0..spread)), Action::Boot(host));
    }
    millis(spread + 90_000)
}

fn epilogue_of_one_more(plot: Plot, host: usize, rng: &mut StdRng) -> Vec<(Duration, Action)> {
    let mut epilogue = vec![(Duration::ZERO, Action::Boot(host))];
    if plot == Plot::Liar {
        for _ in 0..5 {
            epilogue.push((millis(rng.random_range(1_000..10_000)), Action::Garble(host)));
        }
    }
    epilogue
}

fn cold_start(hosts: usize, rng: &mut StdRng) -> Vec<(Duration, Action)> {
    let mut order: Vec<usize> = (0..hosts).collect();
    order.shuffle(rng);
    order.truncate(hosts - rng.random_range(0..=1));
    let stops = (0..hosts).map(|host| (Duration::ZERO, Action::Crash(host, AfterCrash::Kept)));
    let starts = order.iter().enumerate();
    let gap = rng.random_range(0..5_000);
    stops.chain(starts.map(|(at, host)| (millis(1_000 + gap * at as u64), Action::Boot(*host)))).collect()
}

/// Plans boots and faults; afterwards all machines run and all cuts are mended. Returns when that is.
fn plan(world: &mut World, nodes: usize, rng: &mut StdRng) -> Duration {
    let spread = *[0, 500, 5_000, 60_000].choose(rng).unwrap_or(&0);
    for host in 0..nodes {
        world.plan(millis(rng.random_range(0..=spread)), Action::Boot(host));
    }
    // A cut from the first moment on, mended later: the case that makes two clusters elsewhere.
    if rng.random_ratio(1, 4) {
        let side = rng.random_range(1..nodes);
        for a in 0..side {
            for b in side..nodes {
                world.plan(Duration::ZERO, Action::Cut(a, b));
            }
        }
    }
    // Most of what can go wrong for good goes wrong while a cluster is founded.
    let early = rng.random_ratio(2, 3);
    let length = if early { spread.min(5_000) + 6_000 } else { rng.random_range(2_000..60_000) };
    if early {
        plan_on_founding(world, nodes, rng);
    }
    for _ in 0..rng.random_range(0..12) {
        let at = if early { rng.random_range(1_000..length) } else { rng.random_range(0..length) };
        let host = rng.random_range(0..nodes);
        match rng.random_range(0..10) {
            0..=5 => {
                let off = if early { 10..3_000 } else { 10..10_000 };
                world.plan(millis(at), Action::Crash(host, after_crash(rng)));
                world.plan(millis(at + rng.random_range(off)), Action::Boot(host));
            }
            6..=7 => world.plan(millis(at), Action::Cut(host, rng.random_range(0..nodes))),
            8 => world.plan(millis(at), Action::CutOff(host)),
            _ => world.plan(millis(at), Action::Heal),
        }
    }
    let end = spread.max(length) + 12_000;
    world.plan(millis(end), Action::Disarm);
    world.plan(millis(end), Action::Heal);
    for host in 0..nodes {
        world.plan(millis(end), Action::Boot(host));
    }
    millis(end)
}

/// Faults that wait for a promise, a vote or a ballot.
fn plan_on_founding(world: &mut World, nodes: usize, rng: &mut StdRng) {
    for _ in 0..rng.random_range(0..3) {
        world.plan(
            Duration::ZERO,
            Action::CrashAtWrite {
                host: rng.random_range(0..nodes),
                carries: if rng.random_ratio(2, 3) { Carried::Answer } else { Carried::Ballot },
                nth: rng.random_range(1..4),
                after: after_crash(rng),
                off: millis(rng.random_range(10..6_000)),
            },
        );
    }
    if rng.random_ratio(1, 3) {
        world.plan(Duration::ZERO, Action::CutOffProposer { nth: rng.random_range(1..4) });
    }
}

fn after_crash(rng: &mut StdRng) -> AfterCrash {
    match rng.random_range(0..20) {
        0..=1 => AfterCrash::LedgerLost,
        2..=12 => AfterCrash::Torn(rng.random_range(0..=1000)),
        _ => AfterCrash::Kept,
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The subnet that every simulated machine draws from.
pub fn is_overlay(address: Ipv4Addr) -> bool {
    address.octets()[..2] == [10, 1]
}
