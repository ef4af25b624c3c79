//! What all connections of the gateway share, and the room there is for them.

use crate::backends::Backends;
use crate::config::Config;
use crate::pool::Pool;
use crate::stats::Counters;
use axum::Router;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What all connections share.
pub(crate) struct Shared<B> {
    pub(crate) backends: B,
    pub(crate) config: Config,
    /// The control plane's router.
    pub(crate) control: TowerToHyperService<Router>,
    pub(crate) pool: Arc<Pool>,
    /// One set for each worker.
    pub(crate) counters: Vec<Arc<Counters>>,
    /// Room for connections and tunnels.
    pub(crate) room: Arc<Semaphore>,
    /// Room for those that are refused.
    pub(crate) refusals: Arc<Semaphore>,
}

impl<B: Backends> Shared<B> {
    /// Room for a connection, and whether it is only the room to be refused in.
    pub(crate) fn admit(&self) -> Option<(OwnedSemaphorePermit, bool)> {
        let room = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        room(&self.room).map(|permit| (permit, false)).or_else(|| room(&self.refusals).map(|permit| (permit, true)))
    }
}
