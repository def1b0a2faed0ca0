//! `c3os cluster`: which cluster this machine belongs to, and what an operator decides about that.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{
    ask::{Api, block_on},
    output::{Output, plain},
    status,
};
use crate::{
    config::NetworkId,
    election::ClusterId,
    identity::NodeId,
    node::snapshot::{Cluster, Snapshot},
};

/// Shows this machine's cluster, has it join another one, or found one in a lost one's place.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Shows the cluster: its id, who founded and who leads it, its servers, and other clusters of the same network id.
    Show {
        #[command(flatten)]
        api: Api,
        /// Fails unless the cluster of this machine is that of this network id.
        #[arg(long, env = "C3OS_NETWORK_ID", value_name = "ID")]
        network_id: Option<NetworkId>,
        #[command(flatten)]
        output: Output,
    },
    /// Has this machine leave its cluster for another one of the same network id. A server goes only while its cluster
    /// runs no workload. What k3s kept is set aside under the old cluster's id, never removed.
    Join {
        /// The id that `c3os cluster show` prints.
        cluster: ClusterId,
        #[command(flatten)]
        api: Api,
    },
    /// Founds a cluster in the place of this machine's, whose servers are all lost. The others of the old cluster vote
    /// for it once none of its servers was heard for ten minutes.
    Refound {
        /// The old cluster's state does not come back: say that you know.
        #[arg(long, required = true)]
        yes_lose_the_old_one: bool,
        #[command(flatten)]
        api: Api,
    },
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Show { api, network_id, output } => {
            let snapshot = api.status()?;
            let own = &snapshot.cluster.network_id;
            if let Some(wanted) = network_id.filter(|wanted| wanted != own) {
                anyhow::bail!("this machine is of network id {own}, not {wanted}; ask a machine of that one");
            }
            output.print(&snapshot.cluster, || text(&snapshot))?;
        }
        What::Join { cluster, api } => {
            let client = api.client()?;
            block_on(client.join_cluster(cluster))??;
            writeln!(
                io::stderr(),
                "this machine goes to cluster {cluster}; `c3os status` shows how far it is"
            )?;
        }
        What::Refound { yes_lose_the_old_one: _, api } => {
            let client = api.client()?;
            block_on(client.refound())??;
            writeln!(
                io::stderr(),
                "taken down; a new cluster is founded once no server of the old one was heard for ten minutes and enough \
                 machines agree. `c3os cluster show` says what it waits for"
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(snapshot: &Snapshot) -> String {
    let Cluster { network_id, message, id, generation, founder, lead, epoch, servers, .. } =
        &snapshot.cluster;
    let name = |id: &NodeId| {
        let member = snapshot.members.iter().find(|member| member.id == *id);
        member.map_or_else(|| id.short(), |member| status::name(member, &snapshot.members))
    };
    let mut text = format!("network  {network_id}\nstate    {}\n", plain(message));
    if let Some(id) = id {
        text += &format!("cluster  {id}, generation {}\n", generation.unwrap_or(1));
    }
    if let (Some(founder), Some(lead)) = (founder, lead) {
        let epoch = epoch.unwrap_or(1);
        text += &format!("founder  {}\nlead     {}, epoch {epoch}\n", name(founder), name(lead));
    }
    if !servers.is_empty() {
        let names: Vec<String> = servers.iter().map(name).collect();
        let wanted = usize::from(snapshot.cluster.servers_wanted.unwrap_or(1));
        let additional = wanted.saturating_sub(1);
        text += &format!(
            "servers  {} of {wanted} (the founder and {additional} more): {}\n",
            names.len(),
            names.join(", ")
        );
    }
    for conflict in &snapshot.cluster.conflicts {
        text += &format!("conflict {}\n", plain(conflict));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_numbers_of_servers_are_shown_and_every_conflict() {
        let node = Snapshot::empty().node.id;
        let cluster = Cluster {
            id: Some("a".repeat(32)),
            founder: Some(node),
            lead: Some(node),
            servers: vec![node],
            servers_wanted: Some(3),
            conflicts: vec!["cluster b founded by x".to_owned()],
            ..Snapshot::empty().cluster
        };
        let text = text(&Snapshot { cluster, ..Snapshot::empty() });
        assert!(text.contains("servers  1 of 3 (the founder and 2 more)"), "{text}");
        assert!(text.ends_with("conflict cluster b founded by x\n"), "{text}");
    }
}
