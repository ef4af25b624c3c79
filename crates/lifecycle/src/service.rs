//! The service: what the control plane and the gateway call.

use crate::catalog::Catalog;
use crate::config::{LifecycleConfig, Parts};
use crate::error::{LifecycleError, StartError};
use crate::handle::refused;
use crate::inner::Inner;
use crate::machines::{Host, HostParts, Machines};
use crate::policy::Refusal;
use crate::request::{Reply, Request};
use crate::stats::LifecycleStats;
use crate::usable::RunningSandbox;
use crate::{garbage, recovery, view};
use leapbox_api_types::sandbox::{SandboxDetails, SandboxList, SandboxListQuery};
use leapbox_db::{Db, Sandbox};
use leapbox_ids::{OrganisationId, SandboxId};
use leapbox_storage::ServerKey;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Everything that can be done with sandboxes. Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle {
    pub(crate) inner: Arc<Inner>,
}

impl Lifecycle {
    /// Starts the service on this host: takes running sandboxes over, removes what is left of dead ones, starts filling
    /// the pools.
    pub async fn start(config: LifecycleConfig, parts: Parts) -> Result<Self, StartError> {
        let Parts { db, vmm, network, artifacts, archives, key } = parts;
        // First of all: everything below removes what is not this driver's.
        recovery::check_driver(&db, vmm.as_ref()).await?;
        let catalog = Arc::new(Catalog::load(artifacts, &db).await?);
        let pod_id = config.pod_id.clone();
        let parts = HostParts { vmm, network, archives, catalog: Arc::clone(&catalog) };
        let host = Arc::new(Host::open(config, parts)?);
        Self::start_over(host, pod_id, db, catalog, key).await
    }

    /// Starts the service over machines that need not be this host's.
    pub async fn start_over(
        machines: Arc<dyn Machines>,
        pod_id: String,
        db: Db,
        catalog: Arc<Catalog>,
        key: ServerKey,
    ) -> Result<Self, StartError> {
        let inner = Arc::new(Inner::new(pod_id, db, machines, catalog, key));
        recovery::recover(&inner).await?;
        let running = Arc::clone(&inner);
        inner.tasks.spawn(async move { running.machines.run(&running.stop).await });
        garbage::collect_regularly(&inner);
        Ok(Self { inner })
    }

    /// Stops serving: pooled clones are destroyed, sandboxes keep running for the next server.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// One sandbox; one that has failed is shown with its reason until its owner deletes it.
    pub async fn get(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        if let Some(handle) = self.inner.living(org, id) {
            return Ok(view::details(&handle.published.borrow().sandbox));
        }
        Ok(view::details(&self.inner.failed(org, id).await?))
    }

    /// A page of the organisation's sandboxes.
    pub async fn list(&self, org: &OrganisationId, query: SandboxListQuery) -> Result<SandboxList, LifecycleError> {
        let (sandboxes, total_items) = self.inner.db.sandbox_list(org, &query).await?;
        Ok(SandboxList { items: sandboxes.iter().map(view::list_item).collect(), total_items })
    }

    /// Deletes one; returns when nothing is left of it. Goes on to its end even if the caller gives up waiting, like
    /// everything below.
    pub async fn delete(&self, org: &OrganisationId, id: &SandboxId) -> Result<(), LifecycleError> {
        if let Some(handle) = self.inner.living(org, id) {
            return handle.ask(Request::Delete).await.map(drop);
        }
        let failed = self.inner.failed(org, id).await?;
        self.inner.db.sandbox_delete_row(failed.id()).await?;
        Ok(())
    }

    /// Stores memory, processes and disk of one that runs, and ends its machine. Any request wakes it.
    pub async fn pause(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        self.ask(org, id, Request::Pause).await
    }

    /// Ends the processes of one that runs, and keeps its disk.
    pub async fn stop_sandbox(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        self.ask(org, id, Request::Stop).await
    }

    /// Boots one that is stopped over its disk.
    pub async fn start_sandbox(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        self.ask(org, id, Request::Start).await
    }

    async fn ask(
        &self,
        org: &OrganisationId,
        id: &SandboxId,
        request: impl FnOnce(Reply<Sandbox>) -> Request,
    ) -> Result<SandboxDetails, LifecycleError> {
        let sandbox = self.inner.find(org, id).await?.ask(request).await?;
        Ok(view::details(&sandbox))
    }

    /// The one place where a sandbox is made ready for a request.
    pub async fn ensure_running(&self, org: &OrganisationId, id: &SandboxId) -> Result<RunningSandbox, LifecycleError> {
        let handle = self.inner.find(org, id).await?;
        let published = handle.usable().await?;
        let Some(guest) = published.guest else {
            return Err(refused(&published.sandbox, Refusal::InTransition));
        };
        Ok(RunningSandbox { id: id.clone(), guest, image: published.image, handle, runs: published.runs })
    }

    /// Ids of sandboxes whose machines are about to go, from now on: connections into them should be closed.
    pub fn ending(&self) -> broadcast::Receiver<SandboxId> {
        self.inner.ending()
    }

    /// Numbers for the metrics.
    pub fn stats(&self) -> LifecycleStats {
        let states = self.inner.handles().iter().map(|handle| handle.published.borrow().sandbox.state()).collect();
        self.inner.stats.read(states, self.inner.machines.numbers())
    }
}
