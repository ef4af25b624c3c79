//! What a Firecracker is told before its guest runs: the machine to boot, or the snapshot to load.

use super::api::Api;
use super::files::{DISK, INITRAMFS, KERNEL, MEMORY, ROOTFS, STATE};
use super::types::{
    Action, ActionType, BootSource, Drive, DriveUpdate, Entropy, MachineConfig, MemoryBackend, MemoryBackendType,
    NetworkInterface, NetworkInterfaceUpdate, RateLimiter, SnapshotLoad, TokenBucket, Vm, VmState,
};
use crate::error::VmmError;
use crate::shape::Shape;
use crate::spec::{IoLimits, NetworkAttachment};

/// The guest kernel's command line.
///
/// `panic=-1` and `reboot=k` turn a dead guest into a Firecracker that exits. Never `nomodule` (part of
/// Firecracker's default), since the agent loads modules; nothing against ACPI, by which devices are found.
pub(super) const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=k random.trust_cpu=on \
     8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd cryptomgr.notests";

/// Grows when [`boot`] makes another machine of the same arguments: a snapshot of the old one would not fit.
pub(super) const MACHINE: u32 = 1;
const WORKLOAD: &str = "workload";
const CHANNEL: &str = "channel";
/// A second, in which a limiter's bucket fills again.
const REFILL_MS: u64 = 1000;

/// Describes the machine and starts it.
pub(super) async fn boot(api: &Api, shape: Shape, network: &NetworkAttachment) -> Result<(), VmmError> {
    let machine =
        MachineConfig { vcpu_count: shape.vcpus, mem_size_mib: shape.memory_mib, smt: false, track_dirty_pages: true };
    api.put("/machine-config", &machine).await?;
    let source = BootSource { kernel_image_path: KERNEL, initrd_path: INITRAMFS, boot_args: KERNEL_COMMAND_LINE };
    api.put("/boot-source", &source).await?;
    for (id, is_read_only) in [(ROOTFS, true), (DISK, false)] {
        // Firecracker's default cache type takes no flushes: a host that loses power loses its running sandboxes whole,
        // and what is stored of a paused one is flushed by who stores it.
        // Never a root device: an initramfs with one declared would be given it on its command line.
        let drive = Drive { drive_id: id, path_on_host: id, is_root_device: false, is_read_only };
        api.put(&format!("/drives/{id}"), &drive).await?;
    }
    for (id, tap, mac) in [
        (WORKLOAD, &network.workload_tap, &network.workload_mac),
        (CHANNEL, &network.channel_tap, &network.channel_mac),
    ] {
        let interface = NetworkInterface { iface_id: id, host_dev_name: tap, guest_mac: mac };
        api.put(&format!("/network-interfaces/{id}"), &interface).await?;
    }
    api.put("/entropy", &Entropy {}).await?;
    api.put_memory("/actions", &Action { action_type: ActionType::InstanceStart }).await
}

/// Loads the snapshot that lies in the jail, sets its limits, and lets its guest run. Limits are set anew each time:
/// those in the snapshot are of the moment it was taken.
pub(super) async fn load(api: &Api, limits: &IoLimits) -> Result<(), VmmError> {
    let load = SnapshotLoad {
        snapshot_path: STATE,
        mem_backend: MemoryBackend { backend_type: MemoryBackendType::File, backend_path: MEMORY },
        enable_diff_snapshots: true,
        resume_vm: false,
    };
    api.put_memory("/snapshot/load", &load).await?;
    let disk = limiter(limits.disk_bytes_per_s, limits.disk_ops_per_s);
    api.patch(&format!("/drives/{DISK}"), &DriveUpdate { drive_id: DISK, rate_limiter: disk }).await?;
    let network = limiter(limits.network_bytes_per_s, None);
    let update = NetworkInterfaceUpdate { iface_id: WORKLOAD, rx_rate_limiter: network, tx_rate_limiter: network };
    api.patch(&format!("/network-interfaces/{WORKLOAD}"), &update).await?;
    api.patch("/vm", &Vm { state: VmState::Resumed }).await
}

fn limiter(bytes_per_s: Option<u64>, ops_per_s: Option<u64>) -> RateLimiter {
    let bucket = |size: Option<u64>| TokenBucket { size: size.unwrap_or(0), refill_time: REFILL_MS };
    RateLimiter { bandwidth: bucket(bytes_per_s), ops: bucket(ops_per_s) }
}
