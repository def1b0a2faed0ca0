//! What has to be on disk before the service manager looks: the agent's link, and the machine id.

use std::{fs, path::PathBuf};

use super::{
    HostError, Root,
    fingerprint::fingerprint,
    name::{machine_id, valid_machine_id},
    state,
};
use crate::{
    identity::{Fingerprint, Likeness},
    k3s::ServiceManager,
};

/// The agent's unit.
pub const AGENT: &str = "c3os-agent";
/// Where the machine id is kept across boots of images whose `/etc` is volatile.
const SAVED: &str = "/usr/local/etc/machine-id";

/// Whether the agent starts at boot.
pub fn agent_is_enabled(root: &Root, services: ServiceManager) -> bool {
    let links = links(root, services);
    !links.is_empty()
        && links.iter().all(|(link, target)| fs::read_link(link).is_ok_and(|old| old == *target))
}

/// Has the agent start at boot, or not, by the service manager's own links: this works before it runs. Whether
/// something changed.
///
/// # Errors
/// [`HostError::File`], also if the image has no such unit.
pub fn set_agent_enabled(root: &Root, services: ServiceManager, enabled: bool) -> Result<bool, HostError> {
    let mut changed = false;
    for (link, target) in links(root, services) {
        if !enabled {
            changed |= root.remove(&link)?;
            continue;
        }
        if !root.path(&target).is_file() {
            let source = std::io::Error::other("it is not in this image; the overlay is incomplete");
            return Err(HostError::File { operation: "enable", path: target, source });
        }
        changed |= root.link(&link, &target)?;
    }
    Ok(changed)
}

/// The links that make the agent start, and where they lead.
fn links(root: &Root, services: ServiceManager) -> Vec<(PathBuf, PathBuf)> {
    match services {
        ServiceManager::Systemd => {
            let link = root.path(format!("/etc/systemd/system/multi-user.target.wants/{AGENT}.service"));
            let file = format!("{AGENT}.service");
            // An administrator's own unit wins over the image's, for systemd as for this link.
            let target = ["/etc/systemd/system", "/usr/lib/systemd/system"]
                .map(|directory| PathBuf::from(directory).join(&file))
                .into_iter()
                .find(|path| root.path(path).is_file())
                .unwrap_or_else(|| PathBuf::from("/usr/lib/systemd/system").join(file));
            vec![(link, target)]
        }
        ServiceManager::OpenRc => [AGENT, "c3os-online"]
            .map(|name| {
                (root.path(format!("/etc/runlevels/default/{name}")), PathBuf::from("/etc/init.d").join(name))
            })
            .to_vec(),
        ServiceManager::None => Vec::new(),
    }
}

/// What was done about the machine id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineId {
    /// Nothing: it is there and saved.
    Unchanged,
    /// The saved one is back.
    Restored,
    /// The machine's own was saved.
    Saved,
    /// The machine had none; it has one for life now.
    Made,
    /// The disk is a copy of another machine's: it got an id of its own.
    Replaced,
}

/// Gives a machine the same id at every boot. Images ship `/etc/machine-id` empty, and `/etc` may be volatile: a
/// machine with another id at every boot has another flannel MAC and another DHCP lease at every boot.
///
/// `early`: nothing runs yet that could have read the present id, so it may be replaced by the saved one. `fresh` is
/// 16 bytes of the operating system's random source.
///
/// # Errors
/// [`HostError::File`].
pub fn keep_machine_id(root: &Root, early: bool, fresh: [u8; 16]) -> Result<MachineId, HostError> {
    let saved_at = root.path(SAVED);
    let saved = fs::read_to_string(&saved_at).ok().and_then(|text| valid_machine_id(&text));
    let present = machine_id(root);
    let (id, done) = match (early && is_a_copy(root), saved, present) {
        (true, Some(_), _) => (uuid(fresh), MachineId::Replaced),
        (_, Some(saved), Some(present)) if saved == present => return Ok(MachineId::Unchanged),
        // Too late to change what runs; the next boot has the saved one again.
        (_, Some(_), Some(_)) if !early => return Ok(MachineId::Unchanged),
        (_, Some(saved), _) => (saved, MachineId::Restored),
        (_, None, Some(present)) => (present, MachineId::Saved),
        (_, None, None) => (uuid(fresh), MachineId::Made),
    };
    let text = format!("{id}\n");
    // Saved first: what runs with an id must find it again at the next boot.
    root.write_if_other(&saved_at, text.as_bytes(), 0o444)?;
    root.write_if_other(&root.path("/etc/machine-id"), text.as_bytes(), 0o444)?;
    Ok(done)
}

/// Whether this disk was made on another machine.
fn is_a_copy(root: &Root) -> bool {
    let then: Option<Fingerprint> = state::peek(root, super::identity::FINGERPRINT);
    then.is_some_and(|then| fingerprint(root).likeness(&then) == Likeness::Different)
}

/// 32 digits that are also a random UUID (machine-id(5)).
fn uuid(mut fresh: [u8; 16]) -> String {
    fresh[6] = (fresh[6] & 0x0f) | 0x40;
    fresh[8] = (fresh[8] & 0x3f) | 0x80;
    state::hex(&fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn machine(present: Option<&str>, saved: Option<&str>) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        for (path, text) in [("/etc/machine-id", present), (SAVED, saved)] {
            let path = root.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if let Some(text) = text {
                fs::write(path, text).unwrap();
            }
        }
        (directory, root)
    }

    fn after(root: &Root) -> (String, String) {
        let read = |path: &str| fs::read_to_string(root.path(path)).unwrap().trim().to_owned();
        (read("/etc/machine-id"), read(SAVED))
    }

    #[test]
    fn a_machine_has_one_id_for_life_whatever_happens_to_etc() {
        let (_directory, root) = machine(Some(""), None);
        assert_eq!(keep_machine_id(&root, true, [1; 16]).unwrap(), MachineId::Made);
        let (present, saved) = after(&root);
        assert_eq!(present, saved);
        assert_eq!(valid_machine_id(&present), Some(present.clone()));
        for emptied in ["", "uninitialized\n"] {
            fs::write(root.path("/etc/machine-id"), emptied).unwrap();
            assert_eq!(keep_machine_id(&root, true, [2; 16]).unwrap(), MachineId::Restored);
            assert_eq!(after(&root), (present.clone(), present.clone()));
        }
        root.faults.fail_after(0);
        assert_eq!(keep_machine_id(&root, true, [3; 16]).unwrap(), MachineId::Unchanged);
        assert_eq!(keep_machine_id(&root, false, [3; 16]).unwrap(), MachineId::Unchanged);
    }

    #[test]
    fn an_id_that_is_in_use_is_saved_and_never_changed_under_running_programs() {
        let (_directory, root) = machine(Some(OLD), None);
        assert_eq!(keep_machine_id(&root, false, [1; 16]).unwrap(), MachineId::Saved);
        assert_eq!(after(&root), (OLD.to_owned(), OLD.to_owned()));
        let (_directory, root) = machine(Some(OLD), Some(OTHER));
        assert_eq!(keep_machine_id(&root, false, [1; 16]).unwrap(), MachineId::Unchanged);
        assert_eq!(keep_machine_id(&root, true, [1; 16]).unwrap(), MachineId::Restored);
        assert_eq!(after(&root), (OTHER.to_owned(), OTHER.to_owned()));
    }

    #[test]
    fn a_copied_disk_gets_an_id_of_its_own() {
        let (_directory, root) = machine(Some(OLD), Some(OLD));
        let product = root.path("/sys/class/dmi/id/product_uuid");
        fs::create_dir_all(product.parent().unwrap()).unwrap();
        fs::write(&product, "4c4c4544-0042-3510-8058-b7c04f4e3732").unwrap();
        state::write(&root, super::super::identity::FINGERPRINT, &fingerprint(&root)).unwrap();
        assert_eq!(keep_machine_id(&root, true, [1; 16]).unwrap(), MachineId::Unchanged);
        fs::write(&product, "9d1f3c40-1111-4242-8058-b7c04f4e3732").unwrap();
        assert_eq!(keep_machine_id(&root, true, [1; 16]).unwrap(), MachineId::Replaced);
        assert_ne!(after(&root).0, OLD);
    }

    #[test]
    fn the_agent_is_enabled_by_the_links_that_each_manager_makes_itself() {
        for (services, unit, link) in [
            (
                ServiceManager::Systemd,
                "/usr/lib/systemd/system/c3os-agent.service",
                "/etc/systemd/system/multi-user.target.wants/c3os-agent.service",
            ),
            (ServiceManager::OpenRc, "/etc/init.d/c3os-agent", "/etc/runlevels/default/c3os-agent"),
        ] {
            let (_directory, root) = machine(None, None);
            let error = set_agent_enabled(&root, services, true).unwrap_err().to_string();
            assert!(error.contains("overlay is incomplete"), "{error}");
            for unit in [unit, "/etc/init.d/c3os-online"] {
                fs::create_dir_all(root.path(unit).parent().unwrap()).unwrap();
                fs::write(root.path(unit), "").unwrap();
            }
            assert!(!agent_is_enabled(&root, services));
            assert!(set_agent_enabled(&root, services, true).unwrap());
            assert!(agent_is_enabled(&root, services));
            assert_eq!(fs::read_link(root.path(link)).unwrap(), PathBuf::from(unit));
            assert!(!set_agent_enabled(&root, services, true).unwrap());
            assert!(set_agent_enabled(&root, services, false).unwrap());
            assert!(!agent_is_enabled(&root, services));
        }
    }

    #[test]
    fn systemd_itself_finds_the_agent_enabled() {
        let (_directory, root) = machine(None, None);
        let units =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("overlay/files/usr/lib/systemd/system");
        fs::create_dir_all(root.path("/usr/lib/systemd/system")).unwrap();
        for unit in fs::read_dir(units).unwrap().flatten() {
            fs::copy(unit.path(), root.path("/usr/lib/systemd/system").join(unit.file_name())).unwrap();
        }
        let ask = || {
            std::process::Command::new("systemctl")
                .arg(format!("--root={}", root.path("/").display()))
                .args(["is-enabled", "c3os-agent.service"])
                .output()
        };
        let Ok(before) = ask() else {
            println!("skipped: there is no systemctl on this machine");
            return;
        };
        assert_eq!(String::from_utf8_lossy(&before.stdout).trim(), "disabled");
        set_agent_enabled(&root, ServiceManager::Systemd, true).unwrap();
        assert_eq!(String::from_utf8_lossy(&ask().unwrap().stdout).trim(), "enabled");
    }
}
