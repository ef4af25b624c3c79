//! Namespaces of the run, and commands in them. A process that is started by a thread is in the thread's namespace, so
//! each is started by a short-lived thread that has entered it.

use crate::process::Process;
use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use std::any::Any;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Output};
use std::sync::Arc;

/// A namespace by its descriptor: it ends with the run.
pub(super) struct Netns(Arc<OwnedFd>);

impl Netns {
    /// Moves the calling thread into a new namespace: to be done before a second thread is there.
    pub fn enter_fresh() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace (the bench runs as root)")?;
        let own = File::open("/proc/thread-self/ns/net").context("opening a network namespace")?;
        let netns = Self(Arc::new(own.into()));
        netns.ip(&["link set lo up"])?;
        Ok(netns)
    }

    /// Makes a namespace with nothing but its loopback.
    pub fn fresh() -> Result<Self> {
        std::thread::spawn(Self::enter_fresh).join().map_err(panicked)?
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
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let visit = || {
            setns(&*self.0, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            work()
        };
        std::thread::scope(|scope| scope.spawn(visit).join()).map_err(panicked)?
    }

    /// Runs `ip` inside, once for each line of arguments.
    pub fn ip(&self, lines: &[&str]) -> Result<()> {
        lines.iter().try_for_each(|line| {
            let mut command = Command::new("ip");
            self.output(command.args(line.split_whitespace())).map(drop)
        })
    }

    /// Runs a command inside to its end.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let output = self.inside(|| command.output().with_context(|| format!("running `{command:?}`")))?;
        let (status, stderr) = (output.status, String::from_utf8_lossy(&output.stderr));
        ensure!(status.success(), "`{command:?}` failed ({status}): {stderr}");
        Ok(output)
    }

    pub fn spawn(&self, command: &mut Command) -> Result<Process> {
        self.inside(|| command.spawn().with_context(|| format!("starting `{command:?}`"))).map(Process)
    }
}

fn panicked(_: Box<dyn Any + Send>) -> anyhow::Error {
    anyhow!("a thread of the run panicked")
}
