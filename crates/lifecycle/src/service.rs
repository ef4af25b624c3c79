//! The service that the control plane (`api`) and the gateway call; `create` and `snapshots` have the rest of it.

use crate::catalog::Catalog;
use crate::config::{LifecycleConfig, Parts};
use crate::error::{LifecycleError, StartError};
use crate::handle::refused;
use crate::machines::{Host, HostParts, Machines};
use crate::policy::Refusal;
use crate::recovery::UnknownMachines;
use crate::request::{OwnerRequest, Reply};
use crate::running_sandbox::RunningSandbox;
use crate::shared::Shared;
use crate::stats::LifecycleStats;
use crate::{garbage, recovery, view};
use leapbox_api_types::sandbox::{SandboxDetails, SandboxList, SandboxListQuery};
use leapbox_db::{Db, Sandbox};
use leapbox_ids::{OrganisationId, SandboxId};
use leapbox_storage::ServerKey;
use std::sync::Arc;
use tokio::sync::broadcast;

/// The operations on sandboxes. Cheap to clone.
///
/// An operation that changes a state is performed by the sandbox's task, and is completed even if the caller drops the
/// future.
#[derive(Clone)]
pub struct Lifecycle {
    pub(crate) shared: Arc<Shared>,
}

impl Lifecycle {
    /// Starts the service on this host: begins to take over the sandboxes of the previous server, removes what is left
    /// of dead machines, and starts to fill the pool. [`crate::check_takeover`] must have been called before.
    pub async fn start(config: LifecycleConfig, parts: Parts) -> Result<Self, StartError> {
        let Parts { db, vmm, network, artifacts, archives, key } = parts;
        let catalog = Arc::new(Catalog::load(artifacts, &db).await?);
        let (pod_id, unknown) = (config.pod_id.clone(), config.unknown_machines);
        let parts = HostParts { vmm, network, archives, catalog: Arc::clone(&catalog), db: db.clone() };
        let host = Arc::new(Host::open(config, parts)?);
        Self::start_over(host, pod_id, db, catalog, key, unknown).await
    }

    /// Starts the service over any implementation of [`Machines`]; tests pass simulated ones.
    pub async fn start_over(
        machines: Arc<dyn Machines>,
        pod_id: String,
        db: Db,
        catalog: Arc<Catalog>,
        key: ServerKey,
        unknown: UnknownMachines,
    ) -> Result<Self, StartError> {
        let shared = Arc::new(Shared::new(pod_id, db, machines, catalog, key));
        // Before the pool: recovery removes every machine that no sandbox owns, pooled clones included.
        recovery::recover(&shared, unknown).await?;
        let running = Arc::clone(&shared);
        shared.tasks.spawn(async move { running.machines.run(&running.stop).await });
        garbage::collect_regularly(&shared);
        Ok(Self { shared })
    }

    /// Stops serving and waits until every task has finished its operation. Pooled clones are destroyed; sandboxes keep
    /// running for the next server.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Shows one sandbox; a failed one is shown with its reason, for a day or until its owner deletes it.
    pub async fn get(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        if let Some(handle) = self.shared.registered(org, id) {
            return Ok(view::details(&handle.published.borrow().sandbox));
        }
        Ok(view::details(&self.shared.failed(org, id).await?))
    }

    /// Lists one page of the organisation's sandboxes.
    pub async fn list(&self, org: &OrganisationId, query: SandboxListQuery) -> Result<SandboxList, LifecycleError> {
        let (sandboxes, total_items) = self.shared.db.sandbox_list(org, &query).await?;
        Ok(SandboxList { items: sandboxes.iter().map(view::list_item).collect(), total_items })
    }

    /// Deletes a sandbox; returns when nothing is left of it.
    pub async fn delete(&self, org: &OrganisationId, id: &SandboxId) -> Result<(), LifecycleError> {
        if let Some(handle) = self.shared.registered(org, id) {
            return handle.ask(OwnerRequest::Delete).await.map(drop);
        }
        // Of a failed sandbox only the row is left. Without a reason it is no longer shown. The row stays for a day: its
        // machine may still be there, and a machine without a row would look like one of a newer database.
        let failed = self.shared.failed(org, id).await?;
        self.shared.db.sandbox_update(&Sandbox { reason: None, ..failed }).await?;
        Ok(())
    }

    /// Stores memory, devices and disk of a running sandbox, and ends its machine. Any HTTP request that needs the
    /// guest wakes it.
    pub async fn pause(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        self.ask(org, id, OwnerRequest::Pause).await
    }

    /// Ends the processes of a running sandbox, and keeps its disk.
    pub async fn stop_sandbox(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        self.ask(org, id, OwnerRequest::Stop).await
    }

    /// Boots a stopped sandbox over its disk.
    pub async fn start_sandbox(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        self.ask(org, id, OwnerRequest::Start).await
    }

    async fn ask(
        &self,
        org: &OrganisationId,
        id: &SandboxId,
        request: impl FnOnce(Reply<Sandbox>) -> OwnerRequest,
    ) -> Result<SandboxDetails, LifecycleError> {
        let sandbox = self.shared.find(org, id).await?.ask(request).await?;
        Ok(view::details(&sandbox))
    }

    /// Makes a sandbox ready for a request: waits while it is in transition, and wakes it if it is paused. The gateway
    /// and every endpoint that needs the guest call this, and nothing else wakes a sandbox.
    pub async fn ensure_running(&self, org: &OrganisationId, id: &SandboxId) -> Result<RunningSandbox, LifecycleError> {
        let handle = self.shared.find(org, id).await?;
        let published = handle.usable().await?;
        // `usable` returns it with its guest; the types do not say so.
        let Some(guest) = published.guest else {
            return Err(refused(&published.sandbox, Refusal::InTransition));
        };
        let image = published.image.ok_or_else(|| LifecycleError::TemplateMissing { id: id.clone() })?;
        Ok(RunningSandbox { id: id.clone(), guest, image, handle, generation: published.generation })
    }

    /// Receives the ids of sandboxes whose machines are about to end, from now on. The gateway closes its connections
    /// into them.
    pub fn ending(&self) -> broadcast::Receiver<SandboxId> {
        self.shared.ending()
    }

    pub fn stats(&self) -> LifecycleStats {
        let states = self.shared.handles().iter().map(|handle| handle.published.borrow().sandbox.state()).collect();
        self.shared.stats.read(states, self.shared.machines.numbers())
    }
}
