//! Where a sandbox's machines come from, and what can be done with one.
//!
//! ```text
//! Machines ─┬─ fresh:    pool, else base                     ┐
//!           ├─ restored: base + changes + disk, of a checkpoint├─► SandboxVm: told who it is, then a sandbox's
//!           │            (bare base + disk, of a stopped one)  │     └─ suspend ─► store ─► checkpoint
//!           └─ adopt:    what a former server left running    ┘
//! ```
//!
//! The traits are what the sandboxes' tasks see. The host's machines ([`host`]) are the product; the tests' simulated
//! ones (`leapbox-simulated`) let every order of events be tried.

mod capacity;
mod carry;
mod checkpoint;
mod cleanup;
mod host;
mod launch;
mod pool;
mod storing;
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
use leapbox_vmm::{ExitReason, Shape, VmmError};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Who a machine is to be.
#[derive(Debug, Clone, Copy)]
pub enum Identity<'a> {
    /// A sandbox that has just been made, with its environment.
    New(&'a [(String, String)]),
    /// Another sandbox than the one it was stored as; the environment is in its memory.
    Another,
    /// The sandbox it was stored as.
    Woken,
}

/// A sandbox's way out.
#[derive(Debug, Clone)]
pub struct Egress {
    /// Where it may go.
    pub policy: Arc<Policy>,
    /// Its own certificate authority, if the policy has transforms.
    pub authority: Option<Arc<Authority>>,
}

/// A checkpoint that is stored and that no row names yet. While this lives, it is no garbage.
pub struct CheckpointPin(#[expect(dead_code, reason = "protects until it is dropped")] Box<dyn Send>);

impl CheckpointPin {
    /// Whatever keeps the checkpoint until it is dropped.
    pub fn new(guard: impl Send + 'static) -> Self {
        Self(Box::new(guard))
    }
}

/// Makes machines.
#[async_trait]
pub trait Machines: Send + Sync {
    /// A machine for a new sandbox.
    async fn fresh(&self, template: &Arc<Template>, shape: Shape) -> Result<Box<dyn SandboxVm>, LifecycleError>;

    /// The machine that is `stored`, of a sandbox of `spec`'s organisation, template and shape; if only a disk is stored,
    /// one that has just booted with it.
    async fn restored(&self, spec: &Spec, stored: &Stored) -> Result<Box<dyn SandboxVm>, LifecycleError>;

    /// Takes over what a former server left running for the sandbox; it goes out as before.
    async fn adopt(&self, spec: &Spec, live: &Live, egress: &Egress) -> Result<Box<dyn SandboxVm>, LaunchError>;

    /// Stores the disk of a machine as `checkpoint`. Ends what may still run of the machine.
    async fn store_disk(
        &self,
        spec: &Spec,
        live: &Live,
        checkpoint: &CheckpointId,
    ) -> Result<CheckpointPin, CheckpointError>;

    /// Removes the disk of a machine that is gone.
    async fn remove_disk(&self, vm: &VmRecord);

    /// Removes a checkpoint that nothing names any more. What cannot be removed now is garbage for later.
    async fn discard(&self, checkpoint: &CheckpointId);

    /// Removes every machine of this installation but those with the names in `owned`.
    async fn remove_leftovers(&self, owned: &BTreeSet<String>) -> Result<(), VmmError>;

    /// Removes every archive and base that no row of the database names and no machine needs.
    async fn collect_garbage(&self, db: &Db);

    /// Comes to an end when there are more bases than are kept: time to collect garbage.
    async fn crowded(&self);

    /// Keeps machines ready and checkpoints uploaded until `stop`.
    async fn run(&self, stop: &CancellationToken);

    /// For the metrics.
    fn numbers(&self) -> MachineNumbers;
}

/// One living machine. Ends by [`SandboxVm::destroy`] or [`SandboxVm::leave`].
#[async_trait]
pub trait SandboxVm: Send + Sync {
    /// What the database keeps, so that the next server finds it.
    fn record(&self) -> VmRecord;

    /// What it was started from.
    fn origin(&self) -> Origin;

    /// The way into its guest.
    fn guest(&self) -> GuestClient;

    /// Tells it who it is: fresh randomness, the right time, names; and lets it out as far as its policy goes: until
    /// then nothing leaves it. Its workload goes on after that, and not before. An error means that the guest did not
    /// confirm all of it, and that it must not be used.
    async fn become_sandbox(&self, id: &SandboxId, who: Identity<'_>, egress: &Egress) -> Result<(), LaunchError>;

    /// Tells the sandbox it already is that it goes on, after it was suspended for a while.
    async fn go_on(&self, id: &SandboxId) -> Result<(), LaunchError>;

    /// Freezes its workload and stops its CPUs. A guest that does not freeze (its root can see to that) is suspended as
    /// it is: then its workload runs for a moment before its clock is right.
    async fn suspend(&self) -> Result<(), CheckpointError>;

    /// Lets its CPUs go on; the workload waits for [`SandboxVm::go_on`].
    async fn resume(&self) -> Result<(), LaunchError>;

    /// Stores memory, devices and disk of the suspended machine, durably, as `checkpoint`.
    async fn store(&self, spec: &Spec, checkpoint: &CheckpointId) -> Result<CheckpointPin, CheckpointError>;

    /// Ends its workload and has everything written to its disk. A guest that does not do that is logged.
    async fn shut_down(&self);

    /// Waits until it has ended, and tells why.
    async fn exited(&self) -> ExitReason;

    /// The end of its console.
    async fn console_tail(&self) -> String;

    /// Ends it and gives everything back.
    async fn destroy(self: Box<Self>);

    /// Ends it and gives everything back but its disk, which is complete when this returns.
    async fn end_but_disk(self: Box<Self>);

    /// Leaves it running for the next server.
    fn leave(self: Box<Self>);
}
