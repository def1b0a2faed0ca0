//! Processes and namespaces: the few system calls that the standard library does not offer.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// What a fork answered: on which side of it we are.
pub enum Side {
    /// The process that called; the child's pid as seen from here.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Forks into new namespaces. With `CLONE_NEWPID` the child is pid 1 of its namespace.
pub fn fork_into(flags: CloneFlags) -> Result<Side> {
    // SAFETY: clone without CLONE_VM and without a stack is fork; this program has one thread, so no lock can be left
    // held in the child.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(flags.bits() | libc::SIGCHLD), 0, 0, 0, 0)
    };
    match pid {
        -1 => Err(io::Error::last_os_error()).with_context(|| format!("new namespaces ({flags:?})")),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(Pid::from_raw(i32::try_from(pid).context("pid out of range")?))),
    }
}

/// Where a program finds the first socket that is handed over to it (sd_listen_fds(3)).
const FIRST_HANDED_OVER: i32 = 3;

/// Puts a copy of `socket` where a program that we become looks for it.
pub fn hand_over(socket: &impl AsRawFd) -> Result<()> {
    let fd = socket.as_raw_fd();
    // SAFETY: two descriptors as integers; whatever was open as the second is not used by us any more, since we are
    // about to become another program. dup2 of a descriptor on itself would keep its close-on-exec flag.
    let done = unsafe {
        if fd == FIRST_HANDED_OVER {
            libc::fcntl(fd, libc::F_SETFD, 0)
        } else {
            libc::dup2(fd, FIRST_HANDED_OVER)
        }
    };
    if done < 0 {
        return Err(io::Error::last_os_error()).context("handing a socket over");
    }
    Ok(())
}

/// A handle on a process that cannot come to mean another one when pids are used again.
pub struct Process {
    fd: OwnedFd,
}

impl Process {
    /// Opens `pid` (as seen from the caller's pid namespace).
    pub fn open(pid: Pid) -> Result<Self> {
        // SAFETY: pidfd_open takes two integers and gives back a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("process {pid}"));
        }
        // SAFETY: the descriptor was just made for us and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).context("descriptor out of range")?) };
        Ok(Self { fd })
    }

    /// Moves the caller into the namespaces `flags` of this process. The pid namespace counts for its children only.
    pub fn enter(&self, flags: CloneFlags) -> Result<()> {
        setns(&self.fd, flags).context("entering the namespaces")
    }

    /// Waits until the process has ended; false when it is still there after `patience`.
    pub fn wait_gone(&self, patience: Duration) -> Result<bool> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid pollfd, and the count says one.
            let n =
                unsafe { libc::poll(&raw mut poll, 1, i32::try_from(left.as_millis()).unwrap_or(i32::MAX)) };
            match n {
                1.. => return Ok(true),
                0 => return Ok(false),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error).context("waiting for a process to end");
                    }
                }
            }
        }
    }
}

/// The caller dies (SIGKILL) when its parent does.
pub fn die_with_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("tying the process to its parent")
}

/// Runs `work` in a child and ends the child with its exit code.
pub fn run_child(work: impl FnOnce() -> Result<i32>) -> ! {
    let code = match work() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            1
        }
    };
    std::process::exit(code)
}

/// Waits for a child and turns its end into an exit code, as a shell does.
pub fn wait_child(pid: Pid) -> Result<i32> {
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).with_context(|| format!("waiting for process {pid}")),
        }
    }
}

/// When a process was started, in clock ticks since boot: with its pid it names one process for good.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; the 20th field after it is the start time.
    let (state, rest) = stat.rsplit_once(')')?.1.trim_start().split_once(' ')?;
    if state == "Z" { None } else { rest.split(' ').nth(18)?.parse().ok() }
}

/// Sends SIGKILL; a process that is gone already is fine.
pub fn kill_now(pid: Pid) -> Result<()> {
    match kill(pid, Signal::SIGKILL) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("ending process {pid}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_has_a_start_time_and_a_missing_one_has_none() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(me).is_some());
        assert_eq!(start_time(me), start_time(me));
        assert_eq!(start_time(i32::MAX), None);
    }
}
