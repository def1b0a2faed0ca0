//! Whom to dial, where and when. Time and dice come in as arguments.
//!
//! ```text
//!  learned --> Waiting(next) --> Dialling TCP --failed--> Dialling QUIC --failed--> Waiting(longer)
//!                  ^                   |                        |
//!                  |                   +-------connected--------+--> Connected
//!                  +---- gone (soon) / refused (longer each time) -----+
//! ```
//!
//! A contact is a node, or a place (a static peer without an id) of which it is learned who lives there.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    backoff,
    locator::{Locator, Transport},
};
use crate::{identity::NodeId, node::neighbourhood};

/// Attempts at a time.
const AT_A_TIME: usize = 8;
/// Places remembered per node; the latest that worked stands first.
const PLACES: usize = 8;
/// Contacts remembered.
const CONTACTS: usize = 512;
/// A node that only multicast DNS speaks of is forgotten after so many failures in a row.
const HEARSAY_FAILURES: u32 = 8;
/// Pauses after the first failure and after many: a cut that heals is noticed within 20 s and a bit.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));
/// Pauses after the first refusal and after many.
const AFTER_REFUSAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// QUIC's first packet is 1,200 bytes, several times: it is tried in every so many rounds only.
const QUIC_EVERY: u32 = 8;
/// The higher id lets the lower one dial first, so that few pairs meet twice.
const COURTESY: Duration = Duration::from_millis(300);
/// A place where we live ourselves is looked at again after this time.
const OURSELVES: Duration = Duration::from_secs(600);

/// Whom a dial is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whom {
    /// A certain node.
    Node(NodeId),
    /// Whoever is there.
    Place(Locator),
}

/// Who told of a contact; a later one never lowers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Multicast DNS: anybody can say anything there.
    Lan,
    /// It was a neighbour, now or in an earlier life.
    Met,
    /// The operator.
    Static,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting { next: Instant, transport: Transport },
    Dialling { transport: Transport },
    Connected,
}

#[derive(Debug)]
struct Contact {
    places: Vec<Locator>,
    source: Source,
    /// Of a place: who was there last.
    resident: Option<NodeId>,
    failures: u32,
    refusals: u32,
    state: State,
}

/// One attempt to make.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dial {
    pub(super) whom: Whom,
    pub(super) places: Vec<Locator>,
    pub(super) transport: Transport,
}

/// All contacts.
pub(super) struct Contacts {
    me: NodeId,
    random: StdRng,
    all: BTreeMap<Whom, Contact>,
}

impl Contacts {
    pub(super) fn new(me: NodeId, seed: [u8; 32]) -> Self {
        Self { me, random: StdRng::from_seed(seed), all: BTreeMap::new() }
    }

    /// Adds places for a node; true if the node was not known.
    pub(super) fn learn(&mut self, id: NodeId, places: &[SocketAddr], source: Source, now: Instant) -> bool {
        if id == self.me || places.is_empty() {
            return false;
        }
        let courtesy = if source == Source::Lan && self.me > id { COURTESY } else { Duration::ZERO };
        let places = places.iter().map(|place| Locator::at(*place));
        self.add(Whom::Node(id), places.collect(), source, now + courtesy)
    }

    /// Adds a static peer.
    pub(super) fn learn_static(&mut self, locator: Locator, now: Instant) {
        match locator.id() {
            Some(id) if id == self.me => {}
            Some(id) => {
                self.add(Whom::Node(id), vec![locator], Source::Static, now);
            }
            None => {
                self.add(Whom::Place(locator.clone()), vec![locator], Source::Static, now);
            }
        }
    }

    fn add(&mut self, whom: Whom, places: Vec<Locator>, source: Source, next: Instant) -> bool {
        if let Some(contact) = self.all.get_mut(&whom) {
            contact.source = contact.source.max(source);
            let mut news = false;
            for place in places {
                if !contact.places.contains(&place) {
                    contact.places.insert(0, place);
                    news = true;
                }
            }
            contact.places.truncate(PLACES);
            // A sign of life from somebody we had given up on; but who refused us waits its time.
            if let State::Waiting { next: was, .. } = &mut contact.state
                && contact.refusals == 0
                && (news || contact.failures > 0)
            {
                *was = next.min(*was);
            }
            return false;
        }
        if self.all.len() >= CONTACTS && !self.make_room(source) {
            return false;
        }
        let state = State::Waiting { next, transport: Transport::Tcp };
        let contact = Contact { places, source, resident: None, failures: 0, refusals: 0, state };
        self.all.insert(whom, contact);
        true
    }

    /// Forgets the contact that failed most, of those worth no more than `source`.
    fn make_room(&mut self, source: Source) -> bool {
        let idle = self.all.iter().filter(|(_, contact)| {
            contact.source <= source.min(Source::Met) && matches!(contact.state, State::Waiting { .. })
        });
        let worst = idle.max_by_key(|(_, contact)| (contact.failures, contact.refusals));
        let worst = worst.map(|(whom, _)| whom.clone());
        worst.is_some_and(|worst| self.all.remove(&worst).is_some())
    }

    /// The next attempt that is due, marked as begun.
    pub(super) fn poll_dial(&mut self, now: Instant) -> Option<Dial> {
        if !self.has_capacity() {
            return None;
        }
        let due = |whom: &&Whom| self.due(whom).is_some_and(|next| next <= now);
        let whom = self.all.keys().filter(due).min_by_key(|whom| self.rank(whom))?.clone();
        let contact = self.all.get_mut(&whom)?;
        let State::Waiting { transport, .. } = contact.state else { return None };
        // A place that is for QUIC alone is not dialled by TCP.
        let allowed = |transport| contact.places.iter().any(|place| place.allows(transport));
        let transport = if allowed(transport) { transport } else { Transport::Quic };
        let places = contact.places.iter().filter(|place| place.allows(transport)).cloned().collect();
        contact.state = State::Dialling { transport };
        Some(Dial { whom, places, transport })
    }

    /// What an operator named comes first, then everybody in an order of our own.
    fn rank(&self, whom: &Whom) -> Option<[u8; 32]> {
        match whom {
            Whom::Node(id) => Some(neighbourhood::rank(&self.me, id)),
            Whom::Place(_) => None,
        }
    }

    /// When [`Contacts::poll_dial`] has something to give.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.has_capacity() { self.all.keys().filter_map(|whom| self.due(whom)).min() } else { None }
    }

    fn has_capacity(&self) -> bool {
        let dialling = |contact: &&Contact| matches!(contact.state, State::Dialling { .. });
        self.all.values().filter(dialling).count() < AT_A_TIME
    }

    fn due(&self, whom: &Whom) -> Option<Instant> {
        let contact = self.all.get(whom)?;
        // Who lives at this place is tried as a node first.
        let resident = contact.resident.and_then(|id| self.all.get(&Whom::Node(id)));
        if resident.is_some_and(|node| node.failures == 0 && node.refusals == 0) {
            return None;
        }
        match contact.state {
            State::Waiting { next, .. } => Some(next),
            State::Dialling { .. } | State::Connected => None,
        }
    }

    /// An attempt reached nobody, or somebody else. `closed`: the host is there and nothing listens, so that the
    /// other transport has no better chance.
    pub(super) fn handle_dial_failed(&mut self, whom: &Whom, closed: bool, now: Instant) {
        let jitter = self.random.random_range(0.75..1.25);
        let Some(contact) = self.all.get_mut(whom) else { return };
        let State::Dialling { transport } = contact.state else { return };
        let other = contact.places.iter().any(|place| place.allows(Transport::Quic));
        if transport == Transport::Tcp && other && !closed && contact.failures.is_multiple_of(QUIC_EVERY) {
            contact.state = State::Waiting { next: now, transport: Transport::Quic };
            return;
        }
        let next = now + backoff::pause(AFTER_FAILURE.0, contact.failures, AFTER_FAILURE.1).mul_f64(jitter);
        contact.failures += 1;
        contact.state = State::Waiting { next, transport: Transport::Tcp };
        if contact.source == Source::Lan && contact.failures >= HEARSAY_FAILURES {
            self.all.remove(whom);
        }
    }

    /// This host has a new address: who could not be reached perhaps can be now.
    pub(super) fn handle_network_changed(&mut self, now: Instant) {
        for contact in self.all.values_mut() {
            if let State::Waiting { next, .. } = &mut contact.state
                && contact.failures > 0
                && contact.refusals == 0
            {
                contact.failures = 0;
                *next = now.min(*next);
            }
        }
    }

    /// An attempt reached ourselves.
    pub(super) fn handle_ourselves(&mut self, whom: &Whom, now: Instant) {
        if let Some(contact) = self.all.get_mut(whom) {
            contact.state = State::Waiting { next: now + OURSELVES, transport: Transport::Tcp };
        }
    }

    /// A connection with `id` exists; `dialled` if it comes of an attempt.
    pub(super) fn handle_connected(&mut self, id: NodeId, dialled: Option<&Whom>) {
        if let Some(contact) = dialled.and_then(|whom| self.all.get_mut(whom)) {
            contact.state = State::Connected;
            if matches!(dialled, Some(Whom::Place(_))) {
                contact.resident = Some(id);
            }
        }
        if let Some(contact) = self.all.get_mut(&Whom::Node(id))
            && matches!(contact.state, State::Waiting { .. })
        {
            contact.state = State::Connected;
        }
    }

    /// `id` is a neighbour, and says it listens at `place`.
    pub(super) fn handle_up(&mut self, id: NodeId, place: SocketAddr, now: Instant) {
        let place = Locator::at(place);
        self.add(Whom::Node(id), vec![place.clone()], Source::Met, now);
        for (whom, contact) in &mut self.all {
            if *whom == Whom::Node(id) || contact.resident == Some(id) {
                (contact.failures, contact.refusals) = (0, 0);
                contact.state = State::Connected;
            }
        }
        if let Some(contact) = self.all.get_mut(&Whom::Node(id)) {
            contact.places.retain(|other| *other != place);
            contact.places.insert(0, place);
        }
    }

    /// The last connection with `id` is gone.
    pub(super) fn handle_gone(&mut self, id: NodeId, refused: bool, now: Instant) {
        let jitter = self.random.random_range(0.75..1.25);
        let soon = Duration::from_millis(self.random.random_range(50..250));
        let courtesy = if self.me > id { 2 * COURTESY } else { Duration::ZERO };
        for (whom, contact) in &mut self.all {
            let concerned = *whom == Whom::Node(id) || contact.resident == Some(id);
            if !concerned || contact.state != State::Connected {
                continue;
            }
            let pause = if refused {
                contact.refusals += 1;
                backoff::pause(AFTER_REFUSAL.0, contact.refusals - 1, AFTER_REFUSAL.1).mul_f64(jitter)
            } else {
                soon + courtesy
            };
            contact.state = State::Waiting { next: now + pause, transport: Transport::Tcp };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn dials(contacts: &mut Contacts, now: Instant) -> Vec<Dial> {
        std::iter::from_fn(|| contacts.poll_dial(now)).collect()
    }

    /// Lets so many rounds of attempts fail; returns the pauses between them.
    fn pauses(contacts: &mut Contacts, mut now: Instant, attempts: usize) -> Vec<Duration> {
        let mut pauses = Vec::new();
        for attempt in 0..attempts {
            let quic = (attempt % QUIC_EVERY as usize == 0).then_some(Transport::Quic);
            for transport in [Transport::Tcp].into_iter().chain(quic) {
                let dial = contacts.poll_dial(now).expect("due");
                assert_eq!(dial.transport, transport);
                contacts.handle_dial_failed(&dial.whom, false, now);
            }
            let Some(next) = contacts.poll_timeout() else { break };
            pauses.push(next - now);
            now = next;
        }
        pauses
    }

    #[test]
    fn a_peer_that_cannot_be_reached_is_tried_ever_less_and_at_least_every_25_seconds() {
        let now = Instant::now();
        let mut contacts = Contacts::new(id(1), [0; 32]);
        contacts.learn_static("192.0.2.1:4001".parse().expect("a peer"), now);
        let pauses = pauses(&mut contacts, now, 20);
        assert!(pauses[0] <= Duration::from_millis(625));
        assert!(pauses[5] > pauses[0]);
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(25)));
        assert!(pauses[15] >= Duration::from_secs(15));
        assert_eq!(pauses.len(), 20);
    }

    #[test]
    fn a_host_where_nothing_listens_is_not_asked_by_the_other_transport() {
        let now = Instant::now();
        let mut contacts = Contacts::new(id(1), [0; 32]);
        contacts.learn(id(2), &[at(1)], Source::Met, now);
        let dial = contacts.poll_dial(now).expect("due");
        contacts.handle_dial_failed(&dial.whom, true, now);
        assert_eq!(contacts.poll_dial(now), None);
        let next = contacts.poll_timeout().expect("waiting");
        assert_eq!(contacts.poll_dial(next).expect("due").transport, Transport::Tcp);
    }

    #[test]
    fn a_new_address_of_this_host_is_a_new_chance_for_all() {
        let now = Instant::now();
        let mut contacts = Contacts::new(id(1), [0; 32]);
        contacts.learn(id(2), &[at(1)], Source::Met, now);
        pauses(&mut contacts, now, 10);
        assert!(contacts.poll_timeout().expect("waiting") > now);
        contacts.handle_network_changed(now);
        assert_eq!(dials(&mut contacts, now).len(), 1);
    }

    #[test]
    fn hearsay_is_forgotten_and_a_former_neighbour_is_not() {
        let now = Instant::now();
        let mut contacts = Contacts::new(id(1), [0; 32]);
        assert!(contacts.learn(id(2), &[at(1)], Source::Lan, now));
        assert!(pauses(&mut contacts, now, 20).len() < 20);
        assert_eq!(contacts.poll_timeout(), None);
        contacts.learn(id(2), &[at(1)], Source::Met, now);
        assert_eq!(pauses(&mut contacts, now, 20).len(), 20);
    }

    #[test]
    fn the_higher_id_lets_the_lower_one_dial_first() {
        let now = Instant::now();
        for (me, peer, first) in [(1, 2, true), (2, 1, false)] {
            let mut contacts = Contacts::new(id(me), [0; 32]);
            contacts.learn(id(peer), &[at(1)], Source::Lan, now);
            assert_eq!(dials(&mut contacts, now).len(), usize::from(first));
            contacts.handle_connected(id(peer), None);
            assert!(dials(&mut contacts, now + Duration::from_secs(1)).is_empty());
        }
    }

    #[test]
    fn a_static_peer_is_dialled_by_its_id_once_it_is_known_and_as_a_place_when_another_moves_in() {
        let mut now = Instant::now();
        let mut contacts = Contacts::new(id(1), [0; 32]);
        contacts.learn_static("192.0.2.1:4001".parse().expect("a peer"), now);
        let place = dials(&mut contacts, now).remove(0).whom;
        contacts.handle_connected(id(2), Some(&place));
        contacts.handle_up(id(2), at(4001), now);
        assert!(dials(&mut contacts, now + Duration::from_secs(99)).is_empty());
        contacts.handle_gone(id(2), false, now);
        now += Duration::from_secs(1);
        assert_eq!(
            dials(&mut contacts, now).into_iter().map(|dial| dial.whom).collect::<Vec<_>>(),
            [Whom::Node(id(2))]
        );
        contacts.handle_dial_failed(&Whom::Node(id(2)), false, now);
        dials(&mut contacts, now);
        contacts.handle_dial_failed(&Whom::Node(id(2)), false, now);
        assert_eq!(dials(&mut contacts, now).into_iter().map(|dial| dial.whom).collect::<Vec<_>>(), [place]);
    }

    #[test]
    fn who_refuses_us_is_left_alone_for_longer_each_time_even_if_it_is_seen_on_the_lan() {
        let mut now = Instant::now();
        let mut contacts = Contacts::new(id(1), [0; 32]);
        let mut last = Duration::ZERO;
        for round in 0..10 {
            contacts.learn(id(2), &[at(round + 1)], Source::Lan, now);
            let next = contacts.poll_timeout().expect("waiting");
            assert!(round == 0 || next - now >= Duration::from_millis(700));
            last = next.saturating_duration_since(now);
            now = next.max(now);
            let dial = dials(&mut contacts, now).remove(0);
            contacts.handle_connected(id(2), Some(&dial.whom));
            contacts.handle_gone(id(2), true, now);
        }
        assert!(last >= Duration::from_secs(40), "{last:?}");
    }

    #[test]
    fn a_flood_of_announcements_stays_bounded_and_keeps_those_we_met() {
        let now = Instant::now();
        let mut contacts = Contacts::new(id(1), [0; 32]);
        contacts.learn(id(2), &[at(1)], Source::Met, now);
        for number in 0..5_000_u32 {
            let mut bytes = [9; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            contacts.learn(NodeId::from_bytes(bytes), &[at(1)], Source::Lan, now);
        }
        assert!(contacts.all.len() <= CONTACTS);
        assert!(contacts.all.contains_key(&Whom::Node(id(2))));
        assert_eq!(dials(&mut contacts, now + COURTESY).len(), AT_A_TIME);
    }
}
