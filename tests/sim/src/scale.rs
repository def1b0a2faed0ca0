//! What a large mesh costs: `cargo sim --nodes 1000 --idle 600`.
//!
//! Members here are what spreads and what connects: the product's ledger and its choice of neighbours, with facts of
//! the usual size. They decide nothing, so that a thousand of them fit into one process.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use c3os::{
    identity::{Identity, NodeId},
    ledger::{Ledger, Write},
    node::neighbourhood,
};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use serde::Serialize;

/// All are switched on within this time.
const START: Duration = Duration::from_secs(2);
/// Within this time after it everybody holds everything.
const SETTLED_WITHIN: Duration = Duration::from_secs(600);
/// How long a message is on its way.
const LATENCY: (u64, u64) = (500, 30_000);
/// How long the disk takes.
const DISK: Duration = Duration::from_millis(5);
/// A change of the neighbours waits for further ones for so long.
const STILL: Duration = Duration::from_millis(100);
/// What a machine says of itself, in bytes.
const MACHINE: usize = 300;

/// What it cost.
#[derive(Serialize)]
struct Report {
    nodes: usize,
    /// Virtual time until everybody held everything.
    settled_seconds: f64,
    idle_seconds: u64,
    /// Sent by a member while nothing changed, on average.
    bytes_per_second_per_node: f64,
    messages_per_second_per_node: f64,
    /// Virtual time from a change until everybody had it.
    change_reaches_all_seconds: f64,
    /// Sent by a member for that change, on average.
    bytes_per_change_per_node: f64,
    connections_per_node: f64,
    most_connections: usize,
    /// Of this process, divided by the members.
    memory_kib_per_node: u64,
    seconds: f64,
}

struct Member {
    id: NodeId,
    ledger: Ledger,
    neighbours: BTreeSet<usize>,
    /// When to tell who the neighbours are.
    tell: Option<Instant>,
    timer: Option<Instant>,
    writing: bool,
}

enum Happening {
    Message { from: usize, to: usize, bytes: Vec<u8> },
    Written(usize),
    Joins(usize),
}

struct Mesh {
    now: Instant,
    rng: StdRng,
    members: Vec<Member>,
    joined: BTreeSet<usize>,
    by_id: BTreeMap<NodeId, usize>,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    sequence: u64,
    timers: BTreeSet<(Instant, usize)>,
    messages: u64,
    bytes: u64,
}

impl Mesh {
    fn new(nodes: usize, now: Instant) -> Self {
        let mut rng = StdRng::seed_from_u64(nodes as u64);
        let members: Vec<Member> = (0..nodes)
            .map(|_| {
                let (mut secret, mut seed) = ([0; 32], [0; 32]);
                rng.fill_bytes(&mut secret);
                rng.fill_bytes(&mut seed);
                let identity = Arc::new(Identity::from_seed(&secret));
                Member {
                    id: identity.id(),
                    ledger: Ledger::new(identity, seed, now),
                    neighbours: BTreeSet::new(),
                    tell: None,
                    timer: None,
                    writing: false,
                }
            })
            .collect();
        let ids: Vec<NodeId> = members.iter().map(|member| member.id).collect();
        let mut mesh = Self {
            now,
            rng,
            by_id: ids.iter().enumerate().map(|(at, id)| (*id, at)).collect(),
            members,
            joined: BTreeSet::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            timers: BTreeSet::new(),
            messages: 0,
            bytes: 0,
        };
        for at in 0..nodes {
            // All of them belong to the cluster: none is put out for another.
            mesh.members[at].ledger.set_permanent(ids.iter().copied());
            let after = mesh.rng.random_range(Duration::ZERO..START);
            mesh.later(after, Happening::Joins(at));
        }
        mesh
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + after, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    /// Goes on to the next thing that happens; false when nothing does before `until`.
    fn step(&mut self, until: Instant) -> bool {
        let due = self.queue.peek().map(|Reverse((at, _))| *at);
        let timer = self.timers.first().copied();
        let Some(next) = due.into_iter().chain(timer.map(|(at, _)| at)).min().filter(|next| *next <= until)
        else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        let now = self.now;
        if due == Some(next) {
            let Some(Reverse((_, sequence))) = self.queue.pop() else { return false };
            match self.happenings.remove(&sequence) {
                Some(Happening::Message { from, to, bytes }) => {
                    let from = self.members[from].id;
                    let _ = self.members[to].ledger.handle_message(from, &bytes, now);
                    self.settle(to);
                }
                Some(Happening::Written(at)) => {
                    self.members[at].writing = false;
                    self.members[at].ledger.handle_written(now);
                    self.settle(at);
                }
                Some(Happening::Joins(at)) => self.join(at),
                None => {}
            }
        } else if let Some((_, at)) = timer {
            let member = &mut self.members[at];
            member.ledger.handle_timeout(now);
            if member.tell.is_some_and(|tell| tell <= now) {
                member.tell = None;
                self.say_neighbours(at);
            }
            self.settle(at);
        }
        true
    }

    fn say_neighbours(&mut self, at: usize) {
        let ids: Vec<u8> = self.members[at]
            .neighbours
            .iter()
            .flat_map(|other| *self.members[*other].id.as_bytes())
            .collect();
        self.say(at, "neighbours", ids);
    }

    fn say(&mut self, at: usize, key: &str, value: Vec<u8>) {
        let now = self.now;
        let key = key.parse().expect("a key");
        self.members[at].ledger.put(key, value, None, now).expect("within the quota");
    }

    /// A machine is switched on: it looks for neighbours, and those who look for some find it.
    fn join(&mut self, at: usize) {
        self.joined.insert(at);
        let machine = vec![at as u8; MACHINE];
        self.say(at, "machine", machine);
        let me = self.members[at].id;
        let mut others: Vec<usize> = self.joined.iter().copied().filter(|other| *other != at).collect();
        others.sort_by_cached_key(|other| neighbourhood::rank(&me, &self.members[*other].id));
        let before = others.len();
        for other in others {
            let looks = self.members[at].neighbours.len() < neighbourhood::ENOUGH
                || self.members[other].neighbours.len() < neighbourhood::ENOUGH.min(before);
            let has_room = [at, other]
                .into_iter()
                .all(|end| self.members[end].neighbours.len() < neighbourhood::AT_MOST);
            if looks && has_room {
                self.connect(at, other);
            }
        }
        self.settle(at);
    }

    fn connect(&mut self, a: usize, b: usize) {
        let now = self.now;
        for (at, other) in [(a, b), (b, a)] {
            let peer = self.members[other].id;
            let member = &mut self.members[at];
            member.neighbours.insert(other);
            member.tell.get_or_insert(now + STILL);
            member.ledger.handle_neighbour_up(peer, now);
            self.settle(at);
        }
    }

    fn settle(&mut self, at: usize) {
        let member = &mut self.members[at];
        if !member.writing
            && let Some(Write { .. }) = member.ledger.poll_write()
        {
            member.writing = true;
            self.later(DISK, Happening::Written(at));
        }
        while let Some((to, bytes)) = self.members[at].ledger.poll_message() {
            self.messages += 1;
            self.bytes += bytes.len() as u64;
            let after = Duration::from_micros(self.rng.random_range(LATENCY.0..LATENCY.1));
            let to = self.by_id[&to];
            self.later(after, Happening::Message { from: at, to, bytes });
        }
        let member = &mut self.members[at];
        let timer = [member.tell, member.ledger.poll_timeout().map(|(at, _)| at)].into_iter().flatten().min();
        if member.timer != timer {
            self.timers.extend(timer.map(|timer| (timer, at)));
            if let Some(old) = std::mem::replace(&mut self.members[at].timer, timer) {
                self.timers.remove(&(old, at));
            }
        }
    }

    /// Runs until `done`; says how long that took, if it was within `limit`.
    fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        let mut looked = start;
        while self.step(start + limit) {
            if self.now >= looked + Duration::from_millis(10) {
                looked = self.now;
                if done(self) {
                    return Some(self.now - start);
                }
            }
        }
        done(self).then(|| self.now - start)
    }

    fn is_equal(&self) -> bool {
        let first = self.members[0].ledger.fingerprint();
        self.joined.len() == self.members.len()
            && self.members.iter().all(|member| member.ledger.fingerprint() == first)
    }
}

/// Runs a mesh of so many members, lets it be idle for so many seconds, and changes one fact; prints a line of JSON.
pub fn run(nodes: usize, idle: u64, epoch: Instant) -> ExitCode {
    let mut mesh = Mesh::new(nodes.max(2), epoch);
    let Some(settled) = mesh.run(SETTLED_WITHIN, Mesh::is_equal) else {
        eprintln!("sim: {nodes} members do not hold the same after {SETTLED_WITHIN:?}");
        return ExitCode::FAILURE;
    };
    // What was changed last is still compared.
    mesh.run(Duration::from_secs(60), |_| false);
    let (bytes, messages) = (mesh.bytes, mesh.messages);
    mesh.run(Duration::from_secs(idle), |_| false);
    let idle_for = (nodes as u64 * idle.max(1)) as f64;
    let (idle_bytes, idle_messages) = (mesh.bytes - bytes, mesh.messages - messages);
    let bytes = mesh.bytes;
    mesh.say(0, "machine", vec![0xff; MACHINE]);
    mesh.settle(0);
    let author = mesh.members[0].id;
    let has_it =
        |member: &Member| member.ledger.get(author, "machine").is_some_and(|entry| entry.value()[0] == 0xff);
    let Some(reached) = mesh.run(Duration::from_secs(60), |mesh| mesh.members.iter().all(has_it)) else {
        eprintln!("sim: a change does not reach all within a minute");
        return ExitCode::FAILURE;
    };
    let connections: Vec<usize> = mesh.members.iter().map(|member| member.neighbours.len()).collect();
    let report = Report {
        nodes,
        settled_seconds: settled.as_secs_f64(),
        idle_seconds: idle,
        bytes_per_second_per_node: rounded(idle_bytes as f64 / idle_for),
        messages_per_second_per_node: rounded(idle_messages as f64 / idle_for),
        change_reaches_all_seconds: reached.as_secs_f64(),
        bytes_per_change_per_node: rounded((mesh.bytes - bytes) as f64 / nodes as f64),
        connections_per_node: rounded(connections.iter().sum::<usize>() as f64 / nodes as f64),
        most_connections: connections.into_iter().max().unwrap_or_default(),
        memory_kib_per_node: resident_kib() / nodes as u64,
        seconds: rounded(epoch.elapsed().as_secs_f64()),
    };
    println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
    ExitCode::SUCCESS
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Resident memory of this process, as Linux tells; 0 elsewhere.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
