//! Places and kept connections, per sandbox.
//!
//! A request takes a [`Slot`] in its sandbox: that bounds how much one sandbox can hold, and it is the key to the
//! connections kept open to its ports. Kept connections are few and short-lived (a sweeper closes them), and all
//! connections into a sandbox, kept or in use, are closed by [`Pool::forget`] when it goes.

use crate::config::Limits;
use crate::link::{Cutter, Link};
use crate::upstream::Upstream;
use leapbox_ids::SandboxId;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All sandboxes that are, or lately were, in use.
pub(crate) struct Pool {
    sandboxes: RwLock<HashMap<SandboxId, Arc<Entry>>>,
    /// Room for kept connections, over all sandboxes.
    room: Arc<Semaphore>,
    per_sandbox: usize,
    per_port: usize,
    max_idle: Duration,
    workers: usize,
}

/// One sandbox.
struct Entry {
    /// Requests and tunnels in it now.
    active: AtomicUsize,
    /// It has gone: nothing is kept any more.
    gone: AtomicBool,
    /// By worker: a connection is driven best by the thread that opened it.
    kept: Box<[Mutex<Vec<Kept>>]>,
    /// Every connection into it.
    links: Mutex<Vec<Cutter>>,
}

/// A connection nobody uses.
struct Kept {
    port: u16,
    since: Instant,
    upstream: Box<Upstream>,
    _room: OwnedSemaphorePermit,
}

/// A place in a sandbox for one request or tunnel to one port.
pub(crate) struct Slot {
    pool: Arc<Pool>,
    entry: Arc<Entry>,
    worker: usize,
    port: u16,
}

impl Pool {
    pub(crate) fn new(limits: &Limits, workers: usize) -> Self {
        Self {
            sandboxes: RwLock::default(),
            room: Arc::new(Semaphore::new(limits.pool_total)),
            per_sandbox: limits.max_requests_per_sandbox,
            per_port: limits.pool_per_port,
            max_idle: limits.pool_idle,
            workers,
        }
    }

    /// A place in a sandbox for a request that lives in `worker`; `None` if the sandbox is full.
    pub(crate) fn admit(self: &Arc<Self>, id: &SandboxId, port: u16, worker: usize) -> Option<Slot> {
        let entry = self.entry(id);
        let admitted =
            entry.active.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n < self.per_sandbox).then_some(n + 1));
        admitted.is_ok().then(|| Slot { pool: Arc::clone(self), entry, worker, port })
    }

    fn entry(&self, id: &SandboxId) -> Arc<Entry> {
        if let Some(entry) = self.sandboxes.read().get(id) {
            return Arc::clone(entry);
        }
        let mut sandboxes = self.sandboxes.write();
        Arc::clone(sandboxes.entry(id.clone()).or_insert_with(|| {
            Arc::new(Entry {
                active: AtomicUsize::new(0),
                gone: AtomicBool::new(false),
                kept: (0..self.workers).map(|_| Mutex::default()).collect(),
                links: Mutex::default(),
            })
        }))
    }

    /// Closes every connection into a sandbox, whoever uses it.
    pub(crate) fn forget(&self, id: &SandboxId) {
        let entry = self.sandboxes.write().remove(id);
        let Some(entry) = entry else { return };
        entry.gone.store(true, Ordering::Release);
        for link in entry.links.lock().drain(..) {
            link.cut();
        }
        entry.kept.iter().for_each(|kept| kept.lock().clear());
    }

    /// Closes connections kept too long and forgets sandboxes nobody uses.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut sandboxes = self.sandboxes.write();
        sandboxes.retain(|_, entry| {
            for kept in &entry.kept {
                kept.lock().retain(|kept| now.duration_since(kept.since) < self.max_idle);
            }
            entry.links.lock().retain(Cutter::is_live);
            // Under the write lock nobody can be about to use an entry that only the map holds.
            Arc::strong_count(entry) > 1 || entry.kept.iter().any(|kept| !kept.lock().is_empty())
        });
    }

    /// How often [`Self::sweep`] is due.
    pub(crate) fn sweep_every(&self) -> Duration {
        (self.max_idle / 4).max(Duration::from_millis(50))
    }
}

impl Slot {
    /// A kept connection to this slot's port that still stands.
    pub(crate) async fn kept(&self) -> Option<Box<Upstream>> {
        loop {
            let mut upstream = self.pop()?;
            if upstream.is_reusable().await {
                return Some(upstream);
            }
        }
    }

    /// The one used last: those used longest ago are the ones the sweeper should find.
    fn pop(&self) -> Option<Box<Upstream>> {
        let mut kept = self.entry.kept.get(self.worker)?.lock();
        let last = kept.iter().rposition(|kept| kept.port == self.port)?;
        Some(kept.remove(last).upstream)
    }

    /// Keeps a connection for the next request, if there is room for it.
    pub(crate) fn give_back(&self, upstream: Box<Upstream>) {
        let Ok(room) = Arc::clone(&self.pool.room).try_acquire_owned() else { return };
        let Some(kept) = self.entry.kept.get(self.worker) else { return };
        let mut kept = kept.lock();
        let is_full = kept.iter().filter(|kept| kept.port == self.port).count() >= self.pool.per_port;
        if is_full || self.entry.gone.load(Ordering::Acquire) {
            return;
        }
        kept.push(Kept { port: self.port, since: Instant::now(), upstream, _room: room });
    }

    /// Makes a new stream into the sandbox one that goes with it.
    pub(crate) fn adopt(&self, socket: TcpStream) -> Link {
        let (link, cutter) = Link::new(socket);
        let mut links = self.entry.links.lock();
        if links.len() == links.capacity() {
            links.retain(Cutter::is_live);
        }
        links.push(cutter.clone());
        drop(links);
        if self.entry.gone.load(Ordering::Acquire) {
            cutter.cut();
        }
        link
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.entry.active.fetch_sub(1, Ordering::AcqRel);
    }
}
