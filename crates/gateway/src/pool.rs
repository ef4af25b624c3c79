//! Request permits and idle connections, per sandbox.
//!
//! A request takes a [`RequestPermit`] for its sandbox. The permits bound how much one sandbox can hold, and give
//! access to the idle connections to its ports. Idle connections are few and short-lived, because a sweep closes them;
//! all connections into a sandbox, idle or in use, are closed by [`Pool::forget`] when it ends or is stored.

use crate::config::Limits;
use crate::revocable::{RevocableStream, Revoker};
use crate::upstream::Upstream;
use leapbox_ids::SandboxId;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The permits and connections of all sandboxes that are in use or lately were.
pub(crate) struct Pool {
    sandboxes: RwLock<HashMap<SandboxId, Arc<Entry>>>,
    /// One permit for each idle connection, over all sandboxes.
    idle_permits: Arc<Semaphore>,
    per_sandbox: usize,
    per_port: usize,
    max_idle: Duration,
    workers: usize,
}

/// The gateway's state of one sandbox.
struct Entry {
    /// The number of requests and tunnels in the sandbox.
    active: AtomicUsize,
    /// Set by [`Pool::forget`]: no connection may be added any more.
    forgotten: AtomicBool,
    /// Idle connections by worker: a socket's readiness is reported in the runtime in which it was opened, so another
    /// thread would have to wait for that one.
    idle: Box<[Mutex<Vec<IdleConnection>>]>,
    /// A revoker for every connection into the sandbox, and for some that have ended since the last sweep.
    revokers: Mutex<Vec<Revoker>>,
}

/// A connection that no request uses, kept for the next one to the same port.
struct IdleConnection {
    port: u16,
    since: Instant,
    upstream: Box<Upstream>,
    _permit: OwnedSemaphorePermit,
}

/// The permit of one request or tunnel to one port of a sandbox, counted until it is dropped.
pub(crate) struct RequestPermit {
    pool: Arc<Pool>,
    entry: Arc<Entry>,
    worker: usize,
    port: u16,
}

impl Pool {
    pub(crate) fn new(limits: &Limits, workers: usize) -> Self {
        Self {
            sandboxes: RwLock::default(),
            idle_permits: Arc::new(Semaphore::new(limits.pool_total)),
            per_sandbox: limits.max_requests_per_sandbox,
            per_port: limits.pool_per_port,
            max_idle: limits.pool_idle,
            workers,
        }
    }

    /// A permit for a request that `worker` serves, or `None` if the sandbox has as many requests as it may.
    pub(crate) fn admit(self: &Arc<Self>, id: &SandboxId, port: u16, worker: usize) -> Option<RequestPermit> {
        let entry = self.entry(id);
        // Compared and counted in one step: two threads must not both take the last permit.
        let admitted =
            entry.active.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n < self.per_sandbox).then_some(n + 1));
        admitted.is_ok().then(|| RequestPermit { pool: Arc::clone(self), entry, worker, port })
    }

    fn entry(&self, id: &SandboxId) -> Arc<Entry> {
        // Every request of every thread comes through here, and nearly all find their sandbox with the shared lock.
        if let Some(entry) = self.sandboxes.read().get(id) {
            return Arc::clone(entry);
        }
        let mut sandboxes = self.sandboxes.write();
        Arc::clone(sandboxes.entry(id.clone()).or_insert_with(|| {
            Arc::new(Entry {
                active: AtomicUsize::new(0),
                forgotten: AtomicBool::new(false),
                idle: (0..self.workers).map(|_| Mutex::default()).collect(),
                revokers: Mutex::default(),
            })
        }))
    }

    /// Closes every connection into a sandbox, also those in use. Later requests begin with a new entry.
    pub(crate) fn forget(&self, id: &SandboxId) {
        let entry = self.sandboxes.write().remove(id);
        let Some(entry) = entry else { return };
        // Before anything is closed: a request that adds a connection meanwhile either finds the flag afterwards and
        // closes it itself, or has added it before and it is closed here.
        entry.forgotten.store(true, Ordering::Release);
        for revoker in entry.revokers.lock().drain(..) {
            revoker.revoke();
        }
        entry.idle.iter().for_each(|idle| idle.lock().clear());
    }

    /// Closes connections that were idle for too long, and drops the entries of sandboxes that nobody uses.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut sandboxes = self.sandboxes.write();
        sandboxes.retain(|_, entry| {
            for idle in &entry.idle {
                idle.lock().retain(|connection| now.duration_since(connection.since) < self.max_idle);
            }
            entry.revokers.lock().retain(Revoker::is_live);
            // Under the write lock nobody can be about to use an entry that only the map holds.
            Arc::strong_count(entry) > 1 || entry.idle.iter().any(|idle| !idle.lock().is_empty())
        });
    }

    /// The interval of [`Self::sweep`]: a connection is idle for a quarter longer than allowed at most.
    pub(crate) fn sweep_every(&self) -> Duration {
        (self.max_idle / 4).max(Duration::from_millis(50))
    }
}

impl RequestPermit {
    /// Takes an idle connection to this permit's port, skipping those that the application has closed.
    pub(crate) async fn take_idle(&self) -> Option<Box<Upstream>> {
        loop {
            let mut upstream = self.pop()?;
            if upstream.is_reusable().await {
                return Some(upstream);
            }
        }
    }

    /// Takes the connection used last, so that those used longest ago are left to the sweep when demand falls.
    fn pop(&self) -> Option<Box<Upstream>> {
        let mut idle = self.entry.idle.get(self.worker)?.lock();
        let last = idle.iter().rposition(|connection| connection.port == self.port)?;
        Some(idle.remove(last).upstream)
    }

    /// Keeps a connection for the next request, or closes it if as many are idle as may be.
    pub(crate) fn return_idle(&self, upstream: Box<Upstream>) {
        let Ok(permit) = Arc::clone(&self.pool.idle_permits).try_acquire_owned() else { return };
        let Some(idle) = self.entry.idle.get(self.worker) else { return };
        let mut idle = idle.lock();
        let is_full = idle.iter().filter(|connection| connection.port == self.port).count() >= self.pool.per_port;
        // Read under the lock under which `forget` empties this list, so that nothing is added after it.
        if is_full || self.entry.forgotten.load(Ordering::Acquire) {
            return;
        }
        idle.push(IdleConnection { port: self.port, since: Instant::now(), upstream, _permit: permit });
    }

    /// Registers a new socket into the sandbox, so that [`Pool::forget`] closes it.
    pub(crate) fn register(&self, socket: TcpStream) -> RevocableStream {
        let (stream, revoker) = RevocableStream::new(socket);
        let mut revokers = self.entry.revokers.lock();
        // Only when the list would grow, so that the cost is shared by all the connections that were added since.
        if revokers.len() == revokers.capacity() {
            revokers.retain(Revoker::is_live);
        }
        revokers.push(revoker.clone());
        drop(revokers);
        // `forget` may have emptied the list just before the push.
        if self.entry.forgotten.load(Ordering::Acquire) {
            revoker.revoke();
        }
        stream
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.entry.active.fetch_sub(1, Ordering::AcqRel);
    }
}
