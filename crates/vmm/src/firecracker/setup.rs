//! Sets up an idle Firecracker over its API: gives it the devices of a guest and boots that, or loads a snapshot.
//!
//! Called by the driver's `boot` (`firecracker.rs`) and by `restore`.

use super::api::Api;
use super::files::{DISK, INITRAMFS, KERNEL, MEMORY, ROOTFS, STATE};
use super::types::{
    Action, ActionType, BootSource, Drive, DriveUpdate, Entropy, MachineConfig, MemoryBackend, MemoryBackendType,
    NetworkInterface, NetworkInterfaceUpdate, RateLimiter, SnapshotLoad, TokenBucket, Vm, VmState,
};
use crate::error::VmmError;
use crate::shape::Shape;
use crate::spec::{IoLimits, NetworkAttachment};

// `panic=-1` and `reboot=k` turn a panic or a reboot into an exit of Firecracker. Firecracker's own default has
// `nomodule`, but the agent loads modules; nothing may turn ACPI off, by which the kernel finds the devices. The
// options for the UART, the i8042 and the crypto manager leave out probes of absent devices and self-tests: they only
// save boot time.
/// The guest kernel's command line.
pub(super) const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=k random.trust_cpu=on \
     8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd cryptomgr.notests";

/// The version of the devices that [`boot`] configures, and of their order; part of the compatibility key. It must be
/// increased when either changes, because a snapshot that was taken with the previous devices would not fit.
pub(super) const DEVICE_LAYOUT_VERSION: u32 = 1;
const WORKLOAD: &str = "workload";
const CHANNEL: &str = "channel";
/// The time in which a rate limiter's bucket fills again: limits are per second.
const REFILL_MS: u64 = 1000;

/// Gives an idle Firecracker the size and the devices of its guest, and boots the guest.
pub(super) async fn boot(api: &Api, shape: Shape, network: &NetworkAttachment) -> Result<(), VmmError> {
    // With dirty pages tracked from the start, a `Diff` snapshot has all pages that were ever touched, and holes for
    // the rest: a base's memory file is as small as its guest's use. A `Full` one would write every byte.
    let machine =
        MachineConfig { vcpu_count: shape.vcpus, mem_size_mib: shape.memory_mib, smt: false, track_dirty_pages: true };
    api.put("/machine-config", &machine).await?;
    let source = BootSource { kernel_image_path: KERNEL, initrd_path: INITRAMFS, boot_args: KERNEL_COMMAND_LINE };
    api.put("/boot-source", &source).await?;
    for (id, is_read_only) in [(ROOTFS, true), (DISK, false)] {
        // The default cache type (`Unsafe`) ignores the guest's flushes. A host that loses power loses its running
        // machines with their disks anyway, and an archive of a disk is synced by whoever writes it.
        // Never a root device: Firecracker would add `root=` to the kernel's command line, but here the agent in the
        // initramfs mounts the root file system.
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

/// Loads the snapshot that is in the jail, sets the limits, and lets the guest run.
pub(super) async fn load(api: &Api, limits: &IoLimits) -> Result<(), VmmError> {
    let load = SnapshotLoad {
        snapshot_path: STATE,
        mem_backend: MemoryBackend { backend_type: MemoryBackendType::File, backend_path: MEMORY },
        enable_diff_snapshots: true,
        // The guest must not run before its limits are set.
        resume_vm: false,
    };
    api.put_memory("/snapshot/load", &load).await?;
    // Set even if there is none: the snapshot restores the limits that were in force when it was taken.
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
