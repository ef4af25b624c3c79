//! The record by which a restarted server finds a living VMM again.

use crate::error::VmmError;
use crate::process::{Process, host_boot_id};
use crate::shape::Shape;
use crate::spec::Confinement;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The record by which a restarted server finds a living VMM again. The database stores it in the sandbox's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// The name of the driver that started it; no other driver may adopt it.
    pub driver: String,
    /// Process id of the VMM in the host's pid namespace.
    pub pid: i32,
    /// The process's start in clock ticks since the host's boot. It tells the process from a later one of the same pid.
    pub start_ticks: u64,
    /// The host's boot id. No process of a record from another boot is alive.
    pub host_boot_id: String,
    pub shape: Shape,
    /// [`Confinement::name`]: of the control group and the jail.
    pub name: String,
    /// [`Confinement::uid`], under which the VMM runs.
    pub uid: u32,
    /// [`Confinement::dir`], where its control socket is.
    pub dir: PathBuf,
}

impl MachineRecord {
    /// Makes the record of a process that `driver` has just started.
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

    /// Whether the recorded process is still alive, whichever driver started it.
    pub fn is_alive(&self) -> bool {
        let this_boot = host_boot_id().is_ok_and(|id| id == self.host_boot_id);
        this_boot && Process::open_recorded(self.pid, self.start_ticks).is_ok()
    }

    /// Opens the recorded process; an error if it has ended or another driver started it.
    pub(crate) fn process(&self, driver: &'static str, host_boot_id: &str) -> Result<Process, VmmError> {
        if self.driver != driver {
            return Err(VmmError::OtherDriver { recorded: self.driver.clone(), own: driver });
        }
        // Start times count from the boot, so after a reboot an unrelated process can have the same pid and ticks.
        if self.host_boot_id != host_boot_id {
            return Err(VmmError::NotAlive { pid: self.pid });
        }
        Process::open_recorded(self.pid, self.start_ticks)
    }
}
