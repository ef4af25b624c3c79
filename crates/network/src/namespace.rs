//! Work inside a network namespace. A namespace is a property of a thread, so there are two kinds of threads here and
//! no other thread ever changes its own:
//!
//! * short-lived ones ([`fresh`], [`inside`]) for the slow work of preparing and checking a slot; they end with it,
//! * one long-lived worker ([`Worker`]) that opens sockets, which is on the way of every request into a sandbox and
//!   takes microseconds.

use crate::error::NetworkError;
use leapbox_errors::chain;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

/// The calling thread's network namespace.
pub(crate) fn current() -> Result<OwnedFd, NetworkError> {
    File::open("/proc/thread-self/ns/net")
        .map(OwnedFd::from)
        .map_err(|source| NetworkError::Namespace { step: "open the current network namespace", source })
}

fn enter(netns: impl AsFd) -> Result<(), NetworkError> {
    setns(netns, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| NetworkError::Namespace { step: "enter a network namespace", source: errno.into() })
}

/// Makes a new namespace and does `work` in it. If that fails, the namespace and all that was made in it are gone.
pub(crate) async fn fresh<F>(work: F) -> Result<OwnedFd, NetworkError>
where
    F: FnOnce() -> Result<(), NetworkError> + Send + 'static,
{
    on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetworkError::Namespace { step: "make a network namespace", source: errno.into() })?;
        let netns = current()?;
        work().map(|()| netns)
    })
    .await
}

/// Does slow `work` inside a namespace, on a thread of its own.
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
            let _ = answer.send(work());
        })
        .map_err(|source| NetworkError::Namespace { step: "start a thread", source })?;
    result.await.map_err(|_: RecvError| NetworkError::ThreadGone)?
}

type Work = Box<dyn FnOnce() + Send>;

/// The thread that opens sockets inside slots. Cheap to clone; ends with its last clone.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    jobs: mpsc::Sender<(Arc<OwnedFd>, Work)>,
}

impl Worker {
    /// Starts it in the calling thread's namespace, which it returns to after each job.
    pub(crate) fn start() -> Result<Self, NetworkError> {
        let home = current()?;
        let (jobs, inbox) = mpsc::channel::<(Arc<OwnedFd>, Work)>();
        std::thread::Builder::new()
            .name("netns-sockets".into())
            .spawn(move || {
                for (netns, work) in inbox {
                    if let Err(error) = visit(&home, netns, work) {
                        tracing::error!(error = %chain(&error), "the socket thread is stuck in a network namespace and ends");
                        return;
                    }
                }
            })
            .map_err(|source| NetworkError::Namespace { step: "start a thread", source })?;
        Ok(Self { jobs })
    }

    /// Runs `work` inside the namespace. It must not block.
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

/// One job. Only an error to get back home is returned: it would leave the thread, and a reference on the slot, there.
fn visit(home: &OwnedFd, netns: Arc<OwnedFd>, work: Work) -> Result<(), NetworkError> {
    match enter(&*netns) {
        Ok(()) => work(),
        // Dropping the work answers its caller.
        Err(error) => tracing::warn!(error = %chain(&error), "a slot's namespace cannot be entered"),
    }
    drop(netns);
    enter(home)
}
