//! How many connections there may be: per sandbox, per sandbox without a decision, and over all sandboxes.

use crate::gate::Gate;
use crate::proxy::Proxy;
use nix::sys::resource::{Resource, getrlimit};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Proxied connections of one sandbox.
pub(crate) const OF_A_SANDBOX: usize = 1024;
/// Those of them whose destination is not decided yet.
pub(crate) const UNDECIDED: usize = 256;
/// Proxied connections of all sandboxes: each is two of the server's descriptors.
pub(crate) const OF_ALL: usize = 16 * 1024;

/// Proxied connections of one sandbox while less than half of all places are free: nobody fills them for the others.
const FAIR_SHARE: usize = 128;

/// All places there are: a quarter of the descriptors this process may have, and the limit above.
pub(crate) fn of_all() -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(descriptors / 4).unwrap_or(OF_ALL).min(OF_ALL)
}

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
