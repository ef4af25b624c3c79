//! Burying the workload's orphans.
//!
//! Processes whose parent died become children of PID 1's *first thread*, while a command's own process is a child of
//! the worker thread that started it, which waits for it. So the main thread buries its own children alone
//! (`__WNOTHREAD`), and no table or lock is needed to keep the two apart.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use std::convert::Infallible;
use std::error::Error;

/// The main thread's claim on `SIGCHLD`.
#[derive(Debug)]
pub struct Reaper {
    child_signal: SigSet,
}

impl Reaper {
    /// Blocks `SIGCHLD`, so that it is waited for. To be called on the main thread before any other exists: they inherit
    /// the mask.
    pub fn claim() -> Result<Self, Box<dyn Error>> {
        let mut child_signal = SigSet::empty();
        child_signal.add(Signal::SIGCHLD);
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&child_signal), None)?;
        Ok(Self { child_signal })
    }

    /// Buries for ever.
    pub fn run(&self) -> Result<Infallible, Box<dyn Error>> {
        loop {
            while bury_one() {}
            match self.child_signal.wait() {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Buries one dead child of the calling thread, if there is one.
fn bury_one() -> bool {
    let flags = libc::WEXITED | libc::WNOHANG | libc::__WNOTHREAD;
    // SAFETY: an all-zero siginfo_t is valid; the kernel fills it in, or leaves it zero when no child is dead.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &mut info, flags) == 0 && info.si_pid() != 0
    }
}
