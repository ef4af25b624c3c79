//! The gateway as a whole: listeners, workers, room for connections, shutdown.

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

/// Connections taken beyond the limit, only to be told so. Beyond these they are closed without a word.
const REFUSALS: usize = 64;

/// Why the gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A worker's runtime.
    #[error("could not start a thread of the gateway")]
    Worker {
        #[source]
        source: io::Error,
    },
}

/// The HTTPS entrance. Cheap to clone.
pub struct Gateway<B> {
    shared: Arc<Shared<B>>,
}

impl<B> Clone for Gateway<B> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<B: Backends> Gateway<B> {
    /// A gateway to these sandboxes; `control` answers for `<domain>` and `api.<domain>`, and finds the client's
    /// address as an [`axum::extract::ConnectInfo`] extension.
    pub fn new(backends: B, control: Router, config: Config) -> Self {
        let workers = config.workers.max(1);
        let pool = Arc::new(Pool::new(&config.limits, workers));
        let counters = (0..workers).map(|_| Arc::default()).collect();
        let room = Arc::new(Semaphore::new(config.limits.max_connections));
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let control = TowerToHyperService::new(control);
        Self { shared: Arc::new(Shared { backends, config, control, pool, counters, room, refusals }) }
    }

    /// The counters now.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.shared.counters.iter().for_each(|counters| counters.add_to(&mut stats));
        stats
    }

    /// Closes every connection into a sandbox: it is gone, or about to be paused. Open requests to it fail, and none of
    /// its sockets stays open to keep its network namespace alive.
    pub fn forget(&self, id: &SandboxId) {
        self.shared.pool.forget(id);
    }

    /// Serves until `shutdown` resolves, then finishes what is open within [`crate::Limits::drain`].
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        tls: Tls,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let (phase, phases) = watch::channel(Phase::Open);
        let acceptor = tls.acceptor();
        let mut desks = Vec::new();
        let mut threads = Vec::new();
        for (index, counters) in self.shared.counters.iter().enumerate() {
            let (load, home) = (AtomicUsize::new(0), Handle::current());
            let worker = Arc::new(Worker { index, counters: Arc::clone(counters), load, home });
            let (dealer, dealt) = mpsc::unbounded_channel();
            threads.push(self.start(index, acceptor.clone(), dealt, phases.clone())?);
            desks.push((worker, dealer));
        }
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(accept(Arc::clone(&self.shared), listener, desks.clone()));
        }
        tasks.spawn(sweep(Arc::clone(&self.shared.pool)));
        tasks.spawn(tls.keep_current());
        shutdown.await;
        tasks.shutdown().await;
        self.end(&phase, threads).await;
        Ok(())
    }

    /// Starts a worker's thread; the handle resolves when it has ended.
    fn start(
        &self,
        index: usize,
        tls: TlsAcceptor,
        dealt: mpsc::UnboundedReceiver<Accepted>,
        phases: watch::Receiver<Phase>,
    ) -> Result<JoinHandle<()>, ServeError> {
        let failed = |source| ServeError::Worker { source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let run = thread::run(Arc::clone(&self.shared), tls, dealt, phases);
        let thread = std::thread::Builder::new()
            .name(format!("gateway-{index}"))
            .spawn(move || runtime.block_on(run))
            .map_err(failed)?;
        Ok(spawn_blocking(move || {
            if thread.join().is_err() {
                tracing::error!("a thread of the gateway panicked");
            }
        }))
    }

    async fn end(&self, phase: &watch::Sender<Phase>, threads: Vec<JoinHandle<()>>) {
        let limits = &self.shared.config.limits;
        let all = u32::try_from(limits.max_connections).unwrap_or(u32::MAX);
        phase.send_replace(Phase::Draining);
        if timeout(limits.drain, self.shared.room.acquire_many(all)).await.is_err() {
            tracing::info!(open = self.stats().connections_open, "cutting the connections that are still open");
        }
        phase.send_replace(Phase::Ended);
        for thread in threads {
            if let Err(error) = thread.await {
                tracing::error!(error = %chain(&error), "could not wait for a thread of the gateway");
            }
        }
    }
}

/// A worker and the way to it.
type Desk = (Arc<Worker>, mpsc::UnboundedSender<Accepted>);

async fn accept<B: Backends>(shared: Arc<Shared<B>>, listener: TcpListener, desks: Vec<Desk>) {
    loop {
        let accepted = listener.accept().await.and_then(|(socket, peer)| Ok((socket.into_std()?, peer)));
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the client is gone already: neither is a reason to stop.
                tracing::warn!(error = %chain(&error), "could not accept a connection");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some((worker, dealer)) = least_loaded(&desks) else { return };
        count(&worker.counters.connections);
        let admitted = shared.admit();
        if !matches!(admitted, Some((_, false))) {
            count(&worker.counters.connections_refused);
        }
        let Some((permit, refused)) = admitted else { continue };
        let client = Arc::new(Client::new(peer, refused, worker, permit));
        if dealer.send(Accepted { socket, client }).is_err() {
            tracing::error!("a thread of the gateway has gone");
        }
    }
}

/// The worker with the fewest connections.
fn least_loaded(desks: &[Desk]) -> Option<&Desk> {
    desks.iter().min_by_key(|(worker, _)| worker.load.load(Ordering::Relaxed))
}

async fn sweep(pool: Arc<Pool>) {
    let mut tick = interval(pool.sweep_every());
    loop {
        tick.tick().await;
        pool.sweep();
    }
}
