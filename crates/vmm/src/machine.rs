//! What every driver offers, and the plain data that goes in and out.

use crate::error::{ExitReason, VmmError};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The size of a machine: one warm snapshot per template and shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual CPUs, 1 to 8.
    pub vcpus: u8,
    /// Memory in MiB, 512 to 8192.
    pub memory_mib: u32,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}MiB", self.vcpus, self.memory_mib)
    }
}

/// Kernel, initramfs and root file system, all read-only and shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImage {
    /// The ELF vmlinux.
    pub kernel: PathBuf,
    /// The initramfs with the agent as `/init`.
    pub initramfs: PathBuf,
    /// The template's EROFS image.
    pub rootfs: PathBuf,
    /// Hash over the three contents: part of every compatibility key.
    pub digest: String,
}

/// Under which identity and limits a VMM runs.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// Names the cgroup and the jail folder; unique among living machines, `[a-z0-9-]`, at most 60 characters.
    pub name: String,
    /// User and group id of the VMM's own; no other process may have it.
    pub uid: u32,
    /// A new folder of the machine's own, made by the driver, gone after [`Machine::destroy`].
    pub dir: PathBuf,
}

/// The prepared network of one machine. Both taps exist in the namespace and are persistent, owned by the
/// confinement's uid.
#[derive(Debug, Clone)]
pub struct NetworkAttachment {
    /// The network namespace the VMM runs in.
    pub netns: Arc<OwnedFd>,
    /// The workload's tap (`eth0` in the guest).
    pub workload_tap: String,
    /// MAC address the guest's `eth0` has.
    pub workload_mac: String,
    /// The guest channel's tap.
    pub channel_tap: String,
    /// MAC address of the guest's end of the channel.
    pub channel_mac: String,
}

/// A machine to boot from the kernel on.
#[derive(Debug)]
pub struct BootSpec {
    /// Size.
    pub shape: Shape,
    /// What it boots.
    pub image: GuestImage,
    /// Its writable disk: a file the driver opens read-write.
    pub disk: PathBuf,
    /// Its network.
    pub network: NetworkAttachment,
    /// Its walls.
    pub confinement: Confinement,
    /// Folder that receives the RAM file and, later, the snapshot. Exists.
    pub snapshot_dir: PathBuf,
}

/// A stopped machine's memory and device state, from which any number of clones start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmSnapshot {
    /// Size of the machine it was taken from.
    pub shape: Shape,
    /// Guest RAM: sparse, `memory_mib` long.
    pub memory: PathBuf,
    /// Device and CPU state.
    pub state: PathBuf,
    /// The writable disk as it was in that moment: clones get a copy each.
    pub disk: PathBuf,
    /// Which driver, build, arguments, kernel and CPU it fits; see [`Vmm::compatibility_key`].
    pub compatibility_key: String,
}

/// A clone to start.
#[derive(Debug)]
pub struct RestoreSpec {
    /// Where it starts from.
    pub snapshot: Arc<WarmSnapshot>,
    /// The same image the snapshot was booted with.
    pub image: GuestImage,
    /// A copy of the snapshot's disk, the clone's own.
    pub disk: PathBuf,
    /// Its network.
    pub network: NetworkAttachment,
    /// Its walls.
    pub confinement: Confinement,
}

/// What finds a living VMM again after the server was restarted. Kept in the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// The driver's name.
    pub driver: String,
    /// Process id of the VMM in the host's pid namespace.
    pub pid: i32,
    /// The process's start time in clock ticks since the host's boot: tells a reused pid apart.
    pub start_ticks: u64,
    /// The host's boot id: a record of another boot is dead.
    pub host_boot_id: String,
    /// Size.
    pub shape: Shape,
    /// The confinement's name.
    pub name: String,
    /// The confinement's uid.
    pub uid: u32,
    /// The confinement's folder.
    pub dir: PathBuf,
}

/// What a driver can and cannot do. The rest of the house asks here, never which driver it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Guest code runs on the CPU itself, behind hardware virtualisation.
    pub hardware_virtualisation: bool,
}

/// A driver.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// `qemu`, `firecracker`: the name in records, logs and metrics.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Everything a snapshot depends on (VMM build, argument list, kernel, CPU, TSC rate), as one hash. A snapshot
    /// with another key must not be restored.
    fn compatibility_key(&self, shape: Shape, image: &GuestImage) -> String;

    /// Boots a machine whose RAM lies in `spec.snapshot_dir`. Returns once the VMM runs; the guest may still boot.
    async fn boot(&self, spec: BootSpec) -> Result<Box<dyn Machine>, VmmError>;

    /// Starts a copy-on-write clone. Returns once the guest runs.
    async fn restore(&self, spec: RestoreSpec) -> Result<Box<dyn Machine>, VmmError>;

    /// Lets go of what is kept in memory for a snapshot that will not be restored again.
    async fn forget(&self, snapshot: &WarmSnapshot);

    /// Takes over a machine that a former server process started.
    async fn adopt(&self, record: MachineRecord) -> Result<Box<dyn Machine>, VmmError>;

    /// Kills whatever is left of a recorded machine and removes its cgroup and folder. Harmless when nothing is.
    async fn reap(&self, name: &str, dir: &std::path::Path) -> Result<(), VmmError>;

    /// Names (see [`Confinement::name`]) of all machines of this installation with a living process or a cgroup left.
    async fn leftovers(&self) -> Result<Vec<String>, VmmError>;
}

/// One living VMM.
#[async_trait]
pub trait Machine: Send + Sync {
    /// What finds it again.
    fn record(&self) -> MachineRecord;

    /// The namespace it runs in, for a server that has been restarted.
    fn netns(&self) -> Result<OwnedFd, VmmError>;

    /// Stops the guest and writes memory and device state into the folder it was booted with. The machine is
    /// destroyed in either case.
    async fn into_warm_snapshot(self: Box<Self>) -> Result<WarmSnapshot, VmmError>;

    /// Waits until the VMM is gone or its guest has shut down, and tells why. May be called by many and again.
    async fn exited(&self) -> ExitReason;

    /// The end of the guest's console, bounded (at most 64 KiB).
    async fn console_tail(&self) -> String;

    /// Resident memory in bytes that is the machine's alone (private pages).
    fn private_bytes(&self) -> Result<u64, VmmError>;

    /// Kills it, waits until it is gone, removes its cgroup and folder. May be called again.
    async fn destroy(&self) -> Result<(), VmmError>;
}

/// How long a VMM may take to answer a control command before it counts as hung.
pub const CONTROL_DEADLINE: Duration = Duration::from_secs(20);
