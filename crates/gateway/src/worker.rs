//! One worker: the state that the connections of one gateway thread share.
//!
//! `thread.rs` runs the thread itself. Connections reach the rest of the server through [`Worker::on_server_runtime`].

use crate::stats::Counters;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::runtime::Handle;

/// The state shared by a worker's connections.
pub(crate) struct Worker {
    pub(crate) index: usize,
    /// Counters of this worker alone: shared ones would move their cache line between cores with every request.
    pub(crate) counters: Arc<Counters>,
    /// Number of open connections, by which `server.rs` picks the worker of the next one.
    pub(crate) load: AtomicUsize,
    /// The multi-threaded runtime in which database, lifecycle and control plane run.
    pub(crate) server_runtime: Handle,
}

impl Worker {
    /// Polls a future of another crate in this thread, but inside the server's runtime: the tasks it spawns, its timers
    /// and its sockets belong to that runtime. Made in the worker's, they would end with the gateway and stall whenever
    /// this thread is busy.
    pub(crate) async fn on_server_runtime<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            // Entered for each poll and never across an await: between two polls this thread serves its connections,
            // whose own timers and sockets belong to the worker's runtime.
            let _guard = self.server_runtime.enter();
            future.as_mut().poll(cx)
        })
        .await
    }
}
