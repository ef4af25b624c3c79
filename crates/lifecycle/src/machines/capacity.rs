//! Accounts for the host's capacity: a machine is admitted or refused before anything is made for it. Called by `host`
//! and `pool`.

use crate::config::CapacityLimits;
use crate::error::LifecycleError;
use leapbox_errors::chain;
use leapbox_storage::free_mib;
use leapbox_vmm::Shape;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Memory of the host that must stay available, in MiB. Guests may be promised more memory than the host has; below
/// this no machine is added, because the kernel's OOM killer could choose any VMM, or this server.
const AVAILABLE_RESERVE_MIB: u64 = 512;
/// Disk that must stay free, in MiB. Running sandboxes write to sparse disks, and fail with I/O errors when there is no
/// space; pauses and wakes are refused before that.
pub(super) const DISK_RESERVE_MIB: u64 = 1024;

/// The capacity in use.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    machines: u32,
    memory_mib: u64,
    /// Disk space reserved for files that are being written.
    writing_mib: u64,
}

/// The host's capacity. Cheap to clone; clones share the account.
#[derive(Debug, Clone)]
pub(crate) struct Capacity {
    limits: CapacityLimits,
    disk_dir: PathBuf,
    taken: Arc<Mutex<Taken>>,
}

/// One machine's share of the capacity: one of the machines and the memory that it was promised. Dropping it frees
/// both.
#[derive(Debug)]
pub(crate) struct CapacityShare {
    taken: Arc<Mutex<Taken>>,
    memory_mib: u64,
}

/// Disk space for a file that is being written. It is counted until this is dropped; by then the file system shows the
/// space as used.
#[derive(Debug)]
pub(crate) struct DiskReservation {
    taken: Arc<Mutex<Taken>>,
    mib: u64,
}

impl Drop for DiskReservation {
    fn drop(&mut self) {
        self.taken.lock().writing_mib -= self.mib;
    }
}

impl Capacity {
    pub fn new(limits: CapacityLimits, disk_dir: &Path) -> Self {
        Self { limits, disk_dir: disk_dir.to_path_buf(), taken: Arc::default() }
    }

    /// Takes a share for one more machine. [`LifecycleError::HostFull`] names the resource that is short.
    pub fn admit(&self, shape: Shape) -> Result<CapacityShare, LifecycleError> {
        // What the host really has is checked beside what was promised: other programs run on it as well.
        let full = |missing| LifecycleError::HostFull { missing };
        if let Some(available) = available_memory_mib().filter(|mib| *mib < AVAILABLE_RESERVE_MIB) {
            return Err(full(format!(
                "{available} MiB of memory are available, {AVAILABLE_RESERVE_MIB} are kept free"
            )));
        }
        drop(self.reserve_disk(0)?);
        let mut taken = self.taken.lock();
        let memory_mib = u64::from(shape.memory_mib);
        if taken.machines >= self.limits.sandboxes {
            return Err(full(format!("it runs {} sandboxes already, which is its limit", self.limits.sandboxes)));
        }
        if taken.memory_mib + memory_mib > self.limits.memory_mib {
            let left = self.limits.memory_mib.saturating_sub(taken.memory_mib);
            return Err(full(format!("it has {left} MiB of memory left to promise, not {memory_mib}")));
        }
        Ok(self.take(&mut taken, memory_mib))
    }

    /// Reserves `mib` of disk for a file that is about to be written; with 0, only checks that the reserve is free.
    pub fn reserve_disk(&self, mib: u64) -> Result<DiskReservation, LifecycleError> {
        // Under the lock, so that two who see the same free space cannot both take it.
        let mut taken = self.taken.lock();
        match free_mib(&self.disk_dir) {
            Ok(free) if free < DISK_RESERVE_MIB + taken.writing_mib + mib => {
                let missing =
                    format!("{free} MiB of disk are free, {DISK_RESERVE_MIB} are kept free, {mib} are needed");
                return Err(LifecycleError::HostFull { missing });
            }
            Ok(_) => {}
            // No reason to refuse: a write that finds no space fails cleanly, while refusing would stop the service.
            Err(error) => tracing::warn!(error = %chain(&error), "the free disk space could not be read"),
        }
        taken.writing_mib += mib;
        Ok(DiskReservation { taken: Arc::clone(&self.taken), mib })
    }

    /// Whether a machine of this shape would be within the memory limit if `freed_mib` were freed.
    pub fn would_fit(&self, shape: Shape, freed_mib: u64) -> bool {
        let taken = self.taken.lock();
        taken.memory_mib.saturating_sub(freed_mib) + u64::from(shape.memory_mib) <= self.limits.memory_mib
    }

    /// Takes a share for an adopted machine, also beyond the limits.
    pub fn adopt(&self, shape: Shape) -> CapacityShare {
        // The machine runs already. Limits that were lowered before the restart must not end it.
        let mut taken = self.taken.lock();
        self.take(&mut taken, u64::from(shape.memory_mib))
    }

    fn take(&self, taken: &mut Taken, memory_mib: u64) -> CapacityShare {
        taken.machines += 1;
        taken.memory_mib += memory_mib;
        CapacityShare { taken: Arc::clone(&self.taken), memory_mib }
    }
}

impl Drop for CapacityShare {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.machines -= 1;
        taken.memory_mib -= self.memory_mib;
    }
}

/// `MemAvailable` of /proc/meminfo (proc(5)), in MiB; `None` if it cannot be read.
fn available_memory_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { vcpus: 1, memory_mib: 1024 };

    #[test]
    fn a_full_host_says_what_is_missing_and_takes_again_when_one_has_gone() {
        let capacity = Capacity::new(CapacityLimits { sandboxes: 2, memory_mib: 1 << 20 }, Path::new("/"));
        let first = capacity.admit(SHAPE).expect("room for two");
        let _second = capacity.admit(SHAPE).expect("room for two");
        let error = capacity.admit(SHAPE).expect_err("full").to_string();
        assert!(error.contains("it runs 2 sandboxes already"), "{error}");
        drop(first);
        assert!(capacity.admit(SHAPE).is_ok());
    }

    #[test]
    fn promised_memory_is_bounded() {
        let capacity = Capacity::new(CapacityLimits { sandboxes: 100, memory_mib: 1500 }, Path::new("/"));
        let _first = capacity.admit(SHAPE).expect("fits");
        let error = capacity.admit(SHAPE).expect_err("does not fit").to_string();
        assert!(error.contains("476 MiB of memory left"), "{error}");
    }

    #[test]
    fn what_lives_already_is_counted_even_beyond_the_limit() {
        let capacity = Capacity::new(CapacityLimits { sandboxes: 1, memory_mib: 1024 }, Path::new("/"));
        let _first = capacity.adopt(SHAPE);
        let _second = capacity.adopt(SHAPE);
        assert!(capacity.admit(SHAPE).is_err());
    }
}
