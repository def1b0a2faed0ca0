//! The machine that one node runs: when to vote, when to propose, which certificate to apply.

mod candidate;
mod judge;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use self::judge::Verdict;
use super::{
    Acceptor, Certificate, ClusterId, Datastore, Founded, FoundingStatus, Guarantee, Peer, Proposer, Value,
    View,
    decree::{Decree, Registers},
    electorate::{Draw, SILENCE, Silence, minimum_nodes},
    pace::{self, Pace},
};
use crate::{
    address::Pool,
    config::{NetworkId, RoleSetting},
    identity::NodeId,
};

/// What a node's configuration says about founding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundingSettings {
    /// `c3os.network_id`.
    pub network_id: NetworkId,
    /// `c3os.role`.
    pub role: RoleSetting,
    /// `c3os.minimum_nodes`, if set.
    pub minimum_nodes: Option<u16>,
    /// `c3os.join`.
    pub join: Option<ClusterId>,
    /// `c3os.auto.ha.master_nodes`: servers in addition to the founder.
    pub additional_servers: u16,
    /// `c3os.auto.ha.external_db` is set.
    pub external_datastore: bool,
    /// `c3os.vpn.subnet`: addresses that are not usable in it do not go into the certificate.
    pub pool: Pool,
    /// The configuration is frozen: a setting that decides roles was not understood.
    pub frozen: bool,
    /// `c3os.auto.merge`: leaves its own cluster for that of `join`.
    pub merge: bool,
    /// This is the decree about a lost cluster's heir, not the first one.
    pub succeeds: Option<Succession>,
}

/// A cluster whose servers are lost, and that another one shall take the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Succession {
    /// The lost one.
    pub lost: ClusterId,
    /// Its generation; the heir's is one higher.
    pub generation: u32,
    /// An operator said on this very node that it shall be done: it proposes. The others only vote.
    pub proposes: bool,
}

impl FoundingSettings {
    /// Whether a node with these settings abstains: it never votes, and others need not wait for it.
    pub fn abstains(&self) -> bool {
        // Who belongs to a lost cluster has joined before.
        (self.join.is_some() && self.succeeds.is_none()) || self.frozen
    }

    fn datastore(&self) -> Datastore {
        match (self.external_datastore, self.additional_servers) {
            (true, _) => Datastore::External,
            (false, 0) => Datastore::Sqlite,
            (false, _) => Datastore::Etcd,
        }
    }

    /// Whether more than one node can be server.
    fn several_servers(&self) -> bool {
        self.datastore() != Datastore::Sqlite
    }
}

/// What has to be done. Each is asked for once; see [`Founding::handle_write_refused`] for the exception.
#[derive(Debug, Clone)]
pub enum Act {
    /// Put this under [`super::Register::key`], synced before anybody sees it, no time to live.
    WriteAcceptor(Acceptor),
    /// Put this under [`super::Register::key`], synced before anybody sees it, no time to live.
    WriteProposer(Proposer),
    /// Put this under [`Certificate::key`], no time to live.
    Publish(Certificate),
    /// Write this to disk; once it is there, show it as [`View::pinned`].
    Pin(Certificate),
}

/// One node's part in founding a cluster. See the page of the room for its states.
#[derive(Debug)]
pub struct Founding {
    me: NodeId,
    settings: FoundingSettings,
    seed: [u8; 32],
    status: FoundingStatus,
    wake: Option<(Instant, &'static str)>,
    decree: Decree,
    /// Registers that were handed out and are not visible yet: nothing else is decided about them meanwhile.
    acceptor_in_flight: Option<Acceptor>,
    proposer_in_flight: Option<Proposer>,
    /// The first incarnation seen of each voter.
    incarnations: BTreeMap<NodeId, u64>,
    /// Voters that showed a second one.
    contradicted: BTreeSet<NodeId>,
    silence: Silence,
    draw: Draw,
    pace: Option<Pace>,
    /// Another voter or a certificate was seen: this node founds nothing alone any more.
    seen_others: bool,
    /// Certificates that this node found proven by registers, and when.
    proven: BTreeMap<ClusterId, (Certificate, Instant)>,
    published: Option<ClusterId>,
    pinning: Option<ClusterId>,
    /// The cluster that an operator chose for this machine.
    chosen: Option<ClusterId>,
}

impl Founding {
    /// Starts the machine. `seed` is 32 random bytes that no earlier start had: cluster ids are made from it.
    pub fn new(me: NodeId, settings: FoundingSettings, seed: [u8; 32]) -> Self {
        Self {
            me,
            draw: Draw::new(settings.network_id.clone()),
            settings,
            seed,
            status: FoundingStatus::Starting,
            wake: None,
            decree: Decree::new(me),
            acceptor_in_flight: None,
            proposer_in_flight: None,
            incarnations: BTreeMap::new(),
            contradicted: BTreeSet::new(),
            silence: Silence::default(),
            pace: None,
            seen_others: false,
            proven: BTreeMap::new(),
            published: None,
            pinning: None,
            chosen: None,
        }
    }

    /// Where founding stands after the last [`Founding::decide`].
    pub fn status(&self) -> &FoundingStatus {
        &self.status
    }

    /// When to call [`Founding::decide`] again even if nothing changes, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.wake
    }

    /// Whether two clusters are impossible, as far as this node sees.
    pub fn guarantee(&self, view: &View) -> Guarantee {
        let ids = view.voters.iter().filter(|(_, voter)| voter.role != RoleSetting::None).count();
        Guarantee { minimum_nodes: self.minimum_nodes(), ids: ids.max(1) }
    }

    /// The ledger refused a register for good (it was never pending): its ballot is given up, and a vote is decided
    /// anew. A write that the ledger goes on trying is not refused.
    pub fn handle_write_refused(&mut self) {
        (self.acceptor_in_flight, self.proposer_in_flight) = (None, None);
        self.decree.withdraw();
    }

    /// Decides what to do next. Call it whenever the view may have changed and at [`Founding::poll_timeout`].
    pub fn decide(&mut self, view: &View, now: Instant) -> Vec<Act> {
        self.wake = None;
        self.confirm(view);
        self.silence.observe(view, now);
        let void = self.void(view);
        let registers = registers(view, &void);
        let mut acts = Vec::new();
        self.status = if let Some(pinned) = &view.pinned {
            self.pinned(view, pinned, now, &mut acts)
        } else if self.settings.role == RoleSetting::None {
            FoundingStatus::Observing
        } else if let Some(waits) = self.waits_for_silence(view, now) {
            waits
        } else {
            let seen = self.certificates(view, &registers, now, &mut acts);
            match self.judge(view, &seen) {
                Some(Verdict::Apply(certificate)) => self.pin(view, &certificate, &mut acts),
                Some(Verdict::Wait(status)) => status,
                None => self.take_part(view, &void, &registers, now, &mut acts),
            }
        };
        acts
    }

    /// As a member of a lost cluster: whether its servers were not heard for long enough, and what is waited for.
    fn waits_for_silence(&mut self, view: &View, now: Instant) -> Option<FoundingStatus> {
        let lost = self.settings.succeeds.as_ref()?.lost;
        let Some(since) = view.servers_silent_since else {
            return Some(FoundingStatus::StillServed { lost, servers: peers(view, &view.live_servers) });
        };
        if now >= since + SILENCE {
            return None;
        }
        self.wake(since + SILENCE, "the servers of the lost cluster were silent for long enough");
        Some(FoundingStatus::Silent { lost })
    }

    /// An operator said on this node that the lost cluster shall be succeeded.
    pub fn stand(&mut self) {
        if let Some(succession) = &mut self.settings.succeeds {
            succession.proposes = true;
        }
    }

    /// The generation of what is founded here.
    fn generation(&self) -> u32 {
        self.settings.succeeds.as_ref().map_or(1, |succession| succession.generation.saturating_add(1))
    }

    /// Looks whether what was handed out has become visible.
    fn confirm(&mut self, view: &View) {
        let own = view.voters.get(&self.me);
        let acceptor = own.and_then(|own| own.acceptor.as_ref()).map(|held| held.register());
        if acceptor.is_some() && acceptor == self.acceptor_in_flight.as_ref() {
            self.acceptor_in_flight = None;
        }
        let proposer = own.and_then(|own| own.proposer.as_ref()).map(|held| held.register());
        if proposer.is_some() && proposer == self.proposer_in_flight.as_ref() {
            self.proposer_in_flight = None;
        }
    }

    /// Whose votes do not count: clones, amnesiacs, and voters that showed two incarnations.
    fn void(&mut self, view: &View) -> BTreeSet<NodeId> {
        for (id, voter) in &view.voters {
            let Some(acceptor) = voter.acceptor.as_ref().map(|held| held.register()) else { continue };
            if *self.incarnations.entry(*id).or_insert(acceptor.incarnation) != acceptor.incarnation {
                self.contradicted.insert(*id);
            }
        }
        let void = |(id, voter): &(&NodeId, &super::VoterView)| {
            voter.cloned
                || self.contradicted.contains(id)
                || voter.acceptor.as_ref().is_some_and(|held| held.register().void)
        };
        view.voters.iter().filter(void).map(|(id, _)| *id).collect()
    }

    /// No certificate yet: votes and proposes, unless something forbids it.
    fn take_part(
        &mut self,
        view: &View,
        void: &BTreeSet<NodeId>,
        registers: &Registers<'_>,
        now: Instant,
        acts: &mut Vec<Act>,
    ) -> FoundingStatus {
        let own = view.voters.get(&self.me);
        let own_acceptor = own.and_then(|own| own.acceptor.as_ref()).map(|held| held.register());
        let incarnation = pace::draw(&self.seed, b"incarnation", 0);
        // A register that was visible and is gone was lost by somebody; starting anew would be a second first vote.
        let lost = own_acceptor.is_none() && self.incarnations.contains_key(&self.me);
        if view.amnesiac || lost || own_acceptor.is_some_and(|acceptor| acceptor.void) {
            self.decree.withdraw();
            let void = Acceptor::void(incarnation);
            let on_its_way = self.acceptor_in_flight.as_ref().is_some_and(|acceptor| acceptor.void);
            if !own_acceptor.is_some_and(|acceptor| acceptor.void) && !on_its_way {
                self.acceptor_in_flight = Some(void.clone());
                acts.push(Act::WriteAcceptor(void));
            }
            return FoundingStatus::Amnesiac;
        }
        if void.contains(&self.me) {
            self.decree.withdraw();
            return FoundingStatus::Cloned;
        }
        if own.is_some_and(|own| own.abstains) || self.settings.frozen {
            // The others were told not to count on this node; it keeps to that, whatever its settings were read as.
            self.decree.withdraw();
            return FoundingStatus::Frozen;
        }
        if own_acceptor.is_none() && self.acceptor_in_flight.is_none() {
            let fresh = Acceptor::fresh(incarnation);
            self.acceptor_in_flight = Some(fresh.clone());
            acts.push(Act::WriteAcceptor(fresh));
        }
        self.seen_others |= view.voters.iter().any(|(id, voter)| {
            *id != self.me && (voter.role != RoleSetting::None || voter.acceptor.is_some())
        });
        // Who comes late hears of a given-up ballot and of the certificate in any order; its vote must not make a second.
        if self.acceptor_in_flight.is_none()
            && view.exchanged
            && let Some(answer) = self.decree.vote(registers, |id, asked| self.may_answer(view, id, asked))
        {
            self.acceptor_in_flight = Some(answer.clone());
            acts.push(Act::WriteAcceptor(answer));
        }
        self.propose(view, void, registers, now, acts)
    }

    /// Whether this node answers a ballot. Refusing is always safe.
    fn may_answer(&self, view: &View, proposer: NodeId, asked: &Proposer) -> bool {
        let alone = proposer == self.me
            && self.settings.succeeds.is_none()
            && self.settings.role == RoleSetting::Master
            && self.settings.minimum_nodes.is_none()
            && !self.seen_others;
        let minimum = if alone { 1 } else { self.minimum_nodes() };
        let fits = |value: &Value| {
            let cluster = value.cluster();
            cluster.minimum_nodes == minimum
                && cluster.network_id == self.settings.network_id
                && cluster.generation == self.generation()
                && cluster.supersedes == self.settings.succeeds.as_ref().map(|succession| succession.lost)
        };
        let forced = |id| view.voters.get(&id).is_some_and(|voter| voter.role == RoleSetting::Master);
        // A forced master is the only proposer; a second one among several votes for the first.
        let subject = self.settings.succeeds.is_some()
            || self.settings.role != RoleSetting::Master
            || proposer == self.me
            || forced(proposer);
        subject && asked.minimum_nodes == minimum && asked.value.as_ref().is_none_or(fits)
    }

    fn minimum_nodes(&self) -> u16 {
        minimum_nodes(self.settings.minimum_nodes)
    }

    fn wake(&mut self, at: Instant, reason: &'static str) {
        if self.wake.is_none_or(|(earlier, _)| at < earlier) {
            self.wake = Some((at, reason));
        }
    }
}

fn registers<'a>(view: &'a View, void: &BTreeSet<NodeId>) -> Registers<'a> {
    let voters = || view.voters.iter().filter(|(id, _)| !void.contains(id));
    Registers {
        acceptors: voters().filter_map(|(id, voter)| Some((*id, voter.acceptor.as_ref()?))).collect(),
        proposers: voters().filter_map(|(id, voter)| Some((*id, voter.proposer.as_ref()?))).collect(),
    }
}

fn peer(view: &View, id: &NodeId) -> Peer {
    Peer { name: view.voters.get(id).map(|voter| voter.name.clone()).unwrap_or_default(), id: *id }
}

fn peers<'a>(view: &View, ids: impl IntoIterator<Item = &'a NodeId>) -> Vec<Peer> {
    ids.into_iter().map(|id| peer(view, id)).collect()
}

fn founded(view: &View, certificate: &Certificate) -> Founded {
    let cluster = certificate.cluster();
    Founded {
        cluster_id: cluster.cluster_id,
        founder: peer(view, &cluster.founder),
        minimum_nodes: cluster.minimum_nodes,
    }
}
