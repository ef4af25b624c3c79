//! Where a sandbox's machines come from, and what can be done with one.
//!
//! ```text
//! Machines ─┬─ fresh:    pool, else base                     ┐
//!           ├─ restored: base + changes + disk, of a checkpoint├─► Body: told who it is, then a sandbox's
//!           │            (bare base + disk, of a stopped one)  │     └─ suspend ─► store ─► checkpoint
//!           └─ adopt:    what a former server left running    ┘
//! ```
//!
//! The traits are what the sandboxes' tasks see. The host's machines ([`host`]) are the product; the tests' simulated
//! ones let every order of events be tried.

mod body;
mod capacity;
mod carry;
mod checkpoint;
mod cleanup;
mod host;
mod launch;
mod pool;
#[cfg(test)]
pub(crate) mod sim;
mod vm;

pub use capacity::CapacityLimits;
pub(crate) use host::{Host, HostParts, stored_vm};
pub use pool::PoolLimits;

use crate::catalog::Template;
use crate::error::{CheckpointError, LaunchError, LifecycleError};
use crate::sealed::Egress;
use crate::stats::MachineNumbers;
use async_trait::async_trait;
use leapbox_db::{Db, SandboxRow};
use leapbox_guest_client::GuestClient;
use leapbox_ids::SandboxId;
use leapbox_vmm::{ExitReason, Shape, VmmError};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What a machine's memory is a difference to, and what it booted: both as a row of the database has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub base: String,
    pub image: String,
}

/// Who a machine is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Identity<'a> {
    /// A sandbox that has just been made, with its environment.
    New(&'a [(String, String)]),
    /// Another sandbox than the one it was stored as; the environment is in its memory.
    Another,
    /// The sandbox it was stored as.
    Woken,
}

/// A checkpoint that is stored and that no row names yet. While this lives, it is no garbage.
pub(crate) struct Unnamed(#[expect(dead_code, reason = "protects until it is dropped")] Box<dyn Send>);

/// Makes machines.
#[async_trait]
pub(crate) trait Machines: Send + Sync {
    /// A machine for a new sandbox.
    async fn fresh(&self, template: &Arc<Template>, shape: Shape) -> Result<Box<dyn Body>, LifecycleError>;

    /// The machine that is stored in `checkpoint`, which is of `row`'s organisation, base and image; if only a disk is
    /// stored, one that has just booted with it.
    async fn restored(&self, row: &SandboxRow, checkpoint: &str) -> Result<Box<dyn Body>, LifecycleError>;

    /// Takes over what a former server left running for `row`; it goes out as before. The error says why it is lost.
    async fn adopt(&self, row: &SandboxRow, egress: &Egress) -> Result<Box<dyn Body>, String>;

    /// Stores the disk of `row`'s machine as `checkpoint`. Ends what may still run of the machine.
    async fn salvage(&self, row: &SandboxRow, checkpoint: &str) -> Result<Unnamed, CheckpointError>;

    /// Removes the disk of `row`'s machine, which is gone.
    async fn remove_disk(&self, row: &SandboxRow);

    /// Removes a checkpoint that nothing names any more. What cannot be removed now is garbage for later.
    async fn discard(&self, checkpoint: &str);

    /// Removes every machine of this installation but `owned`.
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

/// One living machine. Ends by [`Body::destroy`] or [`Body::leave`].
#[async_trait]
pub(crate) trait Body: Send + Sync {
    /// What the database keeps, so that the next server finds it.
    fn record(&self) -> Result<String, LaunchError>;

    /// What it was made from.
    fn origin(&self) -> Origin;

    /// The way into its guest.
    fn guest(&self) -> GuestClient;

    /// Tells it who it is: fresh randomness, the right time, names; and lets it out as far as its policy goes: until
    /// then nothing leaves it. Its workload goes on after that, and not before. An error means that the guest did not
    /// confirm all of it, and that it must not be used.
    async fn become_sandbox(&self, id: &SandboxId, who: Identity<'_>, egress: &Egress) -> Result<(), LaunchError>;

    /// Tells the sandbox it already is that it goes on, after it was suspended for a while.
    async fn go_on(&self, id: &SandboxId) -> Result<(), LaunchError>;

    /// Freezes its workload and stops its CPUs.
    async fn suspend(&self) -> Result<(), CheckpointError>;

    /// Lets its CPUs go on; the workload waits for [`Body::go_on`].
    async fn resume(&self) -> Result<(), LaunchError>;

    /// Stores memory, devices and disk of the suspended machine, durably, as `checkpoint` of `row`.
    async fn store(&self, row: &SandboxRow, checkpoint: &str) -> Result<Unnamed, CheckpointError>;

    /// Ends its workload and has everything written to its disk. A guest that does not do it is told in the log.
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
