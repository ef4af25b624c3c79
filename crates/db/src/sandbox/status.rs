//! The type of a sandbox: a [`Spec`], which never changes, and a [`Status`].
//!
//! A status carries everything that exists of the sandbox in that state, so that the compiler, and not each caller,
//! makes sure that a paused sandbox has a checkpoint:
//!
//! ```text
//! Creating(origin)     nothing of its own yet
//! Booting(disk)        a stored disk; a VM is being booted over it
//! Running(live)        a VM
//! Snapshotting(live)   a VM, suspended while it is stored
//! Stopping(live)       a VM's disk, which is being stored; the VM may have ended
//! Paused(memory)       stored memory, devices and disk
//! Unpausing(memory)    the same; a VM is being restored from it
//! Stopped(disk)        a stored disk
//! Deleting(stored)     a checkpoint that is to be removed, if there is one
//! Deleted              nothing
//! ```
//!
//! `Creating` and `Booting` are both stored, and shown by the API, as `starting`; a row that is `Booting` has a
//! checkpoint.

use crate::row::row;
use leapbox_api_types::sandbox::SandboxState;
use leapbox_ids::{BaseId, CheckpointId, ImageDigest, OrganisationId, SandboxId, TemplateId};
use leapbox_vmm::{MachineRecord, Shape};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A text that is encrypted with the server's key. `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub String);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sealed")
    }
}

/// A sandbox. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub spec: Arc<Spec>,
    pub status: Status,
    /// When it entered this state. A failed wake does not change it.
    pub since_ms: i64,
    /// When it last began to run in a new VM.
    pub launched_at_ms: Option<i64>,
    /// The `state_reason` of the API: why it is in this state, if its owner did not ask for it.
    pub reason: Option<String>,
}

row! {
    /// The parameters that a sandbox was created with.
    pub struct Spec of "sandbox" {
        id: SandboxId,
        organisation: OrganisationId,
        template: TemplateId,
        /// Name of this host. `pod_id` is the contract's word for the host that a sandbox runs on.
        pod_id: String,
        vcpu: u8,
        memory_mib: u32,
        /// Size of the writable disk, which is sparse.
        disk_mib: u64,
        /// Seconds until it times out, counted from each time that it begins to run in a new VM.
        timeout_s: u64,
        /// Whether the timeout pauses it instead of deleting it.
        auto_pause: bool,
        created_at_ms: i64,
        /// Its environment variables; `None` if it has none.
        environment: Option<Sealed>,
        /// Its network policy as the API shows it (JSON, without secrets); `None` is `allow-all`.
        network_policy: Option<String>,
        /// The whole policy; `None` if it has no secrets.
        network_secrets: Option<Sealed>,
        /// Certificate and key of its own authority; `None` if its policy has no transforms.
        egress_ca: Option<Sealed>,
    }
}

impl Spec {
    pub fn shape(&self) -> Shape {
        Shape { vcpus: self.vcpu, memory_mib: self.memory_mib }
    }
}

/// A state, with everything that exists of the sandbox in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// A create or restore that has not ended. The origin of a restore is in the row, so that the garbage collection
    /// keeps base and image for it.
    Creating(Option<Origin>),
    /// A stopped sandbox that is being booted.
    Booting(StoredDisk),
    Running(Live),
    /// Suspended while it is stored, for a pause or a snapshot.
    Snapshotting(Live),
    Paused(StoredMemory),
    /// An HTTP request that needs the guest is waking it.
    Unpausing(StoredMemory),
    /// Its processes have ended, and its disk is being stored.
    Stopping(Live),
    Stopped(StoredDisk),
    /// The checkpoint stays in the row until `Deleted`, so that a crash in between does not lose track of it.
    Deleting(Option<Stored>),
    /// Deleted, or failed if there is a reason; a failed sandbox is shown for a day.
    Deleted,
}

/// A VM that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    pub vm: VmRecord,
    pub origin: Origin,
    /// When the sandbox times out, in Unix milliseconds: for those who read it.
    pub timeout_at_ms: i64,
    /// The same instant in milliseconds since the host's boot, by which it happens: the Unix clock may be set, and
    /// no VM outlives a boot. `None` if an earlier version of Leapbox wrote it.
    pub timeout_at_boot_ms: Option<i64>,
}

/// The record by which the next server finds a VM again. A stored format (JSON).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    pub machine: MachineRecord,
    /// Index of its network slot.
    pub slot: u32,
}

/// The base and image that a VM was started from. Its memory is a difference to the base's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub base: BaseId,
    /// The guest image that the base was booted from.
    pub image: ImageDigest,
}

/// A checkpoint of memory, devices and disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMemory {
    pub checkpoint: CheckpointId,
    pub origin: Origin,
}

/// A checkpoint of a disk alone. It is no difference to a base: a stopped sandbox boots with whatever base is current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDisk {
    pub checkpoint: CheckpointId,
    /// The guest image whose root file system is under the disk.
    pub image: ImageDigest,
}

/// The checkpoint of a paused or of a stopped sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    Memory(StoredMemory),
    Disk(StoredDisk),
}

impl Stored {
    pub fn checkpoint(&self) -> &CheckpointId {
        match self {
            Stored::Memory(stored) => &stored.checkpoint,
            Stored::Disk(stored) => &stored.checkpoint,
        }
    }

    pub fn image(&self) -> &ImageDigest {
        match self {
            Stored::Memory(stored) => &stored.origin.image,
            Stored::Disk(stored) => &stored.image,
        }
    }

    /// The base that its memory is a difference to; `None` if there is only a disk.
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

    pub fn state(&self) -> SandboxState {
        self.status.state()
    }

    /// The same sandbox in another status since `now_ms`, without a reason.
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
            Status::Creating(_) | Status::Booting(_) => SandboxState::Starting,
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

    /// The VM, if there is one, or was one whose disk is still to be stored.
    pub fn live(&self) -> Option<&Live> {
        match self {
            Status::Running(live) | Status::Snapshotting(live) | Status::Stopping(live) => Some(live),
            Status::Creating(_)
            | Status::Booting(_)
            | Status::Paused(_)
            | Status::Unpausing(_)
            | Status::Stopped(_)
            | Status::Deleting(_)
            | Status::Deleted => None,
        }
    }
}
