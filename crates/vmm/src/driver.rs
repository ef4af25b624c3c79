//! What a driver implements: [`Vmm`] starts and finds machines, [`Control`] is the driver's part of a living one.

use crate::cgroup::Cgroups;
use crate::error::VmmError;
use crate::machine::Machine;
use crate::memory::{Composed, Mapping};
use crate::record::MachineRecord;
use crate::shape::Shape;
use crate::spec::{BootSpec, GuestImage, RestoreSpec, Snapshot};
use crate::started::clean_up;
use async_trait::async_trait;
use std::path::Path;

/// What a driver can and cannot do. Everybody else asks here, never which driver it is.
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

    /// The control groups its machines are in.
    fn cgroups(&self) -> &Cgroups;

    /// Limits that this host's control groups do not enforce on its machines.
    fn unenforced_limits(&self) -> Vec<&'static str> {
        self.cgroups().missing()
    }

    /// Everything a snapshot depends on (VMM build, argument list, kernel, CPU, TSC rate), as one hash. A snapshot
    /// with another key must not be restored.
    fn compatibility_key(&self, shape: Shape, image: &GuestImage) -> String;

    /// Boots a machine whose RAM lies in `spec.snapshot_dir`. Returns once the VMM runs; the guest may still boot.
    async fn boot(&self, spec: BootSpec) -> Result<Machine, VmmError>;

    /// Starts a copy-on-write clone, as it was when its changes were taken if there are any. Returns once the guest
    /// runs. On failure nothing of it is left; its guest has never run if the changes were at fault.
    async fn restore(&self, spec: RestoreSpec) -> Result<Machine, VmmError>;

    /// Lets go of what is kept in memory for a snapshot that will not be restored again.
    async fn forget(&self, snapshot: &Snapshot);

    /// Takes over a machine that a former server process started.
    async fn adopt(&self, record: MachineRecord) -> Result<Machine, VmmError>;

    /// Kills whatever is left of a recorded machine and removes its cgroup and folder. Harmless when nothing is.
    async fn reap(&self, name: &str, dir: &Path) -> Result<(), VmmError> {
        clean_up(&self.cgroups().named(name), dir).await;
        Ok(())
    }

    /// Names (see [`Confinement::name`](crate::Confinement::name)) of all machines of this installation with a living
    /// process or a cgroup left.
    async fn leftovers(&self) -> Result<Vec<String>, VmmError> {
        Ok(self.cgroups().names())
    }
}

/// What the drivers do differently with a living machine. Only [`Machine`] calls it, and passes itself: a driver runs
/// each command to its VMM within [`Machine::while_alive`], so that a VMM that dies meanwhile is reported as dead and
/// not as a broken connection.
#[async_trait]
pub(crate) trait Control: Send + Sync {
    /// See [`Machine::pause`].
    async fn pause(&self, machine: &Machine) -> Result<(), VmmError>;

    /// See [`Machine::resume`].
    async fn resume(&self, machine: &Machine) -> Result<(), VmmError>;

    /// The device and CPU state of a paused machine. May fail and be asked again.
    async fn save_state(&self, machine: &Machine) -> Result<Vec<u8>, VmmError>;

    /// Completes the files of the snapshot of a paused machine that was booted into it.
    async fn write_snapshot(&self, machine: &Machine, snapshot: &Snapshot) -> Result<(), VmmError>;

    /// The RAM a restored machine's process maps.
    fn mapping(&self) -> Result<Mapping, VmmError>;

    /// What that RAM was composed of before it was mapped. `None`: changes come into the process itself (see
    /// [`memory`](crate::memory)).
    fn composed(&self, _machine: &Machine) -> Option<Composed> {
        None
    }

    /// See [`Machine::console_tail`].
    async fn console_tail(&self) -> String;
}
