//! The service: what the control plane and the gateway call.

use crate::capacity::{Capacity, CapacityLimits};
use crate::catalog::{Catalog, Template};
use crate::clock::now_ms;
use crate::error::{LaunchError, LifecycleError, StartError};
use crate::pool::{Pool, PoolLimits};
use crate::sandbox::{Handle, refused, sandbox};
use crate::stats::{LifecycleStats, Source, Stats};
use crate::vm::{Launcher, Vm};
use crate::{policy::Refusal, recovery, view};
use leapbox_api_types::sandbox::{
    DEFAULT_MEMORY_MIB, DEFAULT_TEMPLATE, DEFAULT_VCPU, DISK_MIB, NewSandbox, SandboxDetails, SandboxList,
    SandboxListQuery, SandboxState,
};
use leapbox_db::{Db, SandboxRow};
use leapbox_guest_client::{GuestClient, GuestError};
use leapbox_ids::{OrganisationId, SandboxId};
use leapbox_network::Network;
use leapbox_templates::{Artifacts, ImageConfig, WarmSnapshots};
use leapbox_vmm::{IoLimits, Shape, Vmm};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, broadcast, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the service is built from.
pub struct LifecycleConfig {
    /// This runner's name, as the API shows it.
    pub pod_id: String,
    /// Folder for warm snapshots, machines and disks.
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
}

/// A sandbox that runs, and its guest.
#[derive(Clone)]
pub struct RunningSandbox {
    /// Its id.
    pub id: SandboxId,
    /// The way into it.
    pub guest: GuestClient,
    /// User, folders, environment and port of its template.
    pub image: Arc<ImageConfig>,
    handle: Handle,
}

impl RunningSandbox {
    /// Runs a call into the guest. If the sandbox ends first, so does the call, at once and with the sandbox's own
    /// reason: a dead guest's connections would only time out.
    pub async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, GuestError>>,
    ) -> Result<Result<T, GuestError>, LifecycleError> {
        tokio::select! {
            biased;
            answer = call => match answer {
                Err(error) if !matches!(error, GuestError::Fault(_)) => self.explain(error).await,
                answer => Ok(answer),
            },
            ended = self.handle.ended() => Err(ended),
        }
    }

    /// A connection that broke may be the first sign of a death that is told a moment later.
    async fn explain<T>(&self, error: GuestError) -> Result<Result<T, GuestError>, LifecycleError> {
        tokio::time::timeout(DEATH_NOTICE, self.handle.ended()).await.map_or(Ok(Err(error)), Err)
    }
}

/// From a VMM's death to the word of it.
const DEATH_NOTICE: Duration = Duration::from_millis(50);

/// Everything that can be done with sandboxes. Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: LifecycleConfig,
    pub db: Db,
    pub launcher: Launcher,
    pub catalog: Catalog,
    pub capacity: Capacity,
    pub pool: Pool,
    pub stats: Stats,
    /// Ends the tasks, not the sandboxes: those outlive the server.
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    sandboxes: RwLock<HashMap<SandboxId, Handle>>,
    launches: Semaphore,
    /// Ids of sandboxes whose machine is about to go.
    ending: broadcast::Sender<SandboxId>,
}

/// Ended sandboxes that a slow listener may lag behind by.
const ENDING_BACKLOG: usize = 1024;

impl Inner {
    pub fn remember(&self, id: SandboxId, handle: Handle) {
        self.sandboxes.write().unwrap_or_else(PoisonError::into_inner).insert(id, handle);
    }

    pub fn forget(&self, id: &SandboxId) {
        self.sandboxes.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Tells whoever holds connections into a sandbox that its machine is about to go.
    pub fn tell_ending(&self, id: &SandboxId) {
        // Nobody may be listening.
        let _ = self.ending.send(id.clone());
    }

    /// The living sandbox `id`, if it is the organisation's.
    fn living(&self, org: &OrganisationId, id: &SandboxId) -> Option<Handle> {
        let sandboxes = self.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        sandboxes.get(id).filter(|handle| handle.published.borrow().row.organisation == *org).cloned()
    }

    /// The row of a sandbox that has failed and that its owner has not deleted yet.
    async fn failed(&self, org: &OrganisationId, id: &SandboxId) -> Result<SandboxRow, LifecycleError> {
        let row = self.db.sandbox_by_id(id).await?;
        row.filter(|row| row.organisation == *org && row.state_reason.is_some())
            .ok_or_else(|| LifecycleError::NotFound { id: id.clone() })
    }

    /// Takes a share of the capacity back from the pool; the error if the pool has none.
    async fn make_room(&self, shape: Shape, error: LifecycleError) -> Result<(), LifecycleError> {
        // It is there now, or has given its share back.
        if self.pool.being_filled().await {
            return Ok(());
        }
        // What can never fit does not cost the others their pool.
        if !self.capacity.would_fit(shape, self.pool.promised_mib()) {
            return Err(error);
        }
        let vm = self.pool.give_up_one().ok_or(error)?;
        vm.destroy().await;
        Ok(())
    }

    /// A machine for a new sandbox: from the pool, or launched now.
    async fn obtain(self: Arc<Self>, template: Arc<Template>, shape: Shape) -> Result<Vm, LifecycleError> {
        let asked = Instant::now();
        let (vm, source) = self.find_machine(&template, shape).await?;
        // Only what could be had is demand: creates that this host refuses must not fill its pool.
        self.pool.count(&template, shape);
        self.stats.obtained(source, asked.elapsed());
        Ok(vm)
    }

    async fn find_machine(&self, template: &Template, shape: Shape) -> Result<(Vm, Source), LifecycleError> {
        if let Some(vm) = self.pool.take(template, shape) {
            return Ok((vm, Source::Pool));
        }
        // Before anything is held: the first use of a shape boots it, which takes seconds.
        let snapshot = self.launcher.warm.get(&template.image, shape).await.map_err(LaunchError::Warm)?;
        let _first = self.pool.busy();
        let permit = loop {
            if let Some(vm) = self.pool.take(template, shape) {
                return Ok((vm, Source::Pool));
            }
            match self.capacity.admit(shape) {
                Ok(permit) => break permit,
                Err(error) => self.make_room(shape, error).await?,
            }
        };
        let _turn = self.launches.acquire().await.map_err(|_| LifecycleError::ShuttingDown)?;
        Ok((self.launcher.launch(template, snapshot, permit).await?, Source::Restored))
    }
}

impl Lifecycle {
    /// Starts the service: takes running sandboxes over, removes what is left of dead ones, starts filling the pools.
    pub async fn start(config: LifecycleConfig, parts: Parts) -> Result<Self, StartError> {
        let Parts { db, vmm, network, artifacts } = parts;
        // First of all: everything below removes what is not this driver's.
        recovery::check_driver(&db, vmm.as_ref()).await?;
        let catalog = Catalog::load(&artifacts, &db).await?;
        let warm =
            WarmSnapshots::open(&config.state_dir.join("warm"), DISK_MIB, Arc::clone(&vmm), Arc::clone(&network))?;
        warm.remove_outdated(&catalog.images());
        let launcher = Launcher::new(vmm, network, warm, config.io_limits, &config.state_dir);
        for dir in launcher.dirs() {
            leapbox_storage::private_dir(dir)?;
        }
        let inner = Arc::new(Inner {
            capacity: Capacity::new(config.capacity, &config.state_dir),
            pool: Pool::new(config.pool),
            launches: Semaphore::new(config.launches_at_once),
            config,
            db,
            launcher,
            catalog,
            stats: Stats::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            sandboxes: RwLock::default(),
            ending: broadcast::Sender::new(ENDING_BACKLOG),
        });
        recovery::recover(&inner).await?;
        Arc::clone(&inner.launcher.network).start_pool();
        let lifecycle = Self { inner };
        lifecycle.keep_pool();
        recovery::purge_regularly(&lifecycle.inner);
        Ok(lifecycle)
    }

    fn keep_pool(&self) {
        let inner = Arc::clone(&self.inner);
        let default = Shape { vcpus: DEFAULT_VCPU as u8, memory_mib: DEFAULT_MEMORY_MIB as u32 };
        if let Ok(template) = inner.catalog.by_name(DEFAULT_TEMPLATE) {
            inner.pool.keep_one(&template, default);
        }
        self.inner.tasks.spawn(async move { inner.pool.run(&inner.launcher, &inner.capacity, &inner.stop).await });
    }

    /// Stops serving: pooled clones are destroyed, sandboxes keep running for the next server.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.launches.close();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Creates a sandbox; returns when it can be used. Goes on to its end even if the caller gives up waiting.
    pub async fn create(&self, org: &OrganisationId, new: NewSandbox) -> Result<SandboxDetails, LifecycleError> {
        if self.inner.stop.is_cancelled() {
            return Err(LifecycleError::ShuttingDown);
        }
        let started = Instant::now();
        let template = self.inner.catalog.by_name(&new.template_name)?;
        let row = self.new_row(org, &new, &template);
        self.inner.db.sandbox_insert(&row).await?;
        let shape = Shape { vcpus: row.vcpu, memory_mib: row.memory_mib };
        let (handle, driver) = sandbox(Arc::clone(&self.inner), row.clone(), Arc::clone(&template.config));
        self.inner.remember(row.id.clone(), handle.clone());
        let (ready, created) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        let obtain = move || Arc::clone(&inner).obtain(Arc::clone(&template), shape);
        self.inner.tasks.spawn(driver.run(obtain, new.env_vars, ready));
        created.await.map_err(|_| LifecycleError::ShuttingDown)??;
        self.inner.stats.created(started.elapsed());
        let details = view::details(&handle.published.borrow().row);
        Ok(details)
    }

    fn new_row(&self, org: &OrganisationId, new: &NewSandbox, template: &Template) -> SandboxRow {
        let now = now_ms();
        SandboxRow {
            id: SandboxId::generate(),
            organisation: org.clone(),
            template: template.id.clone(),
            pod_id: self.inner.config.pod_id.clone(),
            vcpu: new.vcpu as u8,
            memory_mib: new.memory_mib as u32,
            disk_mib: DISK_MIB,
            timeout_s: new.timeout_s,
            auto_pause: false,
            state: SandboxState::Starting,
            state_reason: None,
            created_at_ms: now,
            launched_at_ms: None,
            state_changed_at_ms: now,
            timeout_at_ms: None,
            machine: None,
        }
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

    /// Deletes one; returns when nothing is left of it. Goes on to its end even if the caller gives up waiting.
    pub async fn delete(&self, org: &OrganisationId, id: &SandboxId) -> Result<(), LifecycleError> {
        if let Some(handle) = self.inner.living(org, id) {
            return handle.delete().await;
        }
        let failed = self.inner.failed(org, id).await?;
        self.inner.db.sandbox_delete_row(&failed.id).await?;
        Ok(())
    }

    /// The one place where a sandbox is made ready for a request.
    pub async fn ensure_running(&self, org: &OrganisationId, id: &SandboxId) -> Result<RunningSandbox, LifecycleError> {
        let Some(handle) = self.inner.living(org, id) else {
            return Err(refused(&self.inner.failed(org, id).await?, Refusal::Gone));
        };
        let published = handle.usable().await?;
        let Some(guest) = published.guest else {
            return Err(refused(&published.row, Refusal::Gone));
        };
        Ok(RunningSandbox { id: id.clone(), guest, image: published.image, handle })
    }

    /// Ids of sandboxes whose machines are about to go, from now on: connections into them should be closed.
    pub fn ending(&self) -> broadcast::Receiver<SandboxId> {
        self.inner.ending.subscribe()
    }

    /// Numbers for the metrics.
    pub fn stats(&self) -> LifecycleStats {
        let sandboxes = self.inner.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        let states = sandboxes.values().map(|handle| handle.published.borrow().row.state).collect();
        drop(sandboxes);
        self.inner.stats.read(states, self.inner.pool.ready())
    }
}
