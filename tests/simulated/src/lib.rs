//! Simulated machines for the tests of `lifecycle`, which try orders of events that real machines are too slow for.
//!
//! A [`World`] is a host, which outlives the servers that a test starts over it and kills. A machine consists of two
//! counters, one in its memory and one on its disk, so that a test can tell what was lost. Every operation takes a
//! random moment, most may fail, and a broken invariant (two machines of one sandbox, a lost checkpoint) is noted.

use async_trait::async_trait;
use leapbox_api_types::sandbox::DEFAULT_TEMPLATE;
use leapbox_db::{Db, Live, Origin, Spec, Stored, VmRecord};
use leapbox_guest_client::{Dial, GuestClient};
use leapbox_ids::{ArchiveId, BaseId, CheckpointId, ImageDigest, SandboxId};
use leapbox_lifecycle::{
    Activation, Catalog, CheckpointError, CheckpointPin, Egress, FoundMachine, LaunchError, LifecycleError,
    MachineNumbers, Machines, Owner, SandboxVm, Template,
};
use leapbox_templates::ImageConfig;
use leapbox_vmm::{ExitReason, GuestImage, Life, MachineRecord, Shape, VmmError};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The counters of a machine or of a checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Starts again at zero when the sandbox is stopped.
    pub memory: u64,
    /// Never lost while the sandbox exists.
    pub disk: u64,
}

#[derive(Debug)]
struct Vm {
    sandbox: Option<SandboxId>,
    owner: Option<Owner>,
    counted: Counted,
    suspended: bool,
    /// The VMM has ended; only the disk is left.
    ended: bool,
    died: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct HostState {
    machines: BTreeMap<String, Vm>,
    checkpoints: BTreeMap<CheckpointId, Counted>,
    /// The sandbox that stored each checkpoint, also of removed ones.
    stored_by: BTreeMap<CheckpointId, SandboxId>,
    pinned: BTreeSet<CheckpointId>,
    /// What must never happen and did. Noted instead of panicking, because a machine is made in a task of its own.
    violations: Vec<(SandboxId, String)>,
    names: u64,
    restored: usize,
    /// State of the random numbers. Seeded, so that a failing history can be replayed.
    random: u64,
    /// One of so many operations fails; with 0, none does.
    failing: u64,
}

/// A simulated host. Cheap to clone; clones are the same host.
#[derive(Debug, Clone, Default)]
pub struct World(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<HostState>,
    /// Sandboxes whose machines do not answer a server that takes them over.
    stalled: watch::Sender<BTreeSet<SandboxId>>,
}

/// A catalog with the default template only, for a server over simulated machines.
pub async fn catalog(db: &Db) -> Arc<Catalog> {
    let image = GuestImage {
        kernel: "kernel".into(),
        initramfs: "initramfs".into(),
        rootfs: "rootfs".into(),
        digest: ImageDigest::from([0; 32]),
    };
    let (user, home, workdir) = ("user".to_owned(), "/home/user".to_owned(), "/".to_owned());
    let config = ImageConfig { user, uid: 1000, gid: 1000, groups: vec![], home, workdir, env: vec![], port: None };
    Arc::new(Catalog::of_one(db, DEFAULT_TEMPLATE, image, config).await.expect("a template"))
}

impl World {
    /// A host whose delays and failures follow from `seed`. One of `failing` operations fails; with 0, none does.
    pub fn new(seed: u64, failing: u64) -> Self {
        let world = Self::default();
        // xorshift never leaves the state 0.
        world.lock().random = seed | 1;
        world.lock().failing = failing;
        world
    }

    fn lock(&self) -> MutexGuard<'_, HostState> {
        // A violated invariant panics in one task; the others must still report what they find.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Increments both counters of the running sandbox `id`; `None` if it does not run.
    pub fn count(&self, id: &SandboxId) -> Option<Counted> {
        let mut state = self.lock();
        let vm = state.machines.values_mut().find(|vm| vm.sandbox.as_ref() == Some(id) && vm.runs())?;
        vm.counted.memory += 1;
        vm.counted.disk += 1;
        Some(vm.counted)
    }

    pub fn kill(&self, id: &SandboxId) {
        let state = self.lock();
        if let Some(vm) = state.machines.values().find(|vm| vm.sandbox.as_ref() == Some(id)) {
            vm.died.send_replace(true);
        }
    }

    /// Machines of these sandboxes do not answer a server that wants to take them over or to store them, until
    /// [`World::answer`].
    pub fn stall(&self, ids: &[SandboxId]) {
        self.0.stalled.send_modify(|stalled| stalled.extend(ids.iter().cloned()));
    }

    /// All machines answer again.
    pub fn answer(&self) {
        self.0.stalled.send_modify(BTreeSet::clear);
    }

    async fn answering(&self, id: &SandboxId) {
        let mut stalled = self.0.stalled.subscribe();
        // The sender is in `self`, so it cannot be gone.
        let _ = stalled.wait_for(|stalled| !stalled.contains(id)).await;
    }

    pub fn heal(&self) {
        self.lock().failing = 0;
    }

    pub fn restored_times(&self) -> usize {
        self.lock().restored
    }

    pub fn break_down(&self) {
        self.lock().failing = 1;
    }

    /// What happened to sandboxes that must not happen, unless they were being deleted.
    pub fn violations(&self) -> Vec<(SandboxId, String)> {
        self.lock().violations.clone()
    }

    /// Machines and checkpoints on the host.
    pub fn left(&self) -> (usize, usize) {
        let state = self.lock();
        (state.machines.len(), state.checkpoints.len())
    }

    /// Sleeps for up to 1.4 ms.
    async fn moment(&self) {
        let millis = self.lock().draw(3);
        tokio::time::sleep(Duration::from_micros(millis * 700)).await;
    }

    async fn moment_or_failure(&self) -> Result<(), CheckpointError> {
        self.moment().await;
        let mut state = self.lock();
        let failing = state.failing;
        if failing > 0 && state.draw(failing) == 0 {
            return Err(CheckpointError::TimedOut { seconds: 0 });
        }
        Ok(())
    }

    fn make(&self, counted: Counted) -> Box<dyn SandboxVm> {
        let mut state = self.lock();
        state.names += 1;
        let name = format!("vm-{}", state.names);
        let vm =
            Vm { sandbox: None, owner: None, counted, suspended: false, ended: false, died: watch::Sender::new(false) };
        let died = vm.died.subscribe();
        state.machines.insert(name.clone(), vm);
        Box::new(SimVm { world: self.clone(), name, died })
    }

    fn stored(&self, spec: &Spec, stored: &Stored) -> Result<Counted, CheckpointError> {
        let mut state = self.lock();
        let alive = state.machines.values().filter(|vm| vm.sandbox.as_ref() == Some(&spec.id)).count();
        if alive > 0 {
            state.violations.push((spec.id.clone(), "it would have two machines".to_owned()));
        }
        let checkpoint = stored.checkpoint();
        let found = state.checkpoints.get(checkpoint).copied();
        let is_own = state.stored_by.get(checkpoint) == Some(&spec.id);
        // A sandbox's own checkpoint must be there. A snapshot's may have been deleted by another client just now.
        if found.is_none() && is_own {
            state.violations.push((spec.id.clone(), format!("its {checkpoint} is lost")));
        }
        found.ok_or(CheckpointError::Mismatch { what: "checkpoint" })
    }

    fn store(&self, name: &str, checkpoint: &CheckpointId, has_memory: bool) -> CheckpointPin {
        let mut state = self.lock();
        let vm = state.machines.get(name).expect("stored machines are there");
        assert!(vm.suspended || !has_memory, "stored while it runs");
        let memory = if has_memory { vm.counted.memory } else { 0 };
        let counted = Counted { memory, disk: vm.counted.disk };
        let sandbox = vm.sandbox.clone().expect("a sandbox's machine is stored");
        state.stored_by.insert(checkpoint.clone(), sandbox);
        state.checkpoints.insert(checkpoint.clone(), counted);
        state.pinned.insert(checkpoint.clone());
        CheckpointPin::new(Pinned { world: self.clone(), checkpoint: checkpoint.clone() })
    }
}

/// Keeps a checkpoint from the garbage collection until it is dropped.
struct Pinned {
    world: World,
    checkpoint: CheckpointId,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.world.lock().pinned.remove(&self.checkpoint);
    }
}

impl HostState {
    /// A number below `bound` (xorshift64).
    fn draw(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }
}

impl Vm {
    fn runs(&self) -> bool {
        !self.suspended && !self.ended && !*self.died.borrow()
    }
}

#[async_trait]
impl Machines for World {
    async fn fresh(&self, _: &Arc<Template>, _: Shape) -> Result<Box<dyn SandboxVm>, LifecycleError> {
        self.moment_or_failure().await?;
        Ok(self.make(Counted::default()))
    }

    async fn restored(&self, spec: &Spec, stored: &Stored) -> Result<Box<dyn SandboxVm>, LifecycleError> {
        self.lock().restored += 1;
        self.moment_or_failure().await?;
        Ok(self.make(self.stored(spec, stored)?))
    }

    fn life(&self, vm: &VmRecord) -> Life {
        let state = self.lock();
        let lives = state.machines.get(&vm.machine.name).is_some_and(|vm| !*vm.died.borrow());
        if lives { Life::Alive } else { Life::Dead }
    }

    async fn adopt(&self, spec: &Spec, live: &Live, _: &Egress) -> Result<Box<dyn SandboxVm>, VmmError> {
        self.moment().await;
        let name = live.vm.machine.name.clone();
        let died = self.lock().machines.get(&name).map(|vm| vm.died.subscribe());
        let mut died = died.ok_or(VmmError::NotAlive { pid: 0 })?;
        tokio::select! {
            () = self.answering(&spec.id) => {}
            // An error is a machine that was removed, which has ended as well.
            _ = died.wait_for(|died| *died) => {}
        }
        let mut state = self.lock();
        let vm = state.machines.get_mut(&name).filter(|vm| !*vm.died.borrow());
        let vm = vm.ok_or(VmmError::NotAlive { pid: 0 })?;
        let died = vm.died.subscribe();
        Ok(Box::new(SimVm { world: self.clone(), name, died }))
    }

    async fn end_unadopted(&self, vm: &VmRecord) {
        self.moment().await;
        self.lock().machines.remove(&vm.machine.name);
    }

    async fn store_disk(
        &self,
        _: &Spec,
        live: &Live,
        checkpoint: &CheckpointId,
    ) -> Result<CheckpointPin, CheckpointError> {
        let name = &live.vm.machine.name;
        if let Some(vm) = self.lock().machines.get_mut(name) {
            vm.ended = true;
        }
        self.moment_or_failure().await?;
        let pin = self.store(name, checkpoint, false);
        // The server may be killed here, after the checkpoint was stored and before its row is written.
        self.moment().await;
        Ok(pin)
    }

    async fn remove_disk(&self, vm: &VmRecord) {
        self.moment().await;
        self.lock().machines.remove(&vm.machine.name);
    }

    async fn discard(&self, checkpoint: &CheckpointId) {
        self.moment().await;
        self.lock().checkpoints.remove(checkpoint);
    }

    async fn found(&self) -> Result<Vec<FoundMachine>, VmmError> {
        self.moment().await;
        let state = self.lock();
        let found = |(name, vm): (&String, &Vm)| {
            let lives = !vm.ended && !*vm.died.borrow();
            FoundMachine { name: name.clone(), owner: vm.owner.clone().filter(|_| lives) }
        };
        Ok(state.machines.iter().map(found).collect())
    }

    async fn remove(&self, name: &str) -> Result<(), VmmError> {
        self.moment().await;
        self.lock().machines.remove(name);
        Ok(())
    }

    async fn collect_garbage(&self, db: &Db) {
        // As on a real host first what there is, then what rows name: what is stored in between stays.
        let there: BTreeSet<CheckpointId> = {
            let state = self.lock();
            state.checkpoints.keys().filter(|id| !state.pinned.contains(*id)).cloned().collect()
        };
        let named = db.archives_referenced().await.expect("read");
        self.moment().await;
        self.lock().checkpoints.retain(|id, _| named.contains(&ArchiveId::from(id)) || !there.contains(id));
    }

    async fn base_pressure(&self) {
        std::future::pending().await
    }

    async fn run(&self, stop: &CancellationToken) {
        stop.cancelled().await;
    }

    fn numbers(&self) -> MachineNumbers {
        MachineNumbers::default()
    }
}

struct SimVm {
    world: World,
    name: String,
    died: watch::Receiver<bool>,
}

impl SimVm {
    fn with<T>(&self, change: impl FnOnce(&mut Vm) -> T) -> Option<T> {
        self.world.lock().machines.get_mut(&self.name).map(change)
    }

    fn alive(&self) -> Result<(), CheckpointError> {
        if *self.died.borrow() { Err(CheckpointError::Vmm(VmmError::NotAlive { pid: 0 })) } else { Ok(()) }
    }
}

#[async_trait]
impl SandboxVm for SimVm {
    fn record(&self) -> VmRecord {
        let machine = MachineRecord {
            driver: "sim".to_owned(),
            pid: 0,
            start_ticks: 0,
            host_boot_id: String::new(),
            shape: Shape { vcpus: 1, memory_mib: 512 },
            name: self.name.clone(),
            uid: 0,
            dir: PathBuf::new(),
        };
        VmRecord { machine, slot: 0 }
    }

    fn origin(&self) -> Origin {
        Origin { base: BaseId::from([0; 32]), image: ImageDigest::from([0; 32]) }
    }

    fn guest(&self) -> GuestClient {
        GuestClient::new(Arc::new(Nowhere))
    }

    async fn become_sandbox(&self, id: &SandboxId, _: Activation<'_>, _: &Egress) -> Result<(), LaunchError> {
        self.resume_workload(id).await
    }

    async fn mark(&self, owner: &Owner) -> Result<(), LaunchError> {
        self.with(|vm| vm.owner = Some(owner.clone()));
        Ok(())
    }

    async fn resume_workload(&self, id: &SandboxId) -> Result<(), LaunchError> {
        self.world.moment().await;
        self.alive().map_err(|_: CheckpointError| LaunchError::NotConfirmed { what: "that it is alive" })?;
        self.with(|vm| vm.sandbox = Some(id.clone()));
        Ok(())
    }

    async fn suspend(&self) -> Result<(), CheckpointError> {
        self.world.moment_or_failure().await?;
        self.alive()?;
        self.with(|vm| vm.suspended = true);
        Ok(())
    }

    async fn resume(&self) -> Result<(), LaunchError> {
        self.alive().map_err(|_: CheckpointError| LaunchError::NotConfirmed { what: "that it is alive" })?;
        self.with(|vm| vm.suspended = false);
        Ok(())
    }

    async fn store(&self, spec: &Spec, checkpoint: &CheckpointId) -> Result<CheckpointPin, CheckpointError> {
        self.world.answering(&spec.id).await;
        self.world.moment_or_failure().await?;
        self.alive()?;
        let pin = self.world.store(&self.name, checkpoint, true);
        // May also fail after everything was written: then the caller must not leave the checkpoint behind.
        self.world.moment_or_failure().await?;
        Ok(pin)
    }

    async fn shut_down(&self) {
        self.world.moment().await;
    }

    async fn exited(&self) -> ExitReason {
        let mut died = self.died.clone();
        // The sender is dropped when the machine is destroyed by its owner, which is no death.
        if died.wait_for(|died| *died).await.is_err() {
            std::future::pending::<()>().await;
        }
        ExitReason::Gone
    }

    async fn console_tail(&self) -> String {
        String::new()
    }

    async fn destroy(self: Box<Self>) {
        self.with(|vm| vm.ended = true);
        self.world.moment().await;
        self.world.lock().machines.remove(&self.name);
    }

    async fn end_keeping_disk(self: Box<Self>) {
        self.world.moment().await;
        self.with(|vm| vm.ended = true);
    }

    fn detach(self: Box<Self>) {}
}

/// Simulated machines have no agent, so every connection to one fails.
struct Nowhere;

#[async_trait]
impl Dial for Nowhere {
    async fn dial(&self) -> io::Result<TcpStream> {
        Err(io::ErrorKind::NotConnected.into())
    }
}
