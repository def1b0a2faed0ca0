//! The event loop: owns everything, alone reads the clock.
//!
//! ```text
//! run: read config.yaml -- no token --> wait for another file, answering that there is none
//!        |      ^                         |
//!        v      +---- SIGHUP, reload -----+
//!      Agent { node, ledger file, mesh, data plane, role keeper }
//!        one loop: mesh events, data plane events, what the role keeper saw, commands, time
//!        after each: node's writes to disk, then its messages, then its events
//! ```
//! The data plane runs on threads of its own and goes on while this loop is busy, or while the agent restarts.

#![expect(clippy::disallowed_methods, reason = "this is where the clock is read")]

mod agent;
pub mod data_plane;
mod events;
pub mod handle;
mod lease;
mod membership;
mod questions;
mod roles;
mod start;

use std::{path::PathBuf, sync::Arc};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{self, Duration},
};

use self::{
    agent::Agent,
    handle::{Control, Handle},
};
use crate::{
    config::Config,
    host::{self, Mode, Root},
    node::snapshot::{Problem, Severity, Snapshot},
    token::NetworkToken,
};

/// How often a machine without a readable token looks whether its files have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What this process is.
pub enum Purpose {
    /// A machine of the mesh; its configuration is in these directories, or in the usual ones if there are none.
    Machine(Vec<PathBuf>),
    /// Somebody's laptop: an observer with an identity of its own for as long as it runs.
    Bridge(Box<Config>),
}

/// How an [`Agent`] ended.
enum End {
    /// It was told to stop.
    Stopped,
    /// The configuration is to be read again.
    Reload,
    /// The cluster is to be forgotten, and then as for `Reload`.
    Reset { new_identity: bool },
}

/// The signals that concern us.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.terminate.recv() => End::Stopped,
            _ = self.interrupt.recv() => End::Stopped,
            _ = self.hangup.recv() => End::Reload,
        }
    }
}

/// Makes the two ends between a daemon and whoever speaks to it: serve the [`Handle`], give the [`Control`] to
/// [`run`]. Until that runs, calls wait.
pub fn channel() -> (Handle, Control) {
    handle::channel(Snapshot::empty())
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps this machine from being a member at all, with the fix.
pub async fn run(purpose: Purpose, root: Root, mut control: Control) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mode = host::mode(&root);
    let visitor = matches!((&purpose, mode), (Purpose::Bridge(_), _) | (_, Mode::Live));
    let root = if visitor { root.volatile() } else { root };
    loop {
        let (config, mut problems) = match &purpose {
            Purpose::Machine(directories) => load(&root, mode, directories),
            Purpose::Bridge(config) => ((**config).clone(), Vec::new()),
        };
        let token = match &config.network_token {
            Some(text) => NetworkToken::parse(text.reveal()).map_err(|error| error.to_string()),
            None => Err("there is no `c3os.network_token` in the configuration".to_owned()),
        };
        let end = match (token, &purpose) {
            (Ok(token), _) => {
                if token.is_weak() {
                    problems.push(weak_token());
                }
                let bridge = matches!(purpose, Purpose::Bridge(_));
                let directories = match &purpose {
                    Purpose::Machine(directories) => directories.clone(),
                    Purpose::Bridge(_) => Vec::new(),
                };
                let start = start::Start {
                    root: root.clone(),
                    config,
                    token,
                    directories,
                    visitor,
                    bridge,
                    problems,
                };
                Agent::start(start).await?.run(&mut control, &mut signals).await
            }
            (Err(why), Purpose::Bridge(_)) => anyhow::bail!("--network-token: {why}"),
            (Err(why), Purpose::Machine(directories)) => {
                tracing::error!(why, "This machine stays out of the mesh until its configuration is mended");
                problems.push(Problem {
                    severity: Severity::Error,
                    what: format!("this machine is on no mesh: {why}"),
                    fix: "put the token of `c3os generate-token` into config.yaml; it is read again when it changes"
                        .to_owned(),
                });
                wait_for_change(&root, mode, directories, &mut control, &mut signals, problems).await
            }
        };
        match end {
            End::Stopped => return Ok(()),
            End::Reload => tracing::info!("Reading the configuration again"),
            End::Reset { new_identity } => membership::reset(&root, new_identity).await?,
        }
    }
}

/// Reads the files, and says what is wrong in them.
fn load(root: &Root, mode: Mode, directories: &[PathBuf]) -> (Config, Vec<Problem>) {
    let loaded = host::load_config(root, mode, directories);
    let mut problems = Vec::new();
    for error in &loaded.unreadable {
        tracing::warn!(%error, "A configuration file cannot be read");
        problems.push(Problem {
            severity: Severity::Warning,
            what: error.to_string(),
            fix: "make it readable, then `systemctl reload c3os-agent`".to_owned(),
        });
    }
    for mistake in &loaded.parsed.mistakes {
        tracing::warn!("{mistake}; this machine {}", mistake.at_boot);
        problems.push(Problem {
            severity: Severity::Warning,
            what: format!(
                "{}:{}:{}: {}: {}",
                mistake.file, mistake.line, mistake.column, mistake.key, mistake.message
            ),
            fix: mistake.hint.clone().unwrap_or_else(|| format!("this machine {}", mistake.at_boot)),
        });
    }
    (loaded.parsed.config, problems)
}

fn weak_token() -> Problem {
    tracing::warn!("The network token was made by a generator that is no source of secrets; make a new one");
    Problem {
        severity: Severity::Warning,
        what: "the network token was made by an older generator, whose random numbers can be guessed"
            .to_owned(),
        fix: "`c3os rotate` replaces it on all machines while everything goes on".to_owned(),
    }
}

/// Answers that there is no mesh until the files change, somebody asks to reload, or it is time to stop.
async fn wait_for_change(
    root: &Root,
    mode: Mode,
    directories: &[PathBuf],
    control: &mut Control,
    signals: &mut Signals,
    problems: Vec<Problem>,
) -> End {
    let mut snapshot = Snapshot::empty();
    snapshot.problems = problems;
    control.show(Arc::new(snapshot));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Status("no readable network token")]);
    let digest = host::load_config(root, mode, directories).digest;
    let mut look = time::interval(LOOK_AGAIN);
    loop {
        tokio::select! {
            end = signals.next() => return end,
            call = control.next() => {
                if call.refuse_without_mesh() {
                    return End::Reload;
                }
            }
            _ = look.tick() => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                if host::load_config(root, mode, directories).digest != digest {
                    return End::Reload;
                }
            }
        }
    }
}
