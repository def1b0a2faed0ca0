//! Ending threads that wait in a system call, or are parked: a signal that means nothing to anybody else.

use std::{
    os::unix::thread::JoinHandleExt,
    sync::Once,
    thread::{self, JoinHandle},
    time::Duration,
};

/// Ignored by default, so that a stray one does no harm; with a handler it ends a blocking call with `EINTR`.
const SIGNAL: libc::c_int = libc::SIGURG;
/// A signal that comes just before the call is lost, so it is repeated.
const AGAIN: Duration = Duration::from_millis(2);

extern "C" fn nothing(_: libc::c_int) {}

/// Interrupts `threads` until each has ended, and joins them. They must have been told to end already.
pub fn interrupt_until_finished(threads: Vec<JoinHandle<()>>) {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        // SAFETY: sigaction is plain data, for which all zeros is a value (no flags: system calls are not restarted).
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int) = nothing;
        action.sa_sigaction = handler as libc::sighandler_t;
        // SAFETY: `action` is a whole sigaction whose handler touches nothing, so it may run at any moment.
        unsafe { libc::sigaction(SIGNAL, &action, std::ptr::null_mut()) };
    });
    for thread in threads {
        while !thread.is_finished() {
            // SAFETY: the thread was neither joined nor detached, since we hold its handle: its id is valid, even if it
            // ends just now. On musl it is a number for std and a pointer for libc.
            unsafe { libc::pthread_kill(thread.as_pthread_t() as libc::pthread_t, SIGNAL) };
            thread.thread().unpark();
            thread::park_timeout(AGAIN);
        }
        if thread.join().is_err() {
            tracing::error!("a thread of the data plane had panicked");
        }
    }
}
