//! The ground that a lab stands on: one process with namespaces of its own, in which the bridge lies and all hosts run.
//!
//! It is pid 1 of its pid namespace, so when it goes (for `down`, or because somebody killed it) the kernel ends every
//! process of the lab, and with them goes every mount and interface. Nothing else has to be cleaned up but cgroups.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getegid, geteuid, pipe2, setsid};

use crate::dir::{LabDir, Spec};
use crate::net;
use crate::sys::{self, Process, Side, die_with_parent, fork_into, run_child, wait_child};

const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC);

fn namespaces(spec: &Spec) -> CloneFlags {
    if spec.rootless { NAMESPACES | CloneFlags::CLONE_NEWUSER } else { NAMESPACES }
}

/// Starts the ground. `tied`: it ends with the calling process, however that ends.
pub fn lay(lab: &LabDir, spec: &Spec, tied: bool) -> Result<()> {
    ensure!(
        lab.ground().is_none(),
        "a lab is up in {} already; `cargo lab down` ends it",
        lab.path().display()
    );
    let (go_read, go_write) = pipe2(OFlag::O_CLOEXEC).context("a pipe")?;
    let (done_read, done_write) = pipe2(OFlag::O_CLOEXEC).context("a pipe")?;
    let log = File::create(lab.path().join("ground.log")).context("making ground.log")?;
    match fork_into(namespaces(spec))? {
        Side::Child => {
            drop(go_write);
            drop(done_read);
            run_child(|| stand(go_read, done_write, log, tied))
        }
        Side::Parent(pid) => {
            drop(go_read);
            drop(done_write);
            if spec.rootless {
                map_users(pid)?;
            }
            lab.save_ground(pid)?;
            File::from(go_write).write_all(b"g").context("the lab's first process")?;
            let mut said = String::new();
            File::from(done_read).read_to_string(&mut said).context("the lab's first process")?;
            if said != "up" {
                bail!("laying the lab's network failed: {}", said.trim());
            }
            Ok(())
        }
    }
}

/// What the ground does: lay the bridge, then collect children until it is killed.
fn stand(go: OwnedFd, done: OwnedFd, log: File, tied: bool) -> Result<i32> {
    if tied {
        die_with_parent()?;
    }
    let mut byte = [0];
    File::from(go).read_exact(&mut byte).context("whoever started the lab went away")?;
    setsid().context("leaving the terminal")?;
    let mut done = File::from(done);
    let laid = prepare().and_then(|()| net::lay());
    match laid {
        Ok(()) => done.write_all(b"up").context("saying so")?,
        Err(error) => {
            done.write_all(format!("{error:#}").as_bytes()).context("saying so")?;
            return Ok(1);
        }
    }
    drop(done);
    quiet(&log)?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().context("signals")?;
    loop {
        while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        signals.wait().context("signals")?;
    }
}

fn prepare() -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("making mounts private")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).context("mounting /proc")
}

/// Sends everything that is still said to `log`, and reads nothing.
pub fn quiet(log: &File) -> Result<()> {
    dup2_stdin(File::open("/dev/null").context("/dev/null")?).context("stdin")?;
    dup2_stdout(log).context("stdout")?;
    dup2_stderr(log).context("stderr")
}

/// Makes the caller root inside of the new user namespace.
fn map_users(pid: Pid) -> Result<()> {
    let set = |name: &str, text: String| {
        fs::write(format!("/proc/{pid}/{name}"), text)
            .with_context(|| format!("{name} of a user namespace (are they allowed here? else use sudo)"))
    };
    set("setgroups", "deny".to_owned())?;
    set("uid_map", format!("0 {} 1", geteuid()))?;
    set("gid_map", format!("0 {} 1", getegid()))
}

/// Runs `work` inside of the lab's namespaces and gives its exit code.
pub fn inside(lab: &LabDir, spec: &Spec, work: impl FnOnce() -> Result<i32>) -> Result<i32> {
    let pid = lab.ground().with_context(|| {
        format!("the lab in {} is not up; start one with `cargo lab up`", lab.path().display())
    })?;
    let ground = Process::open(pid)?;
    // The caller stays where it is: one child goes into the namespaces, and its own child is in the pid namespace, too.
    match fork_into(CloneFlags::empty())? {
        Side::Child => run_child(|| {
            die_with_parent()?;
            ground.enter(namespaces(spec))?;
            match fork_into(CloneFlags::empty())? {
                Side::Child => run_child(|| {
                    die_with_parent()?;
                    work()
                }),
                Side::Parent(child) => wait_child(child),
            }
        }),
        Side::Parent(child) => wait_child(child),
    }
}

/// Ends everything that the lab has started, whoever started it and whatever became of them.
pub fn clear(lab: &LabDir, spec: Option<&Spec>) -> Result<bool> {
    let ground = lab.ground();
    if let Some(pid) = ground {
        let process = Process::open(pid)?;
        sys::kill_now(pid)?;
        ensure!(process.wait_gone(Duration::from_secs(10))?, "the lab's first process {pid} does not end");
    }
    if let Some(cgroup) = spec.and_then(|spec| spec.cgroup.as_deref()) {
        remove_cgroup(cgroup)?;
    }
    Ok(ground.is_some())
}

/// Removes a cgroup and those below it. The kernel needs a moment after the last process went.
pub fn remove_cgroup(path: &Path) -> Result<()> {
    let end = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        match try_remove(path) {
            Ok(()) => return Ok(()),
            Err(_) if !path.exists() => return Ok(()),
            Err(error) if std::time::Instant::now() > end => {
                return Err(error).with_context(|| format!("removing the cgroup {}", path.display()));
            }
            Err(_) => std::thread::park_timeout(Duration::from_millis(10)),
        }
    }
}

fn try_remove(path: &Path) -> std::io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            try_remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// Where the hosts' cgroups can hang: a place of the cgroup2 hierarchy that we may write to.
pub fn find_cgroup(lab: &LabDir) -> Result<std::path::PathBuf> {
    let unified = Path::new("/sys/fs/cgroup/unified");
    let (mount, hybrid) = if unified.join("cgroup.procs").exists() {
        (unified, true)
    } else {
        (Path::new("/sys/fs/cgroup"), false)
    };
    ensure!(
        mount.join("cgroup.procs").exists(),
        "systemd needs cgroup2, and there is none at /sys/fs/cgroup; use --init openrc"
    );
    // Root hangs them at the top; others below where they are, if that was delegated to them.
    let base = if geteuid().is_root() || hybrid {
        mount.to_path_buf()
    } else {
        let own = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
        mount.join(path)
    };
    let name = format!("c3os-lab-{:08x}", fingerprint(lab.path()));
    let path = base.join(name);
    fs::create_dir_all(&path)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .with_context(|| {
            format!(
                "systemd needs a cgroup of its own, and {} is not writable; use sudo, or --init openrc",
                base.display()
            )
        })?;
    Ok(path)
}

/// Tells labs apart that run at the same time.
fn fingerprint(path: &Path) -> u32 {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str()
        .as_bytes()
        .iter()
        .fold(0x811c_9dc5, |hash: u32, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
