//! The service: what the control plane and the gateway call.

use crate::catalog::Catalog;
use crate::error::{LifecycleError, StartError};
use crate::inner::Inner;
use crate::machines::{CapacityLimits, Host, HostParts, Machines, PoolLimits};
use crate::policy::{Action, Refusal};
use crate::sandbox::refused;
use crate::stats::LifecycleStats;
use crate::usable::RunningSandbox;
use crate::{garbage, recovery, view};
use leapbox_api_types::sandbox::{SandboxDetails, SandboxList, SandboxListQuery};
use leapbox_db::Db;
use leapbox_ids::{OrganisationId, SandboxId};
use leapbox_network::Network;
use leapbox_storage::{ArchiveStore, ServerKey};
use leapbox_templates::Artifacts;
use leapbox_vmm::{IoLimits, Vmm};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::broadcast;

/// What the service is built from.
pub struct LifecycleConfig {
    /// This runner's name, as the API shows it.
    pub pod_id: String,
    /// Folder for bases, machines and disks.
    pub state_dir: PathBuf,
    /// How much this host takes.
    pub capacity: CapacityLimits,
    /// How much is kept ready.
    pub pool: PoolLimits,
    /// How much one sandbox may move.
    pub io_limits: IoLimits,
    /// Clones that may be launched at once: more only take each other's CPU time.
    pub launches_at_once: usize,
}

/// What the service stands on.
pub struct Parts {
    /// The database.
    pub db: Db,
    /// The driver.
    pub vmm: Arc<dyn Vmm>,
    /// Network slots.
    pub network: Arc<Network>,
    /// What set-up has built.
    pub artifacts: Artifacts,
    /// Where checkpoints are kept.
    pub archives: ArchiveStore,
    /// What is secret in the database is sealed with it.
    pub key: ServerKey,
}

/// Everything that can be done with sandboxes. Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle {
    pub(crate) inner: Arc<Inner>,
}

impl Lifecycle {
    /// Starts the service: takes running sandboxes over, removes what is left of dead ones, starts filling the pools.
    pub async fn start(config: LifecycleConfig, parts: Parts) -> Result<Self, StartError> {
        let Parts { db, vmm, network, artifacts, archives, key } = parts;
        // First of all: everything below removes what is not this driver's.
        recovery::check_driver(&db, vmm.as_ref()).await?;
        let catalog = Arc::new(Catalog::load(artifacts, &db).await?);
        let pod_id = config.pod_id.clone();
        let parts = HostParts { vmm, network: Arc::clone(&network), archives, catalog: Arc::clone(&catalog) };
        let host: Arc<dyn Machines> = Arc::new(Host::open(config, parts)?);
        let inner = Arc::new(Inner::new(pod_id, db, host, catalog, key));
        recovery::recover(&inner).await?;
        network.start_pool();
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
            return Ok(view::details(&handle.published.borrow().row));
        }
        Ok(view::details(&self.inner.failed(org, id).await?))
    }

    /// A page of the organisation's sandboxes.
    pub async fn list(&self, org: &OrganisationId, query: SandboxListQuery) -> Result<SandboxList, LifecycleError> {
        let (rows, total_items) = self.inner.db.sandbox_list(org, &query).await?;
        Ok(SandboxList { items: rows.into_iter().map(view::list_item).collect(), total_items })
    }

    /// Deletes one; returns when nothing is left of it. Goes on to its end even if the caller gives up waiting, like
    /// everything below.
    pub async fn delete(&self, org: &OrganisationId, id: &SandboxId) -> Result<(), LifecycleError> {
        if let Some(handle) = self.inner.living(org, id) {
            return handle.ask(Action::Delete).await.map(drop);
        }
        let failed = self.inner.failed(org, id).await?;
        self.inner.db.sandbox_delete_row(&failed.id).await?;
        Ok(())
    }

    /// Stores memory, processes and disk of one that runs, and ends its machine. Any request wakes it.
    pub async fn pause(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        self.ask(org, id, Action::Pause).await
    }

    /// Ends the processes of one that runs, and keeps its disk.
    pub async fn stop_sandbox(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        self.ask(org, id, Action::Stop).await
    }

    /// Boots one that is stopped over its disk.
    pub async fn start_sandbox(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        self.ask(org, id, Action::Start).await
    }

    async fn ask(
        &self,
        org: &OrganisationId,
        id: &SandboxId,
        action: Action,
    ) -> Result<SandboxDetails, LifecycleError> {
        let row = self.inner.find(org, id).await?.ask(action).await?;
        Ok(view::details(&row))
    }

    /// The one place where a sandbox is made ready for a request.
    pub async fn ensure_running(&self, org: &OrganisationId, id: &SandboxId) -> Result<RunningSandbox, LifecycleError> {
        let handle = self.inner.find(org, id).await?;
        let published = handle.usable().await?;
        let Some(guest) = published.guest else {
            return Err(refused(&published.row, Refusal::InTransition));
        };
        Ok(RunningSandbox { id: id.clone(), guest, image: published.image, handle, runs: published.runs })
    }

    /// Ids of sandboxes whose machines are about to go, from now on: connections into them should be closed.
    pub fn ending(&self) -> broadcast::Receiver<SandboxId> {
        self.inner.ending()
    }

    /// Numbers for the metrics.
    pub fn stats(&self) -> LifecycleStats {
        let states = self.inner.handles().iter().map(|handle| handle.published.borrow().row.state).collect();
        self.inner.stats.read(states, self.inner.machines.numbers())
    }
}
