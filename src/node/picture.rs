//! Draws the [`Snapshot`].

use std::collections::BTreeMap;

use super::{
    Node, fact,
    members::{Members, read},
    snapshot::{self, ClusterState, Member, Problem, Severity, Snapshot},
};
use crate::{
    address,
    election::{Conflict, Founded, FoundingStatus},
    identity::NodeId,
};

impl Node {
    /// What this member knows and may show. The driver adds what only it sees: paths, its own counters.
    pub fn snapshot(&self) -> Snapshot {
        let members = Members::of(&self.ledger, &self.connected, &self.outside);
        let assignments = self.assignments();
        let mut shown: Vec<Member> = members
            .iter()
            .map(|(id, facts)| self.member(id, facts.machine.as_ref(), &members, &assignments))
            .collect();
        let own = shown.iter().position(|member| member.id == self.id()).map(|at| shown[at].clone());
        shown.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Snapshot {
            node: own.unwrap_or_else(|| self.member(self.id(), None, &members, &assignments)),
            cluster: self.cluster(),
            role: snapshot::RoleState {
                setting: self.settings.config.role,
                assigned: assignments.get(&self.id()).map(|assignment| assignment.role),
                applied: self.seen.applied.as_ref().map(|applied| applied.role),
                unit: self.seen.unit.as_ref().map(|(name, _)| name.clone()),
                unit_state: self.seen.unit.as_ref().map(|(_, state)| state.clone()),
                message: self.seen.not_applied.clone(),
            },
            members: shown,
            peers: Vec::new(),
            problems: self.problems(),
            rotation: self.rotation_shown(),
            banned: self.outside.banned.iter().copied().collect(),
            counters: self.counters(),
        }
    }

    fn member(
        &self,
        id: NodeId,
        machine: Option<&fact::Machine>,
        members: &Members,
        assignments: &super::Assignments,
    ) -> Member {
        let assignment = assignments.get(&id);
        let own_address =
            || if id == self.id() { self.lease.address() } else { members.uncontested_address(id) };
        let applied = machine.and_then(|machine| {
            read::<fact::Applied>(&self.ledger, id, &fact::in_network("applied", &machine.network_id))
        });
        Member {
            id,
            name: machine.map(|machine| machine.name.clone()).unwrap_or_default(),
            uuid: machine.map(|machine| machine.uuid.clone()).unwrap_or_default(),
            network_id: machine.map(|machine| machine.network_id.clone()).unwrap_or_default(),
            role_setting: machine.map(|machine| machine.role).unwrap_or_default(),
            role: assignment
                .map(|assignment| assignment.role)
                .or(applied.as_ref().map(|applied| applied.role)),
            observer: machine.is_some_and(|machine| machine.observer),
            live: members.is_live(id),
            ipv4: assignment.map(|assignment| assignment.address).or_else(own_address),
            ipv6: address::ula(self.settings.mesh_id, id),
            version: machine.map(|machine| machine.version.clone()).unwrap_or_default(),
            platform: machine.map(|machine| machine.platform.clone()).unwrap_or_default(),
            unit: applied.and_then(|applied| applied.unit),
        }
    }

    fn cluster(&self) -> snapshot::Cluster {
        // An observer takes no part, so founding has no word for it.
        let observing = FoundingStatus::Observing;
        let status = if self.settings.observes() { &observing } else { self.founding.status() };
        let pinned = self.pinned.as_ref().map(|certificate| certificate.cluster());
        let others: &[Founded] = match status {
            FoundingStatus::Pinned { others, .. } => others,
            FoundingStatus::Conflict(Conflict::Several(clusters)) => clusters,
            FoundingStatus::Joining { seen, .. } => seen,
            FoundingStatus::Starting
            | FoundingStatus::Observing
            | FoundingStatus::Frozen
            | FoundingStatus::WaitingForNodes { .. }
            | FoundingStatus::WaitingForDiscovery
            | FoundingStatus::Settling { .. }
            | FoundingStatus::Following { .. }
            | FoundingStatus::SeveralForcedMasters { .. }
            | FoundingStatus::Bound { .. }
            | FoundingStatus::Preparing { .. }
            | FoundingStatus::Accepting { .. }
            | FoundingStatus::Amnesiac
            | FoundingStatus::Cloned
            | FoundingStatus::Founded(_)
            | FoundingStatus::Conflict(_) => &[],
        };
        let conflicts = others.iter().map(ToString::to_string).collect();
        let state = match status {
            FoundingStatus::Observing => ClusterState::Observing,
            FoundingStatus::Pinned { others, .. } if others.is_empty() => ClusterState::Founded,
            FoundingStatus::Pinned { .. } | FoundingStatus::Conflict(_) => ClusterState::Conflict,
            FoundingStatus::Amnesiac | FoundingStatus::Cloned => ClusterState::Amnesiac,
            FoundingStatus::Starting
            | FoundingStatus::Frozen
            | FoundingStatus::Joining { .. }
            | FoundingStatus::WaitingForNodes { .. }
            | FoundingStatus::WaitingForDiscovery
            | FoundingStatus::Settling { .. }
            | FoundingStatus::Following { .. }
            | FoundingStatus::SeveralForcedMasters { .. }
            | FoundingStatus::Bound { .. }
            | FoundingStatus::Preparing { .. }
            | FoundingStatus::Accepting { .. }
            | FoundingStatus::Founded(_) => ClusterState::Founding,
        };
        // Before the first look at the ledger after a start, what is pinned is known already.
        let state =
            if pinned.is_some() && state == ClusterState::Founding { ClusterState::Founded } else { state };
        snapshot::Cluster {
            network_id: self.settings.network_id().clone(),
            state,
            message: status.to_string(),
            id: pinned.map(|cluster| cluster.cluster_id.to_string()),
            founder: pinned.map(|cluster| cluster.founder),
            minimum_nodes: pinned.map(|cluster| cluster.minimum_nodes).or(self.settings.config.minimum_nodes),
            conflicts,
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |severity, what: String, fix: &str| {
            problems.push(Problem { severity, what, fix: fix.to_owned() });
        };
        let status = self.founding.status();
        match status {
            FoundingStatus::Conflict(_) => {
                problem(Severity::Error, status.to_string(), "decide which cluster this machine belongs to");
            }
            FoundingStatus::Cloned | FoundingStatus::SeveralForcedMasters { .. } | FoundingStatus::Frozen => {
                problem(Severity::Error, status.to_string(), "the sentence names the key or file to change");
            }
            FoundingStatus::Amnesiac => {
                problem(Severity::Warning, status.to_string(), "nothing, if other machines are up");
            }
            FoundingStatus::Starting
            | FoundingStatus::Observing
            | FoundingStatus::Joining { .. }
            | FoundingStatus::WaitingForNodes { .. }
            | FoundingStatus::WaitingForDiscovery
            | FoundingStatus::Settling { .. }
            | FoundingStatus::Following { .. }
            | FoundingStatus::Bound { .. }
            | FoundingStatus::Preparing { .. }
            | FoundingStatus::Accepting { .. }
            | FoundingStatus::Founded(_)
            | FoundingStatus::Pinned { .. } => {}
        }
        if self.outside.banned.contains(&self.id()) {
            let what = "this machine was banned from its cluster".to_owned();
            problem(
                Severity::Error,
                what,
                "`c3os reset --new-identity` and the new token make it a new member",
            );
        }
        if let Some(what) = self.token_trouble() {
            problem(Severity::Error, what.to_owned(), "put the new token into its config.yaml by hand");
        }
        if let Some(why) = &self.seen.not_applied {
            problem(
                Severity::Error,
                format!("the role is not wholly applied: {why}"),
                "mend that; it is tried again",
            );
        }
        problems.sort();
        problems
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        named("ledger", &self.ledger.counters())
    }
}

/// A room's counters as `room.reason`, or `room.what.reason` where it counts several things by reason.
pub fn named(room: &str, counters: &impl serde::Serialize) -> BTreeMap<String, u64> {
    fn collect(name: &str, value: &serde_json::Value, into: &mut BTreeMap<String, u64>) {
        if let serde_json::Value::Object(fields) = value {
            for (field, value) in fields {
                collect(&format!("{name}.{field}"), value, into);
            }
        } else if let Some(count) = value.as_u64() {
            into.insert(name.to_owned(), count);
        }
    }
    let mut named = BTreeMap::new();
    if let Ok(value) = serde_json::to_value(counters) {
        collect(room, &value, &mut named);
    }
    named
}
