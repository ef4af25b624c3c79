//! The places that a connection takes: of its sandbox, of its sandbox without a decision, and of all sandboxes.

use crate::gate::Gate;
use crate::proxy::Proxy;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Proxied connections of one sandbox while less than half of all places are free: nobody fills them for the others.
const FAIR_SHARE: usize = 128;

/// What a connection occupies while it lives.
pub(crate) struct Places {
    _of_all: OwnedSemaphorePermit,
    _of_the_sandbox: OwnedSemaphorePermit,
    undecided: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// Takes all three, or says which there are too many of.
    pub(crate) fn take(proxy: &Proxy, gate: &Gate) -> Result<Self, &'static str> {
        let (free, held) = (proxy.connections.available_permits(), gate.open_connections());
        if free < proxy.places / 2 && held >= FAIR_SHARE {
            return Err("connections of this sandbox while others need the proxy");
        }
        let take =
            |from: &Arc<Semaphore>, what| Arc::clone(from).try_acquire_owned().map_err(|_: TryAcquireError| what);
        Ok(Self {
            _of_the_sandbox: take(&gate.connections, "connections of this sandbox through the proxy")?,
            undecided: Some(take(&gate.undecided, "connections of this sandbox that have not said where they lead")?),
            _of_all: take(&proxy.connections, "connections of all sandboxes through the proxy")?,
        })
    }

    /// The connection's destination is decided.
    pub(crate) fn decided(&mut self) {
        self.undecided = None;
    }
}
