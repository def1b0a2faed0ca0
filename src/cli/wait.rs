//! `c3os wait`: for units and scripts that come after the mesh.

use std::{process::ExitCode, time::Duration};

use super::ask::{Api, block_on};
use crate::{
    api::{Client, ClientError},
    node::snapshot::Snapshot,
};

/// How often the agent is asked.
const PACE: Duration = Duration::from_millis(500);

/// Returns when this machine is so far, and starts waiting even before the agent answers.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// For what.
    #[arg(value_enum)]
    what: What,
    /// Give up after so many seconds, and fail; without it, never.
    #[arg(long, env = "C3OS_TIMEOUT", value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(flatten)]
    api: Api,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// This machine has its address on the mesh.
    Address,
    /// The cluster gave this machine a role, and it is applied.
    Role,
    /// k3s runs in that role.
    K3s,
}

impl What {
    /// None: it is there. Else what is missing.
    fn missing(self, snapshot: &Snapshot) -> Option<String> {
        let role = &snapshot.role;
        let unapplied = (!role.in_place).then(|| match (role.assigned, &role.message) {
            (Some(assigned), Some(message)) => format!("the role {assigned} to be applied: {message}"),
            (Some(assigned), None) => format!("the role {assigned} to be applied"),
            (None, _) => format!("a role: {}", snapshot.cluster.message),
        });
        match self {
            Self::Address => snapshot
                .node
                .ipv4
                .is_none()
                .then(|| format!("an address on the mesh: {}", snapshot.cluster.message)),
            Self::Role => unapplied,
            Self::K3s => unapplied.or_else(|| {
                let state = role.unit_state.as_deref().unwrap_or("unknown");
                let unit = role.unit.as_deref().unwrap_or("k3s");
                (state != "active").then(|| format!("{unit} to run; it is {state}"))
            }),
        }
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut missing = "an answer of the agent".to_owned();
    let there = until_there(&args, &mut missing);
    let outcome = block_on(async {
        match args.timeout {
            Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), there).await.ok(),
            None => Some(there.await),
        }
    })?;
    match outcome {
        Some(ended) => {
            ended?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let seconds = args.timeout.unwrap_or_default();
            anyhow::bail!("after {seconds} s still waiting for {missing}; `c3os status` shows more")
        }
    }
}

/// `missing` always says what is waited for.
async fn until_there(args: &Args, missing: &mut String) -> Result<(), ClientError> {
    loop {
        // Found anew each time: the socket may come while we wait.
        match look(args.api.client()?).await {
            Ok(snapshot) => match args.what.missing(&snapshot) {
                Some(still) => *missing = still,
                None => return Ok(()),
            },
            Err(error @ ClientError::Address(_)) => return Err(error),
            // Before the agent is up something else may answer at its usual port, in its own way.
            Err(
                error @ (ClientError::NotRunning { .. }
                | ClientError::Answer { .. }
                | ClientError::Refused(_)),
            ) => *missing = format!("the agent: {error}"),
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn look(client: Client) -> Result<Snapshot, ClientError> {
    client.status().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{election::Role, node::snapshot::RoleState};

    #[test]
    fn each_step_is_waited_for_in_its_turn() {
        let mut snapshot = Snapshot::empty();
        assert!(What::Address.missing(&snapshot).unwrap().contains("no mesh yet"));
        snapshot.node.ipv4 = Some([10, 1, 0, 7].into());
        assert_eq!(What::Address.missing(&snapshot), None);
        assert!(What::Role.missing(&snapshot).unwrap().starts_with("a role"));
        snapshot.role = RoleState {
            assigned: Some(Role::Server),
            // As an earlier run left it: a boot may have emptied what it wrote.
            applied: Some(Role::Server),
            unit: Some("k3s".to_owned()),
            unit_state: Some("activating".to_owned()),
            ..RoleState::default()
        };
        assert!(What::Role.missing(&snapshot).unwrap().contains("master"));
        snapshot.role.in_place = true;
        assert_eq!(What::Role.missing(&snapshot), None);
        assert_eq!(What::K3s.missing(&snapshot).unwrap(), "k3s to run; it is activating");
        snapshot.role.unit_state = Some("active".to_owned());
        assert_eq!(What::K3s.missing(&snapshot), None);
    }
}
