//! One node's way to its IPv4 address.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{AddressError, Claim, LeaseEvent, Pool, Standing, candidate, rivals::Rivals};
use crate::{identity::NodeId, token::MeshId};

/// How long a claim has to stand unbeaten before it is confirmed.
pub const STILL_TIME: Duration = Duration::from_secs(2);

/// Draws before the pool counts as full.
const MAXIMUM_ATTEMPTS: u32 = 1024;

/// What a node needs to know to lease itself an address.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// This node.
    pub id: NodeId,
    /// This mesh.
    pub mesh_id: MeshId,
    /// Where to draw from.
    pub pool: Pool,
    /// `vpn.address`: taken instead of a drawn one.
    pub fixed: Option<Ipv4Addr>,
}

/// What is kept on disk (`/usr/local/.c3os/lease`), so that the next boot has the same address without a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The mesh it was drawn in; of another mesh, only a frozen one counts.
    pub mesh_id: MeshId,
    /// The address.
    pub v4: Ipv4Addr,
    /// The draw it came from.
    #[serde(default)]
    pub attempt: u32,
    /// It was confirmed.
    #[serde(default)]
    pub confirmed: bool,
    /// It was assigned with a role: k3s is configured with it.
    #[serde(default)]
    pub frozen: bool,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Claimed { v4: Ipv4Addr, attempt: u32, still_at: Instant },
    Confirmed { v4: Ipv4Addr, attempt: u32 },
    Fixed { v4: Ipv4Addr },
    Frozen { v4: Ipv4Addr, attempt: u32 },
    Exhausted,
}

/// The machine drawn in the front page of this room.
#[derive(Debug)]
pub struct AddressLease {
    settings: LeaseSettings,
    state: State,
    /// Loud things that still hold; they are told once.
    troubles: BTreeSet<LeaseEvent>,
    events: VecDeque<LeaseEvent>,
}

impl AddressLease {
    /// Starts with what the disk remembers, the configuration fixes, or the first draw: there is an address at once.
    ///
    /// # Errors
    /// [`AddressError::Fixed`] if `vpn.address` is not a usable address of `vpn.subnet`.
    pub fn new(
        settings: LeaseSettings,
        remembered: Option<Lease>,
        now: Instant,
    ) -> Result<Self, AddressError> {
        let pool = settings.pool;
        if let Some(address) = settings.fixed.filter(|fixed| !pool.is_usable(*fixed)) {
            return Err(AddressError::Fixed { address, subnet: pool.subnet() });
        }
        let mut overruled = None;
        let remembered = remembered
            .filter(|lease| lease.frozen || lease.mesh_id == settings.mesh_id && pool.draws(lease.v4));
        let state = match (remembered, settings.fixed) {
            // Applied: it stays whatever the configuration says today.
            (Some(Lease { v4, attempt, frozen: true, .. }), fixed) => {
                overruled = fixed.filter(|fixed| *fixed != v4);
                State::Frozen { v4, attempt }
            }
            (_, Some(v4)) => State::Fixed { v4 },
            (Some(Lease { v4, attempt, confirmed: true, .. }), None) => State::Confirmed { v4, attempt },
            (Some(Lease { v4, attempt, .. }), None) => {
                State::Claimed { v4, attempt, still_at: now + STILL_TIME }
            }
            (None, None) => {
                let v4 = candidate(settings.mesh_id, settings.id, 0, &pool);
                State::Claimed { v4, attempt: 0, still_at: now + STILL_TIME }
            }
        };
        let mut lease = Self { settings, state, troubles: BTreeSet::new(), events: VecDeque::new() };
        if let (Some(fixed), Some(assigned)) = (overruled, lease.address()) {
            lease.tell(LeaseEvent::FixedOverruled { fixed, assigned });
        }
        Ok(lease)
    }

    /// What it was started with.
    pub fn settings(&self) -> &LeaseSettings {
        &self.settings
    }

    /// The address to use now. None only while the pool is full.
    pub fn address(&self) -> Option<Ipv4Addr> {
        match self.state {
            State::Claimed { v4, .. }
            | State::Confirmed { v4, .. }
            | State::Fixed { v4 }
            | State::Frozen { v4, .. } => Some(v4),
            State::Exhausted => None,
        }
    }

    /// How firmly it is held; for `status`.
    pub fn standing(&self) -> Option<Standing> {
        match self.state {
            State::Claimed { .. } => Some(Standing::Claimed),
            State::Confirmed { .. } => Some(Standing::Confirmed),
            State::Fixed { .. } => Some(Standing::Firm),
            State::Frozen { .. } => Some(Standing::Assigned),
            State::Exhausted => None,
        }
    }

    /// The fact to publish.
    pub fn claim(&self) -> Option<Claim> {
        let (v4, attempt, confirmed, firm) = match self.state {
            State::Claimed { v4, attempt, .. } => (v4, attempt, false, false),
            State::Confirmed { v4, attempt } => (v4, attempt, true, false),
            State::Fixed { v4 } => (v4, 0, true, true),
            State::Frozen { v4, attempt } => (v4, attempt, true, true),
            State::Exhausted => return None,
        };
        Some(Claim { v4, attempt, confirmed, firm })
    }

    /// What to keep on disk. A frozen one has to be there before anything is configured with the address.
    pub fn lease(&self) -> Option<Lease> {
        let frozen = matches!(self.state, State::Frozen { .. });
        let mesh_id = self.settings.mesh_id;
        self.claim().map(|Claim { v4, attempt, confirmed, .. }| Lease {
            mesh_id,
            v4,
            attempt,
            confirmed,
            frozen,
        })
    }

    /// Takes what is known: every member's claim, and every address that was assigned with authority, both by
    /// holder. Our own entry among the claims is ignored, among the assignments it freezes our address.
    pub fn handle_claims(
        &mut self,
        claims: &BTreeMap<NodeId, Claim>,
        assignments: &BTreeMap<NodeId, Ipv4Addr>,
        now: Instant,
    ) {
        let rivals = Rivals::new(self.settings.id, claims, assignments);
        if let Some(assigned) = assignments.get(&self.settings.id) {
            self.take_assignment(*assigned);
        }
        match self.state {
            State::Frozen { v4, .. } => self.watch_frozen(v4, &rivals),
            State::Fixed { v4: fixed } => {
                if let Some(to) = rivals.winner(fixed, Standing::Firm) {
                    self.tell(LeaseEvent::FixedLost { fixed, to });
                    self.draw(0, &rivals, now);
                }
            }
            State::Claimed { v4, attempt, .. } => self.defend(v4, attempt, Standing::Claimed, &rivals, now),
            State::Confirmed { v4, attempt } => self.defend(v4, attempt, Standing::Confirmed, &rivals, now),
            State::Exhausted => self.draw(0, &rivals, now),
        }
    }

    /// Confirms a claim that stood for [`STILL_TIME`].
    pub fn handle_timeout(&mut self, now: Instant) {
        if let State::Claimed { v4, attempt, still_at } = self.state
            && now >= still_at
        {
            self.state = State::Confirmed { v4, attempt };
            self.tell(LeaseEvent::Confirmed { address: v4 });
        }
    }

    /// When to call [`AddressLease::handle_timeout`], and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            State::Claimed { still_at, .. } => Some((still_at, "confirm the overlay address")),
            State::Confirmed { .. } | State::Fixed { .. } | State::Frozen { .. } | State::Exhausted => None,
        }
    }

    /// The next thing worth telling.
    pub fn poll_event(&mut self) -> Option<LeaseEvent> {
        self.events.pop_front()
    }

    /// The loud things that still hold, for `status`.
    pub fn troubles(&self) -> impl Iterator<Item = &LeaseEvent> {
        self.troubles.iter()
    }

    fn tell(&mut self, event: LeaseEvent) {
        if !event.is_loud() || self.troubles.insert(event) {
            self.events.push_back(event);
        }
    }

    fn take_assignment(&mut self, assigned: Ipv4Addr) {
        let (before, attempt) = match self.state {
            State::Frozen { v4, .. } => {
                if v4 == assigned {
                    self.troubles.retain(|trouble| !matches!(trouble, LeaseEvent::AssignedElsewhere { .. }));
                } else {
                    self.tell(LeaseEvent::AssignedElsewhere { frozen: v4, assigned });
                }
                return;
            }
            State::Claimed { v4, attempt, .. } | State::Confirmed { v4, attempt } => (Some(v4), attempt),
            State::Fixed { v4 } => (Some(v4), 0),
            State::Exhausted => (None, 0),
        };
        if !self.settings.pool.is_usable(assigned) {
            self.tell(LeaseEvent::AssignedOutside { assigned });
            return;
        }
        if let Some(fixed) = self.settings.fixed.filter(|fixed| *fixed != assigned) {
            self.tell(LeaseEvent::FixedOverruled { fixed, assigned });
        }
        self.state = State::Frozen { v4: assigned, attempt };
        // What troubled a claim troubles no assigned address.
        self.troubles.retain(|trouble| matches!(trouble, LeaseEvent::FixedOverruled { .. }));
        let before = before.filter(|before| *before != assigned);
        self.tell(LeaseEvent::Frozen { address: assigned, before });
    }

    /// Those who will not move either are told once each, and again if they went and came back.
    fn watch_frozen(&mut self, v4: Ipv4Addr, rivals: &Rivals) {
        let firm = rivals.at(v4).filter(|(_, standing)| *standing >= Standing::Firm);
        let clashes: BTreeSet<LeaseEvent> =
            firm.map(|(with, _)| LeaseEvent::Clash { address: v4, with }).collect();
        self.troubles
            .retain(|trouble| !matches!(trouble, LeaseEvent::Clash { .. }) || clashes.contains(trouble));
        for clash in clashes {
            self.tell(clash);
        }
    }

    fn defend(&mut self, address: Ipv4Addr, attempt: u32, standing: Standing, rivals: &Rivals, now: Instant) {
        if let Some(to) = rivals.winner(address, standing) {
            self.draw(attempt.saturating_add(1), rivals, now);
            self.tell(LeaseEvent::Lost { address, to, next: self.address() });
        }
    }

    /// Claims the first candidate that we would keep against all that is known. A weaker rival's is fair game: so the
    /// outcome of a crowd of claims depends on who takes part and not on who was heard first (it is the stable
    /// matching of nodes, by their draws, with addresses, by their rank).
    fn draw(&mut self, from: u32, rivals: &Rivals, now: Instant) {
        let LeaseSettings { id, mesh_id, pool, .. } = &self.settings;
        let found = (from..from.saturating_add(MAXIMUM_ATTEMPTS))
            .map(|attempt| (attempt, candidate(*mesh_id, *id, attempt, pool)))
            .find(|(_, v4)| rivals.winner(*v4, Standing::Claimed).is_none());
        match (found, self.state) {
            (Some((attempt, v4)), _) => {
                self.state = State::Claimed { v4, attempt, still_at: now + STILL_TIME };
                self.troubles.remove(&LeaseEvent::Exhausted);
            }
            (None, State::Exhausted) => {}
            (
                None,
                State::Claimed { .. } | State::Confirmed { .. } | State::Fixed { .. } | State::Frozen { .. },
            ) => {
                self.state = State::Exhausted;
                self.tell(LeaseEvent::Exhausted);
            }
        }
    }
}
