//! `c3os stage NAME`: what the cloud-init runner calls while a machine boots.
//!
//! ```text
//!             recovery, autoreset ──> nothing
//! mode ─┬─ live without a token ────> nothing
//!       └─ else ─┬─ rootfs:    k3s' state is among what the initramfs keeps
//!                ├─ initramfs: machine id, agent enabled or not (links; nothing runs yet)
//!                ├─ boot:      the same, and the agent started if initramfs did not come to it
//!                └─ network:   the same, and the agent told of a configuration that a datasource brought
//! ```
//!
//! What is wrong in the configuration is said on the console once, and stops nothing: a machine that nobody can reach
//! has to come up.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::FileTypeExt,
    path::PathBuf,
    process::ExitCode,
};

use crate::{
    config::{AtBoot, Severity},
    host::{self, AGENT, HostError, Loaded, Mode, Root, Services},
    k3s::ServiceManager,
    token::NetworkToken,
};

/// Does this program's part of one boot stage; the cloud-init runner calls it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which stage.
    #[arg(value_enum)]
    stage: Stage,
    /// Directory that stands for the machine's `/`.
    #[arg(long, hide = true, default_value = "/", env = "C3OS_ROOT")]
    root: PathBuf,
}

/// The boot stages that concern us.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Stage {
    /// Before the final root is put together, in the initramfs.
    Rootfs,
    /// In the final root, before the service manager runs.
    Initramfs,
    /// The service manager runs.
    Boot,
    /// The network is there, and datasources were read.
    Network,
}

/// What has come up by a stage of the final root, where the configuration can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Up {
    Root,
    Services,
    Network,
}

/// What is known when a stage begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// Nothing of this system is there after it is switched off.
    live: bool,
    /// The configuration gives the agent something to do, or something to complain about.
    wanted: bool,
    /// A token is written down.
    token: bool,
    /// The agent starts at boot.
    enabled: bool,
    /// The agent runs; unknown counts as not.
    running: bool,
    /// The configuration is another than at the last stage of this boot.
    changed: bool,
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Keep the machine's id; `early`: the saved one may replace the present one.
    MachineId { early: bool },
    /// Have the agent start at boot, or not.
    Enable(bool),
    /// Start it now.
    Start,
    /// Have it read its configuration again.
    Nudge,
}

/// What a stage does. Pure.
fn decide(up: Up, seen: &Seen) -> Vec<Step> {
    let wanted = seen.wanted;
    let mut steps = Vec::new();
    if seen.live {
        // It leaves nothing behind, and its id is nobody's.
        if !seen.token {
            return steps;
        }
    } else {
        steps.push(Step::MachineId { early: up == Up::Root });
    }
    if wanted != seen.enabled {
        steps.push(Step::Enable(wanted));
    }
    match up {
        Up::Root => {}
        // Enabled before: the service manager starts it in its turn.
        Up::Services => {
            if wanted && !seen.enabled && !seen.running {
                steps.push(Step::Start);
            }
        }
        Up::Network => {
            if wanted && !seen.running {
                steps.push(Step::Start);
            } else if seen.running && seen.changed {
                steps.push(Step::Nudge);
            }
        }
    }
    steps
}

/// Does a stage's part. Whatever cannot be done is told, and the rest is done.
///
/// # Errors
/// None that would keep a machine from booting.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let root = Root::at(&args.root);
    let services = host::detect(&root);
    let failures = carry_out(args.stage, &root, services.as_ref(), &mut |line| tell(&root, line));
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many steps failed.
fn carry_out(stage: Stage, root: &Root, services: &dyn Services, say: &mut dyn FnMut(&str)) -> usize {
    match stage {
        Stage::Rootfs => lay_out(root, say),
        Stage::Initramfs => configure(Up::Root, root, services, say),
        Stage::Boot => configure(Up::Services, root, services, say),
        Stage::Network => configure(Up::Network, root, services, say),
    }
}

/// In the initramfs, where nothing of the machine is there yet.
fn lay_out(root: &Root, say: &mut dyn FnMut(&str)) -> usize {
    match host::mode(root) {
        Mode::Recovery | Mode::AutoReset | Mode::Live => 0,
        Mode::Installed => host::keep_k3s_state(root).map_or_else(
            |error| {
                say(&error.to_string());
                1
            },
            |_| 0,
        ),
    }
}

/// In the final root: machine id and agent as the configuration has them.
fn configure(up: Up, root: &Root, services: &dyn Services, say: &mut dyn FnMut(&str)) -> usize {
    let mode = host::mode(root);
    let live = match mode {
        Mode::Recovery | Mode::AutoReset => return 0,
        Mode::Live => true,
        Mode::Installed => false,
    };
    let loaded = host::load_config(root, mode, &[]);
    let config = &loaded.parsed.config;
    let running = match up {
        Up::Root => false,
        Up::Services | Up::Network => services.status(AGENT).is_ok_and(|status| status.state.is_on()),
    };
    let (changed, mut failures) = match loaded.is_news(root) {
        Ok(changed) => (changed, 0),
        Err(error) => {
            say(&error.to_string());
            (true, 1)
        }
    };
    if changed {
        complaints(&loaded).iter().for_each(|line| say(line));
        if let (Some(other), true) = (host::other_provider(root), config.network_token.is_some()) {
            say(&format!("{other} gives this machine its role; c3os is only its mesh here"));
        }
    }
    let seen = Seen {
        live,
        wanted: config.network_token.is_some()
            || config.k3s.enabled
            || config.k3s_agent.enabled
            || loaded.parsed.has_errors()
            || !loaded.unreadable.is_empty(),
        token: config.network_token.is_some(),
        enabled: host::agent_is_enabled(root, services.kind()),
        running,
        changed,
    };
    for step in decide(up, &seen) {
        if let Err(error) = take(step, root, services) {
            say(&error.to_string());
            failures += 1;
        }
    }
    failures
}

fn take(step: Step, root: &Root, services: &dyn Services) -> Result<(), HostError> {
    match step {
        Step::MachineId { early } => host::keep_machine_id(root, early, rand::random()).map(drop),
        Step::Enable(enabled) => {
            host::set_agent_enabled(root, services.kind(), enabled)?;
            match services.kind() {
                // A running systemd has to hear of a new link; before it runs there is nobody to tell.
                ServiceManager::Systemd if root.path("/run/systemd/system").exists() => {
                    services.reload_files()
                }
                ServiceManager::Systemd | ServiceManager::OpenRc | ServiceManager::None => Ok(()),
            }
        }
        Step::Start => services.start(AGENT),
        Step::Nudge => services.nudge(AGENT),
    }
}

/// What somebody in front of the machine should know of its configuration.
fn complaints(loaded: &Loaded) -> Vec<String> {
    let mut lines: Vec<String> = loaded.unreadable.iter().map(ToString::to_string).collect();
    for mistake in &loaded.parsed.mistakes {
        match (mistake.severity, mistake.at_boot) {
            (Severity::Warning, AtBoot::Ignored) => {}
            (Severity::Warning | Severity::Error, at_boot) => {
                lines.push(format!("{mistake}\n  this machine {at_boot}"))
            }
        }
    }
    if let Some(token) = &loaded.parsed.config.network_token
        && let Err(error) = NetworkToken::parse(token.reveal())
    {
        lines.push(format!("c3os.network_token: {error}\n  this machine {}", AtBoot::NoMesh));
    }
    lines
}

/// Words go to stderr, which the runner keeps to itself, and to the console, which somebody may be looking at.
fn tell(root: &Root, text: &str) {
    eprintln!("c3os: {text}");
    let console = root.path("/dev/console");
    let is_console = fs::metadata(&console).is_ok_and(|metadata| metadata.file_type().is_char_device());
    if is_console && !io::IsTerminal::is_terminal(&io::stderr()) {
        // It may be nobody's; then nobody misses the line.
        let _ = fs::OpenOptions::new()
            .write(true)
            .open(console)
            .and_then(|mut console| console.write_all(format!("c3os: {text}\r\n").as_bytes()));
    }
}

#[cfg(test)]
mod tests;
