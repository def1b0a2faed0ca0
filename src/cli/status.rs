//! `c3os status`: who am I, who is there, and what is wrong.

use std::process::ExitCode;

use super::{
    ask::Api,
    output::{Output, Tone, coloured, plain, table},
};
use crate::node::snapshot::{Member, RoleState, Severity, Snapshot};

/// Shows this machine, its cluster, who else is there, and what is wrong.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    api: Api,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let snapshot = args.api.status()?;
    args.output.print(&snapshot, || text(&snapshot))?;
    Ok(ExitCode::SUCCESS)
}

fn text(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let node = &snapshot.node;
    if snapshot.members.is_empty() {
        text += &format!("{}\n", plain(&snapshot.cluster.message));
    } else {
        let address = node.ipv4.map_or_else(|| "no address yet".to_owned(), |address| address.to_string());
        text += &format!("{}  {address}\nid       {}\n", name(node, &snapshot.members), node.id);
        text += &format!("cluster  {}: {}\n", snapshot.cluster.network_id, plain(&snapshot.cluster.message));
        text += &format!("role     {}\n", role(&snapshot.role, node.observer));
        let live = snapshot.members.iter().filter(|member| member.live).count();
        text += &format!("\n{} known, {live} live\n{}", snapshot.members.len(), members(&snapshot.members));
    }
    for problem in &snapshot.problems {
        let severity = match problem.severity {
            Severity::Error => coloured("error", Tone::Bad),
            Severity::Warning => coloured("warning", Tone::Doubtful),
        };
        text += &format!("\n{severity}: {}\n  fix: {}\n", plain(&problem.what), plain(&problem.fix));
    }
    text
}

/// Desired, then observed.
fn role(role: &RoleState, observer: bool) -> String {
    let unit = match (&role.unit, &role.unit_state) {
        (Some(unit), Some(state)) => format!("; {} is {}", plain(unit), plain(state)),
        (Some(_), None) | (None, _) => String::new(),
    };
    let sentence = match (role.assigned, role.applied) {
        (None, None) if observer => "none: on the mesh only".to_owned(),
        (None, None) => "none yet".to_owned(),
        (Some(assigned), _) if role.in_place => format!("{assigned}, applied{unit}"),
        (Some(assigned), Some(applied)) if assigned != applied => {
            format!("{assigned}, not applied yet; applied is {applied}{unit}")
        }
        (Some(assigned), None) => format!("{assigned}, not applied yet; applied is nothing{unit}"),
        (_, Some(applied)) => format!("{applied}, as applied before{unit}"),
    };
    match &role.message {
        Some(message) => format!("{sentence}\n         {}", plain(message)),
        None => sentence,
    }
}

/// At most 80 columns.
fn members(members: &[Member]) -> String {
    let rows: Vec<[String; 6]> = members
        .iter()
        .map(|member| {
            let role = match (member.role, member.observer) {
                (Some(role), _) => role.to_string(),
                (None, true) => "none".to_owned(),
                (None, false) => "-".to_owned(),
            };
            [
                name(member, members),
                role,
                member.ipv4.map_or_else(|| "-".to_owned(), |address| address.to_string()),
                if member.live { "yes" } else { "no" }.to_owned(),
                member.unit.clone().unwrap_or_else(|| "-".to_owned()),
                member.version.clone(),
            ]
        })
        .collect();
    table([("NAME", 26), ("ROLE", 6), ("ADDRESS", 15), ("LIVE", 4), ("K3S", 10), ("VERSION", 9)], &rows)
}

/// The name, told apart by the end of the id where it is not enough.
pub(super) fn name(member: &Member, members: &[Member]) -> String {
    let name = plain(&member.name);
    if name.is_empty() {
        return member.id.short();
    }
    if members.iter().filter(|other| other.name == member.name).count() > 1 {
        let start: String = name.chars().take(17).collect();
        return format!("{start}/{}", member.id.short());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{election::Role, identity::NodeId, node::snapshot::Problem};

    fn member(byte: u8, name: &str) -> Member {
        Member {
            id: NodeId::from_bytes([byte; 32]),
            name: name.to_owned(),
            live: true,
            observer: false,
            role: Some(Role::Worker),
            ipv4: Some([10, 1, 200, 200].into()),
            unit: Some("activating".to_owned()),
            ..Snapshot::empty().node
        }
    }

    fn snapshot() -> Snapshot {
        let members = vec![
            member(1, &"a-very-long-host-name".repeat(3)),
            member(2, "pi"),
            member(3, "pi"),
            member(4, ""),
        ];
        Snapshot { node: members[1].clone(), members, ..Snapshot::empty() }
    }

    #[test]
    fn the_table_of_members_fits_eighty_columns_and_tells_namesakes_apart() {
        let text = text(&snapshot());
        let table: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("NAME")).collect();
        assert_eq!(table.len(), 5, "{text}");
        assert!(table.iter().all(|line| line.chars().count() <= 80), "{text}");
        assert_ne!(table[2], table[3]);
    }

    #[test]
    fn problems_come_with_their_fix() {
        let problem = Problem { severity: Severity::Error, what: "no disk".into(), fix: "buy one".into() };
        let text = text(&Snapshot { problems: vec![problem], ..snapshot() });
        assert!(text.ends_with("\nerror: no disk\n  fix: buy one\n"), "{text}");
    }

    #[test]
    fn a_role_that_is_not_applied_is_not_called_applied() {
        let state = RoleState {
            assigned: Some(Role::Server),
            message: Some("k3s is not installed".to_owned()),
            ..RoleState::default()
        };
        assert_eq!(
            role(&state, false),
            "master, not applied yet; applied is nothing\n         k3s is not installed"
        );
        let kept = RoleState { applied: Some(Role::Server), message: None, ..state };
        assert_eq!(role(&kept, false), "master, as applied before");
    }
}
