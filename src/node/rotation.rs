//! Replacing the network token while everything goes on.
//!
//! ```text
//!  lead, one fact:     Spread ------------------> Switch ------------------------> Done
//!                        | all live hold it         | all live use it
//!  members, a fact each: hold it, accept both       use it, accept both             accept the new one alone
//! ```
//! A phase of the ledger switches over, no clock does. Each member has the seed of the new token sealed to it, also
//! those that are off: with the old token they may fetch it later, and nothing else (the box is the right). While the
//! door is `closed` (somebody was banned), the old token is good for those who were known before only, and nobody else
//! gets the new one.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::{
    Event, Node, bans, fact, fresh,
    members::{Members, read},
    secrets, snapshot,
};
use crate::{
    election::{Cluster, ClusterId, Reign},
    identity::NodeId,
    ledger::{self, SignedEntry},
    token::{Gate, Keyring, NetworkKeys, Right},
};

/// What a box with a token's seed is sealed for.
const TOKEN: &str = "c3os network token";

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Members get the new token and accept both.
    Spread,
    /// Members use the new token and accept both.
    Switch,
    /// The old token only fetches the new one.
    Done,
}

/// `rotation/<network id>`, by the lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rotation {
    cluster_id: ClusterId,
    /// From 1, one more each time.
    number: u32,
    phase: Phase,
    /// Whoever was not known before stays outside with the old token.
    closed: bool,
}

/// `token/<network id>/<node id>`, by the lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sealed {
    cluster_id: ClusterId,
    number: u32,
    /// The 32 bytes of `NetworkToken::successor`, sealed, in base64.
    boxed: String,
}

/// `rotated/<network id>`, by each member: which token it holds ([`Phase::Spread`]) or uses ([`Phase::Switch`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Progress {
    number: u32,
    phase: Phase,
}

/// What a member brings to somebody who comes with a replaced token: entries of the lead, in base64.
#[derive(Debug, Serialize, Deserialize)]
struct Errand {
    entries: Vec<String>,
}

/// Where a member's tokens stand.
#[derive(Default)]
pub(super) struct Tokens {
    /// As it is on disk; none: this member was given no token.
    ring: Option<Keyring>,
    /// On its way to the disk.
    pending: Option<Keyring>,
    /// Days since 1970 (UTC), as far as the machine knows; 0: not yet.
    day: u64,
    gate: Gate,
    /// A rotation has come that has no box for us.
    left_out: bool,
}

impl Tokens {
    pub(super) fn new(ring: Option<Keyring>) -> Self {
        Self { ring, ..Self::default() }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn current(&self) -> Option<&Keyring> {
        self.ring.as_ref()
    }
}

/// What the lead knows of one member that is to have the new token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    id: NodeId,
    live: bool,
    sealed: bool,
    progress: Option<Progress>,
}

/// Who keeps a rotation from its next phase: those who are there, were given the token, and are not as far.
fn waits_for(rotation: &Rotation, parts: &[Part]) -> Vec<NodeId> {
    let goal = Progress { number: rotation.number, phase: rotation.phase };
    let behind = parts.iter().filter(|part| part.live && part.sealed && part.progress < Some(goal));
    behind.map(|part| part.id).collect()
}

/// The phase that a rotation may go to, given its members; the same one while it has to wait. `lead` is always there.
fn next_phase(rotation: &Rotation, lead: NodeId, parts: &[Part]) -> Phase {
    let begun = parts.iter().any(|part| part.id == lead && part.sealed);
    if !begun || !waits_for(rotation, parts).is_empty() {
        return rotation.phase;
    }
    match rotation.phase {
        Phase::Spread => Phase::Switch,
        Phase::Switch | Phase::Done => Phase::Done,
    }
}

/// What each of a member's tokens is good for, most preferred first.
fn rights(
    ring: &Keyring,
    rotation: Option<&Rotation>,
    known: &BTreeSet<NodeId>,
) -> Vec<(Arc<NetworkKeys>, Right)> {
    let under_way = rotation.filter(|rotation| rotation.phase != Phase::Done);
    let closed = under_way.is_some_and(|rotation| rotation.closed);
    let behind = rotation.is_some_and(|rotation| rotation.number > ring.number());
    let current = if closed && behind { Right::Known(known.clone()) } else { Right::Anyone };
    let mut tokens = vec![(ring.current_keys().clone(), current)];
    tokens.extend(ring.next().map(|(_, keys)| (keys.clone(), Right::Anyone)));
    tokens.extend(ring.replaced_keys().enumerate().map(|(age, keys)| {
        let right = match (under_way, age) {
            (None, _) => Right::Errand(known.clone()),
            (Some(rotation), 0) if !rotation.closed => Right::Anyone,
            (Some(_), _) => Right::Known(known.clone()),
        };
        (keys.clone(), right)
    }));
    tokens
}

impl Node {
    /// Begins to replace the network token. Only the lead can.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn rotate(&mut self, now: Instant) -> Result<(), String> {
        let cluster = self.lead_only("rotate the network token", now)?;
        if let Some(rotation) = self.rotation(&cluster).filter(|rotation| rotation.phase != Phase::Done) {
            let waits = self.names(&waits_for(&rotation, &self.parts_of_rotation(&cluster, &rotation)));
            return Err(format!("rotation {} is under way and waits for {waits}", rotation.number));
        }
        if let Some(why) = self.rotation_objection(&cluster) {
            return Err(why);
        }
        self.start_rotation(&cluster, false, now);
        Ok(())
    }

    /// Why the network token cannot be replaced, in words.
    pub(super) fn rotation_objection(&self, cluster: &Cluster) -> Option<String> {
        if self.tokens.ring.is_none() {
            return Some("this member was given no network token".to_owned());
        }
        let members = Members::of(&self.ledger, &self.connected, &self.outside);
        let elsewhere = members.iter().filter_map(|(id, facts)| {
            let machine = facts.machine.as_ref()?;
            let other = machine.network_id != cluster.network_id && !machine.observer;
            (other && members.is_live(id)).then(|| format!("{} ({})", machine.name, machine.network_id))
        });
        let elsewhere: Vec<String> = elsewhere.collect();
        (!elsewhere.is_empty()).then(|| {
            format!(
                "machines of other clusters share this mesh and would be cut off by a new token: {}",
                elsewhere.join(", ")
            )
        })
    }

    /// Makes a token, seals its seed to every member, and says so.
    pub(super) fn start_rotation(&mut self, cluster: &Cluster, closed: bool, now: Instant) {
        let used = self.tokens.ring.as_ref().map_or(0, Keyring::number);
        let number = self.rotation(cluster).map_or(0, |rotation| rotation.number).max(used) + 1;
        let members = Members::of(&self.ledger, &self.connected, &self.outside);
        // Whoever came for a visit may be the one that was banned, under another name.
        let recipients: Vec<NodeId> = members
            .iter()
            .map(|(id, _)| id)
            .filter(|id| !closed || !self.is_visitor(*id))
            .chain([self.id()])
            .collect();
        let seed = zeroize::Zeroizing::new(fresh(&mut self.rng));
        for node in recipients {
            self.seal_token(cluster, node, number, &seed, now);
        }
        let rotation = Rotation { cluster_id: cluster.cluster_id, number, phase: Phase::Spread, closed };
        self.say_rotation(cluster, &rotation, now);
        self.due = true;
    }

    /// Takes a rotation on, as the lead.
    pub(super) fn lead_rotation(&mut self, members: &Members, cluster: &Cluster, now: Instant) {
        let Some(rotation) = self.rotation(cluster).filter(|rotation| rotation.phase != Phase::Done) else {
            return;
        };
        let parts = self.parts_of_rotation(cluster, &rotation);
        if !rotation.closed
            && let Some(seed) = self.own_seed(cluster, rotation.number)
        {
            let has = |id: &NodeId| parts.iter().any(|part| part.id == *id && part.sealed);
            let late: Vec<NodeId> = members.iter().map(|(id, _)| id).filter(|id| !has(id)).collect();
            for node in late {
                self.seal_token(cluster, node, rotation.number, &seed, now);
            }
        }
        let phase = next_phase(&rotation, self.id(), &parts);
        if phase != rotation.phase {
            tracing::info!(number = rotation.number, ?phase, "The network token is being replaced");
            self.say_rotation(cluster, &Rotation { phase, ..rotation }, now);
        }
    }

    /// Does our part of a rotation, and says how far we are.
    pub(super) fn follow_rotation(&mut self, cluster: &Cluster, now: Instant) {
        let Some(rotation) = self.rotation(cluster) else { return };
        let Some(ring) = self.tokens.ring.as_ref() else { return };
        self.tokens.left_out = false;
        let held = ring.next().map(|(number, _)| number);
        let reached = if rotation.number <= ring.number() {
            Some(Phase::Switch)
        } else {
            (held == Some(rotation.number)).then_some(Phase::Spread)
        };
        if let Some(phase) = reached {
            let progress = Progress { number: rotation.number, phase };
            let key = fact::in_network("rotated", &cluster.network_id);
            self.said.say(&mut self.ledger, &key, &progress, now);
        }
        let due = match (reached, rotation.phase) {
            (None, _) | (Some(Phase::Spread), Phase::Switch | Phase::Done) => true,
            (Some(_), _) => false,
        };
        if !due || self.tokens.pending.is_some() {
            return;
        }
        match self.own_seed(cluster, rotation.number) {
            Some(seed) => self.advance_tokens(rotation.number, &seed, rotation.phase > Phase::Spread),
            None => self.tokens.left_out = true,
        }
    }

    /// Holds, or takes, the token of a rotation, once it is on disk.
    fn advance_tokens(&mut self, number: u32, seed: &[u8; 32], take: bool) {
        let Some(mut ring) = self.tokens.ring.clone() else { return };
        let day = self.tokens.day;
        if ring.next().map(|(held, _)| held) != Some(number) {
            let token = ring.current().successor(seed);
            ring.hold(number, token, day);
        }
        if take {
            ring.take(day);
        }
        self.keep_tokens(ring);
    }

    fn keep_tokens(&mut self, ring: Keyring) {
        self.events.push_back(Event::Tokens(Box::new(ring.to_kept())));
        self.tokens.pending = Some(ring);
    }

    /// The tokens of the last [`Event::Tokens`] are on disk.
    pub(super) fn handle_tokens_kept(&mut self) {
        if let Some(ring) = self.tokens.pending.take() {
            self.tokens.ring = Some(ring);
        }
    }

    /// The date, for forgetting replaced tokens.
    pub(super) fn handle_day(&mut self, day: u64) {
        self.tokens.day = day;
        if self.tokens.pending.is_none()
            && let Some(mut ring) = self.tokens.ring.clone()
            && ring.expire(day)
        {
            self.keep_tokens(ring);
        }
    }

    /// Tells the driver who gets in with which token, if that changed.
    pub(super) fn watch_the_gate(&mut self, cluster: Option<&Cluster>) {
        let rotation = cluster.and_then(|cluster| self.rotation(cluster));
        let banned = &self.outside.banned;
        // Those with a role too: of the lead's word that there is a new token this machine may have heard before what was
        // sealed for it and the others, and somebody has to be let in to give it that.
        let known: BTreeSet<NodeId> = cluster.map_or_else(BTreeSet::new, |cluster| {
            let reign = self.reign.iter();
            let sealed = reign.flat_map(|reign| bans::about_nodes(&self.ledger, cluster, reign, "token"));
            let with_a_role = self.servers_of_cluster().chain(self.assignments().into_keys());
            let known = sealed.map(|(node, _)| node).chain(with_a_role);
            known.filter(|node| !banned.contains(node)).collect()
        });
        let tokens = self.tokens.ring.as_ref().map(|ring| rights(ring, rotation.as_ref(), &known));
        let gate = Gate::new(tokens.unwrap_or_default(), banned.clone());
        if gate != self.tokens.gate {
            self.tokens.gate = gate.clone();
            self.events.push_back(Event::Gate(gate));
        }
    }

    /// What `peer`, who came with a replaced token, is given: the lead's word that there is a new one, and the box for
    /// it. None: there is none for it.
    pub fn errand_for(&self, peer: NodeId) -> Option<Vec<u8>> {
        let cluster = self.followed.as_ref().filter(|_| !self.outside.contains(&peer))?;
        let number = self.rotation(cluster)?.number;
        let rotation = fact::in_network("rotation", &cluster.network_id);
        let rotation = self.said_by_leads(&rotation).max_by_key(|entry| {
            ledger::decode::<Rotation>(entry.value()).map(|said| (said.number, said.phase)).ok()
        })?;
        let sealed = fact::about("token", &cluster.network_id, &peer);
        let sealed = self.said_by_leads(&sealed).find(|entry| {
            ledger::decode::<Sealed>(entry.value()).is_ok_and(|sealed| sealed.number == number)
        })?;
        let entries = [rotation, sealed].map(|entry| BASE64_STANDARD.encode(entry.to_bytes())).into();
        ledger::encode(&Errand { entries }).ok()
    }

    /// Somebody let us in for an errand only: our token was replaced. What it gives counts if the lead signed it.
    ///
    /// # Errors
    /// Why it counts for nothing, in words.
    pub fn handle_errand(&mut self, bytes: &[u8], now: Instant) -> Result<(), &'static str> {
        let cluster = self.followed.clone().ok_or("this machine does not know of a cluster yet")?;
        let ring = self.tokens.ring.as_ref().ok_or("this member has no token")?;
        let errand: Errand = ledger::decode(bytes).map_err(|_| "it cannot be read")?;
        let mut rotation = None;
        let mut sealed = None;
        let token_key = fact::about("token", &cluster.network_id, &self.id());
        for entry in errand.entries.iter().take(2) {
            let bytes = BASE64_STANDARD.decode(entry).map_err(|_| "it cannot be read")?;
            let entry = SignedEntry::parse(&bytes).map_err(|_| "it holds an entry that nobody signed")?;
            let led = |reign: &Reign| reign.servers.ever().any(|lead| lead == entry.author());
            if !self.reign.as_ref().is_some_and(led) {
                return Err("it holds an entry that is not a lead's");
            }
            if entry.key().as_str() == token_key {
                sealed = ledger::decode::<Sealed>(entry.value()).ok();
            } else if entry.key().as_str() == fact::in_network("rotation", &cluster.network_id) {
                rotation = ledger::decode::<Rotation>(entry.value()).ok();
            }
        }
        let (rotation, sealed) = rotation.zip(sealed).ok_or("something is missing in it")?;
        let ours = rotation.cluster_id == cluster.cluster_id && sealed.cluster_id == cluster.cluster_id;
        if !ours || sealed.number != rotation.number || rotation.number <= ring.number() {
            return Err("it is no news");
        }
        let seed = self.open_seed(&sealed).ok_or("it is not sealed to this node")?;
        if self.tokens.pending.is_none() {
            self.advance_tokens(rotation.number, &seed, true);
        }
        self.evaluate(now);
        Ok(())
    }

    /// What leads of our cluster say, or said, under one key.
    fn said_by_leads<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a SignedEntry> {
        self.servers_of_cluster().filter_map(move |lead| self.ledger.get(lead, key))
    }

    /// The rotation that a lead of `cluster` began last.
    pub(super) fn rotation(&self, cluster: &Cluster) -> Option<Rotation> {
        let key = fact::in_network("rotation", &cluster.network_id);
        self.said_by_leads(&key)
            .filter_map(|entry| ledger::decode::<Rotation>(entry.value()).ok())
            .filter(|rotation| rotation.cluster_id == cluster.cluster_id)
            .max_by_key(|rotation| (rotation.number, rotation.phase))
    }

    fn own_seed(&self, cluster: &Cluster, number: u32) -> Option<zeroize::Zeroizing<[u8; 32]>> {
        let key = fact::about("token", &cluster.network_id, &self.id());
        let boxes = self.said_by_leads(&key).filter_map(|entry| ledger::decode::<Sealed>(entry.value()).ok());
        let ours = |sealed: &Sealed| sealed.cluster_id == cluster.cluster_id && sealed.number == number;
        boxes.filter(ours).find_map(|sealed| self.open_seed(&sealed))
    }

    fn open_seed(&self, sealed: &Sealed) -> Option<zeroize::Zeroizing<[u8; 32]>> {
        let plain = secrets::open(&self.identity, TOKEN, &sealed.boxed)?;
        plain.as_slice().try_into().ok().map(zeroize::Zeroizing::new)
    }

    fn seal_token(&mut self, cluster: &Cluster, node: NodeId, number: u32, seed: &[u8; 32], now: Instant) {
        let Some(boxed) = self.sealed(node, TOKEN, seed) else { return };
        let sealed = Sealed { cluster_id: cluster.cluster_id, number, boxed };
        let key = fact::about("token", &cluster.network_id, &node);
        self.said.say(&mut self.ledger, &key, &sealed, now);
    }

    fn say_rotation(&mut self, cluster: &Cluster, rotation: &Rotation, now: Instant) {
        let key = fact::in_network("rotation", &cluster.network_id);
        self.said.say(&mut self.ledger, &key, rotation, now);
    }

    fn parts_of_rotation(&self, cluster: &Cluster, rotation: &Rotation) -> Vec<Part> {
        let members = Members::of(&self.ledger, &self.connected, &self.outside);
        let reign = self.reign.iter();
        let sealed: BTreeSet<NodeId> = reign
            .flat_map(|reign| bans::about_nodes(&self.ledger, cluster, reign, "token"))
            .filter(|(_, value)| {
                ledger::decode::<Sealed>(value).is_ok_and(|sealed| {
                    sealed.cluster_id == cluster.cluster_id && sealed.number == rotation.number
                })
            })
            .map(|(node, _)| node)
            .collect();
        let key = fact::in_network("rotated", &cluster.network_id);
        members
            .iter()
            .map(|(id, _)| Part {
                id,
                live: members.is_live(id),
                sealed: sealed.contains(&id),
                progress: read(&self.ledger, id, &key),
            })
            .collect()
    }

    fn is_visitor(&self, id: NodeId) -> bool {
        self.ledger.get(id, fact::MACHINE).is_none_or(|machine| machine.ttl().is_some())
    }

    pub(super) fn names(&self, ids: &[NodeId]) -> String {
        let name = |id: &NodeId| {
            read::<fact::Machine>(&self.ledger, *id, fact::MACHINE)
                .map_or_else(|| id.to_string(), |machine| machine.name)
        };
        if ids.is_empty() {
            return "the disk of this machine".to_owned();
        }
        ids.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// For the picture.
    pub(super) fn rotation_shown(&self) -> Option<snapshot::Rotation> {
        let cluster = self.followed.as_ref()?;
        let rotation = self.rotation(cluster)?;
        let parts = self.parts_of_rotation(cluster, &rotation);
        let waits_for = match rotation.phase {
            Phase::Done => Vec::new(),
            Phase::Spread | Phase::Switch => waits_for(&rotation, &parts),
        };
        Some(snapshot::Rotation {
            number: rotation.number,
            phase: rotation.phase,
            closed: rotation.closed,
            used: self.tokens.ring.as_ref().map(Keyring::number),
            waits_for,
        })
    }

    /// What an operator has to do about the token of this machine.
    pub(super) fn token_trouble(&self) -> Option<&'static str> {
        self.tokens.left_out.then_some(
            "the network token was replaced after a ban, and this machine was not known then: it stays outside",
        )
    }
}
