//! One seed makes one story: which machines there are, what they are told, what goes wrong and when.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use c3os::{
    config::{Config, NetworkId, RoleSetting},
    token::{MeshId, NetworkToken},
};
use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};

use crate::{
    faults::Action,
    host::{AfterCrash, Carried, Host},
    world::{Weather, World},
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
    /// A machine's disk is put back to what it was a while ago.
    Restored,
    /// Up to three servers; once there are, one of the machines is off for a minute.
    Servers,
    /// Once there is a cluster, its network token is replaced, or a machine banned, while machines go off and on.
    Rotation,
    /// m is too small for so many machines, and the network is cut: what must never happen may happen, and is shown.
    Apart,
}

const PLOTS: [Plot; 14] = [
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
    Plot::Restored,
    Plot::Apart,
];

impl Plot {
    /// What the schedule of a seed is about.
    pub fn of(seed: u64) -> Self {
        Self::draw(seed, &mut StdRng::seed_from_u64(seed))
    }

    fn draw(seed: u64, rng: &mut StdRng) -> Self {
        match *PLOTS.choose(rng).unwrap_or(&Self::Founding) {
            // Drawn apart: the schedules of all other seeds stay what they were.
            Self::Founding => match StdRng::seed_from_u64(!seed).random_range(0..6) {
                0 => Self::Servers,
                1 => Self::Rotation,
                _ => Self::Founding,
            },
            plot => plot,
        }
    }
}

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
    /// The schedule of a seed. Of what is planned while faults go on, the `without`-th things do not happen.
    pub fn new(seed: u64, without: &BTreeSet<usize>, epoch: Instant) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let plot = Plot::draw(seed, &mut rng);
        let nodes = match plot {
            Plot::ForcedMasters => 3,
            Plot::Networks => 6,
            _ => *[3, 3, 3, 3, 4, 5, 5, 7].choose(&mut rng).unwrap_or(&3),
        };
        let mut hosts = Self::hosts(plot, nodes, seed, epoch, &mut rng);
        let extra = match plot {
            Plot::Late | Plot::Liar | Plot::Cloned => 1,
            _ => 0,
        };
        let first_come = hosts.len() - extra;
        if plot == Plot::Cloned {
            let (first, last) = hosts.split_at_mut(first_come);
            last[0].clone_of(&first[0]);
        }
        if plot == Plot::Rotation {
            let token = NetworkToken::generate(&[7; 160], Vec::new()).expect("random bytes make a token");
            hosts.iter_mut().for_each(|host| host.configure(token.clone()));
        }
        weather_of_clocks(&mut hosts, &mut rng);
        // Without the number, a forced master that finds nobody founds alone, by its file: nothing holds across a cut.
        let forced = hosts.iter().any(|host| host.config.role == RoleSetting::Master);
        let rule_holds = plot != Plot::Apart
            && (hosts.iter().all(|host| host.config.minimum_nodes.is_some())
                || (!matches!(plot, Plot::Cloned | Plot::Restored) && nodes <= 3 && !forced));
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
        let mut world = World::new(hosts, weather, rng.random(), without.clone(), epoch);
        let faults = match plot {
            Plot::ForcedMasters => one_after_the_other(&mut world, &mut rng),
            Plot::Cloned => plan(&mut world, all, &mut rng),
            Plot::Apart => apart(&mut world, all, &mut rng),
            Plot::Restored => {
                let faults = plan(&mut world, first_come, &mut rng);
                restore(&mut world, first_come, faults, &mut rng);
                faults
            }
            _ => plan(&mut world, first_come, &mut rng),
        };
        if plot == Plot::Rotation {
            world.keep_meeting();
        }
        let epilogue = match plot {
            Plot::Late | Plot::Liar => epilogue_of_one_more(plot, all - 1, &mut rng),
            Plot::ColdStart => cold_start(all, &mut rng),
            Plot::Servers => one_is_off(all, &mut rng),
            Plot::Rotation => rotation(all, &mut rng),
            _ => Vec::new(),
        };
        Self { world, plot, rule_holds, faults, epilogue }
    }

    fn hosts(plot: Plot, nodes: usize, seed: u64, epoch: Instant, rng: &mut StdRng) -> Vec<Host> {
        // Ids that run before they hold the certificate; a clone counts as one more.
        let ids = match plot {
            Plot::Networks => nodes / 2,
            Plot::Cloned | Plot::Restored => nodes + 1,
            _ => nodes,
        };
        let mut config = Config::default();
        config.discovery.dht = false;
        // Most have the rule in force; some leave the number out, where the default of 2 has to carry three machines.
        let left_out = plot == Plot::ForcedMasters || (ids == 3 && rng.random_ratio(1, 5));
        config.minimum_nodes = (!left_out).then_some((ids / 2 + 1) as u16);
        if plot == Plot::Apart {
            config.minimum_nodes = Some(rng.random_range(1..=(nodes / 2) as u16));
        }
        if rng.random_ratio(1, 4) {
            // So narrow that many draw the same address.
            config.vpn.subnet = NARROW.parse().expect("a subnet");
        }
        if plot == Plot::Servers {
            config.auto.additional_servers = 2;
        }
        let mut configs = vec![config.clone(); nodes];
        match plot {
            Plot::ForcedMasters => configs.iter_mut().for_each(|config| config.role = RoleSetting::Master),
            Plot::Networks => {
                for config in configs.iter_mut().skip(nodes / 2) {
                    config.network_id = named("other");
                }
            }
            Plot::Apart => {}
            _ if rng.random_ratio(1, 6) => configs[0].role = RoleSetting::Master,
            _ => {}
        }
        if !matches!(plot, Plot::ForcedMasters | Plot::Apart) && rng.random_ratio(1, 5) {
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
            let mut host = Host::new(at as u8 + 1, config, MeshId::from_bytes([7; 32]), seed, epoch);
            host.lies = plot == Plot::Liar && at == last;
            host
        });
        hosts.collect()
    }
}

/// A subnet for which few schedules find an address without a rival.
const NARROW: &str = "10.1.0.0/26";

/// Clocks that began at other times, and go wrong by up to a tenth.
fn weather_of_clocks(hosts: &mut [Host], rng: &mut StdRng) {
    if rng.random_ratio(1, 2) {
        for host in hosts {
            host.clock.ahead = millis(rng.random_range(3_600_000..86_400_000));
            host.clock.thousandths = rng.random_range(900..=1100);
        }
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

/// Perhaps the lead: another server goes on.
fn one_is_off(hosts: usize, rng: &mut StdRng) -> Vec<(Duration, Action)> {
    let host = rng.random_range(0..hosts);
    vec![
        (Duration::ZERO, Action::Crash(host, AfterCrash::Kept)),
        (millis(rng.random_range(1_000..90_000)), Action::Boot(host)),
    ]
}

/// The token is replaced while power and cables go away; in the end all run.
fn rotation(hosts: usize, rng: &mut StdRng) -> Vec<(Duration, Action)> {
    let begin = if rng.random_ratio(1, 3) { Action::Ban } else { Action::Rotate };
    let mut epilogue = vec![(Duration::ZERO, begin)];
    for _ in 0..rng.random_range(0..5) {
        let (host, at) = (rng.random_range(0..hosts), rng.random_range(0..15_000));
        if rng.random_ratio(1, 4) {
            epilogue.push((millis(at), Action::Cut(host, rng.random_range(0..hosts))));
            continue;
        }
        let after =
            if rng.random() { AfterCrash::Kept } else { AfterCrash::Torn(rng.random_range(0..=1000)) };
        epilogue.push((millis(at), Action::Crash(host, after)));
        epilogue.push((millis(at + rng.random_range(10..20_000)), Action::Boot(host)));
    }
    epilogue.push((millis(40_000), Action::Heal));
    epilogue.extend((0..hosts).map(|host| (millis(40_000), Action::Boot(host))));
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

/// The network is cut in two from the first moment on, and mended when either side may have founded a cluster.
fn apart(world: &mut World, nodes: usize, rng: &mut StdRng) -> Duration {
    let side = rng.random_range(1..nodes);
    for a in 0..side {
        for b in side..nodes {
            world.plan(Duration::ZERO, Action::Cut(a, b));
        }
    }
    for host in 0..nodes {
        world.plan(millis(rng.random_range(0..2_000)), Action::Boot(host));
    }
    for _ in 0..rng.random_range(0..4) {
        let (host, at) = (rng.random_range(0..nodes), rng.random_range(2_000..80_000));
        world.plan(millis(at), Action::Crash(host, after_crash(rng)));
        world.plan(millis(at + rng.random_range(10..5_000)), Action::Boot(host));
    }
    let healed = rng.random_range(10_000..60_000);
    world.plan_always(millis(healed), Action::Heal);
    for host in 0..nodes {
        world.plan_always(millis(90_000), Action::Boot(host));
    }
    millis(90_000)
}

/// An image of a disk is taken, and put back later.
fn restore(world: &mut World, nodes: usize, end: Duration, rng: &mut StdRng) {
    let (host, end) = (rng.random_range(0..nodes), end.as_millis() as u64);
    let taken = rng.random_range(500..end);
    let put_back = rng.random_range(taken..=end - 1);
    world.plan(millis(taken), Action::Image(host));
    world.plan(millis(put_back), Action::Restore(host));
    world.plan(millis(put_back + rng.random_range(10..3_000)), Action::Boot(host));
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
        match rng.random_range(0..12) {
            0..=5 => {
                let off = if early { 10..3_000 } else { 10..10_000 };
                world.plan(millis(at), Action::Crash(host, after_crash(rng)));
                world.plan(millis(at + rng.random_range(off)), Action::Boot(host));
            }
            6..=7 => world.plan(millis(at), Action::Cut(host, rng.random_range(0..nodes))),
            8 => world.plan(millis(at), Action::CutOff(host)),
            9 => world.plan(millis(at), Action::Deafen(host, rng.random_range(0..nodes))),
            10 => world.plan(millis(at), Action::Stall(host, millis(rng.random_range(100..10_000)))),
            _ => world.plan(millis(at), Action::Heal),
        }
    }
    let end = spread.max(length) + 12_000;
    world.plan_always(millis(end), Action::Disarm);
    world.plan_always(millis(end), Action::Heal);
    for host in 0..nodes {
        world.plan_always(millis(end), Action::Boot(host));
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
