//! What the agent tells of the others.

use super::Finding;
use crate::node::snapshot::{PathKind, Severity, Snapshot};

/// More lost probes than this are felt.
const LOSSY: f32 = 5.0;

/// Every check of the mesh.
pub(super) fn look(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !snapshot.members.is_empty() {
        findings.push(members(snapshot));
        findings.push(address(snapshot));
        findings.extend(paths(snapshot));
    }
    findings.extend(snapshot.problems.iter().map(|problem| match problem.severity {
        Severity::Error => Finding::fail("agent", problem.what.clone(), problem.fix.clone()),
        Severity::Warning => Finding::warn("agent", problem.what.clone(), problem.fix.clone()),
    }));
    findings
}

fn members(snapshot: &Snapshot) -> Finding {
    let others: Vec<_> = snapshot.members.iter().filter(|member| member.id != snapshot.node.id).collect();
    let name = |name: &str, short: String| if name.is_empty() { short } else { name.to_owned() };
    let gone: Vec<String> = others
        .iter()
        .filter(|member| !member.live)
        .map(|member| name(&member.name, member.id.short()))
        .collect();
    if others.is_empty() {
        return Finding::warn(
            "members",
            "nobody else was ever seen",
            "are the others up, with the same token? On another LAN they need --peer or c3os.discovery.bootstrap",
        );
    }
    if gone.is_empty() {
        return Finding::ok("members", format!("{} others, all live", others.len()));
    }
    Finding::warn(
        "members",
        format!("{} of {} others cannot be reached: {}", gone.len(), others.len(), gone.join(", ")),
        "are they up and on the network? `c3os doctor` there tells more",
    )
}

fn address(snapshot: &Snapshot) -> Finding {
    match snapshot.node.ipv4 {
        Some(address) => Finding::ok("address", address.to_string()),
        None => Finding::warn("address", "none on the mesh yet", "`c3os wait address` waits for it"),
    }
}

fn paths(snapshot: &Snapshot) -> Vec<Finding> {
    let direct = snapshot.peers.iter().filter(|path| path.kind == PathKind::Direct).count();
    let mut findings = Vec::new();
    if direct > 0 {
        findings.push(Finding::ok("paths", format!("{direct} of {} direct", snapshot.peers.len())));
    }
    for path in &snapshot.peers {
        let name = if path.name.is_empty() { path.id.short() } else { path.name.clone() };
        let lossy = path.loss_percent.filter(|loss| *loss > LOSSY);
        let live = snapshot.members.iter().any(|member| member.id == path.id && member.live);
        match (path.kind, lossy) {
            (PathKind::Direct | PathKind::Stream | PathKind::Relayed, Some(loss)) => findings.push(Finding::warn(
                "paths",
                format!("{loss:.0} % of the probes to {name} are lost"),
                "look at the cable, the Wi-Fi or the uplink between the two",
            )),
            (PathKind::Stream, None) => findings.push(Finding::warn(
                "paths",
                format!("UDP to {name} does not pass: packets go through the mesh's own connection, which is slower"),
                "open UDP (c3os.vpn.port, 51900 to 51903) between the two",
            )),
            (PathKind::Relayed, None) => findings.push(Finding::warn(
                "paths",
                format!("packets to {name} go by way of others"),
                "open UDP (c3os.vpn.port, 51900) on one of the two sides",
            )),
            // Paths are made when there is something to send; ping makes one.
            (PathKind::None, _) if live => findings.push(Finding::warn(
                "paths",
                format!("no path to {name}: nothing was sent yet, or UDP is blocked"),
                format!("c3os ping {name}; if that fails, open UDP (c3os.vpn.port, 51900) between the two"),
            )),
            (PathKind::None | PathKind::Direct, _) => {}
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::doctor::Verdict,
        identity::NodeId,
        node::snapshot::{Member, Path},
    };

    #[test]
    fn who_is_gone_and_who_is_far_is_named() {
        let node = Snapshot::empty().node;
        let shelf =
            Member { id: NodeId::from_bytes([1; 32]), name: "shelf".into(), live: false, ..node.clone() };
        let path = Path {
            id: NodeId::from_bytes([2; 32]),
            name: "attic".into(),
            kind: PathKind::Relayed,
            endpoint: None,
            rtt_us: None,
            loss_percent: None,
            handshake_age_s: None,
            sent_bytes: 0,
            received_bytes: 0,
        };
        let members = vec![node.clone(), shelf];
        let findings = look(&Snapshot { members, peers: vec![path], ..Snapshot::empty() });
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Warn), "{findings:?}");
        assert!(findings[0].what.contains("shelf") && findings[2].what.contains("attic"), "{findings:?}");
    }
}
