//! What the connections of one thread of the gateway share, and their way out of it.

use crate::stats::Counters;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::runtime::Handle;

/// What a worker's connections share.
pub(crate) struct Worker {
    pub(crate) index: usize,
    /// Of this worker alone, so that threads do not fight over them.
    pub(crate) counters: Arc<Counters>,
    /// Connections it has.
    pub(crate) load: AtomicUsize,
    /// The runtime the rest of the house lives in.
    pub(crate) home: Handle,
}

impl Worker {
    /// Runs a future of the rest of the house: what it spawns, and the timers and sockets it makes, belong to the
    /// caller's runtime, as if it had been called there.
    pub(crate) async fn at_home<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let _home = self.home.enter();
            future.as_mut().poll(cx)
        })
        .await
    }
}
