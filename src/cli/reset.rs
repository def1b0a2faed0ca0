//! `c3os reset`: this machine leaves its cluster, and joins again as if it had just been installed.

use std::{path::PathBuf, process::ExitCode};

use super::ask::{Api, block_on};
use crate::{
    api::ClientError,
    host::{self, Root},
};

/// Forgets cluster and role: k3s is stopped, its files are removed, a server's data is set aside. The identity stays,
/// so the same node comes back; nothing of other machines changes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    api: Api,
    /// Come back as a new member, with another id and address.
    #[arg(long, env = "C3OS_NEW_IDENTITY")]
    new_identity: bool,
    /// Do it. Without this it only says what would be done.
    #[arg(long, env = "C3OS_YES")]
    yes: bool,
    /// Directory that stands for the machine's `/`.
    #[arg(long, hide = true, default_value = "/", env = "C3OS_ROOT")]
    root: PathBuf,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let root = Root::at(args.root);
    if !args.yes {
        anyhow::bail!(
            "this would stop k3s on this machine, remove its files and forget cluster and role{}; with --yes it is done",
            if args.new_identity { ", and make it a new member" } else { "" }
        );
    }
    let client = args.api.client()?;
    match block_on(client.reset(args.new_identity))? {
        Ok(()) => {
            eprintln!("This machine leaves its cluster and joins again; `c3os status` shows how far it is");
            Ok(ExitCode::SUCCESS)
        }
        Err(ClientError::NotRunning { .. }) => without_agent(&root, args.new_identity),
        Err(error) => Err(error.into()),
    }
}

/// The agent is off: nobody else touches the state.
fn without_agent(root: &Root, new_identity: bool) -> anyhow::Result<ExitCode> {
    if let Some(objection) = host::reset_objection(root, new_identity)? {
        anyhow::bail!(objection);
    }
    let services = host::detect(root);
    for path in host::reset(root, &*services, new_identity)? {
        eprintln!("Kept aside: {}", path.display());
    }
    eprintln!("This machine has left its cluster; it joins again when the agent starts");
    Ok(ExitCode::SUCCESS)
}
