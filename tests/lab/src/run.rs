//! Runs a command to its end, a time limit, or Ctrl-C, whichever comes first; and ends all of it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

/// How a command ended.
#[derive(Debug)]
pub enum End {
    Exited(ExitStatus),
    TimedOut,
}

/// Signals that are collected instead of acted upon. Children start with none of them held back.
pub struct Signals {
    set: SigSet,
}

impl Signals {
    /// Holds back Ctrl-C, termination, and the news that a child ended.
    pub fn hold() -> Result<Self> {
        let set: SigSet =
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect();
        set.thread_block().context("signals")?;
        Ok(Self { set })
    }

    /// The next signal, or none within `patience`.
    pub fn next(&self, patience: Duration) -> Result<Option<Signal>> {
        let time = libc::timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(patience.subsec_nanos()),
        };
        // SAFETY: both pointers are to live values; no signal information is asked for.
        let signal = unsafe { libc::sigtimedwait(self.set.as_ref(), std::ptr::null_mut(), &raw const time) };
        if signal < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error).context("waiting for a signal"),
            };
        }
        Signal::try_from(signal).map(Some).context("a signal")
    }

    /// Runs a command; on Ctrl-C it and all that it started is ended, and an error comes back.
    pub fn run(&self, command: &mut Command, limit: Duration) -> Result<End> {
        let set = self.set;
        // SAFETY: changing the mask of signals is safe between fork and exec; nothing is allocated.
        unsafe { command.pre_exec(move || set.thread_unblock().map_err(io::Error::from)) };
        let mut child =
            command.process_group(0).spawn().with_context(|| format!("{:?}", command.get_program()))?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait().context("waiting for a command")? {
                return Ok(End::Exited(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                end(&mut child);
                return Ok(End::TimedOut);
            }
            // Another thread (as in tests) may be told of the child's end in our place: look now and then.
            match self.next(left.min(Duration::from_millis(200)))? {
                Some(Signal::SIGCHLD) | None => {}
                Some(signal) => {
                    end(&mut child);
                    bail!("ended by {signal}");
                }
            }
        }
    }
}

/// Ends a command's process group.
fn end(child: &mut Child) {
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    // Gone already is fine: that is what we want.
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_command_ends_by_itself_or_when_its_time_is_over() {
        let signals = Signals::hold().unwrap();
        let End::Exited(status) = signals.run(&mut Command::new("false"), Duration::from_secs(10)).unwrap()
        else {
            panic!("`false` takes no time")
        };
        assert_eq!(status.code(), Some(1));
        let mut long = Command::new("sh");
        long.args(["-c", "sleep 100 & wait"]);
        assert!(matches!(signals.run(&mut long, Duration::from_millis(50)).unwrap(), End::TimedOut));
    }

    #[test]
    fn a_command_can_be_ended_by_a_signal() {
        let signals = Signals::hold().unwrap();
        let mut itself = Command::new("sh");
        itself.args(["-c", "kill -TERM $$; exit 0"]);
        let End::Exited(status) = signals.run(&mut itself, Duration::from_secs(10)).unwrap() else {
            panic!("it does not wait")
        };
        assert_eq!(status.signal(), Some(libc::SIGTERM));
    }
}
