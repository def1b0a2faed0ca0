//! k3s' password of this node: made by k3s at its first start in `/etc/rancher/node`, and asked for by the servers ever
//! after, so that nobody else takes the node's name ("Node password rejected"). `/etc` may be volatile, so it is kept
//! with our own state, where `/etc/rancher/node` leads.

use std::path::PathBuf;

use super::{HostError, Root};

/// Where k3s looks for it.
const PLACE: &str = "/etc/rancher/node";
/// Our name for it.
const KEPT: &str = "node-password";

/// Has k3s keep its password of this node over boots. A directory that is there already, or that somebody else's link
/// leads to, stays: it is kept by other means.
///
/// # Errors
/// [`HostError::File`].
pub(super) fn keep(root: &Root) -> Result<(), HostError> {
    let place = root.path(PLACE);
    if place.is_dir() {
        return Ok(());
    }
    root.make_dir(&root.state(KEPT), 0o700)?;
    root.link(&place, &root.state_on_machine(KEPT)).map(drop)
}

/// Every place where it may be.
pub(super) fn places(root: &Root) -> [PathBuf; 2] {
    [root.state(KEPT), root.path(PLACE)]
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn it_outlives_an_etc_that_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        keep(&root).unwrap();
        assert_eq!(fs::read_link(root.path(PLACE)).unwrap(), PathBuf::from("/usr/local/.c3os/node-password"));
        fs::write(root.state(KEPT).join("password"), "secret").unwrap();
        fs::remove_dir_all(root.path("/etc")).unwrap();
        keep(&root).unwrap();
        keep(&root).unwrap();
        assert!(fs::symlink_metadata(root.path(PLACE)).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(root.state(KEPT).join("password")).unwrap(), "secret");
    }

    #[test]
    fn a_password_that_k3s_has_made_before_stays_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        fs::create_dir_all(root.path(PLACE)).unwrap();
        fs::write(root.path(PLACE).join("password"), "older").unwrap();
        keep(&root).unwrap();
        assert_eq!(fs::read_to_string(root.path(PLACE).join("password")).unwrap(), "older");
        assert!(!root.state(KEPT).exists());
    }

    #[test]
    fn somebody_elses_link_stays() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        let theirs = root.path("/persistent/node");
        fs::create_dir_all(&theirs).unwrap();
        fs::create_dir_all(root.path("/etc/rancher")).unwrap();
        symlink(&theirs, root.path(PLACE)).unwrap();
        keep(&root).unwrap();
        assert_eq!(fs::read_link(root.path(PLACE)).unwrap(), theirs);
    }
}
