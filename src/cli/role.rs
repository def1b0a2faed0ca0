//! `c3os role`: who is server, who is worker.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{
    ask::{Api, block_on, member, node},
    output::{Output, on_terminal, plain, table},
    status,
};
use crate::{
    config::NetworkId,
    election::Role,
    node::snapshot::{Member, RoleOf, Snapshot},
};

/// Lists, shows and changes roles.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lists the machines of a cluster with their roles; on a pipe in the original's form, those that are live.
    List {
        #[command(flatten)]
        api: Api,
        /// Only the machines of this cluster of the mesh.
        #[arg(long, env = "C3OS_NETWORK_ID", value_name = "ID")]
        network_id: Option<NetworkId>,
        #[command(flatten)]
        output: Output,
    },
    /// Prints the role of a machine.
    Get {
        /// Its id, name, uuid or address; without one, this machine.
        #[arg(value_parser = node)]
        node: Option<String>,
        #[command(flatten)]
        api: Api,
        #[command(flatten)]
        output: Output,
    },
    /// Gives a machine another role; returns when that stands.
    Set {
        /// Its id, name, uuid or address.
        #[arg(value_parser = node)]
        node: String,
        /// `master` or `worker`.
        role: Role,
        #[command(flatten)]
        api: Api,
        /// Accepted from the original's command line; a machine is in one cluster only.
        #[arg(long, hide = true, env = "C3OS_NETWORK_ID")]
        network_id: Option<NetworkId>,
    },
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::List { api, network_id, output } => {
            let snapshot = api.status()?;
            let candidates: Vec<&Member> = snapshot
                .members
                .iter()
                .filter(|member| !member.observer)
                .filter(|member| network_id.as_ref().is_none_or(|id| *id == member.network_id))
                .collect();
            let data: Vec<_> = candidates.iter().map(|member| RoleOf::from(*member)).collect();
            output.print(&data, || {
                if on_terminal() { people(&candidates, &snapshot) } else { original(&candidates) }
            })?;
        }
        What::Get { node, api, output } => {
            let snapshot = api.status()?;
            let of = match &node {
                Some(text) => member(&snapshot, text)?,
                None => &snapshot.node,
            };
            let Some(role) = of.role else {
                anyhow::bail!("no role yet: {}", plain(&snapshot.cluster.message));
            };
            output.print(&RoleOf::from(of), || format!("{role}\n"))?;
        }
        What::Set { node, role, api, network_id: _ } => {
            let client = api.client()?;
            block_on(client.set_role(&node, role))??;
            if on_terminal() {
                writeln!(
                    io::stderr(),
                    "{node} is {role} from now on; `c3os status` shows when it is applied"
                )?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The original's lines: those that it had heard of lately.
fn original(members: &[&Member]) -> String {
    let lines = members.iter().filter(|member| member.live).map(|member| {
        let role = member.role.map(|role| role.to_string()).unwrap_or_default();
        format!("{}\t{role}\n", plain(&member.uuid))
    });
    std::iter::once("Node\tRole\n".to_owned()).chain(lines).collect()
}

fn people(members: &[&Member], snapshot: &Snapshot) -> String {
    let rows: Vec<[String; 5]> = members
        .iter()
        .map(|member| {
            [
                status::name(member, &snapshot.members),
                member.role.map_or_else(|| "-".to_owned(), |role| role.to_string()),
                member.ipv4.map_or_else(|| "-".to_owned(), |address| address.to_string()),
                if member.live { "yes" } else { "no" }.to_owned(),
                member.network_id.to_string(),
            ]
        })
        .collect();
    table([("NAME", 26), ("ROLE", 6), ("ADDRESS", 15), ("LIVE", 4), ("CLUSTER", 20)], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::snapshot::Snapshot;

    #[test]
    fn scripts_get_the_lines_they_know() {
        let node = Member { uuid: "0123-shelf".to_owned(), live: true, ..Snapshot::empty().node };
        let server = Member { role: Some(Role::Server), ..node.clone() };
        let gone = Member { live: false, ..server.clone() };
        assert_eq!(original(&[&server, &gone, &node]), "Node\tRole\n0123-shelf\tmaster\n0123-shelf\t\n");
    }
}
