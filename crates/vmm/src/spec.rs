//! The plain data that goes into a driver: sizes, images, walls, networks, snapshots.

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
    /// An error unless every driver can make a machine of this size.
    pub fn check(self) -> Result<(), VmmError> {
        if VCPUS.contains(&self.vcpus) && MEMORY_MIB.contains(&self.memory_mib) && self.memory_mib.is_multiple_of(2) {
            return Ok(());
        }
        Err(VmmError::Shape { shape: self })
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
    pub digest: ImageDigest,
}

/// Under which identity and limits a VMM runs.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// Names the cgroup and the jail folder; unique among living machines, `[a-z0-9-]`, at most 60 characters.
    pub name: String,
    /// User and group id of the VMM's own; no other process may have it.
    pub uid: u32,
    /// A new folder of the machine's own, made by the driver, gone after [`crate::Machine::destroy`].
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
    pub network: NetworkAttachment,
    /// Its walls.
    pub confinement: Confinement,
    /// Folder that receives the RAM file and, later, the snapshot. Exists.
    pub snapshot_dir: PathBuf,
}

/// A stopped machine's memory, device state and disk, from which any number of clones start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Size of the machine it was taken from.
    pub shape: Shape,
    /// Guest RAM: sparse, `memory_mib` long.
    pub memory: PathBuf,
    /// Device and CPU state.
    pub state: PathBuf,
    /// The writable disk as it was in that moment: clones get a copy each.
    pub disk: PathBuf,
    /// Which driver, build, arguments, kernel and CPU it fits; see [`crate::Vmm::compatibility_key`].
    pub compatibility_key: String,
}

impl Snapshot {
    /// An error unless it was made for what `expected` is the key of.
    pub fn check_fits(&self, expected: &str) -> Result<(), VmmError> {
        if self.compatibility_key == expected {
            return Ok(());
        }
        let found = self.compatibility_key.clone();
        Err(VmmError::Incompatible { found, expected: expected.to_owned() })
    }

    /// An error unless its memory is as long as its machine's. A VMM would notice late, or not at all: its guest would
    /// die when it touches what is missing.
    pub(crate) fn check_memory(&self) -> Result<(), VmmError> {
        let meta = std::fs::metadata(&self.memory).map_err(FileError::of("looking at", &self.memory))?;
        let (found, expected) = (meta.len(), self.shape.memory_bytes());
        if found == expected {
            return Ok(());
        }
        Err(VmmError::MemoryLength { path: self.memory.clone(), found, expected })
    }

    /// Makes it read-only, root's, and durable. World-readable, because VMMs under uids of their own open it; the
    /// folders above are root's alone.
    pub(crate) async fn keep(self) -> Result<Self, VmmError> {
        blocking("writing the snapshot to disk", move || self.protect().map(|()| self)).await
    }

    fn protect(&self) -> Result<(), VmmError> {
        for path in [&self.memory, &self.state, &self.disk] {
            std::os::unix::fs::chown(path, Some(0), Some(0)).map_err(FileError::of("taking back", path))?;
            let file = File::open(path).map_err(FileError::of("opening", path))?;
            file.set_permissions(Permissions::from_mode(0o444)).map_err(FileError::of("protecting", path))?;
            file.sync_all().map_err(FileError::of("writing to disk", path))?;
        }
        Ok(())
    }
}

/// How much a machine may move between itself and the host, each direction on its own; `None` is no limit. What a
/// driver cannot hold a machine to is told by [`crate::Capabilities::io_limits`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoLimits {
    /// Bytes per second of its writable disk, reading and writing together.
    pub disk_bytes_per_s: Option<u64>,
    /// Operations per second of that disk.
    pub disk_ops_per_s: Option<u64>,
    /// Bytes per second of its workload's network, in either direction.
    pub network_bytes_per_s: Option<u64>,
}

/// Largest device and CPU state there is, in bytes. A machine with eight CPUs has some 60 KiB.
pub(crate) const STATE_MAX: u64 = 16 << 20;

/// What a paused machine has become since the snapshot it was restored from, its base: with that, and a copy of its
/// disk, all that it takes to restore it. Always the whole difference to the base, whatever the machine was restored
/// with.
pub struct DiffSnapshot {
    /// Every page that differs, or may differ, from the base's memory. Of a living machine they are read from it while
    /// they are taken: it must stay paused until then, and one that dies makes them end with an error.
    pub memory: Runs,
    /// Device and CPU state, complete: at most 16 MiB.
    pub state: Vec<u8>,
}

impl DiffSnapshot {
    /// An error if its state cannot be a machine's.
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
    /// Where it starts from: its base.
    pub snapshot: Arc<Snapshot>,
    /// What the machine has become since, in memory and devices; `None` is nothing. Its disk is `disk`.
    pub changes: Option<DiffSnapshot>,
    /// The same image the snapshot was booted with.
    pub image: GuestImage,
    /// A copy of the snapshot's disk, or of that of the moment of the changes; the clone's own.
    pub disk: PathBuf,
    /// How much it may move; applied before its guest runs.
    pub limits: IoLimits,
    pub network: NetworkAttachment,
    /// Its walls.
    pub confinement: Confinement,
}
