//! What Firecracker's API takes and gives, as far as it is used here. Field names are those of its OpenAPI document
//! (`firecracker.yaml`), the subset that 1.12 and the current release share.

use serde::{Deserialize, Serialize};

/// `PUT /machine-config`
#[derive(Debug, Serialize)]
pub struct MachineConfig {
    pub vcpu_count: u8,
    pub mem_size_mib: u32,
    pub smt: bool,
    pub track_dirty_pages: bool,
}

/// `PUT /boot-source`
#[derive(Debug, Serialize)]
pub struct BootSource<'a> {
    pub kernel_image_path: &'a str,
    pub initrd_path: &'a str,
    pub boot_args: &'a str,
}

/// `PUT /drives/{drive_id}`
#[derive(Debug, Serialize)]
pub struct Drive<'a> {
    pub drive_id: &'a str,
    pub path_on_host: &'a str,
    pub is_root_device: bool,
    pub is_read_only: bool,
}

/// `PATCH /drives/{drive_id}`
#[derive(Debug, Serialize)]
pub struct DriveUpdate<'a> {
    pub drive_id: &'a str,
    pub rate_limiter: RateLimiter,
}

/// `PUT /network-interfaces/{iface_id}`
#[derive(Debug, Serialize)]
pub struct NetworkInterface<'a> {
    pub iface_id: &'a str,
    pub host_dev_name: &'a str,
    pub guest_mac: &'a str,
}

/// `PATCH /network-interfaces/{iface_id}`
#[derive(Debug, Serialize)]
pub struct NetworkInterfaceUpdate<'a> {
    pub iface_id: &'a str,
    pub rx_rate_limiter: RateLimiter,
    pub tx_rate_limiter: RateLimiter,
}

/// A bucket each for bytes and for operations.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RateLimiter {
    pub bandwidth: TokenBucket,
    pub ops: TokenBucket,
}

/// `size` tokens come back in `refill_time` milliseconds; a size of 0 is no limit.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TokenBucket {
    pub size: u64,
    pub refill_time: u64,
}

/// `PUT /entropy`
#[derive(Debug, Serialize)]
pub struct Entropy {}

/// `PUT /actions`
#[derive(Debug, Serialize)]
pub struct Action {
    pub action_type: ActionType,
}

/// Which action.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum ActionType {
    InstanceStart,
}

/// `PATCH /vm`
#[derive(Debug, Serialize)]
pub struct Vm {
    pub state: VmState,
}

/// Whether the guest's CPUs run.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum VmState {
    Paused,
    Resumed,
}

/// `PUT /snapshot/create`
#[derive(Debug, Serialize)]
pub struct SnapshotCreate<'a> {
    pub snapshot_type: SnapshotType,
    pub snapshot_path: &'a str,
    pub mem_file_path: &'a str,
}

/// How much of the memory is written.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum SnapshotType {
    /// Pages written since the boot, or since the last load or snapshot.
    Diff,
}

/// `PUT /snapshot/load`
#[derive(Debug, Serialize)]
pub struct SnapshotLoad<'a> {
    pub snapshot_path: &'a str,
    pub mem_backend: MemoryBackend<'a>,
    /// Turns dirty page tracking on. Its newer name, `track_dirty_pages`, is unknown to 1.12; this one is deprecated
    /// since, and taken by every 1.x.
    pub enable_diff_snapshots: bool,
    pub resume_vm: bool,
}

/// Where guest memory comes from.
#[derive(Debug, Serialize)]
pub struct MemoryBackend<'a> {
    pub backend_type: MemoryBackendType,
    pub backend_path: &'a str,
}

/// Which kind of backend.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum MemoryBackendType {
    /// A file, mapped privately.
    File,
}

/// The body of every refusal.
#[derive(Debug, Deserialize)]
pub struct Fault {
    pub fault_message: String,
}
