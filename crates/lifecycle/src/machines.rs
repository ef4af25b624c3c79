//! Machines, the VMs that sandboxes run in: making them, storing them as checkpoints, ending them.
//!
//! ```text
//! Machines ─┬─ fresh:    a clone from the pool, else of the base      ┐
//!           ├─ restored: base + changes + disk of a checkpoint        ├─► SandboxVm ─► become_sandbox: in use
//!           │            (diskless base + disk, of a stopped sandbox) │       └─ suspend ─► store ─► checkpoint
//!           └─ adopt:    a machine that the previous server started   ┘
//! ```
//!
//! The sandboxes' tasks call the two traits. [`host`] implements them for this host; `leapbox-simulated` implements
//! them for tests, so that every order of events can be tried without a VMM.

mod capacity;
mod checkpoint;
mod cleanup;
mod export;
mod garbage;
mod host;
mod launch;
mod owner;
mod pool;
mod store_context;
mod vm;

pub(crate) use host::{Host, HostParts};

use crate::catalog::Template;
use crate::error::{CheckpointError, LaunchError, LifecycleError};
use crate::stats::MachineNumbers;
use async_trait::async_trait;
use leapbox_db::{Db, Live, Origin, Spec, Stored, VmRecord};
use leapbox_egress_policy::Policy;
use leapbox_guest_client::GuestClient;
use leapbox_ids::{CheckpointId, SandboxId};
use leapbox_network::Authority;
use leapbox_vmm::{ExitReason, Life, Shape, VmmError};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How a machine becomes a sandbox's: what its guest knows already, and what it has to be given.
#[derive(Debug, Clone, Copy)]
pub enum Activation<'a> {
    /// A clone of a base becomes a new or started sandbox, with these environment variables.
    New(&'a [(String, String)]),
    /// A restored snapshot becomes a sandbox of its own: it gets new ids, and keeps the environment in its memory.
    Another,
    /// A woken sandbox remains the one it was.
    Woken,
}

/// A sandbox's network policy, opened.
#[derive(Debug, Clone)]
pub struct Egress {
    pub policy: Arc<Policy>,
    /// The sandbox's own certificate authority, if the policy has transforms.
    pub authority: Option<Arc<Authority>>,
}

/// The sandbox that a machine was made into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub sandbox: SandboxId,
    /// The database's number at that time. A database whose number is lower does not know of it.
    pub sequence: u64,
}

/// What was found of a machine on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundMachine {
    pub name: String,
    /// What it was made into; `None` if it was still being made, lay in the pool, or has no living process.
    pub owner: Option<Owner>,
}

/// Keeps a stored checkpoint that no row names yet from the garbage collection until it is dropped.
pub struct CheckpointPin(#[expect(dead_code, reason = "protects until it is dropped")] Box<dyn Send>);

impl CheckpointPin {
    /// Wraps the store's own guard.
    pub fn new(guard: impl Send + 'static) -> Self {
        Self(Box::new(guard))
    }
}

/// Makes machines, and removes what is left of them and of their checkpoints.
#[async_trait]
pub trait Machines: Send + Sync {
    /// Makes a machine for a new sandbox.
    async fn fresh(&self, template: &Arc<Template>, shape: Shape) -> Result<Box<dyn SandboxVm>, LifecycleError>;

    /// Makes a machine from a checkpoint, which must be of `spec`'s organisation, template and shape. If only a disk is
    /// stored, the machine has just booted with it.
    async fn restored(&self, spec: &Spec, stored: &Stored) -> Result<Box<dyn SandboxVm>, LifecycleError>;

    /// Whether the process of a recorded machine is alive.
    fn life(&self, vm: &VmRecord) -> Life;

    /// Takes over the machine that the previous server left running, and installs the sandbox's policy again. Its CPUs
    /// may be stopped, and its workload frozen. An error is a proven death ([`VmmError::is_death`]); after everything
    /// else (a VMM that does not answer, an `nft` that fails) it is tried again, however long that takes. Harmless to
    /// drop: the machine runs on.
    async fn adopt(&self, spec: &Spec, live: &Live, egress: &Egress) -> Result<Box<dyn SandboxVm>, VmmError>;

    /// Ends a machine that was not taken over, if it still runs, and removes all that is left of it.
    async fn end_unadopted(&self, vm: &VmRecord);

    /// Stores the disk of a machine as `checkpoint`. Ends the machine first, if it still runs.
    async fn store_disk(
        &self,
        spec: &Spec,
        live: &Live,
        checkpoint: &CheckpointId,
    ) -> Result<CheckpointPin, CheckpointError>;

    /// Removes the disk of a machine that has ended. A failure is logged; the next start removes the disk.
    async fn remove_disk(&self, vm: &VmRecord);

    /// Removes a checkpoint that no row names any more. A failure is logged; the garbage collection removes it later.
    async fn discard(&self, checkpoint: &CheckpointId);

    /// Lists what there is of machines of this installation, whether they live or not.
    async fn found(&self) -> Result<Vec<FoundMachine>, VmmError>;

    /// Ends the machine with this name, if it still runs, and removes all that is left of it.
    async fn remove(&self, name: &str) -> Result<(), VmmError>;

    /// Removes every archive and base that no row of the database names and no machine needs.
    async fn collect_garbage(&self, db: &Db);

    /// Completes when there are more bases than are kept without a reference, so that garbage should be collected.
    async fn base_pressure(&self);

    /// Fills the pool and uploads archives, until `stop`; then destroys the pooled machines.
    async fn run(&self, stop: &CancellationToken);

    /// Numbers for the metrics.
    fn numbers(&self) -> MachineNumbers;
}

/// One running machine. Its owner ends it with [`SandboxVm::destroy`] or [`SandboxVm::end_keeping_disk`], or leaves it
/// to the next server with [`SandboxVm::detach`].
#[async_trait]
pub trait SandboxVm: Send + Sync {
    /// The record by which the next server finds the machine.
    fn record(&self) -> VmRecord;

    /// The base and image that it was started from.
    fn origin(&self) -> Origin;

    /// A client of its guest's agent.
    fn guest(&self) -> GuestClient;

    /// Makes the machine the sandbox's: installs the policy in its slot, which lets nothing out before, and gives the
    /// guest fresh randomness, the right time and its ids. A stored workload runs again only after both. An error means
    /// that not all of it was confirmed, and that the machine must not be used.
    async fn become_sandbox(
        &self,
        id: &SandboxId,
        activation: Activation<'_>,
        egress: &Egress,
    ) -> Result<(), LaunchError>;

    /// Marks the machine as the sandbox's, for a server that finds it and has another database.
    async fn mark(&self, owner: &Owner) -> Result<(), LaunchError>;

    /// Gives the guest fresh randomness and the right time after it was suspended, and thaws its workload.
    async fn resume_workload(&self, id: &SandboxId) -> Result<(), LaunchError>;

    /// Has the agent freeze the workload, and then stops the CPUs from outside. A guest that does not freeze its
    /// workload (its root can prevent that) is suspended all the same; then the workload runs for a moment with the old
    /// clock when the CPUs are resumed.
    async fn suspend(&self) -> Result<(), CheckpointError>;

    /// Starts the CPUs of a suspended machine again. Its workload stays frozen until [`SandboxVm::resume_workload`].
    /// Harmless when the CPUs run.
    async fn resume(&self) -> Result<(), LaunchError>;

    /// Stores memory, devices and disk of the suspended machine as `checkpoint`, on disk when this returns.
    async fn store(&self, spec: &Spec, checkpoint: &CheckpointId) -> Result<CheckpointPin, CheckpointError>;

    /// Ends its workload and writes everything to its disk. A guest that does not comply is logged: then the disk is as
    /// after a power cut.
    async fn shut_down(&self);

    /// Waits until it has ended, and returns the reason. May be called again.
    async fn exited(&self) -> ExitReason;

    /// The end of its console, at most 64 KiB.
    async fn console_tail(&self) -> String;

    /// Ends it and frees all of its host resources.
    async fn destroy(self: Box<Self>);

    /// Stops its CPUs, without freezing a workload; then ends it and frees its host resources but for the disk, to
    /// which all writes have been made when this returns. If the CPUs could not be stopped, that is logged, and the
    /// last writes may be missing.
    async fn end_keeping_disk(self: Box<Self>);

    /// Gives up ownership without ending it: the next server takes it over.
    fn detach(self: Box<Self>);
}
