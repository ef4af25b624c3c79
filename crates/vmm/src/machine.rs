//! What every driver offers.

use crate::error::{ExitReason, VmmError};
use crate::process::{Process, host_boot_id};
use crate::spec::{BootSpec, Confinement, DiffSnapshot, GuestImage, RestoreSpec, Shape, Snapshot};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

impl MachineRecord {
    /// The record of a process that has just been started.
    pub(crate) fn of(
        driver: &str,
        process: &Process,
        shape: Shape,
        confinement: &Confinement,
        host_boot_id: &str,
    ) -> Self {
        Self {
            driver: driver.to_owned(),
            pid: process.pid(),
            start_ticks: process.start_ticks(),
            host_boot_id: host_boot_id.to_owned(),
            shape,
            name: confinement.name.clone(),
            uid: confinement.uid,
            dir: confinement.dir.clone(),
        }
    }

    /// Whether the recorded process still lives, whoever's driver it is.
    pub fn is_alive(&self) -> bool {
        let this_boot = host_boot_id().is_ok_and(|id| id == self.host_boot_id);
        this_boot && Process::open_recorded(self.pid, self.start_ticks).is_ok()
    }

    /// The recorded process, if it still lives and is `driver`'s.
    pub(crate) fn process(&self, driver: &'static str, host_boot_id: &str) -> Result<Process, VmmError> {
        if self.driver != driver {
            return Err(VmmError::OtherDriver { recorded: self.driver.clone(), own: driver });
        }
        if self.host_boot_id != host_boot_id {
            return Err(VmmError::NotAlive { pid: self.pid });
        }
        Process::open_recorded(self.pid, self.start_ticks)
    }
}

/// What a driver can and cannot do. The rest of the house asks here, never which driver it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Guest code runs on the CPU itself, behind hardware virtualisation.
    pub hardware_virtualisation: bool,
    /// [`IoLimits`](crate::IoLimits) are enforced; otherwise they are ignored.
    pub io_limits: bool,
}

/// A driver.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// `qemu`, `firecracker`: the name in records, logs and metrics.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Limits that this host's control groups do not enforce on its machines.
    fn unenforced_limits(&self) -> Vec<&'static str>;

    /// Everything a snapshot depends on (VMM build, argument list, kernel, CPU, TSC rate), as one hash. A snapshot
    /// with another key must not be restored.
    fn compatibility_key(&self, shape: Shape, image: &GuestImage) -> String;

    /// Boots a machine whose RAM lies in `spec.snapshot_dir`. Returns once the VMM runs; the guest may still boot.
    async fn boot(&self, spec: BootSpec) -> Result<Box<dyn Machine>, VmmError>;

    /// Starts a copy-on-write clone, as it was when its changes were taken if there are any. Returns once the guest
    /// runs. On failure nothing of it is left; its guest has never run if the changes were at fault.
    async fn restore(&self, spec: RestoreSpec) -> Result<Box<dyn Machine>, VmmError>;

    /// [`Vmm::restore`] as one would do it by hand, without any walls: the floor that `leapbox bench` compares with.
    /// Never for a sandbox.
    async fn restore_unconfined(&self, spec: RestoreSpec) -> Result<Box<dyn Machine>, VmmError>;

    /// Lets go of what is kept in memory for a snapshot that will not be restored again.
    async fn forget(&self, snapshot: &Snapshot);

    /// Takes over a machine that a former server process started.
    async fn adopt(&self, record: MachineRecord) -> Result<Box<dyn Machine>, VmmError>;

    /// Kills whatever is left of a recorded machine and removes its cgroup and folder. Harmless when nothing is.
    async fn reap(&self, name: &str, dir: &Path) -> Result<(), VmmError>;

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
    async fn into_warm_snapshot(self: Box<Self>) -> Result<Snapshot, VmmError>;

    /// Stops the guest's CPUs and lets its disk writes come to an end. Harmless when it is paused.
    async fn pause(&self) -> Result<(), VmmError>;

    /// Lets a paused guest go on. Harmless when it runs.
    async fn resume(&self) -> Result<(), VmmError>;

    /// What a paused machine has become since it was started from a snapshot: the whole difference to that, also of a
    /// machine that was itself restored with changes, or adopted. The cost follows the pages in it. The machine stays
    /// paused and unchanged: this may fail, or be asked again, any number of times. It must stay paused until the
    /// memory is read, which blocks; `destroy` ends that with an error. Its disk is the caller's to copy meanwhile.
    async fn snapshot_diff(&self) -> Result<DiffSnapshot, VmmError>;

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
