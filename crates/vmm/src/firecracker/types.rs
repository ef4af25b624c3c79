//! Requests and answers of Firecracker's API, as far as they are used here. The names are those of its OpenAPI document
//! (`firecracker.yaml`); only fields that 1.12 and the current release share are used.

use serde::{Deserialize, Serialize};

/// The body of `PUT /machine-config`.
#[derive(Debug, Serialize)]
pub struct MachineConfig {
    pub vcpu_count: u8,
    pub mem_size_mib: u32,
    pub smt: bool,
    pub track_dirty_pages: bool,
}

/// The body of `PUT /boot-source`.
#[derive(Debug, Serialize)]
pub struct BootSource<'a> {
    pub kernel_image_path: &'a str,
    pub initrd_path: &'a str,
    pub boot_args: &'a str,
}

/// The body of `PUT /drives/{drive_id}`.
#[derive(Debug, Serialize)]
pub struct Drive<'a> {
    pub drive_id: &'a str,
    pub path_on_host: &'a str,
    pub is_root_device: bool,
    pub is_read_only: bool,
}

/// The body of `PATCH /drives/{drive_id}`.
#[derive(Debug, Serialize)]
pub struct DriveUpdate<'a> {
    pub drive_id: &'a str,
    pub rate_limiter: RateLimiter,
}

/// The body of `PUT /network-interfaces/{iface_id}`.
#[derive(Debug, Serialize)]
pub struct NetworkInterface<'a> {
    pub iface_id: &'a str,
    pub host_dev_name: &'a str,
    pub guest_mac: &'a str,
}

/// The body of `PATCH /network-interfaces/{iface_id}`.
#[derive(Debug, Serialize)]
pub struct NetworkInterfaceUpdate<'a> {
    pub iface_id: &'a str,
    pub rx_rate_limiter: RateLimiter,
    pub tx_rate_limiter: RateLimiter,
}

/// Two buckets: `bandwidth` counts bytes, `ops` operations.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RateLimiter {
    pub bandwidth: TokenBucket,
    pub ops: TokenBucket,
}

/// A bucket of `size` tokens that is refilled in `refill_time` milliseconds. A size of 0 is no limit.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TokenBucket {
    pub size: u64,
    pub refill_time: u64,
}

/// The body of `PUT /entropy`.
#[derive(Debug, Serialize)]
pub struct Entropy {}

/// The body of `PUT /actions`.
#[derive(Debug, Serialize)]
pub struct Action {
    pub action_type: ActionType,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub enum ActionType {
    InstanceStart,
}

/// The body of `PATCH /vm`.
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

/// The body of `PUT /snapshot/create`.
#[derive(Debug, Serialize)]
pub struct SnapshotCreate<'a> {
    pub snapshot_type: SnapshotType,
    pub snapshot_path: &'a str,
    pub mem_file_path: &'a str,
}

/// The part of the memory that a snapshot writes.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum SnapshotType {
    /// Pages written since the boot, or since the last load or snapshot.
    Diff,
}

/// The body of `PUT /snapshot/load`.
#[derive(Debug, Serialize)]
pub struct SnapshotLoad<'a> {
    pub snapshot_path: &'a str,
    pub mem_backend: MemoryBackend<'a>,
    /// Turns dirty page tracking on. Its newer name, `track_dirty_pages`, is unknown to 1.12; this one is deprecated
    /// but accepted by every 1.x.
    pub enable_diff_snapshots: bool,
    pub resume_vm: bool,
}

/// The source of the guest's memory.
#[derive(Debug, Serialize)]
pub struct MemoryBackend<'a> {
    pub backend_type: MemoryBackendType,
    pub backend_path: &'a str,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub enum MemoryBackendType {
    /// A file that Firecracker maps copy-on-write.
    File,
}

/// The body of every answer that is not a success.
#[derive(Debug, Deserialize)]
pub struct Fault {
    pub fault_message: String,
}
