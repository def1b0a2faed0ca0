//! Carrying out a plan: compare with what is on the machine now, mend the difference, remember it.
//!
//! ```text
//! other cluster applied? ── yes ─> refused, nothing touched
//!   │ no
//! units that must be off ─> stop, disable
//! files that differ ─> note what must restart ─> remove, write ─> reload
//! ports ─> rules into the kernel
//! k3s' password of this node ─> kept with our state
//! units that must be on ─> enable, start or restart ─> clear the note
//! everything reached? ── yes ─> `applied`, `deployed`
//! ```
//!
//! It is done on every start of the agent: `/etc` may be volatile. Where nothing differs nothing is written, reloaded
//! or restarted. It may end after any step and be done again from the start.

use serde::{Deserialize, Serialize};

use super::{HostError, Root, Services, UnitState, fix_names, machine, node_password, read_applied, state};
use crate::k3s::{self, MARK, Plan, Ports, ServiceManager, UnitChange};

/// Units whose files changed and that have not been restarted since.
const PENDING: &str = "pending";
const APPLIED: &str = "applied";

/// What [`apply`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Paths that were written.
    pub written: Vec<&'static str>,
    /// Paths that were removed.
    pub removed: Vec<&'static str>,
    /// Units, and what was done to them.
    pub units: Vec<(&'static str, UnitAction)>,
    /// What could not be reached, in sentences that name the fix. Files are written all the same. A complete outcome
    /// may have some too: they keep nothing from running.
    pub missing: Vec<String>,
    /// Everything the plan asks for holds, and it is remembered as applied.
    pub complete: bool,
}

impl Outcome {
    /// Whether anything at all was done.
    pub fn changed_anything(&self) -> bool {
        !(self.written.is_empty() && self.removed.is_empty() && self.units.is_empty())
    }
}

/// What was done to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitAction {
    /// Starts at boot from now on.
    Enabled,
    /// No longer starts at boot.
    Disabled,
    /// Was asked to start.
    Started,
    /// Was asked to stop.
    Stopped,
    /// Was asked to start anew.
    Restarted,
}

#[derive(Serialize, Deserialize, Default)]
struct Pending {
    restart: Vec<String>,
}

/// Makes the machine what `plan` says. Blocks while service managers answer, and up to 20 minutes if users hung steps
/// of their own on the change.
///
/// # Errors
/// [`HostError::OtherCluster`] if the machine is applied to another cluster: nothing was touched. Any other error:
/// the change is incomplete; doing it again takes it up where it is needed.
pub fn apply(plan: &Plan, root: &Root, services: &dyn Services) -> Result<Outcome, HostError> {
    let already = is_applied(plan, root)?;
    let mut outcome = Outcome::default();
    let obstacles = obstacles(plan, root, services)?;
    let first_time = !already && obstacles.is_empty() && plan.waits_for.is_empty();

    if first_time {
        around(plan, root, services, "before", &mut outcome);
    }
    turn_off(plan, services, &mut outcome)?;
    bring_files(plan, root, services, &mut outcome)?;
    guard_ports(plan, root, services, &mut outcome);
    if obstacles.is_empty() {
        if plan.units.iter().any(|unit| unit.started) {
            node_password::keep(root)?;
        }
        turn_on(plan, root, services, &mut outcome)?;
    } else {
        outcome.missing.extend(obstacles.iter().cloned());
    }
    if obstacles.is_empty() && plan.waits_for.is_empty() {
        if first_time {
            around(plan, root, services, "after", &mut outcome);
        }
        remember(plan, root)?;
        outcome.complete = true;
    }
    tell(&outcome);
    Ok(outcome)
}

/// Takes away what any plan brought: units off, files and rules gone. Users' own steps are not run.
pub(super) fn take_away(root: &Root, services: &dyn Services) -> Result<(), HostError> {
    let plan = k3s::plan_nothing();
    let mut outcome = Outcome::default();
    turn_off(&plan, services, &mut outcome)?;
    bring_files(&plan, root, services, &mut outcome)?;
    guard_ports(&plan, root, services, &mut outcome);
    tell(&outcome);
    Ok(())
}

/// Whether this role of this cluster was applied before.
fn is_applied(plan: &Plan, root: &Root) -> Result<bool, HostError> {
    let Some(planned) = &plan.applied else {
        return Ok(root.state("deployed").exists());
    };
    match read_applied(root)? {
        None => Ok(false),
        Some(applied) if applied.cluster_id == planned.cluster_id => Ok(applied.role == planned.role),
        Some(applied) => Err(HostError::OtherCluster {
            role: applied.role,
            applied: applied.cluster_id,
            planned: planned.cluster_id,
        }),
    }
}

/// Why units cannot be started, whatever is written.
fn obstacles(plan: &Plan, root: &Root, services: &dyn Services) -> Result<Vec<String>, HostError> {
    let mut obstacles = Vec::new();
    if machine::k3s_binary(root).is_none() {
        obstacles.push(
            "k3s is not installed: there is no /usr/bin/k3s or /usr/local/bin/k3s; its files are written, and it is \
             started once it is there and the agent is restarted"
                .to_owned(),
        );
        return Ok(obstacles);
    }
    for unit in plan.units.iter().filter(|unit| unit.started) {
        let place = match services.kind() {
            ServiceManager::Systemd => format!("{}.service", unit.name),
            ServiceManager::OpenRc => format!("/etc/init.d/{}", unit.name),
            ServiceManager::None => {
                obstacles.push(format!(
                    "neither systemd nor OpenRC runs this machine: start `k3s {}` yourself; its files are written",
                    if unit.name == "k3s" { "server" } else { "agent" }
                ));
                continue;
            }
        };
        match services.status(unit.name)?.state {
            UnitState::Missing => obstacles.push(format!(
                "k3s is there but {place} is not: install it with k3s' own installer (INSTALL_K3S_SKIP_START=true); \
                 the files for the role are written"
            )),
            UnitState::Stopped
            | UnitState::Starting
            | UnitState::Active
            | UnitState::Stopping
            | UnitState::Failed => {}
        }
    }
    Ok(obstacles)
}

/// Units of another role have to be gone before their files are.
fn turn_off(plan: &Plan, services: &dyn Services, outcome: &mut Outcome) -> Result<(), HostError> {
    for unit in plan.units.iter().filter(|unit| !unit.started && !unit.enabled) {
        let status = services.status(unit.name)?;
        if status.state.is_on() {
            services.stop(unit.name)?;
            outcome.units.push((unit.name, UnitAction::Stopped));
        }
        if status.enabled {
            services.set_enabled(unit.name, false)?;
            outcome.units.push((unit.name, UnitAction::Disabled));
        }
    }
    Ok(())
}

fn bring_files(
    plan: &Plan,
    root: &Root,
    services: &dyn Services,
    outcome: &mut Outcome,
) -> Result<(), HostError> {
    let mut differing = Vec::new();
    for file in &plan.files {
        if !root.holds(&root.path(file.path), file.content.bytes(), file.mode)? {
            differing.push(file);
        }
    }
    let mut leftover = Vec::new();
    for path in &plan.remove {
        if is_ours(root, path)? {
            leftover.push(*path);
        }
    }
    if !differing.is_empty() || !leftover.is_empty() {
        note_restarts(plan, root, &differing, services)?;
    }
    for path in leftover {
        root.remove(&root.path(path))?;
        outcome.removed.push(path);
    }
    for file in differing {
        root.write(&root.path(file.path), file.content.bytes(), file.mode)?;
        outcome.written.push(file.path);
    }
    let changed = outcome.written.iter().chain(&outcome.removed);
    let mut stale = changed.clone().any(|path| path.starts_with("/etc/systemd/system/"));
    for unit in &plan.units {
        stale = stale || services.status(unit.name)?.stale;
    }
    if stale {
        services.reload_files()?;
    }
    Ok(())
}

/// A file of ours begins with our mark; tokens are ours by their names.
fn is_ours(root: &Root, path: &str) -> Result<bool, HostError> {
    let bytes = root.read(&root.path(path))?;
    Ok(bytes.is_some_and(|bytes| bytes.starts_with(MARK.as_bytes()) || path.contains("/c3os-")))
}

/// Before the first byte changes: which running units will have to be restarted, should this be cut off in between.
fn note_restarts(
    plan: &Plan,
    root: &Root,
    differing: &[&k3s::PlannedFile],
    services: &dyn Services,
) -> Result<(), HostError> {
    let mut pending: Pending = state::read(root, PENDING)?.unwrap_or_default();
    for unit in plan.units.iter().filter(|unit| unit.started) {
        let touched = differing.iter().any(|file| unit.restart_on.contains(&file.path));
        let noted = pending.restart.iter().any(|name| name == unit.name);
        if touched && !noted && services.status(unit.name)?.state.is_on() {
            pending.restart.push(unit.name.to_owned());
        }
    }
    if !pending.restart.is_empty() {
        state::write(root, PENDING, &pending)?;
    }
    Ok(())
}

/// An open port is told, and stops nothing: a cluster that works is worth more.
fn guard_ports(plan: &Plan, root: &Root, services: &dyn Services, outcome: &mut Outcome) {
    let result = match plan.ports {
        Ports::MeshOnly(path) => match services.ports_closed() {
            Ok(true) if !outcome.written.contains(&path) => Ok(()),
            Ok(_) => services.close_ports(&root.path(path)),
            Err(error) => Err(error),
        },
        // Only where our rules were: another's nftables is none of our business.
        Ports::Open if !outcome.removed.is_empty() => match services.ports_closed() {
            Ok(true) => services.open_ports(),
            Ok(false) | Err(_) => Ok(()),
        },
        Ports::Open => Ok(()),
    };
    if let Err(error) = result {
        outcome.missing.push(format!(
            "k3s' ports are not closed towards the LAN ({error}); install nftables, or set k3s.expose: true if that \
             is meant"
        ));
    }
}

fn turn_on(
    plan: &Plan,
    root: &Root,
    services: &dyn Services,
    outcome: &mut Outcome,
) -> Result<(), HostError> {
    let pending: Pending = state::read(root, PENDING)?.unwrap_or_default();
    for unit in plan.units.iter().filter(|unit| unit.enabled || unit.started) {
        let status = services.status(unit.name)?;
        if unit.enabled && !status.enabled {
            services.set_enabled(unit.name, true)?;
            outcome.units.push((unit.name, UnitAction::Enabled));
        }
        if unit.started {
            start(unit, status.state, &pending, services, outcome)?;
        }
    }
    if !pending.restart.is_empty() {
        root.remove(&root.state(PENDING))?;
    }
    Ok(())
}

fn start(
    unit: &UnitChange,
    state: UnitState,
    pending: &Pending,
    services: &dyn Services,
    outcome: &mut Outcome,
) -> Result<(), HostError> {
    if !state.is_on() {
        services.start(unit.name)?;
        outcome.units.push((unit.name, UnitAction::Started));
    } else if pending.restart.iter().any(|name| name == unit.name) {
        services.restart(unit.name)?;
        outcome.units.push((unit.name, UnitAction::Restarted));
    }
    Ok(())
}

/// Users' own steps before and after a role: `c3os.bootstrap.before`, `c3os.bootstrap.before.master`, ...
fn around(plan: &Plan, root: &Root, services: &dyn Services, when: &str, outcome: &mut Outcome) {
    let general = format!("c3os.bootstrap.{when}");
    let special = plan.applied.as_ref().map(|applied| format!("{general}.{}", applied.role));
    for stage in [Some(general), special].into_iter().flatten() {
        if let Err(error) = services.run_stage(root, &stage) {
            outcome
                .missing
                .push(format!("the stage {stage} of this machine's configuration failed: {error}"));
        }
    }
}

fn remember(plan: &Plan, root: &Root) -> Result<(), HostError> {
    if let Some(applied) = &plan.applied {
        fix_names(root, &applied.name)?;
        state::write(root, APPLIED, applied)?;
    }
    let deployed = root.state("deployed");
    if !deployed.exists() {
        root.prepare()?;
        // Empty, as the original's: scripts test whether it is there.
        root.write(&deployed, b"", 0o600)?;
    }
    Ok(())
}

fn tell(outcome: &Outcome) {
    for path in &outcome.written {
        tracing::info!(target: "c3os::_events::file_written", path);
    }
    for path in &outcome.removed {
        tracing::info!(target: "c3os::_events::file_removed", path);
    }
    for (unit, action) in &outcome.units {
        tracing::info!(target: "c3os::_events::unit_changed", unit, ?action);
    }
    // What keeps the role from being complete is for status, and is tried again; the rest somebody should mend.
    for missing in outcome.missing.iter().filter(|_| outcome.complete) {
        tracing::warn!(missing, "the role is applied, but");
    }
}
