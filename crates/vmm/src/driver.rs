//! The two traits of a driver: [`Vmm`] starts and finds machines, [`Control`] is the driver's part of a living one.

use crate::cgroup::Cgroups;
use crate::error::VmmError;
use crate::machine::Machine;
use crate::memory::{Mapping, OverlaidMemory};
use crate::record::MachineRecord;
use crate::shape::Shape;
use crate::spec::{BootSpec, GuestImage, RestoreSpec, Snapshot};
use crate::started::clean_up;
use async_trait::async_trait;
use std::path::Path;

/// Differences between drivers that callers must know. Code outside the drivers decides by these fields, never by the
/// driver's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Guest code runs on the CPU itself, behind hardware virtualisation.
    pub hardware_virtualisation: bool,
    /// [`IoLimits`](crate::IoLimits) are enforced; otherwise they are ignored.
    pub io_limits: bool,
}

/// A driver: starts VMMs of one kind and finds them again. `lifecycle` and `bases` hold it as a `dyn Vmm`.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// `qemu` or `firecracker`: the name in records, logs and metrics.
    fn name(&self) -> &'static str;

    /// Says which of the optional features the driver has.
    fn capabilities(&self) -> Capabilities;

    /// The control groups in which its machines are.
    fn cgroups(&self) -> &Cgroups;

    /// Names the limits that this host's control groups do not enforce on its machines.
    fn unenforced_limits(&self) -> Vec<&'static str> {
        self.cgroups().missing()
    }

    /// Hashes everything a snapshot depends on: the VMM's build and arguments, the image, and what of the host it
    /// needs. A snapshot with another key must not be restored.
    fn compatibility_key(&self, shape: Shape, image: &GuestImage) -> String;

    /// Boots a machine whose RAM lies in `spec.snapshot_dir`. Returns once the VMM runs; the guest may still boot.
    async fn boot(&self, spec: BootSpec) -> Result<Machine, VmmError>;

    /// Starts a copy-on-write clone of a snapshot, with the changes of `spec` if there are any. Returns once the guest
    /// runs. On failure nothing of it is left; if the changes were at fault, its guest has never run.
    async fn restore(&self, spec: RestoreSpec) -> Result<Machine, VmmError>;

    /// Frees what the driver caches in memory for a snapshot that will not be restored again.
    async fn forget(&self, snapshot: &Snapshot);

    /// Takes over a machine that a previous server process started.
    ///
    /// On failure the machine is left exactly as it was, running and with all that it owns, so that it can be tried
    /// again: a VMM that is stopped or starved of CPU answers too late, and a server may be short of descriptors. Only
    /// an error of which [`VmmError::is_death`] holds says that the machine has ended.
    async fn adopt(&self, record: MachineRecord) -> Result<Machine, VmmError>;

    /// Kills whatever is left of the machine `name` and removes its control group and its directory `dir`. Does nothing
    /// if there is nothing left.
    async fn reap(&self, name: &str, dir: &Path) -> Result<(), VmmError> {
        clean_up(&self.cgroups().named(name), dir).await;
        Ok(())
    }

    /// Whether a process may live in the control group of the machine `name`: one does, or it cannot be seen.
    fn may_have_processes(&self, name: &str) -> bool {
        self.cgroups().named(name).may_have_processes()
    }

    /// Names (see [`Confinement::name`](crate::Confinement::name)) of all machines of this installation that have a
    /// control group left, and with it perhaps a living process.
    async fn leftovers(&self) -> Result<Vec<String>, VmmError> {
        Ok(self.cgroups().names())
    }
}

/// The driver's part of a living machine. Only [`Machine`] calls it, and passes itself: a driver runs each command to
/// its VMM within [`Machine::while_alive`], so that a VMM that dies meanwhile is reported as dead and not as a broken
/// connection.
#[async_trait]
pub(crate) trait Control: Send + Sync {
    /// Does the work of [`Machine::pause`].
    async fn pause(&self, machine: &Machine) -> Result<(), VmmError>;

    /// Does the work of [`Machine::resume`].
    async fn resume(&self, machine: &Machine) -> Result<(), VmmError>;

    /// Returns the device and CPU state of a paused machine. A failed call changes nothing and can be repeated.
    async fn save_state(&self, machine: &Machine) -> Result<Vec<u8>, VmmError>;

    /// Completes the files of the snapshot of a paused machine that was booted into it.
    async fn write_snapshot(&self, machine: &Machine, snapshot: &Snapshot) -> Result<(), VmmError>;

    /// Identifies the file or memfd that a restored machine's process maps as its RAM.
    fn mapping(&self) -> Result<Mapping, VmmError>;

    /// The machine's overlaid memory. `None` with a driver that injects changes into the process itself (see
    /// [`memory`](crate::memory)).
    fn overlaid_memory(&self, _machine: &Machine) -> Option<OverlaidMemory> {
        None
    }

    /// Does the work of [`Machine::console_tail`].
    async fn console_tail(&self) -> String;
}
