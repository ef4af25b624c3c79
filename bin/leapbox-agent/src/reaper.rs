//! Reaps orphaned processes of the workload, as PID 1 must.
//!
//! Processes whose parent died become children of PID 1's *first thread*, while a command's own process is a child of
//! the worker thread that started it and waits for it. So the main thread reaps its own children alone (`__WNOTHREAD`),
//! and no table or lock is needed to keep a command's exit code from being taken by the reaper. Called by `main`.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use std::convert::Infallible;
use std::error::Error;

/// The set of signals that the main thread waits for: `SIGCHLD`, blocked by [`Reaper::claim`].
#[derive(Debug)]
pub struct Reaper {
    child_signal: SigSet,
}

impl Reaper {
    /// Blocks `SIGCHLD`, so that it stays pending until it is waited for. To be called on the main thread before any
    /// other exists: threads inherit the mask, and one that does not block the signal would receive and ignore it.
    pub fn claim() -> Result<Self, Box<dyn Error>> {
        let mut child_signal = SigSet::empty();
        child_signal.add(Signal::SIGCHLD);
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&child_signal), None)?;
        Ok(Self { child_signal })
    }

    /// Reaps for ever; returns only if the kernel refuses to wait.
    pub fn run(&self) -> Result<Infallible, Box<dyn Error>> {
        loop {
            // All that are dead, because signals do not count: one may stand for many children.
            while reap_one() {}
            match self.child_signal.wait() {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reaps one dead child of the calling thread; false if there is none.
fn reap_one() -> bool {
    let flags = libc::WEXITED | libc::WNOHANG | libc::__WNOTHREAD;
    // SAFETY: an all-zero siginfo_t is valid; the kernel fills it in, or leaves it zero when no child is dead.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &mut info, flags) == 0 && info.si_pid() != 0
    }
}
