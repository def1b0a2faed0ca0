//! `/metrics` in Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use crate::node::snapshot::{ClusterState, PathKind, Severity, Snapshot};

/// The snapshot's numbers: counters of every room, and gauges of what an operator alerts on.
pub(super) fn text(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let count =
        |test: &dyn Fn(&&crate::node::snapshot::Member) -> bool| snapshot.members.iter().filter(test).count();
    let direct = snapshot.peers.iter().filter(|path| path.kind == PathKind::Direct).count();
    let errors = snapshot.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let state = snapshot.cluster.state;
    for (name, help, value) in [
        ("members", "Members that the ledger knows.", snapshot.members.len()),
        ("members_live", "Members that can be reached.", count(&|member| member.live)),
        ("paths_direct", "Peers that datagrams go straight to.", direct),
        ("founded", "1 if this machine is in a cluster.", usize::from(state == ClusterState::Founded)),
        (
            "conflict",
            "1 if there is another cluster of this network id.",
            usize::from(state == ClusterState::Conflict),
        ),
        ("problems", "Entries of `c3os status` that keep the agent from its job.", errors),
    ] {
        let _ = writeln!(text, "# HELP c3os_{name} {help}\n# TYPE c3os_{name} gauge\nc3os_{name} {value}");
    }
    for (name, value) in &snapshot.counters {
        let name = name.replace(['.', '-'], "_");
        let _ = writeln!(text, "# TYPE c3os_{name} untyped\nc3os_{name} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_name_and_a_number() {
        let mut snapshot = Snapshot::empty();
        snapshot.counters.insert("mesh.refused.other_token".to_owned(), 3);
        let text = text(&snapshot);
        assert!(text.contains("\nc3os_mesh_refused_other_token 3\n"), "{text}");
        assert!(text.contains("\nc3os_founded 0\n"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').expect("a name and a number");
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name}");
            value.parse::<u64>().expect("a number");
        }
    }
}
