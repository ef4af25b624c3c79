//! A clone started as one would start it by hand: the same program, arguments and snapshot, and nothing around the
//! process: no jail, no walls, no control group. `leapbox-bench` measures what a restore costs beside it, and the
//! conformance suite holds that such a clone runs and ends like any other.
//!
//! It is never for a sandbox, and therefore no part of the [`Vmm`] trait: the product holds its driver as a `dyn Vmm`
//! and has no way to come here.

use crate::driver::Vmm;
use crate::error::VmmError;
use crate::firecracker::Firecracker;
use crate::machine::Machine;
use crate::qemu::{Qemu, Walls};
use crate::spec::RestoreSpec;

/// A driver whose clones are started without walls.
pub enum Floor {
    /// Firecracker, without its jailer.
    Firecracker(Firecracker),
    /// QEMU, without [`crate::confine`].
    Qemu(Qemu),
}

impl Floor {
    /// The driver, for everything else that is asked of it.
    pub fn vmm(&self) -> &dyn Vmm {
        match self {
            Floor::Firecracker(driver) => driver,
            Floor::Qemu(driver) => driver,
        }
    }

    /// What [`Vmm::restore`] does, without any walls.
    pub async fn restore(&self, spec: RestoreSpec) -> Result<Machine, VmmError> {
        match self {
            Floor::Firecracker(driver) => driver.restore_unconfined(spec).await,
            Floor::Qemu(driver) => driver.restore_within(spec, Walls::None).await,
        }
    }
}
