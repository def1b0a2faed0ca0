//! One host: its boot, and its end.
//!
//! ```text
//! monitor --clone--> pid 1: root, address, stage initramfs --exec--> OpenRC, systemd (or our own loop)
//!    |                  |
//!    |   reboot: again  |  power cut: SIGKILL to pid 1, and the kernel ends everything in its namespaces
//!    `------<-----------'
//! ```
//! The monitor stays in the lab's namespaces, gives every boot a fresh network namespace with a cable, and cleans up.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, sethostname, setsid};

use crate::dir::{HostSpec, Init, Kind, LabDir, Spec};
use crate::ground::{quiet, remove_cgroup};
use crate::sys::{self, Process, Side, die_with_parent, fork_into, run_child};
use crate::{net, root};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// A boot under way. It is done when pid 1 is the service manager.
pub struct Boot {
    name: String,
    report: File,
}

impl Boot {
    /// Waits for the stage initramfs and for the service manager to start.
    pub fn finish(mut self) -> Result<()> {
        let mut said = String::new();
        self.report.read_to_string(&mut said).context("the host's monitor")?;
        ensure!(said.is_empty(), "{} does not boot: {}", self.name, said.trim());
        Ok(())
    }
}

/// Switches a host on. To be called inside of the lab's namespaces.
pub fn start(lab: &LabDir, spec: &Spec, host: &HostSpec) -> Result<Boot> {
    ensure!(running(lab, host).is_none(), "{} is running already", host.name);
    // Closed by what pid 1 executes: an end without a word tells that all went well.
    let (read, write) = pipe2(OFlag::O_CLOEXEC).context("a pipe")?;
    match fork_into(CloneFlags::empty())? {
        Side::Child => {
            drop(read);
            run_child(|| monitor(lab, spec, host, write))
        }
        Side::Parent(_) => Ok(Boot { name: host.name.clone(), report: File::from(read) }),
    }
}

/// A host's pid 1, as seen in the lab's pid namespace.
pub fn running(lab: &LabDir, host: &HostSpec) -> Option<Pid> {
    noted(lab, host, "init")
}

fn noted(lab: &LabDir, host: &HostSpec, what: &str) -> Option<Pid> {
    let text = fs::read_to_string(lab.host(&host.name).join(what)).ok()?;
    let (pid, start) = text.trim().split_once(' ')?;
    let pid: i32 = pid.parse().ok()?;
    (sys::start_time(pid) == start.parse().ok()).then(|| Pid::from_raw(pid))
}

fn note(lab: &LabDir, host: &HostSpec, what: &str, pid: Pid) -> Result<()> {
    let start = sys::start_time(pid.as_raw()).context("the process ended at once")?;
    fs::write(lab.host(&host.name).join(what), format!("{pid} {start}\n"))
        .with_context(|| format!("noting {what}"))
}

/// How often a host was switched on.
pub fn boots(lab: &LabDir, host: &HostSpec) -> u32 {
    let text = fs::read_to_string(lab.host(&host.name).join("boots")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Cuts the power: nothing on the host gets a chance to do anything.
pub fn cut_power(lab: &LabDir, host: &HostSpec) -> Result<()> {
    let Some(pid) = running(lab, host) else { bail!("{} is not running", host.name) };
    let monitor = noted(lab, host, "monitor").map(Process::open).transpose()?;
    sys::kill_now(pid)?;
    if let Some(monitor) = monitor {
        ensure!(monitor.wait_gone(Duration::from_secs(20))?, "{} does not end", host.name);
    }
    Ok(())
}

/// Shuts a host down as its operator would; after `patience` the power goes.
pub fn shut_down(lab: &LabDir, spec: &Spec, host: &HostSpec, patience: Duration) -> Result<()> {
    if running(lab, host).is_none() {
        bail!("{} is not running", host.name);
    }
    let monitor = noted(lab, host, "monitor").map(Process::open).transpose()?;
    let command: &[&str] = match (host.kind, spec.init) {
        (Kind::Bare | Kind::Laptop, _) => return cut_power(lab, host),
        (Kind::Machine, Init::Openrc) => &["openrc-shutdown", "-p", "now"],
        (Kind::Machine, Init::Systemd) => &["systemctl", "--no-block", "start", "poweroff.target"],
    };
    let words: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
    match fork_into(CloneFlags::empty())? {
        Side::Child => run_child(|| {
            Err(match execute(lab, host, 0, None, &words) {
                Ok(()) => anyhow::anyhow!("nothing was executed"),
                Err(error) => error,
            })
        }),
        Side::Parent(child) => {
            // It may be ended by the very shutdown it asked for.
            let _ = sys::wait_child(child)?;
        }
    }
    let gone = match &monitor {
        Some(monitor) => monitor.wait_gone(patience)?,
        None => true,
    };
    if gone { Ok(()) } else { cut_power(lab, host) }
}

/// Becomes `words`, run as `user` on a host, with a listening socket handed over. To be called inside of the lab's
/// namespaces, in a child.
pub fn execute(
    lab: &LabDir,
    host: &HostSpec,
    user: u32,
    listener: Option<&TcpListener>,
    words: &[String],
) -> Result<()> {
    let pid = running(lab, host).with_context(|| {
        format!("{} is not running; start it with `cargo lab start {}`", host.name, host.name)
    })?;
    let (program, arguments) = words.split_first().context("no command given: exec NODE -- CMD")?;
    Process::open(pid)?.enter(NAMESPACES)?;
    match fork_into(CloneFlags::empty())? {
        Side::Child => {
            die_with_parent()?;
            let home = if user == 0 { "/root" } else { "/tmp" };
            let mut command = Command::new(program);
            command.args(arguments).env_clear().env("PATH", PATH).env("HOME", home).current_dir("/");
            for name in ["TERM", "LANG", "NO_COLOR", "C3OS_LOG"] {
                if let Some(value) = std::env::var_os(name) {
                    command.env(name, value);
                }
            }
            if user != 0 {
                command.uid(user).gid(user);
            }
            if let Some(listener) = listener {
                sys::hand_over(listener)?;
                command.env("LISTEN_FDS", "1").env("LISTEN_PID", nix::unistd::getpid().to_string());
            }
            Err(command.exec()).with_context(|| format!("{program} on {}", host.name))
        }
        Side::Parent(child) => std::process::exit(sys::wait_child(child)?),
    }
}

fn cgroup(spec: &Spec, host: &HostSpec) -> Option<PathBuf> {
    spec.cgroup.as_ref().map(|base| base.join(&host.name))
}

/// Keeps a host on: boots it, and again whenever it reboots.
fn monitor(lab: &LabDir, spec: &Spec, host: &HostSpec, report: OwnedFd) -> Result<i32> {
    setsid().context("leaving the terminal")?;
    let base = lab.host(&host.name);
    let log =
        OpenOptions::new().create(true).append(true).open(base.join("console.log")).context("console.log")?;
    let mut report = Some(File::from(report));
    let kept_on =
        quiet(&log).and_then(|()| note(lab, host, "monitor", nix::unistd::getpid())).and_then(|()| {
            loop {
                let again = one_boot(lab, spec, host, report.take())?;
                if !again {
                    return Ok(0);
                }
            }
        });
    if let (Err(error), Some(report)) = (&kept_on, &mut report) {
        write!(report, "{error:#}").context("saying so")?;
    }
    for name in ["init", "monitor"] {
        fs::remove_file(base.join(name)).ok();
    }
    kept_on
}

/// One boot up to its end; true when the host asked for another one.
fn one_boot(lab: &LabDir, spec: &Spec, host: &HostSpec, report: Option<File>) -> Result<bool> {
    let base = lab.host(&host.name);
    fs::write(base.join("boots"), format!("{}\n", boots(lab, host) + 1)).context("counting boots")?;
    let cgroup = cgroup(spec, host);
    if let Some(path) = &cgroup {
        remove_cgroup(path)?;
        fs::create_dir(path).with_context(|| format!("making the cgroup {}", path.display()))?;
    }
    net::unplug(host);
    let (go_read, go_write) = pipe2(OFlag::O_CLOEXEC).context("a pipe")?;
    match fork_into(NAMESPACES)? {
        Side::Child => {
            drop(go_write);
            let failed = become_init(lab, spec, host, go_read);
            let Err(error) = failed;
            if let Some(mut report) = report {
                write!(report, "{error:#}").ok();
            }
            run_child(|| Err(error))
        }
        Side::Parent(pid) => {
            drop(go_read);
            drop(report);
            let ready = (|| {
                note(lab, host, "init", pid)?;
                if let Some(path) = &cgroup {
                    fs::write(path.join("cgroup.procs"), pid.to_string())
                        .with_context(|| format!("entering the cgroup {}", path.display()))?;
                }
                net::plug(host, pid)?;
                File::from(go_write).write_all(b"g").context("the host's pid 1")
            })();
            if ready.is_err() {
                sys::kill_now(pid)?;
            }
            let end = waitpid(pid, None).context("waiting for the host")?;
            println!("lab: {} ended: {end:?}", host.name);
            fs::remove_file(base.join("init")).ok();
            net::unplug(host);
            if let Some(path) = &cgroup {
                remove_cgroup(path)?;
            }
            ready?;
            // reboot(2) in a pid namespace ends its pid 1 with SIGHUP; power off and halt with SIGINT.
            Ok(matches!(end, WaitStatus::Signaled(_, Signal::SIGHUP, _)))
        }
    }
}

/// The first process of a host; comes back only when something failed.
fn become_init(lab: &LabDir, spec: &Spec, host: &HostSpec, go: OwnedFd) -> Result<std::convert::Infallible> {
    die_with_parent()?;
    let mut byte = [0];
    File::from(go).read_exact(&mut byte).context("the host's monitor went away")?;
    if spec.cgroup.is_some() {
        unshare(CloneFlags::CLONE_NEWCGROUP).context("a cgroup namespace")?;
    }
    sethostname(&host.name).context("the host's name")?;
    net::configure(host)?;
    root::enter(lab, spec, host, &[lab.image().join("usr")])?;
    let init: &[&str] = match (host.kind, spec.init) {
        (Kind::Bare, _) => &["/usr/libexec/lab/idle", "c3os", "agent"],
        (Kind::Laptop, _) => &["/usr/libexec/lab/idle"],
        (Kind::Machine, Init::Openrc) => &["/usr/sbin/openrc-init"],
        (Kind::Machine, Init::Systemd) => &["/usr/lib/systemd/systemd"],
    };
    if host.kind == Kind::Machine {
        // What elemental does in the initramfs, chrooted into the root to be.
        let stage =
            command("/usr/libexec/lab/run-stage").arg("initramfs").status().context("the stage initramfs")?;
        if !stage.success() {
            println!("lab: the stage initramfs failed ({stage}); the boot goes on, as on a machine");
        }
    }
    // Tells OpenRC and systemd to leave hardware alone.
    let container = if spec.init == Init::Openrc { "lxc" } else { "lab" };
    Err(command(init[0]).args(&init[1..]).env("container", container).exec())
        .with_context(|| format!("starting {}", init[0]))
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("TERM", "dumb").stdin(Stdio::null());
    command
}
