//! Implements [`Machines`] for this host, with the driver, the network, the pool, the bases and the archives.
//!
//! ```text
//! fresh ────► pool ── none ready ──► base (booted at first use) ─► capacity ─► launch permit ─► Launcher::launch
//! restored ─► fetch archive ─► check its header ─► image, base ─► capacity ─► launch permit ─► Launcher::launch
//! ```

use super::capacity::{Capacity, CapacityShare};
use super::checkpoint::{self, Contents};
use super::garbage::Collector;
use super::launch::{Disk, Launcher};
use super::pool::Pool;
use super::store_context::{Exports, Stamps, StoreContext};
use super::vm::{Vm, slot_policy};
use super::{CheckpointPin, Egress, FoundMachine, Machines, SandboxVm, owner};
use crate::catalog::{Catalog, Template};
use crate::config::LifecycleConfig;
use crate::error::{CheckpointError, LaunchError, LifecycleError, StartError};
use crate::stats::MachineNumbers;
use async_trait::async_trait;
use leapbox_api_types::sandbox::{DEFAULT_MEMORY_MIB, DEFAULT_TEMPLATE, DEFAULT_VCPU, DISK_MIB};
use leapbox_bases::{Base, BaseKind, Bases};
use leapbox_db::{Db, Live, Spec, Stored, VmRecord};
use leapbox_errors::{FileError, chain};
use leapbox_ids::{ArchiveId, BaseId, CheckpointId, SandboxId};
use leapbox_network::Network;
use leapbox_storage::{Archive, ArchiveStore};
use leapbox_vmm::{Life, Shape, Vmm, VmmError};
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

/// The parts of the server that the host's machines are made with.
pub(crate) struct HostParts {
    pub vmm: Arc<dyn Vmm>,
    pub network: Arc<Network>,
    pub archives: ArchiveStore,
    pub catalog: Arc<Catalog>,
    pub db: Db,
}

/// How long a checkpoint may take to be fetched from the bucket: the largest one (8 GiB of memory and 10 GiB of disk)
/// at 30 MiB/s. A wake waits that long; the requests behind it have shorter limits of their own.
const FETCH_DEADLINE: Duration = Duration::from_secs(600);

/// How long the base of an adopted machine may take to be fetched. Requests for the sandbox wait for it, and it can be
/// used without the base.
const ADOPTION_FETCH_DEADLINE: Duration = Duration::from_secs(30);

/// The machines of this host.
pub(crate) struct Host {
    pub(super) launcher: Launcher,
    pub(super) store_context: Arc<StoreContext>,
    pub(super) catalog: Arc<Catalog>,
    pool: Pool,
    /// One permit for each launch; closed when the server stops.
    launches: Semaphore,
    /// Cancelled when the server stops: fetches from the bucket, which may take minutes, are given up then.
    stopping: CancellationToken,
    from_pool: AtomicU64,
    launched: AtomicU64,
    /// Notified when there are more bases than are kept without a reference.
    base_pressure: Notify,
    pub(super) collector: Collector,
    /// How long the server runs before what is set aside is removed.
    pub(super) garbage_grace: Duration,
}

impl Host {
    /// Opens the bases and prepares the directories; nothing is launched yet.
    pub fn open(config: LifecycleConfig, parts: HostParts) -> Result<Self, StartError> {
        let HostParts { vmm, network, archives, catalog, db } = parts;
        let state_dir = &config.state_dir;
        let bases = Bases::open(&state_dir.join("warm"), DISK_MIB, Arc::clone(&vmm), Arc::clone(&network))?;
        let capacity = Capacity::new(config.capacity, state_dir);
        let stamps = Stamps::new(db, config.installation);
        let store_context = Arc::new(StoreContext { archives, stamps, capacity, exports: Exports::default() });
        let launcher = Launcher::new(vmm, network, bases, Arc::clone(&store_context), config.io_limits, state_dir);
        for dir in launcher.dirs() {
            leapbox_storage::private_dir(dir)?;
        }
        Ok(Self {
            launcher,
            store_context,
            catalog,
            pool: Pool::new(config.pool),
            launches: Semaphore::new(config.launches_at_once),
            stopping: CancellationToken::new(),
            from_pool: AtomicU64::default(),
            launched: AtomicU64::default(),
            base_pressure: Notify::new(),
            collector: Collector::default(),
            garbage_grace: config.garbage_grace,
        })
    }

    /// Frees a share of the capacity by destroying a pooled clone, so that the caller can try again. Returns `error` if
    /// the pool holds nothing that would help.
    async fn free_capacity(&self, shape: Shape, error: LifecycleError) -> Result<(), LifecycleError> {
        // A clone that is being made for the pool holds a share already. After this it is in the pool, where it can be
        // taken or evicted, or it has failed and freed its share.
        if self.pool.wait_for_fill().await {
            return Ok(());
        }
        // A machine that would not even fit into an empty pool must not empty it.
        if !self.store_context.capacity.would_fit(shape, self.pool.promised_mib()) {
            return Err(error);
        }
        let vm = self.pool.evict_one().ok_or(error)?;
        Box::new(vm).destroy().await;
        Ok(())
    }

    /// Takes a share of the capacity for one more machine, at the pool's expense if need be.
    async fn admit(&self, shape: Shape) -> Result<CapacityShare, LifecycleError> {
        loop {
            match self.store_context.capacity.admit(shape) {
                Ok(share) => return Ok(share),
                Err(error) => self.free_capacity(shape, error).await?,
            }
        }
    }

    /// Gets a machine for a create that found none in the pool, and the counter that it belongs to.
    async fn launch_fresh(&self, template: &Template, shape: Shape) -> Result<(Vm, &AtomicU64), LifecycleError> {
        template.check_files()?;
        // Checked before a base is created, which writes some hundred MiB and would fail half way on a full disk.
        drop(self.store_context.capacity.reserve_disk(0)?);
        // Before a share is taken: the first use of a shape boots it, which takes seconds, and a share that is held
        // meanwhile would be missing to creates that could use it.
        let base = self.base_now(template, shape, BaseKind::Ready).await?;
        // The pool launches nothing meanwhile: its clones would take the CPU from a create that a client waits for.
        let _busy = self.pool.busy();
        let share = loop {
            // Looked at in every round: waiting for the pool may just have put a clone there.
            if let Some(vm) = self.pool.take(template, shape) {
                return Ok((vm, &self.from_pool));
            }
            match self.store_context.capacity.admit(shape) {
                Ok(share) => break share,
                Err(error) => self.free_capacity(shape, error).await?,
            }
        };
        let _launch_permit = self.launches.acquire().await.map_err(|_: AcquireError| LifecycleError::ShuttingDown)?;
        Ok((self.launcher.launch(template, base, Disk::OfBase, None, share).await?, &self.launched))
    }

    /// The current base for new machines, created now if there is none.
    async fn base_now(&self, template: &Template, shape: Shape, kind: BaseKind) -> Result<Arc<Base>, LifecycleError> {
        let base = self.launcher.bases.get(&template.image, shape, kind).await.map_err(LaunchError::Base)?;
        if self.launcher.bases.is_crowded() {
            self.base_pressure.notify_one();
        }
        Ok(base)
    }

    /// Launches a machine from a checkpoint, after checking that the checkpoint is the row's and fits this host.
    async fn launch_stored(&self, spec: &Spec, stored: &Stored) -> Result<Vm, LifecycleError> {
        // Before a share is taken: the archive may have to be fetched from the bucket, which can take minutes.
        let archive = self.stopping.run_until_cancelled(self.fetch(stored.checkpoint())).await;
        let archive = archive.ok_or(LifecycleError::ShuttingDown)??;
        let header = checkpoint::header_of(&archive, spec, stored)?;
        let template = self.image_of(&spec.template, &header.image).await?;
        template.check_files()?;
        let base = match &header.base {
            Some(id) => self.base_of(id, header.compatibility_key.as_deref(), &template, spec.shape()).await?,
            None => self.base_now(&template, spec.shape(), BaseKind::Diskless).await?,
        };
        let share = self.admit(spec.shape()).await?;
        // The unpacked disk and, under Firecracker, the overlaid memory are written in the clear before the guest runs.
        let _reservation = self.store_context.capacity.reserve_disk(archive.plain_bytes() >> 20)?;
        let _busy = self.pool.busy();
        // Reading begins with the launch permit: frames are decoded ahead, and while nobody takes them they only fill
        // memory.
        let _launch_permit = self.launches.acquire().await.map_err(|_: AcquireError| LifecycleError::ShuttingDown)?;
        let Contents { changes, disk } = checkpoint::read(archive).await?;
        let launched = self.launcher.launch(&template, base, Disk::Stored(disk), changes, share).await;
        let vm = launched.map_err(CheckpointError::of_launch)?;
        if header.base.is_some() {
            return Ok(vm);
        }
        // A diskless base has no disk mounted: the guest mounts the stored one now, which can fail on a damaged file
        // system.
        let mounted = vm.guest.mount().await;
        match mounted.map_err(|source| LaunchError::Agent { stage: "mounting its disks", source }) {
            Ok(()) => Ok(vm),
            Err(error) => {
                Box::new(vm).destroy().await;
                Err(error.into())
            }
        }
    }

    /// Opens the archive of `checkpoint`, fetching it from the bucket if it is not in the directory.
    async fn fetch(&self, checkpoint: &CheckpointId) -> Result<Archive, CheckpointError> {
        let (id, seconds) = (checkpoint.into(), FETCH_DEADLINE.as_secs());
        let fetched = tokio::time::timeout(FETCH_DEADLINE, self.store_context.archives.get(&id)).await;
        fetched.map_err(|_: Elapsed| CheckpointError::TimedOut { seconds })?.map_err(CheckpointError::of_store)
    }

    /// The base of a checkpoint, if this host can restore it.
    async fn base_of(
        &self,
        id: &BaseId,
        stored_for: Option<&str>,
        template: &Template,
        shape: Shape,
    ) -> Result<Arc<Base>, LifecycleError> {
        // A snapshot of another CPU model, kernel or VMM build may load without an error and hang or corrupt the guest
        // afterwards, so it is refused before it is loaded (case 40).
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
        // Only creates that succeed count as demand: those that this host refuses must not make it fill its pool.
        self.pool.count(template, shape);
        Ok(Box::new(vm))
    }

    async fn restored(&self, spec: &Spec, stored: &Stored) -> Result<Box<dyn SandboxVm>, LifecycleError> {
        Ok(Box::new(self.launch_stored(spec, stored).await?))
    }

    fn life(&self, vm: &VmRecord) -> Life {
        vm.machine.life()
    }

    async fn adopt(&self, spec: &Spec, live: &Live, egress: &Egress) -> Result<Box<dyn SandboxVm>, VmmError> {
        // Not refused on a host that is over its limits: the machine runs.
        let share = self.store_context.capacity.adopt(spec.shape());
        // At the same time, because the first look at a base in a server's life reads and verifies all of it.
        let base = self.base_of_adopted(&spec.id, &live.origin.base);
        let (base, taken_over) = tokio::join!(base, self.launcher.take_over(live, slot_policy(&spec.id, egress)));
        Ok(Box::new(self.launcher.vm_of(taken_over?, live, base, share)))
    }

    async fn end_unadopted(&self, vm: &VmRecord) {
        let name = &vm.machine.name;
        if let Err(error) = self.remove(name).await {
            tracing::warn!(
                machine = %name, error = %chain(&error),
                "what is left of a machine could not be removed; the next start removes it"
            );
        }
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
        // Blocks and not the length: the disk is sparse, 10 GiB long and mostly holes.
        let bytes = match std::fs::metadata(&disk) {
            Ok(meta) => meta.blocks() * 512,
            // The only error that retrying cannot mend: the sandbox is then failed instead of being retried for ever.
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(CheckpointError::DiskLost),
            // Any other error shows again when the disk is read, and is reported then.
            Err(_) => 0,
        };
        let StoreContext { archives, stamps, capacity, exports } = self.store_context.as_ref();
        let _reservation = capacity.reserve_disk(bytes >> 20).map_err(CheckpointError::of_full_disk)?;
        exports.want([ArchiveId::from(&live.origin.image)]);
        checkpoint::store_disk(archives, spec, live, &disk, checkpoint, stamps.next().await?).await
    }

    async fn remove_disk(&self, vm: &VmRecord) {
        remove_file(&self.launcher.disk(&vm.machine.name)).await;
    }

    async fn discard(&self, checkpoint: &CheckpointId) {
        if let Err(error) = self.store_context.archives.remove(&checkpoint.into()).await {
            tracing::warn!(
                %checkpoint, error = %chain(&error),
                "a checkpoint could not be removed: the garbage collection tries again"
            );
        }
    }

    async fn found(&self) -> Result<Vec<FoundMachine>, VmmError> {
        let [machines_dir, disks_dir] = self.launcher.dirs();
        // From three sources, because a crash may have left any of them without the others: processes and control
        // groups, directories, disks.
        let mut names: BTreeSet<String> = self.launcher.vmm.leftovers().await?.into_iter().collect();
        names.extend(entries(machines_dir)?);
        names.extend(entries(disks_dir)?.filter_map(|file| file.strip_suffix(".ext4").map(str::to_owned)));
        let found = names.into_iter().map(|name| {
            // What is left of a dead machine is nobody's: its sandbox was lost with its process.
            let lives = self.launcher.vmm.may_have_processes(&name);
            let owner = lives.then(|| owner::read(machines_dir, &name)).flatten();
            FoundMachine { name, owner }
        });
        Ok(found.collect())
    }

    async fn remove(&self, name: &str) -> Result<(), VmmError> {
        self.launcher.vmm.reap(name, &self.launcher.machine_dir(name)).await?;
        remove_file(&self.launcher.disk(name)).await;
        Ok(())
    }

    async fn collect_garbage(&self, db: &Db) {
        if let Err(error) = self.collect(db).await {
            tracing::warn!(
                error = %chain(&error),
                "the database could not say which archives are in use: nothing is collected"
            );
        }
    }

    async fn base_pressure(&self) {
        self.base_pressure.notified().await;
    }

    async fn run(&self, stop: &CancellationToken) {
        self.launcher.network.start_pool();
        let default = Shape { vcpus: DEFAULT_VCPU as u8, memory_mib: DEFAULT_MEMORY_MIB as u32 };
        if let Ok(template) = self.catalog.by_name(DEFAULT_TEMPLATE) {
            self.pool.keep_one(&template, default);
        }
        tokio::join!(
            self.pool.run(&self.launcher, &self.store_context.capacity, stop),
            self.store_context.archives.run(stop.clone()),
            self.keep_exported(stop),
            async {
                // Wakes and creates that wait for an archive or a launch permit would otherwise hold up the server's end.
                stop.cancelled().await;
                self.stopping.cancel();
                self.launches.close();
            }
        );
    }

    fn numbers(&self) -> MachineNumbers {
        MachineNumbers {
            ready: self.pool.ready(),
            from_pool: self.from_pool.load(Relaxed),
            launched: self.launched.load(Relaxed),
            archives: self.store_context.archives.usage(),
        }
    }
}

impl Host {
    /// The base of an adopted machine's memory. Without it (`None`) the machine runs on, but cannot be stored.
    async fn base_of_adopted(&self, sandbox: &SandboxId, id: &BaseId) -> Option<Arc<Base>> {
        let base = match self.launcher.bases.by_id(id).await {
            Ok(Some(base)) => return Some(base),
            Ok(None) => self.fetch_base_in_time(id).await,
            Err(error) => Err(CheckpointError::NoBase(Some(error))),
        };
        let warn = |error: &CheckpointError| {
            tracing::warn!(%sandbox, error = %chain(error), "an adopted sandbox's base is lost: it cannot be paused");
        };
        base.inspect_err(warn).ok()
    }

    async fn fetch_base_in_time(&self, id: &BaseId) -> Result<Arc<Base>, CheckpointError> {
        let seconds = ADOPTION_FETCH_DEADLINE.as_secs();
        let fetched = tokio::time::timeout(ADOPTION_FETCH_DEADLINE, self.fetch_base(id)).await;
        fetched.unwrap_or(Err(CheckpointError::TimedOut { seconds }))
    }
}

fn entries(dir: &Path) -> Result<impl Iterator<Item = String>, FileError> {
    let entries = std::fs::read_dir(dir).map_err(FileError::of("listing", dir))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()))
}

async fn remove_file(path: &Path) {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(
                path = %path.display(), error = %chain(&error),
                "a file could not be removed; the next start removes it"
            );
        }
        _ => {}
    }
}
