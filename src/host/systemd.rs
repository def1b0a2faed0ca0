//! systemd, through `systemctl`.

use super::{HostError, Services, UnitState, UnitStatus, process};
use crate::k3s::ServiceManager;

/// The running systemd.
#[derive(Debug, Clone, Copy)]
pub(super) struct Systemd;

impl Services for Systemd {
    fn kind(&self) -> ServiceManager {
        ServiceManager::Systemd
    }

    fn status(&self, unit: &str) -> Result<UnitStatus, HostError> {
        let properties = "--property=LoadState,ActiveState,UnitFileState,NeedDaemonReload";
        process::run("systemctl", &["show", properties, &service(unit)]).map(|text| parse(&text))
    }

    fn reload_files(&self) -> Result<(), HostError> {
        process::run("systemctl", &["daemon-reload"]).map(drop)
    }

    fn set_enabled(&self, unit: &str, enabled: bool) -> Result<(), HostError> {
        process::run("systemctl", &[if enabled { "enable" } else { "disable" }, &service(unit)]).map(drop)
    }

    fn start(&self, unit: &str) -> Result<(), HostError> {
        process::run("systemctl", &["start", "--no-block", &service(unit)]).map(drop)
    }

    fn stop(&self, unit: &str) -> Result<(), HostError> {
        process::run("systemctl", &["stop", "--no-block", &service(unit)]).map(drop)
    }

    fn restart(&self, unit: &str) -> Result<(), HostError> {
        process::run("systemctl", &["restart", "--no-block", &service(unit)]).map(drop)
    }

    fn nudge(&self, unit: &str) -> Result<(), HostError> {
        process::run("systemctl", &["reload", "--no-block", &service(unit)]).map(drop)
    }
}

fn service(unit: &str) -> String {
    format!("{unit}.service")
}

/// What `systemctl show` prints, one `Property=value` a line.
fn parse(text: &str) -> UnitStatus {
    let value = |property: &str| {
        text.lines().find_map(|line| line.strip_prefix(property)?.strip_prefix('=')).unwrap_or_default()
    };
    let state = match (value("LoadState"), value("ActiveState")) {
        ("not-found", "inactive" | "") => UnitState::Missing,
        (_, "active" | "reloading" | "refreshing") => UnitState::Active,
        (_, "activating") => UnitState::Starting,
        (_, "deactivating") => UnitState::Stopping,
        (_, "failed") => UnitState::Failed,
        (_, _) => UnitState::Stopped,
    };
    let enabled = matches!(value("UnitFileState"), "enabled" | "enabled-runtime");
    UnitStatus { state, enabled, stale: value("NeedDaemonReload") == "yes" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemctl_shows_is_understood() {
        let show = |load: &str, active: &str, file: &str, stale: &str| {
            parse(&format!(
                "LoadState={load}\nActiveState={active}\nUnitFileState={file}\nNeedDaemonReload={stale}\n"
            ))
        };
        let status = |state, enabled, stale| UnitStatus { state, enabled, stale };
        assert_eq!(show("loaded", "active", "enabled", "no"), status(UnitState::Active, true, false));
        assert_eq!(show("loaded", "activating", "disabled", "yes"), status(UnitState::Starting, false, true));
        assert_eq!(show("loaded", "inactive", "disabled", "no"), status(UnitState::Stopped, false, false));
        assert_eq!(show("not-found", "inactive", "", "no"), status(UnitState::Missing, false, false));
        assert_eq!(show("loaded", "failed", "enabled", "no"), status(UnitState::Failed, true, false));
        // The file of a running unit was removed.
        assert_eq!(show("not-found", "active", "", "yes"), status(UnitState::Active, false, true));
        assert_eq!(parse(""), status(UnitState::Stopped, false, false));
    }
}
