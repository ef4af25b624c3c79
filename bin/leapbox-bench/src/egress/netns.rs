//! Namespaces of the run, and processes in them. A process that is started by a thread is in the thread's namespace, so
//! each is started by a short-lived thread that has entered it.

use super::{EgressError, io};
use leapbox_errors::chain;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Output};
use std::sync::Arc;

/// What a thread that panicked leaves.
type Panic = Box<dyn std::any::Any + Send>;

/// A namespace by its descriptor: it ends with the run.
#[derive(Clone)]
pub(super) struct Netns(Arc<OwnedFd>);

impl Netns {
    /// Moves the calling thread into a new namespace: to be done before a second thread is there.
    pub fn enter_fresh() -> Result<Self, EgressError> {
        let made = unshare(CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
        made.map_err(io("making a network namespace (the bench runs as root)"))?;
        let own = File::open("/proc/thread-self/ns/net").map_err(io("opening a network namespace"))?;
        let netns = Self(Arc::new(own.into()));
        netns.ip(&["link set lo up"])?;
        Ok(netns)
    }

    /// Makes a namespace with nothing but its loopback.
    pub fn fresh() -> Result<Self, EgressError> {
        std::thread::spawn(Self::enter_fresh).join().map_err(|_: Panic| EgressError::Thread)?
    }

    /// One that somebody else has made.
    pub fn of(netns: Arc<OwnedFd>) -> Self {
        Self(netns)
    }

    /// Under which path other processes can open it, as long as this one lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Does something on a thread inside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T, EgressError> + Send) -> Result<T, EgressError> {
        let visit = || {
            let entered = setns(&*self.0, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
            entered.map_err(io("entering a network namespace"))?;
            work()
        };
        std::thread::scope(|scope| scope.spawn(visit).join()).map_err(|_: Panic| EgressError::Thread)?
    }

    /// Runs `ip` inside, once for each line of arguments.
    pub fn ip(&self, lines: &[&str]) -> Result<(), EgressError> {
        lines.iter().try_for_each(|line| {
            let mut command = Command::new("ip");
            self.output(command.args(line.split_whitespace())).map(|_| ())
        })
    }

    /// Runs a command inside to its end.
    pub fn output(&self, command: &mut Command) -> Result<Output, EgressError> {
        let argv = format!("{command:?}");
        let output = self.inside(|| command.output().map_err(io("running a command of the host")))?;
        if output.status.success() {
            return Ok(output);
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(EgressError::Command { argv, status: output.status, stderr })
    }

    /// Starts a process inside.
    pub fn spawn(&self, step: &'static str, command: &mut Command) -> Result<Process, EgressError> {
        self.inside(|| command.spawn().map_err(io(step))).map(Process)
    }
}

/// Ended when dropped.
pub(super) struct Process(pub(super) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is what we want.
        let _ = self.0.kill();
        if let Err(error) = self.0.wait() {
            tracing::warn!(error = %chain(&error), "could not wait for a process of the run");
        }
    }
}
