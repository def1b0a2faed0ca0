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
    election::{Ballot, ClusterId, LeaseRecord},
    identity::NodeId,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use sha2::{Digest, Sha256};

use crate::{
    faults::{Action, Armed},
    host::Host,
    wire,
};

#[derive(Debug)]
pub(super) enum Happening {
    Message {
        from: usize,
        to: usize,
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
    /// A server looks at its API.
    AsksApi {
        host: usize,
        boot: u32,
    },
    /// What it writes into the Lease, if that is still of this version, arrives there.
    WritesLease {
        host: usize,
        boot: u32,
        version: u64,
        transitions: u64,
    },
    /// Machines that are not connected try again.
    Meets,
    Action(Action),
}

impl Happening {
    /// Which machine has to run for it to happen.
    fn at(&self) -> Option<usize> {
        match self {
            Self::Message { to: host, .. }
            | Self::Written { host, .. }
            | Self::Connection { at: host, .. }
            | Self::DiscoveryExhausted { host, .. }
            | Self::AsksApi { host, .. }
            | Self::WritesLease { host, .. } => Some(*host),
            Self::Meets | Self::Action(_) => None,
        }
    }
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
    pub(super) now: Instant,
    pub(super) rng: StdRng,
    pub hosts: Vec<Host>,
    pub(super) ids: Vec<NodeId>,
    pub(super) weather: Weather,
    pub(super) cuts: BTreeSet<(usize, usize)>,
    /// Who does not hear whom.
    pub(super) deaf: BTreeSet<(usize, usize)>,
    /// Who is suspended, and until when.
    pub(super) stalled: BTreeMap<usize, Instant>,
    /// What was planned, for people.
    pub story: Vec<(Duration, Action)>,
    /// Which of it does not happen.
    without: BTreeSet<usize>,
    /// Pairs with a connection, and its number: what was sent on an older one is lost.
    links: BTreeMap<(usize, usize), u64>,
    /// Which connection an end believes to have with another machine.
    pub(super) believed: BTreeMap<(usize, usize), u64>,
    epochs: u64,
    /// The token that the ends of a connection proved to each other, where machines have one.
    pub(super) proven: BTreeMap<(usize, usize), [u8; 8]>,
    /// Who was banned.
    pub banned: BTreeSet<NodeId>,
    /// The Lease of each cluster, and its version.
    pub(super) leases: BTreeMap<ClusterId, (LeaseRecord, u64)>,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    sequence: u64,
    trace: Sha256,
    pub counts: Counts,
    /// When each host wants to be called next, as of when it was last touched.
    pub(super) timers: Vec<Option<Instant>>,
    pub(super) touched: BTreeSet<usize>,
    /// Machines that may have changed since [`World::take_changed`] was asked.
    changed: BTreeSet<usize>,
    /// Crashes that wait for a write.
    pub(super) armed: Vec<Armed>,
    /// How many more ballots until their proposer is cut off.
    pub(super) cut_off_at: Vec<u8>,
    /// Every ballot that was asked for, by whom, and whether while its proposer was cut off from somebody.
    pub asked: Vec<Asked>,
    /// Who lost power when a promise or a vote was half on its disk; taken by the watch.
    pub torn_promises: Vec<usize>,
    /// Every message with a register in it, and who sent it when; taken by the watch.
    pub registers_sent: Vec<(usize, Vec<u8>)>,
}

/// A ballot that somebody put into its register.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub host: usize,
    pub ballot: Ballot,
    pub while_cut: bool,
}

/// What happened, for coverage and cost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub steps: u64,
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
    pub deafened: u64,
    pub stalls: u64,
    pub restored: u64,
    /// The network token was replaced.
    pub rotations: u64,
    /// The longest message, in bytes.
    pub longest: usize,
}

pub(super) fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    pub fn new(
        hosts: Vec<Host>,
        weather: Weather,
        seed: u64,
        without: BTreeSet<usize>,
        epoch: Instant,
    ) -> Self {
        let ids = hosts.iter().map(Host::id).collect();
        Self {
            start: epoch,
            now: epoch,
            timers: vec![None; hosts.len()],
            rng: StdRng::seed_from_u64(seed),
            hosts,
            ids,
            weather,
            cuts: BTreeSet::new(),
            deaf: BTreeSet::new(),
            stalled: BTreeMap::new(),
            story: Vec::new(),
            without,
            links: BTreeMap::new(),
            believed: BTreeMap::new(),
            epochs: 0,
            proven: BTreeMap::new(),
            banned: BTreeSet::new(),
            leases: BTreeMap::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            trace: Sha256::new(),
            counts: Counts::default(),
            touched: BTreeSet::new(),
            changed: BTreeSet::new(),
            armed: Vec::new(),
            cut_off_at: Vec::new(),
            asked: Vec::new(),
            torn_promises: Vec::new(),
            registers_sent: Vec::new(),
        }
    }

    /// The machines that may have changed since this was asked last.
    pub fn take_changed(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.changed)
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// A hash of every message that was sent so far: the same seed gives the same one.
    pub fn trace(&self) -> String {
        self.trace.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Has something happen after a while, unless this is a part of the story that is left out.
    pub fn plan(&mut self, after: Duration, action: Action) {
        if !self.without.contains(&self.story.len()) {
            self.plan_always(after, action);
        }
        self.story.push((after, action));
    }

    /// Has something happen after a while.
    pub fn plan_always(&mut self, after: Duration, action: Action) {
        self.later(after, Happening::Action(action));
    }

    pub(super) fn later(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + after, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    pub(super) fn between(&mut self, (from, to): (Duration, Duration)) -> Duration {
        Duration::from_micros(self.rng.random_range(from.as_micros() as u64..=to.as_micros() as u64))
    }

    /// Goes on to the next thing that happens; false when nothing does before `until`.
    pub fn step(&mut self, until: Instant) -> bool {
        let due = self.queue.peek().map(|Reverse((at, _))| *at);
        let timer = self.timers.iter().enumerate().filter_map(|(at, timer)| Some(((*timer)?, at))).min();
        let next = [due, timer.map(|(at, _)| at)].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = self.now.max(next);
        self.counts.steps += 1;
        if due == Some(next) {
            let Some(Reverse((_, sequence))) = self.queue.pop() else { return false };
            if let Some(happening) = self.happenings.remove(&sequence) {
                self.stalled.retain(|_, until| *until > next);
                match happening.at().and_then(|host| self.stalled.get(&host)) {
                    Some(until) => self.later(*until - next, happening),
                    None => self.happen(happening),
                }
            }
        } else if let Some((_, at)) = timer {
            let now = self.now;
            self.hosts[at].handle_timeout(now);
            self.touched.insert(at);
        }
        self.settle();
        true
    }

    /// Runs until `done` says so, or for `limit` at most; says whether it was done.
    pub fn run(&mut self, limit: Duration, mut each: impl FnMut(&mut World) -> bool) -> bool {
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

    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.contains(&pair(a, b))
    }

    /// Whether packets pass both ways.
    pub(super) fn hears(&self, a: usize, b: usize) -> bool {
        !self.is_cut(a, b) && !self.deaf.contains(&(a, b)) && !self.deaf.contains(&(b, a))
    }

    pub fn is_anything_cut(&self) -> bool {
        !self.cuts.is_empty()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Action(action) => self.act(action),
            Happening::Message { from, to, bytes, epoch } => {
                let (a, b) = (from, to);
                let deaf = self.deaf.contains(&(b, a));
                if self.links.get(&pair(a, b)) != Some(&epoch) || self.is_cut(a, b) || deaf {
                    self.counts.lost += 1;
                    return;
                }
                if self.believed.get(&(b, a)) != Some(&epoch) {
                    // Admission is not over at this end: the stream waits.
                    self.later(Duration::from_millis(20), Happening::Message { from, to, bytes, epoch });
                    return;
                }
                let (now, id) = (self.now, self.ids[a]);
                self.counts.faults_of_peers += u64::from(!self.hosts[b].handle_message(id, &bytes, now));
                self.touched.insert(b);
            }
            Happening::Written { host, boot } => {
                if self.hosts[host].boots == boot {
                    let now = self.now;
                    if let Some((ballot, _)) = self.hosts[host].finish_write(now) {
                        self.handle_asked(host, ballot);
                    }
                    self.touched.insert(host);
                }
            }
            Happening::DiscoveryExhausted { host, boot } => {
                let now = self.now;
                if self.hosts[host].boots == boot {
                    self.hosts[host].handle_discovery_exhausted(now);
                    self.touched.insert(host);
                }
            }
            Happening::Meets => self.keep_meeting(),
            Happening::AsksApi { host, boot } => {
                if self.hosts[host].boots == boot {
                    self.ask_api(host);
                    self.touched.insert(host);
                }
            }
            Happening::WritesLease { host, boot, version, transitions } => {
                if self.hosts[host].boots == boot {
                    self.write_lease(host, version, transitions);
                    self.touched.insert(host);
                }
            }
            Happening::Connection { at, with, up, epoch } => {
                let current = self.links.get(&pair(at, with)) == Some(&epoch);
                let believed = self.believed.get(&(at, with)).copied();
                let (now, peer) = (self.now, self.ids[with]);
                // Two machines with one identity are one peer with two connections.
                let twin = (0..self.ids.len()).any(|other| {
                    other != with && self.ids[other] == peer && self.believed.contains_key(&(at, other))
                });
                let host = &mut self.hosts[at];
                if !host.is_up() {
                    return;
                }
                if up && current {
                    if believed.is_some() && !twin {
                        host.handle_peer_down(peer, now);
                    }
                    host.handle_peer_up(peer, now);
                    self.believed.insert((at, with), epoch);
                } else if !up && believed == Some(epoch) {
                    if !twin {
                        host.handle_peer_down(peer, now);
                    }
                    self.believed.remove(&(at, with));
                }
                self.touched.insert(at);
            }
        }
    }

    /// Starts connections wherever one may be.
    pub(super) fn connect(&mut self) {
        for a in 0..self.hosts.len() {
            for b in a + 1..self.hosts.len() {
                let up = self.hosts[a].is_up() && self.hosts[b].is_up() && self.ids[a] != self.ids[b];
                let may = up && !self.is_cut(a, b) && !self.links.contains_key(&(a, b));
                if may && self.admit_each_other(a, b) {
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

    pub(super) fn disconnect(&mut self, which: impl Fn(usize, usize) -> bool) {
        let ended: Vec<_> =
            self.links.iter().filter(|((a, b), _)| which(*a, *b)).map(|(p, e)| (*p, *e)).collect();
        for ((a, b), epoch) in ended {
            self.links.remove(&(a, b));
            self.proven.remove(&(a, b));
            for (at, with) in [(a, b), (b, a)] {
                let after = self.between((Duration::from_millis(1), self.weather.notice));
                self.later(after, Happening::Connection { at, with, up: false, epoch });
            }
        }
    }

    /// Lets every touched member do what it wants to do, in the driver's order.
    pub(super) fn settle(&mut self) {
        while let Some(at) = self.touched.pop_first() {
            self.changed.insert(at);
            let now = self.now;
            self.hosts[at].take_events(now);
            if std::mem::take(&mut self.hosts[at].gate_changed) {
                self.handle_gate(at);
            }
            if self.hosts[at].start_write() {
                let boot = self.hosts[at].boots;
                let after = self.between((Duration::from_micros(200), Duration::from_millis(15)));
                self.later(after, Happening::Written { host: at, boot });
                self.spring(at, after);
            }
            while let Some((to, bytes)) = self.hosts[at].poll_transmit() {
                self.send(at, to, bytes);
            }
            self.hosts[at].take_events(now);
            self.timers[at] = self.hosts[at].poll_timeout();
        }
    }

    pub(super) fn send(&mut self, at: usize, to: NodeId, bytes: Vec<u8>) {
        let from = self.ids[at];
        self.trace.update((self.now - self.start).as_micros().to_be_bytes());
        self.trace.update(from.as_bytes());
        self.trace.update(to.as_bytes());
        self.trace.update(&bytes);
        self.counts.messages += 1;
        self.counts.bytes += bytes.len() as u64;
        self.counts.longest = self.counts.longest.max(bytes.len());
        if wire::carries_entries(&bytes) && bytes.windows(9).any(|part| part == b"acceptor/") {
            self.registers_sent.push((at, bytes.clone()));
        }
        let ends: Vec<_> = (0..self.ids.len())
            .filter(|b| self.ids[*b] == to)
            // Over the connection that the sender believes in: what it says on one that is gone reaches nobody.
            .filter_map(|b| Some((b, *self.believed.get(&(at, b))?)))
            .collect();
        let Some(&(to, epoch)) = ends.choose(&mut self.rng) else {
            self.counts.lost += 1;
            return;
        };
        let from = at;
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
