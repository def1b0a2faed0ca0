//! `c3os rotate`: a new network token for everybody, while everything goes on.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use super::{
    ask::{Api, block_on},
    node,
};
use crate::node::snapshot::{Phase, Snapshot};

/// Replaces the network token on all machines. Connections, addresses and workloads go on; machines that are off fetch
/// the new token when they come back, within 90 days.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    api: Api,
    /// Wait until all machines that are on use the new token, for so many seconds at most.
    #[arg(long, env = "C3OS_WAIT", value_name = "SECONDS")]
    wait: Option<u64>,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.api.client()?;
    let before = block_on(client.status())??.rotation.map_or(0, |rotation| rotation.number);
    node::tell(&block_on(client.rotate())??)?;
    let Some(seconds) = args.wait else { return Ok(ExitCode::SUCCESS) };
    block_on(async {
        #[expect(clippy::disallowed_methods, reason = "how long a person waits")]
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            let snapshot = client.status().await?;
            if snapshot.rotation.as_ref().is_some_and(|one| one.number > before && one.phase == Phase::Done) {
                return Ok(ExitCode::SUCCESS);
            }
            #[expect(clippy::disallowed_methods, reason = "how long a person waits")]
            if Instant::now() >= end {
                anyhow::bail!(
                    "not done after {seconds} s; it goes on by itself and waits for {}",
                    waits(&snapshot)
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })?
}

/// Those who keep it from going on, by name.
fn waits(snapshot: &Snapshot) -> String {
    let ids = snapshot.rotation.iter().flat_map(|rotation| &rotation.waits_for);
    let names: Vec<String> = ids
        .map(|id| {
            let member = snapshot.members.iter().find(|member| member.id == *id);
            member.map_or_else(|| id.to_string(), |member| member.name.clone())
        })
        .collect();
    if names.is_empty() { "the lead".to_owned() } else { names.join(", ") }
}
