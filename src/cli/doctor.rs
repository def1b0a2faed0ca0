//! `c3os doctor`: looks at everything that the mesh and the cluster stand on, and says what to mend.

mod machine;
mod mesh;

use std::{path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{
    ask::Api,
    output::{Output, Tone, coloured, plain},
    validate,
};
use crate::{
    api::ClientError,
    config::RoleSetting,
    host::{self, Root},
    node::snapshot::Snapshot,
};

/// Checks this machine and its place on the mesh; fails if something keeps it from its job.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    api: Api,
    #[command(flatten)]
    output: Output,
    /// Directory that stands for the machine's `/`.
    #[arg(long, hide = true, default_value = "/", env = "C3OS_ROOT")]
    root: PathBuf,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, or may; somebody should look.
    Warn,
    /// It keeps the machine from its job.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    what: String,
    /// What to do about it.
    fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, what: what.into(), fix: None }
    }

    fn warn(check: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, what: what.into(), fix: Some(fix.into()) }
    }

    fn fail(check: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, what: what.into(), fix: Some(fix.into()) }
    }
}

/// What the checks know before they look.
struct Known<'a> {
    root: &'a Root,
    config: &'a crate::config::Config,
    /// None: no agent answers.
    snapshot: Option<&'a Snapshot>,
}

impl Known<'_> {
    /// The machine is meant to be on a mesh by its own configuration; a laptop with a bridge is not.
    fn is_configured(&self) -> bool {
        self.config.network_token.is_some()
    }

    /// The machine is meant to be a k3s server, or may be chosen as one.
    fn may_serve(&self) -> bool {
        self.wants_k3s() && self.config.role != RoleSetting::Worker
    }

    /// The machine is meant to run k3s.
    fn wants_k3s(&self) -> bool {
        match self.config.role {
            RoleSetting::None => false,
            RoleSetting::Auto | RoleSetting::Master | RoleSetting::Worker => self.is_configured(),
        }
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let root = Root::at(&args.root);
    let mut loaded = host::load_config(&root, host::mode(&root), &[]);
    validate::check_token(&mut loaded.parsed);
    let status = match args.api.client() {
        Ok(client) => super::ask::block_on(client.status())?,
        Err(error @ ClientError::Address(_)) => return Err(error.into()),
        Err(error) => Err(error),
    };
    let known = Known { root: &root, config: &loaded.parsed.config, snapshot: status.as_ref().ok() };
    let mut findings = vec![agent(&status, &known)];
    findings.extend(machine::configuration(&loaded));
    findings.extend(machine::look(&known));
    if let Ok(snapshot) = &status {
        findings.extend(mesh::look(snapshot));
    }
    args.output.print(&findings, || findings.iter().map(text).collect())?;
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (failed, doubtful) = (count(Verdict::Fail), count(Verdict::Warn));
    eprintln!("c3os: {} checks, {failed} failed, {doubtful} to look at", findings.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn agent(status: &Result<Snapshot, ClientError>, known: &Known<'_>) -> Finding {
    match status {
        Ok(snapshot) => Finding::ok("agent", format!("answers, version {}", plain(&snapshot.node.version))),
        Err(error @ ClientError::NotRunning { .. }) => {
            let fix = if known.is_configured() {
                "systemctl status c3os-agent; journalctl -u c3os-agent"
            } else {
                "give this machine a network token (c3os create-config), or run `sudo c3os bridge`"
            };
            Finding::fail("agent", error.to_string(), fix)
        }
        Err(error) => Finding::fail("agent", error.to_string(), "restart it: systemctl restart c3os-agent"),
    }
}

fn text(finding: &Finding) -> String {
    let verdict = match finding.verdict {
        Verdict::Ok => coloured("ok  ", Tone::Good),
        Verdict::Warn => coloured("warn", Tone::Doubtful),
        Verdict::Fail => coloured("fail", Tone::Bad),
    };
    let line = format!("{verdict}  {:<9}  {}\n", finding.check, plain(&finding.what));
    match &finding.fix {
        Some(fix) => format!("{line}                 fix: {}\n", plain(fix)),
        None => line,
    }
}
