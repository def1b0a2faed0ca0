//! What this machine is called: by the original's `uuid`, and in Kubernetes.

use std::fs;

use serde::{Deserialize, Serialize};

use super::{HostError, Root, state};

const NAME: &str = "name";

/// The names of this machine. Fixed when its first role is applied; a changed host name changes nothing from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// `<machine id>-<host name>`, as the original's `uuid`.
    pub uuid: String,
    /// What the machine would like to be called in Kubernetes: its host name as a DNS label. Two machines may wish
    /// for the same one; who assigns roles also settles that.
    pub name: String,
}

/// The names of this machine, as fixed or as they are now.
///
/// # Errors
/// [`HostError::Damaged`] once if the file is damaged; [`HostError::File`] if it cannot be read.
pub fn names(root: &Root) -> Result<Names, HostError> {
    if let Some(names) = state::read(root, NAME)? {
        return Ok(names);
    }
    let host = host_name(root);
    let machine = machine_id(root).unwrap_or_else(|| "unknown".to_owned());
    Ok(Names { uuid: format!("{machine}-{host}"), name: label(&host) })
}

/// Fixes the names for good, the one in Kubernetes as it was assigned. Does nothing if they are fixed already.
///
/// # Errors
/// As [`names`].
pub fn fix_names(root: &Root, assigned: &str) -> Result<(), HostError> {
    if state::read::<Names>(root, NAME)?.is_none() {
        let names = Names { name: assigned.to_owned(), ..names(root)? };
        state::write(root, NAME, &names)?;
    }
    Ok(())
}

/// `/etc/machine-id`, if it is one: 32 hexadecimal digits (machine-id(5)).
pub(super) fn machine_id(root: &Root) -> Option<String> {
    valid_machine_id(&fs::read_to_string(root.path("/etc/machine-id")).ok()?)
}

/// The id in the text of such a file.
pub(super) fn valid_machine_id(text: &str) -> Option<String> {
    let text = text.trim();
    let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    (digits && text.bytes().any(|b| b != b'0')).then(|| text.to_ascii_lowercase())
}

fn host_name(root: &Root) -> String {
    let read = |path: &str| fs::read_to_string(root.path(path)).ok().map(|text| text.trim().to_owned());
    read("/proc/sys/kernel/hostname")
        .or_else(|| read("/etc/hostname"))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// A host name as Kubernetes accepts it for a node (RFC 1123 subdomain).
fn label(host: &str) -> String {
    let mapped: String = host
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .take(50)
        .collect();
    let parts: Vec<&str> =
        mapped.split('.').map(|part| part.trim_matches('-')).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "node".to_owned() } else { parts.join(".") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(id: &str, host: &str) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        fs::create_dir_all(root.path("/etc")).unwrap();
        fs::write(root.path("/etc/machine-id"), id).unwrap();
        fs::write(root.path("/etc/hostname"), host).unwrap();
        (directory, root)
    }

    #[test]
    fn names_follow_the_host_name_until_a_role_was_applied() {
        let (_directory, root) = root("0123456789abcdef0123456789abcdef\n", "Kitchen_Pi\n");
        let before = names(&root).unwrap();
        assert_eq!(before.uuid, "0123456789abcdef0123456789abcdef-Kitchen_Pi");
        assert_eq!(before.name, "kitchen-pi");
        fix_names(&root, "kitchen-pi-7f3a").unwrap();
        fs::write(root.path("/etc/hostname"), "other").unwrap();
        let after = names(&root).unwrap();
        assert_eq!((after.uuid, after.name), (before.uuid, "kitchen-pi-7f3a".to_owned()));
        fix_names(&root, "yet-another").unwrap();
        assert_eq!(names(&root).unwrap().name, "kitchen-pi-7f3a");
    }

    #[test]
    fn every_host_name_becomes_one_that_kubernetes_accepts() {
        for (host, name) in
            [("a", "a"), ("Node.Example.", "node.example"), ("-x-.-", "x"), ("é", "node"), ("___", "node")]
        {
            assert_eq!(label(host), name);
        }
        assert!(label(&"x".repeat(300)).len() <= 63);
    }

    #[test]
    fn an_empty_or_unset_machine_id_is_none() {
        for text in ["", "uninitialized\n", "00000000000000000000000000000000", "0123"] {
            assert_eq!(valid_machine_id(text), None);
        }
    }
}
