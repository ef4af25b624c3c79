//! The gateway as a whole: it accepts connections, assigns them to workers, limits their number, and shuts down.
//!
//! `leapbox serve` calls it; the lifecycle calls [`Gateway::forget`] when a sandbox ends or is stored.

use crate::backends::Backends;
use crate::client::Client;
use crate::config::Config;
use crate::pool::Pool;
use crate::shared::Shared;
use crate::stats::{Stats, count};
use crate::thread::{self, Accepted, Phase};
use crate::tls::Tls;
use crate::worker::Worker;
use axum::Router;
use hyper_util::service::TowerToHyperService;
use leapbox_errors::chain;
use leapbox_ids::SandboxId;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Connections over [`crate::Limits::max_connections`] that are still accepted, to be answered 503 with `Retry-After`.
// The answer costs a TLS handshake and a task, so these are bounded too: what comes on top is closed without an answer.
const MAX_REFUSALS: usize = 64;

/// The gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The operating system refused a worker its thread, or its runtime a descriptor.
    #[error("could not start a gateway thread")]
    Worker {
        #[source]
        source: io::Error,
    },
}

/// The HTTPS gateway. Clones share one state.
pub struct Gateway<B> {
    shared: Arc<Shared<B>>,
}

impl<B> Clone for Gateway<B> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<B: Backends> Gateway<B> {
    /// A gateway to the sandboxes of `backends`. `control` answers for `<domain>` and `api.<domain>`, and finds the
    /// client's address as an [`axum::extract::ConnectInfo`] extension.
    pub fn new(backends: B, control: Router, config: Config) -> Self {
        let workers = config.workers.max(1);
        let pool = Arc::new(Pool::new(&config.limits, workers));
        let counters = (0..workers).map(|_| Arc::default()).collect();
        let connection_permits = Arc::new(Semaphore::new(config.limits.max_connections));
        let refusal_permits = Arc::new(Semaphore::new(MAX_REFUSALS));
        let control = TowerToHyperService::new(control);
        let shared = Shared { backends, config, control, pool, counters, connection_permits, refusal_permits };
        Self { shared: Arc::new(shared) }
    }

    /// The sum of all workers' counters. They are read one after the other, so the sum is of no single moment.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.shared.counters.iter().for_each(|counters| counters.add_to(&mut stats));
        stats
    }

    /// Closes every connection into a sandbox that ends or is about to be paused. Open requests to it fail. No socket
    /// may stay open, because a socket keeps the sandbox's network namespace alive.
    pub fn forget(&self, id: &SandboxId) {
        self.shared.pool.forget(id);
    }

    /// Serves until `shutdown` resolves, then lets open requests and tunnels end within [`crate::Limits::drain`].
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        tls: Tls,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let (phase, phases) = watch::channel(Phase::Open);
        let acceptor = tls.acceptor();
        let mut threads = Vec::new();
        let mut handles = Vec::new();
        for (index, counters) in self.shared.counters.iter().enumerate() {
            let (load, server_runtime) = (AtomicUsize::new(0), Handle::current());
            let worker = Arc::new(Worker { index, counters: Arc::clone(counters), load, server_runtime });
            // Unbounded, because every connection sent through it holds a permit of a semaphore already.
            let (sender, assigned) = mpsc::unbounded_channel();
            threads.push(self.start(index, acceptor.clone(), assigned, phases.clone())?);
            handles.push((worker, sender));
        }
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(accept(Arc::clone(&self.shared), listener, handles.clone()));
        }
        tasks.spawn(sweep(Arc::clone(&self.shared.pool)));
        tasks.spawn(tls.keep_current());
        shutdown.await;
        // Closes the listeners first: new clients are refused by the kernel instead of waiting for a server that ends.
        tasks.shutdown().await;
        self.end(&phase, threads).await;
        Ok(())
    }

    /// Starts a worker's thread. The returned handle resolves once the thread has ended.
    fn start(
        &self,
        index: usize,
        tls: TlsAcceptor,
        assigned: mpsc::UnboundedReceiver<Accepted>,
        phases: watch::Receiver<Phase>,
    ) -> Result<JoinHandle<()>, ServeError> {
        let failed = |source| ServeError::Worker { source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let run = thread::run(Arc::clone(&self.shared), tls, assigned, phases);
        let thread = std::thread::Builder::new()
            .name(format!("gateway-{index}"))
            .spawn(move || runtime.block_on(run))
            .map_err(failed)?;
        // Joining a thread blocks, so it is waited for outside the async threads.
        Ok(spawn_blocking(move || {
            if thread.join().is_err() {
                tracing::error!("a gateway thread panicked; its connections were closed");
            }
        }))
    }

    async fn end(&self, phase: &watch::Sender<Phase>, threads: Vec<JoinHandle<()>>) {
        let limits = &self.shared.config.limits;
        let all = u32::try_from(limits.max_connections).unwrap_or(u32::MAX);
        phase.send_replace(Phase::Draining);
        // A connection's permit is held until it and its tunnels have ended: with all permits, nothing is open.
        if timeout(limits.drain, self.shared.connection_permits.acquire_many(all)).await.is_err() {
            let open = self.stats().connections_open;
            tracing::info!(open, "closing the connections that are still open after the drain time");
        }
        phase.send_replace(Phase::Ended);
        for thread in threads {
            if let Err(error) = thread.await {
                tracing::error!(error = %chain(&error), "could not wait for a gateway thread to end");
            }
        }
    }
}

/// A worker, and the channel through which its thread takes connections.
type ThreadHandle = (Arc<Worker>, mpsc::UnboundedSender<Accepted>);

async fn accept<B: Backends>(shared: Arc<Shared<B>>, listener: TcpListener, threads: Vec<ThreadHandle>) {
    loop {
        // A tokio socket is bound to the runtime that made it. As a plain one it can be registered with its worker's.
        let accepted = listener.accept().await.and_then(|(socket, peer)| Ok((socket.into_std()?, peer)));
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the client is gone already: neither is a reason to stop. Without descriptors
                // the next accept fails at once as well, and without the pause this loop would take a whole core.
                tracing::warn!(error = %chain(&error), "could not accept a connection");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some((worker, sender)) = least_loaded(&threads) else { return };
        count(&worker.counters.connections);
        let admitted = shared.admit();
        if !matches!(admitted, Some((_, false))) {
            count(&worker.counters.connections_refused);
        }
        let Some((permit, refused)) = admitted else { continue };
        let client = Arc::new(Client::new(peer, refused, worker, permit));
        // The client counts in its worker's load already, so that a burst is spread before any of it is served.
        if sender.send(Accepted { socket, client }).is_err() {
            tracing::error!("a gateway thread has ended; the connection assigned to it is closed");
        }
    }
}

fn least_loaded(threads: &[ThreadHandle]) -> Option<&ThreadHandle> {
    threads.iter().min_by_key(|(worker, _)| worker.load.load(Ordering::Relaxed))
}

async fn sweep(pool: Arc<Pool>) {
    let mut tick = interval(pool.sweep_every());
    loop {
        tick.tick().await;
        pool.sweep();
    }
}
