//! Who starts services on this machine.

use std::path::Path;

use super::{HostError, Root, openrc::OpenRc, process, systemd::Systemd};
use crate::k3s::ServiceManager;

/// What a unit is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitState {
    /// The service manager knows no such unit.
    Missing,
    /// Off, and meant to be.
    Stopped,
    /// On its way up, or between two attempts.
    Starting,
    /// Up; for units that say when they are ready, ready.
    Active,
    /// On its way down.
    Stopping,
    /// Given up by the service manager.
    Failed,
}

impl UnitState {
    /// The service manager looks after it: it runs or will run without further doing.
    pub fn is_on(self) -> bool {
        match self {
            Self::Starting | Self::Active => true,
            Self::Missing | Self::Stopped | Self::Stopping | Self::Failed => false,
        }
    }

    /// The word for status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        }
    }
}

/// What the service manager says of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitStatus {
    /// What it is doing.
    pub state: UnitState,
    /// Starts at boot.
    pub enabled: bool,
    /// The manager read older files than those on disk.
    pub stale: bool,
}

/// The running system, as far as a plan reaches into it. Units are named without suffix (`k3s`).
///
/// Calls return at once: a unit that was asked to start may still fail, which [`status`](Self::status) shows later.
pub trait Services: Send + Sync {
    /// Which manager it is.
    fn kind(&self) -> ServiceManager;

    /// What a unit is doing.
    ///
    /// # Errors
    /// [`HostError::Command`] if the manager does not answer.
    fn status(&self, unit: &str) -> Result<UnitStatus, HostError>;

    /// Has the manager read its files again.
    ///
    /// # Errors
    /// [`HostError::Command`].
    fn reload_files(&self) -> Result<(), HostError>;

    /// Has a unit start at boot, or not.
    ///
    /// # Errors
    /// [`HostError::Command`].
    fn set_enabled(&self, unit: &str, enabled: bool) -> Result<(), HostError>;

    /// Starts a unit, without waiting.
    ///
    /// # Errors
    /// [`HostError::Command`] if the manager refuses at once.
    fn start(&self, unit: &str) -> Result<(), HostError>;

    /// Stops a unit, without waiting.
    ///
    /// # Errors
    /// [`HostError::Command`] if the manager refuses at once.
    fn stop(&self, unit: &str) -> Result<(), HostError>;

    /// Stops a unit if it runs, and starts it, without waiting.
    ///
    /// # Errors
    /// [`HostError::Command`] if the manager refuses at once.
    fn restart(&self, unit: &str) -> Result<(), HostError>;

    /// Tells a running unit to read its configuration again (SIGHUP).
    ///
    /// # Errors
    /// [`HostError::Command`].
    fn nudge(&self, unit: &str) -> Result<(), HostError>;

    /// Runs the steps that users hung on a stage of ours; without a cloud-init runner there are none.
    ///
    /// # Errors
    /// [`HostError::Command`] if the runner fails or takes longer than 10 minutes.
    fn run_stage(&self, root: &Root, stage: &str) -> Result<(), HostError> {
        process::run_bootstrap_stage(root, stage)
    }

    /// Whether the rules that close k3s' ports are in the kernel.
    ///
    /// # Errors
    /// [`HostError::Command`] if there is no nftables.
    fn ports_closed(&self) -> Result<bool, HostError> {
        process::succeeds("nft", &["list", "table", "inet", "c3os"])
    }

    /// Puts the rules of a file into the kernel.
    ///
    /// # Errors
    /// [`HostError::Command`] if there is no nftables, or if it refuses them.
    fn close_ports(&self, rules: &Path) -> Result<(), HostError> {
        process::run("nft", &["-f", &rules.to_string_lossy()]).map(drop)
    }

    /// Takes the rules out of the kernel.
    ///
    /// # Errors
    /// [`HostError::Command`].
    fn open_ports(&self) -> Result<(), HostError> {
        process::run("nft", &["delete", "table", "inet", "c3os"]).map(drop)
    }
}

/// Finds the service manager that runs this machine. A root that is a mere directory has none that could be told
/// anything, least of all that of the machine which the directory lies on.
pub fn detect(root: &Root) -> Box<dyn Services> {
    match kind(root) {
        ServiceManager::Systemd if root.is_the_machine() => Box::new(Systemd),
        ServiceManager::OpenRc if root.is_the_machine() => Box::new(OpenRc::new(root.clone())),
        kind @ (ServiceManager::Systemd | ServiceManager::OpenRc | ServiceManager::None) => {
            Box::new(NoServices { kind })
        }
    }
}

/// Which service manager starts this machine. In the initramfs stage it is not running yet, so what is installed
/// counts where nothing runs.
pub(super) fn kind(root: &Root) -> ServiceManager {
    let is_there = |path: &str| root.path(path).exists();
    // What sd_booted(3) and OpenRC's own scripts look for.
    if is_there("/run/systemd/system") {
        ServiceManager::Systemd
    } else if is_there("/run/openrc") {
        ServiceManager::OpenRc
    } else if is_there("/usr/lib/systemd/systemd") || is_there("/lib/systemd/systemd") {
        ServiceManager::Systemd
    } else if is_there("/sbin/openrc-run") || is_there("/usr/sbin/openrc-run") {
        ServiceManager::OpenRc
    } else {
        ServiceManager::None
    }
}

/// No service manager that could be told anything: files are written, and somebody else starts k3s.
#[derive(Debug, Clone, Copy)]
struct NoServices {
    /// The one that is installed.
    kind: ServiceManager,
}

impl NoServices {
    fn refuse(self, operation: &str, unit: &str) -> Result<(), HostError> {
        let failure = match self.kind {
            ServiceManager::None => {
                "is impossible: neither systemd nor OpenRC runs this machine; do it by hand"
            }
            ServiceManager::Systemd | ServiceManager::OpenRc => "is impossible: this is no running machine",
        };
        Err(HostError::Command { command: format!("{operation} {unit}"), failure: failure.to_owned() })
    }
}

impl Services for NoServices {
    fn kind(&self) -> ServiceManager {
        self.kind
    }

    fn status(&self, _unit: &str) -> Result<UnitStatus, HostError> {
        Ok(UnitStatus { state: UnitState::Missing, enabled: false, stale: false })
    }

    fn reload_files(&self) -> Result<(), HostError> {
        Ok(())
    }

    fn set_enabled(&self, unit: &str, enabled: bool) -> Result<(), HostError> {
        self.refuse(if enabled { "enable" } else { "disable" }, unit)
    }

    fn start(&self, unit: &str) -> Result<(), HostError> {
        self.refuse("start", unit)
    }

    fn stop(&self, unit: &str) -> Result<(), HostError> {
        self.refuse("stop", unit)
    }

    fn restart(&self, unit: &str) -> Result<(), HostError> {
        self.refuse("restart", unit)
    }

    fn nudge(&self, unit: &str) -> Result<(), HostError> {
        self.refuse("reload", unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_never_taken_for_the_machine_it_lies_on() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("run/systemd/system")).unwrap();
        let services = detect(&Root::at(directory.path()));
        assert_eq!(services.kind(), ServiceManager::Systemd);
        let error = services.start("k3s").unwrap_err().to_string();
        assert!(error.contains("no running machine"), "{error}");
        assert_eq!(services.status("k3s").unwrap().state, UnitState::Missing);
    }
}
