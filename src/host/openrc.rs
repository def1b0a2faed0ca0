//! OpenRC, through `rc-service` and the links of its runlevel.

use super::{HostError, Root, Services, UnitState, UnitStatus, process};
use crate::k3s::ServiceManager;

/// The running OpenRC.
#[derive(Debug, Clone)]
pub(super) struct OpenRc {
    root: Root,
}

impl OpenRc {
    pub(super) fn new(root: Root) -> Self {
        Self { root }
    }
}

impl Services for OpenRc {
    fn kind(&self) -> ServiceManager {
        ServiceManager::OpenRc
    }

    fn status(&self, unit: &str) -> Result<UnitStatus, HostError> {
        let enabled = self.root.path(format!("/etc/runlevels/default/{unit}")).is_symlink();
        let state = if self.root.path(format!("/etc/init.d/{unit}")).is_file() {
            state_of(process::code("rc-service", &[unit, "status"])?)
        } else {
            UnitState::Missing
        };
        Ok(UnitStatus { state, enabled, stale: false })
    }

    fn reload_files(&self) -> Result<(), HostError> {
        // OpenRC reads its scripts at every call.
        Ok(())
    }

    fn set_enabled(&self, unit: &str, enabled: bool) -> Result<(), HostError> {
        process::run("rc-update", &["-q", if enabled { "add" } else { "del" }, unit, "default"]).map(drop)
    }

    fn start(&self, unit: &str) -> Result<(), HostError> {
        process::launch("rc-service", &["-q", unit, "start"])
    }

    fn stop(&self, unit: &str) -> Result<(), HostError> {
        process::launch("rc-service", &["-q", unit, "stop"])
    }

    fn restart(&self, unit: &str) -> Result<(), HostError> {
        process::launch("rc-service", &["-q", unit, "restart"])
    }

    fn nudge(&self, unit: &str) -> Result<(), HostError> {
        process::run("rc-service", &["-q", unit, "reload"]).map(drop)
    }
}

/// The exit codes of `rc-service NAME status` (openrc-run's `_status`).
fn state_of(code: Option<i32>) -> UnitState {
    match code {
        Some(0) => UnitState::Active,
        Some(4) => UnitState::Stopping,
        Some(8) => UnitState::Starting,
        Some(32) => UnitState::Failed,
        // 3 stopped, 16 inactive, 64 unsupervised; and whatever else is not running.
        Some(_) | None => UnitState::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_of_a_status_is_the_state() {
        let states = [(0, UnitState::Active), (3, UnitState::Stopped), (8, UnitState::Starting)];
        for (code, state) in states {
            assert_eq!(state_of(Some(code)), state);
        }
        assert_eq!(state_of(Some(32)), UnitState::Failed);
        assert_eq!(state_of(None), UnitState::Stopped);
    }
}
