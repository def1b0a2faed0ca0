//! Running other programs, with an end to how long they may take.

use std::{
    io::Read,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use super::{HostError, Root};

/// A service manager answers within this, or something is wrong with it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long users' own bootstrap stages may take.
const BOOTSTRAP_PATIENCE: Duration = Duration::from_secs(600);
/// More output than this is not kept.
const MAX_OUTPUT: u64 = 256 * 1024;

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// [`HostError::Command`] if it cannot be started, fails, or takes longer than 30 s.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String, HostError> {
    run_long(program, arguments, PATIENCE)
}

/// [`run`] with another limit, for what writes a whole disk.
pub(super) fn run_long(program: &str, arguments: &[&str], patience: Duration) -> Result<String, HostError> {
    let (status, output) = finish(program, arguments, patience)?;
    if status.success() { Ok(output) } else { Err(failed(program, arguments, &described(status, &output))) }
}

/// Runs a program to its end and tells whether it ended well.
///
/// # Errors
/// [`HostError::Command`] if it cannot be started or takes longer than 30 s.
pub(super) fn succeeds(program: &str, arguments: &[&str]) -> Result<bool, HostError> {
    finish(program, arguments, PATIENCE).map(|(status, _)| status.success())
}

/// The exit code of a program; none if a signal ended it.
pub(super) fn code(program: &str, arguments: &[&str]) -> Result<Option<i32>, HostError> {
    finish(program, arguments, PATIENCE).map(|(status, _)| status.code())
}

/// Starts a program and does not wait; a failure is logged.
pub(super) fn launch(program: &str, arguments: &[&str]) -> Result<(), HostError> {
    // What it starts may keep its output open for ever, so nobody listens to it.
    let mut child = spawn(program, arguments, Stdio::null)?;
    let command = told(program, arguments);
    std::thread::spawn(move || match child.wait() {
        Ok(status) if status.success() => tracing::debug!(command, "done"),
        Ok(status) => tracing::warn!(command, %status, "failed"),
        Err(error) => tracing::warn!(command, %error, "failed"),
    });
    Ok(())
}

/// Runs the steps that users hung on `stage` (such as `c3os.bootstrap.before.master`) with the cloud-init runner that
/// is installed, 10 minutes at most. Without a runner there is nobody who could have hung steps on it.
///
/// # Errors
/// [`HostError::Command`] if the runner fails or takes too long.
pub(super) fn run_bootstrap_stage(root: &Root, stage: &str) -> Result<(), HostError> {
    let installed = |name: &str| {
        ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin"]
            .iter()
            .map(|directory| root.path(PathBuf::from(directory).join(name)))
            .find(|path| path.is_file())
            .map(|path| path.to_string_lossy().into_owned())
    };
    let directories = super::discover::DIRECTORIES;
    let (program, arguments) = if let Some(elemental) = installed("elemental") {
        (elemental, vec!["run-stage", stage])
    } else if let Some(kairos) = installed("kairos-agent") {
        (kairos, vec!["run-stage", stage])
    } else if let Some(yip) = installed("yip") {
        let mut arguments = vec!["-s", stage];
        arguments.extend(directories.iter().filter(|directory| root.path(directory).is_dir()));
        (yip, arguments)
    } else {
        return Ok(());
    };
    let (status, output) = finish(&program, &arguments, BOOTSTRAP_PATIENCE)?;
    if status.success() { Ok(()) } else { Err(failed(&program, &arguments, &described(status, &output))) }
}

fn finish(program: &str, arguments: &[&str], patience: Duration) -> Result<(ExitStatus, String), HostError> {
    let mut child = spawn(program, arguments, Stdio::piped)?;
    let pid = child.id();
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let output = drain(&mut child);
        let _ = done.send((child.wait(), output));
    });
    match ended.recv_timeout(patience) {
        Ok((Ok(status), output)) => Ok((status, output)),
        Ok((Err(error), _)) => Err(failed(program, arguments, &error.to_string())),
        Err(_) => {
            // The child is its own process group, so what it started ends too.
            let group = nix::unistd::Pid::from_raw(pid.cast_signed());
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            Err(failed(
                program,
                arguments,
                &format!("took longer than {} s and was ended", patience.as_secs()),
            ))
        }
    }
}

fn spawn(program: &str, arguments: &[&str], output: fn() -> Stdio) -> Result<Child, HostError> {
    use std::os::unix::process::CommandExt;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output())
        .stderr(output())
        .env("LC_ALL", "C")
        .env("SYSTEMD_COLORS", "0")
        // Of the agent's own; a service manager's tool must not report for it.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .process_group(0)
        .spawn()
        .map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                failed(program, arguments, "is impossible: the program is not installed")
            } else {
                failed(program, arguments, &format!("cannot be started: {error}"))
            }
        })
}

/// Reads what a child prints until it closes both ends, so that it never blocks on a full pipe.
fn drain(child: &mut Child) -> String {
    let stderr = child.stderr.take();
    let errors = std::thread::spawn(move || stderr.map_or_else(String::new, read_some));
    let output = child.stdout.take().map_or_else(String::new, read_some);
    output + &errors.join().unwrap_or_default()
}

fn read_some(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}

fn failed(program: &str, arguments: &[&str], failure: &str) -> HostError {
    HostError::Command { command: told(program, arguments), failure: failure.to_owned() }
}

fn told(program: &str, arguments: &[&str]) -> String {
    let mut words = vec![program];
    words.extend(arguments);
    words.join(" ")
}

/// `failed (exit status: 4): last line of its output`.
fn described(status: ExitStatus, output: &str) -> String {
    match output.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("failed ({status}): {}", line.trim()),
        None => format!("failed ({status})"),
    }
}
