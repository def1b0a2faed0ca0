//! A few machines that run [`Founding`] over real signed entries. The test is their disk, their network and their clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    address::{Drawer, Pool},
    config::{NetworkId, RoleSetting},
    election::{
        Acceptor, Act, Certificate, ClusterId, Founding, FoundingSettings, FoundingStatus, Held, Proposer,
        Register, View, VoterView,
    },
    identity::{Identity, NodeId},
    ledger::{Ledger, SignedEntry},
};

/// What one machine knows of another.
#[derive(Default, Clone)]
pub(super) struct Known {
    acceptor: Option<SignedEntry>,
    proposer: Option<SignedEntry>,
    certificate: Option<SignedEntry>,
}

pub(super) struct Machine {
    pub(super) settings: FoundingSettings,
    pub(super) id: NodeId,
    /// Signs and numbers what is written; stands for the disk.
    ledger: Ledger,
    pub(super) founding: Founding,
    /// Asked for, not on the disk yet.
    writing: Vec<Act>,
    known: BTreeMap<NodeId, Known>,
    pub(super) pinned: Option<Certificate>,
    pub(super) up: bool,
    pub(super) amnesiac: bool,
    pub(super) exhausted: bool,
    pub(super) exchanged: bool,
    /// Told the others that it abstains, besides what its settings say.
    pub(super) abstains: bool,
    starts: u8,
}

pub(super) struct World {
    pub(super) machines: Vec<Machine>,
    pub(super) now: Instant,
    /// Which machines hear each other: those with the same number.
    pub(super) side: Vec<usize>,
    /// Every cluster that was ever proven, with its certificate.
    pub(super) founded: BTreeMap<ClusterId, Certificate>,
    /// Own ballots by proposer, each with the value it named.
    pub(super) ballots: BTreeMap<(NodeId, u64), Option<ClusterId>>,
}

pub(super) fn settings() -> FoundingSettings {
    FoundingSettings {
        network_id: NetworkId::default(),
        role: RoleSetting::Auto,
        minimum_nodes: Some(2),
        join: None,
        additional_servers: 0,
        external_datastore: false,
        pool: Pool::new("10.1.0.0/16".parse().expect("a subnet"), Drawer::Node).expect("wide enough"),
        frozen: false,
        merge: false,
        succeeds: None,
    }
}

pub(super) fn role(role: RoleSetting) -> FoundingSettings {
    FoundingSettings { role, minimum_nodes: None, ..settings() }
}

impl World {
    pub(super) fn new(settings: Vec<FoundingSettings>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant will do: only differences count")]
        let start = Instant::now();
        let machine = |(n, settings): (usize, FoundingSettings)| {
            let identity = Arc::new(Identity::from_seed(&[n as u8 + 1; 32]));
            let id = identity.id();
            Machine {
                founding: Founding::new(id, settings.clone(), [n as u8 + 1; 32]),
                settings,
                id,
                ledger: Ledger::new(identity, [n as u8; 32], start),
                writing: Vec::new(),
                known: BTreeMap::new(),
                pinned: None,
                up: true,
                amnesiac: false,
                exhausted: true,
                exchanged: true,
                abstains: false,
                starts: 0,
            }
        };
        let machines: Vec<Machine> = settings.into_iter().enumerate().map(machine).collect();
        let side = vec![0; machines.len()];
        Self { machines, now: start, side, founded: BTreeMap::new(), ballots: BTreeMap::new() }
    }

    pub(super) fn hears(&self, from: usize, to: usize) -> bool {
        self.machines[from].up && self.machines[to].up && self.side[from] == self.side[to]
    }

    pub(super) fn name(&self, n: usize) -> String {
        format!("m{n}")
    }

    fn view(&self, n: usize) -> View {
        let machine = &self.machines[n];
        let network_id = &machine.settings.network_id;
        let mut view = View {
            pinned: machine.pinned.clone(),
            discovery_exhausted: machine.exhausted,
            exchanged: machine.exchanged,
            amnesiac: machine.amnesiac,
            ..View::default()
        };
        for (other, peer) in self.machines.iter().enumerate() {
            let Some(known) = machine.known.get(&peer.id).cloned().or((other == n).then(Known::default))
            else {
                continue;
            };
            let acceptor =
                known.acceptor.map(|entry| Held::<Acceptor>::read(&entry, network_id, 1).expect("ours"));
            let proposer =
                known.proposer.map(|entry| Held::<Proposer>::read(&entry, network_id, 1).expect("ours"));
            view.certificates.extend(
                known.certificate.map(|entry| Certificate::parse(entry.value()).expect("only proven ones")),
            );
            let voter = VoterView {
                name: self.name(other),
                role: peer.settings.role,
                minimum_nodes: peer.settings.minimum_nodes,
                abstains: peer.settings.abstains() || peer.abstains,
                live: other == n || self.hears(other, n),
                cloned: false,
                address: Some(Ipv4Addr::new(10, 1, 0, other as u8 + 1)),
                acceptor,
                proposer,
            };
            view.voters.insert(peer.id, voter);
        }
        view
    }

    /// Machine `n` decides.
    pub(super) fn decide(&mut self, n: usize) {
        let view = self.view(n);
        let now = self.now;
        let machine = &mut self.machines[n];
        let acts = machine.founding.decide(&view, now);
        machine.writing.extend(acts);
    }

    /// The disk of machine `n` takes what was asked for; whether anything was.
    pub(super) fn write(&mut self, n: usize) -> bool {
        let now = self.now;
        let machine = &mut self.machines[n];
        let acts: Vec<Act> = machine.writing.drain(..).collect();
        for act in &acts {
            let network_id = &machine.settings.network_id;
            let (key, value) = match act {
                Act::WriteAcceptor(acceptor) => (Acceptor::key(network_id), acceptor.encode()),
                Act::WriteProposer(proposer) => {
                    let value = proposer.value.as_ref().map(|value| value.cluster().cluster_id);
                    let named = self.ballots.insert((machine.id, proposer.ballot.round), value).flatten();
                    assert!(named.is_none() || named == value, "one value per ballot, ever");
                    (Proposer::key(network_id), proposer.encode())
                }
                Act::Publish(certificate) => (Certificate::key(network_id), certificate.to_bytes()),
                Act::Pin(certificate) => {
                    certificate.verify().expect("what is pinned is proven");
                    assert!(machine.pinned.is_none(), "a pinned certificate never changes");
                    machine.pinned = Some(certificate.clone());
                    self.founded.insert(certificate.cluster().cluster_id, certificate.clone());
                    continue;
                }
            };
            if let Act::Publish(certificate) = act {
                let parsed = Certificate::parse(&value).expect("what is published is proven");
                assert_eq!(parsed.voters(), certificate.voters());
                self.founded.insert(certificate.cluster().cluster_id, certificate.clone());
            }
            machine.ledger.put(key.parse().expect("a key"), value, None, now).expect("small enough");
            while machine.ledger.poll_write().is_some() {
                machine.ledger.handle_written(now);
            }
            let entry = machine.ledger.get(machine.id, &key).expect("just written").clone();
            machine.known.entry(machine.id).or_default().take(&entry);
        }
        !acts.is_empty()
    }

    /// Everything that machine `from` holds of `author` reaches machine `to`, or only one register of it.
    pub(super) fn deliver(&mut self, from: usize, author: usize, to: usize, part: Option<u8>) -> bool {
        let author = self.machines[author].id;
        if !self.hears(from, to) || author == self.machines[to].id {
            return false;
        }
        let known = self.machines[from].known.get(&author).cloned();
        let Some(known) = known.or((author == self.machines[from].id).then(Known::default)) else {
            return false;
        };
        let is_new = !self.machines[to].known.contains_key(&author);
        let held = self.machines[to].known.entry(author).or_default();
        let entries = [known.acceptor, known.proposer, known.certificate];
        let chosen =
            entries.iter().enumerate().filter(|(n, _)| part.is_none_or(|part| usize::from(part) == *n));
        chosen.fold(is_new, |news, (_, entry)| entry.as_ref().is_some_and(|entry| held.take(entry)) || news)
    }

    /// Everybody hears everything, writes and decides, until nothing happens any more.
    pub(super) fn quiesce(&mut self) {
        let count = self.machines.len();
        for _ in 0..100 {
            let mut news = false;
            for n in (0..count).filter(|n| self.machines[*n].up).collect::<Vec<_>>() {
                self.decide(n);
                news |= self.write(n);
            }
            for from in 0..count {
                for to in 0..count {
                    for author in 0..count {
                        news |= self.deliver(from, author, to, None);
                    }
                }
            }
            if !news {
                return;
            }
        }
        panic!("the machines do not come to rest");
    }

    /// Lets time pass as the machines' own timers ask for, in a still network.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.quiesce();
            let up = self.machines.iter().filter(|machine| machine.up);
            let next = up.filter_map(|machine| machine.founding.poll_timeout()).map(|(at, _)| at).min();
            match next {
                Some(at) if at <= end => {
                    assert!(at > self.now, "a timer that is due again at once");
                    self.now = at;
                }
                Some(_) | None => break,
            }
        }
        self.now = end;
        self.quiesce();
    }

    /// The agent of machine `n` dies. What was being written is lost; what it held of others may be.
    pub(super) fn crash(&mut self, n: usize, forgets_others: bool) {
        let machine = &mut self.machines[n];
        machine.up = false;
        machine.writing.clear();
        if forgets_others {
            let id = machine.id;
            machine.known.retain(|author, _| *author == id);
        }
    }

    pub(super) fn start_again(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        machine.up = true;
        machine.starts = machine.starts.checked_add(1).expect("few starts");
        let mut seed = [n as u8 + 1; 32];
        seed[0] = machine.starts;
        machine.founding = Founding::new(machine.id, machine.settings.clone(), seed);
    }

    /// Machine `n` loses its ledger, but not its identity, and notices at its start.
    pub(super) fn forget(&mut self, n: usize) {
        self.crash(n, true);
        self.machines[n].known.clear();
        self.machines[n].pinned = None;
        self.machines[n].amnesiac = true;
        self.start_again(n);
    }

    pub(super) fn status(&self, n: usize) -> &FoundingStatus {
        self.machines[n].founding.status()
    }

    /// The clusters that machines belong to.
    pub(super) fn pinned(&self) -> BTreeSet<ClusterId> {
        self.machines.iter().filter_map(|m| m.pinned.as_ref()).map(|c| c.cluster().cluster_id).collect()
    }
}

impl Known {
    /// Keeps the entry if it is newer.
    fn take(&mut self, entry: &SignedEntry) -> bool {
        let key = entry.key().as_str();
        let held = if key.starts_with(Acceptor::NOUN) {
            &mut self.acceptor
        } else if key.starts_with(Proposer::NOUN) {
            &mut self.proposer
        } else {
            &mut self.certificate
        };
        let newer = held.as_ref().is_none_or(|held| held.seq() < entry.seq());
        if newer {
            *held = Some(entry.clone());
        }
        newer
    }
}
