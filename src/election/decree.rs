//! The bare decree: single-decree Paxos over registers, without time, roles or people.
//!
//! ```text
//! proposer   { ballot b, no value } ----> acceptors: promised = b       (unless they promised more)
//!            { ballot b, value v }  <---- m of them with promised == b; v is the value of the highest accepted
//!                                         among them, or a new one
//!                                   ----> acceptors: accepted = (b, v)  (unless they promised more)
//! certificate                       <---- m of them with accepted == (b, v)
//! ```
//! All state is in the registers, which are on disk before anybody sees them. What this struct holds may be lost at
//! any moment: a restarted proposer takes a new ballot above all that it finds.

use std::collections::BTreeMap;

use super::{Acceptor, Ballot, Certificate, Held, Proposer, Value};
use crate::identity::NodeId;

/// The registers that count: those of void votes are left out by the caller.
#[derive(Debug, Default)]
pub(super) struct Registers<'a> {
    pub(super) acceptors: BTreeMap<NodeId, &'a Held<Acceptor>>,
    pub(super) proposers: BTreeMap<NodeId, &'a Held<Proposer>>,
}

impl Registers<'_> {
    /// The highest ballot that anybody asked for or answered.
    pub(super) fn highest_ballot(&self) -> Option<Ballot> {
        let promised = self.acceptors.values().filter_map(|held| held.register().promised);
        let asked = self.proposers.values().map(|held| held.register().ballot);
        promised.chain(asked).max()
    }

    /// The certificates that the registers prove, as seen from here.
    pub(super) fn certificates(&self) -> impl Iterator<Item = Certificate> {
        let acceptors = || self.acceptors.iter().map(|(id, held)| (*id, *held));
        self.proposers.values().filter_map(move |proposer| Certificate::assemble(proposer, acceptors()))
    }
}

/// What a candidate wants.
pub(super) struct Candidacy<'a> {
    /// m.
    pub(super) minimum_nodes: u16,
    /// How many promises to wait for, if more than m: the caution that costs nobody else anything.
    pub(super) caution: usize,
    /// May take a new ballot now, if none of its own is under way.
    pub(super) may_start: bool,
    /// Makes the value, if nobody has voted for one before.
    pub(super) fresh: &'a dyn Fn(Ballot) -> Value,
}

/// How far this node's own ballot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Progress {
    /// None under way.
    Idle,
    /// Waits for promises.
    Preparing(Ballot),
    /// Waits for votes.
    Accepting(Ballot),
}

/// One node's part in the decree.
#[derive(Debug, Clone)]
pub(super) struct Decree {
    me: NodeId,
    /// The ballot that this process began, so that only its own promises are used.
    own: Option<Ballot>,
}

impl Decree {
    pub(super) fn new(me: NodeId) -> Self {
        Self { me, own: None }
    }

    /// As a voter: the register to write in answer to the highest ballot among those that `may` be answered.
    pub(super) fn vote(
        &self,
        registers: &Registers<'_>,
        may: impl Fn(NodeId, &Proposer) -> bool,
    ) -> Option<Acceptor> {
        let own = registers.acceptors.get(&self.me)?.register();
        let asked = registers.proposers.iter().map(|(id, held)| (*id, held.register()));
        let (_, highest) =
            asked.filter(|(id, asked)| may(*id, asked)).max_by_key(|(_, asked)| asked.ballot)?;
        own.answer(highest)
    }

    /// As a proposer: the register to write next.
    pub(super) fn propose(
        &mut self,
        registers: &Registers<'_>,
        candidacy: &Candidacy<'_>,
    ) -> Option<Proposer> {
        let minimum_nodes = candidacy.minimum_nodes;
        if let Some(asked) = self.under_way(registers).filter(|asked| asked.minimum_nodes == minimum_nodes) {
            return match asked.value {
                None => self.choose(registers, asked.ballot, candidacy).map(|value| Proposer {
                    ballot: asked.ballot,
                    minimum_nodes,
                    value: Some(value),
                }),
                Some(_) => None,
            };
        }
        self.own = None;
        candidacy.may_start.then(|| {
            let round = registers.highest_ballot().map_or(0, |ballot| ballot.round) + 1;
            let ballot = Ballot { round, node: self.me };
            self.own = Some(ballot);
            Proposer { ballot, minimum_nodes, value: None }
        })
    }

    /// Ends the own ballot before a value was named.
    pub(super) fn withdraw(&mut self) {
        self.own = None;
    }

    pub(super) fn progress(&self, registers: &Registers<'_>) -> Progress {
        match self.under_way(registers) {
            None => Progress::Idle,
            Some(Proposer { ballot, value: None, .. }) => Progress::Preparing(*ballot),
            Some(Proposer { ballot, value: Some(_), .. }) => Progress::Accepting(*ballot),
        }
    }

    /// The own register, while its ballot can still succeed: nobody promised a higher one.
    fn under_way<'a>(&self, registers: &Registers<'a>) -> Option<&'a Proposer> {
        let ballot = self.own?;
        let asked = registers.proposers.get(&self.me)?.register();
        let overtaken =
            || registers.acceptors.values().any(|held| held.register().promised.is_some_and(|b| b > ballot));
        (asked.ballot == ballot && !overtaken()).then_some(asked)
    }

    /// Phase 1: the value that enough promises leave open. None while there are too few, or if what they bind to was
    /// proposed for another m: then no voter of this m would vote for it.
    fn choose(&self, registers: &Registers<'_>, ballot: Ballot, candidacy: &Candidacy<'_>) -> Option<Value> {
        let promises: Vec<&Acceptor> = registers
            .acceptors
            .values()
            .map(|held| held.register())
            .filter(|acceptor| !acceptor.void && acceptor.promised == Some(ballot))
            .collect();
        if promises.len() < candidacy.caution.max(usize::from(candidacy.minimum_nodes)) {
            return None;
        }
        let bound = promises.iter().filter_map(|acceptor| acceptor.accepted.as_ref()).max_by_key(|(b, _)| *b);
        match bound {
            None => Some((candidacy.fresh)(ballot)),
            Some((_, value)) => {
                (value.cluster().minimum_nodes == candidacy.minimum_nodes).then(|| value.clone())
            }
        }
    }
}
