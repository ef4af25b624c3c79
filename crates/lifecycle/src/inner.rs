//! What the service, the sandboxes' tasks and recovery share.

use crate::catalog::Catalog;
use crate::error::LifecycleError;
use crate::handle::{Handle, refused};
use crate::machines::Machines;
use crate::names::Names;
use crate::policy::Refusal;
use crate::stats::Stats;
use leapbox_db::{Db, Sandbox};
use leapbox_errors::chain;
use leapbox_ids::{CheckpointId, OrganisationId, SandboxId};
use leapbox_storage::ServerKey;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Sandboxes that are stored at once.
const STORES_AT_ONCE: usize = 4;
/// Ended sandboxes that a slow listener may lag behind by.
const ENDING_BACKLOG: usize = 1024;

pub(crate) struct Inner {
    /// This runner's name, as the API shows it.
    pub pod_id: String,
    pub db: Db,
    pub machines: Arc<dyn Machines>,
    pub catalog: Arc<Catalog>,
    pub names: Names,
    /// Turns to store sandboxes.
    pub storing: Arc<Semaphore>,
    pub stats: Stats,
    /// Ends the tasks, not the sandboxes: those outlive the server.
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    pub key: ServerKey,
    sandboxes: RwLock<HashMap<SandboxId, Handle>>,
    /// Ids of sandboxes whose machine is about to go.
    ending: broadcast::Sender<SandboxId>,
}

impl Inner {
    pub fn new(pod_id: String, db: Db, machines: Arc<dyn Machines>, catalog: Arc<Catalog>, key: ServerKey) -> Self {
        Self {
            pod_id,
            db,
            machines,
            catalog,
            names: Names::default(),
            storing: Arc::new(Semaphore::new(STORES_AT_ONCE)),
            stats: Stats::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            key,
            sandboxes: RwLock::default(),
            ending: broadcast::Sender::new(ENDING_BACKLOG),
        }
    }

    pub fn remember(&self, id: SandboxId, handle: Handle) {
        self.sandboxes.write().insert(id, handle);
    }

    pub fn forget(&self, id: &SandboxId) {
        self.sandboxes.write().remove(id);
    }

    /// Every sandbox there is.
    pub fn handles(&self) -> Vec<Handle> {
        self.sandboxes.read().values().cloned().collect()
    }

    /// Tells whoever holds connections into a sandbox that its machine is about to go.
    pub fn tell_ending(&self, id: &SandboxId) {
        // Nobody may be listening.
        let _ = self.ending.send(id.clone());
    }

    /// Ids of sandboxes whose machines are about to go, from now on.
    pub fn ending(&self) -> broadcast::Receiver<SandboxId> {
        self.ending.subscribe()
    }

    /// The sandbox `id`, if it is the organisation's and is there.
    pub async fn find(&self, org: &OrganisationId, id: &SandboxId) -> Result<Handle, LifecycleError> {
        match self.living(org, id) {
            Some(handle) => Ok(handle),
            None => Err(refused(&self.failed(org, id).await?, Refusal::Gone)),
        }
    }

    /// The sandbox `id`, if it is the organisation's and not gone.
    pub fn living(&self, org: &OrganisationId, id: &SandboxId) -> Option<Handle> {
        let sandboxes = self.sandboxes.read();
        sandboxes.get(id).filter(|handle| handle.published.borrow().sandbox.spec.organisation == *org).cloned()
    }

    /// A sandbox that has failed and that its owner has not deleted yet.
    pub async fn failed(&self, org: &OrganisationId, id: &SandboxId) -> Result<Sandbox, LifecycleError> {
        let found = self.db.sandbox_by_id(id).await?;
        found
            .filter(|sandbox| sandbox.spec.organisation == *org && sandbox.reason.is_some())
            .ok_or_else(|| LifecycleError::NotFound { id: id.clone() })
    }

    /// Removes a checkpoint if nothing names it any more.
    pub async fn drop_checkpoint(&self, checkpoint: &CheckpointId) {
        match self.db.checkpoint_is_referenced(checkpoint).await {
            Ok(true) => {}
            Ok(false) => self.machines.discard(checkpoint).await,
            // Garbage for later.
            Err(error) => tracing::warn!(%checkpoint, error = %chain(&error), "not known whether it is in use"),
        }
    }
}
