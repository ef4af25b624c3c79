//! The machines of this host: the driver, the pool, the bases and the archives behind one door.

use super::capacity::{Capacity, Permit};
use super::checkpoint::{self, Contents};
use super::launch::{Disk, Launcher};
use super::pool::Pool;
use super::storing::{Exports, Storing};
use super::vm::{Vm, admission};
use super::{CheckpointPin, Egress, Machines, SandboxVm};
use crate::catalog::{Catalog, Template};
use crate::config::LifecycleConfig;
use crate::error::{CheckpointError, LaunchError, LifecycleError, StartError};
use crate::stats::MachineNumbers;
use async_trait::async_trait;
use leapbox_api_types::sandbox::{DEFAULT_MEMORY_MIB, DEFAULT_TEMPLATE, DEFAULT_VCPU, DISK_MIB};
use leapbox_bases::{Base, BaseKind, Bases};
use leapbox_db::{Db, Live, Spec, Stored, VmRecord};
use leapbox_errors::chain;
use leapbox_ids::{ArchiveId, BaseId, CheckpointId, SandboxId};
use leapbox_network::Network;
use leapbox_storage::{Archive, ArchiveStore};
use leapbox_vmm::{Shape, Vmm, VmmError};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{AcquireError, Notify, Semaphore};
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;

/// What it stands on.
pub(crate) struct HostParts {
    pub vmm: Arc<dyn Vmm>,
    pub network: Arc<Network>,
    pub archives: ArchiveStore,
    pub catalog: Arc<Catalog>,
}

/// What a checkpoint may take to come from the bucket.
const FETCH_DEADLINE: Duration = Duration::from_secs(600);

/// All machines of this host.
pub(crate) struct Host {
    pub(super) launcher: Launcher,
    pub(super) storing: Arc<Storing>,
    pub(super) catalog: Arc<Catalog>,
    pool: Pool,
    launches: Semaphore,
    from_pool: AtomicU64,
    launched: AtomicU64,
    /// There are more bases than are kept.
    crowded: Notify,
}

impl Host {
    /// Prepares the folders; nothing is launched yet.
    pub fn open(config: LifecycleConfig, parts: HostParts) -> Result<Self, StartError> {
        let HostParts { vmm, network, archives, catalog } = parts;
        let state_dir = &config.state_dir;
        let bases = Bases::open(&state_dir.join("warm"), DISK_MIB, Arc::clone(&vmm), Arc::clone(&network))?;
        let capacity = Capacity::new(config.capacity, state_dir);
        let storing = Arc::new(Storing { archives, capacity, exports: Exports::default() });
        let launcher = Launcher::new(vmm, network, bases, Arc::clone(&storing), config.io_limits, state_dir);
        for dir in launcher.dirs() {
            leapbox_storage::private_dir(dir)?;
        }
        Ok(Self {
            launcher,
            storing,
            catalog,
            pool: Pool::new(config.pool),
            launches: Semaphore::new(config.launches_at_once),
            from_pool: AtomicU64::default(),
            launched: AtomicU64::default(),
            crowded: Notify::new(),
        })
    }

    /// Takes a share of the capacity back from the pool; the error if the pool has none.
    async fn make_room(&self, shape: Shape, error: LifecycleError) -> Result<(), LifecycleError> {
        // It is there now, or has given its share back.
        if self.pool.being_filled().await {
            return Ok(());
        }
        // What can never fit does not cost the others their pool.
        if !self.storing.capacity.would_fit(shape, self.pool.promised_mib()) {
            return Err(error);
        }
        let vm = self.pool.give_up_one().ok_or(error)?;
        Box::new(vm).destroy().await;
        Ok(())
    }

    /// A share of the host for one more machine.
    async fn admit(&self, shape: Shape) -> Result<Permit, LifecycleError> {
        loop {
            match self.storing.capacity.admit(shape) {
                Ok(permit) => return Ok(permit),
                Err(error) => self.make_room(shape, error).await?,
            }
        }
    }

    /// A machine, and where it is counted.
    async fn launch_fresh(&self, template: &Template, shape: Shape) -> Result<(Vm, &AtomicU64), LifecycleError> {
        // A base is some hundred MiB.
        drop(self.storing.capacity.reserve_disk(0)?);
        // Before anything is held: the first use of a shape boots it, which takes seconds.
        let base = self.base_now(template, shape, BaseKind::Ready).await?;
        let _first = self.pool.busy();
        let permit = loop {
            if let Some(vm) = self.pool.take(template, shape) {
                return Ok((vm, &self.from_pool));
            }
            match self.storing.capacity.admit(shape) {
                Ok(permit) => break permit,
                Err(error) => self.make_room(shape, error).await?,
            }
        };
        let _turn = self.launches.acquire().await.map_err(|_: AcquireError| LifecycleError::ShuttingDown)?;
        Ok((self.launcher.launch(template, base, Disk::OfBase, None, permit).await?, &self.launched))
    }

    async fn base_now(&self, template: &Template, shape: Shape, kind: BaseKind) -> Result<Arc<Base>, LifecycleError> {
        let base = self.launcher.bases.get(&template.image, shape, kind).await.map_err(LaunchError::Warm)?;
        if self.launcher.bases.is_crowded() {
            self.crowded.notify_one();
        }
        Ok(base)
    }

    /// Launches what is stored, once it is known to fit this host.
    async fn launch_stored(&self, spec: &Spec, stored: &Stored) -> Result<Vm, LifecycleError> {
        // Before anything is held: it may have to be fetched first.
        let archive = self.fetch(stored.checkpoint()).await?;
        let header = checkpoint::header_of(&archive, spec, stored)?;
        let template = self.image_of(&spec.template, &header.image).await?;
        let base = match &header.base {
            Some(id) => self.base_of(id, header.compatibility_key.as_deref(), &template, spec.shape()).await?,
            None => self.base_now(&template, spec.shape(), BaseKind::Bare).await?,
        };
        let permit = self.admit(spec.shape()).await?;
        let _room = self.storing.capacity.reserve_disk(archive.plain_bytes() >> 20)?;
        let _first = self.pool.busy();
        // Reading begins with the turn: frames that nobody takes yet would only fill the memory.
        let _turn = self.launches.acquire().await.map_err(|_: AcquireError| LifecycleError::ShuttingDown)?;
        let Contents { changes, disk } = checkpoint::read(archive).await?;
        let launched = self.launcher.launch(&template, base, Disk::Stored(disk), changes, permit).await;
        let vm = launched.map_err(CheckpointError::of_launch)?;
        if header.base.is_some() {
            return Ok(vm);
        }
        let mounted = vm.guest.mount().await;
        match mounted.map_err(|source| LaunchError::Agent { stage: "mounting its disks", source }) {
            Ok(()) => Ok(vm),
            Err(error) => {
                Box::new(vm).destroy().await;
                Err(error.into())
            }
        }
    }

    /// What is stored as `checkpoint`, here or in the bucket.
    async fn fetch(&self, checkpoint: &CheckpointId) -> Result<Archive, CheckpointError> {
        let (id, seconds) = (checkpoint.into(), FETCH_DEADLINE.as_secs());
        let fetched = tokio::time::timeout(FETCH_DEADLINE, self.storing.archives.get(&id)).await;
        fetched.map_err(|_: Elapsed| CheckpointError::Late { seconds })?.map_err(CheckpointError::of_store)
    }

    /// The base of a checkpoint, if this host can still make machines of it.
    async fn base_of(
        &self,
        id: &BaseId,
        stored_for: Option<&str>,
        template: &Template,
        shape: Shape,
    ) -> Result<Arc<Base>, LifecycleError> {
        let here = self.launcher.vmm.compatibility_key(shape, &template.image);
        if let Some(stored) = stored_for.filter(|stored| *stored != here) {
            return Err(CheckpointError::Incompatible { stored: stored.to_owned(), here }.into());
        }
        match self.launcher.bases.by_id(id).await.map_err(|error| CheckpointError::NoBase(Some(error)))? {
            Some(base) => Ok(base),
            None => Ok(self.fetch_base(id).await?),
        }
    }
}

#[async_trait]
impl Machines for Host {
    async fn fresh(&self, template: &Arc<Template>, shape: Shape) -> Result<Box<dyn SandboxVm>, LifecycleError> {
        let (vm, counter) = match self.pool.take(template, shape) {
            Some(vm) => (vm, &self.from_pool),
            None => self.launch_fresh(template, shape).await?,
        };
        counter.fetch_add(1, Relaxed);
        // Only what could be had is demand: creates that this host refuses must not fill its pool.
        self.pool.count(template, shape);
        Ok(Box::new(vm))
    }

    async fn restored(&self, spec: &Spec, stored: &Stored) -> Result<Box<dyn SandboxVm>, LifecycleError> {
        Ok(Box::new(self.launch_stored(spec, stored).await?))
    }

    async fn adopt(&self, spec: &Spec, live: &Live, egress: &Egress) -> Result<Box<dyn SandboxVm>, LaunchError> {
        let base = self.base_of_adopted(&spec.id, &live.origin.base).await;
        let permit = self.storing.capacity.adopt(spec.shape());
        Ok(Box::new(self.launcher.adopt(live, base, admission(&spec.id, egress), permit).await?))
    }

    async fn store_disk(
        &self,
        spec: &Spec,
        live: &Live,
        checkpoint: &CheckpointId,
    ) -> Result<CheckpointPin, CheckpointError> {
        let record = &live.vm.machine;
        self.launcher.vmm.reap(&record.name, &record.dir).await.map_err(CheckpointError::Vmm)?;
        let disk = self.launcher.disk(&record.name);
        let bytes = match std::fs::metadata(&disk) {
            Ok(meta) => meta.blocks() * 512,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(CheckpointError::DiskLost),
            // It is told when it is read.
            Err(_) => 0,
        };
        let Storing { archives, capacity, exports } = self.storing.as_ref();
        let _room = capacity.reserve_disk(bytes >> 20).map_err(CheckpointError::of_full_disk)?;
        exports.want([ArchiveId::from(&live.origin.image)]);
        checkpoint::store_disk(archives, spec, live, &disk, checkpoint).await
    }

    async fn remove_disk(&self, vm: &VmRecord) {
        remove_file(&self.launcher.disk(&vm.machine.name)).await;
    }

    async fn discard(&self, checkpoint: &CheckpointId) {
        if let Err(error) = self.storing.archives.remove(&checkpoint.into()).await {
            tracing::warn!(%checkpoint, error = %chain(&error), "a checkpoint could not be removed: it is garbage now");
        }
    }

    async fn remove_leftovers(&self, owned: &BTreeSet<String>) -> Result<(), VmmError> {
        let launcher = &self.launcher;
        let [machines_dir, disks_dir] = launcher.dirs();
        let mut names: BTreeSet<String> = launcher.vmm.leftovers().await?.into_iter().collect();
        names.extend(entries(machines_dir));
        names.extend(entries(disks_dir).filter_map(|file| file.strip_suffix(".ext4").map(str::to_owned)));
        for name in names.difference(owned) {
            tracing::info!(machine = %name, "removing what is left of a machine");
            launcher.vmm.reap(name, &launcher.machine_dir(name)).await?;
            remove_file(&launcher.disk(name)).await;
        }
        Ok(())
    }

    async fn collect_garbage(&self, db: &Db) {
        // First what there is, then what is named: what is stored and named in between is spared.
        let sweep = self.storing.archives.sweep().await;
        let named = match db.archives_referenced().await {
            Ok(named) => named,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "not known what is in use: nothing is collected");
                return;
            }
        };
        self.launcher.bases.evict(&self.catalog.images(), &named).await;
        match sweep.keep_only(&named).await {
            Ok(swept) => tracing::debug!(?swept, "collected garbage"),
            Err(error) => tracing::warn!(error = %chain(&error), "not all garbage could be collected"),
        }
        self.storing.exports.want(named);
    }

    async fn crowded(&self) {
        self.crowded.notified().await;
    }

    async fn run(&self, stop: &CancellationToken) {
        self.launcher.network.start_pool();
        let default = Shape { vcpus: DEFAULT_VCPU as u8, memory_mib: DEFAULT_MEMORY_MIB as u32 };
        if let Ok(template) = self.catalog.by_name(DEFAULT_TEMPLATE) {
            self.pool.keep_one(&template, default);
        }
        tokio::join!(
            self.pool.run(&self.launcher, &self.storing.capacity, stop),
            self.storing.archives.run(stop.clone()),
            self.keep_exported(stop),
            async {
                stop.cancelled().await;
                self.launches.close();
            }
        );
    }

    fn numbers(&self) -> MachineNumbers {
        MachineNumbers {
            ready: self.pool.ready(),
            from_pool: self.from_pool.load(Relaxed),
            launched: self.launched.load(Relaxed),
            archives: self.storing.archives.usage(),
        }
    }
}

impl Host {
    /// What an adopted machine's memory is a difference to. Without it the machine runs on, and cannot be stored.
    async fn base_of_adopted(&self, sandbox: &SandboxId, id: &BaseId) -> Option<Arc<Base>> {
        let base = match self.launcher.bases.by_id(id).await {
            Ok(Some(base)) => return Some(base),
            Ok(None) => self.fetch_base(id).await,
            Err(error) => Err(CheckpointError::NoBase(Some(error))),
        };
        base.map_err(|error| tracing::warn!(%sandbox, error = %chain(&error), "it cannot be paused")).ok()
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

async fn remove_file(path: &Path) {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), error = %chain(&error), "a file could not be removed: the next start will");
        }
        _ => {}
    }
}
