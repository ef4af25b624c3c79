//! A sandbox as the rest of the server knows it: what it was made with, and the state it is in.
//!
//! A state carries what exists of the sandbox in it, so that nobody has to ask whether a paused one has a checkpoint:
//!
//! ```text
//! Creating(origin)     nothing of its own yet
//! Starting(disk)       a stored disk; a VM is being booted over it
//! Running(live)        a VM
//! Snapshotting(live)   a VM, suspended while it is stored
//! Stopping(live)       a VM's disk, which is being stored; the VM may be gone
//! Paused(memory)       stored memory, devices and disk
//! Unpausing(memory)    the same; a VM is being restored from it
//! Stopped(disk)        a stored disk
//! Deleting(stored)     what is to be removed
//! Deleted              nothing
//! ```

use crate::row::row;
use leapbox_api_types::sandbox::SandboxState;
use leapbox_ids::{BaseId, CheckpointId, ImageDigest, OrganisationId, SandboxId, TemplateId};
use leapbox_vmm::{MachineRecord, Shape};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A text that only the server's key opens. Its debug output does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub String);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sealed")
    }
}

/// One sandbox. Times are Unix ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// What never changes.
    pub spec: Arc<Spec>,
    /// Its state, and what exists of it.
    pub status: Status,
    /// When its state last changed.
    pub since_ms: i64,
    /// When its VM was last launched.
    pub launched_at_ms: Option<i64>,
    /// Why it is in this state, if nobody asked for that.
    pub reason: Option<String>,
}

row! {
    /// What a sandbox was made with.
    pub struct Spec of "sandbox" {
        id: SandboxId,
        /// Whose it is.
        organisation: OrganisationId,
        /// What it was made from.
        template: TemplateId,
        /// The runner that has it.
        pod_id: String,
        /// Virtual CPUs.
        vcpu: u8,
        /// Memory in MiB.
        memory_mib: u32,
        /// Writable disk in MiB.
        disk_mib: u64,
        /// Seconds until it times out, from each time that it begins to run.
        timeout_s: u64,
        /// Whether the timeout pauses it instead of deleting it.
        auto_pause: bool,
        /// When it was asked for, in Unix ms.
        created_at_ms: i64,
        /// Its environment variables.
        environment: Option<Sealed>,
        /// What it may reach, as the API shows it (JSON); `None` is every public address.
        network_policy: Option<String>,
        /// The whole policy, if it has secrets.
        network_secrets: Option<Sealed>,
        /// Certificate and key of its own authority, if its policy has transforms.
        egress_ca: Option<Sealed>,
    }
}

impl Spec {
    /// Virtual CPUs and memory.
    pub fn shape(&self) -> Shape {
        Shape { vcpus: self.vcpu, memory_mib: self.memory_mib }
    }
}

/// A state, with what exists of the sandbox in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Being made. What it is restored from is kept for it, if it is.
    Creating(Option<Origin>),
    /// A stopped one that boots.
    Starting(StoredDisk),
    /// In use.
    Running(Live),
    /// Being stored, to be paused or for a snapshot.
    Snapshotting(Live),
    /// Stored whole.
    Paused(StoredMemory),
    /// Being restored because somebody needs it.
    Unpausing(StoredMemory),
    /// Its processes have ended, and its disk is being stored.
    Stopping(Live),
    /// Its disk is stored.
    Stopped(StoredDisk),
    /// Going. What was stored of it stays until that is certain.
    Deleting(Option<Stored>),
    /// Gone; it is shown for a while if it failed.
    Deleted,
}

/// A living VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// What finds it again.
    pub vm: VmRecord,
    /// What it was started from.
    pub origin: Origin,
    /// When the sandbox times out, in Unix ms.
    pub timeout_at_ms: i64,
}

/// What a later server finds a living VM again by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Its process.
    pub machine: MachineRecord,
    /// Number of its network slot.
    pub slot: u32,
}

/// What a VM was started from: its memory is a difference to the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub base: BaseId,
    /// The guest image under the base.
    pub image: ImageDigest,
}

/// Memory, devices and disk of a paused sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMemory {
    /// The archive.
    pub checkpoint: CheckpointId,
    /// What the archive is a difference to.
    pub origin: Origin,
}

/// The disk of a stopped sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDisk {
    /// The archive.
    pub checkpoint: CheckpointId,
    /// The guest image it boots.
    pub image: ImageDigest,
}

/// What can be stored of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// All of it.
    Memory(StoredMemory),
    Disk(StoredDisk),
}

impl Stored {
    /// The archive.
    pub fn checkpoint(&self) -> &CheckpointId {
        match self {
            Stored::Memory(stored) => &stored.checkpoint,
            Stored::Disk(stored) => &stored.checkpoint,
        }
    }

    /// The guest image.
    pub fn image(&self) -> &ImageDigest {
        match self {
            Stored::Memory(stored) => &stored.origin.image,
            Stored::Disk(stored) => &stored.image,
        }
    }

    /// The base that its memory is a difference to.
    pub fn base(&self) -> Option<&BaseId> {
        match self {
            Stored::Memory(stored) => Some(&stored.origin.base),
            Stored::Disk(_) => None,
        }
    }
}

impl Sandbox {
    pub fn id(&self) -> &SandboxId {
        &self.spec.id
    }

    /// Its state as the API shows it.
    pub fn state(&self) -> SandboxState {
        self.status.state()
    }

    /// The same sandbox in another state since `now_ms`.
    pub fn in_status(&self, status: Status, now_ms: i64) -> Self {
        Self {
            spec: Arc::clone(&self.spec),
            status,
            since_ms: now_ms,
            launched_at_ms: self.launched_at_ms,
            reason: None,
        }
    }
}

impl Status {
    /// The state as the API shows it.
    pub fn state(&self) -> SandboxState {
        match self {
            Status::Creating(_) | Status::Starting(_) => SandboxState::Starting,
            Status::Running(_) => SandboxState::Running,
            Status::Snapshotting(_) => SandboxState::Snapshotting,
            Status::Paused(_) => SandboxState::Paused,
            Status::Unpausing(_) => SandboxState::Unpausing,
            Status::Stopping(_) => SandboxState::Stopping,
            Status::Stopped(_) => SandboxState::Stopped,
            Status::Deleting(_) => SandboxState::Deleting,
            Status::Deleted => SandboxState::Deleted,
        }
    }

    /// The VM, if there is one or was one whose disk is still to be stored.
    pub fn live(&self) -> Option<&Live> {
        match self {
            Status::Running(live) | Status::Snapshotting(live) | Status::Stopping(live) => Some(live),
            Status::Creating(_)
            | Status::Starting(_)
            | Status::Paused(_)
            | Status::Unpausing(_)
            | Status::Stopped(_)
            | Status::Deleting(_)
            | Status::Deleted => None,
        }
    }
}
