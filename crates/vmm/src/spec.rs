//! The plain data that a driver is given: sizes, images, confinement, networks and snapshots.

use crate::blocking::blocking;
use crate::error::VmmError;
use crate::shape::{MEMORY_MIB, Shape, VCPUS};
use leapbox_errors::FileError;
use leapbox_ids::ImageDigest;
use leapbox_storage::Runs;
use serde::{Deserialize, Serialize};
use std::fs::{File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

impl Shape {
    /// An error unless every driver supports machines of this size.
    pub fn check(self) -> Result<(), VmmError> {
        // The API refuses the same sizes itself, naming the field; this is for every other caller.
        if VCPUS.contains(&self.vcpus) && MEMORY_MIB.contains(&self.memory_mib) && self.memory_mib.is_multiple_of(2) {
            return Ok(());
        }
        Err(VmmError::Shape { shape: self })
    }
}

/// Kernel, initramfs and root file system: read-only files that all machines of a template share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImage {
    /// An ELF vmlinux, not a bzImage.
    pub kernel: PathBuf,
    /// The initramfs with the agent as `/init`.
    pub initramfs: PathBuf,
    /// The template's EROFS image.
    pub rootfs: PathBuf,
    /// A hash over the contents of the three, part of every compatibility key.
    pub digest: ImageDigest,
}

/// The names and the user under which a VMM is confined.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// Names the control group and the jail. Unique among living machines, of `[a-z0-9-]`, at most 60 characters.
    pub name: String,
    /// The VMM's user and group id. No other process may have it, or it could trace the VMM and open its files.
    pub uid: u32,
    /// The machine's own directory. The driver makes it, and [`crate::Machine::destroy`] removes it.
    pub dir: PathBuf,
}

/// The prepared network of one machine. Both taps exist in the namespace and are persistent; the confinement's uid owns
/// them.
#[derive(Debug, Clone)]
pub struct NetworkAttachment {
    /// The network namespace in which the VMM runs.
    pub netns: Arc<OwnedFd>,
    /// The workload's tap (`eth0` in the guest).
    pub workload_tap: String,
    /// The MAC address of the guest's `eth0`. A snapshot keeps it, so it is the same in all machines.
    pub workload_mac: String,
    /// The tap of the guest channel, over which the host reaches the agent.
    pub channel_tap: String,
    /// The MAC address of the guest's end of the channel; as above.
    pub channel_mac: String,
}

/// A machine to boot from its kernel, so as to take a base snapshot of it.
#[derive(Debug)]
pub struct BootSpec {
    pub shape: Shape,
    pub image: GuestImage,
    /// The machine's writable disk, which becomes the snapshot's.
    pub disk: PathBuf,
    pub network: NetworkAttachment,
    pub confinement: Confinement,
    /// An existing directory, which receives the memory and the device state of the snapshot.
    pub snapshot_dir: PathBuf,
}

/// A base snapshot: the memory, device state and disk of a stopped machine, from which any number of clones start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The size of the machine it was taken of.
    pub shape: Shape,
    /// The guest's RAM: a sparse file of `memory_mib` MiB.
    pub memory: PathBuf,
    /// The state of devices and CPUs, in the VMM's own format.
    pub state: PathBuf,
    /// The writable disk as it was at that moment. Every clone gets a copy.
    pub disk: PathBuf,
    /// The driver, build, arguments, image and host it fits; see [`crate::Vmm::compatibility_key`].
    pub compatibility_key: String,
}

impl Snapshot {
    /// An error unless the snapshot's compatibility key is `expected`.
    pub fn check_fits(&self, expected: &str) -> Result<(), VmmError> {
        if self.compatibility_key == expected {
            return Ok(());
        }
        let found = self.compatibility_key.clone();
        Err(VmmError::Incompatible { found, expected: expected.to_owned() })
    }

    /// An error unless the memory file has the length of the machine's memory.
    pub(crate) fn check_memory(&self) -> Result<(), VmmError> {
        // A VMM would notice a truncated file late or not at all: its guest would die (SIGBUS) when it touches a page
        // beyond the file's end. Changed bytes are found by the checksums of the base (`bases`).
        let meta = std::fs::metadata(&self.memory).map_err(FileError::of("reading the size of", &self.memory))?;
        let (found, expected) = (meta.len(), self.shape.memory_bytes());
        if found == expected {
            return Ok(());
        }
        Err(VmmError::MemoryLength { path: self.memory.clone(), found, expected })
    }

    /// Makes the files read-only, root's and durable.
    pub(crate) async fn make_durable(self) -> Result<Self, VmmError> {
        blocking("writing the snapshot to disk", move || self.protect().map(|()| self)).await
    }

    fn protect(&self) -> Result<(), VmmError> {
        for path in [&self.memory, &self.state, &self.disk] {
            // The VMM that was booted owned them, and an owner can change the mode back.
            std::os::unix::fs::chown(path, Some(0), Some(0)).map_err(FileError::of("changing the owner of", path))?;
            let file = File::open(path).map_err(FileError::of("opening", path))?;
            // Readable by all, because jailed VMMs under uids of their own open hard links to them. Nobody else reaches
            // them: the directories above are root's alone.
            file.set_permissions(Permissions::from_mode(0o444)).map_err(FileError::of("making read-only", path))?;
            file.sync_all().map_err(FileError::of("writing to disk", path))?;
        }
        Ok(())
    }
}

/// Limits on a machine's traffic with the host; `None` is no limit. A driver enforces them only if its
/// [`crate::Capabilities::io_limits`] says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoLimits {
    /// Bytes per second of the writable disk, reads and writes together.
    pub disk_bytes_per_s: Option<u64>,
    /// Operations per second of that disk.
    pub disk_ops_per_s: Option<u64>,
    /// Bytes per second of the workload's network, in each direction.
    pub network_bytes_per_s: Option<u64>,
}

/// The largest device state that is accepted, in bytes; a machine with eight CPUs has some 60 KiB. A VMM that its guest
/// has taken over decides its length, and beyond this bound the server would hold it in memory.
pub(crate) const STATE_MAX: u64 = 16 << 20;

/// The difference of a paused machine to its base, the snapshot it was restored from. With the base and a copy of the
/// disk it is all that a restore needs. It is always the whole difference, whatever the machine was restored with.
pub struct DiffSnapshot {
    /// Every page that differs, or may differ, from the base's memory. Those of a living machine are read from its
    /// process while the runs are consumed: it must stay paused until then, and if it dies they end with an error.
    pub memory: Runs,
    /// The complete state of devices and CPUs, at most 16 MiB.
    pub state: Vec<u8>,
}

impl DiffSnapshot {
    /// An error if the state is empty or too large to be a machine's.
    pub(crate) fn check_state(&self) -> Result<(), VmmError> {
        let found = self.state.len() as u64;
        if (1..=STATE_MAX).contains(&found) { Ok(()) } else { Err(VmmError::StateLength { found }) }
    }
}

impl std::fmt::Debug for DiffSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiffSnapshot").field("state", &self.state.len()).finish_non_exhaustive()
    }
}

/// A clone to start.
#[derive(Debug)]
pub struct RestoreSpec {
    /// The base that it starts from.
    pub snapshot: Arc<Snapshot>,
    /// Changes to the base's memory, with the device state of their moment; `None` for a clone of the base itself.
    pub changes: Option<DiffSnapshot>,
    /// The image that the snapshot was booted with.
    pub image: GuestImage,
    /// The clone's own disk: a copy of the snapshot's, or with changes the disk of their moment.
    pub disk: PathBuf,
    /// In force before the guest runs.
    pub limits: IoLimits,
    pub network: NetworkAttachment,
    pub confinement: Confinement,
}
