//! Draws the [`Snapshot`].

use std::collections::BTreeMap;

use super::{
    Node, fact,
    members::{Members, read},
    snapshot::{self, ClusterState, Member, Problem, Severity, Snapshot},
};
use crate::{
    address,
    config::RoleSetting,
    election::{ClusterId, FoundingStatus},
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
        let assigned = assignments.get(&self.id()).map(|assignment| assignment.role);
        let applied = self.seen.applied.as_ref().map(|applied| applied.role);
        let whole = self.seen.applied_now && self.seen.not_applied.is_none();
        shown.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Snapshot {
            node: own.unwrap_or_else(|| self.member(self.id(), None, &members, &assignments)),
            cluster: self.cluster(),
            role: snapshot::RoleState {
                setting: self.settings.config.role,
                assigned,
                applied,
                in_place: whole && assigned.is_some() && assigned == applied,
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
        let observes = self.settings.observes();
        let status = if observes { &FoundingStatus::Observing } else { self.founding.status() };
        let pinned = self.pinned.as_ref().map(|certificate| certificate.cluster());
        let conflicts = self.conflicts();
        let amnesiac = matches!(status, FoundingStatus::Amnesiac | FoundingStatus::Cloned);
        let state = match (observes, pinned) {
            _ if status.is_conflict() || (observes && !conflicts.is_empty()) => ClusterState::Conflict,
            (true, _) => ClusterState::Observing,
            // Also before the first look at the ledger after a start.
            (false, Some(_)) => ClusterState::Founded,
            (false, None) if amnesiac => ClusterState::Amnesiac,
            (false, None) => ClusterState::Founding,
        };
        let heir = self.heir.as_ref().map(|heir| format!("; {}", heir.status())).unwrap_or_default();
        snapshot::Cluster {
            network_id: self.settings.network_id().clone(),
            state,
            message: if observes { self.looks_on() } else { format!("{status}{heir}") },
            id: pinned.map(|cluster| cluster.cluster_id.to_string()),
            generation: pinned.map(|cluster| cluster.generation),
            founder: pinned.map(|cluster| cluster.founder),
            lead: self.reign.as_ref().map(|reign| reign.lead),
            epoch: self.reign.as_ref().map(|reign| reign.epoch),
            servers: self.reign.iter().flat_map(|reign| reign.servers.current()).copied().collect(),
            servers_wanted: pinned.map(|cluster| cluster.servers),
            minimum_nodes: pinned.map(|cluster| cluster.minimum_nodes).or(self.settings.config.minimum_nodes),
            conflicts,
        }
    }

    /// What an observer is, and what it sees.
    fn looks_on(&self) -> String {
        let why = if self.settings.visitor { "" } else { " (`c3os.role: none`)" };
        let clusters = self.clusters_in_force();
        let seen = match clusters.first_key_value() {
            None => "no cluster is founded yet".to_owned(),
            Some((id, founder)) if clusters.len() == 1 => {
                format!("cluster {id} founded by {}", self.names(&[*founder]))
            }
            Some(_) => format!("there are {} clusters", clusters.len()),
        };
        format!("{}{why}; {seen}", FoundingStatus::Observing)
    }

    /// The clusters that should not be there, in words.
    fn conflicts(&self) -> Vec<String> {
        if !self.settings.observes() {
            return self.founding.status().other_clusters().into_iter().map(ToString::to_string).collect();
        }
        let seen = self.clusters_in_force();
        let named =
            seen.iter().map(|(id, founder)| format!("cluster {id} founded by node {}", founder.short()));
        if seen.len() > 1 { named.collect() } else { Vec::new() }
    }

    /// What is seen of clusters that no successor replaces, and who founded them.
    fn clusters_in_force(&self) -> BTreeMap<ClusterId, NodeId> {
        let clusters = || self.clusters_seen.iter().map(|certificate| certificate.cluster());
        let superseded = |id| clusters().any(|other| other.supersedes == Some(id));
        clusters()
            .filter(|cluster| !superseded(cluster.cluster_id))
            .map(|cluster| (cluster.cluster_id, cluster.founder))
            .collect()
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |severity, what: String, fix: &str| {
            problems.push(Problem { severity, what, fix: fix.to_owned() });
        };
        let status = self.founding.status();
        let conflicts = self.conflicts();
        if self.settings.observes() && !conflicts.is_empty() {
            let what = format!("conflict: there are several clusters: {}", conflicts.join(", "));
            problem(Severity::Warning, what, "`c3os cluster join ID` moves the machines of one to the other");
        } else if status.is_conflict() {
            let fix = "decide which cluster this machine belongs to; `c3os cluster show` shows them";
            problem(Severity::Error, status.to_string(), fix);
        } else if let FoundingStatus::Cloned
        | FoundingStatus::SeveralForcedMasters { .. }
        | FoundingStatus::Frozen = status
        {
            problem(Severity::Error, status.to_string(), "the sentence names the key or file to change");
        } else if let FoundingStatus::Amnesiac = status {
            problem(Severity::Warning, status.to_string(), "nothing, if other machines are up");
        }
        if self.outside.banned.contains(&self.id()) {
            let what = "this machine was banned from its cluster".to_owned();
            problem(
                Severity::Error,
                what,
                "`c3os reset --new-identity` and the new token make it a new member",
            );
        }
        if let Some(servers) = self.full_without_us() {
            let what = format!(
                "this machine has `c3os.role: master`, but its cluster has all its {} servers: {}",
                servers.len(),
                self.names(&servers)
            );
            problem(
                Severity::Error,
                what,
                "remove `c3os.role` here to make it a worker, or `c3os node remove` a server that is gone",
            );
        }
        for trouble in self.lease.troubles() {
            problem(Severity::Warning, trouble.to_string(), trouble.fix());
        }
        if self.pinned.is_some() && self.ledger.amnesia() {
            let what = "this machine's state was older than what it had said before: its disk image was restored, it \
                        was reset, or the disk lost writes. It never votes on a cluster of this generation again";
            problem(Severity::Warning, what.to_owned(), "nothing, if that is known; else look at the disk");
        }
        if let Some(rotation) = self.rotation_shown().filter(|rotation| !rotation.waits_for.is_empty()) {
            let what = format!(
                "the network token is being replaced, which waits for {}",
                self.names(&rotation.waits_for)
            );
            problem(Severity::Warning, what, "nothing while that takes seconds; else look at that machine");
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
        for lacking in &self.seen.lacking {
            problem(
                Severity::Warning,
                lacking.clone(),
                "the sentence names it; the role is applied all the same",
            );
        }
        problems.sort();
        problems
    }

    /// The servers that leave no place for this machine, though its file makes it one.
    fn full_without_us(&self) -> Option<Vec<NodeId>> {
        let (cluster, reign) = (self.pinned.as_ref()?.cluster(), self.reign.as_ref()?);
        let servers = reign.servers.current().to_vec();
        let full = servers.len() >= usize::from(cluster.servers) && !servers.contains(&self.id());
        let forced = !self.settings.visitor && self.settings.config.role == RoleSetting::Master;
        (forced && full && self.seen.applied.is_none()).then_some(servers)
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
