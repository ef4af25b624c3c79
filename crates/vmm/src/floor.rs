//! Starts a clone as one would by hand: the same program, arguments and snapshot, but no jail, no confinement and no
//! control group around the process. `leapbox-bench` compares a restore with it (the *floor* of SPECIFICATION.md), and
//! the conformance suite tests that such a clone runs and ends like any other.
//!
//! It must never run a sandbox. It is therefore no part of the [`Vmm`] trait: the server holds its driver as a
//! `dyn Vmm` and cannot call it.

use crate::driver::Vmm;
use crate::error::VmmError;
use crate::firecracker::Firecracker;
use crate::machine::Machine;
use crate::qemu::{ProcessConfinement, Qemu};
use crate::spec::RestoreSpec;

/// A driver whose [`Floor::restore`] starts clones without confinement.
pub enum Floor {
    /// Firecracker, started without its jailer.
    Firecracker(Firecracker),
    /// QEMU, started without [`crate::confine`].
    Qemu(Qemu),
}

impl Floor {
    /// The driver itself, for every operation but this restore.
    pub fn vmm(&self) -> &dyn Vmm {
        match self {
            Floor::Firecracker(driver) => driver,
            Floor::Qemu(driver) => driver,
        }
    }

    /// Restores as [`Vmm::restore`] does, but runs the VMM as root with nothing around it.
    pub async fn restore(&self, spec: RestoreSpec) -> Result<Machine, VmmError> {
        match self {
            Floor::Firecracker(driver) => driver.restore_unconfined(spec).await,
            Floor::Qemu(driver) => driver.restore_within(spec, ProcessConfinement::None).await,
        }
    }
}
