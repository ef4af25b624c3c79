//! Settings of the service, and the parts of the server that it is built from.

use crate::recovery::UnknownMachines;
use leapbox_db::Db;
use leapbox_network::Network;
use leapbox_storage::{ArchiveStore, ServerKey};
use leapbox_templates::Artifacts;
use leapbox_vmm::{IoLimits, Vmm};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Settings that the operator chooses.
pub struct LifecycleConfig {
    /// Name of this host. `pod_id` is the contract's word for the host that a sandbox runs on.
    pub pod_id: String,
    /// The installation's id, which is in the stamp of every checkpoint.
    pub installation: String,
    /// Directory that holds `warm` (bases), `machines` and `disks`.
    pub state_dir: PathBuf,
    pub capacity: CapacityLimits,
    pub pool: PoolLimits,
    /// Disk and network rates of each sandbox; drivers without the capability ignore them.
    pub io_limits: IoLimits,
    /// Machines that may be launched at once. A launch is bound by the CPU, so more only slow each other down.
    pub launches_at_once: usize,
    pub unknown_machines: UnknownMachines,
    /// How long the server runs before what is set aside is removed.
    pub garbage_grace: Duration,
}

/// The most that this host accepts; a create or wake beyond it is refused with 503.
#[derive(Debug, Clone, Copy)]
pub struct CapacityLimits {
    /// Machines that may exist at once, pooled clones included.
    pub sandboxes: u32,
    /// Sum of their memory sizes, in MiB. It may exceed the host's memory, because clones share every page of their
    /// base that they have not written.
    pub memory_mib: u64,
}

/// Bounds of the pool of ready clones.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// The most clones of one template and shape; 0 turns the pool off.
    pub per_shape: usize,
    /// Sum of the memory sizes of all pooled clones, in MiB.
    pub memory_mib: u64,
}

/// The parts of the server that the service calls.
pub struct Parts {
    pub db: Db,
    pub vmm: Arc<dyn Vmm>,
    pub network: Arc<Network>,
    /// Templates and guest images that `leapbox setup` has built.
    pub artifacts: Artifacts,
    /// Store of checkpoints, and of exported bases and images.
    pub archives: ArchiveStore,
    /// Seals the secrets in the database: environments, header values and certificate authorities.
    pub key: ServerKey,
}
