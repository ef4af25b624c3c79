//! The gateway as a whole: listeners, room for connections, sweeping, shutdown.

use crate::backends::Backends;
use crate::config::Config;
use crate::connection::{self, Client, Phase};
use crate::pool::Pool;
use crate::stats::{Counters, Stats, count};
use crate::tls::Tls;
use axum::Router;
use hyper_util::service::TowerToHyperService;
use leapbox_ids::SandboxId;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Connections taken beyond the limit, only to be told so. Beyond these they are closed without a word.
const REFUSALS: usize = 64;
/// For connections to end after they were cut.
const AFTER_CUT: Duration = Duration::from_secs(2);

/// The HTTPS entrance. Cheap to clone.
pub struct Gateway<B> {
    shared: Arc<Shared<B>>,
}

/// What all connections share.
pub(crate) struct Shared<B> {
    pub(crate) backends: B,
    pub(crate) config: Config,
    /// The control plane's router.
    pub(crate) control: TowerToHyperService<Router>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) counters: Arc<Counters>,
    /// Room for connections and tunnels.
    room: Arc<Semaphore>,
    /// Room for those that are refused.
    refusals: Arc<Semaphore>,
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
        let counters = Arc::new(Counters::default());
        let pool = Arc::new(Pool::new(&config.limits, Arc::clone(&counters)));
        let room = Arc::new(Semaphore::new(config.limits.max_connections));
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let control = TowerToHyperService::new(control);
        Self { shared: Arc::new(Shared { backends, config, control, pool, counters, room, refusals }) }
    }

    /// The counters now.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// Closes every connection into a sandbox: it is gone, or about to be paused. Open requests to it fail, and none of
    /// its sockets stays open to keep its network namespace alive.
    pub fn forget(&self, id: &SandboxId) {
        self.shared.pool.forget(id);
    }

    /// Serves until `shutdown` resolves, then finishes what is open within [`crate::Limits::drain`].
    pub async fn serve(&self, listeners: Vec<TcpListener>, tls: Tls, shutdown: impl Future<Output = ()>) {
        let (phase, phases) = watch::channel(Phase::Open);
        let mut tasks = JoinSet::new();
        let acceptor = tls.acceptor();
        for listener in listeners {
            tasks.spawn(accept(Arc::clone(&self.shared), listener, acceptor.clone(), phases.clone()));
        }
        tasks.spawn(sweep(Arc::clone(&self.shared.pool)));
        tasks.spawn(tls.keep_current());
        shutdown.await;
        tasks.shutdown().await;
        drop(phases);
        self.end(&phase).await;
    }

    async fn end(&self, phase: &watch::Sender<Phase>) {
        let limits = &self.shared.config.limits;
        let all = u32::try_from(limits.max_connections).unwrap_or(u32::MAX);
        phase.send_replace(Phase::Draining);
        if timeout(limits.drain, self.shared.room.acquire_many(all)).await.is_ok() {
            return;
        }
        let open = self.stats().connections_open;
        tracing::info!(open, "cutting the connections that are still open");
        phase.send_replace(Phase::Cut);
        if timeout(AFTER_CUT, self.shared.room.acquire_many(all)).await.is_err() {
            tracing::warn!("some connections did not end although they were cut");
        }
    }
}

impl<B: Backends> Shared<B> {
    /// Room for a connection, and whether it is only the room to be refused in.
    fn admit(&self) -> Option<(OwnedSemaphorePermit, bool)> {
        let room = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        room(&self.room).map(|permit| (permit, false)).or_else(|| room(&self.refusals).map(|permit| (permit, true)))
    }
}

async fn accept<B: Backends>(
    shared: Arc<Shared<B>>,
    listener: TcpListener,
    tls: TlsAcceptor,
    phases: watch::Receiver<Phase>,
) {
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the client is gone already: neither is a reason to stop.
                tracing::warn!(%error, "could not accept a connection");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        count(&shared.counters.connections);
        let admitted = shared.admit();
        if !matches!(admitted, Some((_, false))) {
            count(&shared.counters.connections_refused);
        }
        let Some((permit, refused)) = admitted else { continue };
        let client = Client::new(peer, refused, phases.clone(), &shared.counters, permit);
        spawn(&shared, client, socket, &tls);
    }
}

fn spawn<B: Backends>(shared: &Arc<Shared<B>>, client: Client, socket: TcpStream, tls: &TlsAcceptor) {
    tokio::spawn(connection::serve(Arc::clone(shared), client, socket, tls.clone()));
}

async fn sweep(pool: Arc<Pool>) {
    let mut tick = interval(pool.sweep_every());
    loop {
        tick.tick().await;
        pool.sweep();
    }
}
