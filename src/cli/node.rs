//! `c3os node`: who is a member, and who is no longer.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{
    ask::{Api, block_on, node},
    output::{Output, table},
    status,
};
use crate::node::snapshot::{Member, Snapshot};

/// Lists the machines of the mesh, and takes machines out of it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lists all members, those that are away and bridges included, and who is banned.
    List {
        #[command(flatten)]
        api: Api,
        #[command(flatten)]
        output: Output,
    },
    /// Forgets a machine that is gone: its role, address and secrets, and its node in Kubernetes. Switched on again, it
    /// joins as a new one.
    Remove {
        /// Its id, name, uuid or address.
        #[arg(value_parser = node)]
        node: String,
        #[command(flatten)]
        api: Api,
    },
    /// Never lets a machine in again, and replaces everything that it knows on all others: the network token and the
    /// agents' token. There is no way back but a new identity with the new token.
    Ban {
        /// Its id, name, uuid or address.
        #[arg(value_parser = node)]
        node: String,
        /// Replace nothing: with what it knows, the machine gets in again under another identity.
        #[arg(long, env = "C3OS_KEEP_TOKEN")]
        keep_token: bool,
        #[command(flatten)]
        api: Api,
    },
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::List { api, output } => {
            let snapshot = api.status()?;
            let data = serde_json::json!({ "members": snapshot.members, "banned": snapshot.banned });
            output.print(&data, || people(&snapshot))?;
        }
        What::Remove { node, api } => {
            let client = api.client()?;
            tell(&block_on(client.remove_node(&node))??)?;
        }
        What::Ban { node, keep_token, api } => {
            let client = api.client()?;
            tell(&block_on(client.ban_node(&node, keep_token))??)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Sentences are for people.
pub(super) fn tell(said: &[String]) -> io::Result<()> {
    let mut stderr = io::stderr();
    said.iter().try_for_each(|sentence| writeln!(stderr, "{sentence}"))
}

fn people(snapshot: &Snapshot) -> String {
    let row = |member: &Member| {
        let role = member.role.map(|role| role.to_string());
        [
            status::name(member, &snapshot.members),
            role.unwrap_or_else(|| if member.observer { "observer" } else { "-" }.to_owned()),
            member.ipv4.map_or_else(|| "-".to_owned(), |address| address.to_string()),
            if member.live { "yes" } else { "no" }.to_owned(),
            member.id.to_string(),
        ]
    };
    let rows: Vec<_> = snapshot.members.iter().map(row).collect();
    let mut text = table([("NAME", 26), ("ROLE", 8), ("ADDRESS", 15), ("LIVE", 4), ("ID", 60)], &rows);
    for banned in &snapshot.banned {
        text += &format!("banned: {banned}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeId;

    #[test]
    fn the_banned_are_listed_by_the_id_that_never_comes_back() {
        let node = Member { name: "shelf".to_owned(), live: true, ..Snapshot::empty().node };
        let banned = NodeId::from_bytes([7; 32]);
        let text = people(&Snapshot { members: vec![node], banned: vec![banned], ..Snapshot::empty() });
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("shelf") && lines[1].contains("observer"), "{text}");
        assert_eq!(lines[2], format!("banned: {banned}"));
    }
}
