//! Leaving a cluster: cluster and role are forgotten, who this machine is stays.

use std::path::PathBuf;

use super::{HostError, Root, Services, apply::take_away, read_applied};
use crate::election::Role;

/// What a machine knows of its cluster. `certificate` comes first: without it nothing here claims a cluster any more.
const OF_THE_CLUSTER: [&str; 6] = ["certificate", "applied", "deployed", "pending", "lease", "ledger/log"];
/// What makes it the member it is.
const OF_THE_MEMBER: [&str; 4] = ["identity", "mark", "fingerprint", "name"];
/// Where k3s keeps what makes a machine the server of one cluster.
const K3S_SERVER: &str = "/var/lib/rancher/k3s/server";

/// Stops k3s, takes its files and all state of the cluster away, and gives what was set aside. With `new_identity` the
/// machine is a new member afterwards. It may end after any step and be done again from the start.
///
/// # Errors
/// [`HostError`] if the disk or the service manager does not do its part.
pub fn reset(root: &Root, services: &dyn Services, new_identity: bool) -> Result<Vec<PathBuf>, HostError> {
    take_away(root, services)?;
    let mut aside = Vec::new();
    // A server that starts with the datastore of another cluster, or with none, is worse than one that does not.
    let server = root.path(K3S_SERVER);
    if server.exists() {
        aside.push(root.set_aside(&server, "reset")?);
    }
    for name in OF_THE_CLUSTER {
        root.remove(&root.state(name))?;
    }
    if new_identity {
        for name in OF_THE_MEMBER {
            let path = root.state(name);
            if path.exists() {
                aside.push(root.set_aside(&path, "reset")?);
            }
        }
    }
    Ok(aside)
}

/// Why this machine must not be reset as it is, in words; none: it may.
///
/// # Errors
/// [`HostError::File`] if it cannot be told.
pub fn reset_objection(root: &Root, new_identity: bool) -> Result<Option<String>, HostError> {
    let applied = match read_applied(root) {
        Err(HostError::Damaged { .. }) => None,
        other => other?,
    };
    let server = applied.filter(|applied| applied.role == Role::Server && !new_identity);
    Ok(server.map(|applied| {
        format!(
            "this machine is a server of cluster {}: with the same identity it would come back as that server, with \
             nothing in it. `--new-identity` makes it a new member; what only it held is lost to the cluster",
            applied.cluster_id
        )
    }))
}
