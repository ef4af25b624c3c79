//! The permits that a connection holds: one of its sandbox's, one of those for undecided connections, and one of those
//! that all sandboxes share.

use crate::context::EgressContext;
use crate::proxy::Proxy;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

// Connections of one sandbox while less than half of all permits are free. Sixteen sandboxes with 1024 connections each
// could otherwise use up all permits, and everybody else's connections would be refused.
const FAIR_SHARE: usize = 128;

/// The permits of one connection, released when it ends.
pub(crate) struct ConnectionPermits {
    _overall: OwnedSemaphorePermit,
    _of_sandbox: OwnedSemaphorePermit,
    undecided: Option<OwnedSemaphorePermit>,
}

impl ConnectionPermits {
    /// Takes all three permits. The error names the limit that is reached, as `Denial::TooMany` wants it.
    pub(crate) fn take(proxy: &Proxy, context: &EgressContext) -> Result<Self, &'static str> {
        let (free, held) = (proxy.connections.available_permits(), context.open_connections());
        if free < proxy.permits / 2 && held >= FAIR_SHARE {
            return Err("connections of this sandbox while others need the proxy");
        }
        let take =
            |from: &Arc<Semaphore>, what| Arc::clone(from).try_acquire_owned().map_err(|_: TryAcquireError| what);
        Ok(Self {
            _of_sandbox: take(&context.connections, "connections of this sandbox through the proxy")?,
            undecided: Some(take(
                &context.undecided,
                "connections of this sandbox that have not said where they lead",
            )?),
            _overall: take(&proxy.connections, "connections of all sandboxes through the proxy")?,
        })
    }

    /// Releases the permit for undecided connections, once the destination is decided.
    pub(crate) fn decided(&mut self) {
        self.undecided = None;
    }
}
