//! Every schedule of the bare decree: three voters, two of them proposers, any order of delivery, of old versions too,
//! and crashes that keep the registers. Runs [`Decree`] itself.
//!
//! These make the space small enough without leaving anything out:
//! * A voter's answer depends on its own register and the highest ballot it sees, so answering each version of a
//!   proposer's register when it arrives covers answering several at once.
//! * Between a decision and its write nothing else decides about that register, so both are one step.
//! * What a proposer has seen matters twice: when it names a value (any set of promises that exist by then) and when
//!   it begins (any set of newest registers). So it is picked then and not remembered. That somebody promised more is
//!   a step of its own: it ends the ballot, whoever it was.
//! * Versions that nobody can answer any more, and votes in ballots that can get no more, have no future.
//!
//! The faults stand in the delivery, not in the product: they show that the search would find a broken decree. One
//! that it does not find, because it is none: to count a promise of a later ballot (such a voter answers the earlier
//! one no more, and the vote it shows was bound by the same rule). The product ends the ballot all the same.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
};

use crate::election::{
    Acceptor, Ballot, Cluster, ClusterId, Datastore, Held, Proposer, Value,
    decree::{Candidacy, Decree, Progress, Registers},
};
use crate::{config::NetworkId, identity::NodeId};

const VOTERS: usize = 3;
const PROPOSERS: usize = 2;
const MINIMUM: u16 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Promise and vote are two registers: the promise may be seen with an older vote.
    TornRegister,
    /// A promise of an earlier ballot counts.
    EarlierPromise,
    /// A voter does not look at what it promised.
    UnkeptPromise,
    /// A crash loses the voter's register, and nobody notices.
    LostVotes,
    /// A crash loses the proposer's register, and nobody notices.
    LostBallots,
}

#[derive(Clone, Copy)]
struct Limits {
    /// Ballots that both proposers together may begin.
    ballots: u8,
    crashes: u8,
    fault: Fault,
    /// The longest schedule.
    depth: usize,
}

/// All versions ever written of each register: the network may deliver any of them at any time.
#[derive(Clone)]
struct World {
    acceptors: [Vec<Rc<Held<Acceptor>>>; VOTERS],
    proposers: [Vec<Rc<Held<Proposer>>>; PROPOSERS],
    candidates: [Candidate; PROPOSERS],
    ballots: u8,
    crashes: u8,
    chosen: Option<Value>,
    violated: bool,
}

#[derive(Clone)]
struct Candidate {
    decree: Decree,
    lives: u8,
}

type Step = (Move, World);

/// What happened, for reading a schedule that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Move {
    Start,
    /// A voter answers a version of a proposer's register.
    Answers(usize, usize, usize),
    /// A proposer begins a round.
    Begins(usize, u64),
    /// A proposer names a value of this founder and round.
    Names(usize, ClusterId),
    /// A proposer sees a higher promise of a voter.
    Overtaken(usize, usize),
    Crashes(usize),
}

fn id(n: usize) -> NodeId {
    NodeId::from_bytes([n as u8 + 1; 32])
}

impl World {
    fn new() -> Self {
        let fresh = || vec![Rc::new(Held::unsigned(Acceptor::fresh(0)))];
        let candidate = |n| Candidate { decree: Decree::new(id(n)), lives: 0 };
        Self {
            acceptors: [fresh(), fresh(), fresh()],
            proposers: [Vec::new(), Vec::new()],
            candidates: [candidate(0), candidate(1)],
            ballots: 0,
            crashes: 0,
            chosen: None,
            violated: false,
        }
    }

    fn acceptor(&self, n: usize) -> &Rc<Held<Acceptor>> {
        self.acceptors[n].last().expect("each has a first version")
    }

    /// The own registers of node `n`, which it always sees.
    fn own(&self, n: usize) -> Registers<'_> {
        let asked = self.proposers[n].last().map(|held| (id(n), &**held));
        Registers { acceptors: [(id(n), &**self.acceptor(n))].into(), proposers: asked.into_iter().collect() }
    }

    fn progress(&self, n: usize) -> Progress {
        self.candidates[n].decree.progress(&self.own(n))
    }

    /// Whether voter `n` could still answer.
    fn is_open(&self, n: usize, ballot: Ballot, named: bool) -> bool {
        let own = self.acceptor(n).register();
        match own.promised {
            Some(promised) if promised > ballot => false,
            Some(promised) if promised == ballot => {
                named && own.accepted.as_ref().is_none_or(|(accepted, _)| *accepted != ballot)
            }
            Some(_) | None => true,
        }
    }

    /// Two worlds with one key have the same futures.
    fn key(&self, fault: Fault) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash_into(fault, &mut hasher);
        hasher.finish()
    }

    fn hash_into(&self, fault: Fault, hasher: &mut DefaultHasher) {
        let value = |value: &Value| value.cluster().cluster_id;
        let register = |a: &Acceptor| (a.promised, a.accepted.as_ref().map(|(b, v)| (*b, value(v))));
        let asked = |asked: &Proposer| (asked.ballot, asked.value.as_ref().map(value));
        (self.ballots, self.crashes, self.chosen.as_ref().map(value)).hash(hasher);
        for versions in &self.acceptors {
            register(versions.last().expect("each has a first version").register()).hash(hasher);
        }
        for n in 0..PROPOSERS {
            self.proposers[n].last().map(|held| asked(held.register())).hash(hasher);
            let progress = self.progress(n);
            progress.hash(hasher);
            let Progress::Preparing(ballot) = progress else { continue };
            for versions in &self.acceptors {
                let promise = versions.iter().find(|held| held.register().promised == Some(ballot));
                promise.map(|held| register(held.register())).hash(hasher);
                // What would end this ballot.
                versions.iter().any(|held| held.register().promised > Some(ballot)).hash(hasher);
            }
        }
        for (n, versions) in self.proposers.iter().enumerate() {
            for held in versions {
                let (ballot, named) = asked(held.register());
                if (0..VOTERS).any(|voter| self.is_open(voter, ballot, named.is_some())) {
                    (n, ballot, named).hash(hasher);
                    let voted = |versions: &Vec<Rc<Held<Acceptor>>>| {
                        versions.iter().any(|held| {
                            held.register().accepted.as_ref().is_some_and(|(accepted, _)| *accepted == ballot)
                        })
                    };
                    self.acceptors.each_ref().map(voted).hash(hasher);
                }
            }
        }
        if fault == Fault::None {
            return;
        }
        // With a fault the past matters in more ways: nothing is left out.
        for versions in &self.acceptors {
            versions.len().hash(hasher);
            versions.iter().for_each(|held| register(held.register()).hash(hasher));
        }
        for versions in &self.proposers {
            versions.len().hash(hasher);
            versions.iter().for_each(|held| asked(held.register()).hash(hasher));
        }
        self.candidates.iter().for_each(|candidate| candidate.lives.hash(hasher));
    }

    /// Notes a vote: all votes ever cast count.
    fn count(&mut self, ballot: Ballot, value: &Value) {
        let voted = |held: &Rc<Held<Acceptor>>| match &held.register().accepted {
            Some((b, v)) => v == value && *b == ballot,
            None => false,
        };
        let votes = self.acceptors.iter().filter(|versions| versions.iter().any(voted)).count();
        if votes >= usize::from(MINIMUM) {
            self.violated |= self.chosen.replace(value.clone()).is_some_and(|other| other != *value);
        }
    }
}

struct Explorer {
    limits: Limits,
    values: RefCell<BTreeMap<(Ballot, u8), Value>>,
}

impl Explorer {
    fn value(&self, ballot: Ballot, life: u8) -> Value {
        let make = || {
            let mut bytes = [life; 16];
            bytes[0] = ballot.node.as_bytes()[0];
            bytes[1] = ballot.round as u8;
            Value::new(Cluster {
                cluster_id: ClusterId::from_bytes(bytes),
                network_id: NetworkId::default(),
                generation: 1,
                supersedes: None,
                founder: ballot.node,
                minimum_nodes: MINIMUM,
                servers: 1,
                datastore: Datastore::Sqlite,
                addresses: [].into(),
            })
        };
        self.values.borrow_mut().entry((ballot, life)).or_insert_with(make).clone()
    }

    /// All worlds one step away.
    fn steps(&self, world: &World) -> Vec<Step> {
        let mut steps = Vec::new();
        for n in 0..VOTERS {
            self.answer(world, n, &mut steps);
            self.crash(world, n, &mut steps);
        }
        for n in 0..PROPOSERS {
            match world.progress(n) {
                Progress::Idle => self.begin(world, n, &mut steps),
                Progress::Preparing(ballot) => {
                    self.overtake(world, n, ballot, &mut steps);
                    self.name(world, n, ballot, &mut steps);
                }
                Progress::Accepting(ballot) => self.overtake(world, n, ballot, &mut steps),
            }
        }
        steps
    }

    /// Voter `n` sees some version of a proposer's register.
    fn answer(&self, world: &World, n: usize, steps: &mut Vec<Step>) {
        for (p, versions) in world.proposers.iter().enumerate() {
            // A node sees the last version of its own register only.
            let first = if p == n { versions.len().saturating_sub(1) } else { 0 };
            for (version, asked) in versions.iter().enumerate().skip(first) {
                let named = asked.register().value.is_some();
                if self.limits.fault == Fault::None && !world.is_open(n, asked.register().ballot, named) {
                    continue;
                }
                let mut own = world.acceptor(n).register().clone();
                if self.limits.fault == Fault::UnkeptPromise {
                    own.promised = None;
                }
                let own = Held::unsigned(own);
                let registers =
                    Registers { acceptors: [(id(n), &own)].into(), proposers: [(id(p), &**asked)].into() };
                let Some(answer) = Decree::new(id(n)).vote(&registers, |_, _| true) else { continue };
                let mut next = world.clone();
                let vote = answer.accepted.clone().filter(|_| named);
                next.acceptors[n].push(Rc::new(Held::unsigned(answer)));
                if let Some((ballot, value)) = vote {
                    next.count(ballot, &value);
                }
                steps.push((Move::Answers(n, p, version), next));
            }
        }
    }

    /// Proposer `n` begins a ballot, having seen any of the others' registers.
    fn begin(&self, world: &World, n: usize, steps: &mut Vec<Step>) {
        if world.ballots == self.limits.ballots {
            return;
        }
        let mut begun = BTreeSet::new();
        for seen in 0..1_u32 << (VOTERS + PROPOSERS) {
            let mut registers = world.own(n);
            for voter in (0..VOTERS).filter(|voter| seen & 1 << voter != 0) {
                registers.acceptors.insert(id(voter), world.acceptor(voter));
            }
            for p in (0..PROPOSERS).filter(|p| seen & 1 << (VOTERS + p) != 0) {
                registers.proposers.extend(world.proposers[p].last().map(|held| (id(p), &**held)));
            }
            // What it has seen decides the round, and nothing else.
            if begun.insert(registers.highest_ballot().map(|ballot| ballot.round)) {
                steps.extend(self.propose(world, n, &registers, true));
            }
        }
    }

    /// Proposer `n` names a value, having seen any of the promises there are.
    fn name(&self, world: &World, n: usize, ballot: Ballot, steps: &mut Vec<Step>) {
        let mut seen =
            vec![world.own(n).acceptors.into_iter().map(|(id, held)| (id, held.clone())).collect()];
        for voter in (0..VOTERS).filter(|voter| *voter != n) {
            let promises = self.promises(world, voter, ballot);
            let with = |seen: &Vec<(NodeId, Held<Acceptor>)>, promise: &Acceptor| {
                let promise = (id(voter), Held::unsigned(promise.clone()));
                seen.iter().cloned().chain([promise]).collect::<Vec<_>>()
            };
            let more: Vec<_> =
                seen.iter().flat_map(|seen| promises.iter().map(|promise| with(seen, promise))).collect();
            seen.extend(more);
        }
        for seen in seen {
            let mut registers = world.own(n);
            registers.acceptors = seen.iter().map(|(id, held)| (*id, held)).collect();
            steps.extend(self.propose(world, n, &registers, false));
        }
    }

    /// The forms in which a promise of this ballot may arrive from a voter.
    fn promises(&self, world: &World, voter: usize, ballot: Ballot) -> Vec<Acceptor> {
        let mut promises = Vec::new();
        let versions = &world.acceptors[voter];
        for (version, held) in versions.iter().enumerate() {
            let held = held.register();
            let counts = match self.limits.fault {
                Fault::EarlierPromise => held.promised <= Some(ballot),
                Fault::None
                | Fault::TornRegister
                | Fault::UnkeptPromise
                | Fault::LostVotes
                | Fault::LostBallots => held.promised == Some(ballot),
            };
            if counts {
                promises.push(Acceptor { promised: Some(ballot), ..held.clone() });
                if self.limits.fault == Fault::TornRegister {
                    let older = versions[..version].iter().map(|old| old.register().accepted.clone());
                    promises.extend(older.map(|accepted| Acceptor { accepted, ..held.clone() }));
                }
            }
        }
        promises
    }

    /// Proposer `n` sees that somebody promised more.
    fn overtake(&self, world: &World, n: usize, ballot: Ballot, steps: &mut Vec<Step>) {
        let more = world.acceptors.iter().enumerate().find_map(|(voter, versions)| {
            versions.iter().find(|held| held.register().promised > Some(ballot)).map(|held| (voter, held))
        });
        if let Some((voter, held)) = more {
            let mut registers = world.own(n);
            registers.acceptors.insert(id(voter), held);
            let mut next = world.clone();
            let asked =
                next.candidates[n].decree.propose(&registers, &self.candidacy(false, &|_| unreachable!()));
            assert_eq!(asked, None, "an overtaken ballot asks for nothing");
            next.candidates[n].decree.withdraw();
            steps.push((Move::Overtaken(n, voter), next));
        }
    }

    fn candidacy<'a>(&self, may_start: bool, fresh: &'a dyn Fn(Ballot) -> Value) -> Candidacy<'a> {
        Candidacy { minimum_nodes: MINIMUM, caution: MINIMUM.into(), may_start, fresh }
    }

    fn propose(&self, world: &World, n: usize, registers: &Registers<'_>, may_start: bool) -> Option<Step> {
        let life = if self.limits.fault == Fault::None { 0 } else { world.candidates[n].lives };
        let fresh = |ballot| self.value(ballot, life);
        let mut decree = world.candidates[n].decree.clone();
        let asked = decree.propose(registers, &self.candidacy(may_start, &fresh))?;
        let mut next = world.clone();
        next.candidates[n].decree = decree;
        next.ballots += u8::from(asked.value.is_none());
        let step = match &asked.value {
            None => Move::Begins(n, asked.ballot.round),
            Some(value) => Move::Names(n, value.cluster().cluster_id),
        };
        next.proposers[n].push(Rc::new(Held::unsigned(asked)));
        Some((step, next))
    }

    /// A node loses all that is not on its disk. One without a ballot has nothing to lose.
    fn crash(&self, world: &World, n: usize, steps: &mut Vec<Step>) {
        let fault = self.limits.fault;
        let loses_registers = matches!(fault, Fault::LostVotes | Fault::LostBallots);
        let idle = n >= PROPOSERS || world.progress(n) == Progress::Idle;
        if world.crashes == self.limits.crashes || idle && !loses_registers {
            return;
        }
        let mut next = world.clone();
        next.crashes += 1;
        if let Some(candidate) = next.candidates.get_mut(n) {
            candidate.decree = Decree::new(id(n));
            candidate.lives += 1;
        }
        if fault == Fault::LostVotes {
            next.acceptors[n].push(Rc::new(Held::unsigned(Acceptor::fresh(0))));
        }
        if fault == Fault::LostBallots && n < PROPOSERS {
            next.proposers[n].clear();
        }
        steps.push((Move::Crashes(n), next));
    }
}

struct Outcome {
    states: usize,
    decided: usize,
    /// The steps to two clusters, if there are such.
    violation: Option<Vec<Move>>,
}

/// From nothing to every end: deep schedules first.
fn explore(limits: Limits) -> Outcome {
    let explorer = Explorer { limits, values: RefCell::default() };
    let mut visited = HashSet::new();
    let mut path: Vec<Move> = Vec::new();
    let mut open = vec![(0, Move::Start, World::new())];
    let mut decided = 0;
    while let Some((depth, step, world)) = open.pop() {
        path.truncate(depth);
        path.push(step);
        if world.violated {
            return Outcome { states: visited.len(), decided, violation: Some(path) };
        }
        if depth < limits.depth && visited.insert(world.key(limits.fault)) {
            decided += usize::from(world.chosen.is_some());
            open.extend(explorer.steps(&world).into_iter().map(|(step, next)| (depth + 1, step, next)));
        }
    }
    Outcome { states: visited.len(), decided, violation: None }
}

/// Explores a sound decree and counts: 163,713 states with three ballots, 2,355,930 with four.
fn assert_sound(ballots: u8, crashes: u8) {
    let outcome = explore(Limits { ballots, crashes, fault: Fault::None, depth: usize::MAX });
    println!("{ballots} ballots, {crashes} crashes: {} states, {} decided", outcome.states, outcome.decided);
    assert_eq!(outcome.violation, None);
    assert!(outcome.decided > 0, "nothing was ever decided, so nothing was tested");
}

#[test]
fn no_schedule_of_three_ballots_and_two_crashes_founds_two_clusters() {
    assert_sound(3, 2);
}

#[test]
#[ignore = "two minutes, 2,355,930 states: cargo verify --full --part explore"]
fn no_schedule_of_four_ballots_and_two_crashes_founds_two_clusters() {
    assert_sound(4, 2);
}

#[test]
#[ignore = "a minute, half a million states: cargo verify --full --part explore"]
fn the_search_finds_a_proposer_that_forgot_its_ballot() {
    let outcome = explore(Limits { ballots: 3, crashes: 1, fault: Fault::LostBallots, depth: 40 });
    assert!(outcome.violation.is_some(), "not found in {} states", outcome.states);
}

#[test]
fn the_search_finds_what_is_wrong_with_a_broken_decree() {
    let faults = [
        (Fault::TornRegister, 2, 0, 20),
        (Fault::EarlierPromise, 2, 0, 20),
        (Fault::UnkeptPromise, 2, 0, 16),
        (Fault::LostVotes, 2, 1, 18),
    ];
    for (fault, ballots, crashes, depth) in faults {
        let outcome = explore(Limits { ballots, crashes, fault, depth });
        println!("{fault:?}: {} states, {:?}", outcome.states, outcome.violation.as_ref().map(Vec::len));
        assert!(outcome.violation.is_some(), "{fault:?} was not found in {} states", outcome.states);
    }
}
