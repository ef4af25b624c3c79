//! Does work inside network namespaces. A namespace is a property of a thread, so a thread of the async runtime that
//! changed its own would run other tasks in it. There are two kinds of threads here, and no other thread ever changes
//! its namespace:
//!
//! * short-lived ones ([`fresh`], [`inside`], [`scratch`]) for slow work such as preparing and checking a slot; they
//!   end with it,
//! * one long-lived thread ([`NamespaceThread`]) that opens sockets. Every new connection into a sandbox waits for it,
//!   and it takes microseconds.

use crate::error::NetworkError;
use leapbox_errors::chain;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

/// Opens the calling thread's network namespace.
pub(crate) fn current() -> Result<OwnedFd, NetworkError> {
    File::open("/proc/thread-self/ns/net")
        .map(OwnedFd::from)
        .map_err(|source| NetworkError::Namespace { step: "open the current network namespace", source })
}

fn enter(netns: impl AsFd) -> Result<(), NetworkError> {
    setns(netns, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| NetworkError::Namespace { step: "enter a network namespace", source: errno.into() })
}

/// Makes a new namespace, runs `work` in it on a new thread, and returns it. If `work` fails, the namespace ends with
/// the thread, and everything that was made in it with the namespace.
pub(crate) async fn fresh<F>(work: F) -> Result<OwnedFd, NetworkError>
where
    F: FnOnce() -> Result<(), NetworkError> + Send + 'static,
{
    scratch(move || {
        let netns = current()?;
        work().map(|()| netns)
    })
    .await
}

/// Runs `work` in a new namespace, on a new thread. The namespace ends with the thread unless `work` returns it.
pub(crate) async fn scratch<T, F>(work: F) -> Result<T, NetworkError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, NetworkError> + Send + 'static,
{
    on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetworkError::Namespace { step: "make a network namespace", source: errno.into() })?;
        work()
    })
    .await
}

/// Runs slow `work` inside a namespace, on a thread of its own.
pub(crate) async fn inside<F>(netns: Arc<OwnedFd>, work: F) -> Result<(), NetworkError>
where
    F: FnOnce() -> Result<(), NetworkError> + Send + 'static,
{
    on_thread(move || enter(&*netns).and_then(|()| work())).await
}

async fn on_thread<T, F>(work: F) -> Result<T, NetworkError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, NetworkError> + Send + 'static,
{
    let (answer, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            // Fails only if the caller has given up.
            let _ = answer.send(work());
        })
        .map_err(|source| NetworkError::Namespace { step: "start a thread", source })?;
    result.await.map_err(|_: RecvError| NetworkError::ThreadGone)?
}

type Work = Box<dyn FnOnce() + Send>;

/// A handle of the thread that opens sockets inside slots. It is cheap to clone; the thread ends with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct NamespaceThread {
    jobs: mpsc::Sender<(Arc<OwnedFd>, Work)>,
}

impl NamespaceThread {
    /// Starts the thread. It returns to the calling thread's namespace after each job.
    pub(crate) fn start() -> Result<Self, NetworkError> {
        let own = current()?;
        let (jobs, inbox) = mpsc::channel::<(Arc<OwnedFd>, Work)>();
        std::thread::Builder::new()
            .name("netns-sockets".into())
            .spawn(move || {
                for (netns, work) in inbox {
                    if let Err(error) = run_job(&own, netns, work) {
                        tracing::error!(error = %chain(&error), "the socket thread cannot leave a namespace and ends");
                        return;
                    }
                }
            })
            .map_err(|source| NetworkError::Namespace { step: "start a thread", source })?;
        Ok(Self { jobs })
    }

    /// Runs `work` inside the namespace. It must not block, because all slots share the thread.
    pub(crate) async fn run<T, F>(&self, netns: Arc<OwnedFd>, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let work = Box::new(move || {
            let _ = answer.send(work());
        });
        self.jobs.send((netns, work)).map_err(|_: mpsc::SendError<_>| io::Error::other(NetworkError::ThreadGone))?;
        result.await.map_err(|_: RecvError| io::Error::other("the network namespace could not be entered"))?
    }
}

/// Runs one job. The only error returned is one of leaving the slot's namespace again: a thread that stays there would
/// do the next slot's work in it, and would keep the namespace, and with it the slot's index.
fn run_job(own: &OwnedFd, netns: Arc<OwnedFd>, work: Work) -> Result<(), NetworkError> {
    match enter(&*netns) {
        Ok(()) => work(),
        // Dropping `work` drops its channel, which answers the caller.
        Err(error) => tracing::warn!(error = %chain(&error), "a slot's namespace cannot be entered"),
    }
    drop(netns);
    enter(own)
}
