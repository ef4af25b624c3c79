//! The state that all connections of the gateway share, and the permits that limit their number.

use crate::backends::Backends;
use crate::config::Config;
use crate::pool::Pool;
use crate::stats::Counters;
use axum::Router;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The state shared by all connections, in every thread.
pub(crate) struct Shared<B> {
    pub(crate) backends: B,
    pub(crate) config: Config,
    /// The control plane's router, as a hyper service.
    pub(crate) control: TowerToHyperService<Router>,
    pub(crate) pool: Arc<Pool>,
    /// One set for each worker, by its index.
    pub(crate) counters: Vec<Arc<Counters>>,
    /// One permit for each client connection, which its tunnels keep.
    pub(crate) connection_permits: Arc<Semaphore>,
    /// One permit for each connection that is accepted only to be answered 503.
    pub(crate) refusal_permits: Arc<Semaphore>,
}

impl<B: Backends> Shared<B> {
    /// A new connection's permit, and whether it may only be refused with it; `None` if not even that.
    pub(crate) fn admit(&self) -> Option<(OwnedSemaphorePermit, bool)> {
        let permit = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        let admitted = permit(&self.connection_permits).map(|permit| (permit, false));
        admitted.or_else(|| permit(&self.refusal_permits).map(|permit| (permit, true)))
    }
}
