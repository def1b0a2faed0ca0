//! `c3os create-config`: a whole config.yaml for a new mesh.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::generate_token::new_token;
use crate::{config, election::ClusterId};

/// Prints a config.yaml with a new token, the same file for every machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many machines there will be; a majority of them then has to agree before a cluster is founded.
    #[arg(long, value_name = "N", env = "C3OS_NODES", value_parser = clap::value_parser!(u16).range(1..))]
    nodes: Option<u16>,
    /// The machines join this cluster and never found one.
    #[arg(long, value_name = "CLUSTER_ID", env = "C3OS_JOIN")]
    join: Option<ClusterId>,
    /// A peer that every machine dials first, as a multiaddress; may be given more than once.
    #[arg(long = "peer", value_name = "ADDR", env = "C3OS_PEER", value_delimiter = ',')]
    peers: Vec<String>,
    /// Accepted from the original's command line; it has no effect.
    #[arg(hide = true)]
    interval: Option<String>,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let token = new_token(args.peers)?.encode();
    let join = args.join.map(|id| id.to_string());
    io::stdout().write_all(config::create_config(&token, args.nodes, join.as_deref()).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
