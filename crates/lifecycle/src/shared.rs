//! State that the service, the sandboxes' tasks, recovery and garbage collection share: the parts of the server and the
//! registry of sandboxes.

use crate::catalog::Catalog;
use crate::error::LifecycleError;
use crate::handle::{Handle, refused};
use crate::machines::Machines;
use crate::policy::Refusal;
use crate::snapshot_names::SnapshotNames;
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

/// Sandboxes that are stored at once. Each writes hundreds of MiB and keeps a core busy with compressing and
/// encrypting, while its guest stands still: with more at once, every guest would stand still for longer.
const STORES_AT_ONCE: usize = 4;
/// Ids of ended sandboxes that a slow receiver may lag behind by; a receiver that lags further loses the oldest.
const ENDING_BACKLOG: usize = 1024;

pub(crate) struct Shared {
    /// Name of this host. `pod_id` is the contract's word for the host that a sandbox runs on.
    pub pod_id: String,
    pub db: Db,
    pub machines: Arc<dyn Machines>,
    pub catalog: Arc<Catalog>,
    pub names: SnapshotNames,
    /// One permit for each sandbox that is being stored.
    pub store_permits: Arc<Semaphore>,
    pub stats: Stats,
    /// Cancelled when the server stops. Ends the tasks, but not the sandboxes, which outlive the server.
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    pub key: ServerKey,
    /// The sandboxes that have a task.
    sandboxes: RwLock<HashMap<SandboxId, Handle>>,
    ending: broadcast::Sender<SandboxId>,
}

impl Shared {
    pub fn new(pod_id: String, db: Db, machines: Arc<dyn Machines>, catalog: Arc<Catalog>, key: ServerKey) -> Self {
        Self {
            pod_id,
            db,
            machines,
            catalog,
            names: SnapshotNames::default(),
            store_permits: Arc::new(Semaphore::new(STORES_AT_ONCE)),
            stats: Stats::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            key,
            sandboxes: RwLock::default(),
            ending: broadcast::Sender::new(ENDING_BACKLOG),
        }
    }

    pub fn register(&self, id: SandboxId, handle: Handle) {
        self.sandboxes.write().insert(id, handle);
    }

    pub fn unregister(&self, id: &SandboxId) {
        self.sandboxes.write().remove(id);
    }

    /// The handles of all sandboxes that have a task.
    pub fn handles(&self) -> Vec<Handle> {
        self.sandboxes.read().values().cloned().collect()
    }

    /// Announces that a sandbox's machine is about to end, so that the gateway closes its connections into it.
    pub fn announce_ending(&self, id: &SandboxId) {
        // An error means that nobody listens, as in tests without a gateway.
        let _ = self.ending.send(id.clone());
    }

    /// Receives the ids of sandboxes whose machines are about to end, from now on.
    pub fn ending(&self) -> broadcast::Receiver<SandboxId> {
        self.ending.subscribe()
    }

    /// The handle of the organisation's sandbox `id`. [`LifecycleError::Failed`] if it has failed and is still shown,
    /// else [`LifecycleError::NotFound`].
    pub async fn find(&self, org: &OrganisationId, id: &SandboxId) -> Result<Handle, LifecycleError> {
        match self.registered(org, id) {
            Some(handle) => Ok(handle),
            None => Err(refused(&self.failed(org, id).await?, Refusal::Gone)),
        }
    }

    /// The handle of the organisation's sandbox `id`, if it has a task.
    pub fn registered(&self, org: &OrganisationId, id: &SandboxId) -> Option<Handle> {
        let sandboxes = self.sandboxes.read();
        // Another organisation's sandbox must be indistinguishable from an unknown one (case 31).
        sandboxes.get(id).filter(|handle| handle.published.borrow().sandbox.spec.organisation == *org).cloned()
    }

    /// The organisation's sandbox `id`, which has failed and is still shown.
    pub async fn failed(&self, org: &OrganisationId, id: &SandboxId) -> Result<Sandbox, LifecycleError> {
        let found = self.db.sandbox_by_id(id).await?;
        // A reason is what distinguishes a failed sandbox from a deleted one, which is shown to nobody.
        found
            .filter(|sandbox| sandbox.spec.organisation == *org && sandbox.reason.is_some())
            .ok_or_else(|| LifecycleError::NotFound { id: id.clone() })
    }

    /// Removes a checkpoint unless a row still refers to it: a snapshot of a paused sandbox has the sandbox's own
    /// checkpoint.
    pub async fn drop_checkpoint(&self, checkpoint: &CheckpointId) {
        match self.db.checkpoint_is_referenced(checkpoint).await {
            Ok(true) => {}
            Ok(false) => self.machines.discard(checkpoint).await,
            // The garbage collection asks again, so the checkpoint is kept until then.
            Err(error) => {
                tracing::warn!(
                    %checkpoint, error = %chain(&error),
                    "the database does not say if a checkpoint is in use"
                );
            }
        }
    }
}
