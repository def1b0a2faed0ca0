//! The machine that one node runs: when to vote, when to propose, which certificate to apply.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Instant,
};

use super::{
    Acceptor, Ballot, Certificate, Cluster, ClusterId, Conflict, Datastore, Founded, FoundingStatus,
    Guarantee, Peer, Proposer, Value, View,
    decree::{Candidacy, Decree, Progress, Registers},
    electorate::{Draw, Electorate, Silence, minimum_nodes},
    pace::{self, Pace},
};
use crate::{
    address::Pool,
    config::{NetworkId, RoleSetting},
    identity::NodeId,
};

/// The generation that this program founds and joins by itself.
const GENERATION: u32 = 1;

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
}

impl FoundingSettings {
    /// Whether a node with these settings abstains: it never votes, and others need not wait for it.
    pub fn abstains(&self) -> bool {
        self.join.is_some() || self.frozen
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
        } else {
            let seen = self.certificates(view, &registers, now, &mut acts);
            match self.judge(view, &seen) {
                Some(Verdict::Apply(certificate)) => {
                    let cluster_id = certificate.cluster().cluster_id;
                    let founded = founded(view, &certificate);
                    if self.pinning != Some(cluster_id) {
                        self.pinning = Some(cluster_id);
                        acts.push(Act::Pin(certificate));
                    }
                    FoundingStatus::Founded(founded)
                }
                Some(Verdict::Wait(status)) => status,
                None => self.take_part(view, &void, &registers, now, &mut acts),
            }
        };
        acts
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

    /// The distinct clusters that certificates in the ledger or the registers themselves prove. Publishes what nobody
    /// else has published.
    fn certificates(
        &mut self,
        view: &View,
        registers: &Registers<'_>,
        now: Instant,
        acts: &mut Vec<Act>,
    ) -> BTreeMap<ClusterId, Certificate> {
        for certificate in registers.certificates() {
            if certificate.cluster().network_id == self.settings.network_id {
                self.proven.entry(certificate.cluster().cluster_id).or_insert((certificate, now));
            }
        }
        let published: BTreeMap<ClusterId, Certificate> = view
            .certificates
            .iter()
            .filter(|certificate| certificate.cluster().network_id == self.settings.network_id)
            .map(|certificate| (certificate.cluster().cluster_id, certificate.clone()))
            .collect();
        for (certificate, since) in self.proven.values().cloned().collect::<Vec<_>>() {
            if !published.contains_key(&certificate.cluster().cluster_id) {
                self.publish(&certificate, since, now, acts);
            }
        }
        let proven = self.proven.values().map(|(c, _)| (c.cluster().cluster_id, c.clone()));
        proven.chain(published).collect()
    }

    fn publish(&mut self, certificate: &Certificate, since: Instant, now: Instant, acts: &mut Vec<Act>) {
        let due = match &self.pace {
            Some(pace) if certificate.proposer() != self.me => since + pace.publish_grace(),
            Some(_) | None => since,
        };
        if self.published.is_some() {
            // One certificate under one key: a second one would replace the first.
        } else if now >= due {
            self.published = Some(certificate.cluster().cluster_id);
            acts.push(Act::Publish(certificate.clone()));
        } else {
            self.wake(due, "publish the founding certificate");
        }
    }

    fn pinned(
        &mut self,
        view: &View,
        pinned: &Certificate,
        now: Instant,
        acts: &mut Vec<Act>,
    ) -> FoundingStatus {
        let cluster_id = pinned.cluster().cluster_id;
        let is_published = view.certificates.iter().any(|c| c.cluster().cluster_id == cluster_id);
        if !is_published && self.settings.role != RoleSetting::None {
            let (_, since) = self.proven.entry(cluster_id).or_insert((pinned.clone(), now));
            let since = *since;
            self.pace.get_or_insert_with(|| Pace::new(self.seed, now));
            self.publish(pinned, since, now, acts);
        }
        let others: BTreeMap<ClusterId, &Certificate> = view
            .certificates
            .iter()
            .chain(self.proven.values().map(|(certificate, _)| certificate))
            .map(|certificate| (certificate.cluster().cluster_id, certificate))
            .filter(|(id, _)| *id != cluster_id)
            .collect();
        FoundingStatus::Pinned {
            cluster: founded(view, pinned),
            others: others.values().map(|certificate| founded(view, certificate)).collect(),
            wanted: self.settings.join.filter(|wanted| *wanted != cluster_id),
        }
    }

    /// What the certificates mean for this node; none if there are none.
    fn judge(&self, view: &View, seen: &BTreeMap<ClusterId, Certificate>) -> Option<Verdict> {
        if let Some(wanted) = self.settings.join {
            let fits = seen.get(&wanted).filter(|certificate| self.objection(view, certificate).is_none());
            return Some(match fits {
                Some(certificate) => Verdict::Apply(certificate.clone()),
                None => Verdict::Wait(FoundingStatus::Joining {
                    wanted,
                    seen: seen.values().map(|certificate| founded(view, certificate)).collect(),
                }),
            });
        }
        if self.settings.frozen {
            return Some(Verdict::Wait(FoundingStatus::Frozen));
        }
        let (mut fitting, mut objections) = (Vec::new(), Vec::new());
        for certificate in seen.values() {
            match self.objection(view, certificate) {
                None => fitting.push(certificate),
                Some(conflict) => objections.push(conflict),
            }
        }
        match fitting.as_slice() {
            [] => objections
                .into_iter()
                .next()
                .map(|conflict| Verdict::Wait(FoundingStatus::Conflict(conflict))),
            [only] => Some(Verdict::Apply((*only).clone())),
            several => Some(Verdict::Wait(FoundingStatus::Conflict(Conflict::Several(
                several.iter().map(|certificate| founded(view, certificate)).collect(),
            )))),
        }
    }

    /// Why this node may not apply a valid certificate.
    fn objection(&self, view: &View, certificate: &Certificate) -> Option<Conflict> {
        let cluster = certificate.cluster();
        let named = || founded(view, certificate);
        let own_minimum = self.settings.minimum_nodes.filter(|own| *own > 1);
        if cluster.generation != GENERATION {
            Some(Conflict::Generation { cluster: named(), generation: cluster.generation })
        } else if let Some(wanted) = own_minimum.filter(|_| cluster.minimum_nodes == 1) {
            Some(Conflict::TooFewVotes { cluster: named(), wanted })
        } else if self.settings.role == RoleSetting::Master
            && cluster.founder != self.me
            && cluster.datastore == Datastore::Sqlite
        {
            Some(Conflict::ForcedMaster(named()))
        } else {
            None
        }
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
        if own.is_some_and(|own| own.abstains) {
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
        if self.acceptor_in_flight.is_none()
            && let Some(answer) = self.decree.vote(registers, |id, asked| self.may_answer(view, id, asked))
        {
            self.acceptor_in_flight = Some(answer.clone());
            acts.push(Act::WriteAcceptor(answer));
        }
        self.propose(view, void, registers, now, acts)
    }

    fn propose(
        &mut self,
        view: &View,
        void: &BTreeSet<NodeId>,
        registers: &Registers<'_>,
        now: Instant,
        acts: &mut Vec<Act>,
    ) -> FoundingStatus {
        let minimum = self.minimum_nodes();
        let electorate = Electorate::new(view, void, &self.silence, &mut self.draw, minimum, now);
        let needs_discovery = self.settings.minimum_nodes.is_none_or(|minimum| minimum <= 1);
        let pace = self.pace.get_or_insert_with(|| Pace::new(self.seed, now));
        pace.observe(view, view.discovery_exhausted && needs_discovery, now);
        let candidacy = match self.outlook(view, &electorate, needs_discovery, minimum) {
            Outlook::Waits(status) => {
                if let FoundingStatus::WaitingForNodes { absent, .. } = &status
                    && !absent.is_empty()
                    && let Some(end) = self.silence.next_end(now)
                {
                    self.wake(end, "stop waiting for a silent voter");
                }
                return status;
            }
            Outlook::Follows(proposer) => {
                if let Progress::Preparing(_) = self.decree.progress(registers) {
                    self.decree.withdraw();
                }
                return FoundingStatus::Following { proposer };
            }
            Outlook::Stands(standing) => standing,
        };
        let highest = registers.highest_ballot().map(|ballot| ballot.node);
        let open = highest.is_some_and(|id| id != self.me && electorate.present.contains(&id));
        let pace = self.pace.as_ref().expect("made above");
        let start = pace.start(candidacy.rank, open, candidacy.alone, view.slowest_round_trip);
        let fresh = |ballot| self.value(view, &candidacy, ballot);
        let asked = if self.proposer_in_flight.is_some() {
            None
        } else {
            let (may_start, caution) = (now >= start, candidacy.caution);
            let candidacy =
                Candidacy { minimum_nodes: candidacy.minimum_nodes, caution, may_start, fresh: &fresh };
            // The machine is not borrowed by `fresh` for writing: the decree is taken out while it runs.
            let mut decree = self.decree.clone();
            let asked = decree.propose(registers, &candidacy);
            self.decree = decree;
            asked
        };
        if let Some(asked) = asked {
            if asked.value.is_none() {
                self.pace.as_mut().expect("made above").count_attempt();
            }
            self.proposer_in_flight = Some(asked.clone());
            acts.push(Act::WriteProposer(asked));
        }
        let status = self.proposing(view, &electorate, registers, &candidacy);
        if matches!(status, FoundingStatus::Settling { .. } | FoundingStatus::Following { .. }) && start > now
        {
            self.wake(start, "propose a cluster");
        }
        status
    }

    /// What this node may do as a proposer, time aside.
    fn outlook(&self, view: &View, electorate: &Electorate, needs_discovery: bool, minimum: u16) -> Outlook {
        let master = self.settings.role == RoleSetting::Master;
        if electorate.forced.len() > 1 && !self.settings.several_servers() {
            let masters = peers(view, &electorate.forced);
            return Outlook::Waits(FoundingStatus::SeveralForcedMasters { masters });
        }
        let alone = master && self.settings.minimum_nodes.is_none() && !self.seen_others;
        let (minimum_nodes, caution) =
            if alone { (1, 1) } else { (minimum, electorate.majority().max(usize::from(minimum))) };
        if electorate.present.len() < caution {
            let absent = electorate.known.iter().filter(|id| !view.voters[*id].live);
            return Outlook::Waits(FoundingStatus::WaitingForNodes {
                present: electorate.present.len(),
                needed: caution,
                absent: peers(view, absent),
                unlike: peers(view, &electorate.unlike),
                minimum_nodes: minimum,
            });
        }
        if needs_discovery && !view.discovery_exhausted {
            return Outlook::Waits(FoundingStatus::WaitingForDiscovery);
        }
        match electorate.candidates.iter().position(|id| *id == self.me) {
            Some(rank) => {
                let alone = caution == 1;
                let first = electorate.candidates[0];
                Outlook::Stands(Standing { rank, first, minimum_nodes, caution, alone })
            }
            None => match electorate.candidates.first().or(electorate.forced.first()) {
                Some(first) => Outlook::Follows(peer(view, first)),
                None => Outlook::Waits(FoundingStatus::WaitingForNodes {
                    present: electorate.present.len(),
                    needed: electorate.present.len() + 1,
                    absent: Vec::new(),
                    unlike: peers(view, &electorate.unlike),
                    minimum_nodes: minimum,
                }),
            },
        }
    }

    /// Whether this node answers a ballot. Refusing is always safe.
    fn may_answer(&self, view: &View, proposer: NodeId, asked: &Proposer) -> bool {
        let alone = proposer == self.me
            && self.settings.role == RoleSetting::Master
            && self.settings.minimum_nodes.is_none()
            && !self.seen_others;
        let minimum = if alone { 1 } else { self.minimum_nodes() };
        let fits = |value: &Value| {
            let cluster = value.cluster();
            cluster.minimum_nodes == minimum
                && cluster.network_id == self.settings.network_id
                && cluster.generation == GENERATION
        };
        let forced = |id| view.voters.get(&id).is_some_and(|voter| voter.role == RoleSetting::Master);
        // A forced master is the only proposer; a second one among several votes for the first.
        let subject = self.settings.role != RoleSetting::Master || proposer == self.me || forced(proposer);
        subject && asked.minimum_nodes == minimum && asked.value.as_ref().is_none_or(fits)
    }

    fn minimum_nodes(&self) -> u16 {
        minimum_nodes(self.settings.minimum_nodes)
    }

    /// A new cluster with this node as its founder.
    fn value(&self, view: &View, standing: &Standing, ballot: Ballot) -> Value {
        let id = pace::hash(&self.seed, b"cluster id", ballot.round);
        let cluster_id = ClusterId::from_bytes(*id.first_chunk().expect("32 bytes begin with 16"));
        Value::new(Cluster {
            cluster_id,
            network_id: self.settings.network_id.clone(),
            generation: GENERATION,
            founder: self.me,
            minimum_nodes: standing.minimum_nodes,
            servers: self.settings.additional_servers.saturating_add(1),
            datastore: self.settings.datastore(),
            addresses: self.addresses(view),
        })
    }

    /// The addresses to freeze: each usable, each of one node only, the founder's first.
    fn addresses(&self, view: &View) -> BTreeMap<NodeId, Ipv4Addr> {
        let usable = |address: &Ipv4Addr| self.settings.pool.is_usable(*address);
        let claims: Vec<(NodeId, Ipv4Addr)> =
            view.voters.iter().filter_map(|(id, voter)| Some((*id, voter.address.filter(usable)?))).collect();
        let claimed_once =
            |address: Ipv4Addr| claims.iter().filter(|(_, other)| *other == address).count() == 1;
        let (own, others): (Vec<_>, Vec<_>) = claims
            .iter()
            .copied()
            .filter(|(_, address)| claimed_once(*address))
            .partition(|(id, _)| *id == self.me);
        own.into_iter().chain(others).take(Cluster::MAX_ADDRESSES).collect()
    }

    /// The status of a candidate.
    fn proposing(
        &self,
        view: &View,
        electorate: &Electorate,
        registers: &Registers<'_>,
        standing: &Standing,
    ) -> FoundingStatus {
        let missing = |answered: &BTreeSet<NodeId>| peers(view, electorate.present.difference(answered));
        let answered = |answers: &dyn Fn(&Acceptor) -> bool| -> BTreeSet<NodeId> {
            let answered = registers.acceptors.iter().filter(|(_, held)| answers(held.register()));
            answered.map(|(id, _)| *id).collect()
        };
        match self.decree.progress(registers) {
            Progress::Idle if standing.rank == 0 => {
                FoundingStatus::Settling { present: electorate.present.len() }
            }
            Progress::Idle => FoundingStatus::Following { proposer: peer(view, &standing.first) },
            Progress::Preparing(ballot) => {
                let promised = answered(&|acceptor| acceptor.promised == Some(ballot));
                let bound = registers.acceptors.iter().filter(|(id, _)| promised.contains(id));
                let bound = bound.filter_map(|(_, held)| held.register().accepted.as_ref());
                match bound.max_by_key(|(ballot, _)| *ballot).map(|(_, value)| value.cluster().minimum_nodes)
                {
                    Some(then) if then != standing.minimum_nodes && promised.len() >= standing.caution => {
                        FoundingStatus::Bound { then, now: standing.minimum_nodes }
                    }
                    Some(_) | None => FoundingStatus::Preparing {
                        ballot,
                        promised: promised.len(),
                        needed: standing.caution,
                        missing: missing(&promised),
                    },
                }
            }
            Progress::Accepting(ballot) => {
                let voted =
                    answered(&|acceptor| acceptor.accepted.as_ref().is_some_and(|(b, _)| *b == ballot));
                FoundingStatus::Accepting {
                    ballot,
                    voted: voted.len(),
                    needed: usize::from(standing.minimum_nodes),
                    missing: missing(&voted),
                }
            }
        }
    }

    fn wake(&mut self, at: Instant, reason: &'static str) {
        if self.wake.is_none_or(|(earlier, _)| at < earlier) {
            self.wake = Some((at, reason));
        }
    }
}

enum Verdict {
    Apply(Certificate),
    Wait(FoundingStatus),
}

enum Outlook {
    Waits(FoundingStatus),
    Follows(Peer),
    Stands(Standing),
}

/// A candidate's place.
struct Standing {
    /// How many candidates come before this node.
    rank: usize,
    first: NodeId,
    minimum_nodes: u16,
    /// How many promises to wait for.
    caution: usize,
    /// It needs nobody else.
    alone: bool,
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
