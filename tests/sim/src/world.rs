//! N whole members, one virtual clock, and the network between them.
//!
//! Whatever members ask for takes time here: a write some milliseconds, a message the way to its receiver. Connections
//! come up where both ends run and no cut lies between; a cut or a crash is noticed after a while, as in life.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::{Duration, Instant},
};

use c3os::{
    identity::NodeId,
    node::{Node, Observed},
};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};

use crate::host::{AfterCrash, Host};

/// Something that happens to the world.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Power on.
    Boot(usize),
    /// Power off.
    Crash(usize, AfterCrash),
    /// No packet passes between two machines any more.
    Cut(usize, usize),
    /// All cuts are mended.
    Heal,
}

#[derive(Debug)]
enum Happening {
    Message {
        from: NodeId,
        to: NodeId,
        bytes: Vec<u8>,
        epoch: u64,
    },
    /// The write that the host started in this boot is on disk.
    Written {
        host: usize,
        boot: u32,
    },
    /// One end notices that a connection came up, or ended.
    Connection {
        at: usize,
        with: usize,
        up: bool,
        epoch: u64,
    },
    DiscoveryExhausted {
        host: usize,
        boot: u32,
    },
    Action(Action),
}

/// How the network treats messages.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub latency: (Duration, Duration),
    /// In thousandths.
    pub loss: u32,
    pub duplication: u32,
    /// A connection's end is noticed after at most so long.
    pub notice: Duration,
    /// How long others are looked for before they are held not to be there.
    pub discovery: Duration,
}

pub struct World {
    start: Instant,
    now: Instant,
    rng: StdRng,
    pub hosts: Vec<Host>,
    index: BTreeMap<NodeId, usize>,
    weather: Weather,
    cuts: BTreeSet<(usize, usize)>,
    /// Pairs with a connection, and its number: what was sent on an older one is lost.
    links: BTreeMap<(usize, usize), u64>,
    /// Which connection an end believes to have with another machine.
    believed: BTreeMap<(usize, usize), u64>,
    epochs: u64,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    sequence: u64,
    trace: Sha256,
    pub counts: Counts,
    touched: BTreeSet<usize>,
}

/// What happened, for coverage and cost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub messages: u64,
    pub bytes: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub crashes: u64,
    pub torn_writes: u64,
    pub ledgers_lost: u64,
    pub cuts: u64,
    pub heals: u64,
    pub faults_of_peers: u64,
    pub torn_promises: u64,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    pub fn new(hosts: Vec<Host>, weather: Weather, seed: u64, epoch: Instant) -> Self {
        let index = hosts.iter().enumerate().map(|(at, host)| (host.id(), at)).collect();
        Self {
            start: epoch,
            now: epoch,
            rng: StdRng::seed_from_u64(seed),
            hosts,
            index,
            weather,
            cuts: BTreeSet::new(),
            links: BTreeMap::new(),
            believed: BTreeMap::new(),
            epochs: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            trace: Sha256::new(),
            counts: Counts::default(),
            touched: BTreeSet::new(),
        }
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// A hash of every message that was sent so far: the same seed gives the same one.
    pub fn trace(&self) -> String {
        self.trace.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn node(&self, host: usize) -> Option<&Node> {
        self.hosts[host].node.as_ref()
    }

    /// Has something happen after a while.
    pub fn plan(&mut self, after: Duration, action: Action) {
        self.later(after, Happening::Action(action));
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + after, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    fn between(&mut self, (from, to): (Duration, Duration)) -> Duration {
        Duration::from_micros(self.rng.random_range(from.as_micros() as u64..=to.as_micros() as u64))
    }

    /// Goes on to the next thing that happens; false when nothing does before `until`.
    pub fn step(&mut self, until: Instant) -> bool {
        let due = self.queue.peek().map(|Reverse((at, _))| *at);
        let timers = self
            .hosts
            .iter()
            .enumerate()
            .filter_map(|(at, host)| Some((host.node.as_ref()?.poll_timeout()?.0, at)));
        let timer = timers.min();
        let next = [due, timer.map(|(at, _)| at)].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = self.now.max(next);
        if due == Some(next) {
            let Some(Reverse((_, sequence))) = self.queue.pop() else { return false };
            if let Some(happening) = self.happenings.remove(&sequence) {
                self.happen(happening);
            }
        } else if let Some((_, at)) = timer {
            let now = self.now;
            if let Some(node) = &mut self.hosts[at].node {
                node.handle_timeout(now);
            }
            self.touched.insert(at);
        }
        self.settle();
        true
    }

    /// Runs until `done` says so, or for `limit` at most; says whether it was done.
    pub fn run(&mut self, limit: Duration, mut each: impl FnMut(&World) -> bool) -> bool {
        let until = self.now + limit;
        loop {
            if each(self) {
                return true;
            }
            if !self.step(until) {
                return each(self);
            }
        }
    }

    /// How many members ever proposed a cluster, as far as anybody knows.
    pub fn proposers(&self) -> usize {
        let known = self
            .hosts
            .iter()
            .filter_map(|host| host.node.as_ref())
            .map(|node| node.ledger().with_prefix("proposer/").count());
        known.max().unwrap_or(0)
    }

    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.contains(&pair(a, b))
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Action(action) => self.act(action),
            Happening::Message { from, to, bytes, epoch } => {
                let (a, b) = (self.index[&from], self.index[&to]);
                if self.links.get(&pair(a, b)) != Some(&epoch) || self.is_cut(a, b) {
                    self.counts.lost += 1;
                    return;
                }
                if self.believed.get(&(b, a)) != Some(&epoch) {
                    // Admission is not over at this end: the stream waits.
                    self.later(Duration::from_millis(20), Happening::Message { from, to, bytes, epoch });
                    return;
                }
                let now = self.now;
                if let Some(node) = &mut self.hosts[b].node
                    && node.handle_message(from, &bytes, now).is_err()
                {
                    self.counts.faults_of_peers += 1;
                }
                self.touched.insert(b);
            }
            Happening::Written { host, boot } => {
                if self.hosts[host].boots == boot {
                    let now = self.now;
                    self.hosts[host].finish_write(now);
                    self.touched.insert(host);
                }
            }
            Happening::DiscoveryExhausted { host, boot } => {
                let now = self.now;
                if self.hosts[host].boots == boot
                    && let Some(node) = &mut self.hosts[host].node
                {
                    node.handle_observed(Observed::DiscoveryExhausted, now);
                    self.touched.insert(host);
                }
            }
            Happening::Connection { at, with, up, epoch } => {
                let current = self.links.get(&pair(at, with)) == Some(&epoch);
                let believed = self.believed.get(&(at, with)).copied();
                let (now, peer) = (self.now, self.hosts[with].id());
                let Some(node) = &mut self.hosts[at].node else { return };
                if up && current {
                    if believed.is_some() {
                        node.handle_peer_down(peer, now);
                    }
                    node.handle_peer_up(peer, now);
                    self.believed.insert((at, with), epoch);
                } else if !up && believed == Some(epoch) {
                    node.handle_peer_down(peer, now);
                    self.believed.remove(&(at, with));
                }
                self.touched.insert(at);
            }
        }
    }

    /// Carries out an action now.
    pub fn act(&mut self, action: Action) {
        match action {
            Action::Boot(host) => {
                if self.hosts[host].node.is_some() {
                    return;
                }
                let mut seed = [0; 32];
                self.rng.fill_bytes(&mut seed);
                let now = self.now;
                self.hosts[host].boot(seed, now);
                self.touched.insert(host);
                let boot = self.hosts[host].boots;
                self.later(self.weather.discovery, Happening::DiscoveryExhausted { host, boot });
                self.connect();
            }
            Action::Crash(host, after) => {
                if self.hosts[host].node.is_none() {
                    return;
                }
                self.counts.crashes += 1;
                self.counts.torn_writes += u64::from(self.hosts[host].is_writing());
                self.counts.torn_promises += u64::from(self.hosts[host].is_voting());
                self.counts.ledgers_lost += u64::from(after == AfterCrash::LedgerLost);
                self.hosts[host].crash(after);
                self.believed.retain(|(at, _), _| *at != host);
                self.disconnect(|a, b| a == host || b == host);
            }
            Action::Cut(a, b) => {
                if a != b && self.cuts.insert(pair(a, b)) {
                    self.counts.cuts += 1;
                    self.disconnect(|x, y| pair(x, y) == pair(a, b));
                }
            }
            Action::Heal => {
                if !self.cuts.is_empty() {
                    self.counts.heals += 1;
                    self.cuts.clear();
                }
                self.connect();
            }
        }
        self.settle();
    }

    /// Starts connections wherever one may be.
    fn connect(&mut self) {
        for a in 0..self.hosts.len() {
            for b in a + 1..self.hosts.len() {
                let up = self.hosts[a].node.is_some() && self.hosts[b].node.is_some();
                if up && !self.is_cut(a, b) && !self.links.contains_key(&(a, b)) {
                    self.epochs += 1;
                    let epoch = self.epochs;
                    self.links.insert((a, b), epoch);
                    // Discovery and admission take a while, and not the same for both ends.
                    for (at, with) in [(a, b), (b, a)] {
                        let after = self.between((Duration::from_millis(20), Duration::from_millis(600)));
                        self.later(after, Happening::Connection { at, with, up: true, epoch });
                    }
                }
            }
        }
    }

    fn disconnect(&mut self, which: impl Fn(usize, usize) -> bool) {
        let ended: Vec<_> =
            self.links.iter().filter(|((a, b), _)| which(*a, *b)).map(|(p, e)| (*p, *e)).collect();
        for ((a, b), epoch) in ended {
            self.links.remove(&(a, b));
            for (at, with) in [(a, b), (b, a)] {
                let after = self.between((Duration::from_millis(1), self.weather.notice));
                self.later(after, Happening::Connection { at, with, up: false, epoch });
            }
        }
    }

    /// Lets every touched member do what it wants to do, in the driver's order.
    fn settle(&mut self) {
        while let Some(at) = self.touched.pop_first() {
            let now = self.now;
            self.hosts[at].take_events(now);
            if self.hosts[at].start_write() {
                let boot = self.hosts[at].boots;
                let after = self.between((Duration::from_micros(200), Duration::from_millis(15)));
                self.later(after, Happening::Written { host: at, boot });
            }
            while let Some((to, bytes)) = self.hosts[at].node.as_mut().and_then(Node::poll_transmit) {
                self.send(at, to, bytes);
            }
            self.hosts[at].take_events(now);
        }
    }

    fn send(&mut self, at: usize, to: NodeId, bytes: Vec<u8>) {
        let from = self.hosts[at].id();
        self.trace.update(self.elapsed().as_micros().to_be_bytes());
        self.trace.update(from.as_bytes());
        self.trace.update(to.as_bytes());
        self.trace.update(&bytes);
        self.counts.messages += 1;
        self.counts.bytes += bytes.len() as u64;
        let Some(epoch) = self.index.get(&to).and_then(|b| self.links.get(&pair(at, *b))).copied() else {
            self.counts.lost += 1;
            return;
        };
        if self.rng.random_range(0..1000) < self.weather.loss {
            self.counts.lost += 1;
            return;
        }
        if self.rng.random_range(0..1000) < self.weather.duplication {
            self.counts.duplicated += 1;
            let after = self.between(self.weather.latency);
            self.later(after, Happening::Message { from, to, bytes: bytes.clone(), epoch });
        }
        let after = self.between(self.weather.latency);
        self.later(after, Happening::Message { from, to, bytes, epoch });
    }
}
