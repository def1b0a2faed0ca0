//! One seed makes one story: which machines there are, what they are told, what goes wrong and when.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use c3os::{
    config::{Config, RoleSetting},
    token::MeshId,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    host::{AfterCrash, Host},
    world::{Action, Weather, World},
};

/// What a schedule is about, and what has to hold at its end.
pub struct Schedule {
    pub seed: u64,
    pub world: World,
    /// With m above half of all ids: two clusters cannot come about, and one has to.
    pub rule_holds: bool,
    /// How long faults go on.
    pub faults: Duration,
    /// Three machines told to be the master in one file.
    pub forced_masters: usize,
}

impl Schedule {
    pub fn new(seed: u64, epoch: Instant) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = *[3, 3, 3, 3, 4, 5, 5, 7].choose(&mut rng).unwrap_or(&3);
        let majority = (nodes / 2 + 1) as u16;
        let mut config = Config::default();
        config.discovery.dht = false;
        // Most have the rule in force; some leave the number out, where the default of 2 has to carry three machines.
        config.minimum_nodes = if nodes == 3 && rng.random_ratio(1, 5) { None } else { Some(majority) };
        let rule_holds = config.minimum_nodes.is_some() || nodes <= 3;
        let forced = rng.random_ratio(1, 8);
        let forced_masters = match (forced, rng.random_ratio(1, 2)) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => nodes,
        };
        let hosts: Vec<Host> = (0..nodes)
            .map(|number| {
                let mut config = config.clone();
                if number < forced_masters {
                    config.role = RoleSetting::Master;
                }
                Host::new(number as u8 + 1, config, MeshId::from_bytes([7; 32]), seed)
            })
            .collect();
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
        let mut world = World::new(hosts, weather, rng.random(), epoch);
        let faults = Self::plan(&mut world, nodes, &mut rng);
        Self { seed, world, rule_holds, faults, forced_masters }
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
        let length = rng.random_range(2_000..60_000);
        for _ in 0..rng.random_range(0..12) {
            let at = rng.random_range(0..length);
            let host = rng.random_range(0..nodes);
            match rng.random_range(0..10) {
                0..=5 => {
                    let after = match rng.random_range(0..20) {
                        0 => AfterCrash::LedgerLost,
                        1..=9 => AfterCrash::Torn(rng.random_range(0..=1000)),
                        _ => AfterCrash::Kept,
                    };
                    world.plan(millis(at), Action::Crash(host, after));
                    world.plan(millis(at + rng.random_range(10..10_000)), Action::Boot(host));
                }
                6..=8 => world.plan(millis(at), Action::Cut(host, rng.random_range(0..nodes))),
                _ => world.plan(millis(at), Action::Heal),
            }
        }
        let end = spread.max(length) + 12_000;
        world.plan(millis(end), Action::Heal);
        for host in 0..nodes {
            world.plan(millis(end), Action::Boot(host));
        }
        millis(end)
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The subnet that every simulated machine draws from.
pub fn is_overlay(address: Ipv4Addr) -> bool {
    address.octets()[..2] == [10, 1]
}
