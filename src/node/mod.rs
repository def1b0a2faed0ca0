//! One member of the mesh: every decision, none of the I/O.
//!
//! ```text
//!  peers, messages --+                       +--> messages        (poll_transmit)
//!  what was seen  ---+--> ledger -> address  +--> what to keep    (poll_write, then handle_written)
//!  commands       ---+    -> election -> lead +--> what to do     (poll_event)
//!  time           ---+                       +--> when to return  (poll_timeout)
//! ```
//!
//! The driver's order, which the simulation keeps too: hand in everything that has come, then drain `poll_write` (keep
//! it on disk, then [`Node::handle_written`]), then `poll_transmit`, then `poll_event`, and sleep until `poll_timeout`.
//! An own entry is visible and leaves only after it was written, so a crash never takes back what others have seen.

mod ballots;
mod bans;
mod event;
mod fact;
mod follow;
mod founding;
mod lead;
mod liveness;
mod members;
mod moves;
pub mod neighbourhood;
mod picture;
mod reign;
mod removal;
mod rotation;
mod said;
mod secrets;
mod seen;
pub mod snapshot;
mod succession;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};

use crate::{
    address::{AddressError, AddressLease, Drawer, Lease, LeaseSettings, Pool},
    election::{Assignment, Certificate, Cluster, ClusterId, Founding, Reign, Role},
    identity::{Identity, NodeId},
    ledger::{Ledger, PeerFault, Write},
};

use ballots::Certificates;
use bans::Outside;
pub use event::{Command, Event, Kept, Observed, RoleOrder, Settings, Whereabouts};
use members::Members;
pub use picture::named as named_counters;
pub use reign::Office;
use reign::{Lists, Watch};
use rotation::Tokens;
use said::Said;
use seen::Seen;

/// How long a change of our connections waits for further ones before it is told: many come at once when machines
/// start together.
const NEIGHBOURS_STILL: Duration = Duration::from_millis(100);

/// One member. See the module's page for the order of calls.
pub struct Node {
    settings: Settings,
    identity: Arc<Identity>,
    ledger: Ledger,
    lease: AddressLease,
    founding: Founding,
    /// The decree about our lost cluster's heir, while there is one.
    heir: Option<Founding>,
    rng: StdRng,
    said: Said,
    certificates: Certificates,
    /// As an observer: the certificates that are there.
    clusters_seen: Vec<Certificate>,
    /// The cluster that this machine belongs to, once that is on its disk.
    pinned: Option<Certificate>,
    /// The cluster whose lead is believed: the pinned one, else the only one that there is.
    followed: Option<Cluster>,
    outside: Outside,
    tokens: Tokens,
    lists: Lists,
    /// Who leads and serves our cluster, as of the last evaluation.
    reign: Option<Reign>,
    watch: Watch,
    /// The epoch in which we may write facts of our cluster, as of the last evaluation.
    writes: Option<u64>,
    /// The server whose removal from Kubernetes was asked for last, and those that Kubernetes let go of.
    removing: Option<NodeId>,
    removed: BTreeSet<NodeId>,
    connected: BTreeSet<NodeId>,
    neighbours_due: Option<Instant>,
    /// The ledgers were exchanged once with everybody in `connected`.
    exchanged: bool,
    seen: Seen,
    told: Told,
    events: VecDeque<Event>,
    /// When a server will have been away for long enough to be replaced.
    replacement_due: Option<Instant>,
    /// Something changed since the last evaluation.
    due: bool,
    /// An evaluation has happened that nobody was shown.
    shown: bool,
}

/// What the driver was told last, so that it is told changes only.
#[derive(Default)]
struct Told {
    lease: Option<Lease>,
    members: BTreeMap<NodeId, Whereabouts>,
    order: Option<RoleOrder>,
    stopped: bool,
    live: BTreeSet<NodeId>,
    founded: Option<ClusterId>,
    assigned: BTreeMap<NodeId, Role>,
}

impl Node {
    /// A member that starts, with what it kept from its last run.
    ///
    /// `seed` is 32 fresh bytes from the operating system's random source, different at every start: secrets of a
    /// cluster that this member founds come from it. The list says what was damaged on disk, in words.
    ///
    /// # Errors
    /// [`AddressError`] if the configuration leaves no overlay address to be had.
    pub fn new(
        settings: Settings,
        identity: Arc<Identity>,
        kept: Kept,
        seed: [u8; 32],
        now: Instant,
    ) -> Result<(Self, Vec<String>), AddressError> {
        let mut rng = StdRng::from_seed(seed);
        let me = identity.id();
        let (ledger, damage) = match kept.ledger {
            None if kept.new_identity => (Ledger::new(identity.clone(), fresh(&mut rng), now), Vec::new()),
            disk => Ledger::restore(identity.clone(), fresh(&mut rng), &disk.unwrap_or_default(), now),
        };
        let mut ledger = ledger;
        if kept.mark > 0 {
            ledger.handle_mark(kept.mark, now);
        }
        let mut damage: Vec<String> = damage.iter().map(ToString::to_string).collect();
        let pinned = kept.pinned.and_then(|bytes| match Certificate::parse(&bytes) {
            Ok(certificate) => Some(certificate),
            Err(error) => {
                damage.push(format!("the founding certificate on disk: {error}"));
                None
            }
        });
        let drawer = if settings.observes() { Drawer::Observer } else { Drawer::Node };
        let lease = LeaseSettings {
            id: me,
            mesh_id: settings.mesh_id,
            pool: Pool::new(settings.config.vpn.subnet, drawer)?,
            fixed: settings.config.vpn.address,
        };
        let lease = AddressLease::new(lease, kept.lease, now)?;
        let pool = Pool::new(settings.config.vpn.subnet, Drawer::Node)?;
        let founding = Founding::new(me, settings.founding(pool), fresh(&mut rng));
        let mut node = Self {
            said: Said::new(settings.visitor),
            seen: Seen { applied: kept.applied, ..Seen::default() },
            settings,
            identity,
            ledger,
            lease,
            founding,
            heir: None,
            rng,
            certificates: Certificates::default(),
            clusters_seen: Vec::new(),
            pinned,
            followed: None,
            outside: Outside::default(),
            tokens: Tokens::new(kept.tokens),
            lists: Lists::default(),
            reign: None,
            watch: Watch::default(),
            writes: None,
            removing: None,
            removed: BTreeSet::new(),
            connected: BTreeSet::new(),
            neighbours_due: None,
            exchanged: true,
            told: Told::default(),
            events: VecDeque::new(),
            replacement_due: None,
            due: true,
            shown: false,
        };
        node.evaluate(now);
        Ok((node, damage))
    }

    /// Our id.
    pub fn id(&self) -> NodeId {
        self.identity.id()
    }

    /// An admitted connection with `peer` is up.
    pub fn handle_peer_up(&mut self, peer: NodeId, now: Instant) {
        if self.connected.insert(peer) {
            self.neighbours_due.get_or_insert(now + NEIGHBOURS_STILL);
            self.ledger.handle_neighbour_up(peer, now);
            self.due = true;
        }
        self.evaluate(now);
    }

    /// The last connection with `peer` ended.
    pub fn handle_peer_down(&mut self, peer: NodeId, now: Instant) {
        if self.connected.remove(&peer) {
            self.neighbours_due.get_or_insert(now + NEIGHBOURS_STILL);
            self.ledger.handle_neighbour_down(peer, now);
            self.due = true;
        }
        self.evaluate(now);
    }

    /// A message came from an admitted peer.
    ///
    /// # Errors
    /// What the peer did wrong. It was counted; the message had no effect.
    pub fn handle_message(&mut self, from: NodeId, message: &[u8], now: Instant) -> Result<(), PeerFault> {
        let outcome = self.ledger.handle_message(from, message, now);
        self.evaluate(now);
        outcome
    }

    /// Somebody on this machine asks something of the cluster.
    ///
    /// # Errors
    /// Why it cannot be asked now, in words.
    pub fn handle_command(&mut self, command: Command, now: Instant) -> Result<(), String> {
        let outcome = match command {
            Command::SetRole { node, role } => self.request_role(node, role, now),
            Command::Rotate => self.rotate(now),
            Command::Remove { node } => self.remove_node(node, now),
            Command::Ban { node, keep_token } => self.ban_node(node, keep_token, now),
            Command::Join { cluster_id } => self.request_move(cluster_id, now),
            Command::Refound => self.request_heir(now),
        };
        self.evaluate(now);
        outcome
    }

    /// The time of [`Node::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.ledger.handle_timeout(now);
        self.lease.handle_timeout(now);
        self.due = true;
        self.evaluate(now);
    }

    /// The next bytes to keep on disk. Only one write is out at a time.
    #[must_use]
    pub fn poll_write(&mut self) -> Option<Write> {
        self.ledger.poll_write()
    }

    /// The last write is on disk.
    pub fn handle_written(&mut self, now: Instant) {
        self.ledger.handle_written(now);
        self.evaluate(now);
    }

    /// The last write failed; it is asked for again later.
    pub fn handle_write_failed(&mut self, now: Instant) {
        self.ledger.handle_write_failed(now);
    }

    /// The next message to send.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<(NodeId, Vec<u8>)> {
        self.ledger.poll_message()
    }

    /// The next thing to do or tell.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Node::handle_timeout`], and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let own = [
            self.neighbours_due.map(|at| (at, "tell our connections")),
            self.said.poll_timeout(),
            self.lease.poll_timeout(),
            self.founding.poll_timeout(),
            self.heir.as_ref().and_then(Founding::poll_timeout),
            self.replacement_due.map(|at| (at, "replace a server that is away")),
            self.ledger.poll_timeout(),
        ];
        own.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Draws every conclusion from what is known now. What it says goes through the ledger and comes back when it is
    /// on disk, so one pass is enough.
    fn evaluate(&mut self, now: Instant) {
        let exchanged = self.connected.iter().all(|peer| self.ledger.has_exchanged_with(peer));
        self.due |= self.ledger.poll_changed() | (self.exchanged != exchanged);
        self.exchanged = exchanged;
        if !std::mem::take(&mut self.due) {
            return;
        }
        self.followed = self.followed();
        let followed = self.followed.clone();
        self.reign = followed.as_ref().map(|cluster| self.read_reign(cluster));
        self.outside = match (&followed, &self.reign) {
            (Some(cluster), Some(reign)) => Outside::read(&self.ledger, cluster, reign),
            (_, _) => Outside::default(),
        };
        let members = Members::of(&self.ledger, &self.connected, &self.outside);
        self.introduce(now);
        let assignments = self.assignments();
        let servers = self.reign.iter().flat_map(|reign| reign.servers.ever());
        self.ledger.set_permanent(assignments.keys().copied().chain(servers));
        self.settle_address(&members, &assignments, now);
        if self.settings.observes() {
            self.look_for_clusters();
        } else {
            self.elect(&members, now);
            let belongs = self.pinned.as_ref().map(|pinned| pinned.cluster().clone());
            if let (Some(cluster), Some(reign)) = (&belongs, &self.reign.clone()) {
                self.watch.observe(reign, &members, now);
                let after = self.settings.config.auto.replace_after;
                self.replacement_due = after.and_then(|after| self.watch.next_due(after, now));
                self.writes = reign.may_write(cluster, self.id(), self.watch.lease, now);
                if let Some(epoch) = self.writes {
                    self.lead(&members, cluster, reign, epoch, &assignments, now);
                    self.lead_rotation(&members, cluster, now);
                }
                self.agree(&members, cluster, reign, now);
                self.succeed(&members, cluster, now);
                self.follow(&members, cluster, reign, &assignments);
            }
        }
        if let Some(cluster) = &followed {
            self.come_back(cluster, now);
            self.follow_rotation(cluster, now);
        }
        self.watch_the_gate(followed.as_ref());
        self.tell(&members, &assignments);
        self.shown = false;
    }

    /// Says who we are and with whom we are connected.
    fn introduce(&mut self, now: Instant) {
        let config = &self.settings.config;
        let machine = fact::Machine {
            name: self.settings.name.clone(),
            uuid: self.settings.uuid.clone(),
            network_id: config.network_id.clone(),
            role: config.role,
            minimum_nodes: config.minimum_nodes,
            observer: self.settings.observes(),
            abstains: self.settings.abstains(),
            version: self.settings.version.clone(),
            platform: self.settings.platform.clone(),
            candidates: self.seen.candidates.clone(),
            cluster: self.cluster_id(),
        };
        self.said.say(&mut self.ledger, fact::MACHINE, &machine, now);
        let changed = self.neighbours_due.is_some_and(|due| due <= now);
        if changed || self.said.fades(fact::NEIGHBOURS, now) {
            self.neighbours_due = self.neighbours_due.filter(|_| !changed);
            let neighbours = fact::Neighbours(self.connected.clone());
            self.said.say(&mut self.ledger, fact::NEIGHBOURS, &neighbours, now);
        }
        let network_id = &config.network_id;
        if let Some(applied) = &self.seen.applied {
            let applied = fact::Applied {
                cluster_id: applied.cluster_id,
                role: applied.role,
                unit: self.seen.unit.as_ref().map(|(_, state)| state.clone()),
            };
            self.said.say(&mut self.ledger, &fact::in_network("applied", network_id), &applied, now);
        }
        if let Some(server) = &self.seen.server {
            self.said.say(&mut self.ledger, &fact::in_network("server", network_id), server, now);
        }
    }

    /// Settles which overlay address is ours.
    fn settle_address(&mut self, members: &Members, assignments: &Assignments, now: Instant) {
        let assigned = assignments.iter().map(|(id, assignment)| (*id, assignment.address)).collect();
        self.lease.handle_claims(&members.claims(), &assigned, now);
        while let Some(event) = self.lease.poll_event() {
            self.events.push_back(Event::LeaseChanged(event));
        }
        if let Some(claim) = self.lease.claim() {
            self.said.say(&mut self.ledger, fact::ADDRESS, &claim, now);
        }
    }

    /// Who gets in now, and with which token.
    pub fn gate(&self) -> &crate::token::Gate {
        self.tokens.gate()
    }

    /// The highest number of our entries that are on disk for sure.
    pub fn written_mark(&self) -> u64 {
        bans::last_word(&self.ledger, self.id())
    }

    /// The network tokens that this machine holds.
    pub fn tokens(&self) -> Option<&crate::token::Keyring> {
        self.tokens.current()
    }

    /// What leads of our cluster assigned.
    fn assignments(&self) -> Assignments {
        let (Some(pinned), Some(reign)) = (&self.pinned, &self.reign) else { return Assignments::new() };
        let mut assignments = reign::assignments(&self.ledger, pinned.cluster(), reign);
        assignments.retain(|node, _| !self.outside.contains(node));
        assignments
    }

    /// The cluster that this machine belongs to.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.pinned.as_ref().map(|pinned| pinned.cluster().cluster_id)
    }

    /// Whether [`Node::snapshot`] may differ from when this was asked last.
    pub fn poll_shown(&mut self) -> bool {
        !std::mem::replace(&mut self.shown, true)
    }

    /// Our address lease.
    pub fn lease(&self) -> Option<Lease> {
        self.lease.lease()
    }

    /// The ledger, to look at.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

/// What a cluster's lead assigned, by node.
type Assignments = BTreeMap<NodeId, Assignment>;

/// 32 bytes for somebody else's seed or key.
fn fresh(rng: &mut StdRng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rand::RngCore::fill_bytes(rng, &mut bytes);
    bytes
}
