//! Simulated machines, for trying orders of events that real ones are too slow for.
//!
//! A [`World`] is the host: it goes on when a server of it dies. A machine is two counters, one in its memory and one on
//! its disk. Everything takes a moment, anything may fail, and what must never happen panics.

use super::vm::StoredVm;
use super::{Body, Identity, Machines, Origin, Unnamed};
use crate::catalog::Template;
use crate::error::{CheckpointError, LaunchError, LifecycleError};
use crate::sealed::Egress;
use crate::stats::MachineNumbers;
use async_trait::async_trait;
use leapbox_db::{Db, SandboxRow};
use leapbox_guest_client::{Dial, GuestClient};
use leapbox_ids::SandboxId;
use leapbox_vmm::{ExitReason, MachineRecord, Shape, VmmError};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a sandbox has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Lost when it is stopped.
    pub memory: u64,
    pub disk: u64,
}

#[derive(Debug)]
struct Vm {
    sandbox: Option<SandboxId>,
    counted: Counted,
    suspended: bool,
    /// Gone but for its disk.
    ended: bool,
    died: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Things {
    machines: BTreeMap<String, Vm>,
    checkpoints: BTreeMap<String, Counted>,
    unnamed: BTreeSet<String>,
    names: u64,
    restored: usize,
    random: u64,
    /// One of so many operations fails; 0: none.
    failing: u64,
}

/// The host.
#[derive(Debug, Clone, Default)]
pub(crate) struct World(Arc<Mutex<Things>>);

impl World {
    pub fn new(seed: u64, failing: u64) -> Self {
        let world = Self::default();
        world.lock().random = seed | 1;
        world.lock().failing = failing;
        world
    }

    fn lock(&self) -> MutexGuard<'_, Things> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts once in the running sandbox `id`; none if it does not run just now.
    pub fn count(&self, id: &SandboxId) -> Option<Counted> {
        let mut things = self.lock();
        let vm = things.machines.values_mut().find(|vm| vm.sandbox.as_ref() == Some(id) && vm.runs())?;
        vm.counted.memory += 1;
        vm.counted.disk += 1;
        Some(vm.counted)
    }

    /// Kills the machine of a sandbox.
    pub fn kill(&self, id: &SandboxId) {
        let things = self.lock();
        if let Some(vm) = things.machines.values().find(|vm| vm.sandbox.as_ref() == Some(id)) {
            vm.died.send_replace(true);
        }
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.lock().failing = 0;
    }

    /// How often a checkpoint was asked for.
    pub fn restored_times(&self) -> usize {
        self.lock().restored
    }

    /// Every operation that can fail does from now on.
    pub fn break_down(&self) {
        self.lock().failing = 1;
    }

    /// Machines and checkpoints there are.
    pub fn left(&self) -> (usize, usize) {
        let things = self.lock();
        (things.machines.len(), things.checkpoints.len())
    }

    /// Lets a moment pass.
    async fn moment(&self) {
        let millis = self.lock().draw(3);
        tokio::time::sleep(Duration::from_micros(millis * 700)).await;
    }

    async fn moment_or_failure(&self) -> Result<(), CheckpointError> {
        self.moment().await;
        let mut things = self.lock();
        let failing = things.failing;
        if failing > 0 && things.draw(failing) == 0 {
            return Err(CheckpointError::Late { seconds: 0 });
        }
        Ok(())
    }

    fn make(&self, counted: Counted) -> Box<dyn Body> {
        let mut things = self.lock();
        things.names += 1;
        let name = format!("vm-{}", things.names);
        let vm = Vm { sandbox: None, counted, suspended: false, ended: false, died: watch::Sender::new(false) };
        let died = vm.died.subscribe();
        things.machines.insert(name.clone(), vm);
        Box::new(SimBody { world: self.clone(), name, died })
    }

    /// What is stored. A sandbox's own checkpoint is there; a snapshot's may have been deleted just now.
    fn stored(&self, row: &SandboxRow, checkpoint: &str) -> Result<Counted, CheckpointError> {
        let things = self.lock();
        let alive = things.machines.values().filter(|vm| vm.sandbox.as_ref() == Some(&row.id)).count();
        assert_eq!(alive, 0, "two machines of {}", row.id);
        let stored = things.checkpoints.get(checkpoint).copied();
        assert!(stored.is_some() || row.checkpoint.is_none(), "{checkpoint} of {} is lost", row.id);
        stored.ok_or(CheckpointError::Mismatch { what: "nothing" })
    }

    fn store(&self, name: &str, checkpoint: &str, has_memory: bool) -> Unnamed {
        let mut things = self.lock();
        let vm = things.machines.get(name).expect("stored machines are there");
        assert!(vm.suspended || !has_memory, "stored while it runs");
        let memory = if has_memory { vm.counted.memory } else { 0 };
        let counted = Counted { memory, disk: vm.counted.disk };
        things.checkpoints.insert(checkpoint.to_owned(), counted);
        things.unnamed.insert(checkpoint.to_owned());
        Unnamed(Box::new(Pinned { world: self.clone(), checkpoint: checkpoint.to_owned() }))
    }
}

/// Keeps a checkpoint from being collected.
struct Pinned {
    world: World,
    checkpoint: String,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.world.lock().unnamed.remove(&self.checkpoint);
    }
}

impl Things {
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
    async fn fresh(&self, _: &Arc<Template>, _: Shape) -> Result<Box<dyn Body>, LifecycleError> {
        self.moment_or_failure().await?;
        Ok(self.make(Counted::default()))
    }

    async fn restored(&self, row: &SandboxRow, checkpoint: &str) -> Result<Box<dyn Body>, LifecycleError> {
        self.lock().restored += 1;
        self.moment_or_failure().await?;
        Ok(self.make(self.stored(row, checkpoint)?))
    }

    async fn adopt(&self, row: &SandboxRow, _: &Egress) -> Result<Box<dyn Body>, String> {
        self.moment().await;
        let name = row.machine.as_deref().and_then(super::stored_vm).ok_or("no record")?.name;
        let mut things = self.lock();
        let vm = things.machines.get_mut(&name).filter(|vm| !*vm.died.borrow()).ok_or("it died")?;
        vm.suspended = false;
        let died = vm.died.subscribe();
        Ok(Box::new(SimBody { world: self.clone(), name, died }))
    }

    async fn salvage(&self, row: &SandboxRow, checkpoint: &str) -> Result<Unnamed, CheckpointError> {
        let name = row.machine.as_deref().and_then(super::stored_vm).expect("a record").name;
        if let Some(vm) = self.lock().machines.get_mut(&name) {
            vm.ended = true;
        }
        self.moment_or_failure().await?;
        let unnamed = self.store(&name, checkpoint, false);
        self.moment().await;
        Ok(unnamed)
    }

    async fn remove_disk(&self, row: &SandboxRow) {
        self.moment().await;
        let record = row.machine.as_deref().and_then(super::stored_vm).expect("a record");
        self.lock().machines.remove(&record.name);
    }

    async fn discard(&self, checkpoint: &str) {
        self.moment().await;
        self.lock().checkpoints.remove(checkpoint);
    }

    async fn remove_leftovers(&self, owned: &BTreeSet<String>) -> Result<(), VmmError> {
        self.moment().await;
        self.lock().machines.retain(|name, _| owned.contains(name));
        Ok(())
    }

    async fn collect_garbage(&self, db: &Db) {
        let there: BTreeSet<String> = {
            let things = self.lock();
            things.checkpoints.keys().filter(|id| !things.unnamed.contains(*id)).cloned().collect()
        };
        let named = db.archives_referenced().await.expect("read");
        self.moment().await;
        self.lock().checkpoints.retain(|id, _| named.contains(id) || !there.contains(id));
    }

    async fn crowded(&self) {
        std::future::pending().await
    }

    async fn run(&self, stop: &CancellationToken) {
        stop.cancelled().await;
    }

    fn numbers(&self) -> MachineNumbers {
        MachineNumbers::default()
    }
}

struct SimBody {
    world: World,
    name: String,
    died: watch::Receiver<bool>,
}

impl SimBody {
    fn with<T>(&self, change: impl FnOnce(&mut Vm) -> T) -> Option<T> {
        self.world.lock().machines.get_mut(&self.name).map(change)
    }

    fn alive(&self) -> Result<(), CheckpointError> {
        if *self.died.borrow() { Err(CheckpointError::Vmm(VmmError::NotAlive { pid: 0 })) } else { Ok(()) }
    }
}

#[async_trait]
impl Body for SimBody {
    fn record(&self) -> Result<String, LaunchError> {
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
        serde_json::to_string(&StoredVm { machine, slot: 0 }).map_err(LaunchError::Record)
    }

    fn origin(&self) -> Origin {
        Origin { base: "base-0".to_owned(), image: "0".to_owned() }
    }

    fn guest(&self) -> GuestClient {
        GuestClient::new(Arc::new(Nowhere))
    }

    async fn become_sandbox(&self, id: &SandboxId, _: Identity<'_>, _: &Egress) -> Result<(), LaunchError> {
        self.go_on(id).await
    }

    async fn go_on(&self, id: &SandboxId) -> Result<(), LaunchError> {
        self.world.moment().await;
        self.alive().map_err(|_| LaunchError::NotConfirmed { what: "life" })?;
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
        self.alive().map_err(|_| LaunchError::NotConfirmed { what: "life" })?;
        self.with(|vm| vm.suspended = false);
        Ok(())
    }

    async fn store(&self, _: &SandboxRow, checkpoint: &str) -> Result<Unnamed, CheckpointError> {
        self.world.moment_or_failure().await?;
        self.alive()?;
        let unnamed = self.world.store(&self.name, checkpoint, true);
        self.world.moment_or_failure().await?;
        Ok(unnamed)
    }

    async fn shut_down(&self) {
        self.world.moment().await;
    }

    async fn exited(&self) -> ExitReason {
        let mut died = self.died.clone();
        // The sender goes with the machine, when it is destroyed by its owner.
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

    async fn end_but_disk(self: Box<Self>) {
        self.world.moment().await;
        self.with(|vm| vm.ended = true);
    }

    fn leave(self: Box<Self>) {}
}

/// Simulated guests are not called.
struct Nowhere;

#[async_trait]
impl Dial for Nowhere {
    async fn dial(&self) -> io::Result<TcpStream> {
        Err(io::ErrorKind::NotConnected.into())
    }
}
