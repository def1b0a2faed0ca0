//! Whole ledgers among each other, on a wire that loses, delays, doubles and reorders, in virtual time.

mod bad_input;
mod catch_up;
mod clones;
mod disk;
mod spreading;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::test_runner::Config;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Ledger, SignedEntry, WriteKind};
use crate::identity::{Identity, NodeId};

/// Cases of a property, unless `PROPTEST_CASES` says how many; no files beside the code for those that fail.
pub(super) fn cases(cases: u32) -> Config {
    let default = Config { failure_persistence: None, ..Default::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { default } else { Config { cases, ..default } }
}

/// Some instant: tests count from it.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make an Instant; nothing depends on which"
)]
pub(super) fn start() -> Instant {
    Instant::now()
}

pub(super) fn identity(number: u8) -> Arc<Identity> {
    Arc::new(Identity::from_seed(&[number; 32]))
}

/// An entry as its author writes it.
pub(super) fn entry(author: &Identity, seq: u64, key: &str, value: &[u8]) -> SignedEntry {
    SignedEntry::sign(author, seq, key.parse().unwrap(), Some(value), None).unwrap()
}

/// What everybody would read: author, key and value.
pub(super) type Reading = BTreeMap<(NodeId, String), Vec<u8>>;

pub(super) fn reading(ledger: &Ledger) -> Reading {
    let entries = ledger.with_prefix("");
    entries.map(|one| ((one.author(), one.key().to_string()), one.value().to_vec())).collect()
}

/// Brings everything that a ledger has for its disk to `disk`.
pub(super) fn save(ledger: &mut Ledger, disk: &mut Vec<u8>, now: Instant) {
    while let Some(write) = ledger.poll_write() {
        match write.kind {
            WriteKind::Append => disk.extend_from_slice(&write.bytes),
            WriteKind::Replace => *disk = write.bytes,
        }
        ledger.handle_written(now);
    }
}

pub(super) struct Host {
    pub(super) identity: Arc<Identity>,
    pub(super) ledger: Ledger,
    pub(super) disk: Vec<u8>,
}

/// How bad the wire is, in percent.
#[derive(Clone, Copy, Default)]
pub(super) struct Wire {
    pub(super) loss: u32,
    pub(super) doubling: u32,
    /// The longest delay in milliseconds; the shortest is 1, so it also reorders.
    pub(super) delay: u64,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) hosts: Vec<Host>,
    pub(super) wire: Wire,
    pub(super) sent_bytes: usize,
    links: BTreeSet<(usize, usize)>,
    under_way: BTreeMap<(Instant, u64), (usize, usize, Vec<u8>)>,
    random: StdRng,
    serial: u64,
}

impl World {
    pub(super) fn new(hosts: u8, seed: u64) -> Self {
        let now = start();
        let hosts = (1..=hosts).map(|number| {
            let identity = identity(number);
            Host { ledger: Ledger::new(identity.clone(), [number; 32], now), identity, disk: Vec::new() }
        });
        let mut world = Self {
            now,
            hosts: hosts.collect(),
            wire: Wire { loss: 0, doubling: 0, delay: 5 },
            sent_bytes: 0,
            links: BTreeSet::new(),
            under_way: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
            serial: 0,
        };
        (0..world.hosts.len()).for_each(|host| world.pump(host));
        world
    }

    pub(super) fn id(&self, host: usize) -> NodeId {
        self.hosts[host].identity.id()
    }

    pub(super) fn put(&mut self, host: usize, key: &str, value: &[u8]) {
        self.hosts[host].ledger.put(key.parse().unwrap(), value.to_vec(), None, self.now).unwrap();
        self.pump(host);
    }

    pub(super) fn link(&mut self, a: usize, b: usize) {
        if a != b && self.links.insert((a.min(b), a.max(b))) {
            for (one, other) in [(a, b), (b, a)] {
                let id = self.id(other);
                self.hosts[one].ledger.handle_neighbour_up(id, self.now);
            }
            self.pump(a);
            self.pump(b);
        }
    }

    pub(super) fn link_all(&mut self) {
        for a in 0..self.hosts.len() {
            for b in 0..a {
                self.link(a, b);
            }
        }
    }

    pub(super) fn cut(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            for (one, other) in [(a, b), (b, a)] {
                let id = self.id(other);
                self.hosts[one].ledger.handle_neighbour_down(id, self.now);
            }
            self.under_way.retain(|_, (from, to, _)| (*from, *to) != (a, b) && (*from, *to) != (b, a));
        }
    }

    /// The process dies and comes back with what is on its disk; `disk` may be tampered with in between.
    pub(super) fn restart(&mut self, host: usize, tamper: impl FnOnce(&mut Vec<u8>)) {
        let linked: Vec<usize> = (0..self.hosts.len())
            .filter(|other| self.links.contains(&(host.min(*other), host.max(*other))))
            .collect();
        linked.iter().for_each(|other| self.cut(host, *other));
        let one = &mut self.hosts[host];
        tamper(&mut one.disk);
        (one.ledger, _) = Ledger::restore(one.identity.clone(), [9; 32], &one.disk, self.now);
        linked.iter().for_each(|other| self.link(host, *other));
        self.pump(host);
    }

    /// Lets the world go on for this long.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0;
        loop {
            let arrival = self.under_way.keys().next().map(|(at, _)| *at);
            let timers = self.hosts.iter().filter_map(|host| host.ledger.poll_timeout()).map(|(at, _)| at);
            let Some(next) = timers.chain(arrival).min().filter(|at| *at <= end) else { break };
            assert!(steps < 2_000_000, "it spins: {:?}", self.hosts[0].ledger.poll_timeout());
            steps += 1;
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, (from, to, bytes)) = self.under_way.pop_first().expect("something arrives");
                let id = self.id(from);
                self.hosts[to]
                    .ledger
                    .handle_message(id, &bytes, self.now)
                    .expect("honest neighbours make no fault");
                self.pump(to);
            } else {
                for host in 0..self.hosts.len() {
                    let ledger = &mut self.hosts[host].ledger;
                    if ledger.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                        ledger.handle_timeout(self.now);
                        self.pump(host);
                    }
                }
            }
        }
        self.now = end;
    }

    fn pump(&mut self, host: usize) {
        let Host { ledger, disk, .. } = &mut self.hosts[host];
        save(ledger, disk, self.now);
        while let Some((to, bytes)) = self.hosts[host].ledger.poll_message() {
            assert!(bytes.len() <= super::MAX_MESSAGE, "{} bytes in one message", bytes.len());
            self.sent_bytes += bytes.len();
            let linked = |other: &usize| self.links.contains(&(host.min(*other), host.max(*other)));
            let to = (0..self.hosts.len()).filter(linked).find(|other| self.id(*other) == to);
            let to = to.expect("only neighbours are sent to");
            let lost = self.random.random_range(0..100) < self.wire.loss;
            let copies =
                if lost { 0 } else { 1 + u32::from(self.random.random_range(0..100) < self.wire.doubling) };
            for _ in 0..copies {
                self.serial += 1;
                let delay = Duration::from_millis(self.random.random_range(1..=self.wire.delay));
                self.under_way.insert((self.now + delay, self.serial), (host, to, bytes.clone()));
            }
        }
    }

    /// All read the same, hold it equally completely, and their fingerprints are what they hold.
    pub(super) fn assert_equal(&self) {
        let first = &self.hosts[0].ledger;
        for host in &self.hosts {
            assert_eq!(host.ledger.store.digests().root(), host.ledger.store.recomputed_root());
            assert_eq!(reading(&host.ledger), reading(first));
            assert_eq!(host.ledger.store.digests().root(), first.store.digests().root());
        }
    }
}
