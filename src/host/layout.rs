//! What an immutable system keeps over boots: `/run/cos/cos-layout.env`, which the stage `rootfs` leaves for the
//! initramfs (elemental's immutable-rootfs, Kairos' immucore) to mount by. k3s' state has to be among it. Elemental since
//! 1.3 reads `/run/elemental/mount-layout.env` after it.

use super::{HostError, Root};

/// In the order in which they are read.
const LAYOUTS: [&str; 2] = ["/run/cos/cos-layout.env", "/run/elemental/mount-layout.env"];
/// Directories that are kept, with spaces in between.
const KEPT: &str = "PERSISTENT_STATE_PATHS";
/// What elemental keeps where nothing is said (`NewMountSpec` of its pkg/config); a list that is said replaces it.
/// Kairos always says one.
const OF_ELEMENTAL: &str = "/etc/systemd /etc/ssh /home /opt /root /var/log";
/// Where k3s has its cluster.
pub const K3S_CLUSTER: &str = "/var/lib/rancher";
/// That, and where the kubelet has its pods.
const OF_K3S: [&str; 2] = [K3S_CLUSTER, "/var/lib/kubelet"];

/// Has the initramfs keep k3s' state, where it takes its layout from such a file; whether something changed.
///
/// # Errors
/// [`HostError::File`].
pub fn keep_k3s_state(root: &Root) -> Result<bool, HostError> {
    let mut found = Vec::new();
    for path in LAYOUTS.map(|path| root.path(path)) {
        if let Some(bytes) = root.read(&path)? {
            found.push((path, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    let Some((path, layout)) = found.pop() else { return Ok(false) };
    let before = found.pop().map(|(_, text)| text).unwrap_or_default();
    match with_k3s(&before, &layout) {
        Some(layout) => root.write_if_other(&path, layout.as_bytes(), 0o644),
        None => Ok(false),
    }
}

/// The layout with what is missing in it and in what was read `before`; none if nothing is.
fn with_k3s(before: &str, layout: &str) -> Option<String> {
    let value = |line: &str| {
        let value = line.trim().strip_prefix(KEPT)?.strip_prefix('=')?;
        Some(value.trim_matches(['"', '\'']).to_owned())
    };
    // The last word counts, as for a shell.
    let kept = before
        .lines()
        .chain(layout.lines())
        .filter_map(value)
        .next_back()
        .filter(|kept| !kept.trim().is_empty());
    let kept = kept.unwrap_or_else(|| OF_ELEMENTAL.to_owned());
    let covered = |path: &str| {
        kept.split_whitespace()
            .any(|kept| path.strip_prefix(kept).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    let missing: Vec<&str> = OF_K3S.into_iter().filter(|path| !covered(path)).collect();
    if missing.is_empty() {
        return None;
    }
    let all: Vec<&str> = kept.split_whitespace().chain(missing).collect();
    let others: String =
        layout.lines().filter(|line| value(line).is_none()).map(|line| format!("{line}\n")).collect();
    Some(format!("{others}{KEPT}=\"{}\"\n", all.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_and_the_rest_stays() {
        let layout = "VOLUMES=\"LABEL=COS_OEM:/oem LABEL=COS_PERSISTENT:/usr/local\"\n\
                      PERSISTENT_STATE_PATHS=\"/etc/ssh /var/lib/kubelet\"\nOVERLAY=\"tmpfs:25%\"\n";
        let with = "VOLUMES=\"LABEL=COS_OEM:/oem LABEL=COS_PERSISTENT:/usr/local\"\nOVERLAY=\"tmpfs:25%\"\n\
                    PERSISTENT_STATE_PATHS=\"/etc/ssh /var/lib/kubelet /var/lib/rancher\"\n";
        assert_eq!(with_k3s("", layout).as_deref(), Some(with));
        assert_eq!(with_k3s("", with), None);
    }

    #[test]
    fn a_layout_without_a_list_keeps_what_elemental_keeps_by_itself() {
        let with = "OVERLAY=\"tmpfs:25%\"\nPERSISTENT_STATE_PATHS=\"/etc/systemd /etc/ssh /home /opt /root /var/log \
                    /var/lib/rancher /var/lib/kubelet\"\n";
        for without in ["", "PERSISTENT_STATE_PATHS=\n", "PERSISTENT_STATE_PATHS=\"\"\n"] {
            assert_eq!(with_k3s("", &format!("OVERLAY=\"tmpfs:25%\"\n{without}")).as_deref(), Some(with));
        }
    }

    #[test]
    fn a_directory_above_is_enough_and_one_of_a_like_name_is_not() {
        assert_eq!(with_k3s("", "PERSISTENT_STATE_PATHS=\"/var/lib\"\n"), None);
        assert!(with_k3s("", "PERSISTENT_STATE_PATHS='/var/lib/rancher-data /var/lib/kubelet'\n").is_some());
    }

    #[test]
    fn the_file_that_is_read_last_gets_what_both_say() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        let [first, second] = LAYOUTS.map(|path| root.path(path));
        let list = "PERSISTENT_STATE_PATHS=/home";
        root.write(&first, list.as_bytes(), 0o644).unwrap();
        root.write(&second, b"OVERLAY=tmpfs:25%", 0o644).unwrap();
        assert!(keep_k3s_state(&root).unwrap() && !keep_k3s_state(&root).unwrap());
        assert_eq!(std::fs::read_to_string(first).unwrap(), list);
        let all = "OVERLAY=tmpfs:25%\nPERSISTENT_STATE_PATHS=\"/home /var/lib/rancher /var/lib/kubelet\"\n";
        assert_eq!(std::fs::read_to_string(second).unwrap(), all);
    }

    #[test]
    fn an_image_without_that_file_gets_none() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        assert!(!keep_k3s_state(&root).unwrap());
        assert!(LAYOUTS.iter().all(|path| !root.path(path).exists()));
    }
}
