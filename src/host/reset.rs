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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        election::ClusterId,
        host::{self, load_identity, read_mark, state, write_mark},
        identity::NodeId,
        k3s::Applied,
    };

    fn machine(role: Role) -> (tempfile::TempDir, Root, NodeId) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        let id = load_identity(&root, &zeroize::Zeroizing::new([1; 32])).unwrap().identity.id();
        write_mark(&root, id, 41).unwrap();
        state::write_certificate(&root, b"certificate").unwrap();
        let applied = Applied {
            role,
            cluster_id: ClusterId::from_bytes([7; 16]),
            epoch: 1,
            name: "n1".to_owned(),
            address: [10, 1, 0, 1].into(),
            server: None,
        };
        state::write(&root, "applied", &applied).unwrap();
        host::LedgerFile::open(&root).unwrap().0.append(b"entries", true).unwrap();
        fs::create_dir_all(root.path("/var/lib/rancher/k3s/server/db")).unwrap();
        (directory, root, id)
    }

    fn id(root: &Root) -> NodeId {
        load_identity(root, &zeroize::Zeroizing::new([2; 32])).unwrap().identity.id()
    }

    #[test]
    fn the_cluster_is_forgotten_and_the_machine_stays_who_it_is() {
        let (_directory, root, before) = machine(Role::Worker);
        assert_eq!(reset_objection(&root, false).unwrap(), None);
        let aside = reset(&root, &*host::detect(&root), false).unwrap();
        assert_eq!(aside, [root.path("/var/lib/rancher/k3s/server.reset-1")]);
        assert!(read_applied(&root).unwrap().is_none() && state::read_certificate(&root).unwrap().is_none());
        assert!(!root.state("ledger/log").exists());
        assert_eq!((id(&root), read_mark(&root, before).unwrap()), (before, 41));
        assert!(reset(&root, &*host::detect(&root), false).unwrap().is_empty(), "again changes nothing");
    }

    #[test]
    fn a_new_identity_is_another_member_and_the_old_one_is_kept_aside() {
        let (_directory, root, before) = machine(Role::Server);
        let objection = reset_objection(&root, false).unwrap().unwrap();
        assert!(objection.contains("--new-identity"), "{objection}");
        assert_eq!(reset_objection(&root, true).unwrap(), None);
        reset(&root, &*host::detect(&root), true).unwrap();
        assert!(root.state("identity.reset-1").exists());
        assert_ne!(id(&root), before);
        assert_eq!(read_mark(&root, before).unwrap(), 0);
    }

    #[test]
    fn a_power_cut_at_any_step_is_taken_up_again() {
        for cut in 0..20 {
            let (_directory, root, before) = machine(Role::Worker);
            root.faults.fail_after(cut);
            let first = reset(&root, &*host::detect(&root), false);
            root.faults.heal();
            reset(&root, &*host::detect(&root), false).unwrap();
            assert!(read_applied(&root).unwrap().is_none(), "cut {cut}");
            assert!(state::read_certificate(&root).unwrap().is_none(), "cut {cut}");
            assert_eq!(id(&root), before);
            if first.is_ok() {
                return;
            }
        }
        panic!("it never got through");
    }
}
