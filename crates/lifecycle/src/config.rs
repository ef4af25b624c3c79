//! What the service is built from.

use leapbox_db::Db;
use leapbox_network::Network;
use leapbox_storage::{ArchiveStore, ServerKey};
use leapbox_templates::Artifacts;
use leapbox_vmm::{IoLimits, Vmm};
use std::path::PathBuf;
use std::sync::Arc;

/// Settings of the service.
pub struct LifecycleConfig {
    /// This runner's name, as the API shows it.
    pub pod_id: String,
    /// Folder for bases, machines and disks.
    pub state_dir: PathBuf,
    /// How much this host takes.
    pub capacity: CapacityLimits,
    /// How much is kept ready.
    pub pool: PoolLimits,
    /// How much one sandbox may move.
    pub io_limits: IoLimits,
    /// Clones that may be launched at once: more only take each other's CPU time.
    pub launches_at_once: usize,
}

/// How much this host takes.
#[derive(Debug, Clone, Copy)]
pub struct CapacityLimits {
    /// Sandboxes that may live at once.
    pub sandboxes: u32,
    /// Sum of the memory they were promised, in MiB. May be more than the host has: clones share what they have not
    /// written.
    pub memory_mib: u64,
}

/// How much is kept ready.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// Most clones kept ready for one shape; 0 turns the pool off.
    pub per_shape: usize,
    /// Most memory promised to all of them, in MiB.
    pub memory_mib: u64,
}

/// What the service stands on.
pub struct Parts {
    /// The database.
    pub db: Db,
    /// The driver.
    pub vmm: Arc<dyn Vmm>,
    /// Network slots.
    pub network: Arc<Network>,
    /// What set-up has built.
    pub artifacts: Artifacts,
    /// Where checkpoints are kept.
    pub archives: ArchiveStore,
    /// What is secret in the database is sealed with it.
    pub key: ServerKey,
}
